"""Arrays, tensors and lists -> columns."""

import datetime
import decimal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from math import prod
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from handful.base.errors import HandfulError
from handful.data.arrays import Dense, RaggedValues, SparseRows, Stored, Widened, native, ragged_column
from handful.data.base import Column
from handful.data.containers import is_xarray, listed, of_xarray, plain_series, unmasked, without_marks
from handful.data.gather import Array, Block, offsets_of
from handful.data.options import Options
from handful.data.tables.arrow import BEYOND, is_frame
from handful.data.tables.cells.dates import DIGITS, of_digits
from handful.data.tables.cells.strings import is_plain
from handful.data.tables.types import BYTES, TEXT, whole_numbers
from handful.data.tables.values import are_long, convert

if TYPE_CHECKING:
    from scipy import sparse

_READ = 512  # rows that are read at a time when all of them are gone through
_NUMBERS = (bool, int, float, np.generic)
_MOMENTS = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal)  # which Arrow alone reads


class LeftOut(HandfulError):
    """A column that tells nothing, for the reason that is the last note."""


def from_values(key: str, value: object, o: Options, notes: list[str]) -> Stored:
    """One column from an array, Tensor, list, Series or Arrow array; HandfulError if it cannot be one."""
    try:
        return _from_values(key, value, o, notes)
    except UnicodeEncodeError as error:
        raise HandfulError(
            f"{o.name}: '{key}' holds text that no file can hold (half of a character, {error.object[error.start]!a}): "
            "decode it again from its bytes"
        ) from error
    except OverflowError as error:
        raise HandfulError(f"{o.name}: '{key}' holds whole numbers {BEYOND}") from error


def _from_values(key: str, value: object, o: Options, notes: list[str]) -> Stored:
    wanted = o.schema.get(key)
    if is_xarray(value):
        value, said = of_xarray(value)
        notes += said if key != o.target else ()
    value = listed(value)
    if wanted is not None and wanted.kind in ("number", "category", "text"):
        value = _typed(value, wanted)
    match value:
        case Tensor() | np.ndarray() if value.ndim in (1, 2) and wanted is not None and wanted.kind == "audio":
            return _from_list(key, list(value if value.ndim == 2 else value[None]), o, notes)  # one sound, or some
        case Tensor() if value.is_nested:
            return _from_list(key, list(value.detach().unbind()), o, notes)
        case Tensor():
            return _from_tensor(key, value, o, notes)
        case np.ndarray():
            return _from_array(key, value, o, notes)
        case list() | tuple() | range():
            return _from_list(key, list(value), o, notes)
        case pa.Array():
            return _from_arrow(key, pa.chunked_array([value]), o, notes)
        case pa.ChunkedArray():
            return _from_arrow(key, value, o, notes)
        case _ if is_frame(value):  # a Series of pandas or polars
            return _from_values(key, _series(key, value, o), o, notes)
        case _ if is_sparse(value):
            return _from_sparse(key, value, o, notes)
        case _ if hasattr(value, "__array__"):
            masks = getattr(value, "set_auto_mask", None)  # netCDF4's variables, whose __array__ lets the mask go
            return _from_array(key, value[...] if masks else np.asarray(value), o, notes)  # type: ignore[index]
        case _ if hasattr(value, "shape") and hasattr(value, "__getitem__"):  # arrays of files, as PyTables has them
            return _from_values(key, value[:], o, notes)
    raise HandfulError(f"{o.name}: '{key}' is a {type(value).__name__}: pass an array, a Tensor, a list or a DataFrame")


def _typed(value: object, wanted: Column) -> object:
    """One value per row as an Arrow array, which is read as training was; what is not such, and plain numbers, as it
    is."""
    match value:
        case Tensor() if value.ndim == 1 and (wanted.kind != "number" or wanted.dates == DIGITS):
            return _typed(value.detach().cpu().numpy(), wanted)
        case np.ndarray() if value.ndim != 1 or (
            wanted.kind == "number" and wanted.dates != DIGITS and value.dtype.kind in "iufb"
        ):
            return value
        case list() | tuple() | range() | np.ndarray() if not np.ma.isMaskedArray(value):
            with suppress(pa.ArrowException, TypeError, OverflowError):  # said below
                return pa.array(value, from_pandas=True)
            return _of_pandas(value)
    return value


def _of_pandas(values: Iterable[object]) -> object:
    """Periods and intervals of pandas as the column that it makes of them; anything else as it is."""
    first = next((v for v in values if v is not None), None)
    series = getattr(sys.modules.get("pandas"), "Series", None)
    return series(list(values)) if series and type(first).__module__.split(".")[0] == "pandas" else values


def _series(key: str, value: object, o: Options) -> pa.Array | pa.ChunkedArray:
    try:
        return value.to_arrow() if hasattr(value, "to_arrow") else pa.Array.from_pandas(plain_series(value))
    except (pa.ArrowException, TypeError) as error:
        raise HandfulError(f"{o.name}: '{key}' mixes types or holds objects, so it cannot be read: {error}") from error


def _from_arrow(key: str, value: pa.ChunkedArray, o: Options, notes: list[str]) -> Stored:
    stored = convert(key, value, o, notes)
    if stored is None:
        raise LeftOut(f"{o.name}: '{key}' cannot be used: {notes[-1].rstrip('.')}")
    return stored


def _from_tensor(key: str, value: Tensor, o: Options, notes: list[str]) -> Stored:
    value = value.detach().resolve_conj().resolve_neg()
    if value.layout != torch.strided:
        return _from_sparse(key, _of_scipy(key, value, o), o, notes)
    _check(key, value.dtype.is_complex, value.ndim, o)
    if value.device.type != "cpu":
        notes.append(f"'{key}' was copied from {value.device} to memory: batches are drawn there.")
        value = value.cpu()
    if value.dtype != torch.bfloat16:  # which NumPy lacks
        return _from_array(key, value.contiguous().numpy(), o, notes)
    return _dense(key, value.contiguous(), o, notes)


def _of_scipy(key: str, value: Tensor, o: Options) -> "sparse.csr_array":
    """A sparse Tensor [n, width] as a matrix of scipy's."""
    from scipy import sparse  # slow to import, and seldom needed

    if value.ndim != 2 or value.dense_dim():
        raise HandfulError(f"{o.name}: '{key}' is a sparse Tensor of {value.ndim} dimensions: pass '{key}'.to_dense()")
    rows = value.to_sparse_coo().coalesce().cpu()  # type: ignore[no-untyped-call]
    return sparse.csr_array((rows.values().numpy(), tuple(rows.indices().numpy())), shape=tuple(value.shape))


def is_sparse(value: object) -> "TypeGuard[sparse.csr_array]":
    """Whether it is a matrix of which only the values that are not 0 are kept, as scipy has them."""
    return hasattr(value, "tocsr") and hasattr(value, "nnz")


def _from_sparse(key: str, value: "sparse.csr_array", o: Options, notes: list[str]) -> Stored:
    """A matrix of mostly zeros; as it is written out where it is the target, as labels are."""
    if key == o.target or value.ndim != 2:
        return _from_array(key, value.toarray(), o, notes)
    rows = value.tocsr().copy()  # a form may give itself
    rows.sum_duplicates()
    n, width = rows.shape
    if width * _READ * 4 > max(o.budget, 1 << 30):
        raise HandfulError(
            f"{o.name}: '{key}' has {width:,} columns, too many for mini-batches in memory: choose some, or reduce "
            "them with sklearn.decomposition.TruncatedSVD"
        )
    values = native(key, rows.data, o, notes)
    _check(key, values.dtype.kind == "c", 2, o)
    if values.dtype.kind not in "iufb":
        raise HandfulError(f"{o.name}: '{key}' is a sparse matrix of {values.dtype}, which cannot become numbers")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        row = int(np.searchsorted(rows.indptr, bad[0], side="right")) - 1
        raise HandfulError(
            f"{o.name}: '{key}' holds {values[bad[0]]} in row {row}, column {rows.indices[bad[0]]}: fill it in first"
        )
    notes.append(f"'{key}' is sparse ({rows.nnz / max(1, n * width):.2%} of the values are not 0) and is kept so.")
    return SparseRows(values, rows.indices.astype(np.int64), rows.indptr.astype(np.int64), width)


def _check(key: str, is_complex: bool, dimensions: int, o: Options) -> None:
    if is_complex:
        raise HandfulError(
            f"{o.name}: '{key}' holds complex numbers: pass real and imaginary parts as separate columns"
        )
    if dimensions == 0:
        raise HandfulError(f"{o.name}: '{key}' is a single number (0 dimensions): its first dimension must be the rows")


def _from_array(key: str, value: Array, o: Options, notes: list[str]) -> Stored:
    kind = value.dtype.kind
    if np.ma.isMaskedArray(value):
        value = unmasked(value)
        kind = value.dtype.kind
        notes.append(f"'{key}' is a masked array: what is masked is missing.")
    _check(key, kind == "c", value.ndim, o)
    if kind == "V":
        raise HandfulError(f"{o.name}: '{key}' holds bytes of no type: pass a dict of their fields, or a DataFrame")
    if kind in "UST" and value.ndim > 1:
        raise HandfulError(_text_in_array(key, value, o))
    if kind in "OUST":
        return _from_list(key, value.tolist(), o, notes)
    number = kind in "iuf" and value.ndim == 1 and key != o.target
    day = number and bool(np.isfinite(of_digits(value[:1].astype(np.float64))).any())
    long = number and value.dtype == np.int64 and len(value) > 0 and are_long(key, value.min(), value.max())
    if day or long or (value.dtype == np.uint64 and value.ndim == 1):
        return _from_arrow(key, pa.chunked_array([pa.array(value)]), o, notes)
    if kind in "Mm" and value.ndim == 1:
        return _from_arrow(key, pa.chunked_array([pa.array(value.astype(f"{kind}8[us]"))]), o, notes)
    if kind in "Mm":
        notes.append(f"'{key}' holds times: read as seconds (since 1970 for dates).")
        unit = value.astype("datetime64[us]" if kind == "M" else "timedelta64[us]")
        value = np.where(np.isnat(unit), np.nan, unit.astype(np.int64) / 1e6)
    if isinstance(value, np.memmap) and value.dtype.name != "uint64":  # the values of uint64 have to be looked at
        dtype = native(key, value[:0], o, notes).dtype
        if dtype != value.dtype:
            value = value[:, 0] if _is_one_column(key, value.shape, dtype.kind in "iub", o, notes) else value
            return Widened(value, dtype, dense_column(key, dtype.name, tuple(value.shape[1:]), o, notes))
    return _dense(key, native(key, value, o, notes), o, notes)


def _dense(key: str, value: Block, o: Options, notes: list[str]) -> Dense:
    wanted = o.schema.get(key)
    if wanted is not None and wanted.kind == "image" and "uint8" not in (wanted.dtype, str(value.dtype)):
        value = np.asarray(value).astype(wanted.dtype)  # deep pictures, which files give in that type
    dtype = str(value.dtype).removeprefix("torch.")
    value = value[:, 0] if _is_one_column(key, tuple(value.shape), "float" not in dtype, o, notes) else value
    return Dense(value, dense_column(key, dtype, tuple(value.shape[1:]), o, notes))


def _is_one_column(key: str, shape: tuple[int, ...], whole: bool, o: Options, notes: list[str]) -> bool:
    """Class labels of shape [n, 1] are one label per row; with [n, 1] most losses would broadcast to n x n."""
    if key != o.target or not whole or len(shape) != 2 or shape[1] != 1:
        return False
    notes.append(f"target '{key}' has shape [n, 1]: read as [n], one label per row.")
    return True


def dense_column(key: str, dtype: str, shape: tuple[int, ...], o: Options, notes: list[str]) -> Column:
    """number, image or tensor, by dtype and shape; a caller's array keeps the shape it came with."""
    wanted = o.schema.get(key)
    if not shape:
        return Column("number", dtype)
    if wanted is not None and wanted.kind == "image" and wanted.dtype == dtype != "uint8":
        return Column("image", dtype, shape)
    if dtype == "uint8" and key != o.target:
        if len(shape) == 3 and shape[0] in (1, 3):
            return Column("image", dtype, shape)
        if (len(shape) == 3 and shape[2] in (1, 3, 4)) or (len(shape) == 2 and min(shape) >= 8):
            how = "numpy.moveaxis(a, -1, 1)" if len(shape) == 3 else "a[:, None]"
            notes.append(f"'{key}' may be images of shape {shape}; to have it treated so, pass {how}: channels first.")
    return Column("tensor", dtype, shape)


def _text_in_array(key: str, value: Array, o: Options) -> str:
    flat = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in value.ravel().tolist()]
    at, bad = next(((i, v) for i, v in enumerate(flat) if not is_plain(v)), (0, flat[0] if flat else ""))
    row, column = divmod(at, prod(value.shape[1:]))
    return (
        f"{o.name}: '{key}' holds text ('{bad}' in row {row}, column {column}) where numbers are needed: convert it, "
        "or pass a DataFrame with named columns"
    )


def _from_list(key: str, values: list[object], o: Options, notes: list[str]) -> Stored:
    if not values:
        raise HandfulError(f"{o.name}: '{key}' has 0 rows: there is nothing to learn from")
    values = without_marks(values, _NUMBERS)
    first = next((v for v in values if v is not None), None)
    known = key in o.schema and o.schema[key].labels is not None
    words = _words(values, known) if key != "x" or key == o.target or known else None  # x of a pair: a block of numbers
    if words:
        return _from_arrow(key, pa.chunked_array([pa.array(words, pa.large_list(TEXT))]), o, notes)
    match first:
        case str():
            _same_type(key, values, (str,), "str", o)
            return _from_arrow(key, pa.chunked_array([pa.array(values, TEXT)]), o, notes)
        case bytes():
            _same_type(key, values, (bytes,), "bytes", o)
            return _from_arrow(key, pa.chunked_array([pa.array(values, BYTES)]), o, notes)
        case Tensor() | np.ndarray() | list() | tuple() | range():
            if key != o.target and any(map(_has_gap, values)):
                with suppress(pa.ArrowException, TypeError):
                    return _from_arrow(key, pa.chunked_array([pa.array(values)]), o, notes)
            return _from_nested(key, values, o, notes)
        case (
            bool() | int() | float() | np.generic() | datetime.date() | datetime.time() | datetime.timedelta()
            | decimal.Decimal()
        ):  # fmt: skip
            _same_type(key, values, _NUMBERS + _MOMENTS, "numbers", o)
            if (long := whole_numbers(values)) is not None and key != o.target:
                return _from_arrow(key, pa.chunked_array([long]), o, notes)
            if None in values or isinstance(first, _MOMENTS):
                return _from_arrow(key, pa.chunked_array([pa.array(values)]), o, notes)
            array = np.asarray(values)
            if array.dtype.kind == "O":  # whole numbers of more than 64 bits, beside decimals or not
                return _from_arrow(key, pa.chunked_array([pa.array(values)]), o, notes)
            return _from_array(key, array, o, notes)
    raise HandfulError(
        f"{o.name}: '{key}' holds objects of {type(first).__name__}, which cannot become numbers: "
        "pass numbers, strings or arrays of one dtype, or collate=, which makes what the model takes of such rows"
    )


def _words(values: list[object], known: bool) -> list[list[str] | None] | None:
    """The strings of each row, sorted, if all rows that hold something are lists or sets of strings; known: empty ones
    are such, too."""
    rows = [
        None if row is None else sorted(row, key=str)
        for row in values
        if isinstance(row, list | tuple | set | frozenset | None)
    ]
    strings = (known or any(rows)) and all(isinstance(word, str) for row in rows for word in row or ())
    return rows if strings and len(rows) == len(values) else None


def _has_gap(row: object) -> bool:
    return row is None or (type(row) in (list, tuple) and any(one is None for one in row))  # type: ignore[attr-defined]


def _leaves(value: object) -> Iterator[object]:
    match value:
        case list() | tuple():
            for inner in value:
                yield from _leaves(inner)
        case _:
            yield value


def _same_type(key: str, values: Sequence[object], kinds: tuple[type, ...], what: str, o: Options) -> None:
    for row, v in enumerate(values):
        if v is not None and not isinstance(v, kinds):
            raise HandfulError(
                f"{o.name}: '{key}' mixes {what} with {type(v).__name__} ({v!r} in row {row}): make it one type"
            )


def _from_nested(key: str, values: list[object], o: Options, notes: list[str]) -> Stored:
    """A list of rows: one block when all have one shape, ragged when their lengths differ."""
    rows = [_row(key, row, v, o) for row, v in enumerate(values)]
    wanted, sound = o.schema.get(key), _sound(key, rows, o)
    varies = wanted is not None and wanted.shape[:1] == (None,)
    if len({a.shape for a in rows}) == 1 and sound is None and not varies:
        return _from_array(key, np.stack(rows), o, notes)
    odd = next((i for i, a in enumerate(rows) if a.ndim == 0 or a.shape[1:] != rows[0].shape[1:]), None)
    if odd is not None or rows[0].ndim == 0:
        hint = "; for inputs and target pass a tuple (X, y)" if len(rows) == 2 else ""
        raise HandfulError(
            f"{o.name}: row {odd} of '{key}' has shape {rows[odd or 0].shape} and row 0 has {rows[0].shape}: "
            f"rows may differ in their first dimension only{hint}"
        )
    offsets = offsets_of([len(a) for a in rows])
    if sound is not None:
        column = Column("audio", "float32", (None,), rate=sound)
        return RaggedValues(np.concatenate(rows).astype(np.float32), offsets, column)
    whole = native(key, np.concatenate([a for a in rows if len(a)] or rows), o, notes)
    return RaggedValues(whole, offsets, ragged_column(whole.dtype, whole.shape[1:]))


def _row(key: str, row: int, value: object, o: Options) -> Array:
    try:
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    except (ValueError, TypeError) as error:
        raise HandfulError(f"{o.name}: row {row} of '{key}' cannot become an array: {error}") from error
    if array.dtype.kind in "OUS":
        bad = next((x for x in _leaves(value) if isinstance(x, str)), value)
        raise HandfulError(
            f"{o.name}: '{key}' holds {bad!r} in row {row} where numbers are needed: "
            "convert it, or pass a DataFrame with named columns"
        )
    return array


def _sound(key: str, rows: list[Array], o: Options) -> int | None:
    """The samples per second where the rows are sound: floats of any length, and the caller gave a rate."""
    wanted = o.schema.get(key)
    rate = o.rate or (wanted.rate if wanted is not None and wanted.kind == "audio" else None)
    floats = all(a.ndim == 1 and a.dtype.kind == "f" for a in rows)
    return rate if rate and floats and key != o.target else None
