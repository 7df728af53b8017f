"""How evenly the classes (or labels) of the training rows occur, and what follows from it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from handful.data.base import Batch, Source
from handful.transform.pipeline import Pipeline

UNEVEN = 5.0  # times that the commonest class is larger than the rarest: then accuracy hides how the rare ones fare


def count(pipeline: Pipeline, train: Source) -> NDArray[np.int64] | None:
    """Rows of each class, or rows that have each label, and the number of rows last; None for other tasks."""
    target = pipeline.target
    if target is None or pipeline.task not in ("classification", "multilabel") or len(target.shape) > 1:
        return None
    counts = np.zeros(pipeline.outputs + 1, dtype=np.int64)
    for start in range(0, len(train), 65536):
        rows = np.arange(start, min(start + 65536, len(train)))
        batch = Batch({target.column: train.read_column(target.column, rows)}, rows)
        y = target.encode(batch[target.column], pipeline.columns[target.column], rows, train.name)
        if y.dim() > 1 and pipeline.task == "classification":
            return None  # a class for each token
        found = (
            (y > 0.5).reshape(len(y), -1).sum(0) if pipeline.task == "multilabel" else _bincount(y, pipeline.outputs)
        )
        counts[:-1] += found.numpy()
        counts[-1] += len(rows)
    return counts


def _bincount(y: Tensor, classes: int) -> Tensor:
    return y.bincount(minlength=classes)[:classes]


def uneven(counts: NDArray[np.int64] | None) -> bool:
    """Whether accuracy would say little: one class is far commoner than others.

    >>> uneven(np.array([95, 5, 100])), uneven(np.array([60, 40, 100]))
    (True, False)
    """
    if counts is None or counts[:-1].sum() == 0:
        return False
    classes = counts[:-1][counts[:-1] > 0]
    return bool(classes.max() > UNEVEN * classes.min())


def say(pipeline: Pipeline, counts: NDArray[np.int64] | None, class_weight: Any) -> list[str]:
    """Sentences on the balance, where it matters."""
    if counts is None or not counts[-1]:
        return []
    rows, each = int(counts[-1]), counts[:-1]
    if pipeline.task == "multilabel":
        shares = each / rows
        return [
            f"A row has {each.sum() / rows:.2g} of {len(each)} labels on average; a label is in {shares.min():.1%} to "
            f"{shares.max():.1%} of the training rows."
        ]
    if not uneven(counts):
        return []
    names = pipeline.classes or tuple(map(str, range(len(each))))
    most, least = int(each.argmax()), int(np.where(each > 0, each, rows + 1).argmin())
    said = (
        f"Classes are uneven: '{names[most]}' is {each[most] / rows:.1%} of the training rows, '{names[least]}' "
        f"{each[least] / rows:.1%} ({each[least]:,} rows); always saying '{names[most]}' would have an accuracy of "
        f"{each[most] / rows:.1%}, so balanced accuracy decides."
    )
    weighted = (
        "" if class_weight is not None else " class_weight='balanced' lets every class count the same in the loss."
    )
    return [said + weighted]
