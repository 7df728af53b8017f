"""The learning rate by a race: the run's next steps at several rates, from one state over the same examples.

A branch is the run itself, going on, so the winner's is kept and only the losers cost. Branches are judged by the
losses of their last steps, each on rows that it has not trained on yet, the same rows for all. Where they begin matters
most. At the very start a short run flatters large rates without limit: each step goes further, and the noise that they
end in is not felt yet; late in training it flatters small ones (Wu et al. 2018, arXiv:1803.02021). In between, after
some fiftieth of a run, the rate that comes furthest in a few steps is about the one that is best for long, or a little
below it. So a race begins there; a larger rate must come clearly further, and smaller ones have their turn only where
the rate that the run began with makes the loss clearly worse.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from handful.base.machine import wide
from handful.optim.rates import set_base
from handful.plan.probe.noise_scale import student
from handful.plan.probe.steps import FAILED, Snapshot, train
from handful.training.special.coupling import training_mode
from handful.training.training import Training

SPACING = 2.0  # between two rates of a race
LOSERS = 2  # branches that races lose, as planned for: one each in two races, or two in one that goes down
LOWER = 4.0  # what a rate that does harm is divided by
# A rate twice as large must have come so much further: between no further, as at the best rate, and twice as far, as
# where both are far too small. From PATIENCE of the steps on, one that has not come in proportion further is given up.
FURTHER = 0.33
ERRORS = 2.0  # and by so many standard errors of the paired difference
PATIENCE = 0.4
JUDGED = 0.5  # of a branch's steps, the last ones: by their losses it is judged
FORWARD = 1 / 3  # of a step: what a loss without its gradient costs,
LEAST_FORWARDS, SHARE_OF_FORWARDS = 4, 0.1  # so many are taken, or this share of a branch's steps


@dataclass(frozen=True)
class Branch:
    """Some steps of the run at one rate: the mean losses of the last mini-batches, each before its update.
    given_up: whether it was stopped on the way, so that its losses are those of other mini-batches."""

    lr: float
    losses: tuple[float, ...]
    given_up: bool = False

    @property
    def loss(self) -> float:
        return float(np.mean(self.losses))


@dataclass
class Race:
    """branches: in the order they were run; winner: the best of them, None if all did harm; end: the training's
    state after the winner's steps; losses_before: of the batches that branches are judged by, where they began; first:
    the step they began after; steps: of each branch; steps_run: of all; kept: of the winner; forwards: losses that were
    taken without a step."""

    first: int
    steps: int
    forwards: int
    losses_before: list[float]
    branches: list[Branch] = field(default_factory=list)
    winner: Branch | None = None
    end: Snapshot | None = None
    steps_run: int = 0
    kept: int = 0

    @property
    def before(self) -> float:
        return float(np.nanmean(self.losses_before))

    @property
    def lost(self) -> int:
        """Steps thrown away, and the steps that the forwards took as long as."""
        return self.steps_run - self.kept + math.ceil(FORWARD * self.forwards)

    @property
    def open_above(self) -> bool:
        """Whether the largest rate won, so that a larger one might be better still."""
        return self.winner is not None and self.winner.lr == max(b.lr for b in self.branches)


def race(t: Training, rate: float, *, size: int, steps: int, start: Snapshot, lower: bool = True) -> Race:
    """Branches of `steps` steps of `size` rows at `rate` and at SPACING times it; with `lower`, at smaller rates where
    `rate` does harm. The training is left at the end of some branch; `start` puts it back. steps: 2 or more."""
    chosen = compared(steps, _judged(_patience(steps)).start)
    before = losses_before(t, size, steps, chosen)[_judged(steps)]
    found = Race(t.state.step, steps, len(chosen), before)
    losses = _run(t, found, rate, size, start)
    if found.winner is not None and improvement(found.winner, before) > 0:
        _run(t, found, rate * SPACING, size, start, rival=losses)
    for smaller in (rate / LOWER, rate / LOWER**2) if lower else ():
        if found.winner is None:
            _run(t, found, smaller, size, start)
    return found


def _run(
    t: Training, found: Race, lr: float, size: int, start: Snapshot, rival: list[float] | None = None
) -> list[float]:
    """Run a branch; the best so far that helped, or the first if it did no harm, is the winner. rival: the losses at
    half the rate, in whose pace this one must come further, or it is given up. Returns the losses of its steps."""
    steps, before, is_first = found.steps, found.losses_before, not found.branches

    def behind(losses: list[float]) -> bool:
        n = len(losses)
        if rival is None or n < _patience(steps):
            return False
        so_far = _judged(n)  # the rival is taken to have come evenly, its way being known best at the end
        ahead = float(np.mean(rival[so_far]) - np.mean(losses[so_far]))
        return ahead < FURTHER * (n / steps) ** 2 * improvement(found.branches[0], before)

    start.restore()
    losses = branch(t, lr, size=size, steps=steps, give_up=behind)
    found.steps_run += len(losses)
    if len(losses) < steps and losses[-1] != FAILED:
        found.branches.append(Branch(lr, tuple(losses[_judged(len(losses))]), given_up=True))
        return losses
    one = Branch(lr, tuple(losses[_judged(steps)]) if math.isfinite(losses[-1]) else (FAILED,))
    found.branches.append(one)
    helped = not harmed(one, before) if is_first else improvement(one, before) > 0
    if helped and (found.winner is None or better(one, found.winner, before)):
        found.winner, found.end, found.kept = one, Snapshot(t), len(losses)
    return losses


def harmed(one: Branch, before: Sequence[float]) -> bool:
    """Whether a branch broke off, or left the loss higher than it was, beyond the noise of the paired difference: few
    are taken, so by Student's t, one-sided 95%.

    >>> harmed(Branch(0.1, (1.2, 1.3, 1.2)), before=(1.0, 1.1, 1.0)), harmed(Branch(0.1, (1.2, 0.9)), before=(1.0, 1.0))
    (True, False)
    """
    if not math.isfinite(one.loss):
        return True
    each = _per_batch_improvement(one, before)
    return len(each) > 0 and float(-each.mean()) > student(len(each) - 1) * standard_error(each)


def improvement(one: Branch, before: Sequence[float]) -> float:
    """How far a branch brought the loss down: the mean over the batches whose loss is known as it was before (the
    others are NaN), of each against itself; -inf for a branch that broke off, or if none of them was finite.

    >>> improvement(Branch(1e-3, (0.9, 0.5, 0.5)), before=(math.nan, 0.75, 1.0))
    0.375
    """
    each = _per_batch_improvement(one, before)
    return float(each.mean()) if math.isfinite(one.loss) and len(each) else -math.inf


def _per_batch_improvement(one: Branch, before: Sequence[float]) -> NDArray[np.float64]:
    each: NDArray[np.float64] = np.array(before) - np.array(one.losses)
    return each[np.isfinite(each)]


def standard_error(values: NDArray[np.float64]) -> float:
    """Of the mean; 0 for a single value."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def better(one: Branch, best: Branch, before: Sequence[float]) -> bool:
    """Whether a branch beats the best so far: it came further beyond the noise of the paired difference, and, at a
    larger rate, clearly further. before: the losses where they began.

    >>> slow, fast = Branch(1e-3, (0.90, 0.91)), Branch(2e-3, (0.84, 0.85))    # about 60% further
    >>> better(fast, slow, before=(1.0, 1.0)), better(Branch(2e-3, (0.89, 0.90)), slow, before=(1.0, 1.0))
    (True, False)
    """
    if not math.isfinite(one.loss):
        return False
    differences = np.array(best.losses) - np.array(one.losses)
    if float(differences.mean()) <= ERRORS * standard_error(differences):
        return False
    if one.lr < best.lr:
        return True
    way = improvement(best, before)
    further = (best.loss - one.loss) / way if way > 0 else math.inf
    return bool(further >= (1 + FURTHER) ** math.log2(one.lr / best.lr) - 1)


def branch(
    t: Training, lr: float, *, size: int, steps: int, give_up: Callable[[list[float]], bool] | None = None
) -> list[float]:
    """The losses of the run's next steps at base rate `lr`, its own schedule on it; the last is FAILED where it broke
    off."""
    set_base(t.state.optimizer, lr)
    training_mode(t.objective.model)
    return train(t, size, steps, give_up)


def _patience(steps: int) -> int:
    """The steps after which a branch may be given up."""
    return max(1, math.ceil(PATIENCE * steps))


def _judged(steps: int) -> slice:
    """Which of the first `steps` steps of a branch count: the last ones."""
    return slice(steps - max(1, round(JUDGED * steps)), steps)


def compared(steps: int, first: int) -> list[int]:
    """The steps, spread over those from `first` on, whose losses are compared with what they were before the race.

    >>> compared(10, first=2), compared(2, first=0), len(compared(100, first=20))
    ([3, 5, 7, 9], [0, 1], 10)
    """
    n = min(steps - first, max(LEAST_FORWARDS, math.ceil(SHARE_OF_FORWARDS * steps)))
    return [first + round((k + 1) * (steps - first) / n) - 1 for k in range(n)]


def losses_before(t: Training, size: int, steps: int, chosen: Iterable[int]) -> list[float]:
    """The losses of some of a branch's batches as they are at the weights where the branches begin, NaN for the others:
    in training mode and with the same dropout. What that changes in the model (running statistics), the branches' start
    puts back."""
    training_mode(t.objective.model)
    found = [math.nan] * steps
    for k in chosen:
        batch = t.batches.at(t.state.position + k * size, size, t.ranks.share)
        t.seed_dropout(k)
        loss_and_weight = torch.zeros(2, dtype=torch.float64)
        if len(batch):
            with torch.no_grad():
                sums = t.objective.sums(t.objective.to_device(batch), metrics=False)
            loss_and_weight = torch.stack([wide(sums.loss), wide(sums.weight)]).cpu()
        total, weight = t.ranks.summed(loss_and_weight).tolist()
        loss = total / max(weight, 1e-30)
        found[k] = math.inf if math.isnan(loss) else loss  # NaN stands for those that were not taken
    return found
