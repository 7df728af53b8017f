"""Whether a model treats the rows of a batch one by one, and keeps nothing from one call to the next, found by trying
it on a few rows before step 1: what does not is said."""

import contextlib
from itertools import chain

import torch
from torch import Tensor

from handful.base.errors import MISTAKES, some
from handful.base.machine import wide
from handful.data.base import Batch
from handful.losses.outputs import mapped, tensors_in
from handful.plan.dry_run import quietly
from handful.training.objective import Objective
from handful.training.special.coupling import rows, training_mode
from handful.training.watch.weights import buffers_kept


def keeps_state(objective: Objective, sample: Batch) -> bool:
    """Whether the model gives other outputs when it is called on the same rows again, with the same random numbers."""
    outputs = [mapped(quietly(objective.model, lambda: objective.forward(sample)), Tensor.clone) for _ in range(2)]
    pairs = zip(*map(tensors_in, outputs), strict=True)
    return any(not torch.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True) for a, b in pairs)


def _changed_by_a_call(objective: Objective, batch: Batch) -> str | None:
    """What of its own weights and buffers the model changes when it is called in training mode, in words; None where
    nothing. They are left as they were."""
    model = training_mode(objective.model)

    def held() -> dict[str, Tensor]:
        return {name: v.detach().clone() for name, v in chain(model.named_parameters(), model.named_buffers())}

    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        kept = held()
        try:
            for weight in filter(lambda p: p.requires_grad, model.parameters()):
                weight.add_(0.01)  # else what follows the weights, as an average does, is at first what it will be
            before = held()
            objective.forward(objective.to_device(batch))
            names = [name for name, value in held().items() if not torch.equal(value, before[name])]
        finally:  # also after Ctrl-C
            for name, weight in model.named_parameters():
                weight.copy_(kept[name])
    return f"the model changes {some(names)} at each call in training mode" if names else None


def beside(objective: Objective, batch: Batch) -> list[str]:
    """That what the model gives for a row depends on the rows beside it, in evaluation mode, in words; nothing where it
    does not, or where that cannot be told, as of one that draws random numbers."""

    def given(some: Batch, seed: int = 0) -> list[Tensor]:
        torch.default_generator.manual_seed(seed)
        found = tensors_in(objective.forward(some))
        return [wide(t) for t in found if t.is_floating_point() and t.ndim and len(t) == len(some)]

    def look() -> bool:
        whole, first, last = given(batch), *(given(half) for half in _halves(batch))
        if not all(map(torch.equal, whole, given(batch, 1))):
            return False
        return _apart(whole, [torch.cat(pair) for pair in zip(first, last, strict=True)], objective)

    with contextlib.suppress(*MISTAKES):
        if len(batch) > 1 and quietly(objective.model, look):
            return [
                f"what the model ({type(objective.model).__name__}) gives for a row depends on the rows beside it, in "
                "evaluation mode, too, as with attention or softmax over the first axis: so do predictions and scores"
            ]
    return []


def uneven(objective: Objective, batch: Batch) -> str | None:
    """Why the gradient of a batch is not the sum of its parts', by trying it; None where it is."""
    with buffers_kept(objective.model):  # two rows are in memory whatever a batch needs, and more are given up there
        few = rows(batch, slice(0, 2))
        return _changed_by_a_call(objective, few) or _uneven_backward(objective, objective.to_device(batch))


def _uneven_backward(objective: Objective, batch: Batch) -> str | None:
    """That gradients of parts of a batch do not add up to that of the batch, in words; None where they do, or where
    that cannot be told. In evaluation mode: of layers that couple rows in training alone see `mode_coupling`."""
    weights = [p for p in objective.model.parameters() if p.requires_grad]

    def given(some: Batch, mean: bool, seed: int = 0) -> tuple[list[Tensor], float]:
        torch.default_generator.manual_seed(seed)
        sums = objective.sums_of(objective.forward(some), some, metrics=False)
        found = torch.autograd.grad(sums.loss / sums.weight if mean else sums.loss, weights, materialize_grads=True)
        return [g.to_dense() if g.is_sparse else g for g in found], float(sums.weight)

    def look() -> bool:
        with torch.enable_grad():
            (whole, _), (again, _) = given(batch, True), given(batch, True, 1)
            if not all(map(torch.equal, whole, again)):
                return False
            (first, a), (last, b) = (given(half, False) for half in _halves(batch))
        return _apart(whole, [(x + y) / (a + b) for x, y in zip(first, last, strict=True)], objective)

    with contextlib.suppress(*MISTAKES):
        if len(batch) > 1 and quietly(objective.model, look):
            return "gradients of parts do not add up to that of the batch (a hook, or a layer that counts its rows?)"
    return None


def _halves(batch: Batch) -> tuple[Batch, Batch]:
    return rows(batch, slice(0, len(batch) // 2)), rows(batch, slice(len(batch) // 2, len(batch)))


def _apart(some: list[Tensor], others: list[Tensor], objective: Objective) -> bool:
    """Whether they differ by more than rounding does."""
    close = 1e-3 if objective.autocast is None else 0.05
    pairs = zip(some, others, strict=True)
    return any(float((a - b).abs().amax()) > close * float(a.abs().amax()) for a, b in pairs if a.numel())
