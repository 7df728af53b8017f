"""Whole numbers that are names (user_id, store) are learned as categories, whatever the rows come in."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.testing import assert_array_equal
from pyarrow import parquet

import handful
from handful.base.errors import HandfulError
from handful.transform.names import Named, names_in

N, SHOPS = 3000, 60
SHORT = {"batch": 64, "lr": 0.01, "until": 6, "quiet": True, "deterministic": True}


def sales(name="store", of_shop=1.0, seed=0):
    """Each shop sells at its own level; shops are numbered without order."""
    draw = np.random.default_rng(seed)
    shop, day = 1000 + 7 * draw.integers(0, SHOPS, N), draw.integers(0, 30, N)
    level = np.random.default_rng(9).normal(size=1000 + 7 * SHOPS)
    y = of_shop * level[shop] + 0.05 * day + 0.3 * draw.normal(size=N)
    return pd.DataFrame({name: shop, "stock": day, "y": y})


@pytest.mark.parametrize(
    ("name", "of_shop", "found"),
    [("shop_id", 1, True), ("shopId", 1, True), ("shop_id", 0, True), ("store", 1, True), ("store", 0, False),
     ("paid", 0, False), ("weight", 1, False), ("year", 1, False), ("门店编号", 0, True)],
)  # fmt: skip
def test_which_columns_are_names(name, of_shop, found):
    rows = handful.open(sales(name, of_shop), target="y")
    assert list(names_in(rows)[0]) == ([name] if found else [])
    assert names_in(rows, [name])[0] == {}


def accounts(first, step=1):
    rng = np.random.default_rng(0)
    which = rng.integers(0, 3, 300)
    return which, pd.DataFrame(
        {"account": [first + step * int(k) for k in which], "y": which + 0.01 * rng.normal(size=300)}
    )


@pytest.mark.parametrize("first", [2**60, 2**64 - 3, 2**63 - 1, -(2**60)])
def test_numbers_too_long_for_a_float_are_names(first, tmp_path):
    """As account numbers, ids of messages and hashes: 2**60 and 2**60 + 1 are one float64, and were one constant."""
    _, frame = accounts(first)
    names = tuple(sorted(str(first + k) for k in range(3)))
    whole = [int(v) for v in frame["account"]]
    kind = pa.int64() if first + 2 < 2**63 else pa.uint64()
    frame.to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "t.jsonl").write_text("".join(f'{{"account": {v}, "y": {y}}}\n' for v, y in zip(whole, frame["y"])))
    table = pa.table({"account": pa.array(whole, kind), "y": frame["y"]})
    parquet.write_table(table, tmp_path / "t.parquet")
    gap = [None, *whole[1:]]
    ways = {
        "frame": frame, "objects": frame.astype({"account": object}), "arrow": table, "polars": pl.from_arrow(table),
        "dict": {"account": table["account"].to_numpy(), "y": frame["y"].to_numpy()},
        "lists": {"account": whole, "y": frame["y"].tolist()}, "rows": frame.to_dict("records"),
        "decimals": table.set_column(0, "account", table["account"].cast(pa.decimal128(20, 0))),
        "gap": table.set_column(0, "account", pa.array(gap, kind)), "gap in a list": {"account": gap, "y": frame["y"]},
        "gap in objects": pd.DataFrame({"account": pd.Series(gap, dtype=object), "y": frame["y"]}),
        **{ending: tmp_path / f"t.{ending}" for ending in ("csv", "jsonl", "parquet")},
    }  # fmt: skip
    for way, data in ways.items():
        rows = handful.open(data, target="y")
        assert rows.columns["account"].classes == names, way
        assert any("too long for amounts" in note for note in rows.notes), way
    run = handful.fit("auto", ways["csv"], target="y", until="epochs(20)", quiet=True)
    found = np.asarray(run.predict(ways["csv"]))
    assert np.corrcoef(frame["y"], found)[0, 1] > 0.99
    for way, data in ways.items():
        assert_array_equal(np.asarray(run.predict(data))[1:], found[1:], err_msg=way)


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("first", [2**60, 2**64 - 3])
def test_a_store_has_the_same_names(kind, first, tmp_path, monkeypatch):
    monkeypatch.setattr("handful.data.store.inputs.SMALL", 0)
    _, frame = accounts(first)
    getattr(frame, f"to_{kind.replace('jsonl', 'json')}")(
        tmp_path / f"t.{kind}", **({"orient": "records", "lines": True} if kind == "jsonl" else {"index": False})
    )
    opened = handful.open(tmp_path / f"t.{kind}", target="y")
    store = handful.prepare(tmp_path / f"t.{kind}", tmp_path / "store", target="y")
    assert store.columns["account"] == opened.columns["account"]
    assert_array_equal(store.take(range(300))["account"], opened.take(range(300))["account"])


def test_names_that_come_as_floats_are_told_where_one_alone_rounds_so():
    _, frame = accounts(2**63, 4096)
    run = handful.fit("auto", frame, target="y", until="epochs(20)", quiet=True)
    floats = {"account": frame["account"].astype(float)}
    assert_array_equal(np.asarray(run.predict(floats)), np.asarray(run.predict(frame)))
    opened = handful.open(floats, columns={"account": handful.open(frame, target="y").columns["account"]})
    assert any("floats, which are not exact from 2^53 on" in note for note in opened.notes)
    _, frame = accounts(2**63)
    run = handful.fit("auto", frame, target="y", until="steps(5)", quiet=True)
    with pytest.raises(HandfulError, match="may be '9223372036854775808' or '9223372036854775809'"):
        run.predict({"account": frame["account"].astype(float)})


def test_long_numbers_that_are_no_names_stay_numbers():
    rng = np.random.default_rng(0)
    moments = 1_700_000_000_000_000_000 + rng.integers(0, 20, 300) * 1_000_000
    each = rng.integers(2**62, 2**63, 300)
    y = rng.normal(size=300)
    for name, values in {"ts": moments, "count": each, "hour": moments + 1}.items():
        assert handful.open({name: values, "y": y}, target="y").columns[name].kind == "number"
    near = handful.open({"a": np.uint64(2**64 - 1) - np.arange(300, dtype=np.uint64), "b": y, "y": y}, target="y")
    assert "column 'a' was left out: it is about 1.8446744073709552e+19 in every row." in near.notes


def test_an_order_that_says_something_is_kept():
    rows = sales("group", 0)
    rows["y"] += rows["group"] / 100
    assert names_in(handful.open(rows, target="y"))[0] == {}


def test_classes_and_labels_as_targets_tell_too():
    rows = sales()
    rows["y"] = np.where(rows["y"] > 1, "much", "little")
    assert list(names_in(handful.open(rows, target="y"))[0]) == ["store"]
    several = handful.open(
        {"store": rows["store"], "y": np.stack([rows["y"] == "much"] * 2, 1).astype(int)}, target="y"
    )
    assert list(names_in(several)[0]) == ["store"]


def test_values_are_coded_by_the_text_that_they_are():
    base = handful.open({"shop": [100, 9, 20, 9], "y": [0.5, 1.5, 2.5, 3.5]}, target="y")
    rows = Named(base, {"shop": np.array([9, 20, 100])})
    shop = rows.columns["shop"]
    assert [shop.classes[code] for code in rows.take([0, 1, 2, 3])["shop"]] == ["100", "9", "20", "9"]
    assert_array_equal(rows.take([1, 2], ["shop"])["shop"], rows.take([1, 2])["shop"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    sales().to_csv(folder / "sales.csv", index=False)
    return folder, handful.fit("table(members=1)", str(folder / "sales.csv"), target="y", out=folder / "run", **SHORT)


def test_new_rows_are_read_so_in_every_container(trained):
    folder, run = trained
    assert any("'store' holds whole numbers that stand for names" in note for note in run.plan.notes)
    new = sales(seed=1).head(50)
    new.to_csv(folder / "new.csv", index=False)
    new.to_parquet(folder / "new.parquet")
    expected = run.predict(new)
    total = ((new["y"] - new["y"].mean()) ** 2).sum()
    assert 1 - ((new["y"] - expected) ** 2).sum() / total > 0.8  # as a number: below 0.2
    loaded = handful.load(folder / "run")
    for rows in (str(folder / "new.csv"), str(folder / "new.parquet"), new.to_dict("list"), new.to_dict("records")):
        assert_array_equal(loaded.predict(rows), expected)
    assert_array_equal(run.predict(handful.open(str(folder / "new.csv"), target="y")), expected)
    one = {"store": int(new["store"][0]), "stock": int(new["stock"][0])}
    assert run.predict(one) == pytest.approx(expected[:1], rel=1e-5)
    assert run.evaluate(str(folder / "new.csv"))["r2"] > 0.8


def test_a_run_goes_on_with_the_same_names(trained):
    folder, _ = trained
    again = handful.resume(folder / "run", until="epochs(7)")
    assert again.stopped_because == "reached 7 epochs"


def test_a_model_of_the_callers_own_gets_the_numbers():
    import torch

    seen = []

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.out = torch.nn.Linear(1, 1)

        def forward(self, shop_id, stock):
            seen.append(shop_id.max().item())
            return self.out(stock[:, None].float())

    handful.fit(Net(), sales("shop_id"), target="y", **SHORT)
    assert max(seen) > 1000


X = np.random.default_rng(0).normal(size=300)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.where(np.arange(300) % 20 == 0, -999, 500 + 4500 * np.abs(X)), "'a' is -999 in 15 of 300 rows"),
        (np.where(np.arange(300) % 50 == 0, 9999, 15 + 3 * X), "'a' is 9999 in 6 of 300 rows"),
        (np.where(np.arange(300) % 50 == 0, -99, np.abs(X).round()), "'a' is -99 in 6 of 300 rows"),
        (np.where(np.arange(300) == 0, 9999, 15 + 3 * X), ""),  # one row
        (np.where(np.arange(300) % 20 == 0, 999, np.linspace(5, 998, 300)), ""),  # among the others
        (np.where(np.arange(300) % 20 == 0, -1, np.abs(X).round()), ""),
    ],
)
@pytest.mark.parametrize("place", ["input", "target"])
def test_numbers_that_stand_for_missing_ones_are_said(values, said, place):
    data = {"a": values.round(2), "b": X} if place == "input" else {"b": X, "y": values.round(2)}
    data |= {"y": X + np.random.default_rng(1).normal(size=300)} if place == "input" else {}
    notes = handful.fit("linear", data, target="y", task="regression", valid=0, **SHORT).plan.notes
    found = [note for note in notes if "stands for a missing value" in note]
    assert [note.partition(",")[0] for note in found] == (
        [said.replace("'a'", "'y'" if place == "target" else "'a'")] if said else []
    )


LEAKS = {
    "code of the class": (np.where(X > 0, 7, 3), np.where(X > 0, "yes", "no"), True),
    "name of the class": (np.where(X > 0, "paid", "open"), np.where(X > 0, "yes", "no"), True),
    "bound": (X, np.where(X > 0.3, "yes", "no"), True),
    "converted": ((1.1 * X + 3).round(4), X.round(4), True),
    "squared": (X, X**2, True),
    "nearly": (X + 0.1 * np.random.default_rng(1).normal(size=300), X, False),
    "but for one row": (np.where(np.arange(300) == 9, 9 - 18 * (X > 0.3), X), np.where(X > 0.3, "yes", "no"), False),
}


@pytest.mark.parametrize("kind", LEAKS)
def test_an_input_that_tells_the_target_alone_is_named_and_can_be_left_out(kind):
    values, y, told = LEAKS[kind]
    data = pd.DataFrame({"other": np.random.default_rng(2).normal(size=300), "a": values, "y": y})
    due = "'y' is told by 'a' alone: if that is not known where predictions are made, leave it out: columns='-a'."
    assert (due in handful.fit("linear", data, target="y", valid=0, **SHORT).plan.notes) == told
    run = handful.fit("linear", data, target="y", columns="-a", **SHORT)
    assert run.pipeline.uses == ("other",)
    assert due not in run.plan.notes


@pytest.mark.parametrize("way", ["gap", "floats", "csv"])
def test_ids_that_a_gap_made_floats_are_names(way, tmp_path):
    """As pandas and Stata have them; a table of visits has two or more of each person, and not many."""
    draw = np.random.default_rng(0)
    person = draw.integers(0, 250, 800)
    level = draw.normal(size=250)[person]
    frame = pd.DataFrame(
        {"person_id": person * 3.0, "age": draw.normal(size=800), "y": level + draw.normal(size=800) / 9}
    )
    frame.loc[3, "person_id"] = np.nan if way in ("gap", "csv") else 0.0
    frame.to_csv(tmp_path / "t.csv", index=False)
    data = tmp_path / "t.csv" if way == "csv" else frame
    found, notes = names_in(handful.open(data, target="y"))
    assert set(found["person_id"].tolist()) == {*(frame["person_id"].dropna().astype(int))}
    assert any("as its name says" in note for note in notes)
    run = handful.fit("auto", data, target="y", until="steps(30)", batch=64, lr=0.01, quiet=True)
    wanted = np.asarray(run.predict(data))
    whole = frame.assign(person_id=frame["person_id"].astype("Int64"))
    assert_array_equal(np.asarray(run.predict(whole)), wanted)
    assert_array_equal([run.predict(whole.iloc[[k]])[0] for k in (0, 3, 5)], wanted[[0, 3, 5]])
    odd = frame.assign(person_id=frame["person_id"] + 0.5)
    assert "person_id" not in names_in(handful.open(odd, target="y"))[0]
