"""Several targets that are not alike, classes and numbers: the parts of a model's output that predict each, the sum of
their losses, the metrics of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from handful.base.errors import HandfulError
from handful.losses.loss import NAMED, as_loss
from handful.losses.metric import Metric, SumMetric, Sums, WholeMetric
from handful.losses.outputs import named_parts


def heads(output: object, names: Sequence[str], sizes: Sequence[int] = ()) -> list[Tensor] | None:
    """The parts of a model's output for some rows, one for each target: of a dict those of their names, of a tuple or
    list in their order, of one Tensor so many columns each; None where they cannot be told.

    >>> [tuple(head.shape) for head in heads(torch.zeros(5, 4), ["kind", "size"], [3, 1]) or ()]
    [(5, 3), (5, 1)]
    """
    if isinstance(output, Tensor):
        return list(torch.split(output, list(sizes), 1)) if output.ndim == 2 and output.shape[1] == sum(sizes) else None
    parts = dict(named_parts(output))
    by_name = set(names) <= set(parts)
    found = [parts[name] for name in names] if by_name else list(parts.values())
    tensors = [part for part in found if isinstance(part, Tensor) and part.ndim in (1, 2)]
    whole = len(tensors) == len(found) == len(names) and (by_name or not isinstance(output, Mapping))
    return tensors if whole else None


@dataclass(frozen=True)
class together:
    """The sum of a loss for each target, in the order of the targets. A row's is the sum of its losses.

    losses: their names; weights: what each counts for, 1 by default; sizes: the columns of a model's output that each
    target has, where that is one Tensor. A target is a dict of Tensors by name.

    >>> target = {"kind": torch.tensor([0]), "size": torch.tensor([2.0])}
    >>> loss = together(["cross_entropy", "mse"], weights=[1, 0.5])
    >>> round(float(loss((torch.zeros(1, 4), torch.zeros(1)), target)), 4)   # ln 4 + 4 / 2
    3.3863
    """

    losses: Sequence[str]
    weights: Sequence[float] = ()
    sizes: Sequence[int] = ()

    def __call__(self, output: object, target: Mapping[str, Tensor]) -> Tensor:
        if len(self.losses) != len(target) or len(self.weights or self.losses) != len(target):
            raise HandfulError(f"together has {len(self.losses)} losses for {len(target)} targets: give one for each")
        found = heads(output, list(target), self.sizes)
        if found is None:
            raise HandfulError(
                f"the model's output cannot be told apart into {', '.join(target)}: let it return a dict of these "
                "names, or a tuple in this order"
            )
        weights = self.weights or [1.0] * len(target)
        each = zip(self.losses, found, target.values(), weights, strict=True)
        values = [_per_row(as_loss(name)[0](head, y)) * float(weight) for name, head, y, weight in each]
        return sum(values[1:], values[0])

    def text(self) -> str:
        """As it is written in a plan."""
        more = "".join(f", {name}={list(v)}" for name in ("weights", "sizes") if (v := getattr(self, name)))
        return f"together({list(self.losses)}{more})"


def losses_of(loss: object, count: int) -> Sequence[str | None]:
    """The loss of each of several targets, None where it is left open or one for all of them."""
    match None if loss in (None, "auto", "model") else as_loss(loss)[0]:
        case together(losses=losses) if len(losses) == count:
            return losses
    return [None] * count


NAMED[together.__name__] = together  # which is made of the others


def _per_row(result: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    values = result[0] if isinstance(result, tuple) else result
    return values.flatten(1).mean(1) if values.ndim > 1 else values


def of_part(metric: Metric, name: str, at: slice, k: int, classes: bool) -> Metric:
    """A metric of one of several targets: of the columns `at` of all outputs [m, ...], and column k of the targets."""

    def apart(output: Any, target: Any) -> tuple[Any, Any]:
        own = target[:, k]
        ids = own.long() if isinstance(own, Tensor) else own.astype("int64")
        return output[:, at], ids if classes else own

    def sums_by(sums: Sums) -> Sums:
        return lambda output, target, weight: sums(*apart(output, target), weight)

    title = f"{name}_{metric.name}"  # whose last word says which way is better
    match metric:
        case SumMetric(sums=sums, centred=by):
            own = replace(metric, name=title, sums=sums_by(sums), many=None)
            centred = None if by is None else (lambda centre: replace(own, sums=sums_by(by(centre[k : k + 1]).sums)))
            return replace(own, centred=centred)
        case WholeMetric(whole=whole):
            return replace(metric, name=title, whole=lambda o, t, w: whole(*apart(o, t), w))
