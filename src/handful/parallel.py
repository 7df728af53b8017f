"""Ranks: torch.distributed and nothing else. Every rank holds the whole model and takes its share of a batch."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


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
            dist.all_reduce(flat)
            parts = torch.split(flat, [t.numel() for t in group])
            for tensor, part in zip(group, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def same_buffers(self, model: nn.Module) -> None:
        """Give every rank the buffers of rank 0 (running statistics follow rank 0's share of the batch)."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def same_answer(self, answer: str | None) -> str | None:
        """Rank 0's answer, on every rank."""
        if self.size > 1:
            said = [answer]
            dist.broadcast_object_list(said, 0)
            answer = said[0]
        return answer

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


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
