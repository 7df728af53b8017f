"""A profile says where the time of a run goes, and changes nothing of it."""

import json
import resource
import time

import numpy as np
import pytest
import torch
from torch import nn

import handful
from handful.data.arrays import Dense
from handful.report import spent
from handful.training import loop
from handful.training.objective import Objective

X = np.random.default_rng(0).standard_normal((400, 8)).astype("f")
Y = (X[:, 0] > 0).astype(int)


def fit(out=None, **options):
    torch.manual_seed(0)
    given = {"batch": 20, "lr": 0.01, "until": "steps(45)", "quiet": True, "threads": 1}
    return handful.fit(nn.Linear(8, 2), (X, Y), out=out, **given | options)


def test_a_profile_changes_no_bit_and_leaves_nothing_behind():
    before = loop.update, Objective.sums_of, loop.StepByStep.choose
    plain, profiled = fit(), fit(profile=True)
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), profiled.model.parameters(), strict=True))
    assert (loop.update, Objective.sums_of, loop.StepByStep.choose) == before
    assert not profiled.model._forward_hooks
    assert not profiled.model._forward_pre_hooks


def test_the_parts_add_up_to_the_time_of_the_call():
    started = time.perf_counter()
    run = fit(profile=True)
    whole = time.perf_counter() - started
    assert set(spent.OF_A_STEP) <= set(spent.parts_of(run.spent))
    assert 0.9 * whole < sum(run.spent.values()) <= whole


@pytest.mark.parametrize(
    ("slow", "owner", "name"), [("waiting for rows", Dense, "read"), ("forward pass", nn.Linear, "forward"),
                                ("update", torch, "_fused_adamw_")]
)  # fmt: skip
def test_what_is_slow_is_named(slow, owner, name, monkeypatch):
    method = getattr(owner, name)
    calls = []

    def slowly(*args, **options):
        calls.append(time.sleep(0.03))
        return method(*args, **options)

    monkeypatch.setattr(owner, name, slowly)
    words = {"waiting for rows": "handful prepare", "forward pass": "own arithmetic", "update": "larger batch"}[slow]
    for _ in range(5):  # a busy machine may pause anywhere, once
        calls.clear()
        run = fit(profile=True, valid=None, until="steps(9)")
        assert len(calls) >= 9
        step = {part: run.spent.get(part, 0.0) for part in spent.OF_A_STEP}
        assert step[slow] > 0.085
        if max(step, key=step.get) == slow and words in spent.verdict(run.spent):
            break
    assert max(step, key=step.get) == slow
    assert words in spent.verdict(run.spent)


def test_a_folder_has_the_picture_and_a_trace_with_the_parts_by_name(tmp_path):
    run = fit(tmp_path / "run", profile=True)
    events = json.loads((tmp_path / "run" / "trace.json").read_text())["traceEvents"]
    named = [event["name"] for event in events if event["name"] in spent.OF_A_STEP]
    assert named.count("update") == 20
    assert {"waiting for rows", "loss and metrics", "backward pass"} <= set(named)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Where the time went" in page
    again = handful.load(tmp_path / "run", model=nn.Linear(8, 2))
    assert again.spent.keys() == run.spent.keys()


def test_a_trace_that_cannot_be_written_is_said_and_ends_no_run(tmp_path, capfd):
    """The file of an earlier profile stays as it is; nothing half-written is left."""
    limits, plain = resource.getrlimit(resource.RLIMIT_FSIZE), fit()

    def limit(event, info):
        if event == "start":
            (tmp_path / "run" / "trace.json").write_text("earlier")
        if event == "step" and info["step"] in (20, 40):
            resource.setrlimit(resource.RLIMIT_FSIZE, limits if info["step"] == 40 else (3000, limits[1]))

    try:
        run = fit(tmp_path / "run", profile=True, quiet=False, callbacks=[limit], save_every=100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "the trace is not saved" in " ".join("".join(capfd.readouterr()).split())
    assert (tmp_path / "run" / "trace.json").read_text() == "earlier"
    assert not list((tmp_path / "run").glob(".*"))
    assert run.exit_status == 0
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), run.model.parameters(), strict=True))


def test_what_passes_before_the_first_step_is_always_there():
    run = handful.fit("mlp", (X, Y), until="epochs(3)", quiet=True)
    assert {"opening the data", "preprocessing", "making the model", "held-out rows", "steps"} <= set(run.spent)
    assert not set(spent.OF_A_STEP) & set(run.spent)
    assert spent.verdict({"opening the data": 3.0, "preprocessing": 1.0, "the trace": 9.0, "steps": 2.0}) == (
        "4 s went by outside the steps, which took 2 s: most on opening the data."
    )
