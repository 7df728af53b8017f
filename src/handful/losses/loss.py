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
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from handful.base.errors import HandfulError
from handful.base.expression import parse
from handful.base.plan import Choice
from handful.losses.outputs import loss_in

IGNORED = -100  # the class id of rows and positions that count for nothing, as torch has it
LossFunction = Callable[[Any, Any], "Tensor | tuple[Tensor, Tensor]"]


@dataclass(frozen=True)
class cross_entropy:
    """Softmax cross-entropy of logits [m, C] (or [m, C, ...]) and class ids [m] (or probabilities [m, C]).

    label_smoothing: share of the target's probability spread evenly over all classes (Szegedy et al. 2016, eq. 7).
    class_weight: one weight per class; the mean is then weighted, as in torch. Ids of -100 are left out of the mean.

    >>> values, counted = cross_entropy()(torch.zeros(2, 4), torch.tensor([0, -100]))
    >>> round(float(values.sum() / counted.sum()), 4)   # ln 4
    1.3863
    """

    label_smoothing: float = 0.0
    class_weight: tuple[float, ...] | None = None
    last: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.class_weight is not None:  # a list, by its text
            object.__setattr__(self, "class_weight", tuple(self.class_weight))

    def __call__(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        weight = None if self.class_weight is None else beside(output, self.class_weight)
        return _softmax_loss(output, target, weight, self.label_smoothing, self.last)


def beside(output: Tensor, numbers: float | tuple[float, ...]) -> Tensor:
    """The numbers as a Tensor of the output's dtype and device, made once."""
    return _numbers(numbers, output.dtype, output.device)


@lru_cache(maxsize=16)
def _numbers(numbers: float | tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=dtype, device=device)


def _softmax_loss(
    output: Tensor, target: Tensor, weight: Tensor | None, smoothing: float | None, last: bool = False
) -> tuple[Tensor, Tensor] | Tensor:
    """Values, and what each counts for: its class's weight, or nothing where the id is -100. smoothing: None where the
    output is log-softmax already; last: the classes stand behind the places, [m, T, C]."""
    if last:
        values, counted = _softmax_loss(output.flatten(0, -2), target.flatten(), weight, smoothing)
        return values.reshape(target.shape), counted.reshape(target.shape)
    if smoothing is None:
        values = F.nll_loss(output, target, weight, reduction="none")
    else:
        values = F.cross_entropy(output, target, weight, reduction="none", label_smoothing=smoothing)
    if target.is_floating_point():
        return values
    counted = target != -100
    return values, counted if weight is None else torch.where(counted, weight[target.clamp_min(0)], 0)


@dataclass(frozen=True)
class token_cross_entropy(cross_entropy):
    """`cross_entropy` per token: logits [m, T, V], ids [m, T]; ids of -100 (padding) count for nothing.

    The mean is over all counted tokens of the mini-batch, not a mean of the rows' means.
    """

    last = True


@dataclass(frozen=True)
class binary_cross_entropy:
    """Logistic loss of logits [m], [m, 1] or [m, k] (several labels) and targets in 0..1 of the same size.

    positive_weight: weight of the positive class (He and Garcia 2009), 1 by default.
    """

    positive_weight: float = 1.0

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        target = _like(target, output)
        return F.binary_cross_entropy_with_logits(
            output, target, reduction="none", pos_weight=beside(output, self.positive_weight)
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
class poisson:
    """Negative log-likelihood of counts or rates, at least 0, of outputs [m], [m, 1] or [m, k] that are the logarithms
    of what is expected (Poisson regression); the term of the target alone is left out, as in torch."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return F.poisson_nll_loss(output, _like(target, output), reduction="none")


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
        wide = torch.promote_types(logits.dtype, torch.float32)
        log_p = F.log_softmax(logits.to(wide), dim=-1).transpose(0, 1)
        values = F.ctc_loss(
            log_p, target, lengths.cpu(), target_lengths.cpu(), blank=0, reduction="none", zero_infinity=True
        )
        return values / target_lengths.clamp_min(1)


@dataclass(frozen=True)
class model:
    """The loss that the model returns when it is called with the target too: one number, the mean over the rows, or one
    per row; or an output with it, see `handful.losses.outputs.loss_in`."""

    def __call__(self, output: object, target: object) -> Tensor:
        return loss_in(output)


_ALL: tuple[Callable[..., LossFunction], ...] = (
    cross_entropy, token_cross_entropy, binary_cross_entropy, binary_cross_entropy_of_probabilities, focal, mse, mae,
    huber, quantile, poisson, ctc, model,
)  # fmt: skip
NAMED = {f.__name__: f for f in _ALL}

# Torch's losses that compare number with number: with a target [m] an output [m, 1] would spread to [m, m].
_ELEMENTWISE = (
    nn.MSELoss,
    nn.L1Loss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    nn.BCELoss,
    nn.BCEWithLogitsLoss,
    nn.PoissonNLLLoss,
)
_SAME: dict[object, str] = {
    nn.CrossEntropyLoss: "cross_entropy", F.cross_entropy: "cross_entropy", nn.MSELoss: "mse", F.mse_loss: "mse",
    nn.L1Loss: "mae", F.l1_loss: "mae", nn.HuberLoss: "huber", F.huber_loss: "huber",
    nn.BCEWithLogitsLoss: "binary_cross_entropy", F.binary_cross_entropy_with_logits: "binary_cross_entropy",
    nn.PoissonNLLLoss: "poisson", F.poisson_nll_loss: "poisson", nn.BCELoss: "binary_cross_entropy_of_probabilities",
    F.binary_cross_entropy: "binary_cross_entropy_of_probabilities",
}  # fmt: skip
# Functions whose modules take the same options.
_MODULES: tuple[tuple[object, Callable[..., _Loss]], ...] = (
    (F.cross_entropy, nn.CrossEntropyLoss), (F.nll_loss, nn.NLLLoss), (F.smooth_l1_loss, nn.SmoothL1Loss)
)  # fmt: skip


def name_of(loss: object) -> str | None:
    """The name of the loss here that is the same as one of torch's, or None: a plan can make it again by its name.

    >>> name_of(nn.L1Loss()), name_of(nn.HuberLoss(delta=2.0)), name_of(nn.CrossEntropyLoss(label_smoothing=0.1))
    ('mae', 'huber(delta=2.0)', None)
    """
    match loss:
        case type():  # nn.MSELoss for nn.MSELoss()
            return name_of(loss()) if loss in _SAME else None
        case _Loss() if loss.reduction != "mean" or any(True for _ in loss.buffers()):
            return None
        case nn.CrossEntropyLoss() if loss.label_smoothing or loss.ignore_index != -100:
            return None
        case nn.PoissonNLLLoss() if loss.full or not loss.log_input:
            return None
        case nn.HuberLoss() if loss.delta != 1 and type(loss) in _SAME:
            return f"huber(delta={loss.delta})"
        case _Loss():
            return _SAME.get(type(loss))
    return next((name for function, name in _SAME.items() if loss is function), None)


def as_loss(loss: object) -> tuple[LossFunction, str, list[str]]:
    """The loss function, its text, and notes, of a name ("huber(delta=2)"), a torch loss, or any callable.

    A module or function of torch with `reduction="mean"` is asked for its values per row instead; one that compares
    number with number gets the target in the output's dtype and shape.
    """
    text = loss if isinstance(loss, str) else name_of(loss)
    if text is not None:
        return parse(text, NAMED, "loss"), text, []
    if isinstance(loss, type):  # nn.SmoothL1Loss for nn.SmoothL1Loss()
        kind = loss.__name__
        try:
            loss = loss()
        except TypeError as error:
            raise HandfulError(f"loss is the class {kind}; give an object of it ({error})") from None
    function, options = (loss.func, loss.keywords) if isinstance(loss, partial) and not loss.args else (loss, {})
    loss = next((module(**options) for of, module in _MODULES if of is function), loss)
    match loss:
        case _Loss():
            return _module_values(loss)
        case _ if not callable(loss):
            raise HandfulError(f"loss must be a name or a callable (output, target), not {type(loss).__name__}")
    title = getattr(loss, "__name__", None) or type(loss).__name__
    if "reduction" in parameters_of(loss) and _of_torch(function):
        return partial(loss, reduction="none"), title, []
    return loss, title, []


def _of_torch(loss: object) -> bool:
    """Whether values per row of a loss are what its mean is of: one of the caller's own may make another number of
    torch's mean, or take its own, weighted one."""
    return str(getattr(loss, "__module__", "")).startswith("torch.")


def parameters_of(function: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    """What a function takes, by name; nothing where it does not tell."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _module_values(loss: _Loss) -> tuple[LossFunction, str, list[str]]:
    """A torch loss module, asked for values per row; a kind of the caller's own as it is."""
    if not _of_torch(loss):
        return Aligned(loss) if isinstance(loss, _ELEMENTWISE) else loss, repr(loss), []
    values = copy.deepcopy(loss)
    values.reduction = "none"
    said = f"{type(loss).__name__} asked for a sum; the mini-batch's mean is used, so lr keeps its meaning"
    notes = [said] if loss.reduction == "sum" else []
    match values:
        case nn.CrossEntropyLoss() | nn.NLLLoss():
            return Counted(values), repr(loss), notes
        case _ if isinstance(values, _ELEMENTWISE):
            return Aligned(values), repr(loss), notes
    return values, repr(loss), notes


class Counted:
    """torch's cross-entropy, of logits or of their logarithms, as values and what each counts for.
    ignored: the id that counts for nothing; in targets with several positions it is -100, so metrics leave them out;
    last: see `_softmax_loss`."""

    last = False

    def __init__(self, loss: nn.CrossEntropyLoss | nn.NLLLoss) -> None:
        self.weight, self.ignored = loss.weight, loss.ignore_index
        self.smoothing = getattr(loss, "label_smoothing", None)  # None: the output is log-softmax

    def __call__(self, output: Tensor, target: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if not target.is_floating_point():
            target = torch.where(target == self.ignored, -100, target)
        weight = None if self.weight is None else self.weight.to(output)
        return _softmax_loss(output, target, weight, self.smoothing, self.last)


@dataclass(frozen=True)
class Aligned:
    """A loss module that compares number with number, given the target in the output's dtype and shape."""

    values: nn.Module

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        result: Tensor = self.values(output, _like(target, output))
        return result


def of_probabilities(loss: LossFunction) -> bool:
    """Whether the model's outputs are probabilities for this loss, and not logits."""
    match loss:
        case binary_cross_entropy_of_probabilities() | nn.BCELoss() | Aligned(values=nn.BCELoss()):
            return True
    return False


def unknown(output: object, target: Tensor) -> Tensor:
    """The loss of a loaded run whose own loss is not at hand: not a number for each row."""
    return torch.full((len(output if isinstance(output, Tensor) else target),), torch.nan)


def _like(target: Tensor, output: Tensor) -> Tensor:
    """The target in the output's dtype and shape, where only a trailing 1 differs: [m] and [m, 1] are the same data."""
    target = target.to(output.dtype)
    if target.shape != output.shape:
        if target.numel() != output.numel():
            raise HandfulError(
                f"the model's output has shape {tuple(output.shape)} but the target {tuple(target.shape)}; "
                "they must hold as many numbers per row"
            )
        target = target.reshape(output.shape)
    return target


def _fits(shape: tuple[int, ...], known: tuple[int | None, ...]) -> bool:
    return all(k is None or n == k for n, k in zip(shape, known, strict=True))


def class_axis(output: tuple[int, ...], target: tuple[int | None, ...]) -> int | None:
    """The axis of an output [m, ...] that holds the classes for a target [m, ...] of one class id per position: 1 where
    it stands before the positions, as after convolutions, -1 behind them, as after layers over tokens; None if there is
    none. Where both would do, -1 for rows of one dimension and 1 for others. A side of None fits any.

    >>> class_axis((8, 21, 32, 32), (8, 32, 32)), class_axis((8, 40, 9), (8, 40)), class_axis((8, 10), (8, 10))
    (1, -1, None)
    """
    if len(output) != len(target) + 1 or len(target) < 2:
        return None
    first = _fits(output[:1] + output[2:], target) and output[1] > 1
    last = _fits(output[:-1], target) and output[-1] > 1
    if first and last:
        return 1 if len(target) > 2 else -1
    return 1 if first else -1 if last else None


def planned_loss(choices: Mapping[str, Choice], text: str) -> LossFunction:
    """The loss of a plan, which training minimised, from its name and the choices that soften a cross-entropy."""
    smoothing, weights = (choices[k].value if k in choices else None for k in ("label_smoothing", "class_weight"))
    weights = tuple(weights) if isinstance(weights, list) else None
    loss = as_loss(text)[0]
    if isinstance(loss, cross_entropy) and (smoothing or weights):
        return replace(loss, label_smoothing=smoothing or 0.0, class_weight=weights)
    return loss
