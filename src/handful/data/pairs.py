"""A pair (X, y), a dict of columns, one array: data that the caller holds in memory."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pyarrow as pa

from handful.base.errors import HandfulError
from handful.data.arrays import Arrays, Stored
from handful.data.containers import flat_columns, is_xarray, listed, of_xarray
from handful.data.options import Options
from handful.data.tables.arrays import LeftOut, from_values, is_sparse
from handful.data.tables.arrow import check_inputs, chosen, is_frame, open_table, texts_alone, to_table, with_target
from handful.data.tables.cells.strings import untyped
from handful.data.tables.types import TEXT
from handful.data.tables.values import apply


def open_columns(values: Mapping[str, object], o: Options, notes: list[str] | None = None) -> Arrays:
    """A mapping name -> array, Tensor, list or Series, all of one length."""
    notes = list(notes or ())
    if own := [key for key in _OF_FILES if key in values]:
        notes.append(f"{', '.join(own)} say how the file was written, not what it holds: left out.")
    values = dict(pair for key in values if key not in own for pair in flat_columns(str(key), values[key]))
    names = list(values)
    if not names:
        raise HandfulError(f"{o.name} is an empty dict: give at least one column")
    o = with_target(o, names, notes)
    keep = chosen(o, names)
    strings = {key: strings for key in keep if (strings := _strings(values.get(key))) is not None}
    o = replace(o, untyped=not o.schema and len(strings) == len(names) and untyped(strings.values()))
    stored: dict[str, Stored] = {}
    for key, value in values.items():
        try:
            if key in keep:
                stored[key] = from_values(key, value, o, notes)
        except LeftOut:
            if o.columns is not None or key == o.target:
                raise
    alone = texts_alone(strings, stored, o, notes)
    stored |= {key: apply(key, strings[key], column, o, notes) for key, column in alone.items()}
    check_inputs(stored, o, notes)
    return Arrays(stored, o.target, name=o.name, where=o.where, notes=notes)


_OF_FILES = ("__header__", "__version__", "__globals__")  # what scipy.io.loadmat adds to the arrays of a file
_OF_SHARDS = ("__url__", "__local_path__", "__index__", "__shard__")  # what webdataset adds to each sample


def _strings(values: object) -> pa.ChunkedArray | None:
    """The values, where they are a list of strings that a file can hold, and gaps."""
    if isinstance(values, list | tuple) and all(type(value) in (str, type(None)) for value in values):
        with suppress(UnicodeEncodeError):
            return pa.chunked_array([values], TEXT)
    return None


def open_rows(rows: Sequence[Mapping[str, object]], o: Options) -> Arrays:
    """Mappings name -> value, one per row; a row without a name that another has lacks that value, which is noted."""
    there = Counter(name for row in rows for name in row)
    own = [name for name in _OF_SHARDS if there.pop(name, 0)]
    names, n = list(there), len(rows)
    notes = [f"{' and '.join(own)} say where a row lies, not what it is: left out."] if own else []
    notes += [f"'{name}' is absent from {n - k:,} of {n:,} rows: missing there." for name, k in there.items() if k < n]
    columns: dict[str, Any] = {str(name): listed([row.get(name) for row in rows]) for name in names}
    try:
        kinds = {name: TEXT if type(values[0]) is str else None for name, values in columns.items()}
        table = pa.table({name: pa.array(values, kinds[name], from_pandas=True) for name, values in columns.items()})
    except (pa.ArrowException, TypeError, OverflowError):  # arrays, or types that are mixed: said there
        return open_columns(columns, o, notes)
    return open_table(table, o, notes=notes)


def open_pair(x: object, y: object, o: Options) -> Arrays:
    """Inputs and target: columns `x` and `y`, or the names that a DataFrame and a Series bring."""
    if y is None:
        raise HandfulError(f"{o.name}: y is None; pass X alone for data without a target")
    name, y = _named(y, o)
    x, said = of_xarray(x) if is_xarray(x) and isinstance(x, Mapping) else (x, [])
    table = to_table(x, o.name) if is_table(x) else None
    values = x if isinstance(x, Mapping) and not is_sparse(x) else dict(flat_columns("", x))
    values = {alone(o): x} if "" in values else values
    if name in map(str, values if table is None else table.column_names):
        raise HandfulError(f"{o.name}: '{name}' is both a column of X and the name of y: rename one")
    if o.target not in (None, name):
        raise HandfulError(f"{o.name}: the target of a pair (X, y) is '{name}', not '{o.target}'; leave target out")
    o, notes = replace(o, target=name), said + of_index(x, o) + _different_index(x, y)
    if table is None:
        return open_columns({**values, name: y}, o, notes)
    return open_table(table, o, {name: from_values(name, y, o, notes)}, notes)


def alone(o: Options) -> str:
    """The name of an input that has none: that of the only one of training, else x."""
    known = [name for name in o.schema if name != o.target]
    return known[0] if len(known) == 1 else "x"


def is_table(value: object) -> bool:
    """A frame of columns rather than a single Series."""
    return is_frame(value) and any(
        hasattr(value, name) for name in ("columns", "column_names", "num_columns", "__dataframe__")
    )


def _named(y: object, o: Options) -> tuple[str, object]:
    """The target's name and its values: of a Series or a frame of one column its own name, else y."""
    if is_table(y):
        table = to_table(y, o.name)
        if table.num_columns != 1:
            raise HandfulError(f"{o.name}: y has {table.num_columns} columns, not one: pass a Series or an array")
        return str(table.column_names[0]), table.column(0)
    name = getattr(y, "name", None) if is_frame(y) else None
    unnamed = o.target if o.target and o.target in o.schema else "y"
    return str(name) if isinstance(name, str | int) and str(name) else unnamed, y


def of_index(frame: object, o: Options) -> list[str]:
    """A note on the named index of a frame of pandas, whose values are no column, at training."""
    names = [str(name) for name in getattr(getattr(frame, "index", None), "names", ()) if name is not None]
    said = f"the index of the frame is no column ({', '.join(names)}): reset_index() makes it one."
    return [said] * bool(names and not o.schema)


def _different_index(x: object, y: object) -> list[str]:
    """Rows are matched by position; a pandas index that differs is worth a note."""
    left, right = getattr(x, "index", None), getattr(y, "index", None)
    if left is None or not hasattr(left, "equals") or not hasattr(right, "equals") or left.equals(right):
        return []
    return ["the indexes of X and y differ; rows are matched by position, not by index."]
