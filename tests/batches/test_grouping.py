"""Grouping by length keeps every row and the shuffle's quality, and says what it saves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import handful
from handful.base.errors import HandfulError
from handful.batches.grouped import Grouped, row_lengths
from handful.batches.order import Order


def padding_by_hand(lengths, rows, batch):
    computed = used = 0
    for start in range(0, len(rows), batch):
        some = [lengths[r] for r in rows[start : start + batch]]
        computed += max(some) * len(some)
        used += sum(some)
    return 1 - used / computed


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 150),
    batch=st.integers(1, 20),
    windows=st.integers(1, 9),
    start=st.integers(0, 400),
    count=st.integers(0, 200),
    shuffle=st.sampled_from(["exact", "block", "none"]),
)
def test_any_range_is_a_pure_function_of_position_and_epochs_stay_whole(n, batch, windows, start, count, shuffle):
    lengths = np.random.default_rng(n).integers(1, 30, n)
    grouped = Grouped(Order(n, seed=2, shuffle=shuffle), lengths, batch, windows * batch)
    whole = grouped[0 : 4 * n]
    for epoch in range(4):
        assert sorted(whole[epoch * n : (epoch + 1) * n].tolist()) == list(range(n))
    stop = min(start + count, 4 * n)
    start = min(start, stop)
    again = Grouped(Order(n, seed=2, shuffle=shuffle), lengths, batch, windows * batch)
    assert again[start:stop].tolist() == whole[start:stop].tolist()


def test_padding_is_what_counting_by_hand_gives():
    lengths = np.random.default_rng(0).integers(1, 200, 1003)
    grouped = Grouped(Order(1003, seed=1), lengths, batch=16)
    said = grouped.padding()
    assert said.before == pytest.approx(padding_by_hand(lengths, grouped.order[0:1003], 16), abs=1e-12)
    assert said.after == pytest.approx(padding_by_hand(lengths, grouped[0:1003], 16), abs=1e-12)
    assert said.before > 0.4
    assert said.after < 0.1
    assert said.saved == pytest.approx(1 - (1 - said.before) / (1 - said.after))
    assert "of the work saved" in str(said)


def test_the_quality_of_the_shuffle_is_kept():
    n = 40_000
    lengths = np.random.default_rng(0).geometric(0.02, n)
    grouped = Grouped(Order(n, seed=3), lengths, batch=32)
    quality = grouped.quality(32)
    assert quality["VIF"].verdict == "good"
    assert quality["co-batch probability, lag 1"].verdict == "good"
    assert quality["autocorrelation, largest"].verdict == "good"


def test_mini_batches_do_not_come_in_order_of_length():
    n, batch = 6400, 32
    lengths = np.random.default_rng(0).integers(1, 500, n)
    grouped = Grouped(Order(n, seed=0), lengths, batch)
    means = lengths[grouped[0:n]].reshape(-1, batch).mean(axis=1)
    neighbours = np.corrcoef(means[:-1], means[1:])[0, 1]
    assert abs(neighbours) < 4 / np.sqrt(len(means))


def test_batches_are_homogeneous_in_later_epochs_too():
    """An epoch whose size is no multiple of the mini-batch shifts where the next one's mini-batches begin."""
    n, batch = 1003, 16
    lengths = np.random.default_rng(0).integers(1, 200, n)
    grouped = Grouped(Order(n, seed=1), lengths, batch)
    rows = grouped[0 : 16 * n]
    later = rows[4 * n // batch * batch : 5 * n // batch * batch]
    assert padding_by_hand(lengths, later, batch) < 0.12


def test_seeds_and_epochs_differ():
    lengths = np.arange(200) % 7
    a, b = (Grouped(Order(200, seed=s), lengths, 10) for s in (0, 1))
    assert a[0:200].tolist() != b[0:200].tolist()
    assert a[0:200].tolist() != a[200:400].tolist()


def test_batches_take_it_as_an_order():
    texts = [" ".join(["word"] * (1 + i % 9)) + f" {i}" for i in range(90)]
    source = handful.open({"text": texts, "y": np.arange(90) % 3})
    lengths = row_lengths(source, "text")
    assert lengths.tolist() == [2 + i % 9 for i in range(90)]
    batches = handful.Batches(source, Grouped(Order(90), lengths, 10, 90))
    seen = np.concatenate([batches.at(p, 10).rows for p in range(0, 90, 10)])
    assert sorted(seen.tolist()) == list(range(90))


def test_mistakes_are_named():
    with pytest.raises(HandfulError, match=r"lengths have shape \[3\] for 4 rows"):
        Grouped(Order(4), [1, 2, 3], 2)
    with pytest.raises(HandfulError, match="smaller than a mini-batch"):
        Grouped(Order(4), [1, 2, 3, 4], 3, window=2)
    with pytest.raises(HandfulError, match="at least one row"):
        Grouped(Order(4), [1, 2, 3, 4], 0)
    with pytest.raises(HandfulError, match="all have one shape"):
        row_lengths(handful.open("iris"), "target")


def test_ragged_columns_have_lengths():
    source = handful.open({"ids": [[1], [1, 2, 3], [4, 5]]})
    assert row_lengths(source, "ids").tolist() == [1, 3, 2]
