"""One message a step carries what the ranks say beside their gradients, to the bit, whatever the gradients' type."""

import math
import threading
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from handful.training.process import exchange
from handful.training.process.exchange import Exchange, Said

SIZE = 3
LOSSES = [1e-300, math.pi * 1e200, -2.5]


class Together:
    """The messages of three threads: what each sends is added to what the others sent at the same time."""

    def __init__(self):
        self.barrier, self.sent = threading.Barrier(SIZE, timeout=20), [[] for _ in range(SIZE)]

    def of(self, rank):
        def sum(tensor):
            self.sent[rank].append(tensor)
            return len(self.sent[rank]) - 1

        def finish(number, tensor):
            self.barrier.wait()
            total = torch.stack([own[number] for own in self.sent]).sum(0, dtype=tensor.dtype)
            self.barrier.wait()
            tensor.copy_(total)

        def gather(text):
            told[rank] = text
            self.barrier.wait()
            return list(told)

        told = self.__dict__.setdefault("told", [""] * SIZE)
        return SimpleNamespace(size=SIZE, rank=rank, sum=sum, finish=finish, gather=gather)


def step(dtype, metrics):
    """What each rank hears after two steps, and how many messages the second took."""
    together, heard, counts = Together(), [None] * SIZE, [0] * SIZE

    def run(rank):
        w = nn.Parameter(torch.ones(4, dtype=dtype))
        idle = nn.Parameter(torch.ones(2, dtype=dtype))
        ranks = Exchange(together.of(rank), [w, idle])
        for _ in range(2):
            before = len(together.sent[rank])
            w.grad = idle.grad = None
            ranks.begin()
            (w.sum() * (rank + 1) / SIZE).real.backward()
            own = map(partial(torch.tensor, dtype=torch.float64), (LOSSES[rank], 1.0))
            heard[rank] = ranks.finish(Said(*own, metrics(rank), False, [rank == 1, 0.0]), SIZE)
            counts[rank] = len(together.sent[rank]) - before
        heard[rank] = (heard[rank], w.grad.clone(), idle.grad)
        ranks.close()

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(SIZE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return heard, counts


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64])
def test_sums_are_float64_sums_behind_gradients_of_any_type(dtype):
    values = [0.1, 1e150, 5e-324]
    heard, counts = step(dtype, lambda rank: {"r2": torch.tensor([values[rank], float(rank)], dtype=torch.float64)})
    for said, grad, idle in heard:
        assert said.loss == pytest.approx(sum(LOSSES), rel=1e-15)
        assert said.weight == SIZE
        assert said.signals == [1.0, 0.0]
        assert not said.out_of_memory
        torch.testing.assert_close(said.metrics["r2"], torch.tensor([sum(values), 3.0], dtype=torch.float64))
        assert torch.equal(grad, torch.full_like(grad, 2))
        assert idle is None
    assert counts == [1 if dtype.is_floating_point else 2] * SIZE


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_is_not_finite_on_one_rank_is_so_in_the_sum(value):
    heard, _ = step(torch.float32, lambda rank: {"m": torch.tensor([value if rank == 1 else 2.0], dtype=torch.float64)})
    for said, grad, _ in heard:
        assert str(said.metrics["m"].item()) == str(value)
        assert torch.isfinite(grad).all()


def test_sums_that_are_many_are_a_message_of_their_own(monkeypatch):
    monkeypatch.setattr(exchange, "ROOM", 8 * SIZE * (exchange.HEAD + 4))
    for many, messages in ((4, 1), (5, 2)):
        heard, counts = step(torch.float32, lambda rank, n=many: {"m": torch.full((n,), 0.1, dtype=torch.float64)})
        assert counts == [messages] * SIZE
        for said, *_ in heard:
            torch.testing.assert_close(said.metrics["m"], torch.full((many,), 0.3, dtype=torch.float64))
