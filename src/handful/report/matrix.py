"""A confusion matrix as a figure."""

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handful.base.errors import HandfulError
from handful.report.figure import Figure, blank
from handful.report.tables import Grid
from handful.report.words import say_count, say_share

if TYPE_CHECKING:
    import plotly.graph_objects as go

SCALE = [[0.0, "#f4f7fb"], [0.5, "#6baed6"], [1.0, "#08427d"]]  # a dark page reverses its ends, in page.js
MATRIX_CLASSES = 60


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
    return Figure(
        title, _heatmap(part, part / of, [labels[i] for i in drawn.tolist()]), table, summary, notes, tall=True
    )


def _heatmap(counts: NDArray[np.int64], share: NDArray[np.float64], names: list[str]) -> "go.Figure":
    k = len(names)
    every, gap = max(1, math.ceil(k / 30)), 1 if k <= 30 else 0
    short = [html.escape(n if len(n) <= 18 else n[:17] + "…") for n in names]
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
