#!/usr/bin/env bash
# torch 2.13.0, BatchNorm under FSDP2 (`fully_shard`): two ways of saving one model give two models, and one of them is put together from several ranks.
#
# Moving from DistributedDataParallel to fully_shard is said to change where weights lie, not what is computed. DDP copies rank 0's buffers to
# all ranks before each forward pass, so running means and variances are the same everywhere but for one batch, and it hardly matters who saves.
#
# fully_shard shards parameters and leaves buffers alone. From step 1 on each rank keeps the statistics of its own rows: the same row gets another
# prediction on each rank, and validation over ranks is a mean over several models. Then they are saved:
# - `get_model_state_dict(..., full_state_dict=True)` has rank 0's statistics;
# - `torch.distributed.checkpoint.save` takes a tensor that all ranks hold for a copy of one thing, and shares the writing out by load: of
#   one BatchNorm the mean is written by one rank, the variance by the next (and, rank 0 being counted first, few by rank 0). After `load`
#   every rank holds that mixture, which no rank has ever had, and a run that was resumed goes on with other statistics than the one that was not.
# Where ranks see rows of one distribution the differences are noise; where shards are by site, by day or by class they are not. No warning anywhere.
# Averaging the buffers over the ranks before saving (and before validation), or SyncBatchNorm, mends it.
#
# Output seen (CPU, gloo, 3 ranks, Python 3.11); the rows of rank 0, 1, 2 have means of 0, 10, 20 and variances of 1, 9, 25:
#   DDP: mean 0.0 variance 1.0 | mean 1.0 variance 1.8 | mean 2.0 variance 3.4
#   fully_shard: mean 0.0 variance 1.0 | mean 10.0 variance 9.0 | mean 20.0 variance 25.0
#   full state dict: mean of rank 0 with variance of rank 0 in 3 of 3 layers
#   sharded checkpoint, loaded: the same on all ranks; mean and variance of one rank in 0 of 3 layers, some from rank 1, some from rank 2
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
cat > "$work/ranks.py" <<'PY'
import sys

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel


class Branches(nn.Module):
    """Three BatchNorms that read the same four columns, and a layer over all of them."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(4) for _ in range(3))
        self.head = nn.Linear(12, 1)

    def forward(self, x):
        return self.head(torch.cat([norm(x) for norm in self.norms], dim=1))


def trained(model, rank):
    """Two hundred steps; rows are of mean 10 * rank and standard deviation 1 + 2 * rank."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    signs = torch.tensor([1.0, -1.0]).repeat(500)[:, None].expand(-1, 4)
    for _ in range(200):
        model(10.0 * rank + (1 + 2 * rank) * signs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def everywhere(word):
    """What each rank has to say, in the order of the ranks."""
    words = [None] * dist.get_world_size()
    dist.all_gather_object(words, word)
    return words


def seen(norm):
    mean, variance = float(norm.running_mean[0]), float(norm.running_var[0])
    return " | ".join(everywhere(f"mean {abs(mean):.1f} variance {variance:.1f}"))


def origin(state):
    """By branch: the rank of the mean, the rank of the variance."""
    means = [round(float(state[f"norms.{i}.running_mean"][0]) / 10) for i in range(3)]
    variances = [round((float(state[f"norms.{i}.running_var"][0]) ** 0.5 - 1) / 2) for i in range(3)]
    return list(zip(means, variances))


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=3)
    copied = Branches()
    trained(DistributedDataParallel(copied), rank)
    lines = ["DDP: " + seen(copied.norms[0])]
    mesh = init_device_mesh("cpu", (3,))
    model = fully_shard(Branches(), mesh=mesh)
    trained(model, rank)
    lines.append("fully_shard: " + seen(model.norms[0]))
    full = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        lines.append(f"full state dict: mean of rank 0 with variance of rank 0 in {origin(full).count((0, 0))} of 3 layers")
    dcp.save(get_model_state_dict(model), checkpoint_id=f"{folder}/checkpoint")
    other = fully_shard(Branches(), mesh=mesh)
    state = get_model_state_dict(other)
    dcp.load(state, checkpoint_id=f"{folder}/checkpoint")
    set_model_state_dict(other, state)
    loaded = everywhere(origin(other.state_dict()))
    where = "the same on all ranks" if loaded[0] == loaded[1] == loaded[2] else str(loaded)
    whole = sum(mean == variance for mean, variance in loaded[0])
    ranks = ", ".join(f"some from rank {rank}" for rank in sorted({rank for pair in loaded[0] for rank in pair}))
    lines.append(f"sharded checkpoint, loaded: {where}; mean and variance of one rank in {whole} of 3 layers, {ranks}")
    if rank == 0:
        print("\n".join(lines), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(work, args=(sys.argv[1],), nprocs=3)
PY
"$work/venv/bin/python" -W ignore "$work/ranks.py" "$work" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
DDP: mean 0.0 variance 1.0 | mean 1.0 variance 1.8 | mean 2.0 variance 3.4
fully_shard: mean 0.0 variance 1.0 | mean 10.0 variance 9.0 | mean 20.0 variance 25.0
full state dict: mean of rank 0 with variance of rank 0 in 3 of 3 layers
sharded checkpoint, loaded: the same on all ranks; mean and variance of one rank in 0 of 3 layers, some from rank 1, some from rank 2
SEEN
