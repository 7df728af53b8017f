"""Arrow tables, and whatever turns into one without a copy, -> columns."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from handful.base.errors import HandfulError, did_you_mean
from handful.data.arrays import Arrays, Dense, Stored, native, ragged
from handful.data.base import Column
from handful.data.options import Options
from handful.data.tables.strings import from_dictionary, from_strings

_TARGET_NAMES = {"label", "labels", "target", "class", "y", "outcome"}


def is_frame(value: Any) -> bool:
    """Whether Arrow can read it: pyarrow, pandas, polars and all that speak either interchange protocol."""
    if isinstance(value, type):
        return False
    module = type(value).__module__.split(".")[0]
    return (
        isinstance(value, (pa.Table, pa.RecordBatch))
        or hasattr(value, "__arrow_c_stream__")
        or hasattr(value, "__dataframe__")
        or (module == "pandas" and hasattr(value, "to_numpy"))
    )


def to_table(value: Any, name: str) -> Any:
    """A pyarrow Table; HandfulError names the column that cannot be converted."""
    if isinstance(value, pa.Table):
        return value
    try:
        if type(value).__module__.split(".")[0] == "pandas":
            if hasattr(value, "to_frame"):
                value = value.to_frame(value.name if value.name is not None else "y")
            check_names([str(c) for c in value.columns], name)
            return pa.Table.from_pandas(value, preserve_index=False)
        if hasattr(value, "to_frame") and not hasattr(value, "columns"):  # a polars Series
            value = value.to_frame()
        if hasattr(value, "__arrow_c_stream__") or isinstance(value, pa.RecordBatch):
            return pa.table(value)
        from pyarrow.interchange import from_dataframe

        return from_dataframe(value)
    except (pa.ArrowException, TypeError) as error:
        raise HandfulError(f"{name}: a column mixes types or holds objects, so it cannot be read: {error}") from error


def check_names(names: Sequence[str], name: str) -> None:
    """Raise HandfulError when two columns have one name."""
    twice = [column for column, count in Counter(names).items() if count > 1]
    if twice:
        raise HandfulError(f"{name}: {Counter(names)[twice[0]]} columns are named '{twice[0]}': rename all but one.")


def open_table(table: Any, o: Options, extra: dict[str, Stored] | None = None, notes: Sequence[str] = ()) -> Arrays:
    """A table as a source: targets guessed, columns inferred, what is left out named in the notes.

    extra: further columns, given beside the table, such as the y of a pair.
    """
    said = list(notes)
    table = _flat(table)
    names = [str(c) for c in table.column_names]
    check_names(names + list(extra or ()), o.name)
    if all(_looks_like_number(n) for n in names) and o.where and o.where.endswith((".csv", ".tsv", ".csv.gz")):
        said.append("the column names are all numbers: if the file has no header line, its first row was taken for it.")
    every = names + [key for key in extra or () if key not in names]
    o = with_target(o, every, said)
    keep = chosen(o, every)
    classes = _class_names(table)
    stored: dict[str, Stored] = {}
    if table.num_rows == 0:
        raise HandfulError(f"{o.name} has column names but 0 rows: there is nothing to learn from.")
    for key, column in zip(names, table.columns):
        if key not in keep:
            continue
        found = convert(key, column, o, said)
        if found is None and (o.columns is not None or key == o.target):
            raise HandfulError(f"{o.name}: column '{key}' cannot be used: {said[-1]}")
        if found is not None:
            stored[key] = named_classes(found, classes.get(key))
    stored.update({key: value for key, value in (extra or {}).items() if key in keep})
    if not [key for key in stored if key != o.target]:
        raise HandfulError(f"{o.name} has no column to learn from: {' '.join(said) or 'only the target is there.'}")
    return Arrays(stored, o.target, name=o.name, where=o.where, notes=said)


def _flat(table: Any) -> Any:
    """The table with the fields of its structs as columns, `user.age`; encoded pictures and sounds stay as they are."""
    while True:
        kinds = table.schema.types
        plain = [pa.types.is_struct(kind) and kind.get_field_index("bytes") < 0 for kind in kinds]
        if not any(plain):
            return table
        names: list[str] = []
        columns: list[Any] = []
        for name, column, struct in zip(table.column_names, table.columns, plain):
            fields = [column.type.field(i).name for i in range(column.type.num_fields)] if struct else []
            names += [f"{name}.{field}" for field in fields] if struct else [name]
            columns += [pc.struct_field(column, field) for field in fields] if struct else [column]
        table = pa.table(columns, names=names, metadata=table.schema.metadata)


def with_target(o: Options, names: Sequence[str], notes: list[str]) -> Options:
    """Check the named target, or guess it when there is no doubt, and say so."""
    from dataclasses import replace

    if o.target is not None:
        if o.target not in names:
            raise HandfulError(f"{o.name} has no column '{o.target}' to use as target.{did_you_mean(o.target, names)}")
        return o
    likely = [n for n in names if n.lower() in _TARGET_NAMES and (o.columns is None or n in o.columns)]
    if len(likely) == 1 and len(names) > 1:
        notes.append(f"the target is taken to be '{likely[0]}', by its name; pass target=... for another.")
        return replace(o, target=likely[0])
    notes.append("no target guessed; pass target=... to name it.")
    return o


def chosen(o: Options, names: Sequence[str]) -> list[str]:
    """The columns that the caller wants, target included; HandfulError for one that is not there."""
    for wanted in o.columns or ():
        if wanted not in names:
            raise HandfulError(f"{o.name} has no column '{wanted}'.{did_you_mean(wanted, names)}")
    return [n for n in names if o.columns is None or n in o.columns or n == o.target]


def named_classes(stored: Stored, names: tuple[str, ...] | None) -> Stored:
    """Whole numbers with known names for them are a category."""
    if names is None or not isinstance(stored, Dense) or stored.column.kind != "number":
        return stored
    data = np.asarray(stored.data)
    if data.dtype.kind not in "iu" or (len(data) and (data.min() < -1 or data.max() >= len(names))):
        return stored
    return Dense(data.astype(np.int64), Column("category", "int64", (), names))


def _class_names(table: Any) -> dict[str, tuple[str, ...]]:
    """Class names that Hugging Face writes into a file's schema."""
    try:
        features = json.loads((table.schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {k: tuple(f["names"]) for k, f in features.items() if isinstance(f, dict) and "names" in f}
    except (KeyError, ValueError, TypeError):
        return {}


def _looks_like_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def convert(key: str, column: Any, o: Options, notes: list[str]) -> Stored | None:
    """One Arrow column -> contiguous storage; None, with the reason as last note, when it is left out."""
    column = pa.chunked_array([column]) if isinstance(column, pa.Array) else column
    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array([c.storage for c in column.chunks], column.type.storage_type)
    kind, t = column.type, pa.types
    wanted = o.schema.get(key)
    if t.is_dictionary(kind) and not t.is_nested(kind.value_type):
        if _is_text(kind.value_type):
            return from_dictionary(key, column, o, notes)
        return convert(key, column.cast(kind.value_type), o, notes)
    if _is_text(kind):
        return _files(key, column, o, notes) or from_strings(
            key, column.cast(pa.large_string()).combine_chunks(), o, notes
        )
    if wanted is not None and not t.is_nested(kind) and _by_name(column, wanted):
        return from_strings(key, column.cast(pa.large_string()).combine_chunks(), o, notes)
    if _is_binary(kind) or t.is_struct(kind):
        return _media(key, column, o, notes)
    if t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind):
        return _lists(key, column, o, notes)
    array = _numbers(key, column, notes)
    if array is None:
        return None
    array = native(key, array, o, notes)
    if wanted is not None and wanted.kind == "category":
        return Dense(array.astype(np.int64), wanted)
    if wanted is not None and wanted.kind == "number" and wanted.dtype != array.dtype.name:
        array = array.astype(wanted.dtype) if np.dtype(wanted.dtype).kind == "f" else array
    if key != o.target and o.columns is None and _constant(array):
        notes.append(f"column '{key}' was left out: it is {array[0]} in every row.")
        return None
    return Dense(array, Column("number", array.dtype.name))


def _by_name(column: Any, wanted: Column) -> bool:
    """Whether numbers are to be read as strings: as text, or as names of classes rather than codes."""
    if wanted.kind != "category" or not pa.types.is_integer(column.type):
        return wanted.kind in ("category", "text")
    return set(map(str, pc.unique(column).to_pylist())) <= set(wanted.classes or ())


def _is_binary(kind: Any) -> bool:
    t = pa.types
    return bool(t.is_binary(kind) or t.is_large_binary(kind) or t.is_fixed_size_binary(kind) or t.is_binary_view(kind))


def _constant(array: Any) -> bool:
    return len(array) > 1 and bool((array == array[0]).all())


def _numbers(key: str, column: Any, notes: list[str]) -> Any:
    """Any Arrow type that is a number a row, as a NumPy array; None when it is not one or all is missing."""
    t, kind = pa.types, column.type
    if t.is_null(kind) or column.null_count == len(column):
        notes.append(f"column '{key}' was left out: every value is missing.")
        return None
    if t.is_decimal(kind):
        notes.append(f"'{key}' holds decimals: read as float64.")
        column = column.cast(pa.float64())
    elif t.is_date(kind):
        notes.append(f"'{key}' holds dates: read as days since 1970-01-01.")
        column = column.cast(pa.date32()).cast(pa.int32()).cast(pa.int64())
    elif t.is_timestamp(kind) or t.is_time(kind) or t.is_duration(kind):
        since = " since 1970-01-01" if t.is_timestamp(kind) else ""
        notes.append(f"'{key}' holds times: read as seconds{since}.")
        units = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit]
        bits = pa.int32() if t.is_time32(kind) else pa.int64()
        column = pc.divide(column.cast(bits).cast(pa.float64(), safe=False), float(units))
    elif not (t.is_boolean(kind) or t.is_integer(kind) or t.is_floating(kind)):
        notes.append(f"column '{key}' was left out: its type, {kind}, is not one that handful reads.")
        return None
    if column.null_count:
        notes.append(f"'{key}' lacks a value in {column.null_count:,} of {len(column):,} rows: NaN there.")
        if not pa.types.is_floating(column.type):
            middle = pa.uint8() if pa.types.is_boolean(column.type) else column.type
            column = column.cast(middle).cast(pa.float64(), safe=False)
    array = np.ascontiguousarray(column.to_numpy())
    if array.dtype.kind == "f" and np.isnan(array).all():
        notes.append(f"column '{key}' was left out: every value is NaN.")
        return None
    return array


def _lists(key: str, column: Any, o: Options, notes: list[str]) -> Stored | None:
    """Lists of numbers: one block when all have one length, ragged otherwise."""
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py()
        raise HandfulError(f"{o.name}: column '{key}' has no list in row {row}: fill or remove such rows.")
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    if key == o.target and _is_text(array.flatten().type):
        return _label_sets(key, array.cast(pa.large_list(pa.large_string())), o, notes)
    shape: list[int] = []
    while True:
        lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
        inner = array.flatten()
        varies = len(lengths) > 0 and int(lengths.min()) != int(lengths.max())
        wanted = o.schema.get(key)
        if not shape and wanted is not None and wanted.shape[:1] == (None,):
            varies = True
        if varies and (shape or pa.types.is_nested(inner.type)):
            notes.append(f"column '{key}' was left out: its inner lists differ in length.")
            return None
        if varies:
            break
        shape.append(int(lengths[0]) if len(lengths) else 0)
        if not pa.types.is_nested(inner.type):
            break
        array = inner
    if inner.null_count or not (
        pa.types.is_integer(inner.type) or pa.types.is_floating(inner.type) or pa.types.is_boolean(inner.type)
    ):
        reason = "they have missing values" if inner.null_count else f"they hold {inner.type}"
        if _is_text(inner.type):
            reason += f"; target='{key}' takes them for labels that a row may have together"
        notes.append(f"column '{key}' was left out: of lists, handful reads those of numbers, and {reason}.")
        return None
    values = native(key, np.ascontiguousarray(inner.to_numpy(zero_copy_only=False)), o, notes)
    if varies:
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return ragged(key, values, offsets)
    block = values.reshape(len(column), *shape)
    return Dense(block, Column("tensor", block.dtype.name, tuple(shape)))


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _label_sets(key: str, lists: Any, o: Options, notes: list[str]) -> Stored:
    """A target of lists of strings, the labels that a row has together: uint8 [n, k] of zeros and ones. The labels are
    those of training where it is known, else all that occur, in alphabetical order."""
    words, wanted = lists.flatten(), o.schema.get(key)
    known = (
        wanted.labels
        if wanted is not None and wanted.labels
        else tuple(sorted(pc.unique(words).drop_null().to_pylist()))
    )
    at = np.repeat(np.arange(len(lists)), pc.list_value_length(lists).to_numpy(zero_copy_only=False))
    codes = pc.index_in(words, pa.array(known, words.type)).fill_null(-1).to_numpy(zero_copy_only=False)
    if (codes < 0).any():
        bad = int(np.flatnonzero(codes < 0)[0])
        word = words[bad].as_py()
        what = "holds a missing label" if word is None else f"holds '{word}', which is none of the labels of training"
        raise HandfulError(f"{o.name}: column '{key}' {what}, in row {at[bad]}: correct or remove such rows.")
    if len(known) < 2:
        raise HandfulError(f"{o.name}: the lists of '{key}' hold {len(known)} label(s); a target needs two or more.")
    block = np.zeros((len(lists), len(known)), dtype=np.uint8)
    block[at, codes] = 1
    shown = ", ".join(known[:6]) + (", ..." if len(known) > 6 else "")
    notes.append(f"the target '{key}' holds {len(known)} labels that a row may have together: {shown}.")
    return Dense(block, Column("tensor", "uint8", (len(known),), labels=known))


def media_named(column: Any) -> Literal["image", "audio"] | None:
    """Whether the first strings of a column end as the names of pictures do, or of sounds."""
    from handful.data.media.items import IMAGES, SOUNDS

    endings = {Path(name).suffix.lower() for name in column[:64].drop_null().to_pylist() if name}
    if not endings:
        return None
    return "image" if endings <= IMAGES else "audio" if endings <= SOUNDS else None


def _files(key: str, column: Any, o: Options, notes: list[str]) -> Stored | None:
    """Pictures or sounds of which a table holds the files' names, relative to its own folder or to where we are."""
    from handful.data.media.items import FileItems

    wanted = o.schema.get(key)
    if key == o.target or (wanted is not None and wanted.kind not in ("image", "audio")):
        return None
    named = media_named(column)
    if named is None:
        return None
    names = column.to_pylist()
    first = next(name for name in names if name)
    here = Path(o.where) if o.where and "://" not in o.where else None
    near = [] if here is None else [here] if here.is_dir() else [here.parent]
    base = next((folder for folder in (*near, Path()) if (folder / first).is_file()), None)
    if base is None:
        said = f"'{key}' names files, and '{first}' is not in {near[0] if near else 'this folder'}"
        if wanted is not None:
            raise HandfulError(f"{o.name}: column {said}.")
        notes.append(f"{said}: read as text.")
        return None
    paths = [base / (name or "") for name in names]
    for row, path in enumerate(paths):
        if not path.is_file():
            said = f"names {path}, which is not there" if names[row] else "names no file"
            raise HandfulError(f"{o.name}: column '{key}' {said}, in row {row}: correct or remove such rows.")
    if named == "image":
        from handful.data.media.images import from_items
    else:
        from handful.data.media.audio import from_items
    notes.append(f"'{key}' holds names of {'pictures' if named == 'image' else 'sounds'}: the files are read.")
    return from_items(FileItems(key, paths), o, notes)


def _media(key: str, column: Any, o: Options, notes: list[str]) -> Stored | None:
    """Encoded images or sounds: binary, or a struct {bytes, path} as dataset hubs publish them."""
    from handful.data.media.items import BinaryItems, kind_of

    if pa.types.is_struct(column.type):
        fields = [column.type.field(i).name for i in range(column.type.num_fields)]
        if "bytes" not in fields:
            notes.append(f"column '{key}' was left out: a struct of {', '.join(fields)} is not one that handful reads.")
            return None
        column = pc.struct_field(column, "bytes")
    items = BinaryItems(key, column, o)
    kind = kind_of(items[0])
    if kind == "image":
        from handful.data.media.images import from_items
    elif kind == "audio":
        from handful.data.media.audio import from_items
    else:
        notes.append(f"column '{key}' was left out: its bytes are no image or sound format that handful knows.")
        return None
    return from_items(items, o, notes)
