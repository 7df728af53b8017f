"""What is found out about a loss before step 1: whether it couples the rows of a batch, so that its gradient is not the
sum of its parts'."""

import copy
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from statistics import fmean, stdev

import numpy as np
import torch
from torch import Tensor, nn

from handful.base.errors import MISTAKES
from handful.base.keys import seed_all
from handful.data.base import Batch
from handful.losses.outputs import mapped, tensors_in
from handful.training.objective import Objective
from handful.training.special import adapters
from handful.training.special.adapters import RowLosses

DRAWS = 16  # of a loss that draws random numbers, of which the mean is looked at
CLOSE = 1e-4  # of the largest loss of a row: float32 adds up to less
_SIZES = (1, 2, 4, 8)  # rows of the parts that are tried
KEPT_WHOLE = "so a mini-batch is kept whole, and the held-out loss is the mean over batches of up to 512 rows"


def mode_coupling(model: nn.Module) -> str | None:
    """Why the gradient of a batch is not the sum of its parts' gradients, if a layer couples its rows; else None."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or not module.track_running_stats):
            return (
                f"layer '{name or type(module).__name__}' ({type(module).__name__}) normalises over the rows of a batch"
            )
    return None


# torch's layers of vectors: outside of training each treats rows one by one and keeps nothing from call to call
_BY_ROW = {nn.Sequential, nn.Linear, nn.LayerNorm, nn.Dropout, nn.Identity, nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU,
           nn.ELU, nn.Tanh, nn.Sigmoid}  # fmt: skip


def is_by_row(model: nn.Module) -> bool:
    """Whether a model is such layers alone, as they come, so that nothing need be tried to know it."""
    return all(
        type(m) in _BY_ROW and not (m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m))
        for m in model.modules()
    )


def still_layers(model: nn.Module) -> list[str]:
    """The layers of batch normalisation whose weights are all frozen: their running statistics stay, too."""
    batch_norm = nn.modules.batchnorm._BatchNorm
    found = [(name, list(m.parameters())) for name, m in model.named_modules() if isinstance(m, batch_norm)]
    return [name for name, own in found if own and not any(p.requires_grad for p in own)]


def training_mode(model: nn.Module, on: bool = True) -> nn.Module:
    """The model in training mode, or not, but for layers that are still."""
    model.train(on)
    for name in still_layers(model):
        model.get_submodule(name).eval()
    return model


def by_rank(model: nn.Module) -> list[str]:
    """What in a model depends on how a batch is shared among ranks, in sentences."""
    if not any(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) for layer in model.modules()):
        return []
    return ["each rank normalises over its own share of a batch; on GPUs, over all of it once the model is "
            "torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)"]  # fmt: skip


@dataclass(frozen=True)
class LossForm:
    """What a loss makes of the rows of a batch. summed: it is the sum over them, and not their mean; coupling: why it
    is neither, so that it cannot be computed in parts; None where it is."""

    summed: bool = False
    coupling: str | None = None


def loss_form(objective: Objective, batch: Batch) -> LossForm:
    """What the loss makes of the rows of a batch, found from its values on all of them and on each alone, or on some
    where it has none of one row; where it has none of any part, as of pairs of classes, it couples them. In evaluation
    mode, without gradients; a loss with a state of its own keeps it.

    The outputs are disturbed (of a model that makes its loss, those of its layers), because those of a new model are
    all nearly the same, and so are then the losses of rows that weigh differently.
    """
    m = len(batch)
    was_training = objective.model.training
    objective.model.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as of the variance of one row
            output = objective.forward(batch)
            loss = copy.deepcopy(objective.loss) if isinstance(objective.loss, nn.Module) else objective.loss
            row_losses, sizes = adapters.row_losses(objective.model, loss), [k for k in _SIZES if m >= 2 * k]
            views = (o.ndim and m < len(o) and len(o) % m == 0 for o in tensors_in(output))
            # or several views of each row, or a distribution, which has no rows to take
            if objective.of_model or not tensors_in(output) or any(views):
                seen = [batch]

                def forward(some: Batch) -> object:
                    seen[0] = some
                    return objective.forward(some)

                for disturbed in (_disturbed(objective.model, seen), nullcontext()):
                    with disturbed:
                        tried = (_form(row_losses, forward, batch, size) for size in sizes)
                        if found := next(filter(None, tried), None):
                            return found
                return LossForm()
            noise = torch.Generator().manual_seed(0)
            for disturb in (_added, _scaled):
                changed = mapped(output, partial(disturb, noise))
                for size in (*sizes, *[m] * (m > 1)):  # at last all of them: see `_form`
                    if form := _form(row_losses, changed, batch, size):
                        return form
    finally:
        training_mode(objective.model, was_training)
    return LossForm()


def _added(noise: torch.Generator, output: Tensor) -> Tensor:
    """As logits and numbers may be; of many places a row, which are alike in the mean, in all of them by class, too."""
    added = torch.randn(output.shape, generator=noise)
    for axis in (1, output.ndim - 1) if output.ndim > 2 else ():
        added = added + torch.randn([n if k in (0, axis) else 1 for k, n in enumerate(output.shape)], generator=noise)
    return output + 0.5 * _like(output, added)


def _scaled(noise: torch.Generator, output: Tensor) -> Tensor:
    """As probabilities may be, too."""
    return output * (1 - 0.5 * _like(output, torch.rand(output.shape, generator=noise)))


@contextmanager
def _disturbed(model: nn.Module, seen: Sequence[Batch]) -> Iterator[None]:
    """The model as if the biases of its layers were others, and others in each row of what it is given."""

    def add(layer: nn.Module, given: object, output: object) -> object:
        if not torch.is_tensor(output) or not output.is_floating_point():
            return output
        places = len(getattr(layer, "kernel_size", ()))  # of a convolution, which are behind its channels
        size = output.shape[output.ndim - places - 1]
        bias = 0.5 * torch.randn(size, generator=torch.Generator().manual_seed(size))
        bias = bias.to(output).reshape(size, *[1] * places)
        by_row = 1 + torch.from_numpy(np.cos(2.4 * seen[0].rows)).to(output)
        return output + (bias * by_row.reshape(-1, *[1] * (output.ndim - 1)) if len(output) == len(by_row) else bias)

    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    handles = [layer.register_forward_hook(add) for layer in model.modules() if isinstance(layer, layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _like(output: Tensor, values: Tensor) -> Tensor:
    return values.to(output) if output.is_floating_point() else torch.zeros_like(output)


def _form(row_losses: RowLosses, output: object, batch: Batch, size: int) -> LossForm | None:
    """The form by parts of `size` rows; None where the loss fails on them or is not finite. Of all rows: that it is
    finite there, as nowhere else. output: of the batch, or the call that gives it, where it holds the loss."""
    m = len(batch) // size * size
    parts = [slice(start, start + size) for start in range(0, m, size)]

    by_row, noise = list[bool](), 0.0

    def value(part: slice, seed: int = 0) -> tuple[float, float]:
        seed_all(seed)
        some = rows(batch, part).on_tensors(torch.clone)  # or a loss may change them
        taken = output(some) if callable(output) else mapped(output, lambda o: o[part] if _of_rows(o, batch) else o)
        total, weight, values = row_losses(taken, some)
        by_row.append(values is not None)
        return (float(total) / float(weight), float(weight)) if float(weight) else (0.0, 0.0)  # no row counts

    try:
        whole, each = value(slice(0, m)), [value(part) for part in parts]
        means, weights = zip(*each, strict=True)
        if whole[0] != value(slice(0, m), 1)[0]:  # it draws random numbers
            drawn = [[value(part, 99 * k + i)[0] for k in range(DRAWS)] for i, part in enumerate([slice(0, m), *parts])]
            apart = [w - _mean(v, weights) for w, *v in zip(*drawn)]
            noise, means = 4 * stdev(apart) / DRAWS**0.5, tuple(map(fmean, drawn[1:]))
            whole = (fmean(drawn[0]), whole[1])
        if not all(map(math.isfinite, (*whole, *means))):
            return None
        if size == len(batch):
            return LossForm(coupling=f"the loss couples the rows of a batch: it has no value for parts of {m} rows")
        close = CLOSE * max(map(abs, (whole[0], *means))) + noise
        # of all parts and, as one number may be met by chance, of the first few
        few = (len(parts) * q // 4 for q in (1, 2, 3) if not noise)
        ends = {len(parts): whole[0]} | {k: value(slice(0, k * size))[0] for k in few if k > 1}
        mean = _mean(means, weights)
        if all(abs(now - _mean(means[:k], weights[:k])) <= close for k, now in ends.items()):
            return LossForm()
        if not any(by_row) and all(abs(now - sum(means[:k])) <= close for k, now in ends.items()):
            return LossForm(summed=True)
        first = [value(slice(0, parts[k].stop))[0] for k in range(len(parts))]
    except MISTAKES:
        return None
    what = "weighs the rows of a batch unevenly" if _weighs(means, first, close) else "couples the rows of a batch"
    return LossForm(coupling=f"the loss {what}: {whole[0]:.6g} over {m} rows at once, {mean:.6g} as the mean of parts")


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return math.fsum(map(math.prod, zip(values, weights, strict=True))) / (sum(weights) or 1.0)


def _of_rows(output: Tensor, batch: Batch) -> bool:
    return output.ndim > 0 and len(output) == len(batch)


def _weighs(means: Sequence[float], first: Sequence[float], close: float) -> bool:
    """Whether the losses of the first 1, 2, 3, ... parts are weighted means of the parts' own: then each lies between
    the one before and the loss of the part that came to it."""
    pairs = zip(first, first[1:], means[1:], strict=False)
    return all(min(before, new) - close <= now <= max(before, new) + close for before, now, new in pairs)


def rows(batch: Batch, part: slice) -> Batch:
    """Some consecutive rows of a batch that is through its pipeline."""
    columns = {
        name: mapped(v, lambda t: t[part]) if isinstance(v, dict) else v[part] for name, v in batch.columns.items()
    }
    return Batch(columns, batch.rows[part], batch.epochs[part], batch.position + (part.start or 0))  # type: ignore[arg-type]
