"""Everything a run needs, built and checked; what changes while it runs is in its State alone."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from handful.base.keys import dropout_key
from handful.base.plan import Plan, Progress
from handful.batches.batches import Batches
from handful.data.base import Source
from handful.optim.fused import Moved, stepper
from handful.optim.schedule import Schedule
from handful.report.live import Live
from handful.training.objective import Objective
from handful.training.process.parallel import Ranks
from handful.training.state import State
from handful.training.watch import stop
from handful.training.watch.folder import Held, RunFolder
from handful.training.watch.weights import as_last, reader
from handful.transform.pipeline import Pipeline

RATE_IS_OPEN = ("default", "measured")  # the statuses of a rate that nobody asked for


@dataclass
class Training:
    """The parts of a run. Examples are the unit of every interval.

    rows, held_out: as they were given; `batches.source` and `valid.source` have the same rows, maybe preprocessed.
    """

    plan: Plan
    pipeline: Pipeline
    objective: Objective
    rows: Source
    batches: Batches
    valid: Batches | None
    state: State
    rule: stop.Rule
    schedule: Schedule
    live: Live
    planned: int | None
    log_every: int = 1
    evaluate_every: int = 1
    batch_size: Callable[[Progress], int] | None = None  # None: as it is in the state
    l1: float = 0.0
    clip_norm: float | None = None
    clip_value: float | None = None
    ema: float = 0.0
    save_every: int | None = None
    grower: Callable[["Training"], str | None] | None = None
    ranks: Ranks = field(default_factory=Ranks)
    folder: RunFolder | None = None
    held_out: Source | None = None
    evenness: float = 1.0  # of the classes: so many rows a held-out one stands for in the error of a score of them all
    parameters: list[nn.Parameter] = field(default_factory=list)
    decayed: list[nn.Parameter] = field(init=False)
    saved_at: float = 0.0  # by the seconds of the state
    saving_took: float = 0.0  # seconds
    held: Held | None = None  # the checkpoint to go back to, where a run has no folder
    examples: int = 0  # rows in one epoch
    next_moment: int = 0  # position before which nothing is due: see `Observer`
    asked_from: float = 0  # position before which the rule does not stop the run
    looked_at: int = -1  # the last step that was looked at to the end, so that the state is one to go on from
    one_by_one: bool = False  # whether each step's sums are wanted, so that none may be a graph
    resident: dict[str, Tensor] | None = None  # all rows as the model takes them, for a graph; {}: they do not fit
    clock: float = field(default_factory=time.perf_counter)  # when seconds were last counted
    infinite: bool = False  # whether weights held infinity before the first step, as those of a mask may
    training_step: Callable[..., object] | None = None  # the caller's, in place of forward, loss and update
    uneven: Callable[[int], str | None] = lambda part: None  # why parts of so many rows do not add up to a mini-batch
    moved: dict[str | None, Moved] = field(default_factory=dict)  # by that, under the names of the optimizers

    def __post_init__(self) -> None:
        self.examples = len(self.batches.source)
        self.decayed = [p for p in self.parameters if p.ndim > 1]
        self.move, self.weights = stepper(self.state.optimizer), reader(self.objective.model)
        self.as_last = as_last(self.objective.model)
        self.objective.guarded = self.on_nonfinite != "stop"

    @property
    def on_nonfinite(self) -> str:
        """What is done about a loss or a gradient that is not finite: "stop", "skip" or "rollback"."""
        return str(self.plan.on_nonfinite) if "on_nonfinite" in self.plan.choices else "stop"

    def progress(self) -> Progress:
        """How far the run has come, for rules and schedules."""
        s = self.state
        return Progress(s.position, s.step, self.examples, s.seconds, self.planned, s.history, s.restarted)

    def seed_dropout(self, ahead: int = 0) -> None:
        """As the step that is so many further has it."""
        self.objective.seed_dropout(dropout_key(self.plan.seed, self.state.step + ahead, self.ranks.rank))

    def stops(self) -> str | None:
        """Why the rule stops the run here, or None: then it need not be asked again before `asked_from`."""
        here = self.progress()
        reason = self.rule(here)
        self.asked_from = self.rule.silent_until(here, self.state.batch if self.batch_size is None else None)
        return reason
