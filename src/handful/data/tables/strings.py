"""Strings as the numbers, dates or classes that their column is known to hold; their words."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from handful.base.errors import HandfulError
from handful.data.base import Column, Rows
from handful.data.tables.types import TEXT
from handful.data.tables.written import TIME_OF_DAY, Floats, dates, is_missing, numbers, trimmed

# Letters of scripts that set no spaces between words: Thai, Lao, Burmese, Khmer, kana and Chinese characters.
UNSPACED = "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"


def is_plain(text: str) -> bool:
    """Whether Python reads it as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def count_words(values: pa.Array) -> pa.Array:
    """Words of each string, about: blanks and one more, and one for two letters where no blanks are set."""
    blanks = pc.add(pc.count_substring(pc.utf8_trim_whitespace(values), " "), 1)
    return pc.add(blanks, pc.divide(pc.cast(pc.count_substring_regex(values, UNSPACED), pa.float64()), 2.0))


def read_numbers(where: str, values: pa.ChunkedArray, column: Column) -> Floats:
    """Strings as the numbers of such a column, or its dates as seconds since 1970 (UTC); NaN where they are missing.

    where: what to call the column in the HandfulError for a string that is neither.
    """
    encoded = pc.dictionary_encode(values.combine_chunks())
    texts, found = encoded.dictionary, np.full(len(encoded.dictionary) + 1, np.nan)
    bare = trimmed(texts)
    if column.dates is not None:
        found[:-1] = dates(bare, column.dates)
    else:
        read = numbers(bare, column.decimal or ".")
        found[:-1] = np.where(np.isin(read.units, ["", column.unit]), read.values, np.nan)
    known = is_missing(texts) | pc.is_in(texts, pa.array(column.missing, TEXT)).to_numpy(zero_copy_only=False)
    odd = np.flatnonzero(np.isnan(found[:-1]) & ~known)
    if len(odd):
        text = texts[int(odd[0])].as_py()
        row = pc.index(values, pa.scalar(text, values.type)).as_py()
        raise HandfulError(f"{where} must be {_what(column)} but is '{text}' in row {row}")
    found[:-1][known] = np.nan
    rows: Rows = pc.fill_null(encoded.indices, len(found) - 1).to_numpy(zero_copy_only=False)
    return found[rows]


def _what(column: Column) -> str:
    if column.dates is None:
        return "a number"
    return f"a {TIME_OF_DAY}" if column.dates == TIME_OF_DAY else f"a date, {column.dates},"


def codes_of(values: pa.ChunkedArray, classes: Sequence[str]) -> tuple[Rows, Rows]:
    """(the place of each string among `classes`, -1 where it has none; the rows of those that are not blank)."""
    codes = pc.fill_null(pc.index_in(values, value_set=pa.array(classes, TEXT)), -1)
    array = codes.to_numpy().astype(np.int64)
    blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(values), ""), True).to_numpy()
    return array, np.flatnonzero((array < 0) & ~blank)
