"""Raw input as a person has it at hand, to be predicted: a sentence, a file of sentences, one picture, some sounds."""

import os
import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from handful.base.errors import TO_UTF8, HandfulError
from handful.data.arrays import Arrays
from handful.data.base import Column, Source
from handful.data.media import audio, images
from handful.data.media.items import IMAGES, SOUNDS, FileItems
from handful.data.open import open as open_source
from handful.data.options import Collate, Options
from handful.data.store.read import is_store
from handful.data.tables.arrays import is_sparse
from handful.data.tables.cells.strings import UNSPACED
from handful.data.tables.files import ending
from handful.data.tables.readers import READERS

MEDIA = IMAGES | SOUNDS
FIRST = 1000  # values of a column that tell whether it is one of lists


def open_raw(
    data: object, schema: Mapping[str, Column], name: str | None = None, collate: Collate | None = None
) -> Source:
    """Anything `handful.open` reads, with the columns that a model was trained on, and besides

    for a model of one text: a text, a list of texts, a .txt file (each line is a row); for one of pictures or sounds:
    the path of one file or a list of paths; for all: one row as a mapping from names to single values.

    A string is a text only where it cannot be a path: it has a blank in it (or letters of a script that sets none), no
    such file exists, and it does not end like a file's name. schema: `Pipeline.schema`. Raises HandfulError as
    `handful.open` does.
    """
    if isinstance(data, Source) and (collate is None or data.serial):
        return data
    if collate is not None:
        return open_source(data, name=name, columns=schema, collate=collate)
    data = [data] if hasattr(data, "getbands") else data  # one picture of Pillow's
    match data:
        case object(ndim=1, index=names, to_dict=row) if any(name in names for name in schema):
            data = row()  # a row of a frame, as a Series
    if isinstance(data, Mapping) and not is_sparse(data):
        several = (_is_several(value, schema.get(name)) for name, value in data.items())
        data = data if all(several) else [data]
    (key, column), *others = schema.items()
    if not others and column.kind == "text" and (texts := _texts(data)):
        return open_source({key: texts}, name=name or "the text given", columns=schema)
    if not others and column.kind in ("image", "audio") and (paths := _paths(data, key)):
        return _open_files(paths, key, column, schema, name)
    return open_source(data, name=name, columns=schema)


def _is_several(value: Any, column: Column | None = None) -> bool:
    """Whether it is the values of several rows, rather than that of one, which has axes of its own in such a column."""
    sized = hasattr(value, "__len__") or bool(getattr(value, "shape", ()))  # arrays of zarr have no length
    if not sized or isinstance(value, str | bytes | Mapping | np.generic):
        return False
    return column is None or column.kind not in ("tokens", "tensor") or _axes(value) > len(column.shape)


def _axes(value: Any) -> int:
    """Of an array, or of lists in lists: a text stands for the list of a row, and so does None among its like."""
    if isinstance(value, str):
        return 1
    if (axes := getattr(value, "ndim", None)) not in (None, 1):
        return int(axes)
    if not axes and not hasattr(value, "__len__"):
        return 0
    first = value[:FIRST].to_pylist() if hasattr(value, "to_pylist") else islice(value, FIRST)  # as Arrow's
    found = list(first)
    return 1 + max((_axes(one) for one in found if one is not None), default=min(1, len(found)))


def _texts(data: object) -> list[str] | None:
    """The rows of text that `data` is, or None if it is something else."""
    match data:
        case str() | os.PathLike() if (path := Path(data).expanduser()).suffix.lower() == ".txt" and _is_file(path):
            return _lines(path)
        case str() if re.search(rf"\s|{UNSPACED}", data.strip()) and "://" not in data:
            named = ending(Path(data).name) in {*READERS, ".txt", ".zip", *MEDIA}
            return None if named or os.path.exists(Path(data).expanduser()) else [data]
        case [*rows] if len(texts := [row for row in rows if isinstance(row, str)]) == len(rows):
            return texts
    return None


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise HandfulError(f"{path} is not UTF-8 (byte {error.start:,}): {TO_UTF8}") from error
    if not lines:
        raise HandfulError(f"{path} is empty: it holds one text per line")
    return lines


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # unlike Path.is_file, False for a text that is too long for a path


def _paths(data: object, key: str) -> list[Path] | None:
    """The single files of pictures or sounds that `data` names, or None if it is something else."""
    match data:
        case str() | os.PathLike():
            path = Path(data).expanduser()
            if _is_file(path) and path.suffix.lower() in MEDIA:
                return [path]
            if key not in ("image", "audio") and os.path.isdir(path) and not is_store(path):
                return sorted(p for p in path.iterdir() if p.suffix.lower() in MEDIA)
        case [*rows] if len(paths := [Path(row) for row in rows if isinstance(row, str | os.PathLike)]) == len(rows):
            return [path.expanduser() for path in paths]
    return None


def _open_files(paths: list[Path], key: str, column: Column, schema: Mapping[str, Column], name: str | None) -> Source:
    for path in paths:
        if not _is_file(path):
            raise HandfulError(f"there is no file {path}")
    called = name or (str(paths[0]) if len(paths) == 1 else f"{len(paths)} files")
    options, notes = Options(called, schema=schema), list[str]()
    decode = images.from_items if column.kind == "image" else audio.from_items
    return Arrays({key: decode(FileItems(key, paths), options, notes)}, name=called, notes=notes)
