"""Encoded images -> uint8 [n, channels, height, width], decoded once when they fit in memory."""

import contextlib
import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from handful.base.errors import HandfulError
from handful.data.arrays import Dense, Stored
from handful.data.base import Column, Rows
from handful.data.media.items import Items, in_parallel
from handful.data.options import Options

_LARGEST_DEFAULT = 224
_GREY = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"}
_SWAPPING = {5, 6, 7, 8}  # EXIF orientations that exchange height and width

_T = TypeVar("_T")


class _Differs(Exception):
    """An image is not like the first one."""


class Header(NamedTuple):
    """What is known of an image before it is decoded: pixels, upright; grey, transparent or of more than 8 bits."""

    height: int
    width: int
    grey: bool
    alpha: bool
    deep: bool


@dataclass(frozen=True)
class Form:
    """What every decoded image is brought to.

    fit: resize and crop those of another size; strict: raise _Differs for any that is not so already.
    """

    channels: int
    height: int
    width: int
    fit: bool = False
    strict: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width


class Encoded:
    """Images that stay encoded, as they would not fit decoded; each read decodes its rows on all cores."""

    def __init__(self, items: Items, form: Form) -> None:
        self.items, self.form = items, form
        self.column, self.in_memory = Column("image", "uint8", form.shape), False

    def __len__(self) -> int:
        return len(self.items)

    def read(self, rows: Rows) -> Tensor:
        return torch.from_numpy(_decoded(self.items, rows, self.form))


def from_items(items: Items, o: Options, notes: list[str]) -> Stored:
    """Decode every image, or keep them encoded when more than `o.budget` bytes would be needed.

    Images of one size keep it. Others are resized (bilinear, shorter side) and cropped at the centre. Raises
    HandfulError, naming file or row, for an image that cannot be decoded.
    """
    wanted = o.schema.get(items.key)
    first = header(items, 0)
    if wanted is None and o.image_size is None and not first.alpha and not first.deep:
        form = Form(1 if first.grey else 3, first.height, first.width, strict=True)
        with contextlib.suppress(_Differs):
            if len(items) * prod(form.shape) <= o.budget:
                return _dense(items, form)
    if wanted is not None:
        channels, height, width = (s or 1 for s in wanted.shape)
        form = Form(channels, height, width, fit=True)
    else:
        headers = in_parallel(lambda i: header(items, i), len(items), items.small)
        form = choose_form(items.key, Counter(headers), o, notes)
    needed = len(items) * prod(form.shape)
    if needed <= o.budget:
        return _dense(items, form)
    notes.append(
        f"'{items.key}' needs {needed / 2**30:.1f} GiB decoded, more than {o.budget / 2**30:.1f} GiB: images are "
        "decoded on every read."
    )
    return Encoded(items, form)


def _dense(items: Items, form: Form) -> Dense:
    return Dense(_decoded(items, np.arange(len(items)), form), Column("image", "uint8", form.shape))


def _decoded(items: Items, rows: Rows, form: Form) -> NDArray[np.uint8]:
    out = np.empty((len(rows), *form.shape), np.uint8)

    def work(place: int) -> None:
        out[place] = _guarded(items, int(rows[place]), lambda image: _pixels(image, form))

    in_parallel(work, len(rows), items.small)
    return out


def _guarded(items: Items, i: int, use: Callable[[Image.Image], _T]) -> _T:
    data = items[i]
    try:
        with Image.open(io.BytesIO(data)) as image:
            return use(image)
    except (_Differs, HandfulError):
        raise
    except Exception as error:  # the decoders raise many types: OSError, SyntaxError, struct.error, zlib.error, ...
        reason = "its format is unknown" if type(error).__name__ == "UnidentifiedImageError" else str(error)
        raise HandfulError(f"{items.describe(i)} is not a readable image ({reason}): repair or remove it") from error


def header(items: Items, i: int) -> Header:
    """Of image `i`. Raises HandfulError, naming file or row, for one that is not readable."""
    return _guarded(items, i, _measure)


def _measure(image: Image.Image) -> Header:
    width, height = image.size
    if _orientation(image) in _SWAPPING:
        width, height = height, width
    return Header(height, width, image.mode in _GREY, _has_alpha(image), _deep(image))


def _orientation(image: Image.Image) -> int:
    if "exif" not in image.info and image.format != "TIFF":  # reading EXIF costs more than a small image
        return 1
    return int(image.getexif().get(0x0112, 1))


def _deep(image: Image.Image) -> bool:
    return image.mode.startswith("I")


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def choose_form(key: str, headers: Counter[Header], o: Options, notes: list[str]) -> Form:
    """One form for images of which only the headers are known: how many there are of each."""
    sizes = {(h.height, h.width) for h in headers}
    channels = 1 if all(h.grey for h in headers) else 3
    alpha = sum(count for h, count in headers.items() if h.alpha)
    if alpha:
        notes.append(f"{alpha:,} images of '{key}' have transparency: laid on white.")
    if any(h.deep for h in headers):
        notes.append(f"'{key}' has images of 16 bits per channel: read as 8 bits.")
    if channels == 3 and any(h.grey for h in headers):
        notes.append(f"'{key}' mixes grey and colour: all are read as RGB.")
    if o.image_size is not None:
        return Form(channels, *o.image_size, fit=True)
    if len(sizes) == 1:
        height, width = sizes.pop()
        return Form(channels, height, width)
    sides = np.repeat([min(h.height, h.width) for h in headers], list(headers.values()))
    side = min(_LARGEST_DEFAULT, int(np.median(sides)))
    notes.append(
        f"'{key}' has images of {len(sizes):,} sizes: resized to {side}x{side} (median shorter side, at most "
        f"{_LARGEST_DEFAULT}), cropped at the centre; image_size=... for another."
    )
    return Form(channels, side, side, fit=True)


def _pixels(image: Image.Image, form: Form) -> NDArray[np.uint8]:
    """One image as uint8 [channels, height, width]; _Differs when it is not of a form that is not fitted."""
    if form.strict and ((image.mode in _GREY) != (form.channels == 1) or _has_alpha(image) or _deep(image)):
        raise _Differs
    if form.fit and image.format == "JPEG":
        scale = max(form.height, form.width) / min(image.size)
        if scale < 0.5:  # let the JPEG decoder halve it, never below twice what is needed
            image.draft(image.mode, (int(2 * scale * image.width) + 1, int(2 * scale * image.height) + 1))
    plain = _plain(image, "L" if form.channels == 1 else "RGB")
    if form.fit:
        plain = _fit(plain, form)
    elif plain.size != (form.width, form.height):
        raise _Differs
    pixels = np.asarray(plain)
    return pixels[None] if form.channels == 1 else pixels.transpose(2, 0, 1)


def _plain(image: Image.Image, mode: str) -> Image.Image:
    """8 bits per channel, upright, without palette or transparency."""
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == mode and "transparency" not in image.info:
        return image
    if _deep(image):
        image = Image.fromarray(np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is unknown")
    if _has_alpha(image):
        front = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", front.size, "white"), front)
    return image.convert(mode)


def _fit(image: Image.Image, form: Form) -> Image.Image:
    """Resize so that the shorter side fits and crop the rest at the centre, in one bilinear pass."""
    if image.size == (form.width, form.height):
        return image
    scale = max(form.height / image.height, form.width / image.width)
    width, height = min(form.width / scale, image.width), min(form.height / scale, image.height)
    left, top = (image.width - width) / 2, (image.height - height) / 2
    box = (left, top, left + width, top + height)
    return image.resize((form.width, form.height), Image.Resampling.BILINEAR, box=box)
