"""handful's table model beside scikit-learn's MLP and gradient boosting: same rows, same folds, default settings.

    python benchmarks/bench_tables.py [--seeds 3] [--folds 5] [--only wine,iris] [--rows 5000]

Data that come with the packages handful needs anyway, nothing is downloaded: five sets of scikit-learn, plotly's
gapminder, patches of scikit-learn's two photographs, and two of its generators. Every seed deals the rows into folds
anew and is the models' seed too. The MLPs get standardised inputs (categories one-hot), standardised regression targets
and up to 500 epochs; all else is each library's default. Score: accuracy, or R2. Writes benchmarks/results/tables.md.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
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
)  # fmt: skip
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.image import extract_patches_2d
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

import handful


def gapminder(rows: int) -> tuple[Any, Any]:
    """Life expectancy from country, continent, year, population and income."""
    import plotly.data

    frame = plotly.data.gapminder()[["country", "continent", "year", "pop", "gdpPercap", "lifeExp"]][:rows]
    frame = frame.astype({"country": "category", "continent": "category"})
    return frame.drop(columns="lifeExp"), frame["lifeExp"].to_numpy()


def patches(rows: int) -> tuple[Any, Any]:
    """Which of two photographs a patch of 4 x 4 pixels, 48 numbers, is from."""
    parts = [extract_patches_2d(p, (4, 4), max_patches=rows // 2, random_state=0) for p in load_sample_images().images]
    x = np.concatenate(parts).reshape(-1, 48).astype(np.float32)
    return x, np.repeat([0, 1], [len(p) for p in parts])


def friedman(rows: int) -> tuple[Any, Any]:
    """Friedman 1991, equation 61: five of ten numbers matter, not linearly; noise of variance 1."""
    return make_friedman1(rows, noise=1.0, random_state=0)


def hastie(rows: int) -> tuple[Any, Any]:
    """Hastie et al. 2009, equation 10.2: whether ten normal numbers lie outside a ball."""
    x, y = make_hastie_10_2(rows, random_state=0)
    return x, (y > 0).astype(int)


SETS: dict[str, tuple[str, Callable[[int], tuple[Any, Any]]]] = {
    "iris": ("accuracy", lambda rows: load_iris(return_X_y=True)),
    "wine": ("accuracy", lambda rows: load_wine(return_X_y=True)),
    "breast_cancer": ("accuracy", lambda rows: load_breast_cancer(return_X_y=True)),
    "digits": ("accuracy", lambda rows: load_digits(return_X_y=True)),
    "diabetes": ("R2", lambda rows: load_diabetes(return_X_y=True)),
    "gapminder": ("R2", gapminder),
    "photo patches": ("accuracy", patches),
    "friedman1": ("R2", friedman),
    "hastie": ("accuracy", hastie),
}


class Table:
    """handful's table model, every setting its default."""

    def __init__(self, score: str, seed: int) -> None:
        self.task, self.seed = "regression" if score == "R2" else "classification", seed

    def fit(self, x: Any, y: Any) -> "Table":
        self.run = handful.fit("table", (x, y), task=self.task, seed=self.seed, quiet=True)
        return self

    def predict(self, x: Any) -> Any:
        return self.run.predict(x if hasattr(x, "columns") else {"x": x})


def mlp(score: str, seed: int) -> Any:
    words = make_column_selector(dtype_include="category")
    numbers = make_column_selector(dtype_exclude="category")
    scale = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), words), (StandardScaler(), numbers), sparse_threshold=0
    )
    network = (MLPRegressor if score == "R2" else MLPClassifier)(max_iter=500, random_state=seed)
    if score == "R2":
        network = TransformedTargetRegressor(network, transformer=StandardScaler())
    return make_pipeline(FunctionTransformer(pd.DataFrame), scale, network)


def boosting(score: str, seed: int) -> Any:
    return (HistGradientBoostingRegressor if score == "R2" else HistGradientBoostingClassifier)(random_state=seed)


MODELS: dict[str, Callable[[str, int], Any]] = {"handful": Table, "MLP": mlp, "boosting": boosting}


def folds(x: Any, y: Any, score: str, count: int, seed: int) -> Iterator[tuple[Any, Any, Any, Any]]:
    """(training inputs, training target, test inputs, test target) of every fold."""
    kind = KFold if score == "R2" else StratifiedKFold
    rows = getattr(x, "iloc", x)
    for train, test in kind(count, shuffle=True, random_state=seed).split(x, y):
        yield rows[train], y[train], rows[test], y[test]


def measure(name: str, args: argparse.Namespace) -> dict[str, tuple[list[float], list[float]]]:
    """Scores and seconds of every model on every fold."""
    score, load = SETS[name]
    x, y = load(args.rows)
    measured: dict[str, tuple[list[float], list[float]]] = {model: ([], []) for model in MODELS}
    for seed in range(args.seeds):
        for k, (x_train, y_train, x_test, y_test) in enumerate(folds(x, y, score, args.folds, seed)):
            if k == args.at_most:
                break
            for model in MODELS:
                started = time.perf_counter()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    predicted = MODELS[model](score, seed).fit(x_train, y_train).predict(x_test)
                measured[model][1].append(time.perf_counter() - started)
                measured[model][0].append((r2_score if score == "R2" else accuracy_score)(y_test, predicted))
                if args.verbose:
                    scores, seconds = measured[model]
                    print(name, seed, k, model, f"{scores[-1]:.4f} {seconds[-1]:.1f} s", flush=True)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--at-most", type=int, default=None, help="folds used of each seed")
    parser.add_argument("--rows", type=int, default=5000, help="of the larger sets")
    parser.add_argument("--only", type=lambda s: s.split(","), default=list(SETS))
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "tables.md")
    args = parser.parse_args()
    lines = [
        "# Tables",
        "",
        f"Mean (standard deviation) over {args.seeds} seeds x {args.at_most or args.folds} folds of the score on the "
        f"held-out fold, and median seconds a fit. {torch.get_num_threads()} thread(s), torch {torch.__version__}; "
        "`python benchmarks/bench_tables.py`. difference: handful - MLP, paired by fold, mean and standard error.",
        "",
        "| data | rows x columns | score | " + " | ".join(f"{m} | s" for m in MODELS) + " | difference |",
        "|---|---|---|" + "---|---|" * len(MODELS) + "---|",
    ]
    for name in args.only:
        measured = measure(name, args)
        cells = [f"{np.mean(s):.4f} ({np.std(s):.4f}) | {np.median(t):.1f}" for s, t in measured.values()]
        gap = np.subtract(measured["handful"][0], measured["MLP"][0])
        error = gap.std() / np.sqrt(len(gap))
        x = SETS[name][1](args.rows)[0]
        size = " x ".join(f"{k:,}" for k in x.shape)
        lines.append(f"| {name} | {size} | {SETS[name][0]} | {' | '.join(cells)} | {gap.mean():+.4f} ± {error:.4f} |")
        print(lines[-1], flush=True)
    args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
