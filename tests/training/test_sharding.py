"""sharding="fsdp": parameters, gradients and optimizer state shared out among the ranks; the update is the same."""

import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import handful
from handful.plan.defaults import over_ranks
from handful.training.objective import Objective
from handful.training.process import sharding
from handful.training.process.parallel import Ranks

sys.path.insert(0, str(Path(__file__).parent))
import ranks

FSDP = {"sharding": "fsdp"}
QUICK = ["momentum", "micro-batches", "unused parameters", "muon", "rollback"]
SLOW = [name for name in ranks.CASES if name not in (*QUICK, "sparse gradients", "fewer rows than ranks")]
slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(("size", "names"), [(2, QUICK), slow(2, SLOW), slow(3, QUICK), slow(4, QUICK), slow(4, SLOW)])
def test_shared_out_ranks_end_where_one_process_does(size, names, tmp_path):
    names = [name for name in names if size == 2 or name != "two rows"]
    jobs = ranks.launch(size, ranks.take_all, names, tmp_path, FSDP, folder=tmp_path)
    statuses, said = ranks.ends(jobs, tmp_path)
    assert statuses == [0] * size, said
    ended = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(size)]
    for name in names:
        alone = ranks.train(name)
        for mine in ended:
            for theirs, one in zip(mine[name]["weights"], alone["weights"], strict=True):
                np.testing.assert_allclose(theirs, one, rtol=1e-9, atol=1e-12, err_msg=name)
            np.testing.assert_allclose(mine[name]["scores"], alone["scores"], rtol=1e-9, err_msg=name)


def test_four_ranks_hold_a_quarter_each(tmp_path):
    jobs = ranks.launch(4, partial(ranks.hold, **FSDP), tmp_path, folder=tmp_path)
    statuses, said = ranks.ends(jobs, tmp_path)
    assert statuses == [0] * 4, said
    (alone,) = ranks.launch(1, partial(ranks.hold, join=False), tmp_path / "..", folder=tmp_path)
    alone.join(100)
    one = np.load(tmp_path / ".." / "held0.npy").max()
    assert max(np.load(tmp_path / f"held{rank}.npy").max() for rank in range(4)) <= 0.35 * one


def test_an_optimizer_that_cannot_step_shards_is_found_before_step_1(tmp_path):
    names = ["Adafactor", "Rprop", "RAdam"]
    jobs = ranks.launch(2, partial(ranks.step_by, **FSDP), names, folder=tmp_path)
    statuses, said = ranks.ends(jobs, tmp_path)
    assert statuses == [0, 0], said
    for printed in said:
        assert re.findall(r"^(\w+) (?:\w+, with these options, (cannot step)|ends (well))", printed, re.M) == [
            ("Adafactor", "cannot step", ""),
            ("Rprop", "cannot step", ""),
            ("RAdam", "", "well"),
        ], printed


@pytest.mark.parametrize(
    ("first", "then"),
    [((2, FSDP), (1, {})), slow((1, {}), (3, FSDP)), slow((3, FSDP), (2, {"sharding": None}))],
)
def test_a_checkpoint_goes_on_with_another_number_of_ranks(first, then, tmp_path):
    parts = [(tmp_path / "one", 1, {}, 14), (tmp_path / "two", *first, 7), (tmp_path / "two", *then, 14)]
    for folder, size, more, steps in parts:
        folder.mkdir(exist_ok=True)
        jobs = ranks.launch(size, partial(ranks.part_way, **more), folder, steps, "end", folder=folder)
        statuses, said = ranks.ends(jobs, folder)
        assert statuses == [0] * size, said
    np.testing.assert_allclose(*(np.load(tmp_path / n / "end.npy") for n in ("two", "one")), rtol=1e-9, atol=1e-12)
    kept = handful.load(tmp_path / "two" / "run", model=ranks.mlp(5))
    again = np.concatenate([p.detach().numpy().ravel() for p in kept.model.parameters()])
    np.testing.assert_array_equal(again, np.load(tmp_path / "two" / "end.npy"))


FAULTS = {  # what happens to rank 1 -> exit statuses, and what each rank says
    "exception": ([3, 1], ["rank 1 of 2 ended: RuntimeError the cable is loose", "the cable is loose"]),
    "SIGKILL": ([3, -9], [r"rank 1 of 2 \(process \d+ on .*\) is gone", ""]),
    "memory": ([3, 2], ["rank 1 of 2 ended: memory ran out", "give a micro_batch below 10"]),
    "NaN": ([3, 3], [r"not finite at step \d+, for row 17 of .*'x' itself holds NaN"] * 2),
    "SIGINT": ([130, 130], ["it was interrupted"] * 2),
    "rate": ([2, 2], ["rank 1 has another plan than rank 0: lr is 0.2 and not 0.1"] * 2),
}


@pytest.mark.parametrize("what", [name if name in ("SIGKILL", "memory") else slow(name) for name in FAULTS])
def test_what_happens_to_one_rank_ends_all(what, tmp_path):
    jobs = ranks.launch(2, ranks.suffer, what, tmp_path, 60.0, FSDP, folder=tmp_path)
    statuses, said = ranks.ends(jobs, tmp_path)
    assert statuses == FAULTS[what][0], said
    for found, words in zip(said, FAULTS[what][1], strict=True):
        assert re.search(words, found), said


@pytest.mark.slow
def test_a_silent_rank_is_named_with_the_seconds(tmp_path):
    jobs = ranks.launch(2, ranks.suffer, "SIGSTOP", tmp_path, 6.0, FSDP, folder=tmp_path)
    jobs[0].join(100)
    statuses, said = ranks.ends(jobs, tmp_path, limit=0)
    assert statuses == [3, "late"], said
    assert re.search(r"rank 1 of 2 \(process \d+ on .*\) did not answer for \d+ seconds \(timeout=6\)", said[0])


REFUSED = {
    "sparse": (nn.Embedding(9, 4, sparse=True), "layer '' has sparse gradients"),
    "a number": (nn.ParameterDict({"scale": nn.Parameter(torch.ones(()))}), "parameter 'scale' is a single number"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_shared_out_is_refused(what):
    model, words = REFUSED[what]
    with pytest.raises(handful.HandfulError, match=words):
        sharding.check(model)


def test_a_batch_norm_of_all_ranks_is_refused_on_cpus():
    objective = Objective(nn.Sequential(nn.Linear(2, 2), nn.SyncBatchNorm(2)), nn.MSELoss())
    with pytest.raises(handful.HandfulError, match="works between GPUs only"):
        over_ranks(8, Ranks(0, 2), None, objective)


def test_blocks_are_the_members_of_lists_and_cut_where_they_are_large():
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    deep = nn.Sequential(
        nn.Embedding(5, 8), nn.TransformerEncoder(layer, 5, enable_nested_tensor=False), nn.Linear(8, 5)
    )
    found = sharding.blocks(deep)
    assert found == [deep[0], *deep[1].layers, deep[1], deep[2]]
    deep[2].weight = deep[0].weight  # tied: both stay with the whole model
    assert sharding.blocks(deep) == [*deep[1].layers, deep[1]]


def test_one_rank_has_nothing_to_share_out():
    run = handful.fit("linear", "iris", sharding="fsdp", lr=0.1, until="steps(2)", quiet=True)
    assert any("there is one" in note for note in run.plan.notes)
