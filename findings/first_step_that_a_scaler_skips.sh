#!/usr/bin/env bash
# torch 2.13.0, torch.optim.SGD(momentum=0.9, fused=True) with torch.amp.GradScaler, float16: the step that was skipped has made a momentum.
#
# A scaler begins at 65536 and finds its level by overflowing: of a float16 run the first step, or the first seven, are skipped as a rule. Skipped
# means: weights, moments and counters are as if the step had not been asked for. The fused optimizers are told so by a tensor
# (`found_inf`), and fused AdamW does it: its moments are zeros after the skip.
#
# Fused SGD gets memory for its momenta at the first step, unfilled, since a first step fills it with the gradient. A skipped first step
# fills nothing. From step 2 on there *is* a momentum, so nothing is first any more, and 0.9 times whatever the memory held before, old gradients or
# activations, goes into the weights. It can be small, or vast, or NaN; two runs of one seed differ. With a NaN
# in it the loss is NaN from then on, which the scaler takes for overflow: it skips and halves for ever, and no error comes.
# To make it visible at each run, torch is asked here to fill such memory with NaN (use_deterministic_algorithms does that), as its documentation
# recommends for finding reads of it. No other form reads any.
# Ways out: zeros put into state[p]["momentum_buffer"] beforehand; a small init_scale, so that step 1 is not skipped; foreach=True.
#
# Output seen (CPU, x86_64, Python 3.11), least squares under autocast to float16, 60 steps:
#   plain: skipped 7, momentum after step 1 none, loss below 50
#   foreach: skipped 7, momentum after step 1 none, loss below 50, weights of plain: True
#   fused: skipped 60 but for one, momentum after step 1 never written, loss nan
#   fused, scale from 1: skipped 0, momentum after step 1 a gradient, loss below 50
#   fused, momenta of zeros beforehand: skipped 7, momentum after step 1 zeros, loss below 50, weights of plain: True
#   fused, no momentum: skipped 7, momentum after step 1 none, loss below 500, weights of plain: True
#   fused AdamW: skipped 7, its moments after step 1 zeros
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
cat > "$work/skipped.py" <<'PY'
import math

import torch
from torch import nn
from torch.optim import SGD, AdamW

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
assert torch.utils.deterministic.fill_uninitialized_memory
draw = torch.Generator().manual_seed(0)
x = torch.randn(256, 8, generator=draw)
y = 40 * x.sum(1, keepdim=True)


def look(state):
    """What an optimizer keeps for one weight, in words."""
    if not state:
        return "none"
    kept = torch.cat([value.detach().flatten() for value in state.values()])
    return "never written" if kept.isnan().all() else "zeros" if not kept.any() else "a gradient"


def run(make, scale=65536.0, zeros=False):
    """Steps that were skipped, the state of the weight after step 1, the last loss, the weights."""
    torch.manual_seed(0)
    model = nn.Linear(8, 1)
    optimizer, scaler = make(model.parameters()), torch.amp.GradScaler("cpu", init_scale=scale)
    if zeros:
        for p in model.parameters():
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    skipped, seen = 0, None
    for _ in range(60):
        with torch.autocast("cpu", torch.float16):
            loss = (model(x) - y).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        before = scaler.get_scale()
        scaler.update()
        skipped += scaler.get_scale() < before
        optimizer.zero_grad()
        seen = seen or look(optimizer.state.get(model.weight))
    return skipped, seen, float(loss), model.weight.detach()


def below(loss):
    return "nan" if math.isnan(loss) else "below 50" if loss < 50 else "below 500" if loss < 500 else f"{loss:.1f}"


def options(**more):
    return lambda weights: SGD(weights, 0.02, **more)


plain = run(options(momentum=0.9, foreach=False))
bare = run(options(foreach=False))
tries = [
    ("foreach", run(options(momentum=0.9, foreach=True)), plain),
    ("fused", run(options(momentum=0.9, fused=True)), None),
    ("fused, scale from 1", run(options(momentum=0.9, fused=True), scale=1.0), None),
    ("fused, momenta of zeros beforehand", run(options(momentum=0.9, fused=True), zeros=True), plain),
    ("fused, no momentum", run(options(fused=True)), bare),
]
print(f"plain: skipped {plain[0]}, momentum after step 1 {plain[1]}, loss {below(plain[2])}")
for name, (skipped, seen, loss, weights), other in tries:
    count = "60 but for one" if skipped == 59 else skipped
    same = "" if other is None else f", weights of plain: {torch.allclose(weights, other[3], rtol=1e-3)}"
    print(f"{name}: skipped {count}, momentum after step 1 {seen}, loss {below(loss)}{same}")
skipped, seen, _, _ = run(lambda weights: AdamW(weights, 0.02, fused=True))
print(f"fused AdamW: skipped {skipped}, its moments after step 1 {seen}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/skipped.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
plain: skipped 7, momentum after step 1 none, loss below 50
foreach: skipped 7, momentum after step 1 none, loss below 50, weights of plain: True
fused: skipped 60 but for one, momentum after step 1 never written, loss nan
fused, scale from 1: skipped 0, momentum after step 1 a gradient, loss below 50
fused, momenta of zeros beforehand: skipped 7, momentum after step 1 zeros, loss below 50, weights of plain: True
fused, no momentum: skipped 7, momentum after step 1 none, loss below 500, weights of plain: True
fused AdamW: skipped 7, its moments after step 1 zeros
SEEN
