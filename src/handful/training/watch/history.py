"""The table of logged moments."""

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, SupportsIndex, overload

from handful.base.plan import Row

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
