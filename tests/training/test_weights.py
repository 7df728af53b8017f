"""Weights of rows and classes count over all training rows: a mini-batch is right on average, whatever its size."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import handful
from handful.base.errors import HandfulError
from handful.training.special.exact import exact_gradient

RNG = np.random.default_rng(0)
N = 60
X = RNG.normal(size=(N, 3))
Y = (X[:, 0] + RNG.normal(size=N) > 1).astype(np.int64)
W = RNG.integers(1, 32, N) / 8 * (RNG.uniform(size=N) > 0.2)
QUIET = {"quiet": True, "valid": 0, "optimizer": "sgd", "l2": 0.0, "schedule": "constant", "lr": 0.125, "threads": 1}
AS_COLUMNS = {"x": X, "y": Y, "w": W}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2).double()


@pytest.mark.parametrize("batch", [1, 4, 7, N])
@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize(
    ("given", "each"),
    [
        ({"class_weight": {0: 1.0, 1: 50.0}}, np.where(Y == 1, 50.0, 1.0)),
        ({"class_weight": "balanced"}, np.array([float(f"{N / (2 * k):.6g}") for k in np.bincount(Y)])[Y]),
        ({"weight": "w", "target": "y"}, W),
        (
            {"weight": "w", "target": "y", "class_weight": "balanced"},
            W * np.array([float(f"{W.sum() / (2 * k):.6g}") for k in np.bincount(Y, W)])[Y],
        ),
        ({"weight": "w", "target": "y", "class_weight": [2.0, 5.0]}, W * np.array([2.0, 5.0])[Y]),
    ],
)
def test_steps_are_those_of_a_plain_loop(batch, micro_batch, given, each):
    model, plain = net(), net()
    data = AS_COLUMNS if "weight" in given else (X, Y)
    more = {"micro_batch": micro_batch} if micro_batch and batch > 3 else {}
    handful.fit(model, data, batch=batch, until="steps(8)", seed=3, **given, **QUIET, **more)
    sgd, order = torch.optim.SGD(plain.parameters(), lr=0.125), handful.Order(N, seed=3)
    share = torch.from_numpy(each / each.mean())
    for k in range(8):
        ids = torch.from_numpy(order[k * batch : (k + 1) * batch])
        losses = F.cross_entropy(plain(torch.from_numpy(X)[ids]), torch.from_numpy(Y)[ids], reduction="none")
        sgd.zero_grad()
        (losses * share[ids]).mean().backward()
        sgd.step()
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_pixels_of_classes_and_a_regression():
    """The gradients of an epoch's mini-batches have the whole set's gradient as their mean, exactly."""
    pixels, ids = RNG.normal(size=(12, 1, 4, 4)), RNG.integers(0, 3, (12, 4, 4))
    ids[0, :2] = -100
    for model, data, given in (
        (nn.Conv2d(1, 3, 1).double(), (pixels, ids), {"class_weight": [1.0, 20.0, 0.5]}),
        (nn.Linear(3, 2).double(), {"x": X[:12], "y": X[:12, :2] ** 2, "w": W[:12]}, {"weight": "w", "target": "y"}),
        ("linear", {"x": X[:12], "y": X[:12, 0] ** 2, "w": W[:12]}, {"weight": "w", "target": "y"}),
    ):
        run = handful.fit(model, data, batch=4, until="steps(1)", precision="float64", **given, **QUIET)
        source, objective = handful.open(data, target=given.get("target")), run.objective
        objective.model.train()
        means = []
        for size in (12, 3, 1):
            grads = []
            for start in range(0, 12, size):
                objective.model.zero_grad()
                exact_gradient(objective, run.pipeline(source.take(range(start, start + size))))
                grads.append(torch.cat([p.grad.reshape(-1) for p in objective.parameters]))
            means.append(torch.stack(grads).mean(0))
        torch.testing.assert_close(means[1], means[0], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(means[2], means[0], rtol=1e-9, atol=1e-12)


def test_torchs_own_weights_stay_torchs_and_that_is_said():
    weight = torch.tensor([1.0, 50.0], dtype=torch.float64)
    model, plain = net(), net()
    run = handful.fit(model, (X, Y), batch=4, until="steps(3)", loss=nn.CrossEntropyLoss(weight), seed=3, **QUIET)
    assert any("count within each mini-batch" in note for note in run.plan.notes)
    sgd, order = torch.optim.SGD(plain.parameters(), lr=0.125), handful.Order(N, seed=3)
    for k in range(3):
        ids = torch.from_numpy(order[k * 4 : k * 4 + 4])
        sgd.zero_grad()
        F.cross_entropy(plain(torch.from_numpy(X)[ids]), torch.from_numpy(Y)[ids], weight).backward()
        sgd.step()
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    said = handful.fit(net(), (X, Y), batch=4, until="steps(1)", class_weight=[1, 50], **QUIET).plan.notes
    assert not any("count within" in note for note in said)


@pytest.mark.parametrize(
    ("weights", "given"),
    [(0 * W, {}), ((Y == 0) * 1.0, {"class_weight": [0.0, 1.0]})],
    ids=["rows", "rows and classes"],
)
def test_weights_that_are_all_zero_are_refused(weights, given):
    with pytest.raises(HandfulError, match="weights of all 60 training rows are 0: there is nothing"):
        handful.fit(
            net(), {"x": X, "y": Y, "w": weights}, target="y", weight="w", batch=4, until="steps(2)", **given, **QUIET
        )
