"""Small parts that probes share: two ways timed in turn, bytes that autograd keeps, Student's t, what a race says."""

import math
import re
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from handful.plan.probe import step_time
from handful.plan.probe.first_steps import _outcome, default_rate, rate_follows
from handful.plan.probe.lr_race import Branch, harmed, race
from handful.plan.probe.memory import saved_by_autograd
from handful.plan.probe.noise_scale import student
from handful.plan.probe.step_time import Throughput, powers_of_two
from handful.plan.probe.steps import Snapshot
from handful.training.watch import stop
from handful.training.watch.guards import NonFiniteLoss

from .conftest import fingerprint, mlp


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only in gradients: `costs` of each setting by name, all of them in `order`."""

    class Clock:
        now, setting, order, costs = 0.0, "", [], {"slow": [4.0], "fast": [1.0]}

        def gradient(self, *_, **__):
            costs = self.costs[self.setting]
            self.now += costs[min(self.order.count(self.setting), len(costs) - 1)]
            self.order.append(self.setting)

        def ways(self):
            @contextmanager
            def way(name):
                self.setting = name
                yield

            return [lambda name=name: way(name) for name in self.costs]

    made = Clock()
    made.order = []
    monkeypatch.setattr(step_time, "exact_gradient", made.gradient)
    monkeypatch.setattr(step_time.time, "perf_counter", lambda: made.now)
    return made


def test_settings_take_turns_and_the_first_round_warms_up(training, clock):
    clock.costs = {"slow": [100.0, 4.0, 4.0, 4.0], "fast": [100.0, 1.0, 1.0, 1.0]}
    assert step_time.time_in_turn(training(), clock.ways(), 8, budget=math.inf, rounds=3) == [4000.0, 1000.0]
    assert clock.order == ["slow", "fast"] * 4


def test_one_slow_moment_does_not_move_the_medians(training, clock):
    clock.costs = {"slow": [4.0, 4.0, 4.0, 90.0], "fast": [1.0, 1.0, 70.0, 1.0]}
    assert step_time.time_in_turn(training(), clock.ways(), 8, budget=math.inf, rounds=3) == [4000.0, 1000.0]


def test_of_a_run_that_would_spend_its_time_on_it_nothing_is_tried_twice(training, clock):
    t = training()
    t.rule = stop.seconds(100)
    assert step_time.time_in_turn(t, clock.ways(), 8, budget=0.0, rounds=7) is None
    assert clock.order == ["slow", "fast"]
    t.rule = stop.seconds(200)
    assert step_time.time_in_turn(t, clock.ways(), 8, budget=0.0, rounds=7) == [4000.0, 1000.0]


def test_there_are_two_rounds_whatever_the_budget(training, clock):
    assert step_time.time_in_turn(training(), clock.ways(), 8, budget=0.0, rounds=7) == [4000.0, 1000.0]
    assert clock.order == ["slow", "fast"] * 3  # and one before them


def test_precision_is_told_by_the_thread_s_own_time_on_a_busy_machine(training, clock, monkeypatch):
    clock.costs = {"": [90.0, 1.0] * 9}  # by the clock float32 takes 90 times as long
    monkeypatch.setattr(step_time.time, "thread_time", lambda: float(len(clock.order)))
    choice = step_time.measure_precision(training(), budget=math.inf)
    assert (choice.value, choice.status) == ("float32", "measured")
    assert len(clock.order) == 12


def test_a_step_that_fails_tells_nothing_and_leaves_no_trace(training, monkeypatch):
    t = training(mlp(extra=[nn.BatchNorm1d(32), nn.Dropout(0.2)]))
    before = fingerprint(t)
    calls = []

    def gradient(*_, **__):
        torch.rand(3)
        next(t.objective.model.parameters()).data.add_(1)
        calls.append(t.objective.autocast)
        if len(calls) == 4:
            raise NonFiniteLoss("planted")

    monkeypatch.setattr(step_time, "exact_gradient", gradient)
    choice = step_time.measure_precision(t)
    assert (choice.value, choice.status) == ("float32", "default")
    assert "the trial step failed" in choice.reason
    assert calls == [None, torch.bfloat16] * 2
    assert fingerprint(t) == before
    assert t.objective.autocast is None


def test_students_t_is_that_of_the_tables():
    """One-sided 95%, from the tables in use before (Fisher & Yates); the normal distribution's 1.645 far out."""
    table = {1: 6.314, 2: 2.920, 3: 2.353, 4: 2.132, 5: 2.015, 7: 1.895, 10: 1.812, 15: 1.753, 30: 1.697, 60: 1.671}
    for degrees, value in table.items():
        assert student(degrees) == pytest.approx(value, abs=5e-4)
    assert student(10**6) == pytest.approx(1.645, abs=5e-4)
    assert student(0) == student(1)  # of a single value there is no spread either
    assert harmed(Branch(0.1, (1.2,)), before=(1.0,))
    assert not harmed(Branch(0.1, (0.9,)), before=(1.0,))


@given(cap=st.integers(0, 1 << 40), least=st.integers(1, 64))
def test_powers_of_two_are_all_of_them_and_no_others(cap, least):
    found = powers_of_two(cap, least)
    assert found == [n for n in (2**k for k in range(41)) if least <= n <= cap]


def test_bytes_that_autograd_keeps_are_counted_once_and_without_the_weights(training):
    """By hand: the input of a linear layer, and tanh's output, which the next layer keeps as well."""
    model = mlp(width=32).double()
    x = torch.randn(7, 64, dtype=torch.float64)
    with saved_by_autograd(model) as storages:
        model(x)
    assert sum(storages.values()) == 8 * 7 * (64 + 32)
    with saved_by_autograd(model) as storages, torch.no_grad():
        model(x)
    assert not storages


def test_the_predicted_time_to_a_target_is_least_at_the_best_batch():
    law = Throughput.law(64, 1, powers_of_two(1024))
    times = law.time_to_target(law.sizes, 100.0)
    assert min(times) == 1
    assert law.sizes[int(np.argmin(times))] == 64  # sqrt(64 * 100) = 80
    by_hand = [(64 + n) * (n + 100) / n for n in law.sizes]
    assert times == pytest.approx(np.array(by_hand) / min(by_hand))


def test_the_reason_of_a_raced_rate_names_rates_steps_and_losses(training):
    t = training(optimizer="sgd", lr=0.1)
    found = race(t, 0.1, size=32, steps=10, start=Snapshot(t))
    assert re.fullmatch(
        r"0\.1, 0\.2 in a race over steps 1-10: loss 2\.\d+ -> \d\.\d+, (\d\.\d+|given up)", _outcome(found)
    )


def test_a_larger_batch_gets_a_larger_rate_and_the_same_one_the_same(training):
    for optimizer, low in (("sgd", 2.0), ("adamw", 2**0.375)):
        t = training(optimizer=optimizer, lr=0.1)
        assert rate_follows(t, 32, 32) == rate_follows(t, 32, 32, phi=50.0) == 1
        assert 1 < rate_follows(t, 32, 64, phi=50.0) < rate_follows(t, 32, 64, phi=1e6) <= 2
        assert rate_follows(t, 32, 64) <= low + 1e-12
    assert default_rate(training(optimizer="sgd", lr=0.1), 32)[0] == 0.1
