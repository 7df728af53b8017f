"""Cold data: one epoch of a store whose pages were dropped from the system's cache, beside the disk's own pace.

    python benchmarks/bench_cold.py [--rows 200000] [--rounds 3] [--folder FOLDER]

Rows of 3 KB. Before each contender the pages of all files are dropped (posix_fadvise DONTNEED, which needs no rights);
the disk's pace is that of reading them from end to end in pieces of 256 KiB (larger buffers do not stay in the cores'
caches, and are slower). Bytes read are those that the process had
the disk read (/proc/self/io). A machine below may have a cache of its own, so that "cold" is at best cold for this
system: the disk's pace beside it has the same. Writes benchmarks/results/cold.md.
"""

import argparse
import gc
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from peers import BATCH, WIDTH, handful_stream, read_memmap, write_arrays

import handful
from handful.data.store import read as store_module

PIECE = 256 << 10


def drop(files: list[Path]) -> None:
    """Have the system forget the pages of the files."""
    for file in files:
        with open(file, "rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def had_read() -> int:
    """Bytes that this process has had the disk read."""
    text = Path("/proc/self/io").read_text()
    return int(text.split("read_bytes: ")[1].split()[0])


def through(files: list[Path]) -> None:
    """Read files from end to end."""
    buffer = bytearray(PIECE)
    for file in files:
        with open(file, "rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def epoch(start: Callable[[], object], n: int, seconds: float) -> int:
    """Rows of one epoch that a stream gives within so many seconds."""
    batches, count, begun = iter(start()), 0, time.perf_counter()  # type: ignore[call-overload]
    while count < n and time.perf_counter() - begun < seconds:
        count += len(next(batches)[1])
    return count


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0, help="at most, for each contender")
    args = parser.parse_args()
    n = args.rows
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        x, y = np.random.default_rng(0).integers(0, 251, (n, WIDTH), dtype=np.uint8), np.arange(n)
        handful.prepare({"x": x, "y": y}, folder / "store", target="y", workers=1)
        (folder / "arrays").mkdir()
        write_arrays(x, y, folder / "arrays")
        del x
        ours = [f for f in (folder / "store").rglob("*") if f.is_file()]
        theirs = [f for f in (folder / "arrays").rglob("*") if f.is_file()]

        def of_store(*, full: bool = False, **order: object) -> Callable[[], int]:
            """full: as if the page cache had no room for the store, which is then read window by window."""

            def run() -> int:
                known = store_module.memory_budget, store_module.memory_left
                if full:
                    store_module.memory_budget, store_module.memory_left = lambda: 1, lambda: 1
                try:
                    source = handful.open(folder / "store")
                finally:
                    store_module.memory_budget, store_module.memory_left = known
                return epoch(handful_stream(source, **order), n, args.seconds)

            return run

        loader: Callable[[], int] = lambda: epoch(read_memmap(folder / "arrays"), n, args.seconds)  # noqa: E731
        contenders: dict[str, tuple[list[Path], Callable[[], int | None], bool]] = {
            "the disk: the store's files from end to end": (ours, lambda: through(ours), True),
            "handful, block shuffle": (ours, of_store(shuffle="block"), True),
            "handful, exact shuffle": (ours, of_store(), True),
            "handful, block shuffle, page cache taken as full": (ours, of_store(full=True, shuffle="block"), True),
            "DataLoader over a mapped array, shuffled": (theirs, loader, True),
            "the same with its pages in the cache": (theirs, loader, False),
        }
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        read: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(args.rounds):
            for title, (files, run, cold) in contenders.items():
                gc.collect()  # pages that are still mapped are not dropped
                drop(ours + theirs)
                if not cold:
                    through(files)
                before, begun = had_read(), time.perf_counter()
                rows = run()
                rows = n if rows is None else rows
                rates[title].append(rows / (time.perf_counter() - begun))
                read[title].append((had_read() - before) / sum(f.stat().st_size for f in files) * n / max(1, rows))
    pace = rates["the disk: the store's files from end to end"]
    lines = [
        "# Cold data",
        "",
        f"{n:,} rows of {WIDTH} bytes in mini-batches of {BATCH}, one epoch each (at most {args.seconds:g} s), opening "
        f"included. {platform.machine()}, torch {torch.__version__}; {args.rounds} interleaved rounds, load "
        f"{os.getloadavg()[1]:.0f} on {os.cpu_count()} cores; `python benchmarks/bench_cold.py`.",
        "",
        "| | rows a second, median (min-max) | of the disk's pace, median | bytes read over those of its rows |",
        "|---|---|---|---|",
    ]
    for title, found in rates.items():
        share = statistics.median(a / b for a, b in zip(found, pace, strict=True))
        lines.append(f"| {title} | {statistics.median(found):,.0f} ({min(found):,.0f}-{max(found):,.0f}) | {share:.2f} "
                     f"| {statistics.median(read[title]):.2f} |")  # fmt: skip
    text = "\n".join(lines) + "\n"
    print(text)
    (Path(__file__).parent / "results" / "cold.md").write_text(text)


if __name__ == "__main__":
    main()
