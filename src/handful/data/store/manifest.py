"""What a store holds: its columns, where their bytes lie, and a digest of every block of them."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from itertools import accumulate
from math import prod
from typing import Any, Literal

import numpy as np

from handful.base.errors import HandfulError
from handful.data.base import Column, Rows

FORMAT, VERSION = "handful store", 1
FILE = "manifest.json"
BLOCK = 16 << 20  # bytes under one digest: what has to be read again to find a flipped bit, and to go on after a kill
Layout = Literal["fixed", "ragged", "text", "image"]

# fields of a column that are written where they say something
_SELDOM = ("labels", "dates", "open", "decimal", "unit", "missing", "type", "words", "parts")
_NAME = re.compile(r"[0-9]{5}/[0-9]{3}\.(values|offsets)")


@dataclass(frozen=True)
class Part:
    """Bytes that lie together: one column, or several of one number per row, side by side.

    layout: fixed    values [rows, *shape], or [rows, columns] when `block`
            ragged   values [total, *shape] and offsets int64 [rows + 1]
            text     UTF-8, uint8 [total], and offsets
            image    encoded images, uint8 [total], and offsets; decoded to `form` when read
    dtype:  NumPy's name, or bfloat16; of images that they are decoded to
    shape:  of one row (fixed), of one value (ragged)
    form:   (channels, height, width) and whether images of another size are resized and cropped to it
    """

    columns: tuple[str, ...]
    layout: Layout
    dtype: str
    shape: tuple[int, ...] = ()
    block: bool = False
    fit: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        return ("values",) if self.layout == "fixed" else ("values", "offsets")

    @property
    def storage(self) -> np.dtype[np.generic]:
        """The NumPy dtype of the values in the file: NumPy has no bfloat16, so its bits are kept as int16."""
        return np.dtype("uint8" if self.layout == "image" else "int16" if self.dtype == "bfloat16" else self.dtype)

    @property
    def value_shape(self) -> tuple[int, ...]:
        """Of one row (fixed) or of one value in the file."""
        return (len(self.columns),) if self.block else () if self.layout in ("text", "image") else self.shape

    @property
    def width(self) -> int:
        """Bytes of one row (fixed) or of one value."""
        return prod(self.value_shape) * self.storage.itemsize


@dataclass(frozen=True)
class Shard:
    """Consecutive rows. files: name -> (bytes, digest of every BLOCK of them)."""

    rows: int
    files: dict[str, tuple[int, list[str]]]


@dataclass(frozen=True)
class Manifest:
    """The whole description of a store. provenance: what it was made from; it decides nothing."""

    name: str
    rows: int
    target: str | None
    columns: dict[str, Column]
    parts: list[Part]
    shards: list[Shard]
    notes: list[str] = field(default_factory=list)
    provenance: dict[str, object] = field(default_factory=dict)
    block: int = BLOCK

    @property
    def bytes(self) -> int:
        """Of all data files together."""
        return sum(size for _, size, _ in self.files())

    @property
    def starts(self) -> Rows:
        """The first row of each shard, and the number of rows: int64 [shards + 1]."""
        return np.array([0, *accumulate(s.rows for s in self.shards)])

    def files(self) -> Iterator[tuple[str, int, list[str]]]:
        """(name, bytes, digests) of every data file."""
        return ((name, size, digests) for s in self.shards for name, (size, digests) in s.files.items())

    def to_json(self) -> str:
        """Its text; the same store gives the same bytes, so nothing here may depend on the time of writing."""
        plain: dict[str, object] = {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "rows": self.rows,
            "target": self.target,
            "notes": self.notes,
            "provenance": self.provenance,
            "block": self.block,
            "columns": [{"name": name, **_written(column)} for name, column in self.columns.items()],
            "parts": [asdict(part) for part in self.parts],
            "shards": [
                {"rows": s.rows, "files": {n: {"bytes": b, "digests": d} for n, (b, d) in s.files.items()}}
                for s in self.shards
            ],
        }
        plain["digest"] = digest(json.dumps(plain, sort_keys=True).encode())
        return json.dumps(plain, indent=1) + "\n"


def _written(column: Column) -> dict[str, object]:
    return {name: value for name, value in asdict(column).items() if name not in _SELDOM or value}


def check_sizes(where: str, manifest: Manifest, size_of: Callable[[str], int | None]) -> None:
    """HandfulError, naming it, for a data file that is missing or of another size; size_of: name -> bytes, if known."""
    for name, size, _ in manifest.files():
        try:
            found = size_of(name)
        except (FileNotFoundError, NotADirectoryError):
            lost = f"{name} is missing, so shard {int(name[:5])} is not whole"
            raise HandfulError(f"{where}: {lost}: copy it again, or write the store again") from None
        except OSError as error:
            raise HandfulError(f"{where}: {name} cannot be read: {error.strerror or error}") from None
        if found not in (None, size):
            wrong = f"{name} has {found:,} bytes instead of {size:,}, as it was cut short or changed"
            raise HandfulError(f"{where}: {wrong}: copy it again, or write the store again")


def file_name(shard: int, part: int, what: str) -> str:
    """Where a part of a shard lies, relative to the store.

    >>> file_name(0, 2, "offsets")
    '00000/002.offsets'
    """
    return f"{shard:05d}/{part:03d}.{what}"


def digest(data: "bytes | memoryview") -> str:
    """BLAKE2b, 128 bits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def parse(text: str | bytes, where: str) -> Manifest:
    """The manifest that `to_json` wrote. Raises HandfulError, saying what is wrong, for anything else."""
    wrong = f"{where} is not a manifest that handful can use"
    again = "write the store again with handful.prepare"
    try:
        plain = json.loads(text)
    except (ValueError, UnicodeDecodeError) as error:
        raise HandfulError(f"{wrong} (it is cut short or damaged: {error}): {again}") from None
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise HandfulError(f"{wrong} (its format is not '{FORMAT}'): open the folder that handful.prepare wrote")
    if plain.get("version") != VERSION:
        version = plain.get("version")
        raise HandfulError(f"{where} is of version {version}, but this handful reads {VERSION}: update it, or {again}")
    if plain.pop("digest", None) != digest(json.dumps(plain, sort_keys=True).encode()):
        raise HandfulError(f"{wrong} (it was changed: its digest does not match): {again}")
    try:
        columns = {c["name"]: _column(c) for c in plain["columns"]}
        parts = [Part(**{**p, "columns": tuple(p["columns"]), "shape": tuple(p["shape"])}) for p in plain["parts"]]
        shards = [
            Shard(s["rows"], {n: (int(f["bytes"]), list(f["digests"])) for n, f in s["files"].items()})
            for s in plain["shards"]
        ]
        rest = {name: plain[name] for name in ("name", "rows", "target", "notes", "provenance", "block")}
        manifest = Manifest(columns=columns, parts=parts, shards=shards, **rest)
        _check(manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HandfulError(f"{wrong} ({error}): {again}") from error
    return manifest


def _column(c: dict[str, Any]) -> Column:
    own = {f.name: c[f.name] for f in fields(Column) if f.name in c}
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in own.items()}
    return Column(**plain | {"parts": tuple(map(_column, c.get("parts", ())))})


def _check(m: Manifest) -> None:
    """Whoever wrote it, the manifest may only name files of the store, and must agree with itself."""
    for shard in m.shards:
        for name in shard.files:
            if not _NAME.fullmatch(name):
                raise ValueError(f"entry '{name}' points outside the store")
    if m.rows < 1 or m.block < 1 or sum(s.rows for s in m.shards) != m.rows:
        raise ValueError("its shards do not add up to its rows")
    if sorted(name for part in m.parts for name in part.columns) != sorted(m.columns):
        raise ValueError("its parts do not hold its columns")
    if m.target is not None and m.target not in m.columns:
        raise ValueError(f"its target '{m.target}' is not a column")
    for number, shard in enumerate(m.shards):
        expected = {file_name(number, i, what) for i, part in enumerate(m.parts) for what in part.files}
        if set(shard.files) != expected:
            raise ValueError(f"the files of shard {number} are not those of its columns")
        for i, part in enumerate(m.parts):
            values, due = shard.files[file_name(number, i, "values")][0], shard.rows * part.width
            if part.layout == "fixed" and values != due:
                raise ValueError(f"'{part.columns[0]}' has {values:,} bytes in shard {number}, not {due:,}")
            if part.layout != "fixed":
                offsets = shard.files[file_name(number, i, "offsets")][0]
                if offsets != 8 * (shard.rows + 1) or (part.width and values % part.width):
                    raise ValueError(f"'{part.columns[0]}' has offsets or values of a wrong size in shard {number}")
    for name, size, digests in m.files():
        if len(digests) != -(-size // m.block):
            raise ValueError(f"'{name}' has {len(digests)} digests, not {-(-size // m.block)}")
