"""What can go wrong in a step, in words: a loss that is not finite, memory that runs out."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from handful.base.errors import StepError, some
from handful.data.base import Batch
from handful.losses.loss import IGNORED

T = TypeVar("T")
ZERO_WEIGHT = "the weights of all rows of a mini-batch are zero, so it has no mean loss; drop such rows"


class NonFiniteLoss(StepError):
    """The loss of a mini-batch is NaN or infinite; the update was not made."""


class OutOfMemory(StepError):
    """Not even a micro-batch of one row fits in memory."""


class TooLarge(Exception):
    """A micro-batch did not fit in memory; `micro_batch` is the size to try next. Nothing was changed."""

    def __init__(self, micro_batch: int) -> None:
        super().__init__(micro_batch)
        self.micro_batch = micro_batch


def is_out_of_memory(error: BaseException) -> bool:
    """By type, and for the CPU's allocator, which has no type of its own, by its exact words."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return type(error) is RuntimeError and "DefaultCPUAllocator: can't allocate memory" in str(error)


def in_parts_that_fit(micro_batch: int | None, compute: Callable[[int | None], T]) -> tuple[T, int | None]:
    """compute(micro_batch), again with half of it where memory runs out; and the micro-batch that fitted."""
    while True:
        try:
            return compute(micro_batch), micro_batch
        except TooLarge as error:
            micro_batch = error.micro_batch
        # Outside the except clause: its traceback would keep the failed step's tensors alive.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def non_finite(values: Tensor | None, batch: Batch, step: int) -> NonFiniteLoss:
    """The error that names the rows to blame. values: the loss of each row, where it is known."""
    where = f"among rows {some(batch.rows.tolist(), 5)}"
    if values is not None and len(values) == len(batch):
        bad = ~torch.isfinite(values.detach().flatten(1).sum(1) if values.ndim > 1 else values.detach()).cpu()
        if bad.any():
            where = f"for rows {some(batch.rows[bad.numpy()].tolist(), 5)}"
    wrong = next((name for name, v in batch.columns.items() if _not_finite(v)), None)
    target, cause = batch.columns.get("y"), "a smaller lr or clip_norm may help"
    if wrong is not None:
        cause = f"column '{wrong}' itself holds NaN or infinity there"
    elif isinstance(target, Tensor) and bool((target == IGNORED).all()):
        cause = (
            f"all its targets are {IGNORED}, of which a loss that returns one number has no mean: let it return values"
        )
    return NonFiniteLoss(
        f"the loss is not finite at step {step}, {where} of the training data; {cause}; no update was made"
    )


def _not_finite(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all())
