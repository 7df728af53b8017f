"""One step of the algorithm, and batch -> exact gradient: the whole mini-batch's, whatever the micro-batch size."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Self

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward as run_backward

from handful.base.keys import key
from handful.data.base import Batch
from handful.training.objective import LossSums, Objective
from handful.training.process.parallel import ALONE, Ranks
from handful.training.special.coupling import rows
from handful.training.watch.guards import finite, non_finite, what_failed

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


class ExactGradient(OneStep):
    """Steps 3 to 5 for one mini-batch: leaves in `.grad` the gradient of sum(loss) / sum(weight) over the whole
    mini-batch, exactly; `total` holds the sums. Over several ranks: `OverRanks`.

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
        self.total, self.passing = NOTHING, False  # passing: in the middle of a pass

    def choose(self) -> Batch:
        """The mini-batch that it is of."""
        return self.batch

    def parts(self, batch: Batch) -> Iterable[Batch]:
        """The rows on the model's device: all at once, or in parts of `micro_batch` rows."""
        objective, m, alone = self.objective, len(batch.rows), self.ranks.size == 1
        self.batch, self.total, self.passing = batch, NOTHING, m > 0
        most = max(1, m if alone else self.ranks.most(m))
        self.size = most if self.micro_batch is None else min(self.micro_batch, most)
        # Alone and undivided, the mean itself is differentiated, so the bits are those of the plain textbook loop.
        self.whole = alone and self.size >= m
        for parameter in objective.parameters:
            parameter.grad = None
        self.buffers = [b.detach().clone() for b in objective.buffers]
        seed_dropout(self.seed, self.step, self.ranks.rank, objective.device)
        if not self.whole or objective.guarded:
            return self.in_parts(batch)
        self.part = objective.to_device(batch)
        return (self.part,) if m else ()

    def in_parts(self, batch: Batch) -> Iterator[Batch]:
        """Some rows at a time; behind the last of them, the one division of the gradient of a sum."""
        m = len(batch.rows)
        for start in range(0, m, self.size):
            some = batch if self.size >= m else rows(batch, slice(start, min(start + self.size, m)))
            self.part = self.objective.to_device(some)
            yield self.part
        if not self.whole:
            weight = float(self.total.weight)
            if weight == 0:
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
        if self.total is NOTHING:
            self.total = LossSums(loss.detach(), sums.weight.detach(), sums.known, sums.seen)
        else:
            self.total = self.total + sums
        self.passing = not self.whole or self.objective.guarded  # whose gradient is looked at, too

    def backward_on_device(self, loss: Tensor, share: Tensor) -> None:
        """The same on an accelerator: the check's answer travels while the backward pass is being queued."""
        answers = torch.isfinite(torch.stack([loss.detach(), share])).to("cpu", non_blocking=True)
        differentiate((loss,), (share,))
        torch.accelerator.current_stream().synchronize()
        if not answers[0] and not self.answers:
            raise non_finite(self.objective, self.part, self.step)
        if not answers[1]:  # the weight is 0, and nothing counts
            self.forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None and self.passing:
            self.passing = False
            self.undone(error)

    def undone(self, error: BaseException) -> None:
        """No step was made. Raises what it was, in words."""
        self.put_back()
        what_failed(self, error)

    def put_back(self) -> None:
        """Buffers (running statistics) are as they were."""
        for buffer, saved in zip(self.objective.buffers, self.buffers, strict=True):
            buffer.detach().copy_(saved)

    def forget(self) -> None:
        """Leave no gradients: of a mini-batch in which nothing counts, as where all targets are ignored, an optimizer
        then changes nothing."""
        for parameter in self.objective.parameters:
            parameter.grad = None

    def gradients(self) -> list[Tensor]:
        """All that there are."""
        return [p.grad for p in self.objective.parameters if p.grad is not None]


def seed_dropout(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Key the generators that dropout draws from by (seed, step, rank): no random state needs to be saved."""
    word = key("dropout", seed, step, rank) >> 1
    torch.default_generator.manual_seed(word)
    if device.type == "cuda":
        torch.cuda.manual_seed(word)


def state_of_dropout(device: torch.device) -> Tensor:
    """The state of the generator that dropout draws from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.default_generator.get_state()
