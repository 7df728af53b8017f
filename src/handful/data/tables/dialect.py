"""How the values of a CSV file are set apart, and its decimals written: found from its first records."""

import csv
import io
import re
from typing import NamedTuple

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
