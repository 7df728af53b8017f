"""The rate rises where gradients go on to point one way: a run that has not turned yet could have gone twice as far.

The mean gradient of a stretch of the run is held against that of the stretch before. At a rate that is large enough a
run has crossed the valley meanwhile and comes back; at one far too small both point along it. On nine workloads of
benchmarks/choice.py their cosine up to 16% of a run was 0.2 to 0.4 for the two whose best rate is two to four times
the usual, and -0.5 to 0 for nearly all runs of the others. It costs nothing: the gradients are read off what the
optimizer remembers.
"""

import math

import torch
from torch import Tensor
from torch.optim import Optimizer

from handful.base.plan import Choice, Progress
from handful.optim.rates import set_base
from handful.training.training import RATE_IS_OPEN, Training
from handful.training.watch.record import crossed

FROM, STRETCHES = 0.08, 4  # of the planned examples: from 8% to 11%, to 16%, to 23%, to 32%, by the root of two each
SAME, UNSURE = 0.1, 0.4  # the cosine from which on the rate rises: so much, and this over the root of the steps,
FEWEST = 10  # of which there are so many at least,
RISE = 2.0  # by so much; where the training loss then is higher than before, it is put back
LEVEL = 0.7  # of the base rate at least: a schedule that is far from it says itself how the rate should go
MOST = 4096  # numbers of each parameter that are looked at, evenly spread
SMALL = ("trained before", "of another class", "broke off")  # in the reason of a rate that is small on purpose
OVER, ROSE = -1.0, 1.0  # nothing is looked at any more; the rate rose at the end of the stretch before


def rise(t: Training) -> str | None:
    """At a logged moment: look at the gradients since the last one; at the end of a stretch raise the rate where they
    agree with those before, or put it back. Returns what was done, in words, or None."""
    s, planned = t.state, t.planned or 0
    if not (planned and s.position >= FROM * planned and crossed(t, t.log_every) and may_rise(t)):
        return None
    stretch = min(STRETCHES, math.floor(2 * math.log2(s.position / (FROM * planned))))
    before, step, rose, since = s.course["at"].tolist() if s.course else (stretch, s.step, 0.0, -1)
    if rose == OVER:
        return None
    now, keep = momentum(s.optimizer)
    if len(now) != len(s.course.get("last", now)):
        return None
    sums, note = s.course.get("sums", now.new_zeros(2, len(now))).clone(), None
    if "last" in s.course:  # what has come since: of what was remembered then, keep**steps is left
        sums[1] += now - keep ** (s.step - step) * s.course["last"]
    if stretch != before:
        note, rose = ended(t, sums, end_of(t, before), rose == ROSE)
        since = s.step if rose == ROSE else -1
        sums = torch.stack([sums[1] * (rose != ROSE), torch.zeros_like(now)])
    rose = OVER if stretch == STRETCHES else rose
    s.course = {"at": torch.tensor([stretch, s.step, rose, since], dtype=torch.float64)}
    s.course |= {} if rose == OVER else {"last": now, "sums": sums}
    return note


def end_of(t: Training, stretch: float) -> float:
    """The position at which a stretch ends."""
    return FROM * (t.planned or 0) * math.pow(2, (stretch + 1) / 2)


def may_rise(t: Training) -> bool:
    """Whether nobody asked for the rate, it is not small on purpose, and the run has not begun again at another."""
    alone = t.ranks.size == 1 and t.training_step is None and not t.schedule.patterns
    return alone and is_usual(t.plan.choices["lr"]) and not t.state.restarted


def is_usual(rate: Choice) -> bool:
    """Whether a rate was left open and is not small on purpose, as for weights that were trained before.

    >>> is_usual(Choice(0.01, "default", "learned")), is_usual(Choice(0.01, "given"))
    (True, False)
    >>> is_usual(Choice(5e-5, "default", "'norm' has been trained before: a rate for fine-tuning"))
    False
    """
    return rate.status in RATE_IS_OPEN and not any(why in rate.reason for why in SMALL)


def ended(t: Training, sums: Tensor, end: float, rose: bool) -> tuple[str | None, float]:
    """A stretch is over: (what is done about the rate, in words, or None; whether it rose, or stays for good)."""
    s, steps, rate = t.state, end / 2 / t.state.batch, float(t.state.optimizer.param_groups[0]["initial_lr"])
    losses = [mean_loss(t, end / math.sqrt(2) ** k, end / math.sqrt(2) ** (k - 1)) for k in (1, 2)]
    if rose and losses[0] > losses[1]:
        set_base(s.optimizer, rate / RISE)
        return f"rate {rate:.3g} -> {rate / RISE:.3g}: the training loss rose with the larger one", OVER
    same = float(torch.cosine_similarity(sums[0], sums[1], dim=0))
    alike = steps >= FEWEST and same >= SAME + UNSURE / math.sqrt(steps)
    if not (alike and level(t, end / 2) and better_still(t)):
        return None, 0.0
    set_base(s.optimizer, rate * RISE)
    why = f"the gradients of the last {steps:,.0f} steps go on to point one way (cosine {same:.2f} between both halves)"
    return f"rate {rate:.3g} -> {rate * RISE:.3g}: {why}", ROSE


def level(t: Training, start: float) -> bool:
    """Whether the schedule leaves the rate about as it is, from `start` to here."""
    s = t.state
    ends = [Progress(p, p // s.batch, t.examples, 0.0, t.planned) for p in (int(start), s.position)]
    return all(LEVEL <= t.schedule(p) <= 1 / LEVEL for p in ends)


def better_still(t: Training) -> bool:
    """Whether the latest held-out loss is the lowest: else gradients may agree in learning rows by heart."""
    losses = [row["valid_loss"] for row in t.state.history if "valid_loss" in row]
    return not losses or losses[-1] <= min(losses)


def mean_loss(t: Training, start: float, end: float) -> float:
    """Of the logged training losses between two positions; infinite where there is none."""
    losses = [row["train_loss"] for row in t.state.history if "train_loss" in row and start < row["position"] <= end]
    return sum(losses) / len(losses) if losses else math.inf


def momentum(optimizer: Optimizer) -> tuple[Tensor, Tensor]:
    """([k], [k]) of some of what the optimizer remembers of past gradients, a large parameter's numbers counting for
    those between them, and the share of it that each keeps from step to step; empty where it remembers none."""
    found, keep = [torch.empty(0)], [torch.empty(0)]
    for group in optimizer.param_groups:
        share = group["betas"][0] if "betas" in group else group.get("momentum", 0.0)
        for p in group["params"]:
            held = optimizer.state.get(p, {})
            value = held.get("exp_avg", held.get("momentum_buffer"))
            if value is not None and 0 < share < 1:
                flat = (torch.view_as_real(value) if value.is_complex() else value).reshape(-1)
                apart = math.ceil(len(flat) / MOST) or 1
                found.append(flat[::apart].float().cpu() * math.sqrt(apart))
                keep.append(torch.full_like(found[-1], share))
    return torch.cat(found), torch.cat(keep)
