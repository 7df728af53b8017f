"""What a regression gets wrong, as a figure."""

import numpy as np
from numpy.typing import ArrayLike

from handful.base.errors import HandfulError
from handful.report.figure import Figure, blank
from handful.report.tables import Grid
from handful.report.traces import PALETTE, as_json
from handful.report.words import say_count, say_number

POINTS = 2000  # drawn at most
_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


def figure_residuals(target: ArrayLike, prediction: ArrayLike, name: str = "") -> Figure:
    """Prediction - target over the prediction: target [n], prediction [n], in the target's units; name: of the output.

    Of more than 2,000 rows an even choice is drawn, and `notes` says so; the table holds quantiles of the residual over
    five ranges of the prediction with as many rows each. Raises HandfulError when the lengths differ or there are no
    rows.

    >>> figure_residuals([1.0, 2.0], [1.5, 2.0]).summary
    'Residuals: scatter of prediction - target over the prediction, 2 rows, mean 0.25, from 0 to 0.5.'
    """
    y, p = np.asarray(target, dtype=np.float64), np.asarray(prediction, dtype=np.float64)
    if y.shape != p.shape or y.ndim != 1 or not len(y):
        raise HandfulError(
            f"residuals need as many targets {list(y.shape)} as predictions {list(p.shape)}, at least one"
        )
    residual = p - y
    title = f"Residuals of {name}" if name else "Residuals"
    every = -(-len(y) // POINTS)
    notes = [f"{len(y[::every]):,} of {len(y):,} rows are drawn."] if every > 1 else []
    rows: list[list[object]] = []
    for part in np.array_split(np.argsort(p, kind="stable"), min(5, len(p))):
        edges = f"{say_number(p[part].min())} to {say_number(p[part].max())}"
        rows.append([edges, len(part), *np.quantile(residual[part], _SHARES).tolist()])
    plot = blank("prediction", "prediction - target")
    plot.add_scatter(
        x=as_json(p[::every]),
        y=as_json(residual[::every]),
        customdata=as_json(y[::every]),
        mode="markers",
        marker={"color": PALETTE[0][0], "size": 5, "opacity": 0.6},
        hovertemplate="predicted %{x:.4~g}, target %{customdata:.4~g}, residual %{y:.4~g}<extra></extra>",
    )
    zero = {"color": PALETTE[1][0], "dash": "dash", "width": 1.5}
    plot.add_scatter(x=[float(p.min()), float(p.max())], y=[0, 0], mode="lines", line=zero, hoverinfo="skip")
    summary = (
        f"{title}: scatter of prediction - target over the prediction, {say_count(len(y))} rows, mean "
        f"{say_number(residual.mean())}, from {say_number(residual.min())} to {say_number(residual.max())}."
    )
    table = Grid(["prediction", "rows", "5%", "25%", "median", "75%", "95%"], rows)
    return Figure(title, plot, table, summary, notes, wide=True)
