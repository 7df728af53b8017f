"""The average of the weights: the same bits as by the formula over the state dict, whatever modules hold."""

import pytest
import torch
from torch import nn

from handful.training.watch.weights import average_weight, copy_weights, reader, update_average


class Tied(nn.Module):
    """Weights of two names, a buffer that is made anew in each pass, and one that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.a = self.b = nn.Linear(3, 3)
        self.register_buffer("seen", torch.zeros(3))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, x):
        self.seen = 0.9 * self.seen + 0.1 * x.mean(0)
        self.count = self.count + 1
        return self.b(self.a(x))


def renamed() -> nn.Module:
    """Its state dict has other names and other values than it holds."""
    model = nn.Sequential(nn.Linear(3, 3))
    model.register_state_dict_post_hook(lambda m, state, prefix, _: state.update({"twice": 2 * m[0].weight.detach()}))
    return model


MODELS = {
    "plain": lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 3)),
    "tied": Tied,
    "parametrized": lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))),
    "renamed": renamed,
    "complex": lambda: nn.Sequential(nn.Linear(3, 3, dtype=torch.complex64)),
    "frozen": lambda: nn.Sequential(nn.Linear(3, 3).requires_grad_(False), nn.Linear(3, 3)),
    "transposed": lambda: nn.Sequential(nn.Linear(3, 3), nn.Conv2d(2, 2, 1).to(memory_format=torch.channels_last)),
}


@pytest.mark.parametrize("name", MODELS)
def test_average_is_that_of_the_state_dict_to_the_bit(name):
    model = MODELS[name]()
    read, average, expected = reader(model), copy_weights(model), copy_weights(model)
    for step in range(30):
        with torch.no_grad():
            model(torch.randn(4, 3)) if name not in ("transposed", "complex") else None
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        update_average(average, read(), average_weight(0.99, step))
        d = min(0.99, (1 + step) / (10 + step))
        for key, value in model.state_dict().items():
            expected[key] = expected[key].lerp(value, 1 - d) if value.dtype != torch.int64 else value.clone()
    assert average.keys() == model.state_dict().keys()
    assert all(torch.equal(average[key], expected[key]) for key in expected)


def test_only_a_state_dict_that_says_what_the_modules_hold_is_not_built_again():
    asked = []
    for make in MODELS.values():
        model = make()
        read = reader(model)
        model.register_state_dict_pre_hook(lambda *_: asked.append(1))
        read()
    assert len(asked) == 1  # renamed


@pytest.mark.parametrize("normed", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_averaged_weights_of_a_spectral_norm_have_its_norm(normed):
    torch.manual_seed(0)
    model = nn.Sequential(normed(nn.Linear(20, 64)), nn.ReLU(), normed(nn.Linear(64, 1)))
    read, average, x = reader(model), copy_weights(model), torch.randn(512, 20)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(300):
        rows = x[torch.randint(0, 512, (32,))]
        optimizer.zero_grad()
        (model(rows) - rows[:, :1] * rows[:, 1:2]).square().mean().backward()
        optimizer.step()
        update_average(average, read(), average_weight(0.99, step))
    model.load_state_dict(average)
    model.eval()(x)
    norms = torch.stack([torch.linalg.matrix_norm(layer.weight, 2) for layer in (model[0], model[2])])
    assert norms.max() < 1.1
