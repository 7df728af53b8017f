"""What strings stand for: marks for missing values, numbers and dates as people write them, words."""

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, time
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from handful.base.errors import HandfulError
from handful.data.base import Column, Rows
from handful.data.tables.dialect import DATES

_MISSING = {"?", "-", "--", ".", "na", "n/a", "nan", "none", "null", "missing", "unknown", ""}
_MISSING |= {"-nan", "#na", "#n/a", "#n/a n/a", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"}  # as Arrow's reader has it
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


def number(text: str, decimal: str | None = None) -> float:
    """The number in the text, plain or an amount such as "$1,200", "12 %" or "(3)"; ValueError if there is none.

    >>> number("1e3"), number("$1,200.50"), number("(3)"), number("12 %"), number("12,5", ",")
    (1000.0, 1200.5, -3.0, 12.0, 12.5)
    """
    if decimal == "," and ("," in text or "." in text):
        return float(text.replace(".", "?").replace(",", "."))
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


def exact(text: str) -> int | float:
    """The number, plainly written, whole ones to every digit; ValueError if it is none."""
    return int(text) if text.lstrip("+-").isdecimal() else float(text)


def truth(text: str) -> bool:
    """True or false; ValueError if it is neither."""
    if text.strip().lower() not in ("true", "false"):
        raise ValueError(text)
    return text.strip().lower() == "true"


def moment(text: str) -> float:
    """The seconds since 1970 (UTC unless it says otherwise) of a date as ISO 8601 writes it, or with dots; ValueError
    if it is none.

    >>> moment("2020-01-31") == moment("31.1.2020 00:00") == moment("2020-01-31T01:00+01:00")
    True
    """
    with suppress(ValueError):
        found = datetime.fromisoformat(text.strip())
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    return _seconds(date_form(text) or "", text)


def date_form(text: str) -> str | None:
    """The form of a date with dots; None for others.

    >>> date_form("31.1.2020")
    '%d.%m.%Y'
    """
    for form in DATES:
        with suppress(ValueError):
            _seconds(form, text)
            return form
    return None


def clock(text: str) -> float:
    """The seconds since midnight; ValueError if it is no time of day.

    >>> clock("12:30")
    45000.0
    """
    found = time.fromisoformat(text.strip())
    whole = (found.hour * 60 + found.minute) * 60 + found.second
    return (whole * 1_000_000 + found.microsecond) / 1_000_000


_FEW = 32  # values below which Arrow's calls cost more than they save

# the first word of Arrow's name of a type -> what a text of it is, and what reads it
_READERS: dict[str, tuple[str, Callable[[str], float]]] = {
    **dict.fromkeys(("date32", "date64", "timestamp"), ("a date", moment)),
    **dict.fromkeys(("time32", "time64"), ("a time", clock)),
    "bool": ("true or false", truth),
}


def reader(kind: str) -> tuple[str, Callable[[str], float]]:
    """What a text is that stands for a value of the type that Arrow calls so, and what reads it."""
    return _READERS.get(kind.partition("[")[0], ("a number", exact))


def read_numbers(where: str, values: pa.ChunkedArray, column: Column) -> NDArray[np.float64]:
    """Strings as the numbers of such a column, dates as seconds since 1970 (UTC); NaN where they are missing.

    where: what to call the column in the HandfulError for a string that is none.
    """
    what, read = reader(column.type or "")
    if column.dates:
        what, read = f"a date, {in_words(column.dates)},", partial(_seconds, column.dates)
    elif column.type == "bool":
        read = _flag
    elif read is exact:
        read = partial(number, decimal=column.decimal)
    few = len(values) < _FEW
    encoded = None if few else pc.dictionary_encode(values.combine_chunks())
    texts = (values if encoded is None else encoded.dictionary).to_pylist()
    found = np.full(len(texts) + 1, np.nan)
    for i, text in enumerate(texts):
        if text is None or is_missing(text):
            continue
        try:
            found[i] = read(text)
        except ValueError:
            row = pc.index(values, pa.scalar(text, values.type)).as_py()
            raise HandfulError(f"{where} must be {what} but is '{text}' in row {row}") from None
    if encoded is None:
        return found[:-1]
    rows: Rows = pc.fill_null(encoded.indices, len(found) - 1).to_numpy(zero_copy_only=False)
    return found[rows]


def _flag(text: str) -> float:
    with suppress(ValueError):
        return truth(text)
    return number(text)


def _seconds(written: str, text: str) -> float:
    return datetime.strptime(text.strip(), written).replace(tzinfo=UTC).timestamp()


def codes_of(values: pa.ChunkedArray, classes: Sequence[str]) -> tuple[Rows, Rows]:
    """(the place of each string among `classes`, -1 where it has none; the rows of those that are not blank)."""
    codes = pc.fill_null(pc.index_in(values, value_set=pa.array(classes, pa.large_string())), -1)
    array = codes.to_numpy().astype(np.int64)
    blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(values), ""), True).to_numpy()
    return array, np.flatnonzero((array < 0) & ~blank)
