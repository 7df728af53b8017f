"""Keyed permutations of 0..n-1, each from a 128-bit key, a small store for those in use, draws, and what an order is.

Two ways to permute are used:

- `sorted_rows`: rows sorted by a keyed 64-bit word each. The words are distinct (`words`), so the order is
  uniform, without ties, and stays the same whatever NumPy is installed, which NumPy does not promise of
  `Generator.permutation` (NEP 19). Measured on one core of an AMD EPYC: 0.10 s for 10^6 rows and 1.2 s for
  10^7, where `Generator.permutation` takes 0.05 s and 0.84 s, and argsort of the words 0.12 s and 2.3 s.
- `Cipher`: a Feistel network that maps one index to another in O(1) memory, 0.2-0.3 us per index, so seeking
  costs the same at any size. The trade: it is a pseudorandom permutation from 24 keyed rounds and not a sort
  of independent words, so it is used only where a sort would make a reader wait.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isqrt
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from handful.base import keys
from handful.base.errors import HandfulError

Rows = NDArray[np.int64]
Words = NDArray[np.uint64]
RowIds = Rows | NDArray[np.int32]
T = TypeVar("T")

CHUNK = 1 << 13  # indices evaluated at a time: few enough to stay in cache, many enough to spread NumPy's call cost
SORTED_PART = 1 << 15  # a sort of 2^15 takes 3 ms
ROUNDS = 24  # twice what passes: chi-square over all orders of 6 rows fails at 10 rounds, passes at 12
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)


class RowOrder(Protocol):
    """Which row comes next: what `Order` and `Grouped` have in common, and all that reading or measuring them needs."""

    n: int
    shuffle: str
    window: int | None
    weights: NDArray[np.float64] | None

    def __len__(self) -> int: ...

    def __getitem__(self, positions: slice, /) -> Rows: ...

    def epochs(self, start: int, stop: int) -> Rows: ...

    def prepare(self, epoch: int) -> None: ...


class Recent(Generic[T]):
    """The few values asked for last, each built once; a build holds up only those who ask for that value."""

    def __init__(self, size: int) -> None:
        self._size, self._lock = size, threading.Lock()
        self._slots: OrderedDict[tuple[int, ...], _Slot[T]] = OrderedDict()

    def get(self, name: tuple[int, ...], build: Callable[[], T]) -> T:
        with self._lock:
            slot = self._slots.setdefault(name, _Slot())
            self._slots.move_to_end(name)
            if len(self._slots) > self._size:
                self._slots.popitem(last=False)
        with slot.lock:
            if slot.value is None:
                slot.value = build()
            return slot.value


@dataclass(eq=False)
class _Slot(Generic[T]):
    lock: threading.Lock = field(default_factory=threading.Lock)
    value: T | None = None


def words(key: int, first: int, last: int) -> Words:
    """Keyed words number first..last-1: distinct, because both steps are bijections of 64-bit words."""
    low, high = np.uint64(key & (1 << 64) - 1), np.uint64(key >> 64)
    numbers = np.arange(first, last, dtype=np.uint64)
    numbers *= _GOLDEN
    numbers += low
    mixed = keys.mix(numbers)
    mixed ^= high
    return keys.mix(mixed)


def sorted_rows(key: int, n: int) -> RowIds:
    """The permutation `argsort(words(key, 0, n))`, int32 where it fits.

    Each word's lower bits give way to its row, so that a plain sort (vectorised in NumPy, twice as fast as
    argsort) carries the row along; the few rows whose upper bits tie are put in order of their full words.
    """
    row_bits = np.uint64((n - 1).bit_length())
    mask = (np.uint64(1) << row_bits) - np.uint64(1)
    packed = np.empty(n, dtype=np.uint64)
    for first in range(0, n, CHUNK):  # in pieces that stay in cache
        last = min(n, first + CHUNK)
        part = np.bitwise_and(words(key, first, last), ~mask, out=packed[first:last])
        part |= np.arange(first, last, dtype=np.uint64)
    packed.sort()
    tied = np.flatnonzero((packed[1:] ^ packed[:-1]) <= mask)
    packed &= mask
    rows: RowIds = packed.astype(np.int32) if n <= 1 << 31 else packed.astype(np.int64)
    if len(tied):
        places = np.union1d(tied, tied + 1)
        full = np.array([words(key, int(row), int(row) + 1)[0] for row in rows[places]])
        rows[places] = rows[places][np.argsort(full)]  # upper bits still lead: every run keeps its own places
    return rows


class Cipher:
    """A keyed permutation of 0..n-1 in O(1) memory.

    A Feistel network on pairs (left, right) of Z_a x Z_b, a = ceil(sqrt(n)), b = ceil(n / a), with the
    SplitMix64 finalizer as round function; outputs of n or more are enciphered again (cycle walking). Black
    and Rogaway 2002, "Ciphers with arbitrary finite domains". As a * b - n < a, fewer than one output in
    sqrt(n) walks, and no count of bits can be one short; with powers of two up to one in two would walk.
    """

    def __init__(self, key: int, n: int) -> None:
        self.n = n
        self.a = isqrt(n - 1) + 1  # ceil(sqrt(n))
        self.b = -(-n // self.a)
        self._keys = words(key, 0, ROUNDS)

    def rows(self, first: int, last: int) -> Rows:
        return self[np.arange(first, last, dtype=np.int64)]

    def __getitem__(self, indices: Rows) -> Rows:
        x = self._encipher(indices.astype(np.uint64))
        outside = np.flatnonzero(x >= np.uint64(self.n))
        while len(outside):
            x[outside] = self._encipher(x[outside])
            outside = outside[x[outside] >= np.uint64(self.n)]
        return x.astype(np.int64)

    def _encipher(self, x: Words) -> Words:
        a, b = np.uint64(self.a), np.uint64(self.b)
        right = x // a
        left = x - right * a
        for even, odd in zip(self._keys[0::2], self._keys[1::2]):
            left = left + (((keys.mix(right + even) >> _HALF) * a) >> _HALF)  # a uniform number below a
            left = np.minimum(left, left - a)  # modulo a: the subtraction wraps round where left < a
            right = right + (((keys.mix(left + odd) >> _HALF) * b) >> _HALF)
            right = np.minimum(right, right - b)
        return right * a + left


def permute(key: int, n: int) -> Cipher | RowIds:
    """A permutation of 0..n-1 to be indexed, of the kind that is ready within 3 ms."""
    return sorted_rows(key, n) if n <= SORTED_PART else Cipher(key, n)


class Blocks:
    """One epoch of a block shuffle: blocks permuted and laid end to end, windows of whole blocks shuffled.

    The last block of storage may be short. It is put in at a random place `short` among the full ones, so
    that the permuted block j starts at row j * block, less `missing` rows if it comes after the short one.
    """

    def __init__(self, seed: int, epoch: int, n: int, block: int, window: int) -> None:
        self.seed, self.epoch, self.n, self.block = seed, epoch, n, min(block, n)
        full, rest = divmod(n, self.block)
        self.count = full + (rest > 0)
        self.missing = self.block - rest if rest else 0
        self.short = keys.key("order/short", seed, epoch, bits=128) % self.count if rest else self.count
        self.windows = max(1, self.count // max(1, -(-window // self.block)))
        self._full = permute(keys.key("order/blocks", seed, epoch, bits=128), full)
        self._windows: Recent[Cipher | RowIds] = Recent(4)

    def rows(self, first: int, last: int) -> Rows:
        """The rows at places first..last-1 of this epoch."""
        places = np.empty(last - first, dtype=np.int64)
        at = first
        while at < last:
            block = (at + self.missing * (at >= self._cut)) // self.block
            window = ((block + 1) * self.windows - 1) // self.count
            start, stop = self._start(window), self._start(window + 1)
            end = min(stop, last)
            inside = np.arange(at - start, end - start, dtype=np.int64)
            places[at - first : end - first] = start + self._window(window, stop - start)[inside]
            at = end
        return self._stored(places)

    def _start(self, window: int) -> int:
        """The place where a window begins: its first block is number window * count // windows."""
        j = window * self.count // self.windows
        return j * self.block - self.missing * (j > self.short)

    def _window(self, window: int, size: int) -> Cipher | RowIds:
        key = keys.key("order/window", self.seed, self.epoch, window, bits=128)
        return self._windows.get((window,), lambda: permute(key, size))

    @property
    def _cut(self) -> int:
        """The first place after the short block."""
        return (self.short + 1) * self.block - self.missing

    def _stored(self, places: Rows) -> Rows:
        """The row of storage at each place of the permuted blocks."""
        shifted = places + self.missing * (places >= self._cut)
        j = shifted // self.block
        ids = self._full[np.minimum(j - (j > self.short), self.n // self.block - 1)]
        ids = np.where(j == self.short, self.n // self.block, ids)
        return np.asarray(ids * self.block + (shifted - j * self.block), dtype=np.int64)


class Draws:
    """Independent draws of 0..n-1, uniform or in proportion to weights: inverse of the cumulative distribution at one
    keyed uniform number per position."""

    def __init__(self, seed: int, n: int, weights: NDArray[np.float64] | None) -> None:
        self.seed, self.n, self._shares = seed, n, None
        if weights is not None:
            sums = np.cumsum(weights / weights.max())  # scaled first, so that no sum overflows
            self._shares = sums / sums[-1]  # of the weight up to and with each row; 1 from the last that has any

    def rows(self, first: int, last: int) -> Rows:
        """The rows at positions first..last-1."""
        positions = np.arange(first, last, dtype=np.int64)
        u = keys.uniform("order/replacement", self.seed, np.zeros_like(positions), positions, 1)[:, 0]
        if self._shares is None:
            return (u * self.n).astype(np.int64)
        return np.searchsorted(self._shares, u, side="right").astype(np.int64, copy=False)


def class_weights(labels: ArrayLike | Tensor, power: float = 1.0) -> NDArray[np.float64]:
    """One weight per row, float64 [n], for `Order(n, shuffle="replacement", weights=...)`: count(class) ** -power.

    power: 1 draws every class equally often, 0 leaves their shares as they are, 0.5 is between (square-root
    sampling, Mahajan et al. 2018, "Exploring the limits of weakly supervised pretraining", section 2.2). Rows
    without a class (-1 of a category) get weight 0. The weights add up to n.

    >>> class_weights([0, 0, 0, 1]).tolist()
    [0.666..., 0.666..., 0.666..., 2.0]
    """
    values = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.ndim != 1 or not len(values):
        raise HandfulError(f"labels must be one value per row, not of shape {list(values.shape)}")
    if not 0.0 <= power <= 1.0:
        raise HandfulError(f"power must lie between 0 and 1, not {power}")
    _, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    weights = (1.0 / counts**power)[codes]
    if values.dtype.kind == "i":
        weights[values < 0] = 0.0
    if not weights.any():
        raise HandfulError("no row has a class, so none can be drawn by class")
    return np.asarray(weights * (len(values) / weights.sum()))
