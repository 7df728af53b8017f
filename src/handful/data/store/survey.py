"""What a column of a table holds, learned from its blocks one after another, in bounded memory."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from handful.base.errors import HandfulError
from handful.data.base import Column
from handful.data.media.audio import choose_rate, header
from handful.data.media.images import Form, choose_form
from handful.data.media.images import header as image_header
from handful.data.media.items import BinaryItems, kind_of
from handful.data.options import Options
from handful.data.tables.strings import _IDENTIFIER_ROWS, _numbers, count_words, find_dates

# Strings with more different values than this are a text, whatever they are: classes are kept in memory.
MOST_CLASSES = 1 << 16
_WIDER = {"uint16": "int32", "uint32": "int64", "uint64": "int64", "halffloat": "float16", "float": "float32"}


class Facts:
    """Counts of one column: rows, missing values, distinct strings, words, lengths, headers."""

    def __init__(self, name: str, target: bool) -> None:
        self.name, self.target = name, target
        self.rows = self.nulls = self.filled = self.words = 0
        self.distinct: set[str] | None = set()
        self.least: Any = None
        self.most: Any = None
        self.shape: list[int | None] | None = None
        self.media: str | None = None
        self.images: Counter[Any] = Counter()
        self.sounds: Counter[tuple[int, int]] = Counter()

    def update(self, column: Any, o: Options) -> None:
        """Take one more block into account."""
        t, kind = pa.types, column.type
        self.nulls += column.null_count
        if t.is_large_string(kind):
            self._strings(column)
        elif t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind):
            self._lists(column, o)
        elif t.is_struct(kind) or t.is_binary(kind) or t.is_large_binary(kind) or t.is_fixed_size_binary(kind):
            self._binary(column, o)
        elif t.is_integer(kind) or t.is_floating(kind) or t.is_boolean(kind):
            least = pc.min_max(column)
            low, high = least["min"].as_py(), least["max"].as_py()
            if low is not None:
                self.least = low if self.least is None else min(self.least, low)
                self.most = high if self.most is None else max(self.most, high)
        self.rows += len(column)

    def _strings(self, column: Any) -> None:
        trimmed = pc.fill_null(pc.utf8_trim_whitespace(column), "")
        is_filled = pc.not_equal(trimmed, "")
        filled = column.filter(is_filled)
        self.filled += len(filled)
        self.words += pc.sum(count_words(filled)).as_py() or 0
        if self.distinct is not None:
            self.distinct.update(pc.unique(filled).to_pylist())
            if len(self.distinct) > MOST_CLASSES:
                self.distinct = None

    def _lists(self, column: Any, o: Options) -> None:
        if column.null_count:
            row = self.rows + pc.index(pc.is_null(column), True).as_py()
            raise HandfulError(f"{o.name}: column '{self.name}' has no list in row {row}: fill or remove such rows.")
        shape: list[int | None] = []
        while _is_list(column.type):
            lengths = pc.min_max(pc.list_value_length(column))
            low, high = lengths["min"].as_py(), lengths["max"].as_py()
            shape.append(low if low == high else None)
            column = pc.list_flatten(column)
        old = self.shape or shape
        self.shape = [a if a == b else None for a, b in zip(old, shape)]

    def _binary(self, column: Any, o: Options) -> None:
        if pa.types.is_struct(column.type):
            if column.type.get_field_index("bytes") < 0:
                return
            column = pc.struct_field(column, "bytes")
            column = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
        items = BinaryItems(self.name, column, o)
        if self.media is None and len(items):
            self.media = kind_of(items[0]) or "unknown"
        for i in range(len(items)):
            if self.media == "image":
                self.images[image_header(items, i)] += 1
            elif self.media == "audio":
                self.sounds[header(items, i)] += 1


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def decide(
    facts: Facts, kind: Any, names: tuple[str, ...] | None, o: Options, notes: list[str]
) -> tuple[Column | None, Form | None]:
    """The column that `open` would make of the whole, or None with the reason as last note."""
    key, t = facts.name, pa.types
    wanted = o.schema.get(key)
    if facts.media in ("image", "audio"):
        return _media(facts, wanted, o, notes)
    if wanted is not None:
        return replace(wanted, open=False), None  # what one block brings, another does not know
    if facts.nulls == facts.rows:
        notes.append(f"column '{key}' was left out: every value is missing.")
        return None, None
    if t.is_large_string(kind):
        return _strings(facts, o, notes), None
    if _is_list(kind):
        return _lists(facts, kind, notes), None
    dtype = _dtype(kind, facts.nulls)
    if dtype is None:
        notes.append(f"column '{key}' was left out: its type, {kind}, is not one that handful reads.")
        return None, None
    if facts.nulls:
        notes.append(f"'{key}' lacks a value in {facts.nulls:,} of {facts.rows:,} rows: NaN there.")
    elif key != o.target and o.columns is None and facts.rows > 1 and facts.least == facts.most is not None:
        notes.append(f"column '{key}' was left out: it is {facts.least} in every row.")
        return None, None
    if names and t.is_integer(kind) and facts.least >= -1 and facts.most < len(names):
        return Column("category", "int64", (), names), None
    return Column("number", dtype), None


def _dtype(kind: Any, nulls: int) -> str | None:
    """The dtype that `table.convert` gives."""
    t = pa.types
    if t.is_floating(kind):
        return _WIDER.get(str(kind), "float64")
    if t.is_decimal(kind) or t.is_timestamp(kind) or t.is_time(kind) or t.is_duration(kind):
        return "float64"
    if t.is_boolean(kind) or t.is_integer(kind) or t.is_date(kind):
        plain = "int64" if t.is_date(kind) else _WIDER.get(str(kind), str(kind))
        return "float64" if nulls else plain
    return None


def _strings(facts: Facts, o: Options, notes: list[str]) -> Column | None:
    """The rules of `strings.from_strings`, on counts."""
    key, text = facts.name, Column("text", "str")
    if not facts.filled:
        notes.append(f"column '{key}' was left out: every value is missing.")
        return None
    if facts.distinct is None:
        if facts.target:
            raise HandfulError(f"{o.name}: target '{key}' has more than {MOST_CLASSES:,} classes: group some of them.")
        notes.append(f"'{key}' is a text: it has more than {MOST_CLASSES:,} different values.")
        return text
    distinct = sorted(facts.distinct)
    if not facts.target:
        array = pa.array(distinct, pa.large_string())
        if _numbers(key, array, array, []) is not None:
            notes.append(f"'{key}' is numbers; what is no number in it is read as missing (NaN).")
            return Column("number", "float64")
        dates = find_dates(key, array, notes) if len(array) else None
        if dates is not None:
            return Column("number", "float64", dates=dates)
        if facts.words >= 3 * facts.filled and len(distinct) > 0.5 * facts.filled:
            mean = facts.words / facts.filled
            notes.append(f"'{key}' is a text: {mean:.0f} words a row on average.")
            return text
        if len(distinct) == facts.rows >= _IDENTIFIER_ROWS and o.columns is None:
            notes.append(
                f"column '{key}' was left out: each of its {len(distinct):,} values occurs once, as in an identifier; "
                "name it in columns=[...] to keep it."
            )
            return None
        if len(distinct) == 1 and facts.filled == facts.rows > 1 and o.columns is None:
            notes.append(f"column '{key}' was left out: it is '{distinct[0]}' in every row.")
            return None
    notes.append(f"'{key}' is a category with {len(distinct):,} values.")
    return Column("category", "int64", (), tuple(distinct))


def _lists(facts: Facts, kind: Any, notes: list[str]) -> Column | None:
    assert facts.shape is not None
    leaf = kind
    while _is_list(leaf):
        leaf = leaf.value_type
    dtype = _dtype(leaf, 0)
    numeric = pa.types.is_integer(leaf) or pa.types.is_floating(leaf) or pa.types.is_boolean(leaf)
    if not numeric or dtype is None or None in facts.shape[1:]:
        why = f"they hold {leaf}" if not numeric else "its inner lists differ in length"
        notes.append(f"column '{facts.name}' was left out: of lists, handful reads blocks of numbers, and {why}.")
        return None
    if facts.shape[0] is None and len(facts.shape) > 1:
        notes.append(f"column '{facts.name}' was left out: its lists of lists differ in length.")
        return None
    tokens = facts.shape == [None] and pa.types.is_integer(leaf)
    return Column("tokens" if tokens else "tensor", dtype, tuple(facts.shape))


def _media(facts: Facts, wanted: Column | None, o: Options, notes: list[str]) -> tuple[Column | None, Form | None]:
    if facts.media == "audio":
        rate = choose_rate(facts.name, facts.sounds, o.rate, wanted, notes)
        return Column("audio", "float32", (None,), rate=rate), None
    if wanted is not None:
        channels, height, width = (s or 1 for s in wanted.shape)
        form = Form(channels, height, width, fit=True)
    else:
        form = choose_form(facts.name, facts.images, o, notes)
    return Column("image", "uint8", form.shape), form
