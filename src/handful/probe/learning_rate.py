"""The learning rate: a range test in log(lr) (Smith 2017, arXiv:1506.01186), repeated, then short branches.

The range test raises the rate geometrically, one step at each rate, and looks where the loss is lowest. All is done
in log(lr): differences with respect to lr itself are largest at the smallest rates whatever the loss does, and a
finder that uses them answers with noise. Its answer is only where to look: short runs from one state over the same
examples decide, each with its rate falling to zero, because at a constant rate a short run flatters small ones
(Wu et al. 2018, arXiv:1803.02021).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handful.plan import Progress
from handful.probe.snapshot import untouched
from handful.probe.trial import FAILED, loss_on, step, train
from handful.source.base import Batch
from handful.step import NonFiniteLoss, OutOfMemory
from handful.training import Training

WIDTH = 0.5  # of the smoothing, in natural logs of lr: about a quarter of a decade
BELOW = 4.0  # branches begin at the rate of the lowest loss divided by this


@dataclass(frozen=True)
class RangeTest:
    """lr [k], loss [repeats, k] (infinite after a repeat broke off), smooth [k]; minimum: the rate of the lowest
    smoothed loss, or None if the loss never fell by more than its noise; low, high: over the repeats one at a time.
    """

    lr: tuple[float, ...]
    loss: tuple[tuple[float, ...], ...]
    smooth: tuple[float, ...]
    minimum: float | None
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Branch:
    """A short run at one learning rate: the loss after it on rows it did not train on, one a repeat."""

    lr: float
    losses: tuple[float, ...]

    @property
    def loss(self) -> float:
        return float(np.mean(self.losses))


def read_range(lr: ArrayLike, losses: ArrayLike) -> RangeTest:
    """Where the loss of a range test is lowest: lr [k] rising, losses [repeats, k].

    The repeats' median is smoothed by a local line in log(lr) with a Gaussian weight; the answer is the lowest point,
    refined by a parabola through its neighbours. None if the fall from the first tenth to the lowest point is
    within four standard errors of the smoothed curve (it is the lowest of many points).

    >>> x = np.geomspace(1e-6, 10, 100)
    >>> round(read_range(x, [(np.log10(x) + 1) ** 2]).minimum, 2)     # lowest at 0.1
    0.1
    """
    x = np.log(np.asarray(lr, dtype=np.float64))
    y = np.atleast_2d(np.asarray(losses, dtype=np.float64))
    weight = _local_quadratic(x)
    smooth, error = _smooth(weight, np.median(y, axis=0))
    found = _lowest(x, smooth, error)
    each = [m for row in y if (m := _lowest(x, *_smooth(weight, row))) is not None]
    low, high = (min(each), max(each)) if found is not None and each else (math.nan, math.nan)
    return RangeTest(tuple(np.exp(x)), tuple(map(tuple, y)), tuple(smooth), found, low, high)


def _local_quadratic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The matrix [k, k] that takes values at x to their local quadratic fit (Cleveland 1979), Gaussian weights."""
    width = max(WIDTH, 2.5 * float(np.median(np.diff(x))))
    apart = x[None, :] - x[:, None]
    weight = np.exp(-0.5 * (apart / width) ** 2)
    basis = np.stack([np.ones_like(apart), apart, apart**2], axis=2)
    weighted = basis * weight[:, :, None]
    solved = np.linalg.solve(np.einsum("ikp,ikq->ipq", weighted, basis), weighted.transpose(0, 2, 1))
    first: NDArray[np.float64] = solved[:, 0, :]
    return first


def _smooth(weight: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The local quadratic and its standard error. Losses are capped at twice the fall above the first ones, so that
    one exploded step does not bend the curve below it; infinities lie at the cap."""
    finite = y[np.isfinite(y)]
    if len(finite) < 5:
        return np.full(len(y), math.inf), np.full(len(y), math.inf)
    start, best = float(np.median(finite[: max(3, len(finite) // 10)])), float(np.quantile(finite, 0.02))
    cap = start + max(start - best, 1e-12)
    y = np.where(np.isfinite(y), np.minimum(y, cap), cap)
    steps = np.diff(y)
    noise = 1.4826 * float(np.median(np.abs(steps - np.median(steps)))) / math.sqrt(2)
    return weight @ y, noise * np.sqrt((weight**2).sum(1))


def _lowest(x: NDArray[np.float64], smooth: NDArray[np.float64], error: NDArray[np.float64]) -> float | None:
    i = int(np.argmin(smooth))
    tenth = max(3, len(x) // 10)
    start = float(np.mean(smooth[:tenth]))
    if (
        i < tenth
        or not np.isfinite(smooth[i])
        or start - smooth[i] <= 4 * float(np.hypot(error[i], error[:tenth].mean()))
    ):
        return None
    if 0 < i < len(x) - 1:  # the vertex of the parabola through three points
        left, here, right = smooth[i - 1 : i + 2]
        curve = left - 2 * here + right
        shift = 0.5 * (left - right) / curve if curve > 0 else 0.0
        return float(np.exp(x[i] + float(np.clip(shift, -0.5, 0.5)) * (x[1] - x[0])))
    return float(np.exp(x[i]))


def range_test(
    t: Training, *, size: int, steps: int = 60, repeats: int = 3, low: float = 1e-3, high: float = 1e3
) -> RangeTest:
    """Steps of `size` rows at rates from low to high times the base rate, from one state, `repeats` times on
    different rows; the loss at each rate is that of its mini-batch before its update moves the weights, so it tells
    of the rates before it, which the answer allows for by one step. The run is left as it was."""
    base = float(t.state.optimizer.param_groups[0]["initial_lr"])
    factors = np.geomspace(low, high, steps)
    losses = np.full((repeats, steps), math.inf)
    with untouched(t) as snapshot:
        for r in range(repeats):
            snapshot.restore()
            t.objective.model.train()
            t.state.position += r * steps * size
            best = math.inf
            for k, factor in enumerate(factors):
                try:
                    losses[r, k] = step(t, t.batches.at(t.state.position, size), float(factor))
                except (NonFiniteLoss, OutOfMemory):
                    break
                best = min(best, losses[r, k])
                if losses[r, k] > 4 * max(losses[r, 0], best):
                    losses[r, k] = math.inf
                    break
    # The loss of step k is that of the weights after the rates before it.
    return read_range(base * factors[:-1], losses[:, 1:])


def anneal(t: Training, steps: int, size: int) -> list[float]:
    """A branch's own schedule: the run's, compressed to `steps`; where that does not fall, half a cosine beside it."""
    n, planned = steps * size, t.planned or 10 * t.examples
    at = [(k + 0.5) / steps for k in range(steps)]
    own = [t.schedule(Progress(round(f * planned), k, t.examples, 0.0, planned, [])) for k, f in enumerate(at)]
    if own[-1] < 0.1 * max(own) or n == 0:
        return own
    return [f * (1 + math.cos(math.pi * x)) / 2 for f, x in zip(own, at, strict=True)]


def branch(t: Training, lr: float, *, size: int, steps: int, check: Sequence[Batch], offset: int = 0) -> float:
    """The loss on `check` after `steps` steps at `lr` (annealed) from the run's state; the run is left as it was."""
    base = float(t.state.optimizer.param_groups[0]["initial_lr"])
    with untouched(t):
        t.objective.model.train()
        t.state.position += offset
        losses = train(t, size, steps, [lr / base * f for f in anneal(t, steps, size)])
        if losses[-1] == FAILED:
            return FAILED
        return loss_on(t, check)


def choose(branches: Sequence[Branch], default: float) -> Branch | None:
    """The branch to believe: the lowest mean loss, but of those that cannot be told from it the nearest to the
    default rate. None when every branch broke off.

    Cannot be told: the mean of the paired differences over repeats is within its standard error and 5% of the loss,
    or within half a percent of it.

    >>> tied = [Branch(1e-3, (0.50, 0.52)), Branch(4e-3, (0.499, 0.521)), Branch(1.0, (9.0, 9.0))]
    >>> choose(tied, default=1e-3).lr
    0.001
    """
    whole = [b for b in branches if math.isfinite(b.loss)]
    if not whole:
        return None
    best = min(whole, key=lambda b: b.loss)

    def tied(b: Branch) -> bool:
        differences = np.array(b.losses) - np.array(best.losses)
        error = float(np.std(differences, ddof=1)) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
        size = abs(best.loss)
        return float(differences.mean()) <= max(min(error, 0.05 * size), 0.005 * size)

    return min((b for b in whole if tied(b)), key=lambda b: abs(math.log(b.lr / default)))
