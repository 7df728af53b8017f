"""Randomness with an address: numbers that are a pure function of what they are for.

Nothing here holds state. A number is a hash of (purpose, seed, epoch, row, ...), so it is the same whichever
thread, rank, micro-batch or batch size asks for it. The mixer is the finalizer of SplitMix64 (Steele, Lea and
Flood 2014, "Fast splittable pseudorandom number generators").
"""

import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.random.mtrand import get_bit_generator, set_bit_generator
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T")
# Held by whoever sets random states and draws from them: a process has one of each, and runs in other threads wait.
IN_TURN = threading.RLock()
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finalizer, a bijection of 64-bit words, elementwise."""
    x = x ^ (x >> np.uint64(30))  # a new array; from here on in place
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def key(*words: int | str, bits: int = 64) -> int:
    """A `bits`-bit key (BLAKE2b) of a tuple of integers and strings; no two tuples share one by construction.

    >>> key("order", 0, 1) != key("order", 1, 0)
    True
    >>> key("order", 0, 1) == key("order", 0, 1)
    True
    """
    digest = hashlib.blake2b(repr(words).encode(), digest_size=bits // 8).digest()
    return int.from_bytes(digest, "little")


def words(
    purpose: str, seed: int, epochs: NDArray[np.int64], rows: NDArray[np.int64], count: int
) -> NDArray[np.uint64]:
    """64-bit random words, uint64 [m, count], addressed by (purpose, seed, epoch, row, index)."""
    base = np.uint64(key(purpose, seed))
    with np.errstate(over="ignore"):
        address = mix(mix(np.asarray(rows).astype(np.uint64) + base) ^ (np.asarray(epochs).astype(np.uint64) * _GOLDEN))
        index = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
        return mix(address[:, None] + index[None, :])


def uniform(
    purpose: str, seed: int, epochs: NDArray[np.int64], rows: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), float64 [m, count], addressed by (purpose, seed, epoch, row, index).

    >>> e, r = np.array([0, 0]), np.array([5, 7])
    >>> both = uniform("flip", 0, e, r, 3)
    >>> bool((both[1] == uniform("flip", 0, e[1:], r[1:], 3)[0]).all())
    True
    """
    return (words(purpose, seed, epochs, rows, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


@contextmanager
def left_alone() -> Iterator[None]:
    """Behind the block, the generators of Python, NumPy and torch are as they were."""
    restore = random_states()
    _Aside.kept += 1
    try:
        yield
    finally:
        _Aside.kept -= 1
        with IN_TURN:
            restore()


class _Aside:
    """To copy the state of NumPy's generator, and to put it back, takes a tenth of a millisecond; another one in its
    place takes nothing. Only the second half of a pair of normal numbers is lost by that: it is put back where a block
    of `left_alone` ends. kept: such blocks that are open; spare: generators to put in its place."""

    kept, spare = 0, list[np.random.MT19937]()


@contextmanager
def drawing(*address: int | str) -> Iterator[None]:
    """Inside the block, what other code draws from the global generators of Python, NumPy and torch (on the CPU) is a
    function of the address; they are as they were behind it.

    >>> with drawing("rows", 5):
    ...     first = random.random(), np.random.rand(), float(torch.rand(()))
    >>> with drawing("rows", 5):
    ...     first == (random.random(), np.random.rand(), float(torch.rand(())))
    True
    """
    with IN_TURN, nullcontext() if _Aside.kept else left_alone():
        of_numpy, restore = get_bit_generator(), random_states(numpy=False)
        ours = _Aside.spare.pop() if _Aside.spare else np.random.MT19937()
        set_bit_generator(ours)
        seed_all(key(*address, bits=32))
        try:
            yield
        finally:
            set_bit_generator(of_numpy)
            _Aside.spare.append(ours)
            restore()


def seed_all(seed: int, of_torch: Callable[[int], object] = torch.default_generator.manual_seed) -> None:
    """Let the generators of Python, NumPy and torch begin at a seed."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    of_torch(seed)


def random_states(*, numpy: bool = True) -> Callable[[], None]:
    """Keep the random states of Python, torch and, unless it is left out, NumPy; call the result to put them back."""
    of_numpy = np.random.get_state() if numpy else None
    of_python, on_cpu, (on_device, put_back) = random.getstate(), torch.random.get_rng_state(), _of_device()

    def restore() -> None:
        if of_numpy is not None:
            np.random.set_state(of_numpy)
        random.setstate(of_python)
        torch.random.set_rng_state(on_cpu)
        put_back(on_device)

    return restore


def _of_device() -> tuple[list[Tensor], Callable[[list[Tensor]], object]]:
    """The random states of accelerators, and what sets them."""
    if torch.cuda._initialized:
        return torch.cuda.get_rng_state_all(), torch.cuda.set_rng_state_all
    if torch.backends.mps.is_available():
        return [torch.mps.get_rng_state()], lambda states: torch.mps.set_rng_state(*states)
    return [], lambda states: None


def dropout_key(seed: int, step: int, rank: int) -> int:
    """What dropout is keyed by: its draws are a function of (seed, step, rank), so no random state need be saved."""
    return key("dropout", seed, step, rank) >> 1


def dropout_seeder(device: torch.device) -> Callable[[int], object]:
    """What has the generators that dropout draws from begin at a key."""

    if device.type == "cpu":
        return torch.default_generator.manual_seed
    module = torch.get_device_module(device)

    def seed(key: int) -> None:
        torch.default_generator.manual_seed(key)
        with torch.accelerator.device_index(device.index):  # of several, the one that this run is on
            module.manual_seed(key)

    return seed


class Seeder:
    """Has the generators that a step draws from begin at its key: torch's, and Python's and NumPy's where one of the
    first passes draws from them; to seed those takes five times as long. settled: told what is left to do, where none
    does."""

    def __init__(self, device: torch.device, settled: Callable[[Callable[[int], object]], object]) -> None:
        self.of_torch, self.settled = dropout_seeder(device), settled
        self.looks, self.known = 4, list[object]()  # where whoever keeps random states may put them back to

    def __call__(self, key: int) -> None:
        before = next_of_host() if self.looks else None
        if self.looks and self.known and before not in self.known:
            self.looks = 0  # from here on for good
        elif self.looks == 1:
            self.settled(self.of_torch)
        seed_all(key, self.of_torch)
        if self.looks:
            self.looks, self.known = self.looks - 1, [*self.known, before, next_of_host()]
            seed_all(key, self.of_torch)


def drawn(call: Callable[[], T]) -> tuple[T, bool]:
    """What a call returns, and whether it draws from these generators, which stay as they are."""
    with drawing("look"):
        before = next_of_host(), _of_torch()
        seed_all(key("look", bits=32))
        return call(), (_of_torch(), next_of_host()) != before[::-1]


def position() -> tuple[object, ...]:
    """How far the generators are."""
    return *of_host(), *_of_torch()


def _of_torch() -> list[bytes]:
    return [state.numpy().tobytes() for state in (torch.random.get_rng_state(), *_of_device()[0])]


def next_of_host() -> tuple[float, ...]:
    """What comes next of those of Python and NumPy, by which it is seen whether somebody has drawn from them. It is
    drawn, so that they are to be seeded behind it; their states are long to copy."""
    return random.gauss(0, 1), random.random(), np.random.standard_normal(), np.random.random_sample()


def of_host() -> tuple[object, ...]:
    """How far those of Python and NumPy are."""
    drawn: Any = np.random.get_state()  # a name, numbers, and how far they are used
    return random.getstate(), drawn[1].tobytes(), *drawn[2:]
