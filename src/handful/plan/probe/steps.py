"""Trial steps: real ones, taken by probes inside `untouched`, and the loss on rows they did not train on."""

import math
import time
from collections.abc import Callable, Sequence

import torch

from handful.base.errors import HandfulError
from handful.data.base import Batch
from handful.optim.rates import set_lr
from handful.training.special.exact import gradient_that_fits
from handful.training.step import update
from handful.training.training import Training
from handful.training.watch.evaluation import evaluate
from handful.training.watch.guards import NonFiniteLoss, OutOfMemory

FAILED = math.inf  # the loss of a trial that broke off


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
    """An update at a rate of 0."""
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
