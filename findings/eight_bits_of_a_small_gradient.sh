#!/usr/bin/env bash
# torchao 0.18.0, AdamW8bit and AdamW4bit (torch 2.13.0): how far a weight goes depends on the gradients of the 255 (or 127) stored beside it.
#
# Adam's step does not depend on the size of a gradient: of a gradient that is the same at each step every weight goes the rate's length, be it
# 1 or 0.00001. States in 8 bits should do so up to some per cent, those in 4 bits somewhat worse: the states have a scale for each
# block of weights, and steps between the levels are fine near zero.
#
# Measured, of a gradient of 1 in one place of a block and smaller ones in others, at step 1,000:
#   gradient           1       0.1     0.01    0.001   0.0001
#   AdamW (float32)    1.00    1.00    1.00    1.00    1.00
#   AdamW8bit          1.00    0.99    1.00    1.08    22.54
#   AdamW4bit          1.00    0.32    0.02    0.00    0.00
# In 8 bits, what is below a millionth or so of its block's largest second moment, which is a thousandth of the gradient, is stored
# as 0. Each step then divides by the square root of this step's gradient alone, (1 - beta2) of it, uncorrected: 1 / sqrt(0.001), or up
# to 32 times too far, and farther the longer the run is. In 4 bits the smallest level of the second moment is not zero but a sixteenth
# of the largest, so that small gradients are divided by a large one's root: the weight hardly moves at all.
# Blocks are cut from the flat tensor: an embedding of a rare word beside a frequent one, a bias beside its layer's loudest unit,
# the quiet rows of a head. Neither is told; the loss falls, by the loud weights. Tensors of fewer than 4,096 values are kept exact.
#
# Output seen (CPU, x86_64, Python 3.11; the update's own formula, not compiled), step over rate at step 1,000:
#   AdamW: all within 1%
#   AdamW8bit: 0.001 within 20%, 0.0001 over 15 times too far
#   AdamW4bit: 0.1 under half, 0.01 under a twentieth, 0.0001 under a thousandth
#   AdamW8bit of 4,095 values: all within 1%
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 torchao==0.18.0 2> /dev/null
cat > "$work/blocks.py" <<'PY'
import torch
from torchao.optim import AdamW4bit, AdamW8bit

SMALL = {0: 1.0, 1: 1e-2, 2: 1e-3, 3: 1e-4, 5: 1e-1}  # place in each block of 128: its gradient


def stride(make, values=4096, steps=1000):
    """The last step over the rate, by gradient."""
    weights = torch.nn.Parameter(torch.zeros(values))
    gradient = torch.full((values,), 0.1)
    for place, size in SMALL.items():
        gradient[place::128] = size
    optimizer = make([weights], lr=1e-3, weight_decay=0.0)
    for _ in range(steps):
        before, weights.grad = weights.detach().clone(), gradient.clone()
        optimizer.step()
    length = (before - weights.detach()) / 1e-3
    return {size: float(length[place]) for place, size in SMALL.items()}


def exact(found):
    return "all within 1%" if all(abs(length - 1) < 0.01 for length in found.values()) else found


print("AdamW:", exact(stride(torch.optim.AdamW)))
found = stride(AdamW8bit)
print("AdamW8bit:", "0.001 within 20%," if abs(found[1e-3] - 1) < 0.2 else found, "0.0001 over 15 times too far" if found[1e-4] > 15 else found)
found = stride(AdamW4bit)
small = found[1e-1] < 0.5, found[1e-2] < 0.05, found[1e-4] < 0.001
print("AdamW4bit:", "0.1 under half, 0.01 under a twentieth, 0.0001 under a thousandth" if all(small) else found)
print("AdamW8bit of 4,095 values:", exact(stride(AdamW8bit, values=4095)))
PY
TORCHDYNAMO_DISABLE=1 OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/blocks.py" 2> "$work/log" | tee "$work/seen" || { cat "$work/log"; exit 1; }
diff "$work/seen" - <<'SEEN'
AdamW: all within 1%
AdamW8bit: 0.001 within 20%, 0.0001 over 15 times too far
AdamW4bit: 0.1 under half, 0.01 under a twentieth, 0.0001 under a thousandth
AdamW8bit of 4,095 values: all within 1%
SEEN
