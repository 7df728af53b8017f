"""Several table files of one schema, read as one table: the parts of a data set, as other programs write it."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from urllib.parse import unquote

import pyarrow as pa

from handful.base.errors import HandfulError
from handful.data.arrays import Arrays
from handful.data.options import Options
from handful.data.tables.arrow import open_table
from handful.data.tables.files import TABLES, ending, join_types, read_table

_NOTHING = "__HIVE_DEFAULT_PARTITION__"  # the folder of rows that have no value


def parts(files: Sequence[PurePath]) -> list[PurePath]:
    """The files of a folder (relative to it) if they are the parts of one table, else none: of one kind, and either
    beside each other under names that differ in their digits alone, or in folders such as `year=2024/month=7`. Names
    that begin with an underscore are other programs' notes.

    >>> len(parts([PurePath(f"train-0000{k}-of-00002.parquet") for k in (0, 1)]))
    2
    >>> parts([PurePath("train.csv"), PurePath("test.csv")])
    []
    """
    kept = [f for f in files if not f.name.startswith("_")]
    if not kept or len({ending(f.name) for f in kept}) != 1 or ending(kept[0].name) not in TABLES:
        return []
    keys = {tuple(p.partition("=")[0] for p in f.parts[:-1]) for f in kept}
    if len(keys) == 1 and all("=" in p for f in kept for p in f.parts[:-1]) and keys != {()}:
        return kept
    alike = len({re.sub(r"\d+", "0", f.name) for f in kept}) == 1 and len({f.parent for f in kept}) == 1
    return kept if alike and len(kept) > 1 else []


def open_parts(root: Path, files: Sequence[PurePath], o: Options) -> Arrays:
    """The rows of all files, one after the other in sorted order. files: relative to `root`; the folders `key=value`
    that they lie in are columns."""
    read = [read_table(str(root / f)) for f in files]
    tables = [_with_folders(table, f, files) for (table, _), f in zip(read, files, strict=True)]
    types = _types(root, tables, files)
    try:
        whole = pa.concat_tables(
            [t.select(list(types)).cast(pa.schema(types.items(), t.schema.metadata)) for t in tables]
        )
    except pa.ArrowException as error:
        raise HandfulError(f"{o.name}: its files cannot be joined ({error}): make their columns alike.") from error
    notes = dict.fromkeys(note for _, note in read if note)
    return open_table(whole, o, notes=[f"{len(files):,} files are read as one table.", *notes])


def _types(where: Path, tables: Sequence[pa.Table], files: Sequence[PurePath]) -> dict[str, pa.DataType]:
    """The type of each column that holds the values of all files."""
    first = tables[0]
    types = dict(zip(first.column_names, first.schema.types, strict=True))
    for table, file in zip(tables, files, strict=True):
        other = set(table.column_names) ^ set(types)
        if other:
            name = sorted(other)[0]
            has, lacks = (files[0], file) if name in types else (file, files[0])
            raise HandfulError(
                f"{where / has} has a column '{name}' and {lacks} has none: open one of them, or make them alike."
            )
        for name, kind in zip(table.column_names, table.schema.types, strict=True):
            joint = join_types(types[name], kind)
            if joint is None:
                raise HandfulError(
                    f"{where / file}: column '{name}' is {kind} there but {types[name]} in {files[0]}: "
                    "make it one type."
                )
            types[name] = joint
    return types


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
