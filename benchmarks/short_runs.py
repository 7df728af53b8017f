"""Short runs, of about 1, 3, 10 and 30 seconds: does measuring earn its cost? `python benchmarks/short_runs.py`.

    python benchmarks/short_runs.py [--seconds 1,3,10,30] [--seeds 0,1,2] [--only friedman,pictures]

Each workload has as many rows as Adam at batch 32 takes about so many seconds of the processor for in 15 epochs, which
is the length that everyone plans. Contenders, who take turns: handful as it decides ("open"), made to measure
("measured"), made to take its defaults ("default"); plain torch with Adam at 1e-3 in batches of 32 and 128, which looks
at the held-out rows after every epoch. Time: seconds of the processor, from the call to the first look that shows the
goal, everything counted; another process may slow them, but not one contender alone. Goal: 5% of the way back from the
lowest held-out loss that Adam at batch 32 reaches, from another seed, to the loss of the first weights. A contender
that never gets there counts with twice the time of its whole run. Where "open" and "default" are one run, whose batch
may not grow either and whose held-out losses are the same to the bit, their ratio is 1, whatever the clock says of the
two. One thread. Writes
benchmarks/results/short_runs.md.
"""

import argparse
import math
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from bench_score import spirals
from choice_workloads import HERE, cnn, mlp, pictures
from never_worse import loss_of, score
from never_worse_data import classes, net
from sklearn import datasets
from torch import nn

import handful
from handful.plan.probe import decide

EPOCHS = 15
Rows = tuple[Any, Any]
Found = tuple[float, bool, tuple[Any, ...]]  # seconds, whether the goal was reached; held-out losses, batch_growth


def friedman(n: int) -> Rows:
    x, y = datasets.make_friedman1(n, noise=1.0, random_state=0)
    return x.astype(np.float32), ((y - y.mean()) / y.std()).astype(np.float32)[:, None]


def many_spirals(n: int) -> Rows:
    x, y = spirals(n)
    return x.astype(np.float32) * 2, y.astype(np.int64)


def few_pictures(n: int) -> Rows:
    (x, y), _ = pictures()
    return x[:n], y[:n].astype(np.int64)


# rows a second of Adam at batch 32 in 15 epochs, the rows, and a model for them
WORKS: dict[str, tuple[int, Callable[[int], Rows], Callable[[], nn.Module]]] = {
    "friedman": (6000, friedman, lambda: net(10, 64, 64, 1)),
    "classes": (6000, lambda n: classes(n, 32, n_informative=16, n_classes=10, flip_y=0.1), mlp),
    "spirals": (6000, many_spirals, lambda: net(2, 128, 3)),
    "pictures": (600, few_pictures, lambda: cnn(3, 384)),
}


def fresh(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return make()


def plain(model: nn.Module, train: Rows, valid: Rows, batch: int, goal: float) -> tuple[Found, float]:
    """Adam at 1e-3; when the goal was reached, and the lowest loss."""
    started, lowest = time.process_time(), math.inf
    x, y = (torch.as_tensor(v) for v in train)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        model.train()
        for rows in torch.randperm(len(y)).split(batch):
            optimizer.zero_grad()
            loss_of(model(x[rows]), y[rows]).backward()
            optimizer.step()
        lowest = min(lowest, score(model, valid)["loss"])
        if lowest <= goal:
            return (time.process_time() - started, True, ()), lowest
    return (2 * (time.process_time() - started), False, ()), lowest


class _Enough(Exception):
    pass


def ours(model: nn.Module, train: Rows, valid: Rows, seed: int, goal: float, short: float | None) -> Found:
    """handful; short: the seconds of a run that takes the defaults, where it is not to decide itself."""
    started, usual, losses = time.process_time(), decide.SHORT, list[Any]()

    def look(event: str, info: dict[str, Any]) -> None:
        if event == "evaluate":
            losses.append(info["valid_loss"])
            if losses[-1] <= goal:
                raise _Enough
        elif event == "start":
            losses.append(info["plan"].choices["batch_growth"].value)

    try:
        decide.SHORT = usual if short is None else short
        handful.fit(
            model,
            train,
            valid=valid,
            until=f"epochs({EPOCHS})",
            preprocess=None,
            seed=seed,
            quiet=True,
            callbacks=[look],
        )
    except _Enough:
        return time.process_time() - started, True, tuple(losses)
    finally:
        decide.SHORT = usual
    return 2 * (time.process_time() - started), False, tuple(losses)


def measure(name: str, seconds: int, seeds: list[int]) -> dict[str, list[Found]]:
    """The times of all contenders, one a seed."""
    each, rows, make = WORKS[name]
    x, y = rows(round(each * seconds / 0.85))
    order = np.random.default_rng(0).permutation(len(y))
    held, kept = np.split(order, [round(0.15 * len(y))])
    train, valid = (x[kept], y[kept]), (x[held], y[held])
    first = fresh(make, 99)
    before = score(first, valid)["loss"]
    best = plain(first, train, valid, 32, 0.0)[1]
    goal = best + 0.05 * (before - best)
    contenders: dict[str, Callable[[int], Found]] = {
        "open": lambda s: ours(fresh(make, s), train, valid, s, goal, None),
        "measured": lambda s: ours(fresh(make, s), train, valid, s, goal, -1.0),
        "default": lambda s: ours(fresh(make, s), train, valid, s, goal, math.inf),
        "Adam 32": lambda s: plain(fresh(make, s), train, valid, 32, goal)[0],
        "Adam 128": lambda s: plain(fresh(make, s), train, valid, 128, goal)[0],
    }  # fmt: skip
    ours(fresh(make, 98), (x[:500], y[:500]), valid, 98, 0.0, -1.0)  # what a process does once is not counted
    found: dict[str, list[Found]] = {contender: [] for contender in contenders}
    for seed in seeds:
        for contender, run in contenders.items():
            found[contender].append(run(seed))
    return found


def mean(values: list[float]) -> float:
    return math.exp(statistics.mean(map(math.log, values)))


def ratios(found: dict[str, list[Found]], over: str) -> list[float]:
    return [1.0 if a[2] == b[2] else a[0] / b[0] for a, b in zip(found["open"], found[over], strict=True)]


def shown(found: list[Found]) -> str:
    missed = sum(not reached for _, reached, _ in found)
    return f"{statistics.median(s for s, *_ in found):.2f}" + (f" (missed {missed} of {len(found)})" if missed else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=lambda s: [int(v) for v in s.split(",")], default=[1, 3, 10, 30])
    parser.add_argument("--seeds", type=lambda s: [int(v) for v in s.split(",")], default=[0, 1, 2])
    parser.add_argument("--only", type=lambda s: s.split(","), default=list(WORKS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    others = ("default", "measured", "Adam 32", "Adam 128")
    all_ratios: dict[str, list[float]] = {name: [] for name in others}
    worst = 0.0
    lines = [
        "| workload, seconds | open | " + " | ".join(others) + " | open over default (of seeds) |",
        "|---" * 7 + "|",
    ]
    for seconds in args.seconds:
        for name in args.only:
            found = measure(name, seconds, args.seeds)
            for other in others:
                all_ratios[other] += ratios(found, other)
            to_default = ratios(found, "default")
            worst = max(worst, mean(to_default))
            cells = [shown(found[c]) for c in ("open", *others)]
            lines.append(f"| {name}, {seconds} | " + " | ".join(cells)
                         + f" | {mean(to_default):.2f} ({min(to_default):.2f} to {max(to_default):.2f}) |")  # fmt: skip
            print(lines[-1], flush=True)
    page = [
        "# Short runs", "",
        f"`python benchmarks/short_runs.py`, which says what is measured; {platform.machine()}, torch "
        f"{torch.__version__}, one thread; {len(args.seeds)} seeds in turn, median seconds of the processor.", "",
        *lines, "",
        f"Open over default: geometric mean {mean(all_ratios['default']):.2f}, worst workload {worst:.2f}; over what "
        f"was made to measure {mean(all_ratios['measured']):.2f}. Sooner than Adam at batch 32 by "
        f"{1 / mean(all_ratios['Adam 32']):.2f}, at 128 by {1 / mean(all_ratios['Adam 128']):.2f} (geometric means).",
    ]  # fmt: skip
    (HERE / "results" / "short_runs.md").write_text("\n".join(page) + "\n")
    print(page[-1])


if __name__ == "__main__":
    main()
