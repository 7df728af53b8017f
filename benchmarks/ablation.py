"""What augmentation, penalties, averaging, schedules and optimizers each do, switched alone, on real data.

    python benchmarks/ablation.py [--only digits,spoken] [--seeds 8] [--seconds 280]

digits: an MLP on 150 of scikit-learn's 1,797 digits, tested on 1,497; pictures: a CNN on 200 of them; photos: a CNN
on 4,000 of CIFAR-10's training pictures, tested on 4,000 others; reviews: 2,000 sentences of movie-reviews.csv,
tested on 1,000 others; spoken: 400 recordings of spoken-digits.zip, tested on 400 others. The base of each is AdamW
at a constant rate with nothing else; every other run changes what its name says, and no more. A seed draws the rows,
the weights and the batches; nothing is selected on the test rows, the last weights are scored. Every run is cached in
benchmarks/.cache/ablation. Writes benchmarks/results/ablation.md.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import handful
from handful import models
from handful.data.base import Source
from handful.optim import build as optimizer
from handful.training.watch.evaluation import evaluate
from handful.training.watch.weights import copy_weights, load_weights

HERE = Path(__file__).resolve().parent
CACHE, DATA = HERE / ".cache" / "ablation", HERE.parents[1] / "shared" / "data"


@dataclass
class Work:
    """Data, how many rows to learn from and to test on, the base, the changes to it by name, and how many seeds."""

    data: str
    rows: int
    test: int
    base: dict[str, Any]
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: int = 8  # at most


def rate_of(name: str) -> float:
    """The optimizer's stated default rate for the MLP of digits."""
    net = models.build("mlp", kind="image", shape=(1, 8, 8), outputs=10, inputs={}, seed=0)
    return float(optimizer.build(name, net).lr.value)


def plain(name: str, epochs: int, batch: int, lr: float = 2e-3) -> dict[str, Any]:
    return {
        "model": name, "batch": batch, "lr": lr, "l2": 0.0, "schedule": "constant", "until": f"epochs({epochs})",
        "augment": None, "ema": None,
    }  # fmt: skip


WORKS = {
    "digits": Work("digits", 150, 1497, plain("mlp", 60, 16), {
        "L1 1e-4": {"l1": 1e-4}, "L1 1e-3": {"l1": 1e-3}, "L2 0.1": {"l2": 0.1}, "L2 1": {"l2": 1.0},
        "dropout 0.3": {"model": "mlp(dropout=0.3)"}, "label smoothing 0.1": {"label_smoothing": 0.1},
        "EMA 0.99": {"ema": 0.99},
        "schedule step": {"schedule": "step(every=20)"}, "schedule cosine": {"schedule": "cosine"},
        "schedule cosine, warm-up": {"schedule": "cosine(warmup=0.1)"},
        **{name: {"optimizer": name, "lr": rate_of(name)}
           for name in ("sgd", "momentum", "rmsprop", "adam", "adamw", "muon")},
    }),
    "pictures": Work("digits", 200, 1597, plain("cnn", 40, 16), {
        "augment auto": {"augment": "auto"}, "augment rotate(15) | scale(0.1)": {"augment": "rotate(15) | scale(0.1)"},
        "augment mixup(0.2)": {"augment": "mixup(0.2)"}, "dropout 0.3": {"model": "cnn(dropout=0.3)"},
    }),
    "photos": Work("cifar10-train.parquet", 4000, 4000, plain("cnn", 30, 64), {
        name: {"augment": name} for name in (
            "auto", "flip", "shift(2)", "cutout(8)", "rotate(10) | scale(0.1)", "colour(0.2)", "noise(0.1)",
            "mixup(0.2)", "cutmix(1)",
        )
    }, 3),
    "reviews": Work("movie-reviews.csv", 2000, 1000, plain("text", 8, 16, 1e-3), {
        "augment auto": {"augment": "auto"}, "token_dropout(0.3)": {"augment": "token_dropout(0.3)"},
        "dropout 0": {"model": "text(dropout=0)"}, "label smoothing 0.1": {"label_smoothing": 0.1},
    }, 5),
    "spoken": Work("spoken-digits.zip", 400, 400, plain("audio", 40, 16), {
        "augment auto": {"augment": "auto"}, "EMA 0.99": {"ema": 0.99},
    }, 3),
}  # fmt: skip


def parts(work: Work, seed: int) -> tuple[Source, Source]:
    """Training and test rows of a seed, drawn without replacement."""
    path = DATA / work.data
    source = handful.open(path if path.exists() else work.data)
    rows = np.random.default_rng(seed).permutation(len(source))[: work.rows + work.test]
    return source.subset(rows[: work.rows]), source.subset(rows[work.rows :])


class Watch:
    """Test accuracy after each tenth of the run, of the averaged weights where there are any."""

    def __init__(self, test: Source) -> None:
        self.test, self.seen = test, list[float]()

    def __call__(self, event: str, info: dict[str, Any]) -> None:
        if event == "start":
            self.t = info["training"]
            order, pipeline = handful.Order(len(self.test), shuffle="none"), self.t.pipeline.on(self.test, target=True)
            cached = pipeline.cached(self.test)
            self.batches = handful.Batches(cached or self.test, order, () if cached is not None else [pipeline])
        if event != "step" or self.t.state.position * 10 < (len(self.seen) + 1) * self.t.planned:
            return
        model, average = self.t.objective.model, self.t.state.average
        kept = copy_weights(model)
        load_weights(model, average if average is not None else kept)
        self.seen.append(evaluate(self.t.objective, self.batches.epoch(512))["accuracy"])
        load_weights(model, kept)


def measure(work: Work, change: dict[str, Any], seed: int) -> dict[str, float]:
    """One run: what it reaches and what it does beyond the score."""
    train, test = parts(work, seed)
    given = work.base | change
    model, watch, started = given.pop("model"), Watch(test), time.perf_counter()
    run = handful.fit(model, train, **given, valid=None, threads=1, quiet=True, seed=seed, callbacks=[watch])
    weights = torch.cat([p.detach().flatten() for p in run.model.parameters() if p.ndim > 1])
    return {
        "accuracy": watch.seen[-1], "early": watch.seen[0], "wobble": float(np.std(watch.seen[-4:])),
        "train loss": surprise(run, train), "test loss": surprise(run, test),
        "calibration": run.evaluate(test, metrics="calibration_error")["calibration_error"],
        "norm": float(weights.norm()), "small": float((weights.abs() < 1e-3).float().mean()),
        "seconds": time.perf_counter() - started,
    }  # fmt: skip


def surprise(run: Any, rows: Source) -> float:
    """Mean -log probability of the true class, whatever loss was trained on."""
    y = rows.read_column(rows.target, np.arange(len(rows))).numpy()
    names = rows.columns[rows.target].classes
    at = {str(c): i for i, c in enumerate(run.pipeline.classes)}
    ids = np.array([at[names[i] if names else str(i)] for i in y.tolist()])
    p = run.predict(rows, probabilities=True).numpy()[np.arange(len(ids)), ids]
    return float(-np.log(np.maximum(p, 1e-12)).mean())


def results(args: argparse.Namespace) -> Iterator[tuple[str, str, list[dict[str, float]]]]:
    """(workload, change, a result of each seed), from the cache where there is one."""
    end = time.monotonic() + args.seconds
    for title in args.only:
        work = WORKS[title]
        for name, change in {"base": {}, **work.changes}.items():
            found = []
            for seed in range(min(args.seeds, work.seeds)):
                key = "".join(c if c.isalnum() or c in "-." else "_" for c in f"{title}-{name}-{seed}")
                path = CACHE / f"{key}.json"
                if not path.exists() and time.monotonic() < end:
                    CACHE.mkdir(parents=True, exist_ok=True)
                    path.write_text(json.dumps(measure(work, change, seed)))
                found += [json.loads(path.read_text())] if path.exists() else []
            if found:
                yield title, name, found


Column = Callable[[list[dict[str, float]]], str]


def mean(key: str, form: str = ".3f") -> Column:
    return lambda found: format(np.mean([f[key] for f in found]), form)


COLUMNS: dict[str, Column] = {
    "early": mean("early", ".1%"), "wobble": mean("wobble", ".2%"), "train loss": mean("train loss"),
    "test loss": mean("test loss"), "calibration error": mean("calibration"), "norm of weights": mean("norm", ".1f"),
    "weights < 1e-3": mean("small", ".1%"), "s": mean("seconds", ".1f"),
}  # fmt: skip


def moved(found: list[dict[str, float]], base: list[dict[str, float]]) -> str:
    """The measures that a change moves by more than three standard errors, paired by seed, and which way."""
    said = []
    for key in ("accuracy", "early", "wobble", "train loss", "test loss", "calibration", "norm", "small"):
        gap = np.array([a[key] - b[key] for a, b in zip(found, base)])
        if len(gap) > 2 and abs(gap.mean()) > 3 * gap.std(ddof=1) / len(gap) ** 0.5 > 0:
            said.append(f"{key} {'up' if gap.mean() > 0 else 'down'}")
    return ", ".join(said) or "nothing"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda s: s.split(","), default=list(WORKS))
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no run after so long")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "ablation.md")
    args = parser.parse_args()
    lines = [
        "# Ablation",
        "",
        f"`python benchmarks/ablation.py`, {platform.machine()}, one thread, torch {torch.__version__}. Each row "
        "changes the base by what its name says. accuracy: % of the test rows, mean (standard deviation) over n seeds; "
        "- base: in points, paired by seed, ± standard error. early: after a tenth of the run; wobble: standard "
        "deviation over the last four tenths; losses: mean -log p of the true class; moves: what differs from the base "
        "by more than three standard errors. spoken was lengthened from 12 to 40 epochs after its augmentation had "
        "lost 17.7 points at 12 (n = 3, training loss still 0.69).",
    ]  # fmt: skip
    base: list[float] = []
    base_found: list[dict[str, float]] = []
    for title, name, found in results(args):
        scores = [f["accuracy"] for f in found]
        if name == "base":
            base, base_found, work = scores, found, WORKS[title]
            lines += [
                "",
                f"## {title}: {work.rows} rows, {', '.join(f'{k}={v}' for k, v in work.base.items() if v)}",
                "",
            ]
            lines += [
                f"| change | n | accuracy | - base | {' | '.join(COLUMNS)} | moves |",
                "|---" * (len(COLUMNS) + 5) + "|",
            ]
        gap = 100 * np.subtract(scores, base[: len(scores)])
        said = f"{gap.mean():+.2f} ± {gap.std(ddof=1) / len(gap) ** 0.5:.2f}" if len(gap) > 1 else f"{gap.mean():+.2f}"
        spread = 100 * np.std(scores, ddof=1) if len(scores) > 1 else float("nan")
        cells = " | ".join([*(column(found) for column in COLUMNS.values()), moved(found, base_found)])
        shown = name.replace("|", "and")
        lines.append(f"| {shown} | {len(scores)} | {100 * np.mean(scores):.2f} ({spread:.2f}) | {said} | {cells} |")
        print(lines[-1], flush=True)
    args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
