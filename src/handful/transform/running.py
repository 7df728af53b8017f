"""Running text larger than memory: joined, cut and turned into one long array of tokens piece by piece."""

import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from handful.source.base import Source

LARGE = 64 << 20  # bytes of tokens that are kept in memory; more of them go to a file
_CHARACTERS = 1 << 20  # read at a time, where rows are short


def joined(source: Source, name: str) -> Iterator[str]:
    """The texts of a column, a newline between two: one long text, in pieces that end where rows do."""
    size, start = 1, 0
    while start < len(source):
        rows = np.arange(start, min(start + size, len(source)), dtype=np.int64)
        piece = "\n".join(map(str, cast(list[str], source.read_column(name, rows))))
        start += len(rows)
        yield piece + "\n" if start < len(source) else piece
        if len(piece) < _CHARACTERS // 2:
            size *= 2
        elif len(piece) > _CHARACTERS:
            size = max(1, size // 2)


def between(parts: Iterable[str], first: int, last: int) -> Iterator[str]:
    """Characters first..last-1 of the text that `parts` make up.

    >>> list(between(["abc", "def", "gh"], 1, 4))
    ['bc', 'd']
    """
    at = 0
    for part in parts:
        piece = part[max(0, first - at) : max(0, last - at)]
        at += len(part)
        if piece:
            yield piece
        if at >= last:
            return


def evenly(parts: Iterable[str], size: int) -> Iterator[str]:
    """The same text in pieces of `size` characters, the last one shorter.

    >>> list(evenly(["abc", "d", "efg"], 2))
    ['ab', 'cd', 'ef', 'g']
    """
    rest = ""
    for part in parts:
        rest += part
        whole = len(rest) // size * size
        yield from (rest[i : i + size] for i in range(0, whole, size))
        rest = rest[whole:]
    if rest:
        yield rest


def smallest_dtype(kinds: int) -> Any:
    """Of unsigned integers below 2^16, or int32."""
    return np.uint8 if kinds <= 1 << 8 else np.uint16 if kinds <= 1 << 16 else np.int32


def array_of(parts: Iterable[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    """The parts end to end; above LARGE bytes mapped from a temporary file, which goes with the array."""
    kept: list[NDArray[Any]] = []
    size = 0
    iterator = iter(parts)
    for part in iterator:
        kept.append(part.astype(dtype))
        size += kept[-1].nbytes
        if size > LARGE:
            break
    else:
        return np.concatenate([np.empty(0, dtype), *kept])
    with tempfile.TemporaryFile(prefix="handful-tokens-") as stream:
        for part in kept:
            stream.write(part.data)
        del kept
        for part in iterator:
            stream.write(part.astype(dtype).data)
        stream.flush()
        return np.memmap(stream, dtype, mode="r")
