"""Which row comes next: row ids as a pure function of (seed, position), over an endless sequence of epochs.

A position is the number of examples consumed so far. Nothing here has a state to lose: resuming is one
integer, and batch size, thread count and rank count may change at any position.
"""

import numpy as np

from handful.base import keys
from handful.base.errors import whole
from handful.batches.arguments import OfOrder, span
from handful.batches.permutation import CHUNK, Blocks, Cipher, Draws, Recent, RowIds, Rows, sorted_rows

SORTED_EPOCH = 1 << 25  # rows; a sort of 2^25 takes about 4 s per epoch and 0.4 GB while it lasts


class Order(OfOrder):
    """The order in which rows are visited: `order[start:stop]` -> int64 row ids, epoch after epoch, endless.

    n:       rows; `len(order)` is n, the rows of one epoch
    seed:    any integer; no two (seed, epoch) pairs share a permutation's key
    shuffle: "exact"        each epoch is a uniform permutation of all rows. Two epochs are kept, 4 bytes
                            per row each, and 16 bytes per row more are used while one is built. Beyond 2^25 rows
                            a 24-round cipher takes over: nothing is kept, nothing is waited for.
             "block"        for slow or far storage: blocks of `block` neighbouring rows are permuted, then
                            rows are shuffled inside windows of `window` rows, that is of many blocks. All
                            windows of an epoch are as large within one block, so no small one is left over
                            at its end; they are up to twice as large as asked, so that they fit.
             "none"         0, 1, 2, ... every epoch
             "replacement"  independent draws, uniform or in proportion to `weights`; an epoch is n draws
    block, window: in rows, for "block" only; default 16 and `recommended_window(512, block)`
    weights: float [n], finite, non-negative, not all zero; for "replacement" only

    Raises HandfulError when an argument makes no sense. Instances may be shared by threads and pickled.

    >>> order = Order(10, seed=1)
    >>> sorted(order[0:10].tolist()) == sorted(order[10:20].tolist()) == list(range(10))
    True
    >>> bool((order[7:25] == np.concatenate([order[7:13], order[13:25]])).all())
    True
    """

    def begin(self) -> None:
        """Nothing is drawn yet."""
        self._draws = Draws(self.seed, self.n, self.weights)
        self._whole_epochs = self.shuffle == "exact" and self.n <= SORTED_EPOCH
        self._pieces: Recent[RowIds] = Recent(2 if self._whole_epochs else 4)
        self._epochs: Recent[Cipher | Blocks] = Recent(2)

    def __getitem__(self, positions: slice) -> Rows:
        """The row ids at positions start..stop-1, int64 [stop - start]."""
        start, stop = span(positions)
        if self.shuffle == "none":
            return np.arange(start, stop, dtype=np.int64) % self.n
        if self.shuffle == "replacement":
            return self._draws.rows(start, stop)
        rows = np.empty(stop - start, dtype=np.int64)
        size = self.n if self._whole_epochs else CHUNK
        at = start
        while at < stop:
            epoch, inside = divmod(at, self.n)
            piece, first = divmod(inside, size)
            ids = self._piece(epoch, piece)
            last = min(len(ids), first + stop - at)
            rows[at - start : at - start + last - first] = ids[first:last]
            at += last - first
        return rows

    def prepare(self, epoch: int) -> None:
        """Build what the rows of `epoch` are drawn from, so that the first of them need not wait: 0.8 s for 10^7 rows.

        For a thread of the reader's, while an earlier epoch is still read. Without it nothing changes but the wait.
        """
        if self._whole_epochs:
            self._piece(whole("epoch", epoch, least=0), 0)

    def epochs(self, start: int, stop: int) -> Rows:
        """The epoch of each position, int64 [stop - start].

        >>> Order(3).epochs(2, 7)
        array([0, 1, 1, 1, 2])
        """
        first, last = span(slice(start, stop))
        epoch = first // self.n
        if last <= (epoch + 1) * self.n:
            return np.full(last - first, epoch, dtype=np.int64)  # nearly always: no division per row
        return np.arange(first, last, dtype=np.int64) // self.n

    def _piece(self, epoch: int, piece: int) -> RowIds:
        """The rows of one whole epoch, or of CHUNK positions of it; built once however many threads ask."""
        if self._whole_epochs:
            return self._pieces.get(
                (epoch,), lambda: sorted_rows(keys.key("order", self.seed, epoch, bits=128), self.n)
            )
        permutation = self._epochs.get((epoch,), lambda: self._permutation(epoch))
        return self._pieces.get(
            (epoch, piece), lambda: permutation.rows(piece * CHUNK, min(self.n, (piece + 1) * CHUNK))
        )

    def _permutation(self, epoch: int) -> Cipher | Blocks:
        if self.block is None or self.window is None:
            return Cipher(keys.key("order", self.seed, epoch, bits=128), self.n)
        return Blocks(self.seed, epoch, self.n, self.block, self.window)
