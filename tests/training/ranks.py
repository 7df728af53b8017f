"""Runs that tests/training/test_ranks.py takes on several ranks: python ranks.py CASES OUT, in torchrun's variables."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import handful

N = 203
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, 6)), RNG.integers(0, 3, N)
WEIGHTS = RNG.uniform(0.1, 3, N)


def mlp(rank):
    """Another seed on every rank: rank 0's weights count."""
    torch.manual_seed(rank)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


class Unused(nn.Module):
    """`never` has no gradient anywhere; `some` only where a row's first number is large."""

    def __init__(self):
        super().__init__()
        self.never, self.some, self.out = nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        large = x[:, 0] > 1.5
        out = self.out(x)
        return out + large[:, None] * self.some(x) if large.any() else out


class Ids(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(50, 4, sparse=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.table((x[:, :2].abs() * 10).long().clamp(max=49)).mean(1))


class Tied(nn.Module):
    """One layer twice."""

    def __init__(self):
        super().__init__()
        self.inside, self.out = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.inside(torch.tanh(self.inside(x))))


def of(make):
    def model(rank):
        torch.manual_seed(rank)
        return make().double()

    return model


def apart(output, target):
    """A loss of the mini-batch as a whole."""
    return F.cross_entropy(output, target) + output.mean(0).pow(2).sum()


def in_ddp(rank):
    return nn.parallel.DistributedDataParallel(mlp(rank)) if torch.distributed.is_initialized() else mlp(rank)


PLAIN = {"lr": 0.1, "optimizer": "sgd", "batch": 33, "until": "steps(9)", "valid": 0.2, "schedule": "constant"}
TABLE = {"x": X, "y": Y, "w": WEIGHTS}
ZERO = {"x": X, "y": Y, "w": (RNG.random(N) < 0.2) * WEIGHTS}
CASES = {  # name -> model of a rank, data, options
    "sgd": (mlp, (X, Y), {}),
    "momentum": (mlp, (X, Y), {"optimizer": "momentum", "clip_norm": 0.5, "ema": 0.9}),
    "adamw": (mlp, (X, Y), {"optimizer": "adamw", "lr": 0.01, "l1": 1e-3}),
    "micro-batches": (mlp, (X, Y), {"micro_batch": 4}),
    "ragged": (mlp, (X, Y), {"batch": 7, "micro_batch": 2}),
    "weights": (mlp, TABLE, {"weight": "w", "target": "y"}),
    "zero weights": (mlp, ZERO, {"weight": "w", "target": "y", "batch": 5, "valid": None}),
    "fewer rows than ranks": (mlp, (X, Y), {"batch": 1}),
    "two rows": (mlp, (X, Y), {"batch": 2, "optimizer": "adamw", "lr": 0.01}),
    "unused parameters": (of(Unused), (X, Y), {"optimizer": "adamw", "lr": 0.01, "batch": 6}),
    "sparse gradients": (of(Ids), (X, Y), {"batch": 11}),
    "one layer twice": (of(Tied), (X, Y), {"metrics": "accuracy, auroc"}),
    "in DDP": (in_ddp, (X, Y), {}),
    "regression": (of(lambda: nn.Linear(6, 1)), (X, X @ np.arange(6.0) + 1e6), {"lr": 0.01}),
}


def train(name, rank=0):
    """What a run leaves: weights, and the losses and scores of its history."""
    make, data, options = CASES[name]
    run = handful.fit(make(rank), data, **{**PLAIN, **options}, evaluate_every=0.1, quiet=True)
    scores = [v for row in run.history for k, v in sorted(row.items()) if k.startswith(("train_", "valid_"))]
    return {"weights": [p.detach().numpy() for p in run.model.parameters()], "scores": scores, "best": run.best}


def launch(size, *arguments, code=None, env=None, limit=120):
    """Start so many ranks by hand; their exit statuses and what they printed to standard error."""
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, __file__] if code is None else [sys.executable, "-c", code]
    place = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    jobs = [
        subprocess.Popen(
            [*command, *map(str, arguments)],
            env={**os.environ, **place, "RANK": str(r), "LOCAL_RANK": str(r), **(env or {})},
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(size)
    ]
    return jobs, limit


def ends(started):
    """Exit statuses and standard errors of ranks that were launched."""
    jobs, limit = started
    try:
        said = [job.communicate(timeout=limit)[1] for job in jobs]
    finally:
        for job in jobs:
            job.kill()
    return [job.returncode for job in jobs], said


def main():
    names, out = sys.argv[1].split(","), Path(sys.argv[2])
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    found = {}
    for name in names:
        print(name, flush=True)
        found[name] = train(name, rank)
    torch.save(found, out / f"{rank}.pt")


if __name__ == "__main__":
    main()
