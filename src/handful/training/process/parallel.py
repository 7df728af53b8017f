"""Ranks: torch.distributed and nothing else. Every rank holds the whole model and takes its share of a batch."""

import os
from collections import deque
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

# The last messages. Gloo's thread lets go of a message's tensor after the wait for it is over; if that were the last
# reference, it would need the interpreter, and at the end of a process it would find none and abort it (torch 2.13:
# "terminate called without an active exception", 1 run in 12). So the last reference is kept here.
_SENT: deque[dist.Work] = deque(maxlen=16)


@dataclass(frozen=True)
class Ranks:
    """This process's place among the processes that train one model; (0, 1) when it is alone."""

    rank: int = 0
    size: int = 1

    @property
    def share(self) -> tuple[int, int]:
        return self.rank, self.size

    def add(self, tensors: list[Tensor]) -> None:
        """Sum the tensors over all ranks, in place, as one message per dtype."""
        if self.size == 1:
            return
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_dtype.setdefault(tensor.dtype, []).append(tensor)
        for group in by_dtype.values():
            flat = torch.cat([t.reshape(-1) for t in group])
            _finish(dist.all_reduce(flat, async_op=True))
            parts = torch.split(flat, [t.numel() for t in group])
            for tensor, part in zip(group, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def same_buffers(self, model: nn.Module) -> None:
        """Give every rank the buffers of rank 0 (running statistics follow rank 0's share of the batch)."""
        if self.size > 1:
            for buffer in model.buffers():
                _finish(dist.broadcast(buffer, 0, async_op=True))

    def same_answer(self, answer: str | None, device: torch.device) -> str | None:
        """Rank 0's answer, on every rank; while that is None, one small message. device: which messages travel on."""
        if self.size == 1:
            return answer
        said = (answer or "").encode()
        length = torch.tensor([len(said)], device=device)
        _finish(dist.broadcast(length, 0, async_op=True))
        if not (n := int(length)):
            return None
        text = torch.tensor(list(said) if self.rank == 0 else [0] * n, dtype=torch.uint8, device=device)
        _finish(dist.broadcast(text, 0, async_op=True))
        return bytes(text.tolist()).decode()

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


def _finish(work: dist.Work | None) -> None:
    assert work is not None
    work.wait()
    _SENT.append(work)


ALONE = Ranks()


def join(device: torch.device) -> Ranks:
    """This process's Ranks: an initialised process group, or the one that torchrun's variables describe, or alone."""
    if not dist.is_available():
        return Ranks()
    if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return Ranks()
