"""Seconds of the processor from the call to a given held-out loss, everything counted: handful beside its peers.

    python benchmarks/bench_score.py [--rounds 5] [--only digits,text]

Each contender keeps its own defaults and gets the same rows and the same network (one hidden layer of 128); each looks
at the held-out rows after every epoch (handful when it chooses to), and the clock runs from its call until a look shows
the goal: 1.1 times the lowest held-out loss that plain torch at batch 32 reaches in 15 epochs, from another seed.
handful plans 15 epochs; the others, which plan nothing, may take 60. Contenders take turns within a round.
One thread each, so that seconds of the processor are those of the clock on a machine that does nothing else. skorch,
Lightning and Keras (on JAX) take part where they are installed. Writes benchmarks/results/score.md.
"""

import argparse
import logging
import math
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn import datasets
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from torch import nn

import handful

EPOCHS, LIMIT, HIDDEN = 15, 60, 128
Looks = Iterator[float]  # the held-out loss at each look, as it is taken
Look = Callable[[float], None]  # what is told of it: it raises _Enough at the goal
Contender = Callable[["Work", int, Look], object]
os.environ |= {"KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}


@dataclass(frozen=True)
class Work:
    """Standardised float32 rows [n, p], targets (class ids or numbers [n]), and the same held out."""

    x: np.ndarray
    y: np.ndarray
    held_x: np.ndarray
    held_y: np.ndarray

    @property
    def classes(self) -> int:
        """0: the target is a number."""
        return 0 if self.y.dtype.kind == "f" else int(self.y.max()) + 1

    def net(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(self.x.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, self.classes or 1))


def work(x: np.ndarray, y: np.ndarray) -> Work:
    x, held_x, y, held_y = train_test_split(np.asarray(x, np.float32), y, test_size=0.1, random_state=0)
    mean, std = x.mean(0), x.std(0) + 1e-6
    if y.dtype.kind == "f":
        y, held_y = ((v - y.mean()) / y.std() for v in (y.astype(np.float32), held_y.astype(np.float32)))
    return Work((x - mean) / std, y, (held_x - mean) / std, held_y)


def text() -> tuple[np.ndarray, np.ndarray]:
    """Bags of 1,000 words of two made-up topics."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 4000)
    tilt = rng.normal(0, 0.3, 1000)
    rates = np.exp(np.where(y[:, None] == 1, tilt, -tilt) - 4)
    return np.log1p(rng.poisson(rates)), y


def spirals(n: int = 6000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, n)
    radius = rng.uniform(0.2, 1, n)
    angle = 4 * radius + y * 2 * np.pi / 3 + rng.normal(0, 0.15, n)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1), y


WORKS: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
    "digits": lambda: datasets.load_digits(return_X_y=True),
    "breast cancer": lambda: datasets.load_breast_cancer(return_X_y=True),
    "diabetes": lambda: datasets.load_diabetes(return_X_y=True),
    "friedman": lambda: datasets.make_friedman1(8000, noise=1.0, random_state=0),
    "20 classes": lambda: datasets.make_classification(
        10_000, 40, n_informative=20, n_classes=20, n_clusters_per_class=1, random_state=0
    ),
    "text": text,
    "spirals": spirals,
}


def loss_of(net: nn.Module, w: Work, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    out = net(x)
    return nn.functional.cross_entropy(out, y) if w.classes else nn.functional.mse_loss(out[:, 0], y)


def tensors(w: Work) -> list[torch.Tensor]:
    return [torch.from_numpy(v) for v in (w.x, w.y, w.held_x, w.held_y)]


def plain_torch(batch: int) -> Callable[[Work, int], Looks]:
    """What most people write: a DataLoader, Adam at 1e-3."""

    def looks(w: Work, seed: int) -> Looks:
        net = w.net(seed)
        x, y, held_x, held_y = tensors(w)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch, shuffle=True)
        for _ in range(LIMIT):
            for bx, by in loader:
                optimizer.zero_grad()
                loss_of(net, w, bx, by).backward()
                optimizer.step()
            with torch.no_grad():
                yield float(loss_of(net, w, held_x, held_y))

    return looks


def bare_loop(w: Work, seed: int) -> Looks:
    """Whole-batch gathers and a fused optimizer at a batch of 128: the least that Python can do."""
    net = w.net(seed)
    x, y, held_x, held_y = tensors(w)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    for _ in range(LIMIT):
        for rows in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            loss_of(net, w, x[rows], y[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            yield float(loss_of(net, w, held_x, held_y))


def scikit_learn(w: Work, seed: int) -> Looks:
    kind = MLPClassifier if w.classes else MLPRegressor
    model = kind(hidden_layer_sizes=(HIDDEN,), random_state=seed)
    for _ in range(LIMIT):
        model.partial_fit(w.x, w.y, **({"classes": np.arange(w.classes)} if w.classes else {}))
        if w.classes:
            yield float(log_loss(w.held_y, model.predict_proba(w.held_x), labels=np.arange(w.classes)))
        else:
            yield float(np.mean((model.predict(w.held_x) - w.held_y) ** 2))


class _Enough(Exception):
    """The goal is reached."""


def skorch(w: Work, seed: int) -> Looks:
    from skorch import NeuralNet

    x, y, held_x, held_y = tensors(w)
    loss = nn.CrossEntropyLoss if w.classes else nn.MSELoss
    y, held_y = (y, held_y) if w.classes else (y[:, None], held_y[:, None])
    net = NeuralNet(
        w.net(seed), loss, optimizer=torch.optim.Adam, lr=1e-3, train_split=None, verbose=0, max_epochs=1
    )  # fmt: skip
    net.initialize()
    for _ in range(LIMIT):
        net.partial_fit(x, y)
        yield float(loss()(net.forward(held_x), held_y))


def lightning(w: Work, seed: int, look: Look) -> None:
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    x, y, held_x, held_y = tensors(w)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = w.net(seed)

        def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
            return loss_of(self.net, w, *batch)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

        def on_train_epoch_end(self) -> None:
            with torch.no_grad():
                look(float(loss_of(self.net, w, held_x, held_y)))

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 32, shuffle=True)
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    lightning.Trainer(max_epochs=LIMIT, accelerator="cpu", enable_model_summary=False, **quiet).fit(Module(), loader)


def keras(w: Work, seed: int, look: Look) -> None:
    import keras as k

    k.utils.set_random_seed(seed)
    net = k.Sequential([k.layers.Dense(HIDDEN, activation="relu"), k.layers.Dense(w.classes or 1)])
    net.compile("adam", k.losses.SparseCategoricalCrossentropy(from_logits=True) if w.classes else "mse")
    told = k.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: look(logs["val_loss"]))
    net.fit(w.x, w.y, validation_data=(w.held_x, w.held_y), epochs=LIMIT, verbose=0, callbacks=[told])


def ours(w: Work, seed: int, look: Look) -> None:
    """handful.fit of the same network, all else left to it; the goal is looked for at its own looks."""

    def heard(event: str, info: dict[str, object]) -> None:
        if event == "evaluate":
            look(float(str(info["valid_loss"])))

    handful.fit(
        w.net(seed), (w.x, w.y if w.classes else w.y[:, None]),
        valid=(w.held_x, w.held_y if w.classes else w.held_y[:, None]),
        preprocess=None, until=f"epochs({EPOCHS})", seed=seed, quiet=True, callbacks=[heard],
    )  # fmt: skip


def told(looks: Callable[[Work, int], Looks]) -> Contender:
    return lambda w, seed, look: [look(loss) for loss in looks(w, seed)]


def seconds_to(goal: float, contender: Contender, w: Work, seed: int) -> float | None:
    start = time.process_time()

    def look(loss: float) -> None:
        if loss <= goal:
            raise _Enough(time.process_time() - start)

    try:
        contender(w, seed, look)
    except _Enough as reached:
        return float(reached.args[0])
    return None


CONTENDERS: dict[str, Contender] = {
    "handful": ours,
    "torch, batch 32": told(plain_torch(32)), "torch, batch 128": told(plain_torch(128)),
    "bare fused loop": told(bare_loop), "scikit-learn": told(scikit_learn),
    **({"skorch": told(skorch)} if find_spec("skorch") else {}),
    **({"Lightning": lightning} if find_spec("lightning") else {}),
    **({"Keras on JAX": keras} if find_spec("keras") and find_spec("jax") else {}),
}  # fmt: skip


def shown(seconds: list[float | None]) -> str:
    done = [s for s in seconds if s is not None]
    if not done:
        return "not reached"
    missed = f", missed {len(seconds) - len(done)} of {len(seconds)}" if len(done) < len(seconds) else ""
    return f"{statistics.median(done):.2f} ({min(done):.2f}-{max(done):.2f}{missed})"


def ratio(mine: list[float | None], theirs: list[float | None]) -> float | None:
    """The geometric mean of the rounds in which both came to the goal."""
    both = [a / b for a, b in zip(mine, theirs, strict=True) if a is not None and b is not None]
    return math.exp(statistics.mean(map(math.log, both))) if both else None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(WORKS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    lines, ratios = [], {name: list[float]() for name in CONTENDERS if name != "handful"}
    for name in args.only.split(","):
        w = work(*WORKS[name]())
        goal = 1.1 * min(islice(plain_torch(32)(w, 99), EPOCHS))
        times: dict[str, list[float | None]] = {contender: [] for contender in CONTENDERS}
        for contender in CONTENDERS.values():  # what a process does once is not counted for anyone: each has run once
            seconds_to(math.inf, contender, w, 98)
        for seed in range(args.rounds):
            for title, contender in CONTENDERS.items():
                times[title].append(seconds_to(goal, contender, w, seed))
        for title in ratios:
            if (r := ratio(times["handful"], times[title])) is not None:
                ratios[title].append(r)
        lines.append(f"| {name} ({len(w.x):,} x {w.x.shape[1]}, loss {goal:.3g}) | "
                     + " | ".join(shown(times[c]) for c in CONTENDERS) + " |")  # fmt: skip
        print(lines[-1], flush=True)
    means = [f"{math.exp(statistics.mean(map(math.log, r))):.2f}" if r else "" for r in ratios.values()]
    page = [
        "# Seconds of the processor from the call to a held-out loss", "",
        f"One hidden layer of {HIDDEN}, {EPOCHS} epochs planned, one thread, {platform.machine()}, torch "
        f"{torch.__version__}; {args.rounds} interleaved rounds, median (min-max); each contender's defaults; "
        "`python benchmarks/bench_score.py`.", "",
        f"| workload (rows x columns, goal) | {' | '.join(CONTENDERS)} |", "|---" * (len(CONTENDERS) + 1) + "|", *lines,
        f"| handful's time over theirs, geometric mean | | {' | '.join(means)} |",
    ]  # fmt: skip
    (Path(__file__).parent / "results" / "score.md").write_text("\n".join(page) + "\n")
    print("\n".join(page))


if __name__ == "__main__":
    main()
