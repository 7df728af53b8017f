"""Members of the table model, against as many networks of one member each."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import handful
from handful import models as model
from handful.data.base import Batch
from handful.losses.asked import as_metrics
from handful.losses.loss import cross_entropy, mse
from handful.training.objective import Objective
from handful.training.special.exact import exact_gradient

TABLE = {"n_numbers": 3, "cardinalities": (4, 7)}
GIVEN = {"features": 3, "cardinalities": [4, 7], "outputs": 5, "width": 16, "blocks": 1, "dropout": 0.0}
M, MEMBERS = 12, 4


def rows(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "numbers": torch.randn(M, 3, generator=generator, dtype=torch.float64),
        "categories": torch.stack([torch.arange(M) % 4, torch.arange(M) % 7], 1),
    }


def several(encoding="periodic", **more):
    given = GIVEN | {"model": "table", "encoding": encoding, "members": MEMBERS} | more
    return model.from_config(given, seed=1).double()


def alone(net, k):
    """Member k as a network of its own: its factors multiplied into the first layer, its part of the last."""
    one = model.from_config(net.config | {"members": 1}, seed=9).double()
    known = {
        name: value for name, value in net.state_dict().items() if not name.startswith(("factors", "out.2", "into"))
    }
    factor = net.factors.factor.detach().view(MEMBERS, -1)[k][net.factors.feature]
    outputs = net.config["outputs"]
    head = slice(k * outputs, (k + 1) * outputs)
    last = net.out[2]
    known |= {"into.weight": net.into.weight.detach() * factor, "into.bias": net.into.bias.detach()}
    one.load_state_dict(known | {"out.2.weight": last.weight.detach()[head], "out.2.bias": last.bias.detach()[head]})
    return one


@pytest.mark.parametrize("encoding", ["periodic", "plain"])
def test_members_are_networks_that_share_all_but_their_factors_and_last_layer(encoding):
    net, given = several(encoding), rows()
    each = torch.stack([alone(net, k)(**given) for k in range(MEMBERS)], 1)
    torch.testing.assert_close(net.train()(**given), each.flatten(0, 1))
    torch.testing.assert_close(net.eval()(**given), each.mean(1))
    assert each.std(1).min() > 1e-3  # they do differ
    own = net.factors.factor
    assert own.abs().eq(1).all() if encoding == "plain" else own.abs().ne(1).all()


@pytest.mark.parametrize("micro", [1, 5, None])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", ["classes", "number"])
def test_the_loss_of_a_row_is_the_mean_over_its_members_whatever_the_micro_batch(micro, weighted, task):
    net, given = several(outputs=5 if task == "classes" else 1).train(), rows()
    y = torch.arange(M) % 5 if task == "classes" else torch.linspace(-1, 1, M, dtype=torch.float64)
    weight = torch.linspace(0.5, 2, M, dtype=torch.float64) if weighted else torch.ones(M, dtype=torch.float64)
    total = 0.0
    for k in range(MEMBERS):
        output = net(**given).view(M, MEMBERS, -1)[:, k]
        losses = F.cross_entropy(output, y, reduction="none") if task == "classes" else (output[:, 0] - y).square()
        total = total + (losses * weight).sum() / weight.sum() / MEMBERS
    reference = torch.autograd.grad(total, list(net.parameters()))
    columns = given | {"y": y} | ({"weight": weight} if weighted else {})
    objective = Objective(
        net, cross_entropy() if task == "classes" else mse(), as_metrics("accuracy" if task == "classes" else "mae")
    )
    outcome = exact_gradient(objective, Batch(columns, np.arange(M)), micro).total
    for ours, expected in zip(net.parameters(), reference, strict=True):
        torch.testing.assert_close(ours.grad, expected, rtol=1e-9, atol=1e-14)
    assert float(outcome.loss / outcome.weight) == pytest.approx(total.item(), rel=1e-12)
    if task == "classes":
        mean = net(**given).view(M, MEMBERS, -1).mean(1)
        assert outcome.metrics["accuracy"][0] == pytest.approx(float(((mean.argmax(1) == y) * weight).sum()))


@pytest.mark.parametrize(("rows", "members"), [(None, 8), (20_000, 8), (20_001, 4)])
def test_the_data_decide_how_many_members_the_table_model_has(rows, members):
    net = model.build("table", kind="table", shape=(5,), outputs=5, inputs=TABLE, rows=rows)
    assert (net.members, net.config["members"]) == (members, members)


def test_members_predict_alike_before_and_after_a_save(tmp_path):
    run = handful.fit(
        "table(members=3)", "wine", batch=32, lr=0.01, until="epochs(3)", out=tmp_path / "run", quiet=True
    )
    x = handful.open("wine")
    before = run.evaluate(x)
    again = handful.load(tmp_path / "run")
    assert again.model.members == 3
    assert again.evaluate(x) == before
    assert run.plan.choices["ema"].value == 0.99  # the table model's own, also where it is named with options
