"""Splits: pure functions of the seed that hold the promises of class, group and count."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from handful.base.errors import HandfulError
from handful.data.base import Source, Subset
from handful.data.open import open as open_source
from handful.data.split import HeldOut, k_fold, split
from handful.plan.config import Config


def ids(part: Source) -> Any:
    assert isinstance(part, Subset)
    return part.rows


def labelled(labels: Any) -> Source:
    return open_source({"x": np.arange(len(labels)), "label": np.asarray(labels)}, columns=["x", "label"])


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), min_size=2, max_size=80), st.floats(0.05, 0.95), st.integers(0, 5))
def test_every_row_once_and_every_class_in_both(labels: list[int], fraction: float, seed: int) -> None:
    source = labelled([f"c{v}" for v in labels])
    train, valid = split(source, fraction, seed)
    n, count = len(labels), min(len(labels) - 1, max(1, round(fraction * len(labels))))
    assert sorted([*ids(train), *ids(valid)]) == list(range(n))
    assert np.all(np.diff(ids(valid)) > 0)
    sizes = np.bincount(labels)
    shared = int((sizes >= 2).sum())
    if not 1 <= shared <= min(count, n - count):
        assert len(valid) == count
        return
    held = np.bincount(np.array(labels)[ids(valid)], minlength=len(sizes))
    several = sizes >= 2
    assert np.all(held[several] >= 1)
    assert np.all(held[several] < sizes[several])
    if several.sum() == (sizes > 0).sum():
        assert len(valid) == count
    if len(valid) == count and np.all(sizes[several] * count >= n) and np.all(sizes[several] * (n - count) >= n):
        ideal = sizes * (count / (n - (sizes == 1).sum()))
        assert np.all(np.abs(held - ideal)[several] < 1 + (sizes == 1).sum())


def test_same_seed_same_split_and_no_global_state() -> None:
    source = open_source("wine")
    before = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    first, again, other = (ids(split(source, 0.2, seed)[1]) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[arg-type]


def test_every_row_is_held_out_equally_often() -> None:
    source = labelled(["a"] * 12 + ["b"] * 8)
    held = np.zeros(20)
    for seed in range(600):
        held[ids(split(source, 0.25, seed)[1])] += 1
    # 600 draws at 1/4: mean 150, standard deviation 10.6; 5 standard deviations
    assert np.abs(held - 150).max() < 53


def test_count_fraction_source_and_notes() -> None:
    source = open_source("digits")
    assert len(split(source, 100)[1]) == 100
    train, valid = split(source, 0.1)
    assert (len(train), len(valid)) == (1617, 180)
    assert any("180 of 1,797 rows" in note for note in valid.notes)
    assert not any("held out" in note for note in source.notes)
    assert split(source, valid) == (source, valid)
    assert split(train, 0.5)[0].take([0]).tensor("image").shape == (1, 1, 8, 8)


def test_regression_and_identifiers_are_not_stratified() -> None:
    source = open_source({"x": np.arange(100), "y": np.arange(100)})
    assert len(split(source, 0.1)[1]) == 10
    assert len(split(open_source("diabetes"), 0.1)[1]) == 44


@settings(deadline=None)
@given(st.lists(st.integers(0, 8), min_size=3, max_size=60), st.floats(0.1, 0.9), st.integers(0, 3))
def test_no_group_in_both(groups: list[int], fraction: float, seed: int) -> None:
    assume(len(set(groups)) >= 2)
    source = labelled(np.arange(len(groups)) % 2)
    train, valid = split(source, fraction, seed, groups=groups)
    left, right = set(np.array(groups)[ids(train)]), set(np.array(groups)[ids(valid)])
    assert left
    assert right
    assert not left & right
    assert len(train) + len(valid) == len(groups)


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=4, max_size=60), st.integers(2, 4), st.integers(0, 3), st.booleans())
def test_folds_cover_every_row_once(labels: list[int], k: int, seed: int, grouped: bool) -> None:
    assume(not grouped or len(set(labels)) >= max(2, k))
    source = labelled([f"c{v}" for v in labels])
    folds = k_fold(source, k, seed, groups=labels if grouped else None)
    assert sorted(np.concatenate([ids(valid) for _, valid in folds])) == list(range(len(labels)))
    for train, valid in folds:
        assert sorted([*ids(train), *ids(valid)]) == list(range(len(labels)))
        assert len(valid) > 0
        if grouped:
            assert not set(np.array(labels)[ids(train)]) & set(np.array(labels)[ids(valid)])
    if not grouped:
        sizes = [len(valid) for _, valid in folds]
        assert max(sizes) - min(sizes) <= 1
        counts = np.array([np.bincount(np.array(labels)[ids(v)], minlength=5) for _, v in folds])
        if min(sizes) >= len(set(labels)):
            shared = np.bincount(labels, minlength=5) >= 2
            if 1 <= shared.sum() <= len(labels) // k:
                assert (counts.max(0) - counts.min(0)).max() <= 1


BAD: list[tuple[Any, dict[str, Any], str]] = [
    (0.0, {}, "a fraction must be between 0 and 1"),
    (1.0, {}, "a fraction must be between 0 and 1"),
    (float("nan"), {}, "must be between 0 and 1"),
    (0, {}, "give 1 to 149"),
    (150, {}, "give 1 to 149"),
    (True, {}, "must be a fraction"),
    ("x", {}, "must be a fraction"),
    (2, {"stratify": True}, "2 rows cannot hold each of the 3 classes"),
    (0.1, {"stratify": "targett"}, "Did you mean 'target'?"),
    (0.1, {"stratify": "petal width (cm)"}, "has no classes to stratify by"),
    (0.1, {"groups": "nothing"}, "has no column 'nothing'"),
    (0.1, {"groups": [1, 2]}, "one value for each of 150 rows"),
    (0.1, {"groups": [1] * 150}, "all rows are in one group"),
    (0.1, {"groups": "target", "stratify": True}, "either by groups or stratified"),
]


@pytest.mark.parametrize(("valid", "options", "says"), BAD)
def test_impossible_splits(valid: Any, options: Any, says: str) -> None:
    with pytest.raises(HandfulError) as caught:
        split(open_source("iris"), valid, **options)
    assert says in str(caught.value)


def test_of_many_rows_no_more_are_held_out_than_tell_scores_unless_asked_for() -> None:
    assert HeldOut.of(Config.of({}).valid, 2_000_000) == HeldOut(20_000)
    assert HeldOut.of(Config.of({}).valid, 2_000) == HeldOut.of(0.1, 2_000_000) == HeldOut(0.1)


def test_impossible_folds_and_single_rows() -> None:
    source = open_source("iris")
    for k in (1, 151, 2.5, True):
        with pytest.raises(HandfulError, match=r"k must be (2 to 150|a whole number)"):
            k_fold(source, k)  # type: ignore[arg-type]
    with pytest.raises(HandfulError, match="3 groups cannot fill 4 folds"):
        k_fold(source, 4, groups="target")
    with pytest.raises(HandfulError, match="1 row, too few"):
        split(source.subset(np.array([3])), 0.5)


def test_validation_data_must_match() -> None:
    source = open_source("iris")
    with pytest.raises(HandfulError, match="no column 'sepal length"):
        split(source, open_source("wine"))
    a, b = labelled(["u", "v", "u"]), labelled(["u", "w", "u"])
    with pytest.raises(HandfulError, match=r"columns=train\.columns"):
        split(a, b)


@pytest.mark.parametrize("fraction", [0.05, 0.95])
def test_rare_class_is_in_both(fraction: float) -> None:
    labels = np.array(["a"] * 97 + ["b"] * 2 + ["c"])
    for seed in range(5):
        train, valid = split(labelled(labels), fraction, seed)
        assert len(valid) == round(fraction * 100)
        assert (labels[ids(train)] == "b").sum() == (labels[ids(valid)] == "b").sum() == 1
        assert "c" in labels[ids(train)]
