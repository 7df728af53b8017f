"""Step times: the line through planted times, sizes that fail, the budget."""

import math
import time

import numpy as np
import pytest
import torch
from torch import nn

from handful.base.errors import HandfulError
from handful.plan.probe.step_time import Throughput, fit_line, fit_times, measure_throughput, powers_of_two

from .conftest import mlp


def test_the_line_is_found_through_noise_and_interruptions():
    generator = np.random.default_rng(0)
    sizes = powers_of_two(1024)
    times = {n: list((2e-3 + 3e-5 * n) * generator.lognormal(0, 0.05, 7)) for n in sizes}
    times[16] = [t * 5 for t in times[16]]  # something else ran on the machine meanwhile
    found = fit_times(times)
    assert found.a == pytest.approx(2e-3, rel=0.15)
    assert found.b == pytest.approx(3e-5, rel=0.15)
    of_a, of_b = found.intervals()
    assert of_a[0] <= found.a <= of_a[1]
    assert of_b[0] <= found.b <= of_b[1]
    assert of_b[1] < 4e-5


def test_the_interval_of_the_line_covers_it():
    covered = 0
    for seed in range(30):
        generator = np.random.default_rng(seed)
        times = {n: list((1e-2 + 1e-4 * n) * generator.lognormal(0, 0.1, 9)) for n in powers_of_two(512)}
        low, high = fit_times(times).intervals()[1]
        covered += low <= 1e-4 <= high
    assert covered >= 22  # of 30, at a nominal 27


def test_neither_end_of_the_line_is_negative():
    assert fit_line([1, 2, 4], [1.0, 1.0, 1.0]) == pytest.approx((1.0, 0.0))
    a, b = fit_line([1, 2, 4, 8], [1.0, 2.2, 4.8, 10.0])  # bends up: a would be below 0
    assert a == 0
    assert b > 0
    assert fit_line([8], [4.0]) == (0.0, 0.5)


def test_times_that_are_no_line_are_used_as_they_are():
    found = fit_times({n: [t] * 3 for n, t in ((1, 1.0), (2, 1.0), (4, 1.0), (8, 1.0), (16, 20.0), (32, 21.0))})
    assert not found.is_line
    assert found(16) == pytest.approx(20.0)
    assert found.smallest_at_peak() == 8


def test_real_steps_are_timed_and_a_slow_part_is_seen(training):
    class Slow(nn.Module):
        def forward(self, x):
            time.sleep(2e-3 + 5e-4 * len(x))
            return x

    found = measure_throughput(training(mlp(extra=[Slow()])), [1, 4, 16, 64], budget=3.0)
    assert found.sizes == (1, 4, 16, 64)
    assert found.a > 1.5e-3
    assert found.b > 2e-4  # a sleep is never shorter than asked, and on a busy machine longer
    assert all(lo <= mid <= hi for lo, mid, hi in zip(found.low, found.seconds, found.high, strict=True))


class Slow(nn.Module):
    """A layer that takes so many seconds by its own clock, which nothing else moves."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.now = seconds, 0.0

    def forward(self, x):
        self.now += self.seconds(len(x))
        return x

    def __deepcopy__(self, memo):
        return self

    def clock(self, _):
        return self.now


def test_the_budget_leaves_out_the_largest_sizes(training):
    slow = Slow(lambda rows: 2e-3 * rows)
    found = measure_throughput(training(mlp(extra=[slow])), powers_of_two(256), budget=0.8, timer=slow.clock)
    assert 1 < len(found.sizes) < 9
    assert found.sizes[-1] < 256


def test_a_slow_step_is_not_timed_at_its_smallest_sizes_alone(training):
    """It once was, and the largest of those was chosen: 4 rows a step, each as long as a step of 64."""
    slow, sizes = Slow(lambda rows: 5e-2), powers_of_two(256)
    given = {"budget": 0.4, "known": {32: [0.05]}, "timer": slow.clock}
    found = measure_throughput(training(mlp(extra=[slow])), sizes, **given)
    assert {32, 64} <= set(found.sizes)
    assert found.a > 2e-2


def test_a_size_that_fails_is_named_and_the_others_are_measured(training):
    class Picky(nn.Module):
        def forward(self, x):
            if len(x) > 8:
                raise RuntimeError("at most 8 rows")
            return x

    found = measure_throughput(training(mlp(extra=[Picky()])), [4, 8, 16], budget=1.0)
    assert found.sizes == (4, 8)
    assert found.failed == ((16, "at most 8 rows"),)


def test_out_of_memory_halves_the_micro_batch_and_is_reported(training):
    class Small(nn.Module):
        def forward(self, x):
            if len(x) > 8:
                raise torch.OutOfMemoryError("planted")
            return x

    found = measure_throughput(training(mlp(extra=[Small()])), [4, 8, 32], budget=1.0)
    assert found.sizes == (4, 8, 32)
    assert found.micro_batches == {32: 8}


def test_nothing_that_runs_is_one_sentence(training):
    class Broken(nn.Module):
        def forward(self, x):
            if self.training:
                raise RuntimeError("planted failure")
            return x

    with pytest.raises(HandfulError, match="planted failure"):
        measure_throughput(training(mlp(extra=[Broken()])), [4, 8], budget=0.2)


def test_a_given_law():
    law = Throughput.law(512, 1, powers_of_two(4096))
    assert law(100) == 612
    assert law.is_line
    assert not law.tested
    assert math.isclose(law.rate(512), 0.5)
