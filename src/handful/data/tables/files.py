"""The one reader of table files: CSV, JSON lines, Parquet and Arrow, here or far away, whole or in blocks."""

import contextlib
import io
import json
import lzma
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import fsspec
import pyarrow as pa
from pyarrow import csv as arrow_csv
from pyarrow import feather, parquet
from pyarrow import json as arrow_json

from handful.base.errors import TO_UTF8, HandfulError, brief
from handful.data.base import Column
from handful.data.media.bad_rows import WHOLE_ROWS, Bad, BadRows, is_object, of_whole_lines, ragged
from handful.data.options import Options
from handful.data.tables.arrow import check_names, likely_target
from handful.data.tables.cells.dialect import SAMPLE, Dialect
from handful.data.tables.cells.dialect import find as find_dialect
from handful.data.tables.cells.headers import are_letters
from handful.data.tables.cells.records import bare_text, header, text_blocks, unpacked
from handful.data.tables.cells.strings import conversion
from handful.data.tables.json_rows import of_json
from handful.data.tables.types import TEXT, beyond_int64, cell_type, plain, without_times

BLOCK = 16 << 20  # bytes of text parsed at a time
ROWS = 1 << 14  # rows of a Parquet or Arrow file at a time
# pyarrow parses in blocks and refuses a row longer than one; its default of 1 MB is short for documents.
_LONGEST, _HEAD, _QUOTES = 16 * 1024**2, 1 << 14, 1 << 26
_BROKEN = (pa.ArrowException, OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError,
           zlib.error, lzma.LZMAError, tokenize.TokenError, SyntaxError, MemoryError, TypeError)  # fmt: skip

Types = Mapping[str, pa.DataType]
PACKED = (".gz", ".bz2", ".xz", ".zst")
_TEXTS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".geojson")


@dataclass(frozen=True)
class TableBlock:
    """Some rows of a file. where: for messages; note: on how the file is written; loose: whether rows may lack columns;
    skipped: takes rows of too many or too few values, which stop it where it is None; dialect: of CSV; names: of its
    columns, where these are known before.

    parse: its Arrow table, where columns are named those alone, and texts of `types` where it can be told before.
    """

    where: str
    parse: Callable[[Types, Collection[str] | None, list[Bad] | None], pa.Table]
    note: str | None = None
    loose: bool = False
    skipped: list[Bad] | None = None
    dialect: Dialect | None = None
    names: tuple[str, ...] = ()

    def skipping(self, o: Options) -> "TableBlock":
        """The block, which skips such rows where the caller allows it."""
        return self if o.bad_rows == "stop" else replace(self, skipped=[])

    @property
    def decimal(self) -> str | None:
        """The sign before decimals."""
        return self.dialect.decimal if self.dialect else None

    def as_trained(self, trained: Mapping[str, Column], label: str | None = None) -> pa.Table:
        """The rows, where the cells of a text are read as those of the training data were, or as text if one of them
        cannot be; what other columns hold is found out. label: a column whose cells stay as they are written."""
        types = {name: cell_type(column) for name, column in trained.items()}
        own = {} if label is None else {label: TEXT}
        try:
            return plain(self.parse(types | own, None, self.skipped), trained)
        except HandfulError:
            if self.skipped:
                self.skipped.clear()
            return plain(self.parse(dict.fromkeys(types, TEXT) | own, None, self.skipped), trained)

    def label(self, o: Options) -> str | None:
        """The target, where this is CSV that is read for the first time; None also for one of codes, which are text."""
        goal = likely_target(self.names, o)
        known = self.dialect is None or goal in o.schema or goal in self.dialect.codes
        return goal if goal in self.names and not known else None

    def table(self, types: Types | None = None, only: Collection[str] | None = None) -> pa.Table:
        """The rows as a table that `plain` made, its columns of `types` and in their order where these are given; only:
        the columns that are needed."""
        table = plain(self.parse(types or {}, only, self.skipped))
        if types is None:
            return table
        columns = {}
        for name, wanted in types.items():
            if only is None or name in only:
                missing = self.loose and name not in table.column_names
                column = pa.chunked_array([pa.nulls(table.num_rows)]) if missing else table.column(name)
                columns[name] = column if column.type == wanted else self._cast(name, column, wanted)
        return pa.table(columns, metadata=table.schema.metadata)

    def _cast(self, name: str, column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
        try:
            return column.cast(wanted, safe=not pa.types.is_floating(wanted))  # whole numbers of any length
        except pa.ArrowException as error:
            raise HandfulError(
                f"{self.where}: column '{name}' is {column.type} there but {wanted} elsewhere: make it one type"
            ) from error


@contextlib.contextmanager
def reading(where: str, what: str, fix: str) -> Iterator[None]:
    """Turn a library's error into a sentence."""
    try:
        yield
    except HandfulError:
        raise
    except PermissionError as error:
        raise HandfulError(f"{where}: permission denied; change its permissions") from error
    except FileNotFoundError as error:
        raise HandfulError(f"{where} does not exist") from error
    except _BROKEN as error:
        reason = brief(error).rstrip(".")
        text = ".arff" in what or not what.startswith("a .")  # others are of bytes
        coded = text and ("invalid UTF8" in reason or reason.startswith("'utf-8' codec"))
        said = f"UTF-8: {TO_UTF8}" if coded else f"{what} that can be read ({reason}): {fix}"
        raise HandfulError(f"{where} is not {said}") from error


def ending(where: str) -> str:
    """The file name's ending, lower case, without the query of an address; ".csv.gz" and ".tar.xz" count as one.

    >>> ending("a/B.CSV.gz"), ending("https://host/x.parquet?signature=a/b.c"), ending("b.csv.zst")
    ('.csv.gz', '.parquet', '.csv.zst')
    """
    name = (where.partition("?")[0] if is_remote(where) and "=" in where else where).rsplit("/", 1)[-1].lower()
    double = "." + ".".join(name.rsplit(".", 2)[-2:])
    if double.endswith(PACKED) and double.startswith((*_TEXTS, ".tar")):
        return double
    return "." + name.rsplit(".", 1)[-1] if "." in name else ""


def is_remote(where: str) -> bool:
    """Whether it names a protocol, as in s3://bucket/key."""
    return "://" in where


def open_stream(where: str) -> BinaryIO:
    """The bytes of a file, local, or remote through fsspec."""
    if not is_remote(where):
        return open(where, "rb")
    try:
        stream: BinaryIO = fsspec.open(where, "rb").open()
    except (ImportError, ValueError) as error:
        raise HandfulError(f"{where} cannot be opened: {error}") from error
    return stream


class _Format(NamedTuple):
    """A kind of table file: what it is called, how a broken one is mended, and what reads it in blocks of about so many
    bytes or rows, or whole."""

    what: str
    fix: str
    blocks: Callable[[BinaryIO, str, bool, Dialect | None], Iterator[TableBlock]]


def read_blocks(where: str, whole: bool = False, table: Dialect | None = None) -> Iterator[TableBlock]:
    """The rows of a file that ends as one of TABLES, else of CSV, in blocks, or in one. table: the dialect of the table
    of which the file is a part, or as `trained_dialect`."""
    what, fix, blocks = TABLES.get(ending(where), _CSV)
    with reading(where, what, fix), open_stream(where) as stream:
        if not stream.read(1):
            raise HandfulError(f"{where} is empty (0 bytes)")
        stream.seek(0)
        yield from blocks(stream, where, whole, table)


def read_zipped(archive: Path, name: str, table: Dialect | None) -> TableBlock:
    """The rows of a table in a zip of nothing else (pandas called it as the zip, once). table: as in `read_blocks`."""
    where = f"{archive}: {name}"
    with reading(where, "a table", "pack it again"), zipfile.ZipFile(archive) as opened, opened.open(name) as member:
        return next(TABLES[ending(name.removesuffix(".zip"))].blocks(io.BytesIO(member.read()), where, True, table))


def table_dialect(files: Sequence[str]) -> Dialect | None:
    """How a table whose parts are `files` is written: as its first records are, as if it were one file."""
    head, first = b"", None
    for file in files if ".csv" in ending(files[0]) else ():
        with reading(file, _CSV.what, _CSV.fix), open_stream(file) as stream:
            more = unpacked(stream, file).read(SAMPLE + 1 - len(head))
        first = first or find_dialect(more, ".csv")
        head += b"".join(more.splitlines(keepends=True)[first.skip + (not first.names) :]) if head else more
        if len(head) > SAMPLE:
            break
    return find_dialect(head, ".csv") if head else None


def _csv(stream: BinaryIO, where: str, whole: bool, table: Dialect | None) -> Iterator[TableBlock]:
    data = unpacked(stream, where)
    trained = table if table is not None and not table.separator else None
    dialect = find_dialect(data.read(SAMPLE + 1), ending(where), trained)
    if table is not None and table.separator == dialect.separator:
        dialect = table
    data.seek(0)
    names = list(dialect.names) or None  # None: in the text itself
    for _ in range(dialect.skip):
        while data.readline().startswith(b"#") and dialect.comments:
            pass
    for place, text in _texts(data, where, whole, quoted=not dialect.bare):
        if whole and not dialect.bare and b'"' in text and len(text) < _QUOTES:
            dialect = dialect._replace(bare=are_letters(text.decode(errors="replace"), [dialect.separator], False))
        text = bare_text(text, dialect)
        if names is None and not whole:
            names, head = header(text, dialect)
            check_names(names, where)
            text = text[head:]
        if whole or text.strip():
            parse, known = partial(_parse_csv, text, place, names, dialect), names or header(text, dialect)[0]
            yield TableBlock(place, parse, dialect.note, dialect=dialect, names=tuple(known))


def _parse_csv(
    text: bytes,
    where: str,
    names: list[str] | None,
    dialect: Dialect,
    types: Types,
    only: Collection[str] | None,
    skipped: list[Bad] | None,
) -> pa.Table:
    """names: of the columns, where the text has no header; it is then parsed on one thread."""
    known = dict.fromkeys(dialect.codes, TEXT) | dict(types)
    with reading(where, TABLES[".csv"].what, TABLES[".csv"].fix):
        table = _read_csv(text, where, names, dialect, known, only, skipped)
        for name in beyond_int64(table, known):
            with contextlib.suppress(pa.ArrowInvalid):  # not all are whole
                again = _read_csv(text, where, names, dialect, {name: pa.uint64()}, [name], [])
                table = table.set_column(table.column_names.index(name), name, again[name])
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_binary(column.type):
            raise HandfulError(f"{where}: column '{name}' is not UTF-8: {TO_UTF8}")
    return table.replace_schema_metadata(dialect.metadata)


def _read_csv(
    text: bytes,
    where: str,
    names: list[str] | None,
    dialect: Dialect,
    types: Types,
    only: Collection[str] | None,
    skipped: list[Bad] | None,
) -> pa.Table:
    quote = False if dialect.bare else '"'
    parse = arrow_csv.ParseOptions(delimiter=dialect.separator, newlines_in_values=True, quote_char=quote)
    convert = conversion(dialect)
    convert.column_types = {name: types[name] for name in types.keys() & (types if names is None else names)}
    if only is not None:
        convert.include_columns = [name for name in names or only if name in only]
    size = _LONGEST if names is None else len(text) + 1
    options = arrow_csv.ReadOptions(use_threads=names is None, block_size=size, column_names=names)
    try:
        return arrow_csv.read_csv(pa.BufferReader(text), options, parse, convert)
    except pa.ArrowInvalid as error:
        if "Expected" not in str(error):
            raise
        options.use_threads = False  # once more: one thread counts the rows
        bad = [] if skipped is None else skipped
        parse.invalid_row_handler = partial(ragged, where, bad)
        table = arrow_csv.read_csv(pa.BufferReader(text), options, parse, convert)
        if skipped is None:
            raise BadRows(bad) from error
    return table


def _jsonl(stream: BinaryIO, where: str, whole: bool, table: Dialect | None) -> Iterator[TableBlock]:
    for place, text in _texts(unpacked(stream, where), where, whole, quoted=False):
        if text.strip():
            yield TableBlock(place, partial(_parse_jsonl, text, place, whole), loose=True)


def _parse_jsonl(
    text: bytes, where: str, whole: bool, types: Types, only: Collection[str] | None, skipped: list[Bad] | None
) -> pa.Table:
    options = arrow_json.ReadOptions(use_threads=whole, block_size=_LONGEST if whole else len(text) + 1)
    with reading(where, TABLES[".jsonl"].what, TABLES[".jsonl"].fix):
        str(text, "utf-8")  # which Arrow's reader takes for granted
        return of_whole_lines(text, where, skipped, partial(_read_lines, options))


def _read_lines(options: arrow_json.ReadOptions, text: bytes) -> pa.Table:
    """Lines of JSON, which has no times: strings like them are told by the first lines, and read as written."""

    def read(lines: bytes, stated: pa.Schema) -> pa.Table:
        return arrow_json.read_json(pa.BufferReader(lines), options, arrow_json.ParseOptions(explicit_schema=stated))

    end = text.find(b"\n", _HEAD) + 1 or len(text)
    head = table = read(text[:end], pa.schema([]))
    times = [field for field in head.schema if pa.types.is_timestamp(field.type)]
    if times:
        known = pa.schema([field for field in head.schema if not pa.types.is_null(field.type)])
        try:  # all in their order: Arrow is a tenth slower where some of them are stated
            table = read(text, without_times(known))
        except pa.ArrowInvalid:  # later lines hold other types
            table = read(text, without_times(pa.schema(times)))
    elif end < len(text):
        table = read(text, pa.schema([]))
    if (stated := without_times(table.schema)) != table.schema:  # one that later lines alone have
        table = read(text, stated)
    for name in beyond_int64(table):
        with contextlib.suppress(pa.ArrowInvalid):  # not all are whole
            whole = read(text, pa.schema([(name, pa.uint64())]))[name]
            table = table.set_column(table.column_names.index(name), name, whole)
    return table.select(dict.fromkeys([*head.column_names, *table.column_names]))


def _json(stream: BinaryIO, where: str, whole: bool, table: Dialect | None) -> Iterator[TableBlock]:
    """One value of JSON, or lines of it, which many tools call so, too."""
    text = unpacked(stream, where).read().decode("utf-8-sig")
    try:
        columns, note = of_json(json.loads(text), where)
    except json.JSONDecodeError:
        if not is_object(text.strip().encode().partition(b"\n")[0]):
            raise
        yield from _jsonl(io.BytesIO(text.encode()), where, whole, table)
        return
    yield replace(typed_block(where, pa.table(columns)), note=note)


def _parquet(stream: BinaryIO, where: str, whole: bool, table: Dialect | None) -> Iterator[TableBlock]:
    with parquet.ParquetFile(stream if is_remote(where) else where) as file:
        check_names(file.schema_arrow.names, where)
        if whole:
            yield typed_block(where, file.read())
            return
        groups = (file.iter_batches(ROWS, row_groups=[group]) for group in range(file.num_row_groups))
        yield from _placed(where, (pa.table(batch) for batches in groups for batch in batches))


def _arrow(stream: BinaryIO, where: str, whole: bool, table: Dialect | None) -> Iterator[TableBlock]:
    """Both layouts under one ending: the file format, and the stream format that some libraries write."""
    magic, _ = stream.read(6), stream.seek(0)
    if magic.startswith(b"FEA1"):  # what Feather was before it was Arrow's own format
        with warnings.catch_warnings(action="ignore"):
            old = feather.read_table(stream)
        yield from [typed_block(where, old)] if whole else _placed(where, iter([old]))
        return
    source = stream if is_remote(where) else pa.memory_map(where)
    with pa.ipc.open_file(source) if magic == b"ARROW1" else pa.ipc.open_stream(source) as reader:
        if whole:
            yield typed_block(where, reader.read_all())
            return
        count = getattr(reader, "num_record_batches", None)  # of the file format, which has no iterator
        batches = reader if count is None else map(reader.get_batch, range(count))
        yield from _placed(where, map(pa.table, batches))


def _placed(where: str, tables: Iterator[pa.Table]) -> Iterator[TableBlock]:
    row = 0
    for table in tables:
        for start in range(0, table.num_rows, ROWS):
            yield typed_block(f"{where}, row {row + start:,}", table.slice(start, ROWS))
        row += table.num_rows


def typed_block(where: str, table: pa.Table) -> TableBlock:
    """A block that states its types."""
    table.validate(full=True)  # the offsets of a damaged file lead out of its memory: the process would end
    maps = any(pa.types.is_map(field.type) for field in table.schema)  # of which other blocks may have other keys
    return TableBlock(where, lambda types, only, skipped: table, loose=maps)


_CSV = _Format("a CSV file", WHOLE_ROWS, _csv)
_JSONL = _Format("a JSON-lines file", "each line must be one object", _jsonl)
_ARROW = _Format("an Arrow file", "write it again", _arrow)
_JSON = _Format("a JSON file", "lines of one object each end in .jsonl", _json)
_OF_TEXT = {".csv": _CSV, ".tsv": _CSV, ".jsonl": _JSONL, ".ndjson": _JSONL, ".json": _JSON, ".geojson": _JSON}
TABLES: dict[str, _Format] = {
    **{f"{text}{packed}": kind for packed in ("", *PACKED) for text, kind in _OF_TEXT.items()},
    ".parquet": _Format("a Parquet file", "it may be cut short; download or write it again", _parquet),
    ".arrow": _ARROW,
    ".feather": _ARROW,
}
STREAMED = tuple(kind for kind, how in TABLES.items() if how is not _JSON)


def _texts(data: BinaryIO, where: str, whole: bool, quoted: bool) -> Iterator[tuple[str, bytes]]:
    """(what to call it, a piece of a text), or all of it."""
    if whole:
        yield where, data.read()
        return
    at = 0
    for text in text_blocks(data, BLOCK, quoted):
        yield f"{where}, after byte {at:,}", text
        at += len(text)
