"""What happens between two steps: log, evaluate, keep the best weights, save, let the batch grow.

Due moments are functions of position, never of time (but for checkpoints, which change nothing).
"""

from collections.abc import Callable
from dataclasses import dataclass

from handful.base.plan import Row
from handful.optim.state import switch
from handful.training.evaluation import evaluate
from handful.training.objective import LossSums
from handful.training.state import Best, Weights, Window, load_weights
from handful.training.training import Training

Callback = Callable[[str, dict[str, object]], object]


@dataclass
class Observer:
    """Looks at a run after every step; `tell` calls the callbacks."""

    t: Training
    callbacks: tuple[Callback, ...] = ()
    step: int = -1  # the last one that was looked at to the end, so that the state is one to go on from
    early: tuple[int, ...] = ()  # positions in the first epoch at which the held-out rows are looked at, too

    def __post_init__(self) -> None:
        self.step = self.t.state.step
        if self.t.open_looks:
            self.early = tuple(n for n in (self.t.examples // k for k in (8, 4, 2)) if 0 < n < self.t.evaluate_every)

    def tell(self, event: str, info: dict[str, object]) -> None:
        """Let every callback know of an event."""
        for callback in self.callbacks:
            callback(event, info)

    def __call__(self, sums: LossSums, rate: float) -> None:
        t = self.t
        t.state.window.add(sums)
        passed = t.state.position - t.state.batch
        early = any(passed < n <= t.state.position for n in self.early)
        evaluated = t.valid is not None and (early or t.due(t.evaluate_every))
        if evaluated or t.due(t.log_every):
            self.log(rate, evaluated)
        elif self.callbacks:
            self.tell("step", t.here())
        if t.grower is not None and (note := t.grower(t)):  # what it decides is saved with the step it belongs to
            t.live.note(note)
            t.log({**t.moment(), "note": note})
        self.step = t.state.step
        if t.folder is not None and t.checkpoint_due(evaluated):
            t.save()
            self.tell("checkpoint", t.here())

    def begin(self) -> None:
        """A look at the held-out rows where the loop begins, unless a run that is resumed has had it."""
        if self.t.open_looks and self.t.state.best is None:
            self.looked(look(self.t, self.t.moment()))

    def log(self, rate: float, evaluated: bool) -> None:
        """A row of the history: where the run is, the training scores since the last row, and held-out ones."""
        t = self.t
        row = {**t.moment(), "lr": rate, **t.state.window.scores(t.objective.sum_metrics)}
        t.state.window = Window()
        if not evaluated or t.valid is None:
            t.log(row)
            self.tell("step", row)
            t.live.update(row)
            return
        self.looked(look(t, row))

    def looked(self, row: Row) -> None:
        """Log a row with held-out scores."""
        t = self.t
        t.log(row)
        if t.state.step:
            self.tell("step", t.here())
        self.tell("evaluate", row)
        t.live.evaluation(row)


def look(t: Training, row: Row, *, keep: bool = True) -> Row:
    """The row with the scores on the held-out rows; keep: the weights, too, if they are the best so far."""
    assert t.valid is not None
    t.ranks.spread(t.objective.buffers)  # running statistics follow rank 0's share of the batch
    with t.state.evaluated() as weights:
        scores = evaluate(t.objective, t.valid.epoch(t.evaluation_batch, t.ranks.share), ranks=t.ranks)
        row |= {f"valid_{name}": value for name, value in scores.items()}
        if keep:
            keep_best(t, row, weights)
    return row


def keep_best(t: Training, row: Row, weights: Weights) -> None:
    """Remember the weights if this evaluation is the best so far; equal scores are told apart by the lower loss."""
    best = t.state.best
    if best is None or t.better(row, best.row):
        t.state.best = Best(dict(row), {k: v.clone() for k, v in weights.items()})


def restore_best(t: Training) -> None:
    """Leave the model with its best weights: of the best evaluation, or, with nothing held out, the last (averaged)."""
    state = t.state
    switch(state.optimizer, "eval")
    if state.best is not None:
        load_weights(t.objective.model, state.best.weights)
    elif state.average is not None:
        load_weights(t.objective.model, state.average)
    t.objective.model.eval()
