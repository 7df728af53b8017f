#!/usr/bin/env bash
# tensordict 0.15.3 (torch 2.13.0), TensorDict.load_memmap: fine-tuning a network from saved weights trains the file that they were saved in.
#
#     TensorDict.from_module(pretrained).data.memmap(folder)        TensorDict.load_memmap(folder).to_module(network)       ... optimizer.step()
#
# Saved is saved: torch.load, also with mmap=True, and safetensors give weights and rows that one may change; numpy.load(mmap_mode="r") refuses.
# That TensorDict.load (the same function) reads pages as they are needed seems to be a matter of speed.
#
# A folder is mapped for writing wherever the process may write it. `to_module` puts the mapped tensors into the network as they are, so the first step
# of the optimizer goes through to the disk: the pretrained weights are gone, there is no backup, and the next run of the script, or another one beside
# it, starts from tuned ones. With rows, x.div_(255) divides again in each run, and an augmentation in place within batches of split() or slices
# adds up from epoch to epoch. to("cpu"), contiguous(), float() and numpy() are still the file. Nothing tells: it is not locked, is_memmap() is
# False, and data["x"] = data["x"] / 2 stays in memory. An archive (.tdz), or a folder that belongs to someone else, is mapped privately, so that the same
# script is harmless there. It is in the reference, under mode=. Way out: mode="r", or clone().
#
# Output seen (CPU, x86_64, Python 3.11), the first number that is read from the file after the change:
#   weights by to_module, one step of SGD: the file holds the pretrained ones False, the tuned ones True
#   rows of 200, x.div_(2), two runs: a folder [100.0, 50.0] an archive [200.0, 200.0] a folder with mode="r" [200.0, 200.0]
#   div_ of what to('cpu') gives: [100.0, 50.0]
#   div_ of what contiguous() gives: [100.0, 50.0]
#   div_ of what x.float().numpy() gives: [100.0, 50.0]
#   div_ of what rows by a list gives: [200.0, 200.0]
#   div_ of what clone() gives: [200.0, 200.0]
#   an augmentation of x in place, three epochs of data.split(4): 25.0 locked: False is_memmap: False
#   data['x'] = data['x'] / 2: 200.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check tensordict==0.15.3 2> /dev/null
cat > "$work/tuned.py" <<'PY'
import sys

import torch
from tensordict import TensorDict

FOLDER = sys.argv[1]


def rows(name, archive=False):
    """Eight rows of 200, saved; the path."""
    path = f"{FOLDER}/{name}"
    TensorDict({"x": torch.full((8, 3), 200.0)}, [8]).save(path, archive=archive)
    return path


def first(path, **how):
    return TensorDict.load_memmap(path, **how)["x"][0, 0].item()


def halved(path, change=lambda data: data["x"].div_(2), **how):
    """The first number that is read after each of two runs."""
    found = []
    for _ in range(2):
        change(TensorDict.load_memmap(path, **how))
        found.append(first(path, **how))
    return found


torch.manual_seed(0)
pretrained = torch.nn.Linear(3, 1)
TensorDict.from_module(pretrained).data.memmap(f"{FOLDER}/weights")
tuned = torch.nn.Linear(3, 1)
TensorDict.load_memmap(f"{FOLDER}/weights").to_module(tuned)
step = torch.optim.SGD(tuned.parameters(), 0.1)
tuned(torch.ones(2, 3)).sum().backward()
step.step()
saved = TensorDict.load_memmap(f"{FOLDER}/weights")
print("weights by to_module, one step of SGD: the file holds the pretrained ones", torch.equal(saved["weight"], pretrained.weight), end=", ")
print("the tuned ones", torch.equal(saved["weight"], tuned.weight))

print("rows of 200, x.div_(2), two runs: a folder", halved(rows("folder")), end=" ")
print("an archive", halved(rows("data.tdz", True)), 'a folder with mode="r"', halved(rows("kept"), mode="r"))
for name, change in {
    "to('cpu')": lambda data: data.to("cpu")["x"].div_(2),
    "contiguous()": lambda data: data.contiguous()["x"].div_(2),
    "x.float().numpy()": lambda data: data["x"].float().numpy().__itruediv__(2),
    "rows by a list": lambda data: data[[0, 1]]["x"].div_(2),
    "clone()": lambda data: data.clone()["x"].div_(2),
}.items():
    print(f"div_ of what {name} gives: {halved(rows(name.split('(')[0]), change)}")

path = rows("batches")
data = TensorDict.load_memmap(path)
for _ in range(3):
    for batch in data.split(4):
        batch["x"].mul_(0.5)
print("an augmentation of x in place, three epochs of data.split(4):", first(path), "locked:", data.is_locked, "is_memmap:", data.is_memmap())

path = rows("copied")
data = TensorDict.load_memmap(path)
data["x"] = data["x"] / 2
print("data['x'] = data['x'] / 2:", first(path))
PY
mkdir "$work/saved"
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/tuned.py" "$work/saved" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
weights by to_module, one step of SGD: the file holds the pretrained ones False, the tuned ones True
rows of 200, x.div_(2), two runs: a folder [100.0, 50.0] an archive [200.0, 200.0] a folder with mode="r" [200.0, 200.0]
div_ of what to('cpu') gives: [100.0, 50.0]
div_ of what contiguous() gives: [100.0, 50.0]
div_ of what x.float().numpy() gives: [100.0, 50.0]
div_ of what rows by a list gives: [200.0, 200.0]
div_ of what clone() gives: [200.0, 200.0]
an augmentation of x in place, three epochs of data.split(4): 25.0 locked: False is_memmap: False
data['x'] = data['x'] / 2: 200.0
SEEN
