"""columns=: what is learned from is named, or what is not; the same in every container, at every later reading."""

import numpy as np
import pandas as pd
import pytest

import handful
from handful.base.errors import HandfulError

FEW = {"target": "rent", "until": "steps(40)", "batch": 16, "lr": 0.01, "quiet": True}


def homes(n=120):
    rng = np.random.default_rng(0)
    area, rooms = rng.normal(80, 20, n).round(1), rng.integers(1, 6, n)
    rent = (11 * area + 40 * rooms + rng.normal(0, 20, n)).round(2)
    ids, agents = np.arange(n) + 7000, rng.choice(["A", "B"], n)
    return pd.DataFrame({"id": ids, "area": area, "rooms": rooms, "agent": agents, "bill": rent * 12, "rent": rent})


@pytest.fixture
def containers(tmp_path):
    frame = homes()
    frame.to_csv(tmp_path / "homes.csv", index=False)
    frame.to_parquet(tmp_path / "homes.parquet")
    return [tmp_path / "homes.csv", tmp_path / "homes.parquet", frame, frame.to_dict("list"), frame.to_dict("records")]


@pytest.mark.parametrize(
    ("columns", "used"),
    [
        ("-bill, -agent", ["area", "rooms"]),
        (["-bill"], ["area", "rooms", "agent"]),
        ("rooms,area", ["rooms", "area"]),
        (["id", "agent"], ["id", "agent"]),  # an identifier that is named is kept
    ],
)
def test_columns_are_named_or_left_out(containers, columns, used):
    predicted = []
    for where in containers:
        run = handful.fit("table", where, columns=columns, **FEW)
        assert sorted(run.pipeline.uses) == sorted(used)
        assert run.plan.choices["columns"].status == "given"
        predicted.append(run.predict(where))
        assert np.isfinite(run.evaluate(where)["r2"])
    for values in predicted:
        np.testing.assert_array_equal(values, predicted[0])
    only = homes()[[name for name in homes() if name in (*used, "rent")]]
    same = handful.fit("table", handful.open(only, target="rent", columns=list(only)), columns=None, **FEW)
    if "id" not in used:
        np.testing.assert_array_equal(same.predict(only), predicted[0])


def test_a_run_goes_on_with_the_columns_that_it_had(tmp_path):
    frame = homes()
    handful.fit("table", frame, columns="-bill", out=tmp_path / "run", **FEW)
    more = handful.resume(tmp_path / "run", train=frame, until="steps(60)", quiet=True)
    assert sorted(more.pipeline.uses) == ["agent", "area", "rooms"]
    with pytest.raises(HandfulError, match="columns is '-bill' in this run and stays so"):
        handful.resume(tmp_path / "run", train=frame, columns="area", until="steps(80)", quiet=True)


def test_what_else_training_needs_is_read_beside_them(tmp_path):
    for more in ({"weight": "rooms"}, {"valid": "0.3 by agent"}, {"shuffle": "weighted by rooms"}):
        run = handful.fit("table", homes(), columns=["area"], **FEW, **more)
        assert list(run.pipeline.uses) == ["area"], more
    run = handful.fit("mlp", homes(), columns="area,id", target="rent, bill", until=10, batch=16, lr=0.01, quiet=True)
    assert run.predict(homes()).shape == (120, 2)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("-bil", "has no column 'bil'. Did you mean 'bill'?"),
        ("bil", "has no column 'bil'"),
        ("area, -bill", "with a minus in front of each, all to leave out, not 'area', '-bill'"),
        ("", "not ''"),
        ([], "columns must be names of columns, 'rooms, area' or '-id', not []"),
        (3, "columns must be names of columns"),
        ("-rent", "'rent' is the target, so it cannot be left out"),
        ("-id,-area,-rooms,-agent,-bill", "leaves nothing of DataFrame to learn from"),
    ],
)
def test_names_that_cannot_be(columns, said):
    with pytest.raises(HandfulError) as refused:
        handful.fit("table", homes(), columns=columns, **FEW)
    assert said in str(refused.value)


def test_the_command_line_names_them_too(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    homes().to_csv("homes.csv", index=False)
    train = ["train", "homes.csv", "--target", "rent", "--dry-run", "--columns"]
    status, out, _ = command(*train, "-bill")
    assert status == 0
    assert "Left out, as asked: bill." in out
    status, _, err = command(*train, "-bil")
    assert (status, err) == (2, "handful: homes.csv has no column 'bil'. Did you mean 'bill'?\n")
