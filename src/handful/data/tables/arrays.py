"""Arrays, tensors and lists -> columns."""

import datetime
import decimal
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.base.errors import HandfulError
from handful.data.arrays import Dense, RaggedValues, Stored, Widened, native, ragged
from handful.data.base import Column
from handful.data.options import Options
from handful.data.tables.arrow import is_frame
from handful.data.tables.strings import is_plain
from handful.data.tables.values import convert


def from_values(key: str, value: Any, o: Options, notes: list[str]) -> Stored:
    """One column from an array, Tensor, list, Series or Arrow array; HandfulError if it cannot be one."""
    try:
        return _from_values(key, value, o, notes)
    except UnicodeEncodeError as error:
        raise HandfulError(
            f"{o.name}: '{key}' holds text that no file can hold (half of a character, {error.object[error.start]!a}): "
            "decode it again from its bytes."
        ) from error


def _from_values(key: str, value: Any, o: Options, notes: list[str]) -> Stored:
    if isinstance(value, Tensor):
        return _from_tensor(key, value, o, notes)
    if isinstance(value, np.ndarray):
        return _from_array(key, value, o, notes)
    if isinstance(value, (list, tuple, range)):
        return _from_list(key, list(value), o, notes)
    if isinstance(value, (pa.Array, pa.ChunkedArray)):
        return _from_arrow(key, value, o, notes)
    if is_frame(value):  # a Series of pandas or polars
        series = value.to_arrow() if hasattr(value, "to_arrow") else pa.Array.from_pandas(value)
        return _from_arrow(key, series, o, notes)
    if hasattr(value, "toarray") and hasattr(value, "nnz"):
        raise HandfulError(
            f"{o.name}: '{key}' is a scipy sparse matrix, which handful does not read: pass "
            f"'{key}'.toarray() if it fits."
        )
    if hasattr(value, "__array__"):
        return _from_array(key, np.asarray(value), o, notes)
    raise HandfulError(
        f"{o.name}: '{key}' is a {type(value).__name__}: pass an array, a Tensor, a list or a DataFrame."
    )


def _from_arrow(key: str, value: Any, o: Options, notes: list[str]) -> Stored:
    stored = convert(key, value, o, notes)
    if stored is None:
        raise HandfulError(f"{o.name}: '{key}' cannot be used: {notes[-1]}")
    return stored


def _from_tensor(key: str, value: Tensor, o: Options, notes: list[str]) -> Stored:
    value = value.detach().resolve_conj().resolve_neg()
    if value.layout != torch.strided:
        raise HandfulError(f"{o.name}: '{key}' is a sparse Tensor: pass '{key}'.to_dense() if it fits in memory.")
    if value.dtype.is_complex:
        raise HandfulError(_COMPLEX.format(o.name, key))
    if value.ndim == 0:
        raise HandfulError(_SCALAR.format(o.name, key))
    if value.device.type != "cpu":
        notes.append(f"'{key}' was copied from {value.device} to memory: batches are drawn there.")
        value = value.cpu()
    try:
        return _from_array(key, value.contiguous().numpy(), o, notes)
    except TypeError:  # a dtype that NumPy lacks, such as bfloat16
        pass
    dtype = str(value.dtype).removeprefix("torch.")
    value = _squeeze(key, value.contiguous(), not value.dtype.is_floating_point, o, notes)
    return Dense(value, dense_column(key, dtype, tuple(value.shape[1:]), o, notes))


_COMPLEX = "{}: '{}' holds complex numbers: pass real and imaginary parts as separate columns."
_SCALAR = "{}: '{}' is a single number (0 dimensions): its first dimension must be the rows."


def _from_array(key: str, value: NDArray[Any], o: Options, notes: list[str]) -> Stored:
    if np.ma.isMaskedArray(value):
        raise HandfulError(f"{o.name}: '{key}' is a masked array: fill it first, for example with .filled(np.nan).")
    if value.ndim == 0:
        raise HandfulError(_SCALAR.format(o.name, key))
    kind = value.dtype.kind
    if kind == "c":
        raise HandfulError(_COMPLEX.format(o.name, key))
    if kind == "V":
        raise HandfulError(f"{o.name}: '{key}' is a structured array: pass a dict of its fields, or a DataFrame.")
    if kind == "O":
        return _from_list(key, value.tolist(), o, notes, objects=True)
    if kind in "UST":
        return _from_strings(key, value, o, notes)
    if kind in "Mm":
        notes.append(f"'{key}' holds times: read as seconds (since 1970 for dates).")
        unit = value.astype("datetime64[us]" if kind == "M" else "timedelta64[us]")
        value = np.where(np.isnat(unit), np.nan, unit.astype(np.int64) / 1e6)
    if isinstance(value, np.memmap) and value.dtype.name != "uint64":  # the values of uint64 have to be looked at
        dtype = native(key, value[:0], o, notes).dtype
        if dtype != value.dtype:
            value = _squeeze(key, value, dtype.kind in "iub", o, notes)
            return Widened(value, dtype, dense_column(key, dtype.name, tuple(value.shape[1:]), o, notes))
    value = native(key, value, o, notes)
    value = _squeeze(key, value, value.dtype.kind in "iub", o, notes)
    return Dense(value, dense_column(key, value.dtype.name, tuple(value.shape[1:]), o, notes))


def _squeeze(key: str, value: Any, whole: bool, o: Options, notes: list[str]) -> Any:
    """Class labels of shape [n, 1] are one label a row; with [n, 1] most losses would broadcast to n x n."""
    if key != o.target or not whole or value.ndim != 2 or value.shape[1] != 1:
        return value
    notes.append(f"target '{key}' has shape [n, 1]: read as [n], one label a row.")
    return value[:, 0]


def dense_column(key: str, dtype: str, shape: tuple[int, ...], o: Options, notes: list[str]) -> Column:
    """number, image or tensor, by dtype and shape; a caller's array keeps the shape it came with."""
    if not shape:
        wanted = o.schema.get(key)
        if wanted is not None and wanted.kind == "category":
            return Column("category", dtype, shape, wanted.classes)
        return Column("number", dtype)
    if dtype == "uint8" and key != o.target:
        if len(shape) == 3 and shape[0] in (1, 3):
            return Column("image", dtype, shape)
        if (len(shape) == 3 and shape[2] in (1, 3, 4)) or (len(shape) == 2 and min(shape) >= 8):
            how = "numpy.moveaxis(a, -1, 1)" if len(shape) == 3 else "a[:, None]"
            notes.append(f"'{key}' may be images of shape {shape}; to have it treated so, pass {how}: channels first.")
    return Column("tensor", dtype, shape)


def _from_strings(key: str, value: NDArray[Any], o: Options, notes: list[str]) -> Stored:
    if value.ndim > 1:
        flat = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in value.ravel().tolist()]
        at, bad = next(((i, v) for i, v in enumerate(flat) if not _is_number(v)), (0, flat[0] if flat else ""))
        row, column = divmod(at, int(np.prod(value.shape[1:])))
        raise HandfulError(
            f"{o.name}: '{key}' holds text ('{bad}' in row {row}, column {column}) where numbers are needed: "
            "convert it, or pass a DataFrame with named columns."
        )
    return _from_list(key, value.tolist(), o, notes)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _from_list(key: str, value: list[Any], o: Options, notes: list[str], objects: bool = False) -> Stored:
    if not value:
        raise HandfulError(f"{o.name}: '{key}' has 0 rows: there is nothing to learn from.")
    first = next((v for v in value if v is not None), None)
    if isinstance(first, (str, bytes)):
        _same_type(key, value, type(first), o)
        if isinstance(first, bytes) and key != o.target:
            return _from_arrow(key, pa.array(value, pa.large_binary()), o, notes)
        texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in value]
        return _from_arrow(key, pa.array(texts, pa.large_string()), o, notes)
    if key == o.target and all(isinstance(v, (list, tuple, set, frozenset)) for v in value):
        words = [sorted(v, key=str) for v in value]
        if any(words) and all(isinstance(word, str) for row in words for word in row):
            return _from_arrow(key, pa.array(words, pa.large_list(pa.large_string())), o, notes)
    if isinstance(first, (Tensor, np.ndarray, list, tuple, range)):
        return _from_nested(key, value, o, notes)
    if isinstance(first, (bool, int, float, np.generic, datetime.date, decimal.Decimal)):
        for row, v in enumerate(value):
            if not (v is None or isinstance(v, (bool, int, float, np.generic, datetime.date, decimal.Decimal))):
                raise HandfulError(
                    f"{o.name}: '{key}' mixes numbers with {type(v).__name__} ({v!r} in row {row}): make it one type."
                )
        if isinstance(first, (datetime.date, decimal.Decimal)) or None in value:
            return _from_arrow(key, pa.array(value), o, notes)
        array = np.asarray(value)
        if array.dtype.kind != "O":
            return _from_array(key, array, o, notes)
    what = "objects" if objects else "a list"
    raise HandfulError(
        f"{o.name}: '{key}' is {what} of {type(first).__name__}, which cannot become numbers: "
        "pass numbers, strings or arrays of one dtype."
    )


def _leaves(value: Any) -> list[Any]:
    return [x for v in value for x in _leaves(v)] if isinstance(value, (list, tuple)) else [value]


def _same_type(key: str, value: Sequence[Any], kind: type, o: Options) -> None:
    for row, v in enumerate(value):
        if v is not None and not isinstance(v, kind):
            raise HandfulError(
                f"{o.name}: '{key}' mixes {kind.__name__} with {type(v).__name__} ({v!r} in row "
                f"{row}): make it one type."
            )


def _from_nested(key: str, value: list[Any], o: Options, notes: list[str]) -> Stored:
    """A list of rows: one block when all have one shape, ragged when their lengths differ."""
    rows: list[NDArray[Any]] = []
    for row, v in enumerate(value):
        try:
            rows.append(v.detach().cpu().numpy() if isinstance(v, Tensor) else np.asarray(v))
        except (ValueError, TypeError) as error:
            raise HandfulError(f"{o.name}: row {row} of '{key}' cannot become an array: {error}") from error
        if rows[-1].dtype.kind in "OUS":
            bad = next((x for x in _leaves(v) if isinstance(x, str)), v)
            raise HandfulError(
                f"{o.name}: '{key}' holds {bad!r} in row {row} where numbers are needed: "
                "convert it, or pass a DataFrame with named columns."
            )
    shapes = {a.shape for a in rows}
    wanted = o.schema.get(key)
    sound = _sound(key, rows, o)
    if len(shapes) == 1 and sound is None and not (wanted is not None and wanted.shape[:1] == (None,)):
        return _from_array(key, np.stack(rows), o, notes)
    if len({a.shape[1:] for a in rows}) > 1 or any(a.ndim == 0 for a in rows):
        row = next(i for i, a in enumerate(rows) if a.shape[1:] != rows[0].shape[1:] or a.ndim != rows[0].ndim)
        hint = " For inputs and target pass a tuple (X, y)." if len(rows) == 2 else ""
        raise HandfulError(
            f"{o.name}: row {row} of '{key}' has shape {rows[row].shape} and row 0 has {rows[0].shape}: "
            f"rows may differ in their first dimension only.{hint}"
        )
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(a) for a in rows], out=offsets[1:])
    if sound is not None:
        column = Column("audio", "float32", (None,), rate=sound)
        return RaggedValues(np.concatenate(rows).astype(np.float32), offsets, column)
    return ragged(key, native(key, np.concatenate([a for a in rows if len(a)] or rows), o, notes), offsets)


def _sound(key: str, rows: list[NDArray[Any]], o: Options) -> int | None:
    """The samples a second where the rows are sound: floats of any length, and the caller gave a rate."""
    wanted = o.schema.get(key)
    rate = o.rate or (wanted.rate if wanted is not None and wanted.kind == "audio" else None)
    floats = all(a.ndim == 1 and a.dtype.kind == "f" for a in rows)
    return rate if rate and floats and key != o.target else None
