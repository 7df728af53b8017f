"""What the target is: found out from the training rows."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from handful.errors import HandfulError, did_you_mean
from handful.source.base import Column, Ragged, Value
from handful.transform.step import Moments
from handful.transform.target import TASKS, Label, Target, complain_missing, labels_of

_UNIQUE = 1_000_000  # distinct values kept while looking for classes


class TargetFitter:
    """Looks at the training rows' target chunk by chunk, then decides what it is."""

    def __init__(self, name: str, column: Column, where: str) -> None:
        self.name, self.column, self.where = name, column, where
        self.n, self.unique, self.many = 0, np.zeros(0), False
        self.names: set[str] = set()
        self.binary, self.whole, self.tensor = True, True, torch.zeros(0)
        self.moments = Moments()
        self.ragged, self.labels = False, set[Label]()

    def update(self, value: Value, rows: NDArray[np.int64]) -> None:
        """Add the target of some training rows; rows: their numbers, for messages."""
        self.n += len(rows)
        if isinstance(value, Ragged):
            if value.values.dim() != 1 or value.values.is_floating_point():
                raise HandfulError(
                    f"The target '{self.name}' has rows of different lengths, which only sequences of whole numbers "
                    "may have; pad them to a [m, T] array."
                )
            self.ragged = True
            self._look_at_labels(value)
            return
        if isinstance(value, list) or self.column.classes is not None:
            self._strings(value, rows)
            return
        complain_missing(value, self.name, rows, self.where)
        self.tensor = value[:0]
        self.moments.update(value)
        self.binary = self.binary and bool(((value == 0) | (value == 1)).all())
        if value.is_floating_point():
            self.whole = self.whole and bool((value == value.round()).all())
        if value[:1].numel() <= 1 and not self.many:
            self.unique = np.union1d(self.unique, value.reshape(-1).to(torch.float64).numpy())
            self.many = len(self.unique) > _UNIQUE

    def _look_at_labels(self, value: Value) -> None:
        """The labels of sequences: all integers of a Ragged, all characters of texts."""
        self.labels.update(np.unique(labels_of(value, self.column, self.name)[0]).tolist())
        if len(self.labels) > _UNIQUE:
            raise HandfulError(f"The target '{self.name}' has more than {_UNIQUE} different labels.")

    def _strings(self, value: Value, rows: NDArray[np.int64]) -> None:
        classes = self.column.classes
        names = value if isinstance(value, list) else [(*(classes or ()), "")[c] for c in value.tolist()]  # type: ignore[union-attr]
        for i, name in enumerate(names):
            if name is None or name in ("", b""):
                raise HandfulError(
                    f"The target '{self.name}' is missing in row {int(rows[i])} of {self.where} "
                    "(rows count from 0); remove the row or fill it in."
                )
        self.names.update(map(str, names))
        self._look_at_labels([str(name) for name in names])

    def decide(self, own_model: bool, task: str | None) -> tuple[Target, list[str]]:
        """The Target, and notes on what was decided and why. task: the user's word, which wins."""
        if task is not None and task not in TASKS:
            raise HandfulError(f"There is no task '{task}'.{did_you_mean(task, TASKS)}")
        if self.ragged or (self.names and task == "sequence"):
            return self._of_sequences(task)
        if self.names:
            return self._of_names(task)
        shape, floating = tuple(self.tensor.shape[1:]), self.tensor.is_floating_point()
        notes: list[str] = []
        wide = math.prod(shape) > 1 or len(shape) > 1
        if task is None:
            task, notes = self._guess_wide(own_model, floating) if wide else self._guess(own_model, floating, shape)
        dtype = str(self.tensor.dtype).removeprefix("torch.").replace("bfloat16", "float32")  # NumPy has none
        if task == "classification" and not wide:
            return self._of_numbers(dtype, shape, own_model, notes)
        if task in ("sequence", "language", "classification"):
            if floating:
                raise HandfulError(f"A {task} target needs integers; '{self.name}' holds {dtype}.")
            outputs = int(self.moments.high.max()) + 1
            return Target(self.name, task, dtype, shape, outputs, as_is=True), notes
        if wide and not own_model and len(shape) > 1:
            raise HandfulError(f"The ready-made models predict numbers [m] or [m, k]; '{self.name}' is {shape} a row.")
        outputs = math.prod(shape)
        if task == "multilabel":
            if not self.binary:
                raise HandfulError(f"A multilabel target holds 0 and 1 only; '{self.name}' holds other values.")
            notes.append(f"'{self.name}' holds {outputs} label(s) of 0 or 1: each is predicted on its own.")
            kept = own_model and floating
            return Target(self.name, task, dtype, shape, outputs, as_is=kept), notes
        if own_model:
            return Target(self.name, task, dtype, shape, outputs, as_is=True), notes
        if (self.moments.std == 0).all():
            raise HandfulError(
                f"The target '{self.name}' is the same in every training row; there is nothing to learn."
            )
        std = torch.where(self.moments.std > 0, self.moments.std, 1.0)
        notes.append(f"'{self.name}' is predicted as a number, standardised for training; scores are in its own units.")
        return Target(self.name, task, dtype, shape, outputs, mean=self.moments.mean, std=std), notes

    def _guess_wide(self, own_model: bool, floating: bool) -> tuple[str, list[str]]:
        if self.binary and (floating or not own_model or self.tensor.dtype in (torch.bool, torch.uint8)):
            return "multilabel", []
        if floating or not own_model:
            return "regression", []
        return "sequence", []

    def _guess(self, own_model: bool, floating: bool, shape: tuple[int, ...]) -> tuple[str, list[str]]:
        n, k = self.n, len(self.unique)
        if self.tensor.dtype == torch.bool:
            return "classification", []
        if floating and own_model:
            return ("multilabel" if self.binary and k == 2 else "regression"), []
        if floating:
            if not self.whole or k > max(2, min(20, math.sqrt(n))):
                return "regression", []
            why = f"'{self.name}' holds only {k} different whole numbers, so they are taken for classes"
            return "classification", [f"{why}; task='regression' predicts the number."]
        if own_model and self._dense():
            return "classification", []
        if self.many or k > max(20, math.sqrt(n)) or (k > 10 and 2 * k > n):
            count = f"more than {_UNIQUE}" if self.many else str(k)
            why = f"'{self.name}' holds {count} different whole numbers in {n} rows, too many for classes"
            return "regression", [f"{why}: a number is predicted; task='classification' takes them for classes."]
        return "classification", []

    def _dense(self) -> bool:
        """Class ids already: 0..k-1, of which most occur."""
        low, high = float(self.moments.low.min()), float(self.moments.high.max())
        return low >= 0 and (self.many or high < 2 * len(self.unique))

    def _of_sequences(self, task: str | None) -> tuple[Target, list[str]]:
        if task not in (None, "sequence"):
            raise HandfulError(f"'{self.name}' holds sequences of different lengths, which cannot be a {task} target.")
        classes = tuple(sorted(self.labels))
        if not classes:
            raise HandfulError(f"The target '{self.name}' has no labels: all its sequences are empty.")
        what = "characters" if self.names else "labels"
        notes = [
            f"'{self.name}' holds sequences of {len(classes)} {what}; a row's times are not given: CTC finds them."
        ]
        kind = "str" if self.names else "int64"
        return Target(self.name, "sequence", kind, (), len(classes) + 1, classes=classes), notes

    def _of_names(self, task: str | None) -> tuple[Target, list[str]]:
        if task not in (None, "classification"):
            raise HandfulError(
                f"A {task} needs a target of numbers; '{self.name}' holds text such as '{min(self.names)}'."
            )
        k = len(self.names)
        if (k == self.n and k > 20) or (self.column.kind == "text" and k > max(20, math.sqrt(self.n))):
            raise HandfulError(
                f"The target '{self.name}' holds free text ({k} different values in {self.n} rows), not "
                "classes; name another column as the target."
            )
        self._at_least_two(k, min(self.names))
        return Target(self.name, "classification", "str", (), k, classes=tuple(sorted(self.names))), []

    def _of_numbers(
        self, dtype: str, shape: tuple[int, ...], own_model: bool, notes: list[str]
    ) -> tuple[Target, list[str]]:
        if self.many:
            raise HandfulError(
                f"The target '{self.name}' has more than {_UNIQUE} different values, too many for classes."
            )
        self._at_least_two(len(self.unique), self.unique[0])
        whole = np.dtype(dtype).kind in "iu"
        if own_model and whole and self._dense():
            k = int(self.unique[-1]) + 1
            return Target(self.name, "classification", dtype, shape, k, classes=tuple(range(k)), as_is=True), notes
        values: NDArray[Any] = self.unique.astype(dtype)
        if own_model:
            said = f"{values[0]}..{values[-1]}" if whole else ", ".join(map(str, values[:5]))
            notes.append(f"The classes of '{self.name}' ({said}) become the ids 0..{len(values) - 1}.")
        return Target(self.name, "classification", dtype, shape, len(values), classes=tuple(values.tolist())), notes

    def _at_least_two(self, k: int, example: Any) -> None:
        if k < 2:
            raise HandfulError(
                f"The target '{self.name}' of {self.where} has only one class in the training rows "
                f"('{example}'); there is nothing to tell apart."
            )
