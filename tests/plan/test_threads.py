"""The number of threads is measured, leaves no trace, and only a clear gain moves it."""

from dataclasses import replace

import torch
from sklearn.datasets import load_digits

import handful
from handful.plan.build import assemble
from handful.plan.probe import step_time as threads
from handful.plan.probe.steps import Snapshot

DIGITS = load_digits()
DATA = (torch.from_numpy(DIGITS.data).float() / 16, torch.from_numpy(DIGITS.target))


def training():
    return assemble(
        torch.nn.Linear(64, 10), DATA, {"batch": 32, "lr": 0.1, "until": "epochs(1)", "quiet": True, "threads": 1}
    )


def test_a_busy_machine_gets_one_thread_and_a_quiet_one_all(monkeypatch):
    t = training()
    before = torch.get_num_threads()
    for slow_many, expected in ((True, 1), (False, 4)):
        clock = [0.0]

        def gradient(*_, slow=slow_many, clock=clock, **__):
            clock[0] += 1.0 if slow and torch.get_num_threads() > 1 else 0.1

        monkeypatch.setattr(threads, "exact_gradient", gradient)
        monkeypatch.setattr(threads.time, "perf_counter", lambda clock=clock: clock[0])
        with threads.using_threads(4):
            choice = threads.choose_threads(t)
        assert choice.value == expected
        assert choice.status == "measured"
    assert torch.get_num_threads() == before


def test_it_leaves_no_trace():
    t = training()
    before = Snapshot(t)
    with threads.using_threads(2):
        threads.choose_threads(t)
    after = Snapshot(t)
    for (_, a), (_, b) in zip(before.weights, after.weights, strict=True):
        assert torch.equal(a, b)
    assert before.state == replace(after.state, window=before.state.window)
    assert vars(before.state.window) == vars(after.state.window)


def test_a_run_computes_with_its_planned_threads_and_puts_the_setting_back():
    seen = []
    before = torch.get_num_threads()
    run = handful.fit(
        torch.nn.Linear(64, 10), DATA, batch=32, lr=0.1, until="steps(3)", quiet=True, threads=1,
        callbacks=[lambda event, info: seen.append(torch.get_num_threads()) if event == "step" else None],
    )  # fmt: skip
    assert set(seen) == {1}
    assert torch.get_num_threads() == before
    assert run.plan.threads == 1


def test_more_threads_than_cores_are_noted():
    run = handful.fit("linear", "iris", threads=4096, batch=32, lr=0.1, until="steps(1)", quiet=True)
    assert any(note.startswith("threads=4096 is more than the") for note in run.plan.notes)
