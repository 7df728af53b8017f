"""One update in as few calls as torch has: its fused kernels without its walk to them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from handful.optim.state import needs_closure, parts_of

Update = Callable[[], object]
Closure = Callable[[], float]  # takes the gradient again, where the weights are now; the mean loss there
Move = Callable[..., object]  # of a Closure, or of nothing
Group = dict[str, Any]  # as torch's optimizers hold them
States = dict[Tensor, dict[str, Any]]


def stepper(optimizer: Optimizer) -> Move:
    """What takes the optimizer's step: torch's kernels on the same tensors as by its own `step`, so the same bits.
    Its closure is for an optimizer that evaluates the loss several times.

    That `step` itself is called where it may do more: another class, another form, hooks, one that was wrapped. It
    imports torch's compiler, too, which takes seconds. benchmarks/bench_step.py times both.

    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> weight.grad = torch.ones(2)
    >>> stepper(SGD([weight], lr=0.1, fused=True))()
    >>> weight.data
    tensor([0.9000, 0.9000])
    """
    if needs_closure(optimizer):
        return lambda closure: optimizer.step(closure)
    steps = [_stepper(part) for part in parts_of(optimizer)]
    if len(steps) == 1:
        (only,) = steps
        return lambda closure=None: only()
    return lambda closure=None: [step() for step in steps]


def _stepper(optimizer: Optimizer) -> Update:
    prepare, groups = _PREPARE.get(type(optimizer)), optimizer.param_groups
    kinds = {(p.device, p.dtype) for group in groups for p in group["params"]}
    if prepare is None or len(kinds) > 1 or not all(_plain(group) for group in groups):
        return optimizer.step

    def step() -> None:
        if _watched(optimizer):
            optimizer.step()
            return
        updates = [u for group in optimizer.param_groups for u in prepare(group, optimizer.state)]
        with torch.no_grad():
            for update in updates:
                update()

    return step


def _plain(group: Group) -> bool:
    """Whether torch would take its fused kernel for the group, without extras."""
    extras = ("amsgrad", "maximize", "capturable", "differentiable")
    return bool(group.get("fused")) and not any(group.get(e) for e in extras) and isinstance(group["lr"], float)


def _watched(optimizer: Optimizer) -> bool:
    """Whether somebody wants to know of each step."""
    own = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks or "step" in vars(optimizer)
    return bool(own or _global_optimizer_pre_hooks or _global_optimizer_post_hooks)


def _moved(group: Group) -> list[Tensor]:
    return [p for p in group["params"] if p.grad is not None]


def _grads(moved: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in moved if p.grad is not None]


def _adam(group: Group, state: States) -> list[Update]:
    kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    moved, (beta1, beta2) = _moved(group), group["betas"]
    grads = _grads(moved)
    states = [state[p] or _begun(state[p], p) for p in moved]
    steps, means, squares = ([s[name] for s in states] for name in ("step", "exp_avg", "exp_avg_sq"))

    def update() -> None:
        torch._foreach_add_(steps, 1)
        kernel(
            moved, grads, means, squares, [], steps, lr=group["lr"], beta1=beta1, beta2=beta2,
            weight_decay=group["weight_decay"], eps=group["eps"], amsgrad=False, maximize=False,
        )  # fmt: skip

    return [update] if moved else []


def _begun(state: dict[str, Any], p: Tensor) -> dict[str, Any]:
    """The state of a parameter before its first step, as torch makes it for fused kernels."""
    state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
    return state


def _sgd(group: Group, state: States) -> list[Update]:
    """Momentum starts as a parameter's first gradient. torch's own fused step (2.13) fails where that comes later than
    the first gradient of another one."""
    options = {name: group[name] for name in ("weight_decay", "momentum", "lr", "dampening", "nesterov", "maximize")}
    moved = _moved(group)
    if not group["momentum"]:
        return [partial(torch._fused_sgd_, moved, _grads(moved), [], is_first_step=False, **options)] if moved else []
    new = {p for p in moved if state[p].get("momentum_buffer") is None}
    for p in new:
        state[p]["momentum_buffer"] = torch.empty_like(p)  # which the kernel fills at a first step
    updates: list[Update] = []
    for is_first, some in ((True, [p for p in moved if p in new]), (False, [p for p in moved if p not in new])):
        momenta = [state[p]["momentum_buffer"] for p in some]
        if some:
            updates.append(partial(torch._fused_sgd_, some, _grads(some), momenta, is_first_step=is_first, **options))
    return updates


_PREPARE = {AdamW: _adam, Adam: _adam, SGD: _sgd}


@contextmanager
def without_compiler() -> Iterator[None]:
    """Optimizers made in the block do not import torch's compiler, 2.4 s of a process's first call, to be left out of
    what it may compile (torch 2.13 wraps the method for that)."""
    wrapped = Optimizer.add_param_group
    setattr(Optimizer, "add_param_group", getattr(wrapped, "__wrapped__", wrapped))  # noqa: B010
    try:
        yield
    finally:
        setattr(Optimizer, "add_param_group", wrapped)  # noqa: B010
