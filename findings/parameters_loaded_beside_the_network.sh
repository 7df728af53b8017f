#!/usr/bin/env bash
# pyro-ppl 1.9.2 (torch 2.13.0): a run that is resumed from a saved parameter store computes with the first weights, and trains none, for ever.
#
#     pyro.get_param_store().save(file)          ... a new process, the network made anew:          pyro.get_param_store().load(file)
#
# `pyro.module("net", net)` in the model registers a network's weights in the store, the store is what SVI trains, and saving and loading it is the page's own
# "checkpoint". After the load `pyro.param("net$$$weight")` is the trained tensor, so one looks, sees it, and goes on with svi.step().
#
# Registering finds the name in the store and leaves both as they are: the store has the trained tensors, the network its first ones, and they are not the
# same tensors any more, as they had been in the run before. The forward pass goes through the network. The gradient goes to the network's weights;
# the optimizer steps on the store's, which have none. So the loss is that of an untrained network, at the first step and after any number of them,
# with not one bit of either moved. Predictions by `net(x)` are the first weights', too. There is no error and no warning, the optimizer's count goes up,
# and store.save() writes what was loaded. A note under load() has the argument that is needed, pyro.module("net", net, update_module_params=True), as something
# to be sure of, and no word of what comes without; the page of pyro.module does not speak of resuming. A PyroModule and state_dict() are another way.
#
# Output seen (CPU, x86_64, Python 3.11)
#   first run, 300 steps: loss 7377 -> -69 weights about 1: True
#   resumed as it comes the store has the trained weights: True
#     300 steps: loss 7377 -> 7377 the network is at its first weights: True
#     the store has moved: False
#   resumed {'update_module_params': True} the store has the trained weights: True
#     300 steps: loss -69 -> -69 the network is at its first weights: False
#     the store has moved: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check pyro-ppl==1.9.2 2> /dev/null
cat > "$work/resume.py" <<'PY'
import sys

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO


def started(**options):
    """A network with its first weights, and what trains it; what a new process would begin with."""
    pyro.clear_param_store()
    torch.manual_seed(1)
    net, x = torch.nn.Linear(2, 1), torch.randn(50, 2)
    y = x.sum(1)

    def model():
        pyro.module("net", net, **options)
        with pyro.plate("rows", 50):
            pyro.sample("y", dist.Normal(net(x).squeeze(), 0.1), obs=y)

    return net, SVI(model, lambda: None, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())


def steps(svi, number):
    losses = [svi.step() for _ in range(number)]
    return f"loss {losses[0]:.0f} -> {losses[-1]:.0f}"


net, svi = started()
print("first run, 300 steps:", steps(svi, 300), f"weights about 1: {torch.allclose(net.weight, torch.ones(2), atol=0.05)}")
pyro.get_param_store().save(sys.argv[1] + "/store")
for options in ({}, {"update_module_params": True}):
    net, svi = started(**options)
    first = net.weight.detach().clone()
    pyro.get_param_store().load(sys.argv[1] + "/store")
    loaded = pyro.param("net$$$weight").detach().clone()
    print("resumed", options or "as it comes", "the store has the trained weights:", torch.allclose(loaded, torch.ones(2), atol=0.05))
    print("  300 steps:", steps(svi, 300), f"the network is at its first weights: {torch.equal(net.weight, first)}")
    print("  the store has moved:", not torch.equal(pyro.param("net$$$weight"), loaded))
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/resume.py" "$work" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
first run, 300 steps: loss 7377 -> -69 weights about 1: True
resumed as it comes the store has the trained weights: True
  300 steps: loss 7377 -> 7377 the network is at its first weights: True
  the store has moved: False
resumed {'update_module_params': True} the store has the trained weights: True
  300 steps: loss -69 -> -69 the network is at its first weights: False
  the store has moved: True
SEEN
