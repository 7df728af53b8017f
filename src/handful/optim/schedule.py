"""How the learning rate moves: pure functions of progress, counted in examples, so no batch size changes
them.

A schedule called with a `Progress` returns a factor, 0..1, of the base learning rate. Two lengths occur, and
their names tell them apart: `epochs`, `every`, `total` are in epochs; `share`, `warmup`, `rise` are shares
(0..1) of the run that the stop rule plans. `cosine`, `polynomial` and `one_cycle` end with the run, so they
need a planned length.

    "cosine"    "cosine(warmup=0.05)"    "step(every=30, factor=0.1)"    "warmup(step(every=30), epochs=5)"
"""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from handful.base import expression
from handful.base.errors import HandfulError
from handful.base.expression import identifier, number
from handful.base.plan import Progress
from handful.base.score import Better, improvements, lower_is_better

__all__ = [
    *(
        "Schedule",
        "as_schedule",
        "constant",
        "cosine",
        "exponential",
        "from_torch",
        "grow_batch",
        "inverse_sqrt",
    ),
    *("on_plateau", "one_cycle", "parse", "polynomial", "step", "warmup"),
]

_FIRST = 0.01  # a rise starts here and not at 0, so that no step is without effect


class Schedule(ABC):
    """A factor of the base learning rate; frozen, and `str(schedule)` is text that `parse` reads back."""

    @abstractmethod
    def __call__(self, progress: Progress) -> float:
        """The factor for the step that starts at `progress.position`."""

    def batch(self, progress: Progress, base: int) -> int:
        """The batch size for the step that starts at `progress.position`, where `base` is the run's batch
        size."""
        return base

    @property
    def grows(self) -> bool:
        """Whether `batch` is ever another size than the base."""
        return False

    @property
    def scores(self) -> frozenset[str]:
        """The names of the scores it looks at."""
        return frozenset()

    @property
    def notes(self) -> list[str]:
        """What the user should be told about it."""
        return []

    def __str__(self) -> str:
        return expression.form(self).removesuffix("()")


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

    every: float
    factor: float = 0.1

    def __post_init__(self) -> None:
        number(self.every, "step(every)", above=0)
        number(self.factor, "step(factor=...)", above=0, most=1)

    def __call__(self, progress: Progress) -> float:
        return float(self.factor ** _periods(progress, self.every))


@dataclass(frozen=True)
class exponential(Schedule):
    """`factor` times as much after every epoch, smoothly: factor ** epoch.

    >>> exponential(0.5)(Progress(position=150, step=3, examples=100))
    0.3535...
    """

    factor: float

    def __post_init__(self) -> None:
        number(self.factor, "exponential(factor)", above=0, most=1)

    def __call__(self, progress: Progress) -> float:
        return float(self.factor**progress.epoch)


@dataclass(frozen=True)
class polynomial(Schedule):
    """From 1 down to `end`: end + (1 - end) * (1 - t) ** power, where t is the share done; 1 is a straight
    line.

    warmup: share of the run spent on a linear rise before it; total: the length in epochs where the run's is
    not known.

    >>> polynomial()(Progress(position=25, step=1, examples=50, planned=100))
    0.75
    """

    power: float = 1.0
    end: float = 0.0
    warmup: float = 0.0
    total: float | None = None

    def __post_init__(self) -> None:
        number(self.power, "polynomial(power=...)", above=0)
        _check_fall("polynomial", self.end, self.warmup, self.total)

    def __call__(self, progress: Progress) -> float:
        return _fall(self, progress, lambda t: float((1 - t) ** self.power))


@dataclass(frozen=True)
class cosine(Schedule):
    """From 1 down to `end` along half a cosine: end + (1 - end) * (1 + cos(pi t)) / 2, where t is the share
    done.

    Loshchilov and Hutter (2017), "SGDR", equation 5, one period. `cosine(warmup=0.05)` is the same as
    `warmup(cosine(), share=0.05)`; total: the length in epochs, warm-up included, where the run's is not
    known.

    >>> cosine()(Progress(position=50, step=1, examples=50, planned=100))
    0.5
    """

    end: float = 0.0
    warmup: float = 0.0
    total: float | None = None

    def __post_init__(self) -> None:
        _check_fall("cosine", self.end, self.warmup, self.total)

    def __call__(self, progress: Progress) -> float:
        return _fall(self, progress, _half_cosine)


@dataclass(frozen=True)
class one_cycle(Schedule):
    """Up from `start` to 1 over the share `rise` of the run, then down to `end`, both along half a cosine.

    Smith (2018), "A disciplined approach to neural network hyper-parameters", arXiv:1803.09820, with the
    defaults and the cosines of torch's OneCycleLR; its cycle of the momentum is left out. The base learning
    rate is the peak.

    >>> one_cycle()(Progress(position=30, step=1, examples=50, planned=100))
    1.0
    """

    rise: float = 0.3
    start: float = 0.04
    end: float = 4e-6
    total: float | None = None

    def __post_init__(self) -> None:
        number(self.rise, "one_cycle(rise=...)", above=0, most=0.999)
        number(self.start, "one_cycle(start=...)", least=0, most=1)
        _check_fall("one_cycle", self.end, 0.0, self.total)

    def __call__(self, progress: Progress) -> float:
        t = min(1.0, progress.position / _planned(self, progress, self.total))
        if t < self.rise:
            return 1 + (self.start - 1) * _half_cosine(t / self.rise)
        return self.end + (1 - self.end) * _half_cosine((t - self.rise) / (1 - self.rise))


@dataclass(frozen=True)
class inverse_sqrt(Schedule):
    """A linear rise over the first `epochs`, then sqrt(epochs / epoch), however long the run is.

    Vaswani et al. (2017), "Attention is all you need", equation 3, divided by its peak.

    >>> inverse_sqrt(epochs=1)(Progress(position=400, step=1, examples=100))
    0.5
    """

    epochs: float = 1.0

    def __post_init__(self) -> None:
        number(self.epochs, "inverse_sqrt(epochs=...)", above=0)

    def __call__(self, progress: Progress) -> float:
        t = progress.epoch / self.epochs
        return _rise(t) if t < 1 else 1 / math.sqrt(t)


@dataclass(frozen=True)
class on_plateau(Schedule):
    """`factor` times as much each time a score has not improved for `patience` evaluations in a row.

    After a cut the count starts again; the best value so far stays the mark to beat. score: "auto" is
    `valid_loss`; end: the lowest factor. The whole history is replayed, so nothing is remembered between
    calls.

    >>> rows = [{"valid_loss": v} for v in [0.5, 0.3, 0.4, 0.35]]
    >>> on_plateau(patience=2)(Progress(position=0, step=0, examples=10, history=rows))
    0.1
    """

    factor: float = 0.1
    patience: int = 10
    score: str = "auto"
    min_delta: float = 0.0
    end: float = 0.0
    better: Better = "auto"

    def __post_init__(self) -> None:
        number(self.factor, "on_plateau(factor=...)", above=0, most=1)
        object.__setattr__(self, "patience", number(self.patience, "on_plateau(patience=...)", above=0, whole=True))
        number(self.min_delta, "on_plateau(min_delta=...)", least=0)
        number(self.end, "on_plateau(end=...)", least=0, most=1)
        lower_is_better(identifier(self.name, "on_plateau"), self.better)

    @property
    def name(self) -> str:
        """The score it looks at."""
        return "valid_loss" if self.score == "auto" else self.score

    @property
    def scores(self) -> frozenset[str]:
        return frozenset([self.name])

    def __call__(self, progress: Progress) -> float:
        factor, stale = 1.0, 0
        for _, _, improved in improvements(progress.history, self.name, self.better, self.min_delta):
            stale = 0 if improved else stale + 1
            if stale == self.patience:
                factor, stale = max(self.end, factor * self.factor), 0
        return factor


@dataclass(frozen=True)
class warmup(Schedule):
    """A linear rise over the first `epochs` epochs, or `share` of the run, then `schedule` from its
    beginning.

    Goyal et al. (2017), "Accurate, large minibatch SGD", section 2.2. `schedule` sees the run without the
    warm-up: a cosine fills what is left. The rise starts at 0.01, not 0, so that the first step counts.

    >>> slow = warmup(cosine(), epochs=1)
    >>> [slow(Progress(position=p, step=1, examples=100, planned=300)) for p in (0, 100, 200)]
    [0.01, 1.0, 0.5]
    """

    schedule: Schedule | str
    epochs: float | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedule", as_schedule(self.schedule))
        if (self.epochs is None) == (self.share is None):
            raise HandfulError("warmup needs its length: either epochs=, or share= of the run, and not both.")
        if self.epochs is not None:
            number(self.epochs, "warmup(epochs=...)", above=0)
        else:
            number(self.share, "warmup(share=...)", above=0, most=0.999)

    @property
    def inner(self) -> Schedule:
        """The schedule that follows."""
        assert isinstance(self.schedule, Schedule)
        return self.schedule

    def __call__(self, progress: Progress) -> float:
        length = self._length(progress)
        if progress.position < length:
            return _rise(progress.position / length)
        return self.inner(self._after(progress, length))

    def batch(self, progress: Progress, base: int) -> int:
        length = self._length(progress)
        return base if progress.position < length else self.inner.batch(self._after(progress, length), base)

    @property
    def grows(self) -> bool:
        return self.inner.grows

    @property
    def scores(self) -> frozenset[str]:
        return self.inner.scores

    @property
    def notes(self) -> list[str]:
        return self.inner.notes

    def _length(self, progress: Progress) -> int:
        if self.epochs is not None:
            return round(self.epochs * progress.examples)
        assert self.share is not None
        return round(self.share * _planned(self, progress, None))

    def _after(self, progress: Progress, length: int) -> Progress:
        left = None if progress.planned is None else max(1, progress.planned - length)
        return replace(progress, position=progress.position - length, planned=left)


@dataclass(frozen=True)
class grow_batch(Schedule):
    """The batch `by` times as large after every `every` epochs, the learning rate as `schedule` has it.

    Smith et al. (2018), "Don't decay the learning rate, increase the batch size", arXiv:1711.00489. at_most:
    the largest batch.

    >>> grow_batch(every=10).batch(Progress(position=2500, step=25, examples=100), base=32)
    128
    """

    every: float
    by: float = 2
    at_most: int | None = None
    schedule: Schedule | str = constant()

    def __post_init__(self) -> None:
        number(self.every, "grow_batch(every)", above=0)
        number(self.by, "grow_batch(by=...)", above=1)
        if self.at_most is not None:
            object.__setattr__(self, "at_most", number(self.at_most, "grow_batch(at_most=...)", above=0, whole=True))
        object.__setattr__(self, "schedule", as_schedule(self.schedule))

    def __call__(self, progress: Progress) -> float:
        assert isinstance(self.schedule, Schedule)
        return self.schedule(progress)

    def batch(self, progress: Progress, base: int) -> int:
        grown: float = base
        for _ in range(_periods(progress, self.every)):
            grown = grown * self.by
            if self.at_most is not None and grown >= self.at_most:
                return max(base, self.at_most)
            if grown >= 2**62:
                break
        return int(grown)

    @property
    def grows(self) -> bool:
        return True

    @property
    def scores(self) -> frozenset[str]:
        return as_schedule(self.schedule).scores


class from_torch(Schedule):
    """Any scheduler of torch.optim.lr_scheduler: `from_torch(lambda optimizer: StepLR(optimizer, 30))`.

    factory: called with an optimizer whose learning rate is 1, so that what it sets is a factor:
    OneCycleLR's max_lr is 1 where the base learning rate should be the peak, and `eta_min` is a share of it.
    every: "step" or "epoch", when the scheduler's own step() is called; it counts these, not examples, so
    the batch size matters.

    A replay on that optimizer, of one parameter, gives the factor of any step, in any order of asking. Raises
    HandfulError for ReduceLROnPlateau (use `on_plateau`), and past the end of a scheduler that has one.

    >>> halves = from_torch(lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5))
    >>> halves(Progress(position=9, step=3, examples=100))
    0.125
    """

    def __init__(
        self,
        factory: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler],
        every: Literal["step", "epoch"] = "step",
    ) -> None:
        if every not in ("step", "epoch"):
            raise HandfulError(f"from_torch(every=...) is 'step' or 'epoch', not {every!r}.")
        self.every = every
        self._optimizer = torch.optim.SGD([torch.zeros((), requires_grad=True)], lr=1.0, momentum=_MOMENTUM)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._scheduler = factory(self._optimizer)
        schedulers = torch.optim.lr_scheduler
        if isinstance(self._scheduler, schedulers.ReduceLROnPlateau):
            raise HandfulError("ReduceLROnPlateau steps on scores; use handful.schedule.on_plateau instead.")
        if not isinstance(self._scheduler, schedulers.LRScheduler):
            raise HandfulError(
                f"from_torch needs a function optimizer -> scheduler, but it returned {self._scheduler!r}."
            )
        self._factors = [float(self._optimizer.param_groups[0]["lr"])]

    def __call__(self, progress: Progress) -> float:
        index = progress.step if self.every == "step" else progress.position // progress.examples
        while len(self._factors) <= index:
            self._advance()
        return self._factors[index]

    def _advance(self) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # SequentialLR passes on a deprecated argument
                self._optimizer.step()
                self._scheduler.step()
        except ValueError as error:
            raise HandfulError(
                f"The torch scheduler {type(self._scheduler).__name__} ends after {len(self._factors)} "
                f"{self.every}s but the run goes on: {error}"
            ) from None
        self._factors.append(float(self._optimizer.param_groups[0]["lr"]))

    @property
    def notes(self) -> list[str]:
        if self._optimizer.param_groups[0]["momentum"] == _MOMENTUM:
            return []
        name = type(self._scheduler).__name__
        return [f"{name} would also change the momentum; only its learning rate is used."]

    def __str__(self) -> str:
        return f"from_torch({type(self._scheduler).__name__}, every='{self.every}')"


_MOMENTUM = 0.123  # a value no scheduler would set, to see whether one did

_KNOWN: dict[str, Callable[..., Schedule]] = {
    schedule.__name__: schedule
    for schedule in (
        *(
            constant,
            step,
            exponential,
            polynomial,
            cosine,
            one_cycle,
            inverse_sqrt,
            on_plateau,
            warmup,
            grow_batch,
        ),
    )
}


def parse(text: str) -> Schedule:
    """The schedule that a text describes, the inverse of `str(schedule)`; HandfulError names the place in
    the text.

    >>> parse("warmup(cosine, epochs=1)") == warmup(cosine(), epochs=1)
    True
    """
    schedule: Schedule = expression.parse(text, _KNOWN, "schedule")
    return schedule


def as_schedule(schedule: Schedule | str | None) -> Schedule:
    """A schedule as it is, a text parsed, None as `constant()`; HandfulError for anything else.

    >>> str(as_schedule("cosine( warmup = 0.05 )"))
    'cosine(warmup=0.05)'
    """
    if schedule is None:
        return constant()
    if isinstance(schedule, Schedule):
        return schedule
    if isinstance(schedule, str):
        return parse(schedule)
    if isinstance(schedule, torch.optim.lr_scheduler.LRScheduler):
        name = type(schedule).__name__
        raise HandfulError(
            f"A ready {name} cannot be replayed; pass from_torch(lambda optimizer: {name}(optimizer, ...))."
        )
    raise HandfulError(f"schedule must be a schedule or its text, not {schedule!r}; known are {', '.join(_KNOWN)}.")


def _rise(t: float) -> float:
    return _FIRST + (1 - _FIRST) * t


def _half_cosine(t: float) -> float:
    return (1 + math.cos(math.pi * t)) / 2


def _periods(progress: Progress, every: float) -> int:
    # the rounding keeps 0.3 epochs of 10 rows at row 3
    return math.floor(round(progress.position / (every * progress.examples), 9))


def _planned(schedule: Schedule, progress: Progress, total: float | None) -> float:
    if total is not None:
        return total * progress.examples
    if progress.planned:
        return progress.planned
    raise HandfulError(
        f"The schedule {schedule} needs to know how long the run is: add epochs(...) to until"
        + (", or pass total= in epochs." if hasattr(schedule, "total") else ", or give the warm-up in epochs=.")
    )


def _fall(schedule: polynomial | cosine, progress: Progress, shape: Callable[[float], float]) -> float:
    """The rise, then from 1 to `end` as `shape` goes from 1 to 0; all that `warmup` does, without its objects."""
    length = _planned(schedule, progress, schedule.total)
    rise = round(schedule.warmup * length)
    if progress.position < rise:
        return _rise(progress.position / rise)
    t = min(1.0, (progress.position - rise) / max(1, length - rise))
    return schedule.end + (1 - schedule.end) * shape(t)


def _check_fall(name: str, end: float, rise: float, total: Any) -> None:
    number(end, f"{name}(end=...)", least=0, most=1)
    number(rise, f"{name}(warmup=...)", least=0, most=0.999)
    if total is not None:
        number(total, f"{name}(total=...)", above=0)
