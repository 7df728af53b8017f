"""What the history says of the training rows since its last row."""

from collections.abc import Sequence
from itertools import groupby
from typing import Self

import numpy as np
from numpy.typing import NDArray

from handful.losses.metric import SumMetric
from handful.training.objective import LossSums
from handful.training.special.adapted import measure

MetricSums = dict[str, NDArray[np.float64]]


class Window:
    """LossSums since the last logged moment: the training loss and metrics of the history.

    added: the last ones, one by one; all that read the window add them up first. Metrics that can see them at once.
    """

    def __init__(self, loss: float = 0.0, weight: float = 0.0, metrics: MetricSums | None = None) -> None:
        self.loss, self.weight, self.metrics = loss, weight, metrics or {}
        self.added: list[LossSums] = []

    def whole(self) -> Self:
        """The window, with nothing left to be added up."""
        added, self.added = self.added, []
        seen = [one for sums in added for one in sums.seen]
        for sums in added:
            self.loss += float(sums.loss)
            self.weight += float(sums.weight)
        found = [(name, value[None]) for sums in added for name, value in sums.known.items()]
        for _, alike in groupby(seen, lambda one: (one[1].shape[1:], one[2].shape[1:])):
            found += measure(list(alike)).items()
        for name, value in found:
            rows = value.cpu().numpy()
            rows = np.concatenate([self.metrics[name][None], rows]) if name in self.metrics else rows
            self.metrics[name] = np.add.accumulate(rows)[-1].copy()  # in turn, however many there are at once
        return self

    def copy(self) -> "Window":
        """The window as a whole, to be added to by itself."""
        whole = self.whole()
        return Window(whole.loss, whole.weight, {name: sums.copy() for name, sums in whole.metrics.items()})

    def scores(self, metrics: Sequence[SumMetric] | None) -> dict[str, float]:
        """train_loss and train_<metric> over exactly the rows of the window. metrics None: of what a step of the
        caller's own has logged, each the pair of a sum and a number."""
        if self.whole().weight == 0:
            return {}
        scores = {"train_loss": self.loss / self.weight}
        if metrics is None:
            return scores | {f"train_{name}": float(sum_ / n) for name, (sum_, n) in self.metrics.items()}
        for m in metrics:
            if m.name in self.metrics:
                scores[f"train_{m.name}"] = m.finish(self.metrics[m.name])
        return scores
