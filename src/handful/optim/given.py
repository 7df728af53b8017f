"""Schedules that the caller brings: torch's schedulers, functions, and several by patterns on names of parameters."""

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

import torch
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from handful.base.errors import MISTAKES, HandfulError, StepError
from handful.base.plan import Progress
from handful.optim.decay import Schedule
from handful.optim.parts import REST


class from_torch(Schedule):
    """Any scheduler of torch.optim.lr_scheduler: `from_torch(lambda optimizer: StepLR(optimizer, 30))`.

    factory: called with an optimizer whose learning rate is 1, so that what it sets is a factor, or, for one whose
    rates do not go with the optimizer's (max_lr, eta_min), the run's own, which has to be given: see `bind`. every:
    "step" or "epoch", when the scheduler's own step() is called; it counts these, not examples, so the batch size
    matters.

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
        self.every, self.inferred = every, False  # inferred: nobody said that it moves at steps
        self.factory = factory
        self._begin(1.0)

    def _begin(self, lr: float) -> None:
        """At its first step again, for an optimizer with this learning rate."""
        self.lr, self._optimizer = lr, trial_optimizer(lr)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._scheduler = self.factory(self._optimizer)
        match self._scheduler:
            case ReduceLROnPlateau():
                raise HandfulError("ReduceLROnPlateau steps on scores; use handful.schedule.on_plateau instead")
            case LRScheduler():
                self._factors = [float(self._optimizer.param_groups[0]["lr"]) / lr]
            case other:
                raise HandfulError(f"from_torch needs a function optimizer -> scheduler, but it returned {other!r}")

    def __call__(self, progress: Progress) -> float:
        index = progress.step if self.every == "step" else progress.position // progress.examples
        if index > _last(self._scheduler):
            raise self._over(_last(self._scheduler) + 1)
        while len(self._factors) <= index:
            self._advance()
        return self._factors[index]

    def bind(self, lr: float | None) -> None:
        """Set the rates that the scheduler sets on an optimizer whose learning rate is this one; None: it is open."""
        found = []
        for tried in (1.0, 0.5):
            self._begin(tried)
            with suppress(StepError):  # it ends sooner: the run says so where it comes there
                while len(self._factors) <= min(_LOOKED, _last(self._scheduler)):
                    self._advance()
            found.append(self._factors)
        if all(math.isclose(a, b, abs_tol=1e-99) for a, b in zip(*found, strict=False)):  # they go with it
            self._begin(1.0)
        elif lr is None:
            name = type(self._scheduler).__name__
            raise HandfulError(f"the torch scheduler {name} has rates of its own, so that lr cannot be open: give lr=")
        else:
            self._begin(lr)

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
        factor = float(self._optimizer.param_groups[0]["lr"]) / self.lr
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
        name = type(self._scheduler).__name__
        found = [f"{name} moves at every step; from_torch(..., every='epoch') else."] if self.inferred else []
        if self._optimizer.param_groups[0]["momentum"] != _MOMENTUM:
            found.append(f"{name} would also change the momentum; only its learning rate is used.")
        return found

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


_LOOKED = 1_000  # steps of it by which is told whether its rates go with the optimizer's
_REPLAYED = 20_000  # steps of a torch scheduler that are looked at before the first one, in about a second
_MOMENTUM = 0.123  # a value no scheduler would set, to see whether one did


class of_progress(Schedule):
    """A function of `Progress` that returns the factor of the base learning rate, at least 0.

    >>> of_progress(lambda progress: 0.5**progress.epoch)(Progress(position=200, step=2, examples=100))
    0.25
    """

    def __init__(self, function: Callable[[Progress], object]) -> None:
        self.function = function
        self.title = getattr(function, "__name__", type(function).__name__)

    def __call__(self, progress: Progress) -> float:
        try:
            found: Any = self.function(progress)
        except HandfulError:
            raise
        except MISTAKES as error:
            raise HandfulError(
                f"the schedule {self.title} failed ({error}): it is called with how far the run has come, p.fraction "
                "(0 to 1), p.epoch, p.step, p.position, and returns the factor of the learning rate"
            ) from error
        try:
            factor = float(found)
        except (TypeError, ValueError):
            raise HandfulError(
                f"the schedule {self.title} must return a number, the factor of the learning rate, not {found!r}"
            ) from None
        if not 0 <= factor < math.inf:
            raise StepError(
                f"the schedule {self.title} asks for {factor:g} times the learning rate; no step is made at such a rate"
            )
        return factor

    @property
    def by_clock(self) -> bool:
        return True

    def __str__(self) -> str:
        return f"of_progress({self.title})"


class by_name(Schedule):
    """A schedule for each pattern on the names of parameters, see `handful.optim.parts`. Called, it is that of "*", or
    the first.

    >>> str(by_name({"head": of_progress(abs), "*": of_progress(math.exp)}))
    "{'head': 'of_progress(abs)', '*': 'of_progress(exp)'}"
    """

    def __init__(self, parts: Mapping[str, Schedule]) -> None:
        self.parts = dict(parts)
        self.main = self.parts.get(REST) or next(iter(self.parts.values()))

    def __call__(self, progress: Progress) -> float:
        return self.main(progress)

    def batch(self, progress: Progress, base: int) -> int:
        return self.main.batch(progress, base)

    @property
    def inside(self) -> list[Schedule]:
        return [*self.parts.values()]

    @property
    def patterns(self) -> Mapping[str, Schedule]:
        return self.parts

    @property
    def grows(self) -> bool:
        return self.main.grows

    def __str__(self) -> str:
        return str({pattern: str(part) for pattern, part in self.parts.items()})


def trial_optimizer(lr: float = 1.0) -> torch.optim.Optimizer:
    """Of one parameter, for a scheduler to move."""
    return torch.optim.SGD([torch.zeros((), requires_grad=True)], lr=lr, momentum=_MOMENTUM)


def called(function: Callable[..., object]) -> Schedule:
    """A torch scheduler's class, a partial of it, or a function optimizer -> scheduler; else a function of Progress."""
    inner = getattr(function, "func", function)  # of a functools.partial
    if isinstance(inner, type) and issubclass(inner, LRScheduler | ReduceLROnPlateau):
        try:
            return _inferred(function)
        except TypeError as error:
            name = inner.__name__
            raise HandfulError(
                f"the scheduler {name} could not be made: {error}; give its arguments by functools.partial({name}, ...)"
            ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = function(trial_optimizer())
    except Exception:  # it is for something else than an optimizer
        return of_progress(function)
    return _inferred(function) if issubclass(type(found), LRScheduler | ReduceLROnPlateau) else of_progress(function)


def _inferred(factory: Callable[..., Any]) -> from_torch:
    made = from_torch(factory)
    made.inferred = True
    return made
