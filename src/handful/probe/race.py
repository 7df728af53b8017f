"""The learning rate by a race: the run's first steps at several rates, from one state over the same examples.

A branch is the beginning of the run itself, so the winner's is kept and only the losers cost. Branches are judged on
rows that none of them trained on. A short run flatters large rates: each step goes further, and the noise that they
end in is not felt yet. (Near the end of training it is the other way round: Wu et al. 2018, arXiv:1803.02021.) So a
larger rate wins only if it has come clearly further, the more so the fewer the steps, and a smaller one if it has come
further at all. With that margin a race is for rates that are far off.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from handful.optimizer import set_base
from handful.probe.snapshot import Snapshot
from handful.probe.trial import FAILED, loss_on, train
from handful.source.base import Batch
from handful.training import Training

SPACING = 2.0  # between two rates of a race
LOSERS = 2  # branches that the budget is shared between
FURTHER, SHORT = 0.2, 12.0  # a rate twice as large must have come 0.2 + 12 / steps further
LOWER = 6  # how often a rate that breaks off is divided by 8
ROWS = 1024  # at most so many rows to judge on


@dataclass(frozen=True)
class Branch:
    """The run's first steps at one rate: the loss after them, one number a block of held-back rows."""

    lr: float
    losses: tuple[float, ...]

    @property
    def loss(self) -> float:
        return float(np.mean(self.losses))


@dataclass
class Race:
    """branches: in the order they were run; winner: the best of them, None if all broke off; end: the training's
    state after the winner's steps; before: the loss where they began; steps: of each branch; steps_run: of all;
    kept: of the winner; lost: thrown away."""

    branches: list[Branch] = field(default_factory=list)
    winner: Branch | None = None
    end: Snapshot | None = None
    before: float = math.nan
    steps: int = 0
    steps_run: int = 0
    kept: int = 0

    @property
    def lost(self) -> int:
        return self.steps_run - self.kept


def race(t: Training, default: float, *, size: int, steps: int, start: Snapshot) -> Race:
    """Branches of `steps` steps of `size` rows at the default rate, at twice it, and at four times or half of it,
    whichever is the better side; where the default breaks off, on to smaller ones until one does not. The training is
    left at the end of some branch; `start` puts it back."""
    found = Race(steps=steps)
    check = held_back(t, steps * size)
    before = tuple(loss_on(t, [b]) for b in check)
    found.before = float(np.mean(before))

    def run(lr: float) -> bool:
        """Whether the branch is the best so far."""
        start.restore()
        losses, done = branch(t, lr, size=size, steps=steps, check=check)
        found.steps_run += done
        one = Branch(lr, tuple(losses) if np.mean(losses) < np.mean(before) else (FAILED,))
        found.branches.append(one)
        best = found.winner
        won = math.isfinite(one.loss) and (best is None or better(one, best, before, steps))
        if won:
            found.winner, found.end, found.kept = one, Snapshot(t), done
        return won

    if run(default):
        if run(default * SPACING):
            run(default * SPACING**2)
        else:
            run(default / SPACING)
    else:
        for k in range(1, LOWER + 1):  # branches that break off are short
            if run(default / SPACING ** (3 * k)):
                break
    return found


def better(one: Branch, best: Branch, before: Sequence[float], steps: int) -> bool:
    """Whether a branch beats the best so far: a smaller rate if it came further, a larger one if it came clearly
    further; both by more than the noise of their paired difference. before: the losses where they began.

    >>> slow, fast = Branch(1e-3, (0.90, 0.91)), Branch(2e-3, (0.86, 0.87))    # two fifths further
    >>> [better(fast, slow, before=(1.0, 1.0), steps=n) for n in (20, 200)]
    [False, True]
    >>> better(slow, fast, before=(1.0, 1.0), steps=20)
    False
    """
    differences = np.array(best.losses) - np.array(one.losses)
    error = float(np.std(differences, ddof=1)) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    progress = float(np.mean(before)) - best.loss
    least = further(steps) * progress if one.lr > best.lr else 0.0
    return float(differences.mean()) > max(error, least)


def further(steps: int) -> float:
    """How much further, of the way it came, a rate twice as large must come."""
    return FURTHER + SHORT / steps


def branch(t: Training, lr: float, *, size: int, steps: int, check: Sequence[Batch]) -> tuple[list[float], int]:
    """The run's next steps at base rate `lr`, its own schedule on it; afterwards the loss on each batch of `check`
    ([inf] if the branch broke off), and the steps that were taken."""
    set_base(t.state.optimizer, lr)
    t.objective.model.train()
    losses = train(t, size, steps)
    if losses[-1] == FAILED:
        return [FAILED], len(losses)
    with batch_statistics(t.objective.model):
        return [loss_on(t, [b]) for b in check], len(losses)


def held_back(t: Training, trained: int) -> list[Batch]:
    """Up to 1,024 training rows to compare branches on, from beyond the `trained` rows that the branches use."""
    rows = min(ROWS, max(64, t.examples // 4))
    parts = min(128, rows // 4)
    return [t.batches.at(t.state.position + trained + k, min(parts, rows - k)) for k in range(0, rows, parts)]


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Inside the block BatchNorm uses the statistics of each batch: after few steps the running ones lag behind the
    weights. They stay as they are."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [(m.running_mean, m.running_var) for m in layers]
    for m in layers:
        m.running_mean = m.running_var = None
    try:
        yield
    finally:
        for m, (mean, variance) in zip(layers, kept, strict=True):
            m.running_mean, m.running_var = mean, variance
