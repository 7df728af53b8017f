"""What a run reads: memory for the device it trains on."""

import numpy as np
import torch

from handful.batches.prefetch import pinned
from handful.data.base import Batch
from handful.plan.config import Config
from handful.plan.data import make_batches, open_data
from handful.plan.defaults import Chooser


def test_tensors_are_pinned_and_all_else_is_left_as_it_is():
    seen = []

    def pin(value):
        seen.append(value)
        return value + 1

    columns = {"x": torch.zeros(2, 3), "y": torch.tensor([4, 5]), "names": ["a", "b"]}
    batch = pinned(Batch(columns, np.array([7, 8]), np.array([1, 1]), 6), pin)
    assert [value is columns[name] for value, name in zip(seen, ("x", "y"), strict=True)] == [True, True]
    assert batch["x"].tolist() == [[1.0] * 3] * 2
    assert batch["y"].tolist() == [5, 6]
    assert batch["names"] == ["a", "b"]
    assert (batch.rows.tolist(), batch.epochs.tolist(), batch.position) == ([7, 8], [1, 1], 6)


def test_batches_for_a_gpu_are_read_ahead_and_pinned_last_and_those_for_a_cpu_are_not():
    options = Config.of({"batch": 16, "augment": None, "quiet": True})
    data = open_data("iris", options, Chooser(), torch.nn.Linear(4, 3), None, alone=True)
    gpu, size = make_batches(data, options, Chooser(), torch.device("cuda"))
    cpu, _ = make_batches(data, options, Chooser(), torch.device("cpu"))
    assert size == 16
    assert gpu.transforms[-1] is pinned
    assert gpu.prefetch > 0
    assert pinned not in cpu.transforms
    assert cpu.prefetch == 0


def test_all_rows_are_hashed_where_it_will_be_asked_whether_they_are_the_same():
    """By a run that goes on from a folder, or by another rank; else some, spread over the data."""
    x, y = np.arange(2000.0, dtype=np.float32).reshape(1000, 2), np.arange(1000.0)
    other = x.copy()
    other[1, 0] = -1.0  # no row of those spread

    def found(x: np.ndarray, alone: bool) -> str:
        chooser = Chooser()
        open_data((x, y), Config.of({"quiet": True}), chooser, torch.nn.Linear(2, 1), None, alone=alone)
        return chooser.choices["fingerprint"].value

    assert found(x, alone=False) != found(other, alone=False)
    assert found(x, alone=True) == found(other, alone=True)
    assert found(x, alone=True) != found(-x, alone=True)
