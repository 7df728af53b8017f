"""What is measured along with a loss: the sums of metrics, in the user's units, whatever the model puts out."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from handful.data.base import Batch
from handful.losses.loss import LossFunction, of_probabilities
from handful.losses.metric import Metric, SumMetric
from handful.training.special.adapters import Seen, View, counted, viewing
from handful.transform.several import Several

Scale = tuple[Tensor, Tensor]
Unmeasured = tuple[Sequence[SumMetric], Tensor, Tensor]  # metrics that count, and an output and a target to see
LATER = 1 << 13  # numbers in an output that is kept to be measured with others


def measure(seen: Sequence[Unmeasured]) -> dict[str, Tensor]:
    """The sums of metrics that count over what was seen of some mini-batches, of one kind: the same bits in one go."""
    if not seen:
        return {}
    metrics, output, target = seen[0]
    if len(seen) > 1:
        output, target = torch.cat([o for _, o, _ in seen]), torch.cat([t for _, _, t in seen])
    with torch.no_grad():
        return {m.name: m.sums(output, target, None) for m in metrics}


class Measured:
    """The metrics of an `Objective`, and what they see; that is decided once, at the first batch."""

    model: nn.Module
    loss: LossFunction
    device: torch.device
    view: View
    several: Several | None
    part = ""  # of the model's output, which metrics see
    gaps = False  # whether training rows are left out, their class being IGNORED

    def look_at(self, metrics: Iterable[Metric], scale: Scale | None) -> None:
        """Decide on the metrics of a loss."""
        self.metrics, self.scale = list(metrics), scale
        self.sum_metrics = [m for m in self.metrics if isinstance(m, SumMetric)]
        self.count = all(m.counts for m in self.sum_metrics)  # so that they may see many mini-batches at once
        self.of_probabilities = of_probabilities(self.loss)

    def centre(self, target: Tensor) -> None:
        """Take the sums of metrics about these targets [m, ...], in the user's units: the same for all of a run."""
        self.sum_metrics = [m.about(target.to(self.device)) for m in self.sum_metrics]

    def first_view(self, output: object, batch: Batch) -> Seen | None:
        """Output, target and weight for metrics: numbers in the user's units, or logits; None if they are neither."""
        self.view = viewing(self.model, self.loss, output, batch, self.scale, self.part, self.several)
        return self.view(output, batch)

    def measured(self, output: object, batch: Batch) -> tuple[dict[str, Tensor], tuple[Unmeasured, ...]]:
        """The sums over the rows of a batch that are known, and what metrics that count have still to see."""
        if not (seen := self.view(output, batch)):
            return {}, ()
        scores, target, of_rows = seen
        small = scores.numel() <= LATER and scores.ndim == 2 and target.ndim == 1 and of_rows is None
        if small and self.count and not self.gaps and isinstance(output, Tensor) and not output._is_view():
            return {}, ((self.sum_metrics, scores, target),)  # no view: it will not change
        with torch.no_grad():
            seen = counted(seen) if self.gaps else seen
            return {m.name: m.sums(*seen) for m in self.sum_metrics}, ()
