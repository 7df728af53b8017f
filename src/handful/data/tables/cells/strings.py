"""Strings as the numbers, dates or classes that their column is known to hold; their words."""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, time
from functools import lru_cache
from math import sqrt
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from handful.base.errors import HandfulError
from handful.data.base import Column, Rows
from handful.data.tables.cells.dates import ANY, DURATION, TIME_OF_DAY, dates
from handful.data.tables.cells.dialect import VERSION, Dialect
from handful.data.tables.cells.written import Floats, in_unit, is_missing, numbers, trimmed
from handful.data.tables.types import TEXT, is_moment, plain

# Letters of scripts that set no spaces between words: Thai, Lao, Burmese, Khmer, kana and Chinese characters.
UNSPACED = "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"


def composed(text: str) -> str:
    """The text with each letter and its marks as one character where there is one (Unicode's normal form NFC).

    >>> len("e\N{COMBINING ACUTE ACCENT}"), len(composed("e\N{COMBINING ACUTE ACCENT}"))
    (2, 1)
    """
    return unicodedata.normalize("NFC", text)


def _composed(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Each in that form; pyarrow's own utf8_normalize takes letters apart instead, up to its version 25."""
    if pc.all(pc.string_is_ascii(texts)).as_py() is not False:
        return texts
    return pa.chunked_array([pa.array((t and composed(t) for t in texts.to_pylist()), TEXT)])


def first_spelled(names: Iterable[str]) -> tuple[str, ...]:
    """Names without those that are others before them in composed form, in which all names are compared."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(composed(name), name)
    return tuple(found.values())


def is_plain(text: str) -> bool:
    """Whether Python reads it as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def untyped(columns: Iterable[pa.ChunkedArray]) -> bool:
    """Whether columns are strings alone, and those of one are numbers with decimals, as of a file that is read by
    csv.DictReader.

    >>> untyped([pa.chunked_array([["1.5", "2"]], TEXT), pa.chunked_array([["3", "a"]], TEXT)]), untyped([])
    (True, False)
    """
    listed = list(columns)
    return all(column.type == TEXT for column in listed) and any(
        len(look := pc.unique(column)[:_HEAD].drop_null()) > 1
        and pc.all(pc.match_substring_regex(look, _AMOUNT)).as_py()
        and pc.any(pc.match_substring(look, ".")).as_py()
        for column in listed
    )


_HEAD = 1000  # different strings that are looked at
_AMOUNT = r"^\s*([-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|NA|NaN|nan|)\s*$"


def exact(text: str) -> int | float:
    """The number, plainly written, whole ones to every digit; ValueError if it is none.

    >>> exact("9007199254740993.000"), exact("1e3")
    (9007199254740993, 1000.0)
    """
    whole, _, zeros = text.partition(".")
    return int(whole) if whole.lstrip("+-").isdecimal() and not zeros.strip("0") else float(text)


def truth(text: str) -> bool:
    """True or false; ValueError if it is neither."""
    if text.strip().lower() not in ("true", "false"):
        raise ValueError(text)
    return text.strip().lower() == "true"


def moment(text: str) -> float:
    """The seconds since 1970 (UTC unless it says otherwise) of a date as ISO 8601 writes it; ValueError if it is none.

    >>> moment("2020-01-31") == moment("2020-01-31T01:00+01:00")
    True
    """
    found = datetime.fromisoformat(text.strip())
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def clock(text: str) -> float:
    """The seconds since midnight; ValueError if it is no time of day.

    >>> clock("12:30")
    45000.0
    """
    found = time.fromisoformat(text.strip())
    return (found.hour * 60 + found.minute) * 60 + found.second + found.microsecond / 1e6


# the first word of Arrow's name of a type -> what reads a text that stands for such a value
_READERS: dict[str, Callable[[str], float]] = {
    **dict.fromkeys(("date32", "date64", "timestamp"), moment),
    **dict.fromkeys(("time32", "time64"), clock),
    "bool": truth,
}


def reader(kind: str) -> Callable[[str], float]:
    """What reads a text that stands for a value of the type that Arrow calls so; it raises ValueError."""
    return _READERS.get(kind.partition("[")[0], exact)


def count_words(values: pa.Array) -> pa.Array:
    """Words of each string, about: blanks and one more, and one for two letters where no blanks are set."""
    blanks = pc.add(pc.count_substring(pc.utf8_trim_whitespace(values), " "), 1)
    if pc.all(pc.string_is_ascii(values)).as_py() is not False:
        return pc.cast(blanks, pa.float64())
    return pc.add(blanks, pc.divide(pc.cast(pc.count_substring_regex(values, UNSPACED), pa.float64()), 2.0))


def parts_per_row(values: pa.ChunkedArray) -> float:
    """Mean parts of strings without blanks, such as addresses: what stands between signs.

    >>> parts_per_row(pa.chunked_array([["http://a.org/x?id=3", "b@c.org"]]))
    4.5
    """
    return float(pc.mean(pc.count_substring_regex(values.cast(pa.large_string()), r"[\pL\pN]+")).as_py() or 0)


NEW = "not seen before"  # a note that has it is said at predict and evaluate
_SHORT = ("year-month", "year quarter")  # as periods of pandas are written, which came as dates


class _Way(NamedTuple):
    """What a string of a column of numbers or dates is read by: see `Column`."""

    truth: bool
    dates: str | None
    decimal: str
    unit: str
    missing: tuple[str, ...]


def read_numbers(where: str, values: pa.ChunkedArray, column: Column, notes: list[str]) -> Floats:
    """Strings as the numbers of such a column, or its dates as seconds since 1970 (UTC); NaN where they are missing.

    where: what to call the column in the HandfulError for a string that is neither, or in the note where training took
    whatever is neither for missing.
    """
    way = _Way("bool" in (column.type, column.dtype), column.dates, column.decimal or ".", column.unit, column.missing)
    if len(values) == 1 and (text := values[0].as_py()) is not None:
        found, odd = _read_one(text, way)
        rows: Rows = np.zeros(1, np.int64)
    else:
        encoded = pc.dictionary_encode(values.combine_chunks())
        read, odd = _read_all(encoded.dictionary, way)
        found = np.append(read, np.nan)
        rows = pc.fill_null(encoded.indices, len(read)).to_numpy(zero_copy_only=False)
    if odd is not None:
        row = pc.index(values, pa.scalar(odd, values.type)).as_py()
        if column.missing[:1] == ANY:
            notes.append(f"{where} is '{odd}' in row {row}, {NEW} and not {_what(column)}: read as missing")
            return found[rows]
        way_on = "correct it, or leave it empty where it is missing"
        raise HandfulError(f"{where} must be {_what(column)} but is '{odd}' in row {row}: {way_on}")
    return found[rows]


@lru_cache(4096)
def _read_one(text: str, way: _Way) -> tuple[Floats, str | None]:
    """The same of one string: rows that come alone bring the same ones again, and each call of Arrow costs 10 us."""
    return _read_all(pa.array([text], TEXT), way)


def _read_all(texts: pa.Array, way: _Way) -> tuple[Floats, str | None]:
    """(the number of each string, NaN where it marks a missing one; the first string that is neither)."""
    bare = trimmed(texts)
    if way.truth:
        flags = pc.utf8_lower(bare)
        bare = pc.if_else(pc.equal(flags, "true"), "1", pc.if_else(pc.equal(flags, "false"), "0", bare))
    if way.dates is not None:
        found = dates(bare, way.dates)
        for short in _SHORT if way.dates == "year-month-day" and np.isnan(found).any() else ():
            found = np.where(np.isnan(found), dates(bare, short), found)
    else:
        read = numbers(bare, way.decimal)
        found = read.values
        if read.units.any():
            times = {unit: in_unit(unit, way.unit) for unit in set(read.units.tolist())}
            found = found * np.array([times[unit] for unit in read.units.tolist()])
    known = np.isnan(found)  # no usual mark can be read as a number
    if known.any():
        known &= is_missing(texts, bare)
    if way.missing == ANY:  # too many differ to tell new ones
        known = np.isnan(found)
    elif way.missing:
        known |= pc.is_in(texts, pa.array(way.missing, TEXT)).to_numpy(zero_copy_only=False)
    odd = np.flatnonzero(np.isnan(found) & ~known)
    found[known] = np.nan
    return found, texts[int(odd[0])].as_py() if len(odd) else None


def _what(column: Column) -> str:
    if column.dates is None:
        return "true or false" if "bool" in (column.type, column.dtype) else "a number"
    return f"a {column.dates}" if column.dates in (TIME_OF_DAY, DURATION) else f"a date, {column.dates},"


def codes_of(values: pa.ChunkedArray, classes: Sequence[str]) -> tuple[Rows, Rows]:
    """(the place of each string among `classes`, -1 where it has none; the rows of those that are not blank)."""
    known = tuple(classes)
    if len(values) == 1:  # rows that come alone: a look-up costs a hundredth of a call of Arrow
        text = values[0].as_py()
        code = -1 if text is None else _places(known).get(composed(text), -1)
        code = _places(known).get(composed(text.strip()), -1) if code < 0 and text is not None else code
        return np.array([code]), np.zeros(int(code < 0 and bool(text and text.strip())), np.int64)
    codes = pc.index_in(values, value_set=_as_array(known))
    array = (pc.fill_null(codes, -1) if codes.null_count else codes).to_numpy().astype(np.int64)
    other: Rows = np.flatnonzero(array < 0)
    if len(other):
        rest = _composed(values.take(pa.array(other)))
        at = pc.index_in(rest, value_set=_as_array(known))
        bare = pc.index_in(pc.utf8_trim_whitespace(rest), value_set=_as_array(known))  # padded, as training was not
        array[other] = pc.fill_null(pc.coalesce(at, bare), -1).to_numpy()
        blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(rest), ""), True).to_numpy()
        other = other[(array[other] < 0) & ~blank]
    return array, other


@lru_cache(256)
def _places(classes: tuple[str, ...]) -> dict[str, int]:
    """Where each class stands: the first of those that are one in composed form."""
    return {composed(name): len(classes) - 1 - k for k, name in enumerate(reversed(classes))}


@lru_cache(256)
def _as_array(classes: tuple[str, ...]) -> pa.Array:
    return pa.array(map(composed, classes), TEXT)


_MANY = 20  # rows from which on one of them may be the sum of the others
_SUMS = ("total", "totals", "grand total", "sum", "average", "mean", "gesamt", "summe", "总计", "合计")
_MOST = 1 << 16  # labels whose writing is kept
_LONGEST = 2**63  # whole numbers below have their own bits
Parse = Callable[[pa.Array], pa.ChunkedArray]  # the cells of a column -> as the reader of text files types them


Words = tuple[str, ...] | None


def typed(cells: pa.ChunkedArray, parse: Parse, rows: int = 0) -> tuple[pa.ChunkedArray, Words]:
    """The values of a target's cells, and how each value is written, where Python would write it otherwise.

    A few whole numbers or versions of which one is written in two ways ("1" and "01", "1.1" and "1.10"), or whole
    numbers too long for 64 bits, are names: text.
    """
    encoded = pc.dictionary_encode(cells.combine_chunks())
    values = parse(encoded.dictionary).combine_chunks()
    if values.type == TEXT:
        return cells, None
    found = pa.chunked_array([values.take(encoded.indices)])
    if len(values) > _MOST:
        return found, None
    texts = [text.strip() for text in encoded.dictionary.to_pylist()]
    pairs = [(v, text) for v, text in zip(values.to_pylist(), texts, strict=True) if v is not None]
    words: dict[object, str] = {}
    for value, text in pairs:
        words.setdefault(value, text)
    if len(words) <= max(20, sqrt(rows or len(cells))) and _are_names(words, pairs, values.type):
        return cells, None
    dated = is_moment(values.type) or pa.types.is_time(values.type)  # read as seconds
    return found, tuple(words.values()) if dated or any(str(v) != text for v, text in words.items()) else None


def _are_names(words: dict[object, str], pairs: Iterable[tuple[object, str]], kind: pa.DataType) -> bool:
    if pa.types.is_integer(kind):
        return any(words[value] != text for value, text in pairs)
    pairs = list(pairs)
    if any(words[value] != text for value, text in pairs) and all(VERSION.fullmatch(text) for _, text in pairs):
        return True
    digits = [text for text in words.values() if text.lstrip("+-").isdecimal()]
    return pa.types.is_floating(kind) and len(digits) == len(words) and any(abs(int(t)) >= _LONGEST for t in digits)


def conversion(dialect: Dialect) -> arrow_csv.ConvertOptions:
    """How the cells of a CSV file are typed."""
    return arrow_csv.ConvertOptions(
        decimal_point=dialect.decimal,
        timestamp_parsers=[arrow_csv.ISO8601],
        true_values=["true", "True", "TRUE"],  # without 0 and 1, which are numbers: so blocks have one type with others
        false_values=["false", "False", "FALSE"],
    )


def parse_cells(dialect: Dialect, cells: pa.Array) -> pa.ChunkedArray:
    """The cells of one column as a whole file of them is typed."""
    text = pa.BufferOutputStream()
    arrow_csv.write_csv(pa.table({"cells": cells}), text)
    options = arrow_csv.ReadOptions(use_threads=False, block_size=text.tell() + 1)
    parse = arrow_csv.ParseOptions(newlines_in_values=True)
    return plain(arrow_csv.read_csv(pa.BufferReader(text.getvalue()), options, parse, conversion(dialect)))["cells"]


def note_sum(key: str, distinct: pa.Table | None, notes: list[str]) -> None:
    """Say where one row alone is named as the sum of the others is."""
    if distinct is None or (pc.sum(distinct["rows"]).as_py() or 0) < _MANY:
        return
    alone = distinct["text"].filter(pc.equal(distinct["rows"], 1))
    if not len(alone):
        return
    word = pc.utf8_lower(pc.utf8_trim(alone, " :.*"))
    for name in alone.filter(pc.is_in(word, pa.array(_SUMS, word.type))).to_pylist():
        notes.append(f"'{key}' is '{name}' in one row: leave it out if it is made of the others.")


def note_alike(key: str, names: pa.ChunkedArray, notes: list[str]) -> None:
    """Say which names differ in blanks or capitals alone."""
    form = pc.utf8_lower(pc.utf8_trim_whitespace(names))
    if pc.count_distinct(form).as_py() == len(names):
        return
    alike = pa.table({"form": form, "name": names}).group_by("form", use_threads=False).aggregate([("name", "list")])
    first = next((found for found in alike["name_list"].to_pylist() if len(found) > 1), None)
    if first is not None:
        shown = ", ".join(f"'{name}'" for name in first[:4])
        notes.append(f"'{key}' has {len(names):,} values, but {len(alike):,} but for blanks and capitals ({shown}): "
                     "spell alike what means the same.")  # fmt: skip


def note_composed(key: str, distinct: pa.Table | None, notes: list[str]) -> pa.Table | None:
    """The strings, those that are one in composed form as the first of them is spelled."""
    if distinct is None:
        return None
    form = _composed(distinct["text"])
    if form.equals(distinct["text"]):
        return distinct
    grouped = distinct.append_column("form", form).group_by("form", use_threads=False)
    found = grouped.aggregate([("text", "first"), ("rows", "sum")]).select([1, 2]).rename_columns(["text", "rows"])
    twice = distinct.num_rows - found.num_rows
    said = f"'{key}' has letters written as several characters: values are compared in composed form (Unicode NFC)"
    notes.append(said + (f", by which {twice:,} are others written so." if twice else "."))
    return found
