"""Dates, bounds, labels and lists as tables of the wild write them, against Python's own calendar and json."""

import datetime as dt
import json

import numpy as np
import pandas as pd
import pytest

import handful
from handful.base.errors import HandfulError

MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
DAYS = [dt.datetime(1990 + k // 12, k % 12 + 1, 1) for k in range(48)]
TIMES = [dt.datetime(2020, 3, 20) + dt.timedelta(hours=7 * k) for k in range(60)]
WRITTEN = {
    "1990 Jan": (DAYS, lambda d: f"{d.year} {MONTHS[d.month - 1]}"),
    "1990-Jan": (DAYS, lambda d: f"{d.year}-{MONTHS[d.month - 1]}"),
    "Jan1990": (DAYS, lambda d: f"{d:%b%Y}"),
    "01/1990": (DAYS, lambda d: f"{d:%m/%Y}"),
    "1990M01": (DAYS, lambda d: f"{d:%YM%m}"),
    "1/1/1990": (DAYS, lambda d: f"{d.month}/1/{d.year}"),
    "01.01.1990": (DAYS, lambda d: f"{d:01/%m/%Y}"),
    "Q1 1990": (DAYS[::3], lambda d: f"Q{d.month // 3 + 1} {d.year}"),
    "1Q90": (DAYS[::3], lambda d: f"{d.month // 3 + 1}Q{d:%y}"),
    "1990-W01": (
        [dt.datetime(1990, 1, 1) + dt.timedelta(weeks=k) for k in range(60)],
        lambda d: "{}-W{:02}".format(*d.isocalendar()),
    ),
    "ctime": (TIMES, lambda d: d.ctime()),
    "apache": (TIMES, lambda d: f"{d:%d/%b/%Y:%H:%M:%S +0000}"),
    "Twitter": (TIMES, lambda d: f"{d:%a %b %d %H:%M:%S +0000 %Y}"),
    "logging": (TIMES, lambda d: f"{d:%Y-%m-%d %H:%M:%S},000"),
    "compact": (TIMES, lambda d: f"{d:%Y%m%dT%H%M%SZ}"),
    "Berlin": (TIMES, lambda d: f"{d + dt.timedelta(hours=1):%Y-%m-%dT%H:%M:%S}+01:00[Europe/Berlin]"),
    "CET": (TIMES, lambda d: f"{d + dt.timedelta(hours=1):%Y-%m-%d %H:%M} CET"),
    "Postgres": (TIMES, lambda d: f"{d + dt.timedelta(hours=1):%Y-%m-%d %H:%M:%S}+01"),
    "EDT": (TIMES, lambda d: f"{d - dt.timedelta(hours=4):%m/%d/%Y %I:%M %p} EDT"),
}


def column(values, **options):
    return handful.open({"a": np.arange(float(len(values))), "c": values}, **options)


@pytest.mark.parametrize("kind", WRITTEN)
def test_dates_as_they_are_written_in_the_wild(kind):
    days, write = WRITTEN[kind]
    read = column([write(d) for d in days]).take(range(len(days)))["c"]
    assert read.tolist() == [d.replace(tzinfo=dt.UTC).timestamp() for d in days]


def test_days_of_one_january_alone_stay_ambiguous():
    assert "c" not in column([f"{d}/1/2020" for d in range(1, 13)] * 3).columns or any(
        "cannot be told apart" in note for note in column([f"{d}/1/2020" for d in range(1, 13)] * 3).notes
    )


@pytest.mark.parametrize(
    ("bound", "value"), [("<0.01", 0.01), ("> 0.5", 0.5), ("≤0.25", 0.25), ("~3", 3.0), ("90+", 90.0), ("1,000+", 1e3)]
)
def test_bounds_are_numbers_and_said_and_no_target(bound, value):
    cells = [bound if k % 4 == 0 else f"{k / 7:.3f}" for k in range(80)]
    source = column(cells)
    read = source.take(range(80))["c"].numpy()
    assert (read[::4] == value).all()
    assert read[1] == 0.143
    assert any("bounds" in note and f"'{bound}'" in note for note in source.notes)
    with pytest.raises(HandfulError, match="a bound in some rows"):
        column(cells, target="c")


@pytest.mark.parametrize("names", [["1. Never Married", "2. Married"], ["2. Middle Atlantic", "2. Middle Atlantic"]])
def test_numbered_labels_are_names(names):
    source = column([names[k % 2] for k in range(40)], target="a", columns=["c"])
    assert source.columns["c"].classes == tuple(sorted({*names}))
    assert not any("units" in note or "read as 2" in note for note in source.notes)


LISTS = {
    "json": lambda v: json.dumps(v),
    "numpy": lambda v: str(np.array(v)),
    "scalars": lambda v: "[" + ", ".join(f"np.float64({x})" for x in v) + "]",
    "point": lambda v: f"POINT ({v[0]} {v[1]})",
}


@pytest.mark.parametrize("kind", LISTS)
def test_numbers_in_a_cell(kind):
    values = [[round(k / 7, 3), 1e-7 * k + 1e-9] for k in range(40)]
    read = column([LISTS[kind](v) for v in values]).take(range(40))["c"]
    np.testing.assert_allclose(read, values, rtol=1e-7)


def test_lists_of_unlike_lengths_in_cells():
    values = [[k / 4] * (k % 4) for k in range(60)]
    read = column([json.dumps(v) for v in values]).take(range(60))["c"]
    assert [part.tolist() for part in np.split(read.values.numpy(), read.offsets[1:-1])] == values


@pytest.mark.parametrize("write", [str, ", ".join, ",".join])
def test_labels_in_a_cell(write, tmp_path):
    known, rng = ["action", "crime", "drama"], np.random.default_rng(0)
    rows = [known[:1], known[1:2], known[2:]] + [
        sorted(rng.choice(known, k % 3 + 1, False).tolist()) for k in range(60)
    ]
    pd.DataFrame({"a": range(63), "c": [write(row) for row in rows]}).to_csv(tmp_path / "t.csv", index=False)
    source = handful.open(str(tmp_path / "t.csv"))
    assert source.columns["c"].labels == tuple(known)
    assert source.take(range(63))["c"].tolist() == [[int(name in row) for name in known] for row in rows]


def test_a_comma_within_names_makes_no_labels():
    cities = ["Austin, TX", "Dallas, TX", "Rome", "Paris, France, Europe"]
    assert column([cities[k % 4] for k in range(80)]).columns["c"].classes == tuple(sorted(cities))


@pytest.mark.parametrize(
    "groups", [["<40", ">=40"], ["<= 1500 sf", "> 1500 sf"], ["1", "2", "3", ">3"], ["<6m", ">6m"]]
)
def test_bounds_that_part_the_same_number_are_groups(groups):
    source = column([groups[k % len(groups)] for k in range(60)])
    assert source.columns["c"].classes == tuple(sorted(groups))
