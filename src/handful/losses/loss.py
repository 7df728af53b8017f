"""Losses as values per row, so that a mean over any set of rows can be formed exactly.

A loss is a callable `(output, target)` that returns one of
- a Tensor [m, ...]: values per row (or per token, pixel ...); the mean is over all of them;
- a pair (values, weights) of the same shape, or of two 0-d sums: the mean is sum(values) / sum(weights) over the
  whole mini-batch, whatever parts it is computed in;
- a 0-d Tensor: taken as the mean over the m rows given, which is exact only if the loss treats rows separately.
"""

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful.base.errors import HandfulError
from handful.base.expression import parse
from handful.base.plan import Choice

LossFunction = Callable[[Any, Any], "Tensor | tuple[Tensor, Tensor]"]


@dataclass(frozen=True)
class cross_entropy:
    """Softmax cross-entropy of logits [m, C] (or [m, C, ...]) and class ids [m] (or probabilities [m, C]).

    label_smoothing: share of the target's probability spread evenly over all classes (Szegedy et al. 2016, eq. 7).
    class_weight: one weight a class; the mean is then weighted, as in torch. Ids of -100 are left out of the mean.

    >>> values, counted = cross_entropy()(torch.zeros(2, 4), torch.tensor([0, -100]))
    >>> round(float(values.sum() / counted.sum()), 4)   # ln 4
    1.3863
    """

    label_smoothing: float = 0.0
    class_weight: tuple[float, ...] | None = None

    def __call__(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        weight = None
        if self.class_weight is not None:
            weight = torch.tensor(self.class_weight, dtype=output.dtype, device=output.device)
        if target.is_floating_point():
            return F.cross_entropy(output, target, weight, reduction="none", label_smoothing=self.label_smoothing)
        values = F.cross_entropy(
            output, target, weight, reduction="none", label_smoothing=self.label_smoothing, ignore_index=-100
        )
        if weight is not None:
            return values, torch.where(target == -100, 0, weight[target.clamp_min(0)])
        return values, target != -100


@dataclass(frozen=True)
class token_cross_entropy:
    """Cross-entropy per token: logits [m, T, V], ids [m, T]; ids of -100 (padding) count for nothing.

    The mean is over all counted tokens of the mini-batch, not a mean of the rows' means.
    """

    label_smoothing: float = 0.0

    def __call__(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        values = F.cross_entropy(
            output.flatten(0, -2), target.flatten(), reduction="none", label_smoothing=self.label_smoothing
        )
        return values.reshape(target.shape), target != -100


@dataclass(frozen=True)
class binary_cross_entropy:
    """Logistic loss of logits [m], [m, 1] or [m, k] (several labels) and targets in 0..1 of the same size.

    positive_weight: weight of the positive class (He and Garcia 2009), 1 by default.
    """

    positive_weight: float = 1.0

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        target = _like(target, output)
        return F.binary_cross_entropy_with_logits(
            output, target, reduction="none", pos_weight=output.new_tensor(self.positive_weight)
        )


@dataclass(frozen=True)
class binary_cross_entropy_of_probabilities:
    """As `binary_cross_entropy`, of probabilities (a sigmoid's outputs) in place of logits, as torch's BCELoss: log 0
    counts as -100. Logits are the better conditioned."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy(output, _like(target, output), reduction="none")


@dataclass(frozen=True)
class focal:
    """Focal loss of logits [m, C] and ids [m]: -(1 - p)^gamma log p (Lin et al. 2017, eq. 4)."""

    gamma: float = 2.0

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        log_p = F.log_softmax(output, dim=1).gather(1, target[:, None]).squeeze(1)
        return -((1 - log_p.exp()) ** self.gamma) * log_p


@dataclass(frozen=True)
class mse:
    """Squared error of outputs [m], [m, 1] or [m, k], averaged over k."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(output, _like(target, output), reduction="none")


@dataclass(frozen=True)
class mae:
    """Absolute error of outputs [m], [m, 1] or [m, k], averaged over k."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - _like(target, output)).abs()


@dataclass(frozen=True)
class huber:
    """Huber's loss (1964): squared within `delta` of the target, linear beyond."""

    delta: float = 1.0

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return F.huber_loss(output, _like(target, output), reduction="none", delta=self.delta)


@dataclass(frozen=True)
class quantile:
    """Pinball loss, whose minimum is the q-quantile (Koenker and Bassett 1978)."""

    q: float = 0.5

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        error = _like(target, output) - output
        return torch.maximum(self.q * error, (self.q - 1) * error)


@dataclass(frozen=True)
class ctc:
    """Connectionist temporal classification (Graves et al. 2006): logits [m, T, C + 1] with blank 0; targets
    [m, L] of ids 1..C padded with 0; or a pair (logits, lengths) where the frames of a row end early.

    The value of a row is its negative log-likelihood divided by its target length.
    """

    def __call__(self, output: "Tensor | tuple[Tensor, Tensor]", target: Tensor) -> Tensor:
        logits, lengths = output if isinstance(output, tuple) else (output, None)
        if logits.dim() != 3:
            raise HandfulError(f"ctc needs logits [rows, frames, labels + 1], not of shape {tuple(logits.shape)}")
        if lengths is None:
            lengths = torch.full((len(logits),), logits.shape[1], dtype=torch.int64)
        target_lengths = (target > 0).sum(1)
        log_p = F.log_softmax(logits.float(), dim=-1).transpose(0, 1)
        values = F.ctc_loss(
            log_p, target, lengths.cpu(), target_lengths.cpu(), blank=0, reduction="none", zero_infinity=True
        )
        return values / target_lengths.clamp_min(1)


_ALL: tuple[Callable[..., LossFunction], ...] = (
    cross_entropy, token_cross_entropy, binary_cross_entropy, binary_cross_entropy_of_probabilities, focal, mse, mae,
    huber, quantile, ctc,
)  # fmt: skip
NAMED = {f.__name__: f for f in _ALL}

# Torch's losses that compare number with number: beside a target [m] an output [m, 1] would spread to [m, m].
_ELEMENTWISE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss)


def name_of(loss: Any) -> str | None:
    """The name of the loss here that is the same as one of torch's, or None: a plan can make it again by its name.

    >>> name_of(nn.L1Loss()), name_of(nn.HuberLoss(delta=2.0)), name_of(nn.CrossEntropyLoss(label_smoothing=0.1))
    ('mae', 'huber(delta=2.0)', None)
    """
    if isinstance(loss, type) and issubclass(loss, nn.modules.loss._Loss):  # nn.MSELoss for nn.MSELoss()
        return name_of(loss()) if loss in _SAME else None
    same = _SAME.get(type(loss))
    if same is None or loss.reduction != "mean" or any(True for _ in loss.buffers()):
        return next((name for function, name in _SAME_FUNCTIONS if loss is function), None)
    if isinstance(loss, nn.CrossEntropyLoss) and (loss.label_smoothing or loss.ignore_index != -100):
        return None
    return f"{same}(delta={loss.delta})" if isinstance(loss, nn.HuberLoss) and loss.delta != 1 else same


_SAME: dict[Any, str] = {
    nn.CrossEntropyLoss: "cross_entropy", nn.MSELoss: "mse", nn.L1Loss: "mae", nn.HuberLoss: "huber",
    nn.BCEWithLogitsLoss: "binary_cross_entropy", nn.BCELoss: "binary_cross_entropy_of_probabilities",
}  # fmt: skip
_SAME_FUNCTIONS = (
    (F.cross_entropy, "cross_entropy"), (F.mse_loss, "mse"), (F.l1_loss, "mae"), (F.huber_loss, "huber"),
    (F.binary_cross_entropy_with_logits, "binary_cross_entropy"),
    (F.binary_cross_entropy, "binary_cross_entropy_of_probabilities"),
)  # fmt: skip


def as_loss(loss: Any) -> tuple[LossFunction, str, list[str]]:
    """The loss function, its text, and notes, of a name ("huber(delta=2)"), a torch loss, or any callable.

    A torch loss module or function with `reduction="mean"` is asked for its values per row instead; one that compares
    number with number gets the target in the output's dtype and shape.
    """
    if isinstance(loss, str):
        return parse(loss, NAMED, "loss"), loss, []
    same = name_of(loss)
    if same is not None:
        return parse(same, NAMED, "loss"), same, []
    if isinstance(loss, type):  # nn.SmoothL1Loss for nn.SmoothL1Loss()
        try:
            loss = loss()
        except TypeError as error:
            raise HandfulError(f"loss is the class {loss.__name__}; give an object of it ({error})") from None
    if not callable(loss):
        raise HandfulError(f"loss must be a name or a callable (output, target), not {type(loss).__name__}")
    if isinstance(loss, nn.modules.loss._Loss):
        return _module_values(loss)
    if loss is F.smooth_l1_loss:
        loss = nn.SmoothL1Loss()
    if _has_reduction(loss):
        return (lambda output, target: loss(output, target, reduction="none")), _name(loss), []
    return loss, _name(loss), []


def _module_values(loss: nn.modules.loss._Loss) -> tuple[LossFunction, str, list[str]]:
    """A torch loss module, asked for values per row."""
    values = copy.deepcopy(loss)
    values.reduction = "none"
    notes = []
    if loss.reduction == "sum":
        notes.append(
            f"{type(loss).__name__} asked for a sum; the mini-batch's mean is used, so that lr keeps its meaning"
        )
    if isinstance(loss, nn.CrossEntropyLoss):
        return _Counted(loss), repr(loss), notes
    if isinstance(loss, _ELEMENTWISE):
        return _Aligned(values), repr(loss), notes
    return values, repr(loss), notes


class _Counted:
    """torch's cross-entropy as values and what each counts for: its class's weight, nothing for the ignored id.
    ignored: that id; of targets with several places it is -100, so that metrics can leave those places out too."""

    def __init__(self, loss: nn.CrossEntropyLoss) -> None:
        self.weight, self.smoothing, self.ignored = loss.weight, loss.label_smoothing, loss.ignore_index

    def __call__(self, output: Tensor, target: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        weight = None if self.weight is None else self.weight.to(output)
        if target.is_floating_point():
            return F.cross_entropy(output, target, weight, reduction="none", label_smoothing=self.smoothing)
        target = torch.where(target == self.ignored, -100, target)
        values = F.cross_entropy(output, target, weight, reduction="none", label_smoothing=self.smoothing)
        counted = target != -100
        return values, counted if weight is None else torch.where(counted, weight[target.clamp_min(0)], 0)


class _Aligned:
    """A loss module that compares number with number, given the target in the output's dtype and shape."""

    def __init__(self, values: nn.Module) -> None:
        self.values = values

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        result: Tensor = self.values(output, _like(target, output))
        return result


_OF_PROBABILITIES = (binary_cross_entropy_of_probabilities, nn.BCELoss)


def of_probabilities(loss: Any) -> bool:
    """Whether the model's outputs are probabilities for this loss, and not logits."""
    return isinstance(loss.values if isinstance(loss, _Aligned) else loss, _OF_PROBABILITIES)


def unknown(output: Any, target: Any) -> Tensor:
    """The loss of a loaded run whose own loss is not at hand: not a number for each row."""
    rows = output if isinstance(output, Tensor) else target
    return torch.full((len(rows),), torch.nan)


def _has_reduction(loss: Any) -> bool:
    try:
        return "reduction" in inspect.signature(loss).parameters and not isinstance(loss, type)
    except (TypeError, ValueError):
        return False


def _name(loss: Any) -> str:
    return getattr(loss, "__name__", None) or type(loss).__name__


def _like(target: Tensor, output: Tensor) -> Tensor:
    """The target in the output's dtype and shape, where only a trailing 1 differs: [m] and [m, 1] are the same data."""
    target = target.to(output.dtype)
    if target.shape != output.shape:
        if target.numel() != output.numel():
            raise HandfulError(
                f"the model's output has shape {tuple(output.shape)} but the target {tuple(target.shape)}; "
                "they must hold as many numbers a row"
            )
        target = target.reshape(output.shape)
    return target


def class_axis(output: tuple[int, ...], target: tuple[int, ...]) -> int | None:
    """The axis of an output [m, ...] that holds the classes for a target [m, ...] of one class id a place: 1 where it
    stands before the places, as after convolutions, -1 behind them, as after layers over tokens; None if there is none.
    Where both would do, -1 for rows of one dimension and 1 for others.

    >>> class_axis((8, 21, 32, 32), (8, 32, 32)), class_axis((8, 40, 9), (8, 40)), class_axis((8, 10), (8, 10))
    (1, -1, None)
    """
    if len(output) != len(target) + 1 or len(target) < 2:
        return None
    first = output[:1] + output[2:] == target and output[1] > 1
    last = output[:-1] == target and output[-1] > 1
    if first and last:
        return 1 if len(target) > 2 else -1
    return 1 if first else -1 if last else None


def planned_loss(choices: Mapping[str, Choice], text: str) -> LossFunction:
    """The loss of a plan, which training minimised, from its name and what `softening` put beside it."""
    smoothing, weights = (choices[k].value if k in choices else None for k in ("label_smoothing", "class_weight"))
    if text == "cross_entropy" and (smoothing or isinstance(weights, list)):
        return cross_entropy(smoothing or 0.0, tuple(weights) if isinstance(weights, list) else None)
    return as_loss(text)[0]
