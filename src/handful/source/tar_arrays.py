"""NumPy arrays that are members of tar shards, one a row: read when their row is."""

import io
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray

from ..errors import HandfulError
from .arrays import native
from .base import Column, Ragged, Rows, Value
from .media import Items
from .npz import HEADER
from .options import Options


class ArrayItems:
    """A column of arrays of one dtype, of one shape, or of shapes that differ in their first dimension only.

    Every header is looked at before the first row is read. Raises HandfulError, naming the member, for one that is no
    .npy file, holds objects, is cut short, or is unlike the first.
    """

    in_memory = False

    def __init__(self, items: Items, o: Options, notes: list[str]) -> None:
        self.items = items
        shape, dtype = self._header(0)
        self._dtype = native(items.key, np.empty(0, dtype), o, notes).dtype
        fixed = True
        for i in range(1, len(items)):
            other, kind = self._header(i)
            if kind != dtype or len(other) != len(shape) or other[1:] != shape[1:]:
                raise HandfulError(
                    f"{items.describe(i)} is {kind} {list(other)}, but the first is {dtype} {list(shape)}: make them "
                    "alike but for the first dimension."
                )
            fixed = fixed and other == shape
        whole = not fixed and len(shape) == 1 and dtype.kind in "iu"
        name = "tokens" if whole else "tensor" if shape else "number"
        self.column = Column(name, self._dtype.name, shape if fixed else (None, *shape[1:]))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.items)

    def read(self, rows: Rows) -> Value:
        arrays = [self._array(row) for row in rows.tolist()]
        rest = tuple(size for size in self.column.shape if size is not None)
        if len(rest) == len(self.column.shape):
            out = np.empty((len(arrays), *rest), self._dtype)
            for place, array in enumerate(arrays):
                out[place] = array
            return torch.from_numpy(out)
        values = np.concatenate([np.empty((0, *rest), self._dtype), *arrays])
        offsets = np.cumsum([0, *map(len, arrays)])
        return Ragged(torch.from_numpy(values), torch.from_numpy(offsets))

    def _header(self, i: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
        stream = io.BytesIO(self.items[i])
        try:
            shape, _, dtype = HEADER[npy.read_magic(stream)](stream)
        except (ValueError, KeyError, EOFError) as error:
            raise HandfulError(f"{self.items.describe(i)} is not a .npy file ({error}): write it again.") from error
        if dtype.kind not in "biuf":
            raise HandfulError(f"{self.items.describe(i)} holds {dtype}: handful reads arrays of numbers.")
        return shape, dtype

    def _array(self, i: int) -> NDArray[Any]:
        try:
            found = np.load(io.BytesIO(self.items[i]), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise HandfulError(f"{self.items.describe(i)} cannot be read ({error}): write it again.") from error
        return np.asarray(found, self._dtype)
