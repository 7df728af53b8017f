"""How many members the table model should have: 1, 4 and 8 on the same folds of `bench_tables`.

    pip install -e '.[bench]'
    python benchmarks/table_members.py [--only digits,concrete] [--members 1,4,8]

Three folds of each set, seed 0, everything else default. Every fit is cached in benchmarks/.cache/tables. Writes
benchmarks/results/members.md.
"""

import argparse
import json
import time
from pathlib import Path

import bench_tables as tables
import numpy as np
import torch
from sklearn.metrics import accuracy_score, r2_score

FOLDS = 3


def measure(name: str, members: int, k: int) -> dict[str, float]:
    """Score and seconds of one fit."""
    path = tables.CACHE / f"{name}-{FOLDS}-0-{k}-members{members}-{tables.CODE['']}.json"
    if not path.exists():
        score, load = tables.SETS[name]
        x, y = load()
        train, test = tables.folds(name, FOLDS, 0)[k]
        rows, model = getattr(x, "iloc", x), tables.Table(score, 0, f"table(members={members})")
        started = time.perf_counter()
        predicted = model.fit(rows[train], y[train]).predict(rows[test])
        found = float((r2_score if score == "R2" else accuracy_score)(y[test], predicted))
        path.write_text(json.dumps({"score": found, "seconds": time.perf_counter() - started}))
    result: dict[str, float] = json.loads(path.read_text())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", type=lambda s: s.split(","), default=["digits", "diabetes", "concrete", "hpc_data", "diamonds"]
    )
    parser.add_argument("--members", type=lambda s: [int(k) for k in s.split(",")], default=[1, 4, 8])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "members.md")
    args = parser.parse_args()
    tables.CACHE.mkdir(parents=True, exist_ok=True)
    first = args.members[0]
    lines = [
        "# Members of the table model",
        "",
        f"`python benchmarks/table_members.py`, torch {torch.__version__}, one thread of a shared Intel Xeon (read "
        "seconds as ratios). Three folds, seed 0: mean score; its difference to that of "
        f"{first} member{'s' * (first > 1)}, paired by fold, with the standard error; median seconds a fit.",
        "",
        "| data | rows | " + " | ".join(f"{m} member{'s' * (m > 1)} | - {first} | s" for m in args.members) + " |",
        "|---|---|" + "---|---|---|" * len(args.members),
    ]
    for name in args.only:
        cells, base = [], np.zeros(FOLDS)
        for members in args.members:
            found = [measure(name, members, k) for k in range(FOLDS)]
            scores = np.array([f["score"] for f in found])
            base = scores if members == first else base
            gap = scores - base
            said = "" if members == first else f"{gap.mean():+.4f} ± {gap.std(ddof=1) / FOLDS**0.5:.4f}"
            cells.append(f"{scores.mean():.4f} | {said} | {np.median([f['seconds'] for f in found]):.1f}")
        lines.append(f"| {name} | {len(tables.SETS[name][1]()[0]):,} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
