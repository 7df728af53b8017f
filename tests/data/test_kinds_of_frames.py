"""The column types of pandas, polars and Arrow: each is read, in a frame, a file and alone."""

import dataclasses
import datetime
import decimal
import re
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import handful
from handful.base.errors import HandfulError

ROWS = 40
Y = [k % 2 for k in range(ROWS)]
AB = [None if k == 3 else "ab"[k % 2] for k in range(ROWS)]
CODES = [-1 if k == 3 else k % 2 for k in range(ROWS)]
GAPS = [np.nan if k == 3 else k for k in range(ROWS)]
NUMBERS = [None if k == 3 else k for k in range(ROWS)]
DAYS = [datetime.date(2020, 1, 1) + datetime.timedelta(days=k) for k in range(ROWS)]
SECONDS = [pd.Timestamp(day).timestamp() for day in DAYS]
MONTHS = pd.period_range("2020-01", periods=ROWS, freq="M")

PANDAS = {
    "Int64": (pd.array(NUMBERS, dtype="Int64"), GAPS),
    "Float32": (pd.array(NUMBERS, dtype="Float32"), GAPS),
    "boolean": (pd.array([None if k == 3 else k % 2 == 0 for k in range(ROWS)], dtype="boolean"),
                [np.nan if k == 3 else float(k % 2 == 0) for k in range(ROWS)]),
    "string": (pd.array(AB, dtype="string"), CODES),
    "string[python]": (pd.array(AB, dtype="string[python]"), CODES),
    "large_string": (pd.array(AB, dtype=pd.ArrowDtype(pa.large_string())), CODES),
    "decimal": (pd.array([decimal.Decimal(k) / 4 for k in range(ROWS)], dtype=pd.ArrowDtype(pa.decimal128(9, 2))),
                [k / 4 for k in range(ROWS)]),
    "category": (pd.Categorical(AB), CODES),
    "timedelta": (pd.to_timedelta(range(ROWS), unit="h"), [3600 * k for k in range(ROWS)]),
    "period of months": (MONTHS, [month.start_time.timestamp() for month in MONTHS]),
    "period of quarters": (pd.period_range("2001Q1", periods=ROWS, freq="Q"),
                           [q.start_time.timestamp() for q in pd.period_range("2001Q1", periods=ROWS, freq="Q")]),
    "period of days": (pd.period_range("2020-01-01", periods=ROWS, freq="D"), SECONDS),
    "dates": (DAYS, SECONDS),
    "cut": (pd.cut(np.arange(ROWS), [-1, 9, 19, 50]), np.digitize(np.arange(ROWS), [10, 20])),
    "lists of one": ([[float(k)] for k in range(ROWS)], [[float(k)] for k in range(ROWS)]),
}  # fmt: skip
POLARS = {
    "strings": (pl.Series(AB), CODES),
    "categories": (pl.Series(AB, dtype=pl.Categorical), CODES),
    "enum": (pl.Series(AB, dtype=pl.Enum(["a", "b"])), CODES),
    "dates": (pl.Series(DAYS), SECONDS),
    "durations": (pl.Series([datetime.timedelta(hours=k) for k in range(ROWS)]), [3600 * k for k in range(ROWS)]),
    "decimals": (pl.Series([decimal.Decimal(k) / 4 for k in range(ROWS)]), [k / 4 for k in range(ROWS)]),
    "arrays": (pl.Series([[k, 1] for k in range(ROWS)], dtype=pl.Array(pl.Int32, 2)), [[k, 1] for k in range(ROWS)]),
    "numbers": (pl.Series(NUMBERS), GAPS),
}


def same(where, expected):
    source = handful.open(where, target="y")
    np.testing.assert_array_equal(source.take(range(ROWS), ["c"]).tensor("c").numpy(), expected)
    return source.columns["c"]


@pytest.mark.parametrize("kind", PANDAS)
def test_pandas(kind, tmp_path):
    values, expected = PANDAS[kind]
    frame = pd.DataFrame({"c": values, "x": np.arange(ROWS) / 7, "y": Y})
    column = same(frame, expected)
    assert same({name: frame[name] for name in frame}, expected) == column
    if kind != "cut":  # which Arrow cannot write
        frame.to_parquet(tmp_path / "a.parquet")
        assert same(tmp_path / "a.parquet", expected) == column
        store = handful.prepare(tmp_path / "a.parquet", tmp_path / "s", target="y")
        assert store.columns["c"] == column


@pytest.mark.parametrize("kind", POLARS)
def test_polars(kind, tmp_path):
    values, expected = POLARS[kind]
    frame = pl.DataFrame({"c": values, "x": np.arange(ROWS) / 7, "y": Y})
    column = same(frame, expected)
    assert same({name: frame[name] for name in frame.columns}, expected) == column
    frame.write_parquet(tmp_path / "a.parquet")
    frame.write_ipc(tmp_path / "a.arrow", compression="zstd")
    frame.write_ipc(tmp_path / "b.arrow", compression="lz4")
    frame.write_ipc_stream(tmp_path / "c.arrow")
    for name in ("a.parquet", "a.arrow", "b.arrow", "c.arrow"):
        assert same(tmp_path / name, expected) == column, name
    assert handful.prepare(tmp_path / "a.arrow", tmp_path / "s", target="y").columns["c"] == column


def test_intervals_are_their_ends(tmp_path):
    frame = pd.DataFrame({"c": pd.arrays.IntervalArray.from_breaks(range(ROWS + 1)), "y": Y})
    frame.to_parquet(tmp_path / "a.parquet")
    for where in (frame, tmp_path / "a.parquet"):
        source = handful.open(where, target="y")
        assert list(source.columns) == ["c.left", "c.right", "y"]
        assert source.take([5])["c.right"].tolist() == [6]


def test_classes_of_cut_are_named_as_pandas_names_them():
    cut = pd.cut(np.arange(ROWS) * 1.0, [0, 10, 20.5, 50], right=False)
    source = handful.open(pd.DataFrame({"c": cut, "y": Y}), target="y")
    assert source.columns["c"].classes == tuple(map(str, cut.categories))


def test_periods_in_a_file_are_dates_where_pandas_is_not_loaded(tmp_path):
    pd.DataFrame({"c": MONTHS, "y": Y}).to_parquet(tmp_path / "a.parquet")
    script = "import sys, handful; s = handful.open(sys.argv[1], target='y'); print(*s.take([0, 1])['c'].tolist())"
    command = [sys.executable, "-c", script, str(tmp_path / "a.parquet")]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert out.split() == [str(month.start_time.timestamp()) for month in MONTHS[:2]]


def test_texts_and_numbers_side_by_side_are_what_a_file_of_them_is(tmp_path):
    cells = [[1, "one", 2.5, None, np.float64("nan"), True, np.int64(7)][k % 7] for k in range(70)]
    frame = pd.DataFrame({"m": pd.Series(cells, dtype=object), "a": np.arange(70.0), "y": [0, 1] * 35})
    frame.to_csv(tmp_path / "t.csv", index=False)
    ids = [uuid.UUID(int=k % 3) for k in range(70)]
    source, file = handful.open(frame, target="y"), handful.open(tmp_path / "t.csv", target="y")
    for found in (source, handful.open({"m": cells, "a": np.arange(70.0), "y": [0, 1] * 35}, target="y")):
        assert found.columns["m"].classes == file.columns["m"].classes == ("1", "2.5", "7", "True", "one")
        assert found.take(range(70)).tensor("m").tolist() == file.take(range(70)).tensor("m").tolist()
    few = handful.open(frame.assign(m=["?" if k == 7 else "x" if k == 9 else float(k) for k in range(70)]), target="y")
    assert few.columns["m"].kind == "number"
    assert few.take(range(70)).tensor("m").isnan().nonzero().flatten().tolist() == [7, 9]
    assert handful.open(frame.assign(m=ids), target="y").columns["m"].classes == tuple(map(str, ids[:3]))


NUMBERED = [1, "2", 3.5, " 4 ", None, "1e3", np.int64(7), 1, 1, 1]


@pytest.mark.parametrize(
    "made",
    [
        pd.DataFrame,
        dict,
        lambda d: [dict(zip(d, row)) for row in zip(*d.values())],
        lambda d: {k: pd.Series(v) for k, v in d.items()},
    ],
)
def test_numbers_of_which_some_came_as_text_are_numbers(made):
    """As a spreadsheet has them where someone typed a mark in front: one made the column a category."""
    y = [0, 1] * 20
    source = handful.open(made({"a": NUMBERED * 4, "y": y}), target="y")
    expected = [1.0, 2.0, 3.5, 4.0, np.nan, 1000.0, 7.0, 1.0, 1.0, 1.0]
    np.testing.assert_array_equal(source.take(range(10)).tensor("a").numpy(), expected)
    codes = handful.open(made({"a": [1, "02", 3, "4"] * 10, "y": y}), target="y")
    assert codes.columns["a"].classes == ("02", "1", "3", "4")
    days = made({"a": [datetime.date(2020, 1, 1 + k % 28) if k % 10 else "2020-02-01" for k in range(40)], "y": y})
    assert handful.open(days, target="y").take([0, 1]).tensor("a").tolist() == [1580515200.0, 1577923200.0]


def test_categories_of_several_types_are_named_as_a_file_of_them_would():
    """As pandas reads a file of Stata's in which some values have labels, and others have none (it was refused)."""
    values = [["low", 9.0, "high", "low"][k % 4] for k in range(40)]
    frame = pd.DataFrame({"a": pd.Categorical(values), "y": [0, 1] * 20})
    source = handful.open(frame, target="y")
    assert source.columns["a"].classes == ("9.0", "high", "low")
    assert source.take(range(4)).tensor("a").tolist() == [2, 0, 1, 2]
    coded = frame.assign(a=pd.Categorical([["refused", 31, 42, 53][k % 4] if k < 4 else k for k in range(40)]))
    assert handful.open(coded, target="y").take([0, 1, 39]).tensor("a").isnan().tolist() == [True, False, False]


TOLD = [b"no", "\u00e9t\u00e9".encode(), b"", b"no"] * 10


@pytest.mark.parametrize(
    "made",
    [
        lambda v: {"a": v},
        lambda v: {"a": np.array(v)},
        lambda v: {"a": np.array(v, dtype=object)},
        lambda v: pd.DataFrame({"a": v}),
        lambda v: pl.DataFrame({"a": v}),
        lambda v: pa.table({"a": pa.array(v, pa.binary())}),
        lambda v: pa.table({"a": pa.array([one.ljust(6, b"\0") for one in v], pa.binary(6))}),
        lambda v: np.array([(one,) for one in v], dtype=[("a", "S8")]),
        lambda v: (np.save("t.npy", np.array([(one,) for one in v], dtype=[("a", "S8")])), "t.npy")[1],
    ],
)
def test_bytes_that_are_text_are_text(made, tmp_path, monkeypatch):
    """As HDF5, SAS and ARFF files, Spark's Parquet and NumPy's S arrays have it: they were left out, as no pictures."""
    monkeypatch.chdir(tmp_path)
    source = handful.open(made(TOLD))
    assert source.columns["a"].classes == ("no", "\u00e9t\u00e9")
    assert source.take(range(4)).tensor("a").tolist() == [0, 1, -1, 0]
    frame = pd.DataFrame({"b": np.arange(40.0), "a": [b"yes", b"no"] * 20})
    assert handful.open(frame, target="a").columns["a"].classes == ("no", "yes")
    pq.write_table(pa.Table.from_pandas(frame), tmp_path / "t.parquet")
    store = handful.prepare(tmp_path / "t.parquet", tmp_path / "store")
    assert store.columns["a"].classes == ("no", "yes")


@pytest.mark.parametrize("odd", [b"\xff\xfe", b"a\x01b", bytes(range(16))])
def test_bytes_that_are_no_text_are_left_out_and_said(odd):
    source = handful.open({"a": [b"one", odd] * 5, "b": [1.0, 2.0] * 5})
    assert list(source.columns) == ["b"]
    assert any("'a' was left out: its bytes are neither text in UTF-8 nor" in note for note in source.notes)
    with pytest.raises(HandfulError, match="neither text in UTF-8"):
        handful.open({"a": [b"one", odd] * 5, "b": [1.0, 2.0] * 5}, target="a")


class Variable:
    """As netCDF4's: what is masked in `variable[...]` is a number in `numpy.asarray(variable)`."""

    values = np.ma.masked_equal(np.array([1.0, -999.0, 3.0]), -999.0)
    set_auto_mask = True

    def __getitem__(self, place):
        return self.values[place]

    def __array__(self, dtype=None, copy=None):
        return self.values.data


@dataclasses.dataclass
class Chunked:
    """As zarr's arrays, which are dataclasses."""

    values: np.ndarray

    def __array__(self, dtype=None, copy=None):
        return self.values


def test_arrays_of_other_libraries_are_what_these_read():
    found = handful.open({"a": Variable(), "y": [0, 1, 0]}).take(range(3)).tensor("a")
    np.testing.assert_array_equal(found.numpy(), [1.0, np.nan, 3.0])
    pair = handful.open((Chunked(np.arange(6.0).reshape(3, 2)), Chunked(np.array([0, 1, 0]))))
    assert pair.take([2]).tensor("x").tolist() == [[4.0, 5.0]]


def test_a_column_may_have_the_name_of_anything_that_a_container_is_told_by():
    """Of a frame, `frame.description` is the column `description`: it was an error of pandas'."""
    code = "".join(path.read_text() for path in Path(handful.__file__).parent.rglob("*.py"))
    names = sorted(set(re.findall(r"(?:has|get)attr\([^,()]+, \"([a-z]\w+)\"", code)))
    assert "description" in names
    assert len(names) > 40
    for name in names:
        frame = pd.DataFrame({name: np.arange(8.0), "y": Y[:8]})
        assert handful.open(frame, "y").inputs == [name], name


NAN, DAY, NOON = float("nan"), datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1, 12)
AT = pd.Timestamp("2020-01-01").timestamp()
MARKED = {  # values with gaps as pandas marks them -> what they are read as
    "texts": (["b", NAN, "a", pd.NA], [1, -1, 0, -1]),
    "a gap before texts": ([NAN, "a", "b", "a"], [-1, 0, 1, 0]),
    "bytes": ([b"b", NAN, b"a", b"a"], [1, -1, 0, 0]),
    "whole numbers": ([1, pd.NA, 3, 4], [1.0, NAN, 3.0, 4.0]),
    "truth values": ([pd.NA, True, False, True], [NAN, 1.0, 0.0, 1.0]),
    "dates": ([DAY, pd.NaT, NAN, DAY + datetime.timedelta(1)], [AT, NAN, NAN, AT + 86400]),
    "a gap before moments": ([pd.NaT, pd.Timestamp(NOON), NOON, DAY], [NAN, AT + 43200, AT + 43200, AT]),
    "days and moments": ([DAY, NOON, DAY, NOON], [AT, AT + 43200, AT, AT + 43200]),
    "times of day": ([datetime.time(3), None, NAN, datetime.time(5)], [10800.0, NAN, NAN, 18000.0]),
    "durations": ([datetime.timedelta(hours=3), NAN, None, pd.Timedelta(hours=1)], [10800.0, NAN, NAN, 3600.0]),
    "decimals": ([decimal.Decimal("1.5"), NAN, None, decimal.Decimal(2)], [1.5, NAN, NAN, 2.0]),
    "numbers in text": ([1, "2", NAN, 4], [1.0, 2.0, NAN, 4.0]),
}
HOLDERS = {
    "list": lambda values: {"c": values, "y": [0, 1, 0, 1]},
    "array of objects": lambda values: {"c": np.array([*values, ""], dtype=object)[:-1], "y": [0, 1, 0, 1]},
    "dicts": lambda values: [{"c": value, "y": k % 2} for k, value in enumerate(values)],
    "frame": lambda values: pd.DataFrame({"c": pd.Series(values, dtype=object), "y": [0, 1, 0, 1]}),
}


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("kind", MARKED)
def test_gaps_are_missing_in_every_container(kind, holder):
    values, wanted = MARKED[kind]
    source = handful.open(HOLDERS[holder](values), target="y")
    np.testing.assert_array_equal(source.take(range(4)).tensor("c").numpy(), wanted)


def test_rows_that_lack_a_list_are_named():
    rows = {"c": [["a"], None, ["b"]], "y": [0, 1, 0]}
    with pytest.raises(HandfulError, match="column 'c' has no list in row 1"):
        handful.open(rows, target="c")
    source = handful.open(rows, target="y")
    assert source.take(range(3))["c"].tolist() == [[1, 0], [0, 0], [0, 1]]
    assert "'c' lacks a list in 1 of 3 rows: an empty one there." in source.notes


class OfModin:
    """As frames of modin are: pandas' in columns, and an exchange that knows few types."""

    columns = ("c",)

    def _to_pandas(self):
        return pd.DataFrame({"c": pd.to_timedelta([1, 2], unit="h")})

    def __dataframe__(self, **_):
        raise NotImplementedError("timedelta64[ns]")


def test_a_frame_that_turns_into_one_of_pandas_is_taken_as_that():
    assert handful.open(OfModin()).take([0, 1])["c"].tolist() == [3600.0, 7200.0]


class Odd:
    columns = ("c",)

    def __dataframe__(self, **_):
        raise NotImplementedError("timedelta64[ns]")


def test_a_frame_whose_exchange_fails_is_refused_in_words():
    with pytest.raises(HandfulError, match="a column cannot be read: timedelta64"):
        handful.open(Odd())
