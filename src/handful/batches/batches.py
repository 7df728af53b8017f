"""Order + source + transforms -> batches: which rows, read at once, transformed, and fetched ahead of need."""

from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext

import numpy as np

from handful.base.errors import StepError, whole
from handful.base.keys import drawing
from handful.batches.arguments import check_call, check_reading
from handful.batches.permutation import RowOrder
from handful.batches.prefetch import EpochPrefetcher, in_threads, positions_ahead
from handful.data.base import Batch, Rows, Source
from handful.data.series import as_rows

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
        prefetch = 0 if source.serial else prefetch
        self.prefetch = (0 if source.in_memory else 4) if prefetch is None else whole("prefetch", prefetch, least=0)
        self.seed = getattr(order, "seed", 0)
        if order.window is not None:  # before any wait for it; it is up to twice as large as asked, to fit an epoch
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
        if not self.prefetch:
            return (self._read(0, rows, np.zeros_like(rows)) for rows in spans)
        return in_threads(lambda rows: self._read(0, rows, np.zeros_like(rows)), spans, self.prefetch, self.prefetch)
