"""Names, labels and characters are compared in composed form (Unicode NFC), and come back as training spelled them."""

import unicodedata

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

import handful

QUICK = {"quiet": True, "until": "epochs(8)", "batch": 32, "lr": 0.05}
CITIES = ["Köln", "Zürich", "Genève", "Bern"]
LABELS = ["oui", "modéré", "très", "non"]


def as_composed(text):
    return unicodedata.normalize("NFC", text)


def as_decomposed(text):
    return unicodedata.normalize("NFD", text)


def frame(spelled, n=160):
    """A label for each city; `spelled` is called with a word and its row."""
    which = np.random.default_rng(0).integers(0, 4, n)
    return pd.DataFrame({
        "city": [spelled(CITIES[k], i) for i, k in enumerate(which)],
        "size": np.random.default_rng(1).normal(size=n).round(3),
        "label": [spelled(LABELS[k], i) for i, k in enumerate(which)],
    })  # fmt: skip


SPELLED = {
    "composed": lambda word, i: as_composed(word),
    "decomposed": lambda word, i: as_decomposed(word),
    "both": lambda word, i: (as_composed, as_decomposed)[i % 2](word),
}


@pytest.fixture(scope="module", params=SPELLED)
def trained(request, tmp_path_factory):
    """A table spelled in one way, and a run on it."""
    data, path = frame(SPELLED[request.param]), tmp_path_factory.mktemp(request.param) / "train.csv"
    data.to_csv(path, index=False)
    return data, handful.fit("table", path, target="label", **QUICK)


@pytest.mark.parametrize("way", ["csv", "parquet", "pandas", "polars", "categorical", "dicts", "store", "text store"])
def test_a_row_is_the_same_however_its_letters_are_written(trained, way, tmp_path):
    data, run = trained
    whole, words = run.outputs(data), run.predict(data)
    assert run.evaluate(data)["accuracy"] > 0.9
    for name, other in SPELLED.items():
        later = frame(other)
        match way:
            case "csv" | "store":
                later.to_csv(tmp_path / "new.csv", index=False)
                given = tmp_path / "new.csv"
                if way == "store":
                    given = handful.prepare(given, tmp_path / f"store-{name}", target="label")
            case "text store":
                given = handful.prepare(later.astype({"city": "category"}), tmp_path / f"store-{name}", target="label")
            case "parquet":
                later.to_parquet(tmp_path / "new.parquet")
                given = tmp_path / "new.parquet"
            case "polars":
                given = pl.DataFrame(later)
            case "categorical":
                given = later.astype({"city": "category", "label": "category"})
            case "dicts":
                given = later.to_dict("records")
            case _:
                given = later
        assert torch.equal(run.outputs(given), whole)
        assert run.predict(given).tolist() == words.tolist()
        assert run.evaluate(given) == run.evaluate(data)


def test_labels_come_back_as_they_were_first_written_and_the_rest_is_said(tmp_path):
    first = {k: SPELLED["both"](LABELS[k], i) for i, k in reversed(list(enumerate(
        np.random.default_rng(0).integers(0, 4, 160))))}  # fmt: skip
    data = frame(SPELLED["both"])
    run = handful.fit("table", data, target="label", valid=None, class_weight={"modéré": 2.0}, **QUICK)
    assert set(run.pipeline.classes) == set(first.values())
    assert set(run.predict(data)) <= set(first.values())
    assert sorted(run.plan.choices["class_weight"].value) == [1, 1, 1, 2]
    said = "has letters written as several characters: values are compared in composed form (Unicode NFC)"
    assert f"'label' {said}, by which 2 are others written so." in run.plan.notes
    assert f"'city' {said}, by which 3 are others written so." in run.plan.notes
    later = handful.fit("table", frame(SPELLED["composed"]), target="label", **QUICK)
    assert not any("several characters" in note for note in later.plan.notes)


def test_sets_of_labels():
    words = [["é", "b"], ["b"], [as_decomposed("é")], ["b", as_decomposed("é")]] * 20
    run = handful.fit("mlp", {"x": np.eye(4, dtype=np.float32)[np.arange(80) % 4], "y": words}, target="y", **QUICK)
    assert run.pipeline.names == ("b", "é")
    y = run.open({"x": np.eye(4, dtype=np.float32), "y": words[:4]}).at(0, 4)["y"]
    assert y.tolist() == [[1, 1], [1, 0], [0, 1], [1, 1]]


def test_characters_that_are_to_be_recognised():
    rng = np.random.default_rng(0)
    sounds = [rng.normal(size=1600).astype(np.float32) for _ in range(24)]
    texts = [(as_composed, as_decomposed)[i % 2](["né", "en", "e"][i % 3]) for i in range(24)]
    data = handful.open({"x": sounds, "y": texts}, target="y", rate=16000)
    run = handful.fit("audio", data, task="sequence", valid=None, batch=8, lr=0.01, until="steps(2)", quiet=True)
    assert run.pipeline.classes == ("e", "n", "é")
