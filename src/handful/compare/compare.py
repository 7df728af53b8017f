"""Batch sizes side by side: the same model, data and examples, each batch size with a learning rate of its own."""

import copy
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn
from torch.optim import Optimizer

from handful.base import files
from handful.base.errors import HandfulError, did_you_mean
from handful.base.expression import number, positive_integer
from handful.base.plan import Choice
from handful.base.score import direction
from handful.compare.budget import Counter, Share, share_out
from handful.compare.experiment import Experiment, Method, Task, costs, methods, run_experiment
from handful.compare.findings import SEEDS, Results, Row, TargetScore, choose_target, findings, table
from handful.compare.gradient_variance import GradientVariance, gradient_variance
from handful.compare.page import compare_page
from handful.compare.paths import SECONDS, Surface, loss_surface
from handful.data.base import Source
from handful.data.open import open as open_source
from handful.data.split import split as split_rows
from handful.optim.build import Optimizers
from handful.optim.build import build as optimizer_of
from handful.report.page import file_name
from handful.report.tables import text_table
from handful.report.words import say_bytes, say_count, say_number, say_score, say_seconds, say_value
from handful.training.watch import stop
from handful.training.watch.folder import RunFolder

GRID = 3.0  # the factor between two learning rates that are tried
TRIES, MORE = 5, 2  # learning rates tried for every method; further ones where the best is at the end of the grid
REFERENCE = 32  # the batch that an optimizer's usual learning rate is taken to be for

Rates = str | float | Sequence[float]
Tuned = tuple[float | str, list[tuple[float, float]]]  # the rate of a method; the rates tried, with the training loss


class Comparison(Results):
    """What `compare` measured (see Results); print it to read it."""

    def __str__(self) -> str:
        answers = "\n".join(f"{f.question} {f.answer}" for f in self.findings)
        seen = {str(row["method"]): float(row["examples"]) for row in self.table}
        if min(seen.values()) < 0.9 * max(seen.values()):
            each = ", ".join(f"{name} {say_number(n)}" for name, n in seen.items())
            answers = f"length: time ran out before all had seen as many examples ({each})\n{answers}"
        return f"{text_table(words(self.table, self.score))}\n\ntarget: {self.target.words}\n{answers}"

    def report(self, path: str | Path = "comparison.html") -> Path:
        """Write the page that shows the comparison, one file that opens offline. Returns its path."""
        return compare_page(self).write(path)

    def save(self, folder: str | Path) -> Path:
        """Write comparison.json (all numbers, curves included) and report.html into a folder; returns the page."""
        where = files.made(folder)
        whole = {
            "target": vars(self.target),
            "table": self.table,
            "findings": [vars(f) for f in self.findings],
            "tried": self.tried,
            "variance": [{**vars(v), "points": [vars(p) for p in v.points]} for v in self.variance],
            "runs": [{"method": r.method.name, "seed": r.seed, "lr": r.lr, "records": r.records} for r in self.runs],
        }
        files.write_text(where / "comparison.json", json.dumps(whole, indent=1))
        return self.report(where / "report.html")


def compare(
    model: str | nn.Module,
    train: object,
    batches: int | str | Sequence[int | str] = (1, 32, "auto", "full"),
    *,
    target: str | None = None,
    valid: object = 0.1,
    epochs: float = 6,
    budget: float | None = 300,
    seconds: float | None = None,
    until: stop.Rule | str | float | None = None,
    lrs: Rates = "tune",
    seeds: int = 3,
    optimizer: Optimizers = "sgd",
    schedule: object = "constant",
    reach: tuple[str, float] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    quiet: bool = False,
    **more: object,
) -> Comparison:
    """Train `model` with each batch size on the same examples, and measure what the batch size changes.

    model:    an nn.Module, copied for every run so that all start from its weights and it stays as it is; or the
              name of a ready-made one, built anew for each seed, the same for all batch sizes
    train:    anything `handful.open` reads; opened once, and `valid` held out once
    batches:  examples per step: 1 (stochastic gradient descent), mini-batches, "full" (batch gradient descent), "auto"
    epochs:   that every run is given: equal examples for all; seconds: a limit of time for every run as well
              (epochs=1000, seconds=5 compares at equal time instead); until: a further stop rule, such as "plateau(5)"
    budget:   seconds for the whole comparison, or None. Where it is short, all runs get the same limit of time, fewer
              rates are tried, and fewer seeds are run; `choices` says so
    lrs:      "tune": for every batch size, five learning rates a factor 3 apart around the optimizer's usual one
              times sqrt(batch / 32), each as long as the runs, with a seed of their own; while the best is at an end
              of the grid, up to two more beyond it; the lowest training loss wins. Or learning rates to try; or one
              for all; or "auto": as `fit` chooses
    seeds:    runs of each batch size, with seeds `seed`, `seed` + 1, ...
    reach:    ("valid_loss", 0.3): the score to measure the time to; by default 10% above the lowest held-out loss
              that three quarters of the batch sizes (and at least two) reach with every seed
    out:      a folder for comparison.json and report.html
    more:     as in `fit`: loss, metrics, preprocess, l2, clip_norm, device, score, ...

    Time is that of `fit`'s loop on this machine, without the evaluations that a comparison adds; the runs of a seed
    follow each other, so a machine that slows down slows all methods. Raises HandfulError for bad arguments.

    >>> import torch
    >>> net = torch.nn.Linear(4, 3)
    >>> c = compare(net, "iris", [8, "full"], epochs=4, lrs=0.05, seeds=1, preprocess="standardize", quiet=True)
    >>> [(row["method"], row["steps"]) for row in c.table]
    [('8 rows', 68), ('full batch', 4)]
    """
    began = time.perf_counter()
    _check(model, seeds, {"epochs": epochs, "budget": budget, "seconds": seconds}, optimizer, reach, more, out)
    source = open_source(train, target=target)
    rows, held_out = _hold_out(source, valid, seed)
    chosen = methods(batches, len(rows))
    given = {**more, "target": target, "optimizer": optimizer, "schedule": schedule, "seed": seed}
    rule = None if until is None else stop.as_rule(until)
    task = Task(copy.deepcopy(model), rows, held_out, given, seed, epochs, seconds, rule)
    usual, found = _prepare(task, optimizer, reach)
    task = replace(task, given={**given, **{name: choice.value for name, choice in found.items()}})
    share = _share(task, chosen, lrs, seeds, budget, began)
    task = replace(task, seconds=min((s for s in (seconds, share.seconds) if s is not None), default=None))
    tuned, runs, variance, surface = _measure(task, chosen, lrs, usual, share, quiet)
    comparison = _summary(task, runs, choose_target(runs, reach), tuned, variance, surface)
    comparison.title = f"{model if isinstance(model, str) else type(model).__name__} on {file_name(source.name)}"
    comparison.choices = _choices(task, runs, lrs, comparison.target) | found | share.choice
    if out is not None:
        comparison.save(out)
    return comparison


def _share(
    task: Task, chosen: list[Method], lrs: Rates, seeds: int, budget: float | None, began: float
) -> Share:  # fmt: skip
    """What each run gets of the budget, of which a part is gone since `began`."""
    setup, longest = costs(task, max(m.size or 1 for m in chosen))
    spent, fixed = time.perf_counter() - began, lrs != "tune"
    return share_out(budget, spent, setup, len(chosen), _tries(lrs), seeds, fixed=fixed, longest=longest)


def _measure(
    task: Task, chosen: list[Method], lrs: Rates, usual: float, share: Share, quiet: bool
) -> tuple[dict[Method, Tuned], list[Experiment], list[GradientVariance], Surface | None]:
    """All there is to run: the rates of every method, the runs, what their gradients do, and where they went."""
    with Counter(len(chosen) * (share.tries + share.seeds), quiet=quiet) as counter:
        tuned = {m: tune(task, m, lrs, usual, task.seed + share.seeds, share.tries, counter) for m in chosen}
        runs = _run_all(task, {m: lr for m, (lr, _) in tuned.items()}, share.seeds, counter)
        variance = _variances(task, runs, chosen, share.after, counter)
        surface = loss_surface(task, [r for r in runs if r.seed == task.seed], min(SECONDS, share.after))
    return tuned, runs, variance, surface


def _summary(
    task: Task,
    runs: list[Experiment],
    target: TargetScore,
    tuned: dict[Method, Tuned],
    variance: list[GradientVariance],
    surface: Surface | None,
) -> Comparison:
    """What was measured, with the table and the answers."""
    plan, n = runs[0].run.plan, len(task.train)
    lines = table(runs, target, variance, n)
    answers = findings(lines, target, variance, plan.score, direction(plan))
    tried = {method.name: pairs for method, (_, pairs) in tuned.items() if pairs}
    return Comparison(lines, runs, answers, target, variance, tried, {}, plan.score, n, "", surface)


def _tries(lrs: Rates) -> int:
    """How many learning rates are tried for each batch size, at most."""
    match lrs:
        case "tune":
            return TRIES + MORE
        case str() | int() | float():
            return 0
    return len(lrs)


def tune(task: Task, method: Method, lrs: Rates, usual: float, seed: int, tries: int, counter: Counter) -> Tuned:
    """The learning rate of a method: given, or the best of runs as long as the compared ones; and the (rate, training
    loss) of each. usual: the optimizer's usual rate, for a batch of REFERENCE rows; tries: rates at most."""
    match lrs:
        case "auto":
            return "auto", []
        case "tune":
            centre = usual * math.sqrt((method.size or 2 * REFERENCE) / REFERENCE)
            waiting = [_round(centre * GRID ** (k - min(tries, TRIES) // 2)) for k in range(min(tries, TRIES))]
            if not waiting:
                return _round(centre), []
        case bool() | str() | []:
            raise HandfulError(f"lrs must be 'tune', 'auto', a learning rate or a list of them, not {lrs!r}")
        case int() | float():
            return float(lrs), []
        case _:
            waiting = [float(v) for v in lrs]
    losses: dict[float, float] = {}
    best = waiting[0]
    while waiting:
        lr = waiting.pop(0)
        final = run_experiment(task, method, seed, lr, moments=0).last["train_loss"]
        losses[lr] = final if math.isfinite(final) else math.inf
        counter.done()
        best = min(losses, key=lambda lr: losses[lr])
        if lrs == "tune" and not waiting and len(losses) < tries and best in (min(losses), max(losses)):
            waiting = [_round(best / GRID if best == min(losses) else best * GRID)]
    tried = sorted(losses.items())
    low, high = tried[0][0], tried[-1][0]
    if not math.isfinite(losses[best]):
        raise HandfulError(f"with {method.name} every learning rate from {low:g} to {high:g} diverged; give lower lrs")
    counter.done(tries - len(losses))
    counter.say(
        f"{method.name}: learning rate {say_number(best)}, best of {len(tried)} from {say_number(low)} to "
        f"{say_number(high)} (training loss {say_number(losses[best])})"
    )
    return best, tried


def words(rows: Sequence[Row], score: str) -> list[dict[str, str]]:
    """The table's main columns as a person would write them."""

    def spread(row: Row, name: str, say: Callable[[object], str]) -> str:
        if name not in row:
            return ""
        low, high = say(row[f"{name}_low"]), say(row[f"{name}_high"])
        return say(row[name]) if low == high else f"{say(row[name])} ({low} to {high})"

    lines = []
    for row in rows:
        line = {"method": str(row["method"]), "batch": f"{row['batch']:,}", "learning rate": say_number(row["lr"], 2)}
        line |= {"steps": say_count(row["steps"]), "step": spread(row, "step_seconds", say_seconds)}
        line["examples/s"] = say_count(row["examples_per_second"])
        line["memory"] = say_bytes(row["saved_bytes"]) if "saved_bytes" in row else ""
        if "gradient_deviation" in row:
            line["gradient noise"] = f"{row['gradient_deviation']:.3f}"
        line["to target"] = spread(row, "target_seconds", say_seconds) or f"{row['reached']} of {row['seeds']} seeds"
        line["training loss"] = spread(row, "train_loss", say_number)
        for name in dict.fromkeys(["valid_loss", score]):
            if name in row and name.startswith("valid_"):
                title = "held-out " + name.removeprefix("valid_").replace("_", " ")
                line[title] = spread(row, name, partial(say_value, name))
        lines.append(line)
    return lines


def _prepare(task: Task, optimizer: Optimizers, reach: tuple[str, float] | None) -> tuple[float, dict[str, Choice]]:
    """Assemble one run, so that mistakes are reported before the first; returns the optimizer's usual learning rate,
    and what was measured of the machine, which is the same for all runs."""
    t = task.training(Method(1, 1), task.seed, 1e-3)
    parts = ("train",) if task.held_out is None else ("train", "valid")
    known = [f"{part}_{name}" for part in parts for name in ("loss", *(m.name for m in t.objective.metrics))]
    if reach is not None and reach[0] not in known:
        raise HandfulError(f"there is no score called '{reach[0]}' to reach.{did_you_mean(str(reach[0]), known)}")
    usual = optimizer_of(optimizer, t.objective.model).lr.value
    if isinstance(usual, dict):
        raise HandfulError("compare looks for one learning rate for each batch size; give it one optimizer")
    machine = {name: t.plan.choices[name] for name in ("precision", "threads")}
    return float(usual), {name: choice for name, choice in machine.items() if choice.status == "measured"}


def _variances(
    task: Task, runs: list[Experiment], chosen: list[Method], seconds: float, counter: Counter
) -> list[GradientVariance]:
    """The gradient's variance at the initial weights and at the end of the best run of the first seed, each measured in
    about so many seconds at most."""
    if len(task.train) < 4:
        return []
    first = [r for r in runs if r.seed == task.seed]
    best = min(first, key=lambda r: r.last.get("valid_loss", r.last["train_loss"]))
    t = task.training(Method(1, 1), task.seed, best.lr)  # its model has the initial weights
    sizes = sorted({m.size for m in chosen if m.size} | {int(r.last["batch"]) for r in first})
    states = {"before training": t.objective, f"after training ({best.method.name})": best.run.objective}
    measured = [
        gradient_variance(objective, t.batches, sizes=sizes, seed=task.seed, state=state, seconds=seconds)
        for state, objective in states.items()
    ]
    for v in measured:
        counter.say(
            f"gradient variance {v.state}: slope {v.slope:.3f}, 95% interval {v.low:.3f} to {v.high:.3f} (the law: -1)"
        )
    return measured


def _run_all(task: Task, rates: dict[Method, float | str], seeds: int, counter: Counter) -> list[Experiment]:
    """Every method with every seed. A method whose batch was chosen by measurement pays for it: setting up took that
    much longer than for others."""
    runs: list[Experiment] = []
    for seed in range(task.seed, task.seed + seeds):
        for method, lr in rates.items():
            runs.append(run_experiment(task, method, seed, lr, memory=seed == task.seed))
            counter.done()
            counter.say(f"{method.name}, seed {seed}: {_outcome(runs[-1])}")
    plain = [r.setup_seconds for r in runs if r.method.size is not None]
    for r in runs:
        if r.method.size is None and plain and r.run.plan.choices["batch"].status in ("measured", "bounded"):
            r.probe_seconds = max(0.0, r.setup_seconds - statistics.median(plain))
            for record in r.records[1:]:
                record["seconds"] += max(0.0, r.probe_seconds - r.records[0]["seconds"])  # its steps are counted
    return runs


def _hold_out(source: Source, valid: object, seed: int) -> tuple[Source, Source | None]:
    match valid:
        case None:
            return source, None
        case int() | float():
            return split_rows(source, valid, seed=seed) if valid else (source, None)
    return source, open_source(valid, target=source.target)


INSTEAD = {
    "batch": "name the sizes in batches=[...]",
    "lr": "pass lrs=, one for all or a list to try",
    "evaluate_every": "it scores every run at the same moments",
    "callbacks": "use fit for a run with callbacks",
}


def _check(
    model: object, seeds: object, limits: dict[str, object], optimizer: object, reach: object,
    more: dict[str, object], out: str | Path | None,
) -> None:  # fmt: skip
    if out is not None and RunFolder(files.made(out)).holds_run():  # made now: what is measured takes minutes
        raise HandfulError(f"{out} holds a run: give the comparison a folder of its own")
    if not isinstance(model, str | nn.Module):
        raise HandfulError(f"model must be an nn.Module or the name of a ready-made one, not {type(model).__name__}")
    positive_integer(seeds, "seeds")
    for name, limit in limits.items():
        if limit is not None:
            number(limit, name, above=0)
    if isinstance(optimizer, Optimizer):
        raise HandfulError(
            "an optimizer object belongs to one model, and every run has its own; give a name or a class: "
            f"optimizer=torch.optim.{type(optimizer).__name__}"
        )
    match reach:
        case None | (str(), int() | float()):
            pass
        case _:
            raise HandfulError(f"reach must be a score and its value, as ('valid_loss', 0.3), not {reach!r}")
    for name in INSTEAD.keys() & more.keys():
        raise HandfulError(f"compare sets {name} itself; {INSTEAD[name]}")


def _choices(task: Task, runs: list[Experiment], lrs: Rates, target: TargetScore) -> dict[str, Choice]:
    plan, seeds = runs[0].run.plan, len({r.seed for r in runs})
    rates = {r.method.name: say_number(r.lr, 2) for r in runs}
    tuning = (
        f"{TRIES} to {TRIES + MORE} rates a factor {GRID:g} apart for each batch size, each as long as the runs, on "
    )
    tuning += "a seed of their own; the lowest training loss won"
    how = tuning if lrs == "tune" else "as fit chooses" if lrs == "auto" else ""
    limit = "" if task.seconds is None else f", and at most {say_seconds(task.seconds)}"
    limit += "" if task.until is None else f", or until {task.until}"
    held = "nothing held out" if task.held_out is None else f"{len(task.held_out):,} held out, the same for all"
    luck = 2 / math.comb(2 * seeds, seeds)
    certain = f"a winner is named where all its seeds beat all of the other's: by luck alone, {luck:.0%} of the time"
    out = {
        "length": Choice(
            f"{task.epochs:g} epochs",
            "given",
            f"equal examples for every method{limit and ' where the time allows'}{limit}",
        ),
        "learning rates": Choice(rates, "measured" if lrs == "tune" else "given", how),
        "seeds": Choice(seeds, "given", certain if seeds >= SEEDS else "too few to name a winner: that takes 3"),
        "target": Choice(target.words, "given" if target.why == "given" else "measured", target.why),
        "rows": Choice(plan.rows, "found", held),
    }
    if automatic := [r.run.plan.choices["batch"] for r in runs if r.method.size is None]:
        out["auto's batch"] = automatic[0]
    kept = ("model", "optimizer", "schedule", "l2", "loss", "precision", "device")
    return out | {name: plan.choices[name] for name in kept if name in plan.choices}


def _outcome(one: Experiment) -> str:
    last = one.last
    names = [k for k in dict.fromkeys(("train_loss", "valid_loss", one.run.plan.score)) if k in last]
    scores = [f"{'held-out ' if k.startswith('valid_') else ''}{say_score(k, last[k])}" for k in names]
    return f"{', '.join(scores)} after {say_count(last['step'])} steps, {say_seconds(last['seconds'])}"


def _round(value: float) -> float:
    return float(f"{value:.2g}")
