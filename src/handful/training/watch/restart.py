"""The run begins again where it began badly: at a rate too large, or learning rows by heart."""

import math

import torch
from torch import Tensor

from handful.base.plan import Progress, Row
from handful.optim.parts import averages_itself, decoupled
from handful.optim.rates import set_base, set_decay
from handful.training.training import RATE_IS_OPEN, Training
from handful.training.watch.headway import is_usual
from handful.training.watch.weights import Weights, load_weights

FEW_HELD = 100  # held-out rows, and fewer: whether their loss is higher than at another look is told by its error
TELLS = 1.0  # so many of its standard errors, paired by row;
NEAR = 0.05  # of the lowest held-out loss: evaluations so near it are told apart by the score first
RISES = 3  # so many looks, all worse than before them, send a run back,
SETTLED = 30  # after this many steps at least: running statistics and averages lag behind that long;
MOST_EPOCHS = 5  # later, and where so many steps take longer, it is rows that are known,
AVERAGED = 100  # though not before so many steps, which an average is of, where they are more than ten epochs
LOWER = 8.0  # what its rate is divided by then
BY_HEART = 4  # so many looks worse than the best, the training loss being lower than that: rows are learned by heart.
EARLY = 0.5  # In this share of the plan the run begins again, once (later none of eight came as low), its rate over
LESS = 4.0
NOISY = 2.0  # or this, and the weights an average over MEMORY epochs by an open weight decay, where noise is what was
MEMORY, REST = 2.0, 0.1  # learned: the lowest loss is this share of the first or more, and more than FEW_TELL rows' own
FEW_TELL = 10
SHORTER = 1.0  # epochs: where the run does not begin again, in which the noise is to be washed out of the weights
FAR = 2.0  # times the lowest loss: not where the first beginning never was below it on a way as long as is left
RISEN, LEARNED = "the held-out loss rose from the first looks on", "the rows were learned by heart early"


def restart(t: Training) -> str | None:
    """Begin again, at a smaller rate, where the held-out loss rises from the first looks on, or, on few rows, where
    these are learned by heart so soon that a smaller rate would come further; the order of rows and the schedule go on.
    From the first weights where they were kept, else from the best. Returns what was done, in words, or None."""
    s = t.state
    if s.best is None or not (why := rises(t, s.best.row)):
        return None
    rate, weights = float(s.optimizer.param_groups[0]["initial_lr"]), s.first or s.best.weights
    go_back(t, weights)
    s.optimizer.state.clear()  # in place: the parts of an OptimizerGroup share one dict
    by_noise = why == LEARNED and noisy(t)
    lower = rate / (LOWER if why == RISEN else NOISY if by_noise else LESS)
    set_base(s.optimizer, lower)
    s.restarted = s.position
    said = (
        f"{why} ({s.best.row['valid_loss']:.4g} at step {s.best.row['step']:,}): restarted from "
        f"{'the first weights' if s.first else 'there'} at a rate of {lower:.3g} instead of {rate:.3g}"
    )
    shorter = forget(t, MEMORY) if by_noise else ""
    return f"{said} and {shorter}" if shorter else said


def go_back(t: Training, weights: Weights) -> None:
    """Put back weights that the run had before; what was measured since then is of others."""
    s = t.state
    load_weights(t.objective.model, weights)
    if s.average is not None:
        s.average = {name: value.clone() for name, value in weights.items()}
    s.noise, s.course = [], {}


def noisy(t: Training) -> bool:
    """Whether the lowest held-out loss is one of many rows and no small rest, as where classes can be told apart, which
    a weight decay would only hold back; as it would undo weights that were trained before."""
    looks = [row["valid_loss"] for row in t.state.history if "valid_loss" in row]
    few = t.state.lowest and telling(torch.tensor(t.state.lowest, dtype=torch.float64)) <= FEW_TELL
    return is_usual(t.plan.choices["lr"]) and not few and bool(min(looks) > REST * looks[0])


def remembered(t: Training) -> float:
    """Epochs that a weight is an average over by the weight decay, 1 / (rate * decay) steps; infinite without one."""
    rate, groups = float(t.state.optimizer.param_groups[0]["initial_lr"]), t.state.optimizer.param_groups
    l2 = max(float(group.get("weight_decay", 0.0)) for group in groups)
    return t.state.batch / (rate * l2 * t.examples) if rate * l2 > 0 else math.inf


def forget(t: Training, epochs: float) -> str:
    """Raise an open weight decay so that the weights are an average over so many epochs, and over ten steps at least.
    Returns so in words, or ""."""
    epochs = max(epochs, 10 * t.state.batch / t.examples)
    now, groups = remembered(t), t.state.optimizer.param_groups
    is_open = t.plan.choices["l2"].status == "default" and decoupled(t.state.optimizer, groups[0])
    if not is_open or not epochs < now < math.inf:
        return ""
    before = max(float(group.get("weight_decay", 0.0)) for group in groups)
    set_decay(t.state.optimizer, before * now / epochs)
    return f"a weight decay of {before * now / epochs:.3g} instead of {before:.3g}"


def decay_more(t: Training) -> str | None:
    """Where a run learns noise by heart, and does not begin again, go back to the best weights and on with an open
    weight decay by which weights are an average over SHORTER: what they hold of single rows is washed out of them, and
    what they learned of them since is not in them. Returns so in words, or None."""
    best = t.state.best
    if (
        best is None
        or t.training_step is not None
        or lags(t, t.state.position - t.state.restarted)
        or not by_heart(t, best.row["valid_loss"], looks_after(t, best.row))
        or not noisy(t)
    ):
        return None
    shorter = forget(t, SHORTER) if remembered(t) > MEMORY + SHORTER else ""
    if not shorter:
        return None
    go_back(t, best.weights)
    lowest = f"{best.row['valid_loss']:.4g} at step {best.row['step']:,}"
    return f"rows are learned by heart ({lowest}): back to the weights of then, with {shorter}"


def looks_after(t: Training, row: Row) -> list[Row]:
    """The evaluations after that of a row, and after the run began again."""
    after = max(row["position"], t.state.restarted)
    return [r for r in t.state.history if "valid_loss" in r and r["position"] > after]


def by_heart(t: Training, lowest: float, after: list[Row]) -> bool:
    """Whether the latest BY_HEART looks are worse than the lowest, and their training loss is lower than that. A loss
    that is not finite is of another kind: what holds rows by heart still has one."""
    last = after[-BY_HEART:]
    lower = sum(row.get("train_loss", math.inf) - lowest for row in last) < 0
    told = len(last) == BY_HEART and all(math.isfinite(row["valid_loss"]) for row in last)
    return lower and told and worse(t, lowest, last)


def worse(t: Training, lowest: float, looks: list[Row]) -> bool:
    """Whether all these looks are clearly worse than the lowest held-out loss."""
    return all(
        not row["valid_loss"] <= lowest + NEAR * abs(lowest)
        and not (few_held(t) and row.get("behind", math.inf) <= TELLS)
        for row in looks
    )


def rises(t: Training, best: Row) -> str:
    """Why the run should begin again at a smaller rate; empty: it should not. While hardly a row was trained on twice,
    all looks since the best one, which is of the beginning, are clearly worse: it is the rate. Later the latest ones
    are, while half of the plan is left, and the training loss is lower: rows are learned by heart, once."""
    s, looks = t.state, [row for row in t.state.history if "valid_loss" in row]
    if s.first is not None and not s.restarted and s.position > EARLY * (t.planned or 0):
        s.first = None
    from_row = looks[0] if s.restarted and s.first is not None else best
    since, lowest = s.position - s.restarted, from_row["valid_loss"]
    if since < SETTLED * s.batch or not math.isfinite(lowest):
        return ""
    after = looks_after(t, from_row)
    if since > max(t.examples, min(2 * SETTLED * s.batch, MOST_EPOCHS * t.examples)) + s.batch:
        may = s.first is not None and not s.restarted and not lags(t, since)
        return LEARNED if may and by_heart(t, lowest, after) and not too_far(t, looks, lowest) else ""
    return RISEN if len(after) >= RISES and worse(t, lowest, after) else ""


def lags(t: Training, since: int) -> bool:
    """Whether the average is still of the beginning, though rows were seen many times: of large batches."""
    return AVERAGED * t.state.batch > max(since, 10 * t.examples)


def too_far(t: Training, looks: list[Row], lowest: float) -> bool:
    """Whether a second beginning could not come near: on a way as long as is left at the smaller rate (the sum of the
    rates: a step of Adam is as long as its rate) the first one's loss never was below FAR times its lowest."""
    left = way(t, t.state.position, t.planned or 0) / LESS
    there = next((k for k, row in enumerate(looks) if way(t, 0, row["position"]) >= left), len(looks))
    return all(row["valid_loss"] > FAR * abs(lowest) for row in looks[: there + 1])


def way(t: Training, start: int, end: int) -> float:
    """The sum of the schedule's factors from one position to another, in steps of a row."""
    at = [start + (end - start) * k // 64 for k in range(64)]
    return (end - start) / 64 * sum(t.schedule(Progress(p, p // t.state.batch, t.examples, 0.0, t.planned)) for p in at)


def may_restart(t: Training) -> bool:
    """Whether a held-out loss that rises from the first looks on may lower the rate, which nobody asked for."""
    is_open = t.plan.choices["lr"].status in RATE_IS_OPEN and t.training_step is None
    return is_open and open_looks(t) and not averages_itself(t.state.optimizer)


def may_begin_again(t: Training) -> bool:
    """Whether the first weights are kept, to begin again from: all is open, and looks are at an average."""
    open_rate, open_end = t.plan.choices["lr"].status in RATE_IS_OPEN, t.plan.choices["until"].status == "default"
    return open_rate and open_end and t.state.average is not None


def open_looks(t: Training) -> bool:
    """Whether there are held-out rows, and when they are looked at was left open: then early, too."""
    choice = t.plan.choices.get("evaluate_every")
    return t.valid is not None and choice is not None and choice.status == "default"


def few_held(t: Training) -> bool:
    return t.valid is not None and len(t.valid.source) <= FEW_HELD


def telling(losses: Tensor) -> float:
    """How many rows a mean loss is made of: so many that lose alike would spread it as much (Kish 1965).

    >>> telling(torch.tensor([0.2, 0.2, 0.2, 0.2])), round(telling(torch.tensor([0.0, 0.01, 5.0, 0.0])), 2)
    (4.0, 1.0)
    """
    return float(losses.abs().sum() ** 2 / losses.square().sum().clamp_min(1e-300))
