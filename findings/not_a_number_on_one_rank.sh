#!/usr/bin/env bash
# torch 2.13.0, torch.distributed with gloo: whether the maximum over ranks notices a NaN depends on the rank that has it.
#
#     worst = loss.detach().clone(); dist.all_reduce(worst, dist.ReduceOp.MAX)        # "has any rank diverged?", the norm of a gradient, a scale
#
# torch.max, torch.amax, torch.maximum and clip_grad_norm_ all let a NaN through, on purpose, so that it is found. Of the reduction over ranks one
# expects as much, and of a reduction at least that it does not matter who holds which value.
#
# With gloo it does. A pair is compared by "less than", which is false of a NaN, so that one of the two is kept by its place: NaN on rank 0
# comes out as NaN on every rank, NaN on any other rank as a number; and not always as the maximum of the others: of 1, NaN, 3 it is 1, for
# the NaN has put the 3 out before the 1 does so with the NaN. In a test one breaks rank 0, as a rule, and sees
# that the check works. In a run on k ranks it is blind to k - 1 of them: training goes on, and after the next *sum* of gradients all ranks have NaN weights,
# at a step of which the check said that all was well. MIN has the same. SUM lets every NaN through. All ranks agree on the answer, so nothing
# hangs; it is only wrong. It goes the same way through what is built upon it: a DTensor's amax over a sharded dimension, and its norm of order inf.
# Way out: reduce `loss.isnan().float()` by SUM or MAX.
#
# Output seen (CPU, gloo, Python 3.11); each rank has its number as value, one of them NaN
#   2 ranks, NaN on rank 0, 1; all ranks agree: True
#     MAX: nan, 1
#     MIN: nan, 1
#     SUM: nan, nan
#     DTensor amax: nan, a number
#     the same rows in one tensor, amax: nan, nan
#     DTensor norm of order inf: nan, a number
#   3 ranks, NaN on rank 0, 1, 2; all ranks agree: True
#     MAX: nan, 1, 2
#     MIN: nan, 1, 1
#     SUM: nan, nan, nan
#     DTensor amax: nan, a number, a number
#     the same rows in one tensor, amax: nan, nan, nan
#     DTensor norm of order inf: nan, a number, a number
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
cat > "$work/finding.py" <<'PY'
import math
import os
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor


def main(rank, ranks, port):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    found = {}
    for broken in range(ranks):
        for name, op in (("MAX", dist.ReduceOp.MAX), ("MIN", dist.ReduceOp.MIN), ("SUM", dist.ReduceOp.SUM)):
            value = torch.tensor([math.nan if rank == broken else float(rank + 1)])
            dist.all_reduce(value, op)
            found.setdefault(name, []).append("nan" if value.isnan() else f"{value.item():.0f}")
        rows = torch.arange(1.0, ranks + 1)
        rows[broken] = math.nan
        sharded = distribute_tensor(rows, init_device_mesh("cpu", (ranks,)), [Shard(0)])
        found.setdefault("DTensor amax", []).append("nan" if sharded.amax().full_tensor().isnan() else "a number")
        found.setdefault("the same rows in one tensor, amax", []).append("nan" if rows.amax().isnan() else "a number")
        norm = torch.linalg.vector_norm(sharded, math.inf).full_tensor()
        found.setdefault("DTensor norm of order inf", []).append("nan" if norm.isnan() else "a number")
    every = [None] * ranks
    dist.all_gather_object(every, found)
    if rank == 0:
        print(f"{ranks} ranks, NaN on rank {', '.join(map(str, range(ranks)))}; all ranks agree: {all(one == found for one in every)}")
        for name, words in found.items():
            print(f"  {name}: {', '.join(words)}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    for ranks in (2, 3):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        mp.spawn(main, (ranks, port), nprocs=ranks)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
2 ranks, NaN on rank 0, 1; all ranks agree: True
  MAX: nan, 1
  MIN: nan, 1
  SUM: nan, nan
  DTensor amax: nan, a number
  the same rows in one tensor, amax: nan, nan
  DTensor norm of order inf: nan, a number
3 ranks, NaN on rank 0, 1, 2; all ranks agree: True
  MAX: nan, 1, 2
  MIN: nan, 1, 1
  SUM: nan, nan, nan
  DTensor amax: nan, a number, a number
  the same rows in one tensor, amax: nan, nan, nan
  DTensor norm of order inf: nan, a number, a number
SEEN
