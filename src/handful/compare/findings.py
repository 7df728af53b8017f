"""What the runs of a comparison add up to: a target they share, a row for each method, and what can be said of them.

A sentence that names a winner is only written when every seed agrees: the worst of the winner's seeds is better than
the best of the other's. Anything less is "could not tell".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from handful.base.plan import Choice
from handful.base.score import lower_is_better
from handful.compare.experiment import Experiment, Method
from handful.compare.gradient_variance import GradientVariance
from handful.report.words import say_bytes, say_count, say_name, say_number, say_seconds, say_value

AXES = {"examples": "position", "steps": "step", "seconds": "seconds"}
SLACK = 1.1  # of the target over the lowest loss that enough methods reach


Row = dict[str, float | str]  # of the table: `method` is text, all else numbers


@dataclass(frozen=True)
class TargetScore:
    """A score to be reached, and where it comes from."""

    name: str
    value: float
    why: str

    @property
    def words(self) -> str:
        """As in "a held-out loss of 0.25"."""
        where = "held-out " if self.name.startswith("valid_") else ""
        return f"a {where}{say_name(self.name)} of {say_value(self.name, self.value)}"

    def reached(self, trial: Experiment) -> dict[str, float] | None:
        """The examples, steps and seconds at which a run first reached it; None if it did not.

        Between the last record that misses the target and the first that has it, the score is taken to be linear.
        """
        sign = 1.0 if lower_is_better(self.name) else -1.0
        over = [sign * (v - self.value) for v in trial.column(self.name)]
        first = next((i for i, v in enumerate(over) if v <= 0), None)
        if first is None:
            return None
        share = 1.0
        if first > 0 and math.isfinite(over[first - 1]):
            share = over[first - 1] / (over[first - 1] - over[first])
        before, at = trial.records[max(0, first - 1)], trial.records[first]
        return {name: before[k] + share * (at[k] - before[k]) for name, k in AXES.items()}


@dataclass
class Results:
    """What `compare` measured."""

    table: list[Row]
    runs: list[Experiment]
    findings: "list[Finding]"
    target: TargetScore
    variance: list[GradientVariance]
    tried: dict[str, list[tuple[float, float]]]
    choices: dict[str, Choice]
    score: str
    rows: int
    title: str


def number(row: Row, name: str) -> float:
    """A number of the table."""
    return float(row[name])


def choose_target(trials: Sequence[Experiment], given: tuple[str, float] | None) -> TargetScore:
    """The target that was asked for; or nearly the strictest that three quarters of the methods reach."""
    if given is not None:
        return TargetScore(given[0], float(given[1]), "given")
    name = "valid_loss" if "valid_loss" in trials[0].records[0] else "train_loss"
    by_method = group(trials)
    worst = sorted(max(min(_finite(t.column(name))) for t in runs) for runs in by_method.values())
    enough = min(len(worst), max(2, 3 * len(worst) // 4))
    # Above the lowest itself, which the last of them reaches at one lucky moment.
    why = f"{SLACK - 1:.0%} above the lowest that {enough} of {len(worst)} methods reach with every seed"
    return TargetScore(name, float(f"{worst[enough - 1] * SLACK:.3g}"), why)


def _finite(values: list[float]) -> list[float]:
    return [v if math.isfinite(v) else math.inf for v in values]


def group(trials: Sequence[Experiment]) -> dict[Method, list[Experiment]]:
    """The runs of each method, in the order given."""
    found: dict[Method, list[Experiment]] = {}
    for trial in trials:
        found.setdefault(trial.method, []).append(trial)
    return found


def table(
    trials: Sequence[Experiment], target: TargetScore, variance: Sequence[GradientVariance], n: int
) -> list[dict[str, Any]]:
    """A row for each method. Measured quantities are medians over the seeds, `_low` and `_high` their range.

    method, batch, lr, seeds, steps, examples, seconds, step_seconds, examples_per_second; work: rows of a step as a
    share of all; probe_seconds: what auto spent on measuring before its first step, part of seconds; saved_bytes and
    fixed_bytes: see trial.Memory; gradient_deviation: the root of the gradient's variance, relative to that of single
    rows, measured, or by the law where that size was not drawn; the final scores train_* and valid_*; gap: valid_loss
    minus train_loss; reached: seeds that reached the target; and, if all did, target_examples, target_steps and
    target_seconds.
    """
    return [_row(method, runs, target, variance, n) for method, runs in group(trials).items()]


def _row(
    method: Method, runs: list[Experiment], target: TargetScore, variance: Sequence[GradientVariance], n: int
) -> dict[str, Any]:
    size = int(np.median([t.last["batch"] for t in runs]))
    row: dict[str, Any] = {"method": method.name, "batch": size, "lr": runs[0].lr, "seeds": len(runs), "work": size / n}
    row |= {"steps": runs[0].last["step"], "examples": runs[0].last["position"]}
    row |= _spread("seconds", [t.last["seconds"] for t in runs])
    row |= _spread("step_seconds", [t.step_seconds for t in runs])
    row |= _spread("examples_per_second", [t.last["batch"] / t.step_seconds for t in runs])
    if method.size is None:
        row["probe_seconds"] = float(np.median([t.probe_seconds for t in runs]))
    if runs[0].memory:
        row |= {"saved_bytes": runs[0].memory.saved, "fixed_bytes": runs[0].memory.fixed}
    if variance:
        row["gradient_deviation"] = deviation(variance[0], size)
    for name in (k for k in runs[0].last if k.startswith(("train_", "valid_"))):
        row |= _spread(name, [t.last[name] for t in runs])
    if "valid_loss" in runs[0].last:
        row |= _spread("gap", [t.last["valid_loss"] - t.last["train_loss"] for t in runs])
    reached = [r for t in runs if (r := target.reached(t)) is not None]
    row["reached"] = len(reached)
    if len(reached) == len(runs):
        for axis in AXES:
            row |= _spread(f"target_{axis}", [r[axis] for r in reached])
    return row


def deviation(variance: GradientVariance, size: int) -> float:
    """The root-mean-square deviation of a batch's gradient from the full one, relative to that of one row."""
    drawn = {p.batch: p.variance for p in variance.points}
    if size >= variance.rows:
        return 0.0
    value = drawn.get(size, variance.predicted(size))
    return math.sqrt(value / variance.trace)


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    return {name: float(np.median(values)), f"{name}_low": min(values), f"{name}_high": max(values)}


@dataclass(frozen=True)
class Finding:
    """A question, its answer in words, and whether the measurements could tell."""

    question: str
    answer: str
    told: bool


def findings(
    rows: Sequence[dict[str, Any]], target: TargetScore, variance: Sequence[GradientVariance], score: str
) -> list[Finding]:
    """What was measured, in sentences for a newcomer, each with its spread or "could not tell"."""
    found = [first_to_target(rows, target), cheapest_step(rows)]
    if variance:
        found.append(steadiest(rows, variance[0]))
    if f"{score}_low" in rows[0] and score.startswith("valid_"):
        found.append(generalised(rows, score))
    found.append(lightest(rows))
    return found


def apart(a: dict[str, Any], b: dict[str, Any], name: str, *, lower: bool = True) -> bool:
    """Whether every seed of a is better than every seed of b; never from fewer than three seeds."""
    better = a[f"{name}_high"] < b[f"{name}_low"] if lower else a[f"{name}_low"] > b[f"{name}_high"]
    return bool(a["seeds"] > 2 and better)


def _few(row: dict[str, Any]) -> str:
    """That there were too few seeds to tell anything, where there were."""
    n = row["seeds"]
    return "" if n > 2 else f" from {n} seed{'s' if n > 1 else ''}, which takes 3,"


def called(row: dict[str, Any]) -> str:
    """A method in a sentence."""
    if row["method"] == "auto":
        return f"auto ({row['batch']:,} rows)"
    return "the full batch" if row["method"] == "full batch" else f"{row['method']} a step"


def _times(a: float, b: float) -> str:
    return f"{say_number(b / a, 2)} times" if a > 0 else "far"


def headline(rows: Sequence[dict[str, Any]], target: TargetScore) -> str:
    """The outcome in one short sentence: who was at the target first, or who could not be told apart."""
    there = sorted((r for r in rows if "target_seconds" in r), key=lambda r: r["target_seconds"])
    if len(there) < 2:
        return first_to_target(rows, target).answer
    best, *others = there
    close = [r for r in others if not apart(best, r, "target_seconds")]
    if close:
        said = f"{_sentence(_list([called(best), *(called(r) for r in close)]))} could not be told apart"
        said += f": {target.words} took each of them about {say_seconds(best['target_seconds'])}."
    else:
        said = f"{_sentence(called(best))} reached {target.words} first, in {say_seconds(best['target_seconds'])}."
    slow = [r for r in others if r not in close]
    for row in slow[-1:]:
        said += f" {_sentence(called(row))} took {_times(best['target_seconds'], row['target_seconds'])} as long."
    return said


def first_to_target(rows: Sequence[dict[str, Any]], target: TargetScore) -> Finding:
    """Which method reached the target in the least time, and by what factor."""
    question = "Which was at the target first?"
    there = sorted((r for r in rows if "target_seconds" in r), key=lambda r: r["target_seconds"])
    tail = _missed(rows) + _probed(rows)
    if not there:
        return Finding(question, f"No method reached {target.words} with every seed.", False)
    best, *others = there
    time = f"{say_seconds(best['target_seconds'])} ({_range(best, 'target_seconds', say_seconds)})"
    if not others:
        return Finding(question, f"Only {called(best)} reached {target.words}, in {time}.{tail}", best["seeds"] > 2)
    close = [r for r in others if not apart(best, r, "target_seconds")]
    if close:
        names = _list([called(best), *(called(r) for r in close)])
        far = [r for r in others if r not in close]
        rest = "; " + _factors(best, far) if far else ""
        answer = f"Could not tell{_few(best)} between {names}: {target.words} took {_each([best, *close])}{rest}.{tail}"
        return Finding(question, answer, False)
    answer = f"{_sentence(called(best))} reached {target.words} first, in {time}; {_factors(best, others)}.{tail}"
    return Finding(question, answer, True)


def _factors(best: dict[str, Any], others: Sequence[dict[str, Any]]) -> str:
    def factor(row: dict[str, Any]) -> str:
        low = row["target_seconds_low"] / max(best["target_seconds_high"], 1e-9)
        high = row["target_seconds_high"] / max(best["target_seconds_low"], 1e-9)
        middle = row["target_seconds"] / max(best["target_seconds"], 1e-9)
        return f"{called(row)} took {say_number(middle, 2)} times ({say_number(low, 2)} to {say_number(high, 2)})"

    return f"{_list([factor(row) for row in others])} as long as {called(best)}"


def _missed(rows: Sequence[dict[str, Any]]) -> str:
    """Who did not reach the target, in sentences that begin with a space, or nothing."""
    never = [called(r) for r in rows if r["reached"] == 0]
    partly = [f"{called(r)} with {r['reached']} of {r['seeds']} seeds" for r in rows if 0 < r["reached"] < r["seeds"]]
    said = f" In as many examples {_list(never)} did not get there." if never else ""
    return said + (f" {_sentence(_list(partly))} only." if partly else "")


def _probed(rows: Sequence[dict[str, Any]]) -> str:
    spent = max((r.get("probe_seconds", 0.0) for r in rows), default=0.0)
    return f" Of auto's time, {say_seconds(spent)} went into measuring before its first step." if spent > 0 else ""


def _each(rows: Sequence[dict[str, Any]]) -> str:
    return _list([f"{say_seconds(r['target_seconds'])} ({_range(r, 'target_seconds', say_seconds)})" for r in rows])


def cheapest_step(rows: Sequence[dict[str, Any]]) -> Finding:
    """The least time a step, set against the most, and against the time an example."""
    question = "Which step was cheapest?"
    ordered = sorted(rows, key=lambda r: r["step_seconds"])
    best, dearest = ordered[0], ordered[-1]
    if len(rows) == 1:
        return Finding(question, f"{_sentence(called(best))} took {say_seconds(best['step_seconds'])}.", True)
    close = [r for r in ordered[1:] if not apart(best, r, "step_seconds")]
    fast = max(rows, key=lambda r: r["examples_per_second"])
    price = ""
    if fast is not best:
        price = (
            f" But {called(fast)} gets through {say_count(fast['examples_per_second'])} examples a second, and "
            f"{called(best)} through {say_count(best['examples_per_second'])}."
        )
    if close:
        names = _list([called(best), *(called(r) for r in close)])
        times = _list([say_seconds(r["step_seconds"]) for r in [best, *close]])
        if dearest not in close:
            price = f" {_sentence(called(dearest))} took {say_seconds(dearest['step_seconds'])}.{price}"
        return Finding(question, f"Could not tell{_few(best)} between {names}: {times} a step.{price}", False)
    answer = (
        f"{_sentence(called(best))}, at {say_seconds(best['step_seconds'])}. The dearest was {called(dearest)}, at "
        f"{say_seconds(dearest['step_seconds'])}, {_times(best['step_seconds'], dearest['step_seconds'])} as much."
    )
    return Finding(question, answer + price, True)


def steadiest(rows: Sequence[dict[str, Any]], variance: GradientVariance) -> Finding:
    """How much less the gradients of larger batches vary, and whether that is the 1/B law."""
    question = "Whose gradients were steadiest?"
    parts = []
    for row in sorted(rows, key=lambda r: r["batch"]):
        if row["gradient_deviation"] == 0:
            parts.append(f"{called(row)} does not stray at all, being every row there is")
        elif row["batch"] > 1:
            times = say_number(1 / row["gradient_deviation"], 2)
            parts.append(f"with {called(row)} a gradient strays {times} times less than with one row")
    law = (
        f"The variance falls as B to the power {variance.slope:.2f} (95% interval {variance.low:.2f} to "
        f"{variance.high:.2f}); one over B would be −1."
    ).replace("-", "−")
    said = f"The larger the steadier: {'; '.join(parts)}. " if parts else ""
    return Finding(question, said + law, variance.low <= -1 <= variance.high)


def generalised(rows: Sequence[dict[str, Any]], score: str) -> Finding:
    """The best final held-out score."""
    question = "Which generalised best?"
    lower = lower_is_better(score)
    ordered = sorted(rows, key=lambda r: r[score] if lower else -r[score])
    best, others = ordered[0], ordered[1:]

    def said(row: dict[str, Any]) -> str:
        low, high = say_value(score, row[f"{score}_low"]), say_value(score, row[f"{score}_high"])
        return f"{say_value(score, row[score])} ({low} to {high})"

    gaps = _list([f"{say_number(r['gap'], 2).replace('-', '−')} for {called(r)}" for r in rows])
    tail = f" Held-out loss minus training loss: {gaps}."
    close = [r for r in others if not apart(best, r, score, lower=lower)]
    if close:
        pairs = _list([f"{called(r)}, {said(r)}" for r in [best, *close]], "; ")
        return Finding(question, f"Could not tell{_few(best)} by held-out {say_name(score)}: {pairs}.{tail}", False)
    answer = f"{_sentence(called(best))}: held-out {say_name(score)} {said(best)} at the end."
    if others:
        answer += f" Next was {called(others[0])}, {said(others[0])}."
    return Finding(question, answer + tail, best["seeds"] > 2)


def lightest(rows: Sequence[dict[str, Any]]) -> Finding:
    """Memory that grows with the batch, counted exactly."""
    ordered = sorted((r for r in rows if "saved_bytes" in r), key=lambda r: r["saved_bytes"])
    said = _list([f"{say_bytes(r['saved_bytes'])} for {called(r)}" for r in ordered])
    fixed = say_bytes(ordered[0]["fixed_bytes"])
    answer = f"A step keeps {said}, besides {fixed} of weights, gradients and optimizer state whatever the batch."
    return Finding("Which needed least memory?", answer, True)


def _range(row: dict[str, Any], name: str, say: Any) -> str:
    return f"{say(row[f'{name}_low'])} to {say(row[f'{name}_high'])}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _list(items: Sequence[str], comma: str = ", ") -> str:
    return items[0] if len(items) == 1 else f"{comma.join(items[:-1])} and {items[-1]}"
