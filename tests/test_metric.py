"""Metrics against scikit-learn, whole and in parts."""

import itertools

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from hypothesis import given
from hypothesis import strategies as st

from handful.errors import HandfulError
from handful.loss import cross_entropy, mse
from handful.metric import as_metrics
from handful.objective import Objective
from handful.source.base import Batch


def evaluate(output, target, names, loss, parts=1, weight=None):
    """Scores of an identity model over the rows cut into `parts` batches."""
    columns = {"x": output, "y": target} | ({} if weight is None else {"weight": weight})
    edges = np.linspace(0, len(output), parts + 1).astype(int)
    spans = [(a, b) for a, b in itertools.pairwise(edges) if b > a]
    batches = [Batch({k: v[a:b] for k, v in columns.items()}, np.arange(a, b)) for a, b in spans]
    return Objective(torch.nn.Identity(), loss, as_metrics(names)).evaluate(batches)


@given(st.integers(0, 2**31), st.integers(10, 60), st.integers(1, 7), st.booleans())
def test_classification(seed, n, parts, weighted):
    rng = np.random.default_rng(seed)
    output = torch.from_numpy(rng.normal(size=(n, 4)).astype(np.float32))
    target = torch.from_numpy(np.concatenate([np.arange(4), rng.integers(0, 4, n - 4)]))
    weight = torch.from_numpy(rng.uniform(0.1, 2, n).astype(np.float32)) if weighted else None
    scores = evaluate(output, target, "accuracy, top3, f1, balanced_accuracy, auroc", cross_entropy(), parts, weight)
    w, t, p = (None if weight is None else weight.numpy()), target.numpy(), output.argmax(1).numpy()
    probability = torch.softmax(output.double(), 1).numpy()
    assert scores["accuracy"] == pytest.approx(sk.accuracy_score(t, p, sample_weight=w), rel=1e-5)
    assert scores["top3"] == pytest.approx(sk.top_k_accuracy_score(t, output.numpy(), k=3, sample_weight=w), rel=1e-5)
    assert scores["f1"] == pytest.approx(sk.f1_score(t, p, average="macro", sample_weight=w), rel=1e-6)
    assert scores["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(t, p, sample_weight=w), rel=1e-6)
    one_rest = [sk.roc_auc_score(t == c, probability[:, c], sample_weight=w) for c in range(4)]
    assert scores["auroc"] == pytest.approx(np.mean(one_rest), rel=1e-5)
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


def test_binary_by_one_logit_and_by_two_agree():
    rng = np.random.default_rng(0)
    logit, target = torch.from_numpy(rng.normal(size=200)), torch.from_numpy(rng.integers(0, 2, 200))
    from handful.loss import binary_cross_entropy

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


def test_an_unknown_metric():
    with pytest.raises(HandfulError, match="Did you mean 'auroc'"):
        as_metrics("auroc2")
