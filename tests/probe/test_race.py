"""The race of learning rates: the winner's steps are the run's own, losers leave nothing, and it cannot explode."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import handful
from handful.assemble import assemble
from handful.fit import _run
from handful.probe import race as race_module
from handful.probe.decide import decide
from handful.probe.race import Branch, batch_statistics, better, branch, held_back, race
from handful.probe.snapshot import Snapshot, fingerprint
from handful.probe.throughput import Throughput
from handful.probe.trial import FAILED, train

from .conftest import mlp


def test_the_winners_end_is_the_run_at_that_rate_to_the_bit(training):
    """What is kept equals a run that was given the rate from the beginning."""
    t = training(optimizer="adamw", lr=1e-4)
    found = race(t, 1e-4, size=32, steps=20, start=Snapshot(t))
    assert found.winner is not None
    assert found.winner.lr > 1e-4
    found.end.restore()
    plain = training(mlp(), optimizer="adamw", lr=found.winner.lr)
    plain.objective.model.train()
    train(plain, 32, 20)
    for a, b in zip(t.objective.model.parameters(), plain.objective.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert (t.state.position, t.state.step) == (640, 20)
    assert t.state.window.loss == plain.state.window.loss
    for a, b in zip(t.state.optimizer.state.values(), plain.state.optimizer.state.values(), strict=True):
        assert all(torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in b)


def test_losers_leave_no_trace(training):
    t = training(mlp(extra=[nn.BatchNorm1d(32), nn.Dropout(0.2)]), ema=0.9)
    before, start = fingerprint(t), Snapshot(t)
    race(t, 1e-3, size=16, steps=8, start=start)
    start.restore()
    assert fingerprint(t) == before


def test_judging_changes_nothing(training):
    """Averaged weights and batch statistics are there for the judgement only."""
    model = mlp(extra=[nn.BatchNorm1d(32)])
    t = training(model)
    check = held_back(t, 160)
    start = Snapshot(t)
    branch(t, 1e-3, size=16, steps=10, check=check)
    judged = fingerprint(t)
    start.restore()
    for group in t.state.optimizer.param_groups:
        group["initial_lr"] = 1e-3
    model.train()
    train(t, 16, 10)
    assert fingerprint(t) == judged


def test_batch_statistics_are_those_of_the_batch_and_only_inside():
    layer = nn.BatchNorm1d(4).eval()
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)) * 3 + 1
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    with batch_statistics(layer):
        assert torch.allclose(layer(x).mean(0), torch.zeros(4), atol=1e-5)
    assert layer(x).mean() > 0.5
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


def test_rows_to_judge_on_are_none_that_were_trained_on(training):
    t = training()
    trained = {int(r) for r in t.batches.at(0, 320).rows}
    assert not trained & {int(r) for b in held_back(t, 320) for r in b.rows}


def test_a_branch_that_explodes_is_a_failure_and_not_a_number(training):
    with torch.random.fork_rng():
        deep = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
    t = training(deep, optimizer="sgd", lr=0.1)
    check = [t.batches.at(0, 64)]
    assert branch(t, 1e30, size=16, steps=5, check=check)[0] == [FAILED]


def test_a_default_that_explodes_gives_way_to_a_smaller_rate(training):
    t = training(optimizer="sgd", lr=0.1)
    found = race(t, 1e4, size=32, steps=10, start=Snapshot(t))
    assert found.winner is None or found.winner.lr < 1e4
    assert all(b.lr < 1e4 for b in found.branches[1:])


def test_a_larger_rate_must_come_clearly_further_and_a_smaller_one_further_at_all():
    before = (1.0, 1.0, 1.0)
    default, larger = Branch(1e-3, (0.500, 0.520, 0.510)), Branch(2e-3, (0.45, 0.47, 0.46))  # a tenth further
    assert not better(larger, default, before, steps=1000)
    far = Branch(2e-3, (0.30, 0.31, 0.29))  # two fifths further: enough after many steps only
    assert better(far, default, before, steps=1000)
    assert not better(far, default, before, steps=20)
    assert better(Branch(5e-4, (0.45, 0.47, 0.46)), default, before, steps=20)
    noisy = Branch(5e-4, (0.2, 0.8, 0.5))  # further on average, but not beyond its noise
    assert not better(noisy, default, before, steps=20)


LAW = Throughput.law(0.0, 1.0, [4, 8, 16, 32])


def blobs(n: int = 6000) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    y = generator.integers(0, 2, n)
    return (generator.normal(0, 2.0, (n, 8)) + y[:, None]).astype(np.float32), y


def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))


def test_a_run_whose_rate_was_raced_equals_one_that_was_given_it():
    """The whole run, to the bit: the position, the rows, the weights; measuring costs time and nothing else."""
    options = {"batch": 16, "until": "epochs(2)", "quiet": True, "optimizer": "adamw", "schedule": "constant"}
    raced = handful.fit(small(), blobs(), **options)
    assert raced.plan.choices["lr"].status == "measured"
    assert raced.state.trial[0] > 0
    given = handful.fit(small(), blobs(), lr=raced.plan.lr, **options)
    assert (raced.state.position, raced.state.step) == (given.state.position, given.state.step)
    for a, b in zip(raced.model.parameters(), given.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_probing_costs_at_most_a_twentieth_of_the_planned_examples():
    for epochs in (2, 5):
        t = assemble(small(), blobs(), {"quiet": True, "until": f"epochs({epochs})"}, measure=False)
        d = decide(t, throughput=LAW)
        assert d.lr.status == "measured"
        assert 0 < d.examples <= 0.05 * t.planned
        assert d.start is not None


@pytest.mark.parametrize("killed_at", [1, 40, 90])
def test_a_raced_run_that_is_killed_resumes_to_the_same_bits(tmp_path, killed_at):
    """Also before its first checkpoint is due: the winner's end is written down at the start."""
    options = {"batch": 16, "until": "epochs(3)", "quiet": True}

    class Killed(Exception):
        pass

    def kill(event, info):
        if event in ("step", "evaluate") and info.get("step", 0) >= len(start) and info["step"] == start[0] + killed_at:
            raise Killed

    start = [0]
    whole = handful.fit(small(), blobs(), out=tmp_path / "whole", **options)
    note = next(row for row in whole.history if "note" in row)
    start[0] = note["step"]
    with pytest.raises(Killed):
        handful.fit(small(), blobs(), out=tmp_path / "killed", callbacks=[kill], **options)
    resumed = handful.resume(tmp_path / "killed", model=small(), train=blobs(), quiet=True)
    assert resumed.plan.lr == whole.plan.lr
    assert resumed.state.trial == whole.state.trial
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_history_says_what_was_spent():
    run = handful.fit(small(), blobs(), batch=16, until="epochs(2)", quiet=True)
    notes = [row["note"] for row in run.history if "note" in row]
    assert any("were spent on measuring" in n and "of the run" in n for n in notes)
    assert "race of the first" in run.plan.choices["lr"].reason


def test_a_race_uses_no_more_branches_than_it_may(training):
    t = training(optimizer="adamw", lr=1e-7)
    found = race(t, 1e-7, size=32, steps=5, start=Snapshot(t))
    assert len(found.branches) == race_module.LOSERS + 1
    assert found.lost == 5 * (len(found.branches) - 1)
    assert math.isfinite(found.winner.loss)


def test_fit_starts_from_the_race_and_loses_no_row():
    seen = []
    t = assemble(small(), blobs(), {"batch": 16, "quiet": True, "until": "epochs(3)"})
    assert t.state.position == 16 * t.state.step > 0
    _run(t, [lambda event, info: seen.append(info["position"]) if event == "step" else None])
    assert t.state.position == 16 * t.state.step
