"""The page of an Advice: throughput, noise scale, predicted time, learning rate."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from handful.base.plan import Choice
from handful.plan.probe.decision import REGRET, Decision
from handful.plan.probe.noise_scale import NoiseScale
from handful.plan.probe.step_time import Throughput
from handful.report.document import Page, Section
from handful.report.figure import Figure, figure_lines
from handful.report.markup import Html, bullet_list, table_html
from handful.report.page import choices_html
from handful.report.traces import Band, Line, Marker
from handful.report.words import say_bytes, say_number, say_seconds


class Advised(Protocol):
    """What the page shows: see `handful.plan.advise.Advice`."""

    batch: int
    lr: float
    noise_scale: NoiseScale | None
    throughput: Throughput
    reasons: dict[str, Choice]
    notes: list[str]
    decision: Decision

    @property
    def table(self) -> Sequence[Mapping[str, Any]]: ...


def advice_page(advice: Advised) -> Page:
    """Everything that was measured, as a page that opens offline."""
    rows = [
        {
            "batch": row["batch"],
            "a step": say_seconds(row["seconds"]),
            "examples/s": row["examples_per_second"],
            "memory": None if row["memory"] is None else say_bytes(row["memory"]),
            "time to target": row["relative_time"],
            "verdict": row["verdict"],
        }
        for row in advice.table
    ]
    scale: list[Figure | Html | str] = [throughput_figure(advice)]
    if advice.noise_scale is not None:
        scale.append(f"The gradient noise scale is {advice.noise_scale}.")
        if advice.noise_scale.value is not None:
            scale += [noise_figure(advice), time_figure(advice)]
    parts = [Section("Batch sizes", [table_html(rows)]), Section("The batch", scale)]
    rate = rate_figure(advice)
    if rate is not None:
        parts.append(Section("The learning rate", [rate]))
    parts.append(Section("Choices", [choices_html(advice.reasons)]))
    if advice.notes:
        parts.append(Section("Notes", [bullet_list(advice.notes)]))
    headline = f"Batch {advice.batch} ({advice.reasons['batch'].status}), learning rate {say_number(advice.lr)} "
    return Page("What suits this run", parts, headline=headline + f"({advice.reasons['lr'].status}).")


def grid(advice: Advised) -> Any:
    """Sizes between the smallest and the largest tested, evenly in log."""
    sizes = advice.throughput.sizes
    return np.unique(np.r_[np.geomspace(sizes[0], sizes[-1], 60), sizes])


def throughput_figure(advice: Advised) -> Figure:
    """Examples a second against batch size, the line T = a + b B, quartiles shaded."""
    tp = advice.throughput
    n, x = np.array(tp.sizes), grid(advice)
    band = Band("half of the steps", n, n / np.array(tp.high), n / np.array(tp.low))
    lines = [
        Line("measured", n, n / np.array(tp.seconds), points=True),
        Line("a step of a + b B seconds", x, x / np.maximum(tp.a + tp.b * x, 1e-12)),
    ]
    mark = Marker("advised", advice.batch, advice.batch / tp(advice.batch))
    return figure_lines(
        "Throughput", "batch", "examples a second", lines, log_x=True, log_y=True, bands=[band], markers=[mark]
    )


def noise_figure(advice: Advised) -> Figure:
    """The share of noise in a mini-batch's gradient, phi / (B + phi), with the interval of phi."""
    scale, x = advice.noise_scale, grid(advice)
    assert scale is not None
    assert scale.value is not None
    line = Line("noise in the gradient", x, scale.value / (x + scale.value))
    band = Band("90% interval", x, scale.low / (x + scale.low), scale.high / (x + scale.high))
    mark = Marker("advised", advice.batch, scale.value / (advice.batch + scale.value))
    return figure_lines(
        "Gradient noise", "batch", "share of noise", [line], log_x=True, bands=[band], markers=[mark], percent=True
    )


def time_figure(advice: Advised) -> Figure:
    """Predicted time to a target against batch size; where it is within 10% of the best is shaded."""
    scale, x = advice.noise_scale, grid(advice)
    assert scale is not None
    assert scale.value is not None
    best = advice.throughput.time_to_target(x, scale.value)
    ends = [advice.throughput.time_to_target(x, phi) for phi in (scale.low, scale.high)]
    good = x[best <= REGRET]
    bands = [Band("90% interval of the noise scale", x, np.minimum(*ends), np.maximum(*ends))]
    if len(good):
        bands.append(Band("at most 10% longer", good, np.zeros(len(good)), best[best <= REGRET], line=2))
    line = Line("predicted", x, best)
    mark = Marker("advised", advice.batch, float(advice.throughput.time_to_target([advice.batch], scale.value)[0]))
    return figure_lines(
        "Predicted time to a target",
        "batch",
        "over that of the best batch",
        [line],
        log_x=True,
        bands=bands,
        markers=[mark],
        from_zero=True,
        wide=True,
    )


def rate_figure(advice: Advised) -> Figure | None:
    """The rates that were raced, loss against learning rate."""
    d, lines = advice.decision, []
    branches = sorted((b for b in d.branches if math.isfinite(b.loss) and not b.given_up), key=lambda b: b.lr)
    if branches:
        lines.append(Line("short branches", [b.lr for b in branches], [b.loss for b in branches], points=True))
    if not lines:
        return None
    chosen = [Marker("advised", b.lr, b.loss) for b in branches if b.lr == advice.lr]
    return figure_lines("Learning rate", "learning rate", "loss", lines, log_x=True, markers=chosen, wide=True)
