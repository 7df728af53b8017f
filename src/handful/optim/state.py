"""The state of an optimizer, and what it keeps beside it, as named tensors and JSON, without pickle.

The way back is our own: torch's `load_state_dict` casts what it is given to the parameter's dtype, and
`torch.distributed.checkpoint.state_dict` takes a step at rate 0 where there is no state yet, and refuses state that is
neither a tensor nor a number.
"""

import math
import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from handful.base.errors import MISTAKES, HandfulError, brief, some
from handful.base.shards import as_shared, is_shard
from handful.optim.parts import without_compiler

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
            return {"deque": [pack(item, f"{name}.{i}", tensors) for i, item in enumerate(value)], "most": value.maxlen}
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


# how a step is computed, not what; taken from the live optimizer, which may be on another device
_PLUMBING = ("foreach", "fused", "capturable")


def state_tensors(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The whole state of an optimizer: tensors by name ("0.exp_avg" of parameter 0), and the rest as JSON-able data.

    Parameters are numbered in the order of the groups. The tensors are detached and contiguous but share
    memory with the optimizer where they can: write or clone them before the next step. Numbers, bools, strings, None,
    types of numbers, tuples, lists, deques and dicts of any depth are kept; anything else raises HandfulError. So is
    what it keeps beside its groups and their state, see `untold` for what is not.

    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.ones(2)
    >>> adam = torch.optim.Adam([weight])
    >>> adam.step()
    >>> sorted(state_tensors(adam)[0])
    ['0.exp_avg', '0.exp_avg_sq', '0.step']
    """
    tensors: dict[str, Tensor] = {}
    whole = _told(optimizer)
    numbers = {id(p): i for i, p in enumerate(_weights(optimizer))}
    named = {
        str(i) if isinstance(i, int) else f"own {i}": entry
        if isinstance(i, int)
        else _by_number(optimizer.state.get(i, entry), numbers)
        for i, entry in whole["state"].items()
    }
    state = {name: pack(named[name], name, tensors) for name in sorted(named)}
    groups = []
    for at, group in enumerate(whole["param_groups"]):
        names = [name for name in group if name != "params" and name not in _PLUMBING]
        options = {name: pack(group[name], f"group{at}.{name}", tensors) for name in names}
        groups.append({"size": len(group["params"]), "options": options})
    beside = _beside(optimizer, whole, tensors)[0]
    return tensors, {"class": type(optimizer).__name__, "state": state, "groups": groups, "beside": beside}


def untold(optimizer: Optimizer) -> list[str]:
    """A note on what an optimizer keeps, beside its groups and their state, that no checkpoint holds, if it does.

    >>> sgd = type("Odd", (torch.optim.SGD,), {"__module__": "mine"})([torch.zeros(2)], lr=0.1)
    >>> sgd.seen = range(2)
    >>> untold(sgd)
    ["Odd keeps a range in 'seen', which its state_dict() does not tell and ... a resumed run begins with a new one."]
    """
    odd = _beside(optimizer, _told(optimizer), {})[1]
    title = type(optimizer).__name__
    return [
        f"{title} keeps a {kind} in '{name}', which its state_dict() does not tell and no checkpoint holds: a resumed "
        "run begins with a new one."
        for name, kind in odd.items()
    ]


def _told(optimizer: Optimizer) -> Mapping[str, Any]:
    """Its state_dict(); where that is in a form of its own, or fails, as of some that wrap another optimizer, the same
    in torch's form."""
    with without_compiler(), suppress(*MISTAKES):
        if (whole := optimizer.state_dict()).keys() >= {"state", "param_groups"}:
            return whole
    numbers: dict[Any, int] = {p: number for number, p in enumerate(_weights(optimizer))}
    groups = [{**group, "params": [numbers[p] for p in group["params"]]} for group in optimizer.param_groups]
    return {"state": {numbers.get(key, key): entry for key, entry in optimizer.state.items()}, "param_groups": groups}


def _holders(optimizer: Any, name: str = "", around: Sequence[object] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """The attributes of an optimizer, and of those that it is made of (they share its state), by where these are."""
    module = type(optimizer).__module__
    if not module.startswith(("torch.optim", "handful.")):
        yield name, vars(optimizer)
    for attribute, value in list(vars(optimizer).items()):
        for at, part in enumerate(value if isinstance(value, list) else [value]):
            if _shares(part, optimizer) and all(part is not other for other in (optimizer, *around)):
                yield from _holders(part, f"{name}{attribute}.{at}.", (optimizer, *around))


def _shares(part: object, optimizer: Any) -> bool:
    return getattr(part, "state", None) is optimizer.state and hasattr(part, "step")


def _beside(
    optimizer: Optimizer, whole: Mapping[str, Any], tensors: dict[str, Tensor]
) -> tuple[dict[str, object], dict[str, str]]:
    """What it keeps beside its groups and their state, packed by name: what else its state_dict() tells (" name"), and
    in attributes plain values, and the state or attributes of other objects; by name, too, the kinds of what cannot be
    packed."""
    told = {f" {name}": value for name, value in whole.items() if name not in ("state", "param_groups")}
    found, odd = dict(told), {}
    numbers = {id(p): i for i, p in enumerate(_weights(optimizer))}
    for place, held in _holders(optimizer):
        for name, value in held.items():
            if name in (*_PLUMBING, "defaults", "state", "param_groups") or name.startswith("_optimizer_"):
                continue
            if not _shares(value, optimizer) and not _static(kept := _by_number(value, numbers), numbers):
                found[place + name] = kept
    packed: dict[str, object] = {}
    for name, value in found.items():
        new: dict[str, Tensor] = {}
        try:
            packed[name] = pack(_inside(value), f"beside.{name}", new)
            tensors |= new
        except HandfulError:
            odd[name.strip()] = type(value).__name__
    return packed, {} if told and packed.keys() >= told.keys() else odd


def _weights(optimizer: Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _by_number(value: Any, numbers: Mapping[int, int]) -> Any:
    """What is kept by weights, or by their ids, with their numbers in place of these."""
    if not isinstance(value, dict):
        return value
    found = {}
    for key, entry in value.items():
        kind, at = ("weight", id(key)) if isinstance(key, Tensor) else ("id", key)
        found[f"{kind} {numbers[at]}" if isinstance(at, int) and at in numbers else key] = entry
    return found


def _by_weight(kept: Any, weights: Sequence[nn.Parameter]) -> Any:
    """The way back."""
    if not isinstance(kept, dict):
        return kept
    found: dict[Any, Any] = {}
    for name, entry in kept.items():
        kind, _, number = str(name).partition(" ")
        if kind in ("weight", "id") and number.isdecimal():
            found[weights[int(number)] if kind == "weight" else id(weights[int(number)])] = entry
        else:
            found[name] = entry
    return found


def _inside(value: Any) -> Any:
    """Its state, or its attributes, where it is no plain value and has them."""
    if hasattr(value, "load_state_dict"):
        return value.state_dict()
    plain = isinstance(value, Tensor | dict | list | tuple | set | frozenset | deque | int | float | str)
    return value if plain else getattr(value, "__dict__", None) or value


def _static(value: object, weights: Mapping[int, int]) -> bool:
    """Whether it is code, a model, a device, or made of the weights themselves."""
    match value:
        case list() | tuple():
            return any(_static(item, weights) for item in value)
        case dict():
            return any(_static(item, weights) for item in (*value.keys(), *value.values()))
    return id(value) in weights or callable(value) or isinstance(value, nn.Module | torch.device)


def _put_beside(optimizer: Optimizer, beside: Mapping[str, Any]) -> None:
    """Give it what `_beside` found, in place where it is kept in place."""
    if more := {name[1:]: value for name, value in beside.items() if name.startswith(" ")}:
        with without_compiler():
            optimizer.load_state_dict(optimizer.state_dict() | more)
    for place, held in _holders(optimizer):
        for name in held.keys() & {name.removeprefix(place) for name in beside if name.startswith(place)}:
            match held[name], beside[place + name]:
                case Tensor() as old, Tensor() as new if old.shape == new.shape and old.dtype == new.dtype:
                    old.detach().copy_(new)
                case dict() as old, new:
                    old.clear()
                    old.update(_by_weight(new, _weights(optimizer)))
                case Optimizer() as old, new:  # whoever wraps it has its groups, too
                    groups = old.param_groups
                    old.load_state_dict(new)
                    for group, restored in zip(groups, old.param_groups, strict=True):
                        group.update(restored)
                    old.param_groups = groups
                case old, new if hasattr(old, "load_state_dict"):
                    old.load_state_dict(new)
                case old, dict() as new if hasattr(old, "__dict__"):
                    vars(old).update(new)
                case _, new:
                    held[name] = new


def order(optimizer: Optimizer, model: nn.Module) -> list[list[str | None]]:
    """The names of the parameters of each group, which `state_tensors` numbers; None for one that the model has not."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[names.get(id(parameter)) for parameter in group["params"]] for group in optimizer.param_groups]


def put_in_order(optimizer: Optimizer, model: nn.Module, stored: Sequence[Sequence[str | None]]) -> None:
    """Let each group hold its parameters in this order: a model may list the same ones in another one than that of
    which the state was stored. HandfulError where they are not the same."""
    named = dict(model.named_parameters(remove_duplicate=False))
    known = set(map(id, named.values()))
    for group, names in zip(optimizer.param_groups, stored, strict=False):
        own = {id(parameter): parameter for parameter in group["params"]}
        others = (parameter for key, parameter in own.items() if key not in known)
        ordered = [named[name] if name in named else next(others, None) for name in names]
        if len(ordered) == len(own) and {*map(id, ordered)} != own.keys():
            odd = [name or "one given up" for name, p in zip(names, ordered, strict=True) if id(p) not in own]
            raise HandfulError(
                "the stored optimizer state is of other parameters than those of this model, or in other groups: "
                + some(odd)
            )
        if len(ordered) == len(own):
            group["params"][:] = ordered


def load_state(optimizer: Optimizer, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Give a freshly built optimizer the state that `state_tensors` took from one of the same build.

    Values keep their bits and dtypes; tensors go to their parameter's device, except step counters that stay
    on the CPU. Raises HandfulError if the optimizer is of another class, has other groups, or a tensor is
    missing; the optimizer is then unchanged.
    """
    here = type(optimizer).__name__
    if meta["class"] != here:
        raise HandfulError(f"the stored optimizer state is of {meta['class']}, but the optimizer is {here}")
    sizes, stored = [len(group["params"]) for group in optimizer.param_groups], [g["size"] for g in meta["groups"]]
    if sizes != stored:
        raise HandfulError(
            f"the stored optimizer state has groups of {stored} parameters, but the optimizer has {sizes}: "
            "it belongs to another model"
        )
    state, first = _state_of(optimizer, tensors, meta), _weights(optimizer)[0]
    beside = {name: unpack(form, tensors, first, False) for name, form in meta.get("beside", {}).items()}
    options = [
        {name: unpack(value, tensors, group["params"][0], False) for name, value in saved["options"].items()}
        for group, saved in zip(optimizer.param_groups, meta["groups"], strict=True)
    ]
    try:
        _put_beside(optimizer, beside)
    except MISTAKES as error:
        raise HandfulError(
            f"{here} does not take back what its state_dict() told ({type(error).__name__}: {brief(error)}), so that "
            "no run of it can go on: begin a new one, with init= its folder"
        ) from error
    for group, restored in zip(optimizer.param_groups, options, strict=True):
        kept = {name: group[name] for name in ("params", *_PLUMBING) if name in group}
        group.clear()
        group.update(kept | restored)
    optimizer.state.clear()  # in place: the parts of an OptimizerGroup share one dict
    optimizer.state.update(state)


def _state_of(optimizer: Optimizer, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> dict[Any, Any]:
    """What was stored for each parameter, and, by names, what it keeps of all of them together."""
    owners = [(parameter, group) for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[Any, Any] = {}
    for index, entry in meta["state"].items():
        parameter, group = owners[int(index) if index.isdecimal() else 0]
        restored = unpack(entry, tensors, parameter, bool(group.get("capturable") or group.get("fused")))
        if index.isdecimal():
            state[parameter] = restored
        else:
            state[index.removeprefix("own ")] = _by_weight(restored, _weights(optimizer))
    return state
