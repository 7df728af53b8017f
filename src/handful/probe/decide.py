"""The batch, the micro-batch and the learning rate, decided by measurement before the run begins.

With T(B) seconds a step and examples needed in proportion to B + phi (McCandlish et al. 2018, equation 2.11), progress
a second is in proportion to B / (T(B) (B + phi)) (the goodput of Qiao et al. 2021, arXiv:2008.12260). For
T = a + b B it is greatest at B* = sqrt((a / b) phi). Where phi cannot be measured, the batch is B0, the smallest with
at least 90% of the best throughput.
"""

import math
import time
from dataclasses import dataclass, field

import torch

from handful.errors import HandfulError
from handful.objective import loss_coupling, mode_coupling
from handful.optimizer import rescale
from handful.plan import Choice
from handful.probe import learning_rate
from handful.probe.growth import growth
from handful.probe.learning_rate import Branch, RangeTest
from handful.probe.memory import Memory, measure_memory
from handful.probe.noise import PARTS, NoiseScale, gradient_in_parts, pool
from handful.probe.snapshot import untouched
from handful.probe.throughput import Throughput, measure_throughput, powers_of_two
from handful.probe.trial import loss_on, train
from handful.report.words import say_number, say_seconds
from handful.schedule import from_torch
from handful.source.base import Batch
from handful.training import Training

SHARE = 0.05  # of the planned examples, for everything that is tried
WARM, MEASURE = 0.02, 0.015  # of them for the noise scale: steps before it is measured, and while it is
ROWS_PER_BATCH = 50  # a batch is at most a fiftieth of the data,
LEAST_CAP = 16  # or this,
UPDATES = 550  # and leaves the throughput rule at least so many updates
LEAST = 8
WARM_STEPS = 6  # the fewest steps before the noise scale is measured
BRANCH_STEPS = 16  # the fewest steps of a learning-rate branch
LEAST_SECONDS = 2.0  # a run so short that 5% of it tells nothing may spend this on its rate, but not more than it lasts
LEAST_REACH = 32.0  # how far the rate then goes from its default: the branches are a good part of the run itself
REACH = 4.0  # the learning rate goes at most so far from its default; a branch of a few steps cannot vouch for more
MACHINE = "measured here; another machine may choose otherwise"


@dataclass
class Decision:
    """What was chosen (None: was not asked), what was measured for it, and what it cost."""

    batch: Choice | None = None
    lr: Choice | None = None
    micro_batch: Choice | None = None
    growth: Choice | None = None
    throughput: Throughput | None = None
    memory: Memory | None = None
    noise: NoiseScale | None = None
    range_test: RangeTest | None = None
    branches: list[Branch] = field(default_factory=list)
    cap: int = 0
    notes: list[str] = field(default_factory=list)
    examples: int = 0
    steps: int = 0
    seconds: float = 0.0


def decide(
    t: Training,
    *,
    batch: bool = True,
    lr: bool = True,
    share: float = SHARE,
    throughput: Throughput | None = None,
    measure_all: bool = False,
) -> Decision:
    """Decide what was left open, on a Training that was built with provisional values; it is left as it was.

    share: of the planned examples that may be spent; throughput: step times that are given instead of measured;
    measure_all: measure what no choice needs, too (for `advise`).
    """
    started = time.perf_counter()
    d = Decision(cap=batch_cap(t.examples))
    if t.ranks.size > 1:
        d.notes.append("with several ranks nothing is measured: batch and lr are stated defaults")
        return d
    try:
        if batch or measure_all:
            _measure(t, d, share, throughput, quick=not measure_all)
            _choose_batch(t, d)
        size = int(d.batch.value) if batch and d.batch else t.state.batch
        if lr or measure_all:
            spend = LEAST_SECONDS if throughput is None else 0.0  # with given step times nothing hangs on the clock
            _choose_lr(t, d, size, (share if not batch else max(share - WARM - MEASURE, 0.3 * share)), spend)
    except HandfulError as error:
        d.notes.append(f"measuring failed, so defaults are used: {error}")
    if not batch:
        d.batch = d.growth = d.micro_batch = None
    if not lr:
        d.lr = None
    d.seconds = time.perf_counter() - started
    return d


def batch_cap(n: int) -> int:
    """The largest batch to consider for n rows: about n / 50, a power of two, at least 16, at most n.

    >>> [batch_cap(n) for n in (10, 135, 1617, 50_000)]
    [8, 16, 32, 1024]
    """
    return min(max(LEAST_CAP, 1 << round(math.log2(max(1, n / ROWS_PER_BATCH)))), 1 << (n.bit_length() - 1))


def planned_examples(t: Training) -> int:
    """The examples that the run will use at most; ten epochs where the stop rule does not say."""
    return t.planned or 10 * t.examples


def _measure(t: Training, d: Decision, share: float, given: Throughput | None, *, quick: bool) -> None:
    """Memory, throughput and noise scale."""
    planned = planned_examples(t)
    sizes = powers_of_two(d.cap, 2 if mode_coupling(t.objective.model.train()) else min(4, d.cap))
    if given is not None:
        d.throughput = given
    else:
        first = measure_throughput(t, [min(32, d.cap)], budget=0.2, repeats=3)
        whole_run = planned * first.seconds[0] / first.sizes[0]
        limit = min(30.0, max(0.25, 0.2 * share * whole_run)) if quick else max(2.0, min(60.0, share * whole_run))
        d.memory = measure_memory(t, d.cap, budget=0.1 * limit)
        d.throughput = measure_throughput(t, sizes, budget=limit, ceiling=d.memory.ceiling)
        for size, why in d.throughput.failed:
            d.notes.append(f"a trial step with a batch of {size:,} failed: {why}")
    _measure_noise(t, d, planned)


def _measure_noise(t: Training, d: Decision, planned: int) -> None:
    """phi after 2% of the planned examples, on a branch that is thrown away; or a note on why not."""
    coupling = loss_coupling(t.objective, t.objective.to_device(t.batches.at(t.state.position, min(16, t.examples))))
    if coupling:
        d.notes.append(f"{coupling}; its noise scale has no meaning, and the throughput rule is used")
        return
    tp = d.throughput
    assert tp is not None
    layers = mode_coupling(t.objective.model.train())
    size = min(fallback_batch(tp, d.cap, planned), 1 << max(0, int(WARM * planned / WARM_STEPS).bit_length() - 1))
    allowed = MEASURE * planned * tp(size) / size  # seconds
    parts, b = next(
        ((m, n) for m in (PARTS, PARTS // 2) for n in reversed(powers_of_two(d.cap)) if m * tp(n) <= allowed), (0, 0)
    )
    if not parts or size < LEAST or (layers and b < LEAST):
        d.notes.append(
            f"the run is too short ({planned:,} examples) to measure its noise scale; the throughput rule is used"
        )
        return
    warm = math.ceil(WARM * planned / size)
    with untouched(t):
        t.objective.model.train()
        if not math.isfinite(train(t, size, warm)[-1]):
            d.notes.append("the loss became infinite in the trial steps at the default rate; no noise scale")
            return
        batch = t.batches.at(t.state.position, parts * b)
        found = gradient_in_parts(t.objective, batch, parts, seed=t.plan.seed, step=t.state.step)[1]
    d.examples += warm * size + parts * b
    d.steps += warm + parts
    d.noise = pool([found])
    if layers:
        d.notes.append(f"{layers}: the noise scale is that of gradients over {b} rows")


def fallback_batch(throughput: Throughput, cap: int, planned: int) -> int:
    """The throughput rule: B0 among the batches that leave the run enough updates.

    >>> fallback_batch(Throughput.law(1000, 1, [8, 16, 32, 64, 128]), cap=128, planned=20_000)
    32
    """
    few = max(LEAST, 1 << max(0, int(planned / UPDATES).bit_length() - 1))
    # On a busy machine one lucky small step can look like the peak; a batch of a few rows is never what it stands for.
    return max(throughput.smallest_at_peak(min(cap, few)), min(LEAST, max(throughput.sizes)))


def best_batch(phi: float, throughput: Throughput, sizes: list[int]) -> int:
    """The size with the most predicted progress a second, B / (T(B) (B + phi)); of those within 2%, the largest,
    because phi rises during training.

    >>> best_batch(100.0, Throughput.law(64, 1, [4, 16, 64, 256]), [4, 16, 64, 256])    # sqrt(64 * 100) = 80
    64
    """
    progress = {n: throughput.rate(n) / (n + phi) for n in sizes}
    return max(n for n in sizes if progress[n] >= 0.98 * max(progress.values()))


def _choose_batch(t: Training, d: Decision) -> None:
    assert d.throughput is not None
    tp, planned = d.throughput, planned_examples(t)
    tested = [n for n in tp.sizes if LEAST <= n <= d.cap] or [max(tp.sizes)]
    fallback = fallback_batch(tp, d.cap, planned)
    rule = (
        f"the smallest with 90% of the best throughput among those that leave {UPDATES} updates "
        f"({_speed(tp, fallback)})"
    )
    phi = d.noise
    if phi is not None and phi.status == "measured" and phi.value is not None:
        size = best_batch(phi.value, tp, tested)
        low, high = best_batch(phi.low, tp, tested), best_batch(phi.high, tp, tested)
        d.batch = Choice(
            size,
            "measured",
            f"noise scale {phi}, {_speed(tp, size)}: the most progress a second of {tested[0]} to {tested[-1]:,}"
            + (f"; {low} to {high} over the interval" if low != high else "")
            + f" ({MACHINE}; batch={size} fixes it)",
        )
    elif phi is not None and phi.status == "bounded":
        low = min(best_batch(phi.low, tp, tested), fallback)
        size = 1 << round((math.log2(low) + math.log2(fallback)) / 2)
        d.batch = Choice(
            size,
            "bounded",
            f"noise scale {phi}: between the {low} that its bound asks for and {fallback}, {rule} "
            f"({MACHINE}; batch={size} fixes it)",
        )
    else:
        why = f"noise scale {phi}; " if phi is not None else ""
        d.batch = Choice(fallback, "bounded", f"{why}{rule} ({MACHINE}; batch={fallback} fixes it)")
    size = int(d.batch.value)
    if size in tp.micro_batches:
        d.micro_batch = Choice(tp.micro_batches[size], "measured", "the most rows that fit in memory at once")
    d.growth = _growth(t, d, size)


def _growth(t: Training, d: Decision, size: int) -> Choice:
    assert d.throughput is not None
    tp = d.throughput
    most = min(d.cap, max(tp.sizes))
    why = ""
    if 2 * size > most:
        why = f"{size} is the largest batch to consider" if size == d.cap else f"no batch above {size} was tested"
    elif d.noise is None or d.noise.status == "not measurable":
        why = "the noise scale could not be measured"
    elif isinstance(t.schedule, from_torch):
        why = "the schedule counts steps, not examples"
    elif t.planned is None:
        why = "the stop rule sets no length"
    elif not tp.is_line:
        why = "the step times do not lie on a line"
    if why:
        return Choice(None, "default", f"the batch stays: {why}")
    try:
        with untouched(t):
            rescale(t.state.optimizer, 1, 2, 1.0)
    except HandfulError as error:
        return Choice(None, "default", f"the batch stays: {error}")
    spec = growth(at_most=most, a=float(f"{tp.a:.4g}"), b=float(f"{tp.b:.4g}"))
    return Choice(str(spec), "measured", "doubles when the noise scale predicts 5% more progress a second, and a "
                  "branch confirms it")  # fmt: skip


def _speed(tp: Throughput, size: int) -> str:
    return f"{say_seconds(tp(size))} a step of {size}"


def _choose_lr(t: Training, d: Decision, size: int, share: float, least_seconds: float) -> None:
    """The default, unless short branches from the beginning say that another rate is better."""
    default, why = default_rate(t, size)
    steps = int(share * planned_examples(t) / size)
    planned, reach, cost = planned_examples(t) // size, REACH, ""
    if steps < 3 * BRANCH_STEPS and least_seconds:
        seconds = measure_throughput(t, [size], budget=0.2, repeats=3).seconds[0]
        affordable = min(int(least_seconds / seconds), planned)
        if affordable >= max(6 * BRANCH_STEPS, planned // 2):
            steps, reach = affordable, LEAST_REACH
            cost = f"; {steps * seconds:.1g} s, more than 5% of so short a run"
    if steps < 3 * BRANCH_STEPS:
        d.lr = Choice(
            default,
            "default",
            f"{why}; the run is too short to try others ({steps} steps are {share:.1%} of it)",
        )
        return
    centre = default
    if steps >= 16 * BRANCH_STEPS:
        k = 2 * BRANCH_STEPS
        d.range_test = learning_rate.range_test(t, size=size, steps=k, repeats=2)
        d.examples += 2 * k * size
        d.steps += 2 * k
        steps -= 2 * k
        if d.range_test.minimum is not None:
            centre = min(max(d.range_test.minimum / learning_rate.BELOW, default / reach), default * reach)
    d.branches = _climb(t, d, size, steps, default, centre, reach)
    chosen = learning_rate.choose(d.branches, default)
    if chosen is None:
        d.lr = Choice(default, "default", f"{why}; no branch of {min(b.lr for b in d.branches):.2g} or more helped")
        return
    at_default = next(b for b in d.branches if b.lr == default)
    others = ", ".join(f"{b.lr:.2g}: {say_number(b.loss)}" for b in sorted(d.branches, key=lambda b: b.lr))
    d.lr = Choice(
        chosen.lr,
        "measured",
        (
            f"the default ({why}) held"
            if chosen is at_default
            else f"loss {say_number(chosen.loss)} against {say_number(at_default.loss)} at the default {default:.2g}"
        )
        + f" after short branches ({others}){cost}",
    )


def default_rate(t: Training, size: int) -> tuple[float, str]:
    """The optimizer's stated rate, taken to be for a batch of 32, and for larger ones raised as the best rates were
    found to rise: 8 times (adaptive) and 4 times (SGD) over batches 256 times as large."""
    rate = float(t.state.optimizer.param_groups[0]["initial_lr"])
    why = t.plan.choices["lr"].reason
    if size <= 32:
        return rate, why
    power = 0.25 if isinstance(t.state.optimizer, torch.optim.SGD) else 0.375
    return float(f"{rate * (size / 32) ** power:.3g}"), f"{rate:.3g} at a batch of 32 ({why}), raised for {size}"


def _climb(
    t: Training, d: Decision, size: int, steps: int, default: float, centre: float, reach: float
) -> list[Branch]:
    """Branches at the default, around `centre`, and on from the best of them by factors of 2, while the steps last."""
    repeats = 2 if steps >= 16 * BRANCH_STEPS else 1
    length = min(400, max(BRANCH_STEPS, steps // (6 * repeats)))
    check = check_batches(t, size * length * repeats)
    before = loss_on(t, check)
    done: dict[float, Branch] = {}

    def run(lr: float) -> bool:
        nonlocal steps
        near = next((known for known in done if abs(math.log(known / lr)) < 0.3), None)
        if near is not None or steps < length * repeats:
            return near is not None
        if lr > default * reach * 1.001:
            return False
        steps -= length * repeats
        d.examples += length * repeats * size
        d.steps += length * repeats
        found = []
        for k in range(repeats):
            found.append(learning_rate.branch(t, lr, size=size, steps=length, check=check, offset=k * size * length))
            if not found[-1] <= before:  # worse than no step at all
                found = [math.inf] * repeats
                break
        done[lr] = Branch(lr, tuple(found))
        return True

    for lr in (default, centre, 2 * centre, centre / 2):
        if lr <= default or math.isfinite(done[default].loss):
            run(lr)
    while not any(math.isfinite(b.loss) for b in done.values()) and run(min(done) / 8):
        pass
    while len(done) < 12 and any(math.isfinite(b.loss) for b in done.values()):
        tried, best = len(done), min(done.values(), key=lambda b: b.loss).lr
        run(2 * best)
        run(best / 2)
        if len(done) == tried:  # the best has its neighbours, or the steps are used up
            break
    return list(done.values())


def check_batches(t: Training, trained: int) -> list[Batch]:
    """Up to 1,024 training rows to compare branches on, from beyond the `trained` rows that the branches use."""
    rows = min(1024, max(64, t.examples // 4))
    return [t.batches.at(t.state.position + trained + k, min(256, rows - k)) for k in range(0, rows, 256)]


__all__ = ["Decision", "batch_cap", "best_batch", "decide"]
