"""How long a step takes at each batch size: real steps, loader and update included, fitted by T(B) = a + b B; and,
timed in turn, with how many CPU threads and in which precision.

Threads of one operation wait for each other. On a busy machine, where one of them is kept off its core, two threads
have been measured 100 times slower than one; no one would guess it, and it can be measured in a moment.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from handful.base.errors import HandfulError
from handful.base.keys import key
from handful.base.plan import Choice
from handful.base.stopwatch import part
from handful.plan.probe.steps import Snapshot, agreed, clock, effort, step, untouched
from handful.training.objective import Objective
from handful.training.process.device import using_threads
from handful.training.special.coupling import training_mode
from handful.training.special.exact import exact_gradient
from handful.training.training import Training
from handful.training.watch.guards import NonFiniteLoss, OutOfMemory, TooLarge

PEAK = 0.9  # B0: the smallest batch with this share of the best throughput
MIDDLE = 32  # the size that is timed first
OF_ALL = (NonFiniteLoss, OutOfMemory)  # what goes wrong with a step on all ranks alike
FITS = 0.25  # a relative residual beyond which T(B) is not taken to be a line
FEWER_THREADS = 1.3  # one thread must be so many times faster than all: a tie, or noise, leaves torch's own setting
LOWER_PRECISION = 1.25  # bfloat16 must be so many times faster: it keeps 8 bits of a number's 24
SLOW = 0.04  # of the time that a run has: where one round takes longer, nothing is measured
ROWS = 64  # of a trial batch in float32 and bfloat16, at most


@dataclass(frozen=True)
class Throughput:
    """Seconds per step by batch size: `sizes` and `seconds` [k] (medians; `low`, `high` the quartiles), and the line
    T(B) = a + b B through them. tested: whether the sizes were run (False for a given law); times: of each step that
    was."""

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    a: float
    b: float
    tested: bool = True
    failed: tuple[tuple[int, str], ...] = ()
    micro_batches: dict[int, int] = field(default_factory=dict)
    times: Mapping[int, Sequence[float]] = field(default_factory=dict)

    @classmethod
    def law(cls, a: float, b: float, sizes: Sequence[int]) -> "Throughput":
        """A step time that is given, not measured: T(B) = a + b B seconds.

        >>> Throughput.law(8, 1, [1, 8, 64]).seconds
        (9, 16, 72)
        """
        t = tuple(a + b * n for n in sizes)
        return cls(tuple(sizes), t, t, t, a, b, tested=False)

    def intervals(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """90% intervals of a and b, from a bootstrap over the timed steps (Efron 1979)."""
        generator = np.random.default_rng(key("bootstrap", len(self.sizes)))
        drawn = [np.median(generator.choice(t, (200, len(t))), axis=1) for t in (self.times[n] for n in self.sizes)]
        a, b = (np.quantile(ends, (0.05, 0.95)).tolist() for ends in fit_line(self.sizes, np.stack(drawn, axis=1)))
        return (a[0], a[1]), (b[0], b[1])

    @property
    def is_line(self) -> bool:
        """Whether the line misses no measured median by more than a quarter."""
        return all(abs(self.a + self.b * n - t) <= FITS * t for n, t in zip(self.sizes, self.seconds, strict=True))

    def __call__(self, batch: float) -> float:
        """Seconds per step of `batch` rows: by the line, or between the medians (in log, never faster for more rows)
        where there is no line."""
        if self.is_line:
            return self.a + self.b * batch
        logs = np.maximum.accumulate(np.log(self.seconds))
        if batch > self.sizes[-1]:
            return float(self.seconds[-1]) * batch / self.sizes[-1]
        return float(np.exp(np.interp(math.log(batch), np.log(self.sizes), logs)))

    def rate(self, batch: float) -> float:
        """Examples per second."""
        return batch / self(batch)

    def time_to_target(self, sizes: Sequence[float], phi: float) -> NDArray[np.float64]:
        """Predicted time to a target at each size, T(B) (B + phi) / B, over the least among the tested sizes.

        >>> Throughput.law(8, 1, [1, 8, 64]).time_to_target([8, 16], phi=8)
        array([1.  , 1.125])
        """
        best = min(self(n) * (n + phi) / n for n in self.sizes)
        return np.array([self(n) * (n + phi) / n / best for n in sizes], dtype=np.float64)

    def smallest_at_peak(self, cap: int | None = None) -> int:
        """B0: the smallest tested batch with at least 90% of the best throughput of those up to `cap`.

        >>> Throughput.law(8, 1, [1, 8, 64, 128, 512]).smallest_at_peak()
        64
        """
        allowed = [n for n in self.sizes if cap is None or n <= cap] or [min(self.sizes)]
        best = max(self.rate(n) for n in allowed)
        return next(n for n in allowed if self.rate(n) >= PEAK * best)


def powers_of_two(cap: int, least: int = 1) -> list[int]:
    """The powers of two from `least` to `cap`.

    >>> powers_of_two(20)
    [1, 2, 4, 8, 16]
    """
    return [1 << k for k in range(max(0, cap).bit_length()) if least <= 1 << k <= cap]


@part("measuring step times")
def measure_throughput(
    t: Training, sizes: Sequence[int], *, budget: float = 1.0, repeats: int = 7, ceiling: int | None = None,
    known: Mapping[int, Sequence[float]] | None = None, timer: Callable[[Training], float] | None = None,
) -> Throughput:  # fmt: skip
    """Time real steps (loader, forward, backward, update) at each size; the run is left as it was.

    Sizes take turns, so that a slow moment of the machine falls on all of them; the first round, which warms up, is
    thrown away. budget: seconds for all of it: from MIDDLE up, then from there down, a size whose turns are not
    expected to fit is left out, but one always is timed: of a slow step the small sizes alone would say that the
    largest of them is best. known: seconds of steps that were timed before. ceiling: the most rows that fit in memory
    at once, on one rank; larger batches are run in micro-batches of at most that. timer: what is read for the clock.
    Raises HandfulError when no size can be run.
    """
    timer = timer or clock
    now: Callable[[], float] = lambda: agreed(t, timer(t))  # noqa: E731
    started = now()
    times = {n: list(seconds) for n, seconds in (known or {}).items()}
    failed: list[tuple[int, str]] = []
    micro: dict[int, int] = {}
    rising = sorted({n for n in sizes if n >= MIDDLE} or {max(sizes)})
    order = [*rising, *sorted(set(sizes) - set(rising), reverse=True)]
    with untouched(t) as snapshot:
        training_mode(t.objective.model)
        most, timed = math.inf, 0
        for n in (n for n in order if n not in times):
            if n >= most or (timed and now() - started + 3 * _expected(times, n) > budget):
                most = min(n, most)
                continue
            fits = ceiling if ceiling and ceiling < t.ranks.most_of(n) else snapshot.state.micro_batch
            try:
                times[n] = _twice(t, n, fits, timer, micro)
                timed += 1
            except failures(t) as error:
                failed.append((n, str(error).splitlines()[0]))
                most = n if isinstance(error, OutOfMemory) else most
                snapshot.restore()
                training_mode(t.objective.model)
        _time_again(t, snapshot, times, micro, repeats - 2, started + budget, timer, now)
    if not times:
        raise HandfulError(f"no trial step could be taken: {failed[0][1] if failed else 'there are no sizes to try'}")
    return fit_times(times, failed=tuple(failed), micro=micro)


def failures(t: Training) -> tuple[type[Exception], ...]:
    """What a trial step may end with and the run go on."""
    return OF_ALL if t.ranks.size > 1 else (*OF_ALL, RuntimeError, ValueError)


def time_first(t: Training, size: int, timer: Callable[[Training], float], beginning: Snapshot) -> float:
    """The seconds of the very first step, which warms up; infinite where it fails. The run is back at `beginning`."""
    training_mode(t.objective.model)
    try:
        return _timed(t, size, timer)
    except failures(t):
        return math.inf
    finally:
        beginning.restore()


def _twice(
    t: Training, n: int, fits: int | None, timer: Callable[[Training], float], micro: dict[int, int]
) -> list[float]:
    """The times of two steps of n rows, `fits` at once, after one that warms up; in `micro`, what fitted of them."""
    t.state.micro_batch = fits
    _timed(t, n, timer)
    times = [_timed(t, n, timer), _timed(t, n, timer)]
    if t.state.micro_batch is not None and t.state.micro_batch < t.ranks.most_of(n):
        micro[n] = t.state.micro_batch
    return times


def _time_again(
    t: Training, snapshot: Snapshot, times: Mapping[int, list[float]], micro: Mapping[int, int], rounds: int,
    end: float, timer: Callable[[Training], float], now: Callable[[], float],
) -> None:  # fmt: skip
    """Further rounds of a step at each size, as long as another is expected to be over by `end`."""
    for _ in range(rounds):
        if not times or now() + sum(seconds[-1] for seconds in times.values()) > end:
            return
        for n, seconds in times.items():
            t.state.micro_batch = micro.get(n)
            try:
                seconds.append(_timed(t, n, timer))
            except NonFiniteLoss:
                snapshot.restore()
                training_mode(t.objective.model)


def _expected(times: Mapping[int, Sequence[float]], n: int) -> float:
    """Seconds of a step of n rows at most: as many as the next larger size took, or, above all, in proportion to the
    rows, or going on as the two largest sizes do, with a fifth to spare."""
    above = [k for k in times if k > n]
    if above:
        return times[min(above)][-1]
    largest, *rest = sorted(times, reverse=True)
    seconds = times[largest][-1]
    if not rest:
        return seconds * n / largest
    rise = (seconds - times[rest[0]][-1]) / (largest - rest[0])
    return min(seconds * n / largest, seconds + max(0.0, rise) * (n - largest)) * 1.2


def _timed(t: Training, size: int, timer: Callable[[Training], float]) -> float:
    before = timer(t)
    batch = t.batches.at(t.state.position, size, t.ranks.share)
    step(t, batch, size, still=True)
    return agreed(t, timer(t) - before)


def fit_times(
    times: dict[int, list[float]], *, failed: tuple[tuple[int, str], ...] = (), micro: dict[int, int] | None = None
) -> Throughput:
    """Medians, quartiles, and the line through the medians.

    >>> found = fit_times({n: [0.01 + 0.001 * n] * 3 for n in (1, 4, 16, 64)})
    >>> round(found.a, 6), round(found.b, 6)
    (0.01, 0.001)
    """
    sizes = sorted(times)
    quartiles = (
        times[n] * 3 if len(times[n]) == 1 else np.quantile(times[n], (0.25, 0.5, 0.75)).tolist() for n in sizes
    )
    low, medians, high = zip(*quartiles, strict=True)
    a, b = map(float, fit_line(sizes, medians))
    return Throughput(tuple(sizes), medians, low, high, a, b, failed=failed, micro_batches=micro or {}, times=times)


def fit_line(sizes: ArrayLike, seconds: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """a, b >= 0 of T(B) = a + b B through sizes [k] and seconds [k], or [r] of each through seconds [r, k]: by least
    squares on relative residuals with Huber's weights (1964).

    Relative, because a step of 4,096 rows must not drown one of 8; robust, because a step may be interrupted.
    """
    n, t = np.asarray(sizes, dtype=np.float64), np.asarray(seconds, dtype=np.float64)
    a, b = np.zeros_like(t[..., 0]), t[..., 0] / n[0]
    trust = np.ones_like(t)
    for _ in range(8 if len(n) > 1 else 0):
        w = trust / t**2
        mean_n, mean_t = (w * n).sum(-1) / w.sum(-1), (w * t).sum(-1) / w.sum(-1)
        from_n, from_t = n - mean_n[..., None], t - mean_t[..., None]
        slope = (w * from_n * from_t).sum(-1) / (w * from_n**2).sum(-1)
        start, through_zero = mean_t - slope * mean_n, (w * n * t).sum(-1) / (w * n * n).sum(-1)
        a = np.where(slope < 0, mean_t, np.maximum(start, 0.0))
        b = np.where(start < 0, through_zero, np.maximum(slope, 0.0))
        residual = np.abs((a[..., None] + b[..., None] * n) / t - 1)
        scale = 1.345 * np.maximum(1.4826 * np.median(residual, axis=-1, keepdims=True), 1e-3)
        trust = np.minimum(1.0, scale / np.maximum(residual, 1e-12))
    return a, b


def time_in_turn(
    t: Training, settings: Sequence[Callable[[], AbstractContextManager[None]]], size: int, *, budget: float,
    rounds: int, now: Callable[[Training], float] = clock,
) -> list[float] | None:  # fmt: skip
    """The median milliseconds of forward and backward pass of `size` rows in each setting (a context manager), which
    take turns, so that a slow moment of the machine falls on all. None where a step failed, or is so slow that trying
    some would eat up the time that the run has. Leaves no trace.

    budget: seconds after which no further round begins (there are two rounds at least, and one before to warm up).
    now: the seconds that are counted; `effort` where one thread does it all, whose time others on the machine do not
    lengthen.
    """
    times: list[list[float]] = [[] for _ in settings]
    started = time.perf_counter()
    with untouched(t):
        training_mode(t.objective.model)
        batch = t.batches.at(t.state.position, size)
        for k in range(rounds + 1):
            for setting, measured in zip(settings, times, strict=True):
                with setting():
                    before = now(t)
                    try:
                        exact_gradient(t.objective, batch, t.state.micro_batch, seed=t.plan.seed, step=0)
                    except (NonFiniteLoss, OutOfMemory, TooLarge):
                        return None
                    measured.append(1000 * (now(t) - before))
            spent = time.perf_counter() - started
            if k == 0 and spent > SLOW * (t.rule.time() or math.inf):
                return None
            if k >= 2 and spent > budget:
                break
    return [statistics.median(measured[1:]) for measured in times]


@part("measuring threads")
def choose_threads(t: Training) -> Choice:
    """All threads, or one where a step of the provisional batch is clearly faster with it."""
    everything = torch.get_num_threads()
    if t.objective.device.type != "cpu" or everything == 1:
        return Choice(everything, "default", "torch's own setting")
    settings = [partial(using_threads, count) for count in (everything, 1)]
    measured = time_in_turn(t, settings, t.state.batch, budget=1.0, rounds=7)
    if measured is None:
        return Choice(everything, "default", "torch's own setting; the trial step failed, or is too slow to try more")
    many, one = measured
    reason = f"a step takes {many:.3g} ms with {everything} threads and {one:.3g} ms with one"
    if many > FEWER_THREADS * one:
        return Choice(1, "measured", f"{reason} on this busy machine")
    return Choice(everything, "measured", reason)


@part("measuring precision")
def measure_precision(t: Training, *, budget: float = 1.0, rounds: int = 5) -> Choice:
    """float32, or bfloat16 autocast where a step is clearly faster in it; on one thread, so that other users of the
    machine cannot tip the scales."""
    size = min(ROWS, t.examples)
    settings = [partial(computing_in, t.objective, dtype) for dtype in (None, torch.bfloat16)]
    with using_threads(1):
        measured = time_in_turn(t, settings, size, budget=budget, rounds=rounds, now=effort)
    if measured is None:
        return Choice("float32", "default", "the model's own; the trial step failed, or is too slow to try more")
    whole, half = measured
    reason = f"a step of {size} rows takes {half:.3g} ms in bfloat16 (autocast) and {whole:.3g} ms in float32"
    return Choice("bfloat16" if whole > LOWER_PRECISION * half else "float32", "measured", reason)


@contextmanager
def computing_in(objective: Objective, autocast: torch.dtype | None) -> Iterator[None]:
    """The forward pass in this precision (None: the model's own) inside the block."""
    before, objective.autocast = objective.autocast, autocast
    try:
        yield
    finally:
        objective.autocast = before
