#!/usr/bin/env bash
# pytorch_optimizer 4.1.0, Lookahead (torch 2.13.0). The order of two lines decides whether pretrained weights survive the fifth step.
#
#     optimizer = Lookahead(AdamW(model.parameters(), lr=1e-5))        model.load_state_dict(pretrained)
#     model.load_state_dict(pretrained)                                optimizer = Lookahead(AdamW(model.parameters(), lr=1e-5))
#
# With AdamW alone, left and right are the same run: an optimizer holds the parameters, and load_state_dict copies into them. So is it with most
# wrappers, timm's Lookahead among them, which take note of the weights when they first need them.
# This one takes its slow weights in the constructor. On the left these are the random weights of the model as it was made.
# Four steps go as they should; at the fifth (k=5) the weights are set halfway (alpha=0.5) to the slow ones, that is halfway back to
# chance, and that becomes the new slow weight. What is lost at that step is not taken back later, and its size has nothing to do with the rate: at
# rate 0 it is the same. A loss curve shows a jump after four steps, once. The optimizer's state dict then holds the mixture.
# The same happens to weights that are copied in after construction for any other reason: tied, re-initialised, taken from an
# average. `load_state_dict` of a Lookahead state afterwards mends it, if there is one.
#
# Output seen (CPU, x86_64, Python 3.11), distance to the pretrained weights over that of the random ones, rate 0:
#   AdamW alone, loaded after: step 4 0.00, step 5 0.00, step 50 0.00
#   Lookahead, loaded before: step 4 0.00, step 5 0.00, step 50 0.00
#   Lookahead, loaded after: step 4 0.00, step 5 0.50, step 50 0.50
#   timm's Lookahead, loaded after: step 4 0.00, step 5 0.00, step 50 0.00
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip="$work/venv/bin/pip install --quiet --no-compile --disable-pip-version-check"
$pip torch==2.13.0 numpy==2.4.6 pytorch-optimizer==4.1.0 2> /dev/null
$pip --no-deps timm==1.0.31 2> /dev/null # its optimizers alone, which need nothing more
cat > "$work/order.py" <<'PY'
import sys
import types
from pathlib import Path

import torch
from pytorch_optimizer import Lookahead

# timm/__init__ loads its models, and torchvision with them; of timm, take the one file
parent = types.ModuleType("timm")
parent.__path__ = [str(Path(next(p for p in sys.path if (Path(p) / "timm").is_dir())) / "timm")]
sys.modules["timm"] = parent
optimizers = types.ModuleType("timm.optim")
optimizers.__path__ = [parent.__path__[0] + "/optim"]
sys.modules["timm.optim"] = optimizers
from timm.optim.lookahead import Lookahead as TimmLookahead  # noqa: E402


def distances(wrap, loaded_after, steps=(4, 5, 50)):
    torch.manual_seed(0)
    model, pretrained = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
    random = (model.weight - pretrained.weight).norm().item()
    if not loaded_after:
        model.load_state_dict(pretrained.state_dict())
    optimizer = wrap(torch.optim.AdamW(model.parameters(), lr=0.0))
    if loaded_after:
        model.load_state_dict(pretrained.state_dict())
    found = {}
    for step in range(1, max(steps) + 1):
        optimizer.zero_grad()
        model(torch.randn(4, 8)).square().mean().backward()
        optimizer.step()
        found[step] = (model.weight - pretrained.weight).norm().item() / random
    return ", ".join(f"step {step} {found[step]:.2f}" for step in steps)


print("AdamW alone, loaded after:", distances(lambda inner: inner, True))
print("Lookahead, loaded before:", distances(Lookahead, False))
print("Lookahead, loaded after:", distances(Lookahead, True))
print("timm's Lookahead, loaded after:", distances(lambda inner: TimmLookahead(inner, k=5), True))
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/order.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
AdamW alone, loaded after: step 4 0.00, step 5 0.00, step 50 0.00
Lookahead, loaded before: step 4 0.00, step 5 0.00, step 50 0.00
Lookahead, loaded after: step 4 0.00, step 5 0.50, step 50 0.50
timm's Lookahead, loaded after: step 4 0.00, step 5 0.00, step 50 0.00
SEEN
