"""Optimizers: torch.optim's own, built with stated defaults and the right parameters left out of the decay.

    sgd  momentum  nesterov  adagrad  adadelta  rmsprop  adam  adamw  nadam  radam  adamax  muon

or any callable parameters -> optimizer, or a ready torch optimizer.
"""

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import Optimizer

from handful.base.errors import HandfulError, did_you_mean
from handful.base.plan import Choice
from handful.optim.initial_lr import ADAPTIVE, rate_of_shapes
from handful.optim.muon import Muon
from handful.optim.rescale import gain, rescale
from handful.optim.state import Both, decoupled, load_state, parts_of, state_tensors, write

__all__ = [
    "Both",
    "Built",
    "build",
    "clip",
    "gain",
    "load_state",
    "names",
    "rescale",
    "set_base",
    "set_lr",
    "state_tensors",
]

Auto = float | Literal["auto"]


class _Kind(NamedTuple):
    make: type[Optimizer]
    options: dict[str, Any]
    lr: float
    why: str


# in order of increasing complexity
_KINDS = {
    "sgd": _Kind(torch.optim.SGD, {}, 0.1, "half of what momentum 0.9 at 0.02 adds up to"),
    "momentum": _Kind(torch.optim.SGD, {"momentum": 0.9}, 0.02, "near 0.1 at a batch of 256 (He et al. 2016)"),
    "nesterov": _Kind(torch.optim.SGD, {"momentum": 0.9, "nesterov": True}, 0.02, "as momentum"),
    "adagrad": _Kind(torch.optim.Adagrad, {}, 0.01, "torch's default; Duchi et al. 2011 tune it"),
    "rmsprop": _Kind(torch.optim.RMSprop, {}, 1e-3, "Tieleman and Hinton 2012"),
    "adadelta": _Kind(torch.optim.Adadelta, {}, 1.0, "Zeiler 2012: the step sets its own scale"),
    "adam": _Kind(torch.optim.Adam, {}, 1e-3, "Kingma and Ba 2015"),
    "adamax": _Kind(torch.optim.Adamax, {}, 2e-3, "Kingma and Ba 2015, section 7.1"),
    "nadam": _Kind(torch.optim.NAdam, {}, 2e-3, "Dozat 2016"),
    "radam": _Kind(torch.optim.RAdam, {}, 1e-3, "Liu et al. 2020"),
    "adamw": _Kind(torch.optim.AdamW, {}, 1e-3, "Loshchilov and Hutter 2019"),
    "muon": _Kind(Muon, {}, 1e-3, "AdamW's, to which its steps are scaled"),
}
names = tuple(_KINDS)

_L2 = {"adamw": (0.01, "Loshchilov and Hutter 2019, and torch"), "muon": (0.1, "Liu et al. 2025, and torch")}
_FUSED_ON_CPU = {torch.optim.Adagrad}  # and not on a GPU
_OF_ADAMW = {"betas", "eps", "amsgrad"}  # options of muon that are meant for its AdamW half
_NO_CLOSURE = "LBFGS evaluates the loss several times a step, and mini-batch gradient descent once; choose another."


@dataclass
class Built:
    """An optimizer, and every choice made for it. `lr.value` and `l2.value` are those of its first group."""

    optimizer: Optimizer
    name: str
    lr: Choice
    l2: Choice
    notes: list[str]


def build(
    spec: str | Callable[..., Optimizer] | Optimizer,
    model: nn.Module,
    lr: Auto = "auto",
    l2: Auto = "auto",
    **options: Any,
) -> Built:
    """The optimizer of a model's trainable parameters, each once, after the model is on its device.

    spec: one of `names`; a callable parameters -> optimizer, such as a class or a functools.partial; or a
    ready torch optimizer of this model, accepted as it is. lr: the base learning rate. l2: the weight decay;
    it leaves out biases and normalisation layers. options: passed to the optimizer, such as betas=(0.9,
    0.95).

    Raises HandfulError for an unknown name or option, values out of range, a model without trainable
    parameters, an optimizer of another model's parameters, and LBFGS.

    >>> built = build("adamw", nn.Linear(64, 2))
    >>> built.lr.value, built.l2.value, [len(group["params"]) for group in built.optimizer.param_groups]
    (0.0063, 0.01, [1, 1])
    """
    lr, l2 = _checked(lr, "lr", above=True), _checked(l2, "l2", above=False)
    parameters, notes = _trainable(model)
    if isinstance(spec, Optimizer):
        return _ready(spec, parameters, lr, l2, options, notes)
    if isinstance(spec, str):
        return _named(spec, model, parameters, lr, l2, options, notes)
    if callable(spec):
        return _called(spec, model, parameters, lr, l2, options, notes)
    raise HandfulError(f"optimizer must be a name, a callable or a torch optimizer, not {spec!r}.")


def set_lr(optimizer: Optimizer, factor: float) -> None:
    """Set every group's learning rate to `factor` times its base, which the group keeps as `initial_lr`.

    >>> sgd = build("sgd", nn.Linear(2, 1), lr=0.5).optimizer
    >>> set_lr(sgd, 0.1)
    >>> sgd.param_groups[0]["lr"]
    0.05
    """
    for group in optimizer.param_groups:
        base = group.setdefault("initial_lr", float(group["lr"]))
        write(group, "lr", base * factor)


def set_base(optimizer: Optimizer, lr: float) -> None:
    """Make `lr` the base learning rate of the first group, and scale the other groups' with it.

    >>> built = build("adamw", nn.Linear(2, 1), lr=0.5)
    >>> set_base(built.optimizer, 0.1)
    >>> [round(group["initial_lr"], 3) for group in built.optimizer.param_groups]
    [0.1, 0.1]
    """
    before = float(optimizer.param_groups[0]["initial_lr"])
    for group in optimizer.param_groups:
        group["initial_lr"] = lr * (group["initial_lr"] / before)  # exactly `lr` for groups of one rate


def clip(parameters: Iterable[Tensor], norm: float | None = None, value: float | None = None) -> Tensor:
    """Clip gradients in place to a joint 2-norm, or each entry to [-value, value]; torch's own functions.

    Returns the joint norm before clipping, a 0-d tensor. With neither, it only measures.

    >>> weight = nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clip([weight], norm=1.0), weight.grad
    (tensor(5.), tensor([0.6000, 0.8000]))
    """
    if norm is not None and value is not None:
        raise HandfulError("Clip gradients by norm or by value, not by both.")
    for name, limit in (("norm", norm), ("value", value)):
        if limit is not None and not limit > 0:
            raise HandfulError(f"Gradients are clipped to a {name} above 0, not {limit!r}.")
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    if norm is not None:
        return nn.utils.clip_grad_norm_(parameters, norm)
    total = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if value is not None:
        nn.utils.clip_grad_value_(parameters, value)
    return total


def _named(
    name: str,
    model: nn.Module,
    parameters: dict[str, nn.Parameter],
    lr: Auto,
    l2: Auto,
    options: dict[str, Any],
    notes: list[str],
) -> Built:
    if name.lower() == "lbfgs":
        raise HandfulError(_NO_CLOSURE)
    if name not in _KINDS:
        raise HandfulError(f"There is no optimizer '{name}'.{did_you_mean(name, _KINDS)}")
    kind = _KINDS[name]
    rate = _default_lr(name, kind, model) if lr == "auto" else Choice(lr, "given")
    decay = _default_l2(name, model) if l2 == "auto" else Choice(l2, "given")
    known = set(inspect.signature(kind.make).parameters) - {"params", "lr", "weight_decay"}
    known |= _OF_ADAMW if name == "muon" else set()
    for option in options:
        if option not in known:
            use = {"weight_decay": " Use l2."}.get(option) or did_you_mean(option, known)
            raise HandfulError(f"The optimizer '{name}' has no option '{option}'.{use}")
    keywords = {**kind.options, "lr": rate.value, **options}
    try:
        if name == "muon":
            optimizer = _muon(model, parameters, keywords, decay.value, notes)
        else:
            if decay.value and "decoupled_weight_decay" in known:
                keywords.setdefault("decoupled_weight_decay", True)
            keywords = {**_fast(kind.make, model, parameters, options), **keywords}
            optimizer = kind.make(_groups(model, parameters, decay.value), **keywords)
    except (ValueError, TypeError, RuntimeError) as error:
        raise HandfulError(f"The optimizer '{name}' refuses its options: {error}.") from None
    if decay.value:
        notes.append(_decay_note(optimizer))
    return _finish(optimizer, name, rate, decay, notes)


def _called(
    make: Callable[..., Optimizer],
    model: nn.Module,
    parameters: dict[str, nn.Parameter],
    lr: Auto,
    l2: Auto,
    options: dict[str, Any],
    notes: list[str],
) -> Built:
    """A callable is told what it has names for; to ask for what it has no name for is an error."""
    signature = inspect.signature(make).parameters
    takes_any = any(one.kind is one.VAR_KEYWORD for one in signature.values())
    asked = {name: value for name, value in (("lr", lr), ("weight_decay", l2)) if value != "auto"} | options
    for name in asked:
        if name not in signature and not takes_any:
            title = _title(make)
            raise HandfulError(f"The optimizer {title} takes no '{name}'; set it where the optimizer is made.")
    if getattr(make, "func", make) is torch.optim.LBFGS:
        raise HandfulError(_NO_CLOSURE)
    decays = "weight_decay" in signature or "weight_decay" in asked
    given = _groups(model, parameters, l2 if isinstance(l2, float) else None) if decays else list(parameters.values())
    try:
        optimizer = make(given, **{name: value for name, value in asked.items() if name != "weight_decay"})
    except (ValueError, TypeError, RuntimeError) as error:
        raise HandfulError(f"The optimizer {_title(make)} could not be made: {error}.") from None
    if not isinstance(optimizer, Optimizer):
        raise HandfulError(f"{_title(make)} returned {optimizer!r}, not a torch optimizer.")
    name = type(optimizer).__name__.lower()
    _check_owned(optimizer, parameters, notes)
    rate, decay = _lr_of(optimizer, lr), _l2_of(optimizer, l2)
    if decays and decay.value:
        notes.append(_decay_note(optimizer))
    return _finish(optimizer, name, rate, decay, notes)


def _ready(
    optimizer: Optimizer,
    parameters: dict[str, nn.Parameter],
    lr: Auto,
    l2: Auto,
    options: dict[str, Any],
    notes: list[str],
) -> Built:
    asked = [name for name, value in (("lr", lr), ("l2", l2)) if value != "auto"] + list(options)
    if asked:
        raise HandfulError(f"{asked[0]} was given with a ready {type(optimizer).__name__}: set it where that was made.")
    _check_owned(optimizer, parameters, notes)
    name = type(optimizer).__name__.lower()
    return _finish(optimizer, name, _lr_of(optimizer, lr), _l2_of(optimizer, l2), notes)


def _finish(optimizer: Optimizer, name: str, lr: Choice, l2: Choice, notes: list[str]) -> Built:
    if isinstance(optimizer, torch.optim.LBFGS):
        raise HandfulError(_NO_CLOSURE)
    for group in optimizer.param_groups:
        group["initial_lr"] = float(group["lr"])  # where torch's schedulers keep the base learning rate too
    if len(rates := {group["initial_lr"] for group in optimizer.param_groups}) > 1:
        notes.append(f"The groups of the optimizer have learning rates from {min(rates):g} to {max(rates):g}.")
    return Built(optimizer, name, lr, l2, notes)


def _trainable(model: nn.Module) -> tuple[dict[str, nn.Parameter], list[str]]:
    """The parameters to train by name, tied ones once under their first name."""
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if nn.parameter.is_lazy(parameter):
            raise HandfulError(f"The parameter '{name}' has no shape yet: call the model once on a batch first.")
    trainable = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    if not trainable:
        what = "all its parameters are frozen (requires_grad is False)" if parameters else "it has no parameters"
        raise HandfulError(f"The model {type(model).__name__} has nothing to train: {what}.")
    frozen = len(parameters) - len(trainable)
    notes = [f"{frozen} of {len(parameters)} parameters are frozen and left out."] if frozen else []
    return trainable, notes


def _undecayed(model: nn.Module) -> set[int]:
    """Ids of the parameters of normalisation layers."""
    return {
        id(parameter)
        for module in model.modules()
        if "Norm" in type(module).__name__
        for parameter in module.parameters(recurse=False)
    }


def _groups(model: nn.Module, parameters: dict[str, nn.Parameter], l2: float | None) -> list[dict[str, Any]]:
    """A group that decays (l2 None: by its own default) and one that does not; only one if l2 is 0."""
    norm = _undecayed(model)
    still = [p for name, p in parameters.items() if p.ndim <= 1 or id(p) in norm or name.endswith("bias")]
    ids = {id(parameter) for parameter in still}
    moving = [parameter for parameter in parameters.values() if id(parameter) not in ids]
    if l2 == 0:
        return [{"params": list(parameters.values()), "weight_decay": 0.0}]
    decaying: dict[str, Any] = {"params": moving} if l2 is None else {"params": moving, "weight_decay": l2}
    return [group for group in (decaying, {"params": still, "weight_decay": 0.0}) if group["params"]]


def _fast(
    make: type[Optimizer], model: nn.Module, parameters: dict[str, nn.Parameter], options: dict[str, Any]
) -> dict[str, bool]:
    """The fastest of torch's implementations: fused where there is one, foreach elsewhere on the CPU.

    On one CPU thread a fused Adam step took 135 us against 600 us plain (MLP 784-128-10), foreach about half
    of plain.
    """
    sparse = any(getattr(module, "sparse", False) for module in model.modules())
    if sparse or options.keys() & {"fused", "foreach", "differentiable", "capturable"}:
        return {}
    devices = {parameter.device.type for parameter in parameters.values()}
    floating = all(parameter.is_floating_point() for parameter in parameters.values())
    known = inspect.signature(make).parameters
    if "fused" in known and floating and (devices == {"cpu"} or (devices == {"cuda"} and make not in _FUSED_ON_CPU)):
        return {"fused": True}
    return {"foreach": True} if "foreach" in known and devices == {"cpu"} else {}


def _muon(
    model: nn.Module,
    parameters: dict[str, nn.Parameter],
    keywords: dict[str, Any],
    l2: float,
    notes: list[str],
) -> Optimizer:
    """Muon for hidden matrices and convolutions, AdamW for the rest (Jordan 2024; one learning rate as in Liu et al.
    2025). A convolution in groups is many small matrices, and other weights of three and more dimensions (places,
    experts) are not matrices for what is known here: both are left to AdamW."""
    embedded = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    filters = {id(m.weight) for m in model.modules() if isinstance(m, _ConvNd) and m.groups == 1}
    layers = [p for _, p in model.named_parameters(remove_duplicate=False) if p.ndim >= 2]
    ends = {id(layers[0]), id(layers[-1])} if layers else set()
    apart = embedded | ends | _undecayed(model)
    hidden = {name: p for name, p in parameters.items() if (p.ndim == 2 or id(p) in filters) and id(p) not in apart}
    rest = {name: parameter for name, parameter in parameters.items() if name not in hidden}
    of_adamw = {name: value for name, value in keywords.items() if name in _OF_ADAMW | {"lr"}}
    of_muon = {name: value for name, value in keywords.items() if name not in _OF_ADAMW}
    parts: list[Optimizer] = []
    if hidden:
        matrices = list(hidden.values())
        parts.append(Muon(matrices, weight_decay=l2, **of_muon))
        notes.append(f"Muon takes {len(hidden)} hidden weights: {_some(hidden)}.")
    else:
        notes.append("Muon is for hidden matrices and convolutions, and the model has none: all is left to AdamW.")
    if rest:
        fast: dict[str, Any] = {**_fast(torch.optim.AdamW, model, rest, {})}
        parts.append(torch.optim.AdamW(_groups(model, rest, l2), **fast, **of_adamw))
        if hidden:
            notes.append(f"AdamW takes the first and last layer, embeddings, biases and norms: {_some(rest)}.")
    return parts[0] if len(parts) == 1 else Both(parts)


def _default_lr(name: str, kind: _Kind, model: nn.Module) -> Choice:
    """For Adam and its kin by the model's shapes; torch's nadam and adamax stand for twice Adam's rate."""
    if name not in ADAPTIVE:
        return Choice(kind.lr, "default", kind.why)
    rate, why = rate_of_shapes(model)
    return Choice(rate * kind.lr / _KINDS["adam"].lr, "default", why)


def _default_l2(name: str, model: nn.Module) -> Choice:
    own = getattr(model, "adamw_l2", None)  # a ready-made model may know better
    if name == "adamw" and isinstance(own, float):
        return Choice(own, "default", f"{type(model).__name__.lower()}'s own: {getattr(model, 'adamw_l2_reason', '')}")
    value, why = _L2.get(name, (0.0, "no decay unless it is asked for"))
    return Choice(value, "default", why)


def _decay_note(optimizer: Optimizer) -> str:
    free = any(decoupled(part, group) for part in parts_of(optimizer) for group in part.param_groups)
    how = "decoupled from the gradient" if free else "added to the gradient"
    return f"The weight decay (l2) is {how} and leaves out biases and normalisation layers."


def _check_owned(optimizer: Optimizer, parameters: dict[str, nn.Parameter], notes: list[str]) -> None:
    owned = {id(parameter): name for name, parameter in parameters.items()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    foreign = [parameter for parameter in held if id(parameter) not in owned and parameter.requires_grad]
    if foreign:
        raise HandfulError(
            f"The {type(optimizer).__name__} holds {len(foreign)} parameters that are not the model's "
            f"(one of shape {tuple(foreign[0].shape)}): make it from this model's parameters."
        )
    missing = [name for key, name in owned.items() if key not in {id(parameter) for parameter in held}]
    if missing:
        notes.append(f"{len(missing)} parameters are not in the optimizer and stay as they are: {_some(missing)}.")


def _lr_of(optimizer: Optimizer, lr: Auto) -> Choice:
    value = float(optimizer.param_groups[0]["lr"])
    return Choice(value, "given", "" if lr != "auto" else "set by the optimizer that was passed")


def _l2_of(optimizer: Optimizer, l2: Auto) -> Choice:
    value = max(float(group.get("weight_decay", 0.0)) for group in optimizer.param_groups)
    return Choice(value, "given", "" if l2 != "auto" else "set by the optimizer that was passed")


def _checked(value: Any, name: str, above: bool) -> Auto:
    if value == "auto":
        return "auto"
    wrong = isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)
    if wrong or value < 0 or (above and value == 0):
        raise HandfulError(
            f"{name} must be 'auto' or a number {'above 0' if above else 'of at least 0'}, not {value!r}."
        )
    return float(value)


def _title(make: Callable[..., Any]) -> str:
    make = getattr(make, "func", make)
    return getattr(make, "__name__", repr(make))


def _some(items: Iterable[str], most: int = 4) -> str:
    listed = list(items)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
