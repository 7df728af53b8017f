#!/usr/bin/env bash
# peft 0.21.2 (torch 2.13.0), add_weighted_adapter(["one", "one"], [0.5, 0.5], ..., combination_type="linear"): half of an adapter and half of it are two of it.
#
# Runs of one fine-tuning, or checkpoints of it, are averaged for a better model: a half of each. "linear" reads as that sum, weight by weight, and asks for
# adapters of equal rank, as a sum does; a single adapter with a weight of 0.5 is indeed halved. Of an adapter and itself the average is the adapter.
#
# An adapter changes a matrix by a product, B times A. What is summed are the factors, each times the root of its weight, and then multiplied: of two adapters one
# gets half of B1 A1, half of B2 A2, and half of B1 A2 and B2 A1, which stand for nothing, each adapter having its own coordinates inside. An adapter with
# itself is doubled; four quarters are four times it. Two runs that both brought the error from 1.2 to 0 give an average that is worse than no fine-tuning.
# Shapes, rank and file are as they should be, and a language model still writes, so that one blames the method. The same factors are summed by the other kinds
# without "svd" in their names (ties, dare_linear, dare_ties, magnitude_prune). The docstring calls it a very rough approximation that is to be avoided if
# one can afford it, which sounds like digits. Way out: "cat", which is exact at a higher rank, or "svd".
#
# Output seen (CPU, x86_64, Python 3.11), two adapters of rank 4 trained for the same task on other halves of its rows
#   error of the base above 1: True; with each adapter below 0.01: [True, True]
#   linear, 0.5 of one: 1.0 times what was asked for, off by 0.0 of its size; error between
#   linear, 0.5 of one and 0.5 of one: 2.0 times what was asked for, off by 0.5 of its size; error above that of the base
#   linear, 0.5 of one and 0.5 of two: 1.5 times what was asked for, off by 0.5 of its size; error above that of the base
#   svd, 0.5 of one: 1.0 times what was asked for, off by 0.0 of its size; error between
#   svd, 0.5 of one and 0.5 of one: 1.0 times what was asked for, off by 0.0 of its size; error below 0.1
#   svd, 0.5 of one and 0.5 of two: 1.0 times what was asked for, off by 0.0 of its size; error below 0.1
#   cat, 0.5 of one: 1.0 times what was asked for, off by 0.0 of its size; error between
#   cat, 0.5 of one and 0.5 of one: 1.0 times what was asked for, off by 0.0 of its size; error below 0.1
#   cat, 0.5 of one and 0.5 of two: 1.0 times what was asked for, off by 0.0 of its size; error below 0.1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check peft==0.21.2 transformers==5.24.0 accelerate==1.15.0 2> /dev/null
cat > "$work/finding.py" <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

torch.manual_seed(0)
x = torch.randn(512, 16)
base = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 8))
with torch.no_grad():
    y = base(x) + x[:, :2] @ torch.randn(2, 8)  # what is to be learned has rank 2
    start = base(x)
model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=["0", "1"]), adapter_name="one")
model.add_adapter("two", LoraConfig(r=4, lora_alpha=8, target_modules=["0", "1"]))


def error():
    with torch.no_grad():
        return float((model(x) - y).square().mean())


for name in ("one", "two"):  # two runs of the same fine-tuning, on other halves of the rows
    model.set_adapter(name)
    rows = slice(0, 256) if name == "one" else slice(256, 512)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    for _ in range(1500):
        optimizer.zero_grad()
        (model(x[rows]) - y[rows]).square().mean().backward()
        optimizer.step()
layers = [m for m in model.modules() if hasattr(m, "get_delta_weight")]
with torch.no_grad():
    before = float((start - y).square().mean())
    print(f"error of the base above 1: {before > 1}; with each adapter below 0.01: {[(model.set_adapter(name), error() < 0.01)[1] for name in ('one', 'two')]}")


def told(names, weights, kind):
    model.add_weighted_adapter(names, weights, "mixed", combination_type=kind)
    got = torch.cat([layer.get_delta_weight("mixed").flatten() for layer in layers])
    wanted = torch.cat([sum(w * layer.get_delta_weight(n) for n, w in zip(names, weights, strict=True)).flatten() for layer in layers])
    along = float(got @ wanted / wanted.square().sum())
    off = float((got - wanted).norm() / got.norm())
    model.set_adapter("mixed")
    which = " and ".join(f"{w} of {n}" for n, w in zip(names, weights, strict=True))
    found = error()
    than = "below 0.1" if found < 0.1 else "above that of the base" if found > before else "between"
    print(f"{kind}, {which}: {along:.1f} times what was asked for, off by {off:.1f} of its size; error {than}")
    model.delete_adapter("mixed")


for kind in ("linear", "svd", "cat"):
    told(["one"], [0.5], kind)
    told(["one", "one"], [0.5, 0.5], kind)
    told(["one", "two"], [0.5, 0.5], kind)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" "$work" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
error of the base above 1: True; with each adapter below 0.01: [True, True]
linear, 0.5 of one: 1.0 times what was asked for, off by 0.0 of its size; error between
linear, 0.5 of one and 0.5 of one: 2.0 times what was asked for, off by 0.5 of its size; error above that of the base
linear, 0.5 of one and 0.5 of two: 1.5 times what was asked for, off by 0.5 of its size; error above that of the base
svd, 0.5 of one: 1.0 times what was asked for, off by 0.0 of its size; error between
svd, 0.5 of one and 0.5 of one: 1.0 times what was asked for, off by 0.0 of its size; error below 0.1
svd, 0.5 of one and 0.5 of two: 1.0 times what was asked for, off by 0.0 of its size; error below 0.1
cat, 0.5 of one: 1.0 times what was asked for, off by 0.0 of its size; error between
cat, 0.5 of one and 0.5 of one: 1.0 times what was asked for, off by 0.0 of its size; error below 0.1
cat, 0.5 of one and 0.5 of two: 1.0 times what was asked for, off by 0.0 of its size; error below 0.1
SEEN
