"""What is to be predicted: encoded for the loss, and decoded to the user's terms."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.base.errors import HandfulError, did_you_mean
from handful.data.base import Column, Ragged, Rows, Value
from handful.data.gather import Array
from handful.data.tables.cells.strings import composed
from handful.losses import ctc
from handful.losses.loss import IGNORED, class_axis
from handful.losses.outputs import LINKS, exact, part_of, tensors_in
from handful.transform.steps.categories import code_table, strings
from handful.transform.steps.numbers import index_of, padded
from handful.transform.steps.step import stored
from handful.transform.target_values import check_present, in_row, labels_of, plain_numbers, written

Label = str | int | float | bool


@dataclass(frozen=True, eq=False)
class Target:
    """The fitted target: `encode` gives `y`, `decode` gives predictions in the user's own terms.

    dtype: the user's (numpy's name, or "str"); shape: of one row of it, None where it varies; outputs: numbers that a
    model gives per row (or place); classes: in the order of the ids; of_probabilities: the model's outputs are
    probabilities, not logits; words: how the classes, numbers or dates, are written; form: of numbers that stand for
    dates or times, as `written` takes it; part: of the model's output that predicts it ("" is all of it), or None where
    no part does; ignored: the number of rows (IGNORED in y) that the loss leaves out; places: of rows that differ in
    length, the input whose places each have a class.
    """

    column: str
    dtype: str
    shape: tuple[int | None, ...]
    outputs: int
    classes: tuple[Label, ...] = ()
    of_probabilities: bool = False
    words: tuple[str, ...] = ()
    form: str = ""
    part: str | None = ""
    ignored: int | None = None
    places: str = ""
    task: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        stored(cls)

    @property
    def dense(self) -> bool:
        """Whether a row has several numbers of its own."""
        return None in self.shape or self.size > 1 or len(self.shape) > 1

    @property
    def counted(self) -> bool:
        """Whether y is class ids, of which those that stand for no class do not count."""
        return True

    @property
    def size(self) -> int:
        """The numbers of a row; a side that varies counts as 1."""
        return math.prod([side or 1 for side in self.shape])  # a list: torch.export traces it, too

    def encode(self, value: Value, column: Column, rows: Rows, where: str) -> Tensor:
        """y of some rows. column: of the source the values came from; rows, where: for messages.

        Raises HandfulError naming the row for a missing target or a class that training did not have.
        """
        return self._numbers(value, column, rows, where)

    def known(self, value: Value, column: Column) -> NDArray[np.bool_]:
        """Whether a row's target is one that can be predicted, bool [m]: not a class that training did not have."""
        return np.ones(len(value), dtype=np.bool_)

    def decode(self, outputs: Tensor, beams: int = 1) -> Array:
        """Predictions as a NumPy array.

        Class names or values in the user's dtype, numbers in the user's units, 0 or 1 for each label of a
        multilabel target (threshold 0.5), token ids [m, T] of a language model; for sequences an object array of
        texts or arrays of labels, decoded by CTC's best path (beams above 1: by prefix search)."""
        if beams != 1:
            raise HandfulError(f"beams must be 1 for any task but sequence; this is a {self.task}, not {beams}")
        return self._decode(outputs)

    def _decode(self, outputs: Tensor) -> Array:
        return written(self.numbers(outputs), self.form)

    def numbers(self, outputs: Tensor) -> Array:
        """Predictions of a regression in the target's units, of dates and times seconds."""
        raise HandfulError(f"what predicts '{self.column}' is not known; run.outputs(data) gives the outputs")

    def probabilities(self, outputs: Tensor) -> Tensor:
        """float64 [m, classes] from logits: softmax; of a single logit, sigmoid as the second class's."""
        x = exact(outputs)
        return x.softmax(self._axis(x))

    def scores(self, outputs: Tensor) -> Tensor:
        """What an exported model gives, float64: probabilities of classes and labels, numbers in the target's units."""
        return self.probabilities(outputs)

    def linked(self, *links: str) -> "Target":
        """The target where links (of `LINKS`, or "") make numbers of the outputs, one for each of several targets."""
        return self

    def prediction(self, outputs: object) -> Tensor:
        """The part of a model's outputs that predicts the target; HandfulError where there is none."""
        found = None if self.part is None else part_of(outputs, self.part)
        if not isinstance(found, Tensor):
            raise HandfulError(
                f"the model's outputs do not predict '{self.column}'{self.task and f' (a {self.task})'}; "
                "run.outputs(data) gives them"
            )
        return found

    @property
    def scale(self) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation, float64 [] or [k], by which y was standardised; None if it was not."""
        return None

    def resolve_task(self, output: object) -> "Target":
        """The target of an own model whose output for some rows is known, where whole numbers [m, ...] leave the task
        open: a class for each place (pixel, token) where the output scores classes there; with as many outputs as
        numbers yes or no for each, or, of other numbers, the numbers; labels without times (CTC) else."""
        return self

    def _resolved(self, output: object, binary: bool, classes: int) -> "Target":
        if not self.dense or np.dtype(self.dtype).kind not in "iub":
            return self
        given = [o for o in tensors_in(output) if o.ndim and o.is_floating_point()]
        for shape in (self.shape, self.shape[self.shape[:1] == (1,) :]):  # without the one channel of pictures in files
            if any(class_axis(tuple(o.shape), (len(o), *shape)) is not None for o in given):
                return ClassIds(self.column, self.dtype, shape, classes, ignored=self.ignored, places=self.places)
        if None not in self.shape and any(o[:1].numel() == self.size for o in given):
            return (Multilabel if binary else Regression)(self.column, self.dtype, self.shape, self.size)
        return self

    def _axis(self, outputs: Tensor) -> int:
        """Where an output holds the classes."""
        return (class_axis(tuple(outputs.shape), (outputs.shape[0], *self.shape)) if self.dense else None) or -1

    def _numbers(self, value: Value, column: Column, rows: Rows, where: str) -> Tensor:
        """The values, checked to be numbers and all there."""
        if not isinstance(value, Tensor) or column.classes is not None:
            raise HandfulError(f"the target '{self.column}' of {where} is {column.kind}, not numbers as in training")
        check_present(value, self.column, rows, where)
        return value

    def _unseen(self, value: Label, row: int, where: str) -> None:
        if value == "":
            raise HandfulError(f"the target '{self.column}' is missing {in_row(row, where)}")
        hint = f".{did_you_mean(str(value), map(str, self.classes[:50]))}" if self.classes else ""
        if type(value) in (int, float) and len(self.classes) > 2:  # as a count may be
            hint = f"; trained with task='regression', the number is predicted{hint}"
        raise HandfulError(
            f"the target '{self.column}' is '{value}' {in_row(row, where)}, a class that the training rows do not "
            f"have{hint}"
        )


class Classification(Target):
    """One class per row, or per place of a row."""

    task: ClassVar[str] = "classification"

    def _left_out(self, values: Tensor) -> Tensor:
        """bool [m]: rows that stand for no class."""
        return torch.zeros_like(values, dtype=torch.bool) if self.ignored is None else values == self.ignored

    def probabilities(self, outputs: Tensor) -> Tensor:
        x = exact(outputs)
        if len(self.classes) == 2 and (x.dim() == 1 or x.shape[1] == 1):
            second = x.reshape(-1) if self.of_probabilities else x.reshape(-1).sigmoid()
            return torch.stack([1 - second, second], dim=1)
        return x.softmax(self._axis(x))

    def _decode(self, outputs: Tensor) -> Array:
        shares = self.probabilities(outputs)
        ids = shares.argmax(self._axis(shares) if self.dense else 1).numpy()
        if self.form.startswith(("datetime64", "timedelta64")):
            return written(np.array(self.classes, dtype=np.float64)[ids], self.form)
        kind = np.dtype(object if self.dtype == "str" or self.words else self.dtype)
        return np.array(self.words or self.classes, dtype=kind)[ids] if self.classes else ids.astype(kind)


class ClassNames(Classification):
    """Classes that are strings: y is their ids, int64 [m]."""

    def encode(self, value: Value, column: Column, rows: Rows, where: str) -> Tensor:
        found = self._ids(value, column, where)
        for row in (found < 0).nonzero()[:1].flatten().tolist():
            self._unseen(strings(value, column)[row], int(rows[row]), where)
        return found

    def known(self, value: Value, column: Column) -> NDArray[np.bool_]:
        found = (self._ids(value, column, "") >= 0).numpy()
        return found if found.all() else found | np.array([not text for text in strings(value, column)])

    def _ids(self, value: Value, column: Column, where: str) -> Tensor:
        """The id of each row's class, -1 where training did not have it or it is missing."""
        known = cast(tuple[str, ...], self.classes)
        if column.classes is not None and isinstance(value, Tensor):
            return code_table(known, column.classes, 0, -1)[value]
        if column.dtype == "str":
            ids = {composed(name): i for i, name in enumerate(known)}
            return torch.tensor([ids.get(composed(name), -1) for name in strings(value, column)], dtype=torch.int64)
        raise HandfulError(f"the target '{self.column}' of {where} holds {column.kind}, not the class names")


class ClassValues(Classification):
    """Classes that are numbers: y is their ids, int64 [m], IGNORED where the row counts for nothing."""

    def encode(self, value: Value, column: Column, rows: Rows, where: str) -> Tensor:
        values = self._numbers(value, column, rows, where).reshape(-1)
        found = self._ids(values)
        for row in np.flatnonzero((found < 0) & (found != IGNORED))[:1]:
            self._unseen(values[row].item(), int(rows[row]), where)
        return torch.from_numpy(found)

    def known(self, value: Value, column: Column) -> NDArray[np.bool_]:
        if not isinstance(value, Tensor) or value.dim() > 1:
            return super().known(value, column)
        found = self._ids(value)
        known: NDArray[np.bool_] = (found >= 0) | (found == IGNORED) | torch.isnan(value).numpy()
        return known

    def _ids(self, values: Tensor) -> NDArray[np.int64]:
        """The id of each row's class, -1 where training did not have it."""
        found = index_of(plain_numbers(values), np.array(self.classes, dtype=self.dtype))
        found[self._left_out(values).numpy()] = IGNORED
        return found


class Shares(Classification):
    """Shares of classes [m, k] that add up to 1 in every row: y is they, and so are predictions."""

    @property
    def dense(self) -> bool:
        return False

    @property
    def counted(self) -> bool:
        return False

    def encode(self, value: Value, column: Column, rows: Rows, where: str) -> Tensor:
        return self._numbers(value, column, rows, where) * 1.0

    def _decode(self, outputs: Tensor) -> Array:
        return np.asarray(self.probabilities(outputs).numpy().astype(self.dtype))


class ClassIds(Classification):
    """Class ids already, [m, ...], as an own model takes them; IGNORED is a row or place that the loss leaves out."""

    def encode(self, value: Value, column: Column, rows: Rows, where: str) -> Tensor:
        if isinstance(value, Ragged):  # a class for each place
            value = padded(value.values, value.offsets.diff(), IGNORED)
        y = self._numbers(value, column, rows, where).to(torch.int64)
        y = y.squeeze(1) if y.ndim == len(self.shape) + 2 else y
        y = y.masked_fill(self._left_out(y), IGNORED)
        none_left_out = not self.dense and self.ignored is None
        outside = ((y < 0) & ((y != IGNORED) | none_left_out)) | ((y >= self.outputs) & (self.part is not None))
        if outside.any():
            self._unseen(int(y[outside][0]), int(rows[int(outside.nonzero()[0, 0])]), where)
        return y

    def resolve_task(self, output: object) -> Target:
        return self._resolved(output, self.outputs <= 2, self.outputs)


class OneHot(ClassIds):
    """A matrix [m, k] with one 1 per row: y is its place, int64 [m]; predictions are places, too."""

    def encode(self, value: Value, column: Column, rows: Rows, where: str) -> Tensor:
        y = self._numbers(value, column, rows, where)
        wrong = ((y != 0) & (y != 1)).any(1) | (y.to(torch.float32).sum(1) != 1)
        for row in wrong.nonzero()[:1].flatten().tolist():
            raise HandfulError(
                f"the target '{self.column}' has no single 1 {in_row(rows[row], where)}, as every row of training has; "
                "task='multilabel' takes rows with any number of them"
            )
        return y.to(torch.float32).argmax(1)

    def resolve_task(self, output: object) -> Target:
        return self


@dataclass(frozen=True, eq=False)
class Regression(Target):
    """Numbers. mean, std: float64 [] or [k], by which y is standardised; None where an own model gets y as it is; link:
    see `linked`."""

    task: ClassVar[str] = "regression"
    mean: Tensor | None = None
    std: Tensor | None = None
    link: str = ""

    @property
    def scale(self) -> tuple[Tensor, Tensor] | None:
        return None if self.mean is None or self.std is None else (self.mean, self.std)

    def linked(self, *links: str) -> Target:
        return replace(self, link=links[0])

    def encode(self, value: Value, column: Column, rows: Rows, where: str) -> Tensor:
        y = self._numbers(value, column, rows, where)
        if self.scale:
            return ((y.to(torch.float64) - self.scale[0]) / self.scale[1]).to(torch.float32)
        return y if y.is_floating_point() else y.to(torch.float32)

    def probabilities(self, outputs: Tensor) -> Tensor:
        raise HandfulError(f"a {self.task} has no probabilities; use the predictions")

    def scores(self, outputs: Tensor) -> Tensor:
        x = exact(outputs)
        x = x.reshape(x.shape[0], *map(int, filter(None, self.shape))) if x[:1].numel() == self.size else x
        x = LINKS[self.link](x) if self.link else x
        return x * self.scale[1] + self.scale[0] if self.scale else x

    def numbers(self, outputs: Tensor) -> Array:
        return np.asarray(self.scores(outputs).numpy().astype(self.dtype if "float" in self.dtype else np.float64))


@dataclass(frozen=True, eq=False)
class Multilabel(Target):
    """Labels, each 0 or 1 by itself: y is float32 [m, ...], or as_is, where an own model gets its floating numbers."""

    task: ClassVar[str] = "multilabel"
    as_is: bool = False

    def encode(self, value: Value, column: Column, rows: Rows, where: str) -> Tensor:
        y = self._numbers(value, column, rows, where)
        return y if self.as_is else y.to(torch.float32)

    def probabilities(self, outputs: Tensor) -> Tensor:
        return exact(outputs) if self.of_probabilities else exact(outputs).sigmoid()

    def resolve_task(self, output: object) -> Target:
        return self._resolved(output, True, 2)

    def _decode(self, outputs: Tensor) -> Array:
        yes = exact(outputs) > (0.5 if self.of_probabilities else 0)
        return np.asarray(yes.numpy().astype(self.dtype)).reshape(len(yes), *map(int, filter(None, self.shape)))


class AsItIs(Target):
    """What a collate function of the caller's gives for a batch: y is that."""

    def encode(self, value: Value, column: Column, rows: Rows, where: str) -> Any:
        return value


class NextTokens(Target):
    """The tokens of a language model: y is their ids as they are, int64 [m, T]."""

    task: ClassVar[str] = "language"

    def _decode(self, outputs: Tensor) -> Array:
        return np.asarray(outputs.detach().argmax(-1).cpu().numpy())


class LabelSequence(Target):
    """Sequences of labels without times, for CTC: integers, or text, whose labels are its characters.

    Sequences that vary in length become ids 1.. in the order of `classes`, int64 [m, L] padded with 0, the blank of
    CTC; without classes they are an own model's ids [m, L], as they are.
    """

    task: ClassVar[str] = "sequence"

    def encode(self, value: Value, column: Column, rows: Rows, where: str) -> Tensor:
        if not self.classes:
            return self._numbers(value, column, rows, where)
        labels, lengths = labels_of(value, column, self.column)
        at = index_of(labels, np.array(self.classes, dtype=labels.dtype))
        for wrong in np.flatnonzero(at < 0)[:1]:
            row = int(np.searchsorted(lengths.cumsum(), wrong, side="right"))
            self._unseen(labels[wrong].item(), int(rows[row]), where)
        return padded(torch.from_numpy(at + 1), torch.from_numpy(lengths))

    def resolve_task(self, output: object) -> Target:
        return self._resolved(output, self.outputs <= 2, self.outputs)

    def decode(self, outputs: Tensor, beams: int = 1) -> Array:
        if beams < 1:
            raise HandfulError(f"beams must be at least 1, not {beams}")
        ids = ctc.greedy(outputs.detach().cpu()) if beams == 1 else ctc.beam_search(outputs, beams)
        out = np.empty(len(ids), dtype=object)
        kind = np.dtype(str if self.dtype == "str" else self.dtype)
        known = np.array(self.classes, dtype=kind)
        for i, row in enumerate(ids):
            labels = row[row > 0].numpy()
            found = known[labels - 1] if self.classes else labels.astype(kind)
            out[i] = "".join(found) if self.dtype == "str" else found
        return out
