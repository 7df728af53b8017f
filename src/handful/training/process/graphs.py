"""What a captured step needs of the device: a stream to warm up on, the graph, and how far the host is ahead."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from handful.base.errors import HandfulError


class Changed(HandfulError):
    """What a model keeps in Python changed in a step."""


@contextmanager
def aside(device: torch.device) -> Iterator[None]:
    """Work of the block goes on a stream of its own, as warming up before a capture has to."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)


def captured(body: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """The body as one CUDA graph, to be replayed; elsewhere the body itself. It is not run."""
    if device.type != "cuda":
        return body
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
    try:
        with torch.cuda.device(device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            body()
    finally:
        torch.cuda.set_stream(stream)  # a capture that fails leaves its own
    return graph.replay


def drew(device: torch.device) -> bool:
    """Whether random numbers were drawn since `seed_dropout`; a CPU is not asked."""
    if device.type != "cuda":
        return True
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.default_generators[index].get_offset() > 0


def on_host(device: torch.device) -> list[int]:
    """How far the random numbers are that the host draws for a model on an accelerator."""
    return [] if device.type == "cpu" else torch.default_generator.get_state().tolist()


def sendable(values: Tensor, device: torch.device) -> Tensor:
    """The values where a copy to the device need not be waited for."""
    return values.pin_memory() if device.type == "cuda" else values


def wait_for(before: torch.cuda.Event | None, device: torch.device) -> torch.cuda.Event | None:
    """Wait for what was marked before, and mark what the device has been given since."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    if before is not None:
        before.synchronize()
    return event


class Lane:
    """A stream of its own for copies to the device, so that they go on while it computes with what came before."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.read: dict[int, torch.cuda.Event | None] = {}  # by place: when the device has read what lay there
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    @contextmanager
    def copying(self, place: int) -> Iterator[None]:
        """Copies of the block begin once the device has read what lies at that place, and it waits for them before what
        comes next."""
        if self.stream is None:
            yield
            return
        computing = torch.cuda.current_stream(self.device)
        if (event := self.read.get(place)) is None:
            self.stream.wait_stream(computing)
        else:
            self.stream.wait_event(event)
        with torch.cuda.stream(self.stream):
            yield
        computing.wait_stream(self.stream)

    def reads(self, place: int) -> None:
        """All that reads what lies at that place has been given to the device."""
        self.read[place] = wait_for(None, self.device)


def room(column: Tensor, rows: int) -> bool:
    """Whether so many rows of a column fit in half of what is free on its device."""
    if column.device.type != "cuda":
        return True
    return column[:1].nbytes * rows < torch.cuda.mem_get_info(column.device)[0] // 2
