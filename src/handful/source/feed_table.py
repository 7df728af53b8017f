"""Tables larger than memory -> chunks: read once to learn what their columns hold, and once more to store them."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa

from ..errors import HandfulError
from .arrays import Dense, RaggedValues, Strings
from .base import Column
from .feed import pack, plan_parts, to_piece
from .images import Encoded, _Form
from .media import BinaryItems, Items
from .options import Options, cores
from .sounds import decode
from .store_write import Piece, Plan, in_order
from .survey import Facts, decide
from .table import check_names, chosen, convert, with_target
from .table_files import STREAMED, DatasetFiles, Raw, TableFiles, join_types, parse

_DECODED = 8 << 30


class Tables(Protocol):
    """classes: names of whole-number columns' classes, where the data set brings them; heads: the blocks that have
    to be seen to know all types."""

    classes: dict[str, tuple[str, ...]]

    def __iter__(self) -> Iterator[Raw]: ...

    def heads(self) -> Iterator[Raw]: ...


class TableFeed:
    """Columns as `open` would make them of the whole table, from blocks of it."""

    def __init__(
        self, tables: Tables, o: Options, identity: str | None, provenance: dict[str, Any], images: str
    ) -> None:
        self._tables = tables
        notes: list[str] = []
        self._types, names = _types(tables, o)
        o = with_target(o, names, notes)
        keep = chosen(o, names)
        facts = {name: Facts(name, name == o.target) for name in keep}
        rows = 0
        for table in in_order(tables, lambda raw: parse(raw, self._types), cores()):
            for name in keep:
                facts[name].update(table.column(name), o)
            rows += table.num_rows
        if rows == 0:
            raise HandfulError(f"{o.name} has column names but 0 rows: there is nothing to learn from.")
        self._columns: dict[str, Column] = {}
        self._forms: dict[str, _Form] = {}
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
        self.plan = Plan(o.name, rows, o.target, dict(self._columns), parts, notes, provenance, identity)

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
    for where, open_ended, found in in_order(tables.heads(), _schema, cores()):
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
