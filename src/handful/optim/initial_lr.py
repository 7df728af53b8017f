"""The learning rate to begin with, for Adam and its kin, from the shapes of a model's weights."""

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from handful.base.plan import Choice
from handful.models.plain import Linear
from handful.optim.parts import parts_of

STEP = 0.035  # one step of Adam over the spread 1 / sqrt(fan-in) that layers begin with
LINEAR = 0.4  # one step of Adam times the fan-in of a single layer: about how far its outputs move
LEAST, MOST, MOST_LINEAR = 1e-4, 2e-2, 5e-2
FINE_TUNING = 5e-5
# By benchmarks/fit_defaults.py: ridge regression of log2(best rate) in runs of 200 to 670 steps on 31 small networks of
# 20 data sets, AdamW, batch 32. Error on data sets left out: 1.6 octaves (root mean square), nine in ten within 2.45.
# The rate at 32 inputs, of several layers and of one; the power by which it falls; what the networks had; the error.
LEARNED, LEARNED_ONE, POWER = 0.0152, 0.0428, 1.11
LEARNED_FROM, WITHIN = (8.0, 300.0), 2**2.45
USUAL_BATCH, UPDATES = 32, 550  # where none is measured; so many at least are to be left where a batch is made larger
IN_A_ROW, FALLS = 4, 1.5  # layers that follow one another; the power by which the rate falls with more
SLOWER, SLOWEST = 3.0, 10.0  # see `times_the_epochs`
ADAPTIVE = frozenset({"adam", "adamw", "nadam", "radam", "rmsprop", "adamax", "adagrad", "muon"})


def rate_of_shapes(model: nn.Module) -> tuple[float, str]:
    """(rate, reason) of Adam's learning rate for a batch of about 32.

    A step of Adam moves each weight by about the rate, whatever the gradient; a layer's weights begin with a spread of
    about 1 / sqrt(fan-in). The rate is a fixed share of that spread, 0.035 / sqrt(n), with n the geometric mean of the
    fan-in over the weights of two and more dimensions (an embedding counts as what its own spread amounts to, torch's
    as 1), within 1e-4 and 2e-2. That wider layers ask for smaller rates is known (Yang et al. 2022, arXiv:2203.03466,
    in proportion to 1 / n for hidden layers); the root and 0.035 are rules of thumb, set in trials on scikit-learn's
    sets and movie reviews that are no benchmark yet.

    A model of one layer has no scale to keep: its rate is 0.4 / n, at most 0.05, so that a step moves an output by as
    much whatever n is (0.4: likewise).

    Where a LayerNorm's scale is no longer one, the weights were trained before: then 5e-5, the largest of the rates
    that Devlin et al. 2019 (arXiv:1810.04805) fine-tune with. Without such a layer trained weights look like new ones.

    >>> rate_of_shapes(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))[0]
    0.0044
    """
    trained = next((name for name, m in model.named_modules() if _was_trained(m)), None)
    if trained is not None:
        return FINE_TUNING, f"'{trained}' has been trained before: a rate for fine-tuning (Devlin et al. 2019)"
    fans = fans_in(model)
    if not fans:
        return 1e-3, "Kingma and Ba 2015; no weights have a shape that suggests another"
    if len(fans) == 1:
        rate = float(f"{min(MOST_LINEAR, max(LEAST, LINEAR / fans[0])):.2g}")
        return rate, f"a single layer of {fans[0]:.0f} inputs: a step moves an output by about {LINEAR}"
    n = float(np.exp(np.mean(np.log(fans))))
    rate = float(f"{min(MOST, max(LEAST, STEP / math.sqrt(n))):.2g}")
    return rate, f"3.5% of the spread of new weights whose layers have {n:.0f} inputs (geometric mean)"


def calmer_by_depth(model: nn.Module, outputs: Callable[[], Iterable[Tensor]]) -> tuple[float, str]:
    """(factor, reason) of what the open rate of Adam and its kin is multiplied by where many layers follow one another
    with no way past them: each step moves them all, and what a layer gets is moved by all before it. Batch
    normalisation keeps rows apart there, which that of each row does not. 4 layers and the power of 1.5 were set in
    trials with chains of 5 to 16 on scikit-learn's sets.

    outputs: makes them, with their graph; it is asked for where there are so many weights alone.

    >>> chain = nn.Sequential(*[nn.Linear(8, 8) for _ in range(8)])
    >>> calmer_by_depth(chain, lambda: [chain(torch.zeros(2, 8))])
    (0.35..., '8 layers in a row')
    >>> calmer_by_depth(chain, lambda: [chain[7](x := torch.zeros(2, 8)) + chain[:7](x)])[0]
    0.43...
    """
    weights = {id(p) for p in model.parameters() if p.requires_grad and p.ndim > 1}
    norms = sum("BatchNorm" in type(module).__name__ for module in model.modules())
    if len(weights) <= max(IN_A_ROW, 2 * norms):
        return 1.0, ""
    ways = deque((output.grad_fn, 0) for output in outputs())
    nearest: dict[Any, int] = {}  # to each node of the graph, the fewest products on the way
    while ways:
        node, products = ways.popleft()
        if node is None or node in nearest:
            continue
        nearest[node] = products
        product = any(kind in node.name() for kind in ("mmBackward", "MmBackward", "Convolution"))
        (ways.extend if product else ways.extendleft)((n, products + product) for n, _ in node.next_functions)
    layers = max((n for node, n in nearest.items() if id(getattr(node, "variable", None)) in weights), default=0)
    return min(1.0, (IN_A_ROW / max(1, layers)) ** FALLS), f"{layers} layers in a row"


def times_the_epochs(
    model: nn.Module, optimizer: Optimizer, lr: Choice, batch: Choice, updates: float
) -> tuple[float, float]:
    """How many times as many epochs Adam and its kin need with what was given to move as far as at the usual rate in
    batches of 32: (for a smaller rate, for a larger batch as well). A rate left open follows the root of the batch.
    updates: of the usual epochs in the usual batches; a larger batch is made up for until there are 550 again, ten
    times at most; a rate three times at most. The three numbers: by trials on six small data sets.

    >>> net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    >>> adam, usual, small = torch.optim.Adam(net.parameters()), Choice(0.0044, "default"), Choice(0.0022, "given")
    >>> times_the_epochs(net, adam, small, Choice(32, "default"), updates=2000)
    (2.0, 2.0)
    >>> times_the_epochs(net, adam, usual, Choice(512, "given"), updates=2000)
    (1.0, 4.0)
    """
    rate = lr.value if lr.status in ("given", "found") else None  # found: set where the optimizer was made
    larger = max(1.0, batch.value / USUAL_BATCH) if batch.status == "given" else 1.0
    kin = {type(part).__name__.lower() for part in parts_of(optimizer)} <= ADAPTIVE
    if not kin or isinstance(rate, dict):
        return 1.0, 1.0
    of_rate = 1.0 if rate is None else min(SLOWER, max(1.0, rate_of_shapes(model)[0] / rate))
    of_both = min(SLOWEST, math.sqrt(larger) if rate is None else of_rate * larger, UPDATES * larger / updates)
    return of_rate, max(of_rate, of_both)


def learned_rate(model: nn.Module) -> tuple[float, str] | None:
    """(rate, reason) of AdamW's learning rate in a short run at a batch of 32, as it was learned from others; None for
    a model unlike those that it was learned from: with embeddings, trained before, or of wider or narrower layers.

    >>> learned_rate(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))[0]
    0.007
    >>> learned_rate(nn.Sequential(nn.Embedding(100, 64), nn.Linear(64, 2)))
    """
    fans = fans_in(model)
    n = float(np.exp(np.mean(np.log(fans)))) if fans else math.inf
    others = any(isinstance(m, nn.Embedding | nn.EmbeddingBag) or _was_trained(m) for m in model.modules())
    if others or not LEARNED_FROM[0] <= n <= LEARNED_FROM[1]:
        return None
    at_32, most = (LEARNED_ONE, MOST_LINEAR) if len(fans) == 1 else (LEARNED, MOST)
    rate = float(f"{min(most, at_32 * (32 / n) ** POWER):.2g}")
    low, high = (float(f"{end:.1g}") for end in (rate / WITHIN, rate * WITHIN))
    return rate, (
        f"learned from 31 small networks in short runs, for layers of {n:.0f} inputs; the best was within {low:g} to "
        f"{high:g} for nine in ten"
    )


def fans_in(model: nn.Module) -> list[float]:
    """The inputs of each output, for every trainable weight of two and more dimensions but those of norms; for an
    embedding 1 over its mean square; one of zeros has no spread and is left out. Of the linear model, where
    most numbers of a row are 0 (categories one-hot, words), those that are not.

    >>> fans_in(nn.Sequential(nn.Conv2d(3, 8, 5), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 2)))
    [75.0, 32.0]
    """
    fans: list[float] = []
    seen: set[int] = set()
    for module in model.modules():
        if "Norm" in type(module).__name__:
            continue
        for p in module.parameters(recurse=False):
            if not p.requires_grad or p.ndim < 2 or p.numel() == 0 or id(p) in seen:
                continue
            seen.add(id(p))
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                square = 1 / p.shape[1] if p.is_meta else float(p.detach().float().square().mean())
                fans += [1 / square] if square > 0 else []
            else:
                fans.append(float(p[0].numel()))
    if type(model) is Linear and fans and 0 < 2 * model.of_row < fans[0]:
        return [model.of_row]
    return fans


def _was_trained(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    named = any(kind in type(module).__name__ for kind in ("LayerNorm", "RMSNorm"))
    if not named or not isinstance(weight, nn.Parameter) or not weight.requires_grad or weight.is_meta:
        return False
    return not bool(torch.all(weight == weight.reshape(-1)[0]))
