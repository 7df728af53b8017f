"""What an optimizer is made of: its parts, groups and settings, those of its own class and those of others."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.optim import Optimizer

from handful.base.expression import signature
from handful.optim.muon import Muon, evaluated


class OptimizerGroup(Optimizer):
    """Two or more optimizers of different parameters that act as one.

    Groups and state are shared with the parts, so schedulers, checkpoints and `load_state_dict` see one optimizer.
    """

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        start = 0
        for part in self.parts:
            count = len(part.param_groups)
            part.param_groups, part.state = self.param_groups[start : start + count], self.state
            start += count

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()  # load_state_dict has made new groups and a new state

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = evaluated(closure)
        for part in self.parts:
            part.step()
        return loss


class _Wrapper(Optimizer):
    """An optimizer that wraps another one and is none of torch's by class, as ScheduleFreeWrapper; groups and state
    are its own."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner.param_groups, {})
        self.inner, self.param_groups, self.state = inner, inner.param_groups, inner.state

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = evaluated(closure)
        self.inner.step()
        return loss


def as_optimizer(made: object) -> Optimizer | None:
    """The optimizer that was made, one of another class as one of torch's; None for what is no optimizer."""
    match made:
        case Optimizer():
            return made
        case object(param_groups=list(), state=_, step=_):
            modes = {name: getattr(made, name) for name in ("train", "eval") if hasattr(made, name)}
            methods = {name: staticmethod(mode) for name, mode in modes.items()}
            wrapper: Optimizer = type(type(made).__name__, (_Wrapper,), methods)(made)
            return wrapper
    return None


@runtime_checkable
class TwoWeights(Protocol):
    """An optimizer that steps one set of weights and is evaluated with another, their average, as the schedule-free
    ones (Defazio et al. 2024, arXiv:2405.15682); these methods put one or the other into the parameters."""

    def train(self) -> object: ...

    def eval(self) -> object: ...


def averages_itself(optimizer: Optimizer) -> bool:
    """Whether it is one of `TwoWeights`."""
    return isinstance(optimizer, TwoWeights)


def switch(optimizer: Optimizer, mode: Literal["train", "eval"]) -> None:
    """Put the weights that it steps, or those that are evaluated, into the parameters, where they differ."""
    match optimizer:
        case TwoWeights():
            optimizer.train() if mode == "train" else optimizer.eval()


def low_precision(optimizer: Optimizer) -> list[str]:
    """What rounding does to the moments that torch's optimizers keep in the weights' own dtype.

    A decay by less than a quarter of the dtype's epsilon is rounded back to what it was, whatever the value.
    """
    for part in parts_of(optimizer):
        for group in part.param_groups if type(part).__module__.startswith("torch.optim") else ():
            beta = group.get("betas", (0.0, 0.0))[1]
            for dtype in {p.dtype for p in group["params"]} & {torch.bfloat16, torch.float16}:
                if 1 - beta < torch.finfo(dtype).eps / 4:
                    title, kind = type(part).__name__, str(dtype).removeprefix("torch.")
                    return [
                        f"The weights are {kind}, and so is the second moment of {title}: times {beta:g} it is rounded "
                        "back, so it grows and never shrinks, and steps get shorter. Use weights in float32 with "
                        "precision='bfloat16', or smaller betas, as in adamw(betas=[0.9, 0.95])."
                    ]
    return []


def not_fused(optimizer: Optimizer) -> None:
    """Take the plain step where torch's fused SGD does nothing: on a CPU, torch 2.13 leaves float16 and bfloat16
    weights of 32 and more numbers as they are, without a word."""
    for part in parts_of(optimizer):
        for group in part.param_groups if isinstance(part, torch.optim.SGD) else ():
            kinds = {(p.device.type, p.dtype) for p in group["params"]}
            if group.get("fused") and kinds & {("cpu", torch.bfloat16), ("cpu", torch.float16)}:
                group["fused"] = False


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether its step has to be given the loss to evaluate, as LBFGS's."""
    closure = signature(getattr(optimizer.step, "__func__", optimizer.step)).parameters.get("closure")
    return closure is not None and closure.default is closure.empty


def parts_of(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizers that do the work: itself, or those of an `OptimizerGroup`."""
    return optimizer.parts if isinstance(optimizer, OptimizerGroup) else [optimizer]


def decoupled(part: Optimizer, group: Mapping[str, object]) -> bool:
    """Whether the group's weight decay shrinks the weights directly and not through the gradient."""
    return isinstance(part, torch.optim.AdamW | torch.optim.Muon | Muon) or bool(group.get("decoupled_weight_decay"))


def write(group: dict[str, Any], key: str, value: float) -> None:
    """Set a number of a group, in place where it is a Tensor: a captured graph holds this very tensor."""
    if isinstance(group[key], Tensor):
        group[key].fill_(value)
    else:
        group[key] = value


@contextmanager
def without_compiler() -> Iterator[None]:
    """In the block, optimizers are made and say their state without an import of torch's compiler, 2.4 s of a process's
    first call, to be left out of what it may compile (torch 2.13 wraps the methods for that)."""
    wrapped = {name: getattr(Optimizer, name) for name in ("add_param_group", "state_dict")}
    for name, method in wrapped.items():
        setattr(Optimizer, name, getattr(method, "__wrapped__", method))
    try:
        yield
    finally:
        for name, method in wrapped.items():
            setattr(Optimizer, name, method)
