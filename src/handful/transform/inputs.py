"""From columns to what a model is called with: one input, a table, or several named inputs."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from handful.data.base import Batch, Column, Ragged, Value
from handful.transform.audio import LogMel
from handful.transform.features import Clock, Untail
from handful.transform.numbers import Categories, Impute, PadRows, Standardize
from handful.transform.step import Moments, Step, stored
from handful.transform.text import PadTokens, Tokenize

Read = Callable[[], Iterator[Batch]]  # the training rows, from the first, each time it is called
Columns = dict[str, Column]
_ID = re.compile(
    r"^(|id|index|idx|uid|uuid|guid|key|row|rowid|unnamed: ?0|__index_level_0__)$|[_ ](id|idx|index|uuid|guid)$", re.I
)
_ID_CAMEL = re.compile(r"[a-z](Id|ID|Index)$")


@dataclass(frozen=True)
class Inputs:
    """What a model is called with.

    kind: image, vector, table, text, audio, language or tensor; or "named" for several. names: the batch
    columns, ("x",) or the model's keyword arguments. shape: of one row, None where it varies from batch to
    batch. n_numbers, cardinalities: of a table; counts: training rows of each id of a category; vocabulary: number of
    ids; max_length: of a row of ids or frames; channels, size: of pictures; mels, rate: of sound.
    """

    kind: str
    names: tuple[str, ...] = ("x",)
    shape: tuple[int | None, ...] = ()
    n_numbers: int = 0
    cardinalities: tuple[int, ...] = ()
    counts: tuple[tuple[int, ...], ...] = ()
    vocabulary: int = 0
    max_length: int = 0
    channels: int = 0
    size: tuple[int, int] = (0, 0)
    mels: int = 0
    rate: int = 0


@stored
@dataclass(frozen=True, eq=False)
class Single:
    """One input: a column (or text columns, joined by a space) through steps one after another.

    kind: as Inputs.kind; as_is: no float32 is forced on the values.
    """

    columns: tuple[str, ...]
    kind: str
    steps: tuple[Step, ...] = ()
    as_is: bool = False
    shape: tuple[int | None, ...] = ()

    def value(self, batch: Batch, columns: Columns) -> Any:
        """The input before the steps."""
        value = batch[self.columns[0]]
        if self.kind == "text":
            if len(self.columns) == 1:
                return [text or "" for text in value]
            return [" ".join(filter(None, parts)) for parts in zip(*(batch[name] for name in self.columns))]
        classes = columns[self.columns[0]].classes
        if self.kind == "categories" and isinstance(value, Tensor) and classes is not None:
            return [(*classes, "")[code] for code in value.tolist()]
        if isinstance(value, Tensor) and self.kind == "image" and value.dim() == 3:
            return value[:, None]
        if isinstance(value, Tensor) and self.kind == "matrix" and value.dim() == 1:
            return value[:, None]
        return value

    def fit(self, read: Read, columns: Columns, head: Batch) -> Self:
        """Fitted on the training rows (head: a few of them), one pass a step, each on what the steps before it give."""
        done = replace(self, steps=())
        for step in self.steps:
            if _learns(step):
                before = replace(done, as_is=True)
                step = step.fit(before.run(batch, columns) for batch in read())
            done = replace(done, steps=(*done.steps, step))
        return replace(done, shape=self._shape(head, columns, done))

    def run(self, batch: Batch, columns: Columns) -> Any:
        """The input after the steps."""
        value = self.value(batch, columns)
        for step in self.steps:
            value = step(value)
        if not self.as_is and isinstance(value, Tensor) and value.dtype != torch.int64:
            value = value.to(torch.float32)
        return value

    def __call__(self, batch: Batch, columns: Columns) -> dict[str, Value]:
        return {"x": self.run(batch, columns)}

    def _shape(self, batch: Batch, columns: Columns, done: "Single") -> tuple[int | None, ...]:
        value = done.run(batch, columns)
        if not isinstance(value, Tensor):
            return (None,)
        shape: tuple[int | None, ...] = tuple(value.shape[1:])
        if self.steps and isinstance(self.steps[0], PadRows):
            return (None, *shape[1:])
        ragged = self.kind in ("text", "audio") or isinstance(done.value(batch, columns), Ragged)
        return (*shape[:-1], None) if ragged else shape

    def info(self) -> Inputs:
        """What a model needs to know."""
        first = self.steps[0] if self.steps else None
        fixed = tuple(s or 0 for s in self.shape)
        if isinstance(first, Tokenize | PadTokens):
            length = first.max_length or 0
            return Inputs("text", shape=self.shape, vocabulary=first.vocabulary, max_length=length)
        if isinstance(first, LogMel):
            length = first.max_length or first.longest
            return Inputs(
                "audio",
                shape=self.shape,
                max_length=length,
                mels=first.bands,
                rate=first.rate or 0,
                channels=1,
            )
        if len(fixed) == 3 and self.kind == "image":
            return Inputs("image", shape=self.shape, channels=fixed[0], size=(fixed[1], fixed[2]))
        kind = "vector" if len(fixed) <= 1 else "tensor"
        return Inputs(kind, shape=self.shape, n_numbers=math.prod(fixed) if kind == "vector" else 0)

    def notes(self) -> list[str]:
        """Sentences on what was fitted."""
        return [note for step in self.steps for note in step.notes()]


def _learns(step: Step) -> bool:
    return type(step).fit is not Step.fit


@stored
@dataclass(frozen=True, eq=False)
class Table:
    """Columns of numbers and categories.

    Numbers are put side by side in float64, missing ones filled with the training median and flagged, then
    taken through `steps`. layout "split": `numbers` float32 [m, F] and `categories` int64 [m, K] ids by name
    (0: missing; the last: never seen); layout "matrix": `x` float32 [m, F'], the categories one-hot (all 0: missing
    or never seen).
    """

    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    layout: str
    steps: tuple[Step, ...] = (Standardize(clip=10.0),)
    impute: Impute = field(default_factory=Impute)
    encoders: tuple[Categories, ...] = ()
    features: tuple[str, ...] = ()  # a name for each column of the matrix of numbers
    width: int = 0

    def matrix(self, batch: Batch) -> Tensor:
        """The numbers as they are, float64 [m, features]."""
        parts = [batch.tensor(name).to(torch.float64).reshape(len(batch), -1) for name in self.numbers]
        return torch.cat(parts, dim=1) if parts else torch.zeros(len(batch), 0, dtype=torch.float64)

    def fit(self, read: Read, columns: Columns, head: Batch) -> Self:
        """Fitted on the training rows, in one pass for the usual steps, one more for every other step."""
        moments, codes = Moments(), [Counter[int]() for _ in self.categories]
        widths: list[int] = []

        def rows() -> Iterator[Tensor]:
            for batch in read():
                for found, name in zip(codes, self.categories):
                    ids, counts = torch.unique(batch.tensor(name), return_counts=True)
                    found.update(dict(zip(ids.tolist(), counts.tolist(), strict=True)))
                widths[:] = [batch.tensor(name)[:1].numel() for name in self.numbers]
                x = self.matrix(batch)
                if self.numbers:
                    moments.update(x)
                yield x

        impute = self.impute.fit(rows())
        names = tuple(n if w == 1 else f"{n}[{i}]" for n, w in zip(self.numbers, widths) for i in range(w))
        encoders = [
            Categories(other=self.layout == "split").of(
                {(columns[name].classes or ())[c] if c >= 0 else "": n for c, n in found.items()}
            )
            for name, found in zip(self.categories, codes)
        ]
        done = replace(self, impute=impute, encoders=tuple(encoders), features=names, steps=())
        for step in self.steps if self.numbers else ():
            before = done.steps
            if isinstance(step, Standardize) and all(isinstance(s, Untail | Clock) for s in before):
                # of the values that are there, not of those that were filled in
                idle = all(s.idle for s in before if isinstance(s, Untail | Clock))
                step = step.of(moments) if idle else step.fit(done.shaped(batch) for batch in read())
            elif _learns(step):
                step = step.fit(done.dense(batch)[0] for batch in read())
            done = replace(done, steps=(*done.steps, step))
        return replace(done, width=sum(part.shape[1] for part in done.dense(head)))

    def dense(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The numbers after the steps, [m, F], and the flags of missing ones, float32 [m, how many]."""
        raw = self.matrix(batch)
        return self.shaped(batch, self.impute), self.impute.flags(raw)

    def shaped(self, batch: Batch, impute: Impute | None = None) -> Tensor:
        """The numbers after the steps; missing ones stay NaN without `impute`."""
        x = self.matrix(batch) if impute is None else impute.fill(self.matrix(batch))
        for step in self.steps:
            x = step(x)
        return x

    def __call__(self, batch: Batch, columns: Columns) -> dict[str, Value]:
        numbers = torch.cat([part.to(torch.float32) for part in self.dense(batch)], dim=1)
        ids = [self._ids(batch[n], columns[n], e) for n, e in zip(self.categories, self.encoders)]
        if self.layout == "split":
            return {
                "numbers": numbers,
                "categories": torch.stack(ids, 1) if ids else torch.zeros(len(batch), 0, dtype=torch.int64),
            }
        hot = [torch.nn.functional.one_hot(i, e.size)[:, 1:].to(torch.float32) for i, e in zip(ids, self.encoders)]
        return {"x": torch.cat([numbers, *hot], dim=1)}

    @staticmethod
    def _ids(value: Value, column: Column, encoder: Categories) -> Tensor:
        if isinstance(value, Tensor) and column.classes is not None:
            return encoder.recode(value, column.classes)
        if isinstance(value, Tensor):  # a column without any value is read as numbers, all NaN
            return torch.zeros(len(value), dtype=torch.int64)
        return encoder(value)  # type: ignore[arg-type]

    def info(self) -> Inputs:
        """What a model needs to know."""
        sizes = tuple(encoder.size for encoder in self.encoders)
        counts = tuple(encoder.counts for encoder in self.encoders if encoder.other)
        if self.layout == "split":
            shape = (self.width + len(sizes),)
            named = ("numbers", "categories")
            return Inputs("table", named, shape, n_numbers=self.width, cardinalities=sizes, counts=counts)
        wide = self.width + sum(size - 1 for size in sizes)
        return Inputs("vector", shape=(wide,), n_numbers=wide)

    def notes(self) -> list[str]:
        """Sentences on what was fitted."""
        numbers, categories = len(self.numbers), len(self.categories)
        said = [f"The table has {numbers} column{'s' * (numbers != 1)} of numbers and {categories} of categories."]
        said += self.impute.notes(list(self.features)) if self.numbers else []
        for step in self.steps if self.numbers else ():
            said += step.notes(list(self.features))
        return said


@stored
@dataclass(frozen=True, eq=False)
class Named:
    """Several inputs under their own names: the model is called with keyword arguments."""

    parts: dict[str, Single]

    def fit(self, read: Read, columns: Columns, head: Batch) -> Self:
        """Each part fitted on the training rows, one after another."""
        return replace(self, parts={name: part.fit(read, columns, head) for name, part in self.parts.items()})

    def __call__(self, batch: Batch, columns: Columns) -> dict[str, Value]:
        return {name: part.run(batch, columns) for name, part in self.parts.items()}

    def info(self) -> Inputs:
        """What a model needs to know."""
        return Inputs("named", tuple(self.parts))

    def notes(self) -> list[str]:
        """Sentences on what was fitted."""
        said = [f"The model is called with the keyword arguments {', '.join(self.parts)}."]
        return said + [f"{name}: {note}" for name, part in self.parts.items() for note in part.notes()]


Input = Single | Table | Named
Layout = Literal["auto", "split", "matrix"]


def looks_like_id(name: str, value: Value, column: Column) -> bool:
    """Whether a column only numbers the rows: named so (or not at all, as pandas writes its index), and different in
    every row looked at."""
    if not (_ID.search(name) or _ID_CAMEL.search(name)) or len(value) < 2:
        return False
    if isinstance(value, Tensor):
        if column.kind not in ("number", "category") or value.dim() != 1:
            return False
        return not value.is_floating_point() and len(torch.unique(value)) == len(value)
    return isinstance(value, list) and len(set(value)) == len(value)
