#!/usr/bin/env bash
# torch 2.13.0, torch.optim.SGD(momentum=..., fused=True): a parameter whose first gradient comes after another one's ends
# the run.
#
# A good guess: `fused=True` is another form of the same step, so what trains with the default form trains with it. A layer that
# is thawed at epoch 2, an expert that no row was sent to in the first batch, a branch that is dropped at random: all get
# their first gradient late, and every form makes a momentum for them then.
# What happens: the fused form makes momenta only when *no* parameter has one. With some made and some not, `None` reaches the
# kernel: TypeError at the step where the late parameter appears. The plain and the foreach form go on, with
# the same weights; without momentum the fused form goes on, too; fused AdamW, which looks at each parameter, goes on.
# The failed step has changed no weight. Zeros put into `state[p]["momentum_buffer"]` beforehand let the fused form go on (with
# dampening 0 the same as the first step of the plain form).
#
# Output seen (CPU, x86_64, Python 3.11):
#   plain: 6 steps; foreach: 6 steps, same weights; fused: TypeError at step 3, weights unchanged by it
#   fused without momentum: 6 steps; fused AdamW: 6 steps
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$work/late.py" <<'PY'
import torch
from torch import nn


def train(make, thaw=3, steps=6):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    model[0].requires_grad_(False)
    optimizer = make(model.parameters())
    x = torch.randn(16, 4)
    for step in range(1, steps + 1):
        if step == thaw:
            model[0].requires_grad_(True)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        before = [p.detach().clone() for p in model.parameters()]
        try:
            optimizer.step()
        except TypeError:
            same = all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
            return f"TypeError at step {step}, weights {'unchanged' if same else 'changed'} by it", None
    return f"{steps} steps", [p.detach().clone() for p in model.parameters()]


def sgd(**form):
    return lambda parameters: torch.optim.SGD(parameters, lr=0.1, **form)


plain, weights = train(sgd(momentum=0.9, foreach=False, fused=False))
foreach, others = train(sgd(momentum=0.9, foreach=True))
fused, _ = train(sgd(momentum=0.9, fused=True))
same = "same weights" if all(torch.allclose(a, b) for a, b in zip(weights, others)) else "other weights"
print(f"plain: {plain}; foreach: {foreach}, {same}; fused: {fused}")
without, _ = train(sgd(fused=True))
adamw, _ = train(lambda parameters: torch.optim.AdamW(parameters, lr=0.1, fused=True))
print(f"fused without momentum: {without}; fused AdamW: {adamw}")
PY
"$work/venv/bin/python" -W ignore "$work/late.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
plain: 6 steps; foreach: 6 steps, same weights; fused: TypeError at step 3, weights unchanged by it
fused without momentum: 6 steps; fused AdamW: 6 steps
SEEN
