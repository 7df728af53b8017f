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
from numpy.typing import NDArray

from handful.report.traces import (
    Band,
    Line,
    Marker,
    Thinned,
    band_traces,
    line_traces,
    marker_trace,
    numbers,
    thinned_line,
)

TABLE_ROWS = 100


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
    thinned: list[Thinned] = []
    for band in bands:
        traces += band_traces(band)
        xs += [{}, {}]
    for i, line in enumerate(lines):
        data = thinned_line(line, x_label, log_y, notes)
        thinned.append(data)
        for trace, choice in line_traces(line, data, i, percent):
            traces.append(trace)
            xs.append(choice if isinstance(line.x, Mapping) else {})
    for marker in markers:
        trace, choice = marker_trace(marker, percent)
        traces.append(trace)
        xs.append(choice)
    labels = list(dict.fromkeys(name for data in thinned for name in data.xs)) or [x_label]
    every_x = np.concatenate([np.empty(0), *(values for data in thinned for values in data.xs.values())])
    every_y = np.concatenate([np.empty(0), *(d.y for d in thinned), *(numbers(b.low) for b in bands)])
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


def _table(lines: list[Thinned], labels: list[str]) -> list[list[Any]]:
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
