"""A store: plain columns on disk, memory-mapped, read by one vectorised gather."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.base.errors import HandfulError
from handful.base.files import a_file
from handful.base.machine import memory_budget, memory_left
from handful.data.base import Ragged, Rows, Source, Value
from handful.data.gather import Array, gather, gather_ragged, offsets_of
from handful.data.media.images import Encoded, Form
from handful.data.media.items import Items
from handful.data.store import manifest as m
from handful.data.store.manifest import Manifest, Part, file_name
from handful.data.store.readahead import FilePrefetcher, distinct, random_access, will_need

CHECKED_AT_OPEN = 32 << 20  # stores up to this many bytes are verified whenever they are opened: it takes 50 ms
_ROOM = 0.7  # of the memory that is left: a store up to that is kept by the page cache once it was read
Mapped = Callable[[str, np.dtype[np.generic]], Array]  # (file name, dtype) -> the file as a flat array


def is_store(path: Path) -> bool:
    """Whether the folder is a store, whole or damaged."""
    return (path / m.FILE).is_file() or (path / "00000").is_dir()


class StoreRows(Source):
    """What a store is wherever it lies: the rows that its manifest describes."""

    most_cheap = 256 << 20  # bytes of a column that a split may look at

    def __init__(self, where: str, manifest: Manifest) -> None:
        self.name = self.where = where
        self.manifest, self.columns, self.target = manifest, dict(manifest.columns), manifest.target
        self.notes, self._starts = list(manifest.notes), manifest.starts

    def __len__(self) -> int:
        return self.manifest.rows

    def cheap(self, name: str) -> bool:
        part = next(part for part in self.manifest.parts if name in part.columns)
        return part.layout == "fixed" and len(self) * part.width <= self.most_cheap


class Store(StoreRows):
    """The rows of a store. Nothing is read before it is asked for, and files are mapped, not loaded.

    Values are gathered into memory of their own. Images kept as bytes are decoded on all cores when read.
    Threads may share a Store; it may be pickled (by its path).
    """

    def __init__(self, where: str, manifest: Manifest, mapped: Mapped) -> None:
        super().__init__(where, manifest)
        self._parts = [_part_reader(manifest, i, mapped, where) for i in range(len(manifest.parts))]
        self._of = {name: reader for reader in self._parts for name in reader.part.columns}
        decoded = any(part.layout == "image" for part in manifest.parts)
        self._large = manifest.bytes > memory_budget()
        self.in_memory = not decoded and not self._large
        self._asked: deque[Rows] = deque(maxlen=3)
        fits = not self._large or manifest.bytes < _ROOM * memory_left()
        self._sweep = FilePrefetcher([Path(where) / name for name, _, _ in manifest.files()]) if fits else None
        if not fits:  # rows are asked for by will_need: reading around each would push others out of memory
            for reader in self._parts:
                for values in reader.values:
                    random_access(values)

    def read(self, rows: Rows) -> dict[str, Value]:
        if self._sweep.active if self._sweep is not None else not self._coming(rows):
            self._ask(distinct(rows))
        found: dict[str, Value] = {}
        for reader in self._parts:
            found.update(reader.columns(rows))
        return {name: found[name] for name in self.columns}

    def read_column(self, name: str, rows: Rows) -> Value:
        return self._of[name].columns(rows)[name]

    def prefetcher(self) -> Callable[[Rows], int] | None:
        """Where the page cache has room for the whole store, all of it is read from now on, once, in storage order, and
        nothing need be asked for: `read` does so itself for what it cannot wait for."""
        if self._sweep is None:
            return self.will_need
        self._sweep.start()
        return None

    def will_need(self, rows: Rows) -> int:
        """Ask the system to read `rows` ahead, sorted and joined into runs. Returns the bytes asked for."""
        ids = distinct(rows)
        self._asked.append(ids)
        return self._ask(ids)

    def _ask(self, ids: Rows) -> int:
        return sum(reader.will_need(ids) for reader in self._parts)

    def _coming(self, rows: Rows) -> bool:
        """Whether the system was asked for these rows before: each time costs 8 us per row, there or not."""
        return any(_among(rows, ids) for ids in list(self._asked))

    def reads(self, rows: Rows) -> float:
        """Bytes that the system reads for `rows`, in whole pages, over those that are used."""
        ids = distinct(rows)
        used = sum(reader.used(ids) for reader in self._parts)
        return self._ask(ids) / max(1, used)

    def column_bytes(self) -> dict[str, float]:
        """Bytes on disk of each column, offsets included; of columns that lie side by side, each its share."""
        found = dict.fromkeys(self.columns, 0.0)
        for number, shard in enumerate(self.manifest.shards):
            for i, part in enumerate(self.manifest.parts):
                size = sum(shard.files[file_name(number, i, what)][0] for what in part.files)
                for name in part.columns:
                    found[name] += size / len(part.columns)
        return found

    def __reduce__(self) -> tuple[Callable[..., "Store"], tuple[str | None, str | None]]:
        return open_store, (self.where, self.target)


def _among(rows: Rows, ids: Rows) -> bool:
    """Whether all `rows` are in the sorted `ids`."""
    places = np.minimum(np.searchsorted(ids, rows), len(ids) - 1)
    return len(ids) > 0 and bool((ids[places] == rows).all())


@dataclass(eq=False)
class PartReader:
    """One part, over all shards: its values and, unless rows are of fixed size, their offsets, both mapped."""

    part: Part
    starts: Rows
    values: list[Array]
    offsets: list[NDArray[np.int64]]

    def _of_shard(self, shard: int, rows: Rows) -> Value:
        """Rows of one shard, counted from its first."""
        part, values = self.part, self.values[shard]
        if part.layout == "fixed":
            return _typed(gather(values, rows), part)
        if part.layout == "image":
            channels, height, width = part.shape
            form = Form(channels, height, width, fit=part.fit, dtype=part.dtype)
            return Encoded(StoredItems(self, shard), form).read(rows)
        packed = gather_ragged(values, self.offsets[shard], rows)
        if part.layout == "ragged":
            return Ragged(_typed(packed.values, part), packed.offsets)
        data = packed.values.numpy().tobytes()
        return [data[a:b].decode("utf-8", "surrogatepass") for a, b in pairwise(packed.offsets.tolist())]

    def read(self, rows: Rows) -> Value:
        """Rows, of all its columns."""
        if len(self.values) == 1:
            return self._of_shard(0, rows)
        which = np.searchsorted(self.starts, rows, side="right") - 1
        shards = np.unique(which).tolist() or [0]
        if len(shards) == 1:
            return self._of_shard(shards[0], rows - self.starts[shards[0]])
        places = [np.flatnonzero(which == s) for s in shards]
        return _merged([self._of_shard(s, rows[at] - self.starts[s]) for s, at in zip(shards, places)], places)

    def columns(self, rows: Rows) -> dict[str, Value]:
        """The same by column."""
        match self.read(rows):
            case Tensor() as block if self.part.block:
                return dict(zip(self.part.columns, block.unbind(1)))
            case value:
                return {self.part.columns[0]: value}

    def used(self, ids: Rows) -> int:
        """Bytes of these sorted rows."""
        if not self.offsets:
            return len(ids) * self.part.width
        ends = ((self.offsets[s][rows], self.offsets[s][rows + 1]) for s, rows in self._by_shard(ids))
        return 8 * len(ids) + self.part.width * sum(int((stops - starts).sum()) for starts, stops in ends)

    def _by_shard(self, ids: Rows) -> Iterator[tuple[int, Rows]]:
        """(shard, rows counted from its first) of sorted rows."""
        cuts = np.searchsorted(ids, self.starts)
        for s, (first, last) in enumerate(pairwise(cuts.tolist())):
            if last > first:
                yield s, ids[first:last] - self.starts[s]

    def will_need(self, ids: Rows) -> int:
        """Ask the system to read these sorted rows ahead. Returns the bytes asked for."""
        total = 0
        for s, rows in self._by_shard(ids):
            starts, stops = rows, rows + 1
            if self.offsets:
                total += will_need(self.offsets[s], rows, rows + 2)
                starts, stops = self.offsets[s][rows], self.offsets[s][rows + 1]
            total += will_need(self.values[s], starts, stops)
        return total


class StoredItems(Items):
    """Encoded images of one shard."""

    def __init__(self, reader: PartReader, shard: int) -> None:
        self._values, self._offsets = reader.values[shard], reader.offsets[shard]
        self._first, count = int(reader.starts[shard]), len(self._offsets) - 1
        super().__init__(reader.part.columns[0], count, [len(self._values) / max(1, count)])

    def __getitem__(self, i: int) -> bytes:
        return self._values[self._offsets[i] : self._offsets[i + 1]].tobytes()

    def describe(self, i: int) -> str:
        return f"'{self.key}' in row {self._first + i} of the store"


def _merged(pieces: Sequence[Value], places: Sequence[Rows]) -> Value:
    """Rows of several shards; row i of a piece is row places[i] of the whole."""
    order = np.concatenate(places)
    match pieces[0]:
        case Tensor() as first:
            out = first.new_empty((len(order), *first.shape[1:]))
            for piece, at in zip(pieces, places):
                out[torch.from_numpy(at)] = piece  # type: ignore[assignment]
            return out
        case Ragged():
            rows = [piece for piece in pieces if isinstance(piece, Ragged)]
            lengths = np.concatenate([np.diff(piece.offsets.numpy()) for piece in rows])
            return gather_ragged(torch.cat([piece.values for piece in rows]), offsets_of(lengths), np.argsort(order))
    texts = [text for piece in pieces for text in piece if isinstance(text, str)]
    return [texts[i] for i in np.argsort(order).tolist()]


def _typed(values: Tensor, part: Part) -> Tensor:
    return values.view(torch.bfloat16) if part.dtype == "bfloat16" else values


def _part_reader(manifest: Manifest, number: int, mapped: Mapped, where: str) -> PartReader:
    part, values, offsets = manifest.parts[number], [], []
    for s, shard in enumerate(manifest.shards):
        flat = mapped(file_name(s, number, "values"), part.storage)
        count = shard.rows if part.layout == "fixed" else len(flat) // max(1, prod(part.value_shape))
        values.append(flat.reshape(count, *part.value_shape))
        if part.layout != "fixed":
            name = file_name(s, number, "offsets")
            ends = mapped(name, np.dtype(np.int64)).view(np.int64)
            if ends[0] != 0 or ends[-1] != count:
                due = f"it does not end where '{part.columns[0]}' does"
                raise HandfulError(f"{where}: {name} is damaged ({due}): write the store again")
            offsets.append(ends)
    return PartReader(part, manifest.starts, values, offsets)


def open_store(where: "str | os.PathLike[str]", target: str | None = None) -> Store:
    """Open what `handful.prepare` wrote.

    Sizes of all files are checked, and the digests of all bytes if there are few. Raises HandfulError, naming
    the file, when one is missing, cut short or damaged, and when the manifest is.
    """
    folder = Path(where)
    manifest = _checked_manifest(folder)
    if manifest.bytes <= CHECKED_AT_OPEN:
        for problem in _damage(folder, manifest):
            raise HandfulError(problem)

    def mapped(name: str, dtype: np.dtype[np.generic]) -> Array:
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
    """Of the store in this folder. Raises HandfulError when it is not a store."""
    path = folder / m.FILE
    if not path.is_file():
        raise HandfulError(f"{folder} has no {m.FILE}, so it is not a store: write it with handful.prepare")
    return m.parse(path.read_bytes(), str(path))


def _checked_manifest(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    m.check_sizes(str(folder), manifest, lambda name: a_file(folder / name).stat().st_size)
    return manifest


def verify(where: "str | os.PathLike[str]") -> list[str]:
    """Read every byte of a store and compare it with its digest: a sentence for each damaged block, or [].

    A missing or cut file, or a manifest that cannot be used, is such a sentence too.
    """
    try:
        return list(_damage(Path(where), _checked_manifest(Path(where))))
    except HandfulError as error:
        return [str(error)]


def _damage(folder: Path, manifest: Manifest) -> Iterator[str]:
    for name, _, digests in manifest.files():
        with open(folder / name, "rb", buffering=0) as stream:
            for i, digest in enumerate(digests):
                if m.digest(stream.read(manifest.block)) != digest:
                    where = f"between bytes {i * manifest.block:,} and {(i + 1) * manifest.block:,}"
                    yield f"{folder}: {name} is damaged {where}: copy it again, or write the store again"
