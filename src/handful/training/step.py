"""Batch -> one exact update: the whole mini-batch's, whatever the micro-batch size or the number of ranks."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from handful.base.errors import HandfulError
from handful.base.keys import key
from handful.data.base import Batch
from handful.training.objective import Objective, Sums, mode_coupling, rows
from handful.training.parallel import ALONE, Ranks

ZERO_WEIGHT = "the weights of all rows of a mini-batch are zero, so it has no mean loss; drop such rows"


class NonFiniteLoss(HandfulError):
    """The loss of a mini-batch is NaN or infinite; the update was not made."""


class OutOfMemory(HandfulError):
    """Not even a micro-batch of one row fits in memory."""


@dataclass
class Outcome:
    """Sums over the rows of one mini-batch, detached: loss, weight (0-d), metrics (float64 [k] each)."""

    loss: Tensor
    weight: Tensor
    metrics: dict[str, Tensor]


def gradient(
    objective: Objective,
    batch: Batch,
    micro_batch: int | None = None,
    ranks: Ranks = ALONE,
    *,
    seed: int = 0,
    step: int = 0,
) -> Outcome:
    """Steps 3 to 5: forward, mean loss and backward. Leaves in `.grad` the gradient of sum(loss) / sum(weight) over
    the whole mini-batch of all ranks, exactly, and returns the sums.

    micro_batch: rows put through the model at a time; None: all at once.
    Dropout is keyed by (seed, step). Raises NonFiniteLoss, before any update, with the rows to blame.
    """
    for parameter in objective.parameters:
        parameter.grad = None
    seed_dropout(seed, step, ranks.rank, objective.device)
    m = len(batch)
    size = m if micro_batch is None else min(micro_batch, m)
    whole = size >= m and ranks.size == 1
    total: Outcome | None = None
    for start in range(0, m, size):
        part = objective.to_device(batch if size >= m else rows(batch, slice(start, min(start + size, m))))
        sums = _sums(objective, part)
        # Alone and undivided, the mean itself is differentiated, so the bits are those of the plain textbook loop.
        _backward(sums.loss / sums.weight.to(sums.loss.dtype) if whole else sums.loss, sums, part, step, ranks)
        outcome = Outcome(sums.loss.detach(), sums.weight.detach(), sums.metrics)
        total = outcome if total is None else add(total, outcome)
    assert total is not None
    if not whole:
        _divide_by_total_weight(objective.parameters, total, ranks, batch, step)
    return total


def _sums(objective: Objective, part: Batch) -> Sums:
    try:
        return objective.sums(part)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise HandfulError(
            f"{mode_coupling(objective.model) or 'a layer normalises over the rows of a batch'}, and one row has no "
            "spread: let batch and micro_batch be at least 2"
        ) from error


def _backward(loss: Tensor, sums: Sums, batch: Batch, step: int, ranks: Ranks) -> None:
    if ranks.size > 1:  # a rank that gave up alone would leave the others waiting: all look at the total
        loss.backward()  # type: ignore[no-untyped-call]
        return
    if loss.device.type == "cpu":
        if not math.isfinite(loss.item()):
            raise non_finite(sums.values, batch, step)
        loss.backward()  # type: ignore[no-untyped-call]
        return
    # On an accelerator the check's answer travels while the backward pass is being queued.
    finite = torch.isfinite(loss.detach()).to("cpu", non_blocking=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.accelerator.current_stream().synchronize()
    if not finite:
        raise non_finite(sums.values, batch, step)


def non_finite(values: Tensor | None, batch: Batch, step: int) -> NonFiniteLoss:
    weight = batch.columns.get("weight")
    if isinstance(weight, Tensor) and not weight.any():
        return NonFiniteLoss(f"at step {step} {ZERO_WEIGHT}")
    where = f"among rows {_some(batch.rows.tolist())}"
    if values is not None and len(values) == len(batch):
        bad = ~torch.isfinite(values.detach().flatten(1).sum(1) if values.ndim > 1 else values.detach()).cpu()
        if bad.any():
            where = f"for rows {_some(batch.rows[bad.numpy()].tolist())}"
    inputs = [
        k
        for k, v in batch.columns.items()
        if isinstance(v, Tensor) and v.is_floating_point() and not torch.isfinite(v).all()
    ]
    cause = (
        f"column '{inputs[0]}' itself holds NaN or infinity there" if inputs else "a smaller lr or clip_norm may help"
    )
    return NonFiniteLoss(
        f"the loss is not finite at step {step}, {where} of the training data; {cause}; no update was made"
    )


def _some(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:5])) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


def add(a: Outcome, b: Outcome) -> Outcome:
    return Outcome(
        a.loss + b.loss,
        a.weight + b.weight,
        {name: value + b.metrics[name] for name, value in a.metrics.items()},
    )


def _divide_by_total_weight(
    parameters: list[nn.Parameter], total: Outcome, ranks: Ranks, batch: Batch, step: int
) -> None:
    """From a gradient of sums on each rank to the gradient of the mean over all of them."""
    if ranks.size > 1:
        for p in parameters:  # a rank whose share did not touch a parameter still takes part
            if p.grad is None and p.requires_grad:
                p.grad = torch.zeros_like(p)
        total.loss, total.weight = total.loss.double(), total.weight.double()
        ranks.add(
            [p.grad for p in parameters if p.grad is not None] + [total.loss, total.weight, *total.metrics.values()]
        )
        if not math.isfinite(float(total.loss)):
            raise non_finite(None, batch, step)
    weight = float(total.weight)
    if weight == 0:
        raise HandfulError("the weights of all rows of a mini-batch are zero, so it has no mean loss; drop such rows")
    grads = [p.grad for p in parameters if p.grad is not None]
    if grads:
        torch._foreach_div_(grads, weight)


def add_l1(parameters: list[nn.Parameter], l1: float) -> None:
    """Add the subgradient of l1 * sum |w| to the gradients: l1 * sign(w), 0 at 0 (Tibshirani 1996)."""
    for p in parameters:
        if p.grad is not None:
            p.grad.add_(p.detach().sign(), alpha=l1)


def seed_dropout(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Key the generators that dropout draws from by (seed, step, rank): no random state needs to be saved."""
    word = key("dropout", seed, step, rank) >> 1
    torch.default_generator.manual_seed(word)
    if device.type == "cuda":
        torch.cuda.manual_seed(word)


def is_out_of_memory(error: BaseException) -> bool:
    """By type, and for the CPU's allocator, which has no type of its own, by its exact words."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return type(error) is RuntimeError and "DefaultCPUAllocator: can't allocate memory" in str(error)


def gradient_that_fits(
    objective: Objective,
    batch: Batch,
    micro_batch: int | None,
    ranks: Ranks = ALONE,
    *,
    seed: int = 0,
    step: int = 0,
) -> tuple[Outcome, int | None]:
    """`gradient`, halving the micro-batch and redoing the same step when memory runs out.

    Returns the outcome and the micro-batch that fitted. Buffers (running statistics) are put back before a retry.
    Raises OutOfMemory when one row does not fit.
    """
    buffers = [b.detach().clone() for b in objective.buffers]
    while True:
        try:
            return gradient(objective, batch, micro_batch, ranks, seed=seed, step=step), micro_batch
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            size = len(batch) if micro_batch is None else min(micro_batch, len(batch))
            if size == 1:
                raise OutOfMemory(
                    "one row at a time does not fit in memory; use a smaller model or shorter rows"
                ) from None
        # Outside the except clause: its traceback would keep the failed step's tensors alive.
        objective.model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, saved in zip(objective.buffers, buffers, strict=True):
                buffer.copy_(saved)
        if objective.device.type == "cuda":
            torch.cuda.empty_cache()
        micro_batch = (size + 1) // 2
