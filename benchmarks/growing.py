"""A batch that grows against the best that does not, on the laws T = K + B: `python benchmarks/growing.py`.

Scored as choice.py scores: constant rates, the averaged weights, time = K * steps + examples, everything that was tried
and thrown away paid for. Fixed: every power of two from 16 to a fiftieth of the rows at three rates, a factor of 3
apart; the best of all by time to the target, mean over seeds, which is the target's own: the lowest mean loss that any
of them has at half of the examples, plus 3% of the way there from the start.

auto: batch, rate and growth as `fit` chooses them by the law.  fixed: the same without growth.  from a quarter: a
quarter of the best fixed batch, at the best rate for that size, and growth.  schedule: choice.py's oracle of three
batches and two switches.  The rows are many, so that batches of up
to 1,024 are allowed. Runs are cached in benchmarks/.cache/choice; writes benchmarks/results/growing.md.
"""

import argparse
import math
import platform
import statistics
from typing import Any

import numpy as np
import torch
from choice import SCORED, cached, every_setting, fresh, scheduled, seconds, target_of, train
from choice_workloads import HERE, Split, Workload, mlp, split
from never_worse_data import classes, net
from sklearn import datasets

from handful.plan.build import assemble
from handful.plan.probe.decide import batch_cap
from handful.plan.probe.step_time import Throughput, powers_of_two
from handful.training.watch.evaluation import evaluate

LAWS = (128, 512)
ROWS = 38_000
CODE = "1"


def friedman() -> Split:
    x, y = datasets.make_friedman1(ROWS, noise=2.0, random_state=0)
    return split(x.astype(np.float32), ((y - y.mean()) / y.std()).astype(np.float32)[:, None], 2000)


def clusters() -> Split:
    return split(*classes(ROWS, 32, n_informative=16, n_classes=10, flip_y=0.2), 2000)


WORKS = (
    Workload("many-clusters", clusters, mlp, 4, least=16),
    Workload("many-friedman", friedman, lambda: net(10, 64, 64, 1), 4, least=16),
)


def measure(w: Workload, seeds: int) -> list[str]:
    """A line for each law."""
    data = w.data()
    n = len(data[0][0])
    sizes = powers_of_two(batch_cap(n), 16)
    grid = every_setting(w, data, seeds, [w.lr, 3 * w.lr, 9 * w.lr], 16)
    t = assemble(fresh(w, 0), data[0], {"valid": data[1], "batch": 32, "lr": w.lr, "metrics": None, "quiet": True})
    assert t.valid is not None
    initial = evaluate(t.objective, t.valid.epoch(512))["loss"]
    column = SCORED["averaged"]
    target = target_of(grid, column, initial, n * w.epochs)
    lines = []
    for k in LAWS:
        law = Throughput.law(float(k), 1.0, sizes)
        times = {setting: seconds(runs, target, column, k, 1) for setting, runs in grid.items()}
        best = min(times, key=lambda s: times[s])
        quarter = min((s for s in grid if s[0] == max(16, best[0] // 4)), key=lambda s: times[s])
        growth = f"growth(at_most={sizes[-1]}, a={k}, b=1)"

        def run(name: str, seed: int, law: Throughput = law, **options: Any) -> dict[str, Any]:
            what = {"growing": CODE, "as": name, "law": int(law.a), "seed": seed}
            return cached(w, what, lambda: train(w, data, seed, law, **options))  # type: ignore[no-any-return]

        found = {
            "auto": [run("auto", seed) for seed in range(seeds)],
            "fixed": [run("fixed", seed, batch_growth=None) for seed in range(seeds)],
            "from a quarter": [
                run(f"from {quarter}", seed, batch=quarter[0], lr=quarter[1], batch_growth=growth)
                for seed in range(seeds)
            ],
        }  # fmt: skip
        ratios = {name: seconds(runs, target, column, k, 1) / times[best] for name, runs in found.items()}
        ratios["the quarter, fixed"] = times[quarter] / times[best]
        ratios["schedule"] = scheduled(grid, initial, target, column, k, 1) / times[best]
        ways = "; ".join(
            " ".join(str(size) for size in dict.fromkeys([r["plan"].get("batch", [quarter[0]])[0],
                     *(int(note.split("->")[1].split(":")[0]) for note in r["notes"] if "->" in note)]))
            for r in (*found["auto"], *found["from a quarter"])
        )  # fmt: skip
        shown = " | ".join(f"{v:.3f}" for v in ratios.values())
        lines.append(f"| {w.name} | K={k} | {best[0]} at {best[1]:.3g} | {shown} | {ways} |")
        print(lines[-1], flush=True)
    return lines


def ideal(k: float, low: float, high: float) -> float:
    """The time to a target of a batch that is the best power of two at every moment, nothing paid for knowing it, over
    that of the best which does not grow: the noise scale rises from `low` to `high`, and each doubling of it takes as
    much progress. The time of a piece of progress is T(B) (B + phi) / B (DESIGN.md).

    >>> round(ideal(128, 20, 1000), 3)
    0.923
    """
    phi, sizes = np.geomspace(low, high, 4001), 2.0 ** np.arange(16)
    cost = (k + sizes[:, None]) * (sizes[:, None] + phi) / sizes[:, None]
    return float(cost.min(0).mean() / cost.mean(1).min())


def bound(low: float, high: float) -> float:
    """The least that `ideal` could be for any step time a + b B, were every size allowed and not only powers of two.

    At its best size sqrt(K phi) a piece of progress takes (sqrt K + sqrt phi)^2, and at one size for all
    (sqrt K + sqrt m)^2 on average, m the mean of phi. With s the mean of sqrt phi, x = sqrt(m / K) and c = s / sqrt m
    the ratio is 1 - 2 (1 - c) x / (1 + x)^2: least where K = m, where it is (1 + c) / 2. So 0.9 needs c <= 0.8.

    >>> round(bound(20, 1000), 3), round(bound(1, 250), 3)
    (0.938, 0.899)
    """
    rise = math.sqrt(high / low)
    return (1 + 2 * (rise - 1) / math.sqrt((rise**2 - 1) * 2 * math.log(rise))) / 2


def theory() -> list[str]:
    """The page's part on what can be gained at all."""
    ranges = [(20, 200), (20, 1000), (20, 5000), (5, 5000), (100, 10_000)]
    lines = [
        f"| {low:,} to {high:,} | "
        + " | ".join(f"{v:.3f}" for v in (*(ideal(k, low, high) for k in LAWS), bound(low, high)))
        + " |"
        for low, high in ranges
    ]
    each = [[ideal(k, *ends) for ends in ranges] for k in LAWS] + [[bound(*ends) for ends in ranges]]
    means = [math.exp(statistics.mean(map(math.log, values))) for values in each]
    return [
        "## What can be gained at all", "",
        "By the law that the batch is chosen with: the best power of two at every moment, known for nothing, over the "
        "best fixed batch, where the noise scale rises evenly in its logarithm. Where most of the run is spent at the "
        "high end, it is less. Any size, any law: the least ratio that any step time a + b B allows, were sizes not "
        "powers of two (of which the best fixed one is up to 3% off, as in the other columns): (1 + c) / 2, c the mean "
        "of the noise scale's root over the root of its mean. A bar of 0.9 needs c of 0.8 or less: a noise scale that "
        "rises at least 250 times, with K just at its mean.",
        "", f"| noise scale | {' | '.join(f'K={k}' for k in LAWS)} | any size, any law |",
        "|---" * (2 + len(LAWS)) + "|",
        *lines,
        f"| geometric mean | {' | '.join(f'{m:.3f}' for m in means)} |",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", type=lambda s: s.split(","), default=[w.name for w in WORKS])
    parser.add_argument("--theory", action="store_true", help="only what can be gained at all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.theory:
        print("\n".join(theory()))
        return
    lines = [line for w in WORKS if w.name in args.only for line in measure(w, args.seeds)]
    cells = [[float(cell) for cell in line.split("|")[4:9]] for line in lines]
    means = [math.exp(statistics.mean(map(math.log, column))) for column in zip(*cells, strict=True)]
    head = (
        "workload",
        "law",
        "best fixed",
        "auto",
        "auto, fixed",
        "from a quarter",
        "the quarter, fixed",
        "schedule",
        "sizes",
    )
    page = [
        "# A batch that grows, against the best that does not", "",
        f"`python benchmarks/growing.py`, which says what is measured; {platform.machine()}, torch "
        f"{torch.__version__}, {args.seeds} seeds, {ROWS - 2000:,} rows, 4 epochs. Ratios: time to the target over the "
        "best fixed one's.",
        "",
        f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines,
        "| geometric mean | | | " + " | ".join(f"**{m:.3f}**" for m in means) + " | |",
        "", *theory(),
    ]  # fmt: skip
    (HERE / "results" / "growing.md").write_text("\n".join(page) + "\n")
    print(page[-1])


if __name__ == "__main__":
    main()
