"""Time per step of handful on several ranks beside a bare loop over torch's DistributedDataParallel (DDP).

    torchrun --nproc-per-node 2 benchmarks/bench_ranks.py [--rounds 7] [--models mlp,large,transformer]
    python benchmarks/bench_ranks.py --link 1gbit     as root: two ranks in two network namespaces, with such a link

Every rank runs both loops in turn, so that the machine's moods fall on both alike; the table gives medians over
rounds and the ratio, round by round, by the clock and by the processor (of rank 0, gloo's threads included). Both draw
rows of arrays in memory and take fused AdamW's step; DDP's loop does nothing else. A run has about 200 rows of its
history, whatever its length, so a round of a small model has more steps than that. Writes results/ranks.md, or
ranks_link.md.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

import handful

sys.path.insert(0, str(Path(__file__).parent))
from ranks_faults import linked


class Blocks(nn.Module):
    """A small transformer that tells the class of a sequence of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(512, 128)
        layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.out = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.blocks(self.table(x.long())).mean(1))
        return y


def mlp(*sides: int) -> nn.Module:
    layers: list[nn.Module] = []
    for a, b in pairwise(sides):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


Rows = tuple[Tensor, Tensor]


def pictures(n: int = 8000) -> Rows:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 784, generator=generator), torch.randint(0, 10, (n,), generator=generator)


def tokens(n: int = 4000) -> Rows:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 512, (n, 32), generator=generator), torch.randint(0, 10, (n,), generator=generator)


# name -> (model, data, rows of a mini-batch over all ranks, steps of a round)
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Rows], int, int]] = {
    "mlp": (lambda: mlp(784, 128, 10), pictures, 128, 600),
    "large": (lambda: mlp(784, 2048, 1600, 10), pictures, 128, 10),
    "transformer": (Blocks, tokens, 64, 10),
}


Times = tuple[float, float]  # of the clock, of this process's threads


def now() -> Times:
    return time.perf_counter(), time.process_time()


def per_step(begun: Times, ended: Times, steps: int) -> Times:
    """Milliseconds."""
    return 1e3 * (ended[0] - begun[0]) / steps, 1e3 * (ended[1] - begun[1]) / steps


def bare(make: Callable[[], nn.Module], data: Rows, batch: int, steps: int) -> Times:
    """DDP as its documentation has it."""
    x, y = data
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(make())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    order, own = torch.randperm(len(x)), batch // size
    for k in range(-3, steps):
        if k == 0:
            start = now()
        rows = order[abs(k) * batch % (len(x) - batch) + rank * own :][:own]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return per_step(start, now(), steps)


def ours(make: Callable[[], nn.Module], data: Rows, batch: int, steps: int) -> Times:
    """handful.fit with its history, accuracy, schedule, stop rule, signals and check of the loss; its own clock."""
    times: list[Times] = []
    torch.manual_seed(0)
    handful.fit(
        make(), data, valid=None, batch=batch, lr=1e-3, until=f"steps({steps + 4})", quiet=True, preprocess=None,
        callbacks=[lambda event, info: times.append(now())],
    )  # fmt: skip
    begun = times[4]  # the start, and three steps to warm up
    return per_step(begun, times[4 + steps], steps)


def over_link(speed: str) -> int:
    """Start rank 0 here and rank 1 in another network namespace, with a link of that speed between them."""
    holder, place = linked()
    there = ["nsenter", "-t", str(place), "-n"]
    limit = ["tc", "qdisc", "add", "dev", "v0", "root", "tbf", "rate", speed, "burst", "256kb", "latency", "50ms"]
    subprocess.run(limit, check=True)
    subprocess.run([*there, *(word.replace("v0", "v1") for word in limit)], check=True)
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "10.9.0.1", "MASTER_PORT": "29511", "OMP_NUM_THREADS": "1"}
    jobs = [
        subprocess.Popen([*(there if rank else []), sys.executable, *sys.argv], env=os.environ | meeting | {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": f"v{rank}"})
        for rank in range(2)
    ]  # fmt: skip
    statuses = [job.wait() for job in jobs]
    holder.kill()
    holder.wait()
    return max(statuses)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", default="mlp,large,transformer")
    parser.add_argument("--link", help="its bits a second, as tc has them")
    args = parser.parse_args()
    if args.link and "RANK" not in os.environ:
        sys.exit(over_link(args.link) if "INSIDE" in os.environ else subprocess.run(
            ["unshare", "-n", sys.executable, *sys.argv], env=os.environ | {"INSIDE": "1"}).returncode)  # fmt: skip
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    command = "python" if args.link else f"torchrun --nproc-per-node {dist.get_world_size()}"
    lines = [
        "# Time per step on several ranks",
        "",
        f"{dist.get_world_size()} ranks, gloo, one thread each, fused AdamW, float32. {platform.machine()}, "
        f"{os.cpu_count()} cores at a load of {os.getloadavg()[0]:.0f}, torch {torch.__version__}; "
        f"medians of {args.rounds} interleaved rounds (smallest to largest); "
        + (f"a link of {args.link}; " if args.link else "")
        + f"`{command} benchmarks/bench_ranks.py {' '.join(sys.argv[1:])}`.",
        "",
        "| model | parameters | DDP, ms a step | handful, ms a step | ratio, round by round | "
        "DDP, ms of the processor | handful | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in args.models.split(","):
        make, load, batch, steps = CASES[name]
        data = load()
        theirs, mine = [], []
        for k in range(args.rounds):  # each is the first one as often as the other
            for loop, kept in ((bare, theirs), (ours, mine))[:: -1 if k % 2 else 1]:
                kept.append(loop(make, data, batch, steps))
        cells = []
        for kind in (0, 1):
            one, other = ([times[kind] for times in both] for both in (theirs, mine))
            ratios = [m / t for m, t in zip(other, one, strict=True)]
            cells += [f"{statistics.median(v):.3g} ({min(v):.3g}-{max(v):.3g})" for v in (one, other, ratios)]
        lines.append(f"| {name} | {sum(p.numel() for p in make().parameters()):,} | {' | '.join(cells)} |")
        if dist.get_rank() == 0:
            print(lines[-1], flush=True)
    if dist.get_rank() == 0:
        name = "ranks_link.md" if args.link else "ranks.md"
        (Path(__file__).parent / "results" / name).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
