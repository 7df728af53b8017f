"""scikit-learn's own tests of its networks and of its stochastic gradient descent, run on the estimators of handful.

    python benchmarks/sklearn_suite.py            # results/sklearn_suite.md is what it prints

The tests are read from the installed package; nothing of them is kept here. Their estimators are exchanged for classes
that hold one of handful's and translate names alone: of parameters (hidden_layer_sizes -> model="mlp(hidden=[...])",
alpha -> l2, max_iter -> until) and of attributes (coefs_ -> the weights of `model_`). A test that reads what
scikit-learn does not document, or asks for what is no part of handful, is set aside in OTHER with its reason.
"""

import inspect
import re
import signal
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn
from sklearn import linear_model, neural_network
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from torch import nn

from handful.sklearn import MiniBatchClassifier, MiniBatchRegressor

LIMIT = 20
# a pattern in the names of tests -> why they ask for something else than behaviour that both promise
OTHER = {
    "OneClass|one_?class|ocsvm|SVM": "an estimator without labels, which handful does not have",
    "lbfgs|poisson_glm|test_gradient|test_sparse_matrices|test_warm_start$|proba_multilabel|multilabel_class|multioutput_"
    "regression|partial_fit_errors": "scikit-learn's L-BFGS solver",
    r"test_fit$|adaptive_learning|learning_rate_warmstart|n_iter_no_change|averag|has_no_average|early_stopping_with|"
    r"validation_mask|multi_?(core|thread)|njobs|verbose": "private attributes, or the words that are printed",
    r"test_warm_start\[|warm_start_multiclass|partial_fit_equal_fit|_init|coef|intercept|offset": "initial weights as "
    "arguments of fit, and a private count of steps; here a module with those weights is passed",
    "PA_raises|passive|PA1|PA2": "passive-aggressive rules, which are no gradient descent",
    "l1_ratio|penalty|elastic|power_t|loss_function|method_access|regression_losses|epsilon_insens|adaptive_longer|"
    "tol_parameter|deprecat": "losses, penalties and schedules by names that handful does not have",
    "early_stopping|validation_set|sample_size|test_tolerance|no_convergence|after_fit|preserve_feature": "which rows "
    "are held out and what ends a run: scikit-learn's splitter, tolerance and warnings; here valid= and until=",
    "nonfinite|diverging|underflow|stability|large_regul|error_on|balanced$|class_balanced": "the words of refusals",
    "param_dtypes": "weights of the type of X; here precision= decides",
}


class Translated(BaseEstimator):
    """One of handful's estimators under scikit-learn's names. ours: its class; net: whether it is a network."""

    ours: type
    net: bool

    def inner(self, n: int) -> Any:
        """The estimator with what the parameters say."""
        p = self.get_params(deep=False)
        given = {"random_state": p["random_state"], "warm_start": p["warm_start"], "schedule": "constant",
                 "valid": 0.1 if p["early_stopping"] else None, "preprocess": "none", "ema": None, "model": "linear",
                 "l2": float(p["alpha"]), "batch": 1,
                 "options": {"shuffle": "exact" if p["shuffle"] else "none"}}  # fmt: skip
        if self.net:
            sizes = np.atleast_1d(p["hidden_layer_sizes"]).tolist()
            momentum = f"sgd(momentum={p['momentum']}, nesterov=True)" if p["momentum"] else "sgd"
            size = min(200, n) if p["batch_size"] == "auto" else int(p["batch_size"])
            given |= {"model": f"mlp(hidden={sizes}, activation='{p['activation']}')", "batch": size,
                      "optimizer": momentum if p["solver"] == "sgd" else "adam",
                      "lr": p["learning_rate_init"]}  # fmt: skip
        else:
            bare = not p["fit_intercept"]
            given |= {"optimizer": "sgd", "lr": p["eta0"] if p["learning_rate"] == "constant" else 0.05,
                      "l2": 0.0 if p["penalty"] == "l1" else float(p["alpha"]),
                      "l1": float(p["alpha"]) if p["penalty"] == "l1" else 0.0}  # fmt: skip
            if bare:
                given["model"] = lambda features, outputs: nn.Linear(features, outputs, bias=False)
            if p.get("loss") == "huber":
                given["loss"] = f"huber(delta={p['epsilon']})"
        if "class_weight" in p:
            given["class_weight"] = p["class_weight"]
        given["until"] = f"epochs({p['max_iter']})"
        if p["tol"] is not None and np.isfinite(p["n_iter_no_change"]):
            score = "valid_loss" if p["early_stopping"] else "train_loss"
            given["until"] += f" | plateau({p['n_iter_no_change']}, score='{score}', min_delta={min(p['tol'], 1e300)})"
        return given

    def _ready(self, x: Any) -> Any:
        given = self.inner(np.shape(x)[0])
        if not hasattr(self, "held_"):
            self.held_ = self.ours(**given)
        return self.held_.set_params(**given)

    def fit(self, X, y, sample_weight=None):
        if not self.warm_start and hasattr(self, "held_"):
            del self.held_
        self._ready(X).fit(X, y, sample_weight=sample_weight)
        return self

    def partial_fit(self, X, y, *args, **kwargs):
        self._ready(X).partial_fit(X, y, *args, **kwargs)
        return self

    def predict(self, X):
        return self.held_.predict(X)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "held_" not in self.__dict__:
            raise AttributeError(name)
        weights = [(m.weight.detach().numpy(), m.bias) for m in self.held_.model_.modules() if isinstance(m, nn.Linear)]
        match name:
            case "coefs_":
                return [w.T for w, _ in weights]
            case "intercepts_":
                return [b.detach().numpy() for _, b in weights]
            case "coef_" | "intercept_":
                value = weights[0][0] if name == "coef_" else weights[0][1].detach().numpy()
                two = isinstance(self, ClassifierMixin) and len(self.held_.classes_) == 2
                value = value[1:] - value[:1] if two else value
                return value[0] if isinstance(self, RegressorMixin) and name == "coef_" else value
        return getattr(self.held_, name)


class Classifier(ClassifierMixin, Translated):
    ours = MiniBatchClassifier

    def predict_proba(self, X):
        return self.held_.predict_proba(X)

    def predict_log_proba(self, X):
        return self.held_.predict_log_proba(X)

    def decision_function(self, X):
        logits = np.asarray(self.held_._outputs(X))
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits


class Regressor(RegressorMixin, Translated):
    ours = MiniBatchRegressor


def exchanged(theirs: type) -> type:
    """The class to put in the place of one of scikit-learn's, with its parameters and their defaults."""
    signature = inspect.signature(theirs.__init__)

    def init(self, *args, **kwargs):
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            if name != "self":
                setattr(self, name, value)

    init.__signature__ = signature
    base = Classifier if issubclass(theirs, ClassifierMixin) else Regressor
    members = {
        "__init__": init,
        "net": theirs.__name__.startswith("MLP"),
        "loss_functions": getattr(theirs, "loss_functions", {}),
    }
    return type(theirs.__name__, (base,), {**members, "__module__": __name__})


def prepare() -> list[str]:
    """Exchange the estimators where the tests import them from; the paths of the tests."""
    for package, names in (
        (neural_network, ("MLPClassifier", "MLPRegressor")),
        (linear_model, ("SGDClassifier", "SGDRegressor")),
    ):
        for name in names:
            made = exchanged(getattr(package, name))
            setattr(package, name, made)
            setattr(sys.modules[__name__], name, made)
    where = Path(sklearn.__file__).parent
    return [str(where / "neural_network/tests/test_mlp.py"), str(where / "linear_model/tests/test_sgd.py")]


class Tally:
    """What became of each test; one that takes more than LIMIT seconds of a processor fails."""

    def __init__(self) -> None:
        self.outcome: dict[str, str] = {}
        self.aside: dict[str, int] = {}

    def pytest_collection_modifyitems(self, items):
        self.aside = {why: sum(reason(item.nodeid) == why for item in items) for why in OTHER.values()}
        items[:] = [item for item in items if reason(item.nodeid) is None]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        def late(*_):
            raise TimeoutError(f"took more than {LIMIT} s of a processor")

        signal.signal(signal.SIGPROF, late)
        signal.setitimer(signal.ITIMER_PROF, LIMIT)
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.failed or report.skipped:
            words = str((getattr(report.longrepr, "reprcrash", None) and report.longrepr.reprcrash.message) or "")
            self.outcome[report.nodeid] = "passed" if report.passed else f"failed: {' '.join(words.split())[:110]}"


def main() -> None:
    tally, paths = Tally(), prepare()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        (Path(folder) / "pytest.ini").write_text("[pytest]\n")
        options = ["-q", "--no-header", "-p", "no:cacheprovider", "-c", f"{folder}/pytest.ini", "--tb=line"]
        options += [*sys.argv[1:], "--import-mode=importlib"]
        pytest.main([*options, *paths], plugins=[tally])
    report(tally.outcome, tally.aside)


def reason(test: str) -> str | None:
    return next((why for pattern, why in OTHER.items() if re.search(pattern, test.split("::")[-1])), None)


def report(outcome: dict[str, str], aside: dict[str, int]) -> None:
    """The page of results."""
    good = sum(what == "passed" for what in outcome.values())
    lines = [
        f"# scikit-learn {sklearn.__version__}'s own tests on the estimators of handful\n",
        f"`python benchmarks/sklearn_suite.py`: the tests of `MLPClassifier`, `MLPRegressor`, `SGDClassifier` and "
        f"`SGDRegressor`, read from the installed package. Of the {len(outcome)} tests that run {good} pass "
        f"({good / max(1, len(outcome)):.0%}); {sum(aside.values())} others are set aside by the reasons below, chosen "
        f"by hand from their names. A test that takes more than {LIMIT} s of a processor fails. What the exchanged "
        "classes translate is said at the top of the script.\n",
        "| fails | how |\n|---|---|",
        *(
            f"| {test.split('::')[-1]} | {what.removeprefix('failed: ').replace('|', '/')} |"
            for test, what in outcome.items()
            if what != "passed"
        ),
        "\n| set aside, because they ask for | tests |\n|---|---|",
        *(f"| {why} | {count} |" for why, count in aside.items()),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    (Path(__file__).parent / "results" / "sklearn_suite.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
