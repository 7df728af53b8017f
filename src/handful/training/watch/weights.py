"""The tensors of a model by name: copied, put back, averaged over the steps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from handful.base.errors import HandfulError, some
from handful.base.shards import as_shared, is_shard

Weights = dict[str, Tensor]


def copy_weights(model: nn.Module, *, clone: bool = True) -> Weights:
    return {
        k: v.detach().clone() if clone else v.detach() for k, v in model.state_dict().items() if isinstance(v, Tensor)
    }


def laid_out(model: nn.Module, weights: Weights) -> Weights:
    """Weights where the model's own are: on its device, shared out among the ranks as they are."""
    own = copy_weights(model, clone=False)
    return {k: as_shared(v.to(own[k].device), own[k]) if k in own else v for k, v in weights.items()}


def put_back(tensor: Tensor, before: Tensor) -> None:
    """Let a tensor of a model be as it was; a buffer may have taken another size."""
    with torch.no_grad():
        if tensor.shape != before.shape:
            tensor.resize_(before.shape)
        tensor.copy_(before)


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards all buffers are as they were: some, such as what observes for a quantisation, change in evaluation
    mode, too."""
    kept = [
        (module, name, value, value.detach().clone())
        for module in model.modules()
        for name, value in module.named_buffers(recurse=False)
        if not nn.parameter.is_lazy(value)
    ]
    try:
        yield
    finally:
        for module, name, value, before in kept:
            put_back(value, before)
            if not isinstance(module, torch.jit.ScriptModule):
                module._buffers[name] = value


def load_weights(model: nn.Module, weights: Weights) -> None:
    """Put parameters and buffers into the model; HandfulError when they belong to another model."""
    extra = {name: held for name, held in model.state_dict().items() if not isinstance(held, Tensor)}  # see `beside`
    lazy = any(map(nn.parameter.is_lazy, [*model.parameters(), *model.buffers()]))  # they take the weights' shapes
    try:
        model.load_state_dict(extra | (weights if lazy else laid_out(model, weights)), strict=True)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise HandfulError(f"the saved weights do not fit this model ({type(model).__name__}): {detail}") from None


def beside(model: nn.Module) -> dict[str, object]:
    """What a model holds that no weights file does: numbers and generators in attributes of its modules, buffers that
    are not persistent, and what `get_extra_state` gives beside Tensors; by name."""
    found: dict[str, object] = {}
    for prefix, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        at = f"{prefix}." if prefix else ""
        plain: dict[str, object] = {
            name: v for name, v in vars(module).items() if type(v) in (int, float, bool) and name != "training"
        }
        plain |= {name: v.get_state() for name, v in vars(module).items() if isinstance(v, torch.Generator)}
        aside = {name: module._buffers.get(name) for name in module._non_persistent_buffers_set}
        found |= {at + name: v.detach().clone() if isinstance(v, Tensor) else v for name, v in (plain | aside).items()}
    return found | {name: repr(held) for name, held in model.state_dict().items() if not isinstance(held, Tensor)}


def lost(before: dict[str, object], model: nn.Module) -> list[str]:
    """A note on what of `beside` has changed since, if anything has."""
    now = beside(model)
    names = [name for name, old in before.items() if not _same(old, now.get(name))]
    said = f"the model changes {some(names)} as it trains, which neither its state_dict() nor a checkpoint holds"
    return [f"{said}: a resumed or loaded run begins with a new one; register_buffer keeps it"] if names else []


def _same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return one is other or one == other


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


def update_average(average: Weights, now: Weights, weight: float | Tensor) -> None:
    """Move the average to the weights of now by `weight`, a number or 0-d; integer buffers are copied."""
    moving = [name for name, value in now.items() if value.is_floating_point()]
    old, new = [average[name] for name in moving], [now[name] for name in moving]
    with torch.no_grad():
        if isinstance(weight, Tensor):
            torch._foreach_lerp_(old, new, [weight.to(value.dtype) for value in new])
        else:
            torch._foreach_lerp_(old, new, weight)
        for name in now.keys() - set(moving):
            average[name].copy_(now[name])
