"""An optimizer taken from one batch size to another: learning rate, second moments, decay."""

import math
from typing import Any

from torch.optim import SGD, Optimizer

from handful.base.errors import HandfulError
from handful.optim.state import averages_itself, decoupled, parts_of, write

_ADAPTIVE = ("adam", "adagrad", "adadelta", "rmsprop", "muon", "lion")


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
