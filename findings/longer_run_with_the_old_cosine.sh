#!/usr/bin/env bash
# torch 2.13.0, CosineAnnealingLR: a run that is loaded to be made longer ends at its highest rate.
#
# 400 steps were not enough: the script now says T_max=800, loads the checkpoint of step 200 and goes on. What a script says should hold, or
# there should be an error, as OneCycleLR has one; of the optimizer it is known that its rates come from the file, and they are right.
#
# The schedule's state_dict() holds its settings beside its place, T_max included, and load_state_dict() puts both back: `scheduler.T_max` is 400 again,
# whatever the new object was made with. So the rate reaches 0 at step 400 and, since a cosine goes on, climbs: half of the added steps are taken at
# rising rates, and the last of all at the full one. The loss ends 12 times as far above the least there is as in a run of 800 steps (below). The
# other settings behave so, too (eta_min; step_size and gamma of StepLR; the milestones and parts of SequentialLR), and a LambdaLR does not: functions
# are not saved, so the same cosine, written as a function, is the new one. A log of the rates shows it; a log of the loss, until late, does not.
# Way out: after load_state_dict(), set scheduler.T_max = 800 (and last_epoch and the rate as that schedule has them), or a LambdaLR.
#   800 steps at once: rate at step 400 0.020, at 799 0.000, loss above the least 0.0086
#   CosineAnnealingLR, 400 made 800: rate at step 400 0.000, at 799 0.040, loss above the least 12 times that
#   SequentialLR, warm-up and cosine, 400 made 800: rate at step 400 0.000, at 799 0.040, loss above the least 12 times that
#   LambdaLR of the same cosine, 400 made 800: rate at step 400 0.020, at 799 0.000, loss above the least 1 times that
#   OneCycleLR, 400 made 800: ValueError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
cat > "$work/finding.py" <<'PY'
import copy

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, OneCycleLR, SequentialLR

torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)
x = torch.randn(4096, 20, generator=draw, dtype=torch.float64)
y = x @ torch.randn(20, 1, generator=draw, dtype=torch.float64) + torch.randn(4096, 1, generator=draw, dtype=torch.float64)
floor = float((x @ torch.linalg.lstsq(x, y).solution - y).square().mean())


def parts(make):
    torch.manual_seed(0)
    model = torch.nn.Linear(20, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.04)
    return model, optimizer, make(optimizer)


def train(run, start, stop):
    """Rates of the steps start to stop, and how far the loss is above the least there is."""
    model, optimizer, schedule = run
    rates = []
    for step in range(start, stop):
        rows = torch.randint(4096, (8,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model(x[rows]) - y[rows]).square().mean().backward()
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates, float((model(x) - y).square().mean()) - floor


def cosine(length):
    return lambda optimizer: CosineAnnealingLR(optimizer, T_max=length)


def warmed(length):
    return lambda optimizer: SequentialLR(optimizer, [LinearLR(optimizer, 0.1, 1.0, 20), CosineAnnealingLR(optimizer, length - 20)], [20])


def by_function(length):
    return lambda optimizer: LambdaLR(optimizer, lambda step: (1 + torch.cos(torch.tensor(torch.pi * step / length)).item()) / 2)


def longer(make):
    """A run meant for 400 steps, saved at 200, and loaded by a script that says 800."""
    run = parts(make(400))
    train(run, 0, 200)
    saved = copy.deepcopy([part.state_dict() for part in run])
    again = parts(make(800))
    for part, state in zip(again, saved, strict=True):
        part.load_state_dict(state)
    return train(again, 200, 800)


rates, excess = train(parts(cosine(800)), 0, 800)
print(f"800 steps at once: rate at step 400 {rates[400]:.3f}, at 799 {rates[-1]:.3f}, loss above the least {excess:.4f}")
for name, make in {"CosineAnnealingLR": cosine, "SequentialLR, warm-up and cosine": warmed, "LambdaLR of the same cosine": by_function}.items():
    rates, above = longer(make)
    print(f"{name}, 400 made 800: rate at step 400 {rates[200]:.3f}, at 799 {rates[-1]:.3f}, loss above the least {above / excess:.0f} times that")
try:
    longer(lambda length: lambda optimizer: OneCycleLR(optimizer, 0.04, total_steps=length))
except ValueError as error:
    print("OneCycleLR, 400 made 800:", type(error).__name__)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
800 steps at once: rate at step 400 0.020, at 799 0.000, loss above the least 0.0086
CosineAnnealingLR, 400 made 800: rate at step 400 0.000, at 799 0.040, loss above the least 12 times that
SequentialLR, warm-up and cosine, 400 made 800: rate at step 400 0.000, at 799 0.040, loss above the least 12 times that
LambdaLR of the same cosine, 400 made 800: rate at step 400 0.020, at 799 0.000, loss above the least 1 times that
OneCycleLR, 400 made 800: ValueError
SEEN
