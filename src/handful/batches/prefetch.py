"""What will be read, asked for before it is needed: rows, sorted and joined into runs, and the next epoch's order."""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import torch
from torch import Tensor

from handful.base.machine import R, in_order
from handful.batches.permutation import RowOrder
from handful.data.base import Batch, Source

_BATCHES = 16
_LONG = 1 << 17


class RowPrefetcher:
    """Asks for whole stretches of an order, one stretch ahead of where it is read, by one thread.

    A stretch is a window of a block shuffle (its rows, sorted, are whole blocks) or else _BATCHES mini-batches.
    Sources that need not be asked are left alone.
    """

    def __init__(self, source: Source, order: RowOrder, position: int, size: int) -> None:
        self._ask = source.prefetcher()
        self._order, self._done = order, position
        self._step = order.window or _BATCHES * size
        self._pool = ThreadPoolExecutor(1, "handful-prefetch")  # it starts its thread at the first stretch

    def reached(self, position: int) -> None:
        """What is read next lies at `position`: see that the stretch after it is on its way."""
        while self._ask is not None and self._done <= position + self._step:
            start, self._done = self._done, self._done + self._step
            self._pool.submit(lambda ask, start, stop: ask(self._order[start:stop]), self._ask, start, self._done)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def positions_ahead(source: Source, order: RowOrder, position: int, size: int) -> Iterator[int]:
    """Where the mini-batches from a position on begin; the rows behind each are asked for."""
    with closing(RowPrefetcher(source, order, position, size)) as rows_ahead:
        while True:
            rows_ahead.reached(position)
            yield position
            position += size


def in_threads(
    read: Callable[[R], Batch], inputs: Iterable[R], threads: int, ahead: int
) -> Generator[Batch, None, None]:
    """The batches that `read` gives of the inputs, read ahead by up to two threads; with none, by the caller."""
    # A loader thread that used several would fight the training thread for the cores (100-fold slower, measured).
    # OpenMP keeps the setting per thread, so the training thread's own is untouched.
    one = partial(torch.set_num_threads, 1)
    return in_order(read, inputs, min(2, threads), ahead, name="handful-loader", start=one, wait=False)


class EpochPrefetcher:
    """Has an order's next epoch built by a thread once half of this one is read.

    Below _LONG rows an epoch is built in 3 ms at most, by the reader itself: a thread would share the interpreter lock
    with it, and on a machine whose cores are busy that cost a tenth of all mini-batches of 60,000 rows.
    """

    def __init__(self, order: RowOrder) -> None:
        self._order, self._n, self._asked = order, len(order), -1

    def reached(self, position: int) -> None:
        """What is read next lies at `position`."""
        epoch = (position + self._n // 2) // self._n
        if self._n >= _LONG and epoch > self._asked:
            if position % self._n >= self._n // 2:  # not when a stream starts: what it needs first is built at once
                prepare = self._order.prepare
                threading.Thread(target=prepare, args=(epoch,), name="handful-epoch", daemon=True).start()
            self._asked = epoch


def pinned(batch: Batch, pin: Callable[[Tensor], Tensor] = Tensor.pin_memory) -> Batch:
    """The batch with its tensors in page-locked memory. It comes from torch's own cache of such memory, which gives it
    out again only after the copies from it are done."""
    return batch.on_tensors(pin)
