"""The course of a run as figures: scores, learning rate, batch, speed."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from handful.base.score import has_direction, lower_is_better
from handful.report.figure import Figure, figure_lines
from handful.report.traces import Floats, Line, Marker
from handful.report.words import DATES, DAY, OFF, as_float, is_share, say_name, say_value, sentence, split_score

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
    """The mean over a tenth of the points, as many before each as behind it, so that it does not lag (at the ends over
    fewer); None for few points, and where some are not finite."""
    n = len(y)
    if n < SMOOTHED or not np.isfinite(y).all():
        return None
    around = [min(k, n - 1 - k, n // 20) for k in range(n)]
    return np.array([y[k - r : k + r + 1].mean() for k, r in enumerate(around)])


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
