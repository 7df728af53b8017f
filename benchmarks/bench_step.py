"""Time per step of handful's loop beside plain torch loops: what the book-keeping costs.

    python benchmarks/bench_step.py [--rounds 9] [--steps 400]

MLP 784-128-10, batch 64, AdamW, 20,000 synthetic rows of 784 float32. Every round runs each loop once, in turn, so
that the machine's moods fall on all alike; the table gives medians over rounds and the ratio to the bare loop, round
by round. Writes benchmarks/results/step.md.
"""

import argparse
import platform
import statistics
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

import handful

N, B = 20_000, 64


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N, 784, generator=generator), torch.randint(0, 10, (N,), generator=generator)


def mlp() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))


def one(model: torch.nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


def bare(x: torch.Tensor, y: torch.Tensor, steps: int) -> float:
    """Whole-batch gathers and a fused optimizer, nothing else: the floor."""
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    order = torch.randperm(N)
    start = time.perf_counter()
    for k in range(steps):
        rows = order[k * B % (N - B) : k * B % (N - B) + B]
        one(model, optimizer, x[rows], y[rows])
    return (time.perf_counter() - start) / steps


def loader(x: torch.Tensor, y: torch.Tensor, steps: int) -> float:
    """What most people write."""
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters())
    batches = iter(DataLoader(TensorDataset(x, y), batch_size=B, shuffle=True))
    start = time.perf_counter()
    for k, (bx, by) in enumerate(batches):
        one(model, optimizer, bx, by)
        if k + 1 == min(steps, N // B):
            break
    return (time.perf_counter() - start) / (k + 1)


def ours(x: torch.Tensor, y: torch.Tensor, steps: int) -> float:
    """handful.fit with its history, accuracy, schedule, stop rule and finiteness check; its own clock."""
    run = handful.fit(mlp(), (x, y), valid=None, batch=B, lr=1e-3, until=f"steps({steps})", quiet=True)
    assert run.state is not None
    return run.state.seconds / run.state.step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    x, y = data()
    loops = {"bare torch loop, fused AdamW": bare, "torch DataLoader + AdamW": loader, "handful.fit": ours}
    times: dict[str, list[float]] = {name: [] for name in loops}
    for loop in loops.values():
        loop(x, y, 20)
    for _ in range(args.rounds):
        for name, loop in loops.items():
            times[name].append(loop(x, y, args.steps))
    floor = times["bare torch loop, fused AdamW"]
    lines = [
        "# Time per step",
        "",
        f"MLP 784-128-10, batch 64, AdamW, float32. {platform.machine()}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}; {args.rounds} interleaved rounds of {args.steps} steps; "
        "`python benchmarks/bench_step.py`.",
        "",
        "| loop | microseconds a step, median (min-max) | ratio to the bare loop, median (min-max) |",
        "|---|---|---|",
    ]
    for name, seconds in times.items():
        us = [s * 1e6 for s in seconds]
        ratios = [s / f for s, f in zip(seconds, floor, strict=True)]
        lines.append(
            f"| {name} | {statistics.median(us):.0f} ({min(us):.0f}-{max(us):.0f}) "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "step.md").write_text(text)


if __name__ == "__main__":
    main()
