"""What `prepare` is given -> a feed of chunks: files and globs streamed, tar shards indexed, the rest opened."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from handful.base.errors import HandfulError
from handful.base.machine import memory_budget
from handful.data.containers import classes_of, plainer
from handful.data.datasets import HubTable, is_hugging_face, is_transformed, taken_apart, with_names
from handful.data.open import open_as
from handful.data.options import Options
from handful.data.store.chunks import SourceFeed
from handful.data.store.paths import matching, names_of_files, remote_files
from handful.data.store.stream import TableFeed, of_files, of_hub
from handful.data.store.tar import TARS, open_tars
from handful.data.store.write import Feed
from handful.data.tables.files import PACKED, STREAMED, ending, is_remote, read_blocks
from handful.data.tables.types import is_text
from handful.data.tables.values import media_named
from handful.data.targets import names_of

SMALL = 64 << 20  # a table up to this many bytes is opened whole; larger ones are streamed


def open_feed(where: object, o: Options, images: str, provenance: dict[str, object]) -> Feed:
    """The feed that suits the input."""
    skips, listed = o.bad_rows != "stop", isinstance(where, list | tuple)
    # rows to be left out, and several targets, need the whole at hand
    streamed = not skips and (listed or not names_of(o.target))
    if skips and listed:
        raise HandfulError("bad_rows is not for lists of files: name them by a pattern, as in 'data/*.parquet'")
    if streamed and is_hugging_face(where) and hasattr(where, "__len__") and not is_transformed(where):
        hub = HubTable(where, o.name)
        return TableFeed(of_hub(hub, o.name), replace(o, schema={**hub.schema, **o.schema}), provenance, images)
    files = _named_files(where)
    if files:
        o = o if o.where else replace(o, name=f"{files[0]} and others")
        if all(ending(f) in TARS for f in files):
            return SourceFeed(open_tars([Path(f) for f in files], o), provenance, images)
        kinds = {"." + ending(f).split(".")[1] for f in files}
        if len(kinds) > 1:
            raise HandfulError(f"{o.name} mixes {' and '.join(sorted(kinds))} files: prepare one kind at a time")
        if streamed and (len(files) > 1 or _large(files[0])) and not _beside_folders(o.where, files):
            return TableFeed(of_files(files), o, provenance, images)
    # an iterator is read to its end, pictures in it stay encoded
    rows, said = taken_apart(*plainer(where, replace(o, budget=memory_budget())), o.name)
    source = with_names(open_as(rows, o.target, o), classes_of(where))
    source.notes = [*said, *source.notes]
    return SourceFeed(source, provenance, images)


def _beside_folders(where: str | None, files: Sequence[str]) -> bool:
    """Whether the tables hold only a part of what `open` finds: names of pictures or sounds, or folders `key=value`."""
    if where is None or is_remote(files[0]):
        return False
    path = Path(where).expanduser()
    if path.is_dir() and any("=" in part for f in files for part in Path(f).relative_to(path.absolute()).parts[:-1]):
        return True
    block = next(read_blocks(files[0]), None)
    return block is not None and any(is_text(c.type) and media_named(c) for c in block.table().columns)


def _named_files(where: object) -> list[str]:
    """Table files or tar shards, local or remote; [] when `where` is something else, such as a folder of images."""
    several, kinds = isinstance(where, list | tuple), (*STREAMED, *TARS)
    listed: list[str] = []
    for name in names_of_files(where):
        found = remote_files(name) if is_remote(name) else list(map(str, matching(name)))
        if Path(name).expanduser().is_dir():
            found = [f for f in found if not Path(f).name.startswith((".", "_"))]
        if not found and several and ending(name) in kinds:
            raise HandfulError(f"'{name}' is not a file: give names of files that are there, or a glob")
        listed += found
    if special := next((f for f in listed if not is_remote(f) and os.path.exists(f) and not os.path.isfile(f)), None):
        raise HandfulError(f"{special} is not an ordinary file: copy its contents into one")
    odd = next((f for f in listed if ending(f) not in kinds), None)
    if odd and several:
        raise HandfulError(f"{odd}: a list of files may hold {', '.join(kinds)}")
    return [] if odd else listed


def _large(file: str) -> bool:
    return ending(file).endswith(PACKED) or is_remote(file) or Path(file).stat().st_size > SMALL
