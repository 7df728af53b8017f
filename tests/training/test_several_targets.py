"""Targets that are not alike, a class and a number: training, scores and predictions of each, against torch and
scikit-learn."""

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import confusion_matrix, f1_score, r2_score
from torch import Tensor, nn
from torch.utils.data import Dataset

import handful
from handful.base.errors import HandfulError
from handful.runs.predict import write_predictions

N = 120
X = np.random.default_rng(0).normal(size=(N, 3))
NAMES = np.where(X[:, 0] > 0.5, "big", np.where(X[:, 1] > 0, "mid", "low"))
IDS, SIZES = np.searchsorted(["big", "low", "mid"], NAMES), X[:, 0] * 3 + 1
FRAME = pd.DataFrame(X, columns=list("pqr")).assign(kind=NAMES, size=SIZES)
FIT: dict[str, Any] = {"batch": 16, "lr": 0.02, "until": "steps(9)", "quiet": True, "valid": None}
PLAIN: dict[str, Any] = {**FIT, "optimizer": "sgd", "schedule": "constant", "l2": 0, "preprocess": "none"}


class Two(nn.Module):
    """A head for each target."""

    def __init__(self, form: str = "tuple") -> None:
        super().__init__()
        self.base, self.kind, self.size, self.form = nn.Linear(3, 8), nn.Linear(8, 3), nn.Linear(8, 1), form

    def forward(self, x: Tensor) -> object:
        h = self.base(x).tanh()
        kind, size = self.kind(h), self.size(h).squeeze(1)
        if self.form == "tensor":
            return torch.cat([kind, size[:, None]], 1)
        return (kind, size) if self.form == "tuple" else {"size": size, "kind": kind}


class WithLoss(Two):
    """It makes its loss."""

    def forward(self, x: Tensor, y: "dict[str, Tensor] | None" = None) -> object:
        found = super().forward(x)
        return found if y is None else {"loss": loss(found, y).mean(), "kind": found[0], "size": found[1]}  # type: ignore[index]


class Rows(Dataset):
    def __init__(self, make: Any) -> None:
        self.make = make

    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> object:
        return self.make(row)


def loss(output: Any, target: dict[str, Tensor]) -> Tensor:
    assert target["kind"].dtype == torch.int64
    kind, size = output if isinstance(output, tuple) else (output["kind"], output["size"])
    of_size = F.mse_loss(size, target["size"], reduction="none")
    return F.cross_entropy(kind, target["kind"], reduction="none") + 0.1 * of_size


def made(of: Any = Two) -> nn.Module:
    torch.manual_seed(0)
    return of().double()


def plain_loop() -> nn.Module:
    model, order = made(), handful.Order(N, seed=0)
    x, target = torch.tensor(X), {"kind": torch.tensor(IDS), "size": torch.tensor(SIZES)}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    for k in range(9):
        rows = torch.tensor(np.asarray(order[16 * k : 16 * k + 16]))
        optimizer.zero_grad()
        loss(model(x[rows]), {name: y[rows] for name, y in target.items()}).mean().backward()
        optimizer.step()
    return model


def same(model: nn.Module, other: nn.Module, close: float = 1e-10) -> None:
    for found, due in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found, due, rtol=close, atol=close)


@pytest.mark.parametrize("micro_batch", [None, 5, 1])
@pytest.mark.parametrize(
    "data",
    [
        Rows(lambda row: {"x": X[row], "kind": int(IDS[row]), "size": float(SIZES[row])}),
        Rows(lambda row: (X[row], {"kind": int(IDS[row]), "size": float(SIZES[row])})),
        {"x": X, "kind": NAMES.tolist(), "size": SIZES},
    ],
    ids=["dicts", "pairs", "columns"],
)
def test_an_own_loss_gets_each_target_in_its_own_dtype(data: Any, micro_batch: int | None) -> None:
    model = made()
    run = handful.fit(model, data, target="kind,size", loss=loss, micro_batch=micro_batch, **PLAIN)
    same(model, plain_loop())
    found, (scores, sizes) = run.evaluate(data), model(torch.tensor(X))
    right = scores.argmax(1).numpy() == IDS
    assert found["kind_accuracy"] == pytest.approx(right.mean())
    assert found["size_r2"] == pytest.approx(r2_score(SIZES, sizes.detach().numpy()))
    more = run.evaluate(data, metrics="kind_f1, size_rmse")
    assert more["kind_f1"] == pytest.approx(f1_score(IDS, scores.argmax(1), average="macro"))
    assert more["size_rmse"] == pytest.approx(np.sqrt(np.mean((sizes.detach().numpy() - SIZES) ** 2)))
    predicted = run.predict(data)
    np.testing.assert_allclose(predicted["size"], sizes.detach().numpy())
    assert (predicted["kind"] == (NAMES if isinstance(data, dict) else IDS))[right].all()


def test_the_models_own_loss_and_the_callers_own_step_get_them_too() -> None:
    model, other = made(WithLoss), made()
    handful.fit(model, FRAME, target="kind,size", loss="model", micro_batch=5, **PLAIN)
    step = lambda model, batch, step: step.minimise(lambda part: loss(model(part["x"]), part["y"]))
    handful.fit(other, FRAME, target="kind,size", training_step=step, micro_batch=5, **PLAIN)
    same(model, plain_loop(), close=1e-6)  # a table is float32
    same(other, plain_loop(), close=1e-6)


def test_a_run_that_was_broken_off_goes_on_and_is_loaded(tmp_path: Path) -> None:
    model, whole = made(), made()
    halt = lambda event, info: "x" if event == "step" and info["step"] == 4 else None
    run = handful.fit(whole, FRAME, target="kind,size", loss=loss, **FIT)
    handful.fit(model, FRAME, target="kind,size", loss=loss, out=tmp_path, callbacks=[halt], **FIT)
    handful.resume(tmp_path, model=model, train=FRAME, loss=loss, quiet=True)
    same(model, whole, close=0)
    assert handful.load(tmp_path, model=made(), loss=loss).evaluate(FRAME) == run.evaluate(FRAME)


@pytest.mark.parametrize("form", ["tensor", "tuple", "dict"])
def test_the_usual_loss_is_the_sum_of_the_usual_losses(form: str) -> None:
    model = made(lambda: Two(form))
    run = handful.fit(model, FRAME, target="kind,size", **FIT)
    output: Any = made(lambda: Two("dict")).train(False)
    output.load_state_dict(model.state_dict())
    x = torch.tensor((X - X.mean(0)) / X.std(0))
    found = output(x)
    due = F.cross_entropy(found["kind"], torch.tensor(IDS)) + F.mse_loss(found["size"], torch.tensor(SIZES))
    assert run.evaluate(FRAME)["loss"] == pytest.approx(due.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["linear", "mlp", "table"])
def test_ready_made_models_learn_both_and_a_file_is_read_alike(name: str, tmp_path: Path) -> None:
    rows = FRAME.assign(low=np.where(X[:, 2] < 0, "yes", "no"))
    rows.to_csv(tmp_path / "rows.csv", index=False)
    how = {"batch": 16, "lr": 0.03, "until": "epochs(30)", "quiet": True, "out": tmp_path / "run"}
    run = handful.fit(name, rows, target="kind,size,low", **how)
    found = run.evaluate(rows)
    assert found["kind_accuracy"] > 0.85
    assert found["size_r2"] > 0.9
    again = handful.load(tmp_path / "run")
    assert again.evaluate(tmp_path / "rows.csv") == pytest.approx(found, rel=1e-5)
    write_predictions(again, tmp_path / "rows.csv", tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["prediction_kind"] for line in lines] == run.predict(rows)["kind"].tolist()
    assert set(lines[0]) == {"row", "prediction_kind", "prediction_size", "prediction_low"}
    again.export(tmp_path / "model.pt2")
    raw = {column: torch.tensor(rows[column].to_numpy()) for column in "pqr"}
    program = torch.export.load(tmp_path / "model.pt2").module()(raw)
    np.testing.assert_allclose(program[:, 3], run.predict(rows)["size"], rtol=1e-6)
    np.testing.assert_allclose(program[:, :3].sum(1), 1)


def test_losses_by_name_with_weights_and_what_fits_none_is_said() -> None:
    run = handful.fit("mlp", FRAME, target="kind,size", loss="together(['focal', 'huber'], weights=[1, 0.5])", **FIT)
    assert run.plan.choices["loss"].value == "together(['focal', 'huber'], weights=[1, 0.5], sizes=[3, 1])"
    with pytest.raises(HandfulError, match="give one for each"):
        handful.fit("mlp", FRAME, target="kind,size", loss="together(['focal'])", **FIT)
    with pytest.raises(HandfulError, match=r"does not fit the targets kind,size: let it return a dict .* 3, 1 scores"):
        handful.fit(nn.Linear(3, 3), FRAME, target="kind,size", **FIT)
    with pytest.raises(HandfulError, match=r"'other' in row 0 .* a class that the training rows do not have"):
        run.evaluate(FRAME.assign(kind="other"))
    with pytest.raises(HandfulError, match="'size' is missing in row 0"):
        run.evaluate(FRAME.assign(size=np.nan))
    merged = Rows(lambda row: (X[row], (int(IDS[row]), float(SIZES[row]))))
    with pytest.raises(HandfulError, match="'y' is a tuple of whole and other numbers"):
        handful.fit(made(), merged, loss=loss, **FIT)


def test_class_weights_go_to_the_target_that_has_the_classes() -> None:
    given = {**FIT, "target": "kind,size"}
    with pytest.raises(HandfulError, match="give each target its own") as refused:
        handful.fit("linear", FRAME, class_weight="balanced", **given)
    way = ast.literal_eval(str(refused.value).partition(", as loss=")[2])
    assert way == "together(['cross_entropy(class_weight=[1, 1, 1])', 'mse'])"
    same = [handful.fit("linear", FRAME, loss=how, **given) for how in (way, "auto")]
    other = handful.fit("linear", FRAME, loss=way.replace("[1, ", "[7, "), **given)
    weights = [next(run.model.parameters()) for run in (*same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_new_rows_are_read_as_those_of_training_were() -> None:
    """Numbers that are all 0 or 1, or labels of which there is no other, are what they were in training."""
    numbers = handful.fit("linear", FRAME.assign(kind=SIZES * 2), target="kind,size", **FIT)
    assert numbers.evaluate(FRAME.assign(kind=1.0, size=0.0))["mae"] > 0
    labels = handful.fit("linear", FRAME.assign(kind=IDS > 0, size=SIZES > 0), target="kind,size", **FIT)
    with pytest.raises(HandfulError, match="'size' of DataFrame holds number"):
        labels.evaluate(FRAME.assign(kind=True))
    kinds = handful.fit(
        "linear", {"x": X, "rooms": IDS, "price": SIZES}, target="rooms,price", task="regression", **FIT
    )
    assert kinds.predict({"x": X[:2]})["rooms"].dtype == np.float64


def test_probabilities_and_the_page_of_each_target_are_those_of_the_target_by_itself(tmp_path: Path) -> None:
    rows = FRAME.assign(low=np.where(X[:, 2] < 0, "yes", "no"))
    run = handful.fit("mlp", rows, target="kind,size,low", out=tmp_path / "run", **FIT | {"valid": 0.2})
    likely, guess = run.predict(rows, probabilities=True).numpy(), run.predict(rows)
    names = ("kind=big", "kind=low", "kind=mid", "low=no", "low=yes")
    assert run.pipeline.of_classes == names
    outputs = torch.as_tensor(run.outputs(rows)).double()
    np.testing.assert_allclose(likely[:, :3], outputs[:, :3].softmax(1))
    assert ([["big", "low", "mid"][k] for k in likely[:, :3].argmax(1)] == guess["kind"]).all()
    one = run.as_function(probabilities=True)(rows.iloc[0].to_dict())
    assert one == pytest.approx(dict(zip(names, likely[0].tolist(), strict=True)))
    assert run.as_function()(rows.iloc[0].to_dict())["kind"] == guess["kind"][0]
    write_predictions(run, rows, tmp_path / "out.csv", probabilities=True)
    np.testing.assert_allclose(pd.read_csv(tmp_path / "out.csv")["probability_low=no"], likely[:, 3], atol=1e-6)

    found = run.evaluation(rows)
    kind, size, low = found.parts
    np.testing.assert_array_equal(kind.confusion, confusion_matrix(rows["kind"], guess["kind"]))
    np.testing.assert_array_equal(low.confusion, confusion_matrix(rows["low"], guess["low"]))
    np.testing.assert_allclose(np.hstack(size.residuals), np.c_[SIZES, guess["size"]], rtol=1e-5)
    worst = found.worst[0]
    assert worst["target"].split(", ")[::2] == [NAMES[worst["row"]], rows["low"][worst["row"]]]
    again = type(found).from_json(json.loads(json.dumps(found.as_json())))
    assert [part.classes for part in again.parts] == [kind.classes, [], low.classes]
    assert "size: Always the mean" in found.chance()
    page = run.evaluation_report(rows, tmp_path / "page.html").read_text()
    assert all(words in page for words in ("Confusion matrix of kind", "By low"))
    assert "By kind" in run.report(tmp_path / "report.html").read_text()
    step = handful.replay(tmp_path / "run", 5, train=rows)
    assert step.losses is not None
    assert step.loss == pytest.approx(step.losses.mean())
    numbers = handful.fit("mlp", rows.assign(more=X[:, 1] + X[:, 0]), target="size,more", **FIT)
    with pytest.raises(HandfulError, match="no probabilities"):
        numbers.predict(rows, probabilities=True)


def test_outputs_of_an_own_model_are_named_by_its_class_ids() -> None:
    data = {"x": X, "kind": IDS, "size": SIZES}
    run = handful.fit(made(), data, target="kind,size", loss=loss, **PLAIN)
    assert run.pipeline.names == ("kind=0", "kind=1", "kind=2", "size")
    assert run.predict(data, probabilities=True).shape == (N, 3)
