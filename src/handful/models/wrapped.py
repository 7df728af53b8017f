"""The module inside what torch wraps it in: shared out among devices, or compiled."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from handful.base.errors import HandfulError

EXPORTED = "its mode was fixed by torch.export, as of dropout: give the module that was exported"
SHARED = (nn.parallel.DistributedDataParallel, nn.DataParallel)


def must_be_model(model: object) -> nn.Module:
    """The model. Raises HandfulError for what is no model that learns, with the way on."""
    kind, way = type(model).__name__, ""
    if isinstance(model, nn.Module):
        weights = [p for p in model.parameters() if not nn.parameter.is_lazy(p)]
        if any(p.is_inference() for p in weights):
            raise HandfulError(
                "the model was made in torch.inference_mode(), where nothing learns; make it outside of it"
            )
        if any(p.is_meta for p in weights):
            raise HandfulError(
                "weights of the model are on the device 'meta', where they hold no numbers: make room by "
                "model.to_empty(device='cpu'), and fill it"
            )
        try:
            model.train(getattr(model, "training", True))
        except NotImplementedError:
            raise HandfulError(f"the model ({kind}) can be put into no mode: {EXPORTED}") from None
        return model
    if kind == "ExportedProgram":
        way = f": {EXPORTED}"
    elif isinstance(model, type):
        kind, way = f"a class: give an instance, as {model.__name__}(...) makes it", ""
    elif callable(model):
        way = ": call it in the forward of one, which holds its weights as nn.Parameter"
    raise HandfulError(f"model must be an nn.Module or the name of a ready-made one, not {kind}{way}")


def unwrapped(model: nn.Module) -> nn.Module:
    """The module itself, so that its weights have the names it gave them. Compiled parts stay compiled, inside it too.

    >>> list(unwrapped(torch.compile(nn.Linear(2, 1), backend="eager")).state_dict())
    ['weight', 'bias']
    """
    while isinstance(model, SHARED) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, SHARED) else _inside(model)
    for module in list(model.modules()):
        for name, part in list(module.named_children()):
            if hasattr(part, "_orig_mod"):
                setattr(module, name, _inside(part))
    return model


def _inside(compiled: Any) -> nn.Module:
    model: nn.Module = compiled._orig_mod
    compile_calls(model, compiled.dynamo_ctx)
    return model


def compile_calls(model: Any, how: Callable[..., object] = torch.compile) -> None:
    """Compile what a call of the module does. Its own `compile()` would, and compiles nothing where its class is one of
    torch.nn's (torch 2.13)."""

    def call(*given: object, **named: object) -> object:
        return model._call_impl(*given, **named)

    model._compiled_call_impl = how(call)


def is_compiled(model: Any) -> bool:
    """Whether a call of the module is compiled."""
    return getattr(model, "_compiled_call_impl", None) is not None


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Meanwhile no call of the module or of one inside is compiled: rows of any number go through it, and hooks see
    them."""
    modules: Iterable[Any] = model.modules()
    kept = [(m, m._compiled_call_impl) for m in modules if is_compiled(m)]
    for module, _ in kept:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, call in kept:
            module._compiled_call_impl = call
