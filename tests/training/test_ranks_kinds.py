"""Promise 3 on several ranks, for many kinds of data, models and losses: what one process does, or a sentence."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import rank_kinds
import ranks

QUICK = ["a class and a number", "rows of different lengths", "rows compared", "places that count", "mixed pictures",
         "layers frozen and thawed"]  # fmt: skip
SLOW = [name for name in rank_kinds.KINDS if name not in QUICK]
FSDP = ["rows compared", "two heads", "text", "pictures", "spelled out by CTC", "NaN where rows are compared"]
slow = partial(pytest.param, marks=pytest.mark.slow)


def together(size, names, folder, **more):
    jobs = ranks.launch(size, rank_kinds.take_all, names, folder, more, folder=folder)
    statuses, said = ranks.ends(jobs, folder, 300)
    assert statuses == [0] * size, said
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


@pytest.mark.parametrize(
    ("size", "names", "more"),
    [(2, QUICK, {}), slow(2, SLOW, {}), slow(3, QUICK + SLOW, {}), slow(2, FSDP, {"sharding": "fsdp"})],
)
def test_ranks_end_where_one_process_does(size, names, more, tmp_path):
    found = together(size, names, tmp_path, **more)
    (alone,) = together(1, names, tmp_path)
    for name in names:
        for mine in (rank[name] for rank in found):
            assert "weights" in mine, (name, mine)
            for theirs, one in zip(mine["weights"], alone[name]["weights"], strict=True):
                np.testing.assert_allclose(theirs, one, rtol=1e-9, atol=1e-11, err_msg=name)
            assert [k for k, _ in mine["scores"]] == [k for k, _ in alone[name]["scores"]], name
            values = ([v for _, v in run["scores"]] for run in (mine, alone[name]))
            np.testing.assert_allclose(*values, rtol=1e-9, atol=1e-11, err_msg=name)
            assert mine["stopped"] == alone[name]["stopped"], name
            assert "draws its own" not in mine["said"], name


def test_what_is_not_the_same_is_said(tmp_path):
    for name, (*_, words) in rank_kinds.SAID.items():
        alone, *both = [*together(1, [name], tmp_path), *together(2, [name], tmp_path)]
        assert words not in alone[name]["said"], name
        assert all(words in rank[name]["said"] for rank in both), (name, both)
