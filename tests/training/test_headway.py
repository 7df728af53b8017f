"""The rate rises during a run whose gradients go on to point one way, and nowhere else."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import handful
from handful.base.plan import Plan
from handful.optim import initial_lr
from handful.plan.build import assemble
from handful.plan.probe.decision import SHARE, Decision
from handful.plan.probe.first_steps import first_steps
from handful.plan.probe.steps import Snapshot
from handful.training.watch import headway


def sums(n: int = 800, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    g = np.random.default_rng(seed)
    x = g.normal(size=(n, 6)).astype(np.float32)
    return x, np.tanh(x @ np.linspace(-1, 1, 6).astype(np.float32))[:, None]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))


def fitted(**given):
    return handful.fit(network(), sums(), **{"valid": sums(200, 1), "batch": 16, "until": "epochs(8)", "quiet": True}
                       | given)  # fmt: skip


def base(run) -> float:
    return float(run.state.optimizer.param_groups[0]["initial_lr"])


def notes(run) -> list[str]:
    return [row["note"] for row in run.history if "note" in row and row["note"].startswith("rate ")]


@pytest.fixture
def slow(monkeypatch):
    """A stated rate that is far too small."""
    monkeypatch.setattr(initial_lr, "STEP", 2e-4)
    monkeypatch.setattr(initial_lr, "LEARNED", 1e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_rate_that_is_far_too_small_rises_twice_and_says_why(slow, optimizer):
    run = fitted(optimizer=optimizer)
    assert [note.split(":")[0] for note in notes(run)] == [
        f"rate {k * run.plan.lr:.3g} -> {2 * k * run.plan.lr:.3g}" for k in (1, 2)
    ]
    assert "go on to point one way (cosine" in notes(run)[0]
    assert base(run) == pytest.approx(4 * run.plan.lr)


def test_the_held_out_loss_is_lower_for_it(slow, monkeypatch):
    raised = fitted().best["valid_loss"]
    monkeypatch.setattr(headway, "SAME", math.inf)
    assert raised < 0.9 * fitted().best["valid_loss"]


@pytest.mark.parametrize(
    "given",
    [
        {"lr": 1e-4},
        {"schedule": "warmup(constant(), share=0.5)"},
        {"schedule": "one_cycle(rise=0.5)"},
        {"optimizer": "rmsprop"},
    ],
)
def test_nothing_rises_that_was_asked_for_or_rises_by_itself(slow, given):
    run = fitted(**given)
    assert not notes(run)


def test_a_usual_rate_stays():
    x, y = sums(2000)
    noisy = (x, y + np.random.default_rng(3).normal(size=y.shape).astype(np.float32))
    run = handful.fit(network(), noisy, valid=sums(200, 1), batch=16, until="epochs(4)", quiet=True)
    assert not notes(run)


def test_it_is_put_back_once_and_for_all_where_the_training_loss_rises(slow, monkeypatch):
    given = iter([2.0, 1.0] * 9)
    monkeypatch.setattr(headway, "mean_loss", lambda *_: next(given))
    run = fitted()
    assert len(notes(run)) == 2
    assert notes(run)[1].endswith("the training loss rose with the larger one")
    assert base(run) == run.plan.lr


class Cliff(nn.Sequential):
    """Its outputs are infinite where a weight was moved further than so far in one step."""

    def __init__(self, far: float) -> None:
        super().__init__(*network())
        self.far = far
        self.register_buffer("last", self[0].bias.detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        moved = (self[0].bias.detach() - self.last).abs().max()
        self.last.copy_(self[0].bias.detach())
        return super().forward(x) * torch.where(moved > self.far, torch.inf, 1.0)


def test_a_run_that_a_larger_rate_ruins_goes_back_to_before_it(slow, tmp_path):
    rate = fitted(until="steps(1)").plan.lr
    model = Cliff(1.5 * rate)
    run = handful.fit(model, sums(), valid=sums(200, 1), batch=16, until="epochs(8)", quiet=True, out=tmp_path / "run")
    assert notes(run)
    assert "goes on at half the learning rate" in str(run.history)
    assert run.stopped_because == "reached 8 epochs"
    assert run.scores["valid_loss"] < run.history[0]["valid_loss"]
    for event in (1, 2):

        def cut(told: str, info: dict[str, object], left: list[int] = [event]) -> None:  # noqa: B006
            left[0] -= told == "checkpoint"
            if not left[0]:
                raise RuntimeError("cut")

        path, other = tmp_path / str(event), Cliff(1.5 * rate)
        how = {"valid": sums(200, 1), "batch": 16, "until": "epochs(8)", "quiet": True}
        with pytest.raises(RuntimeError, match="cut"):
            handful.fit(Cliff(1.5 * rate), sums(), out=path, callbacks=[cut], **how)
        handful.resume(path, model=other, train=sums(), valid=sums(200, 1), quiet=True)
        assert all(map(torch.equal, other.parameters(), model.parameters()))
    with_words = handful.fit(Cliff(1.5 * rate), sums(), **how)
    assert with_words.stopped_because.startswith("it broke off: the loss is not finite")


def test_second_beginnings_keep_their_rate():
    t = assemble(network(), sums(), {"batch": 16, "until": "epochs(8)", "quiet": True})
    assert headway.may_rise(t)
    t.state.restarted = 80
    assert not headway.may_rise(t)


def trained_before() -> nn.Module:
    norm = nn.LayerNorm(6)
    norm.weight.data.uniform_(0.5, 1.5)
    return nn.Sequential(norm, nn.Linear(6, 2))


@pytest.mark.parametrize(
    ("model", "common", "why"),
    [(trained_before, 0.5, "trained before"), (lambda: nn.Linear(6, 2), 0.95, "of another class")],
)
def test_a_rate_that_is_small_on_purpose_stays(model, common, why):
    x, _ = sums(2000)
    rare = (x, (np.random.default_rng(1).random(len(x)) > common).astype(np.int64))
    t = assemble(model(), rare, {"until": "epochs(40)", "quiet": True})
    assert why in t.plan.choices["lr"].reason
    assert not headway.may_rise(t)


def test_a_rate_that_was_lowered_for_first_steps_that_broke_off_stays():
    t = assemble(network(), sums(), {"batch": 16, "until": "epochs(8)", "quiet": True})
    lowered, found = Decision(), iter([[1.0] * 3 + [9.0] * 6, [1.0] * 9])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("handful.plan.probe.first_steps.train", lambda *_: next(found))
        first_steps(t, lowered, 16, SHARE, Snapshot(t), batch=False, lr=True)
    t.plan = Plan({**t.plan.choices, "lr": lowered.lr})
    assert lowered.lr.status == "measured"
    assert not headway.may_rise(t)


@pytest.mark.parametrize("step", [40, 60, 70, 100, 130])
def test_a_run_that_is_cut_while_it_looks_ends_with_the_same_bits(slow, step, tmp_path):
    def cut(event, info):
        if event == "checkpoint" and info["step"] == step:
            raise KeyboardInterrupt

    whole = fitted(out=tmp_path / "whole", save_every=5)
    fitted(out=tmp_path / "cut", save_every=5, callbacks=[cut])
    end = handful.resume(tmp_path / "cut", model=network(), train=sums(), valid=sums(200, 1), quiet=True)
    assert len(notes(whole)) == 2
    assert notes(end) == notes(whole)
    assert base(end) == base(whole)
    for a, b in zip(end.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("make", [lambda w: torch.optim.AdamW([w], 0.1, betas=(0.8, 0.99)),
                                  lambda w: torch.optim.SGD([w], 0.1, momentum=0.8)])  # fmt: skip
def test_what_has_come_since_is_told_from_what_was_remembered_before(make):
    """By a large parameter's every third number; against the sum of the gradients, each as far as it is remembered."""
    weight = nn.Parameter(torch.zeros(3 * headway.MOST - 1, dtype=torch.float64))
    optimizer, g = make(weight), torch.randn(5, len(weight), dtype=torch.float64)
    seen = []
    for gradient in g:
        weight.grad = gradient.clone()
        optimizer.step()
        seen.append(headway.momentum(optimizer))
    (then, keep), (now, _) = seen[1], seen[4]
    share = 0.2 if "betas" in optimizer.param_groups[0] else 1.0
    expected = share * (0.64 * g[2] + 0.8 * g[3] + g[4])[::3] * math.sqrt(3)
    assert torch.allclose((now - keep**3 * then).double(), expected, rtol=1e-5, atol=1e-5)


def test_an_optimizer_that_remembers_no_gradients_tells_nothing():
    assert len(headway.momentum(torch.optim.SGD([nn.Parameter(torch.zeros(3))], 0.1))[0]) == 0
