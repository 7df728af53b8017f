"""A target of several columns: labels or numbers, through training, evaluation and predictions."""

import csv

import numpy as np
import pandas as pd
import pytest

import handful
from handful.data.store import inputs
from handful.runs.predict import write_predictions


@pytest.fixture(scope="module")
def frame():
    x = np.random.default_rng(0).normal(size=(300, 3))
    return pd.DataFrame(x, columns=list("pqr")).assign(
        low=(x[:, 0] < 0).astype(int), rude=np.where(x[:, 1] > 1, "Yes", "no"), spam=x[:, 2] > 0, size=x[:, 0] * 3,
        depth=x[:, 1] - 7,
    )  # fmt: skip


def fit(where, **more):
    settings = {"batch": 16, "lr": 0.01, "until": "epochs(12)", "quiet": True, "threads": 1}
    return handful.fit("linear", where, **settings | more)


def test_words_booleans_and_numbers_become_labels(frame):
    source = handful.open(frame, target="low, rude,spam")
    y = source.take([0, 7, 5])[source.target]
    expected = np.stack([frame["low"], frame["rude"] == "Yes", frame["spam"]], 1)[[0, 7, 5]]
    np.testing.assert_array_equal(y.numpy(), expected)
    assert set(source.inputs) == {"p", "q", "r", "size", "depth"}
    assert handful.open(frame, target=["low", "rude", "spam"]).target == source.target
    assert handful.open(handful.open(frame), target=["low", "rude", "spam"]).target == source.target


def test_a_class_and_a_number_are_learned_from_a_store_as_from_a_frame(frame, tmp_path, monkeypatch):
    store = handful.prepare(frame, tmp_path / "store", target="rude,size")
    assert store.columns["rude,size"] == handful.open(frame, target="rude,size").columns["rude,size"]
    runs = [fit(where, target="rude,size", until="steps(3)") for where in (frame, store)]
    assert runs[0].scores == runs[1].scores
    frame.to_csv(tmp_path / "data.csv", index=False)
    monkeypatch.setattr(inputs, "SMALL", 0)  # a file that would be read in blocks
    large = handful.prepare(tmp_path / "data.csv", tmp_path / "large", target="rude,size")
    assert [part.kind for part in large.columns["rude,size"].parts] == ["category", "number"]


def test_labels_are_learned_scored_and_predicted_by_name(frame, tmp_path):
    frame.drop(columns=["size", "depth"]).to_csv(tmp_path / "data.csv", index=False)
    fit(tmp_path / "data.csv", target="low,rude,spam", out=tmp_path / "run", lr=0.05, until="epochs(20)")
    run = handful.load(tmp_path / "run")
    assert run.plan.choices["task"].value == "multilabel"
    assert run.evaluate(tmp_path / "data.csv")["label_accuracy"] > 0.9
    found = run.evaluation(tmp_path / "data.csv")
    assert "By label" in found.write(tmp_path / "page.html", "labels").read_text()
    assert [row["label"] for row in found.classes] == ["low", "rude", "spam"]
    assert [row["rows"] for row in found.classes] == [
        frame["low"].sum(),
        (frame["rude"] == "Yes").sum(),
        frame.spam.sum(),
    ]
    write_predictions(run, tmp_path / "data.csv", tmp_path / "out.csv", probabilities=True)
    with open(tmp_path / "out.csv") as file:
        row = next(csv.DictReader(file))
    assert list(row) == ["row", *(f"prediction_{n}" for n in ("low", "rude", "spam")),
                         *(f"probability_{n}" for n in ("low", "rude", "spam"))]  # fmt: skip
    assert (float(row["probability_low"]) > 0.5) == (row["prediction_low"] == "1")


def test_a_label_that_new_rows_never_have_is_no_error(frame, tmp_path):
    run = fit(frame.drop(columns=["size", "depth"]), target="low,rude")
    part = frame[(frame.low == 0) & (frame.rude == "no")].drop(columns=["size", "depth"])
    part.to_csv(tmp_path / "part.csv", index=False)
    assert 0 <= run.evaluate(tmp_path / "part.csv")["label_accuracy"] <= 1


def test_several_numbers_are_a_regression_in_their_own_units(frame):
    rows = frame[["p", "q", "r", "size", "depth"]]
    run = fit(rows, target="size,depth", lr=0.05, until="epochs(30)")
    assert run.plan.choices["task"].value == "regression"
    np.testing.assert_allclose(run.predict(rows), rows[["size", "depth"]], atol=0.5)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("low,lwo", "no column 'lwo'. Did you mean 'low'"),
        ("low,low", "a column twice: low, low"),
        ("low,note", "'note' of DataFrame holds text"),
    ],
)
def test_what_cannot_be_a_target_of_several_is_said(frame, target, said):
    mixed = frame.assign(note=[f"the {k}th row, of which much may be said, and more" for k in range(len(frame))])
    with pytest.raises(handful.HandfulError, match=said):
        handful.open(mixed, target=target)


def test_a_missing_label_names_its_row(frame):
    with pytest.raises(handful.HandfulError, match="'low' is missing in row 5"):
        handful.open(frame.assign(low=frame["low"].where(frame.index != 5)), target="low,rude")


def test_a_column_whose_own_name_has_a_comma_is_one_target(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('x,"price, usd","a,b"\n' + "".join(f"{i},{2.5 * i},{i % 7}.5\n" for i in range(40)))
    for name in ("price, usd", "a,b"):
        source = handful.open(path, target=name)
        assert source.target == name
        assert source.columns[name].kind == "number"
        run = handful.fit("linear", path, target=name, batch=8, lr=0.01, until="epochs(1)", out=tmp_path / "run",
                          overwrite=True, quiet=True)  # fmt: skip
        again = handful.load(tmp_path / "run")
        assert again.evaluate(path) == pytest.approx(run.evaluate(path))
