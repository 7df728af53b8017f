"""Where rows stand in the user's files: the file of a picture or sound, the file and the line of a table's row."""

import csv
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from handful.base.errors import HandfulError
from handful.base.plan import Row
from handful.data.base import Rows, Source, View
from handful.data.media.bad_rows import is_object
from handful.data.media.folder import file_names, table_files
from handful.data.tables.dialect import SAMPLE, record_lines
from handful.data.tables.dialect import find as find_dialect
from handful.data.tables.files import ending, open_stream, unpacked
from handful.transform.rows import original_rows

_LARGEST = 1 << 28  # bytes of a text whose lines are counted


def places(source: Source, rows: Rows) -> list[Row]:
    """Of each row its file, where there are several, and its line, from 1, in a table that is text; {} where that is
    not certain."""
    ids, unknown = original_rows(source, rows).tolist(), [dict[str, object]() for _ in rows]
    while isinstance(source, View):
        source = source.base
    if source.where is None:
        return unknown
    if named := file_names(source.where):
        return [{"file": named[i]} for i in ids] if max(ids) < len(named) else unknown
    count = len(source) + (len(source.left_out[0]) if source.left_out else 0)
    try:
        files = table_files(source.where)
        for whole in (False, True):  # as it is where no line was skipped
            lines = [_lines(file, whole) for file in files]
            starts = [0, *accumulate(map(len, lines))]
            if starts[-1] == count:
                found = [int(np.searchsorted(starts, i, side="right")) - 1 for i in ids]
                return [_place(files[k], lines[k][i - starts[k]], len(files)) for i, k in zip(ids, found, strict=True)]
    except (HandfulError, OSError, UnicodeDecodeError, csv.Error, pa.ArrowException):
        pass  # it was another file then
    return unknown


def _place(file: Path, line: int, of: int) -> Row:
    return ({"file": file.name} if of > 1 else {}) | ({"line": line} if line else {})


def _lines(file: Path, whole: bool) -> list[int]:
    """The line of each row of a table, 0 where rows are no lines. whole: without those that cannot be read."""
    kind = ending(file.name)
    if kind == ".parquet":
        return [0] * int(parquet.ParquetFile(file).metadata.num_rows)
    if not kind.startswith((".csv", ".tsv", ".jsonl")) or file.stat().st_size > _LARGEST:
        return []
    with open_stream(str(file)) as stream:
        text = unpacked(stream, str(file)).read()
    if kind.startswith(".jsonl"):
        lines = enumerate(text.split(b"\n"), 1)
        return [number for number, line in lines if line.strip() and (not whole or is_object(line))]
    dialect = find_dialect(text[: SAMPLE + 1], kind)
    records = record_lines(text.decode(), dialect)
    width = len(dialect.names) or records[0][1]
    return [line for line, values in records[not dialect.names :] if values == width or not whole]
