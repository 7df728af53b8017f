"""From what the user gave to a Training ready to run: every choice made with its reason, every mistake said early."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import handful.source as sources
from handful import balance, choose, optimizer, schedule, stop
from handful import recipe as recipes
from handful.batches import Batches, Transform
from handful.choose import OWN, Chooser, describe
from handful.errors import HandfulError, did_you_mean
from handful.objective import Objective, mode_coupling
from handful.order import Order
from handful.parallel import Ranks, join
from handful.plan import Choice, Plan, Progress, Status
from handful.probe.decide import Decision, batch_cap, decide
from handful.probe.growth import Grower, as_growth
from handful.probe.precision import choose_precision
from handful.probe.threads import choose_threads, using_threads
from handful.report.live import Live
from handful.run import RunFolder
from handful.source.base import Batch, Rows, Source
from handful.state import State, copy_weights
from handful.training import Training
from handful.transform.augment import Augment, as_augment
from handful.transform.augment_default import suggest
from handful.transform.augment_geometry import Flip
from handful.transform.inputs import Table
from handful.transform.preprocess import Pipeline, fit_pipeline
from handful.transform.text import language_source

# Data that are this small after preprocessing are kept in memory so, and a step costs one gather and no arithmetic.
CACHED_BYTES = 256 << 20


@dataclass
class Options:
    """What `fit` takes. The first sixteen are its named arguments; the rest:

    target:      name of the target column, where it is not clear
    task:        "classification", "regression", "multilabel", "language", "sequence"; found from the target by default
    recipe:      "image", "text", "language", "audio" or "table": which columns to learn from; found by default
    weight:      name of a column of row weights
    score:       which held-out score decides on the best weights and on plateaus; "auto": the first metric of a
                 classification, else valid_loss
    clip_norm, clip_value: bounds of the gradient's norm and entries
    label_smoothing, class_weight: for cross-entropy; class_weight="balanced" counts every class the same
    ema:         decay a step of an average of the weights, which is then what is evaluated and kept; None: no average;
                 "auto": 0.99 for the table model
    threads:     CPU threads of a step; "auto": all, unless one is measured to be faster
    shuffle:     how `Order` draws rows: "exact", "block", "none", "replacement"
    evaluate_every: epochs between evaluations; "auto": one, or a tenth of a short run
    save_every:  steps between checkpoints; "auto": at evaluations, at most every 30 s
    overwrite:   start anew in a run folder that holds a run
    batch_growth: how a batch that was chosen may grow: "auto", None, "grow_batch(every=10)"; a plan holds growth(...)
    quiet:       print nothing
    """

    valid: Any = 0.1
    loss: Any = "auto"
    metrics: Any = "auto"
    batch: Any = "auto"
    micro_batch: Any = "auto"
    optimizer: Any = "adamw"
    lr: Any = "auto"
    schedule: Any = "cosine"
    l1: float = 0.0
    l2: Any = "auto"
    until: Any = None
    augment: Any = None
    preprocess: Any = "auto"
    precision: str = "auto"
    threads: Any = "auto"
    compile: Any = "auto"
    device: str = "auto"
    seed: int = 0
    target: str | None = None
    task: str | None = None
    recipe: str | None = None
    weight: str | None = None
    score: str = "auto"
    clip_norm: float | None = None
    clip_value: float | None = None
    label_smoothing: float = 0.0
    class_weight: Any = None
    ema: Any = "auto"
    shuffle: str = "exact"
    evaluate_every: Any = "auto"
    save_every: Any = "auto"
    batch_growth: Any = "auto"
    overwrite: bool = False
    quiet: bool = False

    @classmethod
    def of(cls, given: dict[str, Any]) -> "Options":
        """The options given by name. Raises HandfulError for an unknown one."""
        known = [f.name for f in fields(cls)]
        for name in given:
            if name not in known:
                raise HandfulError(f"there is no option '{name}'.{did_you_mean(name, known)}")
        options = cls(**given)
        options.check()
        return options

    def check(self) -> None:
        """Numbers that can be told to be wrong without looking at the data."""
        if isinstance(self.seed, bool) or not isinstance(self.seed, int | np.integer):
            raise HandfulError(f"seed must be a whole number, not {self.seed!r}")
        for name in ("l1", "clip_norm", "clip_value", "label_smoothing", "ema"):
            value = getattr(self, name)
            if value is None or (name == "ema" and value == "auto"):
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value) or value < 0:
                raise HandfulError(f"{name} must be a number of at least 0, not {value!r}")
        if self.label_smoothing >= 1 or (self.ema not in (None, "auto") and not 0 < self.ema < 1):
            raise HandfulError("label_smoothing must be in [0, 1) and ema in (0, 1)")
        if self.threads != "auto" and (not isinstance(self.threads, int) or self.threads < 1):
            raise HandfulError(f"threads must be a whole number of at least 1, or 'auto', not {self.threads!r}")
        if self.save_every != "auto" and (not isinstance(self.save_every, int) or self.save_every < 1):
            raise HandfulError(
                f"save_every must be a number of steps of at least 1, or 'auto', not {self.save_every!r}"
            )


@dataclass
class Data:
    """What is trained on, what is held out, and the fitted way from raw rows to x and y; and whether some classes are
    much rarer than others."""

    source: Source
    train: Source
    held_out: Source | None
    pipeline: Pipeline
    uneven: bool = False


def assemble(
    model: Any,
    train: Any,
    given: dict[str, Any],
    *,
    out: str | Path | None = None,
    resuming: Plan | None = None,
    measure: bool = True,
) -> Training:
    """Make every choice that the user left open and build the Training. Trains nothing.

    measure: whether open choices are measured; provisional values stand in for them if not.
    resuming: the plan of a run to go on with: its choices are taken over, and `given` holds only what replaces them.
    """
    if resuming is not None:
        model, train, given = as_planned(model, train, given, resuming)
    options = Options.of(given)
    chooser = Chooser()
    folder = RunFolder(Path(out)) if out is not None else None
    if folder and resuming is None:
        folder.claim(overwrite=options.overwrite)
    ranks = join(torch.device("cpu"))
    data = open_data(train, options, chooser, model, folder if resuming else None)
    device = torch.device(chooser.put("device", choose.device(options.device)))
    net = make_model(model, data, options, chooser, device, folder if resuming else None).to(device)
    objective = make_objective(net, data, options, chooser, device)
    batches, size = make_batches(data, options, chooser)
    valid = validation_batches(data)
    found = None
    open_lr = options.lr == "auto" and isinstance(options.optimizer, str)
    open_precision = options.precision == "auto" and device.type == "cpu" and getattr(net, "low_precision", False)
    if measure and resuming is None and (size is None or open_lr or open_precision or options.threads == "auto"):
        quiet = replace(options, compile=False, quiet=True)
        trial = make_training(data, objective, batches, valid, size, quiet, chooser.copy(), ranks, folder)
        trial.live = Live(None, quiet=options.quiet or ranks.rank > 0)
        if open_precision and ranks.size == 1:
            choice = chooser.choices["precision"] = choose_precision(trial)
            objective.autocast = choose.autocast(str(choice.value))
        threads = make_threads(trial, options, chooser, own=isinstance(model, nn.Module))
        if size is None or open_lr:
            with using_threads(threads):
                found = decide(trial, batch=size is None, lr=open_lr)
    else:
        chooser.say("threads", options.threads, "default" if options.threads == "auto" else "given")
    training = make_training(data, objective, batches, valid, size, options, chooser, ranks, folder, found)
    if resuming is not None:
        if resuming.fingerprint != chooser.choices["fingerprint"].value:
            raise HandfulError(
                f"the data in {data.source.name} are not those this run was trained on "
                f"({resuming.rows:,} rows then, {len(data.source):,} now, or other values); put them back to resume"
            )
        training.plan = Plan({**chooser.choices, **resuming.choices, "until": chooser.choices["until"]}, resuming.notes)
    elif folder and ranks.rank == 0:
        folder.start(training.plan, data.pipeline, net)
    return training


def make_threads(trial: Training, options: Options, chooser: Chooser, *, own: bool) -> int:
    """The CPU threads of a step. Their number can change the last bits of a sum, so that the caller's own model, which
    may be compared with the caller's own loop, keeps torch's setting, with a note if another would be much faster."""
    if options.threads != "auto":
        return int(chooser.say("threads", options.threads, "given"))
    measured = choose_threads(trial)
    if own and measured.value != torch.get_num_threads():
        chooser.notes.append(f"{measured.reason}; threads={measured.value} would be faster")
        return int(chooser.say("threads", torch.get_num_threads(), "default", "torch's own setting"))
    return int(chooser.put("threads", measured))


def as_planned(model: Any, train: Any, given: dict[str, Any], plan: Plan) -> tuple[Any, Any, dict[str, Any]]:
    """The arguments that make the planned run again. HandfulError where only the caller can supply one."""
    names = {f.name for f in fields(Options)} - {"device", "overwrite", "quiet"}
    planned = {k: c.value for k, c in plan.choices.items() if k in names}
    for name, value in planned.items():
        if isinstance(value, str) and value.startswith(OWN) and name not in given:
            raise HandfulError(f"this run used {value} as its {name}; pass it again: handful.resume(path, {name}=...)")
    if train is None:
        train = plan.data
        if train.startswith(OWN):
            raise HandfulError(
                "this run was trained on your own arrays; pass them again: handful.resume(path, train=...)"
            )
    if model is None:
        model = plan.model
        if model.startswith(OWN):
            raise HandfulError(f"this run trained {model}; pass it again: handful.resume(path, model=...)")
    return model, train, planned | given


def open_data(train: Any, options: Options, chooser: Chooser, model: Any, saved: "RunFolder | None") -> Data:
    """Open the data, hold out the validation rows, and fit the preprocessing on the training rows alone."""
    source = sources.open(train, target=options.target)
    chooser.say("data", source.where or OWN + source.name, "given")
    chooser.say("rows", len(source), "found")
    chooser.say("fingerprint", fingerprint(source), "found", "of the data; checked on resume")
    source = recipes.select(source, options.recipe, keep=[options.weight])
    if source.target is not None:
        chooser.say("target", source.target, "given" if options.target else "found")
    language = is_language(source, options)
    rows: Source = source
    held_out: Source | None = None
    if language and not (isinstance(options.valid, int | float) and options.valid):
        rows, _ = language_source(source, valid=0.0)
    if options.valid is None or (isinstance(options.valid, int | float) and options.valid == 0):
        chooser.say("valid", 0, "given", "nothing held out: no validation score")
    elif isinstance(options.valid, int | float):
        if language:
            rows, held_out = language_source(source, valid=float(options.valid))
        else:
            rows, held_out = sources.split(source, options.valid, seed=int(options.seed))
        assert held_out is not None
        status: Status = "default" if options.valid == 0.1 else "given"
        chooser.say("valid", options.valid, status, f"{len(held_out):,} of {len(rows) + len(held_out):,} rows held out")
    if saved is not None and not language:
        pipeline = saved.pipeline()
    else:
        matrix = isinstance(model, nn.Module) or model in ("linear", "mlp")
        pipeline = fit_pipeline(
            rows,
            steps=options.preprocess,
            own_model=isinstance(model, nn.Module),
            task=options.task,
            weight=options.weight,
            layout="matrix" if matrix else "auto",
        )
    if options.valid is not None and not isinstance(options.valid, int | float):
        columns = None if isinstance(options.valid, Source) else pipeline.trained_on
        if language:
            held_out = pipeline.windows(sources.open(options.valid))
        else:
            held_out = sources.open(options.valid, target=options.target or source.target, columns=columns)
        chooser.say("valid", held_out.where or OWN + "validation data", "given", f"{len(held_out):,} rows")
    say_recipe(pipeline, options, chooser)
    chooser.say("preprocess", describe(options.preprocess), "default" if options.preprocess == "auto" else "given")
    chooser.say("task", pipeline.task, "given" if options.task else "found")
    if options.weight:
        chooser.say("weight", options.weight, "given")
    chooser.notes += [*source.notes, *(rows.notes if language else ()), *pipeline.notes]
    if held_out is not None:
        # A bad row is better said now than after an epoch.
        pipeline.on(held_out, target=True)(held_out.take(range(min(256, len(held_out)))))
    counts = balance.count(pipeline, rows)
    chooser.notes += balance.say(pipeline, counts, options.class_weight)
    return Data(source, rows, held_out, pipeline, balance.uneven(counts))


def say_recipe(pipeline: Pipeline, options: Options, chooser: Chooser) -> None:
    """Which kind of data this is, and which columns say so."""
    asked = recipes.check(options.recipe)
    kind = "table" if isinstance(pipeline.input, Table) else pipeline.inputs.kind
    uses = pipeline.uses
    columns = ", ".join(uses[:4]) + (f" and {len(uses) - 4} more columns" if len(uses) > 4 else "")
    chooser.say("recipe", asked or recipes.found(kind), "given" if asked else "found", f"learns from {columns}")


def is_language(source: Source, options: Options) -> bool:
    """Whether the data are running text to be continued: asked for, or a text column and no target."""
    if options.task is not None or options.recipe == "language":
        return options.task == "language" or (options.task is None and options.recipe == "language")
    return source.target is None and [c.kind for c in source.columns.values()] == ["text"]


def make_model(
    model: Any, data: Data, options: Options, chooser: Chooser, device: torch.device, saved: "RunFolder | None"
) -> nn.Module:
    """The user's module as it is, or a ready-made one built for the data."""
    if isinstance(model, nn.Module):
        chooser.say("model", OWN + f"{type(model).__name__}", "given")
        return model
    from handful import model as ready_made  # only those who name one need them

    if saved is not None:
        chooser.say("model", model, "given")
        return ready_made.from_config(saved.model_config())
    if not isinstance(model, str):
        raise HandfulError(f"model must be an nn.Module or the name of a ready-made one, not {type(model).__name__}")
    p = data.pipeline
    if model == "auto":
        name, extra, reason = ready_made.choose(
            p.inputs.kind, n=len(data.train), shape=p.shape, inputs=p.inputs, task=p.task, device=device.type
        )
        chooser.say("model", name, "found", reason)
    else:
        name, extra = model, {"ctc": True} if model == "audio" and p.task == "sequence" else {}
        chooser.say("model", name, "given")
    steps = augmentation(data, options)[0] or ()
    if name in ("cnn", "resnet") and any(isinstance(step, Flip) and step.horizontal for step in steps):
        extra = {**extra, "mirror": True}
        chooser.notes.append("as training flips pictures, a prediction is the mean for a picture and its mirror image")
    return ready_made.build(
        name, kind=p.inputs.kind, shape=p.shape, outputs=p.outputs, inputs=p.inputs, seed=int(options.seed), **extra
    )


def make_objective(net: nn.Module, data: Data, options: Options, chooser: Chooser, device: torch.device) -> Objective:
    """Model + loss + metrics, tried on two rows."""
    choice, autocast = choose.precision(options.precision, str(device))
    chooser.put("precision", choice)
    if choice.value == "float64":
        net.double()
    probe = Objective(net, as_is, device=device, autocast=autocast)
    sample = probe.to_device(data.pipeline(data.train.take(range(min(2, len(data.train))))))
    output = choose.first_output(net, probe.forward, sample)
    loss, choice, notes = choose.loss(
        options.loss, output, data.pipeline, data.train, options.label_smoothing, options.class_weight
    )
    chooser.put("loss", choice)
    chooser.notes += notes
    for name in ("label_smoothing", "class_weight"):
        if getattr(options, name):
            chooser.say(name, describe(getattr(options, name)), "given")
    warning = choose.warn_of_probabilities(output, str(choice.value))
    chooser.notes += [warning] if warning else []
    metrics, choice = choose.metrics(options.metrics, data.pipeline, output, data.uneven)
    chooser.put("metrics", choice)
    scale = data.pipeline.target_scale
    objective = Objective(net, loss, metrics, device=device, autocast=autocast, scale=scale)
    choose.first_output(net, lambda batch: objective.sums(batch), sample)  # a loss or metric that fails is said now
    return objective


def as_is(output: Any, target: Any) -> Tensor:
    """No loss: for an Objective that only runs the model forward."""
    raise AssertionError("this objective is only for its forward pass")


def augmentation(data: Data, options: Options) -> tuple[Augment | None, str]:
    """The steps asked for or, for "auto", those usual for such data, with the reason."""
    if options.augment != "auto":
        return as_augment(None if options.augment == "none" else options.augment), ""
    shape = tuple(int(s) for s in data.pipeline.shape if s is not None)
    text, reason = suggest(data.pipeline.inputs.kind, shape, data.pipeline.task or "", len(data.train))
    return as_augment(text), reason


def make_batches(data: Data, options: Options, chooser: Chooser) -> tuple[Batches, int | None]:
    """Order, augmentation and batches of the training rows; and the batch size if it was given."""
    seed, n = int(options.seed), len(data.train)
    chooser.say("seed", seed, "given")
    cached = data.pipeline.cached(data.train, CACHED_BYTES)
    transforms: list[Transform] = [] if cached is not None else [data.pipeline]
    steps, reason = augmentation(data, options)
    if steps:
        source = cached or data.train

        def fetch(rows: Rows) -> Batch:
            batch = source.take(rows)
            return batch if cached is not None else data.pipeline(batch)

        transforms.append(steps.bind(seed=seed, fetch=fetch, n=n, classes=len(data.pipeline.classes or ()) or None))
    chooser.say("augment", str(steps) if steps else None, "found" if reason else "given", reason)
    chooser.say("shuffle", options.shuffle, "default" if options.shuffle == "exact" else "given")
    size = choose.batch_size(options.batch, n)
    if size is not None:
        chooser.put("batch", size)
    return Batches(
        cached or data.train, Order(n, seed=seed, shuffle=options.shuffle), transforms
    ), size.value if size else None


def make_training(
    data: Data, objective: Objective, batches: Batches, valid: Batches | None, size: int | None, options: Options,
    chooser: Chooser, ranks: Ranks, folder: "RunFolder | None", found: Decision | None = None,
) -> Training:  # fmt: skip
    """Optimizer, rates and stop rule; then all parts together. found: what was measured for open choices."""
    net, n = objective.model, len(data.train)
    found = found or Decision()
    built = optimizer.build(options.optimizer, net, lr=found.lr.value if found.lr else options.lr, l2=options.l2)
    chooser.say("optimizer", describe(options.optimizer), "default" if options.optimizer == "adamw" else "given")
    chooser.put("lr", found.lr or built.lr)
    chooser.put("l2", built.l2)
    chooser.say("l1", float(options.l1), "given" if options.l1 else "default")
    chooser.notes += [*built.notes, *found.notes]
    if size is None:
        size = chooser.put("batch", found.batch or Choice(min(32, batch_cap(n)), "default", "not measured"))
    micro = choose.micro_batch(options.micro_batch)
    whole = Choice(micro, "default", "the whole batch; halved when memory runs out")
    micro = chooser.put("micro_batch", Choice(micro, "given") if micro else found.micro_batch or whole)
    score = chooser.put(
        "score", choose.score(options.score, data.pipeline, objective.metrics, data.held_out is not None)
    )
    rule, choice = choose.until(options.until, n, data.held_out is not None, score)
    chooser.put("until", choice)
    shape = schedule.as_schedule(options.schedule)
    chooser.say(
        "schedule",
        describe(options.schedule if isinstance(options.schedule, str) else shape),
        "default" if options.schedule == "cosine" else "given",
    )
    planned = rule.limit(n, size)
    check_rules(rule, shape, objective, data.held_out is not None, Progress(0, 0, n, 0.0, planned))
    evaluate_every, log_every, choice = choose.intervals(options.evaluate_every, n, planned, size)
    chooser.put("evaluate_every", choice)
    for name in ("clip_norm", "clip_value"):
        if getattr(options, name) is not None:
            chooser.say(name, getattr(options, name), "given")
    averaged = choose.ema(options.ema, str(chooser.choices["model"].value))
    ema = chooser.put("ema", averaged) if averaged else None
    if options.save_every != "auto":
        chooser.say("save_every", options.save_every, "given")
    compiled = options.compile is True
    chooser.say(
        "compile",
        compiled,
        "default" if options.compile == "auto" else "given",
        "" if compiled else "compiling takes about a minute, which only long runs earn back",
    )
    if compiled:
        net.compile()
    coupling = mode_coupling(net.train())
    if coupling and ((micro is not None and micro < size) or ranks.size > 1):
        chooser.notes.append(f"{coupling}: in parts, the gradient of a batch is not that of the whole batch")
    state = State(
        net,
        built.optimizer,
        micro_batch=micro,
        batch=size,
        average=copy_weights(net) if ema else None,
    )
    state.seconds, state.trial = found.seconds, [found.steps, found.examples]
    batch_rule, grower = growing(options, found, state, shape, n, chooser)
    parameters = [p for p in net.parameters() if p.requires_grad]
    return Training(
        plan=Plan(chooser.choices, tuple(chooser.notes)),
        pipeline=data.pipeline,
        objective=objective,
        batches=batches,
        valid=valid,
        state=state,
        rule=rule,
        schedule=shape,
        batch_size=batch_rule,
        grower=grower,
        live=Live(planned, quiet=options.quiet or ranks.rank > 0),
        log_every=log_every,
        evaluate_every=evaluate_every,
        planned=planned,
        l1=float(options.l1),
        clip_norm=options.clip_norm,
        clip_value=options.clip_value,
        ema=ema or 0.0,
        save_every=None if options.save_every == "auto" else options.save_every,
        ranks=ranks,
        folder=folder,
        parameters=parameters,
        decayed=[p for p in parameters if p.ndim > 1],
    )


def growing(
    options: Options, found: Decision, state: State, shape: schedule.Schedule, n: int, chooser: Chooser
) -> tuple[Callable[[Progress], int], Grower | None]:
    """How large the batch is at every moment: fixed, grown by hand, or grown by measurement."""
    base = state.batch
    spec = options.batch if choose.grows(options.batch) else options.batch_growth
    if spec == "auto" and found.growth is not None:
        spec = chooser.put("batch_growth", found.growth)
    elif spec not in ("auto", None):
        chooser.say("batch_growth", str(spec), "given")
    if spec in ("auto", None):
        return lambda progress: min(n, shape.batch(progress, base)), None
    if choose.grows(spec):
        by_hand = schedule.as_schedule(spec)
        return lambda progress: min(n, by_hand.batch(progress, base)), None
    return lambda progress: state.batch, Grower(as_growth(spec))


def check_rules(
    rule: stop.Rule, shape: schedule.Schedule, objective: Objective, validated: bool, start: Progress
) -> None:
    """Say before the first step what a stop rule or schedule would wait for in vain."""
    metrics = [m.name for m in objective.metrics]
    known = ["train_loss", *(f"train_{m}" for m in metrics)]
    known += ["valid_loss", *(f"valid_{m}" for m in metrics)] if validated else []
    for name in sorted(rule.scores | shape.scores):
        if name.startswith("valid_") and not validated:
            raise HandfulError(f"the rule or schedule watches {name}, but no rows are held out; pass valid=0.1")
        if name not in known:
            raise HandfulError(
                f"the rule or schedule watches {name}, which this run does not have.{did_you_mean(name, known)}"
            )
    shape(start)


def validation_batches(data: Data) -> Batches | None:
    """The held-out rows through the pipeline, kept in memory where they are small."""
    if data.held_out is None:
        return None
    pipeline, order = data.pipeline.on(data.held_out, target=True), Order(len(data.held_out), shuffle="none")
    cached = pipeline.cached(data.held_out, CACHED_BYTES)
    return Batches(data.held_out, order, [pipeline]) if cached is None else Batches(cached, order)


def fingerprint(source: Source) -> str:
    """A hash of the number of rows, the columns, and the values of up to 64 rows spread over the data."""
    digest = hashlib.sha256(
        repr((len(source), [(k, c.kind, c.dtype, c.shape) for k, c in source.columns.items()])).encode()
    )
    for value in source.read(np.unique(np.linspace(0, len(source) - 1, 64).astype(np.int64))).values():
        if isinstance(value, Tensor):
            digest.update(
                value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if value.numel() else b""
            )
        elif isinstance(value, tuple):
            digest.update(
                value.values.cpu().contiguous().view(torch.uint8).numpy().tobytes() if value.values.numel() else b""
            )
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()[:32]


__all__ = ["Choice", "Options", "assemble"]
