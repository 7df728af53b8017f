"""A device that is not the CPU, where there is none: tests/accelerator has a compiler make one. What is on the wrong
device fails there as on a GPU; without float64 it is as Apple's GPU."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
    assert len(found) == 23, done.stderr[-2000:]
    assert {name: wrong for name, wrong in found.items() if wrong} == {}
