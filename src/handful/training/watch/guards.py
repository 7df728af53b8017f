"""What can go wrong in a step, in words: a loss that is not finite, memory that runs out."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from types import TracebackType
from typing import Self, TypeVar

import torch
from torch import Tensor

from handful.base.errors import MISTAKES, HandfulError, StepError, some
from handful.base.machine import wide
from handful.base.plan import Row
from handful.base.shards import is_shard, whole
from handful.data.base import Batch, Source
from handful.losses.loss import IGNORED
from handful.training.objective import Objective
from handful.training.special.coupling import mode_coupling
from handful.transform.rows import original_rows

T = TypeVar("T")
ONE_ROW = "one row at a time does not fit in memory; use a smaller model or shorter rows"
ZERO_WEIGHT = "the weights of all rows of a mini-batch are zero, so it has no mean loss; drop such rows"


class NonFiniteLoss(StepError):
    """The loss of a mini-batch, or its gradient, is NaN or infinite; the update was not made.

    in_rows: the rows themselves hold NaN or infinity; in_weights: the weights do, since an update before.
    """

    in_rows = in_weights = False


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


class Watched:
    """A pass of some rows through a model, inside a `with` block: what ends it there is raised in words, with the
    buffers (running statistics) put back: TooLarge where it may go in smaller parts, OutOfMemory where it may not."""

    objective: Objective
    size: int  # rows at a time
    buffers: list[Tensor]  # as they were before it
    part: Batch  # the rows that were given out last
    step: int  # taken before it
    passing = False  # in the middle of it

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
        for buffer, saved in zip(self.objective.buffers, self.buffers, strict=True):
            buffer.detach().copy_(saved)

    def forget(self) -> None:
        """Leave no gradients: of a mini-batch in which nothing counts, as where all targets are ignored, an optimizer
        then changes nothing."""
        for parameter in self.objective.parameters:
            parameter.grad = None


def what_failed(step: Watched, error: BaseException) -> None:
    """Raise what went wrong in the middle of a step, in words; TooLarge where it may go in smaller parts. Nothing,
    where the error says it itself."""
    objective, size = step.objective, step.size
    if is_out_of_memory(error):
        step.forget()
        if objective.coupling:
            raise OutOfMemory(
                f"a mini-batch of {size} rows does not fit in memory, and it cannot be cut into parts because "
                f"{objective.coupling}; use a smaller batch"
            ) from None
        if size == 1:
            raise OutOfMemory(ONE_ROW) from None
        raise TooLarge((size + 1) // 2) from None
    match error:
        case ValueError() if "more than 1 value per channel" in str(error):
            raise HandfulError(
                f"{mode_coupling(objective.model) or 'a layer normalises over the rows of a batch'}, and one row has "
                "no spread: let batch and micro_batch be at least 2"
            ) from error
        case RuntimeError() if "backward through the graph a second time" in str(error):
            raise HandfulError(
                f"the model ({type(objective.model).__name__}) keeps a Tensor of the mini-batch before with its "
                "graph, as a hidden state may be: keep state.detach()"
            ) from error
        case RuntimeError() if "does not require grad" in str(error):
            raise HandfulError(
                f"the loss of step {step.step + 1:,} has no gradient: the model or the loss detaches it, or, since the "
                "run began, a callback has frozen all weights or turned gradients off"
            ) from error
        case AttributeError() | TypeError() if kind := _several(objective, step.part):
            raise HandfulError(
                f"the model ({type(objective.model).__name__}) gives a {kind} in training mode, and one Tensor in "
                "evaluation mode, by which its loss was chosen: pass loss=, a callable (output, target) that takes both"
            ) from error
        case HandfulError() | KeyboardInterrupt():
            return
    numbers = original_rows(objective.source, step.part.rows)
    error.add_note(f"handful: at step {step.step + 1:,}, rows {some(sorted(numbers.tolist()), 5)} (counted from 0)")


def _several(objective: Objective, part: Batch) -> str:
    """What the model gives for these rows, where that is no Tensor and the loss takes one; else ""."""
    with torch.no_grad(), suppress(*MISTAKES):
        output = None if objective.whole else objective.forward(part)
        return "" if output is None or torch.is_tensor(output) else type(output).__name__
    return ""


def non_finite(
    objective: Objective, batch: Batch, step: int, *, look: bool = True, what: str = "loss"
) -> NonFiniteLoss:
    """The error that names the rows to blame, by their numbers in the data that the user gave: those that hold NaN or
    infinity and have such a loss; else those of such a loss. step: taken before; look: whether the model is asked for
    the loss of each; what: is not finite, the loss or the gradient."""
    lost = _not_finite(objective.values(batch) if look else None, len(batch))
    lost = lost if lost.any() else ~lost
    held = {name: bad for name, v in batch.tensors().items() if (bad := _not_finite(v, len(batch)) & lost).any()}
    wrong = next(iter(held), None)
    bad = lost if wrong is None else held[wrong]
    source = objective.source
    numbers = original_rows(source, batch.rows[bad.numpy()])
    rows = f"rows {some(sorted(numbers.tolist()), 5)}"
    where = f"for row {int(numbers[0])}" if len(numbers) == 1 else f"{'among' if bad.all() else 'for'} {rows}"
    in_weights = not finite(objective.parameters)
    target, cause = batch.columns.get("y"), "a smaller lr or clip_norm may help"
    if wrong is not None:
        cause = f"column '{wrong}' itself holds NaN or infinity there"
    elif in_weights:
        cause = (
            "the weights themselves are not finite since an update before it; a smaller lr, clip_norm or "
            "on_nonfinite='rollback' may help"
        )
    elif torch.is_tensor(target) and bool((target == IGNORED).all()):
        cause = (
            f"all its targets are {IGNORED}, of which a loss that returns one number has no mean: let it return values"
        )
    error = NonFiniteLoss(
        f"the {what} is not finite at step {step + 1:,}, {where} of "
        f"{'the training data' if source is None else source.name} (rows count from 0); {cause}; no update was made"
    )
    error.in_rows, error.in_weights = wrong is not None, in_weights
    return error


def not_finite_in(batches: Iterable[Batch], source: Source) -> str | None:
    """Which column of rows of a source holds NaN or infinity, as the model gets it, and in which; None where none."""
    found: dict[str, list[int]] = {}
    for batch in batches:
        for name, value in batch.tensors().items():
            if (bad := _not_finite(value, len(batch))).any():
                found.setdefault(name, []).extend(original_rows(source, batch.rows[bad.numpy()]).tolist())
    for name, rows in found.items():
        return f"column '{name}' holds NaN or infinity in rows {some(rows, 5)} of {source.name} (rows count from 0)"
    return None


def all_finite(tensors: Iterable[Tensor]) -> Tensor:
    """Whether all values are finite, 0-d. (A sum of squares can overflow where no value does; the largest value
    cannot.)"""
    values = [t.detach() for t in tensors if t.numel() and t.is_floating_point()]
    plain, shards = [v for v in values if not is_shard(v)], [v for v in values if is_shard(v)]
    largest = [wide(v) for v in torch._foreach_norm(plain, torch.inf)] if plain else []
    largest += [wide(whole(v).abs().max()) for v in shards]  # one at a time; a rank may hold none of its rows
    return torch.isfinite(torch.stack(largest or [torch.zeros(())])).all()


def finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all values are finite."""
    return bool(all_finite(tensors))


FAR, LONG = 10.0, 20  # times the loss at the start; logged moments


def diverged(history: Sequence[Row]) -> str | None:
    """In words, when it has just become so: the training loss has been far above that of its start for long.

    >>> rows = [{"step": k, "train_loss": 2.0 if k < 5 else 50.0} for k in range(40)]
    >>> [k for k in range(41) if diverged(rows[:k])], diverged(rows[:25])
    ([25], 'training has diverged: its loss, 2 at the start, has been more than 10 times that for 20 logged ...')
    """
    start = next((row["train_loss"] for row in history if "train_loss" in row), 0.0)
    last = list(islice((row["train_loss"] for row in reversed(history) if "train_loss" in row), LONG + 1))
    if len(last) <= LONG or start <= 0 or min(last[:LONG]) <= FAR * start or last[LONG] > FAR * start:
        return None
    return (
        f"training has diverged: its loss, {start:.4g} at the start, has been more than {FAR:g} times that for {LONG} "
        f"logged moments and is {last[0]:.4g} now; a smaller lr or clip_norm may help"
    )


def _not_finite(value: Tensor | None, rows: int) -> Tensor:
    """Which of so many rows hold NaN or infinity, bool [rows]; none where there is not a value for each of them."""
    if value is None or not value.is_floating_point() or value.shape[:1] != (rows,):
        return torch.zeros(rows, dtype=torch.bool)
    return (~torch.isfinite(value.detach().reshape(rows, -1)).all(1)).cpu()
