"""Optimizers: torch.optim's own, built with stated defaults and the right parameters left out of the decay.

    sgd  momentum  nesterov  adagrad  adadelta  rmsprop  adam  adamw  nadam  radam  adamax  muon

or any callable parameters -> optimizer, or a ready torch optimizer.
"""

import inspect
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import LBFGS, Optimizer

from handful.base.errors import HandfulError, StepError, did_you_mean, some
from handful.base.expression import number
from handful.base.plan import Choice
from handful.models.base import Model
from handful.optim.initial_lr import ADAPTIVE, rate_of_shapes
from handful.optim.muon import Muon
from handful.optim.rescale import gain, rescale
from handful.optim.state import OptimizerGroup, averages_itself, decoupled, load_state, parts_of, state_tensors, switch

__all__ = [
    "Built", "OptimizerGroup", "build", "clip", "gain", "load_state", "names", "rescale", "set_base", "set_lr",
    "state_tensors",
]  # fmt: skip

Auto = float | Literal["auto"]
Parameters = dict[str, nn.Parameter]
Group = dict[str, Any]  # as torch's optimizers take them: "params" and options of their own


class _Kind(NamedTuple):
    make: type[Optimizer]
    options: dict[str, object]
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
_FORMS = {"fused", "foreach", "differentiable", "capturable"}
_OF_ADAMW = {"betas", "eps", "amsgrad"}  # options of muon that are meant for its AdamW half
_NO_CLOSURE = "LBFGS evaluates the loss several times per step, and mini-batch gradient descent once; choose another"


@dataclass
class Built:
    """An optimizer, and every choice made for it. `lr.value` and `l2.value` are those of its first group."""

    optimizer: Optimizer
    name: str
    lr: Choice
    l2: Choice
    notes: list[str]


class _Maker(NamedTuple):
    """`make(parameters or groups, **keywords)`, and the keywords that it takes (None: any)."""

    title: str
    make: Callable[..., Optimizer]
    takes: Collection[str] | None


def build(
    spec: str | Callable[..., Optimizer] | Optimizer,
    model: nn.Module,
    lr: Auto = "auto",
    l2: Auto = "auto",
    **options: object,
) -> Built:
    """The optimizer of a model's trainable parameters, each once, after the model is on its device.

    spec: one of `names`; a callable parameters -> optimizer, such as a class or a functools.partial; or a ready torch
    optimizer of this model, accepted as it is. lr: the base learning rate. l2: the weight decay; it leaves out biases
    and normalisation layers. options: passed to the optimizer, such as betas=(0.9, 0.95).

    Raises HandfulError for an unknown name or option, values out of range, a model without trainable
    parameters, an optimizer of another model's parameters, and LBFGS.

    >>> built = build("adamw", nn.Linear(64, 2))
    >>> built.lr.value, built.l2.value, [len(group["params"]) for group in built.optimizer.param_groups]
    (0.0063, 0.01, [1, 1])
    """
    rate = None if lr == "auto" else Choice(float(number(lr, "lr (unless 'auto')", above=0)), "given")
    decay = None if l2 == "auto" else Choice(float(number(l2, "l2 (unless 'auto')", least=0)), "given")
    parameters, notes = _trainable(model)
    match spec:
        case str():
            maker = _named(spec, model, notes)
            rate, decay = rate or _default_lr(spec, model), decay or _default_l2(spec, model)
        case Optimizer():
            maker = _Maker(type(spec).__name__, lambda params: spec, ())
        case _ if callable(spec):
            maker = _called(spec)
        case _:
            raise HandfulError(f"optimizer must be a name, a callable or a torch optimizer, not {spec!r}")
    optimizer = _construct(maker, model, parameters, rate, decay, options)
    _check_owned(optimizer, parameters, notes)
    groups, held = optimizer.param_groups, "set by the optimizer that was passed"
    rate = rate or Choice(float(groups[0]["lr"]), "found", held)
    decays = decay is not None or "weight_decay" in (maker.takes or ())
    decay = decay or Choice(max(float(group.get("weight_decay", 0.0)) for group in groups), "found", held)
    if decays and decay.value:
        free = any(decoupled(part, group) for part in parts_of(optimizer) for group in part.param_groups)
        how = "decoupled from the gradient" if free else "added to the gradient"
        notes.append(f"The weight decay (l2) is {how} and leaves out biases and normalisation layers.")
    for group in groups:
        group["initial_lr"] = float(group["lr"])  # where torch's schedulers keep the base learning rate too
        if isinstance(group["lr"], Tensor):  # torch puts one into all groups; a rate that is filled must be its own
            group["lr"] = group["lr"].clone()
    rates = {group["initial_lr"] for group in groups}
    if len(rates) > 1:
        notes.append(f"The groups of the optimizer have learning rates from {min(rates):g} to {max(rates):g}.")
    if averages_itself(optimizer):
        notes += _of_two_weights(optimizer, model)
    return Built(optimizer, spec if isinstance(spec, str) else type(optimizer).__name__.lower(), rate, decay, notes)


def _of_two_weights(optimizer: Optimizer, model: nn.Module) -> list[str]:
    """What to know of an optimizer that averages the weights itself; it is in training mode from here on."""
    switch(optimizer, "train")
    title = type(optimizer).__name__
    notes = [f"{title} averages the weights itself: steps are in its train(), evaluations and the end in its eval()."]
    if any(getattr(module, "running_mean", None) is not None for module in model.modules()):
        notes.append(f"The running statistics of normalisation layers are those of the weights that {title} steps.")
    return notes


def set_lr(optimizer: Optimizer, factor: float) -> None:
    """Set every group's learning rate to `factor` times its base, which the group keeps as `initial_lr`.

    >>> sgd = build("sgd", nn.Linear(2, 1), lr=0.5).optimizer
    >>> set_lr(sgd, 0.1)
    >>> sgd.param_groups[0]["lr"]
    0.05

    Raises StepError for a factor that is negative or no number.
    """
    if not 0 <= factor < math.inf:
        raise StepError(f"the schedule asks for {factor:g} times the learning rate; no step is made at such a rate")
    for group in optimizer.param_groups:
        held = group["lr"]
        if "initial_lr" not in group:
            group["initial_lr"] = float(held)
        if isinstance(held, Tensor):
            held.fill_(group["initial_lr"] * factor)  # in place: a captured graph holds this very tensor
        else:
            group["lr"] = group["initial_lr"] * factor


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


def _named(name: str, model: nn.Module, notes: list[str]) -> _Maker:
    if name.lower() == "lbfgs":
        raise HandfulError(_NO_CLOSURE)
    if name not in _KINDS:
        raise HandfulError(f"there is no optimizer '{name}'.{did_you_mean(name, _KINDS)}")
    takes = set(inspect.signature(_KINDS[name].make).parameters) - {"params"}
    if name == "muon":
        return _Maker(name, partial(_muon, model, notes), takes | _OF_ADAMW)
    return _Maker(name, partial(_torchs, _KINDS[name], model), takes)


def _called(make: Callable[..., Optimizer]) -> _Maker:
    signature = inspect.signature(make).parameters
    inner = getattr(make, "func", make)  # of a functools.partial
    title = getattr(inner, "__name__", repr(inner))
    return _Maker(title, make, None if any(p.kind is p.VAR_KEYWORD for p in signature.values()) else set(signature))


def _construct(
    maker: _Maker,
    model: nn.Module,
    parameters: Parameters,
    lr: Choice | None,
    l2: Choice | None,
    options: dict[str, object],
) -> Optimizer:
    """Every optimizer is made here. Asking for what it has no name for is an error; l2 is for the groups that decay."""
    title, make, takes = maker
    keywords = ({} if lr is None else {"lr": lr.value}) | options
    for name in [*keywords, *([] if l2 is None else ["weight_decay"])]:
        if name in options and name == "weight_decay":
            raise HandfulError(f"the optimizer {title} takes no '{name}' here; use l2")
        if takes is not None and name not in takes:
            instead = did_you_mean(name, takes) if takes else "; set it where the optimizer is made"
            raise HandfulError(f"the optimizer {title} takes no '{name}'{'.' if takes else ''}{instead}")
    decays = l2 is not None or "weight_decay" in (takes or ())
    given = _groups(model, parameters, l2.value if l2 else None) if decays else list(parameters.values())
    try:
        with without_compiler():
            optimizer = make(given, **keywords)
    except (ValueError, TypeError, RuntimeError) as error:
        raise HandfulError(f"the optimizer {title} could not be made: {error}") from None
    if not isinstance(optimizer, Optimizer):
        raise HandfulError(f"the optimizer {title} is {optimizer!r}, which is not a torch optimizer")
    return optimizer


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


def _torchs(kind: _Kind, model: nn.Module, groups: list[Group], **keywords: object) -> Optimizer:
    """One of torch's own in its fastest form, weight decay decoupled from the gradient where it can be."""
    make: Callable[..., Optimizer] = kind.make
    free = "decoupled_weight_decay" in inspect.signature(make).parameters and any(g["weight_decay"] for g in groups)
    fast = _fast(kind.make, model, groups) if not keywords.keys() & _FORMS else {}
    return make(groups, **({"decoupled_weight_decay": True} if free else {}) | fast | kind.options | keywords)


def _fast(make: type[Optimizer], model: nn.Module, groups: list[Group]) -> dict[str, bool]:
    """The fastest of torch's implementations: fused where there is one, foreach elsewhere on the CPU.

    On one CPU thread a fused Adam step took 135 us against 600 us plain (MLP 784-128-10), foreach about half of plain.
    """
    if any(getattr(module, "sparse", False) for module in model.modules()):
        return {}
    parameters = [parameter for group in groups for parameter in group["params"]]
    devices = {parameter.device.type for parameter in parameters}
    floating = all(parameter.is_floating_point() for parameter in parameters)
    known = inspect.signature(make).parameters
    if "fused" in known and floating and (devices == {"cpu"} or (devices == {"cuda"} and make not in _FUSED_ON_CPU)):
        return {"fused": True}
    return {"foreach": True} if "foreach" in known and devices == {"cpu"} else {}


def _muon(model: nn.Module, notes: list[str], groups: list[Group], **keywords: object) -> Optimizer:
    """Muon for hidden matrices and convolutions, AdamW for the rest (Jordan 2024; one learning rate as in Liu et al.
    2025). A convolution in groups is many small matrices, and other weights of three and more dimensions (positions,
    experts) are not matrices for what is known here: both are left to AdamW."""
    embedded = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    filters = {id(m.weight) for m in model.modules() if isinstance(m, _ConvNd) and m.groups == 1}
    layers = [p for _, p in model.named_parameters(remove_duplicate=False) if p.ndim >= 2]
    others = embedded | {id(p) for p in layers[:1] + layers[-1:]} | _undecayed(model)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    hidden = {n: p for n, p in named.items() if (p.ndim == 2 or id(p) in filters) and id(p) not in others}
    rest = {name: p for name, p in named.items() if name not in hidden}
    parts = []
    if hidden:
        own = {name: value for name, value in keywords.items() if name not in _OF_ADAMW}
        parts.append(_torchs(_KINDS["muon"], model, _only(groups, hidden), **own))
        notes.append(f"Muon takes {len(hidden)} hidden weights: {some(list(hidden), 4)}.")
    else:
        notes.append("Muon is for hidden matrices and convolutions, and the model has none: all is left to AdamW.")
    if rest:
        own = {name: value for name, value in keywords.items() if name in _OF_ADAMW | {"lr"}}
        parts.append(_torchs(_KINDS["adamw"], model, _only(groups, rest), **own))
    if hidden and rest:
        notes.append(f"AdamW takes the first and last layer, embeddings, biases and norms: {some(list(rest), 4)}.")
    return parts[0] if len(parts) == 1 else OptimizerGroup(parts)


def _only(groups: list[Group], chosen: Parameters) -> list[Group]:
    """The groups with the chosen parameters alone, those with none left out."""
    ids = {id(parameter) for parameter in chosen.values()}
    kept = [group | {"params": [p for p in group["params"] if id(p) in ids]} for group in groups]
    return [group for group in kept if group["params"]]


def _groups(model: nn.Module, parameters: Parameters, l2: float | None) -> list[Group]:
    """A group that decays (l2 None: by its own default) and one that does not; only one if l2 is 0."""
    if l2 == 0:
        return [{"params": list(parameters.values()), "weight_decay": 0.0}]
    norms = _undecayed(model)
    moving: list[nn.Parameter] = []
    still: list[nn.Parameter] = []
    for name, p in parameters.items():
        (still if p.ndim <= 1 or id(p) in norms or name.endswith("bias") else moving).append(p)
    decaying: Group = {"params": moving} if l2 is None else {"params": moving, "weight_decay": l2}
    return [group for group in (decaying, {"params": still, "weight_decay": 0.0}) if group["params"]]


def _undecayed(model: nn.Module) -> set[int]:
    """Ids of the parameters of normalisation layers."""
    norms = [module for module in model.modules() if "Norm" in type(module).__name__]
    return {id(parameter) for module in norms for parameter in module.parameters(recurse=False)}


def _trainable(model: nn.Module) -> tuple[Parameters, list[str]]:
    """The parameters to train by name, tied ones once under their first name."""
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if nn.parameter.is_lazy(parameter):
            raise HandfulError(f"the parameter '{name}' has no shape yet: call the model once on a batch first")
    trainable = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    if not trainable:
        what = "all its parameters are frozen (requires_grad is False)" if parameters else "it has no parameters"
        raise HandfulError(f"the model {type(model).__name__} has nothing to train: {what}")
    frozen = len(parameters) - len(trainable)
    return trainable, [f"{frozen} of {len(parameters)} parameters are frozen and left out."] if frozen else []


def _check_owned(optimizer: Optimizer, parameters: Parameters, notes: list[str]) -> None:
    owned = {id(parameter): name for name, parameter in parameters.items()}
    held = {id(parameter): parameter for group in optimizer.param_groups for parameter in group["params"]}
    foreign = [parameter for key, parameter in held.items() if key not in owned and parameter.requires_grad]
    if foreign:
        raise HandfulError(
            f"the {type(optimizer).__name__} holds {len(foreign)} parameters that are not the model's "
            f"(one of shape {tuple(foreign[0].shape)}): make it from this model's parameters"
        )
    if isinstance(optimizer, LBFGS):
        raise HandfulError(_NO_CLOSURE)
    missing = [name for key, name in owned.items() if key not in held]
    if missing:
        notes.append(f"{len(missing)} parameters are not in the optimizer and stay as they are: {some(missing, 4)}.")


def _default_lr(name: str, model: nn.Module) -> Choice:
    """For Adam and its kin by the model's shapes; torch's nadam and adamax stand for twice Adam's rate."""
    if name not in ADAPTIVE:
        return Choice(_KINDS[name].lr, "default", _KINDS[name].why)
    rate, why = rate_of_shapes(model)
    return Choice(rate * _KINDS[name].lr / _KINDS["adam"].lr, "default", why)


def _default_l2(name: str, model: nn.Module) -> Choice:
    if (
        name == "adamw" and isinstance(model, Model) and model.adamw_l2 is not None
    ):  # a ready-made model may know better
        return Choice(model.adamw_l2, "default", f"{type(model).__name__.lower()}'s own: {model.adamw_l2_reason}")
    value, why = _L2.get(name, (0.0, "no decay unless it is asked for"))
    return Choice(value, "default", why)
