"""Cells of a text that hold several values each: labels that a row has together, or always as many numbers."""

import numpy as np
import pandas as pd
import pytest

import handful
from handful.base.errors import HandfulError

RNG = np.random.default_rng(0)
X, Z = RNG.normal(size=(2, 240)).round(3)
SHORT = {"until": "epochs(12)", "batch": 32, "lr": 0.02, "quiet": True}
HAS = np.column_stack([X > 0, Z > 0, X + Z > 0, X > Z])
NAMES = np.array(["art", "big", "cheap", "dry"])


def joined(separator, blank=""):
    return [separator.join(NAMES[row]) or blank for row in HAS]


def same_everywhere(run, frame, folder):
    """The predictions for the frame's rows, after they were compared with those from other containers."""
    frame.to_csv(folder / "t.csv", index=False)
    frame.to_json(folder / "t.jsonl", orient="records", lines=True)
    frame.to_parquet(folder / "t.parquet")
    whole = run.predict(folder / "t.csv")
    store = handful.prepare(folder / "t.csv", folder / "store", target=run.pipeline.target.column)
    lists = {name: [None if value != value else value for value in column] for name, column in frame.items()}
    for given in (folder / "t.jsonl", folder / "t.parquet", frame, lists, frame.to_dict("records"), store,
                  handful.open(frame), handful.open(lists)):  # fmt: skip
        np.testing.assert_array_equal(run.predict(given), whole)
    for row in range(3):
        np.testing.assert_array_equal(run.predict(frame[row : row + 1].to_dict("records")[0]), whole[[row]])
        frame[row : row + 1].to_csv(folder / "one.csv", index=False)
        np.testing.assert_array_equal(run.predict(folder / "one.csv"), whole[[row]])
    return whole


@pytest.mark.parametrize("separator", [";", "|", "; "])
def test_labels_as_a_target(separator, tmp_path):
    """A cell without a label is a row without one; predictions and scores are the labels'."""
    frame = pd.DataFrame({"x": X, "z": Z, "tags": joined(separator)})
    frame.to_csv(tmp_path / "data.csv", index=False)
    handful.fit("mlp", tmp_path / "data.csv", target="tags", out=tmp_path / "run", **SHORT)
    run = handful.load(tmp_path / "run")
    assert run.pipeline.names == tuple(NAMES)
    assert any("'tags' has several labels in a cell, as in '" in note for note in run.plan.notes)
    whole = same_everywhere(run, frame, tmp_path)
    assert (whole == HAS).mean() > 0.9
    assert run.evaluate(frame)["label_accuracy"] == pytest.approx((whole == HAS).mean())
    with pytest.raises(HandfulError, match="'tags' holds 'new', which is none of the labels of training, in row 1"):
        run.evaluate(frame.assign(tags=["art", "new", *frame["tags"][2:]]))


def test_labels_as_an_input(tmp_path):
    frame = pd.DataFrame({"x": X, "tags": joined("|", "none"), "y": (HAS @ [1, -2, 3, 0.5]).round(2)})
    run = handful.fit("mlp", frame, target="y", **{**SHORT, "until": "epochs(30)"})
    whole = same_everywhere(run, frame, tmp_path)
    assert np.corrcoef(whole, frame["y"])[0, 1] > 0.98
    assert run.pipeline.schema["tags"].labels == (*NAMES, "none")


@pytest.mark.parametrize("form", ["({:.4f}, {:.4f})", "{:.4f},{:.4f}", "[{:.4f}; {:.4f}]"])
def test_numbers_as_an_input(form, tmp_path):
    """As two columns of numbers are; a row without a place has the medians."""
    places = [form.format(a, b) for a, b in zip(40 + X, -70 + Z, strict=True)]
    frame = pd.DataFrame({"place": places, "n": RNG.normal(size=240).round(3), "y": (X + Z).round(3)})
    frame.loc[5, "place"] = None
    apart = pd.DataFrame({"a": (40 + X).round(4), "b": (-70 + Z).round(4)}).join(frame[["n", "y"]])
    apart.loc[5, ["a", "b"]] = None
    run, other = (handful.fit("mlp", data, target="y", valid=0, **SHORT) for data in (frame, apart))
    np.testing.assert_allclose(same_everywhere(run, frame, tmp_path), other.predict(apart), rtol=1e-5, atol=1e-5)
    for wrong in ("(3, x)", "(3, 4, 5)"):
        with pytest.raises(HandfulError, match=r"'place' must hold .* in row 0"):
            run.predict({"place": wrong, "n": 0.5})


def test_numbers_as_a_target():
    places = [f"{a:.4f};{b:.4f}" for a, b in zip(40 + X, -70 + Z, strict=True)]
    run = handful.fit(
        "linear", pd.DataFrame({"x": X, "z": Z, "place": places}), target="place", **{**SHORT, "until": "epochs(60)"}
    )
    assert np.abs(run.predict({"x": [0.0, 1.0], "z": [0.0, 0.0]}) - [[40, -70], [41, -70]]).max() < 0.2


@pytest.mark.parametrize(
    "cells",
    [
        ["A|1", "A|2", "B|1", "B|2"],  # always two parts: a name of two
        ["a; b", "c; d", "e", "f"],  # no part comes again
        ["1,5", "2,5", "3"],  # decimals
        ["555 12 34", "555 12 35"],
        ["1.2,3", "2.2,3"],  # too few for numbers
        ["Smith, John", "Smith, Ann", "Doe, John", "Ann"],
    ],
)
def test_what_is_one_value(cells):
    column = handful.open({"c": cells * 20, "y": [0, 1] * (len(cells) * 10)}, target="y").columns["c"]
    assert (column.separator, column.kind in ("category", "number")) == (None, True)


@pytest.mark.parametrize("between", ["/", "-", "x", " × "])
def test_two_numbers_in_each_cell_are_numbers_and_stay_so(tmp_path, between):
    rng = np.random.default_rng(0)
    a, b = rng.integers(90, 180, 400), rng.integers(50, 110, 400)
    frame = pd.DataFrame({"bp": [f"{i}{between}{j}" for i, j in zip(a, b)], "y": np.where(a - b > 70, "high", "low")})
    frame.loc[7, "bp"] = "n/a"
    frame.to_csv(tmp_path / "bp.csv", index=False)
    value = handful.open(str(tmp_path / "bp.csv"), target="y").take(range(8)).tensor("bp").numpy()
    assert value[:7].tolist() == np.stack([a, b], 1)[:7].tolist()
    assert np.isnan(value[7]).all()
    run = handful.fit("mlp", str(tmp_path / "bp.csv"), target="y", lr=0.01, batch=16, until="epochs(20)", quiet=True)
    assert run.scores["valid_accuracy"] > 0.9  # as 350 categories they told nothing
    assert run.predict({"bp": f"171{between}60"}).tolist() == ["high"]
    assert run.predict(frame[7:8]).shape == (1,)


def test_codes_few_pairs_seasons_and_targets_are_no_two_numbers():
    cells = {
        "code": [f"00-{k}" for k in range(60)],
        "grade": [f"{k % 5}/5" for k in range(60)],
        "odd": [f"{k}/5" if k else "a/5" for k in range(60)],
        "season": [f"{2001 + k % 22}/{(2002 + k % 22) % 100:02}" for k in range(60)],
    }
    found = handful.open(
        {name: values * 2 for name, values in cells.items()} | {"y": list(range(120))}, target="y"
    ).columns
    assert {found[name].kind for name in cells} == {"category"}
    scores = handful.open({"x": list(range(120)), "y": [f"{k}-{k}" for k in range(60)] * 2}, target="y")
    assert scores.columns["y"].kind == "category"
