#!/usr/bin/env bash
# torch 2.13.0, torch.export.export(..., strict=True): an export that raises can leave the process unable to train, though its error was caught.
#
#     try: torch.export.export(model, (x,), strict=True)          net.train(); net(x).sum().backward()
#     except Exception: ...                                       nn.Linear(2, 2)
#
# Not every model can be exported, so a script tries, catches what is raised, writes the weights alone instead, and goes on: the next fold, the next epoch, the next model.
# A call that raised has done nothing, one thinks; the model itself still computes.
#
# The model here takes derivatives by row in its forward, torch.func.vmap of torch.func.grad, as those of forces or of a differential equation do. Neither way of
# exporting can trace it, and both raise the same AttributeError. After strict=False all is as before. After strict=True the tracer has left vmap and grad
# behind, entered and not left: whatever comes then in this process is computed inside them. No random number can be drawn (dropout, a shuffle, the weights of a new
# layer), no gradient computed, no layer checkpointed, each with an error that names functorch, which the script does not use there. In evaluation mode
# everything still works, so that tests of the exported run pass. Way out: export in a process of its own.
#
# Output seen (CPU, x86_64, Python 3.11)
#   before: randn works, nn.Linear works, dropout works, eval works, backward works, the model works
#   after export(strict=False), AttributeError: randn works, nn.Linear works, dropout works, eval works, backward works, the model works
#   after export(strict=True), AttributeError: randn RuntimeError, nn.Linear RuntimeError, dropout RuntimeError, eval works, backward RuntimeError, the model works
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
cat > "$work/after.py" <<'PY'
import warnings

import torch
from torch import nn

warnings.simplefilter("ignore")


class Steep(nn.Module):
    """A number, and its slope along each row."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x):
        slope = torch.func.vmap(torch.func.grad(lambda row: self.layer(row).tanh().sum()))
        return self.layer(x).squeeze(-1) + slope(x).sum(-1)


torch.manual_seed(0)
model, x = Steep(), torch.randn(5, 2)
net, weight = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1)), torch.ones(2, 1, requires_grad=True)
WORK = {
    "randn": lambda: torch.randn(2),
    "nn.Linear": lambda: nn.Linear(2, 2),
    "dropout": lambda: net.train()(x),
    "eval": lambda: net.eval()(x),
    "backward": lambda: (x @ weight).square().mean().backward(),
    "the model": lambda: model(x),
}


def told(when):
    said = []
    for name, work in WORK.items():
        try:
            work()
            said.append(f"{name} works")
        except RuntimeError:
            said.append(f"{name} RuntimeError")
    print(f"{when}: {', '.join(said)}")


told("before")
for strict in (False, True):
    try:
        torch.export.export(model, (x,), strict=strict)
        raise SystemExit("it was exported")
    except Exception as error:
        told(f"after export(strict={strict}), {type(error).__name__}")
PY
"$work/venv/bin/python" "$work/after.py" 2> /dev/null | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
before: randn works, nn.Linear works, dropout works, eval works, backward works, the model works
after export(strict=False), AttributeError: randn works, nn.Linear works, dropout works, eval works, backward works, the model works
after export(strict=True), AttributeError: randn RuntimeError, nn.Linear RuntimeError, dropout RuntimeError, eval works, backward RuntimeError, the model works
SEEN
