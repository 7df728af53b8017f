#!/usr/bin/env bash
# webdataset 1.0.2 with a DataLoader of torch 2.13.0: `shardshuffle=100` draws the order of the shards once per object, not once per epoch.
#
#     data = wds.WebDataset(urls, shardshuffle=100).shuffle(1000).decode().to_tuple("x", "y").batched(32)
#     for epoch in range(90): for batch in DataLoader(data, batch_size=None, num_workers=2): ...
#
# The usual pipeline: shards are shuffled, then rows in a buffer. A new order of both for each epoch is what one takes
# from it, and the first rows of a second epoch do differ from those of the first. But they differ by the buffer alone. The shard shuffle
# was given a seed when the object was made (a random one, if none was named), and each pass begins again with that seed: the same shards
# come first in all epochs, the same come last, and rows that lie far apart never meet in a batch. A row's place moves by the length of the
# buffer, which for large sets is a thousandth of the set. Two runs differ, which hides it: each has another order, and keeps it.
#
# `detshuffle=True` counts epochs, and does change the order, if there are no workers or if they stay (persistent_workers=True). With workers
# that are started for each epoch, which is the default, the count goes up in the worker and ends with it: one order again, and as the
# rows of the buffer may be shuffled so as well, one order of everything, to the last row.
# Resampled shards (`resampled=True`) are drawn anew. Otherwise: shuffle the list of shards oneself, per epoch, and pass shardshuffle=False.
#
# Output seen (x86_64, Python 3.11), 40 shards of 25 rows, 4 epochs; the same: shards begin in the order of epoch 1; kept: of the 100 rows that come
# first in epoch 1, those that are among the first 200 of 1,000 in later epochs (by chance 0.2)
#   no workers: shards the same in 4 of 4 epochs, kept over 0.7
#   2 workers: shards the same in 4 of 4 epochs, kept over 0.7
#   2 workers, persistent: shards the same in 4 of 4 epochs, kept over 0.7
#   detshuffle, no workers: shards the same in 1 of 4 epochs, kept under 0.5
#   detshuffle, 2 workers: shards the same in 4 of 4 epochs, kept over 0.7
#   detshuffle, 2 workers, persistent: shards the same in 1 of 4 epochs, kept under 0.5
#   list shuffled by hand in each epoch, 2 workers: shards the same in 1 of 4 epochs, kept under 0.5
#   two objects of one list: another order
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 webdataset==1.0.2 2> /dev/null
cat > "$work/shards.py" <<'PY'
import random
import sys

import torch
import webdataset as wds

folder, shards, rows, epochs = sys.argv[1], 40, 25, 4
urls = [f"{folder}/rows-{shard:02d}.tar" for shard in range(shards)]
for shard, url in enumerate(urls):
    with wds.TarWriter(url) as tar:
        for row in range(rows):
            tar.write({"__key__": f"{shard * rows + row:04d}", "cls": shard * rows + row})


def loader(data, workers, persistent):
    return torch.utils.data.DataLoader(data, batch_size=None, num_workers=workers, persistent_workers=persistent)


def orders(workers=0, persistent=False, buffer=50, by_hand=False, **options):
    """The rows of each epoch, in the order in which they come."""

    def made(urls):
        data = wds.WebDataset(urls, **options)
        return (data.shuffle(buffer) if buffer else data).decode().to_tuple("cls")

    if by_hand:
        draw = random.Random(1)
        return [[int(r[0]) for r in loader(made(draw.sample(urls, shards)), workers, persistent)] for _ in range(epochs)]
    passes = loader(made(urls), workers, persistent)
    return [[int(r[0]) for r in passes] for _ in range(epochs)]


def told(name, **options):
    """Shards by their first row, without the buffer; rows with it."""
    firsts = [list(dict.fromkeys(row // rows for row in order)) for order in orders(buffer=0, **options)]
    mixed = orders(**options)
    assert all(sorted(order) == list(range(shards * rows)) for order in mixed)
    early = set(mixed[0][:100])
    kept = sum(len(early & set(order[:200])) for order in mixed[1:]) / (100 * (epochs - 1))
    share = "over 0.7" if kept > 0.7 else "under 0.5" if kept < 0.5 else f"{kept:.2f}"
    print(f"{name}: shards the same in {sum(first == firsts[0] for first in firsts)} of {epochs} epochs, kept {share}", flush=True)
    return firsts[0]


one = told("no workers", shardshuffle=shards)
told("2 workers", workers=2, shardshuffle=shards)
told("2 workers, persistent", workers=2, persistent=True, shardshuffle=shards)
told("detshuffle, no workers", shardshuffle=shards, detshuffle=True)
told("detshuffle, 2 workers", workers=2, shardshuffle=shards, detshuffle=True)
told("detshuffle, 2 workers, persistent", workers=2, persistent=True, shardshuffle=shards, detshuffle=True)
told("list shuffled by hand in each epoch, 2 workers", workers=2, by_hand=True, shardshuffle=False)
other = [row // rows for row in orders(buffer=0, shardshuffle=shards)[0]]
print("two objects of one list:", "the same order" if list(dict.fromkeys(other)) == one else "another order")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/shards.py" "$work" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
no workers: shards the same in 4 of 4 epochs, kept over 0.7
2 workers: shards the same in 4 of 4 epochs, kept over 0.7
2 workers, persistent: shards the same in 4 of 4 epochs, kept over 0.7
detshuffle, no workers: shards the same in 1 of 4 epochs, kept under 0.5
detshuffle, 2 workers: shards the same in 4 of 4 epochs, kept over 0.7
detshuffle, 2 workers, persistent: shards the same in 1 of 4 epochs, kept under 0.5
list shuffled by hand in each epoch, 2 workers: shards the same in 1 of 4 epochs, kept under 0.5
two objects of one list: another order
SEEN
