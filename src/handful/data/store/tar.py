"""WebDataset tar shards: consecutive members of one name are a row, their endings its columns."""

import io
import json
import lzma
import mmap
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray

from handful.base.errors import HandfulError
from handful.data.arrays import Arrays, Stored, native
from handful.data.base import Column, Ragged, Rows, Value
from handful.data.media.items import IMAGES, SOUNDS, Items
from handful.data.npz import HEADER
from handful.data.options import Options
from handful.data.tables.arrow import open_table, with_target

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_TEXTS = {"txt", "caption", "text"}
_NUMBERS = {"cls", "cls2", "index", "inx", "id"}


class TarItems:
    """One member of a tar a row, read in place."""

    def __init__(
        self, key: str, files: Sequence[Path], plain: Sequence[mmap.mmap], spans: list[tuple[int, int, int, str]]
    ) -> None:
        """plain: the files, unpacked and mapped; spans: (number of the tar, first byte, bytes, name) of each row."""
        self.key, self._files, self._plain, self._spans = key, list(files), list(plain), spans
        self.small = sum(size for _, _, size, _ in spans[:1000]) < 4096 * min(1000, len(spans))

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, i: int) -> bytes:
        number, start, size, _ = self._spans[i]
        return self._plain[number][start : start + size]

    def describe(self, i: int) -> str:
        return f"{self._files[self._spans[i][0]]}: {self._spans[i][3]}"


def open_tars(files: Sequence[Path], o: Options) -> Arrays:
    """Images are the column `image`, sounds `audio`, cls `label`, txt `text`; json brings one column a field, npy one.

    Compressed tars are unpacked, one after another, into temporary files that go with the source: where the disk of
    these has little room, set TMPDIR. Raises HandfulError for a member that points outside the tar, a link, and a row
    that lacks what others have.
    """
    rows: list[dict[str, tuple[int, int, int, str]]] = []
    plain = [_unpacked(path) for path in files]
    for number, path in enumerate(files):
        rows += _index(path, plain[number], number)
    if not rows:
        raise HandfulError(f"{o.name} holds no files: there is nothing to learn from.")
    fields = list(dict.fromkeys(field for row in rows for field in row))
    for field in fields:
        lacking = next((row for row in rows if field not in row), None)
        if lacking is not None:
            name = next(iter(lacking.values()))[3]
            raise HandfulError(f"{o.name}: the row of {name} has no .{field}, which other rows have: complete it.")
    items = {field: TarItems(field, files, plain, [row[field] for row in rows]) for field in fields}
    return _columns(items, o)


def _unpacked(path: Path) -> mmap.mmap:
    """The file, or its contents in a temporary one without a name, mapped: members are then read in place."""
    try:
        with open(path, "rb") as packed:
            head = packed.read(6)
            if not head:
                raise HandfulError(f"{path} is empty (0 bytes).")
            if not head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
                return mmap.mmap(packed.fileno(), 0, access=mmap.ACCESS_READ)
        with tempfile.TemporaryFile(prefix="handful-tar-") as whole, _decompressed(path, head) as stream:
            shutil.copyfileobj(stream, whole, 1 << 20)
            whole.flush()
            return mmap.mmap(whole.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise HandfulError(f"{path} cannot be unpacked ({error}): copy it again, or unpack it yourself.") from error


def _decompressed(path: Path, head: bytes) -> Any:
    import bz2
    import gzip

    return gzip.open(path) if head[0] == 0x1F else bz2.open(path) if head[0] == 0x42 else lzma.open(path)


def _index(path: Path, plain: mmap.mmap, number: int) -> list[dict[str, tuple[int, int, int, str]]]:
    rows: list[dict[str, tuple[int, int, int, str]]] = []
    last = None
    size = len(plain)
    try:
        with tarfile.open(fileobj=plain, mode="r:") as archive:
            for member in archive:
                _refuse(path, member)
                if not member.isfile() or member.name.rsplit("/", 1)[-1].startswith("."):
                    continue
                if member.offset_data + member.size > size:
                    raise HandfulError(f"{path} is cut short inside {member.name}: copy it again.")
                folder, _, base = member.name.rpartition("/")
                key, _, field = base.partition(".")
                if (folder, key) != last:
                    rows.append({})
                    last = (folder, key)
                rows[-1][_field(field)] = (number, member.offset_data, member.size, member.name)
            if plain[archive.offset : archive.offset + tarfile.BLOCKSIZE].strip(b"\0") or archive.offset + 1 > size:
                raise HandfulError(f"{path} is cut short, or damaged, after byte {archive.offset:,}: copy it again.")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise HandfulError(f"{path} is not a readable tar file ({error}): copy it again.") from error
    return rows


def _field(name: str) -> str:
    name = name.lower()
    return "image" if "." + name in IMAGES else "audio" if "." + name in SOUNDS else name


def _refuse(path: Path, member: tarfile.TarInfo) -> None:
    name = member.name.replace("\\", "/")
    if name.startswith("/") or ":" in name.split("/")[0] or ".." in name.split("/"):
        raise HandfulError(f"{path}: entry '{member.name}' points outside the archive: it is not opened.")
    if member.islnk() or member.issym():
        raise HandfulError(f"{path}: entry '{member.name}' is a link: it is not opened.")
    if not (member.isfile() or member.isdir()):
        raise HandfulError(f"{path}: entry '{member.name}' is no ordinary file: it is not opened.")


def _columns(items: dict[str, TarItems], o: Options) -> Arrays:
    notes: list[str] = []
    media: dict[str, Any] = {f: items[f] for f in ("image", "audio") if f in items}
    media |= {f: found for f, found in items.items() if f.rsplit(".", 1)[-1] == "npy"}
    table: dict[str, Any] = {}
    for field, found in items.items():
        if field in media:
            continue
        texts = (_utf8(found, i) for i in range(len(found)))
        if field in _NUMBERS:
            table["label" if field == "cls" else field] = pa.array([_whole(found, i) for i in range(len(found))])
        elif field in _TEXTS:
            table["text" if field == "txt" else field] = pa.array(texts, pa.large_string())
        elif field == "json":
            parsed = pa.Table.from_pylist([_object(found, i) for i in range(len(found))])
            table.update(zip(parsed.column_names, parsed.columns))
        else:
            notes.append(
                f"'.{field}' was left out: of tar shards handful reads images, sounds, npy, cls, txt and json."
            )
    names = [*media, *table]
    o = with_target(o, names, notes)
    extra: dict[str, Stored] = {}
    for field in media:
        if o.columns is not None and field not in o.columns:
            continue
        if field == "image":
            from handful.data.media.images import from_items
        elif field != "audio":
            extra[field] = ArrayItems(items[field], o, notes)
            continue
        else:
            from handful.data.media.audio import from_items
        extra[field] = from_items(items[field], replace(o, budget=0), notes)
    if not extra and not table:
        raise HandfulError(f"{o.name} holds nothing to learn from. {' '.join(notes)}")
    if not table:
        return Arrays(extra, o.target, name=o.name, where=None, notes=notes)
    plain = pa.table(table)
    if o.target and o.target in table and pa.types.is_integer(plain.schema.field(o.target).type):
        found_source = open_table(plain, o, extra, notes)
        return _classes(found_source, o.target)
    return open_table(plain, o, extra, notes)


def _classes(source: Arrays, target: str) -> Arrays:
    """Class numbers that count from 0 without names are classes all the same."""
    column, data = source.columns[target], np.asarray(source.stored[target].data)  # type: ignore[attr-defined]
    if column.kind == "number" and data.dtype.kind in "iu" and len(data) and data.min() == 0:
        count = int(data.max()) + 1
        if len(np.unique(data)) == count <= max(2, len(data) // 2):
            named = Column("category", "int64", (), tuple(map(str, range(count))))
            source.columns[target] = source.stored[target].column = named
    return source


def _utf8(items: TarItems, i: int) -> str:
    try:
        return items[i].decode("utf-8")
    except UnicodeDecodeError as error:
        raise HandfulError(f"{items.describe(i)} is not UTF-8 ({error.reason}): convert it first.") from None


def _whole(items: TarItems, i: int) -> int:
    try:
        return int(items[i])
    except ValueError:
        raise HandfulError(f"{items.describe(i)} is not a whole number.") from None


def _object(items: TarItems, i: int) -> dict[str, Any]:
    try:
        found = json.loads(items[i])
    except ValueError as error:
        raise HandfulError(f"{items.describe(i)} is not JSON ({error}).") from None
    if not isinstance(found, dict):
        raise HandfulError(f"{items.describe(i)} is not a JSON object.")
    return found


class ArrayItems:
    """A column of arrays of one dtype, of one shape, or of shapes that differ in their first dimension only.

    Every header is looked at before the first row is read. Raises HandfulError, naming the member, for one that is no
    .npy file, holds objects, is cut short, or is unlike the first.
    """

    in_memory = False

    def __init__(self, items: Items, o: Options, notes: list[str]) -> None:
        self.items = items
        shape, dtype = self._header(0)
        self._dtype = native(items.key, np.empty(0, dtype), o, notes).dtype
        fixed = True
        for i in range(1, len(items)):
            other, kind = self._header(i)
            if kind != dtype or len(other) != len(shape) or other[1:] != shape[1:]:
                raise HandfulError(
                    f"{items.describe(i)} is {kind} {list(other)}, but the first is {dtype} {list(shape)}: make them "
                    "alike but for the first dimension."
                )
            fixed = fixed and other == shape
        whole = not fixed and len(shape) == 1 and dtype.kind in "iu"
        name = "tokens" if whole else "tensor" if shape else "number"
        self.column = Column(name, self._dtype.name, shape if fixed else (None, *shape[1:]))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.items)

    def read(self, rows: Rows) -> Value:
        arrays = [self._array(row) for row in rows.tolist()]
        rest = tuple(size for size in self.column.shape if size is not None)
        if len(rest) == len(self.column.shape):
            out = np.empty((len(arrays), *rest), self._dtype)
            for place, array in enumerate(arrays):
                out[place] = array
            return torch.from_numpy(out)
        values = np.concatenate([np.empty((0, *rest), self._dtype), *arrays])
        offsets = np.cumsum([0, *map(len, arrays)])
        return Ragged(torch.from_numpy(values), torch.from_numpy(offsets))

    def _header(self, i: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
        stream = io.BytesIO(self.items[i])
        try:
            shape, _, dtype = HEADER[npy.read_magic(stream)](stream)
        except (ValueError, KeyError, EOFError) as error:
            raise HandfulError(f"{self.items.describe(i)} is not a .npy file ({error}): write it again.") from error
        if dtype.kind not in "biuf":
            raise HandfulError(f"{self.items.describe(i)} holds {dtype}: handful reads arrays of numbers.")
        return shape, dtype

    def _array(self, i: int) -> NDArray[Any]:
        try:
            found = np.load(io.BytesIO(self.items[i]), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise HandfulError(f"{self.items.describe(i)} cannot be read ({error}): write it again.") from error
        return np.asarray(found, self._dtype)
