"""Rows of a class target that stand for no class (-100): the loss leaves them out, and nothing counts them."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score, f1_score
from torch import nn

import handful
from handful.base.errors import HandfulError

QUIET = {"quiet": True, "lr": 0.1, "until": 3}


def rows(n=90, none=-100, every=4):
    g = np.random.default_rng(0)
    x = g.normal(size=(n, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0.5)
    y[1::every] = none
    return x, y


def linear(outputs=3):
    torch.manual_seed(0)
    return nn.Linear(4, outputs)


@pytest.mark.parametrize(("loss", "none"), [("auto", -100), (nn.CrossEntropyLoss(), -100),
                                            (nn.CrossEntropyLoss(ignore_index=-1), -1)])  # fmt: skip
def test_training_and_scores_are_those_of_torch_on_the_rows_that_count(loss, none):
    x, y = rows(none=none)
    model = linear()
    plain, kept = copy.deepcopy(model).double(), y != none
    run = handful.fit(model, (x, y), loss=loss, valid=None, batch=len(x), micro_batch=30, optimizer="sgd", l2=0,
                      schedule="constant", metrics="accuracy, balanced_accuracy, f1", **QUIET)  # fmt: skip
    inputs, targets = torch.from_numpy(x).double(), torch.from_numpy(y)
    for _ in range(3):
        grads = torch.autograd.grad(F.cross_entropy(plain(inputs), targets, ignore_index=none), plain.parameters())
        with torch.no_grad():
            for p, grad in zip(plain.parameters(), grads, strict=True):
                p -= 0.1 * grad
    assert run.pipeline.classes == ("0", "1", "2")
    for mine, right in zip(run.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.double(), right, atol=1e-6, rtol=0)
    scores, logits = run.evaluate((x, y)), plain(inputs).detach()
    guess = logits.argmax(1).numpy()
    assert scores["loss"] == pytest.approx(float(F.cross_entropy(logits, targets, ignore_index=none)), abs=1e-6)
    assert scores["accuracy"] == np.mean(guess[kept] == y[kept])
    assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y[kept], guess[kept]))
    assert scores["f1"] == pytest.approx(f1_score(y[kept], guess[kept], average="macro"))
    last = run.history[-1]["train_accuracy"]
    assert (last * kept.sum()) == pytest.approx(round(last * kept.sum()))
    found = run.evaluation((x, y))
    assert found.confusion.sum() == kept.sum()
    assert sum(row["rows"] for row in found.classes) == kept.sum()
    assert any(f"'y' is {none}, which stands for no class, in 23 training rows" in note for note in run.pipeline.notes)


@pytest.mark.parametrize("model", [linear(), "mlp"])
def test_balanced_weights_count_the_rows_that_count(model):
    x, y = rows()
    run = handful.fit(model, (x, y), class_weight="balanced", valid=None, batch=30, **QUIET)
    counts = np.bincount(y[y >= 0])
    assert run.plan.choices["class_weight"].value == pytest.approx(counts.sum() / (3 * counts), rel=1e-5)
    assert set(run.predict(x)) <= {0, 1, 2}


def test_they_may_come_first_in_later_data_and_in_a_file(tmp_path):
    x, y = rows(none=0)
    run = handful.fit(linear(), (x, y), valid=None, batch=30, out=tmp_path / "run", **QUIET)
    later = np.where(np.arange(len(y)) % 3 == 0, -100, y)
    for one in (run, handful.load(tmp_path / "run", model=linear())):
        kept = later >= 0
        assert one.evaluate((x, later))["accuracy"] == np.mean(one.predict(x)[kept] == y[kept])
    (tmp_path / "t.csv").write_text(
        "a,b,y\n" + "".join(f"{a},{b},{k}\n" for (a, b, *_), k in zip(*rows(), strict=True))
    )
    assert handful.fit("mlp", tmp_path / "t.csv", valid=0.2, batch=30, **QUIET).pipeline.classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("loss", "model"), [("focal", linear()), (lambda o, t: F.cross_entropy(o, t, reduction="none"), linear())]
)
def test_a_loss_that_does_not_leave_them_out_is_refused(loss, model):
    with pytest.raises(
        HandfulError, match=r"'y' is -100, which stands for no class, in 23 training rows, first in row 1"
    ):
        handful.fit(model, rows(), loss=loss, valid=None, batch=30, **QUIET)


def test_one_logit_for_two_classes_is_refused():
    x, y = rows()
    with pytest.raises(HandfulError, match=r"'y' is -100 in row 1 of arrays .* binary_cross_entropy does not"):
        handful.fit(linear(1), (x, np.minimum(y, 1)), valid=None, batch=30, **QUIET)
    run = handful.fit(linear(1), (x[y >= 0], np.minimum(y, 1)[y >= 0]), valid=None, batch=30, **QUIET)
    with pytest.raises(HandfulError, match=r"is '-100' in row 1"):
        run.evaluate((x, np.minimum(y, 1)))


@pytest.mark.parametrize("values", [(-100, -50, 0, 50), (-100, 0, 100)])
def test_where_the_others_are_no_ids_it_is_a_class_like_them(values):
    x, _ = rows()
    y = np.array(values)[np.arange(len(x)) % len(values)]
    run = handful.fit("mlp", (x, y), task="classification", valid=None, batch=30, **QUIET)
    assert run.pipeline.classes == tuple(map(str, values))


def test_a_number_to_be_predicted_may_be_minus_100():
    x, y = rows()
    run = handful.fit("mlp", (x, y), task="regression", valid=None, batch=30, **QUIET)
    assert float(run.pipeline.target_scale[0]) == pytest.approx(y.mean())
