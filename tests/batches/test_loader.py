"""A Loader is a DataLoader to the loop that uses it, and one integer to whoever saves it."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import handful
from handful.base.errors import HandfulError
from handful.batches.loader import Loader
from handful.batches.order import Order
from handful.batches.permutation import class_weights


def loader(n, size, prefetch=0, seed=0, **options):
    source = handful.open({"x": np.arange(n), "y": np.arange(n) % 2})
    return Loader(handful.Batches(source, Order(n, seed=seed), prefetch=prefetch), size, **options)


def rows(batch):
    return batch["x"].tolist()


@pytest.mark.parametrize("prefetch", [0, 3])
def test_an_epoch_has_every_row_once_and_the_length_it_says(prefetch):
    found = loader(103, 10, prefetch)
    for epoch in range(3):
        assert found.epoch == epoch
        batches = [rows(b) for b in found]
        assert len(batches) == len(found) == 11
        assert sorted(row for batch in batches for row in batch) == list(range(103))
        assert len(batches[-1]) == 3
    assert found.state_dict() == {"position": 309}


def test_drop_last_leaves_the_rest_of_each_epoch_out():
    found = loader(103, 10, drop_last=True)
    for _ in range(2):
        batches = [rows(b) for b in found]
        assert len(batches) == len(found) == 10
        assert all(len(b) == 10 for b in batches)
    assert found.position == 206


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 60),
    size=st.integers(1, 20),
    cut=st.integers(0, 40),
    drop=st.booleans(),
    prefetch=st.sampled_from([0, 2]),
)
def test_resumed_after_any_batch_it_goes_on_with_the_next(n, size, cut, drop, prefetch):
    if drop and size > n:
        return
    whole = loader(n, size, drop_last=drop)
    expected = [rows(b) for _ in range(3) for b in whole]
    first = loader(n, size, prefetch, drop_last=drop)
    seen, state = [], {"position": 0}
    while len(seen) < min(cut, len(expected)):
        for batch in first:
            seen.append(rows(batch))
            state = json.loads(json.dumps(first.state_dict()))
            if len(seen) == cut:
                break
    second = loader(n, size, prefetch, drop_last=drop)
    second.load_state_dict(state)
    while len(seen) < len(expected):
        seen += [rows(b) for b in second]
    assert seen == expected


def test_what_was_read_ahead_does_not_count():
    found = loader(1000, 10, prefetch=8)
    iterator = iter(found)
    for _ in range(3):
        next(iterator)
    assert found.state_dict() == {"position": 30}
    iterator.close()


@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 8])
def test_the_shares_of_all_ranks_are_the_batch(ranks):
    parts = [list(loader(100, 20, share=(rank, ranks))) for rank in range(ranks)]
    for step, batch in enumerate(loader(100, 20)):
        joined = torch.cat([part[step]["x"] for part in parts])
        assert torch.equal(joined, batch["x"])


def test_a_plain_torch_loop_trains_with_it():
    source = handful.open("iris")
    found = Loader(
        handful.Batches(source, Order(len(source), seed=0)),
        30,
        collate=lambda b: (torch.stack([b.tensor(n) for n in source.inputs], 1).float(), b.tensor("target")),
    )
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(40):
        for x, y in found:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    batch = source.take(range(150))
    x = torch.stack([batch.tensor(n) for n in source.inputs], 1).float()
    assert (model(x).argmax(1) == batch.tensor("target")).float().mean() > 0.95


def test_seeking_a_billionth_row_order_is_quick_and_reads_nothing():
    order = Order(10**9, seed=1)
    order[0:10]
    far = min(_seconds(lambda p=10**12 + k: order[p : p + 256]) for k in range(5))
    near = min(_seconds(lambda p=k: order[p : p + 256]) for k in range(5))
    assert far < 3 * near + 1e-3  # below 10 ms on a quiet machine: see benchmarks/results/data.md


def _seconds(call):
    import time

    start = time.thread_time()
    call()
    return time.thread_time() - start


def test_resuming_reads_no_row_but_those_it_yields():
    reads = []

    class Counted(handful.Source):
        columns = {"x": handful.open({"x": np.arange(3)}).columns["x"]}
        notes = []
        in_memory = True

        def __len__(self):
            return 10_000_000

        def read(self, rows):
            reads.append(len(rows))
            return {"x": torch.from_numpy(rows)}

    found = Loader(handful.Batches(Counted(), Order(10_000_000, shuffle="block")), 64)
    found.load_state_dict({"position": 64 * 100_000})
    next(iter(found))
    assert reads == [64]


def test_mistakes_are_named():
    with pytest.raises(HandfulError, match="at least one row"):
        loader(10, 0)
    with pytest.raises(HandfulError, match="do not fit"):
        loader(10, 11, drop_last=True)
    with pytest.raises(HandfulError, match="rank, ranks"):
        loader(10, 2, share=(2, 2))
    for wrong in ({}, {"position": "x"}, None, {"position": 1.5}):
        with pytest.raises(HandfulError, match="the state of a Loader"):
            loader(10, 2).load_state_dict(wrong)
    with pytest.raises(HandfulError, match="0 or more"):
        loader(10, 2).load_state_dict({"position": -1})


def test_class_weights_draw_rare_classes_as_often():
    labels = np.array([0] * 900 + [1] * 90 + [2] * 10)
    order = Order(1000, seed=0, shuffle="replacement", weights=class_weights(labels))
    drawn = np.bincount(labels[order[0:60_000]])
    np.testing.assert_allclose(drawn / 60_000, 1 / 3, atol=0.012)
    half = class_weights(labels, power=0.5)
    share = np.array([half[labels == c].sum() for c in range(3)])
    np.testing.assert_allclose(share / share.sum(), np.sqrt([900, 90, 10]) / np.sqrt([900, 90, 10]).sum())
    assert class_weights([-1, 0, 1])[0] == 0
    assert class_weights(["a", "a", "b"]).sum() == pytest.approx(3)
    with pytest.raises(HandfulError, match="between 0 and 1"):
        class_weights([0, 1], power=2)
    with pytest.raises(HandfulError, match="no row has a class"):
        class_weights([-1, -1])
