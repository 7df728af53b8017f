"""The largest micro-batch: planted limits, the longest rows, the guard that keeps the CPU's memory free."""

import numpy as np
import pytest
import torch
from torch import nn

import handful
from handful.base.errors import HandfulError
from handful.base.machine import memory_left
from handful.data.base import Batch
from handful.plan.probe import memory
from handful.plan.probe.memory import longest_rows, measure_memory, repeat

from .conftest import mlp


class Limited(nn.Module):
    """Out of memory beyond `most` rows, as an accelerator would be. seen: in the class, where no trial puts it back."""

    seen: list[int]

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, Limited.seen = most, []

    def forward(self, x):
        self.seen.append(len(x))
        if self.training and len(x) > self.most:
            raise torch.OutOfMemoryError("planted")
        return x


@pytest.mark.parametrize(("most", "largest"), [(1, 1), (5, 4), (8, 8), (1000, 32)])
def test_the_largest_that_ran(training, most, largest):
    limited = Limited(most)
    found = measure_memory(training(mlp(extra=[limited])), 32)
    assert found.largest == largest
    assert largest in limited.seen
    assert found.status == ("bounded" if most == 1000 else "measured")
    assert found.ceiling == largest or most == 1000


def test_one_row_that_does_not_fit_is_one_sentence(training):
    with pytest.raises(HandfulError, match="does not fit in memory"):
        measure_memory(training(mlp(extra=[Limited(0)]), batch=1), 4)


def test_the_cpu_is_never_asked_for_more_than_half_of_what_is_free(training, monkeypatch):
    """With little free memory, sizes whose predicted need is too large are not run."""
    limited = Limited(10**9)
    t = training(mlp(width=4096, extra=[limited]))
    need = measure_memory(t, 64).at(64)
    limited.seen.clear()
    monkeypatch.setattr(memory, "memory_left", lambda page_cache: need)  # half of it may be used: about 32 rows
    found = measure_memory(t, 1024)
    assert found.status == "measured"
    assert 8 <= found.largest <= 32
    assert max(limited.seen) <= 32
    assert "more than is free" in found.reason


def test_bytes_grow_with_rows(training):
    found = measure_memory(training(mlp(width=512)), 64)
    # at least input, tanh output and logits of one row, kept for the backward pass
    assert found.per_row > 4 * (64 + 512 + 10)
    assert found.at(64) > found.at(1)


def test_the_longest_rows_are_the_ones_tried(training):
    generator = np.random.default_rng(0)
    lengths = generator.integers(3, 20, 300)
    lengths[[17, 200]] = 90
    texts = [" ".join(generator.choice(["a", "bc", "def"], n)) for n in lengths]

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Embedding(600, 8), nn.Linear(8, 2)

        def forward(self, x, mask=None):
            return self.out(self.embed(x).mean(1))

    t = training(Bag(), data={"text": texts, "y": generator.integers(0, 2, 300)}, target="y", valid=None)
    width = [t.batches.source.take([row]).tensor("x").shape[1] for row in range(300)]
    rows = longest_rows(t, 4)
    assert rows.tensor("x").shape[1] == max(width) > np.median(width)
    assert all(width[row] == max(width) for row in rows.rows[:2])


def test_repeat_gives_as_many_rows_as_asked(training):
    t = training(mlp())
    batch = Batch({"x": torch.arange(3.0)}, np.arange(3))
    assert repeat(t, batch, 7).tensor("x").tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_free_memory_is_known_here():
    assert 1e7 < memory_left(page_cache=False) <= memory_left() < 1e14


def test_all_rows_that_do_not_fit_on_the_host_go_through_in_parts(monkeypatch):
    # where memory runs out on the host the process is killed, and no exception says so
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3000, 4)), rng.integers(0, 3, 3000)
    given = {"batch": "full", "optimizer": "sgd", "lr": 0.1, "until": "steps(3)", "valid": 0, "quiet": True, "l2": 0.0}
    runs = {}
    for free in (1 << 40, 1 << 21):
        monkeypatch.setattr(memory, "memory_left", lambda page_cache, free=free: free)
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Tanh(), torch.nn.Linear(64, 3)).double()
        runs[free] = handful.fit(model, (x, y), **given)
    whole, parts = runs[1 << 40], runs[1 << 21]
    assert whole.plan.micro_batch is None
    choice = parts.plan.choices["micro_batch"]
    kept = (4 + 64 + 3) * 8  # bytes a row at least: input, hidden values, scores
    assert 8 <= choice.value <= (1 << 19) / kept
    assert choice.status == "bounded"
    assert "3,000 rows at once would need about" in choice.reason
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)
    smaller = handful.fit(torch.nn.Linear(4, 3).double(), (x, y), **given | {"batch": 256})
    assert smaller.plan.micro_batch is None
    given |= {"micro_batch": 1500}
    assert handful.fit(torch.nn.Linear(4, 3).double(), (x, y), **given).plan.micro_batch == 1500
