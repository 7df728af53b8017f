"""20240229 as a date: where all are days and the name or their spread says so, and the same in every container."""

import json

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

import handful
from handful.base.errors import HandfulError

RNG = np.random.default_rng(0)
DAYS = pd.Series(pd.date_range("2019-12-01", periods=120, freq="D")[RNG.permutation(120)])
NUMBERS = DAYS.dt.strftime("%Y%m%d").astype(int)
FRAME = pd.DataFrame({"sold": NUMBERS, "z": RNG.normal(size=120).round(3), "y": RNG.normal(size=120).round(3)})


def train(data):
    return handful.fit("table", data, target="y", until="steps(2)", batch=32, quiet=True)


def kind(values, name="sold"):
    return handful.open(pd.DataFrame({name: values, "y": np.arange(len(values))}), "y").columns[name].dates


def test_the_same_predictions_from_every_container_and_as_dates_themselves(tmp_path):
    FRAME.to_csv(tmp_path / "t.csv", index=False)
    FRAME.to_parquet(tmp_path / "t.parquet", index=False)
    records = FRAME.to_dict("records")
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    handful.prepare(tmp_path / "t.csv", tmp_path / "store", target="y")
    arrays = {name: FRAME[name].to_numpy() for name in FRAME}
    tensors = {name: torch.tensor(values) for name, values in arrays.items()}
    held = [FRAME, arrays, tensors, records, pl.from_pandas(FRAME)]
    held += [
        pa.table(arrays).set_column(FRAME.columns.get_loc("sold"), "sold", pa.array(NUMBERS).cast(pa.decimal128(19)))
    ]
    held += [tmp_path / name for name in ("t.csv", "t.parquet", "t.jsonl", "store")]
    due = torch.tensor((DAYS - pd.Timestamp(0)).dt.total_seconds().tolist(), dtype=torch.float64)
    for data in held:
        source = handful.open(data, "y")
        assert torch.equal(source.take(np.arange(120)).tensor("sold"), due)
        assert "'sold' holds dates, yyyymmdd, written as numbers: read as seconds" in " ".join(source.notes)
    run = train(tmp_path / "t.csv")
    whole = run.outputs(tmp_path / "t.csv")
    for data in (*held, FRAME.assign(sold=DAYS), FRAME.assign(sold=NUMBERS.astype(float)), FRAME.astype({"sold": str})):
        assert torch.equal(run.outputs(data), whole)
    for data in (*held, FRAME.assign(sold=DAYS)):
        assert torch.equal(run.outputs(handful.open(data, "y")), whole)
    for data in (arrays, records, tmp_path / "t.jsonl", tmp_path / "store"):
        assert torch.equal(train(data).outputs(FRAME), whole)
    for row in (0, 77):
        FRAME[row : row + 1].to_csv(tmp_path / "one.csv", index=False)
        for one in (tmp_path / "one.csv", FRAME[row : row + 1], records[row], {**records[row], "sold": DAYS[row]}):
            assert torch.equal(run.outputs(one), whole[row : row + 1])
    missing = FRAME.assign(sold=NUMBERS.astype("Int64").mask(np.arange(120) == 3))
    assert torch.equal(train(missing).outputs(FRAME[:9]), train(missing.astype({"sold": float})).outputs(FRAME[:9]))
    with pytest.raises(HandfulError, match="'sold' must be a date, yyyymmdd, but is 20190230 in row 1: correct it"):
        run.predict(FRAME[:2].assign(sold=[20190101, 20190230]))


def test_what_is_not_all_days_or_tells_nothing_stays_a_number():
    assert kind(NUMBERS) == kind(NUMBERS[:2], "order date") == "yyyymmdd"
    assert kind(NUMBERS.replace(int(NUMBERS[5]), 20190230)) is None  # no such day
    assert kind(NUMBERS[NUMBERS // 100 == 202001]) is None  # a month alone may be a count
    assert kind(NUMBERS[:5]) is None
    assert kind(NUMBERS + 0.5) is None
    assert kind(np.arange(30) + 21990101) is None


def test_plain_numbers_of_training_stay_so_where_a_file_holds_days_alone():
    mixed = FRAME.assign(sold=NUMBERS.where(np.arange(120) > 3, 5))
    run = train(mixed)
    assert torch.equal(run.outputs(handful.open(FRAME[9:], "y")), run.outputs(mixed)[9:])
    assert torch.equal(run.outputs(FRAME[9:]), run.outputs(mixed)[9:])


def test_a_target_stays_the_number_that_it_is():
    frame = FRAME.assign(y=NUMBERS)
    assert handful.open(frame, "y").columns["y"].dates is None


@pytest.mark.parametrize(("freq", "written"), [("M", "2020-03"), ("Q", "2020Q2"), ("D", "2020-01-03")])
def test_periods_written_as_text_are_the_dates_that_they_came_as(freq, written, tmp_path):
    frame = pd.DataFrame({"when": pd.period_range("2020-01-01", periods=40, freq=freq), "y": [0, 1] * 20})
    run = train(frame)
    row = frame["when"].astype(str).tolist().index(written)
    (tmp_path / "one.csv").write_text(f"when\n{written}\n")
    for given in ({"when": written}, tmp_path / "one.csv", frame[row : row + 1]):
        assert torch.equal(run.outputs(given), run.outputs(frame)[row : row + 1])
