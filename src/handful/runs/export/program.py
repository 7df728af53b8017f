"""The whole way from raw rows to predictions as one nn.Module, which can be exported."""

import copy
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from handful.base.errors import MISTAKES, HandfulError
from handful.data.base import Batch, Column
from handful.losses.ctc import only_valid
from handful.training.objective import Objective
from handful.transform.inputs import Input, NamedInputs, SingleInput, TableInput
from handful.transform.pipeline import Pipeline
from handful.transform.steps.numbers import PadRows
from handful.transform.steps.step import AnyStep
from handful.transform.steps.text import Lengths

NEVER_SEEN = "\0"  # stands for every category that training did not have
_GIVES = {
    "probabilities": "float64 [rows, classes or labels], in the order of their names",
    "numbers": "float64 [rows] or [rows, numbers], in the units of the target; dates in seconds since 1970",
    "scores": "float64 [rows, outputs], probabilities of classes, and numbers in their units, by their names",
    "outputs": "what the network gives",
}
VARYING = (7, 97, 997, 9973)  # lengths of the rows of an example, where they vary: the first that the model takes


@dataclass(frozen=True)
class Raw:
    """One input of an exported model.

    dtype: torch's name; shape: of one row, None where it varies; holds: in words; classes: names of a category, in the
    order of their codes; missing: what stands in text for a value that is not there, besides "".
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    holds: str
    classes: tuple[str, ...] | None = None
    missing: tuple[str, ...] = ()

    def example(self, rows: int, length: int) -> Tensor:
        sides = (length if side is None else side for side in self.shape)
        return torch.ones(rows, *sides, dtype=getattr(torch, self.dtype))


class Program(nn.Module):
    """Raw rows, a dict of Tensors by column, to predictions: of classes and labels their probabilities, float64 [n, k];
    numbers in the target's units, float64; of a sequence or a language model, what the network gives.

    raws: what it takes; gives: what it gives, by name; outside: the steps that no operator does, by the input that they
    make, with all that they were given and learned.
    """

    def __init__(self, pipeline: Pipeline, objective: Objective) -> None:
        super().__init__()
        if any(isinstance(layer, torch.jit.ScriptModule) for layer in objective.model.modules()):
            raise HandfulError(
                "a scripted model is a program already, which torch.jit.save(run.model, path) writes; .onnx and .pt2 "
                "need the nn.Module that it was made from: run.export('weights.safetensors') has its weights"
            )
        self.model = copy.deepcopy(objective.model).to("cpu").eval().requires_grad_(False)
        for layer in filter(
            parametrize.is_parametrized, list(self.model.modules())
        ):  # what makes weights is for training
            kind = type(
                layer
            )  # which the caller's layer is of, too, and which torch would take the weights' names from
            members = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
            layer.__class__ = type(kind.__name__, kind.__bases__, members)
            for name in list(layer.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(layer, name)
        self.objective = Objective(self.model, objective.loss)
        self.objective.whole = objective.whole
        self.target, self.columns = pipeline.target, dict(pipeline.trained_on)
        self.task, self.names = pipeline.task, pipeline.names
        self.gives = {"regression": "numbers", "classification": "probabilities", "multilabel": "probabilities",
                      "several": "scores"}.get(self.task or "", "outputs")  # fmt: skip
        self.raws, self.outside = list[Raw](), dict[str, dict[str, object]]()
        self.input = self._input(pipeline.input)
        if any(raw.dtype == "bfloat16" or (raw.dtype.startswith("uint") and raw.dtype != "uint8") for raw in self.raws):
            raise HandfulError(f"rows of {self.raws[0].dtype} cannot be exported; train on float32 or int32")
        for self.length in VARYING:
            with suppress(*MISTAKES if self.length != VARYING[-1] else ()):
                self(self.example(2))  # how the model is called is decided at the first batch
                break

    def facts(self) -> dict[str, object]:
        """What goes in, what comes out, and what is left to do outside, as JSON."""
        empty = (None, (), "")
        inputs = [{k: v for k, v in asdict(raw).items() if k == "shape" or v not in empty} for raw in self.raws]
        output = {"name": self.gives, "holds": _GIVES[self.gives], "names": list(self.names)}
        return {"task": self.task or "none", "inputs": inputs, "output": output, "outside": self.outside}

    def example(self, rows: int) -> dict[str, Tensor]:
        return {raw.name: raw.example(rows, self.length) for raw in self.raws}

    def forward(self, rows: dict[str, Tensor]) -> Tensor:
        batch = Batch(dict(rows), np.zeros(0, dtype=np.int64))
        batch = self.objective.to_device(batch.replace(self.input(batch, self.columns)))
        output = self.objective.forward(batch)
        if self.target is None or self.gives == "outputs":
            found = only_valid(output)
            if not isinstance(found, Tensor):
                raise HandfulError("a model that gives several outputs, none of which predicts a target, has no export")
            return found
        return self.target.scores(self.target.prediction(output))

    def _input(self, given: Input) -> Input:
        match given:
            case TableInput():
                return self._table(given)
            case SingleInput():
                return self._single(given)
        return NamedInputs({name: self._single(part, name) for name, part in given.parts.items()})

    def _table(self, table: TableInput) -> TableInput:
        for name in table.numbers:
            column = self.columns[name]
            self.raws.append(Raw(name, "float64", column.shape, f"{_unit(column)}; NaN is missing"))
        for name in table.categories:
            column = self.columns[name]
            classes = column.classes or ()
            holds = f"the place of the name among the classes; -1 is missing, {len(classes)} any other name"
            self.raws.append(Raw(name, "int64", (), holds, classes, column.missing))
            self.columns[name] = replace(column, classes=(*classes, NEVER_SEEN))
        return table

    def _single(self, part: SingleInput, called: str = "") -> SingleInput:
        name, column = " ".join(part.uses), self.columns[part.uses[0]]
        left = part.steps[0].outside() if part.steps else None
        match part.steps:
            case (PadRows(), *_):
                left = column.dtype, column.shape, "rows of any length become one block, with 0 behind the end of a row"
            case (Lengths(), *_):  # beside those rows, of the same column
                name = called
        if left is None:
            if column.kind == "collated":
                raise HandfulError(
                    f"'{name}' is what a collate function gives, which no program takes: export .safetensors"
                )
            if None in column.shape or column.kind in ("text", "audio"):
                raise HandfulError(
                    f"'{name}' is {column.kind} that the model reads without a step: it cannot be exported"
                )
            self.raws.append(Raw(name, column.dtype, column.shape, _unit(column)))
            return part
        dtype, row, does = left
        self.raws.append(Raw(name, dtype, row, f"what is left of {column.kind} after: {does}"))
        self.outside[name] = {"step": type(part.steps[0]).__name__, "does": does, **_facts(part.steps[0])}
        return replace(part, uses=(name,), kind="tokens", steps=part.steps[1:])


def _unit(column: Column) -> str:
    """What the numbers of a column are."""
    if column.dates is not None:
        return "seconds since midnight" if column.dates == "time of day" else "seconds since 1970 (UTC)"
    if column.kind == "image":
        return "pictures [channels, height, width], decoded and of this size"
    return f"numbers in {column.unit}" if column.unit else "numbers"


def _facts(step: AnyStep) -> dict[str, object]:
    """All that a step was given and has learned, as JSON can hold it."""
    values = {f.name: getattr(step, f.name) for f in fields(step)}
    return {name: v.tolist() if isinstance(v, Tensor) else v for name, v in values.items()}
