"""A model whose parameters are others in the middle of a run, by a callback, or in another order when it goes on."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import handful
from handful.base.errors import HandfulError

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


def test_a_callback_that_leaves_the_parameters_is_not_spoken_of():
    run = handful.fit(Net(), data(), until="steps(5)", valid=None, callbacks=[lambda event, info: None], **HOW)
    assert not any("other parameters" in note for note in run.plan.notes)
