"""What is predicted against what is true: a confusion matrix, residuals, calibration."""

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handful.base.errors import HandfulError
from handful.report.figure import PALETTE, Figure, Floats, as_json, blank
from handful.report.tables import Grid
from handful.report.words import DATES, say_count, say_number, say_off, say_share, sentence

if TYPE_CHECKING:
    import plotly.graph_objects as go

SCALE = [[0.0, "#f4f7fb"], [0.5, "#6baed6"], [1.0, "#08427d"]]  # a dark page reverses its ends, in page.js
MATRIX_CLASSES, NAMED_CLASSES = 60, 20  # drawn at most; whose names fit beside each other
POINTS = 2000  # rows of a regression that are drawn at most
_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
BINS = 10  # of how sure the model is


def figure_matrix(matrix: ArrayLike, labels: Sequence[str], title: str) -> Figure:
    """A confusion matrix: matrix [k, k] of counts (row = true, column = predicted), labels [k].

    Colour is the share of the row. With more than 60 classes only the 60 with most errors are drawn, and
    `notes` says so; with more than 12 the table lists the most frequent confusions. Raises HandfulError when
    the shapes do not fit.

    >>> figure_matrix([[8, 2], [1, 9]], ["cat", "dog"], "Confusion").table.rows
    [['cat', 8, 2], ['dog', 1, 9]]
    """
    counts, k = np.asarray(matrix), len(labels)
    if counts.shape != (k, k):
        raise HandfulError(f"a confusion matrix of {k} classes must have shape ({k}, {k}), not {counts.shape}")
    notes: list[str] = []
    total = counts.sum(1)
    drawn = np.arange(k)
    if k > MATRIX_CLASSES:
        errors = total + counts.sum(0) - 2 * np.diagonal(counts)
        drawn = np.sort(np.argsort(-errors, kind="stable")[:MATRIX_CLASSES])
        notes.append(f"Of {k:,} classes, the {MATRIX_CLASSES} with most errors are drawn.")
    if k > 12:
        wrong = [(int(counts[i, j]), i, j) for i, j in np.argwhere(counts > 0).tolist() if i != j]
        worst = sorted(wrong, key=lambda w: (-w[0], w[1], w[2]))[:30]
        rows = [[labels[i], labels[j], n, say_share(n / total[i])] for n, i, j in worst]
        table = Grid(["true class", "predicted class", "rows", "share"], rows)
        notes.append("The table lists the most frequent confusions.")
    else:
        table = Grid(["true class \\ predicted class", *labels], [[n, *r] for n, r in zip(labels, counts.tolist())])
    right = say_share(np.trace(counts) / counts.sum()) if counts.sum() else "none"
    summary = f"{title}: matrix of {k} classes, {right} of {say_count(counts.sum())} rows on the diagonal."
    part, of = counts[np.ix_(drawn, drawn)], np.maximum(total[drawn], 1)[:, None]
    plot = _heatmap(part, part / of, [labels[i] for i in drawn.tolist()])
    return Figure(title, plot, table, summary, notes, wide=k > 12, tall=True)


def _heatmap(counts: NDArray[np.int64], share: NDArray[np.float64], names: list[str]) -> "go.Figure":
    k = len(names)
    every, gap = math.ceil(max(k, 1) / NAMED_CLASSES), 1 if k <= 30 else 0
    cut = [n if len(n) <= 18 else f"{n[:17]}…" for n in names]
    if len(set(cut)) < k:  # alike in front
        cut = [n if len(n) <= 18 else f"{n[:8]}…{n[-9:]}" for n in names]
    short = [html.escape(n) for n in cut]
    plot = blank("predicted class", "true class")
    # Positions, not names, on the axes: two classes of one name would be merged by a category axis.
    for axes in (plot.update_xaxes, plot.update_yaxes):
        axes(tickvals=list(range(0, k, every)), ticktext=short[::every], showgrid=False, ticks="")
    plot.update_xaxes(constrain="domain")
    plot.update_yaxes(autorange="reversed")
    plot.add_heatmap(
        z=share.round(5).tolist(),
        customdata=counts[..., None].tolist(),
        colorscale=SCALE,
        zmin=0,
        zmax=1,
        xgap=gap,
        ygap=gap,
        colorbar={"tickformat": ".0%", "thickness": 10, "outlinewidth": 0, "len": 0.9},
        hovertemplate="true class %{y}, predicted class %{x}: %{customdata[0]} rows, %{z:.1%}<extra></extra>",
    )
    if k <= 12:
        plot.update_traces(text=[[say_count(v) for v in row] for row in counts.tolist()], texttemplate="%{text}")
    return plot


def figure_against(target: ArrayLike, prediction: ArrayLike, name: str = "", unit: str = "") -> Figure:
    """The prediction over the true value: target [n], prediction [n], in the target's unit; name: of the target.

    Of more than 2,000 rows an even choice is drawn, and `notes` says so. Raises HandfulError when the lengths differ or
    there are no rows.

    >>> figure_against([1.0, 3.0], [1.5, 2.0], "price", "€").summary
    'Predicted price against the true one: scatter, 2 rows; they are off by 0.75 € on average, half of them ...'
    """
    y, p, chosen, notes = _pairs(target, prediction)
    off, what = np.abs(p - y), name or "value"
    title = f"Predicted {what} against the true one"
    axis = f" {what}{_in(unit)}"
    plot = _scatter(y[chosen], p[chosen], f"true{axis}", f"predicted{axis}", "true %{x:.4~g}, predicted %{y:.4~g}")
    low, high = float(min(y.min(), p.min())), float(max(y.max(), p.max()))
    _guide(plot, [low, high], [low, high])
    if unit == DATES:
        _as_dates(plot, "x", "y")
    rows = [[say_share(share), say_off(np.quantile(off, share), unit)] for share in (0.5, 0.75, 0.9, 0.95, 1.0)]
    summary = (
        f"{title}: scatter, {say_count(len(y))} rows; they are off by {say_off(off.mean(), unit)} on average, "
        f"half of them by less than {say_off(np.median(off), unit)}."
    )
    notes = [sentence(summary.rpartition("; ")[2]), *notes]
    return Figure(title, plot, Grid(["share of the rows", "off by at most"], rows), summary, notes)


def figure_residuals(target: ArrayLike, prediction: ArrayLike, name: str = "", unit: str = "") -> Figure:
    """Prediction - target over the prediction: target [n], prediction [n], in the target's unit; name: of the target.

    Of more than 2,000 rows an even choice is drawn, and `notes` says so; the table holds quantiles of the residual over
    five ranges of the prediction with as many rows each. Raises HandfulError when the lengths differ or there are no
    rows.

    >>> figure_residuals([1.0, 2.0], [1.5, 2.0]).summary
    'Residuals: scatter of prediction - target over the prediction, 2 rows, mean 0.25, from 0 to 0.5.'
    """
    y, p, chosen, notes = _pairs(target, prediction)
    residual, title = p - y, f"Residuals of {name}" if name else "Residuals"
    rows: list[list[object]] = []
    for part in np.array_split(np.argsort(p, kind="stable"), min(5, len(p))):
        edges = " to ".join(f"{_day(v)}" if unit == DATES else say_number(v) for v in (p[part].min(), p[part].max()))
        rows.append([edges, len(part), *np.quantile(residual[part], _SHARES).tolist()])
    apart = " (days)" if unit == DATES else _in(unit)
    plot = _scatter(p[chosen], residual[chosen], f"predicted {name or 'value'}{_in(unit)}", f"predicted - true{apart}",
                    "predicted %{x:.4~g}, residual %{y:.4~g}")  # fmt: skip
    _guide(plot, [float(p.min()), float(p.max())], [0.0, 0.0])
    if unit == DATES:
        _as_dates(plot, "x")
    summary = (
        f"{title}: scatter of prediction - target over the prediction, {say_count(len(y))} rows, mean "
        f"{say_number(residual.mean())}, from {say_number(residual.min())} to {say_number(residual.max())}."
    )
    return Figure(title, plot, Grid(["prediction", "rows", "5%", "25%", "median", "75%", "95%"], rows), summary, notes)


def figure_calibration(bins: ArrayLike) -> Figure:
    """How often the model is right where it is so sure: bins [k, 3], for each of k equal parts of 0 to 1 the number of
    rows whose likeliest class has a probability there, the sum of these probabilities, and how many rows are right.

    The error is the expected calibration error (Naeini, Cooper, Hauskrecht 2015): the mean, over the rows, of the
    difference between the two in their part. Raises HandfulError where there are no rows.

    >>> figure_calibration([[0, 0.0, 0], [10, 9.0, 8]]).summary
    'Calibration: the model is 90.0% sure on average and right in 80.0% of 10 rows; the two differ by 10.0% ...'
    """
    found = np.asarray(bins, dtype=np.float64)
    found = found[found[:, 0] > 0]
    if not len(found):
        raise HandfulError("calibration needs at least one row")
    n, sure, right = found.T
    error = float(np.abs(sure - right).sum() / n.sum())
    low, high = interval(right, n)
    plot = _scatter(sure / n, right / n, "how sure the model is", "how often it is right",
                    "%{x:.1%} sure, %{y:.1%} right, %{customdata} rows")  # fmt: skip
    bars = {"array": as_json(high - right / n), "arrayminus": as_json(right / n - low), "thickness": 1.2, "width": 3}
    plot.update_traces(customdata=n.astype(int).tolist(), marker_size=8, marker_opacity=1, error_y=bars)
    _guide(plot, [0.0, 1.0], [0.0, 1.0])
    plot.update_xaxes(tickformat=".0%", range=[0, 1.02])
    plot.update_yaxes(tickformat=".0%", range=[0, 1.04])
    said = (
        f"the model is {say_share(sure.sum() / n.sum())} sure on average and right in "
        f"{say_share(right.sum() / n.sum())} of {say_count(n.sum())} rows; the two differ by {say_share(error)} "
        "(expected calibration error)."
    )
    rows = [[say_share(s / k), say_share(r / k), int(k)] for k, s, r in found.tolist()]
    notes = [sentence(said), "Dashed: as sure as right. Bars: 95% intervals."]
    return Figure("Calibration", plot, Grid(["sure", "right", "rows"], rows), f"Calibration: {said}", notes)


def interval(right: ArrayLike, rows: ArrayLike) -> tuple[Floats, Floats]:
    """The 95% interval of the share of rows that are right, by Wilson (1927, JASA 22), where `right` of `rows` were.

    >>> [round(float(edge), 4) for edge in interval(95, 100)]
    [0.8882, 0.9785]
    """
    n, z = np.asarray(rows, dtype=np.float64), 1.959964
    share = np.asarray(right, dtype=np.float64) / n
    centre, half = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    return (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)


def _pairs(target: ArrayLike, prediction: ArrayLike) -> tuple[Floats, Floats, slice, list[str]]:
    """(target, prediction) float64 [n], which rows are drawn, and notes where that is not all."""
    y, p = np.asarray(target, dtype=np.float64), np.asarray(prediction, dtype=np.float64)
    if y.shape != p.shape or y.ndim != 1 or not len(y):
        raise HandfulError(
            f"residuals need as many targets {list(y.shape)} as predictions {list(p.shape)}, at least one"
        )
    known, notes = np.isfinite(p), list[str]()
    if not known.any():
        raise HandfulError("no prediction is finite: there is nothing to draw")
    if lost := int(np.count_nonzero(~known)):
        notes.append(f"{lost:,} of {len(p):,} predictions are not finite: left out here.")
        y, p = y[known], p[known]
    every = -(-len(y) // POINTS)
    notes += [f"{len(y[::every]):,} of {len(y):,} rows are drawn."] if every > 1 else []
    return y, p, slice(None, None, every), notes


def _scatter(x: Floats, y: Floats, x_label: str, y_label: str, hover: str) -> "go.Figure":
    plot = blank(x_label, y_label)
    marker = {"color": PALETTE[0][0], "size": 5, "opacity": 0.6}
    plot.add_scatter(x=as_json(x), y=as_json(y), mode="markers", marker=marker, hovertemplate=f"{hover}<extra></extra>")
    return plot


def _in(unit: str) -> str:
    return f" ({unit})" if unit and unit != DATES else ""


def _day(days: float) -> np.datetime64:
    return np.datetime64(round(days), "D")


def _as_dates(plot: "go.Figure", *axes: str) -> None:
    """Days since 1970 on these axes as dates."""
    for trace in plot.data:
        trace.update({axis: [None if v is None else str(_day(v)) for v in trace[axis]] for axis in axes})
        for axis in axes:
            trace.hovertemplate = (trace.hovertemplate or "").replace(f"%{{{axis}:.4~g}}", f"%{{{axis}}}") or None


def _guide(plot: "go.Figure", x: list[float], y: list[float]) -> None:
    """A dashed line on which the points would lie if all were right."""
    line = {"color": PALETTE[1][0], "dash": "dash", "width": 1.5}
    plot.add_scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip")
