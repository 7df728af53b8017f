"""Augmentation of training batches: a list of steps, keyed by (seed, epoch, row).

What happens to a row depends on nothing but the seed, the epoch and the row's id: not on the batch size, the
other rows, the order, threads or ranks. Steps run on the device of `x`, on the whole batch at once.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby

from handful.base.errors import HandfulError
from handful.base.expression import parse as parse_expression
from handful.data.base import Batch, Rows
from handful.transform.augment.base import Address, Augmentation
from handful.transform.augment.geometry import Affine, Flip, Geometric, Rotate, Scale, Shift, apply_geometry
from handful.transform.augment.mix import Cutmix, Mixup
from handful.transform.augment.sequence import FrequencyMask, TimeMask, TimeShift, TokenDropout
from handful.transform.augment.value import Colour, Cutout, Gain, Noise

Fetch = Callable[[Rows], Batch]
"""Row ids -> those training rows after preprocessing, before augmentation."""

STEPS: dict[str, type[Augmentation]] = {
    step.name: step
    for step in (
        *(Flip, Shift, Rotate, Scale, Affine, Colour, Cutout, Noise, Mixup, Cutmix),
        *(TimeMask, FrequencyMask, TimeShift, Gain, TokenDropout),
    )
}


@dataclass(frozen=True)
class Augment:
    """Steps applied in order to the column `x` of a training batch (mixup and cutmix: `y` and `weight` too).

    seed, fetch, n and classes are usually set by `bind`. fetch(rows) returns those training rows
    after preprocessing; it, n (the number of training rows) and classes (of an integer target) are needed by
    mixup and cutmix only. Neighbouring geometric steps are composed into one resampling.

    >>> import numpy as np, torch
    >>> augment = parse("flip | shift(2)").bind(seed=1)
    >>> x = torch.randn(4, 3, 8, 8)
    >>> whole = augment(Batch({"x": x}, np.arange(4)))["x"]
    >>> last = augment(Batch({"x": x[3:]}, np.array([3])))["x"]
    >>> bool((whole[3:] == last).all())
    True
    """

    steps: tuple[Augmentation, ...] = ()
    seed: int = 0
    fetch: Fetch | None = None
    n: int | None = None
    classes: int | None = None

    def bind(
        self,
        *,
        seed: int | None = None,
        fetch: Fetch | None = None,
        n: int | None = None,
        classes: int | None = None,
    ) -> "Augment":
        """The same steps with a seed and, for mixup and cutmix, a way to reach other training rows."""
        given = {"seed": seed, "fetch": fetch, "n": n, "classes": classes}
        return replace(self, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))

    @property
    def mixes(self) -> bool:
        """Whether a step mixes rows, so that `fetch` is needed and class targets become probabilities."""
        return any(isinstance(step, Mixup | Cutmix) for step in self.steps)

    def __call__(self, batch: Batch) -> Batch:
        return self._up_to(len(self.steps), batch)

    def __or__(self, other: "Augmentation | Augment") -> "Augment":
        if isinstance(other, Augmentation):
            return replace(self, steps=(*self.steps, other))
        if isinstance(other, Augment):
            return replace(self, steps=self.steps + other.steps)
        return NotImplemented

    def __str__(self) -> str:
        return " | ".join(map(str, self.steps))

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Augmentation]:
        return iter(self.steps)

    def _up_to(self, stop: int, batch: Batch) -> Batch:
        """The batch after the first `stop` steps."""
        if len(batch) == 0:
            return batch
        position = 0
        for geometric, group in groupby(self.steps[:stop], lambda step: isinstance(step, Geometric)):
            steps = list(group)
            addresses = [self._address(position + k) for k in range(len(steps))]
            position += len(steps)
            if geometric:
                batch = apply_geometry([s for s in steps if isinstance(s, Geometric)], addresses, batch)
                continue
            for step, address in zip(steps, addresses):
                batch = step.apply(batch, address)
        return batch

    def _address(self, position: int) -> Address:
        """The k-th step of a name has a purpose of its own, whatever other steps stand before it."""
        name = self.steps[position].name
        k = sum(step.name == name for step in self.steps[:position])
        partner = None
        if self.fetch is not None:
            fetch = self.fetch

            def partner(rows: Rows, epochs: Rows) -> Batch:
                return self._up_to(position, Batch(fetch(rows).columns, rows, epochs))

        return Address(f"augment.{name}.{k}", self.seed, partner, self.n, self.classes)


def parse(text: str) -> Augment:
    """Read the text form: names, arguments, and `|` between steps; nothing is evaluated.

    Raises HandfulError for a name or argument that is not known.

    >>> str(parse("flip | shift(0.1) | cutout(size=6)"))
    'flip | shift(0.1) | cutout(6)'
    """
    return as_augment(parse_expression(text, STEPS, "augmentation"))


Given = str | Augmentation | Augment | type[Augmentation] | Callable[[], Augmentation] | None


def as_augment(given: Given | Iterable[Given]) -> Augment:
    """An Augment from what a user may give: text, a step, a list of either, an Augment, None (no steps)."""
    if isinstance(given, Augment):
        return given
    if given is None:
        return Augment()
    if isinstance(given, Augmentation):
        return Augment((given,))
    if isinstance(given, str):
        return parse(given) if given.strip() and given.strip() != "none" else Augment()
    if isinstance(given, type) and issubclass(given, Augmentation):
        return Augment((given(),))
    if isinstance(given, Iterable):
        return Augment(tuple(step for part in given for step in as_augment(part).steps))
    raise HandfulError(f"augment takes text such as 'flip | shift(2)', steps, or a list of them, not {given!r}.")
