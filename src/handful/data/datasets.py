"""Other libraries' data sets: torch's map-style Dataset, Hugging Face's Dataset, those that scikit-learn ships."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any, Protocol, Self, TypeGuard, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset
from torch.utils.data import Subset as TorchSubset

from handful.base.errors import MISTAKES, HandfulError
from handful.base.errors import some as some_of
from handful.base.keys import drawn
from handful.base.machine import in_bytes
from handful.data.arrays import Stored
from handful.data.base import Column, Ragged, Rows, Source, Value
from handful.data.containers import as_dict, classes_of, named
from handful.data.gather import offsets_of
from handful.data.options import Options
from handful.data.pairs import open_columns
from handful.data.series import spread_rows
from handful.data.tables.arrow import chosen, named_classes, open_table, with_target


class HuggingFace(Protocol):
    """What of a `datasets.Dataset` is used; the library need not be installed."""

    features: Mapping[str, object]

    def with_format(self, kind: str) -> Self: ...

    def __getitem__(self, rows: slice) -> pa.Table: ...

    def __len__(self) -> int: ...


def is_hugging_face(value: object) -> TypeGuard[HuggingFace]:
    """Whether it behaves as a `datasets.Dataset`."""
    return all(hasattr(value, name) for name in ("with_format", "features", "__getitem__"))


class HubTable:
    """A Hugging Face data set through its Arrow format: the columns that its own format shows.

    classes: names of whole-number columns' classes, by its features; schema: what these say of pictures (their mode)
    and of sounds (their rate).
    """

    def __init__(self, dataset: HuggingFace, name: str) -> None:
        self.rows, self.notes = len(dataset), list[str]()
        self._arrow, shape = dataset.with_format("arrow"), getattr(dataset, "format", {})
        known, shown = list(dataset.features), shape.get("columns")
        self._columns = [key for key in known if key in shown] if shown and not shape["output_all_columns"] else known
        if hidden := [key for key in known if key not in self._columns]:
            self.notes.append(f"left out, as the data set's own format does not show them: {', '.join(hidden)}.")
        self.classes = classes_of(dataset)
        self.schema: dict[str, Column] = {}
        for key, feature in dataset.features.items():
            mode, rate = getattr(feature, "mode", None), getattr(feature, "sampling_rate", None)
            if mode is not None:
                if mode not in ("L", "RGB"):
                    raise HandfulError(
                        f"{name}: pictures of '{key}' are to be read in the mode {mode}: cast it to RGB or L"
                    )
                self.schema[key] = Column("image", "uint8", (1 if mode == "L" else 3, None, None))
            elif rate is not None:
                self.schema[key] = Column("audio", "float32", (None,), rate=rate)

    def read(self, rows: slice, whole: bool) -> pa.Table:
        """Some rows. Where a picture or sound is a path without bytes, it has those of the file; if none has bytes and
        the table is `whole`, the paths alone are left, as the files need not all be read at once."""
        table = self._arrow[rows].select(self._columns)
        for i, field in enumerate(table.schema):
            if pa.types.is_struct(field.type) and {"bytes", "path"} <= {inner.name for inner in field.type}:
                data, paths = (pc.struct_field(table.column(i), name) for name in ("bytes", "path"))
                if data.null_count and not (whole and data.null_count == len(data)):
                    pairs = zip(data.to_pylist(), paths.to_pylist(), strict=True)
                    read = pa.array([_bytes(field.name, *pair) for pair in pairs], pa.large_binary())
                    table = table.set_column(i, field.name, read)
        return table


def _bytes(key: str, data: bytes | None, path: str | None) -> bytes | None:
    try:
        return data if data is not None or path is None else Path(path).read_bytes()
    except OSError as error:
        raise HandfulError(f"'{key}' names {path}, which cannot be read: {error.strerror}") from error


def is_transformed(value: HuggingFace) -> bool:
    """Whether its rows are what a function of the caller's makes of them (`with_transform`)."""
    return getattr(value, "format", {}).get("type") == "custom"


def open_hugging_face(value: HuggingFace, o: Options) -> Source:
    """Through its Arrow format, once, with class names from its features; a transform of the caller's at every read."""
    if is_transformed(value):
        return DatasetRows(cast("Dataset[object]", value), o)
    hub = HubTable(value, o.name)
    o = replace(o, schema={**hub.schema, **o.schema})
    return with_names(open_table(hub.read(slice(None), whole=True), o, notes=hub.notes), hub.classes)


def with_names(source: Source, classes: Mapping[str, tuple[str, ...]]) -> Source:
    """The source, of which whole numbers in some columns of its arrays have names."""
    stored: dict[str, Stored] = getattr(source, "stored", {})
    for key in classes.keys() & stored.keys():
        stored[key] = named_classes(stored[key], classes[key])
        source.columns[key] = stored[key].column
    return source


def open_torch(value: "Dataset[object]", o: Options) -> Source:
    """TensorDataset: its tensors. Subset: a view. Any other map-style data set: item by item, stacked."""
    if type(value) is TensorDataset:
        return open_columns(named(value.tensors), o)
    if type(value) is TorchSubset and len(value):
        return open_torch(value.dataset, o).subset(np.asarray(value.indices, dtype=np.int64))
    return DatasetRows(value, o)


def _has_rows(value: Any, m: int) -> bool:
    """Whether it can be cut into parts of rows of its own kind, as a Tensor, unlike a merged graph."""
    try:
        return len(value) == m and isinstance(value[:1], type(value)) and len(value[:1]) == 1
    except MISTAKES:
        return False


def _unlike(values: Sequence[object]) -> bool:
    """Whether each is a tuple with whole numbers and others in the same places."""
    kinds = {tuple(np.asarray(part).dtype.kind in "iub" for part in v) for v in values if isinstance(v, tuple)}
    return len(kinds) == 1 and len(set(*kinds)) == 2


def rows_in(batch: object) -> list[object]:
    """The rows of a batch that someone else put together: dicts, pairs (x, y), or x alone.

    >>> rows_in({"x": torch.tensor([[1], [2]]), "name": ["a", "b"]})
    [{'x': tensor([1]), 'name': 'a'}, {'x': tensor([2]), 'name': 'b'}]
    """
    parts = as_dict(batch)
    sizes = {len(part) if hasattr(part, "__len__") and getattr(part, "ndim", True) else -1 for part in parts.values()}
    if len(sizes) > 1 or -1 in sizes:
        raise HandfulError(
            f"a batch of the DataLoader has parts of unlike sizes ({', '.join(parts)}): pass its dataset"
        )
    rows = zip(*parts.values(), strict=True)
    if isinstance(batch, Mapping) or not parts.keys() <= {"x", "y"}:
        return [dict(zip(parts, row, strict=True)) for row in rows]
    return [row if len(parts) > 1 else row[0] for row in rows]


def taken_apart(read: object, said: list[str], name: str) -> tuple[object, list[str]]:
    """What was read from an iterator: rows, or batches of them where all parts of each have one size, which is the same
    but for the last, that is smaller. Where a size is the same throughout, they are taken for rows, which is noted."""
    match read:  # nothing is said of what was no iterator
        case [*items] if said and items and all(type(item) in (tuple, list, dict) for item in items):
            each = [{getattr(part, "shape", ())[:1] for part in as_dict(item).values()} for item in items]
        case _:
            return read, said
    sizes = [sum(next(iter(size))) if len(size) == 1 else 0 for size in each]
    if min(sizes) < 1 or max(sizes) < 2 or len(as_dict(items[0])) < 2:
        return read, said
    if len(items) > 1 and len(set(sizes[:-1])) == 1 and sizes[-1] < sizes[0]:
        rows = [row for item in items for row in rows_in(item)]
        return rows, [
            f"{name} gives batches of {sizes[0]:,} rows, which are taken apart: {len(rows):,} rows in memory."
        ]
    same = len(set(sizes)) == 1
    more = f"each item of {name}, with {sizes[0]:,} values in all parts, is taken for a row; "
    more += "for a batch of rows give a DataLoader."
    return read, [*said, more] if same else said


class NotNumbers(HandfulError):
    """A value of an item that cannot become a Tensor."""


class DatasetRows(Source):
    """A map-style Dataset, read when asked: `__getitems__` once per read if it has one, else item by item.

    Items are a Tensor, array, image or number (column `x`), a dict, or a pair (x, y), of which either may be a dict.
    Raises HandfulError, naming the row, when an item fails or is not like item 0.
    """

    in_memory = False

    def __init__(self, dataset: "Dataset[object]", o: Options) -> None:
        self.name, self.where, self._dataset, self._rate = o.name, None, dataset, o.rate
        try:
            self._n = len(dataset)  # type: ignore[arg-type]
        except (TypeError, NotImplementedError) as error:
            raise HandfulError(f"{o.name} has no length: give its class a __len__") from error
        if self._n == 0:
            raise HandfulError(f"{o.name} has 0 rows: there is nothing to learn from")
        self._many, self.collate = callable(getattr(dataset, "__getitems__", None)), o.collate
        how = "its __getitems__, one call per batch" if self._many else "its __getitem__, one call per row"
        self.notes = [f"{o.name} is read through {how}; handful.prepare makes it faster."] if not o.collate else []
        some = spread_rows(self._n, 9)
        (first, columns), draws = drawn(lambda: (self._put_together if o.collate else self._as_columns)(some))
        if draws:
            self.serial = True
            self.notes.append(
                f"{o.name} draws random numbers: keyed by seed and mini-batch, so that a run can be taken again."
            )
        o = with_target(o, first, self.notes)
        self.target = o.target
        self.columns, left = {}, dict[str, HandfulError]()
        for key in chosen(o, first):
            try:
                self.columns[key] = columns(key)
            except NotNumbers as error:
                left[key] = error
        if left and (self.target in left or not self.columns.keys() - {self.target}):
            raise next(iter(left.values()))
        if self._differs(some):
            self.serial = True
            self.notes.append(
                f"{o.name} gives other values whenever a row is read, by what is not keyed: another run sees others."
            )
        if left:
            self.notes.append(f"Left out, as they cannot become Tensors (collate=... makes such): {some_of([*left])}.")

    def _differs(self, rows: Rows) -> bool:
        """Whether rows are others when read again, though all generators are where they were."""
        with suppress(HandfulError):  # named later
            reads = [drawn(lambda: self.read(rows))[0].values() for _ in range(3)]
            each = [[v.values if isinstance(v, Ragged) else v for v in read] for read in reads]
            if self.collate is not None:  # or objects of any kind
                each = [[v for v in read if isinstance(v, Tensor)] for read in each]
            plain = [[in_bytes(v) if isinstance(v, Tensor) else v for v in read] for read in each]
            return any(other != plain[0] for other in plain)
        return False

    def _as_columns(self, some: Rows) -> tuple[list[str], Callable[[str], Column]]:
        """The names of the columns, and what each holds, seen on some rows."""
        seen = [as_dict(item) for item in self.samples(some)]
        return list(seen[0]), lambda key: self._column(key, [item[key] for item in seen if key in item])

    def _put_together(self, some: Rows) -> tuple[list[str], Callable[[str], Column]]:
        """The same of what the collate function makes of some rows, and of fewer."""
        self.serial = True
        few, more = some[:2], some[2:] if len(some) > 3 else some
        pairs = [(self._batch(rows), len(rows)) for rows in (few, more)]
        names = list(pairs[0][0])
        for key in names:
            values = [(part.get(key), m) for part, m in pairs]
            if not all(_has_rows(v, m) for v, m in values):
                self.whole = f"the collate function gives '{key}' for all rows of a batch together"
        self.notes.append(f"{self.name} is put together by the caller's collate function: {', '.join(names)}.")
        return names, lambda key: self._given(key, [(part[key], m) for part, m in pairs])

    def _given(self, key: str, values: list[tuple[object, int]]) -> Column:
        """What the collate function gives under this name: numbers of each row, where it is the target."""
        arrays = [torch.as_tensor(v) for v, m in values if isinstance(v, Tensor | np.ndarray) and v.shape[:1] == (m,)]
        if key != self.target or len(arrays) < len(values):
            return Column("collated", "object")
        dtype = str(arrays[0].dtype).removeprefix("torch.")
        sides = zip(*(array.shape[1:] for array in arrays), strict=True)
        shape = tuple(sizes[0] if len(set(sizes)) == 1 else None for sizes in sides)
        return Column("tensor" if shape else "number", dtype, shape)

    def _batch(self, rows: Rows) -> dict[str, Any]:
        """What the collate function makes of some rows."""
        assert self.collate is not None
        try:
            found = self.collate(list(self.samples(rows)))
        except Exception as error:  # someone else's code
            raise HandfulError(
                f"{self.name}: the collate function fails on {len(rows)} rows, {some_of(rows.tolist(), 3)}: "
                f"{type(error).__name__}: {error}"
            ) from error
        return {key: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for key, v in as_dict(found).items()}

    def __len__(self) -> int:
        return self._n

    def samples(self, rows: Rows) -> Sequence[object]:
        if self._many:
            return cast(Sequence[object], self._dataset.__getitems__(rows.tolist()))  # type: ignore[attr-defined]
        found = []
        for row in rows.tolist():
            try:
                found.append(self._dataset[row])
            except Exception as error:  # anything may go wrong in someone else's code: name the row
                raise HandfulError(f"{self.name}: reading row {row} failed: {type(error).__name__}: {error}") from error
        return found

    def _column(self, key: str, values: list[object]) -> Column:
        if isinstance(values[0], str):
            return Column("text", "str")
        if key == self.target and _unlike(values):
            raise HandfulError(
                f"{self.name}: '{key}' is a tuple of whole and other numbers, which would become one Tensor: give each "
                "a name, as in (x, {'kind': 1, 'size': 2.5}) with target='kind,size'"
            )
        arrays = [self._array(key, v, 0) for v in values]
        array, joint = arrays[0], reduce(torch.promote_types, {a.dtype for a in arrays})
        dtype, whole = str(joint).removeprefix("torch."), not joint.is_floating_point
        classes = classes_of(self._dataset).get(key) or (key == self.target and getattr(self._dataset, "classes", None))
        if not array.ndim:
            if classes and whole:
                return Column("category", "int64", (), tuple(str(c) for c in classes), type="int64")
            return Column("number", dtype)
        if self._rate and array.ndim == 1 and not whole and key != self.target:
            return Column("audio", "float32", (None,), rate=self._rate)
        if len({a.shape[:1] for a in arrays}) > 1:
            return Column("tokens" if whole and array.ndim == 1 else "tensor", dtype, (None, *array.shape[1:]))
        image = dtype == "uint8" and array.ndim == 3 and array.shape[0] in (1, 3)
        return Column("image" if image else "tensor", dtype, tuple(array.shape))

    def _array(self, key: str, value: object, row: int) -> Tensor:
        if isinstance(value, Tensor):
            return value.detach().cpu()
        try:
            pixels = np.asarray(value)
            if hasattr(value, "getbands"):  # a Pillow image: channels first
                return torch.tensor(pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0))
            return torch.tensor(pixels)
        except (TypeError, ValueError) as error:
            what = f"'{key}' of row {row} is a {type(value).__name__}"
            raise NotNumbers(f"{self.name}: {what}, which cannot become a Tensor (collate=... makes such)") from error

    def read(self, rows: Rows) -> dict[str, Value]:
        if self.collate is not None:
            found = self._batch(rows)
            return {key: found[key] for key in self.columns}
        items = [as_dict(item) for item in self.samples(rows)]
        for row, item in zip(rows, items):
            missing = [key for key in self.columns if key not in item]
            if missing:
                raise HandfulError(f"{self.name}: row {row} has no '{missing[0]}', unlike row 0")
        return {key: self._stack(key, [item[key] for item in items], rows) for key in self.columns}

    def _stack(self, key: str, values: list[object], rows: Rows) -> Value:
        column = self.columns[key]
        if column.kind == "text":
            return [str(v) for v in values]
        arrays = [self._array(key, v, int(row)) for v, row in zip(values, rows)]
        dtype, inner = getattr(torch, column.dtype), column.shape[column.varies :]
        for k, (array, row) in enumerate(zip(arrays, rows)):
            arrays[k] = array.to(dtype)
            if array.ndim != len(column.shape) or tuple(array.shape[column.varies :]) != inner:
                due = f"({', '.join('any' if s is None else str(s) for s in column.shape)})"
                both = f"shape {tuple(array.shape)} where {due} was expected"
                raise HandfulError(f"{self.name}: '{key}' of row {row} has {both}: give all rows one shape")
            if not (dtype.is_floating_point or torch.equal(arrays[k].to(array.dtype), array)):
                both = f"{str(array.dtype).removeprefix('torch.')} numbers that {column.dtype} does not hold"
                raise HandfulError(f"{self.name}: '{key}' of row {row} has {both}: give all rows one type")
        empty = torch.empty((0, *(s or 0 for s in inner)), dtype=dtype)
        if column.varies:
            offsets = offsets_of([len(a) for a in arrays])
            return Ragged(torch.cat(arrays or [empty]), torch.from_numpy(offsets))
        return torch.stack(arrays) if arrays else empty


class RowsOf(Dataset[object]):
    """The rows of a source as a Dataset: see `Source.samples`."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: int) -> object:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: list[int]) -> Sequence[object]:
        return self.source.samples(np.asarray(rows, dtype=np.int64))


NAMES = ("breast_cancer", "diabetes", "digits", "iris", "wine")


def open_embedded(name: str, o: Options) -> Source:
    """digits: `image` uint8 [1, 8, 8] with values 0..16; the others: named numeric columns; target `target`.

    >>> from handful.data.open import open
    >>> open("digits").columns["image"].shape
    (1, 8, 8)
    """
    from sklearn import datasets

    data = getattr(datasets, f"load_{name}")()
    images = {"image": data.images.astype(np.uint8)[:, None]} if name == "digits" else {}
    columns = images or dict(zip(map(str, data.feature_names), data.data.T))
    notes = [f"'{name}' is the data set that scikit-learn ships, {len(data.target):,} rows."]
    classes = tuple(map(str, data.get("target_names", ())))
    return with_names(open_columns({**columns, "target": data.target}, o, notes), {"target": classes})
