"""Large arrays in memory, once for all ranks of a machine."""

import json
import mmap
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from handful.base.machine import give_back
from handful.batches.batches import Batches
from handful.data.arrays import Arrays
from handful.data.base import Source, View
from handful.data.gather import Array
from handful.report.words import say_bytes
from handful.training.process.messages import Messages
from handful.transform.language import LanguageSource

LARGE, WORTH = 1 << 20, 64 << 20  # bytes of an array, and of all of them, from which on they are shared
PIECE = 16 << 20  # bytes that are compared at once
MACHINE = Path("/proc/sys/kernel/random/boot_id")


def one_copy(messages: Messages, source: Source, batches: Iterable[Batches | None]) -> list[str]:
    """Have the ranks of one machine hold the large arrays of data that were read, and what is made of them, once. The
    first of them copies its own into memory that has no name, the others map it, and each lets go of what is equal
    there. That memory is freed with the last process, however it ends. Nothing is done where a system has no such
    memory, or too little of it, nor for arrays of the caller's own: a sentence on these is returned.
    """
    if not hasattr(os, "memfd_create"):
        return []
    given, bytes_given = _below(source), 0
    below = [given, *(_below(b.source) for b in batches if b)]
    if source.where is None:
        bytes_given, below = sum(array.nbytes for array in _large([given])), [b for b in below if b is not given]
    own = _large(below)
    host = f"{MACHINE.read_text()} {os.readlink('/proc/self/ns/pid')}" if MACHINE.exists() else str(messages.rank)
    mine = json.dumps([host, *((array.dtype.str, array.shape) for array in own)])
    alike = [rank for rank, theirs in enumerate(messages.gather(mine)) if theirs == mine]
    worth = len(alike) > 1 and sum(array.nbytes for array in own) >= WORTH
    file = _filled(own) if worth and messages.rank == alike[0] else -1
    process, number = messages.gather(f"{os.getpid()} {file}")[alike[0]].split()
    there: Sequence[Array] = ()
    if number != "-1":
        with suppress(OSError):
            there = _mapped(f"/proc/{process}/fd/{number}", own)
    messages.gather("")  # all have opened it
    if file >= 0:
        os.close(file)
    new = {id(array): other if _equal(array, other) else array for array, other in zip(own, there, strict=False)}
    for kept in below:
        _put(kept, lambda array: new.get(id(array), array))
    own.clear()
    new.clear()
    give_back()
    if source.where is not None or bytes_given < WORTH or len(alike) < 2:
        return []
    return [f"each rank holds the arrays that it was given, {say_bytes(bytes_given)}: the ranks of a machine share one "
            "copy of a store (handful prepare), of a file, and of numpy.load(path, mmap_mode='r')"]  # fmt: skip


def _large(sources: Iterable[Source]) -> list[Array]:
    """The large arrays of some data in memory, each once."""
    arrays: dict[int, Array] = {}

    def see(array: Array) -> Array:
        if array.nbytes >= LARGE and type(array) is np.ndarray and array.flags.c_contiguous:
            arrays.setdefault(id(array), array)
        return array

    for source in sources:
        _put(source, see)
    return list(arrays.values())


def _below(source: Source) -> Source:
    while isinstance(source, View):
        source = source.base
    return source


def _put(source: Source, place: Callable[[Array], Array]) -> None:
    match source:
        case Arrays():
            source.put(place)
        case LanguageSource():
            source.tokens = place(source.tokens)


def _filled(arrays: Sequence[Array]) -> int:
    """The number of an open file in memory with these arrays, each at the beginning of a page; -1: there is none."""
    file = os.memfd_create("handful")
    try:
        for array in arrays:
            start = -(-os.lseek(file, 0, os.SEEK_END) // mmap.PAGESIZE) * mmap.PAGESIZE
            content, done = _bytes(array), 0
            while done < len(content):
                done += os.pwrite(file, content[done : done + PIECE].data, start + done)
        return file
    except OSError:
        os.close(file)
        return -1


def _mapped(path: str, arrays: Sequence[Array]) -> list[Array]:
    """What `_filled` has written there; written to, a page becomes the process's own."""
    with open(path, "rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    found, start = [], 0
    for array in arrays:
        found.append(np.frombuffer(memory, array.dtype, array.size, start).reshape(array.shape))
        start += -(-array.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    return found


def _equal(one: Array, other: Array) -> bool:
    starts = range(0, one.nbytes, PIECE)
    return all(np.array_equal(_bytes(one)[k : k + PIECE], _bytes(other)[k : k + PIECE]) for k in starts)


def _bytes(array: Array) -> NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)
