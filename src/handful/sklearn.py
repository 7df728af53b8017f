"""Mini-batch gradient descent as scikit-learn estimators: in pipelines, cross-validation and searches.

There is no partial_fit: a run shuffles, schedules and stops over epochs, which rows that come and go do not have.
"""

import copy
import secrets
from collections.abc import Callable, Iterable
from dataclasses import replace
from inspect import signature
from typing import Protocol, Self, Unpack, runtime_checkable

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

from handful.base.errors import HandfulError, did_you_mean, some
from handful.data.open import open as open_source
from handful.fit import fit
from handful.models.base import seeded
from handful.plan.balance import ClassWeight, class_weights
from handful.plan.config import OPTIONS, ConfigOptions, TrainingOptions, spelled_out
from handful.runs.run import Run
from handful.training.objective import Objective

__all__ = ["MiniBatchClassifier", "MiniBatchRegressor"]

Given = str | nn.Module | Callable[[int, int], nn.Module]
Array = NDArray[np.generic]


class FrameColumn(Protocol):
    """A column of a frame."""

    dtype: object


@runtime_checkable
class Frame(Protocol):
    """A DataFrame, of pandas or polars."""

    @property
    def columns(self) -> Iterable[str]: ...
    def __getitem__(self, name: str) -> FrameColumn: ...


Input = ArrayLike | Frame
_TARGET, _WEIGHT = "handful_target", "handful_weight"  # columns beside the user's own


class ClassifierOptions(TrainingOptions, total=False):
    """The options that a classifier takes by name."""

    class_weight: ClassWeight
    label_smoothing: float


class _MiniBatch(BaseEstimator):  # type: ignore[misc]
    """What both estimators share. The constructor only stores its parameters, as scikit-learn wants."""

    task: str
    model: Given
    valid: float | None
    random_state: int | np.random.RandomState | None

    @spelled_out
    def __init__(
        self,
        model: Given = "table",
        *,
        random_state: int | np.random.RandomState | None = 0,
        verbose: bool = False,
        options: ConfigOptions | None = None,
        **given: Unpack[TrainingOptions],
    ) -> None:
        self._store(model=model, random_state=random_state, verbose=verbose, options=options, **given)

    def _store(self, **given: object) -> None:
        """Keep the parameters of the constructor under their names, with Config's defaults for the rest."""
        known = signature(type(self)).parameters
        for name in given:
            if name not in known:
                raise TypeError(f"{type(self).__name__} has no parameter '{name}'.{did_you_mean(name, known)}")
        for name, parameter in known.items():
            setattr(self, name, given.get(name, parameter.default))

    def _fit(self, x: Input, y: Array, outputs: int, sample_weight: ArrayLike | None, **more: object) -> Self:
        """Train on checked x and y."""
        seed = _seed(self.random_state)
        columns = _columns(x)
        if isinstance(x, Frame):
            columns = {name: columns[name] for name in open_source(x).columns}  # without those that never vary
        columns[_TARGET] = y
        given = {name: value for name, value in self.get_params(deep=False).items() if name in OPTIONS}
        given |= {"target": _TARGET, "task": self.task, "seed": seed, "quiet": not self.verbose, "deterministic": True}
        given |= {"batch": self._batch(len(y)), **more}
        if sample_weight is not None:
            columns[_WEIGHT] = _check_sample_weight(sample_weight, y, ensure_non_negative=True)
            given["weight"] = _WEIGHT
        net = _network(self.model, self.n_features_in_, outputs, seed)
        self.run_: Run = fit(net, columns, **given | dict(self.options or {}))
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

    def _checked(self, x: Input) -> Input:
        """x as scikit-learn checks it: an array of numbers; as it is where a frame with other columns was fitted."""
        if self.mixed_:
            validate_data(self, x, reset=False, skip_check_array=True)
            if not isinstance(x, Frame):
                names = some(self.feature_names_in_.tolist(), 5)
                raise HandfulError(f"X must be a DataFrame with the fitted columns, {names}, not {type(x).__name__}")
            return x
        return validate_data(self, x, reset=False, ensure_all_finite=self._finite(), allow_nd=True)  # type: ignore[no-any-return]

    def _checked_both(self, x: Input, y: ArrayLike) -> tuple[Input, Array]:
        """x and y as scikit-learn checks them before fitting, with the number and names of the columns noted."""
        of_y = {"multi_output": True, "y_numeric": True} if self.task == "regression" else {}
        self.mixed_ = _is_mixed(x)
        if self.mixed_:
            validate_data(self, x, reset=True, skip_check_array=True)
            checked: Array = _check_y(y, **of_y)
            check_consistent_length(x, checked)
            return x, checked
        return validate_data(  # type: ignore[no-any-return]
            self, x, y, reset=True, ensure_all_finite=self._finite(), allow_nd=True, ensure_min_samples=2, **of_y
        )

    def _finite(self) -> str | bool:
        return "allow-nan" if self.__sklearn_tags__().input_tags.allow_nan else True

    def _outputs(self, x: Input) -> object:
        """The model's raw outputs [n, ...]."""
        check_is_fitted(self)
        return self.run_.outputs(_columns(self._checked(x)))

    def __getstate__(self) -> dict[str, object]:
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
        # a clock is read only where it is asked for
        timed = not (self.options or {}).get("deterministic", True) or "seconds" in str(self.until)
        tags.non_deterministic = self.random_state is None or timed
        return tags


class MiniBatchClassifier(ClassifierMixin, _MiniBatch):  # type: ignore[misc]
    """Classification by mini-batch gradient descent.

    model: "table" (default), "mlp", "linear" or another ready-made model; an nn.Module, of which a copy is trained
        (its outputs are logits [m, classes], or [m] for two classes); or a callable (features, classes) -> nn.Module,
        which is called with torch's random numbers seeded. It takes x, float [m, features].
    random_state: a whole number; None draws one; a numpy RandomState gives one. The same number gives the same model:
        no choice depends on a clock, unless options={"deterministic": False} lets step times be measured.
    class_weight: "balanced", a dict label -> weight, or None.
    options: other arguments of handful.fit by name, as {"clip_norm": 1.0}.
    The other parameters are those of handful.fit, with the same defaults.

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

    @spelled_out
    def __init__(
        self,
        model: Given = "table",
        *,
        random_state: int | np.random.RandomState | None = 0,
        verbose: bool = False,
        options: ConfigOptions | None = None,
        **given: Unpack[ClassifierOptions],
    ) -> None:
        self._store(model=model, random_state=random_state, verbose=verbose, options=options, **given)

    def fit(self, X: Input, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train on X [n, features] and labels y [n]; sample_weight: [n], at least 0."""
        X, y = self._checked_both(X, y)
        check_classification_targets(y)
        self.classes_, ids = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise HandfulError(f"y holds only 1 class ({self.classes_[0]}); a classifier needs at least 2")
        ids = ids.reshape(-1).astype(np.int64)
        return self._fit(X, ids, len(self.classes_), sample_weight, class_weight=self._class_weight())

    def predict(self, X: Input) -> Array:
        """The most probable label of every row, [n]."""
        likely = self.predict_proba(X).argmax(1)
        return np.asarray(self.classes_[likely])

    def predict_proba(self, X: Input) -> NDArray[np.float64]:
        """Probabilities, float64 [n, classes], in the order of classes_."""
        outputs = self._outputs(X)
        known = self.run_.pipeline.probabilities(outputs).numpy()
        ids = [int(c) for c in self.run_.pipeline.classes or ()]
        if len(ids) == len(self.classes_):
            return np.asarray(known)
        whole = np.zeros((len(known), len(self.classes_)))  # a class whose only rows were held out was not learned
        whole[:, ids] = known
        return whole

    def _class_weight(self) -> ClassWeight:
        """Weights by label as weights by class id, which `fit` learns."""
        asked: ClassWeight = self.class_weight
        return asked if isinstance(asked, str) else class_weights(asked, self.classes_.tolist())


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

    def fit(self, X: Input, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train on X [n, features] and numbers y [n] or [n, k]; sample_weight: [n], at least 0."""
        X, y = self._checked_both(X, y)
        y = np.asarray(y, dtype=np.float64)
        self.n_outputs_ = y.shape[1] if y.ndim > 1 else 1
        return self._fit(X, y, self.n_outputs_, sample_weight)

    def predict(self, X: Input) -> NDArray[np.float64]:
        """Numbers [n], or [n, k], in the units of y."""
        outputs = self._outputs(X)
        found = np.asarray(self.run_.pipeline.decode(outputs), dtype=np.float64)
        return found.reshape(len(found)) if self.n_outputs_ == 1 else found


def _is_mixed(x: Input) -> bool:
    """Whether x is a frame in which some column is not of numbers."""
    return isinstance(x, Frame) and any(_is_other(x[name]) for name in x.columns)


def _is_other(column: FrameColumn) -> bool:
    if hasattr(column.dtype, "is_numeric"):  # polars
        return not column.dtype.is_numeric()
    return getattr(column.dtype, "kind", "O") not in "iufb"


def _columns(x: Input) -> dict[str, object]:
    """The columns of a frame by name; an array is the column x."""
    return {str(name): x[name] for name in x.columns} if isinstance(x, Frame) else {"x": x}


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


def _seed(random_state: int | np.random.RandomState | None) -> int:
    """A whole number of whatever scikit-learn takes as random_state."""
    if random_state is None:
        return secrets.randbits(31)
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    return int(random_state)


def _no_loss(output: object, target: object) -> Tensor:
    raise HandfulError("an estimator that was unpickled predicts; it cannot evaluate or go on training")
