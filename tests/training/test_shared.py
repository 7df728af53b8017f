"""Prediction and evaluation that several ranks share: each row once, and what one process would say of them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import ranks

import handful


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_ranks_say_what_one_process_says(size, tmp_path):
    jobs = ranks.launch(size, ranks.share, tmp_path, folder=tmp_path)
    statuses, said = ranks.ends(jobs, tmp_path)
    assert statuses == [0] * size, said
    for name, (data, options) in ranks.TOGETHER.items():
        run = handful.fit("mlp", data, **ranks.PLAIN | options | {"batch": 20}, quiet=True)
        alone = ranks.found_in(run, data, tmp_path)
        assert re.search("rows that were trained on", alone["notes"][0])
        for rank in range(size):
            found = torch.load(tmp_path / f"{name}{rank}.pt", weights_only=False)
            assert found.pop("csv") == (alone["csv"] if rank == 0 else None), name
            for part, rounded in (("scores", lambda v: [*v.values()]), ("calibration", lambda v: v.astype(float))):
                np.testing.assert_allclose(rounded(found.pop(part)), rounded(alone[part]), rtol=1e-12, err_msg=name)
            for part, value in found.items():  # to the bit
                np.testing.assert_equal(value, alone[part], f"{name}: {part}")


@pytest.mark.parametrize(
    ("what", "words"), [("rows", "other data"), ("values", "other data"), ("model", "another trained model")]
)
def test_ranks_that_differ_are_named(what, words, tmp_path):
    jobs = ranks.launch(2, ranks.differ, what, folder=tmp_path)
    statuses, said = ranks.ends(jobs, tmp_path)
    assert statuses == [2, 2], said
    assert all(f"rank 1 has {words} than rank 0" in text for text in said), said


def test_the_command_shares_the_rows(tmp_path):
    """As torchrun starts it: rank 0 writes, the others say nothing."""
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b,y\n" + "".join(f"{k % 7},{k % 5},{k % 3}\n" for k in range(1100)))
    how = {"target": "y", "lr": 0.1, "batch": 20, "until": "steps(9)", "quiet": True}
    run = handful.fit("mlp", str(rows), out=tmp_path / "run", **how)
    with ranks.socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def command(*words, given=""):
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        jobs = [
            subprocess.Popen(
                [sys.executable, "-m", "handful", *map(str, words)], env=os.environ | place | {"RANK": str(rank)},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for rank in range(2)
        ]  # fmt: skip
        said = [job.communicate(given, 120) for job in jobs]
        return [job.returncode for job in jobs], said

    statuses, said = command("predict", tmp_path / "run", rows)
    assert statuses == [0, 0], said
    written = [line.split(",")[1] for line in said[0][0].splitlines()[1:]]
    assert written == [str(value) for value in run.predict(str(rows))]
    assert said[1][0] == ""
    statuses, said = command("predict", tmp_path / "run", "-", given="a,b\n1,2\n")
    assert statuses == [2, 2], said
    assert "several ranks cannot share standard input" in said[1][1]
