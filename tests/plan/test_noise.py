"""phi against the truth: per-example gradients of the whole data in float64 (torch.func)."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from handful.data.base import Batch
from handful.losses.loss import as_loss
from handful.plan.probe.decide import tells_enough
from handful.plan.probe.noise_scale import GradientMoments, fieller, gradient_in_parts, moments, pool
from handful.plan.probe.step_time import Throughput, powers_of_two
from handful.training.objective import Objective
from handful.training.special.exact import exact_gradient
from handful.training.watch.guards import NonFiniteLoss

from .conftest import digits, mlp


def truth(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[float, float, float]:
    """(tr Sigma, |G|^2, phi) over all rows, from per-example gradients."""
    parameters = {k: v.detach() for k, v in model.named_parameters()}

    def loss(p, x, y):
        return nn.functional.cross_entropy(torch.func.functional_call(model, p, (x[None],)), y[None])

    each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, x, y)
    g = torch.cat([v.reshape(len(x), -1) for v in each.values()], 1)
    mean = g.mean(0)
    trace, square = float((g - mean).square().sum(1).mean()), float(mean.square().sum())
    return trace, square, trace / square


def products(g: np.ndarray) -> np.ndarray:
    """What `moments` takes of gradients [M, p]."""
    return np.array([(g**2).sum(1), g @ g.sum(0)])


def cnn() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 10)
        )


def trained(model: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int) -> nn.Module:
    sgd = torch.optim.SGD(model.parameters(), 0.2)
    for k in range(steps):
        rows = torch.arange(k * 16, (k + 1) * 16) % len(x)
        sgd.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        sgd.step()
    return model


def drawn(x: torch.Tensor, y: torch.Tensor, rows: np.ndarray) -> Batch:
    return Batch({"x": x[rows], "y": y[rows]}, rows)


@pytest.mark.parametrize(("make", "steps"), [(mlp, 0), (mlp, 60), (cnn, 40)], ids=["mlp start", "mlp", "cnn"])
def test_the_interval_covers_the_truth(make, steps):
    x, y = (torch.from_numpy(v) for v in digits())
    x = x.double()
    model = trained(make().double(), x, y, steps)
    trace, square, phi = truth(model, x, y)
    objective = Objective(model, as_loss("cross_entropy")[0])
    generator = np.random.default_rng(steps)
    covered, pooled, traces, squares = 0, [], [], []
    for _ in range(60):
        found = []
        for _ in range(max(1, math.ceil(8 * phi / 128 / 4))):  # a quarter of the 8 phi examples that make phi sure
            rows = generator.integers(0, len(x), 128)
            found.append(gradient_in_parts(objective, drawn(x, y, rows), 16)[1])
        scale = pool(found)
        covered += scale.low <= phi <= scale.high
        pooled += [scale.value] if scale.value else []
        traces += [m.trace for m in found]
        squares += [m.gradient_sq for m in found]
    assert covered / 60 >= 0.85
    assert np.median(pooled) == pytest.approx(phi, rel=0.25)
    # both moments are unbiased: within four standard errors of the truth
    for values, true in ((traces, trace), (squares, square)):
        assert abs(np.mean(values) - true) < 4 * np.std(values) / math.sqrt(len(values))


def test_it_covers_the_truth_when_it_stops_as_soon_as_the_batch_is_clear():
    x, y = (torch.from_numpy(v) for v in digits())
    x = x.double()
    model = trained(mlp().double(), x, y, 60)
    phi = truth(model, x, y)[2]
    objective = Objective(model, as_loss("cross_entropy")[0])
    law = Throughput.law(512, 1, powers_of_two(256))
    generator = np.random.default_rng(4)
    covered, parts = 0, []
    for _ in range(100):
        batch = drawn(x, y, generator.integers(0, len(x), 512))
        found = gradient_in_parts(objective, batch, 16, enough=lambda m: tells_enough(m, law, law.sizes))[1]
        covered += pool([found]).low <= phi <= pool([found]).high
        parts.append(found.parts)
    assert covered / 100 >= 0.85
    assert set(parts) <= {4, 8, 12, 16}
    assert np.mean(parts) < 12  # where steps cost so much, the largest batch is clear at once


def test_what_stops_early_is_the_gradient_of_what_was_measured():
    x, y = (torch.from_numpy(v) for v in digits())
    model = mlp().double()
    objective = Objective(model, as_loss("cross_entropy")[0])
    exact_gradient(objective, drawn(x.double(), y, np.arange(16)))
    expected = [p.grad.clone() for p in model.parameters()]
    outcome, found = gradient_in_parts(
        objective, drawn(x.double(), y, np.arange(32)), 16, enough=lambda m: m.parts >= 8
    )
    assert (found.parts, found.examples, float(outcome.weight)) == (8, 16, 16)
    for p, e in zip(model.parameters(), expected, strict=True):
        assert torch.allclose(p.grad, e, rtol=1e-10, atol=1e-14)


def test_eight_phi_pooled_examples_put_phi_within_a_factor_of_two():
    x, y = (torch.from_numpy(v) for v in digits())
    x = x.double()
    model = trained(mlp().double(), x, y, 60)
    phi = truth(model, x, y)[2]
    objective = Objective(model, as_loss("cross_entropy")[0])
    generator = np.random.default_rng(3)
    within = 0
    for _ in range(40):
        probes = math.ceil(8 * phi / 64)
        found = [gradient_in_parts(objective, drawn(x, y, generator.integers(0, len(x), 64)))[1] for _ in range(probes)]
        value = pool(found).value
        within += value is not None and phi / 2 <= value <= 2 * phi
    assert within / 40 > 0.9


def test_moments_are_those_of_numpy():
    g = np.random.default_rng(0).normal(1.0, 2.0, (16, 50))
    found = moments(products(g), b=4)
    pairs = [g[i] @ g[j] for i, j in itertools.permutations(range(16), 2)]
    assert found.gradient_sq == pytest.approx(np.mean(pairs), rel=1e-12)
    assert found.trace == pytest.approx(4 * g.var(0, ddof=1).sum(), rel=1e-12)

    def estimate(rows):
        return [4 * g[rows].var(0, ddof=1).sum(), np.mean([g[i] @ g[j] for i, j in itertools.permutations(rows, 2)])]

    left = np.array([estimate([j for j in range(16) if j != i]) for i in range(16)])
    c = 15 / 16 * (left - left.mean(0)).T @ (left - left.mean(0))
    assert np.allclose(found.covariance, [c[0, 0], c[0, 1], c[1, 1]], rtol=1e-10)


def test_in_parts_the_gradient_is_that_of_the_whole_batch():
    x, y = (torch.from_numpy(v) for v in digits())
    model = mlp().double()
    objective = Objective(model, as_loss("cross_entropy")[0])
    batch = drawn(x.double(), y, np.arange(48))
    whole = exact_gradient(objective, batch).total
    expected = [p.grad.clone() for p in model.parameters()]
    outcome, _ = gradient_in_parts(objective, batch, 16)
    for p, e in zip(model.parameters(), expected, strict=True):
        assert torch.allclose(p.grad, e, rtol=1e-10, atol=1e-14)
    assert float(outcome.loss) == pytest.approx(float(whole.loss), rel=1e-12)
    assert float(outcome.weight) == 48


def test_weighted_rows_give_the_exact_gradient_and_per_row_noise():
    """Parts that count for different weights (tokens, row weights): exact gradient; phi in rows of the ratio."""
    x, y = (torch.from_numpy(v) for v in digits())
    generator = np.random.default_rng(5)
    weight = torch.from_numpy(generator.integers(1, 6, len(x)).astype(np.float64))
    model = trained(mlp().double(), x.double(), y, 30)
    objective = Objective(model, as_loss("cross_entropy")[0])
    found = []
    for _ in range(120):
        rows = generator.integers(0, len(x), 128)
        batch = Batch({"x": x[rows].double(), "y": y[rows], "weight": weight[rows]}, rows)
        found.append(gradient_in_parts(objective, batch, 16)[1])
    exact_gradient(objective, batch)
    expected = [p.grad.clone() for p in model.parameters()]
    gradient_in_parts(objective, batch, 16)
    for p, e in zip(model.parameters(), expected, strict=True):
        assert torch.allclose(p.grad, e, rtol=1e-10, atol=1e-14)
    # the truth of a ratio: the influence of row i is w_i (g_i - G) / mean(w)
    parameters = {k: v.detach() for k, v in model.named_parameters()}
    grad = torch.func.grad(
        lambda p, a, b: nn.functional.cross_entropy(torch.func.functional_call(model, p, (a[None],)), b[None])
    )
    each = torch.func.vmap(grad, (None, 0, 0))(parameters, x.double(), y)
    g = torch.cat([v.reshape(len(x), -1) for v in each.values()], 1)
    mean = (weight[:, None] * g).sum(0) / weight.sum()
    influence = weight[:, None] * (g - mean) / weight.mean()
    phi = float(influence.square().sum(1).mean() / mean.square().sum())
    assert pool(found).value == pytest.approx(phi, rel=0.1)


def test_pure_noise_is_not_measurable_and_never_a_number():
    generator = np.random.default_rng(0)
    said = []
    for _ in range(40):
        g = generator.normal(size=(16, 200))
        g -= g.mean(0) * (generator.random() < 0.5)  # half of them: exactly no common part
        said.append(pool([moments(products(g), b=1)]))
    assert {s.status for s in said} >= {"not measurable"}
    for s in said:
        assert s.value is None or s.low < s.value < s.high
        if s.gradient_sq <= 0:
            assert s.status == "not measurable"
            assert s.value is None
            assert "not measurable" in str(s)
    assert sum(s.status == "measured" for s in said) <= 4


def test_a_ratio_of_sums_is_not_a_mean_of_ratios():
    a = GradientMoments(10.0, 1.0, (1.0, 0.0, 1e-4), 4, 16)
    b = GradientMoments(10.0, 0.1, (1.0, 0.0, 1e-4), 4, 16)
    assert pool([a, b]).value == pytest.approx(20 / 1.1)


def test_fieller_against_simulation():
    """The set of ratios that the interval holds is the set that a t-test does not refuse."""
    t, g, cov = 12.0, 3.0, np.array([[4.0, 0.3], [0.3, 0.2]])
    low, high = fieller(t, g, cov[0, 0], cov[0, 1], cov[1, 1], 1.645)
    for rho, inside in ((low * 0.99, False), (low * 1.01, True), (high * 0.99, True), (high * 1.01, False)):
        direction = np.array([1.0, -rho])
        assert (abs(direction @ [t, g]) <= 1.645 * math.sqrt(direction @ cov @ direction)) == inside
    assert fieller(12.0, 0.1, 4.0, 0.0, 1.0, 1.645)[1] == math.inf


def test_a_loss_that_is_not_finite_stops_it():
    x, y = (torch.from_numpy(v) for v in digits())
    x[5, 3] = math.nan
    objective = Objective(mlp(), as_loss("cross_entropy")[0])
    with pytest.raises(NonFiniteLoss, match="5"):
        gradient_in_parts(objective, drawn(x, y, np.arange(32)))
