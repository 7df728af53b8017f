"""Rows after the pipeline, kept in memory: text is tokenised and sound analysed once, not in every epoch."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from handful.data.base import Batch, Column, Rows, Source, Value


class Cached(Source):
    """The pipeline's output for every row of a source; row ids are the source's.

    Columns of fixed shape are one Tensor [n, ...]; columns whose last axis varies (tokens, frames) are stored without
    their padding and padded with 0 to the longest of the rows read, as the pipeline does.
    """

    def __init__(self, source: Source, made: list[dict[str, Value]], ragged: set[str]) -> None:
        self.name, self.where, self.notes, self.in_memory = source.name, source.where, [], True
        self.n = len(source)
        self.fixed: dict[str, Tensor] = {}
        self.ragged: dict[str, tuple[Tensor, Tensor]] = {}
        self.columns = {}
        for name in made[0]:
            parts = [part[name] for part in made if isinstance(part[name], Tensor)]
            tensors = [part for part in parts if isinstance(part, Tensor)]
            shape: tuple[int | None, ...] = tuple(tensors[0].shape[1:])
            if name in ragged:
                trimmed = [_trim(part) for part in tensors]
                lengths = torch.cat([length for _, length in trimmed])
                offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
                self.ragged[name] = torch.cat([values for values, _ in trimmed]), offsets
                shape = (*shape[:-1], None)
            else:
                self.fixed[name] = torch.cat(tensors)
            self.columns[name] = Column("tensor", str(tensors[0].dtype).removeprefix("torch."), shape)
        self.target = "y" if "y" in self.columns else None

    def __len__(self) -> int:
        return self.n

    def read(self, rows: Rows) -> dict[str, Value]:
        return {name: self.read_column(name, rows) for name in self.columns}

    def read_column(self, name: str, rows: Rows) -> Tensor:
        ids = torch.from_numpy(rows)
        if name in self.fixed:
            return self.fixed[name].index_select(0, ids)
        values, offsets = self.ragged[name]
        starts, lengths = offsets[ids], offsets[ids + 1] - offsets[ids]
        steps = torch.arange(max(1, int(lengths.max()) if len(ids) else 1))
        at = (starts[:, None] + steps).clamp_(max=len(values) - 1)
        out = values[at]  # [m, T, ...]
        out[steps >= lengths[:, None]] = 0
        return out.movedim(1, -1).contiguous()


def cache(source: Source, pipeline: Callable[[Batch], Batch], ragged: set[str], at_most: int) -> Cached | None:
    """The Cached rows, or None as soon as it is clear that they would need more than `at_most` bytes."""
    made: list[dict[str, Value]] = []
    used = 0
    for start in range(0, len(source), 512):
        rows = np.arange(start, min(start + 512, len(source)), dtype=np.int64)
        columns = pipeline(source.take(rows)).columns
        used += sum(v.numel() * v.element_size() for v in columns.values() if isinstance(v, Tensor))
        if not all(isinstance(v, Tensor) for v in columns.values()) or used / (rows[-1] + 1) * len(source) > at_most:
            return None
        made.append(columns)
    return Cached(source, made, ragged) if made else None


def _trim(value: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of value [m, ..., T] without trailing zeros, joined [total, ...], and their lengths [m], at least 1."""
    rows = value.movedim(-1, 1)
    filled = (rows.flatten(2) != 0).any(2) if rows.dim() > 2 else rows != 0
    steps = torch.arange(1, rows.shape[1] + 1)
    lengths = (filled * steps).amax(1).clamp(min=1)
    return rows[steps <= lengths[:, None]], lengths
