#!/usr/bin/env bash
# torch 2.13.0, torch.distributed.fsdp.fully_shard (FSDP2): a model whose very first forward pass is under
# torch.inference_mode() cannot be trained afterwards; under torch.no_grad() it can.
#
# A good guess: the two are forms of the same thing for a forward pass, the newer one faster, so a score of the held-out rows
# before step 1 may be computed in either; a plain module, and DistributedDataParallel, train after both.
# What happens: the first forward pass of a sharded model makes the memory that its parameters are gathered into, and keeps it.
# Made in inference mode, these are inference tensors for good: the first training step ends in "Inplace update to inference
# tensor outside InferenceMode is not allowed". After one forward pass in training (or under no_grad) inference mode does no harm:
# so a loop that scores after each epoch never sees it, one that scores at step 0 always does.
#
# Output seen (2 processes, gloo, CPU, x86_64, Python 3.11):
#   plain module: first forward in inference_mode: trains
#   sharded: first forward in no_grad: trains
#   sharded: first forward in inference_mode: RuntimeError: Inplace update to inference tensor outside InferenceMode
#   sharded: inference_mode after a first training step: trains
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$work/sharded.py" <<'PY'
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

CASES = [
    ("plain module: first forward in inference_mode", False, torch.inference_mode, False),
    ("sharded: first forward in no_grad", True, torch.no_grad, False),
    ("sharded: first forward in inference_mode", True, torch.inference_mode, False),
    ("sharded: inference_mode after a first training step", True, torch.inference_mode, True),
]


def run(rank, where, case):
    said, sharded, mode, train_first = CASES[case]
    dist.init_process_group("gloo", init_method=f"file://{where}", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    if sharded:
        mesh = init_device_mesh("cpu", (2,))
        for module in (model[0], model[2], model):
            fully_shard(module, mesh=mesh)
    optimizer, x = torch.optim.SGD(model.parameters(), lr=0.1), torch.ones(4, 4)

    def step():
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    if train_first:
        step()
    with mode():
        model(x)
    try:
        step()
        ended = "trains"
    except RuntimeError as error:
        ended = f"RuntimeError: {str(error).split(' is not allowed')[0]}"
    if rank == 0:
        print(f"{said}: {ended}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    for case in range(len(CASES)):
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(run, (f"{folder}/meet", case), nprocs=2)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/sharded.py" 2>"$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
plain module: first forward in inference_mode: trains
sharded: first forward in no_grad: trains
sharded: first forward in inference_mode: RuntimeError: Inplace update to inference tensor outside InferenceMode
sharded: inference_mode after a first training step: trains
SEEN
