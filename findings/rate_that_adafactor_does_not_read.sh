#!/usr/bin/env bash
# pytorch_optimizer 4.1.0 and torch_optimizer 0.3.0 (torch 2.13.0), Adafactor(params, lr=...): with lr of 1e-6, 1e-3, 1 and 1000 it comes to the same weights, bit for bit.
#
# The optimizer that large models are trained with where memory is short takes a rate as all others do, and `lr` stands in its signature as an argument of its
# own. A rate given is the rate; a schedule lowers it; a group with a rate of 0 stays. transformers' class of the name refuses a rate beside relative_step=True.
#
# relative_step=True is the default in both packages, and then the step is 0.01 or 1 / sqrt(steps), whichever is less, times the size of the weights. The rate
# is not read, but is kept in the group: it is what a log shows, it follows the cosine down to 0, and the weights do not. Fine-tuning at 1e-6 goes as far
# as training at 1; a layer that is to be kept by a rate of 0 moves by more than 0.8 of its size; rates by layer are all one; a warm-up warms nothing. A
# search over rates, if seeds differ, finds a best one, out of noise. Nothing is said.
# Way out: relative_step=False, with which the rate is read (and is still times the size of the weights, by scale_parameter); requires_grad_(False) to keep a layer.
#
# Output seen (CPU, x86_64, Python 3.11), 200 steps of a small network
#   pytorch_optimizer, rates of 1e-6, 1e-3, 1 and 1000: the same weights bit for bit True, moved by over 3 True; lr shown 1e-06 0.001 1 1000
#   pytorch_optimizer, cosine to zero: the same weights as without True, lr shown 0e+00
#   pytorch_optimizer, relative_step=False, rates of 1e-4 and 1e-2: moved by 0.1 and 3.7
#   pytorch_optimizer, a layer in a group of rate 0: moved by over 0.8 of its size True
#   torch_optimizer, rates of 1e-6, 1e-3, 1 and 1000: the same weights bit for bit True, moved by over 3 True; lr shown 1e-06 0.001 1 1000
#   torch_optimizer, cosine to zero: the same weights as without True, lr shown 0e+00
#   torch_optimizer, relative_step=False, rates of 1e-4 and 1e-2: moved by 0.1 and 4.2
#   torch_optimizer, a layer in a group of rate 0: moved by over 0.8 of its size True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check pytorch-optimizer==4.1.0 torch-optimizer==0.3.0 2> /dev/null
cat > "$work/finding.py" <<'PY'
import pytorch_optimizer
import torch
import torch_optimizer
from torch import nn

torch.manual_seed(0)
x = torch.randn(256, 8)
y = x[:, :1] * 2 + x[:, 1:2] ** 2
MAKERS = {"pytorch_optimizer": pytorch_optimizer.AdaFactor, "torch_optimizer": torch_optimizer.Adafactor}


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))


def trained(make, rate, schedule=None, steps=200, **options):
    net = network()
    optimizer = make(net.parameters(), lr=rate, **options)
    scheduler = schedule(optimizer) if schedule else None
    for _ in range(steps):
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()
        if scheduler:
            scheduler.step()
    return torch.cat([p.detach().flatten() for p in net.parameters()]), optimizer.param_groups[0]["lr"]


start = torch.cat([p.detach().flatten() for p in network().parameters()])
for name, make in MAKERS.items():
    weights = {rate: trained(make, rate) for rate in (1e-6, 1e-3, 1.0, 1000.0)}
    alike = all(torch.equal(w, weights[1e-3][0]) for w, _ in weights.values())
    print(f"{name}, rates of 1e-6, 1e-3, 1 and 1000: the same weights bit for bit {alike}, moved by over 3 {float((weights[1e-6][0] - start).norm()) > 3}; "
          f"lr shown {' '.join(f'{lr:g}' for _, lr in weights.values())}")
    cosine = trained(make, 1e-3, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 200))
    print(f"{name}, cosine to zero: the same weights as without {torch.equal(cosine[0], weights[1e-3][0])}, lr shown {cosine[1]:.0e}")
    own = [trained(make, rate, relative_step=False) for rate in (1e-4, 1e-2)]
    print(f"{name}, relative_step=False, rates of 1e-4 and 1e-2: moved by {' and '.join(f'{float((w - start).norm()):.1f}' for w, _ in own)}")
    net = network()
    groups = [{"params": net[0].parameters(), "lr": 0.0}, {"params": net[2].parameters()}]
    optimizer = make(groups, lr=1e-3)
    before = net[0].weight.detach().clone()
    for _ in range(200):
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()
    print(f"{name}, a layer in a group of rate 0: moved by over 0.8 of its size {float((net[0].weight.detach() - before).norm() / before.norm()) > 0.8}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" "$work" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
pytorch_optimizer, rates of 1e-6, 1e-3, 1 and 1000: the same weights bit for bit True, moved by over 3 True; lr shown 1e-06 0.001 1 1000
pytorch_optimizer, cosine to zero: the same weights as without True, lr shown 0e+00
pytorch_optimizer, relative_step=False, rates of 1e-4 and 1e-2: moved by 0.1 and 3.7
pytorch_optimizer, a layer in a group of rate 0: moved by over 0.8 of its size True
torch_optimizer, rates of 1e-6, 1e-3, 1 and 1000: the same weights bit for bit True, moved by over 3 True; lr shown 1e-06 0.001 1 1000
torch_optimizer, cosine to zero: the same weights as without True, lr shown 0e+00
torch_optimizer, relative_step=False, rates of 1e-4 and 1e-2: moved by 0.1 and 4.2
torch_optimizer, a layer in a group of rate 0: moved by over 0.8 of its size True
SEEN
