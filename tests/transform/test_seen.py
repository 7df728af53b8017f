"""Rows that were trained on are known again, in any container, and rows that are on both sides of a split are said."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits

import handful
from handful.data.base import Batch
from handful.data.split import split
from handful.transform.seen import overlapping, row_hashes

QUICK = {"until": "steps(2)", "batch": 32, "lr": 0.01, "quiet": True, "augment": None}


def table(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({
        "number": rng.normal(size=n).round(6), "kind": rng.choice(["red", "green", "007"], n),
        "day": pd.date_range("2020-01-01", periods=n).strftime("%Y-%m-%d"), "y": rng.choice(["yes", "no"], n),
    })  # fmt: skip


def texts(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    words = [" ".join(rng.choice(list("abcdefgh"), rng.integers(1, 30))) + f" {i + seed * 1000}" for i in range(n)]
    return pd.DataFrame({"text": words, "y": rng.choice(["yes", "no"], n)})


def counted(notes: list[str], rows: int) -> int:
    """The number that the one sentence on rows trained on gives; 0 where there is none."""
    said = [note for note in notes if "trained on" in note and "scores on these" in note]
    assert len(said) <= 1
    if not said:
        return 0
    number = re.match(r"(all|the one|[\d,]+)", said[0])
    assert number
    return rows if number[1] in ("all", "the one") else int(number[1].replace(",", ""))


@pytest.mark.parametrize("made", [table, texts])
def test_rows_trained_on_are_counted_in_any_container_and_after_loading(made, tmp_path, capsys):
    frame, other = made(200), made(50, seed=7)
    frame.to_csv(tmp_path / "all.csv", index=False)
    run = handful.fit("linear" if made is table else "text", str(tmp_path / "all.csv"), target="y", valid=0.2,
                      out=tmp_path / "run", **QUICK)  # fmt: skip
    loaded = handful.load(tmp_path / "run")
    kinds = {"frame": frame, "csv": str(tmp_path / "all.csv"), "dict": frame.to_dict("list")}
    for data in kinds.values():
        assert counted(loaded.evaluation(data).notes, 200) == 160  # those of the split, and no other
    few = pd.concat([frame[:30], other], ignore_index=True).sample(frac=1, random_state=0)
    expected = sum(counted(run.evaluation(frame[i : i + 1]).notes, 1) for i in range(30))
    assert 0 < expected < 30
    assert counted(run.evaluation(few).notes, 80) == expected
    assert run.evaluation(other).notes == []
    capsys.readouterr()
    scores = run.evaluate(few)
    assert f"handful: note: {expected} of the 80 rows of" in capsys.readouterr().err
    assert scores == run.evaluation(few).scores


def test_the_target_counts_too_and_weights_do_not():
    digits = load_digits()
    x, y = digits.images.astype(np.uint8)[:, None], digits.target
    run = handful.fit("linear", (x[:500], y[:500]), valid=0, **QUICK)
    assert counted(run.evaluation((x[400:600], y[400:600])).notes, 200) == 100
    assert run.evaluation((x[:100], (y[:100] + 1) % 10)).notes == []
    assert counted(run.evaluation((x[:100], y[:100])).notes, 100) == 100


def test_the_page_and_the_command_line_say_it(tmp_path, command):
    frame = table(100)
    frame.to_csv(tmp_path / "all.csv", index=False)
    handful.fit("linear", str(tmp_path / "all.csv"), target="y", valid=0, out=tmp_path / "run", **QUICK)
    status, out, _ = command("evaluate", tmp_path / "run", tmp_path / "all.csv")
    assert status == 0
    assert "all 100 rows of" in out
    assert "All 100 rows of" in (tmp_path / "run" / "evaluation.html").read_text()


def test_rows_on_both_sides_of_a_split_are_noted_by_their_numbers():
    frame = table(300)
    frame.loc[200:] = frame[:100].to_numpy()  # 100 rows twice
    run = handful.fit("linear", frame, target="y", valid=0.3, **QUICK)
    source = handful.open(frame, target="y")
    held = split(source, 0.3, seed=0)[1]
    rows = set(held.rows.tolist())
    both = sorted(r for r in rows if (r < 100 and r + 200 not in rows) or (r >= 200 and r - 200 not in rows))
    assert len(both) > 10
    assert counted(list(run.plan.notes), 90) == len(both)
    said = next(note for note in run.plan.notes if "that were trained on" in note)
    assert f"(rows {both[0]}, {both[1]}, {both[2]} and " in said
    assert counted(list(handful.fit("linear", table(300), target="y", valid=0.3, **QUICK).plan.notes), 90) == 0


def test_hashes_tell_rows_apart_that_differ_in_one_bit_or_in_place():
    rng = np.random.default_rng(0)
    rows = np.unique(rng.integers(0, 3, (20000, 12)), axis=0)  # floats with few bits: the worst for sums of products
    for dtype in (torch.float32, torch.float64, torch.int64, torch.uint8, torch.bfloat16):
        x = torch.from_numpy(rows).to(dtype)
        assert len(np.unique(row_hashes(Batch({"x": x}, np.arange(len(x)))))) == len(rows)


def series(n=1000, channels=()):
    return np.cumsum(np.random.default_rng(0).normal(size=(n, *channels)), axis=0)


def windows(step, size=12, channels=()):
    found = np.lib.stride_tricks.sliding_window_view(series(channels=channels), size, axis=0)[::step]
    return found.astype(np.float32)  # [rows, *channels, size]


@pytest.mark.parametrize("step", [1, 3, 9])
@pytest.mark.parametrize("kind", ["rows", "channels first", "channels last", "lags", "leads", "csv"])
def test_windows_of_one_series_are_said(kind, step, tmp_path):
    x = windows(step, channels=(2,) if "channels" in kind else ())
    data = {"x": x.swapaxes(1, 2) if kind == "channels last" else x, "y": x.reshape(len(x), -1)[:, -1]}
    if kind in ("lags", "leads", "csv"):
        data = pd.DataFrame(x[:, ::-1] if kind == "lags" else x, columns=[f"t{k}" for k in range(12)])
        data["y"] = data.t0
    if kind == "csv":
        data.to_csv(tmp_path / "t.csv", index=False)
        data = tmp_path / "t.csv"
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(1)) if "channels" in kind else "linear"
    quick = QUICK if model == "linear" else {**QUICK, "lr": 1e-4}
    run = handful.fit(model, data, target="y", **quick)
    said = [note for note in run.plan.notes if "windows of one series" in note]
    assert len(said) == 1
    assert f"share {12 - step} of 12 steps" in said[0]
    assert not any("windows of one series" in note for note in
                   handful.fit(model, data, target="y", **{**quick, "valid": None}).plan.notes)  # fmt: skip


def test_rows_of_one_patient_on_both_sides_are_said():
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(80), 5)
    for names in (who, [f"p{k}" for k in who]):
        data = pd.DataFrame({"patient": names, "x": rng.normal(size=400), "y": rng.normal(size=400)})
        said = [n for n in handful.fit("linear", data, target="y", **QUICK).plan.notes if "by patient" in n]
        assert len(said) == 1
        assert "each 'patient' has 4.5 rows on average, and 100% of the held-out rows" in said[0]
        notes = handful.fit("linear", data, target="y", valid="0.1 by patient", **QUICK).plan.notes
        assert not any("by patient" in note for note in notes)
        ratings = data.assign(item_id=rng.permutation(who))  # to hold out users would hold out no items
        assert not any("hold out whole" in n for n in handful.fit("linear", ratings, target="y", **QUICK).plan.notes)


@pytest.mark.parametrize("kind", ["apart", "noise", "the same", "whole numbers"])
def test_rows_that_are_no_windows_are_not_taken_for_such(kind):
    rng = np.random.default_rng(0)
    x = {
        "apart": windows(12),
        "noise": rng.normal(size=(300, 12)).astype(np.float32),
        "the same": np.ones((300, 12), np.float32) * np.arange(2).repeat(6),
        "whole numbers": rng.integers(0, 2, (300, 12)).astype(np.float32),
    }[kind]
    source = handful.open({"x": x, "y": rng.normal(size=len(x))}, target="y")
    assert overlapping(source) == []
    frame = pd.DataFrame(x, columns=[f"t{k}" for k in range(12)]).assign(y=0.5)
    assert overlapping(handful.open(frame, target="y", columns=list(frame.columns))) == []
