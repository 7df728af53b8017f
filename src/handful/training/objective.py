"""Model + loss + metrics -> sums and weights over exactly the rows given: never a mean of means."""

import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from handful.base.errors import HandfulError
from handful.data.base import Batch
from handful.losses import ctc
from handful.losses.loss import LossFunction, of_probabilities
from handful.losses.metric import Metric, SumMetric, WholeMetric
from handful.models.base import Model


@dataclass
class Sums:
    """What some rows add up to. The mean loss is loss / weight.

    loss: 0-d, differentiable; weight: 0-d (rows, counted tokens, or summed row weights); values: loss per row where
    the loss gives it; metrics: name -> float64 sums.
    """

    loss: Tensor
    weight: Tensor
    values: Tensor | None
    metrics: dict[str, Tensor]


class Objective:
    """What is minimised, and what is measured beside it."""

    def __init__(
        self,
        model: nn.Module,
        loss: LossFunction,
        metrics: Iterable[Metric] = (),
        *,
        device: torch.device | str = "cpu",
        autocast: torch.dtype | None = None,
        scale: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """autocast: the lower precision in which the forward pass computes what is safe to (torch.autocast).

        scale: mean and standard deviation by which the target was standardised; metrics are in its own units.
        """
        self.scale, self.shares = scale, of_probabilities(loss)
        self.model, self.loss, self.metrics = model, loss, list(metrics)
        self.device, self.autocast = torch.device(device), autocast
        self.takes_ids = _takes_ids(model)
        # Listed once: walking the tree of modules costs more than a small model's forward pass.
        self.parameters, self.buffers = list(model.parameters()), list(model.buffers())
        floating = [p.dtype for p in self.parameters if p.is_floating_point()]
        self.dtype = floating[0] if floating else torch.get_default_dtype()

    def to_device(self, batch: Batch) -> Batch:
        """The batch on the model's device, floats in the model's dtype."""
        return batch.replace({k: self._move(v) if isinstance(v, Tensor) else v for k, v in batch.columns.items()})

    def _move(self, value: Tensor) -> Tensor:
        dtype = self.dtype if value.is_floating_point() else value.dtype
        if value.dtype == dtype and value.device == self.device:
            return value
        return value.to(self.device, dtype, non_blocking=True)

    def forward(self, batch: Batch) -> Any:
        """The model's output for the rows: model(x), or model(name=value, ...) where there are several inputs.

        A Hugging Face model of token ids is called as model(input_ids=x, attention_mask=...), and of what it returns
        the `logits` are taken.
        """
        inputs = {k: v for k, v in batch.columns.items() if k not in ("y", "weight")}
        with self._precision():
            if list(inputs) != ["x"]:
                output = self.model(**inputs)
            elif self.takes_ids and not inputs["x"].is_floating_point():  # type: ignore[union-attr]
                output = self.model(input_ids=inputs["x"], attention_mask=self._attention(batch.tensor("x")))
            else:
                output = self.model(inputs["x"])
        logits = None if isinstance(output, Tensor | tuple) else getattr(output, "logits", None)
        output = logits if isinstance(logits, Tensor) else output
        return _float32(output) if self.autocast else output

    def _attention(self, ids: Tensor) -> Tensor:
        """1 for tokens and 0 for the padding behind them, int64 [m, T]: 0 or the model's own padding id."""
        own = getattr(getattr(self.model, "config", None), "pad_token_id", None)
        padding = ids == 0 if own is None else (ids == 0) | (ids == own)
        return (~padding).flip(1).cummax(1).values.flip(1).long()

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.autocast) if self.autocast else nullcontext()

    def sums(self, batch: Batch, *, metrics: bool = True) -> Sums:
        """Steps 3 and 4 of the algorithm for the rows of the batch (on the model's device already)."""
        return self.sums_of(self.forward(batch), batch, metrics=metrics)

    def sums_of(self, output: Any, batch: Batch, *, metrics: bool = True) -> Sums:
        """The sums of rows whose output is known."""
        target, row_weight = batch.columns.get("y"), batch.columns.get("weight")
        assert row_weight is None or isinstance(row_weight, Tensor)
        ignored = getattr(self.loss, "ignored", None)
        if ignored is not None and isinstance(target, Tensor) and target.ndim > 1:
            target = torch.where(target == ignored, -100, target)  # for the metrics too
        members = self.model.members if isinstance(self.model, Model) and self.model.training else 1
        if members == 1:
            loss, weight, values = _add_up(self.loss(output, target), len(batch), row_weight)
        else:
            assert isinstance(target, Tensor)
            loss, weight, values = self._of_members(members, output, target, row_weight)
            output = output.reshape(-1, members, *output.shape[1:]).mean(1)
        measured: dict[str, Tensor] = {}
        output = ctc.only_valid(output)
        if metrics and isinstance(output, Tensor) and isinstance(target, Tensor):
            with torch.no_grad():
                detached, target = self._measured(output.detach()), self._own_units(target)
                measured = {
                    m.name: m.sums(detached, target, row_weight) for m in self.metrics if isinstance(m, SumMetric)
                }
        return Sums(loss, weight, values, measured)

    def _of_members(
        self, members: int, output: Tensor, target: Tensor, row_weight: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """As `_add_up`, of rows with several outputs each: means over a row's."""
        target = target.repeat_interleave(members, dim=0)
        row_weight = None if row_weight is None else row_weight.repeat_interleave(members, dim=0)
        loss, weight, values = _add_up(self.loss(output, target), len(target), row_weight)
        if values is not None:
            values = values.reshape(-1, members, *values.shape[1:]).mean(1)
        return loss / members, weight / members, values

    def _measured(self, output: Tensor) -> Tensor:
        """An output as metrics take it: numbers in the user's units, or logits."""
        return torch.logit(output, eps=1e-12) if self.shares else self._own_units(output)

    def _own_units(self, value: Tensor) -> Tensor:
        """A standardised target, or its prediction, as the user knows it; anything else as it is."""
        if self.scale is None:
            return value
        mean, std = (s.to(value.device) for s in self.scale)
        return value.double() * std + mean

    def evaluate(self, batches: Iterable[Batch], keep: Callable[[Batch, Any], None] | None = None) -> dict[str, float]:
        """Mean loss and every metric over all rows of the batches, each row once, in evaluation mode.

        keep: called with every batch and its output, for those who want the outputs too.
        Leaves the model in the mode it was in. Returns {"loss": ..., metric name: ...}.
        """
        total_loss = total_weight = 0.0
        sums: dict[str, Any] = {}
        whole = [m for m in self.metrics if not isinstance(m, SumMetric)]
        outputs: list[Tensor] = []
        targets: list[Tensor] = []
        weights: list[Tensor] = []
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                for read in batches:
                    batch = self.to_device(read)
                    output = self.forward(batch)
                    part = self.sums_of(output, batch)
                    total_loss += float(part.loss.double())
                    total_weight += float(part.weight)
                    for name, value in part.metrics.items():
                        sums[name] = sums.get(name, 0.0) + value.cpu().numpy().astype(np.float64)
                    if whole:
                        outputs.append(self._measured(output).float().cpu())
                        targets.append(self._own_units(batch.tensor("y")).cpu())
                        weights.extend([batch.tensor("weight").cpu()] if "weight" in batch.columns else [])
                    if keep:
                        keep(batch, output)
        finally:
            self.model.train(was_training)
        if total_weight == 0:
            raise HandfulError("there is nothing to evaluate: no rows, or all their weights are zero")
        scores = {"loss": total_loss / total_weight}
        arrays = [torch.cat(t).numpy() if t else None for t in (outputs, targets, weights)]
        for metric in self.metrics:
            if isinstance(metric, SumMetric):
                scores[metric.name] = metric.finish(sums[metric.name]) if metric.name in sums else float("nan")
            else:
                scores[metric.name] = _whole(metric, arrays)
        return scores


def _whole(metric: WholeMetric, arrays: list[Any]) -> float:
    try:
        return metric.whole(*arrays)
    except (TypeError, ValueError, IndexError) as error:
        shapes = " and ".join(str(list(array.shape)) for array in arrays[:2] if array is not None)
        detail = " ".join(str(error).split())[:300]
        raise HandfulError(f"the metric {metric.name} fails on outputs and targets {shapes}: {detail}") from error


def _add_up(result: Any, rows: int, row_weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """(sum, weight, values per row or None) of what a loss returned."""
    if isinstance(result, tuple):
        values, weights = result
        if values.ndim == 0:
            _no_row_weights(row_weight)
            return values, torch.as_tensor(weights), None
        if row_weight is not None:
            shaped = row_weight.reshape(-1, *[1] * (values.ndim - 1))
            values, weights = values * shaped, weights * shaped
        return values.sum(), weights.sum(), values
    if not isinstance(result, Tensor):
        raise HandfulError(f"the loss returned {type(result).__name__}; it must return a Tensor or a pair of Tensors")
    if result.ndim == 0:
        _no_row_weights(row_weight)
        count = torch.tensor(float(rows), dtype=torch.float64, device=result.device)
        return result * rows, count, None
    if len(result) != rows:
        raise HandfulError(
            f"the loss returned {len(result)} values for {rows} rows; return one a row, or the mean of all"
        )
    if row_weight is not None:
        values = result.flatten(1).mean(1) if result.ndim > 1 else result
        return (values * row_weight).sum(), row_weight.sum(), values
    return (
        result.sum(),
        torch.tensor(float(result.numel()), dtype=torch.float64, device=result.device),
        result,
    )


def _no_row_weights(row_weight: Tensor | None) -> None:
    if row_weight is not None:
        raise HandfulError(
            "rows are weighted, but the loss returns one number for all rows; let it return a value per row "
            "(reduction='none')"
        )


def _takes_ids(model: nn.Module) -> bool:
    """Whether the model is called as Hugging Face calls its own: forward(input_ids, attention_mask, ...)."""
    try:
        names = inspect.signature(model.forward).parameters
    except (TypeError, ValueError):
        return False
    return "input_ids" in names and "attention_mask" in names


def _float32(output: Any) -> Any:
    """Losses and metrics are computed in float32 whatever the forward pass used."""
    if isinstance(output, Tensor):
        return output.float() if output.is_floating_point() else output
    return type(output)(_float32(o) for o in output) if isinstance(output, tuple) else output


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
    if not np.isfinite([mean, split]).all():
        return None
    if abs(mean - split) > 1e-3 * max(abs(mean), abs(split), 1e-6):
        return f"the loss couples the rows of a batch: {mean:.6g} over {m} rows at once, {split:.6g} in two halves"
    return None


def rows(batch: Batch, part: slice) -> Batch:
    """Some consecutive rows of a batch that is through its pipeline."""
    columns = {name: value[part] for name, value in batch.columns.items()}
    return Batch(columns, batch.rows[part], batch.epochs[part], batch.position + (part.start or 0))  # type: ignore[arg-type]
