"""Rows as other libraries hold them: structured arrays, arrays and groups of files, dicts in columns, class names of
Hugging Face; inputs without a name are those of training."""

import dataclasses
import json
import sqlite3
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from scipy import sparse

import handful
from handful.base.errors import HandfulError
from handful.data.datasets import with_names

RNG = np.random.default_rng(0)
N = 60
X, Y = RNG.normal(size=N), np.arange(N) % 2
ROWS = np.array(
    [((a, k % 3), y) for k, (a, y) in enumerate(zip(X, Y))], [("u", [("a", "f8"), ("b", "i2")]), ("y", "i8")]
)
COLUMNS = {"u.a": X.tolist(), "u.b": [k % 3 for k in range(N)], "y": Y.tolist()}
LISTS = [{"u": {"a": float(a), "b": k % 3}, "y": int(y)} for k, (a, y) in enumerate(zip(X, Y))]


@dataclasses.dataclass
class OfAFile:
    """As PyTables' arrays, and h5py's data sets: read by slices."""

    values: np.ndarray

    @property
    def shape(self):
        return self.values.shape

    @property
    def dtype(self):
        return self.values.dtype

    def __len__(self):
        return len(self.values)

    def __getitem__(self, place):
        assert isinstance(place, slice)
        return self.values[place]


class Group:
    """As zarr's: what `dict` takes, though no Mapping."""

    def __init__(self, arrays):
        self.arrays = arrays

    def keys(self):
        return self.arrays.keys()

    def __len__(self):
        return len(self.arrays)

    def __getitem__(self, name):
        return self.arrays[name]


KINDS = {
    "structured": ROWS,
    "structured of a file": OfAFile(ROWS),
    "structured in a dict": {"u": ROWS["u"], "y": Y},
    "a group": Group({"u": OfAFile(ROWS["u"]), "y": OfAFile(Y)}),
    "dicts": LISTS,
    "dicts in a column": {"u": [row["u"] for row in LISTS], "y": Y},
    "loadmat": {"__header__": b"MATLAB", "__version__": "1.0", "__globals__": [], "u": ROWS["u"], "y": Y},
}


@pytest.mark.parametrize("kind", KINDS)
def test_fields_are_columns(kind):
    source = handful.open(KINDS[kind], target="y")
    assert sorted(source.columns) == sorted(COLUMNS)
    for name, values in COLUMNS.items():
        assert source.take(range(N)).tensor(name).tolist() == values
    said = any("__header__, __version__, __globals__ say how the file was written" in note for note in source.notes)
    assert said == (kind == "loadmat")


@pytest.mark.parametrize("holder", ["rows", "columns", "arrow", "structured", "file", "store"])
def test_a_field_called_bytes_is_a_field(holder, tmp_path):
    """`packets` was lost, and `net` the number of bytes."""
    rows = [{"net": {"bytes": k * 7 % N, "packets": k}, "y": k % 2} for k in range(N)]
    columns = {"net": [row["net"] for row in rows], "y": Y}
    pairs = np.array(
        [(row["net"]["bytes"], row["net"]["packets"]) for row in rows], [("bytes", "i8"), ("packets", "i8")]
    )
    (tmp_path / "net.jsonl").write_text("\n".join(map(json.dumps, rows)))
    held = {"rows": rows, "columns": columns, "arrow": pa.table(columns), "structured": {"net": pairs, "y": Y}}
    source = handful.open(held.get(holder, tmp_path / "net.jsonl"), target="y")
    source = handful.prepare(tmp_path / "net.jsonl", tmp_path / "s", target="y") if holder == "store" else source
    assert sorted(source.columns) == ["net.bytes", "net.packets", "y"]
    assert source.take([0, 1, 2]).tensor("net.bytes").tolist() == [0, 7, 14]


def test_pictures_as_hubs_publish_them_are_read_in_a_column():
    pictures = [BytesIO() for _ in range(4)]
    for k, stream in enumerate(pictures):
        Image.new("RGB", (5, 4), (k, 0, 0)).save(stream, "PNG")
    items = [{"bytes": stream.getvalue(), "path": f"{k}.png"} for k, stream in enumerate(pictures)]
    for data in ({"image": items, "y": [0, 1, 0, 1]}, pa.table({"image": items, "y": [0, 1, 0, 1]})):
        assert handful.open(data, target="y").take([2]).tensor("image")[0, 0, 0, 0] == 2


class Model:
    """As pydantic's."""

    def __init__(self, **values):
        self.values = values

    def model_dump(self):
        return self.values


def test_rows_of_data_bases_and_models_of_pydantic():
    base = sqlite3.connect(":memory:")
    base.row_factory = sqlite3.Row
    base.execute("create table t(a real, y integer)")
    base.executemany("insert into t values (?, ?)", zip(X.tolist(), Y.tolist()))
    for rows in (base.execute("select * from t").fetchall(), [Model(a=a, y=y) for a, y in zip(X.tolist(), Y.tolist())]):
        assert handful.open(rows, target="y").take(range(N)).tensor("a").tolist() == X.tolist()
    base.close()


class Numbered:
    """A data set by what it does, whose keys are not what `dict` takes."""

    keys = ("one", "two")

    def __len__(self):
        return N

    def __getitem__(self, row):
        return X[row], int(Y[row])


def test_a_data_set_whose_keys_are_its_own():
    assert handful.open(Numbered()).take([3]).tensor("y").tolist() == [1]


def test_a_row_that_lacks_a_field_or_all_of_them():
    run = handful.fit("linear", LISTS, target="y", until="steps(3)", quiet=True)
    expected = run.predict({"u.a": [None], "u.b": [None]}, probabilities=True)
    for row in ({"u": None}, [{"u": None}], {"u": [{"a": None, "b": None}]}):
        assert run.predict(row, probabilities=True).tolist() == expected.tolist()
    assert run.predict(KINDS["dicts in a column"]).tolist() == run.predict(ROWS).tolist()
    pair = handful.open(([{"a": 1.0, "b": 2}, {"b": 5}], [0, 1]))
    assert pair.take([0, 1]).tensor("b").tolist() == [2, 5]


def test_numbers_of_arrays_are_no_dates_and_their_truth_values_may_be_text():
    run = handful.fit("linear", {"a": X, "flag": X > 0, "y": Y}, target="y", until="steps(3)", quiet=True)
    for times in (np.arange(N).astype("M8[D]"), pd.timedelta_range("1h", periods=N)):
        with pytest.raises(HandfulError, match="column 'a' must be a number but is"):
            run.predict({"a": times, "flag": X > 0})
    words = run.predict(pd.DataFrame({"a": X, "flag": (X > 0).astype(str)}), probabilities=True)
    assert words.tolist() == run.predict({"a": X, "flag": X > 0}, probabilities=True).tolist()
    with pytest.raises(HandfulError, match="must be true or false but is 'maybe'"):
        run.predict(pd.DataFrame({"a": X, "flag": "maybe"}))


class Mixed(torch.utils.data.Dataset):
    """Values of which only some are whole, or fit into the type of the first."""

    def __init__(self, first, other, at):
        self.values, self.at = (first, other), at

    def __len__(self):
        return 64

    def __getitem__(self, row):
        return self.values[row == self.at], row % 2


@pytest.mark.parametrize(("first", "other"), [(0, 0.75), (np.uint8(1), 300), (torch.tensor([1, 2]), [0.5, 2.0])])
def test_items_of_another_type_than_the_first_are_not_cut(first, other):
    seen = handful.open(Mixed(first, other, at=63))  # the last is among those that are looked at
    assert seen.take([63]).tensor("x").flatten().tolist() == np.ravel(other).tolist()
    unseen = handful.open(Mixed(first, other, at=33))
    with pytest.raises(HandfulError, match=r"'x' of row 33 has .* does not hold: give all rows one type"):
        unseen.take([32, 33])
    assert handful.open(Mixed(1.5, 2, at=33)).take([33]).tensor("x").tolist() == [2.0]


class Stream(torch.utils.data.IterableDataset):
    """As a streaming data set of Hugging Face."""

    features = {"a": SimpleNamespace(), "y": SimpleNamespace(names=["no", "yes", "maybe"])}

    def __iter__(self):
        return iter([{"a": float(a), "y": int(y)} for a, y in zip(X, Y)])


def test_a_stream_keeps_the_names_of_its_classes(tmp_path):
    source = handful.open(Stream(), target="y")
    assert source.columns["y"].classes == ("no", "yes", "maybe")
    stored = handful.prepare(Stream(), tmp_path / "store", target="y")
    assert stored.columns["y"].classes == ("no", "yes", "maybe")
    assert set(handful.fit("linear", Stream(), target="y", until="steps(2)", quiet=True).predict(Stream())) <= {
        "no",
        "yes",
    }


def test_whole_numbers_with_decimals_are_the_codes_and_names_of_training(tmp_path):
    """As in a frame with gaps, and in a CSV file of it: one gap made all other rows unknown."""
    codes, y = np.arange(20 * N) % 3, np.tile(Y, 20)
    rows = {"coded": {"k": codes, "y": y}, "named": {"shop_id": codes + 7, "y": y}}
    coded = with_names(handful.open(rows["coded"], target="y"), {"k": ("a", "b", "c")})
    runs = {"coded": handful.fit("linear", coded, until="steps(3)", quiet=True),
            "named": handful.fit("linear", rows["named"], target="y", until="steps(3)", quiet=True)}  # fmt: skip
    for kind, name in {"coded": "k", "named": "shop_id"}.items():
        values = rows[kind][name]
        assert runs[kind].pipeline.columns[name].kind == "category"
        expected = runs[kind].predict({name: values}, probabilities=True)
        assert len(np.unique(expected, axis=0)) == 3
        for other in (values * 1.0, (values * 1.0).astype(str), values.astype(str), values.astype("f4").tolist()):
            assert runs[kind].predict({name: other}, probabilities=True).tolist() == expected.tolist()
        gap = pd.DataFrame({name: [None, *values[1:]], "other": 0})
        gap.to_csv(tmp_path / "gap.csv", index=False)
        for given in (gap, tmp_path / "gap.csv"):
            assert runs[kind].predict(given, probabilities=True)[1:].tolist() == expected[1:].tolist()
    assert runs["coded"].predict({"k": ["c", "b"]}).tolist() == runs["coded"].predict({"k": ["2", "1"]}).tolist()
    dotted = handful.open({"v": ["1.0", "2.0", "1.1"] * 20, "y": Y}, target="y")
    found = [handful.open({"v": texts, "y": [0, 1]}, target="y", columns=dotted.columns).take([0, 1]) for texts in
             (["2", "1"], ["2.0", "1.0"], ["02", "1.10"])]  # fmt: skip
    assert [batch.tensor("v").tolist() for batch in found] == [[2, 0], [2, 0], [-1, -1]]
    zeros = runs["named"].predict({"shop_id": ["08"]}, probabilities=True)  # another name
    assert zeros.tolist() == runs["named"].predict({"shop_id": [None]}, probabilities=True).tolist()


def test_types_of_arrow_that_wrap_others():
    blocks = RNG.normal(size=(4, 2, 3))
    runs = pa.RunEndEncodedArray.from_arrays([3, 4], ["a", "b"])
    turned = pa.fixed_shape_tensor(pa.float64(), [2, 3], permutation=[1, 0])
    storage = pa.array(blocks.reshape(4, 6).tolist(), pa.list_(pa.float64(), 6))
    table = {"t": pa.FixedShapeTensorArray.from_numpy_ndarray(blocks), "r": runs, "y": [0, 1, 0, 1],
             "p": pa.ExtensionArray.from_storage(turned, storage)}  # fmt: skip
    batch = handful.open(pa.table(table), target="y").take(range(4))
    assert batch.tensor("t").tolist() == blocks.tolist()
    assert batch.tensor("p").tolist() == blocks.swapaxes(1, 2).tolist()
    assert batch.tensor("r").tolist() == [0, 0, 0, 1]


def test_the_named_index_of_a_frame_is_said_to_be_no_column():
    frame = pd.DataFrame({"a": X, "y": Y}, index=pd.Index([f"car {k}" for k in range(N)], name="model"))
    said = "the index of the frame is no column (model): reset_index() makes it one."
    assert said in handful.open(frame, target="y").notes
    assert said in handful.open((frame[["a"]], frame["y"])).notes
    assert said not in handful.open(frame.reset_index(drop=True), target="y").notes
    months = pd.DataFrame({"m": pd.period_range("2020-01", periods=N, freq="M"), "y": Y})
    objects = handful.open(months.astype(object), target="y").take(range(N))
    assert objects.tensor("m").tolist() == handful.open(months, target="y").take(range(N)).tensor("m").tolist()


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "lil", "dok", "dia"])
def test_sparse_rows_are_predicted_in_every_form(form):
    x = sparse.random(N, 5, 0.4, format="csr", random_state=0)
    run = handful.fit("linear", (x, Y), until="steps(3)", quiet=True)
    assert run.predict(x.asformat(form), probabilities=True).tolist() == run.predict(x, probabilities=True).tolist()
    assert run.predict(x[:1].asformat(form)).tolist() == run.predict(x)[:1].tolist()


def test_inputs_without_a_name_are_the_only_one_of_training(tmp_path):
    for k in range(12):
        (tmp_path / "ab"[k % 2]).mkdir(exist_ok=True)
        pixels = RNG.integers(0, 100, (9, 9, 3)) + 120 * (k % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "ab"[k % 2] / f"{k}.png")
    run = handful.fit("cnn", tmp_path, until="steps(2)", quiet=True)
    paths = sorted(tmp_path.rglob("*.png"))
    expected = run.predict(paths, probabilities=True)
    pictures = [Image.open(path) for path in paths]
    arrays = np.stack([np.moveaxis(np.asarray(picture), -1, 0) for picture in pictures])
    for given in (pictures, [path.read_bytes() for path in paths], arrays, torch.from_numpy(arrays)):
        assert run.predict(given, probabilities=True).tolist() == expected.tolist()
    assert run.predict(pictures[3], probabilities=True).tolist() == run.predict(paths[3], probabilities=True).tolist()
    labels = [path.parent.name for path in paths]
    assert run.evaluate((pictures, labels)) == run.evaluate(tmp_path)
    ages = handful.fit("linear", pd.DataFrame({"age": X, "y": Y}), target="y", until="steps(2)", quiet=True)
    assert ages.predict(X.tolist()).tolist() == ages.predict({"age": X}).tolist()


def test_a_block_of_sounds_is_sounds():
    sounds = [RNG.normal(size=400 + k).astype(np.float32) for k in range(20)]
    source = handful.open({"sound": sounds, "y": Y[:20]}, target="y", rate=8000)
    run = handful.fit("auto", source, until="steps(2)", quiet=True)
    block = np.stack([sound[:400] for sound in sounds])
    expected = run.predict({"sound": list(block)}, probabilities=True)
    for given in (block, torch.from_numpy(block), {"sound": block}):
        assert run.predict(given, probabilities=True).tolist() == expected.tolist()
    assert run.predict(block[3], probabilities=True).tolist() == run.predict([block[3]], probabilities=True).tolist()


def test_a_store_of_several_targets_is_theirs(tmp_path):
    frame = pd.DataFrame({"a": X, "b": -X, "kind": np.array(["p", "q"])[Y], "size": X * 2})
    run = handful.fit("linear", frame, target="kind,size", until="steps(3)", quiet=True)
    handful.prepare(frame, tmp_path / "store", target="kind,size")
    assert run.evaluate(tmp_path / "store") == run.evaluate(frame)
    valid = handful.fit("linear", frame, target="kind,size", valid=tmp_path / "store", until="steps(3)", quiet=True)
    assert valid.scores.keys() == run.scores.keys()


def test_bfloat16_beside_other_types_and_arrays_without_a_length():
    columns = {"x": torch.tensor(X), "z": torch.tensor(X).bfloat16(), "y": torch.tensor(Y)}
    run = handful.fit("linear", columns, target="y", until="steps(3)", quiet=True)
    sliced = SimpleNamespace(shape=(N,), dtype=np.dtype(float), __array__=lambda dtype=None, copy=None: X)
    assert run.predict({"x": sliced, "z": X}).tolist() == run.predict({"x": X, "z": X}).tolist()


def test_degrees_north_and_south_have_signs():
    for between in ("", " ", "°"):
        north = [f"{abs(v):.1f}{between}{'NS'[int(v < 0)]}" for v in X * 40]
        east = [f"{abs(v):.1f}{between}{'EW'[int(v < 0)]}" for v in -X * 40]
        south = [f"{abs(v):.1f}{between}S" for v in X * 40]
        batch = handful.open({"n": north, "e": east, "s": south, "y": Y}, target="y").take(range(N))
        assert batch.tensor("n").tolist() == (X * 40).round(1).tolist()
        assert batch.tensor("e").tolist() == (-X * 40).round(1).tolist()
        assert batch.tensor("s").tolist() == (-abs(X * 40)).round(1).tolist()
    power = handful.open(
        {"p": [f"{v:.1f}{'W' if v < 50 else 'kW'}" for v in range(1, 100)], "y": range(99)}, target="y"
    )
    assert power.take([0, 98]).tensor("p").tolist() == [1.0, 99000.0]


def test_a_year_of_nines_is_a_year():
    years = [92, 95, 99] * 40
    notes = handful.fit("linear", {"year": years, "score": [1, 2, 99] * 40, "y": [0, 1, 1] * 40}, target="y",
                        until="steps(1)", quiet=True).plan.notes  # fmt: skip
    assert any("'score' is 99 in" in note for note in notes)
    assert not any("'year' is 99 in" in note for note in notes)
