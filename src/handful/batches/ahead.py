"""Rows that are to come, asked for before they are needed: sorted, joined into runs, by one thread."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from handful.data.base import Rows, Source, Subset

if TYPE_CHECKING:
    from handful.batches.order import Order

_BATCHES = 16
_LONG = 1 << 17


class Coming:
    """Asks for whole stretches of an order, one stretch ahead of where it is read.

    A stretch is a window of a block shuffle (its rows, sorted, are whole blocks) or else _BATCHES mini-batches.
    Sources that cannot be asked, and those in memory, are left alone.
    """

    def __init__(self, source: Source, order: "Order", position: int, size: int) -> None:
        self._ask = None if source.in_memory else asker(source)
        self._order, self._done = order, position
        self._step = getattr(order, "window", None) or _BATCHES * size
        self._pool = ThreadPoolExecutor(1, "handful-ahead") if self._ask else None
        self._last: Future[int] | None = None

    def ask(self, position: int) -> None:
        """What is read next lies at `position`: see that the stretch after it is on its way."""
        while self._pool is not None and self._ask is not None and self._done <= position + self._step:
            start, self._done = self._done, self._done + self._step
            self._last = self._pool.submit(_stretch, self._ask, self._order, start, self._done)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


class NextEpoch:
    """Has an order's next epoch built by a thread once half of this one is read. It needs the order's `prepare`.

    Below _LONG rows an epoch is built in 3 ms at most, by the reader itself: a thread would share the interpreter lock
    with it, and on a machine whose cores are busy that cost a tenth of all mini-batches of 60,000 rows.
    """

    def __init__(self, order: "Order") -> None:
        self._prepare: Callable[[int], None] | None = getattr(order, "prepare", None)
        self._n, self._asked = len(order), -1
        if self._n < _LONG:
            self._prepare = None

    def reached(self, position: int) -> None:
        """What is read next lies at `position`."""
        epoch = (position + self._n // 2) // self._n
        if self._prepare is not None and epoch > self._asked:
            if position % self._n >= self._n // 2:  # not when a stream starts: what it needs first is built at once
                threading.Thread(target=self._prepare, args=(epoch,), name="handful-epoch", daemon=True).start()
            self._asked = epoch


def _stretch(ask: Callable[[Rows], int], order: "Order", start: int, stop: int) -> int:
    return ask(order[start:stop])


def asker(source: Source) -> Callable[[Rows], int] | None:
    """The source's `will_need`, through any views of it; None if it has none."""
    if isinstance(source, Subset):
        inner, rows = asker(source.base), source.rows
        return None if inner is None else lambda ids: inner(rows[ids])
    found: Callable[[Rows], int] | None = getattr(source, "will_need", None)
    return found


def check_window(source: Source, order: "Order") -> None:
    """Raise HandfulError if the source's cache cannot hold a window of a block shuffle, before any wait for it."""
    window = getattr(order, "window", None)
    base = source
    while isinstance(base, Subset):
        base = base.base
    check: Callable[[int], None] | None = getattr(base, "check_window", None)
    if window is not None and check is not None:
        check(min(len(order), 2 * window))  # windows are up to twice as large as asked, so that they fit an epoch
