"""Numbers and tables as people write them: amounts, a nameless index, JSON, a zip of one table."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.datasets import load_wine

import handful
from handful.base.errors import HandfulError
from handful.data.tables.cells.reading import readings

WINE = load_wine(as_frame=True).frame


def test_amounts_are_numbers_as_inputs_and_as_targets(tmp_path: Path) -> None:
    rows = 40
    frame = pd.DataFrame(
        {
            "price": [f"${k},{k:03d}.50" for k in range(1, rows + 1)],
            "share": [f"{k} %" for k in range(rows)],
            "change": [f"({k})" if k % 2 else f"{k}" for k in range(rows)],
            "weight": [f"{k} kg" for k in range(rows)],
        }
    )
    path = tmp_path / "amounts.csv"
    frame.to_csv(path, index=False)
    source = handful.open(path, target="price")
    assert source.take([2]).tensor("price").tolist() == [3003.5]
    assert source.take([7]).tensor("share").tolist() == [7]
    assert source.take([7, 8]).tensor("change").tolist() == [-7, 8]
    assert source.take([7]).tensor("weight").tolist() == [7]
    assert source.columns["weight"].unit == "kg"
    assert any("'$1,001.50' is read as 1001.5" in note for note in source.notes)
    run = handful.fit("auto", path, target="price", until="steps(2)", batch=8, lr=0.01, quiet=True)
    assert run.pipeline.task == "regression"
    other = tmp_path / "new.csv"
    frame.drop(columns="price").iloc[:3].to_csv(other, index=False)
    assert run.predict(other).shape == (3,)
    frame.assign(share="a lot").to_csv(other, index=False)
    with pytest.raises(HandfulError, match="column 'share' must be a number but is 'a lot' in row 0"):
        run.predict(other)


def test_classes_that_look_like_plain_numbers_stay_classes(tmp_path: Path) -> None:
    path = tmp_path / "codes.csv"
    path.write_text("x,code\n" + "\n".join(f'{k},"{"ab"[k % 2]}-1"' for k in range(20)))
    assert handful.open(path, target="code").columns["code"].kind == "category"


def test_codes_of_which_one_looks_like_an_amount_stay_names(tmp_path: Path) -> None:
    path, codes = tmp_path / "families.csv", [f"{k:03d}" if k != 36 else "036A" for k in range(1, 60)]
    frame = pd.DataFrame({"family": codes * 3, "x": range(3 * len(codes)), "y": 1.5})
    frame.to_csv(path, index=False)
    for data in (path, frame):
        assert handful.open(data, target="y").columns["family"].kind == "category"
    frame.assign(family=[code.lstrip("0") for code in codes * 3]).to_csv(path, index=False)
    assert handful.open(path, target="y").columns["family"].unit == "A"  # amperes, and said


def test_the_index_that_pandas_writes_is_no_input(tmp_path: Path) -> None:
    path = tmp_path / "wine.csv"
    WINE.to_csv(path)  # sorted by class: the index would tell it
    run = handful.fit("auto", path, target="target", until="steps(2)", batch=8, lr=0.01, quiet=True)
    assert run.pipeline.uses == tuple(WINE.columns.drop("target"))
    assert any("the one without a name" in note for note in run.plan.notes)


@pytest.mark.parametrize("orient", ["records", "columns", "list"])
def test_json(orient: str, tmp_path: Path) -> None:
    path = tmp_path / "wine.json"
    path.write_text(json.dumps(WINE.to_dict("list")) if orient == "list" else WINE.to_json(orient=orient))
    source = handful.open(path, target="target")
    assert np.allclose(source.take([5]).tensor("alcohol").numpy(), WINE["alcohol"][5])
    assert len(source) == 178


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1}\n[2]', "each line must be one object"),
        ("[1, 2]", "neither a list of objects"),
        ('{"a": [1, 2], "b": [1]}', "columns of one length"),
        ("[]", "neither a list of objects"),
        ("", "is empty"),
        ("{", "is not a JSON file that can be read"),
    ],
)
def test_json_that_is_no_table(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(HandfulError, match=words):
        handful.open(path)


def test_a_zip_of_one_table(tmp_path: Path) -> None:
    WINE.to_csv(tmp_path / "wine.csv", index=False)
    with zipfile.ZipFile(tmp_path / "wine.zip", "w") as archive:
        archive.write(tmp_path / "wine.csv", "inner/wine.csv")
        archive.writestr("__MACOSX/inner/._wine.csv", "junk")
    source = handful.open(tmp_path / "wine.zip", target="target")
    assert len(source) == 178
    run = handful.fit(
        "linear", tmp_path / "wine.zip", target="target", until="steps(2)", batch=8, lr=0.01, out=tmp_path / "run",
        quiet=True,
    )  # fmt: skip
    assert handful.load(run.path).evaluate(tmp_path / "wine.zip") == run.evaluate(source)
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for name in ("a.csv", "b.csv"):
            archive.write(tmp_path / "wine.csv", name)
    with pytest.raises(HandfulError, match="holds tables"):
        handful.open(tmp_path / "two.zip")


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("%d/%m/%Y", "day/month/year"),
        ("%m/%d/%Y", "month/day/year"),
        ("%Y/%m/%d", "year-month-day"),
        ("%d/%m/%Y %H:%M", "day/month/year"),
    ],
)
def test_dates_with_slashes_are_times_where_one_order_fits_them_all(written: str, shown: str, tmp_path: Path) -> None:
    days = pd.date_range("2024-01-05 07:30", periods=60, freq="D")
    frame = pd.DataFrame({"when": days.strftime(written), "n": range(60), "y": np.arange(60) % 2})
    frame.loc[7, "when"] = None
    path = tmp_path / "dates.csv"
    frame.to_csv(path, index=False)
    source = handful.open(path, target="y")
    found = source.take(range(60)).tensor("when").numpy()
    expected = np.array([pd.to_datetime(d.strftime(written), format=written).timestamp() for d in days])
    expected[7] = np.nan
    assert np.array_equal(found, expected, equal_nan=True)
    assert any(f"holds dates, {shown}" in note for note in source.notes)
    run = handful.fit("auto", path, target="y", until="steps(2)", batch=8, lr=0.01, out=tmp_path / "run", quiet=True)
    loaded = handful.load(tmp_path / "run")
    few = tmp_path / "few.csv"  # alone, these days could be read either way; training told
    frame.iloc[:3].to_csv(few, index=False)
    assert np.array_equal(loaded.outputs(few), run.outputs(source.subset(np.arange(3))))
    frame.assign(when="tomorrow").to_csv(few, index=False)
    with pytest.raises(HandfulError, match=r"column 'when' must be a date, .*, but is 'tomorrow' in row 0"):
        loaded.predict(few)
    halves = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for half, rows in zip(halves, (slice(0, 30), slice(30, 60))):
        frame.iloc[rows].to_csv(half, index=False)
    store = handful.prepare(halves, tmp_path / "store", target="y")
    assert np.array_equal(store.take(range(60)).tensor("when").numpy(), expected, equal_nan=True)


def test_dates_that_could_be_either_order_are_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "dates.csv"
    path.write_text("when,n,y\n" + "\n".join(f"0{1 + k % 9}/0{1 + k % 3}/2024,{k},{k % 2}" for k in range(40)))
    source = handful.open(path, target="y")
    assert source.columns["when"].kind == "category"
    assert any("days and months cannot be told apart" in note for note in source.notes)


def test_infinity_alone_is_a_number_as_it_is_beside_others() -> None:
    """Of a stream, a block may hold nothing but infinity and gaps in a column of numbers."""
    source = handful.open({"a": ["inf", "nan"] * 20, "b": list(range(40))}, target="b")
    assert source.columns["a"].kind == "number"
    assert source.take([0]).tensor("a").tolist() == [np.inf]
    text = pa.array(["-inf", "Infinity"], pa.large_string())
    found = readings(text, text, np.array([2, 3]), np.array([0, 1]))["."]
    assert found.rows == 5
