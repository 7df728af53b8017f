#!/usr/bin/env bash
# opacus 1.6.0 (torch 2.13.0): a convolution with padding_mode="circular", "reflect" or "replicate" is trained on another gradient than its own.
#
# Differentially private training needs the gradient of each row by itself. Opacus computes it beside the ordinary backward pass, by hooks that
# know the layer types. With the noise at 0 and the clipping bound out of reach this is plain SGD, and one expects the plain gradient, and
# an error for a layer that there is no rule for (BatchNorm is refused so).
#
# The rule of convolutions pads with zeros whatever the layer pads with. The forward pass wraps around or reflects; the gradient of the weight is
# that of zeros at the edge. The shapes agree, nothing is said. On 8 by 8 places a fifth to a third of the gradient's length is wrong, less on
# larger pictures, where the edge is a smaller part. The bias, and what goes down to earlier layers, are right. Where the edge
# matters, training ends elsewhere (last lines). Rings, panoramas, maps of the globe and periodic signals are what such padding is for.
# force_functorch=True (GradSampleModule) or grad_sample_mode="functorch" (make_private), gradients by vmap, are right for all of them.
#   zeros: weight right, bias right; force_functorch: weight right
#   circular: weight off by 0.2 to 0.35, bias right; force_functorch: weight right
#   reflect: weight off by 0.2 to 0.35, bias right; force_functorch: weight right
#   replicate: weight off by 0.2 to 0.35, bias right; force_functorch: weight right
#   rings, 500 steps of plain SGD: loss 0.099
#   opacus, no noise, no clipping: loss 0.179
#   opacus, the same, grad_sample_mode='functorch': loss 0.099
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 opacus==1.6.0 2> /dev/null
cat > "$work/finding.py" <<'PY'
import copy

import torch
from opacus import PrivacyEngine
from opacus.grad_sample import GradSampleModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)


def off(layer, x, **options):
    """How far the per-row gradients are from those of one backward pass a row: the weight's, the bias's."""
    own = []
    for row in x.split(1):
        layer.zero_grad()
        layer(row).square().sum().backward()
        own.append([p.grad.clone() for p in layer.parameters()])
    layer.zero_grad()
    wrapped = GradSampleModule(copy.deepcopy(layer), loss_reduction="sum", **options)
    wrapped(x).square().sum().backward()
    right = [torch.stack(rows) for rows in zip(*own, strict=True)]
    return [float((p.grad_sample - r).norm() / r.norm()) for p, r in zip(wrapped.parameters(), right, strict=True)]


def words(error):
    return "right" if error < 1e-4 else "off by 0.2 to 0.35" if 0.2 < error < 0.35 else f"off by {error:.2f}"


for mode in ("zeros", "circular", "reflect", "replicate"):
    torch.manual_seed(0)
    layer, x = nn.Conv2d(3, 8, 3, padding=1, padding_mode=mode), torch.randn(16, 3, 8, 8)
    weight, bias = off(layer, x)
    print(f"{mode}: weight {words(weight)}, bias {words(bias)}; force_functorch: weight {words(max(off(layer, x, force_functorch=True)))}")

torch.manual_seed(0)
x = torch.randn(256, 1, 6) * torch.tensor([1.0, 0.3, 0.3, 0.3, 0.3, 1.0])  # rings of six places, louder where the ring is cut open
y = x.roll(1, dims=2) * torch.tensor([2.0, 1.0, 1.0, 1.0, 1.0, 1.0])  # each place is its left neighbour, the first one twice that


def loss_after(private, **options):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(x, y), batch_size=256)
    if private:
        model, optimizer, loader = PrivacyEngine().make_private(
            module=model, optimizer=optimizer, data_loader=loader, noise_multiplier=0.0, max_grad_norm=1e9, poisson_sampling=False, **options
        )
    for _ in range(500):
        for a, b in loader:
            optimizer.zero_grad()
            loss = (model(a) - b).square().mean()
            loss.backward()
            optimizer.step()
    return float(loss)


plain = loss_after(False)
print(f"rings, 500 steps of plain SGD: loss {plain:.3f}")
for name, options in {"no noise, no clipping": {}, "the same, grad_sample_mode='functorch'": {"grad_sample_mode": "functorch"}}.items():
    print(f"opacus, {name}: loss {loss_after(True, **options):.3f}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
zeros: weight right, bias right; force_functorch: weight right
circular: weight off by 0.2 to 0.35, bias right; force_functorch: weight right
reflect: weight off by 0.2 to 0.35, bias right; force_functorch: weight right
replicate: weight off by 0.2 to 0.35, bias right; force_functorch: weight right
rings, 500 steps of plain SGD: loss 0.099
opacus, no noise, no clipping: loss 0.179
opacus, the same, grad_sample_mode='functorch': loss 0.099
SEEN
