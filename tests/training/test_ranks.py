"""Promise 3 on several ranks, started by hand with torchrun's variables: what one process does, they do together."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import ranks


@pytest.mark.parametrize("size", [2, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_end_where_one_process_does(size, tmp_path):
    statuses, said = ranks.ends(ranks.launch(size, ",".join(ranks.CASES), tmp_path))
    assert statuses == [0] * size, said
    ended = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(size)]
    for name in ranks.CASES:
        alone = ranks.train(name)
        for mine, theirs in zip(alone["weights"], ended[0][name]["weights"], strict=True):
            np.testing.assert_allclose(theirs, mine, rtol=1e-9, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(ended[0][name]["scores"], alone["scores"], rtol=1e-9, err_msg=name)
        for other in ended[1:]:  # to the bit
            for mine, theirs in zip(ended[0][name]["weights"], other[name]["weights"], strict=True):
                assert np.array_equal(mine, theirs), name
            assert other[name]["scores"] == ended[0][name]["scores"], name
            assert other[name]["best"] == ended[0][name]["best"], name
