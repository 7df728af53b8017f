"""Steps that bring the numbers of a table into a form that a network reads well: long tails, times of day."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.transform.numbers import EXACT, some
from handful.transform.step import Sample, Step, pieces, stored

_DAY = 86_400.0
_CYCLES = {"day": _DAY, "week": 7 * _DAY, "year": 365.2425 * _DAY}  # seconds


@stored
@dataclass(frozen=True, eq=False)
class Untail(Step):
    """arcsinh((x - median) / spread) of the features with a long tail (incomes, counts, sizes); others as they are.

    spread: the interquartile range / 1.349, a normal feature's standard deviation; where half of the values are one
    value, the median distance of the others from it. A tail is long where 1% of the rows, or more, lie beyond `far`
    spreads (normal: 2.6, exponential: 5). Near the median arcsinh is the line, far out the logarithm (Johnson 1949).
    Values [m, features]; float64 stays float64, all else gives float32; NaN stays NaN. The quantiles are exact up to 20
    million values, of a uniform keyed sample of rows beyond.

    >>> x = torch.tensor([[float(2**k), float(k)] for k in range(12)])
    >>> step = Untail().fit([x])
    >>> step.long.tolist(), (step(x)[:, 1] == x[:, 1]).all().item()
    ([0], True)
    """

    far: float = 4.0
    long: Tensor | None = None  # int64: the features with a long tail, and of each
    median: Tensor | None = None  # float64
    spread: Tensor | None = None  # float64

    def fit(self, chunks: Iterable[Any]) -> Self:
        sample: Sample | None = None
        for chunk in pieces(chunks):
            sample = sample or Sample(max(10_000, EXACT // max(1, chunk.shape[1])))
            sample.update(chunk.to(torch.float64).numpy())
        found = [_tail(column[~np.isnan(column)], self.far) for column in sample.take().T] if sample else []
        long = [k for k, tail in enumerate(found) if tail is not None]
        told = torch.tensor([tail for tail in found if tail is not None], dtype=torch.float64).reshape(-1, 2)
        return replace(self, long=torch.tensor(long, dtype=torch.int64), median=told[:, 0], spread=told[:, 1])

    @property
    def idle(self) -> bool:
        """Whether it changes nothing."""
        return len(self.fitted(self.long)) == 0

    def __call__(self, value: Tensor) -> Tensor:
        x = value.to(torch.float64)
        at = self.fitted(self.long).to(x.device)
        if not len(at):
            return value
        median, spread = self.fitted(self.median).to(x.device), self.fitted(self.spread).to(x.device)
        x = x.index_copy(1, at, torch.asinh((x[:, at] - median) / spread))
        return x if value.dtype == torch.float64 else x.to(torch.float32)

    def notes(self, names: list[str] | None = None) -> list[str]:
        which = self.fitted(self.long).tolist()
        if not which:
            return []
        return [f"Long tails are drawn in (logarithmic far from the median, arcsinh): {some(which, names)}."]


def _tail(x: NDArray[np.float64], far: float) -> tuple[float, float] | None:
    """Median and spread of a feature with a long tail; None for another."""
    if len(x) < 10:
        return None
    low, median, high = np.quantile(x, [0.25, 0.5, 0.75])
    off = np.abs(x - median)
    spread = (high - low) / 1.349 or float(np.median(off[off > 0]) if (off > 0).any() else 0.0)
    long = spread > 0 and len(np.unique(x)) > 2 and np.quantile(off, 0.99) > far * spread
    return (float(median), float(spread)) if long else None


@stored
@dataclass(frozen=True, eq=False)
class Clock(Step):
    """Adds where in the day, the week and the year a time is: sine and cosine of each, behind the features.

    Which features are times is found from their values, as `handful.open` reads times as seconds since 1970: whole or
    not, all between 1990 and 2100, over two days or more, and a cycle only where they span two of it. Values [m,
    features] float64; the result has 2 more features a cycle. UTC.

    >>> hours = 1.7e9 + 3600 * torch.arange(0, 96, dtype=torch.float64)[:, None]
    >>> step = Clock().fit([hours])
    >>> step(hours).shape, step.times
    (torch.Size([96, 3]), ((0, 'day'),))
    """

    times: tuple[tuple[int, str], ...] | None = None

    def fit(self, chunks: Iterable[Any]) -> Self:
        low = high = torch.zeros(0)
        for chunk in pieces(chunks):
            x = chunk.to(torch.float64)
            a, b = (torch.where(torch.isnan(x), fill, x) for fill in (torch.inf, -torch.inf))
            low = torch.minimum(low, a.amin(0)) if len(low) else a.amin(0)
            high = torch.maximum(high, b.amax(0)) if len(high) else b.amax(0)
        found = []
        for k, (first, last) in enumerate(zip(low.tolist(), high.tolist())):
            if 6.3e8 <= first <= last <= 4.1e9:  # 1990 to 2100
                found += [(k, name) for name, length in _CYCLES.items() if last - first >= 2 * length]
        return replace(self, times=tuple(found))

    @property
    def idle(self) -> bool:
        """Whether it changes nothing."""
        return not self.fitted(self.times)

    def __call__(self, value: Tensor) -> Tensor:
        x = value.to(torch.float64)
        added = []
        for k, name in self.fitted(self.times):
            angle = x[:, k] % _CYCLES[name] * (2 * math.pi / _CYCLES[name])
            added += [angle.sin(), angle.cos()]
        return torch.cat([x, torch.stack(added, 1)], dim=1) if added else value

    def notes(self, names: list[str] | None = None) -> list[str]:
        held: dict[int, list[str]] = {}
        for k, name in self.fitted(self.times):
            held.setdefault(k, []).append(name)
        return [
            f"{some([k], names)} holds seconds since 1970: the place in the {' and the '.join(cycles)} is added."
            for k, cycles in held.items()
        ]
