"""Optimizers: torch.optim's own, built with stated defaults and the right parameters left out of the decay.

    sgd  momentum  nesterov  adagrad  adadelta  rmsprop  adam  adamw  nadam  radam  adamax  muon  lbfgs

with options, as "adam(betas=[0.9, 0.95])"; any callable parameters -> optimizer; a ready torch optimizer; or several of
these by patterns on the names of parameters, see `handful.optim.parts`.
"""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, Signature
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import LBFGS, Optimizer

from handful.base import expression
from handful.base.errors import HandfulError, did_you_mean, some
from handful.base.expression import number, signature
from handful.base.plan import Choice
from handful.base.shards import is_shard
from handful.models.base import Model
from handful.optim.initial_lr import ADAPTIVE, rate_of_shapes
from handful.optim.muon import Muon
from handful.optim.parts import (
    HALF,
    REST,
    Group,
    OptimizerGroup,
    Parameters,
    as_optimizer,
    averages_itself,
    by_pattern,
    check_sparse,
    decoupled,
    low_precision,
    needs_closure,
    only,
    parameter_groups,
    parts_of,
    switch,
    trainable,
    undecayed,
    without_compiler,
)

Auto = float | Literal["auto"]
One = str | Callable[..., Optimizer] | Optimizer
Optimizers = One | Mapping[str, str | Callable[..., Optimizer]]


class _Kind(NamedTuple):
    make: Callable[..., Optimizer]
    options: dict[str, object]
    lr: float
    why: str


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
    "lbfgs": _Kind(LBFGS, {"line_search_fn": "strong_wolfe"}, 1.0, "the line search starts from it"),
}
names = tuple(_KINDS)

ADAMW_L2 = Choice(0.01, "default", "Loshchilov and Hutter 2019, and torch")
_L2 = {"adamw": ADAMW_L2, "muon": Choice(0.1, "default", "Liu et al. 2025, and torch")}
_FUSED_ON_CPU = {torch.optim.Adagrad}  # and not on a GPU
_FORMS = {"fused", "foreach", "differentiable", "capturable"}
_OF_ADAMW = {"betas", "eps", "amsgrad"}  # options of muon that are meant for its AdamW half


@dataclass
class Built:
    """An optimizer, and every choice made for it. `lr.value` and `l2.value` are those of its first group."""

    optimizer: Optimizer
    name: str
    lr: Choice
    l2: Choice
    notes: list[str]


class _Maker(NamedTuple):
    """`make(parameters or groups, **keywords)`, the keywords that it takes (None: any), and those that were given in
    its text."""

    title: str
    make: Callable[..., Optimizer]
    takes: Collection[str] | None
    options: Mapping[str, object] = {}


def build(
    spec: Optimizers,
    model: nn.Module,
    lr: Auto | Mapping[str, float] = "auto",
    l2: Auto = "auto",
    schedules: Iterable[str] = (),
    **options: object,
) -> Built:
    """The optimizer of a model's trainable parameters, each once, after the model is on its device.

    spec: one of `names`, with options or without; a callable parameters -> optimizer, such as a class or a
    functools.partial; a ready torch optimizer of this model, accepted as it is; or a dict of these by patterns on the
    names of parameters. lr: the base learning rate, or one for each pattern. l2: the weight decay; it leaves out biases
    and normalisation layers. schedules: patterns whose parameters have a schedule of their own. options: passed to the
    optimizer, such as betas=(0.9, 0.95).

    Raises HandfulError for an unknown name or option, values out of range, a pattern that fits nothing, a model without
    trainable parameters, and an optimizer of another model's parameters.

    >>> built = build("adamw", nn.Linear(64, 2))
    >>> built.lr.value, built.l2.value, [len(group["params"]) for group in built.optimizer.param_groups]
    (0.0063, 0.01, [1, 1])
    >>> built = build("sgd", nn.Linear(64, 2), lr={"bias": 0.1, "*": 0.2})
    >>> [group["lr"] for group in built.optimizer.param_groups]
    [0.2, 0.1]
    """
    rate, patterns = _rates(lr)
    decay = None if l2 == "auto" else Choice(float(number(l2, "l2 (unless 'auto')", least=0)), "given")
    parameters, notes = trainable(model)
    if schedules:
        patterns["schedule"] = {pattern: pattern for pattern in schedules}
    specs = spec if isinstance(spec, Mapping) else {REST: spec}
    fitting, parts, title, decays = by_pattern(specs, parameters, "optimizer"), [], "", False
    own: dict[str, tuple[Choice | None, Choice | None]] = {}
    for pattern, one in specs.items():
        maker, rate_of, decay_of = _maker(one, model, rate, decay, notes)
        decays = decays or decay_of is not None or "weight_decay" in (maker.takes or ())
        chosen = {name: p for name, p in parameters.items() if fitting[name] == pattern}
        maker = maker._replace(options={**options, **maker.options})
        parts.append(_construct(maker, model, parameters, chosen, rate_of, decay_of, patterns))
        title, own[pattern] = maker.title, (rate_of, decay_of)
    _check_owned(parts, parameters, notes)
    optimizer = parts[0] if len(parts) == 1 else OptimizerGroup([p for part in parts for p in parts_of(part)])
    groups, held = optimizer.param_groups, "set by the optimizer that was passed"
    if len(parts) > 1:
        rate = rate or Choice({name: float(part.param_groups[0]["lr"]) for name, part in zip(specs, parts)}, "found")
        decay = decay or Choice("auto", "default", "each optimizer's own")
    else:
        rate = rate or own[pattern][0] or Choice(float(groups[0]["lr"]), "found", held)
        largest = max(float(group.get("weight_decay", 0.0)) for group in groups)
        decay = decay or own[pattern][1] or Choice(largest, "found", held)
    for group in groups:
        group["initial_lr"] = float(group["lr"])  # where torch's schedulers keep the base learning rate too
        if isinstance(group["lr"], Tensor):  # torch puts one into all groups; a rate that is filled must be its own
            group["lr"] = group["lr"].clone()
    notes += _what_to_know(optimizer, model, decays=decays and bool(decay.value))
    return Built(optimizer, title if isinstance(spec, str) else type(optimizer).__name__.lower(), rate, decay, notes)


def _what_to_know(optimizer: Optimizer, model: nn.Module, *, decays: bool) -> list[str]:
    """Notes on an optimizer; one of two weights is in training mode from here on."""
    notes = []
    if decays:
        free = any(decoupled(part, group) for part in parts_of(optimizer) for group in part.param_groups)
        how = "decoupled from" if free else "added to"
        notes.append(f"The weight decay (l2) is {how} the gradient and leaves out biases and normalisation layers.")
    rates = {group["initial_lr"] for group in optimizer.param_groups}
    if len(rates) > 1:
        notes.append(f"The groups of the optimizer have learning rates from {min(rates):g} to {max(rates):g}.")
    if any(p.dtype in HALF for group in optimizer.param_groups for p in group["params"]):
        notes += low_precision(optimizer)
    return notes + (_of_two_weights(optimizer, model) if averages_itself(optimizer) else [])


def _rates(lr: Auto | Mapping[str, float]) -> tuple[Choice | None, dict[str, Mapping[str, object]]]:
    """The rate that was given, if one was, and those by pattern."""
    match lr:
        case Mapping():
            found = {str(p): float(number(rate, f"lr of '{p}'", above=0)) for p, rate in lr.items()}
            if not found:
                raise HandfulError("lr by pattern needs a rate, as lr={'head': 1e-2, '*': 1e-4}")
            return Choice(found, "given"), {"lr": found, "rate": {pattern: pattern for pattern in found}}
        case "auto":
            return None, {}
    return Choice(float(number(lr, "lr (unless 'auto')", above=0)), "given"), {}


def _maker(
    spec: object, model: nn.Module, rate: Choice | None, decay: Choice | None, notes: list[str]
) -> tuple[_Maker, Choice | None, Choice | None]:
    """What makes the optimizer, and the rate and the decay to give it: None where they are its own."""
    match spec:
        case str():
            if spec.isidentifier() and spec not in _KINDS:
                raise HandfulError(f"there is no optimizer '{spec}'.{did_you_mean(spec, _KINDS)}")
            name, options = (spec, {}) if spec in _KINDS else expression.parse(spec, _TEXTS, "optimizer")
            own = {key: Choice(options.pop(key), "given") for key in ("lr", "weight_decay") if key in options}
            make = partial(_muon, model, notes) if name == "muon" else partial(_torchs, _KINDS[name], model)
            maker = _Maker(name, make, _takes(name), options)
            decays = "weight_decay" in (maker.takes or ())
            usual = _L2.get(name, Choice(0.0, "default", "no decay unless it is asked for"))
            match model:
                case Model(adamw_l2=float() as l2) if name == "adamw":  # it may know better
                    usual = Choice(l2, "default", f"{type(model).__name__.lower()}'s own: {model.adamw_l2_reason}")
            decay = decay or own.get("weight_decay") or (usual if decays else None)
            return maker, rate or own.get("lr") or _default_lr(name, options, model), decay
        case Optimizer():
            return _Maker(type(spec).__name__, lambda params: spec, ()), rate, decay
        case _ if callable(spec):
            options = getattr(spec, "keywords", {})
            for known, kind in _KINDS.items():
                if rate is None and kind.make is getattr(spec, "func", spec) and "lr" not in options:
                    rate = _default_lr(known, options, model)
            return _called(spec), rate, decay
    said = type(spec).__name__ if "\n" in repr(spec) else repr(spec)
    raise HandfulError(f"optimizer must be a name, a torch optimizer or a function that makes one, not {said}")


def _of_two_weights(optimizer: Optimizer, model: nn.Module) -> list[str]:
    """What to know of an optimizer that averages the weights itself; it is in training mode from here on."""
    switch(optimizer, "train")
    title = type(optimizer).__name__
    notes = [f"{title} averages the weights itself: steps are in its train(), evaluations and the end in its eval()."]
    if any(getattr(module, "running_mean", None) is not None for module in model.modules()):
        notes.append(f"The running statistics of normalisation layers are those of the weights that {title} steps.")
    return notes


def _takes(name: str) -> set[str]:
    """The options of an optimizer by name."""
    found = set(signature(_KINDS[name].make).parameters) - {"params"}
    return found | _OF_ADAMW if name == "muon" else found


def _text(name: str) -> Callable[..., tuple[str, dict[str, object]]]:
    """What reads an optimizer's options in a text, where lists stand for tuples."""

    def read(**options: object) -> tuple[str, dict[str, object]]:
        checks: dict[str, dict[str, float]] = {"lr": {"above": 0}, "weight_decay": {"least": 0}}
        for option in checks.keys() & options.keys():
            options[option] = float(number(options[option], f"{option} of {name}", **checks[option]))
        return name, {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}

    parameters = [Parameter(option, Parameter.KEYWORD_ONLY, default=None) for option in sorted(_takes(name))]
    vars(read)["__signature__"] = Signature(parameters)
    return read


_TEXTS = {name: _text(name) for name in names}


def _called(make: Callable[..., Optimizer]) -> _Maker:
    takes = inspect.signature(make).parameters
    inner = getattr(make, "func", make)  # of a functools.partial
    title = getattr(inner, "__name__", repr(inner))
    return _Maker(title, make, None if any(p.kind is p.VAR_KEYWORD for p in takes.values()) else set(takes))


def _construct(
    maker: _Maker, model: nn.Module, parameters: Parameters, chosen: Parameters, lr: Choice | None, l2: Choice | None,
    patterns: Mapping[str, Mapping[str, object]],
) -> Optimizer:  # fmt: skip
    """Every optimizer is made here. Asking for what it has no name for is an error; l2 is for the groups that decay."""
    title, make, takes, options = maker
    usual = () if lr is None else lr.value.values() if "lr" in patterns else (lr.value,)
    keywords = dict(zip(["lr"], [*usual][-1:])) | dict(options)
    if l2 is not None and not l2.value and takes is not None and "weight_decay" not in takes:
        l2 = None  # there is none
    for name in [*keywords, *([] if l2 is None else ["weight_decay"])]:
        if name in options and name == "weight_decay":
            raise HandfulError(f"the optimizer {title} takes no '{name}' here; use l2")
        if takes is not None and name not in takes:
            instead = f".{did_you_mean(name, takes)}" if takes else "; set it where the optimizer is made"
            instead = instead if name in keywords or not takes else ", so no l2: choose another, or add it to the loss"
            raise HandfulError(f"the optimizer {title} takes no '{name}'{instead}")
    decays = l2 is not None or "weight_decay" in (takes or ())
    groups = parameter_groups(model, parameters, (l2.value if l2 else None) if decays else 0.0, patterns)
    groups = only(groups, chosen) if len(chosen) < len(parameters) else groups
    if patterns and takes == ():
        raise HandfulError(f"a ready {title} has groups of its own; give a class or a function for options by pattern")
    given: list[Group] | list[nn.Parameter] = groups
    if not decays:
        groups = [{option: value for option, value in group.items() if option != "weight_decay"} for group in groups]
        given = groups if patterns or title == "lbfgs" else list(chosen.values())
    try:
        with without_compiler():
            made = make(given, **keywords)
    except (ValueError, TypeError, RuntimeError) as error:
        raise HandfulError(f"the optimizer {title} could not be made: {error}") from None
    optimizer = made if isinstance(made, Optimizer) else as_optimizer(made)
    if optimizer is None or not all("lr" in group for group in optimizer.param_groups):
        raise HandfulError(
            f"the optimizer {title} is a {type(made).__name__}, which is not a torch optimizer whose groups have a "
            "rate, lr"
        )
    if any(getattr(module, "sparse", False) for module in model.modules()):
        check_sparse(optimizer, model)
    return optimizer


def _torchs(kind: _Kind, model: nn.Module, groups: list[Group], **keywords: object) -> Optimizer:
    """One of torch's own in its fastest form, weight decay decoupled from the gradient where it can be."""
    make: Callable[..., Optimizer] = kind.make
    free = "decoupled_weight_decay" in signature(make).parameters and any(g.get("weight_decay") for g in groups)
    fast = _fast(kind.make, model, groups) if not keywords.keys() & _FORMS else {}
    return make(groups, **({"decoupled_weight_decay": True} if free else {}) | fast | kind.options | keywords)


def _fast(make: Callable[..., Optimizer], model: nn.Module, groups: list[Group]) -> dict[str, bool]:
    """The fastest of torch's implementations: fused where there is one, foreach elsewhere on the CPU.

    On one CPU thread a fused Adam step took 135 us against 600 us plain (MLP 784-128-10), foreach about half of plain.
    """
    if any(getattr(module, "sparse", False) for module in model.modules()):
        return {}
    parameters = [parameter for group in groups for parameter in group["params"]]
    devices = {parameter.device.type for parameter in parameters}
    floating = all(parameter.is_floating_point() for parameter in parameters)
    known = signature(make).parameters
    if any(map(is_shard, parameters)):  # torch 2.13 has a fused step of sharded parameters for Adam alone
        floating = make in (torch.optim.Adam, torch.optim.AdamW)
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
    others = embedded | {id(p) for p in layers[:1] + layers[-1:]} | undecayed(model)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    hidden = {n: p for n, p in named.items() if (p.ndim == 2 or id(p) in filters) and id(p) not in others}
    rest = {name: p for name, p in named.items() if name not in hidden}
    parts = []
    if hidden:
        own = {name: value for name, value in keywords.items() if name not in _OF_ADAMW}
        parts.append(_torchs(_KINDS["muon"], model, only(groups, hidden), **own))
        notes.append(f"Muon takes {len(hidden)} hidden weights: {some(list(hidden), 4)}.")
    else:
        notes.append("Muon is for hidden matrices and convolutions, and the model has none: all is left to AdamW.")
    if rest:
        own = {name: value for name, value in keywords.items() if name in _OF_ADAMW | {"lr"}}
        parts.append(_torchs(_KINDS["adamw"], model, only(groups, rest), **own))
    if hidden and rest:
        notes.append(f"AdamW takes the first and last layer, embeddings, biases and norms: {some(list(rest), 4)}.")
    return parts[0] if len(parts) == 1 else OptimizerGroup(parts)


def _check_owned(parts: list[Optimizer], parameters: Parameters, notes: list[str]) -> None:
    owned = {id(parameter): name for name, parameter in parameters.items()}
    held: dict[int, nn.Parameter] = {}
    for optimizer in parts:
        mine = {id(parameter): parameter for group in optimizer.param_groups for parameter in group["params"]}
        foreign = [parameter for key, parameter in mine.items() if key not in owned and parameter.requires_grad]
        if foreign:
            raise HandfulError(
                f"the {type(optimizer).__name__} holds {len(foreign)} parameters that are not the model's "
                f"(one of shape {tuple(foreign[0].shape)}): make it from this model's parameters"
            )
        if len(parts) > 1 and (held.keys() & mine.keys() or averages_itself(optimizer) or needs_closure(optimizer)):
            raise HandfulError(
                f"{type(optimizer).__name__} cannot be one of several optimizers: let it have all of them"
            )
        held |= mine
    missing = [name for key, name in owned.items() if key not in held]
    stay = f"{len(missing)} parameters are not in the optimizer and stay as they are: {some(missing, 4)}."
    notes += [stay] * bool(missing)


def _default_lr(name: str, options: Mapping[str, object], model: nn.Module) -> Choice:
    """For Adam and its kin by the model's shapes: nadam and adamax at twice Adam's rate, adagrad at ten times, as torch
    has them. A momentum m that is asked for adds 1 / (1 - m) steps up, less its dampening."""
    make, usual, rate, why = _KINDS[name]
    if name in ADAPTIVE:
        by_shape, why = rate_of_shapes(model)
        rate *= by_shape / _KINDS["adam"].lr
    if options.keys() & {"momentum", "dampening"} and name != "muon":
        given = {"momentum": 0.0, "dampening": 0.0, **usual, **options}
        m, d = (number(given[of], f"{of} of {name}", least=0) for of in ("momentum", "dampening"))
        adds_up = (1 - d) / (1 - m) if m < 1 and d < 1 else 1.0
        rate = min(rate, 0.2 / adds_up) if make is torch.optim.SGD else rate / adds_up
        why += f"; momentum adds {adds_up:.3g} steps up"
    return Choice(rate, "found" if name == "lbfgs" else "default", why)
