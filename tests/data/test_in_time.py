"""Rows that belong together, or follow one another: held out so that nothing leaks; windows of a time series."""

import csv

import numpy as np
import pytest
import torch

import handful
from handful.base.errors import HandfulError
from handful.data.split import HeldOut, held_out
from handful.runs.predict import write_predictions

HOW = {"batch": 16, "lr": 0.02, "until": "epochs(2)", "quiet": True}


def patients(n=200):
    rng = np.random.default_rng(0)
    return {
        "size": rng.normal(size=n),
        "patient": rng.choice([f"p{k}" for k in range(20)], n),
        "day": rng.permutation(n).astype("float64"),
        "ill": rng.choice(["yes", "no"], n),
    }


def test_groups_stay_whole_and_are_not_learned_from():
    rows = patients()
    run = handful.fit("mlp", rows, target="ill", valid="0.25 by patient", **HOW)
    assert run.plan.valid == "0.25 by patient"
    assert run.pipeline.uses == ("size", "day")
    train, valid = held_out(handful.open(rows, target="ill"), HeldOut.of("0.25 by patient"), 0)
    ours, theirs = ({rows["patient"][i] for i in part.base.rows} for part in (train, valid))
    assert ours
    assert theirs
    assert not ours & theirs
    assert any("not learned from" in note for note in valid.notes)
    assert len(run.predict(rows)) == 200


def test_the_latest_rows_are_held_out_and_those_of_one_moment_stay_together():
    rows = patients() | {"day": np.repeat(np.arange(50.0), 4)[np.random.default_rng(1).permutation(200)]}
    source = handful.open(rows, target="ill")
    train, valid = held_out(source, HeldOut.of("last 41 by day"))
    assert len(valid) == 44  # the day that the 41st from behind lies in
    assert train.take(range(len(train))).tensor("day").max() < valid.take(range(44)).tensor("day").min()
    train, valid = held_out(source, HeldOut.of("last 0.1"))
    assert valid.rows.tolist() == list(range(180, 200))


@pytest.mark.parametrize(
    ("valid", "said"),
    [
        ("0.2 by patiant", "no column 'patiant'.*Did you mean 'patient'"),
        ("last 0.2 by ill", "'ill' holds no numbers or dates"),
        ("last 200", "cannot hold out"),
        ("1.5 by patient", "between 0 and 1"),
    ],
)
def test_what_cannot_be_held_out_is_said(valid, said):
    with pytest.raises(HandfulError, match=said):
        handful.fit("mlp", patients(), target="ill", valid=valid, **HOW)


def test_a_gap_in_the_time_is_named_by_its_row():
    rows = patients()
    rows["day"][7] = np.nan
    with pytest.raises(HandfulError, match="lacks a value in row 7"):
        handful.fit("mlp", rows, target="ill", valid="last 0.2 by day", **HOW)


def series(n=300):
    t = np.arange(n)
    return {"t": t.astype("float64"), "sold": np.sin(t / 5) + t * 0.01, "price": np.cos(t / 7)}


def test_windows_are_the_rows_before_and_the_target_after():
    rows = series(40)
    mixed = np.random.default_rng(0).permutation(40)
    source = handful.open({k: v[mixed] for k, v in rows.items()}, target="sold").windows(5, 3, order="t")
    assert len(source) == 40 - 5 - 3 + 1
    batch = source.take([0, 32])
    for row, start in enumerate((0, 32)):
        past = np.stack([rows["sold"][start : start + 5], rows["price"][start : start + 5]], 1)
        np.testing.assert_allclose(batch.tensor("x")[row], past, rtol=1e-6)
        np.testing.assert_allclose(batch.tensor("sold")[row], rows["sold"][start + 5 : start + 8], rtol=1e-6)
    ahead = handful.open(rows, target="sold").windows(5, 0, order="t")
    assert len(ahead) == 36
    np.testing.assert_allclose(ahead.take([35]).tensor("x")[0, :, 0], rows["sold"][35:], rtol=1e-6)


def test_no_value_that_a_held_out_window_predicts_is_one_that_a_training_window_predicts():
    source = handful.open(series(), target="sold").windows(8, 4)
    train, valid = held_out(source, HeldOut.of(0.2), seed=3)
    predicted = [set(np.unique(part.rows[:, None] + 8 + np.arange(4))) for part in (train, valid)]
    assert not predicted[0] & predicted[1]
    assert len(train) + len(valid) == len(source) - 3
    assert max(train.rows) < min(valid.rows)


def test_a_model_learns_to_go_on_with_a_series():
    source = handful.open(series(), target="sold").windows(12, 2, order="t")
    run = handful.fit("linear", source, **HOW | {"until": "epochs(60)", "lr": 0.05})
    found = run.predict(handful.open(series(), target="sold").windows(12, 0, order="t"))
    assert found.shape == (289, 2)
    ahead = np.arange(300, 302)
    assert np.abs(found[-1] - (np.sin(ahead / 5) + ahead * 0.01)).max() < 0.5


@pytest.mark.parametrize(
    ("data", "asked", "said"),
    [
        (series(8), (6, 3), "8 rows, too few"),
        (patients(), (3, 1), "need target=, a column of numbers"),
        (series(), (0, 1), "length must be at least 1"),
    ],
)
def test_what_cannot_be_windows_is_said(data, asked, said):
    with pytest.raises(HandfulError, match=said):
        handful.open(data, target="sold" if "sold" in data else "ill").windows(*asked)


def test_a_series_of_its_own_past():
    source = handful.open({"a": torch.arange(1000.0)}).windows(10, target="a")
    batch = source.take(np.arange(900))
    assert batch.tensor("x").shape == (900, 10, 1)
    assert batch.tensor("a").tolist() == list(range(10, 910))


def shops(days=40, count=3, seed=0):
    """Days of several shops, in one table, mixed; shop k opens k days later than the first."""
    rng = np.random.default_rng(seed)
    parts = [
        {"day": np.arange(k, days) * 1.0, "shop": np.full(days - k, 10 * k), "sold": 1000.0 * k + np.arange(k, days)}
        for k in range(count)
    ]
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    mixed = rng.permutation(len(rows["day"]))
    return {name: values[mixed] for name, values in rows.items()}


@pytest.mark.parametrize("names", [False, True])
def test_windows_of_several_series_have_rows_of_one(names):
    rows = shops()
    rows["shop"] = rows["shop"].astype(str) if names else rows["shop"]
    source = handful.open(rows, target="sold").windows(5, 2, order="day", by="shop")
    assert len(source) == sum(40 - k - 5 - 2 + 1 for k in range(3))
    batch = source.take(range(len(source)))
    x, y = batch.tensor("x").numpy()[:, :, 0], batch.tensor("sold").numpy()
    assert batch.tensor("x").shape[2] == 1  # neither the day nor the shop
    np.testing.assert_array_equal(np.diff(np.concatenate([x, y], 1), axis=1), 1)
    assert (np.diff(y[:, 0] % 1000) >= 0).all()  # in the order of time
    expected = {1000.0 * k + day for k in range(3) for day in range(k + 5, 40 - 1)}
    assert set(y[:, 0].tolist()) == expected
    ahead = handful.open(rows, target="sold").windows(5, 0, order="day", by="shop")
    assert sorted(rows["sold"][ahead.last[-3:]]) == [39, 1039, 2039]
    np.testing.assert_array_equal(rows["sold"][ahead.last], ahead.take(range(len(ahead))).tensor("x")[:, -1, 0])


def test_no_series_is_trained_on_what_is_held_out_of_it():
    source = handful.open(shops(), target="sold").windows(5, 4, order="day", by="shop")
    train, valid = held_out(source, HeldOut.of(0.2), seed=3)
    predicted = [set(part.take(range(len(part))).tensor("sold").flatten().tolist()) for part in (train, valid)]
    assert not predicted[0] & predicted[1]
    kept = set(range(len(source))) - set(train.rows) - set(valid.rows)
    assert len(kept) == 3 * 3  # three windows of each shop predict some of the same days
    assert {int(v // 1000) for v in predicted[1]} == {0, 1, 2}


def test_without_an_order_each_series_stands_in_order():
    rows = {"shop": np.repeat([1, 2], 30), "sold": np.concatenate([np.arange(30.0), 100 + np.arange(30.0)])}
    source = handful.open(rows, target="sold").windows(4, 1, by="shop")
    assert source.take(range(4)).tensor("sold").tolist() == [4, 104, 5, 105]


def test_a_run_on_several_series_goes_on_with_each():
    rows = shops(90)
    rows["sold"] = np.sin(rows["day"] / 4 + rows["shop"]) + rows["shop"] / 10
    source = handful.open(rows, target="sold").windows(10, 1, order="day", by="shop")
    run = handful.fit("linear", source, **HOW | {"until": "epochs(80)", "lr": 0.05})
    assert run.scores["valid_r2"] > 0.99
    again = handful.open(rows, target="sold").windows(10, 0, order="day", by="shop")
    last = again.last[-3:]
    np.testing.assert_allclose(
        run.predict(again)[-3:], np.sin(90 / 4 + rows["shop"][last]) + rows["shop"][last] / 10, atol=0.3
    )


@pytest.mark.parametrize(
    ("change", "asked", "said"),
    [
        ({}, {"order": "day"}, "'day' has the same value in .* rows of several series are told apart by by=COLUMN"),
        ({"day": np.array([np.nan, *range(116)])}, {"order": "day", "by": "shop"}, "'day' .* lacks a value in row 0"),
        ({}, {"order": "day", "by": "shp"}, "no column 'shp'.*Did you mean 'shop'"),
        ({"day": np.arange(117) // 9.0}, {"order": "day", "by": "shop"}, "also within one 'shop'"),
        (
            {"day": ["Mon", "Tue", "Wed"] * 39},
            {"order": "day", "by": "shop"},
            "'day' .* is category, so the rows cannot",
        ),
        ({}, {"order": "dey", "by": "shop"}, "no column 'dey'"),
        ({"shop": [None, *["a", "b"] * 58]}, {"order": "day", "by": "shop"}, "'shop' .* lacks a value in row 0"),
        ({"shop": [np.nan, *np.arange(116.0) % 3]}, {"order": "day", "by": "shop"}, "'shop' .* lacks a value in row 0"),
        ({"shop": np.zeros((117, 2))}, {"order": "day", "by": "shop"}, "so series cannot be told by it"),
    ],
)
def test_series_that_cannot_be_told_apart_are_said(change, asked, said):
    rows = shops() | change
    with pytest.raises(HandfulError, match=said):
        handful.open(rows, target="sold").windows(4, 1, **asked)
    with pytest.raises(HandfulError, match="40 rows in the longest series of 'shop', too few for 40 and the next 1"):
        handful.open(shops(), target="sold").windows(40, 1, order="day", by="shop")


def test_gaps_and_short_series_are_said():
    rows = shops()
    keep = ~((rows["shop"] == 0) & (rows["day"] == 20)) & ~((rows["shop"] == 20) & (rows["day"] > 5))
    source = handful.open({k: v[keep] for k, v in rows.items()}, target="sold").windows(4, 1, order="day", by="shop")
    assert any("1 of 79 steps of 'day' are longer than the usual one" in note for note in source.notes)
    assert any("1 of 3 series of 'shop' have fewer than 5 rows: no window" in note for note in source.notes)


@pytest.fixture(scope="module")
def hours(tmp_path_factory):
    """A table of two regions, its rows mixed, as CSV; and the same in order."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("hours")
    moments = np.datetime_as_string(np.datetime64("2024-01-01T00:00") + np.arange(150).astype("timedelta64[h]"))
    rows = [(at.replace("T", " "), r, np.sin(k / 4 + i) * (i + 1) + 0.1 * rng.normal(), k % 7)
            for i, r in enumerate(("north", "south")) for k, at in enumerate(moments)]  # fmt: skip
    lines = [f"{at},{region},{load:.4f},{wind}" for at, region, load, wind in rows]
    path = folder / "hours.csv"
    path.write_text("\n".join(["at,region,load,wind", *(lines[i] for i in rng.permutation(len(lines)))]) + "\n")
    return path, rows


WINDOWED = HOW | {"target": "load", "windows": "12, horizon=2, by=region", "lr": 0.05, "until": "epochs(8)"}


@pytest.fixture(scope="module")
def windowed(hours, tmp_path_factory):
    return handful.fit("linear", str(hours[0]), out=tmp_path_factory.mktemp("windowed") / "run", **WINDOWED)


def test_windows_of_a_file_are_those_of_the_opened_table(hours, windowed):
    path, _ = hours
    by_hand = handful.open(path, target="load").windows(12, 2, order="at", by="region")
    other = handful.fit("linear", by_hand, **{k: v for k, v in WINDOWED.items() if k not in ("windows", "target")})
    for mine, theirs in zip(windowed.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    ahead = handful.open(path, target="load").windows(12, 0, order="at", by="region")
    np.testing.assert_array_equal(windowed.predict(str(path)), windowed.predict(ahead))
    assert windowed.evaluate(str(path)) == windowed.evaluate(by_hand)
    assert any("series in the order of 'at'" in note for note in windowed.plan.notes)
    assert any("window: load, wind of 12 rows; it predicts 'load' in each" in note for note in windowed.plan.notes)


def test_predictions_name_series_and_time_and_need_no_more_than_the_last_rows(hours, windowed, tmp_path):
    path, rows = hours
    write_predictions(handful.load(windowed.path), str(path), tmp_path / "all.csv")
    table = list(csv.DictReader((tmp_path / "all.csv").read_text().splitlines()))
    assert [*table[0]] == ["row", "region", "at", "prediction_1", "prediction_2"]
    lines = path.read_text().splitlines()[1:]
    for row in table[::37]:
        assert lines[int(row["row"])].startswith(f"{row['at'][:16]},{row['region']},")
    last = [r for r in rows if r[1] == "south"][-12:]
    new = [{"at": at, "region": "west", "load": load, "wind": wind} for at, _, load, wind in last]  # another series
    found = windowed.as_function()(new)
    np.testing.assert_allclose(found, windowed.predict(str(path))[-1:], rtol=1e-3)
    with pytest.raises(HandfulError, match="11 rows in the longest series of 'region', too few for 12"):
        windowed.predict(new[1:])


def test_a_run_on_windows_goes_on_from_its_folder(hours, tmp_path):
    whole = handful.fit("linear", str(hours[0]), out=tmp_path / "whole", **WINDOWED | {"valid": str(hours[0])})
    stop = [lambda event, info: "enough" if event == "step" and info["step"] == 20 else None]
    cut_off = WINDOWED | {"valid": str(hours[0]), "callbacks": stop}
    handful.fit("linear", str(hours[0]), out=tmp_path / "cut", **cut_off)
    cut = handful.resume(tmp_path / "cut", quiet=True)
    for mine, theirs in zip(cut.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_whole_series_or_the_last_windows_are_held_out(hours):
    source = handful.open(hours[0], target="load").windows(12, 2, by="region")
    train, valid = held_out(source, HeldOut.of("0.5 by region"))
    regions = [{*source.series[source.last[part.rows]].tolist()} for part in (train, valid)]
    assert sorted(regions, key=min) == [{0}, {1}]
    by_time, plain = (held_out(source, HeldOut.of(asked)) for asked in ("last 0.2 by at", "last 0.2"))
    assert [part.rows.tolist() for part in by_time] == [part.rows.tolist() for part in plain]
    with pytest.raises(HandfulError, match="not by 'wind'"):
        held_out(source, HeldOut.of("0.2 by wind"))


@pytest.mark.parametrize("asked", ["a day", "24, horizn=2", 0.5, {"horizon": 2}, "12, by"])
def test_windows_that_are_not_understood_are_said(hours, asked):
    with pytest.raises(HandfulError, match="windows says how many rows the model gets"):
        handful.fit("linear", str(hours[0]), **WINDOWED | {"windows": asked})
