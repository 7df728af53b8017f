"""Batch sizes side by side: the same model, data and examples, each batch size with a learning rate of its own."""

import copy
import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from handful.base.errors import HandfulError, did_you_mean
from handful.base.plan import Choice
from handful.compare.experiment import Experiment, Method, Task, methods, run_trial
from handful.compare.findings import Results, TargetScore, choose_target, findings, table
from handful.compare.gradient_variance import GradientVariance, gradient_variance
from handful.data.open import open as open_source
from handful.data.split import split as split_rows
from handful.optim.build import build as optimizer_of
from handful.report.tables import text_table
from handful.report.words import say_bytes, say_count, say_number, say_score, say_seconds, say_value
from handful.training import stop

GRID = 3.0  # the factor between two learning rates that are tried
TRIES, MORE = 5, 2  # learning rates tried for every method; further ones where the best is at the end of the grid
REFERENCE = 32  # the batch that an optimizer's usual learning rate is taken to be for


@dataclass
class Comparison(Results):
    """What `compare` measured.

    table:    a dict for each method (see handful.verdict.table); print the Comparison to read it
    runs:     the Trials, with their Run, every seed of every method
    findings: the questions and their answers in words
    target:   the score that time to target is measured to
    variance: the gradient's variance against batch size, before training and after
    tried:    method name -> (learning rate, final training loss) of the tuning runs
    choices:  what was compared how, each with its reason
    """

    def __str__(self) -> str:
        said = "\n".join(f"{f.question} {f.answer}" for f in self.findings)
        return f"{text_table(words(self.table, self.score))}\n\ntarget: {self.target.words}\n{said}"

    def report(self, path: str | Path = "comparison.html") -> Path:
        """Write the page that shows the comparison, one file that opens offline. Returns its path."""
        from handful.compare.page import compare_page

        return compare_page(self).write(path)

    def save(self, folder: str | Path) -> Path:
        """Write comparison.json (all numbers, curves included) and report.html into a folder; returns the page."""
        from handful.base.files import write_text

        where = Path(folder)
        where.mkdir(parents=True, exist_ok=True)
        curves = [{"method": t.method.name, "seed": t.seed, "lr": t.lr, "records": t.records} for t in self.runs]
        whole = {
            "target": vars(self.target),
            "table": self.table,
            "findings": [vars(f) for f in self.findings],
            "tried": self.tried,
            "variance": [{**vars(v), "points": [vars(p) for p in v.points]} for v in self.variance],
            "runs": curves,
        }
        write_text(where / "comparison.json", json.dumps(whole, indent=1))
        return self.report(where / "report.html")


def compare(
    model: str | nn.Module,
    train: Any,
    batches: Sequence[int | str] = (1, 32, "auto", "full"),
    *,
    valid: Any = 0.1,
    budget: float = 6,
    seconds: float | None = None,
    until: Any = None,
    lrs: str | float | Sequence[float] = "tune",
    seeds: int = 3,
    optimizer: Any = "sgd",
    schedule: Any = "constant",
    reach: tuple[str, float] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    quiet: bool = False,
    **more: Any,
) -> Comparison:
    """Train `model` with each batch size on the same examples, and measure what the batch size changes.

    model:    an nn.Module, copied for every run so that all start from its weights and it stays as it is; or the
              name of a ready-made one, built anew for each seed, the same for all batch sizes
    train:    anything `handful.open` reads; opened once, and `valid` held out once
    batches:  examples a step: 1 (stochastic gradient descent), mini-batches, "full" (batch gradient descent), "auto"
    budget:   epochs that every run is given: equal examples for all; seconds: a limit of time besides (budget=1000,
              seconds=5 compares at equal time instead); until: a further stop rule, such as "plateau(5)"
    lrs:      "tune": for every batch size, five learning rates a factor 3 apart around the optimizer's usual one
              times sqrt(batch / 32), each for the whole budget, with a seed of their own; while the best is at an end
              of the grid, up to two more beyond it; the lowest training loss wins. Or learning rates to try; or one
              for all; or "auto": as `fit` chooses
    seeds:    runs of each batch size, with seeds `seed`, `seed` + 1, ...
    reach:    ("valid_loss", 0.3): the score to measure the time to; by default 10% above the lowest held-out loss
              that three quarters of the batch sizes (and at least two) reach with every seed
    out:      a folder for comparison.json and report.html
    more:     as in `fit`: target (the column), loss, metrics, preprocess, l2, clip_norm, device, score, ...

    Time is that of `fit`'s loop on this machine, without the evaluations that a comparison adds; the runs of a seed
    follow each other, so that a machine that slows down slows all methods. Raises HandfulError for bad arguments.

    >>> import torch
    >>> net = torch.nn.Linear(4, 3)
    >>> c = compare(net, "iris", [8, "full"], budget=4, lrs=0.05, seeds=1, preprocess="standardize", quiet=True)
    >>> [(row["method"], row["steps"]) for row in c.table]
    [('8 rows', 68), ('full batch', 4)]
    """
    _check(model, seeds, budget, seconds, optimizer, reach, more)
    source = open_source(train, target=more.get("target"))
    rows, held_out = _hold_out(source, valid, seed)
    chosen = methods(batches, len(rows))
    rule = None if until is None else stop.as_rule(until)
    given = {**more, "optimizer": optimizer, "schedule": schedule, "seed": seed}
    start = copy.deepcopy(model) if isinstance(model, nn.Module) else model
    task = Task(start, rows, held_out, given, seconds, rule)
    say = _quiet if quiet else _say
    usual = _prepare(task, chosen[0], reach, seed)

    rates: dict[Method, float | str] = {}
    tried: dict[str, list[tuple[float, float]]] = {}
    for method in chosen:
        rates[method], tried[method.name] = tune(task, method, lrs, usual, seed + seeds, budget, say)
    trials: list[Experiment] = []
    for k in range(seeds):
        for method in chosen:
            trial = run_trial(task, method, seed + k, rates[method], budget, memory=k == 0)
            trials.append(trial)
            say(f"{method.name}, seed {seed + k}: {_outcome(trial)}")
    _charge_probes(trials)
    variance = _variances(task, trials, chosen, seed, say)
    goal = choose_target(trials, reach)
    score = trials[0].run.plan.score
    lines = table(trials, goal, variance, len(rows))
    what = model if isinstance(model, str) else type(model).__name__
    comparison = Comparison(
        table=lines,
        runs=trials,
        findings=findings(lines, goal, variance, score),
        target=goal,
        variance=variance,
        tried={name: pairs for name, pairs in tried.items() if pairs},
        choices=_choices(trials, lrs, budget, seconds, until, seeds, goal, held_out),
        score=score,
        rows=len(rows),
        title=f"{what} on {source.name}",
    )
    if out is not None:
        comparison.save(out)
    return comparison


def tune(
    task: Task, method: Method, lrs: str | float | Sequence[float], usual: float, seed: int, epochs: float, say: Any
) -> tuple[float | str, list[tuple[float, float]]]:
    """The learning rate of a method: given, or the best of runs as long as the compared ones; and the (rate, training
    loss) of each. usual: the optimizer's usual rate, for a batch of REFERENCE rows."""
    if lrs == "auto":
        return "auto", []
    if isinstance(lrs, int | float) and not isinstance(lrs, bool):
        return float(lrs), []
    own_grid = lrs != "tune"
    if own_grid:
        if isinstance(lrs, str | bool) or not lrs:
            raise HandfulError(f"lrs must be 'tune', 'auto', a learning rate or a list of them, not {lrs!r}")
        grid = [float(v) for v in lrs]
    else:
        centre = usual * math.sqrt((method.size or 2 * REFERENCE) / REFERENCE)
        grid = [_round(centre * GRID ** (k - TRIES // 2)) for k in range(TRIES)]
    losses: dict[float, float] = {}

    def attempt(lr: float) -> None:
        trial = run_trial(task, method, seed, lr, epochs, moments=0)
        final = trial.last["train_loss"]
        losses[lr] = final if math.isfinite(final) else math.inf

    for lr in grid:
        attempt(lr)
    for _ in range(0 if own_grid else MORE):
        best = min(losses, key=lambda lr: losses[lr])
        beyond = {min(losses): best / GRID, max(losses): best * GRID}.get(best)
        if beyond is None:
            break
        attempt(_round(beyond))
    tried = sorted(losses.items())
    best = min(losses, key=lambda lr: losses[lr])
    if not math.isfinite(losses[best]):
        raise HandfulError(
            f"with {method.name} every learning rate from {tried[0][0]:g} to {tried[-1][0]:g} diverged; give lower lrs"
        )
    say(
        f"{method.name}: learning rate {say_number(best)}, best of {len(tried)} from {say_number(tried[0][0])} to "
        f"{say_number(tried[-1][0])} (training loss {say_number(losses[best])} after {say_number(epochs, 2)} epochs)"
    )
    return best, tried


def words(rows: list[dict[str, Any]], score: str) -> list[dict[str, str]]:
    """The table's main columns as a person would write them."""

    def spread(row: dict[str, Any], name: str, say: Any) -> str:
        if name not in row:
            return ""
        low, high = say(row[f"{name}_low"]), say(row[f"{name}_high"])
        return f"{say(row[name])}" if low == high else f"{say(row[name])} ({low} to {high})"

    lines = []
    for row in rows:
        line = {
            "method": row["method"],
            "batch": f"{row['batch']:,}",
            "learning rate": say_number(row["lr"], 2),
            "steps": say_count(row["steps"]),
            "a step": spread(row, "step_seconds", say_seconds),
            "examples/s": say_count(row["examples_per_second"]),
            "memory": say_bytes(row["saved_bytes"]) if "saved_bytes" in row else "",
        }
        if "gradient_deviation" in row:
            line["gradient strays"] = f"{row['gradient_deviation']:.3f}"
        line["to target"] = spread(row, "target_seconds", say_seconds) or f"{row['reached']} of {row['seeds']} seeds"
        line["training loss"] = spread(row, "train_loss", say_number)
        for name in dict.fromkeys(["valid_loss", score]):
            if name in row and name.startswith("valid_"):
                said = "held-out " + name.removeprefix("valid_").replace("_", " ")
                line[said] = spread(row, name, lambda v, name=name: say_value(name, v))
        lines.append(line)
    return lines


def _prepare(task: Task, method: Method, reach: tuple[str, float] | None, seed: int) -> float:
    """Assemble one run, so that mistakes are said before the first; returns the optimizer's usual learning rate."""
    t = task.training(method if method.size else Method(1, 1), seed, 1e-3, 1)
    known = [
        f"{part}_{name}" for part in ("train", "valid") for name in ("loss", *(m.name for m in t.objective.metrics))
    ]
    known = [name for name in known if task.held_out is not None or name.startswith("train_")]
    if reach is not None and reach[0] not in known:
        raise HandfulError(f"there is no score called '{reach[0]}' to reach.{did_you_mean(str(reach[0]), known)}")
    return float(optimizer_of(task.given["optimizer"], t.objective.model).lr.value)


def _variances(
    task: Task, trials: list[Experiment], chosen: list[Method], seed: int, say: Any
) -> list[GradientVariance]:
    """The gradient's variance at the initial weights and at the end of the best run of the first seed."""
    if len(task.train) < 4:
        return []
    first = [t for t in trials if t.seed == seed]
    best = min(first, key=lambda t: t.last.get("valid_loss", t.last["train_loss"]))
    t = task.training(best.method, seed, best.lr, 1)
    sizes = sorted({m.size for m in chosen if m.size} | {int(r.last["batch"]) for r in first})
    measured = [gradient_variance(t.objective, t.batches, sizes=sizes, seed=seed, state="before training")]
    after = f"after training ({best.method.name})"
    measured.append(gradient_variance(best.run.objective, t.batches, sizes=sizes, seed=seed, state=after))
    for v in measured:
        say(f"gradient variance {v.state}: slope {v.slope:.3f}, 95% interval {v.low:.3f} to {v.high:.3f} (the law: -1)")
    return measured


def _charge_probes(trials: list[Experiment]) -> None:
    """A method whose batch was chosen by measurement pays for it: setting up took that much longer than for others."""
    plain = [t.setup_seconds for t in trials if t.method.size is not None]
    for t in trials:
        if t.method.size is None and plain and t.run.plan.choices["batch"].status in ("measured", "bounded"):
            t.probe_seconds = max(0.0, t.setup_seconds - statistics.median(plain))
            for record in t.records[1:]:
                record["seconds"] += t.probe_seconds


def _hold_out(source: Any, valid: Any, seed: int) -> tuple[Any, Any]:
    if valid is None or (isinstance(valid, int | float) and valid == 0):
        return source, None
    if isinstance(valid, int | float):
        return split_rows(source, valid, seed=seed)
    return source, open_source(valid, target=source.target)


def _check(model: Any, seeds: Any, budget: Any, seconds: Any, optimizer: Any, reach: Any, more: dict[str, Any]) -> None:
    if not isinstance(model, str | nn.Module):
        raise HandfulError(f"model must be an nn.Module or the name of a ready-made one, not {type(model).__name__}")
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise HandfulError(f"seeds must be a number of runs of at least 1, not {seeds!r}")
    for name, value in (("budget", budget), ("seconds", seconds)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
            raise HandfulError(f"{name} must be a number above 0, not {value!r}")
    if isinstance(optimizer, Optimizer):
        raise HandfulError(
            "an optimizer object belongs to one model, and every run has its own; give a name or a class: "
            f"optimizer=torch.optim.{type(optimizer).__name__}"
        )
    if reach is not None and not (isinstance(reach, tuple | list) and len(reach) == 2):
        raise HandfulError(f"reach must be a score and its value, as ('valid_loss', 0.3), not {reach!r}")
    for name in ("batch", "lr", "evaluate_every", "callbacks"):
        if name in more:
            raise HandfulError(f"compare sets {name} itself; {_INSTEAD[name]}")


_INSTEAD = {
    "batch": "name the sizes in batches=[...]",
    "lr": "pass lrs=, one for all or a list to try",
    "evaluate_every": "it scores every run at the same moments",
    "callbacks": "use fit for a run with callbacks",
}


def _choices(
    trials: list[Experiment], lrs: Any, budget: float, seconds: float | None, until: Any, seeds: int,
    target: TargetScore, held_out: Any,
) -> dict[str, Choice]:  # fmt: skip
    plan = trials[0].run.plan
    rates = {t.method.name: say_number(t.lr, 2) for t in trials}
    how = {
        "tune": f"for each batch size, {TRIES} to {TRIES + MORE} rates a factor {GRID:g} apart, each for the whole "
        "budget, on a seed of their own; the lowest training loss won",
        "auto": "as fit chooses",
    }.get(lrs if isinstance(lrs, str) else "", "")
    limit = "" if seconds is None else f", and at most {say_seconds(seconds)}"
    limit += "" if until is None else f", or until {until}"
    held = f"{len(held_out):,} held out, the same for all" if held_out is not None else "nothing held out"
    luck = 2 / math.comb(2 * seeds, seeds)
    certain = f"a winner is named where all its seeds beat all of the other's: by luck alone, {luck:.0%} of the time"
    out = {
        "budget": Choice(f"{budget:g} epochs", "given", f"equal examples for every method{limit}"),
        "learning rates": Choice(rates, "measured" if how and lrs == "tune" else "given", how),
        "seeds": Choice(seeds, "given", certain if seeds > 2 else "too few to name a winner: that takes 3"),
        "target": Choice(target.words, "given" if target.why == "given" else "measured", target.why),
        "rows": Choice(trials[0].run.plan.rows, "found", held),
    }
    auto = next((t for t in trials if t.method.size is None), None)
    if auto is not None:
        out["auto's batch"] = auto.run.plan.choices["batch"]
    kept = ("model", "optimizer", "schedule", "l2", "loss", "precision", "device")
    return out | {name: plan.choices[name] for name in kept if name in plan.choices}


def _outcome(trial: Experiment) -> str:
    names = [k for k in ("train_loss", "valid_loss", trial.run.plan.score) if k in trial.last]
    scores = ", ".join(
        ("held-out " * k.startswith("valid_")) + say_score(k, trial.last[k]) for k in dict.fromkeys(names)
    )
    return f"{scores} after {say_count(trial.last['step'])} steps, {say_seconds(trial.last['seconds'])}"


def _round(value: float) -> float:
    return float(f"{value:.2g}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _quiet(text: str) -> None:
    pass
