"""Memory that runs out: smaller parts give the same and are said, in training, evaluation, prediction and reading."""

import numpy as np
import pytest
import torch
from torch import nn

import handful
from handful.base.errors import HandfulError
from handful.batches.batches import Batches
from handful.batches.order import Order
from handful.training.watch import observe

X = torch.randn(300, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = X.sum(1, keepdim=True)


class Hungry(nn.Module):
    """Runs out of memory for more rows than `limits` (in training, in evaluation)."""

    def __init__(self, *limits, kind=torch.OutOfMemoryError):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.limits, self.kind = nn.Linear(4, 1).double(), limits, kind

    def forward(self, x):
        if len(x) > self.limits[0 if self.training else 1]:
            raise self.kind("planted")
        return self.inner(x)


def fit(model, **given):
    return handful.fit(model, (X, Y), **{"batch": 32, "lr": 0.05, "optimizer": "sgd", "valid": 100, "preprocess": None,
                                         "until": "epochs(2)", "evaluate_every": 1.0} | given)  # fmt: skip


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, MemoryError])
def test_halving_is_said_in_console_plan_and_history_and_changes_nothing(tmp_path, capfd, kind):
    reference = fit(Hungry(1000, 1000), quiet=True)
    run = fit(Hungry(9, 30, kind=kind), out=tmp_path / "run")
    for mine, theirs in zip(run.model.parameters(), reference.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)
    said = [row["note"] for row in run.history if "memory ran out" in row.get("note", "")]
    assert said == [
        "memory ran out at step 1: 16 rows at a time go through the model from here on; the update is the same",
        "memory ran out at step 1: 8 rows at a time go through the model from here on; the update is the same",
        "memory ran out in an evaluation: 25 rows at a time go through the model there",
    ]
    assert set(said) <= set(run.plan.notes)
    printed = " ".join(capfd.readouterr().err.split())
    assert all(text in printed for text in said)
    assert run.best["valid_loss"] == pytest.approx(reference.best["valid_loss"], rel=1e-12)
    loaded = handful.load(tmp_path / "run", model=Hungry(1, 30, kind=kind))
    assert set(said) <= set(loaded.plan.notes)
    assert np.allclose(loaded.predict(X), reference.predict(X), rtol=1e-12)
    assert loaded.objective.at_once <= 30
    assert "memory ran out: " in capfd.readouterr().err
    loaded = handful.load(tmp_path / "run", model=Hungry(1, 30, kind=kind))
    assert loaded.evaluate((X, Y))["loss"] == pytest.approx(reference.evaluate((X, Y))["loss"], rel=1e-12)
    assert "memory ran out: " in capfd.readouterr().err


def test_not_one_row_at_a_time_fits_is_a_sentence():
    run = fit(Hungry(1000, 1000), quiet=True)
    run.model.limits = (0, 0)
    for call in (lambda: run.predict(X), lambda: run.evaluate((X, Y))):
        with pytest.raises(HandfulError, match="one row at a time does not fit in memory"):
            call()


def test_memory_that_runs_out_where_rows_are_read_is_named_and_the_run_keeps_what_it_learned(tmp_path):
    reads = [0]

    def large(batch):
        reads[0] += 1
        if reads[0] > 4:
            raise MemoryError
        return batch

    batches = Batches(handful.open((X, Y)), Order(300), [large])
    reads[0] = 4
    with pytest.raises(HandfulError, match="memory ran out while 8 rows of arrays were read; take a smaller batch"):
        batches.at(0, 8)

    def begin(event, info):
        if event == "start":
            reads[0], t = 0, info["training"]
            t.batches.transforms = [*t.batches.transforms, large]

    run = fit(Hungry(1000, 1000), quiet=True, out=tmp_path / "run", valid=None, callbacks=[begin])
    assert "memory ran out while 32 rows of" in run.stopped_because
    assert (run.exit_status, run.state.step) == (3, 4)
    assert handful.load(tmp_path / "run", model=Hungry(1000, 1000)).stopped_because == run.stopped_because


def test_the_history_of_a_run_of_unknown_length_grows_ever_more_slowly(tmp_path, monkeypatch):
    monkeypatch.setattr(observe, "FULL", 100)

    def until(step):
        return lambda event, info: "enough" if event == "step" and info["step"] == step else None

    given = {"batch": 10, "valid": None, "until": "loss_below(-1)", "save_every": 50, "quiet": True}
    run = fit(Hungry(1000, 1000), **given, callbacks=[until(1700)])
    steps = [row["step"] for row in run.history]
    apart = np.diff([0, *steps])
    assert len(steps) == 100 + 4 * 50 + 3
    assert [set(apart[np.array(steps) <= n]) for n in (100, 200, 400)] == [{1}, {1, 2}, {1, 2, 4}]
    path = tmp_path / "run"
    fit(Hungry(1000, 1000), **given, callbacks=[until(333)], out=path)
    again = handful.resume(path, model=Hungry(1000, 1000), train=(X, Y), callbacks=[until(1700)], quiet=True)
    assert [row["step"] for row in again.history] == steps
    assert [row["train_loss"] for row in again.history] == [row["train_loss"] for row in run.history]
