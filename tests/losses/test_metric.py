"""Metrics against scikit-learn, whole and in parts."""

import itertools

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from hypothesis import given
from hypothesis import strategies as st

import handful
from handful.base.errors import HandfulError
from handful.data.base import Batch
from handful.losses.asked import as_metrics
from handful.losses.loss import binary_cross_entropy, cross_entropy, mse
from handful.training.objective import Objective
from handful.training.watch.evaluation import evaluate as evaluate_rows


class Doubles(torch.nn.Identity):
    """The identity in float64."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))


def evaluate(output, target, names, loss, parts=1, weight=None, model=None):
    """Scores of an identity model over the rows cut into `parts` batches."""
    columns = {"x": output, "y": target} | ({} if weight is None else {"weight": weight})
    edges = np.linspace(0, len(output), parts + 1).astype(int)
    spans = [(a, b) for a, b in itertools.pairwise(edges) if b > a]
    batches = [Batch({k: v[a:b] for k, v in columns.items()}, np.arange(a, b)) for a, b in spans]
    return evaluate_rows(Objective(model or torch.nn.Identity(), loss, as_metrics(names)), batches)


@given(st.integers(0, 2**31), st.integers(10, 60), st.integers(1, 7), st.booleans())
def test_classification(seed, n, parts, weighted):
    rng = np.random.default_rng(seed)
    output = torch.from_numpy(rng.normal(size=(n, 4)).astype(np.float32))
    target = torch.from_numpy(np.concatenate([np.arange(4), rng.integers(0, 4, n - 4)]))
    weight = torch.from_numpy(rng.uniform(0.1, 2, n).astype(np.float32)) if weighted else None
    names = "accuracy, top3, f1, balanced_accuracy, auroc, precision, recall, mcc, average_precision"
    scores = evaluate(output, target, names, cross_entropy(), parts, weight)
    w, t, p = (None if weight is None else weight.numpy()), target.numpy(), output.argmax(1).numpy()
    probability = torch.softmax(output.double(), 1).numpy()
    assert scores["accuracy"] == pytest.approx(sk.accuracy_score(t, p, sample_weight=w), rel=1e-5)
    assert scores["top3"] == pytest.approx(sk.top_k_accuracy_score(t, output.numpy(), k=3, sample_weight=w), rel=1e-5)
    assert scores["f1"] == pytest.approx(sk.f1_score(t, p, average="macro", sample_weight=w), rel=1e-6)
    assert scores["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(t, p, sample_weight=w), rel=1e-6)
    one_rest = [sk.roc_auc_score(t == c, probability[:, c], sample_weight=w) for c in range(4)]
    assert scores["auroc"] == pytest.approx(np.mean(one_rest), rel=1e-5)
    by_class = {"average": "macro", "sample_weight": w, "zero_division": 0}
    assert scores["precision"] == pytest.approx(sk.precision_score(t, p, **by_class), rel=1e-6)
    assert scores["recall"] == pytest.approx(sk.recall_score(t, p, **by_class), rel=1e-6)
    assert scores["mcc"] == pytest.approx(sk.matthews_corrcoef(t, p, sample_weight=w), rel=1e-6, abs=1e-9)
    one_rest = [sk.average_precision_score(t == c, probability[:, c], sample_weight=w) for c in range(4)]
    assert scores["average_precision"] == pytest.approx(np.mean(one_rest), rel=1e-5)
    assert scores["loss"] == pytest.approx(sk.log_loss(t, probability, sample_weight=w, labels=range(4)), rel=1e-4)


@given(st.integers(0, 2**31), st.integers(5, 60), st.integers(1, 7), st.integers(1, 3))
def test_regression(seed, n, parts, k):
    rng = np.random.default_rng(seed)
    shape = (n,) if k == 1 else (n, k)
    output, target = (torch.from_numpy(rng.normal(size=shape) * 3 + 5) for _ in range(2))
    # A model without parameters computes in float32, hence the tolerance.
    scores = evaluate(output, target, "mae, mse, rmse, r2", mse(), parts)
    assert scores["mae"] == pytest.approx(sk.mean_absolute_error(target, output), rel=1e-5)
    assert scores["mse"] == pytest.approx(sk.mean_squared_error(target, output), rel=1e-5)
    assert scores["rmse"] == pytest.approx(np.sqrt(sk.mean_squared_error(target, output)), rel=1e-5)
    assert scores["r2"] == pytest.approx(sk.r2_score(target, output), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("offset", [0.0, 1e6, 1e9, -1.7e9])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_regression_far_from_zero(offset, k, weighted):
    """Every metric of numbers as scikit-learn has it in float64, its own functions on all rows included."""
    rng = np.random.default_rng(3)
    target = rng.normal(size=(500, k)) + offset
    output = target + 0.2 * rng.normal(size=(500, k))
    w = rng.uniform(0.1, 2, 500) if weighted else None
    named = ["mae", "mse", "rmse", "r2"]
    columns = [torch.from_numpy(v) for v in (output, target, *([] if w is None else [w]))]
    for parts in (1, 7):
        scores = evaluate(*columns[:2], [*named, sk.r2_score, sk.median_absolute_error], mse(), parts, *columns[2:],
                          model=Doubles())  # fmt: skip
        of = {"y_true": target, "y_pred": output, "sample_weight": w}
        wanted = {
            "mae": sk.mean_absolute_error(**of), "mse": sk.mean_squared_error(**of), "r2": sk.r2_score(**of),
            "rmse": np.sqrt(sk.mean_squared_error(**of)), "r2_score": sk.r2_score(**of),
            "median_absolute_error": sk.median_absolute_error(**of),
        }  # fmt: skip
        assert {name: scores[name] for name in wanted} == pytest.approx(wanted, rel=1e-9)


def test_r2_where_it_is_special():
    """One output that does not vary, one row, no error at all: as scikit-learn's."""
    rng = np.random.default_rng(4)
    two = np.stack([rng.normal(size=50) + 1e9, np.full(50, 0.5)], 1)  # of 0.1 the mean of 50 is not 0.1
    for output in (two + 0.1, two + np.array([0.1, 0.0]), two):
        scores = evaluate(torch.from_numpy(output), torch.from_numpy(two), "r2", mse(), 3, model=Doubles())
        assert scores["r2"] == pytest.approx(sk.r2_score(two, output), rel=1e-9)
    assert np.isnan(evaluate(torch.zeros(1), torch.ones(1), "r2", mse())["r2"])
    lost = evaluate(torch.tensor([1.0, np.nan, 3.0]), torch.tensor([1.0, 2.0, 4.0]), "r2, mae", mse(), 2)
    assert np.isnan(lost["r2"])
    assert np.isnan(lost["mae"])


def test_r2_of_training_far_from_zero():
    """The history's r2, from sums over steps, with the ready-made model and one of the caller's own."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(400, 3))
    y = 1.7e9 + x @ [1.0, -2.0, 0.5] + 0.3 * rng.normal(size=400)
    options = {
        "valid": 0,
        "batch": 50,
        "lr": 1e-12,
        "optimizer": "sgd",
        "until": "epochs(1)",
        "evaluate_every": 1,
        "quiet": True,
    }
    own = torch.nn.Linear(3, 1).double()
    with torch.no_grad():
        own.weight.copy_(torch.tensor([[1.0, -2.0, 0.5]]))
        own.bias.fill_(1.7e9)
    run = handful.fit(own, (x, y), metrics="r2, mae", **options)
    for row in run.history:  # 8 steps of 50 rows, one row of the history each
        assert 0.9 < row["train_r2"] < 1
    wanted = sk.r2_score(y, own(torch.from_numpy(x)).detach().numpy())
    assert run.evaluate((x, y))["r2"] == pytest.approx(wanted, rel=1e-9)
    run = handful.fit("linear", (x, y), **options | {"lr": 0.05, "until": "epochs(30)"})
    assert run.history[-1]["train_r2"] > 0.9
    assert run.evaluate((x, y))["r2"] == pytest.approx(sk.r2_score(y, run.predict((x, y))), rel=1e-6)


def test_auroc_of_certain_models():
    """Logits past 40, whose probabilities round to 1, are still told apart."""
    rng = np.random.default_rng(6)
    logit, target = rng.normal(size=300) * 5 + 60, rng.integers(0, 2, 300)
    logit += target * 4
    found = evaluate(
        torch.from_numpy(logit), torch.from_numpy(target), "auroc", binary_cross_entropy(), model=Doubles()
    )
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(target, logit))
    both = torch.from_numpy(np.stack([np.zeros(300), logit], 1))
    assert evaluate(both, torch.from_numpy(target), "auroc", cross_entropy(), model=Doubles())[
        "auroc"
    ] == pytest.approx(sk.roc_auc_score(target, logit))


def test_numbers_of_other_shapes_are_not_compared():
    with pytest.raises(HandfulError, match="the model gives 2 numbers per row and the target holds 1"):
        evaluate(torch.zeros(4, 2), torch.zeros(4), "mae", lambda o, t: o.mean(1))


def test_binary_by_one_logit_and_by_two_agree():
    rng = np.random.default_rng(0)
    logit, target = torch.from_numpy(rng.normal(size=200)), torch.from_numpy(rng.integers(0, 2, 200))
    one = evaluate(logit, target, "accuracy, f1, auroc, calibration_error", binary_cross_entropy(), 3)
    two = evaluate(
        torch.stack([-logit / 2, logit / 2], 1), target, "accuracy, f1, auroc, calibration_error", cross_entropy(), 2
    )
    for name in one:
        assert one[name] == pytest.approx(two[name], rel=1e-6)


def test_calibration_error_by_its_definition():
    rng = np.random.default_rng(1)
    output, target = torch.from_numpy(rng.normal(size=(500, 3)) * 2), torch.from_numpy(rng.integers(0, 3, 500))
    p = torch.softmax(output, 1).numpy()
    confidence, right = p.max(1), p.argmax(1) == target.numpy()
    expected = 0.0
    for k in range(15):
        inside = (confidence >= k / 15) & (confidence < (k + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert evaluate(output, target, "calibration_error", cross_entropy())["calibration_error"] == pytest.approx(
        expected, rel=1e-6
    )


def test_a_callable_gets_all_rows_at_once():
    output, target = torch.arange(10.0), torch.arange(10.0) + 1
    scores = evaluate(output, target, lambda o, t: float(np.median(t - o)) + len(o), mse(), 4)
    assert scores["metric"] == 11


def test_functions_of_scikit_learn_get_what_they_are_for():
    rng = np.random.default_rng(2)
    logits, ids = torch.from_numpy(rng.normal(size=(80, 3))), torch.from_numpy(rng.integers(0, 3, 80))
    weight = torch.from_numpy(rng.uniform(0.1, 2, 80))
    found, shares = logits.argmax(1), torch.softmax(logits.float().double(), 1).numpy()
    of_classes = [sk.cohen_kappa_score, sk.matthews_corrcoef, sk.log_loss, sk.top_k_accuracy_score]
    scores = evaluate(logits, ids, of_classes, cross_entropy(), 3, weight)
    assert scores["cohen_kappa_score"] == pytest.approx(sk.cohen_kappa_score(ids, found, sample_weight=weight))
    assert scores["matthews_corrcoef"] == pytest.approx(sk.matthews_corrcoef(ids, found, sample_weight=weight))
    assert scores["log_loss"] == pytest.approx(sk.log_loss(ids, shares, sample_weight=weight), rel=1e-5)
    assert scores["top_k_accuracy_score"] == pytest.approx(sk.top_k_accuracy_score(ids, shares, sample_weight=weight))
    two, yes = (
        evaluate(logits[:, :2], ids % 2, [sk.average_precision_score, sk.brier_score_loss], cross_entropy()),
        ids % 2,
    )
    second = torch.softmax(logits[:, :2].float().double(), 1)[:, 1].numpy()
    assert two["average_precision_score"] == pytest.approx(sk.average_precision_score(yes, second), rel=1e-5)
    assert two["brier_score_loss"] == pytest.approx(sk.brier_score_loss(yes, second), rel=1e-5)
    numbers = logits[:, 0] + 4
    one = evaluate(logits[:, 1:2] + 4, numbers, [sk.median_absolute_error, sk.mean_absolute_percentage_error], mse(), 2)
    assert one["median_absolute_error"] == pytest.approx(sk.median_absolute_error(numbers, logits[:, 1] + 4), rel=1e-5)
    several = evaluate(logits, (logits > 0.3).float(), [sk.hamming_loss, sk.roc_auc_score], mse(), 2)
    assert several["hamming_loss"] == pytest.approx(sk.hamming_loss(logits > 0.3, logits > 0))
    assert several["roc_auc_score"] == 1


def test_f1_of_labels_leaves_out_those_that_neither_occur_nor_are_predicted():
    rng = np.random.default_rng(3)
    target = torch.from_numpy((rng.random((60, 4)) < 0.4).astype(np.float32))
    output = torch.from_numpy(rng.normal(size=(60, 4)))
    target[:, 2], output[:, 2] = 0, -1
    kept = [0, 1, 3]
    expected = sk.f1_score(target[:, kept] > 0.5, output[:, kept] > 0, average="macro")
    assert evaluate(output, target, "f1", mse(), 3)["f1"] == pytest.approx(expected)
    assert np.isnan(evaluate(output[:, 2:3], target[:, 2:3], "f1", mse())["f1"])
    expected = sk.f1_score(target[:, 1] > 0.5, output[:, 1] > 0)  # one that is left is no question of two classes
    assert evaluate(output[:, 1:3], target[:, 1:3], "f1", mse(), 3)["f1"] == pytest.approx(expected)


def test_a_metric_that_fails_is_named():
    output, target = torch.arange(10.0), torch.arange(10.0)
    with pytest.raises(HandfulError, match=r"metric confusion_matrix fails on outputs and targets \[10\] and \[10\]"):
        evaluate(output, target.long() % 2, sk.confusion_matrix, mse())


def test_an_unknown_metric():
    with pytest.raises(HandfulError, match="Did you mean 'auroc'"):
        as_metrics("auroc2")


@given(st.integers(0, 2**31), st.booleans(), st.booleans())
def test_classes_of_pixels(seed, first, weighted):
    rng = np.random.default_rng(seed)
    output = torch.from_numpy(rng.normal(size=(7, 3, 4, 5)).astype(np.float32))
    ids = rng.integers(0, 3, (7, 4, 5))
    ids[0, 0, :3] = range(3)
    ids[rng.random(ids.shape) < 0.1] = -100
    weight = torch.from_numpy(rng.uniform(0.1, 2, 7).astype(np.float32)) if weighted else None
    given_output = output if first else output.permute(0, 2, 3, 1).contiguous()
    names = "f1, iou, recall, mcc, auroc"
    metrics = {m.name: m for m in as_metrics(names)}
    w = None if weight is None else weight.numpy()
    scores = {name: m.whole(given_output.numpy(), ids, w) for name, m in metrics.items()}
    none = np.full_like(ids, -100)
    assert all(np.isnan(m.whole(given_output.numpy(), none, w)) for m in metrics.values())
    kept = ids != -100
    t, p, each = (
        ids[kept],
        output.argmax(1).numpy()[kept],
        None if w is None else np.repeat(w, 20).reshape(ids.shape)[kept],
    )
    by_class = {"average": "macro", "sample_weight": each}
    assert scores["f1"] == pytest.approx(sk.f1_score(t, p, **by_class))
    assert scores["iou"] == pytest.approx(sk.jaccard_score(t, p, **by_class))
    assert scores["recall"] == pytest.approx(sk.recall_score(t, p, **by_class))
    assert scores["mcc"] == pytest.approx(sk.matthews_corrcoef(t, p, sample_weight=each), abs=1e-9)
    shares = torch.softmax(output.double(), 1).permute(0, 2, 3, 1).numpy()[kept]
    of_each = [sk.roc_auc_score(t == c, shares[:, c], sample_weight=each) for c in range(3)]
    assert scores["auroc"] == pytest.approx(np.mean(of_each))


@given(st.integers(0, 2**31), st.booleans(), st.booleans())
def test_shares_of_right_places(seed, first, weighted):
    """Accuracy, the k best and perplexity of tokens and pixels, as scikit-learn has them of the places one by one."""
    rng = np.random.default_rng(seed)
    output, ids = torch.from_numpy(rng.normal(size=(6, 5, 3, 4))), rng.integers(0, 5, (6, 3, 4))
    ids[0, 0], ids[0, 1, 0] = -100, 4
    weight = torch.from_numpy(rng.uniform(0.1, 2, 6)) if weighted else None
    given_output = output if first else output.permute(0, 2, 3, 1).contiguous()
    scores = evaluate(given_output, torch.from_numpy(ids), "accuracy, top3, perplexity", nothing, 2, weight)
    kept = ids != -100
    each = None if weight is None else np.repeat(weight.numpy(), 12).reshape(ids.shape)[kept]
    logits = output.permute(0, 2, 3, 1).numpy()[kept]
    true, shares = ids[kept], torch.softmax(torch.from_numpy(logits).float().double(), 1).numpy()
    every = {"labels": range(5), "sample_weight": each}
    assert scores["accuracy"] == pytest.approx(sk.accuracy_score(true, logits.argmax(1), sample_weight=each))
    assert scores["top3"] == pytest.approx(sk.top_k_accuracy_score(true, logits, k=3, **every))
    assert scores["perplexity"] == pytest.approx(np.exp(sk.log_loss(true, shares, **every)), rel=1e-5)


def nothing(output, target):
    return output.flatten(1).mean(1) * 0


def test_the_best_of_one_logit_are_those_of_two():
    rng = np.random.default_rng(4)
    logit, target = torch.from_numpy(rng.normal(size=80)), torch.from_numpy(rng.integers(0, 2, 80))
    one = evaluate(logit[:, None], target, "perplexity, top3", binary_cross_entropy(), 3)
    two = evaluate(torch.stack([-logit / 2, logit / 2], 1), target, "perplexity, top3", cross_entropy(), 2)
    assert one == pytest.approx(two, rel=1e-6)


@given(st.integers(0, 2**31), st.booleans(), st.booleans())
def test_labels_of_pixels(seed, several, weighted):
    """One yes or no a pixel is one label over all pixels; of several each is one."""
    rng = np.random.default_rng(seed)
    output, true = rng.normal(size=(5, 2, 3, 4)), rng.random((5, 2, 3, 4)) < 0.4
    true[0, :, 0, :2] = True, False
    weight = torch.from_numpy(rng.uniform(0.1, 2, 5)) if weighted else None
    if not several:
        output, true = output[:, 0], true[:, 0]
    target = torch.from_numpy(true.astype(np.float32))
    scores = evaluate(torch.from_numpy(output), target, "iou, auroc", mse(), 2, weight)
    o, t = (np.moveaxis(v.reshape(5, -1, 12), 1, 2).reshape(60, -1) for v in (output, true))
    each = None if weight is None else np.repeat(weight.numpy(), 12)
    iou = [sk.jaccard_score(t[:, k], o[:, k] > 0, sample_weight=each) for k in range(t.shape[1])]
    auroc = [sk.roc_auc_score(t[:, k], o[:, k], sample_weight=each) for k in range(t.shape[1])]
    assert scores["iou"] == pytest.approx(np.mean(iou))
    assert scores["auroc"] == pytest.approx(np.mean(auroc))


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("name", ["f1", "precision", "recall", "iou"])
def test_a_single_yes_or_no_in_floats_is_a_label_in_any_shape(name, shape):
    draw = np.random.default_rng(0)
    y, x = (draw.random(60) < 0.3).astype(np.float32), draw.normal(size=(60, 2)).astype(np.float32)
    torch.manual_seed(2)  # a model that says yes to some rows: else precision has no value
    run = handful.fit(
        torch.nn.Linear(2, 1), (x, y.reshape(shape)), metrics=[name], until="steps(3)", lr=0.1, quiet=True
    )
    wanted = getattr(sk, {"iou": "jaccard_score"}.get(name, f"{name}_score"))(y, np.ravel(run.predict(x)).astype(int))
    assert run.evaluate((x, y.reshape(shape)))[name] == pytest.approx(wanted)
