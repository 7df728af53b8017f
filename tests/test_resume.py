"""Promise 7: a run survives. Killed or cut at any step, resumed, it ends with the same bits."""

import hashlib
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import handful
from handful.base.errors import HandfulError

DIGITS = load_digits()
X = torch.from_numpy((DIGITS.data / 16).astype(np.float32))
Y = torch.from_numpy(DIGITS.target)


def mlp(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))


def fit(model, **given):
    return handful.fit(
        model, (X, Y), **{"batch": 64, "lr": 0.1, "optimizer": "sgd", "valid": None, "quiet": True, **given}
    )


def go_on(path, model=None, **given):
    return handful.resume(path, model=model or mlp(9), train=(X, Y), **{"quiet": True, **given})


def digest(model):
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in model.state_dict().values())).hexdigest()


def rows_without_time(path):
    rows = [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


SCRIPT = """
import sys, os, signal, torch, numpy as np, handful, handful.fit, handful.report.page
from sklearn.datasets import load_digits
torch.set_num_threads(1)
path = sys.argv[1]
d = load_digits()
data = (torch.from_numpy((d.data / 16).astype(np.float32)), torch.from_numpy(d.target))
def take(kill_at):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(),
                                torch.nn.Dropout(0.3), torch.nn.Linear(16, 10))
    def kill(event, info):
        if event in ("step", "evaluate") and info["step"] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    if os.path.exists(path + "/checkpoints"):
        run = handful.resume(path, model=model, train=data, callbacks=[kill], quiet=True)
    else:
        run = handful.fit(model, data, out=path, overwrite=True, batch=100, lr=0.01, valid=0.2,
                          schedule="on_plateau(patience=1)", until="epochs(2) | plateau(9)", evaluate_every=0.25,
                          save_every=1, ema=0.9, callbacks=[kill], quiet=True)
    print("END", run.state.step, flush=True)
for kill_at in map(int, sys.argv[2:]):
    if not os.fork():
        take(kill_at)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""
STEPS = 29  # two epochs of 1,437 rows in batches of 100


def children(path, *kill_at):
    """A run that is killed at each of these steps in turn, and gone on with to its end: each time by a process of its
    own, forked from one that has done nothing but the imports."""
    command = [sys.executable, "-c", SCRIPT, str(path), *map(str, kill_at), "-1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [*[str(-signal.SIGKILL)] * len(kill_at), "END", str(STEPS), "0"], done.stderr


def weights(path):
    return hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "run"
    children(path)
    return path


def kill_and_resume(uninterrupted, path, steps):
    children(path, *steps)
    assert weights(path) == weights(uninterrupted)
    assert rows_without_time(path) == rows_without_time(uninterrupted)


@pytest.mark.parametrize("steps", [[3], [8, 21]])
def test_killed_and_resumed_ends_with_the_same_bits(uninterrupted, tmp_path, steps):
    kill_and_resume(uninterrupted, tmp_path / "run", steps)


@pytest.mark.slow
@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_killed_at_every_step_and_resumed_ends_with_the_same_bits(uninterrupted, tmp_path, step):
    kill_and_resume(uninterrupted, tmp_path / "run", [step])


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adamw", "rmsprop", "muon"])
def test_cut_at_every_step_and_resumed_ends_with_the_same_bits(tmp_path, optimizer):
    given = {
        "until": "epochs(1)", "batch": 128, "optimizer": optimizer, "lr": 0.01, "valid": 0.2, "evaluate_every": 0.2,
        "save_every": 1,
    }  # fmt: skip
    whole = fit(mlp(), out=tmp_path / "whole", **given)

    def cut_after(step):
        def cut(event, info):
            if event == "checkpoint" and info["step"] == step:
                raise KeyboardInterrupt

        return [cut]

    path = tmp_path / "cut"
    fit(mlp(), out=path, callbacks=cut_after(1), **given)
    for step in range(2, whole.state.step):
        go_on(path, callbacks=cut_after(step))
    end = go_on(path)
    assert end.state.step == whole.state.step
    assert digest(end.model) == digest(whole.model)
    assert rows_without_time(path) == rows_without_time(tmp_path / "whole")


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path, capfd):
    path = tmp_path / "run"
    whole = fit(mlp(), out=path, until="steps(20)", save_every=4)
    newest = sorted((path / "checkpoints").glob("*.safetensors"))[-1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(bytes(data))
    run = go_on(path, quiet=False)
    assert "its checksum does not match); falling back" in " ".join("".join(capfd.readouterr()).split())
    assert digest(run.model) == digest(whole.model)
    for file in (path / "checkpoints").glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(HandfulError, match=r"no checkpoint in .* is whole"):
        go_on(path)


def test_a_half_written_history_line_is_left_out(tmp_path):
    path = tmp_path / "run"
    fit(mlp(), out=path, until="steps(10)", save_every=5)
    with open(path / "history.jsonl", "a") as file:
        file.write('{"step": 11, "posit')
    assert go_on(path, until="steps(12)").state.step == 12


def test_resume_refuses_other_data_and_says_what_it_needs(tmp_path):
    path = tmp_path / "run"
    fit(mlp(), out=path, until="steps(10)", save_every=5)
    for message, call in {
        "pass it again: handful.resume": lambda: handful.resume(path, train=(X, Y), quiet=True),
        "own arrays": lambda: handful.resume(path, model=mlp(), quiet=True),
        "not those this run was trained on": lambda: handful.resume(path, model=mlp(), train=(X + 1, Y), quiet=True),
        "no run folder": lambda: handful.resume(tmp_path / "nowhere", quiet=True),
        "is not a run folder": lambda: handful.resume(tmp_path, quiet=True),
        "weights do not fit this model": lambda: go_on(path, torch.nn.Linear(64, 10)),
    }.items():
        with pytest.raises(HandfulError, match=message):
            call()
    assert go_on(path, until="steps(15)").state.step == 15


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HandfulError, match="the disk is full"):
        fit(mlp(), out=tmp_path / "run", until="steps(10)")
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_disk_that_fills_up_during_a_run_does_not_end_it(tmp_path, monkeypatch, capfd):
    def fill(event, info):
        if event == "step" and info["step"] == 3:
            monkeypatch.setattr(os, "fsync", full)

    def empty(event, info):
        if event == "step" and info["step"] == 8:
            monkeypatch.undo()

    def full(*_):
        raise OSError(28, "No space left on device")

    run = fit(mlp(), out=tmp_path / "run", until="steps(10)", save_every=5, callbacks=[fill, empty], quiet=False)
    assert run.state.step == 10
    assert "no checkpoint was written: the disk is full" in " ".join("".join(capfd.readouterr()).split())
    assert handful.load(tmp_path / "run", model=mlp()).stopped_because == run.stopped_because


def test_a_run_that_cannot_begin_leaves_no_folder_and_replaces_no_other_run(tmp_path):
    fit(mlp(), out=tmp_path / "old", until="steps(2)")
    before = digest(handful.load(tmp_path / "old", model=mlp()).model)
    for out in (tmp_path / "new" / "run", tmp_path / "old"):
        with pytest.raises(HandfulError, match="is not a file, a folder or a data set"):
            handful.fit(mlp(), "nowhere.csv", out=out, overwrite=True, quiet=True)
    assert not (tmp_path / "new").exists()
    assert digest(handful.load(tmp_path / "old", model=mlp()).model) == before


def test_a_run_folder_is_not_overwritten_unasked(tmp_path):
    path = tmp_path / "run"
    fit(mlp(), out=path, until="steps(2)")
    with pytest.raises(HandfulError, match="already holds a run"):
        fit(mlp(), out=path, until="steps(2)")
    fit(mlp(), out=path, until="steps(2)", overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(HandfulError, match="holds other files"):
        fit(mlp(), out=tmp_path / "other", until="steps(2)", overwrite=True)


def cut_after(step):
    def cut(event, info):
        if event == "checkpoint" and info["step"] == step:
            raise KeyboardInterrupt

    return [cut]


def rates(path):
    return [row["lr"] for row in rows_without_time(path) if "lr" in row]


def plain_sgd(rates, batch=64):
    """The model after a step of SGD at each rate, by torch alone."""
    model, order, at = mlp(), handful.Order(len(Y), seed=0), 0
    for rate, size in zip(rates, [batch] * len(rates) if isinstance(batch, int) else batch, strict=True):
        rows, at = torch.from_numpy(order[at : at + size]), at + size
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(X[rows]), Y[rows]).backward()
        with torch.no_grad():
            for p in model.parameters():
                p.sub_(p.grad, alpha=rate)
    return model


CONSTANT = {"until": "steps(10)", "schedule": "constant", "save_every": 1}


@pytest.mark.parametrize(
    ("changed", "then"),
    [
        ({"lr": 0.02}, {"rates": [0.1] * 5 + [0.02] * 5}),
        ({"schedule": "polynomial"}, {"rates": [0.1] * 5 + [0.1 * (1 - k / 10) for k in range(5, 10)]}),
        ({"batch": 32}, {"rates": [0.1] * 10, "batch": [64] * 5 + [32] * 5}),
        ({"until": "steps(7)", "lr": 0.02}, {"rates": [0.1] * 5 + [0.02] * 2}),
        ({"micro_batch": 64, "threads": 1, "evaluate_every": 3.0, "save_every": 2}, {"rates": [0.1] * 10}),
        ({"lr": "auto", "schedule": "constant", "batch": "auto", "seed": 0}, {"rates": [0.1] * 10}),
    ],
    ids=lambda value: ", ".join(value),
)
def test_what_is_changed_at_resume_is_done_said_and_kept(tmp_path, changed, then):
    path = tmp_path / "run"
    fit(mlp(), out=path, callbacks=cut_after(5), **CONSTANT)
    run = go_on(path, callbacks=cut_after(6), **changed)
    words = f"changed when the run went on: {next(iter(changed))}"
    assert (words in " ".join(run.plan.notes)) == ("auto" not in changed.values())
    end = go_on(path)  # the second time it is in the plan
    assert {name: end.plan.choices[name].value for name in changed} == {
        name: 0.1 if (name, value) == ("lr", "auto") else 64 if value == "auto" else value
        for name, value in changed.items()
    }
    expected = plain_sgd(**then)
    for mine, theirs in zip(end.model.state_dict().values(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    assert not json.loads((path / "result.json").read_text())["stopped_because"].startswith("it was interrupted")


def test_rows_to_hold_out_where_none_were_are_refused_by_name(tmp_path):
    """It said that there is no score called train_loss."""
    x, y = torch.randn(40, 3), torch.arange(40) % 2
    handful.fit(torch.nn.Linear(3, 2), (x, y), valid=None, until="steps(2)", out=tmp_path / "run", quiet=True)
    with pytest.raises(HandfulError, match="valid is 0 in this run and stays so"):
        handful.resume(tmp_path / "run", model=torch.nn.Linear(3, 2), train=(x, y), valid=(x, y), until="steps(4)")


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1}, {"optimizer": "adam"}, {"l2": 0.1}, {"loss": "focal"}, {"metrics": "f1"}, {"ema": 0.9},
        {"valid": 0.2}, {"shuffle": "none"}, {"label_smoothing": 0.1}, {"class_weight": "balanced"},
        {"precision": "bfloat16"},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_change_at_resume_is_refused_by_name(tmp_path, changed):
    path = tmp_path / "run"
    fit(mlp(), out=path, callbacks=cut_after(5), **CONSTANT)
    before = {file.name: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    (name,) = changed
    with pytest.raises(HandfulError, match=rf"{name}"):
        go_on(path, **changed)
    assert before == {file.name: file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    "changed", [{"lr": 0.02}, {"schedule": "cosine"}, {"batch": 32}, {"l1": 0.1}, {"until": "steps(9)", "lr": 0.02},
                {"until": "steps(9)"}, {"until": "epochs(0.1) | reaches('train_accuracy', 0.1)"}],
    ids=str,
)  # fmt: skip
def test_a_change_of_a_run_that_has_ended_is_refused_and_not_written(tmp_path, changed):
    path = tmp_path / "run"
    whole = fit(mlp(), out=path, **CONSTANT)
    before = {file.name: file.read_bytes() for file in path.rglob("*") if file.is_file() and file.name != "run.lock"}
    for call in (go_on, lambda path, **given: fit(mlp(3), out=path, resume="auto", **CONSTANT | given)):
        told = r"would change nothing: the run has ended \(rea"
        told = "=.* lies behind the run, which stands at step 10, epoch 0.3561: give a" if "until" in changed else told
        with pytest.raises(HandfulError, match=rf"{next(iter(changed))} ?{told}"):
            call(path, **changed)
        now = {file.name: file.read_bytes() for file in path.rglob("*") if file.is_file() and file.name != "run.lock"}
        assert now == before
    assert digest(fit(mlp(3), out=path, resume="auto", **CONSTANT).model) == digest(whole.model)
    assert digest(go_on(path, threads=1, micro_batch=32, until="steps(10)").model) == digest(whole.model)
    end = go_on(path, lr=0.02, until="steps(12)")
    expected = plain_sgd([0.1] * 10 + [0.02] * 2)
    for mine, theirs in zip(end.model.state_dict().values(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_a_rate_below_zero_ends_the_run_with_what_it_learned(tmp_path):
    falling = handful.schedule.from_torch(
        lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / 10)
    )
    with pytest.raises(HandfulError, match="LambdaLR ends after 11 steps"):
        fit(mlp(), until="steps(20)", schedule=falling)
    run = fit(mlp(), until="reaches('train_accuracy', 1.0)", schedule=falling)  # how long that takes is not known
    assert "LambdaLR ends after 11 steps" in run.stopped_because
    assert run.state.step == 11
    assert fit(mlp(), until="steps(11)", schedule=falling).stopped_because == "reached 11 steps"


def test_a_table_with_labels_and_lists_goes_on(tmp_path):
    """They were left out where the recipe was known, so that the run could not go on."""
    table = {"a": [k % 7 / 2 for k in range(60)], "tags": [["u", "v"][k % 3 : 2] for k in range(60)],
             "b": [[float(k), 1.0] for k in range(60)], "y": [k % 7 for k in range(60)]}  # fmt: skip
    how = {"target": "y", "task": "regression", "batch": 8, "lr": 0.01, "quiet": True, "deterministic": True}
    handful.fit("auto", table, until="steps(3)", schedule="constant", out=tmp_path / "run", **how)
    on = handful.resume(tmp_path / "run", train=table, until="steps(6)", quiet=True)
    whole = handful.fit("auto", table, until="steps(6)", schedule="constant", **how)
    assert on.pipeline.uses == ("a", "tags", "b")
    assert np.array_equal(on.predict(table), whole.predict(table))
