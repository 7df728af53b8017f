"""Rows of a source: read in chunks, checked, called by their numbers in the user's file, kept after the pipeline."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from handful.base.errors import HandfulError
from handful.data.arrays import Arrays, Dense, RaggedValues, Stored
from handful.data.base import Batch, Column, Ragged, Rows, Source, Value, View
from handful.data.gather import offsets_of
from handful.transform.steps.numbers import padded


def blocks(n: int, size: int) -> Iterator[Rows]:
    """The row ids 0..n-1 in order, `size` at a time."""
    for start in range(0, n, size):
        yield np.arange(start, min(start + size, n), dtype=np.int64)


def chunks_of(source: Source, names: Sequence[str], at_most: int = 1 << 22) -> Iterator[Batch]:
    """The columns `names` of all rows of a source in order, as Batches of about `at_most` bytes (1 to 65,536 rows)."""
    size = min(65536, max(1, at_most // max(1, sum(_row_bytes(source.columns[name]) for name in names))))
    for rows in blocks(len(source), size):
        yield source.take(rows, None if set(names) == set(source.columns) else names)


def _row_bytes(column: Column) -> int:
    if column.kind == "audio":
        return 20 * (column.rate or 16000)
    if column.kind in ("text", "tokens") or None in column.shape:
        return 2_000
    itemsize = 8 if column.dtype in ("str", "bfloat16") else np.dtype(column.dtype).itemsize
    return int(itemsize * np.prod([s or 1 for s in column.shape], dtype=np.int64))


def original_rows(source: Source, rows: Rows) -> Rows:
    """The rows' numbers in the file or array that the user gave: through all views."""
    while isinstance(source, View):
        rows, source = source.ids(rows), source.base
    return rows


def check_infinite(name: str, value: Value, source: Source, rows: Rows) -> None:
    """Raise HandfulError naming the column and the first row that holds an infinite value."""
    if isinstance(value, Tensor) and value.is_floating_point() and torch.isinf(value).any():
        first = int(torch.isinf(value).reshape(len(value), -1).any(1).nonzero()[0])
        row = int(original_rows(source, rows[first : first + 1])[0])
        raise HandfulError(
            f"column '{name}' of {source.name} holds an infinite value in row {row} (rows count from 0); "
            "replace it by a number or leave it empty"
        )


def check_weights(value: Value, name: str, rows: Rows, where: str) -> Tensor:
    """The weights as float32 [m]; HandfulError naming the row of one that is missing, infinite or negative."""
    if not isinstance(value, Tensor) or value.dim() > 2 or value[:1].numel() > 1:
        raise HandfulError(f"the weights '{name}' of {where} must be one number per row")
    weights = value.reshape(-1).to(torch.float32)
    bad = ~(torch.isfinite(weights) & (weights >= 0))
    if bad.any():
        i = int(bad.nonzero()[0])
        raise HandfulError(
            f"the weight '{name}' is {value.reshape(-1)[i].item()} in row {int(rows[i])} of {where} "
            "(rows count from 0); weights must be 0 or more"
        )
    return weights


class Cached(Arrays):
    """The pipeline's output for every row of a source; row ids are the source's.

    Columns whose last axis varies (tokens, frames) are stored without their padding and padded with 0 to the longest of
    the rows read, as the pipeline does.
    """

    def __init__(self, source: Source, made: Sequence[Mapping[str, Tensor]], ragged: set[str]) -> None:
        stored: dict[str, Stored] = {}
        for name, first in made[0].items():
            parts, dtype = [part[name] for part in made], str(first.dtype).removeprefix("torch.")
            if name in ragged:
                values, lengths = zip(*map(_trim, parts))
                column = Column("tensor", dtype, (*first.shape[1:-1], None))
                stored[name] = RaggedValues(torch.cat(values), offsets_of(torch.cat(lengths)), column)
            else:
                stored[name] = Dense(torch.cat(parts), Column("tensor", dtype, tuple(first.shape[1:])))
        super().__init__(stored, "y" if "y" in stored else None, name=source.name, where=source.where)

    def read(self, rows: Rows) -> dict[str, Value]:
        return {name: self.read_column(name, rows) for name in self.columns}

    def read_column(self, name: str, rows: Rows) -> Value:
        value = super().read_column(name, rows)
        if isinstance(value, Ragged):
            return padded(value.values, value.offsets.diff()).movedim(1, -1).contiguous()
        return value


def cache(source: Source, pipeline: Callable[[Batch], Batch], ragged: set[str], at_most: int) -> Cached | None:
    """The Cached rows, or None as soon as it is clear that they would need more than `at_most` bytes."""
    made: list[dict[str, Tensor]] = []
    used = 0
    for rows in blocks(len(source), 512):
        batch = pipeline(source.take(rows))
        tensors = batch.tensors()
        used += sum(value.nbytes for value in tensors.values())
        if len(tensors) < len(batch.columns) or used / (rows[-1] + 1) * len(source) > at_most:
            return None
        made.append(tensors)
    return Cached(source, made, ragged) if made else None


def _trim(value: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of value [m, ..., T] without trailing zeros, joined [total, ...], and their lengths [m], at least 1."""
    rows = value.movedim(-1, 1)
    filled = (rows.flatten(2) != 0).any(2) if rows.dim() > 2 else rows != 0
    steps = torch.arange(1, rows.shape[1] + 1)
    lengths = (filled * steps).amax(1).clamp(min=1)
    return rows[steps <= lengths[:, None]], lengths
