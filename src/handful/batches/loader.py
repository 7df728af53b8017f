"""handful's data path under any training loop: an iterable like torch's DataLoader, whose state is one integer."""

import operator
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

from handful.base.errors import HandfulError
from handful.batches.arguments import check_share, check_size
from handful.batches.batches import Batches
from handful.data.base import Batch, Value


def columns(batch: Batch) -> dict[str, Value]:
    """The values of a batch by name: what a loop that knows nothing of handful wants."""
    return dict(batch.columns)


class Loader:
    """Mini-batches for someone else's loop; `for batch in loader` runs to the end of an epoch.

    batches: what to draw; size: rows of a mini-batch, over all ranks; share: (rank, ranks), the part of each
    mini-batch that is this process's. collate: Batch -> what is yielded; by default a dict name -> value.
    drop_last: whether the rows at the end of an epoch that do not fill a mini-batch are left out of it. They
    are not lost otherwise: the last mini-batch of an epoch is then short.

    The state is the position: rows consumed so far. Batches that were read ahead but not yielded do not count,
    so what is saved after step k resumes at step k + 1, with no row lost or repeated, with any number of ranks
    or mini-batch size. A loop left by `break` goes on from there; an epoch that was cut off is finished first.

    >>> import numpy as np, handful
    >>> source = handful.open({"x": np.arange(10)})
    >>> loader = Loader(Batches(source, handful.Order(10, shuffle="none")), size=4)
    >>> [batch["x"].tolist() for batch in loader]
    [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    >>> loader.state_dict()
    {'position': 10}
    >>> loader.load_state_dict({"position": 14})
    >>> [batch["x"].tolist() for batch in loader]
    [[4, 5, 6, 7], [8, 9]]
    """

    def __init__(
        self,
        batches: Batches,
        size: int,
        *,
        share: tuple[int, int] = (0, 1),
        collate: Callable[[Batch], Any] = columns,
        drop_last: bool = False,
    ) -> None:
        if not isinstance(batches, Batches):
            kind = type(batches).__name__
            raise HandfulError(f"a Loader draws from handful.Batches(source, order), not from a {kind}")
        self.batches, self.batch_size, self.share = batches, check_size(size), check_share(share)
        self.rows = len(batches.order)
        if drop_last and size > self.rows:
            raise HandfulError(f"mini-batches of {size} rows do not fit into {self.rows:,} rows without a rest")
        self.collate, self.drop_last = collate, drop_last
        self.position = 0

    def __len__(self) -> int:
        """Mini-batches of a whole epoch."""
        return self.rows // self.batch_size if self.drop_last else -(-self.rows // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        """From the position to the end of its epoch."""
        end = (self.position // self.rows + 1) * self.rows
        stop = self.position + (end - self.position) // self.batch_size * self.batch_size
        if stop > self.position:
            with closing(self.batches.stream(self.position, self.batch_size, self.share)) as stream:
                for batch in stream:
                    self.position += self.batch_size
                    last = self.position >= stop
                    if last and self.drop_last:
                        self.position = end
                    yield self.collate(batch)
                    if last:
                        break
        if self.position < end:
            rest, start = end - self.position, self.position
            self.position = end
            if not self.drop_last:
                yield self.collate(self.batches.at(start, rest, self.share))

    def state_dict(self) -> dict[str, int]:
        """{"position": rows consumed so far}."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a saved position. Raises HandfulError for anything else."""
        try:
            position = operator.index(state["position"])
        except (KeyError, TypeError):
            raise HandfulError(f"the state of a Loader is {{'position': a whole number}}, not {state!r}") from None
        if position < 0:
            raise HandfulError(f"a position is 0 or more, not {position}")
        self.position = position

    @property
    def epoch(self) -> int:
        """The epoch in which the next row lies."""
        return self.position // self.rows
