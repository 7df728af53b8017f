"""The metrics that were asked for: names, functions of scikit-learn, the caller's own in whatever form they come."""

import copy
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from handful.base.errors import MISTAKES, HandfulError, did_you_mean
from handful.base.score import Better
from handful.losses.loss import parameters_of
from handful.losses.metric import (
    NAMED,
    Array,
    Metric,
    SumMetric,
    Whole,
    WholeMetric,
    class_ids,
    does_not_fit,
    error_rate,
    probabilities_of,
)

# As `as_metrics` takes them.
Metrics = str | Metric | Callable[..., object] | Iterable[object] | Mapping[str, object] | None
Pair = tuple[Array, Array] | tuple[Tensor, Tensor]  # outputs and targets


@runtime_checkable
class Accumulator(Protocol):
    """A metric object that adds up batches, as those of torchmetrics."""

    def reset(self) -> None: ...
    def update(self, outputs: Tensor, targets: Tensor) -> None: ...
    def compute(self) -> object: ...


def as_metrics(metrics: Metrics, space: int | None = None, known: Mapping[str, Metric] = NAMED) -> list[Metric]:
    """Metrics of a name, several names ("accuracy, f1"), Metric objects, callables (outputs, targets) -> score, objects
    of torchmetrics, a list of any of these, or a dict that names them.

    All see the whole set at once, on the CPU. A callable is given NumPy arrays or, if it is written for them, tensors:
    outputs [n, ...] (of one output [n]) and targets [n, ...]: numbers in the user's units, or class ids. Weights of the
    rows go to its argument `sample_weight`, if it has one. A function of sklearn.metrics is given what it is for:
    numbers, class ids, or, where its arguments say so, probabilities.
    space: the label between words, for the word error rate of sequences of characters (`Pipeline.space`); known: the
    metrics that have names (`Pipeline.metrics`).

    >>> [m.name for m in as_metrics("accuracy, f1")]
    ['accuracy', 'f1']
    >>> (hits,) = as_metrics({"hits": lambda outputs, targets: (outputs.argmax(1) == targets).mean()})
    >>> hits.name, hits.whole(np.eye(4), np.array([0, 1, 2, 0]), None)
    ('hits', 0.75)
    """
    match metrics:
        case None:
            asked: Iterable[object] = []
        case str():
            asked = filter(None, (part.strip() for part in metrics.split(",")))
        case Mapping() | nn.ModuleDict():  # the latter: a collection of torchmetrics
            asked = [replace(_metric(one, space, known), name=str(name)) for name, one in metrics.items()]
        case Iterable() if not callable(metrics):
            asked = metrics
        case _:
            asked = [metrics]
    found: dict[str, Metric] = {}
    for metric in (_metric(one, space, known) for one in asked):
        name, k = metric.name, 1  # the second of a name has a number behind it
        if name in ("loss", "rows"):
            raise HandfulError(f"a metric cannot be called '{name}', which names something else; give it another name")
        while name in found:
            name, k = f"{metric.name}_{k + 1}", k + 1
        found[name] = replace(metric, name=name)
    return list(found.values())


def known_metrics(names: str) -> None:
    """HandfulError for a name of no metric: those of one of several targets end in that of a metric."""
    for name in filter(None, map(str.strip, names.split(","))):
        if not any(f"_{name}".endswith(f"_{known}") for known in NAMED):
            raise _no_metric(name, NAMED)


def _no_metric(name: str, known: Iterable[str]) -> HandfulError:
    return HandfulError(f"there is no metric called '{name}'.{did_you_mean(name, known, 'metric')}")


def _metric(asked: object, space: int | None, known: Mapping[str, Metric]) -> Metric:
    match asked:
        case SumMetric() | WholeMetric():
            return asked
        case str():
            if asked in known:
                return error_rate(asked, space) if asked == "word_error_rate" else known[asked]
            if asked in NAMED:
                raise HandfulError(f"{does_not_fit(asked)}.{did_you_mean(asked, known, 'metric')}")
            raise _no_metric(asked, known)
        case Accumulator():
            higher = getattr(asked, "higher_is_better", None)
            better: Better = "auto" if higher is None else "higher" if higher else "lower"
            name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(asked).__name__).lower()
            _check_numbers(type(asked).__module__.startswith("torchmetrics.regression"), name, known)
            return WholeMetric(name, _accumulated(asked), better)
        case _ if callable(asked):
            return _of_callable(asked, known)
    raise HandfulError(f"a metric must be a name or a callable (outputs, targets), not {type(asked).__name__}")


def _check_numbers(compared: bool, name: str, known: Mapping[str, Metric]) -> None:
    if compared and not any(one.endswith("mae") for one in known):
        raise HandfulError(f"the metric {name} does not fit this target, but task='regression': it compares numbers")


def _of_callable(asked: Callable[..., object], known: Mapping[str, Metric]) -> Metric:
    function = asked
    while isinstance(function, partial):
        function = function.func
    name = str(getattr(function, "__name__", type(function).__name__))
    if not str(getattr(function, "__module__", "")).startswith("sklearn.metrics"):
        return WholeMetric("metric" if name == "<lambda>" else name, partial(_own, asked))
    _check_numbers(function.__module__.endswith("_regression"), name, known)
    # scikit-learn's own rule for its names: *_score is to be maximised, *_error, *_loss and *_deviance minimised.
    better: Better = "lower" if name.endswith(("_error", "_loss", "_deviance")) else "higher"
    better = better if re.search("_(score|error|loss|deviance|corrcoef)$", name) else "auto"
    return WholeMetric(name, _of_sklearn(asked, function, name), better)


def _number(result: object) -> float:
    values = np.asarray(result.detach().cpu() if isinstance(result, Tensor) else result)
    if values.size != 1:
        raise ValueError(f"it returned {list(values.shape)} values, not one number")
    return float(values.reshape(()))


def _own(asked: Callable[..., object], outputs: Array, targets: Array, weights: Array | None) -> float:
    """A function of the caller's own: of arrays or of tensors, whichever it is written for, with one output [n, 1] as
    [n], like the target, or else as it is. Where arrays and tensors give different numbers, its author has to say."""
    parameters = list(parameters_of(asked).values())
    wanted = str(parameters[0].annotation) if parameters else ""
    more = {"sample_weight": weights} if weights is not None and "sample_weight" in parameters_of(asked) else {}
    errors: list[Exception] = []
    words: list[str] = []
    for o in dict.fromkeys([_as_target(outputs, targets).shape, outputs.shape]):
        pairs: dict[str, Pair] = {
            "arrays": (outputs.reshape(o), targets),
            "tensors": (torch.from_numpy(outputs.reshape(o)), torch.from_numpy(targets)),
        }
        found: dict[str, float] = {}
        for form, pair in pairs.items():
            if ("Tensor" in wanted and form == "arrays") or ("rray" in wanted and form == "tensors"):
                continue
            try:
                found[form] = _number(asked(*pair, **more))
            except MISTAKES as error:
                errors.append(error)
                words.append(f"of {form}: {error}")
        values = list(found.values())
        if len(values) == 2 and not np.isclose(values[0], values[1], rtol=1e-3, atol=1e-9, equal_nan=True):
            raise ValueError(
                f"it gives {values[0]:.6g} for NumPy arrays and {values[1]:.6g} for tensors; say which it is for in "
                "its arguments, as def metric(outputs: torch.Tensor, targets: torch.Tensor)"
            )
        if values:
            return values[0]
    kind = ValueError if all(type(error) is ValueError for error in errors) else TypeError
    raise kind("; ".join(dict.fromkeys(words)))


def _as_target(outputs: Array, targets: Array) -> Array:
    """Outputs in the shape of the targets, where only a 1 at the end differs: [n, 1] and [n] would spread to [n, n]."""
    return outputs.reshape(targets.shape) if outputs.size == targets.size else outputs


def _accumulated(asked: Accumulator) -> Whole:
    """A metric object, of logits [n, classes] or, where it is for two classes, of the second one's probability."""

    def score(outputs: Array, targets: Array, weights: Array | None) -> float:
        o, t = torch.from_numpy(_as_target(outputs, targets)), torch.from_numpy(targets)
        given = [o]
        if o.shape[1:] == (2,) and t.ndim == 1:
            given.append(torch.from_numpy(probabilities_of(outputs)[:, 1]))
        for last, preds in enumerate(given, start=1 - len(given)):
            metric = copy.deepcopy(asked)  # the caller's own keeps its state
            metric.reset()
            try:
                metric.update(preds, t.to(preds.dtype) if t.is_floating_point() else t)
                return _number(metric.compute())
            except MISTAKES:
                if last == 0:
                    raise
        raise AssertionError("one form was tried last")

    return score


def _classes_in(targets: Array) -> bool:
    """Whether targets are class ids, or yes or no for each label, and not numbers."""
    return targets.dtype.kind in "iu" or bool(np.isin(targets, (0, 1)).all())


def _of_sklearn(asked: Callable[..., object], metric: Callable[..., object], name: str) -> Whole:
    """A function of sklearn.metrics, (y_true, y_pred) or (y_true, y_score), as a metric of outputs and targets."""
    names = list(inspect.signature(metric).parameters)
    of_probabilities = names[1] in ("y_score", "y_prob", "y_proba") or name == "log_loss"

    def score(outputs: Array, targets: Array, weights: Array | None) -> float:
        if ".cluster." in metric.__module__ and not _classes_in(targets):
            raise ValueError("it compares classes, and the target is numbers")
        if "_regression" in metric.__module__ or not _classes_in(targets):
            given = targets, outputs.reshape(targets.shape)
        elif targets.ndim > 1:  # several labels per row
            p = 1 / (1 + np.exp(-outputs.astype(np.float64)))
            given = targets > 0.5, p if of_probabilities else p > 0.5
        elif of_probabilities or names[1] == "pred_decision":
            p = probabilities_of(outputs) if of_probabilities else outputs.reshape(len(outputs), -1)
            one = p[:, 1] - (0 if of_probabilities else p[:, 0]) if p.shape[1] == 2 else p
            given = class_ids(outputs, targets)[1], one
        else:
            given = class_ids(outputs, targets)[::-1]
        more = {"sample_weight": weights} if weights is not None and "sample_weight" in names else {}
        return _number(asked(*given, **more))

    return score
