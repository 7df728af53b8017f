"""A model that is another in the middle of a run: by a callback, by a buffer that grows, or in another order when it
goes on."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import handful
from handful.base.errors import HandfulError
from handful.training.watch.weights import load_weights

HOW = {"batch": 16, "schedule": "constant", "preprocess": None, "lr": 0.01, "l2": 0.0, "loss": "mse", "quiet": True}


def data(n=200, seed=1):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 16, generator=g)
    return x, x[:, 0] * 2 + x[:, 1] ** 2


class Net(nn.Module):
    def __init__(self, names="abo"):
        super().__init__()
        torch.manual_seed(0)
        made = {"a": nn.Linear(16, 16), "b": nn.Linear(16, 16), "o": nn.Linear(16, 1)}
        for name in names:
            self.add_module(name, made[name])

    def forward(self, x):
        return self.o(torch.tanh(self.b(torch.tanh(self.a(x))))).squeeze(-1)


def pruned(model):
    prune.l1_unstructured(model.a, "weight", amount=0.5)
    return model


def at_step(step, change):
    return lambda event, info: change() if event == "step" and info["step"] == step else None


def same(a, b):
    b = b.state_dict()
    return all(torch.equal(value, b[name]) for name, value in a.state_dict().items())


@pytest.mark.parametrize("optimizer", ["adamw", "momentum", "lbfgs", {"o*": "adam", "*": "momentum"}])
def test_a_run_goes_on_with_a_model_that_lists_its_layers_in_another_order(tmp_path, optimizer):
    """Moments went by number: those of one layer were given to another."""
    given = {**HOW, "valid": None, "optimizer": optimizer}
    whole = handful.fit(Net(), data(), until="steps(40)", **given)
    handful.fit(Net(), data(), until="steps(20)", out=tmp_path / "cut", **given)
    end = handful.resume(tmp_path / "cut", model=Net("bao"), train=data(), until="steps(40)", quiet=True)
    assert same(end.model, whole.model)


def test_an_order_in_which_muon_moves_other_weights_is_refused(tmp_path):
    handful.fit(Net(), data(), until="steps(20)", out=tmp_path / "cut", optimizer="muon", valid=None, **HOW)
    with pytest.raises(HandfulError, match=r"optimizer state is of other parameters .* in other groups: b.weight"):
        handful.resume(tmp_path / "cut", model=Net("bao"), train=data(), until="steps(40)", quiet=True)


def test_a_model_pruned_by_a_callback_goes_on_to_the_same_bits(tmp_path):
    """Pruning lists the weight behind the bias: the process was ended by torch, which wrote beyond the moments."""

    def fit(until, out):
        net = Net()
        calls = [at_step(20, lambda: pruned(net) and None)]
        return handful.fit(net, data(), until=until, out=out, optimizer="adam", valid=None, callbacks=calls, **HOW)

    whole = fit("steps(40)", tmp_path / "whole")
    fit("steps(30)", tmp_path / "cut")
    end = handful.resume(tmp_path / "cut", model=pruned(Net()), train=data(), until="steps(40)", quiet=True)
    assert same(end.model, whole.model)
    assert float((end.model.a.weight == 0).float().mean()) == 0.5


def test_an_average_and_the_best_weights_begin_anew_where_a_callback_prunes():
    net = Net()
    calls = [at_step(20, lambda: pruned(net) and None)]
    given = {**HOW, "valid": data(60, 2), "evaluate_every": 1, "ema": 0.9}
    run = handful.fit(net, data(), until="steps(60)", callbacks=calls, **given)
    assert any("the average of the weights begins anew; the best weights are those" in n for n in run.plan.notes)
    assert run.best["step"] > 20
    assert run.evaluate(data(60, 2))["loss"] == pytest.approx(run.best["valid_loss"], rel=1e-5)
    assert float((run.model.a.weight == 0).float().mean()) == 0.5


@pytest.mark.parametrize("own", [False, True])
def test_layers_that_a_callback_adds_are_said_not_to_be_trained_where_no_optimizer_has_them(own):
    net, held = Net(), []

    def optimizer(parameters, lr):
        held.append(torch.optim.SGD(parameters, lr=lr))
        return held[0]

    def change():
        net.b = nn.Sequential(net.b, nn.Tanh(), nn.Linear(16, 16))
        if own:
            held[0].add_param_group({"params": list(net.b[2].parameters())})

    calls = [at_step(20, change)]
    run = handful.fit(net, data(), until="steps(30)", optimizer=optimizer, valid=None, callbacks=calls, **HOW)
    said = [note for note in run.plan.notes if "gave the model other parameters" in note]
    assert len(said) == 1
    assert ("b.2.weight, b.2.bias will not be trained" in said[0]) is not own


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(16, 16) for _ in range(3)])
        self.more, self.o = nn.Linear(16, 16), nn.Linear(16, 1)

    def forward(self, x):
        for layer in [*self.layers, *([self.more] if hasattr(self, "more") else [])]:
            x = torch.tanh(layer(x))
        return self.o(x).squeeze(-1)


@pytest.mark.parametrize("change", [lambda net: net.layers.pop(-1) and None, lambda net: delattr(net, "more")])
def test_layers_that_a_callback_takes_away_are_noticed(change, tmp_path):
    """The average went on with their weights, and the next look at the held-out rows was a traceback."""
    net = Stack()
    given = {**HOW, "valid": data(60, 2), "evaluate_every": 1, "ema": 0.9}
    calls = [at_step(20, lambda: change(net))]
    run = handful.fit(net, data(), until="steps(40)", callbacks=calls, out=tmp_path / "run", **given)
    assert any("the average of the weights begins anew; the best weights are those" in n for n in run.plan.notes)
    assert run.best["step"] > 20
    assert run.evaluate(data(60, 2))["loss"] == pytest.approx(run.best["valid_loss"], rel=1e-5)
    fresh = Stack()
    change(fresh)
    end = handful.resume(tmp_path / "run", model=fresh, train=data(), valid=data(60, 2), until="steps(50)", quiet=True)
    assert end.history[-1]["step"] == 50


@pytest.mark.parametrize("optimizer", ["momentum", "muon", "lbfgs", {"o*": "adam", "*": "sgd"}])
def test_what_is_left_of_a_model_is_trained_as_in_a_plain_loop_and_goes_on(optimizer, tmp_path):
    def fit(until, **more):
        net = Stack()
        calls = [at_step(4, lambda: net.layers.pop(-1) and None)]
        return handful.fit(net, data(), until=until, callbacks=calls, optimizer=optimizer, valid=None, **HOW, **more)

    whole = fit("steps(12)")
    if optimizer == "momentum":
        plain, rows = Stack(), handful.Order(200, seed=0)
        sgd = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9)
        for step in range(12):
            x, y = (part[torch.as_tensor(rows[step * 16 : step * 16 + 16])] for part in data())
            sgd.zero_grad()
            nn.functional.mse_loss(plain(x), y).backward()
            sgd.step()
            if step == 3:
                plain.layers.pop(-1)
        for mine, theirs in zip(whole.model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    if optimizer != "lbfgs":  # whose state is of all weights together
        fit("steps(8)", out=tmp_path / "cut")
        fresh = Stack()
        fresh.layers.pop(-1)
        end = handful.resume(tmp_path / "cut", model=fresh, train=data(), until="steps(12)", quiet=True)
        assert same(end.model, whole.model)


class Grows(Stack):
    """A layer more from its twentieth step on, by itself; one that stands in a plain list, and a teacher."""

    def __init__(self):
        super().__init__()
        self.steps, self.aside, self.teacher = 0, [nn.Linear(16, 16)], [nn.Linear(16, 16).requires_grad_(False)]

    def forward(self, x):
        self.steps += self.training
        if self.steps == 20 and len(self.layers) == 3:
            self.layers.append(nn.Linear(16, 16))
        return super().forward(self.aside[0](x) + self.teacher[0](x))


def test_layers_that_no_optimizer_has_are_spoken_of():
    """Nothing was said of a layer that a model gives itself in a step, nor of one in a plain list."""
    run = handful.fit(Grows(), data(), until="steps(60)", optimizer="sgd", valid=None, **HOW)
    assert len(run.model.layers) == 4
    said = [note for note in run.plan.notes if "gave the model other parameters" in note]
    assert len(said) == 1
    assert "layers.3.weight, layers.3.bias will not be trained" in said[0]
    aside = [note for note in run.plan.notes if "no part of it for torch" in note]
    assert [note.split(",")[1] for note in aside] == [" 'aside'"]


def test_weights_that_do_not_fit_leave_a_model_as_it_was():
    net, other = Remembers(), Remembers()
    other.memory = torch.ones(4, 16)
    memory = net.memory
    wrong = {"layer.weight": torch.ones(1, 16), "layer.bias": torch.ones(2), "memory": torch.ones(4, 16)}
    for weights in (wrong, other.state_dict() | {"more": torch.ones(1)}):
        before = {name: value.clone() for name, value in net.state_dict().items()}
        with pytest.raises(HandfulError, match="do not fit this model"):
            load_weights(net, weights)
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        assert net.memory is memory
    load_weights(net, other.state_dict())
    assert same(net, other)


def test_a_callback_that_leaves_the_parameters_is_not_spoken_of():
    run = handful.fit(Net(), data(), until="steps(5)", valid=None, callbacks=[lambda event, info: None], **HOW)
    assert not any("other parameters" in note for note in run.plan.notes)


class Remembers(nn.Module):
    """Takes the mean of rows that it has seen off new ones: its memory grows from step to step."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(16, 1)
        self.register_buffer("memory", torch.zeros(0, 16))

    def forward(self, x):
        if self.training:
            self.memory = torch.cat([self.memory, x.detach()[:2]])
        return self.layer(x - self.memory.sum(0) / max(1, len(self.memory))).squeeze(-1)


def test_a_buffer_that_grows_is_that_of_a_plain_loop():
    run = handful.fit(Remembers(), data(), until="steps(40)", optimizer="sgd", valid=None, **HOW)
    plain, rows = Remembers(), handful.Order(200, seed=0)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.01)
    for step in range(40):
        x, y = (part[torch.as_tensor(rows[step * 16 : step * 16 + 16])] for part in data())
        optimizer.zero_grad()
        nn.functional.mse_loss(plain(x), y).backward()
        optimizer.step()
    assert same(run.model, plain)


@pytest.mark.parametrize("given", [{"valid": None}, {"valid": data(60, 2), "evaluate_every": 1, "ema": 0.9}])
def test_a_run_whose_buffer_grows_goes_on_is_loaded_and_keeps_its_best_weights(tmp_path, given):
    """The average was of two sizes (a traceback), and the best weights did not fit at the end of the run."""
    whole = handful.fit(Remembers(), data(), until="steps(40)", out=tmp_path / "whole", **HOW, **given)
    handful.fit(Remembers(), data(), until="steps(20)", out=tmp_path / "cut", **HOW, **given)
    again = {} if given["valid"] is None else {"valid": given["valid"]}
    end = handful.resume(tmp_path / "cut", model=Remembers(), train=data(), until="steps(40)", quiet=True, **again)
    assert same(end.model, whole.model)
    loaded = handful.load(tmp_path / "whole", model=Remembers())
    assert len(loaded.model.memory) == 2 * (whole.best or {"step": 40})["step"]
    assert loaded.evaluate(data(60, 2)) == whole.evaluate(data(60, 2))
    if again:
        assert whole.evaluate(data(60, 2))["loss"] == pytest.approx(whole.best["valid_loss"], rel=1e-5)


def test_with_nothing_given_a_buffer_may_grow():
    run = handful.fit(Remembers(), data(), quiet=True)
    assert len(run.model.memory) > 0
