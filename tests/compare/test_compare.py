"""Compare: the law of gradient variance on real data, equal starts, honest verdicts, and the page."""

import json
import math
import re
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from typer.testing import CliRunner

import handful
from handful.base.errors import HandfulError
from handful.base.plan import Choice
from handful.cli.program import app
from handful.compare.budget import PAGE, share_out
from handful.compare.compare import compare
from handful.compare.experiment import Experiment, Method, fingerprint, methods, run_experiment, step_memory
from handful.compare.findings import (
    TargetScore,
    cheapest_step,
    choose_target,
    deviation,
    findings,
    first_to_target,
    headline,
    separated,
)
from handful.compare.gradient_variance import Point, fit_slope, gradient_variance
from handful.compare.page import compare_page
from handful.data.split import split as split_rows
from handful.plan.build import assemble

DIGITS = load_digits()


def mlp(seed=0, hidden=16):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 10)
        )


def digits(n=400):
    return (DIGITS.images[:n, None] / 16).astype(np.float32), DIGITS.target[:n]


@pytest.fixture(scope="module")
def comparison():
    model = mlp()
    before = fingerprint(model)
    state = torch.random.get_rng_state()
    c = compare(model, digits(200), [1, 20, "auto", "full"], epochs=2, lrs=[0.05, 0.2], seeds=2, quiet=True)
    assert fingerprint(model) == before
    assert torch.equal(torch.random.get_rng_state(), state)
    return c


# ---- the variance of the gradient


def per_example_gradients(model, x, y):
    """float64 [n, parameters], by torch.func: nothing of handful's."""
    weights = {k: v.detach().double() for k, v in model.named_parameters()}

    def loss(w, one, label):
        return F.cross_entropy(torch.func.functional_call(model, w, (one[None],)), label[None])

    grads = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(weights, x.double(), y)
    return torch.cat([g.flatten(1) for g in grads.values()], 1)


def training(model, data, precision="float64", **given):
    return assemble(model, data, {"valid": None, "batch": 8, "quiet": True, "precision": precision, **given})


@pytest.mark.parametrize("n", [200, 257])
def test_gradient_variance_is_that_of_a_float64_reference(n):
    x, y = digits(n)
    model = mlp().double()
    t = training(model, (x, y))
    measured = gradient_variance(t.objective, t.batches, sizes=[n // 2, n], seed=3)
    g = per_example_gradients(model, torch.from_numpy(x), torch.from_numpy(y))
    whole = g.mean(0)
    trace = float((g - whole).square().sum(1).mean())
    assert measured.gradient == pytest.approx(float(whole.square().sum()), rel=1e-9)
    assert measured.trace == pytest.approx(trace, rel=1e-9)  # every single row was drawn, once
    assert [p.batch for p in measured.points][-1] == n // 2  # all n rows have no variance to measure
    for p in measured.points:
        exact = trace / p.batch * (n - p.batch) / (n - 1)  # Cochran 1977, 2.8
        assert measured.predicted(p.batch) == pytest.approx(exact, rel=1e-9)
        assert abs(p.variance - exact) < 4.5 * p.error + 1e-9 * exact, p


def test_the_slope_on_real_data_is_minus_one_within_its_interval():
    """Over many draws the 95% interval covers -1 about as often as it says; before and after training."""
    t = training(mlp(), digits(150), optimizer="sgd", lr=0.2, until=3)
    covered, widths = [], []
    for trained in (False, True):
        for seed in range(3):
            v = gradient_variance(t.objective, t.batches, seed=seed)
            covered.append(v.low <= -1 <= v.high)
            widths.append(v.high - v.low)
        if not trained:
            handful.fit(t.objective.model, digits(150), lr=0.2, optimizer="sgd", batch=16, until=3, quiet=True)
    assert sum(covered) >= 5
    assert max(widths) < 0.3  # an interval that holds everything says nothing


def test_without_the_correction_the_law_fails_near_all_rows():
    t = training(mlp(), digits(200))
    v = gradient_variance(t.objective, t.batches, sizes=[180])
    last = v.points[-1]
    assert last.batch == 180
    assert last.variance == pytest.approx(v.predicted(180), rel=0.5)
    assert v.predicted(180, corrected=False) > 5 * last.variance


def test_a_wrong_law_is_told_from_the_right_one():
    rng = np.random.default_rng(0)
    batches = 2.0 ** np.arange(9)
    noisy = [
        Point(int(b), 5 * b**-0.8 * math.exp(0.05 * rng.standard_normal()), 5 * b**-0.8 * 0.05, 64, 1.0)
        for b in batches
    ]
    slope, low, high = fit_slope(noisy)
    assert low < -0.8 < high
    assert not low <= -1 <= high
    assert slope == pytest.approx(np.polyfit(np.log(batches), np.log([p.variance for p in noisy]), 1)[0], abs=0.02)


def test_measuring_leaves_the_model_as_it_was_and_sees_no_augmentation():
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.BatchNorm1d(64), torch.nn.Dropout(), torch.nn.Linear(64, 10)
    )
    t = training(model, digits(100), "auto", lr=0.1, augment="shift(2)")
    t.objective.model.train()
    before, state = fingerprint(model), torch.random.get_rng_state()
    first = gradient_variance(t.objective, t.batches)
    assert first == gradient_variance(t.objective, t.batches)
    assert fingerprint(model) == before
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    plain = training(model, digits(100), "auto", lr=0.1)
    assert gradient_variance(plain.objective, plain.batches).points == first.points


# ---- memory


@pytest.mark.parametrize("size", [1, 7, 64])
def test_memory_is_what_the_layers_keep(size):
    """Counted by hand: input, tanh's output (shared by tanh and the next layer), log-softmax's output, the target."""
    t = training(mlp(hidden=16), digits(100), "auto", optimizer="adam")
    run = torch.optim.Adam(t.objective.model.parameters())
    for p in t.objective.model.parameters():
        p.grad = torch.zeros_like(p)
    run.step()
    t.state.optimizer = run
    before = fingerprint(t.objective.model)
    memory = step_memory(t, size)
    saved = size * (64 * 4 + 16 * 4 + 10 * 4 + 8)
    assert saved <= memory.saved <= saved + 64  # and a scalar or two
    parameters = 64 * 16 + 16 + 160 + 10
    assert memory.fixed == 4 * 4 * parameters + 4 * 4  # weights, gradients, two moments; a count for each parameter
    assert fingerprint(t.objective.model) == before


# ---- the comparison


def test_all_methods_start_from_the_same_weights(comparison):
    assert {t.initial for t in comparison.runs} == {fingerprint(mlp())}
    assert len({t.records[0]["train_loss"] for t in comparison.runs}) == 1
    named = compare("linear", digits(), [10, "full"], epochs=1, lrs=0.1, seeds=2, quiet=True)
    by_seed = {s: {t.initial for t in named.runs if t.seed == s} for s in (0, 1)}
    assert all(len(v) == 1 for v in by_seed.values())


def test_every_method_gets_the_same_examples(comparison):
    n = comparison.rows
    assert n == 180
    for t in comparison.runs:
        size = t.last["batch"]
        assert 2 * n <= t.last["position"] < 2 * n + size
        assert t.last["step"] == math.ceil(2 * n / size)
        assert t.column("position") == sorted(set(t.column("position")))
        assert t.column("seconds") == sorted(t.column("seconds"))
    assert comparison.runs[0].last["step"] == 360
    assert comparison.runs[3].last["step"] == 2


def test_a_run_is_the_run_that_fit_makes(comparison):
    trial = next(t for t in comparison.runs if t.method.size == 20 and t.seed == 1)
    model = mlp()
    x, y = digits(200)
    train, valid = split_rows(handful.open((x, y)), 0.1, seed=0)
    handful.fit(
        model,
        train,
        valid=None,
        batch=20,
        optimizer="sgd",
        lr=trial.lr,
        schedule="constant",
        until=2,
        seed=1,
        quiet=True,
    )
    assert fingerprint(model) == fingerprint(trial.run.model)
    with torch.no_grad():
        held = valid.take(range(len(valid)))
        loss = F.cross_entropy(model(held.tensor("x")), held.tensor("y")).item()
    assert trial.last["valid_loss"] == pytest.approx(loss, rel=1e-5)


def test_the_table(comparison):
    rows = {row["method"]: row for row in comparison.table}
    assert list(rows) == ["1 row", "20 rows", "auto", "full batch"]
    for name, row in rows.items():
        runs = [t for t in comparison.runs if t.method.name == name]
        assert row["work"] == row["batch"] / 180
        assert row["lr"] in (0.05, 0.2)
        for key in ("valid_loss", "train_accuracy", "step_seconds", "seconds", "gap"):
            assert row[f"{key}_low"] <= row[key] <= row[f"{key}_high"]
        assert row["valid_loss"] == pytest.approx(np.median([t.last["valid_loss"] for t in runs]))
        assert row["gap"] == pytest.approx(np.median([t.last["valid_loss"] - t.last["train_loss"] for t in runs]))
        assert row["reached"] == sum(min(t.column("valid_loss")) <= comparison.target.value for t in runs)
        assert ("target_seconds" in row) == (row["reached"] == 2)
    assert rows["full batch"]["gradient_deviation"] == 0
    assert rows["1 row"]["gradient_deviation"] == 1
    assert rows["20 rows"]["gradient_deviation"] == pytest.approx(math.sqrt(1 / 20 * (1 - 19 / 179)), rel=0.15)
    assert rows["1 row"]["saved_bytes"] < rows["20 rows"]["saved_bytes"] < rows["full batch"]["saved_bytes"]
    assert comparison.table[0]["batch"] == 1
    text = str(comparison)
    assert "20 rows" in text
    assert "could not" in text.lower()  # two seeds never name a winner


def test_rates_are_tuned_alike(comparison):
    assert set(comparison.tried) == {"1 row", "20 rows", "auto", "full batch"}
    for name, tried in comparison.tried.items():
        assert [lr for lr, _ in tried] == [0.05, 0.2]
        row = next(r for r in comparison.table if r["method"] == name)
        assert row["lr"] == min(tried, key=lambda pair: pair[1])[0]


def test_the_grid_goes_on_while_its_end_is_best_and_diverged_rates_lose():
    c = compare(mlp(), digits(100), ["full"], epochs=3, seeds=1, quiet=True)
    rates = [lr for lr, _ in c.tried["full batch"]]
    losses = dict(c.tried["full batch"])
    best = min(losses, key=losses.get)
    assert 5 <= len(rates) <= 7
    assert len(rates) == 7 or best not in (rates[0], rates[-1])
    assert np.allclose(np.diff(np.log(rates)), math.log(3), atol=0.06)
    with pytest.raises(HandfulError, match="diverged"):
        compare(mlp(), digits(100), [10], epochs=2, lrs=[1e36, 1e37], seeds=1, quiet=True)


def test_the_page_and_the_folder(comparison, tmp_path):
    page = comparison.save(tmp_path / "new" / "folder")
    html = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in html
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", html.split('id="plotly"')[0])
    for finding in comparison.findings:
        assert finding.question in html
    assert html.count("<li><b>") == 7
    assert "Held-out loss against seconds" in html
    assert "saw the same examples" in html
    first = comparison.table[0]
    short = replace(comparison, table=[first | {"examples": 30}, *comparison.table[1:]])
    assert "had the same time: in it they saw different numbers of examples" in str(compare_page(short).html())
    assert "each with the learning rate that suited it best" in html
    assert "of which none was tried" in str(compare_page(replace(comparison, tried={})).html())
    assert "length: time ran out before all had seen as many examples (" in str(short)
    saved = json.loads((page.parent / "comparison.json").read_text())
    assert saved["table"] == comparison.table
    assert len(saved["runs"]) == 8
    assert [p["batch"] for p in saved["variance"][0]["points"]][:3] == [1, 2, 4]


def test_nothing_held_out_and_a_given_target(tmp_path):
    c = compare(
        mlp(), digits(100), [10, "full"], valid=None, epochs=2, lrs=0.2, seeds=1, reach=("train_loss", 2.2), quiet=True
    )
    assert c.target.name == "train_loss"
    assert "gap" not in c.table[0]
    assert "Which generalised best?" not in [f.question for f in c.findings]
    assert c.report(tmp_path / "page.html").exists()


# ---- verdicts, on planted numbers


def planted(name, seconds, seeds=3):
    row = {"method": name, "batch": 32, "seeds": seeds, "reached": len(seconds), "examples_per_second": 1.0}
    for key in ("target_seconds", "step_seconds"):
        row |= {key: float(np.median(seconds)), f"{key}_low": min(seconds), f"{key}_high": max(seconds)}
    return row


def test_a_winner_is_only_named_when_every_seed_agrees():
    target = TargetScore("valid_loss", 0.3, "given")
    clear = [planted("8 rows", [1.0, 1.1, 1.2]), planted("full batch", [2.0, 2.2, 2.4])]
    overlapping = [planted("8 rows", [1.0, 1.1, 2.1]), planted("full batch", [2.0, 2.2, 2.4])]
    few = [planted("8 rows", [1.0, 1.1], 2), planted("full batch", [2.0, 2.2], 2)]
    assert first_to_target(clear, target).told
    assert "8 rows per step reached a held-out loss of 0.3 first" in first_to_target(clear, target).answer
    assert "2 times (1.7 to 2.4)" in first_to_target(clear, target).answer
    for rows in (overlapping, few):
        assert not first_to_target(rows, target).told
        assert "Could not tell" in first_to_target(rows, target).answer
        assert not cheapest_step(rows).told
        assert "could not be told apart" in headline(rows, target)
    single = first_to_target([planted("8 rows", [1.0], 1), planted("full batch", [2.0], 1)], target)
    assert " to " not in single.answer.partition("took")[2]  # one run has no range
    assert separated(clear[0], clear[1], "target_seconds")
    assert not separated(clear[1], clear[0], "target_seconds")


def test_those_that_missed_the_target_had_as_many_examples_or_as_much_time():
    target, first = TargetScore("valid_loss", 0.3, "given"), planted("8 rows", [1.0, 1.1, 1.2]) | {"examples": 600}
    other = planted("1 row", [2.0, 2.2, 2.4]) | {"reached": 0}
    said = first_to_target([first, other | {"examples": 590}], target).answer
    assert "In as many examples 1 row per step did not get there." in said
    said = first_to_target([first, other | {"examples": 86}], target).answer
    assert "In the same time 1 row per step did not get there." in said


def trial_of(values, name="valid_loss"):
    records = [{"position": 10 * i, "step": i, "seconds": 0.1 * i, "batch": 10, name: v} for i, v in enumerate(values)]
    return Experiment(Method(10, 10), 0, 0.1, records, 0.1, 0.0, "", None)


def test_the_moment_a_target_is_reached():
    target = TargetScore("valid_loss", 0.5, "given")
    assert target.reached(trial_of([2.0, 1.0, 0.0])) == {"examples": 15.0, "steps": 1.5, "seconds": pytest.approx(0.15)}
    assert target.reached(trial_of([2.0, 1.0, 0.6])) is None
    assert target.reached(trial_of([math.nan, math.nan, 0.5]))["examples"] == 20
    up = TargetScore("valid_accuracy", 0.9, "given")
    assert up.reached(trial_of([0.1, 0.8, 1.0], "valid_accuracy"))["examples"] == pytest.approx(15)


def test_a_target_is_below_where_all_begin_though_most_methods_never_learned():
    def of(size, values):
        one = trial_of(values)
        one.method = Method(size, size)
        return one

    runs = [of(1, [2.3, 3.2]), of(32, [2.3, 0.05]), of(64, [2.3, 0.09]), of(1617, [2.3, 18.8])]
    target = choose_target(runs, None)
    assert 0.09 < target.value < 2.3
    assert [target.reached(one) is not None for one in runs] == [False, True, True, False]
    assert choose_target([of(1, [2.3, 3.2]), of(2, [2.3, 2.4])], None).value == 2.3  # nothing learned: nothing below
    assert choose_target([of(1, [2.3058, 2.3051]), of(2, [2.3058, 2.3049])], None).value < 2.3058  # rounded, not above


def test_findings_of_one_method(comparison):
    alone = findings(comparison.table[:1], comparison.target, comparison.variance, comparison.score)
    assert len(alone) == 5
    assert deviation(comparison.variance[0], 10**9) == 0


# ---- mistakes, in one sentence each


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batches": [32, "fulll"]}, "fulll"),
        ({"batches": [32, 32]}, "same"),
        ({"batches": [360, "full"]}, "same"),
        ({"batches": ["auto", "auto"]}, "same"),
        ({"batches": [1000]}, "larger than the training data"),
        ({"batches": [0]}, "at least 1"),
        ({"batches": []}, "empty"),
        ({"batches": ["grow_batch(every=10)"]}, "leave it out"),
        ({"seeds": 0}, "seeds"),
        ({"seeds": 2.5}, "seeds"),
        ({"budget": 0}, "budget"),
        ({"seconds": -1}, "seconds"),
        ({"lrs": "best"}, "lrs"),
        ({"lrs": []}, "lrs"),
        ({"lr": 0.1}, "lrs="),
        ({"optimiser": "sgd"}, "optimiser"),
        ({"reach": 0.5}, "reach"),
        ({"optimizer": torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])}, "belongs to one model"),
    ],
)
def test_mistakes(given, message):
    with pytest.raises(HandfulError, match=message):
        compare(mlp(), digits(), **{"batches": [32], "seeds": 1, "quiet": True, **given})


def test_a_mistyped_score_is_said_before_the_runs():
    with pytest.raises(HandfulError, match="valid_accuracy"):
        compare(mlp(), digits(60), [10], epochs=1, lrs=0.1, seeds=1, reach=("valid_acuracy", 0.5), quiet=True)


def test_methods_are_what_was_asked():
    assert [m.name for m in methods([1, "32", "auto", "full"], 100)] == ["1 row", "32 rows", "auto", "full batch"]
    assert [m.size for m in methods((np.int64(7), "full"), 100)] == [7, 100]


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = ["compare", "digits", "--model", "linear", "--batches", "64,full", "--budget", "1", "--seeds", "1"]
    result = CliRunner().invoke(app, [*args, "--lrs", "0.1", "--quiet", "--out", "shown"])
    assert result.exit_code == 0, result.output
    assert "64 rows" in result.output
    assert (tmp_path / "shown" / "report.html").exists()
    with pytest.raises(HandfulError, match="seeds"):
        CliRunner().invoke(app, ["compare", "digits", "--seeds", "0"], catch_exceptions=False)


def test_the_public_name():
    assert handful.compare is compare


# --- the budget, the paths ------------------------------------------------------------------------------------------


def test_a_budget_is_kept_by_fewer_rates_and_shorter_runs_not_overrun():
    compare("linear", digits(50), [10], epochs=1, lrs=0.1, seeds=1, quiet=True)  # what is loaded once
    began = time.perf_counter()
    c = compare(mlp(), digits(1300), [1, 32, "full"], epochs=500, budget=4, quiet=True)  # unlimited: minutes
    assert time.perf_counter() - began < 8  # twice as much, on a busy machine
    assert c.choices["time"].value == "4 s"
    assert "of training for each run" in c.choices["time"].reason
    assert max(r.last["seconds"] for r in c.runs) < 4


class Busy:
    """A clock for `compare` on a machine where a run takes `slow` times its limit, from the run `since` on."""

    def __init__(self, monkeypatch, slow, since=0):
        self.now, self.runs, self.slow, self.since = 0.0, 0, slow, since
        budget, rates, compared = (sys.modules[f"handful.compare.{name}"] for name in ("budget", "rates", "compare"))
        for module in (budget, rates):
            monkeypatch.setattr(module, "time", self)
        for module in (rates, compared):
            monkeypatch.setattr(module, "run_experiment", self.run)
        monkeypatch.setattr(compared, "costs", lambda *_: (0.01, 0.01, 0.01))  # not of this machine, which may be busy

    def perf_counter(self):
        return self.now

    def run(self, task, *args, **given):
        self.runs += 1
        self.now += task.seconds * (self.slow if self.runs > self.since else 1.3)
        return run_experiment(replace(task, seconds=None), *args, **given)


@pytest.mark.parametrize(("slow", "since"), [(1.3, 0), (2.0, 0), (4.0, 0), (12.0, 0), (4.0, 12)])
def test_where_others_keep_the_machine_busy_a_comparison_ends_in_time_with_what_there_is(monkeypatch, slow, since):
    clock = Busy(monkeypatch, slow, since)
    c = compare("linear", digits(60), [8, "full"], epochs=0.5, budget=100, seeds=4, quiet=True)
    assert clock.now < 100
    seeds = len({r.seed for r in c.runs})
    assert len(c.runs) == 2 * seeds  # every method has every seed that is shown
    assert {len({r.run.plan.lr for r in c.runs if r.method == m}) for m in {r.method for r in c.runs}} == {1}
    reason = c.choices["time"].reason
    if slow == 1.3:
        assert (seeds, "of" in reason.split("each run")[1]) == (4, False)
        assert c.variance
    else:
        assert seeds < 4 or "rates tried" in reason
        assert (f"{seeds} of 4 seeds" in reason) == (seeds < 4)
    fewest = min(len(pairs) for pairs in c.tried.values())
    assert (f"{fewest} of 7 learning rates tried" in reason) == (fewest < 5)


def test_what_there_is_no_time_for_is_left_out_and_said_but_never_all_but_one(monkeypatch):
    clock = Busy(monkeypatch, 40.0)
    c = compare("linear", digits(60), [1, 8, 16, "full"], epochs=0.5, budget=100, lrs=0.1, seeds=1, quiet=True)
    assert [row["method"] for row in c.table] == ["1 row", "8 rows"]
    assert "no time for 16 rows; no time for full batch" in c.choices["time"].reason
    assert f"budget: 1 min 40 s, {c.choices['time'].reason}\n" in str(c)
    assert clock.runs == 2


def test_without_a_budget_every_batch_size_has_every_seed():
    c = compare("linear", digits(60), [1, 8, 16, "full"], epochs=0.5, budget=None, lrs=0.1, seeds=2, quiet=True)
    assert [(r.method.name, r.seed) for r in c.runs] == [
        (name, seed) for seed in (0, 1) for name in ("1 row", "8 rows", "16 rows", "full batch")
    ]
    assert "time" not in c.choices


def test_a_run_takes_a_step_however_little_time_there_is():
    c = compare("linear", digits(60), [8, "auto"], epochs=0.5, seconds=1e-6, lrs=0.1, seeds=1, quiet=True)
    assert all(row["steps"] >= 1 for row in c.table)


def test_the_usual_rate_is_tried_first(monkeypatch):
    Busy(monkeypatch, 12.0)
    c = compare("linear", digits(60), [8], epochs=0.5, budget=100, seeds=2, quiet=True)
    assert [rate for rate, _ in c.tried["8 rows"]] == [pytest.approx(0.1 * math.sqrt(8 / 32), rel=0.05)]


def test_a_budget_that_could_not_be_kept_is_said_and_one_with_a_page_leaves_time_to_draw_it(monkeypatch, tmp_path):
    clock = Busy(monkeypatch, 3.1 / 0.02)  # a run, of the shortest limit, takes three seconds
    c = compare("linear", digits(60), [8], epochs=0.5, budget=0.02, seeds=1, quiet=True)
    assert c.choices["time"].reason.startswith("not kept: the least that can be compared was done after 3")
    monkeypatch.setattr(sys.modules["handful.compare.compare"], "load", lambda: 4.0)
    left = []
    monkeypatch.setattr(
        sys.modules["handful.compare.compare"], "share_out", lambda *a, **k: left.append(a[0]) or share_out(*a, **k)
    )
    for out in (None, tmp_path):
        clock.now, clock.slow = 0.0, 1.3
        c = compare("linear", digits(60), [8], epochs=0.5, budget=100, lrs=0.1, seeds=1, quiet=True, out=out)
        assert "not kept" not in c.choices["time"].reason
    assert left == [100.0, 98.0]  # half as long as what draws it took to be loaded
    assert PAGE < 2


def test_a_step_of_all_rows_is_left_room_for():
    free = share_out(100.0, 0.1, methods=4, tries=0, seeds=1)
    long = share_out(100.0, 0.1, methods=4, tries=0, seeds=1, longest=20.0)
    assert 1.3 * (free.seconds - long.seconds) == pytest.approx(20.0 / 4)  # 0.3 of a limit goes to scoring


def test_what_is_measured_of_the_machine_is_measured_once_for_all_runs(monkeypatch):
    asked = []
    choice = Choice("float32", "measured", "as fast")
    monkeypatch.setattr("handful.plan.build.measure_precision", lambda t: asked.append(t) or choice)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    c = compare("cnn", digits(60), [20, "full"], epochs=1, lrs=0.1, seeds=2, quiet=True)
    assert len(asked) == 1
    assert c.choices["precision"] == choice
    assert {r.run.plan.precision for r in c.runs} == {"float32"}


def test_the_surface_has_the_loss_of_the_runs_where_they_went(monkeypatch):
    monkeypatch.setattr(sys.modules["handful.compare.compare"], "SECONDS", math.inf)  # however busy this machine is
    c = compare(mlp(), digits(300), [10, "full"], valid=None, epochs=3, lrs=0.3, seeds=1, quiet=True)
    assert c.surface is not None
    assert c.surface.rows == 300
    assert {p.name for p in c.surface.paths} == {"10 rows", "full batch"}
    ten = next(p for p in c.surface.paths if p.name == "10 rows")
    assert (ten.x[0], ten.y[0]) == (c.surface.paths[0].x[0], c.surface.paths[0].y[0])  # the same start
    near = c.surface.z[np.abs(c.surface.y - ten.y[-1]).argmin(), np.abs(c.surface.x - ten.x[-1]).argmin()]
    assert near == pytest.approx(ten.loss[-1], rel=0.5)
    assert near < 0.8 * c.surface.z.max()
    assert sum(c.surface.shares) > 0.9


def test_the_cloud_shrinks_with_the_batch_around_the_full_gradient():
    t = training(mlp(), digits(200))
    v = gradient_variance(t.objective, t.batches)
    spread = {b: np.std(np.array(points), axis=0) for b, points in v.clouds.items()}
    centre = np.mean(np.array(v.clouds[64]), axis=0)
    np.testing.assert_allclose(centre, [1, 0], atol=0.1)
    assert (spread[1] > 5 * spread[64]).all()
    assert (spread[1] > 2 * spread[8]).all()


def test_scores_have_the_unit_of_the_target(tmp_path):
    (tmp_path / "p.csv").write_text("area,price\n" + "".join(f"{k},€{1000 * k + 7}\n" for k in range(1, 80)))
    c = compare(
        "linear", str(tmp_path / "p.csv"), [8, 16], target="price", epochs=2, lrs=0.1, seeds=1, quiet=True,
        reach=("valid_mae", 1e6), budget=None,
    )  # fmt: skip
    assert c.target.words == "a held-out mean absolute error of 1,000,000 €"
    page = c.report(tmp_path / "c.html").read_text(encoding="utf-8")
    assert re.search(r"held-out mean absolute error</td><td[^>]*>[\d,]+ €", page)
