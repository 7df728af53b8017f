"""Losses of the caller's own: what they make of the rows is found before step 1, and the update is whole."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import handful
from handful.base.errors import HandfulError
from handful.data.base import Batch
from handful.losses.loss import cross_entropy
from handful.training.objective import Objective
from handful.training.special.coupling import loss_form
from handful.training.special.exact import exact_gradient, gradient_that_fits
from handful.training.watch.guards import OutOfMemory

X = torch.randn(96, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0.5).long()
UNEVEN = torch.tensor([1.0, 5.0, 0.2])
QUICK = {"batch": 12, "lr": 0.05, "optimizer": "sgd", "schedule": "constant", "until": "steps(5)", "shuffle": "none",
         "valid": 0, "l2": 0.0, "quiet": True}  # fmt: skip


def mean(o, t):
    return F.cross_entropy(o, t)


def total(o, t):
    return F.cross_entropy(o, t, reduction="sum")


def total_of_squares(o, t):
    return ((o[:, 0] - t) ** 2).sum()


def weighs(o, t):
    return F.cross_entropy(o, t, weight=UNEVEN)


def masks(o, t):
    kept = (t != 1).float()
    return (F.cross_entropy(o, t, reduction="none") * kept).sum() / kept.sum().clamp_min(1e-6)


def couples(o, t):
    z = F.normalize(o, dim=1)
    return F.cross_entropy(z @ z.T * 5, torch.arange(len(z)))


def couples_by_row(o, t):
    z = F.normalize(o, dim=1)
    return F.cross_entropy(z @ z.T * 5, torch.arange(len(z)), reduction="none")


def spreads(o, t):
    return F.cross_entropy(o, t) + o.var(0).sum()  # not a number for one row


class Counting(nn.Module):
    """A loss with a state of its own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, o, t):
        self.calls += 1
        return F.cross_entropy(o, t)


def pairs(o, t):
    """Of rows of two classes each: no value where one of them is missing, as in a single row."""
    return F.softplus(o[t == 0, 0][None] - o[t != 0, 0][:, None]).mean()


def net(start=None):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    if start is not None:
        nn.init.constant_(model.weight, start)
        nn.init.constant_(model.bias, start)
    return model


def by_hand(loss, divide=False):
    """The plain loop over whole mini-batches of 12."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for k in range(5):
        part = slice(12 * k, 12 * k + 12)
        optimizer.zero_grad()
        (loss(model(X[part]), Y[part]) / (12 if divide else 1)).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("micro", [None, 1, 5, 12])
@pytest.mark.parametrize(
    ("loss", "note"),
    [
        (mean, None),
        (Counting(), None),
        (lambda o, t: F.cross_entropy(o, t, reduction="none"), None),
        (total, "the loss is a sum over the rows; the mini-batch's mean is used"),
        (total_of_squares, "the loss is a sum over the rows"),
        (weighs, "the loss weighs the rows of a batch unevenly"),
        (masks, "the loss weighs the rows of a batch unevenly"),
        (couples, "the loss couples the rows of a batch"),
        (couples_by_row, "the loss couples the rows of a batch"),
        (spreads, "the loss couples the rows of a batch"),
        (pairs, "the rows of a batch"),
    ],
)
def test_the_update_is_that_of_the_whole_mini_batch(loss, note, micro):
    model = net()
    run = handful.fit(model, (X.numpy(), Y.numpy()), loss=loss, micro_batch=micro or "auto", **QUICK)
    reference = by_hand(lambda o, t: loss(o, t).mean(), divide=loss in (total, total_of_squares))
    torch.testing.assert_close(model.weight, reference.weight, rtol=1e-5, atol=1e-7)
    said = [n for n in run.plan.notes if "the loss " in n]
    assert (note is None and not said) or note in said[0]
    whole = note is not None and "sum" not in note
    assert run.plan.micro_batch == (None if whole else micro)


@pytest.mark.parametrize("start", [0.0, 0.3])
def test_a_model_that_starts_even_is_no_disguise(start):
    """All outputs, and so all losses, are the same."""
    batch = Batch({"x": X[:16], "y": Y[:16]}, torch.arange(16).numpy())
    for loss, words in ((weighs, "weighs"), (couples, "couples"), (masks, "weighs")):
        assert words in loss_form(Objective(net(start), loss), batch).coupling
    assert loss_form(Objective(net(start), total), batch).summed


def test_probabilities_and_structures_are_looked_into():
    batch = Batch({"x": X[:16], "y": (Y[:16] > 0).float()}, torch.arange(16).numpy())

    class Two(nn.Module):
        def forward(self, x):
            return {"p": torch.sigmoid(x[:, 0]), "more": (x, x[:, :2])}

    def entropy(o, t):
        return F.binary_cross_entropy(o["p"], t)

    def weighed(o, t):
        return F.binary_cross_entropy(o["p"], t, weight=1 + 4 * t) / (1 + 4 * t).mean()

    assert loss_form(Objective(Two(), entropy), batch).coupling is None
    assert "weighs" in loss_form(Objective(Two(), weighed), batch).coupling


def test_a_loss_with_a_state_keeps_it():
    loss, batch = Counting(), Batch({"x": X[:16], "y": Y[:16]}, torch.arange(16).numpy())
    loss_form(Objective(net(), loss), batch)
    assert float(loss.calls) == 0


class Hungry(nn.Linear):
    """Out of memory for more than 8 rows."""

    def forward(self, x):
        if len(x) > 8 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("no memory")
        return super().forward(x)


def test_out_of_memory_ends_with_a_sentence_where_the_batch_cannot_be_cut():
    words = "a mini-batch of 12 rows does not fit in memory, and it cannot be cut into parts because the loss couples"
    with pytest.raises(OutOfMemory, match=words):
        handful.fit(Hungry(4, 3), (X.numpy(), Y.numpy()), loss=couples, **QUICK)
    run = handful.fit(Hungry(4, 3), (X.numpy(), Y.numpy()), loss=mean, **QUICK)
    assert run.state.micro_batch == 6
    run = handful.fit(
        Hungry(4, 3), (X.numpy(), Y.numpy()), loss=couples, **QUICK | {"batch": "auto", "until": "epochs(2)"}
    )
    assert run.plan.batch <= 8
    assert "cannot be cut" not in run.stopped_because


def test_a_sum_is_a_mean_after_loading(tmp_path):
    run = handful.fit(net(), (X.numpy(), Y.numpy()), loss=total, out=tmp_path / "run", **QUICK)
    loaded = handful.load(tmp_path / "run", model=copy.deepcopy(run.model), loss=total)
    expected = float(F.cross_entropy(run.model(X).detach(), Y))
    for one in (run, loaded):
        assert one.evaluate((X.numpy(), Y.numpy()))["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("micro", [None, 2])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw", "muon"])
def test_a_mini_batch_that_counts_for_nothing(micro, optimizer):
    """All targets ignored, or all weights 0: the weights are those of a run without it, and training goes on."""
    x, y = X.reshape(12, 8, 4).numpy(), (Y % 2).reshape(12, 8).clone().numpy()
    y[3:6] = -100
    options = QUICK | {"batch": 3, "optimizer": optimizer, "lr": 0.01, "l2": 0.1, "micro_batch": micro or "auto"}

    def trained(rows, steps, **more):
        torch.manual_seed(0)
        model = nn.Linear(4, 2)
        data = {name: value[rows] for name, value in {"x": x, "y": y, **more}.items()}
        given = {"weight": "w"} if more else {}
        run = handful.fit(model, data, target="y", loss="token_cross_entropy",
                          **options | {"until": f"steps({steps})"}, **given)  # fmt: skip
        return run, [p.detach() for p in model.parameters()]

    kept = [0, 1, 2, 6, 7, 8, 9, 10, 11]
    run, weights = trained(slice(None), 4)
    assert run.stopped_because == "reached 4 steps"
    _, expected = trained(kept, 3)
    assert all(map(torch.equal, weights, expected))


def test_rows_of_weight_zero_count_for_nothing():
    model = net()
    weight = torch.zeros(4, dtype=torch.float64)
    for micro in (None, 2):
        batch = Batch({"x": X[:4], "y": Y[:4], "weight": weight}, torch.arange(4).numpy())
        total = exact_gradient(Objective(model, cross_entropy()), batch, micro).total
        assert float(total.weight) == 0
        assert all(p.grad is None for p in model.parameters())


def test_a_mean_of_nothing_is_named():
    """A loss that returns one number has none for a mini-batch of ignored targets, where it is not known to leave them
    out, as it cannot be tried on scores alone."""

    class Named(nn.Linear):
        def forward(self, x):
            return {"of": {"scores": super().forward(x)}}

    def loss(o, t):
        return F.cross_entropy(o["of"]["scores"].flatten(0, 1), t.flatten())

    y = torch.full((12, 8), -100)
    y[6:] = 1
    y[7:] = 0
    data, options = (X.reshape(12, 8, 4).numpy(), y.numpy()), QUICK | {"batch": 3}
    with pytest.raises(
        HandfulError, match="all its targets are -100, of which a loss that returns one number has no mean"
    ):
        handful.fit(Named(4, 2), data, loss=loss, **options)


def test_memory_that_runs_out_in_parts_is_as_before():
    model = Hungry(4, 3)
    _, micro = gradient_that_fits(Objective(model, mean), Batch({"x": X, "y": Y}, torch.arange(96).numpy()), None)
    assert micro == 6


def overlap(o, t):
    p = o.softmax(1)[:, 1]
    return 1 - (p * t).sum() / (p + t - p * t).sum()


class Pixels(nn.Module):
    """Scores of two classes of pixels; with the loss, where it gets the target."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1)).double()

    def forward(self, x, y=None):
        scores = self.body(x)
        return scores if y is None else {"logits": scores, "loss": overlap(scores, y)}


@pytest.mark.parametrize("loss", [overlap, "model"])
def test_an_overlap_of_masks_that_are_alike_is_computed_whole(loss):
    x = torch.rand(24, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    y, model, plain = (x[:, 0] > 0.5).long(), Pixels(), Pixels()
    run = handful.fit(model, (x, y), loss=loss, micro_batch=3, **QUICK | {"batch": 8, "until": "steps(3)"})
    assert any("a mini-batch is kept whole" in note for note in run.plan.notes)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05)
    for start in (0, 8, 16):
        optimizer.zero_grad()
        overlap(plain(x[start : start + 8]), y[start : start + 8]).backward()
        optimizer.step()
    torch.testing.assert_close(model.body[0].weight, plain.body[0].weight, rtol=1e-10, atol=1e-14)


class Focal(nn.CrossEntropyLoss):
    def forward(self, o, t):
        entropy = super().forward(o, t)
        return ((1 - torch.exp(-entropy)) ** 2 * entropy).mean()


class Root(nn.MSELoss):
    def forward(self, o, t):
        return super().forward(o, t).sqrt()


class Weighted(nn.modules.loss._WeightedLoss):
    def forward(self, o, t):
        values = F.cross_entropy(o, t, reduction="none") * UNEVEN.to(o)[t]
        return values.sum() / UNEVEN.to(o)[t].sum() if self.reduction == "mean" else values


def root(o, t, reduction="mean"):
    squares = (o - t) ** 2
    return squares.mean().sqrt() if reduction == "mean" else squares.sqrt()


@pytest.mark.parametrize("micro_batch", [None, 5])
@pytest.mark.parametrize("loss", [Focal(), Focal(reduction="none"), Root(), Weighted(), root, Focal(ignore_index=1)])
def test_kinds_of_torchs_losses_are_minimised_as_they_are_given(loss, micro_batch):
    numbers = loss is root or isinstance(loss, Root)
    torch.manual_seed(0)
    model = (nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)) if numbers else nn.Linear(4, 3)).double()
    plain, y = copy.deepcopy(model), X[:, 0].double() if numbers else Y
    run = handful.fit(model, (X.double(), y), loss=loss, micro_batch=micro_batch, **QUICK)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05)
    for k in range(0, 60, 12):
        optimizer.zero_grad()
        loss(plain(X.double()[k : k + 12]), y[k : k + 12]).mean().backward()
        optimizer.step()
    for found, due in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, due, rtol=1e-9, atol=1e-11)
    assert run.pipeline.task == ("regression" if numbers else "classification")
    with torch.no_grad():
        assert run.evaluate((X.double(), y))["loss"] == pytest.approx(
            loss(plain(X.double()), y).mean().item(), rel=1e-6
        )
