"""Values as named tensors and JSON, without pickle: what optimizers and models keep beside weights, and back."""

import math
import random
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from handful.base.errors import HandfulError
from handful.base.shards import as_shared, is_shard

GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)


def drawn_to(generator: Any) -> Any:
    """How far a generator is."""
    match generator:
        case np.random.Generator():
            return generator.bit_generator.state
        case random.Random():
            return generator.getstate()
    return generator.get_state()


def draw_from(generator: Any, state: Any) -> None:
    """Let a generator go on from there."""
    match generator:
        case np.random.Generator():
            generator.bit_generator.state = state
        case random.Random():
            generator.setstate(state)
        case _:
            generator.set_state(state)


_OF_ITEMS: dict[str, Any] = {"tuple": tuple, "list": list, "set": set, "frozenset": frozenset}


def pack(value: object, name: str, tensors: dict[str, Tensor]) -> object:
    """JSON-able form: plain values as they are, the rest as a dict whose key names the type."""
    match value:
        case Tensor():
            tensors[name] = value.detach().contiguous()
            strides = {"strides": list(value.stride())} if _permuted(value) else {}
            return {"tensor": name, "device": value.device.type, **strides}
        case float() if not math.isfinite(value):
            return {"float": str(value)}  # JSON has no inf and no nan
        case None | bool() | int() | float() | str():
            return value
        case tuple() | list() | set() | frozenset():
            kind = next(kind for kind, of in _OF_ITEMS.items() if isinstance(value, of))
            items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
            return {kind: [pack(item, f"{name}.{index}", tensors) for index, item in enumerate(items)]}
        case deque():
            return {
                "deque": [pack(item, f"{name}.{i}", tensors) for i, item in enumerate(value)],
                "most": value.maxlen,
            }
        case np.ndarray() if value.dtype.kind in "biufc":
            return {"array": pack(torch.from_numpy(np.ascontiguousarray(value)), name, tensors)}
        case np.generic():
            return pack(value.item(), name, tensors)
        case _ if isinstance(value, GENERATORS):
            return {"drawn": pack(drawn_to(value), name, tensors)}
        case torch.dtype():
            return {"dtype": str(value).removeprefix("torch.")}
        case dict() if all(isinstance(key, str | int | float) for key in value):
            return {"dict": [[key, pack(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
    raise HandfulError(f"the optimizer keeps a {type(value).__name__} at '{name}', which cannot be stored safely")


def _permuted(value: Tensor) -> bool:
    """Whether its numbers lie side by side in another order than that of its dimensions."""
    if is_shard(value) or value.is_contiguous() or value.layout is not torch.strided:
        return False
    return value.permute(sorted(range(value.ndim), key=lambda d: value.stride()[d], reverse=True)).is_contiguous()


def unpack(form: Any, tensors: Mapping[str, Tensor], parameter: Tensor, scalars_too: bool) -> Any:
    match form:
        case {"tensor": name, "device": device}:
            if name not in tensors:
                raise HandfulError(f"the stored optimizer state lacks the tensor '{name}'")
            if strides := form.get("strides"):  # of another order, other sums would round otherwise
                like = tensors[name]
                laid = torch.empty_strided(like.shape, strides, dtype=like.dtype, device=parameter.device)
                return laid.copy_(like)
            return _place(tensors[name], device, parameter, scalars_too)
        case {"float": text}:
            return float(text)
        case {"array": array}:
            return unpack(array, tensors, torch.empty(0), False).numpy()
        case {"drawn": state}:
            return unpack(state, tensors, torch.empty(0), False)
        case {"tuple": items} | {"list": items} | {"set": items} | {"frozenset": items}:
            return _OF_ITEMS[next(iter(form))](unpack(item, tensors, parameter, scalars_too) for item in items)
        case {"deque": items, "most": most}:
            return deque((unpack(item, tensors, parameter, scalars_too) for item in items), most)
        case {"dtype": str(text)} if isinstance(found := getattr(torch, text, None), torch.dtype):
            return found
        case {"dict": items}:
            return {key: unpack(item, tensors, parameter, scalars_too) for key, item in items}
        case dict():
            raise HandfulError(f"the stored optimizer state holds {form!r}, which this version does not know")
    return form


def _place(tensor: Tensor, device: str, parameter: Tensor, scalars_too: bool) -> Tensor:
    """A copy where the optimizer expects it, laid out like the parameter (channels-last moments stay so)."""
    if tensor.ndim == 0 and device == "cpu" and not scalars_too:
        return tensor.clone()
    if tensor.shape == parameter.shape:
        shared = as_shared(tensor, parameter)
        return torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(shared)
    return tensor.to(parameter.device, copy=True)
