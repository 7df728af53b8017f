"""Steps of the caller's own, `training_step`: several losses and optimizers, against plain torch loops in float64."""

import json
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import handful
from handful.base.errors import HandfulError
from handful.plan import defaults as choose
from handful.plan.config import Config
from handful.training.special.own_step import OwnStep
from handful.transform.augment.base import Address

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(60, 3, generator=GENERATOR, dtype=torch.float64)
Y = (X[:, 0] > 0).long()
RATES = {"generator": 2e-3, "critic": 5e-3}
GAN: dict[str, Any] = {
    "optimizer": {"generator": "adam(lr=0.002, betas=[0.5, 0.9])", "critic": "adam(lr=0.005)"}, "l2": 0.0,
    "schedule": "constant", "batch": 8, "until": "steps(9)", "precision": "float64", "quiet": True,
}  # fmt: skip


def layers(*sizes: int, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pairs = [(nn.Linear(a, b, dtype=torch.float64), nn.Tanh()) for a, b in pairwise(sizes)]
    return nn.Sequential(*[layer for pair in pairs for layer in pair][:-1])


def gan() -> nn.ModuleDict:
    """No forward: nothing but the step knows how it is called."""
    return nn.ModuleDict({"generator": layers(2, 5, 3), "critic": layers(3, 6, 1, seed=1)})


def critics_loss(model: nn.ModuleDict, real: Tensor, z: Tensor, mix: Tensor) -> Tensor:
    """Wasserstein with a gradient penalty (Gulrajani et al. 2017), of each row."""
    made = model["generator"](z).detach()
    between = (mix * real + (1 - mix) * made).requires_grad_()
    (slope,) = torch.autograd.grad(model["critic"](between).sum(), between, create_graph=True)
    penalty = (slope.norm(dim=1) - 1) ** 2
    return (model["critic"](made) - model["critic"](real)).squeeze(1) + penalty


def generators_loss(model: nn.ModuleDict, z: Tensor) -> Tensor:
    return -model["critic"](model["generator"](z)).squeeze(1)


def gan_step(model: nn.ModuleDict, batch: handful.Batch, step: OwnStep) -> None:
    assert batch.tensor("x").shape == (8, 3)
    step.minimise(
        lambda part: critics_loss(model, part.tensor("x"), step.normal(part, 2), step.uniform(part, 1)), "critic"
    )
    if step.number % 2 == 1:

        def loss(part: handful.Batch) -> Tensor:
            values = generators_loss(model, step.normal(part, 2))
            step.log("fooled", values)
            return values

        step.minimise(loss, of="generator")


def by_hand(model: nn.ModuleDict, steps: int) -> list[dict[str, float]]:
    order = handful.Order(60, seed=0)
    adams = {
        name: torch.optim.Adam(model[name].parameters(), lr=RATES[name], betas=betas)
        for name, betas in (("generator", (0.5, 0.9)), ("critic", (0.9, 0.999)))
    }
    losses = []
    for step in range(steps):
        first = step * 8
        rows = order[first : first + 8]
        of = handful.Batch({}, rows, torch.arange(first, first + 8).div(60, rounding_mode="floor").numpy())
        drawn = partial(Address, seed=0)
        z = drawn("training_step in 0 0").device_normal(of, 2, torch.device("cpu")).double()
        mix = drawn("training_step in 0 1").device_uniform(of, 1, torch.device("cpu")).double()
        model.zero_grad()
        critic = critics_loss(model, X[torch.from_numpy(rows)], z, mix).mean()
        critic.backward()
        adams["critic"].step()
        said = {"train_critic_loss": critic.item()}
        if step % 2 == 1:
            model.zero_grad()
            z = drawn("training_step in 1 0").device_normal(of, 2, torch.device("cpu")).double()
            made = generators_loss(model, z).mean()
            made.backward()
            adams["generator"].step()
            said |= {"train_generator_loss": made.item(), "train_fooled": made.item()}
        losses.append(said | {"train_loss": sum(v for k, v in said.items() if k != "train_fooled")})
    return losses


def weights(model: nn.Module) -> Tensor:
    return torch.cat([v.detach().flatten() for v in model.state_dict().values()])


@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_a_gan_is_the_plain_loops_whatever_the_micro_batch(micro_batch: int) -> None:
    ours, plain = gan(), gan()
    run = handful.fit(ours, X, training_step=gan_step, micro_batch=micro_batch, **GAN)
    losses = by_hand(plain, 9)
    assert torch.allclose(weights(ours), weights(plain), rtol=1e-10, atol=1e-13)
    assert not torch.allclose(weights(ours), weights(gan()), rtol=1e-3)
    rows = [row for row in run.history if "train_loss" in row]
    assert len(rows) == 9
    for row, there in zip(rows, losses, strict=True):
        assert {k: v for k, v in row.items() if k.startswith("train_")} == pytest.approx(there, rel=1e-10)
    assert run.stopped_because == "reached 9 steps"


@pytest.mark.parametrize("schedule", ["step(every=0.3)", {"critic": "constant", "generator": "frozen(until=0.5)"}])
def test_a_gan_that_is_broken_off_goes_on_to_the_same_bits(tmp_path: Path, schedule: Any) -> None:
    how = GAN | {"schedule": schedule, "ema": 0.9, "clip_norm": 0.5, "micro_batch": 3}
    whole = gan()
    run = handful.fit(whole, X, training_step=gan_step, **how)
    handful.fit(gan(), X, training_step=gan_step, out=tmp_path / "run", **how | {"until": "steps(4)"})
    with pytest.raises(HandfulError, match="your own gan_step as its training_step; pass it again"):
        handful.resume(tmp_path / "run", model=gan(), train=X)
    again = gan()
    other = handful.resume(tmp_path / "run", model=again, train=X, training_step=gan_step, until="steps(9)")
    assert torch.equal(weights(again), weights(whole))
    timeless = [{k: v for k, v in row.items() if k != "seconds"} for row in run.history]
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in other.history if "note" not in row] == timeless
    kept = handful.load(tmp_path / "run", model=gan())
    assert torch.equal(weights(kept.model), weights(whole))


class Autoencoder(nn.Module):
    """Variational: the noise is drawn by the step."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = layers(3, 6, 4), layers(2, 6, 3, seed=1)

    def loss(self, x: Tensor, noise: Tensor) -> Tensor:
        mean, log_variance = self.encode(x).chunk(2, dim=1)
        made = self.decode(mean + (log_variance / 2).exp() * noise)
        return ((made - x) ** 2).sum(1) + 0.5 * (log_variance.exp() + mean**2 - 1 - log_variance).sum(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x)[:, :2])


@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_a_variational_autoencoder_with_one_optimizer(micro_batch: int) -> None:
    def step(model: Autoencoder, batch: handful.Batch, step: OwnStep) -> None:
        step.minimise(lambda part: model.loss(part.tensor("x"), step.normal(part, 2)))

    ours, plain, order = Autoencoder(), Autoencoder(), handful.Order(60, seed=0)
    how = GAN | {"optimizer": "sgd(lr=0.05)", "until": "steps(7)", "micro_batch": micro_batch}
    run = handful.fit(ours, X, training_step=step, **how)
    sgd = torch.optim.SGD(plain.parameters(), lr=0.05)
    for at in range(0, 56, 8):
        rows = order[at : at + 8]
        noise = Address("training_step in 0 0").device_normal(handful.Batch({}, rows), 2, torch.device("cpu")).double()
        sgd.zero_grad()
        plain.loss(X[torch.from_numpy(rows)], noise).mean().backward()
        sgd.step()
    assert torch.allclose(weights(ours), weights(plain), rtol=1e-10, atol=1e-13)
    assert run.plan.choices["lr"].value == 0.05
    assert run.outputs(X[:5]).shape == (5, 3)
    assert run.plan.choices["loss"].value is None


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = layers(3, 6, 2), layers(3, 6, 1, seed=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.actor(x)


def advantages(model: ActorCritic, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of critic and actor for a reward of 1 where the action is right, of which the class is the best."""
    scores, value = model.actor(x).log_softmax(1), model.critic(x).squeeze(1)
    action = x[:, 1].gt(0).long()
    reward = (action == y).double()
    return (reward - value) ** 2, -(reward - value).detach() * scores.gather(1, action[:, None]).squeeze(1)


@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_actor_and_critic_are_scored_on_held_out_rows_by_a_loss(micro_batch: int) -> None:
    def step(model: ActorCritic, batch: handful.Batch, step: OwnStep) -> None:
        for of, which in (("critic", 0), ("actor", 1)):
            step.minimise(lambda p, k=which: advantages(model, p.tensor("x"), p.tensor("y"))[k], of=of)

    ours, plain, order = ActorCritic(), ActorCritic(), handful.Order(60, seed=0)
    optimizers = {name: partial(torch.optim.SGD, lr=rate) for name, rate in (("actor", 0.1), ("critic", 0.3))}
    how = GAN | {"optimizer": optimizers, "micro_batch": micro_batch, "until": "steps(6)"}
    run = handful.fit(ours, (X, Y), training_step=step, loss="cross_entropy", valid=(X[:20], Y[:20]), **how)
    made = {name: make(getattr(plain, name).parameters()) for name, make in optimizers.items()}
    best, kept = torch.inf, weights(plain)
    for at in range(0, 48, 8):
        rows = torch.from_numpy(order[at : at + 8])
        for k, name in enumerate(("critic", "actor")):
            plain.zero_grad()
            advantages(plain, X[rows], Y[rows])[k].mean().backward()
            made[name].step()
        loss = F.cross_entropy(plain(X[:20]), Y[:20]).item()
        best, kept = (loss, weights(plain).clone()) if loss < best else (best, kept)
    last = [row for row in run.history if "valid_loss" in row][-1]
    assert last["valid_loss"] == pytest.approx(loss, rel=1e-10)
    assert run.evaluate((X, Y), metrics="accuracy")["accuracy"] > 0
    assert {"train_actor_loss", "train_critic_loss", "valid_accuracy"} <= last.keys()


@pytest.mark.parametrize("how", [{"lr": 0.1, "l1": 0.01, "clip_norm": 1.0}, {"optimizer": "lbfgs"}])
def test_a_single_step_of_ones_own_is_the_runs_own_to_the_bit(how: dict[str, Any]) -> None:
    def step(model: nn.Module, batch: handful.Batch, step: OwnStep) -> None:
        step.minimise(lambda part: F.cross_entropy(model(part["x"]), part["y"], reduction="none"))

    def net() -> nn.Module:
        return nn.Sequential(layers(3, 6), nn.Dropout(0.3), layers(6, 2))

    how = how | {"batch": 8, "valid": None, "until": "steps(20)", "quiet": True}
    ours, usual = net(), net()
    handful.fit(ours, (X, Y), training_step=step, **how)
    handful.fit(usual, (X, Y), loss=lambda output, y: F.cross_entropy(output, y, reduction="none"), **how)
    assert torch.equal(weights(ours), weights(usual))


def one(loss: Callable[..., Any], of: str | None = None) -> Callable[..., None]:
    return lambda model, batch, step: step.minimise(lambda part: loss(model, part), of)


@pytest.mark.parametrize(
    ("step", "more", "words"),
    [
        (lambda model, batch, step: None, {}, "training_step made no update at step 1: call step.minimise"),
        (
            one(lambda m, p: m["critic"](p["x"]), "critics"),
            {},
            "no optimizer 'critics' to minimise with; optimizer= na",
        ),
        (one(lambda m, p: m["critic"](p["x"]), "critic"), {"optimizer": "adam"}, "leave `of` out"),
        (one(lambda m, p: "low"), {}, "must return a Tensor or a pair of Tensors, not str"),
        (one(lambda m, p: m["critic"](p["x"]) * torch.nan), {}, "the loss is not finite at step 1, among rows"),
        (gan_step, {"valid": 0.3}, "held-out rows are scored by loss="),
        (gan_step, {"until": "plateau(3)"}, "watches valid_loss, but no rows are held out"),
        ("gan", {}, "training_step must be a function (model, batch, step), not 'gan'"),
    ],
)
def test_mistakes_are_said(step: Any, more: dict[str, Any], words: str) -> None:
    with pytest.raises(HandfulError) as caught:
        handful.fit(gan(), X, training_step=step, **GAN | more)
    assert words in str(caught.value)


def test_a_step_is_taken_again_and_what_cannot_be_known_is_said(tmp_path: Path) -> None:
    run = handful.fit(gan(), X, training_step=gan_step, out=tmp_path / "run", save_every=2, **GAN)
    again = handful.replay(tmp_path / "run", 6, model=gan(), train=X, training_step=gan_step)
    assert again.loss == next(row for row in run.history if row["step"] == 6)["train_loss"]
    assert again.differs is None
    assert {row["parameter"] for row in again.layers if "norm of update" in row} == set(dict(gan().named_parameters()))
    with pytest.raises(HandfulError, match=r"the model \(ModuleDict\) has no forward"):
        run.predict(X[:3])
    with pytest.raises(HandfulError, match="are not measured: choose batch and lr yourself"):
        handful.advise(gan(), X, training_step=gan_step, optimizer=GAN["optimizer"])
    lightning = layers(3, 2)
    lightning.training_step = gan_step
    notes = handful.fit(lightning, (X, Y), batch=8, lr=0.1, until="steps(2)", quiet=True).plan.notes
    assert any(note.startswith("The model's own training_step is not called") for note in notes)


def test_a_step_that_fails_half_way_goes_on_from_the_one_before(tmp_path: Path) -> None:
    """The critic has moved, the generator has not: the state of neither step 5 nor 6."""

    def failing(model: nn.ModuleDict, batch: handful.Batch, step: OwnStep) -> None:
        lost = torch.nan if step.number == 5 else 1
        step.minimise(lambda p: critics_loss(model, p["x"], step.normal(p, 2), step.uniform(p, 1)), "critic")
        step.minimise(lambda part: generators_loss(model, step.normal(part, 2)) * lost, of="generator")

    run = handful.fit(gan(), X, training_step=failing, out=tmp_path / "run", save_every=1, **GAN)
    assert "not finite at step 6" in run.stopped_because
    assert "no update was made by this loss, 1 by others in the step before it" in run.stopped_because
    newest = sorted((tmp_path / "run" / "checkpoints").glob("*.json"))[-1]
    assert json.loads(newest.read_text().split("\n", 1)[-1])["step"] == 5


def test_several_ranks_are_refused():
    options = Config.of({"training_step": lambda model, batch, step: None, "lr": 0.1})
    with pytest.raises(
        HandfulError, match="training_step evaluates the loss several times in a step: train on one rank"
    ):
        choose.optimizer(options, nn.Linear(2, 1), choose.Chooser(), ranks=2)
