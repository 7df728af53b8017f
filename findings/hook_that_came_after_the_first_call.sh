#!/usr/bin/env bash
# torch 2.13.0, torch.compile(model) and a forward hook on a layer: added after the first call it does not run, until something else changes.
#
#     compiled = torch.compile(model); compiled(x)                               # trained, say
#     handle = model.layer.register_forward_hook(record); compiled(x)            # a look at the activations; or a mask, a clamp, noise, an observer
#
# The compiled code is guarded: if a layer is replaced by another, it is compiled anew. A hook that was there at the first call and is removed is noticed
# as well. Hence the guess that a hook which is added is noticed, too, or else refused.
#
# It is not looked for (torch._dynamo.config.skip_nnmodule_hook_guards, for speed; its page of hooks says so, the one of register_forward_hook does
# not). A hook that records has recorded nothing, an empty list whose mean is NaN. One that *changes* the output changes nothing, and a study of
# its effect finds none, with numbers that look like a result. Then comes a batch of another size, often the last one of an epoch: the code is
# compiled again for it, and what is compiled then has the hook. So of an epoch the last batch is hooked and the others are not. A
# backward hook fares alike. `model(x)`, beside it, always runs the hook, so that a test of the hook passes. Nothing is said.
# Way out: hooks before the first call; torch.compiler.reset() after adding one; or the option set to False.
#
# Output seen (CPU, x86_64, Python 3.11, backend "eager": the same capture and guards without a C++ compiler)
#   hook before the first call: compiled as plain True
#   hook after the first call: compiled as plain False; after torch.compiler.reset() True
#   a hook that records, after the first call: outputs recorded 0; in the next call, of another batch size: 1
#   hook before the first call, removed after it: compiled as plain True
#   backward hook after the first call: ran 0
#   a layer replaced by another: compiled as plain True
#   with skip_nnmodule_hook_guards=False, added, removed: compiled as plain True True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
cat > "$work/finding.py" <<'PY'
import torch
from torch import nn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 1)

    def forward(self, x):
        return self.second(self.first(x).relu())


def model():
    torch.compiler.reset()
    torch.manual_seed(0)
    plain = Network()
    return plain, torch.compile(plain, backend="eager")


def zero(module, inputs, output):
    return output * 0


def added(reset=False):
    plain, compiled = model()
    compiled(x)
    plain.first.register_forward_hook(zero)
    if reset:
        torch.compiler.reset()
    return torch.equal(compiled(x), plain(x))


def removed():
    plain, compiled = model()
    handle = plain.first.register_forward_hook(zero)
    compiled(x)
    handle.remove()
    return torch.equal(compiled(x), plain(x))


torch.manual_seed(1)
x = torch.randn(4, 3)
plain, compiled = model()
plain.first.register_forward_hook(zero)
print("hook before the first call: compiled as plain", torch.equal(compiled(x), plain(x)))
print("hook after the first call: compiled as plain", added(), end="; after torch.compiler.reset() ")
print(added(reset=True))
plain, compiled = model()
compiled(x)
seen = []
plain.first.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
compiled(x)
print("a hook that records, after the first call: outputs recorded", len(seen), end="; ")
compiled(torch.randn(7, 3))
print("in the next call, of another batch size:", len(seen))
print("hook before the first call, removed after it: compiled as plain", removed())
plain, compiled = model()
compiled(x).sum().backward()
plain.first.register_full_backward_hook(lambda module, inward, outward: seen.append("backward"))
compiled(x).sum().backward()
print("backward hook after the first call: ran", seen.count("backward"))
plain, compiled = model()
compiled(x)
plain.first = nn.Linear(3, 3)
print("a layer replaced by another: compiled as plain", torch.equal(compiled(x), plain(x)))
with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
    print("with skip_nnmodule_hook_guards=False, added, removed: compiled as plain", added(), removed())
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
hook before the first call: compiled as plain True
hook after the first call: compiled as plain False; after torch.compiler.reset() True
a hook that records, after the first call: outputs recorded 0; in the next call, of another batch size: 1
hook before the first call, removed after it: compiled as plain True
backward hook after the first call: ran 0
a layer replaced by another: compiled as plain True
with skip_nnmodule_hook_guards=False, added, removed: compiled as plain True True
SEEN
