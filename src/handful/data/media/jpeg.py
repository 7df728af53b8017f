"""JPEG by libjpeg-turbo's own interface (simplejpeg), where it is installed: the pixels that Pillow gives, sooner."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

try:
    import simplejpeg
except ImportError:
    simplejpeg = None


_last: tuple[bytes, tuple[int, int, bool] | None] = (b"", None)  # the newest header, and height, width and grey by it


class Jpeg(NamedTuple):
    """A plain JPEG, encoded, and what its header says."""

    data: bytes
    height: int
    width: int
    grey: bool

    def decode(self) -> NDArray[np.uint8] | None:
        """uint8 [height, width, 1 or 3]; None where it is damaged, which Pillow then says or repairs."""
        try:
            found: NDArray[np.uint8] = simplejpeg.decode_jpeg(self.data, "GRAY" if self.grey else "RGB")
        except ValueError:
            return None
        return found


def plain_jpeg(data: bytes | memoryview) -> Jpeg | None:
    """The file, if simplejpeg can decode it as Pillow would; None for all else."""
    global _last
    if simplejpeg is None:
        return None
    whole, (head, known) = bytes(data), _last
    if known is not None and whole.startswith(head):
        return Jpeg(whole, *known)
    if whole[:3] != b"\xff\xd8\xff":
        return None
    head = whole[: _header_end(whole)]
    if b"Exif\0" in head or b"MPF\0" in head or b"Adobe" in head:
        return None  # Pillow sees to an orientation, to further pictures, and to colours that are not those of most
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(whole)
    except ValueError:
        return None
    if space not in ("Gray", "YCbCr"):
        return None
    _last = head, (height, width, space == "Gray")
    return Jpeg(whole, *_last[1])


def _header_end(data: bytes) -> int:
    """Where the first scan begins, before which Pillow stops to read; where the segments are not plain, the end."""
    at = 2
    while data[at : at + 1] == b"\xff" and 0xC0 <= data[at + 1] < 0xFF:
        length = int.from_bytes(data[at + 2 : at + 4])
        if data[at + 1] == 0xDA:
            return at + 2 + length
        at += 2 + length
    return len(data)
