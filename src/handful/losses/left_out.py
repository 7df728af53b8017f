"""What a loss says of its target: whether it holds numbers or classes, and which rows stand for no class: the id that a
loss leaves out; losses of the caller's own as a sum and what it is divided by, so that it can be computed in parts."""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from handful.base.errors import MISTAKES
from handful.losses.loss import (
    IGNORED,
    Aligned,
    Counted,
    LossFunction,
    as_loss,
    binary_cross_entropy,
    binary_cross_entropy_of_probabilities,
    cross_entropy,
    focal,
    huber,
    mae,
    mse,
    poisson,
    quantile,
    token_cross_entropy,
)
from handful.losses.loss import model as of_model
from handful.losses.outputs import named_parts


@dataclass(frozen=True)
class LeavingOut:
    """A loss of the caller's own that leaves out the rows of an id, `ignored`, with what the others count for. It gets
    that id back, which is IGNORED in a target that was encoded; rows of it alone count for nothing."""

    loss: LossFunction
    ignored: int

    def __call__(self, output: Any, target: Tensor) -> tuple[Tensor, Tensor]:
        kept = target != IGNORED
        if not kept.any():
            scores = next(
                part for _, part in named_parts(output) if isinstance(part, Tensor) and part.is_floating_point()
            )
            return scores[:0].sum(), kept.sum()
        match self.loss(output, torch.where(kept, target, self.ignored)):
            case Tensor(ndim=0) as mean:
                return mean * kept.sum(), kept.sum()
            case Tensor() as values if values.numel() > kept.numel():
                counted = kept.reshape(*kept.shape, *[1] * (values.ndim - kept.ndim)).expand_as(values)
            case Tensor() as values:  # of places, or of rows that have some
                counted = kept.reshape(*values.shape, -1).any(-1)
            case found:
                return found
        return torch.where(counted, values, 0), counted


@dataclass(frozen=True)
class Summed:
    """A loss of the caller's own that returns the sum over the rows: (sum, rows that count; empty: all of the batch),
    so that the mean is minimised."""

    loss: LossFunction

    def __call__(self, output: Any, target: Any) -> tuple[Tensor, Tensor]:
        match self.loss(output, target):
            case (total, rows):  # the rows that count
                return total / rows.clamp_min(1), rows
            case total:
                return (total := torch.as_tensor(total)), total.new_empty(0)


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


def leaving_out(loss: LossFunction, ignored: int | None, classes: int, places: int) -> LossFunction:
    """The loss, which leaves out the rows of the id `ignored` if it is one of the caller's own that does."""
    if ignored is None or ignored_id(loss) is not None:
        return loss
    found = ignored_id(loss, sorted({*range(classes), ignored}), places)
    return LeavingOut(loss, ignored) if found == ignored else loss


def innermost(loss: object) -> object:
    """The caller's own, without what takes its values here."""
    while isinstance(loss, LeavingOut | Summed | ByPlace):
        loss = loss.loss
    return loss.func if isinstance(loss, partial) else loss


def task_of(loss: object) -> str | None:
    """What a target [m] is by the loss that it is for; None where the loss does not tell.

    >>> task_of("mse"), task_of(nn.SmoothL1Loss()), task_of(nn.functional.cross_entropy), task_of("auto")
    ('regression', 'regression', 'classification', None)
    """
    if loss in (None, "auto"):
        return None
    match as_loss(loss)[0]:
        case mse() | mae() | huber() | quantile() | poisson():
            return "regression"
        case Aligned(values=values) if not isinstance(values, nn.BCELoss | nn.BCEWithLogitsLoss):
            return "regression"
        case cross_entropy() | focal() | Counted() | nn.CrossEntropyLoss() | nn.NLLLoss():
            return "classification"
    return None


def link_of(loss: object) -> str | None:
    """What of `LINKS` makes numbers of a loss's outputs; "" where they are numbers themselves, None if it is not known.

    >>> link_of(poisson()), link_of(nn.BCEWithLogitsLoss()), link_of(mse()), link_of(lambda o, t: (o - t) ** 2)
    ('exp', 'sigmoid', '', None)
    """
    match loss:
        case Aligned(values=values):
            return link_of(values)
        case poisson() | nn.PoissonNLLLoss(log_input=True):
            return "exp"
        case binary_cross_entropy() | nn.BCEWithLogitsLoss():
            return "sigmoid"
        case binary_cross_entropy_of_probabilities() | nn.BCELoss():
            return "itself"
        case nn.CrossEntropyLoss() | nn.NLLLoss():
            return None
        case _Loss() | mse() | mae() | huber() | quantile():
            return ""
    return None


def ignored_id(loss: object, classes: Sequence[int] = (), places: int = 0) -> int | None:
    """The class id of rows that a loss leaves out of its mean, or None where it counts them all.

    classes: the ids in the data, rising, by which it is found of a loss of the caller's own, that is tried then;
    places: dimensions of a row that has a class for each of its places.

    >>> ignored_id("cross_entropy"), ignored_id(nn.CrossEntropyLoss(ignore_index=-1)), ignored_id("focal")
    (-100, -1, None)
    >>> ignored_id(lambda o, t: nn.functional.cross_entropy(o, t, ignore_index=9), [0, 1, 2, 9])
    9
    """
    match as_loss("cross_entropy" if loss in (None, "auto") else loss)[0]:
        case cross_entropy() | token_cross_entropy() | of_model():
            return IGNORED
        case Counted(ignored=ignored) | LeavingOut(ignored=ignored):
            return int(ignored)
        case function if callable(loss):
            tried = dict.fromkeys([*classes[:1], *classes[-1:], IGNORED] if classes else [])
            return next((one for one in tried if _leaves_out(function, one, classes, places)), None)
    return None


class _Parts(dict[str, Tensor]):
    """A model's output of several parts, whatever their names: each is the scores."""

    def __init__(self, scores: Tensor):
        self[""] = scores

    def __missing__(self, name: str) -> Tensor:
        return self[""]

    __getattr__ = __missing__


def _leaves_out(loss: LossFunction, ignored: int, classes: Sequence[int], places: int) -> bool:
    """Whether the scores of a row of this id have no part in the loss, and those of others have."""
    others = [one for one in classes if one != ignored]
    if len(others) < 2 or others[0] < 0 or 0 <= ignored < len(others):
        return False
    count = others[-1] + 1 if places or others[-1] < 2 * len(others) else len(others)  # else they become ids
    ones, noise = [1] * places, torch.randn(3, count, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    target = torch.tensor([0, ignored, count - 1]).reshape(3, *ones)
    for shape in dict.fromkeys([(3, count, *ones), (3, *ones, count)]):
        if (slope := _slope(loss, noise.reshape(shape), target)) is not None:
            first, none, last = slope.abs().flatten(1).sum(1)
            return bool(none == 0) and 0 < float(min(first, last)) < float("inf")
    return False


def takes_shares(loss: LossFunction, classes: int) -> bool:
    """Whether a loss of the caller's own is least where the softmax of the outputs is the target [m, classes].

    >>> takes_shares(lambda o, t: -(t * o.log_softmax(1)).sum(1), 3), takes_shares(lambda o, t: (o - t) ** 2, 3)
    (True, False)
    """
    noise, more = torch.randn(2, 3, classes, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    there, beside = (_slope(loss, scores, noise.exp()) for scores in (noise, noise + more))
    return there is not None and beside is not None and bool(there.abs().max() < 1e-3 * beside.abs().max())


def _slope(loss: LossFunction, scores: Tensor, target: Tensor) -> Tensor | None:
    """The slope of a loss of the caller's own at scores, which are the model's output or each of its parts; None where
    it takes neither."""
    tried = copy.deepcopy(loss) if isinstance(loss, nn.Module) else loss
    scores = scores.clone().requires_grad_()
    for output in (scores, _Parts(scores), (scores, scores)):
        try:
            with torch.enable_grad(), warnings.catch_warnings(action="ignore"):
                found = tried(output, target)
                total = found[0] if isinstance(found, tuple) else found
                return torch.autograd.grad(total.sum(), scores)[0]
        except MISTAKES:
            continue
    return None
