"""Losses that are one number for all rows, as a sum and what it is divided by, so that it can be computed in parts."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from handful.losses.loss import IGNORED, LossFunction


@dataclass(frozen=True)
class Summed:
    """A loss of the caller's own that returns the sum over the rows: (sum, rows), so that the mean is minimised."""

    loss: LossFunction

    def __call__(self, output: Any, target: Any) -> tuple[Tensor, Tensor]:
        match self.loss(output, target):
            case (total, rows):  # the rows that count
                return total / rows.clamp_min(1), rows
            case total:
                count = len(target if isinstance(target, Tensor) else output)
                total = torch.as_tensor(total)
                return total, torch.full((), float(count), device=total.device)


@dataclass(frozen=True)
class ByPlace:
    """A model's loss that is a mean over the places of all rows, from `first` on, that stand for a class: (sum,
    places)."""

    loss: LossFunction
    first: int

    def __call__(self, output: Any, target: Any) -> tuple[Tensor, Tensor]:
        counted = (target[:, self.first :] != IGNORED).sum()
        return torch.where(counted > 0, torch.as_tensor(self.loss(output, target)), 0) * counted, counted


FORMS: dict[str, Callable[[LossFunction], LossFunction]] = {
    "sum": Summed,
    "mean over places": partial(ByPlace, first=0),
    "mean over places but the first": partial(ByPlace, first=1),
}
