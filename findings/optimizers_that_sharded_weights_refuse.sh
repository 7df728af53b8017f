#!/usr/bin/env bash
# torch 2.13.0: which of its own optimizers can step on weights that FSDP2 (`fully_shard`) has shared out.
#
# A good guess: what takes a step on plain tensors takes it on DTensors, as AdamW does (fused or not), to the same numbers; what cannot is
# refused when the optimizer is built.
# What happens, two ranks, gloo, float64, two layers of 6 x 8 and 8 x 5, five steps, against the same steps on one rank:
# - SGD with momentum, AdamW, fused AdamW, Adamax, NAdam, RAdam, RMSprop, ASGD and Adadelta agree to rounding; Muon within what its
#   bfloat16 iteration leaves;
# - fused SGD and fused Adagrad are built without a word and stop in their first step: the kernels have no sharding strategy, though
#   that of fused AdamW has one;
# - Adafactor stops in its first step: its row norm is left as a partial norm, which is then changed in place;
# - Rprop stops in its first step, at an assignment by a mask;
# - LBFGS stops where it lays all gradients end to end, where a weight's rows cannot be shared out evenly (5 over 2 ranks).
# All of them by then hold gradients, and the step is half taken for the weights before the one that stopped.
#
# Output seen (CPU, x86_64, Python 3.11):
#   SGD same | SGD fused NotImplementedError | AdamW same | AdamW fused same | Adagrad fused NotImplementedError | Adafactor RuntimeError
#   Adamax same | NAdam same | RAdam same | Rprop RuntimeError | RMSprop same | ASGD same | Adadelta same | LBFGS RuntimeError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$work/sharded.py" <<'PY'
import os
import socket
import warnings

import torch
import torch.distributed as dist
from torch import optim
from torch.distributed.fsdp import fully_shard

OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, lr=0.05, momentum=0.9),
    "SGD fused": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, fused=True),
    "AdamW": lambda p: optim.AdamW(p, lr=0.01),
    "AdamW fused": lambda p: optim.AdamW(p, lr=0.01, fused=True),
    "Adagrad fused": lambda p: optim.Adagrad(p, lr=0.01, fused=True),
    "Adafactor": lambda p: optim.Adafactor(p, lr=0.05),
    "Adamax": lambda p: optim.Adamax(p, lr=0.01),
    "NAdam": lambda p: optim.NAdam(p, lr=0.01),
    "RAdam": lambda p: optim.RAdam(p, lr=0.01),
    "Rprop": lambda p: optim.Rprop(p, lr=0.01),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.01),
    "ASGD": lambda p: optim.ASGD(p, lr=0.01),
    "Adadelta": lambda p: optim.Adadelta(p),
    "LBFGS": lambda p: optim.LBFGS(p, lr=0.5),
}
SEEN = {
    "SGD fused": "NotImplementedError",
    "Adagrad fused": "NotImplementedError",
    "Adafactor": "RuntimeError",
    "Rprop": "RuntimeError",
    "LBFGS": "RuntimeError",
}


def network():
    torch.manual_seed(0)
    layers = torch.nn.Linear(6, 8, bias=False), torch.nn.Tanh(), torch.nn.Linear(8, 5, bias=False)
    return torch.nn.Sequential(*layers).double()


def trained(model, make):
    torch.manual_seed(1)
    x, y = torch.randn(32, 6).double(), torch.randn(32, 5).double()
    optimizer = make(model.parameters())

    def closure():
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    return [p.full_tensor() if hasattr(p, "full_tensor") else p.detach() for p in model.parameters()]


def outcome(make, mesh):
    alone, model = trained(network(), make), network()
    fully_shard(model[0], mesh=mesh)
    fully_shard(model[2], mesh=mesh)
    fully_shard(model, mesh=mesh)
    try:
        together = trained(model, make)
    except (NotImplementedError, RuntimeError) as error:
        return type(error).__name__
    return "same" if all(torch.allclose(a, b, rtol=1e-9) for a, b in zip(alone, together, strict=True)) else "differs"


def rank(which, port):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=which, world_size=2)
    mesh = dist.init_device_mesh("cpu", (2,))
    seen = {name: outcome(make, mesh) for name, make in OPTIMIZERS.items()}
    if which == 0:
        print("\n".join(f"{name}: {what}" for name, what in seen.items()), flush=True)
    dist.destroy_process_group()
    assert seen == {name: SEEN.get(name, "same") for name in OPTIMIZERS}, seen


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print("torch", torch.__version__)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(rank, (port,), nprocs=2)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" "$work/sharded.py" 2>&1 | grep -v -i warn
