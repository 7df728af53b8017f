"""The same seed gives the same model where no clock is asked, and a plan is enough to repeat its run to the bit."""

import random

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import handful
from handful import schedule, stop
from handful.base.errors import HandfulError
from handful.base.plan import Plan
from handful.plan.probe import decide, step_time
from handful.sklearn import MiniBatchClassifier, MiniBatchRegressor

DIGITS = load_digits()
X = (DIGITS.data / 16).astype(np.float32)
Y = DIGITS.target


def mlp(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(32, 10)
        )


def bits(model):
    return b"".join(v.numpy().tobytes() for v in model.state_dict().values())


def no_clock(monkeypatch):
    def read(*_args, **_given):
        raise AssertionError("a clock was read for a choice")

    monkeypatch.setattr(step_time, "clock", read)
    monkeypatch.setattr(decide, "effort", read)
    monkeypatch.setattr(step_time, "time_in_turn", read)


def slow_moments(monkeypatch, seed):
    """A clock by which steps take now this long, now that long."""
    draw, at = random.Random(seed), [0.0]

    def read(_training):
        at[0] += draw.choice([1e-4, 1e-3, 1e-2])
        return at[0]

    monkeypatch.setattr(step_time, "clock", read)


@pytest.mark.parametrize(
    "given", [{}, {"lr": 0.01}, {"batch": 32}, {"optimizer": "muon", "until": "epochs(4)"}], ids=str
)
def test_deterministic_reads_no_clock_and_gives_the_same_bits(monkeypatch, given):
    no_clock(monkeypatch)
    runs = [
        handful.fit(mlp(), (X, Y), **{"deterministic": True, "until": "epochs(6)", "quiet": True} | given)
        for _ in range(2)
    ]
    assert bits(runs[0].model) == bits(runs[1].model)
    assert runs[0].plan.deterministic
    assert "batch" in given or "not by the clock" in runs[0].plan.choices["batch"].reason
    with pytest.raises((AssertionError, HandfulError), match="clock"):
        handful.fit(mlp(), (X, Y), until="epochs(6)", quiet=True)


@pytest.mark.parametrize("estimator", [MiniBatchClassifier, MiniBatchRegressor])
@pytest.mark.parametrize("model", ["table", "mlp", lambda features, outputs: torch.nn.Linear(features, outputs)])
def test_an_estimator_of_one_random_state_is_one_model(monkeypatch, estimator, model):
    no_clock(monkeypatch)
    made = [estimator(model, until="steps(6)", random_state=5).fit(X[:300], Y[:300]) for _ in range(2)]
    assert bits(made[0].model_) == bits(made[1].model_)
    assert not made[0].__sklearn_tags__().non_deterministic
    other = estimator(model, until="steps(6)", random_state=6).fit(X[:300], Y[:300])
    assert bits(other.model_) != bits(made[0].model_)


def test_an_estimator_that_reads_a_clock_says_so():
    for given in ({"options": {"deterministic": False}}, {"until": "seconds(3)"}, {"random_state": None}):
        assert MiniBatchClassifier(**given).__sklearn_tags__().non_deterministic
    assert not MiniBatchClassifier().__sklearn_tags__().non_deterministic


@pytest.mark.parametrize(("clock", "short"), [(1, 0.0), (2, 0.0), (1, 60.0)])
def test_the_plan_of_a_run_repeats_it_to_the_bit(monkeypatch, tmp_path, clock, short):
    slow_moments(monkeypatch, clock)
    monkeypatch.setattr(decide, "SHORT", short)
    first = handful.fit(
        mlp(), (X, Y), until="epochs(8)", schedule=schedule.cosine(warmup=0.1), out=tmp_path / "run", quiet=True
    )
    assert (first.plan.choices["batch"].status == "default") == bool(short)
    no_clock(monkeypatch)
    written = Plan.load(tmp_path / "run" / "plan.toml")
    again = handful.fit(mlp(), (X, Y), **written.options, quiet=True)
    assert bits(again.model) == bits(first.model)
    assert [row.get("train_loss") for row in again.history] == [row.get("train_loss") for row in first.history]


OWN = {
    "schedule": [schedule.cosine(end=0.1), schedule.warmup(schedule.step(2), epochs=1), schedule.grow_batch(every=1)],
    "until": [stop.epochs(1) | stop.plateau(3), 2.0],
    "augment": [handful.augment.noise(0.1)],
    "batch": [schedule.grow_batch(every=1, by=3)],
    "preprocess": ["standardize"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in OWN.items() for value in values], ids=str
)
def test_objects_of_handful_stand_in_the_plan_as_their_text(name, value):
    given = {"batch": 64, "lr": 0.1, "until": "epochs(2)", "deterministic": True, "quiet": True, name: value}
    first = handful.fit(mlp(), (X, Y), **given)
    assert all(choice.reproducible for key, choice in first.plan.choices.items() if key not in ("data", "model"))
    again = handful.fit(mlp(), (X, Y), **first.plan.options, quiet=True)
    assert bits(again.model) == bits(first.model)


def test_objects_of_the_callers_own_do_not():
    torchs = schedule.from_torch(lambda o: torch.optim.lr_scheduler.StepLR(o, 10))
    for own in (torchs, schedule.warmup(torchs, epochs=1)):
        run = handful.fit(mlp(), (X, Y), batch=64, lr=0.1, until="epochs(1)", schedule=own, quiet=True)
        assert not run.plan.choices["schedule"].reproducible
        assert "schedule" not in run.plan.options
