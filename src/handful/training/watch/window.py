"""What the history says of the training rows since its last row."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from handful.losses.metric import SumMetric
from handful.training.objective import LossSums
from handful.training.special.adapted import Unmeasured, measure

MetricSums = dict[str, NDArray[np.float64]]
SEEN = 64  # mini-batches that metrics see at once


class Window:
    """LossSums since the last logged moment: the training loss and metrics of the history."""

    def __init__(self, loss: float = 0.0, weight: float = 0.0, metrics: MetricSums | None = None) -> None:
        self.loss, self.weight, self.measured = loss, weight, metrics or {}
        self.seen: list[Unmeasured] = []

    def add(self, sums: LossSums) -> None:
        self.loss += float(sums.loss)
        self.weight += float(sums.weight)
        if sums.seen:
            self.seen += sums.seen
            if len(self.seen) < SEEN:
                return
        self._add(sums.known)

    @property
    def metrics(self) -> MetricSums:
        """The sums of each metric."""
        self._add({})
        return self.measured

    def _add(self, metrics: Mapping[str, Tensor]) -> None:
        seen, self.seen = self.seen, []
        for name, sum_ in (*metrics.items(), *measure(seen).items()):
            value = sum_.cpu().numpy()
            self.measured[name] = self.measured[name] + value if name in self.measured else value.copy()

    def scores(self, metrics: Sequence[SumMetric] | None) -> dict[str, float]:
        """train_loss and train_<metric> over exactly the rows of the window. metrics None: of what a step of the
        caller's own has logged, each the pair of a sum and a number."""
        if self.weight == 0:
            return {}
        scores = {"train_loss": self.loss / self.weight}
        if metrics is None:
            return scores | {f"train_{name}": float(sum_ / n) for name, (sum_, n) in self.metrics.items()}
        for m in metrics:
            if m.name in self.metrics:
                scores[f"train_{m.name}"] = m.finish(self.metrics[m.name])
        return scores
