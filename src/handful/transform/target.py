"""What is to be predicted: found out from training rows, encoded for the loss, decoded."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.base.errors import HandfulError, did_you_mean
from handful.data.base import Column, Ragged, Value
from handful.losses import ctc
from handful.losses.loss import class_axis
from handful.transform.step import Moments, code_table, stored

TASKS = ("classification", "regression", "multilabel", "language", "sequence")
Label = str | int | float | bool


@stored
@dataclass(frozen=True, eq=False)
class Target:
    """The fitted target: `encode` gives `y`, `decode` gives predictions in the user's own terms.

    dtype: the user's (numpy's name, or "str"); shape: of one row of the user's target; classes: in the order
    of the ids; as_is: y is the user's values (an own model's); mean, std: float64 [] or [k], of a
    standardised target; shares: the model's outputs are probabilities, not logits.
    A sequence that varies in length (a Ragged of integers, or text, whose labels are then its characters) becomes
    ids 1.. in the order of classes, int64 [m, L] padded with 0, the blank of CTC.
    """

    column: str
    task: str
    dtype: str
    shape: tuple[int, ...]
    outputs: int
    classes: tuple[Label, ...] = ()
    as_is: bool = False
    mean: Tensor | None = None
    std: Tensor | None = None
    shares: bool = False

    @property
    def wide(self) -> bool:
        """Whether a row has several numbers of its own."""
        return math.prod(self.shape) > 1 or len(self.shape) > 1

    def settled(self, output: Any) -> "Target":
        """The target of an own model whose output for some rows is known, where whole numbers [m, ...] leave the task
        open: a class for each place (pixel, token) where the output scores classes there; with as many outputs as
        numbers yes or no for each, or, of other numbers, the numbers; labels without times (CTC) else."""
        if not isinstance(output, Tensor) or not self.wide or np.dtype(self.dtype).kind not in "iub":
            return self
        if self.task not in ("sequence", "multilabel", "classification"):
            return self
        binary = self.task == "multilabel" or self.outputs <= 2
        if class_axis(tuple(output.shape), (len(output), *self.shape)) is not None:
            highest = 2 if self.task == "multilabel" else self.outputs
            return replace(self, task="classification", outputs=highest, as_is=True)
        if output[:1].numel() == math.prod(self.shape):
            task = "multilabel" if binary else "regression"
            return replace(self, task=task, outputs=math.prod(self.shape), as_is=not binary)
        return self

    def encode(self, value: Value, column: Column, rows: NDArray[np.int64], where: str) -> Tensor:
        """y of some rows. column: of the source the values came from; rows, where: for messages.

        Raises HandfulError naming the row for a missing target or a class that training did not have.
        """
        if self.task == "classification" and not self.as_is:
            return torch.from_numpy(self._ids(value, column, rows, where))
        if self.task == "sequence" and not self.as_is:
            return self._labels(value, column, rows, where)
        if not isinstance(value, Tensor):
            raise HandfulError(f"The target '{self.column}' of {where} is {column.kind}, not numbers as in training.")
        complain_missing(value, self.column, rows, where)
        if self.task == "classification":
            y = value.to(torch.int64)
            outside = ((y < 0) & ~(self.wide & (y == -100))) | (y >= self.outputs)  # -100: a place left out of the loss
            if outside.any():
                self._unseen(int(y[outside][0]), int(rows[int(outside.nonzero()[0])]), where)
            return y
        if self.as_is:
            narrow = self.task == "regression" and not value.is_floating_point()
            return value.to(torch.float32) if narrow else value
        if self.mean is not None and self.std is not None:
            return ((value.to(torch.float64) - self.mean) / self.std).to(torch.float32)
        return value.to(torch.float32 if self.task in ("regression", "multilabel") else torch.int64)

    def _ids(self, value: Value, column: Column, rows: NDArray[np.int64], where: str) -> NDArray[np.int64]:
        if self.dtype == "str":
            known_names = tuple(map(str, self.classes))
            if isinstance(value, Tensor) and column.classes is not None:
                table = code_table(known_names, column.classes, 0, -1).numpy()
                codes = value.numpy()
                found = table[codes]
                names = [*column.classes, ""]
                wrong = np.flatnonzero(found < 0)
                bad = names[codes[wrong[0]]] if len(wrong) else ""
            elif isinstance(value, list):
                ids = {name: i for i, name in enumerate(known_names)}
                found = np.array([ids.get(str(name), -1) for name in value], dtype=np.int64)
                wrong = np.flatnonzero(found < 0)
                bad = str(value[wrong[0]] or "") if len(wrong) else ""
            else:
                raise HandfulError(f"The target '{self.column}' of {where} holds {column.kind}, not the class names.")
        else:
            if not isinstance(value, Tensor) or column.classes is not None:
                raise HandfulError(f"The target '{self.column}' of {where} holds {column.kind}, not numbers.")
            complain_missing(value, self.column, rows, where)
            known, values = (
                np.array(self.classes, dtype=np.float64),
                value.reshape(-1).numpy().astype(np.float64),
            )
            at = np.searchsorted(known, values).clip(max=len(known) - 1)
            found = np.where(known[at] == values, at, -1).astype(np.int64)
            wrong = np.flatnonzero(found < 0)
            bad = str(value.reshape(-1)[int(wrong[0])].item()) if len(wrong) else ""
        if len(wrong):
            self._unseen(bad, int(rows[wrong[0]]), where)
        return np.asarray(found)

    def _labels(self, value: Value, column: Column, rows: NDArray[np.int64], where: str) -> Tensor:
        """Sequences of labels as ids from 1 on, int64 [m, L], padded with 0."""
        labels, lengths = labels_of(value, column, self.column)
        known = np.array(self.classes, dtype=labels.dtype)
        if not len(known) or not len(labels):
            return torch.zeros(len(lengths), 1, dtype=torch.int64)
        at = np.searchsorted(known, labels).clip(max=len(known) - 1)
        wrong = np.flatnonzero(known[at] != labels)
        if len(wrong):
            row = int(np.searchsorted(lengths.cumsum(), wrong[0], side="right"))
            self._unseen(labels[wrong[0]].item(), int(rows[row]), where)
        y = torch.zeros(len(lengths), max(1, int(lengths.max())), dtype=torch.int64)
        y[torch.arange(y.shape[1]) < torch.from_numpy(lengths)[:, None]] = torch.from_numpy(at + 1)
        return y

    def _sequences(self, outputs: Tensor, beams: int) -> NDArray[Any]:
        """Texts, or arrays of labels, one a row: the best path of CTC, or with more beams the likeliest labels."""
        ids = ctc.greedy(outputs.detach().cpu()) if beams == 1 else ctc.beam_search(outputs, beams)
        rows = [row[row > 0].numpy() for row in ids]
        out = np.empty(len(rows), dtype=object)
        kind = str if self.dtype == "str" else np.dtype(self.dtype)
        known = np.array(self.classes, dtype=kind)
        for i, row in enumerate(rows):
            found = row.astype(kind) if self.as_is else known[row - 1]
            out[i] = "".join(found) if self.dtype == "str" else found
        return out

    def _unseen(self, value: Label, row: int, where: str) -> None:
        if value == "":
            raise HandfulError(f"The target '{self.column}' is missing in row {row} of {where} (rows count from 0).")
        hint = did_you_mean(str(value), map(str, self.classes[:50])) if self.classes else ""
        raise HandfulError(
            f"The target '{self.column}' is '{value}' in row {row} of {where} (rows count from 0), a class "
            f"that the training rows do not have.{hint}"
        )

    def probabilities(self, outputs: Tensor) -> Tensor:
        """float64 [m, classes] from logits: softmax; of a single logit, sigmoid as the second class's."""
        x = outputs.detach().to("cpu", torch.float64)
        if self.task == "multilabel":
            return x if self.shares else x.sigmoid()
        if self.task not in ("classification", "language", "sequence"):
            raise HandfulError(f"A {self.task} has no probabilities; use the predictions.")
        if self.task == "classification" and len(self.classes) == 2 and (x.dim() == 1 or x.shape[1] == 1):
            second = x.reshape(-1) if self.shares else x.reshape(-1).sigmoid()
            return torch.stack([1 - second, second], dim=1)
        return x.softmax(self._axis(x))

    def _axis(self, outputs: Tensor) -> int:
        """Where an output holds the classes."""
        return (class_axis(tuple(outputs.shape), (len(outputs), *self.shape)) if self.wide else None) or -1

    def decode(self, outputs: Tensor, beams: int = 1) -> NDArray[Any]:
        """Predictions as a NumPy array.

        Class names or values in the user's dtype, numbers in the user's units, 0 or 1 for each label of a
        multilabel target (threshold 0.5), token ids [m, T] of a language model; for sequences an object array of
        texts or arrays of labels, decoded by CTC's best path (beams above 1: by prefix search)."""
        if beams < 1 or (beams > 1 and self.task != "sequence"):
            raise HandfulError(f"beams is a whole number from 1 on, and above 1 for sequences; this is a {self.task}.")
        if self.task == "classification":
            shares = self.probabilities(outputs)
            ids = shares.argmax(self._axis(shares) if self.wide else 1).numpy()
            kind: Any = object if self.dtype == "str" else np.dtype(self.dtype)
            return np.array(self.classes, dtype=kind)[ids] if self.classes else ids.astype(kind)
        if self.task == "sequence":
            return self._sequences(outputs, beams)
        if self.task == "language":
            return np.asarray(outputs.detach().argmax(-1).cpu().numpy())
        x = outputs.detach().to("cpu", torch.float64)
        if self.task == "multilabel":
            return np.asarray((x > (0.5 if self.shares else 0)).numpy().astype(self.dtype)).reshape(len(x), *self.shape)
        x = x.reshape(len(x), *self.shape) if x[0:1].numel() == math.prod(self.shape) or len(x) == 0 else x
        if self.mean is not None and self.std is not None:
            x = x * self.std + self.mean
        return np.asarray(x.numpy().astype(self.dtype if np.dtype(self.dtype).kind == "f" else np.float64))


def complain_missing(value: Tensor, name: str, rows: NDArray[np.int64], where: str) -> None:
    """Raise HandfulError naming the first row in which a float target is NaN or infinite."""
    if not value.is_floating_point():
        return
    bad = ~torch.isfinite(value.flatten(1) if value.dim() > 1 else value[:, None]).all(1)
    if bad.any():
        i = int(bad.nonzero()[0])
        what = "missing (NaN)" if torch.isnan(value[i]).any() else "infinite"
        raise HandfulError(
            f"The target '{name}' is {what} in row {int(rows[i])} of {where} (rows count from 0); "
            "remove the row or fill it in."
        )


def labels_of(value: Value, column: Column, name: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The labels of all rows, joined, and how many each row has: integers of a Ragged, characters of text.

    White space in text is one blank between words."""
    if isinstance(value, Tensor) and column.classes is not None:
        value = [(*column.classes, "")[code] for code in value.tolist()]
    if isinstance(value, list):
        texts = [" ".join(str(text or "").split()) for text in value]
        joined = "".join(texts)
        return np.array(list(joined), dtype="<U1"), np.array([len(t) for t in texts], dtype=np.int64)
    if isinstance(value, Ragged) and value.values.dim() == 1 and not value.values.is_floating_point():
        return value.values.numpy().astype(np.int64), np.diff(value.offsets.numpy()).astype(np.int64)
    raise HandfulError(f"The sequences of '{name}' must be text or whole numbers, not {column.kind}.")


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
