"""The model and the loss, tried on a few rows: mistakes are reported before anything is trained, and which part of the
output predicts the target is found."""

import contextlib
import math
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from handful.base.errors import MISTAKES, HandfulError, brief
from handful.base.keys import drawing
from handful.base.machine import wide
from handful.data.base import Batch
from handful.data.series import spread_rows
from handful.losses import ctc
from handful.losses.loss import IGNORED, LossFunction, as_loss, class_axis
from handful.losses.outputs import loss_in, mapped, named_parts, part_of, tensors_in
from handful.plan.data import Data
from handful.training.objective import Objective
from handful.training.special.adapters import decodes, input_names, makes_loss, target_argument
from handful.training.special.coupling import training_mode
from handful.training.watch.evaluation import evaluate, shapes
from handful.training.watch.weights import left_as_it_was
from handful.transform.target import Target

T = TypeVar("T")

FAR = 30.0  # times a model's first outputs
_MOST_ROWS = 64  # that are tried one by one
TRIED = 512  # rows on which metrics of the caller's own are tried


def output_of(model: nn.Module, forward: Callable[[Batch], object], sample: Batch) -> object:
    """The model's output for two rows, in evaluation mode. Lazy modules get their shapes here.

    Raises HandfulError with the shapes that the model fails on.
    """
    try:
        return quietly(model, partial(forward, sample.on_tensors(torch.clone)))  # it may change them
    except HandfulError:
        raise
    except MISTAKES as error:
        given = {k: v for k, v in sample.columns.items() if k not in ("y", "weight")}
        raise HandfulError(
            f"the model ({type(model).__name__}) fails on a batch of two rows ({shapes(given)}): {brief(error)}"
            f"{_in_tuples(given)}{_with_target(model, sample)}"
        ) from error


def with_graph(objective: Objective, data: Data) -> list[Tensor]:
    """What the model gives for two training rows, in evaluation mode, with the graph of it; nothing where it fails."""
    batch = objective.to_device(data.pipeline(data.train.take(range(min(2, len(data.train))))))
    with left_as_it_was(objective.model), contextlib.suppress(*MISTAKES):
        return quietly(objective.model, torch.enable_grad()(lambda: tensors_in(objective.forward(batch))))
    return []


def _with_target(model: nn.Module, sample: Batch) -> str:
    """The way on where its forward has to be given the target."""
    found = target_argument(model, input_names(sample), "")
    way = "; with loss='model' it is called with the target, too, and returns its loss, or (loss, scores)"
    return way if found and found[1] else ""


def scores_for_loss(objective: Objective, output: object, sample: Batch) -> None:
    """HandfulError where a model is asked for its loss and gives several numbers for a row that is of one class, or of
    either sign, as scores and reconstructions are: their mean would be minimised."""
    name, y = type(objective.model).__name__, sample.columns.get("y")
    match output, y:
        case Tensor(ndim=2), Tensor(ndim=1) if output.shape[1] > 1 and not y.is_floating_point():
            raise HandfulError(
                f"the model ({name}) is called with the target, too, to make its loss, and gives {output.shape[1]} "
                "numbers for each row, which look like scores of the classes: let its forward return (F.cross_entropy("
                "scores, y), scores)"
            )
        case Tensor(), _ if output.ndim > 1 and output[0].numel() > 1 and bool((output < 0).any()):
            raise HandfulError(
                f"the model ({name}) is asked for its loss, and gives {list(output.shape[1:])} numbers for each row, "
                "some below 0, which look like scores: let its forward return its loss, one number or one for each row"
            )


def without_target(objective: Objective, sample: Batch) -> list[str]:
    """A note where a model may be called with the target, and is not."""
    found = target_argument(objective.model, input_names(sample), objective.target)
    if objective.of_model or found is None or "y" not in sample.columns or makes_loss(objective.model):
        return []
    return [f"The model's forward is called without its '{found[0]}': with loss='model' it gets the target there, too, "
            "and returns its loss, or (loss, scores)."]  # fmt: skip


def takes(loss: object, output: object, sample: Batch) -> bool:
    """Whether a loss of the caller's own takes all that a model returns; else it is given the scores alone."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            as_loss(loss)[0](output, sample.columns.get("y"))
    except MISTAKES:
        return False
    return True


def loss_of(objective: Objective, sample: Batch, name: str, own: bool) -> None:
    """Try the loss and the metrics on some rows, in evaluation mode. own: the loss is the caller's.

    Raises HandfulError where they fail, and where an own loss takes an output [m, 1] and a target [m] for [m, m]
    differences, each row's output against every row's target.
    """
    output, target = None, sample.columns.get("y")

    def scored() -> None:
        nonlocal output
        output = objective.forward(sample)
        objective.sums_of(output, sample)

    try:
        quietly(objective.model, scored)
    except HandfulError:
        raise
    except MISTAKES as error:
        if target is None:
            raise HandfulError(
                f"the loss ({name}) fails without a target: there is no target column, so the loss receives None; name "
                f"one, pass (x, x) to learn x itself{_next_token(sample)}, or loss='model' where the model makes its "
                f"loss ({brief(error)})"
            ) from error
        if "does not require grad" in str(error):
            raise HandfulError(
                f"the loss ({name}) differentiates what the model gives, which has no gradient where rows are only "
                "scored: let the model do that in its forward, inside torch.enable_grad(), and return the result, or "
                "make the loss in a training_step"
            ) from error
        raise HandfulError(
            f"the loss ({name}) fails on two rows ({shapes({'output': output, 'target': target})}): {brief(error)}"
            f"{_in_tuples({'target': target})}"
        ) from error
    if own and target is not None and _spreads(objective.loss, output, target):
        raise HandfulError(
            f"the loss ({name}) compares every row's output with every row's target: the output is "
            f"[rows, 1] and the target [rows], which spread to [rows, rows]. Let the model return output.squeeze(1)"
        )


def _next_token(sample: Batch) -> str:
    """The way on where inputs without a target may be token ids."""
    ids = any(v.ndim < 3 and not v.is_floating_point() for v in tensors_in(list(sample.columns.values())))
    return ", or task='language' to predict each next token" if ids else ""


def _in_tuples(given: Mapping[str, object]) -> str:
    """The way on where a collate function left rows apart."""
    apart = [f"{name} is a {type(v).__name__}" for name, v in given.items() if isinstance(v, tuple | list)]
    way = "let it return Tensors, or pass loss='model' for a model whose forward takes them so and makes its own loss"
    return f"; {', '.join(apart)}, as the collate function gives it: {way}" if apart else ""


def in_training_alone(objective: Objective, output: object, sample: Batch, held_out: bool) -> bool:
    """Whether a model that makes its loss gave none in evaluation mode, but does in training mode, as those that find
    objects; its mini-batches are then kept whole. HandfulError where held-out rows would need it, too."""
    try:
        loss_in(output)
        return False
    except HandfulError:
        pass
    with torch.no_grad(), drawing("try"), left_as_it_was(objective.model):
        loss_in(objective.forward(sample) if training_mode(objective.model) else None)
    what = f"the model ({type(objective.model).__name__}) gives its loss in training mode alone"
    if held_out:
        raise HandfulError(f"{what}, so that held-out rows cannot be scored by it: pass valid=None")
    objective.coupling = objective.coupling or what
    return True


def makes_more(net: nn.Module, sample: Batch) -> bool:
    """Whether a model of Hugging Face's does more with its labels than to compare them with its scores: it decodes
    them, or shifts them, as they are the very ids that it is given."""
    y, ids = sample.columns.get("y"), sample.columns.get("input_ids", sample.columns.get("x"))
    if not makes_loss(net) or not torch.is_tensor(y) or y.is_floating_point():
        return False
    same = torch.is_tensor(ids) and ids.shape == y.shape and bool(((ids == y) | (y == IGNORED)).all())
    return decodes(net) or (same and y.ndim > 1)


def only_its_own(net: nn.Module, sample: Batch, output: object) -> bool:
    """Whether the loss can only be the model's: of inputs alone, in its output; or of labels that are no class of each
    row or of each place of its scores."""
    y = sample.columns.get("y")
    if not torch.is_tensor(y):
        return (torch.is_tensor(output) and output.ndim == 0) or "loss" in dict(named_parts(output))
    scored = torch.is_tensor(output) and class_axis(tuple(output.shape), tuple(y.shape)) is not None
    return makes_loss(net) and y.ndim > 1 and not y.is_floating_point() and not scored


def try_metrics(objective: Objective, data: Data) -> None:
    """Try metrics of the caller's own on rows that they will be asked for. A ValueError, as for a class that is not
    among them, says nothing unless these are all."""
    scored = data.held_out or data.train
    some = spread_rows(len(scored), TRIED)
    batch = data.pipeline.on(scored, target=True)(scored.take(some))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            evaluate(objective, [batch])
        except HandfulError as error:
            if len(some) == len(scored) or type(error.__cause__) is not ValueError:
                raise


def _spreads(loss: LossFunction, output: object, target: object) -> bool:
    """Whether two rows, [2, 1] in the output against [2] in the target, have another mean than each row alone, and [2]
    against [2] the same: then it is the shapes that couple the rows, and no loss that compares rows on purpose."""
    o = mapped(output, lambda v: v.new_tensor([[0.3], [0.6]]) if v.shape == (2, 1) else v)  # right for any loss, unlike
    t = mapped(target, lambda v: v.new_tensor([0, 1]) if v.shape == (2,) else v)

    def mean(rows: slice, columns: bool = False, flat: bool = False) -> Tensor:
        some = mapped(o, lambda v: (v[:, 0] if flat and v.shape == (2, 1) else v)[rows] if v.ndim else v)
        return _mean(loss(some, mapped(t, lambda v: (v[:, None] if columns and v.shape == (2,) else v)[rows])))

    for columns in (False, True):  # the output as [2], or the target as [2, 1]
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                both, same = mean(slice(2)), mean(slice(2), columns, flat=not columns)
                alone = (mean(slice(1)) + mean(slice(1, 2))) / 2
        except Exception:  # whatever it is made for, it is not such rows in any of these shapes
            continue
        return bool(torch.isclose(same, alone)) and not bool(torch.isclose(both, alone))
    return False


def _mean(result: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    if isinstance(result, tuple):
        total: Tensor = wide(result[0]).sum() / wide(torch.as_tensor(result[1])).sum()
        return total
    return wide(torch.as_tensor(result)).mean()


def warn_of_distance(output: object, target: object) -> str | None:
    """A note where numbers to be predicted are far from a new model's outputs, which small steps may never reach."""
    if not torch.is_tensor(output) or not torch.is_tensor(target) or output.numel() != target.numel():
        return None
    y = wide(target).abs().mean().item()
    if not FAR * max(1.0, wide(output).abs().mean().item()) < y < math.inf:
        return None
    size = f"{float(f'{y:.1g}'):,.0f}"
    return (
        f"the target's numbers are around {size} in size and your own model's outputs start far below: as it gets "
        "them as they are, divide them by such a number, or let the model's last step multiply"
    )


def warn_of_probabilities(output: object, loss_text: str) -> list[str]:
    """A note if the outputs look like probabilities where logits are wanted: a common and costly mistake."""
    if torch.is_tensor(output) and output.ndim == 2 and output.shape[1] > 1 and loss_text.startswith("cross_entropy"):
        o = output.float()
        if (o >= 0).all() and torch.allclose(o.sum(1), torch.ones(len(o)).to(o), atol=1e-4):
            return ["the model's outputs add up to 1 like probabilities; cross_entropy wants logits: no softmax"]
    return []


def quietly(model: nn.Module, call: Callable[[], T]) -> T:
    """In evaluation mode, without gradients, from random numbers of its own."""
    model.eval()
    with drawing("try"), torch.no_grad():
        return call()


def predicting_part(objective: Objective, batch: Batch, target: Target | None) -> str | None:
    """The name of the part, "" for the output itself, or None: of embeddings, say, no part predicts a class.

    It has the shape of the target, or scores its classes. Of several of that shape it is the first which, where it is
    the target, leaves the loss without slope: the mean, and not the variance. For one class per row, the loss pulls up
    the score of the true class in every row, which no loss does that takes the numbers for anything else.
    """
    output = objective.forward(batch)
    if objective.several is not None:
        return objective.several.part
    if target is None or target.task in ("sequence", "language") or ctc.only_valid(output) is not output:
        return ""
    fitting = [name for name, found in named_parts(output) if _has_shape(found, batch, target)]
    if target.task == "classification" and target.counted and not (target.dense or objective.of_model):
        return next((name for name in fitting if _pulls(objective, output, part_of(output, name), batch)), None)
    told = (name for name in fitting if len(fitting) > 1 and link_by_slope(objective, batch, name) is not None)
    found = next(told, next(iter(fitting), None))
    if found and objective.of_model and isinstance(output, tuple | list):
        loss = next(k for k, part in enumerate(output) if part is loss_in(output))
        return str(int(found) - (len(output) if loss < int(found) else 0))  # without the target there may be no loss
    return found


def link_by_slope(objective: Objective, batch: Batch, part: str) -> str | None:
    """By which of `LINKS` numbers come of a part of the outputs, as a loss of the caller's own takes it: that by which
    the targets themselves, put in its place, leave the loss without slope; None where none does."""
    output = objective.forward(batch)
    found, y = part_of(output, part), batch.columns.get("y")
    if not torch.is_tensor(found) or not torch.is_tensor(y) or found.numel() != y.numel():
        return None
    y = y.to(found).reshape(found.shape)

    def slope(at: Tensor) -> float:
        return float(_slope(objective, batch, output, found, at).abs().max())

    tried = {"": y, "sigmoid": torch.logit(y, eps=1e-3), "exp": y.clamp_min(1e-3).log()}
    for link, at in tried.items():
        if (link and float(y.min()) < 0) or (link == "sigmoid" and float(y.max()) > 1):
            continue
        with contextlib.suppress(*MISTAKES):
            if slope(at) < 1e-2 * slope(at + 0.5):
                return link
    return None


def _slope(objective: Objective, batch: Batch, output: object, part: object, at: Tensor) -> Tensor:
    """Of the loss, where the part of the output is `at`; 0 where the loss takes another part."""
    with torch.enable_grad():
        scores = at.detach().clone().requires_grad_()
        loss = objective.row_losses(mapped(output, lambda o: scores if o is part else o), batch)[0]
        return torch.autograd.grad(loss + 0 * scores.sum(), scores)[0]


def not_square(objective: Objective, output: object, y: object, data: Data) -> tuple[object, object]:
    """Output and target where scores of places tell which side is the classes: of rows that differ in length, one that
    is not as long as there are classes."""
    for row in range(min(len(data.train), _MOST_ROWS)):
        if not torch.is_tensor(output) or output.ndim != 3 or output.shape[1] != output.shape[2]:
            break
        batch = objective.to_device(data.pipeline(data.train.take([row])))
        output, y = quietly(objective.model, partial(objective.forward, batch)), batch.columns["y"]
    return output, y


def classes_of_places(objective: Objective, batch: Batch, target: Target) -> tuple[int, bool]:
    """How many classes the scores of places are of; and whether they are [m, C, T] for the loss, where their shape,
    without the length of this batch, may be read as [m, T, C], too. Of a square the slopes of a cross-entropy tell,
    which add up to 0 over classes."""
    output, y = objective.forward(batch), batch.tensor("y")
    found = part_of(output, objective.part)
    axis = class_axis(tuple(found.shape), tuple(y.shape)) if torch.is_tensor(found) else None
    if not torch.is_tensor(found) or axis is None:
        return target.outputs, False
    if found.ndim == 3 and found.shape[1] == found.shape[2]:
        with contextlib.suppress(*MISTAKES):
            first, last = (_slope(objective, batch, output, found, found).sum(k).abs().max() for k in (1, 2))
            axis = 1 if first < last else -1
    either = class_axis(tuple(found.shape), (len(found), *target.shape)) == -1
    return found.shape[axis], axis == 1 and either


def _has_shape(found: object, batch: Batch, target: Target) -> bool:
    if not torch.is_tensor(found) or found.ndim == 0 or len(found) != len(batch) or not found.is_floating_point():
        return False
    if target.task != "classification":
        return found[:1].numel() == target.size
    if target.dense:
        return class_axis(tuple(found.shape), tuple(batch.tensor("y").shape)) is not None
    single = found[:1].numel() == 1 and target.outputs == 2
    return single or (found.ndim == 2 and found.shape[1] >= target.outputs)


def _pulls(objective: Objective, output: object, found: Any, batch: Batch) -> bool:
    """Whether a step down the loss raises the true class's score against the mean of the others', in every row."""
    try:
        slope = _slope(objective, batch, output, found, found)
    except MISTAKES:
        return True  # the loss cannot be asked: as the shapes say
    y = batch.tensor("y").reshape(-1, 1)
    kept = y.flatten() != IGNORED
    slope, y = slope[kept], y[kept]
    if not len(y):
        return True
    if slope[:1].numel() == 1:
        pull = torch.where(y > 0, -1, 1) * slope.reshape(-1, 1)
    else:
        own = slope.gather(1, y)
        pull = (slope.sum(1, keepdim=True) - own) / (slope.shape[1] - 1) - own
    return bool((pull >= -1e-6 * pull.abs().max()).all()) and bool((pull > 0).any())
