"""An open source -> chunks of columns that can be stored."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from handful.base.errors import HandfulError
from handful.base.machine import cores
from handful.base.threads import in_order
from handful.base.version import __version__
from handful.data.arrays import Dense, RaggedValues, Strings
from handful.data.base import Column, Ragged, Rows, Source, Value
from handful.data.media.audio import decode
from handful.data.media.images import Encoded, Form
from handful.data.media.items import BinaryItems, Items
from handful.data.options import Options
from handful.data.store.manifest import Layout, Manifest, Part
from handful.data.store.survey import Facts, decide
from handful.data.store.write import Piece
from handful.data.tables.arrow import check_names, chosen, convert, with_target
from handful.data.tables.files import STREAMED, DatasetFiles, Raw, TableFiles, join_types, parse

CHUNK = 8 << 20  # bytes of one chunk: large enough to read and write at speed, small enough to keep several
_BLOCK = 4  # from this many columns of one number a row and one dtype on, they are stored side by side
_DECODED = 8 << 30  # images up to this size in all are stored decoded
_PROBE = 64


class SourceFeed:
    """A Source, read by ranges of rows. Images that it decodes as it reads are stored as they came, or decoded.

    identity: of the files it was opened from, or None.
    """

    def __init__(
        self, source: Source, identity: str | None, provenance: dict[str, object], images: str, unit: int | None = None
    ) -> None:
        self._source = source
        self._images = {
            name: stored
            for name, stored in getattr(source, "stored", {}).items()
            if isinstance(stored, Encoded) and _keep_encoded(stored, images)
        }
        columns = {name: _probed(source, name, column) for name, column in source.columns.items()}
        parts = plan_parts(columns, {name: e.form.fit for name, e in self._images.items()})
        notes = [note for note in source.notes if not note.endswith("images are decoded on every read.")]
        notes += [f"'{name}' is stored encoded and decoded on every read." for name in self._images]
        self.plan = Manifest(source.name, len(source), source.target, columns, parts, [], notes, provenance)
        self._step = max(1, min(1 << 16, (unit or CHUNK) // max(1, self._row_bytes())))

    def _row_bytes(self) -> int:
        """Of a row on average: exact for columns of fixed shape, from a few rows for the others."""
        n = len(self._source)
        some = np.unique(np.linspace(0, n - 1, min(n, _PROBE)).astype(np.int64))
        pieces = self.convert(some)
        total = sum(p.values.nbytes + (0 if p.lengths is None else p.lengths.nbytes) for p in pieces.values())
        return -(-total // len(some))

    def raw(self, first: int) -> Iterator[Rows]:
        n = len(self._source)
        for start in range(first * self._step, n, self._step):
            yield np.arange(start, min(n, start + self._step), dtype=np.int64)

    def convert(self, raw: Rows) -> dict[str, Piece]:
        rest = [name for name in self._source.columns if name not in self._images]
        found: dict[str, Value] = {}
        if len(rest) == len(self._source.columns):
            found = self._source.read(raw)
        else:
            found = {name: self._source.read_column(name, raw) for name in rest}
        pieces = {name: to_piece(self.plan.name, name, value, self._fixed(name)) for name, value in found.items()}
        for name, encoded in self._images.items():
            pieces[name] = pack([bytes(encoded.items[row]) for row in raw.tolist()])
        return pieces

    def _fixed(self, name: str) -> bool:
        plan: Manifest | None = getattr(self, "plan", None)
        column = (plan.columns if plan else self._source.columns)[name]
        return None not in column.shape


def _keep_encoded(stored: Encoded, images: str) -> bool:
    if images == "auto":
        return len(stored) * int(np.prod(stored.form.shape)) > _DECODED
    return images == "encoded"


def _probed(source: Source, name: str, column: Column) -> Column:
    """A data set read item by item has been seen at one row only: look at a few more before fixing its shape."""
    if None in column.shape or not column.shape or column.kind in ("image", "text") or source.in_memory:
        return column
    n = len(source)
    some = np.unique(np.linspace(0, n - 1, min(n, _PROBE)).astype(np.int64))
    if isinstance(source.read_column(name, some), Ragged):
        kind = "tokens" if column.dtype.startswith(("int", "uint")) and len(column.shape) == 1 else column.kind
        return Column(kind, column.dtype, (None, *column.shape[1:]), column.classes, column.rate)
    return column


def to_piece(where: str, name: str, value: Value, fixed: bool) -> Piece:
    """One column as it was read, as bytes to be written."""
    if isinstance(value, Ragged):
        if fixed:
            raise HandfulError(
                f"{where}: '{name}' has rows of different lengths, unlike the first ones: declare it in columns=, "
                "with None as first dimension of its shape."
            )
        return Piece(_plain(value.values), np.diff(value.offsets.cpu().numpy()))
    if isinstance(value, Tensor):
        array = _plain(value)
        if fixed:
            return Piece(array)
        lengths = np.full(len(array), array.shape[1], np.int64)
        return Piece(array.reshape(-1, *array.shape[2:]), lengths)
    return pack([v.encode("utf-8", "surrogatepass") if isinstance(v, str) else bytes(v) for v in value])


def pack(items: Sequence[bytes]) -> Piece:
    """Byte strings end to end."""
    lengths = np.array([len(item) for item in items], np.int64)
    return Piece(np.frombuffer(b"".join(items), np.uint8), lengths)


def _plain(value: Tensor) -> Any:
    value = value.detach().cpu()
    return (value.view(torch.int16) if value.dtype == torch.bfloat16 else value).numpy()


def plan_parts(columns: dict[str, Column], encoded: dict[str, bool]) -> list[Part]:
    """Which columns lie together. encoded: images kept as bytes -> whether they are resized when decoded."""
    scalars: dict[str, list[str]] = {}
    for name, c in columns.items():
        if c.shape == () and c.kind in ("number", "category", "tensor"):
            scalars.setdefault(c.dtype, []).append(name)
    together = {names[0]: names for names in scalars.values() if len(names) >= _BLOCK}
    inside = {name for names in together.values() for name in names}
    parts = []
    for name, c in columns.items():
        if name in together:
            parts.append(Part(tuple(together[name]), "fixed", c.dtype, (), block=True))
        elif name not in inside:
            parts.append(_part(name, c, encoded))
    return parts


def _part(name: str, c: Column, encoded: dict[str, bool]) -> Part:
    shape = tuple(s for s in c.shape if s is not None)
    if name in encoded:
        return Part((name,), "image", "uint8", shape, fit=encoded[name])
    if c.kind == "text" or c.dtype in ("str", "bytes"):
        return Part((name,), "text", "uint8")
    layout: Layout = "ragged" if None in c.shape else "fixed"
    return Part((name,), layout, c.dtype, shape)


def identity_of(files: Sequence[Path], options: Mapping[str, object]) -> tuple[str, dict[str, object]]:
    """(what tells this input from any other, what the manifest says of it), by names, sizes and times of files."""
    listed = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    text = json.dumps([listed, options, __version__], sort_keys=True)
    said = [{"file": name, "bytes": size} for name, size, _ in itertools.islice(listed, 1000)]
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest(), {
        "handful": __version__,
        "files": len(listed),
        "bytes": sum(size for _, size, _ in listed),
        "first": said,
        "options": options,
    }


class Tables(Protocol):
    """classes: names of whole-number columns' classes, where the data set brings them; heads: the blocks that have
    to be seen to know all types."""

    classes: dict[str, tuple[str, ...]]

    def __iter__(self) -> Iterator[Raw]: ...

    def heads(self) -> Iterator[Raw]: ...


class TableFeed:
    """Columns as `open` would make them of the whole table, from blocks of it."""

    def __init__(
        self, tables: Tables, o: Options, identity: str | None, provenance: dict[str, object], images: str
    ) -> None:
        self._tables = tables
        notes: list[str] = []
        self._types, names = _types(tables, o)
        o = with_target(o, names, notes)
        keep = chosen(o, names)
        facts = {name: Facts(name, name == o.target) for name in keep}
        rows = 0
        for table in in_order(lambda raw: parse(raw, self._types), tables, cores(), cores(), name="handful-prepare"):
            for name in keep:
                facts[name].update(table.column(name), o)
            rows += table.num_rows
        if rows == 0:
            raise HandfulError(f"{o.name} has column names but 0 rows: there is nothing to learn from.")
        self._columns: dict[str, Column] = {}
        self._forms: dict[str, Form] = {}
        for name in keep:
            column, form = decide(facts[name], self._types[name], tables.classes.get(name), o, notes)
            if column is None:
                if o.columns is not None or name == o.target:
                    raise HandfulError(f"{o.name}: column '{name}' cannot be used: {notes[-1]}")
                continue
            self._columns[name] = column
            if form is not None:
                self._forms[name] = form
        if not [name for name in self._columns if name != o.target]:
            raise HandfulError(
                f"{o.name} has no column to learn from: {' '.join(notes) or 'only the target is there.'}"
            )
        self._encoded = {
            name: form.fit for name, form in self._forms.items() if _keeps(images, rows * int(np.prod(form.shape)))
        }
        self._o = replace(o, columns=tuple(self._columns), schema=self._columns, budget=0)
        parts = plan_parts(self._columns, self._encoded)
        self.plan = Manifest(o.name, rows, o.target, dict(self._columns), parts, [], notes, provenance)

    def raw(self, first: int) -> Iterator[Raw]:
        return islice(iter(self._tables), first, None)

    def convert(self, raw: Raw) -> dict[str, Piece]:
        table = parse(raw, self._types)
        return {name: self._piece(raw, name, table.column(name)) for name in self._columns}

    def _piece(self, raw: Raw, name: str, column: Any) -> Piece:
        wanted = self._columns[name]
        if wanted.kind in ("image", "audio"):
            return self._media(name, binary_items(name, column, replace(self._o, name=raw.where)), wanted)
        notes: list[str] = []
        stored = convert(name, column, replace(self._o, name=raw.where), notes)
        if stored is None:  # every value of this block is missing
            stored = Dense(np.full(len(column), np.nan, wanted.dtype), wanted)
        if name == self._o.target:
            _check_target(raw, name, stored)
        if isinstance(stored, Strings):
            return pack([text.encode("utf-8", "surrogatepass") for text in stored.data])
        if isinstance(stored, RaggedValues):
            return Piece(np.asarray(stored.values), np.diff(stored.offsets))
        data = np.asarray(cast(Dense, stored).data)
        if data.dtype.name != wanted.dtype:
            data = data.astype(wanted.dtype)
        return Piece(data)

    def _media(self, name: str, items: Items, wanted: Column) -> Piece:
        rows = np.arange(len(items))
        if wanted.kind == "audio":
            sounds = decode(items, rows, wanted.rate or 0)
            return Piece(np.concatenate(sounds), np.array([len(s) for s in sounds], np.int64))
        if name in self._encoded:
            return pack([bytes(items[i]) for i in range(len(items))])
        return to_piece(self._o.name, name, Encoded(items, self._forms[name]).read(rows), fixed=True)


def _keeps(images: str, decoded: int) -> bool:
    return decoded > _DECODED if images == "auto" else images == "encoded"


def binary_items(name: str, column: Any, o: Options) -> BinaryItems:
    """Encoded images or sounds: binary, or a struct {bytes, path} as data set hubs publish them."""
    import pyarrow.compute as pc

    if pa.types.is_struct(column.type):
        column = pc.struct_field(column, "bytes")
        column = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
    return BinaryItems(name, column, o)


def _types(tables: Tables, o: Options) -> tuple[dict[str, Any], list[str]]:
    """One Arrow type a column, that holds what every block has there."""
    types: dict[str, Any] = {}
    names: list[str] = []
    for where, open_ended, found in in_order(_schema, tables.heads(), cores(), cores(), name="handful-prepare"):
        if not names:
            names = list(found)
        extra = [name for name in found if name not in names]
        missing = [name for name in names if name not in found]
        if open_ended:  # a line of JSON may leave a field out
            names += extra
        elif extra:
            raise HandfulError(f"{where} has a column '{extra[0]}' that the others lack: give all files one schema.")
        elif missing:
            raise HandfulError(f"{where} lacks the column '{missing[0]}' of the others: give all files one schema.")
        for name, kind in found.items():
            joined = join_types(types.get(name), kind)
            if joined is None:
                raise HandfulError(f"{where}: column '{name}' is {kind} there but {types[name]} before.")
            types[name] = joined
    if not names:
        raise HandfulError(f"{o.name} has 0 rows: there is nothing to learn from.")
    return types, names


def _schema(raw: Raw) -> tuple[str, bool, dict[str, Any]]:
    """(where, whether rows may lack columns, type of each column)."""
    text = isinstance(raw.data, bytes)
    check_names(raw.names if text and raw.names is not None else [] if text else raw.data.column_names, raw.where)
    table = parse(raw if text else raw._replace(data=raw.data.slice(0, 1)), {})
    return raw.where, text and raw.names is None, dict(zip(table.column_names, table.schema.types))


def _check_target(raw: Raw, name: str, stored: Any) -> None:
    if not isinstance(stored, Dense):
        return
    data = np.asarray(stored.data)
    bad = data < 0 if stored.column.kind == "category" else ~np.isfinite(data) if data.dtype.kind == "f" else None
    if bad is not None and bad.any():
        row = int(np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))[0])
        raise HandfulError(
            f"{raw.where}: target '{name}' is missing {row:,} rows after that: correct or remove such rows first."
        )


__all__ = ["STREAMED", "DatasetFiles", "TableFeed", "TableFiles"]
