"""Metrics in every form in which a caller may have them: over the whole set, and which way is better."""

from functools import partial

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from torch import Tensor, nn

import handful
from handful.base.errors import HandfulError
from handful.losses.asked import as_metrics
from handful.losses.metric import NAMED

RNG = np.random.default_rng(0)
X = RNG.normal(size=(700, 4)).astype(np.float32)
Y = (X[:, 0] + 0.5 * RNG.normal(size=700) > 0).astype(np.int64)
Z = X @ np.array([1.0, 2.0, 0.0, -1.0]) + 1e3
QUICK = {"batch": 32, "lr": 0.02, "until": "epochs(2)", "quiet": True}


class Hits:
    """What torchmetrics' objects do: batches are added up, and read at the end."""

    higher_is_better = True

    def __init__(self):
        self.reset()

    def reset(self):
        self.right = self.count = 0

    def update(self, preds: Tensor, target: Tensor):
        if preds.shape != target.shape:
            raise ValueError(f"shapes {preds.shape} and {target.shape}")
        self.right += int(((preds > 0.5) == target.bool()).sum())
        self.count += len(target)

    def compute(self):
        return torch.tensor(self.right / self.count)


def by_tensor(outputs, targets):
    return (outputs.argmax(dim=1) == targets).float().mean()


def by_array(outputs, targets):
    return np.mean(outputs.argmax(axis=1) == targets)


@pytest.mark.parametrize(
    ("metrics", "name"),
    [
        ({"accuracy": by_array}, "accuracy"),
        ({"hits": by_tensor}, "hits"),
        ([lambda o, t: (o.argmax(1) == t).mean()], "metric"),
        ([lambda o, t: (o.argmax(1) == t).float().mean()], "metric"),
        (by_tensor, "by_tensor"),
        (sk.accuracy_score, "accuracy_score"),
        ({"mine": partial(sk.recall_score, average="micro")}, "mine"),
        (partial(sk.f1_score, average="micro"), "f1_score"),
        (Hits(), "hits"),
        ({"mine": Hits()}, "mine"),
        ({"mine": "accuracy"}, "mine"),
    ],
)
def test_each_form_is_the_accuracy_of_the_whole_set(metrics, name):
    """More than 512 rows: a mean of batches' means would differ."""
    run = handful.fit(nn.Linear(4, 2), (X, Y), metrics=metrics, valid=(X, Y), **QUICK)
    right = float((run.predict(X) == Y).mean())
    assert run.scores[f"valid_{name}"] == pytest.approx(right, abs=1e-6)
    assert run.evaluate((X, Y))[name] == pytest.approx(right, abs=1e-6)
    assert handful.fit("linear", (X, Y), **QUICK).evaluate((X, Y), metrics)[name] > 0.5


def test_a_dict_is_not_the_named_metric():
    run = handful.fit(nn.Linear(4, 2), (X, Y), metrics={"accuracy": lambda o, t: 0.123}, **QUICK)
    assert run.scores["valid_accuracy"] == 0.123


def test_one_output_is_compared_row_by_row():
    """Outputs [n, 1] and a target [n] do not spread to [n, n]; in the user's units, far from zero too."""
    for error in (lambda o, t: abs(o - t).mean(), lambda o, t: ((o[:, 0] - t) ** 2).mean()):
        run = handful.fit("linear", (X, Z), metrics={"error": error}, **QUICK)
        power = 1 if error(np.array([[3.0]]), np.array([1.0])) == 2 else 2
        expected = float((np.abs(run.predict(X) - Z) ** power).mean())
        assert run.evaluate((X, Z))["error"] == pytest.approx(expected, rel=1e-4)


def test_row_weights_are_passed_where_they_are_asked_for():
    def weighed(outputs, targets, sample_weight=None):
        return np.average(outputs.argmax(1) == targets, weights=sample_weight)

    w = RNG.uniform(0.1, 3, len(Y))
    data = {**{f"x{k}": X[:, k] for k in range(4)}, "y": Y, "w": w}
    run = handful.fit("linear", data, target="y", weight="w", metrics=[weighed, "accuracy"], **QUICK)
    scores = run.evaluate(data)
    assert scores["weighed"] == pytest.approx(scores["accuracy"], rel=1e-5)
    assert scores["weighed"] != pytest.approx(float((run.predict(data) == Y).mean()), rel=1e-5)


def test_which_way_is_better_is_found_or_asked_for():
    def fit(**given):
        torch.manual_seed(0)
        return handful.fit(nn.Linear(4, 2), (X, Y), **QUICK | given)

    assert (run := fit(metrics=Hits())).plan.score == "valid_hits"
    assert run.plan.better == "higher"
    assert fit(metrics=sk.matthews_corrcoef).plan.score == "valid_matthews_corrcoef"
    assert fit(metrics={"hits": by_array}).plan.score == "valid_loss"
    assert "better='higher' takes it" in fit(metrics={"hits": by_array}).plan.choices["score"].reason
    with pytest.raises(HandfulError, match="set better='higher' or 'lower'"):
        fit(metrics={"hits": by_array}, score="valid_hits")
    with pytest.raises(HandfulError, match="better must be 'higher', 'lower', or 'auto', not 'up'"):
        fit(better="up")
    for better, best in (("higher", max), ("lower", min)):
        run = fit(metrics={"hits": by_array}, score="valid_hits", better=better)
        values = [row["valid_hits"] for row in run.history if "valid_hits" in row]
        assert run.best["valid_hits"] == best(values)
        assert len(set(values)) > 1
    run = fit(metrics={"hits": by_array}, better="higher", until="auto")
    assert "score='valid_hits', better='higher'" in run.plan.until


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ([lambda o, t: o.frobnicate(t)], "metric metric fails on .*frobnicate"),
        ({"own": lambda o, t: o.argmax(1) == t}, r"own fails .*returned \[70\] values, not one number"),
        ({"own": lambda o, t: o.std()}, "own fails .* for NumPy arrays and .* for tensors; say which it is for"),
        ({"loss": by_array}, "cannot be called 'loss'"),
        ({"own": "acuracy"}, "Did you mean 'accuracy'"),
        (3.0, "must be a name or a callable"),
    ],
)
def test_what_is_no_metric_is_one_sentence_before_the_first_step(metrics, words):
    model, steps = nn.Linear(4, 2), []
    with pytest.raises(HandfulError, match=words):
        handful.fit(model, (X, Y), metrics=metrics, callbacks=[lambda event, info: steps.append(event)], **QUICK)
    assert not steps


def test_what_only_the_whole_set_has_is_no_mistake():
    """A metric that raises for rows of one class, in a set in which 512 rows may lack the other."""

    def strict(outputs, targets):
        if len(set(targets.tolist())) < 2:
            raise ValueError("one class is missing")
        return 0.5

    x, y = np.repeat(X, 3, axis=0), np.zeros(2100, dtype=np.int64)
    y[1] = 1  # a row that an even choice of 512 leaves out
    run = handful.fit(nn.Linear(4, 2), (X, Y), metrics={"auc": strict}, valid=(x, y), **QUICK)
    assert run.scores["valid_auc"] == 0.5


def test_annotations_choose():
    def spread(outputs: Tensor, targets: Tensor):
        return outputs.std()

    def spread_of_arrays(outputs: np.ndarray, targets: np.ndarray):
        return outputs.std()

    scores = {m.name: m.whole(X, Y, None) for m in as_metrics([spread, spread_of_arrays])}
    assert scores == pytest.approx({"spread": X.std(ddof=1), "spread_of_arrays": X.std()}, rel=1e-6)


def test_the_same_name_twice():
    names = [m.name for m in as_metrics([lambda o, t: 1.0, lambda o, t: 2.0, "accuracy"])]
    assert names == ["metric", "metric_2", "accuracy"]


LABELS = np.stack([Y, 1 - Y, Y * 0 + 1], 1)
SHARES = np.stack([Y * 0.8 + 0.1, 0.9 - Y * 0.8], 1).astype(np.float32)


@pytest.mark.parametrize(
    ("target", "metric", "way"),
    [
        (Z, "accuracy", r"classification'\. Known: mae, mse, r2, rmse"),  # it was 100%: the share of both above 0
        (Z, "f1", r"classification'\. Known: mae, mse, r2, rmse"),
        (Y, "mae", r"regression'\. Known: accuracy, auroc"),
        (Y, "label_accuracy", r"multilabel'\. Did you mean"),
        (LABELS, "accuracy", r"classification'\. Did you mean 'label_accuracy'"),  # of the largest label
        (LABELS, "r2", r"regression'\. Known: auroc"),  # of logits
        (SHARES, "f1", r"classification'\. Known: accuracy"),
    ],
)
def test_a_name_that_does_not_fit_the_target_is_refused(target, metric, way):
    with pytest.raises(HandfulError, match=rf"the metric '{metric}' does not fit this target, but task='{way}"):
        handful.fit("linear", (X, target), metrics=metric, **QUICK)
    run = handful.fit("linear", (X, target), **QUICK)
    with pytest.raises(HandfulError, match=rf"the metric '{metric}' does not fit this target, but task='{way}"):
        run.evaluate((X, target), metrics=metric)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_yes_or_no_for_one_label_has_the_scores_of_two_classes(shape):
    given = {"loss": torch.nn.BCEWithLogitsLoss(), "metrics": "accuracy, balanced_accuracy, mcc, calibration_error"}
    target = Y.astype(np.float32).reshape(shape)
    run = handful.fit(torch.nn.Linear(X.shape[1], 1), (X, target), **{**QUICK, **given})
    logits = run.model(torch.from_numpy(X)).detach().numpy().ravel()
    scores, found = run.evaluate((X, target)), logits > 0
    assert scores["accuracy"] == pytest.approx(sk.accuracy_score(Y, found))
    assert scores["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(Y, found))
    assert scores["mcc"] == pytest.approx(sk.matthews_corrcoef(Y, found))
    p = torch.from_numpy(np.stack([0 * logits, logits], 1))
    assert scores["calibration_error"] == pytest.approx(NAMED["calibration_error"].whole(p.numpy(), Y, None))


@pytest.mark.parametrize(
    ("target", "function", "why"),
    [
        (Z, sk.accuracy_score, "fails on outputs and targets"),
        (Z, sk.rand_score, "fails .* classes, and the target is numbers"),  # it was 1: all numbers differ
        (Y, sk.mean_absolute_error, "does not fit this target, but task='regression'"),
        (LABELS, sk.r2_score, "does not fit this target, but task='regression'"),  # of logits
        (SHARES, partial(sk.mean_squared_error), "does not fit this target, but task='regression'"),
    ],
)
def test_a_function_of_scikit_learn_that_does_not_fit_the_target_is_refused(target, function, why):
    with pytest.raises(HandfulError, match=f"the metric {getattr(function, 'func', function).__name__} {why}"):
        handful.fit("linear", (X, target), metrics=function, **QUICK)


def test_a_metric_object_of_numbers_does_not_fit_labels():  # it was of logits
    squares = type("MeanSquaredError", (Hits,), {"__module__": "torchmetrics.regression.mse"})()
    with pytest.raises(HandfulError, match="mean_squared_error does not fit this target, but task='regression'"):
        handful.fit("linear", (X, LABELS), metrics=squares, **QUICK)


def test_hinge_loss_is_of_the_margin():  # it was of the class ids
    (hinge,) = as_metrics(sk.hinge_loss)
    two = X[:, :2].astype(np.float64)
    assert hinge.whole(two, Y, None) == pytest.approx(sk.hinge_loss(Y, two[:, 1] - two[:, 0]))
    assert hinge.whole(X[:, :1], Y, None) == pytest.approx(sk.hinge_loss(Y, X[:, 0]))
    assert hinge.whole(X, np.arange(700) % 4, None) == pytest.approx(sk.hinge_loss(np.arange(700) % 4, X))


def test_the_wrong_way_for_a_score_that_is_known_is_refused():
    for metric, better in (("mae", "higher"), ("r2", "lower")):
        with pytest.raises(HandfulError, match=f"better='{better}' would keep the worst weights by valid_{metric}"):
            handful.fit("linear", (X, Z), metrics=metric, score=f"valid_{metric}", better=better, **QUICK)
    with pytest.raises(HandfulError, match="better='higher' would keep the worst weights by valid_loss"):
        handful.fit("linear", (X, Z), better="higher", **QUICK)
    run = handful.fit("linear", (X, Z), metrics={"gap_r2": error}, score="valid_gap_r2", better="lower", **QUICK)
    assert run.plan.score == "valid_gap_r2"


def error(outputs: np.ndarray, targets: np.ndarray):
    return float(np.abs(outputs - targets).mean())
