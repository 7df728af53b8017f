"""What training learned of a column binds what comes after, whatever it comes in."""

import csv
import datetime as dt
import io
import json
import os
import sqlite3
import tempfile
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import orc

import handful
from handful.base.errors import HandfulError
from handful.sklearn import MiniBatchClassifier, MiniBatchRegressor

DAY = dt.date(2019, 1, 1)
NAMES = ["007", "1e5", "1.50", "True", "maybe", "12:30", "NA", "null", "Inf", "10", "20", "2020-01-01", "x"]


def table(n=240, seed=0):
    """As text has it: strings, numbers, None."""
    rng = np.random.default_rng(seed)
    days = [DAY + dt.timedelta(int(k)) for k in rng.integers(0, 900, n)]
    found = {
        "name": [NAMES[i] for i in rng.integers(0, len(NAMES), n)],
        "size": [None if rng.random() < 0.1 else round(float(v), 3) for v in rng.normal(size=n)],
        "count": [int(v) for v in rng.integers(0, 1000, n)],
        "flag": [bool(v) for v in rng.integers(0, 2, n)],
        "iso": [str(day) for day in days],
        "dotted": [day.strftime("%d.%m.%Y") for day in days],
        "slashed": [day.strftime("%d/%m/%Y") for day in days],
        "at": [str(dt.datetime(2019, 1, 1) + dt.timedelta(seconds=int(k))) for k in rng.integers(0, 10**7, n)],
        "clock": [f"{k // 60:02d}:{k % 60:02d}" for k in rng.integers(0, 1440, n)],
        "money": [f"${int(k):,}" for k in rng.integers(0, 9000, n)],
        "marked": ["?" if k % 7 == 0 else str(int(k)) for k in rng.integers(0, 100, n)],
    }
    found["label"] = [["01", "02", "other"][NAMES.index(name) % 3] for name in found["name"]]
    return found


def rows_of(columns, rows):
    return {name: [values[i] for i in rows] for name, values in columns.items()}


def list_of_dicts(columns):
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def as_csv(folder, columns):
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if v is None else v for v in row] for row in zip(*columns.values(), strict=True)])
    path = folder / "new.csv"
    path.write_text(out.getvalue(), encoding="utf-8")
    return path


def as_jsonl(folder, columns):
    path = folder / "new.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in list_of_dicts(columns)))
    return path


def as_parquet(folder, columns):
    pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), folder / "new.parquet")
    return folder / "new.parquet"


def as_orc(folder, columns):
    arrays = {name: pa.array(values) for name, values in columns.items()}  # ORC has no type for nothing but gaps
    arrays = {name: a.cast(pa.string()) if pa.types.is_null(a.type) else a for name, a in arrays.items()}
    orc.write_table(pa.table(arrays), folder / "new.orc")
    return folder / "new.orc"


def as_sqlite(folder, columns):
    (folder / "new.db").unlink(missing_ok=True)
    with closing(sqlite3.connect(folder / "new.db")) as base:
        base.execute(f"create table t ({', '.join(columns)})")
        marks = ", ".join("?" * len(columns))
        base.executemany(f"insert into t values ({marks})", zip(*columns.values(), strict=True))
        base.commit()
    return folder / "new.db"


def as_arff(folder, columns):
    """Numbers, and nominal values of those that are there."""
    numbers = [name for name, values in columns.items() if {type(v) for v in values} <= {int, float, type(None)}]
    lines = ["@relation t"]
    for name, values in columns.items():
        levels = ", ".join(f"'{v}'" for v in dict.fromkeys(values) if v is not None)
        lines.append(f"@attribute {name} {'numeric' if name in numbers else '{' + levels + '}'}")
    cells = [["?" if v is None else str(v) if k in numbers else f"'{v}'" for v in vs] for k, vs in columns.items()]
    (folder / "new.arff").write_text("\n".join([*lines, "@data", *map(",".join, zip(*cells, strict=True))]) + "\n")
    return folder / "new.arff"


def as_frame(_, columns):
    return pd.DataFrame(columns)


def typed_frame(_, columns):
    """As someone who types the columns would: categoricals, nullable numbers, datetime64, date and time objects."""
    frame = pd.DataFrame(columns)
    for name, form in {"iso": None, "at": None, "dotted": "%d.%m.%Y"}.items():
        frame[name] = pd.to_datetime(frame[name], format=form)
    frame["slashed"] = [text and dt.datetime.strptime(text, "%d/%m/%Y").date() for text in columns["slashed"]]
    frame["clock"] = [text and dt.time.fromisoformat(text) for text in columns["clock"]]
    frame["name"] = frame["name"].astype("category")
    return frame.astype({"count": "Int64", "flag": "boolean"})


def on_pyarrow(folder, columns):
    return typed_frame(folder, columns).astype({"name": "object"}).convert_dtypes(dtype_backend="pyarrow")


CONTAINERS = {
    "csv": as_csv,
    "jsonl": as_jsonl,
    "parquet": as_parquet,
    "pandas": as_frame,
    "typed pandas": typed_frame,
    "pyarrow-backed pandas": on_pyarrow,
    "polars": lambda _, columns: pl.DataFrame(columns),
    "polars, lazy": lambda _, columns: pl.DataFrame(columns).lazy(),
    "orc": as_orc,
    "sqlite": as_sqlite,
    "arff": as_arff,
    "arrow": lambda _, columns: pa.table({name: pa.array(values) for name, values in columns.items()}),
    "dict": lambda _, columns: columns,
    "arrays": lambda _, columns: {name: np.array(values, dtype=object) for name, values in columns.items()},
    "list of dicts": lambda _, columns: list_of_dicts(columns),
    "source": lambda _, columns: handful.open(pd.DataFrame(columns)),
}


def inputs(run, data):
    """What the model sees of every row: float64 [n, features]."""
    batches = [list(batch.tensors().values()) for batch in run.open(data, need_target=False).epoch(512)]
    return torch.cat([torch.cat([part.double() for part in parts], 1) for parts in batches])


def train(data, model="table", **options):
    return handful.fit(model, data, **{"until": "steps(4)", "batch": 32, "lr": 0.01, "quiet": True, **options})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(run as loaded from its folder, the training columns, what the model sees of them)"""
    folder = tmp_path_factory.mktemp("whole")
    path = as_csv(folder, table())
    train(path, target="label", out=folder / "run")
    run = handful.load(folder / "run")
    return run, table(), inputs(run, path)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("rows", [[0], [1], [2], [5], list(range(7, 19))], ids=str)
def test_a_row_is_the_same_in_every_container(container, rows, trained, tmp_path):
    run, columns, whole = trained
    seen = inputs(run, CONTAINERS[container](tmp_path, rows_of(columns, rows)))
    assert torch.equal(seen, whole[rows])


@pytest.fixture(scope="module")
def without(trained, tmp_path_factory):
    """The first three rows as the model sees them, by the column that they lack and other rows have."""
    run, columns, _ = trained
    folder, names = tmp_path_factory.mktemp("without"), columns.keys() - {"label"}
    return {n: inputs(run, as_csv(folder, {**columns, n: [None] * 3 + columns[n][3:]}))[:3] for n in names}


@pytest.mark.parametrize(
    "container", [name for name in CONTAINERS if name != "source"]
)  # a source of its own left it out
def test_a_column_that_is_missing_in_all_rows_has_what_was_learned(container, trained, without, tmp_path):
    """As where other rows have it: the median, and the flag of a missing value."""
    run, columns, _ = trained
    rows = rows_of(columns, [0, 1, 2])
    assert without.keys() == rows.keys() - {"label"}
    for name, due in without.items():
        assert torch.equal(inputs(run, CONTAINERS[container](tmp_path, {**rows, name: [None] * 3})), due), name


def test_one_row_as_a_dict(trained):
    run, columns, whole = trained
    for row in range(4):
        one = {name: values[row] for name, values in columns.items()}
        assert torch.equal(inputs(run, one), whole[[row]])
    gone = inputs(run, dict.fromkeys(one))
    assert gone.shape == (1, whole.shape[1])
    assert gone.isfinite().all()


def test_a_key_that_other_rows_have_is_a_missing_value(trained, tmp_path):
    run, columns, _ = trained
    for name in ("name", "size", "count", "flag", "iso", "marked"):
        rows = list_of_dicts(rows_of(columns, [0, 1, 2]))
        due = inputs(run, [rows[0], {**rows[1], name: None}, rows[2]])
        del rows[1][name]
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert torch.equal(inputs(run, rows), due), name
        assert torch.equal(inputs(run, path), due), name
        notes = handful.open(rows, columns=run.pipeline.schema).notes
        assert f"'{name}' is absent from 1 of 3 rows: missing there." in notes
        path.write_text(json.dumps(rows[1]) + "\n")
        for alone in (rows[1], [rows[1]], path):
            with pytest.raises(HandfulError, match=f"no column '{name}', not in any row: .* give None, null or an"):
                run.predict(alone)


def test_a_store_of_the_whole_and_rows_of_it(trained, tmp_path):
    run, columns, whole = trained
    store = handful.prepare(as_csv(tmp_path, columns), tmp_path / "store", target="label")
    for data in (store, tmp_path / "store"):
        assert torch.equal(inputs(run, data), whole)
    assert torch.equal(inputs(run, store.subset(np.array([5, 3]))), whole[[5, 3]])
    assert run.evaluate(tmp_path / "store") == run.evaluate(as_csv(tmp_path, columns))


def test_parts_of_a_table_are_read_as_the_table(trained, tmp_path):
    run, columns, whole = trained
    (tmp_path / "parts").mkdir()
    for number, rows in enumerate(([0], [1, 2], list(range(3, 9)))):
        as_csv(tmp_path, rows_of(columns, rows)).rename(tmp_path / "parts" / f"part-{number}.csv")
    assert torch.equal(inputs(run, tmp_path / "parts"), whole[:9])


def test_parts_are_typed_together(tmp_path):
    """Neighbours of names like numbers: dates beside words, numbers beside amounts, truth beside words."""
    first = {"code": ["00501", "02134"], "day": ["2020-01-01", "soon"], "ok": ["True", "False"], "y": [0, 1]}
    second = {"code": ["K1A", "00501"], "day": ["2020-01-01", "2021-01-01"], "ok": ["maybe", "True"], "y": [1, 0]}
    for number, part in enumerate((first, second)):
        as_csv(tmp_path, part).rename(tmp_path / f"part-{number}.csv")
    columns = handful.open(tmp_path, target="y").columns
    assert columns["code"].classes == ("00501", "02134", "K1A")
    assert columns["day"].classes == ("2020-01-01", "2021-01-01", "soon")
    assert columns["ok"].classes == ("False", "True", "maybe")


# --- names and codes ---


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    """A run on names that look like numbers, with a label that is told by them."""
    rng = np.random.default_rng(1)
    names = np.array(["10", "20", "30", "x"])[rng.integers(0, 4, 400)]
    columns = {"k": names.tolist(), "z": rng.normal(size=400).tolist(), "label": np.array(["1", "2", "3", "none"])[
        np.searchsorted(["10", "20", "30", "x"], names)].tolist()}  # fmt: skip
    path = as_csv(tmp_path_factory.mktemp("coded"), columns)
    run = train(path, target="label", until="epochs(12)", lr=0.03)
    assert run.evaluate(path)["accuracy"] > 0.95
    return run, columns


WAYS = {
    "ints": lambda values: [int(v) for v in values],
    "numpy": lambda values: np.array(values, dtype=np.int64),
    "floats": lambda values: np.array(values, dtype=np.float32),
    "tensor": lambda values: torch.tensor([int(v) for v in values]),
    "pandas": lambda values: pd.Series(values).astype(int),
    "gaps": lambda values: pd.Series(values).astype("Int64"),
    "categorical": lambda values: pd.Series(values).astype(int).astype("category"),
    "polars": lambda values: pl.Series([int(v) for v in values]),
}


@pytest.mark.parametrize("way", WAYS)
def test_whole_numbers_are_names_where_training_had_names(way, coded):
    run, columns = coded
    rows = [i for i, k in enumerate(columns["k"]) if k != "x"][:60]
    some = rows_of(columns, rows)
    as_numbers = {"k": WAYS[way](some["k"]), "z": some["z"], "label": WAYS[way](some["label"])}
    assert torch.equal(inputs(run, as_numbers), inputs(run, some))
    assert run.predict(as_numbers).tolist() == run.predict(some).tolist()
    assert run.evaluate(as_numbers) == run.evaluate(some)


def test_a_number_that_is_no_name_is_unknown_in_an_input_and_refused_in_a_target(coded):
    run, _ = coded
    unknown = inputs(run, {"k": ["no such"], "z": [0.0]})
    assert torch.equal(inputs(run, {"k": [1], "z": [0.0]}), unknown)
    assert torch.equal(inputs(run, pd.DataFrame({"k": [1, 40], "z": [0.0, 0.0]})), unknown.repeat(2, 1))
    for labels in ([7], np.array([7]), ["7"]):
        with pytest.raises(HandfulError, match="'7'"):
            run.evaluate({"k": ["10"], "z": [0.0], "label": labels})


def test_a_number_that_two_names_may_mean_is_refused(tmp_path):
    columns = {"k": ["1.5", "1.50", "2", "x"] * 10, "label": ["a", "b"] * 20}
    run = train(as_csv(tmp_path, columns), target="label", batch=8)
    assert torch.equal(inputs(run, {"k": [2.0]}), inputs(run, {"k": ["2"]}))
    with pytest.raises(HandfulError, match=r"'1\.5' or '1\.50'"):
        run.predict({"k": [1.5, 2.0]})


def test_codes_are_codes_where_training_had_codes(tmp_path):
    """A Parquet file of a data set hub: whole numbers, and their names in the schema."""
    names = ["3", "2", "1"]
    features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    label = np.arange(60) % 3
    data = pa.table({"x": label + 0.01 * np.arange(60), "label": label})
    pq.write_table(data.replace_schema_metadata({"huggingface": json.dumps(features)}), tmp_path / "train.parquet")
    run = train(tmp_path / "train.parquet", target="label", until="epochs(60)", batch=8, lr=0.05)
    whole = run.evaluate(tmp_path / "train.parquet")
    assert run.predict({"x": data["x"].to_numpy()}).tolist() == [names[code] for code in label]
    for labels in (label, label.tolist(), [names[code] for code in label], pd.Series(label)):
        assert run.evaluate({"x": data["x"].to_numpy(), "label": labels}) == whole
    with pytest.raises(HandfulError, match="'7'"):
        run.evaluate({"x": [1.0], "label": [7]})


# --- validation and evaluation on what is there ---


def test_labels_like_numbers_in_a_file_without_the_others(tmp_path):
    rng = np.random.default_rng(0)
    code = rng.integers(0, 3, 600)
    columns = {"x": (code + rng.normal(0, 0.1, 600)).tolist(), "label": np.array(["01", "02", "other"])[code].tolist()}
    whole = as_csv(tmp_path, columns).rename(tmp_path / "whole.csv")
    part = as_csv(tmp_path, rows_of(columns, np.flatnonzero(code < 2).tolist()))
    run = train(whole, target="label", valid=part, until="epochs(15)", lr=0.05)
    due = np.mean(run.predict(part) == pd.read_csv(part, dtype=str)["label"])
    assert due > 0.95
    assert run.evaluate(part)["accuracy"] == pytest.approx(due)
    assert run.scores["valid_accuracy"] == pytest.approx(due)
    assert run.evaluate(pd.read_csv(part))["accuracy"] == pytest.approx(due)  # where pandas made them 1 and 2


# --- decimal marks, kinds that do not fit ---


def test_the_decimal_mark_of_training(tmp_path):
    write = tmp_path / "train.csv"
    write.write_text("size;n;y\n" + "".join(f"{k},5;{k % 7};{k % 2}\n" for k in range(60)))
    run = train(write, target="y")
    due = inputs(run, write)
    (tmp_path / "one.csv").write_text("size;n\n3,5;3\n")
    for one in (tmp_path / "one.csv", {"size": "3,5", "n": "3"}, {"size": 3.5, "n": 3}):
        assert torch.equal(inputs(run, one), due[[3]])
    (tmp_path / "one.csv").write_text("size;n\n3.500;3\n")  # whose decimals may be either, by itself
    assert torch.equal(inputs(run, tmp_path / "one.csv"), inputs(run, {"size": 3500, "n": 3}))


WRONG = {
    "number for a date": ("iso", 17_897.0),
    "date for a time": ("clock", dt.date(2020, 1, 1)),
    "date for a number": ("size", dt.date(2020, 1, 1)),
    "word for a date": ("iso", "soon"),
    "word for a number": ("size", "large"),
    "word for a time": ("clock", "noon"),
    "word for a truth": ("flag", "perhaps"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_such_a_value_is_refused(wrong, trained):
    (run, columns, _), (column, value) = trained, WRONG[wrong]
    with pytest.raises(HandfulError, match=f"'{column}'"):
        run.predict({name: value if name == column else values[0] for name, values in columns.items()})


# --- predictions in the labels' own words ---

LABELS = {
    "leading zeros": ["01", "02"],
    "dates": ["2020-01-01", "2020-02-01"],
    "dotted dates": ["01.02.2020", "03.04.2021"],
    "slashed dates": ["01/02/2020", "13/04/2021"],
    "times": ["12:30", "09:15"],
    "moments": ["2020-01-01 10:00", "2020-01-02 11:30"],
    "past 2**53": [str(2**53), str(2**53 + 1), str(2**53 + 2)],
    "past 2**63": [str(2**64 - 1), str(2**64 - 2)],
    "truth": ["true", "false"],
    "one number in two writings": ["1", "01", "2"],
    "whole numbers": ["-1", "0", "12"],
    "words": ["yes", "no, not", 'say "so"'],
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("model", ["linear", "own"])
def test_predictions_join_back_to_the_file(kind, model, tmp_path):
    labels, rng = LABELS[kind], np.random.default_rng(0)
    code = rng.integers(0, len(labels), 200)
    columns = {"x": (code + rng.normal(0, 0.03, 200)).tolist(), "label": [labels[i] for i in code]}
    path = as_csv(tmp_path, columns)
    torch.manual_seed(0)
    outputs = 3 if kind == "leading zeros" else len(labels)  # ids from 0 on, to a model of one's own
    own = torch.nn.Sequential(torch.nn.Linear(1, 32), torch.nn.ReLU(), torch.nn.Linear(32, outputs))
    run = train(
        path, "mlp" if model == "linear" else own, target="label", task="classification", until="epochs(15)", lr=0.05
    )
    predicted = run.predict(path)
    assert [str(value) for value in predicted] == columns["label"]
    assert run.evaluate(path)["accuracy"] == 1
    assert set(labels) <= set(run.pipeline.classes)
    assert [str(v) for v in run.predict({"x": columns["x"][:1]})] == columns["label"][:1]


WORDS = ["leading zeros", "dates", "slashed dates", "moments", "truth", "past 2**63"]
OTHERS = {"parquet": "moments", "dict": "dates", "polars, lazy": "truth", "orc": "dates", "sqlite": "leading zeros"}


@pytest.mark.parametrize(("container", "kind"), [*(("jsonl", kind) for kind in WORDS), *OTHERS.items()])
def test_predictions_are_in_the_words_that_training_came_in(container, kind, tmp_path):
    labels = LABELS[kind]
    columns = {"x": [k % 2 for k in range(60)], "label": [labels[k % 2] for k in range(60)]}
    given = CONTAINERS[container](tmp_path, columns)
    run = train(given, "linear", target="label", task="classification", until="steps(60)", batch=10, lr=0.1)
    assert run.predict({"x": [0, 1]}).tolist() == labels
    path = as_csv(tmp_path, rows_of(columns, [1, 3]))
    assert run.evaluate(path)["accuracy"] == 1
    assert run.predict(path).tolist() == [labels[1]] * 2


def test_numbers_with_decimals_as_classes_are_as_written(tmp_path):
    columns = {"x": [k % 2 for k in range(80)], "label": [["1.50", "2.00"][k % 2] for k in range(80)]}
    run = train(as_csv(tmp_path, columns), "linear", target="label", task="classification", until="epochs(60)", lr=0.1)
    assert run.predict({"x": [0, 1]}).tolist() == ["1.50", "2.00"]


def test_a_date_as_a_number_is_predicted_as_a_date(tmp_path):
    days = [DAY + dt.timedelta(k) for k in range(300)]
    columns = {"x": list(range(300)), "when": [str(day) for day in days]}
    run = train(as_csv(tmp_path, columns), "linear", target="when", task="regression", until="epochs(60)", lr=0.05)
    found = run.predict({"x": [150]}).tolist()[0]
    assert abs((dt.date.fromisoformat(found) - days[150]).days) < 20
    for way in (as_jsonl, as_frame):
        [found] = train(way(tmp_path, columns), "linear", target="when", task="regression").predict({"x": [150]})
        assert str(dt.date.fromisoformat(found)) == found
    typed = pd.DataFrame({"x": range(300), "when": pd.to_datetime(days)})
    found = train(typed, "linear", target="when", task="regression", until="epochs(60)", lr=0.05).predict({"x": [150]})
    assert found.dtype.kind == "M"
    assert abs(found[0] - np.datetime64(days[150])) < np.timedelta64(20, "D")


def test_typed_labels_come_back_as_they_were(tmp_path):
    code = np.arange(120) % 3
    for labels in (
        np.array([2**53, 2**53 + 1, 2**53 + 2]),
        np.array(["2020-01-01", "2020-02-01", "2021-01-01"], "M8[s]"),
    ):
        frame = pd.DataFrame({"x": code, "label": labels[code]})
        run = train(frame, "mlp", target="label", until="epochs(60)", lr=0.02)
        assert (run.predict(frame) == frame["label"].to_numpy()).all()
        assert run.evaluate(frame)["accuracy"] == 1


def test_whole_labels_past_2_53_are_told_apart_whatever_they_come_in(tmp_path):
    code = np.random.default_rng(0).integers(0, 2, 80)
    labels, x = [str(2**53 + k) for k in code], (code * 1.0).tolist()
    run = train(as_csv(tmp_path, {"x": x, "label": labels}), "linear", target="label", until="epochs(30)", lr=0.1)
    whole = pa.array(map(int, labels))
    for way in (labels, whole, whole.cast(pa.uint64()), whole.cast(pa.decimal128(38, 2)), pd.Series(labels)):
        assert run.evaluate({"x": x, "label": way})["accuracy"] == 1, way
    assert run.evaluate(as_jsonl(tmp_path, {"x": x, "label": labels}))["accuracy"] == 1
    assert run.evaluate({"x": [1.0], "label": [str(2**53 + 1)]})["accuracy"] == 1
    with pytest.raises(HandfulError, match="from 2\\^53 on as floats"):
        run.evaluate({"x": x, "label": whole.cast(pa.float64(), safe=False)})


# --- estimators ---


def test_an_estimator_fitted_on_a_mixed_frame_takes_it_in_other_types():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"a": rng.normal(size=120), "k": np.array(["10", "20", "x"])[rng.integers(0, 3, 120)],
         "d": pd.Timestamp(DAY) + pd.to_timedelta(rng.integers(0, 500, 120), "D")}
    )  # fmt: skip
    frame.loc[3, "a"] = None
    model = MiniBatchClassifier(until="steps(5)", batch=32, lr=0.01).fit(frame, frame["k"] == "x")
    rows = frame[frame["k"] != "x"]
    due = model.predict_proba(rows)
    others = [
        rows.assign(k=rows["k"].astype(int), d=rows["d"].astype(str)),
        rows.assign(d=rows["d"].dt.date, k=rows["k"].astype("category")),
        rows.convert_dtypes(dtype_backend="pyarrow"),
        pl.from_pandas(rows),
    ]
    for other in others:
        np.testing.assert_array_equal(model.predict_proba(other), due)
    gone = rows.assign(a=np.nan)
    np.testing.assert_array_equal(model.predict_proba(rows.assign(a=None)), model.predict_proba(gone))
    with pytest.raises(HandfulError, match="must be a DataFrame with the fitted columns, a, k"):
        model.predict(rows.to_numpy())
    numbers = frame[["a"]].assign(b=rng.normal(size=120))
    regressor = MiniBatchRegressor(until="steps(5)", batch=32, lr=0.01).fit(numbers, numbers["b"])
    due = regressor.predict(numbers.assign(a=np.nan))
    np.testing.assert_array_equal(regressor.predict(numbers.assign(a=pd.array([None] * 120, dtype="Float64"))), due)


# --- the property ---


def few(values):
    return st.lists(values, min_size=2, max_size=4, unique=True).flatmap(st.sampled_from)


DAYS = st.dates(min_value=DAY, max_value=dt.date(2030, 1, 1))
KINDS = {
    "numbers": st.one_of(st.none(), st.floats(-1e6, 1e6).map(lambda x: round(x, 3))),
    "ints": st.integers(-(10**9), 10**9),
    "truth": st.booleans(),
    "number-like names": st.sampled_from(["007", "1e5", "1.50", "10", "K1A", "00501"]),
    "truth-like names": st.sampled_from(["True", "false", "maybe", "TRUE"]),
    "date-like names": st.sampled_from(["2020-01-01", "12:30", "2020-01-01 10:00:00", "soon"]),
    "missing-like names": st.sampled_from(["NA", "null", "Inf", "nan", "none", "ok", "", "N/A"]),
    "iso dates": DAYS.map(str),
    "dotted dates": DAYS.map(lambda day: day.strftime("%d.%m.%Y")),
    "slashed dates": DAYS.map(lambda day: day.strftime("%d/%m/%Y")),
    "moments": st.datetimes(min_value=dt.datetime(1990, 1, 1), max_value=dt.datetime(2030, 1, 1)).map(
        lambda at: str(at.replace(microsecond=0))
    ),
    "times": st.times().map(lambda at: at.strftime("%H:%M")),
    "amounts": st.integers(0, 9999).map(lambda k: f"${k:,}"),
    "marked numbers": st.one_of(st.integers(0, 99).map(str), st.sampled_from(["?", "NA", "-"])),
    "words": few(st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=4)),
    "truth with gaps": st.one_of(st.none(), st.booleans()),
    "whole numbers past 2**53": st.integers(2**53 - 3, 2**53 + 3),
    "days as numbers": DAYS.map(lambda day: int(day.strftime("%Y%m%d"))),
    "named months": DAYS.map(lambda day: day.strftime("%d %b %Y")),
    "american dates": DAYS.map(lambda day: day.strftime("%B %d, %Y")),
    "durations": st.integers(0, 3000).map(lambda k: f"{k // 60}:{k % 60:02d}"),
    "decimal commas": st.integers(0, 9999).map(lambda k: f"{k // 100},{k % 100:02d}"),
    "euros": st.integers(0, 999_999).map(lambda k: f"{k // 1000}.{k % 1000:03d},50 €"),
    "units": st.builds("{} {}".format, st.integers(0, 99), st.sampled_from(["km", "m", "cm"])),
    "per cent": st.builds("{}{}".format, st.integers(0, 99), st.sampled_from(["%", "%", ""])),
    "amounts or words": st.one_of(st.floats(0, 9).map("{:.3f}".format), st.sampled_from(["<0.1", "none seen"])),
    "letters": few(st.sampled_from(["\u00e9", "e\u0301", "\u00c5", "A\u030a", "\ufb01", "E"])),
    "labels": st.lists(st.sampled_from("abc"), min_size=1, unique=True).map(";".join),
    "versions": st.sampled_from(["1.1", "1.10", "1.2"]),
    "text": st.lists(st.sampled_from(["the", "film", "was", "7", "so-so", "x,y"]), min_size=3, max_size=8).map(
        " ".join
    ),
}
TARGETS = [["01", "02", "other"], ["true", "false"], ["1", "2"], ["2020-01-01", "2021-01-01"], ["a", "NA", "1e5"]]


@st.composite
def tables(draw):
    rows = draw(st.integers(24, 40))
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=2, max_size=5))
    columns = {f"c{i}": draw(st.lists(KINDS[kind], min_size=rows, max_size=rows)) for i, kind in enumerate(kinds)}
    columns["steady"] = [
        round(0.1 * (k * 7 % 5), 1) for k in range(rows)
    ]  # so that there is an input, whatever is left out
    labels = draw(st.sampled_from(TARGETS))
    code = draw(st.lists(st.sampled_from(labels), min_size=rows, max_size=rows))
    columns["label"] = [*labels, *code][:rows]
    return columns


TEXTS = (pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string()))
NUMBERS = (pa.int32(), pa.uint64(), pa.float64(), pa.decimal128(38, 3), pa.decimal256(50, 3))


def retyped(column, draw):
    """The same values as an Arrow array of another type that holds them."""
    known = [pa.array(column)]
    plain = known[0].type
    for kind in TEXTS if plain == pa.string() else NUMBERS if plain in (pa.int64(), pa.float64()) else ():
        with suppress(pa.ArrowException):
            found = known[0].cast(kind)
            told = not pa.types.is_floating(kind) or plain != pa.int64() or abs(column[0]) < 2**53  # else it is refused
            known += [found] if told and found.cast(plain).equals(known[0]) else []
    return draw(st.sampled_from(known))


def same(seen, whole):
    """Texts end with padding, to the longest of those that are read together."""
    longest = max(seen.shape[1], whole.shape[1])
    return torch.equal(*(torch.nn.functional.pad(x, (0, longest - x.shape[1])) for x in (seen, whole)))


@settings(max_examples=int(os.environ.get("EXAMPLES", "12")), deadline=None, suppress_health_check=list(HealthCheck))
@given(tables(), st.data())
def test_a_prediction_does_not_depend_on_what_a_row_comes_in_or_with(columns, data):
    n = len(columns["label"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = as_csv(folder, columns).rename(folder / "whole.csv")
        try:  # a text wins where it is long
            run = train(path, model="auto", target="label", until="steps(1)", batch=8, valid=0)
        except HandfulError as refused:  # a column of "Inf" and marks for missing values alone
            if "holds an infinite value in row" not in str(refused):
                raise
            return
        whole, predicted, scores = inputs(run, path), run.predict(path), run.outputs(path)
        assert set(map(str, predicted)) <= set(columns["label"])
        row = data.draw(st.integers(0, n - 1))
        one = rows_of(columns, [row])
        for container in ("csv", "jsonl", "parquet", "pandas", "polars", "dict", "list of dicts"):
            given = CONTAINERS[container](folder, one)
            assert same(inputs(run, given), whole[[row]]), container
            assert run.predict(given).tolist() == predicted[[row]].tolist(), container
            if run.plan.model == "table":
                assert torch.equal(run.outputs(given), scores[[row]]), container
        typed = pa.table({name: retyped(values, data.draw) for name, values in one.items()})
        for given in (typed, typed.to_pandas(types_mapper=pd.ArrowDtype)):
            assert same(inputs(run, given), whole[[row]]), typed.schema
        store = handful.prepare(path, folder / "store", target="label")
        assert same(inputs(run, store), whole)
        some = sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1)))
        due = np.mean([str(predicted[i]) == columns["label"][i] for i in some])
        subset = rows_of(columns, some)
        for container in ("csv", "jsonl", "pandas", "list of dicts"):
            found = run.evaluate(CONTAINERS[container](folder, subset))["accuracy"]
            assert found == pytest.approx(due), container
        assert run.evaluate(store.subset(np.array(some)))["accuracy"] == pytest.approx(due)


class _Named(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, a, b):
        return self.layer(torch.stack([a, b], 1))


def test_whole_numbers_are_decimals_where_training_had_decimals():
    x = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    how = {"batch": 16, "lr": 0.05, "until": "steps(4)", "quiet": True}
    run, named = (
        handful.fit(torch.nn.Linear(2, 1), (x, x[:, 0]), **how),
        handful.fit(_Named(), {"a": x[:, 0], "b": x[:, 1], "y": x[:, 0]}, target="y", **how),
    )
    rows = [[1, 0], [0, 1]]
    for model, trained in ((run.model, run), (lambda r: named.model(*r.T), named)):
        with torch.no_grad():
            expected = model(torch.tensor(rows, dtype=torch.float32)).squeeze(1).numpy()
        forms = [rows, np.array(rows), np.array(rows, bool), torch.tensor(rows), np.array(rows, np.uint8)]
        if trained is named:
            forms = [{"a": [1, 0], "b": np.array([0, 1], dtype)} for dtype in (int, bool, np.uint8)]
        for form in forms:
            np.testing.assert_array_equal(trained.predict(form), expected)
    assert run.evaluate((np.array(rows), expected))["mae"] > 0


def test_whole_decimals_are_ids_where_training_had_ids():
    ids = np.random.default_rng(0).integers(0, 9, (64, 3))
    net = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Flatten(), torch.nn.Linear(12, 1))
    run = handful.fit(net, (ids, ids[:, 0] / 9), batch=16, lr=0.05, until="steps(4)", quiet=True)
    np.testing.assert_array_equal(run.predict(ids[:5].astype(float)), run.predict(ids[:5]))
    with pytest.raises(HandfulError, match=r"fails on one of rows 0 to 1, counted from 0 \(x: int64 \[2, 3\]"):
        run.predict([[1, 2, 3], [1, 2, 99]])
    with pytest.raises(HandfulError, match=r"Sequential\) fails on row 0, .*x: float64 \[1, 3\]"):
        run.predict([[1.5, 2, 3]])


def test_decimals_stay_decimals_where_training_had_whole_numbers():
    ages = np.arange(64)
    run = handful.fit("linear", (ages[:, None], ages * 2.0), lr=0.1, until="epochs(3)", quiet=True)
    low, between, high = run.predict([[3.0], [3.5], [4.0]])
    assert low < between < high
    assert between == run.predict([[3.5]])[0]
