"""A loss, or a model, of the caller's that keeps a state of its own: as in a loop that calls it once a step."""

from collections import deque
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import handful
from handful.plan import build
from handful.plan.probe.decide import decide
from handful.training.special import recorded
from handful.training.watch.weights import as_now

X = torch.randn(200, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = (X[:, 0] > 0).long()
GIVEN = {"batch": 20, "lr": 0.1, "optimizer": "sgd", "schedule": "constant", "quiet": True}


class Centred(nn.Module):
    """Scores less their running mean, which is kept in a buffer; a queue and a counter stand in attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2, dtype=torch.float64))
        self.queue, self.calls = torch.zeros(3, dtype=torch.float64), 0

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(0.1 * output.detach().mean(0))
        self.queue = torch.cat([self.queue[1:], output.detach().std().reshape(1)])
        self.calls += 1
        return F.cross_entropy((output - self.mean) / (1 + self.queue.mean()), target) * (1 + 0.01 * self.calls)


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).double()


def numbers(loss: nn.Module, model: nn.Module) -> list[Tensor]:
    assert isinstance(loss, Centred)
    return [*model.state_dict().values(), loss.mean, loss.queue, torch.tensor(loss.calls)]


@pytest.mark.parametrize("held", [{"valid": None}, {"valid": (X[:50], Y[:50]), "evaluate_every": 40}], ids=["", "held"])
def test_it_is_that_of_a_plain_loop(held: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "FROM", 3)
    model, loss = net(), Centred()
    sgd, order = torch.optim.SGD(model.parameters(), 0.1), handful.Order(len(X), seed=0)
    for step in range(20):
        rows = torch.as_tensor(order[20 * step : 20 * step + 20])
        sgd.zero_grad()
        loss(model(X[rows]), Y[rows]).backward()
        sgd.step()
    own = Centred()
    run = handful.fit(net(), (X, Y), loss=own, until="steps(20)", **GIVEN, **held)
    if held["valid"] is None:  # else the best are kept
        for ours, theirs in zip(numbers(own, run.model), numbers(loss, model), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)
    assert own.calls == 20


@pytest.mark.parametrize("given", [GIVEN, {**GIVEN, "batch": "auto", "lr": "auto"}], ids=["given", "measured"])
def test_it_goes_on_where_it_was(given: dict[str, object], tmp_path: Path) -> None:
    held = {"valid": (X[:50], Y[:50]), "evaluate_every": 40, **given}
    losses = [Centred() for _ in range(3)]
    whole = handful.fit(net(), (X, Y), loss=losses[0], until="steps(60)", out=tmp_path / "a", **held)
    handful.fit(net(), (X, Y), loss=losses[1], until="steps(60) | examples(240)", out=tmp_path / "b", **held)
    resumed = handful.resume(
        tmp_path / "b", until="steps(60)", model=net(), train=(X, Y), loss=losses[2], valid=(X[:50], Y[:50])
    )
    for one, other in zip(numbers(losses[2], resumed.model), numbers(losses[0], whole.model), strict=True):
        assert torch.equal(one, other)


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.calls = net(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return self.inner(x) * (1 + 0.001 * self.calls)  # type: ignore[no-any-return]


class CountsByItsClass(Counts):
    """Its first call makes the attribute."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        del self.calls


@pytest.mark.parametrize("kind", [Counts, CountsByItsClass])
def test_what_a_model_counts_while_it_is_measured_is_what_the_run_took(
    kind: type[Counts], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "decide", partial(decide, share=0.05))  # so much that rates race in a short run
    x, y = X.repeat(10, 1), Y.repeat(10)
    run = handful.fit(kind(), (x, y), until="epochs(20)", valid=None, deterministic=True, quiet=True)
    assert run.plan.choices["lr"].status == "measured"
    assert (
        run.model.calls == run.history[-1]["step"]
    )  # those that told no noise scale were put back, as a race's losers


def test_what_is_put_back_stays_what_it_was() -> None:
    """In place, where others hold it too, and of its kind."""
    model = Counts()
    model.queue, model.ids, model.array = deque([1, 2], maxlen=3), {1, 2}, np.arange(3.0)
    model.scale = np.float32(0.5)
    held = [model.queue, model.ids, model.array]
    back = as_now(model)
    for _ in range(2):
        model.queue.append(3)
        model.ids.add(3)
        model.array += 1
        model.scale, model.calls = np.float32(2), 7
        back()
        assert all(kept is now for kept, now in zip(held, [model.queue, model.ids, model.array], strict=True))
        assert (list(model.queue), model.queue.maxlen, model.ids) == ([1, 2], 3, {1, 2})
        assert model.array.tolist() == [0, 1, 2]
        assert (model.scale, type(model.scale), model.calls) == (0.5, np.float32, 0)


class Interrupted(Counts):
    """What it computes depends on its calls; once, a call ends by Ctrl-C."""

    def forward(self, x: Tensor) -> Tensor:
        made = super().forward(x) * (1 + 0.01 * self.calls)
        if self.calls == self.at:
            self.at = -1
            raise KeyboardInterrupt
        return made


def test_what_a_model_counted_in_a_step_that_was_not_made_is_in_no_checkpoint(tmp_path: Path) -> None:
    ends = []
    for at in (-1, 24):
        model = Interrupted()
        model.at = at
        given = {"until": "epochs(4)", "batch": 8, "save_every": 10, "valid": None, "quiet": True, "resume": "auto"}
        for _ in range(1 + (at > 0)):
            run = handful.fit(model, (X, Y), out=tmp_path / str(at), **given)
            model = Interrupted()
            model.at = -1
        ends.append([run.history[-1]["step"], *run.model.state_dict().values()])
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(*ends, strict=True))


class Hungry(Counts):
    """Runs out of memory once, for more than ten rows, after it has counted."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        if self.training and self.calls >= self.at and len(x) > 10:
            raise torch.OutOfMemoryError("planted")
        return out


class Watching(nn.Module):
    """Keeps a running mean and a count of what it is called with, by which nothing is weighed."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2, dtype=torch.float64))
        self.calls = 0

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(0.1 * output.detach().mean(0))
        self.calls += 1
        return F.cross_entropy(output, target)


@pytest.mark.parametrize("at", [1, 5])
def test_what_is_counted_in_a_step_that_runs_out_of_memory_is_counted_once(at: int) -> None:
    model, loss = Hungry(at), Watching()
    handful.fit(model, (X, Y), loss=loss, valid=None, until="steps(8)", **GIVEN)
    plain, other, order = Counts(), Watching(), handful.Order(len(X), seed=0)
    sgd = torch.optim.SGD(plain.parameters(), 0.1)
    for step in range(8):
        rows = torch.as_tensor(order[20 * step : 20 * step + 20])
        sgd.zero_grad()
        for part in rows.split(20 if step < at - 1 else 10):
            (other(plain(X[part]), Y[part]) * len(part) / 20).backward()
        sgd.step()
    assert (model.calls, loss.calls) == (plain.calls, other.calls)
    torch.testing.assert_close(loss.mean, other.mean, rtol=1e-12, atol=1e-15)
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-14)
