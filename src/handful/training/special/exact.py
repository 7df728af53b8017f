"""The exact gradient of one mini-batch, alone or over several ranks: for probes, and for steps of the caller's own."""

import json
import math
from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from handful.base.errors import HandfulError
from handful.data.base import Batch
from handful.losses.outputs import mapped
from handful.optim.fused import Closure
from handful.optim.parts import needs_closure, takes_none
from handful.training.objective import LossSums, Objective
from handful.training.process.exchange import Said
from handful.training.process.parallel import ALONE, Ranks
from handful.training.special.adapters import RowLosses
from handful.training.special.coupling import rows
from handful.training.step import NOTHING, ExactGradient, differentiate
from handful.training.watch.guards import NonFiniteLoss, in_parts_that_fit, is_out_of_memory, non_finite


def all_rows(row_losses: RowLosses, model: nn.Module, ranks: Ranks) -> RowLosses:
    """The losses of a mini-batch of all ranks, where the loss compares rows with one another: each rank computes it of
    the outputs of all, and has the gradient by its own. The sums are rank 0's; on the others they are 0."""

    def everywhere(own: Tensor) -> Tensor:
        if own.ndim == 0:
            raise HandfulError(
                "the loss compares the rows of a mini-batch, so the ranks tell one another all that the model gives; a "
                "single number among it has no rows: let the model give that in another way"
            )
        parts = ranks.gather_rows(own.detach())
        parts[ranks.rank] = own
        return torch.cat(parts)

    def together(output: object, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        if not model.training:
            return row_losses(output, batch)
        columns = {name: mapped(batch.columns[name], everywhere) for name in ("y", "weight") if name in batch.columns}
        whole = Batch(columns, everywhere(torch.from_numpy(batch.rows)).numpy())  # type: ignore[arg-type]
        loss, weight, _ = row_losses(mapped(output, everywhere), whole)
        return (loss, weight, None) if ranks.rank == 0 else (loss - loss.detach(), weight * 0, None)

    return together


class OverRanks(ExactGradient):
    """The gradient over the whole mini-batch of all ranks; `total` holds the sums over all, once the pass is over."""

    def parts(self, batch: Batch) -> Iterable[Batch]:
        self.told = False  # whether the end of the pass was told to the other ranks
        self.bad: Batch | None = None  # the first part of this rank whose loss is not finite
        return super().parts(batch)

    def in_parts(self, batch: Batch) -> Iterator[Batch]:
        """Some rows at a time; gradients are sent during the last backward pass, and divided once by the total."""
        m = len(batch.rows)
        passes = self.ranks.passes(m)
        for start in range(0, passes, self.size):
            self.counts = start < m  # or it is a pass that only other ranks need
            some = slice(min(start, m - 1), min(start + self.size, m))
            self.part = self.objective.to_device(batch if self.size >= m else rows(batch, some))
            if start + self.size >= passes:
                self.ranks.part_is_last(self.objective.parameters)
            yield self.part
        if self.add_up(no_memory=False):
            raise torch.OutOfMemoryError("memory ran out on another rank")
        self.ended()

    def backward(self, sums: LossSums) -> None:
        """A rank that gave up alone would leave the others waiting: all look at the total."""
        loss = sums.loss
        if not self.counts:
            (loss * 0).backward()  # type: ignore[no-untyped-call]
            return
        if self.bad is None and not math.isfinite(loss.item()):
            self.bad = self.part
        differentiate((loss,), (torch.full_like(loss, 1 / max(1, self.ranks.batch)),))
        self.total = sums.detached() if self.total is NOTHING else self.total + sums

    def add_up(self, no_memory: bool) -> bool:
        """From the gradient of a sum on each rank to that of the mean over all of them; whether one has no memory."""
        own, self.told = self.total, True
        said = self.ranks.add_up(self.objective.parameters, Said(own.loss, own.weight, own.metrics, no_memory))
        if said.out_of_memory:
            return True
        self.total = LossSums(said.loss, said.weight, said.metrics)
        if not math.isfinite(said.loss.item()):
            together = self.ranks.sharding is not None  # all ask the model, or none
            bad = self.bad or (self.part if together else self.batch)
            found = non_finite(self.objective, bad, self.step, look=together or self.bad is not None)
            mine = [not found.in_rows, str(found)] if self.bad is not None else []
            named = sorted(filter(None, map(json.loads, self.ranks.gather(json.dumps(mine)))))
            error = NonFiniteLoss(named[0][1]) if named else found
            error.in_rows, error.in_weights = found.in_rows, found.in_weights
            raise error
        if said.weight.item() == 0:
            self.forget()
        return False

    def undone(self, error: BaseException) -> None:
        """The other ranks are told, too, where memory ran out on this one."""
        if is_out_of_memory(error):
            if self.ranks.sharding:  # in the middle of a pass, which is of all ranks
                raise HandfulError(
                    "memory ran out, and the ranks of a sharded model cannot take the step again: give a micro_batch "
                    f"below {self.size}"
                ) from None
            try:
                if not self.told:
                    self.add_up(no_memory=True)
            except BaseException:
                self.put_back()
                raise
        super().undone(error)


def exact_gradient(
    objective: Objective,
    batch: Batch,
    micro_batch: int | None = None,
    ranks: Ranks = ALONE,
    *,
    seed: int = 0,
    step: int = 0,
) -> ExactGradient:
    """The exact gradient of one mini-batch, left in `.grad`."""
    kind = ExactGradient if ranks.size == 1 else OverRanks
    with kind(objective, batch, micro_batch, ranks, seed=seed, step=step) as exact:
        exact.take()
    return exact


def again(of: ExactGradient, optimizer: Optimizer) -> Closure | None:
    """Takes the gradient of a step's mini-batch where the weights are now, with the same dropout, and returns its mean
    loss, for an optimizer that asks for it; None for others. LBFGS asks first for the gradient that is known; others
    may have moved the weights by then. A loss that is not finite is an answer: the next step names the rows."""
    if not needs_closure(optimizer):
        return None
    answered: LossSums | None = None

    def closure() -> float:
        nonlocal answered
        now, first = of, answered is not of.total
        answered = of.total
        if not (first and type(optimizer) is LBFGS):
            if first and not takes_none(optimizer):  # a loop of torch's own would have had this pass alone
                of.put_back()
            now = ExactGradient(of.objective, of.batch, of.micro_batch, seed=of.seed, step=of.step, answers=True)
            now.take()
        sums = now.total
        return float(sums.loss / sums.weight.to(sums.loss.dtype))  # as a loss's own mean has it, in its dtype

    return closure


def gradient_that_fits(
    objective: Objective, batch: Batch, micro_batch: int | None, ranks: Ranks = ALONE, *, seed: int = 0, step: int = 0
) -> tuple[ExactGradient, int | None]:
    """`exact_gradient`, and again in smaller parts where memory runs out; and the micro-batch that fitted."""
    return in_parts_that_fit(micro_batch, partial(exact_gradient, objective, batch, ranks=ranks, seed=seed, step=step))
