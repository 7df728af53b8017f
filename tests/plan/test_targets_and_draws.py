"""Matrices of classes, shares and labels as targets; rows drawn by class or by weight; rates by depth."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chi2
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

import handful
from handful.base.errors import HandfulError
from handful.optim.parts import by_depth

RNG = np.random.default_rng(0)
N = 90
X = RNG.normal(size=(N, 4)).astype("float32")
Y = RNG.integers(0, 3, N)
FIT = {"batch": 15, "lr": 0.05, "until": "steps(9)", "quiet": True}


def net(k=3):
    torch.manual_seed(0)
    return nn.Linear(4, k)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "bool"])
def test_one_hot_rows_are_classes(dtype):
    model, twin, matrix = net(), net(), np.eye(3)[Y].astype(dtype)
    how = FIT | {"valid": (X, matrix)}
    run, other = handful.fit(model, (X, matrix), **how), handful.fit(twin, (X, Y), **how | {"valid": (X, Y)})
    assert any("has one 1 per row, so it is taken for 3 classes" in note for note in run.plan.notes)
    assert run.plan.choices["loss"].value == "cross_entropy"
    assert torch.equal(model.weight, twin.weight)
    assert run.predict(X).tolist() == other.predict(X).tolist()
    assert run.evaluate((X, matrix)) == other.evaluate((X, Y))
    with pytest.raises(HandfulError, match="has no single 1 in row 2"):
        run.evaluate((X[:4], np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]], dtype)))


def test_one_hot_for_ready_made_models_and_what_stays_labels():
    matrix = np.eye(3, dtype="float32")[Y]
    run = handful.fit("mlp", (X, matrix), **FIT)
    assert run.plan.choices["task"].value == "classification"
    assert run.predict(X, probabilities=True).sum(1).tolist() == pytest.approx([1] * N)
    kept = {"task": "multilabel"}, {"loss": nn.BCEWithLogitsLoss()}
    for how in kept:
        assert handful.fit(net(), (X, matrix), **FIT, **how).plan.choices["task"].value == "multilabel"
    several = np.maximum(matrix, np.roll(matrix, 1, 0))
    assert handful.fit(net(), (X, several), **FIT).plan.choices["task"].value == "multilabel"
    columns = {"a": X[:, 0], "p": (Y == 0) * 1, "q": (Y == 1) * 1, "r": (Y == 2) * 1}
    assert handful.fit("mlp", columns, target="p,q,r", **FIT).plan.choices["task"].value == "multilabel"


@pytest.mark.parametrize("model", ["mlp", "own"])
def test_rows_that_add_up_to_one_are_shares(model):
    shares = RNG.dirichlet([1, 1, 1], N).astype("float32")
    run = handful.fit(net() if model == "own" else model, (X, shares), **FIT)
    assert run.plan.choices["loss"].value == "cross_entropy"
    assert "the shares of 3 classes" in run.plan.choices["loss"].reason
    output = run.outputs(X).double()
    wanted = float(F.cross_entropy(output, torch.tensor(shares).double()))
    scores = run.evaluate((X, shares))
    assert scores["loss"] == pytest.approx(wanted, rel=1e-5)
    assert scores["accuracy"] == pytest.approx((output.argmax(1).numpy() == shares.argmax(1)).mean())
    np.testing.assert_allclose(run.predict(X), output.softmax(1), rtol=1e-5)
    assert handful.fit(net(), (X, shares), task="regression", **FIT).plan.choices["loss"].value == "mse"
    assert handful.fit(net(), (X, shares * 2), **FIT).plan.choices["loss"].value == "mse"


def drawn_counts(shuffle, weights, draws):
    """How often each row is drawn by the run's own order, and what torch's sampler expects."""
    columns = {"x": X[:, 0], "y": np.minimum(Y, 1) * (np.arange(N) % 3), "need": weights}
    seen = np.zeros(N)
    run_order = []

    def watch(event, info):
        if event == "start":
            run_order.append(info["training"].batches.order)

    handful.fit("linear", columns, target="y", shuffle=shuffle, valid=None, callbacks=[watch], **FIT)
    np.add.at(seen, run_order[0][:draws], 1)
    return seen, columns["y"]


def test_weighted_rows_are_drawn_as_torch_does():
    weights = RNG.random(N) + 0.1
    seen, _ = drawn_counts("weighted by need", weights, 20_000)
    torch.manual_seed(0)
    other = np.bincount(list(WeightedRandomSampler(weights, 20_000)), minlength=N)
    expected = weights / weights.sum() * 20_000
    limit = chi2.ppf(1 - 1e-6, N - 1)
    for counts in (seen, other):
        assert ((counts - expected) ** 2 / expected).sum() < limit
    assert ((seen - 20_000 / N) ** 2 / (20_000 / N)).sum() > limit  # not those of equal weights


def test_balanced_draws_every_class_equally_often():
    seen, y = drawn_counts("balanced", np.ones(N), 20_000)
    counts = np.bincount(y, seen)
    assert np.bincount(y).max() > 1.9 * np.bincount(y).min()
    assert ((counts - 20_000 / 3) ** 2 / (20_000 / 3)).sum() < chi2.ppf(1 - 1e-6, 2)


@pytest.mark.parametrize("shuffle", ["balanced", "weighted by need"])
def test_draws_are_resumed_to_the_bit(tmp_path, shuffle):
    data = {"x": X[:, 0], "z": X[:, 1], "y": Y, "need": np.arange(N) + 1.0}
    how = {"target": "y", "shuffle": shuffle, **FIT}

    def enough(event, info):
        return "enough" if event == "step" and info["step"] == 4 else None

    whole = handful.fit("mlp", data, out=tmp_path / "a", **how)
    handful.fit("mlp", data, out=tmp_path / "b", callbacks=[enough], **how)
    again = handful.resume(tmp_path / "b", train=data, quiet=True)
    for one, two in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, two)
    uses = set(whole.pipeline.uses)
    assert uses == ({"x", "z"} if shuffle != "balanced" else {"x", "z", "need"})


def test_draws_that_cannot_be_are_told():
    with pytest.raises(
        HandfulError, match="shuffle='balanced' draws classes equally often, and this task is regression"
    ):
        handful.fit("mlp", (X, X[:, 0]), shuffle="balanced", **FIT)
    with pytest.raises(HandfulError, match="has no column 'ned' for weights"):
        handful.fit("mlp", {"x": X[:, 0], "need": X[:, 1], "y": Y}, target="y", shuffle="weighted by ned", **FIT)


@pytest.mark.parametrize(
    "collate", [None, lambda rows: (torch.stack([x for x, _ in rows]), torch.stack([y for _, y in rows]))]
)
def test_a_data_loader_is_read_by_its_data_set(collate):
    data = TensorDataset(torch.tensor(X), torch.tensor(Y))
    one, other = net(), net()
    handful.fit(one, DataLoader(data, batch_size=7, shuffle=True, collate_fn=collate), **FIT, valid=(X, Y))
    handful.fit(other, (X, Y), **FIT, valid=(X, Y))
    assert torch.equal(one.weight, other.weight)


def test_a_data_loader_with_a_sampler_gives_its_rows():
    class Named(TensorDataset):
        classes = ("a", "b", "c")

    data = Named(torch.tensor(X), torch.tensor(Y))
    rows = [*range(40), 3, 3]
    loader = DataLoader(data, batch_size=8, sampler=rows)
    source = handful.open(loader)
    assert source.target == "y"
    assert source.take(range(len(source))).tensor("y").tolist() == Y[rows].tolist()
    assert torch.equal(source.take([41]).tensor("x")[0], torch.tensor(X[3]))
    assert any("42 rows by one pass over its sampler" in note for note in source.notes)
    assert source.columns["y"].classes == data.classes
    with pytest.raises(HandfulError, match="has parts of unlike sizes"):
        handful.open(DataLoader(data, batch_size=None))


def test_rates_by_depth():
    blocks = [nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)]
    model = nn.ModuleDict({
        "embed": nn.Linear(4, 4), "blocks": nn.ModuleList(blocks),
        "norm": nn.LayerNorm(4), "head": nn.Linear(4, 3),
    })  # fmt: skip
    rates = by_depth(model, 1e-2, 0.5)
    assert rates == {"embed": 1e-2 / 16, "blocks.0": 1e-2 / 8, "blocks.1": 1e-2 / 4, "blocks.2": 1e-2 / 2, "*": 1e-2}
    nested = nn.Sequential(nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 9)), nn.Linear(9, 3))
    assert by_depth(nested, 1.0, 0.5) == {"0.0": 0.25, "0.2": 0.5, "*": 1.0}
    run = handful.fit(nested, (np.tile(X, 1), Y), **FIT | {"lr": by_depth(nested, 0.1, 0.5)}, schedule="constant")
    groups = {group["rate"]: group["lr"] for group in run.state.optimizer.param_groups}
    assert groups == pytest.approx({"0.0": 0.025, "0.2": 0.05, "*": 0.1})
    with pytest.raises(HandfulError, match="has no ModuleList or Sequential of blocks"):
        by_depth(nn.Linear(2, 2), 0.1, 0.5)


@pytest.mark.parametrize("how", [{"weight": "kind"}, {"shuffle": "weighted by kind"}, {"shuffle": "weighted by y"}])
def test_names_are_no_weights(how):
    data = {"x": np.arange(60.0), "kind": list("abc") * 20, "y": list("uv") * 30}
    with pytest.raises(HandfulError, match="are a category, and must be one number per row"):
        handful.fit("linear", data, target="y", **FIT | how)


@pytest.mark.parametrize("how", ["weighted", "weighted by ", "balance"])
def test_other_ways_to_draw_are_refused_with_all_that_are_known(how):
    with pytest.raises(HandfulError, match=r"is not known.*(balanced|weighted by COLUMN)"):
        handful.fit("linear", {"x": np.arange(60.0), "y": list("uv") * 30}, target="y", **FIT | {"shuffle": how})
