"""The default rate of Adam: falls with the width, is told from new weights only, and trains."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import handful
from handful.optim import build as optimizer
from handful.optim import initial_lr
from handful.optim.initial_lr import FINE_TUNING, LEAST, fans_in, learned_rate, rate_of_shapes


def mlp(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


@pytest.mark.parametrize("width", [16, 64, 256, 1024, 4096])
def test_it_is_a_fixed_share_of_the_spread_of_new_weights(width):
    with torch.device("meta"):
        model = mlp(width)
    rate, reason = rate_of_shapes(model)
    assert rate == pytest.approx(0.035 / math.sqrt(width), rel=0.05)
    assert f"{width} inputs" in reason


def test_norms_biases_and_frozen_weights_have_no_say():
    plain = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 4))
    more = nn.Sequential(*plain, nn.LayerNorm((7, 4)), nn.Linear(9999, 2).requires_grad_(False))
    assert fans_in(more) == fans_in(plain) == [32, 32]
    assert rate_of_shapes(more)[0] == rate_of_shapes(plain)[0]


def test_an_embedding_counts_as_its_spread():
    embedding = nn.Embedding(2000, 64)
    with torch.no_grad():
        embedding.weight.normal_(0, 0.125, generator=torch.Generator().manual_seed(0))
    assert fans_in(embedding) == pytest.approx([64], rel=0.05)


def test_an_embedding_of_zeros_has_no_spread_to_keep():
    embedding = nn.Embedding(20, 4)
    nn.init.zeros_(embedding.weight)
    assert fans_in(nn.Sequential(embedding, nn.Linear(4, 2))) == [4.0]


def test_tied_weights_count_once():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    assert fans_in(model) == [8]


def test_a_single_layer_moves_its_output_by_as_much_whatever_its_width():
    rates = [rate_of_shapes(nn.Linear(n, 3))[0] * n for n in (10, 100, 1000)]
    assert rates == pytest.approx([0.4] * 3, rel=0.05)
    assert rate_of_shapes(nn.Linear(1, 1))[0] == 0.05


def test_of_a_layer_that_sees_mostly_zeros_those_of_a_row_that_are_none_count():
    rng = np.random.default_rng(0)
    names = rng.integers(0, 400, 2000)
    data = {"name": [f"n{k}" for k in names], "x": rng.normal(size=2000), "y": rng.normal(size=400)[names]}
    run = handful.fit("linear", data, target="y", quiet=True)
    assert run.plan.choices["lr"].value == 0.05
    assert run.best["valid_r2"] > 0.9
    assert fans_in(run.model.requires_grad_(False)) == []


def test_weights_that_were_trained_are_fine_tuned():
    model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 64))
    fresh = rate_of_shapes(model)[0]
    with torch.no_grad():
        model[1].weight += 0.01 * torch.randn(64, generator=torch.Generator().manual_seed(0))
    rate, reason = rate_of_shapes(model)
    assert rate == FINE_TUNING < fresh
    assert "'1' has been trained before" in reason
    model[1].requires_grad_(False)  # a frozen trunk under a new head
    assert rate_of_shapes(model)[0] == fresh


def test_a_model_without_matrices_and_a_very_wide_one():
    assert rate_of_shapes(nn.BatchNorm1d(5))[0] == 1e-3
    with torch.device("meta"):
        wide = nn.Sequential(nn.Linear(1_000_000, 1_000_000), nn.Linear(1_000_000, 2))
    assert rate_of_shapes(wide)[0] == LEAST


def test_only_adam_and_its_kin_follow_the_shapes():
    model = mlp(64)
    shaped = {
        name
        for name in optimizer.names
        if optimizer.build(name, model).lr.value != optimizer.build(name, mlp(256)).lr.value
    }
    assert shaped == {"adam", "adamw", "nadam", "radam", "rmsprop", "adamax", "adagrad", "muon"}
    assert all(optimizer.build(name, model).lr.reason for name in optimizer.names)


def test_the_learned_rate_is_that_of_the_published_table():
    """Ridge regression by hand over the table of benchmarks/results/fit_defaults.md, each data set left out once."""
    page = Path(__file__).parents[2] / "benchmarks" / "results" / "fit_defaults.md"
    cells = [line.split("|")[1:6] for line in page.read_text().splitlines() if re.match(r"\| \S+/adamw \|", line)]
    data = np.array([row[0].split("/")[0] for row in cells])
    x = np.array([[row[0].split("/")[1] == "one", math.log2(float(row[2]) / 32)] for row in cells])
    y = np.array([math.log2(float(row[4])) for row in cells])

    def fitted(kept):
        middle, mean = x[kept].mean(0), y[kept].mean()
        a = x[kept] - middle
        weights = np.linalg.solve(a.T @ a + 0.5 * np.eye(2), a.T @ (y[kept] - mean))
        return weights, mean - middle @ weights

    (one, power), at_32 = fitted(np.full(len(y), True))
    assert pytest.approx(2**at_32, rel=0.02) == initial_lr.LEARNED
    assert pytest.approx(2 ** (at_32 + one), rel=0.02) == initial_lr.LEARNED_ONE
    assert pytest.approx(-power, abs=0.01) == initial_lr.POWER
    off = [abs(x[data == d] @ w + c - y[data == d]) for d in set(data) for w, c in [fitted(data != d)]]
    assert np.quantile(np.concatenate(off), 0.9) == pytest.approx(math.log2(initial_lr.WITHIN), abs=0.05)
    assert (len(y), len(set(data))) == (31, 20)


def test_what_was_not_learned_from_has_no_learned_rate():
    assert learned_rate(mlp(1024)) is None
    assert learned_rate(nn.Sequential(nn.Embedding(9, 64), nn.Linear(64, 64))) is None
    assert learned_rate(nn.BatchNorm1d(5)) is None
    rate, reason = learned_rate(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Linear(64, 64)))
    assert 0.01 < rate <= 0.02
    assert "nine in ten" in reason
