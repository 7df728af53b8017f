"""The sides of an `Objective` that are chosen once: its model and loss, adapted to each other at the first batch, and
what its metrics see, in the user's units, whatever the model puts out."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from handful.base.keys import Seeder
from handful.base.machine import NARROW
from handful.data.base import Batch, Column, Source
from handful.losses.left_out import FORMS
from handful.losses.loss import LossFunction, of_probabilities
from handful.losses.loss import model as model_loss
from handful.losses.metric import Metric, SumMetric
from handful.training.special import adapters
from handful.training.special.adapters import Seen, viewing
from handful.transform.pipeline import Pipeline
from handful.transform.several import Several

Scale = tuple[Tensor, Tensor]
Unmeasured = tuple[Sequence[SumMetric], Tensor, Tensor]  # metrics that see many at once, an output and a target to see
_NOT_KEPT = (
    "forward",
    "view",
    "row_losses",
    "seed_dropout",
    "source",
    "over_ranks",
)  # when pickled: functions, and data


def each_of(known: Mapping[str, Tensor], seen: Sequence[Unmeasured]) -> dict[str, Tensor]:
    """What is added to the sums of metrics, one after the other, of those that are known and those to see: float64
    [n, k]."""
    return {name: value[None] for name, value in known.items()} | measure(seen)


def measure(seen: Sequence[Unmeasured]) -> dict[str, Tensor]:
    """What was seen of some mini-batches, of one kind, adds to the sums of metrics: float64 [n, k], one after the
    other."""
    if not seen:
        return {}
    metrics, output, target = seen[0]
    if len(seen) > 1:
        output, target = torch.cat([o for _, o, _ in seen]), torch.cat([t for _, _, t in seen])
    if target.is_floating_point():  # once for all: numbers are added up in float64
        output, target = output.double(), target.double()
    with torch.no_grad():
        return {m.name: m.many(output, target) for m in metrics if m.many is not None}


class Adapted:
    """What is minimised, and how: decided once, at the first batch; see `handful.training.special.adapters`."""

    model: nn.Module
    loss: LossFunction
    device: torch.device
    source: Source | None
    dtype: torch.dtype
    whole: bool
    several: Several | None = None  # the target, where it is several that are not alike
    target = ""  # its column
    nested = False  # whether columns hold Tensors inside dicts and lists
    differentiates = False  # whether the model takes derivatives itself, as of an energy
    part = ""  # of the model's output, which metrics see
    link = ""  # of `LINKS`, by which they see numbers
    gaps = False  # whether training rows are left out, their class being IGNORED
    over_ranks: Callable[[adapters.RowLosses], adapters.RowLosses] | None = None  # see `all_rows`

    def __init__(
        self,
        model: nn.Module,
        loss: LossFunction,
        metrics: Iterable[Metric],
        autocast: torch.dtype | None,
        scale: Scale | None,
    ) -> None:
        self._autocast = autocast
        self._of(model)
        self.minimise(loss, metrics, scale)

    def _of(self, model: nn.Module) -> None:
        self.model = model
        # Listed once: walking the tree of modules costs more than a small model's forward pass.
        self.parameters, self.buffers = list(model.parameters()), list(model.buffers())

    def takes(self, pipeline: Pipeline, columns: Iterable[Column]) -> None:
        """Decide how batches of these columns get to the device."""
        self.several, self.target = pipeline.several, pipeline.target.column if pipeline.target else ""
        self.nested = self.several is not None or any(column.kind == "collated" for column in columns)

    def minimise(self, loss: LossFunction, metrics: Iterable[Metric], scale: Scale | None = None) -> None:
        """Decide on loss and metrics, where they follow from the model's output."""
        self.loss = loss
        self.metrics, self.scale = list(metrics), scale
        self.sum_metrics = [m for m in self.metrics if isinstance(m, SumMetric)]
        self.many = all(m.many is not None for m in self.sum_metrics)  # may see many mini-batches at once
        self.of_probabilities = of_probabilities(loss)
        self.of_model = loss == model_loss() or loss in [form(model_loss()) for form in FORMS.values()]  # it makes it
        self._anew()

    def _anew(self) -> None:
        """Adapt to the next batch."""
        self.seed_dropout: Callable[[int], object] = Seeder(self.device, partial(setattr, self, "seed_dropout"))
        self.row_losses = adapters.row_losses(self.model, self.loss)
        if self.over_ranks is not None:
            self.row_losses = self.over_ranks(self.row_losses)
        self.forward: adapters.Call = self._first_forward
        self.view: adapters.View = self.first_view

    def put(self, model: nn.Module) -> None:
        """Take another form of the same model."""
        self._of(model)
        self._anew()

    def together(self, over_ranks: Callable[[adapters.RowLosses], adapters.RowLosses]) -> None:
        """Compute the loss of a mini-batch over the rows of all ranks."""
        self.over_ranks = over_ranks
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

    def with_metrics(self, metrics: Iterable[Metric]) -> Self:
        other = copy.copy(self)
        other.minimise(self.loss, metrics, self.scale)
        return other

    def whole_outputs(self) -> Self:
        """The same model, of whose output all parts are given, and not the scores alone that the loss takes."""
        if self.whole:
            return self
        other = copy.copy(self)
        other.whole = True
        other._anew()
        return other

    def _first_forward(self, batch: Batch) -> object:
        """Step 3 for the first batch, which lies on the model's device. It is first called where gradients are off."""
        try:
            self.forward, output = adapters.first_call(
                self.model,
                batch,
                self.device,
                self._autocast,
                whole=self.whole or self.of_model,
                target=self.target if self.of_model else None,
                differentiates=self.differentiates,
            )
        except RuntimeError as error:
            if self.differentiates or torch.is_grad_enabled() or adapters.NO_GRAPH not in str(error):
                raise
            self.differentiates = True
            return self._first_forward(batch)
        return output

    def values(self, batch: Batch, output: object = None) -> Tensor | None:
        """The loss of each row, whose output is known or a pass of its own; None where it is one number for all."""
        with torch.no_grad():
            output = self.forward(batch) if output is None else output
            return adapters.row_losses(self.model, self.loss, by_row=True)(output, batch)[2]

    def centre(self, target: Tensor) -> None:
        """Take the sums of metrics about these targets [m, ...], in the user's units: the same for all of a run."""
        where = "cpu" if self.device.type in NARROW else self.device
        self.sum_metrics = [m.about(target.to(where)) for m in self.sum_metrics]

    def first_view(self, output: object, batch: Batch) -> Seen | None:
        """Output, target and weight for metrics: numbers in the user's units, or logits; None if they are neither."""
        apart = self.device.type in NARROW
        first = adapters.on_host(output, batch) if apart else (output, batch)
        view = viewing(self.model, self.loss, *first, self.scale, self.part, self.link, self.several)
        self.view = (lambda output, batch: view(*adapters.on_host(output, batch))) if apart else view
        return self.view(output, batch)
