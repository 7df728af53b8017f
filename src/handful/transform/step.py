"""What every preprocessing step is, the running sums steps are fitted with, and how they are written down.

A step is a frozen recipe. `fit` reads chunks of training rows once and returns a fitted copy; calling the
fitted copy transforms values. Nothing here keeps more of the data than running sums or a bounded sample.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.base import keys
from handful.base.errors import HandfulError
from handful.data.base import Batch, Column, Ragged, Source

T = TypeVar("T")
_STORED: dict[str, type] = {"Column": Column}


def stored(cls: type[T]) -> type[T]:
    """Class decorator: `pack` and `unpack` may write and rebuild this dataclass by its name."""
    _STORED[cls.__name__] = cls
    return cls


@dataclass(frozen=True, eq=False)
class Step:
    """One preprocessing step: options, and what was fitted on the training rows (None before `fit`)."""

    def fit(self, chunks: Iterable[Any]) -> Self:
        """A fitted copy. chunks: the training rows in pieces [m, ...]; one array is one piece."""
        return self

    def __call__(self, value: Any) -> Any:
        """The transformed value; rows in, rows out, each row by itself."""
        raise NotImplementedError

    def notes(self, names: list[str] | None = None) -> list[str]:
        """What the user should know about the fitted step; names: of the features."""
        return []

    def fitted(self, value: Any) -> Any:
        """`value`, or a HandfulError when the step was not fitted."""
        if value is None:
            raise HandfulError(f"{type(self).__name__} is not fitted; call fit with the training rows first.")
        return value


def pieces(chunks: Any) -> Iterator[Any]:
    """The chunks one by one; a single array, Ragged or list of strings counts as one chunk."""
    if isinstance(chunks, Tensor | np.ndarray | Ragged) or (
        isinstance(chunks, list) and chunks and isinstance(chunks[0], str | bytes)
    ):
        chunks = [chunks]
    for chunk in chunks:
        yield torch.as_tensor(chunk) if isinstance(chunk, np.ndarray) else chunk


class Moments:
    """Count, mean and sum of squared deviations per feature, in float64, chunk by chunk; NaN is missing.

    Two chunks are joined as in Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance"
    (equations 2.1): M2 = M2a + M2b + (mean_b - mean_a)^2 * na * nb / (na + nb).
    """

    def __init__(self) -> None:
        self.count = self.mean = self.m2 = torch.zeros((), dtype=torch.float64)
        self.low = torch.full((), torch.inf, dtype=torch.float64)
        self.high = -self.low

    def update(self, x: Tensor) -> None:
        """Add the rows of x [m, features...]."""
        if len(x) == 0:
            return
        x = x.to(torch.float64)  # before all else: torch would let a single mean, of shape [], be rounded to float32
        mean = x.mean(0)
        if torch.isnan(mean).any():
            missing = torch.isnan(x)
            self.low = torch.minimum(self.low, torch.where(missing, torch.inf, x).amin(0))
            self.high = torch.maximum(self.high, torch.where(missing, -torch.inf, x).amax(0))
            count = (~missing).sum(0).to(torch.float64)
            mean = x.nansum(0) / count.clamp(min=1)
            m2 = (x - mean).square_().nansum(0)
        else:
            self.low = torch.minimum(self.low, x.amin(0))
            self.high = torch.maximum(self.high, x.amax(0))
            count = torch.full(x.shape[1:], float(len(x)), dtype=torch.float64)
            m2 = (x - mean).square_().sum(0)
        if not torch.isfinite(mean).all():
            raise HandfulError("An input holds an infinite value; replace it by a number or by NaN (missing).")
        self.join(count, mean, m2)

    def join(self, count: Tensor, mean: Tensor, m2: Tensor) -> None:
        """Add a chunk of which count, mean and sum of squared deviations are known."""
        total = (self.count + count).clamp(min=1)
        delta = mean - self.mean
        self.m2 = self.m2 + m2 + delta**2 * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = self.count + count

    @property
    def std(self) -> Tensor:
        """Population standard deviation (divided by n); exactly 0 for a constant.

        A feature is constant when its variance is within rounding of 0: var <= n*eps*var + (n*mean*eps)^2
        (scikit-learn's bound, after Chan et al. 1983).
        """
        variance = self.m2 / self.count.clamp(min=1)
        eps = torch.finfo(torch.float64).eps
        bound = self.count * eps * variance + (self.count * self.mean * eps) ** 2
        constant = (variance <= bound) | (self.low >= self.high)
        return torch.where(constant, 0.0, variance).sqrt()


class Sample:
    """A uniform sample of at most `size` rows, keyed: the rows whose hashed number is smallest (bottom-k).

    Exact (all rows) while no more than `size` were seen.
    """

    def __init__(self, size: int) -> None:
        self.size, self.seen, self.rows, self.hashes = size, 0, list[Any](), list[NDArray[np.uint64]]()

    def update(self, rows: NDArray[Any]) -> None:
        """Offer rows [m, ...]."""
        ids = np.arange(self.seen, self.seen + len(rows), dtype=np.int64)
        self.seen += len(rows)
        self.rows.append(rows)
        self.hashes.append(keys.words("sample", 0, np.zeros_like(ids), ids, 1)[:, 0])
        if sum(map(len, self.hashes)) > 2 * self.size:
            self.rows, self.hashes = [self.take()], [np.sort(np.concatenate(self.hashes))[: self.size]]

    def take(self) -> NDArray[Any]:
        """The sampled rows, in order of their hashes."""
        best = np.argsort(np.concatenate(self.hashes), kind="stable")[: self.size]
        return np.asarray(np.concatenate(self.rows)[best])


def pack(value: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """`value` as JSON: dataclasses by name, tuples as lists, each Tensor as a reference into `tensors`."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().contiguous().cpu()
        return {"tensor": path}
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: pack(getattr(value, f.name), tensors, f"{path}.{f.name}".strip(".")) for f in fields(value)}
        return {"type": type(value).__name__, "fields": parts}
    if isinstance(value, dict):
        return {"dict": {k: pack(v, tensors, f"{path}.{k}".strip(".")) for k, v in value.items()}}
    if isinstance(value, tuple | list):
        return [pack(v, tensors, f"{path}.{i}".strip(".")) for i, v in enumerate(value)]
    return value


def unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `pack`: lists come back as tuples; only registered dataclasses are built."""
    if isinstance(value, list):
        return tuple(unpack(v, tensors) for v in value)
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    parts = {k: unpack(v, tensors) for k, v in (value.get("fields") or value.get("dict") or {}).items()}
    if "dict" in value:
        return parts
    if value["type"] not in _STORED:
        raise HandfulError(f"The pipeline file names an unknown part '{value['type']}'; it is damaged or newer.")
    return _STORED[value["type"]](**parts)


def chunks_of(source: Source, names: Sequence[str] | None = None, at_most: int = 1 << 22) -> Iterator[Batch]:
    """All rows of the source in order, as Batches of about `at_most` bytes (1 to 65,536 rows).

    Only the columns `names` are read where those are given."""
    some = names is not None and set(names) != set(source.columns)
    used = [source.columns[name] for name in (names or ()) if some] or list(source.columns.values())
    size = int(min(65536, max(1, at_most // max(1, sum(map(_row_bytes, used))))))
    for start in range(0, len(source), size):
        rows = np.arange(start, min(start + size, len(source)), dtype=np.int64)
        if some:
            yield Batch({name: source.read_column(name, rows) for name in names or ()}, rows)
        else:
            yield source.take(rows)


@functools.lru_cache(maxsize=64)
def code_table(
    known: tuple[str, ...], classes: tuple[str, ...], first: int, other: int, missing: int | None = None
) -> Tensor:
    """Ids by code, int64 [len(classes) + 1].

    For each of `classes` its place in `known` plus `first`, or `other` where it is not there; the last entry,
    which the code -1 (missing) picks, is `missing`, by default `other`, too."""
    ids = {name: i + first for i, name in enumerate(known)}
    last = other if missing is None else missing
    return torch.tensor([*(ids.get(name, other) for name in classes), last], dtype=torch.int64)


def _row_bytes(column: Column) -> int:
    if column.kind == "audio":
        return 20 * (column.rate or 16000)
    if column.dtype == "bytes":
        return 200_000
    if column.kind in ("text", "tokens") or None in column.shape:
        return 2_000
    itemsize = 8 if column.dtype in ("str", "bfloat16") else np.dtype(column.dtype).itemsize
    return int(itemsize * np.prod([s or 1 for s in column.shape], dtype=np.int64))
