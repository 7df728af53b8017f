"""The page of a run: what came out, how it went, every choice that was made and why."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handful.base.errors import HandfulError
from handful.base.plan import Choice
from handful.base.score import lower_is_better
from handful.report.document import Page, Section
from handful.report.figure import Figure, figure_lines
from handful.report.markup import Html, bullet_list, escape, table_html, tiles
from handful.report.tables import choices_of
from handful.report.traces import Line, Marker
from handful.report.words import (
    as_float,
    is_share,
    say_count,
    say_name,
    say_number,
    say_score,
    say_seconds,
    say_value,
    say_value_of,
    split_score,
)

History = Sequence[Mapping[str, Any]]

AXES = {"examples": "position", "steps": "step", "epochs": "epoch", "seconds": "seconds"}


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    plan: Any,
    history: History,
    scores: Mapping[str, Any],
    stopped_because: str,
    notes: Sequence[str] = (),
    tables: Sequence[Html] = (),
    figures: Sequence[Figure] = (),
    pictures: Sequence[Html] = (),
) -> Path:
    """Write the page of a run to `path` (one HTML file that opens offline) and return the path.

    plan: name -> Choice, or an object whose `choices` or whose attributes are; history: the run's rows, as in
    history.jsonl; scores: the final ones by name ("valid_accuracy"; "valid_rows" is the number of held-out
    rows); tables: from table_html; figures: from figure_lines and figure_matrix; pictures: from picture_grid.
    """
    parts: list[Figure | Html | str] = [*curves(history)]
    if not parts:
        parts = ["The run logged nothing to draw."]
    sections = [
        Section("Result", [_tiles(history, scores)]),
        Section("The run", [*parts, *_constants(history)]),
    ]
    if figures or tables:
        sections.append(Section("In detail", [*figures, *tables]))
    if pictures:
        sections.append(Section("Pictures", list(pictures)))
    sections.append(Section("Choices", [choices_html(choices_of(plan))]))
    if notes:
        sections.append(Section("Notes", [bullet_list(notes)]))
    return Page(title, sections, headline=headline(history, scores, stopped_because)).write(path)


def headline(history: History, scores: Mapping[str, Any], stopped_because: str = "") -> str:
    """The result in one sentence.

    >>> headline([{"epoch": 24.0, "seconds": 12.2}], {"valid_accuracy": 0.978, "valid_rows": 180}, "plateau")
    'Accuracy 97.8% on 180 held-out rows after 24 epochs, 12 s; stopped because plateau.'
    """
    name = main_score(scores)
    what = say_score(name, scores[name]) if name else "no score"
    where = ""
    if name and split_score(name)[0] == "valid":
        rows = scores.get("valid_rows")
        where = f" on {say_count(rows)} held-out rows" if rows is not None else " on held-out rows"
    last = history[-1] if history else {}
    epochs, seconds = as_float(last.get("epoch")), as_float(last.get("seconds"))
    how_long = []
    if math.isfinite(epochs):
        text = say_number(round(epochs, 2 if epochs < 10 else 1))
        how_long.append(f"{text} epoch{'' if text == '1' else 's'}")
    if math.isfinite(seconds):
        how_long.append(say_seconds(seconds))
    after = f" after {', '.join(how_long)}" if how_long else ""
    why = f"; stopped because {stopped_because.strip().rstrip('.')}" if stopped_because.strip() else ""
    return f"{what[0].upper()}{what[1:]}{where}{after}{why}."


def main_score(scores: Mapping[str, Any]) -> str | None:
    """The score to name first: a held-out one before a test or training one, and any before a loss."""
    names = [name for name in scores if not name.endswith("_rows")]
    ranked = {"valid": 0, "test": 1, "": 2, "train": 3}

    def rank(name: str) -> tuple[int, bool]:
        which, metric = split_score(name)
        return ranked[which], metric == "loss"

    return min(names, key=rank) if names else None


def choices_html(choices: Mapping[str, Choice]) -> Html:
    """The table of choices: what, its value, its status, and why."""
    rows = [
        [
            name.replace("_", " "),
            say_value_of(c.value),
            Html(f'<span class="status {escape(c.status)}">{escape(c.status)}</span>'),
            c.reason,
        ]
        for name, c in choices.items()
    ]
    if not rows:
        return Html("<p>No choices were recorded.</p>")
    return Html(f"<div class='choices'>{table_html(rows, ['choice', 'value', 'status', 'reason'])}</div>")


def column(history: History, name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(indices of the rows that have `name`, its values there); what is no number is NaN."""
    kept = [i for i, row in enumerate(history) if name in row]
    return np.array(kept, dtype=np.int64), np.array([as_float(history[i][name]) for i in kept], dtype=np.float64)


def curves(history: History) -> list[Figure]:
    """The figures of a run, for what its history holds: loss, other scores, learning rate, batch, speed."""
    xs = _positions(history)
    if not xs:
        return []
    names = dict.fromkeys(name for row in history for name in row)
    metrics = dict.fromkeys(split_score(n)[1] for n in names if split_score(n)[0] and not n.endswith("_rows"))
    figures = [_score_figure(history, m, xs) for m in sorted(metrics, key=lambda m: m != "loss")]
    for name, title in (("lr", "Learning rate"), ("batch", "Batch")):
        kept, y = column(history, name)
        if len(kept) > 1 and len(np.unique(y)) > 1:
            line = Line(title.lower(), _pick(xs, kept), y, steps=name == "batch")
            log = name == "batch" and _spans_decades(y)
            figures.append(figure_lines(title, "", title.lower(), [line], log_y=log, from_zero=True))
    kept, rate = speed(history)
    if len(kept):
        line = Line("examples a second", _pick(xs, kept), rate)
        figures.append(figure_lines("Speed", "", "examples a second", [line], from_zero=True))
    return figures


def _positions(history: History) -> dict[str, NDArray[np.float64]]:
    """Every measure of progress that the history holds, by the name the reader sees."""
    xs = {}
    for label, key in AXES.items():
        values = np.array([as_float(row.get(key)) for row in history], dtype=np.float64)
        if np.isfinite(values).any():
            xs[label] = values
    if history and not xs:
        xs["rows"] = np.arange(1.0, len(history) + 1)
    return xs


def _pick(xs: Mapping[str, NDArray[np.float64]], kept: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    return {label: values[kept] for label, values in xs.items()}


def _spans_decades(*ys: NDArray[np.float64]) -> bool:
    """True where all finite values are positive and the largest is more than ten times the smallest."""
    values = np.concatenate(ys)
    values = values[np.isfinite(values)]
    return bool(len(values) and values.min() > 0 and values.max() > 10 * values.min())


def _score_figure(history: History, metric: str, xs: Mapping[str, NDArray[np.float64]]) -> Figure:
    lines, markers, ys = [], [], []
    for which, name in (("train", "training rows"), ("valid", "held-out rows"), ("test", "test rows")):
        kept, y = column(history, f"{which}_{metric}")
        if not len(kept):
            continue
        ys.append(y)
        lines.append(Line(name, _pick(xs, kept), y, points=which != "train"))
        finite = np.isfinite(y)
        if which == "valid" and finite.sum() > 1:
            best = _best(metric, y)
            if best is None:
                continue
            at = {label: float(values[kept[best]]) for label, values in xs.items()}
            markers.append(Marker(f"best {say_value(metric, y[best])}", at, float(y[best])))
    title = say_name(metric)
    title = title[0].upper() + title[1:]
    log = metric == "loss" and _spans_decades(*ys)
    return figure_lines(
        title,
        "",
        title.lower(),
        lines,
        log_y=log,
        markers=markers,
        percent=is_share(metric),
        wide=metric == "loss",
    )


def _best(metric: str, y: NDArray[np.float64]) -> int | None:
    """The index of the best finite value; None for a score of which it is not known which way is better."""
    try:
        lower = lower_is_better(metric)
    except HandfulError:
        return None
    finite = np.isfinite(y)
    return int(np.where(finite, y, np.inf).argmin() if lower else np.where(finite, y, -np.inf).argmax())


def speed(history: History) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(rows, examples a second up to each): as logged, or else from positions and seconds between rows."""
    kept, logged = column(history, "examples_per_second")
    if len(kept):
        return kept, logged
    position = np.array([as_float(row.get("position")) for row in history], dtype=np.float64)
    seconds = np.array([as_float(row.get("seconds")) for row in history], dtype=np.float64)
    if len(history) < 2:
        return kept, logged
    examples, time = np.diff(position), np.diff(seconds)
    good = np.flatnonzero((time > 0) & (examples > 0))
    return good + 1, examples[good] / time[good]


def _constants(history: History) -> list[str]:
    """A sentence for what never changed, so that no figure is missed."""
    out = []
    for name, words in (("lr", "learning rate"), ("batch", "batch")):
        _, y = column(history, name)
        if len(y) and len(np.unique(y)) == 1:
            out.append(f"The {words} was {say_number(y[0])} throughout.")
    return [" ".join(out)] if out else []


def _tiles(history: History, scores: Mapping[str, Any]) -> Html:
    pairs = [(say_name(n), say_value(n, v)) for n, v in scores.items() if not n.endswith("_rows")]
    pairs.sort(key=lambda pair: "loss" in pair[0])
    last = history[-1] if history else {}
    for name, key, say in (
        ("time", "seconds", say_seconds),
        ("examples", "position", say_count),
        ("steps", "step", say_count),
    ):
        if key in last:
            pairs.append((name, say(last[key])))
    _, rate = speed(history)
    total, taken = as_float(last.get("position")), as_float(last.get("seconds"))
    if len(rate) and taken > 0:
        pairs.append(("examples/s", say_count(total / taken)))
    return tiles(pairs) if pairs else Html("<p>The run logged no scores.</p>")
