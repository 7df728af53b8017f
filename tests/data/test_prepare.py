"""`prepare` gives the same rows as `open`, from every kind of input, streamed or not."""

import gzip
import io
import json
import tarfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import handful
from handful.base.errors import HandfulError
from handful.data.base import Ragged
from handful.data.store import inputs
from handful.data.store.prepare import prepare
from handful.data.store.remote import PAGE, open_remote_store
from handful.data.tables import files as table_files
from handful.data.tables.cells.records import text_blocks
from handful.data.tables.types import join_types


@pytest.fixture
def small_blocks(monkeypatch):
    """Everything is streamed, a few rows at a time."""
    monkeypatch.setattr(inputs, "SMALL", 0)
    monkeypatch.setattr(table_files, "BLOCK", 300)
    monkeypatch.setattr(table_files, "ROWS", 7)


def frame(n=60, seed=0):
    rng = np.random.default_rng(seed)
    found = pd.DataFrame(
        {
            "whole": rng.integers(-5, 5, n),
            "real": rng.normal(size=n),
            "gaps": np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)),
            "colour": rng.choice(["red", "green", "blue"], n),
            "text": [f'a text, with "quotes"\nand line {i}' for i in range(n)],
            "same": 1,
            "label": rng.choice(["no", "yes"], n),
        }
    )
    found.loc[3, "colour"] = ""
    return found


def same(store, source):
    assert store.columns == source.columns
    assert store.target == source.target
    assert len(store) == len(source)
    ours, theirs = store.take(range(len(store))), source.take(range(len(source)))
    for name in source.columns:
        a, b = ours[name], theirs[name]
        if isinstance(b, Ragged):
            assert torch.equal(a.offsets, b.offsets)
            a, b = a.values, b.values
        if isinstance(b, torch.Tensor):
            assert a.dtype == b.dtype, name
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        else:
            assert a == b, name


def write(path, data, kind):
    if kind == "csv":
        data.to_csv(path, index=False)
    elif kind == "csv.gz":
        data.to_csv(path, index=False, compression="gzip")
    elif kind == "tsv":
        data.to_csv(path, index=False, sep="\t")
    elif kind == "parquet":
        data.to_parquet(path, row_group_size=13)
    elif kind == "jsonl":
        data.to_json(path, orient="records", lines=True)
    elif kind == "arrow":
        table = pa.Table.from_pandas(data, preserve_index=False)
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=9)
    return str(path)


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv", "parquet", "jsonl", "arrow"])
def test_streamed_in_small_blocks_equals_opened_whole(tmp_path, small_blocks, kind):
    where = write(tmp_path / f"in.{kind}", frame(), kind)
    same(prepare(where, tmp_path / "s", shards=2), handful.open(where))


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_a_glob_a_list_and_a_folder_equal_one_file(tmp_path, small_blocks, kind):
    whole = frame()
    expected = handful.open(write(tmp_path / f"whole.{kind}", whole, kind))
    (tmp_path / "parts").mkdir()
    parts = [write(tmp_path / "parts" / f"{i}.{kind}", whole[i * 20 : i * 20 + 20], kind) for i in range(3)]
    same(prepare(str(tmp_path / "parts" / f"*.{kind}"), tmp_path / "a"), expected)
    same(prepare(parts, tmp_path / "b"), expected)
    same(prepare(tmp_path / "parts", tmp_path / "c"), expected)


def test_a_type_that_shows_late_is_seen(tmp_path, small_blocks):
    lines = ["a,b,label"] + [f"{i},{i},{i % 2}" for i in range(100)] + [f"1.5,w{i % 7},0" for i in range(150)]
    (tmp_path / "in.csv").write_text("\n".join(lines))
    store = prepare(str(tmp_path / "in.csv"), tmp_path / "s", columns=["a", "b", "label"])
    assert store.columns["a"].dtype == "float64"
    assert store.columns["b"].kind == "category"
    assert store.take([100]).tensor("a").item() == 1.5


def test_files_of_two_schemas_are_refused(tmp_path, small_blocks):
    (tmp_path / "1.csv").write_text("a,b\n1,2\n3,4\n")
    (tmp_path / "2.csv").write_text("a,c\n1,2\n3,4\n")
    with pytest.raises(HandfulError, match=r"1\.csv, .* has a column 'b' and .*2\.csv, .* has none"):
        prepare(str(tmp_path / "*.csv"), tmp_path / "s")
    (tmp_path / "2.csv").write_text("a\n1\n3\n")
    with pytest.raises(HandfulError, match=r"1\.csv, .* has a column 'b' and .*2\.csv, .* has none"):
        prepare(str(tmp_path / "*.csv"), tmp_path / "s")
    with pytest.raises(HandfulError, match="no file matches"):
        prepare(str(tmp_path / "*.parquet"), tmp_path / "s")


def test_a_broken_row_in_the_middle_is_named(tmp_path, small_blocks):
    lines = ["a,b"] + ["1,2"] * 200
    lines[150] = "1,2,3"
    (tmp_path / "in.csv").write_text("\n".join(lines))
    with pytest.raises(HandfulError, match=r"in\.csv, after byte \d+ is not a CSV file"):
        prepare(str(tmp_path / "in.csv"), tmp_path / "s")
    assert not (tmp_path / "s").exists()


@settings(max_examples=100, deadline=None)
@given(
    records=st.lists(st.text(alphabet='ab",\n', max_size=12), min_size=1, max_size=20),
    size=st.integers(1, 40),
)
def test_blocks_of_csv_are_whole_records_whatever_is_quoted(records, size):
    lines = ['"' + r.replace('"', '""') + '"' for r in records]
    text = "".join(line + "\n" for line in lines).encode()
    blocks = list(text_blocks(io.BytesIO(text), size, quoted=True))
    assert b"".join(blocks) == text
    import csv

    found = [row[0] for block in blocks for row in csv.reader(io.StringIO(block.decode(), newline=""))]
    assert found == records


def test_joined_types_hold_both():
    assert join_types(pa.int32(), pa.int64()) == pa.int64()
    assert join_types(pa.int64(), pa.float64()) == pa.float64()
    assert join_types(pa.null(), pa.int8()) == pa.int8()
    assert join_types(pa.int64(), pa.large_string()) == pa.large_string()
    assert join_types(pa.list_(pa.int64()), pa.int64()) is None


def test_lists_of_numbers_are_blocks_or_ragged(tmp_path, small_blocks):
    rng = np.random.default_rng(0)
    lists = [rng.integers(0, 9, k).tolist() for k in rng.integers(0, 5, 40)]
    blocks = rng.normal(size=(40, 2, 3)).tolist()
    table = pa.table({"ids": lists, "block": blocks, "label": list(range(2)) * 20})
    pa.parquet.write_table(table, tmp_path / "in.parquet", row_group_size=11)
    same(prepare(str(tmp_path / "in.parquet"), tmp_path / "s", shards=3), handful.open(str(tmp_path / "in.parquet")))


def picture(seed, size=(9, 7), kind="PNG"):
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)).save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize("images", ["decoded", "encoded"])
@pytest.mark.parametrize("sizes", ["one", "several"])
def test_images_of_folders_and_parquet(tmp_path, small_blocks, images, sizes):
    pictures = [picture(i, (9, 7 + (sizes == "several") * (i % 2))) for i in range(24)]
    table = pa.table({"image": [{"bytes": p, "path": None} for p in pictures], "label": [i % 3 for i in range(24)]})
    pa.parquet.write_table(table, tmp_path / "in.parquet", row_group_size=5)
    store = prepare(str(tmp_path / "in.parquet"), tmp_path / "s", images=images, shards=2)
    same(store, handful.open(str(tmp_path / "in.parquet")))
    for i, data in enumerate(pictures):
        (tmp_path / "f" / str(i % 3)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / str(i % 3) / f"{i}.png").write_bytes(data)
    folder = prepare(tmp_path / "f", tmp_path / "t", images=images)
    same(folder, handful.open(tmp_path / "f"))
    layouts = {part.layout for part in folder.manifest.parts}
    assert ("image" in layouts) == (images == "encoded")
    assert folder.in_memory == (images == "decoded")


def test_sounds_of_two_rates_are_decoded_as_open_does(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(8):
        (tmp_path / "f" / f"c{i % 2}").mkdir(parents=True, exist_ok=True)
        samples = rng.uniform(-1, 1, (200 + 10 * i, 1 + (i == 3)))
        soundfile.write(tmp_path / "f" / f"c{i % 2}" / f"{i}.wav", samples, 8000 if i else 16000)
    same(prepare(tmp_path / "f", tmp_path / "s", shards=2), handful.open(tmp_path / "f"))


def add(archive, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def test_webdataset_tar_shards(tmp_path):
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as archive:
            for i in range(shard * 6, shard * 6 + 6):
                add(archive, f"{i:04d}.png", picture(i))
                add(archive, f"{i:04d}.cls", str(i % 3).encode())
                add(archive, f"{i:04d}.json", json.dumps({"width": i * 2.5}).encode())
    store = prepare(str(tmp_path / "*.tar"), tmp_path / "s")
    batch = store.take([7, 2])
    assert store.target == "label"
    assert batch.tensor("label").tolist() == [1, 2]
    assert batch.tensor("width").tolist() == [17.5, 5.0]
    expected = np.asarray(Image.open(io.BytesIO(picture(7)))).transpose(2, 0, 1)
    np.testing.assert_array_equal(batch.tensor("image")[0].numpy(), expected)


@pytest.mark.parametrize("name", ["../x.cls", "/etc/x.cls", "a/../../x.cls", "c:/x.cls"])
def test_a_tar_entry_that_points_outside_is_refused(tmp_path, name):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, name, b"1")
    with pytest.raises(HandfulError, match="points outside the archive"):
        prepare(str(tmp_path / "a.tar"), tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_tar_links_incomplete_rows_and_cut_tars_are_refused(tmp_path):
    with tarfile.open(tmp_path / "link.tar", "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(HandfulError, match="is a link"):
        prepare(str(tmp_path / "link.tar"), tmp_path / "s")
    with tarfile.open(tmp_path / "odd.tar", "w") as archive:
        add(archive, "a.png", picture(0))
        add(archive, "a.cls", b"1")
        add(archive, "b.png", picture(1))
    with pytest.raises(HandfulError, match=r"the row of b\.png has no \.cls"):
        prepare(str(tmp_path / "odd.tar"), tmp_path / "s")
    data = (tmp_path / "odd.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[:700])
    with pytest.raises(HandfulError, match=r"cut\.tar"):
        prepare(str(tmp_path / "cut.tar"), tmp_path / "s")
    (tmp_path / "zip.tar").write_bytes(gzip.compress(data))  # packed, whatever its name says
    with pytest.raises(HandfulError, match=r"has no \.cls"):
        prepare(str(tmp_path / "zip.tar"), tmp_path / "s")


def test_torch_datasets_with_and_without_lengths(tmp_path):
    class Dataset(torch.utils.data.Dataset):
        def __init__(self, varies):
            self.varies = varies

        def __len__(self):
            return 200

        def __getitem__(self, i):
            return torch.arange(3 + self.varies * (i % 5), dtype=torch.float32) + i, i % 4

    store = prepare(Dataset(False), tmp_path / "a")
    assert store.take([10]).tensor("x").tolist() == [[10.0, 11.0, 12.0]]
    ragged = prepare(Dataset(True), tmp_path / "b").take([9, 1])
    assert ragged["x"].values.tolist() == [9.0, 10, 11, 12, 13, 14, 15, 1, 2, 3, 4]
    assert ragged["x"].offsets.tolist() == [0, 7, 11]


def test_a_hugging_face_like_data_set_is_streamed_with_its_class_names(tmp_path, small_blocks):
    class Feature:
        names = ["cat", "dog"]

    class Dataset:
        features = {"x": object(), "label": Feature()}
        table = pa.table({"x": np.arange(20.0), "label": [0, 1] * 10})

        def with_format(self, _):
            return self

        def __len__(self):
            return 20

        def __getitem__(self, rows):
            return self.table[rows]

    store = prepare(Dataset(), tmp_path / "s")
    assert store.columns["label"].classes == ("cat", "dog")
    assert store.take([3]).tensor("label").item() == 1


# Far away


@pytest.fixture
def far(tmp_path):
    """A store on a remote file system, and the same one here."""
    import fsspec

    rng = np.random.default_rng(0)
    n = 4000
    data = {
        "x": rng.integers(0, 255, (n, 64, 16)).astype(np.uint8),
        "ids": [torch.from_numpy(rng.integers(0, 99, k)) for k in rng.integers(0, 20, n)],
        "text": [f"row {i} has these words {'x' * (i % 30)}" for i in range(n)],
        "y": rng.integers(0, 3, n),
    }
    here = prepare(data, tmp_path / "s", shards=3, target="y")
    fs = fsspec.filesystem("memory")
    fs.put(str(tmp_path / "s") + "/", "/bucket/s/", recursive=True)
    yield here, "memory://bucket/s", fs
    fs.rm("/bucket", recursive=True)


def test_a_remote_store_gives_the_same_rows(far):
    here, where, _ = far
    there = handful.open(where)
    assert there.columns == here.columns
    for rows in ([], [5], [3999, 0, 5, 5, 1333, 1334], np.random.default_rng(1).integers(0, 4000, 300)):
        a, b = here.take(np.array(rows, np.int64)), there.take(np.array(rows, np.int64))
        assert torch.equal(a["x"], b["x"])
        assert torch.equal(a["ids"].values, b["ids"].values)
        assert torch.equal(a["ids"].offsets, b["ids"].offsets)
        assert a["text"] == b["text"]


def test_the_cache_is_bounded_and_each_page_is_fetched_once_while_it_fits(far):
    here, where, _ = far
    large = open_remote_store(where, cache=64 << 20)
    for start in range(0, 4000, 100):
        large.take(range(start, start + 100))
    assert here.manifest.bytes * 0.9 < large.pages.fetched <= here.manifest.bytes
    small = open_remote_store(where, cache=12 * PAGE)
    for seed in range(5):
        rows = np.random.default_rng(seed).integers(0, 1300, 20)
        assert torch.equal(small.take(rows)["x"], here.take(rows)["x"])
        assert small.pages.held <= 12 * PAGE


def test_a_cache_that_is_too_small_is_an_error_at_the_start(far):
    _, where, _ = far
    with pytest.raises(HandfulError, match="needs a cache of at least"):
        open_remote_store(where, cache=PAGE)
    store = open_remote_store(where, cache=8 * PAGE)
    order = handful.Order(4000, shuffle="block", block=16, window=3900)
    with pytest.raises(HandfulError, match=r"window of 4,000 rows needs .* HANDFUL_CACHE"):
        handful.Batches(store, order)
    roomy = open_remote_store(where, cache=16 << 20)
    assert len(handful.Batches(roomy, order).at(0, 10)) == 10


def test_a_remote_store_that_is_damaged_is_named(far):
    _, where, fs = far
    data = fs.cat_file("/bucket/s/00001/000.values")
    fs.pipe_file("/bucket/s/00001/000.values", data[:-5])
    with pytest.raises(HandfulError, match=r"00001/000\.values has .* instead of"):
        handful.open(where)
    fs.rm_file("/bucket/s/00001/000.values")
    with pytest.raises(HandfulError, match=r"00001/000\.values is missing"):
        handful.open(where)
    fs.rm_file("/bucket/s/manifest.json")
    with pytest.raises(HandfulError, match=r"has no manifest\.json"):
        handful.open(where)


def test_a_flipped_bit_of_a_remote_store_is_found_when_its_block_is_read(far):
    here, where, fs = far
    data = bytearray(fs.cat_file("/bucket/s/00001/000.values"))
    data[700_000] ^= 1
    fs.pipe_file("/bucket/s/00001/000.values", bytes(data))
    store = handful.open(where)
    assert torch.equal(store.take(range(900))["x"], here.take(range(900))["x"])  # shard 0 is whole
    with pytest.raises(HandfulError, match=r"00001/000\.values is damaged between bytes 0 and"):
        store.take(range(1333, 2666))


def test_a_cache_for_which_the_disk_has_no_room_is_an_error_at_the_start(far, monkeypatch):
    _, where, _ = far
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("handful.data.store.remote.shutil.disk_usage", lambda _: usage)
    with pytest.raises(HandfulError, match="which has 1,000 free: set HANDFUL_CACHE"):
        handful.open(where)


def test_remote_files_are_streamed(tmp_path):
    import fsspec

    fs = fsspec.filesystem("memory")
    for i in range(2):
        fs.pipe_file(f"/tables/{i}.csv", frame()[i * 30 : i * 30 + 30].to_csv(index=False).encode())
    store = prepare("memory://tables/*.csv", tmp_path / "s")
    frame().to_csv(tmp_path / "in.csv", index=False)
    same(store, handful.open(str(tmp_path / "in.csv")))
    fs.rm("/tables", recursive=True)


@pytest.mark.parametrize(
    ("ending", "mode"), [(".tar.gz", "gz"), (".tgz", "gz"), (".tar.bz2", "bz2"), (".tar.xz", "xz")]
)
def test_compressed_tars_give_the_store_that_plain_ones_give(tmp_path, ending, mode):
    for name, how in ((".tar", "w"), (ending, f"w:{mode}")):
        with tarfile.open(tmp_path / f"a{name}", how) as archive:
            for i in range(9):
                add(archive, f"{i}.png", picture(i))
                add(archive, f"{i}.cls", str(i % 3).encode())
    same(prepare(tmp_path / f"a{ending}", tmp_path / "packed"), prepare(tmp_path / "a.tar", tmp_path / "plain"))


def npy(array, **options):
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


def test_arrays_in_tars(tmp_path):
    rng = np.random.default_rng(0)
    fixed = [rng.normal(size=(3, 2)).astype("f4") for _ in range(7)]
    ragged = [rng.normal(size=(i, 4)).astype(">f8") for i in range(7)]
    tokens = [np.arange(i + 1, dtype=np.int32) for i in range(7)]
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for i in range(7):
            add(archive, f"{i}.x.npy", npy(fixed[i]))
            add(archive, f"{i}.long.npy", npy(ragged[i]))
            add(archive, f"{i}.ids.npy", npy(tokens[i]))
            add(archive, f"{i}.cls", str(i % 2).encode())
    store = prepare(tmp_path / "a.tar", tmp_path / "s", target="label")
    batch = store.take([5, 0, 5])
    np.testing.assert_array_equal(batch["x"].numpy(), np.stack([fixed[5], fixed[0], fixed[5]]))
    np.testing.assert_array_equal(batch["long"].values.numpy(), np.concatenate([ragged[5], ragged[0], ragged[5]]))
    assert batch["long"].offsets.tolist() == [0, 5, 5, 10]
    assert store.columns["ids"].kind == "tokens"
    assert batch["ids"].values.tolist() == [0, 1, 2, 3, 4, 5, 0, 0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (np.zeros((3, 3)), "make them alike"),
        (np.zeros(3), "make them alike"),
        (np.zeros((2, 2), "i4"), "make them alike"),
        (np.array([object()]), "holds object"),
        (b"no array", "is not a .npy file"),
        (b"", "is not a .npy file"),
    ],
)
def test_arrays_in_tars_that_cannot_be_used_are_named(tmp_path, second, said):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "0.npy", npy(np.zeros((2, 2))))
        add(archive, "1.npy", second if isinstance(second, bytes) else npy(second, allow_pickle=True))
    with pytest.raises(HandfulError, match=said) as error:
        prepare(tmp_path / "a.tar", tmp_path / "s")
    assert "1.npy" in str(error.value)


def test_a_compressed_tar_that_is_cut_short_is_named(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        add(archive, "0.npy", npy(np.random.default_rng(0).normal(size=5000)))
    whole = (tmp_path / "a.tar.gz").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(HandfulError, match=r"a\.tar\.gz cannot be unpacked"):
        prepare(tmp_path / "a.tar.gz", tmp_path / "s")


def test_killed_between_the_two_renamings_the_store_is_the_old_one(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("a,y\n" + "1,x\n2,z\n" * 9)
    handful.prepare(table, tmp_path / "store")
    (tmp_path / "store").rename(tmp_path / ".store.old")
    assert len(handful.prepare(table, tmp_path / "store")) == 18
    (tmp_path / "store").rename(tmp_path / ".store.old")
    table.write_text("a,y\n" + "1,x\n2,z\n" * 5)
    with pytest.raises(handful.HandfulError, match="is there already"):
        handful.prepare(table, tmp_path / "store")
    assert len(handful.prepare(table, tmp_path / "store", overwrite=True)) == 10
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store", "t.csv"]


@pytest.mark.parametrize("goal", ["b", None])
@pytest.mark.parametrize("name", ["time", "id", "n"])
@pytest.mark.parametrize("different", [1, 3, 60])
def test_whole_numbers_past_63_bits_are_in_a_store_what_open_makes_of_them(
    name, different, goal, small_blocks, tmp_path
):
    """Whether they are names or amounts is one rule; a column of times was refused by `prepare` alone."""
    values = np.uint64(2**63) + np.arange(60, dtype=np.uint64) % np.uint64(different) * np.uint64(7919)
    table = pd.DataFrame({name: values, "a": np.arange(60) + 0.5, "b": np.arange(60) % 2})
    table.to_csv(tmp_path / "rows.csv", index=False)
    plain = handful.open(tmp_path / "rows.csv", target=goal or name)
    store = prepare(tmp_path / "rows.csv", tmp_path / "store", target=goal or name)
    assert {key: column.kind for key, column in store.columns.items()} == {
        key: column.kind for key, column in plain.columns.items()
    }
    rows = list(range(60))
    for key in plain.columns:
        assert torch.equal(store.take(rows)[key], plain.take(rows)[key])
    said, of_store = ([note for note in source.notes if f"'{name}'" in note] for source in (plain, store))
    assert of_store == said
