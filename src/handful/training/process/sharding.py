"""A model that is shared out among the ranks: each holds its part of the parameters, of their gradients and of what the
optimizer keeps, by torch's FSDP2 (Zhao et al. 2023, arXiv:2304.11277)."""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from handful.base.errors import HandfulError
from handful.base.shards import is_shard, own_rows
from handful.training.process.messages import Messages

PIECE = 0.25  # of the parameters: a block that holds more is cut again where it has blocks of its own
LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
T = TypeVar("T")


def hooked(parameter: nn.Parameter, act: Callable[[Tensor], None]) -> RemovableHandle:
    """Have `act` called each time a backward pass has added to the parameter's gradient."""
    hook: RemovableHandle = parameter.register_post_accumulate_grad_hook(act)  # type: ignore[no-untyped-call]
    return hook


class Sharding:
    """model: what is trained, each block of which is whole only while it computes; given: the model as it was given,
    which is empty meanwhile. Gradients are sums over all ranks."""

    def __init__(self, messages: Messages, given: nn.Module, device: torch.device) -> None:
        if not hasattr(dist, "all_gather_single"):
            raise HandfulError(f"sharding='fsdp' needs torch 2.13 or newer, and this is {torch.__version__}")
        check(given)
        self.messages, self.given = messages, given
        messages.spread([*given.parameters(), *given.buffers()])
        self.model = self._shared_out(device)
        for parameter in given.parameters():
            parameter.data = parameter.data.new_empty(0)
        self.touched: set[str] = set()
        self.watched: dict[str, Tensor] = {}
        self.names = [name for name, p in self.model.named_parameters() if p.requires_grad]

    def _shared_out(self, device: torch.device) -> nn.Module:
        """A copy of the model whose parameters are parts of those that were given."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        model = copy.deepcopy(self.given, {id(p): p for p in self.given.parameters()})
        mesh = init_device_mesh(device.type, (self.messages.size,))
        free = dict(model.named_parameters())
        for block in [*blocks(model), model]:
            inside = set(block.parameters())
            own = [name for name, p in free.items() if p in inside]
            free = {name: p for name, p in free.items() if p not in inside}
            fsdp = fully_shard(block, mesh=mesh, reshard_after_forward=True)
            fsdp.set_gradient_divide_factor(1.0)
            fsdp.set_force_sum_reduction_for_comms(True)
            fsdp.set_reduce_scatter_unused_params(True)
            fsdp.set_custom_all_gather(_Message(self.messages, dist.all_gather_single))  # type: ignore[arg-type]
            fsdp.set_custom_reduce_scatter(_Message(self.messages, dist.reduce_scatter_single))  # type: ignore[arg-type]
            places = [(name, model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in own]
            block.register_forward_pre_hook(partial(self._watch, places))
        return model.to(device)

    def _watch(self, places: Sequence[tuple[str, nn.Module, str]], *_: object) -> None:
        """Note which parameters of a block have a gradient on this rank: FSDP gives zeros to the others."""
        for name, owner, attribute in places:
            parameter = getattr(owner, attribute)
            if torch.is_grad_enabled() and parameter.requires_grad and self.watched.get(name) is not parameter:
                hooked(parameter, partial(self._touch, name))
                self.watched[name] = parameter

    def _touch(self, name: str, _: Tensor) -> None:
        self.touched.add(name)

    def used(self) -> list[bool]:
        """Which of the trainable parameters had a gradient on this rank since this was last asked."""
        used, self.touched = [name in self.touched for name in self.names], set()
        return used

    def in_step(self, items: Iterable[T], spare: T) -> Iterator[T]:
        """The items, and `spare` where another rank has more of them: all ranks put something through the model."""
        own = iter(items)
        while True:
            item = next(own, None)
            if not any(self.messages.gather("" if item is None else "more")):
                return
            yield spare if item is None else item

    def whole(self, tensor: Tensor) -> Tensor:
        return torch.cat(self.messages.gather_rows(own_rows(tensor))) if is_shard(tensor) else tensor

    def on_rank_0(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors, whole, on rank 0; none on the others, which hold one of them at a time."""
        kept = {}
        for name, tensor in tensors.items():
            everything = self.whole(tensor)
            if self.messages.rank == 0:
                kept[name] = everything.cpu()
        return kept

    def gathered(self) -> nn.Module:
        """The model that was given, with the values of the one that was trained."""
        named = dict(self.model.named_parameters())
        for name, parameter in self.given.named_parameters():
            parameter.data = self.whole(named[name].detach())
        buffers = dict(self.model.named_buffers())
        for name, buffer in self.given.named_buffers():
            buffer.copy_(buffers[name])
        return self.given


@dataclass(eq=False)
class _Message:
    """A message of FSDP's, by a function of torch.distributed, with a limit and a name, as ours are."""

    messages: Messages
    of: Callable[..., dist.Work | None]

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, **_: object) -> None:
        start = partial(self.of, output_tensor, input_tensor, async_op=True)
        self.messages.finish(self.messages.send(lambda own: start(group=own), input_tensor), input_tensor, keep=False)


def check(model: nn.Module) -> None:
    """HandfulError for what FSDP cannot share out."""
    for name, module in model.named_modules():
        if any(base.__name__ in ("FSDPModule", "FullyShardedDataParallel") for base in type(module).__mro__):
            raise HandfulError("the model is sharded already: give it as it was before, and sharding='fsdp'")
        match module:
            case nn.Embedding(sparse=True) | nn.EmbeddingBag(sparse=True):
                raise HandfulError(f"layer '{name}' has sparse gradients, which sharding='fsdp' cannot add up: leave "
                                   "sparse out")  # fmt: skip
    for name, parameter in model.named_parameters():
        if parameter.ndim == 0:
            raise HandfulError(
                f"parameter '{name}' is a single number, which cannot be shared out: give it the shape [1]"
            )
        parameter.data = parameter.data.contiguous()


def check_steps(optimizer: Optimizer, device: torch.device) -> None:
    """HandfulError where an optimizer cannot step parameters that are shared out: it is tried on one of a few numbers.

    torch 2.13 has no way to share out the steps of Adafactor, Rprop or fused SGD, and says so in their first step only.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    weight = torch.zeros(5, 3, device=device)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    part = nn.Parameter(distribute_tensor(weight, mesh, [Shard(0)], src_data_rank=None))
    part.grad = torch.zeros_like(part)
    try:
        kind: Callable[[list[dict[str, object]]], Optimizer] = type(optimizer)
        kind([{**optimizer.param_groups[0], "params": [part]}]).step()
    except (NotImplementedError, RuntimeError, TypeError) as error:
        if any(word in str(error).lower() for word in ("sharding", "placement", "dtensor")):
            name = type(optimizer).__name__
            raise HandfulError(f"{name}, with these options, cannot step weights that are shared out (sharding='fsdp', "
                               f"torch {torch.__version__}): choose another optimizer") from error  # fmt: skip


def blocks(model: nn.Module) -> list[nn.Module]:
    """The parts of a model that are gathered one after the other: the members of its lists and sequences of layers,
    inner ones first. One whose parameters are also others' is none."""
    owners = Counter(p for module in model.modules() for p in module.parameters(recurse=False))
    most = PIECE * sum(p.numel() for p in model.parameters())
    found: dict[nn.Module, None] = {}

    def look(module: nn.Module) -> None:
        for child in module.children():
            rows = sum(p.numel() for p in child.parameters())
            mine = Counter(p for inner in child.modules() for p in inner.parameters(recurse=False))
            alone = rows > 0 and all(owners[p] == n for p, n in mine.items())
            is_block = alone and type(module) in LISTS and type(child) not in LISTS[1:]
            if not is_block or rows > most:
                look(child)
            if is_block:
                found.setdefault(child)

    look(model)
    return list(found)
