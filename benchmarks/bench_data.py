"""handful's data path beside its peers: the same rows, the same mini-batch, in one run, rounds interleaved.

    python benchmarks/bench_data.py [--rounds 7] [--seconds 0.6] [--only memory,disk,...] [--data FOLDER]

Parts: memory, disk, large (four times a bound on memory: large.py), jpeg, seek, ranks, text, predict. Peers (peers.py)
come with `pip install handful[bench]`, litdata and mosaicml-streaming with `--no-deps`, because they ask for
torchvision; one that is not installed is reported with the reason. A rate is the median of `rounds`
rounds, each contender measured once a round in turn, so that what else the machine does hits all alike; the spread is
that of the rounds' ratios. Writes benchmarks/results/data.md.
"""

import argparse
import contextlib
import inspect
import io
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from apart import OURS, Apart
from large import large
from peers import BATCH, PEERS, WIDTH, Endless, handful_stream, rate, torch_loaders
from PIL import Image

import handful
from handful.base.machine import cores
from handful.batches.grouped import row_lengths

STAND_INS = (
    "- MosaicML Streaming imports torchvision and transformers, which its writer and reader do not use: where these "
    "are not installed, empty modules stand in for them during its import (`peers.stand_ins`)."
)


def rows_of(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (n, WIDTH), dtype=np.uint8), np.arange(n, dtype=np.int64)


def side_by_side(contenders: dict[str, Endless], rounds: int, seconds: float) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, start in contenders.items():
            found[name].append(rate(start, seconds))
    return found


def table(found: dict[str, list[float]], of: str, more: dict[str, str] | None = None, title: str = "") -> list[str]:
    """Rates, and ratios to `of` with the quartiles of the rounds."""
    head = "| | rows/s | ratio to " + of + " | quartiles |" + (f" {title} |" if more else "")
    lines = [head, "|---|---|---|---|" + ("---|" if more else "")]
    for name, rates in found.items():
        ratios = sorted(a / b for a, b in zip(rates, found[of]))
        low, high = np.quantile(ratios, [0.25, 0.75])
        last = f" {more.get(name, '')} |" if more else ""
        lines.append(
            f"| {name} | {statistics.median(rates):,.0f} | {statistics.median(ratios):.2f} | "
            f"{low:.2f} to {high:.2f} |{last}"
        )
    return lines


def memory(a: argparse.Namespace, _: Path) -> list[str]:
    """3 KB uint8 rows in memory."""
    x, y = rows_of(60_000)
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)

    def bare() -> Iterator[Any]:
        out_x, out_y = torch.empty((BATCH, WIDTH), dtype=torch.uint8), torch.empty(BATCH, dtype=torch.int64)
        while True:
            order = torch.randperm(len(y))
            for i in range(0, len(y) - BATCH, BATCH):
                index = order[i : i + BATCH]
                torch.index_select(tx, 0, index, out=out_x)
                yield out_x, torch.index_select(ty, 0, index, out=out_y)

    source = handful.open({"x": x, "y": y}, target="y")
    contenders = {"handful": handful_stream(source), "index_select(out=), bare": bare, **torch_loaders(tx, ty)}
    found = side_by_side(contenders, a.rounds, a.seconds)
    return table(found, "handful")


def absent(reason: Exception) -> str:
    return f"absent ({type(reason).__name__}: {' '.join(str(reason).split())[:120]})"


def disk(a: argparse.Namespace, folder: Path) -> list[str]:
    """The same rows on disk, in a warm cache, each in a process of its own, its own format written and read."""
    n = 30_000
    x, y = rows_of(n)
    handful.prepare({"x": x, "y": y}, folder / "store", target="y")
    running: dict[str, Apart] = {}
    quality, missing = {}, []
    for name in (*OURS, *PEERS):
        if name == "the same, 2 workers":  # slower in memory already: see there
            continue
        try:
            if name in PEERS:
                PEERS[name].write(x, y, folder)
            running[name] = Apart(name, folder)
            quality[name] = running[name].ask("vif", n)
        except Exception as error:  # whatever a peer raises is the reason that it is not in the table
            missing.append(f"- {name}: {absent(error)}")
            if name in running:
                running.pop(name).close()
    found: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(a.rounds):
        for name, process in running.items():
            found[name].append(process.ask("rate", a.seconds))
    for process in running.values():
        process.close()
    notes = [*missing, STAND_INS] if "MosaicML Streaming" in found else missing
    return [*table(found, "handful store, exact", quality, "VIF (ideal 1)"), "", *notes]


def jpeg(a: argparse.Namespace, folder: Path) -> list[str]:
    """JPEG decoded on the fly from a store, beside the decoder alone on all cores, batches of 64."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(300):
        small = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(small).resize((256, 256), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
        pictures.append(out.getvalue())
    lines = []
    sets: dict[str, list[bytes]] = {"256 x 256 pixels": pictures}
    cifar = a.data / "cifar10-test.parquet"
    if cifar.exists():
        import pyarrow.parquet as pq

        sets["CIFAR-10"] = [row["bytes"] for row in pq.read_table(cifar)["image"][:3000].to_pylist()]
    for title, items in sets.items():
        import pyarrow as pa

        where = folder / f"{title.split()[0]}.parquet"
        pa.parquet.write_table(pa.table({"x": items, "y": range(len(items))}), where)
        source = handful.prepare(where, folder / f"store-{title.split()[0]}", target="y", images="encoded")
        side = source.columns["x"].shape[1]

        def bare(items: list[bytes] = items, side: Any = side, workers: int = cores()) -> Iterator[Any]:
            order = np.random.default_rng(0)

            def one(job: Any) -> None:
                out, place, data = job
                out[place] = np.asarray(Image.open(io.BytesIO(data))).transpose(2, 0, 1)

            with ThreadPoolExecutor(workers) as pool:
                while True:
                    out = np.empty((64, 3, side, side), np.uint8)
                    rows = order.integers(0, len(items), 64)
                    jobs = [(out, place, items[row]) for place, row in enumerate(rows)]
                    list(pool.map(one, jobs) if workers > 1 else map(one, jobs))
                    yield out, rows

        def ours(source: Any = source) -> Iterator[Any]:
            batches = handful.Batches(source, handful.Order(len(source)))
            for batch in batches.stream(0, 64):
                yield batch["x"], batch["y"]

        def one_core(bare: Any = bare) -> Iterator[Any]:
            return bare(workers=1)

        contenders = {"decoder alone, all cores": bare, "decoder alone, one core": one_core, "handful store": ours}
        found = side_by_side(contenders, a.rounds, max(a.seconds, 1.0))
        lines += [f"**{title}**, {len(items):,} pictures", "", *table(found, "decoder alone, all cores"), ""]
    return lines


def seek(a: argparse.Namespace, folder: Path) -> list[str]:
    """Milliseconds to the first 256 row ids, of a new Order each time; rows read when resuming at batch 100,000."""
    lines = ["| what | median ms | slowest ms |", "|---|---|---|"]
    cases = {
        "position 10^12 of 10^9 rows, exact": (10**9, 10**12, {}),
        "position 10^12 of 10^9 rows, block": (10**9, 10**12, {"shuffle": "block"}),
        "batch 100,000 of 256, 10^9 rows, exact": (10**9, 25_600_000, {}),
        "batch 100,000 of 256, 60,000 rows, exact": (60_000, 25_600_000, {}),
    }
    for name, (n, position, order) in cases.items():
        taken = []
        for k in range(3 * a.rounds):
            begun = time.perf_counter()
            handful.Order(n, seed=k, **order)[position : position + 256]
            taken.append(1000 * (time.perf_counter() - begun))
        lines.append(f"| {name} | {statistics.median(taken):.2f} | {max(taken):.2f} |")
    source = handful.open({"x": np.arange(1_000_000)})
    reads: list[int] = []
    real = source.read
    source.read = lambda rows: (reads.append(len(rows)), real(rows))[1]  # type: ignore[method-assign]
    loader = handful.Loader(handful.Batches(source, handful.Order(len(source))), 256)
    loader.load_state_dict({"position": 256 * 100_000})
    next(iter(loader))
    return [*lines, "", f"Rows read to resume at batch 100,000 and yield one batch of 256: {sum(reads)}."]


def ranks(a: argparse.Namespace, folder: Path) -> list[str]:
    """The concatenated parts of all ranks against the whole batch, bytes compared."""
    x, y = rows_of(5_000)
    source = handful.prepare({"x": x, "y": y}, folder / "ranks", shards=3, target="y")
    batches = handful.Batches(source, handful.Order(len(source), seed=5))
    equal = []
    for count in (1, 2, 3, 7, 8):
        for position in range(0, 20_000, 250):
            whole = batches.at(position, 250)
            parts = [batches.at(position, 250, (rank, count)) for rank in range(count)]
            joined = b"".join(p.tensor("x").numpy().tobytes() for p in parts)
            if joined != whole.tensor("x").numpy().tobytes():
                raise SystemExit(f"ranks differ: {count} ranks at position {position}")
        equal.append(str(count))
    return [f"80 mini-batches of 250 rows over 4 epochs, byte-identical for {', '.join(equal)} ranks."]


def text(a: argparse.Namespace, folder: Path) -> list[str]:
    """movie-reviews.csv in words, batches of 64: padding, and the time of an epoch of a small model on it."""
    where = a.data / "movie-reviews.csv"
    if not where.exists():
        return [f"absent: {where} is not there."]
    source = handful.prepare(where, folder / "reviews")
    lengths = row_lengths(source, "text")
    words: dict[str, int] = {}
    ids = [[words.setdefault(w, len(words) + 1) for w in t.split()] for t in source.take(range(len(source)))["text"]]
    tokens = handful.open({"x": [torch.tensor(i) for i in ids], "y": np.zeros(len(ids), np.int64)}, target="y")
    order = handful.Order(len(tokens), seed=0)
    grouped = handful.Grouped(order, lengths, 64)
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Embedding(len(words) + 1, 64), torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    )

    def epoch(which: Any) -> float:
        begun = time.perf_counter()
        batches = handful.Batches(tokens, which)
        for position in range(0, len(tokens) - 64, 64):
            rows = batches.at(position, 64)["x"]
            parts = rows.values.split(rows.offsets.diff().tolist())
            padded = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
            model(padded).mean().backward()
        return time.perf_counter() - begun

    epoch(order)
    times = [(epoch(order), epoch(grouped)) for _ in range(max(3, a.rounds // 2))]
    ratios = sorted(b / x for x, b in times)
    quality = grouped.quality(64)
    return [
        f"{grouped.padding()}.",
        "",
        f"Epoch: {statistics.median(t for t, _ in times):.2f} s without, "
        f"{statistics.median(t for _, t in times):.2f} s with grouping; ratio {statistics.median(ratios):.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f}, n = {len(times)}).",
        "",
        f"VIF with grouping: {quality['VIF'].value:.3f} +- {quality['VIF'].error:.3f} ({quality['VIF'].verdict}).",
    ]


def predict(a: argparse.Namespace, folder: Path) -> list[str]:
    """Reading a table of 12 columns and predicting it by a loaded run: from CSV, from a frame, and one row alone."""
    import pandas as pd

    rng, n = np.random.default_rng(0), 20_000
    columns: dict[str, Any] = {f"n{k}": rng.normal(size=n).round(4) for k in range(8)}
    for name in ("town", "colour"):
        columns[name] = rng.choice(["Ulm", "Bern", "Graz", "Lienz", "Basel"], n)
    columns["count"] = rng.integers(0, 1000, n)
    columns["label"] = np.where(columns["n0"] > 0, "yes", "no")
    frame = pd.DataFrame(columns)
    frame.to_csv(folder / "table.csv", index=False)
    run = handful.fit(
        "table",
        folder / "table.csv",
        target="label",
        until="steps(5)",
        batch=64,
        lr=0.01,
        quiet=True,
        out=folder / "run",
    )
    run = handful.load(folder / "run")
    one = {name: value for name, value in frame.iloc[0].to_dict().items() if name != "label"}
    jobs: dict[str, Any] = {
        "open a CSV": (n, lambda: handful.open(folder / "table.csv", target="label")),
        "predict a CSV": (n, lambda: run.predict(folder / "table.csv")),
        "predict a frame": (n, lambda: run.predict(frame)),
        "predict one row": (1, lambda: run.predict(one)),
    }
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for k in range(a.rounds + 1):
        for name, (rows, job) in jobs.items():
            for _ in range(1 if rows > 1 else 20):
                begun = time.perf_counter()
                job()
                if k:  # the first round warms up
                    taken[name].append(time.perf_counter() - begun)
    lines = ["| | rows/s | median ms | fastest ms |", "|---|---|---|---|"]
    for name, seconds in taken.items():
        middle = statistics.median(seconds)
        lines.append(f"| {name} | {jobs[name][0] / middle:,.0f} | {1000 * middle:.2f} | {1000 * min(seconds):.2f} |")
    return lines


PARTS = {f.__name__: f for f in (memory, disk, large, jpeg, seek, ranks, text, predict)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.6)
    parser.add_argument("--limit", type=int, default=128, help="MiB: the bound of the part large")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("HANDFUL_DATA", "/work/shared/data")))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "data.md")
    a = parser.parse_args()
    torch.set_num_threads(1)  # a loader is measured on one thread; a second only fights for the interpreter lock
    load = os.getloadavg()[0]
    lines = [
        "# The data path, measured",
        "",
        f"`python benchmarks/bench_data.py --rounds {a.rounds} --seconds {a.seconds}`; {cores()} cores of "
        f"{platform.processor() or platform.machine()}, {platform.system()} {platform.release()}, Python "
        f"{platform.python_version()}, torch {torch.__version__}, NumPy {np.__version__}; load average {load:.1f} at "
        f"the start, so read the ratios. Rates are medians of n = {a.rounds} interleaved rounds.",
    ]
    with tempfile.TemporaryDirectory(prefix="handful-bench-") as folder:
        for name in a.only.split(","):
            part = PARTS[name]
            print(f"== {name}", flush=True)
            with contextlib.chdir(folder):
                found = part(a, Path(folder))
            lines += ["", f"## {name}", "", inspect.getdoc(part) or "", "", *found]
            print("\n".join(found), flush=True)
    a.out.parent.mkdir(exist_ok=True)
    a.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
