"""Tables that name the files of pictures and sounds, and tables with structs."""

import csv
import gzip
import wave
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import handful
from handful.base.errors import HandfulError
from handful.data.base import Ragged
from handful.runs.predict import predicted

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 255, (12, 10, 8, 3), dtype=np.uint8)


def write(path: Path, header: list[str], rows: list[list[object]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for i, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    return write(
        tmp_path / "labels.csv", ["file", "kind", "size"], [[f"images/{i}.png", "ab"[i % 2], i] for i in range(12)]
    )


def picture_table(pictures: Path) -> Path:
    """The rows of which the pictures are there."""
    rows = [row for row in pictures.read_text().splitlines()[1:] if (pictures.parent / row.split(",")[0]).exists()]
    return write(pictures.parent / "there.csv", ["file", "kind"], [row.split(",")[:2] for row in rows])


def test_names_of_pictures_are_read_as_the_pictures(pictures: Path) -> None:
    source = handful.open(pictures, target="kind")
    assert source.columns["file"].kind == "image"
    assert np.array_equal(source.take([7, 2]).tensor("file").numpy(), PIXELS[[7, 2]].transpose(0, 3, 1, 2))
    assert any("names of pictures" in note for note in source.notes)


def test_names_are_found_from_where_we_are_too(pictures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import pandas as pd

    monkeypatch.chdir(tmp_path)
    for frame in (pd.read_csv(pictures), pd.read_csv(pictures).assign(file=lambda f: str(tmp_path) + "/" + f["file"])):
        assert handful.open(frame, target="kind").columns["file"].kind == "image"


def test_a_picture_beside_numbers_is_the_input_and_a_run_predicts_from_table_folder_and_file(pictures: Path) -> None:
    run = handful.fit("auto", pictures, target="kind", until="steps(2)", batch=4, lr=0.01, quiet=True)
    assert (run.plan.choices["model"].value, run.pipeline.uses) == ("cnn", ("file",))
    assert any("Left out (the picture is the input): size" in note for note in run.plan.notes)
    from_table = run.predict(pictures)
    by_name = [from_table[int(p.stem)] for p in sorted((pictures.parent / "images").iterdir())]
    assert run.predict(pictures.parent / "images").tolist() == by_name
    assert run.predict(pictures.parent / "images" / "3.png").tolist() == [from_table[3]]


def test_a_model_of_ones_own_gets_picture_and_numbers_by_name(pictures: Path) -> None:
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.LazyLinear(2)

        def forward(self, file, size):  # type: ignore[no-untyped-def]
            import torch

            return self.out(torch.cat([file.flatten(1), size[:, None].float()], 1))

    run = handful.fit(Net(), pictures, target="kind", until="steps(2)", batch=4, lr=0.01, quiet=True)
    assert run.predict(pictures).shape == (12,)


def test_names_of_sounds(tmp_path: Path) -> None:
    for i in range(4):
        with wave.open(str(tmp_path / f"{i}.wav"), "wb") as file:
            file.setnchannels(1), file.setsampwidth(2), file.setframerate(8000)
            file.writeframes(np.full(100 + i, i, np.int16).tobytes())
    source = handful.open(write(tmp_path / "t.csv", ["sound", "label"], [[f"{i}.wav", i % 2] for i in range(4)]))
    value = source.take([3, 1])["sound"]
    assert isinstance(value, Ragged)
    assert value.offsets.tolist() == [0, 103, 204]


def test_a_missing_file_is_named_with_its_row_and_names_that_lead_nowhere_are_text(pictures: Path) -> None:
    (pictures.parent / "images" / "5.png").unlink()
    with pytest.raises(HandfulError, match=r"labels.csv: column 'file' names .*5.png, which is not there, in row 5"):
        handful.open(pictures, target="kind")
    elsewhere = write(pictures.parent / "other.csv", ["file", "kind"], [[f"no/{i % 3}.png", i % 2] for i in range(12)])
    source = handful.open(elsewhere, target="kind")
    assert source.columns["file"].kind == "category"
    assert any("is not in" in note and "read as text" in note for note in source.notes)
    run = handful.fit("auto", picture_table(pictures), target="kind", until="steps(1)", batch=4, lr=0.01, quiet=True)
    with pytest.raises(HandfulError, match=r"column 'file' names files, and 'no/0.png' is not in"):
        run.predict(elsewhere)
    (pictures.parent / "images" / "5.png").write_bytes(b"no picture")
    with pytest.raises(HandfulError, match=r"5.png"):
        handful.open(pictures, target="kind")


def test_a_flat_folder_with_a_table_says_to_open_the_table(pictures: Path) -> None:
    (pictures.parent / "images" / "labels.csv").write_bytes(pictures.read_bytes())
    with pytest.raises(HandfulError, match=r"has no target.*labels.csv may name the files and their labels"):
        handful.fit("auto", pictures.parent / "images", until="steps(1)", quiet=True)


def test_a_folder_with_one_table_of_labels_is_opened_by_it(pictures: Path, tmp_path: Path) -> None:
    lines = pictures.read_text().splitlines()
    pictures.write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")  # not in the order of the files' names
    how: dict[str, Any] = {"target": "size", "until": "steps(1)", "batch": 4, "lr": 0.01, "quiet": True, "valid": None,
                           "precision": "float32"}  # fmt: skip
    run = handful.fit("cnn", pictures.parent, columns="-kind", **how)
    assert run.pipeline.uses == ("file",)
    np.testing.assert_array_equal(run.predict(pictures.parent), run.predict(pictures))
    assert list(next(predicted(run, pictures.parent))) == ["row", "prediction"]  # whose rows are not the sorted files
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in (pictures, *sorted(pictures.parent.glob("images/*"))):
            archive.write(path, path.relative_to(pictures.parent))
    with pytest.raises(HandfulError, match=r"all\.zip holds labels.csv beside the files that it may name: unpack it"):
        handful.open(tmp_path / "all.zip", target="size")


def test_fields_of_structs_are_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "\n".join(f'{{"user": {{"age": {i}, "home": {{"city": "{"ab"[i % 2]}"}}}}, "y": {i % 3}}}' for i in range(9))
    )
    source = handful.open(path, target="y")
    assert {name: column.kind for name, column in source.columns.items()} == {
        "user.age": "number", "user.home.city": "category", "y": "number",
    }  # fmt: skip
    assert source.take([4]).tensor("user.age").tolist() == [4]


@pytest.mark.parametrize("how", ["gz", "pattern"])
def test_a_store_of_them_holds_the_pictures(tmp_path, how):
    """Also where the table would be read in blocks: compressed, or in several files."""
    (tmp_path / "data").mkdir()
    rows = []
    for k in range(8):
        Image.fromarray(np.full((6, 5), 30 * k, np.uint8)).save(tmp_path / "data" / f"{k}.png")
        rows.append(f"{k}.png,{'dark' if k < 4 else 'light'}\n")
    if how == "gz":
        where = tmp_path / "data" / "labels.csv.gz"
        where.write_bytes(gzip.compress(("file,label\n" + "".join(rows)).encode()))
    else:
        for k in range(2):
            (tmp_path / "data" / f"part{k}.csv").write_text("file,label\n" + "".join(rows[4 * k : 4 * k + 4]))
        where = tmp_path / "data" / "part*.csv"
    store = handful.prepare(where, tmp_path / "store", target="label")
    assert store.columns["file"].kind == "image"
    assert store.take([5])["file"].flatten().tolist() == [150] * 30
