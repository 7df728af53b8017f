"""How the learning rate moves: pure functions of progress, counted in examples, so no batch size changes them.

A schedule called with a `Progress` returns a factor, 0..1, of the base learning rate. Two lengths occur, and their
names tell them apart: `epochs`, `every`, `total` are in epochs; `share`, `warmup`, `rise` are shares (0..1) of the run
that the stop rule plans. `cosine`, `polynomial` and `one_cycle` end with the run, so they need a planned length.

    "cosine"    "cosine(warmup=0.05)"    "step(every=30, factor=0.1)"    "warmup(step(every=30), epochs=5)"
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal, cast

import torch
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from handful.base import expression
from handful.base.errors import HandfulError, StepError
from handful.base.expression import Count, Positive, number
from handful.base.plan import Progress
from handful.optim.decay import (
    Rise,
    Schedule,
    constant,
    cosine,
    endless,
    exponential,
    inverse_sqrt,
    on_plateau,
    one_cycle,
    periods,
    polynomial,
    rise,
    step,
)

__all__ = [
    "Schedule", "as_schedule", "constant", "cosine", "exponential", "from_torch", "grow_batch", "inverse_sqrt",
    "on_plateau", "one_cycle", "parse", "polynomial", "step", "warmup",
]  # fmt: skip

_CONSTANT = constant()
Inner = Annotated["Schedule | str", lambda value, name: as_schedule(value)]


class _Around(Schedule):
    """A schedule with another inside."""

    schedule: Schedule | str

    @property
    def inner(self) -> Schedule:
        """The schedule inside."""
        return cast(Schedule, self.schedule)  # a text was parsed by the field's check

    def check(self, first: Progress, last: Progress) -> None:
        self.inner.check(first, last)

    @property
    def grows(self) -> bool:
        return self.inner.grows

    @property
    def scores(self) -> frozenset[str]:
        return self.inner.scores

    @property
    def notes(self) -> list[str]:
        return self.inner.notes


@dataclass(frozen=True)
class warmup(_Around):
    """A linear rise over the first `epochs` epochs, or `share` of the run, then `schedule` from its beginning.

    Goyal et al. (2017), "Accurate, large minibatch SGD", section 2.2. `schedule` sees the run without the
    warm-up: a cosine fills what is left. The rise starts at 0.01, not 0, so that the first step counts.

    >>> slow = warmup(cosine(), epochs=1)
    >>> [slow(Progress(position=p, step=1, examples=100, planned=300)) for p in (0, 100, 200)]
    [0.01, 1.0, 0.5]
    """

    schedule: Inner
    epochs: Positive | None = None
    share: Rise | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.share is None):
            raise HandfulError("warmup needs its length: either epochs=, or share= of the run, and not both")
        super().__post_init__()

    def __call__(self, progress: Progress) -> float:
        length = self._length(progress)
        if progress.position < length:
            return rise(progress.position / length)
        return self.inner(self._after(progress, length))

    def batch(self, progress: Progress, base: int) -> int:
        length = self._length(progress)
        return base if progress.position < length else self.inner.batch(self._after(progress, length), base)

    def check(self, first: Progress, last: Progress) -> None:
        length = self._length(last)
        if last.position >= length:
            after = self._after(last, length)
            self.inner.check(replace(after, position=0, step=0), after)

    def _length(self, progress: Progress) -> int:
        if self.share is None:
            return round((self.epochs or 0) * progress.examples)
        if not progress.planned:
            raise endless(self, "give the warm-up in epochs=")
        return round(self.share * progress.planned)

    def _after(self, progress: Progress, length: int) -> Progress:
        left = None if progress.planned is None else max(1, progress.planned - length)
        position = progress.position - length
        step = round(progress.step * position / progress.position) if progress.position else 0
        return replace(progress, position=position, step=step, planned=left)


@dataclass(frozen=True)
class grow_batch(_Around):
    """The batch `by` times as large after every `every` epochs, the learning rate as `schedule` has it.

    Smith et al. (2018), "Don't decay the learning rate, increase the batch size", arXiv:1711.00489. at_most:
    the largest batch.

    >>> grow_batch(every=10).batch(Progress(position=2500, step=25, examples=100), base=32)
    128
    """

    every: Positive
    by: Annotated[float, partial(number, above=1)] = 2
    at_most: Count | None = None
    schedule: Inner = _CONSTANT

    def __call__(self, progress: Progress) -> float:
        return self.inner(progress)

    def batch(self, progress: Progress, base: int) -> int:
        grown: float = base
        for _ in range(periods(progress, self.every)):
            grown = grown * self.by
            if self.at_most is not None and grown >= self.at_most:
                return max(base, self.at_most)
            if grown >= 2**62:
                break
        return int(grown)

    @property
    def grows(self) -> bool:
        return True


class from_torch(Schedule):
    """Any scheduler of torch.optim.lr_scheduler: `from_torch(lambda optimizer: StepLR(optimizer, 30))`.

    factory: called with an optimizer whose learning rate is 1, so that what it sets is a factor: OneCycleLR's max_lr is
    1 where the base learning rate should be the peak, and `eta_min` is a share of it. every: "step" or "epoch", when
    the scheduler's own step() is called; it counts these, not examples, so the batch size matters.

    A replay on that optimizer, of one parameter, gives the factor of any step, in any order of asking. Raises
    HandfulError for ReduceLROnPlateau (use `on_plateau`), and past the end of a scheduler that has one: torch goes on
    there with a cosine that rises again, or with rates below 0.

    >>> halves = from_torch(lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5))
    >>> halves(Progress(position=9, step=3, examples=100))
    0.125
    """

    def __init__(
        self, factory: Callable[[torch.optim.Optimizer], LRScheduler], every: Literal["step", "epoch"] = "step"
    ) -> None:
        if every not in ("step", "epoch"):
            raise HandfulError(f"from_torch(every) must be 'step' or 'epoch', not {every!r}")
        self.every = every
        self._optimizer = torch.optim.SGD([torch.zeros((), requires_grad=True)], lr=1.0, momentum=_MOMENTUM)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._scheduler = factory(self._optimizer)
        match self._scheduler:
            case ReduceLROnPlateau():
                raise HandfulError("ReduceLROnPlateau steps on scores; use handful.schedule.on_plateau instead")
            case LRScheduler():
                self._factors = [float(self._optimizer.param_groups[0]["lr"])]
            case other:
                raise HandfulError(f"from_torch needs a function optimizer -> scheduler, but it returned {other!r}")

    def __call__(self, progress: Progress) -> float:
        index = progress.step if self.every == "step" else progress.position // progress.examples
        if index > _last(self._scheduler):
            raise self._over(_last(self._scheduler) + 1)
        while len(self._factors) <= index:
            self._advance()
        return self._factors[index]

    def check(self, first: Progress, last: Progress) -> None:
        super().check(first, replace(last, step=min(last.step, _REPLAYED)))
        if self.every == "step" and last.step > _last(self._scheduler):
            raise self._over(_last(self._scheduler) + 1, f"{last.step + 1:,} {self.every}s are planned")

    def _advance(self) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # SequentialLR passes on a deprecated argument
                self._optimizer.step()
                self._scheduler.step()
        except ValueError as error:
            raise self._over(len(self._factors), str(error)) from None
        factor = float(self._optimizer.param_groups[0]["lr"])
        if not 0 <= factor < math.inf:
            raise self._over(len(self._factors), f"its rate would be {factor:g} there")
        self._factors.append(factor)

    def _over(self, steps: float, why: str = "") -> HandfulError:
        name, more = type(self._scheduler).__name__, f" ({why})" if why else ""
        return StepError(
            f"the torch scheduler {name} ends after {steps:,} {self.every}s and the run goes on{more}: make it as long "
            "as the run, or let the run stop sooner"
        )

    @property
    def notes(self) -> list[str]:
        if self._optimizer.param_groups[0]["momentum"] == _MOMENTUM:
            return []
        name = type(self._scheduler).__name__
        return [f"{name} would also change the momentum; only its learning rate is used."]

    def __str__(self) -> str:
        return f"from_torch({type(self._scheduler).__name__}, every='{self.every}')"


def _last(scheduler: LRScheduler) -> float:
    """The last step (or epoch), counted from 0, that a torch scheduler is made for; infinite where it has no end."""
    match scheduler:
        case OneCycleLR():
            return int(scheduler.total_steps) - 1
        case CosineAnnealingLR():
            return int(scheduler.T_max)
        case ChainedScheduler():
            return min(map(_last, scheduler._schedulers))
        case SequentialLR():
            return int(scheduler._milestones[-1]) + _last(scheduler._schedulers[-1])
    return math.inf


_REPLAYED = 20_000  # steps of a torch scheduler that are looked at before the first one, in about a second
_MOMENTUM = 0.123  # a value no scheduler would set, to see whether one did

_KNOWN: dict[str, Callable[..., Schedule]] = {
    schedule.__name__: schedule
    for schedule in (
        constant, step, exponential, polynomial, cosine, one_cycle, inverse_sqrt, on_plateau, warmup, grow_batch,
    )
}  # fmt: skip


def parse(text: str) -> Schedule:
    """The schedule that a text describes, the inverse of `str(schedule)`; HandfulError names the place in the text.

    >>> parse("warmup(cosine, epochs=1)") == warmup(cosine(), epochs=1)
    True
    """
    return expression.parse(text, _KNOWN, "schedule")


def as_schedule(schedule: Schedule | str | None) -> Schedule:
    """A schedule as it is, a text parsed, None as `constant()`; HandfulError for anything else.

    >>> str(as_schedule("cosine( warmup = 0.05 )"))
    'cosine(warmup=0.05)'
    """
    match schedule:
        case None:
            return constant()
        case Schedule():
            return schedule
        case str():
            return parse(schedule)
        case LRScheduler():
            name = type(schedule).__name__
            raise HandfulError(
                f"a ready {name} cannot be replayed; pass from_torch(lambda optimizer: {name}(optimizer, ...))"
            )
    raise HandfulError(f"schedule must be a schedule ({', '.join(_KNOWN)}) or its text, not {schedule!r}")
