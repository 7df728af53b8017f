"""What of a model's output predicts the target, where the loss is the caller's own."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import handful
from handful.base.errors import HandfulError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(600, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0.3)
QUICK = {"batch": 32, "lr": 0.02, "until": "epochs(4)", "quiet": True}


class Both(NamedTuple):
    hidden: torch.Tensor
    scores: torch.Tensor


class Net(nn.Module):
    """A layer whose numbers come in some structure."""

    def __init__(self, outputs, give):
        super().__init__()
        self.layer, self.give = nn.Linear(4, outputs), give

    def forward(self, x):
        return self.give(self.layer(x))


def entropy(take):
    return lambda o, t: F.cross_entropy(take(o), t, reduction="none")


@pytest.mark.parametrize(
    ("give", "take", "part"),
    [
        (lambda o: o, lambda o: o, ""),
        (lambda o: {"logits": o}, lambda o: o["logits"], "logits"),
        (lambda o: {"hidden": o * 0.5, "out": o}, lambda o: o["out"], "out"),
        (lambda o: (o * 2, o), lambda o: o[1], "1"),
        (lambda o: (o, o[:, :1]), lambda o: o[0], "0"),
        (lambda o: [o[:, :2], o], lambda o: o[1], "1"),
        (lambda o: Both(o.exp(), o), lambda o: o.scores, "1"),
    ],
)
def test_dicts_and_tuples_train_predict_and_evaluate(tmp_path, give, take, part):
    model = Net(3, give)
    run = handful.fit(model, (X, Y), loss=entropy(take), out=tmp_path / "run", **QUICK)
    raw = take(model(torch.from_numpy(X))).detach()
    expected = raw.argmax(1).numpy()
    outputs = run.outputs(X)
    assert type(outputs) is type(model(torch.from_numpy(X[:2])))
    torch.testing.assert_close(take(outputs), raw)
    loaded = handful.load(tmp_path / "run", model=model, loss=entropy(take))
    for one in (run, loaded):
        assert (one.predict(X) == expected).all()
        torch.testing.assert_close(one.predict(X, probabilities=True), raw.double().softmax(1), rtol=1e-5, atol=1e-6)
        assert one.evaluate((X, Y), "accuracy")["accuracy"] == pytest.approx((expected == Y).mean())
        assert one.evaluation((X, Y)).confusion.trace() == (expected == Y).sum()
    assert run.plan.score == "valid_accuracy"
    assert any(f"'{part}' of what the model gives is taken" in note for note in run.plan.notes) == (part != "")


def centre(o, t):
    return (o - torch.ones_like(o)).square().mean(1)


def contrastive(o, t):
    z = F.normalize(o, dim=1)
    same = (t[:, None] == t[None]).float()
    return ((z @ z.T - same) ** 2).mean()


@pytest.mark.parametrize("outputs", [2, 3, 8])
@pytest.mark.parametrize("loss", [centre, contrastive])
def test_embeddings_are_not_taken_for_scores(outputs, loss):
    """As many numbers as there are classes, or more."""
    run = handful.fit(Net(outputs, lambda o: o), (X, Y), loss=loss, **QUICK)
    assert run.plan.score == "valid_loss"
    assert "valid_accuracy" not in run.scores
    assert run.evaluation((X, Y)).confusion is None
    assert run.outputs(X).shape == (600, outputs)
    for call in (lambda: run.predict(X), lambda: run.predict(X, probabilities=True)):
        with pytest.raises(HandfulError, match=r"do not predict 'y' \(a classification\); run.outputs\(data\) gives"):
            call()


@pytest.mark.parametrize(
    "loss",
    [
        lambda o, t: F.multi_margin_loss(o, t),
        lambda o, t: -F.log_softmax(o, 1).gather(1, t[:, None]).mean(),
        lambda o, t: F.mse_loss(o.softmax(1), F.one_hot(t, o.shape[1]).float()),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        lambda o, t: F.cross_entropy(o, t, weight=torch.tensor([1.0, 0.0, 3.0])),
    ],
)
def test_losses_of_class_scores_are_known(loss):
    assert handful.fit(Net(3, lambda o: o), (X, Y), loss=loss, **QUICK).plan.score == "valid_accuracy"


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("give", [lambda o: (o[0], o[1]), lambda o: {"log": o[0], "mean": o[1]}])
def test_of_parts_of_one_shape_the_loss_tells_which_predicts(give, columns):
    z = np.stack([X[:, 0] - X[:, 3]] * columns, 1)
    model = Net(2 * columns, lambda o: give(o.chunk(2, 1)))

    def loss(o, t):
        log, mean = o.values() if isinstance(o, dict) else o
        return 0.5 * ((t.reshape(mean.shape) - mean) ** 2 * (-log).exp() + log).mean(1)

    run = handful.fit(model, (X, z), loss=loss, **QUICK)
    mean = [*model.layer(torch.from_numpy(X)).chunk(2, 1)][1].detach()
    np.testing.assert_allclose(np.reshape(run.predict(X), mean.shape), mean, rtol=1e-5)


def test_numbers_too():
    z = (X @ np.array([1.0, 2.0, 0.0, -1.0])).astype(np.float32)
    model = Net(1, lambda o: {"mean": o[:, 0], "spread": o[:, 0].exp()})
    run = handful.fit(model, (X, z), loss=lambda o, t: (o["mean"] - t) ** 2, **QUICK)
    expected = model(torch.from_numpy(X))["mean"].detach().numpy()
    np.testing.assert_allclose(run.predict(X), expected, rtol=1e-5)
    assert run.evaluate((X, z))["mae"] == pytest.approx(np.abs(expected - z).mean(), rel=1e-5)
    one = handful.fit(Net(1, lambda o: (o[:, 0] > 0, o[:, 0])), (X, Y > 0), loss=lambda o, t:
                      F.binary_cross_entropy_with_logits(o[1], t.float()), **QUICK)  # fmt: skip
    assert one.evaluate((X, Y > 0))["accuracy"] == pytest.approx((one.predict(X) == (Y > 0)).mean())
