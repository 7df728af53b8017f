"""Several ranks measure together: one answer, the noise scale of one process, nothing that hangs."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import ranks


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_noise_scale_is_that_of_one_process(size, tmp_path):
    found = []
    for n in (1, size):
        folder = tmp_path / str(n)
        folder.mkdir()
        jobs = ranks.launch(n, ranks.moments_of, folder, folder=folder)
        statuses, said = ranks.ends(jobs, folder)
        assert statuses == [0] * n, said
        found += [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(n)]
    alone, *together = found
    for moments, loss, weight, grads in together:
        np.testing.assert_allclose([*moments, loss, weight], [*alone[0], *alone[1:3]], rtol=1e-9)
        assert grads.keys() == alone[3].keys()
        for name, grad in grads.items():
            np.testing.assert_allclose(grad, alone[3][name], rtol=1e-9, atol=1e-15, err_msg=name)


@pytest.mark.parametrize(
    ("name", "size"),
    [("all", 2), ("batch", 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in
     (("all", 3), ("batch", 3), ("rate", 2), ("rate", 3), ("stated", 2)))],
)  # fmt: skip
def test_ranks_measure_batch_and_rate_together(name, size, tmp_path):
    jobs = ranks.launch(size, ranks.measure, tmp_path, name, folder=tmp_path)
    statuses, said = ranks.ends(jobs, tmp_path)
    assert statuses == [0] * size, said
    first, *others = (torch.load(tmp_path / f"{name}{rank}.pt", weights_only=False) for rank in range(size))
    options = ranks.MEASURED[name][1]
    for choice in {"batch", "lr"} - options.keys():
        _, status, reason = first[choice]  # a large batch by the clock leaves too few steps for a race of rates
        assert status in ("measured", "bounded") or (choice == "lr" and "too short to try others" in reason), reason
    assert first["position"] >= 3 * 5400
    for other in others:  # to the bit
        np.testing.assert_equal(other, first)


def test_the_look_before_the_first_step_is_at_rank_0s_weights_and_so_may_be_the_end(tmp_path):
    """Each rank was given other weights, and their average is what is looked at where the rate is open."""
    jobs = ranks.launch(2, ranks.begin, tmp_path, folder=tmp_path)
    statuses, said = ranks.ends(jobs, tmp_path)
    assert statuses == [0, 0], said
    first, second = (dict(np.load(tmp_path / f"begun{rank}.npz")) for rank in range(2))
    np.testing.assert_equal(first, second)
    ranks.begin(0, tmp_path)
    alone = np.load(tmp_path / "begun0.npz")
    np.testing.assert_allclose(first["looks"], alone["looks"], rtol=1e-9)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the kernel does not tell")
def test_the_ranks_of_a_machine_hold_data_in_memory_once(tmp_path):
    """Two ranks take up less by one copy of the data than where each keeps its own, and end the same to the bit."""
    rng, rows = np.random.default_rng(0), 30_000
    x = pa.FixedSizeListArray.from_arrays(pa.array(rng.random(rows * 512, dtype=np.float32)), 512)
    pq.write_table(pa.table({"x": x, "y": rng.integers(0, 3, rows)}), tmp_path / "rows.parquet", compression="none")
    found = []
    for worth in (1 << 20, 1 << 60):
        jobs = ranks.launch(2, ranks.hold_data, str(tmp_path / "rows.parquet"), tmp_path, worth, folder=tmp_path)
        statuses, said = ranks.ends(jobs, tmp_path)
        assert statuses == [0, 0], said
        found.append([dict(np.load(tmp_path / f"held{rank}.npz")) for rank in range(2)])
    shared, apart = (sum(int(rank["held"]) for rank in ranks_) for ranks_ in found)
    assert apart - shared > 0.85 * rows * 512 * 4, (shared, apart)
    for rank in (*found[0], *found[1]):
        np.testing.assert_array_equal(rank["weights"], found[0][0]["weights"])
