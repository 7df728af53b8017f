"""What the ranks tell one another at the end of a step: the sums of their gradients, and all else."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handful.base.shards import own_rows
from handful.training.process.buckets import Buckets, hooked
from handful.training.process.messages import SIGNALS, Messages
from handful.training.process.sharding import Sharding

HEAD = 4 + len(SIGNALS)  # numbers that a step says beside its metrics' sums
ROOM = 1 << 14  # numbers behind the gradients, at most


@dataclass
class Said:
    """What a rank has to say of a step, and then what all have said, added up.

    loss, weight: 0-d; metrics: float64; signals: how many ranks were sent each of SIGNALS; seconds: of the step before,
    by rank 0's clock.
    """

    loss: Tensor
    weight: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    out_of_memory: bool = False
    signals: list[float] = field(default_factory=lambda: [0.0] * len(SIGNALS))
    seconds: float = 0.0


class Exchange:
    """The end of each step of a model with these parameters.

    At the first step the ranks tell one another, after the backward pass, what their gradients and sums look like; from
    the second on, gradients are sent while it runs.
    """

    def __init__(
        self, messages: Messages, parameters: Sequence[nn.Parameter], sharding: Sharding | None = None
    ) -> None:
        """sharding: of a model whose gradients are added up already, during the backward pass."""
        self.messages, self.of, self.sharding = messages, parameters, sharding
        self.parameters = [p for p in parameters if p.requires_grad]
        self.trained = [*map(id, self.parameters)]
        self.buckets: Buckets | None = None
        self.apart: list[int] = []  # the parameters of sparse gradients
        self.places: dict[str, slice] = {}  # of each metric's sums among the numbers, behind those of HEAD
        self.touched = [0] * len(self.parameters)
        self.summed = [] if sharding else self.parameters
        self.hooks = [hooked(p, partial(self._touch, i)) for i, p in enumerate(self.summed)]

    def _touch(self, i: int, _: Tensor) -> None:
        self.touched[i] += 1

    def begin(self) -> None:
        """The next backward pass is the last one of a mini-batch."""
        if self.buckets is not None:
            self.buckets.begin()
        else:
            self.touched = [0] * len(self.parameters)

    def finish(self, own: Said, rows: int) -> Said:
        """From gradients of a sum divided by `rows` on each rank to the sum over all, divided by the total weight, in
        `.grad`; none where no rank has a gradient or memory ran out on one. Returns what all ranks have said."""
        buckets = self.buckets or self._meet(own)
        has = self.sharding.used() if self.sharding else [p.grad is not None for p in self.parameters]
        mine = np.zeros(self.count)
        mine[:HEAD] = own.loss.item(), own.weight.item(), own.out_of_memory, own.seconds, *own.signals
        for name, values in own.metrics.items():
            mine[self.places[name]] = values.tolist()
        numbers, anywhere = self._sum(buckets, mine, has)
        _, weight, failed, seconds, *signals = numbers[:HEAD].tolist()
        sums = torch.from_numpy(numbers)
        metrics = {name: sums[place] for name, place in self.places.items()}
        all_said = Said(sums[0], sums[1], metrics, bool(failed), signals, seconds)
        if not failed:
            share = rows / (weight or rows)
            if share != 1:
                parts = [own_rows(p.grad) for p in self.parameters if p.grad is not None] if self.sharding else []
                if scaled := buckets.flats + parts:
                    torch._foreach_mul_(scaled, share)
            for i in self.apart:
                self._sum_apart(self.parameters[i], share)
        if failed or not anywhere.all():
            for parameter, some in zip(self.parameters, anywhere.tolist(), strict=True):
                if failed or not some:
                    parameter.grad = None
        return all_said

    def _sum(
        self, buckets: Buckets, numbers: NDArray[np.float64], has: Sequence[bool]
    ) -> tuple[NDArray[np.float64], NDArray[np.generic]]:
        """The sums over all ranks of these numbers [n] in float64 and of these flags, and in the buckets those of the
        gradients. A message costs a small model as much as its gradients do, so there is room for the rest behind
        those, or else it is a message of its own."""
        if buckets.behind is None:
            alone = torch.from_numpy(np.append(numbers, has))
            work = self.messages.sum(alone)
        else:
            self.numbers[:], self.flags[:] = 0, has
            self.numbers[self.messages.rank] = numbers
            buckets.behind.copy_(self.bytes)
        buckets.send_the_rest()
        for sent, flat in zip(buckets.works, buckets.flats, strict=True):
            self.messages.finish(sent, flat)
        if buckets.behind is None:
            self.messages.finish(work, alone)
            return alone[: len(numbers)].numpy(), alone[len(numbers) :].numpy()
        self.bytes.copy_(buckets.behind if self.messages.size < 256 else buckets.behind.clamp_(max=255))  # flags
        return self.numbers.sum(0), self.flags

    def _room(self) -> int:
        """How many numbers go behind the gradients: the 8 bytes of each float64, in a place of each rank's own, so that
        a sum of whatever type leaves them as they are, and a flag for each parameter. 0: they are sent apart, where
        they are many, or the gradients are not where this process reads."""
        dense = [p for i, p in enumerate(self.summed) if i not in self.apart]
        room = 8 * self.count * self.messages.size
        fits = room <= ROOM and dense and dense[0].device.type == "cpu" and dense[0].is_floating_point()
        return room + len(self.summed) if fits else 0

    def _meet(self, own: Said) -> Buckets:
        """The buckets, as the gradients and sums of all ranks want them."""
        sparse = [i for i, p in enumerate(self.summed) if p.grad is not None and p.grad.is_sparse]
        sizes = {name: len(values) for name, values in own.metrics.items()}
        said = [json.loads(t) for t in self.messages.gather(json.dumps([sizes, sparse, max(self.touched, default=0)]))]
        for others, sparse, _ in said:
            sizes |= others
            self.apart = sorted({*self.apart, *sparse})
        ends = accumulate((sizes[name] for name in sorted(sizes)), initial=HEAD)
        self.places = {name: slice(*place) for name, place in zip(sorted(sizes), pairwise(ends), strict=True)}
        self.count = HEAD + sum(sizes.values())
        self.close()
        early = max(times for _, _, times in said) < 2
        room = self._room()
        self.buckets = Buckets(self.summed, self.apart, self.messages.sum, early=early, behind=room)
        self.bytes, flags = torch.zeros(room, dtype=torch.uint8), len(self.summed) if room else 0
        numbers, self.flags = np.split(self.bytes.numpy(), [room - flags])
        self.numbers = numbers.view(np.float64).reshape(self.messages.size, -1)
        return self.buckets

    def _sum_apart(self, parameter: nn.Parameter, share: float) -> None:
        grad = parameter.grad
        grad = torch.zeros_like(parameter).to_sparse(1) if grad is None else grad
        grad = (grad if grad.is_sparse else grad.to_sparse(1)).coalesce()
        places = torch.cat(self.messages.gather_rows(grad.indices().t().contiguous())).t()
        values = torch.cat(self.messages.gather_rows(grad.values())) * share
        parameter.grad = torch.sparse_coo_tensor(places, values, grad.shape, check_invariants=False).coalesce()

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()
        if self.buckets is not None:
            self.buckets.close()
