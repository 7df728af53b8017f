"""How fitted parts are written down: dataclasses by name as JSON, their Tensors aside. Nothing is pickled."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import TypeVar

import torch
from torch import Tensor

from handful.base.errors import HandfulError
from handful.data.base import Column

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
