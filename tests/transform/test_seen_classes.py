"""Rows of classes that training did not have: left out of scores and said, a tenth at most; more are refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import handful
from handful.base.errors import HandfulError
from handful.data.base import Source
from handful.data.split import split

LABELS = {
    "names": ["cat", "dog", "emu"],
    "whole numbers": [1, 2, 7],
    "names of numbers": ["01", "02", "10"],
    "truth": ["True", "False", "maybe"],
}


def frame(kind: str, unseen: int, n: int = 60) -> pd.DataFrame:
    generator, labels = np.random.default_rng(0), LABELS[kind]
    which = generator.integers(0, 2, n)
    x = which + 0.1 * generator.normal(size=n)
    y = np.array([labels[i] for i in which], dtype=object)
    y[n - unseen :] = labels[2]
    table = pd.DataFrame({"x": x, "z": generator.normal(size=n), "label": y})
    return table if kind != "whole numbers" else table.astype({"label": int})


def trained(kind: str, **options: object) -> handful.Run:
    start = frame(kind, 0)
    if kind == "truth":
        start.loc[0, "label"] = "unknown"  # so that the column holds names
    return handful.fit(
        "linear", handful.open(start, target="label"), batch=8, lr=0.05, until=handful.stop.epochs(8), **options  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize("kind", [*LABELS])
@pytest.mark.parametrize("as_file", [False, True])
def test_unseen_classes_are_left_out_and_said(
    kind: str, as_file: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, test = trained(kind), frame(kind, 5)
    data: object = test
    if as_file:
        test.to_csv(tmp_path / "test.csv", index=False)
        data = tmp_path / "test.csv"
    capsys.readouterr()
    scores = run.evaluate(data)
    said = capsys.readouterr().err
    assert "5 of the 60 rows" in said
    assert str(LABELS[kind][2]) in said
    assert "0.9167 times" in said
    known = run.evaluate(test[:-5])
    assert scores == known
    right = np.mean([str(a) == str(b) for a, b in zip(run.predict(test), test["label"])])
    assert scores["accuracy"] * 55 / 60 == pytest.approx(right)
    found = run.evaluation(data)
    assert found.rows == 55
    assert "5 of the 60 rows" in found.notes[0]


@pytest.mark.parametrize("kind", [*LABELS])
def test_many_unseen_classes_are_an_error_in_the_labels(kind: str) -> None:
    run = trained(kind)
    with pytest.raises(HandfulError, match=r"in row 45 .*a class that the training rows do not have"):
        run.evaluate(frame(kind, 15))


def test_whole_numbers_where_training_had_names() -> None:
    names = frame("whole numbers", 0).astype({"label": str})
    names["label"] = names["label"].replace({"1": "one", "2": "2"})
    run = handful.fit(
        "linear", handful.open(names, target="label"), batch=8, lr=0.05, until=handful.stop.epochs(8), quiet=True
    )
    test = frame("whole numbers", 0)
    test = test[test.label == 2].reset_index(drop=True)
    test.loc[:1, "label"] = 7
    scores = run.evaluate(test)
    assert scores == run.evaluate(test[2:].astype({"label": str}))


def test_held_out_rows_of_unseen_classes_are_noted() -> None:
    run = trained("names", valid=frame("names", 4))
    assert any("4 of the 60 rows" in note and "'emu'" in note for note in run.plan.notes)
    assert run.history[-1]["valid_accuracy"] == pytest.approx(1.0)


def test_a_class_of_one_row_is_learned_where_few_rows_are_held_out() -> None:
    labels = ["human"] * 30 + [f"droid {i}" for i in range(20)] + ["ewok", "ewok", "hutt", "hutt", "gungan", "gungan"]
    source = handful.open({"x": np.arange(56.0), "species": labels}, target="species")

    def classes_of(part: Source) -> set[str]:
        codes = np.asarray(part.read_column("species", np.arange(len(part))))
        names = part.columns["species"].classes or ()
        return {names[int(code)] for code in codes}

    for seed in range(20):
        train, held = split(source, 3, seed)
        assert len(held) == 3
        assert classes_of(train) == set(labels)
    run = handful.fit("linear", source, valid=3, batch=8, lr=0.1, until=handful.stop.epochs(1))
    assert "valid_accuracy" in run.history[-1]


def test_labels_that_are_all_different_are_split_at_random() -> None:
    source = handful.open({"x": np.arange(40.0), "name": [f"n{i}" for i in range(40)]}, target="name")
    train, held = split(source, 4, 0)
    assert (len(train), len(held)) == (36, 4)
