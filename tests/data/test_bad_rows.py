"""Rows that cannot be read: all named, in one sentence and at once, or skipped and counted."""

import gzip
import io
import json
import os
import re
import struct
import tarfile
import time
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

import handful
from handful.base.errors import HandfulError

RNG = np.random.default_rng(0)


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


PIXELS = RNG.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
FILES = [png(pixels) for pixels in PIXELS]


@pytest.fixture
def folder(tmp_path):
    """Thirty pictures in the folders a and b: two are broken, one a pipe, one a device, one a link to nothing."""
    for i, data in enumerate(FILES):
        path = tmp_path / "set" / "ab"[i // 15] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    where = tmp_path / "set"
    (where / "a" / "03.png").write_bytes(b"junk")
    (where / "b" / "20.png").write_bytes(FILES[20][: len(FILES[20]) // 2])
    (where / "a" / "05.png").unlink()
    os.mkfifo(where / "a" / "05.png")
    (where / "b" / "21.png").unlink()
    (where / "b" / "21.png").symlink_to("/dev/zero")
    (where / "b" / "22.png").unlink()
    (where / "b" / "22.png").symlink_to("/nowhere/at/all.png")
    return where


BROKEN = [3, 5, 20, 21, 22]
KEPT = [i for i in range(30) if i not in BROKEN]


def test_all_are_named_in_under_a_second(folder):
    handful.open({"x": [1.0, 2.0]})
    start = time.perf_counter()
    with pytest.raises(HandfulError) as error:
        handful.open(folder)
    assert time.perf_counter() - start < 5  # a second on a machine that is not busy
    said = str(error.value)
    assert said.startswith(f"{folder}/a/03.png is not a readable image (its format is unknown): repair or remove it")
    names = ["a/03", "a/05", "b/20", "b/21", "b/22"]
    assert re.findall(r"/([ab]/\d\d)\.png", said) == names


@pytest.mark.parametrize("memory", [None, 0])
def test_they_are_skipped_and_counted(folder, memory, tmp_path):
    with pytest.raises(HandfulError, match=r"cannot be read, more than the 3 that may be skipped: .*a/03\.png"):
        handful.open(folder, bad_rows="skip", memory=memory)
    source = handful.open(folder, bad_rows=5, memory=memory)
    np.testing.assert_array_equal(source.take(range(25)).tensor("image").numpy(), PIXELS[KEPT].transpose(0, 3, 1, 2))
    assert source.take(range(25)).tensor("label").tolist() == [i // 15 for i in KEPT]
    note = next(note for note in source.notes if "cannot be read" in note)
    assert "2 unreadable images, 2 special files, 1 missing file of 30 rows" in note
    assert "b/22.png" in note
    store = handful.prepare(folder, tmp_path / f"{memory}", bad_rows=5)
    assert len(store) == 25
    assert note in store.notes


def test_training_skips_them_too(folder):
    for name in ("a/05", "b/21", "b/22"):
        (folder / f"{name}.png").unlink()
    options = {"until": "steps(2)", "batch": 4, "lr": 0.01, "quiet": True, "precision": "float32"}
    with pytest.raises(HandfulError, match="is not a readable image"):
        handful.fit("cnn", folder, **options)
    run = handful.fit("cnn", folder, valid=folder, bad_rows=2, **options)
    assert run.plan.choices["rows"].value == 25
    assert any("2 unreadable images of 27 rows" in note for note in run.plan.notes)


@pytest.mark.parametrize("opened", [False, True], ids=["by fit", "by open"])
def test_such_a_run_goes_on_and_its_rows_are_called_as_in_the_data(folder, tmp_path, opened):
    """The plan holds what may be left out; rows behind those that are keep their numbers, and their files' names."""
    train, given = (handful.open(folder, bad_rows=5), {}) if opened else (folder, {"bad_rows": 5})
    run = handful.fit("linear", train, valid=None, until="steps(2)", batch=25, lr=0.01, quiet=True, save_every=1,
                      out=tmp_path / "run", **given)  # fmt: skip
    assert run.plan.choices["bad_rows"].value == 5
    assert handful.resume(tmp_path / "run", until="steps(3)", quiet=True).state.step == 3
    again = handful.replay(tmp_path / "run", 3)
    assert again.differs is None
    assert sorted(again.rows.tolist()) == KEPT
    for i, row in enumerate(again.rows.tolist()):
        assert again.shown.holds[i]["file"] == f"{'ab'[row // 15]}/{row:02d}.png"
        np.testing.assert_array_equal(again.shown.pictures[i], PIXELS[row].transpose(2, 0, 1))


def test_zips_and_bytes_in_tables(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for i, data in enumerate(FILES):
            archive.writestr(f"{'ab'[i % 2]}/{i:02d}.png", data if i not in (4, 9) else b"junk")
    with pytest.raises(HandfulError, match=r"a/04\.png is not a readable image .*; nor can be read: .*b/09\.png$"):
        handful.open(tmp_path / "a.zip")
    assert len(handful.open(tmp_path / "a.zip", bad_rows="skip")) == 28
    cells = [*FILES[:5], b"\x89PNG junk", *FILES[5:9], None, *FILES[9:28]]
    pq.write_table(pa.table({"image": cells, "y": [i % 2 for i in range(30)]}), tmp_path / "t.parquet")
    source = handful.open(tmp_path / "t.parquet", bad_rows="skip")
    assert len(source) == 28
    note = next(note for note in source.notes if "1 empty cell, 1 unreadable image of 30 rows" in note)
    assert note.endswith("'image' in row 5, row 10).")
    assert len(handful.prepare(tmp_path / "t.parquet", tmp_path / "s", bad_rows=2)) == 28


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, held in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(held)
            archive.addfile(info, io.BytesIO(held))


def test_tars_whose_rows_have_more_than_a_picture(tmp_path):
    members = {}
    for i, data in enumerate(FILES):
        members |= {f"{i:02d}.png": b"junk" if i in (4, 9) else data, f"{i:02d}.cls": b"%d" % (i % 2)}
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(HandfulError, match=r"04\.png is not a readable image .*; nor can be read: .*09\.png$"):
        handful.prepare(tmp_path / "a.tar", tmp_path / "s")
    store = handful.prepare(tmp_path / "a.tar", tmp_path / "s", bad_rows="skip")
    check_kept(store, [i for i in range(30) if i not in (4, 9)])


def check_kept(source, kept):
    rows = source.take(np.arange(len(kept)))
    np.testing.assert_array_equal(rows.tensor("label").numpy(), [i % 2 for i in kept])
    np.testing.assert_array_equal(rows.tensor("image").numpy(), PIXELS[kept].transpose(0, 3, 1, 2))


def test_tars_with_lost_members_and_broken_arrays(tmp_path):
    """A picture gone, a class gone, an array of junk, one cut short, an object that is none: named, or left out."""
    members = {}
    for i, data in enumerate(FILES):
        array = io.BytesIO()
        np.save(array, np.full(5, i, np.float32))
        members |= {f"{i:02d}.png": data, f"{i:02d}.cls": b"%d" % (i % 2), f"{i:02d}.npy": array.getvalue()}
        members[f"{i:02d}.json"] = b'{"z": %d}' % i
    del members["03.png"], members["17.cls"]
    write_tar(tmp_path / "lost.tar", members)
    said = (
        r"lost\.tar: the row of 03\.cls has no \.png, .*complete it; nor can be read: .*lost\.tar: the row of 17\.png$"
    )
    with pytest.raises(HandfulError, match=said):
        handful.prepare(tmp_path / "lost.tar", tmp_path / "s", target="label")
    for bad in (2, "skip"):
        source = handful.prepare(tmp_path / "lost.tar", tmp_path / f"s{bad}", target="label", bad_rows=bad)
        check_kept(source, [i for i in range(30) if i not in (3, 17)])
        assert any("2 incomplete rows of 30 rows (" in note for note in source.notes)
    members |= {"05.npy": b"junk", "21.npy": members["21.npy"][:-4], "29.json": b"[1]"}
    write_tar(tmp_path / "worse.tar", members)
    with pytest.raises(
        HandfulError, match=r"2 incomplete rows, .* of 30 rows cannot be read, more than the 3 that may be"
    ):
        handful.prepare(tmp_path / "worse.tar", tmp_path / "s", target="label", bad_rows="skip")
    kept = [i for i in range(30) if i not in (3, 5, 17, 21, 29)]
    store = handful.prepare(tmp_path / "worse.tar", tmp_path / "s", target="label", bad_rows=5)
    check_kept(store, kept)
    np.testing.assert_array_equal(store.take(np.arange(25)).tensor("npy").numpy(), np.repeat(kept, 5).reshape(25, 5))
    np.testing.assert_array_equal(store.take(np.arange(25)).tensor("z").numpy(), kept)


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "*.jsonl"])
def test_lines_of_json_that_are_no_objects(tmp_path, ending):
    """A line that is cut, one of words, a list; a string in which a line ends is none of them."""
    lines = [json.dumps({"x": k * 0.5, "z": "a\nb" if k % 3 else "c", "y": "uv"[k % 2]}) for k in range(60)]
    for k, broken in {7: '{"x": 1', 20: "[1, 2]", 41: "nonsense \xe9" * 20}.items():
        lines[k] = broken
    text = "\n".join(lines).encode() + b"\n"
    where = tmp_path / f"t.{ending.removeprefix('*.')}"
    where.write_bytes(gzip.compress(text) if ending.endswith("gz") else text)
    if "*" in ending:
        where = str(tmp_path / "*.jsonl")
    for deed in (handful.open, lambda f, **o: handful.prepare(f, tmp_path / "s", overwrite=True, **o)):
        with pytest.raises(HandfulError, match=r"\(line 8: {\"x\": 1\): .*; nor can be read: line 21, line 42$"):
            deed(where)
        with pytest.raises(HandfulError, match="3 broken lines of 60 rows cannot be read, more than the 2 that may be"):
            deed(where, bad_rows=2)
        source = deed(where, bad_rows="skip")
        assert any("3 broken lines of 60 rows (" in note for note in source.notes)
        x = source.take(np.arange(57)).tensor("x").numpy()
        np.testing.assert_array_equal(x, [k * 0.5 for k in range(60) if k not in (7, 20, 41)])


def test_ragged_lines_of_a_table_that_is_read_in_blocks_are_all_named(tmp_path):
    lines = [f"{k},{k % 7},{'uv'[k % 2]}" for k in range(60)]
    lines[7], lines[20] = "1", "1,2,u,9"
    with gzip.open(tmp_path / "t.csv.gz", "wt") as file:
        file.write("a,b,y\n" + "\n".join(lines) + "\n")
    with pytest.raises(HandfulError, match=r"Row #8: Expected 3 columns, got 1: .*; nor can be read: Row #21$"):
        handful.prepare(tmp_path / "t.csv.gz", tmp_path / "s")


@pytest.fixture
def table(tmp_path):
    """What writes labels.csv beside thirty pictures, with some cells changed."""
    for i, data in enumerate(FILES):
        (tmp_path / "t" / f"{i:02d}.png").parent.mkdir(exist_ok=True)
        (tmp_path / "t" / f"{i:02d}.png").write_bytes(data)

    def write(changed):
        names = [changed.get(i, f"{i:02d}.png") for i in range(30)]
        lines = [f"{name},{i % 2}\n" for i, name in enumerate(names)]
        (tmp_path / "t" / "labels.csv").write_text("file,y\n" + "".join(lines))
        return tmp_path / "t" / "labels.csv"

    return write


@pytest.mark.parametrize("name", ["n/a", "00.txt", "gone.png", "03", ""])
@pytest.mark.parametrize("row", [0, 4])
def test_one_entry_that_is_no_picture_does_not_make_the_column_a_category(table, name, row):
    where = table({row: name})
    with pytest.raises(HandfulError, match=rf"column 'file' names .*, in row {row}: correct or remove such rows"):
        handful.open(where)
    source = handful.open(where, bad_rows="skip")
    assert source.columns["file"].kind == "image"
    np.testing.assert_array_equal(source.take([5]).tensor("file").numpy()[0], PIXELS[6].transpose(2, 0, 1))


def test_the_first_twenty_missing_files_are_named(table):
    where = table({i: f"gone{i}.png" for i in range(4, 29)})
    with pytest.raises(HandfulError) as error:
        handful.open(where)
    found = re.findall(r"gone(\d+)\.png", str(error.value))
    assert found == [str(i) for i in range(4, 24)]
    assert str(error.value).endswith("and 5 more")


def test_a_table_that_names_files_outside_its_folder_is_refused_unless_asked_for(table, tmp_path):
    (tmp_path / "secret.png").write_bytes(FILES[0])
    for name in ("../secret.png", str(tmp_path / "secret.png"), "../t/../secret.png"):
        where = table({7: name})
        for read in (
            handful.open,
            lambda path, **given: handful.prepare(path, tmp_path / "s", overwrite=True, **given),
        ):
            with pytest.raises(HandfulError, match=r"names .*secret\.png in row 7, outside the folder .*outside=True"):
                read(where)
            source = read(where, outside=True)
            np.testing.assert_array_equal(source.take([7]).tensor("file").numpy()[0], PIXELS[0].transpose(2, 0, 1))
    inside = table({7: str(tmp_path / "t" / "01.png")})
    assert handful.open(inside).columns["file"].kind == "image"
    frame = pd.DataFrame({"file": [str(tmp_path / "secret.png")] * 4, "y": [0, 1, 0, 1]})  # of the caller's own making
    assert handful.open(frame).columns["file"].kind == "image"


def test_ragged_lines(tmp_path):
    lines = [f"{i},{i % 3},{i % 2}" for i in range(40)]
    lines[6], lines[30] = "6,0", "30,1,1,1"
    (tmp_path / "a.csv").write_text("\n".join(["p,q,y", *lines]) + "\n")
    with pytest.raises(HandfulError, match=r"Row #8: Expected 3 columns, got 2: 6,0\): rows need .*: Row #32$"):
        handful.open(tmp_path / "a.csv")
    source = handful.open(tmp_path / "a.csv", bad_rows="skip")
    assert source.take(range(38)).tensor("p").tolist() == [i for i in range(40) if i not in (6, 30)]
    assert "left out, as they cannot be read: 2 ragged lines of 40 rows (Row #8, Row #32)." in source.notes
    with pytest.raises(HandfulError, match="more than the 1 that may be skipped"):
        handful.open(tmp_path / "a.csv", bad_rows=1)
    (tmp_path / "parts").mkdir()
    for k in (1, 2):
        (tmp_path / "parts" / f"a{k}.csv").write_bytes((tmp_path / "a.csv").read_bytes())
    parts = handful.open(tmp_path / "parts", bad_rows="skip")
    assert len(parts) == 76
    assert any("4 ragged lines of 80 rows (a1.csv: Row #8" in note for note in parts.notes)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "frame", "dicts"])
@pytest.mark.parametrize("values", [[0.5, 1.5], ["no", "yes"], [3, 4]], ids=["numbers", "names", "counts"])
def test_rows_without_a_value_of_the_target(values, kind, tmp_path):
    frame = pd.DataFrame({"x": range(40), "y": pd.array(values * 20, dtype="Int64" if values[0] == 3 else None)})
    frame.loc[[3, 30], "y"] = None
    data = {"frame": frame, "dicts": frame.astype({"y": object}).where(frame.notna(), None).to_dict("records")}.get(
        kind, tmp_path / f"a.{kind}"
    )
    match kind:
        case "csv":
            frame.to_csv(data, index=False)
        case "jsonl":
            frame.to_json(data, orient="records", lines=True)
        case "parquet":
            frame.to_parquet(data)
    with pytest.raises(HandfulError, match=r"target 'y' is .* in row 3 .*1 more.*leave them out with bad_rows='skip'$"):
        handful.open(data, target="y")
    source = handful.open(data, target="y", bad_rows="skip")
    assert source.take(range(38)).tensor("x").tolist() == [i for i in range(40) if i not in (3, 30)]
    assert "left out, as they cannot be read: 2 missing targets of 40 rows (row 3, row 30)." in source.notes
    frame.loc[:7, "y"] = None
    with pytest.raises(HandfulError, match=r"leave them out with bad_rows=9$"):
        handful.open(frame, target="y")
    assert len(handful.open(data, target="x").columns) == 2  # where it is an input, it may be missing
    with pytest.raises(HandfulError, match="more than the 1 that may be skipped"):
        handful.open(data, target="y", bad_rows=1)


def test_an_evaluation_leaves_out_what_its_run_did(tmp_path, capsys):
    frame = pd.DataFrame({"x": np.arange(40.0), "y": np.arange(40.0)})
    frame.loc[[3, 30], "y"] = None
    frame.to_csv(tmp_path / "a.csv", index=False)
    how = {"target": "y", "until": "steps(2)", "batch": 8, "lr": 0.01, "quiet": True, "valid": None}
    strict = handful.fit("linear", frame.dropna(), **how)
    with pytest.raises(HandfulError, match="bad_rows='skip'"):
        strict.evaluate(tmp_path / "a.csv")
    with pytest.raises(HandfulError, match="bad_rows=2 allows so many"):
        strict.evaluate(tmp_path / "a.csv", bad_rows=1)
    run = handful.fit("linear", tmp_path / "a.csv", bad_rows=2, **how)
    capsys.readouterr()
    scores = run.evaluate(tmp_path / "a.csv")
    assert "2 missing targets of 40 rows (row 3, row 30)" in capsys.readouterr().err
    assert scores == pytest.approx(run.evaluate(frame.dropna()), rel=1e-6)
    assert strict.evaluate(tmp_path / "a.csv", bad_rows="skip") == pytest.approx(
        strict.evaluate(frame.dropna()), rel=1e-6
    )
    assert run.evaluation(tmp_path / "a.csv").rows == 38


@pytest.fixture
def sounds(tmp_path):
    for i in range(20):
        path = tmp_path / "sounds" / "ab"[i % 2] / f"{i:02d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, RNG.normal(size=4000) * 0.1, 8000)
    return tmp_path / "sounds"


@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize("rate", [1, 49, 2**31 - 1])
def test_rates_that_cannot_be(sounds, rate, memory):
    data = bytearray((sounds / "a" / "00.wav").read_bytes())
    data[24:28] = struct.pack("<I", rate)
    (sounds / "b" / "03.wav").write_bytes(data)
    start = time.process_time()
    with pytest.raises(HandfulError, match=rf"b/03\.wav has a rate of {rate:,} Hz, which cannot be"):
        handful.open(sounds, memory=memory)
    source = handful.open(sounds, bad_rows="skip", memory=memory)
    assert time.process_time() - start < 5  # of computing, where a hang was
    assert (len(source), source.columns["audio"].rate) == (19, 8000)


def test_a_rate_too_far_from_the_others(sounds):
    data = bytearray((sounds / "a" / "00.wav").read_bytes())
    data[24:28] = struct.pack("<I", 9_000_000)
    (sounds / "b" / "03.wav").write_bytes(data)
    with pytest.raises(HandfulError, match=r"has a rate of 9,000,000 Hz, too far from the 8,000 Hz of the others"):
        handful.open(sounds)
    assert len(handful.open(sounds, bad_rows="skip")) == 19


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "aiff", "mp3"])
def test_sounds_that_are_cut_short(sounds, ending):
    whole = sounds / "a" / f"long.{ending}"
    soundfile.write(whole, RNG.normal(size=40_000) * 0.1, 8000)
    assert len(handful.open(sounds)) == 21
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(HandfulError, match=rf"long\.{ending} is (cut short|not a readable sound)"):
        handful.open(sounds)
    assert len(handful.open(sounds, bad_rows="skip")) == 20
    assert len(handful.open(sounds, bad_rows="skip", memory=0)) == 20


def test_a_sound_written_to_a_pipe_has_no_size_and_is_read(sounds):
    data = bytearray((sounds / "a" / "00.wav").read_bytes())
    data[4:8] = data[40:44] = b"\xff" * 4
    (sounds / "a" / "00.wav").write_bytes(data)
    assert len(handful.open(sounds)) == 20


def test_lists_of_structs_are_said(tmp_path):
    cells = [[{"a": 1, "b": 2}], [{"a": 3, "b": 4}, {"a": 1, "b": 1}]] * 5
    pq.write_table(pa.table({"x": cells, "z": [1.0, 2.0] * 5, "y": [0, 1] * 5}), tmp_path / "t.parquet")
    for source in (handful.open(tmp_path / "t.parquet"), handful.prepare(tmp_path / "t.parquet", tmp_path / "s")):
        assert list(source.columns) == ["z", "y"]
        assert any("'x' was left out: of lists, handful reads those of numbers" in note for note in source.notes)
    with pytest.raises(HandfulError, match="'x' cannot be used"):
        handful.open(tmp_path / "t.parquet", columns=["x", "y"])


@pytest.mark.parametrize("asked", ["drop", -1, 1.5, None])
def test_what_bad_rows_may_be(asked):
    with pytest.raises(HandfulError, match="bad_rows, if not 'stop' or 'skip', must be"):
        handful.open({"x": [1.0, 2.0]}, bad_rows=asked)
