"""A confusion matrix as a figure."""

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handful.base.errors import HandfulError
from handful.report.figure import Figure
from handful.report.words import say_count, say_share

SCALE = [[0.0, "#f4f7fb"], [0.5, "#6baed6"], [1.0, "#08427d"]]  # a dark page reverses its ends, in page.js
MATRIX_CLASSES = 60


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
