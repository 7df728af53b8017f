"""Rare categories are not learned by heart, and what was never seen is learned on the way."""

import numpy as np
import pandas as pd
import torch

import handful
from handful.models.table import Rare, Table


def tickets(n: int, seed: int) -> pd.DataFrame:
    """Who travels alone or together: a ticket says nothing but for how many rows have it; the class does."""
    g = np.random.default_rng(seed)
    kind = g.integers(0, 3, n)
    return pd.DataFrame(
        {
            "ticket": [f"A{v}" for v in g.integers(0, 4 * n, n)],
            "kind": np.array(["first", "second", "third"])[kind],
            "age": g.normal(30, 9, n),
            "saved": np.where(g.random(n) < np.array([0.9, 0.5, 0.1])[kind], "yes", "no"),
        }
    )


def test_a_category_is_taken_for_an_unseen_one_the_rarer_it_is():
    counts = [[5, 1, 9, 997, 0], [0, 3, 0]]
    rare = Rare(counts)
    ids = torch.tensor([[0, 0], [1, 1], [2, 1], [3, 1]]).repeat(20_000, 1)
    taken = rare(ids).reshape(-1, 4, 2)
    shares = (taken == torch.tensor([4, 2])).double().mean(0)
    expected = torch.tensor([[0, 0], [3 / 4, 1 / 2], [3 / 12, 1 / 2], [3 / 1000, 1 / 2]]).double()
    assert shares.sub(expected).abs().max() < 0.02  # five standard errors
    kept = taken != torch.tensor([4, 2])
    assert torch.equal(taken[kept], ids.reshape(-1, 4, 2)[kept])


def test_predictions_take_no_chance():
    rare = Rare([[0, 1, 1, 0]]).eval()
    ids = torch.tensor([[0], [1], [2], [3]])
    assert torch.equal(rare(ids), ids)


def test_a_column_of_nearly_as_many_names_as_rows_does_no_harm():
    """Learned by heart, such a column makes the loss of new rows many times that of guessing."""
    train, new = tickets(400, 0), tickets(400, 1)
    given = {"target": "saved", "valid": None, "until": "epochs(40)", "batch": 32, "lr": 0.005, "quiet": True}
    run = handful.fit("table", train, **given)  # the weights at the end: no held-out rows pick earlier ones
    without = handful.fit("table", train.drop(columns="ticket"), **given)
    assert run.evaluate(new)["loss"] < without.evaluate(new.drop(columns="ticket"))["loss"] + 0.4


def test_missing_and_never_seen_are_two_things():
    """A missing value tells the class here; a name that is new must not be read as one."""
    g = np.random.default_rng(0)
    missing = g.random(600) < 0.5
    city = np.where(missing, None, np.array([f"c{k}" for k in g.integers(0, 12, 600)], dtype=object))
    frame = pd.DataFrame({"city": city, "size": g.normal(size=600), "y": np.where(missing, "no", "yes")})
    run = handful.fit("table", frame, target="y", until="epochs(30)", batch=32, lr=0.02, seed=0, quiet=True)
    new = pd.DataFrame({"city": [None, "elsewhere", "c3"], "size": [0.0, 0.0, 0.0]})
    assert list(run.predict(new)) == ["no", "yes", "yes"]


def test_it_is_kept_with_the_model(tmp_path):
    frame = tickets(300, 0)
    run = handful.fit("table", frame, target="saved", until="epochs(1)", batch=32, lr=0.01, quiet=True,
                      out=tmp_path / "run")  # fmt: skip
    again = handful.load(tmp_path / "run")
    assert torch.equal(again.model.rare.chance, run.model.rare.chance)
    assert again.evaluate(frame) == run.evaluate(frame)


def test_a_config_of_before_is_built_as_it_was():
    old = Table(features=2, outputs=2, cardinalities=[3, 4])
    assert old.rare is None
