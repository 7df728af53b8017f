"""What this machine has: memory, cores, numbers, and threads that work ahead, their results in order."""

import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

NARROW = ("mps",)  # kinds of device that have no float64


def wide(values: "Tensor") -> "Tensor":
    """The values as float64; on the CPU where their device has no such numbers."""
    return (values.cpu() if values.device.type in NARROW else values).double()


def in_bytes(values: "Tensor") -> bytes:
    """The numbers of a Tensor as they lie in memory, row by row.

    >>> import torch
    >>> in_bytes(torch.tensor([1, 2], dtype=torch.int16))
    b'\\x01\\x00\\x02\\x00'
    """
    import torch

    there = values.detach().cpu().resolve_conj().resolve_neg()
    return there.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def give_back() -> None:
    """Give back what Arrow keeps of the memory that reading took; that is as much as the data (pyarrow 26)."""
    if arrow := sys.modules.get("pyarrow"):
        arrow.default_memory_pool().release_unused()


def memory_budget() -> int:
    """A quarter of this machine's memory, in bytes: what decoded images may use at most."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    except (AttributeError, ValueError, OSError):  # not every system can tell
        return 2 * 1024**3


def free_memory() -> int:
    """Bytes that this machine could give to processes and to the page cache now."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024
    except (OSError, StopIteration, ValueError):  # only Linux says it there
        return 2 * memory_budget()


def memory_left(
    groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup"), *, page_cache: bool = True
) -> int:
    """The same, but no more than what the limits of this process's control groups leave it.

    page_cache: count as left what the group uses already, which is mostly page cache and makes room.
    """
    left = free_memory()
    try:
        named = [line.split(":", 2) for line in groups.read_text().splitlines()]
    except OSError:
        return left
    for _, controllers, path in named:
        if controllers == "":
            where, limit, used = root / path.strip("/"), "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            where = root / "memory" / path.strip("/")
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        for folder in (where, *where.parents):
            if folder == root.parent:
                break
            with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
                most = int((folder / limit).read_text())
                left = min(left, most if page_cache else max(0, most - int((folder / used).read_text())))
    return left


def cores() -> int:
    """How many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


R = TypeVar("R")
T = TypeVar("T")


def in_order(
    work: Callable[[R], T],
    inputs: Iterable[R],
    workers: int,
    ahead: int,
    *,
    name: str,
    start: Callable[[], None] | None = None,
    wait: bool = True,
) -> Generator[T, None, None]:
    """`work` done on each of `inputs` by threads, its results in the same order; with 0 workers by the caller itself.

    ahead: inputs begun besides the one whose result is waited for; start: called in each new thread; wait: whether a
    loop that is left early waits for the work begun. Raises what `work` raises, when its result is due.
    """
    if workers == 0:
        yield from map(work, inputs)
        return
    pool = ThreadPoolExecutor(workers, name, start)
    begun: deque[Future[T]] = deque()
    try:
        for one in inputs:
            begun.append(pool.submit(work, one))
            del one
            if len(begun) > ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(wait, cancel_futures=True)
