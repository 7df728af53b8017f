"""What other libraries, and Python itself, hold rows in -> what `open` reads: nothing is copied that need not be."""

import datetime
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, ValuesView
from dataclasses import fields, is_dataclass
from enum import Enum
from io import BytesIO, IOBase
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from handful.base.errors import HandfulError
from handful.data.gather import Array
from handful.data.options import Options
from handful.data.tables.types import whole_numbers

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
    ("tensordict", "TensorDict"): "to_dict",
    ("deltalake", "DeltaTable"): "to_pyarrow_table",
    ("dask", "DataFrame"): "compute",
    ("geopandas", "GeoDataFrame"): "to_wkt",  # points are read as two numbers
    ("fastparquet", "ParquetFile"): "to_pandas",
    ("awkward", "Array"): "to_list",
    ("astropy", "Table"): "to_pandas",
    ("astropy", "QTable"): "to_pandas",
}
_KNOWN = ("pandas", "polars", "pyarrow")  # whose tables are taken as they are
_NUMBERS = (int, float, np.number)
_WRITTEN = (*_NUMBERS, datetime.date, datetime.time)  # what a text file would have beside texts
_PLAIN_NUMBER = re.compile(r"\s*[-+]?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?\s*", re.ASCII).fullmatch
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
    if is_xarray(where):
        return of_xarray(where)
    match where:
        case IOBase():
            raise HandfulError(f"handful cannot open a {kind.__name__}: pass the path of a file, or a DataFrame of it")
        case _ if fields_of(where) and len(where.shape) == 1:  # type: ignore[attr-defined]
            return dict(flat_columns("", where)), []
        case [first, *_] if (as_dict := _fields_of(first)) and all(type(row) is type(first) for row in where):
            return [as_dict(row) for row in where], []
        case _ if hasattr(where, "fetchall") and callable(where.fetchall) and getattr(where, "description", None):
            names = [str(column[0]) for column in where.description]  # type: ignore[attr-defined]
            return _read((dict(zip(names, row)) for row in where.fetchall()), kind.__name__, o)
        case Iterator():
            return _read(where, kind.__name__, o)
        case Iterable() if any(one.__name__ == "IterableDataset" for one in kind.__mro__):  # read from its start on
            return _read(iter(where), kind.__name__, o)
        case _ if hasattr(where, "__arrow_c_stream__") and kind.__module__.split(".")[0] not in _KNOWN:
            return _table(where, o), []
        case Iterable() if not hasattr(where, "__len__") and not hasattr(where, "__getitem__"):  # as torchdata's nodes
            return _read(iter(where), kind.__name__, o)
    return where, []


def _table(where: Any, o: Options) -> pa.Table:
    try:
        return pa.table(where)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise HandfulError(f"{o.name}: a column cannot be read: {error}") from error


def fields_of(value: object) -> tuple[str, ...] | None:
    """The names of the fields of a structured array, NumPy's or one of a file."""
    names = getattr(getattr(value, "dtype", None), "names", None)
    return names if names and getattr(value, "shape", ()) else None


def flat_columns(key: str, value: object) -> Iterator[tuple[str, object]]:
    """A column by its name, or, where each row has fields (structured arrays, lists of dicts), these: `key.field`."""
    found: dict[str, Any] = {}
    match value:
        case _ if names := fields_of(value):
            rows = np.asarray(value[:])  # type: ignore[index]
            found = {name: rows[name] for name in names}
        case list() if isinstance(next((row for row in value if row is not None), None), Mapping):
            found = of_rows([{} if row is None else row for row in value])
            if found.keys() <= {"bytes", "path"} and any(type(data) is bytes for data in found.get("bytes", ())):
                value, found = found["bytes"], {}  # pictures or sounds, as data set hubs write them
    if not found:
        yield key, value
        return
    for name, values in found.items():
        yield from flat_columns(f"{key}.{name}" if key else str(name), values)


def classes_of(value: object) -> dict[str, tuple[str, ...]]:
    """The names of the classes that whole numbers stand for, by the features of a Hugging Face data set."""
    features = getattr(value, "features", None)
    found = {key: getattr(one, "names", None) for key, one in features.items()} if isinstance(features, Mapping) else {}
    return {str(key): tuple(map(str, names)) for key, names in found.items() if names}


def named(parts: Sequence[object]) -> dict[str, object]:
    """x; x and y of two; x0, x1, ... of more."""
    names = ["x", "y"] if len(parts) == 2 else ["x"] if len(parts) == 1 else [f"x{i}" for i in range(len(parts))]
    return dict(zip(names, parts))


def as_dict(item: object) -> dict[str, object]:
    """The columns of one item: a Mapping's own, or the parts of a tuple or list, or the item itself as x."""
    match item:
        case Mapping():
            return {str(key): value for key, value in item.items()}
        case (x, y) if isinstance(y, Mapping):  # several targets
            return {**as_dict(x), **as_dict(y)}
        case (Mapping() as x, y):  # several inputs
            return {**as_dict(x), "y": y}
        case tuple() | list():
            return named(item)
    return {"x": item}


def is_xarray(value: object) -> bool:
    """Whether it is a Dataset or DataArray of xarray."""
    return type(value).__module__.split(".")[0] == "xarray"


def of_xarray(where: Any) -> tuple[object, list[str]]:
    """The variables of a Dataset of xarray as columns, its rows along the first dimension of the first of them, and
    the coordinates that have a value a row; the values of a DataArray. What else there is, is said."""
    if not hasattr(where, "data_vars"):
        names = ", ".join(map(str, where.coords))
        how = f"the coordinates of '{where.name or 'x'}' are no columns: {names}; to_dataset() makes them such."
        return np.asarray(where), [how] * bool(names)
    along = next((variable.dims[0] for variable in where.data_vars.values() if variable.dims), None)
    columns, lost = dict[str, object](), list[str]()
    for name, variable in [*where.coords.items(), *where.data_vars.items()]:
        if along in variable.dims and (name in where.data_vars or len(variable.dims) == 1):
            columns[str(name)] = np.asarray(variable.transpose(along, ...))
        else:
            lost.append(str(name))
    said = f"a row is a place along '{along}'" + (f"; left out, as they have none: {', '.join(lost)}" if lost else "")
    return columns, [f"{said}."]


def _fields_of(row: object) -> Callable[[object], dict[str, object]] | None:
    """How a row with named fields, which is no mapping, becomes one."""
    if isinstance(row, tuple) and hasattr(row, "_asdict"):
        return lambda row: row._asdict()  # type: ignore[attr-defined]
    if hasattr(row, "model_dump"):  # pydantic's
        return lambda row: row.model_dump()  # type: ignore[attr-defined]
    if type(row).__name__ in ("Row", "Record") and hasattr(row, "keys"):  # of a data base, as sqlite3's
        return lambda row: dict(row)  # type: ignore[call-overload]
    if is_dataclass(row) and not isinstance(row, type) and not hasattr(row, "__array__"):  # as zarr's arrays are
        names = [field.name for field in fields(row)]
        return lambda row: {name: getattr(row, name) for name in names}
    if isinstance(row, tuple) and len(row) == 2 and any(isinstance(part, Mapping) for part in row):
        return as_dict
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
        case list() | tuple() | range():
            return _plain(value)
        case np.ndarray(ndim=1) if value.dtype.kind == "O" and not np.ma.isMaskedArray(value):
            return _plain(value.tolist())
        case ValuesView() | Collection() if type(value).__module__ in ("builtins", "collections", "array"):
            return np.asarray(value) if type(value).__module__ == "array" else _plain(list(value))
    return value


def _plain(values: Collection[object]) -> Collection[object]:
    """Paths, addresses and ids as text, pictures of Pillow as the bytes of a file, members of an Enum as their names;
    texts and numbers side by side as a text file has them; days beside moments as their beginning."""
    kinds = {*map(type, values)}
    if datetime.date in kinds and any(issubclass(kind, datetime.datetime) for kind in kinds):  # Arrow cuts all to days
        values = [datetime.datetime(*v.timetuple()[:3]) if type(v) is datetime.date else v for v in values]
    first = next((value for value in values if not _lacks(value)), None)
    change: Callable[[object], object] | None = None
    match first:
        case _ if isinstance(first, (str, *_WRITTEN)) and any(isinstance(value, str) for value in values):
            return of_one_type(values)
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


def of_one_type(values: Collection[object]) -> Collection[object]:
    """Numbers or dates among texts as a text file has them: numbers where each of the texts is one, else text; other
    values as they are.

    >>> of_one_type([1, "2", None]), of_one_type([1.5, "k.A.", "007"]), of_one_type(["1", "2"]), of_one_type([True])
    ([1, 2, None], ['1.5', 'k.A.', '007'], ['1', '2'], [True])
    """
    there = [v for v in values if not _lacks(v)]
    texts = [v for v in there if isinstance(v, str)]
    others = {type(v) for v in there} - {type(v) for v in texts}
    if not texts or not others or not all(issubclass(kind, _WRITTEN) for kind in others):
        return values
    read: Callable[[Any], object] = str
    if bool not in others and all(issubclass(kind, _NUMBERS) for kind in others) and all(map(_PLAIN_NUMBER, texts)):
        read = lambda v: v if type(v) in others else float(v) if {*v} & {*".eE"} else int(v)  # noqa: E731
    return [None if _lacks(v) else read(v) for v in values]


def without_marks(values: list[object], numbers: tuple[type, ...]) -> list[object]:
    """The values with None for NaN, NA and NaT, where they are not all of `numbers`, which hold NaN themselves.

    >>> without_marks(["a", float("nan"), None], (float,)), without_marks([1.5, float("nan")], (float,))
    (['a', None, None], [1.5, nan])
    """
    kinds = {*map(type, values)} - {type(None)}
    marks = any(kind.__name__ in _MARKS or issubclass(kind, float) for kind in kinds)
    if not marks or all(issubclass(kind, numbers) for kind in kinds):
        return values
    return [None if _lacks(value) else value for value in values]


_MARKS = ("NAType", "NaTType")


def _lacks(value: object) -> bool:
    none = value is None or type(value).__name__ in _MARKS
    return none or (isinstance(value, float) and value != value)


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
    """A masked array with NaN where it is masked, NaT among times, None among objects and texts."""
    masked = np.ma.asarray(value)
    if not np.ma.is_masked(masked):
        return np.asarray(masked.data)
    kind = masked.dtype.kind
    if kind in "iufb":
        return np.where(np.ma.getmaskarray(masked), np.nan, masked.data)
    data = masked.data if kind in "Mm" else masked.data.astype(object)
    return np.where(np.ma.getmaskarray(masked), np.array("NaT" if kind in "Mm" else None, data.dtype), data)


def plain_frame(frame: "pandas.DataFrame") -> "pandas.DataFrame":
    """A frame of columns as `plain_series` gives them."""
    odd = [k for k, kind in enumerate(frame.dtypes) if _is_sparse(kind) or _of_objects(kind)]  # items() takes long
    columns = [(frame.columns[k], frame.iloc[:, k]) for k in odd]
    changed = {name: new for name, column in columns if (new := plain_series(column)) is not column}
    if changed:
        frame = frame.copy(deep=False)
        for name, values in changed.items():
            frame[name] = values
    return frame


def _is_sparse(kind: object) -> bool:
    return hasattr(kind, "fill_value") and hasattr(kind, "subtype")


def _of_objects(kind: object) -> bool:
    return "object" in (str(kind), str(getattr(getattr(kind, "categories", None), "dtype", "")))


def plain_series(column: Any) -> Any:
    """A column of pandas, written out where it is sparse, its objects, or names of categories of several types, such
    as `listed` knows; a list where these are others."""
    if _is_sparse(column.dtype):
        return column.sparse.to_dense()
    if _of_objects(column.dtype):  # periods among them, which Arrow knows as such alone
        long = whole_numbers(without_marks(column.tolist(), (int,)))
        column = column.infer_objects() if long is None else type(column)(_held(long), column.index)
    if not _of_objects(column.dtype):
        return column
    new = _plain(values := column.tolist())
    return column if new is values else new


def _held(values: pa.Array) -> Any:
    return sys.modules["pandas"].arrays.ArrowExtensionArray(values)


def of_rows(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
