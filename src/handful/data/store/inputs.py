"""What `prepare` was given -> a feed of chunks: files and globs streamed, tar shards indexed, the rest opened."""

import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from handful.base.errors import HandfulError
from handful.data.base import Column, Source
from handful.data.datasets import is_hugging_face
from handful.data.options import Options
from handful.data.paths import _remote_files, local_files
from handful.data.store.chunks import STREAMED, DatasetFiles, SourceFeed, TableFeed, TableFiles
from handful.data.store.tar import TARS, open_tars
from handful.data.store.write import Feed
from handful.data.tables.arrow import media_named
from handful.data.tables.files import ending, is_remote, parse

SMALL = 64 << 20  # a table up to this many bytes is opened whole; larger ones are streamed


def open_feed(
    where: Any,
    target: str | None,
    columns: Sequence[str] | Mapping[str, Column] | None,
    image_size: int | tuple[int, int] | None,
    rate: int | None,
    images: str,
    identity: str | None,
    provenance: dict[str, object],
) -> Feed:
    """The feed that suits the input."""
    from handful.data.open import _options
    from handful.data.open import open as open_source

    if is_hugging_face(where):
        o = _options(where, target, None, columns, image_size, rate, 0)
        return TableFeed(DatasetFiles(where, o.name), o, identity, provenance, images)
    files = _named_files(where)
    if files:
        called = os.fspath(where) if isinstance(where, (str, os.PathLike)) else f"{files[0]} and others"
        o = _options(called, target, None, columns, image_size, rate, 0)
        if all(ending(f) in TARS for f in files):
            return _source_feed(open_tars([Path(f) for f in files], o), identity, provenance, images)
        _one_kind(files, o)
        if (len(files) > 1 or _large(files[0])) and not _beside_folders(where, files):
            return TableFeed(TableFiles(files), o, identity, provenance, images)
    source = open_source(
        where, target, columns=columns, image_size=image_size, rate=rate, memory=None if _array(where) else 0
    )
    return _source_feed(source, identity, provenance, images)


def _beside_folders(where: Any, files: list[str]) -> bool:
    """Whether the tables hold only a part of what `open` finds: names of pictures or sounds, or folders `key=value`."""
    if not isinstance(where, (str, os.PathLike)) or is_remote(files[0]):
        return False
    path = Path(where).expanduser()
    if path.is_dir() and any("=" in part for f in files for part in Path(f).relative_to(path).parts[:-1]):
        return True
    raw = next(iter(TableFiles(files[:1])), None)
    table = None if raw is None else parse(raw, {})
    return table is not None and any(
        pa.types.is_large_string(column.type) and media_named(column) for column in table.columns
    )


def _source_feed(source: Source, identity: str | None, provenance: dict[str, object], images: str) -> SourceFeed:
    return SourceFeed(source, identity, provenance, images)


def _array(where: Any) -> bool:
    return isinstance(where, Source)


def _named_files(where: Any) -> list[str]:
    """Table files or tar shards, local or remote; [] when `where` is something else, such as a folder of images."""
    names = [where] if isinstance(where, (str, os.PathLike)) else where
    if not isinstance(names, (list, tuple)) or not names:
        return []
    if not all(isinstance(n, (str, os.PathLike)) for n in names):
        return []
    listed: list[str] = []
    for name in map(os.fspath, names):
        if is_remote(name):
            listed += _remote_files(name)
            continue
        path = Path(name).expanduser()
        if path.is_dir():
            inside = sorted(str(p) for p in path.rglob("*") if p.is_file() and not p.name.startswith((".", "_")))
            listed += inside
        elif path.exists():
            listed.append(str(path))
        elif glob.has_magic(name):
            listed += map(str, local_files(name))
        elif isinstance(where, (list, tuple)) and ending(name) in (*STREAMED, *TARS):
            raise HandfulError(f"'{name}' is no file: give names of files that are there, or a glob.")
    if listed and all(ending(f) in STREAMED or ending(f) in TARS for f in listed):
        return listed
    if isinstance(where, (list, tuple)):
        odd = next((f for f in listed if ending(f) not in STREAMED and ending(f) not in TARS), None)
        if odd:
            raise HandfulError(f"{odd}: a list of files may hold {', '.join([*STREAMED, *TARS])}.")
    return []


def _one_kind(files: list[str], o: Options) -> None:
    kinds = {ending(f).removesuffix(".gz") for f in files}
    if len(kinds) > 1:
        raise HandfulError(f"{o.name} mixes {' and '.join(sorted(kinds))} files: prepare one kind at a time.")


def _large(file: str) -> bool:
    if ending(file).endswith(".gz"):
        return True
    if is_remote(file):
        return True
    return Path(file).stat().st_size > SMALL
