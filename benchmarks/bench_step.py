"""Time per step of handful's loop beside plain torch loops: what the book-keeping costs.

    python benchmarks/bench_step.py [--rounds 9] [--steps 300] [--batches 64,1]

MLP 784-128-10, AdamW, 20,000 synthetic rows of 784 float32. Every round runs each loop once, in turn, so
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
from handful.optim.fused import stepper

N = 20_000


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


def bare(x: torch.Tensor, y: torch.Tensor, batch: int, steps: int) -> float:
    """Whole-batch gathers and a fused optimizer, nothing else: the floor."""
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    order = torch.randperm(N)
    start = time.perf_counter()
    for k in range(steps):
        rows = order[k * batch % (N - batch) :][:batch]
        one(model, optimizer, x[rows], y[rows])
    return (time.perf_counter() - start) / steps


def loader(x: torch.Tensor, y: torch.Tensor, batch: int, steps: int) -> float:
    """What most people write."""
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters())
    batches = iter(DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=True))
    start = time.perf_counter()
    for k, (bx, by) in enumerate(batches):
        one(model, optimizer, bx, by)
        if k + 1 == min(steps, N // batch):
            break
    return (time.perf_counter() - start) / (k + 1)


def ours(x: torch.Tensor, y: torch.Tensor, batch: int, steps: int) -> float:
    """handful.fit with its history, accuracy, schedule, stop rule and finiteness check; its own clock."""
    run = handful.fit(mlp(), (x, y), valid=None, batch=batch, lr=1e-3, until=f"steps({steps})", quiet=True)
    assert run.state is not None
    return run.state.seconds / run.state.step


def optimizer_step(two_groups: bool, direct: bool, steps: int) -> float:
    """The update alone: torch's own `step`, or handful's way to the same kernels."""
    model = mlp()
    parameters = list(model.parameters())
    groups = [[p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim == 1]]
    kept = [{"params": g} for g in (groups if two_groups else [parameters])]
    optimizer = torch.optim.AdamW(kept, fused=True)
    model(torch.ones(1, 784)).sum().backward()
    step = stepper(optimizer) if direct else optimizer.step
    step()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - start) / steps


def table(title: str, times: dict[str, list[float]]) -> list[str]:
    """Medians over rounds, and the ratio to the first, round by round."""
    floor = next(iter(times.values()))
    lines = [
        "",
        f"| {title} | microseconds, median (min-max) | ratio to the first, median (min-max) |",
        "|---|---|---|",
    ]
    for name, seconds in times.items():
        us = [s * 1e6 for s in seconds]
        ratios = [s / f for s, f in zip(seconds, floor, strict=True)]
        lines.append(
            f"| {name} | {statistics.median(us):.0f} ({min(us):.0f}-{max(us):.0f}) "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batches", default="64,1")
    args = parser.parse_args()
    x, y = data()
    loops = {"bare torch loop, fused AdamW": bare, "torch DataLoader + AdamW": loader, "handful.fit": ours}
    lines = [
        "# Time per step",
        "",
        f"MLP 784-128-10, AdamW, float32. {platform.machine()}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}; {args.rounds} interleaved rounds of {args.steps} steps; "
        "`python benchmarks/bench_step.py`.",
    ]
    for batch in map(int, args.batches.split(",")):
        times: dict[str, list[float]] = {name: [] for name in loops}
        for loop in loops.values():
            loop(x, y, batch, 20)
        for _ in range(args.rounds):
            for name, loop in loops.items():
                times[name].append(loop(x, y, batch, args.steps))
        lines += table(f"a step at batch {batch}", times)
    forms = {
        "AdamW.step, one group": (False, False), "AdamW.step, two groups": (True, False),
        "handful, two groups": (True, True),
    }  # fmt: skip
    alone: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(args.rounds):
        for name, form in forms.items():
            alone[name].append(optimizer_step(*form, args.steps))
    lines += table("the update alone", alone)
    text = "\n".join(lines) + "\n"
    print(text)
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "step.md").write_text(text)


if __name__ == "__main__":
    main()
