"""Arrow tables, and whatever turns into one without a copy, as sources: the target named, columns chosen."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow.interchange import from_dataframe

from handful.base.errors import HandfulError, did_you_mean, some
from handful.data.arrays import Arrays, Dense, Stored
from handful.data.base import Column, Rows
from handful.data.containers import plain_frame
from handful.data.media.bad_rows import without_bad
from handful.data.options import Options
from handful.data.tables.cells.strings import is_plain, parts_per_row, untyped
from handful.data.tables.types import is_text, plain
from handful.data.tables.values import apply, convert

BEYOND = "beyond 64 bits: convert them to floats, or labels to text"
_PARTS = 3  # of which different strings have to be made to be learned from
_TO_PANDAS = (
    "_to_pandas",
    "to_pandas",
)  # what frames such as modin's have, more of which comes through than in exchange
_TARGET_NAMES = {"label", "labels", "target", "class", "y", "outcome", "future_values", "target_values"}


def is_frame(value: object) -> bool:
    """Whether Arrow can read it: pyarrow, pandas, polars and all that speak either interchange protocol."""
    if isinstance(value, type):
        return False
    speaks = hasattr(value, "__arrow_c_stream__") or hasattr(value, "__dataframe__")
    return speaks or (_is_pandas(value) and hasattr(value, "to_numpy"))


def _is_pandas(value: object) -> bool:
    return type(value).__module__.split(".")[0] == "pandas"


def to_table(value: object, name: str) -> pa.Table:
    """A pyarrow Table; HandfulError names the column that cannot be converted."""
    if type(value) is pa.Table:  # through its stream, views of strings ended the process (pyarrow 18.1)
        return value
    try:
        if hasattr(value, "to_frame") and not hasattr(value, "columns"):  # a Series of pandas or polars
            value = value.to_frame("y") if getattr(value, "name", None) is None else value.to_frame()
        if _is_pandas(value) and hasattr(value, "columns"):
            check_names([str(c) for c in value.columns], name)
            return pa.Table.from_pandas(plain_frame(value), preserve_index=False)
        if hasattr(value, "__arrow_c_stream__"):
            return pa.table(value)
        own = next((getattr(value, way) for way in _TO_PANDAS if hasattr(value, way)), None)
        return from_dataframe(value) if own is None else to_table(own(), name)
    except OverflowError as error:
        raise HandfulError(f"{name}: a column holds whole numbers {BEYOND}") from error
    except (pa.ArrowException, TypeError, NotImplementedError) as error:
        raise HandfulError(f"{name}: {_unreadable(value) or f'a column cannot be read: {error}'}") from error


def _unreadable(frame: Any) -> str:
    """What is said of the first column of a frame of pandas that Arrow cannot hold."""
    for key, column in frame.items() if _is_pandas(frame) and hasattr(frame, "columns") else ():
        try:
            pa.array(column, from_pandas=True)
        except (pa.ArrowException, TypeError):
            kinds = sorted({type(v).__name__ for v in column.head(1000)})
            return (
                f"column '{key}' mixes types or holds objects ({', '.join(kinds)}), so it cannot be read: make it "
                "numbers or text, or leave it out"
            )
    return ""


def check_names(names: Sequence[str], name: str) -> None:
    """Raise HandfulError when two columns have one name."""
    twice = [column for column, count in Counter(names).items() if count > 1]
    if twice:
        raise HandfulError(f"{name}: {Counter(names)[twice[0]]} columns are named '{twice[0]}': rename all but one")


def open_table(
    table: pa.Table, o: Options, extra: dict[str, Stored] | None = None, notes: Sequence[str] = ()
) -> Arrays:
    """A table as a source: targets guessed, columns inferred, what is left out named in the notes.

    extra: further columns, given beside the table, such as the y of a pair.
    """
    table = plain(table, o.schema)
    bare = {name: name.strip() for name in table.column_names if name not in o.schema and name.strip() in o.schema}
    if bare and not {*bare.values()} & {*table.column_names}:  # a padded file as pandas reads it
        table = table.rename_columns([bare.get(name, name) for name in table.column_names])

    def read(rows: Rows, o: Options) -> Arrays:
        kept = table if o.rows is None else table.take(pa.array(rows))
        return _open_plain(kept, o, {}, list(notes))

    if extra:  # whoever gives them has left rows out of both
        return _open_plain(table, o, extra, list(notes))
    return without_bad(table.num_rows, o, read)


def _open_plain(table: pa.Table, o: Options, extra: dict[str, Stored], said: list[str]) -> Arrays:
    """The same of a table that `plain` made."""
    names = list(table.column_names)
    check_names([*names, *extra], o.name)
    told = table.schema if table.schema.metadata else None
    o, keep = target_and_columns(o, [*names, *extra], index_columns(told) if told else (), said)
    o = o if o.schema else replace(o, untyped=untyped(table.columns))
    if table.num_rows == 0:
        what = "predict or score" if o.schema else "learn from"
        raise HandfulError(f"{o.name} has column names but 0 rows: there is nothing to {what}")
    classes = class_names(told) if told else {}
    stored: dict[str, Stored] = {}
    for key, column in zip(names, table.columns, strict=True):
        if key in keep:
            found = convert(key, column, o, said, classes.get(key))
            if found is None:
                check_usable(key, o, said)
            else:
                stored[key] = found
    if not extra and stored.keys() <= {o.target}:
        alone = texts_alone({key: table[key] for key in keep}, stored, o, said)
        stored |= {key: apply(key, table[key], column, o, said) for key, column in alone.items()}
    stored.update({key: value for key, value in extra.items() if key in keep})
    check_inputs(stored, o, said)
    return Arrays(stored, o.target, name=o.name, where=o.where, notes=said)


def texts_alone(
    columns: Mapping[str, pa.ChunkedArray], kept: Collection[str], o: Options, notes: list[str]
) -> dict[str, Column]:
    """Strings of parts that come again in others, as addresses or searches, which were left out as each occurs once:
    as texts, where there is nothing else to learn from."""
    found: dict[str, Column] = {}
    for key, values in columns.items() if set(kept) <= {o.target} else ():
        first = next((str(value) for value in values if value.is_valid), "")
        if key != o.target and is_text(values.type) and (parts_per_row(values) >= _PARTS or " " in first):
            notes.append(f"'{key}' is read as a text nevertheless, as there is no other column to learn from.")
            found[key] = Column("text", "str")
    return found


def check_usable(key: str, o: Options, notes: Sequence[str]) -> None:
    """HandfulError when a column that was left out is one that the caller asked for; why, is the last note."""
    if o.columns is not None or key == o.target:
        raise HandfulError(f"{o.name}: column '{key}' cannot be used: {notes[-1].rstrip('.')}")


def check_inputs(columns: Iterable[str], o: Options, notes: Sequence[str]) -> None:
    """HandfulError when only the target is left."""
    if all(key == o.target for key in columns):
        way_on = "; name one besides the target in columns=..." if o.columns is not None else ""
        said = " ".join(notes).rstrip(".") or "only the target is there"
        raise HandfulError(f"{o.name} has no column to learn from: {said}{way_on}")


def likely_target(names: Sequence[str], o: Options) -> str | None:
    """The target named, or the only column with the name of one; of what a model was trained on, none is guessed."""
    likely = [n for n in names if n.lower() in _TARGET_NAMES and (o.columns is None or n in o.columns)]
    return o.target or (likely[0] if len(likely) == 1 and len(names) > 1 and not o.schema else None)


def with_target(o: Options, names: Sequence[str], notes: list[str]) -> Options:
    """Check the named target, or guess it when there is no doubt, and note so."""
    if o.target is not None:
        if o.target not in names:
            own_file = Path(o.target).is_file()
            hint = " Labels in a file of their own have to be joined to it first" if own_file else ""
            hint = hint or did_you_mean(o.target, names)
            raise HandfulError(f"{o.name} has no column '{o.target}' to use as target.{hint}")
        return o
    likely = likely_target(names, o)
    if likely is not None:
        notes.append(f"the target is taken to be '{likely}', by its name; `target` names another.")
        return replace(o, target=likely)
    notes.append("no target guessed; `target` names it.")
    return o


def chosen(o: Options, names: Sequence[str]) -> dict[str, None]:
    """The columns that the caller wants, target included, in order; HandfulError for one that is not there."""
    there, asked = dict.fromkeys(names), None if o.columns is None else {*o.columns, o.target}
    for wanted in o.columns or ():
        if wanted not in there:
            how = ", not in any row: where its value is missing give None, null or an empty cell"
            lacks = f"{o.name} has no column '{wanted}'{how if wanted in o.schema else ''}"
            if wanted in o.schema and list(names) == ["x"]:  # an array
                lacks = f"{o.name} has no names of columns: give a DataFrame, or a dict, with {some(list(o.schema))}"
            raise HandfulError(f"{lacks}.{did_you_mean(wanted, names)}")
    return there if asked is None else {name: None for name in names if name in asked}


def target_and_columns(
    o: Options, names: Sequence[str], indexes: Collection[str], notes: list[str]
) -> tuple[Options, dict[str, None]]:
    """The options with the target, and the columns to read, but for those of a frame's index that the caller did not
    name; what is doubtful is noted."""
    if all(map(is_plain, names)) and o.where and (".csv" in o.where or o.where.endswith(".tsv")):
        notes.append(
            "the column names are all numbers: if the file has no header line, its first row was taken for it."
        )
    o = with_target(o, names, notes)
    kept = chosen(o, names)
    unasked = {name for name in kept if name in indexes and o.columns is None and name != o.target}
    if not unasked < set(kept) - {o.target}:
        return o, kept
    for name in sorted(unasked):
        why = "it is the index of the frame that was written; name it in columns=... to keep it"
        notes.append(f"column '{name}' was left out: {why}.")
    return o, {name: None for name in kept if name not in unasked}


def named_classes(stored: Stored, names: tuple[str, ...]) -> Stored:
    """Whole numbers with known names for them are a category."""
    if not isinstance(stored, Dense) or stored.column.kind != "number":
        return stored
    data = np.asarray(stored.data)
    if data.dtype.kind not in "iu" or (len(data) and (data.min() < -1 or data.max() >= len(names))):
        return stored
    return Dense(data.astype(np.int64), Column("category", "int64", (), names, type="int64"))


def index_columns(schema: pa.Schema) -> set[str]:
    """The columns that pandas wrote of a frame's index, as it says in a file's schema."""
    try:
        listed = json.loads((schema.metadata or {})[b"pandas"])["index_columns"]
        return {name for name in listed if isinstance(name, str)}
    except (KeyError, ValueError, TypeError):
        return set()


def class_names(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Class names that Hugging Face writes into a file's schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {key: tuple(feature["names"]) for key, feature in features.items() if "names" in feature}
    except (KeyError, ValueError, TypeError):
        return {}
