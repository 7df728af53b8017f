"""Whether a model treats the rows of a batch one by one, and keeps nothing from one call to the next, found by trying
it on a few rows before step 1: what does not is said."""

import contextlib
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from handful.base import stopwatch
from handful.base.errors import MISTAKES, some
from handful.base.machine import wide
from handful.batches.batches import Batches
from handful.data.base import Batch, Rows
from handful.losses.outputs import tensors_in
from handful.plan.data import Data
from handful.plan.dry_run import quietly
from handful.training.objective import Objective
from handful.training.special.coupling import rows, training_mode
from handful.training.watch.weights import buffers_kept

TRIED = "trying the model on a few rows"
MOST = 1 << 23  # weights whose gradients are looked at
_OF_ANY_LENGTH = ("text", "audio", "tokens", "collated")


@stopwatch.part(TRIED)
def keeps_state(objective: Objective, sample: Batch, output: object) -> bool:
    """Whether the model, called on the same rows again with the same random numbers, gives anything but `output`."""
    again = quietly(objective.model, lambda: objective.forward(sample))
    pairs = zip(tensors_in(output), tensors_in(again), strict=True)
    return any(not torch.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True) for a, b in pairs)


def _changed_by_a_call(objective: Objective, batch: Batch) -> str | None:
    """What of its own weights and buffers the model changes when it is called in training mode, in words; None where
    nothing. They are left as they were."""
    model = training_mode(objective.model)
    moved = _looked_at(model)

    def unlike(name: str, value: Tensor) -> bool:
        return name not in kept or not torch.equal(value, kept[name] + 0.01 if name in moved else kept[name])

    def held() -> Iterator[tuple[str, Tensor]]:
        return chain(model.named_parameters(), model.named_buffers())

    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        kept = {name: value.detach().clone() for name, value in held()}
        try:
            for weight in moved.values():
                weight.add_(0.01)  # else what follows the weights, as an average does, is at first what it will be
            objective.forward(objective.to_device(batch))
            names = [name for name, value in held() if unlike(name, value)]
        finally:  # also after Ctrl-C
            for name, weight in model.named_parameters():
                weight.copy_(kept[name])
    return f"the model changes {some(names)} at each call in training mode" if names else None


def spread(data: Data, count: int) -> Rows:
    """So many training rows, from the first to the last."""
    return np.unique(np.linspace(0, len(data.train) - 1, count).astype(np.int64))


@stopwatch.part(TRIED)
def beside(objective: Objective, data: Data, count: int) -> list[str]:
    """That what the model gives for a row depends on the rows beside it, in evaluation mode, in words; nothing where it
    does not, or where that cannot be told, as of one that draws random numbers. count: of the rows that are tried."""
    model, ids = objective.model, spread(data, count)
    m, varies = len(ids), any(c.varies or c.kind in _OF_ANY_LENGTH for c in data.train.columns.values())

    def take(places: Sequence[int]) -> Batch:
        return objective.to_device(data.pipeline(data.train.take(ids[places])))

    def length(place: int) -> int:
        return sum(t.numel() for t in tensors_in(list(take([place]).columns.values()))) if varies else 0

    few = sorted(sorted(range(m), key=lambda i: (length(i), abs(i - m / 2)))[: max(1, min(4, m // 2))])
    every, alone = take(range(m)), take(few)  # the shortest; else in the middle, with rows before and behind

    def given(some: Batch, seed: int = 0) -> list[Tensor]:
        torch.default_generator.manual_seed(seed)
        found = tensors_in(objective.forward(some))
        return [t for t in found if t.is_floating_point() and t.ndim and len(t) == len(some)]

    def look() -> bool:
        whole, apart = given(every), given(alone)
        found, again = zip(*(_common(a[few], b) for a, b in zip(whole, apart, strict=True)), strict=True)
        return _apart(found, again, objective) and all(map(torch.equal, whole, given(every, 1)))

    with contextlib.suppress(*MISTAKES):
        if m > 1 and quietly(model, look):
            why = "as with attention or softmax over the first axis"
            if _padded(every, alone):
                why = "as it takes padding for values: let its forward take lengths or attention_mask"
            return [
                f"what the model ({type(model).__name__}) gives for a row depends on the rows beside it, in evaluation "
                f"mode, too, and so do predictions and scores, {why}"
            ]
    return []


def _padded(every: Batch, few: Batch) -> bool:
    """Whether rows are padded to another length when fewer are read together."""
    shapes = ([t.shape[1:] for t in tensors_in(list(batch.columns.values()))] for batch in (every, few))
    return any(a != b for a, b in zip(*shapes, strict=True))


def _common(some: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """The places that both have, float64."""
    places = tuple(slice(min(sizes)) for sizes in zip(some.shape, others.shape, strict=True))
    return wide(some[places]), wide(others[places])


def tried_of(batch: int, part: int) -> int:
    """How many rows `uneven` is tried on: at most twice a part, and as much work as a step of the batch.

    >>> tried_of(64, 32), tried_of(8, 4), tried_of(32, 1)
    (16, 4, 2)
    """
    return max(2, min(16, batch // 2, 2 * part))


@stopwatch.part(TRIED)
def uneven(objective: Objective, batches: Batches, size: int, part: int) -> str | None:
    """Why the gradient of a batch of that size is not the sum of its parts', by trying it on the first rows; None where
    it is."""
    for name, layer in objective.model.named_modules():
        if getattr(layer, "scale_grad_by_freq", False):
            return f"layer '{name}' ({type(layer).__name__}) divides its gradient by how often a word is in the batch"
    batch = batches.at(0, tried_of(size, part))
    with buffers_kept(objective.model):  # two rows are in memory whatever a batch needs, and more are given up there
        few = rows(batch, slice(0, 2))
        return _changed_by_a_call(objective, few) or _uneven_backward(objective, objective.to_device(batch))


def _looked_at(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trained weights by name; of a large model the smallest, as biases, which each layer has, and those with hooks
    of their own."""
    found: dict[str, nn.Parameter] = {}
    numbers = 0
    weights = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    for name, weight in sorted(weights, key=lambda pair: pair[1].numel()):
        numbers += weight.numel()
        if numbers <= MOST or not found or weight._backward_hooks:
            found[name] = weight
    return found


def _uneven_backward(objective: Objective, batch: Batch) -> str | None:
    """That gradients of parts of a batch do not add up to that of the batch, in words; None where they do, or where
    that cannot be told. In evaluation mode: of layers that couple rows in training alone see `mode_coupling`."""
    weights, m = list(_looked_at(objective.model).values()), len(batch)
    halves = [rows(batch, half) for half in (slice(0, m // 2), slice(m // 2, m))]

    def given(some: Batch, mean: bool, seed: int = 0) -> tuple[list[Tensor], float]:
        torch.default_generator.manual_seed(seed)
        sums = objective.sums_of(objective.forward(some), some, metrics=False)
        found = torch.autograd.grad(sums.loss / sums.weight if mean else sums.loss, weights, materialize_grads=True)
        return [g.to_dense() if g.is_sparse else g for g in found], float(sums.weight)

    def look() -> bool:
        with torch.enable_grad():
            (whole, _), ((first, a), (last, b)) = given(batch, True), (given(half, False) for half in halves)
            parts = [x.add_(y).div_(a + b) for x, y in zip(first, last, strict=True)]
            return _apart(
                whole, parts, objective, 0.01 * max(float(g.abs().amax()) for g in whole if g.numel())
            ) and all(map(torch.equal, whole, given(batch, True, 1)[0]))

    with contextlib.suppress(*MISTAKES):
        if len(batch) > 1 and quietly(objective.model, look):
            return "gradients of parts do not add up to that of the batch (a hook, or a layer that counts its rows?)"
    return None


def _apart(some: Sequence[Tensor], others: Sequence[Tensor], objective: Objective, least: float = 0.0) -> bool:
    """Whether they differ by more than rounding does. least: a size below which a Tensor may be rounding alone, as the
    gradient of a bias before a normalisation is."""
    close = max(1e-3, 8 * torch.finfo(objective.autocast or objective.dtype).eps)
    pairs = ((a, b) for a, b in zip(some, others, strict=True) if a.numel())
    return any(float((a - b).abs().amax()) > close * max(float(a.abs().amax()), least) for a, b in pairs)
