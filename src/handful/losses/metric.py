"""Metrics, exact over the whole set: sums over rows where the metric allows it, else all outputs at once."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from handful.base.errors import HandfulError
from handful.base.machine import wide
from handful.base.score import Better
from handful.losses import ctc
from handful.losses.loss import IGNORED, class_axis

Array = NDArray[Any]
Sums = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # output, target, weight [m] or None -> sums [k]
Whole = Callable[[Array, Array, Array | None], float]
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class SumMetric:
    """A metric that is a function of sums over rows: cheap in every training step, exact on any number of ranks.

    sums(output, target, weight [m] or None) -> Tensor [k] of sums; finish([k] float64) -> the score.
    centred: the sums about some numbers, where squares would cancel (targets near 1e9 that differ by 1): see `about`.
    many: what rows of many mini-batches, without weights, add to the sums at once, float64 [n, k]: added one after the
    other they are the same to the bit however many there are at once.
    """

    name: str
    sums: Sums
    finish: Callable[[Array], float]
    centred: Callable[[Tensor], "SumMetric"] | None = None
    better: Better = "auto"
    many: Callable[[Tensor, Tensor], Tensor] | None = None

    def about(self, target: Tensor) -> "SumMetric":
        """The same metric, with sums about the median of some targets [m, ...]. About a value that occurs among n rows,
        squares lose at most a factor n of their precision (Chan, Golub and LeVeque 1983). Only sums about the same
        value add up."""
        if self.centred is None or not len(target):
            return self
        of = self.centred(wide(target).reshape(len(target), -1).median(0).values)
        return replace(self, sums=of.sums, many=of.many)


@dataclass(frozen=True)
class WholeMetric:
    """A metric of all rows at once: whole(outputs [n, ...], targets [n, ...], weights [n] or None) -> score.

    better: whether higher or lower is better, where its name does not say."""

    name: str
    whole: Whole
    better: Better = "auto"


Metric = SumMetric | WholeMetric


def _ratio(sums: Array) -> float:
    return float(sums[0] / sums[1]) if sums[1] else float("nan")


def _mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """[sum of weight * value, sum of weight] in float64: counts of right rows stay exact."""
    if weight is not None:
        return torch.stack([(values * weight).sum(dtype=torch.float64), weight.sum(dtype=torch.float64)])
    sums = values.new_full((2,), values.numel(), dtype=torch.float64)
    sums[0] = values.count_nonzero() if values.dtype == torch.bool else values.sum(dtype=torch.float64)
    return sums


def _classes(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Predicted and true class ids, of logits [m, C], [m], [m, 1], [m, T, C] or [m, C, ...]; of soft targets the
    highest."""
    if output.ndim == 2 and target.ndim == 1 and output.shape[1] > 1:
        return output.argmax(1), target
    soft = target.is_floating_point()
    if soft and target.shape == output.shape and output.ndim > 1 and output.shape[-1] > 1:
        return output.argmax(-1), target.argmax(-1)
    if output.shape == target.shape or (output.ndim == target.ndim + 1 and output.shape[-1] == 1):
        return (output.reshape(target.shape) > 0).long(), (target > 0.5).long() if soft else target
    return output.argmax(class_axis(tuple(output.shape), tuple(target.shape)) or 1), target


def _accuracy(output: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    if output.ndim == 2 and target.ndim == 1 and output.shape[1] > 1:  # the usual, at every step
        return _mean(output.argmax(1) == target, weight)
    predicted, true = _classes(output, target)
    return _share(predicted == true, true, weight)


def _share(right: Tensor, true: Tensor, weight: Tensor | None) -> Tensor:
    """[weight of what is right, weight of all], of rows or of their places, of which those of IGNORED do not count."""
    if true.ndim == 1:
        return _mean(right, weight)
    counted = _counted(true, weight)
    return torch.stack([(right * counted).sum(), counted.sum()])


def _counted(true: Tensor, weight: Tensor | None) -> Tensor:
    """What each id [m, ...] counts for, float64."""
    kept = (true != IGNORED).double()
    return kept if weight is None else kept * weight.double().reshape(-1, *[1] * (true.ndim - 1))


def _scored(output: Tensor, target: Tensor) -> Tensor:
    """Logits with the classes in the last axis, for class ids of any form; of a single one those of both classes."""
    if output.ndim == target.ndim or output.shape[-1] == 1:
        one = output.reshape(target.shape)
        return torch.stack([torch.zeros_like(one), one], -1)
    return output.movedim(class_axis(tuple(output.shape), tuple(target.shape)) or 1, -1)


def _label_accuracy(output: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    right = ((output > 0) == (target.reshape(output.shape) > 0.5)).to(torch.float32)
    return _mean(right.flatten(1).mean(1) if right.ndim > 1 else right, weight)


def _top(k: int) -> Sums:
    def sums(output: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        scores = _scored(output, target)
        best = scores.topk(min(k, scores.shape[-1])).indices
        return _share((best == target[..., None]).any(-1), target, weight)

    return sums


def _rows(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float64 [m, k]."""
    o, t = output.double().reshape(len(output), -1), target.double().reshape(len(output), -1)
    if o.shape != t.shape:
        raise HandfulError(f"the model gives {o.shape[1]} numbers per row and the target holds {t.shape[1]}")
    return o, t


def counting(name: str, count: Sums) -> SumMetric:
    """A metric that counts right rows."""
    return SumMetric(name, count, _ratio, many=lambda output, target: count(output, target, None)[None])


def by_row(name: str, values: Sums, finish: Callable[[Array], float] = _ratio, **more: Any) -> SumMetric:
    """A metric of the sums of `values`, float64 [m, k]."""
    return SumMetric(
        name, lambda *seen: values(*seen).sum(0), finish, many=lambda output, target: values(output, target, None),
        **more,
    )  # fmt: skip


def _error(power: int) -> Sums:
    def values(output: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        o, t = _rows(output, target)
        errors = ((o - t).square() if power == 2 else (o - t).abs()).mean(1)
        if weight is None:
            return torch.stack([errors, torch.ones_like(errors)], 1)
        return torch.stack([weight.double() * errors, weight.double()], 1)

    return values


def _r2_about(centre: Tensor) -> SumMetric:
    """By sums of [1, weight, and of each output: d, d^2 and squared error], with d the target's distance from the
    centre."""

    def values(output: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        o, t = _rows(output, target)
        d, error = t - centre.to(t.device), (o - t).square()
        ones = d.new_ones(len(d), 1)
        if weight is None:
            return torch.cat([ones, ones, d, d * d, error], 1)
        w = weight.double()[:, None]
        return torch.cat([ones, w, w * d, w * d * d, w * error], 1)

    return by_row("r2", values, _r2, centred=_r2_about)


def _r2(sums: Array) -> float:
    """Coefficient of determination, the mean over outputs; of one that does not vary 1 without error and else 0, of
    fewer than two rows undefined (all as scikit-learn's `r2_score`)."""
    rows, weight, *rest = sums.tolist()
    if not rows >= 2 or weight == 0:
        return float("nan")
    k, found = len(rest) // 3, list[float]()
    for d, squares, residual in zip(rest[:k], rest[k : 2 * k], rest[2 * k :], strict=True):
        spread = squares - d * d / weight
        found.append(1 - residual / spread if spread > 4 * _EPS * squares else float(residual == 0))
    return found[0] if k == 1 else float(np.mean(found))


def _perplexity_sums(output: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Negative log-likelihood of the true ids; those of IGNORED count for nothing."""
    scores, counted = _scored(output, target).flatten(0, -2), _counted(target, weight)
    nll = F.cross_entropy(scores.float(), target.flatten(), reduction="none", ignore_index=IGNORED)
    return torch.stack([(nll.reshape(target.shape) * counted).sum(), counted.sum()])


def _perplexity(sums: Array) -> float:
    """exp of the mean negative log-likelihood per token (Jelinek et al. 1977)."""
    with np.errstate(over="ignore"):
        return float(np.exp(_ratio(sums)))


def error_rate(name: str, space: int | None = None) -> SumMetric:
    """Edits per label: the insertions, deletions and replacements that turn what was decoded (CTC, best path) into
    the target, over the number of labels in the targets. It can exceed 1.

    space: the label between words: edits and lengths are then counted in words, as in speech recognition's word
    error rate; None: in labels, which is the character error rate where labels are characters.

    >>> logits = torch.nn.functional.one_hot(torch.tensor([[1, 0, 2, 2]]), 4).float()
    >>> rate = error_rate("character_error_rate")
    >>> rate.finish(rate.sums(logits, torch.tensor([[1, 3, 2]]), None).numpy())     # one of three is missing
    0.3333333333333333
    """

    def sums(output: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        found, wanted = ctc.greedy(output), target
        if space is not None:
            found, wanted = ctc.words(found, space), ctc.words(wanted, space)
        edits, count = ctc.edit_distance(found, wanted).double(), (wanted != 0).sum(1).double()
        w = torch.ones_like(count) if weight is None else weight.double()
        return torch.stack([(w * edits).sum(), (w * count).sum()])

    return SumMetric(name, sums, _ratio)


def class_ids(outputs: Array, targets: Array) -> tuple[Array, Array]:
    """Predicted and true class ids of outputs and targets of any form that `accuracy` takes."""
    predicted, true = _classes(torch.from_numpy(outputs), torch.from_numpy(targets))
    return predicted.numpy(), true.numpy()


def probabilities_of(outputs: Array) -> Array:
    """float64 [n, classes] of logits; of a single one, [n] or [n, 1], those of both classes."""
    o = torch.from_numpy(outputs).double()
    if o.ndim == 1 or o.shape[1] == 1:
        p = torch.sigmoid(o.reshape(-1))
        return torch.stack([1 - p, p], 1).numpy()
    return torch.softmax(o, 1).numpy()


def _at_all_places(score: Whole) -> Whole:
    """The score over all places of all rows, where each has a class of its own, as pixels and tokens have; a place of
    IGNORED does not count."""

    def at_places(outputs: Array, targets: Array, weights: Array | None) -> float:
        axis = class_axis(outputs.shape, targets.shape) if targets.dtype.kind in "iu" else None
        if axis is None:
            return score(outputs, targets, weights)
        kept, classes = targets != IGNORED, np.moveaxis(outputs, axis, -1)
        if not kept.any():
            return float("nan")
        weights = (
            None if weights is None else np.broadcast_to(weights.reshape(-1, *[1] * (targets.ndim - 1)), kept.shape)
        )
        return score(classes[kept], targets[kept], None if weights is None else weights[kept])

    return at_places


def _by_label(values: Array) -> Array:
    """[n, labels] of labels [m, k], of a single one [m] or, with a row for each place, of one [m, height, width] or
    several [m, k, height, width] that places have."""
    if values.ndim == 2:
        return values
    return values.reshape(-1, 1) if values.ndim in (1, 3) else np.moveaxis(values, 1, -1).reshape(-1, values.shape[1])


def _mean_of_classes(name: str, outputs: Array, targets: Array, weights: Array | None) -> float:
    """scikit-learn's score of this name of each class or label, and their mean."""
    score = getattr(import_module("sklearn.metrics"), name)
    if targets.ndim > 1 or targets.dtype.kind == "f":  # labels; one that neither occurs nor is predicted has no score
        true, predicted = _by_label(targets) > 0.5, _by_label(outputs.reshape(targets.shape)) > 0
        weights = None if weights is None else np.repeat(weights, len(true) // len(targets))
        kept = np.flatnonzero(true.any(0) | predicted.any(0))
        scores = [score(true[:, k], predicted[:, k], sample_weight=weights, zero_division=0) for k in kept]
        return float(np.mean(scores)) if scores else float("nan")
    predicted, true = class_ids(outputs, targets)
    return float(score(true, predicted, average="macro", sample_weight=weights, zero_division=0))


def _mcc(outputs: Array, targets: Array, weights: Array | None) -> float:
    from sklearn.metrics import matthews_corrcoef

    predicted, true = class_ids(outputs, targets)
    return float(matthews_corrcoef(true.ravel(), predicted.ravel(), sample_weight=weights))


def _balanced(outputs: Array, targets: Array, weights: Array | None) -> float:
    from sklearn.metrics import recall_score

    predicted, true = class_ids(outputs, targets)
    present, true, predicted = np.unique(true), true.ravel(), predicted.ravel()
    return float(recall_score(true, predicted, labels=present, average="macro", sample_weight=weights, zero_division=0))


def _of_ranking(name: str, outputs: Array, targets: Array, weights: Array | None) -> float:
    """scikit-learn's score of this name, of how each class or label ranks the rows, and the mean over those."""
    score = getattr(import_module("sklearn.metrics"), name)
    if targets.ndim > 1:
        true, o = _by_label(targets) > 0.5, _by_label(outputs.reshape(targets.shape))
        weights = None if weights is None else np.repeat(weights, len(true) // len(targets))
        if not (kept := true.any(0) & ~true.all(0)).any():
            return float("nan")
        return float(score(true[:, kept], o[:, kept], average="macro", sample_weight=weights))
    o, true = outputs.astype(np.float64), targets.astype(np.int64)
    present = np.unique(true)
    if len(present) < 2:
        return float("nan")
    # The logit of each class against the rest orders rows as its probability does, which would round to 1.
    if o.ndim == 1 or o.shape[1] == 1:
        return float(score(true, o.reshape(-1), sample_weight=weights))
    if o.shape[1] == 2:
        return float(score(true, o[:, 1] - o[:, 0], sample_weight=weights))
    scores = [
        score(true == c, o[:, c] - np.logaddexp.reduce(np.delete(o, c, 1), axis=1), sample_weight=weights)
        for c in present
    ]
    return float(np.mean(scores))


def _calibration(outputs: Array, targets: Array, weights: Array | None) -> float:
    """Expected calibration error with 15 equal bins of confidence (Naeini et al. 2015; Guo et al. 2017, eq. 3)."""
    p = probabilities_of(outputs)
    confidence, right = p.max(1), p.argmax(1) == targets.ravel().astype(np.int64)
    w = np.ones(len(p)) if weights is None else weights.astype(np.float64)
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = np.bincount(bins, w * (right - confidence), 15)
    return float(np.abs(gaps).sum() / w.sum())


NAMED: dict[str, Metric] = {
    m.name: m
    for m in (
        counting("accuracy", _accuracy),
        SumMetric("label_accuracy", _label_accuracy, _ratio),
        counting("top3", _top(3)),
        counting("top5", _top(5)),
        by_row("mae", _error(1)),
        by_row("mse", _error(2)),
        by_row("rmse", _error(2), lambda sums: float(np.sqrt(_ratio(sums)))),
        _r2_about(torch.zeros(())),
        SumMetric("perplexity", _perplexity_sums, _perplexity),
        error_rate("character_error_rate"),
        error_rate("word_error_rate"),
        WholeMetric("f1", _at_all_places(partial(_mean_of_classes, "f1_score"))),
        WholeMetric("precision", _at_all_places(partial(_mean_of_classes, "precision_score"))),
        WholeMetric("recall", _at_all_places(partial(_mean_of_classes, "recall_score"))),
        WholeMetric("mcc", _at_all_places(_mcc)),
        WholeMetric("iou", _at_all_places(partial(_mean_of_classes, "jaccard_score"))),
        WholeMetric("balanced_accuracy", _at_all_places(_balanced)),
        WholeMetric("auroc", _at_all_places(partial(_of_ranking, "roc_auc_score"))),
        WholeMetric("average_precision", _at_all_places(partial(_of_ranking, "average_precision_score"))),
        WholeMetric("calibration_error", _at_all_places(_calibration)),
    )
}

_OF_CLASSES = (
    "accuracy", "balanced_accuracy", "f1", "precision", "recall", "iou", "mcc", "auroc", "average_precision",
    "calibration_error", "top3", "top5", "perplexity",
)  # fmt: skip
_OF_TASK = {
    "classification": _OF_CLASSES,
    "language": _OF_CLASSES,
    "regression": ("mae", "r2", "mse", "rmse"),
    "multilabel": ("f1", "label_accuracy", "precision", "recall", "iou", "auroc", "average_precision"),
    "sequence": ("word_error_rate", "character_error_rate"),
}
_OF_YES_OR_NO = ("accuracy", "balanced_accuracy", "mcc", "calibration_error")  # of one label alone, too


def metrics_of(task: str | None, of_ids: bool = True, outputs: int = 0) -> dict[str, Metric]:
    """The named metrics that say something of a task: all where it is not known. of_ids: whether a row's target is one
    class, and not shares of several; outputs: numbers per row that are predicted, 0 where that does not matter."""
    names = _OF_TASK.get(task or "", tuple(NAMED)) if of_ids else ("accuracy",)
    return {name: NAMED[name] for name in (*names, *(_OF_YES_OR_NO if (task, outputs) == ("multilabel", 1) else ()))}


def does_not_fit(name: str) -> str:
    """That a named metric is of another task.

    >>> does_not_fit("mae")
    "the metric 'mae' does not fit this target, but task='regression'"
    """
    of = next(task for task, names in _OF_TASK.items() if name in names)
    return f"the metric '{name}' does not fit this target, but task='{of}'"
