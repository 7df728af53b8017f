"""Figures by Plotly, with the same numbers as a table for whoever cannot see the picture.

The page draws them in the browser; in a notebook, `Figure.plot` shows itself. Every line differs in colour and in dash;
the colours are those of Okabe and Ito (Color Universal Design, 2008), darkened or lightened where needed for a contrast
with the page of at least 3:1.
"""

import html
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from handful.report.tables import Grid
from handful.report.traces import (
    Band,
    Floats,
    Line,
    Marker,
    Thinned,
    add_band,
    add_line,
    add_markers,
    numbers,
    thinned_line,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

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
