"""Columns of strings: a category, a text, or numbers with marks for missing values."""

import re
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from handful.base.errors import HandfulError, did_you_mean
from handful.data.arrays import Dense, Stored, Strings
from handful.data.base import Column
from handful.data.options import Options

_MISSING = {"?", "-", "--", ".", "na", "n/a", "nan", "none", "null", "missing", "unknown", ""}
_IDENTIFIER_ROWS = 20
# Letters of scripts that set no spaces between words: Thai, Lao, Burmese, Khmer, kana and Chinese characters.
UNSPACED = "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
_SLASHES = re.compile(r"\d{1,4}/\d{1,2}/\d{2,4}( \d{1,2}:\d{2}(:\d{2})?)?")
_DATES = tuple(d + t for d in ("%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d") for t in ("", " %H:%M", " %H:%M:%S"))
# Amounts as people write them: a currency's sign, thousands in groups of three, a per cent sign, brackets for minus.
_AMOUNT = re.compile(r"(?P<minus>[-(]?)[$€£¥]? ?(?P<number>\d{1,3}(,\d{3})+(\.\d+)?|\d+(\.\d+)?) ?[$€£¥%]?\)?")


def from_strings(key: str, values: Any, o: Options, notes: list[str]) -> Stored | None:
    """values: a large_string array. Returns None (and a note) for a column that is left out.

    A target is a category, but for amounts ("$1,200"). Otherwise a column is a text when its values have 3 words or
    more on average and more than half of them are distinct; else it is a category.
    """
    wanted = o.schema.get(key)
    if wanted is not None and wanted.kind == "number":
        return Dense(_wanted_numbers(key, values, wanted, o), wanted)
    if wanted is not None and wanted.kind == "text":
        return Strings(values.to_pylist(), Column("text", "str"))
    if wanted is not None and wanted.kind == "category" and wanted.classes is not None:
        return _encode(key, values, wanted.classes, o, notes, more=wanted.open)
    filled = values.filter(pc.not_equal(pc.fill_null(pc.utf8_trim_whitespace(values), ""), ""))
    unique = pc.unique(filled)
    if len(unique) == 0:
        notes.append(f"column '{key}' was left out: every value is missing.")
        return None
    numbers = _numbers(key, values, unique, notes) if key != o.target or _signed(unique) else None
    if numbers is not None:
        return numbers
    if key != o.target:
        dates = find_dates(key, unique, notes)
        if dates is not None:
            column = Column("number", "float64", dates=dates)
            return Dense(_wanted_numbers(key, values, column, o), column)
        words = pc.mean(count_words(filled)).as_py()
        if words >= 3 and len(unique) > 0.5 * len(filled):
            notes.append(
                f"'{key}' is a text: {words:.0f} words a row on average, {len(unique):,} different in "
                f"{len(filled):,} rows."
            )
            return Strings(values.to_pylist(), Column("text", "str"))
        if len(unique) == len(values) >= _IDENTIFIER_ROWS and o.columns is None:
            notes.append(
                f"column '{key}' was left out: each of its {len(unique):,} values occurs once, as in "
                "an identifier; "
                "name it in columns=[...] to keep it."
            )
            return None
        if len(unique) == 1 and len(filled) == len(values) > 1 and o.columns is None:
            notes.append(f"column '{key}' was left out: it is '{unique[0]}' in every row.")
            return None
    classes = tuple(sorted(unique.to_pylist()))  # sorted, so that two files with the same classes agree
    missing = len(values) - len(filled)
    notes.append(
        f"'{key}' is a category with {len(classes):,} values" + (f"; {missing:,} rows lack one." if missing else ".")
    )
    return _encode(key, values, classes, o, notes)


def count_words(values: Any) -> Any:
    """Words of each string, about: blanks and one more, and one for two letters where no blanks are set."""
    blanks = pc.add(pc.count_substring(pc.utf8_trim_whitespace(values), " "), 1)
    return pc.add(blanks, pc.divide(pc.cast(pc.count_substring_regex(values, UNSPACED), pa.float64()), 2.0))


def from_dictionary(key: str, values: Any, o: Options, notes: list[str]) -> Stored | None:
    """A column that is a category already (a pandas Categorical, a polars Enum): its own classes, in its own order.

    Classes that no row has are kept only when the column says that their order means something.
    """
    plain = [pa.DictionaryArray.from_arrays(c.indices, c.dictionary.cast(pa.large_string())) for c in values.chunks]
    joined = pa.chunked_array(plain, pa.dictionary(values.type.index_type, pa.large_string())).unify_dictionaries()
    texts = joined.cast(pa.large_string()).combine_chunks()
    if key in o.schema or texts.null_count == len(texts):
        return from_strings(key, texts, o, notes)
    classes = tuple(joined.chunk(0).dictionary.to_pylist())
    if not values.type.ordered:
        used = set(pc.unique(texts).to_pylist())
        classes = tuple(c for c in classes if c in used)
    notes.append(f"'{key}' is a category with {len(classes):,} values, in the order it came with.")
    return _encode(key, texts, classes, o, notes)


def _encode(
    key: str, values: Any, classes: tuple[str, ...], o: Options, notes: list[str], more: bool = False
) -> Stored:
    codes = pc.index_in(values, value_set=pa.array(classes, pa.large_string()))
    array = pc.fill_null(codes, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    known = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(values), ""), True).to_numpy(zero_copy_only=False)
    unknown = np.flatnonzero((array < 0) & ~known)
    if len(unknown):
        text = values[int(unknown[0])].as_py()
        if key == o.target:
            raise HandfulError(
                f"{o.name}: target '{key}' is '{text}' in row {unknown[0]}, which is not among the "
                "known classes." + did_you_mean(text, classes)
            )
        said = f"'{key}' has {len(unknown):,} values not seen before (first '{text}')"
        if more:
            new = tuple(sorted(pc.unique(values.take(pa.array(unknown))).to_pylist()))
            notes.append(f"{said}: their column tells nothing of them.")
            return _encode(key, values, (*classes, *new), o, notes)
        notes.append(f"{said}: read as missing.")
    return Dense(array, Column("category", "int64", (), classes))


def _numbers(key: str, values: Any, unique: Any, notes: list[str]) -> Stored | None:
    """Numbers, if all that is not a number is a usual mark for a missing value."""
    marks = set()
    numeric = amounts = 0
    for text in unique.to_pylist():
        if text.strip().lower() in _MISSING:
            marks.add(text)
            continue
        try:
            float(text)
        except ValueError:
            if _amount(text) is None:
                _hint_stray(key, text, values, unique, notes)
                return None
            amounts += 1
        numeric += 1
    if not (marks or amounts) or not numeric:  # text that happens to look like numbers stays text: someone quoted it
        return None
    is_mark = pc.or_(
        pc.is_in(values, value_set=pa.array(sorted(marks), values.type)),
        pc.equal(pc.fill_null(pc.utf8_trim_whitespace(values), ""), ""),
    )
    cleaned = pc.if_else(is_mark, pa.scalar(None, values.type), pc.utf8_trim_whitespace(values))
    array = np.array([np.nan if v is None else _number(v) for v in cleaned.to_pylist()])
    if amounts:
        example = next(v for v in cleaned.to_pylist() if v is not None and _amount(v) is not None)
        notes.append(f"'{key}' is numbers with signs: '{example}' is read as {_number(example):g}.")
    if marks:
        count = int(np.isnan(array).sum())
        shown = ", ".join(f"'{m}'" for m in sorted(marks))
        notes.append(f"'{key}' is numbers; {count:,} rows hold {shown} and are read as missing (NaN).")
    return Dense(array, Column("number", "float64"))


def _amount(text: str) -> float | None:
    """The number of an amount such as "$1,200" or "12 %"; None if it is none.

    >>> _amount("$1,200.50"), _amount("(3)"), _amount("12 %"), _amount("1,2"), _amount("3 m")
    (1200.5, -3.0, 12.0, None, None)
    """
    found = _AMOUNT.fullmatch(text.strip())
    if found is None:
        return None
    return float(found["number"].replace(",", "")) * (-1 if found["minus"] else 1)


def _seconds(written: str, text: str) -> float:
    """Seconds since 1970 of a date, UTC; ValueError if it is none."""
    return datetime.strptime(text.strip(), written).replace(tzinfo=UTC).timestamp()


def _signed(unique: Any) -> bool:
    """Whether all of some strings are amounts, and not plain numbers."""
    texts = [text for text in unique[:100].to_pylist() if text.strip().lower() not in _MISSING]
    return bool(texts) and all(_amount(t) is not None for t in texts) and not all(map(_plain, texts))


def _plain(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(text: str) -> float:
    """The number in the text, plain or an amount; ValueError if there is none."""
    try:
        return float(text)
    except ValueError:
        amount = _amount(text)
        if amount is None:
            raise
        return amount


def find_dates(key: str, unique: Any, notes: list[str]) -> str | None:
    """The format of dates with slashes, if all strings but marks for missing values are such dates and only one order
    of day and month fits all of them; what was found, or that both orders fit, is said."""
    texts = [text.strip() for text in unique.to_pylist() if text.strip().lower() not in _MISSING]
    if not texts or not all(map(_SLASHES.fullmatch, texts)):
        return None
    array = pa.array(texts, pa.large_string())
    fits = [f for f in _DATES if not pc.strptime(array, format=f, unit="s", error_is_null=True).null_count]
    if len(fits) != 1:
        why = "days and months cannot be told apart" if fits else "they are of several forms"
        notes.append(f"'{key}' holds dates such as '{texts[0]}', but {why}: written as 2026-01-31 they are read.")
        return None
    notes.append(f"'{key}' holds dates, {_in_words(fits[0])}: read as seconds since 1970-01-01.")
    return fits[0]


def _in_words(written: str) -> str:
    return written.replace("%d", "day").replace("%m", "month").replace("%Y", "year").split()[0]


def _hint_stray(key: str, stray: str, values: Any, unique: Any, notes: list[str]) -> None:
    """Say so when a column is read as strings because of a few values among many numbers."""
    sample = unique.to_pylist()[:1000]
    numeric = sum(t.strip().replace(".", "", 1).lstrip("+-").isdigit() for t in sample)
    if len(sample) >= 5 and numeric > 0.5 * len(sample):
        row = pc.index(values, pa.scalar(stray, values.type)).as_py()
        notes.append(f"'{key}' is mostly numbers but is read as strings, because of '{stray}' in row {row}.")


def _wanted_numbers(key: str, values: Any, wanted: Column, o: Options) -> Any:
    out = np.empty(len(values), dtype=np.float64)
    read = partial(_seconds, wanted.dates) if wanted.dates else _number
    for row, text in enumerate(values.to_pylist()):
        if text is None or text.strip().lower() in _MISSING:
            out[row] = np.nan
            continue
        try:
            out[row] = read(text)
        except ValueError:
            what = f"a date, {_in_words(wanted.dates)}," if wanted.dates else "a number"
            raise HandfulError(f"{o.name}: column '{key}' must be {what} but is '{text}' in row {row}.") from None
    return out.astype(wanted.dtype) if wanted.dtype.startswith("float") else out
