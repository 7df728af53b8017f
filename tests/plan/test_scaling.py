"""The model of step time against ranks, held against a search, and the link against messages of known times."""

import numpy as np
import pytest

import handful
from handful.plan.scaling import Link, measure_link, predict
from handful.training.process.messages import Messages


@pytest.mark.parametrize("phi", [100.0, 1e5, None])
def test_the_batch_for_so_many_ranks_is_the_best_of_all(phi):
    a, b, size, link = 2e-3, 5e-5, 1e8, Link(2e-5, 1e10)
    one = max(n / ((a + b * n) * (n + phi)) for n in range(1, 4000)) if phi else 0.9 / b
    for row in predict(a, b, size, link, phi, (1, 8, 64, 1024), 10**9):
        n, sizes = row["ranks"], np.arange(row["ranks"], 10 * row["batch"], max(1, row["batch"] // 500))
        seconds = a + 2 * (n - 1) * (2e-5 + 1e8 / n / 1e10) + b * sizes / n
        if phi:
            best = (sizes / (seconds * (sizes + phi))).max()
            assert row["efficiency"] == pytest.approx(best / (n * one), rel=1e-3)
        else:
            assert row["examples_per_second"] == pytest.approx(0.9 * n / b, rel=1e-3)


def test_more_ranks_than_rows_take_a_row_each():
    (row,) = predict(1e-6, 1.0, 0.0, Link(0.0, 1e9), 1.0, (64,), 8)
    assert row["batch"] == 64


class Slow(Messages):
    """Messages that take what a ring over a link would; the clock is its own."""

    def __init__(self, link, ranks):
        super().__init__(0, ranks)
        self.link, self.now = link, 0.0

    def sum(self, tensor):
        self.now += self.link.sum(tensor.nbytes, self.size)

    def finish(self, work, tensor, *, keep=True):
        pass

    def told(self, text):
        return text


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_a_link_is_found_from_the_times_of_its_messages(ranks, monkeypatch):
    slow = Slow(Link(3e-5, 2e9), ranks)
    monkeypatch.setattr("handful.plan.scaling.time.perf_counter", lambda: slow.now)
    found = measure_link(slow, 1 << 22, "cpu")
    assert found.delay == pytest.approx(3e-5, rel=1e-6)
    assert found.speed == pytest.approx(2e9, rel=1e-6)


def test_advice_for_ranks_that_are_not_there_asks_for_the_link():
    with pytest.raises(handful.HandfulError, match=r"give link=\(2e-5, 1e10\)"):
        handful.advise("linear", "iris", ranks=(8,))
    advice = handful.advise("linear", "iris", ranks=(2, 1), link=(1e-5, 1e9), until="epochs(20)")
    assert [row["ranks"] for row in advice.ranks] == [1, 2]
    assert advice.ranks[0]["efficiency"] == pytest.approx(1.0)
    assert "efficiency" in str(advice)
