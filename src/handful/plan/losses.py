"""The loss and the metrics of a run: those of the task, or those asked for, with their reasons."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from handful.base.errors import HandfulError, shown
from handful.base.plan import Choice
from handful.data.base import Batch
from handful.losses import ctc
from handful.losses.asked import Metrics, as_metrics
from handful.losses.left_out import ignored_id, leaving_out, link_of
from handful.losses.loss import (
    Counted,
    LossFunction,
    as_loss,
    class_axis,
    cross_entropy,
    focal,
    huber,
    mae,
    mse,
    name_of,
    poisson,
    quantile,
    token_cross_entropy,
)
from handful.losses.metric import Metric
from handful.losses.outputs import CLASSES_FIRST, tensors_in
from handful.losses.together import heads, together
from handful.plan import dry_run
from handful.plan.balance import ClassWeight, class_weights, count
from handful.plan.data import Data
from handful.plan.defaults import Chooser
from handful.training.objective import Objective
from handful.transform.pipeline import Pipeline
from handful.transform.rows import original_rows
from handful.transform.several import Several
from handful.transform.target import Target
from handful.transform.target_values import in_row

OWN_LOSS = (
    "pass loss=, a callable (output, target) that returns one value per row, or loss='model' where it makes its own of "
    "(x, y)"
)


def loss(
    asked: str | Callable[..., object] | None, output: object, y: object, data: Data, smoothing: float,
    class_weight: ClassWeight,
) -> tuple[LossFunction, Choice, list[str]]:  # fmt: skip
    """The loss of the task; its fit to the model's output and to y is checked here, where a mistake is cheap."""
    if asked in (None, "auto"):
        text, reason = _loss_of_task(output, y, data.pipeline)
        function, _, notes = as_loss(text)
        if smoothing or class_weight is not None:
            function = _softened(function, text, smoothing, class_weight, data, output)
        return function, Choice(text, "found", reason), notes
    asked = name_of(asked) or asked
    if asked == "cross_entropy":
        target = data.pipeline.target
        if torch.is_tensor(output) and output.ndim == 2 and target and target.classes and not target.dense:
            _check_scores(output, target, len(target.classes))
        asked = "token_cross_entropy" if _behind_places(output, y) else asked
        function = _softened(as_loss(asked)[0], asked, smoothing, class_weight, data, output)
        _check_kind(function, asked, output, data.pipeline)
        return function, Choice(asked, "given"), []
    if smoothing or class_weight is not None:
        raise HandfulError("label_smoothing and class_weight go with loss='auto'; give them to your own loss instead")
    function, text, notes = as_loss(asked)
    if isinstance(function, Counted):
        function.last = _behind_places(output, y)
    if type(function) is cross_entropy and _behind_places(output, y):
        function, text = token_cross_entropy(function.label_smoothing, function.class_weight), f"token_{text}"
    _check_kind(function, text, output, data.pipeline)
    if (several := data.pipeline.several) and several.sizes and torch.is_tensor(output):
        match function:
            case together(sizes=()):
                function = replace(function, sizes=several.sizes)
                asked = text = function.text()
    if target := data.pipeline.target:
        function = leaving_out(function, target.ignored, target.outputs, len(target.shape))
    return function, Choice(text, "given") if isinstance(asked, str) else Choice.own(text), notes


def _behind_places(output: object, y: object) -> bool:
    """Whether the scores can only be [m, T, C], where torch's losses take [m, C, T]."""
    match output, y:
        case Tensor(ndim=3), Tensor():
            return class_axis(tuple(output.shape), tuple(y.shape)) == -1 and output.shape[1] != output.shape[2]
    return False


def _softened(
    loss: LossFunction, name: str, smoothing: float, class_weight: ClassWeight, data: Data, output: object
) -> LossFunction:
    if not isinstance(loss, cross_entropy):
        raise HandfulError(_softens_no(name, data.pipeline))
    scores = output.shape[-1 if loss.last else 1] if torch.is_tensor(output) and output.ndim > 1 else 0
    return replace(loss, label_smoothing=smoothing, class_weight=_weights(class_weight, data, scores))


def _softens_no(text: str, pipeline: Pipeline) -> str:
    said = f"label_smoothing and class_weight belong to cross-entropy; the loss here is {text}"
    if not (several := pipeline.several) or not pipeline.of_classes:
        return said
    many = [len(part.classes or ()) if part.task == "classification" else 0 for part in several.parts]
    each = [f"cross_entropy(class_weight={[1] * n})" if n else "mse" for n in many]
    return f"{said}: give each target its own, in the order of its classes, as loss={together(each).text()!r}"


def _check_kind(function: LossFunction, name: str, output: object, pipeline: Pipeline) -> None:
    """Raise HandfulError for a loss of numbers where the model scores classes, one of which a row has, or the other way
    round."""
    target = pipeline.target
    match function:
        case cross_entropy() | focal() | token_cross_entropy() if target and pipeline.task == "regression":
            if not target.dense:
                raise HandfulError(
                    f"the target '{target.column}' is numbers with decimals or many values, and {name} scores classes: "
                    "leave loss out, or pass task='classification' where each value is a class"
                )
        case mse() | mae() | huber() | quantile() | poisson() if target:
            if target.dense or not torch.is_tensor(output) or output.ndim != 2 or output.shape[1] == 1:
                return
            if pipeline.task == "regression":
                _check_one(output, target)
            shown = f" ({', '.join(map(str, target.classes[:3]))}{', ...' if len(target.classes) > 3 else ''})"
            numbers = target.dtype != "str"
            way = "; to predict them as numbers pass task='regression' and a model of one output" if numbers else ""
            raise HandfulError(
                f"the target '{target.column}' is classes{shown if target.classes else ''}, and {name} compares "
                f"numbers: leave loss out, or pass cross_entropy or focal{way}"
            )


def leave_out(loss: LossFunction, data: Data, target: Target, name: str) -> None:
    """Hold the target to what the loss leaves out; HandfulError where training rows stand for no class all the same."""
    if ignored_id(loss) is not None:
        return
    if data.gaps:
        every = np.arange(len(data.train), dtype=np.int64)
        values = data.train.read_column(target.column, every)
        row = original_rows(data.train, np.flatnonzero(np.asarray(values) == target.ignored)[:1])[0]
        raise HandfulError(
            f"the target '{target.column}' is {target.ignored} {in_row(row, data.train.name)}, which {name} does not "
            "leave out: remove such rows, or train with cross_entropy and an output for each class"
        )
    data.pipeline = replace(data.pipeline, target=replace(target, ignored=None))


def of_any_id(pipeline: Pipeline) -> Pipeline:
    """With ids of places that are not held to those seen, while it is not known what predicts them."""
    dense = pipeline.target and pipeline.target.dense and pipeline.task == "classification"
    return pipeline.predicted_by(None) if dense else pipeline


def find_places(objective: Objective, loss: LossFunction, tried: Callable[[], Batch], data: Data, *, own: bool) -> None:
    """Find out on which side of the places of a row the scores of their classes stand, and how many these are. own:
    the loss is the caller's own, and the part that predicts is known."""
    data.pipeline = data.pipeline if own or data.pipeline.several else data.pipeline.predicted_by("")
    target = data.pipeline.target
    if target is None or target.task != "classification" or not target.dense or target.part is None:
        return
    objective.minimise(loss, [])
    batch = tried()
    count, first = dry_run.quietly(objective.model, lambda: dry_run.classes_of_places(objective, batch, target))
    objective.part += CLASSES_FIRST if first else ""
    data.pipeline = replace(data.pipeline, target=replace(target, outputs=count, part=objective.part))


def place_numbers(objective: Objective, data: Data, output: object, sample: Batch, chooser: Chooser) -> None:
    """Give the scores of a regression a number near its targets, and note where a model of the caller's own starts far
    from them."""
    if data.train.target is None:
        return
    first = data.train.take(range(min(256, len(data.train))), [data.train.target])
    objective.centre(first.tensor(data.train.target))
    pairs: list[tuple[object, object]] = [(output, sample.columns.get("y"))]
    if objective.several:
        pairs = [*objective.several.numbers_of(output, sample.columns["y"])]  # type: ignore[arg-type]
    far = [dry_run.warn_of_distance(*pair) for pair in pairs if data.own_model]
    chooser.notes += [note for note in far if note]


def link_outputs(
    objective: Objective, loss: LossFunction, tried: Callable[[], Batch], data: Data, chooser: Chooser
) -> None:
    """Find out whether outputs are the numbers that the target holds, or their logarithms or logits, as the loss takes
    them."""
    target = data.pipeline.target
    match loss:
        case together(losses=losses) if objective.several:
            if len(losses) == len(objective.several.parts):  # else it says so itself
                data.pipeline = data.pipeline.linked(*(link_of(as_loss(name)[0]) or "" for name in losses))
                objective.takes(data.pipeline, data.train.columns.values())
        case _ if target is not None and target.task == "regression" and target.part is not None:
            link = link_of(loss)
            if link is None:
                batch = tried()
                find = lambda: dry_run.link_by_slope(objective, batch, objective.part)  # noqa: E731
                link = dry_run.quietly(objective.model, find) or ""
            data.pipeline, objective.link = data.pipeline.linked(link), link
            if link in ("exp", "sigmoid") and data.own_model:
                chooser.notes.append(
                    f"'{target.column}' is predicted by {link} of what the model gives, as the loss takes it"
                )


def softening(function: LossFunction, class_weight: ClassWeight) -> dict[str, Choice]:
    """What a plan says of a cross-entropy besides its name, so that `planned_loss` makes the same one again."""
    found: dict[str, Choice] = {}
    if not isinstance(function, cross_entropy):
        return found
    if function.label_smoothing:
        found["label_smoothing"] = Choice(function.label_smoothing, "given")
    if function.class_weight is not None and class_weight is not None:
        numbers = list(function.class_weight)
        reason = "balanced: rows / (classes x rows of the class)" if isinstance(class_weight, str) else ""
        found["class_weight"] = Choice(numbers, "found" if reason else "given", reason)
    return found


def _loss_of_task(output: object, y: object, pipeline: Pipeline) -> tuple[str, str]:
    task = pipeline.task
    if several := pipeline.several:
        return _loss_of_several(output, y, pipeline, several)
    output = ctc.only_valid(output) if task == "sequence" else output
    if not torch.is_tensor(output):
        way = OWN_LOSS if tensors_in(output) else "let its forward return a Tensor"
        raise HandfulError(f"the model returns {type(output).__name__}, so its loss cannot be guessed; {way}")
    classes = len(pipeline.classes or ())
    target = pipeline.target
    if task == "classification" and target is not None and target.dense:
        shape = tuple(y.shape) if torch.is_tensor(y) else (len(output), *target.shape)
        return _dense_loss(output, target, class_axis(tuple(output.shape), shape))
    if task == "classification":
        if output.ndim == 1 or output.shape[-1] == 1:
            if classes != 2:
                way = ", or task='regression' where they are numbers" if target and target.dtype != "str" else ""
                said = f"the target has {_many(target, classes)}; it needs {classes}{way}"
                raise HandfulError(f"the model gives one number per row but {said}")
            return "binary_cross_entropy", "two classes and one output: its logit"
        if output.ndim == 3:
            return "token_cross_entropy", "a class for each token"
        _check_scores(output, target, classes or pipeline.outputs)
        of = f"one of {classes} classes" if classes else f"the shares of {pipeline.outputs} classes"
        return "cross_entropy", f"the target is {of}"
    if task == "language":
        return "token_cross_entropy", "the next token"
    if task == "sequence":
        if output.ndim != 3:
            raise HandfulError(
                "the target holds labels in order, and the model gives one answer for a whole row; pass a model of "
                f"your own that gives scores [rows, places, classes], not [{', '.join(map(str, output.shape))}]"
            )
        return "ctc", "sequences of unaligned labels"
    _check_one(output, target)
    if task == "multilabel":
        return "binary_cross_entropy", "several yes-or-no labels per row"
    return "mse", "the target is a number"


def _loss_of_several(output: object, y: object, pipeline: Pipeline, several: Several) -> tuple[str, str]:
    found = heads(output, several.names, several.sizes)
    if not several.sizes or found is None:
        raise HandfulError(
            f"the model's output does not fit the targets {several.column}: let it return a dict of these names, "
            f"or a tuple in this order, with {', '.join(str(part.outputs) for part in several.parts)} scores; or "
            "pass loss=, a callable (output, target)"
        )
    ys: Mapping[str, object] = y if isinstance(y, Mapping) else {}
    each = [
        _loss_of_task(head, ys.get(part.column), replace(pipeline, target=part))[0]
        for head, part in zip(found, several.parts, strict=True)
    ]
    return together(each, sizes=several.sizes).text(), "the sum of each target's usual loss"


def _check_one(output: Tensor, target: Target | None) -> None:
    if target and not target.dense and output.ndim == 2 and output.shape[1] > 1:
        raise HandfulError(
            f"the model gives {output.shape[1]} numbers per row but the target '{target.column}' is one: let "
            "it give one, or pass loss='cross_entropy' where the target's numbers are classes"
        )


def _check_scores(output: Tensor, target: Target | None, classes: int) -> None:
    if output.shape[1] < classes:
        said = f"the target has {_many(target, classes)}; it needs {classes}"
        raise HandfulError(f"the model gives {output.shape[1]} outputs but {said}")


def _many(target: Target | None, classes: int) -> str:
    """How many classes, and which, so that ids that begin at 1 show."""
    named = target.classes if target else ()
    return f"{classes} classes" + (f", {shown(named[0])} to {shown(named[-1])}" if named else "")


def _dense_loss(output: Tensor, target: Target, axis: int | None) -> tuple[str, str]:
    if axis is None:
        raise HandfulError(
            f"the target holds a class for each of {' x '.join(map(str, target.shape))} positions per row; the model "
            f"gives {list(output.shape[1:])} per row; it needs [classes, {', '.join(map(str, target.shape))}]"
        )
    if output.shape[axis] < target.outputs:
        raise HandfulError(
            f"the target holds ids up to {target.outputs - 1}, and the model scores {output.shape[axis]} classes; "
            "positions to leave out have the id -100, or another with loss=torch.nn.CrossEntropyLoss(ignore_index=...)"
        )
    if axis == 1:
        return "cross_entropy", "a class for each position"
    square = len(target.shape) == 1 and output.shape[1] == output.shape[2]
    way = ", its scores the last axis of a square; loss=torch.nn.CrossEntropyLoss() where they are the first"
    return "token_cross_entropy", f"a class for each token{way if square else ''}"


def _weights(asked: ClassWeight, data: Data, scores: int) -> tuple[float, ...] | None:
    if asked is None:
        return None
    target = data.pipeline.target
    labels = (target.classes or range(target.outputs)) if target else ()
    counts, weight = data.counts, data.pipeline.weight
    if counts is not None and weight is not None:
        counts = count(data.pipeline, data.train, weight)
    return class_weights(asked, labels, counts, scores)


def metrics(asked: Metrics, pipeline: Pipeline, output: object, uneven: bool = False) -> tuple[list[Metric], Choice]:
    """The usual scores of the task; where classes are uneven, those that count every class the same come first."""
    if not (isinstance(asked, str) and asked == "auto"):
        found = as_metrics(asked, pipeline.space, pipeline.metrics)
        listed = asked if isinstance(asked, Sequence) and not isinstance(asked, str) else [asked]
        by_name = all(isinstance(one, str | None) for one in listed)
        return found, Choice(", ".join(m.name for m in found), "given") if by_name else Choice.own("metrics")
    names = {
        "classification": "balanced_accuracy, accuracy, f1" if uneven else "accuracy",
        "regression": "mae, r2",
        "multilabel": "f1, label_accuracy",
        "language": "perplexity, accuracy",
        "sequence": "word_error_rate" if pipeline.space is None else "word_error_rate, character_error_rate",
    }.get(pipeline.task or "", "")
    if pipeline.task == "multilabel" and pipeline.target is not None and len(pipeline.target.shape) > 1:
        names = "label_accuracy"  # of pixels
    if pipeline.several:
        usual = pipeline.several.usual
        return as_metrics(usual, None, pipeline.metrics), Choice(usual, "found", "usual for each target")
    output = output if torch.is_tensor(output) else ctc.only_valid(output)
    if not torch.is_tensor(output) or (pipeline.target and pipeline.target.part is None):
        names = ""
    return as_metrics(names, pipeline.space), Choice(
        names, "found", f"usual for {pipeline.task}" if pipeline.task else "none without a target that is known"
    )
