#!/usr/bin/env bash
# accelerate 1.15.0 (torch 2.13.0): save_state in the middle of an epoch, load_state, skip_first_batches: rows come again, and as many do not come at all.
#
#     accelerator.load_state(folder)       rest = accelerator.skip_first_batches(loader, 5)       ... then `loader` for the epochs that follow
#
# That is the way of resuming that the library's pages and example show, and load_state brings back the generators of Python, numpy and torch. The
# guess: the epoch goes on where it was cut off, since the order is a matter of those generators; a test without shuffling, or of the loss curve,
# agrees.
#
# The generators come back as they were in the *middle* of the epoch; the order was drawn from them at its beginning. The resumed pass draws another
# order, and skips five batches of that. Of the 20 rows that were already seen 7 to 11 come again here, and as many others do not come at all.
# use_seedable_sampler=True, which computes the order from a seed and the epoch's number, is meant for this, and does it in epoch 0. The number is not
# saved: a run that was cut off in epoch 1 goes on in the order of epoch 0, and the next epoch is in the order of epoch 0, whole; all later ones are as
# far behind. Told the number (set_epoch on the loader, and on what skip_first_batches returns), it is right; the default sampler is not, told or not.
# Users have reported it from 2023 on (issues 2016, 3996).
#
# Output seen (CPU, x86_64, Python 3.11), 10 batches of 4 rows, cut off after 5 batches:
#   default sampler, cut off in epoch 0: rows again 11, never 11; later epochs [1, 2, 3] have the order of [2, 3, 'none']
#   default sampler, cut off in epoch 1: rows again 7, never 7; later epochs [2, 3] have the order of [3, 'none']
#   default sampler, set_epoch, cut off in epoch 1: rows again 7, never 7; later epochs [2, 3] have the order of [3, 'none']
#   seedable sampler, cut off in epoch 0: rows again 0, never 0; later epochs [1, 2, 3] have the order of [0, 1, 2]
#   seedable sampler, cut off in epoch 1: rows again 11, never 11; later epochs [2, 3] have the order of [0, 1]
#   seedable sampler, set_epoch, cut off in epoch 1: rows again 0, never 0; later epochs [2, 3] have the order of [2, 3]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip="$work/venv/bin/pip install --quiet --no-compile --disable-pip-version-check"
$pip torch==2.13.0 numpy==2.4.6 2> /dev/null
$pip accelerate==1.15.0 2> /dev/null
cat > "$work/resume.py" <<'PY'
import tempfile

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch.utils.data import DataLoader, TensorDataset

EPOCHS, BATCHES = 4, 5


def begun(seedable):
    set_seed(0)
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=seedable))
    rows = DataLoader(TensorDataset(torch.arange(40)), batch_size=4, shuffle=True)
    model = torch.nn.Linear(1, 1)
    return accelerator, accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1), rows)[2]


def rows(loader):
    return [row for (batch,) in loader for row in batch.tolist()]


def told(seedable, cut, numbered):
    """Cut off in epoch `cut`; numbered: set_epoch before each pass."""
    folder, whole = tempfile.mkdtemp(), []
    accelerator, loader = begun(seedable)
    for epoch in range(EPOCHS):
        if numbered:
            loader.set_epoch(epoch)
        order = []
        for k, (batch,) in enumerate(loader, 1):
            order += batch.tolist()
            if epoch == cut and k == BATCHES:
                accelerator.save_state(folder)
        whole.append(order)

    accelerator, loader = begun(seedable)
    accelerator.load_state(folder)
    rest = accelerator.skip_first_batches(loader, BATCHES)
    if numbered:
        rest.set_epoch(cut)
    seen, left, later = whole[cut][: 4 * BATCHES], rows(rest), []
    for epoch in range(cut + 1, EPOCHS):
        if numbered:
            loader.set_epoch(epoch)
        later.append(rows(loader))
    names = [next((k for k, order in enumerate(whole) if order == now), "none") for now in later]
    name = ("seedable sampler" if seedable else "default sampler") + (", set_epoch" if numbered else "")
    again, never = len(set(seen) & set(left)), 40 - len(set(seen) | set(left))
    print(f"{name}, cut off in epoch {cut}: rows again {again}, never {never}; later epochs {list(range(cut + 1, EPOCHS))}", end=" ")
    print(f"have the order of {names}")


told(False, 0, False)
told(False, 1, False)
told(False, 1, True)
told(True, 0, False)
told(True, 1, False)
told(True, 1, True)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/resume.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
default sampler, cut off in epoch 0: rows again 11, never 11; later epochs [1, 2, 3] have the order of [2, 3, 'none']
default sampler, cut off in epoch 1: rows again 7, never 7; later epochs [2, 3] have the order of [3, 'none']
default sampler, set_epoch, cut off in epoch 1: rows again 7, never 7; later epochs [2, 3] have the order of [3, 'none']
seedable sampler, cut off in epoch 0: rows again 0, never 0; later epochs [1, 2, 3] have the order of [0, 1, 2]
seedable sampler, cut off in epoch 1: rows again 11, never 11; later epochs [2, 3] have the order of [0, 1]
seedable sampler, set_epoch, cut off in epoch 1: rows again 0, never 0; later epochs [2, 3] have the order of [2, 3]
SEEN
