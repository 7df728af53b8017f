"""Killed at random moments, gone on with, ended: the same to the bit (torture.py). Inputs with faults (mutations.py)"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def run(script, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert not found["wrong"], done.stderr
    assert done.returncode == 0
    return found


def test_six_kills():
    found = run("torture.py", "--kills", 6, "--each", 3, "--only", "adamw,skip,prepare")
    assert found["hits"] >= 6


@pytest.mark.slow
def test_200_kills_of_all_kinds_of_work():
    assert run("torture.py", "--kills", 200, "--seed", 1)["hits"] >= 200


@pytest.mark.slow
@pytest.mark.parametrize("signals", ["TERM,INT,HUP", "TERM2,INT2,HUP2", "PIPE"])
def test_signals_once_and_twice_and_a_closed_pipe(signals):
    found = run("torture.py", "--kills", 60, "--seed", 2, "--signals", signals)
    assert found["hits"] >= 60


@pytest.mark.parametrize("hits", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_every_command_cut_short_leaves_whole_files(hits):
    assert run("commands.py", "--hits", hits)["hits"] >= hits


@pytest.mark.parametrize("hits", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_commands_are_cut_short_while_they_begin(hits):
    found = run("commands.py", "--fresh", "--hits", hits, "--only", "inspect,predict csv", "--signals", "INT,TERM,HUP")
    assert found["hits"] >= hits


def test_mutated_inputs_are_one_sentence_each():
    found = run("mutations.py", "--count", 200)
    assert found["refused"] > 50


@pytest.mark.slow
def test_many_mutated_inputs_are_one_sentence_each():
    assert run("mutations.py", "--count", 100_000, "--seed", 1)["refused"] > 30_000


def test_a_signal_while_torch_is_loaded_ends_the_command_at_once(tmp_path):
    """torch's C++ aborts where something is raised in what it calls meanwhile."""
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nprint('went on')\n")
    command = [sys.executable, "-c", "from handful.cli import main; main()", "predict", "run", "rows.csv"]
    path = os.pathsep.join([str(tmp_path), str(HERE.parent / "src")])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "handful: interrupted\n")
