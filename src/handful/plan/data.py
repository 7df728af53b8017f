"""The data of a run: opened, split, preprocessed, augmented, cut into batches; every choice with its reason."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handful.base.errors import HandfulError
from handful.base.keys import drawing
from handful.base.machine import in_bytes
from handful.base.plan import Choice
from handful.base.stopwatch import part
from handful.batches.arguments import SHUFFLES
from handful.batches.batches import Batches, Transform
from handful.batches.order import Order
from handful.batches.permutation import class_weights
from handful.batches.prefetch import pinned
from handful.data.base import Batch, Column, Ragged, Rows, Source
from handful.data.open import open as open_source
from handful.data.options import Names
from handful.data.series import spread_rows
from handful.data.split import HeldOut, held_out
from handful.data.tables.cells.strings import composed
from handful.losses.outputs import tensors_in
from handful.models import FEW_ROWS, MODELS, named
from handful.plan import balance
from handful.plan import defaults as choose
from handful.plan.balance import BALANCED, known_shuffle, sampling_column
from handful.plan.config import Config
from handful.plan.defaults import Chooser, describe
from handful.training.special.adapters import first_argument, length_arguments, makes_loss, named_arguments
from handful.training.watch.folder import RunFolder
from handful.transform import columns as recipes
from handful.transform.augment import as_augment, default
from handful.transform.augment.base import Augment
from handful.transform.augment.default import Mirrored, flips, suggest
from handful.transform.auto import Arguments, Steps
from handful.transform.inputs import TableInput
from handful.transform.language import language_source
from handful.transform.names import Named, names_in
from handful.transform.pipeline import Pipeline, fit_pipeline
from handful.transform.rows import blocks, check_weights
from handful.transform.seen import Repeated, of_known_classes, of_the_same, overlapping, seen, unlike
from handful.transform.steps.categories import strings

# Data that are this small after preprocessing are kept in memory so, and a step costs one gather and no arithmetic.
CACHED_BYTES = 256 << 20
HASHED = 16 << 20  # bytes of data that are known by all of their rows when a run goes on


@dataclass
class Data:
    """What is trained on, what is held out, and the fitted way from raw rows to x and y.

    counts: training rows of each class, and of all, last; None for other tasks. own_model: the model is the caller's.
    mirrored: what training pictures say of their mirror images, where they may be flipped.
    """

    source: Source
    train: Source
    held_out: Source | None
    pipeline: Pipeline
    counts: NDArray[np.int64] | None = None
    own_model: bool = False
    mirrored: Mirrored | None = None

    @property
    def gaps(self) -> bool:
        """Whether training rows stand for no class, which the loss leaves out."""
        return self.pipeline.task == "classification" and self.counts is not None and self.counts[-1] < len(self.train)


@part("preprocessing")
def open_data(
    train: object, options: Config, chooser: Chooser, model: str | nn.Module, saved: RunFolder | None, *, alone: bool
) -> Data:
    """Open the data, hold out the validation rows, and fit the preprocessing on the training rows alone. alone: neither
    a folder to go on from nor another rank will ask whether the data are the same."""
    name = named(model)[0] if isinstance(model, str) else None
    kept = learned(saved) if saved else None
    given = options.preprocess if isinstance(options.preprocess, Pipeline) else None  # of an earlier run
    known = kept if kept is not None and within(options.valid, kept) else None
    source, options, recipe = select_columns(train, options, chooser, name, given or known)
    language = is_language(source, options)
    rows, valid = hold_out(source, options, chooser, language, ready_made=name is not None and kept is None)
    if given is not None:
        pipeline = taken_over(with_weight(given, options), rows, name)
    elif kept is not None:
        pipeline = replace(kept.on(rows, target=kept.target is not None), source=None)
    else:
        pipeline = fit_pipeline(
            rows,
            steps=cast("Steps", options.preprocess),
            own_model=name is None,
            task=options.task,
            weight=options.weight,
            layout="matrix" if name in (None, "linear", "mlp") else "auto",
            pictures=options.recipe == "image",
            **called_with(model, options, len(rows)),
        )
    pipeline = replace(pipeline, collate=source.collate, cut=recipes.Cut.of(source) if source.horizon else None)
    found = drawing("fingerprint")(fingerprint)(source, None if language else pipeline, 0 if alone else HASHED)
    chooser.set("fingerprint", found, "found", "of some rows" if alone else "of the data; checked on resume")
    if HeldOut.of(options.valid) is None:
        valid = open_valid(source, options, chooser, pipeline, language)
    note_recipe(pipeline, options, chooser, recipe)
    chooser.put("preprocess", describe(options.preprocess, "default" if options.preprocess == "auto" else "given"))
    chooser.set("task", pipeline.task, "given" if options.task else "found")
    chooser.choices |= {k: Choice(v, "given") for k in ("weight", "columns", "windows") if (v := getattr(options, k))}
    chooser.notes += [*source.notes, *(rows.notes if language else ()), *pipeline.notes]
    if valid is not None:
        pipeline.on(valid, target=True)(valid.take(range(min(256, len(valid)))))  # bad rows are said now
    counts = balance.count(pipeline, rows)
    chooser.notes += balance.describe(pipeline, counts, valid, weighted=options.class_weight is not None)
    return Data(source, rows, valid, pipeline, counts, name is None)


def called_with(model: str | nn.Module, options: Config, rows: int) -> dict[str, Any]:
    """What the preprocessing has to know of the loss and the model, and of how one of the caller's is called."""
    asked = options.columns is not None and not recipes.asked_for(options.columns, ())[1]
    loss: dict[str, Any] = {"loss": options.loss, "aside": sampling_column(options.shuffle), "named": asked}
    match model:
        case str():
            name = named(model)[0]
            return loss | {"single": name == "linear" or (name == "auto" and rows < FEW_ROWS)}
    if options.loss == "auto" and makes_loss(model):
        loss["loss"] = "model"
    return {**loss, "arguments": Arguments(named_arguments(model), first_argument(model), length_arguments(model))}


def learned(saved: RunFolder) -> Pipeline | None:
    """The preprocessing of a run that goes on, unless it is a language model's, which is of the text as it is."""
    kept = saved.pipeline()
    return None if kept.task == "language" else kept


def within(valid: object, pipeline: Pipeline) -> bool:
    """Whether rows are held out by no column but those that the pipeline knows."""
    asked = HeldOut.of(valid)
    return asked is None or asked.by is None or asked.by in pipeline.table


def with_weight(pipeline: Pipeline, options: Config) -> Pipeline:
    """The preprocessing of an earlier run for rows with weights of their own, or without."""
    kept = {name: column for name, column in pipeline.trained_on.items() if name != pipeline.weight}
    weight = {options.weight: Column("number", "float64")} if options.weight else {}
    return replace(pipeline, weight=options.weight, trained_on=kept | weight)


def taken_over(pipeline: Pipeline, rows: Source, name: str | None) -> Pipeline:
    """The preprocessing of an earlier run for other rows. Raises HandfulError where they do not fit it."""
    goal = pipeline.target.column if pipeline.target else None
    if name is not None:
        raise HandfulError("preprocess takes the pipeline of a run for that run's model: pass run.model, not a name")
    if rows.target != goal:
        raise HandfulError(f"the pipeline given as preprocess is for the target '{goal}', not '{rows.target}'")
    return replace(pipeline.on(rows, target=goal is not None), source=None, notes=())


@part("opening the data")
def select_columns(
    train: object, options: Config, chooser: Chooser, name: str | None, given: Pipeline | None
) -> tuple[Source, Config, str | None]:
    """The data with the columns to learn from, the options with the model's recipe, and the recipe that was asked for.
    name: of a ready-made model; given: the preprocessing of an earlier run, or of this one, by which data are read."""
    columns = None if given is None or isinstance(train, Source) else with_weight(given, options).table
    if columns is not None and (drawn_by := sampling_column(options.shuffle)):
        columns = {**columns, drawn_by: Column("number", "float64")}
    goal = options.target or (given.target.column if given and given.target else None)
    cut = given and given.cut if options.windows is None else recipes.Cut.asked(options.windows)
    beside = (goal, options.weight, sampling_column(options.shuffle), getattr(HeldOut.of(options.valid), "by", None))
    names: Names = columns
    out: list[str] = []
    if options.columns is not None and not columns:
        names, out = recipes.asked_for(options.columns, (*beside, *(cut.columns if cut else ())))
    source = open_source(train, target=goal, columns=names, bad_rows=options.bad_rows, collate=options.collate)
    source = recipes.without(source, out) if out else source
    source = cut.windows(source) if cut else source
    if source.left_out is not None:
        chooser.set("bad_rows", source.left_out[1], "given")
    if options.collate is not None:
        chooser.put("collate", describe(options.collate, "given"))
    chooser.put("data", Choice.place(source.where) if source.where else Choice.own(source.name))
    chooser.set("rows", len(source), "found")
    asked = None if options.recipe == "auto" else options.recipe
    if asked is None and name in MODELS:
        options = replace(options, recipe=recipes.of_model(source, MODELS[name].kinds))
    elif asked is None and name == "auto" and recipes.short_texts(source):
        options = replace(options, recipe="text")
    if options.recipe not in (None, "auto", recipes.OTHER):
        source = recipes.select(source, options.recipe, keep=[options.weight], where=train)
    if source.target is not None:
        chooser.set("target", source.target, "given" if options.target else "found")
    return source, options, asked


def hold_out(
    source: Source, options: Config, chooser: Chooser, language: bool, ready_made: bool
) -> tuple[Source, Source | None]:
    """Training rows and, where a share or a number of them is to be held out, validation rows; for a ready-made model
    with whole numbers that are names as categories."""
    asked = HeldOut.of(options.valid, 0 if language else len(source))
    if asked is None:
        asked = HeldOut(0)
    elif not asked.share:
        chooser.set("valid", 0, "given", "nothing held out: no validation score")
    rows: Source
    valid: Source | None
    if language:
        if asked.by or asked.last:
            raise HandfulError(
                f"of a running text the last part is held out: give valid its share, not {options.valid!r}"
            )
        rows, valid = language_source(source, valid=float(asked.share))
    else:
        rows, valid = held_out(source, asked, options.seed, options.task == "classification")
    if asked.share and valid is not None:
        of = f"{len(valid):,} of {len(source) if not language else len(rows) + len(valid):,} rows held out"
        auto = isinstance(options.valid, str) and options.valid == "auto"
        chooser.set("valid", asked.share if auto else options.valid, "default" if auto else "given", of)
        if isinstance(asked.share, int) and len(valid) < 10:
            chooser.notes.append(f"valid={asked.share} is a number of rows, too few to score well; a share is below 1.")
        if not (language or asked.last or asked.by or source.horizon):
            chooser.notes += overlapping(source) or of_the_same(rows, valid)
    names, said = names_in(rows, [options.weight, sampling_column(options.shuffle)]) if ready_made else ({}, [])
    chooser.notes += said
    return (Named(rows, names), valid and Named(valid, names)) if names else (rows, valid)


def open_valid(source: Source, options: Config, chooser: Chooser, pipeline: Pipeline, language: bool) -> Source:
    """Validation data of their own, read as the training data were."""
    if language:
        valid: Source = pipeline.windows(open_source(options.valid))
    else:
        columns = None if isinstance(options.valid, Source) else pipeline.table
        goal = options.target or source.target
        valid = open_source(
            options.valid, target=goal, columns=columns, bad_rows=options.bad_rows, collate=pipeline.collate
        )
        valid, said = of_known_classes(pipeline.rows(valid), pipeline)
        chooser.notes += [*said, *unlike(valid, pipeline)]
    n = f"{len(valid):,} rows"
    chooser.put("valid", Choice.place(valid.where, n) if valid.where else Choice.own("validation data", reason=n))
    return valid


def note_recipe(pipeline: Pipeline, options: Config, chooser: Chooser, asked: str | None) -> None:
    """Which kind of data this is, and which columns tell."""
    kind = "table" if isinstance(pipeline.input, TableInput) else pipeline.inputs.kind
    uses = pipeline.uses
    columns = ", ".join(uses[:4]) + (f" and {len(uses) - 4} more columns" if len(uses) > 4 else "")
    chooser.set("recipe", asked or options.recipe or recipes.found(kind), "given" if asked else "found",
                f"learns from {columns}")  # fmt: skip


def is_language(source: Source, options: Config) -> bool:
    """Whether the data are running text to be continued: asked for, or a text column and no target."""
    if options.task is not None or options.recipe == "language":
        return options.task == "language" or (options.task is None and options.recipe == "language")
    return source.target is None and [c.kind for c in source.columns.values()] == ["text"]


def augmentation(data: Data, options: Config) -> tuple[Augment | None, str]:
    """The steps asked for or, for "auto", those usual for such data and none for a model of the caller's own; why."""
    if options.augment != "auto":
        return as_augment(options.augment), ""
    if data.own_model:
        return None, "none for a model of your own, unless augment= names some"
    shape = tuple(int(s) for s in data.pipeline.shape if s is not None)
    kind, task = data.pipeline.inputs.kind, data.pipeline.task or ""
    if data.mirrored is None and kind == "image" and flips(shape):
        rows = Order(len(data.train), seed=options.seed)[: min(len(data.train), default.ROWS)]
        batch = data.pipeline(data.train.take(rows))
        match batch.columns["x"], batch.columns["y"]:
            case Tensor() as x, Tensor() as y:
                data.mirrored = default.mirrored(x, y, len(data.pipeline.classes or ()) or None)
    if kind in ("table", "vector"):
        return None, default.OF_NUMBERS
    text, reason = suggest(kind, shape, task, len(data.train), data.mirrored)
    return as_augment(text) if text else None, reason


def make_batches(data: Data, options: Config, chooser: Chooser, device: torch.device) -> tuple[Batches, int | None]:
    """Order, augmentation and batches of the training rows; and the batch size if it was given.

    For a GPU, threads read ahead into pinned memory, from which a copy goes on while the device computes.
    """
    seed, n = options.seed, len(data.train)
    chooser.set("seed", seed, "given")
    cached = None if data.train.serial else data.pipeline.cached(data.train, CACHED_BYTES)
    if cached is not None:
        data.pipeline = replace(data.pipeline, seen=seen(cached))
    transforms: list[Transform] = [] if cached is not None else [data.pipeline]
    steps, reason = augmentation(data, options)
    if steps:
        source = cached or data.train

        def fetch(rows: Rows) -> Batch:
            batch = source.take(rows)
            return batch if cached is not None else data.pipeline(batch)

        bound = steps.bind(seed=seed, fetch=fetch, n=n, classes=len(data.pipeline.classes or ()) or None)
        if not reason and not data.train.serial:  # what the data are not for is refused now
            bound(fetch(np.arange(min(2, n), dtype=np.int64)))
        transforms.append(bound)
    chooser.set("augment", str(steps) if steps else None, "found" if reason else "given", reason)
    chooser.set("shuffle", options.shuffle, "default" if options.shuffle == "exact" else "given")
    size = choose.batch_size(options.batch, n)
    if size is not None:
        chooser.put("batch", size)
    prefetch = None
    if device.type == "cuda":
        transforms.append(pinned)
        prefetch = 4
    order = order_of(data, options, chooser)
    batches = Batches(cached or data.train, order, transforms, prefetch=prefetch)
    return batches, size.value if size else None


def order_of(data: Data, options: Config, chooser: Chooser) -> Order:
    """The order of the training rows; drawn with replacement, if classes are balanced or rows weighted by a column."""
    n, how, every = len(data.train), options.shuffle, np.arange(len(data.train), dtype=np.int64)
    known_shuffle(how)
    if how in SHUFFLES:
        return Order(n, seed=options.seed, shuffle=how)
    chooser.notes.append(
        f"Rows are drawn with replacement ({how}): an epoch is {n:,} draws, in which some rows come twice."
    )
    if name := sampling_column(how):
        weights = check_weights(data.train.read_column(name, every), name, every, data.train.name)
        return Order(n, seed=options.seed, shuffle="replacement", weights=weights.double().numpy())
    target = data.pipeline.target
    if target is None or data.pipeline.task != "classification" or target.dense or not target.counted:
        raise HandfulError(f"shuffle='{BALANCED}' draws classes equally often, and this task is {data.pipeline.task}")
    by_class = class_weights(balance.encoded(data.pipeline, target, data.train, every))
    return Order(n, seed=options.seed, shuffle="replacement", weights=by_class)


def validation_batches(data: Data, chooser: Chooser) -> Batches | None:
    """The held-out rows through the pipeline, kept in memory where they are small; then it is noted how many of them
    are training rows, too."""
    if data.held_out is None:
        return None
    pipeline, order = data.pipeline.on(data.held_out, target=True), Order(len(data.held_out), shuffle="none")
    cached = None if data.held_out.serial else pipeline.cached(data.held_out, CACHED_BYTES)
    if cached is None:
        return Batches(data.held_out, order, [pipeline])
    batches, repeated = Batches(cached, order), Repeated(pipeline.seen)
    for _ in repeated.among(batches.epoch(512)):
        pass
    chooser.notes += repeated.of(data.held_out, "held-out rows")
    return batches


def fingerprint(source: Source, pipeline: Pipeline | None, most: int) -> str:
    """A hash of the number of rows and of the values, as the pipeline takes them: the same whatever the rows come in;
    of all rows, where they lie in memory and are at most so many bytes, else of up to 64 spread over the data. Without
    a pipeline all columns are taken as they are."""
    n, digest = len(source), hashlib.sha256()
    adapted = pipeline and pipeline.on(source)
    names = list((adapted and adapted.columns) or source.columns)

    def add(rows: Rows) -> int:
        """The values of some rows; returns their bytes."""
        batch, columns, size = source.take(rows, names), source.columns, 0
        if adapted is not None:
            batch, columns = adapted.translated(batch)
        for name, value in batch.columns.items():
            match value:
                case Tensor() if columns[name].classes is None:
                    number = columns[name].kind == "number"
                    data = [in_bytes(value.to(torch.float64).nan_to_num(torch.inf) if number else value)]
                case Ragged(values, offsets):
                    data = [in_bytes(values), in_bytes(offsets)]
                case _ if columns[name].kind == "collated":
                    data = [*map(in_bytes, tensors_in(value))]
                case _:
                    data = [repr([composed(text) for text in strings(value, columns[name])]).encode()]
            digest.update(name.encode())
            for piece in data:
                digest.update(piece)
            size += sum(map(len, data))
        return size

    digest.update(repr(n).encode())
    spread = spread_rows(n, 64)
    if add(spread) / len(spread) * n <= most and source.in_memory:
        for rows in blocks(n, 4096):
            add(rows)
    return digest.hexdigest()[:32]
