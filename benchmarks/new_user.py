"""Five tasks as a new user tries them: a wheel in an environment of its own, one command or a few lines each.

    python benchmarks/new_user.py        # writes the first table of docs/tasks.md; ten minutes on a busy machine

Builds the wheel, installs torch (as constraints.txt pins it) and the wheel, and nothing else, into a new environment in
a temporary folder, writes the data there as files, and runs each command in that folder without this tree in sight.
The tables are scikit-learn's, the pictures and sounds come from ../shared/data.
"""

import os
import re
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from sklearn.datasets import load_breast_cancer, load_diabetes

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("HANDFUL_DATA", ROOT.parent / "shared" / "data"))
PAGE = ROOT / "docs" / "tasks.md"
TASKS = [
    ("classes", "scikit-learn's breast cancer as a CSV file, 569 rows", "handful train cells.csv --target diagnosis"),
    ("a number", "scikit-learn's diabetes as a CSV file, 442 rows", "handful train patients.csv --target progression"),
    ("pictures", "750 of CIFAR-10, five folders of JPEG files", 'handful train photos --until "seconds(20)"'),
    ("sounds", "500 spoken digits, ten folders of WAV files", 'handful train sounds --until "seconds(20)"'),
    ("own module, own data set", "a torch `Dataset` of 200 pictures", "python own.py"),
]
SCORE = re.compile(r"(?:accuracy [\d.]+%|R² [\d.]+)")  # of the line that a run ends with


def write_data(folder: Path) -> None:
    """The files that the commands name."""
    cells = load_breast_cancer(as_frame=True)
    named = cells.target.map(dict(enumerate(cells.target_names)))
    cells.data.assign(diagnosis=named).to_csv(folder / "cells.csv", index=False)
    people = load_diabetes(as_frame=True, scaled=False)
    people.data.assign(progression=people.target).to_csv(folder / "patients.csv", index=False)
    taken: Counter[object] = Counter()
    frame = pd.read_parquet(DATA / "cifar10-test.parquet")
    for k, (cell, kind) in enumerate(zip(frame["image"], frame["label"])):
        if kind < 5 and taken[kind] < 150:
            taken[kind] += 1
            into = folder / "photos" / f"class {kind}"
            into.mkdir(parents=True, exist_ok=True)
            (into / f"{k}.jpg").write_bytes(cell["bytes"])
    with zipfile.ZipFile(DATA / "spoken-digits.zip") as sounds:
        for name in sounds.namelist():
            digit, _, file = name.partition("/")
            if file and taken[digit] < 50:
                taken[digit] += 1
                into = folder / "sounds" / digit
                into.mkdir(parents=True, exist_ok=True)
                (into / file).write_bytes(sounds.read(name))
    lines = re.findall(r"^(?:>>>|\.\.\.) (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    end = next(k for k, line in enumerate(lines) if line.startswith("run.scores"))
    (folder / "own.py").write_text(
        "\n".join([*lines[:end], "print(f\"accuracy {run.scores['valid_accuracy']:.1%}\")"]) + "\n", encoding="utf-8"
    )


def clean_environment(folder: Path) -> tuple[dict[str, str], float]:
    """What a command needs to find the installed wheel and nothing of this tree; the seconds that installing took."""
    quiet = ["--quiet", "--disable-pip-version-check"]
    python = folder / "clean" / "bin" / "python"
    start = time.perf_counter()
    for command in (
        [sys.executable, "-m", "venv", folder / "clean"],
        [python, "-m", "pip", "wheel", *quiet, "--no-deps", "-w", folder / "dist", ROOT],
        [python, "-m", "pip", "install", *quiet, "-c", ROOT / "constraints.txt", "torch"],
    ):
        subprocess.run([str(part) for part in command], check=True)
    (wheel,) = (folder / "dist").glob("handful-*.whl")
    subprocess.run([str(python), "-m", "pip", "install", *quiet, str(wheel)], check=True)
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "HOME": str(folder)}, time.perf_counter() - start


def main() -> None:
    rows = ["| task | data | command | took, all in all | held-out rows |", "|---|---|---|---|---|"]
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder)
        environment, installing = clean_environment(folder)
        for task, data, command in TASKS:
            start = time.perf_counter()
            ran = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
            seconds = time.perf_counter() - start
            found = SCORE.findall(ran.stdout)
            print(
                f"== {command}: {ran.returncode}, {seconds:.1f} s\n{ran.stdout[-1500:]}{ran.stderr[-1500:]}", flush=True
            )
            if ran.returncode or not found:
                sys.exit(f"{task} failed")
            shown = "below" if command == "python own.py" else f"`{command}`"
            rows.append(f"| {task} | {data} | {shown} | {seconds:.0f} s | {found[0]} |")
    said = (
        f"Each was done from a wheel in an empty environment ({installing:.0f} s to install), with the files named and "
        f"nothing else,\nby `python benchmarks/new_user.py` ({os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}; "
        "from the command to its end, the report included).\n\n"
    )
    page = PAGE.read_text(encoding="utf-8")
    head, rest = page.split("\n\nThen, for each", 1)
    title = head.split("\n", 1)[0]
    PAGE.write_text(f"{title}\n\n{said}" + "\n".join(rows) + f"\n\nThen, for each{rest}", encoding="utf-8")


if __name__ == "__main__":
    main()
