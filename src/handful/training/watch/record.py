"""What is written down of a run while it goes on: its history, its notes, its checkpoints."""

import time

from handful.base.errors import HandfulError
from handful.base.plan import Plan, Row
from handful.base.stopwatch import part
from handful.optim.state import untold
from handful.training.training import Training
from handful.training.watch.guards import finite
from handful.training.watch.saved import tensors_of
from handful.training.watch.weights import Weights, lost

UNEVEN = "in parts, the gradient of a batch is not that of the whole batch"


def moment(t: Training) -> Row:
    """Where the run is, for a row of the history."""
    s = t.state
    seconds = round(s.seconds, 4)
    return {"step": s.step, "position": s.position, "epoch": s.position / t.examples, "seconds": seconds,
            "batch": s.batch}  # fmt: skip


def log(t: Training, row: Row) -> None:
    """Add a row to the history, in memory and on disk."""
    t.state.history.append(row)
    if t.folder and t.ranks.rank == 0:
        t.folder.append_history(row)


def noted(t: Training, text: str) -> Row:
    return {**moment(t), "note": text}


def say(t: Training, text: str) -> None:
    """Say what happened: on the console, in the history, and among the notes of the plan."""
    t.live.note(text)
    log(t, noted(t, text))
    if text not in t.plan.notes:  # a run that was resumed may come by the same place again
        t.plan = Plan(t.plan.choices, (*t.plan.notes, text))
        if t.folder and t.ranks.rank == 0:
            t.folder.save_plan(t.plan)


def fit_in(t: Training, micro_batch: int | None) -> None:
    """Put so many rows through the model at a time from here on; said where that is new."""
    if micro_batch is not None and micro_batch != t.state.micro_batch:
        why = t.uneven(max(1, micro_batch // 2))
        say(
            t,
            f"memory ran out at step {t.state.step + 1:,}: {micro_batch:,} rows at a time go through the model "
            f"from here on; {f'{why}: {UNEVEN}' if why else 'the update is the same'}",
        )
    t.state.micro_batch = micro_batch


def crossed(t: Training, every: int) -> bool:
    """Whether the last step crossed a multiple of `every` examples, or reached the planned end."""
    s = t.state
    return s.position // every > (s.position - s.batch) // every or (t.planned is not None and s.position >= t.planned)


def rose_at(t: Training) -> int:
    """The step at which the rate rose by itself, where it is still to be seen what comes of it; else -1. A loss that is
    not finite then sends the run back there."""
    return int(t.state.course["at"][-1]) if "at" in t.state.course else -1


def checkpoint_due(t: Training, logged: bool) -> bool:
    """Every `save_every` steps if that was asked for, else where a row is logged, at least 30 s apart and 20 times
    what saving takes. A run that may go back has its checkpoints at fixed positions: where it is a time to look."""
    if rose_at(t) == t.state.step:
        return True
    if t.save_every is not None:
        return t.state.step % t.save_every == 0
    if t.on_nonfinite == "rollback":
        return crossed(t, t.evaluate_every)
    return logged and t.state.seconds - t.saved_at > max(30, 20 * t.saving_took)


@part("saving")
def save(t: Training, *, due: bool = False) -> str | None:
    """Write a checkpoint. What does not work is said and tried again at the next one: the run goes on in memory.
    Returns why nothing was written. Weights that are not finite are none to go on from: those before them stay. due: it
    is one to go back to."""
    if not (t.infinite or finite(t.parameters)):
        return None
    why, before, began = None, t.state.back, time.monotonic()
    if due and (t.on_nonfinite == "rollback" or rose_at(t) in (-1, t.state.step)):
        t.state.back = t.state.step
    for text in (*untold(t.state.optimizer), *lost(t.objective.model, t.state.beside)) if t.folder else ():
        if text not in t.plan.notes:
            say(t, text)
    tensors = every_tensor(t) if t.folder or t.held is not None else {}
    if t.folder and t.ranks.rank == 0:
        try:
            t.folder.save_checkpoint(t.state, tensors)
        except HandfulError as error:
            why, t.state.back = str(error), before
            t.live.note(f"no checkpoint was written: {why}; training goes on, and it is tried again")
    elif t.held is not None:
        t.held.save_checkpoint(t.state, tensors)
    t.saved_at, t.saving_took = t.state.seconds, t.ranks.of_all(time.monotonic() - began)
    return why


def every_tensor(t: Training) -> Weights:
    """Every tensor of the state by name, whole; of one that is shared out on rank 0 alone."""
    sharding, tensors = t.ranks.sharding, tensors_of(t.state)
    return sharding.on_rank_0(tensors) if sharding and t.folder else tensors
