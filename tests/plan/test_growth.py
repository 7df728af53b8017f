"""Growth during a run: decided from ordinary steps, confirmed, replayed to the bit after a kill."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import handful
from handful.base.errors import HandfulError
from handful.fit import run_training
from handful.optim import schedule
from handful.plan.build import assemble
from handful.plan.probe import batch_growth as growth_module
from handful.plan.probe.batch_growth import Grower, as_growth, growth, stalled
from handful.plan.probe.noise_scale import GradientMoments
from handful.training.watch.observe import CONSIDERED

LAW = "growth(at_most=128, a=0.02, b=1e-05)"  # a step costs what 2,000 rows do: larger batches pay


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Runs of three epochs, on which more of the examples may be spent than a user's run would."""
    monkeypatch.setattr(growth_module, "PROBING", 0.15)
    monkeypatch.setattr(growth_module, "BRANCH", 0.01)


def noisy(n: int = 6000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two overlapping classes: most of a gradient is noise soon."""
    generator = np.random.default_rng(seed)
    y = generator.integers(0, 2, n)
    return (generator.normal(0, 2.0, (n, 8)) + y[:, None]).astype(np.float32), y


def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))


def built(data=None, **options):
    given = {"batch": 16, "lr": 1e-2, "batch_growth": LAW, "until": "epochs(3)", "quiet": True}
    return assemble(model(), data or noisy(), given | options)


def run(t, **kw):
    events = []
    run_training(t, [lambda event, info: events.append((event, info))])
    return events


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw", "muon"])
def test_the_batch_doubles_when_the_noise_says_so(optimizer):
    t = built(optimizer=optimizer, lr=0.02 if optimizer in ("sgd", "momentum") else 1e-2)
    before = dict(t.state.optimizer.param_groups[0])
    run(t)
    said = [row["note"] for row in t.state.history if "note" in row]
    assert t.state.batch > 16
    sizes = [row["batch"] for row in t.state.history if "note" in row and "->" in row["note"]]
    assert all(b / a in (2, 4) for a, b in itertools.pairwise([16, *sizes]))  # never by more than 4 at a time
    assert all("confirmed by a branch" in s for s in said if "->" in s)
    assert max(sizes) <= 128
    after = t.state.optimizer.param_groups[0]
    assert after["initial_lr"] > before["initial_lr"]  # lr moves with it, and beta2 where there is one
    if "betas" in after and "AdamW" in type(t.state.optimizer).__name__:
        ratio = t.state.batch / 16
        assert after["betas"][1] == pytest.approx(before["betas"][1] ** ratio)
    first = min(row["position"] for row in t.state.history if "note" in row)
    assert first >= t.planned / growth_module.CONSIDERED


def test_a_run_of_a_few_thousand_steps_measures_often_enough_to_grow(monkeypatch):
    """16 moments with the least number of batches at each would cost more than they may: there are fewer, then."""
    monkeypatch.undo()
    t = built(data=noisy(20_000), batch=32, until="epochs(4)")
    t.state.position = t.planned // 2
    every = growth_module.LEAST_PARTS * 32 / growth_module.PROBING
    assert every > t.planned / CONSIDERED
    considered = []
    monkeypatch.setattr(Grower, "measure", lambda self, t: considered.append(t.state.position))
    for position in range(32, t.planned, 32):
        t.state.position = position
        Grower(as_growth(LAW)).consider(t)
    assert 3 <= len(considered) <= t.planned / every
    assert all(b - a >= every - 32 for a, b in itertools.pairwise(considered))


def test_no_row_is_lost_or_repeated_when_the_batch_grows():
    t = built()
    seen = []

    def note(event, info):
        if event in ("step", "evaluate") and info["position"] > (seen[-1][0] if seen else 0):
            seen.append((info["position"], t.state.batch))

    run_training(t, [note])
    assert t.state.batch > 16
    steps = [(p, size) for (p, size) in seen]
    assert steps[0] == (16, 16)
    assert len({size for _, size in steps}) > 1
    for (before, _), (after, size) in itertools.pairwise(steps):
        assert after - before == size  # every step starts where the one before it ended


def test_measuring_alone_leaves_the_run_as_it_is():
    plain = built(batch_growth=None)
    measured = built(batch_growth="growth(at_most=32, a=1e-9, b=1.0)")  # larger batches never pay here
    run(plain), run(measured)
    assert measured.state.noise
    assert measured.state.batch == 16
    for a, b in zip(plain.objective.model.parameters(), measured.objective.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_branch_that_does_worse_keeps_the_batch(monkeypatch):
    monkeypatch.setattr(growth_module, "confirmed", lambda *a: False)
    t = built()
    run(t)
    assert t.state.batch == 16
    assert any("did worse" in row.get("note", "") for row in t.state.history)


def test_a_branch_that_explodes_is_not_confirmed():
    t = built(optimizer="sgd", lr=0.02)
    assert growth_module.confirmed(t, 32, 8, by=2.5)
    assert not growth_module.confirmed(t, 32, 8, by=1e12)


def test_small_gains_and_stalled_validation_do_not_grow():
    spec = as_growth(LAW)
    assert spec.gain(16, 32, 1000) > 1.9  # nothing but overhead and noise
    assert spec.gain(16, 32, 0.1) < growth_module.GAIN
    rule = growth(at_most=64, a=0.0, b=1.0)
    assert rule.gain(16, 32, 1e9) < growth_module.GAIN  # no overhead to save
    t = built()
    t.state.history = [{"valid_loss": v} for v in (1.0, 0.5, 0.6, 0.7, 0.8)]
    assert stalled(t)
    t.state.history[-1] = {"valid_loss": 0.4}
    assert not stalled(t)


def test_nothing_is_decided_from_what_cannot_be_measured():
    t = built()
    t.state.position = t.planned // 5
    t.state.noise = [GradientMoments(5.0, -1e-3, (0.1, 0.0, 1e-4), 1, 16, t.state.position).as_list()]
    assert Grower(as_growth(LAW)).consider(t) is None
    assert t.state.batch == 16


@pytest.mark.parametrize("killed_at", [70, 170, 290])
def test_a_killed_run_takes_the_same_decisions_again(tmp_path, killed_at):
    """Kill and resume, before and after the batch grew: bit-identical weights, the same growth at the same step."""
    options = {"batch": 16, "lr": 1e-2, "batch_growth": LAW, "until": "epochs(3)", "quiet": True, "save_every": 40}

    class Killed(Exception):
        pass

    def kill(event, info):
        if event in ("step", "evaluate") and info.get("step") == killed_at:
            raise Killed

    whole = handful.fit(model(), noisy(), out=tmp_path / "whole", **options)
    with pytest.raises(Killed):
        handful.fit(model(), noisy(), out=tmp_path / "killed", callbacks=[kill], **options)
    resumed = handful.resume(tmp_path / "killed", model=model(), train=noisy(), quiet=True)

    def grown(run):
        return [(row["step"], row["note"]) for row in run.history if "note" in row]

    assert any("->" in note for _, note in grown(whole))
    assert grown(resumed) == grown(whole)
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert resumed.state.batch == whole.state.batch


def test_grow_batch_by_hand_in_batch_and_in_schedule():
    by_hand = handful.fit(model(), noisy(600), batch="grow_batch(every=1, at_most=64)", lr=1e-2, until="epochs(4)",
                          quiet=True)  # fmt: skip
    base = by_hand.plan.batch
    assert by_hand.plan.batch_growth == "grow_batch(every=1, at_most=64)"
    assert by_hand.state.batch == min(64, base * 8)
    same = handful.fit(model(), noisy(600), batch=16, schedule=schedule.grow_batch(every=1), lr=1e-2,
                       until="epochs(3)", quiet=True)  # fmt: skip
    assert same.state.batch == 64
    given = handful.fit(model(), noisy(600), batch=16, batch_growth=schedule.grow_batch(every=1), lr=1e-2,
                        until="epochs(3)", quiet=True)  # fmt: skip
    assert given.state.batch == 64
    assert {row["batch"] for row in given.history} == {16, 32, 64}


def test_a_run_grown_by_hand_resumes(tmp_path):
    run = handful.fit("mlp", "iris", batch="grow_batch(every=1, at_most=32)", lr=1e-2, until="epochs(2)",
                      out=tmp_path / "r", quiet=True)  # fmt: skip
    again = handful.resume(tmp_path / "r", until="epochs(4)", quiet=True)
    assert again.plan.batch == run.plan.batch
    assert again.state.batch == 32


def test_misspelt_growth_is_one_sentence():
    with pytest.raises(HandfulError, match="batch_growth"):
        built(batch_growth="grwoth(at_most=3, a=1, b=1)")
    with pytest.raises(HandfulError, match="at_most"):
        growth(at_most=0, a=1.0, b=1.0)
    assert as_growth(str(as_growth(LAW))) == as_growth(LAW)
    assert math.isclose(as_growth(LAW).a, 0.02)
