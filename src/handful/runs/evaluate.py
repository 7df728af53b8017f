"""How a trained run does on given data, in detail: by class, by error, and the rows it is most wrong about."""

import heapq
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.data.base import Batch, Source, Subset
from handful.report.document import Page, Part, Section
from handful.report.figure import Figure
from handful.report.markup import Html, picture_grid, table_html, tiles
from handful.report.matrix import figure_matrix
from handful.report.residuals import figure_residuals
from handful.report.tables import print_table
from handful.report.words import say_count, say_name, say_score, say_value

if TYPE_CHECKING:
    from handful.runs.run import Run

WORST = 24  # rows that are listed
_KEPT = 100_000  # rows of a regression that the figure of residuals is drawn from


@dataclass
class Evaluation:
    """What `evaluate` found.

    scores:    loss and metrics over all rows, as Run.evaluate returns them
    rows:      how many rows there are
    classes:   one row a class (a label of a multilabel target): class, rows, predicted, precision, recall, f1
    confusion: int64 [k, k], rows of true class i predicted as j; None where a row has no single class
    labels:    names of the classes [k]
    residuals: (target, prediction) float64 [m, outputs] each of a regression, every row or an even choice of them
    worst:     the rows of highest loss, worst first: row, target, prediction, loss, and what the row holds
    pictures:  uint8 [w, C, H, W] of the worst rows of a set of pictures
    """

    name: str
    scores: dict[str, float]
    rows: int
    classes: list[dict[str, Any]] = field(default_factory=list)
    confusion: NDArray[np.int64] | None = None
    labels: tuple[str, ...] = ()
    residuals: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    worst: list[dict[str, Any]] = field(default_factory=list)
    pictures: NDArray[np.uint8] | None = None

    def show(self, worst: int = 10) -> None:
        """Print scores, the table of classes and the worst rows."""
        for name, value in self.scores.items():
            print(say_score(name, value))
        if self.classes:
            print()
            print_table(self.classes)
        if self.worst:
            print("\nrows of highest loss:")
            print_table([{k: _short(v, 60) for k, v in row.items()} for row in self.worst[:worst]])

    def write(self, path: str | Path, title: str) -> Path:
        """Write the page to `path` and return it."""
        pairs = [(say_name(name), say_value(name, value)) for name, value in self.scores.items()]
        pairs.append(("rows", say_count(self.rows)))
        sections = [Section("Result", [tiles(sorted(pairs, key=lambda pair: "loss" in pair[0]))])]
        detail: list[Part] = [*self.figures()]
        if self.classes:
            detail.append(table_html(self.classes, caption="By class"))
        if detail:
            sections.append(Section("In detail", detail))
        if self.worst:
            sections.append(Section("Rows of highest loss", self._worst_parts()))
        first = next((n for n in self.scores if n != "loss"), "loss")
        said = say_score(first, self.scores[first])
        headline = f"{said[0].upper()}{said[1:]} on {say_count(self.rows)} rows of {self.name}."
        return Page(title, sections, headline=headline).write(path)

    def figures(self) -> list[Figure]:
        """The confusion matrix, or the residuals of each output of a regression."""
        if self.confusion is not None:
            return [figure_matrix(self.confusion, self.labels, "Confusion matrix")]
        if self.residuals is None:
            return []
        target, prediction = self.residuals
        names = list(self.labels or map("output {}".format, range(target.shape[1]))) if target.shape[1] > 1 else [""]
        return [figure_residuals(target[:, k], prediction[:, k], name) for k, name in enumerate(names[:4])]

    def _worst_parts(self) -> list[Part]:
        said = [{k: _short(v, 300) for k, v in row.items()} for row in self.worst]
        if self.pictures is None:
            return [table_html(said)]
        captions = [f"row {r['row']}: {r['target']}, taken for {r['prediction']}" for r in said]
        return [picture_grid(self.pictures, captions), Html(table_html(said))]


def _short(value: Any, length: int) -> Any:
    """Text of at most `length` characters on one line; numbers as they are."""
    if not isinstance(value, str):
        return value
    text = " ".join(value.split())
    return text if len(text) <= length else text[: length - 1] + "…"


def evaluate(run: "Run", data: Any, metrics: Any = None) -> Evaluation:
    """Score the run on the data (with the target), and keep what a page tells about it. One pass over the rows.

    metrics: other metrics than the run's, as in Run.evaluate. Raises what Run.evaluate raises.
    """
    batches = run.open(data)
    details = Details(run)
    scores = run.scorer(metrics).evaluate(batches.epoch(512), details)
    source = batches.source
    worst, pictures = details.worst_rows(source, data)
    return Evaluation(
        source.name, scores, len(source), details.classes(), details.confusion, details.labels, details.residuals(),
        worst, pictures,
    )  # fmt: skip


class Details:
    """Counts and remembers, batch by batch, while the scores are computed: called as keep(batch, output)."""

    def __init__(self, run: "Run") -> None:
        self.run, p = run, run.pipeline
        self.labels = tuple(p.classes or ())
        places = p.target is not None and len(p.target.shape) > 1  # pixels have no names
        if (p.task == "multilabel" and not places) or (p.task == "regression" and p.names[0] != "0"):
            self.labels = p.names
        k = len(self.labels)
        single = p.task == "classification" and k > 0
        self.confusion = np.zeros((k, k), dtype=np.int64) if single else None
        self.multilabel = np.zeros((3, k), dtype=np.int64)  # rows with the label, predicted, both
        self.pairs: list[tuple[NDArray[Any], NDArray[Any]]] = []
        self.heap: list[tuple[float, int, int, Any]] = []  # loss, -row, the target's class, what was predicted
        self.rows = 0

    def __call__(self, batch: Batch, output: Any) -> None:
        self.rows += len(batch)
        if not isinstance(output, Tensor) or "y" not in batch.columns:
            return
        p, y, shown = self.run.pipeline, batch.tensor("y"), output.float().cpu()
        if self.confusion is not None:
            k = len(self.labels)
            true, guess = y.long().reshape(-1).cpu().numpy(), p.probabilities(shown)[:, :k].argmax(1).numpy()
            self.confusion += np.bincount(true * k + guess, minlength=k * k).reshape(k, k)
            targets, predictions = [self.labels[i] for i in true], [self.labels[i] for i in guess]
        elif p.task == "multilabel" and self.labels:
            has, said = (
                (y > 0.5).cpu().numpy().reshape(len(y), -1),
                (p.probabilities(shown) > 0.5).numpy().reshape(len(y), -1),
            )
            self.multilabel += np.stack([has.sum(0), said.sum(0), (has & said).sum(0)])
            targets, predictions = ([self._said(r) for r in rows] for rows in (has, said))
        elif p.task == "regression":
            true, guess = p.decode(y.float().cpu().reshape(shown.shape)), p.decode(shown)
            self.pairs.append((true.reshape(len(y), -1), guess.reshape(len(y), -1)))
            targets, predictions = ([_numbers(r) for r in rows] for rows in self.pairs[-1])
        else:
            targets = predictions = [None] * len(y)  # tokens and sequences: their losses say where to look
        self._remember(batch, output, targets, predictions)

    def _said(self, has: NDArray[np.bool_]) -> str:
        return ", ".join(self.labels[k] for k in np.flatnonzero(has).tolist()) or "none"

    def _remember(self, batch: Batch, output: Tensor, targets: list[Any], predictions: list[Any]) -> None:
        """Keep the rows of highest loss; of equal losses the first row."""
        losses = row_losses(self.run.objective.loss(output, batch.columns["y"]), len(batch))
        if losses is None:
            return
        bar = self.heap[0][0] if len(self.heap) == WORST else -np.inf
        for i in np.flatnonzero(losses >= bar).tolist():
            item = (float(losses[i]), -int(batch.rows[i]), i, (targets[i], predictions[i]))
            (heapq.heappush if len(self.heap) < WORST else heapq.heappushpop)(self.heap, item)

    def classes(self) -> list[dict[str, Any]]:
        """Precision, recall and F1 of every class or label, from counts of rows; None where they are 0 / 0."""
        if self.confusion is not None:
            rows, predicted, both = self.confusion.sum(1), self.confusion.sum(0), np.diagonal(self.confusion)
        elif self.run.pipeline.task == "multilabel" and self.labels:
            rows, predicted, both = self.multilabel
        else:
            return []
        return [
            {
                "class": name,
                "rows": int(n),
                "predicted": int(m),
                "precision": both_ / m if m else None,
                "recall": both_ / n if n else None,
                "f1": 2 * both_ / (n + m) if n + m else None,
            }
            for name, n, m, both_ in zip(self.labels, rows.tolist(), predicted.tolist(), both.tolist(), strict=True)
        ]

    def residuals(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """(target, prediction) of a regression in the target's units, evenly chosen from more than 100,000 rows."""
        if not self.pairs:
            return None
        true, guess = (np.concatenate(parts).astype(np.float64) for parts in zip(*self.pairs, strict=True))
        every = -(-len(true) // _KEPT)
        return true[::every], guess[::every]

    def worst_rows(self, source: Source, data: Any) -> tuple[list[dict[str, Any]], NDArray[np.uint8] | None]:
        """The remembered rows, worst first, with what they hold; and their pictures where they are pictures."""
        from handful.data.media.folder import file_names

        found = sorted(self.heap, key=lambda item: (-item[0], -item[1]))
        ids = np.array([-item[1] for item in found], dtype=np.int64)
        if not len(ids):
            return [], None
        read = source.take(ids)
        holds = _contents(source, read, self.run.pipeline.uses)
        files = file_names(data)
        original = source.rows[ids] if isinstance(source, Subset) else ids
        table = []
        for i, (loss, _, _, (target, prediction)) in enumerate(found):
            row: dict[str, Any] = {"row": int(original[i])}
            row |= {} if target is None else {"target": target, "prediction": prediction}
            row |= {"loss": loss}
            row |= {"file": files[ids[i]]} if len(files) == len(source) else {}
            table.append(row | {name: values[i] for name, values in holds.items()})
        return table, pictures_of(read, self.run.pipeline.uses, self.run.pipeline.inputs.kind)


def row_losses(result: Any, rows: int) -> NDArray[np.float64] | None:
    """The loss of each row, float64 [rows], of what a loss returned; None where it gives one number for all."""
    values, counts = result if isinstance(result, tuple) else (result, None)
    if not isinstance(values, Tensor) or values.ndim == 0 or len(values) != rows:
        return None
    flat = values.detach().double().reshape(rows, -1).cpu()
    if counts is None:
        return flat.mean(1).numpy()
    counted = counts.double().reshape(rows, -1).cpu()
    means: NDArray[np.float64] = (flat.sum(1) / counted.sum(1).clamp_min(torch.finfo(torch.float64).tiny)).numpy()
    return means


def _numbers(row: NDArray[Any]) -> Any:
    return float(row[0]) if len(row) == 1 else ", ".join(f"{v:.4g}" for v in row[:6])


def _contents(source: Source, read: Batch, names: tuple[str, ...]) -> dict[str, list[Any]]:
    """The first columns of some rows that a reader can look at: numbers, categories, text."""
    shown: dict[str, list[Any]] = {}
    for name in names:
        column, value = source.columns[name], read[name]
        if isinstance(value, list) and all(isinstance(v, str) for v in value):
            shown[name] = list(value)
        elif column.classes is not None and isinstance(value, Tensor):
            shown[name] = [(*column.classes, "")[c] for c in value.tolist()]
        elif isinstance(value, Tensor) and value.ndim == 1:
            shown[name] = value.tolist()
        if len(shown) == 8:
            break
    return shown


def pictures_of(read: Batch, names: tuple[str, ...], kind: str) -> NDArray[np.uint8] | None:
    """uint8 [m, C, H, W] of raw rows that are pictures of one size: bytes as they are, numbers stretched to 0..255."""
    if kind != "image" or len(names) != 1 or not isinstance(value := read[names[0]], Tensor):
        return None
    value = value[:, None] if value.ndim == 3 else value
    if value.ndim != 4 or value.shape[1] not in (1, 3, 4):
        return None
    if value.dtype != torch.uint8:
        low, high = value.min(), value.max()
        value = ((value - low) * (255 / max(float(high - low), 1e-12))).round().clamp(0, 255).to(torch.uint8)
    return value.numpy()
