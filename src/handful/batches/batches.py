"""Order + source + transforms -> batches: which rows, read at once, transformed, and fetched ahead of need."""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from functools import partial

import numpy as np
import torch
from torch import Tensor

from handful.base.errors import StepError, whole
from handful.base.keys import drawing
from handful.base.machine import R, in_order
from handful.batches.order import check_call, check_reading
from handful.batches.permutation import RowOrder
from handful.data.base import Batch, Rows, Source
from handful.data.series import as_rows

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


Transform = Callable[[Batch], Batch]
STRETCH = 4096  # rows drawn from the order and checked at a time: a call each would cost 10 us per mini-batch


class Batches:
    """Mini-batches by position: a pure function, so any batch of a run can be drawn again by itself.

    >>> import numpy as np, handful
    >>> source = handful.open((np.arange(6.0, dtype=np.float32), np.arange(6)))
    >>> batches = Batches(source, handful.Order(6, seed=1))
    >>> batch = batches.at(position=4, size=4)          # spans the end of epoch 0
    >>> batch.epochs.tolist()
    [0, 0, 1, 1]
    >>> batch.tensor("y").tolist() == batch.rows.tolist()
    True
    """

    def __init__(
        self, source: Source, order: RowOrder, transforms: Sequence[Transform] = (), *, prefetch: int | None = None
    ) -> None:
        """prefetch: batches read ahead by threads; 0 reads in the caller; None: 0 for data in memory, else 4."""
        check_reading(source, order)
        self.source, self.order, self.transforms = source, order, tuple(transforms)
        self.prefetch = (0 if source.in_memory else 4) if prefetch is None else whole("prefetch", prefetch, least=0)
        self.seed = getattr(order, "seed", 0)
        if source.serial:
            self.prefetch = 0
        if order.window is not None:  # before any wait for it
            # windows are up to twice as large as asked, so that they fit an epoch
            source.check_window(min(len(order), 2 * order.window))

    def at(self, position: int, size: int, share: tuple[int, int] = (0, 1)) -> Batch:
        """The mini-batch of `size` examples at `position` (examples consumed before it).

        share: (rank, ranks): only this rank's contiguous part of the batch; the parts of all ranks make the batch.
        """
        rank, ranks = check_call(position, size, share)
        start, stop = position + size * rank // ranks, position + size * (rank + 1) // ranks
        return self._read(start, as_rows(self.order[start:stop], len(self.source)), self.order.epochs(start, stop))

    def _read(self, start: int, rows: Rows, epochs: Rows) -> Batch:
        """The batch of these rows, known to be in range; without columns where a rank's share has none."""
        if not len(rows):
            return Batch({}, rows, epochs, start)
        try:
            keyed = drawing("rows", self.seed, start, int(rows[0])) if self.source.serial else nullcontext()
            with keyed:
                batch = Batch(self.source.read(rows), rows, epochs, start)
            for transform in self.transforms:
                batch = transform(batch)
        except MemoryError as error:
            raise StepError(
                f"memory ran out while {len(rows):,} rows of {self.source.name} were read; take a smaller batch, or "
                "write the data as a store, by handful prepare"
            ) from error
        return batch

    def stream(self, position: int, size: int, share: tuple[int, int] = (0, 1)) -> Generator[Batch, None, None]:
        """The endless sequence of batches from `position` on; read ahead by threads where reading is slow.

        What was read ahead and not used costs nothing to abandon: there is no sampler state to repair.
        """
        check_call(position, size, share)
        if self.prefetch == 0:
            return self._stream_here(position, size, share)
        ahead = positions_ahead(self.source, self.order, position, size)
        return in_threads(lambda at: self.at(at, size, share), ahead, self.prefetch, self.prefetch - 1)

    def _stream_here(self, position: int, size: int, share: tuple[int, int]) -> Generator[Batch, None, None]:
        """Rows are drawn in stretches of many mini-batches. The first is of one, so that a run resumes as soon as it
        can."""
        rank, ranks = share
        first, last = size * rank // ranks, size * (rank + 1) // ranks
        self.source.prefetcher()  # what memory has room for is read in storage order while its first rows are used
        count, most, epoch = 1, max(1, STRETCH // size), EpochPrefetcher(self.order)
        while True:
            epoch.reached(position)
            stop = position + count * size
            rows, epochs = as_rows(self.order[position:stop], len(self.source)), self.order.epochs(position, stop)
            for at in range(0, count * size, size):
                yield self._read(position + at + first, rows[at + first : at + last], epochs[at + first : at + last])
            position, count = stop, min(2 * count, most)

    def epoch(self, size: int, share: tuple[int, int] = (0, 1), *, dealt: bool = False) -> Generator[Batch, None, None]:
        """Every row of the source once, in storage order, the last batch short: what evaluation and prediction read.

        share: (rank, ranks): only this rank's part of these batches, one after the other; dealt: those that fall to it
        when they are given out in turn.
        """
        n, (rank, ranks) = len(self.source), share
        starts = range(0, n, size)
        own = starts[rank::ranks] if dealt else starts[len(starts) * rank // ranks : len(starts) * (rank + 1) // ranks]
        spans = (np.arange(start, min(start + size, n)) for start in own)
        return in_threads(lambda rows: self._read(0, rows, np.zeros_like(rows)), spans, self.prefetch, self.prefetch)
