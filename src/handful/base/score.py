"""Scores by name: which way is better, and where a history got better."""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from handful.base.errors import HandfulError, did_you_mean

Better = Literal["auto", "higher", "lower"]
History = Sequence[Mapping[str, Any]]

_LOWER = {
    *(
        "loss",
        "error",
        "mae",
        "mse",
        "rmse",
        "rmsle",
        "mape",
        "perplexity",
        "wer",
        "cer",
        "ece",
        "brier",
        "nll",
    ),
    *("bits", "entropy", "deviance", "distance", "divergence"),
}
_HIGHER = {
    *(
        "accuracy",
        "precision",
        "recall",
        "f1",
        "auroc",
        "auc",
        "auprc",
        "ap",
        "map",
        "r2",
        "bleu",
        "rouge",
        "chrf",
    ),
    *("iou", "dice", "kappa", "mcc", "ndcg", "mrr", "sensitivity", "specificity", "correlation", "pearson"),
    *("spearman", "likelihood", "psnr", "ssim"),
}
_NOT_SCORES = {"step", "position", "epoch", "seconds", "batch", "micro_batch", "lr"}


def lower_is_better(name: str, better: Better = "auto") -> bool:
    """Whether a lower value of the score is better; read off its name unless `better` says it.

    The last word of the name that is known decides: "valid_balanced_accuracy" is better higher,
    "train_log_loss" lower. Raises HandfulError where no word is known.

    >>> lower_is_better("valid_loss"), lower_is_better("valid_top5"), lower_is_better("gain", "higher")
    (True, False, False)
    """
    if better not in ("auto", "higher", "lower"):
        raise HandfulError(f"better must be 'higher', 'lower' or 'auto', not {better!r}.")
    if better != "auto":
        return better == "lower"
    for word in reversed(re.split(r"[^a-z0-9]+", name.lower())):
        if word in _LOWER:
            return True
        if word in _HIGHER or re.fullmatch(r"top\d+", word):
            return False
    near = difflib.get_close_matches(name.lower().split("_", 1)[-1], [*_LOWER, *_HIGHER], n=1)
    meant = f"did you mean '{name.split('_', 1)[0]}_{near[0]}'? If not, " if near and "_" in name else ""
    raise HandfulError(
        f"It is not known whether '{name}' is better when higher or lower: {meant}say better='higher' or 'lower'."
    )


def improvements(
    history: History, score: str, better: Better = "auto", min_delta: float = 0.0
) -> list[tuple[int, float, bool]]:
    """(row, value, improved) of each row that has the score: by more than min_delta on the best before it.

    NaN and an infinitely bad value never improve. Raises HandfulError if the runs of its kind (train, valid)
    were logged, but never this score.
    """
    # A rule is asked at every step and the history grows only now and then, so the last answer is kept.
    asked = (score, better, min_delta)
    seen = _SEEN.get(asked)
    if seen and seen[0] is history and seen[1] == len(history) and (not history or seen[2] is history[-1]):
        return seen[3]
    sign = 1.0 if lower_is_better(score, better) else -1.0
    found: list[tuple[int, float, bool]] = []
    top = math.inf
    for index, row in enumerate(history):
        if score in row:
            value = sign * float(row[score])
            improved = value < top - min_delta
            top = value if improved else top
            found.append((index, float(row[score]), improved))
    if not found:
        _refuse_unknown(history, score)
    if len(_SEEN) > 64:
        _SEEN.clear()
    _SEEN[asked] = (history, len(history), history[-1] if history else None, found)
    return found


_SEEN: dict[tuple[str, Better, float], tuple[History, int, Any, list[tuple[int, float, bool]]]] = {}


def best(history: History, score: str, better: Better = "auto") -> tuple[int, float] | None:
    """(row, value) of the best evaluation of a score, the first of equals; None if there is none.

    NaN and an infinitely bad value are never best.

    >>> best([{"valid_loss": 0.5}, {"train_loss": 1.0}, {"valid_loss": float("nan")}], "valid_loss")
    (0, 0.5)
    """
    rows = [(index, value) for index, value, improved in improvements(history, score, better) if improved]
    return rows[-1] if rows else None


def _refuse_unknown(history: History, score: str) -> None:
    kind = score.split("_")[0] + "_" if score.startswith(("train_", "valid_", "test_")) else "valid_"
    names = {name for row in history for name in row} - _NOT_SCORES
    if any(name.startswith(kind) for name in names):
        raise HandfulError(f"The run has no score '{score}'.{did_you_mean(score, names)}")
