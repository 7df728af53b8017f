"""Data that are not as those of training: another unit, another time, names that training had not, all said."""

import numpy as np
import pandas as pd
import pytest

import handful


def rows(n=300, seed=0):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {"h": rng.normal(170, 8, n), "pay": rng.lognormal(8, 2, n), "city": rng.choice(list("abc"), n)}
    )
    frame["day"] = pd.date_range("2019-01-01", periods=n, freq="6h").astype(str)
    return frame.assign(y=frame.h + 3 * (frame.city == "a"))


CHANGES = {
    "h": lambda f: f.assign(h=f.h / 100),
    "city": lambda f: f.assign(city=f.city.where(f.index % 2 == 0, "z")),
    "day": lambda f: f.assign(day=pd.date_range("2031-01-01", periods=len(f), freq="6h").astype(str)),
    "pay": lambda f: f.assign(pay=f.pay * 1e9),
}
SAID = {
    "h": "(1.702 in",
    "city": "values not seen before in 50 rows (first 'z')",
    "day": "2031-0",
    "pay": "'pay' is far",
}


@pytest.fixture(scope="module")
def run():
    return handful.fit("linear", handful.open(rows(), "y"), until="steps(50)", quiet=True)


@pytest.mark.parametrize("name", CHANGES)
def test_what_changed_is_named_and_nothing_else(name, run, capsys):
    changed = CHANGES[name](rows(100, seed=1))
    run.evaluate(changed)
    said = [line for line in capsys.readouterr().err.splitlines() if "far from" in line or "not seen" in line]
    assert len(said) == 1
    assert f"'{name}'" in said[0]
    assert SAID[name] in said[0]
    assert any(f"'{name}'" in note for note in run.evaluation(changed).notes)
    run.predict(changed)
    assert [line for line in capsys.readouterr().err.splitlines() if SAID[name] in line] == said
    again = handful.fit("linear", handful.open(rows(), "y"), valid=changed, until="steps(2)", quiet=True)
    assert any(SAID[name] in note for note in again.plan.notes)


def test_like_data_are_not_remarked_on(run, capsys):
    run.evaluate(rows(200, seed=2))
    assert not capsys.readouterr().err
    run.predict(rows(200, seed=2))
    run.as_function()({"h": 170.0, "pay": 2000.0, "city": "z", "day": "2019-01-02"})
    assert not capsys.readouterr().err
    run.predict({"h": 170.0, "pay": 2000.0, "city": "z", "day": "2019-01-02"})
    assert "'city' has values not seen before in a row (first 'z')" in capsys.readouterr().err
