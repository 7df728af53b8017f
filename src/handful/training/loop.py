"""The loop: mini-batch gradient descent, as the textbook writes it."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from handful.base.errors import StepError
from handful.data.base import Batch
from handful.training.objective import LossSums
from handful.training.process.interrupts import INTERRUPTED, Interrupts
from handful.training.process.static import Graph
from handful.training.special import own_step
from handful.training.special.coupling import training_mode
from handful.training.state import Held
from handful.training.step import ExactGradient
from handful.training.training import Training, update
from handful.training.watch.guards import NonFiniteLoss, in_parts_that_fit


def descend(t: Training, after_step: Callable[[LossSums, float], None], interrupts: Interrupts) -> str:
    """Mini-batch gradient descent. Step 1, to initialise the parameters, is done: they are in `t.state`.

    after_step: gets the sums over the mini-batch and the rate of the update; it logs, evaluates and saves.
    Returns why it stopped.
    """
    training_mode(t.objective.model)
    step, t.clock, t.asked_from = StepByStep(t, interrupts), time.perf_counter(), 0
    with Graph(t, after_step) as graph, step:
        while not (reason := should_stop(t, interrupts)):  # 7. repeat until it should stop
            if graph.open and graph.steps(interrupts):  # many at once, where each is one graph
                continue
            step.take()  # 2. to 6., see `OneStep`
            after_step(step.total, step.rate)
            t.tick()
    return reason


class StepByStep(ExactGradient):
    """The steps of a run, one by one: mini-batches that the host draws, and what they add up to."""

    def __init__(self, t: Training, interrupts: Interrupts) -> None:
        self.t, self.interrupts, self.mini_batches, self.rate = t, interrupts, MiniBatches(t), 0.0
        self.foreseen, self.factors = t.foreseen, list[float]()  # of the base rate, of the next steps, the last first
        super().__init__(t.objective, Batch({}, NO_ROWS), t.state.micro_batch, t.ranks, seed=t.plan.seed)

    def choose(self) -> Batch:
        """The mini-batch at the state's position."""
        self.step = self.t.state.step
        return self.mini_batches.next()

    def update(self) -> None:
        """The update, which no signal cuts in two."""
        t, interrupts = self.t, self.interrupts
        if not self.factors and self.foreseen:
            self.factors = t.ahead(self.foreseen)[::-1]
        interrupts.held = True
        self.rate = update(t, self.factors.pop() if self.factors else None, self.again)
        t.state.position += t.state.batch
        t.state.step += 1
        interrupts.done()


def descend_by_hand(t: Training, after_step: Callable[[LossSums, float], None], interrupts: Interrupts) -> str:
    """`descend`, with steps 3 to 6 by the caller's own training_step."""
    training_mode(t.objective.model)
    mini_batches, t.clock, t.asked_from = MiniBatches(t), time.perf_counter(), 0
    while not (reason := should_stop(t, interrupts)):
        batch = mini_batches.next()
        with interrupts.one_update():
            sums, rate = own_step.take(t, batch)
            t.state.position += t.state.batch
            t.state.step += 1
        after_step(sums, rate)
        t.tick()
    return reason


class MiniBatches:
    """The mini-batches from the state's position on. Their size may change between two steps: no row is lost."""

    def __init__(self, t: Training) -> None:
        self.t = t
        self.stream: Iterator[Batch] | None = None
        self.size = self.at = 0

    def next(self) -> Batch:
        """The mini-batch at the state's position."""
        t = self.t
        size = t.state.batch if t.batch_size is None else t.batch_size(t.progress())
        if self.stream is None or size != self.size or self.at != t.state.position:
            t.state.batch = t.ranks.batch = self.size = size
            self.stream = t.batches.stream(t.state.position, size, t.ranks.share)
        self.at = t.state.position + size
        return next(self.stream)


def should_stop(t: Training, interrupts: Interrupts) -> str | None:
    """A signal, or a callback's or the stop rule's reason, or None: the same on all ranks."""
    if interrupts.asked if t.ranks.size == 1 else t.ranks.stopped(interrupts):
        return INTERRUPTED
    if t.state.position < t.asked_from:
        return t.state.callbacks.reason
    return t.state.callbacks.reason or t.stops()


NO_ROWS = np.empty(0, dtype=np.int64)
SKIPS, RETURNS = 10, 5  # at most: mini-batches passed over in a row; times that a run goes back


def train(t: Training, after_step: Callable[[LossSums, float], None], interrupts: Interrupts) -> str:
    """`descend`, which goes on at the same step in parts of half as many rows where memory runs out, and as
    `on_nonfinite` says after a loss that is not finite."""

    def from_here(micro_batch: int | None) -> str:
        t.fit_in(micro_batch)
        return (descend if t.training_step is None else descend_by_hand)(t, after_step, interrupts)

    if t.folder is None and t.on_nonfinite == "rollback" and t.held is None:
        t.held = Held()
        t.save(due=True)
    while True:
        try:
            return in_parts_that_fit(t.state.micro_batch, from_here)[0]
        except NonFiniteLoss as error:
            lost = error
        match t.on_nonfinite:
            case "skip":
                skip(t, lost, after_step)
            case "rollback":
                go_back(t, lost)
            case _:
                raise lost


def skip(t: Training, lost: NonFiniteLoss, after_step: Callable[[LossSums, float], None]) -> None:
    """Pass over a mini-batch: a step without an update. Raises where that leads nowhere."""
    state = t.state
    many = state.skipped[0] + 1 if state.skipped[1] == state.step else 1
    if lost.in_weights:
        raise lost
    if many > SKIPS:
        raise StepError(f"{SKIPS} mini-batches in a row had to be skipped, and the next: {lost}")
    state.position, state.step = state.position + state.batch, state.step + 1
    state.skipped = [many, state.step]
    t.say(f"the mini-batch of step {state.step:,} was skipped: {lost}")
    after_step(LossSums(torch.zeros(()), torch.zeros(())), float(state.optimizer.param_groups[0]["lr"]))


def go_back(t: Training, lost: NonFiniteLoss) -> None:
    """To the newest checkpoint; from there the same rows come in the same order, at half the learning rate. Raises
    where that leads nowhere."""
    state, times = t.state, len(t.state.went_back) + 1
    said = [int(number) for text in t.ranks.gather(f"{lost.in_rows:d} {state.back}") for number in text.split()]
    if any(said[::2]):  # on whichever rank
        raise lost
    if times > RETURNS:
        raise StepError(f"the run went back {RETURNS} times, at half the learning rate each, and again: {lost}")
    to, vault = min(said[1::2]), t.folder or t.held
    assert vault is not None
    seconds, went_back = state.seconds, [*state.went_back, to]
    state.restore(*vault.checkpoint(to))
    state.seconds, state.went_back, t.next_moment = seconds, went_back, 0
    if t.folder is not None:
        t.folder.behind = True  # the rows after that checkpoint are of a past that is given up
    t.say(
        f"{lost}; the run went back to step {to:,} and goes on at half the learning rate ({times} of at most {RETURNS} "
        "times)"
    )
    t.save(due=True)
