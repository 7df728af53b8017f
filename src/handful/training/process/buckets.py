"""Sums of gradients over the ranks, on their way while the backward pass still runs."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from handful.base.errors import HandfulError
from handful.training.process.messages import in_chunks

FIRST = 1 << 20  # bytes of the first bucket, which sets out early

Send = Callable[[Tensor], dist.Work]


def hooked(parameter: nn.Parameter, act: Callable[[Tensor], None]) -> RemovableHandle:
    """Have `act` called each time a backward pass has added to the parameter's gradient."""
    hook: RemovableHandle = parameter.register_post_accumulate_grad_hook(act)  # type: ignore[no-untyped-call]
    return hook


class Buckets:
    """The gradients of some parameters, side by side in buckets, each of which is sent as soon as it is full.

    Which parameters there are, and in which order they are sent, is the same on all ranks. apart: the parameters of
    sparse gradients, by number; they are not put into buckets. behind: what is summed with them behind the last
    gradient, in the type of that.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], apart: Sequence[int], send: Send, *, early: bool, behind: int = 0
    ) -> None:
        """early: whether buckets are sent while the backward pass runs; it must then touch each gradient once.
        behind: how many numbers go behind the last gradient."""
        self.parameters, self.send = list(parameters), send
        self.flats: list[Tensor] = []
        self.views: dict[int, Tensor] = {}
        self.bucket_of: dict[int, int] = {}
        self.numbers: list[list[int]] = []
        number = {parameter: i for i, parameter in enumerate(self.parameters) if i not in apart}
        runs = list(in_chunks(reversed(list(number)), FIRST))
        for run in runs:
            self._add([number[parameter] for parameter in run], behind if run is runs[-1] else 0)
        self.behind = self.flats[-1][-behind:] if behind else None
        self.soon = len(self.flats) - (behind > 0)  # the buckets that need not wait for the end of the backward pass
        self.filled: set[int] = set()
        self.works: list[dist.Work] = []
        self.open = False
        ahead = [i for i in self.views if early and self.bucket_of[i] < self.soon]
        self.hooks = [hooked(self.parameters[i], partial(self._ready, i)) for i in ahead]

    def _add(self, numbers: list[int], behind: int) -> None:
        own = [self.parameters[i] for i in numbers]
        sizes = [p.numel() for p in own]
        flat = torch.empty(sum(sizes) + behind, dtype=own[0].dtype, device=own[0].device)
        for i, part in zip(numbers, torch.split(flat, [*sizes, behind]), strict=False):
            self.views[i] = part.view(self.parameters[i].shape)
            self.bucket_of[i] = len(self.flats)
        self.flats.append(flat)
        self.numbers.append(numbers)

    def begin(self) -> None:
        """The next backward pass is the last one of a mini-batch."""
        self.open = True
        self.filled.clear()
        self.works.clear()
        self.missing = [len(numbers) for numbers in self.numbers]

    def _ready(self, i: int, _: Tensor) -> None:
        if self.open:
            if i in self.filled:
                raise HandfulError("the backward pass came to a gradient twice, after it was sent to the other ranks")
            self._fill([i])
            while len(self.works) < self.soon and not self.missing[len(self.works)]:
                self.works.append(self.send(self.flats[len(self.works)]))

    def _fill(self, numbers: Sequence[int]) -> None:
        views, grads = list[Tensor](), list[Tensor]()
        for i in numbers:
            parameter, view = self.parameters[i], self.views[i]
            self.filled.add(i)
            self.missing[self.bucket_of[i]] -= 1
            if (grad := parameter.grad) is None:
                view.zero_()
            else:
                views.append(view)
                grads.append(grad.to_dense() if grad.is_sparse else grad)
            parameter.grad = view
        if views:
            torch._foreach_copy_(views, grads)

    def send_the_rest(self) -> None:
        """The backward pass is over: what it did not touch is zero on this rank."""
        if not self.open:
            self.begin()
        self._fill([i for i in self.views if i not in self.filled])
        self.open = False
        for flat in self.flats[len(self.works) :]:
            self.works.append(self.send(flat))

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()
