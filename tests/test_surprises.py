"""Faults that nobody lists: folders that move, data that change, forks, threads, handlers, modes of the process."""

import contextlib
import copy
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import handful
from handful.base import files
from handful.base.errors import HandfulError

X = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()


def net():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))


def fit(path, model=None, **given):
    options = {"batch": 16, "lr": 0.01, "valid": 0.2, "until": "steps(20)", "save_every": 5, "quiet": True}
    return handful.fit(model or net(), (X, Y), out=path, **options | given)


def go_on(path, model=None, **given):
    return handful.resume(path, model=model or net(), train=(X, Y), quiet=True, **given)


def bits(run):
    return b"".join(v.numpy().tobytes() for v in run.model.state_dict().values())


def at(step, deed):
    """A callback that does something at a step, once."""
    done = []

    def call(event, info):
        if event in ("step", "evaluate") and info["step"] == step and not done:
            done.append(step)
            deed()

    return call


def fail(error):
    def deed():
        raise error

    return deed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return bits(fit(tmp_path_factory.mktemp("whole") / "run"))


@pytest.fixture
def cut(tmp_path):
    """A run that was interrupted after step 12."""
    fit(tmp_path / "cut", callbacks=[at(12, fail(KeyboardInterrupt))])
    return tmp_path / "cut"


# Folders


def test_a_run_that_was_copied_moved_or_comes_from_the_future_goes_on(cut, whole):
    copied, moved = cut.with_name("copied ü [1]"), cut.with_name("moved")
    shutil.copytree(cut, copied)
    cut.rename(moved)
    for path in moved.rglob("*"):
        os.utime(path, (4e9, 4e9))
    assert bits(go_on(copied)) == bits(go_on(moved)) == whole


def test_a_folder_that_is_renamed_in_mid_run_keeps_what_was_saved(tmp_path, whole, capsys):
    run = fit(tmp_path / "a", callbacks=[at(12, lambda: (tmp_path / "a").rename(tmp_path / "b"))])
    assert (bits(run), run.exit_status) == (whole, 4)
    assert "is not saved" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    assert bits(go_on(tmp_path / "b")) == whole


def test_whoever_changes_the_working_directory_meanwhile_loses_nothing(tmp_path, whole, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    run = fit("run", callbacks=[at(7, lambda: os.chdir("elsewhere"))])
    assert (bits(run), run.exit_status) == (whole, 0)
    assert run.replay(3).differs is None
    assert run.report() == tmp_path / "run" / "report.html"
    assert bits(handful.load(run.path, model=net())) == whole
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_disk_that_becomes_read_only_in_mid_run(tmp_path, whole):
    path = tmp_path / "run"

    def read_only():
        for options in (["--bind", path, path], ["-o", "remount,ro,bind", path]):
            if subprocess.run(["mount", *options], capture_output=True).returncode:
                pytest.skip("a file system cannot be mounted here")

    try:
        run = fit(path, callbacks=[at(7, read_only)])
        assert (bits(run), run.exit_status) == (whole, 4)
        loaded = handful.load(path, model=net())
        assert len(loaded.predict(X[:3])) == 3
        assert handful.replay(path, 3, model=net(), train=(X, Y)).differs is None
        for deed in (loaded.report, lambda: go_on(path)):
            with pytest.raises(HandfulError, match="could not be written: Read-only file system"):
                deed()
    finally:
        subprocess.run(["umount", "-l", path], capture_output=True)
    assert bits(go_on(path)) == whole


@pytest.mark.parametrize("name", ["n" * 300, "a\0b"])
def test_a_folder_that_cannot_be_named_is_one_sentence(tmp_path, name):
    with pytest.raises(HandfulError, match=r"the run folder .* cannot be made: "):
        fit(tmp_path / name)
    with pytest.raises(HandfulError, match=r"the run folder .* cannot be made: "):
        fit(tmp_path / name, resume="auto")


def test_what_another_version_wrote_is_one_sentence(cut):
    newest = sorted((cut / "checkpoints").glob("*.json"))[-1]
    for path, key in ((newest, "went_back"), (cut / "pipeline.json", "pipeline"), (cut / "result.json", "weights")):
        table = files.read_json(path)
        files.write_json(path, {k: v for k, v in table.items() if k != key})
        if path.name == "result.json":  # what was saved last stands for it
            assert handful.load(cut, model=net()).stopped_because.startswith("it was cut off")
        else:
            with pytest.raises(HandfulError, match=f"another version of handful wrote .*{key}|{key}.* another version"):
                go_on(cut)
        files.write_json(path, table)
    files.write_json(newest, files.read_json(newest) | {"format": 2})
    with pytest.raises(HandfulError, match="another version of handful wrote this checkpoint: 'format'"):
        go_on(cut)


# Data and models that are others when a run goes on


def test_one_changed_value_is_noticed_in_any_row(tmp_path):
    rng, table = np.random.default_rng(0), tmp_path / "t.csv"
    rows = [f"{a:.3f},{b:.3f},{'xy'[int(a > 0)]}" for a, b in rng.normal(size=(400, 2))]

    def write(rows):
        table.write_text("\n".join(["a,b,label", *rows]) + "\n")

    write(rows)
    given = {"target": "label", "batch": 16, "lr": 0.01, "until": "steps(9)", "quiet": True}
    handful.fit("linear", table, out=tmp_path / "run", **given)
    changes = [[*rows, "0.1,0.2,x"], [rows[1], rows[0], *rows[2:]]]
    for changed in changes + [[*rows[:k], "9.999,9.9,y", *rows[k + 1 :]] for k in (0, 77, 201, 398)]:
        write(changed)
        with pytest.raises(HandfulError, match="are not those this run was trained on"):
            handful.resume(tmp_path / "run", quiet=True, until="steps(12)")
    write(rows)
    assert handful.resume(tmp_path / "run", quiet=True, until="steps(12)").state.step == 12


def test_a_model_of_another_precision_is_refused(cut):
    with pytest.raises(HandfulError, match=r"0.weight is float32 in this run and float64 in the model"):
        go_on(cut, net().double())


# What the caller's own code does


class Failing(nn.Module):
    """Raises an error at its 15th step."""

    def __init__(self, error=None):
        super().__init__()
        self.net, self.error, self.calls = net(), error, 0

    def forward(self, x):
        self.calls += self.training
        if self.calls == 15 and self.error is not None:
            raise self.error
        return self.net(x)


@pytest.mark.parametrize(
    "error", [ValueError("mine"), RuntimeError("mine"), SystemExit(5), KeyboardInterrupt()], ids=repr
)
def test_an_error_in_the_callers_code_is_the_callers_and_the_run_goes_on(tmp_path, error):
    expected = bits(fit(tmp_path / "whole", Failing()))

    def loss(output, target):
        calls[0] += torch.is_grad_enabled()
        if calls[0] == 15:
            raise error
        return nn.functional.cross_entropy(output, target, reduction="none")

    own = {"model": {"model": Failing(error)}, "callback": {"callbacks": [at(12, fail(error))]}, "loss": {"loss": loss}}
    for where, given in own.items():
        calls, path = [0], tmp_path / where
        with contextlib.ExitStack() as stack:
            if not isinstance(error, KeyboardInterrupt):
                stack.enter_context(pytest.raises(type(error)))
            assert fit(path, **{"model": Failing()} | given).stopped_because == "it was interrupted"
        again = go_on(path, Failing(), **{k: v for k, v in given.items() if k == "loss"})
        assert bits(again) == expected, where


class Rows(torch.utils.data.Dataset):
    """Rows that are read when they are needed; reading fails from some item on."""

    def __init__(self, last=None):
        self.last, self.read = last, 0

    def __len__(self):
        return 3000

    def __getitem__(self, i):
        self.read += 1
        if self.last is not None and self.read > self.last:
            raise OSError("the cable is loose")
        return X[i % 200], Y[i % 200]


def test_rows_that_cannot_be_read_in_mid_run_are_named_and_the_run_goes_on(tmp_path):
    given = {"batch": 16, "lr": 0.01, "valid": None, "until": "steps(80)", "save_every": 5, "quiet": True}
    alone = handful.fit(net(), handful.open(Rows(), memory=1), **given)
    for last in range(4200, 3000, -200):
        path = tmp_path / str(last)
        try:
            handful.fit(net(), handful.open(Rows(last), memory=1), out=path, **given)
        except HandfulError as error:
            said = str(error)
        else:
            continue
        assert "reading row" in said
        assert "OSError: the cable is loose" in said
        if path.exists():
            again = handful.resume(path, model=net(), train=handful.open(Rows(), memory=1), quiet=True)
            assert bits(again) == bits(alone)


def test_a_process_that_was_forked_holds_no_lock(tmp_path, whole):
    children = []

    def fork():
        if not (pid := os.fork()):
            time.sleep(60)
            os._exit(0)
        children.append(pid)

    path = tmp_path / "run"
    try:
        fit(path, callbacks=[at(7, fork), at(12, fail(KeyboardInterrupt))])
        assert bits(go_on(path)) == whole
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_the_callers_own_handler_hears_the_signal_when_the_run_is_written(tmp_path, whole):
    heard = []
    before = signal.signal(
        signal.SIGTERM, lambda number, _: heard.append((number, (tmp_path / "run/result.json").exists()))
    )
    try:
        run = fit(tmp_path / "run", callbacks=[at(7, lambda: signal.raise_signal(signal.SIGTERM))])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [(signal.SIGTERM, True)]
    assert run.exit_status == 143
    assert bits(go_on(tmp_path / "run")) == whole


def test_a_run_in_a_run_a_thread_and_in_other_modes_is_the_same(tmp_path, whole):
    found = {}

    def keep(name):
        found[name] = bits(fit(tmp_path / name))

    found["outer"] = bits(fit(tmp_path / "outer", callbacks=[at(7, lambda: keep("inner"))]))
    thread = threading.Thread(target=keep, args=("thread",))
    thread.start()
    thread.join()
    with torch.no_grad():
        keep("no_grad")
    model = net()
    with torch.inference_mode():
        found["inference"] = bits(fit(tmp_path / "inference", model))
        with pytest.raises(HandfulError, match=r"made in torch.inference_mode\(\), where nothing learns"):
            fit(tmp_path / "made", net())

    def seeds():
        torch.manual_seed(5)
        np.random.seed(5)

    found["seeds"] = bits(fit(tmp_path / "seeds", callbacks=[lambda *_: seeds()]))
    assert found == dict.fromkeys(found, whole)


@pytest.mark.parametrize("by_name", [True, False])
def test_runs_at_the_same_time_in_threads_are_those_alone(by_name):
    x = np.random.default_rng(0).normal(size=(96, 5)).astype("float32")
    y, base = (x[:, 0] > 0).astype(int), nn.Sequential(nn.Linear(5, 32), nn.Dropout(0.5), nn.Linear(32, 2))

    def run(seed):
        model = "mlp(hidden=[16], dropout=0.3)" if by_name else copy.deepcopy(base)
        how = {"batch": 16, "lr": 0.01, "until": "steps(40)", "quiet": True}
        return handful.fit(model, (x, y), seed=seed, **how).model.state_dict().values()

    alone = [run(seed) for seed in (0, 1)]
    with ThreadPoolExecutor(4) as pool:  # dropout draws from the one random state of the process
        for k, found in enumerate(pool.map(run, [0, 1, 0, 1])):
            assert all(map(torch.equal, found, alone[k % 2]))


def test_a_signal_stops_the_run_around_a_run_and_a_comparison(tmp_path):
    inner = []

    def nested():
        inner.append(fit(None, callbacks=[at(5, lambda: signal.raise_signal(signal.SIGINT))]))

    outer = fit(tmp_path / "outer", callbacks=[at(7, nested)])
    assert (inner[0].state.step, outer.state.step) == (5, 7)
    calls = [0]

    def loss(output, target):
        calls[0] += 1
        if calls[0] == 200:
            signal.raise_signal(signal.SIGINT)
        return nn.functional.cross_entropy(output, target, reduction="none")

    with pytest.raises(KeyboardInterrupt):
        handful.compare(net(), (X, Y), batches=[8, 16, 32], epochs=30, lrs=0.01, seeds=1, loss=loss, quiet=True)
    assert calls[0] < 300


NO_STREAMS = """
import sys
sys.stdout = sys.stderr = None
import handful
handful.fit("linear", "iris", batch=16, lr="auto", until="steps(20)", out=sys.argv[1])
"""


def test_a_service_without_streams_trains(tmp_path):
    done = subprocess.run([sys.executable, "-c", NO_STREAMS, str(tmp_path / "run")], capture_output=True, timeout=100)
    assert done.returncode == 0
    assert (tmp_path / "run" / "report.html").exists()


# Files of data that the libraries refuse in their own ways


def test_a_zip_of_a_later_version_and_a_header_of_another_type_are_one_sentence(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("c/a.png", b"")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.index(b"PK\1\2") + 6] = 84  # the version that is needed to extract: 8.4
    (tmp_path / "a.zip").write_bytes(bytes(data))
    np.save(tmp_path / "a.npy", np.zeros((3, 2)))
    data = (tmp_path / "a.npy").read_bytes().replace(b"(3, 2)", b"'3',2)")
    (tmp_path / "a.npy").write_bytes(data)
    for name in ("a.zip", "a.npy"):
        with pytest.raises(HandfulError, match=name):
            handful.open(tmp_path / name)
