"""What the runs of a comparison add up to: a target they share, a row per method, and findings in words.

A sentence that names a winner is only written when every seed agrees: the worst of the winner's seeds is better than
the best of the other's. Anything less is "could not tell".
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from handful.base.plan import Choice
from handful.base.score import Better, lower_is_better
from handful.compare.experiment import Experiment, Method
from handful.compare.gradient_variance import GradientVariance
from handful.compare.paths import Surface
from handful.report.words import say_bytes, say_count, say_name, say_number, say_seconds, say_value, sentence

AXES = {"examples": "position", "steps": "step", "seconds": "seconds"}
SLACK = 1.1  # of the target over the lowest loss that enough methods reach
SEEDS = 3  # the fewest that tell two methods apart

Row = dict[str, float | str]  # of the table: `method` is text, all else numbers


@dataclass(frozen=True)
class TargetScore:
    """A score to be reached, and where it comes from; unit: of the task's target, where that has one."""

    name: str
    value: float
    why: str
    unit: str = ""

    @property
    def words(self) -> str:
        """As in "a held-out loss of 0.25"."""
        where = "held-out " if self.name.startswith("valid_") else ""
        return f"a {where}{say_name(self.name)} of {say_value(self.name, self.value, self.unit)}"

    def reached(self, one: Experiment) -> dict[str, float] | None:
        """The examples, steps and seconds at which a run first reached it; None if it did not.

        Between the last record that misses the target and the first that has it, the score is taken to be linear.
        """
        sign = 1.0 if lower_is_better(self.name) else -1.0
        over = [math.nan, *(sign * (v - self.value) for v in one.column(self.name))]
        for before, at, last, now in zip(over, over[1:], one.records[:1] + one.records, one.records):
            if at <= 0:
                share = before / (before - at) if math.isfinite(before) else 1.0
                return {name: last[k] + share * (now[k] - last[k]) for name, k in AXES.items()}
        return None


@dataclass(frozen=True)
class Finding:
    """A question, its answer in words, and whether the measurements could tell."""

    question: str
    answer: str
    told: bool


@dataclass
class Results:
    """What `compare` measured.

    table:    a dict per method (see handful.compare.findings.table); print the Comparison to read it
    runs:     the Experiments, with their Run, every seed of every method
    findings: the questions and their answers in words
    target:   the score that time to target is measured to
    variance: the gradient's variance against batch size, before training and after
    tried:    method name -> (learning rate, final training loss) of the tuning runs
    choices:  what was compared how, each with its reason
    surface:  the paths of three batch sizes over the loss; None where they could not be drawn
    """

    table: list[Row]
    runs: list[Experiment]
    findings: list[Finding]
    target: TargetScore
    variance: list[GradientVariance]
    tried: dict[str, list[tuple[float, float]]]
    choices: dict[str, Choice]
    score: str
    rows: int
    title: str
    surface: Surface | None = None


def choose_target(runs: Sequence[Experiment], given: tuple[str, float] | None) -> TargetScore:
    """The target that was asked for; or nearly the strictest that three quarters of the methods reach."""
    if given is not None:
        return TargetScore(given[0], float(given[1]), "given")
    name = "valid_loss" if "valid_loss" in runs[0].records[0] else "train_loss"

    def lowest(one: Experiment) -> float:
        return min(v if math.isfinite(v) else math.inf for v in one.column(name))

    start = runs[0].records[0][name]
    worst = sorted(max(map(lowest, of_method)) for of_method in group(runs).values())
    learned = sum(loss < start for loss in worst)  # a target where all begin is none
    enough = min(len(worst), max(2, 3 * len(worst) // 4), learned or len(worst))
    lowest_shared = worst[enough - 1]
    # Above the lowest itself, which the last of them reaches at one lucky moment; and below where all begin.
    above = min(lowest_shared * SLACK, (lowest_shared + start) / 2) if start > lowest_shared else lowest_shared
    how = f"{above / lowest_shared - 1:.0%} above" if lowest_shared > 0 else "near"
    why = f"{how} the lowest that {enough} of {len(worst)} methods reach with every seed"
    rounded = (float(f"{above:.{digits}g}") for digits in (3, 5, 9))
    return TargetScore(name, next((v for v in rounded if v < start), above), why)


def group(runs: Sequence[Experiment]) -> dict[Method, list[Experiment]]:
    """The runs of each method, in the order given."""
    found: dict[Method, list[Experiment]] = {}
    for one in runs:
        found.setdefault(one.method, []).append(one)
    return found


def table(runs: Sequence[Experiment], target: TargetScore, variance: Sequence[GradientVariance], n: int) -> list[Row]:
    """A row per method. Measured quantities are medians over the seeds, `_low` and `_high` their range.

    method, batch, lr, seeds, steps, examples, seconds, step_seconds, examples_per_second; work: rows of a step as a
    share of all; probe_seconds: what auto spent on measuring before its first step, part of seconds; saved_bytes and
    fixed_bytes: see experiment.StepMemory; gradient_deviation: the root of the gradient's variance, relative to that of
    single rows, measured, or by the law where that size was not drawn; the final scores train_* and valid_*; gap:
    valid_loss minus train_loss; reached: seeds that reached the target; and, if all did, target_examples, target_steps
    and target_seconds.
    """
    return [_row(method, of_method, target, variance, n) for method, of_method in group(runs).items()]


def _row(
    method: Method, runs: list[Experiment], target: TargetScore, variance: Sequence[GradientVariance], n: int
) -> Row:
    first = runs[0]
    size = int(np.median([one.last["batch"] for one in runs]))
    row: Row = {"method": method.name, "batch": size, "lr": first.lr, "seeds": len(runs), "work": size / n}
    row |= {"steps": first.last["step"], "examples": first.last["position"]}
    row |= _spread("seconds", [one.last["seconds"] for one in runs])
    row |= _spread("step_seconds", [one.step_seconds for one in runs])
    row |= _spread("examples_per_second", [one.last["batch"] / one.step_seconds for one in runs])
    if method.size is None:
        row["probe_seconds"] = float(np.median([one.probe_seconds for one in runs]))
    if first.memory:
        row |= {"saved_bytes": first.memory.saved, "fixed_bytes": first.memory.fixed}
    if variance:
        row["gradient_deviation"] = deviation(variance[0], size)
    for name in (k for k in first.last if k.startswith(("train_", "valid_"))):
        row |= _spread(name, [one.last[name] for one in runs])
    if "valid_loss" in first.last:
        row |= _spread("gap", [one.last["valid_loss"] - one.last["train_loss"] for one in runs])
    reached = [r for one in runs if (r := target.reached(one)) is not None]
    row["reached"] = len(reached)
    if len(reached) == len(runs):
        for axis in AXES:
            row |= _spread(f"target_{axis}", [r[axis] for r in reached])
    return row


def deviation(variance: GradientVariance, size: int) -> float:
    """The root-mean-square deviation of a batch's gradient from the full one, relative to that of one row."""
    if size >= variance.rows:
        return 0.0
    drawn = {p.batch: p.variance for p in variance.points}
    return math.sqrt(drawn.get(size, variance.predicted(size)) / variance.trace)


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    return {name: float(np.median(values)), f"{name}_low": min(values), f"{name}_high": max(values)}


def number(row: Row, name: str) -> float:
    return float(row[name])


def separated(a: Row, b: Row, name: str, *, lower: bool = True) -> bool:
    """Whether every seed of a is better than every seed of b; never from fewer than three seeds."""
    if number(a, "seeds") < SEEDS:
        return False
    if lower:
        return number(a, f"{name}_high") < number(b, f"{name}_low")
    return number(a, f"{name}_low") > number(b, f"{name}_high")


def rank(rows: Iterable[Row], name: str, *, lower: bool = True) -> tuple[list[Row], list[Row]]:
    """The methods that have this quantity, each list best first: the best with those it is not separated from, and the
    others. Both are empty where no method has it."""
    ordered = sorted((r for r in rows if name in r), key=lambda r: number(r, name), reverse=not lower)
    tied = [r for r in ordered if not separated(ordered[0], r, name, lower=lower)]
    return tied, [r for r in ordered if separated(ordered[0], r, name, lower=lower)]


def findings(
    rows: Sequence[Row], target: TargetScore, variance: Sequence[GradientVariance], score: str, better: Better = "auto"
) -> list[Finding]:
    """What was measured, in sentences for a newcomer, each with its spread or "could not tell"."""
    found = [first_to_target(rows, target), cheapest_step(rows)]
    if variance:
        found.append(most_stable(rows, variance[0]))
    if f"{score}_low" in rows[0] and score.startswith("valid_"):
        found.append(generalised(rows, score, better, target.unit))
    found.append(lightest(rows))
    return found


def called(row: Row) -> str:
    """A method in a sentence."""
    if row["method"] == "auto":
        return f"auto ({row['batch']:,} rows)"
    return "the full batch" if row["method"] == "full batch" else f"{row['method']} per step"


def headline(rows: Sequence[Row], target: TargetScore) -> str:
    """The outcome in one short sentence: who reached the target first, or who could not be told apart."""
    tied, others = rank(rows, "target_seconds")
    if len(tied) + len(others) < 2:
        return first_to_target(rows, target).answer
    best, time = tied[0], say_seconds(tied[0]["target_seconds"])
    text = f"{_names([best])} reached {target.words} first, in {time}."
    if len(tied) > 1:
        low, high = time, say_seconds(tied[-1]["target_seconds"])
        times = f"about {low} each" if low == high else f"{low} to {high}"
        text = f"{_names(tied)} could not be told apart: {target.words} took them {times}."
    for row in others[-1:]:
        text += f" {_names([row])} took {_times(best, row, 'target_seconds')} as long."
    return text


def first_to_target(rows: Sequence[Row], target: TargetScore) -> Finding:
    """Which method reached the target in the least time, and by what factor."""
    question = "Which reached the target first?"
    tied, others = rank(rows, "target_seconds")
    tail = _missed(rows) + _probed(rows)
    if not tied:
        return Finding(question, f"No method reached {target.words} with every seed.", False)
    best, times = tied[0], _list(with_range(r, "target_seconds", say_seconds) for r in tied)
    if len(tied) + len(others) == 1:
        answer = f"Only {called(best)} reached {target.words}, in {times}.{tail}"
        return Finding(question, answer, number(best, "seeds") >= SEEDS)
    rest = f"; {_factors(best, others)}" if others else ""
    if len(tied) > 1:
        return Finding(question, f"{_open(tied)}: {target.words} took {times}{rest}.{tail}", False)
    return Finding(question, f"{_names([best])} reached {target.words} first, in {times}{rest}.{tail}", True)


def cheapest_step(rows: Sequence[Row]) -> Finding:
    """The least time per step, set against the most, and against the time per example."""
    question = "Which step was cheapest?"
    tied, others = rank(rows, "step_seconds")
    best, fast = tied[0], max(rows, key=lambda r: number(r, "examples_per_second"))
    times = _list(say_seconds(r["step_seconds"]) for r in tied)
    if len(rows) == 1:
        return Finding(question, f"{_names([best])} took {times}.", True)
    answer = f"{_open(tied)}: {times} per step." if len(tied) > 1 else f"{_names([best])}, at {times}."
    if others:
        most = others[-1]
        more = _times(best, most, "step_seconds")
        answer += f" The most expensive was {called(most)}, at {say_seconds(most['step_seconds'])}, {more} as much."
    if fast is not best:
        rates = (f"{say_count(r['examples_per_second'])} examples per second with {called(r)}" for r in (fast, best))
        answer += f" But training gets through {_list(rates)}."
    return Finding(question, answer, len(tied) == 1)


def most_stable(rows: Sequence[Row], variance: GradientVariance) -> Finding:
    """How much less the gradients of larger batches vary, and whether that is the 1/B law."""
    parts = []
    for row in sorted(rows, key=lambda r: number(r, "batch")):
        noise = number(row, "gradient_deviation")
        if noise == 0:
            parts.append(f"{called(row)} has no noise, being every row there is")
        elif number(row, "batch") > 1:
            parts.append(f"with {called(row)} its noise is {say_number(1 / noise, 2)} times less than with one row")
    law = (
        f"The variance falls as B to the power {variance.slope:.2f} (95% interval {variance.low:.2f} to "
        f"{variance.high:.2f}); one over B would be −1."
    ).replace("-", "−")
    text = f"The larger the batch, the more stable its gradient: {'; '.join(parts)}. " if parts else ""
    return Finding("Whose gradients were most stable?", text + law, variance.low <= -1 <= variance.high)


def generalised(rows: Sequence[Row], score: str, better: Better, unit: str = "") -> Finding:
    """The best final held-out score."""
    question = "Which generalised best?"
    tied, others = rank(rows, score, lower=lower_is_better(score, better))

    def value(row: Row) -> str:
        return with_range(row, score, lambda v: say_value(score, v, unit))

    gaps = _list(f"{say_number(r['gap'], 2).replace('-', '−')} for {called(r)}" for r in rows)
    tail = f" Held-out loss minus training loss: {gaps}."
    if len(tied) > 1:
        pairs = _list(map(value, tied))
        return Finding(question, f"{_open(tied)} by held-out {say_name(score)}: {pairs}.{tail}", False)
    answer = f"{_names(tied)}: held-out {say_name(score)} {value(tied[0])} at the end."
    for row in others[:1]:
        answer += f" Next was {called(row)}, {value(row)}."
    return Finding(question, answer + tail, number(tied[0], "seeds") >= SEEDS)


def lightest(rows: Sequence[Row]) -> Finding:
    """Memory that grows with the batch, counted exactly."""
    ordered = sorted((r for r in rows if "saved_bytes" in r), key=lambda r: number(r, "saved_bytes"))
    saved = _list(f"{say_bytes(r['saved_bytes'])} for {called(r)}" for r in ordered)
    fixed = say_bytes(ordered[0]["fixed_bytes"])
    answer = f"A step keeps {saved}, and {fixed} of weights, gradients and optimizer state whatever the batch."
    return Finding("Which needed least memory?", answer, True)


def _open(tied: Sequence[Row]) -> str:
    """That it could not be told, between whom, and why where there were too few seeds."""
    seeds = int(number(tied[0], "seeds"))
    few = "" if seeds >= SEEDS else f" ({'one run' if seeds == 1 else f'{seeds} runs'} of each: chance may decide)"
    return f"Could not tell between {_list(map(called, tied))}{few}"


def _factors(best: Row, others: Sequence[Row]) -> str:
    """How many times as long the others took to the target: the medians, and the least and most over the seeds."""

    def factor(row: Row) -> str:
        middle, low, high = (
            say_number(number(row, f"target_seconds{a}") / max(number(best, f"target_seconds{b}"), 1e-9), 2)
            for a, b in (("", ""), ("_low", "_high"), ("_high", "_low"))
        )
        return f"{called(row)} took {middle} times ({low} to {high})"

    return f"{_list(map(factor, others))} as long as {called(best)}"


def _missed(rows: Sequence[Row]) -> str:
    """Who did not reach the target, in sentences that begin with a space, or nothing."""
    never = [called(r) for r in rows if r["reached"] == 0]
    partly = [
        f"{called(r)} with {r['reached']} of {r['seeds']} seeds" for r in rows if r["reached"] not in (0, r["seeds"])
    ]
    text = ""
    if never:
        seen = [number(r, "examples") for r in rows]
        given = "as many examples" if min(seen) >= 0.9 * max(seen) else "the same time"  # which stopped them
        text = f" In {given} {_list(never)} did not get there."
    return text + (f" Only some seeds of others did: {_list(partly)}." if partly else "")


def _probed(rows: Sequence[Row]) -> str:
    spent = max(number(r, "probe_seconds") if "probe_seconds" in r else 0.0 for r in rows)
    return f" Of auto's time, {say_seconds(spent)} went into measuring before its first step." if spent > 0 else ""


def _times(a: Row, b: Row, name: str) -> str:
    return f"{say_number(number(b, name) / number(a, name), 2)} times" if number(a, name) > 0 else "far"


def with_range(row: Row, name: str, say: Callable[[float], str]) -> str:
    """The median and, where they differ, the lowest and the highest seed."""
    middle, low, high = (say(number(row, key)) for key in (name, f"{name}_low", f"{name}_high"))
    return middle if low == high else f"{middle} ({low} to {high})"


def _names(rows: Iterable[Row]) -> str:
    """Methods at the beginning of a sentence."""
    return sentence(_list(map(called, rows)))


def _list(items: Iterable[str]) -> str:
    *others, last = items
    return f"{', '.join(others)} and {last}" if others else last
