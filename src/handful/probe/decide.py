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
from handful.optimizer import gain, rescale, set_base
from handful.plan import Choice
from handful.probe.growth import growth
from handful.probe.learning_rate import RangeTest, range_test
from handful.probe.memory import Memory, measure_memory
from handful.probe.noise import PARTS, NoiseScale, gradient_in_parts, pool
from handful.probe.race import FURTHER, LOSERS, SPACING, Branch, Race, race
from handful.probe.snapshot import Snapshot, untouched
from handful.probe.throughput import Throughput, measure_throughput, powers_of_two
from handful.probe.trial import train
from handful.report.words import say_number, say_seconds
from handful.schedule import from_torch
from handful.training import Training

SHARE = 0.05  # of the planned examples, for everything that is tried and does not train the model
TIMING, NOISE = 0.005, 0.015  # of the planned examples, for the step times and for the noise scale
WARM = 0.02  # of them are trained on before anything is measured, or up to twice as much to make
OPENING = 30  # steps; these steps are the run's own
LOWER = 8.0  # what a rate is divided by whose first steps break off
LATEST_RACE = 0.08  # share of the run after which no further race begins
RACE = 0.02  # of the planned examples, for the losers of the first race; what is left over may go to another one
ROWS_PER_BATCH = 50  # a batch is at most a fiftieth of the data,
LEAST_CAP = 16  # or this,
UPDATES = 550  # and leaves the throughput rule at least so many updates
LEAST = 8
BRANCH_STEPS = 10  # the fewest steps that tell two rates apart,
FEWEST_STEPS = 6  # rates four times apart,
MOST_STEPS = 2000  # and the most that it is worth
MACHINE = "measured here; another machine may choose otherwise"


@dataclass
class Decision:
    """What was chosen (None: was not asked), what was measured for it, and what it cost: steps and examples that do
    not train the model. start: the run's state after the first steps, which do; None: it begins at the beginning."""

    batch: Choice | None = None
    lr: Choice | None = None
    micro_batch: Choice | None = None
    growth: Choice | None = None
    throughput: Throughput | None = None
    memory: Memory | None = None
    noise: NoiseScale | None = None
    range_test: RangeTest | None = None
    races: list[Race] = field(default_factory=list)
    start: Snapshot | None = None
    cap: int = 0
    notes: list[str] = field(default_factory=list)
    examples: int = 0
    steps: int = 0
    seconds: float = 0.0

    def in_time(self, examples: float, size: int) -> float:
        """Steps of `size` rows that take as long as so many examples do in the fastest batches: the run may go on with
        those, and what is spent before is measured against that."""
        tp = self.throughput
        return examples / size if tp is None else examples * min(tp(n) / n for n in tp.sizes) / tp(size)

    @property
    def branches(self) -> list[Branch]:
        return [branch for found in self.races for branch in found.branches]


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

    The run begins: with a batch by the throughput rule its first steps are taken; the next ones are at several rates,
    and the best of them is kept; its gradients tell the noise scale and with it the batch to go on with. `start` holds
    the state then.

    share: of the planned examples that may be spent; throughput: step times that are given instead of measured;
    measure_all: measure what no choice needs, too (for `advise`).
    """
    started = time.perf_counter()
    d = Decision(cap=batch_cap(t.examples))
    if t.ranks.size > 1:
        d.notes.append("with several ranks nothing is measured: batch and lr are stated defaults")
        return d
    beginning = Snapshot(t)
    try:
        size = t.state.batch
        if batch or measure_all:
            _measure_times(t, d, share, throughput, quick=not measure_all)
            assert d.throughput is not None
            size = fallback_batch(d.throughput, d.cap, planned_examples(t))
        rate = _first_steps(t, d, size, share, beginning, batch=batch or measure_all, lr=lr or measure_all)
        if batch or measure_all:
            _measure_noise(t, d, size, NOISE * share / SHARE)
            _choose_batch(t, d)
            assert d.batch is not None
            rate *= rate_follows(t, size, int(d.batch.value), d.noise.value if d.noise else None)
        if d.lr is not None:
            d.lr = _follow(d.lr, rate, size, int(d.batch.value) if d.batch else size)
        if t.state.step > beginning.numbers[1]:
            d.start = Snapshot(t)
    except HandfulError as error:
        d.notes.append(f"measuring failed, so defaults are used: {error}")
    finally:
        beginning.restore()
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


def _measure_times(t: Training, d: Decision, share: float, given: Throughput | None, *, quick: bool) -> None:
    """Memory and throughput."""
    if given is not None:
        d.throughput = given
        return
    sizes = powers_of_two(d.cap, 2 if mode_coupling(t.objective.model.train()) else min(4, d.cap))
    first = measure_throughput(t, [min(32, d.cap)], budget=0.2, repeats=3)
    whole_run = planned_examples(t) * first.seconds[0] / first.sizes[0]
    limit = min(30.0, max(0.25, TIMING * whole_run)) if quick else max(2.0, min(60.0, share * whole_run))
    d.memory = measure_memory(t, d.cap, budget=0.1 * limit)
    d.throughput = measure_throughput(t, sizes, budget=limit, ceiling=d.memory.ceiling)
    for size, why in d.throughput.failed:
        d.notes.append(f"a trial step with a batch of {size:,} failed: {why}")


def _first_steps(
    t: Training, d: Decision, size: int, share: float, beginning: Snapshot, *, batch: bool, lr: bool
) -> float:
    """Begin the run with batches of `size`: some steps, then a race of rates where the run is long enough for one.
    Leaves the training there; returns the base rate that it has."""
    planned = planned_examples(t)
    rate = float(t.state.optimizer.param_groups[0]["initial_lr"])
    if not lr:
        return _open(t, d, rate, size, beginning, tries=1)
    rate, why = default_rate(t, size)
    budget = min(share, 2 * SHARE) - (TIMING + NOISE if batch else 0.0)
    steps, factors = _plan_race(t, d.in_time(budget * planned, size), d.in_time(RACE / SHARE * share * planned, size))
    if not steps:
        d.lr = Choice(rate, "default", f"{why}; the run is too short to try others ({budget:.0%} of it are "
                      f"{d.in_time(budget * planned, size):.0f} steps)")  # fmt: skip
    elif share > SHARE:
        d.range_test = range_test(t, size=size, steps=60, repeats=2)
        d.steps, d.examples = d.steps + 120, d.examples + 120 * size
    opened = _open(t, d, rate, size, beginning, tries=6)
    if opened != rate:
        d.lr = Choice(opened, "measured", f"the first steps broke off at {rate:.2g} ({why}) and did not at this rate")
    elif steps:
        return _races(t, d, rate, why, size, steps, factors, budget * planned)
    return opened


def _plan_race(t: Training, most: float, usual: float) -> tuple[int, tuple[float, ...]]:
    """(steps of a branch, factors of the rate) where so many steps may be lost; 0 steps: too few for a race.

    An adaptive optimizer's default has the right scale, so that fewer steps tell nothing better. SGD's has none: where
    there is one loser's worth of steps, it is spent on a rate four times as large."""
    if most >= LOSERS * BRANCH_STEPS:
        return min(MOST_STEPS, max(BRANCH_STEPS, int(usual / LOSERS))), (SPACING, SPACING**2)
    if isinstance(t.state.optimizer, torch.optim.SGD) and most >= FEWEST_STEPS:
        return min(BRANCH_STEPS, int(most)), (SPACING**2,)
    return 0, ()


def _open(t: Training, d: Decision, rate: float, size: int, beginning: Snapshot, *, tries: int) -> float:
    """The run's first steps, before anything can be told from it; a rate that breaks off is lowered until one does not,
    in so many tries. Returns the rate that they were taken at, which the optimizer then has."""
    planned = planned_examples(t)
    steps = max(math.ceil(WARM * planned / size), min(OPENING, math.ceil(d.in_time(2 * WARM * planned, size))))
    set_base(t.state.optimizer, rate)
    if WARM * planned < size:
        return rate
    for tried in (rate / LOWER**k for k in range(tries)):
        set_base(t.state.optimizer, tried)
        t.objective.model.train()
        losses = train(t, size, steps)
        third = max(1, len(losses) // 3)
        if math.isfinite(losses[-1]) and (steps < FEWEST_STEPS or sum(losses[-third:]) <= 1.5 * sum(losses[:third])):
            return tried
        d.steps, d.examples = d.steps + len(losses), d.examples + len(losses) * size
        beginning.restore()
    d.notes.append("the loss became infinite in the first steps; they were taken back, and nothing is measured")
    set_base(t.state.optimizer, rate)
    return rate


def _races(
    t: Training, d: Decision, rate: float, why: str, size: int, steps: int, factors: tuple[float, ...], budget: float
) -> float:
    """A race; while the largest rate wins, another one later, as long as the budget (in examples) lasts."""
    default, left = rate, budget
    while True:
        start, first = Snapshot(t), not d.races
        found = race(t, rate, size=size, steps=steps, start=start, factors=factors, lower=first)
        d.races.append(found)
        d.steps, d.examples, left = d.steps + found.lost, d.examples + found.lost * size, left - found.lost * size
        if found.winner is not None:
            rate = found.winner.lr
        (found.end or start).restore()
        set_base(t.state.optimizer, rate)
        late = t.state.position > LATEST_RACE * planned_examples(t)
        if not found.open_above or (len(factors) == 1 and first) or left < steps * size or late:
            break
        factors = (SPACING,)
        if not math.isfinite(train(t, size, t.state.step)[-1]):  # as many steps again: the run goes on
            (found.end or start).restore()
            break
    d.lr = _say_races(d.races, default, rate, why)
    return rate


def _say_races(races: list[Race], default: float, rate: float, why: str) -> Choice:
    said = []
    for found in races:
        losses = ", ".join(f"{b.lr:.2g}: {say_number(b.loss)}" for b in sorted(found.branches, key=lambda b: b.lr))
        said.append(f"steps {found.first + 1}-{found.first + found.steps} (loss {say_number(found.before)} before "
                    f"them, then {losses})")  # fmt: skip
    run = f"in a race over {', then '.join(said)}; a larger rate must come {FURTHER:.0%} further"
    if races[0].winner is None:
        return Choice(default, "default", f"{why}; no rate that was tried helped {run}")
    if rate == default:
        return Choice(rate, "measured", f"the default ({why}) held {run}")
    return Choice(rate, "measured", f"better than the default {default:.2g} ({why}) {run}")


def _follow(rate: Choice, value: float, before: int, after: int) -> Choice:
    """The rate for the batch that was chosen after it."""
    if before == after:
        return rate
    value = float(f"{value:.3g}")
    return Choice(value, rate.status, f"{rate.reason}; {rate.value:.3g} at a batch of {before}, {value:.3g} at {after}")


def _measure_noise(t: Training, d: Decision, size: int, share: float) -> None:
    """phi from the next gradients, without an update; or a note on why not."""
    planned, tp = planned_examples(t), d.throughput
    assert tp is not None
    coupling = loss_coupling(t.objective, t.objective.to_device(t.batches.at(t.state.position, min(16, t.examples))))
    if coupling:
        d.notes.append(f"{coupling}; its noise scale has no meaning, and the throughput rule is used")
        return
    layers = mode_coupling(t.objective.model.train())
    allowed = share * planned * tp(size) / size  # seconds
    affordable = [
        (m * n, m, n) for m in (PARTS, PARTS // 2) for n in powers_of_two(d.cap) if m * tp(n) <= allowed
    ]  # the most examples, and of as many the most parts
    parts, b = max(affordable)[1:] if affordable else (0, 0)
    if not parts or t.state.position < WARM * planned or (layers and b < LEAST):
        d.notes.append(
            f"the run is too short ({planned:,} examples) to measure its noise scale; the throughput rule is used"
        )
        return
    with untouched(t):
        batch = t.batches.at(t.state.position, parts * b)
        found = gradient_in_parts(t.objective, batch, parts, seed=t.plan.seed, step=t.state.step)[1]
    d.examples += parts * b
    d.steps += parts
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


def default_rate(t: Training, size: int) -> tuple[float, str]:
    """The optimizer's stated rate, taken to be for a batch of 32, and raised for a larger one."""
    rate = float(t.state.optimizer.param_groups[0]["initial_lr"])
    why = t.plan.choices["lr"].reason
    if size <= 32:
        return rate, why
    return float(f"{rate * rate_follows(t, 32, size):.3g}"), f"{rate:.3g} at a batch of 32 ({why}), raised for {size}"


def rate_follows(t: Training, before: int, after: int, phi: float | None = None) -> float:
    """What the rate is multiplied by when the batch changes. With the noise scale known, the gain of Johnson et al.
    2020 (arXiv:2007.05105), its root for adaptive optimizers; else as the best rates were found to rise, 8 times
    (adaptive) and 4 times (SGD) over batches 256 times as large."""
    sgd = isinstance(t.state.optimizer, torch.optim.SGD)
    if phi is not None:
        by = gain(before, after, phi)
        return by if sgd else math.sqrt(by)
    return float((after / before) ** (0.25 if sgd else 0.375))


__all__ = ["Decision", "batch_cap", "best_batch", "decide"]
