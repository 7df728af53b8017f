"""What orders and batches are given: checked, written down, compared."""

import hashlib
from collections.abc import Mapping
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handful.base.errors import HandfulError, did_you_mean, whole
from handful.batches import shuffle_quality
from handful.batches.permutation import RowOrder
from handful.data.base import Source

SHUFFLES = ("exact", "block", "none", "replacement")
ALGORITHM = 1  # raise it when the same arguments would give other rows, so that no run resumes onto the wrong ones
DEFAULT_BLOCK = 16  # rows: 50 KB of small images, enough for a local disk to read at speed
DEFAULT_BATCH = 512  # the largest batch whose VIF stays under 1.05 with the default window; at 256 it is 1.023


def recommended_window(batch: int, block: int) -> int:
    """The window, in rows, for which a shuffle varies at most 5% more than an exact one: 20 * batch * block.

    The variance inflation of per-batch counts is about 1 + batch * block / window: a window's rows come from
    window / block blocks only, and a batch sees that sample of blocks instead of the whole storage.

    >>> recommended_window(256, 16)
    81920
    """
    return 20 * batch * block


class OfOrder:
    """What an `Order` is made of: it decides the rows."""

    def __init__(
        self,
        n: int,
        seed: int = 0,
        shuffle: str = "exact",
        block: int | None = None,
        window: int | None = None,
        weights: ArrayLike | None = None,
    ) -> None:
        if shuffle not in SHUFFLES:
            raise HandfulError(f"shuffle '{shuffle}' is not known.{did_you_mean(str(shuffle), SHUFFLES)}")
        self.n, self.seed, self.shuffle = whole("n", n, least=1), whole("seed", seed), shuffle
        if shuffle != "block" and (block is not None or window is not None):
            raise HandfulError(f"block and window have no meaning for shuffle='{shuffle}': use shuffle='block'")
        if shuffle != "replacement" and weights is not None:
            why = f"weights cannot be used with shuffle='{shuffle}', which visits every row once per epoch"
            raise HandfulError(f"{why}: use shuffle='replacement' to draw rows by weight, or weight the loss instead")
        self.block: int | None = None
        self.window: int | None = None
        if shuffle == "block":
            self.block, self.window = _blocks(block, window)
        self.weights = None if weights is None else _weights(weights, self.n)
        self.begin()

    def begin(self) -> None:
        """All is checked."""

    def __len__(self) -> int:
        return self.n

    def quality(
        self: RowOrder, batch: int, epochs: int | None = None, labels: ArrayLike | None = None
    ) -> shuffle_quality.Quality:
        """How random the mini-batches of `batch` rows are: a table, see `shuffle_quality.measure`.

        epochs: how many are looked at (default: two, or enough for 4,096 batches or 2^22 rows).
        labels: [n], numbers or strings, to measure how classes spread over batches as well.
        """
        return shuffle_quality.measure(self, batch, epochs, labels)

    def to_dict(self) -> dict[str, int | str | None]:
        """All that decides the rows, ready for JSON; weights, as large as the data, only as a hash."""
        weights = b"" if self.weights is None else self.weights.astype("<f8").tobytes()
        return {
            "algorithm": ALGORITHM,
            **{name: getattr(self, name) for name in ("n", "seed", "shuffle", "block", "window")},
            "weights": hashlib.blake2b(weights, digest_size=16).hexdigest() if weights else None,
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, object], weights: ArrayLike | None = None) -> Self:
        """The order that `to_dict` wrote down; one drawn by weights needs the same weights again.

        >>> from handful.batches.order import Order
        >>> Order.from_dict(Order(5, seed=3).to_dict()) == Order(5, seed=3)
        True
        """
        if saved.get("algorithm") != ALGORITHM:
            both = f"with shuffle algorithm {saved.get('algorithm')}, but this handful has {ALGORITHM}"
            raise HandfulError(f"this order was saved {both}: to continue it, install the version that saved it")
        if saved.get("weights") is not None and weights is None:
            raise HandfulError("this order draws rows by weight, and only their hash was saved: pass weights=")
        n, seed = whole("n", saved.get("n")), whole("seed", saved.get("seed"))
        block, window = (None if (size := saved.get(s)) is None else whole(s, size) for s in ("block", "window"))
        order = cls(n, seed, str(saved.get("shuffle")), block, window, weights)
        if order.to_dict()["weights"] != saved.get("weights"):
            raise HandfulError("the weights given are not the ones this order was saved with: pass the same weights")
        return order

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OfOrder) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(tuple(self.to_dict().values()))

    def __repr__(self) -> str:
        sizes = f", block={self.block}, window={self.window}" if self.shuffle == "block" else ""
        weights = "" if self.weights is None else f", weights=<{self.n}>"
        return f"Order({self.n}, seed={self.seed}, shuffle='{self.shuffle}'{sizes}{weights})"

    def __reduce__(self) -> tuple[type[Self], tuple[object, ...]]:
        return type(self), (self.n, self.seed, self.shuffle, self.block, self.window, self.weights)


def _blocks(block: int | None, window: int | None) -> tuple[int, int]:
    """Block and window in rows; what is not given follows from the other at a batch of DEFAULT_BATCH."""
    if block is None and window is not None:
        window = whole("window", window, least=1)
        block = min(DEFAULT_BLOCK, max(1, window // recommended_window(DEFAULT_BATCH, 1)))
    block = DEFAULT_BLOCK if block is None else whole("block", block, least=1)
    window = recommended_window(DEFAULT_BATCH, block) if window is None else whole("window", window, least=1)
    return block, window


def span(positions: slice) -> tuple[int, int]:
    """(start, stop) of a range of positions."""
    if not isinstance(positions, slice):
        raise HandfulError(f"an order is read by a range of positions, as order[start:stop], not by {positions!r}")
    if positions.stop is None or positions.step not in (None, 1):
        raise HandfulError("an order is endless and read in sequence: give order[start:stop], with a stop and no step")
    start = whole("position", 0 if positions.start is None else positions.start, least=0)
    stop = whole("position", positions.stop, least=0)
    if stop >= 1 << 63:
        raise HandfulError(f"position {stop} is too large: positions are 64-bit integers")
    return start, max(start, stop)


def _weights(weights: ArrayLike, n: int) -> NDArray[np.float64]:
    try:
        values = np.array(weights, dtype=np.float64)
    except (TypeError, ValueError):
        raise HandfulError("weights must be one number per row") from None
    if values.shape != (n,):
        raise HandfulError(f"weights have shape {list(values.shape)} for {n} rows: give one number per row")
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if len(bad):
        raise HandfulError(f"the weight of row {bad[0]} is {values[bad[0]]}: weights must be finite and not negative")
    if not values.any():
        raise HandfulError("all weights are zero, so no row can be drawn: give at least one row a positive weight")
    values.flags.writeable = False
    return values


def check_call(position: int, size: int, share: tuple[int, int]) -> tuple[int, int]:
    """(rank, ranks), for a mini-batch of a size at a position."""
    whole("position", position, least=0)
    check_size(size)
    return check_share(share)


def check_size(size: int) -> int:
    """The rows of a mini-batch; HandfulError for anything but a positive integer."""
    if whole("the size of a mini-batch", size) < 1:
        raise HandfulError(f"a mini-batch needs at least one row, not {size}")
    return size


def check_share(share: tuple[int, int]) -> tuple[int, int]:
    """(rank, ranks); HandfulError if there is no such rank."""
    if not 0 <= share[0] < share[1]:
        raise HandfulError(f"share must be (rank, ranks) with 0 <= rank < ranks, not {share}")
    return share


def check_reading(source: object, order: RowOrder) -> None:
    """Whether batches can be read from a source by an order."""
    if not isinstance(source, Source):
        kind = type(source).__name__
        raise HandfulError(f"mini-batches are read from a source: pass handful.open(...) of the {kind}")
    if not hasattr(order, "epochs"):
        raise HandfulError(f"the order must be a handful.Order(len(source), ...), not a {type(order).__name__}")
    if len(order) != len(source):
        both = f"the order is for {len(order):,} rows but the source has {len(source):,}"
        raise HandfulError(f"{both}; make it with Order(len(source))")
