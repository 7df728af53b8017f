"""Schedules of one formula each; see `handful.optim.schedule`, which has them all."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from handful.base.errors import HandfulError
from handful.base.expression import Count, Expression, Fraction, NotNegative, Positive, ScoreName, number
from handful.base.plan import Progress
from handful.base.score import Better, Watching, improvements, remembered

_FIRST = 0.01  # a rise starts here and not at 0, so that no step is without effect

Decay = Annotated[float, partial(number, above=0, most=1)]  # a factor that a rate falls by
Rise = Annotated[float, partial(number, above=0, most=0.999)]  # a share of the run that leaves some for the fall
Warmup = Annotated[float, partial(number, least=0, most=0.999)]


class Schedule(Expression):
    """A factor of the base learning rate; frozen, and `str(schedule)` is text that `parse` reads back."""

    @abstractmethod
    def __call__(self, progress: Progress) -> float:
        """The factor for the step that starts at `progress.position`."""

    @property
    def inside(self) -> Sequence["Schedule"]:
        """The schedules that it is made of; none where it is a formula."""
        return ()

    def check(self, first: Progress, last: Progress) -> None:
        """Raise HandfulError, before the first step, where it can be told that it does not fit a run of such steps."""
        if not self.inside:
            self(first)
            self(last)
        for schedule in self.inside:
            schedule.check(first, last)

    def batch(self, progress: Progress, base: int) -> int:
        """The batch size for that step, where `base` is the run's batch size."""
        return base

    def still(self, progress: Progress) -> bool:
        """Whether that step leaves its parameters as they are."""
        return False

    @property
    def patterns(self) -> Mapping[str, "Schedule"]:
        """Schedules of parts of the model, by patterns on the names of parameters; none where it is one for all."""
        return {}

    def bind(self, lr: float | None) -> None:
        """Let torch's schedulers in it have the learning rate of the run; None where that is open."""
        for schedule in self.inside:
            schedule.bind(lr)

    @property
    def by_clock(self) -> bool:
        """Whether it may look at the seconds, so that no factor can be computed ahead."""
        return any(schedule.by_clock for schedule in self.inside)

    @property
    def grows(self) -> bool:
        """Whether `batch` is ever another size than the base."""
        return any(schedule.grows for schedule in self.inside)

    @property
    def scores(self) -> frozenset[str]:
        """The names of the scores it looks at."""
        return frozenset().union(*(schedule.scores for schedule in self.inside))

    @property
    def notes(self) -> list[str]:
        """What the user should know about it."""
        return [note for schedule in self.inside for note in schedule.notes]

    def __str__(self) -> str:
        return super().__str__().removesuffix("()")


@dataclass(frozen=True)
class constant(Schedule):
    """Always 1."""

    def __call__(self, progress: Progress) -> float:
        return 1.0


@dataclass(frozen=True)
class step(Schedule):
    """`factor` times as much after every `every` epochs: factor ** floor(epoch / every).

    >>> step(every=10)(Progress(position=2500, step=25, examples=100)) == 0.1**2
    True
    """

    every: Positive
    factor: Decay = 0.1

    def __call__(self, progress: Progress) -> float:
        return float(self.factor ** periods(progress, self.every))


@dataclass(frozen=True)
class exponential(Schedule):
    """`factor` times as much after every epoch, smoothly: factor ** epoch.

    >>> exponential(0.5)(Progress(position=150, step=3, examples=100))
    0.3535...
    """

    factor: Decay

    def __call__(self, progress: Progress) -> float:
        return float(self.factor**progress.epoch)


class _Fall(Schedule):
    """A linear rise over the share `warmup` of the run, then from 1 down to `end` as `shape` goes from 1 to 0.

    total: the length in epochs, warm-up included, where the run's is not known.
    """

    end: float
    warmup: float
    total: float | None

    @abstractmethod
    def shape(self, t: float) -> float:
        """The share of the fall that is left when the share `t` of its time is over."""

    def __call__(self, progress: Progress) -> float:
        length = length_of(self, self.total, progress)
        warm = round(self.warmup * length)
        if progress.position < warm:
            return rise(progress.position / warm)
        t = min(1.0, (progress.position - warm) / max(1, length - warm))
        return self.end + (1 - self.end) * self.shape(t)


@dataclass(frozen=True)
class polynomial(_Fall):
    """From 1 down to `end`: end + (1 - end) * (1 - t) ** power, where t is the share done; 1 is a straight line.

    warmup: share of the run spent on a linear rise before it; total: the length in epochs where the run's is not known.

    >>> polynomial()(Progress(position=25, step=1, examples=50, planned=100))
    0.75
    """

    power: Positive = 1.0
    end: Fraction = 0.0
    warmup: Warmup = 0.0
    total: Positive | None = None

    def shape(self, t: float) -> float:
        return float((1 - t) ** self.power)


@dataclass(frozen=True)
class cosine(_Fall):
    """From 1 down to `end` along half a cosine: end + (1 - end) * (1 + cos(pi t)) / 2, where t is the share done.

    Loshchilov and Hutter (2017), "SGDR", equation 5, one period. `cosine(warmup=0.05)` is the same as `warmup(cosine(),
    share=0.05)`; total: the length in epochs, warm-up included, where the run's is not known.

    >>> cosine()(Progress(position=50, step=1, examples=50, planned=100))
    0.5
    """

    end: Fraction = 0.0
    warmup: Warmup = 0.0
    total: Positive | None = None

    @staticmethod
    def shape(t: float) -> float:
        return (1 + math.cos(math.pi * t)) / 2


@dataclass(frozen=True)
class one_cycle(Schedule):
    """Up from `start` to 1 over the share `rise` of the run, then down to `end`, both along half a cosine.

    Smith (2018), "A disciplined approach to neural network hyper-parameters", arXiv:1803.09820, with the defaults and
    the cosines of torch's OneCycleLR; its cycle of the momentum is left out. The base learning rate is the peak.

    >>> one_cycle()(Progress(position=30, step=1, examples=50, planned=100))
    1.0
    """

    rise: Rise = 0.3
    start: Fraction = 0.04
    end: Fraction = 4e-6
    total: Positive | None = None

    def __call__(self, progress: Progress) -> float:
        t = min(1.0, progress.position / length_of(self, self.total, progress))
        if t < self.rise:
            return 1 + (self.start - 1) * cosine.shape(t / self.rise)
        return self.end + (1 - self.end) * cosine.shape((t - self.rise) / (1 - self.rise))


@dataclass(frozen=True)
class inverse_sqrt(Schedule):
    """A linear rise over the first `epochs`, then sqrt(epochs / epoch), however long the run is.

    Vaswani et al. (2017), "Attention is all you need", equation 3, divided by its peak.

    >>> inverse_sqrt(epochs=1)(Progress(position=400, step=1, examples=100))
    0.5
    """

    epochs: Positive = 1.0

    def __call__(self, progress: Progress) -> float:
        t = progress.epoch / self.epochs
        return rise(t) if t < 1 else 1 / math.sqrt(t)


@dataclass(frozen=True)
class on_plateau(Watching, Schedule):
    """`factor` times as much each time a score has not improved for `patience` evaluations in a row.

    After a cut the count starts again; the best value so far stays the mark to beat. score: "auto" is
    `valid_loss`; end: the lowest factor. The whole history is replayed, so nothing is remembered between
    calls that could change an answer.

    >>> rows = [{"valid_loss": v} for v in [0.5, 0.3, 0.4, 0.35]]
    >>> on_plateau(patience=2)(Progress(position=0, step=0, examples=10, history=rows))
    0.1
    """

    factor: Decay = 0.1
    patience: Count = 10
    score: ScoreName = "auto"
    min_delta: NotNegative = 0.0
    end: Fraction = 0.0
    better: Better = "auto"

    @remembered
    def __call__(self, progress: Progress) -> float:
        factor, stale = 1.0, 0
        for _, _, improved in improvements(progress.history, self.name, self.better, self.min_delta):
            stale = 0 if improved else stale + 1
            if stale == self.patience:
                factor, stale = max(self.end, factor * self.factor), 0
        return factor


def rise(t: float) -> float:
    """The factor when the share `t` of a warm-up is over."""
    return _FIRST + (1 - _FIRST) * t


def periods(progress: Progress, every: float) -> int:
    """How often `every` epochs are over."""
    # the rounding keeps 0.3 epochs of 10 rows at row 3
    return math.floor(round(progress.position / (every * progress.examples), 9))


def length_of(schedule: Schedule, total: float | None, progress: Progress) -> float:
    """The rows that a schedule is for: `total` epochs, or the planned ones. Raises HandfulError where that is open."""
    length = progress.planned if total is None else total * progress.examples
    if not length:
        raise endless(schedule)
    return length


def endless(schedule: Schedule, instead: str = "pass total= in epochs") -> HandfulError:
    """The error of a schedule that needs a planned length and has none."""
    return HandfulError(
        f"the schedule {schedule} needs to know how long the run is: add epochs(...) to until, or {instead}"
    )
