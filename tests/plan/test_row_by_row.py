"""A model or a backward pass that couples the rows of a batch is named, and one that does not is not."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import handful

DRAWN = torch.Generator().manual_seed(0)
X, Y = torch.randn(48, 6, generator=DRAWN), torch.randint(0, 3, (48,), generator=DRAWN)
IDS = torch.randint(0, 5, (48, 6), generator=DRAWN)
HOW = {"batch": 16, "until": "steps(2)", "lr": 0.1, "optimizer": "sgd", "valid": None, "quiet": True}
PREDICTIONS, GRADIENTS = "depends on the rows beside it", "gradients of parts do not add up"


class Hidden(nn.Module):
    """Two layers and `f` between them."""

    def __init__(self, f):
        super().__init__()
        self.first, self.last, self.f = nn.Linear(6, 8), nn.Linear(8, 3), f

    def forward(self, x):
        return self.last(self.f(self.first(x)))


def attention():
    layer = nn.MultiheadAttention(8, 2)  # [length, batch, width], where rows are the first axis
    net = Hidden(lambda h: layer(h, h, h)[0])
    net.attention = layer
    return net


def hooked(f):
    def hook(h):
        if h.requires_grad:
            h.register_hook(f)
        return h

    return Hidden(hook)


def clamped():
    net = Hidden(F.relu)
    net.first.weight.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))
    return net


def by_frequency():
    return nn.Sequential(nn.Embedding(5, 4, scale_grad_by_freq=True), nn.Flatten(), nn.Linear(24, 3))


def update(make, x, micro_batch):
    torch.manual_seed(0)
    run = handful.fit(make(), (x, Y), micro_batch=micro_batch, **HOW)
    return torch.cat([p.detach().flatten() for p in run.model.parameters()]), " ".join(run.plan.notes)


@pytest.mark.parametrize(
    ("make", "x", "of"),
    [
        (attention, X, PREDICTIONS),
        (lambda: Hidden(lambda h: h.softmax(0)), X, PREDICTIONS),
        (lambda: Hidden(lambda h: h / h.abs().max()), X, PREDICTIONS),
        (lambda: Hidden(lambda h: F.batch_norm(h, None, None, training=True)), X, PREDICTIONS),
        (lambda: hooked(lambda g: g / g.norm()), X, GRADIENTS),
        (clamped, X, GRADIENTS),
        (by_frequency, IDS, GRADIENTS),
        (lambda: Hidden(torch.tanh), X, None),
        (lambda: Hidden(lambda h: F.layer_norm(h, (8,))), X, None),
        (lambda: Hidden(lambda h: h + 0.1 * torch.randn_like(h)), X, None),  # random, not coupled
        (lambda: hooked(lambda g: -2 * g), X, None),
        (lambda: nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Flatten(), nn.Linear(24, 3)), IDS, None),
    ],
    ids=["attention", "softmax", "largest", "batch norm", "norm of gradients", "clamp", "frequency", "tanh",
         "layer norm", "random", "reversal", "sparse"],
)  # fmt: skip
def test_what_couples_rows_is_said(make, x, of):
    (whole, alone), (parts, cut) = update(make, x, None), update(make, x, 4)
    assert (PREDICTIONS in alone, PREDICTIONS in cut) == (of == PREDICTIONS,) * 2
    assert GRADIENTS not in alone
    assert (GRADIENTS in cut) == (of is not None)  # the update is another one, and it is said
    if "randn" not in str(make.__code__.co_names):
        assert bool(torch.allclose(whole, parts, rtol=1e-4, atol=1e-5)) == (of is None)
