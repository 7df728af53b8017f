"""Rows of a class target that stand for no class (-100): the loss leaves them out, and nothing counts them."""

import copy
import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score, f1_score
from torch import nn

import handful
from handful.base.errors import HandfulError
from handful.data.split import split

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


class OwnModule(nn.Module):
    def forward(self, output, target):
        return F.cross_entropy(output, target, ignore_index=-1)


def own(reduction="mean", none=-1):
    return lambda output, target: F.cross_entropy(output, target, ignore_index=none, reduction=reduction)


LOSSES = {
    "auto": ("auto", -100),
    "cross_entropy": (nn.CrossEntropyLoss(), -100),
    "cross_entropy -1": (nn.CrossEntropyLoss(ignore_index=-1), -1),
    "nll": (nn.NLLLoss(), -100),
    "nll 255": (nn.NLLLoss(ignore_index=255), 255),
    "F.nll_loss": (F.nll_loss, -100),
    "options of F.cross_entropy": (functools.partial(F.cross_entropy, ignore_index=-1), -1),
    "options of F.nll_loss": (functools.partial(F.nll_loss, ignore_index=7), 7),
    "own mean": (own(), -1),
    "own mean 99": (own(none=99), 99),
    "own mean -100": (own(none=-100), -100),
    "own values": (own("none"), -1),
    "own sum": (own("sum"), -1),
    "own pair": (lambda o, t: (F.cross_entropy(o, t, ignore_index=-1, reduction="none"), t != -1), -1),
    "own module": (OwnModule(), -1),
}


@pytest.mark.parametrize("which", LOSSES)
def test_training_and_scores_are_those_of_torch_on_the_rows_that_count(which):
    loss, none = LOSSES[which]
    x, y = rows(none=none)
    model = nn.Sequential(linear(), nn.LogSoftmax(1)) if "nll" in which else linear()
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


def test_too_few_scores_are_said_where_the_loss_counts_all_rows():
    with pytest.raises(HandfulError, match="the model gives 3 outputs but the target has 4 classes"):
        handful.fit(linear(), rows(none=-1), loss=F.cross_entropy, valid=None, batch=30, **QUIET)


@pytest.mark.parametrize("loss", [nn.NLLLoss(), functools.partial(F.nll_loss), functools.partial(F.cross_entropy)])
def test_class_weights_in_a_loss_of_torch_divide_as_torch_does(loss):
    """The mean is over the weights of the rows; values per row alone would be divided by their number."""
    weight, (x, y) = torch.tensor([0.2, 1.0, 5.0]), rows()
    loss = nn.NLLLoss(weight) if isinstance(loss, nn.Module) else functools.partial(loss.func, weight=weight)
    model = linear() if loss == functools.partial(F.cross_entropy) else nn.Sequential(linear(), nn.LogSoftmax(1))
    run = handful.fit(model, (x, y), loss=loss, valid=None, batch=30, **QUIET)
    scores = run.outputs(x).double()
    due = F.cross_entropy(scores, torch.from_numpy(y), weight.double())  # twice log-softmax is log-softmax
    assert run.evaluate((x, y))["loss"] == pytest.approx(float(due), abs=1e-6)
    assert any("the weights count within each mini-batch" in note for note in run.plan.notes)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(ignore_index=-1), own(), own("none"), own("sum")])
def test_mini_batches_of_such_rows_alone_change_nothing(loss):
    x, y = rows(none=-1, every=2)
    runs = [handful.fit(linear(), (x, y), loss=loss, valid=None, batch=1, micro_batch=1, optimizer="sgd", l2=0,
                        schedule="constant", **QUIET)]  # fmt: skip
    plain, order = linear().double(), handful.Order(len(x))
    for row in order[: 3 * len(x)]:
        if y[row] >= 0:
            loss = F.cross_entropy(plain(torch.from_numpy(x[[row]]).double()), torch.from_numpy(y[[row]]))
            grads = torch.autograd.grad(loss, plain.parameters())
            with torch.no_grad():
                for p, grad in zip(plain.parameters(), grads, strict=True):
                    p -= 0.1 * grad
    for mine, right in zip(runs[0].model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.double(), right, atol=1e-5, rtol=0)


def test_row_weights_and_a_loaded_run(tmp_path):
    x, y = rows(none=-1)
    data = {"x": x, "y": y, "w": np.random.default_rng(1).random(len(y))}
    how = {"target": "y", "weight": "w", "valid": 20, "batch": 10, **QUIET}
    due = handful.fit(linear(), data, loss=nn.CrossEntropyLoss(ignore_index=-1), **how)
    run = handful.fit(linear(), data, loss=own("none"), out=tmp_path / "run", **how)
    assert torch.equal(run.model.weight, due.model.weight)
    loaded = handful.load(tmp_path / "run", model=linear(), loss=own("none"))
    assert loaded.evaluate(data) == run.evaluate(data) == due.evaluate(data)
    assert handful.resume(tmp_path / "run", model=linear(), train=data, loss=own("none"), until=4, quiet=True).scores


def test_each_part_of_a_split_has_its_share_of_the_rows_that_count():
    x, y = rows(400, none=-1, every=2)
    run = handful.fit(linear(), (x, y), loss=own(), valid=0.25, batch=30, **QUIET)
    counts = np.bincount(y[y >= 0])
    _, held = split(handful.open((x, y)), 0.25)
    found = held.read_column("y", np.arange(100)).numpy()
    assert np.abs(np.bincount(found[found >= 0]) - counts / 4).max() < 1
    assert run.evaluation((x, y)).confusion.sum() == counts.sum()


class Places(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return self.layer(x).transpose(1, 2)


@pytest.mark.parametrize("none", [-1, 255, -100])
@pytest.mark.parametrize("kind", ["torch", "own mean", "own values"])
def test_places_that_stand_for_no_class(kind, none):
    g = np.random.default_rng(0)
    x = g.normal(size=(40, 5, 4)).astype(np.float32)
    y = (x[..., 0] > 0).astype(np.int64)
    y[:, 1] = none
    loss = {
        "torch": nn.CrossEntropyLoss(ignore_index=none),
        "own mean": own(none=none),
        "own values": own("none", none),
    }[kind]
    run = handful.fit(Places(), (x, y), loss=loss, valid=None, batch=40, optimizer="sgd", l2=0, schedule="constant",
                      **QUIET)  # fmt: skip
    plain = Places().double()
    for _ in range(3):
        due = F.cross_entropy(plain(torch.from_numpy(x).double()), torch.from_numpy(y), ignore_index=none)
        grads = torch.autograd.grad(due, plain.parameters())
        with torch.no_grad():
            for p, grad in zip(plain.parameters(), grads, strict=True):
                p -= 0.1 * grad
    for mine, right in zip(run.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.double(), right, atol=1e-6, rtol=0)
    kept = y != none
    assert run.evaluate((x, y))["accuracy"] == np.mean((run.outputs(x).argmax(1).numpy() == y)[kept])
    assert any(f"'y' is {none} in some places, which stand for no class" in note for note in run.pipeline.notes)


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
    ("loss", "model"), [("focal", linear()), (lambda o, t: -o.log_softmax(1)[range(len(t)), t.clamp_min(0)], linear())]
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
