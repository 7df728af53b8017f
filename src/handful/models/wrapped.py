"""The module inside what torch wraps it in: shared out among devices, or compiled."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

SHARED = (nn.parallel.DistributedDataParallel, nn.DataParallel)


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
def uncompiled(model: object) -> Iterator[None]:
    """Meanwhile no call of the module or of one inside is compiled: rows of any number go through it, and hooks see
    them."""
    modules: Iterable[Any] = model.modules() if isinstance(model, nn.Module) else ()
    kept = [(m, m._compiled_call_impl) for m in modules if is_compiled(m)]
    for module, _ in kept:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, call in kept:
            module._compiled_call_impl = call
