"""What ranks send one another, by torch.distributed. All take part in a message. Every wait has a limit and a name."""

import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from handful.base.errors import HandfulError, StepError
from handful.training.process.roll import Roll, end_at_once

T = TypeVar("T", bound=Tensor)
POLL = timedelta(seconds=0.2)
SOON = 1.0  # seconds after which one who waits says so, and looks what became of the others
GRACE = 5.0  # seconds that a message may still take once this rank was sent a signal
CHUNK = 25 << 20  # bytes
SIGNALS = (signal.SIGINT, signal.SIGTERM)

# The last messages. Gloo's thread lets go of a message's tensor after the wait for it is over; if that were the last
# reference, it would need the interpreter, and at the end of a process it would find none and abort it (torch 2.13:
# "terminate called without an active exception", 1 run in 12). So the last reference is kept here.
_SENT: deque[dist.Work] = deque(maxlen=64)


class PeerLost(StepError):
    """Another rank is gone or silent. What all ranks were doing together was not done."""

    exit_status = 3


@dataclass(eq=False)
class Messages:
    """The messages of this process, `rank` of `size`; none where it is alone.

    limit: seconds that a message may take; group: of messages between hosts, None: the usual one; asked: the signal
    that this rank was sent, or 0; lost: why there are no messages any more.
    """

    rank: int = 0
    size: int = 1
    limit: float = 120.0
    roll: Roll | None = None
    group: dist.ProcessGroup | None = None
    asked: Callable[[], int] = int
    lost: PeerLost | None = None

    def send(self, start: Callable[[dist.ProcessGroup | None], dist.Work | None], tensor: Tensor) -> dist.Work:
        """Start a message of this tensor, in which all ranks take part: start(group)."""
        if self.lost is not None:
            raise self.lost
        try:
            work = start(self.group if tensor.device.type == "cpu" else None)
        except RuntimeError as error:  # a connection that is closed already
            raise self._lose(error=error) from None
        assert work is not None
        return work

    def sum(self, tensor: Tensor) -> dist.Work:
        """Start to sum a tensor over all ranks, in place: as by `dist.all_reduce`, whose checks cost a third of it."""
        flat = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        options, usual = dist.AllreduceOptions(), dist.distributed_c10d._get_default_group()
        options.asyncOp = True
        return self.send(lambda group: (group or usual).allreduce([flat], options), tensor)

    def finish(self, work: dist.Work, tensor: Tensor, *, keep: bool = True) -> None:
        """Wait for a message, in short polls, so that signals act. Raises PeerLost, naming who is gone or silent.
        keep: whether the last reference may be, see above; not of messages as large as the model.

        Of a tensor on an accelerator, what is computed next waits and not this process: the step's last message, of a
        tensor on the CPU, is waited for here.
        """
        if tensor.device.type != "cpu":
            work.wait()
            return
        begun = time.monotonic()
        while not self._has_come(work):
            self._look_after(time.monotonic() - begun)
        if keep:
            _SENT.append(work)
        if self.roll is not None:
            self.roll.count += 1
            self.roll.rest()

    def _has_come(self, work: dist.Work) -> bool:
        """Whether a message is over, after a moment."""
        try:
            work.wait(POLL)
            return True
        except RuntimeError:
            if not work.is_completed():
                return False
        except BaseException:
            self._lose(look=False)
            raise
        try:
            work.wait()  # it may have come meanwhile
        except RuntimeError as error:
            raise self._lose(error=error) from None
        return True

    def _look_after(self, waited: float) -> None:
        """What a wait that goes on calls for."""
        if waited > self.limit:
            raise self._lose(waited)
        if self.roll is not None and waited > SOON:
            self.roll.wait()
            if self.roll.left:
                raise self._lose()
        if self.asked() and waited > GRACE:
            self._lose(look=False)
            raise KeyboardInterrupt

    def _lose(self, waited: float | None = None, *, look: bool = True, error: RuntimeError | None = None) -> PeerLost:
        """From here on there are no messages any more. waited: for one who is silent; error: torch's."""
        end_at_once()
        why = "this rank was interrupted"
        if self.roll is not None and look:
            why = self.roll.account(waited, self.limit, str(error or "").split("\n")[0])
        self.lost = PeerLost(why)
        return self.lost

    def gather_rows(self, rows: Tensor) -> list[Tensor]:
        """The Tensor [n, ...] of every rank. They may differ in n, and in nothing else: HandfulError on all, if so."""
        own = torch.tensor(rows.shape)
        counts = [torch.zeros_like(own) for _ in range(self.size)]
        self.finish(self.send(lambda group: dist.all_gather(counts, own, group, async_op=True), own), own)
        if any(not torch.equal(shape[1:], own[1:]) for shape in counts):
            shapes = ", ".join(str(shape.tolist()) for shape in counts)
            raise HandfulError(f"the ranks have Tensors of other shapes than one another, {shapes}: let them differ in "
                               "rows alone")  # fmt: skip
        counts = [shape[0] for shape in counts]
        most = max(int(n) for n in counts)
        padded = rows.new_zeros((most, *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        if padded.numel():
            self.finish(self.send(lambda group: dist.all_gather(parts, padded, group, async_op=True), padded), padded)
        return [part[: int(n)] for part, n in zip(parts, counts, strict=True)]

    def joined(self, rows: T) -> Tensor:
        """The rows of all ranks, one after the other."""
        return rows if self.size == 1 else torch.cat(self.gather_rows(rows))

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, in place."""
        if self.size > 1:
            self.finish(self.sum(tensor), tensor)
        return tensor

    def gather_bytes(self, content: bytes) -> list[bytes]:
        own = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
        return [content] if self.size == 1 else [part.numpy().tobytes() for part in self.gather_rows(own)]

    def gather(self, text: str) -> list[str]:
        return [text] if self.size == 1 else [part.decode() for part in self.gather_bytes(text.encode())]

    def told(self, text: str) -> str:
        """Rank 0's text, on every rank."""
        return self.gather(text if self.rank == 0 else "")[0]

    @torch.no_grad()
    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Give the tensors of every rank the values of rank 0's."""
        kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for tensor in tensors if self.size > 1 else ():
            kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor.detach())
        for kind in kinds.values():
            for some in in_chunks(kind):
                self._spread(torch.cat([t.reshape(-1) for t in some]), some)

    def _spread(self, flat: Tensor, tensors: Sequence[Tensor]) -> None:
        self.finish(self.send(lambda group: dist.broadcast(flat, 0, group, async_op=True), flat), flat)
        if self.rank > 0:
            for tensor, part in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
                tensor.copy_(part.view(tensor.shape))


def in_chunks(tensors: Iterable[T], first: int = CHUNK) -> Iterator[list[T]]:
    """Runs of tensors of one type and at most `first` bytes, and then CHUNK: a message each. One that is larger is a
    run of its own."""
    run: list[T] = []
    size, most = 0, first
    for t in tensors:
        other = bool(run) and (t.dtype, t.device) != (run[0].dtype, run[0].device)
        if run and (other or size + t.nbytes > most):
            yield run
            run, size, most = [], 0, CHUNK
        run.append(t)
        size += t.nbytes
    if run:
        yield run
