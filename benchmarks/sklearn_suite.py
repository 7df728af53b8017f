"""scikit-learn's own tests of its networks and of its stochastic gradient descent, run on the estimators of handful.

    python benchmarks/sklearn_suite.py            # results/sklearn_suite.md is what it prints
    python benchmarks/sklearn_suite.py -k warm    # only some of them: nothing is written
    python benchmarks/sklearn_suite.py --from-the-end     # a second process beside the first, from the last test on

What each test came to is kept in .cache/sklearn_suite.jsonl as it ends, so that a run which was cut goes on there, and
two processes share the tests; remove the file to begin anew.

The tests are read from the installed package; nothing of them is kept here. Their estimators are exchanged for classes
that hold one of handful's and translate what is written otherwise (docs/coming-from.md has the list): names of
parameters (hidden_layer_sizes -> model="mlp(hidden=[...])", max_iter and tol -> until) and of attributes (coefs_ ->
the weights of `model_`); alpha, which a network divides by the rows of a batch (and L-BFGS has none here); half the
squared error, for which the rate halves and the penalties double, as they do where two classes have an output each; the
type of X, which is precision=; and one row at a time, which are mini-batches of 32 from 100 rows on. Losses other than
log, squared and Huber's have no name here: log loss and squared error stand for them. Every test runs but those that
ASIDE names, each after it was read, with the reason.
"""

import inspect
import json
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

LIMIT = 100
KEPT = Path(__file__).parent / ".cache" / "sklearn_suite.jsonl"
# Why tests ask for something else than behaviour that both promise, and below it which: their names, as patterns.
ASIDE = r"""
an estimator without labels, which is no part of handful
    .*oneclass.* .*one_class.* .*ocsvm.* .*OneClass.*
private attributes, classes and counters of scikit-learn
    fit gradient learning_rate_warmstart adaptive_learning_rate n_iter_no_change(_inf)?
    plain_has_no_average_attr.*
    loss_(hinge|modified_huber|epsilon_insensitive|squared_epsilon_insensitive|function_epsilon.*)
    gradient_squared_hinge validation_mask_correctly_subsets
the words of a refusal, or of what is printed
    nonfinite_params warm_start verbose_sgd partial_fit_weight_class_balanced.*
    sgd_error_on_zero_validation_weight underflow_or_overflow
scikit-learn's ConvergenceWarning; `run_.stopped_because` says it here
    mlp_warm_start_no_convergence.* tol_parameter sgd_random_state.* lbfgs_.*maxfun.*
a refusal of what handful does: partial_fit beside a held-out part or after L-BFGS, several targets
    partial_fit_errors mlp_partial_fit_after_fit.* sgd_early_stopping_with_partial_fit.*
    input_format.*Regressor.*
validation_scores_ and best_loss_, which are columns of `run_.history` here
    early_stopping\[MLP.* mlp_early_stopping_string_labels mlp_warm_start_with_early_stopping.*
    mlp_diverging_loss
weights to start from as arguments of fit; here a module with those weights is passed
    warm_start\[.* warm_start_multiclass.* provide_coef.* set_intercept.* sgd_multiclass_with_init_coef.*
    set_coef_multiclass.*
average=, a mean of all weights from a step on; ema= is another
    .*_average.* .*averaging.*
passive-aggressive rules, which are no gradient descent
    learning_rate_PA_raises.*
hinge, epsilon-insensitive and Poisson losses, which are no part of handful
    sgd_predict_proba_method_access.* sgd_proba.* regression_losses.* sgd_epsilon_insensitive.*
    mlp_vs_poisson_glm_equivalent.*
what hinge loss alone brings about: with loss='log_loss' scikit-learn's own estimators fail them
    class_weights.* equal_class_weight.* sample_weights.* balanced_weight\[SGDClassifier\]
schedules and checks of parameters by names that only scikit-learn has
    adaptive_longer_than_constant.* partial_fit_equal_fit.*(optimal|invscaling|adaptive).*
    sgd_l1_ratio_not_used.* sgd_failing_penalty_validation.* power_t_limits.*
the rows that scikit-learn's own splitter holds out
    validation_set_not_used_for_training.* early_stopping_stratified minimum_input_sample_size
"""


def aside() -> dict[str, str]:
    """Reason -> a pattern of all its tests."""
    found: dict[str, list[str]] = {}
    for line in ASIDE.strip().splitlines():
        if line.startswith(" "):
            found[list(found)[-1]] += line.split()
        else:
            found[line] = []
    return {why: "(test_)?(" + "|".join(tests) + ")" for why, tests in found.items()}


OTHER = aside()


class Translated(BaseEstimator):
    """One of handful's estimators under scikit-learn's names. ours: its class; net: whether it is a network."""

    ours: type
    net: bool

    def inner(self, x: Any, y: Any) -> Any:
        """The estimator's parameters: what the translated ones say."""
        p, n, targets = self.get_params(deep=False), np.shape(x)[0], np.shape(y)[1:]
        precision = "float32" if getattr(x, "dtype", None) == np.float32 else "float64"
        given = {"random_state": p["random_state"], "warm_start": p["warm_start"], "schedule": "constant",
                 "valid": p["validation_fraction"] if p["early_stopping"] else None, "preprocess": "none", "ema": None,
                 "options": {"shuffle": "exact" if p["shuffle"] else "none", "precision": precision}}  # fmt: skip
        given |= self.network(p, n, targets) if self.net else self.straight(p, n, y)
        if "class_weight" in p:
            given["class_weight"] = p["class_weight"]
        given["until"] = f"epochs({p['max_iter']})"
        if p["tol"] is not None and np.isfinite(p["n_iter_no_change"]):
            score = "valid_loss" if p["early_stopping"] else "train_loss"
            given["until"] += f" | plateau({p['n_iter_no_change']}, score='{score}', min_delta={min(p['tol'], 1e300)})"
        return given

    def network(self, p: dict[str, Any], n: int, targets: tuple[int, ...]) -> dict[str, object]:
        """What is a network's: a regression's loss is half the squared error, several labels' the sum over them."""
        sizes, most = np.atleast_1d(p["hidden_layer_sizes"]).tolist(), min(200, n)
        size = most if p["batch_size"] == "auto" else min(int(p["batch_size"]), n)
        half, rate = isinstance(self, RegressorMixin), p["learning_rate_init"]
        optimizer = f"sgd(momentum={p['momentum']}, nesterov=True)" if p["momentum"] else "sgd"
        if p["solver"] == "sgd":
            rate = rate / 2 if half else rate * (targets[0] if targets else 1)
        return {"model": f"mlp(hidden={sizes}, activation='{p['activation']}')",
                "batch": "full" if p["solver"] == "lbfgs" else size,
                "optimizer": {"sgd": optimizer, "lbfgs": "lbfgs", "adam": "adam"}[p["solver"]],
                "lr": "auto" if p["solver"] == "lbfgs" else rate,
                "l2": 0.0 if p["solver"] == "lbfgs" else p["alpha"] / size * (2 if half else 1)}  # fmt: skip

    def straight(self, p: dict[str, Any], n: int, y: Any) -> dict[str, object]:
        """What is a linear model's."""
        two = isinstance(self, ClassifierMixin) and len(np.unique(np.asarray(y))) == 2
        twice = 1 if p.get("loss") == "huber" else 2 if two or isinstance(self, RegressorMixin) else 1
        share = {"l1": 1.0, "l2": 0.0, "elasticnet": p["l1_ratio"], None: 0.0}[p["penalty"]]
        alpha = 0.0 if p["penalty"] is None else twice * p["alpha"]
        return {"model": "linear" if p["fit_intercept"] else zeros, "batch": 1 if n < 100 else 32, "optimizer": "sgd",
                "lr": (p["eta0"] if p["learning_rate"] == "constant" else 0.1) / twice,
                "l1": alpha * share, "l2": alpha * (1 - share),
                "loss": f"huber(delta={p['epsilon']})" if p.get("loss") == "huber" else "auto"}  # fmt: skip

    def _ready(self, x: Any, y: Any) -> Any:
        given, self.rows_ = self.inner(x, y), np.shape(x)[0]
        if not hasattr(self, "held_"):
            self.held_ = self.ours(**given)
        return self.held_.set_params(**given)

    def fit(self, X, y, sample_weight=None):
        if not self.warm_start and hasattr(self, "held_"):
            del self.held_
        self._ready(X, y).fit(X, y, sample_weight=sample_weight)
        return self

    def partial_fit(self, X, y, *args, **kwargs):
        self._ready(X, y).partial_fit(X, y, *args, **kwargs)
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
            case "t_":
                return self.held_.n_iter_ * self.rows_ + 1
            case "intercepts_":
                return [b.detach().numpy() for _, b in weights]
            case "coef_" | "intercept_":
                value = weights[0][0]
                if name == "intercept_":
                    value = np.zeros(len(value)) if weights[0][1] is None else weights[0][1].detach().numpy()
                two = isinstance(self, ClassifierMixin) and len(self.held_.classes_) == 2
                value = value[1:] - value[:1] if two else value
                return value[0] if isinstance(self, RegressorMixin) and name == "coef_" else value
        return getattr(self.held_, name)


def zeros(features: int, outputs: int) -> nn.Linear:
    """A linear model without intercept that starts where scikit-learn's do."""
    made = nn.Linear(features, outputs, bias=False)
    nn.init.zeros_(made.weight)
    return made


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


def ended() -> dict[str, str]:
    """What the tests that ended came to, by name."""
    return dict(map(json.loads, KEPT.read_text(encoding="utf-8").splitlines())) if KEPT.exists() else {}


class Tally:
    """What became of each test; one that takes more than LIMIT seconds of a processor fails."""

    def __init__(self, kept: bool, backwards: bool) -> None:
        self.outcome: dict[str, str] = {}
        self.aside: dict[str, int] = {}
        self.kept, self.backwards = kept, backwards

    def pytest_collection_modifyitems(self, items):
        self.aside = {why: sum(reason(item.nodeid) == why for item in items) for why in OTHER}
        items[:] = [item for item in items if reason(item.nodeid) is None][:: -1 if self.backwards else 1]

    def pytest_runtest_protocol(self, item):
        return True if self.kept and item.nodeid in ended() else None

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
            if self.kept:
                with KEPT.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([report.nodeid, self.outcome[report.nodeid]]) + "\n")


def main() -> None:
    backwards = sys.argv[1:] == ["--from-the-end"]
    given = [] if backwards else sys.argv[1:]
    KEPT.parent.mkdir(exist_ok=True)
    tally, paths = Tally(not given, backwards), prepare()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        (Path(folder) / "pytest.ini").write_text("[pytest]\n")
        options = ["-q", "--no-header", "-p", "no:cacheprovider", "-c", f"{folder}/pytest.ini", "--tb=line"]
        options += [*given, "--import-mode=importlib"]
        pytest.main([*options, *paths], plugins=[tally])
    report(tally.outcome if given else ended(), tally.aside, written=not given)


def reason(test: str) -> str | None:
    return next((why for why, tests in OTHER.items() if re.fullmatch(tests, test.split("::")[-1])), None)


def why_not(test: str) -> str:
    return next((why for tests, why in WHY.items() if re.fullmatch(tests, test.split("::")[-1])), "")


# why a test fails, by its name
WHY = {
    r".*_fit_for_all_backends.*|test_balanced_weight.*": "dozens of fits of up to 1,000 epochs: a fit costs more here",
    r"test_multi_core_gridsearch.*": "the exchanged classes stand in this script, which a new process does not import",
    r"test_multi_thread_multi_class.*": "the held-out loss goes on falling, where scikit-learn looks at the accuracy",
    r"test_mlp_param_dtypes.*": "a regressor's predictions are float64, whatever the type of X",
    r"test_mlp_loading_from_joblib.*": "one row alone is refused, as nothing can be learned of a spread",
    r"test_preserve_feature_names.*": "a target of one value is refused",
    r"test_sgd_l1.*": "L1 adds its subgradient: weights come near 0, and are not cut there",
    r"test_large_regularization.*": "a rate times a penalty above 1 is not cut off at 1",
    r"test_partial_fit_equal_fit.*": "without random_state each fit begins at other small weights, not at zeros",
}


def report(outcome: dict[str, str], aside: dict[str, int], *, written: bool) -> None:
    """The page of results."""
    good = sum(what == "passed" for what in outcome.values())
    lines = [
        f"# scikit-learn {sklearn.__version__}'s own tests on the estimators of handful\n",
        f"`python benchmarks/sklearn_suite.py`: the tests of `MLPClassifier`, `MLPRegressor`, `SGDClassifier` and "
        f"`SGDRegressor`, read from the installed package. Of the {len(outcome)} tests that run {good} pass "
        f"({good / max(1, len(outcome)):.0%}); {sum(aside.values())} others, each of them read, are set aside for the "
        f"reasons below. A test that takes more than {LIMIT} s of a processor fails. What the exchanged "
        "classes translate is said at the top of the script.\n",
        "| fails | how | why |\n|---|---|---|",
        *(
            f"| {test.split('::')[-1]} | {what.removeprefix('failed: ').replace('|', '/')} | {why_not(test)} |"
            for test, what in outcome.items()
            if what != "passed"
        ),
        "\n| set aside, because they ask for | tests |\n|---|---|",
        *(f"| {why} | {count} |" for why, count in aside.items()),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if written:
        (Path(__file__).parent / "results" / "sklearn_suite.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
