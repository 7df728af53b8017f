"""The table of logged moments; and what it says of the training rows since its last row."""

import statistics
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Self, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

from handful.base.plan import Row
from handful.losses.metric import SumMetric
from handful.training.objective import LossSums
from handful.training.special.adapted import measure

if TYPE_CHECKING:
    from pandas import DataFrame

Value = float | str | None


class History(list[Row]):
    """The table of logged moments: a list of rows; `history["valid_loss"]` is a column (None where absent)."""

    @overload
    def __getitem__(self, key: str) -> list[Value]: ...
    @overload
    def __getitem__(self, key: SupportsIndex) -> Row: ...
    @overload
    def __getitem__(self, key: slice) -> list[Row]: ...
    def __getitem__(self, key: str | SupportsIndex | slice) -> list[Value] | Row | list[Row]:
        return [row.get(key) for row in self] if isinstance(key, str) else super().__getitem__(key)

    @property
    def columns(self) -> list[str]:
        """All names that occur, in order of first appearance."""
        return list(dict.fromkeys(name for row in self for name in row))

    def to_pandas(self) -> "DataFrame":
        """A pandas DataFrame."""
        import pandas

        return pandas.DataFrame(list(self))

    def last(self, name: str) -> Value:
        """The newest value of a column, or None."""
        return next((row[name] for row in reversed(self) if name in row), None)


def usual_loss(history: Sequence[Row], step: int, moments: int = 10) -> float | None:
    """The median training loss of the last `moments` logged moments before a step; None where there is none.

    >>> usual_loss([{"step": 1, "train_loss": 2.0}, {"step": 2, "train_loss": 1.0}], 3)
    1.5
    """
    losses = [row["train_loss"] for row in history if row.get("step", step) < step and "train_loss" in row]
    return statistics.median(losses[-moments:]) if losses else None


def spike(history: Sequence[Row], at_least: float = 3.0, moments: int = 10) -> tuple[int, float] | None:
    """The logged step whose training loss is most times that of the moments before it, and how many times; None where
    no moment after the first ten is `at_least` times as high.

    >>> spike([{"step": k, "train_loss": 9.0 if k == 15 else 1.0} for k in range(1, 20)])
    (15, 9.0)
    """
    rows = [row for row in history if "train_loss" in row]
    times = [(rise, -row["step"]) for rise, row in zip(rises(rows, moments), rows, strict=True)]
    highest, step = max(times[moments:], default=(0.0, 0))
    return (-step, highest) if highest >= at_least else None


def rises(rows: Sequence[Row], moments: int = 10) -> list[float]:
    """How many times the usual loss of the moments before it each training loss is; 1 for the first.

    >>> rises([{"step": 1, "train_loss": 2.0}, {"step": 2, "train_loss": 1.0}])
    [1.0, 0.5]
    """
    found = []
    for i, row in enumerate(rows):
        usual = usual_loss(rows[max(0, i - moments) : i], row["step"])
        found.append(row["train_loss"] / usual if usual else 1.0)
    return found


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
