"""What an augmentation is, and where its random numbers come from.

The number that decides what happens to a row is a pure function of (purpose, seed, epoch, row id): see
`keys`. The few numbers a row (angle, offset, ...) are drawn in NumPy; the many (noise, dropout) on the device
of `x`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.base import keys
from handful.base.errors import HandfulError
from handful.data.base import Batch, Rows

if TYPE_CHECKING:
    from handful.transform.augment.augment import Augment

Floats = NDArray[np.float64]
Partner = Callable[[Rows, Rows], Batch]


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


@dataclass(frozen=True)
class Augmentation:
    """One random change to the rows of a training batch.

    Subclasses are frozen dataclasses with a `name` and `apply`. `str(step)` is its text form, which `parse`
    reads.
    """

    name: ClassVar[str] = ""
    bare: ClassVar[bool] = False  # whether the text form leaves out a first argument that is the default

    def apply(self, batch: Batch, address: Address) -> Batch:
        """The batch with a new column `x` (mixing: `y`, `weight` too); the input is left alone."""
        raise NotImplementedError

    def __or__(self, other: "Augmentation | Augment") -> "Augment":
        from handful.transform.augment.augment import as_augment

        return as_augment([self]) | other

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


def check(ok: bool, step: Augmentation, sentence: str) -> None:
    """Raise HandfulError "<name>: <sentence>" unless ok."""
    if not ok:
        raise HandfulError(f"augmentation {step.name}: {sentence}.")


def floating(batch: Batch, step: Augmentation, dims: tuple[int, ...], of: str) -> Tensor:
    """The column `x`, checked to be floating point with one of `dims` dimensions; `of` says what they are."""
    x = column(batch, step)
    what = f"x is {str(x.dtype).removeprefix('torch.')} {list(x.shape)}"
    check(x.is_floating_point(), step, f"it needs floating-point rows ({of}), but {what}")
    check(x.dim() in dims, step, f"it needs {of}, but {what}")
    return x


def column(batch: Batch, step: Augmentation) -> Tensor:
    """The column `x` as a Tensor; HandfulError if there is none."""
    x = batch.columns.get("x")
    if not isinstance(x, Tensor):
        have = ", ".join(batch.columns) or "none"
        raise HandfulError(f"augmentation {step.name}: it changes the column 'x' as a Tensor; columns are: {have}.")
    return x


def with_x(batch: Batch, x: Tensor) -> Batch:
    """The same batch with another `x`."""
    return batch.replace({**batch.columns, "x": x})


def pixels(step: Augmentation, amount: float, size: int) -> int:
    """An amount in pixels (1 or more) or a fraction of `size` (less than 1), as whole pixels."""
    return round(amount * size) if amount < 1 else int(amount)


def check_amount(step: Augmentation, amount: float, what: str) -> None:
    """An amount is a whole number of pixels or frames, or a fraction below 1."""
    ok = amount >= 0 and (amount < 1 or float(amount).is_integer())
    check(ok, step, f"{what} must be a whole number, or a fraction of the size below 1, not {amount:g}")


def on_device(values: NDArray[np.generic], like: Tensor) -> Tensor:
    """A NumPy array as a Tensor on the device of `like`; floating point takes its dtype."""
    out = torch.from_numpy(np.ascontiguousarray(values))
    return out.to(like.device, like.dtype) if out.is_floating_point() else out.to(like.device)


def row_lengths(batch: Batch, x: Tensor) -> NDArray[np.int64]:
    """Frames of each row of x [m, ..., frames] before padding, int64 [m].

    The column `lengths` if there is one; else what stands before the zeros at the end (`LogMel` pads with
    zeros after standardising; real frames are not all exactly 0). So it does not matter to which length a
    batch was padded.
    """
    lengths = batch.columns.get("lengths")
    if not isinstance(lengths, Tensor):
        sounding = (x != 0).flatten(1, -2).any(1) if x.dim() > 2 else x != 0
        lengths = (sounding * torch.arange(1, x.shape[-1] + 1, device=x.device)).amax(1)
    return lengths.cpu().numpy().astype(np.int64)
