"""A target of lists of strings: the labels that a row has together."""

import json

import numpy as np
import pytest
import torch

import handful
from handful.base.errors import HandfulError

WORDS = {"sport": "goal match team", "politics": "vote law party", "tech": "chip code data"}


def rows(n, seed=0):
    generator = np.random.default_rng(seed)
    found = []
    for i in range(n):
        tags = [tag for tag in WORDS if generator.random() < 0.5]
        found.append({"text": " ".join(WORDS[tag] for tag in tags) + f" item {i} of the long list", "tags": tags})
    return found


def write(path, records):
    path.write_text("\n".join(map(json.dumps, records)) + "\n")
    return str(path)


def test_each_label_is_predicted_under_its_name(tmp_path):
    train = rows(120)
    run = handful.fit("text", write(tmp_path / "a.jsonl", train), target="tags", batch=16, lr=0.02, until="epochs(30)",
                      valid=None, augment=None, out=tmp_path / "run", quiet=True)  # fmt: skip
    assert run.pipeline.task == "multilabel"
    assert run.pipeline.names == ("politics", "sport", "tech")
    assert any("3 labels that a row may have together: politics, sport, tech" in note for note in run.plan.notes)
    few = [row for row in rows(60, seed=1) if "tech" not in row["tags"]]  # a label of training that is not there
    again = handful.load(tmp_path / "run")
    assert again.evaluate(write(tmp_path / "b.jsonl", few))["label_accuracy"] > 0.9
    expected = np.array([[name in row["tags"] for name in again.pipeline.names] for row in few])
    assert (again.predict(tmp_path / "b.jsonl") == expected).mean() > 0.9


def test_the_columns_hold_what_the_lists_say(tmp_path):
    train = rows(20)
    source = handful.open(write(tmp_path / "a.jsonl", train), target="tags")
    assert source.columns["tags"].labels == ("politics", "sport", "tech")
    for row, have in zip(train, source.take(range(20))["tags"].tolist(), strict=True):
        assert {name for name, one in zip(source.columns["tags"].labels, have, strict=True) if one} == set(row["tags"])


@pytest.mark.parametrize("make", ["dict", "pandas", "polars"])
def test_in_memory(make):
    data = {"n": [1.0, 2.0, 3.0, 4.0], "tags": [["a"], ["b", "c"], [], ["a", "c"]]}
    given = data if make == "dict" else pytest.importorskip(make).DataFrame(data)
    source = handful.open(given, target="tags")
    assert source.columns["tags"].labels == ("a", "b", "c")
    assert source.take(range(4))["tags"].tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 0, 1]]


def test_a_label_that_training_did_not_have_is_one_sentence(tmp_path):
    run = handful.fit("text", write(tmp_path / "a.jsonl", rows(60)), target="tags", batch=16, lr=0.02,
                      until="steps(2)", quiet=True)  # fmt: skip
    new = [*rows(3), {"text": "a b c", "tags": ["sport", "music"]}]
    with pytest.raises(HandfulError, match="'tags' holds 'music', which is none of the labels of training, in row 3"):
        run.evaluate(write(tmp_path / "b.jsonl", new))
    with pytest.raises(HandfulError, match="missing label"):
        handful.open(write(tmp_path / "c.jsonl", [*rows(3), {"text": "x", "tags": ["sport", None]}]), target="tags")
    with pytest.raises(HandfulError, match="1 different labels"):
        handful.open(write(tmp_path / "d.jsonl", [{"text": "x", "tags": ["sport"]}] * 4), target="tags")
    many = [{"n": i % 7, "tags": [f"{i}-{k}" for k in range(20)]} for i in range(20)]
    source = handful.open(write(tmp_path / "e.jsonl", many))
    assert any("target='tags' takes them for labels" in note for note in source.notes)


def visits(n, seed=0):
    generator = np.random.default_rng(seed)
    tags = [[tag for tag in WORDS if generator.random() < 0.5] for _ in range(n)]
    spent = [2.0 * ("sport" in have) - 3.0 * ("tech" in have) + 0.1 * generator.normal() for have in tags]
    return [
        {"age": float(i % 7), "tags": have, "spent": y} for i, (have, y) in enumerate(zip(tags, spent, strict=True))
    ]


@pytest.mark.parametrize("model", ["table(members=1)", "linear"])
def test_labels_beside_other_columns_are_learned_from(tmp_path, model):
    run = handful.fit(model, write(tmp_path / "a.jsonl", visits(600)), target="spent", batch=32, lr=0.02, until=15,
                      quiet=True, out=tmp_path / "run")  # fmt: skip
    new = visits(50, seed=1)
    found = run.predict(write(tmp_path / "b.jsonl", [{k: row[k] for k in ("age", "tags")} for row in new]))
    assert np.abs(found - [row["spent"] for row in new]).max() < 0.8  # left out: 2.5 on average
    again = handful.load(tmp_path / "run")
    assert np.array_equal(again.predict({key: [row[key] for row in new] for key in ("age", "tags")}), found)
    assert abs(again.predict({"age": 1.0, "tags": []})) < 0.5
    odd = again.predict({"age": 1.0, "tags": ["sport", "music"]})  # one that training did not have
    assert np.array_equal(odd, again.predict({"age": 1.0, "tags": ["sport"]}))


def test_a_model_of_the_callers_own_gets_them_as_columns(tmp_path):
    run = handful.fit(torch.nn.Linear(4, 1), write(tmp_path / "a.jsonl", visits(300)), target="spent", batch=32, lr=0.1,
                      optimizer="adam", until=20, quiet=True)  # fmt: skip
    assert np.allclose(run.model.weight[0, 1:].detach(), [0, 1, -1.5], atol=0.2)  # of 0 and 1 standardised


def in_order(n, twice):
    return [{"n": float(i), "tags": ["D", "N", "D"] if i < twice else ["D", "N"]} for i in range(n)]


@pytest.mark.parametrize("form", ["jsonl", "frame", "dict", "parquet"])
def test_labels_in_order_are_not_taken_for_a_set(tmp_path, form):
    pandas = pytest.importorskip("pandas")
    records = in_order(60, 40)
    frame = pandas.DataFrame(records)
    if form == "parquet":
        frame.to_parquet(tmp_path / "a.parquet")
    data = {
        "jsonl": lambda: write(tmp_path / "a.jsonl", records),
        "frame": lambda: frame,
        "dict": lambda: {key: [r[key] for r in records] for key in ("n", "tags")},
        "parquet": lambda: str(tmp_path / "a.parquet"),
    }[form]()
    with pytest.raises(HandfulError, match="40 of 60 lists of 'tags' hold a label more than once"):
        handful.open(data, target="tags")


def test_a_label_written_twice_in_few_rows_counts_once_and_is_noted(tmp_path):
    data = handful.open(write(tmp_path / "a.jsonl", in_order(60, 3)), target="tags")
    assert "3 lists of 'tags' hold a label more than once: it counts once." in data.notes
    assert np.array_equal(np.asarray(data.take(np.array([0]))["tags"]), [[1, 1]])


def test_labels_in_order_need_a_model_with_an_answer_for_each_place():
    ids = [np.arange(1 + i % 3) for i in range(60)]
    with pytest.raises(HandfulError, match="holds labels in order, and the model gives one answer for a whole row"):
        handful.fit("auto", {"x": ids, "y": ids}, target="y", batch=8, lr=0.01, until="epochs(1)", quiet=True)
