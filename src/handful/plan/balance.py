"""How evenly the classes (or labels) of the training rows occur, and what follows from it."""

import numpy as np
from numpy.typing import NDArray

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
        if pipeline.task == "multilabel":
            counts[:-1] += (y > 0.5).reshape(len(y), -1).sum(0).numpy()
        else:
            counts[:-1] += y.bincount(minlength=pipeline.outputs)[: pipeline.outputs].numpy()
        counts[-1] += len(rows)
    return counts


def uneven(counts: NDArray[np.int64] | None) -> bool:
    """Whether accuracy would say little: one class is far commoner than others.

    >>> uneven(np.array([95, 5, 100])), uneven(np.array([60, 40, 100]))
    (True, False)
    """
    if counts is None or counts[:-1].sum() == 0:
        return False
    classes = counts[:-1][counts[:-1] > 0]
    return bool(classes.max() > UNEVEN * classes.min())


def describe(pipeline: Pipeline, counts: NDArray[np.int64] | None, *, weighted: bool) -> list[str]:
    """Sentences on the balance, where it matters. weighted: the loss weights classes already."""
    if counts is None or not counts[-1]:
        return []
    rows, each = int(counts[-1]), counts[:-1]
    if pipeline.task == "multilabel":
        shares = each / rows
        return [
            f"a row has {each.sum() / rows:.2g} of {len(each)} labels on average; a label is in {shares.min():.1%} to "
            f"{shares.max():.1%} of the training rows"
        ]
    if not uneven(counts):
        return []
    names = pipeline.classes or tuple(map(str, range(len(each))))
    most, least = int(each.argmax()), int(np.where(each > 0, each, rows + 1).argmin())
    note = (
        f"classes are uneven: '{names[most]}' is {each[most] / rows:.1%} of the training rows, '{names[least]}' "
        f"{each[least] / rows:.1%} ({each[least]:,} rows); always predicting '{names[most]}' scores "
        f"{each[most] / rows:.1%} accuracy, so balanced accuracy decides"
    )
    return [note if weighted else f"{note}; class_weight='balanced' lets every class count the same in the loss"]
