"""What an augmentation is, a list of them, and where their random numbers come from.

The number that decides what happens to a row is a pure function of (purpose, seed, epoch, row id): see
`keys`. The few numbers per row (angle, offset, ...) are drawn in NumPy; the many (noise, dropout) on the device
of `x`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from typing import ClassVar, Self, TypeVar, Union

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.base import keys
from handful.base.errors import HandfulError
from handful.data.base import Batch, Rows
from handful.models.audio import frames

Floats = NDArray[np.float64]
Number = TypeVar("Number", int, float)
Partner = Callable[[Rows, Rows], Batch]
Fetch = Callable[[Rows], Batch]
"""Row ids -> those training rows after preprocessing, before augmentation."""


@dataclass(frozen=True)
class Address:
    """Where one augmentation of one run draws its random numbers.

    partner: (rows, epochs) -> those rows as they stand before this augmentation; None if rows cannot be
    fetched. n: number of training rows; classes: number of target classes, or None.
    """

    purpose: str
    seed: int = 0
    partner: Partner | None = None
    n: int | None = None
    classes: int | None = None

    def uniform(self, batch: Batch, count: int) -> Floats:
        """`count` uniform numbers in [0, 1) for each row: float64 [m, count]."""
        return keys.uniform(self.purpose, self.seed, batch.epochs, batch.rows, count)

    def words(self, batch: Batch, first: int, count: int, device: torch.device) -> Tensor:
        """Random words `first` to `first + count` of each row, made on `device`: int64 [m, count]."""
        base = keys.words(self.purpose, self.seed, batch.epochs, batch.rows, 1)[:, 0].view(np.int64)
        index = torch.arange(first + 1, first + count + 1, device=device) * _signed(0x9E3779B97F4A7C15)
        return _mix(torch.from_numpy(base).to(device)[:, None] + index)

    def device_uniform(self, batch: Batch, count: int, device: torch.device) -> Tensor:
        """Uniform numbers in [0, 1), float32 [m, count]; column j never depends on `count`."""
        return _high_bits(self.words(batch, 0, count, device), 24).float() * 2.0**-24

    def device_normal(self, batch: Batch, count: int, device: torch.device) -> Tensor:
        """Standard normal numbers, float32 [m, count], two from each word (Box and Muller 1958)."""
        words = self.words(batch, 0, (count + 1) // 2, device)
        radius = (-2.0 * torch.log((_high_bits(words, 32).float() + 0.5) * 2.0**-32)).clamp_min(0).sqrt()
        angle = (words & 0xFFFFFFFF).float() * (2.0 * math.pi * 2.0**-32)
        return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).flatten(1)[:, :count]


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _high_bits(words: Tensor, bits: int) -> Tensor:
    """The top bits as non-negative integers: torch's >> on int64 repeats the sign bit, so mask it off."""
    return (words >> (64 - bits)) & ((1 << bits) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finalizer on int64 tensors (products wrap as they do in uint64); equals `keys.mix`."""
    x = (x ^ _high_bits(x, 34)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _high_bits(x, 37)) * _signed(0x94D049BB133111EB)
    return x ^ _high_bits(x, 33)


def within(default: Number, low: float, high: float = math.inf) -> Number:
    """A field of an augmentation whose value must lie in low..high."""
    span = f"lie in {low:g}..{high:g}" if high < math.inf else f"be at least {low:g}"
    return field(default=default, metadata={"ok": lambda value: low <= value <= high, "must": span})


def positive(default: float) -> float:
    """A field of an augmentation whose value must be above 0."""
    return field(default=default, metadata={"ok": lambda value: value > 0, "must": "be above 0"})


def amount(default: float) -> float:
    """A field that counts pixels or frames (a whole number), or is a fraction of the size (below 1)."""
    rule = "be a whole number, or a fraction of the size below 1"
    return field(default=default, metadata={"ok": lambda v: v >= 0 and (v < 1 or float(v).is_integer()), "must": rule})


@dataclass(frozen=True)
class Augmentation:
    """One random change to the rows of a training batch.

    Subclasses are frozen dataclasses with a `name` and `apply`; fields made by `within`, `positive` and `amount` are
    checked. `str(step)` is its text form, which `parse` reads.
    """

    name: ClassVar[str] = ""
    bare: ClassVar[bool] = False  # whether the text form leaves out a first argument that is the default
    composed: ClassVar[bool] = False  # whether neighbours are composed into one change, by `compose`

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.metadata:
                self.check(f.metadata["ok"](value), f"{f.name} must {f.metadata['must']}, not {value!r}")

    def apply(self, batch: Batch, address: Address) -> Batch:
        """The batch with a new column `x` (mixing: `y`, `weight` too); the input is left alone."""
        raise NotImplementedError

    def compose(self, steps: Sequence[Self], addresses: Sequence[Address], batch: Batch) -> Batch:
        """The batch after neighbouring steps, this one the first, that are all `composed`, or none of them."""
        for step, address in zip(steps, addresses):
            batch = step.apply(batch, address)
        return batch

    def check(self, ok: bool, sentence: str) -> None:
        """Raise HandfulError "augmentation <name>: <sentence>" unless ok."""
        if not ok:
            raise HandfulError(f"augmentation {self.name}: {sentence}")

    def column(self, batch: Batch) -> Tensor:
        """The column `x` as a Tensor; HandfulError if there is none."""
        have = ", ".join(name for name in batch.columns if name not in ("y", "weight")) or "nothing"
        self.check("x" in batch.tensors(), f"it is for models that get one tensor x, and this one gets {have}")
        return batch.tensor("x")

    def floating(self, batch: Batch, dims: tuple[int, ...], of: str) -> Tensor:
        """The column `x`, checked to be floating point with one of `dims` dimensions; `of` says what they are."""
        x = self.column(batch)
        ok = x.is_floating_point() and x.dim() in dims
        self.check(ok, f"it needs floating-point {of}, but x is {str(x.dtype).removeprefix('torch.')} {list(x.shape)}")
        return x

    @property
    def steps(self) -> tuple["Augmentation", ...]:
        """Itself, as a list of one."""
        return (self,)

    def __or__(self, other: Union["Augmentation", "Augment"]) -> "Augment":
        return Augment(self.steps) | other

    def __str__(self) -> str:
        parts, skipped = [], False
        for k, f in enumerate(fields(self)):
            value = getattr(self, f.name)
            if value == f.default and (k > 0 or self.bare):
                skipped = True
            else:
                parts.append(f"{f.name}={_text(value)}" if skipped else _text(value))
        return f"{self.name}({', '.join(parts)})" if parts else self.name


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else repr(value)


@dataclass(frozen=True)
class Augment:
    """Steps applied in order to the column `x` of a training batch (mixup and cutmix: `y` and `weight` too).

    seed, fetch, n and classes are usually set by `bind`. fetch(rows) returns those training rows
    after preprocessing; it, n (the number of training rows) and classes (of an integer target) are needed by
    mixup and cutmix only. Neighbouring geometric steps are composed into one resampling.

    >>> from handful import augment
    >>> step = augment.parse("flip | shift(2)").bind(seed=1)
    >>> x = torch.randn(4, 3, 8, 8)
    >>> whole = step(Batch({"x": x}, np.arange(4)))["x"]
    >>> last = step(Batch({"x": x[3:]}, np.array([3])))["x"]
    >>> bool((whole[3:] == last).all())
    True
    """

    steps: tuple[Augmentation, ...] = ()
    seed: int = 0
    fetch: Fetch | None = None
    n: int | None = None
    classes: int | None = None

    def bind(
        self, *, seed: int | None = None, fetch: Fetch | None = None, n: int | None = None, classes: int | None = None
    ) -> "Augment":
        """The same steps with a seed and, for mixup and cutmix, a way to reach other training rows."""
        seed = self.seed if seed is None else seed
        return Augment(self.steps, seed, fetch or self.fetch, n or self.n, classes or self.classes)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))

    def __call__(self, batch: Batch) -> Batch:
        return self._up_to(len(self.steps), batch)

    def __or__(self, other: Union[Augmentation, "Augment"]) -> "Augment":
        if not isinstance(other, Augmentation | Augment):
            return NotImplemented
        return replace(self, steps=(*self.steps, *other.steps))

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
        for _, group in groupby(range(stop), lambda k: self.steps[k].composed):
            places = list(group)
            steps = [self.steps[k] for k in places]
            batch = steps[0].compose(steps, [self._address(k) for k in places], batch)
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


def with_x(batch: Batch, x: Tensor) -> Batch:
    """The same batch with another `x`."""
    return batch.replace(batch.columns | {"x": x})


def pixels(amount: float, size: int) -> int:
    """An amount in pixels (1 or more) or a fraction of `size` (less than 1), as whole pixels."""
    return round(amount * size) if amount < 1 else int(amount)


def on_device(values: NDArray[np.generic], like: Tensor) -> Tensor:
    """A NumPy array as a Tensor on the device of `like`; floating point takes its dtype."""
    out = torch.from_numpy(np.ascontiguousarray(values))
    return out.to(like.device, like.dtype) if out.is_floating_point() else out.to(like.device)


def per_row(values: Tensor, x: Tensor, last: int = 0) -> Tensor:
    """values [m, ...] with 1s put in, so that they broadcast against x; their last `last` axes stay the last of x."""
    shape = values.shape
    return values.view(shape[0], *(1,) * (x.dim() - 1 - last), *shape[len(shape) - last :])


def squares(spans: Sequence[NDArray[np.bool_]], x: Tensor) -> Tensor:
    """Which pixels lie in a row's rectangle, bool [m, (1,) H, W], from rows bool [m, H] and columns bool [m, W]."""
    return per_row(on_device(spans[0], x)[:, :, None] & on_device(spans[1], x)[:, None, :], x, 2)


def row_lengths(batch: Batch, x: Tensor) -> NDArray[np.int64]:
    """Frames of each row of x [m, ..., frames] before padding, int64 [m].

    The column `lengths` if there is one; else what stands before the zeros at the end (`LogMel` pads with
    zeros after standardising; real frames are not all exactly 0). So it does not matter to which length a
    batch was padded.
    """
    lengths = batch.tensor("lengths") if "lengths" in batch.columns else frames(x)
    return lengths.cpu().numpy().astype(np.int64)
