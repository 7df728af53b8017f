"""A pair (X, y), a dict of columns, one array: data that the caller holds in memory."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from handful.base.errors import HandfulError
from handful.data.arrays import Arrays, Stored
from handful.data.options import Options
from handful.data.tables.arrays import from_values
from handful.data.tables.arrow import chosen, is_frame, open_table, to_table, with_target


def open_columns(values: Mapping[str, Any], o: Options, notes: list[str] | None = None) -> Arrays:
    """A mapping name -> array, Tensor, list or Series, all of one length."""
    said = list(notes or ())
    names = [str(key) for key in values]
    if not names:
        raise HandfulError(f"{o.name} is an empty dict: give at least one column.")
    o = with_target(o, names, said)
    keep = chosen(o, names)
    stored = {str(key): from_values(str(key), v, o, said) for key, v in values.items() if str(key) in keep}
    if not [key for key in stored if key != o.target]:
        raise HandfulError(f"{o.name} has no column to learn from: only the target '{o.target}' is there.")
    return Arrays(stored, o.target, name=o.name, where=o.where, notes=said)


def open_pair(x: Any, y: Any, o: Options) -> Arrays:
    """Inputs and target: columns `x` and `y`, or the names that a DataFrame and a Series bring."""
    notes: list[str] = []
    frame = is_table(x)
    if y is None:
        raise HandfulError(f"{o.name}: y is None; pass X alone for data without a target.")
    name = _name_of(y, "y")
    if is_table(y):
        y = to_table(y, o.name)
        if y.num_columns != 1:
            raise HandfulError(
                f"{o.name}: y has {y.num_columns} columns; a target is one: pass it as a Series or array."
            )
        name, y = str(y.column_names[0]), y.column(0)
    if frame or isinstance(x, Mapping):
        known = [str(c) for c in (x if isinstance(x, Mapping) else to_table(x, o.name).column_names)]
        if name in known:
            raise HandfulError(f"{o.name}: '{name}' is both a column of X and the name of y: rename one.")
    _same_index(x, y, notes)
    if o.target is not None and o.target != name:
        raise HandfulError(f"{o.name}: the target of a pair (X, y) is '{name}', not '{o.target}'; leave target out.")
    o = replace(o, target=name, columns=o.columns)
    if frame:
        extra: dict[str, Stored] = {name: from_values(name, y, o, notes)}
        return open_table(to_table(x, o.name), o, extra, notes)
    values = {str(key): v for key, v in x.items()} if isinstance(x, Mapping) else {"x": x}
    return open_columns({**values, name: y}, o, notes)


def is_table(value: Any) -> bool:
    """A frame of columns rather than a single Series."""
    return is_frame(value) and (hasattr(value, "columns") or hasattr(value, "column_names") or _is_batch(value))


def _is_batch(value: Any) -> bool:
    return hasattr(value, "num_columns") or hasattr(value, "__dataframe__")


def _name_of(y: Any, default: str) -> str:
    name = getattr(y, "name", None)
    return str(name) if is_frame(y) and isinstance(name, (str, int)) and str(name) else default


def _same_index(x: Any, y: Any, notes: list[str]) -> None:
    """Rows are matched by position; a pandas index that says otherwise is worth a sentence."""
    left, right = getattr(x, "index", None), getattr(y, "index", None)
    if left is None or not hasattr(left, "equals") or not hasattr(right, "equals"):
        return
    if len(left) == len(x) and not left.equals(right):
        notes.append("the indexes of X and y differ; rows are matched by position, not by index.")
