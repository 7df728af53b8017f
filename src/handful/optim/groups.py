"""The parameters of a model in groups: by patterns on their names, and those that decay apart from the others."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from handful.base.errors import HandfulError, some
from handful.models.wrapped import unwrapped
from handful.optim.parts import parts_of

T = TypeVar("T")
Parameters = dict[str, nn.Parameter]
Group = dict[str, Any]  # as torch's optimizers take them: "params" and options of their own
REST = "*"  # the pattern of all that no other one is for


def by_pattern(patterns: Iterable[str], names: Iterable[str], what: str) -> dict[str, str]:
    """The pattern of each name: of a part of the model ("head" for head.weight and head.bias), or with * and ?, the
    first that fits; "*" is for the names that no other one fits.

    Raises HandfulError for a pattern that fits nothing, and for names that none fits.

    >>> by_pattern(["*", "head"], ["body.weight", "head.weight"], "lr")
    {'body.weight': '*', 'head.weight': 'head'}
    """
    first = [pattern for pattern in patterns if pattern != REST]
    named = list(names)
    found = {name: next((p for p in first if _fits(p, name)), REST) for name in named}
    for pattern in first:
        if pattern not in found.values():
            shadowed = " that no pattern before it is for" if any(_fits(pattern, name) for name in named) else ""
            raise HandfulError(
                f"{what}: the pattern '{pattern}' fits no trainable parameter{shadowed}; they are {some(named, 6)}"
            )
    if REST not in patterns and (left := [name for name, pattern in found.items() if pattern == REST]):
        raise HandfulError(f"{what}: no pattern fits {some(left, 4)}; add one, or '*' for all that is left")
    return found


def by_depth(model: nn.Module, top: float, factor: float) -> dict[str, float]:
    """Rates by depth, for `lr=`: `top` for all behind the blocks of a model, `factor` times as much for each block
    before it, and again for what comes before the first (layer-wise decay, Clark et al. 2020, "ELECTRA", appendix A).

    The blocks are the parts of the ModuleList or Sequential that holds most parameters, whole.

    >>> model = nn.ModuleDict({"stem": nn.Linear(1, 1), "blocks": nn.Sequential(nn.Linear(1, 9), nn.Linear(9, 9)),
    ...                        "head": nn.Linear(9, 1)})
    >>> {name: round(rate, 4) for name, rate in by_depth(model, 0.1, 0.5).items()}
    {'stem': 0.0125, 'blocks.0': 0.025, 'blocks.1': 0.05, '*': 0.1}
    """
    model, kinds = unwrapped(model), nn.ModuleList | nn.Sequential
    lists = {name: m for name, m in model.named_modules() if isinstance(m, kinds) and len(m) > 1}
    sizes = {name: sum(p.numel() for p in m.parameters() if p.requires_grad) for name, m in lists.items()}
    if not any(sizes.values()):
        raise HandfulError(
            f"{type(model).__name__} has no ModuleList or Sequential of blocks: give rates by name, lr=..."
        )
    path = max(sizes, key=lambda name: sizes[name])
    inside = [name for name in sizes if name.startswith(f"{path}." if path else "") and 2 * sizes[name] > sizes[path]]
    path = max(inside or [path], key=len)  # as of a backbone that stands in a Sequential with its head
    prefix, names = (f"{path}." if path else ""), list(trainable(model)[0])
    blocks = [
        f"{prefix}{k}" for k, part in lists[path].named_children() if any(p.requires_grad for p in part.parameters())
    ]
    first = next(k for k, name in enumerate(names) if name.startswith(prefix))
    before = dict.fromkeys(_apart(name, prefix) for name in names[:first])
    rates = {name: top * factor ** (len(blocks) + 1) for name in before}
    return rates | {name: top * factor ** (len(blocks) - k) for k, name in enumerate(blocks)} | {REST: top}


def _apart(name: str, prefix: str) -> str:
    """The largest part of the model that holds a parameter, but nothing behind the prefix."""
    parts = name.split(".")
    places = (".".join(parts[: k + 1]) for k in range(len(parts)))
    return next(place for place in places if not prefix.startswith(f"{place}."))


def _fits(pattern: str, name: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def parameter_groups(
    model: nn.Module, parameters: Parameters, l2: float | None, patterns: Mapping[str, Mapping[str, object]]
) -> list[Group]:
    """A group of those that decay (l2 None: by the optimizer's default) and one of those that do not; only one if l2
    is 0. Each of them again for each value that patterns give to an option: option -> pattern -> value."""
    still = set() if l2 == 0 else undecayed(model)
    fitting = {option: by_pattern(values, parameters, option) for option, values in patterns.items()}
    found: dict[tuple[bool, Sequence[str]], Group] = {}
    for name, p in parameters.items():
        decays = l2 != 0 and not (p.ndim <= 1 or id(p) in still or name.endswith("bias"))
        kind = decays, tuple(fitting[option][name] for option in patterns)
        if kind not in found:
            decay = {} if decays and l2 is None else {"weight_decay": l2 if decays else 0.0}
            own = {option: values[fitting[option][name]] for option, values in patterns.items()}
            found[kind] = {"params": [], **decay, **own}
        found[kind]["params"].append(p)
    return sorted(found.values(), key=lambda group: "weight_decay" in group and not group["weight_decay"])


def only(groups: list[Group], chosen: Parameters) -> list[Group]:
    """The groups with the chosen parameters alone, those with none left out."""
    ids = {id(parameter) for parameter in chosen.values()}
    kept = [group | {"params": [p for p in group["params"] if id(p) in ids]} for group in groups]
    return [group for group in kept if group["params"]]


def undecayed(model: nn.Module) -> set[int]:
    """Ids of the parameters of normalisation layers."""
    norms = [module for module in model.modules() if "Norm" in type(module).__name__]
    return {id(parameter) for module in norms for parameter in module.parameters(recurse=False)}


def trainable(model: nn.Module) -> tuple[Parameters, list[str]]:
    """The parameters to train by name, tied ones once under their first name; and a note on those that are not.

    Raises HandfulError where there are none, and for one that has no shape yet.
    """
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if nn.parameter.is_lazy(parameter):
            raise HandfulError(f"the parameter '{name}' has no shape yet: call the model once on a batch first")
    found = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    if not found:
        what = "all its parameters are frozen (requires_grad is False)" if parameters else "it has no parameters"
        raise HandfulError(f"the model {type(model).__name__} has nothing to train: {what}")
    frozen = len(parameters) - len(found)
    left = f"{frozen} of {len(parameters)} parameters are frozen and left out, also if they are thawed later"
    return found, [f"{left}; an optimizer of your own may hold them."] if frozen else []


def check_sparse(optimizer: Optimizer, model: nn.Module) -> None:
    """HandfulError where an optimizer cannot step what has sparse gradients, or what has none, of its parameters: it is
    tried on a few numbers, as torch's say so in their first step only."""
    tables = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
    sparse = {m.weight: f"{name}.weight" for name, m in tables if m.sparse}
    for part in parts_of(optimizer) if sparse else ():
        make: Callable[[list[dict[str, object]]], Optimizer] = type(part)
        for group in part.param_groups:
            for found in {sparse.get(p) is None: sparse.get(p) for p in group["params"]}.values():
                zeros = torch.zeros(2, 2)
                tried = nn.Parameter(zeros.clone())
                tried.grad = zeros.to_sparse(1) if found else zeros
                try:
                    make([{**group, "params": [tried]}]).step()
                except (RuntimeError, TypeError, ValueError) as error:
                    if "sparse" in str(error) or "dense" in str(error):
                        raise HandfulError(_sparse(type(part).__name__, found)) from error


def _sparse(optimizer: str, found: str | None) -> str:
    if found is None:
        return f"{optimizer} takes sparse gradients alone, and not all parameters have them: give it those by a pattern"
    return f"{optimizer} cannot take the sparse gradients of '{found}': leave sparse out of the layer, or take 'sgd'"
