"""Names as ids: the step for categories, and tables of ids by code."""

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from handful.data.base import Column, Value
from handful.data.tables.cells.strings import composed
from handful.transform.steps.step import Step

_TABLES: dict[tuple[int | None, ...], tuple[object, object, Tensor]] = {}  # with what they are of, whose ids stay so


def code_table(
    known: tuple[str, ...], classes: tuple[str, ...], first: int, other: int, missing: int | None = None
) -> Tensor:
    """Ids by code, int64 [len(classes) + 1].

    For each of `classes` its place in `known` plus `first`, or `other` where it is not there; the last entry,
    which the code -1 (missing) picks, is `missing`, by default `other`, too."""
    asked = id(known), id(classes), first, other, missing  # to compare 200,000 names takes longer than a mini-batch
    if (found := _TABLES.get(asked)) is None:
        if len(_TABLES) >= 256:
            _TABLES.clear()
        found = _TABLES[asked] = (known, classes, _code_table(known, classes, first, other, missing))
    return found[2]


@functools.lru_cache(256)  # one row after another is read with the same classes
def _code_table(
    known: tuple[str, ...], classes: tuple[str, ...], first: int, other: int, missing: int | None
) -> Tensor:
    ids = {composed(name): i + first for i, name in enumerate(known)}
    last = other if missing is None else missing
    return torch.tensor([*(ids.get(composed(name), other) for name in classes), last], dtype=torch.int64)


def strings(value: Value, column: Column) -> list[str]:
    """The strings of a column of text, or of one of categories, by their codes; "" where one is missing."""
    if isinstance(value, Tensor):
        names = (*(column.classes or ()), "")
        return [names[code] for code in value.tolist()]
    return [str(text or "") for text in value]


@dataclass(frozen=True, eq=False)
class Categories(Step[Sequence[str | None]]):
    """Names to ids, by name: 1.. for the names seen in training, sorted; 0 for missing or never seen.

    Values are lists of m strings ("" and None are missing); the result is int64 [m]. With `other`, names never seen
    have an id of their own, the last. counts: training rows of each id.

    >>> step = Categories().fit([["red", "blue"]])
    >>> step.classes, step(["red", "green"]).tolist()
    (('blue', 'red'), [2, 0])
    >>> Categories(other=True).fit([["red", "blue"]])(["red", "green", ""]).tolist()
    [2, 3, 0]
    """

    classes: tuple[str, ...] | None = None
    other: bool = False
    counts: tuple[int, ...] = ()

    def learn(self, chunks: Iterator[Sequence[str | None]]) -> Self:
        return self.of(Counter(composed(name or "") for chunk in chunks for name in chunk))

    def of(self, counts: Mapping[str, int]) -> Self:
        """Fitted to names that have so many rows each; "" is missing."""
        names = tuple(sorted(name for name in counts if name))
        of_ids = (counts.get("", 0), *(counts[name] for name in names), *([0] if self.other else []))
        return replace(self, classes=names, counts=of_ids)

    @property
    def size(self) -> int:
        """How many ids there are: the known names, 0, and with `other` one more."""
        return len(self.fitted(self.classes)) + 1 + self.other

    @property
    def _unseen(self) -> int:
        return self.size - 1 if self.other else 0

    def __call__(self, value: Sequence[str | None]) -> Tensor:
        ids = {composed(name): i + 1 for i, name in enumerate(self.fitted(self.classes))}
        found = [ids.get(composed(name), self._unseen) if name else 0 for name in value]
        return torch.tensor(found, dtype=torch.int64)

    def recode(self, codes: Tensor, classes: Sequence[str]) -> Tensor:
        """Ids of codes [m] into another list of classes (-1: missing), such as those of a second file."""
        return code_table(self.fitted(self.classes), tuple(classes), 1, self._unseen, 0)[codes]
