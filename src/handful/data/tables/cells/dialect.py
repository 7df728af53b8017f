"""How the values of a CSV file are set apart, its decimals and its header written: found from its first records."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from handful.data.base import Column
from handful.data.tables.cells.fixed import Gaps, apart, gaps
from handful.data.tables.cells.headers import (
    BLANKS,
    NOTHING,
    NUMBER,
    agree,
    are_letters,
    is_numeric,
    is_values,
    names_in,
    shifted,
    two_lines,
    typed,
)
from handful.data.tables.cells.reading import TIME_NAME
from handful.data.tables.types import TEXT

SAMPLE, _USUAL = 1 << 18, 1 << 16  # bytes at the start of a file that are looked at; where lines are not long
RECORDS = 50
_SEPARATORS = (",", ";", "\t", "|", "\x01", "^", "~")  # Hive's tables have \x01
_FIRST = 1 << 11  # characters in which padding shows
_TITLES = 10  # lines among which the header is looked for
_OF_TITLES = " ,;|\t\r\n\ufeff"  # around a title
_COMMA, _POINT = re.compile(r"\s*[+-]?\d+,\d+\s*"), re.compile(r"\s*[+-]?\d+\.\d+\s*")
VERSION = re.compile(r"\d{1,3}\.[0-3]?\d")
_QUOTED = re.compile(r'"[^"]*"')

TYPED = {2: "the second names types and is left out", 3: "those below the names, of types and parts, are left out"}


class Dialect(NamedTuple):
    """The separator of values, and the sign before decimals. names: of the columns, where the file has no header;
    skip: lines before the header, or before the values; title: the first of these; classes: those that the first line
    names, which counts rows and columns, as in scikit-learn's files; codes: the columns that are no numbers, though of
    digits alone, see `_codes`; below: what stands in a second line of the header, see `two_lines`; padded: whether
    blanks stand around separators; comments: whether lines that begin with # are left out; shape: what is said of a
    header of another length than rows, see `shifted`; gaps: between fixed places; bare: quotes are letters."""

    separator: str = ","
    decimal: str = "."
    names: tuple[str, ...] = ()
    skip: int = 0
    title: str = ""
    classes: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    below: str = ""
    padded: bool = False
    comments: bool = False
    shape: str = ""
    gaps: Gaps = ()
    bare: bool = False

    @property
    def note(self) -> str | None:
        """What is unusual about it, in a sentence or two."""
        found = []
        if self.gaps:
            found.append("columns stand at fixed places of a line.")
        elif self.separator == BLANKS:
            found.append("values are separated by blanks.")
        elif self.separator not in (",", "\t") or self.decimal == ",":
            decimals = ", and decimals are written with ','" if self.decimal == "," else ""
            found.append(f"values are separated by '{self.separator}'{decimals}.")
        if self.title:
            line = self.skip + 1 - (2 + (self.below == TYPED[3])) * bool(self.below) - bool(self.shape)
            found.append(f"the header is in line {line}; what stands before it is left out: '{self.title}'.")
        if self.classes:
            found.append(
                "the first line counts rows and columns and names the classes, as in files of scikit-learn: the "
                f"columns are named {self.names[0]} to {self.names[-2]} and {self.names[-1]}."
            )
        elif self.shape:
            found.append(f"{self.shape}.")
        elif self.below:
            found.append(f"the header has {'three' if self.below == TYPED[3] else 'two'} lines: {self.below}.")
        elif self.names:
            found.append(
                f"the first line holds values, not names: the columns are named {self.names[0]} to {self.names[-1]}."
            )
        found += ["quotes are letters of the texts, as they would else hold several lines."] * self.bare
        found += ["lines that begin with # are left out."] * self.comments
        if self.codes:
            why = "whole numbers of one length with zeros in front, or such as 1.1 beside 1.10"
            found.append(f"names, not numbers ({why}): {', '.join(self.codes)}.")
        return " ".join(found) or None

    @property
    def metadata(self) -> dict[str, str] | None:
        """The classes that the whole numbers of the last column stand for, in a schema, as Hugging Face writes them; or
        that the first column names rows, as pandas does."""
        if self.shape and self.names[0] == "":
            return {"pandas": json.dumps({"index_columns": [""]})}
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
    separators = ("\t",) if ending.startswith(".tsv") else _SEPARATORS
    text, cut, bare = _looked_at(head, separators)
    if not ending.startswith(".tsv") and (counted := _counted(_records(text, ",", cut))):
        return counted
    text, comment = _without_comments(text, cut, separators) if "\n#" in f"\n{text}" else (text, None)
    behind = {*re.findall(r"(.)[ \t]", text[:_FIRST])}
    padded = next((s for s in separators if s != "\t" and s in behind and _is_padded(text, s, cut)), "")
    text = unpadded(text, padded) if padded else text
    skip, title = _before_header(text, cut, separators, trained)
    text = text.split("\n", skip)[skip]
    if lines := next(filter(None, (typed(_records(text, s, cut)) for s in separators if s in text)), 0):
        first, *_, text = text.split("\n", lines)
        text = f"{first}\n{text}"
    found = (_as_trained(text, cut, separators, trained) if trained else _of_new(text, cut, separators))._replace(
        bare=bare
    )
    found = found._replace(skip=skip, title=title, padded=found.separator == padded, comments=comment is not None)
    if found.gaps:
        return found
    records = _records(text, found.separator, cut)
    if lines and records and not found.names:
        return found._replace(skip=skip + lines, names=tuple(map(str.strip, records[0])), below=TYPED[lines])
    if comment and (named := _named(comment, found.separator, records)):
        return found._replace(names=named, shape=f"the columns are named in a line that begins with #: {named[0]}")
    if found.names or not records:
        return found
    if (two := two_lines(records)) and (not trained or {*two[0]} & {*trained.names}):
        names, below = two
        codes = found.codes if trained else _codes(names, records[2:])
        return found._replace(skip=skip + 2, names=names, below=below, codes=codes)
    names, shape = shifted(records, found.separator, text) or (tuple(records[0]), "")
    blank = sum(not name.strip() for name in names)
    if shape or blank > 1:
        names = tuple(name if name.strip() or blank == 1 else f"Unnamed: {k}" for k, name in enumerate(names))
        codes = found.codes if trained else _codes(names, records[1:])
        return found._replace(
            skip=skip + 1, names=names, shape=shape or "columns without a name are Unnamed", codes=codes
        )
    return found


def _looked_at(head: bytes, separators: Sequence[str]) -> tuple[str, bool, bool]:
    """The text that is looked at, whether there is more, and whether quotes, which it has none of then, are letters."""
    size = _USUAL if head.count(b"\n", 0, _USUAL) > 3 else SAMPLE
    whole = head.decode("utf-8-sig", errors="replace") if b'"' in head else ""
    bare = bool(whole) and are_letters(whole, separators, len(head) > SAMPLE)
    text = head[:size].decode("utf-8-sig", errors="replace")
    return text.replace('"', "'") if bare else text, len(head) > size, bare


def _without_comments(text: str, cut: bool, separators: Sequence[str]) -> tuple[str, str | None]:
    """The text without lines that begin with #, and the last of those before the rows; None where rows may begin so
    (without them values are set apart alike in all lines, with them they are not), or they are titles."""
    lines = text.splitlines(keepends=True)
    marked = [line.startswith("#") for line in lines]
    rest = "".join(line for line, one in zip(lines, marked, strict=True) if not one)
    if not any(agree(_records(rest, s, cut)) and not agree(_records(text, s, cut)) for s in (*separators, BLANKS)):
        return text, None
    first = marked.index(False)
    comment = lines[first - 1].strip("# \r\n") if first else ""
    if first < _TITLES and not any(marked[first:]):  # as any title, unless it names the columns, or holds several parts
        named = any(_named(comment, s, _records(rest, s, cut)) for s in (*separators, BLANKS))
        return (rest, comment) if named or any(s in "".join(lines[:first]) for s in separators) else (text, None)
    return rest, comment


def _named(comment: str | None, separator: str, records: list[list[str]]) -> tuple[str, ...]:
    """The names of columns in a comment, () for none."""
    found = _records(comment or "", separator, False)
    return names_in([name.strip() for name in found[0]], records) if found else ()


def _is_padded(text: str, separator: str, cut: bool) -> bool:
    """Whether a blank stands behind every separator outside quotes, and what they set apart agrees."""
    bare = _QUOTED.sub('"', text)
    odd = re.search(rf"{re.escape(separator)}(?![ \t\r\n]|$)", bare)
    if odd is not None:
        return False
    records = _records(unpadded(text, separator), separator, cut)
    return len(records) > 1 and agree(records)


def unpadded(text: str, separator: str) -> str:
    """A text without blanks around separators and lines, but for those in quotes.

    >>> unpadded('a,  "b, c" ,d\\n', ",")
    'a,"b, c",d\\n'
    """
    around = rf'("[^"]*")|[ \t]+(?={re.escape(separator)}|\r?$)|(?:(?<={re.escape(separator)})|^)[ \t]+'
    return re.sub(around, lambda found: found[1] or "", text, flags=re.M)


def _of_new(text: str, cut: bool, separators: Sequence[str]) -> Dialect:
    """The same of data that are read for the first time, from the header on."""
    found = {s: _records(text, s, cut) for s in separators if s in text}
    agreed = {s: _numeric(r) for s, r in found.items() if agree(r) or (r and shifted(r, s, text))}
    separator = max(agreed, key=agreed.__getitem__, default=None)  # in 1,5;2,5 both would do
    if separator is None:
        blanks, places = _records(text, BLANKS, cut), _at_places(text, cut) if len(separators) > 1 else None
        if places and any(len(record) != len(places.gaps) + 1 for record in blanks):
            return places
        if len(separators) > 1 and blanks[1:] and (agree(blanks) or shifted(blanks, BLANKS, text)) and _numeric(blanks):
            separator, found[BLANKS] = BLANKS, blanks
        else:
            return Dialect(separators[0])
    records = found[separator]
    decimal = "." if len(separators) == 1 else _decimal(separator, records)
    names = tuple(f"column_{i}" for i in range(len(records[0]))) if is_values(records) else ()
    return Dialect(separator, decimal, names, codes=_codes(names or records[0], records[not names :]))


def _at_places(text: str, cut: bool, trained: Dialect | None = None, least: int = 0) -> Dialect | None:
    """The dialect of columns at fixed places of a line, if they are that: some of numbers, or, with what training
    learned, at least so many of its names."""
    records = _records(apart(text, between), ",", cut) if (between := gaps(text)) else []
    if trained and records:
        return Dialect(",", trained.decimal or ".", gaps=between) if _known(records, trained) >= least else None
    if len(records) < 3 or not _numeric(records) or is_values(records) or len({*records[0]}) < len(records[0]):
        return None
    return Dialect(",", codes=_codes(records[0], records[1:]), gaps=between)


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
                found[1:] and (agree(found) or shifted(found, s, "")) and (_numeric(found) or two_lines(found))
                for s, found in records.items()
            )
        if header:
            return skip, title
        cells = [[cell.strip() for cell in line.split(s)] for s in separators]
        indexed = any(
            len(found) == 2 and found[1] and not found[0] for found in cells
        )  # pandas: a series and its index
        comment = line.startswith("#") and not any(agree(_records("\n".join(lines[skip:]), s, cut)) for s in separators)
        if '"' in line or indexed or (not comment and any(len([*filter(None, found)]) > 1 for found in cells)):
            break
    return 0, ""


def is_table(head: bytes) -> bool:
    """Whether a text that begins so is a table: three records or more of as many values each, some columns numbers; or
    one of many, of which no third is in sight."""
    dialect = find(head, ".csv")
    text, cut, _ = _looked_at(head, [dialect.separator])
    if dialect.comments:
        text = re.sub(r"(?m)^#.*\n?", "", text)
    text = text.split("\n", dialect.skip)[-1]
    text = unpadded(text, dialect.separator) if dialect.padded else apart(text, dialect.gaps)
    records = _records(text, dialect.separator, cut)
    wide = cut and bool(records) and len(records[0]) > RECORDS
    return (len(records) > 2 or wide) and agree(records[1:] or records) and _numeric(records) > 0


def _numeric(records: list[list[str]]) -> int:
    """How many columns are of numbers."""
    return sum(map(is_numeric, zip(*(records[1:] or records), strict=True)))


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
        if best in (separators[0], BLANKS) and (places := _at_places(text, cut, trained, max(1, known[best]))):
            return places
        return Dialect(best, trained.decimal or _decimal(best, found[best]))
    agreed = {s: _numeric(records) for s, records in found.items() if s != trained.decimal and agree(records)}
    best = max(agreed, key=lambda s: agreed[s], default=separators[0])
    names = [f"column_{i}" for i in range(len(found[best][0]))]
    if "target" in trained.names and len(names) == max(numbered) + 2:  # as in files of scikit-learn
        names[-1] = "target"
    return Dialect(best, trained.decimal or _decimal(best, [[], *found[best]]), tuple(names))


def _known(records: list[list[str]], trained: Dialect) -> int:
    """How many names of training the first record holds, or the first two together."""
    known = {*trained.names}
    count = len({*records[0]} & known)
    two = two_lines(records) if count < len(known) else None
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
        every = [cell.strip() for cell in cells if cell.strip().lower() not in NOTHING]
        told = set(every)
        if (
            told
            and 2 * len(told) <= len(every)
            and all(map(VERSION.fullmatch, told))
            and len({*map(float, told)}) < len(told)
        ):
            found.append(name)
        whole = len({len(cell) for cell in told}) == 1 and all(cell.isascii() and cell.isdecimal() for cell in told)
        if whole and len(max(told)) > 2 and len(told) > 1 and min(told)[0] == "0" and not TIME_NAME.search(name):
            found.append(name)
    return tuple(found)


@lru_cache(4)
def _records(text: str, separator: str, cut: bool) -> list[list[str]]:
    """The first records; without the last one where the text was cut."""
    found: list[list[str]] = []
    if separator == BLANKS:
        text = "\n".join(
            re.sub(r'("[^"]*")|[ \t]+', lambda run: run[1] or " ", line).strip() for line in text.splitlines()
        )
    try:
        for record in csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=separator == BLANKS):
            if record:
                found.append(record)
            if len(found) > RECORDS:
                return found
    except csv.Error:  # a stray quote or a NUL: the parser will say where
        pass
    return found[:-1] if cut else found


def _counted(records: list[list[str]]) -> Dialect | None:
    """The dialect of a file whose first line is: rows, columns, names of classes; the last value of the others counts
    these."""
    if len(records) < 2 or len(records[0]) < 4 or not all(value.isdecimal() for value in records[0][:2]):
        return None
    columns, classes = int(records[0][1]), tuple(records[0][2:])
    codes = {record[-1] for record in records[1:] if len(record) == columns + 1 and record[-1].isdecimal()}
    fits = all(len(record) == columns + 1 for record in records[1:]) and all(int(code) < len(classes) for code in codes)
    if not fits or not codes or any(map(NUMBER.fullmatch, classes)):
        return None
    names = (*(f"column_{i}" for i in range(columns)), "target")
    return Dialect(",", ".", names, 1, classes=classes)
