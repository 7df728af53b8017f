"""Columns that people have and no textbook: codes with zeros in front, numbers past 64 bits, periods, sparse frames."""

import json
import re

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import handful
from handful.base.errors import HandfulError
from handful.runs.predict import write_predictions


def train(data, model="linear", **options):
    usual = {"target": "y", "until": "steps(4)", "batch": 16, "lr": 0.05, "quiet": True, "valid": 0}
    return handful.fit(model, data, **usual | options)


@pytest.fixture(scope="module")
def zips(tmp_path_factory):
    """(run as loaded, the table as text, R² of one-hot columns and ridge regression): 20 places with a level each."""
    folder, rng = tmp_path_factory.mktemp("zips"), np.random.default_rng(0)
    place, level = rng.integers(0, 20, 400), rng.normal(size=20)
    frame = pd.DataFrame({"zip": [f"{1000 + k * 37:05d}" for k in place]})
    frame["start"], frame["n"] = [f"{k:02d}30" for k in place], [f"{k:02d}" for k in place]
    frame["y"] = (level[place] + 0.05 * rng.normal(size=400)).round(4)
    frame.to_csv(folder / "data.csv", index=False)
    train(folder / "data.csv", until="epochs(40)", out=folder / "run")
    due = make_pipeline(OneHotEncoder(), Ridge(1e-3)).fit(frame[["zip"]], frame["y"]).score(frame[["zip"]], frame["y"])
    return handful.load(folder / "run"), frame, due


def test_codes_with_zeros_in_front_are_names(zips):
    run, frame, due = zips
    columns = run.pipeline.trained_on
    assert columns["zip"].kind == "category"
    assert "01000" in columns["zip"].classes
    assert columns["n"].kind == "number"  # of two digits, as days and months are
    assert columns["start"].kind == "category"
    assert any("1.1 beside 1.10): zip, start" in note for note in run.plan.notes)
    assert run.evaluate(run_data(frame))["r2"] > due - 0.02


def test_versions_are_names_and_prices_are_numbers(tmp_path):
    """1.1 and 1.10 are one number, and so are 1.5 and 1.50."""
    rng = np.random.default_rng(0)
    versions, prices = ["1.1", "1.9", "1.10", "2.0"], ["1.5", "1.50", "2.25", "10.10"]
    which = rng.integers(0, 4, 200)
    frame = pd.DataFrame(
        {"version": [versions[k] for k in which], "price": [prices[k] for k in rng.integers(0, 4, 200)]}
    )
    frame["y"] = (which == 2) + 0.01 * rng.normal(size=200).round(3)
    frame.to_csv(tmp_path / "t.csv", index=False)
    run = handful.fit("table", tmp_path / "t.csv", target="y", lr=0.05, batch=32, until="epochs(15)", quiet=True)
    assert run.pipeline.trained_on["version"].classes == ("1.1", "1.10", "1.9", "2.0")
    assert run.pipeline.trained_on["price"].kind == "number"
    assert any("such as 1.1 beside 1.10): version." in note for note in run.plan.notes)
    assert run.evaluate(tmp_path / "t.csv")["r2"] > 0.95
    whole = run.outputs(tmp_path / "t.csv")
    for row in (0, 7):
        frame.iloc[[row]].to_csv(tmp_path / "one.csv", index=False)
        assert torch.equal(run.outputs(tmp_path / "one.csv"), whole[[row]])
        assert torch.equal(run.outputs(dict(frame.iloc[row])), whole[[row]])
    with pytest.raises(
        HandfulError, match=r"'version' is 1.1, which may be '1.1' or '1.10' of training: give it as text"
    ):
        run.predict(pd.read_csv(tmp_path / "t.csv"))
    frame.to_csv(tmp_path / "t.csv", index=False)
    named = handful.fit("table", tmp_path / "t.csv", target="version", until="steps(2)", batch=32, quiet=True)
    assert named.pipeline.classes == ("1.1", "1.10", "1.9", "2.0")
    assert set(named.predict(tmp_path / "t.csv")) <= set(versions)
    handful.prepare(tmp_path / "t.csv", tmp_path / "store", target="y")
    assert handful.open(tmp_path / "store").columns["version"].classes == ("1.1", "1.10", "1.9", "2.0")


@pytest.mark.parametrize("values", [[0, 1, 2, 3, 4, 6], [1, 2, 3, 4, 5], [2019, 2020, 2021]])
def test_a_number_that_no_training_row_has_names_the_way_to_predict_it(values):
    x = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    y = np.array(values)[np.arange(200) % len(values)]
    how = {"until": "steps(2)", "batch": 32, "quiet": True}
    run = handful.fit("mlp", (x, y), **how)
    said = f"'y' is taken for {len(values)} classes, {values[0]} to {values[-1]}; task='regression' predicts it"
    assert any(note.startswith(said) for note in run.plan.notes)
    y[::3] = 99
    with pytest.raises(HandfulError, match=r"'y' is '99' in row 0 .* do not have; trained with task='regression', the"):
        run.evaluate((x, y))
    assert np.isfinite(handful.fit("mlp", (x, y), task="regression", **how).evaluate((x, y))["mae"])


def run_data(frame):
    return {name: frame[name].tolist() for name in frame}


def test_a_code_is_the_same_in_every_container(zips, tmp_path):
    run, frame, _ = zips
    some = frame.drop(columns="y").iloc[[3, 8, 120]]
    due = run.outputs(frame)[[3, 8, 120]]
    some.to_csv(tmp_path / "new.csv", index=False)
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some.to_dict("records")))
    whole = some.astype({"zip": int, "start": int, "n": int})  # as pandas reads the file
    for data in (
        tmp_path / "new.csv",
        tmp_path / "new.jsonl",
        some,
        whole,
        pl.from_pandas(some),
        whole.to_dict("records"),
    ):
        assert (run.outputs(data) == due).all()
    assert (run.outputs(some.iloc[0].to_dict()) == due[:1]).all()
    store = handful.prepare(run_csv(frame, tmp_path), tmp_path / "store", target="y")
    assert (run.outputs(store)[[3, 8, 120]] == due).all()
    assert store.columns["zip"].classes == run.pipeline.trained_on["zip"].classes


def run_csv(frame, folder):
    frame.to_csv(folder / "data.csv", index=False)
    return folder / "data.csv"


def test_years_hours_and_unequal_lengths_stay_numbers(tmp_path):
    frame = pd.DataFrame({"start time": ["0930", "1415"] * 20, "id": ["007", "12"] * 20, "half": ["0.5", "0.7"] * 20})
    frame["y"] = np.arange(40) * 0.5
    source = handful.open(run_csv(frame, tmp_path), "y")
    assert {column.kind for column in source.columns.values()} == {"number"}


def test_a_target_of_codes_is_given_back_as_it_was_written(tmp_path):
    frame = pd.DataFrame({"x": np.arange(60) % 3, "y": np.array(["007", "010", "100"])[np.arange(60) % 3]})
    run = train(run_csv(frame, tmp_path), "mlp", until="epochs(60)", lr=0.02)
    assert run.predict(frame).tolist() == frame["y"].tolist()
    store = handful.prepare(tmp_path / "data.csv", tmp_path / "store", target="y")
    assert store.columns["y"] == handful.open(tmp_path / "data.csv", target="y").columns["y"]
    assert store.columns["y"].classes == ("007", "010", "100")
    assert run.evaluate(store)["accuracy"] == 1


@pytest.mark.parametrize("container", ["frame", "dict", "arrow", "polars", "csv"])
def test_labels_past_63_bits_are_names(container, tmp_path):
    code = np.arange(90) % 3
    labels = np.array([2**63, 2**63 + 1, 2**64 - 1], dtype=np.uint64)[code]
    made = {"frame": pd.DataFrame, "dict": dict, "arrow": pa.table, "polars": pl.DataFrame}
    data = {"x": code.astype(float), "y": labels}
    given = made[container](data) if container in made else run_csv(pd.DataFrame(data), tmp_path)
    run = train(given, "mlp", until="epochs(60)", lr=0.02)
    assert run.pipeline.classes == ("18446744073709551615", "9223372036854775808", "9223372036854775809")
    assert run.predict(given).tolist() == [str(label) for label in labels]
    assert run.evaluate(given)["accuracy"] == 1
    assert run.evaluate({"x": [0.0], "y": np.array([2**63], dtype=np.uint64)})["accuracy"] == 1


def test_inputs_past_63_bits_are_floats_and_longer_ones_are_refused():
    big = np.uint64(2**63) + np.arange(40, dtype=np.uint64) * np.uint64(2**40)
    source = handful.open({"big": big, "y": np.arange(40.0)}, "y")
    assert np.array_equal(source.take(range(40)).tensor("big").numpy(), big.astype(np.float64))
    assert any("from 2^63 on: read as float64" in note for note in source.notes)
    rows = [{"big": 10**20 + k, "y": 0.5 * k} for k in range(40)]
    columns = {"big": [row["big"] for row in rows], "y": np.arange(40.0)}
    for data in (rows, columns, pd.DataFrame(rows), columns | {"big": [None, *columns["big"][1:]]}):
        with pytest.raises(
            HandfulError, match="whole numbers beyond 64 bits: convert them to floats, or labels to text"
        ):
            handful.open(data, "y")


def test_intervals_and_periods_of_pandas_come_one_by_one_too():
    x = np.linspace(0, 40, 120)
    frame = pd.DataFrame(
        {"cut": pd.cut(x, [-1, 10, 20, 41]), "month": pd.period_range("2020-01", periods=120, freq="M")}
    )
    frame["y"] = np.sin(x)
    run, row = train(frame), frame.iloc[30]
    due = run.outputs(frame)[30:31]
    for one in (
        row.to_dict(),
        [row.to_dict()],
        {"cut": [row["cut"]], "month": [row["month"]]},
        {"cut": pd.Series([row["cut"]]), "month": pd.Series([row["month"]])},
        frame.iloc[30:31].astype({"cut": "interval"}),
        {"cut": str(row["cut"]), "month": "2022-07-01"},
    ):
        assert (run.outputs(one) == due).all()


def test_one_row_has_lists_and_objects_in_it():
    rng = np.random.default_rng(0)
    rows = [{"at": {"u": a, "v": b}, "pair": [a * b, 1.0], "y": a} for a, b in rng.normal(size=(40, 2)).tolist()]
    run = train(rows)
    assert run.outputs(rows[7]).tolist() == run.outputs(rows)[7:8].tolist()
    flat = {"at.u": rows[7]["at"]["u"], "at.v": rows[7]["at"]["v"], "pair": rows[7]["pair"]}
    assert run.outputs(flat).tolist() == run.outputs(rows)[7:8].tolist()


def test_a_sparse_frame_is_its_dense_self():
    rng = np.random.default_rng(0)
    dense = pd.DataFrame((rng.random((60, 4)) < 0.2).astype(float), columns=list("abcd")).assign(y=rng.normal(size=60))
    sparse = dense.astype({name: pd.SparseDtype(float, 0.0) for name in "abc"})
    run = train(dense)
    assert run.outputs(sparse).tolist() == run.outputs(dense).tolist()
    assert train(sparse).outputs(dense).tolist() == run.outputs(dense).tolist()


def test_rows_of_different_lengths_beside_numbers_are_refused_in_a_sentence():
    frame = pd.DataFrame({"x": np.arange(30.0), "tags": [[1.0] * (k % 3 + 1) for k in range(30)], "y": np.arange(30.0)})
    with pytest.raises(HandfulError, match="'tags' of DataFrame has rows of different lengths and stands beside other"):
        train(frame)


def test_names_that_tell_nothing_are_noted():
    frame = pd.DataFrame({"number": range(20200001, 20200061)})
    frame["took"] = [f"{k}h{k % 7}" for k in range(59)] + ["0h0"]
    frame["y"] = np.arange(60) * 0.5
    notes = handful.open(frame, "y").notes
    assert not any("holds dates" in note for note in notes)
    assert any("'took' is a category with 59 values, most of which are of one row alone" in note for note in notes)


def test_durations_are_seconds_in_every_container(tmp_path):
    """Written as pandas and Python write them, past 24 hours, below 0, and typed."""
    rng = np.random.default_rng(0)
    lasting = pd.to_timedelta(rng.integers(-300_000, 300_000, 120) * 1000 + rng.integers(0, 1000, 120), unit="ms")
    frame = pd.DataFrame({"t": lasting, "z": rng.normal(size=120).round(3), "y": rng.normal(size=120).round(3)})
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    due = torch.tensor(lasting.total_seconds().tolist(), dtype=torch.float64)
    kinds = {
        "csv": tmp_path / "t.csv",
        "parquet": tmp_path / "t.parquet",
        "frame": frame,
        "polars": pl.DataFrame(frame),
    }
    kinds["python"] = pd.DataFrame({**frame, "t": [str(t.to_pytimedelta()) for t in lasting]})
    for trained in ("csv", "frame"):
        source = handful.open(kinds[trained], target="y")
        assert "'t' holds durations: read as seconds." in source.notes
        assert torch.allclose(source.read_column("t", np.arange(120)), due, rtol=0, atol=1e-6)
        run = train(kinds[trained])
        assert not any("time of day" in note for note in run.plan.notes)
        for data in kinds.values():
            assert torch.equal(run.outputs(data), run.outputs(kinds[trained]))
        assert torch.equal(run.outputs(dict(frame.iloc[5])), run.outputs(frame)[[5]])
        with pytest.raises(HandfulError, match="'t' must be a duration but is 'soon' in row 0"):
            run.predict({"t": "soon", "z": 0.0})


@pytest.mark.parametrize("write", [lambda m: f"{m // 60}h {m % 60}m", lambda m: str(pd.Timedelta(m, unit="m"))])
def test_a_duration_in_text_is_given_back_as_text_of_hours(tmp_path, write):
    minutes = 7 * np.arange(120)
    frame = pd.DataFrame({"x": minutes, "t": [write(int(m)) for m in minutes]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    run = handful.fit("linear", str(tmp_path / "t.csv"), target="t", lr=0.3, until="epochs(60)", valid=None, quiet=True)
    found = run.predict(frame)
    assert all(re.fullmatch(r"-?\d+:\d\d:\d\d(\.\d+)?", text) for text in found)
    seconds = pd.to_timedelta(found).total_seconds().to_numpy()  # another reader
    assert run.evaluate(frame)["mae"] == pytest.approx(np.abs(seconds - 60 * minutes).mean(), abs=0.01)
    assert np.abs(seconds - 60 * minutes).mean() < 600


def test_a_typed_duration_is_given_back_as_one(tmp_path):
    hours = np.arange(60.0)
    frame = pd.DataFrame({"x": hours, "z": hours % 7, "t": pd.to_timedelta(hours, unit="h")})
    run = handful.fit("linear", frame, target="t", until="steps(300)", quiet=True, seed=0, batch=16)
    found = run.predict(frame[:3])
    assert found.dtype == "timedelta64[us]"
    assert np.allclose(found.astype(np.float64) / 3.6e9, [0, 1, 2], atol=0.1)
    paths = [tmp_path / f"p.{kind}" for kind in ("csv", "parquet", "jsonl")]
    for path in paths:
        write_predictions(run, frame, path)
        source = handful.open(path, target="prediction")
        assert source.columns["prediction"].dates == "duration"


@pytest.mark.parametrize(
    ("cells", "seconds"),
    [
        (["27:30", "7:05", "30:00"], [99_000, 25_500, 108_000]),
        (["7h05", "1h30", "25h00"], [25_500, 5_400, 90_000]),
        (["1:02:03.5", "27:00:00", "-0:00:01.25"], [3723.5, 97_200, -1.25]),
        (["1 day, 2:00:00", "0:30:00", "400 days, 0:00:01"], [93_600, 1_800, 34_560_001]),
        (["5h 12m", "45m", "1d 2h 3m 4s"], [18_720, 2_700, 93_784]),
        (["2 hours and 3 minutes", "1 hr, 5 mins", "-90 sec"], [7_380, 3_900, -90]),
        (["PT5H12M", "P1DT1.5S", "-PT90M"], [18_720, 86_401.5, -5_400]),
        (["2 h", "5 m", "1 day"], [7_200, 300, 86_400]),
    ],
)
@pytest.mark.parametrize("rows", [30, 1800])
def test_ways_to_write_durations(cells, seconds, rows):
    data = {"t": [cells[i % 3] for i in range(rows)], "y": np.arange(rows) % 7.5}
    source = handful.open(data, target="y")
    assert source.columns["t"].dates == "duration"
    assert source.read_column("t", np.arange(3)).tolist() == seconds


@pytest.mark.parametrize("target", ["y", "y,z"])
def test_a_table_with_labels_beside_texts_that_tell_nothing(target):
    draw = np.random.default_rng(0)
    x, words = draw.normal(size=(200, 2)), ["good", "bad", "film", "plot", "the", "a", "very", "long", "one"]
    table = {"a": x[:, 0], "tags": [["u", "v"][k % 3 : 2] for k in range(200)], "y": 2 * x[:, 0], "z": x[:, 0] + 1}
    table["told"] = [" ".join(draw.permutation(words)) for _ in range(200)]
    table = table if target == "y,z" else {name: value for name, value in table.items() if name != "z"}
    run = handful.fit("auto", table, target=target, until="steps(2)", batch=32, quiet=True)
    assert run.pipeline.uses == ("a", "tags")


@pytest.mark.parametrize("name", ["class", "label", "outcome"])
def test_an_input_with_the_name_of_a_target_may_be_missing_and_new_at_predict(name, tmp_path, capsys):
    """The only column of that name was taken for the target: rows that lacked it were refused, new names not said."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({name: rng.choice(["b", "c"], 100), "x": rng.normal(size=100), "mpg": rng.normal(size=100)})
    run = train(frame, target="mpg")
    new = frame.drop(columns="mpg").astype({name: object})
    new.loc[3, name], new.loc[5, name] = None, "a"
    new.to_csv(tmp_path / "new.csv", index=False)
    capsys.readouterr()
    for data in (new, tmp_path / "new.csv", new.to_dict("list"), new.to_dict("records"), pl.from_pandas(new)):
        assert run.predict(data).shape == (100,)
        assert f"'{name}' has values not seen before in a row (first 'a')" in capsys.readouterr().err
