"""Several table files of one schema, in a folder or named by a pattern, are one table."""

import gzip

import numpy as np
import pandas as pd
import pytest

import handful
from handful.base.errors import HandfulError


@pytest.fixture(scope="module")
def frame():
    g = np.random.default_rng(0)
    x = g.normal(size=(90, 2))
    return pd.DataFrame(x, columns=["p", "q"]).assign(n=g.integers(0, 9, 90), y=np.where(x[:, 0] > 0, "up", "down"))


def thirds(frame):
    return [frame.iloc[k * 30 : (k + 1) * 30] for k in range(3)]


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet", "feather", "jsonl", "json"])
def test_the_parts_of_a_table_are_that_table(frame, tmp_path, kind):
    for k, part in enumerate(thirds(frame)):
        file = tmp_path / f"train-0000{k}-of-00003.{kind}"
        part = part.reset_index(drop=True)
        if kind == "csv.gz":
            file.write_bytes(gzip.compress(part.to_csv(index=False).encode()))
        elif kind in ("json", "jsonl"):
            part.to_json(file, orient="records", lines=kind == "jsonl", double_precision=15)
        else:
            getattr(part, f"to_{kind}")(file, **{"index": False} if kind != "feather" else {})
    (tmp_path / "_SUCCESS").touch()  # as Spark leaves it
    for where in (tmp_path, tmp_path / f"train-*.{kind}"):
        source = handful.open(where, target="y")
        assert len(source) == 90
        rows = source.take(range(90))
        np.testing.assert_allclose(rows["p"].numpy(), frame["p"], rtol=1e-12)
        np.testing.assert_array_equal(rows["n"].numpy(), frame["n"])
        assert [source.columns["y"].classes[i] for i in rows["y"].tolist()] == frame["y"].tolist()
        assert any("3 files are read as one table" in note for note in source.notes)


def test_folders_that_state_a_value_are_columns(frame, tmp_path):
    frame.assign(year=2000 + np.arange(90) % 3).to_parquet(tmp_path, partition_cols=["year", "y"], index=False)
    source = handful.open(tmp_path, target="y")
    rows = source.take(range(90))
    found = pd.DataFrame({k: rows[k].numpy() for k in ("p", "q", "n", "year")})
    found["y"] = [source.columns["y"].classes[i] for i in rows["y"].tolist()]
    expected = frame.assign(year=2000 + np.arange(90) % 3)[list(found)]
    store = handful.prepare(tmp_path, tmp_path.with_name("store"), target="y")
    assert set(store.columns) == set(source.columns)
    pd.testing.assert_frame_equal(
        found.sort_values("p").reset_index(drop=True), expected.sort_values("p").reset_index(drop=True),
        check_dtype=False,
    )  # fmt: skip


def test_a_column_takes_the_type_that_holds_all_parts(tmp_path):
    (tmp_path / "a1.csv").write_text("x,z,y\n1,1,0\n2,2,1\n")
    (tmp_path / "a2.csv").write_text("x,z,y\n1.5,b,0\n2.5,c,1\n")
    source = handful.open(tmp_path, target="y")
    assert source.take(range(4))["x"].tolist() == [1, 2, 1.5, 2.5]
    assert source.columns["z"].kind in ("category", "text")


def test_it_is_trained_on_resumed_and_predicted(frame, tmp_path):
    (tmp_path / "data").mkdir()
    for k, part in enumerate(thirds(frame)):
        part.to_csv(tmp_path / "data" / f"part_{k}.csv", index=False)
    options = {"target": "y", "quiet": True, "seed": 1, "batch": 16, "lr": 0.05}
    run = handful.fit("linear", tmp_path / "data", until="epochs(2)", out=tmp_path / "run", **options)
    frame.to_csv(tmp_path / "whole.csv", index=False)
    whole = handful.fit("linear", tmp_path / "whole.csv", until="epochs(2)", **options)
    for a, b in zip(run.model.parameters(), whole.model.parameters(), strict=True):
        assert a.equal(b)
    more = handful.resume(tmp_path / "run", until="epochs(4)", quiet=True)
    assert more.history[-1]["epoch"] >= 4
    assert more.evaluate(tmp_path / "data" / "part_*.csv")["accuracy"] > 0.8
    assert len(more.predict(tmp_path / "data")) == 90


def test_it_can_be_prepared(frame, tmp_path):
    (tmp_path / "data").mkdir()
    for k, part in enumerate(thirds(frame)):
        part.to_csv(tmp_path / "data" / f"part_{k}.csv", index=False)
    assert len(handful.prepare(tmp_path / "data", tmp_path / "store", target="y")) == 90


def test_tables_that_do_not_belong_together_are_left_apart(frame, tmp_path):
    frame.to_csv(tmp_path / "train.csv", index=False)
    frame.to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(HandfulError, match=r"open one of them, or those that belong together, as in .*\*\.csv"):
        handful.open(tmp_path)
    assert len(handful.open(tmp_path / "*.csv")) == 180
    for month in ("may", "june"):
        (tmp_path / month).mkdir()
        frame.to_csv(tmp_path / month / "sales.csv", index=False)
    assert len(handful.open(tmp_path / "*" / "sales.csv")) == 180
    assert len(handful.open(tmp_path / "**" / "*.csv")) == 360


def test_what_cannot_be_joined_is_named(frame, tmp_path):
    frame.to_csv(tmp_path / "a1.csv", index=False)
    frame.rename(columns={"q": "r"}).to_csv(tmp_path / "a2.csv", index=False)
    with pytest.raises(HandfulError, match=r"/a1.csv has a column 'q' and .*/a2.csv has none"):
        handful.open(tmp_path)
    with pytest.raises(HandfulError, match=r"no file matches '.*b\*.csv'"):
        handful.open(tmp_path / "b*.csv")
    (tmp_path / "folder").mkdir()
    with pytest.raises(HandfulError, match=r"fold\*' names folders alone"):
        handful.open(tmp_path / "fold*")
    (tmp_path / "l1.jsonl").write_text('{"x": [1, 2], "y": 0}\n')
    (tmp_path / "l2.jsonl").write_text('{"x": "a", "y": 0}\n')
    with pytest.raises(HandfulError, match=r"l2.jsonl: column 'x' is .* there but .* in .*/l1.jsonl: make it one type"):
        handful.open(tmp_path / "l*.jsonl")
    (tmp_path / "a3.arff").write_text("x")
    with pytest.raises(HandfulError, match=r"names a3.arff, which is not a table"):
        handful.open(tmp_path / "a*")
    (tmp_path / "empty1.csv").write_text("")
    with pytest.raises(HandfulError, match=r"empty1.csv is empty"):
        handful.open(tmp_path / "empty*.csv")
