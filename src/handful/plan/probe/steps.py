"""Trial steps: real ones, taken by probes, and the loss on rows they did not train on. They leave no trace: everything
that they change is put back, to the bit, however the probe ends."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import TypeVar, cast

import torch
from torch import Tensor

from handful.base.errors import HandfulError
from handful.base.keys import random_states
from handful.data.base import Batch
from handful.optim.rates import set_lr
from handful.training.special.exact import gradient_that_fits
from handful.training.step import update
from handful.training.training import Training
from handful.training.watch.evaluation import evaluate
from handful.training.watch.guards import NonFiniteLoss, OutOfMemory
from handful.training.watch.weights import as_now, put_back

T = TypeVar("T")
_NUMBERS = (bool, int, float, str, type(None))
FAILED = math.inf  # the loss of a trial that broke off


class Snapshot:
    """All that trial steps change, kept so that it can be put back any number of times.

    Kept: parameters, buffers (those outside the state dict too), gradients, each module's mode; the optimizer's
    state and options; the average of the weights; position, step, seconds, batch, micro-batch, window; the random
    states of torch, NumPy and Python; what modules and the caller's loss hold besides, as far as `beside` knows it.
    """

    def __init__(self, t: Training) -> None:
        model, s = t.objective.model, t.state
        self.t = t
        self.weights = [(p, p.detach().clone()) for p in (*model.parameters(), *model.buffers())]
        self.beside = as_now(model, s.loss)
        self.grads = [(p, None if p.grad is None else p.grad.detach().clone()) for p in model.parameters()]
        self.modes = [(m, m.training) for m in model.modules()]
        self.optimizer = {p: copied(entry) for p, entry in s.optimizer.state.items()}
        self.options = [copied({k: v for k, v in g.items() if k != "params"}) for g in s.optimizer.param_groups]
        self.state = replace(
            s, noise=list(s.noise), trail=list(s.trail), window=s.window.copy(), average=copied(s.average)
        )
        self.logged = len(s.history)
        self.restore_random = random_states()

    def restore(self) -> None:
        self.hand_over()
        self.put_back_settings()

    def put_back_settings(self) -> None:
        """All but what training moves: gradients, modes, options, sizes, scores, random states."""
        s, kept = self.t.state, self.state
        for p, grad in self.grads:
            p.grad = None if grad is None else grad.clone()
        for module, mode in self.modes:
            module.training = mode
        for group, options in zip(s.optimizer.param_groups, self.options, strict=True):
            for name in group.keys() - options.keys() - {"params"}:
                del group[name]
            group.update(copied(options))
        s.seconds, s.batch, s.micro_batch = kept.seconds, kept.batch, kept.micro_batch
        s.best, s.stopped_because, s.noise = kept.best, kept.stopped_because, list(kept.noise)
        del s.history[self.logged :]
        self.restore_random()

    def hand_over(self) -> None:
        """Go on from here: weights, what the optimizer remembers (not its options), the average, position, step and
        window."""
        s, kept = self.t.state, self.state
        for tensor, value in self.weights:
            put_back(tensor, value)
        self.beside()
        s.optimizer.state.clear()  # in place: an optimizer of two parts shares one dict between them
        s.optimizer.state.update({p: copied(entry) for p, entry in self.optimizer.items()})
        if s.average is not None:
            s.average = copied(kept.average)
        s.position, s.step, s.window, s.trail = kept.position, kept.step, kept.window.copy(), list(kept.trail)


def copied(kept: T) -> T:
    """As deepcopy; plain tensors in a dict are cloned and numbers kept, which takes a tenth of the time."""
    match kept:
        case dict() if type(kept) is dict:
            memo = {id(v): v.clone() for v in kept.values() if type(v) is Tensor and not v.requires_grad}
            found = {k: v if type(v) in _NUMBERS else deepcopy(v, memo) for k, v in kept.items()}
            return cast(T, found)
    return deepcopy(kept)


@contextmanager
def untouched(t: Training) -> Iterator[Snapshot]:
    """What happens inside leaves no trace, whether it ends well or by an exception."""
    snapshot = Snapshot(t)
    try:
        yield snapshot
    finally:
        snapshot.restore()


def step(t: Training, batch: Batch, size: int, *, still: bool = False) -> float:
    """One whole step on a batch that is drawn already, of `size` rows over all ranks; its mean loss. still: at a rate
    of 0, so that weights stay where the loss is finite."""
    s, t.ranks.batch = t.state, size
    exact, s.micro_batch = gradient_that_fits(t.objective, batch, s.micro_batch, t.ranks, seed=t.plan.seed, step=s.step)
    outcome = exact.total
    update_at_rest(t) if still else update(t)
    loss = float(outcome.loss) / float(outcome.weight)
    s.trail.append((size, s.micro_batch, float(s.optimizer.param_groups[0]["initial_lr"]), loss))
    s.window.added.append(outcome)
    s.position += size
    s.step += 1
    return loss


def update_at_rest(t: Training) -> None:
    set_lr(t.state.optimizer, 0.0)
    update(t, ())


def train(t: Training, size: int, steps: int, give_up: Callable[[list[float]], bool] | None = None) -> list[float]:
    """The losses of `steps` steps of `size` rows from the state's position on, by the run's schedule. A step that is
    not finite ends the trial with FAILED. give_up: asked after every step but the last."""
    losses = []
    stream = t.batches.stream(t.state.position, size, t.ranks.share)
    try:
        for _ in range(steps):
            losses.append(step(t, next(stream), size))
            if not math.isfinite(losses[-1]):
                raise NonFiniteLoss("not finite")
            if give_up is not None and len(losses) < steps and give_up(losses):
                break
    except (NonFiniteLoss, OutOfMemory):
        losses.append(FAILED)
    finally:
        stream.close()
        t.state.window.whole()
    return losses


def loss_on(t: Training, batches: Sequence[Batch]) -> float:
    """The mean loss over some batches, in evaluation mode; FAILED when it is not finite or no row has a weight."""
    try:
        loss = evaluate(t.objective.with_metrics([]), batches)["loss"]
    except HandfulError:
        return FAILED
    return loss if math.isfinite(loss) else FAILED


def agreed(t: Training, seconds: float) -> float:
    """A time as rank 0 has it, so that all ranks decide alike by it."""
    return float(t.ranks.told(repr(seconds)))


def clock(t: Training) -> float:
    """The time in seconds, once the device has done what it has still to do."""
    if t.objective.device.type != "cpu":
        torch.accelerator.synchronize(t.objective.device)
    return time.perf_counter()


def effort(t: Training) -> float:
    """The time in seconds that this thread has computed for, to which other processes add nothing, however busy the
    machine; with an accelerator, which is waited for, the clock's."""
    return time.thread_time() if t.objective.device.type == "cpu" else clock(t)
