"""A run of few rows with everything open: defaults where measuring cannot pay, looks from the start, averaged weights,
and the weights that a careful loop would have kept, or better ones."""

import copy
import math
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import handful
from handful.base.plan import Choice, Plan
from handful.batches.batches import Batches
from handful.batches.order import Order
from handful.plan import build, defaults
from handful.plan.build import assemble
from handful.plan.probe import decide as decide_module
from handful.training.watch import observe, restart


def noisy(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two classes of 20 numbers, a fifth of the labels wrong: soon learned by heart."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, 20)).astype(np.float32)
    y = (x[:, :4].sum(1) > 0).astype(np.int64)
    return x, np.where(generator.random(n) < 0.2, 1 - y, y)


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))


def loss(model: nn.Module, rows: tuple[np.ndarray, np.ndarray]) -> float:
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(torch.tensor(rows[0])), torch.tensor(rows[1])))


def plain(train, valid, model: nn.Module | None = None) -> nn.Module:
    """Adam at 1e-3, batches of 32, 15 epochs, the best of them by held-out loss."""
    model, best = model or network(), (math.inf, {})
    optimizer, x, y = torch.optim.Adam(model.parameters(), 1e-3), torch.tensor(train[0]), torch.tensor(train[1])
    with torch.random.fork_rng():
        for _ in range(15):
            for rows in torch.randperm(len(y)).split(32):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
            best = min(best, (loss(model, valid), copy.deepcopy(model.state_dict())), key=lambda pair: pair[0])
    model.load_state_dict(best[1])
    return model


def test_with_everything_open_rows_that_picked_nothing_fare_no_worse_than_by_the_loop_everyone_writes():
    train, valid, test = noisy(1000), noisy(300, 1), noisy(4000, 2)
    run = handful.fit(network(), train, valid=valid, quiet=True)
    assert loss(run.model, test) <= 1.02 * loss(plain(train, valid), test)


def test_nor_does_a_chain_of_many_layers():
    """At the rate of a shallow network it learned nothing: four times the loss of the loop."""
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    x, y = (digits.data / 16).astype("f"), digits.target
    deal = np.random.default_rng(0).permutation(len(y))
    train, valid, test = ((x[part], y[part]) for part in np.split(deal, [1024, 1203]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        inner = [layer for _ in range(8) for layer in (nn.Linear(64, 64), nn.Tanh())]
        net = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), *inner, nn.Linear(64, 10))
    best = loss(plain(train, valid, copy.deepcopy(net)), test)
    run = handful.fit(net, train, valid=valid, seed=0, quiet=True)
    assert loss(run.model, test) <= 1.1 * best


def test_a_short_run_takes_the_defaults_and_says_why():
    run = handful.fit(network(), noisy(1000), quiet=True)
    batch, rate = run.plan.choices["batch"], run.plan.choices["lr"]
    assert (batch.value, batch.status, rate.status) == (16, "default", "default")
    assert "too little to earn back a measurement" in batch.reason
    assert "too little to earn back a measurement" in rate.reason
    assert run.state.probing_cost == [0, 0]


def test_a_short_run_of_given_length_takes_the_rate_that_was_learned_and_updates_enough():
    """Of open length, which promises never to be worse, it keeps the smaller one."""
    plans = [assemble(network(), noisy(4000), {"quiet": True} | given).plan for given in ({}, {"until": "epochs(40)"})]
    (open_batch, open_rate), (batch, rate) = ((p.choices["batch"], p.choices["lr"]) for p in plans)
    assert "spread of new weights" in open_rate.reason
    assert "learned from 31 small networks" in rate.reason
    assert (open_batch.value, batch.value, rate.status) == (32, 64, "default")
    assert rate.value > 2 * open_rate.value


def test_a_longer_run_of_given_length_begins_with_the_defaults_too_and_its_batch_may_grow(monkeypatch):
    """What is measured for that: three sizes. Given again, their times decide the same."""
    given = {"quiet": True, "threads": 1, "until": "epochs(15)"}
    times = {str(n): 4e-3 + 1e-6 * n for n in (32, 128, 256)}
    made = [
        assemble(network(), noisy(16_000), given | more) for more in ({"step_times": times}, {"until": "epochs(2)"})
    ]
    choices = made[0].plan.choices
    assert (choices["batch"].value, choices["batch"].status, choices["lr"].status) == (128, "default", "default")
    assert str(choices["batch_growth"].value).startswith("growth(256, 0.004")
    assert made[0].state.probing_cost == [0, 0]
    assert made[0].grower is not None
    assert made[1].grower is None  # it is over before that pays
    monkeypatch.setattr(decide_module, "SHORT", 1e-9)
    monkeypatch.setattr(decide_module, "LONGER", 1e15)
    clocked = assemble(network(), noisy(16_000), given).plan
    assert [int(n) for n in clocked.step_times] == [32, 128, 256]
    monkeypatch.undo()
    chosen = ("batch", "lr", "batch_growth", "step_times")
    again = assemble(network(), noisy(16_000), {**clocked.options, "quiet": True}).plan
    assert [again.choices[k].value for k in chosen] == [clocked.choices[k].value for k in chosen]


class Interrupted(nn.Module):
    """Takes the machine's time as where other processes have it, and hardly computes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x):
        time.sleep(0.1)
        return self.net(x)


def test_a_busy_machine_does_not_make_a_short_run_a_long_one():
    t = assemble(Interrupted(), noisy(1000), {"quiet": True}, measure=False)
    started = time.perf_counter()
    decided = decide_module.decide(t, weigh=True)
    waited = time.perf_counter() - started
    assert waited > 0.5
    assert decide_module.SHORT < 40 * 900 / 16 * 0.1
    assert decided.batch is not None
    assert decided.batch.status == "default"


def test_a_run_that_is_given_a_time_spends_no_more_of_it_on_measuring_than_one_of_that_length():
    """By ten epochs at this step time it would be measured for longer than it may take."""
    given = {"quiet": True, "threads": 1, "step_times": {"32": 0.1}}
    rate = assemble(network(), noisy(4000), given | {"until": "seconds(0.5)"}).plan.choices["lr"]
    assert (rate.status, rate.reason.split("; ")[-1]) == (
        "default",
        "the run will take 500 ms at most, too little to earn back a measurement",
    )
    slow = given | {"step_times": {"32": 0.5}, "until": "seconds(20)"}  # a race and a noise scale would take half of it
    rate = assemble(network(), noisy(4000), slow).plan.choices["lr"]
    assert "the run has time for 40 steps, too little to earn back a measurement" in rate.reason
    raced = assemble(network(), noisy(4000), given | {"until": "epochs(20)"})
    assert raced.state.step > 0


def test_a_time_counts_what_is_measured_and_what_it_does_not_count_is_said(monkeypatch):
    def slowly(t):
        t.clock -= 9
        return Choice(1, "measured", "slowly")

    monkeypatch.setattr(build, "choose_threads", slowly)
    monkeypatch.setattr(defaults, "elapsed", lambda: 12.0)
    t = assemble(network(), noisy(1000), {"until": "seconds(9)", "quiet": True})
    assert t.state.seconds > 9
    assert "to read and prepare the data took 12 s before the time of seconds(9) began" in t.plan.notes
    other = assemble(network(), noisy(1000), {"until": "epochs(1) & seconds(9)", "quiet": True})
    assert not any("to read" in note for note in other.plan.notes)


def test_a_long_run_is_measured(monkeypatch):
    monkeypatch.setattr(decide_module, "SHORT", 0.0)
    t = assemble(network(), noisy(4000), {"quiet": True})
    assert t.plan.choices["batch"].status in ("measured", "bounded")


@pytest.mark.parametrize(
    "given", [{}, {"until": "epochs(60) | steps(300)"}, {"batch": 16, "lr": 1e-3}, {"until": "epochs(0.5)"}]
)
def test_held_out_rows_are_looked_at_before_the_first_step_and_within_the_first_epoch(given):
    t = assemble(network(), noisy(3000), {"quiet": True, **given})
    assert t.state.position < t.examples  # whatever was raced
    looks = [row["epoch"] for row in handful.fit(network(), noisy(3000), quiet=True, **given).history
             if "valid_loss" in row]  # fmt: skip
    assert looks[0] == 0
    assert looks[1] < 1


def test_looks_that_were_asked_for_are_taken_as_they_were():
    run = handful.fit(
        network(), noisy(320), valid=0.25, batch=16, lr=1e-3, until="epochs(4)", evaluate_every=2, quiet=True
    )
    assert [row["epoch"] for row in run.history if "valid_loss" in row] == pytest.approx([2, 4], abs=0.1)


def test_weights_are_averaged_where_the_rate_is_open_and_rows_few():
    assert assemble(network(), noisy(500), {"quiet": True}).ema == 0.99
    for given in ({"lr": 1e-3}, {"valid": None}, {"ema": None}):
        assert assemble(network(), noisy(500), {"quiet": True, **given}).ema == 0.0


def judge(n: int, status: str, history=()):
    """A Training of n held-out rows whose score is the accuracy."""
    t = assemble(network(), noisy(100), {"quiet": True, "batch": 8, "lr": 1e-3})
    t.plan = Plan({"score": Choice("valid_accuracy", status)})
    t.valid = Batches(handful.open(noisy(n)), Order(n, shuffle="none"))
    t.state.history = list(history)
    return t


@pytest.mark.parametrize(
    ("accuracy", "loss_then", "loss_now", "better"),
    [
        (0.95, 0.30, 0.31, False),  # two standard errors of 0.9 over 100 rows are 0.06
        (0.97, 0.30, 0.31, True),  # beyond them
        (0.97, 0.30, 0.33, False),  # and yet the loss is 10% above the lowest
        (0.88, 0.30, 0.29, True),
        (0.80, 0.30, 0.29, False),
        (0.80, 0.30, 0.25, True),  # what was kept is now 20% above the lowest
    ],
)
def test_the_score_decides_beyond_two_of_its_standard_errors_and_near_the_lowest_loss(
    accuracy, loss_then, loss_now, better
):
    old, new = ({"valid_accuracy": a, "valid_loss": v} for a, v in ((0.9, loss_then), (accuracy, loss_now)))
    assert observe.better(judge(100, "default"), new, old) is better
    assert observe.better(judge(100, "given"), new, old) is (accuracy > 0.9)


def test_losses_near_the_lowest_are_so_over_the_whole_run_not_from_one_kept_to_the_next():
    t = judge(100, "default", [{"valid_loss": 0.30}, {"valid_loss": 0.31}])
    old, new = {"valid_accuracy": 0.8, "valid_loss": 0.31}, {"valid_accuracy": 0.9, "valid_loss": 0.32}
    assert not observe.better(t, new, old)


def test_by_few_held_out_rows_a_look_counts_as_the_mean_of_three():
    """The lowest of many looks at 40 rows is low by chance (CollegeP: the first of 33, twice the loss of the last)."""
    t = judge(40, "default")
    kept = {"valid_accuracy": 0.9, "valid_loss": 0.30, "steady": 0.32}
    lucky, lower = ({"valid_accuracy": 0.9, "valid_loss": v, "steady": s} for v, s in ((0.25, 0.33), (0.31, 0.30)))
    assert not observe.better(t, lucky, kept)
    assert observe.better(t, lower, kept)


@pytest.mark.parametrize(
    ("held", "score", "counts"), [(40, "auto", True), (150, "auto", False), (40, "valid_loss", False)]
)
def test_the_mean_of_three_looks_is_of_few_rows_and_of_a_score_nobody_asked_for(held, score, counts):
    run = handful.fit(network(), noisy(200), valid=noisy(held, 1), score=score, until="epochs(2)", quiet=True)
    looks = [row for row in run.history if "valid_loss" in row]
    assert all(("steady" in row) is counts for row in looks)
    assert not counts or looks[-1]["steady"] == pytest.approx(np.mean([row["valid_loss"] for row in looks[-3:]]))
    assert ("the mean of a look's" in run.plan.choices["score"].reason) is counts


def test_an_open_run_that_is_cut_ends_with_the_same_bits(tmp_path):
    def cut(event, info):
        if event == "checkpoint" and info["step"] == 40:
            raise KeyboardInterrupt

    whole = handful.fit(network(), noisy(400), out=tmp_path / "whole", save_every=10, quiet=True)
    handful.fit(network(), noisy(400), out=tmp_path / "cut", save_every=10, quiet=True, callbacks=[cut])
    end = handful.resume(tmp_path / "cut", model=network(), train=noisy(400), quiet=True)
    assert end.state.step == whole.state.step
    assert [row.get("valid_loss") for row in end.history] == [row.get("valid_loss") for row in whole.history]
    for a, b in zip(end.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


class Loud(nn.Module):
    """A network that begins at equal odds, and whose outputs move a thousand times as far as its weights say."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, x):
        return 1000 * self.net(x)


def looks(run) -> list[float]:
    return [row["valid_loss"] for row in run.history if "valid_loss" in row]


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "momentum"])
def test_a_run_whose_held_out_loss_rises_from_its_first_looks_on_restarts_at_a_smaller_rate(optimizer, monkeypatch):
    train, valid, test = noisy(300), noisy(300, 1), noisy(4000, 2)
    given = {"valid": valid, "optimizer": optimizer, "quiet": True}
    run = handful.fit(Loud(), train, **given)
    notes = [row["note"] for row in run.history if "restarted" in row.get("note", "")]
    assert notes
    assert (
        "the held-out loss rose from the first looks on (0.6931 at step 0): restarted from the first weights at a rate"
        in notes[0]
    )
    assert float(run.state.optimizer.param_groups[0]["initial_lr"]) == pytest.approx(
        run.plan.choices["lr"].value / 8 ** len(notes)
    )
    assert "goes back and on at a smaller rate" in run.plan.choices["evaluate_every"].reason
    assert min(looks(run)) < 0.97 * looks(run)[0]
    assert loss(run.model, test) < 0.98 * math.log(2)
    monkeypatch.setattr(observe, "may_restart", lambda t: False)
    monkeypatch.setattr(observe, "decay_more", lambda t: None)
    assert min(looks(handful.fit(Loud(), train, **given))) > 1.02 * min(looks(run))


@pytest.mark.parametrize(
    "given", [{"lr": 0.005}, {"evaluate_every": 0.25}, {"valid": None}], ids=["the rate", "the looks", "no rows"]
)
def test_what_was_asked_for_is_not_restarted(given):
    run = handful.fit(Loud(), noisy(300), **{"valid": noisy(300, 1), "until": "epochs(4)", "quiet": True, **given})
    assert not any("restarted" in row.get("note", "") for row in run.history)


def test_a_run_that_learns_is_not_restarted_nor_one_that_cannot():
    x, _ = noisy(600)
    y = np.random.default_rng(5).integers(0, 2, 600)
    for rows, valid in ((noisy(600), noisy(600, 1)), ((x, y), (noisy(600, 1)[0], y))):
        run = handful.fit(network(), rows, valid=valid, until="epochs(6)", quiet=True)
        assert not any("restarted" in row.get("note", "") for row in run.history)


@pytest.mark.parametrize("step", [5, 35, 45])
def test_a_run_that_is_cut_before_or_after_it_restarts_ends_with_the_same_bits(step, tmp_path):
    def cut(event, info):
        if event == "checkpoint" and info["step"] == step:
            raise KeyboardInterrupt

    given = {"valid": noisy(300, 1), "batch": 16, "until": "epochs(5)", "save_every": 5, "quiet": True}
    whole = handful.fit(Loud(), noisy(300), out=tmp_path / "whole", **given)
    assert any("restarted" in row.get("note", "") for row in whole.history)
    handful.fit(Loud(), noisy(300), out=tmp_path / "cut", callbacks=[cut], **given)
    end = handful.resume(tmp_path / "cut", model=Loud(), train=noisy(300), valid=noisy(300, 1), quiet=True)
    assert [row.get("note") for row in end.history] == [row.get("note") for row in whole.history]
    assert looks(end) == looks(whole)
    for a, b in zip(end.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


def wide(n: int, seed: int):
    """150 numbers of which 10 tell the class: learned by heart from 200 rows within a few epochs."""
    g = np.random.default_rng(seed)
    x = g.normal(size=(n, 150)).astype(np.float32)
    return x, (x[:, :10].sum(1) + 3 * g.normal(size=n) > 0).astype(np.int64)


def wide_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(150, 64), nn.ReLU(), nn.Linear(64, 2))


def test_rows_that_are_learned_by_heart_early_are_begun_with_again_once_at_a_smaller_rate(monkeypatch):
    valid, test = wide(400, 1), wide(8000, 2)
    run = handful.fit(wide_network(), wide(200, 0), valid=valid, quiet=True)
    notes = [row for row in run.history if "restarted" in row.get("note", "")]
    assert len(notes) == 1
    assert "the rows were learned by heart early" in notes[0]["note"]
    rate = float(run.state.optimizer.param_groups[0]["initial_lr"])
    assert rate == pytest.approx(run.plan.choices["lr"].value / 2)
    decay = run.state.optimizer.param_groups[0]["weight_decay"]
    assert 1 / (rate * decay) == pytest.approx(2 * 200 / run.state.batch, rel=1e-6)  # steps: two epochs
    assert f"a weight decay of {decay:.3g}" in notes[0]["note"]
    assert run.best["position"] > notes[0]["position"]  # about as low a loss, of a smoother curve
    monkeypatch.setattr(observe, "may_restart", lambda t: False)
    monkeypatch.setattr(observe, "decay_more", lambda t: None)
    once = handful.fit(wide_network(), wide(200, 0), valid=valid, quiet=True)
    assert run.best["valid_loss"] < 0.98 * once.best["valid_loss"]
    assert loss(run.model, test) < loss(once.model, test)


@pytest.mark.parametrize(("share", "begins"), [(0.4, True), (0.6, False), (1.0, False)])
def test_a_second_beginning_needs_half_of_the_plan(share, begins):
    """Later it has neither the time nor the rate to come as low."""
    t = judge(400, "default")
    t.planned, t.state.first, t.state.position = 40 * t.examples, {}, round(share * 40 * t.examples)
    t.state.history = [
        {"position": k, "valid_loss": 0.3, "train_loss": 0.1} for k in range(t.state.position - 4, t.state.position)
    ]
    best = {"position": t.examples, "valid_loss": 0.2}
    assert bool(restart.rises(t, best)) is begins
    assert (t.state.first is not None) is begins


@pytest.mark.parametrize(("then", "begins"), [(0.3, True), (0.39, True), (0.41, False), (2.0, False)])
def test_a_second_beginning_needs_a_way_that_brought_the_first_one_near(then, begins):
    """The second half of a cosine is as far as 1/2 - 1/pi of it at the full rate: at a quarter, 0.9 of 40 epochs."""
    t = judge(400, "default")
    n, t.state.first = t.examples, {}
    t.planned, t.state.position = 40 * n, 20 * n
    left = (1 / 2 - 1 / math.pi) * 20 / 4
    assert restart.way(t, 20 * n, 40 * n) / 4 == pytest.approx(left * n, rel=0.03)
    looks = [(0.4, 2.0), (left - 0.1, 1.5), (left + 0.1, then), (12, 0.2), *((16 + k, 0.3) for k in range(5))]
    t.state.history = [{"position": round(e * n), "valid_loss": v, "train_loss": 0.1} for e, v in looks]
    assert bool(restart.rises(t, t.state.history[3])) is begins
    t.state.history[1]["valid_loss"] = 0.3  # it was near before, and then learned by heart
    assert restart.rises(t, t.state.history[3])


@pytest.mark.parametrize("after", [False, True])
def test_a_run_that_is_cut_around_its_second_beginning_ends_with_the_same_bits(after, tmp_path):
    given = {"valid": wide(400, 1), "save_every": 13, "quiet": True}
    whole = handful.fit(wide_network(), wide(200, 0), out=tmp_path / "whole", **given)
    began = next(row["step"] for row in whole.history if "by heart" in row.get("note", ""))

    def cut(event, info):
        if event == "checkpoint" and (info["step"] > began + 13 if after else info["step"] > began - 20):
            raise KeyboardInterrupt

    handful.fit(wide_network(), wide(200, 0), out=tmp_path / "cut", callbacks=[cut], **given)
    end = handful.resume(tmp_path / "cut", model=wide_network(), train=wide(200, 0), valid=wide(400, 1), quiet=True)
    assert [row.get("note") for row in end.history] == [row.get("note") for row in whole.history]
    assert looks(end) == looks(whole)
    for a, b in zip(end.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("last", "held"), [(0.5, True), (math.inf, False), (math.nan, False)])
def test_rows_are_held_by_heart_where_the_held_out_loss_is_a_number(last, held):
    looks = [{"valid_loss": loss, "train_loss": 0.1} for loss in (0.5, 0.6, 0.7, last)]
    assert restart.by_heart(judge(400, "default"), 0.2, looks) is held


GIVEN_LENGTH = {"until": "epochs(20)", "evaluate_every": 0.5, "save_every": 13, "quiet": True}


def by_heart(run) -> list[dict]:
    return [row for row in run.history if row.get("note", "").startswith("rows are learned by heart")]


def test_a_run_of_given_length_that_learns_noise_by_heart_forgets_it_by_an_open_weight_decay(monkeypatch):
    run = handful.fit(wide_network(), wide(400, 0), valid=wide(400, 1), **GIVEN_LENGTH)
    rate, decay = run.plan.choices["lr"].value, run.state.optimizer.param_groups[0]["weight_decay"]
    assert len(by_heart(run)) == 1
    assert f"a weight decay of {decay:.3g} instead of {run.plan.choices['l2'].value:.3g}" in by_heart(run)[0]["note"]
    assert 1 / (rate * decay) == pytest.approx(400 / run.state.batch, rel=1e-6)  # steps: one epoch
    assert run.state.optimizer.param_groups[1]["weight_decay"] == 0  # of biases
    assert "back to the weights of then" in by_heart(run)[0]["note"]
    monkeypatch.setattr(restart, "go_back", lambda t, weights: None)
    washed = handful.fit(wide_network(), wide(400, 0), valid=wide(400, 1), **GIVEN_LENGTH)
    there = [row["step"] for row in run.history if "valid_loss" in row].index(by_heart(run)[0]["step"])
    assert looks(run)[: there + 1] == looks(washed)[: there + 1]
    assert looks(run)[there + 1] < 0.9 * looks(washed)[there + 1]  # it need not come down from there
    assert run.best["valid_loss"] <= washed.best["valid_loss"]
    monkeypatch.setattr(observe, "decay_more", lambda t: None)
    held = handful.fit(wide_network(), wide(400, 0), valid=wide(400, 1), **GIVEN_LENGTH)
    assert not by_heart(held)
    assert looks(run)[-1] < 0.8 * looks(held)[-1]
    assert run.best["valid_loss"] <= held.best["valid_loss"]
    assert loss(run.model, wide(8000, 2)) <= loss(held.model, wide(8000, 2))


def own_step(model, batch, step):
    step.minimise(lambda part: nn.functional.cross_entropy(model(part["x"]), part["y"], reduction="none"))


@pytest.mark.parametrize(
    "given",
    [
        {"l2": 0.01}, {"lr": 3e-3}, {"optimizer": "momentum"}, {"valid": 0.1, "l2": 0},
        {"training_step": own_step, "loss": "cross_entropy"},
    ],
)  # fmt: skip
def test_a_weight_decay_that_was_asked_for_or_is_of_a_step_of_the_callers_own_stays(given):
    options = {"valid": wide(400, 1), **GIVEN_LENGTH, **given}
    run = handful.fit(wide_network(), wide(400, 0), **options)
    assert not by_heart(run)
    assert run.state.optimizer.param_groups[0].get("weight_decay", 0) == run.plan.choices["l2"].value


@pytest.mark.parametrize("after", [-8, 8])
def test_a_run_that_is_cut_around_a_larger_decay_ends_with_the_same_bits(after, tmp_path):
    options = {"valid": wide(400, 1), **GIVEN_LENGTH}
    whole = handful.fit(wide_network(), wide(400, 0), out=tmp_path / "whole", **options)
    there = by_heart(whole)[0]["step"] + after

    def cut(event, info):
        if event == "checkpoint" and info["step"] > there:
            raise KeyboardInterrupt

    handful.fit(wide_network(), wide(400, 0), out=tmp_path / "cut", callbacks=[cut], **options)
    end = handful.resume(tmp_path / "cut", model=wide_network(), train=wide(400, 0), valid=wide(400, 1), quiet=True)
    assert [row.get("note") for row in end.history] == [row.get("note") for row in whole.history]
    assert looks(end) == looks(whole)
    for a, b in zip(end.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


def few(n: int, seed: int):
    """A number that 4 of 12 columns tell, with as much noise, which is heavy-tailed."""
    g = np.random.default_rng(seed)
    x = g.normal(size=(n, 12)).astype(np.float32)
    return x, (x[:, :4].sum(1) + 1.5 * g.standard_t(3, size=n)).astype(np.float32)[:, None]


def single() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(12, 1)


def test_a_single_layer_on_few_rows_is_trained_until_it_is_where_ridge_regression_comes():
    g = np.random.default_rng(0)
    x = g.normal(size=(90, 12)).astype(np.float32)
    x[:, 6:] = x[:, :6] + 0.3 * x[:, 6:]  # columns that are nearly one another: 40 epochs are not enough
    y = (x @ np.where(np.arange(12) < 6, 1.0, -1.0) + 0.05 * g.normal(size=90)).astype(np.float32)[:, None]
    run = handful.fit(single(), (x[:60], y[:60]), valid=(x[60:], y[60:]), quiet=True)
    assert run.plan.until == "epochs(333)"
    assert "20,000 examples for a single layer; 30 held-out rows are too few" in run.plan.choices["until"].reason
    with torch.no_grad():
        got = float(((run.model(torch.tensor(x[60:])) - torch.tensor(y[60:])) ** 2).mean())
    a = np.c_[x[:60], np.ones(60)].astype(np.float64)
    w = np.linalg.solve(a.T @ a + 1e-3 * np.eye(13), a.T @ y[:60])
    assert got < 2 * float(((np.c_[x[60:], np.ones(30)] @ w - y[60:]) ** 2).mean())
    epochs = [row["epoch"] for row in run.history if "valid_loss" in row]
    apart = np.diff([e for e in epochs if e > 1])
    assert len(epochs) < 300
    assert apart[0] == pytest.approx(0.5, abs=0.3)
    assert apart[-2] == pytest.approx(8, abs=0.5)


def test_how_far_few_held_out_rows_are_behind_the_lowest_look_is_in_standard_errors_paired_by_row():
    (x, y), valid = few(80, 0), few(15, 1)
    seen = []

    class Watched(nn.Linear):
        def forward(self, rows):
            out = super().forward(rows)
            if not self.training and len(rows) == 15:
                seen.append(((out.detach() - torch.tensor(valid[1])) ** 2).double().flatten().numpy())
            return out

    torch.manual_seed(0)
    run = handful.fit(
        Watched(12, 1), (x, y), valid=valid, lr=0.5, schedule="constant", ema=None, until="epochs(9)", quiet=True
    )
    rows = [row for row in run.history if "behind" in row]
    looks = seen[-len(rows) :]
    for k, row in enumerate(rows):
        lowest = min(range(k + 1), key=lambda j: looks[j].mean())
        d = looks[k] - looks[lowest]
        z = d.mean() / (d.std(ddof=1) / math.sqrt(15)) if lowest != k else 0.0
        assert row["behind"] == pytest.approx(z, rel=1e-3, abs=1e-6)
    assert any(row["behind"] > 0.5 for row in rows)


def outliers(n: int, seed: int):
    """A curve of two of five columns, and a far error in one row of six."""
    g = np.random.default_rng(seed)
    x = g.uniform(-1, 1, (n, 5)).astype(np.float32)
    y = np.sin(4 * x[:, 0]) + 2 * x[:, 1] * x[:, 2]
    return x, (y + g.normal(size=n) * np.where(g.random(n) < 1 / 6, 1.5, 0.1)).astype(np.float32)[:, None]


def test_of_a_number_the_lowest_of_looks_at_few_rows_is_kept_only_where_later_ones_are_clearly_above_it(monkeypatch):
    def net():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))

    def of(run, rows):
        with torch.no_grad():
            return float(((run.model(torch.tensor(rows[0])) - torch.tensor(rows[1])) ** 2).mean())

    ratios = []
    for seed in (4, 12):
        train, valid, test = outliers(250, seed), outliers(8, seed + 1), outliers(4000, seed + 2)
        run = handful.fit(net(), train, valid=valid, quiet=True)
        assert "plateau" not in run.plan.until
        assert run.best["behind"] <= observe.LATER * math.sqrt(100 / 8)  # of 8 held-out rows
        with monkeypatch.context() as patch:
            patch.setattr(observe, "LATER", -math.inf)  # the lowest loss alone, for what is kept
            patch.setattr(restart, "TELLS", -math.inf)  # and for going back
            ratios.append(of(run, test) / of(handful.fit(net(), train, valid=valid, quiet=True), test))
    assert ratios[0] < 0.9, ratios
    assert ratios[1] < 0.6, ratios


def test_by_few_held_out_rows_a_second_beginning_is_kept_where_it_is_not_clearly_behind():
    """The lowest of a curve that goes up and down is low by chance, too."""
    t = judge(50, "default")
    t.pipeline, t.state.first = SimpleNamespace(task="classification"), {}
    t.state.restarted, best = 100, {"position": 80, "valid_loss": 0.20}
    again = {"position": 200, "valid_loss": 0.23}
    assert observe.as_good(t, again | {"behind": 1.4}, best)
    assert not observe.as_good(t, again | {"behind": 1.6}, best)
    assert not observe.as_good(t, again, best)  # of more rows, half an error of the loss's own
    t.state.first = None
    assert not observe.as_good(t, again | {"behind": 1.4}, best)


def test_a_second_beginning_is_told_by_its_error_where_few_of_many_rows_make_the_loss():
    """And where a row's loss is spread less than its mean, as that of several labels is, by that error, too."""
    t, g = judge(600, "default"), np.random.default_rng(0)
    t.pipeline, t.state.first = SimpleNamespace(task="classification"), {}
    t.state.restarted, best = 100, {"position": 80, "valid_loss": 0.010}
    again = {"position": 200, "valid_loss": 0.012}
    t.state.lowest = [6.0, *[0.0] * 599]  # one row
    assert observe.as_good(t, again | {"behind": 1.4}, best)
    assert not observe.as_good(t, again | {"behind": 1.6}, best)
    t.state.lowest = g.exponential(0.010, 600).tolist()
    assert not observe.as_good(t, again | {"behind": 0.9}, best)  # 20% above it, half an error is 2%
    assert observe.as_good(t, again | {"valid_loss": 0.0101, "behind": 0.9}, best)
    assert not observe.as_good(t, again | {"valid_loss": 0.0101, "behind": 1.1}, best)


def test_losses_are_compared_by_row_while_the_run_may_begin_again():
    train, valid = noisy(300), noisy(150, 1)
    looks = [row for row in handful.fit(network(), train, valid=valid, quiet=True).history if "valid_loss" in row]
    assert looks[0]["behind"] == 0
    assert any(row.get("behind", 0) > 1 for row in looks)
    given = handful.fit(network(), train, valid=valid, until="epochs(1)", quiet=True)
    assert not any("behind" in row for row in given.history)


def test_how_many_rows_make_a_loss():
    g = torch.Generator().manual_seed(0)
    losses = torch.rand(1000, generator=g, dtype=torch.float64).log().neg()  # spread by their mean
    assert restart.telling(losses) == pytest.approx(500, rel=0.1)
    assert restart.telling(torch.zeros(5, dtype=torch.float64)) == 0
    assert restart.telling(-losses) == restart.telling(losses)


def test_more_held_out_rows_or_a_class_are_told_by_their_loss():
    x, y = few(300, 0)
    run = handful.fit(single(), (x, y), valid=few(101, 1), until="epochs(2)", quiet=True)
    assert not any("behind" in row for row in run.history)
    assert "plateau" in handful.fit(network(), noisy(90), valid=noisy(50, 1), quiet=True).plan.until


@pytest.mark.parametrize("step", [40, 120])
def test_a_run_of_few_held_out_rows_that_is_cut_ends_with_the_same_bits(step, tmp_path):
    def cut(event, info):
        if event == "checkpoint" and info["step"] == step:
            raise KeyboardInterrupt

    def net():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 1))

    given = {"valid": few(12, 1), "save_every": 40, "quiet": True}
    whole = handful.fit(net(), few(60, 0), out=tmp_path / "whole", **given)
    handful.fit(net(), few(60, 0), out=tmp_path / "cut", callbacks=[cut], **given)
    end = handful.resume(tmp_path / "cut", model=net(), train=few(60, 0), valid=few(12, 1), quiet=True)
    assert [row.get("behind") for row in end.history] == [row.get("behind") for row in whole.history]
    assert end.best["step"] == whole.best["step"]
    for a, b in zip(end.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_run_whose_time_was_spent_on_measuring_says_so(monkeypatch):
    def slowly(t):
        t.clock -= 99
        return Choice(1, "measured", "slowly")

    monkeypatch.setattr(build, "choose_threads", slowly)
    run = handful.fit(network(), noisy(1000), until="seconds(9)", step_times={"32": 5.0}, quiet=True)
    assert (run.state.step, run.stopped_because.partition(":")[0]) == (0, "reached 9 seconds before the first step")


def bumpy(n: int, seed: int):
    g = np.random.default_rng(seed)
    x = g.normal(size=(n, 20)).astype(np.float32)
    return x, (x[:, 0] + x[:, 1] * x[:, 2] + g.normal(size=n) > 0).astype(np.int64)


@pytest.mark.parametrize("epochs", [5, 20, 40])
def test_an_open_weight_decay_makes_weights_an_average_over_sixteen_epochs_or_the_whole_plan(epochs, monkeypatch):
    monkeypatch.setattr(observe, "decay_more", lambda t: None)  # that of the plan, not of what is learned on the way
    run = handful.fit(network(), bumpy(600, 0), valid=bumpy(100, 1), until=f"epochs({epochs})", quiet=True)
    choice, rate = run.plan.choices["l2"], run.plan.choices["lr"].value
    steps = max(16, epochs) * 600 / run.plan.choices["batch"].value
    assert choice.value == pytest.approx(min(0.3, 1 / (rate * steps)), rel=0.06)
    assert f"over {max(16, epochs)} epochs" in choice.reason
    decays = [group["weight_decay"] for group in run.state.optimizer.param_groups]
    assert decays == [choice.value, 0.0]


@pytest.mark.parametrize(
    "given",
    [{"lr": 1e-3}, {"l2": 0.01}, {"optimizer": "adam"}, {"optimizer": "sgd"}, {"optimizer": "muon"}],
    ids=lambda given: next(iter(given)),
)
def test_a_weight_decay_stays_as_it_is_where_rate_or_decay_were_given_or_another_optimizer(given):
    run = handful.fit(network(), bumpy(600, 0), valid=bumpy(100, 1), until="epochs(2)", quiet=True, **given)
    usual = {"adam": 0.0, "sgd": 0.0, "muon": 0.1}.get(given.get("optimizer"), 0.01)
    assert run.plan.choices["l2"].value == usual
    assert max(group["weight_decay"] for group in run.state.optimizer.param_groups) == usual


def test_the_decay_of_a_run_of_many_steps_an_epoch_is_that_of_torch():
    t = assemble(network(), bumpy(60_000, 0), {"valid": None, "batch": 8, "until": "epochs(1)", "quiet": True})
    assert t.plan.choices["l2"].value == 0.01


def test_a_run_that_was_cut_goes_on_with_its_decay_to_the_bit(tmp_path):
    def cut(event, info):
        if event == "checkpoint" and info["step"] == 40:
            raise KeyboardInterrupt

    data = {"train": bumpy(600, 0), "valid": bumpy(100, 1), "quiet": True}
    whole = handful.fit(network(), until="epochs(4)", out=tmp_path / "whole", **data)
    handful.fit(network(), until="epochs(4)", out=tmp_path / "cut", save_every=20, callbacks=[cut], **data)
    end = handful.resume(tmp_path / "cut", model=network(), **data)
    assert end.plan.choices["l2"] == whole.plan.choices["l2"]
    assert end.state.optimizer.param_groups[0]["weight_decay"] == whole.plan.choices["l2"].value > 0.01
    for a, b in zip(end.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("losses", "lowest", "noisy"),
    [
        ([0.7, 0.3], [0.3] * 40, True),
        ([0.7, 0.05], [0.05] * 40, False),  # a small rest
        ([0.7, 0.3], [0.0] * 37 + [4.0] * 3, False),  # of three rows
        ([0.7, 0.3], [], True),  # not known by row
    ],
)
def test_noise_is_what_was_learned_by_heart_where_many_rows_go_on_to_be_missed(losses, lowest, noisy):
    t = judge(40, "default", [{"position": k, "valid_loss": v} for k, v in enumerate(losses)])
    t.state.lowest = lowest
    t.plan = Plan({"lr": Choice(0.005, "default", "learned")})
    assert restart.noisy(t) is noisy
    t.plan = Plan({"lr": Choice(5e-5, "default", "'norm' has been trained before: a rate for fine-tuning")})
    assert not restart.noisy(t)  # a decay of two epochs at such a rate is hundreds, and would undo these weights


@pytest.mark.parametrize("given", [{"lr": 1e-3}, {"batch": "full"}, {"batch": 512}])
def test_what_is_given_and_slow_gets_the_epochs_that_it_needs(given):
    """As good as the loop everyone writes, with its small rate or with batches that leave few steps."""
    train, valid, test = noisy(2000), noisy(300, 1), noisy(4000, 2)
    run = handful.fit(network(), train, valid=valid, seed=0, quiet=True, **given)
    assert "for the rate and the batch" in run.plan.choices["until"].reason
    assert loss(run.model, test) <= 1.02 * loss(plain(train, valid), test)


def test_a_length_is_stretched_for_adam_and_its_kin_on_few_rows_alone():
    def epochs(rows=2000, **options):
        plan = assemble(network(), noisy(rows), {"quiet": True} | options, measure=False).plan
        return int(plan.until.split("epochs(")[1].split(")")[0])

    usual = epochs()
    assert usual == epochs(lr=0.05) == epochs(batch=32) == epochs(batch=1)
    assert usual == epochs(lr=1e-3, optimizer="sgd") == epochs(batch="full", optimizer="momentum")
    assert usual == epochs(lr={"0.*": 1e-4, "*": 1e-3})
    assert epochs(lr=1e-6) == 3 * usual
    assert epochs(optimizer="adam(lr=0.000001)") == epochs(optimizer=partial(torch.optim.Adam, lr=1e-6)) == 3 * usual
    assert epochs(optimizer=torch.optim.Adam) == usual
    assert epochs(60_000, lr=1e-6) == epochs(60_000)
    assert epochs(batch="full", optimizer="adam") > 6 * usual


def test_a_large_batch_is_not_taken_for_rows_that_are_learned_by_heart():
    """Its average is of the beginning for many epochs: a run of 1,078 rows in batches of 512 went back at step 21, with
    a weight decay of 45, and ended at 2.3 times the loss of Adam's loop."""
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    x = (digits.data - digits.data.mean(0)) / np.maximum(digits.data.std(0), 1e-3)
    x, y = x.astype("f").reshape(-1, 1, 8, 8), digits.target
    deal = np.random.default_rng(1).permutation(len(y))
    rows = [(x[part], y[part]) for part in np.split(deal, [1078, 1437])]
    found = {}
    for batch in (128, 512):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            seen = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()]
            net = nn.Sequential(*seen, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 10))
        run = handful.fit(net, rows[0], valid=rows[1], seed=0, batch=batch, quiet=True)
        assert not [row for row in run.history if "by heart" in row.get("note", "")]
        found[batch] = loss(run.model, rows[2])
    assert max(found.values()) < 1.5 * found[128], found
