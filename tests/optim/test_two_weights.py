"""Optimizers that are evaluated with other weights than they step, as the schedule-free ones: against a plain loop."""

import copy
import json
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import handful
from handful.base.errors import HandfulError
from handful.optim.build import build
from handful.optim.rates import rescale

DIGITS = load_digits()
X = torch.from_numpy((DIGITS.data / 16).astype(np.float32))
Y = torch.from_numpy(DIGITS.target)
TRAIN, VALID = (X[:1500], Y[:1500]), (X[1500:], Y[1500:])
BATCH, STEPS = 100, 30


class Averaging(torch.optim.Optimizer):
    """SGD on z, gradients at y = 0.1 z + 0.9 x, evaluated at x, the mean of z (Defazio et al. 2024). Its mode is kept
    outside the groups, and a step in the wrong one is an error, as theirs."""

    def __init__(self, params, lr=0.5, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.training = False

    def _put(self, training):
        for group in self.param_groups:
            for p in group["params"]:
                if self.training != training and (state := self.state[p]):
                    x = state["x"]
                    p.data.copy_(x.lerp(state["z"], 0.1) if training else x)
        self.training = training

    def train(self):
        self._put(True)

    def eval(self):
        self._put(False)

    @torch.no_grad()
    def step(self, closure=None):
        if not self.training:
            raise RuntimeError("not in train mode")
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state |= {"x": p.clone(), "z": p.clone(), "k": 0}
                state["k"] += 1
                state["z"].sub_(p.grad, alpha=group["lr"])
                state["x"].lerp_(state["z"], 1 / state["k"])
                p.copy_(state["x"].lerp(state["z"], 0.1))


def mlp(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))


def fit(model, **given):
    options = {
        "valid": VALID, "optimizer": Averaging, "batch": BATCH, "until": f"steps({STEPS})", "evaluate_every": 0.5,
        "quiet": True,
    }  # fmt: skip
    return handful.fit(model, TRAIN, **options | given)


def plain(steps=STEPS, evaluate_at=()):
    """(model in evaluation weights, losses on the held-out rows): torch alone, over the same rows."""
    model, losses = mlp(), {}
    optimizer = Averaging(model.parameters())
    order = handful.Order(len(TRAIN[1]), seed=0)
    for k in range(steps):
        optimizer.train()
        rows = torch.from_numpy(order[k * BATCH : (k + 1) * BATCH])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(TRAIN[0][rows]), TRAIN[1][rows]).backward()
        optimizer.step()
        if k + 1 in evaluate_at:
            shown = copy.deepcopy(model)
            for p, q in zip(model.parameters(), shown.parameters(), strict=True):
                q.data.copy_(optimizer.state[p]["x"])
            losses[k + 1] = torch.nn.functional.cross_entropy(shown(VALID[0]), VALID[1]).item()
    optimizer.eval()
    return model, losses


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_evaluations_and_the_end_are_at_the_average_and_steps_are_not():
    run, (whole, losses) = fit(mlp(), valid=None), plain(evaluate_at=range(STEPS + 1))
    assert same(run.model, whole)
    seen = fit(mlp())
    evaluated = {row["step"]: row["valid_loss"] for row in seen.history if "valid_loss" in row}
    assert len(evaluated) >= 4
    assert evaluated == pytest.approx({step: losses[step] for step in evaluated}, rel=1e-5)
    assert seen.evaluate(VALID)["loss"] == pytest.approx(seen.best["valid_loss"], rel=1e-6)
    assert seen.plan.schedule == "constant"
    assert "averages the weights itself" in " ".join(seen.plan.notes)


class Strict(Averaging):
    """It has nothing to be evaluated with before its first step, as pytorch_optimizer's SPlus."""

    def eval(self):
        assert self.state
        super().eval()


def test_before_the_first_step_nothing_is_put_in_the_weights_place(tmp_path):
    assert same(fit(mlp(), optimizer=Strict, out=tmp_path / "run", valid=None).model, plain()[0])


@pytest.mark.parametrize("every", [0.1, 0.5])
def test_how_often_it_is_evaluated_or_saved_changes_no_bit(tmp_path, every):
    ends = [fit(mlp(), valid=None).model, fit(mlp(), evaluate_every=every, out=tmp_path / "run", save_every=1)]
    last = handful.training.process.checkpoint.load(tmp_path / "run" / "checkpoints")[0]
    kept = {k.removeprefix("evaluated."): v for k, v in last.items() if k.startswith("evaluated.")}
    assert all(torch.equal(kept[k], v) for k, v in ends[0].state_dict().items())


def test_cut_loaded_and_resumed(tmp_path):
    whole = fit(mlp(), valid=None, out=tmp_path / "whole", save_every=1)

    def cut(event, info):
        if event == "checkpoint" and info["step"] == 7:
            raise KeyboardInterrupt

    path = tmp_path / "cut"
    fit(mlp(), valid=None, out=path, save_every=1, callbacks=[cut])
    (path / "result.json").unlink()  # as after a kill
    assert same(handful.load(path, model=mlp(9)).model, plain(7)[0])
    with pytest.raises(HandfulError, match="pass it again"):
        handful.resume(path, model=mlp(9), train=TRAIN, quiet=True)
    end = handful.resume(path, model=mlp(9), train=TRAIN, optimizer=Averaging, quiet=True)
    assert same(end.model, whole.model)
    assert same(end.model, plain()[0])


def test_what_it_does_not_go_with():
    with pytest.raises(HandfulError, match="averages the weights itself; leave ema out"):
        fit(mlp(), ema=0.9)
    built = build(Averaging, mlp())
    assert built.optimizer.training
    with pytest.raises(HandfulError, match="average that Averaging keeps"):
        rescale(built.optimizer, 8, 16, 1.5)
    normed = torch.nn.Sequential(mlp(), torch.nn.BatchNorm1d(10))
    assert "running statistics" in " ".join(build(Averaging, normed).notes)


def test_a_chosen_batch_leaves_it_in_training_mode():
    run = fit(mlp(), batch="auto", until="epochs(3)")
    assert run.best["valid_accuracy"] > 0.5


@pytest.mark.parametrize(
    "optimizer", [torch.optim.SGD, partial(torch.optim.AdamW, lr=0.01), partial(torch.optim.Adam, weight_decay=0.1)]
)
@pytest.mark.parametrize("given", [{}, {"lr": 0.02}, {"l2": 0.01}, {"lr": 0.02, "l2": 0.0}])
def test_a_class_of_torch_is_resumed_to_the_bit(tmp_path, optimizer, given):
    if "lr" in given and isinstance(optimizer, partial):
        optimizer = optimizer.func
    if "l2" in given and isinstance(optimizer, partial):
        optimizer = partial(optimizer.func, lr=0.01)
    given = {"optimizer": optimizer, "valid": None, **given}
    whole = fit(mlp(), **given)

    def cut(event, info):
        if event == "checkpoint" and info["step"] == 7:
            raise KeyboardInterrupt

    fit(mlp(), out=tmp_path / "cut", save_every=1, callbacks=[cut], **given)
    end = handful.resume(tmp_path / "cut", model=mlp(9), train=TRAIN, optimizer=optimizer, quiet=True)
    assert end.state.step == STEPS
    assert same(end.model, whole.model)


def test_a_ready_optimizer_is_resumed_to_the_bit(tmp_path):
    def ready(model):
        groups = [{"params": model[0].parameters(), "lr": 0.3}, {"params": model[2].parameters()}]
        return torch.optim.SGD(groups, lr=0.1, momentum=0.9)

    model, again = mlp(), mlp(9)
    whole = fit(model, optimizer=ready(model), valid=None)

    def cut(event, info):
        if event == "checkpoint" and info["step"] == 7:
            raise KeyboardInterrupt

    model = mlp()
    fit(model, optimizer=ready(model), valid=None, out=tmp_path / "cut", save_every=1, callbacks=[cut])
    end = handful.resume(tmp_path / "cut", model=again, train=TRAIN, optimizer=ready(again), quiet=True)
    assert same(end.model, whole.model)
    assert json.loads((tmp_path / "cut" / "result.json").read_text())["stopped_because"] == whole.stopped_because
