"""Figures as plain Plotly descriptions, with the same numbers as a table for whoever cannot see the picture.

A Figure is data, not a picture: `document.Page` draws it in the browser,
`plotly.graph_objects.Figure(figure.spec)` in a notebook. Every line differs in colour and in dash; the
colours are those of Okabe and Ito (Color Universal Design, 2008), darkened or lightened where needed for a
contrast with the page of at least 3:1.
"""

import html
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handful.errors import HandfulError
from handful.report.words import say_count, say_number, say_share

# (on a light page, on a dark page): blue, vermilion, green, purple, brown, grey
PALETTE = [
    ("#0072b2", "#56b4e9"),
    ("#c44e00", "#ff9a4d"),
    ("#007a5a", "#2fc79c"),
    ("#a84a86", "#e59bc6"),
    ("#7a5c00", "#e3c04b"),
    ("#5b6470", "#a9b3c0"),
]
DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"]
SCALE = [[0.0, "#f4f7fb"], [0.5, "#6baed6"], [1.0, "#08427d"]]  # a dark page reverses its ends, in page.js
LINE_POINTS = 2000  # a line never has more points than this on a page
TABLE_ROWS = 100
MATRIX_CLASSES = 60

X = ArrayLike | Mapping[str, ArrayLike]


@dataclass(frozen=True)
class Line:
    """One line: y [n] over x [n], or over several x to choose from (name -> [n]; the first is shown at
    first).

    points: mark every point; steps: hold each value until the next (for batch sizes). Where y is not finite
    the line has a gap, marked by a cross.
    """

    name: str
    x: X
    y: ArrayLike
    points: bool = False
    steps: bool = False


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
    """One point with a word beside it, such as "best"; x as in Line, with one value each."""

    text: str
    x: float | Mapping[str, float]
    y: float


@dataclass(frozen=True)
class Figure:
    """A picture: Plotly's `spec` ({"data", "layout"}), other x to choose from, and its numbers as a table.

    xs: for each trace, name of the choice -> x values (empty where there is nothing to choose); columns,
    rows: the table; shown: which part of all rows it shows; notes: what the reader must know (what was
    thinned out, what is missing); summary: the picture in words; wide, tall: its shape on the page.
    """

    title: str
    spec: dict[str, Any]
    columns: list[str]
    rows: list[list[Any]]
    summary: str
    notes: list[str] = field(default_factory=list)
    xs: list[dict[str, list[float | None]]] = field(default_factory=list)
    wide: bool = False
    tall: bool = False
    shown: str = ""


def thin(y: ArrayLike, limit: int = LINE_POINTS) -> NDArray[np.int64]:
    """Indices of at most `limit` + 2 points of y [n] that keep its look: the first, the last, and of every
    stretch the lowest, the highest and the first that is not finite.

    >>> kept = thin(np.r_[np.zeros(50_000), 9.0, np.zeros(50_000)])
    >>> len(kept) <= 2002, 50_000 in kept
    (True, True)
    """
    values = np.asarray(y, dtype=np.float64)
    n = len(values)
    if n <= limit:
        return np.arange(n, dtype=np.int64)
    bad = ~np.isfinite(values)
    width = math.ceil(n / max(1, limit // (3 if bad.any() else 2)))
    pad = -n % width
    starts = np.arange(0, n, width)
    low = np.pad(np.where(bad, np.inf, values), (0, pad), constant_values=np.inf).reshape(-1, width)
    high = np.pad(np.where(bad, -np.inf, values), (0, pad), constant_values=-np.inf).reshape(-1, width)
    first_bad = np.pad(bad, (0, pad)).reshape(-1, width)
    kept = [starts + low.argmin(1), starts + high.argmax(1), (starts + first_bad.argmax(1))[first_bad.any(1)]]
    chosen = np.unique(np.concatenate([*kept, [0, n - 1]]))
    return chosen[chosen < n].astype(np.int64)


def figure_lines(
    title: str,
    x_label: str,
    y_label: str,
    lines: Sequence[Line],
    log_x: bool = False,
    log_y: bool = False,
    *,
    bands: Sequence[Band] = (),
    markers: Sequence[Marker] = (),
    percent: bool = False,
    from_zero: bool = False,
    wide: bool = False,
) -> Figure:
    """Lines over one x, or over several x to choose from; see Line, Band, Marker.

    log_x, log_y: logarithmic axes, on which a y that is not positive is a gap; percent: y is a share of 1;
    from_zero: the y axis starts at zero. Lines of more than 2,000 points are thinned, keeping extremes, and
    `notes` says so. Raises HandfulError when a line's x and y differ in length.

    >>> figure_lines("Loss", "step", "loss", [Line("train", [1, 2, 3], [2.0, 1.0, 0.5])]).rows
    [[1.0, 2.0], [2.0, 1.0], [3.0, 0.5]]
    """
    traces: list[dict[str, Any]] = []
    xs: list[dict[str, list[float | None]]] = []
    notes: list[str] = []
    thinned: list[_Thinned] = []
    for band in bands:
        traces += _band_traces(band)
        xs += [{}, {}]
    for i, line in enumerate(lines):
        data = _thinned(line, x_label, log_y, notes)
        thinned.append(data)
        for trace, choice in _line_traces(line, data, i, percent):
            traces.append(trace)
            xs.append(choice if isinstance(line.x, Mapping) else {})
    for marker in markers:
        trace, choice = _marker_trace(marker, percent)
        traces.append(trace)
        xs.append(choice)
    labels = list(dict.fromkeys(name for data in thinned for name in data.xs)) or [x_label]
    every_x = np.concatenate([np.empty(0), *(values for data in thinned for values in data.xs.values())])
    every_y = np.concatenate([np.empty(0), *(d.y for d in thinned), *(_numbers(b.low) for b in bands)])
    scales = _scale(every_x if log_x else None), _scale(every_y if log_y else None)
    legend = len(traces) - len(markers) > 1
    layout = _layout((labels[0], y_label), scales, percent, from_zero, legend)
    rows = _table(thinned, labels)
    columns = [*labels, *(line.name for line in lines)]
    shown = ""
    if len(rows) > TABLE_ROWS:
        shown = f" ({TABLE_ROWS} of {len(rows):,} points)"
        rows = _fullest(rows, TABLE_ROWS)
    summary = f"{title}: line chart. " + " ".join(d.words(percent) for d in thinned)
    spec = {"data": traces, "layout": layout}
    return Figure(title, spec, columns, rows, summary.strip(), notes, xs, wide, shown=shown)


@dataclass
class _Thinned:
    """A line as drawn: the kept points only."""

    name: str
    xs: dict[str, NDArray[np.float64]]
    y: NDArray[np.float64]
    shown: NDArray[np.bool_]

    def words(self, percent: bool) -> str:
        y = self.y[self.shown]
        if not len(y):
            return f"{self.name}: no finite value."
        say = say_share if percent else say_number
        return f"{self.name} from {say(y[0])} to {say(y[-1])}, lowest {say(y.min())}, highest {say(y.max())}."


def _numbers(values: ArrayLike) -> NDArray[np.float64]:
    return np.atleast_1d(np.asarray(values, dtype=np.float64))


def _thinned(line: Line, x_label: str, log_y: bool, notes: list[str]) -> _Thinned:
    y = _numbers(line.y)
    named = line.x if isinstance(line.x, Mapping) else {x_label: line.x}
    xs = {name: _numbers(values) for name, values in named.items()}
    for name, values in xs.items():
        if len(values) != len(y):
            raise HandfulError(
                f"Line '{line.name}' has {len(y)} values but {len(values)} positions on the x axis '{name}': "
                "give one for each."
            )
    bad = ~np.isfinite(y)
    if bad.any():
        first = int(bad.argmax())
        name, values = next(iter(xs.items()))
        where = f"{say_number(values[first])} {name}"
        notes.append(
            f"{line.name}: not finite at {int(bad.sum()):,} of {len(y):,} points, first "
            f"{say_number(y[first])} at {where}; crosses mark them."
        )
    if log_y and (y <= 0).any():
        count = int((y <= 0).sum())
        notes.append(f"{line.name}: {count:,} values of zero or less are not shown on the log axis.")
    kept = thin(y)
    if len(kept) < len(y):
        notes.append(f"{line.name}: {len(kept):,} of {len(y):,} points are drawn, extremes kept.")
    y = y[kept]
    shown = np.isfinite(y) & ((y > 0) | (not log_y))
    return _Thinned(line.name, {name: values[kept] for name, values in xs.items()}, y, shown)


def _json(values: NDArray[np.float64]) -> list[float | None]:
    """Six significant digits, None for what is not finite: a page stays small and its JSON valid."""
    return [float(f"{v:.7g}") if math.isfinite(v) else None for v in values.tolist()]


def _hover(percent: bool) -> str:
    return "%{y:.2%}" if percent else "%{y:.4~g}"


def _line_traces(
    line: Line, data: _Thinned, i: int, percent: bool
) -> list[tuple[dict[str, Any], dict[str, list[float | None]]]]:
    """The line itself and, where values are not finite, crosses at the height of the value before."""
    colour, dash = PALETTE[i % len(PALETTE)][0], DASHES[i % len(DASHES)]
    name = html.escape(line.name)
    xs = {label: _json(values) for label, values in data.xs.items()}
    y = np.where(data.shown, data.y, np.nan)
    lonely = data.shown & ~np.r_[data.shown[1:], False] & ~np.r_[False, data.shown[:-1]]
    points = line.points and len(y) <= 200
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines+markers" if points or lonely.any() else "lines",
        "name": name,
        "x": next(iter(xs.values())),
        "y": _json(y),
        "line": {"color": colour, "dash": dash, "width": 2 if len(y) <= 400 else 1.3}
        | ({"shape": "hv"} if line.steps else {}),
        "marker": {
            "color": colour,
            "size": 6 if points else [6 if alone else 0 for alone in lonely.tolist()],
        },
        "connectgaps": False,
        "hovertemplate": f"{_hover(percent)}<extra>{name}</extra>",
    }
    out: list[tuple[dict[str, Any], dict[str, list[float | None]]]] = [(trace, xs)]
    bad = np.flatnonzero(~np.isfinite(data.y))
    if len(bad):
        finite = np.flatnonzero(data.shown)
        if len(finite):
            before = finite[np.clip(np.searchsorted(finite, bad) - 1, 0, None)]
            heights = data.y[before]
        else:
            heights = np.ones(len(bad))
        cross = {
            "type": "scatter",
            "mode": "markers",
            "name": f"{name}: not finite",
            "x": [next(iter(xs.values()))[j] for j in bad.tolist()],
            "y": _json(heights),
            "text": [say_number(v) for v in data.y[bad].tolist()],
            "marker": {"color": colour, "symbol": "x", "size": 7},
            "hovertemplate": f"%{{text}}<extra>{name}</extra>",
        }
        out.append((cross, {label: [v[j] for j in bad.tolist()] for label, v in xs.items()}))
    return out


def _band_traces(band: Band) -> list[dict[str, Any]]:
    x, low, high = _numbers(band.x), _numbers(band.low), _numbers(band.high)
    if not len(x) == len(low) == len(high):
        raise HandfulError(
            f"Band '{band.name}' has {len(x)} positions, {len(low)} lows and {len(high)} highs: "
            "give one of each at every position."
        )
    kept = np.union1d(thin(low), thin(high))
    colour = PALETTE[band.line % len(PALETTE)][0]
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    shared = {
        "type": "scatter",
        "mode": "lines",
        "x": _json(x[kept]),
        "hoverinfo": "skip",
        "line": {"width": 0},
    }
    fill = {
        "fill": "tonexty",
        "fillcolor": f"rgba({red},{green},{blue},0.2)",
        "name": html.escape(band.name),
        "legendrank": 1001,
    }
    return [shared | {"y": _json(low[kept]), "showlegend": False}, shared | {"y": _json(high[kept])} | fill]


def _marker_trace(marker: Marker, percent: bool) -> tuple[dict[str, Any], dict[str, list[float | None]]]:
    named = marker.x if isinstance(marker.x, Mapping) else {"": marker.x}
    xs = {label: _json(_numbers(value)) for label, value in named.items()}
    text = html.escape(marker.text)
    trace = {
        "type": "scatter",
        "mode": "markers+text",
        "x": next(iter(xs.values())),
        "y": _json(_numbers(marker.y)),
        "text": [text],
        "textposition": "top center",
        "cliponaxis": False,
        "showlegend": False,
        "marker": {"symbol": "circle-open", "size": 13, "color": PALETTE[5][0], "line": {"width": 2}},
        "hovertemplate": f"{_hover(percent)}<extra>{text}</extra>",
    }
    return trace, xs if isinstance(marker.x, Mapping) else {}


def _layout(
    labels: tuple[str, str],
    scales: tuple[dict[str, Any], dict[str, Any]],
    percent: bool,
    from_zero: bool,
    legend: bool,
) -> dict[str, Any]:
    x_label, y_label = labels
    axis: dict[str, Any] = {"automargin": True, "zeroline": False}
    x = axis | {"title": {"text": html.escape(x_label)}, "nticks": 8} | scales[0]
    y = axis | {"title": {"text": html.escape(y_label)}} | scales[1]
    if percent:
        y["tickformat"] = ".1~%"
    if from_zero and y["type"] == "linear":
        y["rangemode"] = "tozero"
    return {
        "xaxis": x,
        "yaxis": y,
        "hovermode": "x unified",
        "showlegend": legend,
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "traceorder": "normal",
        },
        "margin": {"l": 8, "r": 12, "t": 36 if legend else 28, "b": 8},
    }


def _scale(values: NDArray[np.float64] | None) -> dict[str, Any]:
    """An axis: linear for None, else logarithmic, its ticks at 1, 2, 5 or at powers of ten as the values
    span."""
    if values is None:
        return {"type": "linear"}
    positive = values[np.isfinite(values) & (values > 0)]
    low, high = (positive.min(), positive.max()) if len(positive) else (1.0, 1.0)
    form = "~s" if low >= 1 else "~g"
    return {"type": "log", "tickformat": form} | (
        {"dtick": "D2" if high < 1e3 * low else 1} if high < 1e9 * low else {}
    )


def _table(lines: list[_Thinned], labels: list[str]) -> list[list[Any]]:
    """One row for every x that any line has, in order: the x values, then each line's y, None where
    absent."""
    merged: dict[float, list[Any]] = {}
    for j, line in enumerate(lines):
        if not line.xs:
            continue
        main = line.xs.get(labels[0], next(iter(line.xs.values())))
        others = [line.xs.get(label) for label in labels]
        for k, key in enumerate(main.tolist()):
            row = merged.setdefault(key, [None] * (len(labels) + len(lines)))
            for c, values in enumerate(others):
                if values is not None:
                    row[c] = float(values[k])
            row[len(labels) + j] = float(line.y[k])
    return [merged[key] for key in sorted(merged, key=lambda v: (math.isnan(v), v))]


def _fullest(rows: list[list[Any]], limit: int) -> list[list[Any]]:
    """`limit` rows: of each stretch the one with the fewest empty cells, the last of several."""
    edges = np.linspace(0, len(rows), limit + 1).astype(int)
    best = []
    for a, b in itertools.pairwise(edges.tolist()):
        best.append(max(range(a, b), key=lambda i: (sum(v is not None for v in rows[i]), i)))
    return [rows[i] for i in best]


def figure_matrix(
    matrix: ArrayLike,
    labels: Sequence[str],
    title: str,
    *,
    row_label: str = "true class",
    column_label: str = "predicted class",
) -> Figure:
    """A confusion matrix: matrix [k, k] of counts (row = true, column = predicted), labels [k].

    Colour is the share of the row. With more than 60 classes only the 60 with most errors are drawn, and
    `notes` says so; with more than 12 the table lists the most frequent confusions. Raises HandfulError when
    the shapes do not fit.

    >>> figure_matrix([[8, 2], [1, 9]], ["cat", "dog"], "Confusion").rows
    [['cat', 8, 2], ['dog', 1, 9]]
    """
    counts = np.asarray(matrix)
    if counts.ndim != 2 or counts.shape != (len(labels), len(labels)):
        raise HandfulError(
            f"A confusion matrix of {len(labels)} classes must have shape ({len(labels)}, {len(labels)}), "
            f"not {counts.shape}."
        )
    names = [str(label) for label in labels]
    notes: list[str] = []
    total, k = counts.sum(1), len(names)
    errors = total + counts.sum(0) - 2 * np.diagonal(counts)
    wrong = [(int(counts[i, j]), i, j) for i, j in np.argwhere(counts > 0).tolist() if i != j]
    if k > MATRIX_CLASSES:
        drawn = np.sort(np.argsort(-errors, kind="stable")[:MATRIX_CLASSES])
        notes.append(f"Of {k:,} classes, the {MATRIX_CLASSES} with most errors are drawn.")
    else:
        drawn = np.arange(k)
    if k > 12:
        columns = [row_label, column_label, "rows", "share"]
        worst = sorted(wrong, key=lambda w: (-w[0], w[1], w[2]))[:30]
        rows: list[list[Any]] = [[names[i], names[j], n, say_share(n / total[i])] for n, i, j in worst]
        notes.append("The table lists the most frequent confusions.")
    else:
        columns = [f"{row_label} \\ {column_label}", *names]
        rows = [[name, *(int(v) for v in row)] for name, row in zip(names, counts.tolist(), strict=True)]
    part, of = counts[np.ix_(drawn, drawn)], np.maximum(total[drawn], 1)[:, None]
    right = say_share(np.trace(counts) / counts.sum()) if counts.sum() else "none"
    summary = f"{title}: matrix of {k} classes, {right} of {say_count(counts.sum())} rows on the diagonal."
    spec = _heatmap(part, part / of, [names[i] for i in drawn], row_label, column_label)
    return Figure(title, spec, columns, rows, summary, notes, tall=True)


def _heatmap(
    counts: NDArray[Any], share: NDArray[np.float64], names: list[str], row_label: str, column_label: str
) -> dict[str, Any]:
    # Positions, not names, on the axes: two classes of one name would be merged by a category axis.
    k = len(names)
    short = [html.escape(n if len(n) <= 18 else n[:17] + "…") for n in names]
    every = max(1, math.ceil(k / 30))
    ticks = {"tickvals": list(range(0, k, every)), "ticktext": short[::every], "automargin": True}
    axis = ticks | {"zeroline": False, "showgrid": False, "ticks": ""}
    trace = {
        "type": "heatmap",
        "z": [[round(float(v), 5) for v in row] for row in share],
        "customdata": [[[int(v)] for v in row] for row in counts],
        "colorscale": SCALE,
        "zmin": 0,
        "zmax": 1,
        "xgap": 1 if k <= 30 else 0,
        "ygap": 1 if k <= 30 else 0,
        "colorbar": {"tickformat": ".0%", "thickness": 10, "outlinewidth": 0, "len": 0.9},
        "hovertemplate": f"{html.escape(row_label)} %{{y}}, {html.escape(column_label)} %{{x}}: "
        "%{customdata[0]} rows, %{z:.1%}<extra></extra>",
    }
    if k <= 12:
        trace |= {"text": [[say_count(v) for v in row] for row in counts.tolist()], "texttemplate": "%{text}"}
    layout = {
        "xaxis": axis | {"title": {"text": html.escape(column_label)}, "constrain": "domain"},
        "yaxis": axis | {"title": {"text": html.escape(row_label)}, "autorange": "reversed"},
        "showlegend": False,
        "margin": {"l": 8, "r": 8, "t": 28, "b": 8},
    }
    return {"data": [trace], "layout": layout}
