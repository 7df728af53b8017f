"""Encoded images, sounds and texts, wherever they lie: one item per row, read as bytes, named for messages."""

import os
import re
import stat
import threading
import time
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from handful.base.machine import cores, in_order
from handful.data.media.bad_rows import Bad, BadItem, BadRows
from handful.data.options import Options

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
SOUNDS = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff"}
TEXTS = {".txt"}
# Below this mean size decoding is mostly Python, and a second thread may only fight for the interpreter lock:
# 32x32 JPEGs of 0.3 KB took 172 us each on one thread and 182 us on two (2 cores, Pillow 13).
SMALL = 4096
_TRIED, _WORTH_TRYING, _FASTER = 256, 4096, 0.8  # items of a trial, and of all; share of the time that is worth threads
LARGEST = 1 << 30  # bytes that one picture or sound of an archive may have, unpacked
_CHUNK = 64
T = TypeVar("T")


class Items(ABC):
    """Encoded rows. key: the column's name; small: whether one thread decodes them fastest."""

    def __init__(self, key: str, count: int, sizes: Sequence[float] | NDArray[np.int64]) -> None:
        """sizes: the bytes of some of them."""
        self.key, self._count, self.small = key, count, float(np.mean(sizes)) < SMALL

    def __len__(self) -> int:
        return self._count

    @abstractmethod
    def __getitem__(self, i: int) -> bytes | memoryview:
        """The bytes of a row. Raises BadItem where they cannot be read."""

    @abstractmethod
    def describe(self, i: int) -> str:
        """Where it is, for messages."""


class BinaryItems(Items):
    """The rows of a binary Arrow column, sliced from its buffers without a copy."""

    def __init__(self, key: str, column: pa.ChunkedArray, o: Options) -> None:
        self._name, self._rows = o.name, o.rows
        if column.null_count:
            said = f"{o.name}: column '{key}' has no bytes in row %d: fill or remove such rows"
            lacking = np.flatnonzero(pc.is_null(column).to_numpy()).tolist()
            named = [(row, row if o.rows is None else int(o.rows[row])) for row in lacking]
            raise BadRows([Bad(row, "empty cell", f"row {n}", said % n) for row, n in named])
        self._data: list[memoryview] = []
        chunk, starts, stops = [], [], []
        for part in column.chunks:
            part = part.cast(pa.large_binary())
            if not len(part):
                continue
            _, offsets, data = part.buffers()
            ends = np.frombuffer(offsets, np.int64)[part.offset : part.offset + len(part) + 1]
            chunk.append(np.full(len(part), len(self._data)))
            starts.append(ends[:-1])
            stops.append(ends[1:])
            self._data.append(memoryview(data if data is not None else b""))
        found = [np.concatenate(a) for a in (chunk, starts, stops)]
        self._chunk, self._start, self._stop = (a.data for a in found)  # one of which is had sooner than an array's
        super().__init__(key, len(found[0]), found[2] - found[1])

    def __getitem__(self, i: int) -> memoryview:
        data: memoryview = self._data[self._chunk[i]][self._start[i] : self._stop[i]]
        return data

    def describe(self, i: int) -> str:
        return f"{self._name}: '{self.key}' in row {i if self._rows is None else self._rows[i]}"


class FileItems(Items):
    """One file per row."""

    def __init__(self, key: str, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        super().__init__(key, len(paths), [found.st_size for found in map(_stat, self.paths[:1000]) if found] or [0])

    def __getitem__(self, i: int) -> bytes:
        path = self.paths[i]
        found = _stat(path)
        if found is not None and not stat.S_ISREG(found.st_mode):  # a pipe would be waited for, a device has no end
            raise BadItem("special file", str(path), "is a pipe, a device or the like, not a file: remove it")
        try:
            return path.read_bytes()
        except OSError as error:
            why = "it is a link to what is not there" if path.is_symlink() and found is None else error.strerror
            kind = "missing file" if found is None else "unreadable file"
            raise BadItem(kind, str(path), f"cannot be read: {why}") from error

    def describe(self, i: int) -> str:
        return str(self.paths[i])


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


class ZipItems(Items):
    """One member of a zip file per row, read in place."""

    def __init__(self, key: str, path: Path, members: Sequence[zipfile.ZipInfo]) -> None:
        super().__init__(key, len(members), [m.file_size for m in members[:1000]])
        self.path, self.members = path, list(members)
        self._lock = threading.Lock()
        self._zip: zipfile.ZipFile | None = None
        self._owner = 0

    def __getitem__(self, i: int) -> bytes:
        size = self.members[i].file_size
        if size > LARGEST:
            raise BadItem("large member", self.describe(i), f"unpacks to {size:,} bytes: unpack it yourself")
        try:
            with self._lock:
                if self._zip is None or self._owner != os.getpid():  # a forked process needs a file of its own
                    self._zip, self._owner = zipfile.ZipFile(self.path), os.getpid()
                return self._zip.read(self.members[i])
        except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, EOFError, ValueError) as error:
            raise BadItem("damaged member", self.describe(i), f"cannot be read: {error}") from error

    def describe(self, i: int) -> str:
        return f"{self.path}: {self.members[i].filename}"

    def __del__(self) -> None:
        if self._zip is not None and self._owner == os.getpid():
            self._zip.close()

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_zip")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock, self._zip = threading.Lock(), None


def points_outside(name: str) -> bool:
    """Whether an entry of an archive would be unpacked outside the folder that it is unpacked to."""
    parts = name.replace("\\", "/").split("/")
    return parts[0] == "" or ":" in parts[0] or ".." in parts


def kind_of(data: bytes | memoryview) -> Literal["image", "audio"] | None:
    """The kind of a file, by its first bytes.

    >>> kind_of(b"\\xff\\xd8\\xff\\xe0"), kind_of(b"fLaC"), kind_of(b"hello")
    ('image', 'audio', None)
    """
    head = bytes(data[:16])
    if head[:4] in (b"RIFF", b"RIFX", b"RF64"):
        return "image" if head[8:12] == b"WEBP" else "audio" if head[8:12] == b"WAVE" else None
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")):
        return "image"
    if re.match(rb"P[1-6]\s+[\d#]", head):  # PBM, PGM, PPM
        return "image"
    if head.startswith((b"fLaC", b"OggS", b"ID3")) or (head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC")):
        return "audio"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2:  # a frame of MPEG layer III
        return "audio"
    return None


def in_parallel(work: Callable[[int], T], count: int, small: bool) -> list[T]:
    """[work(0), ..., work(count - 1)], on all cores; where the items are small, on one or on all, whichever is faster
    on the first few hundred. Raises BadRows where items cannot be read, all of them; of other errors the first."""
    workers = min(cores(), max(1, count // 4))
    step = min(_CHUNK, 1 << max(1, count // (4 * workers)).bit_length() - 1)  # a power of two: it divides a trial
    bad: list[Bad] = []

    def some(first: int) -> list[T]:
        found = []
        for i in range(first, min(first + step, count)):
            try:
                found.append(work(i))
            except BadItem as error:
                bad.append(error.at(i))
        return found

    def done(starts: range, workers: int) -> Iterator[T]:
        ahead = 0 if workers == 1 else workers
        return chain.from_iterable(in_order(some, starts, ahead, len(starts), name="handful-decode"))

    found: list[T] = []
    if small:
        seconds: dict[int, float] = {}
        tried = _TRIED if workers > 1 and count >= _WORTH_TRYING else 0
        for turn in range(0, 4 * tried, _TRIED):  # the first of each warms up
            now, before = (workers, 1)[turn // _TRIED % 2], time.perf_counter()
            found += done(range(turn, turn + _TRIED, step), now)
            seconds[now] = time.perf_counter() - before
        workers = workers if seconds.get(workers, 1.0) < _FASTER * seconds.get(1, 0.0) else 1
    found += done(range(len(found) + len(bad), count, step), workers)
    if bad:
        raise BadRows(bad)
    return found
