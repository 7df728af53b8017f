"""Images of more than 8 bits per channel: how deep one is, what it is kept in, its channels as the file has them."""

import io
import sys
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from handful.base.errors import HandfulError

Pixels = NDArray[np.uint8] | NDArray[np.int32] | NDArray[np.float32]
DTYPES = {"uint8": "uint8", "uint16": "int32", "int32": "int32", "float32": "float32"}  # depth -> what it is kept in
_COLOURS = ("RGB", "RGBA")  # of which Pillow keeps 8 bits alone
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def depth_of(image: Image.Image) -> str:
    """The type of a channel: uint8, uint16, int32 (signed 8 and 16 bits, too) or float32."""
    if image.mode == "L" and _is_signed(image):  # which Pillow reads as if they were not
        return "int32"
    if image.mode in ("F", "I"):  # of 16-bit PNG and PGM, too, in Pillow before 11
        return "float32" if image.mode == "F" else "int32" if image.format == "TIFF" else "uint16"
    if image.mode.startswith("I;16") or (image.mode in _COLOURS and any(";16" in raw for raw in _raw_modes(image))):
        return "uint16"
    return "uint8"


def _is_signed(image: Image.Image) -> bool:
    """Whether a TIFF says so, in its SampleFormat: 1 is unsigned."""
    return 2 in getattr(image, "tag_v2", {}).get(339, (1,))


def has_more_channels(image: Image.Image) -> bool:
    """Whether a TIFF has channels beside its colours, as near infrared, which Pillow passes over (RGBX)."""
    return image.format == "TIFF" and any(raw.partition(";")[0].endswith("X") for raw in _raw_modes(image))


def _raw_modes(image: Image.Image) -> list[str]:
    """How the pixels lie in the file, as far as Pillow says so: RGB;16B are two bytes each, of which it keeps one."""
    tiles = getattr(image, "tile", [])
    told = [(codec, args if isinstance(args, tuple) else (args,)) for codec, _, _, args in tiles]
    return ["PPM;16" if codec.startswith("ppm") and args[1] > 255 else str(args[0]) for codec, args in told if args]


def choose_dtype(where: str, key: str, depths: set[str], notes: list[str]) -> str:
    """One type for images of these depths: bytes beside 16 bits are read as bytes, all else must be of one kind."""
    dtypes = {DTYPES[depth] for depth in depths}
    if depths == {"uint8", "uint16"}:
        return "uint8"
    if len(dtypes) > 1:
        words = {"uint8": "bytes", "uint16": "16 bits", "int32": "signed or 32-bit numbers", "float32": "floats"}
        mixed = " and ".join(words[depth] for depth in sorted(depths))
        raise HandfulError(f"{where}: '{key}' mixes images of {mixed}, which have no common scale: keep one kind")
    dtype = dtypes.pop()
    if dtype != "uint8":
        what = "floats" if dtype == "float32" else "more than 8 bits per channel"
        notes.append(f"'{key}' has images of {what}: kept as {dtype}, scaled by the range of the training rows.")
    return dtype


def planes_of(image: ImageFile.ImageFile) -> list[Pixels]:
    """The channels [height, width] of a deep image as they lie in the file."""
    if image.mode not in _COLOURS:
        pixels = np.asarray(image)
        if image.mode == "L":
            return [pixels.view(np.int8).astype(np.int32)]
        if image.mode == "I" and not _is_signed(image) and (pixels < 0).any():
            raise ValueError("it has whole numbers of 2,147,483,648 and more")
        return [pixels]
    if any(raw.startswith(("LA", "RGBa", "PPM")) for raw in _raw_modes(image)):
        raise ValueError("Pillow reads but 8 of its 16 bits per channel")
    # Pillow keeps one byte of two: the other is had by telling it that they lie the other way round
    assert image.fp is not None
    image.fp.seek(0)
    with Image.open(io.BytesIO(image.fp.read())) as other:
        other.tile = [cast("ImageFile._Tile", (*tile[:3], _swapped(tile[3]))) for tile in other.tile]
        low = np.asarray(other).astype(np.int32)
    high = np.asarray(image).astype(np.int32)
    *colours, last = (high * 256 + low).transpose(2, 0, 1)
    if image.mode == "RGB":
        return [*colours, last]
    opaque = last / 65535
    return [np.rint(colour * opaque + 65535 * (1 - opaque)).astype(np.int32) for colour in colours]  # on white


def _swapped(args: object) -> object:
    """What a decoder is told of the pixels, with their two bytes the other way round."""
    raw, *rest = args if isinstance(args, tuple) else (args,)
    raw = str(raw)[:-1] + _OTHER_BYTE[str(raw)[-1]]
    return (raw, *rest) if isinstance(args, tuple) else raw
