"""Augmentations that change values in place: colour, cutout, noise, gain."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from handful.data.base import Batch
from handful.transform.augment.base import (
    Address,
    Augmentation,
    check,
    check_amount,
    column,
    floating,
    on_device,
    pixels,
    row_lengths,
    with_x,
)

_CHUNK = 1 << 22  # numbers made at a time: keeps the 8-byte words of a large batch out of memory


@dataclass(frozen=True)
class Colour(Augmentation):
    """Change brightness, contrast and saturation of pictures [m, C, H, W] or [m, H, W], float.

    brightness: added to the whole picture, uniform in -brightness..brightness, in standard deviations of the
    data. contrast, saturation: factor uniform in 1 - a..1 + a, about the picture's mean and about each
    pixel's grey (mean of the channels; it acts on three channels only).
    """

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    name: ClassVar[str] = "colour"

    def __post_init__(self) -> None:
        check(self.brightness >= 0, self, f"brightness must not be negative, not {self.brightness:g}")
        for a in (self.contrast, self.saturation):
            check(0 <= a <= 1, self, f"contrast and saturation must lie in 0..1, not {a:g}")

    def apply(self, batch: Batch, address: Address) -> Batch:
        x = floating(batch, self, (3, 4), "pictures [m, C, H, W] or [m, H, W]")
        u = 2 * address.uniform(batch, 3) - 1
        shape = (-1,) + (1,) * (x.dim() - 1)
        b, c, s = (
            on_device(v, x).view(shape)
            for v in (u[:, 0] * self.brightness, 1 + u[:, 1] * self.contrast, 1 + u[:, 2] * self.saturation)
        )
        mean = x.mean(tuple(range(1, x.dim())), keepdim=True)
        out = mean + (x - mean) * c
        if x.dim() == 4 and x.shape[1] == 3:
            grey = out.mean(1, keepdim=True)
            out = grey + (out - grey) * s
        return with_x(batch, out + b)


@dataclass(frozen=True)
class Cutout(Augmentation):
    """Set a square of each picture to 0, the mean colour (DeVries and Taylor 2017, arXiv:1708.04552).

    size: side of the square in pixels (a whole number) or as a fraction of the shorter side (below 1). Its
    centre is uniform over the pixels, so part of it may lie outside, as in the paper.
    """

    size: float = 8
    name: ClassVar[str] = "cutout"

    def __post_init__(self) -> None:
        check_amount(self, self.size, "the size")

    def apply(self, batch: Batch, address: Address) -> Batch:
        x = floating(batch, self, (3, 4), "pictures [m, C, H, W] or [m, H, W]")
        height, width = x.shape[-2:]
        size, u = pixels(self, self.size, min(height, width)), address.uniform(batch, 2)
        first = np.floor(u * (height, width)).astype(np.int64) - size // 2
        inside = [
            on_device((np.arange(n) >= first[:, k : k + 1]) & (np.arange(n) < first[:, k : k + 1] + size), x)
            for k, n in enumerate((height, width))
        ]
        hole = inside[0][:, :, None] & inside[1][:, None, :]
        return with_x(batch, x.masked_fill(hole if x.dim() == 3 else hole[:, None], 0))


@dataclass(frozen=True)
class Noise(Augmentation):
    """Add normal noise of standard deviation `std` to every number of x, float [m, ...].

    Spectrograms [m, mels, frames] keep the zeros they were padded with at the end.
    """

    std: float = 0.1
    name: ClassVar[str] = "noise"

    def __post_init__(self) -> None:
        check(self.std >= 0, self, f"std must not be negative, not {self.std:g}")

    def apply(self, batch: Batch, address: Address) -> Batch:
        x = column(batch, self)
        check(x.is_floating_point() and x.dim() >= 2, self, f"it needs floating-point rows, but x is {x.dtype}")
        count = x[0].numel() if len(x) else 0
        out, step = x.clone(), max(1, _CHUNK // max(1, count))
        for start in range(0, len(x), step):
            part = slice(start, start + step)
            rows = Batch({}, batch.rows[part], batch.epochs[part])
            noise = address.device_normal(rows, count, x.device)
            # number t * rest + r goes to position t of the last axis, so that more padding moves no number
            noise = noise.view(len(rows), x.shape[-1], -1).transpose(1, 2).reshape(x[part].shape)
            out[part] += (self.std * noise).to(x.dtype)
        if x.dim() == 3 and x.numel():
            valid = torch.arange(x.shape[-1], device=x.device) < on_device(row_lengths(batch, x), x)[:, None]
            out = torch.where(valid.view(len(x), *(1,) * (x.dim() - 2), -1), out, x)
        return with_x(batch, out)


@dataclass(frozen=True)
class Gain(Augmentation):
    """Make raw sound [m, samples], float, louder or softer by a level uniform in -decibels..decibels."""

    decibels: float = 6
    name: ClassVar[str] = "gain"

    def __post_init__(self) -> None:
        check(self.decibels >= 0, self, f"decibels must not be negative, not {self.decibels:g}")

    def apply(self, batch: Batch, address: Address) -> Batch:
        of = "raw sound [m, samples] (for log-mel spectrograms use colour(0.2, 0, 0))"
        x = floating(batch, self, (2,), of)
        level = (2 * address.uniform(batch, 1) - 1) * self.decibels
        return with_x(batch, x * on_device(10 ** (level / 20), x))
