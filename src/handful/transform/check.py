"""Whether rows can be used: sentences that name the column and the row for what cannot."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.errors import HandfulError
from handful.source.base import Column, Source, Value


def original_rows(source: Source, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows' numbers in the file or array that the user gave: through all views."""
    while hasattr(source, "base") and hasattr(source, "rows"):
        rows, source = source.rows[rows], source.base
    return rows


def check_infinite(name: str, value: Value, source: Source, rows: NDArray[np.int64]) -> None:
    """Raise HandfulError naming the column and the first row that holds an infinite value."""
    if isinstance(value, Tensor) and value.is_floating_point() and torch.isinf(value).any():
        first = int(torch.isinf(value).reshape(len(value), -1).any(1).nonzero()[0])
        row = int(original_rows(source, rows[first : first + 1])[0])
        raise HandfulError(
            f"Column '{name}' of {source.name} holds an infinite value in row {row} (rows count from 0); "
            "replace it by a number or leave it empty."
        )


def check_weights(value: Value, name: str, rows: NDArray[np.int64], where: str) -> Tensor:
    """The weights as float32 [m]; HandfulError naming the row of one that is missing, infinite or negative."""
    if not isinstance(value, Tensor) or value.dim() > 2 or value[:1].numel() > 1:
        raise HandfulError(f"The weights '{name}' of {where} must be one number a row.")
    weights = value.reshape(-1).to(torch.float32)
    bad = ~(torch.isfinite(weights) & (weights >= 0))
    if bad.any():
        i = int(bad.nonzero()[0])
        raise HandfulError(
            f"The weight '{name}' is {value.reshape(-1)[i].item()} in row {int(rows[i])} of {where} "
            "(rows count from 0); weights must be 0 or more."
        )
    return weights


def check_same(name: str, trained: Column, source: Source) -> None:
    """Raise HandfulError if the column is of another kind, shape or rate than in training."""
    now = source.columns[name]
    alike = now.kind == trained.kind or {now.kind, trained.kind} <= {"category", "text"}
    if not alike and now.kind == "number" and trained.kind == "category":
        alike = now.dtype.startswith("float") and _empty(source, name)
    if not alike:
        example = f" ('{now.classes[0]}')" if now.classes else ""
        raise HandfulError(
            f"Column '{name}' of {source.name} is {now.kind}{example}, but was {trained.kind} in training."
        )
    if None not in trained.shape and now.shape != trained.shape:
        raise HandfulError(
            f"Column '{name}' of {source.name} has rows of shape {now.shape}, but of {trained.shape} in training."
        )
    if now.rate != trained.rate:
        raise HandfulError(
            f"Column '{name}' of {source.name} is sound at {now.rate} Hz, but was at {trained.rate} Hz in "
            "training; resample it first."
        )


def _empty(source: Source, name: str) -> bool:
    """A column without any value is read as numbers that are all missing."""
    value = source.read_column(name, np.arange(len(source), dtype=np.int64))
    return isinstance(value, Tensor) and bool(torch.isnan(value).all())
