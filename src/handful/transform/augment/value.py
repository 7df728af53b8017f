"""Augmentations that change values in place: colour, cutout, noise, gain; and those of sound and text: masks over time
and frequency, moves in time, dropped tokens."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.data.base import Batch
from handful.transform.augment import base

_CHUNK = 1 << 22  # numbers made at a time: keeps the 8-byte words of a large batch out of memory


@dataclass(frozen=True)
class Colour(base.Augmentation):
    """Change brightness, contrast and saturation of pictures [m, C, H, W] or [m, H, W], float.

    brightness: added to the whole picture, uniform in -brightness..brightness, in standard deviations of the
    data. contrast, saturation: factor uniform in 1 - a..1 + a, about the picture's mean and about each
    pixel's grey (mean of the channels; it acts on three channels only).
    """

    brightness: float = base.within(0.2, 0)
    contrast: float = base.within(0.2, 0, 1)
    saturation: float = base.within(0.2, 0, 1)
    name: ClassVar[str] = "colour"

    def apply(self, batch: Batch, address: base.Address) -> Batch:
        x = self.floating(batch, (3, 4), "pictures [m, C, H, W] or [m, H, W]")
        u = 2 * address.uniform(batch, 3) - 1
        numbers = (u[:, 0] * self.brightness, 1 + u[:, 1] * self.contrast, 1 + u[:, 2] * self.saturation)
        b, c, s = (base.per_row(base.on_device(v, x), x) for v in numbers)
        mean = x.mean(tuple(range(1, x.dim())), keepdim=True)
        out = mean + (x - mean) * c
        if x.dim() == 4 and x.shape[1] == 3:
            grey = out.mean(1, keepdim=True)
            out = grey + (out - grey) * s
        return base.with_x(batch, out + b)


@dataclass(frozen=True)
class Cutout(base.Augmentation):
    """Set a square of each picture to 0, the mean colour (DeVries and Taylor 2017, arXiv:1708.04552).

    size: side of the square in pixels (a whole number) or as a fraction of the shorter side (below 1). Its
    centre is uniform over the pixels, so part of it may lie outside, as in the paper.
    """

    size: float = base.amount(8)
    name: ClassVar[str] = "cutout"

    def apply(self, batch: Batch, address: base.Address) -> Batch:
        x = self.floating(batch, (3, 4), "pictures [m, C, H, W] or [m, H, W]")
        sides = x.shape[-2:]
        size = base.pixels(self.size, min(sides))
        first = np.floor(address.uniform(batch, 2) * sides).astype(np.int64) - size // 2
        at = [np.arange(n) - first[:, k : k + 1] for k, n in enumerate(sides)]
        return base.with_x(batch, x.masked_fill(base.squares([(a >= 0) & (a < size) for a in at], x), 0))


@dataclass(frozen=True)
class Noise(base.Augmentation):
    """Add normal noise of standard deviation `std` to every number of x, float [m, ...].

    Spectrograms [m, mels, frames] keep the zeros they were padded with at the end.
    """

    std: float = base.within(0.1, 0)
    name: ClassVar[str] = "noise"

    def apply(self, batch: Batch, address: base.Address) -> Batch:
        x = self.column(batch)
        self.check(x.is_floating_point() and x.dim() >= 2, f"it needs floating-point rows, but x is {x.dtype}")
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
            valid = torch.arange(x.shape[-1], device=x.device) < base.on_device(base.row_lengths(batch, x), x)[:, None]
            out = torch.where(base.per_row(valid, x, 1), out, x)
        return base.with_x(batch, out)


@dataclass(frozen=True)
class Gain(base.Augmentation):
    """Make raw sound [m, samples], float, louder or softer by a level uniform in -decibels..decibels."""

    decibels: float = base.within(6, 0)
    name: ClassVar[str] = "gain"

    def apply(self, batch: Batch, address: base.Address) -> Batch:
        of = "raw sound [m, samples] (for log-mel spectrograms use colour(0.2, 0, 0))"
        x = self.floating(batch, (2,), of)
        level = (2 * address.uniform(batch, 1) - 1) * self.decibels
        return base.with_x(batch, x * base.on_device(10 ** (level / 20), x))


@dataclass(frozen=True)
class TimeMask(base.Augmentation):
    """Set `count` stretches of time to 0 (SpecAugment, Park et al. 2019, arXiv:1904.08779, section 2).

    x: float [m, ..., frames]. width: longest stretch in frames (a whole number) or as a fraction of the row's
    frames (below 1); the length is uniform in 0..width, the start uniform where the stretch fits.
    """

    width: float = base.amount(0.2)
    count: int = base.within(1, 1)
    name: ClassVar[str] = "time_mask"

    def apply(self, batch: Batch, address: base.Address) -> Batch:
        x = self.floating(batch, (2, 3, 4), "sound [m, ..., frames]")
        hole = self.stretches(batch, address, base.row_lengths(batch, x), x)
        return base.with_x(batch, x.masked_fill(base.per_row(hole, x, 1), 0))

    def stretches(self, batch: Batch, address: base.Address, sizes: NDArray[np.int64], like: Tensor) -> Tensor:
        """Which of the last axis of `like`, of which a row has `sizes`, lie in a stretch: bool [m, frames]."""
        u, most, at = address.uniform(batch, 2 * self.count), _most(self.width, sizes), np.arange(like.shape[-1])
        width = np.floor(u[:, 0::2] * (most[:, None] + 1))
        start = np.floor(u[:, 1::2] * (sizes[:, None] - width + 1))
        inside = (at >= start[:, :, None]) & (at < (start + width)[:, :, None])
        return base.on_device(np.asarray(inside.any(axis=1)), like)


class FrequencyMask(TimeMask):
    """Set `count` bands of frequencies to 0 (SpecAugment, as above).

    x: float [m, mels, frames] or [m, 1, mels, frames]. width: widest band in mels (a whole number) or as a
    fraction.
    """

    name: ClassVar[str] = "frequency_mask"

    def apply(self, batch: Batch, address: base.Address) -> Batch:
        x = self.floating(batch, (3, 4), "log-mel spectrograms [m, mels, frames]")
        mels = np.full(len(x), x.shape[-2], dtype=np.int64)
        hole = self.stretches(batch, address, mels, x.transpose(-1, -2))
        return base.with_x(batch, x.masked_fill(base.per_row(hole[:, :, None], x, 2), 0))


@dataclass(frozen=True)
class TimeShift(base.Augmentation):
    """Move sound in time by whole frames (or samples), uniform in -amount..amount; what enters is 0.

    x: float [m, ..., frames]. amount: frames (a whole number) or a fraction of the row's frames (below 1).
    """

    amount: float = base.amount(0.1)
    name: ClassVar[str] = "time_shift"

    def apply(self, batch: Batch, address: base.Address) -> Batch:
        x = self.floating(batch, (2, 3, 4), "sound [m, ..., frames]")
        lengths = base.row_lengths(batch, x)
        most = _most(self.amount, lengths)
        move = np.floor(address.uniform(batch, 1)[:, 0] * (2 * most + 1)).astype(np.int64) - most
        source = np.arange(x.shape[-1]) - move[:, None]
        ok = (source >= 0) & (source < lengths[:, None]) & (np.arange(x.shape[-1]) < lengths[:, None])
        index = base.per_row(base.on_device(np.where(ok, source, 0), x), x, 1).expand(x.shape)
        return base.with_x(batch, x.gather(-1, index).masked_fill(~base.per_row(base.on_device(ok, x), x, 1), 0))


@dataclass(frozen=True)
class TokenDropout(base.Augmentation):
    """Replace each token by `token` with probability p (word dropout, Iyyer et al. 2015, ACL, section 3.2).

    x: integers [m, T], 0 = padding, which is never touched. At least one token of a row is kept. token: 0
    takes the token out; or the id of an "unknown" or "mask" token.
    """

    p: float = base.within(0.1, 0, 1)
    token: int = 0
    name: ClassVar[str] = "token_dropout"

    def apply(self, batch: Batch, address: base.Address) -> Batch:
        x = self.column(batch)
        integer = not x.is_floating_point() and x.dim() == 2
        self.check(integer, f"it needs token ids [m, T], but x is {x.dtype} {list(x.shape)}")
        if x.numel() == 0:
            return batch
        u = address.device_uniform(batch, x.shape[1], x.device).masked_fill(x == 0, -1.0)
        kept = (u >= self.p) | (u == u.amax(1, keepdim=True))
        return base.with_x(batch, torch.where(kept | (x == 0), x, self.token))


def _most(amount: float, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """An amount in frames, or a fraction of a row's, as frames of each row."""
    return np.asarray(np.rint(amount * sizes) if amount < 1 else np.minimum(int(amount), sizes), dtype=np.int64)
