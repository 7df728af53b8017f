"""What is counted and remembered of each row while a run is evaluated: by kind of target, and the worst rows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor

from handful.base.errors import some
from handful.data.base import Batch, Rows, Source
from handful.losses.outputs import part_of, tensors_in
from handful.report.truth import BINS
from handful.report.words import DAY, say_value_of
from handful.training.objective import Objective
from handful.training.process.parallel import Ranks
from handful.transform.pipeline import Pipeline
from handful.transform.rows import original_rows
from handful.transform.several import Several
from handful.transform.target_values import written

WORST = 24  # rows that are listed
_KEPT = 100_000  # rows of a regression that the figure of residuals is drawn from
Row = dict[str, object]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Wrong:
    """A row of high loss: its target and what was predicted, None where they cannot be shown, and how sure of it the
    model was."""

    loss: float
    row: int
    target: object
    prediction: object
    sure: float | None


class Lost:
    """Looks for rows whose outputs are NaN, batch by batch: called as keep(batch, output); `ids`: those found."""

    def __init__(self) -> None:
        self.ids: Rows = np.zeros(0, dtype=np.int64)

    def __call__(self, batch: Batch, output: object) -> None:
        for tensor in tensors_in(output):
            of_rows = tensor.ndim > 0 and len(tensor) == len(batch)
            if of_rows and bool((nan := tensor.isnan().reshape(len(batch), -1).any(-1)).any()):
                self.ids = np.union1d(self.ids, batch.rows[nan.cpu().numpy()])

    def of(self, source: Source, ranks: Ranks) -> list[str]:
        """A sentence on them, if there are any."""
        ids = np.unique(np.frombuffer(b"".join(ranks.gather_bytes(self.ids.tobytes())), np.int64))
        if not len(ids):
            return []
        rows = f"row{'s' * (len(ids) > 1)} {some(original_rows(source, ids).tolist(), 3)}, counted from 0"
        return [f"{len(ids):,} of the {len(source):,} rows of {source.name} ({rows}) have no prediction: the model's "
                "outputs are NaN there, as their input may be, and so are the scores; fill in what is missing, or "
                "leave the rows out"]  # fmt: skip


class Details:
    """Counts and remembers, batch by batch, while the scores are computed: called as keep(batch, output)."""

    def __init__(self, objective: Objective, pipeline: Pipeline) -> None:
        self.loss, self.tally = objective.loss, tally_of(pipeline)
        self.part, self.lost = objective.part, Lost()
        self.worst: list[Wrong] = []  # the WORST rows so far; of equal losses the first rows

    def __call__(self, batch: Batch, output: object) -> None:
        self.lost(batch, output)
        said = self.tally.of(batch.columns.get("y"), part_of(output, self.part))
        if said is None:
            return
        targets, predictions, sure = said
        losses = row_losses(self.loss(output, batch.columns["y"]), len(batch))
        if losses is not None:
            largest = [i for i in np.argsort(-losses, kind="stable")[:WORST].tolist() if not np.isnan(losses[i])]
            found = [Wrong(float(losses[i]), int(batch.rows[i]), targets[i], predictions[i], sure[i]) for i in largest]
            self.worst = sorted(self.worst + found, key=lambda w: (-w.loss, w.row))[:WORST]

    def of_all(self, ranks: Ranks) -> None:
        """From the rows of this rank to those of all, in their order."""
        if ranks.size == 1:
            return
        kept = save({str(k): torch.from_numpy(counts) for k, counts in enumerate(self.tally.kept())})
        parts = map(load, ranks.gather_bytes(kept))
        self.tally.take([[part[str(k)].numpy() for k in range(len(part))] for part in parts])
        said = map(json.loads, ranks.gather(json.dumps([*map(vars, self.worst)])))
        found = [Wrong(**wrong) for worst in said for wrong in worst]
        self.worst = sorted(found, key=lambda w: (-w.loss, w.row))[:WORST]


Said = tuple[Sequence[object], Sequence[object], Sequence[float | None]]


class Tally:
    """What is counted of targets and outputs; this one nothing, for tokens, sequences and pixels."""

    labels: tuple[str, ...] = ()
    confusion: NDArray[np.int64] | None = None
    calibration: Floats | None = None
    unit = ""
    parts: Sequence["Tally"] = ()  # of several targets, each by itself

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    def of(self, y: object, output: object) -> Said | None:
        """Count some rows; returns the target and the prediction of each, in the user's terms, and how sure of it the
        model is. None where they cannot be told."""
        return self.add(y, output.float().cpu()) if isinstance(y, Tensor) and isinstance(output, Tensor) else None

    def add(self, y: Tensor, output: Tensor) -> Said:
        return [None] * len(y), [None] * len(y), [None] * len(y)

    def kept(self) -> list[NDArray[Any]]:
        return []

    def take(self, parts: Sequence[Sequence[NDArray[Any]]]) -> None:
        """Have counted what was kept of all these parts together."""
        for own, *counts in zip(self.kept(), *parts, strict=True):
            own[...] = sum(counts)

    def classes(self) -> list[Row]:
        """Precision, recall and F1 of every class or label, from counts of rows; None where they are 0 / 0."""
        return []

    def residuals(self) -> tuple[Floats, Floats] | None:
        """(target, prediction) of a regression in the target's units, evenly chosen from more than 100,000 rows."""
        return None


class Confusion(Tally):
    """Of rows with one class each."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__(pipeline)
        self.labels = pipeline.classes or ()
        self.counts: NDArray[np.int64] = np.zeros((len(self.labels), len(self.labels)), dtype=np.int64)
        self.confusion = self.counts  # one array, added to in place
        self.sure = np.zeros((BINS, 3))
        self.calibration = self.sure

    def add(self, y: Tensor, output: Tensor) -> Said:
        k = len(self.labels)
        true = y.long().reshape(-1).cpu().numpy()
        found = self.pipeline.probabilities(output)[:, :k].max(1)
        sure, guess = found.values.numpy(), found.indices.numpy()
        known = (true >= 0) & ~np.isnan(sure)
        self.counts += np.bincount(true[known] * k + guess[known], minlength=k * k).reshape(k, k)
        places = np.clip((sure[known] * BINS).astype(np.int64), 0, BINS - 1)
        right = true[known] == guess[known]
        counted = [np.bincount(places, w, BINS) for w in (None, sure[known], right)]
        self.sure += np.stack(counted, axis=1)
        guess[np.isnan(sure)] = -1
        said = [[self.labels[i] if i >= 0 else None for i in ids] for ids in (true, guess)]
        return said[0], said[1], sure.tolist()

    def kept(self) -> list[NDArray[Any]]:
        return [self.counts, self.sure]

    def classes(self) -> list[Row]:
        return _by("class", self.labels, self.counts.sum(1), self.counts.sum(0), np.diagonal(self.counts))


class Labels(Tally):
    """Of rows with any number of labels each."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__(pipeline)
        self.labels = pipeline.names
        self.counts = np.zeros((3, len(self.labels)), dtype=np.int64)  # rows with the label, predicted, both

    def add(self, y: Tensor, output: Tensor) -> Said:
        has = (y > 0.5).cpu().numpy().reshape(len(y), -1)
        sure = self.pipeline.probabilities(output).numpy().reshape(len(y), -1)
        guess, known = sure > 0.5, ~np.isnan(sure).any(1)
        self.counts += np.stack([part[known].sum(0) for part in (has, guess, has & guess)])
        found = [self._listed(row) if sees else None for row, sees in zip(guess, known, strict=True)]
        return [self._listed(row) for row in has], found, [None] * len(y)

    def kept(self) -> list[NDArray[Any]]:
        return [self.counts]

    def _listed(self, has: NDArray[np.bool_]) -> str:
        return ", ".join(self.labels[k] for k in np.flatnonzero(has).tolist()) or "none"

    def classes(self) -> list[Row]:
        return _by("label", self.labels, *self.counts)


class Residuals(Tally):
    """Of numbers."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__(pipeline)
        self.labels = pipeline.names if pipeline.names[0] != "0" else ()
        self.pairs: list[tuple[Floats, Floats]] = []
        self.form = pipeline.target.form if pipeline.target else ""
        self.unit = pipeline.unit

    def add(self, y: Tensor, output: Tensor) -> Said:
        numbers = self.pipeline.numbers
        true, guess = numbers(y.float().cpu().reshape(output.shape)), numbers(output)
        self.pairs.append((np.asarray(true, float).reshape(len(y), -1), np.asarray(guess, float).reshape(len(y), -1)))
        said = [[_numbers(row, self.form) for row in part] for part in self.pairs[-1]]
        return said[0], said[1], [None] * len(y)

    def kept(self) -> list[NDArray[Any]]:
        return [np.concatenate(parts) for parts in zip(*self.pairs, strict=True)] or [np.zeros((0, 1))] * 2

    def take(self, parts: Sequence[Sequence[NDArray[Any]]]) -> None:
        self.pairs = [(part[0], part[1]) for part in parts if len(part[0])]

    def residuals(self) -> tuple[Floats, Floats] | None:
        if not self.pairs:
            return None
        true, guess = (np.concatenate(parts).astype(np.float64) for parts in zip(*self.pairs, strict=True))
        every, scale = -(-len(true) // _KEPT), DAY if self.form else 1.0
        return true[::every] / scale, guess[::every] / scale


class Each(Tally):
    """Of several targets that are not alike: each as it is by itself."""

    def __init__(self, pipeline: Pipeline, several: Several) -> None:
        super().__init__(pipeline)
        self.several = several
        self.parts = [tally_of(replace(pipeline, target=part)) for part in several.parts]

    def of(self, y: object, output: object) -> Said | None:
        found = self.several.heads_of(output)
        if found is None or not isinstance(y, Mapping):
            return None
        each = [part.add(y[name], head.float().cpu()) for name, part, head in zip(y, self.parts, found, strict=True)]
        targets, predictions = (
            [", ".join(map(say_value_of, row)) for row in zip(*(said[k] for said in each), strict=True)] for k in (0, 1)
        )
        return targets, predictions, [None] * len(targets)

    def kept(self) -> list[NDArray[Any]]:
        return [counts for part in self.parts for counts in part.kept()]

    def take(self, parts: Sequence[Sequence[NDArray[Any]]]) -> None:
        start = 0
        for own in self.parts:
            end = start + len(own.kept())
            own.take([part[start:end] for part in parts])
            start = end


def tally_of(pipeline: Pipeline) -> Tally:
    """What to count for the task of the pipeline."""
    target = pipeline.target
    if target is None or target.part is None:
        return Tally(pipeline)
    if target.part:
        pipeline = pipeline.predicted_by("")  # the part is taken already
    if isinstance(target, Several):
        return Each(pipeline, target)
    dense = len(target.shape) > 1  # pixels have no names
    if pipeline.task == "classification" and pipeline.classes:
        return Confusion(pipeline)
    if pipeline.task == "multilabel" and not dense:
        return Labels(pipeline)
    return Residuals(pipeline) if pipeline.task == "regression" else Tally(pipeline)


def _by(what: str, labels: Sequence[str], *counts: NDArray[np.int64]) -> list[Row]:
    """what: class or label; counts: int64 [k] each, rows of the class, predicted as it, and both."""
    return [
        {
            what: name,
            "rows": n,
            "predicted": m,
            "precision": right / m if m else None,
            "recall": right / n if n else None,
            "f1": 2 * right / (n + m) if n + m else None,
        }
        for name, n, m, right in zip(labels, *np.array(counts).tolist(), strict=True)
    ]


def row_losses(result: Tensor | tuple[Tensor, Tensor], rows: int) -> Floats | None:
    """The loss of each row, float64 [rows], of what a loss returned; None where it gives one number for all."""
    values, counts = (result, None) if isinstance(result, Tensor) else result
    if values.ndim == 0 or len(values) != rows:
        return None
    flat = values.detach().cpu().double().reshape(rows, -1)
    if counts is None:
        return flat.mean(1).numpy()
    counted = counts.cpu().double().reshape(rows, -1)
    means: Floats = (flat.sum(1) / counted.sum(1).clamp_min(torch.finfo(torch.float64).tiny)).numpy()
    return means


def _numbers(row: Floats, form: str) -> object:
    if form:
        return ", ".join(str(value) for value in written(row, form).tolist())
    return float(row[0]) if len(row) == 1 else ", ".join(f"{v:.4g}" for v in row[:6])
