"""The choices a user may leave open: each function looks at what there is and returns a Choice with its reason."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from handful.base.errors import HandfulError, did_you_mean, whole
from handful.base.machine import cores
from handful.base.plan import Choice, Progress, Status
from handful.base.score import Better, has_direction, lower_is_better
from handful.base.stopwatch import elapsed
from handful.data.base import Source
from handful.losses import metric
from handful.models.base import Model
from handful.models.plain import Linear
from handful.optim import schedule
from handful.optim.build import ADAMW_L2
from handful.optim.build import build as build_optimizer
from handful.optim.initial_lr import ADAPTIVE, USUAL_BATCH, fans_in, times_the_epochs
from handful.optim.parts import averages_itself, compares_losses, needs_closure, parts_of
from handful.optim.rates import set_base, set_decay
from handful.plan.config import OPTIONS, Config
from handful.report.words import say_seconds
from handful.training.objective import Objective
from handful.training.process.parallel import Ranks
from handful.training.process.sharding import Sharding, check_steps
from handful.training.special.coupling import by_rank
from handful.training.special.exact import all_rows
from handful.training.training import RATE_IS_OPEN, Training
from handful.training.watch import stop
from handful.training.watch.headway import is_usual
from handful.training.watch.observe import NEARER
from handful.training.watch.restart import FEW_HELD
from handful.transform.pipeline import Pipeline
from handful.transform.steps.statistics import leave_one_out

FEW_ROWS = 50_000  # so few are soon learned by heart: they are looked at more often, and weights are averaged
EMA = 0.99
RIDGE_ROWS = 1000  # so many at most: what is left out of them, row by row, tells the penalty of a single layer
RIDGE = "adam(decoupled_weight_decay=False)"  # by what is added to a gradient, its minimum is ridge regression's
LEAST_LEARNED = 20_000  # examples that a single layer is planned to see: Adam needs thousands of steps for it
REMEMBERED, STRONGEST = 16, 0.3  # epochs at least that a weight is an average over; the weight decay at most for that
BEFORE = 0.2  # of the time that a stop rule gives: as long a wait before it is said
MOMENTS = 200  # rows of the history of a run, besides evaluations: each costs as much as a small step,
APART, FEWER = 8, 50  # so that they are so many steps apart where there are still so many


@dataclass(eq=False)
class Chooser:
    """Collects the choices of a run as they are made."""

    choices: dict[str, Choice] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def put(self, name: str, choice: Choice) -> Any:
        """Record a choice; returns its value."""
        self.choices[name] = choice
        return choice.value

    def set(self, name: str, value: object, status: Status, reason: str = "") -> Any:
        """Record a choice that is made of these; returns its value."""
        return self.put(name, Choice(value, status, reason))


def describe(value: object, status: Status, reason: str = "") -> Choice:
    """The value as a plan can hold it: itself if it is plain, else an object of the caller's own."""
    if value is None or isinstance(value, bool | int | float | str):
        return Choice(value, status, reason)
    if isinstance(value, list | tuple) and all(isinstance(v, bool | int | float | str) for v in value):
        return Choice(list(value), status, reason)
    if isinstance(value, Mapping) and all(isinstance(v, str) for v in value.values()):
        return Choice(dict(value), status, reason)
    return Choice.own(getattr(value, "__name__", None) or type(value).__name__, status, reason)


def grows(asked: object) -> TypeGuard[schedule.grow_batch | str]:
    """Whether `batch` is schedule.grow_batch(...) or its text: then what it grows from is to be chosen."""
    by_text = isinstance(asked, str) and asked.lstrip().startswith("grow_batch")
    return by_text or isinstance(asked, schedule.grow_batch)


def what_is_fixed(options: Config, chooser: Chooser) -> None:
    """What nothing is measured for; the threads may be still."""
    for name in ("deterministic", "profile", "clip_norm", "clip_value", "save_every", "on_nonfinite"):
        if getattr(options, name) != OPTIONS[name].default:
            chooser.set(name, getattr(options, name), "given")
    if options.threads == "auto":
        chooser.set("threads", torch.get_num_threads(), "default", "torch's own setting")
        return
    more = f"more than the {cores()} cores that this process may use" if options.threads > cores() else ""
    chooser.set("threads", options.threads, "given", more)
    chooser.notes += [f"threads={options.threads} is {more}."] * bool(more)


def batch_size(asked: object, n: int) -> Choice | None:
    """The examples per update that were asked for; None if it is to be chosen by measurement."""
    if asked == "auto" or grows(asked):
        return None
    if asked == "full":
        return Choice(n, "given", "batch gradient descent: every row in every step")
    if isinstance(asked, str) and not asked.isdecimal():
        raise HandfulError(f"batch must be a whole number, 'full', 'auto' or 'grow_batch(every=10)', not {asked!r}")
    size = whole("batch", int(asked) if isinstance(asked, str) else asked, least=1)
    if size > n:
        raise HandfulError(
            f"a batch of {size:,} is larger than the training data ({n:,} rows); use 'full', or at most {n:,}"
        )
    return Choice(size, "given", "stochastic gradient descent: one row per step" if size == 1 else "")


def in_words(value: object, parse: Callable[[str], object], status: Status, reason: str = "") -> Choice:
    """An object as the text that `parse` makes it from again, or, where it has none, as one of the caller's own."""
    try:
        parse(str(value))
    except HandfulError:
        return describe(value, status, reason)
    return Choice(str(value), status, reason)


def sharding(asked: str, objective: Objective, ranks: Ranks, chooser: Chooser) -> None:
    """Let each rank hold its part of the model from here on, before there is an optimizer."""
    chooser.set("sharding", asked, "given")
    if ranks.size == 1:
        chooser.notes.append("sharding='fsdp' shares a model out among several ranks, and there is one")
        return
    ranks.sharding = Sharding(ranks, objective.model, objective.device)
    objective.put(ranks.sharding.model)


def over_ranks(batch: int, ranks: Ranks, optimizer: Optimizer, objective: Objective) -> list[str]:
    """Have several ranks compute a loss that compares rows together. Returns what is otherwise than in one process, in
    sentences. HandfulError for what they cannot do, or those that share a model out."""
    if ranks.size == 1:
        return []
    if objective.device.type == "cpu" and any(type(m) is nn.SyncBatchNorm for m in objective.model.modules()):
        raise HandfulError(
            "torch.nn.SyncBatchNorm works between GPUs only: on CPUs give nn.BatchNorm1d, 2d or 3d, by which each rank "
            "normalises over its own share"
        )
    objective.coupling = ranks.told(objective.coupling or "") or None
    together = objective.coupling is not None and objective.by_outputs
    if batch < ranks.size and (ranks.sharding or together):
        why = "a loss that compares rows" if together else "sharding='fsdp'"
        raise HandfulError(
            f"a batch of {batch} has no row for each of {ranks.size} ranks, which {why} needs: give a larger batch"
        )
    if together:
        objective.together(partial(all_rows, model=objective.model, ranks=ranks))
    for part in parts_of(optimizer) if ranks.sharding else ():
        check_steps(part, objective.device)
    return by_rank(objective.model)


def of_own_step(options: Config) -> Config:
    """The options of a run with a training_step: nothing is held out where no loss is given to score it by."""
    if options.loss not in (None, "auto"):
        return options
    if options.valid not in (None, 0, 0.1, "auto"):
        raise HandfulError(
            "held-out rows are scored by loss=, a loss of the model's output, which training_step does not tell: give "
            "one, or valid=None"
        )
    return replace(options, valid=None)


def ridge(options: Config, objective: Objective, pipeline: Pipeline, train: Source, chooser: Chooser) -> Config:
    """The options, with the penalty of ridge regression for a single layer that learns a number by its squared error
    from few rows, where optimizer and penalty were left open."""
    net, open_ones = objective.model, (options.optimizer, options.l2, options.weight) == ("adamw", "auto", None)
    if not (isinstance(net, Linear) and open_ones and 3 <= len(train) <= RIDGE_ROWS and not net.config["dropout"]):
        return options
    if pipeline.task != "regression" or chooser.choices["loss"].value != "mse":
        return options
    batch = objective.to_device(pipeline(train.take(range(len(train)))))
    x = {name: batch.tensor(name) for name in ("x", "numbers", "categories") if name in batch.columns}
    with torch.no_grad():
        penalty, _ = leave_one_out(net.features(**x).cpu(), batch.tensor("y").reshape(len(train), -1).cpu())
    why = f"ridge regression's: left out one by one, the {len(train):,} rows are missed by least with it"
    chooser.set("l2", float(f"{2 * penalty / len(train):.3g}"), "found", why)
    chooser.set("optimizer", RIDGE, "found", "adds the penalty to the gradient, as ridge regression does")
    return replace(options, optimizer=RIDGE, l2=chooser.choices["l2"].value)


def optimizer(
    options: Config, net: nn.Module, chooser: Chooser, ranks: int, calmer: Sequence[tuple[float, str]] = ()
) -> Optimizer:
    """The optimizer with its learning rate and penalties. calmer: by what its open rate is multiplied, and why."""
    patterns = {} if options.schedule == "cosine" else schedule.as_schedule(options.schedule).patterns
    built = build_optimizer(options.optimizer, net, lr=options.lr, l2=options.l2, schedules=patterns)
    if "optimizer" not in chooser.choices:
        chooser.put("optimizer", describe(options.optimizer, "default" if options.optimizer == "adamw" else "given"))
        chooser.put("l2", built.l2)
    lr = built.lr
    for factor, why in calmer:
        if factor < 1 and lr.status == "default" and built.name in ADAPTIVE:
            lr = Choice(float(f"{lr.value * factor:.2g}"), "default", f"{lr.reason}; times {factor:.2g}, for {why}")
            set_base(built.optimizer, lr.value)
    chooser.put("lr", lr)
    chooser.set("l1", float(options.l1), "given" if options.l1 else "default")
    chooser.notes += built.notes
    changed = next((n for n in ("l1", "clip_norm", "clip_value") if getattr(options, n)), None)
    if changed and needs_closure(built.optimizer):
        raise HandfulError(
            f"{changed} changes the gradient, and {type(built.optimizer).__name__} evaluates it again without; add the "
            "penalty to a loss of your own, or choose another optimizer"
        )
    several = type(built.optimizer).__name__ if needs_closure(built.optimizer) else "training_step"
    if ranks > 1 and (needs_closure(built.optimizer) or options.training_step is not None):
        raise HandfulError(f"{several} evaluates the loss several times in a step: train on one rank, with join=False")
    return built.optimizer


def decay(t: Training, chooser: Chooser) -> None:
    """AdamW's weight decay, where it and the rate were left open: by how many epochs a weight remembers, 1 / (lr * l2)
    steps (Wang and Aitchison 2024, arXiv:2405.13698)."""
    rate, size = chooser.choices["lr"], chooser.choices["batch"].value
    if chooser.choices["l2"] != ADAMW_L2 or not is_usual(rate):
        return
    epochs = max(REMEMBERED, round((t.planned or 0) / t.examples))
    l2 = min(STRONGEST, float(f"{size / (epochs * rate.value * t.examples):.2g}"))
    if l2 > ADAMW_L2.value:
        why = f"at this rate and batch, it makes a weight an average over {epochs} epochs (Wang and Aitchison 2024)"
        chooser.set("l2", l2, "default", why)
        set_decay(t.state.optimizer, l2)


def first_batch(optimizer: Optimizer, rows: int, cap: int, chooser: Chooser) -> int:
    """The batch where none was given: a provisional one, or that of an optimizer whose step compares losses."""
    if compares_losses(optimizer):
        why = "every row: a step compares losses of the same rows where the weights are and where they might be"
        return int(chooser.set("batch", rows, "found", why))
    if needs_closure(optimizer):
        why = "the usual: what is measured are steps of one evaluation of the loss, and the optimizer's has several"
        return int(chooser.set("batch", min(USUAL_BATCH, cap), "found", why))
    return int(chooser.set("batch", min(USUAL_BATCH, cap), "default", "not measured"))


def schedule_of(options: Config, planned: int | None, optimizer: Optimizer, chooser: Chooser) -> schedule.Schedule:
    """The schedule; the default one needs a planned end, and where the stop rule sets none, or the optimizer averages
    the weights or searches along a line instead, the rate stays."""
    asked, why = options.schedule, ""
    if asked == "cosine" and averages_itself(optimizer):
        asked, why = "constant", "the optimizer averages the weights, which takes the place of a decay"
    elif asked == "cosine" and compares_losses(optimizer):
        asked, why = "constant", "the optimizer looks for the length of each step itself"
    elif asked == "cosine" and planned is None:
        why = "the stop rule sets no length, so the decay has no end point; with epochs(...) in it: cosine"
        asked = "constant"
    shape = schedule.as_schedule(asked)
    shape.bind(None if chooser.choices["lr"].status in RATE_IS_OPEN else float(optimizer.param_groups[0]["lr"]))
    status: Status = "default" if options.schedule == "cosine" else "given"
    if shape.patterns:
        parts = {name: in_words(part, schedule.parse, status) for name, part in shape.patterns.items()}
        own = not all(part.reproducible for part in parts.values())
        texts = {name: str(part.value) for name, part in parts.items()}
        chooser.put("schedule", Choice(texts, status, why, reproducible=not own))
    else:
        chooser.put("schedule", in_words(shape, schedule.parse, status, why))
    chooser.notes += shape.notes
    return shape


def ema(options: Config, net: nn.Module, optimizer: Optimizer, *, rows: int | None) -> Choice | None:
    """The decay of the averaged weights, or None for none: of few rows whose rate is open an average smooths the noise.
    rows: to train on, None where none are held out."""
    asked, few = options.ema, rows is not None and rows <= FEW_ROWS and options.lr == "auto"
    few = few and options.training_step is None
    if averages_itself(optimizer):
        if asked not in ("auto", None):
            raise HandfulError(f"{type(optimizer).__name__} averages the weights itself; leave ema out")
        return None
    if asked != "auto":
        return None if asked is None else Choice(asked, "given")
    own = net.ema if isinstance(net, Model) else None
    if own is None and not few:
        return None
    why = "the weights' average over about 100 steps: steadier on few rows; ema=none: without"
    return Choice(own or EMA, "default", why)


def until(
    asked: str | float | stop.Rule | None, n: int, held: int, score: str, better: Better, objective: Objective,
    pipeline: Pipeline, optimizer: Optimizer, chooser: Chooser,
) -> stop.Rule:  # fmt: skip
    """The stop rule; by default a number of epochs that falls with the size of the data, and patience of a third. held:
    rows held out. A single layer on few rows is trained for longer, and so is what a small rate or a large batch that
    were asked for make slow; of a number, few held-out rows cannot tell when it is no longer learned (see `as_good`).
    Of a rule that gives a time, what came before that is said."""
    if asked is None or asked == "auto":
        usual = round(float(np.clip(15 * (10_000 / n) ** 0.25, 10, 40)))
        lr, batch, updates = chooser.choices["lr"], chooser.choices["batch"], n * usual / USUAL_BATCH
        few = n <= FEW_ROWS
        of_rate, slower = times_the_epochs(objective.model, optimizer, lr, batch, updates) if few else (1.0, 1.0)
        epochs = round(usual * slower)
        why = "fewer for more data, 10 to 40" + f", times {slower:.2g} for the rate and the batch" * (slower > 1)
        if len(fans_in(objective.model)) == 1 and LEAST_LEARNED // n > epochs:
            epochs, why = LEAST_LEARNED // n, f"{LEAST_LEARNED:,} examples for a single layer"
        rule: stop.Rule = stop.epochs(epochs)
        reason = f"{epochs} epochs of {n:,} rows: {why}"
        if pipeline.task == "regression" and n <= 10 * FEW_HELD and 0 < held <= FEW_HELD:
            reason += f"; {held} held-out rows are too few to tell that it should stop sooner"
        elif held:
            patience = max(5, round(usual * slower / of_rate / 3 / look_every(n)))
            # An accuracy over few rows stands still while the loss still falls; an overfitting net's loss rises while
            # its accuracy still climbs. Only when neither moves is there nothing to wait for.
            watched: dict[str, Better] = {"valid_loss": "auto", score: better}
            still = [stop.plateau(patience, score=name, better=way) for name, way in watched.items()]
            rule |= still[0] if len(still) == 1 else still[0] & still[1]
            has = "has" if len(watched) == 1 else "have"
            reason += f"; or sooner, when {' and '.join(watched)} {has} not improved for {patience} evaluations"
        chooser.set("until", str(rule), "default", reason)
        return rule
    rule = stop.as_rule(asked)
    chooser.put("until", in_words(rule, stop.parse, "given"))
    if (given := rule.time()) and (before := elapsed()) > BEFORE * given:
        chooser.notes.append(f"to read and prepare the data took {say_seconds(before)} before the time of {rule} began")
    return rule


def score(
    asked: str, better: Better, pipeline: Pipeline, metrics: list[metric.Metric], held: int | None
) -> tuple[Choice, Better]:
    """The score that says which weights are best, and which way it is better ("auto": as its name says). held: rows
    held out; None: none."""
    if held is None:
        return Choice("train_loss", "found", "nothing is held out: the last weights are kept"), "auto"
    known: dict[str, Better] = {"valid_loss": "auto", **{f"valid_{m.name}": m.better for m in metrics}}
    chosen = Choice(asked, "given")
    if asked == "auto":
        chosen = Choice("valid_loss", "default", "")
        if pipeline.task in ("classification", "multilabel", "sequence") and metrics:
            name = list(known)[1]
            few = f" ({held} rows: the mean of a look's and of those of the two before)" if held <= FEW_HELD else ""
            why = (
                "the first metric, where it differs by more than two standard errors and valid_loss is within 5% of "
                f"the lowest; else valid_loss{few}; score='{name}' keeps by it alone"
            )
            chosen = Choice(name, "default", why)
    elif asked not in known:
        raise HandfulError(f"there is no score called '{asked}'.{did_you_mean(asked, known)}")
    name = chosen.value
    way = known[name] if better == "auto" else better
    if chosen.status == "default" and not has_direction(name, way):
        why = f"whether {name} is better when higher or lower is not known; score='{name}', better='higher' takes it"
        return Choice("valid_loss", "default", why), "auto"
    lower = lower_is_better(name, way)
    if (name == "valid_loss" or name.removeprefix("valid_") in pipeline.metrics) and lower != lower_is_better(name):
        raise HandfulError(f"better='{better}' would keep the worst weights by {name}: leave it out")
    return chosen, way


def look_every(n: int) -> float:
    """Epochs between evaluations where there is time for ten: half an epoch where the rows are few, else one."""
    return 0.5 if n <= FEW_ROWS else 1.0


def intervals(
    asked: float | str, n: int, planned: int | None, size: int, *, open_length: bool, restarts: bool
) -> tuple[int, int, Choice]:
    """Examples between evaluations and between logged moments. open_length: whether the stop rule is our own; the
    patience of the user's counts evaluations an epoch apart. restarts: whether the rate is ours, too."""
    if asked == "auto":
        usual = max(size, round(look_every(n) * n)) if open_length else n
        short = planned is not None and planned < 10 * usual
        every = max(size, planned // 10) if short and planned else usual
        why = "epochs; a tenth of the run" if short else "epochs"
        if open_length and planned is not None and planned > NEARER * every:
            why += f", twice as many from the {NEARER}th on, and again whenever the run is twice as long"
        why += "; and before the first step, and in the first epoch"
        why += "; where the loss rises from there on, it goes back and on at a smaller rate" if restarts else ""
        choice = Choice(every / n, "default", why)
    else:
        every = max(1, round(float(asked) * n))
        choice = Choice(every / n, "given", "epochs")
    apart = max(size, n // 50, (planned or 0) // MOMENTS, min(APART * size, (planned or 0) // FEWER))
    return every, apart if apart < every else -(-apart // every) * every, choice  # none shortly after another


def check_rules(
    rule: stop.Rule, shape: schedule.Schedule, objective: Objective, validated: bool, start: Progress, *, own: bool
) -> None:
    """Say before the first step what a stop rule or schedule would wait for in vain. own: a step of the caller's own
    logs scores by names that are not known yet."""
    metrics = [m.name for m in objective.metrics]
    known = ["train_loss", *(f"train_{m}" for m in metrics)]
    known += ["valid_loss", *(f"valid_{m}" for m in metrics)] if validated else []
    for name in sorted(rule.scores | shape.scores):
        if name.startswith("valid_") and not validated:
            raise HandfulError(f"the rule or schedule watches {name}, but no rows are held out; pass valid=0.1")
        if name not in known and not (own and name.startswith("train_")):
            raise HandfulError(
                f"the rule or schedule watches {name}, which this run does not have.{did_you_mean(name, known)}"
            )
    shape(start)
