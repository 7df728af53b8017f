"""timm's models, small and random, against plain loops in float64; tested where `timm` is installed."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import handful
from handful.optim.parts import by_depth

timm = pytest.importorskip("timm")
N = 24
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, 3, 32, 32)), RNG.integers(0, 3, N)
SMALL = {
    "test_resnet": {}, "test_convnext": {}, "test_vit": {"img_size": 32, "patch_size": 8},
    "mobilenetv3_small_050": {"drop_rate": 0.0},
}  # fmt: skip
FIT = {"batch": 8, "lr": 0.01, "optimizer": "sgd", "schedule": "constant", "l2": 0.0, "valid": None, "device": "cpu",
       "precision": "float64", "until": "steps(3)", "quiet": True}  # fmt: skip


def made(name, classes=3):
    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, num_classes=classes, **SMALL[name]).double()


def by_hand(model, groups):
    order, optimizer = handful.Order(N, seed=0), torch.optim.SGD(groups, lr=0.01)
    for step in range(3):
        rows = torch.from_numpy(order[8 * step : 8 * step + 8].copy())
        optimizer.zero_grad()
        F.cross_entropy(model(torch.from_numpy(X)[rows]), torch.from_numpy(Y)[rows]).backward()
        optimizer.step()
    return model


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.allclose(a.double(), b.double(), rtol=1e-10, atol=1e-12) for a, b in pairs)


@pytest.mark.parametrize("name", SMALL)
def test_a_run_is_the_plain_loop_with_rates_by_depth_and_its_weights_start_others(name, tmp_path):
    model = made(name)
    rates = by_depth(model, 0.01, 0.5)
    run = handful.fit(model, (X, Y), **FIT | {"lr": rates})
    loop, rest = made(name).train(), dict(made(name).named_parameters())
    groups = []
    for pattern, rate in rates.items():
        taken = [n for n in rest if pattern == "*" or n == pattern or n.startswith(f"{pattern}.")]
        groups.append({"params": [loop.get_parameter(n) for n in taken if rest.pop(n) is not None], "lr": rate})
    by_hand(loop, [group for group in groups if group["params"]])
    assert same(model, loop)
    with torch.no_grad():
        assert run.predict(X).tolist() == loop.eval()(torch.from_numpy(X)).argmax(1).tolist()
    other = made(name, classes=5)
    weights = run.export(tmp_path / "weights.safetensors")
    begun = handful.fit(other, (X, np.arange(N) % 5), init=weights, **FIT | {"until": "steps(1)", "lr": 1e-30})
    assert any("of another shape there: " in note and "[3] for [5]" in note for note in begun.plan.notes)
    head = id(other.get_classifier().weight), id(other.get_classifier().bias)
    kept = [(p, model.get_parameter(n)) for n, p in other.named_parameters() if id(p) not in head]
    assert all(torch.allclose(p, q, rtol=0, atol=1e-20) for p, q in kept)


@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv3_small_050"])
def test_a_frozen_backbone_stays_as_it_is_its_batch_normalisation_too(name):
    model, loop = made(name), made(name)
    for net in (model, loop):
        net.requires_grad_(False)
        net.get_classifier().requires_grad_(True)
    run = handful.fit(model, (X, Y), **FIT)
    assert same(model, by_hand(loop.eval(), loop.get_classifier().parameters()))
    assert any(note.startswith("In evaluation mode throughout") for note in run.plan.notes)
