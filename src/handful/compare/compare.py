"""Batch sizes side by side: the same model, data and examples, each batch size with a learning rate of its own."""

import copy
import json
import math
import statistics
from collections.abc import Sequence
from contextlib import nullcontext
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
from handful.compare.budget import PAGE, Clock, Counter, Share, share_out
from handful.compare.experiment import LEAST_SAMPLE, Experiment, Method, Task, costs, methods, run_experiment
from handful.compare.findings import SEEDS, Results, Row, choose_target, findings, table, with_range
from handful.compare.gradient_variance import FEWEST, HURRIED, LEAST_ROWS, GradientVariance, gradient_variance
from handful.compare.page import compare_page
from handful.compare.paths import SECONDS, loss_surface
from handful.compare.rates import GRID, TRIES, Rates, most_tries, tune
from handful.data.base import Source
from handful.data.open import open as open_source
from handful.data.split import split as split_rows
from handful.optim.build import Optimizers
from handful.optim.build import build as optimizer_of
from handful.report.document import load
from handful.report.page import file_name
from handful.report.tables import text_table
from handful.report.words import say_bytes, say_count, say_number, say_score, say_seconds, say_value
from handful.training.watch import stop
from handful.training.watch.folder import RunFolder


class Comparison(Results):
    """What `compare` measured (see Results); print it to read it."""

    def __str__(self) -> str:
        answers = "\n".join(f"{f.question} {f.answer}" for f in self.findings)
        seen = {str(row["method"]): float(row["examples"]) for row in self.table}
        if min(seen.values()) < 0.9 * max(seen.values()):
            each = ", ".join(f"{name} {say_number(n)}" for name, n in seen.items())
            answers = f"length: time ran out before all had seen as many examples ({each})\n{answers}"
        if time := self.choices.get("time"):
            answers = f"budget: {time.value}, {time.reason}\n{answers}"
        lines = text_table(words(self.table, self.score, self.target.unit))
        return f"{lines}\n\ntarget: {self.target.words}\n{answers}"

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
    model: str | nn.Module, train: object, batches: int | str | Sequence[int | str] = (1, 32, "auto", "full"), *,
    target: str | None = None, valid: object = 0.1, epochs: float = 6, budget: float | None = 300,
    seconds: float | None = None, until: stop.Rule | str | float | None = None, lrs: Rates = "tune", seeds: int = 3,
    optimizer: Optimizers = "sgd", schedule: object = "constant", reach: tuple[str, float] | None = None,
    seed: int = 0, out: str | Path | None = None, quiet: bool = False, **more: object,
) -> Comparison:  # fmt: skip
    """Train `model` with each batch size on the same examples, and measure what the batch size changes.

    model:    an nn.Module, copied for every run so that all start from its weights and it stays as it is; or the
              name of a ready-made one, built anew for each seed, the same for all batch sizes
    train:    anything `handful.open` reads; opened once, and `valid` held out once
    batches:  examples per step: 1 (stochastic gradient descent), mini-batches, "full" (batch gradient descent), "auto"
    epochs:   that every run is given: equal examples for all; seconds: a limit of time for every run as well
              (epochs=1000, seconds=5 compares at equal time instead); until: a further stop rule, such as "plateau(5)"
    budget:   seconds from the opening of the data to the page, or None; libraries are loaded before. Where it is short,
              or others keep the machine busy, all runs get the same limit of time, fewer rates are tried, fewer seeds
              and batch sizes are run, down to one seed of two sizes; `choices` says so
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
    _check(model, seeds, {"epochs": epochs, "budget": budget, "seconds": seconds}, optimizer, reach, more, out)
    clock = Clock(budget, 0.0 if out is None else max(PAGE, load() / 2))
    source = open_source(train, target=target)
    rows, held_out = _hold_out(source, valid, seed)
    chosen = methods(batches, len(rows))
    given = {**more, "target": target, "optimizer": optimizer, "schedule": schedule, "seed": seed}
    rule = None if until is None else stop.as_rule(until)
    task = Task(copy.deepcopy(model), rows, held_out, given, seed, epochs, seconds, rule)
    task, usual, found = _prepare(task, optimizer, reach)
    with nullcontext() if out is None else files.made_for(out):  # made now: what is measured takes minutes
        task, share = _shared_out(task, chosen, lrs, seeds, clock)
        comparison, limit = _measure(task.limited(share.seconds), chosen, lrs, usual, share, clock, reach, quiet, seeds)
        comparison.title = f"{model if isinstance(model, str) else type(model).__name__} on {file_name(source.name)}"
        time = _time(budget, limit, share, comparison, most_tries(lrs), seeds, chosen, clock.passed)
        comparison.choices = _choices(task.limited(limit), lrs, comparison) | found | time
        if out is not None:
            comparison.save(out)
    return comparison


def _shared_out(task: Task, chosen: list[Method], lrs: Rates, seeds: int, clock: Clock) -> tuple[Task, Share]:
    """What each run gets of the time; where to score it would take longer than to train, it is scored on fewer rows."""
    setup, hurried, longest = costs(task, max(m.size or 1 for m in chosen))
    asked, fixed = (len(chosen), most_tries(lrs), seeds), lrs != "tune"
    share = share_out(clock.left, setup, *asked, fixed=fixed, longest=longest)
    if share.seconds is None or share.seconds >= setup:
        return task, share
    return replace(task, sample=LEAST_SAMPLE), share_out(clock.left, hurried, *asked, fixed=fixed, longest=longest)


def _measure(
    task: Task, chosen: list[Method], lrs: Rates, usual: float, share: Share, clock: Clock,
    reach: tuple[str, float] | None, quiet: bool, seeds: int,
) -> tuple[Comparison, float | None]:  # fmt: skip
    """All there is to run: the rates of every method, the runs, what their gradients do, and where they went. With the
    limit of time that the runs had."""
    with Counter(len(chosen) * (share.tries + seeds), quiet=quiet) as counter:
        tuned = {
            m: tune(task, m, lrs, usual, task.seed + seeds, share.tries,
                    partial(clock.fits, keep=share.after_rates(k / len(chosen))), counter)
            for k, m in enumerate(chosen, 1)
        }  # fmt: skip
        task = task.limited(share.limit(clock.left, len(chosen), clock.slowest))
        runs = _run_all(task, {m: lr for m, (lr, _) in tuned.items()}, seeds, share, clock, counter)
        variance = _variances(task, runs, chosen, share, clock, counter)
        first = [r for r in runs if r.seed == task.seed]
        surface = loss_surface(task, first, min(SECONDS, share.following(clock.left, 1)))
    plan, n, unit = runs[0].run.plan, len(task.train), runs[0].run.pipeline.unit
    target = replace(choose_target(runs, reach), unit=unit)
    lines = table(runs, target, variance, n)
    answers = findings(lines, target, variance, plan.score, direction(plan))
    tried = {method.name: pairs for method, (_, pairs) in tuned.items() if pairs}
    return Comparison(lines, runs, answers, target, variance, tried, {}, plan.score, n, "", surface), task.seconds


def words(rows: Sequence[Row], score: str, unit: str = "") -> list[dict[str, str]]:
    """The table's main columns as a person would write them; unit: of the task's target."""
    lines = []
    for row in rows:
        line = {"method": str(row["method"]), "batch": f"{row['batch']:,}", "learning rate": say_number(row["lr"], 2)}
        line |= {"steps": say_count(row["steps"]), "step": with_range(row, "step_seconds", say_seconds)}
        line["examples/s"] = say_count(row["examples_per_second"])
        line["memory"] = say_bytes(row["saved_bytes"]) if "saved_bytes" in row else ""
        if "gradient_deviation" in row:
            line["gradient noise"] = f"{row['gradient_deviation']:.3f}"
        reached = f"{row['reached']} of {row['seeds']} seeds"
        line["to target"] = with_range(row, "target_seconds", say_seconds) if "target_seconds" in row else reached
        line["training loss"] = with_range(row, "train_loss", say_number)
        for name in dict.fromkeys(["valid_loss", score]):
            if name in row and name.startswith("valid_"):
                title = "held-out " + name.removeprefix("valid_").replace("_", " ")
                line[title] = with_range(row, name, partial(say_value, name, unit=unit))
        lines.append(line)
    return lines


def _prepare(
    task: Task, optimizer: Optimizers, reach: tuple[str, float] | None
) -> tuple[Task, float, dict[str, Choice]]:
    """Assemble one run, so that mistakes are reported before the first; returns the optimizer's usual learning rate,
    and what was measured of the machine, which is the same for all runs, with the task that has it."""
    t = task.training(Method(1, 1), task.seed, 1e-3)
    parts = ("train",) if task.held_out is None else ("train", "valid")
    known = [f"{part}_{name}" for part in parts for name in ("loss", *(m.name for m in t.objective.metrics))]
    if reach is not None and reach[0] not in known:
        raise HandfulError(f"there is no score called '{reach[0]}' to reach.{did_you_mean(str(reach[0]), known)}")
    usual = optimizer_of(optimizer, t.objective.model).lr.value
    if isinstance(usual, dict):
        raise HandfulError("compare looks for one learning rate for each batch size; give it one optimizer")
    machine = {name: t.plan.choices[name] for name in ("precision", "threads")}
    found = {name: choice for name, choice in machine.items() if choice.status == "measured"}
    given = {**task.given, **{name: choice.value for name, choice in found.items()}}
    return replace(task, given=given), float(usual), found


def _variances(
    task: Task, runs: list[Experiment], chosen: list[Method], share: Share, clock: Clock, counter: Counter
) -> list[GradientVariance]:
    """The gradient's variance at the initial weights and at the end of the best run of the first seed; none where there
    is no time for it."""
    if len(task.train) < LEAST_ROWS:
        return []
    first = [r for r in runs if r.seed == task.seed]
    best = min(first, key=lambda r: r.last.get("valid_loss", r.last["train_loss"]))
    t = task.training(Method(1, 1), task.seed, best.lr)  # its model has the initial weights
    sizes = sorted({m.size for m in chosen if m.size} | {int(r.last["batch"]) for r in first})
    states = {"before training": t.objective, f"after training ({best.method.name})": best.run.objective}
    least = 2 * HURRIED * FEWEST * min(r.step_seconds / r.last["batch"] for r in first)
    measured: list[GradientVariance] = []
    for state, objective in states.items():
        left = share.following(clock.left, 3 - len(measured))
        if left >= least:
            found = gradient_variance(objective, t.batches, sizes=sizes, seed=task.seed, state=state, seconds=left)
            measured.append(found)
    for v in measured:
        counter.say(
            f"gradient variance {v.state}: slope {v.slope:.3f}, 95% interval {v.low:.3f} to {v.high:.3f} (the law: -1)"
        )
    return measured


def _run_all(
    task: Task, rates: dict[Method, float | str], seeds: int, share: Share, clock: Clock, counter: Counter
) -> list[Experiment]:
    """Every method with every seed for which there is time, at least two with one. A method whose batch was chosen by
    measurement pays for it: setting up took that much longer than for others."""
    runs: list[Experiment] = []
    began = clock.passed
    for seed in range(task.seed, task.seed + seeds):
        if runs and not clock.fits((clock.passed - began) / (seed - task.seed), share.after_runs):
            break
        for method, lr in rates.items():
            whole = share.longest if method.size == max(m.size or 1 for m in rates) else 0.0
            each = (clock.passed - began) / max(1, len(runs)) + whole
            if len(runs) > 1 and seed == task.seed and not clock.fits(each, 0.0):
                counter.say(f"{method.name}: no time is left for it")
                continue
            runs.append(run_experiment(task, method, seed, lr, memory=seed == task.seed))
            counter.done()
            counter.say(f"{method.name}, seed {seed}: {_outcome(runs[-1])}")
        rates = {r.method: rates[r.method] for r in runs}
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
    if out is not None and RunFolder(Path(out)).holds_run():
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


def _time(
    budget: float | None, limit: float | None, share: Share, c: Comparison, tries: int, seeds: int,
    chosen: Sequence[Method], passed: float,
) -> dict[str, Choice]:  # fmt: skip
    """The budget, and what it was not enough for."""
    if budget is None:
        return {}
    tried = min([share.tries, *(len(pairs) for pairs in c.tried.values() if len(pairs) < min(share.tries, TRIES))])
    without = [f"no time for {m.name}" for m in chosen if m not in {r.method for r in c.runs}]
    without += ["no time to measure the gradients' variance"] * (c.rows >= LEAST_ROWS and not c.variance)
    without += ["the paths are not drawn"] * (c.surface is None)
    said = share.said(budget, limit or 0.0, (tried, tries), (len({r.seed for r in c.runs}), seeds), without, passed)
    return {"time": said}


def _choices(task: Task, lrs: Rates, c: Comparison) -> dict[str, Choice]:
    runs, target = c.runs, c.target
    plan, seeds = runs[0].run.plan, len({r.seed for r in runs})
    rates = {r.method.name: say_number(r.lr, 2) for r in runs}
    counts = sorted({len(pairs) for pairs in c.tried.values()} or {0})
    several = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    tuning = f"{several} rates a factor {GRID:g} apart for each batch size, each as long as the runs, on a seed of "
    tuning += "their own; the lowest training loss won"
    how = tuning if c.tried and lrs == "tune" else "as fit chooses" if lrs == "auto" else ""
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
        "learning rates": Choice(rates, "measured" if c.tried else "given" if lrs != "tune" else "default", how),
        "seeds": Choice(seeds, "given", certain if seeds >= SEEDS else "too few to name a winner: that takes 3"),
        "target": Choice(target.words, "given" if target.why == "given" else "measured", target.why),
        "rows": Choice(plan.rows, "found", held),
        "data": Choice(file_name(plan.choices["data"].value), "given", " ".join(runs[0].run.pipeline.notes)),
    }
    if automatic := [r.run.plan.choices["batch"] for r in runs if r.method.size is None]:
        out["auto's batch"] = automatic[0]
    kept = ("model", "optimizer", "schedule", "l2", "loss", "precision", "device")
    return out | {name: plan.choices[name] for name in kept if name in plan.choices}


def _outcome(one: Experiment) -> str:
    last = one.last
    names = [k for k in dict.fromkeys(("train_loss", "valid_loss", one.run.plan.score)) if k in last]
    scores = [
        f"{'held-out ' if k.startswith('valid_') else ''}{say_score(k, last[k], one.run.pipeline.unit)}" for k in names
    ]
    return f"{', '.join(scores)} after {say_count(last['step'])} steps, {say_seconds(last['seconds'])}"
