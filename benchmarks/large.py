"""Data four times a bound on memory, ours and the peers', each in a process of its own: the part `large` of bench_data.

The bound is on the memory that a process has to itself (RLIMIT_DATA, set after its first mini-batch; every worker of a
DataLoader has it anew). The page cache is the system's: every process starts with the files' pages dropped, so its
first epoch is cold and the others are warm. To bound the page cache too, so that all epochs are cold, start the whole
benchmark under a limit of the system's own, as in `systemd-run --scope -p MemoryMax=256M` on Linux with cgroups v2:
handful sees it (`source.options.memory_left`) and reads rows as for data larger than memory.

    python benchmarks/large.py NAME FOLDER LIMIT EPOCHS      one contender, as JSON; what `large` starts
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import BATCH, PEERS, WIDTH, Endless, pairs

import handful

EXACT, BLOCK, TIGHT = "handful store, exact", "handful store, block", "handful store, block, page cache taken as full"
OURS: dict[str, dict[str, Any]] = {
    EXACT: {},
    BLOCK: {"shuffle": "block", "block": 16},
    TIGHT: {"shuffle": "block", "block": 16},
}


def large(a: argparse.Namespace, folder: Path) -> list[str]:
    """Data four times the memory that a process may have to itself (RLIMIT_DATA), the files' pages dropped first.

    Each contender in a process of its own, three epochs, in turn, n rounds: the first epoch is cold, the others warm,
    because the page cache is the system's. Own memory is the most, over the start, of the process and its workers.
    """
    limit = a.limit << 20
    n = 4 * limit // (WIDTH + 8) + 1
    x, y = np.random.default_rng(0).integers(0, 251, (n, WIDTH), dtype=np.uint8), np.arange(n)
    handful.prepare({"x": x, "y": y}, folder / "store", target="y", workers=1)
    names, missing = list(OURS), []
    for name, peer in PEERS.items():
        try:
            peer.write(x, y, folder)
            names.append(name)
        except Exception as error:  # whatever a peer raises is the reason that it is not in the table
            missing.append(f"- {name}: absent ({type(error).__name__}: {' '.join(str(error).split())[:120]})")
    del x
    rounds = min(3, a.rounds)
    found: dict[str, list[Any]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            found[name].append(measured(name, folder, limit))
            print(f"   {name}: {found[name][-1]}", flush=True)
    size = n * (WIDTH + 8) / 2**20
    return [
        f"{n:,} rows, {size:,.0f} MiB, bound {limit >> 20} MiB above the start, n = {rounds} rounds. {bounded()}",
        "",
        f"| | cold rows/s | ratio to {EXACT} | warm rows/s | ratio | own memory in epochs 1, 2, 3, MiB | bytes read |",
        "|---|---|---|---|---|---|---|",
        *(line(name, runs, found[EXACT]) for name, runs in found.items()),
        "",
        "Bytes read from disk are those of three epochs, over the bytes of the data.",
        *missing,
    ]


def measured(name: str, folder: Path, limit: int) -> dict[str, Any]:
    drop(folder)
    command = [sys.executable, __file__, name, str(folder), str(limit), "3"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=1200)
    said = run.stdout.strip().splitlines()
    if run.returncode or not said:
        return {"failed": (run.stderr.strip().splitlines() or [f"exit {run.returncode}"])[-1][:160]}
    return json.loads(said[-1])


def line(name: str, runs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> str:
    failed = [run["failed"] for run in runs if "failed" in run]
    if failed:
        return f"| {name} | failed: {failed[0]} | | | | | |"
    cells = []
    for kind in ("cold", "warm"):
        ratios = sorted(b[kind] / o[kind] for b, o in zip(runs, ours) if kind in o)
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})" if ratios else ""
        cells += [f"{statistics.median(run[kind] for run in runs):,.0f}", spread]
    own = ", ".join(f"{max(run['own'][e] for run in runs) / 2**20:.0f}" for e in range(3))
    return f"| {name} | {' | '.join(cells)} | {own} | {max(run['read'] for run in runs):.2f} |"


def bounded() -> str:
    """Whether the page cache is bounded too, or why not."""
    from handful.base.machine import free_memory, memory_left

    if memory_left() < 0.9 * free_memory():
        return f"The system limits this run to {memory_left() >> 20:,} MiB more, page cache included."
    controllers = Path("/sys/fs/cgroup/cgroup.controllers")
    why = "it was not started under one"
    if not controllers.exists() or "memory" not in controllers.read_text():
        why = "this machine has no memory controller of cgroups v2 at /sys/fs/cgroup"
    return f"No limit of the system's bounds the page cache ({why})."


def drop(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as stream:
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def ours(name: str, folder: Path, limit: int) -> Endless:
    from handful.data.store import read as module

    module.memory_budget = lambda: limit
    if name == TIGHT:
        module.memory_left = lambda: limit
    source = handful.open(folder / "store")
    assert not source.in_memory
    order = handful.Order(len(source), seed=1, **OURS[name])

    def start() -> Iterator[Any]:
        return pairs(handful.Batches(source, order).stream(0, BATCH))

    return start


def status(pid: str, file: str, key: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
        return next(int(text.split()[1]) for text in lines if text.startswith(key))
    except (OSError, StopIteration):
        return 0


def family() -> list[str]:
    children: list[str] = []
    for task in Path("/proc/self/task").iterdir():
        children += (task / "children").read_text().split()
    return ["self", *children]


def own() -> int:
    """Private memory, each page shared with a forked worker counted once."""
    return sum(status(pid, "smaps_rollup", "Pss_Anon") for pid in family()) * 1024


def read_bytes() -> int:
    return sum(status(pid, "io", "read_bytes") for pid in family())


def main(name: str, folder: Path, limit: int, epochs: int) -> None:
    torch.set_num_threads(1)
    n = len(np.load(folder / "y.npy", mmap_mode="r"))
    start = ours(name, folder, limit) if name in OURS else PEERS[name].read(folder)
    begun = time.perf_counter()
    stream = start()
    next(stream)
    first = time.perf_counter() - begun  # counts towards the first epoch: what is read ahead then is
    for pid in family():
        data = status(pid, "status", "VmData") * 1024
        resource.prlimit(os.getpid() if pid == "self" else int(pid), resource.RLIMIT_DATA, (data + limit, data + limit))
    before, speeds, most = own(), [], []
    for epoch in range(epochs):
        begun, seen, peak, looked = time.perf_counter() - (0 if epoch else first), 0, 0, 0.0
        while seen < n - BATCH:
            seen += len(next(stream)[1])
            if time.perf_counter() - looked > 0.25:
                peak, looked = max(peak, own()), time.perf_counter()
        speeds.append(seen / (time.perf_counter() - begun))
        most.append(peak - before)
    read = read_bytes() / (n * (WIDTH + 8))
    said = {"cold": speeds[0], "warm": statistics.mean(speeds[1:]), "own": most, "read": read, "first": first}
    print(json.dumps(said), flush=True)
    os._exit(0)  # workers and threads that read ahead have nothing more to say


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
