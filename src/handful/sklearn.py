"""Mini-batch gradient descent as scikit-learn estimators: in pipelines, cross-validation and searches.

There is no partial_fit: a run shuffles, schedules and stops over epochs, which rows that come and go do not have.
"""

import copy
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    _check_y,
    check_consistent_length,
    check_is_fitted,
    validate_data,
)
from torch import Tensor, nn

from handful.base.errors import HandfulError, did_you_mean
from handful.data.open import open as open_source
from handful.fit import fit
from handful.models.base import seeded
from handful.runs.run import Run
from handful.training.objective import Objective

__all__ = ["MiniBatchClassifier", "MiniBatchRegressor"]

Given = str | nn.Module | Callable[[int, int], nn.Module]
_TARGET, _WEIGHT = "handful_target", "handful_weight"  # columns beside the user's own


class _MiniBatch(BaseEstimator):  # type: ignore[misc]
    """What both estimators share. The constructor only stores its parameters, as scikit-learn wants."""

    task: str

    def __init__(
        self,
        model: Given = "table",
        *,
        batch: int | str = "auto",
        optimizer: Any = "adamw",
        lr: float | str = "auto",
        schedule: Any = "cosine",
        until: Any = None,
        valid: float | int | None = 0.1,
        loss: Any = "auto",
        l1: float = 0.0,
        l2: float | str = "auto",
        ema: float | str | None = "auto",
        preprocess: Any = "auto",
        augment: Any = None,
        precision: str = "auto",
        device: str = "auto",
        random_state: Any = 0,
        verbose: bool = False,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.batch = batch
        self.optimizer = optimizer
        self.lr = lr
        self.schedule = schedule
        self.until = until
        self.valid = valid
        self.loss = loss
        self.l1 = l1
        self.l2 = l2
        self.ema = ema
        self.preprocess = preprocess
        self.augment = augment
        self.precision = precision
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
        self.options = options

    def _fit(self, x: Any, y: NDArray[Any], outputs: int, sample_weight: ArrayLike | None, **more: Any) -> Self:
        """Train on checked x and y."""
        seed = _seed(self.random_state)
        columns = _columns(x)
        if hasattr(x, "columns"):
            columns = {name: columns[name] for name in open_source(x).columns}  # without those that never vary
        columns[_TARGET] = y
        given: dict[str, Any] = {
            "target": _TARGET, "task": self.task, "seed": seed, "quiet": not self.verbose, "batch": self._batch(len(y)),
            "optimizer": self.optimizer, "lr": self.lr, "schedule": self.schedule, "until": self.until,
            "valid": self.valid, "loss": self.loss, "l1": self.l1, "l2": self.l2, "ema": self.ema,
            "preprocess": self.preprocess, "augment": self.augment, "precision": self.precision, "device": self.device,
        }  # fmt: skip
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, y, ensure_non_negative=True)
            columns[_WEIGHT] = weight
            given["weight"] = _WEIGHT
        net = _network(self.model, self.n_features_in_, outputs, seed)
        self.run_: Run = fit(net, columns, **{**given, **more, **(self.options or {})})
        self.model_ = self.run_.model
        self.n_iter_ = max(1, int(self.run_.history.last("epoch") or 1))
        return self

    def _batch(self, n: int) -> int | str:
        """The batch asked for, or every training row where there are fewer: folds may be small."""
        if not isinstance(self.batch, int | np.integer) or isinstance(self.batch, bool):
            return self.batch
        held_out = self.valid or 0
        if isinstance(held_out, float | np.floating):
            held_out = min(n - 1, max(1, round(float(held_out) * n)))  # as handful.data.split counts
        return min(int(self.batch), max(1, n - int(held_out)))

    def _checked(self, x: Any, y: Any = None, *, fitting: bool = False) -> Any:
        """x (and y) as scikit-learn checks them: an array of numbers, or a frame with columns of other kinds."""
        of_y: dict[str, Any] = {"multi_output": True, "y_numeric": True} if self.task == "regression" else {}
        if _is_mixed(x):
            validate_data(self, x, reset=fitting, skip_check_array=True)
            if not fitting:
                return x
            y = _check_y(y, **of_y)
            check_consistent_length(x, y)
            return x, y
        finite = "allow-nan" if self.__sklearn_tags__().input_tags.allow_nan else True
        if fitting:
            return validate_data(
                self, x, y, reset=True, ensure_all_finite=finite, allow_nd=True, ensure_min_samples=2, **of_y
            )
        return validate_data(self, x, reset=False, ensure_all_finite=finite, allow_nd=True)

    def _outputs(self, x: Any) -> Tensor:
        """The model's raw outputs [n, ...]."""
        check_is_fitted(self)
        return self.run_.outputs(_columns(self._checked(x)))

    def __getstate__(self) -> dict[str, Any]:
        """What predictions need; the optimizer's state, the loss and the scores stay behind, which may not pickle."""
        state = dict(super().__getstate__())
        if "run_" in state:
            whole = state["run_"].objective
            bare = Objective(whole.model, _no_loss, device=whole.device, autocast=whole.autocast)
            state["run_"] = replace(state["run_"], state=None, folder=None, objective=bare)
        return state

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        own = isinstance(self.model, nn.Module) or callable(self.model)
        tags.input_tags.allow_nan = not own and isinstance(self.preprocess, str) and self.preprocess == "auto"
        tags.target_tags.multi_output = self.task == "regression"
        tags.non_deterministic = self.random_state is None
        return tags


class MiniBatchClassifier(ClassifierMixin, _MiniBatch):  # type: ignore[misc]
    """Classification by mini-batch gradient descent.

    model: "table" (default), "mlp", "linear" or another ready-made model; an nn.Module, of which a copy is trained
        (its outputs are logits [m, classes], or [m] for two classes); or a callable (features, classes) -> nn.Module,
        which is called with torch's random numbers seeded. It takes x, float [m, features].
    random_state: a whole number; None draws one; a numpy RandomState gives one.
    class_weight: "balanced", a dict label -> weight, or None.
    options: other arguments of handful.fit by name, as {"clip_norm": 1.0}.
    The other parameters are those of handful.fit.

    X: array [n, features] (or [n, ...] for an nn.Module), or a DataFrame, whose columns may be categories too for
    ready-made models; missing values are imputed for ready-made models. y: [n] labels of any kind.

    After fit: classes_, n_features_in_, feature_names_in_, n_iter_ (whole epochs), model_ (the trained module) and
    run_ (the handful.Run: history, plan, report). HandfulError is a ValueError.

    >>> from sklearn.datasets import load_iris
    >>> x, y = load_iris(return_X_y=True)
    >>> model = MiniBatchClassifier("mlp", batch=16, lr=0.01, until="epochs(20)").fit(x, y)
    >>> model.score(x, y) > 0.9, model.predict_proba(x[:2]).shape
    (True, (2, 3))
    """

    task = "classification"

    def __init__(
        self,
        model: Given = "table",
        *,
        batch: int | str = "auto",
        optimizer: Any = "adamw",
        lr: float | str = "auto",
        schedule: Any = "cosine",
        until: Any = None,
        valid: float | int | None = 0.1,
        loss: Any = "auto",
        class_weight: Any = None,
        label_smoothing: float = 0.0,
        l1: float = 0.0,
        l2: float | str = "auto",
        ema: float | str | None = "auto",
        preprocess: Any = "auto",
        augment: Any = None,
        precision: str = "auto",
        device: str = "auto",
        random_state: Any = 0,
        verbose: bool = False,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            model, batch=batch, optimizer=optimizer, lr=lr, schedule=schedule, until=until, valid=valid, loss=loss,
            l1=l1, l2=l2, ema=ema, preprocess=preprocess, augment=augment, precision=precision, device=device,
            random_state=random_state, verbose=verbose, options=options,
        )  # fmt: skip
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train on X [n, features] and labels y [n]; sample_weight: [n], at least 0."""
        X, y = self._checked(X, y, fitting=True)
        check_classification_targets(y)
        self.classes_, ids = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise HandfulError(f"y holds only 1 class ({self.classes_[0]}); a classifier needs at least 2")
        ids = ids.reshape(-1).astype(np.int64)
        more = {"class_weight": self._class_weight(), "label_smoothing": self.label_smoothing}
        return self._fit(X, ids, len(self.classes_), sample_weight, **more)

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable label of every row, [n]."""
        likely = self.predict_proba(X).argmax(1)
        return np.asarray(self.classes_[likely])

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probabilities, float64 [n, classes], in the order of classes_."""
        outputs = self._outputs(X)
        known = self.run_.pipeline.probabilities(outputs).numpy()
        ids = [int(c) for c in self.run_.pipeline.classes or ()]
        if len(ids) == len(self.classes_):
            return np.asarray(known)
        whole = np.zeros((len(known), len(self.classes_)))  # a class whose only rows were held out was not learned
        whole[:, ids] = known
        return whole

    def _class_weight(self) -> Any:
        """A dict label -> weight as numbers in the order of the classes; what is not named counts 1."""
        if not isinstance(self.class_weight, dict):
            return self.class_weight
        labels = self.classes_.tolist()
        for label in self.class_weight:
            if label not in labels:
                raise HandfulError(f"class_weight names {label!r}.{did_you_mean(str(label), map(str, labels))}")
        return [float(self.class_weight.get(label, 1.0)) for label in labels]


class MiniBatchRegressor(RegressorMixin, _MiniBatch):  # type: ignore[misc]
    """Regression by mini-batch gradient descent.

    model: "table" (default), "mlp", "linear"; an nn.Module, of which a copy is trained (outputs [m], [m, 1] or [m, k]);
        or a callable (features, outputs) -> nn.Module, which is called with torch's random numbers seeded.
    Other parameters and attributes: as MiniBatchClassifier's. y: [n] or [n, k] numbers. Ready-made models learn the
    standardised target; an nn.Module of your own gets y as it is.

    >>> from sklearn.datasets import load_diabetes
    >>> x, y = load_diabetes(return_X_y=True)
    >>> MiniBatchRegressor("linear", batch=32, lr=0.01, until="epochs(20)").fit(x, y).score(x, y) > 0.4
    True
    """

    task = "regression"

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train on X [n, features] and numbers y [n] or [n, k]; sample_weight: [n], at least 0."""
        X, y = self._checked(X, y, fitting=True)
        y = np.asarray(y, dtype=np.float64)
        self.n_outputs_ = y.shape[1] if y.ndim > 1 else 1
        return self._fit(X, y, self.n_outputs_, sample_weight)

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Numbers [n], or [n, k], in the units of y."""
        outputs = self._outputs(X)
        found = np.asarray(self.run_.pipeline.decode(outputs), dtype=np.float64)
        return found.reshape(len(found)) if self.n_outputs_ == 1 else found


def _is_mixed(x: Any) -> bool:
    """Whether x is a frame (of pandas or polars) in which some column is not of numbers."""
    return hasattr(x, "columns") and hasattr(x, "dtypes") and any(_is_other(x[name]) for name in x.columns)


def _is_other(column: Any) -> bool:
    kind = getattr(column.dtype, "kind", None)
    if hasattr(column.dtype, "is_numeric"):
        return not column.dtype.is_numeric()
    return kind is None or kind not in "iufb"


def _columns(x: Any) -> dict[str, Any]:
    """The columns of a frame by name; an array is the column x."""
    return {str(name): x[name] for name in x.columns} if hasattr(x, "columns") else {"x": x}


def _network(model: Given, features: int, outputs: int, seed: int) -> str | nn.Module:
    """A name as it is; a copy of a module, so that every fit starts alike; or what a callable makes."""
    if isinstance(model, str):
        return model
    if isinstance(model, nn.Module):
        return copy.deepcopy(model)
    if not callable(model):
        raise HandfulError(
            f"model must be a name, an nn.Module or a callable (features, outputs), not {type(model).__name__}"
        )
    with seeded(seed):
        made = model(features, outputs)
    if not isinstance(made, nn.Module):
        raise HandfulError(f"model={model!r} returned {type(made).__name__}, not an nn.Module")
    return made


def _seed(random_state: Any) -> int:
    """A whole number of whatever scikit-learn takes as random_state."""
    if random_state is None:
        return secrets.randbits(31)
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    return int(random_state)


def _no_loss(output: Any, target: Any) -> Tensor:
    raise HandfulError("an estimator that was unpickled predicts; it cannot evaluate or go on training")
