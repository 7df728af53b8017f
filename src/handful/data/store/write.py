"""Chunks of columns -> a store: streamed, in bounded memory, resumed after a kill, published in one rename."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from handful.base.errors import HandfulError
from handful.base.files import a_file, hold, write_text
from handful.base.machine import in_order
from handful.data.gather import Array
from handful.data.store import manifest as m
from handful.data.store.manifest import Manifest, Part, Shard, file_name

COMMIT = 64 << 20  # bytes after which what is written is flushed to the disk and noted: the most that a kill can cost
_JOURNAL = "journal.json"


class Piece(NamedTuple):
    """Some rows of one column: values [m, ...], or [total, ...] with the lengths int64 [m] of the rows."""

    values: Array
    lengths: NDArray[np.int64] | None = None


class Feed(Protocol):
    """Where rows come from. Chunks must be the same, in the same order, at every call.

    plan: what is to be written, all of it known before the first byte is, as yet without shards. Its provenance has the
    identity of the input and of all that decides the bytes; None when it cannot be known (then a write that was cut
    off starts again from the beginning).
    """

    plan: Manifest

    def raw(self, first: int) -> Iterator[Any]:
        """Chunk number `first` and all after it, read but not decoded: called by one thread."""

    def convert(self, raw: Any) -> dict[str, Piece]:
        """The columns of one chunk: called by many threads."""


class _File:
    """An append-only file whose blocks are digested as they go by."""

    def __init__(self, path: Path, size: int, digests: list[str]) -> None:
        self.path, self.size, self.digests = path, size, digests[: size // m.BLOCK]
        path.parent.mkdir(parents=True, exist_ok=True)
        self.stream: BinaryIO = open(path, "r+b" if size else "w+b")  # noqa: SIM115 - closed by close()
        self.stream.truncate(size)
        self.stream.seek(size - size % m.BLOCK)
        self._block = hashlib.blake2b(self.stream.read(size % m.BLOCK), digest_size=16)

    def write(self, data: Array) -> None:
        view = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        self.stream.write(view)
        while len(view):
            piece = view[: m.BLOCK - self.size % m.BLOCK]
            self._block.update(piece)
            self.size += len(piece)
            if self.size % m.BLOCK == 0:
                self.digests.append(self._block.hexdigest())
                self._block = hashlib.blake2b(digest_size=16)
            view = view[len(piece) :]

    def state(self) -> tuple[int, list[str]]:
        rest = [self._block.hexdigest()] if self.size % m.BLOCK else []
        return self.size, self.digests + rest

    def close(self) -> None:
        self.stream.close()


class Writer:
    """The half-written store: a hidden folder next to its final place, and a journal of what is safely in it."""

    def __init__(self, folder: Path, plan: Manifest, shards: int) -> None:
        self.folder, self.plan, self._identity = folder, plan, plan.provenance.get("identity")
        self.bounds = [plan.rows * s // shards for s in range(shards + 1)]
        self.chunks, self.row, self._pending = 0, 0, 0
        self._sizes: dict[str, tuple[int, list[str]]] = {}
        self._open: dict[str, _File] = {}
        self._restore()

    def _restore(self) -> None:
        """Go on from the journal if it belongs to the same input and nothing it promises is missing."""
        journal = self.folder / _JOURNAL
        try:
            state = json.loads(a_file(journal).read_text())
            whole = all((self.folder / n).stat().st_size >= size for n, (size, _) in state["files"].items())
        except (OSError, ValueError, KeyError):
            state, whole = {}, False
        if whole and self._identity is not None and state["identity"] == self._identity:
            self.chunks, self.row = state["chunks"], state["rows"]
            self._sizes = {n: (size, digests) for n, (size, digests) in state["files"].items()}
            return
        for left in self.folder.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            elif left.name == _JOURNAL:
                left.unlink()

    def add(self, pieces: dict[str, Piece]) -> None:
        """Append one chunk, split where a shard ends."""
        piece = next(iter(pieces.values()))
        count = len(piece.values if piece.lengths is None else piece.lengths)
        if self.row + count > self.plan.rows:
            raise HandfulError(f"{self.plan.name} gave more rows than the {self.plan.rows:,} it had: it was changed")
        done = 0
        while done < count:
            shard = int(np.searchsorted(self.bounds, self.row, side="right")) - 1
            stop = min(count, done + self.bounds[shard + 1] - self.row)
            for number, part in enumerate(self.plan.parts):
                self._add(shard, number, part, pieces, done, stop)
            self.row += stop - done
            done = stop
            if self.row == self.bounds[shard + 1]:
                self._flush()  # its files are complete: closed, so that few are open at a time
                self.close()
        self.chunks += 1
        if self._pending >= COMMIT:
            self.commit()

    def _add(self, shard: int, number: int, part: Part, pieces: dict[str, Piece], a: int, b: int) -> None:
        name, values, piece = part.columns[0], self._file(shard, number, "values"), pieces[part.columns[0]]
        if part.layout == "fixed":
            columns = [pieces[name].values[a:b] for name in part.columns]
            data = np.stack(columns, axis=1) if part.block else columns[0]
        else:
            assert piece.lengths is not None
            ends = np.cumsum(piece.lengths)
            start = int(ends[a - 1]) if a else 0
            data = piece.values[start : int(ends[b - 1])]
            offsets = self._file(shard, number, "offsets")
            if offsets.size == 0:
                offsets.write(np.zeros(1, np.int64))
            offsets.write(ends[a:b] - start + values.size // part.width)
        if data.dtype != part.storage or data.shape[1:] != part.value_shape:
            now, due = f"{data.dtype.name} {list(data.shape[1:])}", f"{part.dtype} {list(part.value_shape)}"
            where = f"'{name}' has rows of {now} from row {self.row:,} on"
            raise HandfulError(f"{self.plan.name}: {where}, but of {due} before: make them alike")
        values.write(data)
        self._pending += data.nbytes

    def _file(self, shard: int, number: int, what: str) -> _File:
        name = file_name(shard, number, what)
        if name not in self._open:
            self._open[name] = _File(self.folder / name, *self._sizes.get(name, (0, [])))
        return self._open[name]

    def _flush(self) -> None:
        for name, file in self._open.items():
            file.stream.flush()
            os.fsync(file.stream.fileno())
            self._sizes[name] = file.state()

    def commit(self) -> None:
        """Note what is safely on the disk; the journal itself is replaced in one rename."""
        self._flush()
        state = {"identity": self._identity, "chunks": self.chunks, "rows": self.row, "files": self._sizes}
        write_text(self.folder / _JOURNAL, json.dumps(state))
        self._pending = 0

    def close(self) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()

    def manifest(self) -> Manifest:
        """The description of the finished store."""
        if self.row != self.plan.rows:
            raise HandfulError(
                f"{self.plan.name} gave {self.row:,} of the {self.plan.rows:,} rows it had: it was changed"
            )
        shards = []
        for s, (start, stop) in enumerate(pairwise(self.bounds)):
            names = [file_name(s, i, what) for i, part in enumerate(self.plan.parts) for what in part.files]
            shards.append(Shard(stop - start, {n: self._sizes[n] for n in names}))
        return replace(self.plan, shards=shards, block=m.BLOCK)


def _sync_folder(path: Path) -> None:
    with contextlib.suppress(OSError):  # some systems cannot flush a folder
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def hidden(store: Path) -> Path:
    """The folder in which a store is written before it is published."""
    return store.with_name(f".{store.name}.unfinished")


def write_store(feed: Feed, store: Path, shards: int, workers: int) -> None:
    """Write `feed` to `store`, which must not exist; go on where an earlier call was cut off."""
    folder = hidden(store)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder, store):
        writer = Writer(folder, feed.plan, shards)
        try:
            raws, threads = feed.raw(writer.chunks), 0 if workers == 1 else workers
            for pieces in in_order(feed.convert, raws, threads, workers, name="handful-prepare"):
                writer.add(pieces)
            described = writer.manifest()
        finally:
            writer.close()
        write_text(folder / m.FILE, described.to_json())
        (folder / _JOURNAL).unlink(missing_ok=True)
        for shard in range(shards):
            _sync_folder(folder / f"{shard:05d}")
        (folder / "lock").unlink(missing_ok=True)
        _sync_folder(folder)
        os.rename(folder, store)
        _sync_folder(store.parent)


@contextlib.contextmanager
def _alone(folder: Path, store: Path) -> Iterator[None]:
    """Two processes that write one store would mix their bytes; the lock goes with the process that holds it."""
    with hold(folder / "lock"):
        if store.exists() or not folder.exists():  # the other one published it before our lock
            shutil.rmtree(folder, ignore_errors=True)
            raise HandfulError(f"{store} was just written by another process: open it")
        yield
