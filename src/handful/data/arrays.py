"""Columns in memory (or mapped into it), each gathered in one go."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.base.errors import HandfulError
from handful.data.base import Column, Kind, Rows, Source, Value
from handful.data.gather import SMALLEST, Array, Block, gather, gather_ragged
from handful.data.options import Options

# From this many columns of one dtype on, they are stored side by side and gathered together.
_BLOCK = 4

SPARSE = "sparse"  # the `Column.type` of a matrix of which only the values that are not 0 are kept

# torch computes little with these.
_WIDER: dict[np.dtype[np.generic], np.dtype[np.generic]] = {
    np.dtype(np.uint16): np.dtype(np.int32),
    np.dtype(np.uint32): np.dtype(np.int64),
}


class Stored(ABC):
    """One column: what it holds, how many rows, and a vectorised read."""

    in_memory = True

    def __init__(self, column: Column, rows: int) -> None:
        self.column, self._rows = column, rows

    def __len__(self) -> int:
        return self._rows

    @abstractmethod
    def read(self, rows: Rows) -> Value:
        """The values of these rows, in that order."""


class Dense(Stored):
    """A column of fixed shape: an array or Tensor [n, ...]."""

    def __init__(self, data: Block, column: Column) -> None:
        super().__init__(column, len(data))
        self.data = data
        self.in_memory = not isinstance(data, np.memmap)
        # of a plain array, whose mini-batches malloc serves well, so much is known before the first is read: each call
        # saved is 1% of a mini-batch of 256 rows of 3 KB
        self.array: Array | None = data if type(data) is np.ndarray else None  # not mapped, nor for torch alone
        self._most, self._take = 0, cast(Array, data).take
        if (own := self.array) is not None and own.flags.c_contiguous and own.flags.aligned and own.strides[0] > 0:
            self._most = SMALLEST // own.strides[0]  # `take` makes no copy of all of it first, and rows have bytes

    def read(self, rows: Rows) -> Tensor:
        if len(rows) < self._most:
            return torch.from_numpy(self._take(rows, 0, None, "clip"))
        return gather(self.data, rows)


class Widened(Stored):
    """A mapped column whose numbers become `dtype` as they are read, so that it need not be converted as a whole."""

    in_memory = False

    def __init__(self, data: Array, dtype: np.dtype[np.generic], column: Column) -> None:
        super().__init__(column, len(data))
        self.data, self._dtype = data, dtype

    def read(self, rows: Rows) -> Tensor:
        return torch.from_numpy(np.asarray(self.data[rows], self._dtype))


class Strings(Stored):
    """A column of strings; None is read as ""."""

    def __init__(self, values: Sequence[str | None], column: Column) -> None:
        super().__init__(column, len(values))
        self.data: NDArray[np.object_] = np.empty(len(values), dtype=object)
        self.data[:] = ["" if v is None else v for v in values]

    def read(self, rows: Rows) -> list[str]:
        return list(self.data[rows])


class RaggedValues(Stored):
    """A column whose rows have different lengths: values [total, ...], offsets int64 [n + 1]."""

    def __init__(self, values: Block, offsets: NDArray[np.int64], column: Column) -> None:
        super().__init__(column, len(offsets) - 1)
        self.values, self.offsets = values, offsets
        self.in_memory = not isinstance(values, np.memmap)

    def read(self, rows: Rows) -> Value:
        return gather_ragged(self.values, self.offsets, rows)


class SparseRows(Stored):
    """A matrix of which most values are 0, kept as the others alone: values [stored], the column that each is in, int64
    [stored], and where each row begins, int64 [n + 1]. Read as a Tensor [m, width], with the zeros."""

    def __init__(self, values: Array, places: NDArray[np.int64], offsets: NDArray[np.int64], width: int) -> None:
        super().__init__(Column("tensor", values.dtype.name, (width,), type=SPARSE), len(offsets) - 1)
        self.values, self.places, self.offsets, self.width = values, places, offsets, width

    def read(self, rows: Rows) -> Tensor:
        found, places = (gather_ragged(block, self.offsets, rows).values for block in (self.values, self.places))
        whole = torch.zeros(len(rows), self.width, dtype=found.dtype)
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        whole[torch.from_numpy(np.repeat(np.arange(len(rows)), lengths)), places] = found
        return whole


def native(key: str, value: Array, o: Options, notes: list[str]) -> Array:
    """A layout and dtype that both NumPy and torch can gather: contiguous, this machine's byte order."""
    dtype = value.dtype.newbyteorder("=")
    if dtype in _WIDER:
        dtype = _WIDER[dtype]
    elif dtype == np.uint64:
        if value.size and int(value.max()) > np.iinfo(np.int64).max:
            raise HandfulError(
                f"{o.name}: '{key}' holds integers above 2^63 - 1: convert it to floats, or labels to text"
            )
        dtype = np.dtype(np.int64)
    elif dtype.kind == "f" and dtype.itemsize > 8:
        dtype = np.dtype(np.float64)
    if dtype != value.dtype:
        if dtype != value.dtype.newbyteorder("="):
            notes.append(f"'{key}': {value.dtype.name} is stored as {dtype.name}, which torch can compute with.")
        value = np.asarray(value).astype(dtype)
    return value if isinstance(value, np.memmap) else np.ascontiguousarray(value)


def ragged_column(dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> Column:
    """Of rows of different lengths, whose values have that shape: tokens for whole numbers, else a tensor."""
    kind: Kind = "tokens" if dtype.kind in "iu" and not shape else "tensor"
    return Column(kind, dtype.name, (None, *shape))


class Arrays(Source):
    """Named columns of equal length.

    Columns of one number per row and one dtype are stored as one [n, columns] block when there are several, so
    that a table of hundreds of columns costs one gather; what is returned are then views `block[:, j]`.

    Raises HandfulError when lengths differ, there are no rows, or a target is missing or not finite.
    """

    def __init__(
        self,
        stored: dict[str, Stored],
        target: str | None = None,
        *,
        name: str = "arrays",
        where: str | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.name, self.where, self.target, self.notes = name, where, target, list(notes)
        self.stored = dict(stored)
        self.columns = {key: value.column for key, value in stored.items()}
        self.in_memory = all(value.in_memory for value in stored.values())
        self._n = _common_length(name, stored)
        if target is not None:
            check_target(name, target, stored[target])
        self._blocks = _blocks(self.stored)
        blocked = {key for names, _ in self._blocks for key in names}
        self._single = [key for key in stored if key not in blocked]

    def __len__(self) -> int:
        return self._n

    def read(self, rows: Rows) -> dict[str, Value]:
        found = {key: self.stored[key].read(rows) for key in self._single}
        if not self._blocks:
            return found
        for names, block in self._blocks:
            found.update(zip(names, gather(block, rows).unbind(1)))
        return {key: found[key] for key in self.columns}

    def read_column(self, name: str, rows: Rows) -> Value:
        return self.stored[name].read(rows)

    def cheap(self, name: str) -> bool:
        return self.stored[name].in_memory

    def put(self, place: Callable[[Array], Array]) -> None:
        """Have the arrays somewhere else: place(array) is an equal one."""
        for key in self._single:
            match self.stored[key]:
                case Dense(array=np.ndarray() as array, column=column):
                    self.stored[key] = Dense(place(array), column)
                case RaggedValues(values=np.ndarray()) | SparseRows() as kept:
                    kept.values = place(cast(Array, kept.values))
        self._blocks = [(names, place(block)) for names, block in self._blocks]
        for names, block in self._blocks:
            for j, key in enumerate(names):
                self.stored[key] = Dense(block[:, j], self.columns[key])


def _common_length(name: str, stored: dict[str, Stored]) -> int:
    if not stored:
        raise HandfulError(f"{name} has no columns: give at least one")
    lengths = {key: len(value) for key, value in stored.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"'{key}' has {count}" for key, count in list(lengths.items())[:5])
        raise HandfulError(f"{name}: columns must have one length, but {listed} rows")
    n = next(iter(lengths.values()))
    if n == 0:
        raise HandfulError(f"{name} has 0 rows: there is nothing to learn from")
    return n


def _blocks(stored: dict[str, Stored]) -> list[tuple[list[str], Array]]:
    """Put columns of one dtype side by side; their own storage becomes a view of the block."""
    groups: dict[np.dtype[np.generic], dict[str, Array]] = {}
    for key, value in stored.items():
        array = value.array if isinstance(value, Dense) else None
        if array is not None and array.ndim == 1:
            groups.setdefault(array.dtype, {})[key] = array
    blocks = []
    for group in groups.values():
        if len(group) >= _BLOCK:
            block = np.stack(list(group.values()), axis=1)
            for j, key in enumerate(group):
                stored[key] = Dense(block[:, j], stored[key].column)
            blocks.append((list(group), block))
    return blocks


class NoTarget(HandfulError):
    """Rows whose target is missing, or is not a finite number."""

    def __init__(self, sentence: str, rows: Rows) -> None:
        super().__init__(sentence)
        self.rows = rows


def check_target(name: str, target: str, value: Stored) -> None:
    """Raise NoTarget, naming the first row, when a target is missing, NaN or infinite."""
    if not isinstance(value, Dense) or not value.in_memory:
        return
    category = value.column.kind == "category"
    if value.array is None:
        bad = (~torch.isfinite(torch.as_tensor(value.data))).numpy()
    elif category:
        bad = np.less(value.array, 0)
    elif value.array.dtype.kind == "f":
        bad = ~np.isfinite(value.array)
    else:
        return
    wrong = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))
    if len(wrong):
        what = "missing" if category else "not a finite number"
        more = f" (and in {len(wrong) - 1:,} more rows)" if len(wrong) > 1 else ""
        raise NoTarget(
            f"{name}: target '{target}' is {what} in row {wrong[0]}{more}: correct or remove such rows first", wrong
        )
