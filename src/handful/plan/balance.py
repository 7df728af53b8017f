"""How evenly the classes (or labels) of the training rows occur, and what follows from it: weights of the classes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.base.errors import HandfulError, did_you_mean
from handful.batches.arguments import SHUFFLES
from handful.data.base import Rows, Source
from handful.data.tables.cells.strings import composed
from handful.report.words import say_share
from handful.transform.pipeline import Pipeline
from handful.transform.rows import blocks
from handful.transform.target import Target

ClassWeight = str | Sequence[float] | Mapping[object, float] | None

BALANCED, WEIGHTED = "balanced", "weighted by "  # ways to draw rows, with replacement
UNEVEN = 5.0  # times that the commonest class is larger than the rarest: then accuracy hides how the rare ones fare
FEW = 5  # held-out rows of a class: below, its share of balanced accuracy moves in steps of a quarter or more
ENOUGH = 500  # rows of other classes than the commonest, or an eighth of few rows: below, Adam goes more slowly


def known_shuffle(how: str) -> None:
    """HandfulError for a way to draw rows that there is not."""
    known = (*SHUFFLES, BALANCED, f"{WEIGHTED}COLUMN")
    if how not in known[:-1] and not sampling_column(how):
        raise HandfulError(f"shuffle '{how}' is not known.{did_you_mean(how, known)}")


def sampling_column(shuffle: str) -> str | None:
    """The column of the weights by which rows are drawn, or None.

    >>> sampling_column("weighted by need"), sampling_column("exact")
    ('need', None)
    """
    return shuffle.removeprefix(WEIGHTED).strip() if shuffle.startswith(WEIGHTED) else None


def count(pipeline: Pipeline, train: Source, weight: str | None = None) -> NDArray[np.int64] | None:
    """Rows of each class, or rows that have each label, and the number of rows last; None for other tasks. weight:
    column of the rows' weights, which are added up instead of the rows, float64."""
    target = pipeline.target
    if target is None or pipeline.task not in ("classification", "multilabel") or len(target.shape) > 1:
        return None
    if pipeline.task == "classification" and (target.dense or not target.counted):  # a class for each token, or shares
        return None
    counts: NDArray[Any] = np.zeros(pipeline.outputs + 1, dtype=np.int64 if weight is None else np.float64)
    for rows in blocks(len(train), 65536):
        y = encoded(pipeline, target, train, rows)
        if pipeline.task == "multilabel":
            counts[:-1] += (y > 0.5).reshape(len(y), -1).sum(0).numpy()
        else:
            each = None if weight is None else as_floats(train.read_column(weight, rows))[y >= 0]
            y = y[y >= 0]  # of those that count
            counts[:-1] += y.bincount(each, minlength=pipeline.outputs)[: pipeline.outputs].numpy()
        counts[-1] += len(y)
    return counts


def encoded(pipeline: Pipeline, target: Target, train: Source, rows: Rows) -> Tensor:
    """The target of some training rows as the loss takes it."""
    return target.encode(train.read_column(target.column, rows), pipeline.columns[target.column], rows, train.name)


def as_floats(values: object) -> Tensor:
    """Weights of rows, float64 [n]."""
    return torch.as_tensor(values, dtype=torch.float64).reshape(-1)


def mean_weight(
    pipeline: Pipeline,
    train: Source,
    weight: str | None,
    class_weight: Sequence[float] | None,
    rows: NDArray[np.int64] | None = None,
) -> float:
    """What a training row counts for on average: its weight times its class's, or those of its places added up; a row
    or place that stands for no class counts 0. weight: column of the rows' weights; rows: these alone, not all."""
    every, total = np.arange(len(train)) if rows is None else rows, 0.0
    for places in blocks(len(every), 65536):
        part = every[places]
        each = torch.ones(len(part), dtype=torch.float64)
        if (target := pipeline.target) is not None and pipeline.task == "classification" and target.counted:
            y = encoded(pipeline, target, train, part).long()
            of = torch.tensor([1.0] * pipeline.outputs if class_weight is None else class_weight, dtype=torch.float64)
            counted = of[y.clamp_min(0)]
            each = torch.where(y >= 0, counted, 0).reshape(len(part), -1).sum(1)
        if weight is not None:
            each = each * as_floats(train.read_column(weight, part))
        total += float(each.sum())
    return total / len(every)


def uneven(counts: NDArray[np.int64] | None) -> bool:
    """Whether accuracy would say little: one class is far commoner than others.

    >>> uneven(np.array([95, 5, 100])), uneven(np.array([60, 40, 100]))
    (True, False)
    """
    if counts is None or counts[:-1].sum() == 0:
        return False
    classes = counts[:-1][counts[:-1] > 0]
    return bool(classes.max() > UNEVEN * classes.min())


def calmer(pipeline: Pipeline, counts: NDArray[np.int64] | None) -> tuple[float, str]:
    """(factor, reason): what the open rate of Adam and its kin is multiplied by where few rows are of another class
    than the commonest (of each label: have it, or have it not). All others are soon right, and the few decide the loss;
    but a step of Adam is as long whatever the gradient, so that they are learned by heart while held-out rows, of which
    a few are like them, cannot tell. The root was set on one task in which 1 row in 200 is of the rare class."""
    if counts is None or not counts[-1]:
        return 1.0, ""
    each, rows = counts[:-1], int(counts[-1])
    rarer = np.minimum(each, rows - each)  # of a label: to have it, or not
    others = int(rarer.sum() if pipeline.task == "multilabel" else each.sum() - each.max())
    why = f"only {others:,} rows are of another class than the commonest"
    return math.sqrt(min(1.0, others / min(ENOUGH, rows / 8))) if others else 1.0, why


def evenness(pipeline: Pipeline, counts: NDArray[np.int64] | None) -> float:
    """How many rows of an even task tell as much of a score as one of these does. Where every class counts the same,
    its error is that of the mean of the classes' shares, of which a rare class's is known by few rows: k^2 / sum of 1 /
    share; F1 of labels is known by the rows that have one."""
    if counts is None or not counts[-1]:
        return 1.0
    classes = counts[:-1][counts[:-1] > 0]
    if pipeline.task == "multilabel":
        return min(1.0, float(classes.sum() / counts[-1]))
    return float(len(classes) ** 2 / (classes.sum() * (1 / classes).sum())) if uneven(counts) else 1.0


def describe(
    pipeline: Pipeline, counts: NDArray[np.int64] | None, valid: Source | None = None, *, weighted: bool
) -> list[str]:
    """Sentences on the balance, where it matters. valid: the held-out rows; weighted: the loss weights classes."""
    if counts is None or not counts[-1]:
        return []
    rows, each = int(counts[-1]), counts[:-1]
    if pipeline.task == "multilabel":
        shares = each / rows
        return [
            f"a row has {each.sum() / rows:.2g} of {len(each)} labels on average; a label is in "
            f"{say_share(shares.min())} to {say_share(shares.max())} of the training rows"
        ]
    held = None if valid is None else count(pipeline.on(valid, target=True), valid)
    names = pipeline.classes or tuple(map(str, range(len(each))))
    if not uneven(counts):
        if held is None or not (none := (each > 0) & (held[:-1] == 0)).any():
            return []
        return [
            f"{none.sum():,} of {len(each):,} classes have no held-out row ('{names[int(none.argmax())]}'): no score "
            "tells how they fare, and the weights that are kept are chosen without them"
        ]
    most, least = int(each.argmax()), int(np.where(each > 0, each, rows + 1).argmin())
    share = say_share(each[most] / rows)
    note = (
        f"classes are uneven: '{names[most]}' is {share} of the training rows, '{names[least]}' "
        f"{say_share(each[least] / rows)} ({each[least]:,} row{'s' * int(each[least] > 1)}); always predicting "
        f"'{names[most]}' scores {share} accuracy, so balanced accuracy decides"
    )
    said = [note if weighted else f"{note}; class_weight='balanced' lets every class count the same in the loss"]
    if held is not None and (few := (each > 0) & (held[:-1] < FEW)).any():
        first = int(np.where(few, held[:-1], FEW).argmin())
        said.append(
            f"{few.sum():,} of {len(each):,} classes have fewer than {FEW} held-out rows ('{names[first]}' "
            f"{held[first]}): balanced accuracy hardly tells how they fare; hold out more rows (valid=0.3) or find more"
        )
    return said


def class_weights(
    asked: ClassWeight, labels: Sequence[object], counts: NDArray[np.int64] | None = None, outputs: int = 0
) -> tuple[float, ...] | None:
    """A weight for each class: n / (k * n_c) for "balanced" (as scikit-learn's), the numbers given in the order of the
    classes, or those given by label (a dict or a pandas Series), where a class that is not named counts 1.

    counts: training rows of each class, or their weights added up, and of all rows; outputs: scores of the model per
    row or place, of which those that stand for no class of the data have the weight 1.
    Raises HandfulError for labels that are no classes, and for numbers that are not finite, below 0 or all 0.

    >>> class_weights({"b": 5}, ["a", "b"]), class_weights([0.5, 2], ["a", "b"])
    ((1.0, 5.0), (0.5, 2.0))
    """
    if asked is None:
        return None
    names = [str(label) for label in labels]
    if hasattr(asked, "to_dict"):  # a pandas Series
        asked = asked.to_dict()
    at = list(range(len(labels)))
    match asked:
        case str() if asked == "balanced":
            given = _balanced(counts)
        case Mapping():
            given, at = np.asarray(list(asked.values())), [_class_of(label, labels, names) for label in asked]
        case _:
            given = np.asarray(asked)
    if given.dtype.kind not in "iuf" or given.ndim != 1:
        raise HandfulError(
            f"class_weight must be 'balanced', {len(labels)} numbers or a dict of numbers by label, not {asked!r}"
        )
    if len(given) != len(at) and len(given) != outputs:
        raise HandfulError(
            f"class_weight has {len(given)} numbers but there are {len(labels)} classes: {', '.join(names)}"
        )
    for value in given[~(np.isfinite(given) & (given >= 0))]:
        raise HandfulError(f"a class_weight must be finite and at least 0, not {float(value)}")
    weights = np.ones(max(outputs, len(labels)))
    weights[at if len(given) == len(at) else slice(None)] = given
    if not weights[: len(labels)].any():
        raise HandfulError("class_weight is 0 for every class, so there is nothing to learn")
    return tuple(weights.tolist())


def _balanced(counts: NDArray[np.int64] | None) -> NDArray[np.float64]:
    if counts is None:
        raise HandfulError("class_weight='balanced' counts one class per row; pass a number per class instead")
    each = counts[:-1]
    return np.array([float(f"{v:.6g}") for v in each.sum() / (len(each) * np.where(each > 0, each, 1))])


def _class_of(label: object, labels: Sequence[object], names: Sequence[str]) -> int:
    """The place of a class by its label, or by the label as text."""
    if label in labels:
        return labels.index(label)
    if (name := composed(str(label))) in (known := list(map(composed, names))):
        return known.index(name)
    raise HandfulError(f"class_weight names {label!r}, which is not a class.{did_you_mean(str(label), names)}")
