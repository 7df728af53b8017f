"""Cells that hold several values each: numbers, or labels; statistics of lists."""

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from handful.base.errors import HandfulError
from handful.data.base import Column
from handful.data.gather import offsets_of
from handful.data.tables.cells.written import is_missing, numbers
from handful.data.tables.types import TEXT, is_list, is_words

MOST_LABELS = 1 << 16  # different labels that are kept
_CELL = 20  # different cells from which on some of several numbers each are not the names of classes
_PAIRS = 30  # from which on two numbers each are not
_COUNTED = r"(?:0|[1-9]\d*)(?:\.\d+)?"  # no code such as 00-950
_PAIR = re.compile(rf"{_COUNTED}\s*([-–/x×±]| to | of | out of | vs\.? )\s*{_COUNTED}")
_BRACKETS = r"^(?:POINT\s*)?[\s(\[{]+|[\s)\]}]+$"
_ONE = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_NUMBERS = re.compile(rf"[(\[{{]?\s*{_ONE}\s*([,;|])\s*{_ONE}(?:\s*\1\s*{_ONE})*\s*[)\]}}]?")
_BLANKS = re.compile(rf"(?:POINT\s*)?[(\[{{]\s*{_ONE}(?:\s+{_ONE})+\s*[)\]}}]")  # as NumPy writes arrays
_FEW = re.compile(rf"[(\[{{]\s*(?:{_ONE})?\s*[)\]}}]")  # a list of one number, or none
_SCALAR = r"np\.\w+\(([^()]*)\)"  # as NumPy's own numbers and strings stand in a list
_LISTED = re.compile(r"\[.*\]", re.S)


def in_cells(texts: pa.ChunkedArray, is_input: bool = False) -> Column | None:
    """What different strings of a column hold, several in each: numbers, as in "(48.1, 11.6)", or in brackets as many
    as there are; or labels (a Column of shape ()) that come alone and with others, as in "crime" and "crime;drama"; in
    an input also two numbers, as in "120/80", "1920x1080", "10-20", that are more than categories. None for others.

    >>> in_cells(pa.chunked_array([["a", "b", "c", "a;b", "b;c"]])).separator, in_cells(pa.chunked_array([["a;b"]]))
    (';', None)
    >>> in_cells(pa.chunked_array([["['a']", "['b']", "['a', 'b']"]])).separator
    ','
    """
    look = [re.sub(_SCALAR, r"\1", text.strip()) for text in texts[:1000].to_pylist()]
    if len(texts) > _CELL and (column := _of_numbers(look)):
        return column
    for separator in (one for one in ";|," if any(one in text for text in look)):
        parts = [{part.strip() for part in text.split(separator)} for text in map(_bare, look)]
        counts, different = {len(part) for part in parts}, len(set().union(*parts))
        listed = separator == "," and all(map(_LISTED.fullmatch, look))
        alone = separator != "," or (
            1 in counts and set().union(*(p for p in parts if len(p) == 1)) >= set().union(*parts)
        )
        if len(counts) > 1 and different < len(look) + listed and (listed or alone):
            return Column("tensor", "uint8", separator=separator, type=str(TEXT))
    if is_input and len(texts) > _PAIRS and (found := _PAIR.fullmatch(look[0]) or _PAIR.fullmatch(look[1])):
        bare = pc.utf8_trim_whitespace(texts.combine_chunks())
        pairs = pc.match_substring_regex(bare, f"^{_COUNTED}\\s*{found[1]}\\s*{_COUNTED}$")
        if np.all(pairs.to_numpy(zero_copy_only=False) | is_missing(bare)):
            return Column("tensor", "float64", (2,), separator=found[1], type=str(TEXT))
    return None


def _of_numbers(look: list[str]) -> Column | None:
    first = next((text for text in look if not _FEW.fullmatch(text)), "")
    found = _NUMBERS.fullmatch(first)
    separator = found[1] if found else " " if _BLANKS.fullmatch(first) else ""
    form = _NUMBERS if found else _BLANKS
    if not separator or not all(form.fullmatch(text) or _FEW.fullmatch(text) for text in look):
        return None
    counts = {len(_numbers_in(text, separator)) for text in look}
    if len(counts) > 1 and first[0] not in "[({":
        return None
    return Column(
        "tensor", "float64", (counts.pop() if len(counts) == 1 else None,), separator=separator, type=str(TEXT)
    )


def _numbers_in(text: str, separator: str) -> list[str]:
    return [part for part in re.sub(_BRACKETS, "", text).split(None if separator == " " else separator) if part.strip()]


def _bare(text: str) -> str:
    """A list as Python writes it, without its brackets and quotes."""
    return re.sub(r"^['\"]|['\"]$|(?<=[,\s])['\"]|['\"](?=\s*,)", "", text[1:-1]) if _LISTED.fullmatch(text) else text


def note_cells(key: str, column: Column, texts: pa.ChunkedArray, notes: list[str]) -> bool:
    """Say that cells hold several values; whether these are numbers."""
    shown = next(text for text in texts.to_pylist() if str(column.separator) in text)[:60]
    notes.append(f"'{key}' has several {'numbers' if column.shape else 'labels'} in a cell, as in '{shown}'.")
    return bool(column.shape)


def cells(where: str, texts: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
    """Cells as the lists that such a column holds: of labels, none in an empty cell; or of numbers, NaN where all are
    missing. HandfulError for what is no number."""
    bare, separator = pc.fill_null(texts.combine_chunks(), ""), column.separator or ""
    bare = pc.replace_substring_regex(bare, _SCALAR, r"\1")
    if column.dtype == "float64":
        gaps = ["nan"] * (column.shape[0] or 0)
        bare = pc.replace_substring_regex(bare, _BRACKETS, "")
        bare = pc.replace_substring_regex(bare, r"\s+", " ") if separator == " " else bare
        bare = pc.if_else(pa.array(is_missing(bare)), separator.join(gaps), bare)
    elif separator == ",":
        bare = pa.array(map(_bare, bare.to_pylist()), TEXT)
    lists = pc.split_pattern(bare, separator)
    parts, rows = pc.utf8_trim_whitespace(pc.list_flatten(lists)), pc.list_parent_indices(lists)
    kept = pc.not_equal(parts, "")
    parts, rows = parts.filter(kept), rows.filter(kept).to_numpy()
    if column.dtype == "float64":
        values = numbers(parts, ".").values
        odd = np.flatnonzero(np.isnan(values) & ~is_missing(parts))
        if len(odd):
            row = int(rows[odd[0]])
            way_on = "correct it, or leave it empty where it is missing"
            raise HandfulError(f"{where} must hold numbers but is '{texts[row].as_py()}' in row {row}: {way_on}")
        parts = pa.array(values)
    offsets = offsets_of(np.bincount(rows, minlength=len(texts)))
    return pa.chunked_array([pa.LargeListArray.from_arrays(pa.array(offsets), parts)])


@dataclass
class Lists:
    """Statistics of lists. lengths: the least and the greatest of each level; gap: the first row without a list;
    missing: whether some hold missing values; labels: the strings in them, or None when they are too many; twice: how
    many rows hold a string more than once."""

    lengths: list[tuple[int, int] | None]
    gap: int | None
    missing: bool
    labels: dict[str, None] | None  # in the order in which they came
    twice: int

    def merge(self, other: "Lists", offset: int) -> None:
        if self.gap is None and other.gap is not None:
            self.gap = other.gap + offset
        self.missing |= other.missing
        self.twice += other.twice
        both = [[pair for pair in level if pair] for level in zip(self.lengths, other.lengths, strict=True)]
        self.lengths = [(min(a for a, _ in some), max(b for _, b in some)) if some else None for some in both]
        labels = None if self.labels is None or other.labels is None else self.labels | other.labels
        self.labels = labels if labels is not None and len(labels) <= MOST_LABELS else None

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The length of each level, None where it varies."""
        pairs = [pair or (0, 0) for pair in self.lengths]
        return tuple(a if a == b else None for a, b in pairs)


def lists_in(column: pa.ChunkedArray) -> Lists:
    gap = pc.index(pc.is_null(column), True).as_py() if column.null_count else None
    lengths: list[tuple[int, int] | None] = []
    inner = column
    while is_list(inner.type):
        bounds = pc.min_max(pc.list_value_length(inner))
        low, high = bounds["min"].as_py(), bounds["max"].as_py()
        lengths.append(None if low is None else (low, high))
        inner = pc.list_flatten(inner)
    if not is_words(inner.type):
        return Lists(lengths, gap, inner.null_count > 0, {}, 0)
    words = dict.fromkeys(pc.unique(inner.cast(TEXT)).drop_null().to_pylist())
    return Lists(lengths, gap, inner.null_count > 0, words, _twice(column) if len(lengths) == 1 else 0)


def _twice(column: pa.ChunkedArray) -> int:
    """How many rows hold a string more than once."""
    held = pa.table({"row": pc.list_parent_indices(column), "text": pc.list_flatten(column).cast(TEXT)})
    counts = held.group_by(["row", "text"]).aggregate([([], "count_all")])
    return len(pc.unique(counts.filter(pc.greater(counts["count_all"], 1))["row"]))
