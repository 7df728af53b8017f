"""How far a score is from what other such rows would give: its 95% interval."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from handful.report.truth import interval
from handful.runs.judge.tally import Floats

SAMPLES, FEWEST = 1000, 10  # of the rows, with replacement; rows of which samples tell something
Found = tuple[float, float, float]  # the score, and the ends of its interval


def _correlation(right: Floats, true: Floats, said: Floats) -> float:
    """Matthews' coefficient of several classes (Gorodkin 2004)."""
    n, r = true.sum(), right.sum()
    spread = (n**2 - (said**2).sum()) * (n**2 - (true**2).sum())
    return float((r * n - (true * said).sum()) / np.sqrt(spread)) if spread > 0 else 0.0


BY_CLASS: dict[str, Callable[[Floats, Floats, Floats], float]] = {  # by the rows of each class [k]: how many are right,
    "accuracy": lambda right, true, said: right.sum() / true.sum(),  # how many there are, and how many are said to be
    "f1": lambda right, true, said: (2 * right / (true + said)).mean(),
    "precision": lambda right, true, said: (right / np.maximum(said, 1)).mean(),
    "recall": lambda right, true, said: (right / np.maximum(true, 1)).mean(),
    "iou": lambda right, true, said: (right / (true + said - right)).mean(),
    "balanced_accuracy": lambda right, true, said: (right[true > 0] / true[true > 0]).mean(),
    "mcc": _correlation,
}
BY_ROW: dict[str, Callable[[Floats, Floats], float]] = {
    "mae": lambda true, guess: np.abs(guess - true).mean(),
    "mse": lambda true, guess: ((guess - true) ** 2).mean(),
    "rmse": lambda true, guess: np.sqrt(((guess - true) ** 2).mean()),
    "r2": lambda true, guess: 1 - ((guess - true) ** 2).mean() / (true.var() or np.nan),
}


def of_classes(name: str, confusion: NDArray[np.int64]) -> Found | None:
    """Of a score that a confusion matrix [k, k] of true by predicted class tells, the mean over the classes that occur
    in either: by Wilson of the accuracy, by the bootstrap (Efron 1979) of the others. None for other scores, and where
    samples tell nothing: of fewer than FEWEST rows, and where all are right, as all samples of them are.

    >>> of_classes("recall", np.array([[8, 2], [0, 10]])), of_classes("recall", np.diag([10, 10]))
    ((0.9, 0.75, 1.0), None)
    """
    if name not in BY_CLASS:
        return None
    cells = np.nonzero(confusion)
    counts, k, rng = confusion[cells], len(confusion), np.random.default_rng(0)

    def score(counts: NDArray[np.int64]) -> float:
        true, said = (np.bincount(axis, counts, k).astype(np.float64) for axis in cells)
        right = np.bincount(cells[0], counts * (cells[0] == cells[1]), k).astype(np.float64)
        there = true + said > 0
        return float(BY_CLASS[name](right[there], true[there], said[there]))

    rows = int(counts.sum())
    if name == "accuracy":
        low, high = interval(np.trace(confusion), rows)
        return score(counts), float(low), float(high)
    return _between(score(counts), rows, lambda: score(rng.multinomial(rows, counts / rows)))


def of_numbers(name: str, true: Floats, guess: Floats) -> Found | None:
    """Of a score of a regression [rows], by the bootstrap; None for other scores, and where samples tell nothing."""
    if name not in BY_ROW:
        return None
    rng, score, rows = np.random.default_rng(0), BY_ROW[name], len(true)

    def sample() -> float:
        some = rng.integers(0, rows, rows)
        return float(score(true[some], guess[some]))

    return _between(float(score(true, guess)), rows, sample)


def _between(score: float, rows: int, sample: Callable[[], float]) -> Found | None:
    if rows < FEWEST:
        return None
    low, high = np.quantile([sample() for _ in range(SAMPLES)], [0.025, 0.975])
    return (score, float(low), float(high)) if low < high else None
