"""Numbers in words, at the edges where rounding changes the unit."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from handful.report import words


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("valid_accuracy", 0.978, "accuracy 97.8%"),
        ("valid_accuracy", 1.0, "accuracy 100%"),
        ("valid_accuracy", 0.9999, "accuracy 99.99%"),
        ("valid_accuracy", 0.0004, "accuracy 0.04%"),
        ("train_loss", 0.08314, "training loss 0.0831"),
        ("test_top5_accuracy", np.float32(0.5), "test top5 accuracy 50.0%"),
        ("valid_loss", torch.tensor(2.0), "loss 2"),
        ("valid_loss", math.nan, "loss not a number"),
        ("valid_loss", math.inf, "loss infinite"),
        ("valid_accuracy", math.nan, "accuracy not a number"),
        ("my_score", 12.0, "my score 12"),
    ],
)
def test_a_score_in_words(name, value, text):
    assert words.say_score(name, value) == text


@given(st.floats(0, 1, exclude_min=True, exclude_max=True).filter(lambda v: 1e-5 < v < 1 - 1e-5))
def test_a_share_is_never_said_to_be_all_or_nothing_when_it_is_not(share):
    said = float(words.say_share(share)[:-1]) / 100
    assert 0 < said < 1
    assert abs(said - share) <= 0.0005 + 1e-12


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min"), (72, "1 min 12 s"),
        (3599.4, "59 min 59 s"), (3599.6, "1 h"), (7500, "2 h 5 min"), (86399, "1 d"), (90000, "1 d 1 h"),
        (-72, "minus 1 min 12 s"), (math.inf, "infinite"), (0.9996, "1 s"), (0.0005, "500 µs"),
    ],
)  # fmt: skip
def test_seconds(seconds, text):
    assert words.say_seconds(seconds) == text


@given(st.floats(0.01, 1e8))
def test_seconds_are_within_the_last_unit_said(seconds):
    units = {"µs": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "d": 86400}
    parts = words.say_seconds(seconds).replace(",", "").split()
    said = sum(float(n) * units[u] for n, u in zip(parts[::2], parts[1::2], strict=True))
    assert abs(said - seconds) <= max(0.06 * seconds, 0.06) if seconds < 60 else abs(said - seconds) <= 0.02 * seconds


@given(st.integers(0, 10**18))
def test_counts_round_trip_within_their_digits(count):
    scale = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
    number, _, unit = words.say_count(count).replace(",", "").partition(" ")
    said = float(number) * scale.get(unit, 1)
    assert said == count if not unit else abs(said - count) <= 0.051 * scale[unit] + 0.006 * count
    assert float(number) < 1000 or not unit or unit == "P"


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (1023, "1,023 bytes"), (1024, "1.0 KiB"), (2**30 - 1, "1.0 GiB")]
)
def test_bytes(size, text):
    assert words.say_bytes(size) == text


@given(st.floats(-1e300, 1e300))
def test_a_number_is_said_within_its_digits(value):
    said = float(words.say_number(value).replace(",", ""))
    assert abs(said - value) <= 0.0051 * abs(value)


def test_what_holds_no_number_is_not_a_number():
    assert math.isnan(words.as_float(None))
    assert math.isnan(words.as_float(torch.zeros(2)))
    assert not words.is_number(np.zeros(3))
    assert not words.is_number(True)
    assert words.is_number(np.float32(1))
    assert words.is_number(torch.tensor(1.0))


def test_a_string_cannot_steer_the_terminal():
    assert "\x1b" not in words.plain("\x1b]0;title\x07\x9b31m")
    assert "\n" not in words.plain("a\nb")
