#!/usr/bin/env bash
# torch 2.13.0, DistributedDataParallel: a layer that was frozen when the model was wrapped is trained by each rank for itself.
#
# The recipe of fine-tuning: freeze the backbone, train the head for some epochs, `requires_grad_(True)`, go on at a lower rate. Under
# one process nothing more is needed (the optimizer was given all weights). With DDP around the model one would expect the same, or, as when
# a parameter gets no gradient, an error in the next backward pass.
#
# DDP asks once, in its constructor, which parameters want a gradient, and puts a hook on these. A parameter that is thawed later has none:
# its gradient is that of the rank's own rows, it is never averaged, and each rank goes its own way with it. Losses fall everywhere. The
# head is still averaged, over gradients that were taken at different backbones, which belong to no model at all. What is saved is rank 0's, and has learned,
# below the head, from 1/ranks of the data; validation over all ranks is a mean over different models; a resumed run starts from rank 0's weights everywhere,
# with a jump. `find_unused_parameters=True` changes nothing. DDP's page says that parameters are not to be changed after wrapping, and says it of
# adding and replacing them. Buffers are copied from rank 0 at each step as ever, so that statistics agree and weights do not.
# Way out: wrap again after thawing (DDP(model) anew also makes the weights rank 0's); or wrap first and freeze afterwards, with find_unused_parameters=True.
#
# Output seen (CPU, gloo, 2 ranks, Python 3.11), 10 steps frozen and 40 thawed; largest difference of a weight between the ranks
#   frozen, wrapped: thawed layer over 0.001, its gradient over 0.001; head 0
#   frozen, wrapped with find_unused_parameters: thawed layer over 0.001, its gradient over 0.001; head 0
#   frozen, wrapped, wrapped again: thawed layer 0, its gradient 0; head 0
#   wrapped, then frozen: thawed layer 0, its gradient 0; head 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
cat > "$work/finding.py" <<'PY'
import os
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP


def apart(tensor):
    """Largest difference of a tensor between the ranks."""
    every = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(every, tensor.detach().contiguous())
    return float((every[0] - every[1]).abs().max())


def train(rank, how):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1))
    wrapped = DDP(model, find_unused_parameters=True) if how == "wrapped, then frozen" else None
    model[0].requires_grad_(False)
    wrapped = wrapped or DDP(model, find_unused_parameters=how == "frozen, wrapped with find_unused_parameters")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    torch.manual_seed(1 + rank)  # each rank has rows of its own
    for step in range(50):
        if step == 10:
            model[0].requires_grad_(True)
            wrapped = DDP(model) if how == "frozen, wrapped, wrapped again" else wrapped
        x = torch.randn(16, 6)
        optimizer.zero_grad()
        (wrapped(x) - x.sum(1, keepdim=True).sin()).square().mean().backward()
        optimizer.step()
    words = ["0" if apart(layer.weight) == 0 else "over 0.001" if apart(layer.weight) > 0.001 else "small" for layer in (model[0], model[2])]
    gradient = "0" if apart(model[0].weight.grad) == 0 else "over 0.001" if apart(model[0].weight.grad) > 0.001 else "small"
    if rank == 0:
        print(f"{how}: thawed layer {words[0]}, its gradient {gradient}; head {words[1]}", flush=True)


def main(rank, port):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for how in ("frozen, wrapped", "frozen, wrapped with find_unused_parameters", "frozen, wrapped, wrapped again", "wrapped, then frozen"):
        train(rank, how)
    dist.destroy_process_group()


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(main, (port,), nprocs=2)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
frozen, wrapped: thawed layer over 0.001, its gradient over 0.001; head 0
frozen, wrapped with find_unused_parameters: thawed layer over 0.001, its gradient over 0.001; head 0
frozen, wrapped, wrapped again: thawed layer 0, its gradient 0; head 0
wrapped, then frozen: thawed layer 0, its gradient 0; head 0
SEEN
