"""Step time, batch and efficiency on many ranks, by the model of `handful.advise(ranks=...)`.

    python benchmarks/ranks_model.py                                      the table of docs/ranks.md, of stated parts
    torchrun --nproc-per-node 2 benchmarks/ranks_model.py [--rounds 7]    the model held against steps on ranks here

Of the second, all ranks time steps of two sizes alone, at once, then the link, and then steps together; the ratio of
the measured to the predicted time is of one round each, so that the machine's moods fall on both. Writes
benchmarks/results/ranks_model.md.
"""

import argparse
import os
import statistics
import time
from itertools import pairwise
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

import handful
from handful.plan.scaling import Link, measure_link, predict
from handful.training.process.parallel import joined

RANKS = (8, 16, 32, 64, 128, 256, 512, 1024)
FAST, USUAL = Link(1e-5, 5e10), Link(3e-5, 1.25e9)  # 400 and 10 Gbit a second
# name -> seconds of a step besides its rows, seconds a row, bytes of gradients, noise scale in rows
PARTS = {
    "a residual network of 25 million parameters on pictures": (5e-3, 4e-4, 1.0e8, 1e4),
    "a transformer of 350 million parameters on sequences of 1,024 tokens": (1e-2, 1.5e-2, 1.4e9, 1e3),
}


def table() -> list[str]:
    lines = []
    for name, (a, b, size, phi) in PARTS.items():
        lines += [
            f"{name[0].upper()}{name[1:]}: {1e3 * a:g} ms a step and {1e3 * b:g} ms a row, {size / 1e6:,.0f} MB of "
            f"gradients, a noise scale of {phi:,.0f} rows.",
            "",
            "| GPUs | batch, 400 Gbit/s | step | efficiency | batch, 10 Gbit/s | step | efficiency |",
            "|---|---|---|---|---|---|---|",
        ]
        for fast, usual in zip(*(predict(a, b, size, link, phi, RANKS, 10**9) for link in (FAST, USUAL)), strict=True):
            cells = [f"{r['batch']:,} | {1e3 * r['seconds']:,.0f} ms | {r['efficiency']:.0%}" for r in (fast, usual)]
            lines.append(f"| {fast['ranks']:,} | {' | '.join(cells)} |")
        lines.append("")
    return lines


def seconds(batch: int, *, join: bool, steps: int = 12) -> float:
    """A step of handful on the MLP, by its own clock."""
    times: list[float] = []
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    x, y = torch.randn(4000, 784), torch.arange(4000) % 10
    handful.fit(
        model, (x, y), valid=None, batch=batch, lr=1e-3, until=f"steps({steps})", quiet=True, preprocess=None,
        join=join, callbacks=[lambda event, info: times.append(time.perf_counter())],
    )  # fmt: skip
    return statistics.median(b - a for a, b in pairwise(times[4:-1]))


def check(rounds: int) -> list[str]:
    """The model against steps that the ranks take together."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    n, size = dist.get_world_size(), 4 * (784 * 512 + 512 * 512 + 512 * 10 + 1034)
    rows, ratios, batches = [], [], (64, 256)
    for _ in range(rounds):
        small, large = (seconds(b // n, join=False) for b in batches)
        b = max((large - small) / (batches[1] - batches[0]) * n, 1e-9)
        a = max(small - b * batches[0] / n, 0.0)
        with joined("cpu", 60.0) as ranks:
            link = measure_link(ranks, size, torch.device("cpu"))
        together = seconds(batches[1], join=True)
        guess = a + b * batches[1] / n + link.sum(size, n)
        rows.append((a, b, link.delay, link.speed, guess, together))
        ratios.append(together / guess)
    mid = [statistics.median(column) for column in zip(*rows, strict=True)]
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    return [
        f"| {n} | {1e3 * mid[0]:.2f} ms + {1e6 * mid[1]:.1f} us a row | "
        f"{1e6 * mid[2]:.0f} us, {mid[3] / 1e9:.2f} GB/s | "
        f"{1e3 * mid[4]:.1f} ms | {1e3 * mid[5]:.1f} ms | {ratio} |"
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    path = Path(__file__).parent / "results" / "ranks_model.md"
    if "WORLD_SIZE" not in os.environ:
        print("\n".join(table()))
        return
    lines = check(args.rounds)
    if dist.get_rank() == 0:
        head = [
            "# The model of step time against ranks",
            "",
            f"An MLP of 670,000 parameters, a batch of 256, gloo, one thread a rank, {os.cpu_count()} cores at a load "
            f"of {os.getloadavg()[0]:.0f}, torch {torch.__version__}; medians of {args.rounds} rounds; "
            "`torchrun --nproc-per-node N benchmarks/ranks_model.py`, which adds a line.",
            "",
            "| ranks | a step alone | the link | predicted | measured | ratio, round by round |",
            "|---|---|---|---|---|---|",
        ]
        kept = path.read_text().splitlines() if path.exists() else head
        path.write_text("\n".join([*kept, *lines]) + "\n")
        print("\n".join(lines))


if __name__ == "__main__":
    main()
