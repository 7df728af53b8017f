"""From what the user gave to a Training ready to run: choices made with their reasons, mistakes reported early."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from handful.base.errors import HandfulError
from handful.base.keys import IN_TURN, drawing
from handful.base.machine import give_back
from handful.base.plan import CHANGEABLE, COMPUTED, Choice, Plan, Progress
from handful.batches.batches import Batches
from handful.models.wrapped import must_be_model, uncompiled
from handful.optim import schedule
from handful.optim.initial_lr import calmer_by_depth
from handful.optim.parts import may_train, needs_closure
from handful.optim.rates import set_base
from handful.plan import defaults as choose
from handful.plan.asked import must_read
from handful.plan.balance import calmer, evenness
from handful.plan.config import Config
from handful.plan.data import Data, make_batches, open_data, validation_batches
from handful.plan.defaults import Chooser
from handful.plan.dry_run import with_graph
from handful.plan.model import as_given, choose_form, make_model, make_objective, show_rows, start_from
from handful.plan.probe.batch_growth import Grower, as_growth
from handful.plan.probe.decide import batch_cap, decide, not_by_ranks, stated_times
from handful.plan.probe.decision import Decision
from handful.plan.probe.memory import FEW_ROWS, in_parts
from handful.plan.probe.step_time import Throughput, choose_threads, fit_times, measure_precision
from handful.plan.row_by_row import of_pairs, put_together, read_again, rows_at_once, uneven
from handful.report.live import Live
from handful.training.objective import Objective
from handful.training.process.device import autocast, choose_device, needs_float64, using_threads
from handful.training.process.exchange import same_start
from handful.training.process.parallel import ALONE, Ranks
from handful.training.special.one_copy import one_copy
from handful.training.special.own_step import moved_by_name
from handful.training.state import State
from handful.training.training import RATE_IS_OPEN, Training
from handful.training.watch import stop
from handful.training.watch.folder import RunFolder
from handful.training.watch.observe import look
from handful.training.watch.record import UNEVEN, every_tensor, moment, noted
from handful.training.watch.restart import open_looks
from handful.training.watch.weights import copy_weights, marks


def assemble(
    model: str | nn.Module | None,
    train: object,
    given: Mapping[str, object],
    *,
    out: str | Path | None = None,
    resuming: Plan | None = None,
    measure: bool | Throughput = True,
    ranks: Ranks = ALONE,
    callbacks: Sequence[object] = (),
) -> Training:
    """Make every choice that the user left open and build the Training; the winner's steps of a race are taken.

    measure: whether open choices are measured, or stand in; step times may be given. callbacks: what may change data.
    resuming: the plan of a run to go on with: its choices are taken over, and `given` holds only what replaces them.
    """
    asked = given
    if resuming is not None:
        model, train, given = as_planned(model, train, given, resuming)
    chooser = Chooser()
    plainly: AbstractContextManager[None] = nullcontext()
    if not isinstance(model, str):
        model = as_given(must_be_model(model), chooser)
        plainly = uncompiled(model)
    options = Config.of(given)
    must_read(asked)
    if options.training_step is not None:
        options = choose.of_own_step(options)
    folder = RunFolder(Path(out)) if out is not None else None
    if folder and resuming is None and ranks.rank == 0:
        folder.claim(overwrite=options.overwrite)
    try:
        with plainly:
            t = _assemble(model, train, options, chooser, folder, resuming, measure, ranks, callbacks)
        if resuming is not None:
            t.plan = as_changed(resuming, t.plan.choices, asked)
        return t
    except BaseException as error:
        if folder:
            folder.release()
        if resuming is not None and isinstance(error, HandfulError) and (fixed := resuming.unlike(asked)):
            raise resuming.stays(fixed[0]) from error
        raise


def _assemble(
    model: str | nn.Module, train: object, options: Config, chooser: Chooser, folder: RunFolder | None,
    resuming: Plan | None, measure: bool | Throughput, ranks: Ranks, callbacks: Sequence[object],
) -> Training:  # fmt: skip
    saved = folder if resuming is not None else None
    data = drawing("data", options.seed)(open_data)(
        train, options, chooser, model, saved, alone=folder is None and ranks.size == 1
    )
    read_again(data, callbacks, chooser)
    put_together(data, chooser)
    device = ranks.place(chooser.put("device", choose_device(options.device, needs_float64(model, options.precision))))
    net = make_model(model, data, options, chooser, device, saved).to(device)
    objective = drawing("data", options.seed)(make_objective)(net, data, options, chooser, device)
    if resuming is None:
        show_rows(net, objective, data, options.seed)
        if options.init is not None:
            start_from(net, options.init, data.pipeline, chooser)
    batches, size = make_batches(data, options, chooser, device)
    options = choose.ridge(options, objective, data.pipeline, data.train, chooser)
    if options.sharding:
        choose.sharding(options.sharding, objective, ranks, chooser)
    t = make_training(data, objective, batches, size, options, chooser, ranks, folder)
    give_back()
    if ranks.size > 1:
        same_start(ranks, t.plan, t.objective.model, t.state.step, (t.state.average or {}).values())
        chooser.notes += one_copy(ranks, data.source, [batches, t.valid])
    if t.training_step is not None:
        measure, t.moved = False, moved_by_name(t, options.optimizer if isinstance(options.optimizer, Mapping) else ())
    elif chooser.choices["micro_batch"].status == "default" and t.state.batch > FEW_ROWS and (parts := in_parts(t)):
        t.state.micro_batch = chooser.put("micro_batch", parts)
    found = Decision()
    if measure and resuming is None:
        found = decide_open(t, options, chooser, None if isinstance(measure, bool) else measure, own=data.own_model)
    settle(t, options, found, chooser)
    if resuming is not None:
        return t
    if ranks.size > 1:
        same_start(ranks, t.plan, t.objective.model, t.state.step, (t.state.average or {}).values())
    begin(t, found)
    return t


def decide_open(t: Training, options: Config, chooser: Chooser, times: Throughput | None, *, own: bool) -> Decision:
    """Measure what was left open: precision, threads, batch and learning rate. times: step times, given instead of
    measured; own: the model is the caller's."""
    open_batch, open_lr = (chooser.choices[name].status == "default" for name in ("batch", "lr"))
    lower = t.objective.device.type == "cpu" and getattr(t.objective.model, "low_precision", False)
    open_precision = lower and chooser.choices["precision"].status == "default"
    open_threads = options.threads == "auto"
    if t.ranks.size > 1 or needs_closure(t.state.optimizer):  # what is measured are steps of one evaluation
        open_precision = open_threads = False
    if t.ranks.size > 1 and (open_batch or open_lr) and (why := not_by_ranks(t)):
        chooser.notes.append(why)
        return Decision()
    if options.deterministic:
        open_precision = open_threads = False
        times = stated_times(t)
    elif times is None and not isinstance(options.step_times, str):
        times = fit_times({int(size): [float(seconds)] for size, seconds in options.step_times.items()})
    open_choices = {"precision": open_precision, "threads": open_threads, "batch": open_batch, "lr": open_lr}
    if not any(open_choices.values()):
        return Decision()
    t.live.note(f"measuring: {', '.join(name for name, is_open in open_choices.items() if is_open)}")
    if open_precision:
        t.objective.autocast = autocast(str(chooser.put("precision", measure_precision(t))))
    if open_threads:
        measure_threads(t, chooser, own=own)
    if not (open_batch or open_lr):
        return Decision()
    with IN_TURN, using_threads(chooser.choices["threads"].value):
        if options.evaluate_every == "auto" and t.valid is not None:
            t.state.history.append(look(t, moment(t)))
        return decide(t, batch=open_batch, lr=open_lr, throughput=times, weigh=True,
                      open_length=options.until in ("auto", None), stay=True)  # fmt: skip


def measure_threads(t: Training, chooser: Chooser, *, own: bool) -> None:
    """The CPU threads of a step. Their number can change the last bits of a sum, so that the caller's own model, which
    may be compared with the caller's own loop, keeps torch's setting, with a note if another would be much faster."""
    measured = choose_threads(t)
    if own and measured.value != torch.get_num_threads():
        chooser.notes.append(f"{measured.reason}; threads={measured.value} would be faster")
        chooser.set("threads", torch.get_num_threads(), "default", "torch's own setting")
    else:
        chooser.put("threads", measured)


def settle(t: Training, options: Config, found: Decision, chooser: Chooser) -> None:
    """Put what was measured into the Training, and what follows from its batch; then the plan is whole."""
    state, n = t.state, t.examples
    if found.throughput is not None and found.throughput.tested:
        times = {str(n): s for n, s in zip(found.throughput.sizes, found.throughput.seconds, strict=True)}
        chooser.set("step_times", times, "measured", "seconds by batch size; given again, they decide the same")
    for name, choice in (("batch", found.batch), ("lr", found.lr)):
        if choice is not None:
            chooser.put(name, choice)
    if found.lr is not None:
        set_base(state.optimizer, float(found.lr.value))
    if found.micro_batch is not None and chooser.choices["micro_batch"].value is None:
        chooser.put("micro_batch", found.micro_batch)
    state.batch, state.micro_batch = chooser.choices["batch"].value, chooser.choices["micro_batch"].value
    state.seconds, state.probing_cost = found.seconds, [found.steps, found.examples]
    chooser.notes += found.notes
    t.planned = t.rule.limit(n, state.batch)
    t.evaluate_every, t.log_every, choice = choose.intervals(
        options.evaluate_every, n, t.planned, state.batch, open_length=options.until in ("auto", None),
        restarts=chooser.choices["lr"].status in RATE_IS_OPEN,
    )  # fmt: skip
    chooser.put("evaluate_every", choice)
    choose.decay(t, chooser)
    t.batch_size, t.grower = growing(options, found, t, chooser)
    if t.planned is not None and t.batch_size is None:  # a torch scheduler has an end of its own
        steps = max(1, -(-t.planned // state.batch))
        last = Progress((steps - 1) * state.batch, steps - 1, n, 0.0, t.planned)
        t.schedule.check(Progress(0, 0, n, 0.0, t.planned), last)
    chooser.notes += choose.over_ranks(state.batch, t.ranks, state.optimizer, t.objective)
    if t.objective.over_ranks:
        of_pairs(t)
    t.uneven = partial(uneven, t)
    apart = (state.micro_batch is not None and state.micro_batch < state.batch) or t.ranks.size > 1
    if apart and (why := t.uneven(state.micro_batch or n)):
        chooser.notes.append(f"{why}: {UNEVEN}")
    choose_form(t, options, chooser)
    t.plan = Plan(chooser.choices, tuple(chooser.notes))


def begin(t: Training, found: Decision) -> None:
    """Note what the measuring cost; look at the held-out rows after the first steps, which were taken meanwhile; write
    down what the run begins with."""
    if found.steps or found.races:
        share = f" ({found.examples / t.planned:.1%} of the run)" if t.planned else ""
        words = f"the first {t.state.step:,} steps are those of the best trial; {found.steps:,} more on"
        t.state.history.append(noted(t, f"{words} {found.examples:,} examples{share} were spent on measuring"))
    if t.state.position and open_looks(t):
        with using_threads(t.plan.threads):
            t.state.history.append(look(t, moment(t)))
    if t.folder:
        tensors = every_tensor(t)  # of all ranks together, where the model is sharded
        if t.ranks.rank == 0:
            first = found.beginning if found.trail else None
            t.folder.start(t.plan, t.pipeline, t.state.model, t.state, tensors, first)


def as_planned(
    model: str | nn.Module | None, train: object, given: Mapping[str, object], plan: Plan
) -> tuple[str | nn.Module, object, Mapping[str, object]]:
    """The arguments that make the planned run again. HandfulError where only the caller can supply one."""
    names = {f.name for f in fields(Config)} - {"device", "overwrite", "profile", "quiet"}
    if not plan.choices["optimizer"].reproducible:  # what was read off it is set where it is made
        names -= {name for name in ("lr", "l2") if plan.choices[name].status == "found"}
    planned = {k: c.value for k, c in plan.choices.items() if k in names}
    for name, value in planned.items():
        if not plan.choices[name].reproducible and name not in given:
            raise HandfulError(f"this run used {value} as its {name}; pass it again: handful.resume(path, {name}=...)")
    if train is None:
        train = plan.data
        if not plan.choices["data"].reproducible:
            raise HandfulError(f"this run was trained on {train}; pass them again with train=...")
    if isinstance(model, str) and model not in ("auto", plan.model):
        raise HandfulError(f"this run trained {plan.model}, not {model}; start a new run for that")
    if model is None or isinstance(model, str):
        model = plan.model
        if not plan.choices["model"].reproducible:
            raise HandfulError(f"this run trained {model}; pass it again: handful.resume(path, model=...)")
    return model, train, {**planned, **{k: v for k, v in given.items() if not is_open(v)}}


def is_open(value: object) -> bool:
    """Whether an option leaves its value to be chosen; a run that goes on has chosen it."""
    return isinstance(value, str) and value == "auto"


def as_changed(plan: Plan, now: Mapping[str, Choice], given: Mapping[str, object]) -> Plan:
    """The plan of a run that goes on, with the caller's changes. HandfulError for what makes it another run."""
    if plan.fingerprint != now["fingerprint"].value:
        rows = int(now["rows"].value)
        differ = "other values in them" if rows == plan.rows else f"{plan.rows:,} rows then, {rows:,} now"
        raise HandfulError(
            f"the data in {now['data'].value} are not those this run was trained on ({differ}); put them back to resume"
        )
    missing = Choice(None, "given")
    changed = {name: now.get(name, missing) for name, value in given.items() if not is_open(value)}
    changed = {k: c for k, c in changed.items() if c.value != plan.choices.get(k, missing).value}
    fixed = [name for name in changed if name not in CHANGEABLE]
    if fixed:
        raise plan.stays(fixed[0])
    words = [f"{name} {plan.choices.get(name, missing).value} -> {choice.value}" for name, choice in changed.items()]
    notes = [f"changed when the run went on: {', '.join(words)}"] if words else []
    return Plan({**now, **plan.choices, **changed}, (*plan.notes, *notes))


def adopt(t: Training, before: Plan) -> None:
    """Let what the plan of a run that goes on has changed act on its state, which was restored. Raises HandfulError
    where no step follows: a change would be told and do nothing."""
    state, choices, ended = t.state, t.plan.choices, t.rule(t.progress())
    names = sorted(name for name in CHANGEABLE if choices.get(name) != before.choices.get(name))
    if ended and (idle := [name for name in names if name not in COMPUTED]):
        at = f"step {state.step:,}, epoch {t.progress().epoch:.4g}"
        past = f"until='{t.rule}' lies behind the run, which stands at {at}: give a later one ({ended})"
        ends = f"{idle[0]} would change nothing: the run has ended ({ended}); give a later until=... too"
        raise HandfulError(past if "until" in names else ends)
    if "lr" in names:
        set_base(state.optimizer, choices["lr"].value)
    if "batch" in names:
        state.batch = int(choices["batch"].value)
    if "micro_batch" in names:
        state.micro_batch = choices["micro_batch"].value
    t.saved_at = state.seconds
    if names:
        state.history.append(noted(t, t.plan.notes[-1]))


def make_training(
    data: Data, objective: Objective, batches: Batches, size: int | None, options: Config, chooser: Chooser,
    ranks: Ranks, folder: RunFolder | None,
) -> Training:  # fmt: skip
    """Optimizer, rates and stop rule; then all parts together; what is open has a provisional value: see `settle`."""
    net, loss, objective.source = objective.model, options.loss, data.train
    choose.what_is_fixed(options, chooser)
    calming = [calmer(data.pipeline, data.counts)]
    if options.lr == "auto" and options.training_step is None:
        calming.append(calmer_by_depth(net, partial(with_graph, objective, data)))
    optimizer = choose.optimizer(options, net, chooser, ranks.size, calming)
    size = size or choose.first_batch(optimizer, len(data.train), batch_cap(len(data.train)), chooser)
    micro = rows_at_once(options, objective, chooser)
    rule, shape, planned = make_rules(data, objective, optimizer, size, options, chooser)
    averaged = choose.ema(options, net, optimizer, rows=len(data.train) if data.held_out is not None else None)
    ema, average = (chooser.put("ema", averaged), copy_weights(net)) if averaged else (0.0, None)
    return Training(
        plan=Plan(chooser.choices, tuple(chooser.notes)),
        pipeline=data.pipeline,
        objective=objective,
        rows=data.train,
        batches=batches,
        valid=validation_batches(data, chooser),
        state=State(net, optimizer, micro_batch=micro, batch=size, average=average, loss=loss, beside=marks(net, loss)),
        rule=rule,
        schedule=shape,
        live=Live(None, quiet=options.quiet or ranks.rank > 0, verbose=options.verbose),
        planned=planned,
        l1=float(options.l1),
        clip_norm=options.clip_norm,
        clip_value=options.clip_value,
        ema=ema,
        save_every=None if options.save_every == "auto" else options.save_every,
        ranks=ranks,
        folder=folder,
        held_out=data.held_out,
        evenness=evenness(data.pipeline, data.counts),
        parameters=may_train(net, optimizer),
        training_step=options.training_step,
    )


def make_rules(
    data: Data, objective: Objective, optimizer: Optimizer, size: int, options: Config, chooser: Chooser
) -> tuple[stop.Rule, schedule.Schedule, int | None]:
    """The score, the stop rule, the schedule, and the planned examples."""
    n, held = len(data.train), None if data.held_out is None else len(data.held_out)
    choice, better = choose.score(options.score, options.better, data.pipeline, objective.metrics, held)
    score = chooser.put("score", choice)
    if better != "auto":
        chooser.set("better", better, "found" if options.better == "auto" else "given")
    rule = choose.until(options.until, n, held or 0, score, better, objective, data.pipeline, optimizer, chooser)
    planned = rule.limit(n, size)
    shape = choose.schedule_of(options, planned, optimizer, chooser)
    choose.check_rules(
        rule, shape, objective, held is not None, Progress(0, 0, n, 0.0, planned), own=options.training_step is not None
    )
    return rule, shape, planned


def growing(
    options: Config, found: Decision, t: Training, chooser: Chooser
) -> tuple[Callable[[Progress], int] | None, Callable[[Training], str | None] | None]:
    """How the batch grows: by a function of progress (grown by hand), or by measurement; (None, None): it does not."""
    base, n = t.state.batch, t.examples
    spec = options.batch if choose.grows(options.batch) else options.batch_growth
    if spec == "auto" and found.growth is not None:
        spec = chooser.put("batch_growth", found.growth)
    elif spec not in ("auto", None):
        chooser.set("batch_growth", str(spec), "given")
    if spec in ("auto", None):
        by_hand = t.schedule
        return (lambda progress: min(n, by_hand.batch(progress, base))) if by_hand.grows else None, None
    if choose.grows(spec):
        asked = schedule.as_schedule(spec)
        return lambda progress: min(n, asked.batch(progress, base)), None
    if t.ranks.size > 1 or t.training_step is not None:
        which = "several ranks" if t.ranks.size > 1 else "a training_step of your own"
        chooser.notes.append(f"with {which} a batch grows by grow_batch(every=...) and not by measurement: it stays")
        return None, None
    return None, Grower(as_growth(spec)).consider
