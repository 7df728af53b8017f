"""What can go wrong in a step, in words: a loss that is not finite, memory that runs out."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from handful.base.errors import StepError, some
from handful.data.base import Batch
from handful.losses.loss import IGNORED
from handful.training.objective import Objective
from handful.transform.rows import original_rows

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


def non_finite(objective: Objective, batch: Batch, step: int, *, look: bool = True) -> NonFiniteLoss:
    """The error that names the rows to blame, by their numbers in the data that the user gave: those that hold NaN or
    infinity and have such a loss; else those of such a loss. look: whether the model is asked for the loss of each."""
    lost = _not_finite(objective.values(batch) if look else None, len(batch))
    lost = lost if lost.any() else ~lost
    held = {name: bad for name, v in batch.tensors().items() if (bad := _not_finite(v, len(batch)) & lost).any()}
    wrong = next(iter(held), None)
    bad = lost if wrong is None else held[wrong]
    named = batch.rows[bad.numpy()]
    source = objective.source
    numbers = named if source is None else original_rows(source, named)
    where = f"{'among' if bad.all() else 'for'} rows {some(sorted(numbers.tolist()), 5)}"
    target, cause = batch.columns.get("y"), "a smaller lr or clip_norm may help"
    if wrong is not None:
        cause = f"column '{wrong}' itself holds NaN or infinity there"
    elif isinstance(target, Tensor) and bool((target == IGNORED).all()):
        cause = (
            f"all its targets are {IGNORED}, of which a loss that returns one number has no mean: let it return values"
        )
    return NonFiniteLoss(
        f"the loss is not finite at step {step}, {where} of {'the training data' if source is None else source.name} "
        f"(rows count from 0); {cause}; no update was made"
    )


def _not_finite(value: Tensor | None, rows: int) -> Tensor:
    """Which of so many rows hold NaN or infinity, bool [rows]; none where there is not a value for each of them."""
    if value is None or not value.is_floating_point() or value.shape[:1] != (rows,):
        return torch.zeros(rows, dtype=torch.bool)
    return (~torch.isfinite(value.detach().reshape(rows, -1)).all(1)).cpu()
