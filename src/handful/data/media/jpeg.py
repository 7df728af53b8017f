"""JPEG by libjpeg-turbo's own interface (simplejpeg), where it is installed: the pixels that Pillow gives, sooner."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

try:
    import simplejpeg
except ImportError:
    simplejpeg = None


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
    if simplejpeg is None or bytes(data[:3]) != b"\xff\xd8\xff":
        return None
    whole = bytes(data)
    if b"Exif\0" in whole or b"MPF\0" in whole or b"Adobe" in whole:
        return None  # Pillow sees to an orientation, to further pictures, and to colours that are not those of most
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(whole)
    except ValueError:
        return None
    return Jpeg(whole, height, width, space == "Gray") if space in ("Gray", "YCbCr") else None
