"""One row at a time, as a service asks: the answers of the whole file, in Python's own values, from many threads."""

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch

import handful
from handful.base.errors import HandfulError


def fit(model, data, **options):
    return handful.fit(model, data, **{"until": "steps(2)", "batch": 8, "lr": 0.1, "quiet": True, **options})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(run as loaded from its folder, the training frame): numbers, words, dates and truth values in text."""
    folder, rng = tmp_path_factory.mktemp("whole"), np.random.default_rng(0)
    n = 300
    days = pd.to_datetime("2020-01-01") + pd.to_timedelta(rng.integers(0, 700, n), unit="D")
    frame = pd.DataFrame(
        {
            "size": rng.normal(size=n).round(3),
            "colour": rng.choice(["red", "green", "blue"], n),
            "day": days.strftime("%d.%m.%Y"),
            "price": [f"${int(k):,}" for k in rng.integers(0, 9000, n)],
            "new": rng.choice(["True", "False"], n),
        }
    )
    frame["sort"] = np.where(frame["size"] + (frame["colour"] == "red") > 0.3, "01", "02")
    frame.to_csv(folder / "data.csv", index=False)
    fit("table", folder / "data.csv", target="sort", until="steps(30)", batch=32, lr=0.01, out=folder / "run")
    return handful.load(folder / "run"), frame


def rows_of(frame):
    return frame.drop(columns="sort").to_dict("records")


def test_a_function_of_one_row_answers_as_the_whole_frame_does(trained):
    run, frame = trained
    whole = run.predict(frame)
    judge = run.as_function()
    found = [judge(row) for row in rows_of(frame)]
    assert found == whole.tolist()
    assert {type(value) for value in found} == {str}
    assert judge(rows_of(frame)) == found
    assert judge(rows_of(frame)[:1]) == found[:1]


def test_probabilities_go_by_the_names_of_the_classes(trained):
    run, frame = trained
    whole = run.predict(frame, probabilities=True)
    chances = run.as_function(probabilities=True)
    for row, expected in zip(rows_of(frame)[:20], whole.tolist(), strict=False):
        assert chances(row) == dict(zip(["01", "02"], expected, strict=True))


def test_threads_share_a_function(trained):
    run, frame = trained
    judge, rows = handful.load(run.path).as_function(), rows_of(frame)[:60]  # its first call comes from many threads
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(judge, rows * 2)) == run.predict(frame).tolist()[:60] * 2


@pytest.mark.parametrize("wrong", [{"size": [1.0, 2.0], "colour": ["red", "red"]}, {"size": 1.0}])
def test_what_is_not_one_row_is_refused(wrong, trained):
    run, _ = trained
    with pytest.raises(HandfulError):
        run.as_function()(wrong)


def test_several_rows_in_one_are_refused():
    run = fit("linear", ([[0.0], [1.0]] * 8, [0.0, 1.0] * 8), valid=0)
    with pytest.raises(HandfulError, match="give one row, or a list of rows, not 2 rows in one"):
        run.as_function()({"x": np.zeros((2, 1))})
    assert isinstance(run.as_function()({"x": [[1.0]]}), float)


def test_an_own_model_and_one_of_text():
    x = torch.arange(64.0).reshape(-1, 2)
    net = torch.nn.Linear(2, 1)
    run = fit(net, {"x": x, "y": x.sum(1, keepdim=True)}, target="y", loss="mse", lr=1e-4)
    assert run.as_function()({"x": x[3:4]}) == pytest.approx(net(x[3:4]).tolist()[0])
    texts = {"text": [f"a {how} long day out, number {k}" for k in range(20) for how in ("good", "bad")]}
    told = fit("text", texts | {"y": [1, 0] * 20}, target="y", until="steps(40)", lr=0.01)
    judge = told.as_function()
    assert (judge("a good day"), judge({"text": "a bad day"}), judge(["so bad", "so good"])) == (1, 0, [0, 1])


def test_many_classes_of_a_category_and_new_texts_stay_right_in_the_caches():
    """What was read of a string, or of a list of classes, is kept; another column with the same string is another."""
    frame = pd.DataFrame({"a": [f"{k},5" for k in range(40)], "b": [f"${k}" for k in range(40)]})
    frame["c"] = [f"c{k % 20}" for k in range(40)]
    frame["y"] = np.arange(40.0)
    run = fit("linear", frame, target="y", valid=0)
    single = np.array([run.predict(row)[0] for row in frame.to_dict("records")])
    assert np.array_equal(single, run.predict(frame))
    with pytest.raises(HandfulError, match=r"column 'a' must be a number but is '\$3' in row 0"):
        run.predict({"a": "$3", "b": "$3", "c": "c1"})
    assert np.isfinite(run.predict({"a": "3,5", "b": "$3", "c": "never seen"})).all()


def test_a_row_with_fields_inside_a_field(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"user": {"age": float(a), "town": {"name": "ab"[k % 2]}}, "y": float(a)} for k, a in enumerate(rng.random(40))
    ]
    run = fit("linear", rows, target="y")
    bare = [{"user": row["user"]} for row in rows]
    assert run.predict(rows[3])[0] == run.predict(bare[3])[0] == run.as_function()(bare[3]) == run.predict(bare)[3]


def calls(job):
    """Calls of functions that a job makes in this thread, Python's and those in C."""
    found = Counter()
    sys.setprofile(lambda frame, event, argument: found.update([event]))
    try:
        job()
    finally:
        sys.setprofile(None)
    return found["call"] + found["c_call"]


@pytest.mark.parametrize("model", ["linear", "mlp", "table"])
def test_one_row_takes_few_calls_whatever_it_comes_in(model, trained):
    """Of functions, for times depend on the machine: 900 to 1,200 when this was written, and 1,300 more for pandas."""
    _, frame = trained
    run, given, records = fit(model, frame, target="sort"), frame.drop(columns="sort"), rows_of(frame)
    ask = run.as_function()
    most = {ask: 1600, lambda row: ask([row]): 1600, lambda row: run.predict(given[:1]): 3100}
    for call, limit in most.items():
        call(records[0])  # what the first row needs is kept
        assert calls(lambda call=call: call(records[1])) < limit


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_pictures_with_channels_last_are_refused_with_the_way_on(dtype):
    x = np.random.default_rng(0).integers(0, 255, (40, 3, 16, 16)).astype(dtype)
    run = handful.fit("cnn", (x, np.arange(40) % 2), until="steps(1)", quiet=True)
    with pytest.raises(HandfulError, match=r"channels come first, as of numpy.moveaxis\(a, -1, 1\)"):
        run.predict(np.moveaxis(x, 1, -1))
    with pytest.raises(HandfulError, match=r"one alone is a\[None\]"):
        run.predict(x[0])
    assert len(run.predict(x[:1])) == 1
    grey = handful.fit("cnn", (x[:, :1], np.arange(40) % 2), until="steps(1)", quiet=True)
    with pytest.raises(HandfulError, match=r"a channel comes first, as of a\[:, None\]"):
        grey.predict(x[:, 0])


def test_a_row_of_a_frame_as_a_series(trained):
    run, frame = trained
    assert run.predict(frame.iloc[3]).tolist() == run.predict(frame.iloc[3:4]).tolist()


def test_arrays_without_what_training_had_are_told_the_way_on(trained):
    run, _ = trained
    with pytest.raises(
        HandfulError, match=r"^arrays has no names of columns: give a DataFrame, or a dict, with \w+, \w+"
    ):
        run.predict(np.ones((2, 2)))
    rng = np.random.default_rng(0)
    vectors = fit("linear", (rng.normal(size=(64, 3)), rng.normal(size=64)))
    with pytest.raises(HandfulError, match=r"in training: one row alone is a\[None\]$"):
        vectors.predict(np.ones(3))
    pictures = fit("linear", (rng.integers(0, 255, (64, 3, 8, 9), np.uint8), rng.integers(0, 2, 64)))
    picture = np.ones((8, 9, 3), np.uint8)
    with pytest.raises(HandfulError, match=r"one alone is numpy.moveaxis\(a, -1, 0\)\[None\]$"):
        pictures.predict(picture)
    assert len(pictures.predict(np.moveaxis(picture, -1, 0)[None])) == 1


def test_a_notebook_shows_a_line_for_each_choice_of_a_plan(trained):
    run, _ = trained
    lines = repr(run.plan).splitlines()
    assert len(lines) == len(run.plan.choices)
    assert f"batch: {run.plan.batch} (given)" in lines


class OfAnyLength(torch.nn.Module):
    """The mean over the places of a row, of ids or of numbers."""

    def __init__(self, ids):
        super().__init__()
        self.into, self.out = torch.nn.Embedding(30, 2) if ids else torch.nn.Identity(), torch.nn.Linear(2, 3)

    def forward(self, x, attention_mask):
        mask = attention_mask[..., None].float()
        return self.out((self.into(x) * mask).sum(1) / mask.sum(1))


@pytest.mark.parametrize("ids", [True, False])
def test_rows_of_one_length_are_those_of_training_that_had_many(ids, capsys):
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, 30, 3 + k % 4) if ids else rng.normal(size=(3 + k % 4, 2)).astype("f4") for k in range(40)]

    class Samples(torch.utils.data.Dataset):
        def __init__(self, kept):
            self.kept = list(kept)

        def __len__(self):
            return len(self.kept)

        def __getitem__(self, k):
            return {"x": rows[self.kept[k]], "y": self.kept[k] % 3}

    alike = range(2, 40, 4)  # of 5 places
    run = fit(OfAnyLength(ids), Samples(range(40)), target="y", valid=Samples(alike))
    whole = run.outputs(Samples(range(40)))
    for few in ([2], alike):
        for data in (Samples(few), {"x": np.stack([rows[k] for k in few])}):
            assert torch.allclose(run.outputs(data), whole[list(few)], atol=1e-6)
            capsys.readouterr()
            assert run.predict(data).tolist() == whole[list(few)].argmax(1).tolist()
            assert ("nothing in them is taken for padding" in capsys.readouterr().err) == (len(few) > 1)
    scored = run.evaluate(Samples(alike))["loss"]
    target = torch.tensor([k % 3 for k in alike])
    assert scored == pytest.approx(float(torch.nn.functional.cross_entropy(whole[list(alike)], target)), rel=1e-5)
    assert run.scores["valid_loss"] == pytest.approx(scored, rel=1e-5)
    if ids:
        with pytest.raises(HandfulError, match="is tensor"):
            run.outputs({"x": np.ones((2, 5))})
