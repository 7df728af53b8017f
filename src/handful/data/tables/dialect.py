"""How the values of a CSV file are set apart, its decimals and its header written: found from its first records."""

import csv
import io
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import BinaryIO, NamedTuple

from handful.data.base import Column
from handful.data.tables.reading import TIME_NAME
from handful.data.tables.types import TEXT
from handful.data.tables.written import is_unit

SAMPLE = 1 << 16  # bytes at the start of a file that are looked at
RECORDS = 50
_SEPARATORS = (",", ";", "\t", "|")
BLANKS = " "  # one or more of them
_TITLES = 10  # lines among which the header is looked for
_OF_TITLES = " ,;|\t\r\n\ufeff"  # around a title
# A quoted value; blanks between two values; those at either end of a line.
_RUNS = re.compile(rb'("[^"]*")|(?<=[^\s])([ \t]+)(?=[^\s])|[ \t]+')
_COMMA, _POINT = re.compile(r"\s*[+-]?\d+,\d+\s*"), re.compile(r"\s*[+-]?\d+\.\d+\s*")
_NUMBER = re.compile(r"\s*[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?\s*")
_DIGIT, VERSION = re.compile(r"\d"), re.compile(r"\d{1,3}\.[0-3]?\d")
_NOTHING = {"", "?", "na", "n/a", "nan", "null", "-", "none"}


class Dialect(NamedTuple):
    """The separator of values, and the sign before decimals. names: of the columns, where the file has no header;
    skip: lines before the header, or before the values; title: the first of these; classes: those that the first line
    names, which counts rows and columns, as in scikit-learn's files; codes: the columns that are no numbers, though of
    digits alone, see `_codes`; below: what stands in a second line of the header, see `_two_lines`."""

    separator: str = ","
    decimal: str = "."
    names: tuple[str, ...] = ()
    skip: int = 0
    title: str = ""
    classes: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    below: str = ""

    @property
    def note(self) -> str | None:
        """What is unusual about it, in a sentence or two."""
        found = []
        if self.separator == BLANKS:
            found.append("values are separated by blanks.")
        elif self.separator not in (",", "\t") or self.decimal == ",":
            decimals = ", and decimals are written with ','" if self.decimal == "," else ""
            found.append(f"values are separated by '{self.separator}'{decimals}.")
        if self.title:
            line = self.skip + 1 - 2 * bool(self.below)
            found.append(f"the header is in line {line}; what stands before it is left out: '{self.title}'.")
        if self.classes:
            found.append(
                "the first line counts rows and columns and names the classes, as in files of scikit-learn: the "
                f"columns are named {self.names[0]} to {self.names[-2]} and {self.names[-1]}."
            )
        elif self.below:
            found.append(f"the header has two lines: {self.below}.")
        elif self.names:
            found.append(
                f"the first line holds values, not names: the columns are named {self.names[0]} to {self.names[-1]}."
            )
        if self.codes:
            why = "whole numbers of one length with zeros in front, or such as 1.1 beside 1.10"
            found.append(f"names, not numbers ({why}): {', '.join(self.codes)}.")
        return " ".join(found) or None

    @property
    def metadata(self) -> dict[str, str] | None:
        """The classes that the whole numbers of the last column stand for, in a schema, as Hugging Face writes them."""
        features = {self.names[-1]: {"names": self.classes}} if self.classes else None
        return {"huggingface": json.dumps({"info": {"features": features}})} if features else None


def trained_dialect(trained: Mapping[str, Column]) -> Dialect | None:
    """What training learned of how tables are written, whatever stands between their values."""
    typed = (column for column in trained.values() if column.type not in (None, str(TEXT)))
    decimal = next((column.decimal for column in typed if column.decimal), "")
    return Dialect("", decimal, tuple(trained)) if trained else None


def find(head: bytes, ending: str, trained: Dialect | None = None) -> Dialect:
    """The dialect of a file that begins with `head` and ends in `ending`. trained: what training learned of such files:
    the sign before decimals, and the names of columns, by which it is known whether the file has a header.

    A tab where the ending is .tsv; else a comma, unless the header and the records after it agree on the number of
    values with ';', a tab or '|' only, or with blanks where some column is of numbers. Decimals have a comma where some
    value would be such a number and none one with a point.

    >>> find(b"size;price\\n12,5;3\\n8,25;4\\n", ".csv")[:2]
    (';', ',')
    >>> find(b"text,label\\nfine; really,1\\n", ".csv").separator
    ','
    >>> find(b"5.1,3.5,setosa\\n4.9,3.0,setosa\\n", ".csv").names
    ('column_0', 'column_1', 'column_2')
    """
    text, cut = head[:SAMPLE].decode("utf-8-sig", errors="replace"), len(head) > SAMPLE
    separators = ("\t",) if ending.startswith(".tsv") else _SEPARATORS
    if not ending.startswith(".tsv") and (counted := _counted(_records(text, ",", cut))):
        return counted
    skip, title = _before_header(text, cut, separators, trained)
    text = text.split("\n", skip)[skip]
    found = _as_trained(text, cut, separators, trained) if trained else _of_new(text, cut, separators)
    records = _records(text, found.separator, cut)
    if not found.names and (two := _two_lines(records)) and (not trained or {*two[0]} & {*trained.names}):
        names, below = two
        codes = found.codes if trained else _codes(names, records[2:])
        return found._replace(skip=skip + 2, title=title, names=names, below=below, codes=codes)
    return found._replace(skip=skip, title=title)


def _two_lines(records: list[list[str]]) -> tuple[tuple[str, ...], str] | None:
    """(the names of columns, what is said of it) where two records of words stand over numbers: names in groups, of
    which the first record names each once, or in each column; or names and their units.

    >>> _two_lines([["id", "size", "", "kind"], ["", "w", "h", ""], ["1", "2", "3", "a"]])[0]
    ('id', 'size w', 'size h', 'kind')
    >>> _two_lines([["size", "kind"], ["[cm]", ""], ["2", "a"]])
    (('size', 'kind'), "its second holds units and is left out: '[cm]'")
    """
    if len(records) < 3 or not _agree(records):
        return None
    first, second = ([cell.strip() for cell in record] for record in records[:2])
    told = [[value for value in values if value.strip().lower() not in _NOTHING] for values in zip(*records[2:])]
    words = [cell for cell in second if cell.lower() not in _NOTHING]
    over = [cell for cell, values in zip(second, told) if cell in words and values and all(map(_DIGIT.search, values))]
    if not over or any(map(_NUMBER.fullmatch, second)):
        return None
    groups = [next(filter(None, reversed(first[: k + 1])), "") for k in range(len(first))]
    names = tuple(f"{group} {below}" if below else name for name, group, below in zip(first, groups, second))
    grouped = ("" in first[1:] or len(set(first)) < len(first)) and all(map(any, zip(first, second, strict=True)))
    grouped = grouped and not any(cell in values for cell, values in zip(second, told))
    if grouped and len(set(names)) == len(names) and len(words) >= 2:
        return names, f"'{first[-1] or groups[-1]}' over '{second[-1]}' is the column '{names[-1]}'"
    sure = len(over) > 1 or words == over or all(word[0] in "([" for word in words)
    if sure and len(set(first)) == len(first) and all(first) and all(map(is_unit, over)):
        return tuple(first), f"its second holds units and is left out: {', '.join(map(repr, words[:5]))}"
    return None


def _of_new(text: str, cut: bool, separators: Sequence[str]) -> Dialect:
    """The same of data that are read for the first time, from the header on."""
    found = {separator: _records(text, separator, cut) for separator in separators}
    agreed = {s: _numeric(records) for s, records in found.items() if _agree(records)}
    separator = max(agreed, key=lambda s: agreed[s], default=None)  # in 1,5;2,5 both would do
    if separator is None:
        blanks = _records(text, BLANKS, cut)
        if len(separators) > 1 and _agree(blanks) and blanks[1:] and _numeric(blanks):
            separator, found[BLANKS] = BLANKS, blanks
        else:
            return Dialect(separators[0])
    records = found[separator]
    decimal = "." if len(separators) == 1 else _decimal(separator, records)
    names = tuple(f"column_{i}" for i in range(len(records[0]))) if _is_values(records) else ()
    return Dialect(separator, decimal, names, codes=_codes(names or records[0], records[not names :]))


def _before_header(text: str, cut: bool, separators: Sequence[str], trained: Dialect | None) -> tuple[int, str]:
    """(how many lines stand before the header, the first of them that is not blank): titles and comments, each one
    value, over records of several that agree, some of them numbers; or over the names that training knows.

    >>> _before_header("Sales 2024,,\\n\\na,b,c\\nred,2,3\\nblue,5,6\\n", False, (",",), None)
    (2, 'Sales 2024')
    >>> _before_header("name\\nSmith, John\\nDoe, Jane\\n", False, (",",), None)
    (0, '')
    """
    lines = text.split("\n", _TITLES)
    for skip, line in enumerate(lines[:_TITLES]):
        title = next((line.strip(_OF_TITLES)[:60] for line in lines[:skip] if line.strip(_OF_TITLES)), "")
        records = {s: _records("\n".join(lines[skip:]), s, cut) for s in separators if s in line} if title else {}
        if trained is not None:
            header = any(2 * _known(found, trained) >= len(trained.names) for found in records.values() if found)
        else:
            header = any(
                _agree(found) and found[1:] and (_numeric(found) or _two_lines(found)) for found in records.values()
            )
        if header:
            return skip, title
        if '"' in line or any(len([cell for cell in line.split(s) if cell.strip()]) > 1 for s in separators):
            break
    return 0, ""


def _numeric(records: list[list[str]]) -> int:
    """How many columns are of numbers."""
    return sum(map(_is_numeric, zip(*(records[1:] or records), strict=True)))


def _decimal(separator: str, records: list[list[str]]) -> str:
    values = [value for record in records[1:] for value in record]
    commas = any(map(_COMMA.fullmatch, values)) and not any(map(_POINT.fullmatch, values))
    return "," if commas and separator != "," else "."


def _as_trained(text: str, cut: bool, separators: Sequence[str], trained: Dialect) -> Dialect:
    """The same, whatever the values are: with the separator by which the first record holds most of the trained names.
    Where it holds none, and training had no header, all records are values, set apart by what they agree on."""
    found, known = dict[str, list[list[str]]](), dict[str, int]()
    for separator in (*separators, BLANKS):
        found[separator] = _records(text, separator, cut) or [[]]
        known[separator] = _known(found[separator], trained)
        if known[separator] == len(trained.names):
            break
    best = max(known, key=lambda separator: known[separator])
    numbered = [int(name[7:]) for name in trained.names if re.fullmatch(r"column_\d+", name)]
    if known[best] or not numbered:
        return Dialect(best, trained.decimal or _decimal(best, found[best]))
    agreed = {s: _numeric(records) for s, records in found.items() if s != trained.decimal and _agree(records)}
    best = max(agreed, key=lambda s: agreed[s], default=separators[0])
    names = [f"column_{i}" for i in range(len(found[best][0]))]
    if "target" in trained.names and len(names) == max(numbered) + 2:  # as in files of scikit-learn
        names[-1] = "target"
    return Dialect(best, trained.decimal or _decimal(best, [[], *found[best]]), tuple(names))


def _known(records: list[list[str]], trained: Dialect) -> int:
    """How many names of training the first record holds, or the first two together."""
    known = {*trained.names}
    count = len({*records[0]} & known)
    two = _two_lines(records) if count < len(known) else None
    return max(count, len({*two[0]} & known)) if two else count


def _codes(names: Sequence[str], records: list[list[str]]) -> tuple[str, ...]:
    """The columns of codes, such as 00501, which would not be the same as numbers: digits alone, three or more and
    always as many, in some rows from 0 on; but not where the name says that they are dates or times. So are versions,
    1.1 beside 1.10, where each occurs twice or more and none has 40 or more behind the point, as prices, 1.5 beside
    1.50, have.

    >>> _codes(["zip", "hour", "n"], [["01001", "0930", "010"], ["90210", "1415", "7"]])
    ('zip',)
    >>> _codes(["version", "price"], 2 * [["1.1", "1.5"], ["1.10", "1.50"]])
    ('version',)
    """
    found = []
    for name, cells in zip(names, zip(*records, strict=True), strict=False):
        every = [cell.strip() for cell in cells if cell.strip().lower() not in _NOTHING]
        told = set(every)
        if (
            told
            and 2 * len(told) <= len(every)
            and all(map(VERSION.fullmatch, told))
            and len({*map(float, told)}) < len(told)
        ):
            found.append(name)
        whole = len({len(cell) for cell in told}) == 1 and all(cell.isascii() and cell.isdigit() for cell in told)
        if whole and len(max(told)) > 2 and len(told) > 1 and min(told)[0] == "0" and not TIME_NAME.search(name):
            found.append(name)
    return tuple(found)


@lru_cache(4)
def _records(text: str, separator: str, cut: bool) -> list[list[str]]:
    """The first records; without the last one where the text was cut."""
    found: list[list[str]] = []
    if separator == BLANKS:
        text = "\n".join(line.strip() for line in text.splitlines())
    try:
        for record in csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=separator == BLANKS):
            if record:
                found.append(record)
            if len(found) > RECORDS:
                return found
    except csv.Error:  # a stray quote or a NUL: the parser will say where
        pass
    return found[:-1] if cut else found


def _agree(records: list[list[str]]) -> bool:
    return bool(records) and len(records[0]) > 1 and all(len(r) == len(records[0]) for r in records)


@lru_cache(512)
def _is_numeric(values: tuple[str, ...]) -> bool:
    """Whether all values are numbers, but for marks for missing ones."""
    told = [value for value in values if value.strip().lower() not in _NOTHING]
    return bool(told) and all(map(_NUMBER.fullmatch, told))


def _is_values(records: list[list[str]]) -> bool:
    """Whether the first record holds values as those below it do, and not names.

    It does not where a word stands over numbers, where the first value is blank (as pandas writes its index), or where
    its numbers rise by even steps, as years, places and wavelengths do. Else it does where numbers stand over numbers,
    or where, of words alone, each occurs below in its column.
    """
    first, below = records[0], list(zip(*records[1:], strict=True))
    if not first[0].strip():
        return False
    if not below:  # a row alone
        return all(map(_NUMBER.fullmatch, first)) and len(set(first)) < len(first)
    numeric = [_is_numeric(values) for values in below]
    words = [
        i for i, value in enumerate(first) if value.strip().lower() not in _NOTHING and not _NUMBER.fullmatch(value)
    ]
    numbers = [i for i in range(len(first)) if _NUMBER.fullmatch(first[i])]
    if any(numeric[i] for i in words) or not all(numeric[i] for i in numbers):
        return False
    seen = [first[i] in below[i] for i in words]
    if not numbers:
        return len(words) > 1 and len(records) > 3 and all(seen)
    amounts = [float(first[i].replace(",", ".")) for i in numbers]
    steps = [b - a for a, b in itertools.pairwise(amounts)]
    rises = amounts[0] >= 0 and all(step > 0 for step in steps)
    even = rises and all(math.isclose(step, steps[0], rel_tol=1e-3) for step in steps)
    whole = rises and all(first[i].strip().isdigit() for i in numbers)
    return any(seen) or not ((even and (whole or len(numbers) > 2)) or (whole and (words or len(numbers) > 4)))


def _counted(records: list[list[str]]) -> Dialect | None:
    """The dialect of a file whose first line is: rows, columns, names of classes; the last value of the others counts
    these."""
    if len(records) < 2 or len(records[0]) < 4 or not all(value.isdigit() for value in records[0][:2]):
        return None
    columns, classes = int(records[0][1]), tuple(records[0][2:])
    codes = {record[-1] for record in records[1:] if len(record) == columns + 1 and record[-1].isdigit()}
    fits = all(len(record) == columns + 1 for record in records[1:]) and all(int(code) < len(classes) for code in codes)
    if not fits or not codes or any(map(_NUMBER.fullmatch, classes)):
        return None
    names = (*(f"column_{i}" for i in range(columns)), "target")
    return Dialect(",", ".", names, 1, classes=classes)


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


def record_lines(text: str, dialect: Dialect) -> list[tuple[int, int]]:
    """(the line in which it begins, counted from 1; how many values) of each record, the header too; no blank lines.

    >>> record_lines('a,b\\n1,"x\\ny"\\n\\n2,z\\n3\\n', Dialect())
    [(1, 2), (2, 2), (5, 2), (6, 1)]
    """
    lines = io.StringIO(text.removeprefix("\ufeff"), newline="")
    for _ in range(dialect.skip):
        lines.readline()
    blanks, at, found = dialect.separator == BLANKS, 0, list[tuple[int, int]]()
    reader = csv.reader(lines, delimiter=dialect.separator, skipinitialspace=blanks)
    for record in reader:
        if record:
            found.append((dialect.skip + at + 1, len(record)))
        at = reader.line_num
    return found


def one_blank(text: bytes) -> bytes:
    """A text with one blank between values, none at the ends of lines; as they are in quotes.

    >>> one_blank(b' 1  "a  b"\t2 \\n')
    b'1 "a  b" 2\\n'
    """
    return _RUNS.sub(lambda found: found[1] or (b" " if found[2] else b""), text)
