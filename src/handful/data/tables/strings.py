"""What strings stand for: marks for missing values, numbers and dates as people write them, words."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from handful.base.errors import HandfulError
from handful.data.base import Rows

_MISSING = {"?", "-", "--", ".", "na", "n/a", "nan", "none", "null", "missing", "unknown", ""}
# Letters of scripts that set no spaces between words: Thai, Lao, Burmese, Khmer, kana and Chinese characters.
UNSPACED = "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
_SLASHES = re.compile(r"\d{1,4}/\d{1,2}/\d{2,4}( \d{1,2}:\d{2}(:\d{2})?)?")
_DATES = tuple(d + t for d in ("%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d") for t in ("", " %H:%M", " %H:%M:%S"))
# Amounts as people write them: a currency's sign, thousands in groups of three, a per cent sign, brackets for minus.
_AMOUNT = re.compile(r"(?P<minus>[-(]?)[$€£¥]? ?(?P<number>\d{1,3}(,\d{3})+(\.\d+)?|\d+(\.\d+)?) ?[$€£¥%]?\)?")


def is_missing(text: str) -> bool:
    """Whether it is blank, or a usual mark for a missing value."""
    return text.strip().lower() in _MISSING


def is_plain(text: str) -> bool:
    """Whether Python reads it as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def number(text: str) -> float:
    """The number in the text, plain or an amount such as "$1,200", "12 %" or "(3)"; ValueError if there is none.

    >>> number("1e3"), number("$1,200.50"), number("(3)"), number("12 %")
    (1000.0, 1200.5, -3.0, 12.0)
    """
    if is_plain(text):
        return float(text)
    found = _AMOUNT.fullmatch(text.strip())
    if found is None:
        raise ValueError(text)
    return float(found["number"].replace(",", "")) * (-1 if found["minus"] else 1)


def is_stray(text: str) -> bool:
    """Whether it is neither a number nor a mark for a missing one."""
    if is_missing(text):
        return False
    try:
        number(text)
    except ValueError:
        return True
    return False


def is_slashed(text: str) -> bool:
    """Whether it looks like a date with slashes."""
    return _SLASHES.fullmatch(text.strip()) is not None


def date_formats(texts: Iterable[str]) -> list[str]:
    """The orders of day, month and year that fit all of some dates with slashes; what is missing fits every one."""
    dates = [text.strip() for text in texts if not is_missing(text)]
    if not all(map(_SLASHES.fullmatch, dates)):
        return []
    array = pa.array(dates, pa.large_string())
    return [f for f in _DATES if not pc.strptime(array, format=f, unit="s", error_is_null=True).null_count]


def in_words(written: str) -> str:
    """A format of dates, in words.

    >>> in_words("%d/%m/%Y %H:%M")
    'day/month/year'
    """
    return written.replace("%d", "day").replace("%m", "month").replace("%Y", "year").split()[0]


def count_words(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Words of each string, about: blanks and one more, and one for two letters where no blanks are set."""
    blanks = pc.add(pc.count_substring(pc.utf8_trim_whitespace(values), " "), 1)
    return pc.add(blanks, pc.divide(pc.cast(pc.count_substring_regex(values, UNSPACED), pa.float64()), 2.0))


def read_numbers(where: str, values: pa.ChunkedArray, dates: str | None) -> NDArray[np.float64]:
    """Strings as numbers, or dates of one format as seconds since 1970 (UTC); NaN where they are missing.

    where: what to call the column in the HandfulError for a string that is neither.
    """
    read = partial(_seconds, dates) if dates else number
    encoded = pc.dictionary_encode(values.combine_chunks())
    found = np.full(len(encoded.dictionary) + 1, np.nan)
    for i, text in enumerate(encoded.dictionary.to_pylist()):
        if is_missing(text):
            continue
        try:
            found[i] = read(text)
        except ValueError:
            row = pc.index(values, pa.scalar(text, values.type)).as_py()
            what = f"a date, {in_words(dates)}," if dates else "a number"
            raise HandfulError(f"{where} must be {what} but is '{text}' in row {row}") from None
    rows: Rows = pc.fill_null(encoded.indices, len(found) - 1).to_numpy(zero_copy_only=False)
    return found[rows]


def _seconds(written: str, text: str) -> float:
    return datetime.strptime(text.strip(), written).replace(tzinfo=UTC).timestamp()


def codes_of(values: pa.ChunkedArray, classes: Sequence[str]) -> tuple[Rows, Rows]:
    """(the place of each string among `classes`, -1 where it has none; the rows of those that are not blank)."""
    codes = pc.fill_null(pc.index_in(values, value_set=pa.array(classes, pa.large_string())), -1)
    array = codes.to_numpy().astype(np.int64)
    blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(values), ""), True).to_numpy()
    return array, np.flatnonzero((array < 0) & ~blank)
