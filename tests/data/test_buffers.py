"""Memory is used again only when nobody can see it."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

import handful
from handful.data.gather import SMALLEST, Buffers


def source():
    return handful.open({"x": np.arange(3000 * 4000, dtype=np.uint8).reshape(3000, 4000)})


def test_what_is_kept_is_never_overwritten_whatever_keeps_it():
    data, rng = source(), np.random.default_rng(0)
    kept = []
    for i in range(24):
        rows = rng.integers(0, 3000, 300)
        tensor = data.take(rows).tensor("x")
        views = [tensor, tensor[3:], tensor.view(torch.int8), tensor.numpy(), tensor.detach(), tensor.flatten()[9:]]
        kept.append((rows, i % len(views), views[i % len(views)]))
        del tensor, views
    for rows, which, view in kept:
        whole = data.take(rows).tensor("x")
        views = [whole, whole[3:], whole.view(torch.int8), whole.numpy(), whole.detach(), whole.flatten()[9:]]
        np.testing.assert_array_equal(np.asarray(view), np.asarray(views[which]))


def test_memory_that_is_let_go_is_used_again():
    buffers = Buffers()
    first = buffers.empty((SMALLEST,), np.dtype("uint8"))
    address = first.ctypes.data
    second = buffers.empty((SMALLEST,), np.dtype("uint8"))
    assert second.ctypes.data != address
    tensor = torch.from_numpy(first)[5:]
    del first
    assert buffers.empty((SMALLEST,), np.dtype("uint8")).ctypes.data != address
    del tensor
    assert buffers.empty((SMALLEST // 4,), np.dtype("float32")).ctypes.data == address


def test_threads_do_not_share_memory_in_use():
    data = source()

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(15):
            rows = rng.integers(0, 3000, 300)
            found = data.take(rows).tensor("x")
            expected = (rows[:, None] * 4000 + np.arange(4000)).astype(np.uint8)
            if not np.array_equal(found.numpy(), expected):
                return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))


def test_gradients_keep_what_they_need():
    x = handful.open({"x": np.random.default_rng(0).normal(size=(500, 600))})
    weight = torch.ones(600, dtype=torch.float64, requires_grad=True)
    loss = (x.take(range(300)).tensor("x") @ weight).sum()
    for _ in range(5):
        x.take(range(200, 500))
    loss.backward()
    torch.testing.assert_close(weight.grad, x.take(range(300)).tensor("x").sum(0))
