"""One step of a run, taken again from a checkpoint before it: its rows, what the model saw of them, and what it did."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handful.base.errors import HandfulError
from handful.base.errors import shown as escaped
from handful.base.keys import left_alone
from handful.base.plan import Row
from handful.data.base import Batch
from handful.optim.rates import set_base
from handful.report.document import Page, Part, Section, picture_grid, sound_list, table_html, tiles
from handful.report.tables import Grid, print_table
from handful.report.words import say_count, say_number, say_value_of
from handful.runs.diff import timeless
from handful.runs.judge.examples import titled
from handful.runs.judge.tally import row_losses
from handful.runs.shown import SEEN, Shown, shown
from handful.training.loop import StepByStep
from handful.training.objective import Objective
from handful.training.process import checkpoint
from handful.training.process.device import using_threads
from handful.training.process.interrupts import Interrupts
from handful.training.special import adapters, own_step
from handful.training.special.coupling import rows as some_rows
from handful.training.special.coupling import training_mode
from handful.training.special.exact import again, gradient_that_fits
from handful.training.step import update
from handful.training.training import Training
from handful.training.watch.folder import RunFolder
from handful.training.watch.guards import NonFiniteLoss
from handful.training.watch.history import rises, usual_loss
from handful.training.watch.observe import Observer
from handful.training.watch.recovery import train
from handful.training.watch.saved import restore
from handful.training.watch.stop import steps
from handful.training.watch.weights import left_as_it_was
from handful.transform.rows import original_rows

_LISTED = 64  # rows
Floats = NDArray[np.float64]


@dataclass
class Replay:
    """What one step was made of and what it did.

    step:     counted from 1; position: examples consumed before it; epoch: the same in passes over the training rows
    batch:    the mini-batch as the model saw it, preprocessed and augmented, on the CPU
    rows:     int64 [m], the rows' numbers in the file or array that the user gave
    losses:   float64 [m], of each row before the update; None where the loss is one number for all rows
    loss:     the mean that was minimised; usual: the median of the logged moments just before, None at the start
    rate:     the learning rate of the update; None if the step was not taken
    layers:   of each parameter: norm of the weights, of the gradient and of the update, and update / weights
    model:    with the weights it had before the step
    problem:  why the step could not be taken, or None
    differs:  where this replay and the run's history part, or None: then it is the run's step to the bit
    shown:    of each row where it stands (file, line), what it holds and what the model saw of it
    """

    name: str
    step: int
    position: int
    epoch: float
    batch: Batch
    rows: NDArray[np.int64]
    losses: Floats | None
    loss: float
    usual: float | None
    rate: float | None
    layers: list[Row]
    model: nn.Module
    shown: Shown
    problem: str | None = None
    differs: str | None = None

    def order(self) -> NDArray[np.int64]:
        """Places in the batch, int64 [m]: of the rows of highest loss first; as they are where that is not known."""
        return by_loss(self.losses, len(self.rows))

    def listed(self) -> list[Row]:
        """The rows with what they hold, in their order."""
        known = [{} if self.losses is None else {"loss": float(self.losses[i])} for i in range(len(self.rows))]
        return [{"row": int(self.rows[i]), **known[i], **self.shown.holds[i]} for i in self.order().tolist()]

    def show(self, most: int = 10) -> None:
        """Print the step, its rows of highest loss, and its layers."""
        print("\n".join(f"{name}: {value}" for name, value in self._facts()))
        print("\nrows, of highest loss first:")
        print_table(titled(self.listed()[:most], self.shown.units, length=60))
        print()
        print_table(self.layers)
        for sentence in filter(None, (self.problem, self.differs)):
            print(escaped(sentence))

    def _facts(self) -> list[tuple[str, str]]:
        facts = [("step", say_count(self.step)), ("epoch", f"{self.epoch:.4g}"), ("rows", say_count(len(self.rows)))]
        facts.append(("loss", say_number(self.loss)))
        if self.usual is not None:
            facts.append(("usual before it", say_number(self.usual)))
        return facts if self.rate is None else [*facts, ("learning rate", say_number(self.rate))]

    def write(self, path: str | Path) -> Path:
        listed, grids = titled(self.listed()[:_LISTED], self.shown.units), list[Part]()
        captions = [_caption(row) for row in listed]
        if sounds := self.shown.sounds:
            grids.append(sound_list(sounds, captions[: len(sounds)]))
        for title, pictures in (("In the data", self.shown.pictures), ("As the model saw them", self.shown.seen)):
            if pictures is not None:
                grids.append(picture_grid(pictures[self.order()[:_LISTED]], captions, title=title))
        notes: list[Part] = [s for s in (self.problem, self.differs) if s is not None]
        rows: list[Part] = grids or [table_html(Grid.of(listed))]
        if any(SEEN in name for name in listed[0]):
            rows.append("A point stands for a token that augmentation dropped, � for one that training did not know.")
        sections = [
            Section("The step", [tiles(self._facts()), *notes]),
            Section("Rows, of highest loss first", rows),
            Section("Layers", [table_html(Grid.of(self.layers))]),
        ]
        headline = f"Step {self.step:,}: loss {say_number(self.loss)} on {say_count(len(self.rows))} rows."
        return Page(f"{self.name}: step {self.step:,}", sections, headline=headline).write(path)


def _caption(row: Row) -> str:
    return ", ".join(f"{name} {say_value_of(value)}" for name, value in row.items())


def take_again(folder: RunFolder, step: int | Literal["worst", "spike"], make: Callable[[], Training]) -> Replay:
    """Take a step of the run in a folder again: see `handful.replay`. make: the run's Training, as for `resume`."""
    history = folder.history()
    with left_alone():
        if isinstance(step, str):
            first, step = find(history, step, checkpoint.first_step(folder.checkpoints))
            if first < step:  # the moment stands for several steps: that of the highest loss among them
                losses = _descend(_before(folder, first, make), step)
                step = first + int(np.argmax(losses))
        if step < 1:
            raise HandfulError(f"steps are counted from 1, not {step!r}")
        start = folder.checkpoints / checkpoint.START
        if step <= checkpoint.first_step(folder.checkpoints) and start.exists():
            return _from_start(folder, step, make())
        t = _before(folder, step, make)
        with using_threads(t.plan.threads):
            found = examine(t, folder.path.name)
    found.differs = check_same(history, t.state.history)
    return found


def _from_start(folder: RunFolder, step: int, t: Training) -> Replay:
    """One of the steps that were taken while the run was measured, by the way there that its start tells."""
    tensors, meta = checkpoint.read(folder.checkpoints / checkpoint.START)
    trail, t.planned, t.batch_size, t.folder = meta.pop("trail"), meta.pop("planned"), None, None
    restore(t.state, tensors, meta)
    state, here = t.state, list[Row]()
    with using_threads(t.plan.threads):
        training_mode(t.objective.model)
        for size, part, rate, _ in trail[:step]:
            state.batch, state.micro_batch = size, part
            set_base(state.optimizer, rate)
            if state.step == step - 1:
                break
            batch = t.batches.at(state.position, size)
            exact, _ = gradient_that_fits(t.objective, batch, part, t.ranks, seed=t.plan.seed, step=state.step)
            update(t)
            state.position, state.step = state.position + size, state.step + 1
            here.append({"step": state.step, "train_loss": float(exact.total.loss) / float(exact.total.weight)})
        found = examine(t, folder.path.name)
    here.append({"step": step, "train_loss": found.loss})
    found.differs = check_same([{"step": k, "train_loss": kept[3]} for k, kept in enumerate(trail, 1)], here)
    return found


def _before(folder: RunFolder, step: int, make: Callable[[], Training]) -> Training:
    """The run as it stood before a step; nothing of it is written."""
    t = make()
    t.folder = None
    tensors, meta, _ = checkpoint.load(folder.checkpoints, before=step)
    restore(t.state, tensors, meta)
    with using_threads(t.plan.threads):
        Observer(t).begin()  # the look before the first step: schedules and rules may go by it
    _descend(t, step - 1)
    if why := t.rule(t.progress()):
        raise HandfulError(f"the run stopped after step {t.state.step:,} because {why}; it has no step {step:,}")
    return t


def _descend(t: Training, last: int) -> list[float]:
    """Go on until `last` steps are taken, or as the run's own rule says; returns the losses of those taken here."""
    losses: list[float] = []
    if t.state.step >= last:
        return losses
    rule, observe = t.rule, Observer(t)

    def after_step() -> None:
        sums = t.state.window.added[-1]
        losses.append(float(sums.loss / sums.weight))  # NaN for a step without an update
        observe()
        t.next_moment = 0  # it is called after each

    t.rule, t.one_by_one = steps(last) | rule, True
    with using_threads(t.plan.threads), Interrupts() as interrupts:
        train(t, after_step, interrupts)
        if interrupts.asked:
            raise KeyboardInterrupt
    t.rule = rule
    return losses


def examine(t: Training, name: str) -> Replay:
    """Take the next step of a Training and write down what it is made of. t stands where the run stood before it."""
    objective, state, source = t.objective, t.state, t.rows
    training_mode(objective.model)
    model = copy.deepcopy(objective.model)
    batch = StepByStep(t, Interrupts()).choose()
    before = {n: p.detach().clone() for n, p in objective.model.named_parameters()}
    losses = _losses(t, batch) if t.training_step is None else None
    position, step, loss, rate, problem = state.position, state.step, float("nan"), None, None
    gradients: dict[str, Tensor] = {}
    try:
        if t.training_step is None:
            exact, _ = gradient_that_fits(objective, batch, state.micro_batch, t.ranks, seed=t.plan.seed, step=step)
            sums = exact.total
        else:
            sums, rate = own_step.take(t, batch)
        loss = float(sums.loss) / float(sums.weight)
        gradients = {n: p.grad.clone() for n, p in objective.model.named_parameters() if p.grad is not None}
        rate = update(t, again=again(exact, state.optimizer)) if rate is None else rate
    except NonFiniteLoss as error:
        problem = str(error)
    return Replay(
        name, step + 1, position, position / t.examples, batch, original_rows(source, batch.rows), losses, loss,
        usual_loss(state.history, step + 1), rate, _layers(objective.model, before, gradients), model,
        shown(source, t.pipeline, batch, by_loss(losses, len(batch))), problem,
    )  # fmt: skip


def by_loss(losses: Floats | None, count: int) -> NDArray[np.int64]:
    """Places in a batch of `count` rows, of highest loss first; as they are where losses are not known."""
    return np.arange(count) if losses is None else np.argsort(-losses, kind="stable")


def _losses(t: Training, batch: Batch) -> Floats | None:
    """The loss of each row, with the step's dropout; nothing of the model changes."""
    objective, size = t.objective, t.state.micro_batch or len(batch)
    t.seed_dropout()
    found: list[Floats | None] = []
    with torch.no_grad(), left_as_it_was(objective.model):
        for start in range(0, len(batch), size):
            part = objective.to_device(some_rows(batch, slice(start, start + size)))
            found.append(_of_rows(objective, objective.forward(part), part))
    whole = [values for values in found if values is not None]
    return np.concatenate(whole) if len(whole) == len(found) else None


def _of_rows(objective: Objective, output: object, part: Batch) -> Floats | None:
    """The loss of each row; of a row with several members, or of a sequence, what the step itself adds up."""
    if isinstance(output, Tensor) and len(output) == len(part):
        return row_losses(objective.loss(output, part.columns.get("y")), len(part))
    values = adapters.row_losses(objective.model, objective.loss, by_row=True)(output, part)[2]
    return None if values is None else row_losses(values, len(part))


def _layers(model: nn.Module, before: dict[str, Tensor], gradients: dict[str, Tensor]) -> list[Row]:
    layers: list[Row] = []
    for name, parameter in model.named_parameters():
        weights, moved = float(before[name].norm()), float((parameter.detach() - before[name]).norm())
        row: Row = {"parameter": name, "values": parameter.numel(), "norm of weights": weights}
        if name in gradients:
            row |= {"norm of gradient": float(gradients[name].norm()), "norm of update": moved}
            row |= {"update / weights": moved / weights if weights else None}
        layers.append(row)
    return layers


def check_same(there: list[Row], here: list[Row]) -> str | None:
    """Where two histories of one run part (but for their clocks), in a sentence; None where they do not."""
    known = {row["step"]: timeless(row) for row in there if "note" not in row}
    for row in here:
        if row["step"] in known and "note" not in row and known[row["step"]] != timeless(row):
            return (
                f"this replay is not the run's own: their histories part at step {row['step']:,} (another machine, "
                "version or number of threads or ranks, or options that were changed on resume)"
            )
    return None


def find(history: list[Row], which: str, after: int = 0) -> tuple[int, int]:
    """(first, last): the steps that the logged moment of highest training loss ("worst") or of the steepest rise
    ("spike") stands for, of those after a step. Raises HandfulError where there is none."""
    rows = [row for row in history if isinstance(row.get("train_loss"), float)]
    heights = [row["train_loss"] for row in rows] if which == "worst" else rises(rows)
    known = [i for i, row in enumerate(rows) if row["step"] > after]
    if len(known) < 2:
        raise HandfulError("the history has too few logged steps to choose one from: name it by step")
    at = max(known, key=heights.__getitem__)
    return max(after, rows[at - 1]["step"] if at else 0) + 1, rows[at]["step"]
