"""The batch grows while the run goes on, when the noise scale, measured on ordinary steps, says that it pays."""

import math
from dataclasses import dataclass
from typing import Any

from handful import expression
from handful.errors import HandfulError
from handful.expression import number
from handful.optimizer import gain as gain_of
from handful.optimizer import rescale
from handful.probe.noise import Moments, NoiseScale, gradient_in_parts, parts_for, pool
from handful.probe.snapshot import untouched
from handful.probe.trial import FAILED, loss_on, train
from handful.source.base import Batch
from handful.step import Outcome
from handful.training import Training

GAIN = 1.05  # the least predicted gain in progress a second
EARLIEST = 0.02  # share of the run before which the noise scale is still climbing: nothing is decided from it
MOMENTS = 25  # how many times a run it is considered
LATEST = 0.8  # share of the run after which growing no longer pays for its branch
PROBING = 0.02  # of the run's time, for steps in parts
BRANCH = 0.004  # of the run's examples, for each of the two branches of a confirmation
STEPS = 8  # the fewest steps of a branch


@dataclass(frozen=True)
class growth:
    """Up to which batch a run may grow, and the step time a + b B in seconds that it was decided with.

    The times stand in the plan because a decision must come out the same when the run is replayed or resumed.

    >>> growth(at_most=256, a=0.001, b=2e-05).gain(32, 64, phi=100)    # from 32 to 64, B / (T(B) (B + phi))
    1.159...
    """

    at_most: int
    a: float
    b: float

    def __post_init__(self) -> None:
        number(self.at_most, "growth(at_most=...)", above=0, whole=True)
        number(self.a, "growth(a=...)", least=0)
        number(self.b, "growth(b=...)", least=0)

    def gain(self, old: int, new: int, phi: float) -> float:
        """Predicted progress a second at `new` over that at `old`."""
        time = (self.a + self.b * new) / (self.a + self.b * old)
        return (new / old) * (old + phi) / (new + phi) / time

    def __str__(self) -> str:
        return expression.form(self)


def as_growth(spec: Any) -> growth:
    """A growth as it is, or its text."""
    if isinstance(spec, growth):
        return spec
    if isinstance(spec, str):
        found = expression.parse(spec, {"growth": growth}, "batch_growth")
        if isinstance(found, growth):
            return found
    raise HandfulError(
        f"batch_growth must be 'auto', None, grow_batch(every=...) or growth(at_most=..., a=..., b=...), not {spec!r}"
    )


class Grower:
    """Measures phi on ordinary steps and, at fixed positions, decides whether the batch doubles.

    Every decision is a function of the plan and of the state, so a resumed run takes it again as it was.
    """

    def __init__(self, spec: growth) -> None:
        self.spec = spec

    def gradient(self, t: Training, batch: Batch) -> Outcome | None:
        """Steps 3 to 5 in parts, measured, where a measurement is due; else None, and the step goes its usual way."""
        s = t.state
        parts = parts_for(s.batch)
        if parts is None or s.step % self.every(t, parts) or not self.open(t):
            return None
        outcome, found = gradient_in_parts(t.objective, batch, parts, seed=t.plan.seed, step=s.step)
        s.noise.append(found.as_list())
        return outcome

    def every(self, t: Training, parts: int) -> int:
        """Steps from one measurement to the next, so that the time of small parts stays within 2% of the run's."""
        extra = (parts - 1) * self.spec.a / (self.spec.a + self.spec.b * t.state.batch)
        return max(2, math.ceil(extra / PROBING))

    def open(self, t: Training) -> bool:
        """Whether the batch may still grow, and the run is past its first steps."""
        s, planned = t.state, t.planned or 0
        return 2 * s.batch <= self.spec.at_most and 0.5 * EARLIEST * planned <= s.position < LATEST * planned

    def noise(self, t: Training) -> NoiseScale:
        """phi pooled over the second half of what was measured since the start."""
        since = t.state.position / 2
        return pool(m for n in t.state.noise if (m := Moments.from_list(n)).position >= since)

    def consider(self, t: Training) -> str | None:
        """At one of the fixed positions: double the batch if it pays. Returns what was done, in words, or None."""
        s, planned = t.state, t.planned or 0
        every = max(1, planned // MOMENTS)
        crossed = s.position // every > (s.position - s.batch) // every
        if not crossed or not self.open(t) or s.position < EARLIEST * planned:
            return None
        phi = self.noise(t)
        s.noise = [n for n in s.noise if n[-1] >= s.position / 2]
        believed = phi.value if phi.value is not None else phi.low if phi.status == "bounded" else 0.0
        old, new = s.batch, 2 * s.batch
        predicted = self.spec.gain(old, new, believed)
        if predicted < GAIN or stalled(t):
            return None
        steps = max(STEPS, math.ceil(BRANCH * planned / new))
        if steps * new > 2.5 * BRANCH * planned:
            return None
        by = gain_of(old, new, believed)
        if not confirmed(t, new, steps, by):
            s.noise = []  # ask again with new numbers only
            return f"batch stays at {old}: a branch with {new} did worse (noise scale {phi})"
        rescale(s.optimizer, old, new, by)
        s.batch = new
        return f"batch {old} -> {new}: noise scale {phi}, predicted {predicted - 1:.0%} sooner, confirmed by a branch"


def confirmed(t: Training, new: int, steps: int, by: float) -> bool:
    """Whether the larger batch is no worse after equal examples from one state, on rows that neither trained on."""
    s = t.state
    old = s.batch
    rows = steps * new
    check = [t.batches.at(s.position + rows + k * 256, 256) for k in range(max(2, min(8, rows // 256)))]
    losses = []
    with untouched(t) as snapshot:
        for size in (old, new):
            snapshot.restore()
            t.objective.model.train()
            if size != old:
                rescale(s.optimizer, old, size, by)
            trained = train(t, size, rows // size)
            losses.append(FAILED if trained[-1] == FAILED else [loss_on(t, [b]) for b in check])
    if not isinstance(losses[1], list) or not all(map(math.isfinite, losses[1])):
        return False
    if not isinstance(losses[0], list) or not all(map(math.isfinite, losses[0])):
        return True
    differences = [b - a for a, b in zip(losses[0], losses[1], strict=True)]
    mean = sum(differences) / len(differences)
    spread = math.sqrt(sum((d - mean) ** 2 for d in differences) / (len(differences) - 1) / len(differences))
    return mean <= 2 * spread


def stalled(t: Training, patience: int = 3) -> bool:
    """Whether the held-out loss has not improved for `patience` evaluations: more noise may be what is needed then."""
    losses = [row["valid_loss"] for row in t.state.history if math.isfinite(row.get("valid_loss", math.nan))]
    return len(losses) > patience and min(losses[-patience:]) >= min(losses[:-patience])
