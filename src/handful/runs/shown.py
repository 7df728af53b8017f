"""The rows of a mini-batch as a page shows them: where they stand, what they hold, and what the model saw of them."""

import csv
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet
from torch import Tensor

from handful.base.errors import HandfulError
from handful.base.plan import Row
from handful.data.base import Batch, Rows, Source, View
from handful.data.media.bad_rows import is_object
from handful.data.media.folder import file_names, table_files
from handful.data.tables.cells.dialect import SAMPLE
from handful.data.tables.cells.dialect import find as find_dialect
from handful.data.tables.cells.records import record_lines, unpacked
from handful.data.tables.files import ending, open_stream
from handful.runs.judge.examples import contents, pictures_of, shorten, sounds_of, units_of
from handful.transform.pipeline import Pipeline
from handful.transform.rows import original_rows
from handful.transform.steps.text import PAD, Tokenize

SEEN = "as the model saw it"
_LARGEST = 1 << 28  # bytes of a text whose lines are counted
HEARD, _SHOWN = 12, {"most": 8, "length": 300}  # sounds; columns and characters of a row


@dataclass
class Shown:
    """holds: of each row where it stands, its target and what it holds; pictures, seen: uint8 [m, C, H, W], in the
    data and as the model saw them (of sounds their spectrograms, low notes below); sounds: WAV files of some rows."""

    holds: list[Row]
    pictures: NDArray[np.uint8] | None = None
    seen: NDArray[np.uint8] | None = None
    sounds: list[bytes] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)  # of what they hold


def shown(source: Source, pipeline: Pipeline, batch: Batch, first: NDArray[np.int64]) -> Shown:
    """batch: the mini-batch as the model saw it, of rows of `source`; first: places in it of the rows to be heard."""
    raw = source.take(batch.rows)
    inputs = {} if pipeline.tokenizer else dict(pipeline.input.parts)
    names = [] if pipeline.tokenizer else [*([source.target] if source.target else []), *pipeline.uses]
    held = contents(source, raw, names, **_SHOWN)
    found = Shown(
        [where | {n: values[i] for n, values in held.items()} for i, where in enumerate(places(source, batch.rows))],
        units=units_of(source, held),
    )
    tokenizers = {"x": pipeline.tokenizer} if pipeline.tokenizer else {}
    for name, part in inputs.items():
        column, value = source.columns[part.uses[0]], batch.columns.get(name)
        if part.kind == "text" and part.steps and isinstance(step := part.steps[-1], Tokenize):
            tokenizers[name] = step
        elif part.kind == "audio" and isinstance(value, Tensor) and found.seen is None:
            found.sounds = sounds_of(source.take(batch.rows[first[:HEARD]]), part.uses[0], column, HEARD)
            heard = pictures_of(batch, name)
            found.seen = None if heard is None else heard[:, :, ::-1]
        elif isinstance(value, Tensor) and value.ndim == 4 and found.seen is None:
            found.pictures, found.seen = pictures_of(raw, part.uses[0]), pictures_of(batch, name)
    for name, step in tokenizers.items():
        said = SEEN if len(tokenizers) == 1 else f"{name} {SEEN}"
        for row, ids in zip(found.holds, batch.tensor(name), strict=True):
            row[said] = shorten(_written(step, ids.tolist()), _SHOWN["length"])
    return found


def _written(step: Tokenize, ids: list[int]) -> str:
    """The text of tokens; a point for each that was dropped on the way, of which padding is left."""
    while ids and ids[-1] == PAD:
        ids.pop()
    dropped = [i for i, token in enumerate(ids) if token == PAD]
    pieces = [step.text(ids[a + 1 : b]) for a, b in pairwise([-1, *dropped, len(ids)])]
    return " · ".join(pieces)


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
