"""The largest micro-batch: whole steps with the longest rows and the optimizer's state allocated, headroom left."""

import gc
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handful.base.errors import HandfulError
from handful.base.machine import memory_left
from handful.base.plan import Choice
from handful.base.stopwatch import part
from handful.data.base import Batch, Ragged, Rows, Source
from handful.data.series import spread_rows
from handful.plan.probe.step_time import powers_of_two
from handful.plan.probe.steps import clock, untouched, update_at_rest
from handful.report.words import say_bytes
from handful.training.special.coupling import mode_coupling, training_mode
from handful.training.step import ExactGradient
from handful.training.training import Training
from handful.training.watch.guards import OutOfMemory, TooLarge

HEADROOM = 0.9  # of the accelerator's memory; fragments and other processes have the rest
HOST_SHARE = 0.5  # of the memory that is free on the host, where running out kills the process
FEW_ROWS = 256  # a mini-batch of no more is taken to fit
LOOKED_AT = 1024  # rows among which the longest are looked for


@dataclass(frozen=True)
class Memory:
    """largest: the largest micro-batch that was run (its rows went through a whole step); status "measured" when the
    next size up failed or would leave no headroom, "bounded" when `cap` was reached and more may fit.

    per_row, fixed: bytes per row and bytes whatever the size, fitted; limit: bytes that may be used.
    """

    largest: int
    status: Literal["measured", "bounded"]
    reason: str
    per_row: float
    fixed: float
    limit: float
    tried: tuple[tuple[int, float], ...]

    @property
    def ceiling(self) -> int:
        """The most rows at once that are believed to fit: what was run, or, where time was short, the largest power
        of two whose predicted need is within the limit. Nothing above `largest` is recommended unless it is run."""
        if self.status == "measured":
            return self.largest
        size = self.largest
        while size < 1 << 40 and self.at(2 * size) <= self.limit:
            size *= 2
        return size

    def at(self, batch: int) -> float:
        """Bytes that a micro-batch of `batch` rows needs on top of what the run holds already."""
        return self.fixed + self.per_row * batch


@part("measuring memory")
def measure_memory(t: Training, cap: int, *, budget: float = 60.0) -> Memory:
    """The largest power of two (or `cap`) of rows that goes through the model at once; the run is left as it was.

    On an accelerator sizes double until the next fails or would leave less than a tenth of the memory. On the CPU,
    where trying too much kills the process, what the backward pass keeps is counted at small sizes, and a size is
    run only if twice its predicted need is within half of the free memory. budget: seconds after which no larger size
    is tried. Raises HandfulError if one row fails.
    """
    on_cuda, model = t.objective.device.type == "cuda", t.objective.model
    tried: list[tuple[int, float]] = []
    status: Literal["measured", "bounded"] = "bounded"
    why = f"{cap:,} rows were run, the most that were wanted"
    with untouched(t):
        least = 1 if mode_coupling(training_mode(model)) is None else 2
        rows = longest_rows(t, min(cap, LOOKED_AT))
        _whole_step(t, repeat(t, rows, least))  # the optimizer's state is allocated from here on
        limit = _free_on_device(t) if on_cuda else HOST_SHARE * memory_left(page_cache=False)
        started = clock(t)
        for size in [*powers_of_two(cap - 1, least), cap]:
            if len(tried) > 2 and clock(t) - started > budget:
                why = f"{tried[-1][0]:,} rows were run before the time for it was up"
                break
            per_row, fixed = _fit(tried)
            if len(tried) > 1 and fixed + per_row * size > limit:
                need = say_bytes(fixed + per_row * size)
                why, status = f"{size:,} would need {need}, more than is free", "measured"
                break
            try:
                tried.append((size, _need(t, repeat(t, rows, size))))
            except (TooLarge, OutOfMemory):
                why, status = f"{size:,} rows did not fit", "measured"
                break
        model.zero_grad(set_to_none=True)
    if on_cuda:
        gc.collect()
        torch.cuda.empty_cache()
    if not tried:
        raise HandfulError("not even one row fits in memory; use a smaller model or shorter rows")
    return Memory(tried[-1][0], status, why, *_fit(tried), limit, tuple(tried))


def memory_of_all(t: Training, cap: int, *, budget: float = 60.0) -> Memory:
    """`measure_memory` for mini-batches of `cap` rows over all ranks: each measures by itself, and that with the least
    counts. Raises HandfulError on all ranks where one fails."""
    cap = t.ranks.most_of(cap)
    if t.ranks.size == 1:
        return measure_memory(t, cap, budget=budget)
    try:
        mine: object = vars(measure_memory(t, cap, budget=budget))
    except HandfulError as error:
        mine = str(error)
    found = [*map(json.loads, t.ranks.gather(json.dumps(mine)))]
    for rank, said in enumerate(found):
        if said == str(said):
            raise HandfulError(f"rank {rank}: {said}")
    return min((Memory(**said) for said in found), key=lambda memory: memory.ceiling)


def in_parts(t: Training) -> Choice | None:
    """The rows to put through the model at a time, where a large mini-batch would take more than half of the memory
    that is free on the host, where running out kills the process; None where all of them fit. What the backward pass
    keeps is counted on a few rows; the run is left as it was. Of several ranks, that with the fewest."""
    batch, objective = t.ranks.most_of(t.state.batch), t.objective
    if batch <= FEW_ROWS or t.ranks.sharding or objective.coupling or objective.device.type == "cuda":
        return None
    tried: list[tuple[int, float]] = []
    with untouched(t):
        training_mode(objective.model)
        rows = longest_rows(t, 64)
        for size in (8, 32):
            part = objective.to_device(repeat(t, rows, size))
            with saved_by_autograd(objective.model) as storages:
                sums = objective.sums(part, metrics=False)
            del sums  # until here, or a storage's address could be given to another
            tried.append((size, float(sum(v.nbytes for v in part.tensors().values()) + 2 * sum(storages.values()))))
    (per_row, fixed), limit = _fit(tried), HOST_SHARE * memory_left(page_cache=False)
    size = batch
    if fixed + per_row * batch > limit:
        size = 1 << max(0, int(math.log2(max(1.0, (limit / 2 - fixed) / max(per_row, 1.0)))))
    size = min(map(int, t.ranks.gather(str(size))))
    if size == batch:
        return None
    need = say_bytes(fixed + per_row * batch)
    return Choice(size, "bounded", f"{batch:,} rows at once would need about {need}, more than half of the free memory")


def _fit(tried: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Bytes per row, and bytes whatever the size."""
    if len(tried) < 2:
        return (tried[0][1] / tried[0][0] if tried else 0.0), 0.0
    (n0, m0), (n1, m1) = tried[-2:]
    per_row = max(0.0, (m1 - m0) / (n1 - n0))
    return per_row, max(0.0, m1 - per_row * n1)


def _free_on_device(t: Training) -> float:
    """Bytes that a step may take on top of weights and optimizer state: what is free and what the allocator keeps
    unused, less the headroom."""
    t.objective.model.zero_grad(set_to_none=True)
    device = t.objective.device
    free, total = torch.cuda.mem_get_info(device)
    return float(
        free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device) - (1 - HEADROOM) * total
    )


def _need(t: Training, batch: Batch) -> float:
    """Bytes that one whole step of the batch at once needs: the allocator's peak, or, on the CPU, twice what autograd
    keeps and the batch."""
    if (device := t.objective.device).type == "cuda":
        t.objective.model.zero_grad(set_to_none=True)  # as every step begins: its own gradients count as its need
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        _whole_step(t, batch)
        return float(torch.cuda.max_memory_allocated(device) - before)
    with saved_by_autograd(t.objective.model) as storages:
        _whole_step(t, batch)
    return float(sum(value.nbytes for value in batch.tensors().values()) + 2 * sum(storages.values()))


def _whole_step(t: Training, batch: Batch) -> None:
    with ExactGradient(t.objective, batch, seed=t.plan.seed, step=t.state.step) as gradient:
        gradient.take()
        gradient.passing = True  # the update, too, may run out of memory
        update_at_rest(t)
        gradient.passing = False


@contextmanager
def saved_by_autograd(model: nn.Module) -> Iterator[dict[int, int]]:
    """Count what forward passes inside the block save for the backward pass, weights and buffers left out: the bytes of
    each storage by its address."""
    own = {value.untyped_storage().data_ptr() for value in (*model.parameters(), *model.buffers())}
    storages: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        yield storages


def longest_rows(t: Training, count: int) -> Batch:
    """Training rows, ready for the model, that are the longest of up to 1,024 in any column whose length varies;
    the first rows where none does."""
    n, source = min(LOOKED_AT, t.examples), t.batches.source
    varying = [k for k, c in source.columns.items() if None in c.shape or c.kind in ("text", "audio")]
    if not varying:
        return t.batches.at(0, min(count, n))
    spread = spread_rows(t.examples, n)
    lengths = np.max([_lengths(source, name, spread) for name in varying], axis=0)
    return _drawn(t, spread[np.argsort(-lengths, kind="stable")[: min(count, 64)]])


def _drawn(t: Training, rows: Rows) -> Batch:
    batch = t.batches.source.take(rows)
    for transform in t.batches.transforms:
        batch = transform(batch)
    return batch


def _lengths(source: Source, name: str, rows: Rows) -> NDArray[np.int64]:
    match source.read_column(name, rows):
        case Ragged(offsets=offsets):
            return np.diff(offsets.numpy())
        case Tensor():  # padded to the longest of those read together: alone, a row has its own length
            return np.array([len(source.read_column(name, rows[k : k + 1])[0]) for k in range(len(rows))])
        case texts:
            return np.array([len(text) for text in texts])


def repeat(t: Training, batch: Batch, size: int) -> Batch:
    """The batch's rows, over and over, until there are `size`."""
    index = torch.arange(size) % len(batch)
    if t.batches.source.whole:  # its rows cannot be told apart in it
        return _drawn(t, batch.rows[index.numpy()])
    columns = {k: v[index] if isinstance(v, Tensor) else v for k, v in batch.columns.items()}
    return Batch(columns, batch.rows[index.numpy()], batch.epochs[index.numpy()], batch.position)
