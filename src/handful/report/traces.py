"""Lines, bands and markers drawn into a Plotly figure: thinned, gaps marked, each line with a colour and a dash."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handful.base.errors import HandfulError
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
