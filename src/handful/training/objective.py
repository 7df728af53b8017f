"""Model + loss + metrics -> sums and weights over exactly the rows given: never a mean of means."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from handful.data.base import Batch, Source
from handful.losses.loss import LossFunction
from handful.losses.metric import Metric
from handful.training.special.adapted import Adapted, Scale, Unmeasured, measure

_NOT_KEPT = ("forward", "view", "row_losses", "source")  # when pickled: functions, and data


@dataclass(slots=True)
class LossSums:
    """What some rows add up to. The mean loss is loss / weight.

    loss: 0-d, differentiable until sums are added; weight: 0-d (rows, counted tokens, or summed row weights); metrics:
    name -> float64 sums [k]; known: of those that are known; seen: what metrics that count have still to see, of many
    mini-batches at once.

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
        return self.known | measure(self.seen)

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
        return self.placed(batch, self.device, self.dtype)

    def sums_of(self, output: object, batch: Batch, *, metrics: bool = True) -> LossSums:
        """Step 4: the sums over the rows of the batch, whose output is known.

        Where rows or classes have weights, the rows of a mini-batch are divided by what as many training rows count for
        on average: the gradient is then right on average for any batch (Horvitz and Thompson 1952). Divided by the
        weights in the mini-batch, they would cancel there, for one row altogether.
        """
        loss, weight, _ = self.row_losses(output, batch)
        if self.row_weight is not None and self.model.training:
            weight = torch.full_like(weight, self.row_weight * len(batch.rows))
        if not metrics or not self.sum_metrics:
            return LossSums(loss, weight)
        return LossSums(loss, weight, *self.measured(output, batch))

    def sums(self, batch: Batch, *, metrics: bool = True) -> LossSums:
        """Steps 3 and 4 of the algorithm for the rows of the batch."""
        return self.sums_of(self.forward(batch), batch, metrics=metrics)
