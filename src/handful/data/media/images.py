"""Encoded images -> [n, channels, height, width], decoded once when they fit in memory.

Of bytes: uint8. Of more depth, which is kept: int32 (16 bits, signed or not; 32) or float32.
"""

import contextlib
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

from handful.data.arrays import Dense, Stored
from handful.data.base import Column, Rows
from handful.data.media.bad_rows import BadItem
from handful.data.media.depth import DTYPES, Pixels, choose_dtype, depth_of, has_more_channels, planes_of
from handful.data.media.items import Items, in_parallel
from handful.data.media.jpeg import plain_jpeg
from handful.data.options import Options

_LARGEST_DEFAULT = 224
_KEPT = 512  # shorter side of images of one size that are left as large as they are
_GREY = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"}
_SWAPPING = {5, 6, 7, 8}  # EXIF orientations that exchange height and width

_T = TypeVar("_T")


class _Differs(Exception):
    """An image is not like the first one."""


class Header(NamedTuple):
    """What is known of an image before it is decoded: pixels, upright; grey, transparent; the type of a channel;
    what else the file has, that is not read; and whether its pixels are places in a palette."""

    height: int
    width: int
    grey: bool
    alpha: bool
    depth: str
    beside: tuple[str, ...]
    palette: bool


@dataclass(frozen=True)
class Form:
    """What every decoded image is brought to.

    dtype: uint8, int32 or float32; fit: resize and crop those of another size; strict: raise _Differs for any that is
    not so already; exact: values that do not mix, as a target's do: the nearest pixel's when resized, and of a palette
    the places.
    """

    channels: int
    height: int
    width: int
    fit: bool = False
    strict: bool = False
    exact: bool = False
    dtype: str = "uint8"

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    @property
    def bytes(self) -> int:
        """Of one image, decoded."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def column(self) -> Column:
        return Column("image", self.dtype, self.shape)


class Encoded(Stored):
    """Images that stay encoded, as they would not fit decoded; each read decodes its rows on all cores."""

    in_memory = False

    def __init__(self, items: Items, form: Form) -> None:
        super().__init__(form.column, len(items))
        self.items, self.form = items, form

    def read(self, rows: Rows) -> Tensor:
        return torch.from_numpy(_decoded(self.items, rows, self.form)[0])


def from_items(items: Items, o: Options, notes: list[str]) -> Stored:
    """Decode every image, or keep them encoded when more than `o.budget` bytes would be needed.

    Images of one size keep it, up to 512 pixels on the shorter side. Others are resized (bilinear, shorter side) and
    cropped at the centre. A target of one channel keeps its values. Raises HandfulError, naming file or row, for an
    image that cannot be decoded.
    """
    wanted = o.schema.get(items.key)
    first = _first(items)
    plain = first.depth == "uint8" and not first.alpha and not first.beside and not _is_large(first)
    if wanted is None and o.image_size is None and plain and items.key != o.target:
        form = Form(1 if first.grey else 3, first.height, first.width, strict=True)
        with contextlib.suppress(_Differs):
            if len(items) * form.bytes <= o.budget:
                return _dense(items, form, [])
    if wanted is not None and None not in wanted.shape:
        form, said = choose_form(items.key, Counter([first]), o, notes), notes
    else:
        headers = in_parallel(lambda i: header(items, i), len(items), items.small)
        form, said = choose_form(items.key, Counter(headers), o, notes), []
    needed = len(items) * form.bytes
    if needed <= o.budget:
        return _dense(items, form, said)
    said += [f"images of '{items.key}' {loss}." for loss in _lost(first.depth, first.beside, form.dtype)]
    notes.append(
        f"'{items.key}' needs {needed / 2**30:.1f} GiB decoded, more than {o.budget / 2**30:.1f} GiB: images are "
        "decoded on every read."
    )
    if o.bad_rows != "stop":
        in_parallel(lambda i: len(_guarded(items, i, lambda image: _pixels(image, form))), len(items), items.small)
    return Encoded(items, form)


def _dense(items: Items, form: Form, notes: list[str]) -> Dense:
    pixels, losses = _decoded(items, np.arange(len(items)), form)
    notes += [f"{count:,} images of '{items.key}' {loss}." for loss, count in losses.items()]
    return Dense(pixels, form.column)


def _decoded(items: Items, rows: Rows, form: Form) -> tuple[Pixels, Counter[str]]:
    """The pixels; and what was not read, with the number of images."""
    out = np.empty((len(rows), *form.shape), np.dtype(form.dtype))

    def use(image: ImageFile.ImageFile) -> tuple[Pixels, list[str]]:
        lost = _lost(depth_of(image), _beside(image), form.dtype)
        return _pixels(image, form), lost

    def work(place: int) -> Sequence[str]:
        data: bytes | memoryview = items[int(rows[place])]
        lost: Sequence[str] = ()
        quick = _quick(data, form) if form.dtype == "uint8" else None
        if quick is None:
            out[place], lost = _guarded(items, int(rows[place]), use, data)
        else:
            out[place] = quick
        return lost

    return out, Counter(loss for lost in in_parallel(work, len(rows), items.small) for loss in lost)


def _quick(data: bytes | memoryview, form: Form) -> Pixels | None:
    """A plain JPEG of the form, or one to be resized from its full size; None for all else."""
    found = plain_jpeg(data)
    if found is None or found.grey != (form.channels == 1):
        return None
    alike = (found.height, found.width) == (form.height, form.width)
    if not alike and (not form.fit or _halves(form, found.height, found.width)):
        return None
    pixels = found.decode()
    if pixels is None or alike:
        return None if pixels is None else pixels.transpose(2, 0, 1)
    fitted = np.asarray(_fit(Image.fromarray(pixels[:, :, 0] if found.grey else pixels), form))
    return fitted[None] if found.grey else fitted.transpose(2, 0, 1)


def _halves(form: Form, height: int, width: int) -> bool:
    """Whether a JPEG is so large that its decoder halves it, never below twice what is needed."""
    return max(form.height, form.width) / min(height, width) < 0.5


def _lost(depth: str, beside: Sequence[str], dtype: str) -> list[str]:
    """What is left out of an image when it is read as `dtype`."""
    shallow = ["have 16 bits per channel: read as 8 bits"] if depth == "uint16" and dtype == "uint8" else []
    return [*shallow, *beside]


def _guarded(
    items: Items, i: int, use: Callable[[ImageFile.ImageFile], _T], data: bytes | memoryview | None = None
) -> _T:
    """data: of item `i`, where it is read already."""
    data = items[i] if data is None else data
    try:
        with Image.open(io.BytesIO(data)) as image:
            return use(image)
    except (_Differs, BadItem):
        raise
    except Exception as error:  # the decoders raise many types: OSError, SyntaxError, struct.error, zlib.error, ...
        reason = "its format is unknown" if type(error).__name__ == "UnidentifiedImageError" else str(error)
        what = f"is not a readable image ({reason}): repair or remove it"
        raise BadItem("unreadable image", items.describe(i), what) from error


def _first(items: Items) -> Header:
    """The header of the first image; if it is not readable, BadRows with all that are not."""
    try:
        return header(items, 0)
    except BadItem:
        in_parallel(lambda i: header(items, i), len(items), items.small)
        raise


def header(items: Items, i: int) -> Header:
    """Of image `i`. Raises BadItem, naming file or row, for one that is not readable."""
    return _guarded(items, i, _measure)


def _measure(image: ImageFile.ImageFile) -> Header:
    width, height = image.size
    if _orientation(image) in _SWAPPING:
        width, height = height, width
    grey, palette = image.mode in _GREY, image.mode == "P"
    return Header(height, width, grey, _has_alpha(image), depth_of(image), _beside(image), palette)


def _is_large(image: Header) -> bool:
    return min(image.height, image.width) > _KEPT


def _orientation(image: Image.Image) -> int:
    if "exif" not in image.info and image.format != "TIFF":  # reading EXIF costs more than a small image
        return 1
    return int(image.getexif().get(0x0112, 1))


def _beside(image: Image.Image) -> tuple[str, ...]:
    """What a file has that is not read."""
    pages = ("have several pages or frames: the first of each is read",) * bool(getattr(image, "is_animated", False))
    return pages + ("have more channels than colours: the others are left out",) * has_more_channels(image)


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def choose_form(key: str, headers: Counter[Header], o: Options, notes: list[str]) -> Form:
    """One form for images of which only the headers are known: how many there are of each."""
    wanted = o.schema.get(key)
    if wanted is not None and None not in wanted.shape:
        channels, height, width = (side or 1 for side in wanted.shape)
        return Form(channels, height, width, fit=True, exact=key == o.target and channels == 1, dtype=wanted.dtype)
    sizes = {(h.height, h.width) for h in headers}
    exact = key == o.target and all(h.grey or h.palette for h in headers)
    grey = exact or all(h.grey for h in headers)
    channels = (wanted.shape[0] if wanted is not None else None) or (1 if grey else 3)
    alpha = sum(count for h, count in headers.items() if h.alpha and not exact)
    if alpha:
        notes.append(f"{alpha:,} images of '{key}' have transparency: laid on white.")
    dtype = choose_dtype(o.name, key, {h.depth for h in headers}, notes)
    lost = Counter[str]()
    for h, count in headers.items():
        lost.update(dict.fromkeys(_lost(h.depth, h.beside, dtype), count))
    notes += [f"{count:,} images of '{key}' {loss}." for loss, count in lost.items()]
    if channels == 3 and any(h.grey for h in headers):
        notes.append(f"'{key}' mixes grey and colour: all are read as RGB.")
    if o.image_size is not None:
        return Form(channels, *o.image_size, fit=True, exact=exact, dtype=dtype)
    if len(sizes) == 1:
        height, width = sizes.pop()
        if not any(map(_is_large, headers)):
            return Form(channels, height, width, exact=exact, dtype=dtype)
        scale = _LARGEST_DEFAULT / min(height, width)
        small = round(height * scale), round(width * scale)
        notes.append(
            f"'{key}' has images of {height}x{width} (height x width): resized to {small[0]}x{small[1]}, as all are "
            f"whose shorter side is above {_KEPT}; image_size=... for another."
        )
        return Form(channels, *small, fit=True, exact=exact, dtype=dtype)
    sides = np.repeat([min(h.height, h.width) for h in headers], list(headers.values()))
    side = min(_LARGEST_DEFAULT, int(np.median(sides)))
    notes.append(
        f"'{key}' has images of {len(sizes):,} sizes: resized to {side}x{side} (median shorter side, at most "
        f"{_LARGEST_DEFAULT}), cropped at the centre; image_size=... for another."
    )
    return Form(channels, side, side, fit=True, exact=exact, dtype=dtype)


def _pixels(image: ImageFile.ImageFile, form: Form) -> Pixels:
    """One image as [channels, height, width]; _Differs when it is not of a form that is not fitted."""
    if form.strict:
        found = _measure(image)
        if found.grey != (form.channels == 1) or found.alpha or found.depth != "uint8" or found.beside:
            raise _Differs
    if form.dtype != "uint8":
        return _deep_pixels(image, form)
    if form.fit and image.format == "JPEG" and _halves(form, image.height, image.width):
        scale = max(form.height, form.width) / min(image.size)
        image.draft(image.mode, (int(2 * scale * image.width) + 1, int(2 * scale * image.height) + 1))
    places = form.exact and image.mode in ("P", "1")
    upright = Image.fromarray(np.asarray(image).astype(np.uint8)) if places else image
    plain = _plain(upright, "L" if form.channels == 1 else "RGB")
    if form.fit:
        plain = _fit(plain, form)
    elif plain.size != (form.width, form.height):
        raise _Differs
    pixels = np.asarray(plain)
    return pixels[None] if form.channels == 1 else pixels.transpose(2, 0, 1)


def _deep_pixels(image: ImageFile.ImageFile, form: Form) -> Pixels:
    """The same for one of more than 8 bits: as deep as it is."""
    depth = depth_of(image)
    if DTYPES[depth] != form.dtype:
        raise ValueError(f"it is of {depth} where the others are kept as {form.dtype}")
    planes = planes_of(image)
    if len(planes) > form.channels:
        raise ValueError("it has colours where the others are grey")
    out, turn = np.empty(form.shape, np.dtype(form.dtype)), _orientation(image)
    for channel in range(form.channels):
        plane = Image.fromarray(planes[channel % len(planes)].astype(form.dtype))  # resized in double precision
        if turn != 1:
            plane.getexif()[0x0112] = turn
            plane = ImageOps.exif_transpose(plane)
        if not form.fit and plane.size != (form.width, form.height):
            raise _Differs
        out[channel] = np.asarray(_fit(plane, form))
    return out


def _plain(image: Image.Image, mode: str) -> Image.Image:
    """8 bits per channel, upright, without palette or transparency."""
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == mode and "transparency" not in image.info:
        return image
    depth = depth_of(image)
    if depth != "uint8" and image.mode in _GREY:
        if depth != "uint16":
            raise ValueError(f"its pixels are {depth} where the others are bytes")
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
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
    how = Image.Resampling.NEAREST if form.exact else Image.Resampling.BILINEAR
    return image.resize((form.width, form.height), how, box=box)
