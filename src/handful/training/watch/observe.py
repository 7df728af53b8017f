"""What happens between two steps: log, evaluate, keep the best weights, save, let the batch grow, restart.

Due moments are functions of position, never of time (but for checkpoints, which change nothing).
"""

import json
import math
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from handful.base.errors import HandfulError, some
from handful.base.machine import wide
from handful.base.plan import Row
from handful.base.score import direction, lower_is_better, steady
from handful.base.stopwatch import part
from handful.data.base import Batch
from handful.optim.parts import compares_losses, parts_of, switch
from handful.training.process import checkpoint
from handful.training.process.interrupts import INTERRUPTED
from handful.training.state import Best
from handful.training.training import Training
from handful.training.watch.evaluation import evaluate, evaluated
from handful.training.watch.guards import diverged, finite, not_finite_in
from handful.training.watch.headway import rise
from handful.training.watch.history import Window
from handful.training.watch.record import checkpoint_due, crossed, log, moment, noted, save, say
from handful.training.watch.restart import (
    FEW_HELD,
    FEW_TELL,
    NEAR,
    TELLS,
    decay_more,
    few_held,
    may_begin_again,
    may_restart,
    open_looks,
    restart,
    telling,
)
from handful.training.watch.weights import Weights, as_last, copy_weights, left_as_it_was, load_weights, reader, under

CONSIDERED = 16  # times in a run that the batch may grow
LATER = 0.25  # and a number's later look is as good as the lowest within so many: later is not always better
AGAIN = 1.5  # a second beginning is kept within so many: so far below is the lowest of some twenty looks by chance,
MOST_HELD = 5000  # also where the lowest loss, of at most so many rows, is that of FEW_TELL of them
BEYOND = 2.0  # standard errors by which a score nobody asked for decides: the best of dozens of looks is one out
NEARER = 80  # looks of an open run, after which they are twice as far apart, and again whenever it is twice as long
FULL = 1000  # rows of the history of a run whose length is not known, before they are fewer
EVALUATION_BATCH = 512  # rows read at a time when scores are computed; the scores do not depend on it
AS_GOOD = 0.5  # of a standard error: what the best look is allowed for having been the lowest of several


@cache
def registered() -> list[int]:
    """[how many parameters and layers modules were given since the first call], a list that goes on counting."""
    so_far = [0]

    def one_more(*given: object) -> None:
        so_far[0] += 1

    register_module_parameter_registration_hook(one_more)
    register_module_module_registration_hook(one_more)
    return so_far


@dataclass
class Rebuilt:
    """Called after callbacks: says where the model got other parameters, as by pruning or growing it. An average,
    and best weights of another form, begin anew."""

    t: Training
    known: dict[str, nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        callbacks, model = self.t.state.callbacks, self.t.state.model
        self.known, callbacks.watched = dict(model.named_parameters()), [*model.modules()]
        callbacks.changes = registered()
        callbacks.changed = [registered()[0], *(len(m._modules) + len(m._parameters) for m in callbacks.watched)]

    def __call__(self) -> None:
        before, model, s = self.known, self.t.state.model, self.t.state
        self.__post_init__()
        now = self.known
        if before.keys() == now.keys() and all(now[name] is p for name, p in before.items()):
            return
        moved = {id(p) for group in s.optimizer.param_groups for p in group["params"]} | set(map(id, before.values()))
        new = [name for name, p in now.items() if p.requires_grad and id(p) not in moved]
        together = any(map(compares_losses, parts_of(s.optimizer)))  # their gradients are one vector
        gone = set() if together else set(before.values()) - set(now.values())
        for group in s.optimizer.param_groups:  # so that the run can go on with what is left
            group["params"][:] = [p for p in group["params"] if p not in gone]
        for p in gone:
            s.optimizer.state.pop(p, None)
        self.t.weights, self.t.as_last = reader(model), as_last(model)
        said = "a callback, or its own forward, gave the model other parameters"
        if s.average is not None:
            s.average, said = copy_weights(model), f"{said}; the average of the weights begins anew"
        form = {name: value.shape for name, value in copy_weights(model, clone=False).items()}
        if s.best is not None and form != {name: value.shape for name, value in s.best.weights.items()}:
            s.best, s.first, said = None, None, f"{said}; the best weights are those of a look after it"
        if new:
            said += f"; {some(new)} will not be trained, as the optimizer was made before: let them be there, or "
            said += "frozen, when the run begins, or go on in a run of its own"
        say(self.t, said)


@dataclass
class Observer:
    """Looks at a run where something is due, and tells its callbacks."""

    t: Training
    early: tuple[int, ...] = ()  # examples after which, in the first epoch, the held-out rows are looked at, too
    unsaved: str | None = None  # why the state before a last look could not be written

    def __post_init__(self) -> None:
        self.t.looked_at, self.t.next_moment = self.t.state.step, 0
        self.t.state.callbacks.may_stop = self.t.ranks.size == 1
        callbacks = self.t.state.callbacks
        callbacks.after = Rebuilt(self.t)
        if open_looks(self.t):
            self.early = tuple(n for n in (self.t.examples // k for k in (8, 4, 2)) if 0 < n < self.t.evaluate_every)

    def tell(self, event: str, info: Row | None = None) -> None:
        """Let every callback know of an event. info: None: where the run is."""
        state = self.t.state
        state.callbacks.tell(event, info or {"step": state.step, "position": state.position})

    def __call__(self) -> None:
        self.moment()
        self.t.next_moment, self.t.asked_from, self.t.looked_at = self.next_moment(), 0, self.t.state.step

    def next_moment(self) -> int:
        """A position before which nothing of `moment` is due."""
        t, s = self.t, self.t.state
        if t.planned is not None and s.position >= t.planned:
            return 0
        intervals = [logged_every(t), looked_every(t)]
        if t.grower is not None:
            intervals.append(max(1, (t.planned or 0) // CONSIDERED))
        marks = [(s.position // every + 1) * every for every in intervals]
        marks += [n for n in (t.planned or 0, *(s.restarted + n for n in self.early)) if n > s.position]
        if t.save_every is not None:  # counted in steps, of whatever size
            marks.append(s.position + (t.save_every - s.step % t.save_every) * s.batch if t.batch_size is None else 0)
        return min(marks)

    def moment(self) -> None:
        """What is due at a position: a row of the history, an evaluation, a larger batch, a checkpoint."""
        t = self.t
        since = t.state.position - t.state.restarted
        early = any(since - t.state.batch < n <= since for n in self.early)
        evaluated = t.valid is not None and (early or crossed(t, looked_every(t)))
        if logged := evaluated or crossed(t, logged_every(t)):
            self.log(evaluated)
            if said := diverged(t.state.history):
                say(t, said)
        else:
            self.tell("step")
        by_looks = [restart] * may_restart(t) + [decay_more] if evaluated else []
        for change in (t.grower, rise, *by_looks):
            if change is not None and (note := change(t)):  # what it decides is saved with the step it belongs to
                t.live.note(note)
                log(t, noted(t, note))
        if (said := t.state.callbacks.unheard) and said not in t.plan.notes:
            say(t, said)
        t.looked_at = t.state.step  # the state is one to go on from
        if (t.folder is not None or t.held is not None) and checkpoint_due(t, logged):
            save(t, due=True)
            self.tell("checkpoint")

    def begin(self) -> None:
        """A look at the weights, and at the held-out rows before the first step, unless the run has had it."""
        self.t.infinite = not finite(self.t.parameters)
        if open_looks(self.t) and self.t.state.best is None:
            self.looked(look(self.t, moment(self.t)))

    def ended(self, why: str) -> str:
        """Take a last look at the held-out rows where a rule without a plan (seconds) chose the last step: else what
        was learned since the look before would count for nothing; a resumed run goes on from before it. Returns why
        the run stopped."""
        t, history = self.t, self.t.state.history
        if not t.state.step and t.state.seconds >= (t.rule.time() or math.inf) and why != INTERRUPTED:
            why += " before the first step: batch=, lr= and precision= spare it what is measured for them"
        looked = any("valid_loss" in row and row["step"] == t.state.step for row in history[-3:])
        if t.valid is None or looked or why == INTERRUPTED:  # whoever interrupted waits
            return why
        self.unsaved = save(t)
        if history and history[-1]["step"] == t.state.step:
            self.looked(look(t, moment(t)))
        else:
            self.log(evaluated=True)
        t.looked_at = -1
        return why

    def log(self, evaluated: bool) -> None:
        """A row of the history: where the run is, the training scores since the last row, and held-out ones."""
        t = self.t
        metrics = t.objective.sum_metrics if t.training_step is None else None
        row = {**moment(t), "lr": float(t.state.optimizer.param_groups[0]["lr"]), **t.state.window.scores(metrics)}
        t.state.window = Window()
        if not evaluated or t.valid is None:
            log(t, row)
            self.tell("step", row)
            t.live.update(row)
            return
        self.looked(look(t, row))

    def looked(self, row: Row) -> None:
        t = self.t
        log(t, row)
        if t.looked_at != t.state.step:  # a last look comes after its step was told
            self.tell("step")
        self.tell("evaluate", row)
        t.live.evaluation(row)


@part("held-out rows")
def look(t: Training, row: Row) -> Row:
    """The row with the scores on the held-out rows; the weights are kept if they are the best so far."""
    assert t.valid is not None
    if t.ranks.size > 1:  # running statistics follow rank 0's share of the batch
        t.ranks.spread(t.objective.buffers)
    before = t.objective.at_once
    with evaluated(t.state) as weights, left_as_it_was(t.state.loss):
        batches = t.valid.epoch(EVALUATION_BATCH, t.ranks.share)
        spare = t.valid.at(0, 1) if t.ranks.sharding else None
        rows: list[Tensor | None] = []

        def losses(read: Batch, output: object) -> None:
            rows.append(t.objective.values(t.objective.to_device(read), output))

        again = t.state.first is not None or (not t.state.step and may_begin_again(t))
        by_row = len(t.valid.source) <= (MOST_HELD if again else FEW_HELD)
        scores = evaluate(t.objective, batches, losses if by_row else None, ranks=t.ranks, spare=spare)
        row |= {f"valid_{name}": value for name, value in scores.items()}
        row |= behind(t, scores["loss"], rows) if by_row else {}
        if few_held(t) and t.plan.score != "valid_loss" and t.plan.choices["score"].status == "default":
            row["steady"] = steady(t.state.history, row, t.state.restarted)
        if t.objective.at_once != before:
            say(
                t, f"memory ran out in an evaluation: {t.objective.at_once:,} rows at a time go through the model there"
            )
        keep_best(t, row, weights)
    if not math.isfinite(scores["loss"]) and all(math.isfinite(r.get("valid_loss", 0.0)) for r in t.state.history):
        cause = t.held_out and not_finite_in(t.valid.epoch(EVALUATION_BATCH), t.held_out)
        if cause:  # said once
            say(t, f"the held-out loss is not finite: {cause}")
    return row


def behind(t: Training, loss: float, rows: list[Tensor | None]) -> Row:
    """{"behind": by how many of its standard errors, paired by row, the held-out loss is above the lowest so far}, of
    held-out rows whose losses are known; 0 where it is the lowest."""
    own = [wide(v.reshape(len(v), -1).mean(1)).cpu() for v in rows if v is not None]
    now, known, s = torch.cat([torch.empty(0, dtype=torch.float64), *own]), len(own) == len(rows), t.state
    if t.ranks.size > 1:
        said = [json.loads(text) for text in t.ranks.gather(json.dumps(now.tolist() if known else None))]
        now, known = torch.tensor([v for part in said for v in part or ()], dtype=torch.float64), None not in said
    if not (known and len(now) and math.isfinite(loss)):
        return {}
    if not s.lowest or all(not row.get("valid_loss", math.inf) <= loss for row in s.history):
        s.lowest = now.tolist()
    difference = now - torch.tensor(s.lowest, dtype=torch.float64)
    error = float(difference.std()) / math.sqrt(len(now)) if len(now) > 1 else math.inf  # one row tells nothing
    return {"behind": float(difference.mean()) / max(error, 1e-30)}


def keep_best(t: Training, row: Row, weights: Weights) -> None:
    """Remember the weights if this evaluation is the best so far; equal scores are told apart by the lower loss."""
    best = t.state.best
    if best is None or better(t, row, best.row) or as_good(t, row, best.row):
        t.state.best = Best(dict(row), {k: v.clone() for k, v in weights.items()})
        if t.state.step == 0 and may_begin_again(t):
            t.state.first = t.state.best.weights


def as_good(t: Training, row: Row, best: Row) -> bool:
    """Whether, of a number, a later look is hardly above the lowest, by few held-out rows: more of the training is in
    it. Or whether, after a run began again from its first weights, a look comes about as low as the best one before
    that, which was the lowest of a curve that went up and down: by few rows, or where few make that loss, within AGAIN
    standard errors, paired by row; else within one, and half of one of a loss spread by its mean."""
    s, few = t.state, few_held(t)
    if few and t.pipeline.task == "regression" and row.get("behind", math.inf) <= later_than(t):
        return True
    if s.first is None or t.valid is None or not 0 < best["position"] <= s.restarted:
        return False
    if "behind" in row and (few or telling(torch.tensor(s.lowest, dtype=torch.float64)) <= FEW_TELL):
        return bool(row["behind"] <= AGAIN)
    lowest = best.get("valid_loss", math.nan)
    near = row["valid_loss"] <= lowest + AS_GOOD * abs(lowest) / math.sqrt(len(t.valid.source))
    return bool(near and row.get("behind", 0.0) <= TELLS)


def later_than(t: Training) -> float:
    """Standard errors by which a later look at few held-out rows may be above the lowest: LATER of FEW_HELD rows, and
    the more the fewer they are, as the lowest of many looks at four rows is low by chance."""
    assert t.valid is not None
    return LATER * math.sqrt(FEW_HELD / len(t.valid.source))


def restore_best(t: Training) -> str:
    """Leave the model, whole, with its best weights: of the best evaluation, or, with nothing held out, the last
    (averaged); or, where these are not finite, those of the newest checkpoint. Returns that last, to be said behind why
    the run broke off; else ""."""
    state = t.state
    switch(state.optimizer, "eval")
    if state.best is not None:
        load_weights(t.objective.model, state.best.weights)
    elif state.average is not None:
        load_weights(t.objective.model, state.average)
    if t.ranks.sharding:
        t.objective.put(t.ranks.sharding.gathered())
    t.objective.model.eval()
    if t.folder is None or state.best is not None or t.ranks.size > 1 or t.infinite or finite(t.parameters):
        return ""
    try:
        tensors, meta, _ = checkpoint.load(t.folder.checkpoints)
    except HandfulError:  # none could be written
        return ""
    load_weights(t.objective.model, under("model." if state.average is None else "average.", tensors))
    return f"; the weights of step {meta['step']:,} are kept, from which it can be gone on with"


def looked_every(t: Training) -> int:
    """Examples between two looks at the held-out rows."""
    until = t.plan.choices.get("until")
    if not open_looks(t) or until is None or until.status != "default":
        return t.evaluate_every
    return t.evaluate_every << (t.state.position // (NEARER * t.evaluate_every)).bit_length()


def logged_every(t: Training) -> int:
    """Examples between two logged moments. In a run whose length is not known twice as many whenever it has become
    twice as long, so that the history grows by FULL / 2 rows a doubling and not with the run."""
    so_far = 0 if t.planned is not None else t.state.position // (FULL * t.log_every)
    return t.log_every << so_far.bit_length()


def better(t: Training, row: Row, than: Row) -> bool:
    """Whether an evaluation beats another: by the run's score, then by the loss. A score that nobody asked for
    decides only beyond two standard errors, and only among losses near the lowest so far: a network that learns its
    rows by heart may still gain in accuracy while its probabilities are ruined."""
    score = t.plan.score
    sign = -1 if lower_is_better(score, direction(t.plan)) else 1

    def finite(value: float) -> float:
        return value if math.isfinite(value) else -math.inf

    def rank(r: Row) -> tuple[float, float]:
        loss = "steady" if "steady" in r else "valid_loss"
        return finite(sign * r.get(score, math.nan)), finite(-r.get(loss, math.nan))

    (new, new_loss), (old, old_loss) = rank(row), rank(than)
    if t.valid is not None and score != "valid_loss" and t.plan.choices["score"].status == "default":
        lowest = max(rank(r)[1] for r in [row, than, *t.state.history])
        near = lowest - NEAR * abs(lowest)
        told_by = round(t.evenness * len(t.valid.source))
        if min(new_loss, old_loss) < near or abs(new - old) <= BEYOND * standard_error(abs(old), told_by):
            return new_loss > old_loss
    return (new, new_loss) > (old, old_loss)


def standard_error(share: float, rows: int) -> float:
    """Of a share of so many rows (one more of each kind, so that none and all have an error, too).

    >>> round(standard_error(0.5, 98), 3)
    0.05
    """
    p = (min(1.0, share) * rows + 1) / (rows + 2)
    return math.sqrt(p * (1 - p) / (rows + 2)) if math.isfinite(share) else 0.0
