"""Runs that are killed at random moments and gone on with, again and again, against the same run left alone.

    python tests/torture.py --kills 200 --seed 0 [--only table,prepare] [--signals KILL,TERM,INT]

Every piece of work is done once as it is. Then it is begun in a folder of its own, and the process is killed at a
random moment of the time that it takes; what is there is gone on with by the same call, until the work has had its
share of kills; then it is left to end. Weights, history, result and the files of a store must be those of the first
to the bit. Each process is a fork of this one, in which nothing but the imports has been done. Prints what hit, and
exits with 1 where anything differs.
"""

import argparse
import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import handful
import handful.fit
import handful.report.page
from handful.optim import build

Work = Callable[[Path, Path], object]
EVERY = {"resume": "auto", "deterministic": True, "evaluate_every": 0.5, "save_every": 1}


def make_data(data: Path) -> None:
    """A table, a folder of pictures, texts, a text to go on with, and arrays."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6))
    y = np.digitize(x @ np.arange(6), [-3, 3])
    rows = [
        ",".join([*(f"{v:.3f}" for v in row), "abc"[label], str(1 + label)]) for row, label in zip(x, y, strict=True)
    ]
    (data / "table.csv").write_text("\n".join(["a,b,c,d,e,f,label,weight", *rows]) + "\n")
    (data / "large.csv").write_text("\n".join(["a,b,c,d,e,f,label,weight", *rows * 60]) + "\n")
    for k in range(60):
        folder = data / "pictures" / f"class{k % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 100, (12, 12, 3), dtype=np.uint8) + np.uint8(60 * (k % 3))
        Image.fromarray(pixels).save(folder / f"{k}.png")
    words = ["sun", "rain", "snow", "wind", "good", "bad", "day", "night"]
    texts = [{"text": " ".join(rng.choice(words, 8)), "mood": "ab"[k % 2]} for k in range(160)]
    (data / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    (data / "novel.txt").write_text(" ".join(rng.choice(words, 1200)))
    np.savez(data / "arrays.npz", x=x.astype(np.float32), y=y)
    bad = x.astype(np.float32)
    bad[[17, 230], 3] = np.nan
    np.savez(data / "holes.npz", x=bad, y=x.sum(1, keepdims=True).astype(np.float32))


def fit(model: str, where: str, data: Path, out: Path, **given: object) -> None:
    options = {"batch": 32, "lr": 0.02, "until": "epochs(2)", "valid": 0.2} | EVERY | given
    run = handful.fit(model, data / where, out=out / "run", **options)
    if run.exit_status == 0:
        run.report()


def own(optimizer: str, data: Path, out: Path) -> None:
    """A network of the caller's own with dropout and running statistics."""
    with np.load(data / "arrays.npz") as held:
        arrays = torch.from_numpy(held["x"]), torch.from_numpy(held["y"])
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.BatchNorm1d(12), torch.nn.ReLU(), torch.nn.Dropout(0.3),
                              torch.nn.Linear(12, 3))  # fmt: skip
    handful.fit(net, arrays, out=out / "run", batch=32, lr=0.01, optimizer=optimizer, until="epochs(2)", valid=0.2,
                ema=0.9, micro_batch=12, clip_norm=None if optimizer == "lbfgs" else 1.0, **EVERY)  # fmt: skip


def with_holes(policy: str, data: Path, out: Path) -> None:
    """A loss that is not finite in every epoch, or beyond a cliff of the rate."""
    with np.load(data / "holes.npz") as held:
        x, y = torch.from_numpy(held["x"]), torch.from_numpy(held["y"])
    if policy == "rollback":
        x = x.nan_to_num()
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.Tanh(), torch.nn.Linear(12, 1))
    handful.fit(net, (x, y), out=out / "run", batch=16, lr=1.2 if policy == "rollback" else 0.02, optimizer="momentum",
                loss=cliff, preprocess=None, until="epochs(2)", schedule="constant", valid=None, on_nonfinite=policy,
                **EVERY | {"save_every": 5})  # fmt: skip


def cliff(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    square = (output - target).square()
    return torch.where(square > 900.0, torch.inf, square)


def prepare(data: Path, out: Path) -> None:
    handful.prepare(data / "large.csv", out / "store", target="label", shards=3)


def look_again(data: Path, out: Path) -> None:
    """A run, then its evaluation, its report and an export; the pages hold no clock that is compared."""
    fit("linear", "table.csv", data, out, target="label")
    run = handful.load(out / "run")
    run.evaluation_report(data / "table.csv")
    run.export(out / "weights.safetensors")


WORKS: dict[str, Work] = {
    "table": partial(fit, "table", "table.csv", target="label", weight="weight", schedule="on_plateau(patience=1)"),
    "pictures": partial(fit, "cnn", "pictures", batch=8, micro_batch=5, augment="flip | cutout(4)", ema=0.9,
                        batch_growth="grow_batch(every=1)"),
    "texts": partial(fit, "text", "texts.jsonl", target="mood", augment="auto"),
    "novel": partial(fit, "language", "novel.txt", batch=4),
    "race": partial(fit, "mlp", "table.csv", target="label", lr="auto", batch="auto", until="auto", save_every="auto",
                    evaluate_every="auto"),
    "skip": partial(with_holes, "skip"),
    "rollback": partial(with_holes, "rollback"),
    "prepare": prepare,
    "look again": look_again,
    **{name: partial(own, name) for name in build.names},
}  # fmt: skip


def result_of(out: Path) -> dict[str, object]:
    """What must be the same: weights and exported files as bytes, history and result without clocks, stores."""
    found: dict[str, object] = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        name = str(path.relative_to(out))
        if name.startswith("store/") or path.suffix == ".safetensors":
            found[name] = path.read_bytes()
        elif path.name == "history.jsonl":
            found[name] = [timeless(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.name == "result.json":
            result = json.loads(path.read_text())
            found[name] = {
                k: timeless(v) if k == "best" else v for k, v in result.items() if k not in ("sha256", "history")
            }
        elif path.suffix != ".html" and path.parent.name != "checkpoints":
            found[name] = None  # there, as it should be
    return {name: value for name, value in found.items() if not name.startswith("run/checkpoints")}


def timeless(row: dict[str, object] | None) -> dict[str, object] | None:
    return row and {k: v for k, v in row.items() if k != "seconds"}


def begin(work: Work, data: Path, out: Path, pipe: bool) -> int:
    """The work in a process of its own; pipe: its output goes to a reader that has gone."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if pipe:
            reader, writer = os.pipe()
            os.close(reader)
        else:
            writer = os.open(out.parent / f"{out.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(writer, stream)
        work(data, out)
        status = 0
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        with contextlib.suppress(BaseException):
            traceback.print_exc()
    finally:
        os._exit(status)


def import_all(data: Path, place: Path) -> None:
    """Import what works import on their way, so that no later process has to: learned from one that does so."""

    def work(data: Path, out: Path) -> None:
        fit("linear", "table.csv", data, out, target="label", until="steps(3)")
        handful.load(out / "run").evaluation_report(data / "table.csv")
        (out / "modules.json").write_text(json.dumps(sorted(sys.modules)))

    place.mkdir()
    wait(begin(work, data, place, False), None)
    for module in json.loads((place / "modules.json").read_text()):
        with contextlib.suppress(Exception):
            importlib.import_module(module)


def wait(pid: int, seconds: float | None) -> int | None:
    """The status of the process, or None where it still runs after so long."""
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG if end else 0)
        if found:
            return os.waitstatus_to_exitcode(status)
        if end is not None and time.monotonic() >= end:
            return None
        time.sleep(0.001)


def torture(
    name: str, work: Work, data: Path, place: Path, signals: list[str], dice: random.Random
) -> tuple[list[str], str]:
    """(signals that hit, what differs or ""). signals: one for each process; "TERM2" is sent twice."""
    alone, out = place / "alone", place / "killed"
    for folder in (alone, out):
        folder.mkdir(parents=True)
    began = time.monotonic()
    if wait(begin(work, data, alone, False), None) != 0:
        return [], f"{name} fails: {(place / 'alone.log').read_text()[-2000:]}"
    took, hits, log = time.monotonic() - began, list[str](), place / "killed.log"
    expected = result_of(alone)
    for kind in signals:
        pid = begin(work, data, out, kind == "PIPE")
        number = getattr(signal, f"SIG{kind.removesuffix('2')}") if kind != "PIPE" else signal.SIGKILL
        status = wait(pid, dice.random() * took)
        if status is None:
            hits.append(kind)
            os.kill(pid, number)
            if kind.endswith("2"):
                wait_a_little = dice.random() * 0.02
                time.sleep(wait_a_little)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            status = wait(pid, None)
        if status not in (0, 130, -number):
            return hits, f"{name}, after {kind}: status {status}: {log.read_text()[-2000:] if log.exists() else ''}"
    status = wait(begin(work, data, out, False), None)
    if status != 0:
        return hits, f"{name}, at the end: status {status}: {log.read_text()[-2000:]}"
    found = result_of(out)
    unlike = sorted(key for key in expected | found if expected.get(key, "absent") != found.get(key, "absent"))
    left = [str(p.relative_to(out)) for p in out.rglob("*.tmp")]
    return hits, f"{name}: {', '.join(unlike + left)} differ" if unlike or left else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(WORKS))
    parser.add_argument("--signals", default="KILL")
    parser.add_argument("--each", type=int, default=4, help="kills of one run before it is left to end")
    parser.add_argument("--loud", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    dice, kinds = random.Random(args.seed), args.signals.split(",")
    hits, by, runs, wrong = Counter[str](), Counter[str](), 0, list[str]()
    with tempfile.TemporaryDirectory() as folder:
        (data := Path(folder, "data")).mkdir()
        make_data(data)
        import_all(data, Path(folder, "imports"))
        names = args.only.split(",")
        left, turn = args.kills, 0
        while left > 0 and turn < 20 * args.kills:
            name, turn = names[turn % len(names)], turn + 1
            count = min(args.each, left)
            place = Path(folder, f"{turn}")
            found, why = torture(name, WORKS[name], data, place, [dice.choice(kinds) for _ in range(count)], dice)
            runs, left = runs + 1, left - len(found)
            hits[name] += len(found)
            by.update(found)
            if args.loud:
                print(f"{name}: {len(found)} of {count} hit", flush=True)
            if why:
                wrong.append(why)
                print(why, file=sys.stderr, flush=True)
            shutil.rmtree(place)
    print(json.dumps({"hits": hits.total(), "runs": runs, "wrong": wrong, "of": hits, "by": by}))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
