"""Items that are small are decoded by one thread or by all, whichever is faster; the result is the same."""

import threading

import pytest

from handful.data.media import items
from handful.data.media.bad_rows import BadItem, BadRows
from handful.data.media.items import in_parallel

COUNT = 5000


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(items, "cores", lambda: 2)


@pytest.mark.parametrize(
    ("seconds", "by_all"),
    [((9, 5, 2, 5), True), ((1, 5, 4.5, 5), False), ((5, 5, 5, 1), False)],  # of each trial: all threads, one, all, one
)
def test_whichever_is_faster_decodes_the_rest(seconds, by_all, monkeypatch):
    clock = iter([reading for duration in seconds for reading in (0.0, duration)])
    monkeypatch.setattr(items.time, "perf_counter", lambda: next(clock))
    used = {}

    def work(i):
        used.setdefault(threading.get_ident(), []).append(i)
        return 2 * i

    assert in_parallel(work, COUNT, small=True) == list(range(0, 2 * COUNT, 2))
    last = {thread for thread, done in used.items() if max(done) >= 4 * 256}
    assert (threading.get_ident() not in last) == by_all
    assert by_all or last == {threading.get_ident()}


def test_bad_items_are_all_named_wherever_they_lie():
    bad = {0, 300, 700, 1023, 1024, COUNT - 1}

    def work(i):
        if i in bad:
            raise BadItem("bad", f"row {i}", "is bad")
        return i

    with pytest.raises(BadRows) as failed:
        in_parallel(work, COUNT, small=True)
    assert {row.row for row in failed.value.bad} == bad


def test_many_cores_decode_each_item_once(monkeypatch):
    monkeypatch.setattr(items, "cores", lambda: 190)
    assert in_parallel(lambda i: i, COUNT, small=True) == list(range(COUNT))


def test_few_items_are_not_worth_a_trial():
    assert set(in_parallel(lambda i: threading.get_ident(), 1000, small=True)) == {threading.get_ident()}
