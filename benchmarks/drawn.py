"""Workloads drawn by lot, everything open, beside the loop that everyone writes.

    python benchmarks/drawn.py [--first 100] [--sets 40]

Rows (100 to 40,000), columns (2 to 300), target (number, yes or no, 3 to 19 classes), law, noise, scale of the target,
layers, width, activation, dropout and batch normalisation are drawn from the number of a set. 60% of the rows to train
on, 20% held out, 20% that pick nothing, on which losses are compared: with the better of Adam at 1e-3 in batches of 32
and 128, up to 15 epochs, patience 3. A thousandth of the target's variance (0.001 for classes) is added to both losses,
so that two that are nearly 0 are not compared digit by digit. Writes benchmarks/results/drawn.md.
"""

import argparse
import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import handful

Part = tuple[Tensor, Tensor]
ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


def law(rng: np.random.Generator, x: np.ndarray, outputs: int, noise: float) -> tuple[str, np.ndarray]:
    """(its name, values [n, outputs] of mean 0 and variance 1 and noise) of some columns of x [n, d]."""
    k = min(x.shape[1], int(rng.integers(1, 10)))
    u, name = x[:, rng.choice(x.shape[1], k, replace=False)], str(rng.choice([*"abcdef"]))
    to = {width: rng.normal(size=(width, outputs)) for width in (1, 8, 16)}
    straight = u @ rng.normal(size=(k, outputs))
    kinds = {
        "a": ("linear", lambda: straight),
        "b": ("net", lambda: np.tanh(u @ rng.normal(size=(k, 16))) @ to[16]),
        "c": ("hinge", lambda: np.maximum(u[:, :1] - 1, 0) @ to[1] * 2 + 0.3 * straight),
        "d": ("steps", lambda: np.sign(u) @ rng.normal(size=(k, outputs))),
        "e": ("waves", lambda: np.sin(2 * u @ rng.normal(size=(k, 8))) @ to[8]),
        "f": ("product", lambda: (u[:, :1] * u[:, -1:] + 0.3 * u[:, :1]) @ to[1]),
    }
    title, make = kinds[name]
    values = make()
    values = (values - values.mean(0)) / (values.std(0) + 1e-9)
    return title, values + noise * rng.normal(size=values.shape)


def target(rng: np.random.Generator, kind: str, values: np.ndarray) -> np.ndarray:
    if kind == "classes":
        found = values.argmax(1)
        counts = np.bincount(found)
        found[counts[found] < 20] = counts.argmax()  # so that each class is among the rows to train on
        return np.unique(found, return_inverse=True)[1]
    if kind == "yes or no":
        return (values[:, 0] > rng.uniform(-1.2, 1.2)).astype(np.int64)
    scale = rng.choice(["plain", "large", "skewed"])
    number = values[:, 0].astype(np.float32)
    return {"plain": number, "large": 50 * number + 300, "skewed": np.exp(number)}[scale]


def workload(number: int) -> tuple[str, list[Part], nn.Module]:
    """(what it is, parts to train on, held out and that pick nothing, a new model)."""
    rng = np.random.default_rng(number)
    rows, columns = (int(np.exp(rng.uniform(*np.log(ends)))) for ends in ((100, 40_000), (2, 300)))
    kind, noise = str(rng.choice(["number", "yes or no", "classes"])), float(rng.choice([0, 0.1, 0.3, 1.0]))
    x = rng.normal(size=(rows, columns)) if rng.random() < 0.6 else rng.uniform(-1.7, 1.7, (rows, columns))
    x = x @ rng.normal(size=(columns, columns)) / columns**0.5 if rng.random() < 0.3 else x
    title, values = law(rng, x, int(rng.integers(3, 20)) if kind == "classes" else 1, noise)
    y = target(rng, kind, values)
    width, depth, act = int(rng.choice([16, 64, 256])), int(rng.integers(1, 4)), str(rng.choice([*ACTIVATIONS]))
    dropout, norm = float(rng.choice([0, 0, 0.2])), bool(rng.random() < 0.2)
    torch.manual_seed(number)
    layers, inputs = list[nn.Module](), columns
    for _ in range(depth):
        layers += [nn.Linear(inputs, width), *([nn.BatchNorm1d(width)] if norm else []), ACTIVATIONS[act]()]
        layers += [nn.Dropout(dropout)] if dropout else []
        inputs = width
    model = nn.Sequential(*layers, nn.Linear(width, 1 if kind == "number" else int(y.max()) + 1))
    deal = np.split(rng.permutation(rows), [int(0.6 * rows), int(0.8 * rows)])
    parts = [(torch.from_numpy(x[part].astype(np.float32)), torch.from_numpy(y[part])) for part in deal]
    more = f"{', dropout' if dropout else ''}{', batch norm' if norm else ''}"
    return f"{rows} x {columns}, {kind}, {title}, noise {noise:g}; {depth} x {width} {act}{more}", parts, model


def loss(output: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(output.squeeze(1), y) if y.is_floating_point() else F.cross_entropy(output, y)


def loss_of(model: nn.Module, part: Part) -> float:
    with torch.no_grad():
        return float(loss(model.eval()(part[0]), part[1]))


def plain(model: nn.Module, parts: list[Part], batch: int) -> float:
    """The loss on the rows that pick nothing, of the epoch that was best by the held-out loss."""
    (x, y), held, test = parts
    model, draw = copy.deepcopy(model), torch.Generator().manual_seed(1)
    optimizer, best, bad = torch.optim.Adam(model.parameters(), 1e-3, fused=True), (math.inf, math.inf), 0
    for _ in range(15):
        model.train()
        for rows in torch.randperm(len(y), generator=draw).split(batch):
            if len(rows) > 1:  # of which batch normalisation can make something
                optimizer.zero_grad()
                loss(model(x[rows]), y[rows]).backward()
                optimizer.step()
        look = loss_of(model, held), loss_of(model, test)
        best, bad = (look, 0) if look[0] < best[0] else (best, bad + 1)
        if bad > 3:
            break
    return best[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--sets", type=int, default=40)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    ratios, lines = list[float](), list[str]()
    for number in range(asked.first, asked.first + asked.sets):
        what, parts, model = workload(number)
        if len(parts[0][1].unique()) < 2:
            continue  # all of one class
        began, found = time.perf_counter(), [plain(model, parts, batch) for batch in (32, 128)]
        between = time.perf_counter()
        run = handful.fit(copy.deepcopy(model), parts[0], valid=parts[1], seed=0, quiet=True)
        spent = (time.perf_counter() - between) / (between - began)
        ours, y = loss_of(run.model, parts[2]), parts[2][1]
        least = 0.001 * float(y.var()) if y.is_floating_point() else 0.001
        ratios.append((ours + least) / (min(found) + least))
        each = " | ".join(f"{value:.4g}" for value in (ours, *found))
        lines.append(f"| {number} | {what} | {each} | {ratios[-1]:.3f} | {spent:.1f} |")
        print(lines[-1], flush=True)
    mean = math.exp(float(np.mean(np.log(ratios))))
    text = (
        f"# Workloads drawn by lot\n\ntorch {torch.__version__}, one thread; `python benchmarks/drawn.py --first "
        f"{asked.first} --sets {asked.sets}`, which says how. Loss on rows that picked nothing over the better loop's: "
        f"geometric mean **{mean:.3f}**, worst {max(ratios):.3f}, above 1.02 in {sum(r > 1.02 for r in ratios)} of "
        f"{len(ratios)}. Seconds: of handful's run over those of both loops.\n\n"
        "| set | what | handful | Adam 32 | Adam 128 | ratio | seconds |\n|---|---|---|---|---|---|---|\n"
    )
    (Path(__file__).parent / "results" / "drawn.md").write_text(text + "\n".join(lines) + "\n")
    print(f"{mean:.3f} {max(ratios):.3f}")


if __name__ == "__main__":
    main()
