"""Small trainings that the probes are tried on."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from handful.plan.build import assemble
from handful.training.training import Training


def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    return (x / 16).astype(np.float32), y


def mlp(width: int = 32, seed: int = 0, extra: list[nn.Module] | None = None) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, width), *(extra or []), nn.Tanh(), nn.Linear(width, 10))


@pytest.fixture
def training() -> Callable[..., Training]:
    """make(model, **options) -> Training on the digits with batch and lr given, so that nothing is probed yet."""

    def make(model: nn.Module | None = None, data: Any = None, **options: Any) -> Training:
        given = {"batch": 32, "lr": 1e-3, "quiet": True} | options
        return assemble(model or mlp(), digits() if data is None else data, given)

    return make
