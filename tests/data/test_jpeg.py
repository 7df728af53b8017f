"""JPEG by simplejpeg: for every kind of file the pixels that Pillow gives."""

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import handful
from handful.base.errors import HandfulError
from handful.data.media import jpeg

RNG = np.random.default_rng(0)


def picture(height, width, mode="RGB", **options):
    """A JPEG of smooth noise."""
    rough = RNG.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    image = Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


def segment(marker, data):
    return b"\xff" + bytes([marker]) + (len(data) + 2).to_bytes(2, "big") + data


def behind(*segments, data):
    """A JPEG with more segments behind its first marker."""
    return data[:2] + b"".join(segments) + data[2:]


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


KINDS = {
    "plain": [picture(32, 40) for _ in range(8)],
    "not halved in colour": [picture(33, 41, quality=95, subsampling=0) for _ in range(8)],
    "4:2:2": [picture(31, 17, subsampling=1) for _ in range(8)],
    "progressive": [picture(64, 50, quality=40, progressive=True) for _ in range(8)],
    "grey": [picture(24, 24, "L") for _ in range(8)],
    "grey and colour": [picture(24, 24, "L"), *(picture(24, 24) for _ in range(7))],
    "cmyk": [picture(24, 24, "CMYK") for _ in range(8)],
    "turned": [picture(24, 32, exif=turned()), *(picture(32, 24) for _ in range(7))],
    "sizes": [picture(24 + i, 30 + 5 * i) for i in range(8)],
    "one header, then another": [
        *(picture(24, 32) for _ in range(4)),
        picture(24, 32, exif=turned(), quality=30),
        picture(24, 32, optimize=True),
        picture(24, 32, "CMYK"),
        picture(24, 32),
    ],
    "padded": [behind(b"\xff\xff\xff", data=picture(24, 32)) for _ in range(8)],
    "large and small": [picture(200, 220), *(picture(24, 30) for _ in range(7))],
}


@pytest.fixture(params=["memory", "lazily", "sized"])
def read(request):
    options = {"memory": {}, "lazily": {"memory": 0}, "sized": {"image_size": 20}}[request.param]

    def of(files):
        source = handful.open(pa.table({"image": files, "y": [i % 2 for i in range(len(files))]}), **options)
        return source.take(range(len(files))).tensor("image").numpy(), source.notes

    return of


@pytest.mark.parametrize("kind", KINDS)
def test_the_pixels_are_those_of_pillow(kind, read, monkeypatch):
    pytest.importorskip("simplejpeg")
    found, notes = read(KINDS[kind])
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    expected, said = read(KINDS[kind])
    np.testing.assert_array_equal(found, expected)
    assert notes == said


def test_it_is_used_for_plain_files_and_for_no_others(monkeypatch):
    pytest.importorskip("simplejpeg")
    used = {kind: [jpeg.plain_jpeg(memoryview(data)) is not None for data in files] for kind, files in KINDS.items()}
    assert all(used["plain"])
    assert all(used["grey"])
    assert not any(used["cmyk"])
    assert used["turned"] == [False, *[True] * 7]
    signed = pa.py_buffer(KINDS["plain"][0])  # whose bytes are signed as a memoryview
    assert jpeg.plain_jpeg(memoryview(signed)) is not None


def test_what_a_comment_says_is_no_end_of_the_header():
    pytest.importorskip("simplejpeg")
    exif = turned().tobytes()
    for comment in (b"\xff\xda", b"\xff\xda\0\2", b""):
        data = behind(segment(0xFE, comment), segment(0xE1, exif), data=picture(24, 32))
        assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6
        assert jpeg.plain_jpeg(data) is None
    said = behind(segment(0xFE, b"Adobe"), data=KINDS["plain"][0])
    assert jpeg.plain_jpeg(said) is None


@pytest.mark.parametrize("installed", [True, False])
def test_a_damaged_file_is_named(installed, monkeypatch):
    if not installed:
        monkeypatch.setattr(jpeg, "simplejpeg", None)
    whole = KINDS["plain"]
    for broken in (whole[3][: len(whole[3]) // 2], whole[3][:2], b"\xff\xd8\xff" + b"junk" * 50):
        table = pa.table({"image": [*whole[:3], broken, *whole[4:]], "y": [0, 1] * 4})
        with pytest.raises(HandfulError, match="'image' in row 3 is not a readable image"):
            handful.open(table)
