"""The promises of order.py: position not state, and a sound shuffle. Each sentence of DESIGN.md is a test."""

import copy
import json
import math
import pickle
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handful.base import keys
from handful.base.errors import HandfulError
from handful.batches.arguments import recommended_window
from handful.batches.order import Order
from handful.batches.permutation import CHUNK, Blocks, Cipher, sorted_rows, words

POWERS = sorted({2**k + d for k in range(1, 18) for d in (-1, 0, 1)} | {65_537, 262_145})
sizes = st.one_of(st.integers(1, 4096), st.sampled_from(POWERS))
shuffles = st.sampled_from(["exact", "block", "none", "replacement"])
CHI2_999 = {1: 10.83, 5: 20.52, 23: 49.73, 119: 172.71, 719: 841.0}  # scipy.stats.chi2.ppf(0.999, dof)
PINNED = {
    "exact": [3, 8, 0, 7, 4, 6, 1, 5, 9, 2, 2, 6],
    "block": [1, 3, 4, 2, 5, 9, 2, 1, 0, 5, 4, 8],
    "replacement": [4, 6, 0, 3, 8, 1, 9, 4],
    "huge": [763183304, 229394445, 379407702, 104166064],
}


def any_order(draw_n: int, seed: int, shuffle: str, block: int, window: int) -> Order:
    sizes = {"block": block, "window": window} if shuffle == "block" else {}
    return Order(draw_n, seed=seed, shuffle=shuffle, **sizes)


def is_permutation(ids: np.ndarray, n: int) -> bool:
    return len(ids) == n and bool((np.bincount(ids, minlength=n) == 1).all()) and ids.max() == n - 1


# ---- every row exactly once an epoch


@settings(max_examples=120, deadline=None)
@given(n=sizes, seed=st.integers(-(2**70), 2**70), epoch=st.integers(0, 10**9))
def test_every_exact_epoch_is_a_permutation(n, seed, epoch):
    assert is_permutation(Order(n, seed=seed)[epoch * n : (epoch + 1) * n], n)


@settings(max_examples=120, deadline=None)
@given(n=sizes, seed=st.integers(0, 99), epoch=st.integers(0, 10**9), data=st.data())
def test_every_block_epoch_is_a_permutation(n, seed, epoch, data):
    small = n <= 5000
    block = data.draw(st.integers(1 if small else 16, 2 * n))
    window = data.draw(st.integers(1 if small else 5000, 2 * n))
    order = Order(n, seed=seed, shuffle="block", block=block, window=window)
    assert is_permutation(order[epoch * n : (epoch + 1) * n], n)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_tiny_block_orders_for_every_block_and_window(n):
    for block in range(1, n + 3):
        for window in range(1, n + 3):
            order = Order(n, shuffle="block", block=block, window=window)
            for epoch in range(4):
                assert is_permutation(order[epoch * n : (epoch + 1) * n], n), (block, window, epoch)


@pytest.mark.parametrize("n", [*POWERS, 1, 10, 1000, 999_983])
def test_the_cipher_is_a_permutation(n):
    assert is_permutation(Cipher(keys.key("test", n, bits=128), n).rows(0, n), n)


def test_a_block_epoch_through_ciphers_is_a_permutation():
    n = 600_011  # more than 2^15 blocks, and windows of more than 2^15 rows, and a short last block
    epoch = Blocks(0, 5, n, block=7, window=100_000)
    assert isinstance(epoch._full, Cipher)
    assert is_permutation(epoch.rows(0, n), n)
    assert isinstance(epoch._window(0, epoch._start(1)), Cipher)


def test_an_exact_order_too_large_to_store_is_a_permutation(monkeypatch):
    monkeypatch.setattr("handful.batches.order.SORTED_EPOCH", 1000)
    for n in (1001, 65_537, 100_003):
        order = Order(n, seed=3)
        assert is_permutation(order[n : 2 * n], n)
        assert (order[n - 50 : n + 50] == np.concatenate([order[n - 50 : n], order[n : n + 50]])).all()


# ---- uniform


def chi_square(permutations: list[tuple[int, ...]], n: int) -> float:
    cells, expected = math.factorial(n), len(permutations) / math.factorial(n)
    _, counts = np.unique(np.array(permutations) @ (10 ** np.arange(n)), return_counts=True)
    return float(((counts - expected) ** 2).sum() / expected + expected * (cells - len(counts)))


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_exact_is_uniform_over_all_permutations(n):
    epochs = max(2000, 12 * math.factorial(n))
    found = [tuple(row) for row in Order(n, seed=1)[0 : epochs * n].reshape(epochs, n).tolist()]
    assert chi_square(found, n) < CHI2_999[math.factorial(n) - 1]


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_the_cipher_is_uniform_over_all_permutations(n):
    number = max(1000, 8 * math.factorial(n))
    found = [tuple(Cipher(keys.key("test", i, bits=128), n).rows(0, n).tolist()) for i in range(number)]
    assert chi_square(found, n) < CHI2_999[math.factorial(n) - 1]


def test_chi_square_would_notice_a_weak_cipher(monkeypatch):
    monkeypatch.setattr("handful.batches.permutation.ROUNDS", 4)
    found = [tuple(Cipher(keys.key("test", i, bits=128), 6).rows(0, 6).tolist()) for i in range(5760)]
    assert chi_square(found, 6) > 2 * CHI2_999[719]


@pytest.mark.parametrize(("n", "block", "window"), [(5, 2, 2), (7, 3, 1), (4, 3, 1)])
def test_blocks_lead_an_epoch_equally_often_the_short_one_too(n, block, window):
    epochs = 3000
    ids = Order(n, shuffle="block", block=block, window=window)[0 : epochs * n].reshape(epochs, n)
    first = np.bincount(ids[:, 0] // block, minlength=-(-n // block)) / epochs
    assert np.abs(first - 1 / len(first)).max() < 0.04  # four standard errors


@pytest.mark.parametrize(("block", "window"), [(2, 4), (2, 100), (9, 1), (1, 3)])
def test_a_block_order_of_one_window_is_uniform_over_all_permutations(block, window):
    ids = Order(5, shuffle="block", block=block, window=window)[0 : 3000 * 5]
    assert chi_square([tuple(row) for row in ids.reshape(3000, 5).tolist()], 5) < CHI2_999[119]


# ---- keyed by a hash of (seed, epoch)


def test_no_two_of_a_million_seed_epoch_pairs_share_a_key():
    found = {keys.key("order", seed, epoch, bits=128) for seed in range(1000) for epoch in range(1000)}
    assert len(found) == 10**6


@pytest.mark.parametrize("kw", [{}, {"shuffle": "block", "block": 4, "window": 200}])
def test_seed_1_epoch_1_is_not_seed_2_epoch_0(kw):
    one, two = Order(1000, seed=1, **kw), Order(1000, seed=2, **kw)
    assert (one[1000:2000] == two[0:1000]).mean() < 0.02
    assert (one[0:1000] == two[1000:2000]).mean() < 0.02
    assert (one[0:1000] == one[1000:2000]).mean() < 0.02


def test_the_rows_are_the_same_forever():
    """Pinned: if one of these changes, ALGORITHM must be raised."""
    assert Order(10, seed=0)[0:12].tolist() == PINNED["exact"]
    assert Order(10, shuffle="block", block=3, window=6)[5:17].tolist() == PINNED["block"]
    assert Order(10, shuffle="replacement")[0:8].tolist() == PINNED["replacement"]
    assert Order(10**9, seed=7)[10**12 : 10**12 + 4].tolist() == PINNED["huge"]


@pytest.mark.parametrize("n", [1, 2, 1000, CHUNK + 1, 1 << 21])
def test_sorted_rows_are_the_order_of_their_words(n):
    key = keys.key("test", n, bits=128)
    assert (sorted_rows(key, n) == np.argsort(words(key, 0, n))).all()
    assert sorted_rows(key, n).dtype == np.int32


def test_ties_of_packed_words_are_broken_by_the_full_words(monkeypatch):
    """Words that agree in their upper 50 bits in runs of 16, so that nearly every row ties."""
    full = words(keys.key("test", bits=128), 0, 4096)
    crowded = (full & np.uint64(0xFF00000000000000)) | (full & np.uint64(0xFFF))
    crowded = (crowded & ~np.uint64(0xFFF)) | np.random.default_rng(0).permutation(4096).astype(np.uint64)
    monkeypatch.setattr("handful.batches.permutation.words", lambda key, first, last: crowded[first:last])
    assert (sorted_rows(0, 4096) == np.argsort(crowded)).all()


# ---- position, not state


@settings(max_examples=150, deadline=None)
@given(
    n=st.one_of(st.integers(1, 50), st.sampled_from([1000, CHUNK - 1, CHUNK + 1, 20_000])),
    shuffle=shuffles,
    seed=st.integers(0, 9),
    block=st.integers(1, 60),
    window=st.integers(200, 30_000),
    start=st.integers(0, 10**15),
    cuts=st.lists(st.integers(0, 300), max_size=8),
)
def test_slices_concatenate(n, shuffle, seed, block, window, start, cuts):
    order = any_order(n, seed, shuffle, block, window)
    ends = [start, *sorted(start + cut for cut in cuts), start + 300]
    parts = [order[a:b] for a, b in pairwise(ends)]
    again = any_order(n, seed, shuffle, block, window)  # nothing carried over from the reads above
    assert (np.concatenate(parts) == again[start : start + 300]).all()
    assert again[start : start + 300].dtype == np.int64


@pytest.mark.parametrize("shuffle", ["exact", "block", "none"])
def test_changing_the_batch_size_mid_stream_loses_and_repeats_nothing(shuffle):
    n, order = 10_007, Order(10_007, shuffle=shuffle)
    position, read = 0, []
    for batch in [1, 3, 7, 64, 1000, 4096, 17, 12_000] * 3:
        read.append(Order.from_dict(order.to_dict())[position : position + batch])  # stopped and resumed each time
        position += batch
    stream = np.concatenate(read)
    for epoch in range(len(stream) // n):
        assert is_permutation(stream[epoch * n : (epoch + 1) * n], n)
    assert (stream == order[0:position]).all()


def test_one_slice_over_many_epochs():
    ids = Order(7, seed=2)[3 : 3 + 7 * 1000]
    assert all(is_permutation(epoch, 7) for epoch in ids[4:-3].reshape(-1, 7))


def test_epochs_of_positions():
    order = Order(4)
    assert order.epochs(3, 13).tolist() == [p // 4 for p in range(3, 13)]
    assert order.epochs(10**15, 10**15 + 1).dtype == np.int64
    assert len(order.epochs(5, 5)) == 0


@pytest.mark.parametrize(
    "kw", [{}, {"shuffle": "block"}, {"shuffle": "block", "block": 1024}, {"shuffle": "replacement"}]
)
def test_seeking_far_costs_no_more_than_seeking_to_0(kw):
    def seek(position: int) -> float:
        order, began = Order(10**9, **kw), time.thread_time()
        order[position : position + 256]
        return time.thread_time() - began

    near, far = zip(*[(seek(0), seek(10**12 + i * 10**9 + 123_456)) for i in range(15)])
    assert min(far) < 3 * min(near)


@pytest.mark.parametrize("kw", [{}, {"shuffle": "block", "block": 16, "window": 4000}, {"shuffle": "replacement"}])
def test_threads_may_share_an_order(kw):
    n = 30_000
    order, alone = Order(n, seed=5, **kw), Order(n, seed=5, **kw)
    expected = alone[0 : 8 * n]
    wrong: list[int] = []

    def read(thread: int) -> None:
        for step in range(60):
            at = (thread * n + step * 1777) % (8 * n - 500)
            if not (order[at : at + 500] == expected[at : at + 500]).all():
                wrong.append(at)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_threads_that_want_one_epoch_build_it_once(monkeypatch):
    built = []

    def slow(key: int, n: int) -> np.ndarray:
        built.append(key)
        time.sleep(0.05)
        return sorted_rows(key, n)

    monkeypatch.setattr("handful.batches.order.sorted_rows", slow)
    order = Order(100)
    threads = [threading.Thread(target=lambda: order[0:10]) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


def test_a_reader_cannot_change_the_order():
    order = Order(10)
    first = order[0:10]
    kept = first.copy()
    first[:] = 0
    assert (order[0:10] == kept).all()


# ---- none and replacement


def test_none_is_sequential():
    assert Order(5, shuffle="none")[3:12].tolist() == [3, 4, 0, 1, 2, 3, 4, 0, 1]


def test_replacement_draws_uniformly_and_independently():
    n, draws = 20, 100_000
    ids = Order(n, seed=1, shuffle="replacement")[0:draws]
    counts = np.bincount(ids, minlength=n)
    assert ((counts - draws / n) ** 2).sum() / (draws / n) < 43.82  # chi-square, 19 degrees of freedom, 0.999
    pairs = np.bincount(ids[:-1] * n + ids[1:], minlength=n * n)
    assert ((pairs - draws / n**2) ** 2).sum() / (draws / n**2) < 492  # 399 degrees of freedom, 0.999


def test_replacement_follows_the_weights_and_never_draws_a_weight_of_zero():
    weights = np.array([0.0, 1, 2, 0, 5, 0, 12, 0])
    ids = Order(8, shuffle="replacement", weights=weights)[10**12 : 10**12 + 100_000]
    counts, expected = np.bincount(ids, minlength=8), weights / 20 * 100_000
    assert (counts[weights == 0] == 0).all()
    positive = weights > 0
    assert ((counts - expected)[positive] ** 2 / expected[positive]).sum() < 16.27  # 3 degrees of freedom, 0.999


def test_replacement_takes_weights_of_any_scale():
    for scale in (1e-300, 1.0, 1e308):
        ids = Order(3, shuffle="replacement", weights=np.array([1, 0, 1]) * scale)[0:1000]
        assert set(ids.tolist()) == {0, 2}


def test_weights_are_copied():
    weights = np.array([1.0, 0.0])
    order = Order(2, shuffle="replacement", weights=weights)
    weights[:] = [0, 1]
    assert set(order[0:50].tolist()) == {0}


# ---- written down


@pytest.mark.parametrize(
    "order",
    [
        Order(5),
        Order(9, seed=-(2**80)),
        Order(9, shuffle="block", block=2),
        Order(9, shuffle="none"),
        Order(9, shuffle="replacement"),
    ],
    ids=repr,
)
def test_written_down_and_read_back(order):
    again = Order.from_dict(json.loads(json.dumps(order.to_dict())))
    assert again == order
    assert hash(again) == hash(order)
    assert repr(again) == repr(order)
    assert len(order) == order.n
    for other in (again, copy.deepcopy(order), pickle.loads(pickle.dumps(order))):
        assert (other[0:100] == order[0:100]).all()


def test_orders_that_differ_are_not_equal():
    assert len({Order(5), Order(6), Order(5, seed=1), Order(5, shuffle="none"), Order(5, shuffle="block")}) == 5
    assert Order(5) != "Order(5)"


def test_an_order_by_weight_needs_the_same_weights_again():
    order = Order(3, shuffle="replacement", weights=[1, 2, 3])
    saved = json.loads(json.dumps(order.to_dict()))
    assert Order.from_dict(saved, weights=[1, 2, 3]) == order
    assert copy.deepcopy(order) == order
    with pytest.raises(HandfulError, match="pass weights="):
        Order.from_dict(saved)
    with pytest.raises(HandfulError, match="not the ones"):
        Order.from_dict(saved, weights=[1, 2, 4])


def test_an_order_of_another_algorithm_is_refused():
    with pytest.raises(HandfulError, match="algorithm 99"):
        Order.from_dict({**Order(3).to_dict(), "algorithm": 99})


def test_defaults_of_block_and_window():
    assert recommended_window(256, 16) == 20 * 256 * 16
    order = Order(10**6, shuffle="block")
    assert (order.block, order.window) == (16, recommended_window(512, 16))
    assert Order(10**6, shuffle="block", block=64).window == recommended_window(512, 64)
    assert Order(10**6, shuffle="block", window=40_960).block == 4
    assert Order(10**6, shuffle="block", window=5).block == 1


@pytest.mark.parametrize(("n", "block", "window"), [(100_003, 16, 9000), (99, 7, 30), (1000, 10, 990)])
def test_no_window_is_much_smaller_than_another(n, block, window):
    epoch = Blocks(0, 0, n, block, window)
    starts = [epoch._start(w) for w in range(epoch.windows + 1)]
    assert starts[0] == 0
    assert starts[-1] == n
    widths = np.diff(starts)
    assert widths.max() - widths.min() <= 2 * block
    assert widths.min() > window - block
    assert epoch.windows == 1 or widths.max() < 2 * window + 2 * block


# ---- mistakes


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"n": 0}, "n must be at least 1, not 0"),
        ({"n": -3}, "n must be at least 1"),
        ({"n": 2.5}, "n must be a whole number, not 2.5"),
        ({"n": 5, "seed": "a"}, "seed must be a whole number"),
        ({"n": 5, "shuffle": "exakt"}, "Did you mean 'exact'"),
        ({"n": 5, "shuffle": "???"}, "Known: block, exact, none, replacement"),
        ({"n": 5, "shuffle": "block", "block": 0}, "block must be at least 1"),
        ({"n": 5, "shuffle": "block", "window": -1}, "window must be at least 1"),
        ({"n": 5, "shuffle": "block", "window": 1.5}, "window must be a whole number"),
        ({"n": 5, "block": 4}, "use shuffle='block'"),
        ({"n": 5, "window": 4}, "use shuffle='block'"),
        ({"n": 2, "weights": [1, 1]}, "use shuffle='replacement'"),
        ({"n": 3, "shuffle": "replacement", "weights": [1, 1]}, r"shape \[2\] for 3 rows"),
        ({"n": 2, "shuffle": "replacement", "weights": [1, -1]}, "weight of row 1 is -1.0"),
        ({"n": 2, "shuffle": "replacement", "weights": [math.nan, 1]}, "weight of row 0 is nan"),
        ({"n": 2, "shuffle": "replacement", "weights": [math.inf, 1]}, "weight of row 0 is inf"),
        ({"n": 2, "shuffle": "replacement", "weights": [0, 0]}, "all weights are zero"),
        ({"n": 2, "shuffle": "replacement", "weights": ["a", "b"]}, "one number per row"),
    ],
)
def test_a_wrong_argument_is_one_clear_sentence(arguments, sentence):
    with pytest.raises(HandfulError, match=sentence):
        Order(**arguments)


@pytest.mark.parametrize(
    ("read", "sentence"),
    [
        (lambda o: o[-5:3], "position must be at least 0, not -5"),
        (lambda o: o[0:-1], "position must be at least 0, not -1"),
        (lambda o: o[0:10:2], "no step"),
        (lambda o: o[5:], "with a stop"),
        (lambda o: o[3], r"order\[start:stop\]"),
        (lambda o: list(o), r"order\[start:stop\]"),
        (lambda o: o[0.5:3], "whole number"),
        (lambda o: o[0 : 2**63], "64-bit"),
        (lambda o: o.epochs(-1, 3), "at least 0"),
    ],
)
def test_a_wrong_range_is_one_clear_sentence(read, sentence):
    with pytest.raises(HandfulError, match=sentence):
        read(Order(10))


def test_ranges_that_are_fine():
    order = Order(10)
    assert len(order[5:5]) == 0
    assert len(order[5:3]) == 0
    assert (order[:4:1] == order[np.int64(0) : np.int64(4)]).all()
    assert len(order[2**62 : 2**62 + 5]) == 5
