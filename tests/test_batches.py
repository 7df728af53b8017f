"""Batches by position: any position, size, share and amount of read-ahead gives the same rows."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import handful
from handful import augment
from handful.batches import Batches
from handful.errors import HandfulError
from handful.source.base import Source

N = 37


class Slow(Source):
    """Rows that know which thread read them."""

    name, in_memory, notes, target = "slow", False, [], None

    def __init__(self):
        self.columns, self.readers, self.reads = handful.open({"x": np.arange(N)}).columns, set(), 0

    def __len__(self):
        return N

    def read(self, rows):
        self.readers.add(threading.current_thread().name)
        self.reads += 1
        return {"x": torch.from_numpy(rows.copy())}


@given(st.integers(0, 200), st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 5))
def test_sizes_and_shares_may_change_between_two_steps_without_a_row_lost_or_doubled(start, sizes, ranks):
    batches = Batches(handful.open({"x": np.arange(N)}), handful.Order(N, seed=2))
    rows, position = [], start
    for size in sizes:
        parts = [
            batches.at(position, size, (r, ranks)) for r in range(ranks) if size * (r + 1) // ranks > size * r // ranks
        ]
        for part in parts:
            rows += part.tensor("x").tolist()
            assert part.rows.tolist() == part.tensor("x").tolist()
        position += size
    assert rows == handful.Order(N, seed=2)[start:position].tolist()


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_read_ahead_changes_nothing_but_who_reads(prefetch):
    source = Slow()
    batches = Batches(source, handful.Order(N, seed=1), prefetch=prefetch)
    stream = batches.stream(5, 8)
    for k in range(30):
        batch = next(stream)
        assert batch.position == 5 + 8 * k
        assert batch.rows.tolist() == handful.Order(N, seed=1)[batch.position : batch.position + 8].tolist()
        assert batch.epochs.tolist() == [p // N for p in range(batch.position, batch.position + 8)]
    stream.close()
    assert (threading.current_thread().name in source.readers) == (prefetch == 0)


def test_loader_threads_leave_the_training_thread_its_cores():
    before = torch.get_num_threads()
    stream = Batches(Slow(), handful.Order(N), prefetch=2).stream(0, 4)
    next(stream)
    assert torch.get_num_threads() == before
    stream.close()


def test_an_error_in_a_loader_thread_reaches_the_caller():
    class Broken(Slow):
        def read(self, rows):
            raise HandfulError("row 3 cannot be read")

    with pytest.raises(HandfulError, match="row 3"):
        next(Batches(Broken(), handful.Order(N), prefetch=3).stream(0, 4))


def test_an_epoch_is_every_row_once_in_storage_order():
    for prefetch in (0, 3):
        batches = list(Batches(Slow(), handful.Order(N), prefetch=prefetch).epoch(8))
        assert [len(b) for b in batches] == [8, 8, 8, 8, 5]
        assert np.concatenate([b.rows for b in batches]).tolist() == list(range(N))


def test_augmentation_does_not_depend_on_the_batch_and_differs_every_epoch():
    source = handful.open({"x": torch.rand(N, 3, 12, 12)})
    steps = augment.parse("flip | shift(2) | noise(0.1)").bind(seed=4)

    def rows(size, prefetch):
        stream = Batches(source, handful.Order(N, seed=3), [steps], prefetch=prefetch).stream(0, size)
        seen = {}
        while len(seen) < 2 * N:
            batch = next(stream)
            seen |= {
                (e, r): x for e, r, x in zip(batch.epochs.tolist(), batch.rows.tolist(), batch.tensor("x"), strict=True)
            }
        return seen

    small, large = rows(5, 0), rows(19, 2)
    for address in list(small)[: 2 * N]:
        torch.testing.assert_close(small[address], large[address], rtol=0, atol=2e-6)
    assert all(not torch.equal(small[0, r], small[1, r]) for r in range(N))


def test_an_order_for_other_data_is_refused():
    with pytest.raises(HandfulError, match="order is for 5 rows"):
        Batches(Slow(), handful.Order(5))
    with pytest.raises(HandfulError, match="at least one row"):
        Batches(Slow(), handful.Order(N)).at(0, 0)
