#!/usr/bin/env bash
# schedulefree 1.4.1 (torch 2.13.0), AdamWScheduleFree: thawing a layer in the middle of a run.
#
#     for p in backbone.parameters(): p.requires_grad_(False)      # all weights are given to the optimizer, in one group
#     ... train the head; then p.requires_grad_(True), and go on
#
# With torch's AdamW the layer begins then as if it had been made then: each of its first steps is the rate's length, since the count of
# steps is kept for each weight. That needs no thought, and one expects it of an optimizer that is offered in AdamW's place.
#
# This one has one count for the group, and uses it twice.
# 1. The second moment of the thawed layer starts at 0, and is corrected as if it had been gathered since step 1, that is, not at all: its first step
#    is 1 / sqrt(1 - 0.999) = 31 times the rate (in the sequence that the average is made of), on weights that were pretrained.
# 2. What is evaluated is the average of all steps so far, and those before the thaw count, with the layer as it was. The layer where it
#    is trained (90% of the average) pulls the sequence past the goal until both make up for it, here to 9 times the way; and a layer thawed
#    after nine tenths of the run is where it should be in training, but `optimizer.eval()` sets it a third of the way back to its first weights.
#    The training loss does not show it.
# A group of its own (add_param_group at the thaw) has a count of its own: then both are right. A warm-up (`warmup_steps`) is long over by then.
#
# Output seen (CPU, x86_64, Python 3.11), a layer that starts at 0 and whose goal is 1, rate 0.03, run of 6,000 steps:
#   thawed at step 3000, AdamW: first step 1 rate; furthest 1.0 to 1.6; in training 0.95 to 1.1; evaluated 0.95 to 1.1
#   thawed at step 3000, schedule-free: first step 30 to 32 rates; furthest over 5; in training 0.95 to 1.1; evaluated 0.95 to 1.1
#   thawed at step 3000, schedule-free, a group of its own: first step 1 rate; furthest 1.0 to 1.6; in training 0.95 to 1.1; evaluated 0.95 to 1.1
#   thawed at step 5400, AdamW: first step 1 rate; furthest 1.0 to 1.6; in training 0.95 to 1.1; evaluated 0.95 to 1.1
#   thawed at step 5400, schedule-free: first step 30 to 32 rates; furthest over 5; in training 0.95 to 1.1; evaluated 0.5 to 0.8
#   thawed at step 5400, schedule-free, a group of its own: first step 1 rate; furthest 1.0 to 1.6; in training 0.95 to 1.1; evaluated 0.95 to 1.1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check schedulefree==1.4.1 2> /dev/null
cat > "$work/thaw.py" <<'PY'
import schedulefree
import torch
from torch.nn import Parameter


def run(kind, thaw, steps=6000, rate=0.03):
    """A layer from the thaw on: its first step in rates, the furthest it is set, where it is trained and where evaluated in the end."""
    head, layer = Parameter(torch.zeros(4)), Parameter(torch.zeros(4))
    free, own = kind != "AdamW", kind.endswith("its own")
    weights = [head] if own else [head, layer]
    if free:
        optimizer = schedulefree.AdamWScheduleFree(weights, lr=rate)
        optimizer.train()
    else:
        optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    layer.requires_grad_(False)
    places = []
    for step in range(steps):
        if step == thaw:
            layer.requires_grad_(True)
            if own:
                optimizer.add_param_group({"params": [layer]})
                optimizer.train()
        optimizer.zero_grad()
        ((head - 1).square().sum() + (layer - 1).square().sum()).backward()
        optimizer.step()
        if step >= thaw:
            places.append(float((optimizer.state[layer]["z"] if free else layer.detach())[0]))
    trained = float(layer.detach()[0])
    if free:
        optimizer.eval()
    return places[0] / rate, max(places), trained, float(layer.detach()[0])


def named(value, *ranges):
    """The range that a value lies in, or the value where it lies in none."""
    for low, high, words in ranges:
        if low < value < high:
            return words
    return f"{value:.3f}"


for thaw in (3000, 5400):
    for kind in ("AdamW", "schedule-free", "schedule-free, a group of its own"):
        first, furthest, trained, evaluated = run(kind, thaw)
        begun = named(first, (0.99, 1.01, "1 rate"), (30, 32, "30 to 32 rates"))
        far = named(furthest, (1.0, 1.6, "1.0 to 1.6"), (5, 20, "over 5"))
        places = [named(value, (0.95, 1.1, "0.95 to 1.1"), (0.5, 0.8, "0.5 to 0.8")) for value in (trained, evaluated)]
        print(f"thawed at step {thaw}, {kind}: first step {begun}; furthest {far}; in training {places[0]}; evaluated {places[1]}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/thaw.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
thawed at step 3000, AdamW: first step 1 rate; furthest 1.0 to 1.6; in training 0.95 to 1.1; evaluated 0.95 to 1.1
thawed at step 3000, schedule-free: first step 30 to 32 rates; furthest over 5; in training 0.95 to 1.1; evaluated 0.95 to 1.1
thawed at step 3000, schedule-free, a group of its own: first step 1 rate; furthest 1.0 to 1.6; in training 0.95 to 1.1; evaluated 0.95 to 1.1
thawed at step 5400, AdamW: first step 1 rate; furthest 1.0 to 1.6; in training 0.95 to 1.1; evaluated 0.95 to 1.1
thawed at step 5400, schedule-free: first step 30 to 32 rates; furthest over 5; in training 0.95 to 1.1; evaluated 0.5 to 0.8
thawed at step 5400, schedule-free, a group of its own: first step 1 rate; furthest 1.0 to 1.6; in training 0.95 to 1.1; evaluated 0.95 to 1.1
SEEN
