"""What a step costs as data, batch and run grow: it should not depend on the number of rows, nor on how far a run is.

    python benchmarks/growth.py [--most 1e6] [--steps 1e4] [--write]

A linear model of 8 numbers, SGD. Rows are a sparse file, mapped: its pages are zeros that take no space, so that 10^8
rows are 3.2 GB of addresses. Times are of the mini-batch alone (order, gather) and of the whole step, medians over
blocks of steps, microseconds; memory is what the process has gained since before the data were opened. In turn, so that
the machine's moods fall on all alike. The small form takes a minute or two; --most 1e8 --steps 1e6 some ten.
--write: benchmarks/results/growth.md
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import handful
from handful.data.base import Batch

BATCHES = (1, 16, 256, 4096, 65_536)
WIDTH, ROUNDS, BLOCK = 8, 5, 40


def mapped(n: int, folder: Path) -> handful.Source:
    x = np.memmap(folder / f"{n}.bin", dtype=np.float32, mode="w+", shape=(n, WIDTH))
    return handful.open({"x": x})


def memory() -> float:
    """MB that the process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Steps:
    """Mini-batches of a source, and steps on them, from a position on."""

    def __init__(self, source: handful.Source, batch: int, shuffle: str, position: int = 0) -> None:
        self.order = handful.Order(len(source), seed=1, shuffle=shuffle)
        self.batches = handful.Batches(source, self.order, prefetch=0)
        self.stream: Iterator[Batch] = self.batches.stream(position, batch)
        self.model = torch.nn.Linear(WIDTH, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01, fused=True)
        self.drawing: list[float] = []
        self.whole: list[float] = []
        self.first = self.block(1)[1]  # the first permutation, too

    def block(self, steps: int) -> tuple[float, float]:
        drawing, began = 0.0, time.perf_counter()
        for _ in range(steps):
            start = time.perf_counter()
            batch = next(self.stream)
            drawing += time.perf_counter() - start
            self.optimizer.zero_grad()
            self.model(batch.tensor("x")).square().mean().backward()
            self.optimizer.step()
        return 1e6 * drawing / steps, 1e6 * (time.perf_counter() - began) / steps

    def measure(self, steps: int) -> None:
        drawing, whole = self.block(steps)
        self.drawing.append(drawing)
        self.whole.append(whole)

    def cells(self) -> str:
        return (
            f"{statistics.median(self.drawing):,.0f} | {statistics.median(self.whole):,.0f} | {self.first / 1e3:,.0f}"
        )


def in_turn(runs: dict[str, Steps], steps: int) -> list[str]:
    for _ in range(ROUNDS):
        for run in runs.values():
            run.measure(steps)
    return [f"| {name} | {run.cells()} |" for name, run in runs.items()]


def head(first: str) -> list[str]:
    return ["", f"| {first} | mini-batch, us | step, us | the first one, ms |", "|---|---|---|---|"]


def by_run(steps: int) -> list[str]:
    """Whole runs of fit, with everything: their seconds a step, and the memory that they have taken more."""
    x, y = np.random.default_rng(0).normal(size=(1000, WIDTH)).astype(np.float32), np.arange(1000) % 2
    lines = [
        "",
        "| steps of `fit`, batch 1 | a step, us | memory, MB more | rows of the history |",
        "|---|---|---|---|",
    ]
    length = 1000
    while length <= steps:
        before = memory()
        run = handful.fit(
            torch.nn.Linear(WIDTH, 2), (x, y), valid=None, batch=1, lr=1e-3, until=f"steps({length})", quiet=True
        )
        lines.append(
            f"| {length:,} | {1e6 * run.state.seconds / length:,.0f} | {memory() - before:,.0f} | {len(run.history)} |"
        )
        length *= 10
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--most", type=float, default=1e6)
    parser.add_argument("--steps", type=float, default=1e4)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    page = ["# Growth", "", f"torch {torch.__version__}, one thread; `python benchmarks/growth.py`."]
    with tempfile.TemporaryDirectory() as name:
        rows = [10**k for k in range(3, 9) if 10**k <= args.most]
        before, sources = memory(), {n: mapped(n, Path(name)) for n in rows}
        for shuffle in ("exact", "block"):
            runs = {f"{n:,}": Steps(source, 64, shuffle) for n, source in sources.items()}
            page += [*head(f"rows, batch 64, {shuffle} shuffle"), *in_turn(runs, BLOCK)]
        far = {f"{at:,}": Steps(sources[rows[-1]], 64, "exact", at) for at in (0, 10**9, 10**12)}
        page += [*head("position, batch 64, exact shuffle"), *in_turn(far, BLOCK)]
        sizes = {f"{size:,}": Steps(sources[rows[-1]], size, "exact") for size in BATCHES if size <= rows[-1]}
        page += [*head("batch, of the most rows"), *in_turn(sizes, 4)]
        page += ["", f"All of these together took {memory() - before:,.0f} MB more."]
        page += by_run(int(args.steps))
    print("\n".join(page))
    if args.write:
        (Path(__file__).parent / "results" / "growth.md").write_text("\n".join(page) + "\n")


if __name__ == "__main__":
    main()
