"""The run's first steps, and the race of rates that follows them."""

import math

import numpy as np
import torch

from handful.base.plan import Choice
from handful.base.stopwatch import part
from handful.optim.initial_lr import learned_rate, rate_of_shapes
from handful.optim.rates import gain, set_base
from handful.plan.probe.decision import NOISE, SHARE, TIMING, USUAL_NOISE, WARM, Decision, base_rate, raced_examples
from handful.plan.probe.lr_race import FURTHER, LOSERS, Race, race, standard_error
from handful.plan.probe.steps import Snapshot, train
from handful.report.words import say_number
from handful.training.special.coupling import training_mode
from handful.training.training import Training

FIRST_STEPS = 30  # where a fiftieth of the run are fewer, but at most twice that
LOWER = 8.0  # what a rate is divided by whose first steps break off
MOST_SHARE = 0.1  # of the planned examples, where advice is asked for, which may cost more than a run's own choice
RACE = 0.005  # of the planned examples, for the losers of the first race; what is left over may go to another one
LATEST_RACE = 0.08  # share of the run after which no further race begins,
LATEST_FALL = 0.04  # and up to which the first one waits for the loss to fall
FALLEN = 2.0  # standard errors that the latest losses lie below the first ones then
BRANCH_STEPS = 10  # the fewest steps that tell two rates apart,
MOST_STEPS = 2000  # and the most that it is worth
FEWEST_STEPS = 6  # that tell whether the loss rose


@part("first steps, at several rates")
def first_steps(
    t: Training, d: Decision, size: int, share: float, beginning: Snapshot, *, batch: bool, lr: bool, short: str = "",
    learned: bool = False,
) -> float:  # fmt: skip
    """Begin the run with batches of `size`: some steps, then a race of rates where the run is long enough for one, and
    `short` does not say why it is not. Leaves the training there; returns the base rate that it has. learned: begin at
    the rate that was learned for short runs."""
    planned = raced_examples(t, d)
    if not lr:
        return _begin(t, d, base_rate(t), size, beginning, tries=1)[0]
    rate, why = default_rate(t, size, learned=learned)
    budget = min(share, MOST_SHARE) - (TIMING + NOISE if batch else 0.0)
    most, usual = (d.in_time(part * planned, size) for part in (budget, RACE / SHARE * share))
    steps = min(MOST_STEPS, max(BRANCH_STEPS, int(usual / LOSERS))) if most >= LOSERS * BRANCH_STEPS else 0
    taken, losses = _begin(t, d, rate, size, beginning, tries=6)
    if taken != rate:
        d.lr = Choice(taken, "measured", f"the first steps broke off at {rate:.2g} ({why}) and did not at this rate")
        return taken
    if not steps or short:
        short = short or f"the run is too short to try others ({budget:.1%} of it are {most:.0f} steps)"
        d.lr = Choice(rate, "default", f"{why}; {short}")
        return taken
    waited = _leave_plateau(t, d, size, losses)
    return _races(t, d, rate, why, size, steps, budget * planned, waited)


def _begin(
    t: Training, d: Decision, rate: float, size: int, beginning: Snapshot, *, tries: int
) -> tuple[float, list[float]]:
    """The run's first steps, before anything can be told from it; a rate that breaks off is lowered until one does not,
    in so many tries. Returns the rate that they were taken at, which the optimizer then has, and their losses."""
    planned = raced_examples(t, d)
    steps = max(math.ceil(WARM * planned / size), min(FIRST_STEPS, math.ceil(d.in_time(2 * WARM * planned, size))))
    set_base(t.state.optimizer, rate)
    if WARM * planned < size:
        return rate, []
    what = "rose"
    for tried in (rate / LOWER**k for k in range(tries)):
        set_base(t.state.optimizer, tried)
        training_mode(t.objective.model)
        losses = train(t, size, steps)
        if math.isfinite(losses[-1]) and (steps < FEWEST_STEPS or not _rose(losses)):
            return tried, losses
        d.spend(len(losses), size)
        beginning.restore()
        what = what if math.isfinite(losses[-1]) else "became infinite"
    rates = f" at {rate:.2g} and {tries - 1} smaller rates" if tries > 1 else ""
    d.notes.append(f"the loss {what} in the first steps{rates}; they were undone and nothing was measured")
    set_base(t.state.optimizer, rate)
    return rate, []


def _leave_plateau(t: Training, d: Decision, size: int, losses: list[float]) -> int:
    """Go on while the loss stands still, as SGD's may at first: a race there compares noise. Up to LATEST_FALL of the
    run, for a rate that is far too small looks alike; then, or before a step that is not finite, the training stays.
    Returns the steps that were waited for."""
    steps, began = len(losses), t.state.step
    while not fell(losses) and t.state.position + steps * size <= LATEST_FALL * raced_examples(t, d):
        before = Snapshot(t)
        losses += train(t, size, steps)
        if not math.isfinite(losses[-1]):
            before.restore()
            break
    return t.state.step - began


def fell(losses: list[float]) -> bool:
    """Whether the last ten losses lie clearly below the first ten (of fewer than 20, the halves).

    >>> fell([2.3, 2.4, 2.2, 2.3, 1.9, 1.8, 1.9, 1.7]), fell([2.3, 2.4, 2.2, 2.3, 2.3, 2.2, 2.4, 2.2])
    (True, False)
    """
    n = min(10, len(losses) // 2)
    if n < 2:
        return True  # too few to tell
    first, last = np.array(losses[:n]), np.array(losses[-n:])
    return float(first.mean() - last.mean()) > FALLEN * math.hypot(standard_error(first), standard_error(last))


def _rose(losses: list[float]) -> bool:
    """Whether the mean loss of the last third is half as high again as that of the first (a loss may be negative)."""
    third = max(1, len(losses) // 3)
    first, last = sum(losses[:third]), sum(losses[-third:])
    return last - first > 0.5 * abs(first)


def _races(t: Training, d: Decision, rate: float, why: str, size: int, steps: int, budget: float, waited: int) -> float:
    """A race against the next larger rate; while that one wins, another race at twice the position, as long as the
    budget (in examples) lasts. waited: steps that count for nothing there."""
    default, left = rate, budget
    while True:
        start = Snapshot(t)
        found = race(t, rate, size=size, steps=steps, start=start, lower=not d.races)
        d.races.append(found)
        d.spend(found.lost, size)
        left -= found.lost * size
        if found.winner is not None:
            rate = found.winner.lr
        (found.end or start).restore()
        set_base(t.state.optimizer, rate)
        late = t.state.position - waited * size > LATEST_RACE * raced_examples(t, d)
        if not found.open_above or left < steps * size or late:
            break
        if not math.isfinite(train(t, size, t.state.step - waited)[-1]):  # as many steps again: the run goes on
            (found.end or start).restore()
            break
    tried = f"tried {'; then '.join(map(_outcome, d.races))} (doubling must improve by {FURTHER:.0%})"
    if d.races[0].winner is None:
        d.lr = Choice(default, "default", f"{why}; no rate that was tried helped: {tried}")
    elif rate == default:
        d.lr = Choice(rate, "measured", f"the default ({why}) held: {tried}")
    else:
        d.lr = Choice(rate, "measured", f"better than the default {default:.2g} ({why}): {tried}")
    return rate


def _outcome(found: Race) -> str:
    """The rates of a race, where it was run, and the losses there."""
    branches = sorted(found.branches, key=lambda b: b.lr)
    rates = ", ".join(f"{b.lr:.2g}" for b in branches)
    losses = ", ".join("given up" if b.given_up else say_number(b.loss) for b in branches)
    steps = f"steps {found.first + 1}-{found.first + found.steps}"
    return f"{rates} in a race over {steps}: loss {say_number(found.before)} -> {losses}"


def default_rate(t: Training, size: int, *, learned: bool = False) -> tuple[float, str]:
    """The optimizer's stated rate, taken to be for a batch of 32, and raised for a larger one. learned: where it comes
    from the shapes of the model, that which was learned for short runs."""
    rate, why, model = base_rate(t), t.plan.choices["lr"].reason, t.objective.model
    shaped = rate_of_shapes(model)
    if learned and why.startswith(shaped[1]) and (found := learned_rate(model)):
        rate, why = float(f"{found[0] * rate / shaped[0]:.3g}"), found[1] + why.removeprefix(shaped[1])
    if size <= 32:
        return rate, why
    return float(f"{rate * rate_follows(t, 32, size):.3g}"), f"{rate:.3g} at a batch of 32 ({why}), raised for {size}"


def rate_follows(t: Training, before: int, after: int, phi: float | None = None) -> float:
    """What the rate is multiplied by when the batch changes: the gain of Johnson et al. 2020 (arXiv:2007.05105), its
    root for adaptive optimizers. Where the noise scale is not known, a usual one is taken for SGD, and adaptive rates
    rise as the best ones were found to, 8 times over batches 256 times as large."""
    if isinstance(t.state.optimizer, torch.optim.SGD):
        return gain(before, after, USUAL_NOISE if phi is None else phi)
    return float((after / before) ** 0.375) if phi is None else math.sqrt(gain(before, after, phi))
