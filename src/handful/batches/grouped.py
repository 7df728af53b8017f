"""Rows of like length in one mini-batch, so that little of it is padding: an order made from another order."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handful.base import keys
from handful.base.errors import HandfulError
from handful.batches import shuffle_quality
from handful.batches.arguments import check_size
from handful.batches.order import Order
from handful.batches.permutation import Recent, Rows, sorted_rows
from handful.data.base import Source

BATCHES = 50  # in a window: enough for most of the saving, few enough for a batch to stay a fair sample of lengths
_READ = 4096


@dataclass(frozen=True)
class Padding:
    """Shares of padding in mini-batches padded to their longest row, each in [0, 1]."""

    before: float
    after: float
    batch: int

    @property
    def saved(self) -> float:
        """Share of all the positions computed without grouping that grouping does away with."""
        return 1.0 - (1.0 - self.before) / (1.0 - self.after)

    def __str__(self) -> str:
        return (
            f"padding in batches of {self.batch}: {100 * self.before:.1f}% without grouping by length, "
            f"{100 * self.after:.1f}% with it; {100 * self.saved:.1f}% of the work saved"
        )


class Grouped:
    """`order`, rearranged inside windows so that mini-batches of `batch` rows hold rows of like length.

    lengths: [n], one number per row. window: rows; a multiple of `batch` is taken; default BATCHES * batch.
    A window is a stretch of one epoch of `order`. Its rows are sorted by length (ties stay in the shuffled
    order) and dealt in runs of `batch` to its mini-batches, which come in a random order: a pure function of
    (seed, position), as `order` is. Every epoch still holds every row as often as before, and a position can be
    sought as fast. Runs end where mini-batches end that begin at multiples of `batch`.

    What it costs: the rows of a mini-batch are alike in length. Where length tells the class or the place in
    storage, so does then the mini-batch: look at `quality(batch, labels=...)`.

    >>> lengths = np.arange(100) % 10
    >>> grouped = Grouped(Order(100, seed=1), lengths, batch=5, window=50)
    >>> sorted(grouped[0:100].tolist()) == list(range(100))
    True
    >>> grouped.padding().after < grouped.padding().before / 2
    True
    """

    def __init__(self, order: Order, lengths: ArrayLike, batch: int, window: int | None = None) -> None:
        self.order, self.batch = order, check_size(batch)
        self.lengths = np.asarray(lengths)
        self.lengths = self.lengths if self.lengths.dtype.kind in "iu" else self.lengths.astype(np.float64)
        if self.lengths.shape != (len(order),):
            raise HandfulError(f"lengths have shape {list(self.lengths.shape)} for {order.n:,} rows: give one per row")
        if not (self.lengths >= 0).all():
            row = int(np.flatnonzero(~(self.lengths >= 0))[0])
            raise HandfulError(f"the length of row {row} is {self.lengths[row]}: lengths must be 0 or more")
        rows = BATCHES * batch if window is None else window
        if rows < batch:
            raise HandfulError(f"a window of {rows} rows is smaller than a mini-batch of {batch}: make it larger")
        self.grouping_window = rows // batch * batch
        self.n, self.seed, self.shuffle = order.n, order.seed, order.shuffle
        self.block, self.window, self.weights = order.block, order.window, order.weights
        self._windows: Recent[Rows] = Recent(8)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, positions: slice) -> Rows:
        """The row ids at positions start..stop-1, int64 [stop - start]."""
        self.order[slice(positions.start, positions.start or 0, positions.step)]  # the checks of an order
        at, stop = positions.start or 0, positions.stop
        pieces = [np.empty(0, np.int64)]
        while at < stop:
            start, end = self._span(at)
            rows = self._windows.get((start,), partial(self._window, start, end))
            pieces.append(rows[at - start : min(end, stop) - start])
            at = min(end, stop)
        return np.concatenate(pieces)

    def __repr__(self) -> str:
        return f"Grouped({self.order!r}, batch={self.batch}, window={self.grouping_window})"

    def epochs(self, start: int, stop: int) -> Rows:
        """The epoch of each position, int64 [stop - start]."""
        return self.order.epochs(start, stop)

    def prepare(self, epoch: int) -> None:
        """As of the order that is rearranged."""
        self.order.prepare(epoch)

    def quality(
        self, batch: int | None = None, epochs: int | None = None, labels: ArrayLike | None = None
    ) -> shuffle_quality.Quality:
        """How random its mini-batches are, measured as for any order."""
        return shuffle_quality.measure(self, batch or self.batch, epochs, labels)

    def padding(self, batch: int | None = None) -> Padding:
        """Padding over the first epoch, with and without grouping."""
        size = batch or self.batch
        n = len(self)
        before, after = (_padding(self.lengths[ids[:n]], size) for ids in (self.order[0:n], self[0:n]))
        return Padding(before, after, size)

    def to_dict(self) -> dict[str, int | str | None]:
        """All that decides the rows, ready for JSON; lengths, as large as the data, only as a hash."""
        hashed = keys.key("lengths", self.lengths.astype(np.float64).tobytes().hex())
        return {**self.order.to_dict(), "group": self.batch, "group_window": self.grouping_window, "lengths": hashed}

    def _span(self, position: int) -> tuple[int, int]:
        """The window around a position: it begins at a multiple of its size in the epoch, and ends with the epoch.

        The rest at the end of an epoch joins the last window, so that no small one is left over.
        """
        epoch, inside = divmod(position, self.n)
        windows = max(1, self.n // self.grouping_window)
        number = min(inside // self.grouping_window, windows - 1)
        start = epoch * self.n + number * self.grouping_window
        end = (epoch + 1) * self.n if number == windows - 1 else start + self.grouping_window
        return start, end

    def _window(self, start: int, end: int) -> Rows:
        rows = self.order[start:end]
        by_length = rows[np.argsort(self.lengths[rows], kind="stable")]
        cuts = np.arange(-(-start // self.batch) * self.batch, end + 1, self.batch)
        bounds = np.unique(np.concatenate([[start], cuts, [end]])) - start
        sizes = np.diff(bounds)
        dealt = sorted_rows(keys.key("order/groups", self.seed, start, bits=128), len(sizes)).astype(np.int64)
        firsts = np.empty(len(sizes), np.int64)  # where in `by_length` the run of each mini-batch begins
        firsts[dealt] = np.cumsum(sizes[dealt]) - sizes[dealt]
        inside = np.arange(end - start) - np.repeat(bounds[:-1], sizes)
        return np.asarray(by_length[np.repeat(firsts, sizes) + inside])


def _padding(lengths: NDArray[np.int64] | NDArray[np.float64], batch: int) -> float:
    starts = np.arange(0, len(lengths), batch)
    counts = np.diff(np.concatenate([starts, [len(lengths)]]))
    padded = float((np.maximum.reduceat(lengths, starts) * counts).sum())
    return 1.0 - float(lengths.sum()) / padded if padded else 0.0


def row_lengths(source: Source, column: str) -> NDArray[np.int64]:
    """The length of every row of a column, int64 [n]: values of a ragged one, words of a text.

    Raises HandfulError for a column whose rows all have one shape.
    """
    kind = source.column(column)
    if not kind.varies and kind.kind != "text":
        raise HandfulError(f"rows of '{column}' all have one shape: there is nothing to group by length")
    n = len(source)
    found = np.empty(n, np.int64)
    for start in range(0, n, _READ):
        ids = np.arange(start, min(n, start + _READ), dtype=np.int64)
        batch = source.take(ids, [column])
        if kind.varies:
            found[ids] = np.diff(batch.ragged(column).offsets.cpu().numpy())
        else:
            found[ids] = [len(text.split()) for text in batch.strings(column)]
    return found
