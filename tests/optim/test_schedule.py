"""Schedules against torch.optim.lr_scheduler, against their formulas, and as pure functions of position."""

import math
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler as lrs

from handful.base.errors import HandfulError
from handful.base.plan import Progress
from handful.optim import schedule
from handful.optim.schedule import Schedule

N, B, EPOCHS = 60, 10, 12  # rows, batch, planned epochs
PER_EPOCH, STEPS = N // B, N // B * EPOCHS


def at(position: float, planned: int | None = N * EPOCHS, batch: int = B, history: Any = ()) -> Progress:
    return Progress(int(position), int(position) // batch, N, planned=planned, history=list(history))


def torchs(make: Callable[[torch.optim.Optimizer], Any], steps: int = STEPS) -> list[float]:
    """The learning rates that a plain torch loop sees, base 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0, momentum=0.5)
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = make(optimizer)
        for index in range(steps):
            seen.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            if index < steps - 1:
                scheduler.step()
    return seen


ours_and_torchs: list[tuple[Schedule, Callable[[torch.optim.Optimizer], Any], bool]] = [
    # ours, torch's, whether torch's steps once an epoch
    (schedule.constant(), lambda o: lrs.ConstantLR(o, 1.0), False),
    (schedule.step(3, 0.5), lambda o: lrs.StepLR(o, 3, 0.5), True),
    (schedule.step(0.5, 0.5), lambda o: lrs.StepLR(o, 3, 0.5), False),
    (schedule.exponential(0.8), lambda o: lrs.ExponentialLR(o, 0.8), True),
    (schedule.exponential(0.8**PER_EPOCH), lambda o: lrs.ExponentialLR(o, 0.8), False),
    (schedule.polynomial(), lambda o: lrs.PolynomialLR(o, STEPS), False),
    (schedule.polynomial(2.0), lambda o: lrs.PolynomialLR(o, STEPS, 2.0), False),
    (schedule.polynomial(end=0.25), lambda o: lrs.LinearLR(o, 1.0, 0.25, STEPS), False),
    (schedule.cosine(), lambda o: lrs.CosineAnnealingLR(o, STEPS), False),
    (schedule.cosine(end=0.1, total=6), lambda o: lrs.CosineAnnealingLR(o, STEPS // 2, 0.1), False),
    (
        schedule.warmup("cosine", epochs=2),
        lambda o: lrs.SequentialLR(
            o,
            [lrs.LinearLR(o, 0.01, 1.0, 2 * PER_EPOCH), lrs.CosineAnnealingLR(o, STEPS - 2 * PER_EPOCH)],
            [2 * PER_EPOCH],
        ),
        False,
    ),
]


@pytest.mark.parametrize(
    ("ours", "theirs", "by_epoch"), ours_and_torchs, ids=lambda v: str(v)[:40] if isinstance(v, Schedule) else None
)
def test_equals_torchs_sequence(ours: Schedule, theirs: Any, by_epoch: bool) -> None:
    if ours.__class__ is schedule.cosine and getattr(ours, "total", None):
        steps = STEPS // 2  # past its end torch's cosine rises again; ours stays
    else:
        steps = EPOCHS if by_epoch else STEPS
    rows = N if by_epoch else B
    np.testing.assert_allclose(
        [ours(at(k * rows)) for k in range(steps)], torchs(theirs, steps), rtol=1e-10, atol=1e-14
    )


def test_one_cycle_equals_torchs() -> None:
    # torch's phases end at pct * T - 1 and T - 1 steps; the same points as shares of T - 1 steps
    pct = 0.3
    mine = schedule.one_cycle(rise=(pct * STEPS - 1) / (STEPS - 1))
    expected = torchs(lambda o: lrs.OneCycleLR(o, 1.0, total_steps=STEPS, pct_start=pct))
    np.testing.assert_allclose([mine(at(k * B, planned=(STEPS - 1) * B)) for k in range(STEPS)], expected, rtol=1e-9)
    assert max(mine(at(k)) for k in range(N * EPOCHS)) <= 1.0


def test_inverse_sqrt_is_vaswani_over_its_peak() -> None:
    warm = 2 * N
    mine = schedule.inverse_sqrt(epochs=2)
    for position in range(1, N * EPOCHS, 7):
        vaswani = min(position**-0.5, position * warm**-1.5) / warm**-0.5
        # the rise starts at 0.01, so it lies up to 0.01 above
        assert mine(at(position)) == pytest.approx(vaswani, abs=0.01 if position < warm else 1e-12)
    assert mine(at(0)) == 0.01
    assert mine(at(10**9, planned=None)) > 0


def test_on_plateau_equals_torchs() -> None:
    keys = np.random.Generator(np.random.PCG64(3))
    for patience in (1, 2, 4):
        values = [float(v) for v in np.round(keys.random(60), 1)]
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        # torch cuts after more than `patience` bad ones, ours after `patience`
        theirs = lrs.ReduceLROnPlateau(
            optimizer, "max", 0.5, patience - 1, threshold=0.05, threshold_mode="abs", min_lr=0.01
        )
        mine = schedule.on_plateau(0.5, patience, "valid_accuracy", min_delta=0.05, end=0.01)
        history: list[dict[str, Any]] = []
        for value in values:
            theirs.step(value)
            history += [{"valid_accuracy": value}, {"train_loss": 1.0}]
            lr = optimizer.param_groups[0]["lr"]
            # torch keeps a rate whose cut would change it by less than eps=1e-8
            assert mine(at(0, history=history)) == pytest.approx(lr)


FACTORIES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "StepLR": lambda o: lrs.StepLR(o, 7, 0.3),
    "CosineAnnealingLR": lambda o: lrs.CosineAnnealingLR(o, STEPS, eta_min=0.1),
    "OneCycleLR": lambda o: lrs.OneCycleLR(o, max_lr=1.0, total_steps=STEPS),
    "LambdaLR": lambda o: lrs.LambdaLR(o, lambda k: 1 / (1 + k)),
    "SequentialLR": lambda o: lrs.SequentialLR(
        o, [lrs.LinearLR(o, 0.1, total_iters=5), lrs.ExponentialLR(o, 0.9)], [5]
    ),
    "CosineAnnealingWarmRestarts": lambda o: lrs.CosineAnnealingWarmRestarts(o, 5),
}


@pytest.mark.parametrize("name", FACTORIES)
def test_from_torch_replays_exactly_in_any_order(name: str) -> None:
    expected = torchs(FACTORIES[name])
    mine = schedule.from_torch(FACTORIES[name])
    order = list(range(STEPS))
    random.Random(0).shuffle(order)
    for k in order:
        assert mine(Progress(k * B, k, N)) == expected[k]
    by_epoch = schedule.from_torch(FACTORIES[name], every="epoch")
    assert [by_epoch(Progress(p, p, N)) for p in (0, N - 1, N, 5 * N + 3)] == [expected[e] for e in (0, 0, 1, 5)]


def test_from_torch_says_what_it_leaves_out_and_where_it_ends() -> None:
    cycle = schedule.from_torch(FACTORIES["OneCycleLR"])
    assert cycle.notes == ["OneCycleLR would also change the momentum; only its learning rate is used."]
    assert schedule.from_torch(FACTORIES["StepLR"]).notes == []
    with pytest.raises(HandfulError, match="OneCycleLR ends after"):
        cycle(Progress(0, 2 * STEPS, N))
    with pytest.raises(HandfulError, match="on_plateau"):
        schedule.from_torch(lrs.ReduceLROnPlateau)
    with pytest.raises(HandfulError, match="returned None"):
        schedule.from_torch(lambda optimizer: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(HandfulError, match="'step' or 'epoch'"):
        schedule.from_torch(FACTORIES["StepLR"], every="row")  # type: ignore[arg-type]


def linear_and_cosine(o: torch.optim.Optimizer) -> Any:
    return lrs.SequentialLR(o, [lrs.LinearLR(o, 0.1, 1.0, 5), lrs.CosineAnnealingLR(o, 10)], [5])


ENDING: dict[str, tuple[Callable[[torch.optim.Optimizer], Any], int]] = {  # and its last step, counted from 0
    "OneCycleLR": (lambda o: lrs.OneCycleLR(o, 1.0, total_steps=10), 9),
    "a straight OneCycleLR": (lambda o: lrs.OneCycleLR(o, 1.0, total_steps=10, anneal_strategy="linear"), 9),
    "CosineAnnealingLR": (lambda o: lrs.CosineAnnealingLR(o, 10), 10),
    "SequentialLR": (linear_and_cosine, 15),
    "ChainedScheduler": (
        lambda o: lrs.ChainedScheduler([lrs.ExponentialLR(o, 0.9), lrs.CosineAnnealingLR(o, 12)]), 12,
    ),
    "below 0": (lambda o: lrs.LambdaLR(o, lambda k: 1 - k / 10), 10),
    "not a number": (lambda o: lrs.LambdaLR(o, lambda k: 1.0 if k < 8 else math.nan), 7),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDING)
def test_a_torch_scheduler_past_its_end_is_refused_before_the_first_step_and_at_the_step(name: str) -> None:
    make, last = ENDING[name]
    mine, expected = schedule.from_torch(make), torchs(make, last + 1)
    assert [mine(Progress(k * B, k, N)) for k in range(last + 1)] == expected
    assert min(expected) >= 0
    with pytest.raises(HandfulError, match=rf"ends after {last + 1} steps and the run goes on"):
        mine(Progress((last + 1) * B, last + 1, N))
    start = Progress(0, 0, N)
    mine.check(start, Progress(last * B, last, N))
    with pytest.raises(HandfulError, match="ends after"):
        mine.check(start, Progress(last * B + B, last + 1, N))
    by_epoch = schedule.from_torch(make, every="epoch")
    by_epoch.check(start, Progress(last * N + B, 9 * last, N))
    with pytest.raises(HandfulError, match=rf"ends after {last + 1} epochs"):
        by_epoch.check(start, Progress(last * N + N, 9 * last, N))


def test_a_long_run_is_checked_without_a_replay_of_every_step() -> None:
    endless = schedule.from_torch(lambda o: lrs.ExponentialLR(o, 0.999999))
    endless.check(Progress(0, 0, N), Progress(10**9 * B, 10**9, N))
    assert len(endless._factors) < 10**5
    with pytest.raises(HandfulError, match="1,000,000,001 steps are planned"):
        schedule.from_torch(lambda o: lrs.CosineAnnealingLR(o, 10**6)).check(
            Progress(0, 0, N), Progress(10**9 * B, 10**9, N)
        )


def test_a_torch_scheduler_after_a_warmup_begins_at_its_beginning() -> None:
    inner = schedule.from_torch(lambda o: lrs.CosineAnnealingLR(o, 2 * PER_EPOCH))
    whole = schedule.warmup(inner, epochs=1)
    after = [whole(at((PER_EPOCH + k) * B)) for k in range(2 * PER_EPOCH + 1)]
    assert after == torchs(lambda o: lrs.CosineAnnealingLR(o, 2 * PER_EPOCH), 2 * PER_EPOCH + 1)
    whole.check(at(0), at(3 * PER_EPOCH * B))
    with pytest.raises(HandfulError, match="CosineAnnealingLR ends after"):
        whole.check(at(0), at((3 * PER_EPOCH + 1) * B))


@pytest.mark.parametrize("kind", [schedule.cosine, schedule.polynomial])
def test_warmup_share_is_the_wrapper(kind: Any) -> None:
    for position in range(0, N * EPOCHS + 50, 11):
        inside, around = kind(warmup=0.1), schedule.warmup(kind(), share=0.1)
        assert inside(at(position)) == pytest.approx(around(at(position)), rel=1e-12)
        assert kind(warmup=0.1, total=EPOCHS)(at(position, planned=None)) == pytest.approx(
            inside(at(position)), rel=1e-12
        )


SCHEDULES = [
    *[one for one, _, _ in ours_and_torchs],
    schedule.one_cycle(),
    schedule.inverse_sqrt(3),
    schedule.cosine(warmup=0.05, end=0.01),
    schedule.warmup(schedule.step(2), share=0.2),
    schedule.grow_batch(2, schedule=schedule.cosine()),
    schedule.on_plateau(),
]


@pytest.mark.parametrize("one", SCHEDULES, ids=str)
def test_pure_bounded_and_counted_in_examples(one: Schedule) -> None:
    positions = list(range(0, N * EPOCHS + 3 * B, B))
    first = {p: one(at(p)) for p in positions}
    random.Random(1).shuffle(positions)
    again = schedule.parse(str(one))
    for p in positions:
        assert one(at(p)) == first[p] == again(at(p))
        assert one(at(p, batch=2 * B)) == first[p]  # another batch size, fewer steps: the same factor at the same place
        assert 0 <= first[p] <= 1
    assert first[0] > 0


@pytest.mark.parametrize("one", ["cosine", "polynomial", "one_cycle", "cosine(warmup=0.1)"])
def test_no_planned_length(one: str) -> None:
    made = schedule.as_schedule(one)
    with pytest.raises(
        HandfulError, match=r"needs to know how long the run is: add epochs\(...\) to until, or pass total="
    ):
        made(at(0, planned=None))
    with_total = schedule.as_schedule(one.replace("(", "(total=5, ") if "(" in one else one + "(total=5)")
    assert with_total(at(5 * N, planned=None)) < 0.01
    assert with_total(at(9 * N, planned=None)) < 0.01  # stays at its end
    with pytest.raises(HandfulError, match="epochs="):
        schedule.warmup("constant", share=0.1)(at(0, planned=None))


def test_grow_batch() -> None:
    grow = schedule.grow_batch(every=2, by=3, at_most=200)
    sizes = [grow.batch(at(e * N), 10) for e in range(9)]
    assert sizes == [10, 10, 30, 30, 90, 90, 200, 200, 200]
    assert grow.batch(at(2 * N - 1), 10) == 10
    assert grow(at(5 * N)) == 1.0
    assert schedule.grow_batch(2, schedule="cosine")(at(N * EPOCHS / 2)) == pytest.approx(0.5)
    assert schedule.cosine().batch(at(5 * N), 10) == 10
    warm = schedule.warmup(grow, epochs=2)
    assert [warm.batch(at(e * N), 10) for e in (0, 3, 4)] == [10, 10, 30]
    assert schedule.grow_batch(1e-6).batch(at(10**9), 10) >= 2**62  # no overflow, and no endless loop


counts, shares, lengths = st.integers(1, 10**6), st.floats(0, 0.9), st.floats(1e-6, 1e6)
basic = st.one_of(
    st.just(schedule.constant()),
    st.builds(schedule.step, lengths, st.floats(1e-6, 1)),
    st.builds(schedule.exponential, st.floats(1e-6, 1)),
    st.builds(schedule.polynomial, lengths, shares, shares, st.none() | lengths),
    st.builds(schedule.cosine, shares, shares, st.none() | lengths),
    st.builds(schedule.one_cycle, st.floats(0.1, 0.9), shares, shares),
    st.builds(schedule.inverse_sqrt, lengths),
    st.builds(schedule.on_plateau, st.floats(0.01, 1), counts, st.sampled_from(["auto", "valid_accuracy"])),
)
schedules = st.recursive(
    basic,
    lambda inner: st.one_of(
        st.builds(lambda s, e: schedule.warmup(s, epochs=e), inner, lengths),
        st.builds(lambda s, e: schedule.warmup(s, share=e), inner, st.floats(0.01, 0.9)),
        st.builds(schedule.grow_batch, lengths, st.floats(1.01, 9), st.none() | counts, inner),
    ),
    max_leaves=4,
)


@settings(deadline=None)
@given(schedules)
def test_text_and_back(one: Schedule) -> None:
    assert schedule.parse(str(one)) == one


def test_as_schedule() -> None:
    assert schedule.as_schedule(None) == schedule.as_schedule("constant") == schedule.constant()
    assert schedule.as_schedule("step(every=10, factor=0.1)") == schedule.step(10)
    ready = lrs.StepLR(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0), 3)
    with pytest.raises(HandfulError, match="pass schedule=lambda optimizer: StepLR"):
        schedule.as_schedule(ready)  # type: ignore[arg-type]
    for bad, words in [
        ("cosin", "Did you mean 'cosine'"),
        ("cosine(warm=3)", "Did you mean 'warmup'"),
        ("cosine | step(3)", "cannot be joined"),
        (3, "schedule must be"),
        ("warmup(cosine)", "either epochs=, or share="),
        ("warmup(cosine, 1, 0.1)", "not both"),
    ]:
        with pytest.raises(HandfulError, match=words):
            schedule.as_schedule(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        *("step(0)", "step(3, factor=0)", "step(3, factor=2)", "exponential(-1)", "polynomial(power=0)"),
        *("cosine(end=-1)", "cosine(warmup=1)", "cosine(total=0)", "one_cycle(rise=0)", "one_cycle(start=2)"),
        *("inverse_sqrt(0)", "on_plateau(patience=0)", "on_plateau(score='valid_fun')", "grow_batch(0)"),
        *("grow_batch(1, by=1)", "grow_batch(1, at_most=0)", "cosine(end=1e999)", "step(True)", "step('3')"),
        "warmup(cosine, epochs=-1)",
    ],
)
def test_bad_numbers(text: str) -> None:
    with pytest.raises(HandfulError, match="character 1"):
        schedule.parse(text)


def test_first_and_last() -> None:
    assert schedule.cosine()(at(0)) == 1.0
    assert schedule.cosine(end=0.2)(at(N * EPOCHS)) == 0.2
    assert math.isclose(schedule.one_cycle()(at(0)), 0.04)
    assert schedule.warmup("constant", epochs=1)(at(N)) == 1.0
