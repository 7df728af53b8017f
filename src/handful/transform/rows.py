"""Rows of a source: read in chunks, checked, called by their numbers in the user's file, kept after the pipeline."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from handful.base.errors import HandfulError
from handful.data.arrays import Arrays, Dense, RaggedValues, Stored
from handful.data.base import Batch, Column, Ragged, Rows, Source, Value, View
from handful.data.gather import Array, gather_ragged, offsets_of
from handful.models.audio import frames
from handful.transform.several import SeveralFitter
from handful.transform.steps.numbers import padded
from handful.transform.target import Target
from handful.transform.target_fit import TargetFitter

_LOOK = 256  # training rows whose lengths are compared


def blocks(n: int, size: int) -> Iterator[Rows]:
    """The row ids 0..n-1 in order, `size` at a time."""
    for start in range(0, n, size):
        yield np.arange(start, min(start + size, n), dtype=np.int64)


def chunks_of(source: Source, names: Sequence[str], at_most: int = 1 << 22) -> Iterator[Batch]:
    """The columns `names` of all rows of a source in order, as Batches of about `at_most` bytes, 1 to 65,536 rows."""
    row = max(1, sum(_row_bytes(source.columns[name]) for name in names))
    for rows in blocks(len(source), min(65536, max(1, at_most // row))):
        yield source.take(rows, None if set(names) == set(source.columns) else names)


def _row_bytes(column: Column) -> int:
    if column.kind == "audio":
        return 20 * (column.rate or 16000)
    if column.kind in ("text", "tokens") or None in column.shape:
        return 2_000
    itemsize = 8 if column.dtype in ("str", "bfloat16") else np.dtype(column.dtype).itemsize
    return int(itemsize * np.prod([s or 1 for s in column.shape], dtype=np.int64))


def original_rows(source: Source | None, rows: Rows) -> Rows:
    """The rows' numbers in the file or array that the user gave: through all views."""
    while isinstance(source, View):
        rows, source = source.ids(rows), source.base
    if source is None or source.left_out is None:
        return rows
    gone = source.left_out[0]  # each moves those behind it on by one
    return rows + np.searchsorted(gone - np.arange(len(gone)), rows, side="right")


def by_place(source: Source, inputs: Sequence[str], own_loss: bool) -> str | None:
    """The input whose places the whole numbers of a target that differs in length are classes of, as it has as many;
    "" where there is none, but a loss that the model makes; else None."""
    goal, columns = source.target, source.columns
    if goal is None or not columns[goal].varies or columns[goal].kind == "audio":
        return None
    varying = [name for name in inputs if columns[name].varies and columns[name].kind != "audio"]
    look = source.take(range(min(len(source), _LOOK)), [goal, *varying])
    same = (name for name in varying if torch.equal(look.ragged(goal).offsets, look.ragged(name).offsets))
    return next(same, "" if own_loss else None)


def of_own_lengths(values: Array, target: Target | None, source: object, rows: Rows | None = None) -> Array:
    """Predictions of a class for each place of rows that differ in length, [m, T]: m arrays, each as long as its row.
    Others as they are."""
    if target is None or not target.places or not isinstance(source, Source):
        return values
    rows = np.arange(len(source)) if rows is None else rows
    found, out = source.take(rows, [target.places])[target.places], np.empty(len(values), dtype=object)
    lengths = found.offsets.diff().tolist() if isinstance(found, Ragged) else [values.shape[1]] * len(values)
    for i, length in enumerate(lengths):
        out[i] = values[i, :length]
    return out


def check_infinite(name: str, value: Value, source: Source, rows: Rows) -> None:
    """Raise HandfulError naming the column and the first row that holds an infinite value."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or math.isfinite(value.sum().item()):
        return
    if torch.isinf(value).any():
        first = int(torch.isinf(value).reshape(len(value), -1).any(1).nonzero()[0])
        row = int(original_rows(source, rows[first : first + 1])[0])
        raise infinite(name, source.name, row)


def infinite(name: str, where: str, row: int) -> HandfulError:
    """What is said of an infinite value in a column."""
    said = f"column '{name}' of {where} holds an infinite value in row {row} (rows count from 0)"
    return HandfulError(f"{said}; replace it by a number or leave it empty")


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


class Padded(RaggedValues):
    """A column of rows of different lengths: padded with 0 to the longest of those read, as the pipeline does."""

    def read(self, rows: Rows) -> Tensor:
        found = gather_ragged(self.values, self.offsets, rows)
        return padded(found.values, found.offsets.diff()).movedim(1, -1).contiguous()


def _stored(found: Tensor | list[Tensor]) -> Stored:
    """A column of the pipeline's output, whole, or of rows of different lengths, some at a time."""
    one = found if isinstance(found, Tensor) else found[0]
    dtype, shape = str(one.dtype).removeprefix("torch."), one.shape[1:]
    if isinstance(found, Tensor):  # as NumPy has it, which gathers without threads, where NumPy knows the dtype
        block = found if found.dtype == torch.bfloat16 or found.device.type != "cpu" else found.numpy()
        return Dense(block, Column("tensor", dtype, tuple(shape)))
    values, lengths = zip(*map(_trim, found))
    return Padded(torch.cat(values), offsets_of(torch.cat(lengths)), Column("tensor", dtype, (*shape[:-1], None)))


def cache(source: Source, pipeline: Callable[[Batch], Batch], ragged: set[str], at_most: int) -> Arrays | None:
    """The pipeline's output for every row of a source, whose row ids it has; None as soon as it is clear that it would
    need more than `at_most` bytes. ragged: columns whose last axis varies (tokens, frames), kept without padding."""
    n, used, whole, parts = len(source), 0, dict[str, Tensor | list[Tensor]](), dict[str, list[Tensor]]()
    for chunk in chunks_of(source, [*source.columns], 1 << (22 if ragged else 24)):
        batch, rows = pipeline(chunk), chunk.rows
        tensors = batch.tensors()
        used += sum(value.nbytes for value in tensors.values())
        if len(tensors) < len(batch.columns) or used / (rows[-1] + 1) * n > at_most:
            return None
        for name, value in tensors.items():
            if name in ragged:
                parts.setdefault(name, []).append(value)
                continue
            if len(rows) == n:
                whole[name] = value.resolve_conj().resolve_neg().contiguous()
                continue
            if name not in whole:
                whole[name] = value.new_empty((n, *value.shape[1:]))
            whole[name][rows[0] : rows[0] + len(rows)] = value
    stored = {name: _stored(value) for name, value in (whole | parts).items()}
    if not stored:
        return None
    return Arrays(stored, "y" if "y" in stored else None, name=source.name, where=source.where)


def _trim(value: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of value [m, ..., T] without trailing zeros, joined [total, ...], and their lengths [m], at least 1."""
    rows, lengths = value.movedim(-1, 1), frames(value).clamp(min=1)
    return rows[torch.arange(rows.shape[1]) < lengths[:, None]], lengths


class TrainingRows:
    """The training rows, as often as asked; on the first pass the target and the weights are looked at too.

    notes: what was decided about the target.
    """

    def __init__(
        self, source: Source, names: Sequence[str], inputs: Sequence[str], weight: str | None, loss: object
    ) -> None:
        self.source, self.names, self.inputs = source, names, inputs
        self.weight, self.loss = weight, loss
        self.seen, self.notes = False, list[str]()
        self._restart()

    def _restart(self) -> None:
        self.target: TargetFitter | SeveralFitter | None = None
        if goal := self.source.target:
            column, name = self.source.columns[goal], self.source.name
            several = column.kind == "several"
            self.target = (SeveralFitter if several else TargetFitter)(goal, column, name, self.loss)

    def __call__(self) -> Iterator[Batch]:
        if self.seen:
            yield from chunks_of(self.source, self.names)
            return
        self._restart()  # a pass that was broken off does not count
        for batch in chunks_of(self.source, self.names):
            for name in self.inputs:
                check_infinite(name, batch[name], self.source, batch.rows)
            self._look(batch)
            yield batch
        self.seen = True

    def _look(self, batch: Batch) -> None:
        rows = original_rows(self.source, batch.rows)
        if self.target:
            self.target.update(batch[self.target.name], rows)
        if self.weight:
            check_weights(batch[self.weight], self.weight, rows, self.source.name)

    def decide(self, own_model: bool, task: str | None) -> Target | None:
        """What the target is; it is looked at now if no step had the rows read."""
        names = [name for name in (self.source.target, self.weight) if name]
        if not self.seen and names:
            self._restart()
            for batch in chunks_of(self.source, names):
                self._look(batch)
        if self.target is None:
            return None
        column = self.source.columns[self.target.name]
        many = len(column.classes or ()) > max(20, len(self.source) ** 0.5)
        sound = [self.source.columns[name].kind for name in self.inputs] == ["audio"]
        if task is None and sound and (many or column.kind == "text"):  # which is to become free text
            task = "sequence"
            self.notes.append(f"'{self.target.name}' is the text of each sound: its characters are to be recognised.")
        found = self.target.decide(
            own_model, task, by_place(self.source, self.inputs, self.loss == "model") if own_model else None
        )
        self.notes += self.target.notes
        return found
