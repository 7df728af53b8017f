"""The weights of a linear model in the terms of X, as scikit-learn's tools for choosing features read them."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from handful.models.plain import Linear
from handful.runs.run import Run
from handful.transform.inputs import SingleInput
from handful.transform.steps.features import ScaleNonzero
from handful.transform.steps.numbers import Impute, MinMax, Standardize


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
