"""Each moment belongs to one part, so that all parts add up to the whole."""

import time
from contextlib import suppress

import pytest

from handful.base import stopwatch
from handful.base.stopwatch import STEPS, Stopwatch, part


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_each_moment_belongs_to_the_innermost_part(clock):
    with stopwatch.stopwatch() as watch:
        clock(1)
        with part("outer"):
            clock(2)
            with part("inner"):
                clock(4)
            clock(8)
        with stopwatch.stopwatch() as same:  # of a call within the call
            clock(16)
    assert same is watch
    assert watch.seconds == {"everything else": 17.0, "outer": 10.0, "inner": 4.0}


def test_a_part_that_fails_is_closed(clock):
    with stopwatch.stopwatch() as watch:
        with suppress(KeyError), part("fails"):
            clock(1)
            raise KeyError
        clock(2)
    assert watch.seconds == {"everything else": 2.0, "fails": 1.0}


def test_parts_of_a_step_count_within_the_loop_alone(clock):
    watch = Stopwatch()
    forward = watch.timed(clock, "forward pass")
    watch.enter(STEPS)
    forward(1)
    watch.enter("held-out rows")
    forward(2)
    watch.leave()
    watch.leave()
    assert watch.so_far() == {"everything else": 0.0, STEPS: 0.0, "forward pass": 1.0, "held-out rows": 2.0}


def test_without_a_stopwatch_nothing_is_counted():
    with part("a"):
        pass
    assert stopwatch.Stopwatch().seconds == {}
