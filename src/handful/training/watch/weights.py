"""The tensors of a model by name: copied, put back, averaged over the steps."""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from handful.base.errors import HandfulError, brief, some
from handful.base.machine import in_bytes
from handful.base.shards import as_shared, is_shard
from handful.models.base import is_ours, ready_made
from handful.optim.state import GENERATORS, draw_from, pack, unpack

Weights = dict[str, Tensor]
MOST = 1 << 24  # numbers in a Tensor that is kept beside the weights
_HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith("_hooks"))
_MODULES_OWN = frozenset(vars(nn.Module())) | {"_compiled_call_impl"}


def copy_weights(model: nn.Module, *, clone: bool = True) -> Weights:
    return {
        k: v.detach().clone() if clone else v.detach() for k, v in model.state_dict().items() if isinstance(v, Tensor)
    }


def under(prefix: str, tensors: Weights) -> Weights:
    """Those of the tensors whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}


def laid_out(own: Weights, weights: Weights) -> Weights:
    """Weights where a model's own are: on its device, shared out among the ranks as they are."""
    return {k: as_shared(v.to(own[k].device), own[k]) if k in own else v for k, v in weights.items()}


def put_back(tensor: Tensor, before: Tensor) -> None:
    """Let a tensor of a model be as it was; a buffer may have taken another size."""
    with torch.no_grad():
        if tensor.shape != before.shape:
            tensor.resize_(before.shape)
        tensor.copy_(before)


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards the buffers are as they were: some change in evaluation mode, too, as what observes for a quantisation
    does."""
    kept = [
        (module, name, value, value.detach().clone())
        for module in model.modules()
        for name, value in module._buffers.items()
        if value is not None and not nn.parameter.is_lazy(value)
    ]
    try:
        yield
    finally:
        for module, name, value, before in kept:
            put_back(value, before)
            if not isinstance(module, torch.jit.ScriptModule):
                module._buffers[name] = value


@contextmanager
def left_as_it_was(model: object) -> Iterator[None]:
    """Afterwards all that a model, or a loss that is a module, holds beside its weights is as it was: buffers, and
    attributes, such as what counts its calls."""
    if not isinstance(model, nn.Module):
        yield
        return
    back = as_now(model)
    try:
        with buffers_kept(model):
            yield
    finally:
        back()


def _parts(model: nn.Module) -> list[object]:
    """What a model is built of: its parameters by name, and the hooks of its modules and parameters."""
    named = list(model.named_parameters())
    hooked = [hooks for module in model.modules() for hooks in map(vars(module).get, _HOOKS) if hooks]
    hooked += [p._backward_hooks for _, p in named if p._backward_hooks]
    return [name for name, _ in named] + [key for hooks in hooked for key in hooks]


def load_weights(model: nn.Module, weights: Weights) -> None:
    """Put parameters and buffers into the model, of which a buffer may have grown; HandfulError, and the model is as it
    was, when they belong to another model."""
    told = model.state_dict()
    own = {name: held for name, held in told.items() if isinstance(held, Tensor)}
    lazy = any(map(nn.parameter.is_lazy, own.values()))  # they take the weights' shapes
    unlike = lazy or own.keys() != weights.keys() or any(v.shape != weights[k].shape for k, v in own.items())
    kept = [(v, v.clone()) for v in own.values() if not nn.parameter.is_lazy(v)] if unlike else []
    replaced: list[tuple[dict[str, Tensor | None], str, Tensor]] = []
    for prefix, module in model.named_modules() if unlike else ():
        for name, buffer in [] if isinstance(module, torch.jit.ScriptModule) else module._buffers.items():
            saved = weights.get(f"{prefix}.{name}" if prefix else name)
            if saved is None or buffer is None or nn.parameter.is_lazy(buffer) or is_shard(buffer):
                continue
            if buffer.shape != saved.shape:
                replaced.append((module._buffers, name, buffer))
                module._buffers[name] = buffer.new_empty(saved.shape)  # not in place: the caller may hold the other
    own = copy_weights(model, clone=False) if replaced else own
    for name in own:
        del told[name]  # what is no Tensor stays (see `beside`), and the versions of the modules
    told.update(weights if lazy else laid_out(own, weights))
    try:
        model.load_state_dict(told, strict=True)
    except RuntimeError as error:
        for buffers, name, buffer in replaced:
            buffers[name] = buffer
        for value, held in kept:
            value.detach().copy_(held)
        raise HandfulError(
            f"the saved weights do not fit this model ({type(model).__name__}): {brief(error)}"
        ) from None


def _places(model: nn.Module, at: str = "", known: set[int] | None = None) -> dict[str, tuple[dict[str, Any], str]]:
    """Where a model holds what no weights file does, by name: attributes of modules that are not torch's, buffers that
    are not persistent, all of the modules that stand in attributes and are none of its own."""
    found: dict[str, tuple[dict[str, Any], str]] = {}
    modules, hidden = list(model.named_modules(prefix=at)), known is not None
    known = (known or set()) | {id(module) for _, module in modules}
    for prefix, module in modules:
        if isinstance(module, torch.jit.ScriptModule):
            continue
        at = f"{prefix}." if prefix else ""
        ours = is_ours(module)  # whose buffers aside are made as the model is
        aside: Iterable[str] = () if ours else module._non_persistent_buffers_set
        if hidden:
            found |= {at + name: (module._parameters, name) for name in module._parameters}
            aside = module._buffers
        found |= {at + name: (module._buffers, name) for name in aside}
        if ours or type(module).__module__.startswith("torch."):
            continue
        for name, value in vars(module).items():
            if name not in _MODULES_OWN:
                found[at + name] = (vars(module), name)
                for k, part in enumerate(value if isinstance(value, list | tuple) else [value]):
                    if isinstance(part, nn.Module) and id(part) not in known:
                        found |= _places(part, f"{at}{name}.{k}", known)
    return found


def _held(model: nn.Module, loss: object) -> dict[str, tuple[dict[str, Any], str]]:
    """The same of a model and the caller's loss, no part of which is in a weights file."""
    return _places(model) | (
        _places(loss, "loss()", {*map(id, model.modules())}) if isinstance(loss, nn.Module) else {}
    )


def _weights_alone(model: nn.Module, loss: object) -> bool:
    """Whether nothing is held beside weights and buffers: by a ready-made model, without a loss of the caller's."""
    return ready_made(model) and not isinstance(loss, nn.Module)


def beside(model: nn.Module, loss: object = None) -> tuple[dict[str, object], dict[str, Tensor]]:
    """What a model holds that no weights file does, packed by name: numbers, lists, generators, Tensors in attributes,
    see `pack`; and all that the caller's loss does. What is made of the model's weights, has a gradient to pass on, has
    no numbers, or is larger than MOST numbers is left out."""
    forms: dict[str, object] = {}
    tensors: dict[str, Tensor] = {}
    if _weights_alone(model, loss):
        return forms, tensors
    told = model.state_dict()
    values = {name: holder[key] for name, (holder, key) in _held(model, loss).items()}
    values |= {n: v for n, v in told.items() if not isinstance(v, Tensor)}
    if not values:
        return forms, tensors
    weights = set(map(id, chain(model.parameters(), model.buffers(), model.modules())))
    weights -= {id(buffer) for name, buffer in model.named_buffers() if name not in told}
    for name, value in values.items():
        if (found := _packed(value, name, weights)) is not None:
            forms[name] = found[0]
            tensors |= found[1]
    return forms, tensors


def _packed(value: object, name: str = "", weights: Collection[int] = ()) -> tuple[object, dict[str, Tensor]] | None:
    new: dict[str, Tensor] = {}
    outer = value if isinstance(value, list | tuple) else [value]
    if hasattr(value, "_fields") or any(
        id(v) in weights or (isinstance(v, Tensor) and v.grad_fn is not None) for v in outer
    ):
        return None
    try:
        form = pack(value, f"beside.{name}", new)
    except HandfulError:
        return None
    plain = all(v.layout is torch.strided and not (v.is_meta or v.is_nested or is_shard(v)) for v in new.values())
    return (form, new) if plain and all(v.numel() <= MOST for v in new.values()) else None


def marks(model: nn.Module, loss: object = None) -> dict[str, str]:
    """By which what is in `beside` is known again."""
    return _marks(*beside(model, loss))


def _marks(forms: Mapping[str, object], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    seen = {name: [*v.shape, hash(in_bytes(v))] for name, v in tensors.items()}  # NaN is as it was
    of = {name: [s for n, s in seen.items() if f"{n}.".startswith(f"beside.{name}.")] for name in forms}
    return {name: repr((form, of[name])) for name, form in forms.items()}


def changed(
    model: nn.Module, first: Mapping[str, str], loss: object = None
) -> tuple[dict[str, object], dict[str, Tensor]]:
    """What of `beside` is no longer as `marks` had it."""
    forms, tensors = beside(model, loss)
    names = [name for name, mark in _marks(forms, tensors).items() if mark != first.get(name)]
    of = tuple(f"beside.{name}." for name in names)
    return {name: forms[name] for name in names}, {n: v for n, v in tensors.items() if f"{n}.".startswith(of)}


def put_beside(
    model: nn.Module, forms: Mapping[str, object], tensors: Mapping[str, Tensor], loss: object = None
) -> None:
    """Give a model, and a loss, what `beside` found, in place where it is kept in place."""
    if not forms:
        return
    places, inside = _held(model, loss), dict(model.named_modules())
    first = next((p.new_empty(0) for p in model.parameters() if not nn.parameter.is_lazy(p)), torch.empty(0))
    for name, form in forms.items():
        path, _, last = name.rpartition(".")
        new = partial(unpack, form, tensors, scalars_too=False)
        if name in places:
            holder, key = places[name]
            old = holder[key]
            holder[key] = _put(old, new(parameter=old if isinstance(old, Tensor) else first))
        elif last == "_extra_state":
            inside[path].set_extra_state(new(parameter=first))
        elif (own := inside.get(path)) is not None and last not in {*own._parameters, *own._buffers, *own._modules}:
            vars(own)[last] = new(parameter=first)  # type: ignore[index]


def as_now(model: nn.Module, loss: object = None) -> Callable[[], None]:
    """Keep what `beside` finds; a call of the result puts back what has changed since, and takes away what came since,
    any number of times. A model that was built, or given hooks, since stays as it is: it holds something by which it
    knows."""
    if _weights_alone(model, loss):
        return lambda: None
    forms, tensors = beside(model, loss)
    first, places, parts = _marks(forms, tensors), _held(model, loss).keys(), _parts(model)
    tensors = {name: value.clone() for name, value in tensors.items()}

    def back() -> None:
        held = _held(model, loss)
        if (not forms and held.keys() <= places) or parts != _parts(model):
            return
        for name, (holder, key) in held.items():
            if name not in places and _packed(holder[key]) is not None:  # made by a call, and so again by the next
                del holder[key]
        now = marks(model, loss)
        if new := {n: form for n, form in forms.items() if now.get(n) != first[n]}:
            put_beside(model, new, tensors, loss)

    return back


def _put(old: Any, new: Any) -> Any:
    match old, new:
        case np.generic(), int() | float() | complex():
            return type(old)(new)
        case np.ndarray(), np.ndarray() if old.dtype == new.dtype and old.shape == new.shape:
            old[...] = new
            return old
        case set(), set():
            old.clear()
            old.update(new)
            return old
        case deque(), deque():
            old.clear()
            old.extend(new)
            return old
        case Tensor(), Tensor() if old.dtype == new.dtype and old.shape == new.shape:
            put_back(old.detach(), new)
            return old
        case list(), list():
            old[:] = [_put(*pair) for pair in zip(old, new, strict=True)] if len(old) == len(new) else new
            return old
        case dict(), dict():
            old.update({key: _put(old.get(key), value) for key, value in new.items()})
            for key in old.keys() - new.keys():
                del old[key]
            return old
        case _ if isinstance(old, GENERATORS):
            draw_from(old, new)
            return old
    return new


def lost(model: nn.Module, first: Mapping[str, str]) -> list[str]:
    """A note on what of `beside` has changed since, if anything has."""
    names = [name for name in changed(model, first)[0] if not name.startswith("loss()")]  # loaded, it is not called
    said = f"the model changes {some(names)} as it trains, which its state_dict() does not hold"
    return [f"{said}: a resumed run goes on with it, a loaded one begins with a new one; register_buffer keeps it"
            ] if names else []  # fmt: skip


def reader(model: nn.Module) -> Callable[[], Weights]:
    """What gives the model's tensors of the moment as `copy_weights(model, clone=False)` does, for every step: from
    where the modules hold them, without building a state dict. Where that has more or others to say, it is asked."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):  # it lists what it does not hold
        return partial(copy_weights, model, clone=False)
    places = {
        f"{prefix}.{name}" if prefix else name: (held, name)
        for prefix, module in model.named_modules(remove_duplicate=False)
        for held in (module._parameters, module._buffers)
        for name in held
        if name not in module._non_persistent_buffers_set
    }

    def read() -> Weights:
        return {key: value for key, (held, name) in places.items() if (value := held[name]) is not None}

    found, whole = read(), copy_weights(model, clone=False)
    if any(map(is_shard, found.values())):
        return read
    if found.keys() == whole.keys() and all(found[key].is_set_to(value) for key, value in whole.items()):
        return read
    return partial(copy_weights, model, clone=False)


def average_weight(decay: float, step: int) -> float:
    """What the weights of a step count for in their moving average (Polyak and Juditsky 1992), its start corrected: 1 -
    min(decay, (1 + t) / (10 + t))."""
    return 1 - min(decay, (1 + step) / (10 + step))


def as_last(model: nn.Module) -> frozenset[str]:
    """The buffers of which an average would be none that ever was: a queue, whose rows are replaced, a range that was
    observed, a singular vector, which turns. All but running statistics, which are what averaged weights make of the
    data, more or less; the average has the others as they were last."""
    names = (name for name, _ in model.named_buffers(remove_duplicate=False))
    return frozenset(name for name in names if not name.rpartition(".")[2].startswith("running_"))


def update_average(average: Weights, now: Weights, weight: float | Tensor, last: Collection[str] = ()) -> None:
    """Move the average to the weights of now by `weight`, a number or 0-d; whole numbers, what has another shape, and
    `last` are copied."""
    old, new = list[Tensor](), list[Tensor]()
    with torch.no_grad():
        for name, value in now.items():
            kept = average[name]
            if kept.shape != value.shape:  # it has grown
                average[name] = value.clone()
            elif (value.is_floating_point() or value.is_complex()) and name not in last:
                old.append(kept)
                new.append(value)
            else:
                kept.copy_(value)
        if isinstance(weight, Tensor):
            torch._foreach_lerp_(old, new, [weight.to(value.dtype) for value in new])
        else:
            torch._foreach_lerp_(old, new, weight)
