"""Several columns as one target: labels that a row may have together, or numbers that are predicted together."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from handful.base.errors import HandfulError
from handful.base.keys import drawn
from handful.data.base import Batch, Column, Rows, Source, Value, View

_NO = {"no", "n", "false", "f", "0", "off"}
_YES = {"yes", "y", "true", "t", "1", "on"}


def names_of(target: str | Sequence[str] | None) -> list[str]:
    """The columns of a target of several: a list of names, or one string with commas; [] for one column.

    >>> names_of("toxic, rude"), names_of(["a", "b"]), names_of("a")
    (['toxic', 'rude'], ['a', 'b'], [])
    """
    given = target.split(",") if isinstance(target, str) else target if isinstance(target, Sequence) else ()
    parts = [part.strip() if isinstance(part, str) else part for part in given]
    names = [name for name in parts if name]
    return names if len(names) > 1 else []


def goals_of(where: object, name: str) -> list[str]:
    """The targets by name, where samples are pairs of which the second is a dict; [] of others. HandfulError for
    several that are not all numbers or classes, such as boxes and their labels."""
    match where:
        case [(_, Mapping() as goals), *_] if isinstance(where, list):
            pass
        case Dataset() if hasattr(where, "__len__") and type(where) is not TensorDataset:
            item: object = None
            with suppress(Exception):  # someone else's code: said where all rows are read
                item, _ = drawn(lambda: where[0])
            return goals_of([item], name)
        case _:
            return []
    if len(goals) > 1 and (other := [str(key) for key, value in goals.items() if np.ndim(value) > 0]):
        raise HandfulError(
            f"{name}: the second part of a sample holds {', '.join(map(str, goals))}, and '{other[0]}' is neither a "
            "number nor a class: pass collate=..., a function that puts a list of samples together as your model takes "
            "them, and a loss of what it gives; or samples (x, y) with one of them as y"
        )
    return [str(key) for key in goals]


class MultiTarget(View):
    """A source whose target is several columns side by side: one column, named by all of them with commas.

    inputs: the rows; targets: a source of the same rows with the columns `names`; trained: what the target was to a run
    that is to read these rows. The target is uint8 [m, k] of zeros and ones where each column holds 0 and 1, booleans,
    or words such as yes and no; float64 [m, k] where they are numbers; elsewhere each is what it is by itself, see
    `Column.parts`. Raises HandfulError for columns of other kinds.
    """

    def __init__(self, inputs: Source, targets: Source, names: Sequence[str], trained: Column | None = None) -> None:
        self.targets, self.parts = targets, tuple(names)
        self.yes = {name: _yes(targets, name) for name in names}
        every = np.arange(len(targets))
        values = targets.take(every, names)
        own = tuple(replace(targets.columns[n], open=targets.columns[n].classes is not None) for n in names)
        column = replace(self._together(values) if trained is None else trained, parts=own)
        self.kind, self.dtype = column.kind, getattr(torch, column.dtype)
        rest = {name: column for name, column in inputs.columns.items() if name not in names}
        super().__init__(inputs, rest | {",".join(names): column})
        self.target, self.in_memory = ",".join(names), inputs.in_memory and targets.in_memory
        self._stacked(values)  # a missing value is reported now
        kinds = {"uint8": "labels that a row may have together", "float64": "numbers that are predicted together"}
        several = "classes and numbers, each with a loss of its own"
        what = several if column.kind == "several" else kinds[column.dtype]
        self.notes = [note for note in inputs.notes if "target" not in note]
        self.notes.append(f"the target is {len(names)} columns, {what}: {', '.join(names)}.")

    def _together(self, values: Batch) -> Column:
        """What the columns are together: labels, numbers, or each something of its own."""
        shape, own = (len(self.parts),), [self.targets.columns[name] for name in self.parts]
        for name, column in zip(self.parts, own, strict=True):
            if column.kind not in ("number", "category"):
                raise self._other(name)
        labels = [yes is not None or (c.kind == "number" and _zeros_and_ones(values.tensor(name)))
                  for (name, yes), c in zip(self.yes.items(), own, strict=True)]  # fmt: skip
        if all(labels):
            return Column("tensor", "uint8", shape)
        kinds = {np.dtype(column.dtype).kind in "iub" for column in own if column.kind == "number"}
        alike = not any(labels) and len(kinds) == 1 and all(column.kind == "number" for column in own)
        return Column("tensor" if alike else "several", "float64", shape)

    def _other(self, name: str) -> HandfulError:
        column = self.targets.columns[name]
        shown = ", ".join((column.classes or ())[:3]) or column.kind
        return HandfulError(
            f"a target of several columns takes classes, numbers, or labels such as 0 and 1, yes and no; '{name}' of "
            f"{self.targets.name} holds {shown}"
        )

    def read_column(self, name: str, rows: Rows) -> Value:
        own = name == self.target
        return self._stacked(self.targets.take(rows, self.parts)) if own else super().read_column(name, rows)

    def _stacked(self, batch: Batch) -> Tensor:
        return torch.stack([self._part(name, batch) for name in self.parts], dim=1)

    def _part(self, name: str, batch: Batch) -> Tensor:
        value, yes, number = batch.tensor(name), self.yes[name], self.targets.columns[name].kind == "number"
        missing = torch.isnan(value) if number else value < 0
        if missing.any():
            row = int(batch.rows[int(missing.nonzero()[0])])
            raise HandfulError(f"{self.name}: target '{name}' is missing in row {row}: fill it in or remove such rows")
        if self.kind != "several":
            if (yes is None and not number) or (self.dtype == torch.uint8 and number and not _zeros_and_ones(value)):
                raise self._other(name)  # as training had it not
            value = value if yes is None else value == yes
        return value.to(self.dtype)

    def cheap(self, name: str) -> bool:
        return self.targets.cheap(self.parts[0]) if name == self.target else super().cheap(name)


def _zeros_and_ones(values: Tensor) -> bool:
    return bool(((values == 0) | (values == 1) | (values != values)).all())


def _yes(targets: Source, name: str) -> int | None:
    """The code that stands for yes, of a column of such words (-2: none does); None for any other column."""
    column = targets.columns[name]
    words = [word.strip().lower() for word in column.classes or ()]
    found = [code for code, word in enumerate(words) if word in _YES]
    if column.kind != "category" or not set(words) <= _NO | _YES or len(found) > 1:
        return None
    return found[0] if found else -2
