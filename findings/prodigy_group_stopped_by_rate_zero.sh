#!/usr/bin/env bash
# prodigyopt 1.1.2 (with torch 2.13.0): the one way that Prodigy has of stopping part of a model makes that part run away.
#
# Prodigy finds its own step size, d, and refuses groups of different rates, but for one case, which its error message names: a rate
# of 0. So who wants to freeze the encoder after some epochs, or lets a schedule bring one group to 0, sets that group's `lr` to 0, and
# expects what a rate of 0 does in every other optimizer: the weights stay where they are.
#
# They leave, in a straight line and for good. In `step`, a group at rate 0 is spared the update of its averages, momentum among
# them; the step itself is then taken with d times the *largest* rate of all groups, for every parameter that has a gradient. The
# momentum is thus the last one before the stop, it never fades, and no gradient corrects it: after 340 steps the stopped weights
# here are over a hundred times farther from their optimum than on the day they were stopped. Decoupled weight decay goes on as well.
# A group that was at 0 from its first step has no momentum and stays (if it has no decay); nothing is printed in either case.
# `requires_grad_(False)` with `zero_grad()`, or the group taken out of `param_groups`, stops it.
#
# Output seen (CPU, x86_64, Python 3.11), distance of the second group's weights from where they were at step 60:
#   rate 0 from step 60: step 61 moved, step 70 farther, step 400 over thirty times as far as step 70; each step equal to the last: True
#   AdamW, the same: step 400 not moved
#   rate 0 from the beginning: not moved; with weight_decay=0.01: moved
#   requires_grad_(False) from step 60: not moved
#   rates of 1.0 and 0.5: RuntimeError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 prodigyopt==1.1.2 2> /dev/null
cat > "$work/stopped.py" <<'PY'
import contextlib
import io

import torch
from prodigyopt import Prodigy
from torch.nn import Parameter


def run(make, stop, at=60, steps=400):
    """Where the second group's weights were after each step, from the stop on."""
    torch.manual_seed(0)
    first, second, goal = Parameter(torch.randn(5)), Parameter(torch.randn(5)), torch.randn(5)
    with contextlib.redirect_stdout(io.StringIO()):
        optimizer = make([{"params": [first]}, {"params": [second]}])
    places = []
    for step in range(1, steps + 1):
        if step > at:
            stop(optimizer, second)
        optimizer.zero_grad()
        loss = (first - goal - 0.1 * torch.randn(5)).square().sum() + (second + goal).square().sum()
        loss.backward()
        optimizer.step()
        if step >= at:
            places.append(second.detach().clone())
    return places


def rate_zero(optimizer, _):
    optimizer.param_groups[1]["lr"] = 0.0


def prodigy(**more):
    return lambda groups: Prodigy(groups, lr=1.0, **more)


def moved(places):
    return "not moved" if torch.equal(places[0], places[-1]) else "moved"


places = run(prodigy(), rate_zero)
near, middle, far = ((places[k] - places[0]).norm() for k in (1, 10, 340))
strides = torch.stack(places).diff(dim=0)
even = torch.allclose(strides, strides[0].expand_as(strides), rtol=1e-3)
print(f"rate 0 from step 60: step 61 {moved(places[:2])}, step 70 {'farther' if middle > 5 * near else 'near'}, step 400",
      "over thirty times as far as step 70;" if far > 30 * middle else f"{far / middle};", "each step equal to the last:", even)
print("AdamW, the same: step 400", moved(run(lambda groups: torch.optim.AdamW(groups, lr=0.1), rate_zero)))
print("rate 0 from the beginning:", moved(run(prodigy(), rate_zero, at=0)) + "; with weight_decay=0.01:",
      moved(run(prodigy(weight_decay=0.01), rate_zero, at=0)))
print("requires_grad_(False) from step 60:", moved(run(prodigy(), lambda _, weights: weights.requires_grad_(False))))


def other_rate(optimizer, _):
    optimizer.param_groups[1]["lr"] = 0.5


try:
    run(prodigy(), other_rate)
except RuntimeError as error:
    print("rates of 1.0 and 0.5:", type(error).__name__)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" "$work/stopped.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
rate 0 from step 60: step 61 moved, step 70 farther, step 400 over thirty times as far as step 70; each step equal to the last: True
AdamW, the same: step 400 not moved
rate 0 from the beginning: not moved; with weight_decay=0.01: moved
requires_grad_(False) from step 60: not moved
rates of 1.0 and 0.5: RuntimeError
SEEN
