"""What the doctor says is what this machine has."""

import os
import subprocess
import sys

import torch

from handful.cli.doctor import examine_machine


def test_it_tells_what_is_here() -> None:
    rows = {row["what"]: row for row in examine_machine()}
    assert rows["torch"]["here"] == torch.__version__
    assert rows["cores"]["here"] == len(os.sched_getaffinity(0))
    assert str(rows["device"]["here"]).startswith(("cuda",) if torch.cuda.is_available() else ("cpu", "mps"))
    assert all(row["so"] for row in rows.values())


def test_the_package_is_a_command() -> None:
    told = subprocess.run([sys.executable, "-m", "handful", "doctor"], capture_output=True, text=True, check=True)
    assert "not installed" in told.stdout or "torchvision" in told.stdout
    assert told.stderr == ""
