"""How soon a loaded run answers: a table of a file, of a frame, and one row alone, beside plain pandas and torch.

    python benchmarks/bench_predict.py [--rows 20000] [--rounds 30] [--calls 200]

The table: eight numbers, two categories, dates and truth values as text, as a CSV file has them; the target two words.
Plain pandas and torch: what one would write by hand for the same model: read_csv, means and codes kept from training,
one-hot by get_dummies, the same ready-made network, argmax, names. A frame is the one that pandas read; one row is a
dict, every time another. The two take turns in one process of one thread, and its processor time is measured, for the
machine has other work. Writes benchmarks/results/predict.md.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

import handful

HERE = Path(__file__).parent
NUMBERS = [f"n{k}" for k in range(8)]


def table(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({name: rng.normal(size=n).round(4) for name in NUMBERS})
    frame["colour"] = rng.choice(["red", "green", "blue"], n)
    frame["shop"] = rng.choice([f"shop {k}" for k in range(50)], n)
    days = pd.to_datetime("2020-01-01") + pd.to_timedelta(rng.integers(0, 700, n), unit="D")
    frame["day"] = days.strftime("%Y-%m-%d")
    frame["new"] = rng.choice(["True", "False"], n)
    frame["sold"] = np.where(frame["n0"] + (frame["colour"] == "red") > 0.3, "yes", "no")
    return frame


def by_hand(frame: pd.DataFrame, model: torch.nn.Module, width: int) -> Callable[[pd.DataFrame], np.ndarray]:
    """What pandas and torch do for a frame, with what was learned of `frame` kept: features, then the model."""
    shops, colours = sorted(frame["shop"].unique()), sorted(frame["colour"].unique())

    def features(frame: pd.DataFrame) -> pd.DataFrame:
        day = pd.to_datetime(frame["day"])
        new = (frame["new"].astype(str) == "True").astype(float)
        turns = [
            f(2 * np.pi * v) for v in (day.dt.day_of_year / 365.25, day.dt.day_of_week / 7) for f in (np.sin, np.cos)
        ]
        numbers = pd.concat([frame[NUMBERS], (day - pd.Timestamp(0)).dt.total_seconds(), new, *turns], axis=1)
        words = [
            pd.get_dummies(pd.Categorical(frame["shop"], shops)),
            pd.get_dummies(pd.Categorical(frame["colour"], colours)),
        ]
        return pd.concat(
            [numbers.set_axis(range(numbers.shape[1]), axis=1), *(w.set_index(frame.index) for w in words)], axis=1
        )

    known = features(frame)
    mean, std = known.mean().to_numpy(float), known.std().to_numpy(float)
    names = np.array(["no", "yes"])

    def predict(frame: pd.DataFrame) -> np.ndarray:
        x = torch.from_numpy((features(frame).to_numpy(float) - mean) / std).float()
        with torch.inference_mode():
            return names[model(torch.nn.functional.pad(x, (0, width - x.shape[1]))).argmax(1).numpy()]

    return predict


def turns(calls: list[Callable[[int], object]], rounds: int) -> list[tuple[float, float]]:
    """(median, least) milliseconds of the processor for each; they take turns and get the number of the round."""
    times: list[list[float]] = [[] for _ in calls]
    for k in range(-3, rounds):
        for call, found in zip(calls, times, strict=True):
            started = time.process_time()
            call(abs(k))
            if k >= 0:
                found.append(1e3 * (time.process_time() - started))
    return [(statistics.median(found), min(found)) for found in times]


def measure(name: str, folder: Path, rows: int, rounds: int, calls: int) -> list[str]:
    frame = table(rows, 1)
    path, one = folder / "new.csv", folder / "one.csv"
    frame.drop(columns="sold").to_csv(path, index=False)
    frame.drop(columns="sold").head(1).to_csv(one, index=False)
    handful.fit(
        name, table(4000, 0), target="sold", until="steps(200)", batch=64, lr=0.01, quiet=True, out=folder / name
    )
    run = handful.load(folder / name)
    width = 0 if name == "table" else next(iter(run.model.parameters())).shape[1]
    plain = by_hand(table(4000, 0), run.model, width) if width else None
    given = frame.drop(columns="sold")
    records, judge = given.to_dict("records"), run.as_function()
    found = []
    works: list[tuple[str, int, Callable[[int], object], Callable[[int], pd.DataFrame], int]] = [
        ("CSV file", rows, lambda k: run.predict(path), lambda k: pd.read_csv(path), rounds),
        ("frame", rows, lambda k: run.predict(given), lambda k: given, rounds),
        ("one row, a dict", 1, lambda k: judge(records[k]), lambda k: pd.DataFrame([records[k]]), calls),
        ("one row, a frame", 1, lambda k: run.predict(given[k : k + 1]), lambda k: given[k : k + 1], calls),
        ("one row, a CSV file", 1, lambda k: run.predict(one), lambda k: pd.read_csv(one), calls),
    ]
    for what, n, ours, theirs, times in works:
        hand = [lambda k, read=theirs: plain(read(k))] if plain else []
        (mine, least), *other = turns([ours, *hand], times)
        told = [f"{mine:.2f}", f"{least:.2f}", *([f"{other[0][0]:.2f}", f"{other[0][1]:.2f}"] if other else ["", ""])]
        speed = f"{n / mine * 1e3:,.0f}" if n > 1 else ""
        found.append(f"| {name} | {what} | {' | '.join(told)} | {speed} |")
        print(found[-1], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--only", type=lambda s: s.split(","), default=["linear", "mlp", "table"])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "predict.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        found = [row for model in args.only for row in measure(model, Path(name), args.rows, args.rounds, args.calls)]
    lines = [
        "# Predictions",
        "",
        f"`python benchmarks/bench_predict.py --rounds {args.rounds} --calls {args.calls}`, 2 shared Intel Xeon cores, "
        f"one thread, torch {torch.__version__}, pandas {pd.__version__}, pyarrow {pa.__version__}. A loaded run "
        "beside the same network fed by hand (pandas' read_csv, to_datetime and get_dummies, nothing checked), in "
        f"turns; {args.rows:,} rows of 12 columns, or one. Milliseconds of the processor a call, median and least, at "
        f"a load of {os.getloadavg()[0]:.0f}. By hand there is no line for the table model's members.",
        "",
        "| model | data | handful, median | least | by hand, median | least | rows/s |",
        "|---|---|---|---|---|---|---|",
        *found,
    ]
    args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
