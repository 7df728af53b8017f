"""Figures by Plotly, with the same numbers as a table for whoever cannot see the picture.

The page draws them in the browser; in a notebook, `Figure.plot` shows itself. Every line differs in colour and in dash;
the colours are those of Okabe and Ito (Color Universal Design, 2008), darkened or lightened where needed for a contrast
with the page of at least 3:1.
"""

import html
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handful.base.errors import HandfulError
from handful.report.tables import Grid
from handful.report.words import say_number, say_share

if TYPE_CHECKING:
    import plotly.graph_objects as go

PALETTE = [  # by day, by night
    ("#0072b2", "#56b4e9"),
    ("#c44e00", "#ff9a4d"),
    ("#007a5a", "#2fc79c"),
    ("#a84a86", "#e59bc6"),
    ("#7a5c00", "#e3c04b"),
    ("#5b6470", "#a9b3c0"),
]
DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"]
LINE_POINTS = 2000  # a line never has more points than this on a page
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """One line: y [n] over x [n], or over several x to choose from (name -> [n]; the first is shown at first).

    points: mark every point; steps: hold each value until the next (for batch sizes); smooth [n]: what is drawn in its
    place, with y faint behind. Where y is not finite the line has a gap, marked by a cross.
    """

    name: str
    x: ArrayLike | Mapping[str, ArrayLike]
    y: ArrayLike
    points: bool = False
    steps: bool = False
    smooth: Floats | None = None


@dataclass(frozen=True)
class Band:
    """An interval low [n] .. high [n] over x [n], shaded in the colour of line number `line`."""

    name: str
    x: ArrayLike
    low: ArrayLike
    high: ArrayLike
    line: int = 0


@dataclass(frozen=True)
class Marker:
    """One point with a word next to it, such as "best"; x as in Line, with one value each."""

    text: str
    x: float | Mapping[str, float]
    y: float


def thin(y: ArrayLike, limit: int = LINE_POINTS) -> NDArray[np.int64]:
    """Indices of at most `limit` + 2 points of y [n] that keep its look: the first, the last, and of every
    stretch the lowest, the highest and the first that is not finite.

    >>> kept = thin(np.r_[np.zeros(50_000), 9.0, np.zeros(50_000)])
    >>> len(kept) <= 2002, 50_000 in kept
    (True, True)
    """
    values = numbers(y)
    n = len(values)
    if n <= limit:
        return np.arange(n, dtype=np.int64)
    bad = ~np.isfinite(values)
    width = math.ceil(n / max(1, limit // (3 if bad.any() else 2)))
    starts = np.arange(0, n, width)

    def stretches(of: NDArray[np.generic], beyond: float) -> NDArray[np.generic]:
        return np.pad(of, (0, -n % width), constant_values=beyond).reshape(-1, width)

    low, high = stretches(np.where(bad, np.inf, values), np.inf), stretches(np.where(bad, -np.inf, values), -np.inf)
    first_bad = stretches(bad, False)
    kept = [starts + low.argmin(1), starts + high.argmax(1), (starts + first_bad.argmax(1))[first_bad.any(1)]]
    chosen = np.unique(np.concatenate([*kept, [0, n - 1]]))
    return chosen[chosen < n].astype(np.int64)


@dataclass
class Thinned:
    """A line as drawn: xs [m] by name, y [m] and smooth [m] at the kept points only; shown [m]: which of them can be
    drawn."""

    line: Line
    xs: dict[str, Floats]
    y: Floats
    shown: NDArray[np.bool_]
    smooth: Floats | None = None

    def words(self, percent: bool) -> str:
        """The course of the line in a sentence."""
        y, say = self.y[self.shown], say_share if percent else say_number
        if not len(y):
            return f"{self.line.name}: no finite value."
        return f"{self.line.name} from {say(y[0])} to {say(y[-1])}, lowest {say(y.min())}, highest {say(y.max())}."


def numbers(values: ArrayLike) -> Floats:
    """float64 [n]."""
    return np.atleast_1d(np.asarray(values, dtype=np.float64))


def _by_name(x: ArrayLike | Mapping[str, ArrayLike], label: str) -> dict[str, Floats]:
    named = x if isinstance(x, Mapping) else {label: x}
    return {name: numbers(values) for name, values in named.items()}


def thinned_line(line: Line, x_label: str, log_y: bool, notes: list[str]) -> Thinned:
    """The points of a line that are drawn; what a reader must know of the others is added to `notes`."""
    y, xs = numbers(line.y), _by_name(line.x, x_label)
    for name, values in xs.items():
        if len(values) != len(y):
            raise HandfulError(
                f"line '{line.name}' has {len(y)} values but {len(values)} positions on the x axis '{name}': "
                "give one for each"
            )
    bad = ~np.isfinite(y)
    if bad.any():
        first = int(bad.argmax())
        name, values = next(iter(xs.items()))
        notes.append(
            f"{line.name}: not finite at {int(bad.sum()):,} of {len(y):,} points, first "
            f"{say_number(y[first])} at {say_number(values[first])} {name}; crosses mark them."
        )
    if log_y and (y <= 0).any():
        count = int((y <= 0).sum())
        notes.append(f"{line.name}: {count:,} values of zero or less are not shown on the log axis.")
    kept = thin(y)
    if len(kept) < len(y):
        notes.append(f"{line.name}: {len(kept):,} of {len(y):,} points are drawn, extremes kept.")
    y = y[kept]
    shown = np.isfinite(y) & ((y > 0) | (not log_y))
    smooth = None if line.smooth is None else line.smooth[kept]
    return Thinned(line, {name: values[kept] for name, values in xs.items()}, y, shown, smooth)


def as_json(values: Floats) -> list[float | None]:
    """Seven significant digits, None for what is not finite: a page stays small and its JSON valid."""
    return [float(f"{v:.7g}") if math.isfinite(v) else None for v in values.tolist()]


def _over(xs: Mapping[str, Floats]) -> dict[str, object]:
    """The x of a trace, and where there are several, all of them as its `meta`."""
    lists = {name: as_json(values) for name, values in xs.items()}
    return {"x": next(iter(lists.values())), "meta": lists if len(lists) > 1 else None}


def _hover(percent: bool) -> str:
    return "%{y:.2%}" if percent else "%{y:.4~g}"


def add_line(plot: "go.Figure", data: Thinned, i: int, percent: bool) -> None:
    """Line number i and, where values are not finite, crosses at the height of the value before."""
    colour, name, y, shown = PALETTE[i % len(PALETTE)][0], html.escape(data.line.name), data.y, data.shown
    lonely = shown & ~np.r_[shown[1:], False] & ~np.r_[False, shown[:-1]]
    points = data.line.points and len(y) <= 200
    if data.smooth is not None:
        faint = {"color": colour, "width": 1}
        plot.add_scatter(**_over(data.xs), y=as_json(np.where(shown, y, np.nan)), mode="lines", opacity=0.3,
                         line=faint, showlegend=False, hoverinfo="skip", connectgaps=False)  # fmt: skip
        name, y = f"{name}, smoothed", data.smooth
    plot.add_scatter(
        **_over(data.xs),
        y=as_json(np.where(shown, y, np.nan)),
        mode="lines+markers" if points or lonely.any() else "lines",
        name=name,
        line={"color": colour, "dash": DASHES[i % len(DASHES)], "width": 2 if len(y) <= 400 else 1.3},
        line_shape="hv" if data.line.steps else None,
        marker={"color": colour, "size": 6 if points else np.where(lonely, 6, 0).tolist()},
        connectgaps=False,
        hovertemplate=f"{_hover(percent)}<extra>{name}</extra>",
    )
    bad, finite = np.flatnonzero(~np.isfinite(y)), np.flatnonzero(shown)
    if len(bad):
        before = np.clip(np.searchsorted(finite, bad) - 1, 0, None)
        plot.add_scatter(
            **_over({label: values[bad] for label, values in data.xs.items()}),
            y=as_json(y[finite[before]] if len(finite) else np.ones(len(bad))),
            mode="markers",
            name=f"{name}: not finite",
            text=[say_number(v) for v in y[bad].tolist()],
            marker={"color": colour, "symbol": "x", "size": 7},
            hovertemplate=f"%{{text}}<extra>{name}</extra>",
        )


def add_band(plot: "go.Figure", band: Band) -> None:
    """The lower edge and, filled down to it, the upper one. HandfulError where the lengths differ."""
    x, low, high = numbers(band.x), numbers(band.low), numbers(band.high)
    if not len(x) == len(low) == len(high):
        raise HandfulError(
            f"band '{band.name}' has {len(x)} positions, {len(low)} lows and {len(high)} highs: "
            "give one of each at every position"
        )
    kept = np.union1d(thin(low), thin(high))
    red, green, blue = bytes.fromhex(PALETTE[band.line % len(PALETTE)][0][1:])
    edge = {"x": as_json(x[kept]), "mode": "lines", "hoverinfo": "skip", "line_width": 0}
    plot.add_scatter(**edge, y=as_json(low[kept]), showlegend=False)
    plot.add_scatter(
        **edge, y=as_json(high[kept]), name=html.escape(band.name), legendrank=1001,
        fill="tonexty", fillcolor=f"rgba({red},{green},{blue},0.2)",
    )  # fmt: skip


def add_markers(plot: "go.Figure", markers: Sequence[Marker], percent: bool) -> None:
    """A ring at each point; its word stands in the legend where there is one, for next to it are curves."""
    named = bool(plot.layout.showlegend)
    for marker in markers:
        text = html.escape(marker.text)
        plot.add_scatter(
            **_over(_by_name(marker.x, "")),
            y=as_json(numbers(marker.y)),
            mode="markers" if named else "markers+text",
            name=text,
            text=[text],
            textposition="top center",
            cliponaxis=False,
            showlegend=named,
            marker={"symbol": "circle-open", "size": 13, "color": PALETTE[5][0], "line": {"width": 2}},
            hovertemplate=f"{_hover(percent)}<extra>{text}</extra>",
        )


TABLE_ROWS = 100


@dataclass(frozen=True, eq=False)
class Figure:
    """A picture and its numbers.

    plot: the traces; where there are several x to choose from, a trace's `meta` holds them by name; table: the numbers;
    summary: the picture in words; notes: what the reader must know (what was thinned out, what is missing); shown:
    which part of all rows the table shows; wide, tall: its shape on the page.
    """

    title: str
    plot: "go.Figure"
    table: Grid
    summary: str
    notes: list[str] = field(default_factory=list)
    wide: bool = False
    tall: bool = False
    shown: str = ""

    @property
    def axes(self) -> list[str]:
        """Names of the x to choose from."""
        return list(dict.fromkeys(name for trace in self.plot.data for name in trace.meta or ()))

    @property
    def spec(self) -> dict[str, list[dict[str, object]]]:
        """Plotly's "data" and "layout", and "xs": for each trace the x to choose from by name."""
        spec = self.plot.to_plotly_json()
        return {**spec, "xs": [trace.pop("meta", {}) for trace in spec["data"]]}


def blank(x_label: str, y_label: str, **layout: object) -> "go.Figure":
    """An empty figure with labelled axes, further options of Plotly's layout as given."""
    import plotly.graph_objects as go

    own = {"showlegend": False, "margin": {"l": 8, "r": 12, "t": 28, "b": 8}, **layout}
    for name, label in (("xaxis", x_label), ("yaxis", y_label)):
        own[name] = {"title": {"text": html.escape(label)}, "automargin": True, "zeroline": False}
    # An empty template: to copy Plotly's own, and leave it out again, took nine tenths of the time.
    plot = go.Figure(layout={"template": go.layout.Template(), **own})
    plot.layout.template = None
    return plot


def figure_lines(
    title: str, x_label: str, y_label: str, lines: Sequence[Line], log_x: bool = False, log_y: bool = False, *,
    bands: Sequence[Band] = (), markers: Sequence[Marker] = (), percent: bool = False, from_zero: bool = False,
    wide: bool = False,
) -> Figure:  # fmt: skip
    """Lines over one x, or over several x to choose from; see Line, Band, Marker.

    log_x, log_y: logarithmic axes, on which a y that is not positive is a gap; percent: y is a share of 1;
    from_zero: the y axis starts at zero. Lines of more than 2,000 points are thinned, keeping extremes, and
    `notes` says so. Raises HandfulError when a line's x and y differ in length.

    >>> figure_lines("Loss", "step", "loss", [Line("train", [1, 2, 3], [2.0, 1.0, 0.5])]).table.rows
    [[1.0, 2.0], [2.0, 1.0], [3.0, 0.5]]
    """
    notes: list[str] = []
    thinned = [thinned_line(line, x_label, log_y, notes) for line in lines]
    labels = list(dict.fromkeys(name for data in thinned for name in data.xs)) or [x_label]
    plot = blank(labels[0], y_label, hovermode="x unified")
    for band in bands:
        add_band(plot, band)
    for i, data in enumerate(thinned):
        add_line(plot, data, i, percent)
    if len(plot.data) > 1:
        legend = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "traceorder": "normal"}
        plot.update_layout(showlegend=True, legend=legend, margin_t=36)
    add_markers(plot, markers, percent)
    every_x = [values for data in thinned for values in data.xs.values()]
    every_y = [*(data.y for data in thinned), *(numbers(band.low) for band in bands)]
    plot.update_xaxes(nticks=8, **(_log_scale(every_x) if log_x else {"type": "linear"}))
    plot.update_yaxes(**(_log_scale(every_y) if log_y else {"type": "linear"}))
    if percent:
        plot.update_yaxes(tickformat=".1~%")
    if from_zero and not log_y:
        plot.update_yaxes(rangemode="tozero")
    rows, shown = _table(thinned, labels), ""
    if len(rows) > TABLE_ROWS:
        shown = f" ({TABLE_ROWS} of {len(rows):,} points)"
        rows = _fullest(rows, TABLE_ROWS)
    summary = " ".join([f"{title}: line chart.", *(data.words(percent) for data in thinned)])
    return Figure(title, plot, Grid([*labels, *(line.name for line in lines)], rows), summary, notes, wide, shown=shown)


def _log_scale(values: Sequence[Floats]) -> dict[str, object]:
    """A logarithmic axis, its ticks at 1, 2, 5 or at powers of ten, or Plotly's own, as the values span."""
    joined = np.concatenate([np.empty(0), *values])
    positive = joined[np.isfinite(joined) & (joined > 0)]
    low, high = (positive.min(), positive.max()) if len(positive) else (1.0, 1.0)
    own = high >= 1e9 * low or low < high < 5 * low  # of so little, 1, 2, 5 may have none
    ticks = {} if own else {"dtick": "D2" if high < 1e3 * low else 1}
    return {"type": "log", "tickformat": "~s" if low >= 1 and high < 1e9 else "~g", **ticks}  # no 10Y for 1e25


def _table(lines: list[Thinned], labels: list[str]) -> list[list[float | None]]:
    """One row for every x that any line has, in order: the x values, then each line's y, None where absent."""
    merged: dict[float, list[float | None]] = {}
    for j, line in enumerate(lines):
        main = line.xs.get(labels[0], next(iter(line.xs.values())))
        for k, key in enumerate(main.tolist()):
            row = merged.setdefault(key, [None] * (len(labels) + len(lines)))
            for c, label in enumerate(labels):
                if label in line.xs:
                    row[c] = float(line.xs[label][k])
            row[len(labels) + j] = float(line.y[k])
    return [merged[key] for key in sorted(merged, key=lambda v: (math.isnan(v), v))]


def _fullest(rows: list[list[float | None]], limit: int) -> list[list[float | None]]:
    """`limit` rows: of each stretch the one with the fewest empty cells, the last of several."""
    edges = np.linspace(0, len(rows), limit + 1).astype(int).tolist()
    stretches = [rows[a:b] for a, b in itertools.pairwise(edges)]
    return [min(reversed(stretch), key=lambda row: row.count(None)) for stretch in stretches]
