#!/usr/bin/env bash
# datasets 5.2.0 (streaming) and grain 0.2.18: shuffle with a seed, take the first rows for validation and the rest for training; in epoch 2 they overlap.
#
#     mixed = stream.shuffle(seed=0, buffer_size=100)       held_out, train = mixed.take(200), mixed.skip(200)       train.set_epoch(epoch)
#     mixed = grain.MapDataset.range(1000).shuffle(seed=0)  held_out, train = mixed[:200], mixed[200:]               train.repeat(3)
#
# Both libraries have this shuffle for training, where each epoch is to have its own order, and both say so. A split made of it, one reasons, was made
# once: with a seed, so that it can be repeated, and after shuffling, as the pages of datasets advise for take and skip ("they fix the order").
# `held_out` is walked in the order of epoch 0 at each validation, which looks like proof.
#
# What is fixed is the *number of places* that are skipped. The order beneath them is drawn anew from seed and epoch: train's second epoch leaves out
# 200 other rows, and has rows of the validation set in it. grain does it by itself as soon as `repeat` comes behind the slice; datasets when set_epoch
# is called, which a loop has to, for otherwise all epochs have one order. A buffer smaller than the stream makes the overlap smaller. The first epoch,
# which is what one looks at in a test, is clean in either. From the second on validation judges rows that were trained on, and nothing has a wrong
# length. Way out: split before the shuffle (and shuffle `train` alone).
#
# Output seen (x86_64, Python 3.11), of 1,000 rows, 200 of them held out; rows of the validation set in epochs 0, 1, 2 of training:
#   datasets, 1 shard, buffer of all rows: [0, 166, 159]; rows an epoch {800}; validation the same at each pass: True
#   datasets, 1 shard, buffer of 100: [0, 31, 37]; rows an epoch {800}; validation the same at each pass: True
#   datasets, without set_epoch: [0, 0, 0]; rows an epoch {800}; validation the same at each pass: True
#   datasets, split before the shuffle: [0, 0, 0]; rows an epoch {800}; validation the same at each pass: True
#   grain: [0, 152, 160]; rows an epoch {800}; validation the same at each pass: True
#   grain, reseed_each_epoch=False: [0, 0, 0]; rows an epoch {800}; validation the same at each pass: True
#   grain, split before the shuffle: [0, 0, 0]; rows an epoch {800}; validation the same at each pass: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check datasets==5.2.0 grain==0.2.18 numpy==2.4.6 2> /dev/null
cat > "$work/split.py" <<'PY'
import grain
from datasets import Dataset

ROWS, HELD, EPOCHS = 1000, 200, 3


def told(name, epochs, held_out):
    """epochs: the rows of each epoch of training; held_out: those of validation, at each of its passes."""
    sizes = {len(set(rows)) for rows in epochs}
    print(f"{name}: {[len(set(rows) & held_out[0]) for rows in epochs]}; rows an epoch {sizes};", end=" ")
    print("validation the same at each pass:", all(rows == held_out[0] for rows in held_out))


def streamed(buffer, set_epoch=True, split_first=False):
    rows = Dataset.from_dict({"i": range(ROWS)}).to_iterable_dataset(num_shards=1)
    mixed = rows if split_first else rows.shuffle(seed=0, buffer_size=buffer)
    held, train = mixed.take(HELD), mixed.skip(HELD)
    if split_first:
        train = train.shuffle(seed=0, buffer_size=buffer)
    epochs, held_out = [], []
    for epoch in range(EPOCHS):
        if set_epoch:
            train.set_epoch(epoch)
        epochs.append([row["i"] for row in train])
        held_out.append({row["i"] for row in held})
    return epochs, held_out


def repeated(split_first=False, **options):
    rows = grain.MapDataset.range(ROWS)
    mixed = rows if split_first else rows.shuffle(seed=0)
    held, train = mixed[:HELD], mixed[HELD:]
    train = (train.shuffle(seed=0) if split_first else train).repeat(EPOCHS, **options)
    every = [int(row) for row in train]
    size = len(every) // EPOCHS
    return [every[k * size : (k + 1) * size] for k in range(EPOCHS)], [{int(row) for row in held} for _ in range(EPOCHS)]


told("datasets, 1 shard, buffer of all rows", *streamed(ROWS))
told("datasets, 1 shard, buffer of 100", *streamed(100))
told("datasets, without set_epoch", *streamed(ROWS, set_epoch=False))
told("datasets, split before the shuffle", *streamed(ROWS, split_first=True))
told("grain", *repeated())
told("grain, reseed_each_epoch=False", *repeated(reseed_each_epoch=False))
told("grain, split before the shuffle", *repeated(split_first=True))
PY
"$work/venv/bin/python" "$work/split.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
datasets, 1 shard, buffer of all rows: [0, 166, 159]; rows an epoch {800}; validation the same at each pass: True
datasets, 1 shard, buffer of 100: [0, 31, 37]; rows an epoch {800}; validation the same at each pass: True
datasets, without set_epoch: [0, 0, 0]; rows an epoch {800}; validation the same at each pass: True
datasets, split before the shuffle: [0, 0, 0]; rows an epoch {800}; validation the same at each pass: True
grain: [0, 152, 160]; rows an epoch {800}; validation the same at each pass: True
grain, reseed_each_epoch=False: [0, 0, 0]; rows an epoch {800}; validation the same at each pass: True
grain, split before the shuffle: [0, 0, 0]; rows an epoch {800}; validation the same at each pass: True
SEEN
