"""What the ranks tell one another: before the first step, whether they are about to train one model on one set of data;
at the end of each, the sums of their gradients, on their way while the backward pass still runs, and all else."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, pairwise

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from handful.base.errors import HandfulError, some
from handful.base.files import of_text
from handful.base.plan import Plan
from handful.base.shards import is_shard, own_rows
from handful.batches.batches import Batches
from handful.data.base import Batch
from handful.data.series import spread_rows
from handful.training.process.messages import SIGNALS, Messages, in_chunks
from handful.training.process.sharding import Sharding, hooked
from handful.transform.seen import row_hashes

FIRST = 1 << 20  # bytes of the first bucket, which sets out early

Send = Callable[[Tensor], dist.Work]


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


OWN = {"device", "threads", "step_times", "data"}  # may differ by rank: the data are known by their fingerprint
WORDS = {"fingerprint": "other data", "rows": "data of another length"}
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


def same_start(messages: Messages, plan: Plan, model: nn.Module, step: int, others: Iterable[Tensor] = ()) -> None:
    """Compare plan, data, shapes and step by one hash, and give all ranks rank 0's weights, buffers and other tensors.

    Raises HandfulError, on every rank alike, with what differs.
    """
    if messages.size == 1:
        return
    mine = {name: str(choice.value) for name, choice in plan.choices.items() if name not in OWN}
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    mine |= {f"the shape of {name}": f"{list(t.shape)} {str(t.dtype)[6:]}" for name, t in named.items()}
    text = json.dumps(mine | {"the step to go on from": str(step)}, sort_keys=True)
    if len(set(messages.gather(of_text(text)))) > 1:
        raise HandfulError(difference([json.loads(said) for said in messages.gather(text)]))
    messages.spread(t for t in [*named.values(), *others] if not is_shard(t))


def same_rows(messages: Messages, batches: Batches, model: nn.Module) -> None:
    """Compare the rows that the ranks are about to share, by their number and some of them, and the weights. Raises
    HandfulError, on every rank alike."""
    if messages.size == 1:
        return
    n = len(batches.source)
    rows = spread_rows(n, 64)
    batch = Batch(batches.source.read(rows), rows)
    for transform in batches.transforms if n else ():
        batch = transform(batch)
    weights = [float(p.detach().double().sum()) for p in model.parameters()]
    said = messages.gather(json.dumps([weights, n, row_hashes(batch).tolist()]))
    for rank, other in enumerate(said):
        if other != said[0]:
            what = "another trained model" if json.loads(other)[0] != json.loads(said[0])[0] else "other data"
            raise HandfulError(f"rank {rank} has {what} than rank 0; all ranks must be given the same")


def difference(said: list[Mapping[str, str]]) -> str:
    """What the first rank that is unlike rank 0 has otherwise.

    >>> difference([{"lr": "0.1", "seed": "0"}, {"lr": "0.2", "seed": "0"}])
    'rank 1 has another plan than rank 0: lr is 0.2 and not 0.1; all ranks must be given the same'
    """
    first = said[0]
    rank, other = next((r, mine) for r, mine in enumerate(said) if mine != first)
    names = [name for name in sorted({*first, *other}) if first.get(name) != other.get(name)]
    if known := [WORDS[name] for name in names if name in WORDS]:
        return f"rank {rank} has {known[0]} than rank 0; all ranks must be given the same"
    words = [f"{name} is {other.get(name, 'missing')} and not {first.get(name, 'missing')}" for name in names]
    return f"rank {rank} has another plan than rank 0: {some(words)}; all ranks must be given the same"
