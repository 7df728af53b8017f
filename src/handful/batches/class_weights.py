"""Weights for drawing rows with replacement, so that rare classes are seen as often as common ones."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from handful.base.errors import HandfulError


def class_weights(labels: ArrayLike | Tensor, power: float = 1.0) -> NDArray[np.float64]:
    """One weight per row, float64 [n], for `Order(n, shuffle="replacement", weights=...)`: count(class) ** -power.

    power: 1 draws every class equally often, 0 leaves their shares as they are, 0.5 is between (square-root
    sampling, Mahajan et al. 2018, "Exploring the limits of weakly supervised pretraining", section 2.2). Rows
    without a class (-1 of a category) get weight 0. The weights add up to n.

    >>> class_weights([0, 0, 0, 1]).tolist()
    [0.666..., 0.666..., 0.666..., 2.0]
    """
    values = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.ndim != 1 or not len(values):
        raise HandfulError(f"labels must be one value per row, not of shape {list(values.shape)}")
    if not 0.0 <= power <= 1.0:
        raise HandfulError(f"power must lie between 0 and 1, not {power}")
    _, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    weights = (1.0 / counts**power)[codes]
    if values.dtype.kind == "i":
        weights[values < 0] = 0.0
    if not weights.any():
        raise HandfulError("no row has a class, so none can be drawn by class")
    return np.asarray(weights * (len(values) / weights.sum()))
