"""Whether a step is clearly faster in bfloat16 on this CPU: some compute in it at twice the speed, some emulate it."""

import statistics
import time

import torch

from handful.plan import Choice
from handful.probe.snapshot import untouched
from handful.probe.threads import using_threads
from handful.step import NonFiniteLoss, OutOfMemory, gradient
from handful.training import Training

CLEARLY = 1.25  # bfloat16 must be so many times faster: it keeps 8 bits of a number's 24
ROWS = 64  # of a trial batch, at most


def choose_precision(t: Training, *, budget: float = 1.0, rounds: int = 5) -> Choice:
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
    return Choice("bfloat16" if whole > CLEARLY * half else "float32", "measured", reason)
