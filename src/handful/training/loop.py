"""The loop: mini-batch gradient descent, as the textbook writes it."""

import time
from collections.abc import Callable, Iterator

import numpy as np

from handful.data.base import Batch
from handful.training.process.interrupts import INTERRUPTED, Interrupts
from handful.training.process.static import Graph
from handful.training.special.ahead import AHEAD, Coming, coming
from handful.training.special.exact import again
from handful.training.special.recorded import as_recorded
from handful.training.step import ExactGradient, update
from handful.training.training import Training


def descend(t: Training, step: "StepByStep", moment: Callable[[], None], interrupts: Interrupts) -> str:
    """Mini-batch gradient descent. Step 1, to initialise the parameters, is done: they are in `t.state`.

    moment: what is done where something is due. Returns why it stopped.
    """
    state, t.clock, t.asked_from, t.state.torn = t.state, time.perf_counter(), 0, False
    with Graph(t) as graph, step:
        while not (reason := should_stop(t, interrupts)):  # 7. repeat until it should stop
            if not (graph.open and graph.steps(interrupts)):  # many at once, where each is one graph
                step.take()  # 2. to 6., see `OneStep`
            if state.position >= t.next_moment:
                moment()  # log, evaluate, save, grow
            elif state.callbacks.all:
                state.callbacks.tell("step", {"step": state.step, "position": state.position})
            t.looked_at = state.step
    return reason


class StepByStep(ExactGradient):
    """The steps of a run, one by one: mini-batches that the host draws, and what they add up to."""

    def __init__(self, t: Training, interrupts: Interrupts) -> None:
        self.t, self.interrupts = t, interrupts
        self.stream: Iterator[Batch] | None = None  # of mini-batches of `drawn` rows
        self.drawn = self.at = 0
        self.coming, self.most = list[Coming](), 1 if t.schedule.by_clock else AHEAD  # the next steps, the last first
        self.again = again(self, t.state.optimizer)
        super().__init__(t.objective, Batch({}, np.empty(0, np.int64)), t.state.micro_batch, t.ranks, seed=t.plan.seed)
        self.recorded = as_recorded(t)

    def choose(self) -> Batch:
        """The mini-batch at the state's position. Its size may change between two steps: no row is lost."""
        t, state = self.t, self.t.state
        size = state.batch if t.batch_size is None else t.batch_size(t.progress())
        if self.stream is None or size != self.drawn or self.at != state.position:
            state.batch = t.ranks.batch = self.drawn = size
            self.stream = t.batches.stream(state.position, size, t.ranks.share)
        self.at = state.position + size
        if not self.coming or self.coming[-1].step != state.step:
            self.coming = coming(t, self.most)[::-1]
            state.window.whole()
        self.step, self.rates, self.dropout = self.coming.pop()
        return next(self.stream)

    def update(self) -> None:
        """The update, which no signal cuts in two."""
        t, interrupts = self.t, self.interrupts
        interrupts.held = True
        update(t, self.rates, again=self.again)
        t.state.position += t.state.batch
        t.state.step += 1
        t.state.window.added.append(self.total)
        interrupts.held = False
        if interrupts.again:
            raise KeyboardInterrupt


def should_stop(t: Training, interrupts: Interrupts) -> str | None:
    """A signal, or a callback's or the stop rule's reason, or None: the same on all ranks. Counts the seconds since it
    was last asked as the run's."""
    state, now = t.state, time.perf_counter()
    seconds, t.clock = now - t.clock, now
    state.seconds += seconds if t.ranks.size == 1 else t.ranks.elapsed(seconds)
    if interrupts.asked if t.ranks.size == 1 else t.ranks.stopped(interrupts):
        return INTERRUPTED
    return state.callbacks.reason or (t.stops() if state.position >= t.asked_from else None)
