"""Steps that bring the numbers of a table into a form that a network reads well: long tails, times of day."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.data.tables.cells.dates import TIME_OF_DAY
from handful.transform.steps.statistics import Moments, known_values
from handful.transform.steps.step import Names, Step, listed

_DAY = 86_400.0
STRAIGHTER = 0.1  # of the target's variance, below which it may be chance that a number tells more as it is
_CYCLES = {"day": _DAY, "week": 7 * _DAY, "year": 365.2425 * _DAY}  # seconds


@dataclass(frozen=True, eq=False)
class RobustAsinh(Step[Tensor]):
    """arcsinh((x - median) / spread) of the features with a long tail (incomes, counts, sizes); others as they are.

    spread: the interquartile range / 1.349, a normal feature's standard deviation; where half of the values are one
    value, the median distance of the others from it. A tail is long where 1% of the rows, or more, lie beyond `far`
    spreads (normal: 2.6, exponential: 5). Near the median arcsinh is the line, far out the logarithm (Johnson 1949).
    Values [m, features]; float64 stays float64, all else gives float32; NaN stays NaN. The quantiles are exact up to 20
    million values, of a uniform keyed sample of rows beyond. beside: all features stay as they are, and the compressed
    ones follow: for a single layer, which could not find again what was in proportion to the numbers as they were.
    kept: features that stay as they are (see `in_proportion`).

    >>> x = torch.tensor([[float(2**k), float(k)] for k in range(12)])
    >>> step = RobustAsinh().fit([x])
    >>> step.long.tolist(), (step(x)[:, 1] == x[:, 1]).all().item()
    ([0], True)
    """

    keeps_missing: ClassVar[bool] = True
    far: float = 4.0
    beside: bool = False
    kept: tuple[int, ...] = ()
    long: Tensor | None = None  # int64: the features with a long tail, and of each
    median: Tensor | None = None  # float64
    spread: Tensor | None = None  # float64

    def learn(self, chunks: Iterator[Tensor]) -> Self:
        features = [(k, x) for k, x in enumerate(known_values(chunks)[0]) if k not in self.kept]
        found = {k: tail for k, x in features if (tail := _tail(x, self.far))}
        median, spread = (torch.tensor([tail[k] for tail in found.values()], dtype=torch.float64) for k in (0, 1))
        return replace(self, long=torch.tensor([*found], dtype=torch.int64), median=median, spread=spread)

    @property
    def idle(self) -> bool:
        return len(self.fitted(self.long)) == 0

    def __call__(self, value: Tensor) -> Tensor:
        if self.idle:
            return value
        x = value.to(torch.float64)
        at, median, spread = (self.fitted(t).to(x.device) for t in (self.long, self.median, self.spread))
        small = torch.asinh((x[:, at] - median) / spread)
        x = torch.cat([x, small], dim=1) if self.beside else x.index_copy(1, at, small)
        return x if value.dtype == torch.float64 else x.to(torch.float32)

    def notes(self, names: Names = None) -> list[str]:
        which = listed(self.fitted(self.long).tolist(), names)
        kept = ", beside the numbers as they are, for a single layer" if self.beside else ""
        said = f"Long tails are compressed (arcsinh: logarithmic far from the median){kept}: {which}."
        straight = "Long tails stay as they are where the target is in proportion to the numbers themselves: "
        return ([said] if which else []) + ([f"{straight}{listed(self.kept, names)}."] if self.kept else [])


def in_proportion(x: NDArray[np.float64], y: NDArray[np.float64], far: float = RobustAsinh.far) -> tuple[int, ...]:
    """The features of x [m, F] with a long tail that tell more of y [m] as they are than compressed, as parts do of a
    total: a straight line through them leaves a tenth of its variance less, or half as much of it, also without the row
    that is farthest out. Missing values count as the median.

    >>> part = np.exp(2 * np.random.default_rng(0).normal(size=(500, 2)))
    >>> in_proportion(part, part[:, 0] + np.log(part[:, 1]))
    (0,)
    """
    found, there = list[int](), np.isfinite(y)
    y = y[there]
    for k, values in enumerate(x[there].T):
        known = np.isfinite(values)
        if tail := _tail(values[known], far):
            off = np.where(known, (values - tail[0]) / tail[1], 0.0)
            near = np.abs(off) < np.abs(off).max()
            told = [(_told(off[m], y[m]), _told(np.arcsinh(off[m]), y[m])) for m in (np.full(len(y), True), near)]
            more = all(a - b > STRAIGHTER for a, b in told) or all(1 - a < (1 - b) / 2 for a, b in told)
            found += [k] if more else []
    return tuple(found)


def _told(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The share of the variance of y [m] that a straight line through x [m] tells."""
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) ** 2) / max(float((x @ x) * (y @ y)), float(np.finfo(np.float64).tiny))


def _tail(x: NDArray[np.float64], far: float) -> tuple[float, float] | None:
    """Median and spread of a feature with a long tail; None for another."""
    if len(x) < 10:
        return None
    low, median, high = np.quantile(x, [0.25, 0.5, 0.75])
    off = np.abs(x - median)
    spread = (high - low) / 1.349 or float(np.median(off[off > 0]) if (off > 0).any() else 0.0)
    beyond = spread > 0 and off.max() > far * spread  # else 1% of the rows are not
    long = beyond and np.quantile(off, 0.99) > far * spread and len(np.unique(x)) > 2
    return (float(median), float(spread)) if long else None


@dataclass(frozen=True, eq=False)
class ScaleNonzero(Step[Tensor]):
    """For matrices of mostly zeros (words of texts, categories written out): divided so that what is not 0 is about 1
    in size, and zeros stay 0.

    All features are divided by one number, the median of their sizes, as what they differ by may be meant (the weights
    of TF-IDF); one that is more than `far` times as large or as small by its own size. The size of a feature is the
    root mean square of its values that are not 0. Values [m, features]; the result is float32, or float64 for float64.

    >>> x = torch.tensor([[0.0, 0.5, 2000.0], [0.5, 0.0, 4000.0], [0.0, 0.0, 0.0]])
    >>> ScaleNonzero().fit([x])(x)[:2].tolist()
    [[0.0, 1.0, 0.632...], [1.0, 0.0, 1.264...]]
    """

    far: float = 10.0
    size: Tensor | None = None  # float64 [features]

    def learn(self, chunks: Iterator[Tensor]) -> Self:
        squares = count = torch.zeros((), dtype=torch.float64)
        for chunk in chunks:
            x = chunk.to(torch.float64)
            squares, count = squares + x.square().sum(0), count + (x != 0).sum(0)
        own = (squares / count.clamp(min=1)).sqrt()
        usual = own[own > 0].median() if (own > 0).any() else torch.ones((), dtype=torch.float64)
        apart = (own > self.far * usual) | ((own < usual / self.far) & (own > 0))
        return replace(self, size=torch.where(apart, own, usual))

    def __call__(self, value: Tensor) -> Tensor:
        x = value if value.is_floating_point() else value.to(torch.float32)
        return x / self.fitted(self.size).to(x)

    def notes(self, names: Names = None) -> list[str]:
        size = self.fitted(self.size)
        usual = size.median()
        apart = (size != usual).nonzero().flatten().tolist()
        found = [f"Sparse numbers are divided by {usual:.3g}, the usual size of those that are not 0; zeros stay 0."]
        return found + ([f"Divided by a size of their own: features {listed(apart, names)}."] if apart else [])


@dataclass(frozen=True, eq=False)
class CyclicTime(Step[Tensor]):
    """Adds where in the day, the week and the year a time is: sine and cosine of each, behind the features.

    known: (feature, how it is written) of the columns that are dates or times of day; a time of day has its place in
    the day alone. Which others are times is found from their values: whole or not, all between 1990 and 2100. A cycle
    counts only where they span two of it, and the day only where some are not at midnight. Values [m, features]
    float64; the result has 2 more features per cycle. UTC.

    >>> hours = 1.7e9 + 3600 * torch.arange(0, 96, dtype=torch.float64)[:, None]
    >>> step = CyclicTime().fit([hours])
    >>> step(hours).shape, step.times
    (torch.Size([96, 3]), ((0, 'day'),))
    """

    keeps_missing: ClassVar[bool] = True
    known: tuple[tuple[int, str], ...] = ()
    times: tuple[tuple[int, str], ...] | None = None

    def learn(self, chunks: Iterator[Tensor]) -> Self:
        moments, hours = Moments(), torch.zeros(1, dtype=torch.bool)  # which features are not always at midnight
        for x in chunks:
            moments.update(x)
            hours = hours | (x % _DAY > 0).reshape(len(x), -1).any(dim=0)
        found, written = [], dict(self.known)
        for k, (first, last) in enumerate(zip(moments.low.reshape(-1).tolist(), moments.high.reshape(-1).tolist())):
            if written.get(k) == TIME_OF_DAY:
                found.append((k, "day"))
            elif (k in written and first < last) or 6.3e8 <= first <= last <= 4.1e9:  # 1990 to 2100
                cycles = [name for name, length in _CYCLES.items() if last - first >= 2 * length]
                found += [(k, name) for name in cycles if name != "day" or hours[k]]
        return replace(self, times=tuple(found))

    @property
    def idle(self) -> bool:
        return not self.fitted(self.times)

    def __call__(self, value: Tensor) -> Tensor:
        if self.idle:
            return value
        x = value.to(torch.float64)
        angles = [x[:, k] % _CYCLES[name] * (2 * math.pi / _CYCLES[name]) for k, name in self.fitted(self.times)]
        return torch.cat([x, torch.stack([wave for a in angles for wave in (a.sin(), a.cos())], 1)], dim=1)

    def notes(self, names: Names = None) -> list[str]:
        cycles: dict[int, list[str]] = {}
        for k, name in self.fitted(self.times):
            cycles.setdefault(k, []).append(name)
        clocks = {k for k, way in self.known if way == TIME_OF_DAY}
        return [
            f"{listed([k], names)} holds seconds since {'midnight' if k in clocks else '1970'}: the place in the "
            f"{' and the '.join(held)} is added."
            for k, held in cycles.items()
        ]
