"""The text in a file; that of a CSV file cut into its records: blocks between them, header, the lines they begin in."""

import bz2
import codecs
import csv
import gzip
import io
import lzma
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal, cast

import pyarrow as pa

from handful.data.tables.cells.dialect import SAMPLE, Dialect, unpadded
from handful.data.tables.cells.fixed import apart
from handful.data.tables.cells.headers import BLANKS

# A quoted value; blanks between two values; those at either end of a line.
_RUNS = re.compile(rb'("[^"]*")|(?<=[^\s])([ \t]+)(?=[^\s])|[ \t]+')


def unpacked(stream: BinaryIO, where: str) -> BinaryIO:
    """The text in a file that is packed or in UTF-16, to be read from its beginning as often as is needed."""
    match Path(where.lower()).suffix:
        case ".gz":
            return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
        case ".bz2":
            return cast(BinaryIO, bz2.BZ2File(stream))
        case ".xz":
            return cast(BinaryIO, lzma.LZMAFile(stream))
        case ".zst":  # pyarrow's stream cannot go back
            return io.BytesIO(pa.CompressedInputStream(stream, "zstd").read())
    wide, _ = stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), stream.seek(0)
    if wide:
        return io.BytesIO(stream.read().decode("utf-16").encode())
    head, _ = stream.read(SAMPLE), stream.seek(0)
    old = b"\r" in head and b"\n" not in head  # lines end as on a Macintosh
    return io.BytesIO(stream.read().replace(b"\r", b"\n")) if old else stream


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


def header(block: bytes, dialect: Dialect) -> tuple[list[str], int]:
    """The names in the first record, and its length in bytes."""
    start = len(block) - len(block.lstrip(b"\r\n"))
    end = block.find(b"\n", start)
    while end >= 0 and not dialect.bare and block.count(b'"', 0, end) % 2:
        end = block.find(b"\n", end + 1)
    stop = len(block) if end < 0 else end + 1
    text = block[start:stop].decode("utf-8-sig").rstrip("\r\n")
    return next(csv.reader(io.StringIO(text), delimiter=dialect.separator, quoting=quoting(dialect)), []), stop


def quoting(dialect: Dialect) -> Literal[0, 3]:
    """As Python's csv has it."""
    return csv.QUOTE_NONE if dialect.bare else csv.QUOTE_MINIMAL


def record_lines(text: str, dialect: Dialect) -> list[tuple[int, int]]:
    """(the line in which it begins, counted from 1; how many values) of each record, the header too; no blank lines.

    >>> record_lines('a,b\\n1,"x\\ny"\\n\\n2,z\\n3\\n', Dialect())
    [(1, 2), (2, 2), (5, 2), (6, 1)]
    """
    lines = io.StringIO(apart(text.removeprefix("\ufeff"), dialect.gaps), newline="")
    for _ in range(dialect.skip):
        lines.readline()
    blanks, at, found = dialect.separator == BLANKS, 0, list[tuple[int, int]]()
    reader = csv.reader(lines, delimiter=dialect.separator, skipinitialspace=blanks, quoting=quoting(dialect))
    for record in reader:
        if record and not (dialect.comments and record[0].startswith("#")):
            found.append((dialect.skip + at + 1, len(record)))
        at = reader.line_num
    return found


def bare_text(text: bytes, dialect: Dialect) -> bytes:
    """A text with one separator between values, without the blanks that pad them and without comments.

    >>> bare_text(b' 1  "a  b"\t2 \\n', Dialect(BLANKS))
    b'1 "a  b" 2\\n'
    """
    if dialect.comments:
        text = re.sub(rb"(?m)^#.*\n?", b"", text)
    if dialect.gaps:
        return apart(text.decode(errors="surrogateescape"), dialect.gaps).encode(errors="surrogateescape")
    if dialect.padded:
        return unpadded(text.decode(errors="surrogateescape"), dialect.separator).encode(errors="surrogateescape")
    return (
        _RUNS.sub(lambda found: found[1] or (b" " if found[2] else b""), text) if dialect.separator == BLANKS else text
    )
