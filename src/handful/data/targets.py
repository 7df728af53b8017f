"""Several columns as one target: labels that a row may have together, or numbers that are predicted together."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from handful.base.errors import HandfulError
from handful.data.base import Column, Rows, Source, Value

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


class Several(Source):
    """A source whose target is several columns side by side: one column, named by all of them with commas.

    inputs: the rows; goal: a source of the same rows with the columns `names`. The target is uint8 [m, k] of zeros and
    ones where each column holds 0 and 1, booleans, or words such as yes and no; float64 [m, k] where they are numbers.
    Raises HandfulError for other words, and for labels beside numbers.
    """

    def __init__(self, inputs: Source, goal: Source, names: Sequence[str]) -> None:
        self.of, self.goal, self.parts, self.target = inputs, goal, tuple(names), ",".join(names)
        self.yes = {name: _yes(goal, name) for name in names}
        labels = [name for name in names if self._is_label(name)]
        if labels and len(labels) < len(names):
            numbers = [name for name in names if name not in labels]
            raise HandfulError(
                f"the target mixes labels ({', '.join(labels)}) with numbers ({', '.join(numbers)}): predict one kind "
                "at a time."
            )
        self.dtype = torch.uint8 if labels else torch.float64
        self.columns = {name: column for name, column in inputs.columns.items() if name not in names}
        self.columns[self.target] = Column("tensor", "uint8" if labels else "float64", (len(names),))
        self.name, self.where, self.in_memory = inputs.name, inputs.where, inputs.in_memory and goal.in_memory
        self.notes = [note for note in inputs.notes if "target" not in note]
        what = "labels that a row may have together" if labels else "numbers that are predicted together"
        for name in names:
            self._part(name, np.arange(len(goal)))  # a gap is said now
        self.notes.append(f"the target is {len(names)} columns, {what}: {', '.join(names)}.")

    def _is_label(self, name: str) -> bool:
        if self.yes[name] is not None or self.goal.columns[name].dtype == "bool":
            return True
        values = self.goal.read_column(name, np.arange(len(self.goal)))
        return isinstance(values, Tensor) and bool(((values == 0) | (values == 1) | (values != values)).all())

    def __len__(self) -> int:
        return len(self.of)

    def read(self, rows: Rows) -> dict[str, Value]:
        return {name: self.read_column(name, rows) for name in self.columns}

    def read_column(self, name: str, rows: Rows) -> Value:
        if name != self.target:
            return self.of.read_column(name, rows)
        return torch.stack([self._part(part, rows) for part in self.parts], dim=1)

    def _part(self, name: str, rows: Rows) -> Tensor:
        value, yes = self.goal.read_column(name, rows), self.yes[name]
        assert isinstance(value, Tensor)
        missing = value < 0 if yes is not None else torch.isnan(value)
        if missing.any():
            row = int(rows[int(missing.nonzero()[0])])
            raise HandfulError(
                f"{self.name}: target '{name}' is missing in row {row}: fill it in or remove such rows first."
            )
        return (value if yes is None else value == yes).to(self.dtype)

    def cheap(self, name: str) -> bool:
        return self.goal.cheap(self.parts[0]) if name == self.target else self.of.cheap(name)


def _yes(goal: Source, name: str) -> int | None:
    """The code that stands for yes, of a column of words (-2: none does); None for a column of numbers."""
    column = goal.columns[name]
    if column.kind == "number":
        return None
    words = [word.strip().lower() for word in column.classes or ()]
    found = [code for code, word in enumerate(words) if word in _YES]
    if column.kind != "category" or not set(words) <= _NO | _YES or len(found) > 1:
        shown = ", ".join((column.classes or ())[:3]) or column.kind
        raise HandfulError(
            f"a target of several columns takes numbers, or 0 and 1, true and false, yes and no; '{name}' of "
            f"{goal.name} holds {shown}."
        )
    return found[0] if found else -2
