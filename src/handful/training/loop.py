"""The loop: mini-batch gradient descent, as the textbook writes it."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from handful.data.base import Batch
from handful.training.state import Best, Window, copy_weights, load_weights
from handful.training.step import Outcome, gradient_that_fits
from handful.training.training import Training, update

Callback = Callable[[str, dict[str, Any]], object]


Tell = Callable[[str, dict[str, Any]], None]


INTERRUPTED = "it was interrupted"


def descend(t: Training, tell: Tell, interrupts: "Interrupts") -> str:
    """Mini-batch gradient descent. Step 1, to initialise the parameters, is done: they are in `t.state`.

    Returns why it stopped.
    """
    state = t.state
    t.objective.model.train()
    mini_batches, clock = MiniBatches(t), time.perf_counter()
    while not (reason := should_stop(t, interrupts)):  # 7. repeat until it should stop
        batch = mini_batches.next()  # 2. choose a random mini-batch
        outcome, state.micro_batch = gradient_that_fits(  # 3. forward, 4. mean loss over the batch, 5. backward
            t.objective, batch, state.micro_batch, t.ranks, seed=t.plan.seed, step=state.step
        )
        rate = update(t)  # 6. update by the learning rate
        state.position += state.batch
        state.step += 1
        observe(t, outcome, rate, tell)
        grow(t)
        state.seconds, clock = state.seconds + time.perf_counter() - clock, time.perf_counter()
    return reason


class MiniBatches:
    """The mini-batches from the state's position on. Their size may change between two steps: no row is lost."""

    def __init__(self, t: Training) -> None:
        self.t = t
        self.stream: Iterator[Batch] | None = None
        self.size = 0

    def next(self) -> Batch:
        t, size = self.t, self.t.batch_size(self.t.progress())
        if self.stream is None or size != self.size:
            t.state.batch = self.size = size
            self.stream = t.batches.stream(t.state.position, size, t.ranks.share)
        return next(self.stream)


def should_stop(t: Training, interrupts: "Interrupts") -> str | None:
    """The stop rule's reason, or None; with several ranks all follow rank 0, whose clock decides."""
    return t.ranks.same_answer(INTERRUPTED if interrupts.asked else t.rule(t.progress()), t.objective.device)


class Interrupts:
    """Inside the block, Ctrl-C (and a scheduler's SIGTERM) asks the run to stop between two steps, so that no update
    is left half made; a second one raises KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.asked = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self.before[number] = signal.signal(number, self.ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def ask(self, number: int, _frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = number

    def pass_on(self) -> None:
        """Let a signal that would have ended the process do so, now that the run is written down."""
        if self.asked == signal.SIGTERM and self.before.get(signal.SIGTERM) == signal.SIG_DFL:
            signal.raise_signal(signal.SIGTERM)


def grow(t: Training) -> None:
    """Let the batch grow where that pays; what was done is said and logged."""
    if t.grower is None:
        return
    said, s = t.grower.consider(t), t.state
    if said:
        t.live.note(said)
        t.log({"step": s.step, "position": s.position, "epoch": s.position / t.examples,
               "seconds": round(s.seconds, 4), "batch": s.batch, "note": said})  # fmt: skip


def observe(t: Training, outcome: Outcome, rate: float, tell: Tell) -> None:
    """What happens between steps: log, evaluate, save. Due moments are functions of position, never of time (but
    for checkpoints, which change nothing)."""
    state = t.state
    state.window.add(outcome)
    logged, evaluated = t.due(t.log_every), t.valid is not None and t.due(t.evaluate_every)
    here = {"step": state.step, "position": state.position}
    if logged or evaluated:
        row = moment(t, rate)
        if evaluated:
            row |= {f"valid_{k}": v for k, v in evaluate(t).items()}
            keep_best(t, row)
        t.log(row)
        tell("step", here if evaluated else row)
        if evaluated:
            tell("evaluate", row)
        (t.live.evaluation if evaluated else t.live.update)(row)
    else:
        tell("step", here)
    if t.checkpoint_due(evaluated):
        t.save()
        tell("checkpoint", here)


def moment(t: Training, rate: float) -> dict[str, Any]:
    """A row of the history: where the run is, and the training scores since the last row."""
    state = t.state
    row: dict[str, Any] = {
        "step": state.step,
        "position": state.position,
        "epoch": state.position / t.examples,
        "seconds": round(state.seconds, 4),
        "batch": state.batch,
        "lr": rate,
        **state.window.scores(t.objective.metrics),
    }
    state.window = Window()
    return row


def evaluate(t: Training) -> dict[str, float]:
    """Scores on the held-out rows, with the averaged weights where there are any."""
    assert t.valid is not None
    t.ranks.same_buffers(t.objective.model)
    kept = None
    if t.state.average is not None:
        kept = copy_weights(t.objective.model)
        load_weights(t.objective.model, t.state.average)
    try:
        return t.objective.evaluate(t.valid.epoch(t.evaluation_batch))
    finally:
        if kept is not None:
            load_weights(t.objective.model, kept)


def keep_best(t: Training, row: dict[str, Any]) -> None:
    """Remember the weights if this evaluation is the best so far; equal scores are told apart by the lower loss."""
    best = t.state.best
    if best is None or t.better(row, best.row):
        weights = t.state.average or copy_weights(t.objective.model, clone=False)
        t.state.best = Best(dict(row), {k: v.clone() for k, v in weights.items()})


def restore_best(t: Training) -> None:
    """Leave the model with its best weights: of the best evaluation, or, with nothing held out, the last (averaged)."""
    state = t.state
    if state.best is not None:
        load_weights(t.objective.model, state.best.weights)
    elif state.average is not None:
        load_weights(t.objective.model, state.average)
    t.objective.model.eval()
