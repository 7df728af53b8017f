"""How many CPU threads a step should use: all of them, unless the machine's other users make one faster.

Threads of one operation wait for each other. On a busy machine, where one of them is kept off its core, two threads
have been measured 100 times slower than one; no one would guess it, and it can be measured in a moment.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from handful.plan import Choice
from handful.probe.snapshot import untouched
from handful.step import NonFiniteLoss, OutOfMemory, gradient
from handful.training import Training

CLEARLY = 1.3  # one thread must be so many times faster than all: a tie, or noise, leaves torch's own setting


@contextmanager
def using_threads(count: int | None) -> Iterator[None]:
    """Compute with `count` threads (None: as it is) inside the block."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_threads(t: Training, *, budget: float = 1.0, rounds: int = 7) -> Choice:
    """Forward and backward passes of the provisional batch with all threads and with one, in turn; leaves no trace.

    budget: seconds after which no further round begins (there are two rounds at least).
    """
    everything = torch.get_num_threads()
    if t.objective.device.type != "cpu" or everything == 1 or t.ranks.size > 1:
        return Choice(everything, "default", "torch's own setting")
    times: dict[int, list[float]] = {everything: [], 1: []}
    started = time.perf_counter()
    with untouched(t):
        t.objective.model.train()
        batch = t.batches.at(t.state.position, t.state.batch)
        try:
            for k in range(rounds + 1):
                for count, seconds in times.items():
                    with using_threads(count):
                        before = time.perf_counter()
                        gradient(t.objective, batch, t.state.micro_batch, seed=t.plan.seed, step=0)
                        seconds.append(time.perf_counter() - before)
                if k >= 2 and time.perf_counter() - started > budget:
                    break
        except (NonFiniteLoss, OutOfMemory):
            return Choice(everything, "default", "torch's own setting; the trial step failed")
    many, one = (statistics.median(times[count][1:]) for count in (everything, 1))  # the first of each warms up
    chosen = 1 if many > CLEARLY * one else everything
    reason = f"a step takes {1000 * many:.3g} ms with {everything} threads and {1000 * one:.3g} ms with one"
    return Choice(chosen, "measured", reason + (" on this busy machine" if chosen == 1 else ""))
