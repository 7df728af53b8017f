"""What other libraries, and Python itself, hold rows in -> what `open` reads: nothing is copied that need not be."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, ValuesView
from dataclasses import fields, is_dataclass
from enum import Enum
from io import BytesIO, IOBase
from typing import TYPE_CHECKING, Any

import numpy as np

from handful.base.errors import HandfulError
from handful.data.gather import Array
from handful.data.options import Options

if TYPE_CHECKING:
    import pandas

# module and class -> the method that gives an Arrow table, a frame, or (where it is lazy) the rows
_WHOLE = {
    ("polars", "LazyFrame"): "collect",
    ("pyarrow", "Scanner"): "to_table",
    ("pyarrow", "RecordBatchReader"): "read_all",
    ("pyarrow", "ParquetFile"): "read",
    ("duckdb", "DuckDBPyRelation"): "to_arrow_table",
    ("_duckdb", "DuckDBPyRelation"): "to_arrow_table",
}
_CHECKED = 64  # rows after which it is first estimated how much memory all of an iterator would take


def plainer(where: object, o: Options) -> tuple[object, list[str]]:
    """The rows in a container that `open` knows, and sentences on how they came there; `where` itself where it is
    known, or none helps.

    Iterators, and data sets that have no length, are read to their end into memory: mini-batches are drawn from all.
    """
    kind = type(where)
    if kind.__module__.split(".")[0] == "pyarrow" and kind.__module__.startswith("pyarrow._dataset"):
        return where.to_table(), []  # type: ignore[attr-defined]
    method = _WHOLE.get((kind.__module__.split(".")[0], kind.__name__))
    if method is not None:
        return getattr(where, method)(), []
    match where:
        case IOBase():
            raise HandfulError(f"handful cannot open a {kind.__name__}: pass the path of a file, or a DataFrame of it")
        case np.ndarray() if where.dtype.names and where.ndim == 1:
            return {name: where[name] for name in where.dtype.names}, []
        case [first, *_] if (as_dict := _fields_of(first)) and all(type(row) is type(first) for row in where):
            return [as_dict(row) for row in where], []
        case Iterator():
            return _read(where, kind.__name__, o)
        case Iterable() if any(one.__name__ == "IterableDataset" for one in kind.__mro__):  # read from its start on
            return _read(iter(where), kind.__name__, o)
    return where, []


def _fields_of(row: object) -> Callable[[object], dict[str, object]] | None:
    """How a row with named fields, which is no mapping, becomes one."""
    if isinstance(row, tuple) and hasattr(row, "_asdict"):
        return lambda row: row._asdict()  # type: ignore[attr-defined]
    if is_dataclass(row) and not isinstance(row, type):
        names = [field.name for field in fields(row)]
        return lambda row: {name: getattr(row, name) for name in names}
    return None


def _read(rows: Iterator[object], kind: str, o: Options) -> tuple[object, list[str]]:
    """All rows of an iterator. HandfulError where there are none, or more than memory should hold."""
    found: list[object] = []
    used = 0
    for row in rows:
        found.append(row)
        if len(found) <= _CHECKED:
            used += _bytes_of(row)
        elif used / _CHECKED * len(found) > o.budget:
            raise HandfulError(
                f"{o.name}: the rows of a {kind} do not fit in memory ({len(found):,} were read): write them to files, "
                "as part-0.parquet, part-1.parquet, and then a store with handful.prepare"
            )
    if not found:
        raise HandfulError(f"{o.name}: the {kind} gave no row; one that was read to its end before gives none again")
    as_dict = _fields_of(found[0])
    what = f"{len(found):,} rows were read from a {kind} into memory; to go on with a run, give it anew, or "
    what += "write it as a store once, with handful.prepare, and train on that."
    return ([as_dict(row) for row in found] if as_dict else found), [what]


def _bytes_of(row: object) -> int:
    match row:
        case Mapping():
            return sum(map(_bytes_of, row.values())) + 64
        case str() | bytes():
            return len(row) + 64
        case tuple() | list():
            return sum(map(_bytes_of, row)) + 64
        case _ if hasattr(row, "getbands"):
            return int(np.prod(row.size)) * len(row.getbands())  # type: ignore[attr-defined]
    return int(getattr(row, "nbytes", 64))


def listed(value: object) -> object:
    """A column in a container of Python's, or of values that are objects, as a list or array of plain ones."""
    match value:
        case str() | bytes() | Mapping():
            return value
        case memoryview():
            return np.asarray(value)
        case _ if type(value).__module__.split(".")[0] == "xarray":
            return np.asarray(value)
        case list() | tuple() | range():
            return _plain(value)
        case ValuesView() | Collection() if type(value).__module__ in ("builtins", "collections", "array"):
            return np.asarray(value) if type(value).__module__ == "array" else _plain(list(value))
    return value


def _plain(values: Collection[object]) -> Collection[object]:
    """Paths, addresses and ids as text, pictures of Pillow as the bytes of a file, members of an Enum as their names;
    texts and numbers side by side as a text file has them."""
    first = next((value for value in values if value is not None), None)
    change: Callable[[object], object] | None = None
    match first:
        case str() | int() | float() if any(isinstance(value, str) for value in values):
            return _as_texts(values)
        case str() | bytes() | int() | float():
            return values
        case _ if type(first).__module__ in ("uuid", "ipaddress"):
            change = lambda value: value if value is None else str(value)  # noqa: E731
        case os.PathLike():
            change = lambda value: os.fspath(value) if isinstance(value, os.PathLike) else value  # noqa: E731
        case Enum():
            change = lambda value: value.name if isinstance(value, Enum) else value  # noqa: E731
        case _ if hasattr(first, "getbands"):
            change = _encoded
    return values if change is None else [change(value) for value in values]


def _as_texts(values: Collection[object]) -> Collection[object]:
    """Numbers among texts written out, as in a text file; other values as they are."""
    there = [v for v in values if not (v is None or (isinstance(v, float) and v != v) or type(v).__name__ == "NAType")]
    if all(isinstance(v, str) for v in there) or not all(isinstance(v, str | int | float | np.number) for v in there):
        return values
    return [str(v) if isinstance(v, str | int | float | np.number) and v == v else None for v in values]


def _encoded(picture: Any) -> object:
    """The bytes of the file of a picture of Pillow's, nothing lost; anything else as it is."""
    if not hasattr(picture, "getbands"):
        return picture
    stream = BytesIO()
    if picture.mode in ("F", "I"):
        picture.save(stream, "TIFF")
    else:
        known = picture.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
        (picture if known else picture.convert("RGB")).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def unmasked(value: Array) -> Array:
    """A masked array of numbers with NaN where it is masked; HandfulError for what has no such value."""
    masked = np.ma.asarray(value)
    if not np.ma.is_masked(masked):
        return np.asarray(masked.data)
    if masked.dtype.kind not in "iufb":
        raise HandfulError(f"a masked array of {masked.dtype} lacks values: fill it first, with .filled(...)")
    return np.where(np.ma.getmaskarray(masked), np.nan, masked.data)


def plain_frame(frame: "pandas.DataFrame") -> "pandas.DataFrame":
    """A frame whose sparse columns are written out, and whose objects are such as `listed` knows."""
    changed: dict[object, object] = {}
    for name, column in frame.items():
        if hasattr(column, "sparse") and hasattr(column.dtype, "fill_value"):
            changed[name] = column.sparse.to_dense()
        elif column.dtype == object and (values := column.tolist()) and (new := _plain(values)) is not values:
            changed[name] = new
    if changed:
        frame = frame.copy(deep=False)
        for name, values in changed.items():
            frame[name] = values
    return frame
