"""A step whose arithmetic is the caller's: several losses and optimizers, as of a generator and its critic.

Order, parts of a mini-batch, schedules, penalties, checkpoints, stop rules and the history stay as for any other run.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import count
from math import prod

import torch
from torch import Tensor, nn

from handful.base.errors import HandfulError, StepError, did_you_mean
from handful.base.keys import IN_TURN, key
from handful.base.machine import wide
from handful.data.base import Batch
from handful.optim.fused import Moved, stepper
from handful.optim.parts import by_pattern, parts_of, trainable
from handful.training.loop import StepByStep
from handful.training.objective import LossSums, Objective
from handful.training.special.adapters import added_up
from handful.training.special.exact import again, exact_gradient
from handful.training.step import ExactGradient, update
from handful.training.training import Training
from handful.training.watch.guards import NonFiniteLoss, in_parts_that_fit
from handful.training.watch.record import fit_in
from handful.training.watch.weights import average_weight, update_average
from handful.transform.augment.base import Address

Loss = Callable[[Batch], Tensor | tuple[Tensor, Tensor]]


class PartObjective(Objective):
    """A loss of the caller's own, of a batch, for some of a model's parameters."""

    def __init__(self, whole: Objective, parameters: list[nn.Parameter], own: Loss) -> None:
        vars(self).update(vars(whole))
        self.parameters, self.own, self.forward = parameters, own, lambda batch: None  # the loss calls the model

    def _added_up(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        with torch.autocast(self.device.type, self.autocast) if self.autocast else nullcontext():
            return added_up(self.own(batch), len(batch), batch.weight)

    def sums_of(self, output: object, batch: Batch, *, metrics: bool = True) -> LossSums:
        return LossSums(*self._added_up(batch)[:2])

    def values(self, batch: Batch, output: object = None) -> Tensor | None:
        return self._added_up(batch)[2]


class OwnStep:
    """What a `training_step(model, batch, step)` makes its updates with.

    number: steps taken before this one; epoch: passes over the training rows before it.
    """

    def __init__(self, t: Training, batch: Batch) -> None:
        self.number, self.epoch = t.state.step, t.progress().epoch
        self.updates, self.rate = 0, 0.0
        self._t, self._batch = t, batch
        self._losses: dict[str | None, LossSums] = {}
        self._logged: dict[str, Tensor] = {}  # sum and number
        self._at("before")

    def minimise(self, loss: Loss, of: str | None = None) -> float:
        """One update: the exact gradient of the mini-batch's mean loss, whatever the micro-batch, then the optimizer.
        Returns that mean; the history has it as train_loss, or train_<of>_loss.

        loss: called with each part of the mini-batch, on the model's device; returns a value per row [m], a pair
            (values, weights), or the mean of the part's rows, 0-d
        of: the optimizer, by its name in `optimizer={"critic": ..., "generator": ...}`: only its parameters get
            gradients and move. None: all of them
        """
        t, kept = self._t, dict(self._logged)
        if of not in t.moved:
            names = [name for name in t.moved if name is not None]
            there = f"optimizer= names {', '.join(names)}.{did_you_mean(str(of), names)}" if names else "leave `of` out"
            raise HandfulError(f"there is no optimizer '{of}' to minimise with; {there}")
        seed = key("minimise", t.plan.seed, self.updates) if self.updates else t.plan.seed

        def own(part: Batch) -> Tensor | tuple[Tensor, Tensor]:
            self._at(f"in {self.updates}")
            return loss(part)

        def once(micro_batch: int | None) -> ExactGradient:
            self._logged = dict(kept)
            return exact_gradient(objective, self._batch, micro_batch, t.ranks, seed=seed, step=self.number)

        objective = PartObjective(t.objective, t.moved[of].parameters, own)
        with only(objective.parameters, t.parameters):
            exact, fitted = in_parts_that_fit(t.state.micro_batch, once)
            fit_in(t, fitted)
            self.rate = update(t, again=again(exact, t.state.optimizer), of=t.moved[of])
        sums, self.updates = exact.total, self.updates + 1
        self._losses[of] = self._losses[of] + sums if of in self._losses else sums
        self._at(f"after {self.updates}")
        return float(sums.loss / sums.weight)

    def log(self, name: str, value: Tensor | float) -> None:
        """A score of the history, train_<name>: the mean of all values, of each row or of one number a call, that are
        given between two of its rows."""
        values = wide(torch.as_tensor(value).detach())
        sums = torch.stack([values.sum(), values.new_tensor(float(values.numel()))]).cpu()
        self._logged[name] = self._logged[name] + sums if name in self._logged else sums

    def normal(self, part: Batch, *shape: int) -> Tensor:
        """Standard normal numbers [m, *shape], on the model's device and in its dtype: a function of the seed, the
        epoch, the row and the place of the call, so that a row has the same ones in whatever part it comes."""
        return self._shaped(self._address().device_normal(part, prod(shape), self._t.objective.device), shape)

    def uniform(self, part: Batch, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1) [m, *shape], drawn as those of `normal`."""
        return self._shaped(self._address().device_uniform(part, prod(shape), self._t.objective.device), shape)

    def _at(self, place: str) -> None:
        self._place, self._draws = place, count()

    def _address(self) -> Address:
        return Address(f"training_step {self._place} {next(self._draws)}", self._t.plan.seed)

    def _shaped(self, numbers: Tensor, shape: tuple[int, ...]) -> Tensor:
        return numbers.reshape(-1, *shape).to(self._t.objective.dtype)

    def _sums(self) -> LossSums:
        """What the step has minimised, as one loss: the sum of the losses of its optimizers."""
        if not self.updates:
            raise StepError(f"training_step made no update at step {self.number + 1:,}: call step.minimise(loss)")
        named = {n: torch.stack([wide(s.loss), wide(s.weight)]).cpu() for n, s in self._losses.items()}
        logged = self._logged | {f"{name}_loss": pair for name, pair in named.items() if name is not None}
        if list(named) == [None]:
            loss, weight = named[None]
            return LossSums(loss, weight, logged)
        means = torch.stack([loss / weight for loss, weight in named.values()])
        rows = torch.tensor(float(len(self._batch)))
        return LossSums(means.sum() * rows, rows, logged)


def take(t: Training, batch: Batch) -> tuple[LossSums, float]:
    """Steps 3 to 6 by the caller's training_step; what it minimised, and the rate of its last update."""
    assert t.training_step is not None
    batch = t.objective.to_device(batch)
    t.seed_dropout()
    step, t.state.torn = OwnStep(t, batch), False
    try:
        t.training_step(t.objective.model, batch, step)
        sums = step._sums()
    except BaseException as error:
        t.state.torn = step.updates > 0
        match error:
            case NonFiniteLoss() if t.state.torn:
                error.args = (f"{error} by this loss, {step.updates} by others in the step before it",)
        raise
    if t.state.average is not None:
        update_average(t.state.average, t.weights(), average_weight(t.ema, t.state.step), t.as_last)
    return sums, step.rate


class ByHand(StepByStep):
    """The steps of a run whose steps 3 to 6 are by the caller's own training_step."""

    def take(self) -> None:
        with IN_TURN:
            batch, state = self.choose(), self.t.state
            with self.interrupts.one_update():
                state.window.added.append(take(self.t, batch)[0])
                state.position += state.batch
                state.step += 1


def moved_by_name(t: Training, names: Collection[str]) -> dict[str | None, Moved]:
    """What each optimizer moves, by the names they were given; all of them as one under None."""
    found: dict[str | None, Moved] = {None: Moved(t.parameters, t.decayed, t.move)}
    parameters = trainable(t.objective.model)[0]
    fitting = by_pattern(names, parameters, "optimizer") if names else {}
    for pattern in names:
        mine = [p for name, p in parameters.items() if fitting[name] == pattern]
        ids = set(map(id, mine))
        own = [o for o in parts_of(t.state.optimizer) if ids & {id(p) for g in o.param_groups for p in g["params"]}]
        found[pattern] = Moved(mine, [p for p in mine if p.ndim > 1], stepper(*own))
    return found


@contextmanager
def only(some: Sequence[nn.Parameter], of: Sequence[nn.Parameter]) -> Iterator[None]:
    """Inside the block no other of these parameters gets a gradient."""
    ids = set(map(id, some))
    others = [p for p in of if id(p) not in ids]
    for p in others:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in others:
            p.requires_grad_(True)
