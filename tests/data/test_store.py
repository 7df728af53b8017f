"""A store gives back what went in, survives being killed, and names whatever is damaged."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import handful
from handful.base import files
from handful.base.errors import HandfulError
from handful.data.base import Ragged
from handful.data.store import manifest as m
from handful.data.store import prepare as prepare_module
from handful.data.store import read as store_module
from handful.data.store import write as store_write
from handful.data.store.prepare import prepare
from handful.data.store.read import open_store, verify

N = 101


def ragged_lists(n, seed=0):
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.integers(0, 99, k)) for k in rng.integers(0, 9, n)]


def columns(n=N, seed=0):
    """Every layout: a lone number, four that lie side by side, a block, bfloat16, lists of numbers, texts."""
    rng = np.random.default_rng(seed)
    found = {name: rng.normal(size=n) for name in ("a", "b", "c", "d")}
    found["flag"] = rng.integers(0, 2, n).astype(bool)
    found["block"] = rng.integers(0, 255, (n, 3, 5)).astype(np.uint8)
    found["half"] = torch.from_numpy(rng.normal(size=(n, 2))).to(torch.bfloat16)
    found["ids"] = ragged_lists(n, seed)
    found["words"] = [f"row {i} says ünï {'☃' * (i % 4)} and so on" for i in range(n)]
    found["empty"] = ["" if i % 3 else f"only some {i} have words" for i in range(n)]
    found["kind"] = [("red", "green", "blue")[i % 3] for i in range(n)]
    return found


def equal(value, other):
    if isinstance(value, Ragged):
        return torch.equal(value.offsets, other.offsets) and torch.equal(value.values, other.values)
    if isinstance(value, torch.Tensor):
        return value.dtype == other.dtype and torch.equal(value, other)
    return value == other


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """The same data in memory, in one shard and in three."""
    folder = tmp_path_factory.mktemp("stores")
    source = handful.open(columns(), target="kind")
    return source, {k: prepare(source, folder / f"s{k}", shards=k) for k in (1, 3)}


@pytest.mark.parametrize("shards", [1, 3])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.integers(0, N - 1), max_size=60))
def test_take_equals_the_source_it_was_made_from(stores, shards, rows):
    source, prepared = stores
    expected, found = source.take(rows), prepared[shards].take(rows)
    assert list(found.columns) == list(expected.columns)
    for name in expected.columns:
        assert equal(found[name], expected[name]), name
        assert equal(prepared[shards].read_column(name, np.array(rows, np.int64)), expected[name]), name


def test_columns_target_and_classes_are_kept(stores):
    source, prepared = stores
    for store in prepared.values():
        assert store.columns == source.columns
        assert store.target == "kind"
        again = handful.open(store.where)
        assert again.columns == source.columns
        assert len(again) == N


def test_any_array_round_trips(tmp_path):
    @settings(max_examples=25, deadline=None)
    @given(
        dtype=st.sampled_from(["uint8", "int16", "int64", "float32", "float64", "bool"]),
        shape=st.lists(st.integers(1, 4), max_size=3),
        n=st.integers(2, 40),
        shards=st.integers(1, 2),
        seed=st.integers(0, 9),
    )
    def check(dtype, shape, n, shards, seed):
        x = np.random.default_rng(seed).integers(0, 2, (n, *shape)).astype(dtype)
        store = prepare({"x": x}, tmp_path / "s", shards=shards, overwrite=True)
        rows = np.random.default_rng(seed).integers(0, n, 50)
        np.testing.assert_array_equal(store.take(rows).tensor("x").numpy(), x[rows])

    check()


def test_rows_outside_are_refused(stores):
    with pytest.raises(IndexError, match=r"row 101 is outside 0\.\.100"):
        stores[1][1].take([0, 101])


def test_values_may_be_changed_without_touching_the_store(stores):
    store = stores[1][1]
    batch = store.take([5])
    batch.tensor("block").zero_()
    assert store.take([5]).tensor("block").any()


def test_chunk_size_and_workers_do_not_change_a_byte(tmp_path, monkeypatch):
    source = handful.open(columns(), target="kind")
    prepare(source, tmp_path / "a", workers=1)
    monkeypatch.setattr("handful.data.store.chunks.CHUNK", 700)
    monkeypatch.setattr(store_write, "COMMIT", 1000)
    from handful.data.store.chunks import SourceFeed

    feed = SourceFeed(source, {"handful": handful.__version__, "identity": None}, "auto", unit=700)
    store_write.write_store(feed, tmp_path / "b", 1, 3)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


# Killed


DRIVER = textwrap.dedent(
    """
    import json, os, random, signal, sys, time
    from pathlib import Path
    from handful.data.store import chunks as feed, inputs, write as w
    from handful.data.tables import files as table_files
    import pyarrow.csv, pyarrow.parquet
    from handful.data.store.prepare import prepare

    feed.CHUNK, w.COMMIT, inputs.SMALL = 1 << 12, 1 << 14, 0
    table_files.BLOCK, table_files.ROWS = 1 << 12, 50
    w.os.fsync = lambda fd: time.sleep(0.0003)  # slow enough for a kill to fall into commits; SIGKILL loses no page
    where, whole, store, moments = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])

    def start(store):
        child = os.fork()
        if child == 0:
            prepare(where, store, shards=3, workers=2)
            os._exit(0)
        return child

    def stamp():
        try:
            return journal.stat().st_mtime_ns
        except OSError:
            return None

    os.waitpid(start(whole), 0)
    chance, killed, resumed, early = random.Random(3), 0, 0, 0
    unfinished = Path(store).parent / ("." + Path(store).name + ".unfinished")
    journal = unfinished / "journal.json"
    while killed < moments:
        child, commits, last, ended = start(store), chance.randrange(4), None, False
        while commits > 0 and not ended:  # until so many more commits are done
            ended = os.waitpid(child, os.WNOHANG)[0] != 0
            now = stamp()
            commits -= now not in (None, last)
            last = now
            time.sleep(0.0002)
        if ended:
            early += 1
            os.rename(store, store + str(early))
            continue
        time.sleep(chance.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        killed += 1
        resumed += journal.exists() and json.loads(journal.read_text())["chunks"] > 0
        if Path(store).exists():
            early += 1
            os.rename(store, store + str(early))
    os.waitpid(start(store), 0)
    print(json.dumps([killed, resumed, early]))
    """
)


@pytest.mark.parametrize(("kind", "moments"), [("npz", 20), ("csv", 8), ("parquet", 8)])
def test_killed_at_many_moments_and_run_again_gives_the_same_bytes(tmp_path, kind, moments):
    where, store = write_input(tmp_path, kind), tmp_path / "store"
    arguments = [sys.executable, "-c", DRIVER, where, tmp_path / "whole", store, str(moments)]
    run = subprocess.run(arguments, check=True, capture_output=True, text=True)
    killed, resumed, early = json.loads(run.stdout)
    expected = tree(tmp_path / "whole")
    assert len([name for name in expected if name.endswith("values")]) >= 6
    assert tree(store) == expected
    for i in range(early):
        assert tree(f"{store}{i + 1}") == expected
    assert killed == moments
    assert resumed >= 3
    assert not (tmp_path / ".store.unfinished").exists()


def write_input(folder, kind):
    import pandas as pd

    rng = np.random.default_rng(1)
    n = 3000
    frame = pd.DataFrame(
        {
            "x": rng.normal(size=n),
            "k": rng.integers(0, 9, n),
            "text": [f'some words, "quoted"\nand {i} more' for i in range(n)],
            "label": rng.choice(["yes", "no"], n),
        }
    )
    path = folder / f"in.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path, row_group_size=700)
    else:
        np.savez(path, x=rng.normal(size=(n, 20)), y=rng.integers(0, 3, n))
    return str(path)


def test_an_unfinished_write_of_another_input_is_not_continued(tmp_path, monkeypatch):
    monkeypatch.setattr("handful.data.store.chunks.CHUNK", 1 << 10)
    monkeypatch.setattr(store_write, "COMMIT", 1 << 10)
    np.save(tmp_path / "x.npy", np.arange(10_000.0))
    real, calls = store_write.Writer.add, []

    def fail(self, pieces):
        calls.append(1)
        if len(calls) > 5:
            raise KeyboardInterrupt
        real(self, pieces)

    monkeypatch.setattr(store_write.Writer, "add", fail)
    with pytest.raises(KeyboardInterrupt):
        prepare(str(tmp_path / "x.npy"), tmp_path / "s")
    monkeypatch.setattr(store_write.Writer, "add", real)
    assert (tmp_path / ".s.unfinished").is_dir()
    np.save(tmp_path / "x.npy", -np.arange(10_000.0))
    os.utime(tmp_path / "x.npy", (1, 1))
    store = prepare(str(tmp_path / "x.npy"), tmp_path / "s")
    np.testing.assert_array_equal(store.take(range(10_000)).tensor("x").numpy(), -np.arange(10_000.0))


def test_two_writers_of_one_store_exclude_each_other(tmp_path):
    import fcntl

    hidden = tmp_path / ".s.unfinished"
    hidden.mkdir()
    with open(hidden / "lock", "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(HandfulError, match="is being written by another process"):
            prepare("iris", tmp_path / "s")


def test_a_store_is_written_where_there_are_no_locks(tmp_path, monkeypatch):
    """As on some network disks, where it was said that another process writes it."""

    def none(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", none)
    assert len(prepare("iris", tmp_path / "s")) == 150
    (tmp_path / ".t.unfinished").mkdir()
    (tmp_path / ".t.unfinished" / "lock").write_text("process 5 on another-machine")
    with pytest.raises(HandfulError, match="is being written by process 5 on another-machine"):
        prepare("iris", tmp_path / "t")


def test_what_is_there_is_kept_unless_overwritten(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(5))
    prepare(str(tmp_path / "x.npy"), tmp_path / "s")
    before = (tmp_path / "s" / m.FILE).stat().st_mtime_ns
    assert len(prepare(str(tmp_path / "x.npy"), tmp_path / "s")) == 5
    assert (tmp_path / "s" / m.FILE).stat().st_mtime_ns == before
    with pytest.raises(HandfulError, match=r"is there already.*overwrite=True"):
        prepare("iris", tmp_path / "s")
    assert len(prepare("iris", tmp_path / "s", overwrite=True)) == 150
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(HandfulError, match="is not a store, so it is not overwritten"):
        prepare("iris", tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "s", "x.npy"]


# Damaged


@pytest.fixture
def damaged(tmp_path):
    prepare(columns(), tmp_path / "s", target="kind", shards=2)
    return tmp_path / "s"


@pytest.mark.parametrize("seed", range(8))
def test_a_flipped_bit_anywhere_is_found_and_its_file_named(damaged, seed):
    rng = np.random.default_rng(seed)
    files = [p for p in sorted(damaged.rglob("*")) if p.is_file() and p.suffix in (".values", ".offsets")]
    path = files[rng.integers(len(files))]
    data = bytearray(path.read_bytes())
    if not data:
        pytest.skip("an empty file has no bit")
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    name = str(path.relative_to(damaged))
    found = verify(damaged)
    assert len(found) == 1
    assert name in found[0]
    with pytest.raises(HandfulError, match=name.replace(".", r"\.")):
        open_store(damaged)


def test_a_flipped_bit_in_a_large_store_is_placed_within_its_block(tmp_path, monkeypatch):
    monkeypatch.setattr(m, "BLOCK", 1000)
    monkeypatch.setattr(store_module, "CHECKED_AT_OPEN", 0)
    prepare({"x": np.arange(1000)}, tmp_path / "s")
    path = tmp_path / "s" / "00000" / "000.values"
    data = bytearray(path.read_bytes())
    data[4321] ^= 4
    path.write_bytes(data)
    open_store(tmp_path / "s")  # too large to be read at every opening
    assert [s for s in verify(tmp_path / "s") if "between bytes 4,000 and 5,000" in s]


def test_a_cut_file_a_missing_file_and_a_missing_shard_are_named(damaged):
    import shutil

    path = damaged / "00001" / "000.values"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(HandfulError, match=r"00001/000\.values has .* instead of .*cut short"):
        handful.open(damaged)
    path.unlink()
    with pytest.raises(HandfulError, match=r"00001/000\.values is missing"):
        handful.open(damaged)
    shutil.rmtree(damaged / "00001")
    with pytest.raises(HandfulError, match="shard 1 is not whole"):
        handful.open(damaged)
    assert "shard 1 is not whole" in verify(damaged)[0]


def changed(folder, change):
    path = folder / m.FILE
    plain = json.loads(path.read_text())
    change(plain)
    plain.pop("digest", None)
    plain["digest"] = m.digest(json.dumps(plain, sort_keys=True).encode())
    path.write_text(json.dumps(plain))


def test_a_wrong_manifest_is_named(damaged):
    path = damaged / m.FILE
    text = path.read_text()
    for wrong, says in [
        (text[: len(text) // 2], "cut short or damaged"),
        (text.replace('"rows": 101', '"rows": 100'), "its digest does not match"),
        ("{}", "its format is not"),
        ("[]", "its format is not"),
        (text.replace('"version": 1', '"version": 9'), "is of version 9"),
        ("\x00\xff", "cut short or damaged"),
    ]:
        path.write_text(wrong)
        with pytest.raises(HandfulError, match=says):
            handful.open(damaged)
        assert len(verify(damaged)) == 1
    path.unlink()
    with pytest.raises(HandfulError, match=r"has no manifest\.json"):
        handful.open(damaged)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: p["shards"][0]["files"].update({"../secret": {"bytes": 1, "digests": ["x"]}}), "points outside"),
        (lambda p: p["shards"][0]["files"].update({"/etc/passwd": {"bytes": 1, "digests": []}}), "points outside"),
        (lambda p: p["shards"].pop(), "do not add up"),
        (lambda p: p["columns"].pop(), "do not hold its columns"),
        (lambda p: p.update(target="nobody"), "is not a column"),
        (lambda p: p["shards"][0]["files"].pop("00000/000.values"), "are not those of its columns"),
        (lambda p: p["parts"][0].update(dtype="float32"), "has .* bytes in shard 0"),
        (lambda p: p.pop("parts"), "parts"),
        (lambda p: p["parts"][0].update(dtype="no such"), "no such"),
    ],
)
def test_a_manifest_that_lies_is_refused_even_with_a_right_digest(damaged, change, says):
    changed(damaged, change)
    with pytest.raises(HandfulError, match=says):
        handful.open(damaged)


def test_a_store_can_be_pickled_and_read_by_threads(stores):
    import pickle
    from concurrent.futures import ThreadPoolExecutor

    source, prepared = stores
    again = pickle.loads(pickle.dumps(prepared[3]))
    rows = np.random.default_rng(0).integers(0, N, (50, 20))
    with ThreadPoolExecutor(4) as pool:
        for ids, batch in zip(rows, pool.map(again.take, rows)):
            assert equal(batch["words"], source.take(ids)["words"])


def test_memory_does_not_grow_with_what_is_written(tmp_path):
    """Four times the rows: the same peak of memory that the process has to itself."""
    script = textwrap.dedent(
        """
        import sys, threading, time
        from handful.data.store import inputs, prepare as p
        from handful.data.tables import files as table_files
        import pandas, pyarrow.csv
        inputs.SMALL = 0
        table_files.BLOCK = 1 << 20

        def own():
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

        def watch():
            while not done:
                most[-1] = max(most[-1], own())
                time.sleep(0.005)

        most, done = [0], []
        thread = threading.Thread(target=watch)
        thread.start()
        for name in ("small", "small2", "large"):
            most.append(0)
            p.prepare(f"{sys.argv[1]}/{name}.csv", f"{sys.argv[1]}/{name}")
        done.append(1)
        thread.join()
        print(*most[2:])
        """
    )
    rng = np.random.default_rng(0)
    lines = "".join(f"{a:.12f},{b},a text of some words and a number {b} {a}\n" for a, b in rng.normal(size=(4000, 2)))
    for name, count in (("small", 30), ("small2", 30), ("large", 120)):
        (tmp_path / f"{name}.csv").write_text("a,b,text\n" + lines * count)
    size = (tmp_path / "large.csv").stat().st_size
    assert size > 45e6
    run = subprocess.run([sys.executable, "-c", script, tmp_path], check=True, stdout=subprocess.PIPE, text=True)
    small, large = (int(kilobytes) * 1024 for kilobytes in run.stdout.split())
    assert large < small + size / 3


def test_whoever_writes_a_store_second_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    """The other call publishes it after this one has looked whether it is there."""
    source, opened = ({"x": np.arange(8.0), "y": [0, 1] * 4}), prepare_module.open_feed

    def meanwhile(*given):
        monkeypatch.setattr(prepare_module, "open_feed", opened)
        handful.prepare(source, tmp_path / "s")
        return opened(*given)

    monkeypatch.setattr(prepare_module, "open_feed", meanwhile)
    with pytest.raises(HandfulError, match="was just written by another process: open it"):
        handful.prepare(source, tmp_path / "s")
    assert len(handful.open(tmp_path / "s")) == 8
    assert os.listdir(tmp_path) == ["s"]
