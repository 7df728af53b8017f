"""Tables larger than memory -> chunks to be stored: what the columns hold is learned block by block, then applied."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from handful.base.errors import HandfulError
from handful.base.machine import cores, in_order
from handful.data.arrays import Dense, RaggedValues, Stored, Strings, check_target
from handful.data.base import Column
from handful.data.datasets import HubTable
from handful.data.media.audio import choose_rate, decode
from handful.data.media.images import Encoded, Form, choose_form
from handful.data.media.items import BinaryItems
from handful.data.options import Options
from handful.data.store.chunks import keeps_encoded, pack, plan_parts, to_piece
from handful.data.store.manifest import Manifest
from handful.data.store.write import Piece
from handful.data.tables import files as table_files
from handful.data.tables.arrow import (
    check_inputs,
    check_usable,
    class_names,
    index_columns,
    target_and_columns,
    texts_alone,
)
from handful.data.tables.cells.strings import Words, parse_cells, typed, untyped
from handful.data.tables.columns import ColumnStats, Media, column_stats, decide, mergeable
from handful.data.tables.files import TableBlock, read_blocks, table_dialect, typed_block
from handful.data.tables.parts import JointSchema
from handful.data.tables.types import TEXT, whole
from handful.data.tables.values import EXACT, MEDIA, apply, are_names, kept_as


@dataclass
class Tables:
    """A table in blocks, the same at every look. classes: names of whole-number columns' classes, where the data set
    brings them; notes: on what is read."""

    blocks: Callable[[], Iterator[TableBlock]]
    notes: list[str]
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[TableBlock]:
        return self.blocks()


def of_files(files: Sequence[str]) -> Tables:
    """Many files of one schema."""
    dialect = table_dialect(files) if len(files) > 1 else None
    notes = [f"{len(files):,} files are read as one table."] if len(files) > 1 else []
    return Tables(lambda: (block for file in files for block in read_blocks(file, table=dialect)), notes)


def of_hub(hub: HubTable, name: str) -> Tables:
    """A Hugging Face data set, through its Arrow format."""
    rows = [slice(start, start + table_files.ROWS) for start in range(0, hub.rows, table_files.ROWS)]
    read = lambda part: typed_block(f"{name}, row {part.start:,}", hub.read(part, whole=False))  # noqa: E731
    return Tables(lambda: map(read, rows), hub.notes, hub.classes)


@dataclass
class Survey:
    """What the blocks of a table hold: one type per column, its statistics, rows, notes, names of classes, which
    columns are a frame's index, and the sign before decimals in text."""

    schema: JointSchema = field(default_factory=JointSchema)
    stats: dict[str, ColumnStats] = field(default_factory=dict)
    rows: int = 0
    notes: dict[str, None] = field(default_factory=dict)
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    indexes: set[str] = field(default_factory=set)
    decimal: str | None = None


def survey(tables: Tables, o: Options) -> Survey:
    """One look at all blocks; a second at the columns whose type in one block was another than in all together."""
    found, again = Survey(), set[str]()
    wanted = None if o.columns is None else {*o.columns, o.target}
    for block, table, stats in _looks(tables, lambda block: block.as_trained(o.schema), wanted, o):
        found.schema.add(block, table.schema)
        found.names |= class_names(table.schema)
        found.indexes |= index_columns(table.schema)
        found.notes |= {block.note: None} if block.note else {}
        found.decimal = block.decimal
        for name, one in stats.items():
            if not mergeable(found.stats.setdefault(name, one).type, one.type, found.schema.types[name]):
                again.add(name)
            elif found.stats[name] is not one:
                found.stats[name].merge(one)
        found.rows += table.num_rows
    again |= {name for name, one in found.stats.items() if one.rows != found.rows}  # lines of JSON that lack it
    if again:
        found.stats |= again_stats(tables, found.schema.types, again, o)
    return found


def again_stats(
    tables: Tables, types: Mapping[str, pa.DataType], names: Collection[str], o: Options
) -> dict[str, ColumnStats]:
    """Statistics of these columns in these types."""
    found: dict[str, ColumnStats] = {}
    for _, _, stats in _looks(tables, lambda block: block.table(types, names), None, o):
        for name, one in stats.items():
            if found.setdefault(name, one) is not one:
                found[name].merge(one)
    return found


def words_in(blocks: Iterable[TableBlock], o: Options, rows: int) -> tuple[pa.DataType | None, Words]:
    """(the type, how they are written) of the target's cells; None where these are not of CSV read for the first
    time."""
    found = list[pa.Array]()
    for block in blocks:
        if block.dialect is None or (label := block.label(o)) is None:
            return None, None
        parse = partial(parse_cells, block.dialect)
        found.append(block.table({label: TEXT}, {label})[label].unique())
    values, words = typed(pa.chunked_array(found), parse, rows)
    return values.type, words


_Look = tuple[TableBlock, pa.Table, dict[str, ColumnStats]]


def _looks(
    tables: Tables, read: Callable[[TableBlock], pa.Table], wanted: Collection[str | None] | None, o: Options
) -> Iterable[_Look]:
    """Each block, read on all cores, and the statistics of the columns that are wanted."""

    def look(block: TableBlock) -> _Look:
        table, here = read(block), replace(o, name=block.where)
        columns = zip(table.column_names, table.columns, strict=True)
        return block, table, {
            name: column_stats(name, column, here, headers=True)
            for name, column in columns
            if wanted is None or name in wanted
        }  # fmt: skip

    return in_order(look, tables, cores(), cores(), name="handful-prepare")


class TableFeed:
    """Columns as `open` would make them of the whole table, from blocks of it."""

    def __init__(self, tables: Tables, o: Options, provenance: dict[str, object], images: str) -> None:
        self._tables, seen = tables, survey(tables, o)
        notes, names = [*tables.notes, *seen.notes], list(seen.schema.types)
        if seen.rows == 0:
            raise HandfulError(f"{o.name} has 0 rows: there is nothing to learn from")
        o, kept = target_and_columns(replace(o, decimal=seen.decimal), names, seen.indexes, notes)
        self._types = seen.schema.types
        goal = o.target or ""
        if self._types.get(goal, TEXT) != TEXT:
            kind, words = words_in(tables, o, seen.rows)
            o = replace(o, words=words)
            if kind in (TEXT, pa.float64()) and kind != self._types[goal]:  # names, or whole numbers from 2^63 on
                self._types[goal] = kind
                seen.stats |= again_stats(tables, self._types, {goal}, o)
        self._long_names(seen, o, notes)
        texts = {name: one.texts for name, one in seen.stats.items()}
        told = {name: t.distinct["text"] for name, t in texts.items() if t is not None and t.distinct is not None}
        o = replace(o, untyped=len(told) == len(names) and not o.schema and untyped(told.values()))
        self._columns: dict[str, Column] = {}
        self._forms: dict[str, Form] = {}
        for name in kept:
            stats = seen.stats[name]
            stats.names = tables.classes.get(name, seen.names.get(name))
            column = self._column(name, stats, o, notes)
            if column is None:
                check_usable(name, o, notes)
            else:
                self._columns[name] = column
        self._columns |= texts_alone(told, self._columns, o, notes)
        check_inputs(self._columns, o, notes)
        self._encoded = {
            name: form.fit
            for name, form in self._forms.items()
            if keeps_encoded(images, seen.rows * form.bytes) and not form.exact
        }
        self._o = replace(o, columns=tuple(self._columns), schema=self._columns, budget=0)
        parts = plan_parts(self._columns, self._encoded)
        self.plan = Manifest(o.name, seen.rows, o.target, dict(self._columns), parts, [], notes, provenance)

    def _long_names(self, seen: Survey, o: Options, notes: list[str]) -> None:
        """Have whole numbers too long for a float read in the type that `kept_as` says."""
        ends = {name: (one.least or 0, one.most or 0) for name, one in seen.stats.items()}
        typed = [name for name, kind in self._types.items() if whole(kind) and name not in o.schema]
        long = {name: TEXT for name in typed if max(map(abs, ends[name])) > EXACT}
        for name, stats in (again_stats(self._tables, long, long, o) if long else {}).items():
            texts = stats.texts.distinct["text"] if stats.texts and stats.texts.distinct is not None else pa.array([])
            few = partial(are_names, pc.unique(texts), stats.rows - stats.nulls)
            kind = kept_as(name, self._types[name], *ends[name], o, notes, few)
            if kind != self._types[name]:
                self._types[name] = kind
                low, high = map(float, ends[name])
                seen.stats[name] = stats if kind == TEXT else replace(seen.stats[name], type=kind, least=low, most=high)

    def _column(self, name: str, stats: ColumnStats, o: Options, notes: list[str]) -> Column | None:
        match stats.media:
            case Media(kind="audio", sounds=sounds):
                return Column("audio", "float32", (None,), rate=choose_rate(name, sounds, o, notes))
            case Media(kind="image", images=images):
                self._forms[name] = choose_form(name, images, o, notes)
                return self._forms[name].column
        if name in o.schema:
            return replace(o.schema[name], open=False)  # what one block brings, another does not know
        return decide(name, stats, o, notes)

    def raw(self, first: int) -> Iterator[TableBlock]:
        return islice(iter(self._tables), first, None)

    def convert(self, raw: TableBlock) -> dict[str, Piece]:
        table, o = raw.table(self._types, self._columns), replace(self._o, name=raw.where)
        return {name: self._piece(name, table.column(name), o) for name in self._columns}

    def _piece(self, name: str, column: pa.ChunkedArray, o: Options) -> Piece:
        wanted = self._columns[name]
        if wanted.kind in MEDIA:
            return self._media_piece(name, BinaryItems(name, column, o), wanted)
        stored = apply(name, column, wanted, o, [])
        if name == o.target:
            check_target(o.name, name, stored)
        return piece_of(stored, wanted)

    def _media_piece(self, name: str, items: BinaryItems, wanted: Column) -> Piece:
        rows = np.arange(len(items))
        if wanted.kind == "audio":
            sounds = decode(items, rows, wanted.rate or 0)
            return Piece(np.concatenate(sounds), np.array([len(s) for s in sounds], np.int64))
        if name in self._encoded:
            return pack([bytes(items[i]) for i in range(len(items))])
        return to_piece(self.plan.name, name, Encoded(items, self._forms[name]).read(rows), fixed=True)


def piece_of(stored: Stored, wanted: Column) -> Piece:
    """A column in memory as what is written of it."""
    match stored:
        case Strings():
            return pack([text.encode("utf-8", "surrogatepass") for text in stored.data])
        case RaggedValues():
            return Piece(np.asarray(stored.values), np.diff(stored.offsets))
        case Dense():
            return Piece(np.asarray(stored.data).astype(wanted.dtype, copy=False))
    raise TypeError(type(stored))
