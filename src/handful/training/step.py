"""One step of the algorithm, and batch -> exact gradient: the whole mini-batch's, whatever the micro-batch size or the
number of ranks."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward as run_backward

from handful.base.errors import HandfulError
from handful.base.keys import key
from handful.data.base import Batch
from handful.training.objective import LossSums, Objective
from handful.training.process.exchange import Said
from handful.training.process.parallel import ALONE, Ranks
from handful.training.special.coupling import mode_coupling, rows
from handful.training.watch.guards import (
    NonFiniteLoss,
    OutOfMemory,
    TooLarge,
    finite,
    in_parts_that_fit,
    is_out_of_memory,
    non_finite,
)

NOTHING = LossSums(torch.zeros(()), torch.zeros(()))
as_double = partial(torch.tensor, dtype=torch.float64)


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


def differentiate(loss: Tensor, share: Tensor) -> None:
    """The gradient of loss * share, both 0-d and of one dtype: what `(loss * share).backward()` leaves, without that
    product, which costs a twentieth of a small step. (`loss.backward(share)` has torch import sympy, to compare their
    shapes.)"""
    run_backward((loss,), (share,), False, False, (), allow_unreachable=True, accumulate_grad=True)


class ExactGradient(OneStep):
    """Steps 3 to 5 for one mini-batch: leaves in `.grad` the gradient of sum(loss) / sum(weight) over the whole
    mini-batch of all ranks, exactly; `total` holds the sums, over all ranks once the pass is over.

    Dropout is keyed by (seed, step). micro_batch: rows put through the model at a time; None: all at once. answers:
    whether a loss that is not finite is an answer, too.
    Inside a `with` block it raises NonFiniteLoss, before any update, with the rows to blame; TooLarge where memory runs
    out, with buffers (running statistics) put back; OutOfMemory when one row does not fit.
    """

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
        self.seed, self.step, self.answers = seed, step, answers
        self.total = NOTHING
        self.passing = self.told = False  # in the middle of a pass; its end was told to the other ranks

    def choose(self) -> Batch:
        """The mini-batch that it is of."""
        return self.batch

    def parts(self, batch: Batch) -> Iterable[Batch]:
        """The rows on the model's device: all at once, or in parts of `micro_batch` rows."""
        objective, m = self.objective, len(batch.rows)
        self.batch, self.asked, self.told = batch, 0, False  # asked: times that the gradient was asked for again
        self.bad: Batch | None = None  # of several ranks: the first part of this one whose loss is not finite
        self.counts, self.passing = True, m > 0
        most = max(1, m if self.ranks.size == 1 else self.ranks.most(m))
        self.size = most if self.micro_batch is None else min(self.micro_batch, most)
        # Alone and undivided, the mean itself is differentiated, so the bits are those of the plain textbook loop.
        self.whole = self.size >= m and self.ranks.size == 1
        self.total = NOTHING
        for parameter in objective.parameters:
            parameter.grad = None
        self.buffers = [b.detach().clone() for b in objective.buffers]
        seed_dropout(self.seed, self.step, self.ranks.rank, objective.device)
        if not self.whole or objective.guarded:
            return self._in_parts(batch)
        self.part = objective.to_device(batch)
        return (self.part,) if m else ()

    def _in_parts(self, batch: Batch) -> Iterator[Batch]:
        m = len(batch.rows)
        passes = self.ranks.passes(m)
        for start in range(0, passes, self.size):
            self.counts = start < m  # or it is a pass that only other ranks need
            some = slice(min(start, m - 1), min(start + self.size, m))
            self.part = self.objective.to_device(batch if self.size >= m else rows(batch, some))
            if start + self.size >= passes and self.ranks.size > 1:
                self.ranks.part_is_last(self.objective.parameters)
            yield self.part
        if self.ranks.size > 1:
            if self._add_up_over_ranks(no_memory=False):
                raise torch.OutOfMemoryError("memory ran out on another rank")
        elif not self.whole:
            self._divide(float(self.total.weight))
        if self.objective.guarded and not self.answers and not finite(self._gradients()):
            raise non_finite(self.objective, batch, self.step, look=False, what="gradient")
        self.passing = False

    def backward(self, sums: LossSums) -> None:
        """Step 5 for the part that was given out last; its sums are added to `total`."""
        loss = sums.loss
        if self.whole:
            self._backward_alone(loss, sums.weight.to(loss.dtype).reciprocal())  # d mean / d sum
            self.total = LossSums(loss.detach(), sums.weight.detach(), sums.known, sums.seen)
            self.passing = self.objective.guarded  # whose gradient is looked at, too
            return
        if not self.counts:
            (loss * 0).backward()  # type: ignore[no-untyped-call]
            return
        if self.ranks.size == 1:
            self._backward_alone(loss, torch.ones_like(loss))
        else:  # a rank that gave up alone would leave the others waiting: all look at the total
            if self.bad is None and not math.isfinite(loss.item()):
                self.bad = self.part
            loss.backward()  # type: ignore[no-untyped-call]
        self.total = sums.detached() if self.total is NOTHING else self.total + sums

    def _backward_alone(self, loss: Tensor, share: Tensor) -> None:
        if loss.device.type == "cpu":
            if not math.isfinite(loss.item()) and not self.answers:
                raise non_finite(self.objective, self.part, self.step)
            if math.isfinite(share.item()):  # else the weight is 0, and nothing counts
                differentiate(loss, share)
            return
        # on an accelerator the check's answer travels while the backward pass is being queued
        answers = torch.isfinite(torch.stack([loss.detach(), share])).to("cpu", non_blocking=True)
        differentiate(loss, share)
        torch.accelerator.current_stream().synchronize()
        if not answers[0] and not self.answers:
            raise non_finite(self.objective, self.part, self.step)
        if not answers[1]:  # the weight is 0, and nothing counts
            self.forget()

    def again(self) -> float:
        """The mean loss of the same mini-batch where the weights are now, and its gradient, with the same dropout: the
        closure of an optimizer such as LBFGS. It asks for the gradient that is known first. A loss that is not finite
        is an answer to it: the next step names the rows."""
        self.asked += 1
        if self.asked == 1:
            return _mean(self.total)
        now = ExactGradient(self.objective, self.batch, self.micro_batch, seed=self.seed, step=self.step, answers=True)
        now.take()
        return _mean(now.total)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None or not self.passing:
            return
        self.passing = False
        no_memory = is_out_of_memory(error)
        if no_memory and self.ranks.sharding:  # in the middle of a pass, which is of all ranks
            raise HandfulError("memory ran out, and the ranks of a sharded model cannot take the step again: give "
                               f"a micro_batch below {self.size}") from None  # fmt: skip
        try:
            if no_memory and self.ranks.size > 1 and not self.told:
                self._add_up_over_ranks(no_memory)
        finally:
            self.put_back()
        if no_memory:
            self.forget()
            if self.objective.coupling:
                raise OutOfMemory(
                    f"a mini-batch of {self.size} rows does not fit in memory, and it cannot be cut into parts because "
                    f"{self.objective.coupling}; use a smaller batch"
                ) from None
            if self.size == 1:
                raise OutOfMemory(
                    "one row at a time does not fit in memory; use a smaller model or shorter rows"
                ) from None
            raise TooLarge((self.size + 1) // 2) from None
        match error:
            case ValueError() if "more than 1 value per channel" in str(error):
                raise HandfulError(
                    f"{mode_coupling(self.objective.model) or 'a layer normalises over the rows of a batch'}, and one "
                    "row has no spread: let batch and micro_batch be at least 2"
                ) from error
            case RuntimeError() if "backward through the graph a second time" in str(error):
                raise HandfulError(
                    f"the model ({type(self.objective.model).__name__}) keeps a Tensor of the mini-batch before with "
                    "its graph, as a hidden state may be: keep state.detach()"
                ) from error

    def put_back(self) -> None:
        """No step was made: buffers (running statistics) are as they were."""
        for buffer, saved in zip(self.objective.buffers, self.buffers, strict=True):
            buffer.detach().copy_(saved)

    def forget(self) -> None:
        """Leave no gradients: of a mini-batch in which nothing counts, as where all targets are ignored, an optimizer
        then changes nothing."""
        for parameter in self.objective.parameters:
            parameter.grad = None

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.objective.parameters if p.grad is not None]

    def _divide(self, weight: float) -> None:
        """From the gradient of a sum to that of the mean."""
        if weight == 0:
            self.forget()
        if grads := self._gradients():
            torch._foreach_div_(grads, weight)

    def _add_up_over_ranks(self, no_memory: bool) -> bool:
        """From the gradient of a sum on each rank to that of the mean over all of them; whether one has no memory."""
        own, self.told = self.total, True
        said = self.ranks.add_up(
            self.objective.parameters, Said(float(own.loss), float(own.weight), own.metrics, no_memory)
        )
        if said.out_of_memory:
            return True
        self.total = LossSums(as_double(said.loss), as_double(said.weight), said.metrics)
        if not math.isfinite(said.loss):
            together = self.ranks.sharding is not None  # all ask the model, or none
            bad = self.bad or (self.part if together else self.batch)
            found = non_finite(self.objective, bad, self.step, look=together or self.bad is not None)
            named = [text for text in self.ranks.gather(str(found) if self.bad is not None else "") if text]
            error = NonFiniteLoss(named[0]) if named else found
            error.in_rows, error.in_weights = found.in_rows, found.in_weights
            raise error
        if said.weight == 0:
            self.forget()
        return False


def _mean(sums: LossSums) -> float:
    """As a loss's own mean has it, in its dtype."""
    return float(sums.loss / sums.weight.to(sums.loss.dtype))


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
    with ExactGradient(objective, batch, micro_batch, ranks, seed=seed, step=step) as exact:
        exact.take()
    return exact


def gradient(
    objective: Objective, batch: Batch, micro_batch: int | None = None, *, seed: int = 0, step: int = 0
) -> LossSums:
    """`exact_gradient`, and its sums: what probes time and measure."""
    return exact_gradient(objective, batch, micro_batch, seed=seed, step=step).total


def gradient_that_fits(
    objective: Objective,
    batch: Batch,
    micro_batch: int | None,
    ranks: Ranks = ALONE,
    *,
    seed: int = 0,
    step: int = 0,
) -> tuple[ExactGradient, int | None]:
    """`exact_gradient`, and again in smaller parts where memory runs out; and the micro-batch that fitted."""
    return in_parts_that_fit(
        micro_batch, lambda part: exact_gradient(objective, batch, part, ranks, seed=seed, step=step)
    )


def add_l1(parameters: list[nn.Parameter], l1: float) -> None:
    """Add the subgradient of l1 * sum |w| to the gradients: l1 * sign(w), 0 at 0 (Tibshirani 1996)."""
    for p in parameters:
        if p.grad is not None:
            p.grad.add_(p.detach().sign(), alpha=l1)


def seed_dropout(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Key the generators that dropout draws from by (seed, step, rank): no random state needs to be saved."""
    word = key("dropout", seed, step, rank) >> 1
    torch.default_generator.manual_seed(word)
    if device.type == "cuda":
        torch.cuda.manual_seed(word)
