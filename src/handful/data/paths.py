"""Which files a path, a pattern or an address names."""

import glob
import os
from pathlib import Path
from typing import Any

from handful.base.errors import HandfulError
from handful.data.tables.files import is_remote


def local_files(where: Any) -> list[Path]:
    """The files that `where` names, sorted; [] when it is no path, or not on this machine."""
    names = [where] if isinstance(where, (str, os.PathLike)) else where
    if not isinstance(names, (list, tuple)) or not all(isinstance(n, (str, os.PathLike)) for n in names):
        return []
    found: list[Path] = []
    for name in map(os.fspath, names):
        if is_remote(name):
            return []
        path = Path(name).expanduser()
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.is_file())
        elif path.exists():
            found.append(path)
        elif glob.has_magic(name):
            matches = sorted(glob.glob(os.path.expanduser(name), recursive=True))
            if not matches:
                raise HandfulError(f"no file matches '{name}'.")
            found += map(Path, matches)
    return [path.absolute() for path in found]


def _remote_files(name: str) -> list[str]:
    if not glob.has_magic(name):
        return [name]
    import fsspec

    fs, path = fsspec.core.url_to_fs(name)
    found = sorted(str(fs.unstrip_protocol(p)) for p in fs.glob(path))
    if not found:
        raise HandfulError(f"no file matches '{name}'.")
    return found
