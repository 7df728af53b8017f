"""The range test on curves whose minimum is known, and on a real model."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handful.plan.probe.range_test import range_test, read_range

from .conftest import mlp


def curve(lr: np.ndarray, lowest: float) -> np.ndarray:
    """Flat at small rates, falling to `lowest`, exploding beyond: the shape of a range test."""
    x = np.log10(lr / lowest)
    return np.where(x < 0, 2.3 - 1.8 * np.exp(-0.5 * (x / 1.0) ** 2), 0.5 + 3 * x**2)


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.2])
def test_a_noisy_curve_with_its_minimum_at_a_tenth(noise):
    lr = np.geomspace(1e-7, 10, 100)
    found = []
    for seed in range(50):
        generator = np.random.default_rng(seed)
        losses = [curve(lr, 0.1) + generator.normal(0, noise, len(lr)) for _ in range(3)]
        found.append(read_range(lr, losses).minimum)
    assert all(f is not None for f in found)
    assert np.median(found) == pytest.approx(0.1, rel=0.4)
    assert np.mean([0.1 / 3 < f < 0.1 * 3 for f in found]) >= 0.95


def test_a_finder_that_differentiates_in_lr_is_wrong_here():
    """Why all is done in log(lr): the steepest slope in lr itself is at the smallest rates, whatever the loss."""
    lr = np.geomspace(1e-7, 10, 100)
    picks = []
    for seed in range(50):
        losses = curve(lr, 0.1) + np.random.default_rng(seed).normal(0, 0.1, len(lr))
        picks.append(lr[np.argmin(np.gradient(losses, lr))])
    assert np.median(picks) < 1e-6


@given(lowest=st.floats(1e-5, 1.0), seed=st.integers(0, 10_000))
def test_the_minimum_moves_with_the_curve(lowest, seed):
    lr = np.geomspace(lowest * 1e-4, lowest * 30, 80)
    losses = curve(lr, lowest) + np.random.default_rng(seed).normal(0, 0.05, (3, len(lr)))
    assert read_range(lr, losses).minimum == pytest.approx(lowest, rel=1.0)


def test_a_curve_that_never_falls_has_no_minimum():
    lr = np.geomspace(1e-6, 1, 60)
    flat = 2.3 + np.random.default_rng(0).normal(0, 0.1, (3, 60))
    assert read_range(lr, flat).minimum is None
    rising = 2.3 + np.linspace(0, 2, 60) + np.random.default_rng(0).normal(0, 0.05, (3, 60))
    assert read_range(lr, rising).minimum is None


def test_steps_that_exploded_do_not_move_the_answer():
    lr = np.geomspace(1e-6, 10, 90)
    losses = np.stack([curve(lr, 0.01)] * 3)
    losses[:, lr > 0.2] = math.inf
    losses[1, 20] = 1e6  # one wild loss in one repeat
    assert read_range(lr, losses).minimum == pytest.approx(0.01, rel=0.5)
    assert read_range(lr, np.full((2, 90), math.inf)).minimum is None


def test_a_range_test_finds_the_edge_of_a_real_model(training):
    """On the digits with SGD, rates a thousand times too small or large are told from good ones."""
    t = training(mlp(), optimizer="sgd", lr=0.1)
    found = range_test(t, size=32, steps=50, repeats=3)
    assert found.minimum is not None
    assert 0.05 < found.minimum < 20
    t = training(mlp(), optimizer="adamw", lr=1e-3)
    assert 1e-3 < range_test(t, size=32, steps=50, repeats=3).minimum < 0.5
