#!/usr/bin/env bash
# Resuming a torchdata.nodes pipeline (torchdata 0.11.0, torch 2.13.0) that shuffles by a seeded sampler: right in the first epoch, and in no other.
#
# A test of it, such as a careful person writes: 100 rows, a `RandomSampler` with a generator seeded with 5, batches of 10. Take five
# batches, keep `loader.state_dict()`, build everything anew with the same seed, load, and compare: the rest of the epoch is the
# same, and so is the next epoch. So one expects a run that was cut off in epoch 7 to go on where it was.
#
# Cut off in any epoch but the first, it goes on in another order. Of the 50 rows that were left in epoch 2 some 25 have been trained on in that
# epoch already and come a second time, and as many never come. Number of batches, number of rows and lengths agree, nothing
# warns. The node that holds the sampler keeps how many rows it gave out, and the number of the epoch; the generator's state it
# does not keep. To resume, it asks the new sampler for an order, which is the order of *its* first epoch, and leaves out as
# many rows of that. torchdata's own RandomSampler, whose iterator can tell and take back its state, fares the same: the
# node looks for these methods on the sampler, and they are on its iterator.
# A sampler with `set_epoch`, such as DistributedSampler (for one rank, too), is told the epoch's number, and resumes rightly.
#
# Output seen (CPU, x86_64, Python 3.11), 50 rows taken, then resumed:
#   torch RandomSampler: epoch 1 as if uninterrupted; epoch 2: 15 to 35 rows twice and as many never
#   torchdata RandomSampler: epoch 1 as if uninterrupted; epoch 2: 15 to 35 rows twice and as many never
#   torch DistributedSampler: epoch 1 as if uninterrupted; epoch 2 as if uninterrupted
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torchdata==0.11.0 numpy==2.4.6 2> /dev/null
cat > "$work/second.py" <<'PY'
import torch
from torch.utils.data import RandomSampler
from torch.utils.data.distributed import DistributedSampler
from torchdata.nodes import Batcher, Loader, MapStyleWrapper
from torchdata.stateful_dataloader.sampler import RandomSampler as StatefulRandomSampler

ROWS = range(100)


def seeded():
    return torch.Generator().manual_seed(5)


def pipeline(sampler):
    return Loader(Batcher(MapStyleWrapper(ROWS, sampler()), batch_size=10, drop_last=False))


def resumed(sampler, epoch):
    """Take 50 rows of that epoch, resume in a pipeline made anew, and compare with going on."""
    loader = pipeline(sampler)
    for _ in range(epoch - 1):
        list(loader)
    batches = iter(loader)
    taken = [row for _ in range(5) for row in next(batches)]
    state = loader.state_dict()
    rest = [row for batch in batches for row in batch]
    other = pipeline(sampler)
    other.load_state_dict(state)
    found = [row for batch in other for row in batch]
    if found == rest:
        return f"epoch {epoch} as if uninterrupted"
    twice, never = len(set(found) & set(taken)), len(set(ROWS) - set(found) - set(taken))
    counts = "15 to 35 rows twice and as many never" if 15 <= twice == never <= 35 else f"{twice} rows twice, {never} never"
    return f"epoch {epoch}: {counts}"


for name, sampler in (
    ("torch RandomSampler", lambda: RandomSampler(ROWS, generator=seeded())),
    ("torchdata RandomSampler", lambda: StatefulRandomSampler(ROWS, generator=seeded())),
    ("torch DistributedSampler", lambda: DistributedSampler(ROWS, num_replicas=1, rank=0, seed=5)),
):
    print(f"{name}: {resumed(sampler, 1)}; {resumed(sampler, 2)}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/second.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
torch RandomSampler: epoch 1 as if uninterrupted; epoch 2: 15 to 35 rows twice and as many never
torchdata RandomSampler: epoch 1 as if uninterrupted; epoch 2: 15 to 35 rows twice and as many never
torch DistributedSampler: epoch 1 as if uninterrupted; epoch 2 as if uninterrupted
SEEN
