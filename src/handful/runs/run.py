"""A run that ended, or one loaded from its folder: predict, evaluate, report, export."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup
from numpy.typing import NDArray
from torch import Tensor, nn

from handful.base import files
from handful.base.errors import HandfulError, shown
from handful.base.plan import Plan, Row
from handful.batches.batches import Batches
from handful.batches.order import Order
from handful.data.base import Batch, Source
from handful.data.media.bad_rows import LEFT_OUT
from handful.data.open import open as open_source
from handful.data.options import Collate
from handful.losses import ctc
from handful.losses.asked import Metrics, as_metrics
from handful.losses.left_out import FORMS, innermost, leaving_out
from handful.losses.loss import as_loss, planned_loss, unknown
from handful.losses.outputs import joined as put_together
from handful.models import from_config
from handful.models.wrapped import unwrapped
from handful.report import spent
from handful.report.document import Part, preformatted
from handful.report.page import file_name, main_score, run_page
from handful.runs.export.write import write_export
from handful.runs.generate import sample
from handful.runs.judge import extras
from handful.runs.judge.evaluate import Evaluation, evaluate
from handful.runs.judge.tally import Lost
from handful.runs.raw_input import open_raw
from handful.runs.replay import Replay
from handful.training.objective import Objective
from handful.training.process.device import autocast, choose_device, needs_float64
from handful.training.process.exchange import same_rows
from handful.training.process.interrupts import INTERRUPTED
from handful.training.process.parallel import ALONE, Ranks, joined
from handful.training.state import State
from handful.training.watch.evaluation import evaluate as evaluate_rows
from handful.training.watch.evaluation import outputs_of_all
from handful.training.watch.folder import RunFolder
from handful.training.watch.history import History, spike
from handful.training.watch.weights import Weights, buffers_kept, left_as_it_was, load_weights
from handful.transform.pipeline import Pipeline
from handful.transform.rows import of_own_lengths
from handful.transform.seen import Repeated, of_known_classes, unlike

SPENT = "spent.json"
DONE, BROKEN_OFF, UNSAVED = 0, 3, 4  # how a run ends, as `handful train` says by its exit status


@dataclass(repr=False)
class Run:
    """A trained model and everything there is to know about how it came to be.

    model:    with its best weights, in evaluation mode
    history:  one row per logged moment
    best:     the row of the history of the best evaluation, or None if nothing was held out
    exit_status: that of `handful train`: 0; 3 broken off (a loss that is not finite, no memory, ...); 4 what it learned
              could not be written; 130 by Ctrl-C; 143 by SIGTERM; 129 by SIGHUP
    rank:     of this process among those that trained together
    unsaved:  what could not be written to the run folder in the end, and why
    """

    model: nn.Module
    plan: Plan
    state: State | None
    history: History
    pipeline: Pipeline
    objective: Objective
    stopped_because: str
    best: Row | None = None
    folder: RunFolder | None = None
    exit_status: int = DONE
    unsaved: str | None = None
    rank: int = 0
    ranks: Ranks = ALONE  # that share the rows of predictions and evaluations: see `shared`
    again: Callable[..., Replay] | None = None  # handful.replay of this run
    spent: dict[str, float] = field(default_factory=dict)  # seconds by part, from the call to the end

    def __repr__(self) -> str:
        """One line, as a notebook shows it: all that a run holds is thousands."""
        scores = "".join(f", {name} {value:.4g}" for name, value in self.scores.items())
        made = f"{type(self.model).__name__} on {self.plan.choices['data'].value}{scores}"
        return shown(f"<Run: {made}; stopped: {self.stopped_because}{f'; {self.path}' if self.path else ''}>")

    @property
    def path(self) -> Path | None:
        """The run folder, if the run has one."""
        return self.folder.path if self.folder else None

    @property
    def scores(self) -> dict[str, float]:
        """The scores of the weights that were kept: valid_* of the best evaluation, else the last train_*."""
        row = self.best or (self.history[-1] if self.history else {})
        prefix = "valid_" if self.best else "train_"
        return {k: v for k, v in row.items() if k.startswith(prefix)}

    def outputs(self, data: object, *, batch: int = 512, whole: bool = True) -> Any:
        """The model's raw outputs for every row, float32 [n, ...], in order; of a model that gives a dict or a tuple,
        the same with each Tensor so (and None for what is neither, as a cache); not whole: the scores in it alone.

        For sequences, rows of fewer frames go on with blanks.
        """
        parts = [o for _, o in self.stream(data, batch=batch, whole=whole)]
        return ctc.join(parts) if self.pipeline.task == "sequence" else put_together(parts)

    def stream(self, data: object, *, batch: int = 512, whole: bool = False) -> Iterator[tuple[Batch, Any]]:
        """(batch, outputs) for every row once, in order, in bounded memory; whole: as in `outputs`."""
        objective = self.objective.whole_outputs() if whole else self.objective
        batches = self.open(data, need_target=False)
        if self.model.training:
            self.model.eval()
        with torch.no_grad(), _asked(objective):
            yield from outputs_of_all(objective, batches, batch, self.ranks)

    def predict(self, data: object, *, probabilities: bool = False, beams: int = 1) -> NDArray[Any] | Tensor:
        """Predictions for raw input (anything `handful.open` reads, with or without the target; a sentence, a list of
        texts, the path of one picture or sound: see `handful.runs.raw_input.open_raw`), in the target's own terms:
        class names or ids, or numbers in its units; texts or arrays of labels for sequences. Array [n] or [n, k].

        Several targets come as a structured array with a field for each.

        probabilities: for a classification, [n, classes] instead; of several targets those of all classes side by side,
        as `run.pipeline.of_classes` names them. beams: above 1, sequences are decoded by CTC's prefix
        search (slower, somewhat better) instead of its best path. What is not as in training (names that it had not,
        numbers of another unit) is said on standard error.
        """
        source = self.open(data, need_target=False).source
        self._say(unlike(source, self.pipeline))
        return self._predicted(source, probabilities, beams)

    def _predicted(self, data: object, probabilities: bool, beams: int = 1) -> NDArray[Any] | Tensor:
        if (target := self.pipeline.target) and target.places:
            data = self.open(data, need_target=False).source
        outputs = self.outputs(data, whole=False)
        if probabilities:
            return self.pipeline.probabilities(outputs)
        return of_own_lengths(self.pipeline.decode(outputs, beams), target, data)

    def _say(self, notes: Iterable[str]) -> None:
        for note in notes if self.rank == 0 else ():
            print(f"handful: note: {shown(note)}", file=sys.stderr)

    @contextmanager
    def shared(self, timeout: float = 120.0) -> Iterator["Run"]:
        """This run; inside the block, `predict` and `evaluate` share the rows among the ranks of torchrun.

        All ranks call the same, with the same data, and all get what one process would: of each batch of rows one rank
        asks the model. timeout: seconds that they wait for one another. Where there is one process, nothing changes.

        >>> import handful
        >>> with handful.fit("linear", "iris", lr=0.1, until="steps(9)", quiet=True).shared() as run:
        ...     len(run.predict("iris"))
        150
        """
        with joined(self.objective.device.type, timeout) as ranks:
            self.rank, self.ranks = ranks.rank, ranks
            if (place := ranks.place(self.objective.device.type)).index is not None:  # the GPU of this rank
                self.objective.device = place
                self.objective.put(self.model.to(place))
            try:
                yield self
            finally:
                self.ranks = ALONE

    def as_function(self, *, probabilities: bool = False) -> Callable[[object], object]:
        """`predict` as a plain function, which says nothing, for a service: of one row (a dict of its values by column;
        a text, a path) it gives the prediction, of a list of rows the list of theirs, as Python's own values; several
        targets as a dict.

        probabilities: for a classification, {class: probability} of a row instead. It holds model and preprocessing,
        and changes neither, so that threads may share it. Raises HandfulError, naming the column, for a row that the
        run cannot take.

        >>> import handful
        >>> rows = {"size": [1.0, 2.0, 3.0, 4.0] * 8, "is": ["low", "low", "high", "high"] * 8}
        >>> how = {"target": "is", "batch": 8, "lr": 0.1, "until": "steps(60)", "quiet": True}
        >>> judge = handful.fit("linear", rows, **how).as_function()
        >>> judge({"size": 3.7}), judge([{"size": 1.2}, {"size": 3.9}])
        ('high', ['low', 'high'])
        """
        fields = self.pipeline.several and self.pipeline.several.names
        names = self.pipeline.of_classes if probabilities else fields

        def function(rows: object) -> object:
            values = self._predicted(rows, probabilities).tolist()
            found = [dict(zip(names, v)) if names else v.tolist() if hasattr(v, "tolist") else v for v in values]
            match rows, found:
                case list(), _:
                    return found
                case _, [one]:
                    return one
            raise HandfulError(f"give one row, or a list of rows, not {len(found)} rows in one")

        return function

    def evaluate(self, data: object, metrics: Metrics = None, *, bad_rows: int | str | None = None) -> dict[str, float]:
        """Loss and metrics over all rows of the data, each row once: {"loss": ..., "accuracy": ...}.

        bad_rows: as `fit` takes it, of rows that cannot be read or have no target; None: as the run was trained. Rows
        of a class that training did not have are left out, if they are a tenth at most; how many they are, and how many
        were trained on as far as the run knows its rows (up to a million that fit in memory), is printed to standard
        error.
        """
        (batches, said), repeated = self._scored(data, bad_rows), Repeated(self.pipeline.seen)
        scorer = self.scorer(metrics)
        with _asked(scorer):
            rows = repeated.among(batches.epoch(512, self.ranks.share))
            scores = evaluate_rows(scorer, rows, lost := Lost(), ranks=self.ranks)
        said += [*repeated.of(batches.source, "rows", self.ranks.gather_bytes), *lost.of(batches.source, self.ranks)]
        self._say(said)
        return scores

    def evaluation_report(self, data: object, path: str | Path | None = None, metrics: Metrics = None) -> Path:
        """Evaluate, and write the page that shows it in detail: scores, classes or residuals, the worst rows.

        path: `evaluation.html` in the run folder, or here, by default. Returns it.
        """
        where = Path(path) if path is not None else (self.path or Path()) / "evaluation.html"
        return self.evaluation(data, metrics).write(where, f"{self.plan.model}: evaluation")

    def evaluation(self, data: object, metrics: Metrics = None, *, bad_rows: int | str | None = None) -> Evaluation:
        """Evaluate in detail: scores, classes or residuals, and the rows of highest loss. bad_rows: see `evaluate`."""
        batches, said = self._scored(data, bad_rows)
        with _asked(scorer := self.scorer(metrics)):
            found = evaluate(scorer, self.pipeline, batches, ranks=self.ranks)
        found.notes[:0] = said
        return found

    def _scored(self, data: object, bad_rows: int | str | None) -> tuple[Batches, list[str]]:
        """The rows of raw data that can be scored, and what is to be said of others."""
        batches = self.open(data, bad_rows=bad_rows)
        source, said = of_known_classes(batches.source, self.pipeline)
        gone = [note for note in batches.source.notes if note.startswith(LEFT_OUT)]
        return (self._batches(source, True) if said else batches), [*gone, *said, *unlike(source, self.pipeline)]

    def scorer(self, metrics: Metrics = None) -> Objective:
        """The run's loss with other metrics (names, callables), or with its own."""
        if metrics is None:
            return self.objective
        return self.objective.with_metrics(as_metrics(metrics, self.pipeline.space, self.pipeline.metrics))

    def sample(
        self, prompt: str = "\n", length: int = 300, temperature: float = 0.8, *, top: int | None = None, seed: int = 0
    ) -> str:
        """Text with which a language model goes on from the prompt; see `handful.runs.generate.sample`."""
        with _asked(self.objective):
            return sample(self.pipeline, self.objective, prompt, length, temperature, top=top, seed=seed)

    def replay(self, step: int | str = "worst", **given: object) -> Replay:
        """One step taken again, with its mini-batch and the model as it was: see `handful.replay`. The run must have a
        folder. given: what its plan cannot hold (model=, train=, loss=), if the run was loaded."""
        if self.again is None:
            raise HandfulError("this run was not written, so its steps cannot be taken again; give fit out='runs/name'")
        return self.again(step, **given)

    def report(self, path: str | Path | None = None) -> Path:
        """Write the page that shows the run: what was chosen and why, curves, scores. Returns its path."""
        found, pictures = extras.read(self.path)
        where = Path(path) if path is not None else (self.path or Path()) / "report.html"
        return run_page(
            title=f"{self.plan.model} on {file_name(self.plan.data)}", plan=self.plan.choices,
            history=list(self.history), scores=self.scores, stopped_because=self.stopped_because + self._way_on(),
            notes=[*self.plan.notes, *self._spikes()],
            held_out=found.held_out(main_score(self.scores)) if found else None,
            details=self._samples(), pictures=pictures, spent=self._spent(), command=self.plan.command,
            unit=self.pipeline.unit,
        ).write(where)  # fmt: skip

    def _way_on(self) -> str:
        """For the page of a run that was interrupted."""
        there = self.path and self.stopped_because == INTERRUPTED
        return f"; handful resume {file_name(str(self.path))} goes on with it" if there else ""

    def _spikes(self) -> list[str]:
        """Where the training loss rose steeply, for the page, and how to see why."""
        if not self.path or not (found := spike(self.history)):
            return []
        step, times = found
        why = f"handful replay {file_name(str(self.path))} --spike shows its rows"
        return [f"The training loss at step {step:,} is {times:.3g} times that of the moments before it: {why}"]

    def _spent(self) -> list[Part]:
        said = spent.verdict(self.spent)
        return [spent.figure(self.spent), *([said] if said else [])] if self.spent else []

    def _samples(self) -> list[Markup]:
        """What a language model writes, for the page."""
        if self.pipeline.task != "language" or self.pipeline.tokenizer is None:
            return []
        return [preformatted(self.sample(), "What the model writes (temperature 0.8)")]

    def export(self, path: str | Path) -> Path:
        """Write the trained model for use elsewhere, and beside it a model card, NAME.card.md. Returns the path.

        `.onnx` (needs the extra handful[onnx]) and `.pt2` (torch.export) take raw rows, any number of them: a column as
        in training, by name; numbers of tables float64 with NaN where one is missing, pictures as decoded. They give
        probabilities, or numbers in the target's units, and compute in float32, also where the run does in bfloat16.
        Categories come by name to ONNX, as their places among the classes to `.pt2`. Text, sound and rows of tokens
        come as the numbers that the step left outside makes of them.
        All of that is told in the file: metadata of ONNX, the extra file handful.json of `.pt2`. `.safetensors`: the
        weights alone. Raises HandfulError for another ending, and for a model that torch cannot trace.
        """
        where = Path(path)
        write_export(files.here(where), self.objective, self.pipeline, self.plan, self.scores, self.stopped_because)
        return where

    def open(self, data: object, *, need_target: bool = True, bad_rows: int | str | None = None) -> Batches:
        """Every row of raw data in order, read and preprocessed as the run's own; checked to hold what it needs."""
        bad = self.plan.choices.get("bad_rows") if bad_rows is None else None
        skip = bad_rows or (bad.value if bad else "stop")
        p, choice = self.pipeline, self.plan.choices.get("target")
        target = choice.value if choice else None
        if p.task == "language":
            if not need_target:
                raise HandfulError("a language model goes on with a text: use sample, or run.model on token ids")
            source: Source = p.windows(open_source(data))
        elif not need_target or p.target is None:
            source = open_raw(data, p.schema, collate=p.collate)
        else:
            columns = None if isinstance(data, Source) else p.table
            source = open_source(data, target=target, columns=columns, collate=p.collate, bad_rows=skip)
            if source.target is None:
                raise HandfulError(
                    f"{source.name} has no target column '{target}', so there is nothing to compare with; use predict"
                )
        return self._batches(p.rows(source, ahead=not need_target), need_target)

    def _batches(self, source: Source, need_target: bool) -> Batches:
        batches = Batches(source, Order(len(source), shuffle="none"), [self.pipeline.on(source, target=need_target)])
        same_rows(self.ranks, batches, self.model)
        return batches


@contextmanager
def _asked(objective: Objective) -> Iterator[None]:
    """What asks a model for outputs changes none of its buffers, and nothing of its loss. Says on standard error where
    rows had to go through it in smaller parts."""
    before = objective.at_once
    with buffers_kept(objective.model), left_as_it_was(innermost(objective.loss)):
        yield
    if objective.at_once != before:
        print(f"handful: note: memory ran out: {objective.at_once:,} rows at a time go through the model",
              file=sys.stderr)  # fmt: skip


def _in_their_precision(model: nn.Module, weights: Weights) -> nn.Module:
    """The model as it computes in the precision of these weights, where that is one."""
    kinds = {value.dtype for value in weights.values() if value.is_floating_point() or value.is_complex()}
    return model if len(kinds) != 1 or (kind := kinds.pop()).is_complex else model.to(kind)


def open_run(
    path: str | Path, *, model: nn.Module | None = None, loss: object = None, collate: Collate | None = None,
    device: str = "auto",
) -> Run:  # fmt: skip
    """The run in a folder: see `handful.load`."""
    folder = RunFolder(Path(path))
    plan, pipeline, config = folder.plan(), replace(folder.pipeline(), collate=collate), folder.model_config()
    if model is None:
        if not config:
            raise HandfulError(f"this run trained {plan.model}; pass an instance: handful.load(path, model=...)")
        model = from_config(config)
    weights, best, why = folder.kept_weights()
    model = unwrapped(model).train(folder.cut)  # as they were written, of layers that merge them there (LoRA), too
    load_weights(_in_their_precision(model, weights), weights)
    model.eval()
    where = choose_device(device, needs_float64(model, "auto")).value
    model.to(where)
    text, metrics = (
        str(choice.value or "") if choice.reproducible else ""
        for choice in (plan.choices["loss"], plan.choices["metrics"])
    )
    function = as_loss(loss)[0] if loss is not None else planned_loss(plan.choices, text) if text else unknown
    if target := pipeline.target:
        function = leaving_out(function, target.ignored, target.outputs, len(target.shape))
    if "loss_form" in plan.choices and function is not unknown:
        function = FORMS[plan.choices["loss_form"].value](function)
    objective = Objective(
        model, function, as_metrics(metrics, pipeline.space, pipeline.metrics), device=where,
        autocast=autocast(plan.precision), scale=pipeline.target_scale,
    )  # fmt: skip
    objective.takes(pipeline, pipeline.trained_on.values())
    objective.link = getattr(pipeline.target, "link", "")
    objective.part, objective.whole = (pipeline.target and pipeline.target.part) or "", "output" in plan.choices
    history = folder.history()
    plan = Plan(plan.choices, (*plan.notes, *dict.fromkeys(folder.notes)))
    run = Run(model, plan, None, history, pipeline, objective, why, best, folder)
    with suppress(HandfulError, OSError):
        run.spent = files.read_json(folder.path / SPENT)
    return run
