"""Every command but `train` cut short at random moments, and on a full disk: nothing half-written has a final name.

    python tests/commands.py --hits 200 --seed 0 [--only predict,export] [--signals KILL,TERM,INT,INT2,LIMIT]

Each command is run once as it is, over files of an earlier call. Then again and again, killed at a random moment of
the time that it takes (LIMIT: no file may grow beyond a random size). Every file that it writes is then the earlier
one, or the whole new one; a signal that could be heard leaves no temporary file and one sentence, with its exit
status. Where a kill left one, the next call removes it. Each process is a fork of this one, in which nothing but the
imports has been done; with --fresh a process of its own, from Python's start. Prints what hit, exits with 1 where
anything is wrong.
"""

import argparse
import contextlib
import fcntl
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import torch

import handful
from handful import cli
from torture import import_all, make_data, wait

RUN, DATA = "run", "data/table.csv"
SAID = os.pipe()  # what the process says: a pipe, which no limit on files stops
QUICK = ["--budget", "4", "--epochs", "0.5", "--batches", "32", "--seeds", "1", "--lrs", "0.01"]
COMMANDS: dict[str, list[str]] = {
    "predict csv": ["predict", RUN, "data/large.csv", "--out", "out.csv"],
    "predict jsonl": ["predict", RUN, "data/large.csv", "--out", "out.jsonl", "--probabilities"],
    "predict parquet": ["predict", RUN, "data/large.csv", "--out", "out.parquet"],
    "evaluate": ["evaluate", RUN, DATA, "--out", "out.html"],
    "report": ["report", RUN, "--out", "out.html"],
    "reports": ["report", RUN, "other", "--out", "out.html"],
    "export": ["export", RUN, "out.safetensors"],
    "export pt2": ["export", RUN, "out.pt2"],
    "replay": ["replay", RUN, "--step", "5", "--out", "out.html"],
    "inspect": ["inspect", DATA, "--out", "out.html"],
    "inspect run": ["inspect", RUN, "--full"],
    "diff": ["diff", RUN, "other"],
    "tune": ["tune", DATA, "--target", "label", "--out", "out.html", "--until", "steps(50)"],
    "compare": ["compare", DATA, "--target", "label", "--out", "out", *QUICK],
    "prepare": ["prepare", "data/large.csv", "store", "--target", "label", "--overwrite"],
    "watch": ["watch", RUN],
    "profile": ["profile", DATA, "--target", "label", "--steps", "20", "--out", "profiled"],
}
if all(map(find_spec, ("onnx", "onnxscript"))):
    COMMANDS["export onnx"] = ["export", RUN, "out.onnx"]
CLOCKED = {"compare", "tune", "profile"}  # what they write holds times: whole is what ends as it should


def place_of(folder: Path) -> None:
    """Data, two runs, and what earlier calls wrote."""
    (folder / "data").mkdir()
    make_data(folder / "data")
    for name, seed in ((RUN, 0), ("other", 1)):
        handful.fit("mlp", folder / DATA, target="label", batch=32, lr=0.01, until="steps(20)", seed=seed, quiet=True,
                    out=folder / name, save_every=10, evaluate_every=10)  # fmt: skip
    for ending in ("csv", "jsonl", "parquet", "html", "safetensors", "pt2", "onnx", "card.md"):
        (folder / f"out.{ending}").write_text("earlier\n")
    (folder / "out").mkdir()
    for name in ("comparison.json", "report.html"):
        (folder / "out" / name).write_text("earlier\n")
    handful.prepare(folder / DATA, folder / "store", target="label")


def said() -> str:
    """What the last process said."""
    os.write(SAID[1], b"\0")
    text = b""
    while not text.endswith(b"\0"):
        text += os.read(SAID[0], 1 << 16)
    return text[:-1].decode(errors="replace")


def files_in(folder: Path) -> dict[str, bytes]:
    """Each file's bytes by name, those that are known by name to be unfinished, or locks, aside."""
    named = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in named.items()
        if not any(part.startswith(".") for part in Path(name).parts) and path.name != "run.lock"
    }


def unfinished(folder: Path) -> list[str]:
    return [str(p.relative_to(folder)) for p in folder.rglob(".*")]


def begin(command: list[str], folder: Path, limit: int | None, fresh: bool) -> int:
    """The command in a process of its own."""
    if fresh:
        given = {"cwd": folder, "stdout": SAID[1], "stderr": SAID[1]}
        return subprocess.Popen([sys.executable, "-m", "handful", *command], **given).pid
    if pid := os.fork():
        return pid
    try:
        os.chdir(folder)
        for stream in (1, 2):
            os.dup2(SAID[1], stream)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        sys.argv = ["handful", *command]
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        cli.main()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0
    except BaseException as error:
        print(f"Traceback: {error!r}", file=sys.stderr)
        status = 1
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def half_written(
    found: dict[str, bytes], before: dict[str, bytes], after: dict[str, bytes], clocked: bool
) -> list[str]:
    """Files that are neither those of before nor those of after."""
    bad = []
    for name in sorted(before | found):
        if name.startswith(("store/", "profiled/")):
            continue
        now, either = found.get(name), {before.get(name), after.get(name)}
        if now in either:
            continue
        ends = now is not None and now.rstrip().endswith((b"</html>", b"}", b"]", b"-->"))
        if not (clocked and ends):
            bad.append(name)
    stores = [{k: v for k, v in files.items() if k.startswith("store/")} for files in (found, before, after)]
    if stores[0] not in stores[1:] and not whole_store(stores[0], stores[2]):
        bad.append("store")
    return bad


def whole_store(found: dict[str, bytes], after: dict[str, bytes]) -> bool:
    """The new one but for the time in its manifest."""
    return found.keys() == after.keys() and all(v == after[k] for k, v in found.items() if not k.endswith(".json"))


def cut(name: str, kind: str, place: Path, before: dict[str, bytes], after: dict[str, bytes], took: float,
        dice: random.Random, fresh: bool) -> tuple[bool, str]:  # fmt: skip
    """(whether it hit, what is wrong or "")."""
    limit = int(2 ** (dice.random() * 17)) if kind == "LIMIT" else None
    pid = begin(COMMANDS[name], place, limit, fresh)
    first = 0.15 if fresh else 0.0  # Python's own start
    status = wait(pid, None if limit is not None else (first + (1 - first) * dice.random()) * took)
    hit = status is None or (limit is not None and status != 0)
    if status is None:
        number = getattr(signal, f"SIG{kind.removesuffix('2')}")
        os.kill(pid, number)
        if kind.endswith("2"):
            time.sleep(dice.random() * 0.02)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        status = wait(pid, 60)
        if status is None:
            os.kill(pid, signal.SIGKILL)
            wait(pid, None)
            return hit, f"{name}: does not end after {kind}"
    text = said()
    expected = {"KILL": {0, -9}, "INT": {0, 130}, "TERM": {0, 143}, "HUP": {0, 129}, "LIMIT": {0, 2, 4}}
    bad = half_written(files_in(place), before, after, name in CLOCKED)
    if fresh and status is not None and status < 0 and COMMANDS[name][-1] in text:
        status = 0  # all was done, and Python was on its way out
    if status not in expected[kind.removesuffix("2")] or "Traceback" in text:
        bad.append(f"status {status}: {text[-1500:]}")
    elif hit and status not in (0, -9, 4) and text.count("handful: ") != 1 and name != "profile":
        bad.append(f"sentences: {text[-500:]}")
    if kind != "KILL" and (left := [p for p in unfinished(place) if ".store." not in p]):
        bad.append(f"left: {left}")
    return hit, f"{name}, after {kind}: {', '.join(bad)}" if bad else ""


def restore(place: Path, fresh: Path) -> None:
    shutil.rmtree(place)
    shutil.copytree(fresh, place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hits", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(COMMANDS))
    parser.add_argument("--signals", default="KILL,INT,INT2,TERM,HUP,LIMIT")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--loud", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    fcntl.fcntl(SAID[1], fcntl.F_SETPIPE_SZ, 1 << 20)
    dice, kinds, names = random.Random(args.seed), args.signals.split(","), args.only.split(",")
    hits, of, wrong, tries = Counter[str](), Counter[str](), list[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        first, place, data = Path(folder, "first"), Path(folder, "place"), Path(folder, "data")
        data.mkdir()
        make_data(data)
        if not args.fresh:
            import_all(data, Path(folder, "imports"))
        first.mkdir()
        place_of(first)
        shutil.copytree(first, place)
        before, known = files_in(first), dict[str, tuple[dict[str, bytes], float]]()
        while hits.total() < args.hits and tries < 20 * args.hits:
            name = names[tries % len(names)]
            tries += 1
            if name not in known:
                began = time.monotonic()
                if status := wait(begin(COMMANDS[name], place, None, args.fresh), None):
                    wrong.append(f"{name}: status {status}: {said()[-2000:]}")
                    names.remove(name)
                    restore(place, first)
                    continue
                said()
                known[name] = files_in(place), time.monotonic() - began
                restore(place, first)
            kind = dice.choice(kinds)
            hit, why = cut(name, kind, place, before, *known[name], dice, args.fresh)
            hits[kind] += hit
            of[name] += hit
            if args.loud:
                print(name, kind, "hit" if hit else "missed", why, flush=True)
            if why:
                wrong.append(why)
                print(why, file=sys.stderr, flush=True)
            if kind == "KILL" and hit and unfinished(place):
                wait(begin(COMMANDS[name], place, None, args.fresh), None)
                said()
                if left := unfinished(place):
                    wrong.append(f"{name}: the next call leaves {left}")
            restore(place, first)
    print(json.dumps({"hits": hits.total(), "wrong": wrong, "by": hits, "of": of}))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
