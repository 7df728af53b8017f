"""What the code of a model and its loss could keep, change or look at besides Tensors.

All that it reaches is written down by value, so that a change shows; of what is of no known kind (an iterator, a file,
a clock) it cannot be told what it does, and its name is given.
"""

import builtins
import dis
import functools
import sys
import weakref
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from enum import Enum
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from itertools import chain
from types import BuiltinFunctionType, CodeType, EllipsisType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as every_module

from handful.base.errors import MISTAKES
from handful.base.keys import of_host
from handful.data.base import Source
from handful.optim.parts import needs_closure
from handful.training.special.coupling import is_by_row
from handful.training.training import Training
from handful.transform.pipeline import Pipeline

# packages whose functions and classes keep nothing from call to call but what is seen in their objects
_KNOWN = {"torch", "handful", "math", "cmath", "operator", "_operator", "typing", "collections", "functools",
          "_functools", "abc", "enum", "dataclasses", "itertools", "numbers", "builtins", "numpy",
          "random", "transformers", "timm", "torchvision", "torchaudio", "einops", "peft"}  # fmt: skip
_ACTS = {"print", "input", "open", "exec", "eval", "globals", "__import__", "breakpoint", "SystemRandom", "default_rng"}
_PLAIN = (bool, int, float, complex, str, bytes, range, slice, NoneType, EllipsisType, np.generic,
          torch.dtype, torch.device, torch.layout, torch.memory_format)  # fmt: skip
_MOST = 100_000  # values, and bytes in an array
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_ONCE = {"__init__", "__new__", "__init_subclass__", "__class_getitem__", "__post_init__"}  # not called in a step


class One:
    """Something, kept so that nothing else is taken for it, and compared by that alone."""

    def __init__(self, held: object) -> None:
        self.held = held

    def __eq__(self, other: object) -> bool:
        return self.held is getattr(other, "held", None)


class Reached:
    """What is reached from some objects. values: what may change, in turn; host: the random states of Python and NumPy;
    unknown: the first of no known kind, or ""; met: objects; places: of plain values in globals, closures, classes.
    calls: methods that are called."""

    def __init__(self, *starts: object, calls: Iterable[str] = ("forward",)) -> None:
        self.host, self.values = of_host(), list[object]()
        self.unknown, self.met, self.places = "", dict[int, object](), set[tuple[int, str]]()
        self.names, self.owners, self.modules = {*calls}, dict[type, bool](), list[ModuleType]()
        for start in starts:
            self.add(start, type(start).__name__)
        size = -1
        while size != len(self.met) + len(self.names):  # names reach members, whose code has other names
            size = len(self.met) + len(self.names)
            for owner, made in [*self.owners.items()]:
                self.members(owner, made)
            for module in self.modules:
                self.named(vars(module), self.names & vars(module).keys())

    def __eq__(self, other: object) -> bool:
        match other:
            case Reached():
                return (self.host, self.values) == (other.host, other.values)
        return NotImplemented

    def shares(self, other: "Reached") -> bool:
        """Whether something that can change is reached from both."""
        both = (self.met[key] for key in self.met.keys() & other.met.keys())
        return not self.places.isdisjoint(other.places) or any(map(may_change, both))

    def add(self, value: Any, name: str) -> None:
        """One object, under the name to call it by."""
        if len(self.values) > _MOST:
            self.is_unknown(name)
            return
        if is_plain(value):
            self.values.append((type(value), value))
            return
        self.values.append(One(value))
        if id(value) in self.met:
            return
        self.met[id(value)] = value
        try:
            self.inside(value, name)
        except MISTAKES:  # as of an object that stands for another, which is not there
            self.met.pop(id(value))
            self.is_unknown(name)

    def inside(self, value: Any, name: str) -> None:
        """What an object holds, or calls."""
        match value:
            case Tensor() if type(value) in (Tensor, nn.Parameter):
                self.values.append(value.requires_grad)
                self.all((value._backward_hooks, value._post_accumulate_grad_hooks), name)
            case Tensor():
                pass
            case list() | tuple() | set() | frozenset() | deque():
                self.values.append(len(value))
                self.all(value, name)
            case dict():
                self.values.append(len(value))
                self.all(value.keys(), name)
                self.named(value)
            case np.ndarray() if not value.dtype.hasobject and value.nbytes <= _MOST:
                self.values.append(value.tobytes())
            case ModuleType() if not known(value):
                self.modules.append(value)
            case ModuleType() | Enum():
                pass
            case _:
                self.code(value, name)

    def code(self, value: Any, name: str) -> None:
        """Something that may be called, or that has attributes."""
        match value:
            case FunctionType():
                self.function(value)
            case MethodType():
                self.all((value.__func__, value.__self__), name)
            case functools.partial():
                self.all((value.func, value.args, value.keywords), name)
            case weakref.ref():  # as recurrent layers have of their weights
                self.add(value(), name)
            case functools._lru_cache_wrapper():
                self.add(value.__wrapped__, name)
            case type():
                if not known(value):
                    self.owners[value] = True
                elif value.__name__ in _ACTS:
                    self.is_unknown(name)
            case BuiltinFunctionType():
                if not isinstance(value.__self__, ModuleType | NoneType | type):
                    self.add(value.__self__, name)
                elif not known(value) or value.__name__ in _ACTS:
                    self.is_unknown(name)
            case property() | staticmethod() | classmethod() | functools.cached_property() | functools.partialmethod():
                found = (getattr(value, where, None) for where in ("fget", "__func__", "func"))
                self.all((one for one in found if one is not None), name)
            case _ if callable(value) and type(value).__module__ == "builtins":  # a slot of a type of C
                pass
            case _:
                self.instance(value, name)

    def instance(self, value: Any, name: str) -> None:
        """What has attributes, and a class whose methods may be called."""
        kind = type(value)
        slots = [slot for one in kind.__mro__ for slot in _tuple(vars(one).get("__slots__", ()))]
        if not hasattr(value, "__dict__") and not slots:
            if not (known(kind) and callable(value)):  # as torch.relu is; not a generator, a lock
                self.is_unknown(name)
            return
        for owner in kind.__mro__:
            if not known(owner):
                self.owners.setdefault(owner, False)
                if compiled(owner):  # what its objects hold cannot be seen
                    self.is_unknown(name)
        self.named(getattr(value, "__dict__", {}))
        for slot in slots:
            with suppress(AttributeError):
                self.add(getattr(value, slot), slot)

    def function(self, function: FunctionType) -> None:
        for cell, name in zip(function.__closure__ or (), function.__code__.co_freevars, strict=True):
            with suppress(ValueError):  # it is empty
                self.place(id(cell), name, cell.cell_contents)
        if known(function):
            return
        self.named(vars(function))
        self.all(function.__defaults__ or (), function.__name__)
        self.named(function.__kwdefaults__ or {})
        names, outside, imports = used(function.__code__)
        self.names |= names
        if imports or outside & _ACTS & vars(builtins).keys() - function.__globals__.keys():
            self.is_unknown(function.__qualname__)
        for name in sorted(outside & function.__globals__.keys()):
            self.place(id(function.__globals__), name, function.__globals__[name])

    def place(self, where: int, name: str, value: Any) -> None:
        """What stands under a name that code may give to something else."""
        if is_plain(value):
            self.places.add((where, name))
        self.add(value, name)

    def members(self, owner: type, made: bool) -> None:
        """What a class has under the names that are used; of one whose objects are made in a step, all."""
        for name, value in [*vars(owner).items()]:
            magic = name.startswith("__") and name not in _ONCE and callable(value)
            if (
                (made or magic or name in self.names)
                and id(value) not in self.met
                and name not in ("__dict__", "__weakref__")
            ):
                self.place(id(owner), name, value)
        if made:
            for base in owner.__bases__:
                if not known(base):
                    self.owners[base] = True

    def all(self, values: Iterable[Any], name: str) -> None:
        for value in values:
            self.add(value, name)

    def named(self, values: dict[Any, Any], names: Iterable[str] | None = None) -> None:
        """Of a dict, all values, or those under some names."""
        for name in [*values] if names is None else sorted(names):
            if name in values:
                self.add(values[name], name if isinstance(name, str) else type(values).__name__)

    def is_unknown(self, name: str) -> None:
        self.unknown = self.unknown or name


def in_python(t: Training) -> Reached:
    """What a model, its loss and its metrics could keep or look at besides Tensors."""
    return Reached(t.objective.model, t.objective.loss, t.objective.metrics)


def between(t: Training) -> Reached:
    """What may be called between two steps."""
    own = [f for f in t.batches.transforms if type(f) is not Pipeline]
    called = t.schedule, t.rule, t.batch_size, t.state.callbacks.all
    return Reached(*called, own, t.state.optimizer, t.batches.source, calls=("forward", "step"))


def may_change_rows(callbacks: Iterable[object], source: Source) -> bool:
    """Whether callbacks reach something that a data set of the caller's looks at as it is read."""
    called = Reached(*callbacks, calls=("__call__",))
    return called.shares(Reached(source, calls=("__getitem__", "__getitems__")))


def why_unsure(t: Training, reached: Reached) -> str | None:
    """Why the operations of a step may not be all that it does, as far as can be told without taking it."""
    if reached.unknown:
        return f"it is not known what '{reached.unknown}' does, which the model or its loss reaches"
    return "what is called between steps may change the model" if reached.shares(between(t)) else None


def may_be_recorded(t: Training) -> bool:
    """Whether steps are to be taken as recorded operations, as far as can be told before."""
    objective, compiled = t.objective, t.plan.choices.get("compile")
    hooks = chain(
        (getattr(m, name) for m in objective.model.modules() for name in _HOOKS),
        (getattr(every_module, f"_global{name}") for name in _HOOKS),
        (p._backward_hooks or p._post_accumulate_grad_hooks for p in objective.parameters),
    )
    return not (
        objective.device.type != "cpu"
        or (compiled is None or compiled.value or compiled.status == "given")
        or "profile" in t.plan.choices
        or t.ranks.size > 1
        or t.training_step is not None
        or t.state.callbacks.all
        or needs_closure(t.state.optimizer)
        or any(type(p) not in (Tensor, nn.Parameter) for p in (*objective.parameters, *objective.buffers))
        or any(isinstance(m, torch.jit.ScriptModule) or m._compiled_call_impl for m in objective.model.modules())
        or any(hooks)
    )


class Evaluations:
    """Whether an evaluation has changed what a model and its loss keep. kept: when steps were looked at last."""

    def __init__(self, t: Training, kept: list[object]) -> None:
        self.t, self.kept, self.rows = t, kept, len(t.state.history)
        named = all(t.plan.choices[name].reproducible for name in ("loss", "metrics"))
        self.nothing = named and is_by_row(t.objective.model)

    def changed(self) -> bool:
        """Whether one has since this was asked last."""
        history, new = self.t.state.history, self.rows
        if len(history) == new:
            return False
        self.rows = len(history)
        evaluated = any("valid_loss" in row for row in history[new:])
        return bool(self.kept) and evaluated and not self.nothing and in_python(self.t).values != self.kept


def known(what: Any) -> bool:
    """Whether it is a function, class or module of a package that is known."""
    match what:
        case ModuleType():
            name = what.__name__
        case FunctionType():  # not what a decorator has put on it
            name = what.__globals__.get("__name__", "")
        case _:
            name = getattr(what, "__module__", None) or "builtins"
    return str(name).partition(".")[0] in _KNOWN


def compiled(owner: type) -> bool:
    """Whether a class comes from a module that is no Python."""
    spec = getattr(sys.modules.get(owner.__module__), "__spec__", None)
    return spec is not None and (spec.origin == "built-in" or str(spec.origin).endswith(tuple(EXTENSION_SUFFIXES)))


def is_plain(value: object) -> bool:
    """Whether it is compared by value, and never changes."""
    return issubclass(type(value), _PLAIN)


def may_change(value: object) -> bool:
    match value:
        case list() | dict() | set() | deque() | np.ndarray() | nn.Module():
            return True
        case type() | FunctionType() | ModuleType():
            return False
    return not known(type(value))


def _tuple(slots: Any) -> tuple[str, ...]:
    return (slots,) if type(slots) is str else tuple(slots)


@lru_cache(4096)
def used(code: CodeType) -> tuple[frozenset[str], frozenset[str], bool]:
    """The names that code has, with the functions in it; those of globals; whether it imports something."""
    told = [*dis.get_instructions(code)]
    names = {*code.co_names}
    outside = {one.argval for one in told if one.opname.endswith(("_GLOBAL", "_GLOBALS", "_NAME"))}
    imports = any(one.opname == "IMPORT_NAME" for one in told)
    for inner in code.co_consts:
        if type(inner) is CodeType:
            more, further, also = used(inner)
            names, outside, imports = names | more, outside | further, imports or also
    return frozenset(names), frozenset(outside), imports
