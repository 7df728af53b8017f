"""Other rules for the learning rate, on the workloads of choice.py: `python benchmarks/choice_rules.py [workload ...]`.

Each rule gets the batch that handful chose, seed by seed, and is scored as choice.py scores: time to the same target
over the oracle's, what it tried before the run paid for. With their authors' code and defaults:

prodigy: Adam with steps from the distance travelled (Mishchenko & Defazio 2023, arXiv:2306.06101), lr=1.
dog: SGD with steps of distance over gradients (Ivgi et al. 2023, arXiv:2302.12022), lr=1.
and, from a range test of 100 steps from 1e-7 to 10 with the workload's own optimizer, as fastai's `lr_find` reads it:
valley: half-way down the longest fall of the smoothed loss (its default), minimum / 10: a tenth of the rate where
that loss is lowest (Smith 2017, arXiv:1506.01186). The test ends where a loss is four times the
lowest; fastai asks that of the smoothed loss.

The first two are left out unless prodigyopt and dog-optimizer are installed (`pip install -e '.[bench]'`). What
choice.py has cached is not run again. The table goes to benchmarks/results/choice_rules.md.
"""

import contextlib
import math
import platform
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from choice import CODE, LAWS, SCORED, auto, cached, every_setting, fresh, geometric, seconds, target_of, train
from choice_workloads import HERE, WORKLOADS, Workload

from handful.plan.build import assemble
from handful.plan.probe.decide import batch_cap
from handful.plan.probe.step_time import Throughput, powers_of_two
from handful.plan.probe.steps import step, untouched
from handful.training.training import Training
from handful.training.watch.evaluation import evaluate
from handful.training.watch.guards import NonFiniteLoss, OutOfMemory

SEEDS = 3
STEPS, LOW, HIGH = 100, 1e-7, 10.0
SMOOTH = 0.98
SAID = ("race", "valley", "minimum / 10")  # rules that choose a rate before the run


def valley(rates: list[float], losses: list[float]) -> float:
    """The rate half the length of the longest decreasing subsequence before its end: a third and a sixth of it on.

    >>> valley([1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0], [3.0, 2.9, 2.5, 2.2, 2.0, 1.9, 4.0])
    0.01
    """
    length: list[int] = []
    for i, loss in enumerate(losses):
        length.append(1 + max((length[j] for j in range(i) if losses[j] > loss), default=0))
    end = int(np.argmax(length))
    third = length[end] / 3
    return rates[max(0, end - length[end] + int(third) + int(third / 2))]


def range_test(t: Training, size: int, rates: list[float]) -> list[float]:
    """A step of `size` rows at each rate, until one breaks off: the loss at each, of its mini-batch before the update,
    so it is of the weights after the rates before it (Smith 2017). The training is left as it was."""
    base, losses = t.state.optimizer.param_groups[0]["initial_lr"], list[float]()
    with untouched(t):
        t.objective.model.train()
        for rate in rates:
            try:
                losses.append(step(t, t.batches.at(t.state.position, size), rate / base))
            except (NonFiniteLoss, OutOfMemory):
                break
            if losses[-1] > 4 * max(losses[0], min(losses)):
                return losses[:-1]
    return losses


def tested(w: Workload, data: Any, size: int, seed: int) -> dict[str, Any]:
    """The rates that a range test suggests, and the steps it took."""
    t = assemble(fresh(w, seed), data[0], {"loss": w.loss, "optimizer": w.optimizer, "batch": size, "lr": w.lr,
                 "metrics": None, "quiet": True, "threads": 1, "until": "epochs(1)", "seed": seed})  # fmt: skip
    every = np.geomspace(LOW, HIGH, STEPS).tolist()
    curve, mean = [], 0.0
    for k, loss in enumerate(range_test(t, size, every)[1:]):
        mean = SMOOTH * mean + (1 - SMOOTH) * loss
        curve.append(mean / (1 - SMOOTH ** (k + 1)))
    taken = min(len(curve) + 1, STEPS)
    kept = slice(STEPS // 10, -5)  # as fastai leaves out both ends
    rates, losses = every[: len(curve)][kept], curve[kept]
    return {
        "valley": valley(rates, losses),
        "minimum / 10": rates[int(np.argmin(losses))] / 10,
        "steps": taken,
    }


def by_range_test(name: str) -> Callable[[Workload, Any, int, int], dict[str, Any]]:
    def run(w: Workload, data: Any, size: int, seed: int) -> dict[str, Any]:
        found = cached(w, {"range test": size, "seed": seed}, lambda: tested(w, data, size, seed))
        result = train(w, data, seed, batch=size, lr=found[name])
        return result | {"trial": [found["steps"], found["steps"] * size], "lr": found[name]}

    return run


def by_optimizer(make: Any) -> Callable[[Workload, Any, int, int], dict[str, Any]]:
    def run(w: Workload, data: Any, size: int, seed: int) -> dict[str, Any]:
        return train(w, data, seed, batch=size, lr=1.0, optimizer=make)

    return run


RULES: dict[str, Callable[[Workload, Any, int, int], dict[str, Any]]] = {}
with contextlib.suppress(ImportError):
    from prodigyopt import Prodigy

    RULES["prodigy"] = by_optimizer(Prodigy)
with contextlib.suppress(ImportError):
    from dog import DoG

    RULES["dog"] = by_optimizer(DoG)
RULES |= {name: by_range_test(name) for name in ("valley", "minimum / 10")}


def measure(w: Workload) -> list[dict[str, Any]]:
    """A row for each law and way of scoring; runs of choice.py that are not in the cache are made first."""
    data = w.data()
    planned, cap = len(data[0][0]) * w.epochs, batch_cap(len(data[0][0]))
    grid = every_setting(w, data, SEEDS, [w.lr * 3.0**k for k in range(-1, w.rates - 1)], 8)
    t = assemble(fresh(w, 0), data[0], {"valid": data[1], "loss": w.loss, "optimizer": w.optimizer, "batch": 32,
                 "lr": w.lr, "metrics": None, "quiet": True, "threads": 1, "until": "epochs(1)"})  # fmt: skip
    assert t.valid is not None
    initial = evaluate(t.objective, t.valid.epoch(512))["loss"]
    rows = []
    for k in LAWS:
        law = (float(k), 1.0)
        chosen = [
            cached(w, {"auto": CODE, "law": f"K={k}", "seed": seed},
                   lambda seed=seed, law=law: auto(w, data, seed, Throughput.law(*law, powers_of_two(cap, 4))))
            for seed in range(SEEDS)
        ]  # fmt: skip
        sizes = [int(r["plan"]["batch"][0]) for r in chosen]
        ruled = {
            name: [
                cached(w, {"rule": name, "batch": size, "seed": seed},
                       lambda rule=rule, size=size, seed=seed: rule(w, data, size, seed))
                for seed, size in enumerate(sizes)
            ]
            for name, rule in RULES.items()
        }  # fmt: skip
        for scored, column in SCORED.items():
            target = target_of(grid, column, initial, planned)
            least = min(seconds(runs, target, column, *law) for runs in grid.values())
            row = {"workload": w.name, "law": f"K={k}", "scored": scored, "batch": ", ".join(map(str, sizes))}
            for name, runs in {"race": chosen, **ruled}.items():
                row[name] = seconds(runs, target, column, *law, paid="in full") / least
            row["rates"] = "; ".join(
                said(name, runs) for name, runs in {"race": chosen, **ruled}.items() if name in SAID
            )
            rows.append(row)
    return rows


def said(rule: str, runs: list[dict[str, Any]]) -> str:
    """The rates that a rule chose, one a seed."""
    return f"{rule} " + ", ".join(f"{r['plan']['lr'][0]:.2g}" for r in runs)


def write(rows: list[dict[str, Any]]) -> None:
    names = ["race", *RULES]
    text = [
        "# Rules for the learning rate",
        "",
        f"{platform.machine()}, {platform.system()}, torch {torch.__version__}, one thread; {SEEDS} seeds. "
        "`python benchmarks/choice_rules.py`; its first page says what the rules are. Every rule runs at the batch "
        "that handful chose; time to choice.py's target over its oracle's, inf where a seed does not reach it. `race`: "
        "handful's, its noise scale and first steps paid for, too; it was made while looking at these workloads (see "
        "[choice.md](choice.md)), the others were not.",
        *(f"{name} was left out: it is not installed." for name in ("prodigy", "dog") if name not in RULES),
    ]
    for scored in SCORED:
        part = [row for row in rows if row["scored"] == scored]
        text += ["", f"## Scored by the {scored} weights", ""]
        for name in names:
            known = [row[name] for row in part if math.isfinite(row[name])]
            missed = len(part) - len(known)
            text.append(f"- {name}: geometric mean {geometric(known):.2f}, worst {max(known, default=math.nan):.2f}, "
                        f"target not reached in {missed} of {len(part)}")  # fmt: skip
        for name in RULES:
            shared = [(row["race"], row[name]) for row in part if all(map(math.isfinite, (row["race"], row[name])))]
            times = geometric([b / a for a, b in shared])
            text.append(f"- where both reach it, {name} takes {times:.2f} times as long as the race ({len(shared)} "
                        f"rows; less in {sum(b < a for a, b in shared)})")  # fmt: skip
        text += [
            "",
            "| " + " | ".join(["workload", "law", "batch", *names, "rates"]) + " |",
            "|" + "---|" * (4 + len(names)),
        ]
        for row in part:
            cells = [row["workload"], row["law"], row["batch"], *(f"{row[n]:.3g}" for n in names), row["rates"]]
            text.append("| " + " | ".join(cells) + " |")
    out = HERE / "results" / "choice_rules.md"
    out.write_text("\n".join(text) + "\n")
    print("\n".join(line for line in text[3:] if not line.startswith("|")))


def main() -> None:
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name in sys.argv[1:] or WORKLOADS:
        if name not in WORKLOADS:
            raise SystemExit(f"there is no workload '{name}'; known: {', '.join(WORKLOADS)}")
        if WORKLOADS[name].there:
            rows += measure(WORKLOADS[name])
    write(rows)


if __name__ == "__main__":
    main()
