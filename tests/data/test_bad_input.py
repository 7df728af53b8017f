"""Every mistake is one sentence that says what is wrong, where, and what to do."""

import io
import os
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from PIL import Image
from pyarrow import feather, orc

import handful
from handful.base.errors import HandfulError
from handful.data.open import open as open_source


def png(size: tuple[int, int] = (6, 5), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 7).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def text(ending: str, data: str | bytes) -> Callable[[Path], Any]:
    return lambda folder: write(folder / f"data{ending}", data)


def tree(**files: bytes) -> Callable[[Path], Any]:
    def make(folder: Path) -> Path:
        for name, data in files.items():
            write(folder / "set" / name.replace("__", "/").replace("_", "."), data)
        (folder / "set").mkdir(exist_ok=True)
        return folder / "set"

    return make


def zipped(names: dict[str, bytes], link: bool = False) -> Callable[[Path], Any]:
    def make(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "data.zip", "w") as archive:
            for name, data in names.items():
                info = zipfile.ZipInfo(name)
                info.external_attr = (0o120777 if link else 0o100644) << 16
                archive.writestr(info, data)
        return folder / "data.zip"

    return make


def class_without_files(folder: Path) -> Path:
    root = tree(cat__1_png=png(), dog__1_png=png())(folder)
    (root / "emu").mkdir()
    return root


def one_of_two_classes(folder: Path) -> Path:
    root = tree(cat__1_png=png())(folder)
    (root / "emu").mkdir()
    return root


def cut_parquet(folder: Path) -> Path:
    pq.write_table(pa.table({"a": [1, 2]}), folder / "data.parquet")
    return write(folder / "data.parquet", (folder / "data.parquet").read_bytes()[:-9])


def saved(array: Any, pickle: bool = False) -> Callable[[Path], Any]:
    def make(folder: Path) -> Path:
        np.save(folder / "data.npy", array, allow_pickle=pickle)
        return folder / "data.npy"

    return make


def image_table(rows: list[bytes | None]) -> Any:
    return pa.table({"image": pa.array(rows, pa.binary()), "label": [0, 1, 0][: len(rows)]})


def sound(rate: int = 8000, n: int = 50) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(n), rate, format="WAV")
    return buffer.getvalue()


class NoLength(torch.utils.data.Dataset[int]):
    def __getitem__(self, i: int) -> int:
        return i


class Stream(torch.utils.data.IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(3))


A, B = np.zeros((3, 2)), np.array([0, 1, 0])
DUPLICATES = pd.DataFrame([[1, 2], [3, 4]], columns=["a", "a"])

CASES: list[tuple[str, Any, dict[str, Any], str]] = [
    ("missing path", lambda f: f / "none.csv", {}, "not a file, a folder or a data set"),
    ("near name", lambda f: (write(f / "trian.csv", "a,y\n1,2\n"), f / "train.csv")[1], {}, "trian.csv'?"),
    ("near embedded name", lambda f: "diggits", {}, "Did you mean 'digits'?"),
    ("empty csv", text(".csv", ""), {}, "is empty"),
    ("header only", text(".csv", "a,b\n"), {}, "0 rows"),
    ("ragged row", text(".csv", "a,y\n1,0\n2\n3,1\n"), {}, "Row #3: Expected 2 columns, got 1"),
    ("repeated header", text(".csv", "a,a,y\n1,2,0\n"), {}, "2 columns are named 'a'"),
    ("latin-1 csv", text(".csv", b"a,y\ncaf\xe9,0\n"), {}, "not UTF-8"),
    ("unknown target", text(".csv", "age,y\n1,0\n2,1\n"), {"target": "agee"}, "Did you mean 'age'?"),
    ("unknown column", text(".csv", "age,y\n1,0\n2,1\n"), {"columns": ["agee"]}, "Did you mean 'age'?"),
    ("one string for columns", text(".csv", "age,y\n1,0\n"), {"columns": "age"}, "columns=['age']"),
    ("only the target", text(".csv", "y\n1\n2\n"), {"target": "y"}, "no column to learn from"),
    ("all inputs constant", text(".csv", "a,y\n1,0\n1,1\n"), {}, "'a' was left out: it is 1 in every row"),
    ("NaN in target", text(".csv", "a,y\n1,0.5\n2,\n3,1.5\n"), {}, "not a finite number in row 1"),
    ("missing class", text(".csv", "a,y\n1,u\n2,\n3,v\n"), {}, "target 'y' is missing in row 1"),
    ("target all missing", text(".csv", "a,y\n1,\n2,\n"), {}, "'y' cannot be used"),
    ("bad json line", text(".jsonl", '{"a": 1}\n{"a": \n'), {}, "JSON-lines"),
    ("cut parquet", cut_parquet, {}, "not a Parquet file that can be read"),
    ("no parquet at all", text(".parquet", "hello"), {}, "not a Parquet file"),
    ("no arrow at all", text(".arrow", "hello"), {}, "not an Arrow file"),
    (
        "arff with a short row",
        text(".arff", "@relation t\n@attribute a real\n@attribute b {u,v}\n@data\n1,u\n2\n"),
        {},
        "data.arff cannot be read (list index out of range): write it again, or read it with liac-arff",
    ),
    ("arff without rows", text(".arff", "@relation t\n@attribute a numeric\n"), {}, "(it ends too soon)"),
    ("no npy at all", text(".npy", "hello"), {}, "not a .npy file"),
    ("empty npy", text(".npy", ""), {}, "not a .npy file"),
    ("pickled npy", saved(np.array([{}, 1], dtype=object), True), {}, "allow_pickle"),
    ("scalar npy", saved(np.float64(3)), {}, "0 dimensions"),
    ("npy of 0 rows", saved(np.zeros((0, 3))), {}, "0 rows"),
    ("bad npz", text(".npz", "hello"), {}, "not a .npz file"),
    (
        "unsupported ending",
        text(".avro", "hello"),
        {},
        "ends in '.avro', which handful does not read; read it with fastavro",
    ),
    ("a text by another name", text(".md", "# hello"), {}, "to learn from its text, copy it to a name that ends in"),
    ("no ending", text("", "hello"), {}, "data has no ending by which handful knows it; it reads .csv"),
    ("empty text", text(".txt", ""), {}, "is empty"),
    ("latin-1 text", text(".txt", b"caf\xe9"), {}, "byte 0xe9 at 3"),
    ("target of a text", text(".txt", "abc"), {"target": "y"}, "no target 'y'"),
    ("remote ending", lambda f: "memory://set/data.zip", {}, "neither a file that handful reads nor a store"),
    ("remote missing", lambda f: "memory://set/none.csv", {}, "does not exist"),
    ("unknown protocol", lambda f: "nosuch://set/none.csv", {}, "cannot be opened"),
    ("not a file", lambda f: (os.mkfifo(f / "p.csv"), f / "p.csv")[1], {}, "not an ordinary file"),
    ("empty folder", tree(), {}, "is empty"),
    ("no media", tree(a_pdf=b"x", b_pdf=b"x"), {}, "no images, sounds or texts: its files end in .pdf"),
    ("empty class", class_without_files, {}, "class folder 'emu' is empty"),
    ("only one class has files", one_of_two_classes, {}, "class folder 'emu' is empty"),
    ("loose file", tree(cat__1_png=png(), dog__1_png=png(), z_png=png()), {}, "'z.png' lies next to"),
    ("mixed media", tree(cat__1_png=png(), dog__1_wav=sound()), {}, "both images"),
    ("splits", tree(train__cat__1_png=png(), test__cat__1_png=png()), {}, "open one, "),
    ("bad image", tree(cat__1_png=png(), dog__2_png=b"\x89PNG nonsense"), {}, "dog/2.png is not a readable image"),
    ("cut image", tree(cat__1_png=png(), dog__2_png=png((64, 64))[:-40]), {}, "dog/2.png is not a readable image"),
    ("bad sound", tree(a__1_wav=sound(), b__2_wav=b"RIFF"), {}, "b/2.wav is not a readable sound"),
    ("empty sound", tree(a__1_wav=sound(), b__2_wav=sound(n=0)), {}, "b/2.wav has no samples"),
    ("bad zip", text(".zip", "hello"), {}, "not a readable zip"),
    ("zip to the parent", zipped({"../evil.png": png()}), {}, "points outside"),
    ("zip to the root", zipped({"/evil.png": png()}), {}, "points outside"),
    ("zip to a drive", zipped({"c:\\evil.png": png()}), {}, "points outside"),
    ("zip with a link", zipped({"a/1.png": b"/etc/passwd"}, link=True), {}, "is a link"),
    ("empty zip", zipped({}), {}, "is empty"),
    ("bad image in zip", zipped({"a/1.png": png(), "b/2.png": b"x"}), {}, "b/2.png is not a readable image"),
    ("bad image row", image_table([png(), png()[:30]]), {}, "'image' in row 1 is not a readable image"),
    ("image without bytes", image_table([png(), None]), {}, "no bytes in row 1"),
    ("image size", image_table([png()]), {"image_size": 0}, "image_size must be"),
    ("lengths", (A, np.zeros(4)), {}, "'x' has 3, 'y' has 4 rows"),
    ("lengths in a dict", {"a": [1, 2], "b": [1]}, {}, "'a' has 2, 'b' has 1 rows"),
    ("lengths of frames", (pd.DataFrame({"a": [1, 2]}), [1]), {}, "'a' has 2, 'y' has 1 rows"),
    ("three in a tuple", (A, B, B), {}, "a tuple must be (X, y)"),
    ("list of X and y", [A, B], {}, "pass a tuple (X, y)"),
    ("no rows", (np.zeros((0, 2)), np.zeros(0)), {}, "0 rows"),
    ("empty list", [], {}, "0 rows"),
    ("empty dict", {}, {}, "empty dict"),
    ("empty frame", pd.DataFrame({"a": []}), {}, "0 rows"),
    ("text among numbers", (np.array([["1", "2"], ["a", "3"]]), [0, 1]), {}, "'a' in row 1, column 0"),
    ("text in a list of rows", ([[1, 2], [3, "b"]], [0, 1]), {}, "'b' in row 1"),
    ("mixed list", ([1, 2.5, [3]], [0, 1, 0]), {}, "mixes numbers with list ([3] in row 2)"),
    ("objects", (np.array([object(), object()]), [0, 1]), {}, "objects of object"),
    ("complex", (A + 1j, B), {}, "complex"),
    ("complex tensor", (torch.zeros(3, 2, dtype=torch.complex64), B), {}, "complex"),
    ("sparse tensor of 3 dimensions", (torch.zeros(3, 2, 2).to_sparse(), B), {}, "to_dense()"),
    ("0-d tensor", torch.tensor(3.0), {}, "0 dimensions"),
    ("0-d array", (np.float64(2), B), {}, "0 dimensions"),
    ("array of bytes of no type", (np.zeros(3, dtype="V4"), B), {}, "no type: pass a dict"),
    ("NaN in y", (A, np.array([0.0, np.nan, np.nan])), {}, "row 1 (and in 1 more rows)"),
    ("inf in y", (A, torch.tensor([0.0, 1.0, float("inf")])), {}, "not a finite number in row 2"),
    ("NaN in a bfloat16 y", (A, torch.tensor([0.0, float("nan"), 0.0]).bfloat16()), {}, "row 1"),
    ("target of a pair", (A, B), {"target": "z"}, "the target of a pair (X, y) is 'y'"),
    ("y is None", (A, None), {}, "y is None"),
    ("y of two columns", (A, pd.DataFrame({"a": [1, 2, 3], "b": [1, 2, 3]})), {}, "y has 2 columns"),
    ("y in X", (pd.DataFrame({"y": [1, 2]}), pd.Series([1, 2], name="y")), {}, "both a column of X and"),
    ("repeated column", DUPLICATES, {}, "2 columns are named 'a'"),
    (
        "mixed frame column",
        pd.DataFrame({"a": [1, {2}, None], "b": [1, 2, 3]}),
        {},
        "column 'a' mixes types or holds objects (NoneType, int, set)",
    ),
    (
        "rows of other shape",
        [np.zeros((2, 3)), np.zeros((2, 4)), np.zeros((2, 3))],
        {},
        "row 1 of 'x' has shape (2, 4)",
    ),
    ("uint64", np.array([[2**64 - 1, 1]], dtype=np.uint64), {}, "2^63"),
    ("list with a hole", pa.table({"a": [[1], None], "b": [1, 2]}), {"target": "a"}, "no list in row 1"),
    ("bytes", b"abc", {}, "cannot open bytes"),
    ("empty path", "", {}, "the path is empty"),
    ("endless path", "x" * 5000, {}, "cannot be looked up"),
    ("a number", 3, {}, "cannot open a int"),
    ("an empty generator", iter(()), {}, "gave no row"),
    ("numbers of an iterable data set", (Stream(), B), {}, "Stream"),
    ("no length", NoLength(), {}, "__len__"),
    ("empty data set", torch.utils.data.Subset(NoLength(), []), {}, "0 rows"),
    ("rate", (A, B), {"rate": 0}, "at least 1 Hz"),
]


@pytest.mark.parametrize(("what", "where", "options", "says"), CASES, ids=[c[0] for c in CASES])
def test_mistake_is_one_clear_sentence(what: str, where: Any, options: Any, says: str, tmp_path: Path) -> None:
    given = where(tmp_path) if callable(where) and not isinstance(where, torch.utils.data.Dataset) else where
    with pytest.raises(HandfulError) as caught:
        open_source(given, **options)
    sentence = str(caught.value)
    assert says in sentence, sentence
    assert "\n" not in sentence
    assert sentence.strip() == sentence, sentence
    assert sentence[-1] not in ",;:", sentence
    assert not sentence.endswith(".") or sentence.endswith("...") or " Known: " in sentence, sentence  # one convention


def test_file_without_permission(tmp_path: Path) -> None:
    path = write(tmp_path / "secret.csv", "a,y\n1,2\n")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(HandfulError, match="permission denied"):
        open_source(path)


@pytest.mark.parametrize("ending", ["feather", "arrow", "arrow stream", "orc"])
@pytest.mark.parametrize("kind", ["offsets", "letters", "codes"])
def test_values_that_lead_out_of_a_damaged_file_are_named(tmp_path: Path, ending: str, kind: str) -> None:
    """Arrow reads such files as they are; who then follows their offsets ends by a bus error, or reads other memory."""
    words = pa.array([f"word{k:02d}" for k in range(40)])
    codes = pa.DictionaryArray.from_arrays(pa.array([k % 2 for k in range(40)], pa.int32()), ["u", "v"])
    table, path = (
        pa.table({"a": codes if kind == "codes" else words, "b": [k % 7 for k in range(40)], "y": range(40)}),
        tmp_path / f"t.{ending[:7]}",
    )
    match ending:
        case "orc":
            if kind == "codes":
                table = table.set_column(0, "a", table["a"].cast(pa.string()))
            orc.write_table(table, path, compression="uncompressed")
        case "feather":
            feather.write_feather(table, path, compression="uncompressed")
        case _:
            path = tmp_path / "t.arrow"
            new = pa.ipc.new_stream if ending == "arrow stream" else pa.ipc.new_file
            with new(path, table.schema) as writer:
                writer.write_table(table)
    assert len(open_source(path)) == 40
    old, new_bytes = {
        "offsets": (np.arange(6, 24, 6, "<i4").tobytes(), np.array([6, 2**30, 18], "<i4").tobytes()),
        "letters": (b"word07", b"wor\xff\xfe7"),
        "codes": (np.array([0, 1, 0, 1], "<i4").tobytes(), np.array([0, 1, 9**9, 1], "<i4").tobytes()),
    }[kind]
    data = path.read_bytes()
    if old not in data:
        pytest.skip("ORC packs them otherwise")
    path.write_bytes(data.replace(old, new_bytes, 1))
    for deed in (open_source, lambda p: handful.prepare(p, tmp_path / "store")):
        with pytest.raises(HandfulError, match=rf"{path.name}.* cannot be read|{path.name}.* that can be read"):
            deed(path)


def test_item_that_fails_is_named() -> None:
    class Broken(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 7

        def __getitem__(self, i: int) -> Any:
            if i == 2:
                raise RuntimeError("bad disk")
            return torch.zeros(3, 2), i

    with pytest.raises(HandfulError, match="reading row 2 failed: RuntimeError: bad disk"):
        open_source(Broken()).take([1, 2])


def tar_of(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


class TestPrepare:
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ({"store": None}, "the store must be the name of a folder"),
            ({"store": ""}, "the store must be the name of a folder"),
            ({"store": "memory://a/b"}, "a store is written on this machine"),
            ({"shards": 1.5}, "shards must be a whole number"),
            ({"shards": "2"}, "shards must be a whole number"),
            ({"workers": 0}, "workers must be at least 1"),
            ({"rate": "8000"}, "rate must be a whole number of Hz"),
            ({"image_size": 1.5}, "image_size must be a side"),
            ({"target": 5}, "target must be the name of a column"),
            ({"target": []}, "target must be the name of a column"),
            ({"where": ["gone1.csv", "gone2.csv"]}, "'gone1.csv' is not a file"),
            ({"where": {"x": ["\ud800", "b"]}}, "'x' holds text that no file can hold"),
        ],
    )
    def test_a_wrong_argument_is_one_sentence(self, tmp_path, arguments, says):
        given = {"where": {"x": np.arange(4)}, "store": tmp_path / "store", **arguments}
        with pytest.raises(HandfulError, match=re.escape(says)):
            handful.prepare(**given)
        assert not (tmp_path / "store").exists()

    def test_a_place_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(HandfulError, match="cannot be written"):
            handful.prepare("iris", tmp_path / "file" / "store")

    def test_a_table_with_a_header_alone_adds_no_rows(self, tmp_path):
        (tmp_path / "a.csv").write_text("a,b\n1,x\n2,y\n")
        (tmp_path / "b.csv").write_text("a,b\n")
        assert len(handful.prepare(str(tmp_path / "*.csv"), tmp_path / "store")) == 2

    @pytest.mark.parametrize("cut", [700, 1024, 1300, 2100])
    def test_a_tar_shard_that_is_cut_short_is_named(self, tmp_path, cut):
        whole = tar_of(tmp_path / "whole.tar", {"0.txt": b"a" * 300, "0.cls": b"1", "1.txt": b"b", "1.cls": b"0"})
        (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:cut])
        with pytest.raises(HandfulError, match=r"cut\.tar is cut short"):
            handful.prepare(tmp_path / "cut.tar", tmp_path / "store")
        assert len(handful.prepare(whole, tmp_path / "store")) == 2

    @pytest.mark.parametrize(
        ("members", "says"),
        [({"0.txt": b"\xff", "0.cls": b"1"}, "0.txt is not UTF-8"), ({"0.xyz": b"1"}, "'.xyz' was left out")],
    )
    def test_a_tar_member_that_cannot_be_used_is_named(self, tmp_path, members, says):
        with pytest.raises(HandfulError, match=re.escape(says)):
            handful.prepare(tar_of(tmp_path / "a.tar", members), tmp_path / "store")


@pytest.mark.parametrize("kinds", [("images", "masks"), ("Image", "GT"), ("photos", "labels")])
def test_pictures_and_their_masks_are_no_two_classes(tmp_path, kinds):
    for kind in kinds:
        (tmp_path / kind).mkdir()
        for k in range(6):
            Image.new("RGB", (8, 8), (k, k, k)).save(tmp_path / kind / f"{k}.png")
    with pytest.raises(HandfulError, match=f"their '{kinds[1]}', which are no class of picture"):
        handful.open(tmp_path)
    (tmp_path / kinds[1] / "5.png").rename(tmp_path / kinds[1] / "other.png")
    assert handful.open(tmp_path).columns["label"].classes == tuple(sorted(kinds))


def test_a_file_that_is_not_utf8_is_said_to_be_so_wherever_the_letter_stands(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("Betrag;Netto\n1,50 €;1,2\n".encode("cp1252") * 3)
    with pytest.raises(HandfulError, match="is not UTF-8"):
        handful.open(path, target="Netto")


def test_addresses_alone_are_texts(tmp_path):
    path = tmp_path / "a.csv"
    ends = ["top/win-prize", "org/page"]
    path.write_text("url,y\n" + "\n".join(f"http://www.{k * 7919}.{ends[k % 2]}?id={k},{k % 2}" for k in range(200)))
    run = handful.fit("auto", str(path), target="y", batch=16, lr=0.01, until="epochs(3)", quiet=True)
    assert run.scores["valid_accuracy"] == 1
    assert run.predict({"url": "https://new.top/win-prize?id=5"}).tolist() == [0]
    path.write_text("code,y\n" + "\n".join(f"P{k:05d},{k % 2}" for k in range(200)))
    with pytest.raises(HandfulError, match="as in an identifier"):
        handful.open(path, target="y")


def test_a_run_that_has_the_name_of_a_data_set_is_not_taken_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "iris").mkdir()
    with pytest.raises(HandfulError, match="iris is empty"):
        handful.open("iris")
    (tmp_path / "iris" / "run.lock").touch()  # as `handful train iris --out iris` makes it
    assert len(handful.open("iris")) == 150
