#!/usr/bin/env bash
# torch 2.13.0, an optimizer with two parameter groups whose `lr` is a tensor: the groups share that one tensor.
#
# A tensor as the rate is what `torch.compile`d and graph-captured updates ask for: a number would be burnt into the graph.
# A good guess: `AdamW([{...}, {...}], lr=torch.tensor(0.1))` under a scheduler does what it does with `lr=0.1`, in float32.
# What happens: the default is put into every group that names no rate of its own, as the same object, and schedulers fill tensors
# in place, group by group. So
# - LambdaLR with a function for each group, and OneCycleLR with a max_lr for each: the last group's rate is used for all, and
#   `get_last_lr()` agrees, because it lists the same tensors;
# - ReduceLROnPlateau multiplies once for each group: two reductions by 0.5 of two groups leave 0.1 / 16, not 0.1 / 4;
# - ExponentialLR and SequentialLR look right: they compute all rates first, and these are equal;
# - an `optimizer.state_dict()` kept in memory ('the best so far') shares the tensor too: its rate goes on falling, where that of a
#   number stays; and loading it into an optimizer whose groups had numbers of their own joins them in one tensor.
# No warning in any of them. Groups that were each given a tensor of their own behave like numbers.
#
# Output seen (CPU, x86_64, Python 3.11):
#   number: lambdas 0.025 0.1 | one_cycle 0.095 0.9505 | plateau 0.025 0.025 | exponential 0.0125 0.0125 | kept 0.1 0.1
#   one tensor: lambdas 0.1 0.1 | one_cycle 0.9505 0.9505 | plateau 0.0063 0.0063 | exponential 0.0125 0.0125 | kept 0.0125 0.0125
#   a tensor each: lambdas 0.025 0.1 | one_cycle 0.095 0.9505 | plateau 0.025 0.025 | exponential 0.0125 0.0125 | kept 0.0125 0.0125
#   loaded into groups of numbers: one tensor for both
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$work/rates.py" <<'PY'
import warnings

import torch
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, OneCycleLR, ReduceLROnPlateau

warnings.simplefilter("error")  # a warning would end this


def optimizer(kind):
    one, two = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    if kind == "number":
        return torch.optim.AdamW([{"params": [one]}, {"params": [two]}], lr=0.1)
    if kind == "one tensor":
        return torch.optim.AdamW([{"params": [one]}, {"params": [two]}], lr=torch.tensor(0.1))
    groups = [{"params": [p], "lr": torch.tensor(0.1)} for p in (one, two)]
    return torch.optim.AdamW(groups, lr=torch.tensor(0.1))


def rates(groups):
    return " ".join(f"{round(float(group['lr']), 4):g}" for group in groups)


def after(kind, schedule, *scores):
    made = optimizer(kind)
    scheduler = schedule(made)
    for score in scores or (None,) * 3:
        for group in made.param_groups:
            for p in group["params"]:
                p.grad = torch.ones(2)
        made.step()
        scheduler.step() if score is None else scheduler.step(score)
    return rates(made.param_groups)


for kind in ("number", "one tensor", "a tensor each"):
    lambdas = after(kind, lambda o: LambdaLR(o, [lambda t: 1 / (1 + t), lambda t: 1.0]))
    cycle = after(kind, lambda o: OneCycleLR(o, max_lr=[0.1, 1.0], total_steps=10))
    plateau = after(kind, lambda o: ReduceLROnPlateau(o, factor=0.5, patience=0), 1.0, 2.0, 3.0)
    exponential = after(kind, lambda o: ExponentialLR(o, 0.5))
    made = optimizer(kind)
    kept, scheduler = made.state_dict(), ExponentialLR(made, 0.5)
    for _ in range(3):
        made.step()
        scheduler.step()
    print(
        f"{kind}: lambdas {lambdas} | one_cycle {cycle} | plateau {plateau} | exponential {exponential}"
        f" | kept {rates(kept['param_groups'])}"
    )
apart = optimizer("number")
apart.load_state_dict(optimizer("one tensor").state_dict())
first, second = (group["lr"] for group in apart.param_groups)
print("loaded into groups of numbers:", "one tensor for both" if first is second else "a rate each")
PY
"$work/venv/bin/python" "$work/rates.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
number: lambdas 0.025 0.1 | one_cycle 0.095 0.9505 | plateau 0.025 0.025 | exponential 0.0125 0.0125 | kept 0.1 0.1
one tensor: lambdas 0.1 0.1 | one_cycle 0.9505 0.9505 | plateau 0.0063 0.0063 | exponential 0.0125 0.0125 | kept 0.0125 0.0125
a tensor each: lambdas 0.025 0.1 | one_cycle 0.095 0.9505 | plateau 0.025 0.025 | exponential 0.0125 0.0125 | kept 0.0125 0.0125
loaded into groups of numbers: one tensor for both
SEEN
