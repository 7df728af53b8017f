"""Model + loss + metrics -> sums and weights over exactly the rows given: never a mean of means."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from handful.data.base import Batch, Column, Source
from handful.losses.forms import FORMS
from handful.losses.loss import LossFunction
from handful.losses.loss import model as model_loss
from handful.losses.metric import Metric
from handful.training.special import adapters
from handful.training.special.measured import Measured, Scale, Unmeasured, measure
from handful.transform.several import Several

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


class Objective(Measured):
    """What is minimised, and what is measured along with it.

    How the model is called, and what its output and target are to the metrics, is decided once, at the first batch:
    see `handful.training.special.adapters`.
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
        self._of(model)
        floating = [p.dtype for p in self.parameters if p.is_floating_point()]
        self.dtype = floating[0] if floating else torch.get_default_dtype()
        self.whole = True  # whether the loss takes all parts of the model's output, and not its scores alone
        self.row_weight: float | None = None  # what a training row counts for on average, where that is not the same
        self.source: Source | None = None  # the training rows as they were given, to name them in messages
        self.guarded = False  # whether a gradient that is not finite is looked for, too
        self.at_once: int | None = None  # rows that an evaluation puts through the model, where memory ran out
        self.coupling: str | None = None  # why the loss of a mini-batch cannot be computed in parts
        self._autocast = autocast
        self.takes(None)
        self.minimise(loss, metrics, scale)

    def _of(self, model: nn.Module) -> None:
        self.model = model
        # Listed once: walking the tree of modules costs more than a small model's forward pass.
        self.parameters, self.buffers = list(model.parameters()), list(model.buffers())

    def takes(self, several: Several | None, columns: Iterable[Column] = ()) -> None:
        """Decide how batches get to the device. several: the target, where it is several that are not alike; columns:
        of the data."""
        self.several = several
        nested = several is not None or any(column.kind == "collated" for column in columns)
        self.placed: adapters.Place = partial(adapters.place_nested, several) if nested else adapters.place

    def minimise(self, loss: LossFunction, metrics: Iterable[Metric], scale: Scale | None = None) -> None:
        """Decide on loss and metrics, where they follow from the model's output."""
        self.loss = loss
        self.look_at(metrics, scale)
        self.of_model = loss == model_loss() or loss in [form(model_loss()) for form in FORMS.values()]  # it makes it
        self._anew()

    def _anew(self) -> None:
        """Adapt to the next batch."""
        self.row_losses = adapters.row_losses(self.model, self.loss)
        self.forward: adapters.Call = self._first_forward
        self.view: adapters.View = self.first_view

    def put(self, model: nn.Module) -> None:
        """Take another form of the same model."""
        self._of(model)
        self._anew()

    @property
    def autocast(self) -> torch.dtype | None:
        """The lower precision of the forward pass, or None. To change it is to adapt the model anew."""
        return self._autocast

    @autocast.setter
    def autocast(self, dtype: torch.dtype | None) -> None:
        self._autocast = dtype
        self._anew()

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k not in _NOT_KEPT}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self.source = None
        self._anew()

    def with_metrics(self, metrics: Iterable[Metric]) -> "Objective":
        """The same model and loss with other metrics."""
        other = copy.copy(self)
        other.minimise(self.loss, metrics, self.scale)
        return other

    def whole_outputs(self) -> "Objective":
        """The same model, of whose output all parts are given, and not the scores alone that the loss takes."""
        if self.whole:
            return self
        other = copy.copy(self)
        other.whole = True
        other._anew()
        return other

    def to_device(self, batch: Batch) -> Batch:
        """The batch on the model's device, floats in the model's dtype; itself if it is there already."""
        return self.placed(batch, self.device, self.dtype)

    def _first_forward(self, batch: Batch) -> object:
        """Step 3, for the first batch: the model's output for its rows (on the model's device already)."""
        self.forward, output = adapters.first_call(
            self.model, batch, self.device, self._autocast, whole=self.whole or self.of_model, target=self.of_model
        )
        return output

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

    def values(self, batch: Batch, output: object = None) -> Tensor | None:
        """The loss of each row, whose output is known or a pass of its own; None where it is one number for all."""
        with torch.no_grad():
            output = self.forward(batch) if output is None else output
            return adapters.row_losses(self.model, self.loss, by_row=True)(output, batch)[2]

    def sums(self, batch: Batch, *, metrics: bool = True) -> LossSums:
        """Steps 3 and 4 of the algorithm for the rows of the batch."""
        return self.sums_of(self.forward(batch), batch, metrics=metrics)
