"""The loop against plain torch loops, and what a run promises: equivalence, stopping, best weights, early words."""

import copy
import hashlib
import importlib
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

import handful
from handful.base.errors import HandfulError
from handful.data.split import split
from handful.transform.rows import original_rows

DIGITS = load_digits()
X = torch.from_numpy((DIGITS.data / 16).astype(np.float32))
Y = torch.from_numpy(DIGITS.target)


def mlp(seed=0, inputs=64, outputs=10):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(inputs, 32), torch.nn.ReLU(), torch.nn.Linear(32, outputs))


def fit(model, data=(X, Y), **given):
    plain = {
        "valid": None,
        "batch": 64,
        "lr": 0.1,
        "optimizer": "sgd",
        "l2": 0.0,
        "schedule": "constant",
        "quiet": True,
    }
    return handful.fit(model, data, **{**plain, **given})


def digest(model):
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in model.state_dict().values())).hexdigest()


# --- the algorithm ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 7, 64, "full"])
def test_fifty_steps_equal_a_plain_torch_loop_bit_for_bit(batch):
    model, reference = mlp(), mlp()
    fit(model, batch=batch, until="steps(50)", seed=3)
    size = len(X) if batch == "full" else batch
    order, sgd = handful.Order(len(X), seed=3), torch.optim.SGD(reference.parameters(), lr=0.1)
    for step in range(50):
        rows = torch.from_numpy(order[step * size : (step + 1) * size])
        sgd.zero_grad()
        F.cross_entropy(reference(X[rows]), Y[rows]).backward()
        sgd.step()
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("micro", [1, 3, 7, 64])
def test_micro_batches_end_at_the_same_weights(micro):
    data = (X.double(), Y)
    model, reference = mlp().double(), mlp().double()
    fit(model, data, micro_batch=micro, until="steps(12)")
    fit(reference, data, until="steps(12)")
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


def test_weighted_regression_run_equals_a_hand_loop():
    rng = np.random.default_rng(0)
    frame = {"a": rng.normal(size=200), "b": rng.normal(size=200), "w": rng.uniform(0.1, 2, 200)}
    frame["y"] = 3 * frame["a"] - frame["b"] + 0.1 * rng.normal(size=200)
    model = torch.nn.Linear(2, 1).double()
    reference = copy.deepcopy(model)
    fit(model, frame, target="y", weight="w", preprocess="none", batch=50, until="steps(8)")
    x = torch.tensor(np.stack([frame["a"], frame["b"]], 1))
    y, w = torch.tensor(frame["y"])[:, None], torch.tensor(frame["w"].astype(np.float32)).double()[:, None]
    order, sgd = handful.Order(200), torch.optim.SGD(reference.parameters(), lr=0.1)
    for step in range(8):
        r = torch.from_numpy(order[step * 50 : step * 50 + 50])
        sgd.zero_grad()
        ((reference(x[r]) - y[r]).square() * w[r]).mean().div(w.mean()).backward()  # w counts over all rows
        sgd.step()
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_l1_makes_weights_sparser_and_l2_makes_them_smaller():
    plain, lasso, ridge = mlp(), mlp(), mlp()
    fit(plain, until="epochs(10)")
    fit(lasso, until="epochs(10)", l1=0.003)
    fit(ridge, until="epochs(10)", l2=0.03)

    def small(model):
        return float((model[0].weight.abs() < 1e-2).float().mean())

    assert small(lasso) > small(plain) + 0.2
    assert ridge[0].weight.norm().item() < 0.8 * plain[0].weight.norm().item()


def test_clipping_bounds_every_update():
    model = mlp()
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    fit(model, until="steps(1)", lr=1.0, clip_norm=0.01)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.01, rel=1e-3)


def test_averaged_weights_follow_their_formula():
    model, reference = mlp(), mlp()
    run = fit(model, until="steps(20)", ema=0.9)
    order, sgd = handful.Order(len(X)), torch.optim.SGD(reference.parameters(), lr=0.1)
    average = [p.detach().clone() for p in reference.parameters()]
    for step in range(20):
        rows = torch.from_numpy(order[step * 64 : step * 64 + 64])
        sgd.zero_grad()
        F.cross_entropy(reference(X[rows]), Y[rows]).backward()
        sgd.step()
        d = min(0.9, (1 + step) / (10 + step))
        average = [d * a + (1 - d) * p.detach() for a, p in zip(average, reference.parameters(), strict=True)]
    for a, b in zip(run.model.parameters(), average, strict=True):
        torch.testing.assert_close(a, b)


def test_history_is_exact_over_the_rows_of_its_window():
    """train_loss of a row is sum / weight over the rows since the row before: here of one whole epoch, at lr 1e-12."""
    model = mlp()
    with torch.no_grad():
        expected = float(F.cross_entropy(model(X), Y))
    run = fit(model, batch="full", lr=1e-12, until="epochs(3)")
    assert run.history["train_loss"] == pytest.approx([expected] * 3, rel=1e-6)
    assert run.history["position"] == [len(X), 2 * len(X), 3 * len(X)]


def test_no_row_of_a_long_run_is_of_the_few_rows_since_the_row_before():
    how = {"batch": 1, "lr": 1e-3, "optimizer": "sgd", "valid": 0.5, "quiet": True}
    run = handful.fit("linear", (X[:40], Y[:40]), until="steps(6000)", **how)  # 30 apart, were there no look each 20
    assert set(np.diff(run.history["step"][-200:])) == {20}


def test_the_user_s_random_state_and_data_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    x = X.clone()
    fit(torch.nn.Sequential(torch.nn.Dropout(0.5), mlp()), (x, Y), until="steps(5)", valid=0.1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(x, X)


def test_same_seed_same_run_other_seed_other_run():
    def end(seed):
        return digest(fit(torch.nn.Sequential(torch.nn.Dropout(0.2), mlp()), until="steps(20)", seed=seed).model)

    assert end(0) == end(0) != end(1)


# --- stopping and best weights ----------------------------------------------------------------------------------------


def test_best_weights_are_kept_and_scores_are_theirs():
    held = (X[:300], Y[:300])
    run = fit(mlp(), (X[300:], Y[300:]), valid=held, until="epochs(12)", lr=0.5, score="valid_loss")
    losses = [v for v in run.history["valid_loss"] if v is not None]
    assert run.best["valid_loss"] == min(losses)
    with torch.no_grad():
        assert float(F.cross_entropy(run.model(X[:300]), Y[:300])) == pytest.approx(min(losses), rel=1e-5)
    assert run.evaluate(held)["loss"] == pytest.approx(min(losses), rel=1e-6)
    assert not run.model.training


def test_stops_when_told():
    assert fit(mlp(), until="steps(5)").state.step == 5
    assert fit(mlp(), until="epochs(2)").state.position >= 2 * len(X)
    run = fit(mlp(), until="loss_below(0.5) | epochs(100)")
    assert "0.5" in run.stopped_because
    assert run.history.last("train_loss") < 0.5
    run = fit(mlp(), valid=0.2, until=handful.stop.reaches("valid_accuracy", 0.9) | handful.stop.epochs(100))
    assert run.best["valid_accuracy"] >= 0.9


def test_interrupt_keeps_the_best_weights_and_the_page_says_so(tmp_path):
    seen = []

    def stop_at_five(event, info):
        if event == "evaluate":
            seen.append(info["valid_loss"])
            if len(seen) == 5:
                raise KeyboardInterrupt

    run = fit(mlp(), valid=0.2, until="epochs(50)", callbacks=[stop_at_five], score="valid_loss", out=tmp_path / "run")
    assert run.stopped_because == "it was interrupted"
    assert run.best["valid_loss"] == min(seen)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert re.search(r" on \d+ held-out rows after .*s, when it was interrupted\.", page)
    assert re.search(r"The best of \d looks at \d+ held-out rows", page)
    assert "handful resume run goes on with it" in page


def test_non_finite_loss_stops_before_the_update_and_keeps_what_was_learned(tmp_path, capsys):
    x = X.clone()
    bad = int(handful.Order(len(X))[64 * 6 : 64 * 7][10])
    x[bad] = float("nan")
    run = fit(mlp(), (x, Y), until="epochs(2)", out=tmp_path / "run")
    assert f"it broke off: the loss is not finite at step 7, for row {bad} " in run.stopped_because
    assert capsys.readouterr().err == f"handful: {run.stopped_because}\n"  # quiet as it was
    assert "s, when it broke off." in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert all(torch.isfinite(p).all() for p in run.model.parameters())


def test_what_was_chosen_is_stored_with_its_reason(tmp_path):
    run = fit(mlp(), until="steps(2)", out=tmp_path / "run")
    plan = handful.load(tmp_path / "run", model=mlp()).plan
    assert (plan.batch, plan.choices["batch"].status) == (64, "given")
    assert plan.loss == "cross_entropy"
    assert "10 classes" in plan.choices["loss"].reason
    assert set(plan.choices) == set(run.plan.choices)
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000


def test_the_default_schedule_stays_where_the_stop_rule_sets_no_length():
    run = fit(mlp(), until="plateau(2)", valid=0.1, schedule="cosine")
    assert run.plan.schedule == "constant"
    assert "sets no length" in run.plan.choices["schedule"].reason
    assert {row["lr"] for row in run.history if "lr" in row} == {0.1}
    with pytest.raises(HandfulError, match="needs to know how long the run is"):
        fit(mlp(), until="plateau(2)", valid=0.1, schedule="cosine(warmup=0.1)")


def test_a_model_of_float64_stays_so_and_no_preprocessing_is_none():
    run = fit(mlp().double(), until="steps(2)", preprocess=None)
    assert (run.plan.precision, run.plan.choices["precision"].status) == ("float64", "found")
    assert {p.dtype for p in run.model.parameters()} == {torch.float64}


# --- predictions ------------------------------------------------------------------------------------------------------


def test_loaded_without_the_training_data_a_run_predicts_the_same_bits(tmp_path):
    run = fit(mlp(), out=tmp_path / "run", until="epochs(5)", valid=0.2)
    assert (np.asarray(run.predict(X)) == Y.numpy()).mean() > 0.85
    again = handful.load(tmp_path / "run", model=mlp(7))
    assert np.array_equal(np.asarray(again.predict(X)), np.asarray(run.predict(X)))
    ours, theirs = again.predict(X, probabilities=True), run.predict(X, probabilities=True)
    assert torch.equal(torch.as_tensor(ours), torch.as_tensor(theirs))
    assert again.stopped_because == run.stopped_because


def test_export(tmp_path):
    run = fit(mlp(), until="steps(5)")
    run.export(tmp_path / "w.safetensors")
    program = torch.export.load(run.export(tmp_path / "m.pt2")).module()
    with torch.no_grad():
        torch.testing.assert_close(program({"x": X[:7]}), run.predict(X[:7], probabilities=True))
    with pytest.raises(HandfulError, match="export writes"):
        run.export(tmp_path / "m.pkl")


def test_the_loop_reads_as_the_seven_steps():
    training = Path(handful.__file__).parent / "training"
    source, whole = (training / "loop.py").read_text(), (training / "step.py").read_text()
    loop = source[source.index("def descend(") : source.index("class StepByStep")]
    step = whole[whole.index("    def take(") : whole.index("    @abstractmethod")]
    assert "step.take()  # 2. to 6." in loop
    for part, words in ((loop, ("Step 1, to initialise", "7. repeat until it should stop")), (step, (
        "2. choose a random mini-batch", "3. forward", "4. mean loss", "5. backward", "6. update by the learning rate",
    ))):  # fmt: skip
        assert all(word in part for word in words)
    assert len(loop.splitlines()) + len(step.splitlines()) < 30
    steps = [next(k for k, line in enumerate(step.splitlines()) if f"# {n}. " in line) for n in (3, 4, 5)]
    assert steps == [steps[0], steps[0] + 1, steps[0] + 2]  # forward, loss and backward stand under each other


def test_metrics_of_a_regression_are_in_the_target_s_own_units():
    from sklearn.metrics import mean_absolute_error, r2_score

    run = handful.fit("linear", "diabetes", batch=32, lr=0.03, until="epochs(20)", quiet=True)
    data = handful.open("diabetes")
    truth = data.take(range(len(data))).tensor("target").numpy()
    scores = run.evaluate("diabetes")
    predicted = np.asarray(run.predict("diabetes"))
    assert scores["mae"] == pytest.approx(mean_absolute_error(truth, predicted), rel=1e-5)
    assert scores["r2"] == pytest.approx(r2_score(truth, predicted), rel=1e-4)
    assert 30 < run.best["valid_mae"] < 70  # of a target from 25 to 346


INTERRUPTED = """
import os, signal, sys, torch, handful, handful.fit
from sklearn.datasets import load_digits
d = load_digits()
data = (torch.from_numpy(d.data).float() / 16, torch.from_numpy(d.target))

class Signalling(torch.optim.SGD):
    def step(self, closure=None):
        self.count = getattr(self, "count", 0) + 1
        if self.count == 5:
            os.kill(os.getpid(), getattr(signal, name))  # arrives in the middle of an update
        return super().step(closure)

def end(event, info):
    if event == "end":
        print(info["run"].state.step, info["run"].stopped_because, flush=True)

for name in sys.argv[1:]:
    if not os.fork():  # a process of its own, without loading torch again
        handful.fit(torch.nn.Linear(64, 10), data, batch=64, lr=0.1, optimizer=Signalling, until="epochs(50)",
                    quiet=True, callbacks=[end])
        print("after", flush=True)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


def test_a_signal_ends_the_run_between_two_steps():
    """A script goes on after Ctrl-C with what was learned; SIGTERM ends it."""
    script = [sys.executable, "-c", INTERRUPTED, "SIGINT", "SIGTERM"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    said = ["5 it was interrupted", "after", "0", "5 it was interrupted", str(-signal.SIGTERM)]
    assert done.stdout.splitlines() == said, done.stderr


def rows_named(run: handful.Run) -> list[int]:
    return [int(n) for n in run.stopped_because.split(" row")[1].removeprefix("s").split(" of ")[0].split(", ")]


class OneNumber(torch.nn.Module):
    """A loss of the rows' mean alone: no loss per row tells which of them are to blame."""

    def forward(self, output, target):
        return F.cross_entropy(output, target).mean()


@pytest.mark.parametrize("loss", ["cross_entropy", OneNumber()], ids=["by row", "one number"])
@pytest.mark.parametrize("normed", [False, True], ids=["alone", "batch norm"])
def test_a_row_of_nan_is_named_by_its_number_in_the_users_data(loss, normed):
    x = X.clone()
    train = split(handful.open((x, Y)), 0.3, seed=0)[0]
    bad = int(original_rows(train, handful.Order(len(train))[64 * 6 : 64 * 7])[10])
    x[bad] = float("inf")
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(64), mlp()) if normed else mlp()
    run = fit(model, (x, Y), until="epochs(2)", valid=0.3, loss=loss)
    assert rows_named(run) == [bad]
    assert "at step 7, for row" in run.stopped_because
    assert "of arrays (rows count from 0)" in run.stopped_because


def test_a_row_of_nan_is_named_through_views_of_views_and_by_a_probe(tmp_path):
    x, order = X.clone(), torch.randperm(len(X), generator=torch.Generator().manual_seed(1)).numpy()
    source = handful.open((x, Y)).subset(order)
    train = split(source, 0.3, seed=0)[0]
    bad = sorted(original_rows(train, handful.Order(len(train))[64 * 6 : 64 * 7])[[3, 50]].tolist())
    x[bad[0], 7], x[bad[1]] = float("nan"), float("inf")
    source = handful.open((x, Y)).subset(order)
    run = fit(mlp(), source, until="epochs(2)", valid=0.3, out=tmp_path / "run")
    assert rows_named(run) == bad
    again = handful.replay(tmp_path / "run", 7, model=mlp(), train=source)
    assert f"for rows {bad[0]}, {bad[1]} of" in again.problem


def test_a_run_of_seconds_is_judged_by_its_last_step_and_not_by_weights_before_it():
    """With rows of one, no fraction of the first epoch is over in a tenth of a second: without a last look the weights
    before the first step were kept."""
    run = handful.fit("mlp", "digits", until="seconds(0.1)", batch=1, lr=1e-3, quiet=True)
    looks = [row["step"] for row in run.history if "valid_loss" in row]
    assert looks[-1] == run.state.step > 0
    assert run.best is not None
    assert run.best["step"] in looks  # by the loss, or by a score that is better by more than its error


def test_public_modules_are_imported_by_their_names():
    """`from handful.schedule import cosine` was refused, though `handful.schedule` is there."""
    lines = [
        f"from handful.{name} import *\nimport handful.{name} as m\n"
        f"assert m is handful.{name}\nassert m.__spec__.name == m.__name__"
        for name in handful._MODULES
    ]
    kept = "from handful.schedule import cosine; import pickle; assert pickle.loads(pickle.dumps(cosine())) == cosine()"
    subprocess.run([sys.executable, "-c", "\n".join(["import handful", *lines, kept])], check=True)
    with pytest.raises(ModuleNotFoundError, match=r"handful\.nothing"):
        importlib.import_module("handful.nothing")
