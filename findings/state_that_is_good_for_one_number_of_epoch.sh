#!/usr/bin/env bash
# datasets 5.2.0 (Hugging Face), IterableDataset.load_state_dict: a loaded state is taken up by each pass whose epoch has the state's number, and by no other.
#
# `state_dict()` in the middle of an epoch, `load_state_dict()` into a dataset made anew, go on: the guess is an iterator's state. The
# next pass gives the rows that were left, the passes after it are whole epochs, and the state, which has "epoch" in it, knows what epoch it is of.
#
# 1. A loop without set_epoch (nothing is shuffled, or once before; then there is little reason to call it): all passes have
#    number 0, and so has the state. Each of them begins behind the checkpoint. The rows before it are not seen again for as
#    long as the run lasts; the test that one writes, of the first pass, is right.
# 2. A loop with set_epoch, cut off in epoch 2: load_state_dict does not set the epoch. A pass over the dataset as it was loaded has
#    number 0, and the state of epoch 2 is left aside: the pass begins at the first row, or in the order of epoch 0 where shards are
#    shuffled, and rows of the epoch come twice. `set_epoch(2)`, before or after the load, is what makes it count.
# 3. What is right therefore needs both: set_epoch before *every* pass, with the number that the state was taken in.
# None of it warns: a dataset that streams has no length. Counting the rows of the second pass after a resume shows it.
#
# Output seen (x86_64, Python 3.11), 40 rows in 4 shards, state taken after 30 rows of an epoch; rows in three passes after the load:
#   no set_epoch anywhere: 10 10 10, first pass as uninterrupted: True, rows never seen again: 30
#   no set_epoch, map and filter: 5 5 5, first pass as uninterrupted: True, rows never seen again: 15
#   no set_epoch, two datasets interleaved: 10 10 10, first pass as uninterrupted: True, rows never seen again: 30
#   taken in epoch 2, set_epoch from the second pass on: 40 40 40, first pass as uninterrupted: False, rows never seen again: 0
#   taken in epoch 2, set_epoch(2), 3, 4: 10 40 40, first pass as uninterrupted: True, rows never seen again: 0
#   shards shuffled, set_epoch from the second pass on: 40 40 40, first pass as uninterrupted: False, rows never seen again: 0
#   shards shuffled, set_epoch(2), 3, 4: 10 40 40, first pass as uninterrupted: True, rows never seen again: 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check datasets==5.2.0 numpy==2.4.6 2> /dev/null
cat > "$work/later.py" <<'PY'
from datasets import Dataset, interleave_datasets


def rows(first=0, last=40, shards=4):
    return Dataset.from_dict({"row": list(range(first, last))}).to_iterable_dataset(num_shards=shards)


def shuffled():
    return rows().shuffle(seed=1, buffer_size=1)


def resumed(name, make, before=None, after=(None, None, None), taken=30):
    """Take rows in epoch `before`, load the state into the dataset made anew, pass over that in the epochs `after`; None: no set_epoch."""
    dataset = make()
    if before is not None:
        dataset.set_epoch(before)
    going = iter(dataset)
    first = [next(going)["row"] for _ in range(taken)]
    state = dataset.state_dict()
    rest = [example["row"] for example in going]
    dataset = make()
    dataset.load_state_dict(state)
    passes = []
    for epoch in after:
        if epoch is not None:
            dataset.set_epoch(epoch)
        passes.append([example["row"] for example in dataset])
    counts = " ".join(str(len(part)) for part in passes)
    never = len(set(first) - {row for part in passes for row in part})
    print(f"{name}: {counts}, first pass as uninterrupted: {passes[0] == rest}, rows never seen again: {never}")


def mapped():
    return rows().map(lambda example: {"row": 2 * example["row"]}).filter(lambda example: example["row"] % 4 == 0)


def interleaved():
    return interleave_datasets([rows(0, 20), rows(20, 40)], stopping_strategy="all_exhausted")


resumed("no set_epoch anywhere", rows)
resumed("no set_epoch, map and filter", mapped, taken=15)
resumed("no set_epoch, two datasets interleaved", interleaved)
for name, make in (("taken in epoch 2", rows), ("shards shuffled", shuffled)):
    resumed(f"{name}, set_epoch from the second pass on", make, before=2, after=(None, 3, 4))
    resumed(f"{name}, set_epoch(2), 3, 4", make, before=2, after=(2, 3, 4))
PY
"$work/venv/bin/python" -W ignore "$work/later.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
no set_epoch anywhere: 10 10 10, first pass as uninterrupted: True, rows never seen again: 30
no set_epoch, map and filter: 5 5 5, first pass as uninterrupted: True, rows never seen again: 15
no set_epoch, two datasets interleaved: 10 10 10, first pass as uninterrupted: True, rows never seen again: 30
taken in epoch 2, set_epoch from the second pass on: 40 40 40, first pass as uninterrupted: False, rows never seen again: 0
taken in epoch 2, set_epoch(2), 3, 4: 10 40 40, first pass as uninterrupted: True, rows never seen again: 0
shards shuffled, set_epoch from the second pass on: 40 40 40, first pass as uninterrupted: False, rows never seen again: 0
shards shuffled, set_epoch(2), 3, 4: 10 40 40, first pass as uninterrupted: True, rows never seen again: 0
SEEN
