#!/usr/bin/env bash
# torch 2.13.0, torch.distributed.checkpoint.state_dict: to look at an optimizer's state is to take a step with it, and to
# load one while gradients are there is to load nothing.
#
# A good guess: `get_optimizer_state_dict` reads, and `set_optimizer_state_dict` loads what it is given or raises.
# What happens:
# 1. Of an optimizer that has no state yet, `get_optimizer_state_dict` makes one: it sets zero gradients and calls
#    `optimizer.step()` at a rate of 0. The weights stay, but the step counter is then 1 (and momenta have decayed once), so
#    that bias corrections are one step ahead for the whole run: Adam, NAdam, RAdam, Adamax, Rprop and ASGD end with other
#    weights than the same run that was not looked at; SGD with momentum, RMSprop, Adagrad and Adadelta do not.
#    A checkpoint "before step 1", or a log of the optimizer's memory, thus changes the run it describes.
# 2. That step is skipped when any parameter has a gradient. `set_optimizer_state_dict` on a fresh optimizer then loads no
#    state (moments and step counters are missing, without an error), which is what a resume between `backward()` and
#    `step()`, or a warm-up pass before loading, runs into.
#
# Output seen (CPU, x86_64, Python 3.11):
#   adam: step counter after a look at the state before step 1: 1.0
#   same weights after 3 steps, looked at or not: Adam False, NAdam False, RAdam False, Adamax False, Rprop False, ASGD False,
#     SGD True, RMSprop True, Adagrad True, Adadelta True
#   loaded into a fresh AdamW without gradients: exp_avg, exp_avg_sq, step 3.0
#   loaded into a fresh AdamW with gradients: nothing, no error
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$work/look.py" <<'PY'
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict

FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def make(name, **options):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, getattr(torch.optim, name)(model.parameters(), lr=0.1, **options)


def three_steps(model, optimizer):
    for i in range(3):
        torch.manual_seed(i)
        model(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.weight.detach()


model, adam = make("Adam")
get_optimizer_state_dict(model, adam, options=FLAT)
counter = float(next(iter(adam.state.values()))["step"])
print("adam: step counter after a look at the state before step 1:", counter)
assert counter == 1.0

same = {}
for name in ("Adam", "NAdam", "RAdam", "Adamax", "Rprop", "ASGD", "SGD", "RMSprop", "Adagrad", "Adadelta"):
    options = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    looked, plain = make(name, **options), make(name, **options)
    get_optimizer_state_dict(*looked, options=FLAT)
    same[name] = torch.equal(three_steps(*looked), three_steps(*plain))
print("same weights after 3 steps, looked at or not:", ", ".join(f"{k} {v}" for k, v in same.items()))
assert [k for k, v in same.items() if v] == ["SGD", "RMSprop", "Adagrad", "Adadelta"], same

model, trained = make("AdamW")
three_steps(model, trained)
saved = {k: v.clone() if isinstance(v, torch.Tensor) else v
         for k, v in get_optimizer_state_dict(model, trained, options=FLAT).items()}
for gradients in (False, True):
    model, fresh = make("AdamW")
    if gradients:
        model(torch.ones(4, 3)).sum().backward()
    set_optimizer_state_dict(model, fresh, dict(saved), options=FLAT)
    state = fresh.state[model.weight]
    found = ", ".join(f"{k} {float(v)}" if k == "step" else k for k, v in sorted(state.items()))
    print(f"loaded into a fresh AdamW with{'' if gradients else 'out'} gradients: {found or 'nothing, no error'}")
    assert bool(state) != gradients
    assert gradients or float(state["step"]) == 3.0
PY
"$work/venv/bin/python" -W ignore "$work/look.py"
