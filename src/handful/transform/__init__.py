"""Preprocessing steps, fitted on training rows only: for `handful.fit(..., preprocess=[...])`."""

from handful.transform.audio import LogMel
from handful.transform.features import Clock, Untail
from handful.transform.numbers import Categories, Impute, MinMax, Normalize, Standardize, Whiten
from handful.transform.text import Tokenize

__all__ = [
    "Categories",
    "Clock",
    "Impute",
    "LogMel",
    "MinMax",
    "Normalize",
    "Standardize",
    "Tokenize",
    "Untail",
    "Whiten",
]
