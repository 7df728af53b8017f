"""`handful.prepare`: any input -> a store."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from handful.base.errors import HandfulError, whole
from handful.base.machine import cores
from handful.data.base import Column, Source
from handful.data.options import checked
from handful.data.store.chunks import identity_of
from handful.data.store.inputs import open_feed
from handful.data.store.manifest import FILE
from handful.data.store.paths import local_files
from handful.data.store.read import open_store, read_manifest
from handful.data.store.write import Feed, write_store
from handful.data.tables.files import is_remote

_IMAGES = ("auto", "decoded", "encoded")


def prepare(
    where: Any,
    store: "str | os.PathLike[str]",
    *,
    target: str | None = None,
    columns: Sequence[str] | Mapping[str, Column] | None = None,
    image_size: int | tuple[int, int] | None = None,
    rate: int | None = None,
    images: str = "auto",
    shards: int = 1,
    workers: int | None = None,
    overwrite: bool = False,
    bad_rows: int | str = "stop",
    outside: bool = False,
) -> Source:
    """Write any input as a store, a folder of plain columns that is read faster than anything else; open it.

    where: all that `handful.open` reads, and a list of files or a glob (data/*.parquet) of CSV, JSON lines,
        Parquet or Arrow files of one schema, which may be larger than memory; WebDataset tar shards.
    store: the folder to write. It appears when it is whole, not before.
    target, columns, image_size, rate: as in `open`; columns left out by `open` are left out.
    images: "decoded" (fastest to read), "encoded" (as they came: small, decoded on all cores when read), or
        "auto": decoded up to 8 GiB.
    shards: folders into which the rows are divided, for many machines.
    workers: threads that decode; all cores by default.
    overwrite: replace the store that is there.
    bad_rows, outside: as in `open`; where rows may be skipped, a table is read as a whole.

    A call that was killed goes on where it stopped, if its input is files and they have not changed, and the
    result is the same, byte for byte. A store that is already there and was made from the same files in the
    same way is opened. Raises HandfulError for data that cannot be used, and for a folder that is in the way.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     source = prepare("iris", folder + "/iris")
    ...     len(source), source.take([0, 149]).tensor("target").tolist()
    (150, [0, 2])
    """
    if images not in _IMAGES:
        raise HandfulError(f"images must be one of {', '.join(_IMAGES)}, not '{images}'")
    whole("shards", shards, least=1)
    whole("workers", 1 if workers is None else workers, least=1)
    path = _place(store)
    options = {"target": target, "columns": _plain(columns), "size": image_size, "rate": rate, "bad_rows": bad_rows}
    options |= {"images": images, "shards": shards}
    identity, provenance = identity_of(local_files(where), options)
    if path.exists() and not overwrite:
        return _existing(path, identity)
    o = checked(
        where, target, columns=columns, image_size=image_size, rate=rate, memory=0, bad_rows=bad_rows, outside=outside
    )
    feed = open_feed(where, o, images, provenance)
    if feed.plan.rows < shards:
        raise HandfulError(f"{feed.plan.name} has {feed.plan.rows:,} rows, too few for {shards} shards")
    try:
        _write(feed, path, shards, workers or cores(), overwrite)
    except OSError as error:
        raise HandfulError(
            f"{path} cannot be written ({error}): choose a folder that may be written, on a disk with room; what is "
            "written already is kept and gone on from"
        ) from error
    return open_store(path)


def _place(store: "str | os.PathLike[str]") -> Path:
    if not isinstance(store, (str, os.PathLike)) or not os.fspath(store):
        raise HandfulError(f"the store must be the name of a folder to write, not {store!r}")
    if is_remote(str(os.fspath(store))):
        raise HandfulError(f"a store is written on this machine: give a folder instead of {store}, and copy it there")
    path = Path(os.fspath(store)).expanduser().absolute()
    if (old := path.with_name(f".{path.name}.old")).exists() and not path.exists():
        os.rename(old, path)  # a call was killed between the two renamings
    return path


def _plain(columns: Sequence[str] | Mapping[str, Column] | None) -> dict[str, str] | list[str] | None:
    if isinstance(columns, Mapping):
        return {name: repr(column) for name, column in columns.items()}
    return None if columns is None else list(columns)


def _existing(path: Path, identity: str | None) -> Source:
    if identity is not None and (path / FILE).is_file():
        found = read_manifest(path)
        if found.provenance.get("identity") == identity:
            return open_store(path)
    raise HandfulError(f"{path} is there already: choose another name, or pass overwrite=True to replace it")


def _write(feed: Feed, path: Path, shards: int, workers: int, overwrite: bool) -> None:
    if not overwrite or not path.exists():
        write_store(feed, path, shards, workers)
        return
    if not (path / FILE).is_file():
        raise HandfulError(f"{path} is not a store, so it is not overwritten: remove it yourself")
    new, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    write_store(feed, new, shards, workers)
    os.rename(path, old)
    os.rename(new, path)
    shutil.rmtree(old, ignore_errors=True)
