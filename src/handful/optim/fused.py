"""One update in as few calls as torch has: its fused kernels without its walk to them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from handful.base.errors import HandfulError
from handful.optim.parts import needs_closure, parts_of

Closure = Callable[[], float]  # takes the gradient again, where the weights are now; the mean loss there
Move = Callable[..., object]  # of a Closure, or of nothing
Group = dict[str, Any]  # as torch's optimizers hold them
States = dict[Tensor, dict[str, Any]]
Kernel = Callable[..., None]  # of a group, all states, a rate, and whether it is off, and on: 0-d


@dataclass
class Moved:
    """Parameters, those of them that l1 is for, and what moves them."""

    parameters: list[nn.Parameter]
    decayed: list[nn.Parameter]
    move: Move


def stepper(*optimizers: Optimizer) -> Move:
    """What takes the step of an optimizer, or of several, none of which evaluates the loss again: torch's kernels on
    the same tensors as by its own `step`, so the same bits. The closure is for one that evaluates it several times.

    That `step` itself is called where it may do more: another class, another form, hooks, one that was wrapped. It
    imports torch's compiler, too, which takes seconds. benchmarks/bench_step.py times both.

    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> weight.grad = torch.ones(2)
    >>> stepper(SGD([weight], lr=0.1, fused=True))()
    >>> weight.data
    tensor([0.9000, 0.9000])
    """
    if len(optimizers) == 1 and needs_closure(*optimizers):
        return lambda closure: optimizers[0].step(closure)
    steps = [_stepper(part) for one in optimizers for part in parts_of(one)]
    return steps[0] if len(steps) == 1 else lambda closure=None: [step() for step in steps]


def _stepper(optimizer: Optimizer) -> Move:
    kernel = _kernel(optimizer)
    if kernel is None:
        return lambda closure=None: _own_step(optimizer)
    own, before, after = vars(optimizer), optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks

    def step(closure: Closure | None = None) -> None:
        if before or after or "step" in own or _global_optimizer_pre_hooks or _global_optimizer_post_hooks:
            optimizer.step()  # somebody wants to know of each step
            return
        with torch.no_grad():
            for group in optimizer.param_groups:
                kernel(group, optimizer.state, group["lr"])

    return step


def _own_step(optimizer: Optimizer) -> None:
    try:
        optimizer.step()
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        raise HandfulError(
            f"{type(optimizer).__name__} differentiates the gradient itself (create_graph=True in a loop of torch's "
            "own), which no step here keeps a graph of: choose another optimizer"
        ) from error


def in_place(optimizer: Optimizer, rates: Sequence[Tensor], off: Tensor) -> Callable[[], None] | None:
    """The same step as a part of a graph, or None where there is no such form of it: the rates, one for each group, and
    whether nothing is to change are read where they lie.

    rates: 0-d; on a GPU float32, as the kernels want them. off: 0-d, float32; 1 leaves weights and state as they are.
    """
    kernels = {
        id(group): kernel for part in parts_of(optimizer) if (kernel := _kernel(part)) for group in part.param_groups
    }
    if any(id(group) not in kernels for group in optimizer.param_groups):
        return None

    def step() -> None:
        on = 1 - off
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            kernels[id(group)](group, optimizer.state, rate, off, on)

    return step


def _kernel(optimizer: Optimizer) -> Kernel | None:
    """What takes the step of one group: torch's fused kernel, where its own `step` would take that, without extras."""
    kinds = set()
    for group in optimizer.param_groups:
        extras = any(map(group.get, ("amsgrad", "maximize", "capturable", "differentiable")))
        if not group.get("fused") or extras or not isinstance(group["lr"], float):
            return None
        kinds |= {(p.device, p.dtype) for p in group["params"]}
    return _KERNELS.get(type(optimizer)) if len(kinds) == 1 else None


def _adam(group: Group, state: States, lr: float | Tensor, off: Tensor | None = None, on: Tensor | int = 1) -> None:
    moved = [p for p in group["params"] if p.grad is not None]
    if not moved:
        return
    kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    states, (beta1, beta2) = [state[p] or _begun(state[p], p) for p in moved], group["betas"]
    steps = [s["step"] for s in states]
    torch._foreach_add_(steps, on)
    kernel(
        moved, [p.grad for p in moved], [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states], [], steps,
        lr=lr, beta1=beta1, beta2=beta2, weight_decay=group["weight_decay"], eps=group["eps"], amsgrad=False,
        maximize=False, found_inf=off,
    )  # fmt: skip


def _begun(state: dict[str, Any], p: Tensor) -> dict[str, Any]:
    """The state of a parameter before its first step, as torch makes it for fused kernels."""
    state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
    return state


def _sgd(group: Group, state: States, lr: float | Tensor, off: Tensor | None = None, _: Tensor | int = 1) -> None:
    """Momentum starts as a parameter's first gradient. torch's own fused step (2.13) fails where that comes later than
    the first gradient of another one."""
    options = {name: group[name] for name in ("weight_decay", "momentum", "dampening", "nesterov", "maximize")}
    moved = [p for p in group["params"] if p.grad is not None]
    new = {p for p in moved if group["momentum"] and state[p].get("momentum_buffer") is None}
    for p in new:
        state[p]["momentum_buffer"] = torch.zeros_like(p)  # the kernel fills it at a first step that is not off
    for is_first in (True, False):
        if some := [p for p in moved if (p in new) is is_first]:
            momenta = [state[p]["momentum_buffer"] for p in some] if group["momentum"] else []
            torch._fused_sgd_(
                some, [p.grad for p in some], momenta, lr=lr, is_first_step=is_first, found_inf=off, **options
            )


_KERNELS = {AdamW: _adam, Adam: _adam, SGD: _sgd}
