"""A store: plain columns on disk, memory-mapped, read by one vectorised gather."""

import json
import os
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.base.errors import HandfulError
from handful.base.machine import memory_budget, memory_left
from handful.data.base import Ragged, Rows, Source, Value
from handful.data.gather import gather, gather_ragged
from handful.data.media.images import Encoded, Form
from handful.data.store import manifest as m
from handful.data.store.manifest import Manifest, Part, file_name
from handful.data.store.readahead import Sweep, random_access, will_need
from handful.data.store.write import m_dtype

CHECKED_AT_OPEN = 32 << 20  # stores up to this many bytes are verified whenever they are opened: it takes 50 ms
_CHEAP = 256 << 20
_ROOM = 0.7  # of the memory that is left: a store up to that is kept by the page cache once it was read
_Array = NDArray[Any]


def is_store(path: Path) -> bool:
    """Whether the folder is a store, whole or damaged."""
    return (path / m.FILE).is_file() or (path / "00000").is_dir()


class Store(Source):
    """The rows of a store. Nothing is read before it is asked for, and files are mapped, not loaded.

    Values are gathered into memory of their own. Images kept as bytes are decoded on all cores when read.
    Threads may share a Store; it may be pickled (by its path).
    """

    def __init__(self, where: str, manifest: Manifest, mapped: Callable[[str, str], _Array]) -> None:
        """mapped: (file name, dtype) -> the file as a flat array."""
        self.name = self.where = where
        self.manifest, self.columns, self.target = manifest, dict(manifest.columns), manifest.target
        self.notes = list(manifest.notes)
        self._starts = np.cumsum([0, *(s.rows for s in manifest.shards)])
        self._parts = [_reader(part, i, manifest, self._starts, mapped, where) for i, part in enumerate(manifest.parts)]
        self._of = {name: reader for reader in self._parts for name in reader.part.columns}
        decoded = any(part.layout == "image" for part in manifest.parts)
        self._large = manifest.bytes > memory_budget()
        self.in_memory = not decoded and not self._large
        self._asked: deque[Rows] = deque(maxlen=3)
        self._sweep: Sweep | None = None
        mapped_values = [values for reader in self._parts for values in reader.values]
        if self._large and manifest.bytes < _ROOM * memory_left():
            self._sweep = Sweep([Path(where) / name for s in manifest.shards for name in s.files])
        elif self._large:  # rows are asked for by will_need: reading around each would push others out of memory
            for values in mapped_values:
                random_access(values)

    def __len__(self) -> int:
        return self.manifest.rows

    def read(self, rows: Rows) -> dict[str, Value]:
        if self._large and not self._coming(rows):
            self._ask(np.unique(rows))
        found: dict[str, Value] = {}
        for reader in self._parts:
            value = reader.read(rows)
            if reader.part.block:
                found.update(zip(reader.part.columns, cast(Tensor, value).unbind(1)))
            else:
                found[reader.part.columns[0]] = value
        return {name: found[name] for name in self.columns}

    def read_column(self, name: str, rows: Rows) -> Value:
        reader = self._of[name]
        value = reader.read(rows)
        return cast(Tensor, value)[:, reader.part.columns.index(name)] if reader.part.block else value

    def cheap(self, name: str) -> bool:
        part = self._of[name].part
        return part.layout == "fixed" and len(self) * part.width <= _CHEAP

    def will_need(self, rows: Rows) -> int:
        """Ask the system to read `rows` ahead, sorted and joined into runs. Returns the bytes asked for.

        Where the page cache has room for the whole store, all of it is read besides, in storage order.
        """
        ids = np.unique(rows)
        if self._sweep is not None:
            self._sweep.start()
            if self._sweep.done:
                return 0
        self._asked.append(ids)
        return self._ask(ids)

    def _ask(self, ids: Rows) -> int:
        return sum(reader.will_need(ids) for reader in self._parts)

    def _coming(self, rows: Rows) -> bool:
        """Whether the system was asked for these rows before: each time costs 8 us a row, there or not."""
        if self._sweep is not None and self._sweep.done:
            return True
        return any(_among(rows, ids) for ids in list(self._asked))

    def reads(self, rows: Rows) -> float:
        """Bytes that the system reads for `rows`, in whole pages, over those that are used."""
        ids = np.unique(rows)
        used = sum(reader.used(ids) for reader in self._parts)
        return self._ask(ids) / max(1, used)

    def column_bytes(self) -> dict[str, float]:
        """Bytes on disk of each column, offsets included; of columns that lie side by side, each its share."""
        found: dict[str, float] = {}
        for i, part in enumerate(self.manifest.parts):
            names = [file_name(s, i, what) for s in range(len(self.manifest.shards)) for what in part.files]
            size = sum(self.manifest.shards[int(name[:5])].files[name][0] for name in names)
            found.update({name: size / len(part.columns) for name in part.columns})
        return found

    @property
    def row_bytes(self) -> float:
        """Bytes on disk of a row, on average."""
        return self.manifest.bytes / self.manifest.rows

    def __reduce__(self) -> tuple[Any, ...]:
        return open_store, (self.where, self.target)


def _among(rows: Rows, ids: Rows) -> bool:
    """Whether all `rows` are in the sorted `ids`."""
    places = np.minimum(np.searchsorted(ids, rows), len(ids) - 1)
    return len(ids) > 0 and bool((ids[places] == rows).all())


class _Reader:
    """One part, over all shards."""

    def __init__(self, part: Part, starts: NDArray[np.int64]) -> None:
        self.part, self.starts = part, starts
        self.values: list[_Array] = []
        self.offsets: list[_Array] = []

    def read(self, rows: Rows) -> Value:
        if len(self.values) == 1:
            return self._read(0, rows)
        which = np.searchsorted(self.starts, rows, side="right") - 1
        shards = np.unique(which).tolist() or [0]
        if len(shards) == 1:
            return self._read(shards[0], rows - self.starts[shards[0]])
        places = [np.flatnonzero(which == s) for s in shards]
        pieces = [self._read(s, rows[at] - self.starts[s]) for s, at in zip(shards, places)]
        return _merge(pieces, places)

    def _read(self, shard: int, rows: Rows) -> Value:
        p = self.part
        if p.layout == "fixed":
            value = gather(self.values[shard], rows)
            return value.view(torch.bfloat16) if p.dtype == "bfloat16" else value
        if p.layout == "ragged":
            return gather_ragged(self.values[shard], self.offsets[shard], rows)
        if p.layout == "text":
            packed = gather_ragged(self.values[shard], self.offsets[shard], rows)
            data, ends = packed.values.numpy().tobytes(), packed.offsets.tolist()
            return [data[a:b].decode("utf-8", "surrogatepass") for a, b in pairwise(ends)]
        channels, height, width = p.shape
        items = _Items(p.columns[0], self.values[shard], self.offsets[shard], int(self.starts[shard]))
        return Encoded(items, Form(channels, height, width, fit=p.fit)).read(rows)

    def used(self, ids: Rows) -> int:
        if self.part.layout == "fixed":
            return len(ids) * self.part.width
        which = np.searchsorted(self.starts, ids, side="right") - 1
        total = 8 * len(ids)
        for s, offsets in enumerate(self.offsets):
            inside = ids[which == s] - self.starts[s]
            total += int((offsets[inside + 1] - offsets[inside]).sum()) * self.part.width
        return total

    def will_need(self, ids: Rows) -> int:
        total = 0
        for s, values in enumerate(self.values):
            first, last = np.searchsorted(ids, self.starts[s : s + 2])
            inside = ids[first:last] - self.starts[s]
            if not len(inside):
                continue
            if self.part.layout == "fixed":
                starts, stops = inside, inside + 1
            else:
                total += will_need(self.offsets[s], inside, inside + 2)
                starts, stops = self.offsets[s][inside], self.offsets[s][inside + 1]
            total += will_need(values, starts, stops)
        return total


def _merge(pieces: Sequence[Value], places: Sequence[Rows]) -> Value:
    """Rows of several shards back in the order asked for."""
    first = pieces[0]
    if isinstance(first, Tensor):
        out = first.new_empty((sum(map(len, places)), *first.shape[1:]))
        for piece, at in zip(pieces, places):
            out[torch.from_numpy(at)] = cast(Tensor, piece)
        return out
    back = np.argsort(np.concatenate(places))
    if isinstance(first, Ragged):
        ragged = cast(list[Ragged], pieces)
        values = torch.cat([p.values for p in ragged])
        lengths = torch.cat([p.offsets.diff() for p in ragged]).numpy()
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        data = values.view(torch.int16) if values.dtype == torch.bfloat16 else values
        found = gather_ragged(data.numpy(), offsets, back)
        return Ragged(found.values.view(values.dtype), found.offsets)
    texts = [text for piece in pieces for text in cast(list[str], piece)]
    return [texts[i] for i in back]


class _Items:
    """Encoded images of one shard."""

    def __init__(self, key: str, values: _Array, offsets: _Array, first: int) -> None:
        self.key, self._values, self._offsets, self._first = key, values, offsets, first
        self.small = len(values) < 4096 * (len(offsets) - 1)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, i: int) -> bytes:
        return self._values[self._offsets[i] : self._offsets[i + 1]].tobytes()

    def describe(self, i: int) -> str:
        return f"'{self.key}' in row {self._first + i} of the store"


def _reader(
    part: Part, number: int, manifest: Manifest, starts: NDArray[np.int64], mapped: Callable[[str, str], _Array], w: str
) -> _Reader:
    reader = _Reader(part, starts)
    dtype = m_dtype(part.dtype)
    shape = (len(part.columns),) if part.block else () if part.layout in ("text", "image") else part.shape
    for s in range(len(manifest.shards)):
        name = file_name(s, number, "values")
        flat = mapped(name, dtype)
        count = manifest.shards[s].rows if part.layout == "fixed" else len(flat) // max(1, int(np.prod(shape)))
        reader.values.append(flat.reshape(count, *shape))
        if part.layout != "fixed":
            offsets = mapped(file_name(s, number, "offsets"), "int64")
            if offsets[0] != 0 or offsets[-1] != count:
                raise HandfulError(
                    f"{w}: {file_name(s, number, 'offsets')} is damaged: it does not end where "
                    f"'{part.columns[0]}' does; write the store again."
                )
            reader.offsets.append(offsets)
    return reader


def open_store(where: "str | os.PathLike[str]", target: str | None = None) -> Store:
    """Open what `handful.prepare` wrote.

    Sizes of all files are checked, and the digests of all bytes if there are few. Raises HandfulError, naming
    the file, when one is missing, cut short or damaged, and when the manifest is.
    """
    folder = Path(where)
    manifest = read_manifest(folder)
    _check_sizes(folder, manifest)
    if manifest.bytes <= CHECKED_AT_OPEN:
        for problem in _damage(folder, manifest):
            raise HandfulError(problem)

    def mapped(name: str, dtype: str) -> _Array:
        path = folder / name
        if path.stat().st_size == 0:
            return np.empty(0, dtype)
        # read-only and shared, so that a bound on this process's own memory does not count it
        return np.memmap(path, dtype, mode="r")

    store = Store(str(folder), manifest, mapped)
    if target is not None:
        store.target = target
    return store


def read_manifest(folder: Path) -> Manifest:
    path = folder / m.FILE
    if not path.is_file():
        raise HandfulError(f"{folder} has no {m.FILE}, so it is no store: write it with handful.prepare.")
    return m.parse(path.read_bytes(), str(path))


def _check_sizes(folder: Path, manifest: Manifest) -> None:
    for number, shard in enumerate(manifest.shards):
        for name, (size, _) in shard.files.items():
            path = folder / name
            if not path.is_file():
                what = f"shard {number} is missing" if not path.parent.is_dir() else f"{name} is missing"
                raise HandfulError(f"{folder}: {what}: copy it again, or write the store again.")
            if path.stat().st_size != size:
                raise HandfulError(
                    f"{folder}: {name} has {path.stat().st_size:,} bytes instead of {size:,}: it was "
                    f"{'cut short' if path.stat().st_size < size else 'changed'}; copy it again, or write the store "
                    "again."
                )


def verify(where: "str | os.PathLike[str]") -> list[str]:
    """Read every byte of a store and compare it with its digest: a sentence for each damaged block, or [].

    A missing or cut file, or a manifest that cannot be used, is such a sentence too.
    """
    folder = Path(where)
    try:
        manifest = read_manifest(folder)
        _check_sizes(folder, manifest)
    except HandfulError as error:
        return [str(error)]
    return list(_damage(folder, manifest))


def _damage(folder: Path, manifest: Manifest) -> list[str]:
    found = []
    for shard in manifest.shards:
        for name, (_, digests) in shard.files.items():
            with open(folder / name, "rb", buffering=0) as stream:
                for i, said in enumerate(digests):
                    if m.digest(stream.read(manifest.block)) != said:
                        found.append(
                            f"{folder}: {name} is damaged between bytes {i * manifest.block:,} and "
                            f"{(i + 1) * manifest.block:,}: copy it again, or write the store again."
                        )
    return found


def provenance(where: "str | os.PathLike[str]") -> str:
    """What a store was made from, as JSON."""
    return json.dumps(read_manifest(Path(where)).provenance, indent=1)
