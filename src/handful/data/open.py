"""Row ids -> columns: every kind of data behind one vectorised read."""

import copy
import difflib
import glob
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from handful.base.errors import HandfulError, did_you_mean
from handful.data.base import Column, Source, View
from handful.data.containers import classes_of, plainer
from handful.data.datasets import (
    NAMES,
    DatasetRows,
    RowsOf,
    is_hugging_face,
    open_embedded,
    open_hugging_face,
    open_torch,
    rows_in,
    taken_apart,
    with_names,
)
from handful.data.media.folder import open_folder, open_zip, to_store
from handful.data.options import Collate, Names, Options, Size, checked
from handful.data.pairs import alone, is_table, of_index, open_columns, open_pair, open_rows
from handful.data.store.paths import local_files
from handful.data.store.read import is_store, open_store
from handful.data.store.remote import open_remote_store
from handful.data.store.tar import TARS
from handful.data.tables.arrays import is_sparse
from handful.data.tables.arrow import chosen, open_table, to_table
from handful.data.tables.files import TABLES, ending, is_remote
from handful.data.tables.parts import open_parts, open_table_file
from handful.data.tables.readers import (
    LIBSVM_ENDINGS,
    READERS,
    is_idx,
    is_libsvm,
    is_text_table,
    open_file,
    open_idx,
    open_libsvm,
    refused,
    route_of,
)
from handful.data.targets import MultiTarget, goals_of, names_of
from handful.data.text import open_text


def open(
    where: object,
    target: str | Sequence[str] | None = None,
    *,
    name: str | None = None,
    columns: Names = None,
    image_size: Size = None,
    rate: int | None = None,
    memory: int | None = None,
    bad_rows: int | str = "stop",
    outside: bool = False,
    collate: Collate | None = None,
) -> Source:
    """Anything that holds rows, as a Source.

    where: a pair (X, y) of arrays, Tensors, lists, frames or sparse matrices; one array (column `x`); a dict of
        arrays; a list of dicts, one per row; a DataFrame (pandas, polars, pyarrow or any that Arrow can read); a file
        (.csv, .tsv, .data, .jsonl, .parquet, .arrow, .feather, .npy, .npz, .txt), local or remote (s3://, https://,
        memory://); a folder or .zip of images, sounds or texts, where sub-folders are classes; a folder of the parts
        of one table (part-0.csv, part-1.csv; year=2024/...parquet), or a pattern for them (data/train-*.parquet); a
        store that `prepare` wrote, local or remote; a torch Dataset; a Hugging Face Dataset; the name of a set that
        scikit-learn ships (digits, iris, wine, breast_cancer, diabetes); a Source, which is returned as it is.
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
    bad_rows: "stop" at pictures and sounds that cannot be read, files that are missing and lines with too many or too
        few values, the first 20 of them named; or "skip" them, up to one row in ten, or up to a number, counted by
        kind in the notes. Pictures and sounds that stay encoded are then decoded once as a trial.
    outside: whether a table may name files that lie outside its folder (and outside the one we are in).
    collate: a function of a list of samples, as torch's DataLoader takes it: the model gets what it makes of them.
        Samples are the items of a Dataset; rows of other data come as x, (x, y), or a dict of names.

    What was guessed, converted or left out is noted in `Source.notes`. Raises HandfulError, in one sentence,
    for data that cannot be used.

    >>> source = open(([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], [0, 1, 0]))
    >>> source.target, source.take([2, 0])["x"].tolist()
    ('y', [[4.0, 5.0], [0.0, 1.0]])
    """
    o = checked(
        where, name=name, columns=columns, image_size=image_size, rate=rate, memory=memory, bad_rows=bad_rows,
        outside=outside, collate=collate,
    )  # fmt: skip
    return open_as(where, target, o)


def open_as(where: object, target: str | Sequence[str] | None, o: Options) -> Source:
    """`open`, of arguments that are checked."""
    goals = goals_of(where, o.name) if target is None and o.collate is None and not o.schema else []
    return _open_as(where, goals or target, o)


def _open_as(where: object, target: str | Sequence[str] | None, o: Options) -> Source:
    """The same, where no target is guessed by how samples are put together."""
    given = [target] if isinstance(target, str | None) else list(target) if isinstance(target, Sequence) else [target]
    if not given or not all(isinstance(name, str | None) for name in given):
        as_text = f"; columns that are numbered are named by text, '{target}'" if isinstance(target, int) else ""
        raise HandfulError(f"target must be the name of a column, or a list of names, not {target!r}{as_text}")
    several = (len(given) > 1 or "," in str(given[0])) and names_of(target)
    if several and not (isinstance(where, Source) and isinstance(target, str) and target in where.columns):
        return _open_several(where, target, o)
    o = replace(o, target=given[0])
    if isinstance(where, Source) and o.collate is None:
        return _with(where, o)
    try:
        if o.collate is not None:
            return _collated(where, o)
        if o.where is not None:
            return _open_path(o.where, o)
        rows, said = taken_apart(*plainer(where, o), o.name)
        source = with_names(_open_object(rows, o), classes_of(where))
    except UnicodeDecodeError as error:
        raise HandfulError(f"{o.name} holds text that is not UTF-8 ({error}): write it again as UTF-8") from error
    source.notes = [*said, *source.notes]
    return source


def _collated(where: object, o: Options) -> Source:
    """Samples as a collate function puts them together."""
    match where:
        case Dataset() if hasattr(where, "__len__"):
            return DatasetRows(where, o)
        case _ if is_hugging_face(where):
            return DatasetRows(cast("Dataset[object]", where), o)
    try:
        source = open_as(where, o.target, replace(o.choosing(None), collate=None))
    except HandfulError:
        if not isinstance(where, list):
            raise
        return DatasetRows(cast("Dataset[object]", where), o)  # of objects that only the function knows, as graphs
    return DatasetRows(RowsOf(source), replace(o, name=source.name))


def _open_object(where: object, o: Options) -> Source:
    """Data that the caller holds."""
    match where:
        case bytes() | bytearray():
            raise HandfulError("handful cannot open bytes: pass the path of a file, or the bytes of rows as a list")
        case (x, y) if isinstance(where, tuple):
            return open_pair(x, y, o)
        case tuple():
            raise HandfulError(f"a tuple must be (X, y), not {len(where)} values: pass a dict name -> array for more")
        case _ if is_sparse(where):  # one form is a dict
            return open_columns({alone(o): where}, o)
        case Mapping():
            if splits := [str(key) for key, value in where.items() if is_hugging_face(value)]:
                held = f"{o.name} holds the splits {', '.join(splits)}"
                raise HandfulError(f"{held}: pass one, as in data['{splits[0]}']")
            return open_columns(where, o)
        case _ if is_hugging_face(where):
            return open_hugging_face(where, o)
        case Dataset():
            return open_torch(where, o)
        case _ if is_table(where):
            return open_table(to_table(where, o.name), o, notes=of_index(where, o))
        case DataLoader():
            return _open_loader(where, o)
        case [*rows] if rows and len(named := [row for row in rows if isinstance(row, Mapping)]) == len(rows):
            return open_rows(named, o)
        case list() if _is_pairs(where):
            return open_pair([x for x, _ in where], [y for _, y in where], o)
        case list() | range():
            return open_columns({alone(o): where}, o)
        case _ if hasattr(where, "__array__") or hasattr(where, "__arrow_c_array__"):
            return open_columns({alone(o): where}, o)
        case _ if callable(getattr(where, "keys", None)) and hasattr(where, "__getitem__"):  # a group of zarr
            return open_columns(dict(cast("Mapping[str, object]", where)), o)
        case _ if hasattr(where, "__getitem__") and hasattr(where, "__len__"):
            return open_torch(cast("Dataset[object]", where), o)  # a data set by behaviour, as torch's DataLoader does
    raise HandfulError(
        f"handful cannot open a {type(where).__name__}: pass a path, arrays, a DataFrame or a data set with a length"
    )


def _open_loader(loader: "DataLoader[object]", o: Options) -> Source:
    """What a DataLoader reads: its data set, put together by its collate function, or those of its rows that a sampler
    of the caller's draws; from a stream, or by what are no row ids, the rows of all batches that it gives."""
    usual = type(loader.sampler) in (RandomSampler, SequentialSampler) and type(loader.batch_sampler) is BatchSampler
    streamed = isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None
    drawn = [] if usual or streamed else [row for rows in loader.batch_sampler or () for row in rows]
    if usual or (drawn and all(hasattr(row, "__index__") for row in drawn)):
        own = None if loader.collate_fn is default_collate else loader.collate_fn
        source = open_as(loader.dataset, o.target, replace(o, collate=own))
        rows = "" if usual else f", {len(drawn):,} rows by one pass over its sampler"
        said = f"the data set of the DataLoader is read{rows}; the size and the order of mini-batches are chosen here."
        source = source if usual else source.subset(np.asarray(drawn))
    else:
        if streamed and loader.num_workers:  # of which each may give all rows: one pass is wanted
            loader = DataLoader(loader.dataset, loader.batch_size, collate_fn=loader.collate_fn)
        source = _open_object([row for batch in loader for row in rows_in(batch)], o)
        given = f"{len(source):,} rows are what one pass over the DataLoader gives"
        said = f"{given}: its batches are taken apart in memory."
    source.notes = [said, *source.notes]
    return source


def _is_pairs(rows: list[object]) -> bool:
    """A list of (x, y), and not of rows of two numbers."""
    pairs = [row for row in rows if isinstance(row, tuple) and len(row) == 2]
    return 0 < len(pairs) == len(rows) and not all(isinstance(part, int | float) for part in pairs[0])


def must_be_there(where: str) -> Path:
    """The path of a file, a folder, a pattern of names or a data set that is known; HandfulError for another."""
    if not where:
        raise HandfulError("the path is empty: name a file, a folder or a data set")
    path = Path(where).expanduser()
    try:
        there = path.exists()
    except OSError as error:
        raise HandfulError(f"'{where[:60]}' cannot be looked up: {error.strerror}") from error
    if there or where in NAMES or glob.has_magic(where) or is_remote(where):
        return path
    raise HandfulError(f"'{where}' is not a file, a folder or a data set that handful knows.{_near(path, NAMES)}")


def _open_path(where: str, o: Options) -> Source:
    if is_remote(where):
        if ending(where) in READERS or route_of(where):
            return open_file(where, o)
        return _of_store(open_remote_store(where), o)
    path = must_be_there(where)
    there = path.exists()
    absolute = replace(o, where=str(path.absolute()))  # so that a run can be resumed from another folder
    if where in NAMES and (not there or (path / "run.lock").exists()):  # a run of that name is no data
        return open_embedded(where, o)
    if there:
        if path.is_dir():
            return _of_store(open_store(path), absolute) if is_store(path) else open_folder(path, absolute)
        return _open_local(path, absolute)
    return _open_pattern(path, absolute)


def _of_store(store: Source, o: Options) -> Source:
    """The store with the columns that are asked for."""
    names = chosen(o, list(store.columns))
    every = len(names) == len(store.columns)
    view = store if every else View(store, {name: store.columns[name] for name in names})
    return _with(view, o.choosing(None))


_LOCAL: dict[str, Callable[[Path, Options], Source]] = {".zip": open_zip, ".txt": open_text}


def _open_local(path: Path, o: Options) -> Source:
    kind = ending(path.name)
    if not path.is_file():
        raise HandfulError(f"{path} is not an ordinary file: copy its contents into one")
    if not os.access(path, os.R_OK):
        raise HandfulError(f"{path}: permission denied; change its permissions")
    if kind in READERS:
        return READERS[kind](str(path), o)
    if is_idx(path):
        return open_idx(str(path), o)
    if kind in LIBSVM_ENDINGS and is_libsvm(path):
        return open_libsvm(path, o)
    if kind == ".txt" and is_text_table(path, o):
        return open_table_file(str(path), o)
    if kind in _LOCAL:
        return _LOCAL[kind](path, o)
    if kind in TARS:
        raise HandfulError(f"{path} is a tar file: {to_store(path)}")
    raise refused(str(path), [*READERS, ".txt", ".zip"])


def _open_pattern(path: Path, o: Options) -> Source:
    """The tables that a pattern such as `train-*.parquet` names, as one."""
    files = [p for p in local_files(path) if p.is_file()]
    other = [p for p in files if ending(p.name) not in TABLES]
    if not files:
        raise HandfulError(f"'{path}' names folders alone: add a pattern for the files in them, such as /*.csv")
    if other and len(other) == len(files) and all(ending(p.name) in TARS for p in other):
        raise HandfulError(f"'{path}' names tar files: {to_store(path)}")
    if other:
        raise HandfulError(
            f"'{path}' names {other[0].name}, which is not a table; patterns are for {', '.join(TABLES)}"
        )
    root = Path(os.path.commonpath([p.parent for p in files]))
    return open_parts(root, [p.relative_to(root) for p in files], o)


def _near(path: Path, names: Sequence[str]) -> str:
    """The nearest file beside it, or the nearest data set."""
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
    return f" The folder {path.parent} holds {', '.join(sorted(beside)[:5])}"


def _with(source: Source, o: Options) -> Source:
    """A Source passes through; with another target it is a shallow copy."""
    for wanted in [*(o.columns or ()), *([o.target] if o.target else [])]:
        source.column(wanted)
    if o.columns is not None and set(o.columns) != set(source.columns):
        raise HandfulError(f"{source.name} is open already: choose its columns when you open it first")
    if o.target is None or o.target == source.target:
        return source
    other = copy.copy(source)
    other.target = o.target
    return other


def _open_several(where: object, target: str | Sequence[str] | None, o: Options) -> Source:
    """`where` with several columns as target; one column whose own name has a comma is that column. HandfulError for
    a column that is not there."""
    names, schema = names_of(target), o.schema
    if o.where and is_store(Path(o.where)) and ",".join(names) in (store := open_store(Path(o.where))).columns:
        return _of_store(store, replace(o, target=",".join(names)))
    if isinstance(target, str):  # one column, as a run was trained on it, or as it is called there
        alone = target in schema and not schema[target].parts
        if alone or (not schema and target in _open_as(where, None, o).columns):
            return _open_as(where, [target], o)
    if len(set(names)) < len(names):
        raise HandfulError(f"the target names a column twice: {', '.join(names)}")
    trained: Column | None = schema.get(",".join(names))
    columns: Names = o.columns
    if schema:  # as a run was trained, where the target is one column
        columns = {name: column for name, column in schema.items() if column is not trained}
        columns |= dict(zip(names, trained.parts if trained else (), strict=False))
    elif o.columns is not None:
        columns = [*o.columns, *(name for name in names if name not in o.columns)]
    inputs = _open_as(where, None, o.choosing(columns))
    here = isinstance(where, Source) or set(names) <= set(inputs.columns)
    goal = inputs if here else _open_as(where, None, o.choosing(names))  # which leaves no constant column out
    for name in names:
        if name not in goal.columns:
            hint = did_you_mean(name, goal.columns)
            raise HandfulError(f"{goal.name} has no column '{name}' to use as target.{hint}")
    return MultiTarget(inputs, goal, names, trained)
