"""What steps are fitted with: running sums per feature, and a bounded keyed sample of rows; and how they scale."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.base import keys
from handful.base.errors import HandfulError

S = TypeVar("S", bound=np.generic)
EXACT = 20_000_000  # values kept for quantiles; beyond, a keyed uniform sample of the rows
SMALLEST = torch.finfo(torch.float64).smallest_normal ** 0.5  # whose square is a number


class Moments:
    """Count, mean and sum of squared deviations per feature, in float64, chunk by chunk; gaps: how many are NaN.

    Two chunks are joined as in Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance"
    (equations 2.1): M2 = M2a + M2b + (mean_b - mean_a)^2 * na * nb / (na + nb).
    """

    def __init__(self, chunks: Iterable[Tensor] = ()) -> None:
        self.count = self.mean = self.m2 = torch.zeros((), dtype=torch.float64)
        self.low = torch.full((), torch.inf, dtype=torch.float64)
        self.high, self.gaps = -self.low, 0
        for chunk in chunks:
            self.update(chunk)

    def update(self, x: Tensor) -> None:
        """Add the rows of x [m, features...]."""
        if len(x) == 0:
            return
        x = x.to(torch.float64)  # before all else: torch would let a single mean, of shape [], be rounded to float32
        mean = x.mean(0)
        if torch.isnan(mean).any():
            missing = torch.isnan(x)
            low, high = torch.where(missing, torch.inf, x), torch.where(missing, -torch.inf, x)
            count = (~missing).sum(0).to(torch.float64)
            self.gaps += int(missing.sum())
            mean = x.nansum(0) / count.clamp(min=1)
            m2 = (x - mean).square_().nansum(0)
        else:
            low = high = x
            count = torch.full(x.shape[1:], float(len(x)), dtype=torch.float64)
            m2 = (x - mean).square_().sum(0)
        if not torch.isfinite(mean).all():
            raise HandfulError("an input holds an infinite value; replace it by a number or by NaN (missing)")
        self.join(count, mean, m2, low.amin(0), high.amax(0))

    def join(self, count: Tensor, mean: Tensor, m2: Tensor, low: Tensor, high: Tensor) -> None:
        """Add a chunk of which count, mean, sum of squared deviations, minimum and maximum are known."""
        total = (self.count + count).clamp(min=1)
        delta = mean - self.mean
        self.m2 = self.m2 + m2 + delta**2 * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = self.count + count
        self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)

    @property
    def std(self) -> Tensor:
        """Population standard deviation (divided by n); exactly 0 for a constant.

        A feature is constant when its variance is within rounding of 0: var <= n*eps*var + (n*mean*eps)^2
        (scikit-learn's bound, after Chan et al. 1983). Raises HandfulError where squares leave what float64 can hold.
        """
        variance = self.m2 / self.count.clamp(min=1)
        if not torch.isfinite(variance).all() or ((self.high > self.low) & (self.high - self.low < SMALLEST)).any():
            raise HandfulError(
                "a column holds numbers so large, or so close together (1e154, 1e-154), that their squares are no "
                "float64: give it in another unit"
            )
        eps = torch.finfo(torch.float64).eps
        bound = self.count * eps * variance + (self.count * self.mean * eps) ** 2
        constant = (variance <= bound) | (self.low >= self.high)
        return torch.where(constant, 0.0, variance).sqrt()


@dataclass(eq=False)
class Sample(Generic[S]):
    """A uniform sample of at most `size` rows, keyed: the rows whose hashed number is smallest (bottom-k).

    Exact (all rows) while no more than `size` were seen.
    """

    size: int
    seen: int = 0
    rows: list[NDArray[S]] = field(default_factory=list)
    hashes: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))  # of the first rows

    def update(self, rows: NDArray[S]) -> None:
        """Offer rows [m, ...]."""
        self.seen += len(rows)
        self.rows.append(rows)
        if sum(map(len, self.rows)) > 2 * self.size:
            self.take()

    def take(self) -> NDArray[S]:
        """The sampled rows; where that are not all, in order of their hashes."""
        rows = np.concatenate(self.rows)
        if self.seen <= self.size:
            return rows
        new = np.arange(self.seen - len(rows) + len(self.hashes), self.seen, dtype=np.int64)
        hashes = np.concatenate([self.hashes, keys.words("sample", 0, np.zeros_like(new), new, 1)[:, 0]])
        best = np.argsort(hashes, kind="stable")[: self.size]
        self.rows, self.hashes = [rows[best]], hashes[best]
        return self.rows[0]


def known_values(chunks: Iterable[Tensor]) -> tuple[list[NDArray[np.float64]], NDArray[np.bool_]]:
    """The values of each feature of rows [m, features] that are not NaN, and which features have NaN.

    The values are all up to 20 million (rows x features), and beyond those of a uniform keyed sample of rows.
    """
    sample: Sample[np.float64] | None = None
    missing = np.zeros(0, dtype=np.bool_)
    for chunk in chunks:
        rows = chunk.to(torch.float64).numpy()
        if sample is None:
            width = rows.shape[1]
            sample, missing = Sample(max(10_000, EXACT // max(1, width))), np.zeros(width, dtype=np.bool_)
        sample.update(rows)
        missing |= np.isnan(rows).any(0)
    return [column[~np.isnan(column)] for column in sample.take().T] if sample else [], missing


class Scaling:
    """(x - shift) * scale: float64 for a float64 x, else float32.

    Where the shift is large against the spread (a year, a time stamp), float32 would lose digits in the
    subtraction: it is then made in float64. Integers wider than 16 bits do not fit float32 either.
    """

    def __init__(self, shift: Tensor, scale: Tensor) -> None:
        self.shift, self.scale = shift, scale
        self.wide = bool(((shift * scale).abs() > 8).any())

    def __call__(self, x: Tensor) -> Tensor:
        result = torch.float64 if x.dtype == torch.float64 else torch.float32
        work = torch.float64 if self.wide or x.dtype in (torch.int64, torch.int32) else result
        shift, scale = (t.to(device=x.device, dtype=work) for t in (self.shift, self.scale))
        return (x.to(work) - shift).mul_(scale).to(result)


def inverse(x: Tensor) -> Tensor:
    """1/x, and 0 where x is 0."""
    return torch.where(x > 0, 1.0 / torch.where(x > 0, x, 1.0), 0.0)


def leave_one_out(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Ridge regression with an intercept on every row but one, for each row, in closed form: (the penalty, of a grid,
    at which the left-out rows are missed by least; by how much of what the mean of the others misses them by).

    x: [n, F], centred here; y: [n, K]. sum((y - x w)^2) + penalty |w|^2 is minimised (Allen 1974: PRESS).

    >>> x = torch.arange(6.0)[:, None]
    >>> leave_one_out(x, 2 * x)[1] < 1e-6, leave_one_out(x, torch.tensor([[1.0], [-1.0]] * 3))[1] > 0.9
    (True, True)
    """
    x, y = (value.to(torch.float64) - value.to(torch.float64).mean(0) for value in (x, y))
    values, vectors = torch.linalg.eigh(x @ x.T)
    values, squares, along, n = values.clamp_min(0.0), vectors.square(), vectors.T @ y, len(x)
    found = []
    for penalty in torch.logspace(-3, 5, 33, dtype=torch.float64).tolist():
        kept = values / (values + penalty)
        missed = y - vectors @ (kept[:, None] * along)
        left_out = missed / (1 - 1 / n - squares @ kept).clamp_min(1e-12)[:, None]
        found.append((float(left_out.square().mean()), penalty))
    least, penalty = min(found)
    return penalty, least / max(float((y * n / (n - 1)).square().mean()), 1e-300)
