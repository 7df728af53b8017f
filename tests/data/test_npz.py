"""A .npz file gives its arrays as numpy.load does, and large ones without loading them."""

import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest

import handful
from handful.base.errors import HandfulError
from handful.data.store import npz as module


@pytest.fixture(params=["mapped", "loaded"])
def size(request, monkeypatch):
    monkeypatch.setattr(module, "LARGE", 0 if request.param == "mapped" else 1 << 30)
    return request.param


ARRAYS = {
    "real": np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32),
    "double": np.random.default_rng(1).normal(size=50),
    "swapped": np.arange(50, dtype=">i4"),
    "columns_first": np.asfortranarray(np.arange(100.0).reshape(50, 2)),
    "empty_rows": np.zeros((50, 0)),
    "label": np.arange(50) % 3,
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("memory", [0, None])
def test_every_array_is_as_numpy_loads_it(tmp_path, size, save, memory):
    save(tmp_path / "a.npz", **ARRAYS)
    source = handful.open(tmp_path / "a.npz", memory=memory)
    rows = np.array([7, 0, 49, 7])
    batch = source.take(rows)
    for name, array in ARRAYS.items():
        assert (batch.tensor(name).numpy() == array[rows]).all()
    assert source.in_memory == (size == "loaded" or (save is np.savez_compressed and memory is None))
    store = handful.prepare(tmp_path / "a.npz", tmp_path / "store")
    assert (store.take(rows).tensor("real").numpy() == ARRAYS["real"][rows]).all()


@pytest.mark.parametrize("offset", range(8))
def test_an_array_that_lies_at_an_odd_byte_is_read_without_a_copy_of_it(tmp_path, monkeypatch, offset):
    monkeypatch.setattr(module, "LARGE", 0)
    np.savez(tmp_path / "a.npz", **{"n" * (offset + 1): ARRAYS["double"]})
    source = handful.open(tmp_path / "a.npz")
    assert source.take([3, 1]).tensor("n" * (offset + 1)).tolist() == ARRAYS["double"][[3, 1]].tolist()


def test_what_is_broken_is_one_sentence(tmp_path, size):
    np.savez(tmp_path / "whole.npz", x=np.arange(1000.0))
    whole = (tmp_path / "whole.npz").read_bytes()
    cases = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "header": whole.replace(b"PK\x03\x04", b"PK\x03\x05"),
        "no_numpy": whole.replace(b"\x93NUMPY", b"\x93NIMPY"),
        "text": b"hello",
    }
    for name, data in cases.items():
        (tmp_path / f"{name}.npz").write_bytes(data)
        with pytest.raises(HandfulError, match=name):
            handful.open(tmp_path / f"{name}.npz")
    np.savez(tmp_path / "objects.npz", x=np.array([{}, []], dtype=object))
    with pytest.raises(HandfulError, match="objects"):
        handful.open(tmp_path / "objects.npz")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("readme.md", "hello")
    with pytest.raises(HandfulError, match=r"readme.md"):
        handful.open(tmp_path / "other.npz")


def test_an_array_larger_than_its_member_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LARGE", 0)
    np.savez(tmp_path / "a.npz", x=np.zeros(1000), y=np.zeros(1000))
    data = (tmp_path / "a.npz").read_bytes().replace(b"(1000,)", b"(9000,)")
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(HandfulError, match="cut short"):
        handful.open(tmp_path / "a.npz")


def test_memory_does_not_grow_with_the_array(tmp_path):
    """160 MB, as they are and compressed, are opened, read in mini-batches and written as a store within a third."""
    script = textwrap.dedent(
        """
        import sys, threading, time, handful, numpy as np

        def own():
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

        def watch():
            while not done:
                most[0] = max(most[0], own())
                time.sleep(0.005)

        for save in ("tiny", "savez", "savez_compressed"):  # the first, so that all is imported
            path = f"{sys.argv[1]}/{save}"
            start, most, done = own(), [0], []
            thread = threading.Thread(target=watch)
            thread.start()
            source = handful.open(path + ".npz", memory=0)
            stream = handful.Batches(source, handful.Order(len(source))).stream(0, 64)
            for _ in range(20):
                next(stream)
            handful.prepare(path + ".npz", path)
            done.append(1)
            thread.join()
            print(most[0] - start)
        """
    )
    np.savez(tmp_path / "tiny", x=np.zeros((200, 1000)))
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / save.__name__, x=np.zeros((20_000, 1000)))
    run = subprocess.run([sys.executable, "-c", script, tmp_path], check=True, stdout=subprocess.PIPE, text=True)
    _, *grown = map(int, run.stdout.split())
    assert len(grown) == 2
    assert max(grown) * 1024 < 160e6 / 3
