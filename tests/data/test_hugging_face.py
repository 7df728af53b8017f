"""Hugging Face data sets: files that they name, their formats and transforms. Runs against a stand-in, and against the
library itself where it is installed (the extra "bench")."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from PIL import Image

import handful
from handful.base.errors import HandfulError

RNG = np.random.default_rng(0)


class Stand:
    """As much of a `datasets.Dataset` as handful uses."""

    def __init__(self, table, features=None, **given):
        self.table = table
        self.features = dict.fromkeys(table.column_names) | (features or {})
        columns = given.get("columns")
        self.format = {"type": None, "columns": table.column_names, "output_all_columns": False, "format_kwargs": {}}
        self.format |= given | {"columns": columns or table.column_names}

    def __len__(self):
        return len(self.table)

    def with_format(self, kind, columns=None):
        return Stand(self.table, self.features, type=kind, columns=columns)

    def with_transform(self, transform):
        return Stand(self.table, self.features, type="custom", format_kwargs={"transform": transform})

    def cast_column(self, name, feature):
        return Stand(self.table, {**self.features, name: feature})

    def __getitem__(self, rows):
        return self.table[rows]

    def __getitems__(self, rows):
        batch = self.table.take(rows).to_pydict()
        if self.format["type"] == "custom":
            batch = self.format["format_kwargs"]["transform"](batch)
        return [{name: values[i] for name, values in batch.items()} for i in range(len(rows))]


@pytest.fixture(params=["stand-in", "datasets"])
def hub(request):
    """How to make a data set of columns, pictures and sounds by their paths; how to select rows; and features."""
    if request.param == "datasets":
        datasets = pytest.importorskip("datasets")

        def made(columns, **features):
            found = datasets.Dataset.from_dict(columns)
            for name, feature in features.items():
                found = found.cast_column(name, feature)
            return found

        return SimpleNamespace(
            made=made, image=datasets.Image, audio=datasets.Audio, select=lambda found, rows: found.select(rows)
        )

    def stand(columns, **features):
        found = {
            name: [{"bytes": None, "path": path} for path in values] if name in features else values
            for name, values in columns.items()
        }
        return Stand(pa.table(found), features)

    def feature(**given):
        return SimpleNamespace(mode=given.get("mode"), sampling_rate=given.get("sampling_rate"))

    return SimpleNamespace(
        made=stand,
        image=feature,
        audio=feature,
        select=lambda found, rows: Stand(found.table.take(rows), found.features),
    )


@pytest.fixture
def files(tmp_path):
    pixels = RNG.integers(0, 256, (8, 6, 5, 3), dtype=np.uint8)
    sounds = (RNG.normal(size=(8, 400)) * 3000).astype(np.int16)
    for i in range(8):
        Image.fromarray(pixels[i]).save(tmp_path / f"{i}.png")
        soundfile.write(tmp_path / f"{i}.wav", sounds[i], 8000, subtype="PCM_16")
    return SimpleNamespace(
        pixels=pixels.transpose(0, 3, 1, 2), sounds=sounds / np.float32(32768), labels=[0, 1] * 4,
        images=[str(tmp_path / f"{i}.png") for i in range(8)], audio=[str(tmp_path / f"{i}.wav") for i in range(8)],
    )  # fmt: skip


@pytest.mark.parametrize("how", ["open", "prepare"])
def test_pictures_and_sounds_named_by_their_paths(hub, files, how, tmp_path):
    def read(found):
        return handful.open(found) if how == "open" else handful.prepare(found, tmp_path / "s", overwrite=True)

    pictures = hub.made({"image": files.images, "label": files.labels}, image=hub.image())
    np.testing.assert_array_equal(read(pictures).take([3, 0]).tensor("image").numpy(), files.pixels[[3, 0]])
    some = read(hub.select(pictures, [5, 2, 2, 7]))
    np.testing.assert_array_equal(some.take(range(4)).tensor("image").numpy(), files.pixels[[5, 2, 2, 7]])
    grey = read(hub.made({"image": files.images, "label": files.labels}, image=hub.image(mode="L")))
    expected = [np.asarray(Image.open(path).convert("L"))[None] for path in files.images]
    np.testing.assert_array_equal(grey.take(range(8)).tensor("image").numpy(), np.stack(expected))
    sounds = read(hub.made({"audio": files.audio, "label": files.labels}, audio=hub.audio()))
    np.testing.assert_array_equal(sounds.take([6]).ragged("audio").values.numpy(), files.sounds[6])
    slow = read(hub.made({"audio": files.audio, "label": files.labels}, audio=hub.audio(sampling_rate=4000)))
    assert (slow.columns["audio"].rate, len(slow.take([0]).ragged("audio").values)) == (4000, 200)


def test_paths_beside_bytes(files, tmp_path):
    data = [{"bytes": None, "path": path} for path in files.images[:4]]
    data += [{"bytes": Path(path).read_bytes(), "path": None} for path in files.images[4:]]
    mixed = Stand(pa.table({"image": data, "label": files.labels}))
    for source in (handful.open(mixed), handful.prepare(mixed, tmp_path / "s")):
        np.testing.assert_array_equal(source.take(range(8)).tensor("image").numpy(), files.pixels)
    lost = Stand(pa.table({"image": [{"bytes": None, "path": "/no/such.png"}, data[4]], "label": [0, 1]}))
    with pytest.raises(HandfulError, match=r"'image' names /no/such.png, which cannot be read"):
        handful.open(lost)
    with pytest.raises(HandfulError, match="to be read in the mode CMYK"):
        handful.open(Stand(mixed.table, {"image": SimpleNamespace(mode="CMYK")}))


@pytest.mark.parametrize("how", ["open", "prepare", "fit"])
def test_a_transform_is_honoured(hub, how, tmp_path):
    x = RNG.normal(size=40)
    numbers = hub.made({"x": x.tolist(), "z": [[1.0, 2.0]] * 40, "y": (x > 0).astype(int).tolist()})

    def twice(batch):
        return {"x": [2 * v for v in batch["x"]], "y": [1 - v for v in batch["y"]]}

    found = hub.select(numbers, list(range(39, -1, -1))).with_transform(twice)
    if how == "fit":
        run = handful.fit("linear", found, target="y", valid=0, until="epochs(30)", batch=8, lr=0.1, quiet=True)
        assert run.evaluate(found)["accuracy"] > 0.9
        assert run.predict({"x": [3.0, -3.0]}).tolist() == [0, 1]
        return
    source = handful.open(found) if how == "open" else handful.prepare(found, tmp_path / "s")
    assert list(source.columns) == ["x", "y"]
    batch = source.take([0, 39])
    np.testing.assert_array_equal(batch.tensor("x").numpy(), [2 * x[39], 2 * x[0]])
    assert batch.tensor("y").tolist() == [int(x[39] <= 0), int(x[0] <= 0)]


def test_a_format_shows_what_it_shows(hub, tmp_path):
    numbers = hub.made({"x": [1.0, 2.0, 3.0], "z": [5.0, 4.0, 7.0], "y": [0, 1, 0]})
    for kind in ("torch", "numpy"):
        found = numbers.with_format(kind, columns=["x", "y"])
        for source in (handful.open(found), handful.prepare(found, tmp_path / kind)):
            assert list(source.columns) == ["x", "y"]
            assert "left out, as the data set's own format does not show them: z." in source.notes
        assert list(handful.open(numbers.with_format(kind)).columns) == ["x", "z", "y"]


def saved(folder, rows, shards=1):
    """A Dataset as its save_to_disk writes it: Arrow's stream format, class names in the schema."""
    folder.mkdir(parents=True)
    features = '{"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}'
    for shard in range(shards):
        part = pa.table({"a": rows[shard::shards], "label": [k % 2 for k in rows[shard::shards]]})
        part = part.replace_schema_metadata({"huggingface": features})
        with pa.ipc.new_stream(str(folder / f"data-{shard:05}-of-{shards:05}.arrow"), part.schema) as file:
            file.write_table(part)
    (folder / "state.json").write_text('{"_fingerprint": "1"}')
    (folder / "dataset_info.json").write_text("{}")


@pytest.mark.parametrize("shards", [1, 2])
def test_what_save_to_disk_wrote_is_read(shards, tmp_path):
    saved(tmp_path / "set", list(range(10)), shards)
    source = handful.open(tmp_path / "set")
    assert source.columns["label"].classes == ("cat", "dog")
    assert sorted(source.take(range(10))["a"].tolist()) == list(range(10))
    for split in ("train", "test"):
        saved(tmp_path / "both" / split, list(range(10)), shards)
    (tmp_path / "both" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(HandfulError, match=r"is split into test, train: open one, 'both/test', and another as valid="):
        handful.open(tmp_path / "both")
    assert len(handful.open(tmp_path / "both" / "train")) == 10
