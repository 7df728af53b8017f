"""Where the seconds of a call go: each moment belongs to the innermost part that is open, so that all add up."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")
STEPS = "steps"  # the training loop
TRACE = "the trace"  # steps under a profiler, which slows them


@dataclass(eq=False)
class Stopwatch:
    """Seconds by part, in order of first appearance.

    wait: called between the parts of a step: what a device is still to do belongs to the part that asked for it.

    >>> watch = Stopwatch()
    >>> watch.enter("outer"), watch.enter("inner"), watch.leave(), watch.leave()
    (None, None, None, None)
    >>> list(watch.seconds)
    ['everything else', 'outer', 'inner']
    """

    seconds: dict[str, float] = field(default_factory=dict)
    open: list[str] = field(default_factory=["everything else"].copy)
    since: float = field(default_factory=lambda: time.perf_counter())
    wait: Callable[[], object] | None = None

    def charge(self) -> None:
        """Count the time since the last call to the part that is open."""
        now = time.perf_counter()
        name = self.open[-1]
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.since
        self.since = now

    def enter(self, name: str) -> None:
        self.charge()
        self.open.append(name)

    def leave(self) -> None:
        self.charge()
        self.open.pop()

    def enter_step(self, name: str) -> None:
        """A part of a training step; elsewhere the same work belongs to what asked for it."""
        if self.wait is not None:
            self.wait()
        self.enter(name if self.open[-1] == STEPS else self.open[-1])

    def leave_step(self) -> None:
        if self.wait is not None:
            self.wait()
        self.leave()

    def timed(self, call: Callable[P, R], name: str) -> Callable[P, R]:
        """A call that is a part of a training step; in a trace, a range of that name in its trace."""

        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            self.enter_step(name)
            try:
                with torch.profiler.record_function(name) if TRACE in self.open else nullcontext():
                    return call(*args, **kwargs)
            finally:
                self.leave_step()

        return timed

    def so_far(self) -> dict[str, float]:
        """The seconds until now."""
        self.charge()
        return dict(self.seconds)


_running: ContextVar[Stopwatch | None] = ContextVar("stopwatch", default=None)


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """A stopwatch for the parts of what happens inside; that of the caller where one runs."""
    running = _running.get()
    if running is not None:
        yield running
        return
    watch = Stopwatch()
    token = _running.set(watch)
    try:
        yield watch
    finally:
        watch.charge()
        _running.reset(token)


def elapsed() -> float:
    """The seconds since the call began that a stopwatch runs for; 0 without one."""
    watch = _running.get()
    return 0.0 if watch is None else sum(watch.so_far().values())


@contextmanager
def part(name: str) -> Iterator[None]:
    """What happens inside belongs to this part; also a decorator. Without a stopwatch, nothing."""
    watch = _running.get()
    if watch is None:
        yield
        return
    watch.enter(name)
    try:
        yield
    finally:
        watch.leave()
