"""One option given, all else open, beside the loops that everyone writes: does what is open follow what was given?

    python benchmarks/given.py [--only digits,friedman]

Six small sets (60% of the rows to train on, 20% held out, 20% that pick nothing), one seed, losses on
the last. First against the better of Adam at 1e-3 in batches of 32 and 128, up to 15 epochs, patience 3. Then every
optimizer with its rate open, against a plain loop of the same class of torch in batches of 32 at the best of a grid of
constant rates (by held-out loss), up to 30 epochs, patience 3: more than anybody knows before. Writes
benchmarks/results/given.md.
"""

import argparse
import functools
import itertools
import math
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, make_friedman1, make_hastie_10_2
from torch import nn

import handful

GIVEN = [
    {}, {"batch": 16}, {"batch": 32}, {"batch": 128}, {"batch": 512}, {"batch": "full"}, {"lr": 1e-3}, {"lr": 1e-2},
    {"batch": 128, "lr": 1e-3}, {"until": "epochs(15)"}, {"schedule": "constant"}, {"schedule": "one_cycle"},
    {"ema": None}, {"l2": 0}, {"clip_norm": 1.0},
]  # fmt: skip
S = torch.optim
OPTIMIZERS = {  # as given to handful, as plain torch makes it, the rates it is tried at
    "sgd": (S.SGD, (0.01, 0.03, 0.1, 0.3)),
    "sgd(momentum=0.9)": (functools.partial(S.SGD, momentum=0.9), (0.003, 0.01, 0.03, 0.1)),
    "torch.optim.SGD": (S.SGD, (0.01, 0.03, 0.1, 0.3)),
    "adam": (S.Adam, (3e-4, 1e-3, 3e-3, 1e-2)),
    "adamw": (S.AdamW, (3e-4, 1e-3, 3e-3, 1e-2)),
    "rmsprop": (S.RMSprop, (3e-4, 1e-3, 3e-3, 1e-2)),
    "adagrad": (S.Adagrad, (0.01, 0.03, 0.1, 0.3)),
    "adadelta": (S.Adadelta, (0.3, 1.0, 3.0)),
    "nadam": (S.NAdam, (3e-4, 1e-3, 3e-3, 1e-2)),
    "radam": (S.RAdam, (3e-4, 1e-3, 3e-3, 1e-2)),
    "adamax": (S.Adamax, (1e-3, 3e-3, 1e-2, 3e-2)),
}
Rows = tuple[np.ndarray, np.ndarray]


def net(*sizes: int, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), act())]
    return nn.Sequential(*layers[:-1])


def digits() -> nn.Module:
    convolutions = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 10))


def sums() -> Rows:
    """Which way a sum of 12 of 500 hidden numbers goes, with noise: for an embedding."""
    rng = np.random.default_rng(0)
    ids, worth = rng.integers(0, 500, (6000, 12)), rng.normal(size=500)
    return ids, (worth[ids].sum(1) + rng.normal(size=6000) > 0).astype(int)


SETS = {
    "digits": (lambda: load_digits(return_X_y=True), digits),
    "friedman": (lambda: make_friedman1(4000, noise=1.0, random_state=0), lambda: net(10, 64, 64, 1)),
    "hastie": (lambda: make_hastie_10_2(6000, random_state=0), lambda: net(10, 64, 64, 2, act=nn.Tanh)),
    "cancer": (lambda: load_breast_cancer(return_X_y=True), lambda: net(30, 2)),
    "diabetes": (lambda: load_diabetes(return_X_y=True), lambda: net(10, 32, 1)),
    "sums": (sums, lambda: nn.Sequential(nn.Embedding(500, 32), nn.Flatten(), *net(384, 64, 2))),
}


def parts_of(name: str) -> list[Rows]:
    """(rows to train on, held out, that pick nothing), inputs and numbers standardised."""
    x, y = SETS[name][0]()
    if x.dtype.kind == "f":
        x = ((x - x.mean(0)) / np.maximum(x.std(0), 1e-3)).astype("f")
    x = x.reshape(-1, 1, 8, 8) if name == "digits" else x
    numbers = len(np.unique(y)) > 20
    y = ((y - y.mean()) / y.std()).astype("f")[:, None] if numbers else (y > 0 if y.min() < 0 else y).astype(np.int64)
    deal = np.random.default_rng(1).permutation(len(y))
    return [(x[rows], y[rows]) for rows in np.split(deal, [int(0.6 * len(y)), int(0.8 * len(y))])]


def loss_of(model: nn.Module, rows: Rows) -> float:
    x, y = map(torch.as_tensor, rows)
    with torch.no_grad():
        return float((nn.functional.mse_loss if y.ndim == 2 else nn.functional.cross_entropy)(model(x), y))


def fresh(name: str) -> nn.Module:
    torch.manual_seed(0)
    return SETS[name][1]()


def plain(name: str, parts: list[Rows], make, lr: float, batch: int, epochs: int) -> tuple[float, float]:
    """(held-out loss, loss on the rows that pick nothing) of the best epoch of a plain loop."""
    train, valid, test = parts
    model, (x, y) = fresh(name), map(torch.as_tensor, train)
    loss = nn.functional.mse_loss if y.ndim == 2 else nn.functional.cross_entropy
    optimizer, draw, best, bad = (
        make(model.parameters(), lr=lr),
        torch.Generator().manual_seed(0),
        (math.inf, math.inf),
        0,
    )
    for _ in range(epochs):
        for rows in torch.randperm(len(y), generator=draw).split(batch):
            optimizer.zero_grad()
            loss(model(x[rows]), y[rows]).backward()
            optimizer.step()
        look = loss_of(model, valid), loss_of(model, test)
        best, bad = (look, 0) if look[0] < best[0] else (best, bad + 1)
        if bad == 3:
            break
    return best


def ours(name: str, parts: list[Rows], **given) -> float:
    run = handful.fit(fresh(name), parts[0], valid=parts[1], seed=0, quiet=True, **given)
    return loss_of(run.model.eval(), parts[2])


def table(title: str, rows: dict[str, dict[str, float]], names: list[str]) -> list[str]:
    lines = ["", f"| {title} | geometric mean | worst | {' | '.join(names)} |", "|---|---|---|" + "---|" * len(names)]
    for row, found in rows.items():
        mean = math.exp(np.mean([math.log(v) for v in found.values()]))
        each = " | ".join(f"{found[name]:.2f}" if name in found else "" for name in names)
        lines.append(f"| {row} | {mean:.2f} | {max(found.values()):.2f} | {each} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(SETS))
    names = parser.parse_args().only
    torch.set_num_threads(1)
    options: dict[str, dict[str, float]] = {}
    optimizers: dict[str, dict[str, float]] = {}
    for name in names:
        parts = parts_of(name)
        usual = min(plain(name, parts, S.Adam, 1e-3, batch, 15)[1] for batch in (32, 128))
        for given in GIVEN:
            if given.get("batch") in ("full", 16, 32, 128) or given.get("batch", 0) <= len(parts[0][1]):
                words = ", ".join(f"{k}={v}" for k, v in given.items()) or "nothing given"
                options.setdefault(words, {})[name] = ours(name, parts, **given) / usual
        for text, (make, rates) in OPTIMIZERS.items():
            best = min(plain(name, parts, make, lr, 32, 30) for lr in rates)[1]
            asked = S.SGD if text.startswith("torch") else text
            optimizers.setdefault(text, {})[name] = ours(name, parts, optimizer=asked) / best
        print(name, flush=True)
    head = (
        f"# One option given, all else open\n\ntorch {torch.__version__}, one thread, one seed; "
        "`python benchmarks/given.py`, which says how. Losses on rows that picked nothing, handful's over the loop's: "
        "below 1 handful is better. First against the better of Adam at 1e-3 in batches of 32 and 128 (15 epochs, "
        "stopped early), then each optimizer against its own plain loop at the best of a grid of rates (30 epochs)."
    )
    text = "\n".join([head, *table("given", options, names), *table("optimizer", optimizers, names), ""])
    (Path(__file__).parent / "results" / "given.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
