"""Items that are small are decoded by one thread or by all, whichever is faster; the result is the same."""

import threading
import time

import pytest

from handful.data.media import items
from handful.data.media.bad_rows import BadItem, BadRows
from handful.data.media.items import in_parallel

COUNT = 5000


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(items, "cores", lambda: 2)


def decode_by(used, wait):
    def work(i):
        used.setdefault(threading.get_ident(), []).append(i)
        wait()
        return 2 * i

    return work


def after_the_trial(used):
    """The threads that decoded the last items."""
    return {thread for thread, done in used.items() if max(done) >= 4 * 256}


def test_all_threads_where_they_are_faster():
    used = {}
    assert in_parallel(decode_by(used, lambda: time.sleep(2e-4)), COUNT, small=True) == list(range(0, 2 * COUNT, 2))
    assert len(after_the_trial(used)) == 2


def test_one_thread_where_they_wait_for_each_other():
    used, lock = {}, threading.Lock()

    def hold():
        with lock:
            time.sleep(2e-4)

    assert in_parallel(decode_by(used, hold), COUNT, small=True) == list(range(0, 2 * COUNT, 2))
    assert after_the_trial(used) == {threading.get_ident()}


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
    used = {}
    in_parallel(decode_by(used, lambda: None), 1000, small=True)
    assert set(used) == {threading.get_ident()}
