"""Pictures of more than 8 bits per channel keep their depth, scaled by what training rows hold; more pages are said."""

import io
import struct
import tarfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import handful
from handful.base.errors import HandfulError

RNG = np.random.default_rng(3)


def png(pixels):
    """A PNG of 16 bits per channel, by the format's own description (W3C PNG, chunks IHDR, IDAT, IEND; filter 0)."""
    height, width = pixels.shape[:2]
    colour = {2: 0, 3: {3: 2, 4: 6}.get(pixels.shape[-1], 0)}[pixels.ndim]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)), (b"IDAT", zlib.compress(rows))]
    found = b"\x89PNG\r\n\x1a\n"
    for kind, data in [*chunks, (b"IEND", b"")]:
        found += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return found


def tiff(pixels, order="<"):
    """A TIFF of one strip (TIFF 6.0): unsigned, signed or floating-point samples of any size."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    bits, form = 8 * pixels.dtype.itemsize, "uif".index(pixels.dtype.kind) + 1
    colours, beside = (2, channels - 3) if channels >= 3 else (1, channels - 1)
    tags = [(256, [width]), (257, [height]), (258, [bits] * channels), (259, [1]), (262, [colours]), (273, [0])]
    tags += [(277, [channels]), (278, [height]), (279, [len(data)])]
    tags += [(338, [0] * beside)] * (beside > 0) + [(339, [form] * channels)]
    beside, more = 8 + 2 + 12 * len(tags) + 4, b""
    start = beside + sum(2 * len(values) for _, values in tags if len(values) > 2)
    entries = b""
    for tag, values in tags:
        packed = struct.pack(f"{order}{len(values)}H", *([start] if tag == 273 else values))
        if len(packed) > 4:
            more, packed = more + packed, struct.pack(f"{order}I", beside + len(more))
        entries += struct.pack(f"{order}HHI", tag, 3, len(values)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    return head + entries + struct.pack(f"{order}I", 0) + more + data


def table(pictures, labels=None):
    return pa.table({"image": pictures, "y": labels or [i % 2 for i in range(len(pictures))]})


def pixels_of(source):
    return source.take(range(len(source))).tensor("image").numpy()


SIXTEEN = RNG.integers(0, 65536, (5, 7, 3), dtype=np.uint16)


@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize(
    ("pixels", "how"),
    [
        (SIXTEEN[:, :, 0] >> 4, png),
        (SIXTEEN, png),
        (SIXTEEN[:, :, 0], tiff),
        (SIXTEEN[:, :, 1], lambda a: tiff(a, ">")),
        (SIXTEEN, tiff),
        (SIXTEEN, lambda a: tiff(a, ">")),
        (SIXTEEN[:, :, 0].view(np.int16), tiff),
        (SIXTEEN[:, :, 2].view(np.int16), lambda a: tiff(a, ">")),
        (RNG.integers(-(2**31), 2**31 - 1, (5, 7), dtype=np.int32), tiff),
        (RNG.integers(0, 2**31 - 1, (5, 7), dtype=np.uint32), tiff),
        (RNG.normal(size=(5, 7)).astype(np.float32), tiff),
        (RNG.integers(-128, 128, (5, 7), dtype=np.int8), tiff),
    ],
    ids=["png 12", "png rgb", "tiff", "TIFF", "tiff rgb", "TIFF rgb", "signed", "SIGNED", "i32", "u32", "floats", "i8"],
)
def test_every_bit_is_kept(pixels, how, memory):
    source = handful.open(table([how(pixels)] * 3), memory=memory)
    expected = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    assert source.columns["image"].dtype == ("float32" if pixels.dtype.kind == "f" else "int32")
    np.testing.assert_array_equal(pixels_of(source)[2], expected.astype(source.columns["image"].dtype))
    assert any("scaled by the range of the training rows" in note for note in source.notes)


def test_transparent_16_bits_are_laid_on_white():
    rgba = RNG.integers(0, 65536, (5, 7, 4), dtype=np.uint16)
    opaque = rgba[:, :, 3:].astype(float) / 65535
    expected = (rgba[:, :, :3] * opaque + 65535 * (1 - opaque)).transpose(2, 0, 1)
    assert np.abs(pixels_of(handful.open(table([png(rgba)] * 2)))[0] - expected).max() <= 0.5


def test_sizes_that_differ_are_resized_at_full_depth():
    ramp = np.add.outer(np.arange(20), np.arange(30)).astype(np.uint16) * 7 + 5000
    source = handful.open(table([png(ramp), png(ramp[:10, :15])]), image_size=(10, 15))
    expected = np.asarray(Image.fromarray(ramp.astype(np.float32)).resize((15, 10), Image.Resampling.BILINEAR))
    assert np.abs(pixels_of(source)[0, 0] - expected).max() <= 1  # of 65,535: rounded twice
    np.testing.assert_array_equal(pixels_of(source)[1, 0], ramp[:10, :15])


def test_depths_without_a_common_scale_are_not_mixed():
    grey = io.BytesIO()
    Image.fromarray(SIXTEEN[:, :, 0].astype(np.uint8)).save(grey, "PNG")
    mixed = handful.open(table([grey.getvalue(), png(SIXTEEN[:, :, 0])]))
    np.testing.assert_array_equal(pixels_of(mixed)[1, 0], SIXTEEN[:, :, 0] >> 8)
    assert any("1 images of 'image' have 16 bits per channel: read as 8 bits" in note for note in mixed.notes)
    for other in (tiff(SIXTEEN[:, :, 0].astype(np.float32)), tiff(SIXTEEN[:, :, 0].view(np.int16))):
        with pytest.raises(HandfulError, match=r"mixes images of .* which have no common scale"):
            handful.open(table([grey.getvalue(), other]))
    deep = handful.open(table([png(SIXTEEN[:, :, 0])] * 2))
    with pytest.raises(HandfulError, match="it is of uint8 where the others are kept as int32"):
        handful.open(table([grey.getvalue()]), columns=deep.columns)
    with pytest.raises(HandfulError, match="2,147,483,648 and more"):
        handful.open(table([tiff(np.full((4, 4), 2**31, np.uint32))] * 2))


N = 64


def low_bits(kind):
    """Pictures whose class lies in the lower 4 of 12 or 16 bits, about a base that the classes share."""
    labels = np.arange(N) % 2
    base = RNG.integers(0, 5, N)[:, None, None] * 256 + 1024
    pixels = base * 0 + 1024 + RNG.integers(0, 3, (N, 8, 8)) + 9 * labels[:, None, None]
    if kind == "signed":
        return labels, (pixels - 2048).astype(np.int16), tiff
    if kind == "32 bits":
        return labels, (pixels + 2**30).astype(np.int32), tiff
    if kind == "floats":
        return labels, (pixels * 1e-6).astype(np.float32), tiff
    return labels, pixels.astype(np.uint16), png


@pytest.mark.parametrize("kind", ["12 bits", "signed", "32 bits", "floats"])
def test_a_task_in_the_lower_bits_is_learned_and_read_alike_from_everywhere(tmp_path, kind):
    labels, pixels, how = low_bits(kind)
    files = [how(a) for a in pixels]
    ending = "png" if how is png else "tif"
    names = ["low", "high"]
    for i, data in enumerate(files):
        path = tmp_path / "set" / names[labels[i]] / f"{i:03d}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    order = [*np.flatnonzero(labels == 1), *np.flatnonzero(labels == 0)]  # that of the folder: high, low
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    options = {"batch": 8, "lr": 0.02, "preprocess": "standardize", "seed": 1, "quiet": True}
    run = handful.fit(model, tmp_path / "set", valid=0.25, until="epochs(20)", out=tmp_path / "run", **options)
    assert run.evaluate(tmp_path / "set")["accuracy"] == 1
    expected = run.outputs(tmp_path / "set")
    again = handful.load(tmp_path / "run", model=run.model)
    picture = run.pipeline.uses[0]
    stacked = pixels[order][:, None]
    ways = {
        "table": pa.table({picture: [files[i] for i in order]}),
        "arrays": {picture: stacked},
        "wider": {picture: stacked.astype(np.float64 if kind == "floats" else np.int64)},
        "store": handful.prepare(tmp_path / "set", tmp_path / "store"),
        "encoded": handful.prepare(tmp_path / "set", tmp_path / "encoded", images="encoded"),
        "lazy": handful.open(tmp_path / "set", memory=0),
    }
    pq.write_table(ways["table"], tmp_path / "t.parquet", row_group_size=10)
    ways["parquet"] = tmp_path / "t.parquet"
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for k, i in enumerate(order):
            info = tarfile.TarInfo(f"{k:03d}.{ending}")
            info.size = len(files[i])
            archive.addfile(info, io.BytesIO(files[i]))
    ways["tar"] = handful.prepare(tmp_path / "a.tar", tmp_path / "from tar")
    for name, data in ways.items():
        assert torch.equal(again.outputs(data), expected), name
    seen = []
    for data, row in (({picture: stacked[5:6]}, 0), (tmp_path / "set", 5)):
        source = handful.open(data, columns=again.pipeline.schema)
        seen.append(again.pipeline.on(source, target=False)(source.take([row]))["x"])
    assert torch.equal(seen[0], seen[1])


def test_the_range_is_that_of_the_training_rows_and_is_stored(tmp_path):
    labels, pixels, how = low_bits("12 bits")
    halves = [table([how(a) for a in pixels[half]], labels[half].tolist()) for half in (slice(32), slice(32, N))]
    run = handful.fit(
        "cnn",
        halves[0],
        valid=halves[1],
        until="steps(2)",
        batch=8,
        lr=0.01,
        precision="float32",
        quiet=True,
        out=tmp_path / "run",
    )
    split = run.pipeline.input.steps[0]
    np.testing.assert_allclose(float(split.mean), pixels[:32].mean(), rtol=1e-12)
    np.testing.assert_allclose(float(split.std), pixels[:32].std(), rtol=1e-9)
    later = handful.load(tmp_path / "run").pipeline.input.steps[0]
    assert torch.equal(later.mean, split.mean)
    assert torch.equal(later.std, split.std)
    x = run.pipeline(handful.open(halves[1]).take(range(32)))["x"].numpy()[:, 0]
    np.testing.assert_allclose(x, (pixels[32:] - float(split.mean)) / float(split.std), atol=1e-5)


def test_ready_made_models_take_arrays_of_every_depth():
    labels, pixels, _ = low_bits("12 bits")
    outputs = []
    for dtype in (np.uint16, np.int16, np.int32, np.int64):
        x = pixels[:, None].astype(dtype)
        how = {
            "valid": 0,
            "until": "epochs(3)",
            "batch": 16,
            "lr": 0.01,
            "precision": "float32",
        }  # not as the clock says
        run = handful.fit("cnn", (x, labels), **how, quiet=True, seed=2)
        outputs.append(run.outputs(x))
        assert "standardised per channel" in " ".join(run.pipeline.notes)
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])


def frames(kind, count=3):
    out = io.BytesIO()
    pages = [Image.fromarray(RNG.integers(0, 256, (6, 6, 3), dtype=np.uint8)) for _ in range(count)]
    pages[0].save(out, kind, save_all=True, append_images=pages[1:])
    return out.getvalue()


@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG", "WEBP"])
def test_the_first_of_several_pages_or_frames_is_not_taken_without_a_word(tmp_path, kind, memory):
    one, several = frames(kind, 1), frames(kind)
    said = "have several pages or frames: the first of each is read"
    plain = handful.open(table([one] * 3), memory=memory)
    assert not any("pages" in note for note in plain.notes)
    source = handful.open(table([one, several, several]), memory=memory)
    assert f"2 images of 'image' {said}." in source.notes
    assert any(said in note for note in handful.open(table([several]), columns=plain.columns, memory=memory).notes)
    assert any(said in note for note in handful.prepare(table([one, several]), tmp_path / "s").notes)


@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize("channels", [2, 4, 5])
def test_channels_beside_the_colours_are_not_left_out_without_a_word(channels, memory):
    pixels = RNG.integers(0, 256, (5, 7, channels), dtype=np.uint8)
    source = handful.open(table([tiff(pixels)] * 3), memory=memory)
    kept = 1 if channels == 2 else 3
    np.testing.assert_array_equal(pixels_of(source)[2], pixels[:, :, :kept].transpose(2, 0, 1))
    assert any("have more channels than colours: the others are left out" in note for note in source.notes)
    plain = handful.open(table([tiff(pixels[:, :, :kept].squeeze())] * 3), memory=memory)
    assert not any("channels" in note for note in plain.notes)
