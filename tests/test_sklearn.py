"""The estimators: scikit-learn's own checks, its tools around them, and the same result as handful.fit."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris, make_multilabel_classification
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import RFE
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import handful
from handful.base.errors import HandfulError
from handful.sklearn import MiniBatchClassifier, MiniBatchRegressor

X, Y = load_iris(return_X_y=True)
QUICK = {"batch": 16, "lr": 0.02, "until": "epochs(15)", "valid": None, "l2": 0.0}
# Predictions of a row in batches of different shapes differ in float32's last digits; the checks allow 1e-7.
CHECKED = QUICK | {"until": "epochs(30)", "precision": "float64"}
# A repeated row is drawn at two moments of an epoch, a row of weight 2 at one; and standardising counts rows.
WHY = "a weight scales a row's gradient, not how often it is drawn"  # and fails scikit-learn's own SGD
FAILS = {f"check_sample_weight_equivalence_on_{kind}_data": WHY for kind in ("dense", "sparse")}
SLOW = {"check_classifiers_train", "check_class_weight_classifiers"}


def estimators():
    checked = [MiniBatchClassifier("mlp", **CHECKED), MiniBatchRegressor("mlp", **CHECKED)]
    return [*checked, MiniBatchClassifier(), MiniBatchRegressor()]  # and with all defaults


def net(features, outputs):
    return torch.nn.Sequential(torch.nn.Linear(features, 16), torch.nn.Tanh(), torch.nn.Linear(16, outputs))


def own_loss(output, target):
    return torch.nn.functional.cross_entropy(output, target, reduction="none")


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


@pytest.mark.parametrize("preprocess", ["auto", "none", "standardize", "minmax"])
def test_coefficients_of_a_linear_model_are_in_the_units_of_x(preprocess):
    x, y = X * [1.0, 100.0, 0.01, 1.0] + [0.0, 5000.0, 0.0, -3.0], X[:, 1] * 7 + 30
    given = QUICK | {"preprocess": preprocess, "precision": "float64", "until": "epochs(3)"}
    for classes in (3, 2):
        model = MiniBatchClassifier("linear", **given).fit(x[: 50 * classes], Y[: 50 * classes])
        logits = x @ model.coef_.T + model.intercept_
        p = model.predict_proba(x)
        wanted = np.log(p[:, 1:] / p[:, :1])
        np.testing.assert_allclose(
            logits if classes == 2 else logits[:, 1:] - logits[:, :1], wanted, rtol=1e-3, atol=1e-4
        )
    model = MiniBatchRegressor("linear", **given).fit(x, y)
    np.testing.assert_allclose(x @ model.coef_ + model.intercept_, model.predict(x), rtol=1e-5, atol=1e-4)
    both = MiniBatchRegressor(torch.nn.Linear(4, 2), **given | {"preprocess": "standardize"}).fit(x, np.c_[y, -y])
    np.testing.assert_allclose(x @ both.coef_.T + both.intercept_, both.predict(x), rtol=1e-5, atol=1e-4)


def test_features_are_chosen_by_coefficients_and_models_without_them_say_why():
    noise = np.random.default_rng(0).normal(size=(len(X), 3))
    chosen = RFE(MiniBatchClassifier("linear", **QUICK), n_features_to_select=2).fit(np.c_[noise, X[:, 2:]], Y)
    assert chosen.support_.tolist() == [False] * 3 + [True] * 2
    for model, x, preprocess, why in (
        ("mlp", X, "auto", "only 'linear'"),
        ("linear", pd.DataFrame({"a": X[:, 0], "b": ["x", "y"] * 75}), "auto", "numbers alone"),
        ("linear", X, "normalize", "Normalize is not linear"),
    ):
        given = QUICK | {"until": "epochs(1)", "preprocess": preprocess}
        fitted = MiniBatchClassifier(model, **given).fit(x, Y)
        assert not hasattr(fitted, "coef_")
        with pytest.raises(AttributeError, match=why):
            fitted.coef_  # noqa: B018


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
    model = MiniBatchClassifier(net, **QUICK, loss=own_loss).fit(X, Y)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.predict_proba(X), model.predict_proba(X))
    assert copy.run_.history == model.run_.history
    assert not hasattr(clone(model), "run_")
    with pytest.raises(HandfulError, match="unpickled"):
        copy.run_.evaluate({"x": X, "y": Y})
    assert model.run_.evaluate({"x": X, "y": Y})["accuracy"] > 0.9  # pickling took nothing away


def test_mistakes_are_said():
    with pytest.raises(NotFittedError):
        MiniBatchRegressor().predict(X)
    with pytest.raises(ValueError, match="1 class"):
        MiniBatchClassifier().fit(X, np.zeros(150))
    with pytest.raises(HandfulError, match=r"not an nn\.Module"):
        MiniBatchClassifier(lambda features, classes: None, **QUICK).fit(X, Y)
    mixed = pd.DataFrame({"kind": np.where(Y == 0, "a", "b"), "size": X[:, 0]})
    for y in (mixed, mixed.assign(size=mixed["kind"]), np.c_[Y, Y]):
        with pytest.raises(HandfulError, match=r"several columns .* target='kind,size'"):
            MiniBatchClassifier("linear", **QUICK).fit(X, y)
    for y in (mixed, mixed["kind"]):
        with pytest.raises(HandfulError, match=r"y holds words .* MiniBatchClassifier learns classes"):
            MiniBatchRegressor("linear", **QUICK).fit(X, y)
    names = np.where(Y == 0, None, "b")
    for y in (
        names,
        names.tolist(),
        pd.Series(names),
        pd.Series(Y).where(Y > 0),
        np.where(Y == 0, pd.NA, Y.astype(object)),
    ):
        with pytest.raises(HandfulError, match="y lacks values"):
            MiniBatchClassifier("linear", **QUICK).fit(X, y)
    fitted = MiniBatchClassifier("linear", **QUICK).fit(mixed, Y)
    for rows in (mixed.to_dict("list"), mixed.to_numpy(), ["a"], None):
        with pytest.raises(HandfulError, match="X must be a DataFrame with the fitted columns, kind, size, not "):
            fitted.predict(rows)
    with pytest.raises(HandfulError, match="valid of an estimator is how many of its rows are held out"):
        MiniBatchClassifier("linear", **QUICK | {"valid": (X, Y)}).fit(X, Y)
    with pytest.raises(HandfulError, match="no option 'bach'"):
        MiniBatchClassifier("linear", options={"bach": 3}, **QUICK).fit(X, Y)
    with pytest.raises(ValueError, match="NaN"):
        MiniBatchClassifier(net, **QUICK).fit(np.where(X > 7, np.nan, X), Y)


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


def test_passes_over_parts_are_the_steps_of_plain_torch():
    x = (X - X.mean(0)) / X.std(0)
    own = net(4, 3)
    model = MiniBatchClassifier(own, optimizer="sgd", lr=0.1, l2=0.0, batch=75)
    theirs = torch.nn.Sequential(
        *[type(m)(m.in_features, m.out_features) if hasattr(m, "weight") else type(m)() for m in own]
    )
    theirs.load_state_dict(own.state_dict())
    descent = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for part in (slice(0, 150, 2), slice(1, 150, 2)) * 3:  # each a pass of one mini-batch
        model.partial_fit(x[part], Y[part], classes=[0, 1, 2])
        loss = torch.nn.functional.cross_entropy(
            theirs(torch.tensor(x[part], dtype=torch.float32)), torch.tensor(Y[part])
        )
        descent.zero_grad()
        loss.backward()
        descent.step()
    for ours, expected in zip(model.model_.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    assert model.n_iter_ == len(model.loss_curve_) == 6
    assert abs(model.loss_curve_[-1] - loss.item()) < 1e-5


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_an_optimizer_s_state_is_carried_from_pass_to_pass_and_through_a_pickle(optimizer):
    options = {"optimizer": optimizer, "lr": 0.01, "batch": 150}
    passes, again = (MiniBatchClassifier("linear", **options) for _ in range(2))
    for k in range(4):
        passes.partial_fit(X, Y, classes=[0, 1, 2])
        again = pickle.loads(pickle.dumps(again)) if k else again
        again.partial_fit(X, Y, classes=[0, 1, 2])
    np.testing.assert_array_equal(passes.predict_proba(X), again.predict_proba(X))
    own = passes.run_.state.optimizer
    assert {int(state.get("step", 4)) for state in own.state.values()} == {4}


def test_each_row_of_a_pass_is_taken_once_where_batches_divide_them():
    seen = []

    class Spy(torch.nn.Linear):
        def forward(self, x):
            if self.training:
                seen.extend(x[:, 0].tolist())
            return super().forward(x)

    model = MiniBatchRegressor(Spy(1, 1), batch=8, lr=1e-6)
    x = np.arange(32.0)[:, None]
    model.partial_fit(x, x[:, 0])
    seen.clear()
    model.partial_fit(x, x[:, 0])
    assert sorted(seen[-32:]) == x[:, 0].tolist()
    assert seen[-32:] != x[:, 0].tolist()
    first = seen[-32:]
    model.partial_fit(x, x[:, 0])
    assert seen[-32:] != first  # another order in each pass


def test_one_row_a_class_that_comes_later_and_wrong_classes():
    model = MiniBatchClassifier("mlp").partial_fit([[1.0]], ["a"], classes=["b", "a"])
    model.partial_fit([[2.0], [3.0]], ["b", "a"], sample_weight=[1, 2])
    assert model.predict_proba([[1.0]]).shape == (1, 2)
    for call, says in (
        (lambda: MiniBatchClassifier().partial_fit(X, Y), "needs classes"),
        (lambda: MiniBatchClassifier().partial_fit(X, Y, classes=[0, 1]), "2 is not|2, which is not|holds"),
        (lambda: model.partial_fit([[1.0]], ["a"], classes=["a", "c"]), "not those of the first call"),
        (lambda: MiniBatchClassifier(class_weight="balanced").partial_fit(X, Y, classes=[0, 1, 2]), "balanced"),
        (lambda: MiniBatchClassifier().partial_fit([[np.nan]], [0], classes=[0, 1]), "NaN"),
        (lambda: MiniBatchClassifier().partial_fit(pd.DataFrame({"a": ["x", "y"]}), [0, 1], classes=[0, 1]), "numbers"),
    ):
        with pytest.raises(ValueError, match=says):
            call()


def test_passes_of_a_regression_take_the_target_as_it_is_or_as_fit_has_learned_it():
    x, y = load_diabetes(return_X_y=True)
    model = MiniBatchRegressor("linear", optimizer="sgd", lr=0.05, l2=0.0)
    for _ in range(30):
        model.partial_fit(x * 20, y / 100)
    assert model.score(x * 20, y / 100) > 0.4
    fitted = MiniBatchRegressor("linear", **QUICK).fit(x, y)
    assert fitted.partial_fit(x, y).score(x, y) > 0.4
    two = MiniBatchRegressor("linear").partial_fit(x, np.stack([y, y], 1))
    assert two.predict(x[:3]).shape == (3, 2)


def test_a_warm_start_goes_on_with_weights_and_preprocessing():
    options = QUICK | {"warm_start": True, "until": "epochs(2)", "schedule": "constant"}
    model = MiniBatchClassifier("mlp", **options).fit(X, Y)
    mean, first, net = model.run_.pipeline.input.steps[0].mean.clone(), model.loss_curve_, model.model_
    model.fit(X, Y)
    assert model.loss_curve_[-1] < first[-1]
    assert model.n_iter_ == 2
    model.fit(X[::2] + 5, Y[::2])
    assert model.model_ is net
    assert torch.equal(mean, model.run_.pipeline.input.steps[0].mean)
    with pytest.raises(ValueError, match="warm_start goes on with the classes"):
        model.fit(X, (Y > 0).astype(int))
    with pytest.raises(ValueError, match="features"):
        model.fit(X[:, :2], Y)


def test_sparse_pipelines_of_words_and_of_categories_learn_what_dense_ones_do():
    words = ["good film", "bad film", "a great good one", "an awful bad one"] * 20
    sign = np.array([1, 0, 1, 0] * 20)
    for first, x in ((TfidfVectorizer(), words), (OneHotEncoder(), np.array(words)[:, None])):
        dense = MiniBatchClassifier("linear", preprocess="none", **QUICK).fit(first.fit_transform(x).toarray(), sign)
        sparse = make_pipeline(first, MiniBatchClassifier("linear", preprocess="none", **QUICK)).fit(x, sign)
        np.testing.assert_array_equal(sparse.predict_proba(x), dense.predict_proba(first.transform(x).toarray()))
        assert make_pipeline(first, MiniBatchClassifier(**QUICK)).fit(x, sign).score(x, sign) == 1
    rows = first.transform(x)
    passes = MiniBatchClassifier("linear", lr=0.05).partial_fit(rows, sign, classes=[0, 1]).partial_fit(rows, sign)
    assert passes.predict(rows).shape == (80,)


@pytest.mark.parametrize("kind", [list, np.array, lambda t: np.array(t, dtype=object), pd.Series])
def test_texts_are_rows_in_any_container(kind):
    words, sign = kind(["good film", "bad film", "great good", "awful bad"] * 20), [1, 0, 1, 0] * 20
    options = QUICK | {"until": "epochs(5)"}
    model = MiniBatchClassifier("text", **options).fit(words, sign)
    column = MiniBatchClassifier("text", **options).fit(pd.DataFrame({"x": list(words)}), sign)
    assert model.score(words, sign) == 1
    np.testing.assert_array_equal(model.predict_proba(words[:3]), column.predict_proba(pd.DataFrame({"x": words[:3]})))
    with pytest.raises(ValueError, match="list of texts"):
        model.predict([[1.0, 2.0]])


def test_labels_that_a_row_may_have_together():
    x, y = make_multilabel_classification(100, random_state=0)
    model = MiniBatchClassifier("mlp", **QUICK | {"until": "epochs(40)"}).fit(x, y)
    assert model.score(x, y) > 0.9
    np.testing.assert_array_equal(model.predict(x), model.predict_proba(x) > 0.5)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(x)), model.predict_proba(x))
    again = MiniBatchClassifier("mlp", **QUICK | {"until": "epochs(40)"}).fit(x, csr_array(y))
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))
    passes = MiniBatchClassifier("mlp", lr=0.01)
    for _ in range(15):
        passes.partial_fit(x, y, classes=range(5))
    assert passes.score(x, y) > 0.7


def test_options_of_model_and_optimizer_are_parameters_of_searches():
    search = GridSearchCV(
        make_pipeline(StandardScaler(), MiniBatchClassifier("mlp", **QUICK | {"until": "epochs(3)"})),
        {"minibatchclassifier__model__hidden": [(4,), (16, 8)], "minibatchclassifier__model__activation": ["logistic"]},
        cv=2,
    ).fit(X, Y)
    best = search.best_estimator_[-1]
    assert best.model in ("mlp(hidden=[4], activation='logistic')", "mlp(hidden=[16, 8], activation='logistic')") or (
        "hidden=[" in best.model and "activation='logistic'" in best.model
    )
    assert [type(m).__name__ for m in best.model_.layers].count("Sigmoid") == len(
        search.best_params_["minibatchclassifier__model__hidden"]
    )
    sgd = MiniBatchClassifier(optimizer="sgd").set_params(optimizer__momentum=np.float64(0.5), optimizer__nesterov=True)
    assert sgd.optimizer == "sgd(momentum=0.5, nesterov=True)"
    with pytest.raises(HandfulError, match="given by name"):
        MiniBatchClassifier(net).set_params(model__hidden=[3])
    with pytest.raises(HandfulError, match="hiden"):
        MiniBatchClassifier("mlp", **QUICK).set_params(model__hiden=[3]).fit(X, Y)


def test_an_identity_network_is_a_product_of_matrices():
    model = MiniBatchRegressor("mlp(hidden=[3], activation='identity')", preprocess="none", **QUICK).fit(
        X, X @ [1, 2, 3, 4]
    )
    state = {k: v.double().numpy() for k, v in model.model_.state_dict().items()}
    names = list(state)
    hidden = X @ state[names[0]].T + state[names[1]]
    scale = model.run_.pipeline.target_scale
    expected = (hidden @ state[names[2]].T + state[names[3]])[:, 0] * float(scale[1]) + float(scale[0])
    np.testing.assert_allclose(model.predict(X), expected, rtol=1e-4)


def test_random_states_and_labels_of_other_types():
    made = [MiniBatchClassifier("linear", **QUICK, random_state=np.random.default_rng(s)).fit(X, Y) for s in (1, 1, 2)]
    a, b, c = (model.predict_proba(X) for model in made)
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    for labels in (
        pd.Series(Y, dtype="Int64"),
        pd.Series(Y, dtype="UInt8"),
        pd.Categorical(Y),
        Y.astype(np.str_),
    ):
        model = MiniBatchClassifier("linear", **QUICK).fit(X, labels)
        assert [str(v) for v in model.classes_] == ["0", "1", "2"]
        assert (model.predict(X).astype(str) == np.asarray(labels).astype(str)).mean() > 0.8
    yes = pd.Series(Y > 0, dtype="boolean")
    assert MiniBatchClassifier("linear", **QUICK).fit(X, yes).predict(X).dtype == bool
    with pytest.raises(ValueError, match="lacks values"):
        MiniBatchClassifier("linear", **QUICK).fit(X, pd.Series([None, *Y[1:]], dtype="Int64"))


def test_loss_curve_is_the_mean_loss_of_each_epoch():
    model = MiniBatchClassifier("linear", **QUICK).fit(X, Y)
    rows = [row for row in model.run_.history if "train_loss" in row]
    assert len(model.loss_curve_) == model.n_iter_ == 15
    assert abs(np.mean(model.loss_curve_) - np.mean([row["train_loss"] for row in rows])) < 0.05
    assert model.loss_curve_[-1] < model.loss_curve_[0]


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, bool])
def test_whole_numbers_that_are_taken_as_they_are_are_numbers(kind):
    x, y = (X > 3).astype(kind), Y > 0
    ours, theirs = (
        MiniBatchClassifier("linear", preprocess="none", **QUICK).fit(rows, y) for rows in (x, x.astype(np.float64))
    )
    np.testing.assert_array_equal(ours.predict_proba(x), theirs.predict_proba(x))
    assert MiniBatchClassifier("mlp").partial_fit(x, y, classes=[False, True]).predict(x).dtype == bool


def test_weights_of_a_pass_count_whether_or_not_other_passes_had_some():
    weight = np.where(Y == 2, 0.0, 1.0)
    with_zeros, without = (MiniBatchClassifier("linear", optimizer="sgd", lr=0.1, batch="full") for _ in range(2))
    for k in range(3):
        with_zeros.partial_fit(X, Y, classes=[0, 1, 2], sample_weight=weight if k else None)
        rows = Y < 2 if k else Y < 3
        without.partial_fit(X[rows], Y[rows], classes=[0, 1, 2])
    np.testing.assert_allclose(with_zeros.predict_proba(X), without.predict_proba(X), rtol=1e-4)
    with_zeros.partial_fit(X, Y)


def test_whole_numbers_reach_an_own_module_as_floats_unless_it_embeds_them():
    x = np.round(X).astype(np.int64)
    for make in (MiniBatchClassifier, MiniBatchRegressor):
        whole, floats = (make(net, preprocess="none", **QUICK).fit(rows, Y) for rows in (x, x.astype(np.float32)))
        assert make(net, preprocess="none", **QUICK).fit(csr_array(x), Y).predict(x).ndim == 1
        np.testing.assert_array_equal(whole.predict(x), floats.predict(x.astype(np.float64)))
        assert make(net).partial_fit(x > 2, Y, *([0, 1, 2],) * (make is MiniBatchClassifier)).predict(x > 2).ndim == 1
    words = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Flatten(), torch.nn.Linear(16, 3))
    assert MiniBatchClassifier(words, **QUICK).fit(x, Y).score(x, Y) > 0.8


def test_every_class_is_learned_where_most_have_a_row_or_two():
    y = np.array([f"c{k}" for k in np.random.default_rng(0).integers(0, 40, 60)])
    model = MiniBatchClassifier("linear", until="steps(2)").fit(X[:60], y)
    assert model.run_.pipeline.outputs == len(np.unique(y))


@pytest.mark.filterwarnings("ignore:The number of unique classes")
def test_more_classes_than_may_be_held_out():
    y = np.minimum(np.arange(60), 57)
    model = MiniBatchClassifier("linear", until="steps(2)").fit(X[:60], y)
    assert model.run_.pipeline.outputs == 58


@pytest.mark.parametrize(("names", "said"), [("ab", "'y'"), ("xy", "'handful_y'")])
def test_messages_name_y_as_the_caller_does(names, said):
    x = pd.DataFrame(X[:40, :2], columns=list(names))
    with pytest.raises(HandfulError, match=f"the target {said} is the same in every training row"):
        MiniBatchRegressor("linear").fit(x, np.ones(40))


@pytest.mark.parametrize("model", ["table", "linear"])
def test_inputs_that_are_all_missing_are_refused(model):
    with pytest.raises(HandfulError, match="every value of the inputs is missing in the training rows"):
        MiniBatchRegressor(model).fit(np.full((40, 3), np.nan), np.arange(40.0))
