"""What an update sets anew at every step: the learning rate of each group, and bounds of the gradient; and how an
optimizer is taken from one batch size to another: learning rate, second moments, decay."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from handful.base.errors import HandfulError, StepError
from handful.base.plan import Progress
from handful.optim.decay import Schedule
from handful.optim.parts import Group, averages_itself, decoupled, parts_of, write

_ADAPTIVE = ("adam", "adagrad", "adadelta", "rmsprop", "muon", "lion")


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


def set_decay(optimizer: Optimizer, l2: float) -> None:
    """Make `l2` the weight decay of all groups that have one.

    >>> from handful.optim.build import build
    >>> built = build("adamw", nn.Linear(2, 1), lr=0.5)
    >>> set_decay(built.optimizer, 0.1)
    >>> [group["weight_decay"] for group in built.optimizer.param_groups]
    [0.1, 0.0]
    """
    for group in optimizer.param_groups:
        if group.get("weight_decay"):
            group["weight_decay"] = l2


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


def gain(old_batch: int, new_batch: int, noise_scale: float) -> float:
    """g(new) / g(old) with g(B) = B / (B + phi), phi the gradient noise scale (McCandlish et al. 2018, equation 2.9).

    >>> gain(32, 64, noise_scale=32.0)
    1.333...
    """
    return (new_batch / (new_batch + noise_scale)) / (old_batch / (old_batch + noise_scale))


def rescale(optimizer: Optimizer, old_batch: int, new_batch: int, gain: float) -> list[str]:
    """Adapt an optimizer in place to another batch size; returns what was changed, in words.

    gain is g(new) / g(old), see `gain`. The learning rate, its base too, grows with it for SGD (Johnson et al. 2020,
    AdaScale) and with its square root for adaptive optimizers (Malladi et al. 2022). With r = new_batch / old_batch,
    second-moment decays become beta2 ** r, so they last as many examples (Marek et al. 2025); the running second
    moments are rescaled with them, so their bias-corrected values do not jump. Decoupled weight decay keeps batch / (lr
    * decay) constant (Wang and Aitchison 2024); a decay that is a gradient is part of the loss and stays. Raises
    HandfulError for an optimizer whose rule is not known.
    """
    if not (old_batch > 0 and new_batch > 0 and gain > 0 and math.isfinite(gain)):
        raise HandfulError(f"rescale needs batches and a gain above 0, not {old_batch}, {new_batch} and {gain}")
    ratio = new_batch / old_batch
    notes = []
    for part in parts_of(optimizer):
        power = _lr_power(part)
        notes += [_rescale_group(part, group, ratio, gain**power) for group in part.param_groups]
    return [f"batch {old_batch} -> {new_batch}: {note}" for note in dict.fromkeys(notes)]


def _lr_power(part: Optimizer) -> float:
    name = type(part).__name__
    if averages_itself(part):
        raise HandfulError(f"it is not known how the average that {name} keeps follows the batch size")
    if isinstance(part, SGD):
        return 1.0
    if any(word in name.lower() for word in _ADAPTIVE) or "betas" in part.param_groups[0]:
        return 0.5
    raise HandfulError(f"it is not known how the learning rate of {name} follows the batch size")


def _rescale_group(part: Optimizer, group: dict[str, Any], ratio: float, factor: float) -> str:
    before, base = float(group["lr"]), float(group.get("initial_lr", group["lr"]))
    write(group, "lr", before * factor)
    group["initial_lr"] = base * factor
    changes = [f"learning rate {base:.4g} -> {base * factor:.4g}"]
    if "betas" in group:
        first, old = group["betas"]
        group["betas"] = first, old**ratio
        changes.append(f"beta2 {float(old):.6g} -> {float(old**ratio):.6g}")
        if 0 < old < 1:
            _continue_second_moment(part, group, float(old), float(old**ratio))
    for key in group.keys() & {"alpha", "rho"}:
        old = group[key]
        group[key] = old**ratio
        changes.append(f"{key} {old:.6g} -> {group[key]:.6g}")
    decay = float(group.get("weight_decay", 0.0))
    if decay and decoupled(part, group):
        group["weight_decay"] = decay * ratio / factor
        changes.append(f"weight decay {decay:.4g} -> {group['weight_decay']:.4g}")
    return ", ".join(changes)


def _continue_second_moment(part: Optimizer, group: dict[str, Any], old: float, new: float) -> None:
    """Keep v / (1 - beta2 ** step) as it was: early in a run, a new beta2 alone would multiply the step."""
    for parameter in group["params"]:
        state = part.state.get(parameter, {})
        count = float(state.get("step", 0))
        for key in state.keys() & {"exp_avg_sq", "max_exp_avg_sq"} if count > 0 else ():
            state[key].mul_(math.expm1(count * math.log(new)) / math.expm1(count * math.log(old)))
