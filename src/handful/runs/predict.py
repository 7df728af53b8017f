"""Predictions of a run to a file or to standard output, in bounded memory."""

import csv
import json
import math
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from handful.base.errors import HandfulError, shown
from handful.base.files import atomic, replacing, written_down
from handful.data.base import Batch, Column, Source, Windows
from handful.data.media.folder import file_names
from handful.data.tables.cells.dialect import SAMPLE
from handful.data.tables.cells.dialect import find as find_dialect
from handful.runs.judge.examples import contents
from handful.runs.raw_input import open_raw
from handful.runs.run import Run
from handful.transform.columns import windows_of
from handful.transform.rows import of_own_lengths
from handful.transform.seen import unlike

Chunk = dict[str, list[object]]  # column -> values; all columns are as long


def write_predictions(run: Run, data: object, out: Path | None, *, probabilities: bool = False, beams: int = 1) -> None:
    """Predict every row of the data, in its order; write .csv, .jsonl or .parquet, or CSV to standard output.

    data: anything `handful.open` reads, with or without the target; or a binary stream of CSV with a header line.
    Columns: row (from 0; of windows of a series the last row before what is predicted, with its series and time); file,
    for a folder or zip of files; prediction (prediction_NAME for several labels or numbers); with `probabilities` one
    per class (label), probability_NAME (of several targets probability_TARGET=NAME). The file appears whole or not,
    and only one batch is in memory at a time. Raises HandfulError for an unknown ending, and where the data do
    not fit the run.
    """
    if out is not None and out.suffix not in _WRITERS:
        raise HandfulError(f"{out.name}: predictions are written as .csv, .jsonl or .parquet")
    if out is not None:
        replacing(out, *(data if isinstance(data, list) else [data]))
    chunks = predicted_of(run, data, probabilities=probabilities, beams=beams)
    if run.rank > 0:  # rank 0 writes for all
        deque(chunks, maxlen=0)
        return
    if out is None:
        _write_csv(sys.stdout, chunks)
        return
    with atomic(out) as temporary:
        _WRITERS[out.suffix](Path(temporary), chunks)
    print(shown(out))


def predicted_of(run: Run, data: object, *, probabilities: bool = False, beams: int = 1) -> Iterator[Chunk]:
    """The predictions of several files, one after the other, with a column `file`; of a binary stream of CSV; else of
    what `predicted` takes."""
    match data:
        case BufferedIOBase():
            with _spooled(data, run.pipeline.schema) as rows:
                yield from predicted(run, rows, probabilities=probabilities, beams=beams)
        case [str(), *_] if all(Path(str(part)).exists() for part in data):
            for part in map(str, data):
                for chunk in predicted(run, part, probabilities=probabilities, beams=beams):
                    yield {"row": chunk["row"], "file": [part] * len(chunk["row"]), **chunk}
        case _:
            yield from predicted(run, data, probabilities=probabilities, beams=beams)


def predicted(run: Run, data: object, *, probabilities: bool = False, beams: int = 1) -> Iterator[Chunk]:
    """The predictions batch by batch; columns as `write_predictions` says. beams: as in `Run.predict`."""
    task = run.pipeline.task
    if probabilities and not (task in ("classification", "multilabel") or run.pipeline.several):
        raise HandfulError(f"this run's task is {task}: it has no class probabilities")
    target = run.pipeline.target
    if probabilities and task == "classification" and target is not None and target.dense:
        raise HandfulError(
            "probabilities of every place do not fit a table; in Python: run.predict(data, probabilities=True)"
        )
    source = run.open(data, need_target=False).source
    files, windows = file_names(source.where), windows_of(source)
    for note in unlike(source, run.pipeline) if run.rank == 0 else ():
        print(f"handful: note: {shown(note)}", file=sys.stderr)
    for batch, outputs in run.stream(source):
        chunk: Chunk = _ends(windows, batch) if windows else {"row": batch.rows.tolist()}
        if files:
            chunk["file"] = [files[row] if row < len(files) else "" for row in batch.rows.tolist()]
        values = run.pipeline.decode(outputs, beams, partial(_called, chunk["row"], source.name))
        values = of_own_lengths(values, target, source, batch.rows)
        chunk |= _columns("prediction", values, run.pipeline.names)
        if probabilities:
            numbers = np.round(run.pipeline.probabilities(outputs).numpy(), 6)
            chunk |= {f"probability_{name}": numbers[:, k].tolist() for k, name in enumerate(run.pipeline.of_classes)}
        yield chunk


def _called(rows: list[object], where: str, k: int) -> str:
    return f"{rows[k]} of {where}"


def _ends(windows: Windows, batch: Batch) -> Chunk:
    """Where each window of the batch ends: the row of the table, and what it has in the columns of order and series."""
    rows = windows.ids(batch.rows)
    names = [name for name in (windows.by, windows.order) if name is not None]
    read = windows.base.take(rows, names)
    return {"row": rows.tolist(), **contents(windows.base, read, names, most=2, length=200)}


def _columns(name: str, values: NDArray[Any], names: tuple[str, ...]) -> Chunk:
    """One column of values [m], or one for each of the numbers of a row [m, ...], called by its name or number."""
    if values.dtype.names:  # several targets
        return {f"{name}_{part}": _plain(values[part]) for part in values.dtype.names}
    if values.ndim == 1:
        return {name: _plain(values)}
    flat = values.reshape(len(values), -1)
    parts = names if len(names) == flat.shape[1] else range(flat.shape[1])
    return {f"{name}_{part}": _plain(flat[:, k]) for k, part in enumerate(parts)}


def _plain(values: NDArray[np.generic]) -> list[object]:
    """Python's own values; a sequence of labels as text.

    A float32 becomes the shortest number that reads back as it (0.3, not 0.30000001192092896).
    """
    if values.dtype == np.float32:
        return [float(str(v)) for v in values]
    if values.dtype == object:
        return [" ".join(map(str, v)) if isinstance(v, np.ndarray) else v for v in values]
    return list(values.tolist())


def _write_csv(file: IO[str], chunks: Iterator[Chunk]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    for k, chunk in enumerate(chunks):
        if k == 0:
            writer.writerow(chunk)
        writer.writerows(zip(*chunk.values(), strict=True))


def _csv_file(path: Path, chunks: Iterator[Chunk]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        _write_csv(file, chunks)


def _json_file(path: Path, chunks: Iterator[Chunk]) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for chunk in chunks:
            for values in zip(*chunk.values(), strict=True):
                known = {k: v for k, v in zip(chunk, values, strict=True) if type(v) is not float or math.isfinite(v)}
                row = dict.fromkeys(chunk) | known  # JSON has no NaN, no infinity and, as str writes them, no dates
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False, default=str) + "\n")


def _parquet_file(path: Path, chunks: Iterator[Chunk]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: pq.ParquetWriter | None = None
    try:
        for chunk in chunks:
            table = pa.table(chunk, schema=writer.schema if writer else None)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer:
            writer.close()


_WRITERS: dict[str, Callable[[Path, Iterator[Chunk]], None]] = {
    ".csv": _csv_file,
    ".jsonl": _json_file,
    ".parquet": _parquet_file,
}


@contextmanager
def _spooled(stream: BufferedIOBase, schema: Mapping[str, Column]) -> Iterator[Source]:
    """Standard input as a file of CSV or JSON Lines, to be read as one: same types, same missing values.

    For a model of one text it may also be lines of text: it is that where the first line does not name the column.
    """
    with tempfile.TemporaryDirectory(prefix="handful-") as folder:
        path = written_down(stream, Path(folder) / "input")
        if path.suffix == ".csv" and [column.kind for column in schema.values()] == ["text"]:
            with open(path, "rb") as sample:
                dialect = find_dialect(sample.read(SAMPLE + 1), ".csv")
            with open(path, encoding="utf-8-sig", errors="replace", newline="") as lines:
                header = next(csv.reader(lines, delimiter=dialect.separator), [])
            if not set(schema) & set(header):
                path = path.rename(path.with_suffix(".txt"))
        yield open_raw(path, schema, "standard input")
