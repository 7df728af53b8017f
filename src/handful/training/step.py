"""One step of the algorithm, and batch -> exact gradient: the whole mini-batch's, whatever the micro-batch size."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward as run_backward

from handful.base.keys import IN_TURN, dropout_key
from handful.data.base import Batch
from handful.optim.fused import Closure, Moved
from handful.optim.rates import add_l1, clip, follow
from handful.training.objective import LossSums, Objective
from handful.training.process.parallel import ALONE, Ranks
from handful.training.special.coupling import rows
from handful.training.training import Training
from handful.training.watch.guards import Watched, finite, non_finite
from handful.training.watch.weights import average_weight, update_average

# What `(loss * share).backward()` leaves, both 0-d and of one dtype, without that product, which costs a twentieth of a
# small step. (`loss.backward(share)` has torch import sympy, to compare their shapes.)
differentiate = partial(
    run_backward, keep_graph=False, create_graph=False, inputs=(), allow_unreachable=True, accumulate_grad=True
)
NOTHING = LossSums(torch.zeros(()), torch.zeros(()))


class OneStep(ABC):
    """One step, on whatever it stands on: a mini-batch that the host draws, or buffers of a device, as one graph."""

    objective: Objective

    def take(self) -> None:
        """Steps 2 to 6 of the algorithm."""
        batch = self.choose()  # 2. choose a random mini-batch
        for part in self.parts(batch):  # all rows at once, or in parts that fit in memory
            output = self.objective.forward(part)  # 3. forward
            sums = self.objective.sums_of(output, part)  # 4. mean loss: its sum and its weight
            self.backward(sums)  # 5. backward
            del output, sums  # or they would take up memory during the next forward pass
        self.update()  # 6. update by the learning rate

    @abstractmethod
    def choose(self) -> Batch:
        """The mini-batch of this step."""

    @abstractmethod
    def parts(self, batch: Batch) -> Iterable[Batch]:
        """Its rows on the model's device: all at once, or in parts."""

    @abstractmethod
    def backward(self, sums: LossSums) -> None:
        """Leave in `.grad` what the part that was given out last adds to the gradient."""

    def update(self) -> None:
        """Change the weights; none of a gradient that somebody else wants."""
        return


class ExactGradient(Watched, OneStep):
    """Steps 3 to 5 for one mini-batch: leaves in `.grad` the gradient of sum(loss) / sum(weight) over the whole
    mini-batch, exactly; `total` holds the sums. Over several ranks: `OverRanks`.

    Dropout is keyed by (seed, step). micro_batch: rows put through the model at a time; None: all at once. answers:
    whether a loss that is not finite is an answer, too; else it raises NonFiniteLoss, before any update, with the rows
    to blame. For what else can go wrong it is used in a `with` block: see `Watched`.
    """

    def take(self) -> None:
        with IN_TURN:  # it seeds and draws
            super().take()

    def __init__(
        self,
        objective: Objective,
        batch: Batch,
        micro_batch: int | None = None,
        ranks: Ranks = ALONE,
        *,
        seed: int = 0,
        step: int = 0,
        answers: bool = False,
    ) -> None:
        self.objective, self.batch, self.micro_batch, self.ranks = objective, batch, micro_batch, ranks
        self.seed, self.step, self.answers, self.total = seed, step, answers, NOTHING
        self.recorded: Callable[[ExactGradient], Iterable[Batch]] | None = None  # what is left to do: see `Recorded`

    def choose(self) -> Batch:
        """The mini-batch that it is of."""
        self.dropout = dropout_key(self.seed, self.step, self.ranks.rank)
        return self.batch

    def parts(self, batch: Batch) -> Iterable[Batch]:
        """The rows on the model's device: all at once, or in parts of `micro_batch` rows."""
        objective, m, alone = self.objective, len(batch.rows), self.ranks.size == 1
        self.batch, self.part, self.total, self.passing = batch, batch, NOTHING, m > 0
        most = max(1, m if alone else self.ranks.most(m))
        self.size = most if self.micro_batch is None else min(self.micro_batch, most)
        # Alone and undivided, the mean itself is differentiated, so the bits are those of the plain textbook loop.
        self.whole = alone and self.size >= m
        for parameter in objective.parameters:
            parameter.grad = None
        self.buffers = [b.detach().clone() for b in objective.buffers]
        objective.seed_dropout(self.dropout)
        if not self.whole or objective.guarded:
            return self.in_parts(batch)
        self.part = objective.to_device(batch)
        return () if not m else (self.part,) if self.recorded is None else self.recorded(self)

    def in_parts(self, batch: Batch) -> Iterator[Batch]:
        """Some rows at a time; behind the last of them, the one division of the gradient of a sum."""
        m = len(batch.rows)
        for start in range(0, m, self.size):
            some = batch if self.size >= m else rows(batch, slice(start, min(start + self.size, m)))
            self.part = self.objective.to_device(some)
            yield self.part
        if not self.whole:
            if (weight := float(self.total.weight)) == 0:
                self.forget()
            if gradients := self.gradients():
                torch._foreach_div_(gradients, weight)
        self.ended()

    def ended(self) -> None:
        """The pass is over. Raises where a gradient is not finite, and that is looked for."""
        if self.objective.guarded and not self.answers and not finite(self.gradients()):
            raise non_finite(self.objective, self.batch, self.step, look=False, what="gradient")
        self.passing = False

    def backward(self, sums: LossSums) -> None:
        """Step 5 for the part that was given out last; its sums are added to `total`."""
        loss = sums.loss
        share = sums.weight.to(loss.dtype).reciprocal() if self.whole else torch.ones_like(loss)  # d mean / d sum
        if loss.device.type != "cpu":
            self.backward_on_device(loss, share)
        elif not math.isfinite(loss.item()) and not self.answers:
            raise non_finite(self.objective, self.part, self.step)
        elif math.isfinite(share.item()):  # else the weight is 0, and nothing counts
            differentiate((loss,), (share,))
        own = LossSums(loss.detach(), sums.weight.detach(), sums.known, sums.seen)
        self.total = own if self.total is NOTHING else self.total + own
        self.passing = not self.whole or self.objective.guarded  # whose gradient is looked at, too

    def backward_on_device(self, loss: Tensor, share: Tensor) -> None:
        """The same on an accelerator: on a GPU the check's answer travels while the backward pass is being queued."""
        answers = torch.isfinite(torch.stack([loss.detach(), share])).to("cpu", non_blocking=loss.is_cuda)
        differentiate((loss,), (share,))
        if loss.is_cuda:
            torch.cuda.current_stream(loss.device).synchronize()
        if not answers[0] and not self.answers:
            raise non_finite(self.objective, self.part, self.step)
        if not answers[1]:  # the weight is 0, and nothing counts
            self.forget()

    def gradients(self) -> list[Tensor]:
        """All that there are."""
        return [p.grad for p in self.objective.parameters if p.grad is not None]


def update(
    t: Training, rates: Sequence[float] | None = None, *, again: Closure | None = None, of: Moved | None = None
) -> float:
    """Step 6: penalties and clipping on the exact gradient, then the optimizer. Returns the learning rate used.

    rates: of each group of the optimizer; (): as they are; None: by the schedule. again: for an optimizer that
    evaluates the loss several times, as LBFGS. of: one of several optimizers, in a step of the caller's own.
    """
    moved, groups = t if of is None else of, t.state.optimizer.param_groups
    if rates is None:
        follow(t.state.optimizer, t.schedule, t.progress(), 0.5 ** len(t.state.went_back))
    else:
        for group, rate in zip(groups, rates, strict=False):
            group["lr"] = rate
    if t.l1:
        add_l1(moved.decayed, t.l1)
    if t.clip_norm is not None or t.clip_value is not None:
        clip(moved.parameters, norm=t.clip_norm, value=t.clip_value)
    moved.move(again)
    if of is None and t.state.average is not None:
        update_average(t.state.average, t.weights(), average_weight(t.ema, t.state.step), t.as_last)
    return float(groups[0]["lr"])
