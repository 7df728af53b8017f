"""The one vectorised read that every source is built on."""

import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from handful.data.base import Ragged, Rows

Array = NDArray[np.generic]
Block = Array | Tensor

# Below this mean length a ragged gather by one index is faster than a slice per row (the two cross near 64).
_SHORT = 64


def gather(data: Block, rows: Rows, out: Tensor | None = None) -> Tensor:
    """`data[rows]` along the first axis, as a Tensor of its own: one copy, no work per row in Python.

    data: array or Tensor [n, ...], also memory-mapped; rows: int64 [m], each in 0..n-1 (not checked);
    out: a contiguous Tensor [m, ...] of the same dtype to write to.

    NumPy's `take` is used wherever NumPy knows the dtype: it releases the interpreter lock and stays on the
    calling thread, while torch's `index_select` may start threads that a busy machine has no cores for.
    Tensors on an accelerator, and dtypes that NumPy lacks (bfloat16), are gathered by torch on their own
    device.

    >>> gather(np.arange(6).reshape(3, 2), np.array([2, 0, 2])).tolist()
    [[4, 5], [0, 1], [4, 5]]
    """
    if isinstance(data, Tensor):
        index = torch.tensor(rows, device=data.device)
        return torch.index_select(data, 0, index, out=out) if out is not None else data.index_select(0, index)
    result = BUFFERS.empty((len(rows), *data.shape[1:]), data.dtype) if out is None else out.numpy()
    if data.flags.c_contiguous and not data.flags.aligned:  # inside a .npz: take would copy all of it to align it
        bytes_of(data).take(rows, 0, bytes_of(result), "clip")
    elif data.flags.c_contiguous:
        # mode="clip" because "raise" makes NumPy gather into a second buffer first
        data.take(rows, 0, result, "clip")
    else:  # take would copy the whole array to make it contiguous
        result[...] = data[rows]
    return torch.from_numpy(result) if out is None else out


def bytes_of(data: Array) -> NDArray[np.uint8]:
    """A view [n, bytes per row]."""
    return data.reshape(len(data), -1).view(np.uint8)


def gather_ragged(values: Block, offsets: NDArray[np.int64], rows: Rows) -> Ragged:
    """Rows of different lengths, packed: values [total, ...] and offsets int64 [m + 1].

    >>> gather_ragged(np.array([1, 2, 3]), np.array([0, 2, 3]), np.array([1, 0]))
    Ragged(values=tensor([3, 1, 2]), offsets=tensor([0, 1, 3]))
    """
    starts = offsets[rows]
    lengths = offsets[rows + 1] - starts
    packed = offsets_of(lengths)
    total = int(packed[-1])
    if isinstance(values, Tensor) or total <= _SHORT * len(rows):
        index = np.repeat(starts - packed[:-1], lengths) + np.arange(total, dtype=np.int64)
        return Ragged(gather(values, index), torch.from_numpy(packed))
    pieces = [values[a:b] for a, b in zip(starts.tolist(), (starts + lengths).tolist())]
    return Ragged(torch.from_numpy(np.concatenate(pieces)), torch.from_numpy(packed))


def offsets_of(lengths: ArrayLike) -> NDArray[np.int64]:
    """Where each row of a ragged column begins, and where the last one ends: int64 [n + 1].

    >>> offsets_of([2, 0, 3])
    array([0, 2, 2, 5])
    """
    sizes = np.asarray(lengths, np.int64)
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return offsets


def ragged_of(rows: Sequence[Array], shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Ragged:
    """Rows of different lengths, one array [length, *shape] each, end to end."""
    values = np.concatenate([np.empty((0, *shape), dtype), *rows])
    return Ragged(torch.from_numpy(values), torch.from_numpy(offsets_of([len(row) for row in rows])))


# Below this many bytes malloc itself hands out memory used before. Above, every page may be mapped and cleared anew:
# gathers of 9 and 37 MB took 2.7 and 9.6 ms into fresh memory, 1.2 and 4.2 ms into memory used before.
SMALLEST = 1 << 20
_COUNT, _SIZES = 8, 2
_SEEN_BY_US = 3  # the list, the loop's variable, and getrefcount's argument


class Buffers:
    """A few arrays of each of the sizes asked for last.

    An array is handed out again only when its reference count says that no Tensor, view or batch over it is
    left: each of those holds a reference to it. So whoever keeps a batch keeps its memory, and only that.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of_size: OrderedDict[int, list[NDArray[np.uint8]]] = OrderedDict()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
        """As np.empty."""
        size = dtype.itemsize
        for length in shape:
            size *= length
        if size < SMALLEST or not _COUNTED:
            return np.empty(shape, dtype)
        with self._lock:
            ours = self._of_size.setdefault(size, [])
            self._of_size.move_to_end(size)
            if len(self._of_size) > _SIZES:
                self._of_size.popitem(last=False)
            for buffer in ours:
                if sys.getrefcount(buffer) == _SEEN_BY_US:
                    return buffer.view(dtype).reshape(shape)
            fresh = np.empty(size, np.uint8)
            if len(ours) < _COUNT:
                ours.append(fresh)
        return fresh.view(dtype).reshape(shape)


# without the interpreter lock another thread's reference may not be in the count yet
_COUNTED = sys.implementation.name == "cpython" and getattr(sys, "_is_gil_enabled", lambda: True)()
BUFFERS = Buffers()
