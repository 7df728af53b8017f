"""Small trainings that the probes are tried on."""

import hashlib
import random
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


def fingerprint(t: Training) -> str:
    """SHA-256 of parameters, buffers, gradients, modes, optimizer, random states, position and the like."""
    digest = hashlib.sha256()
    s, model = t.state, t.objective.model
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        add(digest, [name, value.detach(), value.grad])
    add(digest, [m.training for m in model.modules()])
    for group in s.optimizer.param_groups:
        add(digest, {k: v for k, v in group.items() if k != "params"})
        add(digest, [s.optimizer.state.get(p, {}) for p in group["params"]])
    add(digest, [s.average or {}, s.position, s.step, s.seconds, s.batch, s.micro_batch, len(s.history), s.noise])
    add(digest, [s.window.loss, s.window.weight, s.window.metrics])
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    add(digest, [torch.random.get_rng_state(), *cuda, np.random.get_state(), random.getstate()])
    return digest.hexdigest()


def add(digest: Any, value: Any) -> None:
    """Any tensor, array, container of those, or what has a repr."""
    if isinstance(value, torch.Tensor):
        array = value.detach().cpu().contiguous()
        digest.update(f"{array.dtype}{tuple(array.shape)}".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes() if array.numel() else b"")
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    elif isinstance(value, dict):
        for k, v in value.items():
            digest.update(repr(k).encode())
            add(digest, v)
    elif isinstance(value, list | tuple):
        digest.update(f"{type(value).__name__}{len(value)}".encode())
        for v in value:
            add(digest, v)
    else:
        digest.update(repr(value).encode())
