#!/usr/bin/env bash
# torch 2.13.0, torch.autocast around a training loop, not within it: every step trains the weights as they were at the first one.
#
#     with torch.autocast("cpu", torch.bfloat16):        # once, for all of training; or in a decorator of the function that trains
#         for x, y in batches: ...                       # forward, backward, step
#
# Autocast casts a float32 weight to bfloat16 where a layer asks for it. That this is done at each use one takes for granted, as the weights change at
# each step; the documentation says that forward and loss belong inside and that the rest need not be, which reads like advice about
# speed and rounding.
#
# The cast of a weight is kept until the outermost autocast ends, and found again by the weight that it was made of. A step that changes
# the weight in place, as all optimizers do, does not make it old. So within one block the forward pass sees the first weights for ever: the loss stands still
# from step to step, to the bit for the same batch. The gradient is that at the first weights, too, and is applied each time: a straight walk, with plain SGD to
# 50 times the length of the first step, and the float32 weights, which are saved and evaluated outside, are worse than at the start. The same for weights
# loaded, averaged (EMA swapped in for an evaluation) or copied within the block: the forward pass has the old ones. Weights of layers that
# autocast leaves in float32 (norms) are not concerned, so that a deeper network still moves a little, and its loss. No warning.
# Way out: the block around forward and loss alone; or cache_enabled=False. Weights that are bfloat16 themselves are not cast and so not concerned.
#
# Output seen (CPU, x86_64, Python 3.11), 50 steps of least squares at one batch; loss in the loop, and in float32 after it, over the first
#   autocast within the loop: last step under 0.01, different losses many; in float32 afterwards under 0.01
#   autocast around the loop: last step 1.00, different losses 1; in float32 afterwards over 10
#   around the loop, cache_enabled=False: last step under 0.01, different losses many; in float32 afterwards under 0.01
#   around the loop, and a second one within: last step 1.00, different losses 1; in float32 afterwards over 10
#   weights loaded after a first pass: output of the loaded weights within the same block False, in the next block True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
cat > "$work/finding.py" <<'PY'
import contextlib

import torch
import torch.nn.functional as F


def train(outer, inner):
    """The loss of each step, and of the weights in float32 at the end."""
    torch.manual_seed(0)
    model, x = torch.nn.Linear(8, 1, bias=False), torch.randn(256, 8)
    y = x @ torch.randn(8, 1)
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.1), []
    with outer():
        for _ in range(50):
            optimizer.zero_grad()
            with inner():
                loss = F.mse_loss(model(x).float(), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses, F.mse_loss(model(x), y).item()


def bfloat16(**options):
    return lambda: torch.autocast("cpu", torch.bfloat16, **options)


def word(ratio):
    return "under 0.01" if ratio < 0.01 else "over 10" if ratio > 10 else f"{ratio:.2f}"


for name, outer, inner in (("autocast within the loop", contextlib.nullcontext, bfloat16()),
                           ("autocast around the loop", bfloat16(), contextlib.nullcontext),
                           ("around the loop, cache_enabled=False", bfloat16(cache_enabled=False), contextlib.nullcontext),
                           ("around the loop, and a second one within", bfloat16(), bfloat16())):
    losses, after = train(outer, inner)
    print(f"{name}: last step {word(losses[-1] / losses[0])}, different losses {'1' if len(set(losses)) == 1 else 'many'};",
          f"in float32 afterwards {word(after / losses[0])}")

model, better, x = torch.nn.Linear(4, 1), torch.nn.Linear(4, 1), torch.randn(16, 4)
target = better(x)
with torch.autocast("cpu", torch.bfloat16):
    model(x)
    model.load_state_dict(better.state_dict())
    within = model(x).float()
with torch.autocast("cpu", torch.bfloat16):
    anew = model(x).float()
print("weights loaded after a first pass: output of the loaded weights within the same block", torch.allclose(within, target, atol=0.05), end=", ")
print("in the next block", torch.allclose(anew, target, atol=0.05))
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
autocast within the loop: last step under 0.01, different losses many; in float32 afterwards under 0.01
autocast around the loop: last step 1.00, different losses 1; in float32 afterwards over 10
around the loop, cache_enabled=False: last step under 0.01, different losses many; in float32 afterwards under 0.01
around the loop, and a second one within: last step 1.00, different losses 1; in float32 afterwards over 10
weights loaded after a first pass: output of the loaded weights within the same block False, in the next block True
SEEN
