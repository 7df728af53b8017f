"""The values of a target as they are read and written: numbers, dates, labels of sequences; where one stands."""

import math

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.base.errors import HandfulError
from handful.data.base import Column, Ragged, Rows, Value
from handful.data.gather import Array
from handful.data.tables.cells.dates import DURATION, TIME_OF_DAY
from handful.data.tables.cells.strings import composed
from handful.data.tables.types import is_moment, named
from handful.transform.steps.categories import strings


def form_of(column: Column) -> str:
    """How the numbers of a column that stand for dates or times are given back, "" for others: as NumPy's dates where
    they came so, else as ISO 8601 writes dates and times, and durations as hours:minutes:seconds."""
    kind = named(column.type)
    if column.dates == DURATION:
        return "timedelta64[us]" if pa.types.is_duration(kind) and column.decimal is None else DURATION
    if column.dates in (None, TIME_OF_DAY):
        return "%H:%M:%S" if column.dates == TIME_OF_DAY else ""
    if is_moment(kind) and column.decimal is None:
        return "datetime64[D]" if pa.types.is_date(kind) else "datetime64[us]"
    days = pa.types.is_date(kind) or (column.words is not None and not any(":" in word for word in column.words))
    return "%Y-%m-%d" if days else "%Y-%m-%d %H:%M:%S"


def written(seconds: Array, form: str) -> Array:
    """Seconds since 1970, or midnight, as NumPy's dates or as texts of a format of strftime, or that something lasts;
    without a form as is.

    >>> written(np.array([86400.0]), "%d.%m.%Y").tolist(), written(np.array([86400.0]), "datetime64[D]")
    (['02.01.1970'], array(['1970-01-02'], dtype='datetime64[D]'))
    >>> written(np.array([95400.0, -62.5, 0.04]), DURATION).tolist()
    ['26:30:00', '-0:01:02.5', '0:00:00.04']
    """
    if not form:
        return seconds
    if form == DURATION:
        return np.array([_lasting(value) for value in np.ravel(seconds).tolist()], dtype=object).reshape(seconds.shape)
    dates: Array = np.round(np.asarray(seconds, np.float64) * 1e6).astype("datetime64[us]")
    if form.startswith("timedelta64"):
        return dates.astype(np.int64).astype(form)
    if form.startswith("datetime64"):
        return np.asarray(dates, dtype=form)
    return np.array([date.strftime(form) for date in dates.tolist()], dtype=object)


def _lasting(seconds: float) -> str:
    """Hours:minutes:seconds, to a thousandth of one."""
    minutes, thousandths = divmod(round(abs(seconds) * 1000), 60_000)
    rest = f"{thousandths / 1000:06.3f}".rstrip("0").rstrip(".")
    return f"{'-' if seconds < 0 else ''}{minutes // 60}:{minutes % 60:02}:{rest:0>2}"


def plain_numbers(value: Tensor) -> Array:
    """The numbers [total] of a target, whole ones to the last digit."""
    flat = value.reshape(-1)
    return (flat.to(torch.float64) if flat.is_floating_point() else flat).numpy()


def in_row(row: int | np.int64, where: str) -> str:
    """The place of a value, for messages."""
    return f"in row {row} of {where} (rows count from 0)"


def check_present(value: Tensor, name: str, rows: Rows, where: str) -> None:
    """Raise HandfulError naming the first row in which a float target is NaN or infinite."""
    if not value.is_floating_point() or math.isfinite(value.sum().item()):  # else one may be; or they are huge
        return
    bad = ~torch.isfinite(value.flatten(1) if value.dim() > 1 else value[:, None]).all(1)
    if bad.any():
        i = int(bad.nonzero()[0])
        what = "missing (NaN)" if torch.isnan(value[i]).any() else "infinite"
        raise HandfulError(f"the target '{name}' is {what} {in_row(rows[i], where)}; remove the row or fill it in")


def labels_of(value: Value, column: Column, name: str) -> tuple[Array, NDArray[np.int64]]:
    """The labels of all rows, joined, and how many each row has: integers of a Ragged, characters of text.

    White space in text is one blank between words; letters are composed."""
    if isinstance(value, Ragged):
        if value.values.dim() != 1 or value.values.is_floating_point():
            raise HandfulError(
                f"the target '{name}' has rows of different lengths, which only sequences of whole numbers may have; "
                "pad them to a [m, T] array"
            )
        return value.values.numpy().astype(np.int64), np.diff(value.offsets.numpy()).astype(np.int64)
    if column.classes is None and column.dtype != "str":
        raise HandfulError(f"the sequences of '{name}' must be text or whole numbers, not {column.kind}")
    texts = [composed(" ".join(text.split())) for text in strings(value, column)]
    return np.array(list("".join(texts)), dtype="<U1"), np.array([len(t) for t in texts], dtype=np.int64)
