"""Mixup and cutmix, with a partner that has an address.

The usual partner is another row of the batch; then what a row becomes depends on the batch size and on the
order. Here the partner of (seed, epoch, row) is row hash(seed, epoch, row) mod n of the training set, fetched
and augmented as itself, so a row becomes the same whoever else is in its batch.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from handful.base.errors import HandfulError
from handful.data.base import Batch
from handful.transform.augment import base


@dataclass(frozen=True)
class Mixup(base.Augmentation):
    """x = lambda x + (1 - lambda) x', y likewise, lambda ~ Beta(alpha, alpha).

    Zhang et al. 2017, arXiv:1710.09412. x: float [m, ...], all rows of one shape. y: int64 [m] class ids,
    which become float32 [m, classes] probabilities; or float [m] or [m, k]. A row is mixed with probability
    p.
    """

    alpha: float = base.positive(0.2)
    p: float = base.within(1.0, 0, 1)
    name: ClassVar[str] = "mixup"

    def apply(self, batch: Batch, address: base.Address) -> Batch:
        u = address.uniform(batch, 3)
        share = np.where(u[:, 2] < self.p, beta(u[:, 0], self.alpha), 1.0)
        return _mix(self, batch, address, u[:, 1], share, None)


@dataclass(frozen=True)
class Cutmix(base.Augmentation):
    """A rectangle of the picture, 1 - lambda of its area, from the partner; y mixed by area.

    Yun et al. 2019, arXiv:1905.04899, equations 1 and 2: sides sqrt(1 - lambda) of the picture's, centre
    uniform, clipped at the edges, lambda ~ Beta(alpha, alpha) then set to the exact share of pixels. x: float
    [m, C, H, W] or [m, H, W]; y as for Mixup. A row is mixed with probability p.
    """

    alpha: float = base.positive(1.0)
    p: float = base.within(0.5, 0, 1)
    name: ClassVar[str] = "cutmix"

    def apply(self, batch: Batch, address: base.Address) -> Batch:
        x = self.column(batch)
        self.check(x.dim() in (3, 4), f"it needs pictures [m, C, H, W] or [m, H, W], but x is {list(x.shape)}")
        u, sizes = address.uniform(batch, 5), x.shape[-2:]
        side = np.where(u[:, 2] < self.p, np.sqrt(1 - beta(u[:, 0], self.alpha)), 0.0)
        inside = []
        for k, size in enumerate(sizes):
            width, centre = np.floor(side * size), np.floor(u[:, 3 + k] * size)
            at = np.arange(size) - (centre - width // 2)[:, None]
            inside.append((at >= 0) & (at < width[:, None]))
        share = 1 - inside[0].sum(1) * inside[1].sum(1) / (sizes[0] * sizes[1])
        return _mix(self, batch, address, u[:, 1], share, base.squares(inside, x))


def beta(u: base.Floats, alpha: float) -> base.Floats:
    """Beta(alpha, alpha) numbers in 0..1 from uniform numbers by the inverse of its distribution."""
    from scipy.special import betaincinv  # a third of a second that most runs do without

    return np.asarray(betaincinv(alpha, alpha, u), dtype=np.float64)


def _mix(
    step: base.Augmentation,
    batch: Batch,
    address: base.Address,
    u: base.Floats,
    share: base.Floats,
    hole: Tensor | None,
) -> Batch:
    """Rows with share < 1 mixed with their partners: inside `hole`, or everywhere if that is None."""
    x = step.column(batch)
    step.check(x.is_floating_point(), f"it needs floating-point rows, but x is {x.dtype}")
    if address.partner is None or not address.n:
        raise HandfulError(f"augmentation {step.name}: it needs rows by id; bind(fetch=..., n=...) first")
    out = batch.replace(batch.columns)
    ids = "y" in out.columns and not batch.tensor("y").is_floating_point()
    if "y" in out.columns:
        out.columns["y"] = _target(step, batch, address.classes)
    mixed = np.flatnonzero(share < 1)
    if len(mixed) == 0:
        return out
    rows = np.minimum(np.floor(u[mixed] * address.n), address.n - 1).astype(np.int64)
    other = address.partner(rows, batch.epochs[mixed])
    x2 = step.column(other).to(x.device, x.dtype)
    same = f"{list(x.shape[1:])} and {list(x2.shape[1:])}"
    step.check(x2.shape[1:] == x.shape[1:], f"it needs rows of one fixed shape, but two have shapes {same}")
    at, lam = base.on_device(mixed, x), base.on_device(share[mixed], x)
    one, part = x[at], base.per_row(lam, x)
    new = part * one + (1 - part) * x2 if hole is None else torch.where(hole[at], x2, one)
    out.columns["x"] = x.index_copy(0, at, new)
    _mix_targets(step, out, other, at, lam.float(), address.classes, ids)
    return out


def _mix_targets(
    step: base.Augmentation, out: Batch, other: Batch, at: Tensor, lam: Tensor, classes: int | None, ids: bool
) -> None:
    """Mix y and weight of the rows `at`, in place of those in `out`; ids: y was class ids.

    Cross-entropy is linear in the target, so the mean of two weighted losses is one loss of weight W = lam w +
    (1 - lam) w' and target (lam w y + (1 - lam) w' y') / W. Targets of a regression mix by lam alone, as its x does.
    """
    share = lam
    if "weight" in out.columns and "weight" in other.columns:
        weight = out.tensor("weight")
        first, second = lam * weight[at].float(), (1 - lam) * other.tensor("weight").to(weight.device).float()
        total = first + second
        out.columns["weight"] = weight.index_copy(0, at, total.to(weight.dtype))
        if ids:
            share = torch.where(total > 0, first / total.clamp_min(1e-30), lam)
    if "y" in out.columns:
        y = out.tensor("y")
        y2 = _target(step, other, classes).to(y.device, y.dtype)
        share = base.per_row(share.to(y.dtype), y)
        out.columns["y"] = y.index_copy(0, at, share * y[at] + (1 - share) * y2)


def _target(step: base.Augmentation, batch: Batch, classes: int | None) -> Tensor:
    """y as numbers that can be averaged: class ids [m] become float32 [m, classes]."""
    y = batch.tensor("y")
    if y.is_floating_point():
        return y
    step.check(y.dim() == 1, f"it cannot mix targets of integers of shape {list(y.shape)}")
    if not classes:
        raise HandfulError(f"augmentation {step.name}: it needs the number of classes; bind(classes=...) first")
    return F.one_hot(y, classes).float()
