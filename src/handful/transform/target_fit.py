"""What the target is: found out from the training rows."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.base.errors import HandfulError, did_you_mean
from handful.data.base import Column, Rows, Value
from handful.data.tables.cells.strings import composed, read_numbers, reader
from handful.data.tables.types import TEXT
from handful.data.targets import names_of
from handful.losses.left_out import ignored_id, link_of, takes_shares, task_of
from handful.losses.loss import IGNORED, as_loss, name_of
from handful.transform.steps.categories import strings
from handful.transform.steps.statistics import Moments
from handful.transform.target import (
    AsItIs,
    ClassIds,
    ClassNames,
    ClassValues,
    Label,
    LabelSequence,
    Multilabel,
    NextTokens,
    OneHot,
    Regression,
    Shares,
    Target,
)
from handful.transform.target_values import check_present, form_of, in_row, labels_of, plain_numbers, written

TASKS = ("classification", "regression", "multilabel", "language", "sequence")
_PLACES = 1 << 16  # ids of the places of a row that are told apart
MOST_IDS = 10  # whole numbers with decimals, counted from 0 or 1, that are ids of classes, as NumPy reads text
_LEAST_AMOUNTS = 7  # different whole numbers from which on the order of their counts tells (0.6 in 1 order of 100)
_FEW, _FAR = 50, 0.25  # rows from which on one is far from the others; of the variance, the part that it makes then
_UNIQUE = 1_000_000  # distinct values kept while looking for classes


def known_task(task: str) -> None:
    """HandfulError for a task that there is not."""
    if task not in TASKS:
        raise HandfulError(f"there is no task '{task}'.{did_you_mean(task, TASKS, 'task')}")


class TargetFitter:
    """Looks at the training rows' target chunk by chunk, then decides what it is; notes: what was decided and why."""

    def __init__(self, name: str, column: Column, where: str, loss: object = None) -> None:
        """loss: that is to be minimised, where it may leave a class id out; None for the usual one."""
        self.name, self.column, self.where, self.loss = name, column, where, loss
        self.no_class, self.left, self.first_left = IGNORED, 0, 0  # rows of no class: how many, the first
        self.notes: list[str] = []
        self.n, self.many = 0, False  # rows; whether too many numbers occur to keep them
        self.unique: NDArray[np.generic] = np.zeros(0)  # numbers in rising order
        self.counts = self.first = np.zeros(0, dtype=np.int64)  # the rows that hold each, the first of them
        self.names, self.ragged, self.labels = dict[str, str](), False, set[Label]()  # names by their composed form
        self.binary, self.whole, self.tensor = True, True, torch.zeros(0)
        self.moments = Moments()
        self.sums_to_one = True  # whether the numbers of every row add up to 1, none below 0

    def update(self, value: Value, rows: Rows) -> None:
        """Add the target of some training rows; rows: their numbers, for messages."""
        self.n += len(rows)
        if self.column.kind == "collated":
            return
        if isinstance(value, Tensor) and self.column.classes is None:
            self._look_at_numbers(value, rows)
            return
        self.ragged = self.column.varies
        if not self.ragged:
            names = strings(value, self.column)
            if "" in names:
                raise self._wrong(
                    f"is missing {in_row(rows[names.index('')], self.where)}; remove the row or fill it in"
                )
            for name in dict.fromkeys(names):
                self.names.setdefault(composed(name), name)
            return
        self._look_at_labels(value)

    def _look_at_labels(self, value: Value) -> None:
        self.labels.update(np.unique(labels_of(value, self.column, self.name)[0]).tolist())
        if len(self.labels) > _UNIQUE:
            raise self._wrong(f"has more than {_UNIQUE} different labels")

    def _look_at_numbers(self, value: Tensor, rows: Rows) -> None:
        check_present(value, self.name, rows, self.where)
        self.tensor = value[:0]
        self.moments.update(value)
        self.binary = self.binary and bool(((value == 0) | (value == 1)).all())
        if self.sums_to_one and value.ndim == 2:
            sums = value.to(torch.float64).sum(1)
            self.sums_to_one = bool((value >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all())
        if value.is_floating_point():
            self.whole = self.whole and bool((value == value.round()).all())
        if value[:1].numel() <= 1 and not self.many:
            found, at, counts = np.unique(plain_numbers(value), return_index=True, return_counts=True)
            first = rows[at]
            if len(self.unique):  # what came before, too
                both, first = np.append(self.unique.astype(found.dtype), found), np.append(self.first, first)
                counts = np.append(self.counts, counts)
                found, at, same = np.unique(both, return_index=True, return_inverse=True)
                counts, first = np.bincount(same, counts).astype(np.int64), first[at]
            self.unique, self.counts, self.first = found, counts, first
            self.many = len(self.unique) > _UNIQUE
        elif not (self.many or value.is_floating_point() or value.numel() == 0):
            low = int(value.min())
            self.many = int(value.max()) - low >= _PLACES
            if not self.many:
                codes = torch.bincount((value.to(torch.int64) - low).flatten()).nonzero().flatten() + low
                self.unique = np.union1d(self.unique.astype(np.int64), codes.numpy())

    def decide(self, own_model: bool, task: str | None, by_place: str | None = None) -> Target:
        """The Target. task: the user's word, which wins; by_place: rows that differ in length hold a class for each
        place, see `Target.places`."""
        if task is not None:
            known_task(task)
        if self.column.kind == "collated":
            self._note("reaches the loss as the collate function gives it: no score is known for it.")
            return AsItIs(self.name, "object", (), 0, part=None)
        if by_place is not None and self.ragged and not self.names and task in (None, "classification"):
            largest = int(max(self.labels, default=0))
            self._note(f"holds a class for each place of a row: padded with {IGNORED}, which counts for nothing.")
            return ClassIds(self.name, "int64", (None,), largest + 1, ignored=IGNORED, places=by_place)
        if self.ragged or (self.names and task == "sequence"):
            return self._of_labels(task)
        return self._of_names(task) if self.names else self._of_numbers(own_model, task)

    def _of_labels(self, task: str | None) -> Target:
        if task not in (None, "sequence"):
            raise HandfulError(f"'{self.name}' holds sequences of different lengths, which cannot be a {task} target")
        if self.names:
            self._look_at_labels([*self.names.values()])
        classes = tuple(sorted(self.labels))
        if not classes:
            raise self._wrong("has no labels: all its sequences are empty")
        what, dtype = ("characters", "str") if self.names else ("labels", "int64")
        self._note(f"holds sequences of {len(classes)} {what}; a row's times are not given: CTC finds them.")
        return LabelSequence(self.name, dtype, (), len(classes) + 1, classes)

    def _of_names(self, task: str | None) -> Target:
        if task not in (None, "classification"):
            example = min(self.names.values())
            raise HandfulError(f"a {task} needs a target of numbers; '{self.name}' holds text such as '{example}'")
        k = len(self.names)
        if (k == self.n and k > 20) or (self.column.kind == "text" and k > max(20, math.sqrt(self.n))):
            count = f"{k} different values in {self.n} rows"
            raise self._wrong(f"holds free text ({count}), not classes; name another column as the target")
        if k < 2:
            raise self._one_alone(min(self.names.values()))
        return ClassNames(self.name, "str", (), k, tuple(sorted(self.names.values())))

    def _of_numbers(self, own_model: bool, task: str | None) -> Target:
        shape: tuple[int | None, ...] = tuple(self.tensor.shape[1:])
        shape = self.column.shape if self.column.varies else shape  # where a batch has a length of its own
        floating, outputs = self.tensor.is_floating_point(), math.prod(side or 1 for side in shape)
        dense = outputs > 1 or len(shape) > 1 or None in shape
        dtype = str(self.tensor.dtype).removeprefix("torch.").replace("bfloat16", "float32")  # NumPy has none
        if self._of_classes(shape, task):
            return self._of_shares(outputs, dtype)
        ignored = None if floating or task not in (None, "classification") else self._set_aside(own_model, len(shape))
        task = task or (
            self._guess_dense(own_model, floating) if dense else self._by_loss() or self._guess(own_model, floating)
        )
        if task == "classification" and not dense:
            return replace(self._of_values(dtype, shape, own_model, ignored), ignored=ignored)
        if task in ("sequence", "language", "classification"):
            if floating:
                raise HandfulError(f"a {task} target needs integers; '{self.name}' holds {dtype}")
            kind = {"sequence": LabelSequence, "language": NextTokens, "classification": ClassIds}[task]
            if len(shape) > 1 and self.unique.tolist() == [0, 255]:
                self._note("holds 0 and 255 alone, as masks do: `y // 255` makes them a yes or no for each place.")
            largest = int(self.moments.high.max() if self.many else self.unique[-1])
            return kind(self.name, dtype, shape, largest + 1, ignored=ignored)
        if not own_model and len(shape) > 1:
            raise HandfulError(f"ready-made models predict numbers [m] or [m, k]; a row of '{self.name}' is {shape}")
        if task == "multilabel":
            if not self.binary:
                raise HandfulError(f"a multilabel target holds 0 and 1 only; '{self.name}' holds other values")
            self._note(f"holds {outputs} times 0 or 1: each is predicted on its own.")
            return Multilabel(self.name, dtype, shape, outputs, as_is=own_model and floating)
        return self._amounts(own_model, dtype, shape, outputs)

    def _amounts(self, own_model: bool, dtype: str, shape: tuple[int | None, ...], outputs: int) -> Target:
        self._say_far()
        link = self._link()
        if own_model:
            return Regression(self.name, dtype, shape, outputs, form=form_of(self.column))
        mean, std = self.moments.mean, self.moments.std
        if (std == 0).all():
            raise self._wrong("is the same in every training row; there is nothing to learn")
        if link:
            self._note(f"is predicted by {link} of what the model gives; scores are in its own units.")
            size = torch.where((mean > 0) & (link == "exp"), mean, 1.0)  # so that rates begin near their mean
            return Regression(self.name, dtype, shape, outputs, mean=torch.zeros_like(mean), std=size)
        units = "seconds (a day has 86,400)" if self.column.dates else "its own units"
        self._note(f"is predicted as a number, standardised for training and in the loss; other scores are in {units}.")
        spread, form = torch.where(std > 0, std, 1.0), form_of(self.column)
        return Regression(self.name, dtype, shape, outputs, form=form, mean=mean, std=spread)

    def _link(self) -> str:
        """What makes numbers of the outputs by the loss, if that is not the identity; the target is held to it."""
        link = None if self.loss in (None, "auto", "model") else link_of(as_loss(self.loss)[0])
        low, high = float(self.moments.low.min()), float(self.moments.high.max())
        if link and (low < 0 or (high > 1 and link != "exp")):
            wanted = "counts or rates of 0 or more" if link == "exp" else "0 to 1"
            raise self._wrong(f"goes from {low:.6g} to {high:.6g}, and the loss is for {wanted}")
        return link or ""

    def _say_far(self) -> None:
        """Say where one row is so far from the others that a loss of squares is mostly its own."""
        if self.many or self.n < _FEW or not len(self.counts) or not torch.isfinite(self.moments.m2):
            return
        squares = (self.unique.astype(np.float64) - float(self.moments.mean)) ** 2
        at = int(squares.argmax())
        share = squares[at] / max(float(self.moments.m2), 1e-300)
        if share > _FAR:
            self._note(
                f"is {self.unique[at]:.6g} {in_row(self.first[at], self.where)}, so far from the others that this row "
                f"alone makes {share:.0%} of their variance: leave it out if it is a mistake or a total."
            )

    def _of_classes(self, shape: tuple[int | None, ...], task: str | None) -> bool:
        """Whether each row's numbers are the shares of classes, as the usual loss takes them. Labels that have names
        are labels."""
        named = self.column.labels or names_of(self.name)
        one_row = len(shape) == 1 and (shape[0] or 0) > 1 and not named
        if not (one_row and self.sums_to_one and task in (None, "classification")):
            return False
        return self._usual or (callable(self.loss) and takes_shares(self.loss, shape[0] or 0))

    @property
    def _usual(self) -> bool:
        return self.loss in (None, "auto") or "cross_entropy" in (self.loss, name_of(self.loss))

    def _of_shares(self, k: int, dtype: str) -> Target:
        if self.binary and self._usual:
            self._note(
                f"has one 1 per row, so it is taken for {k} classes, 0 to {k - 1}; task='multilabel' for labels."
            )
            return OneHot(self.name, "int64", (), k, tuple(range(k)))
        self._note(f"holds numbers that add up to 1 in every row, so they are taken for the shares of {k} classes; "
                   "task='regression' predicts them as numbers.")  # fmt: skip
        return Shares(self.name, dtype if self.tensor.is_floating_point() else "float32", (k,), k)

    def _set_aside(self, own_model: bool, places: int) -> int | None:
        """Take the id that the loss leaves out from the classes, where the others are ids; the id, None elsewhere."""
        if self.many or self.column.dates is not None:
            return None
        ignored = ignored_id(self.loss, self.unique.tolist(), places)
        self.no_class = IGNORED if ignored is None else ignored
        kept = self.unique != self.no_class
        others = self.unique[kept]
        if not (len(others) and others[0] >= 0 and (own_model or others[-1] < 2 * len(others))):
            return None
        if not places:
            self.left, self.first_left = int(self.counts[~kept].sum()), int(self.first[~kept].sum())
        elif not kept.all() and ignored is not None:
            self._note(f"is {ignored} in some places, which stand for no class: neither loss nor scores count them.")
        self.unique, self.n = others, self.n - self.left
        if len(self.counts):
            self.counts, self.first = self.counts[kept], self.first[kept]
        return ignored

    def _say_left_out(self, ignored: int | None) -> None:
        if not self.left:
            return
        what = f"is {self.no_class}, which stands for no class, in {self.left:,} training rows"
        if ignored is None:
            raise self._wrong(
                f"{what}, first {in_row(self.first_left, self.where)}, and this loss does not leave such rows out: "
                "remove them, or train with cross_entropy"
            )
        self._note(f"{what}: the loss leaves them out, and neither scores nor class weights count them.")

    def _guess_dense(self, own_model: bool, floating: bool) -> str:
        if self.binary and (floating or not own_model or self.tensor.dtype in (torch.bool, torch.uint8)):
            return "multilabel"
        if floating or not own_model:
            return "regression"
        return "classification" if self.loss == "model" else "sequence"  # a model may make either of its labels

    def _by_loss(self) -> str | None:
        """The task of the caller's loss, where the values can be what it compares."""
        task = None if self.tensor.dtype == torch.bool else task_of(self.loss)
        return None if task == "classification" and not self.whole else task

    def _guess(self, own_model: bool, floating: bool) -> str:
        n, k = self.n, len(self.unique)
        if self.tensor.dtype == torch.bool:
            return "classification"
        if floating and own_model:
            return "multilabel" if self.binary and k == 2 else "regression"
        if floating:
            few = k <= max(20, math.sqrt(n))
            ids = k <= MOST_IDS and self.whole and set(self.unique) in (set(range(k)), set(range(1, k + 1)))
            ids = ids and not self._why_amounts()
            if self.whole and (k <= 2 or ids or (few and self.column.dates is not None)):
                self._note(
                    f"holds {k} different whole numbers, taken for classes; task='regression' predicts the number."
                )
                return "classification"
            if self.whole and few:
                why = f"{k} different whole numbers with decimals, as amounts have them, so it is predicted as a number"
                self._note(f"holds {why}; task='classification' takes them for classes.")
            return "regression"
        elif not (own_model and self._are_ids()) and (self.many or k > max(20, math.sqrt(n)) or (k > 10 and 2 * k > n)):
            count = f"more than {_UNIQUE}" if self.many else str(k)
            why = f"{count} different whole numbers in {n} rows, too many for classes"
            self._note(f"holds {why}: a number is predicted; task='classification' takes them for classes.")
            return "regression"
        elif not own_model and (why := self._why_amounts()):
            self._note(f"holds {k} different whole numbers, {why}: a number is predicted; task='classification' takes "
                       "them for classes.")  # fmt: skip
            return "regression"
        elif not own_model and k > 2 and not self.column.words:
            least, most = self.unique[0], self.unique[-1]
            self._note(f"is taken for {k} classes, {least} to {most}; task='regression' predicts it as a number.")
        return "classification"

    def _why_amounts(self) -> str:
        """Why whole numbers are counted or measured, or "". More than ten that follow one another, and not from 0 or 1
        on, as ids do: years, ages. Or those next to one another are about as common, where the order of ids means
        nothing, by von Neumann's ratio (1941) of the roots of the counts (variance 1/4 by chance alone): squared
        differences over squared deviations, 2 on average for an order without meaning. Of up to ten numbers, which may
        be ids in the order of how common they are, the commonest lies well inside, or the last are rare, with gaps."""
        k, counts = len(self.unique), self.counts
        if k < _LEAST_AMOUNTS or self.column.words or self.column.dates is not None:
            return ""
        least, most = int(self.unique[0]), int(self.unique[-1])
        if k > MOST_IDS and least not in (0, 1) and most - least < 1.5 * k:
            return f"which go on from {least}, as years and ages do"
        roots = np.sqrt(counts)
        inside = roots.max() > max(roots[0], roots[-1]) + 1  # by more than chance: ids may be about equally common
        tail = most - least >= k and counts[-1] == counts.min()
        deviations = float(np.square(roots - roots.mean()).sum())
        alike = deviations > k and float(np.square(np.diff(roots)).sum()) < 0.6 * deviations
        told = alike and (k > MOST_IDS or inside or bool(tail))
        return "of which those next to one another are about as common, as amounts are" if told else ""

    def _are_ids(self) -> bool:
        """Class ids already: 0..k-1, of which most occur."""
        if self.many:
            return float(self.moments.low.min()) >= 0
        return bool(self.unique[0] >= 0) and bool(self.unique[-1] < 2 * len(self.unique))

    def _of_values(self, dtype: str, shape: tuple[int | None, ...], own_model: bool, ignored: int | None) -> Target:
        if self.many:
            raise self._wrong(f"has more than {_UNIQUE} different values, too many for classes")
        if len(self.unique) < 2:
            raise self._one_alone(self.unique[0])
        self._say_left_out(ignored)
        whole = np.dtype(dtype).kind in "iu"
        if own_model and whole and self._are_ids():
            k = int(self.unique[-1]) + 1
            ids = tuple(range(k))
            return ClassIds(self.name, dtype, shape, k, ids, words=self._words(ids))
        values = self.unique.astype(dtype)
        if own_model:
            shown = f"{values[0]}..{values[-1]}" if whole else ", ".join(map(str, values[:5]))
            self.notes.append(f"The classes of '{self.name}' ({shown}) become the ids 0..{len(values) - 1}.")
        labels = tuple(values.tolist())
        return ClassValues(
            self.name, dtype, shape, len(labels), labels, words=self._words(labels), form=form_of(self.column)
        )

    def _words(self, labels: Sequence[Label]) -> tuple[str, ...]:
        """How the labels are written in the user's file; () where they are written as Python writes them."""
        known = self._written(self.column.words or ())
        form = form_of(self.column)
        if not known and form:
            return tuple(map(str, written(np.array(labels, dtype=np.float64), form).tolist()))
        return tuple(known.get(label, str(label)) for label in labels) if known else ()

    def _written(self, words: Sequence[str]) -> dict[Label, str]:
        if self.column.type != str(TEXT):
            return {reader(self.column.type or "")(word): word for word in words}
        values = read_numbers(self.name, pa.chunked_array([pa.array(words, TEXT)]), self.column, [])
        return dict(zip(values.tolist(), words, strict=True))

    def _note(self, sentence: str) -> None:
        self.notes.append(f"'{self.name}' {sentence}")

    def _one_alone(self, example: object) -> HandfulError:
        found = f"only one class in the training rows ('{example}')"
        return self._wrong(f"of {self.where} has {found}; there is nothing to tell apart")

    def _wrong(self, sentence: str) -> HandfulError:
        return HandfulError(f"the target '{self.name}' {sentence}")
