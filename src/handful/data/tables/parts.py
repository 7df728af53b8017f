"""Several table files of one schema, read as one table: the parts of a data set, as other programs write it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePath
from urllib.parse import unquote

import pyarrow as pa

from handful.base.errors import HandfulError
from handful.data.arrays import Arrays
from handful.data.media.bad_rows import Bad, left_out
from handful.data.options import Options
from handful.data.tables.arrow import check_names, open_table
from handful.data.tables.cells.dialect import trained_dialect
from handful.data.tables.cells.strings import parse_cells, typed
from handful.data.tables.files import TABLES, TableBlock, ending, read_blocks, read_zipped, table_dialect
from handful.data.tables.types import join_types

_OF_DATASETS = {"state.json", "dataset_info.json"}
_NOTHING = "__HIVE_DEFAULT_PARTITION__"  # the folder of rows that have no value


def parts(files: Sequence[PurePath]) -> list[PurePath]:
    """The files of a folder (relative to it) if they are the parts of one table, else none: of one kind, and either
    beside each other under names that differ in their digits alone, or in folders such as `year=2024/month=7`. Names
    that begin with an underscore are other programs' notes, and so are those that `datasets` writes beside its own.

    >>> len(parts([PurePath(f"train-0000{k}-of-00002.parquet") for k in (0, 1)]))
    2
    >>> parts([PurePath("train.csv"), PurePath("test.csv")])
    []
    """
    kept = [f for f in files if not f.name.startswith("_") and f.name not in _OF_DATASETS]
    if not kept or len({ending(f.name) for f in kept}) != 1 or ending(kept[0].name) not in TABLES:
        return []
    keys = {tuple(p.partition("=")[0] for p in f.parts[:-1]) for f in kept}
    if len(keys) == 1 and all("=" in p for f in kept for p in f.parts[:-1]) and keys != {()}:
        return kept
    alike = len({re.sub(r"\d+", "0", f.name) for f in kept}) == 1 and len({f.parent for f in kept}) == 1
    return kept if alike and (len(kept) > 1 or {f.name for f in files} >= _OF_DATASETS) else []


@dataclass(eq=False)
class JointSchema:
    """The one type of each column that holds what all blocks have there, as if they were one table."""

    types: dict[str, pa.DataType] = field(default_factory=dict)
    _first: str = ""

    def add(self, block: TableBlock, schema: pa.Schema) -> None:
        """Take one more block into account; HandfulError when it does not belong to those before it."""
        check_names(schema.names, block.where)
        if not self.types:
            self.types, self._first = dict(zip(schema.names, schema.types, strict=True)), block.where
            return
        other = [] if block.loose else sorted(set(schema.names) ^ set(self.types))
        if other:
            has, lacks = (self._first, block.where) if other[0] in self.types else (block.where, self._first)
            raise HandfulError(
                f"{has} has a column '{other[0]}' and {lacks} has none: open one of them, or make them alike"
            )
        for name, kind in zip(schema.names, schema.types, strict=True):
            joint = join_types(self.types.get(name), kind)
            if joint is None:
                raise HandfulError(
                    f"{block.where}: column '{name}' is {kind} there but {self.types[name]} in {self._first}: "
                    "make it one type"
                )
            self.types[name] = joint


def open_table_file(where: str, o: Options) -> Arrays:
    """A whole file as a source."""
    return _together([lambda: next(read_blocks(where, True, trained_dialect(o.schema)))], [PurePath()], o)


def open_zipped(archive: Path, name: str, o: Options) -> Arrays:
    """A table in a zip of nothing else."""
    read = [lambda: read_zipped(archive, name, trained_dialect(o.schema))]
    return _together(read, [PurePath()], o, f"{name} is read from the zip.")


def open_parts(root: Path, files: Sequence[PurePath], o: Options) -> Arrays:
    """The rows of all files, one after the other in sorted order. files: relative to `root`; the folders `key=value`
    that they lie in are columns."""
    dialect = trained_dialect(o.schema) or table_dialect([str(root / file) for file in files])
    reads = [lambda file=file: next(read_blocks(str(root / file), True, dialect)) for file in files]
    return _together(reads, files, o, *[f"{len(files):,} files are read as one table."][: len(files) - 1])


def _together(reads: Sequence[Callable[[], TableBlock]], files: Sequence[PurePath], o: Options, *said: str) -> Arrays:
    """The rows of several files, or of one. files: for messages, and for their folders."""
    joint, notes, tables, gone = JointSchema(), dict.fromkeys(said), list[pa.Table](), list[Bad]()
    for read, file in zip(reads, files, strict=True):
        block = read().skipping(o)
        tables.append(block.as_trained(o.schema, label := block.label(o)))
        o = replace(o, decimal=block.decimal)
        gone += [b._replace(place=f"{file}: {b.place}" if file.name else b.place) for b in block.skipped or []]
        joint.add(block, tables[-1].schema)
        notes |= {block.note: None} if block.note else {}
    for number, (table, file) in enumerate(zip(tables, files, strict=True)):
        if dict(zip(table.column_names, table.schema.types, strict=True)) != joint.types:
            # read anew: "00501" alone may have been a number
            table = reads[number]().skipping(o).table(joint.types)
        table = table.select(list(joint.types))
        tables[number] = _with_folders(table, file, files) if len(file.parts) > 1 else table
    whole = pa.concat_tables([t.replace_schema_metadata(tables[0].schema.metadata) for t in tables])
    if label is not None and block.dialect is not None:
        found, words = typed(whole[label], partial(parse_cells, block.dialect))
        whole, o = whole.set_column(whole.column_names.index(label), label, found), replace(o, words=words)
    return open_table(whole, o, notes=[*notes, *(left_out(gone, len(whole), o) if gone else ())])


def _with_folders(table: pa.Table, file: PurePath, files: Sequence[PurePath]) -> pa.Table:
    """The table with a column for each folder `key=value` that the file lies in: whole numbers where all are."""
    for depth, folder in enumerate(file.parts[:-1]):
        key, equals, value = folder.partition("=")
        if not equals:
            return table
        every = {f.parts[depth].partition("=")[2] for f in files} - {_NOTHING}
        whole = all(re.fullmatch(r"-?\d{1,18}", v) for v in every)
        one = None if value == _NOTHING else int(value) if whole else unquote(value)
        kind = pa.int64() if whole else pa.large_string()
        if unquote(key) not in table.column_names:
            table = table.append_column(unquote(key), pa.array([one] * table.num_rows, kind))
    return table
