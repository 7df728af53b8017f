"""The values of a column: `apply`, the one place where what was decided or learned of a column is applied."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from handful.base.errors import HandfulError
from handful.data.arrays import Dense, RaggedValues, Stored, Strings, native, ragged_column
from handful.data.base import Column
from handful.data.gather import offsets_of
from handful.data.media import audio, images
from handful.data.media.bad_rows import Bad, BadRows
from handful.data.media.items import IMAGES, SOUNDS, BinaryItems, FileItems, Items
from handful.data.options import Options
from handful.data.tables.cells.dates import DIGITS, DURATION, TIME_OF_DAY, of_digits
from handful.data.tables.cells.reading import TIME_NAME
from handful.data.tables.cells.several import MOST_LABELS, cells
from handful.data.tables.cells.strings import NEW, codes_of, is_plain, read_numbers, reader
from handful.data.tables.columns import column_stats, decide
from handful.data.tables.types import (
    BYTES,
    TEXT,
    as_numbers,
    as_text,
    flat_list,
    is_amount,
    is_list,
    is_moment,
    is_number,
    is_text,
    named,
    plain_column,
    whole,
)

# kind -> what reads encoded rows of it
MEDIA: dict[str, Callable[[Items, Options, list[str]], Stored]]
MEDIA = {"image": images.from_items, "audio": audio.from_items}
ROWS_OF_EACH = 3  # on average, from which on numbers are asked whether they are names
EXACT = 2**53  # beyond, a float64 does not tell one whole number from the next
_WHOLE = re.compile(r"^\s*([-+]?\d+)(?:\.0*)?\s*$")
_SECONDS: dict[str, Callable[[pa.DataType], bool]] = {TIME_OF_DAY: pa.types.is_time, DURATION: pa.types.is_duration}


def convert(
    key: str, column: pa.ChunkedArray, o: Options, notes: list[str], names: tuple[str, ...] | None = None
) -> Stored | None:
    """A whole column: what it holds is what the caller's schema says, else it is decided; None where it is left out.

    names: of the classes that its whole numbers stand for.
    """
    column, wanted = plain_column(column), o.schema.get(key)
    if whole(column.type):
        column = _exactly(key, column, o, notes)
    if is_text(column.type) and key != o.target and (wanted is None or wanted.kind in MEDIA):
        named = media_named(column)
        if named is not None and (stored := _named_files(key, column, named, o, notes)):
            return stored
    if wanted is None or (wanted.kind == "category" and wanted.classes is None and is_text(column.type)):
        stats = column_stats(key, column, o)
        stats.names = names
        wanted = decide(key, stats, o, notes)
        return None if wanted is None else apply(key, column, wanted, o, notes)
    return apply(key, column, wanted, o, notes)


def _exactly(key: str, column: pa.ChunkedArray, o: Options, notes: list[str]) -> pa.ChunkedArray:
    """Whole numbers too long for a float in the type that `kept_as` says."""
    ends, trained = pc.min_max(column).as_py(), o.schema.get(key)
    if max(abs(ends["min"] or 0), abs(ends["max"] or 0)) <= EXACT or (trained and trained.kind != "number"):
        return column
    few = lambda: are_names(pc.unique(column).drop_null(), len(column) - column.null_count)  # noqa: E731
    kind = kept_as(key, column.type, ends["min"], ends["max"], o, notes, few)
    return column if kind == column.type else column.cast(kind, safe=False)


def kept_as(
    key: str, kind: pa.DataType, least: float | None, most: float | None, o: Options, notes: list[str],
    few: Callable[[], bool],
) -> pa.DataType:  # fmt: skip
    """The type of whole numbers between these that are too long for a float: text where they are names, noted, floats
    where they go from 2^63 on, their own else. few: whether they are names (`are_names`), unless they are a target."""
    wide = kind == pa.uint64() and (most or 0) >= 2**63
    goal = key == o.target and not pa.types.is_decimal(kind)
    if key not in o.schema and (wide if goal else are_long(key, least, most) and few()):
        notes.append(f"'{key}' holds whole numbers too long for amounts: names, to the last digit.")
        return TEXT
    if wide:
        notes.append(f"'{key}' holds whole numbers from 2^63 on: read as float64.")
    return pa.float64() if wide else kind


def are_long(key: str, least: float | None, most: float | None) -> bool:
    """Whether whole numbers between these may be too long for a float and no times, so that it is asked."""
    return max(abs(least or 0), abs(most or 0)) > EXACT and not TIME_NAME.search(key)


def are_names(distinct: pa.Array, rows: int) -> bool:
    """Whether so long numbers are names: three rows or more have each on average, and not all end in 000, as counts of
    nanoseconds do."""
    few = ROWS_OF_EACH * len(distinct) <= rows and 0 < len(distinct) <= MOST_LABELS
    return few and any(int(value) % 1000 for value in distinct.to_pylist())


def apply(key: str, column: pa.ChunkedArray, wanted: Column, o: Options, notes: list[str]) -> Stored:
    """Some rows of a column (of a table that `plain` made) as `wanted` says. Nothing is inferred: a row has the same
    value whatever other rows come with it. HandfulError, with its row, for a value that cannot be one."""
    if wanted.kind in MEDIA:
        return MEDIA[wanted.kind](BinaryItems(key, column, o), o, notes)
    if pa.types.is_null(column.type) and wanted.kind != "number":
        column = column.cast(TEXT)
    if wanted.separator and is_text(column.type):
        found = apply(key, cells(f"{o.name}: column '{key}'", as_text(column), wanted), wanted, o, notes)
        found.column = wanted
        return found
    if wanted.kind == "text":
        return Strings(as_text(column).to_pylist(), Column("text", "str"))
    if wanted.kind == "category":
        return _category(key, column, wanted, o, notes)
    if is_list(column.type):
        if column.null_count and key == o.target:
            row = pc.index(pc.is_null(column), True).as_py()
            raise HandfulError(f"{o.name}: column '{key}' has no list in row {row}: fill or remove such rows")
        column = filled(column, wanted) if column.null_count else column
        return _label_sets(key, column, wanted.labels, o, notes) if wanted.labels else _lists(key, column, wanted, o)
    return _numbers(key, column, wanted, o, notes)


def _numbers(key: str, column: pa.ChunkedArray, wanted: Column, o: Options, notes: list[str]) -> Dense:
    if is_text(column.type):
        array: NDArray[np.generic] = read_numbers(f"{o.name}: column '{key}'", as_text(column), wanted, notes)
    else:
        numbers = as_numbers(column)
        if numbers is None or not _alike(column.type, wanted, column.null_count == len(column)):
            what = "a number" if wanted.dates is None else f"a {wanted.dates}" if wanted.dates in _SECONDS else "a date"
            raise HandfulError(f"{o.name}: column '{key}' must be {what} but is {column.type}")
        if numbers.null_count and not pa.types.is_floating(numbers.type):
            middle = pa.uint8() if pa.types.is_boolean(numbers.type) else numbers.type
            numbers = numbers.cast(middle).cast(pa.float64(), safe=False)
        array = native(key, np.ascontiguousarray(numbers.to_numpy()), o, [])
        if wanted.dates == DIGITS and is_amount(column.type):
            array = _days(key, array.astype(np.float64), o)
    if array.dtype.kind == "f" and wanted.dtype.startswith(("int", "uint")) and (np.abs(array) >= EXACT).any():
        array = _to_every_digit(key, column, array, o)
    if wanted.dtype.startswith("float") and array.dtype != wanted.dtype:
        array = array.astype(wanted.dtype)
    return Dense(array, wanted if array.dtype == wanted.dtype else Column("number", array.dtype.name))


def _to_every_digit(key: str, column: pa.ChunkedArray, found: NDArray[np.generic], o: Options) -> NDArray[np.generic]:
    """Whole numbers from 2^53 on, not all of which a float is: of text or decimals. HandfulError for such a target that
    came as floats."""
    with suppress(pa.ArrowException):
        if not (column.null_count or pa.types.is_floating(column.type)):
            return np.asarray(column.cast(pa.int64()))
    if key == o.target:
        found_as = "numbers from 2^53 on as floats, which are not exact: give them as whole numbers, or as text"
        raise HandfulError(f"{o.name}: column '{key}' holds {found_as}")
    return found


def _days(key: str, values: NDArray[np.float64], o: Options) -> NDArray[np.float64]:
    """Numbers of eight digits as the days that they stand for; HandfulError for one that stands for none."""
    found = of_digits(values)
    odd = np.flatnonzero(np.isnan(found) & ~np.isnan(values))
    if len(odd):
        way_on = "correct it, or leave it empty where it is missing"
        said = f"must be a date, {DIGITS}, but is {values[odd[0]]:.15g} in row {odd[0]}"
        raise HandfulError(f"{o.name}: column '{key}' {said}: {way_on}")
    return found


def _alike(kind: pa.DataType, wanted: Column, empty: bool) -> bool:
    """Whether such numbers mean what those of training did: dates, times of day, durations, or plain ones."""
    if empty:
        return True
    if wanted.dates is not None:
        return (wanted.dates == DIGITS and is_amount(kind)) or bool(_SECONDS.get(wanted.dates, is_moment)(kind))
    return not (pa.types.is_duration(kind) or is_moment(kind) or pa.types.is_time(kind))


def _category(key: str, column: pa.ChunkedArray, wanted: Column, o: Options, notes: list[str]) -> Dense:
    """The place of each value's name among the classes; -1 where it is missing or not among them."""
    if pa.types.is_floating(column.type) and (pc.max(column).as_py() or 0) > EXACT:
        notes.append(f"'{key}' holds floats, which are not exact from 2^53 on: each is the one name that rounds to it.")
    as_it_is, classes = is_text(column.type) or column.type == BYTES, wanted.classes or ()
    column = as_text(column) if as_it_is else class_names(key, column, wanted, o)
    codes, unknown = codes_of(column, classes)
    if len(unknown):
        column = _of_whole_numbers(column, wanted)
        codes, unknown = codes_of(column, classes)
    if not len(unknown):
        return Dense(codes, replace(wanted, open=False) if wanted.open else wanted)
    if key == o.target or wanted.open:
        classes = (*classes, *sorted(pc.unique(column.take(pa.array(unknown))).to_pylist()))
        codes, _ = codes_of(column, classes)
    if key != o.target:  # what becomes of such rows of a target is said where they are scored
        become = "treated as missing in this column" if wanted.open else "read as missing"
        first = column[int(unknown[0])].as_py()
        rows = "a row" if len(unknown) == 1 else f"{len(unknown):,} rows"
        notes.append(f"'{key}' has values {NEW} in {rows} (first '{first}'): {become}.")
    return Dense(codes, replace(wanted, classes=classes, open=False))


def class_names(key: str, column: pa.ChunkedArray, wanted: Column, o: Options) -> pa.ChunkedArray:
    """Values that are no text, as training had them: whole numbers are the places of classes where training had those;
    else a number, a date or a truth value is the class whose name, read so, is that value. HandfulError for two."""
    classes = wanted.classes or ()
    distinct = pc.unique(column).drop_null()
    if pa.types.is_floating(column.type):
        distinct = distinct.filter(pc.invert(pc.is_nan(distinct)))
    if is_amount(column.type) and not pa.types.is_boolean(column.type) and pa.types.is_integer(named(wanted.type)):
        known = dict(enumerate(classes)) | {-1: None}  # 1.0 is 1 here, as in a frame with gaps
        names = [known.get(code, str(code)) for code in distinct.to_pylist()]
    else:
        read, rounded = reader(str(column.type)), pa.types.is_floating(column.type)
        means: dict[float, list[str]] = {}
        for name in classes:
            with suppress(ValueError):
                means.setdefault(float(read(name)) if rounded else read(name), []).append(name)
        names = [_meant(key, text, means.get(read(text), []), o) for text in distinct.cast(TEXT).to_pylist()]
    return pc.take(pa.array(names, TEXT), pc.index_in(column, value_set=distinct))


def _of_whole_numbers(column: pa.ChunkedArray, wanted: Column) -> pa.ChunkedArray:
    """Strings in which "2.0" is the class "2", as files of a frame with gaps have it, or the other way round where no
    two classes are; and where training had codes and no class is called by a number, both the class of that code."""
    classes = wanted.classes or ()
    coded = pa.types.is_integer(named(wanted.type)) and not any(map(is_plain, classes))
    known = {str(k) if coded else _WHOLE.sub(r"\1", name): name for k, name in enumerate(classes)}
    distinct = pc.unique(column).drop_null()
    texts = distinct.to_pylist() if len(known) == len(classes) else []
    names = [known.get(_WHOLE.sub(r"\1", text), text) if text not in classes else text for text in texts]
    if not names:
        return column
    return pc.take(pa.array(names, TEXT), pc.index_in(column, value_set=distinct))


def _meant(key: str, text: str, names: list[str], o: Options) -> str:
    whole = text in names and text.lstrip("-").isdecimal()
    if len(names) > 1 and not whole:
        raise HandfulError(
            f"{o.name}: '{key}' is {text}, which may be '{names[0]}' or '{names[1]}' of training: give it as text"
        )
    return text if whole or not names else names[0]


def _lists(key: str, column: pa.ChunkedArray, wanted: Column, o: Options) -> Stored:
    """Numbers in a block of one shape a row, or, where `wanted` has no length, of as many as each row has."""
    values = flat_list(column).combine_chunks()
    lacking = values.null_count and (key == o.target or wanted.kind == "tokens")
    if lacking or not (is_number(values.type) or pa.types.is_null(values.type)):
        what = "missing values" if lacking else str(values.type)
        raise HandfulError(f"{o.name}: column '{key}' must hold lists of numbers, but they hold {what}")
    values = values.cast(pa.float64(), safe=False) if values.null_count else values
    array = native(key, np.ascontiguousarray(values.to_numpy(zero_copy_only=False)), o, [])
    if wanted.dtype.startswith("float"):
        array = array.astype(wanted.dtype, copy=False)
    inner, rows = column, len(column)
    for size in wanted.shape:
        lengths = pc.list_value_length(inner).to_numpy() if is_list(inner.type) else np.zeros(0, np.int64)
        other = np.flatnonzero(lengths != size)
        if not is_list(inner.type) or (size is not None and len(other)):
            where = f" in row {other[0] * rows // len(lengths)}" if len(other) else ""
            needed = f"lists of {' x '.join('any' if n is None else str(n) for n in wanted.shape)} numbers"
            raise HandfulError(f"{o.name}: column '{key}' must hold {needed} but has others{where}")
        inner = pc.list_flatten(inner)
    if is_list(inner.type):
        raise HandfulError(f"{o.name}: column '{key}' must be {wanted.kind} {list(wanted.shape)} but is {column.type}")
    shape = tuple(size or 0 for size in wanted.shape)
    if wanted.shape[:1] == (None,):
        offsets = offsets_of(pc.list_value_length(column).to_numpy())
        return RaggedValues(array.reshape(-1, *shape[1:]), offsets, ragged_column(array.dtype, shape[1:]))
    return Dense(array.reshape(rows, *shape), Column("tensor", array.dtype.name, shape))


def filled(column: pa.ChunkedArray, wanted: Column) -> pa.ChunkedArray:
    """Lists with one of missing values where there is none; an empty one where their length may be any."""
    gap: object = None
    for size in reversed(() if wanted.labels else wanted.shape):
        gap = [gap] * (size or 0)
    return pa.chunked_array(
        [pa.array([(gap or []) if row is None else row for row in column.to_pylist()], column.type)]
    )


def _label_sets(key: str, lists: pa.ChunkedArray, known: tuple[str, ...], o: Options, notes: list[str]) -> Dense:
    """The labels that a row has together: uint8 [n, k] of zeros and ones. Of inputs, new ones are left out."""
    words = flat_list(lists).cast(TEXT)
    at = np.repeat(np.arange(len(lists)), pc.list_value_length(lists).to_numpy())
    codes, _ = codes_of(words, known)
    if (codes < 0).any():
        bad = int(np.flatnonzero(codes < 0)[0])
        word = words[bad].as_py()
        what = "holds a missing label" if word is None else f"holds '{word}', which is none of the labels of training"
        if key == o.target or word is None:
            raise HandfulError(f"{o.name}: column '{key}' {what}, in row {at[bad]}: correct or remove such rows")
        notes.append(f"'{key}' {what}: such labels are left out.")
        at, codes = at[codes >= 0], codes[codes >= 0]
    block = np.zeros((len(lists), len(known)), dtype=np.uint8)
    block[at, codes] = 1
    return Dense(block, Column("tensor", "uint8", (len(known),), labels=known))


def media_named(column: pa.ChunkedArray) -> Column | None:
    """What the first strings of a column name, if more than half end as the names of pictures do, or of sounds."""
    found = [os.path.splitext(name)[1].lower() for name in column[:64].cast(TEXT).to_pylist() if name]
    if 2 * sum(ending in IMAGES for ending in found) > len(found):
        return Column("image", "uint8", (None, None, None))
    sounds = 2 * sum(ending in SOUNDS for ending in found) > len(found)
    return Column("audio", "float32", (None,)) if sounds else None


def _named_files(key: str, column: pa.ChunkedArray, named: Column, o: Options, notes: list[str]) -> Stored | None:
    """Pictures or sounds of which a table holds the files' names, relative to its own folder or to where we are."""
    names = column.cast(TEXT).to_pylist()
    some = [name for name in names[:64] if name and Path(name).suffix.lower() in IMAGES | SOUNDS]
    here = Path(o.where) if o.where and "://" not in o.where else None
    near = [] if here is None else [here] if here.is_dir() else [here.parent]
    base = next((folder for folder in (*near, Path()) if any((folder / name).is_file() for name in some)), None)
    if base is None:
        lost = f"'{key}' names files, and '{some[0]}' is not in {near[0] if near else 'this folder'}"
        if key in o.schema:
            raise HandfulError(f"{o.name}: column {lost}")
        notes.append(f"{lost}: read as text.")
        return None
    if o.where is not None and not o.outside:
        _check_inside(key, names, base, o)
    paths, bad = [base / (name or "") for name in names], list[Bad]()
    for row, path in enumerate(paths):
        if not path.is_file():
            where = f"in row {row if o.rows is None else o.rows[row]}: correct or remove such rows"
            lacks = _lack_of(path, names[row])
            said = f"{o.name}: column '{key}' {lacks}, {where}"
            bad.append(Bad(row, "missing file" if names[row] else "empty cell", str(path), said))
    if bad:
        raise BadRows(bad)
    notes.append(f"'{key}' holds names of {'pictures' if named.kind == 'image' else 'sounds'}: the files are read.")
    return MEDIA[named.kind](FileItems(key, paths), o, notes)


def _lack_of(path: Path, name: str | None) -> str:
    if not name:
        return "names no file"
    if path.is_symlink() and not path.exists():
        return f"names {path}, a link to what is not there"
    return f"names {path}, which is not {'a file' if path.exists() else 'there'}"


def _check_inside(key: str, names: list[str | None], base: Path, o: Options) -> None:
    """HandfulError for a table, which may have come from someone else, that names files outside the folder `base`."""
    root = os.path.join(os.path.abspath(base), "")
    for row, name in enumerate(names):
        if name and not os.path.abspath(os.path.join(root, name)).startswith(root):
            raise HandfulError(
                f"{o.name}: column '{key}' names {name} in row {row}, outside the folder {base.absolute()}: move such "
                "files there, or pass outside=True to handful.open"
            )
