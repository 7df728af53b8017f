"""Token ids without a target: each next token is predicted, as a plain loop over windows of them does."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import handful
from handful.base.errors import HandfulError
from handful.data.open import open as open_source
from handful.transform.language import language_source

IDS = np.random.default_rng(0).integers(0, 7, 700)
IDS[-1], IDS[0] = 8, 7  # a token that only the held-out part has, and one that only training has
HOW = {"batch": 4, "lr": 0.5, "optimizer": "sgd", "schedule": "constant", "l2": 0.0, "until": "steps(6)", "quiet": True}


class Bigrams(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(12, 12)
        nn.init.normal_(self.table.weight, generator=torch.Generator().manual_seed(0))

    def forward(self, x):
        return self.table(x)


def plain(rows, held):
    """The same six steps, and the held-out loss, by hand: rows [n, T + 1]."""
    model = Bigrams()
    optimizer, order = torch.optim.SGD(model.parameters(), lr=0.5), handful.Order(len(rows), seed=0)
    for step in range(6):
        part = torch.from_numpy(rows[order[step * 4 : step * 4 + 4]])
        optimizer.zero_grad()
        F.cross_entropy(model(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten()).backward()
        optimizer.step()
    part = torch.from_numpy(held)
    return model, float(F.cross_entropy(model(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten()).detach())


@pytest.mark.parametrize("kind", ["array", "tensor", "uint16", "dict", "file"])
def test_rows_of_ids_are_learned_from_as_by_hand(kind, tmp_path):
    rows = IDS.reshape(-1, 10)
    np.save(tmp_path / "ids.npy", rows)
    data = {"array": rows, "tensor": torch.from_numpy(rows), "uint16": rows.astype(np.uint16),
            "dict": {"input_ids": rows}, "file": str(tmp_path / "ids.npy")}[kind]  # fmt: skip
    run = handful.fit(Bigrams(), data, task="language", valid=0.1, **HOW)
    model, loss = plain(rows[:63], rows[63:])
    torch.testing.assert_close(run.model.table.weight, model.table.weight, rtol=1e-6, atol=1e-6)
    assert run.evaluate(rows[63:])["loss"] == pytest.approx(loss, rel=1e-6)
    assert run.scores.keys() == {"valid_loss", "valid_perplexity", "valid_accuracy"}


def test_one_long_row_is_cut_into_windows_and_the_last_part_held_out():
    train, held = language_source(open_source(IDS), 9, valid=0.1)
    x, y = train.take([0, 3]).tensor("x"), train.take([0, 3]).tensor("y")
    assert x.tolist() == [IDS[:9].tolist(), IDS[27:36].tolist()]
    assert y.tolist() == [IDS[1:10].tolist(), IDS[28:37].tolist()]
    assert held.take([0]).tensor("x").tolist() == [IDS[630:639].tolist()]
    assert (len(train), len(held), train.vocabulary, held.vocabulary) == (69, 7, 9, 9)


def test_the_ready_made_model_learns_them_goes_on_and_says_what_it_is_for(tmp_path):
    ids = np.tile(np.arange(30), 100)
    how = {"batch": 8, "lr": 0.01, "quiet": True, "valid": 0.2}
    path = tmp_path / "run"
    model = "language(width=16, layers=1, heads=2)"
    handful.fit(model, ids.reshape(-1, 30), until="steps(20)", out=path, **how)
    run = handful.resume(path, train=ids.reshape(-1, 30), until="steps(150)", quiet=True)
    assert run.scores["valid_accuracy"] == 1.0
    assert handful.load(path).evaluate(ids.reshape(-1, 30))["accuracy"] == 1.0
    for call, told in [
        (lambda: run.predict(ids), "use sample, or run.model on token ids"),
        (lambda: run.sample(), "it has no text: call run.model"),
        (lambda: run.evaluate({"text": ["a text of words"] * 9}), "holds no token ids"),
        (lambda: run.evaluate(np.arange(99)), "has token 98; training had ids below 30"),
        (lambda: run.evaluate(ids - 1), "counted from 0, and 'x' of arrays has -1"),
    ]:
        with pytest.raises(HandfulError, match=told):
            call()


@pytest.mark.parametrize("model", ["mlp", Bigrams()])
def test_without_a_task_the_way_on_is_said(model):
    with pytest.raises(HandfulError, match="or task='language' to predict each next token"):
        handful.fit(model, IDS.reshape(-1, 10), **HOW)
