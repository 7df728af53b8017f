"""Texts in files of their own: the name of the sub-folder is the class."""

import zipfile

import numpy as np
import pandas as pd
import pytest

import handful
from handful.base.errors import HandfulError
from handful.cli.program import app

WORDS = {"pos": "a lovely film", "neg": "a dull film"}


def write(folder, n=40):
    for label, words in WORDS.items():
        (folder / label).mkdir(parents=True)
        for i in range(n):
            (folder / label / f"{i:02d}.txt").write_text(f"{words}, number {i}\n", encoding="utf-8")
    return folder


def zipped(folder):
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for file in sorted(folder.rglob("*.txt")):
            archive.write(file, file.relative_to(folder))
    return folder.with_suffix(".zip")


@pytest.mark.parametrize("form", ["folder", "zip", "store"])
def test_class_folders_of_texts(tmp_path, form):
    where = folder = write(tmp_path / "films")
    if form == "zip":
        where = zipped(folder)
    if form == "store":
        handful.prepare(folder, tmp_path / "films.store")
        where = tmp_path / "films.store"
    data = handful.open(where)
    assert (data.target, data.columns["label"].classes, len(data)) == ("label", ("neg", "pos"), 80)
    rows = data.take(np.array([0, 79]))
    assert rows["text"] == ["a dull film, number 0\n", "a lovely film, number 39\n"]
    assert np.asarray(rows["label"]).tolist() == [0, 1]


def test_trained_evaluated_and_predicted_under_the_names_of_the_files(tmp_path, capsys):
    folder = write(tmp_path / "films")
    run = handful.fit("auto", folder, until="epochs(12)", batch=16, lr=0.01, out=tmp_path / "run", quiet=True)
    assert run.scores["valid_accuracy"] == 1
    others = write(tmp_path / "others", 5)
    for file in others.rglob("*.txt"):
        file.write_text(file.read_text().replace("number", "the other"))
    again = handful.load(tmp_path / "run")
    assert again.evaluate(others)["accuracy"] == 1
    assert again.predict(others / "pos").tolist() == ["pos"] * 5  # no sub-folders: no labels
    assert again.predict({"text": "a dull film, number 90"}).tolist() == ["neg"]
    app(["predict", str(tmp_path / "run"), str(others)], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["row,file,prediction", "0,neg/00.txt,neg"]
    assert lines[-1] == "9,pos/04.txt,pos"


def test_a_folder_without_classes_is_text_for_a_language_model(tmp_path):
    data = handful.open(write(tmp_path / "films") / "pos")
    assert data.target is None
    assert len(data) == 40
    assert any("there is no label" in note for note in data.notes)


def test_what_is_not_utf8_is_named_or_left_out(tmp_path):
    folder = write(tmp_path / "films", 20)
    (folder / "neg" / "07.txt").write_bytes(b"caf\xe9")
    with pytest.raises(
        HandfulError, match=r"neg/07.txt is not UTF-8 \(byte 0xe9 at 3\): convert it, for example with iconv"
    ):
        handful.open(folder)
    data = handful.open(folder, bad_rows="skip")
    assert len(data) == 39
    assert any("1 non-UTF-8 text of 40 rows" in note and "07.txt" in note for note in data.notes)


def test_blank_texts_are_counted_and_a_mark_of_utf8_is_no_letter(tmp_path):
    folder = write(tmp_path / "films", 4)
    (folder / "neg" / "00.txt").write_text("  \n")
    (folder / "pos" / "00.txt").write_bytes(b"\xef\xbb\xbffine")
    data = handful.open(folder)
    assert data.take([4])["text"] == ["fine"]
    assert any(note.startswith("1 files of") and note.endswith("hold no text.") for note in data.notes)


@pytest.mark.parametrize(
    ("beside", "message"),
    [("README.txt", "'README.txt' lies next to the class folders"), ("neg/t.csv", "no images, sounds or texts")],
)
def test_what_lies_beside_texts(tmp_path, beside, message):
    folder = write(tmp_path / "films", 4)
    (folder / beside).write_text("a,b\n")
    with pytest.raises(HandfulError, match=message):
        handful.open(folder)


def test_texts_beside_pictures_are_about_them(tmp_path):
    image = pytest.importorskip("PIL.Image")
    folder = write(tmp_path / "films", 3)
    for label in WORDS:
        image.new("L", (8, 8)).save(folder / label / "a.png")
    data = handful.open(folder)
    assert list(data.columns) == ["image", "label"]
    assert any("6 files of" in note and "are not images: left out" in note for note in data.notes)


PHRASES = ["cheap flights", "grand hotel", "red shoes", "blue coat", "很好", "不好", "とても良い"]


@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize("kind", ["dict", "frame", "csv"])
def test_short_texts_different_in_most_rows_are_texts_where_there_is_nothing_else(tmp_path, kind, unique):
    numbers = np.arange(210) + (0 if unique else np.where(np.arange(210) == 9, -7, 0))  # one text comes twice
    data = {"query": [f"{PHRASES[i % 7]} {k}" for i, k in enumerate(numbers)]}
    data["is"] = ["travel" if i % 7 < 2 else "other" for i in range(210)]
    frame = pd.DataFrame(data)
    frame.to_csv(tmp_path / "queries.csv", index=False)
    given = {"dict": data, "frame": frame, "csv": str(tmp_path / "queries.csv")}[kind]
    run = handful.fit("auto", given, target="is", batch=16, lr=0.01, until="epochs(8)", quiet=True)
    assert run.plan.model == "text"
    assert run.predict({"query": ["grand hotel 999", "red shoes 999", "不好 999"]}).tolist() == [
        "travel",
        "other",
        "other",
    ]
