"""What every preprocessing step is: a frozen recipe.

`fit` reads chunks of training rows once and returns a fitted copy; calling the fitted copy transforms values.
What a fit learned is stored as JSON, its tensors beside it by name.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from handful.base.errors import HandfulError, some
from handful.data.base import Column, Ragged
from handful.models.base import Inputs

T = TypeVar("T")
Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None
_STORED: dict[str, Callable[..., object]] = {"Column": Column}


def stored(cls: type[T]) -> type[T]:
    """Class decorator: `pack` and `unpack` may write and rebuild this dataclass by its name."""
    _STORED[cls.__name__] = cls
    return cls


def pack(value: object, tensors: dict[str, Tensor], path: str = "") -> Json:
    """`value` as JSON: dataclasses by name, tuples as lists, each Tensor as a reference into `tensors`."""

    def parts(items: Iterable[tuple[str, object]]) -> dict[str, Json]:
        return {name: pack(part, tensors, f"{path}.{name}".strip(".")) for name, part in items}

    match value:
        case Tensor():
            tensors[path] = value.detach().contiguous().cpu()
            return {"tensor": path}
        case dict():
            return {"dict": parts(value.items())}
        case tuple() | list():
            return list(parts((str(i), part) for i, part in enumerate(value)).values())
        case str() | int() | float() | None:
            return value
    assert is_dataclass(value)
    own = parts((f.name, getattr(value, f.name)) for f in fields(value))
    return {"type": type(value).__name__, "fields": own}


def same_values(one: object, other: object) -> bool:
    """Whether both would be written down alike, to the bit."""
    of_one, of_other = dict[str, Tensor](), dict[str, Tensor]()
    return pack(one, of_one) == pack(other, of_other) and all(torch.equal(v, of_other[k]) for k, v in of_one.items())


def unpack(value: Json, tensors: Mapping[str, Tensor]) -> object:
    """The inverse of `pack`: lists come back as tuples; only registered dataclasses are built."""
    match value:
        case list():
            return tuple(unpack(part, tensors) for part in value)
        case {"tensor": str(path)}:
            return tensors[path]
        case {"dict": dict(parts)}:
            return {name: unpack(part, tensors) for name, part in parts.items()}
        case {"type": str(kind), "fields": dict(parts)}:
            if kind not in _STORED:
                raise HandfulError(f"the pipeline file names an unknown part '{kind}'; it is damaged or newer")
            return _STORED[kind](**{name: unpack(part, tensors) for name, part in parts.items()})
        case dict():
            raise KeyError("type")
    return value


V = TypeVar("V")  # what a step takes: a Tensor, a Ragged or strings
Names = list[str] | None


@dataclass(frozen=True, eq=False)
class Step(Generic[V]):
    """One preprocessing step: options, and what was fitted on the training rows (None before `fit`).

    A subclass is a frozen dataclass with `__call__` and, if it has something to learn, `learn`.
    """

    keeps_missing: ClassVar[bool] = False  # whether NaN stays NaN, so that it and what follows are fitted without them

    def __init_subclass__(cls) -> None:
        stored(cls)

    def fit(self, chunks: Iterable[V] | V) -> Self:
        """A fitted copy. chunks: the training rows in pieces [m, ...]; one array is one piece."""
        return self.learn(_pieces(chunks))

    def learn(self, chunks: Iterator[V]) -> Self:
        """A fitted copy, from the training rows in pieces."""
        return self

    def __call__(self, value: V) -> Tensor:
        """The transformed value; rows in, rows out, each row by itself."""
        raise NotImplementedError

    @property
    def idle(self) -> bool:
        """Whether, as fitted, it changes nothing."""
        return False

    @property
    def varies(self) -> bool:
        """Whether it pads rows of different lengths with a 0 that may be a value, too."""
        return False

    def inputs(self, shape: tuple[int | None, ...]) -> Inputs | None:
        """What a model needs to know of this step's output, if that is another kind of input than plain numbers."""
        return None

    def outside(self) -> tuple[str, tuple[int | None, ...], str] | None:
        """Of a step that an exported model cannot hold, as it takes strings or rows of different lengths: dtype and
        shape of a row that it gives, and what it does, in words; None for others."""
        return None

    def notes(self, names: Names = None) -> list[str]:
        """What the user should know about the fitted step; names: of the features."""
        return []

    def fitted(self, value: T | None) -> T:
        """`value`, or a HandfulError when the step was not fitted."""
        if value is None:
            raise HandfulError(f"{type(self).__name__} is not fitted; call fit with the training rows first")
        return value


AnyStep = Step[Any]


def _pieces(chunks: Any) -> Iterator[Any]:
    """The chunks one by one; a single array, Ragged or list of strings counts as one chunk."""
    match chunks:
        case Tensor() | np.ndarray() | Ragged() | [str() | bytes(), *_]:
            chunks = [chunks]
    for chunk in chunks:
        yield torch.as_tensor(chunk) if isinstance(chunk, np.ndarray) else chunk


def listed(indices: Iterable[int], names: Names) -> str:
    """Features by name, or by number where they have none: the first five, and how many more."""
    return some([f"'{names[i]}'" if names and i < len(names) else str(i) for i in indices], 5)
