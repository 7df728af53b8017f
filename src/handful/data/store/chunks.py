"""An open source -> chunks of columns that can be stored."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from handful.base.errors import HandfulError
from handful.base.version import __version__
from handful.data.arrays import Arrays
from handful.data.base import Column, Ragged, Rows, Source, Value
from handful.data.gather import Array
from handful.data.media.images import Encoded
from handful.data.series import spread_rows
from handful.data.store.manifest import Layout, Manifest, Part
from handful.data.store.write import Piece

CHUNK = 8 << 20  # bytes of one chunk: large enough to read and write at speed, small enough to keep several
_BLOCK = 4  # from this many columns of one number a row and one dtype on, they are stored side by side
_DECODED = 8 << 30  # images up to this size in all are stored decoded
_PROBE = 64


class SourceFeed:
    """A Source, read by ranges of rows. Images that it decodes as it reads are stored as they came, or decoded."""

    def __init__(self, source: Source, provenance: dict[str, object], images: str, unit: int | None = None) -> None:
        self._source = source
        self._images = {
            name: stored
            for name, stored in (source.stored if isinstance(source, Arrays) else {}).items()
            if isinstance(stored, Encoded)
            and not stored.form.exact
            and keeps_encoded(images, len(stored) * stored.form.bytes)
        }
        columns = {name: _probed(source, name, column) for name, column in source.columns.items()}
        parts = plan_parts(columns, {name: e.form.fit for name, e in self._images.items()})
        notes = [note for note in source.notes if not note.endswith("images are decoded on every read.")]
        notes += [f"'{name}' is stored encoded and decoded on every read." for name in self._images]
        self.plan = Manifest(source.name, len(source), source.target, columns, parts, [], notes, provenance)
        self._step = max(1, min(1 << 16, (unit or CHUNK) // max(1, self._row_bytes())))

    def _row_bytes(self) -> int:
        """Per row on average: exact for columns of fixed shape, from a few rows for the others."""
        some = spread_rows(len(self._source), _PROBE)
        pieces = self.convert(some)
        total = sum(p.values.nbytes + (0 if p.lengths is None else p.lengths.nbytes) for p in pieces.values())
        return -(-total // len(some))

    def raw(self, first: int) -> Iterator[Rows]:
        n = len(self._source)
        for start in range(first * self._step, n, self._step):
            yield np.arange(start, min(n, start + self._step), dtype=np.int64)

    def convert(self, raw: Rows) -> dict[str, Piece]:
        rest = [name for name in self._source.columns if name not in self._images]
        found = {name: self._source.read_column(name, raw) for name in rest} if self._images else self._source.read(raw)
        fixed = {name: None not in self.plan.columns[name].shape for name in rest}
        pieces = {name: to_piece(self.plan.name, name, found[name], fixed[name]) for name in rest}
        for name, encoded in self._images.items():
            pieces[name] = pack([bytes(encoded.items[row]) for row in raw.tolist()])
        return pieces


def keeps_encoded(images: str, decoded: int) -> bool:
    """Whether images of so many bytes decoded are stored as they came."""
    return decoded > _DECODED if images == "auto" else images == "encoded"


def _probed(source: Source, name: str, column: Column) -> Column:
    """A data set read item by item has been seen at one row only: look at a few more before fixing its shape."""
    if None in column.shape or not column.shape or column.kind in ("image", "text") or source.in_memory:
        return column
    if isinstance(source.read_column(name, spread_rows(len(source), _PROBE)), Ragged):
        kind = "tokens" if column.dtype.startswith(("int", "uint")) and len(column.shape) == 1 else column.kind
        return Column(kind, column.dtype, (None, *column.shape[1:]), column.classes, column.rate)
    return column


def to_piece(where: str, name: str, value: Value, fixed: bool) -> Piece:
    """One column as it was read, as bytes to be written."""
    if isinstance(value, Ragged):
        if fixed:
            raise HandfulError(
                f"{where}: '{name}' has rows of different lengths, unlike the first ones: declare it in columns=, "
                "with None as first dimension of its shape"
            )
        return Piece(_plain(value.values), np.diff(value.offsets.cpu().numpy()))
    if isinstance(value, Tensor):
        array = _plain(value)
        if fixed:
            return Piece(array)
        lengths = np.full(len(array), array.shape[1], np.int64)
        return Piece(array.reshape(-1, *array.shape[2:]), lengths)
    return pack([v.encode("utf-8", "surrogatepass") if isinstance(v, str) else bytes(v) for v in value])


def pack(items: Sequence[bytes]) -> Piece:
    """Byte strings end to end."""
    lengths = np.array([len(item) for item in items], np.int64)
    return Piece(np.frombuffer(b"".join(items), np.uint8), lengths)


def _plain(value: Tensor) -> Array:
    value = value.detach().cpu()
    return (value.view(torch.int16) if value.dtype == torch.bfloat16 else value).numpy()


def plan_parts(columns: dict[str, Column], encoded: dict[str, bool]) -> list[Part]:
    """Which columns lie together. encoded: images kept as bytes -> whether they are resized when decoded."""
    scalars: dict[str, list[str]] = {}
    for name, c in columns.items():
        if c.shape == () and c.kind in ("number", "category", "tensor"):
            scalars.setdefault(c.dtype, []).append(name)
    together = {names[0]: names for names in scalars.values() if len(names) >= _BLOCK}
    inside = {name for names in together.values() for name in names}
    parts = []
    for name, c in columns.items():
        if name in together:
            parts.append(Part(tuple(together[name]), "fixed", c.dtype, (), block=True))
        elif name not in inside:
            parts.append(_part(name, c, encoded))
    return parts


def _part(name: str, c: Column, encoded: dict[str, bool]) -> Part:
    shape = tuple(s for s in c.shape if s is not None)
    if name in encoded:
        return Part((name,), "image", c.dtype, shape, fit=encoded[name])
    if c.kind == "text" or c.dtype in ("str", "bytes"):
        return Part((name,), "text", "uint8")
    layout: Layout = "ragged" if None in c.shape else "fixed"
    return Part((name,), layout, c.dtype, shape)


def identity_of(files: Sequence[Path], options: Mapping[str, object]) -> tuple[str | None, dict[str, object]]:
    """(what tells this input from any other, what the manifest says of it), by names, sizes and times of files; None
    for an input that is no files."""
    if not files:
        return None, {"handful": __version__, "identity": None}
    listed = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    text = json.dumps([listed, options, __version__], sort_keys=True)
    said = [{"file": name, "bytes": size} for name, size, _ in islice(listed, 1000)]
    identity = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return identity, {
        "handful": __version__,
        "files": len(listed),
        "bytes": sum(size for _, size, _ in listed),
        "first": said,
        "options": options,
        "identity": identity,
    }
