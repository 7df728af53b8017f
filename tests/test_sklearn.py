"""The estimators: scikit-learn's own checks, its tools around them, and the same result as handful.fit."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import handful
from handful.base.errors import HandfulError
from handful.sklearn import MiniBatchClassifier, MiniBatchRegressor

X, Y = load_iris(return_X_y=True)
QUICK = {"batch": 16, "lr": 0.02, "until": "epochs(15)", "valid": None, "l2": 0.0}
# Predictions of a row in batches of different shapes differ in float32's last digits; the checks allow 1e-7.
CHECKED = QUICK | {"until": "epochs(30)", "precision": "float64"}
# A repeated row is drawn at two moments of an epoch, a row of weight 2 at one; and standardising counts rows.
FAILS = {"check_sample_weight_equivalence_on_dense_data": "a weight scales a row's gradient, not how often it is drawn"}
SLOW = {"check_classifiers_train", "check_class_weight_classifiers"}


def estimators():
    return [MiniBatchClassifier("mlp", **CHECKED), MiniBatchRegressor("mlp", **CHECKED)]


def net(features, outputs):
    return torch.nn.Sequential(torch.nn.Linear(features, 16), torch.nn.Tanh(), torch.nn.Linear(16, outputs))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the checks themselves warn where they skip
@parametrize_with_checks(estimators(), expected_failed_checks=lambda estimator: FAILS)
def test_every_check_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("default")
@parametrize_with_checks(
    [MiniBatchClassifier("linear", **CHECKED | {"until": "epochs(1)"})],
    expected_failed_checks=lambda estimator: FAILS | dict.fromkeys(SLOW, "needs more training: slow"),
)
def test_checks_that_need_no_training(estimator, check):
    check(estimator)


def test_the_same_as_fit():
    model = MiniBatchClassifier("mlp", **QUICK, random_state=3).fit(X, Y)
    run = handful.fit("mlp", {"x": X, "y": Y}, **QUICK, seed=3, quiet=True)
    np.testing.assert_array_equal(model.predict_proba(X), np.asarray(run.predict({"x": X}, probabilities=True)))
    assert model.n_iter_ == 15


def test_labels_of_any_kind_come_back_and_probabilities_follow_classes_():
    names = np.array(["setosa", "versicolor", "virginica"])[Y]
    model = MiniBatchClassifier("mlp", **QUICK).fit(X, names)
    assert model.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    assert model.score(X, names) > 0.9
    p = model.predict_proba(X)
    np.testing.assert_allclose(p.sum(1), 1)
    np.testing.assert_array_equal(model.classes_[p.argmax(1)], model.predict(X))


def test_own_module_is_copied_and_a_callable_is_seeded():
    before = torch.random.get_rng_state()
    own = net(4, 3)
    weights = [p.clone() for p in own.parameters()]
    first, second = (MiniBatchClassifier(own, **QUICK).fit(X, Y).predict_proba(X) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(weights, own.parameters(), strict=True))
    torch.random.set_rng_state(before)
    made = [MiniBatchClassifier(net, **QUICK, random_state=s).fit(X, Y).predict_proba(X) for s in (0, 0, 1)]
    np.testing.assert_array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (
        MiniBatchClassifier(lambda features, classes: net(features, 1), **QUICK)
        .fit(X[:100], Y[:100])
        .score(X[:100], Y[:100])
        > 0.95
    )  # one logit for two classes


def test_pipeline_cross_validation_and_search():
    model = make_pipeline(StandardScaler(), MiniBatchClassifier("linear", **QUICK))
    assert cross_val_score(model, X, Y, cv=3).mean() > 0.85
    search = GridSearchCV(model, {"minibatchclassifier__lr": [1e-7, 0.05]}, cv=3).fit(X, Y)
    assert search.best_params_ == {"minibatchclassifier__lr": 0.05}


def test_frame_with_categories_and_missing_values():
    rng = np.random.default_rng(0)
    n = 300
    frame = pd.DataFrame(
        {"size": rng.normal(size=n), "town": rng.choice(["Ulm", "Bern", "Graz"], n), "flat": np.ones(n)}
    )
    y = frame["size"] * 10 + (frame["town"] == "Bern") * 50
    frame.loc[:9, "size"] = np.nan
    model = MiniBatchRegressor("table", **QUICK).fit(frame, y)
    assert model.feature_names_in_.tolist() == ["size", "town", "flat"]
    assert model.score(frame[10:], y[10:]) > 0.95
    again = frame.assign(town=frame["town"].replace("Graz", "Rome"))  # a town never seen
    assert np.isfinite(model.predict(again)).all()
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame.rename(columns={"town": "city"}))


def test_sample_weight_changes_what_is_learned():
    x, y = np.zeros((40, 2)), np.repeat([0.0, 1.0], 20)
    x[:, 0] = np.arange(40) % 7
    weight = np.where(y == 1, 3.0, 1.0)
    options = QUICK | {"batch": "full", "until": "epochs(300)"}
    model = MiniBatchRegressor("linear", **options).fit(x, y, sample_weight=weight)
    assert abs(model.predict(x).mean() - 0.75) < 0.02  # the weighted mean of y
    with pytest.raises(ValueError, match=r"[Nn]egative"):
        model.fit(x, y, sample_weight=-weight)


def test_several_outputs_keep_their_shape():
    x, y = load_diabetes(return_X_y=True)
    both = np.stack([y, -2 * y], 1)
    model = MiniBatchRegressor("linear", **QUICK | {"until": "epochs(30)"}).fit(x, both)
    assert model.predict(x[:5]).shape == (5, 2)
    assert model.score(x, both) > 0.45


def test_class_weight_shifts_the_decision():
    x = np.r_[np.random.default_rng(0).normal(0, 1, (95, 1)), np.random.default_rng(1).normal(1, 1, (5, 1))]
    y = np.repeat(["common", "rare"], [95, 5])
    plain, balanced, given = (
        (MiniBatchClassifier("linear", **QUICK, class_weight=w).fit(x, y).predict(x) == "rare").sum()
        for w in (None, "balanced", {"rare": 19.0})
    )
    assert plain < 5 < balanced
    assert given > 5
    with pytest.raises(HandfulError, match="Did you mean 'rare'"):
        MiniBatchClassifier("linear", **QUICK, class_weight={"rar": 2.0}).fit(x, y)


def test_a_class_with_one_held_out_row_still_has_its_column():
    x, y = np.r_[X, X[:1] + 9], np.r_[Y, 7]
    p = MiniBatchClassifier("linear", **QUICK | {"valid": 0.5}).fit(x, y).predict_proba(x)
    assert p.shape == (151, 4)


def test_pickled_estimators_predict_the_same_bits():
    model = MiniBatchClassifier(net, **QUICK, loss=torch.nn.functional.cross_entropy).fit(X, Y)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.predict_proba(X), model.predict_proba(X))
    assert copy.run_.history == model.run_.history
    assert not hasattr(clone(model), "run_")
    with pytest.raises(HandfulError, match="unpickled"):
        copy.run_.evaluate({"x": X, "handful_target": Y})
    assert model.run_.evaluate({"x": X, "handful_target": Y})["accuracy"] > 0.9  # pickling took nothing away


def test_mistakes_are_said():
    with pytest.raises(NotFittedError):
        MiniBatchRegressor().predict(X)
    with pytest.raises(ValueError, match="1 class"):
        MiniBatchClassifier().fit(X, np.zeros(150))
    with pytest.raises(HandfulError, match=r"not an nn\.Module"):
        MiniBatchClassifier(lambda features, classes: None, **QUICK).fit(X, Y)
    with pytest.raises(HandfulError, match="no option 'bach'"):
        MiniBatchClassifier("linear", options={"bach": 3}, **QUICK).fit(X, Y)
    with pytest.raises(ValueError, match="NaN"):
        MiniBatchClassifier(net, **QUICK).fit(np.where(X > 7, np.nan, X), Y)
    assert not hasattr(MiniBatchClassifier(), "partial_fit")


def test_the_table_model_averages_its_weights_unless_told_not_to():
    plans = {
        name: MiniBatchClassifier(model, **QUICK | {"until": "steps(2)"}, **given).fit(X, Y).run_.plan.choices
        for name, model, given in (("table", "table", {}), ("off", "table", {"ema": None}), ("mlp", "mlp", {}))
    }
    assert (plans["table"]["ema"].value, plans["table"]["ema"].status) == (0.99, "default")
    assert "ema" not in plans["off"]
    assert "ema" not in plans["mlp"]
    wide = MiniBatchClassifier("table", **QUICK | {"until": "steps(2)"}).fit(np.tile(X, 9), Y)
    assert wide.model_.config["encoding"] == "plain"
    assert (
        MiniBatchClassifier("table", **QUICK | {"until": "steps(2)"}).fit(X, Y).model_.config["encoding"] == "periodic"
    )
