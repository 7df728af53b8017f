"""Files of tables and arrays -> sources: CSV, JSON lines, Parquet, Arrow, NumPy."""

import contextlib
import gzip
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa

from handful.base.errors import HandfulError
from handful.data.arrays import Arrays
from handful.data.options import Options
from handful.data.tables.arrow import check_names, open_table
from handful.data.tables.dialect import DATES, SAMPLE, Dialect
from handful.data.tables.dialect import find as find_dialect

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
    from handful.data.pairs import open_columns

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
    from handful.data.npz import read_npz
    from handful.data.pairs import open_columns

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


BLOCK = 16 << 20  # bytes of text parsed at a time
ROWS = 1 << 14  # rows of a Parquet or Arrow file at a time
STREAMED = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".jsonl", ".jsonl.gz", ".parquet", ".arrow", ".feather")
Types = Mapping[str, Any]


class Raw(NamedTuple):
    """A table, or the text of one: data, where it begins (for messages), the names of its columns if it is CSV, and how
    that is written."""

    where: str
    data: Any
    names: list[str] | None = None
    dialect: Dialect = Dialect()


class TableFiles:
    """Many files of one schema."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files = list(files)
        self.classes: dict[str, tuple[str, ...]] = {}

    def __iter__(self) -> Iterator[Raw]:
        for file in self.files:
            kind = ending(file)
            if kind == ".parquet":
                yield from _parquet_blocks(file)
            elif kind in (".arrow", ".feather"):
                yield from _arrow_blocks(file)
            else:
                yield from _text(file, kind)

    def heads(self) -> Iterator[Raw]:
        """Text has to be read to the end; of a file that states its types the first block is enough."""
        for file in self.files:
            one = TableFiles([file])
            yield from islice(one, 1) if ending(file) in (".parquet", ".arrow", ".feather") else one


class DatasetFiles:
    """A Hugging Face data set, through its Arrow format."""

    def __init__(self, dataset: Any, name: str) -> None:
        if not hasattr(dataset, "__len__"):
            raise HandfulError(f"{name} is a streaming data set: load it without streaming=True.")
        self._dataset, self._name = dataset, name
        features = {key: getattr(feature, "names", None) for key, feature in dataset.features.items()}
        self.classes = {key: tuple(names) for key, names in features.items() if names}

    def __iter__(self) -> Iterator[Raw]:
        table = self._dataset.with_format("arrow")
        for start in range(0, len(self._dataset), ROWS):
            yield Raw(f"{self._name}, row {start:,}", table[start : start + ROWS])

    def heads(self) -> Iterator[Raw]:
        yield from islice(self, 1)


def parse(raw: Raw, types: Types) -> Any:
    """The Arrow table of one block, its columns of `types` where given, dictionaries and extensions unwrapped."""
    table = raw.data
    if raw.names is not None:
        table = _parse_csv(raw, types)
    elif isinstance(raw.data, bytes):
        table = _parse_json(raw, types)
    columns = {}
    for name, column in zip(table.column_names, table.columns):
        column = _plain(column)
        wanted = types.get(name)
        columns[name] = column if wanted is None or column.type == wanted else _cast(raw, name, column, wanted)
    return pa.table(columns)


def _plain(column: Any) -> Any:
    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array([c.storage for c in column.chunks], column.type.storage_type)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.large_string())
    return column


def _cast(raw: Raw, name: str, column: Any, wanted: Any) -> Any:
    try:
        return column.cast(wanted)
    except pa.ArrowException as error:
        raise HandfulError(
            f"{raw.where}: column '{name}' is {column.type} there but {wanted} elsewhere: make it one type."
        ) from error


def join_types(a: Any, b: Any) -> Any:
    """The narrowest type that holds both; text holds every single value. None when there is none."""
    t = pa.types
    if a is None or a == b or t.is_null(a):
        return b
    if t.is_null(b):
        return a
    if t.is_integer(a) and t.is_integer(b):
        return a if a.bit_width >= 64 and t.is_signed_integer(a) else pa.int64()
    if (t.is_integer(a) or t.is_floating(a)) and (t.is_integer(b) or t.is_floating(b)):
        return pa.float64()
    if t.is_nested(a) or t.is_nested(b):
        both = (t.is_list(a) or t.is_large_list(a)) and (t.is_list(b) or t.is_large_list(b))
        inner = join_types(a.value_type, b.value_type) if both else None
        return None if inner is None else pa.large_list(inner)
    binary = [t.is_binary(x) or t.is_large_binary(x) for x in (a, b)]
    if any(binary):
        return pa.large_binary() if all(binary) else None
    return pa.large_string()


def _parquet_blocks(file: str) -> Iterator[Raw]:
    from pyarrow import parquet

    with _reading(file, "a Parquet file", "it may be cut short; download or write it again"), _stream(file) as stream:
        opened = parquet.ParquetFile(stream)
        row = 0
        for group in range(opened.num_row_groups):
            for batch in opened.iter_batches(ROWS, row_groups=[group]):
                yield Raw(f"{file}, row {row:,}", pa.table(batch))
                row += batch.num_rows


def _arrow_blocks(file: str) -> Iterator[Raw]:
    with _reading(file, "an Arrow file", "write it again"), _stream(file) as stream:
        magic = stream.read(6)
        stream.seek(0)
        row = 0
        if magic == b"ARROW1":
            with pa.ipc.open_file(stream) as reader:
                for i in range(reader.num_record_batches):
                    for piece in _slices(pa.table(reader.get_batch(i))):
                        yield Raw(f"{file}, row {row:,}", piece)
                        row += piece.num_rows
            return
        with pa.ipc.open_stream(stream) as reader:
            for batch in reader:
                for piece in _slices(pa.table(batch)):
                    yield Raw(f"{file}, row {row:,}", piece)
                    row += piece.num_rows


def _slices(table: Any) -> Iterator[Any]:
    for start in range(0, table.num_rows, ROWS):
        yield table.slice(start, ROWS)


def _text(file: str, kind: str) -> Iterator[Raw]:
    csv = not kind.startswith(".jsonl")
    fix = "every row must have as many values as the header" if csv else "each line must be one object"
    with _reading(file, "a CSV file" if csv else "a JSON-lines file", fix), _stream(file) as stream:
        data: Any = gzip.GzipFile(fileobj=stream) if kind.endswith(".gz") else stream
        names: list[str] | None = None
        dialect = Dialect()
        at, empty = 0, True
        for block in text_blocks(data, BLOCK, quoted=csv):
            empty = False
            if csv and names is None:
                dialect = find_dialect(block[: SAMPLE + 1], kind)
                names, head = _header(block, dialect)
                block = block[head:]
            if block.strip():
                yield Raw(f"{file}, after byte {at:,}", block, names, dialect)
            at += len(block)
        if empty:
            raise HandfulError(f"{file} is empty (0 bytes).")


def text_blocks(stream: BinaryIO, size: int, quoted: bool) -> Iterator[bytes]:
    """A text in blocks of about `size` bytes, cut between records: at the end of a line outside quotes.

    >>> list(text_blocks(io.BytesIO(b'a\\n"b\\nb"\\nc'), 5, quoted=True))
    [b'a\\n', b'"b\\nb"\\n', b'c']
    """
    rest = b""
    while True:
        read = stream.read(size)
        rest += read
        if not read:
            if rest:
                yield rest
            return
        cut = _record_end(rest, quoted)
        if cut:
            yield rest[:cut]
            rest = rest[cut:]


def _record_end(block: bytes, quoted: bool) -> int:
    """Just after the last line end outside quotes, 0 if there is none. A block begins outside quotes."""
    end = block.rfind(b"\n")
    if not quoted or end < 0:
        return end + 1
    odd = block.count(b'"', 0, end) % 2
    while end >= 0 and odd:
        before = block.rfind(b"\n", 0, end)
        odd ^= block.count(b'"', max(before, 0), end) % 2
        end = before
    return end + 1


def _header(block: bytes, dialect: Dialect) -> tuple[list[str], int]:
    """The names in the first record, and its length in bytes."""
    import csv

    end = block.find(b"\n")
    while end >= 0 and block.count(b'"', 0, end) % 2:
        end = block.find(b"\n", end + 1)
    stop = len(block) if end < 0 else end + 1
    text = block[:stop].decode("utf-8-sig").rstrip("\r\n")
    return next(csv.reader(io.StringIO(text), delimiter=dialect.separator)), stop


def _parse_csv(raw: Raw, types: Types) -> Any:
    from pyarrow import csv

    assert raw.names is not None
    try:
        table = csv.read_csv(
            pa.BufferReader(raw.data),
            csv.ReadOptions(column_names=raw.names, block_size=len(raw.data) + 1, use_threads=False),
            csv.ParseOptions(delimiter=raw.dialect.separator, newlines_in_values=True),
            csv.ConvertOptions(
                column_types={n: t for n, t in types.items() if n in raw.names},
                decimal_point=raw.dialect.decimal,
                timestamp_parsers=[csv.ISO8601, *DATES],
            ),
        )
    except pa.ArrowException as error:
        raise HandfulError(f"{raw.where} is not CSV that can be read ({_short(error)}): correct that row.") from error
    for name, column in zip(table.column_names, table.columns):
        if pa.types.is_binary(column.type):
            raise HandfulError(f"{raw.where}: column '{name}' is not UTF-8: convert the file, for example with iconv.")
    return table


def _parse_json(raw: Raw, types: Types) -> Any:
    from pyarrow import json

    schema = pa.schema(list(types.items())) if types else None
    try:
        return json.read_json(
            pa.BufferReader(raw.data),
            json.ReadOptions(block_size=len(raw.data) + 1, use_threads=False),
            json.ParseOptions(explicit_schema=schema),
        )
    except pa.ArrowException as error:
        raise HandfulError(f"{raw.where} is not JSON lines that can be read ({_short(error)}): correct it.") from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")
