"""The race of learning rates: the winner's steps are the run's own, losers leave nothing, and it cannot explode."""

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

import handful
from handful.fit import run_training
from handful.optim.rates import set_base
from handful.plan.build import assemble
from handful.plan.probe import decide as decide_module
from handful.plan.probe import first_steps as first_steps_module
from handful.plan.probe import lr_race as race_module
from handful.plan.probe.decide import decide
from handful.plan.probe.first_steps import fell
from handful.plan.probe.lr_race import Branch, better, branch, harmed, improvement, losses_before, race
from handful.plan.probe.step_time import Throughput
from handful.plan.probe.steps import FAILED, Snapshot, train

from .conftest import fingerprint, mlp


@pytest.fixture(autouse=True)
def long(monkeypatch):
    """Runs of a second are measured as those of a minute are."""
    monkeypatch.setattr(decide_module, "SHORT", 0.0)


def test_the_winners_end_is_the_run_at_that_rate_to_the_bit(training):
    """What is kept equals a run whose next steps are taken at that rate, and nothing else."""
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
    t.objective.model.train()
    before, start = fingerprint(t), Snapshot(t)
    race(t, 1e-3, size=16, steps=8, start=start)
    start.restore()
    assert fingerprint(t) == before


def test_branches_are_judged_by_the_losses_of_the_same_batches_before_and_after(training):
    """An independent loop: the losses of a branch's batches at the weights before the race, some of which are taken;
    the last half counts."""
    t = training(mlp(extra=[nn.BatchNorm1d(32)]))
    model = t.objective.model.train()
    start = Snapshot(t)
    found = losses_before(t, 16, 10, range(10))
    start.restore()
    expected = []
    for k in range(10):
        batch = t.batches.at(16 * k, 16)
        with torch.no_grad():
            expected.append(float(nn.functional.cross_entropy(model(batch.tensor("x")), batch.tensor("y"))))
    assert found == pytest.approx(expected, rel=1e-6)
    start.restore()
    race_found = race(t, 1e-5, size=16, steps=10, start=start)
    assert race_found.before == pytest.approx(np.mean([expected[k] for k in (5, 7, 9)]), rel=1e-6)
    assert race_found.forwards == 4
    start.restore()
    losses = branch(t, 1e-5, size=16, steps=10)
    assert race_found.branches[0].losses == tuple(losses[5:])


def test_a_branch_that_explodes_is_a_failure_and_not_a_number(training):
    with torch.random.fork_rng():
        deep = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
    t = training(deep, optimizer="sgd", lr=0.1)
    assert branch(t, 1e30, size=16, steps=5)[-1] == FAILED


def test_a_default_that_does_harm_gives_way_to_a_smaller_rate(training):
    t = training(optimizer="sgd", lr=0.1)
    found = race(t, 1e4, size=32, steps=10, start=Snapshot(t))
    assert found.winner is None or found.winner.lr < 1e4
    assert all(b.lr < 1e4 for b in found.branches[1:])
    assert not found.open_above


def test_a_larger_rate_must_come_clearly_further_and_beyond_its_noise():
    before = (1.0, 1.0, 1.0)
    default, larger = Branch(1e-3, (0.500, 0.520, 0.510)), Branch(2e-3, (0.45, 0.47, 0.46))  # a tenth further
    assert not better(larger, default, before)
    assert better(Branch(2e-3, (0.20, 0.21, 0.19)), default, before)  # three fifths further
    assert not better(Branch(4e-3, (0.20, 0.21, 0.19)), default, before)  # not enough for two doublings
    assert not better(Branch(2e-3, (-0.3, 0.5, 0.1)), default, before)  # further on average, but not beyond its noise
    assert better(Branch(5e-4, (0.45, 0.47, 0.46)), default, before)


def test_a_larger_rate_that_is_not_ahead_is_given_up_on_the_way(training):
    t = training(optimizer="sgd", lr=0.1)
    train(t, 32, 30)
    start = Snapshot(t)
    found = race(t, 1.0, size=32, steps=20, start=start)
    assert [b.given_up for b in found.branches] == [False, True]
    assert found.winner is found.branches[0]
    assert (found.steps_run, found.kept, found.forwards) == (28, 20, 4)
    assert found.lost == 8 + 2  # a loss without its gradient counts as a third of a step
    start.restore()
    losses = branch(t, 2.0, size=32, steps=8)
    assert found.branches[1].losses == tuple(losses[4:])


def test_a_loss_that_was_infinite_before_tells_nothing():
    one = Branch(1e-3, (0.5, 0.6))
    assert improvement(one, (math.inf, math.inf)) == improvement(Branch(1e-3, (FAILED,)), (1.0, 1.0)) == -math.inf
    assert not harmed(one, (math.inf, math.nan))


def test_a_default_that_neither_helps_nor_harms_goes_on(training):
    """Steps that only noise tells from none are steps of the run; a larger rate has no turn in this race."""
    t = training(optimizer="sgd", lr=1e-12)
    found = race(t, 1e-12, size=16, steps=10, start=Snapshot(t))
    assert found.winner is found.branches[0]
    assert [b.lr for b in found.branches] == [1e-12]
    assert found.kept == found.steps_run == 10
    assert found.open_above  # nothing was told yet: another race may follow


def test_the_opening_and_the_race_are_steps_of_the_run_and_nothing_else():
    """By hand: the first steps at the default rate, then those of the winner at its own: the same bits."""
    given = {"batch": 16, "quiet": True, "until": "epochs(8)"}
    t = assemble(small(), blobs(), given)
    default = assemble(small(), blobs(), given, measure=False)
    first, end = _raced(t)
    plain = assemble(small(), blobs(), given | {"lr": default.plan.lr})
    plain.objective.model.train()
    train(plain, 16, first)
    set_base(plain.state.optimizer, t.plan.lr)
    train(plain, 16, end - first)
    assert t.state.step == end
    for a, b in zip(t.objective.model.parameters(), plain.objective.model.parameters(), strict=True):
        assert torch.equal(a, b)


def _raced(t):
    """The step before the last race and the step after it, as the plan says them."""
    spans = re.findall(r"steps (\d+)-(\d+)", t.plan.choices["lr"].reason)
    return int(spans[-1][0]) - 1, int(spans[-1][1])


@pytest.mark.parametrize(("last", "what"), [(3.0, "rose"), (FAILED, "became infinite")])
def test_first_steps_at_which_every_rate_fails_are_called_what_they_are(monkeypatch, last, what):
    """A table with a long-tailed target was told of an infinite loss, which had risen by the rows that came."""
    t = assemble(small(), blobs(), {"batch": 16, "quiet": True, "until": "epochs(4)"}, measure=False)
    monkeypatch.setattr(first_steps_module, "train", lambda t, size, steps: [1.0] * steps + [last] * steps)
    notes = decide(t, batch=False, stay=True).notes
    assert any(re.match(rf"the loss {what} in the first steps at \S+ and 5 smaller rates; they were", n) for n in notes)


def test_where_no_rate_helps_the_run_goes_on_from_before_the_race(monkeypatch):
    """Labels that nothing can be learned from, and branches that all break off: the default stays, nothing is kept."""
    t = assemble(small(), blobs(), {"batch": 16, "quiet": True, "until": "epochs(4)"}, measure=False)
    monkeypatch.setattr(race_module, "branch", lambda t, lr, *, size, steps, give_up=None: [1.0, 1.0, FAILED])
    d = decide(t, batch=False, stay=True)
    assert d.lr.status == "default"
    assert "no rate that was tried helped" in d.lr.reason
    assert d.races[0].winner is None
    assert d.steps == 3 * len(d.races[0].branches) + math.ceil(d.races[0].forwards / 3)
    assert t.state.position == 16 * t.state.step == 16 * d.races[0].first
    assert t.state.optimizer.param_groups[0]["initial_lr"] == d.lr.value


def test_a_default_far_too_small_is_raised_by_more_than_one_race():
    t = assemble(small(), blobs(20_000), {"batch": 32, "quiet": True, "until": "epochs(8)", "optimizer": "sgd"},
                 measure=False)  # fmt: skip
    for group in t.state.optimizer.param_groups:
        group["initial_lr"] = 1e-4
    d = decide(t, batch=False)
    assert len(d.races) > 1
    assert d.lr.value > 4e-4
    assert d.examples <= 0.02 * t.planned


LAW = Throughput.law(0.0, 1.0, [4, 8, 16, 32])


def blobs(n: int = 6000) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    y = generator.integers(0, 2, n)
    return (generator.normal(0, 2.0, (n, 8)) + y[:, None]).astype(np.float32), y


def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))


def test_probing_costs_at_most_a_fiftieth_of_the_planned_examples():
    for epochs in (8, 16):
        t = assemble(small(), blobs(), {"quiet": True, "until": f"epochs({epochs})"}, measure=False)
        d = decide(t, throughput=LAW)
        assert d.lr.status == "measured"
        assert 0 < d.examples <= 0.02 * t.planned
        assert d.trail


@pytest.mark.parametrize("killed_at", [1, 40, 90])
def test_a_raced_run_that_is_killed_resumes_to_the_same_bits(tmp_path, killed_at):
    """Also before its first checkpoint is due: the winner's end is written down at the start."""
    options = {"batch": 16, "until": "epochs(8)", "quiet": True}

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
    assert resumed.state.probing_cost == whole.state.probing_cost
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_history_says_what_was_spent():
    run = handful.fit(small(), blobs(), batch=16, until="epochs(4)", quiet=True)
    notes = [row["note"] for row in run.history if "note" in row]
    assert any("were spent on measuring" in n and "of the run" in n for n in notes)
    assert "in a race over steps" in run.plan.choices["lr"].reason


def test_a_race_uses_no_more_branches_than_it_may(training):
    t = training(optimizer="adamw", lr=1e-7)
    found = race(t, 1e-7, size=32, steps=5, start=Snapshot(t))
    assert [b.lr for b in found.branches] == [1e-7, 2e-7]
    assert found.lost == 5 * (len(found.branches) - 1) + math.ceil(found.forwards / 3)
    assert found.forwards <= 5
    assert found.open_above
    assert math.isfinite(found.winner.loss)


def test_fit_starts_from_the_race_and_loses_no_row():
    seen = []
    t = assemble(small(), blobs(), {"batch": 16, "quiet": True, "until": "epochs(3)"})
    assert t.state.position == 16 * t.state.step > 0
    run_training(t, [lambda event, info: seen.append(info["position"]) if event == "step" else None])
    assert t.state.position == 16 * t.state.step


def test_sgds_race_waits_until_the_loss_has_left_its_first_plateau():
    """Tiny weights behind each other: the gradient of each is the product of the others, and the loss stands still."""
    generator = np.random.default_rng(0)
    y = generator.integers(0, 4, 20_000)
    x = (generator.normal(0, 1, (len(y), 8)) + 2 * np.eye(4, 8)[y]).astype(np.float32)
    found = []
    for spread in (1.0, 0.12):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(spread)
        given = {"batch": 32, "quiet": True, "until": "epochs(8)", "optimizer": "sgd", "preprocess": None}
        found.append(decide(assemble(model, (x, y), given, measure=False), batch=False).races[0])
    soon, late = found
    assert late.first >= 2 * soon.first
    assert late.before < math.log(4) - 0.01  # the loss of guessing; without waiting 1.384


def test_losses_that_fall_are_told_from_noise():
    noise = np.random.default_rng(0).normal(2.3, 0.2, (200, 60))
    assert np.mean([fell(list(row)) for row in noise]) < 0.08
    assert all(fell(list(row)) for row in noise - np.linspace(0, 1, 60))
