"""The batch grows while the run goes on, when the noise scale, measured again and again, says that it pays."""

import math
from dataclasses import dataclass

import numpy as np

from handful.base import expression
from handful.base.errors import HandfulError
from handful.base.expression import number, positive_integer
from handful.base.stopwatch import part
from handful.optim.rates import gain as gain_of
from handful.optim.rates import rescale
from handful.plan.probe.lr_race import standard_error
from handful.plan.probe.noise_scale import GradientMoments, gradient_in_parts, pool
from handful.plan.probe.steps import FAILED, loss_on, train, untouched
from handful.training.special.coupling import training_mode
from handful.training.training import Training
from handful.training.watch.guards import NonFiniteLoss, is_out_of_memory
from handful.training.watch.observe import CONSIDERED
from handful.training.watch.record import crossed, log, moment

GAIN = 1.05  # the least predicted gain in progress per second
LATEST = 0.8  # share of the run after which growing no longer pays for its branch
PROBING = 0.015  # of the run's examples, to measure the noise scale
LEAST_PARTS, MOST_PARTS = 4, 32  # batches that one measurement is made of
BRANCH = 0.004  # of the run's examples, for each of the two branches of a confirmation
STEPS = 8  # the fewest steps of a branch,
TRIAL = 0.02  # which may be so many of the run's examples at most: a shorter run tries no such batch


@dataclass(frozen=True)
class growth:
    """Up to which batch a run may grow, and the step time a + b B in seconds that it was decided with.

    The times stand in the plan because a decision must come out the same when the run is replayed or resumed.

    >>> growth(at_most=256, a=0.001, b=2e-05).gain(32, 64, phi=100)    # from 32 to 64, B / (T(B) (B + phi))
    1.157...
    """

    at_most: int
    a: float
    b: float

    def __post_init__(self) -> None:
        positive_integer(self.at_most, "growth(at_most=...)")
        number(self.a, "growth(a=...)", least=0)
        number(self.b, "growth(b=...)", least=0)

    def gain(self, old: int, new: int, phi: float) -> float:
        """Predicted progress per second at `new` over that at `old`."""
        time = (self.a + self.b * new) / (self.a + self.b * old)
        return (new / old) * (old + phi) / (new + phi) / time

    def __str__(self) -> str:
        return expression.form(self)


def as_growth(spec: object) -> growth:
    """A growth as it is, or its text."""
    found = expression.parse(spec, {"growth": growth}, "batch_growth") if isinstance(spec, str) else spec
    if isinstance(found, growth):
        return found
    raise HandfulError(
        f"batch_growth must be 'auto', None, grow_batch(every=...) or growth(at_most=..., a=..., b=...), not {spec!r}"
    )


@dataclass(frozen=True)
class Grower:
    """Measures phi at fixed positions and decides there whether the batch doubles, or, as formulas are trusted no
    further, becomes four times as large.

    phi is measured from the gradients of the next batches, at the weights of the moment, without an update. To run
    ordinary steps in parts instead wastes no example, but parts of B / M rows cost (M - 1) a extra for B examples,
    and whole batches a + b B: parts are cheaper only while a < b B / (M - 2), and there no doubling gains 5%. Also
    all pairs among the batches of one moment count, so their |G|^2 is M times as sure.

    Every decision is a function of the plan and of the state, so a resumed run takes it again as it was.
    """

    spec: growth

    def measure(self, t: Training) -> None:
        """Add what the next batches tell to `state.noise`, and drop what is older than half of the run so far."""
        s = t.state
        s.noise = [n for n in s.noise if n[-1] >= s.position / 2]
        parts = max(LEAST_PARTS, min(MOST_PARTS, int(PROBING * (t.planned or 0) / CONSIDERED / s.batch)))
        batch = t.batches.at(s.position, parts * s.batch)
        with untouched(t):
            training_mode(t.objective.model)
            found = gradient_in_parts(t.objective, batch, parts, seed=t.plan.seed, step=s.step)[1]
        s.noise.append(found.as_list())
        spend(t, parts, parts * s.batch)

    @part("measuring the noise scale")
    def consider(self, t: Training) -> str | None:
        """At one of the fixed positions: let the batch grow if it pays. Returns what was done, in words, or None."""
        s, planned = t.state, t.planned or 0
        old, unit = s.batch, max(1, planned // CONSIDERED)
        every = unit * math.ceil(LEAST_PARTS * old / PROBING / unit)  # so seldom that each may take LEAST_PARTS batches
        if not (s.position < LATEST * planned and crossed(t, every)):
            return None
        steps = {n: max(STEPS, math.ceil(BRANCH * planned / n)) for n in (2 * old, 4 * old) if n <= self.spec.at_most}
        sizes = [n for n in steps if steps[n] * n <= TRIAL * planned]
        if not sizes:
            return None
        try:
            self.measure(t)
        except NonFiniteLoss:
            return None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        phi = pool(map(GradientMoments.from_list, s.noise))
        if phi.value is not None:
            log(t, {**moment(t), "noise_scale": phi.value, "note": f"noise scale {phi}"})
        believed = phi.value if phi.value is not None else phi.low if phi.status == "bounded" else 0.0
        new = max(sizes, key=lambda n: self.spec.gain(old, n, believed))
        predicted = self.spec.gain(old, new, believed)
        if predicted < GAIN or stalled(t):
            return None
        by = gain_of(old, new, believed)
        spend(t, (1 + new // old) * steps[new], 2 * steps[new] * new)
        if not confirmed(t, new, steps[new], by):
            s.noise = []  # ask again with new numbers only
            return f"batch stays at {old}: a branch with {new} did worse (noise scale {phi})"
        rescale(s.optimizer, old, new, by)
        s.batch = new
        return f"batch {old} -> {new}: noise scale {phi}, predicted {predicted - 1:.0%} sooner, confirmed by a branch"


def spend(t: Training, steps: int, examples: int) -> None:
    """Account for trial steps and their examples."""
    t.state.probing_cost = [t.state.probing_cost[0] + steps, t.state.probing_cost[1] + examples]


def confirmed(t: Training, new: int, steps: int, by: float) -> bool:
    """Whether the larger batch is no worse after equal examples from one state, on rows that neither trained on."""
    s = t.state
    old, rows = s.batch, steps * new
    check = [t.batches.at(s.position + rows + k * 256, 256) for k in range(max(2, min(8, rows // 256)))]
    losses = []
    with untouched(t) as snapshot:
        for size in (old, new):
            snapshot.restore()
            training_mode(t.objective.model)
            if size != old:
                rescale(s.optimizer, old, size, by)
            ended = train(t, size, rows // size)[-1]
            losses.append([FAILED] if ended == FAILED else [loss_on(t, [b]) for b in check])
    small, large = losses
    if not np.isfinite([*small, *large]).all():
        return bool(np.isfinite(large).all())
    differences = np.subtract(large, small)
    return float(differences.mean()) <= 2 * standard_error(differences)


def stalled(t: Training, patience: int = 3) -> bool:
    """Whether the held-out loss has not improved for `patience` evaluations: more noise may be what is needed then."""
    losses = [row["valid_loss"] for row in t.state.history if math.isfinite(row.get("valid_loss", math.nan))]
    return len(losses) > patience and min(losses[-patience:]) >= min(losses[:-patience])
