"""bfloat16 on a CPU is measured, leaves no trace, needs a clear gain, and is never for the caller's own model."""

import hashlib

import pytest
import torch
from torch import nn

import handful
from handful.plan import defaults as choose
from handful.plan.probe import step_time as precision


def state_hash(t):
    digest = hashlib.sha256()
    for value in (*t.objective.model.parameters(), *t.objective.model.buffers()):
        digest.update(value.detach().numpy().tobytes())
    digest.update(torch.random.get_rng_state().numpy().tobytes())
    return digest.hexdigest(), t.state.position, t.state.step, t.objective.autocast


@pytest.mark.parametrize(("half", "expected"), [(0.5, "bfloat16"), (0.9, "float32"), (2.0, "float32")])
def test_only_a_clear_gain_is_taken(training, monkeypatch, half, expected):
    t = training()
    clock = [0.0]

    def gradient(objective, *_, **__):
        clock[0] += half if objective.autocast == torch.bfloat16 else 1.0

    monkeypatch.setattr(precision, "exact_gradient", gradient)
    monkeypatch.setattr(precision, "effort", lambda _: clock[0])
    choice = precision.measure_precision(t)
    assert choice.value == expected
    assert choice.status == "measured"
    assert t.objective.autocast is None


def test_it_leaves_no_trace(training):
    t = training(nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 10)))
    before = state_hash(t)
    precision.measure_precision(t)
    assert state_hash(t) == before


def test_an_own_model_keeps_float32_and_a_ready_made_one_trains_in_what_was_measured(monkeypatch, tmp_path):
    half = choose.Choice("bfloat16", "measured", "twice as fast")
    monkeypatch.setattr("handful.plan.build.measure_precision", lambda t: half)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    options = {"batch": 64, "lr": 1e-3, "until": "epochs(1)", "augment": None, "quiet": True}
    own = handful.fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "digits", **options)
    assert own.plan.precision == "float32"
    run = handful.fit("cnn", "digits", out=tmp_path / "run", **options)
    assert run.plan.choices["precision"] == half
    assert all(p.dtype == torch.float32 for p in run.model.parameters())
    assert run.scores["valid_accuracy"] > 0.5
    again = handful.load(tmp_path / "run")
    assert again.objective.autocast == torch.bfloat16


@pytest.mark.parametrize(
    ("known", "may"), [({"avx2": True, "avx512_bf16": False}, False), ({"neon": True, "bf16": True}, True), ({}, True)]
)
def test_nothing_is_measured_where_the_processor_has_no_bfloat16(monkeypatch, known, may):
    asked = []
    choice = choose.Choice("float32", "measured", "as fast")
    monkeypatch.setattr("handful.plan.build.measure_precision", lambda t: asked.append(t) or choice)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    options = {"batch": 64, "lr": 1e-3, "until": "steps(1)", "augment": None, "quiet": True}
    run = handful.fit("cnn", "digits", **options)
    assert bool(asked) == may
    assert run.plan.choices["precision"].status == ("measured" if may else "found")
