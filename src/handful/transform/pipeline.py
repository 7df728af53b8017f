"""The fitted pipeline: rows of a source to what the model and the loss take, and predictions back.

Everything is fitted on the training rows only, in one streaming pass where the steps allow it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from handful.base.errors import HandfulError, did_you_mean
from handful.data.base import Batch, Column, Source
from handful.data.gather import Array
from handful.data.options import Collate
from handful.data.targets import names_of
from handful.losses.metric import Metric, metrics_of
from handful.models.base import Inputs
from handful.report.words import DATES
from handful.transform.auto import NO_ARGUMENTS, Arguments, InputChooser, Steps, unscaled
from handful.transform.columns import Cut, as_trained, check_same, foreign
from handful.transform.inputs import Infinite, Input, Layout, SingleInput
from handful.transform.language import LanguageSource, is_ids, language_source, next_token
from handful.transform.names import doubtful
from handful.transform.rows import TrainingRows, cache, check_weights, infinite, original_rows
from handful.transform.several import Several
from handful.transform.steps.step import Json, pack, stored, unpack
from handful.transform.steps.text import Tokenize
from handful.transform.target import NextTokens, Target

_FORMAT = 1


@stored
@dataclass(frozen=True, eq=False)
class Pipeline:
    """A callable Batch -> Batch with `x` (or several named inputs), `y`, and `weight` if rows are weighted.

    Frozen: what it was fitted to is input, target, weight, tokenizer (of a language model), notes (sentences on what
    was found, chosen, dropped and fitted), trained_on (the training columns), seen (of the training rows: see
    `handful.transform.seen`) and cut (how rows are windows of a table). What it is fed from, see `on`, is not
    written down: columns and where (the source's name), source (to look up row numbers for messages), with_target
    (False leaves `y` and `weight` out), foreign (read as something else than in training), collate (of samples).
    """

    input: Input
    target: Target | None
    columns: dict[str, Column]
    weight: str | None = None
    tokenizer: Tokenize | None = None
    notes: tuple[str, ...] = ()
    where: str = "data"
    with_target: bool = True
    trained_on: dict[str, Column] = field(default_factory=dict)
    seen: Tensor | None = None
    cut: Cut | None = None
    source: Source | None = None
    foreign: tuple[str, ...] = ()
    collate: Collate | None = None

    def __call__(self, batch: Batch) -> Batch:
        """The batch as the model takes it; `y` and `weight` are there if their columns are.

        Raises HandfulError naming the row for a missing target, a class that training did not have, a bad weight or an
        infinite number in a table.
        """
        batch, columns = self.translated(batch)
        rows = batch.rows
        if self.source is not None and len(rows) and rows.max() < len(self.source):
            rows = original_rows(self.source, rows)
        try:
            out = self.input(batch, columns)
        except Infinite as error:
            raise infinite(error.column, self.where, int(rows[error.at])) from None
        if self.with_target and self.target is not None and self.target.column in batch.columns:
            name = self.target.column
            out["y"] = self.target.encode(batch[name], columns[name], rows, self.where)
        if self.with_target and self.weight is not None and self.weight in batch.columns:
            out["weight"] = check_weights(batch[self.weight], self.weight, rows, self.where)
        return batch.replace(out)

    def translated(self, batch: Batch) -> tuple[Batch, dict[str, Column]]:
        """The batch with every column read as it was in training, and its columns."""
        columns = self.columns
        for name in self.foreign if len(batch) else ():
            if name in batch.columns:
                where = f"{self.where}, from row {batch.rows[0]:,} on" if batch.rows[0] else self.where
                goal = self.target.column if self.target else None
                value, column = as_trained(name, batch[name], columns[name], self.trained_on[name], where, goal)
                batch, columns = batch.replace(batch.columns | {name: value}), {**columns, name: column}
        return batch, columns

    def of_probabilities(self) -> "Pipeline":
        """The pipeline for a model whose outputs are probabilities."""
        return self if self.target is None else replace(self, target=replace(self.target, of_probabilities=True))

    def linked(self, *links: str) -> "Pipeline":
        """The pipeline for a model of whose outputs links make numbers, one for each of several targets."""
        return self if self.target is None else replace(self, target=self.target.linked(*links))

    def predicted_by(self, part: str | None) -> "Pipeline":
        """The pipeline for a model of which a part of the output predicts the target, or none (None)."""
        return self if self.target is None else replace(self, target=replace(self.target, part=part))

    def resolve_task(self, output: object) -> "Pipeline":
        """The pipeline once an own model's output for some rows is known, see `Target.resolve_task`."""
        return self if self.target is None else replace(self, target=self.target.resolve_task(output))

    @property
    def several(self) -> Several | None:
        """The target, where it is several that are not alike."""
        match self.target:
            case Several() as several:
                return several
        return None

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The named metrics that say something of the target."""
        if self.several:
            return self.several.metrics
        return metrics_of(self.task, *((self.target.counted, self.target.outputs) if self.target else ()))

    @property
    def task(self) -> str | None:
        """classification, regression, multilabel, language, sequence or several; None without a target."""
        return self.target.task if self.target else None

    @property
    def outputs(self) -> int:
        """Number of model outputs per row (of a language model: per token)."""
        return self.target.outputs if self.target else 0

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the target's classes, in the order of their ids; None if there are none."""
        target = self.target
        return tuple(map(str, target.words or target.classes)) if target and target.classes else None

    @property
    def names(self) -> tuple[str, ...]:
        """What each output stands for: the classes, or the columns of a target of several; "0", "1", ... else."""
        parts: Sequence[str] = ()
        if self.several:
            return self.several.of_outputs
        if self.target and self.task in ("multilabel", "regression"):
            column = self.trained_on.get(self.target.column)
            parts = (column.labels if column else None) or names_of(self.target.column)
        numbered = tuple(str(k + bool(self.cut)) for k in range(self.outputs))  # steps ahead count from 1
        return self.classes or (tuple(parts) if len(parts) == self.outputs else numbered)

    @property
    def unit(self) -> str:
        """Of the numbers of a target: as its column has it; DATES of dates; "" of none."""
        column = self.trained_on.get(self.target.column) if self.target else None
        return DATES if self.target and self.target.form else column.unit if column else ""

    @property
    def of_classes(self) -> tuple[str, ...]:
        """What each probability stands for: the classes or labels, of several targets as `kind=big`."""
        return self.several.of_classes if self.several else self.names

    @property
    def inputs(self) -> Inputs:
        """What a model needs to know of its input."""
        return self.input.info()

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Shape of one row of x; None where it varies."""
        return self.inputs.shape

    @property
    def target_scale(self) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation, float64 [] or [k], by which y was standardised; None if it was not."""
        return self.target.scale if self.target else None

    def decode(self, outputs: object, beams: int = 1, called: Callable[[int], str] = str) -> Array:
        """Predictions in the user's terms, a NumPy array.

        Class names or values in the target's own dtype, numbers in their original units, 0 or 1 per label,
        token ids. outputs: the model's, [m, ...]. beams: of sequences, see `Target.decode`; called: rows by their
        place. HandfulError where outputs that should choose a class are NaN."""
        target = self._fitted_target()
        found = target.prediction(outputs)
        lost = found.isnan().flatten(1).any(1).nonzero() if found.dim() > 1 else found.isnan().nonzero()
        if len(lost) and target.task in ("classification", "multilabel", "several"):  # numbers show it
            raise HandfulError(
                f"{len(lost)} of these {len(found)} rows, row {called(int(lost[0]))} (from 0) the first, have no "
                "class: the model's outputs are NaN there, as their input may be; fill in what is missing, or leave "
                "the rows out"
            )
        return target.decode(found, beams)

    def numbers(self, outputs: object) -> Array:
        """Predictions of a regression in the target's units; of dates and times, which `decode` writes, in seconds."""
        target = self._fitted_target()
        return target.numbers(target.prediction(outputs))

    def probabilities(self, outputs: object) -> Tensor:
        """float64 [m, classes] (or [m, labels]) from the model's outputs, as `of_classes` names them; HandfulError for
        a regression."""
        target = self._fitted_target()
        return target.probabilities(target.prediction(outputs))

    def _fitted_target(self) -> Target:
        if self.target is None:
            raise HandfulError(
                "the training data had no target, so there are no predictions; run.outputs(data) gives the outputs"
            )
        return self.target

    @property
    def uses(self) -> tuple[str, ...]:
        """The names of the input columns."""
        extra = {self.target.column if self.target else None, self.weight}
        return tuple(name for name in self.trained_on if name not in extra)

    def check(self, source: Source, *, target: bool = False) -> None:
        """Whether this source can be fed in.

        target: also demand the target column. Raises HandfulError for a column that is missing, of another
        kind, of another shape or, for sound, at another rate than in training.
        """
        needed = [*self.uses, *([self.target.column] if target and self.target else [])]
        for name in needed:
            if name not in source.columns:
                hint = f".{did_you_mean(name, source.columns)}" if source.columns else ""
                raise HandfulError(f"{source.name} has no column '{name}', which the model was trained with{hint}")
            check_same(name, self.trained_on[name], source)

    def on(self, source: Source, *, target: bool | None = None) -> "Pipeline":
        """This pipeline for batches of another source: checked, its category codes translated by name.

        target: True demands the target, False leaves it out, None takes it if it is there.
        """
        self.check(source, target=bool(target))
        columns = {name: source.columns[name] for name in self.trained_on if name in source.columns}
        other = tuple(name for name, column in columns.items() if foreign(column, self.trained_on[name]))
        unasked = {self.target.column} if self.target and target is False else set()
        return replace(
            self, columns=columns, where=source.name, with_target=target is not False, source=source,
            foreign=tuple(name for name in other if name not in unasked),
        )  # fmt: skip

    @property
    def table(self) -> dict[str, Column]:
        """The columns, target and weight too, as they were in training; of windows those of the table."""
        return self.cut.table if self.cut else self.trained_on

    @property
    def schema(self) -> dict[str, Column]:
        """The columns that a prediction needs, for handful.open(new, columns=pipeline.schema)."""
        return self.cut.table if self.cut else {name: self.trained_on[name] for name in self.uses}

    def rows(self, source: Source, ahead: bool = False) -> Source:
        """The rows of what was opened by `table` or `schema`: windows of them, where training had windows. ahead: to
        predict what comes after the last row."""
        return self.cut.windows(source, ahead) if self.cut else source

    def windows(self, source: Source) -> LanguageSource:
        """Another text in the windows and tokens that a language model was trained with. HandfulError for token ids
        where it learned from text, and the other way about."""
        length, of = self.shape[0], "text" if self.tokenizer else "token ids"
        if self.task != "language" or length is None:
            raise HandfulError(f"only a language model reads windows of text; this task is {self.task}")
        if all(is_ids(column) == bool(self.tokenizer) for column in source.columns.values()):
            raise HandfulError(f"{source.name} holds no {of}, which this language model learned from")
        found = language_source(source, length, tokenize=self.tokenizer, valid=0.0)[0]
        if found.vocabulary > (known := self.inputs.vocabulary or found.vocabulary):
            raise HandfulError(f"{source.name} has token {found.vocabulary - 1}; training had ids below {known}")
        return found

    @property
    def space(self) -> int | None:
        """The id of the space between words in a target of text read as characters; None for other targets."""
        t = self.target
        spaced = t and t.task == "sequence" and t.dtype == "str" and " " in t.classes
        return t.classes.index(" ") + 1 if t and spaced else None

    def cached(self, source: Source, at_most: int = 1 << 30) -> Source | None:
        """What this pipeline makes of every row, in memory, to be read without the pipeline; same row ids.

        Worth its one pass for text, sound and tables, which are else transformed again in every epoch. Values
        equal the pipeline's, but for rounding in sound (1e-5). None if more than `at_most` bytes would be
        needed, or where the padding of an own model's ragged tokens could not be told from them. Raises what
        the pipeline raises.
        """
        parts = self.input.parts
        if any(step.varies for part in parts.values() for step in part.steps):
            return None
        ragged = {name for name, part in parts.items() if None in part.shape}
        adapted = self if self.source is source and self.with_target else self.on(source)
        return cache(source, adapted, ragged | ({"y"} if self.task == "sequence" else set()), at_most)

    def to_dict(self) -> tuple[dict[str, Json], dict[str, Tensor]]:
        """All of it as a JSON-able dict and named Tensors; `from_dict` restores it bit for bit."""
        tensors: dict[str, Tensor] = {}
        plain = replace(
            self, columns=self.trained_on, where="data", with_target=True, source=None, foreign=(), collate=None
        )
        return {"format": _FORMAT, "pipeline": pack(plain, tensors)}, tensors

    @classmethod
    def from_dict(cls, data: Mapping[str, Json], tensors: Mapping[str, Tensor]) -> "Pipeline":
        """The pipeline that `to_dict` wrote; HandfulError when it is of another format or damaged."""
        if data.get("format") != _FORMAT:
            raise HandfulError(f"the pipeline has format {data.get('format')}; this version of handful reads {_FORMAT}")
        try:
            found = unpack(data["pipeline"], tensors)
        except (KeyError, TypeError) as error:
            raise HandfulError(f"the pipeline is damaged: {error}") from error
        if not isinstance(found, cls):
            raise HandfulError("the pipeline is damaged: it is not a Pipeline")
        return found


def fit_pipeline(
    source: Source,
    *,
    steps: Steps = "auto",
    own_model: bool,
    task: str | None = None,
    weight: str | None = None,
    aside: str | None = None,
    max_length: int | None = None,
    vocabulary: int | None = None,
    layout: Layout = "auto",
    pictures: bool = False,
    loss: object = None,
    arguments: Arguments = NO_ARGUMENTS,
    named: bool = False,
    single: bool = False,
) -> Pipeline:
    """The pipeline of a model, fitted on `source`: pass the training rows only.

    steps: "auto", "none" (x as it is), "standardize", "minmax", "normalize", or steps of handful.preprocess.
    own_model: the model is the user's: tensors are passed on as they are, and the target is not standardised.
    task: overrides what is found in the target. weight: the column of row weights, at least 0; aside: is no input.
    max_length: tokens or frames at which a row is cut. vocabulary: the most token ids (20,000).
    layout: of a table, see TableInput; auto: "split" for ready-made models, "matrix" for own ones.
    pictures: a ready-made model takes rows [H, W] or [C, H, W] of any number of channels for pictures.
    arguments: of the user's model. named: the caller named the columns: those that only number the rows are kept.
    single: the model is a single layer.
    loss: that is to be minimised, None for that of the task: it may leave out rows of a class id.
    Raises HandfulError: no rows, no input columns, no target (ready-made models), a target that is missing in
    a row or the same in every row, unknown names.
    """
    _check_source(source, [weight, aside], need_target=not own_model)
    if isinstance(source, LanguageSource) and steps == "auto" and task in (None, "language"):
        return _language(source, own_model)
    text = Tokenize(size=vocabulary or Tokenize.size, max_length=max_length)
    chooser = InputChooser(source, steps, own_model, layout, text, pictures, arguments, named, single)
    unfitted = chooser.choose([name for name in source.inputs if name not in (weight, aside)])
    kept = [*unfitted.uses, *(name for name in (source.target, weight) if name)]
    read = set(kept)
    columns = {name: column for name, column in source.columns.items() if name in read}
    reader = TrainingRows(source, kept, unfitted.uses, weight, loss)
    fitted = unfitted.fit(reader, columns, source.take(range(min(2, len(source)))))
    target, notes = reader.decide(own_model, task), chooser.notes
    trained_on = {name: replace(column, open=name in fitted.open) for name, column in columns.items()}
    if target and target.task == "sequence" and target.dtype == "str":
        trained_on[target.column] = Column("text", "str")  # other texts than those of training are no unknown classes
    notes += reader.notes + fitted.notes() + doubtful(source, fitted.uses)
    if own_model and list(fitted.parts) == ["x"] and not fitted.parts["x"].steps:
        notes += filter(None, [unscaled(source, fitted.uses[0])])
    return Pipeline(
        fitted, target, columns, weight, None, tuple(dict.fromkeys(notes)), source.name, trained_on=trained_on
    )


def _check_source(source: Source, weights: Sequence[str | None], need_target: bool) -> None:
    for name in filter(None, weights):
        if name not in source.columns:
            raise HandfulError(f"{source.name} has no column '{name}' for weights.{did_you_mean(name, source.columns)}")
        if source.columns[name].classes is not None:
            raise HandfulError(f"the weights '{name}' of {source.name} are a category, and must be one number per row")
    if len(source) == 0:
        raise HandfulError(f"{source.name} has no training rows")
    if source.target is None and need_target:
        hints = "".join(f". {note.rstrip('.')}" for note in source.notes if "no label" in note or "labels" in note)
        names = list(source.columns)
        known = names if len(names) < 10 else [*names[:4], "...", *names[-4:]]  # the target is often the last
        raise HandfulError(
            f"{source.name} has no target; name the column to predict with target=... (it has "
            f"{', '.join(known)}){hints or next_token(source)}"
        )


def _language(source: LanguageSource, own_model: bool) -> Pipeline:
    """x and y are the windows as they are."""
    shape = (source.length,)
    target = NextTokens("y", "int64", shape, source.vocabulary)
    notes = (f"A language model of {source.vocabulary} tokens learns from windows of {source.length}.",)
    columns = dict(source.columns)
    windows = SingleInput(("x",), "language", (), as_is=True, shape=shape,
                          vocabulary=0 if own_model else source.vocabulary)  # fmt: skip
    return Pipeline(windows, target, columns, None, source.tokenizer, notes, source.name, trained_on=dict(columns))
