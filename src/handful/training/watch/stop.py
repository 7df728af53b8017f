"""When a run stops: rules that are pure functions of its progress, combined with `|` (either) and `&` (both).

    steps(10_000)    epochs(50)    examples(1e6)    seconds(600)
    loss_below(0.1)    reaches("valid_accuracy", 0.94)    plateau(5)
    epochs(50) | plateau(5)                         "epochs(50) | plateau(5)" means the same

A rule is called with a `Progress` and returns the reason to stop, as a sentence without its full stop, or
None. The history's rows are dicts; the scores in them are `train_loss`, `valid_loss`, `valid_accuracy` and
so on. An evaluation, for a score, is a row that has it.
"""

import math
import re
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from handful.base import expression
from handful.base.errors import HandfulError
from handful.base.expression import Count, Expression, NotNegative, Number, Positive, ScoreName
from handful.base.plan import Progress
from handful.base.score import Better, History, Watching, best, improvements, lower_is_better, remembered

__all__ = ["Rule", "as_rule", "epochs", "examples", "loss_below", "parse", "plateau", "reaches", "seconds", "steps"]


class Rule(Expression):
    """A reason to stop. Frozen, a pure function of `Progress`; `str(rule)` is text that `parse` reads back."""

    @abstractmethod
    def __call__(self, progress: Progress) -> str | None:
        """Why the run should stop now, or None."""

    def limit(self, examples: int, batch: int | None = None) -> int | None:
        """The number of examples after which this rule is sure to stop the run, or None if there is none.

        examples: rows in one epoch; batch: rows in one step, or None if not known yet (then `steps` has no limit).
        """
        return None

    def silent_until(self, progress: Progress, batch: int | None = None) -> float:
        """The position before which it stops no run whose history stays as it is, in steps of `batch` rows (None: of
        various sizes). It is asked at every step from there on; one of the caller's own at all of them."""
        return 0

    def time(self) -> float | None:
        """The seconds after which this rule is sure to stop the run, or None if there are none."""
        return None

    @property
    def scores(self) -> frozenset[str]:
        """The names of the scores it looks at."""
        return frozenset()

    def __or__(self, other: "Rule") -> "Rule":
        return either((self, other)) if isinstance(other, Rule) else NotImplemented

    def __and__(self, other: "Rule") -> "Rule":
        return both((self, other)) if isinstance(other, Rule) else NotImplemented


class OfScores(Rule):
    """A rule that looks at scores alone, so that it stays as it is until there are new ones."""

    def silent_until(self, progress: Progress, batch: int | None = None) -> float:
        return math.inf if self(progress) is None else 0


@dataclass(frozen=True)
class steps(Rule):
    """Stop after `n` updates.

    >>> steps(100)(Progress(position=6400, step=100, examples=1000))
    'reached 100 steps'
    """

    n: Count

    def __call__(self, progress: Progress) -> str | None:
        return _reached(self.n, "step") if progress.step >= self.n else None

    def limit(self, examples: int, batch: int | None = None) -> int | None:
        return None if batch is None else self.n * batch

    def silent_until(self, progress: Progress, batch: int | None = None) -> float:
        return 0 if batch is None else progress.position + (self.n - progress.step) * batch


@dataclass(frozen=True)
class epochs(Rule):
    """Stop after `n` passes over the training rows; 0.5 is half a pass.

    >>> epochs(2)(Progress(position=2000, step=20, examples=1000))
    'reached 2 epochs'
    """

    n: Positive

    def __call__(self, progress: Progress) -> str | None:
        return _reached(self.n, "epoch") if progress.position >= self.limit(progress.examples) else None

    def limit(self, examples: int, batch: int | None = None) -> int:
        return max(1, math.ceil(round(self.n * examples, 6)))  # 0.7 * 10 is a hair above 7

    def silent_until(self, progress: Progress, batch: int | None = None) -> float:
        return self.limit(progress.examples)


@dataclass(frozen=True)
class examples(Rule):
    """Stop after `n` examples, each counted as often as it was used.

    >>> examples(1e6).limit(1000)
    1000000
    """

    n: Count

    def __call__(self, progress: Progress) -> str | None:
        return _reached(self.n, "example") if progress.position >= self.n else None

    def limit(self, examples: int, batch: int | None = None) -> int:
        return self.n

    def silent_until(self, progress: Progress, batch: int | None = None) -> float:
        return self.n


@dataclass(frozen=True)
class seconds(Rule):
    """Stop after `s` seconds of training and of what is measured for it; to read the data comes before.

    >>> seconds(60)(Progress(position=0, step=0, examples=10, seconds=61.5))
    'reached 60 seconds'
    """

    s: Positive

    def __call__(self, progress: Progress) -> str | None:
        return _reached(self.s, "second") if progress.seconds >= self.s else None

    def time(self) -> float:
        return self.s


@dataclass(frozen=True)
class loss_below(OfScores):
    """Stop when the latest logged `train_loss` is below `x`; for the validation loss see `reaches`.

    >>> loss_below(0.1)(Progress(0, 9, 10, history=[{"step": 9, "train_loss": 0.09}]))
    'train_loss 0.09 is below 0.1'
    """

    x: Number

    @remembered
    def __call__(self, progress: Progress) -> str | None:
        losses = (row["train_loss"] for row in reversed(progress.history) if "train_loss" in row)
        loss = next(losses, math.inf)
        return f"train_loss {loss:.4g} is below {self.x:g}" if loss < self.x else None

    @property
    def scores(self) -> frozenset[str]:
        return frozenset(["train_loss"])


@dataclass(frozen=True)
class reaches(OfScores):
    """Stop once the score `name` has been as good as `value` in any evaluation so far.

    It knows that a loss or an error is better when lower and an accuracy when higher; for a score of your own, set
    `better="higher"` or `"lower"`. At the first evaluation a name that the history does not have is an error.

    >>> row = {"epoch": 7.0, "valid_accuracy": 0.9412}
    >>> reaches("valid_accuracy", 0.94)(Progress(position=70, step=9, examples=10, history=[row]))
    'valid_accuracy reached 0.94 (0.9412 at epoch 7)'
    """

    name: ScoreName
    value: Number
    better: Better = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        lower_is_better(self.name, self.better)

    @remembered
    def __call__(self, progress: Progress) -> str | None:
        top = best(progress.history, self.name, self.better)
        if top is None:
            return None
        good = top[1] <= self.value if lower_is_better(self.name, self.better) else top[1] >= self.value
        return f"{self.name} reached {self.value:g} ({_where(progress.history, *top)})" if good else None

    @property
    def scores(self) -> frozenset[str]:
        return frozenset([self.name])


@dataclass(frozen=True)
class plateau(Watching, OfScores):
    """Stop when a score has not improved by more than `min_delta` for `patience` evaluations in a row.

    score: "auto" is `valid_loss`, which moves at every evaluation where an accuracy may stand still; a run
    without validation rows must name a score that it logs, such as "train_loss". NaN is never an
    improvement. An early stop in the sense of Prechelt (1998), "Early stopping - but when?", rule UP.

    >>> rows = [{"epoch": float(e), "valid_loss": v} for e, v in enumerate([0.5, 0.3, 0.4, 0.35])]
    >>> plateau(2)(Progress(0, 0, 10, history=rows))
    'valid_loss has not improved for 2 evaluations (best 0.3 at epoch 1)'
    """

    patience: Count
    score: ScoreName = "auto"
    min_delta: NotNegative = 0.0
    better: Better = "auto"

    @remembered
    def __call__(self, progress: Progress) -> str | None:
        history = progress.history
        if progress.restarted:  # patience begins again, too
            history = [row for row in history if row["position"] > progress.restarted]
        seen = improvements(history, self.name, self.better, self.min_delta)
        stale = len(seen)
        why = "it was never a number"
        for count, (index, value, improved) in enumerate(seen, start=1):
            if improved:
                stale, why = len(seen) - count, f"best {_where(history, index, value)}"
        if stale < self.patience:
            return None
        return f"{self.name} has not improved for {_count(stale, 'evaluation')} ({why})"


@dataclass(frozen=True)
class _Many(Rule):
    rules: tuple[Rule, ...]

    def __post_init__(self) -> None:
        # a chain of one kind is one rule, so that (a | b) | c and a | (b | c) are equal
        flat = [one for rule in self.rules for one in (rule.rules if type(rule) is type(self) else (rule,))]
        object.__setattr__(self, "rules", tuple(flat))

    @property
    def scores(self) -> frozenset[str]:
        return frozenset().union(*(rule.scores for rule in self.rules))


@dataclass(frozen=True)
class either(_Many):
    """Stop when any of the rules does; written `a | b`.

    >>> str(epochs(50) | plateau(5) & steps(100))
    'epochs(50) | plateau(5) & steps(100)'
    """

    def __call__(self, progress: Progress) -> str | None:
        return next(filter(None, (rule(progress) for rule in self.rules)), None)

    def limit(self, examples: int, batch: int | None = None) -> int | None:
        limits = [rule.limit(examples, batch) for rule in self.rules]
        return min((n for n in limits if n is not None), default=None)

    def time(self) -> float | None:
        return min((s for rule in self.rules if (s := rule.time()) is not None), default=None)

    def silent_until(self, progress: Progress, batch: int | None = None) -> float:
        return min(rule.silent_until(progress, batch) for rule in self.rules)

    def __str__(self) -> str:
        return " | ".join(map(str, self.rules))


@dataclass(frozen=True)
class both(_Many):
    """Stop when all of the rules do; written `a & b`."""

    def __call__(self, progress: Progress) -> str | None:
        reasons = [reason for rule in self.rules if (reason := rule(progress))]
        return " and ".join(reasons) if len(reasons) == len(self.rules) else None

    def limit(self, examples: int, batch: int | None = None) -> int | None:
        limits = [rule.limit(examples, batch) for rule in self.rules]
        known = [n for n in limits if n is not None]
        return max(known) if len(known) == len(limits) else None

    def time(self) -> float | None:
        known = [s for rule in self.rules if (s := rule.time()) is not None]
        return max(known) if len(known) == len(self.rules) else None

    def silent_until(self, progress: Progress, batch: int | None = None) -> float:
        return max(rule.silent_until(progress, batch) for rule in self.rules)

    def __str__(self) -> str:
        return " & ".join(f"({rule})" if isinstance(rule, either) else str(rule) for rule in self.rules)


_KNOWN: dict[str, Callable[..., Rule]] = {
    rule.__name__: rule for rule in (steps, epochs, examples, seconds, loss_below, reaches, plateau)
}


def parse(text: str) -> Rule:
    """The rule that a text describes, the inverse of `str(rule)`; HandfulError names the place in the text.

    >>> parse("epochs(50) | plateau(5)") == epochs(50) | plateau(5)
    True
    """
    return expression.parse(text, _KNOWN, "stop rule")


def as_rule(until: Rule | str | float) -> Rule:
    """A rule as it is, a text parsed, and a plain number (also as text) as that many epochs.

    >>> as_rule(50), as_rule("50") == as_rule("epochs(50)")
    (epochs(n=50), True)
    """
    match until:
        case Rule():
            return until
        case str():
            plain = re.fullmatch(r"\s*\d+(\.\d*)?\s*", until)
            return epochs(float(until) if "." in until else int(until)) if plain else parse(until)
        case bool():
            pass
        case int() | float():
            return epochs(until)
    known = ", ".join(_KNOWN)
    raise HandfulError(f"until must be a stop rule ({known}), its text or a number of epochs, not {until!r}")


def _reached(n: float, unit: str) -> str:
    return f"reached {_count(n, unit)}"


def _count(n: float, noun: str) -> str:
    text = f"{n:,}" if isinstance(n, int) else f"{n:,g}"
    return f"{text} {noun}{'' if n == 1 else 's'}"


def _where(history: History, index: int, value: float) -> str:
    row = history[index]
    if "epoch" in row:
        place = f"epoch {row['epoch']:.3g}"
    else:
        place = f"step {row['step']}" if "step" in row else f"row {index}"
    return f"{value:.4g} at {place}"
