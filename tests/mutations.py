"""Inputs with random faults: each is read, or refused in one sentence; soon, and with nothing written elsewhere.

    python tests/mutations.py --count 10000 --seed 0 [--only csv,plan]

A fault is a bit turned over, bytes taken out, doubled, cut off, put in, or exchanged for those of another place. What
is neither read nor refused by a HandfulError (a traceback, a wait of 10 s, a file where none should be) is printed once
for each kind, with the seed that makes it again. Exits with 1 where there is any.
"""

import argparse
import contextlib
import gzip
import io
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
import wave
import zipfile
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet
import torch
from PIL import Image

import handful
from handful.base.errors import HandfulError
from handful.losses.loss import as_loss
from handful.models.auto import named
from handful.optim import schedule
from handful.training.watch import stop
from handful.transform import augment

LIMIT = 10  # seconds of computing; six times as many of waiting, as the machine may be busy
Read = Callable[[Path], object]


class TooLong(BaseException):
    """Ten seconds have passed."""


def mutated(data: bytes, dice: random.Random) -> bytes:
    """The bytes with one to three faults."""
    held = bytearray(data)
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        at, more = dice.randrange(len(held) + 1), dice.choice([1, 2, 4, 16, 200])
        match dice.randrange(7):
            case 0 if held:
                held[min(at, len(held) - 1)] ^= 1 << dice.randrange(8)
            case 1:
                del held[at : at + more]
            case 2:
                held[at:at] = held[at : at + more]
            case 3:
                del held[at:]
            case 4:
                held[at:at] = dice.randbytes(more)
            case 5:
                held[at : at + more] = dice.choice([b"\0", b"\xff", b"9", b'"', b"\n", b"-", b"("]) * more
            case _:
                other = dice.randrange(len(held) + 1)
                held[at : at + more] = held[other : other + more]
    return bytes(held)


TEXTS = {
    "stop": ("epochs(2) | plateau(3)", "reaches('valid_accuracy', 0.9) & steps(10)", "seconds(1)", "loss_below(0.1)"),
    "schedule": ("cosine(warmup=0.1)", "step(every=10, factor=0.5)", "on_plateau(patience=2)", "grow_batch(every=2)"),
    "augment": ("flip | shift(2) | cutout(8)", "mixup(alpha=0.2)", "noise(0.1)", "rotate(10) | scale(0.1)"),
    "model": ("mlp(hidden=[64, 32], dropout=0.2)", "cnn(width=8)", "linear", "resnet(depth=2)", "text"),
    "loss": ("cross_entropy", "quantile(q=0.9)", "focal(gamma=2)"),
}  # fmt: skip


def texts() -> dict[str, Read]:
    """Readers of the little languages of options, of the text that lies in a file."""
    readers: dict[str, Callable[[str], object]] = {
        "stop": stop.parse, "schedule": schedule.parse, "augment": augment.parse, "model": named, "loss": as_loss
    }  # fmt: skip

    def reader(parse: Callable[[str], object]) -> Read:
        return lambda path: parse(path.read_bytes().decode("utf-8", "replace"))

    return {name: reader(parse) for name, parse in readers.items()}


def sources(place: Path) -> tuple[dict[str, list[Path]], dict[str, Read]]:
    """Files of each format, and how they are read: opened, and some rows taken."""
    rng, files = np.random.default_rng(0), dict[str, list[Path]]()
    numbers, words = rng.normal(size=(30, 3)), [["red", "blue"][k % 2] for k in range(30)]
    rows = [
        {"a": round(r[0], 3), "b": round(r[1], 3), "day": f"2024-01-{k + 1:02d}", "label": words[k]}
        for k, r in enumerate(numbers)
    ]
    csv = ["a,b,day,label", *(",".join(map(str, row.values())) for row in rows)]
    (place / "t.csv").write_text("\n".join(csv) + "\n")
    (place / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    packed, table = (place / "t.csv").read_bytes(), pa.Table.from_pylist(rows)
    (place / "t.csv.gz").write_bytes(gzip.compress(packed))
    (place / "t.csv.zst").write_bytes(pa.Codec("zstd").compress(packed, asbytes=True))
    pa.parquet.write_table(table, place / "t.parquet")
    pa.feather.write_feather(table, place / "t.feather", compression="uncompressed")
    pa.orc.write_table(table, place / "t.orc")
    arff = ["@relation t", "@attribute a numeric", "@attribute b real", "@attribute label {red,blue}", "@data"]
    (place / "t.arff").write_text("\n".join([*arff, *(f"{r['a']},{r['b']},{r['label']}" for r in rows)]) + "\n")
    libsvm = [f"{k % 2} 1:{r['a']} 3:{r['b']}" for k, r in enumerate(rows)]
    (place / "t.svm").write_text("\n".join(libsvm) + "\n")
    with contextlib.closing(sqlite3.connect(place / "t.db")) as base:
        base.execute("create table t (a real, b real, day text, label text)")
        base.executemany("insert into t values (:a, :b, :day, :label)", rows)
        base.commit()
    idx = (np.arange(30 * 6 * 6) % 251).astype(np.uint8)
    (place / "t-images-idx3-ubyte").write_bytes(
        bytes([0, 0, 8, 3, 0, 0, 0, 30, 0, 0, 0, 6, 0, 0, 0, 6]) + idx.tobytes()
    )
    (place / "p.txt").write_text("a lovely film, and a dull one\n" * 3, encoding="utf-8")
    if find_spec("openpyxl"):
        pd.DataFrame(rows).to_excel(place / "t.xlsx", index=False)
        with zipfile.ZipFile(place / "t.xlsx") as book:
            for name in ("sheet1", "styles", "workbook"):
                inner = next((n for n in book.namelist() if n.endswith(f"{name}.xml")), None)
                if inner:
                    (place / f"{name}.xml").write_bytes(book.read(inner))
    np.save(place / "t.npy", numbers)
    np.savez(place / "t.npz", x=numbers, y=np.arange(30) % 2)
    pictures = place / "pictures"
    for k in range(4):
        (pictures / f"c{k % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (9, 7, 3), dtype=np.uint8)).save(pictures / f"c{k % 2}" / f"{k}.png")
    for name, kind in (("t.zip", zipfile.ZIP_STORED), ("deflated.zip", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(place / name, "w", kind) as archive:
            for path in sorted(pictures.rglob("*.png")):
                archive.write(path, path.relative_to(pictures))
    np.savez_compressed(place / "packed.npz", x=numbers, y=np.arange(30) % 2)
    with tarfile.open(place / "t.tar", "w") as archive:
        for k in range(4):
            picture = (pictures / f"c{k % 2}" / f"{k}.png").read_bytes()
            for name, data in ((f"{k}.png", picture), (f"{k}.cls", b"%d" % (k % 2))):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    for name in ("p.png", "p.jpg"):
        Image.fromarray(rng.integers(0, 255, (9, 7, 3), dtype=np.uint8)).save(place / name)
    with wave.open(str(place / "s.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(rng.integers(-9000, 9000, 400, dtype=np.int16).tobytes())

    def whole(path: Path) -> object:
        source = handful.open(path)
        return source.take(range(min(4, len(source))))

    def in_folder(path: Path) -> object:
        folder = path.parent / "folder"
        (folder / "c").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / "c" / path.name)
        try:
            return whole(folder)
        finally:
            shutil.rmtree(folder)

    def in_book(path: Path) -> object:
        """One of the files inside an Excel file is the one with faults."""
        book = path.with_name("book.xlsx")
        with zipfile.ZipFile(place / "t.xlsx") as right, zipfile.ZipFile(book, "w") as archive:
            for name in right.namelist():
                archive.writestr(name, path.read_bytes() if name.endswith(path.name) else right.read(name))
        return whole(book)

    def prepared(path: Path) -> object:
        store = path.parent / "store"
        try:
            return handful.prepare(path, store, overwrite=store.exists()).take([0])
        finally:
            shutil.rmtree(store, ignore_errors=True)

    kinds: dict[str, tuple[str, Read]] = {
        "csv": ("t.csv", whole), "jsonl": ("t.jsonl", whole), "parquet": ("t.parquet", whole), "npy": ("t.npy", whole),
        "npz": ("t.npz", whole), "zip": ("t.zip", whole),
        "deflated": ("deflated.zip", whole), "packed": ("packed.npz", whole), "tar": ("t.tar", prepared),
        "png": ("p.png", in_folder),
        "jpeg": ("p.jpg", in_folder), "wav": ("s.wav", in_folder), "stream": ("t.csv", prepared),
        "txt": ("p.txt", in_folder),
        "gz": ("t.csv.gz", whole), "zst": ("t.csv.zst", whole), "arff": ("t.arff", whole), "libsvm": ("t.svm", whole),
        "excel": ("t.xlsx", whole), "sheet": ("sheet1.xml", in_book), "styles": ("styles.xml", in_book),
        "workbook": ("workbook.xml", in_book), "sqlite": ("t.db", whole), "feather": ("t.feather", whole),
        "orc": ("t.orc", whole), "idx": ("t-images-idx3-ubyte", whole), "gz stream": ("t.csv.gz", prepared),
    }  # fmt: skip
    kinds = {kind: (name, read) for kind, (name, read) in kinds.items() if (place / name).exists()}
    for kind, (name, _) in kinds.items():
        files[kind] = [place / name]
    return files, {kind: read for kind, (_, read) in kinds.items()}


def runs(place: Path) -> tuple[dict[str, list[Path]], dict[str, Read]]:
    """The files of a run, one after the other spoilt in a copy of it, and all that is done with a run."""
    handful.fit("mlp(hidden=[4])", "iris", batch=16, lr=0.01, until="epochs(2)", evaluate_every=1.0, save_every=4,
                seed=1, out=place / "run", quiet=True)  # fmt: skip
    names = {
        "plan": "plan.toml", "pipeline": "pipeline.json", "tensors": "pipeline.safetensors", "network": "model.json",
        "history": "history.jsonl", "result": "result.json", "weights": "model.safetensors", "extras": "extras.json",
    }  # fmt: skip
    checkpoints = sorted((place / "run" / "checkpoints").iterdir())
    files = {kind: [place / "run" / name] for kind, name in names.items() if (place / "run" / name).exists()}
    files |= {"manifest": [p for p in checkpoints if p.suffix == ".json"]}
    files |= {"checkpoint": [p for p in checkpoints if p.suffix == ".safetensors"]}
    store = handful.prepare("iris", place / "store")
    files["store"] = [place / "store" / "manifest.json"] if (place / "store" / "manifest.json").exists() else []
    files = {kind: found for kind, found in files.items() if found}
    iris = handful.open("iris")
    right = handful.load(place / "run").predict(iris)
    assert len(store) == 150

    def every(path: Path) -> object:
        if path.parent.name == "store":
            return handful.open(path.parent).take([0, 149])
        folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
        looks = sum(path.read_bytes()) % 24  # not everything every time: it takes a second
        if looks == 0:
            with contextlib.suppress(HandfulError):
                handful.resume(folder, until="epochs(2)", quiet=True)
        run = handful.load(folder)
        if not np.array_equal(run.predict(iris), right):
            raise AssertionError("other predictions")
        return run.report(folder / "page.html") if looks == 1 else run

    return files, dict.fromkeys(files, every)


def attempt(read: Read, path: Path) -> str | None:
    """None: read; "refused"; or what went wrong."""

    def late(*_: object) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, late)
    signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    signal.alarm(6 * LIMIT)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            read(path)
    except HandfulError as error:
        return "refused" if "\n" not in str(error) or len(str(error)) < 2000 else f"many lines: {str(error)[:300]}"
    except TooLong:
        return f"takes more than {LIMIT} s: {traceback.format_exc(limit=-3)}"
    except BaseException as error:
        here = [f for f in traceback.extract_tb(error.__traceback__) if "handful" in f.filename]
        where = f"{Path(here[-1].filename).name}:{here[-1].lineno}" if here else "?"
        return f"{type(error).__name__} at {where}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.pop("HANDFUL_CACHE", None)
    tally, of, wrong, took = Counter[str | None](), Counter[str](), dict[str, str](), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        place, scratch = Path(folder, "right"), Path(folder, "scratch")
        place.mkdir()
        (place / "texts").mkdir()
        files, readers = sources(place)
        for found, read in (runs(place),):
            files, readers = files | found, readers | read
        for kind, read_text in texts().items():
            files[kind], readers[kind] = [], read_text
            for k, text in enumerate(TEXTS[kind]):
                files[kind].append(place / "texts" / f"{kind}{k}")
                files[kind][-1].write_text(text)
        kinds = args.only.split(",") if args.only else list(files)
        home = Path.cwd()
        for k in range(args.count):
            dice = random.Random(f"{args.seed} {k}")
            kind = kinds[k % len(kinds)]
            original = dice.choice(files[kind])
            root = next((p for p in (place / "run", place / "store") if p in original.parents), None)
            scratch.mkdir()
            copied = scratch / (root or original).name
            if root is not None:
                shutil.copytree(root, copied)
                copied = copied / original.relative_to(root)
            copied.write_bytes(mutated(original.read_bytes(), dice))
            os.chdir(scratch)
            began = time.monotonic()
            before = set(home.iterdir()) | set(Path(folder).iterdir())
            answer = attempt(readers[kind], copied)
            os.chdir(home)
            of[kind] += 1
            took[kind] += time.monotonic() - began
            if set(home.iterdir()) | set(Path(folder).iterdir()) != before:
                answer = "writes outside"
            shutil.rmtree(scratch)
            tally[answer if answer in (None, "refused") else "wrong"] += 1
            if answer not in (None, "refused"):
                key = f"{kind}: {answer.split(': ')[0]}"
                if key not in wrong:
                    print(f"{kind} {k} (seed {args.seed}): {answer}", file=sys.stderr, flush=True)
                wrong.setdefault(key, answer)
    seconds = {kind: round(spent, 1) for kind, spent in took.most_common()}
    print(
        json.dumps(
            {"read": tally[None], "refused": tally["refused"], "wrong": sorted(wrong), "of": of, "seconds": seconds}
        )
    )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
