"""What X may be: numbers, dense or sparse, a frame with other columns, or texts; checked as scikit-learn checks it; and
the weights of a linear model in the terms of X."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data
from torch import nn

from handful.base.errors import HandfulError, some
from handful.data.open import open as open_source
from handful.data.tables.arrays import is_sparse
from handful.models.plain import Linear
from handful.runs.run import Run
from handful.transform.inputs import SingleInput
from handful.transform.steps.features import ScaleNonzero
from handful.transform.steps.numbers import Impute, MinMax, Standardize

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


def is_text(x: Input) -> bool:
    match x:
        case [str(), *rest]:
            return all(isinstance(row, str) for row in rest)
        case Frame():
            return False
        case _ if getattr(x, "ndim", 0) == 1 and getattr(getattr(x, "dtype", None), "kind", "O") in "OUT":
            return is_text(list(x))  # type: ignore[arg-type]  # an array or a Series
    return False


def _is_other(column: FrameColumn) -> bool:
    if hasattr(column.dtype, "is_numeric"):  # polars
        return not column.dtype.is_numeric()
    return getattr(column.dtype, "kind", "O") not in "iufb"


def columns_of(x: Input, *, varying: bool = False) -> dict[str, object]:
    """The columns of a frame by name; an array is the column x. varying: without those that are the same everywhere."""
    if not isinstance(x, Frame):
        return {"x": list(x) if is_text(x) else x}  # type: ignore[arg-type]
    names = open_source(x).columns if varying else map(str, x.columns)
    return {str(name): x[name] for name in names}


def as_floats(x: Input) -> Input:
    """Whole numbers and truth values [n, features], sparse or not, as float32; anything else as it is."""
    match x:
        case np.ndarray(ndim=2, dtype=np.dtype(kind="i" | "u" | "b")):
            return x.astype(np.float32)
        case _ if is_sparse(x) and x.dtype.kind in "iub":
            return x.astype(np.float32)  # type: ignore[no-any-return]
    return x


def checked(
    estimator: BaseEstimator, x: Input, fitted: Mapping[str, object] | None, *, finite: str | bool, least: int = 1
) -> Input:
    """x as scikit-learn checks it: an array or sparse rows of numbers; a frame with other columns, and texts, as it is.

    fitted: what was learned of the columns, where X of the same kind is wanted; None: X is new, and what is known of it
    is kept in the estimator (n_features_in_, feature_names_in_, mixed_). finite: whether values may be missing; least:
    rows.
    """
    reset = fitted is None
    if reset:
        others = isinstance(x, Frame) and any(_is_other(x[name]) for name in x.columns)
        estimator.mixed_ = others or is_text(x)
    if not estimator.mixed_:
        found: Input = validate_data(
            estimator, x, reset=reset, ensure_all_finite=finite, allow_nd=True, accept_sparse="csr",
            ensure_min_samples=least,
        )  # fmt: skip
        return found
    if fitted is not None and not isinstance(x, Frame):
        if list(fitted) == ["x"] and is_text(x):
            return x
        names = some(getattr(estimator, "feature_names_in_", np.empty(0)).tolist(), 5)
        wanted = f"a DataFrame with the fitted columns, {names}" if names else "a list of texts, as it was fitted on"
        raise HandfulError(f"X must be {wanted}, not {type(x).__name__}")
    validate_data(estimator, x, reset=reset, skip_check_array=True)
    return x


def plain_labels(y: Any) -> Any:
    """y, of pandas' types that may lack values (Int64, boolean) as NumPy's own type; HandfulError where some are
    missing."""
    if _lacks(y):
        raise HandfulError("y lacks values: fill them in or remove such rows")
    kind = getattr(getattr(y, "dtype", None), "numpy_dtype", None)
    return y if kind is None or not hasattr(y, "isna") else y.to_numpy(kind)


def _lacks(y: Any) -> bool:
    if hasattr(y, "isna"):
        return bool(np.any(y.isna()))
    found = np.asarray(y, dtype=object) if isinstance(y, list) and not any(map(np.ndim, y)) else y
    if getattr(getattr(found, "dtype", None), "kind", "") != "O" or found.ndim != 1:
        return False
    return any(label is None or type(label).__name__ == "NAType" or label != label for label in found)


def affine(run: Run, features: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(weights [outputs, features], bias [outputs]), float64: X @ weights.T + bias is what the run's model gives, of a
    regression in the target's units.

    AttributeError where what is learned is not linear in X, so that hasattr(estimator, "coef_") is False.
    """
    layer, inputs = run.model.out if isinstance(run.model, Linear) else run.model, run.pipeline.input
    if not isinstance(layer, nn.Linear):
        raise AttributeError(f"only 'linear' and torch.nn.Linear have coef_ and intercept_, not {run.plan.model}")
    if not isinstance(inputs, SingleInput):
        raise AttributeError("coef_ and intercept_ are for X of numbers alone")
    ends = torch.stack([torch.zeros(features), torch.ones(features)]).double()
    for step in inputs.steps:
        if not isinstance(step, Standardize | MinMax | ScaleNonzero | Impute):
            raise AttributeError(f"{type(step).__name__} is not linear in X, so that there is no coef_")
        ends = (replace(step, clip=None) if isinstance(step, Standardize) else step)(ends)
    weights = layer.weight.detach().cpu().double()
    if ends.shape[1] != features:
        raise AttributeError("missing values are inputs of their own, so that there is no coef_ for each column of X")
    bias = torch.zeros(len(weights)) if layer.bias is None else layer.bias.detach().cpu()
    bias, weights = bias.double() + weights @ ends[0], weights * (ends[1] - ends[0])
    if run.pipeline.target_scale:
        mean, spread = (part.double().expand(len(bias)) for part in run.pipeline.target_scale)
        bias, weights = mean + spread * bias, weights * spread[:, None]
    return weights.numpy(), bias.numpy()
