#!/usr/bin/env bash
# torch 2.13.0: to make one optimizer, or to ask one for its state, a process that compiles nothing loads torch's compiler.
#
# A good guess: `torch.optim.SGD(...)` and `optimizer.state_dict()` handle a few Python dicts, so their first call costs what the
# second does; `import torch` has loaded all that eager training needs; torch._dynamo is loaded by torch.compile.
# What happens: both methods are marked as not to be compiled, and the mark's first call imports torch._dynamo (with
# sympy, and torch.distributed): more than 500 modules, in this process about as much computing as `import torch`
# itself. A service that only loads weights is spared; a short training, a worker that is started for each trial of a search,
# or a checkpoint in the first second is not. The undecorated methods (`__wrapped__`) do the same work and load nothing, also for
# the state's round trip; `step` of SGD loads it, too, by a mark of its own.
#
# Output seen (CPU, x86_64, Python 3.11; the number of modules and the times are of this platform):
#   import torch: no compiler; optimizer made: compiler loaded; modules more than 500; time more than a third of import torch: True
#   undecorated, made and asked for its state: no compiler; the same state: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$work/plain.py" <<'PY'
import sys
import time

began = time.process_time()
import torch

imported = time.process_time() - began
weight = torch.nn.Parameter(torch.zeros(3))
loaded = lambda: "compiler loaded" if "torch._dynamo" in sys.modules else "no compiler"
first, modules, began = loaded(), len(sys.modules), time.process_time()
torch.optim.SGD([weight], lr=0.1)
took = time.process_time() - began
more = "more" if len(sys.modules) - modules > 500 else "fewer"
print(f"import torch: {first}; optimizer made: {loaded()}; modules {more} than 500; ", end="")
print(f"time more than a third of import torch: {took > imported / 3}")
print(f"{len(sys.modules) - modules} modules, {took:.2f} s beside {imported:.2f} s", file=sys.stderr)
PY
cat > "$work/undecorated.py" <<'PY'
import sys

import torch
from torch.optim import Optimizer

weight = torch.nn.Parameter(torch.zeros(3))
marked = Optimizer.add_param_group
Optimizer.add_param_group = marked.__wrapped__
optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
state = Optimizer.state_dict.__wrapped__(optimizer)
found = "compiler loaded" if "torch._dynamo" in sys.modules else "no compiler"
Optimizer.add_param_group = marked
print(f"undecorated, made and asked for its state: {found}; the same state: {state == optimizer.state_dict()}")
PY
for script in plain undecorated; do "$work/venv/bin/python" -W ignore "$work/$script.py"; done | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
import torch: no compiler; optimizer made: compiler loaded; modules more than 500; time more than a third of import torch: True
undecorated, made and asked for its state: no compiler; the same state: True
SEEN
