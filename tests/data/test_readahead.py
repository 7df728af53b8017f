"""A store larger than memory gives the same rows, whatever is read ahead of them."""

import os
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import handful
from handful.base import machine as options
from handful.data.store import read as module
from handful.data.store import readahead
from handful.data.store.readahead import FilePrefetcher


@pytest.fixture(params=["page cache has room", "page cache is full"])
def large(request, monkeypatch, tmp_path):
    """Three shards of a store that is larger than the memory it may use."""
    rng = np.random.default_rng(0)
    x, words = rng.integers(0, 255, (5_000, 40), dtype=np.uint8), [f"{i} " * (i % 7) for i in range(5_000)]
    handful.prepare({"x": x, "text": words, "y": np.arange(5_000)}, tmp_path / "store", target="y", shards=3)
    monkeypatch.setattr(module, "memory_budget", lambda: 1)
    monkeypatch.setattr(module, "memory_left", lambda: 1 << 40 if request.param == "page cache has room" else 1)
    source = handful.open(tmp_path / "store")
    assert not source.in_memory
    return source, x, words


@pytest.mark.parametrize("order", [{}, {"shuffle": "block", "block": 16, "window": 640}])
def test_every_row_is_read_as_it_was_written(large, order):
    source, x, words = large
    seen = []
    for batch in handful.Batches(source, handful.Order(5_000, seed=3, **order)).stream(0, 250):
        assert (batch["x"].numpy() == x[batch.rows]).all()
        assert batch["text"] == [words[row] for row in batch.rows]
        seen += batch["y"].tolist()
        if len(seen) == 10_000:
            break
    assert sorted(seen) == sorted([*range(5_000)] * 2)


def test_rows_that_were_asked_for_are_not_asked_for_again(large, monkeypatch):
    source = large[0]
    asked = []
    real = module.will_need
    monkeypatch.setattr(module, "will_need", lambda *a: (asked.append(len(a[1])), real(*a))[1])
    source._sweep = None
    rows = np.random.default_rng(0).permutation(5_000)[:1_000]
    source.will_need(rows)
    first = len(asked)
    source.read(rows[:200])
    assert len(asked) == first > 0
    source.read(np.setdiff1d(np.arange(5_000), rows)[:200])
    assert len(asked) > first


def test_a_sweep_asks_for_every_byte_once_and_survives_a_missing_file(tmp_path, monkeypatch):
    """In pieces that Linux reads whole: of more than the read-ahead it reads the first part and says nothing."""
    sizes = {"a": 9 << 20, "empty": 0, "b": (9 << 20) + 5}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(bytes(size))
    asked = []
    monkeypatch.setattr(
        os, "posix_fadvise", lambda fd, start, size, what: asked.append((os.fstat(fd).st_size, start, size))
    )
    sweep = FilePrefetcher([tmp_path / name for name in ("a", "gone", "empty", "b")])
    sweep.start()
    sweep.start()
    for thread in threading.enumerate():
        if thread.name == "handful-prefetch":
            thread.join(10)
    assert not sweep.active
    assert asked == [(n, start, 128 << 10) for n in sizes.values() for start in range(0, n, 128 << 10)]


def test_long_runs_of_rows_are_asked_for_in_pieces_that_are_read_whole(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.zeros((1_000, 1024)))  # 8 MiB
    array, asked = np.load(tmp_path / "x.npy", mmap_mode="r"), []

    class Mapping(bytes):
        def madvise(self, what, start, length):
            asked.append((start, length))

    monkeypatch.setattr(readahead, "_mapping", lambda array: Mapping((tmp_path / "x.npy").stat().st_size))
    total = readahead.will_need(array, np.array([0, 900]), np.array([500, 901]))
    assert max(length for _, length in asked) == 128 << 10
    wanted = {page for a, b in ((0, 500), (900, 901)) for page in range(a * 8192 // 4096, b * 8192 // 4096)}
    assert {page for start, length in asked for page in range(start // 4096, (start + length) // 4096)} == wanted
    assert total == len(wanted) * 4096


def test_a_store_that_memory_has_room_for_is_read_ahead_once_its_rows_are_streamed(tmp_path):
    handful.prepare({"x": np.arange(50.0), "y": np.arange(50)}, tmp_path / "store", target="y")
    source = handful.open(tmp_path / "store")
    source.take([3, 1])
    assert not source._sweep._begun  # a look at a few rows reads no more than those
    assert next(handful.Batches(source, handful.Order(50, seed=3)).stream(0, 10))["y"].tolist()
    assert source._sweep._begun


@given(st.lists(st.integers(-5, 5)))
def test_rows_are_sorted_and_each_kept_once(rows):
    assert readahead.distinct(np.array(rows, np.int64)).tolist() == sorted(set(rows))


@pytest.mark.parametrize(
    ("groups", "files", "left"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "1000"}, 1000),
        ("0::/a\n", {"a/memory.max": "2000", "memory.max": "900"}, 900),
        ("4:memory:/x\n0::/\n", {"memory/x/memory.limit_in_bytes": "700"}, 700),
        ("4:cpu:/x\n", {"memory/x/memory.limit_in_bytes": "700"}, None),
        ("0::/a\n", {}, None),
    ],
)
def test_limits_of_control_groups_are_seen(tmp_path, groups, files, left):
    (tmp_path / "groups").write_text(groups)
    for name, text in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text + "\n")
    found = options.memory_left(tmp_path / "groups", tmp_path / "root")
    assert found == left if left else found > 1 << 20


def test_a_machine_without_control_groups_has_what_is_free(tmp_path):
    assert options.memory_left(tmp_path / "none", tmp_path) > 1 << 20
