"""A class for each pixel or token, with models of one's own."""

from collections import OrderedDict, namedtuple

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import handful
from handful.base.errors import HandfulError
from handful.losses.loss import class_axis
from handful.runs.predict import write_predictions

RNG = np.random.default_rng(0)
PICTURES = RNG.normal(size=(90, 3, 8, 6)).astype(np.float32)
MASKS = (PICTURES.sum(1) > 0).astype(np.int64) + (PICTURES[:, 0] > 1)  # three classes
IDS = RNG.integers(1, 20, (120, 7))
GIVEN = {"batch": 16, "lr": 0.02, "until": "epochs(8)", "quiet": True}


def pixels(outputs):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 12, 1), nn.ReLU(), nn.Conv2d(12, outputs, 1))


class Frames(nn.Module):
    """[m, T] -> [m, T', 4]: scores of labels for frames that are not the target's positions."""

    def __init__(self):
        super().__init__()
        self.embedding, self.out = nn.Embedding(20, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.out(self.embedding(x)).repeat(1, 2, 1)


@pytest.mark.parametrize(
    ("output", "target", "axis"),
    [
        ((8, 21, 32, 16), (8, 32, 16), 1),
        ((8, 32, 16, 21), (8, 32, 16), -1),
        ((8, 5, 5, 5), (8, 5, 5), 1),
        ((8, 40, 9), (8, 40), -1),
        ((8, 9, 40), (8, 40), 1),
        ((8, 9, 9), (8, 9), -1),
        ((8, 1, 32, 16), (8, 32, 16), None),
        ((8, 10), (8,), None),
        ((8, 10), (8, 10), None),
        ((8, 21, 16, 32), (8, 32, 16), None),
    ],
)
def test_where_the_classes_stand(output, target, axis):
    assert class_axis(output, target) == axis


@pytest.mark.parametrize("loss", ["auto", "cross_entropy", nn.CrossEntropyLoss(), F.cross_entropy])
def test_pixels_are_classified_as_by_a_loop_of_torchs_own(loss):
    net, reference = pixels(3), pixels(3)
    run = handful.fit(net, (PICTURES, MASKS), loss=loss, valid=None, batch=90, optimizer="sgd", lr=0.1,
                      schedule="constant", until="steps(5)", shuffle="none", quiet=True)  # fmt: skip
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(reference(torch.from_numpy(PICTURES)), torch.from_numpy(MASKS)).backward()
        optimizer.step()
    for ours, other in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-6)
    assert run.plan.choices["task"].value == "classification"
    predicted = run.predict(PICTURES)
    with torch.no_grad():
        assert np.array_equal(predicted, net(torch.from_numpy(PICTURES)).argmax(1).numpy())
    assert run.evaluate((PICTURES, MASKS))["accuracy"] == pytest.approx((predicted == MASKS).mean())
    shares = run.predict(PICTURES, probabilities=True)
    assert shares.shape == (90, 3, 8, 6)
    torch.testing.assert_close(shares.sum(1), torch.ones(90, 8, 6, dtype=torch.float64))


def test_pixels_that_are_ignored_count_neither_in_the_loss_nor_in_the_accuracy(tmp_path):
    masks = MASKS.copy()
    masks[:, :3] = 255
    with pytest.raises(HandfulError, match=r"ids up to 255, and the model scores 3 classes.*ignore_index"):
        handful.fit(pixels(3), (PICTURES, masks), **GIVEN)
    weight = torch.tensor([1.0, 2.0, 0.5])
    loss = nn.CrossEntropyLoss(weight=weight, ignore_index=255)
    run = handful.fit(pixels(3), (PICTURES, masks), loss=loss, out=tmp_path / "run", **GIVEN)
    scores, output = run.evaluate((PICTURES, masks)), run.outputs(PICTURES)
    kept = masks != 255
    assert scores["accuracy"] == pytest.approx((output.argmax(1).numpy()[kept] == masks[kept]).mean())
    assert scores["loss"] == pytest.approx(loss(output, torch.from_numpy(masks)).item(), rel=1e-5)
    assert run.evaluation_report((PICTURES, masks)).exists()


class Heads(nn.Module):
    """Two scores of every pixel, as a segmentation network with an auxiliary head gives them."""

    def __init__(self, form):
        super().__init__()
        self.main, self.aside, self.form = pixels(3), pixels(3), form

    def forward(self, x):
        return self.form(self.main(x), self.aside(x))


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
@pytest.mark.parametrize(
    ("form", "parts"),
    [
        (lambda out, aux: OrderedDict(out=out, aux=aux), lambda o: (o["out"], o["aux"])),
        (namedtuple("Scores", "out aux"), lambda o: (o.out, o.aux)),
        (lambda out, aux: (out, aux), lambda o: o),
    ],
)
def test_scores_in_several_parts_classify_pixels_for_a_loss_of_ones_own(form, parts, dtype):
    masks = MASKS.copy()
    masks[:, :3] = 255
    kept = masks != 255

    def loss(output, target):
        out, aux = (F.cross_entropy(part, target.long(), ignore_index=255) for part in parts(output))
        return out + 0.4 * aux

    run = handful.fit(Heads(form), (PICTURES, masks.astype(dtype)), loss=loss, **GIVEN)
    with torch.no_grad():
        predicted = run.model.main(torch.from_numpy(PICTURES)).argmax(1).numpy()
    assert np.array_equal(run.predict(PICTURES), predicted.astype(dtype))
    assert run.predict(PICTURES).dtype == dtype
    assert run.evaluate((PICTURES, masks.astype(dtype)))["accuracy"] == pytest.approx((predicted == masks)[kept].mean())


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float32"])
@pytest.mark.parametrize("shape", [(8, 6), (1, 8, 6)])
def test_one_output_a_pixel_says_yes_or_no(dtype, shape, tmp_path):
    masks = (PICTURES.sum(1) > 0).reshape(90, *shape).astype(dtype)
    run = handful.fit(pixels(1), (PICTURES, masks), out=tmp_path / "run", **GIVEN)
    assert run.plan.choices["loss"].value == "binary_cross_entropy"
    predicted = run.predict(PICTURES)
    assert (predicted.shape, predicted.dtype) == (masks.shape, masks.dtype)
    assert run.evaluate((PICTURES, masks))["label_accuracy"] == pytest.approx((predicted == masks).mean())
    assert run.evaluation_report((PICTURES, masks)).exists()


def test_two_outputs_a_pixel_are_two_classes_of_a_mask_of_bytes():
    masks = (PICTURES.sum(1) > 0).astype(np.uint8)
    run = handful.fit(pixels(2), (PICTURES, masks), **GIVEN)
    assert run.plan.choices["loss"].value == "cross_entropy"
    assert run.predict(PICTURES[:2]).dtype == np.uint8


def test_tokens_are_tagged_and_padding_left_out():
    tags = IDS % 3
    tags[:, 5:] = -100
    net = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 3))
    run = handful.fit(net, (IDS, tags), **GIVEN | {"until": "epochs(20)"})
    assert (run.plan.choices["task"].value, run.plan.choices["loss"].value) == ("classification", "token_cross_entropy")
    kept = tags != -100
    assert run.evaluate((IDS, tags))["accuracy"] == pytest.approx((run.predict(IDS)[kept] == tags[kept]).mean())


def test_labels_without_times_are_still_ctc_and_counts_are_numbers():
    labels = np.tile([1, 2, 3, 0, 0, 0, 0], (120, 1))
    assert handful.fit(Frames(), (IDS, labels), **GIVEN).plan.choices["task"].value == "sequence"
    counts = RNG.poisson(3, (120, 3))
    run = handful.fit(nn.Linear(7, 3), (IDS.astype(np.float32), counts), **GIVEN)
    assert (run.plan.choices["task"].value, run.plan.choices["loss"].value) == ("regression", "mse")


def test_places_that_do_not_match_are_said():
    with pytest.raises(HandfulError, match="needs"):
        handful.fit(pixels(3)[:1], (PICTURES, np.repeat(MASKS, 2, axis=2)), task="classification", **GIVEN)


def test_rows_of_numbers_of_different_lengths_are_padded_for_an_own_model(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(4, 2)

        def forward(self, x):
            assert x.shape[2:] == (4,)
            return self.out(x.sum(1))

    rows = [RNG.normal(size=(int(n), 4)).astype(np.float32) for n in RNG.integers(1, 9, 60)]
    labels = np.array([int(row.sum() > 0) for row in rows])
    torch.manual_seed(0)
    run = handful.fit(Net(), {"x": rows, "y": labels}, target="y", out=tmp_path / "run", **GIVEN)
    assert run.pipeline.shape == (None, 4)
    assert any("padded with 0" in note for note in run.plan.notes)
    out = run.outputs({"x": rows})
    alone = torch.cat([run.model.eval()(torch.from_numpy(row)[None]) for row in rows])
    torch.testing.assert_close(out, alone.detach(), rtol=1e-5, atol=1e-5)
    loaded = handful.load(tmp_path / "run", model=Net())
    assert loaded.evaluate({"x": rows, "y": labels}) == run.evaluate({"x": rows, "y": labels})
    with pytest.raises(HandfulError, match="different lengths"):
        handful.fit("mlp", {"x": rows, "y": labels}, target="y", **GIVEN)


class Convolved(nn.Module):
    """Scores [m, classes, T] of the places of a row, as convolutions give them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.e, self.c = nn.Embedding(20, 8, padding_idx=0), nn.Conv1d(8, 4, 3, padding=1)

    def forward(self, x):
        return self.c(self.e(x).transpose(1, 2))


def tagged(n=600):
    """Rows of 2 to 9 ids, those of the first 512 shorter, and a class for each place, of which some do not count."""
    rng = np.random.default_rng(0)
    ids = [torch.tensor(rng.integers(1, 20, int(rng.integers(2, 6 if k < 512 else 10)))) for k in range(n)]
    ids[:2] = [ids[0][:2].repeat(2), ids[1][:2].repeat(2)]  # the first rows are as long as there are classes
    return ids, [torch.where(torch.tensor(rng.random(len(row)) < 0.8), row % 4, -100) for row in ids]


@pytest.mark.parametrize("loss", ["auto", nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1)])
def test_classes_before_the_places_of_rows_that_differ_in_length(loss, tmp_path):
    ids, tags = tagged()
    data = {"x": [row.tolist() for row in ids], "tags": [row.tolist() for row in tags]}
    model, twin, pad = Convolved().double(), Convolved().double(), nn.utils.rnn.pad_sequence
    how = {"optimizer": "sgd", "l2": 0, "schedule": "constant", "valid": None, "batch": 32, "lr": 0.5}
    run = handful.fit(model, data, target="tags", loss=loss, micro_batch=5, until="steps(40)", quiet=True, **how)
    optimizer, order = torch.optim.SGD(twin.parameters(), lr=0.5), handful.Order(len(ids), seed=0)
    for k in range(40):
        rows = order[32 * k : 32 * k + 32].tolist()
        y = pad([tags[row] for row in rows], batch_first=True, padding_value=-100)
        optimizer.zero_grad()
        due = nn.CrossEntropyLoss() if loss == "auto" else loss
        due(twin(pad([ids[row] for row in rows], batch_first=True)), y).backward()
        optimizer.step()
    torch.testing.assert_close(model.c.weight, twin.c.weight, rtol=1e-9, atol=1e-11)
    with torch.no_grad():
        found = [twin(row[None])[0].argmax(0) for row in ids]
    assert [row.tolist() for row in run.predict({"x": data["x"]})] == [row.tolist() for row in found]
    judge = run.as_function()
    assert [judge({"x": row.tolist()}) for row in ids[:9]] == [row.tolist() for row in found[:9]]
    right = sum(int((f == t).sum()) for f, t in zip(found, tags, strict=True))
    assert run.evaluate(data)["accuracy"] == pytest.approx(right / sum(int((t >= 0).sum()) for t in tags))
    for name in ("p.csv", "p.parquet"):
        write_predictions(run, {"x": data["x"]}, tmp_path / name)
        read = pd.read_csv(tmp_path / name) if name == "p.csv" else pd.read_parquet(tmp_path / name)
        assert read["prediction"].tolist() == [" ".join(map(str, row.tolist())) for row in found]


def test_a_square_of_scores_is_read_as_the_loss_reads_it():
    x = torch.randint(1, 20, (60, 4), generator=torch.Generator().manual_seed(0))
    how = {"batch": 20, "lr": 0.1, "until": "steps(30)", "quiet": True, "valid": None}
    run = handful.fit(Convolved(), (x, x % 4), loss=nn.CrossEntropyLoss(), **how)
    with torch.no_grad():
        found = run.model(x).argmax(1)
    assert run.evaluate((x, x % 4))["accuracy"] == pytest.approx(float((found == x % 4).double().mean()))
    assert run.predict(x).tolist() == found.tolist()
    reason = handful.fit(Convolved(), (x, x % 4), **how).plan.choices["loss"].reason
    assert reason.endswith("loss=torch.nn.CrossEntropyLoss() where they are the first")


WEIGHTS = [1.0, 2.0, 0.5, 3.0]


@pytest.mark.parametrize(
    "given",
    [{"label_smoothing": 0.1, "class_weight": WEIGHTS}, {"loss": "cross_entropy(label_smoothing=0.1)"},
     {"loss": nn.CrossEntropyLoss(weight=torch.tensor(WEIGHTS), ignore_index=-100)}],
)  # fmt: skip
def test_scores_behind_the_places_are_smoothed_and_weighed_as_torch_does(given, tmp_path):
    ids, tags = tagged(90)
    data = {"x": [row.tolist() for row in ids], "tags": [row.tolist() for row in tags]}
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 4)).double()
    run = handful.fit(model, data, target="tags", until="steps(3)", batch=30, lr=0.1, out=tmp_path / "r", quiet=True,
                      valid=None, **given)  # fmt: skip
    weight = None if isinstance(given.get("loss"), str) else torch.tensor(WEIGHTS).double()
    smoothing = 0.0 if isinstance(given.get("loss"), nn.Module) else 0.1
    due = F.cross_entropy(
        model(torch.cat(ids)).detach(), torch.cat(tags), weight, label_smoothing=smoothing, reduction="sum"
    )
    counted = torch.cat(tags)[torch.cat(tags) >= 0]
    due = float(due) / (len(counted) if weight is None else float(weight[counted].sum()))
    assert run.evaluate(data)["loss"] == pytest.approx(due, rel=1e-6)
    if "loss" not in given or isinstance(given["loss"], str):
        assert handful.load(tmp_path / "r", model=model).evaluate(data)["loss"] == pytest.approx(due, rel=1e-6)
