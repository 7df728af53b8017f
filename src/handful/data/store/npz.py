"""A .npz file: small arrays loaded, large ones mapped where they lie in the file, or unpacked to the disk."""

import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from handful.base.errors import HandfulError
from handful.data.gather import Array

LARGE = 64 << 20  # bytes; arrays up to this size are loaded whole, their checksums compared
HEADER = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_npz(path: Path, budget: int) -> dict[str, Array]:
    """The arrays by name. Large ones that are not compressed, or that need more than `budget` bytes, are mapped.

    A compressed array is unpacked into a temporary file that goes with it: where the disk of these has little room,
    set TMPDIR. Raises what zipfile and NumPy raise, and HandfulError for a password.
    """
    found: dict[str, Array] = {}
    with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as whole:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if member.flag_bits & 1:
                raise HandfulError(f"{path}: '{name}' needs a password: write the file again without one")
            mapped = None
            if member.file_size > LARGE and member.filename.endswith(".npy"):
                mapped = _mapped(path, archive, member, budget)
            found[name] = whole[name] if mapped is None else mapped
    return found


def _mapped(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, budget: int) -> Array | None:
    """None for what NumPy has to read: an array of objects, or of a format that only it knows."""
    if member.compress_type == zipfile.ZIP_STORED:
        with open(path, "rb") as stream:
            start = _data(stream, member)
            stream.seek(start)
            return _array(stream, start + member.file_size)
    if member.file_size <= budget:
        return None
    with tempfile.TemporaryFile(prefix="handful-npz-") as unpacked:
        with archive.open(member) as packed:  # compares the checksum at its end
            shutil.copyfileobj(packed, unpacked, 1 << 20)
        unpacked.flush()
        unpacked.seek(0)
        return _array(unpacked, member.file_size)


def _data(stream: IO[bytes], member: zipfile.ZipInfo) -> int:
    """Where the bytes of a member begin: after a header of its own, whose length only it knows."""
    stream.seek(member.header_offset)
    head = stream.read(30)
    if len(head) < 30 or head[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"the header of '{member.filename}' is damaged")
    return member.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")


def _array(stream: IO[bytes], stop: int) -> Array | None:
    """The array whose .npy header begins here and which ends at byte `stop`, as private pages: torch may wrap them."""
    reader = HEADER.get(npy.read_magic(stream))
    if reader is None:
        return None
    shape, fortran, dtype = reader(stream)
    if dtype.hasobject:
        return None
    if stream.tell() + dtype.itemsize * int(np.prod(shape, dtype=np.int64)) > stop:
        raise EOFError("an array is cut short")
    return np.memmap(stream, dtype, "c", stream.tell(), shape, "F" if fortran else "C")
