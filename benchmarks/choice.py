"""The choice of batch and learning rate against an oracle: `python benchmarks/choice.py [--quick] [workload ...]`.

For each workload and optimizer every power of two up to the cap x learning rates x seeds is run to a fixed number of
examples, and the validation loss is logged against steps and examples. A step of B rows takes a + b B, so the time of
a run to any point is a * steps + b * examples: one set of runs serves every step-time law. The laws are T = K + B for
K in 8, 32, 128, 512, and the line measured on this machine.

target: 2% above the lowest validation loss that any setting has (mean over seeds) at half of the examples.
oracle: the least time to target over all (batch, lr), mean over seeds.  regret: auto's time over the oracle's, all its
probing paid for. The same ratio is given for Adam's 1e-3 at batch 32 and 128, and the largest batch.

Every run is cached in benchmarks/.cache/choice, so that it can be interrupted; the table goes to
benchmarks/results/choice.md. There is no network where this was written, so that the data are what a Python
installation has: scikit-learn's digits, synthetic tables and vowels, and the text of the standard library.
"""

import argparse
import hashlib
import json
import math
import platform
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import handful
from handful.assemble import assemble
from handful.probe.decide import batch_cap, decide
from handful.probe.throughput import Throughput, measure_throughput, powers_of_two

HERE = Path(__file__).parent
CACHE = HERE / ".cache" / "choice"
LAWS = (8, 32, 128, 512)
CODE = "5"  # raise it when a change to handful makes cached runs of `auto` worthless


@dataclass
class Workload:
    """Data, a fresh model for a seed, and how many epochs are run."""

    name: str
    data: Callable[[], tuple[tuple[Any, Any], tuple[Any, Any]]]
    model: Callable[[], nn.Module]
    epochs: int
    optimizer: str = "adamw"
    lr: float = 1e-3  # the centre of the grid, and the default that people use
    loss: str = "auto"


def split(x: Any, y: Any, held: int, seed: int = 0) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    order = np.random.default_rng(seed).permutation(len(x))
    a, b = order[held:], order[:held]
    return (x[a], y[a]), (x[b], y[b])


def table(noise: float = 0.0) -> Any:
    """Ten classes of 32 numbers: which of ten random two-layer functions is largest; `noise`: share of wrong labels."""
    g = np.random.default_rng(1)
    x = g.normal(size=(12_000, 32)).astype(np.float32)
    hidden = np.tanh(x @ g.normal(size=(32, 24)) / 4)
    y = (hidden @ g.normal(size=(24, 10))).argmax(1)
    wrong = g.random(len(y)) < noise
    (train, valid) = split(x, np.where(wrong, g.integers(0, 10, len(y)), y), 2000)
    return train, valid


def images() -> Any:
    """The digits, each shifted by up to a pixel in eight ways: 8,000 images of 8 x 8."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    (xa, ya), valid = split(x, y, 360)
    shifted = [np.roll(xa, (i, j), (2, 3)) for i, j in ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0), (1, 1))]
    return (np.concatenate(shifted), np.tile(ya, len(shifted))), valid


def corpus() -> str:
    folder = Path(sysconfig.get_paths()["stdlib"])
    names = ["argparse", "ast", "calendar", "configparser", "decimal", "difflib", "doctest", "inspect", "pydoc"]
    names += ["tarfile", "threading", "turtle", "typing", "unittest/mock", "logging/__init__", "zipfile/__init__"]
    return "\n".join((folder / f"{n}.py").read_text(errors="replace") for n in names if (folder / f"{n}.py").exists())


def characters() -> Any:
    """Windows of 33 characters of the standard library's source: the next character of each."""
    ids = np.frombuffer(corpus().encode("ascii", "replace"), dtype=np.uint8).astype(np.int64)
    rows = np.stack([ids[k : k + 33] for k in range(0, len(ids) - 33, 33)])
    return split(rows[:12_000, :-1], rows[:12_000, 1:], 1000)


def lines() -> Any:
    """Lines of the standard library, hashed to 24 word ids: from which of eight modules?"""
    folder = Path(sysconfig.get_paths()["stdlib"])
    x, y = [], []
    for label, name in enumerate(("argparse", "ast", "difflib", "inspect", "pydoc", "tarfile", "turtle", "typing")):
        for line in (folder / f"{name}.py").read_text(errors="replace").splitlines():
            words = line.split()
            if len(words) >= 2:
                ids = [1 + int(hashlib.md5(w.encode()).hexdigest(), 16) % 2999 for w in words[:24]]
                x.append(ids + [0] * (24 - len(ids)))
                y.append(label)
    return split(np.array(x), np.array(y), 1500)


def vowels() -> Any:
    """Eight vowels as sums of three noisy formants, 40 bands x 16 frames of a log spectrogram."""
    g = np.random.default_rng(3)
    centres = g.uniform(4, 36, (8, 3))
    y = g.integers(0, 8, 9000)
    where = centres[y][:, :, None] + g.normal(0, 2.5, (9000, 3, 1)) + g.normal(0, 0.5, (9000, 3, 16))
    bands = np.arange(40)[None, None, :, None]
    x = np.exp(-0.5 * ((bands - where[:, :, None, :]) / 2) ** 2).sum(1) + g.normal(0, 0.4, (9000, 40, 16))
    return split(x[:, None].astype(np.float32), y, 1500)


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        return torch.relu(x + self.body(x))


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gru, self.out = nn.Embedding(128, 32), nn.GRU(32, 64, batch_first=True), nn.Linear(64, 128)

    def forward(self, x: Any) -> Any:
        return self.out(self.gru(self.embed(x))[0])


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(3000, 32, mode="mean", padding_idx=0)
        self.out = nn.Sequential(nn.ReLU(), nn.Linear(32, 8))

    def forward(self, x: Any) -> Any:
        return self.out(self.embed(x))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn(inputs: int = 64, outputs: int = 10) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(inputs, outputs),
    )  # fmt: skip


def resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), Residual(12), nn.MaxPool2d(2), Residual(12), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(12, 10),
    )  # fmt: skip


WORKLOADS = {
    w.name: w
    for w in (
        Workload("table", table, mlp, 16),
        Workload("table-momentum", table, mlp, 16, "momentum", 1e-2),
        Workload("noisy-labels", lambda: table(0.2), mlp, 10),
        Workload("cnn", images, cnn, 12),
        Workload("cnn-momentum", images, cnn, 12, "momentum", 1e-2),
        Workload("resnet", images, resnet, 6),
        Workload("text", lines, Bag, 20),
        Workload("vowels", vowels, lambda: cnn(640, 8), 8),
        Workload("characters", characters, Language, 8, loss="token_cross_entropy"),
    )
}


def fresh(w: Workload, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return w.model()


def cached(w: Workload, what: dict[str, Any], make: Callable[[], Any]) -> Any:
    """The result of a run, from the cache if it was done before."""
    key = hashlib.sha256(repr((w.name, w.epochs, sorted(what.items()))).encode()).hexdigest()[:20]
    path = CACHE / w.name / f"{key}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        found = {"what": what, "result": make(), "took": time.perf_counter() - started}
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(found))
        temporary.rename(path)
        print(f"{w.name} {what} {found['took']:.1f} s", file=sys.stderr, flush=True)
    return json.loads(path.read_text())["result"]


def train(w: Workload, data: Any, seed: int, **options: Any) -> dict[str, Any]:
    """One run: [steps, examples, validation loss] at every evaluation, and what probing inside it cost."""
    (train_rows, valid_rows) = data
    run = handful.fit(
        fresh(w, seed), train_rows, valid=valid_rows, loss=w.loss, optimizer=w.optimizer, schedule="constant",
        until=f"epochs({w.epochs})", evaluate_every=0.25, seed=seed, quiet=True, threads=1, metrics=None, **options,
    )  # fmt: skip
    if "interrupt" in run.stopped_because:
        raise KeyboardInterrupt  # fit keeps what it has; a benchmark must not take that for a whole run
    curve = [[r["step"], r["position"], r["valid_loss"]] for r in run.history if "valid_loss" in r]
    said = [r["note"] for r in run.history if "note" in r]
    return {"curve": curve, "trial": run.state.trial, "batch": run.state.batch, "notes": said,
            "seconds": run.history[-1]["seconds"]}  # fmt: skip


def auto(w: Workload, data: Any, seed: int, law: Throughput) -> dict[str, Any]:
    """A run with batch and lr chosen under a law, growth included."""
    (train_rows, valid_rows) = data
    t = assemble(
        fresh(w, seed), train_rows,
        {"valid": valid_rows, "loss": w.loss, "optimizer": w.optimizer, "schedule": "constant", "metrics": None,
         "until": f"epochs({w.epochs})", "seed": seed, "quiet": True, "threads": 1}, measure=False,
    )  # fmt: skip
    d = decide(t, throughput=law)
    assert d.batch is not None
    assert d.lr is not None
    grown = d.growth.value if d.growth else None
    result = train(w, data, seed, batch=d.batch.value, lr=d.lr.value, batch_growth=grown)
    result["trial"] = [result["trial"][0] + d.steps, result["trial"][1] + d.examples]
    return result | {"chosen": d.batch.value, "lr": d.lr.value, "phi": None if d.noise is None else d.noise.value,
                     "reason": d.batch.reason, "why": d.lr.reason, "growth": grown}  # fmt: skip


def crossing(result: dict[str, Any], target: float) -> tuple[float, float] | None:
    """(steps, examples) at which the running minimum of the validation loss first reaches the target."""
    before = (0.0, 0.0, math.inf)
    for step, position, loss in result["curve"]:
        if loss <= target:
            share = 1.0
            if math.isfinite(before[2]) and before[2] > loss:
                share = (before[2] - target) / (before[2] - loss)
            return before[0] + share * (step - before[0]), before[1] + share * (position - before[1])
        before = (step, position, min(before[2], loss))
    return None


def seconds(results: list[dict[str, Any]], target: float, a: float, b: float) -> float:
    """Mean time to target over seeds, probing included; infinite if one of them never got there."""
    times = []
    for r in results:
        at = crossing(r, target)
        if at is None:
            return math.inf
        times.append(a * (at[0] + r["trial"][0]) + b * (at[1] + r["trial"][1]))
    return statistics.mean(times)


def measure(w: Workload, seeds: int, rates: list[float], least: int) -> list[dict[str, Any]]:
    """All runs of a workload, and a row for each law."""
    data = w.data()
    n = len(data[0][0])
    cap = batch_cap(n)
    sizes = powers_of_two(cap, least)
    grid = {
        (size, rate): [
            cached(w, {"batch": size, "lr": round(rate, 8), "seed": seed},
                   lambda size=size, rate=rate, seed=seed: train(w, data, seed, batch=size, lr=rate))
            for seed in range(seeds)
        ]
        for size in sizes for rate in rates
    }  # fmt: skip
    half = n * w.epochs / 2

    def at_half(runs: list[dict[str, Any]]) -> float:
        return statistics.mean(min(loss for _, p, loss in r["curve"] if p <= 1.02 * half) for r in runs)

    finite = [at_half(runs) for runs in grid.values() if all(math.isfinite(c[2]) for r in runs for c in r["curve"])]
    target = 1.02 * min(finite)
    t = assemble(fresh(w, 0), data[0], {"valid": data[1], "loss": w.loss, "optimizer": w.optimizer, "batch": 32,
                 "lr": w.lr, "metrics": None, "quiet": True, "threads": 1, "until": "epochs(1)"})  # fmt: skip
    line = cached(w, {"line": cap}, lambda: _line(t, powers_of_two(cap, 4)))
    rows = []
    for name, (a, b) in {**{f"K={k}": (float(k), 1.0) for k in LAWS}, "this CPU": tuple(line)}.items():
        law = Throughput.law(a, b, powers_of_two(cap, 4))
        chosen = [
            cached(w, {"auto": CODE, "a": a, "b": b, "seed": seed}, lambda seed=seed, law=law: auto(w, data, seed, law))
            for seed in range(seeds)
        ]
        times = {setting: seconds(runs, target, a, b) for setting, runs in grid.items()}
        best = min(times, key=lambda s: times[s])
        final = [min(c[2] for c in r["curve"]) for r in chosen]
        oracle_final = [min(c[2] for c in r["curve"]) for r in grid[best]]
        middle = min(rates, key=lambda r: abs(math.log(r / w.lr)))
        used = chosen[0]["curve"][-1]
        rows.append(
            {
                "workload": w.name,
                "law": name,
                "oracle": f"{best[0]} at {best[1]:.2g}",
                "auto": ", ".join(
                    f"{r['chosen']}{'' if r['batch'] == r['chosen'] else '->' + str(r['batch'])} at {r['lr']:.2g}"
                    for r in chosen
                ),
                "phi": [None if r["phi"] is None else round(r["phi"]) for r in chosen],
                "regret": seconds(chosen, target, a, b) / times[best],
                "batch 32": times.get((32, middle), math.inf) / times[best],
                "batch 128": times.get((128, middle), math.inf) / times[best],
                "largest": times[(max(sizes), middle)] / times[best],
                "probing": statistics.mean(
                    (a * r["trial"][0] + b * r["trial"][1]) / (a * used[0] + b * used[1]) for r in chosen
                ),
                "final": statistics.mean(final),
                "oracle final": statistics.mean(oracle_final),
                "sd": statistics.stdev(oracle_final) if seeds > 1 else math.nan,
            }
        )
    return rows


def _line(t: Any, sizes: list[int]) -> list[float]:
    found = measure_throughput(t, sizes, budget=10.0, repeats=9)
    return [found.a, found.b]


def geometric(values: list[float]) -> float:
    return math.exp(statistics.mean(math.log(v) for v in values)) if values else math.nan


def write(rows: list[dict[str, Any]], seeds: int, rates: int, quick: bool) -> None:
    columns = ["workload", "law", "oracle", "auto", "phi", "regret", "batch 32", "batch 128", "largest", "probing",
               "final", "oracle final", "sd"]  # fmt: skip

    def say(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    text = [
        "# The choice of batch and learning rate, against an oracle",
        "",
        f"{platform.machine()}, {platform.system()}, torch {torch.__version__}, one thread; {seeds} seeds, {rates} "
        f"learning rates{', quick' if quick else ''}. Times are a * steps + b * examples (see benchmarks/choice.py), "
        "so that a busy machine does not enter; ratios are to the oracle's. `final` is the lowest validation loss of "
        "the whole run, `sd` that of the oracle's seeds; `probing` is the share of the whole run's time.",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(say(row[c]) for c in columns) + " |" for row in rows),
        "",
    ]
    for name in ("regret", "batch 32", "batch 128", "largest"):
        known = [row[name] for row in rows if math.isfinite(row[name])]
        missed = len(rows) - len(known)
        worst = max(known, default=math.nan)
        text.append(
            f"- {'auto' if name == 'regret' else name}: geometric mean {geometric(known):.2f}, worst {worst:.2f}"
            + (f", target not reached in {missed} of {len(rows)}" if missed else "")
        )
    out = HERE / "results" / "choice.md"
    out.parent.mkdir(exist_ok=True)
    out.write_text("\n".join(text) + "\n")
    print("\n".join(text[5:]))


def main() -> None:
    parser = argparse.ArgumentParser(description="batch and learning rate chosen by handful, against an oracle")
    parser.add_argument("workloads", nargs="*", help=f"of {', '.join(WORKLOADS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="a third of the grid, two seeds, a third of the epochs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    seeds, count, least = (2, 3, 16) if given.quick else (3, 5, 4)
    rows = []
    for name in given.workloads or WORKLOADS:
        if name not in WORKLOADS:
            parser.error(f"there is no workload '{name}'; known: {', '.join(WORKLOADS)}")
        w = WORKLOADS[name]
        if given.quick:
            w.epochs = max(4, w.epochs // 2)
        rates = [w.lr * f for f in ((1.0, 3.0, 9.0) if given.quick else (1 / 3, 1.0, 3.0, 9.0, 27.0))]
        rows += measure(w, seeds, rates, least)
        write(rows, seeds, count, given.quick)


if __name__ == "__main__":
    main()
