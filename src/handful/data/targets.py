"""Several columns as one target: labels that a row may have together, or numbers that are predicted together."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from handful.base.errors import HandfulError
from handful.data.base import Batch, Column, Rows, Source, Value, View

_NO = {"no", "n", "false", "f", "0", "off"}
_YES = {"yes", "y", "true", "t", "1", "on"}


def names_of(target: str | Sequence[str] | None) -> list[str]:
    """The columns of a target of several: a list of names, or one string with commas; [] for one column.

    >>> names_of("toxic, rude"), names_of(["a", "b"]), names_of("a")
    (['toxic', 'rude'], ['a', 'b'], [])
    """
    parts = [part.strip() for part in target.split(",")] if isinstance(target, str) else list(target or ())
    names = [name for name in parts if name]
    return names if len(names) > 1 else []


class MultiTarget(View):
    """A source whose target is several columns side by side: one column, named by all of them with commas.

    inputs: the rows; targets: a source of the same rows with the columns `names`. The target is uint8 [m, k] of zeros
    and ones where each column holds 0 and 1, booleans, or words such as yes and no; float64 [m, k] where they are
    numbers. Raises HandfulError for other words, and where labels and numbers are mixed.
    """

    def __init__(self, inputs: Source, targets: Source, names: Sequence[str]) -> None:
        self.targets, self.parts = targets, tuple(names)
        self.yes = {name: _yes(targets, name) for name in names}
        every = np.arange(len(targets))
        values = targets.take(every, names)
        labels = [name for name in names if self.yes[name] is not None or _zeros_and_ones(values.tensor(name))]
        if labels and len(labels) < len(names):
            numbers = [name for name in names if name not in labels]
            both = f"labels ({', '.join(labels)}) with numbers ({', '.join(numbers)})"
            raise HandfulError(f"the target mixes {both}: predict one kind at a time")
        self.dtype = torch.uint8 if labels else torch.float64
        column = Column("tensor", "uint8" if labels else "float64", (len(names),))
        rest = {name: column for name, column in inputs.columns.items() if name not in names}
        super().__init__(inputs, rest | {",".join(names): column})
        self.target, self.in_memory = ",".join(names), inputs.in_memory and targets.in_memory
        self._stacked(values)  # a missing value is reported now
        what = "labels that a row may have together" if labels else "numbers that are predicted together"
        self.notes = [note for note in inputs.notes if "target" not in note]
        self.notes.append(f"the target is {len(names)} columns, {what}: {', '.join(names)}.")

    def read_column(self, name: str, rows: Rows) -> Value:
        return (
            self._stacked(self.targets.take(rows, self.parts))
            if name == self.target
            else super().read_column(name, rows)
        )

    def _stacked(self, batch: Batch) -> Tensor:
        return torch.stack([self._part(name, batch) for name in self.parts], dim=1)

    def _part(self, name: str, batch: Batch) -> Tensor:
        value, yes = batch.tensor(name), self.yes[name]
        missing = value < 0 if yes is not None else torch.isnan(value)
        if missing.any():
            row = int(batch.rows[int(missing.nonzero()[0])])
            raise HandfulError(f"{self.name}: target '{name}' is missing in row {row}: fill it in or remove such rows")
        return (value if yes is None else value == yes).to(self.dtype)

    def cheap(self, name: str) -> bool:
        return self.targets.cheap(self.parts[0]) if name == self.target else super().cheap(name)


def _zeros_and_ones(values: Tensor) -> bool:
    return bool(((values == 0) | (values == 1) | (values != values)).all())


def _yes(targets: Source, name: str) -> int | None:
    """The code that stands for yes, of a column of words (-2: none does); None for a column of numbers."""
    column = targets.columns[name]
    if column.kind == "number":
        return None
    words = [word.strip().lower() for word in column.classes or ()]
    found = [code for code, word in enumerate(words) if word in _YES]
    if column.kind != "category" or not set(words) <= _NO | _YES or len(found) > 1:
        shown = ", ".join((column.classes or ())[:3]) or column.kind
        raise HandfulError(
            f"a target of several columns takes numbers, or 0 and 1, true and false, yes and no; '{name}' of "
            f"{targets.name} holds {shown}"
        )
    return found[0] if found else -2
