"""Other libraries' data sets: torch's map-style Dataset, Hugging Face's Dataset."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset
from torch.utils.data import Subset as TorchSubset

from handful.base.errors import HandfulError
from handful.data.arrays import Arrays, Dense, Stored
from handful.data.base import Column, Ragged, Rows, Source, Value
from handful.data.options import Options
from handful.data.pairs import open_columns
from handful.data.tables.arrow import chosen, named_classes, open_table, with_target


def is_hugging_face(value: Any) -> bool:
    """Whether it behaves as a `datasets.Dataset`, which need not be installed."""
    return hasattr(value, "with_format") and hasattr(value, "features") and hasattr(value, "__getitem__")


def open_hugging_face(value: Any, o: Options) -> Source:
    """Through its Arrow format, once, into plain columns; class names from its features."""
    if not hasattr(value, "__len__"):
        raise HandfulError(f"{o.name} is a streaming data set: load it without streaming=True.")
    table = value.with_format("arrow")[:]
    source = open_table(table, o)
    for key, feature in value.features.items():
        names = getattr(feature, "names", None)
        if key in source.stored and names:
            source.stored[key] = named_classes(source.stored[key], tuple(names))
            source.columns[key] = source.stored[key].column
    return source


def open_torch(value: "Dataset[Any]", o: Options) -> Source:
    """TensorDataset: its tensors. Subset: a view. Any other map-style data set: item by item, stacked."""
    if isinstance(value, IterableDataset):
        raise HandfulError(
            f"{o.name} is an IterableDataset, which has no rows to shuffle: write it to Parquet or .npy and open that."
        )
    if type(value) is TensorDataset:
        tensors = value.tensors
        names = ["x"] if len(tensors) == 1 else ["x", "y"] if len(tensors) == 2 else _numbered(len(tensors))
        return open_columns(dict(zip(names, tensors)), o)
    if type(value) is TorchSubset and len(value):
        return open_torch(value.dataset, o).subset(np.asarray(value.indices, dtype=np.int64))
    return Items(value, o)


def _numbered(count: int) -> list[str]:
    return [f"x{i}" for i in range(count)]


class Items(Source):
    """A map-style Dataset, read when asked: `__getitems__` once a read if it has one, else item by item.

    Items are a Tensor, array, image or number (column `x`), a pair (x, y), or a dict. Raises HandfulError,
    naming the row, when an item fails or is not like item 0.
    """

    in_memory = False

    def __init__(self, dataset: "Dataset[Any]", o: Options) -> None:
        self.name, self.where, self._dataset, self._rate = o.name, None, dataset, o.rate
        try:
            self._n = len(dataset)  # type: ignore[arg-type]
        except (TypeError, NotImplementedError) as error:
            raise HandfulError(f"{o.name} has no length: give its class a __len__.") from error
        if self._n == 0:
            raise HandfulError(f"{o.name} has 0 rows: there is nothing to learn from.")
        self._many = callable(getattr(dataset, "__getitems__", None))
        how = "its __getitems__, one call a batch" if self._many else "its __getitem__, one call a row"
        self.notes = [f"{o.name} is read through {how}; handful.prepare makes it faster."]
        # nine rows tell lengths that vary; were they to miss it, `read` names the row that differs
        seen = [self._as_dict(item) for item in self._fetch(np.unique(np.linspace(0, self._n - 1, 9).astype(np.int64)))]
        self._names = list(seen[0])
        o = with_target(o, self._names, self.notes)
        self._keep, self.target = chosen(o, self._names), o.target
        self.columns = {key: self._column(key, [item[key] for item in seen if key in item]) for key in self._keep}

    def __len__(self) -> int:
        return self._n

    def _fetch(self, rows: Rows) -> Sequence[Any]:
        if self._many:
            items: Sequence[Any] = self._dataset.__getitems__(rows.tolist())  # type: ignore[attr-defined]
            return items
        found = []
        for row in rows.tolist():
            try:
                found.append(self._dataset[row])
            except Exception as error:  # anything may go wrong in someone else's code: name the row
                raise HandfulError(f"{self.name}: reading row {row} failed: {type(error).__name__}: {error}") from error
        return found

    def _as_dict(self, item: Any) -> dict[str, Any]:
        if isinstance(item, Mapping):
            return {str(key): v for key, v in item.items()}
        if isinstance(item, (tuple, list)) and len(item) == 2:
            return {"x": item[0], "y": item[1]}
        if isinstance(item, (tuple, list)):
            if len(item) == 1:
                return {"x": item[0]}
            return dict(zip(_numbered(len(item)), item))
        return {"x": item}

    def _column(self, key: str, values: list[Any]) -> Column:
        if isinstance(values[0], str):
            return Column("text", "str")
        array = self._array(key, values[0], 0)
        dtype = str(array.dtype).removeprefix("torch.")
        classes = getattr(self._dataset, "classes", None)
        if not array.ndim:
            if key == self.target and classes and not array.dtype.is_floating_point:
                return Column("category", "int64", (), tuple(str(c) for c in classes))
            return Column("number", dtype)
        if self._rate and array.ndim == 1 and array.dtype.is_floating_point and key != self.target:
            return Column("audio", "float32", (None,), rate=self._rate)
        if len({self._array(key, v, 0).shape[:1] for v in values}) > 1:
            whole = array.ndim == 1 and not array.dtype.is_floating_point
            return Column("tokens" if whole else "tensor", dtype, (None, *array.shape[1:]))
        image = dtype == "uint8" and array.ndim == 3 and array.shape[0] in (1, 3)
        return Column("image" if image else "tensor", dtype, tuple(array.shape))

    def _array(self, key: str, value: Any, row: int) -> Tensor:
        if isinstance(value, Tensor):
            return value.detach().cpu()
        if hasattr(value, "mode") and hasattr(value, "getbands"):  # a Pillow image: channels first
            pixels = np.asarray(value)
            return torch.tensor(pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0))
        try:
            return torch.tensor(np.asarray(value))
        except (TypeError, ValueError) as error:
            raise HandfulError(
                f"{self.name}: '{key}' of row {row} is a {type(value).__name__}, which cannot become a Tensor."
            ) from error

    def read(self, rows: Rows) -> dict[str, Value]:
        items = [self._as_dict(item) for item in self._fetch(rows)]
        for row, item in zip(rows, items):
            missing = [key for key in self._keep if key not in item]
            if missing:
                raise HandfulError(f"{self.name}: row {row} has no '{missing[0]}', unlike row 0.")
        return {key: self._stack(key, [item[key] for item in items], rows) for key in self._keep}

    def _stack(self, key: str, values: list[Any], rows: Rows) -> Value:
        column = self.columns[key]
        if column.kind == "text":
            return [str(v) for v in values]
        arrays = [self._array(key, v, int(row)) for v, row in zip(values, rows)]
        dtype = getattr(torch, column.dtype)
        inner = column.shape[1:] if column.shape[:1] == (None,) else column.shape
        for array, row in zip(arrays, rows):
            found = tuple(array.shape[1:] if column.shape[:1] == (None,) else array.shape)
            if found != inner or array.ndim != len(column.shape):
                shape = "(" + ", ".join("any" if s is None else str(s) for s in column.shape) + ")"
                raise HandfulError(
                    f"{self.name}: '{key}' of row {row} has shape {tuple(array.shape)} where {shape} was expected: "
                    "give all rows one shape."
                )
        if column.shape[:1] == (None,):
            offsets = torch.zeros(len(arrays) + 1, dtype=torch.int64)
            torch.cumsum(torch.tensor([len(a) for a in arrays], dtype=torch.int64), 0, out=offsets[1:])
            empty = torch.empty((0, *(s or 0 for s in inner)))
            return Ragged(torch.cat(arrays or [empty]).to(dtype), offsets)
        if not arrays:
            return torch.empty((0, *(s or 0 for s in column.shape)), dtype=dtype)
        return torch.stack(arrays).to(dtype)


NAMES = ("breast_cancer", "diabetes", "digits", "iris", "wine")


def open_embedded(name: str, o: Options) -> Arrays:
    """digits: `image` uint8 [1, 8, 8] with values 0..16; the others: named numeric columns; target `target`.

    >>> from handful.data.open import open
    >>> open("digits").columns["image"].shape
    (1, 8, 8)
    """
    from sklearn import datasets

    data = getattr(datasets, f"load_{name}")()
    stored: dict[str, Stored] = {}
    if name == "digits":
        images = data.images.astype(np.uint8)[:, None]
        stored["image"] = Dense(np.ascontiguousarray(images), Column("image", "uint8", images.shape[1:]))
    else:
        for j, feature in enumerate(data.feature_names):
            stored[str(feature)] = Dense(np.ascontiguousarray(data.data[:, j]), Column("number", "float64"))
    if hasattr(data, "target_names"):
        classes = tuple(str(c) for c in data.target_names)
        stored["target"] = Dense(data.target.astype(np.int64), Column("category", "int64", (), classes))
    else:
        stored["target"] = Dense(data.target.astype(np.float64), Column("number", "float64"))
    notes = [f"'{name}' is the data set that scikit-learn ships, {len(data.target):,} rows."]
    o = with_target(o, list(stored), notes)
    keep = chosen(o, list(stored))
    if not [key for key in keep if key != o.target]:
        raise HandfulError(f"{o.name} has no column to learn from: name one besides the target in columns=[...].")
    return Arrays({key: stored[key] for key in keep}, o.target, name=o.name, where=o.where, notes=notes)
