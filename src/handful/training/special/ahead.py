"""The rates of the next steps, and what their dropout is keyed by, computed at once: between two moments nothing of a
run but its position changes."""

from typing import NamedTuple

from torch import Tensor

from handful.base.errors import HandfulError
from handful.base.keys import dropout_key
from handful.base.plan import Progress
from handful.optim.rates import checked
from handful.training.training import Training

AHEAD = 64  # steps of which this is known at once


class Coming(NamedTuple):
    """What is known of a step before it is taken. rates: of each group of the optimizer; None: not before."""

    step: int
    rates: list[float] | None
    dropout: int


def coming(t: Training, most: int = AHEAD) -> list[Coming]:
    """Of the next steps: up to `most`, to where something is due, the rule stops the run, or the batch has another
    size; of none where that is now. Rates are not known before where parts of the model have schedules of their own, or
    where one is a Tensor."""
    s, p, found = t.state, t.progress(), list[Coming]()
    groups, share = s.optimizer.param_groups, 0.5 ** len(s.went_back)
    if t.schedule.patterns or any(isinstance(group["lr"], Tensor) for group in groups):
        return [Coming(s.step, None, dropout_key(t.plan.seed, s.step, t.ranks.rank))]
    bases = [float(group.setdefault("initial_lr", float(group["lr"]))) for group in groups]
    while len(found) < most and (t.batch_size is None or t.batch_size(p) == s.batch):
        try:
            factor = checked(t.schedule(p) * share)
        except HandfulError:  # said where it is that step's turn
            if not found:
                raise
            break
        rates = [base * factor for base in bases]
        found.append(Coming(p.step, rates, dropout_key(t.plan.seed, p.step, t.ranks.rank)))
        p = Progress(p.position + s.batch, p.step + 1, p.examples, p.seconds, p.planned, p.history, p.restarted)
        if p.position >= t.next_moment or (p.position >= t.asked_from and t.rule(p)):
            break
    return found
