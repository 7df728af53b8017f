"""How a trained run does on given data, in detail: by class, by error, and the rows it is most wrong about."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.batches.batches import Batches
from handful.data.base import Batch
from handful.data.media.folder import file_names
from handful.losses.outputs import part_of
from handful.report.document import Page, Part, Section
from handful.report.figure import Figure
from handful.report.markup import picture_grid, table_html, tiles
from handful.report.matrix import figure_matrix
from handful.report.residuals import figure_residuals
from handful.report.tables import Grid, print_table
from handful.report.words import say_count, say_name, say_score, say_value, sentence
from handful.runs.examples import contents, pictures_of, shorten
from handful.training.evaluation import evaluate as evaluate_rows
from handful.training.objective import Objective
from handful.transform.pipeline import Pipeline
from handful.transform.rows import original_rows
from handful.transform.seen import Repeated

WORST = 24  # rows that are listed
_KEPT = 100_000  # rows of a regression that the figure of residuals is drawn from
_SHOWN = {"most": 8, "length": 300}  # columns and characters of a listed row
Row = dict[str, object]
Floats = NDArray[np.float64]


@dataclass
class Evaluation:
    """What `evaluate` found.

    scores:    loss and metrics over all rows, as Run.evaluate returns them
    rows:      how many rows there are
    classes:   one row per class (per label of a multilabel target): class, rows, predicted, precision, recall, f1
    confusion: int64 [k, k], rows of true class i predicted as j; None where a row has no single class
    labels:    names of the classes [k]
    residuals: (target, prediction) float64 [m, outputs] each of a regression, every row or an even choice of them
    worst:     the rows of highest loss, worst first: row, target, prediction, loss, and what the row holds
    pictures:  uint8 [w, C, H, W] of the worst rows of a set of pictures
    notes:     how many of the rows were trained on, where some were
    """

    name: str
    scores: dict[str, float]
    rows: int
    classes: list[Row] = field(default_factory=list)
    confusion: NDArray[np.int64] | None = None
    labels: tuple[str, ...] = ()
    residuals: tuple[Floats, Floats] | None = None
    worst: list[Row] = field(default_factory=list)
    pictures: NDArray[np.uint8] | None = None
    notes: list[str] = field(default_factory=list)

    def show(self, worst: int = 10) -> None:
        """Print scores, the table of classes and the worst rows."""
        for name, value in self.scores.items():
            print(say_score(name, value))
        for note in self.notes:
            print(f"note: {note}")
        if self.classes:
            print()
            print_table(self.classes)
        if self.worst:
            print("\nrows of highest loss:")
            print_table([{k: _short(v) for k, v in row.items()} for row in self.worst[:worst]])

    def write(self, path: str | Path, title: str) -> Path:
        """Write the page to `path` and return it."""
        pairs = [(say_name(name), say_value(name, value)) for name, value in self.scores.items()]
        pairs.append(("rows", say_count(self.rows)))
        detail: list[Part] = [*self.figures()]
        if self.classes:
            detail.append(table_html(Grid.of(self.classes), caption="By class"))
        listed: list[Part] = [table_html(Grid.of(self.worst))] if self.worst else []
        if self.pictures is not None:
            captions = [f"row {r['row']}: {r['target']}, taken for {r['prediction']}" for r in self.worst]
            listed.insert(0, picture_grid(self.pictures, captions))
        sections = [
            Section("Result", [tiles(sorted(pairs, key=lambda pair: "loss" in pair[0]))]),
            Section("In detail", detail),
            Section("Rows of highest loss", listed),
        ]
        first = next((n for n in self.scores if n != "loss"), "loss")
        headline = f"{sentence(say_score(first, self.scores[first]))} on {say_count(self.rows)} rows of {self.name}."
        headline = " ".join([headline, *(f"{sentence(note)}." for note in self.notes)])
        return Page(title, sections, headline=headline).write(path)

    def figures(self) -> list[Figure]:
        """The confusion matrix, or the residuals of each output of a regression."""
        if self.confusion is not None:
            return [figure_matrix(self.confusion, self.labels, "Confusion matrix")]
        if self.residuals is None:
            return []
        target, prediction = self.residuals
        outputs = target.shape[1]
        names = self.labels or [f"output {k}" for k in range(outputs)]
        return [
            figure_residuals(target[:, k], prediction[:, k], names[k] if outputs > 1 else "")
            for k in range(min(outputs, 4))
        ]


def _short(value: object) -> object:
    return shorten(value, 60) if isinstance(value, str) else value


def evaluate(objective: Objective, pipeline: Pipeline, batches: Batches, data: object = None) -> Evaluation:
    """Score a model on every row of `batches` (with the target), in one pass, and keep what a page shows of it.

    data: where the rows are from, to name the files of a folder. Raises what Objective.evaluate raises.
    """
    details = Details(objective, pipeline)
    repeated = Repeated(pipeline.seen)
    scores = evaluate_rows(objective, repeated.among(batches.epoch(512)), details)
    source, tally = batches.source, details.tally
    found = Evaluation(
        source.name, scores, len(source), tally.classes(), tally.confusion, tally.labels, tally.residuals(),
        notes=repeated.of(source, "rows"),
    )  # fmt: skip
    ids = np.array([wrong.row for wrong in details.worst], dtype=np.int64)
    if len(ids):
        read, files = source.take(ids), file_names(data)
        holds = contents(source, read, pipeline.uses, **_SHOWN)
        for i, (wrong, row) in enumerate(zip(details.worst, original_rows(source, ids).tolist(), strict=True)):
            known = {"target": wrong.target, "prediction": wrong.prediction, "loss": wrong.loss}
            known |= {"file": files[wrong.row]} if len(files) == len(source) else {}
            listed = {"row": row, **known, **{name: values[i] for name, values in holds.items()}}
            found.worst.append({name: value for name, value in listed.items() if value is not None})
        if pipeline.inputs.kind == "image" and len(pipeline.uses) == 1:
            found.pictures = pictures_of(read, pipeline.uses[0])
    return found


@dataclass(frozen=True)
class Wrong:
    """A row of high loss: its target and what was predicted, None where they cannot be shown."""

    loss: float
    row: int
    target: object
    prediction: object


class Details:
    """Counts and remembers, batch by batch, while the scores are computed: called as keep(batch, output)."""

    def __init__(self, objective: Objective, pipeline: Pipeline) -> None:
        self.loss, self.tally = objective.loss, tally_of(pipeline)
        self.part = objective.part
        self.worst: list[Wrong] = []  # the WORST rows so far; of equal losses the first rows

    def __call__(self, batch: Batch, output: object) -> None:
        seen = part_of(output, self.part)
        if not isinstance(seen, Tensor) or "y" not in batch.columns:
            return
        targets, predictions = self.tally.add(batch.tensor("y"), seen.float().cpu())
        losses = row_losses(self.loss(output, batch.columns["y"]), len(batch))
        if losses is not None:
            largest = [i for i in np.argsort(-losses, kind="stable")[:WORST].tolist() if not np.isnan(losses[i])]
            found = [Wrong(float(losses[i]), int(batch.rows[i]), targets[i], predictions[i]) for i in largest]
            self.worst = sorted(self.worst + found, key=lambda w: (-w.loss, w.row))[:WORST]


class Tally:
    """What is counted of targets and outputs; this one nothing, for tokens, sequences and pixels."""

    labels: tuple[str, ...] = ()
    confusion: NDArray[np.int64] | None = None

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    def add(self, y: Tensor, output: Tensor) -> tuple[Sequence[object], Sequence[object]]:
        """Count some rows; returns the target and the prediction of each, in the user's terms."""
        return [None] * len(y), [None] * len(y)

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

    def add(self, y: Tensor, output: Tensor) -> tuple[Sequence[object], Sequence[object]]:
        k = len(self.labels)
        true = y.long().reshape(-1).cpu().numpy()
        guess = self.pipeline.probabilities(output)[:, :k].argmax(1).numpy()
        known = true >= 0
        self.counts += np.bincount(true[known] * k + guess[known], minlength=k * k).reshape(k, k)
        return [self.labels[i] if i >= 0 else None for i in true], [self.labels[i] for i in guess]

    def classes(self) -> list[Row]:
        return _by_class(self.labels, self.counts.sum(1), self.counts.sum(0), np.diagonal(self.counts))


class Labels(Tally):
    """Of rows with any number of labels each."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__(pipeline)
        self.labels = pipeline.names
        self.counts = np.zeros((3, len(self.labels)), dtype=np.int64)  # rows with the label, predicted, both

    def add(self, y: Tensor, output: Tensor) -> tuple[Sequence[object], Sequence[object]]:
        has = (y > 0.5).cpu().numpy().reshape(len(y), -1)
        guess = (self.pipeline.probabilities(output) > 0.5).numpy().reshape(len(y), -1)
        self.counts += np.stack([has.sum(0), guess.sum(0), (has & guess).sum(0)])
        return [self._listed(row) for row in has], [self._listed(row) for row in guess]

    def _listed(self, has: NDArray[np.bool_]) -> str:
        return ", ".join(self.labels[k] for k in np.flatnonzero(has).tolist()) or "none"

    def classes(self) -> list[Row]:
        return _by_class(self.labels, *self.counts)


class Residuals(Tally):
    """Of numbers."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__(pipeline)
        self.labels = pipeline.names if pipeline.names[0] != "0" else ()
        self.pairs: list[tuple[Floats, Floats]] = []

    def add(self, y: Tensor, output: Tensor) -> tuple[Sequence[object], Sequence[object]]:
        numbers = self.pipeline.numbers
        true, guess = numbers(y.float().cpu().reshape(output.shape)), numbers(output)
        self.pairs.append((np.asarray(true, float).reshape(len(y), -1), np.asarray(guess, float).reshape(len(y), -1)))
        return [_numbers(row) for row in self.pairs[-1][0]], [_numbers(row) for row in self.pairs[-1][1]]

    def residuals(self) -> tuple[Floats, Floats] | None:
        if not self.pairs:
            return None
        true, guess = (np.concatenate(parts).astype(np.float64) for parts in zip(*self.pairs, strict=True))
        every = -(-len(true) // _KEPT)
        return true[::every], guess[::every]


def tally_of(pipeline: Pipeline) -> Tally:
    """What to count for the task of the pipeline."""
    target = pipeline.target
    if target is None or target.part is None:
        return Tally(pipeline)
    if target.part:
        pipeline = pipeline.predicted_by("")  # the part is taken already
    dense = len(target.shape) > 1  # pixels have no names
    if pipeline.task == "classification" and pipeline.classes:
        return Confusion(pipeline)
    if pipeline.task == "multilabel" and not dense:
        return Labels(pipeline)
    return Residuals(pipeline) if pipeline.task == "regression" else Tally(pipeline)


def _by_class(labels: Sequence[str], *counts: NDArray[np.int64]) -> list[Row]:
    """counts: int64 [k] each, rows of the class, rows predicted as it, and rows that are both."""
    return [
        {
            "class": name,
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
    flat = values.detach().double().reshape(rows, -1).cpu()
    if counts is None:
        return flat.mean(1).numpy()
    counted = counts.double().reshape(rows, -1).cpu()
    means: Floats = (flat.sum(1) / counted.sum(1).clamp_min(torch.finfo(torch.float64).tiny)).numpy()
    return means


def _numbers(row: Floats) -> object:
    return float(row[0]) if len(row) == 1 else ", ".join(f"{v:.4g}" for v in row[:6])
