"""A range test of the learning rate, in log(lr) (Smith 2017, arXiv:1506.01186), repeated; a race decides.

The range test raises the rate geometrically, one step at each rate, and looks where the loss is lowest. All is done
in log(lr): differences with respect to lr itself are largest at the smallest rates whatever the loss does, and a
finder that uses them answers with noise. Its answer is a picture of what the model bears, for `handful.advise`; which
rate is taken is told by race.py.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handful.plan.probe.snapshot import untouched
from handful.plan.probe.steps import step
from handful.training.guards import NonFiniteLoss, OutOfMemory
from handful.training.training import Training

WIDTH = 0.5  # of the smoothing, in natural logs of lr: about a quarter of a decade


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
