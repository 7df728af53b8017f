"""Flip, shift, rotate, scale: neighbours in a list are composed into one resampling.

Each is an affine map from output to input coordinates, in pixels from the centre of the picture, x to the
right and y down. Maps are multiplied first; then flips and whole-pixel shifts are an exact gather and
everything else is one bilinear `grid_sample`, so a picture is blurred once at most. What comes from outside
the picture is 0, which after standardisation is the mean colour.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from handful.data.base import Batch
from handful.transform.augment import base


@dataclass(frozen=True)
class Geometric(base.Augmentation):
    """An affine change of a picture. `exact`: maps pixels to pixels, so that no interpolation is needed."""

    composed: ClassVar[bool] = True
    draws: ClassVar[int] = 1
    exact: ClassVar[bool] = False

    def matrices(self, u: base.Floats, height: int, width: int) -> base.Floats:
        """Maps from output to input coordinates, float64 [m, 3, 3], from uniform numbers u [draws, m]."""
        raise NotImplementedError

    def numbers(self, batch: Batch, address: base.Address) -> base.Floats:
        """The uniform numbers of each row, float64 [m, draws]."""
        return address.uniform(batch, self.draws)

    def apply(self, batch: Batch, address: base.Address) -> Batch:
        return self.compose([self], [address], batch)

    def compose(self, steps: Sequence[Self], addresses: Sequence[base.Address], batch: Batch) -> Batch:
        """The batch after several geometric steps, in order, as one resampling; x: float [m, C, H, W] or [m, H, W]."""
        x = self.floating(batch, (3, 4), "pictures [m, C, H, W] or [m, H, W]")
        y = batch.tensors().get("y")
        moved = y is not None and y.dim() >= 3
        self.check(not moved, "the target is a picture too, and it would not be moved along with x")
        pictures = x if x.dim() == 4 else x[:, None]
        height, width = pictures.shape[-2:]
        total = np.broadcast_to(np.eye(3), (len(batch), 3, 3))
        for step, address in zip(steps, addresses):
            # out(p) = in(A p): the step applied last is the first to act on the output coordinate
            total = total @ step.matrices(step.numbers(batch, address).T, height, width)
        out = gather(pictures, total) if all(step.exact for step in steps) else resample(pictures, total)
        return base.with_x(batch, out.view(x.shape))


@dataclass(frozen=True)
class Flip(Geometric):
    """Mirror a picture left to right with probability `horizontal`, upside down with probability `vertical`.

    Over the epochs a row's turns are spread evenly: at 0.5 it is mirrored in every other one, the first drawn at
    random, so that two epochs show both sides of every picture and no epoch shows one that the last one did (Jordan
    2024, arXiv:2404.00498, section 3.6, there for 0.5).

    >>> str(Flip()), str(Flip(0, 0.5))
    ('flip', 'flip(0, 0.5)')
    """

    horizontal: float = base.within(0.5, 0, 1)
    vertical: float = base.within(0.0, 0, 1)
    name: ClassVar[str] = "flip"
    bare: ClassVar[bool] = True
    draws: ClassVar[int] = 2
    exact: ClassVar[bool] = True

    def numbers(self, batch: Batch, address: base.Address) -> base.Floats:
        """Numbers that move on by the probability each epoch, modulo 1: they are below p in a share p of the epochs."""
        first = address.uniform(Batch({}, batch.rows), self.draws)
        each = 2 if 0 < self.horizontal < 1 else 1  # vertical half as often, or two of the four sides were never seen
        turns = batch.epochs[:, None] // np.array([1, each])
        numbers: base.Floats = (first + turns * np.array([self.horizontal, self.vertical])) % 1.0
        return numbers

    def matrices(self, u: base.Floats, height: int, width: int) -> base.Floats:
        return affine_maps(xx=np.where(u[0] < self.horizontal, -1.0, 1.0), yy=np.where(u[1] < self.vertical, -1.0, 1.0))


@dataclass(frozen=True)
class Shift(Geometric):
    """Move a picture by whole pixels, uniform in -amount..amount along each axis.

    amount: pixels (a whole number), or a fraction of each side (below 1).
    """

    amount: float = base.amount(2)
    name: ClassVar[str] = "shift"
    draws: ClassVar[int] = 2
    exact: ClassVar[bool] = True

    def matrices(self, u: base.Floats, height: int, width: int) -> base.Floats:
        most = [base.pixels(self.amount, size) for size in (width, height)]
        dx, dy = (np.floor(v * (2 * n + 1)) - n for v, n in zip(u, most))  # whole numbers uniform in -n..n
        return affine_maps(tx=-dx, ty=-dy)


@dataclass(frozen=True)
class Rotate(Geometric):
    """Turn a picture about its centre by an angle uniform in -degrees..degrees."""

    degrees: float = base.within(10, 0, 180)
    name: ClassVar[str] = "rotate"

    def matrices(self, u: base.Floats, height: int, width: int) -> base.Floats:
        return rotation(_between(u[0], -self.degrees, self.degrees))


@dataclass(frozen=True)
class Scale(Geometric):
    """Enlarge a picture about its centre by a factor log-uniform in low..high."""

    low: float = 0.8
    high: float = 1.25
    name: ClassVar[str] = "scale"

    def __post_init__(self) -> None:
        _check_factor(self, self.low, self.high)

    def matrices(self, u: base.Floats, height: int, width: int) -> base.Floats:
        return _enlargement(u[0], self.low, self.high)


@dataclass(frozen=True)
class Affine(Geometric):
    """Turn, enlarge, slant and move a picture at once, without rounding to whole pixels.

    degrees: angle uniform in -degrees..degrees; shift: fraction of each side, uniform in -shift..shift;
    low, high: factor, log-uniform; shear: slant of the vertical axis, uniform in -shear..shear degrees.
    """

    degrees: float = base.within(10, 0, 180)
    shift: float = base.within(0.1, 0, 1)
    low: float = 0.9
    high: float = 1.1
    shear: float = base.within(0, 0, math.nextafter(90, 0))
    name: ClassVar[str] = "affine"
    draws: ClassVar[int] = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_factor(self, self.low, self.high)

    def matrices(self, u: base.Floats, height: int, width: int) -> base.Floats:
        dx, dy = (_between(v, -self.shift, self.shift) * size for v, size in zip(u[3:], (width, height)))
        slant = affine_maps(xy=np.tan(np.deg2rad(_between(u[2], -self.shear, self.shear))))
        turn = rotation(_between(u[0], -self.degrees, self.degrees))
        return turn @ _enlargement(u[1], self.low, self.high) @ slant @ affine_maps(tx=dx, ty=dy)


def _check_factor(step: base.Augmentation, low: float, high: float) -> None:
    step.check(0 < low <= high, f"it needs 0 < low <= high, not {low:g} and {high:g}")


def _enlargement(u: base.Floats, low: float, high: float) -> base.Floats:
    factor = np.exp(_between(u, math.log(low), math.log(high)))
    return affine_maps(xx=1 / factor, yy=1 / factor)


def rotation(degrees: base.Floats) -> base.Floats:
    """Maps that turn pictures counter-clockwise as displayed by `degrees` [m]: float64 [m, 3, 3]."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return affine_maps(xx=c, xy=-s, yx=s, yy=c)


def gather(x: Tensor, maps: base.Floats) -> Tensor:
    """Pictures under mirrorings and whole-pixel moves: exact, 0 outside. x: [m, C, H, W]; maps: [m, 3, 3]."""
    m, channels, height, width = x.shape
    if x.numel() == 0:
        return x
    rows = _indices(maps[:, 1, 1], maps[:, 1, 2], height)
    columns = _indices(maps[:, 0, 0], maps[:, 0, 2], width)
    index = base.on_device(rows, x)[:, :, None] * (width + 1) + base.on_device(columns, x)[:, None, :]
    flat = F.pad(x, (0, 1, 0, 1)).reshape(m, channels, -1)  # one more row and column of zeros to point outside at
    return flat.gather(2, index.view(m, 1, -1).expand(m, channels, -1)).view(x.shape)


def resample(x: Tensor, maps: base.Floats) -> Tensor:
    """Pictures under any affine map: bilinear, 0 outside. x: [m, C, H, W]; maps: [m, 3, 3]."""
    if x.numel() == 0:
        return x
    side = np.array([x.shape[-1] / 2, x.shape[-2] / 2, 1.0])
    theta = (maps * side / side[:, None])[:, :2]  # to coordinates in which the picture's edges are at -1 and 1
    work = x if x.dtype in (torch.float32, torch.float64) else x.float()
    grid = F.affine_grid(base.on_device(theta, work), list(x.shape), align_corners=False)
    return F.grid_sample(work, grid, mode="bilinear", padding_mode="zeros", align_corners=False).to(x.dtype)


def _indices(sign: base.Floats, offset: base.Floats, size: int) -> NDArray[np.int64]:
    """Input index of each output index, int64 [m, size]; `size` (one past the end) where it lies outside."""
    middle = (size - 1) / 2
    index = np.rint(sign[:, None] * (np.arange(size) - middle) + offset[:, None] + middle).astype(np.int64)
    return np.where((index >= 0) & (index < size), index, size)


def affine_maps(
    xx: base.Floats | float = 1.0,
    xy: base.Floats | float = 0.0,
    tx: base.Floats | float = 0.0,
    yx: base.Floats | float = 0.0,
    yy: base.Floats | float = 1.0,
    ty: base.Floats | float = 0.0,
) -> base.Floats:
    """Maps, float64 [m, 3, 3], from output to input coordinates: x' = xx x + xy y + tx, y' = yx x + yy y + ty."""
    parts = np.broadcast_arrays(*np.atleast_1d(xx, xy, tx, yx, yy, ty, 0.0, 0.0, 1.0))
    return np.stack(parts, axis=-1).reshape(-1, 3, 3).astype(np.float64)


def _between(u: base.Floats, low: float, high: float) -> base.Floats:
    return low + (high - low) * u
