"""A target of several columns that are not alike, such as a class and a number: each is encoded, scored and given back
as it would be by itself."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from handful.base.errors import HandfulError, some
from handful.data.base import Column, Rows, Value
from handful.data.gather import Array
from handful.data.targets import names_of
from handful.losses.metric import Metric, metrics_of
from handful.losses.outputs import LINKS, exact
from handful.losses.together import heads, losses_of, of_part
from handful.transform.target import Target
from handful.transform.target_fit import TargetFitter

_USUAL = {"classification": ("accuracy",), "regression": ("mae", "r2")}


@dataclass(frozen=True, eq=False)
class Several(Target):
    """Several targets: y is float64 [m, k], which the loss gets apart, see `apart`.

    parts: each by itself; sizes: how many of a model's outputs predict each, () where it is not known which.
    """

    task: ClassVar[str] = "several"
    parts: tuple[Target, ...] = ()
    sizes: tuple[int, ...] = ()

    @property
    def names(self) -> list[str]:
        """The columns."""
        return [part.column for part in self.parts]

    def encode(self, value: Value, column: Column, rows: Rows, where: str) -> Tensor:
        if not isinstance(value, Tensor) or len(column.parts) != len(self.parts):
            raise HandfulError(f"{where} is to be read with target='{self.column}', as in training")
        each = zip(self.parts, value.unbind(1), column.parts, strict=True)
        return torch.stack([part.encode(_own(v, own), own, rows, where).double() for part, v, own in each], dim=1)

    def apart(self, y: Tensor) -> dict[str, Tensor]:
        """y by the name of each column: class ids int64 [m], numbers [m]."""
        each = zip(self.parts, y.unbind(1), strict=True)
        return {part.column: v.long() if part.task == "classification" else v for part, v in each}

    def resolve_task(self, output: object) -> Target:
        found = heads(output, self.names, [part.outputs for part in self.parts])
        sizes = tuple(head[:1].numel() for head in found) if found and all(map(_fits, found, self.parts)) else ()
        return replace(self, sizes=sizes, part="" if sizes else None)

    def linked(self, *links: str) -> Target:
        return replace(self, parts=tuple(part.linked(link) for part, link in zip(self.parts, links, strict=True)))

    def heads_of(self, outputs: object) -> list[Tensor] | None:
        """The parts of a model's outputs that predict each target; None where that is not known."""
        return heads(outputs, self.names, self.sizes) if self.part is not None else None

    def prediction(self, outputs: object) -> Tensor:
        found = self.heads_of(outputs)
        if found is None:
            raise HandfulError(
                f"it is not known which of the model's outputs predict {some(self.names)}: let it return a dict of "
                "these names, or a tuple in this order; run.outputs(data) gives them"
            )
        return torch.cat([head.reshape(head.shape[0], -1) for head in found], dim=1)

    def _split(self, outputs: Tensor) -> tuple[Tensor, ...]:
        return torch.split(outputs, list(self.sizes), 1)

    def numbers_of(self, output: object, y: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The outputs and the targets of each number, as the loss gets them."""
        found = heads(output, self.names, self.sizes) or [] if self.sizes else []
        return [(head, y[part.column]) for head, part in zip(found, self.parts) if part.task == "regression"]

    def beside(self, output: object, y: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
        """What metrics see: float64 outputs [m, sizes] and targets [m, k], numbers in the user's units."""
        if self.part is None:
            return None
        outputs = list(self._split(self.prediction(output).detach().double()))
        targets = [v.double() for v in y.values()]
        for k, part in enumerate(self.parts):
            if link := getattr(part, "link", ""):
                outputs[k] = LINKS[link](outputs[k])
            if part.scale:
                mean, std = (s.to(outputs[k].device) for s in part.scale)
                outputs[k], targets[k] = outputs[k] * std + mean, targets[k] * std + mean
        return torch.cat(outputs, 1), torch.stack(targets, 1)

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics of each part, as `kind_accuracy`."""
        found: dict[str, Metric] = {}
        ends = np.cumsum(self.sizes).tolist()
        for k, (part, end, size) in enumerate(zip(self.parts, ends, self.sizes, strict=False)):
            for one in metrics_of(part.task).values():
                metric = of_part(one, part.column, slice(end - size, end), k, part.task == "classification")
                found[metric.name] = metric
        return found

    @property
    def usual(self) -> str:
        """The names of the usual ones."""
        each = ((part.column, _USUAL[part.task]) for part in self.parts if self.sizes)
        return ", ".join(f"{column}_{name}" for column, names in each for name in names)

    @property
    def of_outputs(self) -> tuple[str, ...]:
        """What each output stands for."""
        return tuple(
            name
            for k, part in enumerate(self.parts)
            for name in (self._classes(k) if part.task == "classification" else (part.column,))
        )

    @property
    def of_classes(self) -> tuple[str, ...]:
        """The classes of all parts that have some, as probabilities come: `kind=big`."""
        return tuple(
            name for k, part in enumerate(self.parts) if part.task != "regression" for name in self._classes(k)
        )

    def _classes(self, k: int) -> list[str]:
        """The classes of a part, by name, or by number where an own model may score more than training had."""
        part = self.parts[k]
        known = part.words or part.classes
        scored = max(part.outputs, self.sizes[k] if self.sizes else 0)
        return [f"{part.column}={name}" for name in (*known, *range(len(known), scored))]

    def _decode(self, outputs: Tensor) -> Array:
        """A structured array [m] with a field for each column."""
        each = [part.decode(x) for part, x in zip(self.parts, self._split(outputs), strict=True)]
        found = np.empty(len(outputs), dtype=[(name, v.dtype) for name, v in zip(self.names, each, strict=True)])
        for name, values in zip(self.names, each, strict=True):
            found[name] = values.reshape(len(outputs))
        return found

    def probabilities(self, outputs: Tensor) -> Tensor:
        """float64 [m, classes of all parts that have some], as `of_classes` names them."""
        each = zip(self.parts, self._split(outputs), strict=True)
        found = [part.probabilities(x) for part, x in each if part.task == "classification"]
        if not found:
            raise HandfulError(f"{some(self.names)} are numbers, which have no probabilities; use the predictions")
        return torch.cat(found, 1)

    def scores(self, outputs: Tensor) -> Tensor:
        each = zip(self.parts, self._split(exact(outputs)), strict=True)
        return torch.cat([part.scores(x).reshape(x.shape[0], -1) for part, x in each], dim=1)


def _own(values: Tensor, column: Column) -> Tensor:
    """Numbers or codes as the column has them by itself."""
    return values.long() if column.classes is not None else values.to(getattr(torch, column.dtype))


def _fits(head: Tensor, part: Target) -> bool:
    size = head[:1].numel()
    return size == 1 if part.task == "regression" else size >= part.outputs or (size == 1 and part.outputs == 2)


class SeveralFitter:
    """What each column of a target of several is, as `TargetFitter` finds it."""

    def __init__(self, name: str, column: Column, where: str, loss: object = None) -> None:
        self.name, self.columns, names = name, column.parts, names_of(name)
        each = zip(names, column.parts, losses_of(loss, len(names)), strict=True)
        self.parts = [TargetFitter(part, own, where, its) for part, own, its in each]

    @property
    def notes(self) -> list[str]:
        """What was decided and why."""
        return [note for part in self.parts for note in part.notes]

    def update(self, value: Value, rows: Rows) -> None:
        """Add the target of some training rows."""
        assert isinstance(value, Tensor)
        for part, own, column in zip(self.parts, value.unbind(1), self.columns, strict=True):
            part.update(_own(own, column), rows)

    def decide(self, own_model: bool, task: str | None, by_place: str | None = None) -> Target:
        """The Target."""
        found = [part.decide(own_model, task) for part in self.parts]
        for part, fitter in zip(found, self.parts, strict=True):
            if part.task not in _USUAL:
                raise HandfulError(
                    f"the target '{part.column}' is a {part.task}, which goes with no other target: a class or a "
                    "number does"
                )
            if fitter.left:
                raise HandfulError(
                    f"the target '{part.column}' is {fitter.no_class}, which stands for no class, in {fitter.left:,} "
                    "training rows: remove them, as they have other targets, too"
                )
        outputs = sum(part.outputs for part in found)
        parts = tuple(replace(part, ignored=None) for part in found)
        return Several(self.name, "float64", (len(found),), outputs, parts=parts)
