"""The batch, the micro-batch and the learning rate, decided by measurement before the run begins.

With T(B) seconds per step and examples needed in proportion to B + phi (McCandlish et al. 2018, equation 2.11),
progress per second is in proportion to B / (T(B) (B + phi)) (the goodput of Qiao et al. 2021, arXiv:2008.12260). For
T = a + b B it is greatest at B* = sqrt((a / b) phi). phi grows along a run, and what is measured at its beginning is
small and far from sure: it is taken together with the usual one (`believed`), which stands alone where measuring costs
more than it brings. Where phi has no meaning the batch is B0, the smallest with at least 90% of the best throughput.
"""

import math
import time
from collections.abc import Callable, Sequence

from handful.base.errors import HandfulError
from handful.base.plan import Choice, Status
from handful.base.stopwatch import part
from handful.optim.initial_lr import UPDATES, USUAL_BATCH
from handful.optim.rates import rescale, set_base
from handful.optim.schedule import from_torch
from handful.plan.probe.batch_growth import GAIN, growth
from handful.plan.probe.decision import (
    NOISE,
    SHARE,
    TIMING,
    USUAL_NOISE,
    WARM,
    Decision,
    base_rate,
    planned_examples,
    raced_examples,
)
from handful.plan.probe.first_steps import first_steps, rate_follows
from handful.plan.probe.memory import memory_of_all
from handful.plan.probe.noise_scale import PARTS, GradientMoments, gradient_in_parts, pool
from handful.plan.probe.step_time import OF_ALL, Throughput, fit_times, measure_throughput, powers_of_two, time_first
from handful.plan.probe.steps import Snapshot, agreed, clock, effort, untouched
from handful.report.words import say_number, say_seconds
from handful.training.special.coupling import mode_coupling, training_mode
from handful.training.step import update
from handful.training.training import Training
from handful.training.watch import saved

ROWS_PER_BATCH = 50  # a batch is at most a fiftieth of the data,
LEAST_CAP = 16  # or this, and leaves the throughput rule at least UPDATES,
FEWEST = 150  # the usual noise scale so many
LEAST = 8
LARGEST = 128  # the batch where none is measured: from the usual to this
SHORT = 10.0  # seconds: a run that will be over in so many takes the defaults, for measuring takes up to one,
FEW = 100  # steps in the time that a run has: it takes the defaults, for measuring takes a dozen;
LONGER = 12.0  # times as long where time is not what was given: it begins with them, and its batch may grow then
FOURFOLD = 4  # the size before is each that is timed for that
STEP_COST = 64  # rows that a step costs besides its own, where times are stated: that of small networks on a CPU
LITTLE = 0.05  # of the predicted progress per second: less is not worth more measuring
MOST_RISE = 4.0  # of the rate for the one large batch that the noise scale is measured with


def decide(
    t: Training, *, batch: bool = True, lr: bool = True, share: float = SHARE, throughput: Throughput | None = None,
    measure_all: bool = False, weigh: bool = False, open_length: bool = False, stay: bool = False,
) -> Decision:  # fmt: skip
    """Decide what was left open, on a Training that was built with provisional values.

    The run begins: with a batch by the throughput rule its first steps are taken; the next ones are at several rates,
    and the best of them is kept; its gradients tell the noise scale and with it the batch to go on with. There it is
    left where it is to `stay`, but for the rates and sizes tried; else, and where measuring failed, as it was.

    share: of the planned examples that may be spent; throughput: step times that are given instead of measured;
    measure_all: measure what no choice needs, too (for `advise`); weigh: take the defaults, where the run is so short
    that measuring would not earn back what it costs; open_length: whether the stop rule is ours.
    """
    d = Decision(cap=batch_cap(t.examples))
    beginning, size = Snapshot(t), t.state.batch
    d.beginning = saved.beginning(t.state, t.planned, d.trail) if stay and t.folder else None
    caught: tuple[type[Exception], ...] = OF_ALL if t.ranks.size > 1 else (HandfulError,)
    try:
        whole = batch and t.objective.coupling  # it cannot be cut into parts: only a batch that was run is taken
        limit = SHORT if t.rule.time() is not None else SHORT * LONGER
        short = too_short(t, d, throughput, limit, beginning) if weigh and not whole else ""
        ask_batch = (batch or measure_all) and not short
        if short and batch:
            size = take_usual(t, d, short, open_length=open_length)
            if limit > SHORT and not open_length and t.ranks.size == 1:
                may_grow(t, d, size, share, throughput)
        if ask_batch:
            tp = d.throughput = throughput or measure_times(t, d, share, quick=not measure_all)
            size = first_size(t, d, tp)
        rate = first_steps(
            t, d, size, share, beginning, batch=ask_batch, lr=lr or measure_all, short=short,
            learned=bool(short) and not open_length,
        )  # fmt: skip
        if ask_batch:
            measure_noise(t, d, tp, size, NOISE * share / SHARE, rise=MOST_RISE if lr else 1.0)
            follow(t, d, rate, size, choose_batch(t, d, tp))
        d.trail += t.state.trail
    except caught as error:
        d.notes.append(f"measuring failed, so defaults are used: {error}")
    finally:
        if not (stay and d.trail):
            beginning.hand_over()
        beginning.put_back_settings()
    if not batch:
        d.batch = d.growth = d.micro_batch = None
    if not lr:
        d.lr = None
    d.seconds = agreed(t, time.perf_counter() - t.clock)
    return d


def too_short(t: Training, d: Decision, known: Throughput | None, limit: float, beginning: Snapshot) -> str:
    """Why measuring would not earn back what it costs, for a run that will be over in `limit` seconds; empty where it
    may, or where step times are given. How long it computes counts, not how long other processes keep it waiting: a
    busy machine decides as a quiet one. The time of the one size that was asked about stands in the plan: given again
    (`known`), it decides the same."""
    planned, size, step = planned_examples(t, d), usual(t, d.cap), math.inf
    if known is None and t.rule.time() is None:  # the first step takes longer than any other: often it tells enough
        step = time_first(t, size, effort, beginning)
    if planned * step > SHORT * size:
        first = timed_first(t, d, effort if t.rule.time() is None else clock, known)
        if known is not None and len(known.sizes) > 1 and known.sizes[1] < FOURFOLD * known.sizes[0]:
            return ""
        planned, size, step = planned_examples(t, d), first.sizes[0], first.low[0]
    seconds, few = planned * step / size, d.within is not None and d.within < FEW * size
    if seconds > limit and not few:
        return ""
    d.throughput = fit_times({size: [step]})
    long = f"will take {say_seconds(seconds)} at most" if seconds <= limit else f"has time for {planned // size} steps"
    return f"the run {long}, too little to earn back a measurement"


def timed_first(
    t: Training, d: Decision, timer: Callable[[Training], float], known: Throughput | None = None
) -> Throughput:
    """A step of the usual mini-batch, timed; and what the run can train on in the time that the stop rule gives it."""
    first = known or measure_throughput(t, [usual(t, d.cap)], budget=0.2, repeats=3, timer=timer)
    if (most := t.rule.time()) is not None and first.tested:
        d.within = max(1, int(most * first.sizes[0] / first.seconds[0]))
    return first


def take_usual(t: Training, d: Decision, why: str, *, open_length: bool) -> int:
    """The batch where none is measured: the usual; where the length was asked for, so that time may count, the largest
    with which the run still has its updates."""
    size = min(USUAL_BATCH, d.cap)
    reason = "the usual, but no more than a fiftieth of few rows"
    if not open_length:
        size = max(size, min(LARGEST, d.cap, powers_of_two(max(1, planned_examples(t, d) // UPDATES))[-1]))
        reason = (
            f"{USUAL_BATCH} to {LARGEST}, as large as leaves {UPDATES} updates, but no more than a fiftieth of few rows"
        )
    d.batch = Choice(size, "default", f"{reason}; {why}")
    d.growth = Choice(None, "default", f"the batch stays: {why}")
    return size


def may_grow(t: Training, d: Decision, size: int, share: float, known: Throughput | None) -> None:
    """Time some sizes, where the run is not over at once, so that the batch may grow later on: the noise scale is then
    measured from 6% of the run on, and what that costs is in proportion to what was trained before."""
    first, planned = known or d.throughput, planned_examples(t, d)
    if first and (len(first.sizes) > 1 or (not known and planned > SHORT * first.rate(first.sizes[0]))):
        d.throughput = known or measure_times(t, d, share, quick=True, few=True)
        d.growth = choose_growth(t, d, d.throughput, size)


def follow(t: Training, d: Decision, rate: float, size: int, chosen: int) -> None:
    """Let a rate that was chosen for batches of `size` be that of the batch that was chosen then."""
    if d.lr is not None and chosen != size:
        phi = d.noise.value if d.noise else None
        new = rate * rate_follows(t, size, chosen, phi and believed(phi))
        why = f"{d.lr.reason}; {d.lr.value:.3g} at a batch of {size}, {new:.3g} at {chosen}"
        d.lr = Choice(float(f"{new:.3g}"), d.lr.status, why)


def batch_cap(n: int) -> int:
    """The largest batch to consider for n rows: about n / 50, a power of two, at least 16, at most n.

    >>> [batch_cap(n) for n in (10, 135, 1617, 50_000)]
    [8, 16, 32, 1024]
    """
    about = int(2 ** round(math.log2(max(1, n / ROWS_PER_BATCH))))
    return min(max(LEAST_CAP, about), powers_of_two(n)[-1])


def sizes_to_time(t: Training, cap: int) -> list[int]:
    return powers_of_two(cap, max(least_rows(t), min(4, cap)))


def least_rows(t: Training) -> int:
    """The fewest rows of a mini-batch to time: one on each rank, or two of a layer that normalises over rows."""
    return t.ranks.size * (2 if mode_coupling(training_mode(t.objective.model)) else 1)


def not_by_ranks(t: Training) -> str:
    """Why these ranks cannot measure batch and rate together; empty where they can."""
    why = "a sharded model" if t.ranks.sharding else "so few rows" if least_rows(t) > batch_cap(t.examples) else ""
    why = why or t.objective.coupling or ""
    return f"several ranks measure nothing of {why}: batch and lr are stated defaults" if why else ""


def usual(t: Training, cap: int) -> int:
    """The mini-batch that is timed first."""
    size = min(USUAL_BATCH, cap)
    return size if size >= 2 * t.ranks.size else max(size, least_rows(t))


def stated_times(t: Training) -> Throughput:
    """Step times that no clock was read for, in units of a row's: a step costs as much as STEP_COST rows besides."""
    return Throughput.law(STEP_COST, 1, sizes_to_time(t, batch_cap(t.examples)))


def measure_times(t: Training, d: Decision, share: float, *, quick: bool, few: bool = False) -> Throughput:
    """Memory, and step times up to the batch cap. few: of the usual size and some from FOURFOLD it on, as computed."""
    if t.objective.coupling:  # a mini-batch that does not fit cannot be cut
        d.memory = memory_of_all(t, d.cap, budget=1.0)
        d.cap = min(d.cap, d.memory.ceiling)
    timer, least, repeats = (effort, 0.0, 2) if few else (clock, 0.25, 7)
    first = timed_first(t, d, timer, d.throughput)
    above = powers_of_two(d.cap, FOURFOLD * first.sizes[0])
    sizes = [first.sizes[0], *above[::2], *above[1:][-1:]] if few else sizes_to_time(t, d.cap)
    whole_run = planned_examples(t, d) * first.seconds[0] / first.sizes[0]
    limit = min(30.0, max(least, TIMING * whole_run)) if quick else max(2.0, min(60.0, share * whole_run))
    d.memory = d.memory or memory_of_all(t, d.cap, budget=0.1 * limit)
    known = {first.sizes[0]: first.seconds} if t.ranks.most_of(first.sizes[0]) <= d.memory.ceiling else {}
    measured = measure_throughput(
        t, sizes, budget=limit, repeats=repeats, ceiling=d.memory.ceiling, known=known, timer=timer
    )
    d.notes += [f"a trial step with a batch of {size:,} failed: {why}" for size, why in measured.failed]
    return measured


@part("measuring the noise scale")
def measure_noise(t: Training, d: Decision, tp: Throughput, size: int, share: float, *, rise: float) -> None:
    """phi from the next gradients, with which one step is taken; or a note on why not. rise: the most by which the rate
    may be raised for that large batch; 1 where it was given."""
    planned, position = planned_examples(t, d), t.state.position
    if t.objective.coupling:
        d.notes.append(f"{t.objective.coupling}; its noise scale has no meaning, and the throughput rule is used")
        return
    layers = mode_coupling(training_mode(t.objective.model))
    allowed = share * planned * tp(size) / size  # seconds
    some = [t.ranks.size * t.ranks.most_of(m) for m in (PARTS, PARTS // 2)]  # as many on each rank
    affordable = [(m * n, m, n) for m in some for n in powers_of_two(d.cap) if m * tp(n) <= allowed]
    _, parts, b = max(affordable, default=(0, 0, 0))  # the most examples, and of as many the most parts
    if not parts or position < WARM * raced_examples(t, d) or (layers and b < LEAST):
        d.notes.append(
            f"the run is too short ({planned:,} examples) to measure its noise scale: it is taken to be the usual"
        )
        return
    sizes = tested_sizes(tp, d.cap)
    start, rate = Snapshot(t), base_rate(t)
    outcome, found = gradient_in_parts(
        t.objective, t.batches.at(position, parts * b, t.ranks.share), parts // t.ranks.size, t.ranks,
        seed=t.plan.seed, step=t.state.step, enough=lambda so_far: tells_enough(so_far, tp, sizes),
    )  # fmt: skip
    d.noise = pool([found])
    if d.noise.value is None:
        start.restore()
        d.spend(found.parts, b)
    else:  # the gradient that lies in `.grad` trains the model
        raised = rate * min(rise, rate_follows(t, size, found.examples, d.noise.value))
        set_base(t.state.optimizer, raised)
        update(t)
        t.state.trail.append((found.examples, b, raised, float(outcome.loss) / float(outcome.weight)))
        set_base(t.state.optimizer, rate)
        t.state.window.added.append(outcome)
        t.state.position, t.state.step = position + found.examples, t.state.step + 1
        d.steps += found.parts - 1
    if layers:
        d.notes.append(f"{layers}: the noise scale is that of gradients over {b} rows")


def believed(phi: float) -> float:
    """The noise scale to decide by: half-way, by ratio, between what was measured and the usual.

    >>> believed(8.0), believed(2048.0)
    (32.0, 512.0)
    """
    return math.sqrt(phi * USUAL_NOISE)


def first_size(t: Training, d: Decision, tp: Throughput) -> int:
    """The batch to begin with: the best at the usual noise scale of those that leave FEWEST updates; of a loss whose
    noise scale has no meaning that of the throughput rule."""
    planned, sizes = planned_examples(t, d), tested_sizes(tp, d.cap)
    if t.objective.coupling:
        return fallback_batch(tp, d.cap, planned)
    return best_batch(USUAL_NOISE, tp, [n for n in sizes if n <= planned / FEWEST] or sizes[:1])


def fallback_batch(throughput: Throughput, cap: int, planned: int) -> int:
    """The throughput rule: B0 among the batches that leave the run enough updates.

    >>> fallback_batch(Throughput.law(1000, 1, [8, 16, 32, 64, 128]), cap=128, planned=20_000)
    32
    """
    few = max([LEAST, *powers_of_two(planned // UPDATES)])
    # On a busy machine one lucky small step can look like the peak; a batch of a few rows is never what it stands for.
    return max(throughput.smallest_at_peak(min(cap, few)), min(LEAST, max(throughput.sizes)))


def tells_enough(measured: GradientMoments, throughput: Throughput, sizes: Sequence[int]) -> bool:
    """Whether the batch is about as good as any, wherever in its interval phi lies: more would change little."""
    phi = pool([measured])
    if phi.value is None:
        return False
    size = best_batch(believed(phi.value), throughput, sizes)
    return all(loss_of_progress(size, believed(end), throughput, sizes) <= LITTLE for end in (phi.low, phi.high))


def loss_of_progress(size: int, phi: float, throughput: Throughput, sizes: Sequence[int]) -> float:
    """The share of the predicted progress per second that is lost by `size` against the best of some sizes.

    >>> loss_of_progress(16, 100.0, Throughput.law(64, 1, [4, 16, 64, 256]), [4, 16, 64, 256])
    0.43...
    """
    progress = {n: throughput.rate(n) / (n + phi) for n in sizes}
    return 1 - progress[size] / max(progress.values())


def tested_sizes(throughput: Throughput, cap: int) -> list[int]:
    return [n for n in throughput.sizes if LEAST <= n <= cap] or [max(throughput.sizes)]


def best_batch(phi: float, throughput: Throughput, sizes: Sequence[int]) -> int:
    """The size with the most predicted progress per second, B / (T(B) (B + phi)); of those within 2%, the largest,
    because phi rises during training.

    >>> best_batch(100.0, Throughput.law(64, 1, [4, 16, 64, 256]), [4, 16, 64, 256])    # sqrt(64 * 100) = 80
    64
    """
    progress = {n: throughput.rate(n) / (n + phi) for n in sizes}
    return max(n for n in sizes if progress[n] >= 0.98 * max(progress.values()))


def choose_batch(t: Training, d: Decision, tp: Throughput) -> int:
    """The batch, the micro-batch where the batch needs one, and whether the batch may grow, with their reasons."""
    tested, phi = tested_sizes(tp, d.cap), d.noise
    status: Status = "bounded"
    most = f"the most progress per second of {tested[0]} to {tested[-1]:,}"
    if phi is not None and phi.value is not None:
        size, low, high = (best_batch(believed(value), tp, tested) for value in (phi.value, phi.low, phi.high))
        taken = f"with the usual {USUAL_NOISE} taken to be {say_number(believed(phi.value))}"
        why = f"noise scale {phi}, {taken}: {_speed(tp, size)}, {most}"
        why += f"; {low} to {high} over the interval" if low != high else ""
        status = "measured"
    elif phi is not None and phi.status == "bounded":
        size = best_batch(max(USUAL_NOISE, believed(phi.low)), tp, tested)
        why = f"noise scale {phi}; of at least the usual {USUAL_NOISE}: {_speed(tp, size)}, {most}"
    elif phi is None and not t.objective.coupling:
        size = first_size(t, d, tp)
        why = f"noise scale taken to be the usual {USUAL_NOISE}: {_speed(tp, size)}, {most} that leave {FEWEST} updates"
    else:
        size = fallback_batch(tp, d.cap, planned_examples(t, d))
        why = f"the smallest with 90% of the best throughput among those that leave {UPDATES} updates"
        why = f"{f'noise scale {phi}; ' if phi else ''}{why} ({_speed(tp, size)})"
    here = (
        f"measured here; another machine may choose otherwise; batch={size} fixes it"
        if tp.tested
        else "by a stated law of step times, not by the clock"
    )
    d.batch = Choice(size, status, f"{why} ({here})")
    if size in tp.micro_batches:
        d.micro_batch = Choice(tp.micro_batches[size], "measured", "the most rows that fit in memory at once")
    d.growth = choose_growth(t, d, tp, size)
    return size


def choose_growth(t: Training, d: Decision, tp: Throughput, size: int) -> Choice:
    """How far the batch may grow from `size` on, or why it stays."""
    most = min(d.cap, max(tp.sizes))
    why = ""
    if 2 * size > most:
        why = f"{size} is the largest batch to consider" if size == d.cap else f"no batch above {size} was tested"
    elif t.objective.coupling or (d.noise is not None and d.noise.status == "not measurable"):
        why = "the noise scale could not be measured"
    elif isinstance(t.schedule, from_torch):
        why = "the schedule counts steps, not examples"
    elif t.ranks.size > 1:
        why = "several ranks do not measure it again"
    elif t.planned is None:
        why = "the stop rule sets no length"
    elif not tp.is_line:
        why = "the step times do not lie on a line"
    else:
        try:
            with untouched(t):
                rescale(t.state.optimizer, 1, 2, 1.0)
        except HandfulError as error:
            why = str(error)
    if why:
        return Choice(None, "default", f"the batch stays: {why}")
    spec = growth(at_most=most, a=float(f"{tp.a:.4g}"), b=float(f"{tp.b:.4g}"))
    when = f"doubles when the noise scale predicts {GAIN - 1:.0%} more progress per second, and a branch confirms it"
    return Choice(str(spec), "measured", when)


def _speed(tp: Throughput, size: int) -> str:
    return (
        f"{say_seconds(tp(size))} per step of {size}" if tp.tested else f"a step of {size} taken to cost {tp(size):g}"
    )
