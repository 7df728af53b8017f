"""Never lose a run: signals, damaged files, two writers, full disks, a kill in the first second."""

import contextlib
import faulthandler
import hashlib
import importlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import handful
from handful.base import files
from handful.base.errors import HandfulError
from handful.cli.watch import page_of
from handful.runs.diff import diff
from handful.runs.inspect import show_run
from handful.training.process import checkpoint
from handful.training.process.interrupts import Interrupts
from handful.training.watch.folder import RunFolder

DIGITS = load_digits()
X = torch.from_numpy((DIGITS.data / 16).astype(np.float32))
Y = torch.from_numpy(DIGITS.target)


def mlp(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Linear(64, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Linear(16, 10)
        )


def fit(model, **given):
    options = {"batch": 64, "lr": 0.1, "optimizer": "momentum", "valid": 0.2, "until": "epochs(2)", "quiet": True}
    return handful.fit(model, (X, Y), **options | given)


def go_on(path, **given):
    return handful.resume(path, model=mlp(9), train=(X, Y), **{"quiet": True} | given)


def bits(model):
    return b"".join(v.numpy().tobytes() for v in model.state_dict().values())


def rows_without_time(path):
    rows = [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "run"
    return fit(mlp(), out=path, save_every=1)


# Signals


class Interrupted(torch.optim.SGD):
    """Two Ctrl-C in the middle of the update of step 8, when the first weight has moved and the others have not."""

    presses = 2
    count = 0

    def step(self, closure=None):
        self.count += 1
        if self.count == 8:
            first = self.param_groups[0]["params"][0]
            with torch.no_grad():
                first.add_(0.0)
            for _ in range(self.presses):
                signal.raise_signal(signal.SIGINT)
        return super().step(closure)


class Pressed(Interrupted):
    presses = 3


@pytest.mark.parametrize("save_every", [1, 5])
@pytest.mark.parametrize("kind", [Interrupted, Pressed])
def test_ctrl_c_twice_and_thrice_inside_an_update_leave_a_whole_step(tmp_path, save_every, kind):
    kind.count = 0
    given = {"valid": None, "lr": 0.1, "save_every": save_every, "schedule": "constant"}
    reference = fit(mlp(), optimizer=torch.optim.SGD, **given)
    path = tmp_path / "run"
    if kind is Pressed:
        with pytest.raises(KeyboardInterrupt):
            fit(mlp(), optimizer=kind, out=path, **given)
    else:
        run = fit(mlp(), optimizer=kind, out=path, **given)
        assert (run.state.step, run.exit_status) == (8, 130)
    kind.count = -1000
    for manifest in (path / "checkpoints").glob("*.json"):  # each is of a whole step
        step = json.loads(manifest.read_text())["step"]
        weights = handful.training.process.checkpoint.read_tensors(manifest.with_suffix(".safetensors"))
        plain = fit(mlp(), optimizer=torch.optim.SGD, **given | {"until": f"steps({step})"}) if step else None
        expected = (plain.model if plain else mlp()).state_dict()
        assert all(torch.equal(weights[f"model.{k}"], v) for k, v in expected.items())
    meta = json.loads(sorted((path / "checkpoints").glob("*.json"))[-1].read_text())
    assert meta["optimizer"]["class"] == kind.__name__
    end = handful.resume(path, model=mlp(9), train=(X, Y), optimizer=kind, quiet=True)
    assert bits(end.model) == bits(reference.model)


def test_a_second_signal_inside_forward_leaves_the_running_statistics_of_the_step_before(tmp_path):
    class Stopping(torch.nn.Module):
        def __init__(self, presses):
            super().__init__()
            self.net, self.presses, self.count = mlp(), presses, 0

        def forward(self, x):
            out = self.net(x)
            if self.training and len(x) == 64:
                self.count += 1
                if self.count == 8 and self.presses:
                    for _ in range(2):
                        signal.raise_signal(signal.SIGINT)
            return out

    given = {"valid": None, "micro_batch": 64}
    reference = fit(Stopping(0), **given)
    run = fit(Stopping(2), out=tmp_path / "run", **given)
    assert run.stopped_because == "it was interrupted"
    again = handful.resume(tmp_path / "run", model=Stopping(0), train=(X, Y), quiet=True)
    assert bits(again.model) == bits(reference.model)


def test_an_interrupted_evaluation_is_made_again(tmp_path):
    path, calls = tmp_path / "run", [0, 0]

    def correct(output, target):
        calls[0] += 1
        if calls[0] == calls[1]:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return float((output.argmax(1) == target).mean())

    given = {"metrics": correct, "evaluate_every": 0.25, "save_every": 3, "score": "valid_loss"}
    reference = fit(mlp(), out=tmp_path / "whole", **given)
    for press_at in (4, 6, 8):
        calls[:] = 0, press_at
        shutil.rmtree(path, ignore_errors=True)
        cut = fit(mlp(), out=path, **given)
        assert cut.stopped_because == "it was interrupted"
        assert cut.state.step < reference.state.step
        assert bits(go_on(path, metrics=correct).model) == bits(reference.model)
        assert rows_without_time(path) == rows_without_time(tmp_path / "whole")


def press(interrupts, times):
    with interrupts, interrupts.one_update():
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)


def test_a_third_signal_is_not_held_back():
    for times, half_made in ((2, False), (3, True)):
        interrupts = Interrupts()
        with pytest.raises(KeyboardInterrupt):
            press(interrupts, times)
        assert interrupts.held == half_made
    press(Interrupts(), 1)


# Exit statuses


def handful_command(*arguments, **given):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    return subprocess.Popen(
        [sys.executable, "-m", "handful.cli", *map(str, arguments)], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, **given,
    )  # fmt: skip


def wait_for(path, process):
    for _ in range(2400):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"{path} did not appear")


LONG = ["digits", "--model", "linear", "--batch", "64", "--lr", "0.02", "--until", "epochs(100000)"]


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_has_its_exit_status_and_the_run_goes_on(tmp_path, name, status):
    if signal.getsignal(getattr(signal, name)) == signal.SIG_IGN:
        pytest.skip(f"{name} is ignored here, as under nohup, and so by the command")
    path = tmp_path / "run"
    process = handful_command("train", *LONG, "--out", path)
    wait_for(path / "plan.toml", process)
    busy = handful_command("resume", path)  # and no other process may write meanwhile
    assert "is being written by process" in busy.communicate(timeout=120)[1]
    assert busy.returncode == 2
    process.send_signal(getattr(signal, name))
    out, error = process.communicate(timeout=120)
    assert process.returncode == status, error
    assert f"go on with: handful resume {path}" in out
    done = handful.load(path).history[-1]["step"]
    assert handful.resume(path, until=f"steps({done + 40})", quiet=True).exit_status == 0


def test_a_run_that_breaks_off_has_its_exit_status(monkeypatch, tmp_path, capsys):
    from handful import cli

    monkeypatch.setattr(sys, "argv", ["handful", "train", "diabetes", "--model", "linear", "--batch", "16", "--lr",
                                      "1e30", "--optimizer", "sgd", "--out", str(tmp_path / "run"), "-q"])  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        cli.main()
    printed = capsys.readouterr()
    assert stop.value.code == 3, printed
    assert "not finite" in printed.out


@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "run"],
        ["evaluate", "run", "wine"],
        ["predict", "run", "wine"],
        ["report", "run"],
        ["export", "run", "w.safetensors"],
        ["prepare", "wine", "store"],
        ["tune", "wine"],
        ["compare", "wine"],
    ],
    ids=lambda c: c[0],
)
@pytest.mark.parametrize(("sent", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_at_any_command_is_said_and_has_its_status(monkeypatch, tmp_path, capsys, command, sent, status):
    from handful import cli

    def stop(*_, **__):
        signal.raise_signal(getattr(signal, sent))

    monkeypatch.chdir(tmp_path)
    for module, names in {"handful.fit": ["load"], "handful.runs.inspect": ["show_run", "show_data"],
                          "handful.data.store.prepare": ["prepare"], "handful.plan.advise": ["advise"],
                          "handful.compare.compare": ["compare"], "handful.data.open": ["open"]}.items():  # fmt: skip
        for name in names:
            monkeypatch.setattr(importlib.import_module(module), name, stop, raising=False)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "plan.toml").touch()
    monkeypatch.setattr(sys, "argv", ["handful", *command])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert (stopped.value.code, capsys.readouterr().err) == (status, "handful: interrupted\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


LOST = """
import signal, sys, time
from handful import cli
from handful.cli import program

class Dying:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
        list(range(10))

def run():
    for _ in range(50):
        Dying()
        time.sleep(0.1)
    print("it went on")

program.run = run
cli.main()
"""


def test_a_signal_that_python_drops_ends_a_command_all_the_same():
    """What is raised in a destructor, or a weak reference's callback, is dropped there and a traceback printed."""
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "handful: interrupted\n")


# Damaged files


def spoilt(path, kind, at=0.5):
    data = bytearray(path.read_bytes())
    if kind == "missing":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(bytes(data[: len(data) // 2]))
    else:
        data[int(at * (len(data) - 1))] ^= 1 << int(97 * at) % 8
        path.write_bytes(bytes(data))


NEEDED = {"plan.toml", "pipeline.json", "pipeline.safetensors", "model.json"}


def files_of(path):
    return sorted(p for p in path.rglob("*") if p.is_file() and p.name not in ("run.lock", "report.html"))


@pytest.fixture(scope="module")
def ready_made(tmp_path_factory):
    path = tmp_path_factory.mktemp("ready") / "run"
    handful.fit("mlp", "wine", batch=16, lr=0.01, until="epochs(2)", out=path, quiet=True)
    return path, handful.load(path).predict("wine", probabilities=True)


def check_damaged(folder, name, expected):
    """One file is damaged: it is named in one sentence, or not needed and then nothing else changes."""
    try:
        run = handful.load(folder)
        found = run.predict("wine", probabilities=True)
        run.report()
        assert torch.equal(found, expected), name
    except HandfulError as error:
        said = str(error)
    else:
        return True
    assert name.name in said
    assert name.name in NEEDED
    return False


@pytest.mark.parametrize("kind", ["missing", "empty", "cut", 0.0, 0.013, 0.21, 0.5, 0.77, 0.999, 1.0])
def test_every_damaged_file_is_named_or_not_needed(tmp_path, ready_made, kind):
    path, expected = ready_made
    survived = {}
    for file in files_of(path):
        folder = tmp_path / "copy"
        shutil.copytree(path, folder)
        spoilt(folder / file.relative_to(path), kind if isinstance(kind, str) else "flip", kind)
        survived[file.name] = check_damaged(folder, file, expected)
        shutil.rmtree(folder)
    assert not any(survived[name] for name in NEEDED)
    assert survived["history.jsonl"]
    assert survived["result.json"]
    assert survived["model.safetensors"]  # the checkpoint has the same weights


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (["model.safetensors"], "the weights of the newest checkpoint are taken"),
        (["result.json"], None),
        (["history.jsonl"], "the rows of the newest checkpoint are taken"),
        (["model.safetensors", "result.json", "history.jsonl"], None),
        (["checkpoints"], None),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["missing", "flip"])
def test_a_damaged_file_that_is_not_needed_is_said(tmp_path, ready_made, capfd, gone, said, kind):
    path, expected = ready_made
    folder = tmp_path / "copy"
    shutil.copytree(path, folder)
    for name in gone:
        for file in [folder / name] if (folder / name).is_file() else sorted((folder / name).iterdir()):
            spoilt(file, kind)
    assert torch.equal(handful.load(folder).predict("wine", probabilities=True), expected)
    printed = " ".join(capfd.readouterr().err.split())
    assert said is None or said in printed
    assert kind == "missing" or gone == ["checkpoints"] or any(name in printed for name in gone)


def test_whatever_is_done_with_a_damaged_run_no_traceback(tmp_path, ready_made, capfd):
    """Each file deleted, cut, changed; what is left is inspected, compared, replayed, evaluated, resumed."""
    path, _ = ready_made
    deeds = [
        show_run, lambda folder: diff(folder, path).show(), lambda folder: handful.replay(folder, 3),
        lambda folder: handful.load(folder).evaluate("wine"), lambda folder: handful.resume(folder, quiet=True),
    ]  # fmt: skip
    said = []
    for k, file in enumerate(files_of(path)):
        for kind in ("missing", "cut", "flip"):
            folder = tmp_path / "copy"
            shutil.copytree(path, folder)
            spoilt(folder / file.relative_to(path), kind)
            for deed in deeds[k % 2 :: 2] if kind == "cut" else deeds[(k + 1) % 2 :: 2]:
                try:
                    deed(folder)
                except HandfulError as error:
                    said.append((file.name, str(error)))
            shutil.rmtree(folder)
    assert len(said) > 3
    assert all(name in text or "checkpoint" in text or "step" in text for name, text in said), said


def odd_thing(path, kind):
    """Something in the place of a file that cannot be read as one."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as s:
            s.bind(path.name)
    else:
        path.symlink_to({"device": "/dev/zero", "loop": path.name}[kind])


ODD = ["pipe", "folder", "device", "socket", "loop"]


@contextlib.contextmanager
def in_a_second():
    """What waits longer is an error: of Python's own calls by a signal, of others by the end of the process."""

    def late(*_):
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    faulthandler.dump_traceback_later(60, exit=True)
    signal.alarm(20)  # the machine may be busy; a pipe is waited for without end
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", ["pipe", "folder", *(pytest.param(k, marks=pytest.mark.slow) for k in ODD[2:])])
def test_what_is_no_file_in_the_place_of_one_is_named_and_not_waited_for(tmp_path, ready_made, kind):
    path, expected = ready_made
    deeds = [
        lambda folder: handful.load(folder).evaluate("wine"), show_run, lambda folder: diff(folder, path),
        lambda folder: handful.replay(folder, 3), lambda folder: page_of(RunFolder(folder)),
        lambda folder: handful.resume(folder, quiet=True),
        lambda folder: handful.load(folder).export(folder / "weights.safetensors"),
        lambda folder: handful.fit("linear", "wine", batch=16, lr=0.1, until="steps(1)", out=folder, quiet=True,
                                   overwrite=True),
    ]  # fmt: skip
    said = []
    for k, file in enumerate([*files_of(path), path / "run.lock"]):
        folder = tmp_path / "copy"
        shutil.copytree(path, folder)
        place = folder / file.relative_to(path)
        place.unlink()
        odd_thing(place, kind)
        with in_a_second():
            survived = file.name == "run.lock" or check_damaged(folder, file, expected)
            assert survived == (file.name not in NEEDED)
            for deed in deeds if kind == "socket" else deeds[k % 4 :: 4]:
                try:
                    deed(folder)
                except HandfulError as error:
                    said.append((file.name, str(error)))
        shutil.rmtree(folder)
    assert all(name in text or "checkpoint" in text for name, text in said), said


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_file_in_the_place_of_data_is_named_and_not_waited_for(tmp_path, kind):
    (tmp_path / "t.csv").write_text("a,label\n" + "1,x\n2,y\n" * 9)
    handful.prepare(tmp_path / "t.csv", tmp_path / "store")
    for file in [p for p in (tmp_path / "store").rglob("*") if p.is_file()]:
        folder = tmp_path / "copy"
        shutil.copytree(tmp_path / "store", folder)
        (folder / file.relative_to(tmp_path / "store")).unlink()
        odd_thing(folder / file.relative_to(tmp_path / "store"), kind)
        for deed in (handful.open, lambda f: handful.prepare(tmp_path / "t.csv", f)):
            with in_a_second(), pytest.raises(HandfulError, match=f"{file.name}|{folder} is there already"):
                deed(folder)
        shutil.rmtree(folder)
    for ending in () if kind in ("folder", "loop") else ("csv", "csv.gz", "tar", "tar.gz", "zip", "npz", "parquet", ""):
        odd_thing(tmp_path / f"odd.{ending}", kind)
        for deed in (handful.open, lambda f: handful.prepare(f, tmp_path / "to")):
            with in_a_second(), pytest.raises(HandfulError, match=r"odd\..* is not an ordinary file"):
                deed(tmp_path / f"odd.{ending}")


@pytest.mark.slow
def test_200_flips_in_every_file(tmp_path, ready_made):
    path, expected = ready_made
    for k in range(200):
        for file in files_of(path):
            folder = tmp_path / "copy"
            shutil.copytree(path, folder)
            spoilt(folder / file.relative_to(path), "flip", (k + 0.5) / 200)
            check_damaged(folder, file, expected)
            shutil.rmtree(folder)


def test_a_damaged_run_that_goes_on_loses_nothing(tmp_path, whole):
    """The history is in the checkpoint; where one character of the newest one was changed, the one before is taken."""

    def cut(event, info):
        if event == "checkpoint" and info["step"] == 9:
            raise KeyboardInterrupt

    path = tmp_path / "run"
    fit(mlp(), out=path, save_every=1, callbacks=[cut])
    spoilt(path / "history.jsonl", "flip")
    newest = sorted((path / "checkpoints").glob("*.json"))[-1]
    newest.write_text(re.sub(r'"position": \d+', '"position": 7', newest.read_text()))
    end = go_on(path)
    assert bits(end.model) == bits(whole.model)
    assert rows_without_time(path) == rows_without_time(whole.path)


def test_a_table_and_its_checksum(tmp_path):
    for table in ({}, {"a": 1}, {"b": [1.5, None, "ü\n"], "c": {"d": float("inf")}}):
        for indent in (None, 1):
            files.write_json(tmp_path / "t.json", table, indent)
            text = (tmp_path / "t.json").read_text()
            assert files.read_json(tmp_path / "t.json") == table
            assert {k: v for k, v in json.loads(text).items() if k != "sha256"} == table
            body = "{" + re.sub(r'^\{"sha256": "\w+"(, )?', "", text)
            assert json.loads(text)["sha256"] == hashlib.sha256(body.encode()).hexdigest()


# From the first second


def test_the_start_is_a_checkpoint(tmp_path):
    def stop(event, info):
        if event == "start":
            raise KeyboardInterrupt

    path = tmp_path / "run"
    fit(mlp(), out=path, save_every=1, callbacks=[stop])
    (path / "result.json").unlink()
    assert [p.stem for p in (path / "checkpoints").glob("*.json")] == ["0" * 12]
    assert bits(go_on(path).model) == bits(fit(mlp(), save_every=1).model)


def test_resume_auto_starts_goes_on_and_refuses_what_differs(tmp_path, whole):
    path = tmp_path / "run"

    def cut(event, info):
        if event == "checkpoint" and info["step"] == 9:
            raise KeyboardInterrupt

    fit(mlp(), out=path, save_every=1, resume="auto", callbacks=[cut])
    with pytest.raises(HandfulError, match=r"already holds a run, of your own Sequential on .* handful resume .*run"):
        fit(mlp(), out=path, save_every=1)
    for name, value in {"seed": 3, "valid": 0.3, "optimizer": "adam", "loss": "mae"}.items():
        with pytest.raises(HandfulError, match=f"^{name} is .* in this run and stays so"):
            fit(mlp(), out=path, save_every=1, resume="auto", **{name: value})
    run = fit(mlp(5), out=path, save_every=1, resume="auto")
    assert bits(run.model) == bits(whole.model)
    assert bits(fit(mlp(5), out=path, save_every=1, resume=True).model) == bits(whole.model)  # it has ended
    longer = fit(mlp(5), out=path, save_every=1, resume="auto", until="epochs(3)")
    assert longer.state.step > whole.state.step


def test_a_run_killed_before_it_had_a_plan_leaves_a_folder_to_start_in(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / "run.lock").write_text("process 1 on elsewhere")
    (path / "pipeline.json").write_text("{")
    (path / ".plan.toml.17.tmp").write_text("half")
    run = fit(mlp(), out=path, until="steps(2)", resume="auto")
    assert run.state.step == 2
    assert not list(path.glob(".*"))


# One writer

HOLDING = """
import sys, time, os
from pathlib import Path
from handful.base import files
held = files.hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(100)
"""


def test_a_lock_names_its_holder_and_goes_with_it_by_a_kill(tmp_path):
    lock = tmp_path / "run.lock"
    process = subprocess.Popen([sys.executable, "-c", HOLDING, str(lock)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(HandfulError, match=rf"is being written by process {process.pid} on "):
            files.hold(lock)
    finally:
        process.kill()
        process.communicate()
    files.hold(lock).close()


def test_where_there_are_no_locks_the_words_count(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", none)
    lock = tmp_path / "run.lock"
    files.hold(lock).close()  # its own
    files.hold(lock).close()
    for holder in ("process 5 on another-machine", f"process {os.getppid()} on {files.socket.gethostname()}"):
        lock.write_text(holder)
        with pytest.raises(HandfulError, match=f"is being written by {holder}"):
            files.hold(lock)
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    lock.write_text(f"process {dead.stdout.strip()} on {files.socket.gethostname()}")
    files.hold(lock).close()


def test_two_runs_in_one_process_and_a_resume_of_a_live_run_are_refused(tmp_path):
    path, said = tmp_path / "run", []

    def both(event, info):
        if event == "step" and info["step"] == 3:
            for call in (lambda: fit(mlp(), out=path, overwrite=True), lambda: go_on(path)):
                with pytest.raises(HandfulError, match=f"is being written by process {os.getpid()}") as refused:
                    call()
                said.append(refused)

    fit(mlp(), out=path, callbacks=[both])
    assert len(said) == 2
    assert go_on(path, until="epochs(3)").exit_status == 0


# Disks


def test_a_lock_on_a_full_disk_is_held_and_let_go(tmp_path):
    """What it could not write it does not try again where it is closed, in the place of what is said there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        held = files.hold(tmp_path / "run.lock")
        with pytest.raises(HandfulError, match="is being written by another process"):
            files.hold(tmp_path / "run.lock")
        held.close()
        with pytest.raises(HandfulError, match=r"pipeline\.safetensors could not be written"):
            short(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert short(tmp_path / "run").exit_status == 0


@pytest.mark.parametrize("recovers", [False, True])
def test_no_write_that_fails_ends_a_run(tmp_path, monkeypatch, capsys, recovers):
    """RLIMIT_FSIZE, by which every write beyond some bytes fails, from step 3 on; to the end, or to step 20."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    reference = fit(mlp())

    def limit(event, info):
        if event == "step" and info["step"] == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        if event == "step" and info["step"] == 20 and recovers:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    try:
        run = fit(mlp(), out=tmp_path / "run", save_every=2, callbacks=[limit])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert bits(run.model) == bits(reference.model)
    assert run.exit_status == (0 if recovers else 4)
    assert ("is not saved" in capsys.readouterr().err) == (not recovers)
    assert not list((tmp_path / "run").rglob("*.tmp"))
    again = go_on(tmp_path / "run")  # from what was written last
    assert bits(again.model) == bits(reference.model)
    assert rows_without_time(tmp_path / "run")[-1]["step"] == run.state.step


def test_a_folder_that_cannot_be_made_is_said_before_anything_is_measured(tmp_path, ready_made):
    (tmp_path / "file").touch()
    began = time.monotonic()
    with pytest.raises(HandfulError, match=r"file/out could not be written: Not a directory$"):
        handful.compare("mlp", "iris", batches=["full"], epochs=1000, seeds=100, out=tmp_path / "file" / "out")
    with pytest.raises(HandfulError, match=r"holds a run: give the comparison a folder of its own$"):
        handful.compare("mlp", "iris", batches=["full"], epochs=1000, seeds=100, out=ready_made[0])
    assert time.monotonic() - began < 60
    with pytest.raises(HandfulError, match=r"file/sub could not be written: Not a directory$"):
        handful.load(ready_made[0]).report(tmp_path / "file" / "sub" / "page.html")


def test_a_last_state_that_cannot_be_written_is_said_beside_a_model_that_can(tmp_path, monkeypatch, capsys):
    """The weights that were kept are there, but a later stop would go on from further back: status 4."""
    save = RunFolder.save_checkpoint

    def full(folder, state, tensors):
        if state.step == 6:
            raise HandfulError("the disk is full")
        save(folder, state, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", full)
        run = short(tmp_path / "run")
    assert (run.exit_status, run.unsaved) == (4, "the disk is full")
    assert "the model is saved, but not the last state of the run: the disk is full" in capsys.readouterr().err
    assert bits(handful.load(tmp_path / "run", model=mlp()).model) == bits(run.model)
    assert bits(go_on(tmp_path / "run").model) == bits(run.model)


def test_a_folder_that_is_gone_does_not_end_a_run(tmp_path, capsys):
    def gone(event, info):
        if event == "step" and info["step"] == 5:
            shutil.rmtree(tmp_path / "run")

    run = fit(mlp(), out=tmp_path / "run", save_every=2, callbacks=[gone])
    assert bits(run.model) == bits(fit(mlp()).model)
    assert run.exit_status == 4
    assert "could not be written" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    with pytest.raises(HandfulError, match="could not be written"):
        run.export(tmp_path / "no" / "w.safetensors")


def short(path, **given):
    return fit(mlp(), out=path, **{"until": "steps(6)", "save_every": 2, "evaluate_every": 0.1} | given)


class Writes:
    """Counts the files and rows that a run writes; those of which `fails` says so go over RLIMIT_FSIZE: hit, where they
    hold anything."""

    def __init__(self, patch, fails=lambda _: False):
        self.count, self.fails, atomic, append = 0, fails, files.atomic, RunFolder.append_history
        self.hit = False

        @contextlib.contextmanager
        def limited(path):
            with self.one(), atomic(path) as temporary:
                yield temporary

        def appended(folder, row):
            with self.one():
                append(folder, row)

        patch.setattr(files, "atomic", limited)
        patch.setattr(checkpoint, "atomic", limited)
        patch.setattr(RunFolder, "append_history", appended)

    @contextlib.contextmanager
    def one(self):
        self.count += 1
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8, before[1]) if self.fails(self.count) else before)
        try:
            yield
        except HandfulError:
            self.hit = True
            raise
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def ended_or_refused(path, expected, run_it):
    """Whether a run that could not write something ended, with the same weights; or it was refused at its start. What
    it left is gone on with."""
    try:
        run = run_it()
    except HandfulError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert "could not be written" in said
        assert bits(short(path, resume="auto").model) == expected
        return False
    assert bits(run.model) == expected
    assert run.exit_status in (0, 4)
    assert not list(path.rglob("*.tmp"))
    again = go_on(path)
    assert (bits(again.model), again.exit_status) == (expected, 0)
    steps = [row["step"] for row in rows_without_time(path) if "note" not in row]
    assert steps == sorted(set(steps))
    return True


@pytest.mark.parametrize("stride", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_every_write_of_a_run_may_fail(tmp_path, monkeypatch, stride):
    """One alone, and that and all after it."""
    expected = bits(short(tmp_path / "whole").model)
    with monkeypatch.context() as patch:
        counted = Writes(patch)
        short(tmp_path / "counted")
    ended = []
    for k in range(1, counted.count + 1, stride):
        for fails in (lambda n, k=k: n == k, lambda n, k=k: n >= k):
            path = tmp_path / "run"

            writes = list[Writes]()

            def limited(path=path, fails=fails, writes=writes):
                with monkeypatch.context() as patch:
                    writes.append(Writes(patch, fails))
                    return short(path)

            done = ended_or_refused(path, expected, limited)
            if writes[0].hit:  # and not a history that has no rows yet
                ended.append(done)
            shutil.rmtree(path)
    assert sum(ended) > len(ended) / 2
    assert ended == sorted(ended)  # only what is written before step 1 can be refused


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", place], capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize("stride", [40, pytest.param(1, marks=pytest.mark.slow)])
def test_a_disk_that_fills_up_at_any_moment(tmp_path, small_disk, stride):
    """From step 1 on so many pages of 4 KB are free: runs fail at different writes, and go on when there is room."""
    expected, path, filler = bits(short(tmp_path / "whole").model), small_disk / "run", small_disk / "filler"
    statuses = set()
    for pages in [*range(0, 60, stride), 900]:

        def fill(event, info, pages=pages):
            if event == "step" and info["step"] == 1:
                free = os.statvfs(small_disk).f_bavail - pages
                filler.write_bytes(bytes(4096 * max(0, free)))

        run = short(path, callbacks=[fill])
        statuses.add(run.exit_status)
        assert bits(run.model) == expected
        filler.unlink(missing_ok=True)
        assert not list(path.rglob("*.tmp"))
        again = go_on(path)
        assert (bits(again.model), again.exit_status) == (expected, 0)
        shutil.rmtree(path)
    assert statuses == {0, 4}
