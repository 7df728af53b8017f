"""Promise 3 on several ranks, started by hand with torchrun's variables: what one process does, they do together.

What happens to one of them, all end with a sentence and a status.
"""

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import ranks


@pytest.mark.parametrize("size", [2, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_end_where_one_process_does(size, tmp_path):
    jobs = ranks.launch(size, ranks.take_all, list(ranks.CASES), tmp_path, folder=tmp_path)
    statuses, said = ranks.ends(jobs, tmp_path)
    assert statuses == [0] * size, said
    ended = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(size)]
    for name in ranks.CASES:
        alone = ranks.train(name)
        for mine, theirs in zip(alone["weights"], ended[0][name]["weights"], strict=True):
            np.testing.assert_allclose(theirs, mine, rtol=1e-9, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(ended[0][name]["scores"], alone["scores"], rtol=1e-9, err_msg=name)
        assert [rank[name]["back"] for rank in ended] == [alone["back"]] * size
        assert bool(alone["back"]) == (name == "rollback")
        for other in ended[1:]:  # to the bit
            for mine, theirs in zip(ended[0][name]["weights"], other[name]["weights"], strict=True):
                assert np.array_equal(mine, theirs), name
            np.testing.assert_equal(other[name]["scores"], ended[0][name]["scores"], name)
            np.testing.assert_equal(other[name]["best"], ended[0][name]["best"], name)


def test_a_silent_rank_is_named_with_the_seconds(tmp_path):
    jobs = ranks.launch(2, ranks.suffer, "SIGSTOP", tmp_path, 8.0, folder=tmp_path)
    jobs[0].join(100)
    statuses, said = ranks.ends(jobs, tmp_path, limit=0)
    assert statuses == [3, "late"], said
    assert re.search(r"rank 1 of 2 \(process \d+ on .*\) did not answer for \d+ seconds \(timeout=8\)", said[0])


FAULTS = {  # what happens -> exit statuses, and what each rank says
    "exception": ([3, 1], ["rank 1 of 2 ended: RuntimeError the cable is loose", "the cable is loose"]),
    "SIGKILL": ([3, -9], [r"rank 1 of 2 \(process \d+ on .*\) is gone", ""]),
    "data": ([2, 2], ["rank 1 has other data than rank 0"] * 2),
    "rate": ([2, 2], ["rank 1 has another plan than rank 0: lr is 0.2 and not 0.1"] * 2),
    "file": ([3, 2], ["rank 1 of 2 ended: .*missing.csv", "missing.csv"]),
    "late": ([2, 0], ["rank 1 of 2 did not come to 127.0.0.1", ""]),
    "NaN": ([3, 3], [r"not finite at step \d+, for row 17 of .*'x' itself holds NaN"] * 2),
    "SIGTERM": ([-15, -15], ["", ""]),
    "SIGINT": ([130, 130], ["it was interrupted"] * 2),
    "memory": ([0, 0], ["reached 12 steps 12 3"] * 2),
    "back": ([0, 0], [r"reached 12 steps 12 None \[6\]"] * 2),
}


@pytest.mark.parametrize("what", FAULTS)
def test_what_happens_to_one_rank_ends_all(what, tmp_path):
    limit = 3.0 if what == "late" else 60.0
    jobs = ranks.launch(2, ranks.suffer, what, tmp_path, limit, folder=tmp_path)
    statuses, said = ranks.ends(jobs, tmp_path)
    assert statuses == FAULTS[what][0], said
    for found, words in zip(said, FAULTS[what][1], strict=True):
        assert re.search(words, found), said
    if what == "SIGKILL":
        assert list((tmp_path / "run" / "checkpoints").glob("*06.json"))  # the last whole step


def test_the_folder_that_rank_0_gives_is_that_of_all(tmp_path):
    jobs = ranks.launch(2, ranks.out_of_one, tmp_path, folder=tmp_path)
    statuses, said = ranks.ends(jobs, tmp_path)
    assert statuses == [0, 0], said
    assert said[0] == said[1]
    first, second, third = said[0].splitlines()
    assert first.startswith("reached 6 steps")
    assert second.startswith("reached 12 steps")
    assert third == "rank 0 writes the run folder: give out= there, too, or on every rank"
    assert (tmp_path / "run0" / "result.json").exists()
    assert not (tmp_path / "run1").exists()


def test_no_run_begins_after_one_in_which_the_ranks_lost_one_another(tmp_path):
    jobs = ranks.launch(2, ranks.try_again, folder=tmp_path)
    statuses, said = ranks.ends(jobs, tmp_path)
    assert statuses == [0, 0], said
    for text in said:
        assert "each rank draws its own" in text
        assert re.search(
            "(?s)the cable is loose.*the ranks lost one another in a run before this one .rank 1 of 2", text
        )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(int(os.environ.get("HANDFUL_KILLS", "2"))))
def test_killed_at_any_moment_a_run_goes_on_with_another_number_of_ranks(seed, tmp_path):
    """Of 2 ranks one is killed; then of 3; then one process ends the run. Each row counts once: the end is the same."""
    rng = np.random.default_rng(seed)
    alone = tmp_path / "alone"
    alone.mkdir()
    (job,) = ranks.launch(1, ranks.go_on, alone, (-1, 0), "end", folder=alone)
    job.join(100)
    for size in (2, 3, 1):
        kill = (int(rng.integers(size)), float(rng.uniform(0.05, 0.4))) if size > 1 else (-1, 0)
        jobs = ranks.launch(size, ranks.go_on, tmp_path, kill, "end", folder=tmp_path)
        statuses, said = ranks.ends(jobs, tmp_path)
        assert set(statuses) <= {0, 3, -9}, (size, kill, statuses, said)
    assert statuses == [0], said
    np.testing.assert_allclose(np.load(tmp_path / "end.npy"), np.load(alone / "end.npy"), rtol=1e-9, atol=1e-12)
