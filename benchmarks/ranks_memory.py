"""Memory of two ranks on one machine beside that of one, while they train on data in memory.

    python benchmarks/ranks_memory.py [--rows 1500000] [--ranks 2]

A Parquet file of vectors of 256 float32 is read into memory and trained on; at the tenth step each rank tells its PSS
(/proc/self/smaps_rollup: what it holds alone, and its share of what several hold). Writes
benchmarks/results/ranks_memory.md.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import nn

import handful

WIDTH = 256


def megabytes(name: str = "Pss") -> float:
    """Of this process, by the kernel."""
    lines = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return int(lines[name].split()[0]) / 1024


def write(path: Path, rows: int) -> None:
    rng = np.random.default_rng(0)
    x = pa.FixedSizeListArray.from_arrays(pa.array(rng.random(rows * WIDTH, dtype=np.float32)), WIDTH)
    table = pa.table({"x": x, "y": pa.array(rng.integers(0, 3, rows))})
    pq.write_table(table, path, compression="none", use_dictionary=False, row_group_size=100_000)


def train(path: str) -> None:
    """As a rank: print its PSS at the tenth step, and its largest resident set."""
    held: list[float] = []

    def tell(event: str, info: object) -> None:
        if event == "step" and len(held) < 10:
            held.append(megabytes())

    how = {"batch": 64, "lr": 1e-3, "until": "steps(12)", "valid": 0.05, "preprocess": None, "target": "y"}
    handful.fit(nn.Linear(WIDTH, 3), path, quiet=True, callbacks=[tell], **how)  # type: ignore[arg-type]
    print(f"pss {held[-1]}", flush=True)


def total(path: Path, ranks: int) -> float:
    """Megabytes of so many ranks together."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), __file__, str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    return sum(float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("pss "))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", nargs="?", help="of a rank that was started")
    parser.add_argument("--rows", type=int, default=1_500_000)
    parser.add_argument("--ranks", type=int, default=2)
    args = parser.parse_args()
    if args.path:
        return train(args.path)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        write(path, args.rows)
        one, several = total(path, 1), total(path, args.ranks)
    size = args.rows * (4 * WIDTH + 8) / 1e6
    lines = [
        "# Memory of several ranks on one machine", "", __doc__.split("\n\n")[2].replace("\n", " "), "",
        "| data, MB | one rank, MB | ranks | together, MB | of one |", "|---|---|---|---|---|",
        f"| {size:,.0f} | {one:,.0f} | {args.ranks} | {several:,.0f} | {several / one:.2f} |",
    ]  # fmt: skip
    print("\n".join(lines[-3:]))
    (Path(__file__).parent / "results" / "ranks_memory.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
