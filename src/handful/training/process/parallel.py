"""Ranks: the processes that train one model together. Each holds the whole model and takes its share of a batch."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from handful.base.errors import HandfulError
from handful.training.process.exchange import Exchange, Said
from handful.training.process.interrupts import Interrupts
from handful.training.process.messages import SIGNALS, Messages
from handful.training.process.roll import Roll, meet, patiently, prefixed
from handful.training.process.sharding import Sharding

T = TypeVar("T")
_MEETINGS = count()
_LOST: list[BaseException] = []  # why a run of this process lost the other ranks: a message of it is still under way
LATER = 5.0  # seconds after the limit that torch gives up: its sentence names nobody


@dataclass(eq=False)
class Ranks(Messages):
    """This process's place among the processes that train one model; (0, 1) when it is alone.

    batch: rows of a mini-batch, over all ranks; heard: the signal that any rank was sent, as of the last step.
    """

    batch: int = 0
    heard: int = 0
    seconds: float = 0.0  # of this rank's last step
    of_rank_0: float = 0.0  # of rank 0's last step but one
    exchange: Exchange | None = field(default=None, repr=False)
    sharding: Sharding | None = field(default=None, repr=False)

    @property
    def share(self) -> tuple[int, int]:
        return self.rank, self.size

    def place(self, device: str) -> torch.device:
        """Where this rank computes: "cuda" is the GPU of its own."""
        return own_device(device) if self.size > 1 else torch.device(device)

    def most(self, rows: int) -> int:
        """The rows of the largest share of a mini-batch of which this rank's has so many."""
        return max(rows, self.most_of(self.batch))

    def most_of(self, batch: int) -> int:
        """The rows of the largest share of a mini-batch of so many."""
        return -(-batch // self.size)

    def stopped(self, interrupts: Interrupts) -> bool:
        """Whether a signal has asked any of several ranks to stop: it then asks all."""
        self.asked = lambda: interrupts.asked
        if self.heard:
            interrupts.asked = self.heard
        return bool(self.heard)

    def elapsed(self, seconds: float) -> float:
        """The seconds of a step of several ranks: rank 0's, one step late, so that rules by the clock agree."""
        self.seconds = seconds
        return self.of_rank_0

    def passes(self, rows: int) -> int:
        """The rows by which to count the passes through the model for so many: where each needs all ranks, they are as
        many on all."""
        return self.most(rows) if self.sharding else rows

    def in_step(self, items: Iterable[T], spare: T) -> Iterable[T]:
        """The items; of a model that all ranks have to ask together, see `Sharding.in_step`."""
        return self.sharding.in_step(items, spare) if self.sharding else items

    def of_all(self, seconds: float) -> float:
        """A time of rank 0, where all have to decide alike by it: they save a sharded model together."""
        return float(self.told(str(seconds))) if self.sharding else seconds

    def part_is_last(self, parameters: Sequence[nn.Parameter]) -> None:
        self._exchange(parameters).begin()

    def add_up(self, parameters: Sequence[nn.Parameter], own: Said) -> Said:
        """Sums and gradients over all ranks: see `Exchange.finish`."""
        own.signals = [float(self.asked() == number) for number in SIGNALS]
        own.seconds = self.seconds if self.rank == 0 else 0.0
        said = self._exchange(parameters).finish(own, max(1, self.batch))
        self.of_rank_0 = said.seconds
        self.heard = next((int(n) for n, ranks in zip(SIGNALS, said.signals, strict=True) if ranks), 0)
        return said

    def _exchange(self, parameters: Sequence[nn.Parameter]) -> Exchange:
        trained = [id(p) for p in parameters if p.requires_grad]  # callbacks may change which
        if self.exchange is None or self.exchange.of is not parameters or trained != self.exchange.trained:
            self.close()
            self.exchange = Exchange(self, parameters, self.sharding)
        return self.exchange

    def close(self) -> None:
        if self.exchange is not None:
            self.exchange.close()
            self.exchange = None

    def leave(self, error: BaseException) -> None:
        """Let the other ranks know why this one takes no part any more."""
        if self.roll is not None:
            why = " ".join([*[type(error).__name__] * (not isinstance(error, HandfulError)), *str(error).split()])
            self.roll.leave(why if error is self.lost else f"rank {self.rank} of {self.size} ended: {why}")


ALONE = Ranks()


@contextlib.contextmanager
def joined(device: str, limit: float, *, alone: bool = False) -> Iterator[Ranks]:
    """This process's Ranks, for one run. What ends it here is told to the others."""
    ranks = join(device, limit, alone=alone)
    try:
        if ranks.size > 1 and _LOST:
            raise HandfulError(f"the ranks lost one another in a run before this one ({_LOST[0]}): start them again")
        yield ranks
    except BaseException as error:
        _LOST.extend([ranks.lost] if ranks.lost else [])
        ranks.leave(error)
        raise
    finally:
        ranks.close()


def join(device: str, limit: float, *, alone: bool = False) -> Ranks:
    """This process's Ranks: those of an initialised process group, or those that the variables of torchrun (RANK,
    WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) describe, or alone.

    limit: seconds that the ranks wait for one another, here and later. Raises HandfulError for ranks that do not come.
    """
    started = dist.is_available() and dist.is_initialized()
    size = dist.get_world_size() if started else int(os.environ.get("WORLD_SIZE", "1"))
    if alone or size == 1 or not dist.is_available() or not (started or "RANK" in os.environ):
        return Ranks()
    rank = dist.get_rank() if started else int(os.environ["RANK"])
    if not started:
        _start(rank, size, own_device(device), limit)
    store = dist.distributed_c10d._get_default_store()
    group = None
    if "gloo" not in dist.get_backend_config():
        group = dist.new_group(backend="gloo", timeout=timedelta(seconds=limit + LATER))
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    roll = Roll(prefixed(f"run{next(_MEETINGS)}", store), rank, size, hosts=not agent)
    return Ranks(rank, size, limit, roll, group)


def _start(rank: int, size: int, device: torch.device, limit: float) -> None:
    """Make the process group: NCCL between GPUs, gloo for the rest."""
    store = meet(rank, size, limit)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        patiently(
            lambda: dist.init_process_group(
                backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=limit + LATER)
            ),
            limit,
            lambda: (
                f"the ranks have met, but could not connect to one another in {limit:g} seconds (timeout={limit:g})"
            ),
        )
    except RuntimeError as error:
        raise HandfulError(
            f"rank {rank} of {size} cannot connect to the others: {str(error).splitlines()[0]}"
        ) from None


def own_device(device: str) -> torch.device:
    """The device of this rank: "cuda" is the GPU of its number on this machine.

    >>> own_device("cpu")
    device(type='cpu')
    """
    if device == "mps":
        raise HandfulError("several ranks train on CPUs or on CUDA GPUs, not on 'mps'")
    if device != "cuda":
        return torch.device(device)
    local, cards = int(os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0"))), torch.cuda.device_count()
    if cards > 1 and local >= cards:
        raise HandfulError(
            f"rank {local} of this machine has no GPU of its own, for there are {cards}; start one rank per GPU"
        )
    return torch.device("cuda", local if cards > 1 else 0)


def restarted() -> bool:
    """Whether torchrun has started this process again, after a rank was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
