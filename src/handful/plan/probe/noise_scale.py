"""The gradient noise scale phi = tr(Sigma) / |G|^2 of McCandlish et al. 2018 (arXiv:1812.06162, equation 2.8).

G is the gradient of the mean loss over the data and Sigma the covariance of one example's gradient. A mini-batch of
phi examples has a gradient as long as its noise. phi is measured from M micro-batches of b examples each:

    |G|^2     = (s - q) / (M (M - 1))          q = sum |g_i|^2, s = |sum g_i|^2
    tr(Sigma) = b (q - s / M) / (M - 1)

Both are unbiased; |G|^2 may come out negative, and then it is not measurable. Several measurements are pooled as a
ratio of sums, never as a mean of ratios. The interval is Fieller's for a ratio (1954), with variances by the
delete-one jackknife over micro-batches (Tukey 1958).
"""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handful.base.keys import dropout_key
from handful.base.machine import wide
from handful.data.base import Batch
from handful.report.words import say_number
from handful.training.objective import LossSums, Objective
from handful.training.process.parallel import ALONE, Ranks
from handful.training.special.coupling import rows
from handful.training.step import NOTHING
from handful.training.watch.guards import ZERO_WEIGHT, NonFiniteLoss, non_finite

PARTS = 16
Floats = NDArray[np.float64]
COLUMNS = 1 << 18  # of gradients that are made float64 at once
LOOK = 4  # parts after which it is asked whether they are enough


@dataclass(frozen=True)
class GradientMoments:
    """One measurement: unbiased tr(Sigma) and |G|^2, their jackknife covariance, and what it was made of.

    b: examples per micro-batch; parts: micro-batches; covariance: (var tr, cov, var |G|^2).
    """

    trace: float
    gradient_sq: float
    covariance: tuple[float, float, float]
    b: int
    parts: int
    position: int = 0

    @property
    def examples(self) -> int:
        return self.b * self.parts

    def as_list(self) -> list[float]:
        """Plain numbers, for a checkpoint."""
        return [self.trace, self.gradient_sq, *self.covariance, self.b, self.parts, self.position]

    @classmethod
    def from_list(cls, n: list[float]) -> "GradientMoments":
        return cls(n[0], n[1], (n[2], n[3], n[4]), int(n[5]), int(n[6]), int(n[7]))


@dataclass(frozen=True)
class NoiseScale:
    """phi in examples, with its 90% interval.

    status: "measured"; "bounded": only `low` is known, `high` is infinite and `value` None; "not measurable": |G|^2
    came out as zero or less, `value` is None (`low` may still be a bound).
    """

    value: float | None
    low: float
    high: float
    status: Literal["measured", "bounded", "not measurable"]
    trace: float
    gradient_sq: float
    examples: int

    def __str__(self) -> str:
        if self.value is not None:
            return f"{say_number(self.value)} examples (90% interval {say_number(self.low)} to {say_number(self.high)})"
        if self.status == "bounded":
            return f"at least {say_number(self.low)} examples (95%); no upper bound from {self.examples:,} examples"
        return f"not measurable from {self.examples:,} examples: the estimate of |G|^2 is not positive"


def moments(products: Floats, b: int, weights: Floats | None = None, position: int = 0) -> GradientMoments:
    """The estimates from products [2, M] of the micro-batches' gradients g_i: |g_i|^2, and g_i times the sum of all.

    weights [M]: what each micro-batch counts for (rows, tokens, summed row weights) where they differ; the g_i are
    then gradients of sums over the mean weight, and the mean's own fluctuation is taken out to first order (the
    ratio estimator of survey sampling, Cochran 1977, section 6.5), so that phi is in units of rows.

    >>> g = np.array([[1.0, 0.0], [0.0, 1.0]])          # two orthogonal gradients: no common part
    >>> m = moments(np.array([(g**2).sum(1), g @ g.sum(0)]), b=4)
    >>> m.gradient_sq, m.trace
    (0.0, 4.0)
    """
    (squares, sums), m = products, products.shape[1]
    s = float(sums.sum())
    if weights is not None and np.ptp(weights) > 0:  # of g_i + c_i times their mean
        c = 1 - weights / weights.mean()
        squares, sums = squares + 2 * c * sums / m + c**2 * s / m**2, sums + c * s / m
    q = float(squares.sum())
    estimates = _estimates(q, s, m, b)
    if m < 3:
        return GradientMoments(*estimates, (math.inf, 0.0, math.inf), b, m, position)
    left = np.array([_estimates(q - d, s - 2 * r + d, m - 1, b) for d, r in zip(squares, sums, strict=True)])
    c = (m - 1) / m * (left - left.mean(0)).T @ (left - left.mean(0))
    return GradientMoments(*estimates, (float(c[0, 0]), float(c[0, 1]), float(c[1, 1])), b, m, position)


def _estimates(q: float, s: float, m: int, b: int) -> tuple[float, float]:
    return b * (q - s / m) / (m - 1), (s - q) / (m * (m - 1))


def pool(measured: Iterable[GradientMoments]) -> NoiseScale:
    """phi from one or more measurements: the sum of tr(Sigma) over the sum of |G|^2, with Fieller's 90% interval.

    >>> steady = GradientMoments(trace=50.0, gradient_sq=1.0, covariance=(25.0, 0.0, 0.01), b=1, parts=16)
    >>> scale = pool([steady] * 4)
    >>> scale.value, scale.status, 40 < scale.low < 50 < scale.high < 65
    (50.0, 'measured', True)
    """
    found = [m for m in measured if all(map(math.isfinite, (m.trace, m.gradient_sq, *m.covariance)))]
    t, g = sum(m.trace for m in found), sum(m.gradient_sq for m in found)
    examples = sum(m.examples for m in found)
    if not found:
        return NoiseScale(None, 0.0, math.inf, "not measurable", t, g, examples)
    tt, tg, gg = (sum(m.covariance[k] for m in found) for k in range(3))
    low, high = fieller(t, g, tt, tg, gg, student(sum(m.parts - 1 for m in found)))
    if g <= 0 or t < 0:
        return NoiseScale(None, low, math.inf, "not measurable", t, g, examples)
    if not math.isfinite(high):
        return NoiseScale(None, low, math.inf, "bounded", t, g, examples)
    return NoiseScale(t / g, low, high, "measured", t, g, examples)


def fieller(t: float, g: float, tt: float, tg: float, gg: float, z: float) -> tuple[float, float]:
    """The interval of T / G whose ratio rho satisfies (t - rho g)^2 <= z^2 (tt - 2 rho tg + rho^2 gg), clipped at 0
    from below; the upper end is infinite where g is not z standard errors from 0."""
    a, b, c = g * g - z * z * gg, t * g - z * z * tg, t * t - z * z * tt
    root = math.sqrt(max(0.0, b * b - a * c))
    if a > 0 and g > 0:
        return max(0.0, (b - root) / a), (b + root) / a
    if a < 0 and b * b >= a * c:  # outside of two roots: the larger is a bound from below
        return max(0.0, (b - root) / a), math.inf
    return 0.0, math.inf


def student(degrees: int, p: float = 0.95) -> float:
    """Student's t below which a share p lies, for so many degrees of freedom (at least 1): of 95%, 90% lie between the
    two limits.

    >>> round(student(15), 3)
    1.753
    """
    from scipy.special import stdtrit  # a third of a second that most runs do without

    return float(stdtrit(max(1, degrees), p))


def gradient_in_parts(
    objective: Objective,
    batch: Batch,
    parts: int = PARTS,
    ranks: Ranks = ALONE,
    *,
    seed: int = 0,
    step: int = 0,
    enough: Callable[[GradientMoments], bool] | None = None,
) -> tuple[LossSums, GradientMoments]:
    """`step.gradient` with micro-batches of len(batch) / parts rows, which are measured on the way.

    Leaves in `.grad` the gradient of the whole mini-batch, exactly; keeps `parts` gradients in memory meanwhile.
    ranks: each of which has such a batch, of the mini-batch of all.
    enough: asked after every LOOK parts, of one process; where it says so, the rest of the batch is left out.
    Raises NonFiniteLoss as `gradient` does.
    """
    model = objective.model
    parameters = [p for p in model.parameters() if p.requires_grad]
    b = len(batch) // parts
    assert b * parts == len(batch), "the parts must be of equal size"
    objective.seed_dropout(dropout_key(seed, step, ranks.rank))
    kept: list[list[Tensor | None]] = []
    weights: list[Tensor] = []
    total, wrong = NOTHING, ""
    for i in range(parts):
        model.zero_grad(set_to_none=True)
        part = objective.to_device(rows(batch, slice(i * b, (i + 1) * b)))
        sums = objective.sums(part)
        if not torch.isfinite(sums.loss.detach()):
            wrong = str(non_finite(objective, part, step))
            break
        sums.loss.backward()  # type: ignore[no-untyped-call]
        kept.append([p.grad for p in parameters])
        weights.append(wide(sums.weight.detach()))
        total = sums.detached() if total is NOTHING else total + sums
        if enough is not None and ranks.size == 1 and len(kept) % LOOK == 0 and len(kept) < parts:
            w = torch.stack(weights).cpu().numpy()
            if w.sum() and enough(moments(_products(parameters, kept, ranks) / w.mean() ** 2, b, w, batch.position)):
                break
    if wrong := next(filter(None, ranks.gather(wrong)), ""):
        raise NonFiniteLoss(wrong)
    w = ranks.joined(torch.stack(weights).cpu()).numpy()
    if w.sum() == 0:
        raise NonFiniteLoss(f"at step {step + 1:,} {ZERO_WEIGHT}")
    products = _products(parameters, kept, ranks, float(w.sum())) / w.mean() ** 2
    return _of_all(total, ranks), moments(products, b, w, int(ranks.told(str(batch.position))))


def _of_all(own: LossSums, ranks: Ranks) -> LossSums:
    if ranks.size == 1:
        return own
    names = sorted(own.metrics)
    values = [own.loss, own.weight, *(own.metrics[name] for name in names)]
    loss, weight, *metrics = (ranks.joined(value.double().cpu()[None]).sum(0) for value in values)
    return LossSums(loss, weight, dict(zip(names, metrics, strict=True)))


def _products(
    parameters: list[nn.Parameter], kept: list[list[Tensor | None]], ranks: Ranks, total: float | None = None
) -> Floats:
    """Of the gradients of all ranks' parts the squares and the products with their sum, float64 [2, M]; with `total`,
    their sum over it is left in `.grad`."""
    own, found = [any(grads[k] is not None for grads in kept) for k in range(len(parameters))], []
    anywhere = np.any([json.loads(said) for said in ranks.gather(json.dumps(own))], axis=0)
    for k, p in enumerate(parameters):
        if not anywhere[k]:
            p.grad = None
            continue
        column = [grads[k] for grads in kept]
        stacked = torch.stack([(torch.zeros_like(p) if g is None else g).reshape(-1) for g in column])
        for part in map(wide, torch.split(stacked, COLUMNS, dim=1)):  # the squares of the rows, and by their sum
            found.append(torch.stack([part.square().sum(1), part @ ranks.summed(part.sum(0))], 1).cpu())
        if total is not None:  # in order: a replay has these bits
            own_sum = reduce(torch.add, [g for g in column if g is not None] or [torch.zeros_like(p)])
            p.grad = ranks.summed(own_sum) / total
    products = sum(found, torch.zeros(len(kept), 2, dtype=torch.float64))
    return ranks.joined(products).numpy().T
