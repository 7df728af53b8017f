"""From columns to what a model is called with: one input, a table, or several named inputs."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from handful.base.errors import HandfulError
from handful.data.base import Batch, Column, Value
from handful.models.base import Inputs
from handful.transform.steps.categories import Categories, strings
from handful.transform.steps.numbers import Impute, Standardize
from handful.transform.steps.statistics import Moments
from handful.transform.steps.step import AnyStep, stored

Read = Callable[[], Iterator[Batch]]  # the training rows, from the first, each time it is called
Columns = Mapping[str, Column]
Layout = Literal["auto", "split", "matrix"]


@stored
@dataclass(frozen=True, eq=False)
class SingleInput:
    """One input: a column (or text columns, joined by a space) through steps one after another.

    kind: of the columns, "ragged" for blocks of numbers that differ in length, or "language"; as_is: no float32 is
    forced on the values; vocabulary: of the windows of a language model.
    """

    uses: tuple[str, ...]
    kind: str
    steps: tuple[AnyStep, ...] = ()
    as_is: bool = False
    shape: tuple[int | None, ...] = ()
    vocabulary: int = 0
    open: ClassVar[tuple[str, ...]] = ()

    @property
    def parts(self) -> Mapping[str, "SingleInput"]:
        """The inputs, by name, that are each of one column, or of texts joined."""
        return {"x": self}

    def value(self, batch: Batch, columns: Columns) -> Value:
        """The input before the steps."""
        if self.kind == "text":
            texts = zip(*(strings(batch[name], columns[name]) for name in self.uses))
            return [" ".join(filter(None, row)) for row in texts]
        if self.kind == "image" and batch.tensor(self.uses[0]).dim() == 3:
            return batch.tensor(self.uses[0])[:, None]
        return batch[self.uses[0]]

    def fit(self, read: Read, columns: Columns, head: Batch) -> Self:
        """Fitted on the training rows, one pass for each step that learns, of what the steps before it give."""
        done = replace(self, steps=())
        for step in self.steps:
            before = replace(done, as_is=True)
            step = step.fit(before.run(batch, columns) for batch in read())
            done = replace(done, steps=(*done.steps, step))
        return replace(done, shape=done._shape(head, columns))

    def run(self, batch: Batch, columns: Columns) -> Value:
        """The input after the steps."""
        value = self.value(batch, columns)
        for step in self.steps:
            value = step(value)
        ids = self.kind in ("text", "tokens", "language")
        if not self.as_is and isinstance(value, Tensor) and not (ids and value.dtype == torch.int64):
            value = value.to(torch.float32)
        return value

    def __call__(self, batch: Batch, columns: Columns) -> dict[str, Value]:
        return {"x": self.run(batch, columns)}

    def _shape(self, batch: Batch, columns: Columns) -> tuple[int | None, ...]:
        value = self.run(batch, columns)
        if not isinstance(value, Tensor):
            return (None,)
        if value.ndim == 1:
            return ()
        shape: tuple[int | None, ...] = tuple(value.shape[1:])
        if self.kind == "ragged":
            return (None, *shape[1:])
        varies = self.kind in ("text", "audio") or columns[self.uses[0]].varies
        return (*shape[:-1], None) if varies else shape

    def info(self) -> Inputs:
        """What a model needs to know."""
        special = self.steps[0].inputs(self.shape) if self.steps else None
        if special:
            return special
        fixed = tuple(side or 0 for side in self.shape)
        if self.kind == "language":
            return Inputs("language", shape=self.shape, vocabulary=self.vocabulary, max_length=fixed[0])
        if len(fixed) == 3 and self.kind == "image":
            return Inputs("image", shape=self.shape, channels=fixed[0], size=(fixed[1], fixed[2]))
        return Inputs("vector" if len(fixed) <= 1 else "tensor", shape=self.shape)

    def notes(self) -> list[str]:
        """Sentences on what was fitted."""
        return [note for step in self.steps for note in step.notes()]


class Infinite(HandfulError):
    """A value of a table that is infinite: its column, and its place in the batch."""

    def __init__(self, column: str, at: int) -> None:
        super().__init__(f"column '{column}' holds an infinite value")
        self.column, self.at = column, at


@stored
@dataclass(frozen=True, eq=False)
class TableInput:
    """Columns of numbers and categories.

    Numbers are put side by side in float64, missing ones filled with the training median and flagged, then
    taken through `steps`. layout "split": `numbers` float32 [m, F] and `categories` int64 [m, K] ids by name
    (0: missing; the last: never seen); layout "matrix": `x` float32 [m, F'], the categories one-hot (all 0: missing
    or never seen).
    """

    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    layout: str
    steps: tuple[AnyStep, ...] = (Standardize(clip=10.0),)
    impute: Impute = field(default_factory=Impute)
    encoders: tuple[Categories, ...] = ()
    features: tuple[str, ...] = ()  # a name for each column of the matrix of numbers
    width: int = 0
    parts: ClassVar[Mapping[str, SingleInput]] = {}

    @property
    def uses(self) -> tuple[str, ...]:
        """The names of its columns."""
        return (*self.numbers, *self.categories)

    @property
    def open(self) -> tuple[str, ...]:
        """The columns that may hold other strings than in training, told apart from missing ones."""
        return self.categories if self.layout == "split" else ()

    def matrix(self, batch: Batch) -> Tensor:
        """The numbers as they are, float64 [m, features]."""
        parts = [batch.tensor(name).unsqueeze(1).flatten(1).to(torch.float64) for name in self.numbers]
        return torch.cat(parts, dim=1) if parts else self._none(batch).to(torch.float64)

    def _none(self, batch: Batch) -> Tensor:
        """No numbers: int64 [m, 0]."""
        return torch.empty(len(batch), 0, dtype=torch.int64, device=batch.tensor(self.uses[0]).device)

    def fit(self, read: Read, columns: Columns, head: Batch) -> Self:
        """Fitted on the training rows, in one pass for the usual steps, one more for every other step."""
        moments, codes = Moments(), [Counter[int]() for _ in self.categories]

        def rows() -> Iterator[Tensor]:
            for batch in read():
                for found, name in zip(codes, self.categories):
                    ids, counts = torch.unique(batch.tensor(name), return_counts=True)
                    found.update(dict(zip(ids.tolist(), counts.tolist(), strict=True)))
                x = self.matrix(batch)
                if self.numbers:
                    moments.update(x)
                yield x

        impute = self.impute.fit(rows())
        widths = [head.tensor(name)[:1].numel() for name in self.numbers]
        names = tuple(n if w == 1 else f"{n}[{i}]" for n, w in zip(self.numbers, widths) for i in range(w))
        encoders = []
        for name, found in zip(self.categories, codes):
            classes = (*(columns[name].classes or ()), "")  # the code -1, which is missing, picks the last
            encoders.append(Categories(other=self.layout == "split").of({classes[c]: n for c, n in found.items()}))
        done = replace(self, impute=impute, encoders=tuple(encoders), features=names, steps=())
        for step in self.steps if self.numbers else ():
            standard = step if isinstance(step, Standardize) else None
            if (standard or step.keeps_missing) and all(before.keeps_missing for before in done.steps):
                # of the values that are there, not of those that were filled in
                if standard and all(before.idle for before in done.steps):
                    step = standard.of(moments)
                else:
                    step = step.fit(done.shaped(done.matrix(batch)) for batch in read())
            else:
                step = step.fit(done.shaped(impute.fill(done.matrix(batch))) for batch in read())
            done = replace(done, steps=(*done.steps, step))
        return replace(done, width=done.dense(head).shape[1])

    def dense(self, batch: Batch) -> Tensor:
        """The numbers after the steps, and behind them the flags of missing ones: float32 [m, F]."""
        x = self.matrix(batch)
        if not torch.compiler.is_compiling() and (wrong := torch.isinf(x)).any():
            at, column = wrong.nonzero()[0].tolist()
            raise Infinite(self.features[column], at)
        return torch.cat([self.shaped(self.impute.fill(x)).to(torch.float32), self.impute.flags(x)], dim=1)

    def shaped(self, x: Tensor) -> Tensor:
        """The numbers after the steps; missing ones stay NaN where they were not filled."""
        for step in self.steps:
            x = step(x)
        return x

    def __call__(self, batch: Batch, columns: Columns) -> dict[str, Value]:
        numbers = self.dense(batch)
        ids = []
        for name, e in zip(self.categories, self.encoders):
            value, known = batch[name], columns[name].classes
            ids.append(e(strings(value, columns[name])) if known is None else e.recode(batch.tensor(name), known))
        if self.layout == "split":
            return {"numbers": numbers, "categories": torch.stack(ids, 1) if ids else self._none(batch)}
        hot = [torch.nn.functional.one_hot(i, e.size)[:, 1:].to(torch.float32) for i, e in zip(ids, self.encoders)]
        return {"x": torch.cat([numbers, *hot], dim=1)}

    def info(self) -> Inputs:
        """What a model needs to know."""
        sizes = tuple(encoder.size for encoder in self.encoders)
        counts = tuple(encoder.counts for encoder in self.encoders if encoder.other)
        if self.layout == "split":
            shape, named = (self.width + len(sizes),), ("numbers", "categories")
            return Inputs("table", named, shape, n_numbers=self.width, cardinalities=sizes, counts=counts)
        return Inputs("vector", shape=(self.width + sum(size - 1 for size in sizes),))

    def notes(self) -> list[str]:
        """Sentences on what was fitted."""
        counts = {"numbers": len(self.numbers), "categories": len(self.categories)}
        said = [f"{n} column{'s' * (n > 1)} of {what}" for what, n in counts.items() if n]
        found = [f"The table has {' and '.join(said)}."]
        for step in (self.impute, *self.steps) if self.numbers else ():
            found += step.notes(list(self.features))
        return found


@stored
@dataclass(frozen=True, eq=False)
class NamedInputs:
    """Several inputs under their own names: the model is called with keyword arguments."""

    parts: dict[str, SingleInput]
    open: ClassVar[tuple[str, ...]] = ()

    @property
    def uses(self) -> tuple[str, ...]:
        """The names of its columns."""
        return tuple(dict.fromkeys(name for part in self.parts.values() for name in part.uses))

    def fit(self, read: Read, columns: Columns, head: Batch) -> Self:
        return replace(self, parts={name: part.fit(read, columns, head) for name, part in self.parts.items()})

    def __call__(self, batch: Batch, columns: Columns) -> dict[str, Value]:
        return {name: part.run(batch, columns) for name, part in self.parts.items()}

    def info(self) -> Inputs:
        """What a model needs to know."""
        return Inputs("named", tuple(self.parts))

    def notes(self) -> list[str]:
        """Sentences on what was fitted."""
        own = [f"{name}: {note}" for name, part in self.parts.items() for note in part.notes()]
        return [f"The model gets its inputs by name: {', '.join(self.parts)}.", *own]


Input = SingleInput | TableInput | NamedInputs
