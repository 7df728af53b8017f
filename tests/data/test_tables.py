"""Tables and arrays against pandas, NumPy and pyarrow, read independently."""

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pyarrow import feather
from sklearn import datasets

from handful.base.errors import HandfulError
from handful.data.base import Column, Source
from handful.data.open import open as open_source
from handful.data.options import Options
from handful.data.tables.arrow import chosen

DATA = Path(__file__).parents[3] / "shared" / "data"


def everything(source: Source, key: str) -> Any:
    value = source.read_column(key, np.arange(len(source)))
    return value.numpy() if isinstance(value, torch.Tensor) else value


def frame(n: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "a": rng.normal(size=n),
            "b": rng.integers(-5, 5, n),
            "f": rng.integers(0, 2, n).astype(bool),
            "town": rng.choice(["Ulm", "Bern", "Graz"], n),
            "label": rng.choice(["no", "yes"], n),
        }
    )


def write(df: pd.DataFrame, folder: Path, ending: str) -> str:
    path = folder / f"t{ending}"
    table = pa.Table.from_pandas(df, preserve_index=False)
    if ending in (".csv", ".csv.gz", ".tsv"):
        df.to_csv(path, index=False, sep="\t" if ending == ".tsv" else ",")
    elif ending == ".parquet":
        pq.write_table(table, path, row_group_size=7)
    elif ending == ".feather":
        feather.write_feather(table, path)
    elif ending == ".arrow":  # the stream format, as Hugging Face writes it
        with pa.ipc.new_stream(path, table.schema) as out:
            out.write_table(table, max_chunksize=9)
    else:
        df.to_json(path, orient="records", lines=True, double_precision=15)
    return str(path)


@pytest.mark.parametrize(
    "ending", [".csv", ".csv.gz", ".tsv", ".parquet", ".feather", ".arrow", ".jsonl", "memory", "polars", "pandas"]
)
def test_one_table_however_it_comes(ending: str, tmp_path: Path) -> None:
    df = frame()
    where: Any = df
    if ending == "polars":
        where = pl.from_pandas(df)
    elif ending == "memory":
        with fsspec.open("memory://handful/t.parquet", "wb") as out:
            df.to_parquet(out)
        where = "memory://handful/t.parquet"
    elif ending != "pandas":
        where = write(df, tmp_path, ending)
    source = open_source(where)
    assert len(source) == 60
    assert source.target == "label"
    assert any("'label', by its name" in note for note in source.notes)
    assert source.columns["label"].classes == ("no", "yes")
    assert source.columns["town"].classes == ("Bern", "Graz", "Ulm")
    assert [c.dtype for c in source.columns.values()] == ["float64", "int64", "bool", "int64", "int64"]
    for key in ("a", "b", "f"):
        np.testing.assert_allclose(everything(source, key), df[key].to_numpy(), rtol=1e-9)
    town = np.array(source.columns["town"].classes)[everything(source, "town")]
    assert town.tolist() == df["town"].tolist()


@pytest.mark.parametrize("ending", [".csv", ".arrow", ".npy"])
def test_remote(ending: str, tmp_path: Path) -> None:
    local = tmp_path / "x.npy"
    np.save(local, np.arange(6).reshape(3, 2))
    path = str(local) if ending == ".npy" else write(frame(), tmp_path, ending)
    with fsspec.open(f"memory://handful/remote{ending}", "wb") as out:
        out.write(Path(path).read_bytes())
    far, near = open_source(f"memory://handful/remote{ending}"), open_source(path)
    assert far.columns == near.columns
    for key in near.columns:
        assert np.array_equal(everything(far, key), everything(near, key))


def test_missing_values_dates_and_decimals_are_numbers_and_said() -> None:
    table = pa.table(
        {
            "i": [1, None, 3],
            "b": [True, None, False],
            "d": [datetime.date(1970, 1, 2), datetime.date(2020, 2, 29), None],
            "t": [datetime.datetime(1970, 1, 1, 0, 0, 1, 500000), None, datetime.datetime(2020, 1, 1)],
            "m": [decimal.Decimal("1.25"), decimal.Decimal("2.50"), None],
            "u": pa.array([1, 2, 65535], pa.uint16()),
            "h": pa.array(np.array([1, 2, 3.5], np.float16)),
        }
    )
    source = open_source(table)
    nan = np.nan
    expected = {
        "i": [1, nan, 3],
        "b": [1, nan, 0],
        "d": [86400, datetime.datetime(2020, 2, 29, tzinfo=datetime.UTC).timestamp(), nan],
        "t": [1.5, nan, datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC).timestamp()],
        "m": [1.25, 2.5, nan],
        "u": [1, 2, 65535],
        "h": [1, 2, 3.5],
    }
    for key, values in expected.items():
        assert np.array_equal(everything(source, key), np.array(values, dtype=float), equal_nan=True), key
        if key != "h":
            assert any(f"'{key}'" in note for note in source.notes), key
    assert source.columns["u"].dtype == "int32"


def test_nothing_is_left_out_silently() -> None:
    n = 30
    table = pa.table(
        {
            "kept": list(range(n)),
            "constant": [4] * n,
            "same_word": ["x"] * n,
            "empty": pa.nulls(n),
            "blank": ["", None] * (n // 2),
            "identifier": [f"id-{i}" for i in range(n)],
            "nested": [{"q": 1}] * n,
            "strings": [["a"]] * n,
            "bytes": [b"hello"] * n,
            "inner": [[[1], [1, 2]]] * n,
        }
    )
    source = open_source(table)
    assert list(source.columns) == ["kept"]
    for name in {*table.column_names, "nested.q"} - {"kept", "nested"}:  # a struct's fields are columns
        assert sum(f"'{name}' was left out" in note for note in source.notes) == 1, name
    named = open_source(table, columns=["kept", "constant", "identifier"])
    assert list(named.columns) == ["kept", "constant", "identifier"]


@pytest.mark.parametrize("form", [dict, pd.DataFrame, lambda c: {k: np.array(v) for k, v in c.items()}])
def test_what_tells_nothing_is_left_out_of_every_container(form: Any) -> None:
    columns = {"id": [f"id-{k}" for k in range(40)], "same": ["a"] * 40, "x": list(range(40)), "y": [0, 1] * 20}
    source = open_source(form(columns), target="y")
    assert list(source.columns) == ["x", "y"]
    assert [note.split(":")[0] for note in source.notes if "left out" in note] == [
        "column 'id' was left out",
        "column 'same' was left out",
    ]
    assert list(open_source(form(columns), target="y", columns=["id", "x"]).columns) == ["id", "x", "y"]
    with pytest.raises(HandfulError, match="no column to learn from: column 'id' was left out"):
        open_source(form({name: columns[name] for name in ("id", "y")}), target="y")


def test_marks_for_missing_numbers_and_stray_values() -> None:
    n = 12
    source = open_source(
        {
            "age": ["?" if i == 3 else str(i) for i in range(n)],
            "code": [str(i) for i in range(n - 1)] + ["A5"],
            "y": [0, 1] * 6,
        },
        columns=["age", "code", "y"],
    )
    assert np.array_equal(everything(source, "age"), [0, 1, 2, np.nan, *range(4, n)], equal_nan=True)
    assert any("1 rows hold '?'" in note for note in source.notes)
    assert source.columns["code"].kind == "category"
    assert any("'A5' in row 11" in note for note in source.notes)


def test_text_or_category() -> None:
    n = 40
    table = {
        "review": [f"this is review number {i} of the film" for i in range(n)],
        "reply": ["thank you very much", "no thank you very"] * (n // 2),
        "y": ["a b c d", "e f g h"] * (n // 2),
    }
    source = open_source(table)
    assert [c.kind for c in source.columns.values()] == ["text", "category", "category"]
    assert source.take([5])["review"] == ["this is review number 5 of the film"]


def test_missing_category_is_minus_one() -> None:
    source = open_source(pa.table({"c": ["u", None, "", "v"], "n": [1, 2, 3, 4]}))
    assert everything(source, "c").tolist() == [0, -1, -1, 1]
    assert any("2 rows lack one" in note for note in source.notes)


def test_rows_of_vectors_that_were_arrays_in_training_are_read_from_lists(tmp_path: Path) -> None:
    rows = [np.arange(3.0 * n).reshape(n, 3) / 7 for n in (2, 4, 3, 1)]
    table = pa.table({"points": [row.tolist() for row in rows], "y": [1.0, 2.0, 3.0, 4.0]})
    pq.write_table(table, tmp_path / "a.parquet")
    arrays = open_source({"points": rows, "y": [1.0, 2.0, 3.0, 4.0]}, target="y")
    for other in (table, tmp_path / "a.parquet"):
        source = open_source(other, target="y", columns=arrays.columns)
        assert source.columns["points"] == arrays.columns["points"]
        ours, theirs = (where.take([3, 0]).ragged("points") for where in (source, arrays))
        assert torch.equal(ours.values, theirs.values)
        assert torch.equal(ours.offsets, theirs.offsets)


def test_lists() -> None:
    table = pa.table(
        {
            "even": [[1.0, 2.0], [3.0, 4.0]],
            "grid": [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [0, 1, 2]]],
            "ragged": [[5], [6, 7]],
            "wave": [[0.5, 1.5], []],
        }
    )
    source = open_source(pa.concat_tables([table, table.slice(1, 1)]))
    assert everything(source, "even").tolist() == [[1, 2], [3, 4], [3, 4]]
    assert everything(source, "grid")[2].tolist() == [[7, 8, 9], [0, 1, 2]]
    kinds = {key: (c.kind, c.shape) for key, c in source.columns.items()}
    assert kinds == {
        "even": ("tensor", (2,)),
        "grid": ("tensor", (2, 3)),
        "ragged": ("tokens", (None,)),
        "wave": ("tensor", (None,)),
    }
    assert source.take([2, 0])["ragged"].values.tolist() == [6, 7, 5]  # type: ignore[union-attr]
    assert source.take([2, 0])["wave"].offsets.tolist() == [0, 0, 2]  # type: ignore[union-attr]


def test_new_data_is_read_as_the_training_data_was(tmp_path: Path) -> None:
    train = open_source(frame())
    other = frame(4).assign(town=["Graz", "Rome", "Ulm", "Graz"], label=["yes"] * 4, b=[1, 1, 1, 1])
    new = open_source(write(other, tmp_path, ".csv"), "label", columns=train.columns)
    assert {k: (c.kind, c.classes) for k, c in new.columns.items()} == {
        k: (c.kind, c.classes) for k, c in train.columns.items()
    }
    assert everything(new, "town").tolist() == [1, -1, 2, 1]
    assert everything(new, "label").tolist() == [1] * 4
    assert any("'Rome'" in note for note in new.notes)
    unseen = open_source(other.assign(label="maybe"), "label", columns=train.columns)  # said where rows are scored
    assert unseen.columns["label"].classes == (*(train.columns["label"].classes or ()), "maybe")
    with pytest.raises(HandfulError, match="no column 'town'"):
        open_source(other.drop(columns="town"), columns=train.columns)
    digits = {"c": Column("category", "int64", (), ("3", "7")), "n": Column("number", "float64")}
    read = open_source(pa.table({"c": [7, 3, 3], "n": ["1", "", "2.5"]}), columns=digits)
    assert everything(read, "c").tolist() == [1, 0, 0]
    assert np.array_equal(everything(read, "n"), [1, np.nan, 2.5], equal_nan=True)


def test_categorical_keeps_its_order() -> None:
    values = pd.Categorical(["low", "high", "low"], categories=["low", "mid", "high"], ordered=True)
    source = open_source(pd.DataFrame({"c": values, "n": [1, 2, 3]}))
    assert source.columns["c"].classes == ("low", "mid", "high")
    assert everything(source, "c").tolist() == [0, 2, 0]
    loose = open_source(pd.DataFrame({"c": values.as_unordered(), "n": [1, 2, 3]}))
    assert loose.columns["c"].classes == ("low", "high")
    for kind in (pl.Categorical, pl.Enum(["low", "mid", "high"])):
        source = open_source(pl.DataFrame({"c": pl.Series(["low", None, "high"], dtype=kind), "n": [1, 2, 3]}))
        codes, classes = everything(source, "c"), source.columns["c"].classes
        assert classes is not None
        assert [classes[i] if i >= 0 else None for i in codes] == ["low", None, "high"]
        assert ("mid" in classes) == isinstance(kind, pl.Enum)


def test_odd_arrays() -> None:
    assert open_source(torch.tensor([1.0, 2.0])._neg_view()).take([1]).tensor("x").tolist() == [-2.0]
    assert open_source([[], [1], [2, 3]]).columns["x"].dtype == "int64"
    assert open_source(np.broadcast_to(np.arange(3), (4, 3))).take([3]).tensor("x").tolist() == [[0, 1, 2]]
    assert open_source(pa.array([1, 2, None])).columns["x"].dtype == "float64"
    assert open_source(range(5)).take([4]).tensor("x").tolist() == [4]
    assert open_source(np.array(["2020-01-01", "NaT"], dtype="M8[D]")).take([0]).tensor("x").tolist() == [1577836800.0]


@pytest.mark.parametrize("names", [["a", "Label"], ["a", "TARGET"], ["a", "label", "class"], ["a", "b"]])
def test_target_is_guessed_only_without_doubt(names: list[str]) -> None:
    source = open_source({name: [1, 0, 1] for name in names}, columns=names)
    assert source.target == (names[1] if names[1] in ("Label", "TARGET") else None)
    assert any("target" in note for note in source.notes)
    assert open_source({name: [1, 0, 1] for name in names}, target="a").target == "a"


def test_pairs() -> None:
    df = frame()
    source = open_source((df.drop(columns="label"), df["label"]))
    assert source.target == "label"
    assert source.inputs == ["a", "b", "f", "town"]
    source = open_source((pl.from_pandas(df[["a", "b"]]), pl.Series("out", df["b"].to_numpy())))
    assert source.target == "out"
    x, y = torch.randn(5, 2, requires_grad=True, generator=torch.manual_seed(0)), [[1], [0], [1], [1], [0]]
    source = open_source((x, y))
    assert source.take([4, 2]).tensor("x").tolist() == x[[4, 2]].tolist()
    assert source.columns["y"].shape == ()
    assert any("[n, 1]" in note for note in source.notes)
    shuffled = (df[["a"]], df["b"].iloc[::-1])
    assert any("indexes of X and y differ" in note for note in open_source(shuffled).notes)
    assert open_source((np.zeros((3, 1, 4, 4), np.uint8), [0, 1, 0])).columns["x"].kind == "image"
    assert any("channels first" in n for n in open_source(np.zeros((3, 8, 8, 3), np.uint8)).notes)
    assert open_source(np.arange(4, dtype=">i4")).take([3]).tensor("x").tolist() == [3]
    assert open_source((["so it was told to me", "the other thing was not"], ["p", "n"])).columns["x"].kind == "text"


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "diabetes", "digits"])
def test_embedded(name: str) -> None:
    source, bunch = open_source(name), getattr(datasets, f"load_{name}")()
    assert np.array_equal(everything(source, "target"), bunch.target)
    if name == "digits":
        assert np.array_equal(everything(source, "image")[:, 0], bunch.images)
    else:
        block = np.stack([everything(source, key) for key in source.inputs], axis=1)
        assert np.array_equal(block, bunch.data)
    if name != "diabetes":
        assert source.columns["target"].classes == tuple(str(c) for c in bunch.target_names)


def test_a_source_passes_through() -> None:
    source = open_source("iris")
    assert open_source(source) is source
    other = open_source(source, "sepal width (cm)")
    assert (other.target, source.target) == ("sepal width (cm)", "target")
    with pytest.raises(HandfulError, match="no column 'z'"):
        open_source(source, "z")


def test_many_columns_are_one_gather(monkeypatch: pytest.MonkeyPatch) -> None:
    from handful.data import arrays

    calls = []
    real = arrays.gather
    monkeypatch.setattr(arrays, "gather", lambda *a: calls.append(1) or real(*a))
    block = np.random.default_rng(0).normal(size=(50, 300))
    source = open_source(pd.DataFrame(block).rename(columns=str))
    batch = source.take([3, 3, 49])
    assert len(calls) == 1
    assert np.array_equal(np.stack([batch.tensor(str(j)).numpy() for j in range(300)], 1), block[[3, 3, 49]])


class FakeFeature:
    names = ("cat", "dog")


class FakeDataset:
    """Behaves as a Hugging Face Dataset does where handful looks."""

    features = {"x": object(), "label": FakeFeature()}
    table = pa.table({"x": [1.0, 2.0, 3.0], "label": [1, 0, 1]})

    def __len__(self) -> int:
        return 3

    def with_format(self, kind: str) -> "FakeDataset":
        assert kind == "arrow"
        return self

    def __getitem__(self, key: Any) -> Any:
        return self.table[key]


def test_hugging_face() -> None:
    source = open_source(FakeDataset())
    assert source.columns["label"] == Column("category", "int64", (), ("cat", "dog"), type="int64")  # codes
    assert everything(source, "label").tolist() == [1, 0, 1]
    with pytest.raises(HandfulError, match="splits train, test"):
        open_source({"train": FakeDataset(), "test": FakeDataset()})


def test_class_names_in_the_schema(tmp_path: Path) -> None:
    meta = b'{"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}'
    table = pa.table({"x": [1.0, 2.0], "label": [1, 0]}).replace_schema_metadata({b"huggingface": meta})
    pq.write_table(table, tmp_path / "t.parquet")
    assert open_source(tmp_path / "t.parquet").columns["label"].classes == ("cat", "dog")


def test_torch_class_names_and_notes() -> None:
    class Pets(torch.utils.data.Dataset[Any]):
        classes = ["cat", "dog"]

        def __len__(self) -> int:
            return 3

        def __getitem__(self, i: int) -> Any:
            return np.full((3, 4, 4), i, np.uint8), i % 2

    source = open_source(Pets())
    assert source.columns["y"].classes == ("cat", "dog")
    assert source.columns["x"].kind == "image"
    assert any("one call per row" in note for note in source.notes)
    assert not source.in_memory


def test_where_opens_it_again_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(frame(), tmp_path, ".csv")
    monkeypatch.chdir(tmp_path)
    source = open_source("t.csv")
    monkeypatch.chdir("/")
    assert source.where is not None
    assert open_source(source.where).columns == source.columns
    assert open_source("iris").where == "iris"
    assert open_source(frame()).where is None


def test_rows_longer_than_a_megabyte(tmp_path: Path) -> None:
    words = ["word " * 400_000 + str(i) for i in range(3)]
    df = pd.DataFrame({"text": words, "label": [0, 1, 0]})
    for ending in (".csv", ".jsonl"):
        assert open_source(write(df, tmp_path, ending)).take([2])["text"] == [words[2]]


def test_quoted_line_breaks_and_late_types(tmp_path: Path) -> None:
    df = pd.DataFrame({"text": [f'she said "{i}",\nand left the room' for i in range(30)], "y": [0, 1] * 15})
    assert open_source(write(df, tmp_path, ".csv")).take(range(30))["text"] == df["text"].tolist()
    late = pd.DataFrame({"a": [*range(400_000), 0.5], "y": [0] * 400_000 + [1]})  # longer than one block of the parser
    assert open_source(write(late, tmp_path, ".csv")).take([400_000]).tensor("a").tolist() == [0.5]


@pytest.mark.skipif(not (DATA / "movie-reviews.csv").exists(), reason="../shared/data is absent")
def test_movie_reviews() -> None:
    source, df = open_source(DATA / "movie-reviews.csv"), pd.read_csv(DATA / "movie-reviews.csv")
    assert source.columns["text"].kind == "text"
    assert source.columns["label"].classes == ("negative", "positive")
    assert source.take(range(len(source)))["text"] == df["text"].tolist()
    assert everything(source, "label").tolist() == (df["label"] == "positive").astype(int).tolist()


@pytest.mark.skipif(not (DATA / "shakespeare.txt").exists(), reason="../shared/data is absent")
def test_shakespeare() -> None:
    source = open_source(DATA / "shakespeare.txt")
    assert source.take([0])["text"] == [(DATA / "shakespeare.txt").read_text()]


def test_keys_that_the_first_object_of_a_json_table_lacks_are_columns(tmp_path: Path) -> None:
    rows = [{"a": 1, "y": 0}, {"a": 2, "y": 1, "late": 5}, {"y": 0, "late": 7}]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("t.json", "t.jsonl"):
        batch = open_source(tmp_path / name, target="y").take(range(3))
        np.testing.assert_array_equal(batch.tensor("late").numpy(), [np.nan, 5, 7])
        np.testing.assert_array_equal(batch.tensor("a").numpy(), [1, 2, np.nan])


class Counted(str):
    """A name that counts how often it is compared."""

    compared = 0

    def __eq__(self, other):
        Counted.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_columns_are_chosen_by_their_hash_not_one_by_one():
    names = [Counted(f"g{k}") for k in range(400)]
    assert list(chosen(Options("a table", columns=tuple(map(str, names))), names)) == names
    assert Counted.compared < 10 * len(names)
    with pytest.raises(HandfulError, match="a table has no column 'x'"):
        chosen(Options("a table", columns=("x",)), names)
