"""Whether the rows of a batch are coupled, so that the gradient of a batch is not the sum of its parts' gradients."""

import math

import torch
from torch import Tensor, nn

from handful.data.base import Batch
from handful.training.objective import Objective


def mode_coupling(model: nn.Module) -> str | None:
    """Why the gradient of a batch is not the sum of its parts' gradients, if a layer couples its rows; else None."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or not module.track_running_stats):
            return (
                f"layer '{name or type(module).__name__}' ({type(module).__name__}) normalises over the rows of a batch"
            )
    return None


def loss_coupling(objective: Objective, batch: Batch) -> str | None:
    """Whether the loss couples the rows of a batch (contrastive losses do): its sum over a batch differs from the sum
    over the two halves. Measured in evaluation mode, without gradients. Returns a sentence or None."""
    m = len(batch)
    if m < 4:
        return None
    was_training = objective.model.training
    objective.model.eval()
    try:
        with torch.no_grad():
            output = objective.forward(batch)
            if not isinstance(output, Tensor) or len(output) != m:
                return None
            whole = objective.sums_of(output, batch, metrics=False)
            halves = [
                objective.sums_of(output[part], rows(batch, part), metrics=False)
                for part in (slice(0, m // 2), slice(m // 2, m))
            ]
    finally:
        objective.model.train(was_training)
    parts = sum(float(h.loss.double()) for h in halves)
    mean, split = float(whole.loss.double() / whole.weight), parts / sum(float(h.weight) for h in halves)
    if not (math.isfinite(mean) and math.isfinite(split)):
        return None
    if abs(mean - split) > 1e-3 * max(abs(mean), abs(split), 1e-6):
        return f"the loss couples the rows of a batch: {mean:.6g} over {m} rows at once, {split:.6g} in two halves"
    return None


def rows(batch: Batch, part: slice) -> Batch:
    """Some consecutive rows of a batch that is through its pipeline."""
    columns = {name: value[part] for name, value in batch.columns.items()}
    return Batch(columns, batch.rows[part], batch.epochs[part], batch.position + (part.start or 0))  # type: ignore[arg-type]
