"""Arrow's types: a table brought to a few of them, one type for the blocks of a column, the numbers behind dates."""

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from handful.data.base import Column
from handful.data.gather import Array, offsets_of
from handful.data.media.items import kind_of

TEXT, BYTES = pa.large_string(), pa.large_binary()
_PLAIN = {TEXT, pa.float64(), pa.int64(), pa.bool_(), pa.date32(), pa.timestamp("s"), pa.timestamp("ns")}
_SIMPLE = {*_PLAIN, pa.string()}  # nothing lies inside
_MOST_KEYS = 1000  # of maps, that become columns
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def is_text(kind: pa.DataType) -> bool:
    """Strings, or a dictionary of strings: a category of its own order."""
    return bool(kind == TEXT or pa.types.is_dictionary(kind))


def is_words(kind: pa.DataType) -> bool:
    """Strings alone, of any of Arrow's types of them."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column as strings."""
    return column if column.type == TEXT else column.cast(TEXT)


def is_list(kind: pa.DataType) -> bool:
    """A list a row, of fixed length or not."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def is_number(kind: pa.DataType) -> bool:
    """Whole numbers, floats and booleans: what NumPy holds as it is."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def whole(kind: pa.DataType) -> bool:
    """Whole numbers that a float may not hold to every digit."""
    decimal = pa.types.is_decimal(kind) and kind.scale <= 0
    return decimal or bool(pa.types.is_integer(kind) and kind.bit_width == 64)


def whole_numbers(values: Sequence[object]) -> pa.Array | None:
    """Whole numbers of Python's of up to 64 bits that a float may not hold; None for any others.

    >>> whole_numbers([2**63, None, 2**53 + 1]).type, whole_numbers([-1, 2**64 - 1]).type, whole_numbers([1, None])
    (DataType(uint64), Decimal128Type(decimal128(20, 0)), None)
    """
    there: list[Any] = [value for value in values if value is not None]
    if not there or not all(issubclass(kind, int | np.integer) and kind is not bool for kind in {*map(type, there)}):
        return None
    least, most = min(map(int, there)), max(map(int, there))
    if not 2**53 < max(-least, most) < 2**64 or least < -(2**63):
        return None
    return pa.array(values, pa.int64() if most < 2**63 else pa.uint64() if least >= 0 else pa.decimal128(20, 0))


def is_amount(kind: pa.DataType) -> bool:
    """Numbers of any kind, decimals too."""
    return is_number(kind) or bool(pa.types.is_decimal(kind))


def without_times(schema: pa.Schema) -> pa.Schema:
    """The schema, with strings for times."""
    return pa.schema([(field.name, _without_times(field.type)) for field in schema])


def _without_times(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _without_times(field.type)) for field in kind])
    return pa.string() if pa.types.is_timestamp(kind) else kind


def beyond_int64(table: pa.Table, known: Collection[str] = ()) -> list[str]:
    """The columns that may hold whole numbers from 2^63 to 2^64, which Arrow's parsers round to floats; but for those
    that are `known`."""
    columns = zip(table.column_names, table.columns, strict=True)
    found = {name: column for name, column in columns if name not in known and column.type == pa.float64()}
    ends = {name: pc.min_max(column).as_py() for name, column in found.items()}
    return [name for name, end in ends.items() if (end["min"] or 0) >= 0 and 2.0**63 <= (end["max"] or 0) <= 2.0**64]


def plain(table: pa.Table, known: Collection[str] = ()) -> pa.Table:
    """The table with few types: the fields of structs are columns, `user.age`, and so are the keys of maps and the ends
    of intervals, but for those of a `known` name; see `plain_column` for the others."""
    if all(field.type in _PLAIN and not field.metadata for field in table.schema):  # one row after another is
        return table
    names: list[str] = []
    columns: list[pa.ChunkedArray] = []
    for field, column in zip(table.schema, table.columns, strict=True):
        if column.type in _SIMPLE and not field.metadata:
            names.append(str(field.name))
            columns.append(plain_column(column))
            continue
        freq = json.loads((field.metadata or {}).get(b"ARROW:extension:metadata") or b"{}").get("freq")
        if freq and pa.types.is_int64(column.type):  # a period, where pandas is not there to say so
            column = _starts(column, freq)
        for path, found in _fields(str(field.name), column, known):
            names.append(path)
            columns.append(plain_column(found))
    return pa.table(columns, names=names, metadata=table.schema.metadata)


def _fields(name: str, column: pa.ChunkedArray, known: Collection[str]) -> Iterable[tuple[str, pa.ChunkedArray]]:
    if _extension(column.type) == "pandas.interval" and name not in known:
        column = _storage(column)
    inner = [one for one in known if one.startswith(f"{name}.")] if pa.types.is_null(column.type) else []
    if inner and name not in known:  # no row has it, though training had fields of it
        yield from ((one, column) for one in inner)
        return
    if pa.types.is_map(column.type) and len(keys := _keys(name, column, known)) <= _MOST_KEYS:
        for key in keys:
            yield from _fields(
                f"{name}.{key}", pc.map_lookup(column, pa.scalar(key, column.type.key_type), "first"), known
            )
        return
    if not pa.types.is_struct(column.type) or _is_file(column.type):
        yield name, column
        return
    for field in column.type:
        yield from _fields(f"{name}.{field.name}", pc.struct_field(column, field.name), known)


def _keys(name: str, column: pa.ChunkedArray, known: Collection[str]) -> list[object]:
    """The keys of a map, those of training first."""
    trained = [one.removeprefix(f"{name}.") for one in known if one.startswith(f"{name}.")]
    each = [pa.concat_arrays([chunk]).keys for chunk in column.chunks]
    found = pc.unique(pa.chunked_array(each, column.type.key_type)).to_pylist()
    own = [key for key in trained if not pa.types.is_nested(column.type.item_type) and key not in map(str, found)]
    return [*(own if is_words(column.type.key_type) else ()), *found]


def _is_file(kind: pa.StructType) -> bool:
    """Whether it is {bytes, path}, as data set hubs publish media, and not, say, how many bytes something has."""
    types = {field.name: field.type for field in kind}
    return types.keys() <= {"bytes", "path"} and "bytes" in types and not is_number(types["bytes"])


def plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Strings, and bytes that are such, as large_string, other bytes as large_binary, pictures and sounds as theirs or,
    if none has any, as their paths, a dictionary of strings with indices of 32 bits; extensions and other dictionaries
    unwrapped."""
    t = pa.types
    kind = column.type
    if kind in _PLAIN:
        return column
    if t.is_string(kind) or t.is_string_view(kind):
        return column.cast(TEXT)
    if _extension(kind) == "pandas.period":
        return _starts(_storage(column), kind.freq)
    if _extension(kind) == "pandas.interval":
        return pa.chunked_array([_interval_names(kind, chunk.storage) for chunk in column.chunks], TEXT)
    if _extension(kind) == "arrow.fixed_shape_tensor" and not column.null_count:
        return pa.chunked_array([_nested(chunk.to_numpy_ndarray()) for chunk in column.chunks])
    if _extension(kind) is not None:
        return plain_column(_storage(column))
    if t.is_list_view(kind) or t.is_large_list_view(kind):  # cast, they lead out of their memory (pyarrow 26)
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
        flat, gaps = plain_column(pc.list_flatten(column)).combine_chunks(), pc.is_null(column).combine_chunks()
        return pa.chunked_array([pa.LargeListArray.from_arrays(pa.array(offsets_of(lengths)), flat, mask=gaps)])
    if t.is_run_end_encoded(kind):
        return plain_column(pa.chunked_array([pc.run_end_decode(c) for c in column.chunks], kind.value_type))
    if t.is_struct(kind) and _is_file(kind):
        found = pc.struct_field(column, "bytes")
        named = len(column) and found.null_count == len(column) and kind.get_field_index("path") >= 0
        return plain_column(pc.struct_field(column, "path") if named else found)
    if t.is_dictionary(kind) and _extension(kind.value_type) == "pandas.interval":
        column = pa.chunked_array([_named_intervals(chunk) for chunk in column.chunks])
        kind = column.type
    if t.is_dictionary(kind):
        values = plain_column(pa.chunked_array([], kind.value_type)).type
        return column.cast(pa.dictionary(pa.int32(), TEXT, kind.ordered) if values == TEXT else kind.value_type)
    if t.is_binary(kind) or t.is_large_binary(kind) or t.is_fixed_size_binary(kind) or t.is_binary_view(kind):
        return _as_told(column.cast(BYTES))
    return column


def _as_told(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Bytes that are text in UTF-8, as programs in C write it (NULs behind it are none of it), as text; others as they
    are."""
    at = pc.index(pc.fill_null(pc.greater(pc.binary_length(column), 0), False), True).as_py()
    if at < 0 or kind_of(column[at].as_buffer()) is not None:
        return column
    try:
        text = pc.utf8_rtrim(column.cast(TEXT), "\0")
    except pa.ArrowInvalid:
        return column
    return column if pc.any(pc.match_substring_regex(text, r"[\x00-\x08\x0e-\x1f\x7f]")).as_py() else text


def _extension(kind: pa.DataType) -> str | None:
    """The name of a type that a library has built on one of Arrow's."""
    return str(kind.extension_name) if isinstance(kind, pa.BaseExtensionType) else None


def _storage(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([c.storage for c in column.chunks], column.type.storage_type)


def _nested(values: Array) -> pa.Array:
    """Blocks of one shape as lists of lists."""
    found = pa.array(values.ravel())
    for size in reversed(values.shape[1:]):
        found = pa.FixedSizeListArray.from_arrays(found, size)
    return found


def _named_intervals(chunk: pa.DictionaryArray) -> pa.DictionaryArray:
    """A category whose classes are intervals, as pandas.cut makes it, with their names: "(0, 10]"."""
    names = _interval_names(chunk.type.value_type, chunk.dictionary.storage)
    return pa.DictionaryArray.from_arrays(chunk.indices, names, ordered=chunk.type.ordered)


def _interval_names(kind: pa.DataType, ends: pa.StructArray) -> pa.Array:
    left, right = "[" if kind.closed in ("left", "both") else "(", "]" if kind.closed in ("right", "both") else ")"
    return pa.array([one and f"{left}{one['left']}, {one['right']}{right}" for one in ends.to_pylist()], TEXT)


# Periods of pandas are counted from 1970 in one of NumPy's units.
_PERIODS = {"Y": ("M", 12), "A": ("M", 12), "Q": ("M", 3), "M": ("M", 1), "D": ("D", 1), "h": ("h", 1), "H": ("h", 1),
            "min": ("m", 1), "T": ("m", 1), "s": ("s", 1), "S": ("s", 1), "ms": ("ms", 1), "us": ("us", 1)}  # fmt: skip


def _starts(column: pa.ChunkedArray, freq: str) -> pa.ChunkedArray:
    """The moments at which periods of pandas begin; those of weeks, or years that end before December, stay counts."""
    unit, step = _PERIODS.get(freq.removesuffix("-DEC"), ("", 0))
    if not step:
        return column
    counts = pc.fill_null(column, 0).to_numpy() * step
    array = pa.array(counts.astype(f"datetime64[{unit}]").astype("datetime64[us]"))
    return pa.chunked_array([pc.if_else(pc.is_null(column).combine_chunks(), None, array)])


def join_types(a: pa.DataType | None, b: pa.DataType) -> pa.DataType | None:
    """The narrowest type that holds both; text holds every single value. None when there is none.

    For text files it is the type that the parser would find for both blocks at once.
    """
    t = pa.types
    if a is None or a == b or t.is_null(a):
        return b
    if t.is_null(b):
        return a
    kinds = (a, b)
    if all(map(t.is_integer, kinds)):
        wide = pa.uint64() in kinds and any(map(t.is_signed_integer, kinds))
        return pa.decimal128(20, 0) if wide else a if a.bit_width >= 64 else b if b.bit_width >= 64 else pa.int64()
    if all(t.is_integer(k) or t.is_floating(k) or t.is_decimal(k) for k in kinds):
        return pa.float64()
    if all(t.is_date(k) or t.is_timestamp(k) for k in kinds):
        zones = {k.tz if t.is_timestamp(k) else None for k in kinds}
        unit = max((k.unit for k in kinds if t.is_timestamp(k)), key=list(_UNITS).index, default=None)
        return TEXT if len(zones) > 1 else pa.timestamp(unit, zones.pop()) if unit else pa.date32()
    if any(map(t.is_nested, kinds)):
        inner = join_types(a.value_type, b.value_type) if all(map(is_list, kinds)) else None
        wide = any(map(t.is_large_list, kinds))
        return None if inner is None else pa.large_list(inner) if wide else pa.list_(inner)
    if BYTES in kinds:
        return None
    return TEXT


def as_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """The column as numbers or booleans: decimals as float64, dates and times as seconds; None for others."""
    t, kind = pa.types, column.type
    if t.is_null(kind) or t.is_decimal(kind):
        return column.cast(pa.float64())
    if t.is_date(kind):
        return as_numbers(column.cast(pa.timestamp("s")))
    if t.is_timestamp(kind) or t.is_time(kind) or t.is_duration(kind):
        count = column.cast(pa.int32() if t.is_time32(kind) else pa.int64()).cast(pa.int64())
        if kind.unit == "s":
            return count.cast(pa.float64())
        whole = pc.divide(count, _UNITS[kind.unit])  # apart, so that the sum is rounded once
        rest = pc.subtract(count, pc.multiply(whole, _UNITS[kind.unit]))
        return pc.add(whole.cast(pa.float64()), pc.divide(rest.cast(pa.float64()), float(_UNITS[kind.unit])))
    return column if is_number(kind) else None


def is_moment(kind: pa.DataType) -> bool:
    """Dates, with or without the time of day."""
    return bool(pa.types.is_date(kind) or pa.types.is_timestamp(kind))


def named(name: str | None) -> pa.DataType:
    """The type that Arrow calls so; text, in which every value can be written, where there is none of fixed form."""
    try:
        return TEXT if name is None else pa.type_for_alias(name)
    except ValueError:
        return TEXT


def cell_type(column: Column) -> pa.DataType:
    """As what the cells of a text file are parsed, that they come out as training had them."""
    t, kind = pa.types, named(column.type or (column.dtype if column.kind == "number" else None))
    if t.is_integer(kind):
        return pa.int64()
    if t.is_floating(kind):
        return pa.float64()
    return kind if column.kind == "number" else TEXT


def flat_list(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """What the lists of a column hold in the end, one after another."""
    return flat_list(pc.list_flatten(column)) if is_list(column.type) else column
