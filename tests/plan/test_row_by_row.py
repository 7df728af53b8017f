"""A model or a backward pass that couples the rows of a batch is named, and one that does not is not."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import handful
from handful.plan import row_by_row

DRAWN = torch.Generator().manual_seed(0)
X, Y = torch.randn(48, 6, generator=DRAWN), torch.randint(0, 3, (48,), generator=DRAWN)
IDS = torch.randint(0, 5, (48, 6), generator=DRAWN)
HOW = {"batch": 16, "until": "steps(2)", "lr": 0.1, "optimizer": "sgd", "valid": None, "quiet": True}
PREDICTIONS, GRADIENTS = "depends on the rows beside it", "gradients of parts do not add up"
WORDS = "divides its gradient by how often a word is in the batch"


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


def before_a_normalisation():
    return nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3), nn.InstanceNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    )


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
        (by_frequency, IDS, WORDS),
        (lambda: Hidden(torch.tanh), X, None),
        (lambda: Hidden(lambda h: F.layer_norm(h, (8,))), X, None),
        (lambda: Hidden(lambda h: h + 0.1 * torch.randn_like(h)), X, None),  # random, not coupled
        (lambda: hooked(lambda g: -2 * g), X, None),
        (before_a_normalisation, X, None),  # a bias whose gradient is rounding
        (lambda: nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Flatten(), nn.Linear(24, 3)), IDS, None),
    ],
    ids=["attention", "softmax", "largest", "batch norm", "norm of gradients", "clamp", "frequency", "tanh",
         "layer norm", "random", "reversal", "no gradient", "sparse"],
)  # fmt: skip
def test_what_couples_rows_is_said(make, x, of):
    (whole, alone), (parts, cut) = update(make, x, None), update(make, x, 4)
    assert (PREDICTIONS in alone, PREDICTIONS in cut) == (of == PREDICTIONS,) * 2
    assert GRADIENTS not in alone
    assert WORDS not in alone
    assert (GRADIENTS in cut) == (of in (GRADIENTS, PREDICTIONS))  # the update is another one, and it is said
    assert (WORDS in cut) == (of == WORDS)
    if "randn" not in str(make.__code__.co_names):
        assert bool(torch.allclose(whole, parts, rtol=1e-4, atol=1e-5)) == (of is None)


class WithState(nn.Module):
    """Its loss, and beside its scores a state that is of the batch; with `coupled` the scores are, too."""

    def __init__(self, coupled):
        super().__init__()
        self.hidden, self.out, self.coupled = nn.Linear(6, 8), nn.Linear(8, 3), coupled

    def forward(self, x, labels=None):
        hidden = self.hidden(x)
        state = hidden - hidden.mean(0)
        logits = self.out(state if self.coupled else hidden)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits, "state": state}


@pytest.mark.parametrize("coupled", [False, True])
def test_the_state_beside_scores_is_no_prediction(coupled):
    run = handful.fit(WithState(coupled), {"x": X, "labels": Y}, target="labels", **HOW)
    assert any(PREDICTIONS in note for note in run.plan.notes) == coupled


class Sequences(nn.Module):
    """One answer for each sequence [rows, places, 4]: of all places, or of those before its end."""

    def __init__(self, *, masked):
        super().__init__()
        self.hidden, self.out = nn.Linear(4, 8), nn.Linear(8, 3)
        if masked:
            self.forward = self.of_real

    def forward(self, x):
        return self.out(torch.tanh(self.hidden(x)).mean(1))

    def of_real(self, x, lengths):
        real = (torch.arange(x.shape[1]) < lengths[:, None]).float()[..., None]
        return self.out((torch.tanh(self.hidden(x)) * real).sum(1) / real.sum(1))


def pad(samples):
    xs, ys = zip(*samples, strict=True)
    return nn.utils.rnn.pad_sequence(xs, batch_first=True), torch.tensor(ys)


@pytest.mark.parametrize("collate", [None, pad])
@pytest.mark.parametrize("masked", [False, True])
def test_a_model_that_takes_padding_for_values_is_said(masked, collate):
    if masked and collate:
        pytest.skip("a collate function gives no lengths here")
    rows = [(torch.randn(2 + 7 * i % 11, 4, generator=DRAWN), int(Y[i])) for i in range(48)]
    run = handful.fit(Sequences(masked=masked), rows, collate=collate, **HOW)
    shortest = min(rows, key=lambda row: len(row[0]))
    alone, among = run.outputs([shortest]), run.outputs([shortest, *rows])[:1]
    assert bool(np.allclose(alone, among, atol=1e-6)) == masked  # else what is said would be wrong
    assert ("as it takes padding for values" in " ".join(run.plan.notes)) == (not masked)


def test_of_a_large_model_the_weights_with_hooks_are_looked_at(monkeypatch):
    monkeypatch.setattr(row_by_row, "MOST", 12)
    assert GRADIENTS in update(clamped, X, 4)[1]
    assert GRADIENTS in update(lambda: hooked(lambda g: g / g.norm()), X, 4)[1]
    assert GRADIENTS not in update(lambda: Hidden(torch.tanh), X, 4)[1]


def test_trying_costs_no_more_than_a_step_of_the_batch():
    """Rows forwards and backwards, counted, before step 1 of a mini-batch in parts."""
    seen = []
    net = Hidden(lambda h: (seen.append((len(h), torch.is_grad_enabled())), torch.tanh(h))[1])
    at_first = []
    handful.fit(net, (X, Y), micro_batch=4, callbacks=[lambda *_: at_first.append(len(seen))], **(HOW | {"batch": 8}))
    before = seen[: at_first[0]]
    assert sum(m for m, backwards in before if backwards) <= 8
    assert sum(m for m, backwards in before if not backwards) <= 3 * 8
    assert len(before) <= 9
