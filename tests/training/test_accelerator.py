"""A device that is not the CPU, where there is none: tests/accelerator has a compiler make one. What is on the wrong
device fails there as on a GPU; without float64 it is as Apple's GPU."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from handful.base.errors import HandfulError
from handful.training.process.device import choose_device, needs_float64

RUNS = Path(__file__).parents[1] / "accelerator" / "runs.py"
compiler = pytest.mark.skipif(not (shutil.which("c++") and shutil.which("ninja")), reason="no C++ compiler and ninja")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return tmp_path_factory.mktemp("device")


@compiler
@pytest.mark.slow
@pytest.mark.parametrize("narrow", [False, True], ids=["with float64", "without"])
def test_a_run_on_another_device_is_the_run_on_the_cpu(built, narrow):
    env = os.environ | ({"FAR_NARROW": "1"} if narrow else {})
    done = subprocess.run([sys.executable, RUNS, built], env=env, capture_output=True, text=True, timeout=1500)
    found = dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith('["'))
    assert len(found) == 24, done.stderr[-2000:]
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_apples_gpu_is_taken_but_not_for_float64(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for model, precision in [("mlp", "auto"), (nn.Linear(2, 2), "auto"), (nn.Linear(2, 2), "bfloat16")]:
        assert choose_device("auto", needs_float64(model, precision)).value == "mps"
    for model, precision in [("mlp", "float64"), (nn.Linear(2, 2).double(), "auto"), (nn.Linear(2, 2), "float64")]:
        choice = choose_device("auto", needs_float64(model, precision))
        assert (choice.value, choice.reason) == ("cpu", "Apple's GPU has no float64")
    monkeypatch.setattr(torch, "empty", lambda *_, device: None)  # as if it were there
    with pytest.raises(HandfulError, match=r"^device 'mps' has no float64, .*: name cpu$"):
        choose_device("mps", True)
