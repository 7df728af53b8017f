"""Raw input as a person has it at hand, to be predicted: a sentence, a file of sentences, one picture, some sounds."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from handful.base.errors import HandfulError
from handful.data.base import Column, Source
from handful.data.media.items import IMAGES, SOUNDS
from handful.data.open import open as open_source
from handful.data.store.read import is_store
from handful.data.tables.files import ending
from handful.data.tables.readers import READERS
from handful.data.tables.strings import UNSPACED


def open_raw(data: Any, schema: Mapping[str, Column], name: str | None = None) -> Source:
    """Anything `handful.open` reads, with the columns that a model was trained on, and besides

    for a model of one text: a text, a list of texts, a .txt file (each line is a row); for one of pictures or sounds:
    the path of one file or a list of paths; for all: one row as a mapping from names to single values.

    A string is a text only where it cannot be a path: it has a blank in it (or letters of a script that sets none), no
    such file exists, and it does not end like a file's name. schema: `Pipeline.schema`. Raises HandfulError as
    `handful.open` does.
    """
    if isinstance(data, Source):
        return data
    if isinstance(data, Mapping) and data and all(_single(value) for value in data.values()):
        data = {key: [value] for key, value in data.items()}
    if len(schema) == 1:
        ((key, column),) = schema.items()
        if column.kind == "text":
            texts = _texts(data)
            if texts is not None:
                return open_source({key: texts}, name=name or "the text given", columns=schema)
        if column.kind in ("image", "audio"):
            paths = _paths(data, key)
            if paths is not None:
                return _open_files(paths, key, column, schema, name)
    return open_source(data, name=name, columns=schema)


def _single(value: Any) -> bool:
    return value is None or isinstance(value, str | bytes | bool | int | float | np.generic)


def _texts(data: Any) -> list[str] | None:
    """The rows of text that `data` is, or None if it is something else."""
    if isinstance(data, list | tuple) and data and all(isinstance(text, str) for text in data):
        return list(data)
    if not isinstance(data, str | os.PathLike):
        return None
    path = Path(data).expanduser()
    if path.suffix.lower() == ".txt" and _is_file(path):
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise HandfulError(f"{path} is not UTF-8 (byte {error.start:,}): convert it first.") from error
        if not lines:
            raise HandfulError(f"{path} is empty: it holds one text a line.")
        return lines
    text = isinstance(data, str) and re.search(rf"\s|{UNSPACED}", data.strip()) and "://" not in data
    named = ending(path.name) in {*READERS, ".txt", ".zip", *IMAGES, *SOUNDS}
    return [str(data)] if text and not named and not _exists(path) else None


def _is_file(path: Path) -> bool:
    return _exists(path) and path.is_file()


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a text can be too long for a path
        return False


def _paths(data: Any, key: str) -> list[Path] | None:
    """The single files of pictures or sounds that `data` names, or None if it is something else."""
    if isinstance(data, str | os.PathLike):
        path = Path(data).expanduser()
        if _is_file(path) and path.suffix.lower() in IMAGES | SOUNDS:
            return [path]
        if key not in ("image", "audio") and _exists(path) and path.is_dir() and not is_store(path):
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGES | SOUNDS)
            return inside or None
        return None
    if isinstance(data, Sequence) and data and all(isinstance(p, str | os.PathLike) for p in data):
        return [Path(p).expanduser() for p in data]
    return None


def _open_files(paths: list[Path], key: str, column: Column, schema: Mapping[str, Column], name: str | None) -> Source:
    from handful.data.arrays import Arrays
    from handful.data.media.audio import from_items as sounds
    from handful.data.media.images import from_items as images
    from handful.data.media.items import FileItems
    from handful.data.options import Options

    for path in paths:
        if not _is_file(path):
            raise HandfulError(f"there is no file {path}.")
    called = name or (str(paths[0]) if len(paths) == 1 else f"{len(paths)} files")
    options, notes = Options(called, schema=schema), list[str]()
    decode = images if column.kind == "image" else sounds
    return Arrays({key: decode(FileItems(key, paths), options, notes)}, name=called, notes=notes)
