"""Mergeable statistics of a column's blocks, and `decide`, the one place where its kind is decided."""

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from handful.base.errors import HandfulError
from handful.data.arrays import native
from handful.data.base import Column, Rows
from handful.data.media.audio import header as sound_header
from handful.data.media.images import Header
from handful.data.media.images import header as image_header
from handful.data.media.items import BinaryItems, kind_of
from handful.data.options import Options
from handful.data.tables.cells import strings
from handful.data.tables.cells.dates import DIGITS, DURATION, TIME_OF_DAY, of_digits
from handful.data.tables.cells.reading import TIME_NAME, Reading, StringStats, of_dates, readings, written_as
from handful.data.tables.cells.several import MOST_LABELS, Lists, cells, in_cells, lists_in, note_cells
from handful.data.tables.cells.written import is_blank, is_missing, trimmed
from handful.data.tables.types import (
    BYTES,
    TEXT,
    as_numbers,
    flat_list,
    is_list,
    is_number,
    is_text,
    is_words,
    join_types,
)

# Bytes of different strings that are kept of a column: beyond, it cannot be a category.
MOST_DISTINCT = 64 << 20
_IDENTIFIER_ROWS, _LABELS = 20, 256  # labels that a column of inputs may have


@dataclass
class Texts:
    """Statistics of strings. distinct: a table of `text` and `rows`, in the order in which they came, or None when they
    are too many; once: whether each occurred once, up to there; filled: rows that are not blank; words: in these;
    levels: of a dictionary, in its order; compact: how many of the first entries of `distinct` differ; marks: for
    missing values, blanks too, and how many rows hold each; readings: of the others, in each way of writing."""

    distinct: pa.Table | None
    filled: int
    words: float
    levels: tuple[str, ...] | None
    compact: int
    marks: Counter[str]
    readings: dict[str, Reading]
    once: bool = True

    def merge(self, other: "Texts", offset: int) -> None:
        self.filled += other.filled
        self.words += other.words
        self.marks += other.marks
        for way, reading in other.readings.items():
            self.readings[way].merge(reading, offset)
        levels = None if self.levels is None or other.levels is None else (*self.levels, *other.levels)
        self.levels = None if levels is None else strings.first_spelled(levels)
        if self.distinct is None or other.distinct is None:
            self.distinct, self.once = None, self.once and other.once
            return
        self.distinct = pa.concat_tables([self.distinct, other.distinct])
        if self.distinct.num_rows > 2 * self.compact + 4096:  # seldom enough for its cost not to grow with the blocks
            self.count()

    def count(self) -> None:
        """Bring the distinct strings together, and let them go when they are too many."""
        if self.distinct is None:
            return
        if self.distinct.num_rows > self.compact:
            counted = self.distinct.group_by("text", use_threads=False).aggregate([("rows", "sum")])
            self.distinct, self.compact = counted.rename_columns(["text", "rows"]), counted.num_rows
        self.once = self.compact == self.filled
        if self.distinct.nbytes > MOST_DISTINCT:
            self.distinct = None


@dataclass
class Media:
    """Statistics of bytes. kind: of the first row; images, sounds: how many have each header, where they were read."""

    kind: str | None
    images: Counter[Header] = field(default_factory=Counter)
    sounds: Counter[tuple[int, int]] = field(default_factory=Counter)


@dataclass
class ColumnStats:
    """Statistics of one column's rows so far. type: Arrow's; missing: rows without a value, NaN too; nulls: those that
    are not NaN; least, most: of its numbers; days: whether all are days, as 20240229 is; names: of the classes that
    whole numbers stand for."""

    type: pa.DataType
    rows: int
    nulls: int
    missing: int
    least: float | None = None
    most: float | None = None
    days: bool = True
    names: tuple[str, ...] | None = None
    texts: Texts | None = None
    lists: Lists | None = None
    media: Media | None = None

    def merge(self, other: "ColumnStats") -> None:
        """Add the rows of the next block, of a type that is `mergeable` with that of this one."""
        if self.texts is not None and other.texts is not None:
            self.texts.merge(other.texts, self.rows)
        if self.lists is not None and other.lists is not None:
            self.lists.merge(other.lists, self.rows)
        if self.media is not None and other.media is not None:
            self.media.images += other.media.images
            self.media.sounds += other.media.sounds
        self.media = self.media or other.media
        self.least = min((v for v in (self.least, other.least) if v is not None), default=None)
        self.most = max((v for v in (self.most, other.most) if v is not None), default=None)
        self.days = self.days and other.days
        self.type, self.rows = join_types(self.type, other.type) or self.type, self.rows + other.rows
        self.nulls, self.missing = self.nulls + other.nulls, self.missing + other.missing


def mergeable(a: pa.DataType, b: pa.DataType, joint: pa.DataType) -> bool:
    """Whether statistics of blocks of these types hold for their rows in the joint type, too."""
    numbers = all(pa.types.is_null(kind) or is_number(kind) or pa.types.is_decimal(kind) for kind in (a, b))
    return bool(a == b or (numbers and joint != TEXT) or (is_list(a) and is_list(b)))


def column_stats(key: str, column: pa.ChunkedArray, o: Options, *, headers: bool = False) -> ColumnStats:
    """The statistics of one block of a column (of a table that `plain` made). headers: read those of media, too."""
    stats = ColumnStats(column.type, len(column), column.null_count, column.null_count)
    if is_text(column.type):
        stats.texts = _texts(column)
    elif is_list(column.type):
        stats.lists = lists_in(column)
    elif column.type == BYTES and column.null_count < len(column):
        stats.media = _media(BinaryItems(key, column, o), headers)
    else:
        numbers = as_numbers(column)
        if numbers is not None and column.null_count < len(column):
            if numbers.type == pa.float16():  # which Arrow does not compute with
                numbers = numbers.cast(pa.float32())
            if pa.types.is_floating(numbers.type):
                stats.missing += pc.sum(pc.is_nan(numbers)).as_py()
            bounds = pc.min_max(numbers)
            stats.least, stats.most = bounds["min"].as_py(), bounds["max"].as_py()
            stats.days = not pa.types.is_temporal(column.type) and _all_days(numbers, stats)
    return stats


def _texts(column: pa.ChunkedArray) -> Texts:
    levels = None
    if column.type != TEXT:
        levels = tuple(v for c in column.chunks for v in c.dictionary.to_pylist() if v is not None)
        if not column.type.ordered:  # classes that no row has are kept only where the order means something
            used = set(pc.unique(column.cast(TEXT)).to_pylist())
            levels = tuple(v for v in levels if v in used)
        column = column.cast(TEXT)
    encoded = pc.dictionary_encode(column.combine_chunks())
    texts, codes = encoded.dictionary, pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
    rows = np.bincount(codes + 1, minlength=len(texts) + 1)[1:]
    before = np.maximum.accumulate(np.concatenate([[-1], codes]))[:-1]
    first = np.flatnonzero(codes > before)  # codes count up in the order in which strings come
    missing = is_missing(texts, bare := trimmed(texts))
    told, filled = np.flatnonzero(~missing), np.flatnonzero(~(is_blank(texts) if missing.any() else missing))
    distinct = pa.table({"text": _picked(texts, filled), "rows": rows[filled]})
    words = strings.count_words(distinct["text"])
    return Texts(
        distinct=distinct,
        compact=distinct.num_rows,
        filled=int(rows[filled].sum()),
        words=float((pc.fill_null(words, 0.0).to_numpy() * rows[filled]).sum()),
        levels=None if levels is None else strings.first_spelled(levels),
        marks=Counter({texts[int(i)].as_py(): int(rows[i]) for i in np.flatnonzero(missing)}),
        readings=readings(_picked(texts, told), _picked(bare, told), rows[told], first[told]),
    )


def _picked(texts: pa.Array, at: Rows) -> pa.Array:
    return texts if len(at) == len(texts) else texts.take(pa.array(at))


def _media(items: BinaryItems, headers: bool) -> Media:
    found = Media(kind_of(items[0]))
    if headers and found.kind == "image":
        found.images.update(image_header(items, i) for i in range(len(items)))
    if headers and found.kind == "audio":
        found.sounds.update(sound_header(items, i) for i in range(len(items)))
    return found


def decide(key: str, stats: ColumnStats, o: Options, notes: list[str]) -> Column | None:
    """What the column holds, by the statistics of all its rows; None, with the reason as last note, if it is left out.
    Of pictures and sounds only the kind is decided here: size and rate are theirs (see data/media)."""
    if (stats.media is None and stats.missing == stats.rows) or (stats.texts is not None and not stats.texts.filled):
        return _left_out(key, "every value is missing", notes)
    if stats.texts is not None:
        return _decide_text(key, stats, stats.texts, o, notes)
    if stats.lists is not None:
        return _decide_lists(key, stats, stats.lists, o, notes)
    if stats.media is not None:
        if stats.media.kind is None:
            return _left_out(key, "its bytes are neither text in UTF-8 nor pictures or sounds of a known kind", notes)
        image = stats.media.kind == "image"
        return Column("image", "uint8", (None, None, None)) if image else Column("audio", "float32", (None,))
    return _decide_number(key, stats, o, notes)


def _left_out(key: str, why: str, notes: list[str]) -> Column | None:
    notes.append(f"column '{key}' was left out: {why}.")
    return None


def _decide_number(key: str, stats: ColumnStats, o: Options, notes: list[str]) -> Column | None:
    """Numbers, dates and times; whole numbers that the data name are a category."""
    kind, t = stats.type, pa.types
    numbers = as_numbers(pa.chunked_array([], kind))
    if numbers is None:
        return _left_out(key, f"its type, {kind}, is not one that handful reads", notes)
    dates = "year-month-day" if t.is_date(kind) or t.is_timestamp(kind) else TIME_OF_DAY if t.is_time(kind) else None
    dates = DURATION if t.is_duration(kind) else dates
    if dates is not None:
        notes.append(of_dates(key, dates))
    elif t.is_decimal(kind):
        notes.append(f"'{key}' holds decimals: read as float64{', where some are one' * ((stats.most or 0) > 2**53)}.")
    if stats.nulls:
        notes.append(f"'{key}' lacks a value in {stats.nulls:,} of {stats.rows:,} rows: NaN there.")
    if not stats.missing and stats.rows > 1 and stats.least == stats.most and key != o.target and o.columns is None:
        about = "about " * (abs(stats.least or 0) > 2**53)  # of whole numbers that are one float
        return _left_out(key, f"it is {about}{stats.least} in every row", notes)
    gaps = stats.nulls and not t.is_floating(numbers.type)
    dtype = np.dtype(np.float64 if gaps else numbers.type.to_pandas_dtype())
    dtype = native(key, np.array([stats.most], dtype), o, notes).dtype
    if stats.names and dtype.kind in "iu" and (stats.least or 0) >= -1 and (stats.most or 0) < len(stats.names):
        return Column("category", "int64", (), stats.names, type=str(kind))
    if key != o.target and stats.days and _says_days(key, stats):
        notes.append(of_dates(key, DIGITS))
        return Column("number", "float64", dates=DIGITS, type=str(kind))
    words = o.words if key == o.target else None
    return Column("number", dtype.name, dates=dates, type=str(kind), decimal=o.decimal, words=words)


def _all_days(numbers: pa.ChunkedArray, stats: ColumnStats) -> bool:
    """Whether every number stands for a day: 20240229 does, 20230229 does not."""
    if not (stats.least and stats.most and stats.least >= 19000101 and stats.most < 21000000):
        return False
    values = pc.drop_null(numbers).cast(pa.float64()).to_numpy()
    return bool((np.isnan(values) | ~np.isnan(of_digits(values))).all())


def _says_days(key: str, stats: ColumnStats) -> bool:
    """Whether numbers that are all days are dates: by the column's name, or as twenty, of several months, which numbers
    of another kind are not by chance (one in 27 is a day)."""
    several = stats.rows - stats.missing >= 20 and (stats.least or 0) // 100 != (stats.most or 0) // 100
    return stats.least is not None and (several or TIME_NAME.search(key) is not None)


def _decide_text(key: str, stats: ColumnStats, texts: Texts, o: Options, notes: list[str]) -> Column | None:
    """Numbers or dates where the strings are read so (see `written_as`). Else a target is a category, and an input a
    text when it has 3 words or more on average and more than half of them are distinct, else a category."""
    if texts.levels is not None:
        notes.append(f"'{key}' is a category with {len(texts.levels):,} values, in the order it came with.")
        return Column("category", "int64", (), texts.levels)
    texts.count()
    distinct, is_input = strings.note_composed(key, texts.distinct, notes), key != o.target
    count = None if distinct is None else distinct.num_rows
    told = stats.rows - stats.nulls - texts.marks.total()
    different = np.inf if count is None else count - len([mark for mark in texts.marks if mark.strip()])
    known = StringStats(stats.rows, told, different, tuple(texts.marks), texts.readings)
    written = written_as(key, known, o, notes) if any(one.rows for one in texts.readings.values()) else None
    if written is not None:
        kept = distinct if not is_input and count is not None and count <= MOST_LABELS else None
        words = None if kept is None else tuple(kept["text"].to_pylist())
        return replace(written, type=str(TEXT), words=words)
    if distinct is not None and (several := in_cells(distinct["text"], is_input)):
        return _decide_cells(key, several, distinct["text"], o, notes)
    if is_input:
        strings.note_sum(key, distinct, notes)
        if (mean := texts.words / texts.filled) >= 3 and (count is None or count > 0.5 * texts.filled):
            many = "" if count is None else f", {count:,} different in {texts.filled:,} rows"
            notes.append(f"'{key}' is a text: {mean:.0f} words per row on average{many}.")
            return Column("text", "str")
        if o.columns is None and (why := _tells_nothing(stats, texts, distinct)):
            return _left_out(key, why, notes)
    if distinct is None:
        if not is_input:
            raise HandfulError(f"{o.name}: target '{key}' has too many classes to keep in memory: group some of them")
        notes.append(f"'{key}' is a text: it has too many different values for a category.")
        return Column("text", "str")
    classes = tuple(sorted(distinct["text"].to_pylist()))  # sorted, so that two files with the same classes agree
    notes.append(_said_of(key, len(classes), told, stats, texts, is_input))
    strings.note_alike(key, distinct["text"], notes)
    return Column("category", "int64", (), classes)


def _said_of(key: str, k: int, told: int, stats: ColumnStats, texts: Texts, is_input: bool) -> str:
    """What is said of a category with k values. told: rows that hold none of the marks for a missing one."""
    lacking = stats.rows - texts.filled
    said = f"'{key}' is a category with {k:,} values" + (f"; {lacking:,} rows lack one" if lacking else "")
    if is_input and 2 * k > texts.filled >= _IDENTIFIER_ROWS:
        said += ", most of which are of one row alone and tell nothing of others; numbers and dates of a known form do"
    elif is_input and told and (plain := texts.readings["."]).rows == told and not plain.signs:
        said += ", which are numbers in text: names, unless they are given as numbers"
    return f"{said}."


def _tells_nothing(stats: ColumnStats, texts: Texts, distinct: pa.Table | None) -> str:
    """Why strings tell nothing of the target, or ""."""
    if texts.once and texts.filled == stats.rows >= _IDENTIFIER_ROWS:
        return f"each of its {stats.rows:,} values occurs once, as in an identifier; name it in columns=... to keep it"
    one = distinct is not None and distinct.num_rows == 1 and texts.filled == stats.rows > 1
    return f"it is '{distinct.column('text')[0]}' in every row" if distinct is not None and one else ""


def _decide_lists(key: str, stats: ColumnStats, lists: Lists, o: Options, notes: list[str]) -> Column | None:
    """Blocks of numbers, numbers whose count varies, or labels that a row has together."""
    leaf = flat_list(pa.chunked_array([], stats.type)).type
    if lists.gap is not None and (key == o.target or stats.missing == stats.rows):
        raise HandfulError(f"{o.name}: column '{key}' has no list in row {lists.gap}: fill or remove such rows")
    few = lists.labels is not None and 2 <= len(lists.labels) <= _LABELS and 10 * lists.twice <= stats.rows
    labels = is_words(leaf) and (key == o.target or (few and not lists.missing))
    if not labels and None in (lists.shape[1:] if lists.shape[0] is not None else lists.shape[:-1]):
        return _left_out(key, "its inner lists differ in length", notes)
    lacking = lists.missing and (key == o.target or not is_number(leaf))
    if not labels and (lacking or not is_number(leaf)):
        reason = "they have missing values" if lacking else f"they hold {leaf}"
        reason += f"; target='{key}' takes them for labels that a row may have together" if is_words(leaf) else ""
        return _left_out(key, f"of lists, handful reads those of numbers, and {reason}", notes)
    if stats.missing:
        become = "an empty one" if labels or lists.shape[0] is None else "NaN"
        notes.append(f"'{key}' lacks a list in {stats.missing:,} of {stats.rows:,} rows: {become} there.")
    if labels:
        return _decide_labels(key, lists, stats.rows, o, notes)
    notes += [f"lists of '{key}' lack values: NaN there."] * lists.missing
    gaps = lists.missing or (stats.missing and None not in lists.shape)
    dtype = native(key, np.empty(0, np.float64 if gaps else leaf.to_pandas_dtype()), o, notes).dtype
    tokens = lists.shape == (None,) and dtype.kind in "iu"
    return Column("tokens" if tokens else "tensor", dtype.name, lists.shape)


def _decide_cells(key: str, several: Column, texts: pa.ChunkedArray, o: Options, notes: list[str]) -> Column:
    """Cells that hold several numbers each, or labels."""
    if note_cells(key, several, texts, notes):
        return several
    labels = _decide_labels(key, lists_in(cells(o.name, texts, several)), len(texts), o, notes)
    return replace(labels, separator=several.separator, type=several.type)


def _decide_labels(key: str, lists: Lists, rows: int, o: Options, notes: list[str]) -> Column:
    known = tuple(sorted(strings.first_spelled(lists.labels or ())))
    if len(known) < 2:
        found = f"more than {MOST_LABELS:,}" if lists.labels is None else len(known)
        raise HandfulError(f"{o.name}: the lists of '{key}' hold {found} different labels; a target needs two or more")
    if 10 * lists.twice > rows:
        raise HandfulError(
            f"{o.name}: {lists.twice:,} of {rows:,} lists of '{key}' hold a label more than once, so they are labels "
            "in order, as of tokens, not labels that a row has together; pass them as whole numbers, in lists of the "
            "tokens' length, to a model of your own that gives scores [rows, tokens, classes]"
        )
    notes += [f"{lists.twice:,} lists of '{key}' hold a label more than once: it counts once."] * (lists.twice > 0)
    shown = ", ".join(known[:6]) + (", ..." if len(known) > 6 else "")
    notes.append(
        f"{'the target ' * (key == o.target)}'{key}' holds {len(known)} labels that a row may have together: {shown}."
    )
    return Column("tensor", "uint8", (len(known),), labels=known)
