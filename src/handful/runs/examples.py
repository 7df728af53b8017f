"""Rows as a person looks at them: numbers, names of classes, short texts, pictures."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.data.base import Batch, Column, Source

LEGIBLE = ("number", "category", "text")  # kinds of columns whose values a table can show

DARK = 64  # bytes below are nearly black


def shorten(text: str, length: int) -> str:
    """At most `length` characters on one line.

    >>> shorten("one  two\\nthree", 10)
    'one two t…'
    """
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def class_name(column: Column, code: float | str) -> str:
    """The class behind a code of a column of categories; values of other columns as text."""
    if column.classes is None:
        return str(code)
    return column.classes[int(code)] if int(code) >= 0 else "missing"


def contents(source: Source, batch: Batch, names: Iterable[str], *, most: int, length: int) -> dict[str, list[object]]:
    """The values of the rows in the first `most` columns that a table can show, texts cut to `length` characters."""
    legible = [name for name in names if source.columns[name].kind in LEGIBLE][:most]
    return {name: _values(source.columns[name], batch, name, length) for name in legible}


def _values(column: Column, batch: Batch, name: str, length: int) -> list[object]:
    if column.kind == "text":
        return [shorten(str(text), length) for text in batch[name]]
    values = batch.tensor(name).tolist()
    return values if column.classes is None else [class_name(column, code) for code in values]


def pictures_of(batch: Batch, name: str) -> NDArray[np.uint8] | None:
    """uint8 [m, C, H, W] of raw rows that are pictures of one size: bytes as they are; numbers, and bytes that would
    all be nearly black (digits of 0 to 16), stretched to 0..255."""
    value = batch[name]
    if not isinstance(value, Tensor):
        return None
    value = value[:, None] if value.ndim == 3 else value
    if value.ndim != 4 or value.shape[1] not in (1, 3, 4):
        return None
    if value.dtype != torch.uint8 or int(value.max()) < DARK:
        value = value if value.is_floating_point() else value.float()
        low, high = value.min(), value.max()
        value = ((value - low) * (255 / max(float(high - low), 1e-12))).round().clamp(0, 255).to(torch.uint8)
    return value.numpy()
