"""Callbacks: what each event tells, how one stops a run, what it keeps, and that every one hears of the end."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import handful
from handful.base.errors import HandfulError

X = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
HOW: dict[str, Any] = {"batch": 8, "lr": 0.1, "valid": 0.25, "until": "steps(12)", "evaluate_every": 0.5, "quiet": True,
    "schedule": "constant",
}  # fmt: skip


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(3, 2)


class Heard(list[tuple[str, dict[str, Any]]]):
    def __call__(self, event: str, info: dict[str, Any]) -> None:
        self.append((event, dict(info)))

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self]


class Counts:
    """Keeps a state, and stops the run where it comes to a number."""

    def __init__(self, most: int = 10**9) -> None:
        self.most, self.steps, self.first = most, 0, 0

    def __call__(self, event: str, info: dict[str, Any]) -> str | None:
        self.first = self.steps if event == "start" else self.first
        self.steps += event == "step"
        return f"counted {self.steps} steps" if self.steps >= self.most and event == "step" else None

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


def test_each_event_tells_where_the_run_is(tmp_path: Path) -> None:
    heard = Heard()
    run = handful.fit(net(), (X, Y), out=tmp_path / "run", save_every=4, callbacks=[heard], **HOW)
    assert heard.events[0] == "start"
    assert heard.events[-1] == "end"
    assert heard.events.count("step") == 12
    assert [info["step"] for event, info in heard if event == "checkpoint"] == [4, 8, 12]
    assert [info["valid_loss"] for event, info in heard if event == "evaluate"] == [
        row["valid_loss"] for row in run.history if "valid_loss" in row
    ]
    start, end = heard[0][1], heard[-1][1]
    assert start["plan"].choices["batch"].value == 8
    assert (end["run"], end["status"]) == (run, "finished")


@pytest.mark.parametrize("event", ["step", "evaluate"])
def test_a_text_stops_the_run_after_that_step_and_nothing_else_does(event: str) -> None:
    def stop(told: str, info: dict[str, Any]) -> Any:
        return "that is enough" if told == event and info["step"] >= 5 else 7

    run = handful.fit(net(), (X, Y), callbacks=[stop, lambda event, info: True], **HOW)
    assert run.stopped_because == "that is enough"
    assert run.state is not None
    assert run.state.step == (5 if event == "step" else 6)


@pytest.mark.parametrize("given", [{}, {"optimizer": "lbfgs", "batch": 16, "lr": 0.05}])
def test_a_run_that_a_text_stopped_goes_on_as_if_it_had_not(given: dict[str, Any], tmp_path: Path) -> None:
    """The look at the held-out rows that such an end takes is not among those of the resumed run."""
    how = HOW | {"until": "steps(40) | plateau(2)", "schedule": "on_plateau(patience=1)"} | given
    whole, cut = net(), net()
    run = handful.fit(whole, (X, Y), **how)
    told = lambda event, info: "enough" if event == "step" and info["step"] == 5 else None
    half = handful.fit(net(), (X, Y), out=tmp_path / "run", callbacks=[told], **how)
    assert half.history[-1]["step"] == 5
    assert "valid_loss" in half.history[-1]
    assert handful.load(tmp_path / "run", model=net()).best == half.best
    again = handful.resume(tmp_path / "run", model=cut, train=(X, Y), quiet=True)
    assert all(map(torch.equal, cut.parameters(), whole.parameters()))
    unlike = {"seconds"}
    assert [{k: v for k, v in row.items() if k not in unlike} for row in again.history] == [
        {k: v for k, v in row.items() if k not in unlike} for row in run.history
    ]
    assert again.stopped_because == run.stopped_because


def test_the_state_of_a_callback_is_resumed_with_the_run(tmp_path: Path) -> None:
    whole, cut = net(), net()
    counted, stopped = Counts(), Counts(5)
    handful.fit(whole, (X, Y), callbacks=[counted], **HOW)
    run = handful.fit(cut, (X, Y), out=tmp_path / "run", save_every=2, callbacks=[Heard(), stopped, Counts()], **HOW)
    assert run.stopped_because == "counted 5 steps"
    without = handful.resume(tmp_path / "run", model=net(), train=(X, Y), until="steps(7)", callbacks=[Heard()])
    assert without.state is not None
    assert without.state.step == 7
    again, first, second = net(), Counts(), Counts()
    handful.resume(tmp_path / "run", model=again, train=(X, Y), until="steps(12)", callbacks=[first, second])
    assert (first.first, first.steps) == (second.first, second.steps) == (5, 10)  # 7 to 12 were counted here
    assert torch.equal(again.weight, whole.weight)


def test_a_run_that_goes_back_takes_its_callbacks_with_it(tmp_path: Path) -> None:
    x, counts = X.clone(), Counts()
    plan: dict[str, Any] = HOW | {
        "valid": None,
        "on_nonfinite": "rollback",
        "until": "steps(8)",
        "evaluate_every": 0.25,
    }
    to_lose: list[bool] = []

    def lose(event: str, info: dict[str, Any]) -> None:
        if event == "step" and info["step"] == 5 and not to_lose:
            to_lose.append(True)

    def loss(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        values = nn.functional.cross_entropy(output, y, reduction="none")
        if any(to_lose) and output.requires_grad:
            to_lose[:] = [False]
            return values * torch.nan
        return values

    run = handful.fit(net(), (x, Y), loss=loss, callbacks=[counts, lose], **plan)
    assert to_lose == [False]
    assert any("went back to step 4" in row.get("note", "") for row in run.history)
    assert counts.steps == 8


@pytest.mark.parametrize("event", ["start", "step", "evaluate", "end"])
def test_an_error_in_one_ends_the_run_and_all_hear_of_it(event: str) -> None:
    before, after = Heard(), Heard()

    def fails(told: str, info: dict[str, Any]) -> None:
        if told == event:
            raise RuntimeError("no disk left")

    with pytest.raises(RuntimeError, match="no disk left"):
        handful.fit(net(), (X, Y), callbacks=[before, fails, after], **HOW)
    assert before.events.count("end") == 1
    assert after.events.count("end") == (event != "start")
    if event != "end":
        assert before[-1][1]["status"] == "failed"
        assert str(before[-1][1]["error"]) == "no disk left"


def test_a_loss_that_is_not_finite_is_a_failure_and_a_signal_an_interruption() -> None:
    bad = X.clone()
    bad[int(handful.Order(64, seed=0)[30:31][0])] = torch.nan
    for raised, x, status in ((None, bad, "failed"), (KeyboardInterrupt, X, "interrupted")):
        heard = Heard()

        def cut(event: str, info: dict[str, Any], raised: Any = raised) -> None:
            if raised and event == "step":
                raise raised

        handful.fit(net(), (x, Y), callbacks=[heard, cut], **HOW | {"valid": None, "batch": 4})
        assert heard[-1][0] == "end"
        assert heard[-1][1]["status"] == status
        assert heard[-1][1]["run"] is not None


def test_a_state_that_json_does_not_hold_is_named(tmp_path: Path) -> None:
    counts = Counts()
    counts.steps = {1, 2}  # type: ignore[assignment]
    with pytest.raises(
        HandfulError, match=r"the state of the callback Counts 1 is not one that JSON holds, not \{'ste"
    ):
        handful.fit(net(), (X, Y), out=tmp_path / "run", save_every=2, callbacks=[counts], **HOW)


@pytest.mark.parametrize("given", [{}, {"clip_norm": 0.5}, {"l1": 1e-3}], ids=repr)
def test_layers_that_a_callback_thaws_are_trained_as_in_a_plain_loop(given):
    """Clipped and penalised with the others, though they were frozen when the run began."""

    def made():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
        model[0].requires_grad_(False)
        return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    x = torch.randn(96, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()
    (plain, optimizer), (model, theirs) = made(), made()
    for step in range(40):
        plain[0].requires_grad_(10 <= step < 30)
        rows = torch.as_tensor(handful.Order(96, seed=0)[step * 8 : step * 8 + 8])
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(x[rows]), y[rows]).backward()
        for p in plain.parameters():
            if "l1" in given and p.ndim > 1 and p.grad is not None:
                p.grad += given["l1"] * p.detach().sign()
        if "clip_norm" in given:
            nn.utils.clip_grad_norm_(plain.parameters(), given["clip_norm"])
        optimizer.step()

    def thaw(event, info):
        if event == "step":
            model[0].requires_grad_(10 <= info["step"] < 30)

    options = {"optimizer": theirs, "schedule": "constant", "preprocess": None, "valid": None, "quiet": True, **given}
    handful.fit(model, (x.numpy(), y.numpy()), batch=8, until="steps(40)", callbacks=[thaw], **options)
    for found, wanted in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(found, wanted)
