#!/usr/bin/env bash
# timm 1.0.31 (torch 2.13.0), create_optimizer_v2(model, opt="adamw", lr=1e-3, layer_decay=0.65): all layers are trained at 1e-3, but by timm's own schedules.
#
# Layer-wise decay of the rate is half the recipe for fine-tuning a vision transformer: the head at the full rate, each block below at 0.65 of the one
# above, so that in 12 blocks the first is at a two-hundredth. The call makes a group for each layer, which print(optimizer) shows; one expects each
# with its own `lr`, as torch has groups, and any of torch's schedules, which are relative to each group's rate, to go on from there.
#
# Each group has lr=1e-3. The factor stands beside it as `lr_scale`, a key that no optimizer reads, of torch or of timm. It is multiplied in by timm's
# own schedulers, when they set a rate. With CosineAnnealingLR, OneCycleLR, LambdaLR, or no schedule, pretrained blocks move two hundred times as far as
# was asked: with Adam, a step has the length of its rate. Loss and rate look as ever (the rate that one logs is group 0's); the fine-tuned model is
# just worse, as if the recipe did not help. Way out: timm's scheduler, or group["lr"] *= group["lr_scale"] once, before a torch schedule is made.
#
# Output seen (CPU, x86_64, Python 3.11), rates of the lowest and of the highest layer, and how far a weight of each moves in the first step:
#   layers 13, lr_scale from 5.7e-03 to 1.0
#   no schedule: epoch 0 1.0e-03 1.0e-03; epoch 1 1.0e-03 1.0e-03; first step 1.0e-03 1.0e-03
#   torch's cosine: epoch 0 1.0e-03 1.0e-03; epoch 1 9.8e-04 9.8e-04; first step 1.0e-03 1.0e-03
#   timm's cosine: epoch 0 5.7e-06 1.0e-03; epoch 1 5.5e-06 9.8e-04; first step 5.7e-06 1.0e-03
#   torch's cosine, rates multiplied before: epoch 0 5.7e-06 1.0e-03; epoch 1 5.5e-06 9.8e-04; first step 5.7e-06 1.0e-03
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip="$work/venv/bin/pip install --quiet --no-compile --disable-pip-version-check"
$pip torch==2.13.0 numpy==2.4.6 2> /dev/null
$pip --no-deps timm==1.0.31 2> /dev/null # its optimizers and schedulers alone, which need nothing more
cat > "$work/layers.py" <<'PY'
import sys
import types
from pathlib import Path

import torch
from torch import nn

# timm/__init__ loads its models, and torchvision with them; of timm, take the optimizers and the schedulers
timm = types.ModuleType("timm")
timm.__path__ = [str(Path(next(p for p in sys.path if (Path(p) / "timm").is_dir())) / "timm")]
models = types.ModuleType("timm.models")
models.group_parameters = None  # asked for models that bring a table of their layers; this one is grouped by its names
sys.modules.update({"timm": timm, "timm.models": models})
from timm.optim import create_optimizer_v2  # noqa: E402
from timm.scheduler import CosineLRScheduler  # noqa: E402

BLOCKS, EPOCHS = 12, 10


class Net(nn.Module):
    pretrained_cfg = {"classifier": "head"}  # by which timm tells the head from the layers; those are of 12 weights each

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(12 * BLOCKS))
        self.head = nn.Linear(8, 2, bias=False)

    def forward(self, x):
        for block in self.blocks:
            x = x + 0.1 * block(x)
        return self.head(x)


def started(schedule, scaled=False):
    """Rates of lowest and highest layer in epochs 0 and 1, and the longest first step of a weight in each."""
    torch.manual_seed(0)
    net = Net()
    optimizer = create_optimizer_v2(net, opt="adamw", lr=1e-3, layer_decay=0.65, weight_decay=0.0)
    if scaled:
        for group in optimizer.param_groups:
            group["lr"] *= group["lr_scale"]
    scheduler = schedule(optimizer)
    lowest, highest = net.blocks[0].weight, net.head.weight
    before, rates, moved = [lowest.detach().clone(), highest.detach().clone()], [], None
    for epoch in range(2):
        rates.append([next(g["lr"] for g in optimizer.param_groups if any(p is w for p in g["params"])) for w in (lowest, highest)])
        optimizer.zero_grad()
        net(torch.randn(16, 8)).square().sum().backward()
        optimizer.step()
        moved = moved or [float((w.detach() - b).abs().max()) for w, b in zip((lowest, highest), before)]
        if scheduler is not None:
            scheduler.step(epoch + 1) if isinstance(scheduler, CosineLRScheduler) else scheduler.step()
    return optimizer, rates, moved


def told(name, schedule, **options):
    _, rates, moved = started(schedule, **options)
    shown = "; ".join(f"epoch {k} {low:.1e} {high:.1e}" for k, (low, high) in enumerate(rates))
    print(f"{name}: {shown}; first step {moved[0]:.1e} {moved[1]:.1e}")


def cosine(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)


scales = sorted({group["lr_scale"] for group in started(lambda _: None)[0].param_groups})
print(f"layers {len(scales)}, lr_scale from {scales[0]:.1e} to {scales[-1]}")
told("no schedule", lambda _: None)
told("torch's cosine", cosine)
told("timm's cosine", lambda optimizer: CosineLRScheduler(optimizer, EPOCHS))
told("torch's cosine, rates multiplied before", cosine, scaled=True)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" "$work/layers.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
layers 13, lr_scale from 5.7e-03 to 1.0
no schedule: epoch 0 1.0e-03 1.0e-03; epoch 1 1.0e-03 1.0e-03; first step 1.0e-03 1.0e-03
torch's cosine: epoch 0 1.0e-03 1.0e-03; epoch 1 9.8e-04 9.8e-04; first step 1.0e-03 1.0e-03
timm's cosine: epoch 0 5.7e-06 1.0e-03; epoch 1 5.5e-06 9.8e-04; first step 5.7e-06 1.0e-03
torch's cosine, rates multiplied before: epoch 0 5.7e-06 1.0e-03; epoch 1 5.5e-06 9.8e-04; first step 5.7e-06 1.0e-03
SEEN
