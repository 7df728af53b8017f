"""The choice of batch and learning rate against an oracle: `python benchmarks/choice.py [--quick] [workload ...]`.

--unseen: the six workloads of choice_unseen.py, which nobody looked at while the rules were set.
--near: of the settings that the oracle chooses from only those that were its choice in a whole run of this script, and
their neighbours (`near` in choice_workloads.py), and no law of this machine: a tenth of the time. The target may come
out a little higher, and no regret lower than with all settings, where one left out would have been better.

For each workload every power of two up to the cap x learning rates x seeds is run, at a constant rate, to a fixed
number of examples, and the validation loss is logged against steps and examples. A step of B rows takes a + b B, so the
time of a run to any point is a * steps + b * examples: one set of runs serves every step-time law. The laws are T = K +
B for K in 8, 32, 128, 512, and the line measured on this machine.

scored: the loss of the last weights, and that of their average over the last fortieth of the run. At a constant rate
the last weights carry noise that grows with the rate and never ends, so that they favour small rates; the average shows
what was learned, as it would be seen once the rate falls (handful's default schedule is a cosine).
target: the lowest mean loss that any setting has at half of the examples, plus 3% of the way there from the start.
oracle: the least time to target over all (batch, lr), mean over seeds.  schedule: that of three batches and two
switches, see `scheduled`.  regret: auto's time over the oracle's, paid for all that it tried up to there (paid in full:
for what it tried in the whole run, later, too). The same ratio is given for Adam's 1e-3 (momentum: 1e-2) at batch 32
and 128, and the largest batch.

Every run is cached in benchmarks/.cache/choice, so that it can be interrupted; the table goes to
benchmarks/results/choice.md (choice_quick.md, choice_unseen.md). The workloads are in choice_workloads.py.
"""

import argparse
import hashlib
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from choice_unseen import UNSEEN
from choice_workloads import CACHE, HERE, WORKLOADS, Workload
from torch import nn

from handful.fit import run_training
from handful.plan.build import assemble
from handful.plan.probe.decide import batch_cap
from handful.plan.probe.step_time import Throughput, measure_throughput, powers_of_two
from handful.training.training import Training
from handful.training.watch.evaluation import evaluate
from handful.training.watch.observe import EVALUATION_BATCH

LAWS = (8, 32, 128, 512)
SCORED = {"last": 2, "averaged": 3}  # columns of a curve
PROGRESS = 0.03  # of the way from the loss at the start to the best: how far above the best the target lies
AVERAGED = 0.025  # of a run: what the averaged weights are averaged over
CODE = "24"  # raise it when a change to handful makes cached runs of `auto` worthless


def fresh(w: Workload, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return w.model()


def cached(w: Workload, what: dict[str, Any], make: Callable[[], Any]) -> Any:
    """The result of a run, from the cache if it was done before."""
    key = hashlib.sha256(repr((w.name, w.epochs, sorted(what.items()))).encode()).hexdigest()[:20]
    path = CACHE / w.name / f"{key}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        found = {"what": what, "result": make(), "took": time.perf_counter() - started}
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(found))
        temporary.rename(path)
        print(f"{w.name} {what} {found['took']:.1f} s", file=sys.stderr, flush=True)
    return json.loads(path.read_text())["result"]


class Average:
    """A callback that also scores the average of the weights over the last fifth of the run so far, at most AVERAGED
    of the whole run, whatever the batch: what a run would have if its rate fell to zero now, nearly (Sandler et al.
    2023, arXiv:2301.11393)."""

    def __init__(self) -> None:
        self.curve: list[list[float]] = []

    def __call__(self, event: str, info: dict[str, Any]) -> None:
        if event == "start":
            self.t: Training = info["training"]
            self.weights = [v for v in self.t.objective.model.state_dict().values() if v.is_floating_point()]
            self.mean = [v.clone() for v in self.weights]
            self.position = self.t.state.position
        elif event in ("step", "evaluate"):
            new = self.t.state.position - self.position
            if new:
                span = min(AVERAGED * (self.t.planned or 0), self.t.state.position / 5)
                torch._foreach_lerp_(self.mean, self.weights, min(1.0, new / max(1.0, span)))
                self.position = self.t.state.position
            if event == "evaluate":
                kept = [v.clone() for v in self.weights]
                torch._foreach_copy_(self.weights, self.mean)
                assert self.t.valid is not None
                loss = evaluate(self.t.objective, self.t.valid.epoch(EVALUATION_BATCH))["loss"]
                torch._foreach_copy_(self.weights, kept)
                spent = self.t.state.probing_cost
                self.curve.append([info["step"], info["position"], info["valid_loss"], loss, *spent])


def train(w: Workload, data: Any, seed: int, measure: Throughput | bool = True, **options: Any) -> dict[str, Any]:
    """One run: [steps, examples, validation loss, that of the averaged weights, and the steps and examples that were
    tried so far] at every evaluation, and what probing inside it cost."""
    given = {"valid": data[1], "loss": w.loss, "optimizer": w.optimizer, "schedule": "constant", "seed": seed,
             "until": f"epochs({w.epochs})", "evaluate_every": 0.25, "metrics": None, "quiet": True,
             "threads": 1}  # fmt: skip
    average = Average()
    run = run_training(assemble(fresh(w, seed), data[0], given | options, measure=measure), [average])
    if "interrupt" in run.stopped_because:
        raise KeyboardInterrupt  # fit keeps what it has; a benchmark must not take that for a whole run
    said = [r["note"] for r in run.history if "note" in r]
    return {"curve": average.curve, "trial": run.state.probing_cost, "batch": run.state.batch, "notes": said,
            "seconds": run.history[-1]["seconds"], "plan": {k: [c.value, c.status, c.reason]
            for k, c in run.plan.choices.items() if k in ("batch", "lr", "batch_growth")}}  # fmt: skip


def auto(w: Workload, data: Any, seed: int, law: Throughput) -> dict[str, Any]:
    """A run as `fit` does it with batch and lr open, growth included; only the step times are given."""
    return train(w, data, seed, law)


def crossing(result: dict[str, Any], target: float, column: int) -> tuple[float, ...] | None:
    """(steps, examples) at which the loss in a column of the curve first reaches the target, and those tried before."""
    before = (0.0, 0.0, math.inf)
    for row in result["curve"]:
        step, position, loss = row[0], row[1], row[column]
        if loss <= target:
            share = 1.0
            if math.isfinite(before[2]) and before[2] > loss:
                share = (before[2] - target) / (before[2] - loss)
            tried = row[4:] or (0.0, 0.0)
            return before[0] + share * (step - before[0]), before[1] + share * (position - before[1]), *tried
        before = (step, position, min(before[2], loss))
    return None


def seconds(
    results: list[dict[str, Any]], target: float, column: int, a: float, b: float, *, paid: str = "so far"
) -> float:
    """Mean time to target over seeds, what was tried so far, in full, or nothing of it paid for; infinite if one of
    them never got there."""
    times = []
    for r in results:
        at = crossing(r, target, column)
        if at is None:
            return math.inf
        tried = {"so far": at[2:], "in full": r["trial"], "nothing": (0.0, 0.0)}[paid]
        times.append(a * (at[0] + tried[0]) + b * (at[1] + tried[1]))
    return statistics.mean(times)


def every_setting(
    w: Workload, data: Any, seeds: int, rates: list[float], least: int, *, near: bool = False
) -> dict[tuple[int, float], list[dict[str, Any]]]:
    """The runs that the oracle chooses from: every power of two and rate, or those `near`; one a seed."""
    sizes = powers_of_two(batch_cap(len(data[0][0])), max(least, w.least))
    if near:
        sizes, rates = list(w.near[0]), [min(rates, key=lambda r: abs(math.log(r / n))) for n in w.near[1]]
    return {
        (size, rate): [
            cached(w, {"batch": size, "lr": round(rate, 8), "seed": seed},
                   lambda size=size, rate=rate, seed=seed: train(w, data, seed, batch=size, lr=rate))
            for seed in range(seeds)
        ]
        for size in reversed(sizes) for rate in rates
    }  # fmt: skip


def measure(w: Workload, seeds: int, rates: list[float], least: int, *, near: bool) -> list[dict[str, Any]]:
    """All runs of a workload, and a row for each law and way of scoring."""
    data = w.data()
    n = len(data[0][0])
    cap = batch_cap(n)
    grid = every_setting(w, data, seeds, rates, least, near=near)
    t = assemble(fresh(w, 0), data[0], {"valid": data[1], "loss": w.loss, "optimizer": w.optimizer, "batch": 32,
                 "lr": w.lr, "metrics": None, "quiet": True, "threads": 1, "until": "epochs(1)"})  # fmt: skip
    assert t.valid is not None
    initial = evaluate(t.objective, t.valid.epoch(512))["loss"]
    laws = {f"K={k}": (float(k), 1.0) for k in LAWS}
    if not near:
        laws["this CPU"] = tuple(cached(w, {"line": cap}, lambda: _line(t, powers_of_two(cap, 4))))
    chosen = {
        name: [
            cached(w, {"auto": CODE, "law": name, "seed": seed},
                   lambda seed=seed, a=a, b=b: auto(w, data, seed, Throughput.law(a, b, powers_of_two(cap, 4))))
            for seed in range(seeds)
        ]
        for name, (a, b) in laws.items()
    }  # fmt: skip
    return [
        row_of(w, name, laws[name], scored, grid, chosen[name], initial, n * w.epochs)
        for scored in SCORED
        for name in laws
    ]


def lowest(run: dict[str, Any], column: int, until: float = math.inf) -> float:
    return min(float(c[column]) for c in run["curve"] if c[1] <= until)


def target_of(grid: dict[tuple[int, float], list[dict[str, Any]]], column: int, initial: float, planned: int) -> float:
    """The loss to reach: near the lowest mean that any setting has at half of the examples."""
    finite = [runs for runs in grid.values() if all(math.isfinite(c[column]) for r in runs for c in r["curve"])]
    best = min(statistics.mean(lowest(r, column, 0.51 * planned) for r in runs) for runs in finite)
    return best + PROGRESS * (initial - best)


def by_others(
    grid: dict[tuple[int, float], list[dict[str, Any]]], seed: int, target: float, column: int, a: float, b: float
) -> tuple[int, float]:
    """The setting that is soonest at the target by all seeds but one."""
    return min(grid, key=lambda s: seconds([r for k, r in enumerate(grid[s]) if k != seed], target, column, a, b))


def scheduled(
    grid: dict[tuple[int, float], list[dict[str, Any]]], initial: float, target: float, column: int, a: float, b: float
) -> float:
    """The least time to the target by a schedule of three batches that do not fall, each at its best rate, with two
    switches: stitched from the runs at one batch, as if a run at some loss went on as any other at that loss does. That
    flatters it, for a large rate's noise must settle first: what no schedule beats by much, and not a run."""
    levels = [target + (initial - target) * 0.6**k for k in range(14)]  # the last is 0.1% of the way from the target
    levels = [math.inf, *levels[1:], target]
    at: dict[int, list[list[float]]] = {}
    for (size, _), runs in grid.items():
        at.setdefault(size, []).append([0.0, *(seconds(runs, level, column, a, b) for level in levels[1:])])
    sizes, last = sorted(at), len(levels) - 1

    def part(size: int, i: int, j: int) -> float:
        return min((t[j] - t[i] if math.isfinite(t[j]) else math.inf) for t in at[size])

    least = {(size, j): part(size, 0, j) for size in sizes for j in range(last + 1)}
    for _ in range(2):  # switches
        least = {
            (size, j): min(
                least[before, i] + part(size, i, j) for before in sizes if before <= size for i in range(j + 1)
            )
            for size in sizes for j in range(last + 1)
        }  # fmt: skip
    return min(least[size, last] for size in sizes)


def row_of(
    w: Workload, law: str, line: tuple[float, float], scored: str, grid: dict[tuple[int, float], list[dict[str, Any]]],
    chosen: list[dict[str, Any]], initial: float, planned: int,
) -> dict[str, Any]:  # fmt: skip
    """Auto and the usual defaults over the oracle, for one law and one way of scoring."""
    column, (a, b) = SCORED[scored], line

    target = target_of(grid, column, initial, planned)
    times = {setting: seconds(runs, target, column, a, b) for setting, runs in grid.items()}
    best, least = min(times, key=lambda s: times[s]), min(n for n, _ in times)
    rate = min({r for _, r in grid}, key=lambda r: abs(math.log(r / w.lr)))
    final = [lowest(r, column) for r in chosen]
    oracle_final = [lowest(r, column) for r in grid[best]]
    return {
        "workload": w.name,
        "scored": scored,
        "law": law,
        "oracle": f"{best[0]} at {best[1]:.2g}",
        "auto": ", ".join(
            f"{r['plan']['batch'][0]}{'' if r['batch'] == r['plan']['batch'][0] else '->' + str(r['batch'])} "
            f"at {r['plan']['lr'][0]:.2g}" for r in chosen
        ),
        "regret": seconds(chosen, target, column, a, b) / times[best],
        "paid in full": seconds(chosen, target, column, a, b, paid="in full") / times[best],
        "without probing": seconds(chosen, target, column, a, b, paid="nothing") / times[best],
        "oracle by other seeds": statistics.mean(
            seconds([grid[by_others(grid, seed, target, column, a, b)][seed]], target, column, a, b)
            for seed in range(len(chosen))
        ) / times[best],
        "batch alone": statistics.mean(
            min((v for (n, _), v in times.items() if n == max(least, r["plan"]["batch"][0])), default=math.inf)
            / times[best] for r in chosen
        ),
        "schedule": scheduled(grid, initial, target, column, a, b) / times[best],
        **({} if not math.isclose(rate, w.lr) else {
            "batch 32": times.get((32, rate), math.inf) / times[best],
            "batch 128": times.get((min(128, max(n for n, _ in grid)), rate), math.inf) / times[best],
            "largest": times[(max(n for n, _ in grid), rate)] / times[best],
        }),
        "probing": statistics.mean(
            (a * r["trial"][0] + b * r["trial"][1]) / (a * r["curve"][-1][0] + b * r["curve"][-1][1]) for r in chosen
        ),
        "examples": statistics.mean(r["trial"][1] / planned for r in chosen),
        "final": statistics.mean(final),
        "oracle final": statistics.mean(oracle_final),
        "sd": statistics.stdev(oracle_final) if len(oracle_final) > 1 else math.nan,
    }  # fmt: skip


def _line(t: Any, sizes: list[int]) -> list[float]:
    found = measure_throughput(t, sizes, budget=10.0, repeats=9)
    return [found.a, found.b]


def geometric(values: list[float]) -> float:
    return math.exp(statistics.mean(math.log(v) for v in values)) if values else math.nan


STORY = (
    "What is tried before a run began to cost 1.5% of it at most on 30 November (5% before), with these rows in "
    "sight: the run begins with the best batch at a noise scale of 128, which a measured one is taken together with,"
    " and rates race where twenty steps are half a percent of the run, which they are in none of these. So all rates"
    " here are the defaults. Before, with the same runs of the oracle, table, table-momentum and noisy-labels took "
    "1.24 times its time by the averaged weights, at worst 1.59, paid in full: 1.11 without what was tried, and "
    "where a race had doubled the rate in seven noisy steps (noisy-labels at K=512) 1.47 even so.",
    "",
    "A rate that is too small rises by itself since then, where gradients go on to point one way (docs/choice.md, "
    "9.): characters' best rate is three times the default (a GRU over 32 numbers of a character); without that its "
    "regret was 1.39 to 1.46. The threshold was set on these nine and on eleven sets of never_worse.py. A run of 187 "
    "steps, as of characters at batch 128, is too short to tell in one of three seeds. A default of 0.03 for momentum "
    "in place of 0.02 was tried: table-momentum 0.95 to 1.0 for 1.04 to 1.22, cnn-momentum 0.98 to 1.67 for 0.90 to "
    "1.10, so it was left.",
    "",
    "text was missed at all laws by the averaged weights, at all but K=8 by the last ones: no batch from 64 up gets "
    "there at any rate of the grid but 64 by the last weights, 16 at 0.027 does; small batches generalise better "
    "there, which no measurement at the start of a run can see. Where its rows are learned by heart, the open weight "
    "decay is raised now, and all its runs get there, most of them below the oracle's own end (1.38): a held-out loss "
    "that ended at 1.43 to 1.46 at its best, and above 2 at the end, ends at 1.36. Batch 16 is there sooner where a "
    "step of it costs little (K=8, K=32). That rule was made for this workload, and then tried on twenty others "
    "(never_worse.md). Since the evening such a run goes back to its best weights first. The rows below are of "
    "before; text alone was run again: by the averaged weights 1.99, 1.18, 0.47 and 0.24 for 2.23, 1.46, 0.54 "
    "and 0.29, by the last ones 0.63 for 0.75 at K=512 and else the same, ends 0.01 to 0.02 lower. Where the "
    "means leave out a target that was not reached, they flatter whoever missed it.",
    "",
    "handful looks at its own averaged weights (`ema`) where the rate is open, and the oracle, whose rate is given, "
    "at its last ones; so the last weights flatter handful, and the averages, taken on both sides by this script, do"
    " not. `batch alone`: auto's batch with the grid's best rate for it, nothing paid for choosing: what is lost by "
    "the batch, and not by the rate or the probing. The oracle is the best of its settings by the very seeds that it"
    " is scored on: see `the oracle by other seeds`. What other rules for the rate do here, by an older code: "
    "[choice_rules.md](choice_rules.md).",
    "",
)
UNSEEN_STORY = (
    "The six were named before any of them was run, and scored once, on 29 November: 1.19 times the oracle's time by"
    " the last weights (worst 2.12), 1.44 by the averaged ones (2.21), 1 of 20 not reached. In the morning of 30 "
    "November, for whose rules four had been seen and moved-digits not: 1.00 (1.44) and 1.21 (1.94), 2 of 25 not "
    "reached. Below with the rules of that evening, which were set on none of them; their speakers, patches, arm and "
    "chaos had 0.99 (1.31) and 1.15 (1.91) that morning. What became worse is patches by the averaged weights (1.01 "
    "to 1.35) and the ends of speakers (0.02 to 0.03): in runs of five epochs at a constant rate a weight decay by "
    "sixteen epochs costs (at K=32, 0.01 in its place: speakers 0.015 for 0.035, patches 0.963 for 0.973), and a "
    "rate that rises does (patches 0.953 with neither). By the usual schedule it does not: five epochs on 13 of "
    "that evening's sets (never_worse.md), two seeds, have 0.995 of the loss that 0.01 has. Targets and oracle are as "
    "in [choice.md](choice.md); shorter runs and a coarser grid than there. In use, runs so short measure nothing: "
    "they take the learned rate and a usual batch; here the laws of step time make them measure.",
    "",
)


def write(
    rows: list[dict[str, Any]], left_out: list[str], seeds: int, rates: int, *, quick: bool, unseen: bool, near: bool
) -> None:
    columns = ["workload", "law", "oracle", "auto", "regret", "paid in full", "without probing", "batch alone",
               "schedule", "batch 32", "batch 128", "largest", "probing", "examples", "final", "oracle final",
               "sd"]  # fmt: skip
    columns = [name for name in columns if name in rows[0]]

    def say(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    known = UNSEEN if unseen else WORKLOADS
    text = [
        "# The choice of batch and learning rate, against an oracle",
        "",
        f"{platform.machine()}, {platform.system()}, torch {torch.__version__}, one thread; {seeds} seeds, "
        + (
            "the settings of the grid that were the oracle's before, and their neighbours. "
            if near
            else f"{rates} learning rates a factor 3 apart{', quick' if quick else ' (text and characters: 6)'}, every "
            f"power of two from {16 if quick else '8 or 16'} to a fiftieth of the rows. "
        )
        + f"`python benchmarks/choice.py{' --quick' * quick}{' --unseen' * unseen}"
        f"{f' --near --seeds {seeds}' * near}`; its first page says how times, "
        "targets and scores are made. "
        "Times are a * steps + b * examples, so that a busy machine does not enter; ratios are to the oracle's. "
        "`probing` and `examples`: what was tried and thrown away, as shares of the run's time and examples. `final`: "
        "the lowest validation loss of the whole run, `sd` that of the oracle's seeds.",
        "",
        *(UNSEEN_STORY if unseen else STORY),
        *(f"{name} was left out: its data are not there." for name in left_out),
        f"Not run this time: {', '.join(sorted({*known} - {row['workload'] for row in rows}) or ['nothing'])}.",
    ]
    for scored in SCORED:
        part = [row for row in rows if row["scored"] == scored]
        text += ["", f"## Scored by the {scored} weights", "", *summary(part), ""]
        text += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        text += ["| " + " | ".join(say(row[c]) for c in columns) + " |" for row in part]
    out = HERE / "results" / f"choice{'_unseen' * unseen}{'_quick' * (quick and not unseen)}.md"
    out.parent.mkdir(exist_ok=True)
    out.write_text("\n".join(text) + "\n")
    print("\n".join(line for line in text[5:] if not line.startswith("|")))


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """Geometric mean and worst ratio, for auto and for what people use; and what the probing cost."""
    text = []
    titles = {"regret": "auto", "paid in full": "auto paid in full", "without probing": "auto without probing",
              "oracle by other seeds": "the oracle by other seeds",
              "schedule": "three batches and two switches"}  # fmt: skip
    for name in (
        "regret",
        "paid in full",
        "without probing",
        "oracle by other seeds",
        "batch alone",
        "schedule",
        "batch 32",
        "batch 128",
        "largest",
    ):
        if name not in rows[0]:
            continue
        known = [row[name] for row in rows if math.isfinite(row[name])]
        missed = len(rows) - len(known)
        worst = max(known, default=math.nan)
        text.append(
            f"- {titles.get(name, name)}: geometric mean {geometric(known):.2f}, worst {worst:.2f}"
            + (f", target not reached in {missed} of {len(rows)}" if missed else "")
        )
    worse = [row for row in rows if row["final"] > row["oracle final"] + row["sd"]]
    spent = [row["examples"] for row in rows]
    text.append(f"- final loss of auto within one standard deviation of the oracle's or lower in "
                f"{len(rows) - len(worse)} of {len(rows)}")  # fmt: skip
    time_spent = [row["probing"] for row in rows]
    text.append(f"- probing: {statistics.mean(spent):.1%} of the examples, at most {max(spent):.1%}; of the time "
                f"{statistics.mean(time_spent):.1%}, at most {max(time_spent):.1%}")  # fmt: skip
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description="batch and learning rate chosen by handful, against an oracle")
    parser.add_argument("workloads", nargs="*", help=f"of {', '.join(WORKLOADS)}; all by default")
    parser.add_argument("--grid", action="store_true", help="only the runs that the oracle chooses from")
    parser.add_argument("--quick", action="store_true", help="a third of the grid, two seeds, a third of the epochs")
    parser.add_argument("--near", action="store_true", help="of the grid only what was the oracle's, and neighbours")
    parser.add_argument("--seeds", type=int, help="2 with --quick, else 3")
    parser.add_argument("--unseen", action="store_true", help=f"{', '.join(UNSEEN)}")
    given = parser.parse_args()
    known = UNSEEN if given.unseen else WORKLOADS
    torch.set_num_threads(1)
    seeds, count, least = (2, 3, 16) if given.quick else (3, 5, 8)
    seeds = given.seeds or seeds
    rows: list[dict[str, Any]] = []
    left_out = []
    for name in given.workloads or known:
        if name not in known:
            parser.error(f"there is no workload '{name}'; known: {', '.join(known)}")
        w = known[name]
        if given.quick:
            w.epochs = max(4, w.epochs // 2)
        if not w.there:
            left_out.append(name)
            continue
        rates = [w.lr * 3.0**k for k in (range(3) if given.quick else range(-1, w.rates - 1))]
        if given.grid:
            every_setting(w, w.data(), seeds, rates, least, near=given.near)
            continue
        rows += measure(w, seeds, rates, least, near=given.near)
        write(rows, left_out, seeds, count, quick=given.quick, unseen=given.unseen, near=given.near)


if __name__ == "__main__":
    main()
