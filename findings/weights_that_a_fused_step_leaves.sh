#!/usr/bin/env bash
# torch 2.13.0 on a CPU, torch.optim.SGD(fused=True) of weights in bfloat16 or float16: of 40 weights the last 8 move, of 100 the last 4, of 1,024 none.
#
# Somebody loads a model in bfloat16 to save memory, and takes fused=True, which other optimizers have made usual. One would guess
# either a refusal, when the optimizer is built, or steps with the rounding of the dtype; and a layer that does not learn at all would be a
# layer without gradient.
#
# The kernel goes through a weight in vectors of 16 numbers and then through what is left over. In the two half-precision types, what it computes for the
# vectors is not stored. What is left over, size modulo 16, is stored (modulo 8 where vectors are shorter). Sizes of layers being multiples of 16, a
# network as a whole stands still but for odd biases, such as that of the last layer, whose 10 classes are fewer than a vector. These do learn: how
# often each class comes. The loss therefore falls a little, in a curve like others, to that of a constant answer. With momentum the same.
# Gradients are right, and so is `optimizer.state_dict()`. float32 and float64 are not concerned, nor are the plain and
# foreach forms, nor fused Adam, AdamW and Adagrad. torch 2.14.1 stores all. Until then: foreach=True.
#
# Output seen (CPU, x86_64, Python 3.11): weights that a step at rate 1 with gradients of 1 leaves where they were
#   bfloat16, plain: of 3 0, of 1,024 0, of 1,056 0
#   bfloat16, fused: of 3 0, of 1,024 all, of 1,056 all
#   bfloat16, fused with momentum: of 3 0, of 1,024 all, of 1,056 all
#   float16, fused: of 3 0, of 1,024 all, of 1,056 all
#   float32, fused: of 3 0, of 1,024 0, of 1,056 0
#   bfloat16, fused AdamW: of 3 0, of 1,024 0, of 1,056 0
#   a network of 32 inputs, 64 hidden units, 10 classes, 300 steps in bfloat16, share of rows that are right: plain over 0.9, fused under 0.3
#   of its four tensors in the fused run, moved: bias of the last layer
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
cat > "$work/half.py" <<'PY'
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW

torch.set_num_threads(1)


def left(make, dtype, size):
    """How many weights of 1 a step with gradients of 1 leaves at 1."""
    p = nn.Parameter(torch.ones(size, dtype=dtype))
    p.grad = torch.ones_like(p)
    make([p]).step()
    count = int((p == 1).sum())
    return "all" if count == size else count


tries = [
    ("bfloat16, plain", torch.bfloat16, lambda p: SGD(p, lr=1.0, foreach=False)),
    ("bfloat16, fused", torch.bfloat16, lambda p: SGD(p, lr=1.0, fused=True)),
    ("bfloat16, fused with momentum", torch.bfloat16, lambda p: SGD(p, lr=1.0, momentum=0.9, fused=True)),
    ("float16, fused", torch.float16, lambda p: SGD(p, lr=1.0, fused=True)),
    ("float32, fused", torch.float32, lambda p: SGD(p, lr=1.0, fused=True)),
    ("bfloat16, fused AdamW", torch.bfloat16, lambda p: AdamW(p, lr=1.0, fused=True)),
]
for name, dtype, make in tries:
    print(f"{name}: of 3 {left(make, dtype, 3)}, of 1,024 {left(make, dtype, 1024)}, of 1,056 {left(make, dtype, 1056)}")

draw = torch.Generator().manual_seed(0)
centres = 2 * torch.randn(10, 32, generator=draw)
y = torch.arange(640) % 10
x = (centres[y] + torch.randn(640, 32, generator=draw)).to(torch.bfloat16)


def trained(**options):
    """Share of the rows that are right, and which tensors have moved."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10)).to(torch.bfloat16)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = SGD(net.parameters(), lr=0.05, **options)
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    moved = [name for name, p in net.named_parameters() if not torch.equal(p, before[name])]
    return float((net(x).argmax(1) == y).float().mean()), moved


plain, fused = trained(foreach=False), trained(fused=True)
seen = ["over 0.9" if share > 0.9 else "under 0.3" if share < 0.3 else f"{share:.2f}" for share, _ in (plain, fused)]
assert len(plain[1]) == 4
print(
    f"a network of 32 inputs, 64 hidden units, 10 classes, 300 steps in bfloat16, share of rows that are right: plain {seen[0]}, fused {seen[1]}"
)
names = {"2.bias": "bias of the last layer"}
print("of its four tensors in the fused run, moved:", ", ".join(names.get(name, name) for name in fused[1]))
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/half.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
bfloat16, plain: of 3 0, of 1,024 0, of 1,056 0
bfloat16, fused: of 3 0, of 1,024 all, of 1,056 all
bfloat16, fused with momentum: of 3 0, of 1,024 all, of 1,056 all
float16, fused: of 3 0, of 1,024 all, of 1,056 all
float32, fused: of 3 0, of 1,024 0, of 1,056 0
bfloat16, fused AdamW: of 3 0, of 1,024 0, of 1,056 0
a network of 32 inputs, 64 hidden units, 10 classes, 300 steps in bfloat16, share of rows that are right: plain over 0.9, fused under 0.3
of its four tensors in the fused run, moved: bias of the last layer
SEEN
