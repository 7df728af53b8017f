#!/usr/bin/env bash
# pandas 3.1.1 and torch 2.13.0: standardizing a tensor standardizes the table that it was made from, through two frames that were safe from one another.
#
#   guess   Since 3.0, what is done to one frame is not done to another (copy-on-write), and `to_numpy()` of a frame is read-only where it shares memory. So
#           a tensor made of `frame.drop(columns="target")` is of rows that nobody else has, or cannot be written to
#   found   drop(), frame[[...]], rename(), reset_index(), and fillna(), astype(), clip(), query() where there was nothing to do, share memory with the
#           frame until pandas itself writes. torch.from_numpy knows nothing of read-only memory: `tensor -= mean` goes through to the first
#           frame. numpy refuses the same line (ValueError). Under pandas 2 drop() and its kin made copies, so old scripts were right
#   said    one warning ("not writable") at the first such tensor of a process, and none at any later one; from_dlpack gives none at all
#   cost    five folds, each to take off the mean of its own training rows (below): the first does, the others find a table that
#           is centred by the first one's rows, and whatever is read from the frame later is no longer the data
#   way out torch.tensor(...), which copies, or to_numpy(copy=True). Whether query() shares hangs on whether all rows are meant
#   drop(columns='c'): the frame is changed, warnings 1
#   the same again: the frame is changed, warnings 0
#   frame[['a', 'b']]: the frame is changed, warnings 0
#   rename: the frame is changed, warnings 0
#   reset_index(drop=True): the frame is changed, warnings 0
#   fillna(0), no gaps: the frame is changed, warnings 0
#   astype('float64'), which it is: the frame is changed, warnings 0
#   clip(0, 1000), all within: the frame is changed, warnings 0
#   query('a > 0'), all rows: the frame is changed, warnings 0
#   query('a > 100'), some rows: the frame is as it was, warnings 0
#   copy(): the frame is as it was, warnings 0
#   pandas' own subtraction on drop(columns='c'): the frame is as it was
#   numpy's on its to_numpy(): ValueError
#   torch.from_dlpack: the frame is changed - warnings 0
#   means that five folds take off column a, torch.from_numpy: 49.8 -0.1 -0.2 0.1 -0.0
#     torch.tensor, which copies: 49.8 49.7 49.5 49.7 49.7
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 pandas==3.1.1 scikit-learn==1.9.1 2> /dev/null
cat > "$work/finding.py" <<'PY'
import warnings

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import KFold

torch.set_num_threads(1)
warnings.simplefilter("always")
numbers = np.arange(12.0).reshape(4, 3) + 100


def say(name, make):
    """Whether what is done to a tensor of `make(frame)` is done to the frame, and whether torch says something."""
    frame = pd.DataFrame(numbers.copy(), columns=["a", "b", "c"])
    part = make(frame)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        tensor = torch.from_numpy(part.to_numpy())
        tensor -= 100
    changed = not np.array_equal(frame.to_numpy(), numbers)
    print(f"{name}: the frame is {'changed' if changed else 'as it was'}, warnings {len(said)}")


say("drop(columns='c')", lambda frame: frame.drop(columns="c"))
say("the same again", lambda frame: frame.drop(columns="c"))
say("frame[['a', 'b']]", lambda frame: frame[["a", "b"]])
say("rename", lambda frame: frame.rename(columns={"a": "A"}))
say("reset_index(drop=True)", lambda frame: frame.reset_index(drop=True))
say("fillna(0), no gaps", lambda frame: frame.fillna(0.0))
say("astype('float64'), which it is", lambda frame: frame.astype("float64"))
say("clip(0, 1000), all within", lambda frame: frame.clip(0, 1000))
say("query('a > 0'), all rows", lambda frame: frame.query("a > 0"))
say("query('a > 100'), some rows", lambda frame: frame.query("a > 100"))
say("copy()", lambda frame: frame.copy())

frame = pd.DataFrame(numbers.copy(), columns=["a", "b", "c"])
other = frame.drop(columns="c")
other -= 100
print("pandas' own subtraction on drop(columns='c'): the frame is", "as it was" if np.array_equal(frame.to_numpy(), numbers) else "changed")
try:
    values = frame.drop(columns="c").to_numpy()
    values -= 100
except ValueError as error:
    print("numpy's on its to_numpy():", type(error).__name__)
frame = pd.DataFrame(numbers.copy(), columns=["a", "b", "c"])
with warnings.catch_warnings(record=True) as said:
    tensor = torch.from_dlpack(frame.drop(columns="c").to_numpy())
    tensor -= 100
print("torch.from_dlpack: the frame is", "as it was" if np.array_equal(frame.to_numpy(), numbers) else "changed", "- warnings", len(said))

# five folds, each standardized by its own training rows
draw = np.random.default_rng(0)
rows = pd.DataFrame(draw.normal(50, 5, size=(200, 3)), columns=["a", "b", "c"]).assign(target=lambda r: r["a"] + draw.normal(size=200))


def means(make):
    """The mean of column a that each fold takes off."""
    taken, data = [], rows.copy()
    for train, _ in KFold(5).split(data):
        x = make(data)
        mean = x[train].mean(0)
        x -= mean
        taken.append(float(mean[0]))
    return " ".join(f"{m:.1f}" for m in taken)


def of_numpy(data):
    return torch.from_numpy(data.drop(columns="target").to_numpy())


def copied(data):
    return torch.tensor(data.drop(columns="target").to_numpy())


print("means that five folds take off column a, torch.from_numpy:", means(of_numpy))
print("  torch.tensor, which copies:", means(copied))
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
drop(columns='c'): the frame is changed, warnings 1
the same again: the frame is changed, warnings 0
frame[['a', 'b']]: the frame is changed, warnings 0
rename: the frame is changed, warnings 0
reset_index(drop=True): the frame is changed, warnings 0
fillna(0), no gaps: the frame is changed, warnings 0
astype('float64'), which it is: the frame is changed, warnings 0
clip(0, 1000), all within: the frame is changed, warnings 0
query('a > 0'), all rows: the frame is changed, warnings 0
query('a > 100'), some rows: the frame is as it was, warnings 0
copy(): the frame is as it was, warnings 0
pandas' own subtraction on drop(columns='c'): the frame is as it was
numpy's on its to_numpy(): ValueError
torch.from_dlpack: the frame is changed - warnings 0
means that five folds take off column a, torch.from_numpy: 49.8 -0.1 -0.2 0.1 -0.0
  torch.tensor, which copies: 49.8 49.7 49.5 49.7 49.7
SEEN
