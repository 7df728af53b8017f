"""The two estimators: what is theirs is the target."""

from typing import Self, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_y, check_array, check_consistent_length, column_or_1d

from handful.base.errors import HandfulError
from handful.plan.balance import ClassWeight, class_weights
from handful.plan.config import ConfigOptions, TrainingOptions, spelled_out
from handful.sklearn.base import Given, MiniBatch, RandomState
from handful.sklearn.inputs import Array, Input, plain_labels

Labels = ArrayLike | None


class ClassifierOptions(TrainingOptions, total=False):
    """The options that a classifier takes by name."""

    class_weight: ClassWeight
    label_smoothing: float


_TOGETHER = "handful.fit(..., target='kind,size') learns such columns together, each as it is"


class MiniBatchClassifier(ClassifierMixin, MiniBatch):  # type: ignore[misc]
    """Classification by mini-batch gradient descent.

    model: "table" (default), "mlp", "linear" or another ready-made model; an nn.Module, of which a copy is trained
        (its outputs are logits [m, classes], or [m] for two classes); or a callable (features, classes) -> nn.Module,
        which is called with torch's random numbers seeded. It takes x, float [m, features]. For texts: "text".
    random_state: a whole number; None draws one; a numpy RandomState or Generator gives one. The same number gives the
        same model: no choice depends on a clock, unless options={"deterministic": False} lets step times be measured.
    warm_start: whether fit goes on from the weights and the preprocessing of the fit before.
    class_weight: "balanced", a dict label -> weight, or None.
    options: other arguments of handful.fit by name, as {"clip_norm": 1.0}.
    The other parameters are those of handful.fit, with the same defaults. Options of a model or an optimizer that is
    given by name are parameters for searches: `model__hidden`, `optimizer__momentum`.

    X: array or sparse matrix [n, features] (or [n, ...] for an nn.Module); a DataFrame, whose columns may be
    categories too for ready-made models, and which is an array where all are numbers, identifiers too; a list of
    texts. Missing values are imputed for ready-made models. y: [n] labels of any kind, or [n, k] of 0 and 1, for
    labels that a row may have together.

    After fit: classes_, n_features_in_, feature_names_in_, n_iter_ (whole epochs), loss_curve_ (mean training loss of
    each epoch), model_ (the trained module) and run_ (the handful.Run: history, plan, report); of linear models coef_
    and intercept_, in the units of X. HandfulError is a ValueError.

    >>> from sklearn.datasets import load_iris
    >>> x, y = load_iris(return_X_y=True)
    >>> model = MiniBatchClassifier("mlp", batch=16, lr=0.01, until="epochs(20)").fit(x, y)
    >>> model.score(x, y) > 0.9, model.predict_proba(x[:2]).shape
    (True, (2, 3))
    """

    task = "classification"
    classes_: Array
    multilabel_: bool

    @spelled_out
    def __init__(
        self,
        model: Given = "table",
        *,
        random_state: RandomState = 0,
        warm_start: bool = False,
        verbose: bool = False,
        options: ConfigOptions | None = None,
        **given: Unpack[ClassifierOptions],
    ) -> None:
        self._store(
            model=model, random_state=random_state, warm_start=warm_start, verbose=verbose, options=options, **given
        )

    def fit(self, X: Input, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train on X [n, features] and labels y [n] or [n, k]; sample_weight: [n], at least 0."""
        X, y = self._checked(X, y, fresh=not self._goes_on, least=2)
        several = y.ndim == 2
        found = np.arange(y.shape[1]) if several else np.unique(y)
        if self._goes_on and not (several == self.multilabel_ and np.array_equal(found, self.classes_)):
            raise HandfulError(f"warm_start goes on with the classes {self.classes_}, but y has {found}")
        if len(found) < 2 and not several:
            raise HandfulError(f"y holds only 1 class ({found[0]}); a classifier needs at least 2")
        self.classes_, self.multilabel_ = found, several
        return self._fit(X, self._ids(y), len(found), sample_weight, class_weight=self._class_weight())

    def partial_fit(
        self, X: Input, y: ArrayLike, classes: Labels = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """One pass over some rows, from where the last call, or fit, has come to.

        classes: all labels that will occur, at the first call. Every row is taken once, in mini-batches of nearly one
        size (of at most `batch`, or 32 where that is left open); where they do not divide the rows, the last is filled
        up with rows of the same call. The rate is constant: that of `lr`, or the optimizer's usual one. X is taken as
        it is (standardise it before), unless fit or `preprocess` has decided otherwise. Nothing is held out.
        """
        first = not hasattr(self, "run_")
        if first and classes is None:
            raise HandfulError("the first call of partial_fit needs classes=[...], all labels that will occur")
        if isinstance(self.class_weight, str):
            raise HandfulError("class_weight='balanced' counts all rows, which partial_fit never has: give numbers")
        X, y = self._checked(X, y, fresh=first, least=1)
        said: Array | None = None if classes is None else np.unique(np.asarray(classes))
        known = self.classes_ if said is None or not first else said
        if said is not None and not np.array_equal(said, known):
            raise HandfulError(f"classes={said} are not those of the first call, {known}")
        for label in [] if y.ndim == 2 else np.setdiff1d(y, known)[:1]:
            raise HandfulError(f"y holds {label!r}, which is not among the classes {known}")
        if first and len(known) < 2:
            raise HandfulError(f"a classifier needs at least 2 classes, not {known}")
        self.classes_, self.multilabel_ = known, y.ndim == 2
        return self._pass(X, self._ids(y), len(known), sample_weight, class_weight=self._class_weight())

    def predict(self, X: Input) -> Array:
        """The most probable label of every row, [n]; of labels that a row may have together, 0 or 1 each, [n, k]."""
        likely = self.predict_proba(X)
        return (likely > 0.5).astype(np.int64) if self.multilabel_ else np.asarray(self.classes_[likely.argmax(1)])

    def predict_proba(self, X: Input) -> NDArray[np.float64]:
        """Probabilities, float64 [n, classes], in the order of classes_."""
        outputs = self._outputs(X)
        known = self.run_.pipeline.probabilities(outputs).numpy()
        ids = [int(c) for c in self.run_.pipeline.classes or ()]
        if self.multilabel_ or len(ids) == len(self.classes_):
            return np.asarray(known)
        whole = np.zeros((len(known), len(self.classes_)))  # a class whose only rows were held out was not learned
        whole[:, ids] = known
        return whole

    def predict_log_proba(self, X: Input) -> NDArray[np.float64]:
        """The logarithm of the probabilities, float64 [n, classes]."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.predict_proba(X)))

    def _as_linear(self, weights: NDArray[np.float64], bias: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        two = len(weights) == 2 and not self.multilabel_  # one row of weights, for the second class
        return (weights[1:] - weights[:1], bias[1:] - bias[:1]) if two else (weights, bias)

    @property
    def _task(self) -> str:
        return "multilabel" if self.multilabel_ else self.task

    def _checked(self, x: Input, y: ArrayLike, *, fresh: bool, least: int) -> tuple[Input, Array]:
        x, y = self._checked_x(x, y, fresh, least), plain_labels(y)
        try:
            kind = type_of_target(y, raise_unknown=True)
        except TypeError:  # columns of numbers beside columns of words
            kind = "mixed"
        if kind in ("mixed", "multiclass-multioutput", "continuous-multioutput"):
            raise HandfulError(f"y has several columns that are not all 0 and 1: {_TOGETHER}")
        if kind.startswith("multilabel"):
            y = check_array(y, accept_sparse=["csr"], dtype=None)
            labels: Array = np.asarray(y.toarray() if hasattr(y, "toarray") else y, dtype=np.uint8)
        else:
            labels = column_or_1d(y, warn=True)
            check_classification_targets(labels)
        check_consistent_length(x, labels)
        return x, labels

    def _ids(self, y: Array) -> Array:
        return y if self.multilabel_ else np.searchsorted(self.classes_, y).astype(np.int64)

    def _shape_of_target(self, rows: int, y: Array) -> Array:
        ids = np.arange(rows) % max(2, len(self.classes_))
        return np.repeat(ids[:, None] % 2, y.shape[1], 1).astype(np.uint8) if y.ndim == 2 else ids

    def _class_weight(self) -> ClassWeight:
        """Weights by label as weights by class id, which `fit` learns."""
        asked: ClassWeight = self.class_weight
        return asked if isinstance(asked, str) else class_weights(asked, self.classes_.tolist())

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MiniBatchRegressor(RegressorMixin, MiniBatch):  # type: ignore[misc]
    """Regression by mini-batch gradient descent.

    model: "table" (default), "mlp", "linear"; an nn.Module, of which a copy is trained (outputs [m], [m, 1] or [m, k]);
        or a callable (features, outputs) -> nn.Module, which is called with torch's random numbers seeded.
    Other parameters and attributes: as MiniBatchClassifier's. y: [n] or [n, k] numbers. Ready-made models learn the
    standardised target; an nn.Module of your own, and partial_fit, take y as it is.

    >>> from sklearn.datasets import load_diabetes
    >>> x, y = load_diabetes(return_X_y=True)
    >>> MiniBatchRegressor("linear", batch=32, lr=0.01, until="epochs(20)").fit(x, y).score(x, y) > 0.4
    True
    """

    task = "regression"
    n_outputs_: int

    def fit(self, X: Input, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train on X [n, features] and numbers y [n] or [n, k]; sample_weight: [n], at least 0."""
        X, y = self._checked(X, y, fresh=not self._goes_on, least=2)
        return self._fit(X, y, self.n_outputs_, sample_weight)

    def partial_fit(self, X: Input, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """One pass over some rows, from where the last call, or fit, has come to; see
        `MiniBatchClassifier.partial_fit`. y is taken as it is, unless fit came before."""
        X, y = self._checked(X, y, fresh=not hasattr(self, "run_"), least=1)
        return self._pass(X, y, self.n_outputs_, sample_weight)

    def predict(self, X: Input) -> NDArray[np.float64]:
        """Numbers [n], or [n, k], in the units of y."""
        outputs = self._outputs(X)
        found = np.asarray(self.run_.pipeline.decode(outputs), dtype=np.float64)
        return found.reshape(len(found)) if self.n_outputs_ == 1 else found

    def _as_linear(self, weights: NDArray[np.float64], bias: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        return (weights[0] if self.n_outputs_ == 1 else weights), bias

    def _checked(self, x: Input, y: ArrayLike, *, fresh: bool, least: int) -> tuple[Input, Array]:
        x = self._checked_x(x, y, fresh, least)
        try:
            read = _check_y(y, multi_output=True, y_numeric=True, estimator=self)
            numbers: Array = np.asarray(read, dtype=np.float64)
        except ValueError as error:
            if not str(error).startswith("could not convert string"):
                raise
            raise HandfulError(f"y holds words ({error}): MiniBatchClassifier learns classes; {_TOGETHER}") from error
        check_consistent_length(x, numbers)
        outputs = numbers.shape[1] if numbers.ndim > 1 else 1
        if not fresh and outputs != self.n_outputs_:
            raise HandfulError(f"y has {outputs} numbers per row, but {self.n_outputs_} at the first call")
        self.n_outputs_ = outputs
        return x, numbers

    def _shape_of_target(self, rows: int, y: Array) -> Array:
        signs = np.where(np.arange(rows) % 2, 1.0, -1.0)  # mean 0, deviation 1: the numbers are learned as they are
        return np.repeat(signs[:, None], y.shape[1], 1) if y.ndim == 2 else signs
