"""order.quality: each measure against a plain loop, the promised figures, and orders that must fail."""

from pathlib import Path

import numpy as np
import pytest

from handful.base.errors import HandfulError
from handful.batches import shuffle_quality
from handful.batches.arguments import recommended_window
from handful.batches.order import Order

CIFAR = Path(__file__).parents[3] / "shared" / "data" / "cifar10-train.parquet"


class Patterned(Order):
    """An order with a fault, to see that the table finds it: `fault(order, epoch) -> ids of that epoch`."""

    def __init__(self, n, fault):
        super().__init__(n)
        self.fault = fault

    def __getitem__(self, positions):
        ids = [self.fault(self, e) for e in range(positions.start // self.n, (positions.stop - 1) // self.n + 1)]
        first = positions.start % self.n
        return np.concatenate(ids)[first : first + positions.stop - positions.start]


def clean(order, epoch):
    return np.random.default_rng(epoch).permutation(order.n)


# ---- the promised figures


@pytest.mark.parametrize(("n", "batch"), [(50_000, 256), (1000, 32), (4097, 1024), (100_000, 10), (65_537, 128)])
def test_exact_has_a_vif_of_1(n, batch):
    quality = Order(n, seed=1).quality(batch)
    assert 0.97 <= quality["VIF"].value <= 1.03
    assert quality["VIF"].verdict == "good"
    assert quality.passed, str(quality)
    assert {row.verdict for row in quality.rows} <= {"good", "could not tell"}, str(quality)


def test_exact_beyond_storage_has_a_vif_of_1():
    quality = Order(10**9, seed=1).quality(256)
    assert 0.97 <= quality["VIF"].value <= 1.03
    assert quality.passed, str(quality)


@pytest.mark.parametrize(("n", "batch", "block"), [(200_000, 64, 8), (200_003, 50, 13), (150_001, 128, 4)])
def test_block_at_the_recommended_window_has_a_vif_of_at_most_1_05(n, batch, block):
    order = Order(n, shuffle="block", block=block, window=recommended_window(batch, block))
    assert n > 8 * order.window
    quality = order.quality(batch, epochs=10)
    assert 0.97 <= quality["VIF"].value <= 1.05, str(quality)
    assert quality.passed, str(quality)


def test_vif_of_a_block_shuffle_is_as_the_formula_says():
    batch, block, n = 64, 16, 300_000
    for window in (2048, 8192):
        quality = Order(n, shuffle="block", block=block, window=window).quality(batch)
        assert quality["VIF"].value == pytest.approx(1 + batch * block / window, rel=0.06)
        assert quality["VIF"].verdict == "fail"
        assert quality["co-batch probability, lag 1"].verdict == "high"


@pytest.mark.skipif(not CIFAR.exists(), reason=f"{CIFAR} is not on this machine")
@pytest.mark.parametrize("kw", [{}, {"shuffle": "block", "block": 8, "window": recommended_window(32, 8)}])
def test_class_sorted_cifar10(kw):
    parquet = pytest.importorskip("pyarrow.parquet")
    name = next(c for c in parquet.read_schema(CIFAR).names if "label" in c)
    labels = np.sort(parquet.read_table(CIFAR, columns=[name])[name].to_numpy())
    assert len(labels) == 50_000
    quality = Order(len(labels), seed=3, **kw).quality(32, epochs=8, labels=labels)
    for measure in ("VIF", "VIF of classes"):
        assert 0.97 <= quality[measure].value <= 1.05, str(quality)
        assert quality[measure].verdict == "good"
    assert quality.passed, str(quality)


def test_a_sorted_order_fails_and_says_so():
    quality = Order(5000, shuffle="none").quality(50, labels=np.arange(5000) // 500)
    for measure in ("VIF", "VIF of classes", "autocorrelation, largest", "correlation of successive epochs"):
        assert quality[measure].verdict == "fail"
    assert not quality.passed
    assert "fail" in str(quality)


def test_replacement_is_judged_as_independent_draws():
    weights = np.linspace(0, 1, 2000)
    for w in (None, weights):
        quality = Order(2000, shuffle="replacement", weights=w).quality(500, epochs=400, labels=np.arange(2000) % 3)
        assert 0.95 < quality["VIF"].value < 1.05
        assert 0.95 < quality["VIF of classes"].value < 1.05
        assert quality["co-batch probability, lag 8"].value == pytest.approx(1, abs=0.02)
        assert quality.passed, str(quality)


# ---- faults are found


def test_a_stratified_order_has_too_small_a_vif():
    def even(order, epoch):  # every batch of 50 takes five rows of each tenth
        return np.random.default_rng(epoch).permuted(np.arange(order.n).reshape(10, -1), axis=1).T.ravel()

    quality = Patterned(5000, even).quality(50)
    assert quality["VIF"].value < 0.1
    assert quality["VIF"].verdict == "fail"


def test_a_bad_tail_is_found_in_the_last_tenth():
    def sorted_tail(order, epoch):
        ids = clean(order, epoch)
        ids[-200:] = np.sort(ids[-200:])
        return ids

    quality = Patterned(10_000, sorted_tail).quality(100)
    assert quality["VIF, worst tenth of epoch (10)"].verdict == "fail"


def test_a_rows_follow_pattern_is_found_by_autocorrelation():
    def pairs(order, epoch):  # each row is followed, 256 places on, by the next row of storage
        half = np.random.default_rng(epoch).permutation(order.n // 2).reshape(-1, 256)
        return np.stack([2 * half, 2 * half + 1], axis=1).ravel()

    quality = Patterned(51_200, pairs).quality(256)
    assert quality["autocorrelation, largest"].value > 0.4
    assert quality["autocorrelation, largest"].verdict == "fail"
    assert quality["VIF"].verdict == "good"


def test_a_repeated_epoch_is_found():
    quality = Patterned(5000, lambda order, epoch: clean(order, 7)).quality(50)
    assert quality["correlation of successive epochs"].value == pytest.approx(1)
    assert quality["correlation of successive epochs"].verdict == "fail"


def test_a_buffer_shuffle_fails():
    def buffered(order, epoch):
        rng, out, buffer = np.random.default_rng(epoch), [], []
        for row in range(order.n):
            buffer.append(row)
            if len(buffer) > 500:
                i = int(rng.integers(len(buffer)))
                buffer[i], buffer[-1] = buffer[-1], buffer[i]
                out.append(buffer.pop())
        rng.shuffle(buffer)
        return np.array(out + buffer)

    assert Patterned(20_000, buffered).quality(64, epochs=2)["VIF"].value > 20


# ---- against plain loops


def test_measures_agree_with_plain_loops():
    n, batch, epochs, lag = 600, 50, 3, 8
    order = Order(n, seed=4, shuffle="block", block=4, window=60)
    quality = order.quality(batch, epochs=epochs)
    ids = [order[e * n : (e + 1) * n].tolist() for e in range(epochs)]
    ratios, together, batches = [], 0, 0
    p = 0.1
    variance = batch * p * (1 - p) * (n - batch) / (n - 1)
    for epoch in ids:
        for i in range(0, n, batch):
            rows = epoch[i : i + batch]
            ratios += [(sum(r * 10 // n == t for r in rows) - batch * p) ** 2 / variance for t in range(10)]
            together += sum(r + lag in rows for r in rows)
            batches += 1
    assert quality["VIF"].value == pytest.approx(sum(ratios) / len(ratios))
    expected = batches * batch * (batch - 1) / (n * (n - 1)) * (n - lag)
    assert quality["co-batch probability, lag 8"].value == pytest.approx(together / expected)
    x = np.array(ids) - np.mean(ids)
    r = [np.mean([x[e] @ np.roll(x[e], -k) for e in range(epochs)]) / (n * x.var()) for k in range(1, 300)]
    assert abs(quality["autocorrelation, largest"].value) == pytest.approx(np.abs(r).max())
    between = np.mean([x[0] @ x[1], x[1] @ x[2]]) / (n * x.var())
    assert quality["correlation of successive epochs"].value == pytest.approx(between)


def test_the_last_rows_of_an_epoch_are_looked_at():
    ids = np.arange(2 * 103).reshape(2, 1, 103)
    batches, places = shuffle_quality._batches(ids, np.zeros(1, dtype=np.int64), 10)
    assert batches.shape == (20, 10)
    assert batches[0, 0] == 0  # head of epoch 0
    assert batches[-1, -1] == 205  # tail of epoch 1
    assert places[-1] == 93


def test_a_large_order_is_sampled_to_its_very_end():
    order = Order(10**9, shuffle="none")
    ids, starts = shuffle_quality._sample(order, 256, 2)
    assert starts[0] == 0
    assert ids.shape[:2] == (2, 20)
    assert ids[0, -1, -1] == 10**9 - 1
    assert ids.size <= shuffle_quality.MOST_ROWS


# ---- the table


def test_the_table_as_rows_and_as_text():
    quality = Order(1000).quality(10, epochs=1)
    rows = quality.to_rows()
    assert list(rows[0]) == ["measure", "value", "error", "ideal", "verdict"]
    assert [row["measure"] for row in rows][:1] == ["VIF"]
    assert "correlation of successive epochs" not in {row["measure"] for row in rows}  # one epoch only
    assert len(str(quality).splitlines()) == len(rows) + 2
    with pytest.raises(KeyError):
        quality["nothing"]


@pytest.mark.parametrize(("n", "batch"), [(1, 1), (2, 1), (2, 2), (3, 2), (11, 11), (64, 1), (70, 70)])
def test_the_smallest_orders_have_a_table(n, batch):
    quality = Order(n).quality(batch, epochs=50, labels=np.zeros(n))
    assert quality.passed, str(quality)
    assert quality["VIF of classes"].verdict == "does not vary"
    assert (quality["VIF"].verdict == "does not vary") == (n == batch)


def test_too_few_batches_is_could_not_tell():
    assert Order(50_000).quality(5000, epochs=1)["VIF"].verdict == "could not tell"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"batch": 0}, "batch of 0"),
        ({"batch": 101}, "choose 1 to 100"),
        ({"batch": 5, "epochs": 0}, "at least one epoch"),
        ({"batch": 5, "labels": [1, 2]}, r"labels have shape \[2\] for 100 rows"),
    ],
)
def test_a_wrong_argument_is_one_clear_sentence(arguments, sentence):
    with pytest.raises(HandfulError, match=sentence):
        Order(100).quality(**arguments)
