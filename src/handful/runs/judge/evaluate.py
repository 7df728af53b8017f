"""How a trained run does on given data, in detail: by class, by error, and the rows it is most wrong about."""

import base64
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handful.base.errors import shown
from handful.base.keys import drawing
from handful.batches.batches import Batches
from handful.data.base import Batch, Column, Source
from handful.data.media.folder import file_names
from handful.report.document import Page, Part, Section, folded, picture_grid, sound_list, table_html, tiles
from handful.report.figure import Figure
from handful.report.page import Judged, file_name
from handful.report.tables import Grid, print_table
from handful.report.truth import figure_against, figure_calibration, figure_matrix, figure_residuals
from handful.report.words import (
    DATES,
    DAY,
    say_count,
    say_name,
    say_off,
    say_score,
    say_share,
    say_value,
    sentence,
    split_score,
)
from handful.runs.judge.examples import contents, pictures_of, sounds_of, titled, units_of
from handful.runs.judge.interval import of_classes, of_numbers
from handful.runs.judge.tally import Details, Floats, Row, Tally
from handful.training.objective import Objective
from handful.training.process.parallel import ALONE, Ranks
from handful.training.watch.evaluation import evaluate as evaluate_rows
from handful.transform.pipeline import Pipeline
from handful.transform.rows import original_rows
from handful.transform.seen import Repeated

_LISTED = ("row", "target", "prediction", "probability", "loss", "file")  # of a row, before what it holds
_SHOWN = {"most": 8, "length": 300}  # columns and characters of a listed row


@dataclass(repr=False)
class Evaluation:
    """What `evaluate` found.

    scores:    loss and metrics over all rows, as Run.evaluate returns them
    rows:      how many rows there are
    classes:   one row per class (label, of a multilabel target): class (label), rows, predicted, precision, recall, f1
    confusion: int64 [k, k], rows of true class i predicted as j; None where a row has no single class
    labels:    names of the classes [k]
    residuals: (target, prediction) float64 [m, outputs] each of a regression, every row or an even choice of them
    worst:     the rows of highest loss, worst first: row, target, prediction, its probability, loss, what it holds
    pictures:  uint8 [w, C, H, W] of the worst rows of a set of pictures
    notes:     how many of the rows were trained on, where some were
    calibration: float64 [10, 3], as `figure_calibration` takes it; None where a row has no single class
    sounds:    WAV files of the worst rows of a set of sounds
    target, unit: the name of the target, and of a regression the unit of its values, or ""
    parts:     of several targets: what was counted of each by itself, without scores and rows
    units:     of the columns of `worst` that have one
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
    calibration: Floats | None = None
    sounds: list[bytes] = field(default_factory=list)
    target: str = ""
    unit: str = ""
    parts: list["Evaluation"] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        scores = ", ".join(f"{name} {value:.4g}" for name, value in self.scores.items())
        return shown(f"<Evaluation of {self.name}, {self.rows:,} rows: {scores}>")

    def show(self, worst: int = 10) -> None:
        """Print scores, the table of classes and the worst rows."""
        for name, value in self.scores.items():
            print(say_score(name, value, self.unit))
        for note in self.notes:
            print(f"note: {shown(note)}")
        for part in self._each():
            if part.classes:
                print(f"\n{shown(part.target)}:" if self.parts else "")
                print_table(part.classes)
        if self.worst:
            print("\nrows of highest loss:")
            print_table(titled(self.worst[:worst], self.units, length=60))

    def write(self, path: str | Path, title: str) -> Path:
        """Write the page to `path` and return it."""
        pairs = [(say_name(name), say_value(name, value, self.unit)) for name, value in self.scores.items()]
        pairs.append(("rows", say_count(self.rows)))
        notes = [f"{sentence(note)}.".replace(self.name, str(file_name(self.name))) for note in self.notes]
        sections = [
            Section("Result", [tiles(sorted(pairs, key=lambda pair: "loss" in pair[0])), *notes]),
            Section("In detail", self.detail()),
            Section("Rows of highest loss", self.mistakes()),
        ]
        first = next((n for n in self.scores if n != "loss"), "loss")
        best = sentence(say_score(first, self.scores[first], self.unit))
        headline = f"{best} on {say_count(self.rows)} rows of {file_name(self.name)}."
        return Page(title, sections, headline=headline).write(path)

    def as_json(self, rows: int = 2000) -> dict[str, object]:
        """What the page of a run shows of it, as values that JSON holds: of a regression at most so many rows."""
        every = 1 if self.residuals is None else -(-len(self.residuals[0]) // rows)
        kept = {"scores": self.scores, "rows": self.rows, "classes": self.classes, "labels": list(self.labels),
                "worst": self.worst, "target": self.target, "unit": self.unit, "name": self.name}  # fmt: skip
        kept |= {"units": self.units, "confusion": _listed(self.confusion), "calibration": _listed(self.calibration)}
        kept["residuals"] = [part[::every].tolist() for part in self.residuals or ()]
        if self.pictures is not None:
            step = -(-max(self.pictures.shape[2:]) // 128)  # every k-th pixel of large ones
            small = np.ascontiguousarray(self.pictures[:, :, ::step, ::step])
            kept["pictures"] = [small.shape, base64.b64encode(zlib.compress(small.tobytes())).decode("ascii")]
        kept["parts"] = [part.as_json(rows) for part in self.parts]
        kept["sounds"] = [base64.b64encode(sound).decode("ascii") for sound in self.sounds]
        return kept

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> "Evaluation":
        arrays = {"confusion": np.int64, "calibration": np.float64}
        kept |= {name: np.array(kept[name], kind) for name, kind in arrays.items() if kept[name] is not None}
        if "pictures" in kept:
            shape, packed = kept["pictures"]
            kept["pictures"] = np.frombuffer(zlib.decompress(base64.b64decode(packed)), np.uint8).reshape(shape)
        pairs = tuple(np.array(values, np.float64) for values in kept["residuals"])
        kept |= {"labels": tuple(kept["labels"]), "residuals": pairs or None}
        parts = [cls.from_json(part) for part in kept.get("parts", ())]
        return cls(**kept | {"sounds": [base64.b64decode(sound) for sound in kept["sounds"]], "parts": parts})

    def held_out(self, score: str | None) -> Judged:
        """What the page of a run shows of its held-out rows."""
        return Judged(self.rows, self.detail(), self.mistakes(), self.interval(score or ""), self.chance(), self.unit)

    def _each(self) -> list["Evaluation"]:
        return self.parts or [self]

    def detail(self) -> list[Part]:
        """The figures and the table of classes, of each target."""
        found: list[Part] = []
        for part in self._each():
            found += part.figures(f" of {part.target}" if self.parts else "")
            if part.classes:
                by = part.target if self.parts else next(iter(part.classes[0]))
                found.append(table_html(Grid.of(part.classes), caption=f"By {by}"))
        return found

    def chance(self) -> str:
        """What one same answer for all rows would reach: the commonest class, or the mean of one number."""
        if self.parts:
            return " ".join(f"{part.target}: {said}" for part in self.parts if (said := part.chance()))
        if self.confusion is not None and self.confusion.any():
            rows = self.confusion.sum(1)
            return f"Always '{self.labels[rows.argmax()]}' would be right on {say_share(rows.max() / rows.sum())}."
        if self.residuals is None or self.residuals[0].shape[1] > 1:
            return ""
        mean = self.residuals[0].mean()
        said = f"{np.datetime64(round(mean), 'D')}" if self.unit == DATES else say_off(mean, self.unit)
        away = say_off(np.abs(self.residuals[0] - mean).mean(), self.unit)
        return f"Always the mean, {said}, would be off by {away} on average."

    def interval(self, score: str) -> tuple[float, float] | None:
        """The 95% interval of a score that counts the rows of classes, or of one of a regression of one number; None
        for other scores, and where rows weigh."""
        name = split_score(score)[1]
        if self.confusion is not None and self.confusion.any():
            found = of_classes(name, self.confusion)
        elif self.residuals is not None and self.residuals[0].shape == (self.rows, 1):
            true, guess = (part[:, 0] * (DAY if self.unit == DATES else 1.0) for part in self.residuals)
            found = of_numbers(name, true, guess)
        else:
            return None
        return found[1:] if found and np.isclose(found[0], self.scores.get(name, np.nan), rtol=1e-4) else None

    def mistakes(self) -> list[Part]:
        """The rows of highest loss: as pictures or sounds, where they are that, and as a table."""
        if not self.worst:
            return []
        rows, captions = table_html(Grid.of(titled(self.worst, self.units))), [_caption(row) for row in self.worst]
        listed: list[Part] = [folded("The same as a table", rows) if self.pictures is not None or self.sounds else rows]
        if self.pictures is not None:
            listed.insert(0, picture_grid(self.pictures, captions[: len(self.pictures)]))
        if self.sounds:
            listed.insert(0, sound_list(self.sounds, captions[: len(self.sounds)]))
        return listed

    def figures(self, of: str = "") -> list[Figure]:
        """The confusion matrix and the calibration, or predictions and residuals of each output of a regression. of: of
        which of several targets, for titles."""
        if self.confusion is not None:
            sure = (
                [] if self.calibration is None or not self.calibration.any() else [figure_calibration(self.calibration)]
            )
            return [figure_matrix(self.confusion, self.labels, f"Confusion matrix{of}"), *sure]
        if self.residuals is None:
            return []
        target, prediction = self.residuals
        outputs = target.shape[1]
        names = (
            (self.labels or [f"{self.target or 'output'} {k + 1}" for k in range(outputs)])
            if outputs > 1
            else [self.target]
        )
        return [
            draw(target[:, k], prediction[:, k], names[k], self.unit)
            for k in range(min(outputs, 4))
            if np.isfinite(prediction[:, k]).any()
            for draw in (figure_against, figure_residuals)
        ]


def _caption(row: Row) -> str:
    """What a picture or a sound of the list is, and what it was taken for."""
    wrong = f", taken for {row['prediction']}" if row.get("prediction") != row.get("target") else ""
    sure = f" ({say_share(row['probability'])} sure)" if "probability" in row else ""
    return f"row {row['row']}: {row.get('target', '')}{wrong}{sure}"


def _listed(array: NDArray[np.generic] | None) -> object:
    return None if array is None else array.tolist()


def _as_given(found: Evaluation, column: Column | None, read: Batch) -> list[object]:
    """The numbers of the target as they are in the data: those that the model learns from are scaled, in float32."""
    if found.residuals is None or column is None or column.kind != "number" or column.dates or column.shape:
        return []
    return list(read.tensor(found.target).tolist())


def _apart(name: str) -> str:
    """The name of a column, told from what else is listed of a row."""
    return f"column '{name}'" if name in _LISTED else name


def _counted(tally: Tally, name: str, rows: int, scores: dict[str, float]) -> Evaluation:
    """What was counted, of each target too."""
    target = tally.pipeline.target
    return Evaluation(
        name, scores, rows, tally.classes(), tally.confusion, tally.labels, tally.residuals(),
        calibration=tally.calibration, target=target.column if target else "", unit=tally.unit,
        parts=[_counted(part, name, rows, {}) for part in tally.parts],
    )  # fmt: skip


def evaluate(
    objective: Objective, pipeline: Pipeline, batches: Batches, raw: Source | None = None, ranks: Ranks = ALONE
) -> Evaluation:
    """Score a model on every row of `batches` (with the target), in one pass, and keep what a page shows of it.

    raw: the rows before preprocessing, where `batches` does not hold them; ranks: that share the rows, and find the
    same. Raises what Objective.evaluate raises.
    """
    details = Details(objective, pipeline)
    repeated = Repeated(pipeline.seen)
    scores = evaluate_rows(objective, repeated.among(batches.epoch(512, ranks.share)), details, ranks)
    details.of_all(ranks)
    source = raw or batches.source
    found = _counted(details.tally, source.name, len(source), scores)
    found.notes = [*repeated.of(source, "rows", ranks.gather_bytes), *details.lost.of(source, ranks)]
    ids = np.array([wrong.row for wrong in details.worst], dtype=np.int64)
    if len(ids):
        with drawing("look"):
            read, files = source.take(ids), file_names(source.where)
        holds = contents(source, read, pipeline.uses, **_SHOWN)
        true = _as_given(found, source.columns.get(found.target), read)
        for i, (wrong, row) in enumerate(zip(details.worst, original_rows(source, ids).tolist(), strict=True)):
            known = {"target": true[i] if true else wrong.target, "prediction": wrong.prediction}
            known |= {"probability": wrong.sure, "loss": wrong.loss}
            known |= {"file": files[wrong.row]} if len(files) == len(source) else {}
            listed = {"row": row, **known, **{_apart(name): values[i] for name, values in holds.items()}}
            found.worst.append({name: value for name, value in listed.items() if value is not None})
        of_target = {"target": found.unit, "prediction": found.unit} if found.unit not in ("", DATES) else {}
        found.units = {_apart(name): unit for name, unit in units_of(source, holds).items()} | of_target
        kinds = {source.columns[name].kind: name for name in reversed(pipeline.uses)}
        found.pictures = pictures_of(read, kinds["image"]) if "image" in kinds else None
        found.sounds = sounds_of(read, kinds["audio"], source.columns[kinds["audio"]]) if "audio" in kinds else []
    return found
