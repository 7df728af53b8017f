"""What opens a file by its ending: tables, and NumPy's arrays."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from handful.base.errors import HandfulError
from handful.data.arrays import Arrays
from handful.data.npz import read_npz
from handful.data.options import Options
from handful.data.pairs import open_columns
from handful.data.tables.files import TABLES, ending, is_remote, open_stream, open_table_file, reading


def open_file(where: str, o: Options) -> Arrays:
    """Any supported file, local, or remote through fsspec."""
    reader = READERS.get(ending(where))
    if reader is None:
        raise HandfulError(f"{where}: remote files may end in {', '.join(READERS)}; copy others to this machine first")
    return reader(where, o)


def _npy(where: str, o: Options) -> Arrays:
    with reading(where, "a .npy file", "write it again with numpy.save(..., allow_pickle=False)"):
        if is_remote(where):
            with open_stream(where) as stream:
                array = np.load(io.BytesIO(stream.read()), allow_pickle=False)
        else:
            # mode "c": pages are private copies when written to, so that torch may wrap them
            array = np.load(where, mmap_mode="c" if Path(where).stat().st_size else None, allow_pickle=False)
    return open_columns({"x": array}, o)


def _npz(where: str, o: Options) -> Arrays:
    with reading(where, "a .npz file", "write it again with numpy.savez, without objects"):
        if not is_remote(where):
            columns = read_npz(Path(where), o.budget)
        else:
            with open_stream(where) as stream, np.load(stream, allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
    return open_columns(columns, o)


READERS: dict[str, Callable[[str, Options], Arrays]] = {
    **dict.fromkeys(TABLES, open_table_file),
    ".npy": _npy,
    ".npz": _npz,
}
