"""Rows as a person looks at them: numbers, names of classes, short texts, pictures."""

import io
import wave
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.base.plan import Row
from handful.data.base import Batch, Column, Source
from handful.transform.target_values import form_of, written

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


def units_of(source: Source, names: Iterable[str]) -> dict[str, str]:
    """The units of those columns that have one."""
    return {name: unit for name in names if (unit := source.columns[name].unit)}


def titled(rows: Iterable[Row], units: Mapping[str, str], length: int | None = None) -> list[Row]:
    """The rows with the units behind the names of their columns; length: that texts are cut to.

    >>> titled([{"row": 1, "far": 5.0}], {"far": "km"})
    [{'row': 1, 'far (km)': 5.0}]
    """
    titles = {name: f"{name} ({unit})" for name, unit in units.items()}

    def cut(value: object) -> object:
        return shorten(value, length) if length and isinstance(value, str) else value

    return [{titles.get(name, name): cut(value) for name, value in row.items()} for row in rows]


def contents(source: Source, batch: Batch, names: Iterable[str], *, most: int, length: int) -> dict[str, list[object]]:
    """The values of the rows in the first `most` columns that a table can show, texts cut to `length` characters."""
    legible = [name for name in names if source.columns[name].kind in LEGIBLE][:most]
    return {name: _values(source.columns[name], batch, name, length) for name in legible}


def _values(column: Column, batch: Batch, name: str, length: int) -> list[object]:
    if column.kind == "text":
        return [shorten(str(text), length) for text in batch[name]]
    values = batch.tensor(name).tolist()
    if column.classes is not None:
        return [class_name(column, code) for code in values]
    known = [value == value for value in values]  # not NaN, which stands for a blank
    if column.dates is None:
        return [value if there else None for value, there in zip(values, known)]
    texts = written(np.array([value if there else 0.0 for value, there in zip(values, known)]), form_of(column))
    return [str(text) if there else None for text, there in zip(texts, known)]


def sounds_of(batch: Batch, name: str, column: Column, most: int = 12, seconds: float = 4.0) -> list[bytes]:
    """The first rows of a column of sounds as WAV files of 16 bits, at most so many and so long."""
    values, offsets, rate = *batch.ragged(name), column.rate or 16000
    starts, ends = offsets[:-1].tolist(), offsets[1:].tolist()
    longest = round(seconds * rate)
    return [_wav(values[a : min(b, a + longest)], rate) for a, b in list(zip(starts, ends))[:most]]


def _wav(samples: Tensor, rate: int) -> bytes:
    packed = io.BytesIO()
    with wave.open(packed, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples.clamp(-1, 1) * 32767).to(torch.int16).numpy().astype("<i2").tobytes())
    return packed.getvalue()


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
