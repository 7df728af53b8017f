"""Files appear whole or not at all: killed in the middle of a save, the checkpoint before is the newest."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from handful.base import files
from handful.base.errors import HandfulError
from handful.training.process import checkpoint

SAVING = """
import os, signal, sys, torch
from pathlib import Path
from handful.training.process import checkpoint
real = {name: getattr(os, name) for name in ("fsync", "replace")}
count = 0
def counted(name):
    def call(*args):
        global count
        count += 1
        if count == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return real[name](*args)
    return call
for name in real:
    setattr(os, name, counted(name))
for kill_after in map(int, sys.argv[2:]):
    if not os.fork():  # a process of its own, without loading torch again
        for step in range(1, 6):
            checkpoint.save(Path(sys.argv[1], str(kill_after)), step, {"w": torch.full((1000,), float(step))},
                            {"step": step})
        print(count, flush=True)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


def save_until(folder, *kill_after):
    """What is printed by processes that save five times, each killed at one of these calls: 0 is none."""
    command = [sys.executable, "-c", SAVING, str(folder), *map(str, kill_after)]
    return [int(line) for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]


def test_killed_at_every_system_call_of_a_save_the_newest_whole_checkpoint_is_found(tmp_path):
    calls, code = save_until(tmp_path, 0)
    per_save = calls // 5
    assert per_save >= 4
    assert code == 0
    third = range(2 * per_save + 1, 3 * per_save + 1)  # every call of the third save
    assert save_until(tmp_path, *third) == [-signal.SIGKILL] * per_save
    for k in third:
        tensors, meta, notes = checkpoint.load(tmp_path / str(k))
        assert meta["step"] in (2, 3)
        assert notes == []
        assert torch.equal(tensors["w"], torch.full((1000,), float(meta["step"])))


def test_a_save_after_a_kill_clears_what_was_left(tmp_path):
    assert save_until(tmp_path, 9) == [-signal.SIGKILL]
    checkpoint.save(tmp_path / "9", 9, {"w": torch.zeros(2)}, {})
    assert not [p for p in (tmp_path / "9").iterdir() if p.suffix == ".tmp"]


def test_the_first_and_the_newest_two_are_kept(tmp_path):
    for step in range(5):
        checkpoint.save(tmp_path, step, {"w": torch.full((3,), float(step))}, {"step": step})
    kept = ["000000000000", "000000000003", "000000000004"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [k + end for k in kept for end in (".json", ".safetensors")]


@pytest.mark.parametrize("damage", ["flip", "truncate", "missing", "json"])
def test_a_damaged_newest_is_passed_over_with_a_word(tmp_path, damage):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"w": torch.full((100,), float(step))}, {"step": step})
    newest = tmp_path / "000000000002.safetensors"
    if damage == "flip":
        data = bytearray(newest.read_bytes())
        data[-1] ^= 64
        newest.write_bytes(bytes(data))
    elif damage == "truncate":
        newest.write_bytes(newest.read_bytes()[:50])
    elif damage == "missing":
        newest.unlink()
    else:
        newest.with_suffix(".json").write_text("{")
    tensors, meta, notes = checkpoint.load(tmp_path)
    assert meta["step"] == 1
    assert float(tensors["w"][0]) == 1
    assert "falling back to the one before" in notes[0]


def test_every_dtype_and_shared_memory_round_trip(tmp_path):
    w = torch.randn(4, 3)
    tensors = {
        "tied": w, "also": w, "view": w.T, "half": w.half(), "bf16": w.bfloat16(), "double": w.double(),
        "int": torch.arange(3), "bool": torch.tensor([True, False]), "scalar": torch.tensor(3.0),
        "none": torch.empty(0),
    }  # fmt: skip
    checkpoint.save(tmp_path, 1, tensors, {})
    back, _, _ = checkpoint.load(tmp_path)
    assert set(back) == set(tensors)
    assert all(torch.equal(back[k], v) and back[k].dtype == v.dtype for k, v in tensors.items())


@pytest.mark.parametrize("before", [1, 2])
def test_complex_numbers_of_128_bits_lie_where_torch_can_copy_them(tmp_path, before):
    """torch 2.13 crashes on a copy of some that lie at no multiple of 16 bytes, as behind others in a file they may."""
    z = torch.randn(5, 6, dtype=torch.complex128)
    checkpoint.save(tmp_path, 1, {"a": torch.zeros(before, dtype=torch.float64), "z": z}, {})
    back = checkpoint.load(tmp_path)[0]["z"]
    assert back.data_ptr() % 16 == 0
    assert torch.equal(back, z)


def test_a_file_that_cannot_be_written_is_one_sentence_and_the_old_one_stays(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(HandfulError, match="the disk is full"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_no_checkpoint_is_said(tmp_path):
    with pytest.raises(HandfulError, match="no checkpoint"):
        checkpoint.load(tmp_path)


def test_nothing_pickled_is_ever_read(tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    checkpoint.save(tmp_path, 1, {"w": torch.zeros(2)}, {})
    (tmp_path / "000000000001.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(HandfulError):
        checkpoint.load(tmp_path)
    with pytest.raises(HandfulError):
        checkpoint.read_tensors(tmp_path / "000000000001.safetensors")
    assert not (tmp_path / "exploded").exists()
