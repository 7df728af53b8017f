"""Tensors that are shared out among ranks, each of which holds some of the rows: torch's DTensor, known by what it
has, for to import it takes seconds."""

from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_shard(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Whether other ranks hold other rows of the tensor."""
    return hasattr(tensor, "device_mesh")


def own_rows(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor; all of it where it is not shared out."""
    return tensor.to_local() if is_shard(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All rows of a tensor, on every rank: all have to ask for them."""
    return tensor.full_tensor() if is_shard(tensor) else tensor


def as_shared(value: Tensor, like: Tensor) -> Tensor:
    """A whole value, shared out as another tensor is: each rank keeps its own rows, and nothing is sent."""
    if not is_shard(like) or is_shard(value):
        return value
    from torch.distributed.tensor import DTensor

    mesh, held = like.device_mesh, like.to_local()
    each = -(-len(value) // mesh.size())
    own = value[mesh.get_local_rank() * each :][:each].to(held.device, copy=True)
    return DTensor.from_local(
        own, mesh, like.placements, run_check=False, shape=value.shape, stride=like.stride()
    )  # fmt: skip
