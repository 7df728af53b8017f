"""Predictions as files: every format read back by another library equals Run.predict, whatever the strings hold."""

import csv
import io
import json
import re
import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torch import nn

import handful
from handful.base.errors import HandfulError
from handful.data.media.folder import file_names
from handful.runs import predict as predictions
from handful.runs.predict import write_predictions

ROWS = 1300  # more than two of the batches that predictions are made in
NASTY = ["plain", 'a "quoted", name', "two\nlines", "ünïcode; tab\t", "=1+1"]


def table(seed=0):
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 5, ROWS)
    return pd.DataFrame(
        {
            "size": rng.normal(kind, 0.2),
            "town": np.array(["Ulm", "Bern, CH", "Graz"])[rng.integers(0, 3, ROWS)],
            "label": np.array(NASTY)[kind],
        }
    )


def fit(model, data, **given):
    return handful.fit(model, data, **{"batch": 32, "lr": 0.02, "until": "epochs(4)", "quiet": True, **given})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "train.csv"
    table().to_csv(path, index=False)
    return fit("table", path, target="label")


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    """New rows: no target, other columns beside, columns in another order."""
    path = tmp_path_factory.mktemp("new") / "new.csv"
    frame = table(1).drop(columns="label")
    frame.insert(0, "remark", [f"row {i}, as\nit is" for i in range(ROWS)])
    frame[["town", "remark", "size"]].to_csv(path, index=False)
    return path


def read(path):
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_every_format_holds_what_predict_returns(run, new, tmp_path, ending, capsys):
    out = tmp_path / f"p{ending}"
    write_predictions(run, new, out, probabilities=True)
    assert capsys.readouterr().out.strip() == str(out)
    rows = read(out)
    assert [int(r["row"]) for r in rows] == list(range(ROWS))
    assert [r["prediction"] for r in rows] == run.predict(new).tolist()
    assert list(rows[0]) == ["row", "prediction", *(f"probability_{name}" for name in sorted(NASTY))]
    written = np.array([[float(r[f"probability_{name}"]) for name in sorted(NASTY)] for r in rows])
    np.testing.assert_allclose(written, np.asarray(run.predict(new, probabilities=True)), atol=5.1e-7)
    assert len({r["prediction"] for r in rows}) == 5  # the strings with quotes, commas and line ends are among them
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


def test_standard_output_is_the_same_csv(run, new, tmp_path, capsys):
    write_predictions(run, new, tmp_path / "p.csv")
    capsys.readouterr()
    write_predictions(run, str(new), None)
    assert capsys.readouterr().out == (tmp_path / "p.csv").read_text(encoding="utf-8")


def test_standard_input_is_read_as_a_file_is(run, new, capsys):
    write_predictions(run, str(new), None)
    from_file = capsys.readouterr().out
    write_predictions(run, io.BytesIO(new.read_bytes()), None)
    assert capsys.readouterr().out == from_file
    for empty in (b"", b" \n\n"):
        with pytest.raises(HandfulError, match="standard input is empty"):
            write_predictions(run, io.BytesIO(empty), None)
    with pytest.raises(HandfulError, match="standard input has no column 'town'"):
        write_predictions(run, io.BytesIO(b"size\n1.5\n"), None)


def test_one_row(run, capsys):
    write_predictions(run, io.BytesIO(b"size,town\n0.0,Ulm\n"), None)
    assert capsys.readouterr().out == "row,prediction\n0,plain\n"


def test_data_without_rows_are_refused_and_leave_no_file(run, tmp_path):
    (tmp_path / "empty.csv").write_text("size,town\n")
    with pytest.raises(HandfulError, match="0 rows"):
        write_predictions(run, tmp_path / "empty.csv", tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()


def test_a_row_that_cannot_be_read_leaves_no_file(run, new, tmp_path, monkeypatch):
    def broken(data):
        yield next(whole(data))
        raise HandfulError("row 600 is broken")

    whole = run.stream
    monkeypatch.setattr(run, "stream", broken, raising=False)
    with pytest.raises(HandfulError, match="row 600"):
        write_predictions(run, new, tmp_path / "p.parquet")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_one_batch_is_held_at_a_time(run, monkeypatch, tmp_path, ending):
    alive = []

    class Chunk(dict):
        def __del__(self):
            alive.pop()

    def chunks(*_, **__):
        for k in range(50):
            alive.append(k)
            assert len(alive) <= 2, "batches pile up"
            yield Chunk(row=list(range(20 * k, 20 * (k + 1))), prediction=["a"] * 20)

    monkeypatch.setattr(predictions, "predicted", chunks)
    write_predictions(run, "anything", tmp_path / f"p{ending}")
    assert [int(r["row"]) for r in read(tmp_path / f"p{ending}")] == list(range(1000))


def test_numbers_of_a_regression_and_of_several_outputs(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    run = fit("linear", (x, x @ np.array([[1.0, 2.0], [0.5, -1.0]], dtype=np.float32)), until="epochs(1)")
    write_predictions(run, {"x": x}, tmp_path / "p.csv")
    rows = read(tmp_path / "p.csv")
    written = np.array([[float(r["prediction_0"]), float(r["prediction_1"])] for r in rows], dtype=np.float32)
    np.testing.assert_array_equal(written, run.predict({"x": x}))  # the shortest decimals read back to the bit
    assert max(len(r["prediction_0"]) for r in rows) <= 14
    with pytest.raises(HandfulError, match="regression: it has no class probabilities"):
        write_predictions(run, {"x": x}, None, probabilities=True)


def test_what_json_cannot_hold_is_null(run, new, tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "predicted", lambda *a, **k: iter([{"row": [0, 1], "prediction": [np.nan, 1.5]}]))
    write_predictions(run, new, tmp_path / "p.jsonl")
    assert read(tmp_path / "p.jsonl") == [{"row": 0, "prediction": None}, {"row": 1, "prediction": 1.5}]


def test_labels_of_a_multilabel_run_have_probabilities(capsys):
    x = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    run = fit("linear", (x, (x > 0).astype(np.float32)), until="epochs(2)", task="multilabel")
    write_predictions(run, {"x": x}, None, probabilities=True)
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(rows[0]) == ["row", "prediction_0", "prediction_1", "probability_0", "probability_1"]
    assert {float(r["probability_1"]) > 0.5 for r in rows if float(r["prediction_1"]) == 1} == {True}


def test_files_of_a_folder_are_named(tmp_path, capsys):
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    for label in ("dark", "light"):
        (folder / label).mkdir(parents=True)
        for k in range(12):
            pixels = rng.integers(0, 60, (8, 8, 3)) + (190 if label == "light" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / label / f"{k}.png")
    run = fit("linear", folder, batch=8, valid=None, until="epochs(20)")
    (folder / "notes.md").write_text("no picture")
    (folder / "light" / ".hidden.png").write_bytes(b"no picture either")
    write_predictions(run, folder, None)
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [r["file"] for r in rows] == sorted(f"{label}/{k}.png" for label in ("dark", "light") for k in range(12))
    assert all(r["file"].startswith(r["prediction"]) for r in rows)
    assert file_names(tmp_path / "nowhere") == [] == file_names(sys)


def test_endings_that_are_not_known(run, new, tmp_path):
    with pytest.raises(HandfulError, match=r"p\.xlsx: predictions are written as \.csv"):
        write_predictions(run, new, tmp_path / "p.xlsx")
    with pytest.raises(HandfulError, match="could not be written"):
        write_predictions(run, new, tmp_path / "nowhere" / "p.csv")


@pytest.mark.parametrize("model", ["table", "linear", "mlp(hidden=[50, 30])"])
def test_a_row_has_the_same_bits_alone_and_among_others(model, tmp_path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(530, 5)), columns=list("abcde")).assign(kind=rng.choice(["u", "v", "w"], 530))
    table["y"] = table["a"] * 3 + (table["kind"] == "u")
    run = handful.fit(model, table, target="y", batch=32, lr=0.01, until="epochs(2)", quiet=True)
    whole = np.asarray(run.predict(table))
    assert len(np.unique(whole)) > 500
    for rows in ([0], [7, 3], [529], list(range(11)), list(range(100, 417)), [512] * 3):
        np.testing.assert_array_equal(run.predict(table.iloc[rows]), whole[rows])


def test_outputs_of_nan_choose_no_class(tmp_path, capsys):
    """They were the first class, or no label, without a word, in `evaluate` beside a loss of NaN; a number shows it."""
    x = np.random.default_rng(0).normal(size=(40, 4, 2)).astype(np.float32)
    holes = x[:5].copy()
    holes[2, 1, 0] = np.nan
    for y in ((x[:, 0, 0] > 0).astype(int), (x[:, 0] > 0).astype(int)):
        own = nn.Sequential(nn.Flatten(), nn.Linear(8, 2))
        run = handful.fit(own, (x, y), quiet=True, batch=8, until="steps(2)", valid=None)
        with pytest.raises(HandfulError, match=r"1 of these 5 rows, row 2 \(from 0\) the first, have no class"):
            run.predict(holes)
        assert run.predict(holes, probabilities=True).isnan().any(1).tolist() == [False, False, True, False, False]
        assert len(run.predict(holes[[0, 1, 3]])) == 3
        many = np.concatenate([x] * 15)
        many[522, 1, 0] = np.nan  # in the second chunk
        with pytest.raises(HandfulError, match=r"1 of these 88 rows, row 522 of arrays \(from 0\) the first, have no"):
            write_predictions(run, many, tmp_path / "p.csv")
        labels = np.concatenate([y] * 15)
        scores = run.evaluate((many, labels), "accuracy, f1, auroc" if y.ndim == 1 else "f1, label_accuracy")
        assert len(scores) > 2
        assert all(map(np.isnan, scores.values()))
        said = r"1 of the 600 rows of arrays \(row 522, counted from 0\) have no prediction"
        assert re.search(said, capsys.readouterr().err)
        found = run.evaluation((many, labels))
        assert re.search(said, " ".join(found.notes))
        assert all(map(np.isnan, found.scores.values()))
        right = run.evaluation((np.delete(many, 522, 0), np.delete(labels, 522, 0)))
        assert [row["predicted"] for row in found.classes] == [row["predicted"] for row in right.classes]
        assert not any("have no prediction" in note for note in right.notes)
    own = nn.Sequential(nn.Flatten(), nn.Linear(8, 1))
    run = handful.fit(own, (x, x[:, 0, 0]), quiet=True, batch=8, until="steps(2)", valid=None)
    assert np.isnan(run.predict(holes)).tolist() == [False, False, True, False, False]
