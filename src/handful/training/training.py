"""Everything a run needs, built and checked; what changes while it runs is in its State alone."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from handful.base.errors import HandfulError
from handful.base.plan import Plan, Progress, Row
from handful.base.score import direction, lower_is_better
from handful.base.stopwatch import part
from handful.batches.batches import Batches
from handful.data.base import Source
from handful.optim.fused import Closure, Move, stepper
from handful.optim.rates import clip, follow, set_lr
from handful.optim.schedule import Schedule
from handful.optim.state import averages_itself
from handful.report.live import Live
from handful.training.objective import Objective
from handful.training.process.parallel import Ranks
from handful.training.state import Held, State, Weights, average_weight, reader, update_average
from handful.training.step import add_l1
from handful.training.watch import stop
from handful.transform.pipeline import Pipeline

RATE_IS_OPEN = ("default", "measured")  # the statuses of a rate that nobody asked for
CONSIDERED = 16  # times in a run that the batch may grow
FULL = 1000  # rows of the history of a run whose length is not known, before they are fewer
AHEAD = 64  # steps whose rates are computed at once
NEAR = 0.05  # of the lowest held-out loss: evaluations so near it are told apart by the score first


class Recorder(Protocol):
    """Where a run is written down while it goes on: its folder."""

    path: Path
    behind: bool  # history.jsonl: it is written anew with the next checkpoint

    def append_history(self, row: Row) -> None: ...

    def save_checkpoint(self, state: State, tensors: Weights) -> None: ...

    def checkpoint(self, step: int) -> tuple[Weights, Row]: ...

    def save_plan(self, plan: Plan) -> None: ...

    def finish(self, model: nn.Module, stopped_because: str, best: Row | None, history: list[Row]) -> None: ...

    def release(self) -> None: ...


@dataclass
class Moved:
    """Parameters, those of them that l1 is for, and what moves them."""

    parameters: list[nn.Parameter]
    decayed: list[nn.Parameter]
    move: Move


@dataclass
class Training:
    """The parts of a run. Examples are the unit of every interval.

    rows, held_out: the training and the held-out rows as they were given; `batches.source` and `valid.source` have the
    same rows, maybe preprocessed.
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
    folder: Recorder | None = None
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
    one_by_one: bool = False  # whether each step's sums are wanted, so that none may be a graph
    resident: dict[str, Tensor] | None = None  # all rows as the model takes them, for a graph; {}: they do not fit
    clock: float = 0.0  # when seconds were last counted
    told: bool = False  # whether callbacks want to know of each step
    training_step: Callable[..., object] | None = None  # the caller's, in place of forward, loss and update
    moved: dict[str | None, Moved] = field(default_factory=dict)  # by that, under the names of the optimizers

    def __post_init__(self) -> None:
        self.examples = len(self.batches.source)
        self.decayed = [p for p in self.parameters if p.ndim > 1]
        self.move, self.weights = stepper(self.state.optimizer), reader(self.objective.model)
        self.objective.guarded = self.on_nonfinite != "stop"

    @property
    def on_nonfinite(self) -> str:
        """What is done about a loss or a gradient that is not finite: "stop", "skip" or "rollback"."""
        choice = self.plan.choices.get("on_nonfinite")
        return "stop" if choice is None else str(choice.value)

    def fit_in(self, micro_batch: int | None) -> None:
        """Put so many rows through the model at a time from here on; said where that is new."""
        if micro_batch is not None and micro_batch != self.state.micro_batch:
            self.say(
                f"memory ran out at step {self.state.step + 1:,}: {micro_batch:,} rows at a time go through the model "
                "from here on; the update is the same"
            )
        self.state.micro_batch = micro_batch

    @property
    def evaluation_batch(self) -> int:
        """Rows read at a time when scores are computed; the scores do not depend on it."""
        return 512

    def progress(self) -> Progress:
        """How far the run has come, for rules and schedules."""
        s = self.state
        return Progress(s.position, s.step, self.examples, s.seconds, self.planned, s.history, s.restarted)

    def stops(self) -> str | None:
        """Why the rule stops the run here, or None: then it need not be asked again before `asked_from`."""
        here = self.progress()
        reason = self.rule(here)
        self.asked_from = self.rule.silent_until(here, self.state.batch if self.batch_size is None else None)
        return reason

    @property
    def foreseen(self) -> int:
        """Of how many steps factors of the rate can be computed ahead; none where parts of the model have their own."""
        return 0 if self.schedule.patterns or self.schedule.by_clock else AHEAD

    def ahead(self, most: int) -> list[float]:
        """The factors of the base rate of the next steps: up to `most`, to where something is due, the rule stops the
        run, or the batch has another size; none where that is now."""
        s, p, found = self.state, self.progress(), list[float]()
        while len(found) < most and (self.batch_size is None or self.batch_size(p) == s.batch):
            try:
                found.append(self.schedule(p))
            except HandfulError:  # said where it is that step's turn
                if not found:
                    raise
                break
            p = Progress(p.position + s.batch, p.step + 1, p.examples, p.seconds, p.planned, p.history, p.restarted)
            if p.position >= self.next_moment or (p.position >= self.asked_from and self.rule(p)):
                break
        return found

    def due(self, every: int) -> bool:
        """Whether the last step crossed a multiple of `every` examples, or reached the planned end."""
        s = self.state
        crossed = s.position // every > (s.position - s.batch) // every
        return crossed or (self.planned is not None and s.position >= self.planned)

    @property
    def logged_every(self) -> int:
        """Examples between two logged moments. In a run whose length is not known twice as many whenever it has become
        twice as long, so that the history grows by FULL / 2 rows a doubling and not with the run."""
        so_far = 0 if self.planned is not None else self.state.position // (FULL * self.log_every)
        return self.log_every << so_far.bit_length()

    @property
    def open_looks(self) -> bool:
        """Whether there are held-out rows, and when they are looked at was left open: then early, too."""
        choice = self.plan.choices.get("evaluate_every")
        return self.valid is not None and choice is not None and choice.status == "default"

    @property
    def may_restart(self) -> bool:
        """Whether a held-out loss that rises from the first looks on may lower the rate, which nobody asked for."""
        is_open = self.plan.choices["lr"].status in RATE_IS_OPEN and self.training_step is None
        return is_open and self.open_looks and not averages_itself(self.state.optimizer)

    def tick(self) -> None:
        """Count the seconds since it was last asked as the run's."""
        now = time.perf_counter()
        seconds, self.clock = now - self.clock, now
        self.state.seconds += seconds if self.ranks.size == 1 else self.ranks.elapsed(seconds)

    def here(self) -> dict[str, object]:
        """Where the run is, for callbacks."""
        return {"step": self.state.step, "position": self.state.position}

    def moment(self) -> Row:
        """Where the run is, for a row of the history."""
        s = self.state
        seconds = round(s.seconds, 4)
        return {"step": s.step, "position": s.position, "epoch": s.position / self.examples, "seconds": seconds,
                "batch": s.batch}  # fmt: skip

    def better(self, row: Row, than: Row) -> bool:
        """Whether an evaluation beats another: by the run's score, then by the loss. A score that nobody asked for
        decides only beyond its standard error, and only among losses near the lowest so far: a network that learns its
        rows by heart may still gain in accuracy while its probabilities are ruined."""
        score = self.plan.score
        sign = -1 if lower_is_better(score, direction(self.plan)) else 1

        def finite(value: float) -> float:
            return value if math.isfinite(value) else -math.inf

        def rank(r: Row) -> tuple[float, float]:
            return finite(sign * r.get(score, math.nan)), finite(-r.get("valid_loss", math.nan))

        (new, new_loss), (old, old_loss) = rank(row), rank(than)
        if self.valid is not None and score != "valid_loss" and self.plan.choices["score"].status == "default":
            lowest = max(rank(r)[1] for r in [row, than, *self.state.history])
            near = lowest - NEAR * abs(lowest)
            told_by = round(self.evenness * len(self.valid.source))
            if min(new_loss, old_loss) < near or abs(new - old) <= standard_error(abs(old), told_by):
                return new_loss > old_loss
        return (new, new_loss) > (old, old_loss)

    def log(self, row: Row) -> None:
        """Add a row to the history, in memory and on disk."""
        self.state.history.append(row)
        if self.folder and self.ranks.rank == 0:
            self.folder.append_history(row)

    def say(self, text: str) -> None:
        """Say what happened: on the console, in the history, and among the notes of the plan."""
        self.live.note(text)
        self.log({**self.moment(), "note": text})
        if text not in self.plan.notes:  # a run that was resumed may come by the same place again
            self.plan = Plan(self.plan.choices, (*self.plan.notes, text))
            if self.folder and self.ranks.rank == 0:
                self.folder.save_plan(self.plan)

    def checkpoint_due(self, logged: bool) -> bool:
        """Every `save_every` steps if that was asked for, else where a row is logged, at least 30 s apart and 20 times
        what saving takes. A run that may go back has its checkpoints at fixed positions: where it is a time to look."""
        if self.save_every is not None:
            return self.state.step % self.save_every == 0
        if self.on_nonfinite == "rollback":
            return self.due(self.evaluate_every)
        return logged and self.state.seconds - self.saved_at > max(30, 20 * self.saving_took)

    @part("saving")
    def save(self, *, due: bool = False) -> str | None:
        """Write a checkpoint. What does not work is said and tried again at the next one: the run goes on in memory.
        Returns why nothing was written. due: it is one to go back to."""
        why, before, began = None, self.state.back, time.monotonic()
        if due:
            self.state.back = self.state.step
        tensors = self.tensors() if self.folder or self.held is not None else {}
        if self.folder and self.ranks.rank == 0:
            try:
                self.folder.save_checkpoint(self.state, tensors)
            except HandfulError as error:
                why, self.state.back = str(error), before
                self.live.note(f"no checkpoint was written: {why}; training goes on, and it is tried again")
        elif self.held is not None:
            self.held.save_checkpoint(self.state, tensors)
        self.saved_at, self.saving_took = self.state.seconds, self.ranks.of_all(time.monotonic() - began)
        return why

    def tensors(self) -> Weights:
        """Every tensor of the state by name, whole; of one that is shared out on rank 0 alone."""
        sharding, tensors = self.ranks.sharding, self.state.tensors()
        return sharding.on_rank_0(tensors) if sharding and self.folder else tensors


def standard_error(share: float, rows: int) -> float:
    """Of a share of so many rows (one more of each kind, so that none and all have an error, too).

    >>> round(standard_error(0.5, 98), 3)
    0.05
    """
    p = (min(1.0, share) * rows + 1) / (rows + 2)
    return math.sqrt(p * (1 - p) / (rows + 2)) if math.isfinite(share) else 0.0


def update(t: Training, factor: float | None = None, again: Closure | None = None, of: Moved | None = None) -> float:
    """Step 6: penalties and clipping on the exact gradient, then the optimizer. Returns the learning rate used.

    factor: of the base learning rate; None: the schedule's. again: for an optimizer that evaluates the loss several
    times, as LBFGS. of: one of several optimizers, in the middle of a step of the caller's own.
    """
    moved = t if of is None else of
    share = 0.5 ** len(t.state.went_back)
    if factor is None:
        follow(t.state.optimizer, t.schedule, t.progress(), share)
    else:
        set_lr(t.state.optimizer, factor * share)
    if t.l1:
        add_l1(moved.decayed, t.l1)
    if t.clip_norm is not None or t.clip_value is not None:
        clip(moved.parameters, norm=t.clip_norm, value=t.clip_value)
    moved.move(again)
    if of is None and t.state.average is not None:
        update_average(t.state.average, t.weights(), average_weight(t.ema, t.state.step))
    return float(t.state.optimizer.param_groups[0]["lr"])
