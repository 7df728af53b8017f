"""What every source of rows is: named columns, a length, and one vectorised read."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Rows = NDArray[np.int64]
Kind = Literal["number", "category", "text", "image", "audio", "tokens", "tensor"]


class Ragged(NamedTuple):
    """Rows of different lengths: row i is `values[offsets[i]:offsets[i + 1]]`.

    values: [total, ...]; offsets: int64 [m + 1].
    """

    values: Tensor
    offsets: Tensor


Value = Tensor | Ragged | list[str] | list[bytes]


@dataclass(frozen=True)
class Column:
    """What a column holds.

    kind:    number    one number a row (integers and booleans too)
             category  one of a few strings a row; values are int64 codes into `classes`, -1 where missing
             text      one string a row
             image     [channels, height, width] uint8 a row; or encoded bytes when dtype is "bytes"
             audio     samples, float32, of varying length: a Ragged; `rate` in Hz
             tokens    integers of varying length: a Ragged
             tensor    any other fixed-shape block of numbers
    dtype:   numpy's name ("float32", "int64", "uint8"), "str" or "bytes"
    shape:   of one row; None where it varies
    labels:  what the zeros and ones of a tensor [k] stand for, where they came from lists of strings
    dates:   how a number, seconds since 1970, was written as a date in text: a format of strptime
    open:    whether a category may hold strings that are not among `classes`: when data are read as those of training,
             these are then classes, too, behind the known ones; else they are missing
    """

    kind: Kind
    dtype: str
    shape: tuple[int | None, ...] = ()
    classes: tuple[str, ...] | None = None
    rate: int | None = None
    labels: tuple[str, ...] | None = None
    dates: str | None = None
    open: bool = False


@dataclass
class Batch:
    """Some rows: one value per column, and where each row came from.

    rows:    int64 [m], row ids in the source
    epochs:  int64 [m], the epoch each row was drawn in (0 when it was not drawn by an Order)
    columns: name -> Tensor [m, ...], Ragged, or list of m strings or bytes
    After the pipeline of transforms a training batch has the columns `x` (or several named inputs), `y` and,
    if rows are weighted, `weight`.
    """

    columns: dict[str, Value]
    rows: Rows
    epochs: Rows = field(default=None)  # type: ignore[arg-type]
    position: int = 0

    def __post_init__(self) -> None:
        if self.epochs is None:
            self.epochs = np.zeros(len(self.rows), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> Value:
        return self.columns[name]

    @property
    def weight(self) -> Tensor | None:
        """The weights of the rows [m], or None where all count the same."""
        return self.tensor("weight") if "weight" in self.columns else None

    def replace(self, columns: Mapping[str, Value]) -> "Batch":
        """The same rows with other columns."""
        return Batch(dict(columns), self.rows, self.epochs, self.position)

    def tensor(self, name: str) -> Tensor:
        """The column as a Tensor; a TypeError if it is ragged, text or bytes."""
        value = self.columns[name]
        if not isinstance(value, Tensor):
            raise TypeError(f"column '{name}' is {type(value).__name__}, not a Tensor")
        return value


class Source(ABC):
    """Rows that can be read by id.

    name:      for messages: the path or "arrays"
    columns:   name -> Column, in order
    target:    name of the target column, or None
    notes:     sentences on what was guessed, dropped or converted, to be printed for the user
    in_memory: True if a read costs no more than a copy (then no prefetch thread is used)
    where:     what handful.open would need to open it again (a str), or None if only the caller has it
    """

    name: str = "data"
    columns: dict[str, Column]
    target: str | None = None
    notes: list[str]
    in_memory: bool = True
    where: str | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, rows: Rows) -> dict[str, Value]:
        """The values of `rows` (int64 [m], checked to be in range), in that order; one vectorised read."""

    def read_column(self, name: str, rows: Rows) -> Value:
        """One column of `rows`, without reading the others where the source can avoid it."""
        return self.read(rows)[name]

    def cheap(self, name: str) -> bool:
        """Whether reading this whole column costs no more than a copy (then a split may look at it)."""
        return self.in_memory

    def take(self, rows: "Rows | range | slice | list[int] | Tensor") -> Batch:
        """The given rows, in the given order, repeats allowed.

        Raises IndexError when a row id is outside 0..len-1.
        """
        ids = as_rows(rows, len(self))
        return Batch(self.read(ids), ids)

    @property
    def inputs(self) -> list[str]:
        """The names of all columns but the target."""
        return [name for name in self.columns if name != self.target]

    def subset(self, rows: Rows) -> "Source":
        """A view of some rows: row i of the view is row `rows[i]` of this source."""
        return Subset(self, np.asarray(rows, dtype=np.int64))


class Subset(Source):
    """Some rows of another source, without a copy."""

    def __init__(self, base: Source, rows: Rows) -> None:
        as_rows(rows, len(base))
        self.base, self.rows = base, rows
        self.name, self.columns, self.target = base.name, base.columns, base.target
        self.notes, self.in_memory, self.where = base.notes, base.in_memory, base.where

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: Rows) -> dict[str, Value]:
        return self.base.read(self.rows[rows])

    def read_column(self, name: str, rows: Rows) -> Value:
        return self.base.read_column(name, self.rows[rows])

    def cheap(self, name: str) -> bool:
        return self.base.cheap(name)


def as_rows(rows: "Rows | range | slice | list[int] | Tensor", n: int) -> Rows:
    """Row ids as int64 [m]. Raises IndexError for one outside 0..n-1, TypeError for what is no list of integers."""
    if isinstance(rows, slice):
        rows = range(*rows.indices(n))
    if isinstance(rows, range):
        rows = np.arange(rows.start, rows.stop, rows.step, dtype=np.int64)
    elif isinstance(rows, torch.Tensor):
        rows = rows.cpu().numpy()
    ids = np.asarray(rows)
    if ids.size == 0:
        ids = ids.astype(np.int64)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise TypeError(f"rows must be a one-dimensional list of integers, not {ids.dtype} of shape {ids.shape}")
    ids = ids.astype(np.int64, copy=False)
    if len(ids) and (ids.min() < 0 or ids.max() >= n):
        bad = ids[(ids < 0) | (ids >= n)][0]
        raise IndexError(f"row {bad} is outside 0..{n - 1}")
    return ids
