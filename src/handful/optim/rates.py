"""What an update sets anew at every step: the learning rate of each group, and bounds of the gradient."""

import math
from collections.abc import Iterable, Mapping

from torch import Tensor, nn
from torch.optim import Optimizer

from handful.base.errors import HandfulError, StepError
from handful.base.plan import Progress
from handful.optim.decay import Schedule
from handful.optim.groups import Group


def set_lr(optimizer: Optimizer, factor: float, only: Group | None = None) -> None:
    """Set every group's learning rate, or one's, to `factor` times its base, which the group keeps as `initial_lr`.

    >>> from handful.optim.build import build
    >>> sgd = build("sgd", nn.Linear(2, 1), lr=0.5).optimizer
    >>> set_lr(sgd, 0.1)
    >>> sgd.param_groups[0]["lr"]
    0.05

    Raises StepError for a factor that is negative or no number.
    """
    checked(factor)
    for group in optimizer.param_groups if only is None else [only]:
        held = group["lr"]
        if "initial_lr" not in group:
            group["initial_lr"] = float(held)
        if isinstance(held, Tensor):
            held.fill_(group["initial_lr"] * factor)
        else:
            group["lr"] = group["initial_lr"] * factor


def checked(factor: float) -> float:
    """A factor of the learning rate; StepError for one that is negative or no number."""
    if not 0 <= factor < math.inf:
        raise StepError(f"the schedule asks for {factor:g} times the learning rate; no step is made at such a rate")
    return factor


def follow(optimizer: Optimizer, schedule: Schedule, progress: Progress, share: float = 1.0) -> None:
    """Set every group's learning rate by a share of the schedule; groups with a schedule of their own by that.
    Parameters that it leaves still lose their gradients."""
    parts = schedule.patterns
    if not parts:
        set_lr(optimizer, schedule(progress) * share)
        return
    factors = {pattern: (part(progress), part.still(progress)) for pattern, part in parts.items()}
    for group in optimizer.param_groups:
        factor, still = factors[group["schedule"]]
        set_lr(optimizer, factor * share, only=group)
        if still:
            for parameter in group["params"]:
                parameter.grad = None


def set_base(optimizer: Optimizer, lr: float | Mapping[str, float]) -> None:
    """Make `lr` the base learning rate of the first group, and scale the other groups' with it; or of each group that
    of its pattern.

    >>> from handful.optim.build import build
    >>> built = build("adamw", nn.Linear(2, 1), lr=0.5)
    >>> set_base(built.optimizer, 0.1)
    >>> [round(group["initial_lr"], 3) for group in built.optimizer.param_groups]
    [0.1, 0.1]
    """
    if isinstance(lr, Mapping):
        for group in optimizer.param_groups:
            group["initial_lr"] = float(lr[group["rate"]])
        return
    before = float(optimizer.param_groups[0]["initial_lr"])
    for group in optimizer.param_groups:
        group["initial_lr"] = lr * (group["initial_lr"] / before)  # exactly `lr` for groups of one rate


def clip(parameters: Iterable[Tensor], norm: float | None = None, value: float | None = None) -> Tensor:
    """Clip gradients in place to a joint 2-norm, or each entry to [-value, value]; torch's own functions.

    Returns the joint norm before clipping, a 0-d tensor. With neither, it only measures.

    >>> import torch
    >>> weight = nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clip([weight], norm=1.0), weight.grad
    (tensor(5.), tensor([0.6000, 0.8000]))
    """
    if norm is not None and value is not None:
        raise HandfulError("gradients can be clipped by norm or by value, not by both")
    for name, limit in (("norm", norm), ("value", value)):
        if limit is not None and not limit > 0:
            raise HandfulError(f"gradients are clipped to a {name} above 0, not {limit!r}")
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    if norm is not None:
        return nn.utils.clip_grad_norm_(parameters, norm)
    total = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if value is not None:
        nn.utils.clip_grad_value_(parameters, value)
    return total


def add_l1(parameters: Iterable[Tensor], l1: float) -> None:
    """Add the subgradient of l1 * sum |w| to the gradients: l1 * sign(w), 0 at 0 (Tibshirani 1996)."""
    for p in parameters:
        if p.grad is not None:
            p.grad.add_(p.detach().sign(), alpha=l1)
