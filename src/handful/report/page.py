"""The page of a run: what came out, how it went, every choice that was made and why."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from handful.base.plan import Choice
from handful.base.score import has_direction, lower_is_better
from handful.report.document import Page, Part, Section
from handful.report.figure import Figure, figure_lines
from handful.report.markup import bullet_list, choices_html, tiles
from handful.report.traces import Floats, Line, Marker
from handful.report.words import (
    as_float,
    is_share,
    say_count,
    say_name,
    say_number,
    say_score,
    say_seconds,
    say_value,
    sentence,
    split_score,
)

History = Sequence[Mapping[str, object]]
Scores = Mapping[str, object]

AXES = {"examples": "position", "steps": "step", "epochs": "epoch", "seconds": "seconds"}
SETS = {"train": "training rows", "valid": "held-out rows", "test": "test rows"}
SETTINGS = {"lr": "learning rate", "batch": "batch"}
FIRST = ("valid", "test", "", "train")  # whose score is named first


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    plan: Mapping[str, Choice],
    history: History,
    scores: Scores,
    stopped_because: str,
    notes: Sequence[str] = (),
    details: Sequence[Part] = (),
    pictures: Sequence[Markup] = (),
) -> Path:
    """Write the page of a run to `path` (one HTML file that opens offline) and return the path.

    plan: its choices by name; history: the run's rows, as in history.jsonl; scores: the final ones by name
    ("valid_accuracy"; "valid_rows" is the number of held-out rows); details: further figures and tables; pictures: from
    picture_grid.
    """
    drawn: list[Part] = [*curves(history)] or ["The run logged nothing to draw."]
    sections = [
        Section("Result", [_result(history, scores)]),
        Section("The run", [*drawn, *_constants(history)]),
        Section("In detail", details),
        Section("Pictures", pictures),
        Section("Choices", [choices_html(plan)]),
        Section("Notes", [bullet_list(notes)] if notes else []),
    ]
    return Page(title, sections, headline=headline(history, scores, stopped_because)).write(path)


def headline(history: History, scores: Scores, stopped_because: str = "") -> str:
    """The result in one sentence.

    >>> headline([{"epoch": 24.0, "seconds": 12.2}], {"valid_accuracy": 0.978, "valid_rows": 180}, "plateau")
    'Accuracy 97.8% on 180 held-out rows after 24 epochs, 12 s; stopped because plateau.'
    """
    name = main_score(scores)
    said = sentence(say_score(name, scores[name])) if name else "No score"
    if name and split_score(name)[0] == "valid":
        said += (
            f" on {say_count(scores['valid_rows'])} held-out rows" if "valid_rows" in scores else " on held-out rows"
        )
    last = history[-1] if history else {}
    epochs, seconds = as_float(last.get("epoch")), as_float(last.get("seconds"))
    spent = []
    if math.isfinite(epochs):
        text = say_number(round(epochs, 2 if epochs < 10 else 1))
        spent.append(f"{text} epoch" if text == "1" else f"{text} epochs")
    if math.isfinite(seconds):
        spent.append(say_seconds(seconds))
    said += f" after {', '.join(spent)}" if spent else ""
    why = stopped_because.strip().rstrip(".")
    return f"{said}; stopped because {why}." if why else f"{said}."


def main_score(scores: Scores) -> str | None:
    """The score to name first: a held-out one before a test or training one, and any before a loss."""

    def rank(name: str) -> tuple[int, bool]:
        which, metric = split_score(name)
        return FIRST.index(which), metric == "loss"

    return min((name for name in scores if not name.endswith("_rows")), key=rank, default=None)


def column(history: History, name: str) -> tuple[NDArray[np.int64], Floats]:
    """(indices of the rows that have `name`, its values there); what is not a number is NaN."""
    kept = np.array([i for i, row in enumerate(history) if name in row], dtype=np.int64)
    return kept, np.array([as_float(history[i][name]) for i in kept.tolist()], dtype=np.float64)


def curves(history: History) -> list[Figure]:
    """The figures of a run, for what its history holds: loss, other scores, learning rate, batch, speed."""
    xs = _positions(history)
    if not xs:
        return []
    names = dict.fromkeys(name for row in history for name in row)
    metrics = dict.fromkeys(split_score(n)[1] for n in names if split_score(n)[0] and not n.endswith("_rows"))
    figures = [_score_figure(history, m, xs) for m in sorted(metrics, key=lambda m: m != "loss")]
    for name in ("lr", "batch"):
        kept, y = column(history, name)
        if len(np.unique(y)) > 1:
            words, is_batch = SETTINGS[name], name == "batch"
            line, log = Line(words, _pick(xs, kept), y, steps=is_batch), is_batch and _spans_decades(y)
            figures.append(figure_lines(sentence(words), "", words, [line], log_y=log, from_zero=True))
    kept, rate = speed(history)
    if len(kept):
        line = Line("examples per second", _pick(xs, kept), rate)
        figures.append(figure_lines("Speed", "", "examples per second", [line], from_zero=True))
    return figures


def _positions(history: History) -> dict[str, Floats]:
    """Every measure of progress that the history holds, by the name the reader sees."""
    xs = {label: np.array([as_float(row.get(key)) for row in history]) for label, key in AXES.items()}
    found = {label: values for label, values in xs.items() if np.isfinite(values).any()}
    return found or ({"rows": np.arange(1.0, len(history) + 1)} if history else {})


def _pick(xs: Mapping[str, Floats], kept: NDArray[np.int64]) -> dict[str, Floats]:
    return {label: values[kept] for label, values in xs.items()}


def _spans_decades(*ys: Floats) -> bool:
    """True where all finite values are positive and the largest is more than ten times the smallest."""
    values = np.concatenate(ys)
    values = values[np.isfinite(values)]
    return bool(len(values) and values.min() > 0 and values.max() > 10 * values.min())


def _score_figure(history: History, metric: str, xs: Mapping[str, Floats]) -> Figure:
    found = {which: column(history, f"{which}_{metric}") for which in SETS}
    found = {which: (kept, y) for which, (kept, y) in found.items() if len(kept)}
    lines = [Line(SETS[which], _pick(xs, kept), y, points=which != "train") for which, (kept, y) in found.items()]
    markers = []
    kept, y = found.get("valid", (np.empty(0, np.int64), np.empty(0)))
    best = _best(metric, y) if np.isfinite(y).sum() > 1 else None
    if best is not None:
        at = {label: float(values[kept[best]]) for label, values in xs.items()}
        markers.append(Marker(f"best {say_value(metric, y[best])}", at, float(y[best])))
    title, is_loss = sentence(say_name(metric)), metric == "loss"
    log = is_loss and _spans_decades(*(y for _, y in found.values()))
    return figure_lines(
        title, "", title.lower(), lines, log_y=log, markers=markers, percent=is_share(metric), wide=is_loss
    )


def _best(metric: str, y: Floats) -> int | None:
    """The index of the best finite value; None for a score of which it is not known which way is better."""
    if not has_direction(metric):
        return None
    sign = 1 if lower_is_better(metric) else -1
    return int(np.where(np.isfinite(y), sign * y, np.inf).argmin())


def speed(history: History) -> tuple[NDArray[np.int64], Floats]:
    """(rows, examples per second up to each): as logged, or else from positions and seconds between rows."""
    kept, logged = column(history, "examples_per_second")
    if len(kept):
        return kept, logged
    examples, time = (np.diff([as_float(row.get(key)) for row in history]) for key in ("position", "seconds"))
    good = np.flatnonzero((time > 0) & (examples > 0))
    return good + 1, examples[good] / time[good]


def _constants(history: History) -> list[str]:
    """A sentence for what never changed, so that no figure is missed."""
    columns = {words: column(history, name)[1] for name, words in SETTINGS.items()}
    out = [f"The {words} was {say_number(y[0])} throughout." for words, y in columns.items() if len(np.unique(y)) == 1]
    return [" ".join(out)] if out else []


def _result(history: History, scores: Scores) -> Part:
    """The scores, and what the run took, in large."""
    pairs = [(say_name(n), say_value(n, v)) for n, v in scores.items() if not n.endswith("_rows")]
    pairs.sort(key=lambda pair: "loss" in pair[0])
    last = history[-1] if history else {}
    if "seconds" in last:
        pairs.append(("time", say_seconds(last["seconds"])))
    pairs += [
        (name, say_count(last[key])) for name, key in (("examples", "position"), ("steps", "step")) if key in last
    ]
    total, taken = as_float(last.get("position")), as_float(last.get("seconds"))
    if len(speed(history)[0]) and taken > 0:
        pairs.append(("examples/s", say_count(total / taken)))
    return tiles(pairs) if pairs else "The run logged no scores."
