"""Models that return their loss, or several parts: against plain loops, evaluated, resumed, loaded."""

import copy
import pickle
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import PoissonRegressor
from sklearn.metrics import r2_score
from torch import Tensor, nn

import handful
from handful.base.errors import HandfulError
from handful.models.wrapped import compile_calls
from handful.sklearn import MiniBatchClassifier

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(96, 5, generator=GENERATOR)
Y = (X[:, 0] + X[:, 1] > 0).long()
Z = X[:, 0] - X[:, 1]
USUAL: dict[str, Any] = {
    "batch": 16, "lr": 0.1, "optimizer": "sgd", "schedule": "constant", "l2": 0.0, "valid": None, "quiet": True,
}  # fmt: skip


@dataclass
class Output:
    hidden: Tensor
    logits: Tensor
    loss: Tensor | None = None


class Of(nn.Module):
    """A model that makes its loss where it gets the target; form: how it gives both back."""

    def __init__(self, form: str) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2))
        self.form = form

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Any:
        logits = self.body(x)
        loss = None if targets is None else F.cross_entropy(logits, targets)
        match self.form:
            case "pair":
                return logits, loss
            case "dict":
                return {"hidden": x, "logits": logits} | ({} if loss is None else {"loss": loss})
        return Output(x, logits, loss)


def by_hand(model: nn.Module, steps: int, loss_of: Any) -> None:
    order, optimizer = handful.Order(96, seed=0), torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    for step in range(steps):
        rows = torch.from_numpy(order[step * 16 : step * 16 + 16])
        optimizer.zero_grad()
        loss_of(model, rows).backward()
        optimizer.step()


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("form", ["pair", "dict", "dataclass"])
@pytest.mark.parametrize("loss", ["model", "auto", "own"])
def test_a_model_of_several_parts_is_the_plain_loop_to_the_bit(form: str, loss: str, tmp_path: Path) -> None:
    def own(output: Any, target: Tensor) -> Tensor:
        logits = output.logits if form == "dataclass" else output["logits"] if form == "dict" else output[0]
        return F.cross_entropy(logits, target, reduction="none")

    given = {**USUAL, "loss": own if loss == "own" else loss}
    model, twin, other = Of(form), Of(form), Of(form)
    run = handful.fit(model, (X, Y), until="steps(12)", **given)
    by_hand(twin, 12, lambda m, rows: F.cross_entropy(m.body(X[rows]), Y[rows]))
    assert same(model, twin)
    with torch.no_grad():
        logits = twin.body(X)
    np.testing.assert_array_equal(run.predict(X), logits.argmax(1).numpy())
    scores = run.evaluate((X, Y))
    assert scores["loss"] == pytest.approx(float(F.cross_entropy(logits, Y)), rel=1e-6)
    assert scores["accuracy"] == float((logits.argmax(1) == Y).double().mean())

    handful.fit(other, (X, Y), until="steps(7)", out=tmp_path / "run", **given)
    again = {"loss": own} if loss == "own" else {}
    resumed = handful.resume(tmp_path / "run", model=other, train=(X, Y), until="steps(12)", quiet=True, **again)
    assert same(model, resumed.model)
    loaded = handful.load(tmp_path / "run", model=Of(form), **again)
    np.testing.assert_array_equal(loaded.predict(X), run.predict(X))
    assert loaded.evaluate((X, Y))["loss"] == pytest.approx(scores["loss"], rel=1e-6)


def test_an_estimator_of_a_model_of_several_parts_survives_its_pickle() -> None:
    fitted = MiniBatchClassifier(Of("dict"), until="steps(5)", lr=0.1).fit(X.numpy(), Y.numpy())
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict(X.numpy()), fitted.predict(X.numpy()))


class NeedsTarget(nn.Module):
    """forward(x, y) -> loss, as in a tutorial."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.line = nn.Linear(5, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return ((self.line(x).squeeze(1) - y) ** 2).mean()


def test_a_model_that_has_to_be_given_the_target_makes_the_loss() -> None:
    model, twin = NeedsTarget(), NeedsTarget()
    run = handful.fit(model, (X, Z), until="steps(12)", **USUAL)
    assert run.plan.loss == "model"
    by_hand(twin, 12, lambda m, rows: m(X[rows], Z[rows]))
    assert same(model, twin)
    with pytest.raises(HandfulError, match=r"do not predict 'y'|with 'y=None' as its default it can predict"):
        run.predict(X)


def test_parts_of_a_mini_batch_add_up_where_the_loss_is_a_mean_and_are_not_taken_where_not(tmp_path: Path) -> None:
    whole, parts = NeedsTarget().double(), NeedsTarget().double()
    for model, micro in ((whole, "auto"), (parts, 5)):
        handful.fit(model, (X.double(), Z.double()), until="steps(6)", micro_batch=micro, **USUAL)
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)

    class Coupled(NeedsTarget):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (self.line(x).squeeze(1) - y).mean() ** 2

    run = handful.fit(Coupled(), (X, Z), until="steps(2)", micro_batch=4, **USUAL)
    assert run.plan.micro_batch is None
    assert any("couples the rows of a batch" in note for note in run.plan.notes)

    class Summing(NeedsTarget):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return ((self.line(x).squeeze(1) - y) ** 2).sum()

    summed, twin = Summing(), NeedsTarget()
    run = handful.fit(summed, (X, Z), until="steps(6)", out=tmp_path / "run", **USUAL)
    loaded = handful.load(tmp_path / "run", model=Summing())
    assert loaded.evaluate((X, Z))["loss"] == pytest.approx(run.evaluate((X, Z))["loss"])
    by_hand(twin, 6, lambda m, rows: m(X[rows], Z[rows]))
    torch.testing.assert_close(summed.line.weight, twin.line.weight)


def test_hugging_face_models_with_their_own_loss_and_with_one_of_the_callers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=2,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    ids = torch.randint(1, 40, (48, 6), generator=torch.Generator().manual_seed(0))
    y = (ids[:, 0] > 20).long()

    def made() -> Any:
        torch.manual_seed(0)
        return transformers.BertForSequenceClassification(config)

    runs = {
        name: handful.fit(made(), (ids, y), until="steps(6)", loss=loss, **USUAL)
        for name, loss in {
            "auto": "auto", "model": "model",
            "whole": lambda out, y: F.cross_entropy(out.logits, y, reduction="none"),
            "scores": lambda logits, y: F.cross_entropy(logits, y, reduction="none"),
        }.items()
    }  # fmt: skip
    for name, run in runs.items():
        for p, q in zip(runs["auto"].model.parameters(), run.model.parameters(), strict=True):
            torch.testing.assert_close(p, q, msg=name)
        np.testing.assert_array_equal(run.predict(ids), runs["auto"].predict(ids))


def test_refusals_are_one_sentence() -> None:
    class Nothing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(5, 2)

        def forward(self, x: Tensor, y: Tensor) -> Any:
            return {"hidden": self.line(x), "other": x}

    with pytest.raises(HandfulError, match="the model returns dict without a loss in it"):
        handful.fit(Nothing(), (X, Y), until="steps(2)", **USUAL)
    with pytest.raises(HandfulError, match="loss='model' needs a model whose forward takes the target"):
        handful.fit(nn.Linear(5, 2), (X, Y), until="steps(2)", loss="model", **USUAL)


class AddsMargin(nn.Module):
    """forward(x, y) -> scores, with a margin at the row's own class."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(5, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.line(x) - 0.3 * F.one_hot(y, 3)  # type: ignore[no-any-return]


class MayAddMargin(AddsMargin):
    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.line(x) if y is None else super().forward(x, y)  # type: ignore[no-any-return]


def test_scores_are_not_minimised_as_a_loss_and_a_target_that_is_not_given_is_said() -> None:
    """The mean of the scores was, without a word."""
    ids = (X[:, 0] > 0).long() + (X[:, 1] > 0)
    for kind, loss in ((AddsMargin, "auto"), (AddsMargin, "model"), (MayAddMargin, "model")):
        with pytest.raises(HandfulError, match="gives 3 numbers for each row, which look like scores"):
            handful.fit(kind(), (X, ids), until="steps(2)", loss=loss, **USUAL)
    with pytest.raises(HandfulError, match=r"gives \[3\] numbers for each row, some below 0, which look like scores"):
        handful.fit(nn.Linear(5, 3), X, until="steps(2)", loss="model", **USUAL)
    with pytest.raises(HandfulError, match="with loss='model' it is called with the target, too"):
        handful.fit(AddsMargin(), (X, ids), until="steps(2)", loss="cross_entropy", **USUAL)
    run = handful.fit(MayAddMargin(), (X, ids), until="steps(2)", **USUAL)
    assert any("is called without its 'y'" in note for note in run.plan.notes)
    for name in ("x", "categories"):
        table = {"a": X[:, 0].numpy(), "b": X[:, 2].numpy(), name: X[:, 1].numpy()}
        run = handful.fit("table", table, target=name, until="steps(2)", **USUAL)
        assert not any("is called without" in note for note in run.plan.notes)


class GivesMore(nn.Module):
    """(loss, scores, others) with the target, (scores, others) or scores alone without it; lists in training mode."""

    def __init__(self, form: str) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.line, self.form = nn.Linear(5, 3), form

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        scores, others = self.line(x), x[:, :3] + 100
        if self.form == "list":
            return [scores, 0.5 * scores] if self.training else scores
        given = (scores, others) if self.form == "tuple" else (scores,)
        if y is None:
            return given if self.form == "tuple" else scores
        return (F.cross_entropy(scores, y), *given)


@pytest.mark.parametrize("form", ["tuple", "alone"])
def test_predictions_are_the_scores_also_where_the_loss_comes_with_the_target_alone(form: str, tmp_path: Path) -> None:
    """They were of the part behind the scores, or a KeyError."""
    model, twin, ids = GivesMore(form), GivesMore(form), (X[:, 0] > 0).long() + (X[:, 1] > 0)
    run = handful.fit(model, (X, ids), until="steps(12)", loss="model", out=tmp_path / "run", **USUAL)
    by_hand(twin, 12, lambda m, rows: m(X[rows], ids[rows])[0])
    assert same(model, twin)
    wanted = model.line(X).argmax(1).numpy()
    for one in (run, handful.load(tmp_path / "run", model=GivesMore(form))):
        np.testing.assert_array_equal(one.predict(X), wanted)
        assert one.evaluate((X, ids))["accuracy"] == pytest.approx(float((wanted == ids.numpy()).mean()))


def test_a_model_that_gives_several_in_training_alone_is_trained_by_a_loss_that_takes_them() -> None:
    """An AssertionError, and an AttributeError by the usual loss, which is refused."""
    ids = (X[:, 0] > 0).long() + (X[:, 1] > 0)

    def deep(out: Any, y: Tensor) -> Tensor:
        return sum(F.cross_entropy(one, y) for one in (out if isinstance(out, list) else [out]))  # type: ignore[return-value]

    model, twin = GivesMore("list"), GivesMore("list")
    run = handful.fit(model, (X, ids), until="steps(12)", loss=deep, **USUAL)
    by_hand(twin, 12, lambda m, rows: deep(m(X[rows]), ids[rows]))
    assert same(model, twin)
    np.testing.assert_array_equal(run.predict(X), model.line(X).argmax(1).numpy())
    with pytest.raises(HandfulError, match="gives a list in training mode, and one Tensor in evaluation mode"):
        handful.fit(GivesMore("list"), (X, ids), until="steps(12)", **USUAL)


class Keeps(nn.Module):
    """A hidden state that no buffer holds."""

    def __init__(self, detach):
        super().__init__()
        self.n, self.h, self.detach = nn.Linear(8, 3), None, detach

    def forward(self, x):
        h = torch.zeros(len(x), 4) if self.h is None or len(self.h) != len(x) else self.h
        out = self.n(torch.cat([x, h], 1))
        self.h = torch.cat([out, out[:, :1]], 1)
        self.h = self.h.detach() if self.detach else self.h
        return out


class TakesDict(nn.Linear):
    def forward(self, batch):
        return super().forward(batch["a"]) + 0 * batch["b"].sum()


class TakesNames(nn.Linear):
    def forward(self, **given):
        return super().forward(given["x"])


class Margin(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.eye(3))

    def forward(self, output, target):
        return nn.functional.cross_entropy(output @ self.w, target, reduction="none")


class Reconstructs(nn.Linear):
    def forward(self, x):
        found = super().forward(x)
        return {"loss": ((found - x) ** 2).mean(), "found": found}


ROUGH = np.random.default_rng(3).normal(size=(48, 4)).astype("float32")
KINDS = np.arange(48) % 3
SHORT = {"batch": 12, "lr": 0.05, "until": "steps(4)", "quiet": True}


def linear(kind, outputs=3):
    torch.manual_seed(0)
    return kind(4, outputs)


def test_a_state_that_no_buffer_holds_is_told():
    run = handful.fit(Keeps(True), (ROUGH, KINDS), **SHORT)
    assert any("it keeps something between calls that is no buffer" in note for note in run.plan.notes)
    with pytest.raises(HandfulError, match="keeps a Tensor of the mini-batch before with its graph"):
        handful.fit(Keeps(False), (ROUGH, KINDS), **SHORT, valid=None)
    assert not any("between calls" in n for n in handful.fit(linear(nn.Linear), (ROUGH, KINDS), **SHORT).plan.notes)


class ByKeyword(nn.Linear):
    def forward(self, *, rows):
        return super().forward(rows)


class Centred(nn.Linear):
    """Takes a running mean off its rows, or has a frozen copy that follows its weights."""

    def __init__(self, *sizes, follows=False):
        super().__init__(*sizes)
        self.register_buffer("mean", torch.zeros(sizes[0]))
        self.copy = nn.Parameter(self.weight.detach().clone(), requires_grad=False) if follows else None

    def forward(self, x):
        if self.training and self.copy is not None:
            self.copy.data.lerp_(self.weight.data, 0.1)
        elif self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0).detach()
        return super().forward(x - self.mean)


@pytest.mark.parametrize("follows", [False, True])
def test_what_a_call_changes_is_told_where_a_mini_batch_is_cut_into_parts(follows):
    net = linear(partial(Centred, follows=follows))
    before = net.weight.detach().clone()
    given = SHORT | {"batch": 16, "until": "steps(1)", "lr": 1e-30}
    notes = handful.fit(net, (ROUGH, KINDS), **given, micro_batch=8).plan.notes
    name = "copy" if follows else "mean"
    assert [n for n in notes if f"the model changes {name} at each call in training mode: in parts" in n]
    assert torch.equal(net.weight, before)
    assert follows or net.mean.any()
    assert not [n for n in handful.fit(net, (ROUGH, KINDS), **given).plan.notes if "changes" in n]


class Interrupted(nn.Module):
    """Ctrl-C comes in a call that is made before step 1, to see whether it changes anything."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not torch.is_grad_enabled():
            raise KeyboardInterrupt
        return self.out(x)


def test_what_is_tried_before_the_first_step_leaves_the_weights_where_it_is_interrupted() -> None:
    model = Interrupted()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(KeyboardInterrupt):
        handful.fit(model, (torch.randn(40, 4), torch.randn(40, 1)), loss="mse", batch=8, micro_batch=4, lr=0.1,
                    until="steps(2)", quiet=True)  # fmt: skip
    assert all(map(torch.equal, model.parameters(), before))


def test_a_model_of_complex_weights_gets_rows_as_exact_as_they_are():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(ROUGH.shape[1], 3, dtype=torch.complex128) / 3)

        def forward(self, x):
            self.got = x.dtype
            return (x @ self.w.abs()) + 0 * self.w.real.sum()

    net = Complex()
    handful.fit(net, (ROUGH.astype("float64"), KINDS), **SHORT)
    assert net.got is torch.float64


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (TakesDict, {"a": ROUGH, "b": ROUGH, "y": KINDS}),
        (TakesNames, (ROUGH, KINDS)),
        (ByKeyword, (ROUGH, KINDS)),
    ],
)
def test_inputs_in_a_dict_or_by_any_name(kind, data):
    plain = linear(nn.Linear)
    handful.fit(plain, (ROUGH, KINDS), **SHORT, valid=None)
    found = linear(kind)
    handful.fit(found, data, target="y", **SHORT, valid=None)
    assert torch.equal(found.weight, plain.weight)


def test_a_loss_with_parameters_is_refused_and_a_frozen_one_taken():
    with pytest.raises(HandfulError, match=r"the loss \(Margin\) has parameters, which would not be trained"):
        handful.fit(linear(nn.Linear), (ROUGH, KINDS), loss=Margin(), **SHORT)
    handful.fit(linear(nn.Linear), (ROUGH, KINDS), loss=Margin().requires_grad_(False), **SHORT)


@pytest.mark.parametrize("loss", ["auto", "model"])
def test_a_loss_of_inputs_alone_is_trained_and_evaluated(tmp_path, loss):
    model = linear(Reconstructs, 4)
    run = handful.fit(model, ROUGH, loss=loss, out=tmp_path / "run", **SHORT)
    with torch.no_grad():
        wanted = float(model(torch.tensor(ROUGH))["loss"])
    assert run.evaluate(ROUGH) == {"loss": pytest.approx(wanted, rel=1e-5)}
    loaded = handful.load(tmp_path / "run", model=linear(Reconstructs, 4))
    assert loaded.evaluate(ROUGH)["loss"] == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(HandfulError, match="there are no predictions"):
        run.predict(ROUGH)


def test_lazy_layers_are_loaded(tmp_path):
    make = lambda: nn.Sequential(nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.LazyLinear(3))
    run = handful.fit(make(), (ROUGH, KINDS), out=tmp_path / "run", **SHORT)
    assert handful.load(tmp_path / "run", model=make()).predict(ROUGH).tolist() == run.predict(ROUGH).tolist()


class Slope(nn.Module):
    """Its loss is of the derivative of its output by its input."""

    def __init__(self):
        super().__init__()
        self.n = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            u = self.n(x)
            (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        return {"u": u, "loss": (slope + u).squeeze(1) ** 2}


def test_a_model_that_differentiates_in_its_forward_is_trained_evaluated_and_asked(tmp_path):
    model, x = linear(lambda *sizes: Slope(), 1), ROUGH[:, :1].copy()
    run = handful.fit(model, x, loss="model", out=tmp_path / "run", **SHORT)
    with torch.no_grad():
        wanted = model(torch.tensor(x))
    assert run.evaluate(x)["loss"] == pytest.approx(float(wanted["loss"].mean()), rel=1e-5)
    torch.testing.assert_close(run.outputs(x)["u"].detach(), wanted["u"].detach())


class Forces(nn.Module):
    """An energy, and its slope as networks of molecules take it: without a word about torch.enable_grad."""

    def __init__(self, *sizes):
        super().__init__()
        self.n = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x):
        x.requires_grad_()
        energy = self.n(x)
        (slope,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
        return energy.squeeze(1), -slope


@pytest.mark.parametrize("batch", [16, 1])
def test_a_model_that_takes_derivatives_is_the_plain_loop_to_the_bit_and_predicts(batch, tmp_path):
    def loss(output, target):
        return (output[0] - target) ** 2 + output[1].square().sum(1)

    one, other = (linear(Forces, 1) for _ in range(2))
    run = handful.fit(one, (X, Z), loss=loss, until="steps(24)", out=tmp_path / "run", **USUAL | {"batch": batch})
    order, optimizer = handful.Order(96, seed=0), torch.optim.SGD(other.parameters(), lr=0.1, fused=True)
    for step in range(24):
        rows = torch.from_numpy(order[step * batch : step * batch + batch])
        optimizer.zero_grad()
        loss(other(X[rows].clone()), Z[rows]).mean().backward()
        optimizer.step()
    assert same(one, other)
    energy, force = (part.detach() for part in other.eval()(X.clone()))
    assert run.evaluate((X, Z))["loss"] == pytest.approx(float(loss((energy, force), Z).mean()), rel=1e-5)
    np.testing.assert_allclose(run.predict(X), energy, rtol=1e-5)
    loaded = handful.load(tmp_path / "run", model=linear(Forces, 1))
    assert not loaded.outputs(X)[1].requires_grad
    np.testing.assert_allclose(loaded.outputs(X)[1], force, rtol=1e-5, atol=1e-6)
    end = handful.resume(tmp_path / "run", model=linear(Forces, 1), train=(X, Z), loss=loss, until="steps(30)")
    assert end.state.step == 30


@pytest.mark.parametrize("own", [False, True])
def test_logarithms_and_logits_are_not_taken_for_the_numbers(own):
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    x = generator.standard_normal((300, 3)).astype(np.float32)
    counts = generator.poisson(np.exp(1 + x[:, 0])).astype(np.float32)
    shares = 1 / (1 + np.exp(-x[:, 0] - 0.3 * x[:, 1]))
    logit = nn.functional.binary_cross_entropy_with_logits
    rate = nn.functional.poisson_nll_loss
    losses = [
        (torch.exp, counts, (lambda o, t: rate(o, t, reduction="none")) if own else nn.PoissonNLLLoss()),
        (torch.sigmoid, shares, (lambda o, t: logit(o, t, reduction="none")) if own else nn.BCEWithLogitsLoss()),
        (lambda o: o, shares, (lambda o, t: (o - t) ** 2) if own else nn.MSELoss()),
    ]
    for link, y, loss in losses:
        y = y.astype("float32")
        net = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0) if own else nn.Identity())
        run = handful.fit(net, (x, y), loss=loss, batch=16, lr=0.05, until="epochs(20)", quiet=True)
        with torch.no_grad():
            wanted = link(net(torch.tensor(x)).flatten()).numpy()
        np.testing.assert_allclose(run.predict(x), wanted, rtol=1e-5)
        found = run.evaluate((x, y))
        assert found["mae"] == pytest.approx(np.abs(wanted - y).mean(), rel=1e-5, abs=1e-6)
        assert found["r2"] == pytest.approx(r2_score(y, wanted), rel=1e-4)


def test_counts_and_shares_of_ready_made_models(tmp_path):
    generator = np.random.default_rng(0)
    x = generator.standard_normal((300, 2))
    share = 1 / (1 + np.exp(-x[:, 1]))
    rows = {"a": x[:, 0], "b": x[:, 1], "count": generator.poisson(np.exp(5 + 0.5 * x[:, 0])), "share": share}
    how = {"batch": 16, "lr": 0.03, "until": "epochs(20)", "quiet": True}
    run = handful.fit("linear", rows, target="count", columns="-share", loss="poisson", **how)
    wanted = PoissonRegressor(alpha=0, tol=1e-9).fit(x, rows["count"]).predict(x)  # log-linear, too
    np.testing.assert_allclose(run.predict(rows), wanted, rtol=0.05)
    both = handful.fit("linear", rows, target="count,share", out=tmp_path / "run",
                       loss="together(['poisson', 'binary_cross_entropy'])", **how)  # fmt: skip
    found, scores = both.predict(rows), both.evaluate(rows)
    np.testing.assert_allclose(found["count"], wanted, rtol=0.05)
    np.testing.assert_allclose(found["share"], share, atol=0.02)
    assert scores["count_mae"] == pytest.approx(np.abs(found["count"] - rows["count"]).mean(), rel=1e-5)
    assert scores["share_r2"] == pytest.approx(r2_score(share, found["share"]), rel=1e-5)
    assert handful.load(tmp_path / "run").evaluate(rows) == scores
    for bad, loss, words in ((-rows["count"], "poisson", "0 or more"), (3 * share, nn.BCEWithLogitsLoss(), "0 to 1")):
        with pytest.raises(HandfulError, match=f"and the loss is for .*{words}"):
            handful.fit("linear", rows | {"bad": bad}, target="bad", loss=loss, **how)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_scripted_model_trains_as_the_plain_one() -> None:
    x = np.random.default_rng(0).standard_normal((80, 4)).astype(np.float32)
    data, options = (x, (x[:, 0] > 0).astype(int)), {"batch": 16, "lr": 0.01, "until": "epochs(2)", "quiet": True}
    plain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    scripted = torch.jit.script(plain)
    start = {name: value.clone() for name, value in plain.state_dict().items()}
    given = handful.fit(scripted, data, **options)
    plain.load_state_dict(start)
    assert given.scores == handful.fit(plain, data, **options).scores
    with pytest.raises(HandfulError, match="a scripted model is a program already"):
        given.export("m.pt2")


class MeanAndSpread(nn.Module):
    """Each [rows, 1], as a layer gives them."""

    def __init__(self, tuples: bool) -> None:
        super().__init__()
        self.a, self.b, self.tuples = nn.Linear(4, 1), nn.Linear(4, 1), tuples

    def forward(self, x: Tensor) -> object:
        mean, spread = self.a(x), nn.functional.softplus(self.b(x)) + 0.1
        return (mean, spread) if self.tuples else {"mean": mean, "spread": spread}


@pytest.mark.filterwarnings("ignore:Using a target size")  # torch's own, of the first of them
@pytest.mark.parametrize(
    ("tuples", "loss"),
    [
        (False, lambda o, y: nn.functional.mse_loss(o["mean"], y)),
        (False, lambda o, y: ((o["mean"] - y) ** 2 / o["spread"] + o["spread"].log()).mean(1)),
        (True, lambda o, y: ((o[0] - y) ** 2 / o[1] + o[1].log()).mean()),
    ],
)
def test_parts_of_an_output_that_spread_against_the_target_are_refused(tuples: bool, loss: Any) -> None:
    amounts = ROUGH[:, 0] * 2
    with pytest.raises(HandfulError, match=r"the output is \[rows, 1\] and the target \[rows\], which spread"):
        handful.fit(MeanAndSpread(tuples), (ROUGH, amounts), loss=loss, **SHORT)
    handful.fit(MeanAndSpread(tuples), (ROUGH, amounts), loss=lambda o, y: loss(o, y[:, None]), **SHORT)


def test_a_loss_that_differentiates_the_output_is_told_what_can_be_done() -> None:
    class Penalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = x.detach().requires_grad_()
            return self.net(x), x

    def loss(output: Any, y: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(output[0].sum(), output[1], create_graph=True)
        return (output[0] - y) ** 2 + 0.1 * slope.square().sum(1)

    amounts = ROUGH[:, 0] * 2
    with pytest.raises(HandfulError, match=r"differentiates what the model gives, .* inside torch.enable_grad"):
        handful.fit(linear(lambda *sizes: Penalised()), (ROUGH, amounts), loss=loss, **SHORT)

    class Told(Penalised):
        def forward(self, x: Tensor, y: "Tensor | None" = None) -> Any:
            with torch.enable_grad():
                output = super().forward(x)
                return output[0] if y is None else {"loss": loss(output, y), "found": output[0]}

    one, other = linear(lambda *sizes: Told()), linear(lambda *sizes: Penalised())
    run = handful.fit(one, (ROUGH, amounts), loss="model", valid=None, **SHORT)
    step = lambda model, batch, step: step.minimise(lambda part: loss(model(part["x"]), part["y"]))
    handful.fit(other, (ROUGH, amounts), training_step=step, valid=None, **SHORT)
    for found, due in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found, due)
    assert run.evaluate((ROUGH, amounts))["loss"] > 0


class Causal(nn.Module):
    """A small language model that makes its loss, of its labels or of those that follow."""

    def __init__(self, first: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.words, self.head, self.first = nn.Embedding(20, 8), nn.Linear(8, 20), first
            self.head.weight.data *= 0.01  # as new models are: all losses are nearly the same
            self.head.bias.data *= 0.01

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.head(self.words(input_ids))
        if labels is None:
            return {"logits": logits}
        scores, due = logits[:, : logits.shape[1] - self.first], labels[:, self.first :]
        return {"loss": F.cross_entropy(scores.flatten(0, 1), due.flatten()), "logits": logits}


@pytest.mark.parametrize("first", [0, 1])
def test_what_a_new_models_loss_is_a_mean_of_is_found_though_all_losses_are_nearly_the_same(first: int) -> None:
    generator = np.random.default_rng(0)
    rows = [torch.tensor(generator.integers(1, 20, 2 + k % 5)) for k in range(30)]
    model, twin = Causal(first).double(), Causal(first).double()
    run = handful.fit(
        model, [{"input_ids": ids, "labels": ids} for ids in rows], target="labels", loss="model", micro_batch=2,
        batch=6, optimizer="sgd", lr=0.5, l2=0, schedule="constant", valid=None, until="steps(5)", quiet=True,
    )  # fmt: skip
    assert run.plan.choices["loss_form"].value == f"mean over places{' but the first' * first}"
    optimizer, order = torch.optim.SGD(twin.parameters(), lr=0.5), handful.Order(30, seed=0)
    pad = torch.nn.utils.rnn.pad_sequence
    for k in range(5):
        some = [rows[row] for row in order[6 * k : 6 * k + 6]]
        optimizer.zero_grad()
        ids, labels = pad(some, batch_first=True), pad(some, batch_first=True, padding_value=-100)
        twin(ids, ids > 0, labels)["loss"].backward()
        optimizer.step()
    for found, due in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, due, rtol=1e-10, atol=1e-12)


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Sequential(nn.Linear(5, 8), nn.Tanh()), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["all of it", "a part", "in parallel"])
def test_a_wrapped_model_is_the_model_inside_and_stays_compiled(kind: str, tmp_path: Path) -> None:
    shapes: list[tuple[int, ...]] = []

    def backend(graph: Any, example: Any) -> Any:
        shapes.extend(tuple(v.shape) for v in example if torch.is_tensor(v))
        return graph.forward

    def made() -> nn.Module:
        model = Frozen()
        match kind:
            case "all of it":
                return torch.compile(model, backend=backend)  # type: ignore[return-value]
            case "a part":
                model.body[0] = torch.compile(model.body[0], backend=backend)
            case "in parallel":
                return nn.DataParallel(model)
        return model

    torch._dynamo.reset()
    plain, one = Frozen(), made()
    handful.fit(plain, (X, Y), until="steps(6)", **USUAL)
    run = handful.fit(one, (X, Y), until="steps(6)", out=tmp_path / "run", **USUAL | {"lr": {"body": 0.1, "*": 0.1}})
    assert list(run.model.state_dict()) == list(plain.state_dict())
    assert all(map(torch.equal, run.model.parameters(), plain.parameters()))
    assert all(map(torch.equal, one.parameters(), plain.parameters()))  # trained in place
    if kind != "in parallel":
        assert (16, 5) in shapes
        assert (2, 5) not in shapes  # the rows that are tried before
        assert run.plan.choices["compile"].value == (kind == "all of it")
        assert torch.equal(one(X), plain(X))
    for other in (made(), Frozen()):  # either takes the weights of the other
        again = handful.load(tmp_path / "run", model=other)
        assert np.array_equal(again.predict(X.numpy()), run.predict(X.numpy()))
    weights = run.export(tmp_path / "weights.safetensors")
    begun = handful.fit(made(), (X, Y), init=weights, until="steps(1)", **USUAL | {"lr": 1e-30})
    assert all(map(torch.equal, begun.model.parameters(), plain.parameters()))
    handful.fit(made(), (X, Y), until="steps(3)", out=tmp_path / "other", **USUAL)
    gone_on = handful.resume(tmp_path / "other", model=made(), train=(X, Y), until="steps(6)", quiet=True)
    assert all(map(torch.equal, gone_on.model.parameters(), plain.parameters()))


def test_layers_of_torch_are_compiled_where_a_call_of_them_is() -> None:
    graphs: list[Any] = []
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(5, 2))
    compile_calls(model, partial(torch.compile, backend=lambda graph, _: graphs.append(graph) or graph.forward))
    assert torch.equal(model(X), model[0](X))
    assert len(graphs) == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_loaded_run_computes_in_the_precision_of_its_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    run = handful.fit(Of("pair").to(dtype), (X, Y), until="steps(2)", out=tmp_path / "run", **USUAL)
    loaded = handful.load(tmp_path / "run", model=Of("pair"))
    assert {p.dtype for p in loaded.model.parameters()} == {dtype}
    assert np.array_equal(loaded.outputs({"x": X})[0], run.outputs({"x": X})[0])


class Merged(nn.Linear):
    """A layer with an adapter that is a part of its weight in evaluation mode, as loralib's."""

    def __init__(self) -> None:
        super().__init__(5, 2)
        self.weight.requires_grad_(False)
        self.adapter, self.merged = nn.Parameter(torch.full((2, 5), 0.1)), False

    def train(self, mode: bool = True) -> "Merged":
        super().train(mode)
        if self.merged is mode:
            self.weight.data += self.adapter.data * (-1 if mode else 1)
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (0 if self.merged else F.linear(x, self.adapter))


@pytest.mark.parametrize("valid", [None, 0.25])
def test_a_layer_that_merges_its_weights_for_evaluation_is_loaded_as_it_was(
    valid: float | None, tmp_path: Path
) -> None:
    run = handful.fit(Merged(), (X, Y), until="steps(6)", out=tmp_path / "run", **USUAL | {"valid": valid})
    by_hand = run.model.train()(X).detach()  # base and adapter apart
    run.model.eval()
    assert np.allclose(run.outputs({"x": X}), by_hand, atol=1e-5)
    assert np.allclose(handful.load(tmp_path / "run", model=Merged()).outputs({"x": X}), by_hand, atol=1e-5)


def detached(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output.detach(), target)


@pytest.mark.parametrize("how", ["detached", "frozen", "turned off"])
def test_a_loss_without_a_gradient_is_a_sentence(how: str) -> None:
    model = nn.Linear(5, 2)

    def meddle(event: str, info: object) -> None:
        if event == "step":
            model.requires_grad_(how != "frozen")
            torch.set_grad_enabled(how != "turned off")

    loss = detached if how == "detached" else "cross_entropy"
    try:
        with pytest.raises(HandfulError, match=f"loss of step {1 + (how != 'detached')} has no gradient"):
            handful.fit(model, (X, Y), loss=loss, until="steps(3)", callbacks=[meddle], **USUAL)
    finally:
        torch.set_grad_enabled(True)


class Fails(nn.Linear):
    """In its second call in training mode, as where a row holds what others do not."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        if self.calls > 1:
            raise IndexError("out of range")
        return super().forward(x)


def test_a_model_that_fails_in_a_step_is_told_with_its_step_and_rows() -> None:
    with pytest.raises(IndexError) as failed:
        handful.fit(Fails(5, 2), (X, Y), shuffle="none", until="steps(3)", **USUAL)
    assert failed.value.__notes__ == ["handful: at step 2, rows 16, 17, 18, 19, 20 and 11 more (counted from 0)"]


class Beside(nn.Module):
    """What it learns depends on something that its state_dict() does not hold."""

    def __init__(self, what: str) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.out = nn.Linear(5, 2)
        self.what, self.calls, self.drawn = what, 0, torch.Generator().manual_seed(0)
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.turn = torch.arange(2.0)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.what == "number":
            self.calls += 1
        if self.training and self.what == "turn":  # the numbers stay, and change places
            self.turn = self.turn.roll(1)
        if self.training and self.what == "buffer":
            self.seen += 1
        if self.training and self.what == "generator":
            torch.rand(1, generator=self.drawn)
        return self.out(x) + self.turn


class Extra(Beside):
    def get_extra_state(self) -> dict[str, int]:
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Beside("number"), "changes calls as"),
        (lambda: Beside("buffer"), "changes seen as"),
        (lambda: Beside("turn"), "changes turn as"),
        (lambda: Beside("generator"), "changes drawn as"),
        (lambda: Extra("number"), "changes calls, _extra_state as"),
        (lambda: Beside(""), None),
        (lambda: Extra(""), None),
    ],
)
def test_what_a_model_keeps_beside_its_weights_is_said_and_no_run_is_lost(
    made: Any, said: str | None, tmp_path: Path
) -> None:
    run = handful.fit(made(), (X, Y), until="steps(3)", out=tmp_path / "run", **USUAL)
    notes = " ".join(row["note"] for row in run.history if "note" in row)
    assert (f"the model {said}" in notes) if said else "state_dict" not in notes
    gone_on = handful.resume(tmp_path / "run", model=made(), train=(X, Y), until="steps(6)", quiet=True)
    whole = made()
    handful.fit(whole, (X, Y), until="steps(6)", **USUAL)
    assert all(map(torch.equal, whole.parameters(), gone_on.model.parameters()))
    loaded = handful.load(tmp_path / "run", model=made())
    assert np.array_equal(loaded.predict(X.numpy()), gone_on.predict(X.numpy()))


def test_a_model_with_buffers_is_trained_in_float64() -> None:
    net = nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(5, 5)), nn.BatchNorm1d(5), nn.Linear(5, 2))
    run = handful.fit(net, (X, Y), precision="float64", until="steps(3)", **USUAL)
    floating = [t.dtype for t in run.model.state_dict().values() if t.is_floating_point()]
    assert set(floating) == {torch.float64}


class Adversaries(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.maker, self.judge = nn.Linear(5, 5), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        made = self.maker(x)
        return {
            "of_judge": F.softplus(-self.judge(x)).mean() + F.softplus(self.judge(made.detach())).mean(),
            "of_maker": F.softplus(-self.judge(made)).mean(),
        }


def test_losses_that_are_added_up_are_named() -> None:
    run = handful.fit(Adversaries(), {"x": X}, loss="model", until="steps(1)", **USUAL)
    assert any("is the sum of of_judge, of_maker" in note and "training_step=" in note for note in run.plan.notes)


class Views(nn.Linear):
    """Two views of each row, one below the other, as for contrastive learning."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super().forward(x), super().forward(x.flip(1))])


def contrast(views: Tensor, target: object) -> Tensor:
    z, m = F.normalize(views, dim=1), len(views) // 2
    return F.cross_entropy(z @ z.T - 1e9 * torch.eye(2 * m), torch.arange(2 * m).roll(m))


def test_a_loss_over_several_views_of_each_row_is_found_to_couple_rows() -> None:
    runs = [
        handful.fit(seeded(Views), {"x": X}, loss=contrast, micro_batch=part, until="steps(3)", **USUAL)
        for part in (None, 4)
    ]
    assert all("couples the rows of a batch" in " ".join(run.plan.notes) for run in runs)
    assert torch.equal(runs[0].model.weight, runs[1].model.weight)


def seeded(made: type[nn.Linear]) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return made(5, 2)


class Hooked(nn.Module):
    """A model that puts hooks in place where it is called first, and knows by `known` that they are there."""

    def __init__(self, known: str) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 2)])
        self.known, self.seen = known, []
        if known == "named":
            self.ready = False

    def forward(self, x: Tensor) -> Tensor:
        if not getattr(self, "ready", False):
            keep = lambda module, given, output: self.seen.append(output)
            handles = [layer.register_forward_hook(keep) for layer in self.layers]
            handles.append(self.layers[0].weight.register_hook(lambda gradient: 2 * gradient))
            self.ready = handles if self.known == "by handles" else True
        self.seen.clear()
        self.layers[1](self.layers[0](x).tanh())
        return sum(output.mean(1, keepdim=True) for output in self.seen) * torch.tensor([1.0, -1.0])


@pytest.mark.parametrize("known", ["made", "named", "by handles"])
@pytest.mark.parametrize("batch", [16, "auto"])
def test_hooks_that_a_first_call_puts_in_place_are_there_once(known: str, batch: int | str) -> None:
    model, twin = Hooked(known), Hooked(known)
    own = partial(F.cross_entropy, reduction="none")
    run = handful.fit(model, (X, Y), loss=own, until="steps(20)", **USUAL | {"batch": batch})
    assert [len(layer._forward_hooks) for layer in model.layers] == [1, 1]
    assert len(model.layers[0].weight._backward_hooks or ()) == 1
    assert run.history[-1]["step"] == 20
    if batch == 16:
        by_hand(twin, 20, lambda m, rows: F.cross_entropy(m(X[rows]), Y[rows]))
        assert same(model, twin)


class Forecast(nn.Module):
    """forward(past_values, future_values) as Hugging Face's models of series: the loss where both are given."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.line = nn.Linear(5, 2)

    def forward(self, past_values: Tensor, future_values: Tensor | None = None) -> dict[str, Tensor]:
        made = self.line(past_values)
        return {"made": made} | ({} if future_values is None else {"loss": F.huber_loss(made, future_values)})


def test_the_target_is_the_argument_of_its_columns_name() -> None:
    model, twin = Forecast(), Forecast()
    after = torch.stack([Z, Z.square()], 1)
    data = {"past_values": X.numpy(), "future_values": after.numpy()}
    run = handful.fit(model, data, target="future_values", loss="model", until="steps(12)", **USUAL)
    by_hand(twin, 12, lambda m, rows: m(X[rows], after[rows])["loss"])
    assert same(model, twin)
    np.testing.assert_allclose(run.predict(data), twin(X)["made"].detach(), rtol=1e-6)
    with pytest.raises(HandfulError, match=r"has no argument for .after.\. What it takes by name"):
        handful.fit(model, {"past_values": X, "after": Z}, target="after", loss="model", **USUAL)


class OfVersion(nn.Linear):
    """As torchvision's MNASNet: weights without the version of the module are refused."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        if metadata.get("version") != 2:
            raise ValueError(f"version 2 is read, not {metadata.get('version')}")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def test_weights_are_put_back_with_the_versions_of_their_modules(tmp_path):
    handful.fit(OfVersion(5, 2), (X, Y), out=tmp_path / "run", until="epochs(2)", **USUAL | {"valid": 0.2, "ema": 0.9})
    run = handful.resume(tmp_path / "run", model=OfVersion(5, 2), train=(X, Y), until="epochs(3)")
    again = handful.load(tmp_path / "run", model=OfVersion(5, 2))
    assert again.predict(X).tolist() == run.predict(X).tolist()


class Sum(nn.Module):
    """Of what it is given, times a weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, a, b, c=None, *, d=None, training_only=False):
        return self.weight * (a + b + sum(one for one in (c, d) if one is not None)).reshape(-1, 1)


@pytest.mark.parametrize("optional", [("c",), ("d",), ("c", "d"), ()])
def test_columns_named_as_optional_arguments_are_given_beside_those_that_are_needed(optional):
    """They were left out, as what forward has no need of."""
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(size=64).astype("f") for name in ("d", "other", "b", "a", *optional)}
    columns = {name: column for name, column in columns.items() if name in ("a", "b", "other", *optional)}
    given = sum(columns[name] for name in ("a", "b", *optional))
    run = handful.fit(Sum(), columns | {"y": given}, target="y", valid=None, until="steps(3)", lr=1e-9, quiet=True)
    assert run.predict(columns) == pytest.approx(given, abs=1e-5)
    assert "Left out, as the model's forward does not take them: other." in run.plan.notes


class NextToken(nn.Module):
    """The mean loss of each next id over all places that are none of padding, as causal models make it."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.o = nn.Embedding(20, 6, padding_idx=0), nn.Linear(6, 20)

    def forward(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        logits = self.o(self.e(input_ids).cumsum(1))
        return F.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=-100)


def test_what_a_loss_is_a_mean_of_is_not_found_by_chance() -> None:
    """Of one number in thirty, the mean over rows and that over places are alike in four digits."""
    for seed in range(24):
        rng, rows = np.random.default_rng(seed), []
        for length in rng.integers(4, 9, 24):
            ids = torch.from_numpy(rng.integers(1, 20, length))
            rows.append({"input_ids": ids, "labels": ids})
        torch.manual_seed(seed)
        run = handful.fit(NextToken(), rows, target="labels", batch=8, lr=0.1, valid=None, until="steps(1)", quiet=True)
        assert run.plan.choices["loss_form"].value == "mean over places but the first", seed


class SumOfSquares(nn.Linear):
    """The sum over the rows of the squares of what it does not give back, beside what it gives, or alone."""

    def __init__(self, form: str) -> None:
        super().__init__(5, 5)
        self.form = form

    def forward(self, x: Tensor) -> Any:
        out = super().forward(x)
        loss = F.mse_loss(out, x, reduction="sum")
        return {"dict": {"loss": loss, "out": out}, "tuple": (loss, out), "views": (loss, out.repeat(2, 1)),
                "one": {"loss": loss}, "alone": loss}[self.form]  # fmt: skip


@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize("form", ["dict", "tuple", "views", "one", "alone"])
def test_a_sum_that_a_model_makes_without_a_target_is_divided_by_the_rows(form: str, micro_batch: int | None) -> None:
    torch.manual_seed(0)
    model, x = SumOfSquares(form).double(), X.double()
    plain = copy.deepcopy(model)
    how: dict[str, Any] = {"optimizer": "sgd", "schedule": "constant", "l2": 0, "valid": None, "batch": 8, "lr": 0.05}
    run = handful.fit(model, x, loss="model", until="steps(3)", micro_batch=micro_batch, quiet=True, **how)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05)
    for k in range(3):
        optimizer.zero_grad()
        rows = x[np.asarray(handful.Order(len(x), seed=0)[8 * k : 8 * k + 8])]
        (F.mse_loss(nn.Linear.forward(plain, rows), rows, reduction="sum") / 8).backward()
        optimizer.step()
    for found, due in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, due, rtol=1e-9, atol=1e-11)
    with torch.no_grad():
        whole = float(F.mse_loss(nn.Linear.forward(plain, x), x, reduction="sum")) / len(x)
    assert run.evaluate(x)["loss"] == pytest.approx(whole, rel=1e-6)
