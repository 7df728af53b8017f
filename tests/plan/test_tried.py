"""The model and the loss, tried on a few rows before anything is trained."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import handful
from handful.base.errors import HandfulError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype(np.float32)
Y = X[:, 0] * 2
QUIET = {"until": "steps(2)", "batch": 16, "lr": 0.01, "quiet": True}

# PRIOR-ART: an output [m, 1] beside a target [m] spreads to [m, m] in torch, with at most a warning.
SPREADING = {
    "mean": lambda output, target: ((output - target) ** 2).mean(),
    "rows": lambda output, target: (output - target).abs(),
    "pair": lambda output, target: ((output - target) ** 2, torch.ones_like(output - target)),
}
SOUND = {
    "column": lambda output, target: (output[:, 0] - target) ** 2,
    "squeezed": lambda output, target: (output.squeeze() - target) ** 2,
    "sum": lambda output, target: (output.sum(-1) - target) ** 2,
    "upright": lambda output, target: (output - target[:, None]) ** 2,
    "cox": lambda output, target: (output[:, 0].exp().cumsum(0).log() - output[:, 0]).mean(),  # rows on purpose
    "margin": lambda output, target: F.relu(1 - output[:, 0] * target),
}


@pytest.mark.parametrize("loss", SPREADING.values(), ids=SPREADING)
def test_a_loss_that_compares_every_row_with_every_row_is_said(loss):
    with pytest.raises(HandfulError, match=r"every row's output with every row's target.*output.squeeze\(1\)"):
        handful.fit(nn.Linear(6, 1), (X, Y), loss=loss, **QUIET)


@pytest.mark.parametrize("loss", SOUND.values(), ids=SOUND)
def test_other_losses_of_one_output_are_left_alone(loss):
    assert handful.fit(nn.Linear(6, 1), (X, Y), loss=loss, **QUIET).state.step == 2


@pytest.mark.parametrize(
    "loss",
    [nn.MSELoss(), nn.L1Loss(), nn.SmoothL1Loss(), nn.HuberLoss(), nn.MSELoss, F.mse_loss, F.huber_loss],
    ids=lambda loss: getattr(loss, "__name__", type(loss).__name__),
)
def test_torchs_losses_of_numbers_take_both_shapes_for_the_same(loss):
    flat = nn.Sequential(nn.Linear(6, 1), nn.Flatten(0))
    upright = nn.Linear(6, 1)
    upright.load_state_dict(flat[0].state_dict())
    for net in (flat, upright):
        handful.fit(net, (X, Y), loss=loss, valid=None, optimizer="sgd", seed=1, **QUIET)
    assert torch.equal(flat[0].weight, upright.weight)


def test_outputs_of_a_sigmoid_are_scored_and_predicted_as_probabilities(tmp_path):
    y = (Y > 0).astype(np.float32)
    make = lambda: nn.Sequential(nn.Linear(6, 1), nn.Sigmoid())
    net = make()
    run = handful.fit(net, (X, y), loss=nn.BCELoss(), out=tmp_path / "run", **QUIET | {"until": "epochs(20)"})
    with torch.no_grad():
        share = net.eval()(torch.from_numpy(X))[:, 0]
    scores, predicted = run.evaluate((X, y)), run.predict(X)
    assert np.array_equal(predicted, (share > 0.5).float().numpy())
    assert scores["label_accuracy"] == pytest.approx(float((predicted == y).mean()))
    assert scores["loss"] == pytest.approx(nn.BCELoss()(share, torch.from_numpy(y)).item(), rel=1e-6)
    torch.testing.assert_close(run.predict(X, probabilities=True)[:, 0].float(), share)
    again = handful.load(tmp_path / "run", model=make())
    assert again.evaluate((X, y)) == scores
    assert np.array_equal(again.predict(X), predicted)
    classes = handful.fit(make(), (X, y.astype(int)), loss=F.binary_cross_entropy, **QUIET)
    assert classes.scores["valid_accuracy"] in np.arange(7) / 6  # of six held-out rows


@pytest.mark.parametrize(
    "loss", [nn.L1Loss(), nn.HuberLoss(delta=0.5), F.mse_loss, nn.SmoothL1Loss(), lambda o, y: (o[:, 0] - y) ** 4]
)
def test_a_loaded_run_says_the_loss_it_was_trained_on_or_none(loss, tmp_path):
    run = handful.fit(nn.Linear(6, 1), (X, Y), loss=loss, out=tmp_path / "run", **QUIET)
    loaded = handful.load(tmp_path / "run", model=nn.Linear(6, 1)).evaluate((X, Y))
    named = isinstance(loss, nn.L1Loss | nn.HuberLoss) or loss is F.mse_loss
    assert loaded["loss"] == run.evaluate((X, Y))["loss"] if named else np.isnan(loaded["loss"])
    assert loaded["mae"] == run.evaluate((X, Y))["mae"]
    given = handful.load(tmp_path / "run", model=nn.Linear(6, 1), loss=loss)
    assert given.evaluate((X, Y)) == run.evaluate((X, Y))


def test_batch_normalisation_of_one_row_is_said():
    net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    with pytest.raises(HandfulError, match=r"layer '1' \(BatchNorm1d\).*one row has no spread.*at least 2"):
        handful.fit(net, (X, Y), **QUIET | {"batch": 1})


def test_bce_with_logits_takes_class_ids():
    net = nn.Linear(6, 1)
    run = handful.fit(net, (X, (Y > 0).astype(int)), loss=nn.BCEWithLogitsLoss(), **QUIET)
    assert np.isfinite(run.scores["valid_loss"])


@pytest.mark.parametrize(
    ("model", "data", "loss", "words"),
    [
        (nn.Linear(6, 1), X, lambda o, y: (o - y) ** 2, r"fails without a target.*pass \(x, x\).*loss='model'"),
        (nn.Linear(6, 1), (X, Y), lambda o, y: o @ y[:, :3], r"fails on two rows \(output: float32 \[2, 1\], target"),
        (nn.Linear(6, 1), (X, Y), nn.GaussianNLLLoss(), "GaussianNLLLoss.* fails on two rows"),
        (nn.Linear(6, 3), (X, Y), nn.MSELoss(), "the model gives 3 numbers per row but the target 'y' is one"),
        (nn.Linear(5, 1), (X, Y), nn.MSELoss(), r"the model \(Linear\) fails on a batch of two rows"),
        (nn.Linear(6, 1), (X, Y), nn.Linear, "loss is the class Linear; give an object of it"),
    ],
    ids=["no target", "own loss", "three arguments", "outputs", "inputs", "class"],
)
def test_what_fails_is_named_as_what_it_is(model, data, loss, words):
    with pytest.raises(HandfulError, match=words):
        handful.fit(model, data, loss=loss, **QUIET)


def test_a_run_with_a_plain_loss_of_torchs_resumes_without_it(tmp_path):
    given = QUIET | {"loss": nn.CrossEntropyLoss(), "seed": 3, "schedule": "constant"}
    labels = (Y > 0).astype(int) + (Y > 1)
    make = lambda: torch.manual_seed(0) and nn.Linear(6, 3)
    handful.fit(make(), (X, labels), out=tmp_path / "run", **given)
    longer = handful.resume(tmp_path / "run", model=make(), train=(X, labels), until="steps(5)", quiet=True)
    whole = handful.fit(make(), (X, labels), **given | {"until": "steps(5)"})
    assert longer.plan.choices["loss"].value == "cross_entropy"
    assert torch.equal(longer.model.weight, whole.model.weight)


@pytest.mark.parametrize(
    ("times", "model", "said"),
    [
        (1e6, nn.Linear(6, 1), True),
        (1.0, nn.Linear(6, 1), False),
        (1e6, nn.Sequential(nn.Linear(6, 1), nn.Linear(1, 1).requires_grad_(False)), True),
        (1e-6, nn.Linear(6, 1), False),
    ],
)
def test_numbers_far_from_a_new_model_are_noted(times, model, said):
    plan = handful.fit(model, (X, ((Y + 3) * times).astype(np.float32)), loss="mse", **QUIET).plan
    assert any("divide them by such a number" in note for note in plan.notes) == said

    class Millions(nn.Linear):
        def forward(self, x):
            return super().forward(x) * times + 3 * times

    plan = handful.fit(Millions(6, 1), (X, ((Y + 3) * times).astype(np.float32)), loss="mse", **QUIET).plan
    assert not any("divide them by such a number" in note for note in plan.notes)
    ready = handful.fit("linear", {"x": X, "y": (Y + 3) * times}, target="y", **QUIET).plan
    assert not any("divide them by such a number" in note for note in ready.notes)


@pytest.mark.parametrize(
    ("y", "said"),
    [
        (
            ["a", "b", "c"],
            r"target 'y' is classes \(a, b, c\), and mae compares numbers: leave loss out, or pass [^;]*$",
        ),
        (
            [0, 1, 2],
            r"gives 3 numbers per row but the target 'y' is one: let it give one, or pass loss='cross_entropy'",
        ),
    ],
)
def test_a_loss_of_numbers_for_classes_says_which_fit(y, said):
    data = {"u": X[:30, 0], "v": X[:30, 1], "y": y * 10}
    with pytest.raises(HandfulError, match=said):
        handful.fit(nn.Linear(2, 3), data, target="y", loss="mae", until="steps(1)", quiet=True)


def test_tuples_of_a_collate_function_say_the_way_on():
    class Boxes(torch.utils.data.Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, i):
            return torch.from_numpy(X[i]), {"box": torch.from_numpy(X[i, :2])}

    samples = Boxes()
    given = {"collate": lambda rows: tuple(zip(*rows)), "until": "steps(1)", "quiet": True, "valid": None}
    with pytest.raises(HandfulError, match=r"x is a tuple, as the collate function gives it: .* loss='model'"):
        handful.fit(nn.Linear(6, 1), samples, **given)

    class Apart(nn.Linear):
        def forward(self, x):
            return [super(Apart, self).forward(row) for row in x]

    with pytest.raises(HandfulError, match=r"target is a tuple, as the collate function gives it: .* loss='model'"):
        handful.fit(Apart(6, 1), samples, loss="mse", **given)
    with pytest.raises(HandfulError, match=r"target is a list, as the collate function gives it: .* loss='model'"):
        handful.fit(Apart(6, 1), samples, loss="mse", **given | {"collate": lambda rows: [*map(list, zip(*rows))]})
    with pytest.raises(HandfulError, match=r"returns list, so its loss cannot be guessed.* loss='model'"):
        handful.fit(Apart(6, 1), samples, **given)


def test_a_few_held_out_rows_are_said_to_be_rows():
    run = handful.fit(nn.Linear(6, 1), (X, Y), valid=2, until="steps(1)", quiet=True)
    assert "valid=2 is a number of rows, too few to score well; a share is below 1." in run.plan.notes
