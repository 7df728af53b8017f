"""The largest micro-batch: whole steps with the longest rows and the optimizer's state allocated, headroom left."""

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from handful.base.errors import HandfulError
from handful.data.base import Batch
from handful.plan.probe.snapshot import untouched
from handful.plan.probe.steps import clock, step
from handful.training.step import OutOfMemory, is_out_of_memory
from handful.training.training import Training

HEADROOM = 0.9  # of the accelerator's memory; fragments and other processes have the rest
HOST_SHARE = 0.5  # of the memory that is free on the host, where running out kills the process
LOOKED_AT = 1024  # rows among which the longest are looked for


@dataclass(frozen=True)
class Memory:
    """largest: the largest micro-batch that was run (its rows went through a whole step); status "measured" when the
    next size up failed or would leave no headroom, "bounded" when `cap` was reached and more may fit.

    a_row, fixed: bytes a row and bytes whatever the size, fitted; limit: bytes that may be used.
    """

    largest: int
    status: Literal["measured", "bounded"]
    reason: str
    a_row: float
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
        """Bytes that a micro-batch of `batch` rows needs beside what the run holds already."""
        return self.fixed + self.a_row * batch


def measure_memory(t: Training, cap: int, *, budget: float = 60.0) -> Memory:
    """The largest power of two (or `cap`) of rows that goes through the model at once; the run is left as it was.

    On an accelerator sizes double until the next fails or would leave less than a tenth of the memory. On the CPU,
    where trying too much kills the process, what the backward pass keeps is counted at small sizes, and a size is
    run only if twice its predicted need is within half of the free memory. budget: seconds after which no larger size
    is tried. Raises HandfulError if one row fails.
    """
    device = t.objective.device
    limit = free_on_host() * HOST_SHARE
    tried: list[tuple[int, float]] = []
    why, status = "", "bounded"
    with untouched(t):
        t.objective.model.train()
        rows = longest_rows(t, min(cap, LOOKED_AT))
        step(t, repeat(rows, 1 if not _couples(t) else 2), 0.0)  # the optimizer's state is allocated from here on
        if device.type == "cuda":
            limit = _free_on_device(t, device)
        started = clock(t)
        for size in _doubling(cap, 2 if _couples(t) else 1):
            if len(tried) > 2 and clock(t) - started > budget:
                why = f"{tried[-1][0]:,} rows were run before the time for it was up"
                break
            if len(tried) > 1 and size * 4 > tried[-1][0] and _predict(tried, size) > limit:
                why, status = f"{size:,} would need {_bytes(_predict(tried, size))}, more than is free", "measured"
                break
            try:
                tried.append((size, _need(t, repeat(rows, size))))
            except OutOfMemory:
                why, status = f"{size:,} rows did not fit", "measured"
                break
        t.objective.model.zero_grad(set_to_none=True)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if not tried:
        raise HandfulError("not even one row fits in memory; use a smaller model or shorter rows")
    a_row, fixed = _fit(tried)
    if not why:
        why = f"{tried[-1][0]:,} rows were run, the most that were wanted"
    return Memory(tried[-1][0], status, why, a_row, fixed, limit, tuple(tried))  # type: ignore[arg-type]


def _couples(t: Training) -> bool:
    from handful.training.coupling import mode_coupling

    return mode_coupling(t.objective.model) is not None


def _doubling(cap: int, least: int) -> list[int]:
    sizes = [n for n in (1 << k for k in range(cap.bit_length())) if least <= n < cap]
    return [*sizes, cap]


def _need(t: Training, batch: Batch) -> float:
    """Bytes that one whole step of the batch needs: the allocator's peak, or, on the CPU, what autograd keeps plus
    the batch. Raises OutOfMemory rather than halve the micro-batch: the question is what fits at once."""
    t.state.micro_batch = None
    if t.objective.device.type == "cuda":
        t.objective.model.zero_grad(set_to_none=True)  # as every step begins: its own gradients count as its need
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        _whole_step(t, batch)
        return float(torch.cuda.max_memory_allocated() - before)
    seen: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _whole_step(t, batch)
    inputs = sum(v.nbytes for v in batch.columns.values() if isinstance(v, Tensor))
    own = {p.untyped_storage().data_ptr() for p in t.objective.model.parameters()}
    return float(inputs + 2 * sum(size for pointer, size in seen.items() if pointer not in own))


def _free_on_device(t: Training, device: torch.device) -> float:
    """Bytes that a step may take beside weights and optimizer state: what is free and what the allocator keeps unused,
    less the headroom."""
    t.objective.model.zero_grad(set_to_none=True)
    free, total = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return float(free + unused - (1 - HEADROOM) * total)


def _whole_step(t: Training, batch: Batch) -> None:
    from handful.training.step import gradient
    from handful.training.training import update

    failed = False
    try:
        gradient(t.objective, batch, None, seed=t.plan.seed, step=t.state.step)
        update(t, 0.0)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failed = True  # raised outside: this traceback would keep the failed step's tensors alive
    if failed:
        t.objective.model.zero_grad(set_to_none=True)
        raise OutOfMemory("it does not fit")


def _fit(tried: list[tuple[int, float]]) -> tuple[float, float]:
    if len(tried) == 1:
        return tried[0][1] / tried[0][0], 0.0
    (n0, m0), (n1, m1) = tried[-2], tried[-1]
    a_row = max(0.0, (m1 - m0) / (n1 - n0))
    return a_row, max(0.0, m1 - a_row * n1)


def _predict(tried: list[tuple[int, float]], size: int) -> float:
    a_row, fixed = _fit(tried)
    return fixed + a_row * size


def _bytes(value: float) -> str:
    from handful.report.words import say_bytes

    return say_bytes(value)


def longest_rows(t: Training, count: int) -> Batch:
    """Training rows, ready for the model, that are the longest of up to 1,024 in any column whose length varies;
    the first rows where none does."""
    n = min(LOOKED_AT, t.examples)
    varying = [k for k, c in t.batches.source.columns.items() if None in c.shape or c.kind in ("text", "audio")]
    if not varying:
        return t.batches.at(0, min(count, n))
    spread = np.unique(np.linspace(0, t.examples - 1, n).astype(np.int64))
    lengths = np.zeros(len(spread))
    for name in varying:
        lengths = np.maximum(lengths, _lengths(t, name, spread))
    chosen = spread[np.argsort(-lengths, kind="stable")[: min(count, 64)]]
    batch = t.batches.source.take(chosen)
    for transform in t.batches.transforms:
        batch = transform(batch)
    return batch


def _lengths(t: Training, name: str, rows: Any) -> Any:
    source = t.batches.source
    value = source.read_column(name, rows)
    if isinstance(value, list):
        return np.array([len(v) for v in value])
    if isinstance(value, Tensor):  # padded to the longest of those read together: alone, a row has its own length
        return np.array([source.read_column(name, rows[k : k + 1]).numel() for k in range(len(rows))])  # type: ignore[union-attr]
    return np.diff(value.offsets.numpy())


def repeat(batch: Batch, size: int) -> Batch:
    """The batch's rows, over and over, until there are `size`."""
    index = torch.arange(size) % len(batch)
    columns = {k: v[index] if isinstance(v, Tensor) else v for k, v in batch.columns.items()}
    return Batch(columns, batch.rows[index.numpy()], batch.epochs[index.numpy()], batch.position)


def free_on_host() -> float:
    """Bytes that this process may still take: what the kernel calls available, or less in a limited container."""
    free = 4e9
    try:
        text = Path("/proc/meminfo").read_text()
        free = 1024.0 * float(text.split("MemAvailable:")[1].split()[0])
    except (OSError, IndexError, ValueError):
        pass
    for most, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            free = min(free, float(Path(most).read_text()) - float(Path(used).read_text()))
        except (OSError, ValueError):
            continue
    return max(0.0, free)
