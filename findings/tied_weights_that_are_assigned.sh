#!/usr/bin/env bash
# torch 2.13.0, load_state_dict(..., assign=True) of a model whose output layer is its embedding (`head.weight = embedding.weight`): AdamW takes each step twice.
#
# assign=True is what a model made on the meta device needs, and saves a copy of the weights elsewhere. Of tied weights one expects what holds without it:
# they are one Parameter before the load and after it. Or, if loading unties them, that they drift apart, which a test of equality would show.
#
# Neither. Each of the two names gets a Parameter of its own, and both lie on the storage that torch.load gave back, which knew that they are one: so they
# are equal at every step, in one memory, while `parameters()` has two of them. Each has its own part of the gradient, its own moments, and its own step into
# the same numbers. For plain SGD the two steps add up to the right one, and a comparison with SGD passes. With AdamW, where a step has the length
# of the rate whatever the gradient, a weight goes up to twice as far, weight decay is taken off twice, the norm for clipping is computed of the
# parts instead of their sum, and a count of weights is too large by the embedding. An optimizer's state that was saved before does not load:
# it has one weight less. The same file saved by safetensors has two memories; then they do drift apart. Way out: tie again after the load.
#
# Output seen (CPU, x86_64, Python 3.11):
#   assign: one Parameter False, one memory True, weights [160, 320]
#   SGD, 20 steps: as without assign True
#   AdamW, rate 0.01, the longest first step of a weight: 0.010 without assign, 0.020 with
#   taken off by weight decay in a step: 0.0050 without assign, 0.0100 with
#   assign, 50 steps of AdamW: both still equal True
#   the norms for clipping are equal: False
#   state of the optimizer from before: ValueError
#   from safetensors, 50 steps: both still equal False
#   tied again after the load: as without assign True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 safetensors==0.8.0 2> /dev/null
cat > "$work/tied.py" <<'PY'
import sys

import torch
from safetensors.torch import load_file, save_file
from torch import nn

FILE, SAFE = f"{sys.argv[1]}/model.pt", f"{sys.argv[1]}/model.safetensors"


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.tie()

    def tie(self):
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.embedding(tokens).tanh())


torch.manual_seed(0)
first = Words()
torch.save(first.state_dict(), FILE)
save_file({name: tensor.clone() for name, tensor in first.state_dict().items()}, SAFE)
tokens = torch.arange(20)


def loaded(assign=True, read=torch.load, file=FILE, tie=False):
    with torch.device("meta" if assign else "cpu"):
        model = Words()
    model.load_state_dict(read(file), assign=assign)
    if tie:
        model.tie()
    return model


def trained(model, optimizer, steps=1):
    optimizer = optimizer(model.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens), (tokens + 1) % 20).backward()
        optimizer.step()
    return model.embedding.weight.detach() - first.embedding.weight.detach(), optimizer


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.0)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def decay(parameters):
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.5, eps=1e6)  # no step but that of the decay


plain, model = loaded(assign=False), loaded()
one, same = model.head.weight is model.embedding.weight, model.head.weight.data_ptr() == model.embedding.weight.data_ptr()
print(f"assign: one Parameter {one}, one memory {same}, weights {[sum(p.numel() for p in m.parameters()) for m in (plain, model)]}")
print("SGD, 20 steps: as without assign", torch.allclose(trained(loaded(), sgd, 20)[0], trained(plain, sgd, 20)[0], atol=1e-6))
lengths = [trained(m, adamw)[0].abs() for m in (loaded(assign=False), loaded())]
print(f"AdamW, rate 0.01, the longest first step of a weight: {lengths[0].max():.3f} without assign, {lengths[1].max():.3f} with")
shrunk = [trained(m, decay)[0].norm() / first.embedding.weight.norm() for m in (loaded(assign=False), loaded())]
print(f"taken off by weight decay in a step: {shrunk[0]:.4f} without assign, {shrunk[1]:.4f} with")
model = loaded()
trained(model, adamw, 50)
print("assign, 50 steps of AdamW: both still equal", torch.equal(model.head.weight, model.embedding.weight))
norms = []
for m in (loaded(assign=False), loaded()):
    nn.functional.cross_entropy(m(tokens), (tokens + 1) % 20).backward()
    norms.append(float(nn.utils.clip_grad_norm_(m.parameters(), 1e9)))
print("the norms for clipping are equal:", abs(norms[0] - norms[1]) < 1e-4)
try:
    adamw(loaded().parameters()).load_state_dict(trained(loaded(assign=False), adamw)[1].state_dict())
except ValueError as error:
    print("state of the optimizer from before:", type(error).__name__)
model = loaded(read=load_file, file=SAFE)
trained(model, adamw, 50)
print("from safetensors, 50 steps: both still equal", torch.equal(model.head.weight, model.embedding.weight))
print("tied again after the load: as without assign", torch.equal(trained(loaded(tie=True), adamw)[0], trained(loaded(assign=False), adamw)[0]))
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" "$work/tied.py" "$work" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
assign: one Parameter False, one memory True, weights [160, 320]
SGD, 20 steps: as without assign True
AdamW, rate 0.01, the longest first step of a weight: 0.010 without assign, 0.020 with
taken off by weight decay in a step: 0.0050 without assign, 0.0100 with
assign, 50 steps of AdamW: both still equal True
the norms for clipping are equal: False
state of the optimizer from before: ValueError
from safetensors, 50 steps: both still equal False
tied again after the load: as without assign True
SEEN
