"""Files of tables and arrays -> sources: CSV, JSON lines, Parquet, Arrow, NumPy."""

import contextlib
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa

from ..errors import HandfulError
from .arrays import Arrays
from .dialect import DATES, SAMPLE
from .dialect import find as find_dialect
from .options import Options
from .table import check_names, open_table

# pyarrow parses in blocks and refuses a row longer than one; its default of 1 MB is short for documents.
_LONGEST = 16 * 1024**2


_BROKEN = (pa.ArrowException, OSError, ValueError, EOFError, KeyError, BadZipFile, NotImplementedError, zlib.error)


@contextlib.contextmanager
def _reading(where: str, what: str, fix: str) -> Iterator[None]:
    """Turn a library's error into a sentence."""
    try:
        yield
    except HandfulError:
        raise
    except PermissionError as error:
        raise HandfulError(f"{where} may not be read by you: change its permissions.") from error
    except FileNotFoundError as error:
        raise HandfulError(f"{where} does not exist.") from error
    except UnicodeDecodeError as error:
        raise HandfulError(f"{where} is not UTF-8: convert it, for example with iconv -f latin1 -t utf8.") from error
    except _BROKEN as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise HandfulError(f"{where} is not {what} that can be read ({reason}): {fix}.") from error


def open_file(where: str, o: Options) -> Arrays:
    """Any supported file, local, or remote through fsspec."""
    reader = READERS.get(ending(where))
    if reader is None:
        raise HandfulError(f"{where}: remote files may end in {', '.join(READERS)}; copy others to this machine first.")
    return reader(where, o)


def ending(where: str) -> str:
    """The file name's ending, lower case; ".csv.gz" and ".tar.xz" count as one.

    >>> ending("a/B.CSV.gz"), ending("x.parquet")
    ('.csv.gz', '.parquet')
    """
    name = where.rsplit("/", 1)[-1].lower()
    for double in (".csv.gz", ".tsv.gz", ".jsonl.gz", ".tar.gz", ".tar.bz2", ".tar.xz"):
        if name.endswith(double):
            return double
    return "." + name.rsplit(".", 1)[-1] if "." in name else ""


def is_remote(where: str) -> bool:
    """Whether it names a protocol, as in s3://bucket/key."""
    return "://" in where


def _stream(where: str) -> Any:
    if is_remote(where):
        import fsspec

        try:
            return fsspec.open(where, "rb").open()
        except (ImportError, ValueError) as error:
            raise HandfulError(f"{where} cannot be opened: {error}.") from error
    return open(where, "rb")


class _Format(NamedTuple):
    """A kind of table file: what it is called, how a broken one is mended, and what reads it."""

    what: str
    fix: str
    read: Callable[[BinaryIO, str], Any]


def read_table(where: str) -> tuple[Any, str | None]:
    """The Arrow table of a file that ends as one of TABLES, and a note on how it is written, if there is one."""
    what, fix, read = TABLES[ending(where)]
    with _reading(where, what, fix), _stream(where) as stream:
        if not stream.read(1):
            raise HandfulError(f"{where} is empty (0 bytes).")
        stream.seek(0)
        table = read(stream, where)
    return table if isinstance(table, tuple) else (table, None)


def _open_table(where: str, o: Options) -> Arrays:
    table, note = read_table(where)
    return open_table(table, o, notes=[note] if note else [])


def open_zipped(archive: Path, name: str, o: Options) -> Arrays:
    """A table in a zip of nothing else."""
    read = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".json": _json}[ending(name)]
    where = f"{archive}: {name}"
    with _reading(where, "a table", "pack it again"), zipfile.ZipFile(archive) as opened, opened.open(name) as member:
        table = read(io.BytesIO(member.read()), name)
    table, note = table if isinstance(table, tuple) else (table, None)
    return open_table(table, o, notes=[f"{name} is read from the zip."] + ([note] if note else []))


def _csv(stream: BinaryIO, where: str) -> Any:
    from pyarrow import csv

    data: Any = stream
    if where.lower().endswith(".gz"):
        data = pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "gzip")
    content = data.read()
    raw, dialect = pa.BufferReader(content), find_dialect(bytes(content[: SAMPLE + 1]), ending(where))
    parse = csv.ParseOptions(delimiter=dialect.separator, newlines_in_values=True)
    types = csv.ConvertOptions(decimal_point=dialect.decimal, timestamp_parsers=[csv.ISO8601, *DATES])
    try:
        table = csv.read_csv(raw, csv.ReadOptions(block_size=_LONGEST), parse, types)
    except pa.ArrowInvalid as error:
        if "Expected" not in str(error):
            raise
        raw.seek(0)  # once more on one thread, which counts the rows
        table = csv.read_csv(raw, csv.ReadOptions(use_threads=False, block_size=_LONGEST), parse, types)
    for name, column in zip(table.column_names, table.columns):
        if pa.types.is_binary(column.type):
            raise HandfulError(f"{where}: column '{name}' is not UTF-8: convert the file, for example with iconv.")
    return table, dialect.note


def _jsonl(stream: BinaryIO, where: str) -> Any:
    from pyarrow import json

    data: Any = stream
    if where.lower().endswith(".gz"):
        data = pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "gzip")
    return json.read_json(pa.BufferReader(data.read()), json.ReadOptions(block_size=_LONGEST))


def _json(stream: BinaryIO, where: str) -> Any:
    """A list of objects, one a row, or an object of columns, as pandas writes them."""
    import json

    found = json.loads(stream.read().decode("utf-8-sig"))
    if isinstance(found, list) and found and all(isinstance(row, dict) for row in found):
        return pa.Table.from_pylist(found)
    if isinstance(found, dict) and found and all(isinstance(column, list | dict) for column in found.values()):
        columns = {k: list(v.values()) if isinstance(v, dict) else v for k, v in found.items()}
        if len({len(v) for v in columns.values()}) == 1:
            return pa.table(columns)
    raise HandfulError(f"{where} is neither a list of objects, one a row, nor an object of columns of one length.")


def _parquet(stream: BinaryIO, where: str) -> Any:
    from pyarrow import parquet

    source = where if not is_remote(where) else stream
    file = parquet.ParquetFile(source)
    with file:
        check_names(file.schema_arrow.names, where)
        return file.read()


def _arrow(stream: BinaryIO, where: str) -> Any:
    """Both layouts under one ending: the file format, and the stream format that some libraries write."""
    magic = stream.read(6)
    stream.seek(0)
    source = pa.memory_map(where) if not is_remote(where) else pa.BufferReader(stream.read())
    with pa.ipc.open_file(source) if magic == b"ARROW1" else pa.ipc.open_stream(source) as reader:
        return reader.read_all()


def _npy(where: str, o: Options) -> Arrays:
    from .pairs import open_columns

    fix = "write it again with numpy.save(..., allow_pickle=False)"
    with _reading(where, "a .npy file", fix):
        if is_remote(where):
            with _stream(where) as stream:
                array = np.load(io.BytesIO(stream.read()), allow_pickle=False)
        else:
            # mode "c": pages are private copies when written to, so that torch may wrap them
            array = np.load(where, mmap_mode="c" if Path(where).stat().st_size else None, allow_pickle=False)
    return open_columns({"x": array}, o)


def _npz(where: str, o: Options) -> Arrays:
    from .npz import read_npz
    from .pairs import open_columns

    fix = "write it again with numpy.savez, without objects"
    with _reading(where, "a .npz file", fix):
        if not is_remote(where):
            columns = read_npz(Path(where), o.budget)
        else:
            with _stream(where) as stream, np.load(stream, allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
    return open_columns(columns, o)


_CSV = _Format("a CSV file", "every row must have as many values as the header, quoted where needed", _csv)
_JSONL = _Format("a JSON-lines file", "each line must be one object", _jsonl)
_ARROW = _Format("an Arrow file", "write it again", _arrow)

TABLES: dict[str, _Format] = {
    ".csv": _CSV,
    ".tsv": _CSV,
    ".csv.gz": _CSV,
    ".tsv.gz": _CSV,
    ".json": _Format("a JSON file", "lines of one object each end in .jsonl", _json),
    ".jsonl": _JSONL,
    ".jsonl.gz": _JSONL,
    ".parquet": _Format("a Parquet file", "it may be cut short; download or write it again", _parquet),
    ".arrow": _ARROW,
    ".feather": _ARROW,
}
READERS: dict[str, Callable[[str, Options], Arrays]] = {
    **dict.fromkeys(TABLES, _open_table),
    ".npy": _npy,
    ".npz": _npz,
}
