"""What is to be predicted: found out from training rows, encoded for the loss, decoded."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful import ctc
from handful.errors import HandfulError, did_you_mean
from handful.places import class_axis
from handful.source.base import Column, Ragged, Value
from handful.transform.step import code_table, stored

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
