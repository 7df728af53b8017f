"""How the learning rate moves: pure functions of progress, counted in examples, so no batch size changes them.

A schedule called with a `Progress` returns a factor, 0..1, of the base learning rate. Two lengths occur, and their
names tell them apart: `epochs`, `every`, `total` are in epochs; `share`, `warmup`, `rise` are shares (0..1) of the run
that the stop rule plans. `cosine`, `polynomial` and `one_cycle` end with the run, so they need a planned length.

    "cosine"    "cosine(warmup=0.05)"    "step(every=30, factor=0.1)"    "warmup(step(every=30), epochs=5)"
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, cast

from torch.optim.lr_scheduler import LRScheduler

from handful.base import expression
from handful.base.errors import HandfulError
from handful.base.expression import Count, NotNegative, Positive, number
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
from handful.optim.given import by_name, called, from_torch

__all__ = [
    "Schedule", "as_schedule", "constant", "cosine", "exponential", "from_torch", "frozen", "grow_batch",
    "inverse_sqrt", "on_plateau", "one_cycle", "parse", "polynomial", "step", "warmup",
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

    @property
    def inside(self) -> Sequence[Schedule]:
        return (self.inner,)


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


@dataclass(frozen=True)
class frozen(_Around):
    """No step before epoch `until`, and none from epoch `after` on; between them `schedule`, which sees the whole run.

    For parts of a model: schedule={"backbone": "frozen(until=2)", "*": "cosine"}. Their parameters have no gradient
    while they are frozen, so that no decay moves them, no momentum starts, and clip_norm does not count them.

    >>> thawed = frozen(until=1, after=3)
    >>> [thawed(Progress(position=p, step=1, examples=100)) for p in (99, 100, 299, 300)]
    [0.0, 1.0, 1.0, 0.0]
    """

    schedule: Inner = _CONSTANT
    until: NotNegative = 0.0
    after: Positive | None = None

    def still(self, progress: Progress) -> bool:
        ends = math.inf if self.after is None else self.after * progress.examples
        return not round(self.until * progress.examples) <= progress.position < ends

    def __call__(self, progress: Progress) -> float:
        return 0.0 if self.still(progress) else self.inner(progress)


_KNOWN: dict[str, Callable[..., Schedule]] = {
    schedule.__name__: schedule
    for schedule in (
        constant, step, exponential, polynomial, cosine, one_cycle, inverse_sqrt, on_plateau, warmup, grow_batch,
        frozen,
    )
}  # fmt: skip


def parse(text: str) -> Schedule:
    """The schedule that a text describes, the inverse of `str(schedule)`; HandfulError names the place in the text.

    >>> parse("warmup(cosine, epochs=1)") == warmup(cosine(), epochs=1)
    True
    """
    return expression.parse(text, _KNOWN, "schedule")


def as_schedule(schedule: object) -> Schedule:
    """A schedule as it is, a text parsed, None as `constant()`; a function of Progress, or a torch scheduler
    (its class, a partial, a function of the optimizer), as one; a dict as one for each pattern on names.

    Raises HandfulError for anything else.

    >>> str(as_schedule("cosine( warmup = 0.05 )"))
    'cosine(warmup=0.05)'
    >>> as_schedule(lambda progress: 1 / (1 + progress.epoch))(Progress(position=100, step=1, examples=100))
    0.5
    """
    match schedule:
        case None:
            return constant()
        case Schedule():
            return schedule
        case str():
            return parse(schedule)
        case Mapping() if schedule:
            return by_name({str(pattern): as_schedule(part) for pattern, part in schedule.items()})
        case LRScheduler():
            name = type(schedule).__name__
            raise HandfulError(
                f"a ready {name} cannot be replayed; pass schedule=lambda optimizer: {name}(optimizer, ...)"
            )
        case _ if callable(schedule):
            return called(schedule)
    raise HandfulError(
        f"schedule must be a schedule ({', '.join(_KNOWN)}), its text or a function of progress, not {schedule!r}"
    )
