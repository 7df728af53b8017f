"""What opens a file by its ending: tables, NumPy's arrays, LIBSVM's text; the way on for other formats."""

import contextlib
import gzip
import io
import re
import sqlite3
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from handful.base.errors import HandfulError, some
from handful.data.arrays import Arrays
from handful.data.base import Column
from handful.data.containers import of_one_type
from handful.data.gather import Array
from handful.data.options import Options
from handful.data.pairs import open_columns, open_rows
from handful.data.store.npz import read_npz
from handful.data.tables.arrow import check_names, open_table, to_table
from handful.data.tables.cells.dialect import RECORDS, SAMPLE, find, is_table, trained_dialect
from handful.data.tables.files import TABLES, ending, is_remote, open_stream, reading
from handful.data.tables.parts import open_table_file


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
    fields = array.dtype.names if array.ndim == 1 else None
    return open_columns({name: array[name] for name in fields} if fields else {"x": array}, o)


def _npz(where: str, o: Options) -> Arrays:
    with reading(where, "a .npz file", "write it again with numpy.savez, without objects"):
        if not is_remote(where):
            columns = read_npz(Path(where), o.budget)
        else:
            with open_stream(where) as stream, np.load(stream, allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
    return open_columns(_sparse(where, columns) if set(columns) >= _OF_SCIPY else columns, o)


_OF_SCIPY = {"format", "shape", "data"}  # what scipy.sparse.save_npz writes of every form


def _sparse(where: str, parts: Mapping[str, Array]) -> dict[str, object]:
    from scipy import sparse  # slow to import, and seldom needed

    kind = bytes(parts["format"].item()).decode()
    if kind not in ("csr", "csc", "bsr"):
        raise HandfulError(f"{where} holds a sparse matrix of the form '{kind}': write it with .tocsr()")
    values = (parts["data"], parts["indices"], parts["indptr"])
    return {"x": getattr(sparse, f"{kind}_array")(values, tuple(parts["shape"]))}


_Read = Callable[[str, Mapping[str, Column], list[str]], object]  # where, the columns of training, notes -> rows


def _orc(where: str, *_: object) -> object:
    from pyarrow import orc  # none of these is needed often

    table = orc.read_table(where)
    table.validate(full=True)
    return table


def _by_pandas(read: str, **how: str) -> _Read:
    def frame(where: str, *_: object) -> object:
        import pandas

        return getattr(pandas, read)(where, **how)

    return frame


def _sheet(where: str, trained: Mapping[str, Column], notes: list[str]) -> object:
    """The first sheet of a workbook, its header found as that of a CSV file is."""
    import pandas

    with pandas.ExcelFile(where) as book:
        first, *others = book.sheet_names
        cells = book.parse(first, header=None, dtype=object, keep_default_na=False, na_values=[""])
    head = cells.head(2 * RECORDS).replace(r"\s+", " ", regex=True).to_csv(sep="\t", header=False, index=False)
    dialect = find(head.encode(), ".tsv", trained_dialect(trained))
    told = [str(name) if name == name else "" for name in cells.iloc[dialect.skip]] if len(cells) else []
    names = dialect.names or [name or f"Unnamed: {k}" for k, name in enumerate(told)]
    check_names(names, where)
    rows = cells.iloc[dialect.skip + (not dialect.names) :].dropna(how="all")
    columns = {name: of_one_type(rows[k].tolist()) for k, name in enumerate(names) if told[k] or rows[k].notna().any()}
    notes += [f"the sheet '{first}' is read, and no other: {some(others, 5)}."] if others else []
    notes += [dialect.note] if dialect.note else []
    return pandas.DataFrame(columns).infer_objects()


def _arff(where: str, *_: object) -> dict[str, object]:
    from scipy.io import arff

    rows = arff.loadarff(where)[0]
    return {name: _words(rows[name]) if rows[name].dtype.kind == "S" else rows[name] for name in rows.dtype.names}


def _words(values: Array) -> list[str | None]:
    """Nominal values, of which '?' is a missing one."""
    return [None if value == b"?" else value.decode() for value in values.tolist()]


def _sqlite(where: str, *_: object) -> object:
    with contextlib.closing(sqlite3.connect(f"{Path(where).absolute().as_uri()}?mode=ro", uri=True)) as base:
        names = [name for (name,) in base.execute("select name from sqlite_master where type in ('table', 'view')")]
        tables = [name for name in names if not name.startswith("sqlite_")]
        if len(tables) != 1:
            raise HandfulError(f"{where} holds {len(tables)} tables ({some(tables, 5)}): {_ROUTES['.db']}")
        quoted = tables[0].replace('"', '""')
        found = base.execute(f'select * from "{quoted}"')
        names, rows = [column[0] for column in found.description], found.fetchall()
        columns = [of_one_type(cells) for cells in zip(*rows, strict=True)]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


# What those libraries raise at a damaged file, besides what `reading` knows.
_OF_OTHERS = (sqlite3.Error, struct.error, LookupError, ArithmeticError, AttributeError, AssertionError, RuntimeError,
              StopIteration)  # fmt: skip


def _by_another(read: _Read) -> Callable[[str, Options], Arrays]:
    """Of a format that another library reads: what it gives, opened as if it had been passed."""

    def reader(where: str, o: Options) -> Arrays:
        notes = list[str]()
        if is_remote(where):
            raise HandfulError(f"{where}: such files are read from this machine alone: copy it, or {route_of(where)}")
        try:
            with reading(where, f"a {ending(where)} file", f"write it again, or {route_of(where)}"):
                found = read(where, o.schema, notes)
        except ImportError as error:
            raise HandfulError(f"{where} needs another package: {error}") from error
        except _OF_OTHERS as error:
            why = str(error) or "it ends too soon"
            raise HandfulError(f"{where} cannot be read ({why}): write it again, or {route_of(where)}") from error
        match found:
            case dict():
                return open_columns(found, o)
            case list():
                return open_rows(found, o)
        return open_table(to_table(found, o.name), o, notes=notes)

    return reader


_IDX = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}  # as MNIST's files say what they hold


def open_idx(where: str, o: Options) -> Arrays:
    """An IDX file: the array x of its shape, pictures with their channel first; and where a file of labels is beside
    one of pictures (train-images-idx3-ubyte, train-labels-idx1-ubyte), these as y."""
    path, notes = Path(where), list[str]()
    x = _idx(path)
    if x.dtype == np.uint8 and x.ndim == 3:
        x, notes = x[:, None], [f"{path.name} holds pictures of {x.shape[1]} x {x.shape[2]} pixels."]
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    if beside == path or not beside.is_file():
        return open_columns({"x": x}, o, notes)
    notes.append(f"y is read from {beside.name}, which lies beside it.")
    return open_columns({"x": x, "y": _idx(beside)}, o if o.target else replace(o, target="y"), notes)


def _idx(path: Path) -> Array:
    with reading(str(path), "an IDX file", "download it again"), open(path, "rb") as packed:
        stream = gzip.GzipFile(fileobj=packed) if path.suffix == ".gz" else packed
        head = stream.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _IDX:
            raise ValueError("its first bytes are not those of one")
        shape = np.frombuffer(stream.read(4 * head[3]), ">u4").tolist()
        return np.frombuffer(stream.read(), _IDX[head[2]]).reshape(shape)


def _any_text(where: str, o: Options) -> Arrays:
    """A table in text under a name that does not say how it is written."""
    if is_remote(where):
        return open_table_file(where, o)
    with open(where, "rb") as stream:
        head = stream.read(SAMPLE)
    if re.match(rb"\s*(%[^\n]*\s+)*@relation", head, re.I):
        return READERS[".arff"](where, o)
    if b"\0" in head:
        raise HandfulError(f"{where} is no table in text: read it with the library that wrote it and {_ARRAYS}")
    return open_table_file(where, o)


READERS: dict[str, Callable[[str, Options], Arrays]] = {
    **dict.fromkeys(TABLES, open_table_file),
    **dict.fromkeys((".data", ".dat", ".asc", ".prn", ".tab", ".ecsv"), _any_text),
    ".npy": _npy,
    ".npz": _npz,
    ".orc": _by_another(_orc),
    ".arff": _by_another(_arff),
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".ods"), _by_another(_sheet)),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3"), _by_another(_sqlite)),
    ".dta": _by_another(_by_pandas("read_stata")),
    ".sas7bdat": _by_another(_by_pandas("read_sas", encoding="infer")),
    ".xpt": _by_another(_by_pandas("read_sas")),
}


_ARRAYS = "pass the arrays, as (X, y) or as a dict name -> array"
_FRAME = "pass the DataFrame"
# How files that handful does not read become something that it does.
_ROUTES: dict[str, str] = {
    ".dcm": f"read it with pydicom (dcmread(path).pixel_array) and {_ARRAYS}",
    ".nii": f"read it with nibabel (load(path).get_fdata()) and {_ARRAYS}",
    ".nii.gz": f"read it with nibabel (load(path).get_fdata()) and {_ARRAYS}",
    ".mat": f"read it with scipy.io.loadmat, or h5py if it is of version 7.3, and {_ARRAYS}",
    ".arff": f"read it with liac-arff (arff.load(file)) and {_FRAME}: pandas.DataFrame(read['data'])",
    ".ts": f"read it with aeon.datasets.load_from_ts_file and {_ARRAYS}",
    ".dta": f"read it with pyreadstat.read_dta and {_FRAME}",
    **dict.fromkeys((".h5", ".hdf5", ".hdf"), f"read it with h5py and {_ARRAYS}; if pandas wrote it, with read_hdf"),
    ".orc": f"read it with pandas.read_orc and {_FRAME}",
    **dict.fromkeys((".nc", ".nc4", ".grib"), f"read it with xarray (open_dataset(path).to_dataframe()) and {_FRAME}"),
    ".zarr": f"read it with zarr and {_ARRAYS}",
    **dict.fromkeys((".pkl", ".joblib"), "if you trust who wrote it, load it with pickle or joblib "
                    "and pass what it holds"),
    **dict.fromkeys((".pt", ".pth"), "load it with torch.load(path, weights_only=True) and pass the Tensors"),
    ".safetensors": "load it with safetensors.torch.load_file and pass the Tensors",
    ".sas7bdat": f"read it with pyreadstat.read_sas7bdat and {_FRAME}",
    ".xpt": f"read it with pyreadstat.read_xport and {_FRAME}",
    ".por": f"read it with pyreadstat.read_por and {_FRAME}",
    **dict.fromkeys((".fits", ".fit", ".vot", ".votable", ".tbl"), "read it with astropy.table.Table.read and pass the "
                    "Table"),
    **dict.fromkeys((".sav", ".zsav"), f"read it with pyreadstat.read_sav and {_FRAME}"),
    **dict.fromkeys((".rds", ".rdata", ".rda"), f"read it with pyreadr.read_r and {_FRAME}"),
    **dict.fromkeys((".tfrecord", ".tfrecords"), f"read it with tensorflow.data.TFRecordDataset and {_ARRAYS}"),
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".ods"), f"read it with pandas.read_excel and {_FRAME}"),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3"), f"read it with pandas.read_sql, sqlite3, and {_FRAME}"),
    ".duckdb": f"read it with duckdb.connect(path).sql(query).df() and {_FRAME}",
    ".avro": f"read it with fastavro and {_FRAME}",
    ".xml": f"read it with pandas.read_xml and {_FRAME}",
    ".html": f"read it with pandas.read_html and {_FRAME}",
    **dict.fromkeys((".mp4", ".avi", ".mov", ".mkv"), f"decode its pictures with PyAV or OpenCV and {_ARRAYS}"),
    **dict.fromkeys((".edf", ".bdf", ".fif"), f"read it with mne and {_ARRAYS}"),
    **dict.fromkeys((".bz2", ".xz", ".zst", ".gz", ".7z", ".rar"), "unpack it first"),
    **dict.fromkeys((".pdf", ".docx"), "take its text out into a .txt file"),
    **dict.fromkeys((".md", ".rst", ".tex", ".log", ".py", ".js", ".c", ".java"),
                    "to learn from its text, copy it to a name that ends in .txt"),
}  # fmt: skip


def route_of(where: str) -> str | None:
    """How a file of a format that is known, but not read here, becomes data; None for any other name."""
    name = where.rsplit("/", 1)[-1].lower()
    return next((_ROUTES[kind] for kind in sorted(_ROUTES, key=len, reverse=True) if name.endswith(kind)), None)


def refused(where: str, known: Sequence[str]) -> HandfulError:
    """What a file is that no reader is for, and the way on. known: endings that are read there."""
    plain = [name for name in known if not re.fullmatch(r"\.\w+\.\w+", name)]  # .csv, not .csv.gz
    reads = f"it reads {', '.join(plain)}, tables in text also as .gz, .bz2, .xz and .zst, and folders"
    kind, way = ending(where), route_of(where) or reads
    how = f"ends in '{kind}', which handful does not read" if kind else "has no ending by which handful knows it"
    return HandfulError(f"{where} {how}; {way}")


def is_idx(path: Path) -> bool:
    """Whether it is named as MNIST's files are."""
    return bool(re.search(r"idx[1-9]-(ubyte|byte|short|int|float|double)(\.gz)?$|\.idx[1-9]?(\.gz)?$", path.name))


def is_text_table(path: Path, o: Options) -> bool:
    """Whether a .txt file is a table, not a document: as training had it, or by its first lines."""
    if {*o.schema} == {"text"}:
        return False
    with open(path, "rb") as stream:
        head = stream.read(SAMPLE + 1)
    return bool(o.schema) or is_table(head)


_LIBSVM_LINE = re.compile(
    r"\s*[-+]?\d+(\.\d*)?([eE][-+]?\d+)?(\s+qid:\d+)?(\s+\d+:[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)+\s*(#.*)?"
)
LIBSVM_ENDINGS = {"", ".txt", ".svm", ".libsvm", ".svmlight", ".scale", ".t"}


def is_libsvm(path: Path) -> bool:
    """Whether its first lines are a number and `feature:value` pairs."""
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
