"""What an optimizer is made of: its parts, groups and settings, those of its own class and those of others; the
parameters of a model in groups, by patterns on their names, and those that decay apart from the others."""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from handful.base.errors import HandfulError, some
from handful.base.expression import signature
from handful.models.base import ready_made
from handful.models.wrapped import unwrapped
from handful.optim.muon import Muon, evaluated

HALF = {torch.bfloat16, torch.float16}


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
    """An optimizer that is none of torch's class, as one of that; None for what is no optimizer."""
    match made:
        case object(param_groups=list(), state=_, step=_):
            modes = {name: getattr(made, name) for name in ("train", "eval") if hasattr(made, name)}
            methods = {name: staticmethod(mode) for name, mode in modes.items()}
            wrapper: Optimizer = type(type(made).__name__, (_Wrapper,), methods)(made)
            return wrapper
    return None


def averages_itself(optimizer: Optimizer) -> bool:
    """Whether it steps one set of weights and is evaluated with another, their average, as the schedule-free ones
    (Defazio et al. 2024, arXiv:2405.15682); its train() and eval() put one or the other into the parameters."""
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))


def switch(optimizer: Optimizer, mode: Literal["train", "eval"]) -> None:
    """Put the weights that it steps, or those that are evaluated, into the parameters, where they differ."""
    if averages_itself(optimizer) and (mode == "train" or optimizer.state):  # some fail before the first step (SPlus)
        getattr(optimizer, mode)()


def low_precision(optimizer: Optimizer) -> list[str]:
    """What rounding does to the moments that torch's optimizers keep in the weights' own dtype, of HALF: a decay by
    less than a quarter of its epsilon is rounded back to what it was, whatever the value.

    The plain step is taken where torch's fused SGD does nothing: on a CPU, torch 2.13 leaves such weights of 32 and
    more numbers as they are, without a word.
    """
    said = []
    for part in parts_of(optimizer):
        torchs, title = type(part).__module__.startswith("torch.optim"), type(part).__name__
        for group in part.param_groups:
            beta = group.get("betas", (0.0, 0.0))[1]
            for dtype in {p.dtype for p in group["params"]} & HALF:
                if isinstance(part, torch.optim.SGD) and any(p.device.type == "cpu" for p in group["params"]):
                    group["fused"] = False
                if torchs and 1 - beta < torch.finfo(dtype).eps / 4:
                    kind = str(dtype).removeprefix("torch.")
                    said.append(
                        f"The weights are {kind}, and so is the second moment of {title}: times {beta:g} it is rounded "
                        "back, so it grows and never shrinks, and steps get shorter. Use weights in float32 with "
                        "precision='bfloat16', or smaller betas, as in adamw(betas=[0.9, 0.95])."
                    )
    return said[:1]


def may_train(model: nn.Module, optimizer: Optimizer) -> list[nn.Parameter]:
    """The parameters that are trained, or may be later on: frozen ones, too, that the optimizer holds."""
    held = {p for group in optimizer.param_groups for p in group["params"]}
    return [p for p in model.parameters() if p.requires_grad or p in held]


def takes_none(optimizer: Optimizer) -> bool:
    """Whether its step can be called without the loss to evaluate; whether it is, `needs_closure` says."""
    closure = signature(getattr(optimizer.step, "__func__", optimizer.step)).parameters.get("closure")
    return closure is None or closure.default is not closure.empty


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether its step has to be given the loss to evaluate, as LBFGS's, or SAM's, whose code refuses to do without."""
    return not takes_none(optimizer) or _refuses_none(inspect.unwrap(type(optimizer).step))


@lru_cache(256)
def _refuses_none(step: Callable[..., object]) -> bool:
    try:
        return bool(re.search(r"assert closure|if (not closure|closure is None):\s+raise", inspect.getsource(step)))
    except (OSError, TypeError):  # there is no source
        return False


def compares_losses(optimizer: Optimizer) -> bool:
    """Whether its step compares losses of the same rows at several weights, as LBFGS's."""
    return "lbfgs" in type(optimizer).__name__.lower()


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
    notes = [
        f"The layers in a plain {kind} of the model, '{name}', are no part of it for torch: they are not trained, nor "
        "in its state_dict(); nn.ModuleList, nn.ModuleDict and nn.ParameterList hold such."
        for name, kind in ({} if ready_made(model) else _unseen(model)).items()
    ]
    frozen = len(parameters) - len(found)
    left = f"{frozen} of {len(parameters)} parameters are frozen and left out, also if they are thawed later"
    return found, [*notes, *([f"{left}; an optimizer of your own may hold them."] if frozen else [])]


def _unseen(model: nn.Module) -> dict[str, str]:
    """The attributes that hold trainable layers or parameters in lists and dicts, where torch does not find them."""
    known = {*model.modules(), *model.parameters()}
    found: dict[str, str] = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            match value:
                case list() | tuple():
                    parts = list(value)
                case dict() if not name.startswith("_"):
                    parts = list(value.values())
                case _:
                    continue
            layers = [p for p in parts if isinstance(p, nn.Module | nn.Parameter) and p not in known]
            weights = [w for p in layers for w in (p.parameters() if isinstance(p, nn.Module) else [p])]
            if any(w.requires_grad for w in weights):
                found[f"{path}.{name}" if path else name] = type(value).__name__
    return found


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
