"""Text of several sizes and kinds: `handful train` without options beside TF-IDF and a linear model of scikit-learn's.

    python benchmarks/bench_text.py [--seeds 2] [--only reviews,lines]

reviews: sentences of movie-reviews.csv, praise or not; lines: lines of Python's standard library, from which of eight
modules; place: the same lines, how far down their file they stand (0 to 100, R^2). A seed draws the training rows and
up to 3,000 others to test on. To choose its epoch, handful holds out a tenth of the training rows; scikit-learn's
LogisticRegression (RidgeCV for numbers) learns from all of them. Writes benchmarks/results/text.md.
"""

import argparse
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline

import handful
from handful.data.base import Column

HERE = Path(__file__).resolve().parent
REVIEWS = HERE.parents[1] / "shared" / "data" / "movie-reviews.csv"
MODULES = ("argparse", "ast", "difflib", "inspect", "pydoc", "tarfile", "turtle", "typing")
SIZES = (("reviews", 500), ("reviews", 2000), ("reviews", 7500), ("lines", 400), ("lines", 2000), ("place", 1500))
TESTED = 3000


def rows(work: str) -> tuple[list[str], list[Any]]:
    """All texts and targets of a workload."""
    if work == "reviews":
        source = handful.open(REVIEWS)
        batch, names = source.take(range(len(source))), source.columns["label"].classes or ()
        return list(batch["text"]), [names[i] for i in batch.tensor("label").tolist()]
    texts, targets = [], []
    for name in MODULES:
        lines = (Path(sysconfig.get_paths()["stdlib"]) / f"{name}.py").read_text(errors="replace").splitlines()
        for k, line in enumerate(lines):
            if len(line.split()) >= 2:
                texts.append(line.strip())
                targets.append(name if work == "lines" else 100 * k / len(lines))
    return texts, targets


def measure(texts: Sequence[str], targets: Sequence[Any], n: int, seed: int) -> tuple[float, float, float]:
    """(handful's score, scikit-learn's, handful's seconds): accuracy, or R^2 of numbers."""
    order = np.random.default_rng(seed).permutation(len(texts))
    parts = [([texts[i] for i in at], [targets[i] for i in at]) for at in (order[:n], order[n : n + TESTED])]
    columns = {"text": Column("text", "str")}
    train, test = (handful.open({"text": x, "y": y}, target="y", columns=columns) for x, y in parts)
    started = time.perf_counter()
    run = handful.fit("auto", train, augment="auto", threads=1, seed=seed, quiet=True)
    seconds, numbers = time.perf_counter() - started, run.pipeline.task == "regression"
    last = RidgeCV(np.logspace(-1, 2, 7)) if numbers else LogisticRegression(max_iter=1000)
    peer = make_pipeline(TfidfVectorizer(), last).fit(*parts[0])
    return run.evaluate(test)["r2" if numbers else "accuracy"], peer.score(*parts[1]), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda s: s.split(","), default=["reviews", "lines", "place"])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "text.md")
    args = parser.parse_args()
    lines = [
        "# Text",
        "",
        f"`python benchmarks/bench_text.py`, 2 shared Intel Xeon cores, one thread, torch {torch.__version__}. "
        f"Accuracy in % (place: 100 R^2) on up to {TESTED:,} rows that no epoch was chosen by, mean over n seeds; "
        "ahead: by how much handful is, paired by seed, with the standard deviation.",
        "",
        "| work | training rows | n | handful | TF-IDF and a linear model | ahead | s |",
        "|---|---|---|---|---|---|---|",
    ]
    for work, n in SIZES:
        if work in args.only:
            found = np.array([measure(*rows(work), n, seed) for seed in range(args.seeds)])
            gap = 100 * (found[:, 0] - found[:, 1])
            spread = f" ({gap.std(ddof=1):.1f})" if len(gap) > 1 else ""
            ours, theirs = 100 * found[:, :2].mean(0)
            ahead, seconds = f"{gap.mean():+.1f}{spread}", found[:, 2].mean()
            lines.append(f"| {work} | {n:,} | {len(found)} | {ours:.1f} | {theirs:.1f} | {ahead} | {seconds:.0f} |")
            print(lines[-1], flush=True)
    args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
