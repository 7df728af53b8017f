"""The ways that three batch sizes take from the same weights, drawn over the loss in the plane that holds most of them.

The plane is spanned by the two principal directions of all weights that the runs passed through (Li et al. 2018,
"Visualizing the Loss Landscape of Neural Nets", section 7); the height is the loss of a fixed sample of training rows.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import vector_to_parameters

from handful.batches.batches import Batches
from handful.compare.experiment import Experiment, Method, Task
from handful.compare.gradient_variance import plain_rows
from handful.training.objective import Objective
from handful.training.watch.evaluation import evaluate

Floats = NDArray[np.float64]
ROWS = 512  # training rows whose loss is the height
ACROSS, DOWN = 41, 31  # places of the grid
LEAST = 9  # with fewer places a side than this, a surface says nothing
SECONDS = 5.0  # the grid is coarser where it would take longer
ROOM = 0.18  # of the paths' extent, left free around them


@dataclass(frozen=True)
class Path:
    """One run in the plane: x, y [m], and at each place the training loss, the steps and the seconds so far."""

    name: str
    x: Floats
    y: Floats
    loss: Floats
    steps: Floats
    seconds: Floats


@dataclass(frozen=True)
class Surface:
    """The loss z [down, across] over x [across] and y [down], and the paths.

    shares: of the paths' variance that each of the two directions holds; rows: how many the loss is of."""

    x: Floats
    y: Floats
    z: Floats
    paths: tuple[Path, ...]
    shares: tuple[float, float]
    rows: int


def loss_surface(task: Task, runs: Sequence[Experiment], seconds: float = SECONDS) -> Surface | None:
    """The picture of the smallest batch, the largest and the one in the middle, of one seed.

    None where fewer than two runs kept their weights, where these did not stay finite, or where it would take much
    longer than `seconds`.
    """
    kept = sorted((r for r in runs if len(r.weights) > 1), key=lambda r: r.last["batch"])
    drawn = [kept[k] for k in sorted({0, len(kept) // 2, len(kept) - 1})] if len(kept) > 1 else []
    if not drawn or not all(bool(w.isfinite().all()) for r in drawn for w in r.weights):
        return None
    origin = drawn[0].weights[0].double()
    away = [torch.stack(r.weights).double() - origin for r in drawn]
    found = principal(torch.cat(away))
    if found is None:
        return None
    directions, shares = found
    flat = [(places @ directions).numpy() for places in away]
    t = task.training(Method(1, 1), task.seed, drawn[0].lr)
    t.objective.model.load_state_dict(drawn[len(drawn) // 2].run.model.state_dict())  # for its buffers
    rows = plain_rows(t.batches, task.seed, ROWS)
    began = time.perf_counter()
    height(t.objective, rows, origin)
    side = min(1.0, (seconds / ((time.perf_counter() - began) * ACROSS * DOWN)) ** 0.5)
    if DOWN * side < LEAST:
        return None
    x, y = (_span(np.concatenate([f[:, k] for f in flat]), round(n * side)) for k, n in ((0, ACROSS), (1, DOWN)))
    places = [[origin + directions @ torch.tensor([a, b], dtype=torch.float64) for a in x] for b in y]
    z = np.array([[height(t.objective, rows, place) for place in line] for line in places])
    columns = ("train_loss", "step", "seconds")
    paths = [
        Path(r.method.name, f[:, 0], f[:, 1], *(np.array(r.column(name)) for name in columns))
        for r, f in zip(drawn, flat)
    ]
    return Surface(x, y, z, tuple(paths), shares, len(rows.source))


def principal(away: Tensor) -> tuple[Tensor, tuple[float, float]] | None:
    """The two principal directions [p, 2] of places [m, p], and the share of the variance that each holds; None where
    there is only one. By the matrix of inner products [m, m]: p may be large, m is not.

    >>> directions, shares = principal(torch.tensor([[2.0, 0, 0], [-2, 0, 0], [0, 1, 0], [0, -1, 0]]).double())
    >>> directions.abs().round().tolist(), [round(s, 3) for s in shares]
    ([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], [0.8, 0.2])
    """
    centred = away - away.mean(0)
    values, vectors = torch.linalg.eigh(centred @ centred.T)
    if len(values) < 2 or float(values[-2]) <= 1e-12 * float(values[-1]):
        return None
    directions = centred.T @ vectors[:, [-1, -2]]
    first, second = (values[[-1, -2]] / values.sum()).tolist()
    return directions / directions.norm(dim=0), (first, second)


def height(objective: Objective, rows: Batches, place: Tensor) -> float:
    """The mean loss of the rows with these weights [p]."""
    trained = [p for p in objective.model.parameters() if p.requires_grad]
    with torch.no_grad():
        vector_to_parameters(place.to(trained[0]), trained)
    return evaluate(objective, rows.epoch(ROWS))["loss"]


def _span(values: Floats, places: int) -> Floats:
    low, high = float(values.min()), float(values.max())
    room = ROOM * (high - low)
    return np.linspace(low - room, high + room, places)
