"""Preprocessing steps, fitted on training rows only: for `handful.fit(..., preprocess=[...])`."""

from handful.transform.steps.audio import LogMel
from handful.transform.steps.categories import Categories
from handful.transform.steps.features import CyclicTime, RobustAsinh, ScaleNonzero
from handful.transform.steps.numbers import Impute, MinMax, Normalize, Standardize, Whiten
from handful.transform.steps.text import Tokenize

__all__ = [
    "Categories",
    "CyclicTime",
    "Impute",
    "LogMel",
    "MinMax",
    "Normalize",
    "RobustAsinh",
    "ScaleNonzero",
    "Standardize",
    "Tokenize",
    "Whiten",
]
