"""Model + loss + metrics -> sums and weights over exactly the rows given: never a mean of means."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from handful.data.base import Batch, Source, Value
from handful.losses.loss import LossFunction
from handful.losses.metric import Metric
from handful.training.special import adapters
from handful.training.special.adapted import Adapted, Scale, Unmeasured, each_of

LATER = 1 << 13  # numbers in an output that is kept to be measured with others


@dataclass(slots=True)
class LossSums:
    """What some rows add up to. The mean loss is loss / weight.

    loss: 0-d, differentiable until sums are added; weight: 0-d (rows, counted tokens, or summed row weights); metrics:
    name -> float64 sums [k]; known: of those that are known; seen: what metrics have still to see, of many mini-batches
    at once.

    >>> a = LossSums(torch.tensor(2.0), torch.tensor(1.0)) + LossSums(torch.tensor(90.0), torch.tensor(9.0))
    >>> float(a.loss / a.weight)
    9.199...
    """

    loss: Tensor
    weight: Tensor
    known: dict[str, Tensor] = field(default_factory=dict)
    seen: tuple[Unmeasured, ...] = ()

    @property
    def metrics(self) -> dict[str, Tensor]:
        """The sums of all metrics."""
        return {k: rows[0] if len(rows) == 1 else rows.sum(0) for k, rows in each_of(self.known, self.seen).items()}

    def detached(self) -> "LossSums":
        """The sums without their graph."""
        return LossSums(self.loss.detach(), self.weight.detach(), self.known, self.seen)

    def __add__(self, other: "LossSums") -> "LossSums":
        theirs = other.metrics
        metrics = {name: value + theirs[name] for name, value in self.metrics.items()}
        return LossSums(self.loss + other.loss.detach(), self.weight + other.weight.detach(), metrics)


class Objective(Adapted):
    """What is minimised, and what is measured along with it.

    How the model is called (`forward`), and what its output and target are to the metrics, is decided once, at the
    first batch: see `Adapted`.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossFunction,
        metrics: Iterable[Metric] = (),
        *,
        device: torch.device | str = "cpu",
        autocast: torch.dtype | None = None,
        scale: Scale | None = None,
    ) -> None:
        """autocast: the lower precision in which the forward pass computes what is safe to (torch.autocast).

        scale: mean and standard deviation by which the target was standardised; metrics are in its own units.
        """
        self.device = torch.device(device)
        self.whole = True  # whether the loss takes all parts of the model's output, and not its scores alone
        self.row_weight: float | None = None  # what a training row counts for on average, where that is not the same
        self.source: Source | None = None  # the training rows as they were given, to name them in messages
        self.guarded = False  # whether a gradient that is not finite is looked for, too
        self.at_once: int | None = None  # rows that an evaluation puts through the model, where memory ran out
        self.coupling: str | None = None  # why the loss of a mini-batch cannot be computed in parts
        self.by_outputs = False  # whether that is a loss that compares the outputs of rows
        super().__init__(model, loss, metrics, autocast, scale)
        floating = [p.dtype.to_real() for p in self.parameters if p.is_floating_point() or p.is_complex()]
        self.dtype = floating[0] if floating else torch.get_default_dtype()

    def to_device(self, batch: Batch) -> Batch:
        """The batch on the model's device, floats in the model's dtype; itself if it is there already."""
        if self.nested:
            return adapters.place_nested(self.several, batch, self.device, self.dtype)
        moved: dict[str, Value] = {}
        for name, value in batch.columns.items():
            if isinstance(value, Tensor):
                kind = self.dtype if value.is_floating_point() else value.dtype
                if value.dtype != kind or value.device != self.device:
                    moved[name] = value.to(self.device, kind, non_blocking=True)
        return batch.replace({**batch.columns, **moved}) if moved else batch

    def sums_of(self, output: object, batch: Batch, *, metrics: bool = True) -> LossSums:
        """Step 4: the sums over the rows of the batch, whose output is known.

        Where rows or classes have weights, the rows of a mini-batch are divided by what as many training rows count for
        on average: the gradient is then right on average for any batch (Horvitz and Thompson 1952). Divided by the
        weights in the mini-batch, they would cancel there, for one row altogether.
        """
        loss, weight, _ = self.row_losses(output, batch)
        if self.row_weight is not None and self.model.training:
            weight = torch.full_like(weight, self.row_weight * len(batch.rows))
        if not metrics or not self.sum_metrics or not (seen := self.view(output, batch)):
            return LossSums(loss, weight)
        scores, target, of_rows = seen
        small = scores.numel() <= LATER and scores.ndim <= 2 and target.ndim <= 2 and of_rows is None
        if small and self.many and not self.gaps and isinstance(output, Tensor) and not output._is_view():
            return LossSums(loss, weight, seen=((self.sum_metrics, scores, target),))  # no view: it will not change
        with torch.no_grad():
            seen = adapters.counted(seen) if self.gaps else seen
            return LossSums(loss, weight, {m.name: m.sums(*seen) for m in self.sum_metrics})

    def sums(self, batch: Batch, *, metrics: bool = True) -> LossSums:
        """Steps 3 and 4 of the algorithm for the rows of the batch."""
        return self.sums_of(self.forward(batch), batch, metrics=metrics)
