"""What opens a file by its ending: tables, NumPy's arrays, LIBSVM's text; the way on for other formats."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from handful.base.errors import HandfulError
from handful.data.arrays import Arrays
from handful.data.gather import Array
from handful.data.npz import read_npz
from handful.data.options import Options
from handful.data.pairs import open_columns
from handful.data.tables.dialect import RECORDS, SAMPLE
from handful.data.tables.files import TABLES, ending, is_remote, open_stream, open_table_file, reading


def open_file(where: str, o: Options) -> Arrays:
    """Any supported file, local, or remote through fsspec."""
    reader = READERS.get(ending(where))
    if reader is None:
        raise refused(where, [*READERS, "copied to this machine, .txt, .zip"])
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
    return open_columns(_sparse(where, columns) if set(columns) >= _OF_SCIPY else columns, o)


_OF_SCIPY = {"format", "shape", "data", "indices", "indptr"}  # what scipy.sparse.save_npz writes


def _sparse(where: str, parts: Mapping[str, Array]) -> dict[str, object]:
    from scipy import sparse  # slow to import, and seldom needed

    kind = bytes(parts["format"].item()).decode()
    if kind not in ("csr", "csc", "bsr"):
        raise HandfulError(f"{where} holds a sparse matrix of the form '{kind}': write it with .tocsr()")
    values = (parts["data"], parts["indices"], parts["indptr"])
    return {"x": getattr(sparse, f"{kind}_array")(values, tuple(parts["shape"]))}


READERS: dict[str, Callable[[str, Options], Arrays]] = {
    **dict.fromkeys(TABLES, open_table_file),
    ".npy": _npy,
    ".npz": _npz,
}


_ARRAYS = "pass the arrays, as (X, y) or as a dict name -> array"
_FRAME = "pass the DataFrame"
# How files that handful does not read become something that it does.
_ROUTES: dict[str, str] = {
    ".dcm": f"read it with pydicom (dcmread(path).pixel_array) and {_ARRAYS}",
    ".nii": f"read it with nibabel (load(path).get_fdata()) and {_ARRAYS}",
    ".nii.gz": f"read it with nibabel (load(path).get_fdata()) and {_ARRAYS}",
    ".mat": f"read it with scipy.io.loadmat, or h5py if it is of version 7.3, and {_ARRAYS}",
    ".arff": f"read it with scipy.io.arff.loadarff and {_FRAME}: pandas.DataFrame(data)",
    ".ts": f"read it with aeon.datasets.load_from_ts_file and {_ARRAYS}",
    ".dta": f"read it with pandas.read_stata and {_FRAME}",
    **dict.fromkeys((".h5", ".hdf5", ".hdf"), f"read it with h5py and {_ARRAYS}; if pandas wrote it, with read_hdf"),
    ".orc": f"read it with pandas.read_orc and {_FRAME}",
    **dict.fromkeys((".nc", ".nc4", ".grib"), f"read it with xarray (open_dataset(path).to_dataframe()) and {_FRAME}"),
    ".zarr": f"read it with zarr and {_ARRAYS}",
    **dict.fromkeys((".pkl", ".joblib"), "if you trust who wrote it, load it with pickle or joblib "
                    "and pass what it holds"),
    **dict.fromkeys((".pt", ".pth"), "load it with torch.load(path, weights_only=True) and pass the Tensors"),
    ".safetensors": "load it with safetensors.torch.load_file and pass the Tensors",
    ".sas7bdat": f"read it with pandas.read_sas and {_FRAME}",
    ".xpt": f"read it with pandas.read_sas and {_FRAME}",
    **dict.fromkeys((".sav", ".zsav"), f"read it with pyreadstat.read_sav and {_FRAME}"),
    **dict.fromkeys((".rds", ".rdata", ".rda"), f"read it with pyreadr.read_r and {_FRAME}"),
    **dict.fromkeys((".tfrecord", ".tfrecords"), f"read it with tensorflow.data.TFRecordDataset and {_ARRAYS}"),
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".ods"), f"read it with pandas.read_excel and {_FRAME}"),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3"), f"read it with pandas.read_sql, sqlite3, and {_FRAME}"),
    ".duckdb": f"read it with duckdb.connect(path).sql(query).df() and {_FRAME}",
    ".avro": f"read it with fastavro and {_FRAME}",
    ".xml": f"read it with pandas.read_xml and {_FRAME}",
    ".html": f"read it with pandas.read_html and {_FRAME}",
    **dict.fromkeys((".data", ".dat", ".asc", ".prn"), "if it is a table in text, copy it to a name that ends in .csv"),
    **dict.fromkeys((".mp4", ".avi", ".mov", ".mkv"), f"decode its pictures with PyAV or OpenCV and {_ARRAYS}"),
    **dict.fromkeys((".edf", ".bdf", ".fif"), f"read it with mne and {_ARRAYS}"),
    **dict.fromkeys((".bz2", ".xz", ".zst", ".7z", ".rar"), "unpack it first"),
    **dict.fromkeys((".pdf", ".docx"), "take its text out into a .txt file"),
}  # fmt: skip


def route_of(where: str) -> str | None:
    """How a file of a format that is known, but not read here, becomes data; None for any other name."""
    name = where.rsplit("/", 1)[-1].lower()
    return next((_ROUTES[kind] for kind in sorted(_ROUTES, key=len, reverse=True) if name.endswith(kind)), None)


def refused(where: str, known: Sequence[str]) -> HandfulError:
    """What a file is that no reader is for, and the way on. known: endings that are read there."""
    kind, way = ending(where), route_of(where) or f"it reads {', '.join(known)}, and folders"
    how = f"ends in '{kind}', which handful does not read" if kind else "has no ending by which handful knows it"
    return HandfulError(f"{where} {how}; {way}")


_LIBSVM_LINE = re.compile(
    r"\s*[-+]?\d+(\.\d*)?([eE][-+]?\d+)?(\s+qid:\d+)?(\s+\d+:[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)+\s*(#.*)?"
)
_LIBSVM_ENDINGS = {"", ".txt", ".svm", ".libsvm", ".svmlight", ".scale", ".t"}


def is_libsvm(path: Path) -> bool:
    """Whether its first lines are a number and `feature:value` pairs."""
    if ending(path.name) not in _LIBSVM_ENDINGS:
        return False
    with open(path, "rb") as stream:
        head = stream.read(SAMPLE).decode("utf-8", errors="replace")
    lines = [line for line in head.splitlines()[: -1 if len(head) == SAMPLE else None] if not line.startswith("#")]
    told = [line for line in lines if line.strip()][:RECORDS]
    return bool(told) and all(map(_LIBSVM_LINE.fullmatch, told))


def open_libsvm(path: Path, o: Options) -> Arrays:
    """LIBSVM's text, by scikit-learn, as a sparse matrix `x` float64 [n, features] and numbers `y`, the target."""
    from sklearn.datasets import load_svmlight_file  # a second to import, and seldom needed

    wanted = o.schema.get("x")
    features = wanted.shape[0] if wanted is not None and wanted.shape else None
    with reading(str(path), "LIBSVM text", "each line must be a number and feature:value pairs"):
        x, y = load_svmlight_file(str(path), n_features=features)
    whole = y.astype(np.int64)
    columns = {"x": x, "y": whole if np.array_equal(whole, y) else y}
    note = f"{path.name} is LIBSVM text: x has {x.shape[1]:,} features, y is the first number of each line."
    return open_columns(columns, o if o.target else replace(o, target="y"), [note])
