"""The page of an Advice: throughput, noise scale, predicted time, learning rate."""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from handful.base.plan import Choice
from handful.plan.probe.decision import REGRET, Decision
from handful.plan.probe.noise_scale import NoiseScale
from handful.plan.probe.step_time import Throughput
from handful.report.document import Page, Part, Section
from handful.report.figure import Figure, figure_lines
from handful.report.markup import bullet_list, choices_html, table_html
from handful.report.tables import Grid
from handful.report.traces import Band, Floats, Line, Marker
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
    def table(self) -> Sequence[Mapping[str, object]]: ...


def advice_page(advice: Advised) -> Page:
    """Everything that was measured, as a page that opens offline."""
    scale, rate = advice.noise_scale, rate_figure(advice)
    rows = [
        {
            "batch": row["batch"],
            "time per step": say_seconds(row["seconds"]),
            "examples/s": row["examples_per_second"],
            "memory": None if row["memory"] is None else say_bytes(row["memory"]),
            "time to target": row["relative_time"],
            "verdict": row["verdict"],
        }
        for row in advice.table
    ]
    measured: list[Part] = [throughput_figure(advice)]
    if scale is not None:
        measured.append(f"The gradient noise scale is {scale}.")
        if scale.value is not None:
            ends = (scale.low, scale.high)
            measured += [noise_figure(advice, scale.value, ends), time_figure(advice, scale.value, ends)]
    sections = [
        Section("Batch sizes", [table_html(Grid.of(rows))]),
        Section("The batch", measured),
        Section("The learning rate", [rate] if rate else []),
        Section("Choices", [choices_html(advice.reasons)]),
        Section("Notes", [bullet_list(advice.notes)] if advice.notes else []),
    ]
    batch, lr = (advice.reasons[name].status for name in ("batch", "lr"))
    headline = f"Batch {advice.batch} ({batch}), learning rate {say_number(advice.lr)} ({lr})."
    return Page("What suits this run", sections, headline=headline)


def grid(advice: Advised) -> Floats:
    """Sizes between the smallest and the largest tested, evenly in log."""
    sizes = advice.throughput.sizes
    return np.unique(np.r_[np.geomspace(sizes[0], sizes[-1], 60), sizes])


def throughput_figure(advice: Advised) -> Figure:
    """Examples per second against batch size, the line T = a + b B, quartiles shaded."""
    tp = advice.throughput
    n, x = np.array(tp.sizes), grid(advice)
    band = Band("half of the steps", n, n / np.array(tp.high), n / np.array(tp.low))
    lines = [
        Line("measured", n, n / np.array(tp.seconds), points=True),
        Line("a step of a + b B seconds", x, x / np.maximum(tp.a + tp.b * x, 1e-12)),
    ]
    mark = Marker("advised", advice.batch, advice.batch / tp(advice.batch))
    axes = ("batch", "examples per second")
    return figure_lines("Throughput", *axes, lines, log_x=True, log_y=True, bands=[band], markers=[mark])


def noise_figure(advice: Advised, phi: float, ends: tuple[float, float]) -> Figure:
    """The share of noise in a mini-batch's gradient, phi / (B + phi), with the interval of phi."""
    x = grid(advice)
    line = Line("noise in the gradient", x, phi / (x + phi))
    low, high = (end / (x + end) for end in ends)
    mark = Marker("advised", advice.batch, phi / (advice.batch + phi))
    bands, axes = [Band("90% interval", x, low, high)], ("batch", "share of noise")
    return figure_lines("Gradient noise", *axes, [line], log_x=True, bands=bands, markers=[mark], percent=True)


def time_figure(advice: Advised, phi: float, ends: tuple[float, float]) -> Figure:
    """Predicted time to a target against batch size; where it is within 10% of the best is shaded."""
    x, time = grid(advice), advice.throughput.time_to_target
    predicted = time(x.tolist(), phi)
    one, other = (time(x.tolist(), end) for end in ends)
    bands = [Band("90% interval of the noise scale", x, np.minimum(one, other), np.maximum(one, other))]
    good = predicted <= REGRET
    if good.any():
        bands.append(Band("at most 10% longer", x[good], np.zeros(good.sum()), predicted[good], line=2))
    return figure_lines(
        "Predicted time to a target",
        "batch",
        "over that of the best batch",
        [Line("predicted", x, predicted)],
        log_x=True,
        bands=bands,
        markers=[Marker("advised", advice.batch, float(time([advice.batch], phi)[0]))],
        from_zero=True,
        wide=True,
    )


def rate_figure(advice: Advised) -> Figure | None:
    """Loss against learning rate, of the rates that were raced: to the end, or given up on the way; None for fewer than
    two."""
    branches = sorted((b for b in advice.decision.branches if math.isfinite(b.loss)), key=lambda b: b.lr)
    if len(branches) < 2:
        return None
    lines = [
        Line(name, [b.lr for b in some], [b.loss for b in some], points=True)
        for name, given_up in (("to the end", False), ("given up", True))
        if (some := [b for b in branches if b.given_up is given_up])
    ]
    chosen = [Marker("advised", b.lr, b.loss) for b in branches if b.lr == advice.lr]
    return figure_lines("Learning rate", "learning rate", "loss", lines, log_x=True, markers=chosen, wide=True)
