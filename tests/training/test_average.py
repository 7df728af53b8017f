"""The average of the weights: the same bits as by the formula over the state dict, whatever modules hold."""

import pytest
import torch
from torch import nn

import handful
from handful.training.watch.weights import as_last, average_weight, copy_weights, reader, update_average


class Tied(nn.Module):
    """Weights of two names, buffers that are made anew in each pass, and one that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.a = self.b = nn.Linear(3, 3)
        self.register_buffer("running_seen", torch.zeros(3))
        self.register_buffer("queue", torch.zeros(5, 3))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, x):
        self.running_seen = 0.9 * self.running_seen + 0.1 * x.mean(0)
        self.queue = torch.cat([self.queue[1:], x[:1].detach()])
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
        update_average(average, read(), average_weight(0.99, step), as_last(model))
        d = min(0.99, (1 + step) / (10 + step))
        for key, value in model.state_dict().items():
            expected[key] = (
                expected[key].lerp(value, 1 - d)
                if key not in ("count", "queue", "0.num_batches_tracked", "1.num_batches_tracked")
                else value.clone()
            )
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
        update_average(average, read(), average_weight(0.99, step), as_last(model))
    model.load_state_dict(average)
    model.eval()(x)
    norms = torch.stack([torch.linalg.matrix_norm(layer.weight, 2) for layer in (model[0], model[2])])
    assert norms.max() < 1.1


class Contrasts(nn.Module):
    """MoCo's queue (He et al. 2020): a buffer whose oldest rows are replaced by the outputs of a mini-batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Linear(6, 3), nn.BatchNorm1d(3)
        self.register_buffer("queue", torch.zeros(12, 3))
        self.register_buffer("at", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        out = nn.functional.normalize(self.norm(self.a(x)), dim=1)
        if self.training:
            self.queue[self.at : self.at + len(x)] = out.detach()
            self.at = (self.at + len(x)) % len(self.queue)
        return out


def test_a_queue_beside_averaged_weights_is_the_last_one_and_running_statistics_are_averaged():
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    torch.manual_seed(0)
    model, plain = Contrasts(), Contrasts()
    plain.load_state_dict(model.state_dict())
    average = {name: value.detach().clone() for name, value in plain.state_dict().items()}
    sgd = torch.optim.SGD(plain.parameters(), 0.1)
    for step in range(9):
        rows = torch.as_tensor(handful.Order(40, seed=0)[4 * step : 4 * step + 4])
        sgd.zero_grad()
        nn.functional.cross_entropy(plain(x[rows]), y[rows]).backward()
        sgd.step()
        for name, value in plain.state_dict().items():
            weight = average_weight(0.9, step)
            average[name] = (
                value.clone()
                if name in ("queue", "at", "norm.num_batches_tracked")
                else average[name].lerp(value, weight)
            )
    handful.fit(
        model, (x, y), batch=4, lr=0.1, optimizer="sgd", schedule="constant", until="steps(9)", ema=0.9, valid=None,
        l2=0, precision="float32", quiet=True,
    )  # fmt: skip
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, average[name], rtol=1e-4, atol=1e-6, msg=name)
    torch.testing.assert_close(model.queue.norm(dim=1), torch.ones(12), rtol=1e-5, atol=1e-5)
