"""A folder, or a zip of one, of images, sounds or texts: the name of the sub-folder is the class."""

import glob
import os
import re
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePath, PurePosixPath

import numpy as np

from handful.base.errors import HandfulError, did_you_mean
from handful.data.arrays import Arrays, Dense, Stored
from handful.data.base import Column, Rows
from handful.data.media.bad_rows import without_bad
from handful.data.media.items import IMAGES, SOUNDS, TEXTS, FileItems, Items, ZipItems, points_outside
from handful.data.options import Options
from handful.data.tables.arrow import chosen, with_target
from handful.data.tables.files import TABLES, ending
from handful.data.tables.parts import open_parts, open_zipped, parts
from handful.data.tables.readers import READERS, is_idx, open_file
from handful.data.tables.values import MEDIA
from handful.data.text import from_items

_TABLES = {".csv", ".tsv", ".jsonl", ".json"}  # of which a zip may hold one alone
_WHAT = {"image": "images", "audio": "sounds", "text": "texts"}
_READ = {**MEDIA, "text": from_items}
_OF_TABLES = {*_TABLES, ".parquet", ".arrow", ".feather"}
_MASKS = re.compile(r"^(masks?|labels?|annotations?|segmentations?|seg|gt|ground_?truth|targets?)$", re.I)
_LOGS = {  # beside files of tables whose rows are partly deleted -> what reads those that are there
    re.compile(r"(^|/)_delta_log/"): "deltalake.DeltaTable",
    re.compile(r"\.metadata\.json$"): "pyiceberg (table.scan().to_arrow())",
    re.compile(r"(^|/)_versions/"): "lance.dataset",
}
_SPLITS = {"train", "training", "valid", "val", "validation", "test", "dev"}


def open_folder(path: Path, o: Options) -> Arrays:
    """Files of a folder, in sorted order; see `_open`. The parts of a table are that table."""
    files, folders = _walk(path)
    tables = parts([f for f in files if _shown(f)])
    if tables:
        odd = next((path / f for f in tables if not (path / f).is_file()), None)  # a pipe would be waited for
        if odd is not None:
            raise HandfulError(f"{odd} is not an ordinary file: copy its contents into one")
        return open_parts(path, tables, o)
    listed = [PurePosixPath(*p.parts) for p in files]
    if (table := _telling(listed, o)) is not None:
        named = str(path / table)
        return open_file(named, replace(o, where=str(Path(o.where or path) / table), name=named))
    return _open(path, listed, folders, o, lambda key, keep: FileItems(key, [path / files[i] for i in keep]))


def _walk(path: Path) -> tuple[list[Path], list[PurePosixPath]]:
    """All files and folders below, relative and sorted; links are followed, each folder once."""
    files: list[Path] = []
    folders: list[PurePosixPath] = []
    seen: set[str] = set()

    def failed(error: OSError) -> None:
        raise HandfulError(f"{error.filename or path} cannot be listed: {error.strerror}") from error

    for where, inner, names in os.walk(path, followlinks=True, onerror=failed):
        inner[:] = [n for n in inner if not _hidden(n) and os.path.realpath(os.path.join(where, n)) not in seen]
        seen.update(os.path.realpath(os.path.join(where, n)) for n in inner)
        here = Path(where).relative_to(path)
        files += [here / n for n in names]
        folders += [PurePosixPath(*(here / n).parts) for n in inner]
    return sorted(files), sorted(folders)


def open_zip(path: Path, o: Options) -> Arrays:
    """Members of a zip, sorted, read in place; refuses entries that point outside, links and passwords."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = sorted(archive.infolist(), key=lambda m: m.filename)
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise HandfulError(f"{path} is not a readable zip file: {error}") from error
    for member in members:
        if points_outside(member.filename):
            raise HandfulError(f"{path}: entry '{member.filename}' points outside the archive: it is not opened")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise HandfulError(f"{path}: entry '{member.filename}' is a link: it is not opened")
        if member.flag_bits & 1:
            raise HandfulError(f"{path}: entry '{member.filename}' needs a password: unpack it first")
    files = [m for m in members if not m.is_dir()]
    listed = [_inside(m) for m in files]
    seen = [i for i, f in enumerate(listed) if _shown(f)]
    if len(seen) == 1 and Path(str(listed[seen[0]]).removesuffix(".zip")).suffix.lower() in _TABLES:
        return open_zipped(path, files[seen[0]].filename, o)
    if (table := _telling(listed, o)) is not None:
        raise HandfulError(f"{path} holds {table} beside the files that it may name: unpack it, and open that table")
    folders = [_inside(m) for m in members if m.is_dir()]
    return _open(path, listed, folders, o, lambda key, keep: ZipItems(key, path, [files[i] for i in keep]))


def _telling(files: Sequence[PurePosixPath], o: Options) -> PurePosixPath | None:
    """The one table among the files of a folder of media, where columns are asked for that only a table can have."""
    tables = [f for f in files if _shown(f) and f.suffix.lower() in _OF_TABLES]
    return tables[0] if len(tables) == 1 and {o.target, *o.schema} - {None, "label", *_READ} else None


def _inside(member: zipfile.ZipInfo) -> PurePosixPath:
    return PurePosixPath(member.filename.replace("\\", "/"))


def _shown(path: PurePath) -> bool:
    return not any(map(_hidden, path.parts))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _open(
    path: Path,
    files: Sequence[PurePosixPath],
    folders: Sequence[PurePosixPath],
    o: Options,
    items: Callable[[str, list[int]], Items],
) -> Arrays:
    """Columns `image`, `audio` or `text`, and `label`, a category, when the files lie in sub-folders."""
    notes: list[str] = []
    shown = [i for i, f in enumerate(files) if _shown(f)]
    key, keep = _kept(path, files, shown)
    if len(keep) < len(shown):
        notes.append(f"{len(shown) - len(keep):,} files of {o.name} are not {_WHAT[key]}: left out.")
    filled = {parent for f in files for parent in f.parents}
    empty = [d for d in folders if d not in filled and _shown(d)]
    labels = _labels(path, [files[i] for i in keep], empty, notes)
    tables = [files[i] for i in shown if files[i].suffix.lower() in _TABLES]
    if labels is None and tables:
        notes.append(f"{path / tables[0]} may name the files and their labels: then open that table instead.")
    names = [key, "label"] if labels is not None else [key]
    target = o.target or ("label" if labels is not None else None)
    if target is not None and (o.columns is None or o.target or target in o.columns):
        o = replace(o, target=target)
    o = with_target(o, names, notes)
    wanted = chosen(o, names)

    def read(rows: Rows, o: Options) -> Arrays:
        said, stored, kept = list(notes), dict[str, Stored](), [keep[row] for row in rows]
        if key in wanted:
            stored[key] = _READ[key](items(key, kept), o, said)
        if labels is not None and "label" in wanted:
            stored["label"] = _codes(path, [labels[row] for row in rows], o)
        return Arrays(stored, o.target, name=o.name, where=o.where, notes=said)

    return without_bad(len(keep), o, read)


def _kept(path: Path, files: Sequence[PurePath], shown: list[int]) -> tuple[str, list[int]]:
    """(`image`, `audio` or `text`, which of the files are such); HandfulError where they are both images and sounds,
    or none is. Texts beside others are about these."""
    pictures, sounds, written = ([i for i in shown if files[i].suffix.lower() in e] for e in (IMAGES, SOUNDS, TEXTS))
    if pictures and sounds:
        both = f"both images ({files[pictures[0]]}) and sounds ({files[sounds[0]]})"
        raise HandfulError(f"{path} holds {both}: keep them in two folders")
    if pictures or sounds:
        return ("image", pictures) if pictures else ("audio", sounds)
    if not written or any(files[i].suffix.lower() in _OF_TABLES for i in shown):
        raise HandfulError(_nothing(path, [files[i] for i in shown]))
    return "text", written


def to_store(tars: Path) -> str:
    """The way on for tar files, or a folder or a pattern of them."""
    return f"write their rows as a store first, as in handful prepare '{tars}' STORE"


def _nothing(path: Path, files: Sequence[PurePath]) -> str:
    if not files:
        return f"{path} is empty: put images, sounds or texts in it, one sub-folder per class"
    endings = ", ".join(e or "no ending" for e, _ in Counter(f.suffix.lower() for f in files).most_common(3))
    known = ", ".join(sorted(IMAGES | SOUNDS | TEXTS))
    if all(".tar" in f.name.lower() for f in files):
        return f"{path} holds tar files: {to_store(path)}"
    how = next((how for log, how in _LOGS.items() if any(log.search(f.as_posix()) for f in files)), None)
    if how is not None:
        return f"{path} may hold rows that were deleted, too: read it with {how}, and pass what it gives"
    if {f.suffix.lower() for f in files} <= _OF_TABLES:
        inner = [f.parts[0] for f in files if len(f.parts) > 1]
        if inner and {v.lower() for v in inner} <= _SPLITS:
            return _split(path, inner)
        return (
            f"{path} holds tables ({endings}): open one of them, or those that belong together, as in "
            f"'{path / '*'}{files[0].suffix}', or write all as a store with handful.prepare."
        )
    alone = [f for f in files if ending(f.name) in READERS or is_idx(Path(f))]
    if alone:
        first = min(alone, key=lambda f: ("images" not in f.name, f))  # beside these their labels are found
        return f"{path} holds no images, sounds or texts, but files to be opened one at a time: '{path / first}'"
    return f"{path} holds no images, sounds or texts: its files end in {endings}; handful reads {known} from folders"


def _labels(
    path: Path, files: list[PurePosixPath], empty: Sequence[PurePosixPath], notes: list[str]
) -> list[str] | None:
    """The class of each file, or None when all lie in one folder."""
    depth = 0
    while all(len(f.parts) > depth + 1 for f in files) and len({f.parts[depth] for f in files}) == 1:
        depth += 1
    inside = "/".join(files[0].parts[:depth])
    flat = [f for f in files if len(f.parts) == depth + 1]
    lost = [d for d in empty if len(d.parts) <= depth + (len(flat) < len(files))]
    if lost:
        raise HandfulError(f"{path}: class folder '{lost[0]}' is empty: fill or remove it")
    if len(flat) == len(files):
        notes.append(f"all files lie in one folder{f' ({inside})' if inside else ''}, so there is no label.")
        return None
    if flat:
        raise HandfulError(f"{path}: '{flat[0]}' lies next to the class folders: move it into one of them")
    labels = [f.parts[depth] for f in files]
    if {v.lower() for v in labels} <= _SPLITS:
        raise HandfulError(_split(path, labels))
    masks = sorted(v for v in {*labels} if _MASKS.search(v))
    if masks and len({*labels}) == 2 and 2 * len({f.stem for f in files}) == len(files):
        raise HandfulError(
            f"{path} holds pictures and, under the same names, their '{masks[0]}', which are no class of picture: read "
            "both into arrays, and pass (pictures, masks) to a model of your own that scores each pixel's classes"
        )
    notes.append(f"'label' is the name of the sub-folder: {len(set(labels)):,} classes.")
    return labels


def _split(path: Path, folders: Sequence[str]) -> str:
    named = ", ".join(sorted(set(folders)))
    return f"{path} is split into {named}: open one, '{path.name}/{folders[0]}', and another as valid=..."


def _codes(path: Path, labels: list[str], o: Options) -> Stored:
    wanted = o.schema.get("label")
    classes = (wanted.classes if wanted else None) or tuple(sorted(set(labels)))
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        raise HandfulError(f"{path}: class folder '{unknown[0]}' is not known.{did_you_mean(unknown[0], classes)}")
    number = {c: i for i, c in enumerate(classes)}
    return Dense(np.array([number[v] for v in labels], np.int64), Column("category", "int64", (), classes))


def table_files(where: str) -> list[Path]:
    """The files that are read as one table, in the order of the rows: one, the parts in a folder, those that a pattern
    names; [] for what is no table on this machine."""
    path = Path(where)
    if path.is_dir():
        return [path / f for f in parts([f for f in _walk(path)[0] if _shown(f)])]
    found = [path] if path.is_file() else sorted(p for p in map(Path, glob.glob(where, recursive=True)) if p.is_file())
    return found if all(ending(p.name) in TABLES for p in found) else []


def file_names(data: object) -> list[str]:
    """The files of a folder or zip of pictures, sounds or texts, in the order of the rows; [] for other data."""
    if not isinstance(data, str | Path):
        return []
    path = Path(data).expanduser()
    found: Sequence[PurePath] = []
    if path.is_dir():
        found, _ = _walk(path)
    elif path.suffix == ".zip" and path.is_file():
        with zipfile.ZipFile(path) as archive:
            found = [PurePosixPath(name) for name in sorted(archive.namelist()) if not name.endswith("/")]
    shown = [f for f in found if _shown(f)]
    media = [f for f in shown if f.suffix.lower() in IMAGES | SOUNDS]
    return [f.as_posix() for f in media or shown if f.suffix.lower() in IMAGES | SOUNDS | TEXTS]
