"""`handful.advise`: what batch, micro-batch and learning rate suit a model, its data and this machine, and why; as a
table, and as a page of throughput, noise scale, predicted time and learning rate."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np
from torch import nn

from handful.base.errors import HandfulError
from handful.base.expression import positive_integer
from handful.base.plan import Choice
from handful.plan.build import assemble
from handful.plan.config import Config
from handful.plan.probe.decide import batch_cap, decide
from handful.plan.probe.decision import REGRET, Decision
from handful.plan.probe.memory import Memory
from handful.plan.probe.noise_scale import NoiseScale
from handful.plan.probe.step_time import Throughput
from handful.plan.scaling import Link, RankRow, as_text, measure_link, predict
from handful.report.document import Page, Part, Section, bullet_list, choices_html, table_html
from handful.report.figure import Band, Figure, Floats, Line, Marker, figure_lines
from handful.report.tables import Grid, text_table
from handful.report.words import say_bytes, say_count, say_number, say_seconds
from handful.training.process.device import choose_device
from handful.training.process.parallel import joined

LARGE = 1 << 24  # bytes of the message that tells the speed of a link, at most
SHARE = 0.25  # of the planned examples, at most: advice is asked for on its own, and is not part of a run


class BatchRow(TypedDict):
    """A batch size, and what was measured with it: memory in bytes; relative_time: the predicted time to a target over
    the best one's, None without a noise scale."""

    batch: int
    seconds: float
    examples_per_second: float
    memory: float | None
    relative_time: float | None
    verdict: str


@dataclass(repr=False)
class Advice:
    """What was measured and what it advises.

    batch, micro_batch (None: the whole batch at once), lr: the advised values; reasons: name -> Choice with status
    and reason of each; noise_scale: None where it has no meaning or the run is too short; table: a dict per batch
    size (see BatchRow); notes: what else there is to know; decision: all that was measured; ranks: a dict per number of
    ranks that was asked for (see RankRow).
    """

    batch: int
    micro_batch: int | None
    lr: float
    noise_scale: NoiseScale | None
    throughput: Throughput
    memory: Memory | None
    reasons: dict[str, Choice]
    table: list[BatchRow]
    notes: list[str]
    decision: Decision
    ranks: list[RankRow] = field(default_factory=list)

    def __repr__(self) -> str:  # what a notebook shows, and print
        chosen = [
            f"{name.replace('_', ' ')} {say_number(c.value) if c.value is not None else 'whole batch'} "
            f"({c.status}): {c.reason}"
            for name, c in self.reasons.items()
            if name != "batch_growth"
        ]
        noise = [] if self.noise_scale is None else [f"noise scale: {self.noise_scale}"]
        scaled = ["", as_text(self.ranks)] if self.ranks else []
        return "\n".join([text_table(cells(self)), "", *chosen, *noise, *(f"note: {n}" for n in self.notes), *scaled])

    def report(self, path: str | Path = "advice.html") -> Path:
        """Write the page with the curves, one file that opens offline. Returns its path."""
        return advice_page(self).write(path)


def advise(
    model: str | nn.Module,
    train: object,
    *,
    ranks: Iterable[int] = (),
    link: tuple[float, float] | None = None,
    **options: object,
) -> Advice:
    """Measure, on this machine, which batch, micro-batch and learning rate suit `model` on `train`; trains nothing.

    model, train and options are those of `fit` (loss=, optimizer=, until=, valid=, ...). `until` says how long the
    run is to be, which matters: the longer, the more can be measured. At most a quarter of its examples go through
    the model. The model is left as it was, to the bit. Raises HandfulError as `fit` does.

    ranks: numbers of ranks to predict the batch and the efficiency for; link: between two of them, the seconds of an
    empty message and bytes per second; None: measured between those that torchrun has started

    >>> import handful, torch
    >>> advice = handful.advise(torch.nn.Linear(4, 3), "iris", until="epochs(20)")
    >>> advice.batch in (4, 8, 16), advice.reasons["batch"].status in ("measured", "bounded")
    (True, True)
    """
    given = {k: v for k, v in options.items() if k not in ("batch", "lr", "micro_batch")}
    numbers = sorted({positive_integer(n, "ranks") for n in ranks})
    between = None
    if numbers:
        between = Link(*link) if link else measured_link(model, Config.of(given))
    t = assemble(model, train, given | {"quiet": True}, measure=False)
    if t.training_step is not None:
        raise HandfulError("the steps of a training_step of your own are not measured: choose batch and lr yourself")
    d = decide(t, share=SHARE, measure_all=True)
    if d.throughput is None or d.batch is None or d.lr is None:
        raise HandfulError("; ".join(d.notes) or "nothing could be measured")
    whole = Choice(None, "measured", f"{d.batch.value} rows fit in memory at once")
    reasons = {"batch": d.batch, "lr": d.lr, "micro_batch": d.micro_batch or whole}
    if d.growth is not None:
        reasons["batch_growth"] = d.growth
    table = table_of(d, d.throughput, d.batch.value)
    micro = reasons["micro_batch"].value
    scaled: list[RankRow] = []
    if between is not None:
        size, phi = sum(p.nbytes for p in t.parameters), d.noise.value if d.noise else None
        scaled = predict(d.throughput.a, d.throughput.b, size, between, phi, numbers, batch_cap(t.examples))
    return Advice(d.batch.value, micro, d.lr.value, d.noise, d.throughput, d.memory, reasons, table, d.notes, d, scaled)


def measured_link(model: str | nn.Module, options: Config) -> Link:
    """The link between the ranks that were started; HandfulError where this process is alone."""
    with joined(choose_device(options.device).value, options.timeout) as ranks:
        if ranks.size == 1:
            raise HandfulError(
                "the link between ranks is measured where there are some: start this with torchrun, or give "
                "link=(2e-5, 1e10), the seconds of an empty message and bytes per second"
            )
        own = sum(p.nbytes for p in model.parameters()) if isinstance(model, nn.Module) else LARGE
        return measure_link(ranks, min(own, LARGE), ranks.place(choose_device(options.device).value))


def table_of(d: Decision, tp: Throughput, advised: int) -> list[BatchRow]:
    """A row per tested batch size, and one per size that failed."""
    times: list[float | None] = [None] * len(tp.sizes)
    if d.noise is not None and d.noise.value is not None:
        times = tp.time_to_target(tp.sizes, d.noise.value).tolist()
    rows: list[BatchRow] = []
    for n, seconds, time in zip(tp.sizes, tp.seconds, times, strict=True):
        micro = tp.micro_batches.get(n)
        verdicts = [f"{micro} rows at a time"] if micro else []
        if n == advised:
            verdicts.insert(0, "advised")
        elif time is not None:
            verdicts.insert(0, "as good" if time <= REGRET else f"{time:.1f} times as long")
        memory = None if d.memory is None else d.memory.at(micro or n)
        rows.append(BatchRow(batch=n, seconds=seconds, examples_per_second=n / seconds, memory=memory,
                                relative_time=time, verdict="; ".join(verdicts)))  # fmt: skip
    for n, why in tp.failed:
        rows.append(BatchRow(batch=n, seconds=math.nan, examples_per_second=math.nan, memory=None,
                                relative_time=None, verdict=f"failed: {why}"))  # fmt: skip
    return rows


def cells(advice: Advice) -> list[dict[str, object]]:
    """The table, in words."""
    return [
        {
            "batch": row["batch"],
            "step": say_seconds(row["seconds"]),
            "examples/s": say_count(row["examples_per_second"]),
            "memory": "" if row["memory"] is None else say_bytes(row["memory"]),
            "time to target / best": "" if row["relative_time"] is None else f"{row['relative_time']:.2f}",
            "verdict": row["verdict"],
        }
        for row in advice.table
    ]


def advice_page(advice: Advice) -> Page:
    """Everything that was measured, as a page that opens offline."""
    scale, rate = advice.noise_scale, rate_figure(advice)
    measured: list[Part] = [throughput_figure(advice)]
    if scale is not None:
        measured.append(f"The gradient noise scale is {scale}.")
        if scale.value is not None:
            ends = (scale.low, scale.high)
            measured += [noise_figure(advice, scale.value, ends), time_figure(advice, scale.value, ends)]
    sections = [
        Section("Batch sizes", [table_html(Grid.of(cells(advice)))]),
        Section("The batch", measured),
        Section("The learning rate", [rate] if rate else []),
        Section("Choices", [choices_html(advice.reasons)]),
        Section("Notes", [bullet_list(advice.notes)] if advice.notes else []),
    ]
    batch, lr = (advice.reasons[name].status for name in ("batch", "lr"))
    headline = f"Batch {advice.batch} ({batch}), learning rate {say_number(advice.lr)} ({lr})."
    return Page("What suits this run", sections, headline=headline)


def grid(advice: Advice) -> Floats:
    """Sizes between the smallest and the largest tested, evenly in log."""
    sizes = advice.throughput.sizes
    return np.unique(np.r_[np.geomspace(sizes[0], sizes[-1], 60), sizes])


def throughput_figure(advice: Advice) -> Figure:
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


def noise_figure(advice: Advice, phi: float, ends: tuple[float, float]) -> Figure:
    """The share of noise in a mini-batch's gradient, phi / (B + phi), with the interval of phi."""
    x = grid(advice)
    line = Line("noise in the gradient", x, phi / (x + phi))
    low, high = (end / (x + end) for end in ends)
    mark = Marker("advised", advice.batch, phi / (advice.batch + phi))
    bands, axes = [Band("90% interval", x, low, high)], ("batch", "share of noise")
    return figure_lines("Gradient noise", *axes, [line], log_x=True, bands=bands, markers=[mark], percent=True)


def time_figure(advice: Advice, phi: float, ends: tuple[float, float]) -> Figure:
    """Predicted time to a target against batch size; where it is within 10% of the best is shaded."""
    x, time = grid(advice), advice.throughput.time_to_target
    predicted = time(x.tolist(), phi)
    one, other = (time(x.tolist(), end) for end in ends)
    bands = [Band("90% interval of the noise scale", x, np.minimum(one, other), np.maximum(one, other))]
    good = predicted <= REGRET
    if good.any():
        bands.append(Band("at most 10% longer", x[good], np.zeros(good.sum()), predicted[good], line=2))
    marks, axes = (
        [Marker("advised", advice.batch, float(time([advice.batch], phi)[0]))],
        ("batch", "over the best one's"),
    )
    lines = [Line("predicted", x, predicted)]
    return figure_lines(
        "Predicted time to a target", *axes, lines, log_x=True, bands=bands, markers=marks, from_zero=True, wide=True
    )


def rate_figure(advice: Advice) -> Figure | None:
    """Loss against learning rate, of the rates that were raced: to the end, or given up on the way; None for fewer than
    two."""
    raced = (b for race in advice.decision.races for b in race.branches)
    branches = sorted((b for b in raced if math.isfinite(b.loss)), key=lambda b: b.lr)
    if len(branches) < 2:
        return None
    lines = [
        Line(name, [b.lr for b in some], [b.loss for b in some], points=True)
        for name, given_up in (("to the end", False), ("given up", True))
        if (some := [b for b in branches if b.given_up is given_up])
    ]
    chosen = [Marker("advised", b.lr, b.loss) for b in branches if b.lr == advice.lr]
    return figure_lines("Learning rate", "learning rate", "loss", lines, log_x=True, markers=chosen, wide=True)
