"""A store on a remote path, read by ranges into a bounded local cache."""

import os
import shutil
import tempfile
import threading
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handful.base.errors import HandfulError, whole
from handful.data.base import Ragged, Rows, Source, Value
from handful.data.store import manifest as m
from handful.data.store.manifest import Manifest, file_name
from handful.data.store.read import Store
from handful.data.store.readahead import runs

CACHE = 4 << 30  # bytes; the environment variable HANDFUL_CACHE sets another bound
PAGE = 256 << 10  # bytes fetched at a time: a request costs about as long as these take to arrive


class RemoteStore(Source):
    """The rows of a store that lies elsewhere.

    The pages that a read needs and the cache lacks are fetched at once, in as many concurrent requests as the
    file system allows, and kept on this machine's disk; the least recently used ones give way. What was fetched is
    compared with the manifest's digests as soon as a block of it (16 MiB) is whole. Threads may share it.
    """

    in_memory = False

    def __init__(self, where: str, manifest: Manifest, fs: Any, path: str, cache: int) -> None:
        self.name = self.where = where
        self.manifest, self.columns, self.target = manifest, dict(manifest.columns), manifest.target
        self.notes = list(manifest.notes)
        self.pages = _Pages(fs, path, manifest, cache)
        self._starts = np.cumsum([0, *(s.rows for s in manifest.shards)])

    def __len__(self) -> int:
        return self.manifest.rows

    def read(self, rows: Rows) -> dict[str, Value]:
        return self._store(rows).read(_renumbered(rows))

    def read_column(self, name: str, rows: Rows) -> Value:
        return self._store(rows).read_column(name, _renumbered(rows))

    def cheap(self, name: str) -> bool:
        part = next(p for p in self.manifest.parts if name in p.columns)
        return part.layout == "fixed" and len(self) * part.width <= 64 << 20

    def will_need(self, rows: Rows) -> int:
        """Fetch what `rows` need into the cache; returns the bytes fetched."""
        before = self.pages.fetched
        if len(rows):
            self._fetch(np.unique(rows))
        return self.pages.fetched - before

    def check_window(self, rows: int) -> None:
        """Raise HandfulError if the cache cannot hold `rows` rows: a window would be fetched again and again."""
        need = int(rows * self.manifest.bytes / self.manifest.rows)
        if need > self.pages.capacity:
            raise HandfulError(
                f"{self.name}: a shuffle window of {rows:,} rows needs {need:,} bytes, but the cache has "
                f"{self.pages.capacity:,}: set HANDFUL_CACHE to at least that many bytes, or take a smaller window."
            )

    def _store(self, rows: Rows) -> Store:
        """A little store in memory that holds just these rows, sorted, each once."""
        ids = np.unique(rows) if len(rows) else np.zeros(1, np.int64)
        plan, ends = self._fetch(ids)
        return _small_store(self, plan, ends, len(ids))

    def _fetch(self, ids: Rows) -> tuple[list[tuple[int, int, Rows]], dict[Any, Any]]:
        """Two rounds of requests: fixed columns and offsets, then what the offsets point to."""
        shard = np.searchsorted(self._starts, ids, side="right") - 1
        spans: list[tuple[str, int, int]] = []
        plan: list[tuple[int, int, Rows]] = []
        for s in np.unique(shard).tolist():
            inside = ids[shard == s] - self._starts[s]
            for i, part in enumerate(self.manifest.parts):
                plan.append((s, i, inside))
                width = part.width if part.layout == "fixed" else 8
                name = file_name(s, i, part.files[-1])
                last = inside + (1 if part.layout == "fixed" else 2)
                spans += _spans(name, inside * width, last * width)
        self.pages.fetch(spans)
        values, ends = self._offsets(plan)
        self.pages.fetch(values)
        return plan, ends

    def _offsets(self, plan: list[tuple[int, int, Rows]]) -> tuple[list[tuple[str, int, int]], dict[Any, Any]]:
        spans, ends = [], {}
        for s, i, inside in plan:
            part = self.manifest.parts[i]
            if part.layout == "fixed":
                continue
            both = self.pages.gather(file_name(s, i, "offsets"), inside * 8, inside * 8 + 16)
            pairs = np.concatenate(both).view(np.int64).reshape(-1, 2)
            ends[s, i] = pairs * part.width
            spans += _spans(file_name(s, i, "values"), ends[s, i][:, 0], ends[s, i][:, 1])
        return spans, ends


def _spans(name: str, starts: Rows, stops: Rows) -> list[tuple[str, int, int]]:
    first, last = runs(starts, stops)
    return [(name, a, b) for a, b in zip(first.tolist(), last.tolist()) if b > a]


def _renumbered(rows: Rows) -> Rows:
    return np.asarray(np.unique(rows, return_inverse=True)[1], dtype=np.int64).reshape(-1)


def _small_store(store: RemoteStore, plan: list[tuple[int, int, Rows]], ends: dict[Any, Any], count: int) -> Store:
    files: dict[str, list[NDArray[Any]]] = {}
    lengths: dict[int, list[NDArray[np.int64]]] = {}
    for s, i, inside in plan:
        part, name = store.manifest.parts[i], file_name(s, i, "values")
        if part.layout == "fixed":
            pieces = store.pages.gather(name, inside * part.width, (inside + 1) * part.width)
        else:
            pieces = store.pages.gather(name, ends[s, i][:, 0], ends[s, i][:, 1])
            lengths.setdefault(i, []).append((ends[s, i][:, 1] - ends[s, i][:, 0]) // max(1, part.width))
        files.setdefault(file_name(0, i, "values"), []).extend(pieces)
    whole = {name: np.concatenate([np.empty(0, np.uint8), *pieces]) for name, pieces in files.items()}
    for i, of_part in lengths.items():
        whole[file_name(0, i, "offsets")] = np.concatenate([[0], np.cumsum(np.concatenate(of_part))]).view(np.uint8)
    shard = m.Shard(count, {})
    small = Manifest(
        store.name, count, store.target, store.columns, store.manifest.parts, [shard], [], {}, store.manifest.block
    )
    return Store(store.name, small, lambda name, dtype: whole[name].view(dtype))


class _Pages:
    """Pages of remote files, as many as fit, in a temporary file without a name: memory stays flat, nothing is left.

    Every block of the manifest is compared with its digest as soon as the last of its pages is here.
    """

    def __init__(self, fs: Any, root: str, manifest: Manifest, cache: int) -> None:
        self._fs, self._root = fs, root.rstrip("/")
        self._files = {name: file for shard in manifest.shards for name, file in shard.files.items()}
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

    def _mapped(self, size: int) -> NDArray[np.uint8]:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if free < size:
            raise HandfulError(
                f"{self._root}: the cache needs {size:,} bytes in {folder}, which has {free:,} free: set HANDFUL_CACHE "
                "to fewer bytes, or TMPDIR to another folder."
            )
        with tempfile.TemporaryFile(prefix="handful-cache-", dir=folder) as stream:
            stream.truncate(size)
            return np.memmap(stream, np.uint8, mode="r+") if size else np.empty(0, np.uint8)

    def fetch(self, spans: list[tuple[str, int, int]]) -> None:
        """Make sure that these bytes are here: one round of concurrent requests for those that are not."""
        wanted = {(name, page): None for name, a, b in spans for page in range(a // PAGE, (b - 1) // PAGE + 1)}
        with self._lock:
            room = len(self._slots) + len(self._free)
            if len(wanted) > room:
                raise HandfulError(
                    f"{self._root}: one read needs {len(wanted) * PAGE:,} bytes, more than the cache of "
                    f"{room * PAGE:,}: set HANDFUL_CACHE to more bytes, or take smaller batches."
                )
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
            found: list[bytes] = self._fs.cat_ranges(
                [f"{self._root}/{name}" for name, _ in missing], starts, stops, on_error="raise"
            )
        except FileNotFoundError as error:
            raise HandfulError(f"{self._root}: a file of the store is missing ({error}): copy it again.") from None
        except OSError as error:
            raise HandfulError(f"{self._root} cannot be read ({error}): try again, then copy it again.") from error
        for (name, page), data in zip(missing, found):
            if len(data) != self._length(name, page):
                raise HandfulError(f"{self._root}/{name} was cut short: copy it again.")
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
            raise HandfulError(
                f"{self._root}: {name} is damaged between bytes {first:,} and {stop:,}: copy it again, or write the "
                "store again."
            )
        self._checked.add((name, block))

    def _length(self, name: str, page: int) -> int:
        return min(PAGE, self._files[name][0] - page * PAGE)

    def _page(self, name: str, page: int) -> NDArray[np.uint8]:
        slot = self._slots[name, page]
        return self._map[slot * PAGE : slot * PAGE + self._length(name, page)]

    def gather(self, name: str, starts: Rows, stops: Rows) -> list[NDArray[np.uint8]]:
        """Copies of the bytes of each range; fetched again if another thread's read has pushed them out meanwhile."""
        with self._lock:
            self.fetch(_spans(name, starts, stops))
            return [self._bytes(name, a, b) for a, b in zip(starts.tolist(), stops.tolist())]

    def _bytes(self, name: str, a: int, b: int) -> NDArray[np.uint8]:
        first, last = a // PAGE, (b - 1) // PAGE
        if b <= a:
            return np.empty(0, np.uint8)
        if first == last:
            return self._page(name, first)[a - first * PAGE : b - first * PAGE].copy()
        whole = np.concatenate([self._page(name, page) for page in range(first, last + 1)])
        return whole[a - first * PAGE : b - first * PAGE]


def open_remote_store(where: str, cache: int | None = None) -> RemoteStore:
    """Open a store by its URL. cache: bytes kept on this machine's disk (in TMPDIR); default HANDFUL_CACHE or 4 GiB.

    Raises HandfulError when it is not there, is damaged, or the cache cannot hold a single page a file.
    """
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(where)
        text = fs.cat_file(f"{path.rstrip('/')}/{m.FILE}")
    except FileNotFoundError:
        raise HandfulError(
            f"{where} is neither a file of a kind that handful reads nor a store (it has no {m.FILE})."
        ) from None
    except (ImportError, ValueError, OSError) as error:
        raise HandfulError(f"{where} cannot be opened: {error}.") from error
    manifest = m.parse(text, f"{where}/{m.FILE}")
    for shard in manifest.shards:
        for name, (size, _) in shard.files.items():
            try:
                found = fs.size(f"{path.rstrip('/')}/{name}")
            except FileNotFoundError:
                raise HandfulError(f"{where}: {name} is missing: copy it again.") from None
            if found is not None and found != size:
                raise HandfulError(f"{where}: {name} has {found:,} bytes instead of {size:,}: copy it again.")
    room = _room() if cache is None else whole("cache, in bytes,", cache, least=0)
    least = PAGE * len(manifest.parts) * 2
    if room < min(least, manifest.bytes):
        raise HandfulError(f"{where} needs a cache of at least {least:,} bytes, not {room:,}: set HANDFUL_CACHE.")
    return RemoteStore(where, manifest, fs, path, room)


def _room() -> int:
    said = os.environ.get("HANDFUL_CACHE")
    try:
        return CACHE if said is None else int(said)
    except ValueError:
        raise HandfulError(f"HANDFUL_CACHE must be a number of bytes, not '{said}'.") from None


__all__ = ["Ragged", "RemoteStore", "open_remote_store"]
