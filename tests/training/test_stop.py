"""Stop rules against plain replays of the same history, and their text form."""

import math
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handful.base.errors import HandfulError
from handful.base.plan import Progress
from handful.base.score import lower_is_better
from handful.training.watch import stop
from handful.training.watch.stop import both, either

NAN, INF = float("nan"), float("inf")


def at(position: int = 0, step: int = 0, examples: int = 100, seconds: float = 0.0, history: Any = ()) -> Progress:
    return Progress(position, step, examples, seconds, history=list(history))


def rows(*values: float, name: str = "valid_loss") -> list[dict[str, Any]]:
    return [{"step": i, "epoch": float(i), name: value} for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("rule", "before", "after", "reason"),
    [
        (stop.steps(10), at(step=9), at(step=10), "reached 10 steps"),
        (stop.steps(1), at(step=0), at(step=5), "reached 1 step"),
        (stop.epochs(2), at(199), at(200), "reached 2 epochs"),
        (stop.epochs(0.5), at(49), at(50), "reached 0.5 epochs"),
        (stop.examples(1e4), at(9999), at(10000), "reached 10,000 examples"),
        (stop.seconds(1.5), at(seconds=1.4), at(seconds=1.5), "reached 1.5 seconds"),
    ],
)
def test_counts(rule: stop.Rule, before: Progress, after: Progress, reason: str) -> None:
    assert rule(before) is None
    assert rule(after) == reason


@settings(deadline=None)
@given(st.integers(1, 10**7), st.integers(1, 10**4), st.integers(1, 1000))
def test_epochs_stop_at_the_exact_row(examples: int, tenths: int, batch: int) -> None:
    rule = stop.epochs(tenths / 10)
    exact = max(1, -(-tenths * examples // 10))
    assert rule.limit(examples, batch) == exact
    assert rule(at(exact, examples=examples)) is not None
    assert rule(at(exact - 1, examples=examples)) is None


def test_limits_combine() -> None:
    a, b, time = stop.epochs(3), stop.steps(10), stop.seconds(5)
    assert (a | b).limit(100, 20) == 200
    assert (a & b).limit(100, 20) == 300
    assert (a | b).limit(100) == 300
    assert (a & b).limit(100) is None
    assert (a | time).limit(100) == 300
    assert (a & time).limit(100) is None
    assert (time | stop.plateau(3)).limit(100) is None
    assert ((a & time) | b).limit(100, 20) == 200
    assert stop.examples(7).limit(100) == 7
    assert [rule.time() for rule in (a, a | time, a & time, (a & time) | stop.seconds(9))] == [None, 5, None, 9]
    assert (time & stop.seconds(9)).time() == 9


def test_combined_reasons() -> None:
    rule = (stop.epochs(1) & stop.steps(5)) | stop.seconds(9)
    assert rule(at(100, 4)) is None
    assert rule(at(100, 5)) == "reached 1 epoch and reached 5 steps"
    assert rule(at(0, 0, seconds=9)) == "reached 9 seconds"
    assert rule.scores == frozenset()
    assert (stop.plateau(2) | stop.reaches("valid_f1", 1) | stop.loss_below(1)).scores == {
        "valid_loss",
        "valid_f1",
        "train_loss",
    }


def test_loss_below_looks_at_the_latest_train_loss() -> None:
    rule = stop.loss_below(0.5)
    assert rule(at()) is None
    assert rule(at(history=[{"train_loss": 0.4}, {"train_loss": 0.6}])) is None
    assert rule(at(history=[{"train_loss": 0.6}, {"train_loss": 0.4}, {"valid_loss": 9}])) == (
        "train_loss 0.4 is below 0.5"
    )
    assert rule(at(history=[{"train_loss": 0.5}])) is None
    assert rule(at(history=[{"train_loss": NAN}])) is None


@pytest.mark.parametrize(
    ("name", "lower"),
    [
        *[(f"valid_{n}", True) for n in ("loss", "error", "mae", "mse", "rmse", "perplexity", "wer", "cer")],
        *[(f"valid_{n}", True) for n in ("calibration_error", "log_loss", "error_rate", "bits_per_byte")],
        *[(f"train_{n}", False) for n in ("accuracy", "top5", "f1", "auroc", "r2", "balanced_accuracy", "f1_macro")],
    ],
)
def test_which_way_is_better(name: str, lower: bool) -> None:
    assert lower_is_better(name) is lower
    value, near = (0.4, 0.39) if lower else (0.9, 0.91)
    far = 1 - near
    rule = stop.reaches(name, value)
    assert rule(at(history=rows(far, name=name))) is None
    assert rule(at(history=rows(value, name=name))) is not None
    assert rule(at(history=rows(far, near, far, name=name))) == f"{name} reached {value} ({near} at epoch 1)"


def test_a_score_of_ones_own_needs_a_direction() -> None:
    with pytest.raises(HandfulError, match="higher or lower"):
        stop.reaches("valid_fun", 3)
    assert stop.reaches("valid_fun", 3, better="higher")(at(history=rows(4, name="valid_fun")))
    assert stop.reaches("valid_fun", 3, better="lower")(at(history=rows(4, name="valid_fun"))) is None
    with pytest.raises(HandfulError, match="'sideways'"):
        stop.reaches("valid_loss", 3, better="sideways")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "rule", [stop.reaches("valid_acuracy", 1, better="higher"), stop.plateau(1, "valid_lss", better="lower")]
)
def test_an_unknown_score_is_an_error_once_there_is_an_evaluation(rule: stop.Rule) -> None:
    assert rule(at()) is None
    assert rule(at(history=[{"step": 1, "train_loss": 1.0}])) is None
    with pytest.raises(HandfulError, match=r"Did you mean 'valid_(accuracy|loss)'"):
        rule(at(history=[{"step": 1, "train_loss": 1.0, "valid_accuracy": 0.5, "valid_loss": 1.0}]))


def test_an_unknown_training_score_is_an_error_too() -> None:
    with pytest.raises(HandfulError, match="Did you mean 'train_accuracy'"):
        stop.reaches("train_acc_accuracy", 1)(at(history=[{"train_accuracy": 0.5}]))


def test_plateau_says_what_it_saw() -> None:
    history = rows(0.5, 0.123, 0.2, 0.2, 0.2)
    assert stop.plateau(3)(at(history=history)) == (
        "valid_loss has not improved for 3 evaluations (best 0.123 at epoch 1)"
    )
    assert stop.plateau(4)(at(history=history)) is None
    assert stop.plateau(2)(at(history=rows(NAN, NAN))) == (
        "valid_loss has not improved for 2 evaluations (it was never a number)"
    )
    between = [row for one in history for row in (one, {"train_loss": 0.0})]
    assert stop.plateau(3)(at(history=between)) == stop.plateau(3)(at(history=history))
    assert stop.plateau(1)(at(history=[])) is None


def _first_plateau(values: list[float], patience: int, delta: float, lower: bool) -> int | None:
    """Early stopping as every textbook writes it: a loop with two variables."""
    best, wait = None, 0
    for index, value in enumerate(values):
        better = not math.isnan(value) and (best is None or (value < best - delta if lower else value > best + delta))
        if better:
            best, wait = value, 0
        else:
            wait += 1
            if wait >= patience:
                return index
    return None


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([0.1, 0.2, 0.25, 0.3, 0.5, NAN]), max_size=25),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.07]),
    st.booleans(),
)
def test_plateau_stops_where_the_textbook_loop_does(
    values: list[float], patience: int, delta: float, lower: bool
) -> None:
    name = "valid_loss" if lower else "valid_accuracy"
    rule = stop.plateau(patience, name, delta)
    history = rows(*values, name=name)
    fired = [i for i in range(len(values)) if rule(at(history=history[: i + 1]))]
    expected = _first_plateau(values, patience, delta, lower)
    assert (fired[0] if fired else None) == expected


counts = st.integers(1, 10**12)
reals = st.floats(1e-12, 1e12)
scores = st.sampled_from(["valid_loss", "valid_accuracy", "train_top5", "valid_f1_macro"])
basic = st.one_of(
    st.builds(stop.steps, counts),
    st.builds(stop.epochs, counts | reals),
    st.builds(stop.examples, counts),
    st.builds(stop.seconds, reals),
    st.builds(stop.loss_below, st.floats(-1e9, 1e9)),
    st.builds(stop.reaches, scores, st.floats(-1e9, 1e9), st.sampled_from(["auto", "higher", "lower"])),
    st.builds(stop.plateau, counts, scores | st.just("auto"), st.floats(0, 1)),
)
rules = st.recursive(
    basic,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a | b, inner, inner),
        st.builds(lambda a, b: a & b, inner, inner),
        st.builds(lambda a: either(tuple(a)), st.lists(inner, min_size=2, max_size=3)),
        st.builds(lambda a: both(tuple(a)), st.lists(inner, min_size=2, max_size=3)),
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(rules)
def test_text_and_back(rule: stop.Rule) -> None:
    assert stop.parse(str(rule)) == rule
    assert str(stop.parse(str(rule))) == str(rule)


def test_chains_are_flat_and_precedence_is_pythons() -> None:
    a, b, c = stop.epochs(1), stop.steps(2), stop.plateau(3)
    assert (a | b) | c == a | (b | c)
    assert stop.parse("epochs(1) | steps(2) & plateau(3)") == a | (b & c)
    assert str((a | b) & c) == "(epochs(1) | steps(2)) & plateau(3)"


def test_as_rule() -> None:
    assert stop.as_rule(50) == stop.as_rule("50") == stop.as_rule(" 50 ") == stop.epochs(50)
    assert stop.as_rule(0.5) == stop.as_rule("0.5") == stop.epochs(0.5)
    assert stop.as_rule(stop.steps(3)) == stop.as_rule("steps(3)") == stop.steps(3)
    for bad in (True, None, [3], 0, -1, NAN, "", "0", "epoch(3)"):
        with pytest.raises(HandfulError):
            stop.as_rule(bad)  # type: ignore[arg-type]
    with pytest.raises(HandfulError, match="Did you mean 'epochs'"):
        stop.as_rule("epoch(3)")


@pytest.mark.parametrize("make", [stop.steps, stop.epochs, stop.examples, stop.seconds, stop.plateau])
@pytest.mark.parametrize("bad", [0, -1, NAN, INF, "3", True, None])
def test_bad_numbers(make: Any, bad: Any) -> None:
    with pytest.raises(HandfulError, match=rf"{make.__name__}\(\w+\) must be a"):
        make(bad)


def test_other_bad_arguments() -> None:
    for make in (
        lambda: stop.steps(1.5),  # type: ignore[arg-type]
        lambda: stop.loss_below(NAN),
        lambda: stop.reaches("valid_loss", NAN),
        lambda: stop.reaches("", 1.0),
        lambda: stop.reaches("valid loss", 1.0),
        lambda: stop.plateau(3, min_delta=-1),
    ):
        with pytest.raises(HandfulError):
            make()
    with pytest.raises(TypeError):
        stop.steps(3) | 4  # type: ignore[operator]
    with pytest.raises(FrozenInstanceError):
        stop.steps(3).n = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    "text",
    ["steps(7)", "epochs(1.3)", "examples(37)", "seconds(5)", "steps(9) | epochs(1)", "steps(9) & examples(50)",
     "steps(6) | plateau(2)", "plateau(1) & steps(3)", "reaches('valid_loss', 3) & steps(9)",
     "loss_below(0.1) | examples(40)", "reaches('valid_loss', 1)"],
)  # fmt: skip
@pytest.mark.parametrize("batch", [1, 4, 7])
def test_a_rule_says_before_which_position_it_need_not_be_asked(text, batch):
    rule, history = stop.parse(text), rows(2.0, 2.5) + rows(2.0, name="train_loss")
    for start in range(0, 60, batch):
        here = Progress(start, start // batch, 25, 4.0, None, history)
        if rule(here):
            break
        until = rule.silent_until(here, batch)
        assert rule.silent_until(here, None) <= until
        for k in range(1, 60):
            later = Progress(start + k * batch, here.step + k, 25, 4.0 + k, None, history)
            assert later.position >= until or rule(later) is None
            if later.position >= until:
                break


def test_patience_begins_again_where_the_run_did():
    rows = [{"epoch": k, "position": 10 * k, "valid_loss": v} for k, v in enumerate([0.5, 0.3, 0.6, 0.5, 0.4])]
    assert stop.plateau(3)(Progress(40, 4, 10, history=rows))
    assert stop.plateau(3)(Progress(40, 4, 10, history=rows, restarted=10)) is None
    rows += [{"epoch": k, "position": 10 * k, "valid_loss": 0.45} for k in (5, 6, 7)]
    said = stop.plateau(3)(Progress(70, 7, 10, history=rows, restarted=10))
    assert said == "valid_loss has not improved for 3 evaluations (best 0.4 at epoch 4)"
