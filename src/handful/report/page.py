"""The page of a run: what came out, how it went (scores, learning rate, batch, speed as figures), every choice that was
made and why."""

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from handful.base.plan import Choice
from handful.base.score import has_direction, lower_is_better
from handful.report.document import (
    Page,
    Part,
    Section,
    bullet_list,
    choices_html,
    folded,
    preformatted,
    table_html,
    tiles,
)
from handful.report.figure import Figure, Floats, Line, Marker, figure_lines
from handful.report.tables import Grid
from handful.report.words import (
    DATES,
    DAY,
    OFF,
    as_float,
    is_share,
    say_count,
    say_name,
    say_number,
    say_score,
    say_seconds,
    say_value,
    say_value_of,
    sentence,
    split_score,
)

History = Sequence[Mapping[str, object]]

AXES = {"examples": "position", "steps": "step", "epochs": "epoch", "seconds": "seconds"}
SETS = {"train": "training rows", "valid": "held-out rows", "test": "test rows"}
SETTINGS = {"lr": "learning rate", "batch": "batch"}
SMOOTHED = 40  # points of a training line from which on it is drawn smoothed, with the raw one behind


def column(history: History, name: str) -> tuple[NDArray[np.int64], Floats]:
    """(indices of the rows that have `name`, its values there); what is not a number is NaN."""
    kept = np.array([i for i, row in enumerate(history) if name in row], dtype=np.int64)
    return kept, np.array([as_float(history[i][name]) for i in kept.tolist()], dtype=np.float64)


def curves(history: History, unit: str = "", scores: Mapping[str, object] | None = None) -> list[Figure]:
    """The figures of a run, for what its history holds: loss, other scores, learning rate, batch, speed. unit: of the
    target; scores: of the weights that were kept, where they are known."""
    xs = _positions(history)
    if not xs:
        return []
    names = dict.fromkeys(name for row in history for name in row)
    metrics = dict.fromkeys(split_score(n)[1] for n in names if split_score(n)[0] and not n.endswith("_rows"))
    metrics = {m: None for m in metrics if any(len(column(history, f"{which}_{m}")[0]) > 1 for which in SETS)}
    at = kept_row(history, scores or {})
    figures = [_score_figure(history, m, xs, unit, at) for m in sorted(metrics, key=lambda m: m != "loss")]
    for name, words in {**SETTINGS, "noise_scale": "noise scale"}.items():
        kept, y = column(history, name)
        if len(np.unique(y)) > 1:
            is_batch = name == "batch"
            line, log = Line(words, _pick(xs, kept), y, steps=is_batch), is_batch and _spans_decades(y)
            figures.append(figure_lines(sentence(words), "", words, [line], log_y=log, from_zero=True))
    kept, rate = speed(history)
    if len(kept) > 1:
        line = Line("examples per second", _pick(xs, kept), rate, smooth=_smoothed(rate))
        figures.append(figure_lines("Speed", "", "examples per second", [line], from_zero=True))
    return figures


def curves_of(runs: Mapping[str, tuple[History, str]]) -> list[Figure]:
    """The figures of several runs, a line for each: every score that was held out, or, where none was, of training.

    runs: the history of each and the unit of its target, by its name.
    """
    names = dict.fromkeys(name for history, _ in runs.values() for row in history for name in row)
    scores = [n for n in names if split_score(n)[0] == "valid"] or [n for n in names if split_score(n)[0] == "train"]
    figures = []
    for name in sorted(scores, key=lambda n: split_score(n)[1] != "loss"):
        metric, lines = split_score(name)[1], []
        scales = {run: _scale(metric, unit) for run, (_, unit) in runs.items()}
        units = {unit for _, unit in scales.values()}
        label = _with_unit(say_name(name), units.pop() if len(units) == 1 else "")
        for run, (history, _) in runs.items():
            kept, y = column(history, name)
            scale, unit = scales[run]
            if len(kept):
                title = _with_unit(run, unit if units else "")
                lines.append(Line(title, _pick(_positions(history), kept), y / scale, points=True))
        log = split_score(name)[1] == "loss" and _spans_decades(*(np.asarray(line.y) for line in lines))
        figures.append(figure_lines(sentence(say_name(name)), "", label, lines, log_y=log, percent=is_share(name)))
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


def _score_figure(history: History, metric: str, xs: Mapping[str, Floats], unit: str, at_row: int | None) -> Figure:
    found = {which: column(history, f"{which}_{metric}") for which in SETS}
    scale, unit = _scale(metric, unit)
    found = {which: (kept, y / scale) for which, (kept, y) in found.items() if len(kept)}
    lines = [
        Line(
            SETS[which], _pick(xs, kept), y, points=which != "train", smooth=_smoothed(y) if which == "train" else None
        )
        for which, (kept, y) in found.items()
    ]
    markers = []
    kept, y = found.get("valid", (np.empty(0, np.int64), np.empty(0)))
    top = best(metric, y) if np.isfinite(y).sum() > 1 else None
    if top is not None:
        k = next(iter(np.flatnonzero(kept == at_row)), top)
        at = {label: float(values[kept[k]]) for label, values in xs.items()}
        word = "best" if y[k] == y[top] else "kept"
        markers.append(Marker(f"{word} {say_value(metric, y[k], unit)}", at, float(y[k])))
    name, is_loss = say_name(metric), metric == "loss"
    log = is_loss and _spans_decades(*(y for _, y in found.values()))
    return figure_lines(
        sentence(name), "", _with_unit(name, unit), lines, log_y=log, markers=markers, percent=is_share(metric),
        wide=is_loss,
    )  # fmt: skip


def kept_row(history: History, scores: Mapping[str, object]) -> int | None:
    """The row of the look at which the weights that were kept had these scores; None where none was such."""
    seen = {name: value for name, value in scores.items() if split_score(name)[0] == "valid"}
    rows = range(len(history)) if seen else ()
    return next((k for k in rows if all(history[k].get(name) == value for name, value in seen.items())), None)


def _scale(metric: str, unit: str) -> tuple[float, str]:
    """What the values of a score are divided by, and the unit that they have then; unit: of the target."""
    if metric not in OFF:
        return 1.0, ""
    return (DAY, "days") if unit == DATES else (1.0, unit)


def _with_unit(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit else name


def _smoothed(y: Floats) -> Floats | None:
    """The median of a tenth of the points, as many before each as behind it (at the ends of fewer), so that it lags
    behind no fall, however steep; None for few points, and where some are not finite."""
    n = len(y)
    if n < SMOOTHED or not np.isfinite(y).all():
        return None
    around = [min(k, n - 1 - k, n // 20) for k in range(n)]
    return np.array([np.median(y[k - r : k + r + 1]) for k, r in enumerate(around)])


def best(metric: str, y: Floats) -> int | None:
    """The index of the best finite value; None for a score of which it is not known which way is better."""
    if not has_direction(metric):
        return None
    sign = 1 if lower_is_better(metric) else -1
    return int(np.where(np.isfinite(y), sign * y, np.inf).argmin())


def speed(history: History) -> tuple[NDArray[np.int64], Floats]:
    """(rows, examples per second up to each): as logged, or else from positions and seconds between rows of steps; a
    look at the first weights that are evaluated is none: its time is that at which the step after it begins."""
    kept, logged = column(history, "examples_per_second")
    if len(kept):
        return kept, logged
    examples, time = (np.diff([as_float(row.get(key)) for row in history]) for key in ("position", "seconds"))
    stepped = np.array([("lr" in row) >= ("lr" in after) for row, after in pairwise(history)], dtype=bool)
    good = np.flatnonzero((time > 0) & (examples > 0) & stepped)
    return good + 1, examples[good] / time[good]


Scores = Mapping[str, object]

FIRST = ("valid", "test", "", "train")  # whose score is named first
HELD = {"valid": "held-out ", "train": ""}
SCORE = re.compile(rf"\b({'|'.join(HELD)})_\w+")
EARLY = ("it was interrupted", "it broke off", "it was cut off")  # so begins why a run ended before its rule said so


@dataclass(frozen=True)
class Judged:
    """How the weights that were kept do on the held-out rows.

    rows: how many these are; figures, mistakes: what a page shows of them; interval: the 95% interval of the score that
    is named first, where that is known; chance: what a guess without looking reaches; unit: of the target, or "".
    """

    rows: int
    figures: Sequence[Part] = ()
    mistakes: Sequence[Part] = ()
    interval: tuple[float, float] | None = None
    chance: str = ""
    unit: str = ""


def run_page(
    *, title: str, plan: Mapping[str, Choice], history: History, scores: Scores, stopped_because: str,
    notes: Sequence[str] = (), held_out: Judged | None = None, details: Sequence[Part] = (),
    pictures: Sequence[Markup] = (), spent: Sequence[Part] = (), command: str = "", reload: bool = False,
    unit: str = "",
) -> Page:  # fmt: skip
    """The page of a run.

    plan: its choices by name; history: the run's rows, as in history.jsonl; scores: the final ones by name
    ("valid_accuracy"); details: further figures and tables; pictures: from picture_grid; spent: where the time went;
    command: makes the run again; reload: of a run that goes on: the page loads itself again; unit: of the target, where
    nothing was held out.
    """
    unit, data = held_out.unit if held_out else unit, [plan[name].value for name in ("data", "valid") if name in plan]
    pairs = [*_in_words(history, scores, unit).items()]
    drawn: list[Part] = [*curves(history, unit, scores)] or ["Too little was logged to draw."]
    why = SCORE.sub(lambda of: HELD[of[1]] + say_name(of[0]), stopped_because.strip().rstrip("."))
    chance = held_out.chance if held_out else ""
    said = [text for text in (looks(history, scores, held_out), chance, why and f"Stopped: {why}.") if text]
    sections = [
        Section("Result", [tiles(pairs) if pairs else "The run logged no scores.", *said]),
        Section("The run", [*drawn, *_constants(history)]),
        Section("On the held-out rows", held_out.figures if held_out else ()),
        Section("Rows of highest loss", held_out.mistakes if held_out else ()),
        Section("In detail", details),
        Section("Pictures", pictures),
        Section("Time", spent),
        Section("Choices", [folded(f"All {len(plan)} choices, each with its reason", choices_html(_by_name(plan)))]),
        Section("The run again", [preformatted(_from_here(command))] if command else []),
        Section("Notes", [bullet_list([_whole(without_paths(note, data)) for note in notes])] if notes else []),
    ]
    rows = held_out.rows if held_out else None
    return Page(title, sections, headline=headline(history, scores, rows, unit, why), reload=reload)


def runs_page(runs: Mapping[str, tuple[Mapping[str, Choice], History, Scores, str]]) -> Page:
    """The page of several runs side by side: their scores, their curves, and the choices that differ.

    runs: the plan, the history, the final scores and the unit of the target of each, by its name.
    """
    plans = [_by_name(plan) for plan, *_ in runs.values()]
    names = list(dict.fromkeys(name for plan in plans for name in plan if name != "step_times"))  # those always differ
    values = {name: [say_value_of(plan[name].value) if name in plan else "" for plan in plans] for name in names}
    differing = [[name.replace("_", " "), *row] for name, row in values.items() if len(set(row)) > 1]
    scores = [{"run": run, **_in_words(history, found, unit)} for run, (_, history, found, unit) in runs.items()]
    sections = [
        Section("Scores", [table_html(Grid.of(scores)), "They are of held-out rows, unless 'training' stands before."]),
        Section("The runs", curves_of({run: (history, unit) for run, (_, history, _, unit) in runs.items()})),
        Section("Choices that differ", [table_html(Grid(["choice", *runs], differing))] if differing else ["None."]),
    ]
    return Page("handful report", sections, headline=f"{len(runs)} runs side by side.")


def _by_name(plan: Mapping[str, Choice]) -> dict[str, Choice]:
    """The choices with the names of files in place of their paths."""
    return {name: replace(c, value=file_name(c.value)) if name in ("data", "valid") else c for name, c in plan.items()}


def _from_here(command: str) -> str:
    """The command as it is given in the folder where the data lie: others have no use for the path to it."""
    return shlex.join(str(file_name(word)) if word.startswith("/") else word for word in shlex.split(command))


def without_paths(text: str, paths: Sequence[object]) -> str:
    """The text with the names of files in place of the paths to them.

    >>> without_paths("2 rows of /home/me/prices.csv", ["/home/me/prices.csv", "me"])
    '2 rows of prices.csv'
    """
    for path in (path for path in paths if isinstance(path, str) and path.startswith("/")):
        text = text.replace(path, str(file_name(path)))
    return text


def _whole(note: str) -> str:
    """The note as a sentence, unless it begins with the name of a file."""
    said = sentence(note) if note.partition(" ")[0].isalpha() else note
    return said if said.endswith((".", "?", "!")) else f"{said}."


def file_name(value: object) -> object:
    """Of a path or an address what comes last; anything else as it is.

    >>> file_name("/home/me/prices.csv"), file_name(0.1)
    ('prices.csv', 0.1)
    """
    return value.rstrip("/").rpartition("/")[2] if isinstance(value, str) else value


def looks(history: History, scores: Scores, held_out: Judged | None) -> str:
    """How often the held-out rows were looked at before these weights were kept, and how sure their score is.

    >>> rows = [{"valid_accuracy": 0.9, "valid_loss": 0.1}, {"valid_accuracy": 0.95, "valid_loss": 0.2}]
    >>> looks(rows, {"valid_accuracy": 0.95}, Judged(100, interval=(0.888, 0.978)))
    'The best of 2 looks at 100 held-out rows; on other such rows one expects 88.8% to 97.8% (95% interval).'
    >>> looks(rows, {"valid_accuracy": 0.9, "valid_loss": 0.1}, None)
    'Of 2 looks at the held-out rows the one whose weights were kept (the best accuracy was 95.0%).'
    """
    name = main_score(scores)
    if name is None or split_score(name)[0] != "valid":
        return ""
    seen = column(history, name)[1]
    count, top, at = len(seen), best(split_score(name)[1], seen), kept_row(history, scores)
    on = f"{say_count(held_out.rows)} held-out rows" if held_out else "the held-out rows"
    said = f"The best of {count:,} looks at {on}" if count > 1 else f"One look at {on}"
    if top is not None and at is not None and scores[name] != seen[top]:
        unit = held_out.unit if held_out else ""
        best_was = f"the best {say_name(name)} was {say_value(name, seen[top], unit)}"
        said = f"Of {count:,} looks at {on} the one whose weights were kept ({best_was})"
    if held_out and held_out.interval:
        low, high = (say_value(name, edge, held_out.unit) for edge in held_out.interval)
        said += f"; on other such rows one expects {low} to {high} (95% interval)"
    return f"{said}."


def headline(history: History, scores: Scores, rows: int | None = None, unit: str = "", why: str = "") -> str:
    """The result in one line. rows: how many were held out; unit: of the target; why: it stopped.

    >>> headline([{"epoch": 24.0, "seconds": 12.2}], {"valid_accuracy": 0.978}, 180)
    'Accuracy 97.8% on 180 held-out rows after 24 epochs, 12 s.'
    >>> headline([{"epoch": 2.0}], {"train_loss": 0.5}, why="it broke off: the loss is not finite at step 7")
    'Training loss 0.5 after 2 epochs, when it broke off.'
    """
    name = main_score(scores)
    said = sentence(say_score(name, scores[name], unit)) if name else "No score"
    if name and split_score(name)[0] == "valid":
        said += " on held-out rows" if rows is None else f" on {say_count(rows)} held-out rows"
    last = history[-1] if history else {}
    epochs, seconds = as_float(last.get("epoch")), as_float(last.get("seconds"))
    spent = []
    if math.isfinite(epochs):
        text = say_number(round(epochs, 2 if epochs < 10 else 1))
        spent.append(f"{text} epoch" if text == "1" else f"{text} epochs")
    if math.isfinite(seconds):
        spent.append(say_seconds(seconds))
    early = next((f"when {how}" for how in EARLY if why.startswith(how)), None)
    return said + (f" after {', '.join(filter(None, [*spent, early]))}." if spent else ".")


def main_score(scores: Scores) -> str | None:
    """The score to name first: a held-out one before a test or training one, and any before a loss."""

    def rank(name: str) -> tuple[int, bool]:
        which, metric = split_score(name)
        return FIRST.index(which), metric == "loss"

    return min(scores, key=rank, default=None)


def _constants(history: History) -> list[str]:
    """A sentence for what never changed, so that no figure is missed."""
    columns = {words: column(history, name)[1] for name, words in SETTINGS.items()}
    out = [f"The {words} was {say_number(y[0])} throughout." for words, y in columns.items() if len(np.unique(y)) == 1]
    return [" ".join(out)] if out else []


def _in_words(history: History, scores: Scores, unit: str = "") -> dict[str, str]:
    pairs = [(say_name(n), say_value(n, v, unit)) for n, v in scores.items()]
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
    return dict(pairs)
