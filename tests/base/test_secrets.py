"""Passwords in addresses are never shown nor stored; what would steer a terminal is written out."""

import os
import sys

import numpy as np
import pytest
import torch

import handful
from handful.base.errors import HandfulError, shown, without_secrets
from handful.base.plan import Choice, Plan
from handful.cli import program

SECRETS = {
    "https://me:s3cret@host/data.csv": "https://***@host/data.csv",
    "https://s3cret@host/data.csv": "https://***@host/data.csv",
    "s3://key:s3/../cret@bucket": "s3://key:s3/../cret@bucket",  # no address: a password has its slashes quoted
    "s3://key:s%2F3cr@et@bucket/x": "s3://***@bucket/x",
    "https://host/x.csv?X-Amz-Signature=s3cret&b=1": "https://host/x.csv?***",
    "no address: me:pw@host and a?b=c": "no address: me:pw@host and a?b=c",
    "s3://bucket/part-?.csv": "s3://bucket/part-?.csv",
    "s3://bucket/a@b.csv": "s3://bucket/a@b.csv",
    "filecache::https://me:s3cret@host/x.csv": "filecache::https://***@host/x.csv",
    "a path: https:/me:s3cret@host/x.csv?k=s3cret": "a path: https:/***@host/x.csv?***",
    "two: https://a:s3cret@h/x?k=s3cret, https://b:s3cret@h/y": "two: https://***@h/x?***, https://***@h/y",
}


@pytest.mark.parametrize(("text", "expected"), SECRETS.items())
def test_secrets_are_hidden(text, expected):
    assert without_secrets(text) == expected
    assert str(HandfulError(text)) == expected
    assert without_secrets(expected) == expected


def test_what_steers_a_terminal_is_written_out():
    assert shown("a\x1b]0;title\x07\nb\u202e\udcff") == "a\\x1b]0;title\\x07\nb\\u202e\\udcff"
    assert str(HandfulError("cell 'ü 漢\x1b[2J'")) == "cell 'ü 漢\\x1b[2J'"


@pytest.fixture
def remote():
    """A table at an address with a password, in fsspec's file system in memory."""
    import fsspec

    rng = np.random.default_rng(0)
    lines = ["a,b,label", *(f"{a:.3f},{b:.3f},{'xy'[k % 2]}" for k, (a, b) in enumerate(rng.normal(size=(60, 2))))]
    memory = fsspec.filesystem("memory")
    memory.pipe("/me:s3cret@host/data.csv", "\n".join(lines).encode())
    yield "memory://me:s3cret@host/data.csv"
    memory.store.clear()


def test_no_file_of_a_run_and_no_line_holds_a_password(tmp_path, remote, capfd):
    run = handful.fit("linear", remote, batch=16, lr=0.01, until="epochs(2)", out=tmp_path / "run")
    assert run.plan.data == "memory://***@host/data.csv"
    store = handful.prepare(remote, tmp_path / "store")
    assert "s3cret" not in store.name
    with pytest.raises(HandfulError, match=r"was trained on memory://.*; pass them again") as refused:
        handful.resume(tmp_path / "run", until="epochs(3)", quiet=True)
    assert handful.resume(tmp_path / "run", train=remote, until="epochs(3)", quiet=True).state.step > run.state.step
    assert handful.fit("linear", remote, out=tmp_path / "run", resume="auto", until="epochs(4)", quiet=True)
    handful.load(tmp_path / "run").evaluation_report(remote)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"s3cret" not in path.read_bytes(), path
    assert "s3cret" not in "".join(capfd.readouterr()) + str(refused.value)


@pytest.mark.parametrize(
    "where",
    [
        "https://me:s3cret@127.0.0.1:1/data.csv", "http://127.0.0.1:1/x.parquet?sig=s3cret", "ftp://u:s3cret@127.0.0.1:1/a.csv",
        "nowhere://u:s3cret@host/a.csv", "memory://u:s3cret@host/none.csv", "memory://u:s3cret@host/store",
        "s3://u:s3cret@host/*.csv", "memory://u:s3cret@host/none.xlsx",
    ],
)  # fmt: skip
def test_no_error_holds_a_password(tmp_path, where):
    for call in (lambda: handful.open(where), lambda: handful.prepare(where, tmp_path / "store")):
        with pytest.raises(HandfulError) as refused:
            call()
        assert "s3cret" not in str(refused.value)


def test_plans_hold_no_secrets(tmp_path):
    plan = Plan({"data": Choice.place("https://u:s3cret@h/x")}, ("read from https://u:s3cret@h/x",))
    plan.save(tmp_path / "plan.toml")
    assert "s3cret" not in (tmp_path / "plan.toml").read_text()
    assert Plan.load(tmp_path / "plan.toml") == plan
    assert not plan.choices["data"].reproducible


def test_a_name_that_steers_a_terminal_is_shown_escaped(tmp_path, capfd):
    x = torch.randn(40, 3)
    folder = tmp_path / "a\x1b[31m"
    for k in range(4):
        (folder / f"c{k % 2}").mkdir(parents=True, exist_ok=True)
        (folder / f"c{k % 2}" / f"bad\x1b[2J{k}.png").write_bytes(b"no picture")
    with pytest.raises(HandfulError, match=r"bad\\x1b\[2J0.png"):
        handful.open(folder)
    run = handful.fit("linear", {"a\x1b[1m": x[:, 0], "b": x[:, 1], "y": ["p\x1b[5m", "q"] * 20}, target="y", batch=8,
                      lr=0.01, until="epochs(1)", out=tmp_path / "run")  # fmt: skip
    run.report()
    said = "".join(capfd.readouterr())
    assert "\x1b" not in said


@pytest.mark.parametrize("where", ["https://joe:s3cret@127.0.0.1:9/x.pt2", "s3://bucket/x.html?token=s3cret"])
def test_an_address_in_the_place_of_a_path_is_refused_and_no_folder_is_called_so(tmp_path, monkeypatch, capfd, where):
    monkeypatch.chdir(tmp_path)
    given = {"batch": 8, "lr": 0.01, "until": "steps(1)", "quiet": True}
    run = handful.fit("linear", "iris", out="run", **given)
    for deed in (
        lambda: handful.fit("linear", "iris", out=where, **given),
        lambda: handful.load(where),
        lambda: handful.resume(where),
        lambda: handful.replay(where, 1),
        lambda: run.report(where),
        lambda: run.export(where),
        lambda: handful.compare("linear", "iris", out=where),
    ):
        with pytest.raises(
            HandfulError, match=r" is an address; runs, pages and exports lie on a disk of this"
        ) as error:
            deed()
        assert "s3cret" not in str(error.value)
    assert "s3cret" not in "".join(capfd.readouterr())
    assert os.listdir() == ["run"]


def test_no_command_writes_what_steers_a_terminal(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    evil = "\x1b[31mEVIL\x1b]0;t\x07"
    rows = [f"{i},{i * i % 7},{'p' + evil if i % 2 else 'q'}" for i in range(40)]
    (tmp_path / f"x{evil}.csv").write_text("\n".join([f"a,b{evil},y", *rows]) + "\n")
    data, run = f"x{evil}.csv", f"run{evil}"
    flags = ["--model", "linear", "--batch", "8", "--lr", "0.01", "--until", "steps(2)", "--target", "y"]
    for command in (
        ["train", data, "--out", run, *flags], ["inspect", data], ["inspect", run, "--full"], ["evaluate", run, data],
        ["predict", run, data, "--out", f"p{evil}.csv"], ["report", run], ["replay", run, "--step", "2"],
        ["export", run, f"m{evil}.safetensors"], ["diff", run, run], ["prepare", data, f"s{evil}", "--target", "y"],
        ["resume", run, "--until", "steps(3)"], ["train", f"none{evil}.csv"], ["train", data, "--target", evil],
    ):  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["handful", *command])
        program.run()
        said = "".join(capfd.readouterr())
        assert said
        assert "\x1b" not in said, command
