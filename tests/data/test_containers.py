"""Rows in whatever people have them: the same source as of plain arrays, or one sentence."""

import array
import bz2
import collections
import dataclasses
import enum
import gzip
import io
import lzma
import sqlite3

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy.io import arff

import handful
from handful.base.errors import HandfulError

FRAME = pd.DataFrame({"a": [1.5, 2.5, -3.0], "town": ["Ulm", "Bern", "Ulm"], "label": [0, 1, 0]})
TABLE = pa.Table.from_pandas(FRAME)
Pair = collections.namedtuple("Pair", "x label")


@dataclasses.dataclass
class Item:
    a: float
    label: int


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter([{"a": float(i), "label": i % 2} for i in range(6)])


def rows(source):
    batch = source.take(range(len(source)))
    return {name: value.tolist() if isinstance(value, torch.Tensor) else value for name, value in batch.columns.items()}


def picture(i, size=(8, 9), mode="RGB"):
    pixels = np.random.default_rng(i).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.fixture
def files(tmp_path):
    pq.write_table(TABLE, tmp_path / "t.parquet")
    return tmp_path


@pytest.mark.parametrize(
    "made",
    [
        lambda d: pl.from_arrow(TABLE).lazy(),
        lambda d: pa.dataset.dataset(d / "t.parquet"),
        lambda d: pa.dataset.dataset(d / "t.parquet").scanner(),
        lambda d: TABLE.to_reader(),
        lambda d: pq.ParquetFile(d / "t.parquet"),
        lambda d: TABLE.to_batches()[0],
        lambda d: FRAME.to_dict("records"),
        lambda d: iter(FRAME.to_dict("records")),
        lambda d: (row for row in FRAME.itertuples(index=False)),
        lambda d: list(FRAME.itertuples(index=False)),
        lambda d: {name: collections.deque(FRAME[name].tolist()) for name in FRAME},
        lambda d: {name: dict(enumerate(FRAME[name].tolist())).values() for name in FRAME},
        lambda d: FRAME.astype({"a": pd.SparseDtype("float64", 0.0)}),
    ],
)
def test_containers_of_a_table_give_its_rows(made, files):
    source = handful.open(made(files))
    assert source.target == "label"
    assert rows(source) == rows(handful.open(FRAME))


def test_rows_with_named_fields_are_rows_and_not_vectors():
    expected = {"x": [0.0, 1.0, 2.0], "label": [0, 1, 0]}
    assert rows(handful.open([Pair(float(i), i % 2) for i in range(3)])) == expected
    assert rows(handful.open([Item(float(i), i % 2) for i in range(3)])) == {"a": [0.0, 1.0, 2.0], "label": [0, 1, 0]}
    assert rows(handful.open(np.array([(0.5, 1), (1.5, 0)], dtype=[("a", float), ("label", int)]))) == {
        "a": [0.5, 1.5], "label": [1, 0],
    }  # fmt: skip


def test_iterators_are_read_to_their_end_and_said_to_be():
    for made in (Stream(), iter(Stream()), (row for row in Stream())):
        source = handful.open(made)
        assert rows(source) == {"a": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], "label": [0, 1, 0, 1, 0, 1]}
        assert any("6 rows were read from" in note for note in source.notes)
    run = handful.fit("linear", Stream(), valid=None, lr=0.1, batch=2, until="epochs(2)", quiet=True)
    again = handful.fit("linear", list(Stream()), valid=None, lr=0.1, batch=2, until="epochs(2)", quiet=True)
    for ours, theirs in zip(run.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(HandfulError, match="gave no row"):
        handful.open(iter(()))

    def endless():
        while True:
            yield {"a": np.zeros(1000)}

    with pytest.raises(HandfulError, match="do not fit in memory"):
        handful.open(endless(), memory=10_000_000)


class Named(torch.utils.data.Dataset):
    """Samples with several inputs in a dict, one of which no Tensor can hold, beside the target."""

    def __len__(self):
        return 12

    def __getitem__(self, i):
        return {"a": float(i), "b": [i, 2.0 * i], "tags": ["x", "y"]}, i % 2


class Sums(torch.nn.Linear):
    def forward(self, a, b):
        return super().forward(torch.cat([a[:, None], b], 1))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_rows_of_different_lengths():
    rows = [torch.arange(6.0).reshape(2, 3), torch.ones(1, 3), torch.zeros(4, 3)]
    for layout in (torch.jagged, torch.strided):
        source = handful.open((torch.nested.nested_tensor(rows, layout=layout), [0, 1, 0]))
        found = source.take([2, 0]).columns["x"]
        assert found.offsets.tolist() == [0, 4, 6]
        assert found.values.tolist() == [*rows[2].tolist(), *rows[0].tolist()]


def test_where_a_sample_lies_is_no_input():
    rows = [{"__key__": f"s{k}", "__url__": f"{k % 2}.tar", "__local_path__": f"/a/{k % 2}.tar", "a": k / 7, "y": k % 2}
            for k in range(20)]  # as webdataset gives them  # fmt: skip
    source = handful.open(rows, target="y")
    assert set(source.columns) == {"a", "y"}
    assert "__url__ and __local_path__ say where a row lies, not what it is: left out." in source.notes


def test_samples_of_several_inputs_beside_the_target():
    """From a Dataset, an iterator, a list and a DataLoader: the same weights as from columns."""
    samples = [(({"a": x["a"], "b": np.float32(x["b"])}), y) for x, y in map(Named().__getitem__, range(12))]
    columns = {"a": np.arange(12.0, dtype="f4"), "b": np.array([x["b"] for x, _ in samples]), "y": np.arange(12) % 2}

    def weight(data):
        torch.manual_seed(0)
        how = {"target": "y", "valid": None, "lr": 0.1, "batch": 4, "until": "epochs(2)", "quiet": True}
        run = handful.fit(Sums(3, 2), data, **how)
        return run.model.weight.detach(), run.plan.notes

    expected, _ = weight(columns)
    for data in (Named(), iter(samples), samples, torch.utils.data.DataLoader(samples, 5, shuffle=True)):
        found, notes = weight(data)
        torch.testing.assert_close(found, expected)
        assert not isinstance(data, Named) or any(
            "cannot become Tensors (collate=... makes such): tags" in n for n in notes
        )
    with pytest.raises(HandfulError, match=r"'tags' of row 0 is a list, which cannot become a Tensor .collate="):
        handful.open(Named(), target="tags")


def test_a_cursor_of_a_data_base_and_any_stream_of_arrow():
    data_base = sqlite3.connect(":memory:")
    FRAME.to_sql("t", data_base, index=False)
    assert rows(handful.open(data_base.execute("select a, label from t"))) == {
        "a": [1.5, 2.5, -3.0],
        "label": [0, 1, 0],
    }
    data_base.close()

    class Capsule:
        def __arrow_c_stream__(self, requested_schema=None):
            return TABLE.__arrow_c_stream__(requested_schema)

    assert rows(handful.open(Capsule())) == rows(handful.open(FRAME))


def test_a_masked_value_is_a_missing_one():
    masked = np.ma.masked_array([[1, 2], [3, 4]], [[True, False], [False, False]])
    source = handful.open((masked, [0, 1]))
    assert np.array_equal(source.take([0, 1]).tensor("x"), [[np.nan, 2], [3, 4]], equal_nan=True)
    whole = np.ma.masked_array([1, 2], [False, False])
    assert handful.open({"a": whole, "y": [0, 1]}).take([0, 1]).tensor("a").dtype == torch.int64
    text = np.ma.masked_array(["a", "b", "c", "b"], [True, False, False, False])
    days = np.ma.masked_array(np.array(["2020-01-01"] * 3 + ["2020-01-02"], "M8[D]"), text.mask)
    source = handful.open({"text": text, "object": text.astype(object), "day": days, "y": [0, 1, 0, 1]})
    assert [source.columns[name].classes for name in ("text", "object")] == [("b", "c")] * 2
    assert (
        source.take(range(4)).tensor("object").tolist()
        == source.take(range(4)).tensor("text").tolist()
        == [-1, 0, 1, 0]
    )
    assert np.array_equal(source.take([0, 3])["day"], [np.nan, 1577923200], equal_nan=True)
    with pytest.raises(HandfulError, match="not a finite number in row 1"):
        handful.open(([[1.0], [2.0]], np.ma.masked_array([0, 1], [False, True])))


def test_columns_in_python_s_other_containers():
    expected = rows(handful.open({"x": [1.0, 2.0], "y": [0, 1]}))
    for made in (array.array("d", [1, 2]), memoryview(np.array([1.0, 2.0])), np.float64([1, 2])):
        assert rows(handful.open({"x": made, "y": array.array("q", [0, 1])})) == expected
    colours = handful.open(([[1.0], [2.0]], [Colour.RED, Colour.BLUE]))
    assert colours.columns["y"].classes == ("BLUE", "RED")


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK", "LA"])
def test_pictures_in_lists_are_those_of_files_to_the_bit(mode, tmp_path):
    pictures = [picture(i, mode=mode) for i in range(4)]
    folder = tmp_path / "p"
    folder.mkdir()
    for i, one in enumerate(pictures):
        (one if mode != "CMYK" else one.convert("RGB")).save(folder / f"{i}.png")
    expected = handful.open(folder).take(range(4)).tensor("image")
    paths = [folder / f"{i}.png" for i in range(4)]
    for made in (
        (pictures, [0, 1, 0, 1]),
        (paths, [0, 1, 0, 1]),
        ([str(path) for path in paths], [0, 1, 0, 1]),
        {"x": pictures, "y": [0, 1, 0, 1]},
        pd.DataFrame({"x": pictures, "label": [0, 1, 0, 1]}),
        pd.DataFrame({"x": paths, "label": [0, 1, 0, 1]}),
        [{"x": one, "label": i % 2} for i, one in enumerate(pictures)],
        ((one, i % 2) for i, one in enumerate(pictures)),
    ):
        source = handful.open(made, outside=True)
        assert source.columns["x"].kind == "image"
        assert torch.equal(source.take(range(4)).tensor("x"), expected)
    assert source.target in ("y", "label")


def test_pictures_of_other_sizes_train_a_model():
    pictures = [picture(i, (8 + i % 3, 9)) for i in range(20)]
    run = handful.fit("cnn", (pictures, [i % 2 for i in range(20)]), lr=0.01, batch=4, until="steps(2)", quiet=True)
    assert len(run.predict(pictures[:3])) == 3


@pytest.mark.parametrize("packed", ["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("text", ["csv", "tsv", "jsonl", "ndjson"])
def test_packed_text_is_the_text(packed, text, tmp_path):
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}.get(
        packed, lambda data: pa.compress(data, codec="zstd", asbytes=True)
    )
    if "json" in text:
        data = FRAME.to_json(orient="records", lines=True)
    else:
        data = FRAME.to_csv(index=False, sep="\t" if text == "tsv" else ",")
    plain, path = tmp_path / f"t.{text}", tmp_path / f"t.{text}.{packed}"
    plain.write_text(data)
    path.write_bytes(pack(data.encode()))
    assert rows(handful.open(path)) == rows(handful.open(plain)) == rows(handful.open(FRAME))
    store = handful.prepare(path, tmp_path / "store")
    assert rows(store) == rows(handful.open(FRAME))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(HandfulError, match="can be read"):
        handful.open(path)


def sqlite(path, tables=1):
    base = sqlite3.connect(path)
    for i in range(tables):
        base.execute(f'create table "t{i}" (a real, town text, label integer)')
        base.executemany(f'insert into "t{i}" values (?, ?, ?)', FRAME.itertuples(index=False, name=None))
    base.commit()
    base.close()


ARFF = "@relation r\n@attribute a numeric\n@attribute town {Ulm,Bern}\n@attribute label numeric\n@data\n"


@pytest.mark.parametrize("name", ["t.orc", "t.db", "t.dta", "t.arff"])
def test_formats_of_other_libraries(name, tmp_path):
    path = tmp_path / name
    match name:
        case "t.orc":
            pa.orc.write_table(TABLE, path)
        case "t.db":
            sqlite(path)
        case "t.dta":
            FRAME.to_stata(path, write_index=False)
        case "t.arff":
            path.write_text(ARFF + FRAME.to_csv(index=False, header=False))
            assert arff.loadarff(path)[0]["a"].tolist() == FRAME["a"].tolist()
    source = handful.open(path)
    assert source.where == str(path)
    found, expected = rows(source), rows(handful.open(FRAME))
    assert {k: v for k, v in found.items() if k != "town"} == {k: v for k, v in expected.items() if k != "town"}
    column = source.columns["town"]
    assert [column.classes[code] for code in found["town"]] == FRAME["town"].tolist()


def test_what_lacks_a_value_or_a_library_is_said(tmp_path):
    (tmp_path / "m.arff").write_text(ARFF + "1.5,?,0\n?,Ulm,1\n2.5,Bern,0\n")
    source = handful.open(tmp_path / "m.arff")
    assert np.isnan(rows(source)["a"][1])
    assert rows(source)["town"][0] == -1
    sqlite(tmp_path / "two.db", tables=2)
    (tmp_path / "bad.sqlite").write_bytes(b"no data base at all, but long enough to be read as one" * 20)
    (tmp_path / "bad.orc").write_bytes(b"ORC")
    (tmp_path / "bad-idx3-ubyte").write_bytes(b"\x00\x00\x07\x01")
    for name, says in (
        ("two.db", "holds 2 tables"), ("bad.sqlite", "cannot be read"), ("bad.orc", "can be read"),
        ("bad-idx3-ubyte", "IDX file"),
    ):  # fmt: skip
        with pytest.raises(HandfulError, match=says):
            handful.open(tmp_path / name)
    with pytest.raises(HandfulError, match="BytesIO"):
        handful.open(io.BytesIO(b"a,b\n1,2\n"))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_files_of_pictures_bring_their_labels(pack, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (5, 4, 3), dtype=np.uint8)
    ending = ".gz" if pack is gzip.compress else ""
    head = b"\x00\x00\x08\x03" + np.array(pixels.shape, ">u4").tobytes()
    (tmp_path / f"train-images-idx3-ubyte{ending}").write_bytes(pack(head + pixels.tobytes()))
    labels = bytes([0, 1, 2, 1, 0])
    (tmp_path / f"train-labels-idx1-ubyte{ending}").write_bytes(
        pack(b"\x00\x00\x08\x01" + np.array([5], ">u4").tobytes() + labels)
    )
    source = handful.open(tmp_path / f"train-images-idx3-ubyte{ending}")
    assert source.columns["x"].kind == "image"
    assert source.target == "y"
    assert np.array_equal(source.take(range(5)).tensor("x")[:, 0], pixels)
    assert source.take(range(5)).tensor("y").tolist() == list(labels)
    with pytest.raises(HandfulError, match=f"opened one at a time: .*train-images-idx3-ubyte{ending}'"):
        handful.open(tmp_path)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_do_not_double_the_rows_of_a_stream(workers):
    loader = torch.utils.data.DataLoader(Stream(), batch_size=4, num_workers=workers)
    assert rows(handful.open(loader, target="label")) == rows(handful.open(list(Stream()), target="label"))


def test_what_is_asked_of_a_loader_holds_for_its_data_set():
    sounds = [(np.sin(np.arange(80, dtype=np.float32) * k), k % 2) for k in range(6)]
    source = handful.open(torch.utils.data.DataLoader(sounds, 2), rate=8000, name="bells")
    assert (source.columns["x"].kind, source.columns["x"].rate, source.name) == ("audio", 8000, "bells")


@pytest.mark.parametrize("batches", [False, True])
def test_a_stream_is_spooled_into_a_store_from_which_a_run_goes_on(batches, tmp_path):
    x = np.random.default_rng(0).normal(size=(130, 3)).astype("float32")
    stream = ({"x": x[i], "label": i % 2} for i in range(130))
    if batches:
        stream = ({"x": x[i : i + 40], "label": np.arange(i, min(i + 40, 130)) % 2} for i in range(0, 130, 40))
    store = handful.prepare(stream, tmp_path / "store", target="label")
    assert any("130 rows" in note for note in store.notes)
    np.testing.assert_array_equal(store.take(range(130)).tensor("x").numpy(), x)
    halt = lambda event, info: "x" if event == "step" and info["step"] == 2 else None
    how = {"batch": 16, "lr": 0.1, "until": "steps(6)", "quiet": True}
    run = handful.fit("linear", tmp_path / "store", **how)
    handful.fit("linear", tmp_path / "store", out=tmp_path / "run", callbacks=[halt], **how)
    again = handful.resume(tmp_path / "run", quiet=True)
    assert all(torch.equal(a, b) for a, b in zip(run.model.parameters(), again.model.parameters(), strict=True))


def test_a_number_column_with_other_cells_is_read_from_a_data_base_as_from_csv(tmp_path):
    area = [90.5 + k if k % 40 else "k.A." for k in range(100)]
    rows = [(a, "-" if k % 30 == 7 else k, f"{k % 7}a") for k, a in enumerate(area)]
    with sqlite3.connect(tmp_path / "h.db") as base:
        base.execute("create table houses (area real, rooms integer, kind text)")
        base.executemany("insert into houses values (?, ?, ?)", rows)
    base.close()
    lines = ["area,rooms,kind", *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "h.csv").write_text("\n".join(lines) + "\n")
    one, other = (handful.open(tmp_path / name, target="kind") for name in ("h.db", "h.csv"))
    assert one.columns["area"].kind == one.columns["rooms"].kind == "number"
    for name in ("area", "rooms"):
        np.testing.assert_array_equal(*(s.take(range(100)).tensor(name).numpy() for s in (one, other)))
    assert [n for n in one.notes if "'area'" in n] == [n for n in other.notes if "'area'" in n]


def test_views_of_lists_are_lists():
    rows = [[1.5, 2.5], [3.5, 4.5], [5.5, 6.5]]
    for kind in (pa.list_view(pa.float64()), pa.large_list_view(pa.float32())):
        source = handful.open(pa.table({"a": pa.array(rows, kind), "y": [0, 1, 0]}))
        assert source.take([2, 0])["a"].tolist() == [rows[2], rows[0]]
    table = pa.table(
        {"a": pa.chunked_array([pa.array([None, *rows], kind).slice(1), pa.array(rows, kind)]), "y": [0, 1] * 3}
    )
    assert handful.open(table).take([1, 4])["a"].tolist() == [rows[1]] * 2


MAPS = [[("a", 1.0), ("b", 10.0)], [("b", 20.0)], None, [("c", 7.0), ("a", 2.0)]] * 10


def test_the_keys_of_maps_are_columns_as_those_of_dicts_are(tmp_path, monkeypatch):
    table = pa.table({"m": pa.array(MAPS, pa.map_(pa.string(), pa.float64())), "y": np.arange(40.0)})
    rows = [{"m": None if one is None else dict(one), "y": float(k)} for k, one in enumerate(MAPS)]
    by_map, by_dict = handful.open(table, "y"), handful.open(rows, "y")
    assert [*by_map.columns] == [*by_dict.columns] == ["m.a", "m.b", "m.c", "y"]
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(rows_of(by_map), rows_of(by_dict), strict=True))
    run = handful.fit("auto", table, target="y", until="steps(20)", quiet=True)
    alone = [run.predict(table.slice(k, 1))[0] for k in range(4)]  # without some of the keys
    assert np.array_equal(alone, run.predict(table)[:4])
    assert np.array_equal(alone, run.predict(rows)[:4])
    monkeypatch.setattr("handful.data.store.inputs.SMALL", 0)
    monkeypatch.setattr("handful.data.tables.files.ROWS", 3)
    pq.write_table(table, tmp_path / "t.parquet")
    store = handful.prepare(tmp_path / "t.parquet", tmp_path / "store", target="y")
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(rows_of(store), rows_of(by_map), strict=True))


def rows_of(source):
    batch = source.take(range(len(source)))
    return [np.asarray(batch[name]) for name in sorted(source.columns)]


@pytest.mark.parametrize("kind", ["python", "arrow", "fixed", "masked", "numpy"])
def test_a_list_that_is_missing_is_one_of_missing_values(kind):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    y = x @ [1.0, 2.0, 3.0]
    lists = [None, [None, *x[1][1:]], *x[2:].tolist()]
    whole = np.where(np.arange(200)[:, None] == 0, np.nan, x)
    whole[1, 0] = np.nan
    ways = {
        "python": lists, "arrow": pa.array(lists), "fixed": pa.array(lists, pa.list_(pa.float64(), 3)),
        "masked": np.ma.masked_invalid(whole), "numpy": whole,
    }  # fmt: skip
    source = handful.open({"a": ways[kind], "y": y}, "y")
    assert np.array_equal(source.take(range(200))["a"], whole, equal_nan=True)
    run = handful.fit("auto", {"a": x, "y": y}, target="y", until="epochs(3)", quiet=True)
    assert np.array_equal(run.predict({"a": ways[kind]}), run.predict({"a": whole}))


def test_lists_of_any_length_or_of_labels_that_are_missing_are_empty():
    tokens = handful.open(pa.table({"a": pa.array([None, [1], [2, 3]]), "y": [0, 1, 0]}))
    assert tokens.take([0, 2])["a"].offsets.tolist() == [0, 0, 2]
    table = pa.table({"a": pa.array([None, ["u"], ["u", "v"]] * 9), "y": [0, 1, 0] * 9})
    labels = handful.open(table)
    assert labels.take([0, 1, 2])["a"].tolist() == [[0, 0], [1, 0], [1, 1]]
    assert "'a' lacks a list in 9 of 27 rows: an empty one there." in labels.notes
    with pytest.raises(HandfulError, match="'a' has no list in row 0"):
        handful.open(table, "a")


@pytest.mark.filterwarnings("ignore:Feather V1:DeprecationWarning")
def test_feather_of_version_1(tmp_path, monkeypatch):
    from pyarrow import feather

    path = tmp_path / "t.feather"
    feather.write_feather(pa.table({"a": [1.5, 2.5, None], "s": ["u", "v", "u"], "y": [0, 1, 0]}), path, version=1)
    source = handful.open(path)
    assert np.array_equal(source.take(range(3))["a"], [1.5, 2.5, np.nan], equal_nan=True)
    assert source.columns["s"].classes == ("u", "v")
    monkeypatch.setattr("handful.data.store.inputs.SMALL", 0)
    assert handful.prepare(path, tmp_path / "store").columns == source.columns
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(HandfulError, match="is not an Arrow file that can be read"):
        handful.open(path)


@pytest.mark.parametrize(
    ("module", "name", "method", "gives"),
    [("dask.dataframe.dask_expr._collection", "DataFrame", "compute", FRAME),
     ("deltalake.table", "DeltaTable", "to_pyarrow_table", TABLE),
     ("fastparquet.api", "ParquetFile", "to_pandas", FRAME),
     ("awkward.highlevel", "Array", "to_list", FRAME.to_dict("records")),
     ("astropy.table.table", "QTable", "to_pandas", FRAME),
     ("astropy.table.table", "Table", "to_pandas", FRAME)],
)  # fmt: skip
def test_tables_of_other_libraries_give_themselves_as_known_ones(module, name, method, gives):
    """Stand-ins: each has a type of dtype with names, as astropy's, but no shape."""
    made = type(name, (), {"__module__": module, method: lambda self: gives, "dtype": np.dtype([("a", float)])})
    assert rows(handful.open(made())) == rows(handful.open(FRAME))


def test_places_of_geopandas_are_two_numbers():
    points = FRAME.assign(geometry=["POINT (1 2)", "POINT (3.5 4)", "POINT (5 6)"])
    many = pd.concat([points.assign(geometry=[f"POINT ({k} {k + j})" for j in range(3)]) for k in range(20)])
    made = type("GeoDataFrame", (), {"__module__": "geopandas.geodataframe", "to_wkt": lambda self: many})
    assert handful.open(made()).take([0, 5])["geometry"].tolist() == [[0, 0], [1, 3]]


def test_a_stream_that_arrow_cannot_read_is_refused_by_a_sentence():
    class Broken:
        def __arrow_c_stream__(self, requested_schema=None):
            raise pa.ArrowTypeError("Conversion failed for column geometry with type geometry")

    with pytest.raises(HandfulError, match="Broken: a column cannot be read: Conversion failed for column geometry"):
        handful.open(Broken())


@pytest.mark.parametrize(
    ("log", "reader"),
    [("_delta_log/0000.json", "deltalake.DeltaTable"), ("metadata/v1.metadata.json", "pyiceberg"),
     ("_versions/1.manifest", "lance")],
)  # fmt: skip
def test_tables_with_a_log_of_deleted_rows_are_not_read_as_their_files(log, reader, tmp_path):
    for k in range(2):
        FRAME.to_parquet(tmp_path / f"part-{k}.parquet")
    (tmp_path / log).parent.mkdir()
    (tmp_path / log).write_text("{}")
    with pytest.raises(HandfulError, match=f"may hold rows that were deleted, too: read it with {reader}"):
        handful.open(tmp_path)
