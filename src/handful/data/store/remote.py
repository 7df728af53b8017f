"""A store on a remote path, read by ranges into a bounded local cache."""

import os
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from handful.base.errors import HandfulError, whole
from handful.data.base import Rows, Value
from handful.data.gather import offsets_of
from handful.data.store import manifest as m
from handful.data.store.manifest import Manifest, Part, file_name
from handful.data.store.read import Store, StoreRows
from handful.data.store.readahead import distinct, runs

CACHE = 4 << 30  # bytes; the environment variable HANDFUL_CACHE sets another bound
PAGE = 256 << 10  # bytes fetched at a time: a request costs about as long as these take to arrive
Bytes = NDArray[np.uint8]
Span = tuple[str, int, int]  # (file, first byte, byte after the last)


class FileSystem(Protocol):
    """What of an fsspec file system is used."""

    def cat_ranges(self, paths: list[str], starts: list[int], ends: list[int], *, on_error: str) -> list[bytes]: ...


class Located(NamedTuple):
    """Where rows of one part of one shard lie: row i is the bytes starts[i]..stops[i]-1 of `file`."""

    part: int
    file: str
    starts: Rows
    stops: Rows

    def spans(self) -> list[Span]:
        first, last = runs(self.starts, self.stops)
        return [(self.file, a, b) for a, b in zip(first.tolist(), last.tolist()) if b > a]


class RemoteStore(StoreRows):
    """The rows of a store that lies elsewhere.

    The pages that a read needs and the cache lacks are fetched at once, in as many concurrent requests as the
    file system allows, and kept on this machine's disk; the least recently used ones give way. What was fetched is
    compared with the manifest's digests as soon as a block of it (16 MiB) is whole. Threads may share it.
    """

    in_memory = False
    most_cheap = 64 << 20

    def __init__(self, where: str, manifest: Manifest, fs: FileSystem, path: str, cache: int) -> None:
        super().__init__(where, manifest)
        self.pages = Pages(fs, path, manifest, cache)

    def read(self, rows: Rows) -> dict[str, Value]:
        return self._store(rows).read(_renumbered(rows))

    def read_column(self, name: str, rows: Rows) -> Value:
        return self._store(rows).read_column(name, _renumbered(rows))

    def prefetcher(self) -> Callable[[Rows], int]:
        return self.will_need

    def will_need(self, rows: Rows) -> int:
        """Fetch what `rows` need into the cache; returns the bytes fetched."""
        before = self.pages.fetched
        if len(rows):
            self._fetch(distinct(rows))
        return self.pages.fetched - before

    def check_window(self, rows: int) -> None:
        need = int(rows * self.manifest.bytes / self.manifest.rows)
        if need > self.pages.capacity:
            both = f"a shuffle window of {rows:,} rows needs {need:,} bytes, the cache has {self.pages.capacity:,}"
            raise HandfulError(f"{self.name}: {both}: set HANDFUL_CACHE to that many bytes, or take a smaller window")

    def _store(self, rows: Rows) -> Store:
        """A little store in memory that holds just these rows, sorted, each once."""
        ids = distinct(rows) if len(rows) else np.zeros(1, np.int64)
        files: dict[str, list[Bytes]] = {}
        lengths: dict[int, list[Rows]] = {}
        for found in self._fetch(ids):
            files.setdefault(file_name(0, found.part, "values"), []).extend(self.pages.gather(found))
            width = max(1, self.manifest.parts[found.part].width)
            lengths.setdefault(found.part, []).append((found.stops - found.starts) // width)
        held = {name: np.concatenate([np.empty(0, np.uint8), *pieces]) for name, pieces in files.items()}
        for part, sizes in lengths.items():
            held[file_name(0, part, "offsets")] = offsets_of(np.concatenate(sizes)).view(np.uint8)
        small = replace(self.manifest, rows=len(ids), shards=[m.Shard(len(ids), {})], notes=[])
        return Store(self.name, small, lambda name, dtype: held[name].view(dtype))

    def _fetch(self, ids: Rows) -> list[Located]:
        """Two rounds of requests: fixed columns and offsets, then what the offsets point to."""
        shards = np.searchsorted(self._starts, ids, side="right") - 1
        inside = [(s, ids[shards == s] - self._starts[s]) for s in np.unique(shards).tolist()]
        parts = list(enumerate(self.manifest.parts))
        first = [self._first(s, i, part, rows) for s, rows in inside for i, part in parts]
        self.pages.fetch([span for one in first for span in one.spans()])
        found = [one if self.manifest.parts[one.part].layout == "fixed" else self._pointed_to(one) for one in first]
        self.pages.fetch([span for one, other in zip(found, first) if one is not other for span in one.spans()])
        return found

    def _first(self, shard: int, i: int, part: Part, rows: Rows) -> Located:
        """Rows of fixed size, or the two offsets between which each row lies."""
        width, more = (part.width, 1) if part.layout == "fixed" else (8, 2)
        return Located(i, file_name(shard, i, part.files[-1]), rows * width, (rows + more) * width)

    def _pointed_to(self, offsets: Located) -> Located:
        ends = np.concatenate(self.pages.gather(offsets)).view(np.int64).reshape(-1, 2)
        starts, stops = (ends * self.manifest.parts[offsets.part].width).T
        return Located(offsets.part, offsets.file.replace("offsets", "values"), starts, stops)


def _renumbered(rows: Rows) -> Rows:
    return np.asarray(np.unique(rows, return_inverse=True)[1], dtype=np.int64).reshape(-1)


class Pages:
    """Pages of remote files, as many as fit, in a temporary file without a name: memory stays flat, nothing is left.

    Every block of the manifest is compared with its digest as soon as the last of its pages is here. (The caches of
    fsspec know no such digests; those on disk grow without bound, and those with a bound are in memory, per file.)
    """

    def __init__(self, fs: FileSystem, root: str, manifest: Manifest, cache: int) -> None:
        self._fs, self._root = fs, root.rstrip("/")
        self._files = {name: (size, digests) for name, size, digests in manifest.files()}
        self.capacity, self.fetched = cache, 0
        pages = sum(-(-size // PAGE) for size, _ in self._files.values())
        self._free = list(range(min(pages, cache // PAGE)))
        self._slots: OrderedDict[tuple[str, int], int] = OrderedDict()
        self._map = self._mapped(len(self._free) * PAGE)
        self._block, self._checked = manifest.block, set[tuple[str, int]]()
        self._lock = threading.RLock()

    @property
    def held(self) -> int:
        """Bytes of the pages that are here."""
        return sum(self._length(*key) for key in self._slots)

    def _mapped(self, size: int) -> Bytes:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if free < size:
            need = f"the cache needs {size:,} bytes in {folder}, which has {free:,} free"
            raise HandfulError(f"{self._root}: {need}: set HANDFUL_CACHE to fewer bytes, or TMPDIR to another folder")
        with tempfile.TemporaryFile(prefix="handful-cache-", dir=folder) as stream:
            stream.truncate(size)
            return np.memmap(stream, np.uint8, mode="r+") if size else np.empty(0, np.uint8)

    def fetch(self, spans: list[Span]) -> None:
        """Make sure that these bytes are here: one round of concurrent requests for those that are not."""
        wanted = {(name, page): None for name, a, b in spans for page in range(a // PAGE, (b - 1) // PAGE + 1)}
        with self._lock:
            room = len(self._slots) + len(self._free)
            if len(wanted) > room:
                need = f"one read needs {len(wanted) * PAGE:,} bytes, more than the cache of {room * PAGE:,}"
                raise HandfulError(f"{self._root}: {need}: set HANDFUL_CACHE to more bytes, or take smaller batches")
            missing = [key for key in wanted if key not in self._slots]
            for key in wanted:
                if key in self._slots:
                    self._slots.move_to_end(key)
            if not missing:
                return
            found = self._requested(missing)
            while len(self._free) < len(missing):  # those just moved to the end are not among the first
                self._free.append(self._slots.popitem(last=False)[1])
            for key, data in zip(missing, found):
                slot = self._slots[key] = self._free.pop()
                self._map[slot * PAGE : slot * PAGE + len(data)] = np.frombuffer(data, np.uint8)
                self.fetched += len(data)
            for name, block in dict.fromkeys((name, page * PAGE // self._block) for name, page in missing):
                self._check(name, block)

    def _requested(self, missing: list[tuple[str, int]]) -> list[bytes]:
        starts = [page * PAGE for _, page in missing]
        stops = [page * PAGE + self._length(name, page) for name, page in missing]
        try:
            paths = [f"{self._root}/{name}" for name, _ in missing]
            found = self._fs.cat_ranges(paths, starts, stops, on_error="raise")
        except FileNotFoundError as error:
            raise HandfulError(f"{self._root}: a file of the store is missing ({error}): copy it again") from None
        except OSError as error:
            raise HandfulError(f"{self._root} cannot be read ({error}): try again, then copy it again") from error
        for (name, page), data in zip(missing, found):
            if len(data) != self._length(name, page):
                raise HandfulError(f"{self._root}/{name} was cut short: copy it again")
        return found

    def _check(self, name: str, block: int) -> None:
        """Compare a block with its digest, once, if all of it is here."""
        size, digests = self._files[name]
        first, stop = block * self._block, min(size, (block + 1) * self._block)
        pages = [(name, page) for page in range(first // PAGE, (stop - 1) // PAGE + 1)]
        if (name, block) in self._checked or self._block % PAGE or not all(key in self._slots for key in pages):
            return
        whole = b"".join(self._page(*key).tobytes() for key in pages)
        if m.digest(whole) != digests[block]:
            for key in pages:
                self._free.append(self._slots.pop(key))
            where = f"between bytes {first:,} and {stop:,}"
            raise HandfulError(f"{self._root}: {name} is damaged {where}: copy it again, or write the store again")
        self._checked.add((name, block))

    def _length(self, name: str, page: int) -> int:
        return min(PAGE, self._files[name][0] - page * PAGE)

    def _page(self, name: str, page: int) -> Bytes:
        slot = self._slots[name, page]
        return self._map[slot * PAGE : slot * PAGE + self._length(name, page)]

    def gather(self, rows: Located) -> list[Bytes]:
        """Copies of the bytes of each row; fetched again if another thread's read has pushed them out meanwhile."""
        with self._lock:
            self.fetch(rows.spans())
            return [self._bytes(rows.file, a, b) for a, b in zip(rows.starts.tolist(), rows.stops.tolist())]

    def _bytes(self, name: str, a: int, b: int) -> Bytes:
        first, last = a // PAGE, (b - 1) // PAGE
        if b <= a:
            return np.empty(0, np.uint8)
        if first == last:
            return self._page(name, first)[a - first * PAGE : b - first * PAGE].copy()
        whole = np.concatenate([self._page(name, page) for page in range(first, last + 1)])
        return whole[a - first * PAGE : b - first * PAGE]


def open_remote_store(where: str, cache: int | None = None) -> RemoteStore:
    """Open a store by its URL. cache: bytes kept on this machine's disk (in TMPDIR); default HANDFUL_CACHE or 4 GiB.

    Raises HandfulError when it is not there, is damaged, or the cache cannot hold a single page per file.
    """
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(where)
        text = fs.cat_file(f"{path.rstrip('/')}/{m.FILE}")
    except FileNotFoundError:
        raise HandfulError(f"{where} is neither a file that handful reads nor a store (it has no {m.FILE})") from None
    except (ImportError, ValueError, OSError) as error:
        raise HandfulError(f"{where} cannot be opened: {error}") from error
    manifest = m.parse(text, f"{where}/{m.FILE}")
    m.check_sizes(where, manifest, lambda name: fs.size(f"{path.rstrip('/')}/{name}"))
    room = _room() if cache is None else whole("cache, in bytes,", cache, least=0)
    least = PAGE * len(manifest.parts) * 2
    if room < min(least, manifest.bytes):
        raise HandfulError(f"{where} needs a cache of at least {least:,} bytes, not {room:,}: set HANDFUL_CACHE")
    return RemoteStore(where, manifest, fs, path, room)


def _room() -> int:
    given = os.environ.get("HANDFUL_CACHE")
    try:
        return CACHE if given is None else int(given)
    except ValueError:
        raise HandfulError(f"HANDFUL_CACHE must be a number of bytes, not '{given}'") from None
