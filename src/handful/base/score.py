"""Scores by name: which way is better, and where a history got better."""

import difflib
import math
import re
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Literal, TypeVar

import numpy as np

from handful.base.errors import HandfulError, did_you_mean
from handful.base.expression import Expression
from handful.base.plan import Plan, Progress, Row

T = TypeVar("T")
Asked = TypeVar("Asked", bound=Expression)
Better = Literal["auto", "higher", "lower"]
History = Sequence[Row]

_LOWER = "loss|error|mae|mse|rmse|rmsle|mape|perplexity|wer|cer|ece|brier|nll|bits|entropy|deviance|distance|divergence"
_HIGHER = (
    "accuracy|precision|recall|f1|auroc|auc|auprc|ap|map|r2|bleu|rouge|chrf|iou|dice|kappa|mcc|ndcg|mrr|sensitivity|"
    r"specificity|correlation|pearson|spearman|likelihood|psnr|ssim|top\d+"
)
_NOT_SCORES = {"step", "position", "epoch", "seconds", "batch", "micro_batch", "lr"}


def lower_is_better(name: str, better: Better = "auto") -> bool:
    """Whether a lower value of the score is better; read off its name unless `better` is given.

    The last word of the name that is known decides: "valid_balanced_accuracy" is better higher,
    "train_log_loss" lower. Raises HandfulError where no word is known.

    >>> lower_is_better("valid_loss"), lower_is_better("valid_top5"), lower_is_better("gain", "higher")
    (True, False, False)
    """
    if better not in ("auto", "higher", "lower"):
        raise HandfulError(f"better must be 'higher', 'lower' or 'auto', not {better!r}")
    if better != "auto":
        return better == "lower"
    for word in reversed(re.split(r"[^a-z0-9]+", name.lower())):
        if re.fullmatch(_LOWER, word):
            return True
        if re.fullmatch(_HIGHER, word):
            return False
    near = difflib.get_close_matches(name.lower().split("_", 1)[-1], f"{_LOWER}|{_HIGHER}".split("|"), n=1)
    meant = f"did you mean '{name.split('_', 1)[0]}_{near[0]}'? If not, " if near and "_" in name else ""
    raise HandfulError(
        f"it is not known whether '{name}' is better when higher or lower: {meant}set better='higher' or 'lower'"
    )


def has_direction(name: str, better: Better = "auto") -> bool:
    """Whether it is known which way the score is better.

    >>> has_direction("valid_loss"), has_direction("valid_hits")
    (True, False)
    """
    try:
        lower_is_better(name, better)
    except HandfulError:
        return False
    return True


def direction(plan: Plan) -> Better:
    """Which way the score of a run is better: "auto" where its name says so."""
    choice = plan.choices.get("better")
    better: Better = choice.value if choice else "auto"
    return better


class Watching(Expression):
    """A rule or schedule that watches the score `score`; "auto" is `valid_loss`."""

    score: str
    better: Better

    def __post_init__(self) -> None:
        super().__post_init__()
        lower_is_better(self.name, self.better)

    @property
    def name(self) -> str:
        """The score it looks at."""
        return "valid_loss" if self.score == "auto" else self.score

    @property
    def scores(self) -> frozenset[str]:
        """The names of the scores it looks at."""
        return frozenset([self.name])


def remembered(judge: Callable[[Asked, Progress], T]) -> Callable[[Asked, Progress], T]:
    """A method that looks at nothing but the history, called anew only when that has grown.

    A rule is asked at every step and the history grows only now and then.
    """

    @wraps(judge)
    def ask(self: Asked, progress: Progress) -> T:
        history = progress.history
        last = history[-1] if history else None
        seen: tuple[History, int, object, T] | None = self.__dict__.get("_seen")
        if seen is None or seen[0] is not history or seen[1] != len(history) or seen[2] is not last:
            seen = (history, len(history), last, judge(self, progress))
            self.__dict__["_seen"] = seen  # not a field: equality and text are as before
        return seen[3]

    return ask


def improvements(
    history: History, score: str, better: Better = "auto", min_delta: float = 0.0
) -> list[tuple[int, float, bool]]:
    """(row, value, improved) of each row that has the score: by more than min_delta on the best before it.

    NaN and an infinitely bad value never improve. Raises HandfulError if the runs of its kind (train, valid)
    were logged, but never this score.
    """
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
        kind = score.split("_")[0] + "_" if score.startswith(("train_", "valid_", "test_")) else "valid_"
        names = {name for row in history for name in row} - _NOT_SCORES
        if any(name.startswith(kind) for name in names):
            raise HandfulError(f"the run has no score '{score}'.{did_you_mean(score, names)}")
    return found


def best(history: History, score: str, better: Better = "auto") -> tuple[int, float] | None:
    """(row, value) of the best evaluation of a score, the first of equals; None if there is none.

    NaN and an infinitely bad value are never best.

    >>> best([{"valid_loss": 0.5}, {"train_loss": 1.0}, {"valid_loss": float("nan")}], "valid_loss")
    (0, 0.5)
    """
    rows = [(index, value) for index, value, improved in improvements(history, score, better) if improved]
    return rows[-1] if rows else None


def steady(history: History, row: Row, began: int) -> float:
    """The mean held-out loss of an evaluation and the two before it: by few rows the lowest of many is so by chance.

    began: the position at which the run began again, or 0; evaluations up to there were of other weights.

    >>> looks = [{"position": 32 * k, "valid_loss": loss} for k, loss in enumerate([0.75, 0.25, 0.5])]
    >>> steady(looks[:2], looks[2], began=0), steady(looks[:2], looks[2], began=32)
    (0.5, 0.5)
    """
    since = [r for r in history if "valid_loss" in r and (not began or r["position"] > began)]
    before = [r["valid_loss"] for r in since if r["position"] < row["position"]]
    return float(np.mean([*before[-2:], row["valid_loss"]]))
