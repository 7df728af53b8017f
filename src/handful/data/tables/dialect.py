"""How the values of a CSV file are set apart, and its decimals written: found from its first records; its records."""

import csv
import io
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

SAMPLE = 1 << 16  # bytes at the start of a file that are looked at
RECORDS = 50
_SEPARATORS = (",", ";", "\t", "|")
_COMMA, _POINT = re.compile(r"\s*[+-]?\d+,\d+\s*"), re.compile(r"\s*[+-]?\d+\.\d+\s*")


class Dialect(NamedTuple):
    """The separator of values, and the sign before decimals."""

    separator: str = ","
    decimal: str = "."

    @property
    def note(self) -> str | None:
        """What is unusual about it, in a sentence."""
        if self == Dialect() or self.separator == "\t":
            return None
        decimals = ", and decimals are written with ','" if self.decimal == "," else ""
        return f"values are separated by '{self.separator}'{decimals}."


def find(head: bytes, ending: str) -> Dialect:
    """The dialect of a file that begins with `head` and ends in `ending`.

    A tab where the ending is .tsv; else a comma, unless the header and the records after it agree on the number of
    values with ';', a tab or '|' only. Decimals have a comma where some value would be such a number and none one with
    a point.

    >>> find(b"size;price\\n12,5;3\\n8,25;4\\n", ".csv")
    Dialect(separator=';', decimal=',')
    >>> find(b"text,label\\nfine; really,1\\n", ".csv").separator
    ','
    """
    if ending.startswith(".tsv"):
        return Dialect("\t")
    text, cut = head[:SAMPLE].decode("utf-8-sig", errors="replace"), len(head) > SAMPLE
    agreeing = [s for s in _SEPARATORS if _agree(_records(text, s, cut))]
    separator = agreeing[0] if agreeing else ","
    if separator == ",":
        return Dialect()
    values = [value for record in _records(text, separator, cut)[1:] for value in record]
    comma = any(map(_COMMA.fullmatch, values)) and not any(map(_POINT.fullmatch, values))
    return Dialect(separator, "," if comma else ".")


def _records(text: str, separator: str, cut: bool) -> list[list[str]]:
    """The first records; without the last one where the text was cut."""
    found: list[list[str]] = []
    try:
        for record in csv.reader(io.StringIO(text), delimiter=separator):
            if record:
                found.append(record)
            if len(found) > RECORDS:
                return found
    except csv.Error:  # a stray quote or a NUL: the parser will say where
        pass
    return found[:-1] if cut else found


def _agree(records: list[list[str]]) -> bool:
    return bool(records) and len(records[0]) > 1 and all(len(r) == len(records[0]) for r in records)


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
    while end >= 0 and block.count(b'"', 0, end) % 2:
        end = block.find(b"\n", end + 1)
    stop = len(block) if end < 0 else end + 1
    text = block[start:stop].decode("utf-8-sig").rstrip("\r\n")
    return next(csv.reader(io.StringIO(text), delimiter=dialect.separator), []), stop
