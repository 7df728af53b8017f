"""The decision: right on planted step times and noise, and abstaining, in words, where it cannot tell."""

import copy
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

import handful
from handful.base.errors import HandfulError
from handful.optim.rates import gain
from handful.plan.build import assemble
from handful.plan.probe import decide as decide_module
from handful.plan.probe.batch_growth import as_growth
from handful.plan.probe.decide import batch_cap, best_batch, decide, measure_noise
from handful.plan.probe.decision import Decision
from handful.plan.probe.first_steps import default_rate
from handful.plan.probe.step_time import Throughput, powers_of_two
from handful.plan.probe.steps import train

from .conftest import digits, mlp


def blobs(n: int, spread: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two classes of Gaussian points in 8 dimensions, with label noise where they overlap."""
    generator = np.random.default_rng(seed)
    y = generator.integers(0, 2, n)
    return (generator.normal(0, spread, (n, 8)) + y[:, None]).astype(np.float32), y


def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))


def built(model=None, data=None, **options):
    return assemble(model or small(), blobs(20_000) if data is None else data,
                    {"batch": 32, "lr": 1e-3, "quiet": True, "until": "epochs(4)"} | options)  # fmt: skip


def test_the_best_batch_is_where_the_formula_says():
    sizes = powers_of_two(4096)
    for a, b, phi in ((8, 1, 100), (128, 1, 30), (512, 1, 1000), (1, 1, 4)):
        best = best_batch(phi, Throughput.law(a, b, sizes), sizes)
        assert abs(math.log2(best / math.sqrt(a / b * phi))) <= 1.0
    # and no size is better by more than the 2% that is given up for the larger one
    law = Throughput.law(64, 1, sizes)
    rate = {n: law.rate(n) / (n + 300) for n in sizes}
    assert rate[best_batch(300, law, sizes)] >= 0.98 * max(rate.values())


@pytest.mark.parametrize("constant", [8, 512])
def test_given_step_times_lead_to_the_batch_of_the_measured_noise_and_the_usual_one(constant):
    t = built(until="epochs(20)")
    d = decide(t, throughput=Throughput.law(constant, 1, powers_of_two(batch_cap(18_000))), lr=False)
    assert d.batch.status == "measured"
    assert d.noise.low <= d.noise.value <= d.noise.high
    taken = math.sqrt(128 * d.noise.value)
    assert abs(math.log2(d.batch.value / math.sqrt(constant * taken))) <= 1.0 or d.batch.value == d.cap
    assert "noise scale" in d.batch.reason
    assert "by a stated law of step times" in d.batch.reason


@pytest.mark.parametrize("constant", [8, 64, 512])
def test_what_is_tried_stays_near_a_sixtieth_of_the_runs_time(constant):
    law = Throughput.law(constant, 1, powers_of_two(256))
    for epochs in (1, 6):
        t = built(until=f"epochs({epochs})")
        d = decide(t, throughput=law)
        spent = law.a * d.steps + law.b * d.examples
        fastest = min(law(n) / n for n in law.sizes)
        assert spent <= 0.02 * t.planned * fastest  # 1.5%, and steps are whole


@pytest.mark.parametrize(("constant", "size"), [(8, 32), (32, 64), (128, 128), (512, 256)])
def test_a_run_begins_with_the_best_batch_at_the_usual_noise_scale_and_trains_on_every_example(constant, size):
    """Where measuring costs too much nothing is tried at all, and all that is bought is an update."""
    t = built(data=blobs(14_200), until="epochs(8)")
    d = decide(t, throughput=Throughput.law(constant, 1, powers_of_two(256)))
    first = d.trail[0] if d.trail else None
    assert first is None or first[0] == size
    if constant >= 128:
        assert (d.batch.value, d.steps, d.examples, d.lr.status) == (size, 0, 0, "default")


def test_the_default_of_sgd_rises_with_the_batch_and_nearly_in_proportion_below_the_usual_noise():
    def rate(optimizer: str, size: int) -> float:
        options = {"batch": 32, "optimizer": optimizer, "quiet": True}
        return default_rate(assemble(small(), blobs(1000), options, measure=False), size)[0]

    rates = {n: rate("momentum", n) for n in (8, 32, 64, 1 << 20)}
    assert rates[8] == rates[32] == 0.02
    assert 1.5 * rates[32] < rates[64] < 2 * rates[32]
    assert rates[1 << 20] == pytest.approx((32 + 128) / 32 * rates[32], rel=1e-2)  # the gradient has no noise left
    assert rate("adamw", 32) < rate("adamw", 64) < 1.5 * rate("adamw", 32)


@pytest.mark.parametrize("rise", [4.0, 1.0])  # 1: the rate was given
def test_the_gradients_that_tell_the_noise_scale_train_the_model(rise):
    """By hand: one step of SGD with the mean gradient of all their rows, at the rate that follows from the noise."""
    t = built(data=blobs(20_000), optimizer="sgd", lr=0.1, until="epochs(4)")
    train(t, 32, 100)
    model, before = t.objective.model, copy.deepcopy(t.objective.model)
    position, step, factor = t.state.position, t.state.step, t.schedule(t.progress())
    d = Decision(cap=batch_cap(t.examples), throughput=Throughput.law(1.0, 1.0, powers_of_two(256)))
    measure_noise(t, d, d.throughput, 32, 0.02, rise=rise)
    used = t.state.position - position
    assert d.noise.value is not None
    assert (t.state.step, d.examples) == (step + 1, 0)  # one update, and no example is lost
    assert used == d.noise.examples
    assert used % (d.steps + 1) == 0
    rows = t.batches.at(position, used)
    nn.functional.cross_entropy(before(rows.tensor("x")), rows.tensor("y")).backward()
    rate = 0.1 * min(rise, gain(32, used, d.noise.value)) * factor
    for p, q in zip(model.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(p, q - rate * q.grad, rtol=1e-3, atol=1e-6)
    assert t.state.optimizer.param_groups[0]["initial_lr"] == 0.1


def test_a_short_run_says_so_and_takes_the_usual_noise_scale():
    t = built(data=blobs(150), until="epochs(3)")
    d = decide(t)
    assert d.noise is None
    assert any("too short" in note for note in d.notes)
    assert "taken to be the usual 128" in d.batch.reason
    assert d.batch.status == "bounded"
    assert d.lr.status == "default"
    assert "too short" in d.lr.reason
    assert d.lr.value == 1e-3
    assert d.examples == 0


def test_tiny_data_with_many_epochs_keeps_the_batch_below_a_fiftieth_or_sixteen():
    for n, most in ((60, 16), (150, 16), (1000, 16), (3000, 64)):
        t = built(data=blobs(n), until="epochs(50)")
        assert batch_cap(t.examples) <= most
        d = decide(t)
        assert 4 <= d.batch.value <= most
        assert d.growth.value is None or as_growth(d.growth.value).at_most <= most


def test_a_contrastive_loss_is_refused_a_noise_scale():
    def contrastive(output, target):
        """In-batch negatives: every row is compared with all others (InfoNCE)."""
        z = nn.functional.normalize(output, dim=1)
        return nn.functional.cross_entropy(z @ z.T / 0.1, torch.arange(len(z)))

    t = built(loss=contrastive, metrics=None)
    d = decide(t, lr=False)
    assert d.noise is None
    assert any("couples the rows" in note for note in d.notes)
    assert d.batch.status == "bounded"
    assert "90% of the best throughput" in d.batch.reason
    assert d.growth.value is None


def test_a_negative_gradient_norm_is_not_measurable_and_falls_back():
    """At the optimum of pure label noise the mean gradient vanishes, and |G|^2 comes out around zero."""
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(20_000, 2)).astype(np.float32), generator.integers(0, 2, 20_000)
    model = nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    said = set()
    for seed in range(6):
        with torch.no_grad():
            for p in model.parameters():
                p.zero_()
        law = Throughput.law(1, 1, powers_of_two(256))
        d = decide(built(model, (x, y), seed=seed, lr=1e-7, until="epochs(8)"), lr=False, throughput=law)
        said.add(d.noise.status)
        if d.noise.status == "not measurable":
            assert d.noise.value is None
            assert "90% of the best throughput" in d.batch.reason
            assert d.growth.value is None
        if d.noise.status == "bounded":
            assert d.batch.status == "bounded"
        assert d.noise.status != "measured" or d.noise.low > 50
    assert "not measurable" in said


def test_batch_norm_is_conditional_and_said():
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    law = Throughput.law(64, 1, powers_of_two(256))
    d = decide(built(model, until="epochs(8)"), lr=False, throughput=law)
    assert any("normalises over the rows" in n and re.search(r"that of gradients over \d+ rows", n) for n in d.notes)
    assert d.batch.value >= 8


def test_trial_steps_that_are_not_finite_end_in_defaults_and_the_run_says_where():
    x, y = blobs(5000)
    x[:, 3] = np.where(np.arange(5000) % 7 == 0, np.nan, x[:, 3])
    t = built(small(), (x, y))
    d = decide(t)
    assert d.batch is None
    assert d.lr is None or d.lr.status == "default"
    assert any("failed" in note for note in d.notes)
    with pytest.raises(HandfulError, match="holds NaN"):
        handful.fit(small(), (x, y), quiet=True)


def test_a_rate_that_explodes_is_never_chosen():
    """Least squares on inputs of size 30: SGD's default of 0.1 diverges, so a smaller rate must be found."""
    generator = np.random.default_rng(0)
    x = (30 * generator.normal(size=(20_000, 8))).astype(np.float32)
    y = (x @ generator.normal(size=8)).astype(np.float32)
    model = nn.Linear(8, 1)
    run = handful.fit(model, (x, y), optimizer="sgd", batch=32, until="epochs(4)", quiet=True, preprocess="auto")
    assert run.plan.lr < 0.1
    assert math.isfinite(run.scores["valid_loss"])


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw", "muon"])
def test_every_optimizer_gets_a_batch_and_a_rate(optimizer, monkeypatch):
    monkeypatch.setattr(decide_module, "SHORT", 0.0)
    run = handful.fit(mlp(), digits(), optimizer=optimizer, until="epochs(8)", quiet=True)
    assert 4 <= run.plan.batch <= 32
    assert run.plan.choices["batch"].status in ("measured", "bounded")
    assert run.plan.lr > 0
    assert run.scores["valid_accuracy"] > 0.85


def test_given_numbers_are_not_probed(monkeypatch):
    monkeypatch.setattr("handful.plan.build.decide", lambda *a, **k: pytest.fail("probed"))
    run = handful.fit(small(), blobs(300), batch=16, lr=1e-2, until="epochs(1)", quiet=True)
    assert run.plan.choices["batch"].status == run.plan.choices["lr"].status == "given"
    assert "batch_growth" not in run.plan.choices


def test_a_ready_optimizer_keeps_its_own_rate(monkeypatch):
    monkeypatch.setattr(decide_module, "SHORT", 0.0)
    model = small()
    sgd = torch.optim.SGD(model.parameters(), lr=0.037)
    run = handful.fit(model, blobs(2000), optimizer=sgd, until="epochs(3)", quiet=True)
    assert run.plan.lr == 0.037
    assert run.plan.choices["batch"].status in ("measured", "bounded")


def test_given_step_times_and_the_rest_deterministic_make_the_same_decision_twice():
    law = Throughput.law(64, 1, powers_of_two(256))
    first, second = (decide(built(), throughput=law) for _ in range(2))
    assert (first.batch, first.lr, first.growth, first.noise) == (
        second.batch, second.lr, second.growth, second.noise
    )  # fmt: skip


def test_the_plan_of_a_probed_run_is_whole_and_resumes(tmp_path):
    run = handful.fit("mlp", "iris", out=tmp_path / "run", until="epochs(3)", quiet=True)
    again = handful.resume(tmp_path / "run", until="epochs(4)", quiet=True)
    for name in ("batch", "lr", "batch_growth"):
        assert again.plan.choices[name].value == run.plan.choices[name].value
    assert again.state.position > run.state.position


def test_a_failing_model_is_one_sentence():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 2)

        def forward(self, x):
            if self.training:
                raise RuntimeError("planted failure")
            return self.linear(x)

    with pytest.raises((HandfulError, RuntimeError), match="planted failure"):
        handful.fit(Broken(), blobs(300), quiet=True)


@pytest.mark.parametrize(("first", "timed"), [(1e-3, 0), (0.1, 1), (math.inf, 1)], ids=["short", "slow", "failed"])
def test_more_steps_than_the_first_are_timed_only_where_it_was_slow_or_failed(monkeypatch, first, timed):
    """Of 188 steps of 32 rows; the first takes longer than any other."""
    asked, measure = [], decide_module.measure_throughput
    monkeypatch.setattr(decide_module, "time_first", lambda *_: first)
    monkeypatch.setattr(decide_module, "measure_throughput", lambda *a, **k: (asked.append(a[1]), measure(*a, **k))[1])
    t = assemble(small(), blobs(2000), {"quiet": True, "until": "epochs(3)"})
    assert asked == [[32]] * timed
    assert list(t.plan.choices["step_times"].value) == ["32"]
    assert t.state.step > 0


def test_a_run_stays_where_its_first_steps_came_to_and_is_else_as_it_was():
    given = {"quiet": True, "until": "epochs(3)"}
    gone, back = (assemble(small(), blobs(2000), given, measure=False) for _ in range(2))
    before = copy.deepcopy(back.objective.model.state_dict())
    found = [decide(gone, weigh=True, stay=True), decide(back, weigh=True)]
    assert [len(d.trail) for d in found] == [gone.state.step] * 2
    assert back.state.step == back.state.position == len(back.state.trail) == 0
    assert all(torch.equal(v, before[k]) for k, v in back.objective.model.state_dict().items())
    for size, _, rate, _ in gone.state.trail:  # the same steps again
        back.state.optimizer.param_groups[0]["initial_lr"] = back.state.optimizer.param_groups[1]["initial_lr"] = rate
        train(back, size, 1)
    weights = zip(gone.objective.model.state_dict().values(), back.objective.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)
