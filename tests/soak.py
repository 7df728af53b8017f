"""An hour in one process: memory, threads, descriptors and files stay as they are.

    python tests/soak.py --minutes 60

Half of the time runs are trained, killed in mid-run by an exception, gone on with, evaluated, reported, asked for
predictions and exported, one after the other; the other half is one run with a folder. After a warm-up of a fifth of
each half nothing may grow: the process's own memory by no more than 2% (medians of the first and the last third of
what is left), threads, open files and files left in the temporary folder not at all. Prints what was seen; exits with 1
where something grew.
"""

import argparse
import contextlib
import ctypes
import gc
import itertools
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import handful

Seen = dict[str, float]
WARM, MORE = 0.2, 1.02  # share of the time, and times the memory


def now(place: Path) -> Seen:
    """Megabytes of this process that no file stands behind, threads, open files, files in the temporary folder.

    What malloc keeps of freed memory for later, which comes and goes by tens of megabytes, is given back before."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # of glibc, as /proc is Linux's
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "memory": int(status["RssAnon"].split()[0]) / 1024,
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "files": sum(1 for path in place.rglob("*") if path.is_file()),
    }


def opened() -> dict[str, str]:
    """Number of each open file -> what it is."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found


def make_data(place: Path) -> dict[str, dict[str, object]]:
    """What is trained, as arguments of `fit`: a table, pictures that are read from their files, texts."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 5))
    rows = [",".join([*(f"{v:.3f}" for v in r), "abc"[int(r[0] > 0) + int(r[1] > 1)]]) for r in x]
    (place / "table.csv").write_text("\n".join(["a,b,c,d,e,label", *rows]) + "\n")
    for k in range(60):
        folder = place / "pictures" / f"c{k % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    words = ["sun", "rain", "snow", "wind", "good", "bad"]
    texts = [{"text": " ".join(rng.choice(words, 9)), "mood": "ab"[k % 2]} for k in range(200)]
    (place / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    pictures = handful.open(place / "pictures", memory=1)
    return {
        "table": {"model": "mlp", "train": place / "table.csv", "target": "label"},
        "pictures": {"model": "cnn", "train": pictures, "augment": "flip | shift(1)"},
        "texts": {"model": "text", "train": place / "texts.jsonl", "target": "mood"},
    }


def broken(event: str, info: dict[str, object]) -> None:
    if event == "step" and info["step"] == 20:
        raise InterruptedError


def cycle(place: Path, made: dict[str, dict[str, object]]) -> None:
    """All that is done with a run, once for each kind of data; nothing of it stays."""
    for name, given in made.items():
        with tempfile.TemporaryDirectory(dir=place) as folder:
            out = Path(folder, "run")
            options = {"batch": 16, "lr": 0.01, "until": "steps(40)", "valid": 0.2, "quiet": True, "save_every": 10}
            try:
                handful.fit(**given, out=out, callbacks=[broken], **options)
            except InterruptedError:
                train = {} if name != "pictures" else {"train": given["train"]}
                run = handful.resume(out, quiet=True, **train)
            run.evaluate(given["train"])
            run.predict(given["train"])
            run.report()
            run.export(out / "weights.safetensors")
            handful.replay(out, 35, **train)
            handful.prepare(place / "table.csv", Path(folder, "store"), target="label").take([0, 1])


def one_run(seconds: float, place: Path, look: Callable[[], None]) -> None:
    """One run of so many seconds, with early evaluations, checkpoints and a growing history."""
    began = last = time.monotonic()

    def watch(event: str, info: dict[str, object]) -> None:
        nonlocal last
        if event in ("step", "evaluate") and time.monotonic() - last > seconds / 200:
            last = time.monotonic()
            look()

    with tempfile.TemporaryDirectory(dir=place) as folder:
        handful.fit("mlp", place / "table.csv", target="label", batch=16, lr=0.001,
                    until=f"seconds({seconds})", valid=0.2, ema=0.9, augment="noise(0.1)",
                    evaluate_every=200, out=Path(folder, "run"), quiet=True, schedule="constant",
                    callbacks=[watch])  # fmt: skip
    assert time.monotonic() - began >= seconds / 2


def grown(seen: list[Seen]) -> list[str]:
    """What grew, in words, after the warm-up."""
    seen = seen[int(WARM * len(seen)) :]
    third = max(1, len(seen) // 3)
    found = []
    for name in seen[0]:
        before, after = (statistics.median(row[name] for row in part) for part in (seen[:third], seen[-third:]))
        if after > before * (MORE if name == "memory" else 1):
            found.append(f"{name}: {before:g} -> {after:g}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    args = parser.parse_args()
    torch.set_num_threads(1)
    half, wrong = args.minutes * 30, list[str]()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        made = make_data(place)
        for what in ("cycles", "one run"):
            seen: list[Seen] = []
            files: list[dict[str, str]] = []

            def look(seen: list[Seen] = seen, files: list[dict[str, str]] = files) -> None:
                seen.append(now(place))
                files.append(opened())

            if what == "one run":
                one_run(half, place, look)
            else:
                end = time.monotonic() + half
                while time.monotonic() < end:
                    cycle(place, made)
                    look()
            print(json.dumps({what: [row["memory"] for row in seen], "last": seen[-1]}), flush=True)
            for before, after in itertools.pairwise(files):
                if new := [f"{k}: {v}" for k, v in after.items() if before.get(k) != v]:
                    print(json.dumps({"opened": new, "of": len(after)}), flush=True)
            wrong += [f"{what}: {words}" for words in grown(seen)]
    print(json.dumps({"wrong": wrong}))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
