"""The loop: mini-batch gradient descent, as the textbook writes it."""

import time
from collections.abc import Callable, Iterator

from handful.data.base import Batch
from handful.training.guards import in_parts_that_fit
from handful.training.objective import LossSums
from handful.training.process.interrupts import INTERRUPTED, Interrupts
from handful.training.step import ExactGradient
from handful.training.training import Training, update


def descend(t: Training, after_step: Callable[[LossSums, float], None], interrupts: Interrupts) -> str:
    """Mini-batch gradient descent. Step 1, to initialise the parameters, is done: they are in `t.state`.

    after_step: gets the sums over the mini-batch and the rate of the update; it logs, evaluates and saves.
    Returns why it stopped.
    """
    objective, state, seed = t.objective, t.state, t.plan.seed
    objective.model.train()
    mini_batches, clock = MiniBatches(t), time.perf_counter()
    while not (reason := should_stop(t, interrupts)):  # 7. repeat until it should stop
        batch = mini_batches.next()  # 2. choose a random mini-batch
        with ExactGradient(objective, batch, state.micro_batch, t.ranks, seed=seed, step=state.step) as gradient:
            for part in gradient.parts():  # all rows at once, or in parts that fit in memory
                output = objective.forward(part)  # 3. forward
                sums = objective.sums_of(output, part)  # 4. mean loss: its sum and its weight
                gradient.backward(sums)  # 5. backward
                del output, sums  # or they would take up memory during the next forward pass
        with interrupts.one_update():
            rate = update(t, again=gradient.again)  # 6. update by the learning rate
            state.position += state.batch
            state.step += 1
        after_step(gradient.total, rate)
        state.seconds, clock = state.seconds + t.ranks.elapsed(time.perf_counter() - clock), time.perf_counter()
    return reason


class MiniBatches:
    """The mini-batches from the state's position on. Their size may change between two steps: no row is lost."""

    def __init__(self, t: Training) -> None:
        self.t = t
        self.stream: Iterator[Batch] | None = None
        self.size = 0

    def next(self) -> Batch:
        """The mini-batch at the state's position."""
        t = self.t
        size = t.state.batch if t.batch_size is None else t.batch_size(t.progress())
        if self.stream is None or size != self.size:
            t.state.batch = t.ranks.batch = self.size = size
            self.stream = t.batches.stream(t.state.position, size, t.ranks.share)
        return next(self.stream)


def should_stop(t: Training, interrupts: Interrupts) -> str | None:
    """A signal, or the stop rule's reason, or None: the same on all ranks."""
    return INTERRUPTED if t.ranks.stopped(interrupts) else t.rule(t.progress())


def train(t: Training, after_step: Callable[[LossSums, float], None], interrupts: Interrupts) -> str:
    """`descend`, which goes on at the same step in parts of half as many rows where memory runs out."""

    def from_here(micro_batch: int | None) -> str:
        t.state.micro_batch = micro_batch
        return descend(t, after_step, interrupts)

    return in_parts_that_fit(t.state.micro_batch, from_here)[0]
