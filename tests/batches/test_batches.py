"""Batches by position: any position, size, share and amount of read-ahead gives the same rows."""

import re
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import handful
from handful.base.errors import HandfulError
from handful.batches.batches import Batches
from handful.batches.grouped import row_lengths
from handful.data.base import Source
from handful.transform import augment
from handful.transform.language import LanguageSource

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


@given(st.integers(0, 100_000), st.integers(1, 700), st.integers(1, 4), st.sampled_from(["exact", "block", "none"]))
def test_a_stream_is_the_batches_of_its_positions(start, size, ranks, shuffle):
    n = 20_000  # long enough for the next epoch to be built by a thread, sizes from many to a stretch to few
    batches = Batches(handful.open({"x": np.arange(n)}), handful.Order(n, seed=3, shuffle=shuffle))
    share = (ranks - 1, ranks)
    for step, batch in zip(range(40), batches.stream(start, size, share), strict=False):
        expected = batches.at(start + step * size, size, share)
        assert batch.position == expected.position
        assert np.array_equal(batch.rows, expected.rows)
        assert np.array_equal(batch.epochs, expected.epochs)
        assert torch.equal(batch.tensor("x"), expected.tensor("x"))


def test_a_batch_that_is_kept_is_not_overwritten_by_later_ones():
    n = 4000
    data = np.random.default_rng(0).integers(0, 255, (n, 3000), dtype=np.uint8)
    stream = Batches(handful.open({"x": data}), handful.Order(n)).stream(0, 400)  # 1.2 MB each: memory is used again
    kept = [next(stream) for _ in range(25)]
    for batch in kept:
        assert np.array_equal(batch.tensor("x").numpy(), data[batch.rows])


def test_the_next_epoch_is_built_by_a_thread_while_this_one_is_read():
    n, built = 160_000, []

    class Watched(handful.Order):
        def prepare(self, epoch):
            built.append((epoch, threading.current_thread().name))
            super().prepare(epoch)

    stream = Batches(handful.open({"x": np.arange(n)}), Watched(n, seed=1)).stream(0, 4000)
    for _ in range(90):
        next(stream)
    assert built == [(1, "handful-epoch"), (2, "handful-epoch")]


def test_an_order_of_ones_own_that_leaves_the_data_is_an_error():
    class Wrong(handful.Order):
        def __getitem__(self, positions):
            return super().__getitem__(positions) + 1

    with pytest.raises(IndexError, match=f"row {N} is outside"):
        for _ in zip(range(10), Batches(handful.open({"x": np.arange(N)}), Wrong(N)).stream(0, 20), strict=False):
            pass


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda s, o: handful.Batches(np.zeros(5), o), "read from a source"),
        (lambda s, o: handful.Batches(s, 6), "must be a handful.Order"),
        (lambda s, o: handful.Batches(s, o, prefetch=-1), "prefetch must be at least 0"),
        (lambda s, o: handful.Batches(s, o).at(0, 1.5), "must be a whole number"),
        (lambda s, o: handful.Batches(s, o).at(-1, 2), "position must be at least 0"),
        (lambda s, o: handful.Batches(s, o).at(0, 2, (2, 2)), "share must be"),
        (lambda s, o: handful.Batches(s, o).at(0, 2, (0, 0)), "share must be"),
        (lambda s, o: next(handful.Batches(s, o).stream(None, 2)), "position must be a whole number"),
        (lambda s, o: next(handful.Batches(s, o).stream(0, "2")), "must be a whole number"),
        (lambda s, o: handful.Loader(s, 2), "draws from handful.Batches"),
        (lambda s, o: handful.Loader(handful.Batches(s, o), "2"), "must be a whole number"),
        (lambda s, o: handful.Grouped(o, -np.ones(6), 2), "the length of row 0 is -1"),
        (lambda s, o: row_lengths(s, "nope"), "no column 'nope'"),
        (lambda s, o: LanguageSource([1, 2, 3], 2), "one long array of whole numbers"),
        (lambda s, o: LanguageSource(np.zeros(9), 2), "one long array of whole numbers"),
        (lambda s, o: LanguageSource(np.arange(9), 2.5), "length must be a whole number"),
    ],
)
def test_a_mistake_is_one_sentence(call, says):
    with pytest.raises(HandfulError, match=re.escape(says)):
        call(handful.open({"x": np.arange(6)}), handful.Order(6))
