"""The best of a history against a plain search."""

import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from handful.base import score

NAN, INF = float("nan"), float("inf")


def rows(*values: float, name: str = "valid_loss") -> list[dict[str, Any]]:
    return [{"step": i, "epoch": float(i), name: value} for i, value in enumerate(values)]


@settings(deadline=None)
@given(st.lists(st.sampled_from([1.0, 2.0, 3.0, NAN, INF, -INF]), max_size=12), st.booleans())
def test_best(values: list[float], lower: bool) -> None:
    name = "valid_loss" if lower else "valid_accuracy"
    worst = INF if lower else -INF
    usable = [(v if lower else -v, i) for i, v in enumerate(values) if not math.isnan(v) and v != worst]
    expected = (min(usable)[1], values[min(usable)[1]]) if usable else None
    assert score.best(rows(*values, name=name), name) == expected
