"""Which part of a model's output predicts the target, where the loss is the caller's own and may want other things."""

import math

import torch
from torch import Tensor

from handful.base.errors import MISTAKES
from handful.data.base import Batch
from handful.losses import ctc
from handful.losses.loss import IGNORED
from handful.losses.outputs import mapped, named_parts
from handful.training.objective import Objective
from handful.transform.target import Target


def predicting_part(objective: Objective, batch: Batch, target: Target | None) -> str | None:
    """The name of the part, "" for the output itself, or None: of embeddings, say, no part predicts a class.

    It has the shape of the target or scores its classes; for one class per row, the loss pulls up the score of the true
    class in every row, which no loss does that takes the numbers for anything else.
    """
    output = objective.forward(batch)
    if target is None or target.task in ("sequence", "language") or ctc.only_valid(output) is not output:
        return ""
    for name, found in named_parts(output):
        if isinstance(found, Tensor) and _has_shape(found, batch, target):
            by_shape = target.task != "classification" or target.dense or objective.of_model
            if by_shape or _pulls(objective, output, found, batch):
                return name
    return None


def _has_shape(found: Tensor, batch: Batch, target: Target) -> bool:
    if found.ndim == 0 or len(found) != len(batch) or not found.is_floating_point():
        return False
    if target.task != "classification":
        return found[:1].numel() == math.prod(target.shape)
    if target.dense:
        return found.ndim == len(target.shape) + 2
    single = found[:1].numel() == 1 and target.outputs == 2
    return single or (found.ndim == 2 and found.shape[1] >= target.outputs)


def _pulls(objective: Objective, output: object, found: Tensor, batch: Batch) -> bool:
    """Whether a step down the loss raises the true class's score against the mean of the others', in every row."""
    with torch.enable_grad():
        scores = found.detach().clone().requires_grad_()
        try:
            loss = objective.row_losses(mapped(output, lambda o: scores if o is found else o), batch)[0]
            if not loss.requires_grad:  # it wants another part
                return False
            (slope,) = torch.autograd.grad(loss, scores)
        except MISTAKES:
            return True  # the loss cannot be asked: as the shapes say
    y = batch.tensor("y").reshape(-1, 1)
    kept = y.flatten() != IGNORED
    slope, y = slope[kept], y[kept]
    if not len(y):
        return True
    if slope[:1].numel() == 1:
        pull = torch.where(y > 0, -1, 1) * slope.reshape(-1, 1)
    else:
        own = slope.gather(1, y)
        pull = (slope.sum(1, keepdim=True) - own) / (slope.shape[1] - 1) - own
    return bool((pull >= -1e-6 * pull.abs().max()).all()) and bool((pull > 0).any())
