#!/usr/bin/env bash
# accelerate 1.15.0 (torch 2.13.0), accumulate(): an evaluation that is cut short, by a break or by next(iter(loader)), takes the last step of every later epoch away.
#
#     for rows in train:    with accelerator.accumulate(network): ... accelerator.backward(loss); optimizer.step(); optimizer.zero_grad()
#                           if step % 100 == 0:    rows = next(iter(held_out)); ...       # a look at a few held-out rows, in between
#
# With gradient_accumulation_steps=4 and six micro-batches an epoch, steps come after the fourth and, since the end of the loader is seen to, after the sixth. A look at
# held-out rows in between has no part in it: it is another loader, and "which loader are we in" is what a for loop ends by itself, in whatever way it ends.
#
# A prepared loader signs in when its iteration begins and signs out after its last batch. One that was left in the middle stays signed in, for ever, and is the one
# that is asked whether this is the end. So the training loader's end is not noticed any more: the gradient of its last micro-batches stays, and steps
# go across epochs, in windows of four (as here), and after the last epoch what waits is never used. Where the gradient is cleared at the start of an epoch, up to three
# micro-batches of each epoch are lost. Schedules that count on len(loader) come out longer than the run. A whole pass over the held-out rows does no harm, nor
# did a test without a look in between find anything. Way out: Dataset.select / Subset for a short look, each time to its end.
#
# Output seen (CPU, x86_64, Python 3.11): two epochs of six; how many micro-batches the gradient is of, s: a step; a look after the third of each epoch
#   no evaluation  : 1 2 3 4s 1 2s | 1 2 3 4s 1 2s |
#   all of it      : 1 2 3 4s 1 2s | 1 2 3 4s 1 2s |
#   a break        : 1 2 3 4s 1 2 | 3 4s 1 2 3 4s |
#   next(iter(...)): 1 2 3 4s 1 2 | 3 4s 1 2 3 4s |
#   islice(..., 2) : 1 2 3 4s 1 2 | 3 4s 1 2 3 4s |
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check accelerate==1.15.0 2> /dev/null
cat > "$work/finding.py" <<'PY'
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
x = torch.randn(60, 3)
y = x @ torch.tensor([[1.0], [2.0], [3.0]])


def epochs(look):
    """Two epochs of six micro-batches: after each backward pass, how many micro-batches the gradient is of, and s where a step was taken."""
    torch.manual_seed(1)
    network = torch.nn.Linear(3, 1)
    train, held_out = DataLoader(TensorDataset(x, y), batch_size=10), DataLoader(TensorDataset(x, y), batch_size=10)
    network, optimizer, train, held_out = accelerator.prepare(network, torch.optim.SGD(network.parameters(), lr=0.01), train, held_out)
    told, waiting = [], 0
    for _ in range(2):
        for number, (rows, target) in enumerate(train):
            with accelerator.accumulate(network):
                accelerator.backward((network(rows) - target).square().mean())
                waiting += 1
                before = network.weight.detach().clone()
                optimizer.step()
                optimizer.zero_grad()
            stepped = not torch.equal(before, network.weight)
            told.append(f"{waiting}{'s' if stepped else ''}")
            waiting = 0 if stepped else waiting
            if number == 2:
                look(network, held_out)
        told.append("|")
    return " ".join(told)


def whole(network, held_out):
    for rows, _ in held_out:
        network(rows)


def first_batch(network, held_out):
    for rows, _ in held_out:
        network(rows)
        break


def first_by_next(network, held_out):
    network(next(iter(held_out))[0])


def first_by_islice(network, held_out):
    from itertools import islice

    for rows, _ in islice(held_out, 2):
        network(rows)


for name, look in {"no evaluation": lambda *_: None, "all of it": whole, "a break": first_batch, "next(iter(...))": first_by_next, "islice(..., 2)": first_by_islice}.items():
    print(f"{name:15}: {epochs(look)}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
no evaluation  : 1 2 3 4s 1 2s | 1 2 3 4s 1 2s |
all of it      : 1 2 3 4s 1 2s | 1 2 3 4s 1 2s |
a break        : 1 2 3 4s 1 2 | 3 4s 1 2 3 4s |
next(iter(...)): 1 2 3 4s 1 2 | 3 4s 1 2 3 4s |
islice(..., 2) : 1 2 3 4s 1 2 | 3 4s 1 2 3 4s |
SEEN
