"""Two ways to compute a step, timed in turn: how many CPU threads, and in which precision.

Threads of one operation wait for each other. On a busy machine, where one of them is kept off its core, two threads
have been measured 100 times slower than one; no one would guess it, and it can be measured in a moment.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch

from handful.base.plan import Choice
from handful.base.stopwatch import part
from handful.plan.probe.snapshot import untouched
from handful.plan.probe.steps import clock, effort
from handful.training.objective import Objective
from handful.training.process.device import using_threads
from handful.training.special.coupling import training_mode
from handful.training.special.exact import gradient
from handful.training.training import Training
from handful.training.watch.guards import NonFiniteLoss, OutOfMemory, TooLarge

FEWER_THREADS = 1.3  # one thread must be so many times faster than all: a tie, or noise, leaves torch's own setting
LOWER_PRECISION = 1.25  # bfloat16 must be so many times faster: it keeps 8 bits of a number's 24
SLOW = 0.04  # of the time that a run has: where one round takes longer, nothing is measured
ROWS = 64  # of a trial batch in float32 and bfloat16, at most


def time_in_turn(
    t: Training,
    settings: Sequence[Callable[[], AbstractContextManager[None]]],
    size: int,
    *,
    budget: float,
    rounds: int,
    now: Callable[[Training], float] = clock,
) -> list[float] | None:
    """The median milliseconds of forward and backward pass of `size` rows in each setting (a context manager), which
    take turns, so that a slow moment of the machine falls on all. None where a step failed, or is so slow that trying
    some would eat up the time that the run has. Leaves no trace.

    budget: seconds after which no further round begins (there are two rounds at least, and one before to warm up).
    now: the seconds that are counted; `effort` where one thread does it all, whose time others on the machine do not
    lengthen.
    """
    times: list[list[float]] = [[] for _ in settings]
    started = time.perf_counter()
    with untouched(t):
        training_mode(t.objective.model)
        batch = t.batches.at(t.state.position, size)
        for k in range(rounds + 1):
            for setting, measured in zip(settings, times, strict=True):
                with setting():
                    before = now(t)
                    try:
                        gradient(t.objective, batch, t.state.micro_batch, seed=t.plan.seed, step=0)
                    except (NonFiniteLoss, OutOfMemory, TooLarge):
                        return None
                    measured.append(1000 * (now(t) - before))
            spent = time.perf_counter() - started
            if k == 0 and spent > SLOW * (t.rule.time() or math.inf):
                return None
            if k >= 2 and spent > budget:
                break
    return [statistics.median(measured[1:]) for measured in times]


@part("measuring threads")
def choose_threads(t: Training, *, budget: float = 1.0, rounds: int = 7) -> Choice:
    """All threads, or one where a step of the provisional batch is clearly faster with it."""
    everything = torch.get_num_threads()
    if t.objective.device.type != "cpu" or everything == 1:
        return Choice(everything, "default", "torch's own setting")
    settings = [partial(using_threads, count) for count in (everything, 1)]
    measured = time_in_turn(t, settings, t.state.batch, budget=budget, rounds=rounds)
    if measured is None:
        return Choice(everything, "default", "torch's own setting; the trial step failed, or is too slow to try more")
    many, one = measured
    reason = f"a step takes {many:.3g} ms with {everything} threads and {one:.3g} ms with one"
    if many > FEWER_THREADS * one:
        return Choice(1, "measured", f"{reason} on this busy machine")
    return Choice(everything, "measured", reason)


@part("measuring precision")
def measure_precision(t: Training, *, budget: float = 1.0, rounds: int = 5) -> Choice:
    """float32, or bfloat16 autocast where a step is clearly faster in it; on one thread, so that other users of the
    machine cannot tip the scales."""
    size = min(ROWS, t.examples)
    settings = [partial(computing_in, t.objective, dtype) for dtype in (None, torch.bfloat16)]
    with using_threads(1):
        measured = time_in_turn(t, settings, size, budget=budget, rounds=rounds, now=effort)
    if measured is None:
        return Choice("float32", "default", "the model's own; the trial step failed, or is too slow to try more")
    whole, half = measured
    reason = f"a step of {size} rows takes {half:.3g} ms in bfloat16 (autocast) and {whole:.3g} ms in float32"
    return Choice("bfloat16" if whole > LOWER_PRECISION * half else "float32", "measured", reason)


@contextmanager
def computing_in(objective: Objective, autocast: torch.dtype | None) -> Iterator[None]:
    """The forward pass in this precision (None: the model's own) inside the block."""
    before, objective.autocast = objective.autocast, autocast
    try:
        yield
    finally:
        objective.autocast = before
