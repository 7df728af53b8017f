"""How much the gradient of a mini-batch varies, measured against its size: the 1/B law on real data.

Draw mini-batches of B of the N rows without replacement. With G the gradient of all rows and tr(Sigma) the mean of
|g_i - G|^2 over the rows,

    mean |g_B - G|^2  =  tr(Sigma) / B * (1 - (B - 1) / (N - 1))

(the variance of a sample mean with the finite-population correction, Cochran 1977, "Sampling Techniques", equation
2.8, summed over the parameters). The correction is what makes a batch of all rows exact.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.base.errors import HandfulError
from handful.base.keys import key
from handful.base.machine import wide
from handful.batches.batches import Batches
from handful.batches.order import Order
from handful.data.base import Batch
from handful.plan.probe.noise_scale import student
from handful.training.objective import Objective
from handful.transform.pipeline import Pipeline

LEAST_ROWS = 4  # with fewer it says nothing
POPULATION = 2048  # rows that the law is measured on: enough for three decades of B, and cheap
LEAST, MOST = 64, 256  # mini-batches drawn of each size; of single rows four times as many, as the law starts there
FEWEST = 128  # rows that it is measured on where time is short
HURRIED = 8  # drawn of each size where time is short
CLOUD = 64  # gradients of each size that the picture shows
FEW = 16  # single rows whose differences give the picture its second direction


@dataclass(frozen=True)
class Point:
    """The measured variance for one batch size.

    variance: mean of |g_B - G|^2 over `draws` mini-batches, with its standard error; correction: 1 - (B-1)/(N-1)
    """

    batch: int
    variance: float
    error: float
    draws: int
    correction: float


@dataclass(frozen=True)
class GradientVariance:
    """The points at one state of the model, and the slope of log variance against log batch size.

    rows: N; gradient: |G|^2; slope and its 95% interval (low, high): of the variances divided by their
    finite-population correction, which the law says is -1. clouds: some gradients of each size, as their parts along G
    and along the direction in which single rows differ most besides, both in units of |G|: G itself is (1, 0)
    """

    state: str
    rows: int
    gradient: float
    points: tuple[Point, ...]
    slope: float
    low: float
    high: float
    clouds: dict[int, list[tuple[float, float]]] = field(default_factory=dict)

    @property
    def trace(self) -> float:
        """tr(Sigma): the variance of a batch of one row."""
        return self.points[0].variance

    def predicted(self, batch: float, *, corrected: bool = True) -> float:
        """The law's variance for a batch size, from the measured variance of single rows alone."""
        correction = 1 - (batch - 1) / (self.rows - 1) if corrected else 1.0
        return self.trace / batch * correction


def gradient_variance(
    objective: Objective, batches: Batches, *, sizes: Sequence[int] = (), seed: int = 0, state: str = "",
    seconds: float = math.inf,
) -> GradientVariance:  # fmt: skip
    """Measure the variance of mini-batch gradients at the model's present weights, which are left as they are.

    Sizes are the powers of two up to half the rows, and `sizes` where they are smaller than all rows. Mini-batches
    are drawn by `Order`, and never span two epochs, so that each is a uniform subset. Of more than 2,048 rows, a
    fixed random sample of that many stands for all. Augmentation is off and the model is in evaluation mode: what
    varies is the rows alone. seconds: of each size fewer mini-batches are drawn, at least 8, if all take longer; of
    fewer rows, at least 128, where these would.
    Raises HandfulError for fewer than 4 rows.
    """
    rows = plain_rows(batches, seed, POPULATION)
    if len(rows.source) < LEAST_ROWS:
        raise HandfulError(
            f"{len(rows.source)} training rows are too few to measure how their gradients vary; it takes {LEAST_ROWS}"
        )
    if math.isfinite(seconds):
        began, first = time.perf_counter(), next(iter(rows.epoch(512)))
        _gradient(objective, first)
        each = (time.perf_counter() - began) / len(first)
        rows = plain_rows(batches, seed, min(len(rows.source), max(FEWEST, round(seconds / each / (2 * HURRIED + 1)))))
    n = len(rows.source)
    wanted = sorted({2**k for k in range(int(math.log2(n / 2)) + 1)} | {s for s in sizes if 1 <= s < n})
    was_training = objective.model.training
    objective.model.eval()
    try:
        sums, weights = zip(*(_gradient(objective, batch, mean=False) for batch in rows.epoch(512)), strict=True)
        whole = torch.stack(sums).sum(0) / sum(weights)
        plane, each = _plane(objective, rows, whole, seed), seconds / len(wanted)
        measured = {size: _measure(objective, rows, whole, plane, size, seed, each) for size in wanted}
    finally:
        objective.model.train(was_training)
    points = tuple(point for point, _ in measured.values())
    clouds = {size: cloud for size, (_, cloud) in measured.items()}
    return GradientVariance(state, n, float(whole.square().sum()), points, *fit_slope(points), clouds)


def plain_rows(batches: Batches, seed: int, most: int) -> Batches:
    """The rows as the model takes them, without augmentation; a fixed random sample of `most` where there are more."""
    source = batches.source
    if len(source) > most:
        sample = Order(len(source), seed=key("sample of rows", seed) >> 1)[0:most]
        source = source.subset(np.sort(sample))
    kept = [t for t in batches.transforms if isinstance(t, Pipeline)]
    return Batches(source, Order(len(source), shuffle="none"), kept, prefetch=0)


def fit_slope(points: Sequence[Point]) -> tuple[float, float, float]:
    """(slope, low, high): weighted least squares of log(variance / correction) on log(batch), 95% interval.

    Weights are the inverse squared standard errors of the logarithms; the interval is widened by Birge's ratio where
    the points scatter more than those say (Birge 1932, Physical Review 40).

    >>> law = [Point(b, 8.0 / b, 0.1 / b, 64, 1.0) for b in (1, 2, 4, 8)]
    >>> round(fit_slope(law)[0], 6)
    -1.0
    """
    good = [p for p in points if p.variance > 0 and p.correction > 0]
    if len(good) < 3:
        return math.nan, -math.inf, math.inf
    x = np.log([p.batch for p in good])
    y = np.log([p.variance / p.correction for p in good])
    error = np.maximum([p.error / p.variance for p in good], 0.005)  # no point is worth more than half a per cent
    line, covariance = np.polyfit(x, y, 1, w=1 / error, cov="unscaled")
    freedom, slope = len(good) - 2, float(line[0])
    birge = max(1.0, float((((y - np.polyval(line, x)) / error) ** 2).sum()) / freedom)
    half = student(freedom, 0.975) * math.sqrt(birge * covariance[0, 0])
    return slope, slope - half, slope + half


def _measure(
    objective: Objective, rows: Batches, whole: Tensor, plane: Tensor, size: int, seed: int, seconds: float
) -> tuple[Point, list[tuple[float, float]]]:
    """The variance of mini-batches of `size` rows, and some of their gradients in the plane [p, 2]."""
    n, until, unit = len(rows.source), time.perf_counter() + seconds, max(float(whole.norm()), 1e-300)
    found: list[float] = []
    cloud: list[tuple[float, float]] = []
    for batch in _draws(rows, size, seed):
        away = _gradient(objective, batch)[0] - whole
        found.append(float(away.square().sum()))
        if len(cloud) < CLOUD:
            along, across = (away @ plane / unit).tolist()
            cloud.append((1 + along, across))
        if len(found) >= HURRIED and time.perf_counter() > until:
            break
    squares = np.array(found)
    seen = min(1.0, len(squares) / n) if size == 1 else 0.0  # of single rows: nothing is left to chance once all are
    error = float(squares.std(ddof=1)) / math.sqrt(len(squares)) * math.sqrt(1 - seen)
    return Point(size, float(squares.mean()), error, len(squares), 1 - (size - 1) / (n - 1)), cloud


def _plane(objective: Objective, rows: Batches, whole: Tensor, seed: int) -> Tensor:
    """Directions [p, 2]: of the full gradient, and of most variance among a few single rows besides."""
    along = whole / whole.norm().clamp_min(1e-300)
    few = torch.stack([_gradient(objective, b)[0] for b, _ in zip(_draws(rows, 1, seed + 1), range(FEW))]) - whole
    few -= torch.outer(few @ along, along)
    across = few.T @ torch.linalg.eigh(few @ few.T)[1][:, -1]
    return torch.stack([along, across / across.norm().clamp_min(1e-300)], 1)


def _draws(rows: Batches, size: int, seed: int) -> Iterator[Batch]:
    """Mini-batches of `size` rows, those of one epoch disjoint; another shuffle for every size."""
    n = len(rows.source)
    order = Order(n, seed=key("gradient variance", seed, size) >> 1)
    drawn = Batches(rows.source, order, rows.transforms, prefetch=0)
    each = n // size
    for k in range(min(max(each, LEAST), 4 * MOST if size == 1 else MOST)):
        yield drawn.at(k // each * n + k % each * size, size)


def _gradient(objective: Objective, batch: Batch, *, mean: bool = True) -> tuple[Tensor, float]:
    """The gradient of the rows' mean loss (or its sum) as one vector, float64 [p], and their weight."""
    sums = objective.sums(objective.to_device(batch), metrics=False)
    loss = sums.loss / sums.weight.to(sums.loss.dtype) if mean else sums.loss
    parameters = [p for p in objective.model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    parts = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found)]
    return torch.cat([wide(part.reshape(-1)) for part in parts]), float(sums.weight)


def grid(points: Sequence[Point], rows: int) -> NDArray[np.float64]:
    """Batch sizes at which to draw the law: dense, up to just short of all rows, where the variance ends at zero."""
    last = max(p.batch for p in points)
    return np.unique(np.r_[np.geomspace(1, last, 40), np.geomspace(last, 0.98 * rows, 20)])
