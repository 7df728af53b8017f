#!/usr/bin/env bash
# torch 2.13.0, torch.optim.Muon: the gradient of one row is stepped along directions that it does not have.
#
# A good guess: Muon's update is the gradient with its singular values brought near one, in the gradient's own directions. A
# linear layer's gradient over one row (or over rows that are alike) has rank one, so the update has rank one. And weights in float64
# get an update in float64.
# What happens: the iteration runs in bfloat16 whatever the weights' dtype, on the CPU as well. Its rounding errors lie in all
# directions, about 2^-9 of the gradient, and what the iteration is for is to raise small singular values (3.4445 times in each of five
# rounds, 485 times in all): so the errors come out as large as the gradient's part. Of the update of a rank-one gradient, 256 x 256,
# well over a third of the squared norm lies outside the gradient's direction. The same iteration in float64 has none there. Of a gradient of full
# rank the update is off by about a hundredth, in float64, too: two ranks whose sums differ in the last bit do not stay
# together to more than that.
#
# Output seen (CPU, x86_64, Python 3.11):
#   rank 1 float32: over a third outside; the same iteration in float64: none
#   rank 1 float64: over a third outside; the same iteration in float64: none
#   full rank float64: off by 0.002 to 0.05
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$work/low.py" <<'PY'
import torch


def update(gradient):
    """What one step of Muon at rate 1, without momentum, takes from weights of zeros."""
    weights = torch.nn.Parameter(torch.zeros_like(gradient))
    optimizer = torch.optim.Muon([weights], lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False)
    weights.grad = gradient.clone()
    optimizer.step()
    return -weights.detach().double()


def in_float64(gradient):
    """The documented iteration, by its documented coefficients, in float64; of a square matrix."""
    x = gradient.double() / gradient.double().norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def outside(u, left, right):
    """The share of the squared norm that does not lie along left x right."""
    along = (left @ u @ right) * torch.outer(left, right)
    return float((u - along).norm() ** 2 / u.norm() ** 2)


torch.manual_seed(0)
left, right = (v / v.norm() for v in torch.randn(2, 256, dtype=torch.float64))
for dtype in (torch.float32, torch.float64):
    gradient = torch.outer(left, right).to(dtype)
    found, exact = outside(update(gradient), left, right), outside(in_float64(torch.outer(left, right)), left, right)
    words = "over a third outside" if found > 1 / 3 else f"{found:.3g} outside"
    print(f"rank 1 {str(dtype)[6:]}: {words}; the same iteration in float64: {'none' if exact < 1e-20 else exact}")
gradient = torch.randn(256, 256, dtype=torch.float64)
off = float((update(gradient) - in_float64(gradient)).norm() / in_float64(gradient).norm())
print("full rank float64: off by", "0.002 to 0.05" if 0.002 < off < 0.05 else off)
PY
"$work/venv/bin/python" -W ignore "$work/low.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
rank 1 float32: over a third outside; the same iteration in float64: none
rank 1 float64: over a third outside; the same iteration in float64: none
full rank float64: off by 0.002 to 0.05
SEEN
