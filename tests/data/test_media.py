"""Images against Pillow and sounds against the wave module and soundfile, read independently."""

import io
import itertools
import wave
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

from handful.data.base import Ragged, Source
from handful.data.media.items import kind_of
from handful.data.open import open as open_source

DATA = Path(__file__).parents[3] / "shared" / "data"
RNG = np.random.default_rng(5)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int, width: int, channels: int = 3) -> Any:
    pixels = RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)
    return pixels[:, :, 0] if channels == 1 else pixels


def table(images: list[bytes]) -> Any:
    return pa.table({"image": [{"bytes": b, "path": ""} for b in images], "label": list(range(len(images)))})


def pixels(source: Source) -> Any:
    return source.take(range(len(source))).tensor("image").numpy()


@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize("side", [8, 80])  # small images are decoded on one thread, large ones on all
def test_images_of_one_size(memory: int | None, side: int) -> None:
    arrays = [noise(side, side + 2) for _ in range(200)]
    source = open_source(table([encoded(Image.fromarray(a)) for a in arrays]), memory=memory)
    assert source.columns["image"].shape == (3, side, side + 2)
    assert source.in_memory == (memory is None)
    assert source.cheap("label")
    assert np.array_equal(pixels(source), np.stack(arrays).transpose(0, 3, 1, 2))
    assert any("decoded on every read" in note for note in source.notes) == (memory == 0)


def test_slices_and_chunks_of_a_table() -> None:
    arrays = [noise(5, 5) for _ in range(6)]
    whole = table([encoded(Image.fromarray(a)) for a in arrays])
    pieces = pa.concat_tables([whole.slice(4, 2), whole.slice(1, 2), whole.slice(0, 0)])
    expected = np.stack([arrays[i] for i in (4, 5, 1, 2)]).transpose(0, 3, 1, 2)
    assert np.array_equal(pixels(open_source(pieces)), expected)
    plain = pa.table({"image": pa.array([encoded(Image.fromarray(a)) for a in arrays], pa.large_binary())})
    assert np.array_equal(pixels(open_source(plain.slice(4, 2))), expected[:2])


def test_grey_stays_one_channel_and_a_mix_becomes_colour() -> None:
    grey = [noise(6, 6, 1) for _ in range(3)]
    source = open_source(table([encoded(Image.fromarray(a)) for a in grey]))
    assert np.array_equal(pixels(source), np.stack(grey)[:, None])
    colour = noise(6, 6)
    source = open_source(table([encoded(Image.fromarray(a)) for a in [grey[0], colour]]))
    assert np.array_equal(pixels(source)[0], np.stack([grey[0]] * 3))
    assert np.array_equal(pixels(source)[1], colour.transpose(2, 0, 1))
    assert any("mixes grey and colour" in note for note in source.notes)
    source = open_source(table([encoded(Image.fromarray(a)) for a in [colour, grey[0]]]))
    assert any("mixes grey and colour" in note for note in source.notes)


def test_transparency_is_laid_on_white_and_said() -> None:
    rgba = noise(4, 4, 4)
    alpha = rgba[:, :, 3:].astype(float) / 255
    expected = rgba[:, :, :3] * alpha + 255 * (1 - alpha)
    plain = noise(4, 4)
    source = open_source(table([encoded(Image.fromarray(plain)), encoded(Image.fromarray(rgba, "RGBA"))]))
    assert np.abs(pixels(source)[1].transpose(1, 2, 0) - expected).max() <= 1
    assert np.array_equal(pixels(source)[0].transpose(1, 2, 0), plain)
    assert any("1 images of 'image' have transparency" in note for note in source.notes)


def test_palette_bilevel_cmyk_and_deep_images() -> None:
    base = Image.fromarray(noise(9, 9))
    palette = base.quantize(16)
    cmyk = Image.fromarray(noise(9, 9, 4), "CMYK")
    source = open_source(table([encoded(palette), encoded(cmyk, "TIFF"), encoded(palette, "GIF")]))
    expected = [np.asarray(i.convert("RGB")).transpose(2, 0, 1) for i in (palette, cmyk, palette)]
    assert np.array_equal(pixels(source), np.stack(expected))
    deep = RNG.integers(0, 65536, (9, 9)).astype(np.uint16)
    source = open_source(table([encoded(Image.fromarray(deep)), encoded(base.convert("1"))]))
    assert np.array_equal(pixels(source)[0, 0], (deep >> 8).astype(np.uint8))
    assert set(np.unique(pixels(source)[1])) <= {0, 255}
    assert any("16 bits" in note for note in source.notes)


def test_exif_orientation_is_applied() -> None:
    array = np.zeros((8, 16, 3), np.uint8)
    array[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    turned = encoded(Image.fromarray(array), "JPEG", exif=exif, quality=95)
    source = open_source(table([turned, turned]))
    assert source.columns["image"].shape == (3, 16, 8)
    got = pixels(source)[0]
    assert got[:, :7].min() > 200
    assert got[:, 9:].max() < 50


def test_sizes_that_differ_are_cropped_to_the_median_side() -> None:
    smooth = [
        np.linspace(0, 255, w)[None, :, None].repeat(h, 0).repeat(3, 2).astype(np.uint8)
        for h, w in [(10, 20), (12, 12), (14, 30)]
    ]
    images = [Image.fromarray(a) for a in smooth]
    source = open_source(table([encoded(i) for i in images]))
    assert source.columns["image"].shape == (3, 12, 12)
    assert any("3 sizes: resized to 12x12" in note for note in source.notes)
    got = pixels(source)
    assert np.array_equal(got[1], smooth[1].transpose(2, 0, 1))
    for i in (0, 2):  # the centre square of a ramp is a ramp with the same middle
        height, width = smooth[i].shape[:2]
        square = (
            images[i]
            .crop(((width - height) // 2, 0, (width + height) // 2, height))
            .resize((12, 12), Image.Resampling.BILINEAR)
        )
        assert np.abs(got[i].transpose(1, 2, 0).astype(int) - np.asarray(square)).max() <= 1


def test_image_size_and_half_scale_decoding() -> None:
    ramp = (np.add.outer(np.arange(200), np.arange(300)) / 2).astype(np.uint8)[:, :, None].repeat(3, 2)
    source = open_source(table([encoded(Image.fromarray(ramp), "JPEG", quality=95)] * 2), image_size=(20, 30))
    assert source.columns["image"].shape == (3, 20, 30)
    expected = np.asarray(Image.fromarray(ramp).resize((30, 20), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.abs(pixels(source)[0].astype(int) - expected).max() <= 6
    same = open_source(table([encoded(Image.fromarray(ramp))]), columns=source.columns)
    assert same.columns["image"].shape == (3, 20, 30)


def make_folder(root: Path) -> dict[str, Any]:
    arrays = {f"{c}/{i}.png": noise(5, 5) for c in ("cat", "dog", "emu") for i in range(3)}
    for name, array in arrays.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(root / name)
    return arrays


@pytest.mark.parametrize("how", ["folder", "zip", "wrapped zip"])
def test_folder_of_classes(how: str, tmp_path: Path) -> None:
    arrays = make_folder(tmp_path / "set")
    (tmp_path / "set" / "readme.md").write_text("hello")
    (tmp_path / "set" / ".hidden").mkdir()
    (tmp_path / "set" / ".hidden" / "x.png").write_bytes(b"not shown")
    where = tmp_path / "set"
    if how != "folder":
        where = tmp_path / "set.zip"
        with zipfile.ZipFile(where, "w") as archive:
            for path in sorted((tmp_path / "set").rglob("*"), reverse=True):
                archive.write(path, path.relative_to(tmp_path if how == "wrapped zip" else tmp_path / "set"))
    source = open_source(where)
    assert source.target == "label"
    assert source.columns["label"].classes == ("cat", "dog", "emu")
    assert np.array_equal(pixels(source), np.stack([a.transpose(2, 0, 1) for a in arrays.values()]))
    assert source.take(range(9)).tensor("label").tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert any("1 files" in note and "left out" in note for note in source.notes)


def test_flat_folder_has_no_label(tmp_path: Path) -> None:
    make_folder(tmp_path)
    source = open_source(tmp_path / "cat")
    assert (source.target, list(source.columns)) == (None, ["image"])
    assert any("no label" in note for note in source.notes)


def test_linked_class_folders_are_followed_once(tmp_path: Path) -> None:
    make_folder(tmp_path / "real")
    (tmp_path / "set").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "real" / name)
    (tmp_path / "real" / "cat" / "loop").symlink_to(tmp_path / "real" / "cat")
    source = open_source(tmp_path / "set")
    assert source.take(range(len(source))).tensor("label").tolist() == [0, 0, 0, 1, 1, 1]


def test_other_folder_with_the_classes_of_the_first(tmp_path: Path) -> None:
    make_folder(tmp_path / "a")
    train = open_source(tmp_path / "a")
    make_folder(tmp_path / "b")
    for path in (tmp_path / "b" / "cat").iterdir():
        path.unlink()
    (tmp_path / "b" / "cat").rmdir()
    valid = open_source(tmp_path / "b", columns=train.columns)
    assert valid.columns["label"] == train.columns["label"]
    assert valid.take(range(6)).tensor("label").tolist() == [1, 1, 1, 2, 2, 2]


def write_wave(path: Path, samples: Any, rate: int = 8000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1 if samples.ndim == 1 else samples.shape[1], 2, rate, 0, "NONE", "NONE"))
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def sounds(source: Source, key: str = "audio") -> list[Any]:
    value = source.take(range(len(source)))[key]
    assert isinstance(value, Ragged)
    ends = value.offsets.tolist()
    return [value.values[a:b].numpy() for a, b in itertools.pairwise(ends)]


def test_sounds_of_a_folder(tmp_path: Path) -> None:
    samples = {f"{c}/{i}.wav": RNG.integers(-30000, 30000, 100 + 37 * i) for c in "ab" for i in range(3)}
    for name, array in samples.items():
        write_wave(tmp_path / name, array)
    source = open_source(tmp_path)
    assert source.columns["audio"].rate == 8000
    assert source.columns["label"].classes == ("a", "b")
    for got, array in zip(sounds(source), samples.values(), strict=True):
        np.testing.assert_array_equal(got, (array / 32768).astype(np.float32))


def test_channels_rates_and_formats_become_one(tmp_path: Path) -> None:
    time = np.arange(8000) / 8000
    tone = np.sin(2 * np.pi * 440 * time)
    write_wave(tmp_path / "a.wav", tone * 20000)
    stereo = np.stack([tone * 20000, -tone * 10000], 1)
    write_wave(tmp_path / "b.wav", stereo)
    fast = 0.5 * np.sin(2 * np.pi * 440 * np.arange(22050) / 22050)
    soundfile.write(tmp_path / "c.flac", fast, 22050)
    source = open_source(tmp_path)
    one, two, three = sounds(source)
    np.testing.assert_allclose(two, (stereo.astype("<i2").mean(axis=1) / 32768), atol=1e-6)
    assert len(one) == len(three) == 8000
    np.testing.assert_allclose(three[200:-200], 0.5 * tone[200:-200], atol=2e-3)
    assert any("22,050 Hz" in note and "8,000 Hz" in note for note in source.notes)
    assert any("several channels" in note for note in source.notes)
    assert [len(s) for s in sounds(open_source(tmp_path, rate=4000))] == [4000] * 3


@pytest.mark.parametrize(("kind", "name"), [("MP3", "a.mp3"), ("AIFF", "a.aif"), ("OGG", "a.ogg"), ("FLAC", "a.flac")])
def test_formats_of_sound_are_known_by_their_endings_and_by_their_first_bytes(
    kind: str, name: str, tmp_path: Path
) -> None:
    tone = np.sin(np.arange(8000) * 0.1) * 0.5
    (tmp_path / "low").mkdir()
    (tmp_path / "high").mkdir()
    for folder, samples in (("low", tone), ("high", -tone)):
        soundfile.write(tmp_path / folder / name, samples, 16000, format=kind)
    data = (tmp_path / "low" / name).read_bytes()
    assert kind_of(data) == "audio"
    of_folder, of_bytes = open_source(tmp_path), open_source(pa.table({"sound": [data] * 3, "y": [0, 1, 0]}))
    assert (of_folder.columns["audio"].rate, of_bytes.columns["sound"].kind) == (16000, "audio")
    high, low = sounds(of_folder)
    for found, samples in ((low, tone), (high, -tone)):
        assert np.corrcoef(found[:7000], samples[:7000])[0, 1] > 0.99


@pytest.mark.parametrize(("form", "subtype"), [("WAV", "GSM610"), ("WAV", "G721_32"), ("RF64", "PCM_24")])
def test_sounds_that_have_to_be_read_from_their_start_on(form: str, subtype: str, tmp_path: Path) -> None:
    """Such as telephones write: soundfile cannot go to and fro in them, which was an error of its own."""
    path = tmp_path / "a.wav"
    soundfile.write(path, np.sin(np.arange(8000) * 0.1) * 0.5, 8000, format=form, subtype=subtype)
    expected = soundfile.read(path, dtype="float32")[0]
    source = open_source(pa.table({"sound": [path.read_bytes()] * 2, "y": [0, 1]}))
    np.testing.assert_array_equal(sounds(source, "sound")[1], expected)


def test_sounds_in_a_table(tmp_path: Path) -> None:
    data = write_wave(tmp_path / "x.wav", RNG.integers(-99, 99, 64)).read_bytes()
    source = open_source(pa.table({"audio": [{"bytes": data, "path": None}] * 2, "label": [0, 1]}))
    assert source.columns["audio"].kind == "audio"
    np.testing.assert_array_equal(sounds(source)[1], soundfile.read(io.BytesIO(data), dtype="float32")[0])


@pytest.mark.skipif(not (DATA / "cifar10-test.parquet").exists(), reason="../shared/data is absent")
def test_cifar10() -> None:
    read = pq.read_table(DATA / "cifar10-test.parquet")
    some = np.random.default_rng(0).permutation(10000)[:300]
    small = read.take(np.sort(some))
    source = open_source(small)
    assert source.columns["image"].shape == (3, 32, 32)
    assert source.target == "label"
    expected = [np.asarray(Image.open(io.BytesIO(v["bytes"])).convert("RGB")) for v in small["image"].to_pylist()]
    assert np.array_equal(pixels(source), np.stack(expected).transpose(0, 3, 1, 2))
    assert source.take(range(300)).tensor("label").tolist() == small["label"].to_pylist()


@pytest.mark.skipif(not (DATA / "spoken-digits.zip").exists(), reason="../shared/data is absent")
def test_spoken_digits() -> None:
    source = open_source(DATA / "spoken-digits.zip")
    assert len(source) == 3000
    assert source.columns["audio"].rate == 8000
    assert source.columns["label"].classes == tuple("0123456789")
    labels = source.read_column("label", np.arange(3000))
    assert np.bincount(np.asarray(labels)).tolist() == [300] * 10
    with zipfile.ZipFile(DATA / "spoken-digits.zip") as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".wav"))
        for row in (0, 1234, 2999):
            with wave.open(io.BytesIO(archive.read(names[row]))) as file:
                raw = np.frombuffer(file.readframes(file.getnframes()), "<i2")
            value = source.take([row])["audio"]
            assert isinstance(value, Ragged)
            np.testing.assert_array_equal(value.values.numpy(), (raw / 32768).astype(np.float32))
            assert int(np.asarray(labels)[row]) == int(names[row].split("/")[-2])
