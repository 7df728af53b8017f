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
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from handful.optimizer import set_base
from handful.probe.snapshot import Snapshot
from handful.probe.trial import FAILED, train
from handful.step import seed_dropout
from handful.training import Training

SPACING = 2.0  # between two rates of a race
LOSERS = 2  # branches that races lose, as planned for: one each in two races, or two in one that goes down
LOWER = 4.0  # what a rate that does harm is divided by
# A rate twice as large must have come so much further: halfway between twice as far, as where both are far too small,
# and no further, as at the best rate.
FURTHER = 0.5
ERRORS = 2.0  # and by so many standard errors of the paired difference
JUDGED = 0.5  # of a branch's steps, the last ones: by their losses it is judged


@dataclass(frozen=True)
class Branch:
    """Some steps of the run at one rate: the mean losses of the last mini-batches, each before its update."""

    lr: float
    losses: tuple[float, ...]

    @property
    def loss(self) -> float:
        return float(np.mean(self.losses))


@dataclass
class Race:
    """branches: in the order they were run; winner: the best of them, None if none helped; end: the training's
    state after the winner's steps; before: the loss where they began; first: the step they began after; steps: of each
    branch; steps_run: of all; kept: of the winner; lost: thrown away; open_above: whether the largest rate won, so
    that a larger one might be better still."""

    branches: list[Branch] = field(default_factory=list)
    winner: Branch | None = None
    end: Snapshot | None = None
    before: float = math.nan
    first: int = 0
    steps: int = 0
    steps_run: int = 0
    kept: int = 0

    @property
    def lost(self) -> int:
        return self.steps_run - self.kept

    @property
    def open_above(self) -> bool:
        return self.winner is not None and self.winner.lr == max(b.lr for b in self.branches)


def race(t: Training, rate: float, *, size: int, steps: int, start: Snapshot, lower: bool = True) -> Race:
    """Branches of `steps` steps of `size` rows at `rate` and at SPACING times it; with `lower`, at smaller rates where
    `rate` does harm. The training is left at the end of some branch; `start` puts it back."""
    found = Race(first=t.state.step, steps=steps)
    before = losses_before(t, size, steps)
    found.before = float(np.mean(before))

    def run(lr: float) -> bool:
        """Whether the branch is the best so far, and helped."""
        start.restore()
        losses, done = branch(t, lr, size=size, steps=steps)
        found.steps_run += done
        one, best = Branch(lr, tuple(losses)), found.winner
        found.branches.append(one)
        won = one.loss < found.before and (best is None or better(one, best, before))
        if won:
            found.winner, found.end, found.kept = one, Snapshot(t), done
        return won

    if run(rate):
        run(rate * SPACING)
    elif lower and harmed(found.branches[0], before):
        for k in (1, 2):
            if run(rate / LOWER**k):
                break
    return found


def harmed(one: Branch, before: Sequence[float]) -> bool:
    """Whether a branch broke off, or left the loss higher than it was, beyond the noise of the paired difference.

    >>> harmed(Branch(0.1, (1.2, 1.3, 1.2)), before=(1.0, 1.1, 1.0)), harmed(Branch(0.1, (1.2, 0.9)), before=(1.0, 1.0))
    (True, False)
    """
    if not math.isfinite(one.loss):
        return True
    differences = np.array(one.losses) - np.array(before)
    return float(differences.mean()) > ERRORS * standard_error(differences)


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
    differences = np.array(best.losses) - np.array(one.losses)
    progress = float(np.mean(before)) - best.loss
    least = ((1 + FURTHER) ** math.log2(one.lr / best.lr) - 1) * progress if one.lr > best.lr else 0.0
    return float(differences.mean()) > max(ERRORS * standard_error(differences), least)


def branch(t: Training, lr: float, *, size: int, steps: int) -> tuple[list[float], int]:
    """The run's next steps at base rate `lr`, its own schedule on it: the losses that it is judged by ([inf] if it
    broke off), and the steps that were taken."""
    set_base(t.state.optimizer, lr)
    t.objective.model.train()
    losses = train(t, size, steps)
    return ([FAILED] if losses[-1] == FAILED else losses[-judged(steps) :]), len(losses)


def judged(steps: int) -> int:
    """The last steps of a branch whose losses count."""
    return max(1, round(JUDGED * steps))


def losses_before(t: Training, size: int, steps: int) -> list[float]:
    """The losses that branches are judged by as they are at the weights where the branches begin: in training mode and
    with the same dropout. What that changes in the model (running statistics), the branches' start puts back."""
    t.objective.model.train()
    found = []
    for k in range(steps - judged(steps), steps):
        batch = t.objective.to_device(t.batches.at(t.state.position + k * size, size))
        seed_dropout(t.plan.seed, t.state.step + k, 0, t.objective.device)
        with torch.no_grad():
            sums = t.objective.sums(batch, metrics=False)
        found.append(float(sums.loss) / max(float(sums.weight), 1e-30))
    return found
