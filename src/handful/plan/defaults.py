"""The choices a user may leave open: each function looks at what there is and returns a Choice with its reason."""

from typing import Any, TypeGuard

import numpy as np
from torch import Tensor, nn

from handful.base.errors import HandfulError, did_you_mean
from handful.base.plan import Choice, Status
from handful.data.base import Source
from handful.losses import ctc, metric
from handful.losses.loss import LossFunction, as_loss, class_axis, cross_entropy, name_of
from handful.models.base import Model
from handful.optim import schedule
from handful.training import stop
from handful.transform.pipeline import Pipeline
from handful.transform.target import Target


class Chooser:
    """Collects the choices of a run as they are made."""

    def __init__(self) -> None:
        self.choices: dict[str, Choice] = {}
        self.notes: list[str] = []

    def copy(self) -> "Chooser":
        """The choices so far, to go on from twice."""
        other = Chooser()
        other.choices, other.notes = dict(self.choices), list(self.notes)
        return other

    def put(self, name: str, choice: Choice) -> Any:
        self.choices[name] = choice
        return choice.value

    def say(self, name: str, value: Any, status: Status, reason: str = "") -> Any:
        return self.put(name, Choice(value, status, reason))


def describe(value: Any, status: Status, reason: str = "") -> Choice:
    """The value as a plan can hold it: itself if it is plain, else an object of the caller's own."""
    if value is None or isinstance(value, bool | int | float | str):
        return Choice(value, status, reason)
    if isinstance(value, list | tuple) and all(isinstance(v, bool | int | float | str) for v in value):
        return Choice(list(value), status, reason)
    return Choice.own(getattr(value, "__name__", None) or type(value).__name__, status, reason)


def loss(
    asked: Any, output: Any, pipeline: Pipeline, train: Source, smoothing: float, class_weight: Any
) -> tuple[LossFunction, Choice, list[str]]:
    """The loss of the task; its fit to the model's output is checked here, where a mistake is cheap."""
    if asked is None or (isinstance(asked, str) and asked == "auto"):
        text, reason = _loss_of_task(output, pipeline)
        if text != "cross_entropy" and (smoothing or class_weight is not None):
            raise HandfulError(f"label_smoothing and class_weight belong to cross-entropy; the loss here is {text}")
        function, _, notes = as_loss(text)
        if text == "cross_entropy":
            function = cross_entropy(smoothing, _class_weights(class_weight, pipeline, train))
        return function, Choice(text, "found", reason), notes
    asked = name_of(asked) or asked
    if asked == "cross_entropy":
        function = cross_entropy(smoothing, _class_weights(class_weight, pipeline, train))
        return function, Choice(asked, "given"), []
    if smoothing or class_weight is not None:
        raise HandfulError("label_smoothing and class_weight go with loss='auto'; give them to your own loss instead")
    function, text, notes = as_loss(asked)
    return function, Choice(text, "given") if isinstance(asked, str) else Choice.own(text), notes


def softening(function: LossFunction, class_weight: Any) -> dict[str, Choice]:
    """What a plan says of a cross-entropy beside its name, so that `planned_loss` makes the same one again."""
    found: dict[str, Choice] = {}
    if isinstance(function, cross_entropy) and function.label_smoothing:
        found["label_smoothing"] = Choice(function.label_smoothing, "given")
    if isinstance(function, cross_entropy) and function.class_weight is not None and class_weight is not None:
        numbers = list(function.class_weight)
        reason = "balanced: rows / (classes x rows of the class)" if isinstance(class_weight, str) else ""
        found["class_weight"] = Choice(numbers, "found" if reason else "given", reason)
    return found


def _loss_of_task(output: Any, pipeline: Pipeline) -> tuple[str, str]:
    task = pipeline.task
    if not isinstance(output, Tensor) and not (task == "sequence" and isinstance(ctc.only_valid(output), Tensor)):
        raise HandfulError(
            f"the model returns {type(output).__name__}, so its loss cannot be guessed; pass loss=, a callable "
            "(output, target) that returns one value per row"
        )
    classes = len(pipeline.classes or ())
    target = pipeline.target
    if task == "classification" and target is not None and target.dense:
        return _loss_of_places(output, target)
    if task == "classification":
        if output.ndim == 1 or output.shape[-1] == 1:
            if classes != 2:
                raise HandfulError(
                    f"the model gives one number a row but the target has {classes} classes; it needs {classes}"
                )
            return "binary_cross_entropy", "two classes and one output: its logit"
        if output.ndim == 3:
            return "token_cross_entropy", "a class for each token"
        if output.shape[1] < classes:
            raise HandfulError(
                f"the model gives {output.shape[1]} outputs but the target has {classes} classes; it needs {classes}"
            )
        return "cross_entropy", f"the target is one of {classes} classes"
    if task == "language":
        return "token_cross_entropy", "the next token"
    if task == "multilabel":
        return "binary_cross_entropy", "several yes-or-no labels a row"
    if task == "sequence":
        return "ctc", "sequences of unaligned labels"
    return "mse", "the target is a number"


def _loss_of_places(output: Tensor, target: Target) -> tuple[str, str]:
    axis = class_axis(tuple(output.shape), (len(output), *target.shape))
    if axis is None:
        raise HandfulError(
            f"the target holds a class for each of {' x '.join(map(str, target.shape))} places a row, and the model "
            f"gives {list(output.shape[1:])} a row; it needs [classes, {', '.join(map(str, target.shape))}]"
        )
    if output.shape[axis] < target.outputs:
        raise HandfulError(
            f"the target holds ids up to {target.outputs - 1}, and the model scores {output.shape[axis]} classes; "
            "places to leave out have the id -100, or another one with loss=torch.nn.CrossEntropyLoss(ignore_index=...)"
        )
    if axis == 1:
        return "cross_entropy", "a class for each place"
    return "token_cross_entropy", "a class for each token"


def _class_weights(asked: Any, pipeline: Pipeline, train: Source) -> tuple[float, ...] | None:
    """n / (k * n_c) for "balanced" (as scikit-learn's), or the numbers given."""
    if asked is None:
        return None
    k = len(pipeline.classes or ())
    if isinstance(asked, str):
        if asked != "balanced":
            raise HandfulError(f"class_weight must be 'balanced' or {k} numbers, not '{asked}'")
        counts = np.zeros(k)
        for start in range(0, len(train), 8192):
            ids = pipeline(train.take(range(start, min(start + 8192, len(train))))).tensor("y")
            counts += np.bincount(ids.numpy(), minlength=k)[:k]
        return tuple(float(f"{v:.6g}") for v in counts.sum() / (k * np.maximum(counts, 1)))
    if len(asked) != k:
        raise HandfulError(
            f"class_weight has {len(asked)} numbers but there are {k} classes: "
            + ", ".join(map(str, pipeline.classes or ()))
        )
    return tuple(float(v) for v in asked)


def metrics(asked: Any, pipeline: Pipeline, output: Any, uneven: bool = False) -> tuple[list[metric.Metric], Choice]:
    """The usual scores of the task; where classes are uneven, first those that count every class the same."""
    if not (isinstance(asked, str) and asked == "auto"):
        found = metric.as_metrics(asked, pipeline.space)
        plain = (
            asked is None
            or isinstance(asked, str)
            or all(isinstance(m, str) for m in np.atleast_1d(np.array(asked, dtype=object)))
        )
        return found, Choice(", ".join(m.name for m in found), "given") if plain else Choice.own("metrics")
    names = {
        "classification": "accuracy",
        "regression": "mae, r2",
        "multilabel": "f1, label_accuracy",
        "language": "perplexity, accuracy",
        "sequence": "word_error_rate",
    }.get(pipeline.task or "", "")
    if pipeline.task == "sequence" and pipeline.space is not None:
        names = "word_error_rate, character_error_rate"
    if uneven and pipeline.task == "classification":
        names = "balanced_accuracy, accuracy, f1"
    if pipeline.task == "multilabel" and pipeline.target is not None and len(pipeline.target.shape) > 1:
        names = "label_accuracy"  # of pixels
    if not isinstance(ctc.only_valid(output), Tensor):
        names = ""
    return metric.as_metrics(names, pipeline.space), Choice(names, "found", f"usual for {pipeline.task}")


def grows(asked: object) -> TypeGuard[schedule.grow_batch | str]:
    """Whether `batch` is schedule.grow_batch(...) or its text: then what it grows from is to be chosen."""
    return isinstance(asked, schedule.grow_batch) or (
        isinstance(asked, str) and asked.lstrip().startswith("grow_batch")
    )


def batch_size(asked: Any, n: int) -> Choice | None:
    """The examples per update that were asked for; None if it is to be chosen by measurement."""
    if grows(asked):
        return None
    if isinstance(asked, str):
        if asked == "full":
            return Choice(n, "given", "batch gradient descent: every row in every step")
        if asked == "auto":
            return None
        if not asked.isdecimal():
            raise HandfulError(
                f"batch '{asked}' is not understood: give a whole number, 'full', 'auto' or 'grow_batch(every=10)'"
            )
        asked = int(asked)
    if isinstance(asked, bool) or not isinstance(asked, int | np.integer):
        raise HandfulError(f"batch must be a whole number, 'full' or 'auto', not {asked!r}")
    if asked < 1:
        raise HandfulError(f"batch must be at least 1, not {asked}")
    if asked > n:
        raise HandfulError(
            f"a batch of {asked:,} is larger than the training data ({n:,} rows); use batch='full' or at most {n:,}"
        )
    return Choice(int(asked), "given", "stochastic gradient descent: one row a step" if asked == 1 else "")


def micro_batch(asked: Any) -> int | None:
    """Examples through the model at a time; None: all of the batch."""
    if asked is None or asked == "auto":
        return None
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise HandfulError(f"micro_batch must be a whole number of at least 1, or 'auto', not {asked!r}")
    return asked


def ema(asked: float | str | None, net: nn.Module) -> Choice | None:
    """The decay of the averaged weights, or None for none."""
    if asked != "auto":
        return None if asked is None else Choice(asked, "given")
    if not isinstance(net, Model) or net.ema is None:
        return None
    return Choice(
        net.ema, "default", "the weights' average over about 100 steps: steadier on few rows; ema=none: without"
    )


def until(asked: Any, n: int, validated: bool, score: str) -> tuple[stop.Rule, Choice]:
    """The stop rule; by default a number of epochs that falls with the size of the data, and patience of a third."""
    if asked is None or asked == "auto":
        epochs = round(float(np.clip(30 * (10_000 / n) ** 0.5, 10, 100)))
        text = f"epochs({epochs})"
        reason = f"{epochs} epochs of {n:,} rows: fewer for more data, 10 to 100"
        if validated:
            patience = max(5, epochs // 3)
            # An accuracy over few rows stands still while the loss still falls; an overfitting net's loss rises while
            # its accuracy still climbs. Only when neither moves is there nothing to wait for.
            watched = list(dict.fromkeys(["valid_loss", score]))
            text += " | " + " & ".join(f"plateau({patience}, score='{name}')" for name in watched)
            has = "has" if len(watched) == 1 else "have"
            reason += f"; or sooner, when {' and '.join(watched)} {has} not improved for {patience} evaluations"
        return stop.parse(text), Choice(text, "default", reason)
    rule = stop.as_rule(asked)
    try:
        stop.parse(str(rule))
        return rule, Choice(str(rule), "given")
    except HandfulError:
        return rule, Choice.own("stop rule")


def score(asked: str, pipeline: Pipeline, metrics: list[metric.Metric], validated: bool) -> Choice:
    """The score that says which weights are best."""
    if not validated:
        return Choice("train_loss", "found", "nothing is held out: the last weights are kept")
    known = ["valid_loss", *(f"valid_{m.name}" for m in metrics)]
    if asked == "auto":
        if pipeline.task in ("classification", "multilabel", "sequence") and metrics:
            return Choice(known[1], "default", "the first metric; equal scores are told apart by valid_loss")
        return Choice("valid_loss", "default", "")
    if asked not in known:
        raise HandfulError(f"there is no score called '{asked}'.{did_you_mean(asked, known)}")
    return Choice(asked, "given")


def intervals(asked: float | str, n: int, planned: int | None, size: int) -> tuple[int, int, Choice]:
    """Examples between evaluations and between logged moments."""
    if asked == "auto":
        short = planned is not None and planned < 10 * n
        every = max(size, planned // 10) if short and planned else n
        choice = Choice(every / n, "default", "epochs; a tenth of the run" if short else "epochs")
    else:
        if isinstance(asked, str) or not asked > 0:
            raise HandfulError(f"evaluate_every must be a number of epochs above 0, or 'auto', not {asked!r}")
        every = max(1, round(asked * n))
        choice = Choice(every / n, "given", "epochs")
    return every, max(size, n // 50), choice
