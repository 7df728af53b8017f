"""Row ids -> columns: every kind of data behind one vectorised read."""

import copy
import glob
import os
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handful.base.errors import HandfulError, did_you_mean, whole
from handful.data.base import Batch, Column, Kind, Ragged, Rows, Source, Subset, Value
from handful.data.gather import gather, gather_ragged
from handful.data.split import k_fold, split
from handful.data.targets import names_of

if TYPE_CHECKING:
    from handful.data.options import Options


from handful.data.targets import MultiTarget

__all__ = [
    "Batch",
    "Column",
    "Kind",
    "Ragged",
    "Rows",
    "Source",
    "Subset",
    "Value",
    "gather",
    "gather_ragged",
    "k_fold",
    "open",
    "split",
]


def open(
    where: Any,
    target: str | Sequence[str] | None = None,
    *,
    name: str | None = None,
    columns: Sequence[str] | Mapping[str, Column] | None = None,
    image_size: int | tuple[int, int] | None = None,
    rate: int | None = None,
    memory: int | None = None,
) -> Source:
    """Anything that holds rows, as a Source.

    where: a pair (X, y) of arrays, Tensors, lists or frames; one array (column `x`); a dict of arrays; a
        DataFrame (pandas, polars, pyarrow or any that Arrow can read); a file (.csv, .tsv, .jsonl, .parquet,
        .arrow, .feather, .npy, .npz, .txt), local or remote (s3://, https://, memory://); a folder or .zip of
        images or sounds, where sub-folders are classes; a folder of the parts of one table (part-0.csv, part-1.csv;
        year=2024/...parquet), or a pattern for them (data/train-*.parquet); a store that `prepare` wrote, local or
        remote; a torch Dataset; a Hugging Face Dataset; the name of a data set that scikit-learn ships (digits,
        iris, wine, breast_cancer, diabetes); a Source, which is returned as it is.
    target: the column to be predicted. When it is not given, it is guessed only if there is no doubt. Several, as a
        list or with commas ("toxic,rude"), are labels that a row may have together, or numbers: see `several`.
    name: what messages call the data; the path by default.
    columns: the names to keep; no column is then left out for being constant. Or a mapping name -> Column,
        such as another source's `columns`: kinds, classes and image sizes are then those, so that validation
        data or new data match the training data. Columns of the mapping must exist.
    image_size: side, or (height, width), in pixels, to which images are resized and cropped.
    rate: Hz to which sounds are resampled; the commonest rate by default. Of arrays it is the rate they have: a list
        of float arrays of one dimension is then sound.
    memory: bytes that decoded images may use; a quarter of this machine's memory by default. Beyond it they
        are decoded on every read.

    What was guessed, converted or left out is said in `Source.notes`. Raises HandfulError, in one sentence,
    for data that cannot be used.

    >>> source = open(([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], [0, 1, 0]))
    >>> source.target, source.take([2, 0])["x"].tolist()
    ('y', [[4.0, 5.0], [0.0, 1.0]])
    """
    given = [target] if isinstance(target, str | None) else list(target) if isinstance(target, Sequence) else [target]
    if not given or not all(isinstance(name, str | None) for name in given):
        raise HandfulError(f"target must be the name of a column, or a list of names, not {target!r}.")
    if isinstance(where, Source) and (target is None or target in where.columns):
        return _with(where, str(target) if target else None, columns)
    if target is not None and names_of(target):
        return open_several(where, target, name=name, columns=columns, image_size=image_size, rate=rate, memory=memory)
    target = target if isinstance(target, str | None) else target[0]
    if isinstance(where, Source):
        return _with(where, target, columns)
    o = _options(where, target, name, columns, image_size, rate, memory)
    if isinstance(where, (bytes, bytearray)):
        raise HandfulError("handful cannot open bytes: pass the path of a file, or the bytes of rows as a list.")
    if isinstance(where, (str, os.PathLike)):
        return _open_path(os.fspath(where), o)
    return _open_object(where, o)


def _options(
    where: Any,
    target: str | None,
    name: str | None,
    columns: Sequence[str] | Mapping[str, Column] | None,
    image_size: int | tuple[int, int] | None,
    rate: int | None,
    memory: int | None,
) -> "Options":
    from handful.base.machine import memory_budget
    from handful.data.options import Options

    if isinstance(columns, str):
        raise HandfulError(f"columns must be a list of names, not one string: columns=['{columns}'].")
    size = (image_size, image_size) if isinstance(image_size, Integral) else image_size
    if size is not None and not (
        isinstance(size, Sequence) and len(size) == 2 and all(isinstance(s, Integral) and s > 0 for s in size)
    ):
        raise HandfulError(f"image_size must be a side or (height, width) in pixels, at least 1, not {image_size!r}.")
    if rate is not None and not (isinstance(rate, Integral) and rate > 0):
        raise HandfulError(f"rate must be a whole number of Hz, at least 1 Hz, not {rate!r}.")
    if memory is not None:
        whole("memory, in bytes,", memory, least=0)
    path = str(os.fspath(where)) if isinstance(where, (str, os.PathLike)) else None
    schema = columns if isinstance(columns, Mapping) else {}
    return Options(
        name=name or path or _called(where),
        target=target,
        columns=None if columns is None else tuple(columns),
        schema=schema,
        image_size=size,
        rate=rate,
        budget=memory_budget() if memory is None else memory,
        where=path,
    )


def _called(where: Any) -> str:
    module = type(where).__module__.split(".")[0]
    if module in ("builtins", "numpy", "torch"):
        return "arrays"
    return type(where).__name__


def _open_object(where: Any, o: "Options") -> Source:
    from handful.data.datasets import is_hugging_face, open_hugging_face, open_torch
    from handful.data.pairs import is_table, open_columns, open_pair
    from handful.data.tables.arrow import open_table, to_table

    if isinstance(where, tuple):
        if len(where) != 2:
            raise HandfulError(f"a tuple must be (X, y), not {len(where)} values: pass a dict name -> array for more.")
        return open_pair(where[0], where[1], o)
    if isinstance(where, Mapping):
        splits = [key for key, value in where.items() if is_hugging_face(value)]
        if splits:
            raise HandfulError(
                f"{o.name} holds the splits {', '.join(map(str, splits))}: pass one, as in data['{splits[0]}']."
            )
        return open_columns(where, o)
    if is_hugging_face(where):
        return open_hugging_face(where, o)
    from torch.utils.data import DataLoader, Dataset

    if isinstance(where, Dataset):
        return open_torch(where, o)
    if is_table(where):
        return open_table(to_table(where, o.name), o)
    if isinstance(where, DataLoader):
        raise HandfulError("a DataLoader draws batches of its own: pass the data set it reads, loader.dataset.")
    if _is_pairs(where):
        return open_pair([x for x, _ in where], [y for _, y in where], o)
    if hasattr(where, "__getitem__") and hasattr(where, "__len__") and not _is_array(where):
        return open_torch(where, o)  # a data set by behaviour, as torch's DataLoader accepts it too
    if hasattr(where, "__next__") or not _is_array(where):
        raise HandfulError(
            f"handful cannot open a {type(where).__name__}: pass a path, arrays, a DataFrame or a "
            "data set with a length."
        )
    return open_columns({"x": where}, o)


def _is_pairs(value: Any) -> bool:
    """A list of (x, y), and not of rows of two numbers."""
    if not isinstance(value, list) or not value or not all(isinstance(v, tuple) and len(v) == 2 for v in value):
        return False
    return not all(isinstance(part, int | float) for part in value[0])


def _is_array(value: Any) -> bool:
    return isinstance(value, (list, range)) or hasattr(value, "__array__") or hasattr(value, "__arrow_c_array__")


def _open_path(where: str, o: "Options") -> Source:
    from dataclasses import replace

    from handful.data.datasets import NAMES, open_embedded
    from handful.data.media.folder import open_folder, open_zip
    from handful.data.store.tar import TARS
    from handful.data.tables.files import READERS, ending, is_remote, open_file
    from handful.data.text import open_text

    if is_remote(where):
        if ending(where) not in READERS:
            from handful.data.store.remote import open_remote_store

            return _with(open_remote_store(where), o.target, o.columns)
        return open_file(where, o)
    if not where:
        raise HandfulError("the path is empty: name a file, a folder or a data set.")
    path = Path(where).expanduser()
    try:
        there = path.exists()
    except OSError as error:
        raise HandfulError(f"'{where[:60]}' cannot be looked up: {error.strerror}.") from error
    if not there:
        if where in NAMES:
            return open_embedded(where, o)
        if glob.has_magic(where):
            return _open_pattern(path, replace(o, where=str(path.absolute())))
        raise HandfulError(f"'{where}' is no file or folder, and no data set that handful knows.{_near(path, NAMES)}")
    o = replace(o, where=str(path.absolute()))  # so that a run can be resumed from another folder
    if path.is_dir():
        from handful.data.store.read import is_store, open_store

        return _with(open_store(path), o.target, o.columns) if is_store(path) else open_folder(path, o)
    if not path.is_file():
        raise HandfulError(f"{where} is not an ordinary file: copy its contents into one.")
    if not os.access(path, os.R_OK):
        raise HandfulError(f"{where} may not be read by you: change its permissions.")
    kind = ending(path.name)
    if kind in (".zip", ".txt"):
        return open_zip(path, o) if kind == ".zip" else open_text(path, o)
    if kind in TARS:
        raise HandfulError(f"{where} is a tar file: write it as a store first, as in handful prepare {where} STORE.")
    if kind not in READERS:
        known = ", ".join([*READERS, ".txt", ".zip"])
        how = f"ends in '{kind}', which handful does not read" if kind else "has no ending by which handful knows it"
        raise HandfulError(f"{where} {how}; it reads {known}, and folders.")
    return open_file(str(path), o)


def _open_pattern(path: Path, o: "Options") -> Source:
    """The tables that a pattern such as `train-*.parquet` names, as one."""
    from handful.data.paths import local_files
    from handful.data.tables.files import TABLES, ending
    from handful.data.tables.parts import open_parts

    files = [p for p in local_files(path) if p.is_file()]
    other = [p for p in files if ending(p.name) not in TABLES]
    if not files:
        raise HandfulError(f"'{path}' names folders alone: add a pattern for the files in them, such as /*.csv.")
    if other:
        raise HandfulError(f"'{path}' names {other[0].name}, which is no table; patterns are for {', '.join(TABLES)}.")
    root = Path(os.path.commonpath([p.parent for p in files]))
    return open_parts(root, [p.relative_to(root) for p in files], o)


def _near(path: Path, names: Sequence[str]) -> str:
    """The nearest file beside it, or the nearest data set."""
    import difflib

    try:
        beside = [p.name for p in path.parent.iterdir() if not p.name.startswith(".")]
    except OSError:
        beside = []
    known = [*names, *beside] if path.parent == Path() else beside
    near = difflib.get_close_matches(path.name, known, n=1, cutoff=0.6)
    if near and near[0] in beside:
        return f" Did you mean '{path.parent / near[0]}'?"
    if path.parent == Path() or not beside:
        return did_you_mean(str(path), names)
    return f" The folder {path.parent} holds {', '.join(sorted(beside)[:5])}."


def _with(source: Source, target: str | None, columns: Sequence[str] | Mapping[str, Column] | None) -> Source:
    """A Source passes through; with another target it is a shallow copy."""
    for wanted in [*(columns or ()), *([target] if target else [])]:
        if wanted not in source.columns:
            raise HandfulError(f"{source.name} has no column '{wanted}'.{did_you_mean(wanted, source.columns)}")
    if columns is not None and set(columns) != set(source.columns):
        raise HandfulError(f"{source.name} is open already: choose its columns when you open it first.")
    if target is None or target == source.target:
        return source
    other = copy.copy(source)
    other.target = target
    return other


def open_several(where: Any, target: str | Sequence[str], **options: Any) -> Source:
    """What `handful.open(where, target, **options)` returns. One column whose own name has a comma is that column.
    HandfulError for a column that is not there."""

    names, columns = names_of(target), options.pop("columns", None)
    if isinstance(target, str) and isinstance(columns, Mapping) and target in columns:
        if columns[target].kind != "tensor":  # as a run was trained on one such column
            return open(where, [target], columns=columns, **options)
    elif isinstance(target, str) and target in open(where, columns=columns, **options).columns:
        return open(where, [target], columns=columns, **options)
    if len(set(names)) < len(names):
        raise HandfulError(f"the target names a column twice: {', '.join(names)}.")
    if isinstance(columns, Mapping):  # as a run was trained, where the target is one column
        columns = {name: column for name, column in columns.items() if name != ",".join(names)}
    elif columns is not None:
        columns = [*columns, *(name for name in names if name not in columns)]
    inputs = open(where, columns=columns, **options)
    here = isinstance(where, Source) or set(names) <= set(inputs.columns)
    goal = inputs if here else open(where, columns=names, **options)  # which leaves no constant column out
    for name in names:
        if name not in goal.columns:
            hint = did_you_mean(name, goal.columns)
            raise HandfulError(f"{goal.name} has no column '{name}' to use as target.{hint}")
    return MultiTarget(inputs, goal, names)
