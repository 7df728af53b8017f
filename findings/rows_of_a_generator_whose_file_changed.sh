#!/usr/bin/env bash
# datasets 5.2.0 (Hugging Face): the same script, run again after its data or its helper module changed, trains on the old rows.
#
# Everything is cached by a fingerprint. The guess of most who know this: of the data, and of the code that makes it, so that what changed is made again. A CSV
# that load_dataset reads is made again when the file is another (its time and size are looked at), and a function in the script
# itself is made again when its body, or a global that it names, is another.
#
# 1. Dataset.from_generator(rows): the fingerprint is of the function `rows` alone. What it reads, a file, a table of a database, a folder, is not
#    part of it. The second run finds the same function and takes the rows of the first run from the disk; the generator is not even called. A
#    label that was corrected in the file stays wrong, appended rows never come.
# 2. dataset.map(helpers.scale), a function of an *imported* module, is known by module and name only. Its body, a constant of its module, the
#    version of a library: none of these counts. Edit helpers.py, run again: the old column, until something else (here the CSV) changes.
#    The tidier a project is, the more of its preprocessing lives in such modules.
# Nothing is said at the usual level of the log. Way out: gen_kwargs={"version": a hash of the file}; load_from_cache_file=False; new_fingerprint=.
#
# Output seen (x86_64, Python 3.11), each line a process of its own, one cache folder
#   generator, first run: [1, 2]
#   generator, the file changed: [1, 2]
#   map, first run: imported [10, 20] its own [10, 20]
#   map, factors are 1000 now, the imported one adds 1: imported [10, 20] its own [1000, 2000]
#   map, the CSV changed as well: imported [1001, 2001, 3001] its own [1000, 2000, 3000]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6 2> /dev/null
cat > "$work/finding.py" <<'PY'
import os
import subprocess
import sys
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp(dir=os.environ.get("work")))
SETTINGS = {**os.environ, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def run(name, code):
    """Print what a process of its own prints."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=folder, capture_output=True, text=True, env=SETTINGS)
    print(f"{name}: {done.stdout.strip()}" if done.returncode == 0 else done.stderr[-600:], flush=True)


GENERATOR = """
from datasets import Dataset
def rows():
    for line in open("rows.txt"):
        yield {"x": int(line)}
print(Dataset.from_generator(rows)["x"][:])
"""
MAP = """
from datasets import load_dataset
import helpers
FACTOR = %d
def own(row):
    return {"y": row["x"] * FACTOR}
rows = load_dataset("csv", data_files="rows.csv", split="train")
print("imported", rows.map(helpers.scale)["y"][:], "its own", rows.map(own)["y"][:])
"""
(folder / "rows.txt").write_text("1\n2\n")
run("generator, first run", GENERATOR)
(folder / "rows.txt").write_text("10\n20\n30\n")
run("generator, the file changed", GENERATOR)
(folder / "rows.csv").write_text("x\n1\n2\n")
(folder / "helpers.py").write_text("FACTOR = 10\ndef scale(row):\n    return {'y': row['x'] * FACTOR}\n")
run("map, first run", MAP % 10)
(folder / "helpers.py").write_text("FACTOR = 1000\ndef scale(row):\n    return {'y': row['x'] * FACTOR + 1}\n")
run("map, factors are 1000 now, the imported one adds 1", MAP % 1000)
(folder / "rows.csv").write_text("x\n1\n2\n3\n")
run("map, the CSV changed as well", MAP % 1000)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
generator, first run: [1, 2]
generator, the file changed: [1, 2]
map, first run: imported [10, 20] its own [10, 20]
map, factors are 1000 now, the imported one adds 1: imported [10, 20] its own [1000, 2000]
map, the CSV changed as well: imported [1001, 2001, 3001] its own [1000, 2000, 3000]
SEEN
