"""Tell the system which bytes of a mapped file will be needed, so that it reads them before they are."""

import contextlib
import mmap
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from handful.data.base import Rows
from handful.data.gather import Array

_PAGE = mmap.PAGESIZE
_PIECE = (
    128 << 10
)  # bytes asked for at once: of more, Linux reads what the device's read-ahead allows and drops the rest
_STEP, _AHEAD = 4 << 20, 32 << 20  # bytes: a deep queue is fast, but what is wanted at once waits for it
_GAP = 16 << 10  # bytes between two runs that are cheaper to read than to skip
_WILL_NEED = getattr(mmap, "MADV_WILLNEED", None)
_RANDOM = getattr(mmap, "MADV_RANDOM", None)


def distinct(rows: Rows) -> Rows:
    """The rows sorted, each once: what np.unique gives, which takes 30 times as long for a window of a shuffle.

    >>> distinct(np.array([3, 1, 3]))
    array([1, 3])
    """
    ids = np.sort(rows)
    return ids[np.diff(ids, prepend=ids[:1] - 1) > 0]


def runs(starts: Rows, stops: Rows, gap: int = 0) -> tuple[Rows, Rows]:
    """Sorted ranges start..stop-1, joined where less than `gap` + 1 lies between them.

    >>> runs(np.array([0, 3, 9]), np.array([2, 5, 12]), gap=1)
    (array([0, 9]), array([ 5, 12]))
    """
    if len(starts) == 0:
        return starts, stops
    stops = np.maximum.accumulate(stops)
    new = np.flatnonzero(starts[1:] > stops[:-1] + gap) + 1
    return starts[np.concatenate([[0], new])], stops[np.concatenate([new - 1, [len(stops) - 1]])]


def will_need(array: Array, starts: Rows, stops: Rows) -> int:
    """Start reading rows starts[i]..stops[i]-1 (sorted) of a mapped array; returns the bytes of the pages."""
    mapping = _mapping(array)
    width = array.strides[0]
    first, last = runs(np.asarray(starts) * width, np.asarray(stops) * width, _GAP)
    pages = first // _PAGE * _PAGE
    total = int((-(-last // _PAGE) * _PAGE - pages).sum())
    if mapping is None or _WILL_NEED is None:
        return total
    for start, stop in zip(pages.tolist(), np.minimum(last, len(mapping)).tolist()):
        for piece in range(start, stop, _PIECE):
            mapping.madvise(_WILL_NEED, piece, min(_PIECE, stop - piece))
    return total


def random_access(array: Array) -> None:
    """Rows will be read one here, one there: the system should not read around them."""
    mapping = _mapping(array)
    if mapping is not None and _RANDOM is not None:
        mapping.madvise(_RANDOM)


class FilePrefetcher:
    """Reads files once from end to end, by a thread, into a page cache that has room for all of them.

    Row by row, in a shuffled order, the disk gave 70,000 reads of 3 KB per second; in storage order five times as much.
    Nothing depends on it: a page that is not there yet, or not any more, is read when it is touched.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files, self.active = files, False
        self._begun, self._lock = False, threading.Lock()

    def start(self) -> None:
        """Begin, unless it has begun before, on systems that can be asked."""
        with self._lock:
            if not self._begun and hasattr(os, "posix_fadvise"):
                self.active = True
                threading.Thread(target=self._run, name="handful-prefetch", daemon=True).start()
            self._begun = True

    def _run(self) -> None:
        for file in self._files:
            with contextlib.suppress(OSError), open(file, "rb", buffering=0) as stream:
                fd, size = stream.fileno(), os.fstat(stream.fileno()).st_size
                for start in range(0, size, _STEP):
                    for piece in range(start, min(size, start + _STEP), _PIECE):
                        os.posix_fadvise(fd, piece, _PIECE, os.POSIX_FADV_WILLNEED)
                    os.pread(fd, 1, max(0, start - _AHEAD))  # waits until that piece is there
        self.active = False


def _mapping(array: Array) -> mmap.mmap | None:
    """What an array is a view of, where that is a mapped file."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None
