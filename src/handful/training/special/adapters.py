"""What is special about a model, its loss or its target, decided once, so that no step has to ask again.

How the model is called (several inputs, token ids as Hugging Face's models take them, lower precision), what its loss
returns for the rows of a batch (ignored positions, several members), and what metrics see (sequences, units, logits).
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful.base.errors import HandfulError
from handful.base.expression import signature
from handful.base.machine import NARROW
from handful.data.base import Batch, Value
from handful.losses import ctc
from handful.losses.left_out import ignored_id
from handful.losses.loss import IGNORED, LossFunction, beside, cross_entropy, of_probabilities
from handful.losses.outputs import LINKS, mapped, part_of, scores_in
from handful.models.base import Model
from handful.transform.several import Several

_TARGETS = ("labels", "label", "targets", "target", "y")  # arguments for the target, as models call them
# arguments for what follows from the lengths of the rows: how many steps they have, or which steps are theirs
LENGTHS = ("lengths", "length", "seq_lengths", "seq_lens", "seq_len", "lens", "x_lengths", "input_lengths")
MASK = "attention_mask"
NO_GRAPH = "does not require grad and does not have a grad_fn"  # torch, of a derivative where gradients are off

Seen = tuple[Tensor, Tensor, Tensor | None]  # output, target, weight for metrics
Call = Callable[[Batch], object]  # the model's output for a batch
RowLosses = Callable[[object, Batch], tuple[Tensor, Tensor, Tensor | None]]  # loss, weight, values of the rows
View = Callable[[object, Batch], Seen | None]


def place_nested(several: Several | None, batch: Batch, device: torch.device, dtype: torch.dtype) -> Batch:
    """`Objective.to_device` where columns hold Tensors inside dicts and lists: of a collate function's, or of several
    targets, which are told apart here."""
    columns: dict[str, Any] = dict(batch.columns)
    if several is not None and torch.is_tensor(y := columns.get("y")):
        columns["y"] = several.apart(y)

    def move(value: Tensor) -> Tensor:
        return value.to(device, dtype if value.is_floating_point() else value.dtype, non_blocking=True)

    return batch.replace({name: mapped(value, move) for name, value in columns.items()})  # type: ignore[misc]


def first_call(
    model: nn.Module, batch: Batch, device: torch.device, autocast: torch.dtype | None, *,
    whole: bool = False, target: str | None = None, differentiates: bool = False,
) -> tuple[Call, object]:  # fmt: skip
    """How to call the model for batches like this one, and its output for it: model(x), or model(name=value, ...) where
    there are several inputs.

    A Hugging Face model of token ids is called as model(input_ids=x, attention_mask=...). Of an output with several
    parts the scores are taken, see `handful.losses.outputs.scores_in`, unless it is asked for whole. target: the column
    of the target, where the model is called with it, too, if a batch has it. Under autocast, outputs are float32 again.
    differentiates: the model takes derivatives itself, which it can outside of training, too.
    """
    call = _by_inputs(model, batch)
    call = call if target is None else _with_target(model, batch, target)
    call = _with_gradients(call) if differentiates else call
    with torch.autocast(device.type, autocast) if autocast else nullcontext():
        output = call(batch)
    if not whole and (part := scores_in(output)):
        call, output = _part_by(call, part), part_of(output, part)
    if autocast is None:
        return call, output
    return _in_lower_precision(call, device.type, autocast), _float32(output)


def _by_inputs(model: nn.Module, batch: Batch) -> Call:
    if getattr(model.forward, "__func__", None) is nn.Module.forward:
        raise HandfulError(
            f"the model ({type(model).__name__}) has no forward, so it cannot be called on rows: define it"
        )
    names, own = input_names(batch), _parameters(model)
    by_name = {p.name for p in own.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    anything = any(p.kind is p.VAR_KEYWORD for p in own.values())
    if names != ["x"] and own and not anything and not set(names) <= by_name:
        if len(own) == 1:  # all of them in one dict
            return lambda batch: model({name: batch.columns[name] for name in names})
        if all(re.fullmatch(r"x\d+", name) for name in names):  # of a tuple
            return lambda batch: model(*(batch.columns[name] for name in names))
    if names == ["x"] and own and all(p.kind is p.KEYWORD_ONLY for p in own.values()):
        return lambda batch: model(**{first_argument(model): batch.columns["x"]})
    if names != ["x"] or (anything and len(own) == 1):
        return lambda batch: model(**{name: batch.columns[name] for name in names})
    if _takes_ids(model) and not batch.tensor("x").is_floating_point():
        return lambda batch: model(input_ids=batch.columns["x"], attention_mask=_attended(model, batch.tensor("x")))
    return lambda batch: model(batch.columns["x"])


def input_names(batch: Batch) -> list[str]:
    """The columns of a batch that the model is called with."""
    return [name for name in batch.columns if name not in ("y", "weight")]


def _attended(model: nn.Module, ids: Tensor) -> Tensor:
    """1 for each token id from the first to the last that is no padding, int64 [m, T]. A first token that is the
    model's padding begins a text where texts begin so."""
    own, begins = (getattr(getattr(model, "config", None), f"{name}_token_id", None) for name in ("pad", "bos"))
    padding = ids == 0 if own is None else (ids == 0) | (ids == own)
    attended = (~padding).flip(1).cummax(1).values.flip(1)
    return attended.long() if own in (None, begins) else (attended & (ids != own).cummax(1).values).long()


def _takes_ids(model: nn.Module) -> bool:
    """Whether the model is called as Hugging Face calls its own: forward(input_ids, attention_mask, ...)."""
    names = _parameters(model)
    return "input_ids" in names and MASK in names


def named_arguments(model: nn.Module) -> dict[str, bool]:
    """The arguments of the model's forward besides one for the target; True for those that it has to be given."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    found = (p for p in _parameters(model).values() if p.kind not in kinds and p.name not in _TARGETS)
    return {p.name: p.default is inspect.Parameter.empty for p in found}


def length_arguments(model: nn.Module) -> dict[str, bool]:
    """The arguments of the model's forward for the lengths of rows that differ in length, or for a mask of them
    (True)."""
    return {name: name == MASK for name in _parameters(model) if name in (*LENGTHS, MASK)}


def first_argument(model: nn.Module) -> str:
    """The name of what the model's forward is given first; x where that is not known."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return next((n for n, p in _parameters(model).items() if p.kind in kinds), "x")


def makes_loss(model: nn.Module) -> bool:
    """Whether it is a model of Hugging Face's that makes its loss of labels."""
    return "labels" in _parameters(model) and hasattr(model, "config")


def decodes(model: nn.Module) -> bool:
    """Whether it is a model of Hugging Face's whose decoder is given the labels."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False)) and hasattr(model, "generate")


def _parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    forward = model.forward
    try:
        own = getattr(forward, "__func__", None)
        found = inspect.signature(forward) if own is None else signature(MethodType(own, 0))
    except (TypeError, ValueError):
        return {}
    return found.parameters


def target_argument(model: nn.Module, inputs: Sequence[str], column: str) -> tuple[str, bool] | None:
    """The argument of the model's forward for the target, and whether it has to be given: of its column's name, of a
    usual one, or the only one to be given besides these inputs; None where there is none."""
    found = _parameters(model)
    single = list(inputs) == ["x"]
    others = list(found)[1:] if single else [name for name in found if name not in inputs]
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    given = [n for n in others if found[n].default is inspect.Parameter.empty and found[n].kind not in kinds]
    usual = [name for name in (column, *_TARGETS) if name in others]
    if usual:
        return usual[0], usual[0] in given
    given = [name for name in given if name not in (*LENGTHS, MASK)]
    return (given[0], True) if single and len(given) == 1 else None


def _with_target(model: nn.Module, batch: Batch, column: str) -> Call:
    """The call of a model that is given the target, too, and makes its loss of it."""
    names = input_names(batch)
    found = target_argument(model, names, column)
    if found is None and "y" not in batch.columns:  # it makes its loss of the inputs
        return _by_inputs(model, batch)
    if found is None:
        raise HandfulError(
            f"loss='model' needs a model whose forward takes the target, as forward(x, y); "
            f"{type(model).__name__}'s has no argument for '{column}'. What it takes "
            "by name, and makes its loss of, needs no target="
        )
    name, needed = found
    ids = _takes_ids(model)

    def call(batch: Batch) -> object:
        more = {} if "y" not in batch.columns else {name: batch.columns["y"]}
        if not more and decodes(model):
            raise HandfulError(
                "the model decodes its labels, so without them it gives no outputs: run.model.generate(...) predicts"
            )
        if needed and not more:
            raise HandfulError(
                f"the model's forward has to be given '{name}', and there is no target: with '{name}=None' as its "
                "default it can predict"
            )
        if names != ["x"]:
            return model(**{n: batch.columns[n] for n in names}, **more)
        if ids and not batch.tensor("x").is_floating_point():
            return model(input_ids=batch.columns["x"], attention_mask=_attended(model, batch.tensor("x")), **more)
        return model(batch.columns["x"], **more)

    return call


def _with_gradients(call: Call) -> Call:
    """The call of a model that takes derivatives itself (forces of an energy, the terms of a differential equation)."""

    def forward(batch: Batch) -> object:
        train = torch.is_grad_enabled()
        with torch.enable_grad():
            output = call(batch)
        return output if train else mapped(output, Tensor.detach)

    return forward


def _part_by(call: Call, part: str) -> Call:
    return lambda batch: part_of(call(batch), part)


def _in_lower_precision(call: Call, device: str, dtype: torch.dtype) -> Call:
    def lower(batch: Batch) -> object:
        with torch.autocast(device, dtype):
            output = call(batch)
        return _float32(output)

    return lower


def _float32(output: object) -> object:
    """Losses and metrics are computed in float32 whatever the forward pass used."""
    return mapped(output, lambda o: o.float() if o.is_floating_point() else o)


def row_losses(model: nn.Module, loss: LossFunction, *, by_row: bool = False) -> RowLosses:
    """(sum, weight, values of the rows or None) of an output and its batch; a row with several outputs
    (`Model.members`, in training) has the mean of their losses. by_row: the values too, where the loss can tell."""
    entropy = loss if isinstance(loss, cross_entropy) and not (by_row or loss.label_smoothing) else None

    def usual(output: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        target, weight = batch.columns.get("y"), batch.columns.get("weight")
        ids = torch.is_tensor(target) and target.ndim == 1 and not target.is_floating_point()
        if ids and entropy is not None and weight is None:  # in one pass, 2: the sum
            each = None if entropy.class_weight is None else beside(output, entropy.class_weight)
            log_p = F.log_softmax(output, dim=1)
            return *torch.ops.aten.nll_loss_forward(log_p, target, each, 2, IGNORED), None
        return added_up(loss(output, target), len(batch.rows), weight)

    if not isinstance(model, Model) or model.members == 1:
        return usual
    members = model.members

    def of_members(output: object, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        if not model.training:
            return usual(output, batch)
        target = mapped(batch.columns["y"], lambda y: y.repeat_interleave(members, dim=0))
        weight = None if batch.weight is None else batch.weight.repeat_interleave(members, dim=0)
        total, counted, values = added_up(loss(output, target), len(batch) * members, weight)
        if values is not None:
            values = values.reshape(-1, members, *values.shape[1:]).mean(1)
        return total / members, counted / members, values

    return of_members


def added_up(
    result: Tensor | tuple[Tensor, Tensor], rows: int, row_weight: Value | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(sum, weight, values of the rows or None) of what a loss returned: see `handful.losses.loss`.

    >>> added_up(torch.tensor([1.0, 3.0]), 2, torch.tensor([1.0, 0.5]))[:2]
    (tensor(2.5000), tensor(1.5000))
    """
    assert row_weight is None or torch.is_tensor(row_weight)
    if isinstance(result, tuple):
        values, weights = result
        if values.ndim == 0:
            _no_row_weights(row_weight)
            weights = torch.as_tensor(weights)
            return values, weights if weights.numel() else _count(rows, values), None
        if row_weight is not None:
            shaped = row_weight.reshape(-1, *[1] * (values.ndim - 1))
            values, weights = values * shaped, weights * shaped
        return values.sum(), weights.sum(), values
    if not torch.is_tensor(result):
        raise HandfulError(f"the loss must return a Tensor or a pair of Tensors, not {type(result).__name__}")
    if result.ndim == 0:
        _no_row_weights(row_weight)
        return result * rows, _count(rows, result), None
    if len(result) != rows:
        raise HandfulError(
            f"the loss returned {len(result)} values for {rows} rows; return one per row, or the mean of all"
        )
    if row_weight is not None:
        values = result.flatten(1).mean(1) if result.ndim > 1 else result
        return (values * row_weight).sum(), row_weight.sum(), values
    return result.sum(), _count(result.numel(), result), result


def _count(n: int, like: Tensor) -> Tensor:
    return torch.full(
        (), float(n), dtype=torch.float32 if like.device.type in NARROW else torch.float64, device=like.device
    )


def _no_row_weights(row_weight: Tensor | None) -> None:
    if row_weight is not None:
        raise HandfulError(
            "rows are weighted, but the loss returns one number for all rows; let it return a value per row "
            "(reduction='none')"
        )


def counted(seen: Seen) -> Seen:
    """The rows that a metric counts, of those with a class each: all but those whose class is IGNORED."""
    output, target, weight = seen
    if target.ndim != 1 or target.is_floating_point() or bool((kept := target != IGNORED).all()):
        return seen
    return output[kept], target[kept], None if weight is None else weight[kept]


def _beside(several: Several) -> View:
    """The view of several targets: outputs and targets side by side."""

    def view(output: object, batch: Batch) -> Seen | None:
        match output:
            case Tensor() if len(output) != len(batch):  # of members
                output = output.reshape(len(batch), -1, *output.shape[1:]).mean(1)
        found = several.beside(output, batch.columns["y"])  # type: ignore[arg-type]
        return found and (*found, batch.weight)

    return view


def on_host(output: object, batch: Batch) -> tuple[object, Batch]:
    """Both on the CPU, for sums in float64, which their device has not."""
    columns = {name: mapped(value, Tensor.cpu) for name, value in batch.columns.items()}
    return mapped(output, Tensor.cpu), batch.replace(columns)  # type: ignore[arg-type]


def viewing(
    model: nn.Module,
    loss: LossFunction,
    output: object,
    batch: Batch,
    scale: tuple[Tensor, Tensor] | None,
    part: str = "",
    link: str = "",
    several: Several | None = None,
) -> View:
    """What metrics see of an output and a batch like these: sequences cut to their frames, members as their mean,
    numbers in the user's own units, probabilities as logits, and the positions that the loss ignores as IGNORED.
    part, link: of the output, see `handful.losses.outputs`; several: the target where it is several, not alike."""
    if several is not None:
        return _beside(several)
    parted = bool(part) or not torch.is_tensor(output)
    seen = ctc.only_valid(part_of(output, part)) if parted else output
    target = batch.columns.get("y")
    if not torch.is_tensor(seen) or not torch.is_tensor(target):
        return lambda output, batch: None
    ignored = ignored_id(loss) if target.ndim > 1 else None
    members = isinstance(model, Model) and model.members > 1
    logits = of_probabilities(loss) and not link
    mean, std = (None, None) if scale is None else (s.to(target.device) for s in scale)

    def view(output: object, batch: Batch) -> Seen | None:
        seen, target = ctc.only_valid(part_of(output, part)) if parted else output, batch.columns["y"]
        if not (torch.is_tensor(seen) and torch.is_tensor(target)):  # of a model that gives several in training
            return None
        seen, weight = seen.detach(), batch.columns.get("weight")
        if members and len(seen) != len(target):
            seen = seen.reshape(len(target), -1, *seen.shape[1:]).mean(1)
        if link or logits:
            seen = LINKS[link](seen.double()) if link else torch.logit(seen, eps=1e-12)
        if mean is not None and std is not None:
            seen, target = seen if logits else seen.double() * std + mean, target.double() * std + mean
        if ignored not in (None, IGNORED):
            target = torch.where(target == ignored, IGNORED, target)
        assert weight is None or torch.is_tensor(weight)
        return seen, target, weight

    return view
