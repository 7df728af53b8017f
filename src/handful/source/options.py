"""What the caller of `open` asked for, as every adapter needs it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from .base import Column


def memory_budget() -> int:
    """A quarter of this machine's memory, in bytes: what decoded images may use at most."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    except (AttributeError, ValueError, OSError):  # not every system can tell
        return 2 * 1024**3


def cores() -> int:
    """How many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


@dataclass(frozen=True)
class Options:
    """The arguments of `open`.

    name: for messages; columns: names to keep, or None for all; schema: what those columns must be (when the
    caller gave a mapping); image_size: (height, width); rate: Hz; budget: bytes that decoded images may use.
    """

    name: str
    target: str | None = None
    columns: tuple[str, ...] | None = None
    schema: Mapping[str, Column] = field(default_factory=dict)
    image_size: tuple[int, int] | None = None
    rate: int | None = None
    budget: int = field(default_factory=memory_budget)
    where: str | None = None
