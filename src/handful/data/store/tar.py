"""WebDataset tar shards: consecutive members of one name are a row, what follows its first dot names the columns."""

import bz2
import gzip
import io
import json
import lzma
import math
import mmap
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.lib import format as npy
from torch import Tensor

from handful.base.errors import HandfulError, some
from handful.data.arrays import Arrays, Stored, native, ragged_column
from handful.data.base import Column, Kind, Ragged, Rows
from handful.data.gather import Array, ragged_of
from handful.data.media.bad_rows import Bad, BadItem, BadRows, without_bad
from handful.data.media.items import IMAGES, SOUNDS, Items, in_parallel, points_outside
from handful.data.options import Options
from handful.data.store.npz import HEADER
from handful.data.tables.arrow import open_table, with_target
from handful.data.tables.values import MEDIA
from handful.data.text import text_of

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_MEDIA: dict[str, Kind] = {
    **{ending[1:]: "image" for ending in IMAGES},
    **{ending[1:]: "audio" for ending in SOUNDS},
    "npy": "tensor",
}
_TEXTS = {"txt", "caption", "text", "transcript"}
_NUMBERS = {"cls", "cls2", "index", "inx", "id"}
_OBJECTS = {"json", "jsn"}
_SHORT = {"image": "image", "audio": "audio", "cls": "label", "txt": "text"}
# As the webdataset library splits names (1.0.2, tariterators.py): at the first dot of the file's name; it passes over
# names without a dot, and over what lies in a folder `__x__` at the top or is called so.
_NAME = re.compile(r"(?P<row>(?:.*/)?[^./][^./]*)\.(?P<field>[^/]*)")
_META = re.compile(r"__[^/]*__(/|$)")


class Member(NamedTuple):
    """A file in a tar: that tar, unpacked and mapped, and where in it the file lies."""

    path: Path
    tar: mmap.mmap
    start: int
    size: int
    name: str


class TarItems(Items):
    """One member of a tar per row, read in place."""

    def __init__(self, key: str, members: list[Member]) -> None:
        super().__init__(key, len(members), [m.size for m in members[:1000]])
        self._members = members

    def __getitem__(self, i: int) -> bytes:
        _, tar, start, size, _ = self._members[i]
        return tar[start : start + size]

    def describe(self, i: int) -> str:
        return f"{self._members[i].path}: {self._members[i].name}"


def open_tars(files: Sequence[Path], o: Options) -> Arrays:
    """A column for each ending, called by what stands before it (`7.left.png` is row 7 of `left`); without that images
    are the column `image`, sounds `audio`, cls `label`, txt `text`; json brings a column per field, npy one.

    Compressed tars are unpacked, one after another, into temporary files that go with the source: where the disk of
    these has little room, set TMPDIR. Raises HandfulError for a member that points outside the tar, a link, two members
    of one name, and a row that lacks what others have.
    """
    notes: list[str] = []
    unpacked = [(path, _unpacked(path)) for path in files]
    rows = [row for path, tar in unpacked for row in _index(path, tar, notes)]
    if not rows:
        raise HandfulError(f"{o.name} holds no files of rows: there is nothing to learn from")
    fields: dict[str, list[str]] = {}
    for field, name in _columns_of(rows).items():
        fields.setdefault(name, []).append(field)
    members: dict[str, tuple[str, list[Member | None]]] = {}
    incomplete: dict[int, Bad] = {}
    for name, endings in fields.items():
        found = [next((row[field] for field in endings if field in row), None) for row in rows]
        members[name] = (endings[0], found)
        for i, member in enumerate(found):
            if member is None:
                first = next(iter(rows[i].values()))
                said = f"has no .{' or .'.join(endings)}, which other rows have: complete it"
                incomplete[i] = BadItem("incomplete row", f"{first.path}: the row of {first.name}", said).at(i)

    def read(ids: Rows, o: Options) -> Arrays:
        if bad := [incomplete[i]._replace(row=k) for k, i in enumerate(ids.tolist()) if i in incomplete]:
            raise BadRows(bad)
        kept = {name: (field, [m for i in ids if (m := found[i])]) for name, (field, found) in members.items()}
        return _columns({n: (field, TarItems(n, found)) for n, (field, found) in kept.items()}, o, list(notes))

    return without_bad(len(rows), o, read)


def _columns_of(rows: Sequence[dict[str, Member]]) -> dict[str, str]:
    """The column of each field. Pictures that are .jpg in one row and .png in another are one column; fields that would
    share a name otherwise have the whole of theirs."""
    groups: dict[str, list[str]] = {}
    for field in dict.fromkeys(field for row in rows for field in row):
        stem, _, ending = field.rpartition(".")
        kind = _MEDIA.get(ending, ending)
        groups.setdefault(stem or _SHORT.get(kind, ending), []).append(field)
    names = dict[str, str]()
    for short, group in groups.items():
        kinds = {_MEDIA.get(field.rpartition(".")[2], field) for field in group}
        one = len(kinds) == 1 and not (len(group) > 1 and any(sum(f in row for f in group) > 1 for row in rows))
        names |= {field: short if one else field for field in group}
    return names


def _unpacked(path: Path) -> mmap.mmap:
    """The file, or its contents in a temporary one without a name, mapped: members are then read in place."""
    try:
        with open(path, "rb") as file:
            head = file.read(6)
            if not head:
                raise HandfulError(f"{path} is empty (0 bytes)")
            if not head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with tempfile.TemporaryFile(prefix="handful-tar-") as whole, _decompressed(path, head) as stream:
            shutil.copyfileobj(stream, whole, 1 << 20)
            whole.flush()
            return mmap.mmap(whole.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise HandfulError(f"{path} cannot be unpacked ({error}): copy it again, or unpack it yourself") from error


def _decompressed(path: Path, head: bytes) -> gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile:
    return gzip.open(path) if head[0] == 0x1F else bz2.open(path) if head[0] == 0x42 else lzma.open(path)


def _index(path: Path, tar: mmap.mmap, notes: list[str]) -> list[dict[str, Member]]:
    """The rows of a tar, each a file per field."""
    rows: list[dict[str, Member]] = []
    last, passed = None, list[str]()
    try:
        with tarfile.open(fileobj=tar, mode="r:") as archive:
            for member in archive:
                _refuse(path, member)
                if not member.isfile() or member.name.rsplit("/", 1)[-1].startswith("."):
                    continue
                if member.offset_data + member.size > len(tar):
                    raise HandfulError(f"{path} is cut short inside {member.name}: copy it again")
                name = _NAME.fullmatch(member.name)
                if name is None or _META.match(member.name):
                    passed.append(member.name)
                    continue
                if name["row"] != last:
                    rows.append({})
                    last = name["row"]
                field = name["field"].lower()
                if field in rows[-1]:
                    raise HandfulError(f"{path}: the row of {member.name} has two members .{field}: rename one of them")
                rows[-1][field] = Member(path, tar, member.offset_data, member.size, member.name)
            end = archive.offset
            if end >= len(tar) or tar[end : end + tarfile.BLOCKSIZE].strip(b"\0"):
                raise HandfulError(f"{path} is cut short, or damaged, after byte {end:,}: copy it again")
    except HandfulError:
        raise
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError) as error:  # the last: sizes that cannot be
        raise HandfulError(f"{path} is not a readable tar file ({error}): copy it again") from error
    if passed:
        notes.append(f"{path} has members that belong to no row, as webdataset counts: {some(passed, 3)} left out.")
    return rows


def _refuse(path: Path, member: tarfile.TarInfo) -> None:
    if points_outside(member.name):
        raise HandfulError(f"{path}: entry '{member.name}' points outside the archive: it is not opened")
    if member.islnk() or member.issym():
        raise HandfulError(f"{path}: entry '{member.name}' is a link: it is not opened")
    if not (member.isfile() or member.isdir()):
        raise HandfulError(f"{path}: entry '{member.name}' is not an ordinary file: it is not opened")


def _columns(items: Mapping[str, tuple[str, TarItems]], o: Options, notes: list[str]) -> Arrays:
    """items: column -> (field, members)."""
    endings = {name: field.rpartition(".")[2] for name, (field, _) in items.items()}
    media = [name for name in items if endings[name] in _MEDIA]
    table: dict[str, pa.Array] = {}
    for name, (field, found) in sorted(items.items(), key=lambda item: endings[item[0]] in _OBJECTS):  # which come last
        if name not in media:
            columns = _parsed(name, endings[name], found)
            twice = table.keys() & columns.keys() | columns.keys() & set(media)
            table.update({f"{field}.{key}" if key in twice else key: column for key, column in columns.items()})
            if not columns:
                notes.append(
                    f"'.{field}' was left out: of tar shards handful reads images, sounds, npy, cls, txt and json."
                )
    o = with_target(o, [*media, *table], notes)
    wanted = [name for name in media if o.columns is None or name in o.columns or name == o.target]
    extra: dict[str, Stored] = {}
    for name in wanted:
        decoder = MEDIA.get(_MEDIA[endings[name]], ArrayItems)
        extra[name] = decoder(items[name][1], replace(o, budget=0), notes)  # they stay encoded
    if not extra and not table:
        raise HandfulError(f"{o.name} holds nothing to learn from. {' '.join(notes)}")
    if not table:
        return Arrays(extra, o.target, name=o.name, where=None, notes=notes)
    source = open_table(pa.table(table), o, extra, notes)
    if o.target and o.target in table and pa.types.is_integer(table[o.target].type):
        _name_classes(source, o.target)
    return source


def _parsed(name: str, ending: str, found: TarItems) -> dict[str, pa.Array]:
    """The columns that files of text make; none of a kind that is not known."""
    if ending in _NUMBERS:
        return {name: pa.array(in_parallel(partial(_whole, found), len(found), small=True))}
    if ending in _TEXTS:
        return {name: pa.array(in_parallel(partial(text_of, found), len(found), small=True), pa.large_string())}
    if ending in _OBJECTS:
        rows = in_parallel(partial(_object, found), len(found), small=True)
        keys = dict.fromkeys(key for row in rows for key in row)  # of all rows: pyarrow looks at the first alone
        stem = "" if name in _OBJECTS else f"{name}."
        return {stem + key: _values(found, key, [row.get(key) for row in rows]) for key in keys}
    return {}


def _values(found: TarItems, key: str, values: list[object]) -> pa.Array:
    try:
        return pa.array(values)
    except pa.ArrowException as error:
        raise HandfulError(
            f"{found.describe(0)} and others: '{key}' cannot be one column ({error}): make it one type"
        ) from error


def _name_classes(source: Arrays, target: str) -> None:
    """Class numbers that count from 0 without names are classes all the same."""
    if source.columns[target].kind != "number":
        return
    found = np.unique(source.take(slice(None), [target]).tensor(target).numpy())
    count = len(found)
    if count <= max(2, len(source) // 2) and np.array_equal(found, np.arange(count)) and found.dtype.kind in "iu":
        named = Column("category", "int64", (), tuple(map(str, range(count))))
        source.columns[target] = source.stored[target].column = named


def _whole(items: TarItems, i: int) -> int:
    try:
        return int(items[i])
    except ValueError:
        raise BadItem("odd class", items.describe(i), "is not a whole number") from None


def _object(items: TarItems, i: int) -> dict[str, object]:
    try:
        found = json.loads(items[i])
    except ValueError as error:
        raise BadItem("broken JSON object", items.describe(i), f"is not JSON ({error})") from None
    if not isinstance(found, dict):
        raise BadItem("broken JSON object", items.describe(i), "is not a JSON object")
    return found


class ArrayItems(Stored):
    """A column of arrays of one dtype, of one shape, or of shapes that differ in their first dimension only.

    Every header is looked at before the first row is read. Raises BadRows, naming the members, where some are no .npy
    files or are cut short; HandfulError for one that holds objects or is unlike the first.
    """

    in_memory = False

    def __init__(self, items: Items, o: Options, notes: list[str]) -> None:
        self.items = items
        headers = in_parallel(self._header, len(items), small=True)
        shape, dtype = headers[0]
        self._dtype = native(items.key, np.empty(0, dtype), o, notes).dtype
        fixed = True
        for i, (other, found) in enumerate(headers):
            if found != dtype or len(other) != len(shape) or other[1:] != shape[1:]:
                both = f"is {found} {list(other)}, but the first is {dtype} {list(shape)}"
                raise HandfulError(f"{items.describe(i)} {both}: make them alike but for the first dimension")
            fixed = fixed and other == shape
        one = Column("tensor" if shape else "number", self._dtype.name, shape)
        super().__init__(one if fixed else ragged_column(self._dtype, shape[1:]), len(items))

    def read(self, rows: Rows) -> Tensor | Ragged:
        arrays = [self._array(row) for row in rows.tolist()]
        shape = tuple(size for size in self.column.shape if size is not None)
        if self.column.varies:
            return ragged_of(arrays, shape, self._dtype)
        return torch.from_numpy(np.concatenate([np.empty((0, *shape), self._dtype), *(a[None] for a in arrays)]))

    def _header(self, i: int) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
        stream = io.BytesIO(self.items[i])
        try:
            shape, _, dtype = HEADER[npy.read_magic(stream)](stream)
        except (ValueError, KeyError, EOFError, TypeError) as error:
            what = f"is not a .npy file ({error}): write it again"
            raise BadItem("broken array", self.items.describe(i), what) from error
        if dtype.kind not in "biuf":
            raise HandfulError(f"{self.items.describe(i)} holds {dtype}: handful reads arrays of numbers")
        if stream.tell() + dtype.itemsize * math.prod(shape) > len(self.items[i]):
            raise BadItem("broken array", self.items.describe(i), "is cut short: write it again")
        return shape, dtype

    def _array(self, i: int) -> Array:
        try:
            found = np.load(io.BytesIO(self.items[i]), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise HandfulError(f"{self.items.describe(i)} cannot be read ({error}): write it again") from error
        return np.asarray(found, self._dtype)
