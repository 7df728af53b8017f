"""Which files a path, a pattern or an address names."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import fsspec

from handful.base.errors import HandfulError
from handful.data.tables.files import is_remote


def names_of_files(where: object) -> Sequence[str]:
    """The names in a path or in a list of paths; [] for anything else."""
    names = [where] if isinstance(where, str | os.PathLike) else where
    if not isinstance(names, list | tuple) or not all(isinstance(name, str | os.PathLike) for name in names):
        return []
    return [os.fspath(name) for name in names]


def local_files(where: object) -> list[Path]:
    """The files that `where` names, sorted; [] when it is no path, or not on this machine."""
    names = names_of_files(where)
    return [] if any(map(is_remote, names)) else [path for name in names for path in matching(name)]


def matching(name: str) -> list[Path]:
    """The files that a local path or a pattern names, and those in the folder that it names; [] if nothing is there."""
    path = Path(name).expanduser()
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file())
    elif path.exists():
        found = [path]
    elif glob.has_magic(name):
        found = list(map(Path, sorted(glob.glob(os.path.expanduser(name), recursive=True))))
        if not found:
            raise HandfulError(f"no file matches '{name}'")
    else:
        return []
    return [path.absolute() for path in found]


def remote_files(name: str) -> list[str]:
    """The files that an address or a pattern of addresses names."""
    if not glob.has_magic(name.partition("?")[0] if "=" in name else name):  # a query is no pattern
        return [name]
    try:
        fs, path = fsspec.core.url_to_fs(name)
        found = sorted(str(fs.unstrip_protocol(p)) for p in fs.glob(path))
    except (ImportError, ValueError, OSError) as error:
        raise HandfulError(f"{name} cannot be opened: {error}") from error
    if not found:
        raise HandfulError(f"no file matches '{name}'")
    return found
