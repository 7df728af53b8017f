"""How many CPU threads a step should use: all of them, unless the machine's other users make one faster.

Threads of one operation wait for each other. On a busy machine, where one of them is kept off its core, two threads
have been measured 100 times slower than one; no one would guess it, and it can be measured in a moment.
"""

import statistics
import time

import torch

from handful.base.plan import Choice
from handful.plan.probe.snapshot import untouched
from handful.training.guards import NonFiniteLoss, OutOfMemory
from handful.training.process.device import using_threads
from handful.training.step import gradient
from handful.training.training import Training

FEWER_THREADS = 1.3  # one thread must be so many times faster than all: a tie, or noise, leaves torch's own setting


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
    chosen = 1 if many > FEWER_THREADS * one else everything
    reason = f"a step takes {1000 * many:.3g} ms with {everything} threads and {1000 * one:.3g} ms with one"
    return Choice(chosen, "measured", reason + (" on this busy machine" if chosen == 1 else ""))


LOWER_PRECISION = 1.25  # bfloat16 must be so many times faster: it keeps 8 bits of a number's 24
ROWS = 64  # of a trial batch, at most


def measure_precision(t: Training, *, budget: float = 1.0, rounds: int = 5) -> Choice:
    """Forward and backward passes of some rows in float32 and under bfloat16 autocast, in turn; leaves no trace.

    On one thread, so that other users of the machine cannot tip the scales. budget: seconds after which no further
    round begins (there are two rounds at least).
    """
    times: dict[torch.dtype | None, list[float]] = {None: [], torch.bfloat16: []}
    objective = t.objective
    before, started = objective.autocast, time.perf_counter()
    try:
        with untouched(t), using_threads(1):
            objective.model.train()
            batch = t.batches.at(t.state.position, min(ROWS, len(t.batches.source)))
            for k in range(rounds + 1):
                for dtype, seconds in times.items():
                    objective.autocast = dtype
                    began = time.perf_counter()
                    gradient(objective, batch, t.state.micro_batch, seed=t.plan.seed, step=0)
                    seconds.append(time.perf_counter() - began)
                if k >= 2 and time.perf_counter() - started > budget:
                    break
    except (NonFiniteLoss, OutOfMemory):
        return Choice("float32", "default", "the model's own precision; the trial step failed")
    finally:
        objective.autocast = before
    whole, half = (1000 * statistics.median(seconds[1:]) for seconds in times.values())  # the first of each warms up
    reason = f"a step of {len(batch)} rows takes {half:.3g} ms in bfloat16 (autocast) and {whole:.3g} ms in float32"
    return Choice("bfloat16" if whole > LOWER_PRECISION * half else "float32", "measured", reason)
