"""The rates of the next steps, computed at once: between two moments nothing of a run but its position changes."""

from handful.base.errors import HandfulError
from handful.base.plan import Progress
from handful.training.training import Training

AHEAD = 64  # steps whose rates are computed at once


def foreseen(t: Training) -> int:
    """Of how many steps factors of the rate can be computed ahead; none where parts of the model have their own."""
    return 0 if t.schedule.patterns or t.schedule.by_clock else AHEAD


def factors(t: Training, most: int) -> list[float]:
    """The factors of the base rate of the next steps: up to `most`, to where something is due, the rule stops the run,
    or the batch has another size; none where that is now."""
    s, p, found = t.state, t.progress(), list[float]()
    while len(found) < most and (t.batch_size is None or t.batch_size(p) == s.batch):
        try:
            found.append(t.schedule(p))
        except HandfulError:  # said where it is that step's turn
            if not found:
                raise
            break
        p = Progress(p.position + s.batch, p.step + 1, p.examples, p.seconds, p.planned, p.history, p.restarted)
        if p.position >= t.next_moment or (p.position >= t.asked_from and t.rule(p)):
            break
    return found
