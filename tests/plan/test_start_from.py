"""Fine-tuning: weights to start from, frozen backbones, and columns matched to the arguments of forward."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import handful
from handful.base.errors import HandfulError

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
HOW: dict[str, Any] = {
    "batch": 16, "lr": 0.1, "valid": None, "until": "steps(9)", "optimizer": "sgd", "l2": 0.0, "schedule": "constant",
    "quiet": True,
}  # fmt: skip


def net(outputs: int = 2, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, outputs))


def test_weights_of_a_file_are_taken_where_they_fit_and_the_rest_is_said(tmp_path: Path) -> None:
    there, model, untouched = net(3, seed=1), net(), net()
    weights = {k: v.double() for k, v in there.state_dict().items() if k != "0.bias"} | {"head.old": torch.zeros(2)}
    save_file(weights, tmp_path / "w.safetensors")
    run = handful.fit(model, (X, Y), init=tmp_path / "w.safetensors", **HOW | {"lr": 1e-12, "until": "steps(1)"})
    assert torch.allclose(model[0].weight, there[0].weight, atol=1e-9)
    assert torch.allclose(model[0].bias, untouched[0].bias, atol=1e-9)
    assert torch.allclose(model[3].weight, untouched[3].weight, atol=1e-9)
    assert run.plan.choices["init"].reason == "6 of 9 weights"
    (note,) = (note for note in run.plan.notes if "w.safetensors" in note)
    for said in (
        "6 of 9 weights",
        "left as they were: 0.bias",
        "3.weight [3, 6] for [2, 6]",
        "not in the model: head.old",
    ):
        assert said in note


def test_a_run_is_a_start_and_its_init_is_not_asked_for_again(tmp_path: Path) -> None:
    first, second, twin = net(seed=1), net(), net(seed=1)
    handful.fit(first, (X, Y), out=tmp_path / "first", **HOW)
    handful.fit(second, (X, Y), init=tmp_path / "first", out=tmp_path / "second", **HOW)
    twin.load_state_dict(first.state_dict())
    handful.fit(twin, (X, Y), **HOW)
    assert all(torch.equal(a, b) for a, b in zip(second.state_dict().values(), twin.state_dict().values(), strict=True))
    (tmp_path / "first").rename(tmp_path / "elsewhere")
    handful.resume(tmp_path / "second", model=net(), train=(X, Y), until="steps(12)", quiet=True)


def test_what_the_weights_of_a_run_were_learned_with_is_held_against_what_is_here(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = {name: rng.normal(size=64) for name in "abc"} | {"y": rng.choice(["no", "yes"], 64)}
    handful.fit("linear", rows, target="y", out=tmp_path / "first", **HOW)

    def notes(data: dict[str, Any]) -> list[str]:
        run = handful.fit("linear", data, target="y", init=tmp_path / "first", **HOW)
        return [note for note in run.plan.notes if "were learned where" in note]

    assert notes(rows) == []
    with pytest.raises(HandfulError, match="first take a, b, c in this order; put the columns so"):
        notes({name: rows[name] for name in "cbay"})  # of the same shape: it had another column's weights, silently
    (other,) = notes({"d" if name == "c" else name: values for name, values in rows.items()})
    assert "inputs were a, b, c" in other
    (cat,) = notes(rows | {"y": np.where(rows["y"] == "yes", "cat", "no")})
    assert "classes were no, yes" in cat
    (scaled,) = notes(rows | {"c": 100 * rows["c"]})
    assert "prepared by the means, classes or words of other rows" in scaled
    of_first = handful.load(tmp_path / "first")
    run = handful.fit(of_first.model, rows, target="y", preprocess=of_first.pipeline, **HOW)
    assert not any("were learned where" in note for note in run.plan.notes)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "init: there is no"),
        ({"other": torch.zeros(1)}, "it has other, the model 0.weight, 0.bias"),
        (b"no", ""),
        (b"PK", "is a pickle, which is never read"),
    ],
)
def test_what_cannot_be_a_start_is_said(content: Any, words: str, tmp_path: Path) -> None:
    where = tmp_path / ("w.pt" if content == b"PK" else "w.safetensors")
    match content:
        case dict():
            save_file(content, where)
        case bytes():
            where.write_bytes(content)
    with pytest.raises(HandfulError) as caught:
        handful.fit(net(), (X, Y), init=str(where), **HOW)
    assert words in str(caught.value)
    with pytest.raises(HandfulError, match="not OrderedDict: weights in memory are put in by"):
        handful.fit(net(), (X, Y), init=net().state_dict(), **HOW)  # type: ignore[arg-type]


@pytest.mark.parametrize("micro_batch", [3, 16])
def test_frozen_batch_normalisation_stays_in_evaluation_mode(micro_batch: int) -> None:
    def frozen() -> nn.Sequential:
        model = net()
        model[1].running_mean += 0.3
        model[:2].requires_grad_(False)
        return model

    model, plain, order = frozen(), frozen(), handful.Order(64, seed=0)
    run = handful.fit(model, (X, Y), **HOW | {"valid": (X, Y), "micro_batch": micro_batch, "score": "valid_loss"})
    sgd = torch.optim.SGD(plain[3].parameters(), lr=0.1)
    plain.train()
    plain[1].eval()
    for at in range(0, 9 * 16, 16):
        rows = torch.from_numpy(order[at : at + 16])
        sgd.zero_grad()
        F.cross_entropy(plain(X[rows]), Y[rows]).backward()
        sgd.step()
    assert torch.allclose(model[3].weight, plain[3].weight, rtol=1e-5)
    assert torch.equal(model[1].running_mean, plain[1].running_mean)
    assert any("In evaluation mode throughout, as their weights are frozen: 1 (1 of" in note for note in run.plan.notes)
    assert not any("in parts, the gradient" in note for note in run.plan.notes)


class Rated(nn.Module):
    """Named numbers, one of them an id for an embedding."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.of, self.out = nn.Embedding(5, 3), nn.Linear(4, 1)

    def forward(self, price: Tensor, user_id: Tensor, scale: float = 1.0) -> Tensor:
        return self.out(torch.cat([self.of(user_id), price[:, None]], 1)).squeeze(1) * scale


def test_columns_are_matched_to_the_arguments_of_forward(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    user, price = rng.integers(0, 5, 64), rng.normal(size=64).astype(np.float32)
    rows = {"user_id": user, "price": price, "other": price * 2, "y": (user - price).astype(np.float32)}
    model, plain, order = Rated(), Rated(), handful.Order(64, seed=0)
    run = handful.fit(model, rows, target="y", out=tmp_path / "run", **HOW)
    sgd = torch.optim.SGD(plain.parameters(), lr=0.1)
    tensors = {name: torch.from_numpy(values) for name, values in rows.items()}
    for at in range(0, 9 * 16, 16):
        part = {name: values[torch.from_numpy(order[at : at + 16])] for name, values in tensors.items()}
        sgd.zero_grad()
        F.mse_loss(plain(price=part["price"], user_id=part["user_id"]), part["y"]).backward()
        sgd.step()
    assert torch.allclose(model.out.weight, plain.out.weight, rtol=1e-5)
    assert "The model gets its inputs by name: price, user_id." in run.plan.notes
    assert "Left out, as the model's forward does not take them: other." in run.plan.notes
    found = run.predict({"price": price[:3], "user_id": user[:3]})
    assert np.allclose(found, plain(price=tensors["price"][:3], user_id=tensors["user_id"][:3]).detach(), rtol=1e-4)
    loaded = handful.load(tmp_path / "run", model=Rated())
    assert loaded.evaluate(rows) == run.evaluate(rows)
