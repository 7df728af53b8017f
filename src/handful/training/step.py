"""Batch -> one exact update: the whole mini-batch's, whatever the micro-batch size or the number of ranks."""

import math
from collections.abc import Iterable, Iterator
from functools import partial
from types import TracebackType

import torch
from torch import Tensor, nn

from handful.base.errors import HandfulError
from handful.base.keys import key
from handful.data.base import Batch
from handful.training.coupling import mode_coupling, rows
from handful.training.guards import (
    NonFiniteLoss,
    OutOfMemory,
    TooLarge,
    finite,
    in_parts_that_fit,
    is_out_of_memory,
    non_finite,
)
from handful.training.objective import LossSums, Objective
from handful.training.process.exchange import Said
from handful.training.process.parallel import ALONE, Ranks

NOTHING = LossSums(torch.zeros(()), torch.zeros(()))
as_double = partial(torch.tensor, dtype=torch.float64)


class ExactGradient:
    """Steps 3 to 5 for one mini-batch: leaves in `.grad` the gradient of sum(loss) / sum(weight) over the whole
    mini-batch of all ranks, exactly; `total` holds the sums, over all ranks once the block is left.

    Dropout is keyed by (seed, step). micro_batch: rows put through the model at a time; None: all at once.
    Raises NonFiniteLoss, before any update, with the rows to blame; TooLarge where memory runs out, with buffers
    (running statistics) put back; OutOfMemory when one row does not fit.
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
    ) -> None:
        self.objective, self.batch, self.ranks, self.step = objective, batch, ranks, step
        most = max(1, len(batch.rows) if ranks.size == 1 else ranks.most(len(batch.rows)))
        self.size = most if micro_batch is None else min(micro_batch, most)
        # Alone and undivided, the mean itself is differentiated, so the bits are those of the plain textbook loop.
        self.whole = self.size >= len(batch.rows) and ranks.size == 1
        self.total = NOTHING
        self.asked = 0  # times that the gradient was asked for again
        self.key = seed, step, ranks.rank
        self.part, self.counts = batch, True
        self.bad: Batch | None = None  # of several ranks: the first part of this one whose loss is not finite
        for parameter in objective.parameters:
            parameter.grad = None
        self.buffers = [b.detach().clone() for b in objective.buffers]
        seed_dropout(*self.key, objective.device)

    def parts(self) -> Iterable[Batch]:
        """The rows on the model's device: all at once, or in parts of `micro_batch` rows."""
        if self.whole:
            self.part = self.objective.to_device(self.batch)
            return (self.part,) if len(self.batch.rows) else ()
        return self._in_parts()

    def _in_parts(self) -> Iterator[Batch]:
        m = len(self.batch.rows)
        passes = self.ranks.passes(m)
        for start in range(0, passes, self.size):
            self.counts = start < m  # or it is a pass that only other ranks need
            some = slice(min(start, m - 1), min(start + self.size, m))
            part = self.batch if self.size >= m else rows(self.batch, some)
            self.part = self.objective.to_device(part)
            if start + self.size >= passes and self.ranks.size > 1:
                self.ranks.part_is_last(self.objective.parameters)
            yield self.part

    def backward(self, sums: LossSums) -> None:
        """Step 5 for the part that was given out last; its sums are added to `total`."""
        loss = sums.loss
        share = sums.weight.to(loss.dtype).reciprocal() if self.whole else None  # d mean / d sum
        if not self.counts:
            (loss * 0).backward()  # type: ignore[no-untyped-call]
            return
        if self.ranks.size > 1:  # a rank that gave up alone would leave the others waiting: all look at the total
            if self.bad is None and not math.isfinite(loss.item()):
                self.bad = self.part
            loss.backward()  # type: ignore[no-untyped-call]
        elif loss.device.type == "cpu":
            if not math.isfinite(loss.item()):
                raise non_finite(self.objective, self.part, self.step)
            if share is None:
                loss.backward()  # type: ignore[no-untyped-call]
            elif math.isfinite(share.item()):  # else the weight is 0, and nothing counts
                # a gradient that is handed to `backward` has torch import sympy, to compare its shape
                (loss * share).backward()  # type: ignore[no-untyped-call]
        else:  # on an accelerator the check's answer travels while the backward pass is being queued
            answers = torch.isfinite(torch.stack([loss.detach(), loss.detach() if share is None else share]))
            answers = answers.to("cpu", non_blocking=True)
            (loss if share is None else loss * share).backward()  # type: ignore[no-untyped-call]
            torch.accelerator.current_stream().synchronize()
            if not answers[0]:
                raise non_finite(self.objective, self.part, self.step)
            if not answers[1]:  # the weight is 0, and nothing counts
                self.forget()
        if self.total is NOTHING:
            self.total = LossSums(loss.detach(), sums.weight.detach(), sums.metrics)
        else:
            self.total = self.total + sums

    def again(self) -> float:
        """The mean loss of the same mini-batch where the weights are now, and its gradient, with the same dropout: the
        closure of an optimizer such as LBFGS. It asks for the gradient that is known first. A loss that is not finite
        is an answer to it: the next step names the rows."""
        self.asked += 1
        if self.asked == 1:
            return _mean(self.total)
        first, self.total = self.total, NOTHING
        self.forget()
        seed_dropout(*self.key, self.objective.device)
        for part in self.parts():
            sums = self.objective.sums(part, metrics=False)
            share = sums.weight.to(sums.loss.dtype).reciprocal() if self.whole else None
            sums.loss.backward(share)  # type: ignore[no-untyped-call]
            self.total = sums.detached() if self.total is NOTHING else self.total + sums
        if not self.whole:
            self._divide(float(self.total.weight))
        now, self.total = self.total, first
        return _mean(now)

    def __enter__(self) -> "ExactGradient":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        no_memory = error is not None and is_out_of_memory(error)
        if no_memory and self.ranks.sharding:  # in the middle of a pass, which is of all ranks
            raise HandfulError("memory ran out, and the ranks of a sharded model cannot take the step again: give "
                               f"a micro_batch below {self.size}") from None  # fmt: skip
        try:
            if self.ranks.size > 1 and (error is None or no_memory):
                no_memory = self._add_up_over_ranks(no_memory)
            elif error is None and not self.whole:
                self._divide(float(self.total.weight))
            if error is None and not no_memory and self.objective.guarded and not finite(self._gradients()):
                raise non_finite(self.objective, self.batch, self.step, look=False, what="gradient")
        except BaseException:
            self.put_back()
            raise
        if error is None and not no_memory:
            return
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
        elif isinstance(error, ValueError) and "more than 1 value per channel" in str(error):
            raise HandfulError(
                f"{mode_coupling(self.objective.model) or 'a layer normalises over the rows of a batch'}, and one row "
                "has no spread: let batch and micro_batch be at least 2"
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
        own = self.total
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
        for part in exact.parts():
            exact.backward(objective.sums(part))
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
