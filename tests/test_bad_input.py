"""Errors are part of the interface: each mistake gets one clear sentence that names what, where and what to do."""

import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import handful
from handful.base.errors import HandfulError
from handful.cli import main

DIGITS = load_digits()
X = (DIGITS.data / 16).astype(np.float32)
Y = DIGITS.target


def linear(outputs=10, inputs=64):
    return torch.nn.Linear(inputs, outputs)


def fit(data=(X, Y), model=None, **given):
    return handful.fit(
        model or linear(), data, **{"until": "steps(2)", "batch": 32, "lr": 0.01, "quiet": True, **given}
    )


def changed(x=None, y=None, at=None, value=None):
    a, b = X.copy(), Y.astype(np.float64).copy()
    if x is not None:
        a[x] = value
    if y is not None:
        b[y] = value
    return a, b


# Each row: a name, what is done, and words that the one sentence must hold.
CALLS = {
    "unknown data name": (lambda: fit("digit"), "digits"),
    "missing file": (lambda: fit("nowhere/data.csv"), "nowhere"),
    "unknown option": (lambda: fit(bach=3), "Did you mean 'batch'"),
    "unknown optimizer": (lambda: fit(optimizer="adamm"), "Did you mean 'adam'"),
    "unknown loss": (lambda: fit(loss="cross_entrpy"), "Did you mean 'cross_entropy'"),
    "unknown metric": (lambda: fit(metrics="acuracy"), "Did you mean 'accuracy'"),
    "a metric of Keras": (lambda: fit(metrics="acc"), "Did you mean 'accuracy'"),
    "a metric of scikit-learn": (lambda: fit(metrics=["roc_auc"]), "Did you mean 'auroc'"),
    "a loss of Keras": (lambda: fit(loss="sparse_categorical_crossentropy"), "Did you mean 'cross_entropy'"),
    "a loss's name for an activation": (lambda: fit(model="mlp(activation='l1')"), "^((?!Did you mean).)*$"),
    "a schedule of another tool": (lambda: fit(schedule="linear"), "Did you mean 'polynomial'"),
    "a loss of torch": (lambda: fit(loss="MSELoss"), "Did you mean 'mse'"),
    "inputs and target as two": (lambda: handful.fit(linear(), X, Y), r"a pair: fit\(model, \(x, y\)\)"),
    "a target beside the inputs": (lambda: handful.fit(linear(), X, y=Y), r"fit\(model, \(x, y\)\)"),
    "a target of values": (lambda: fit(X, target=Y), r"target must be the name of a column .* \(x, y\)"),
    "a target of a frame": (lambda: fit(pd.DataFrame(X), target=pd.Series(Y)), "target must be the name of a column"),
    "a batch of arrays": (lambda: fit(batch=Y), r"batch must be as help\(handful.fit\) says, not array"),
    "a stop rule of arrays": (lambda: fit(until=pd.Series(Y)), "until must be as help"),
    "a yes as a word": (lambda: fit(overwrite="no"), "overwrite must be True or False, not 'no'"),
    "unknown schedule": (lambda: fit(schedule="cosin"), "Did you mean 'cosine'"),
    "unknown stop rule": (lambda: fit(until="epoch(3)"), "Did you mean 'epochs'"),
    "unknown model": (lambda: fit(model="cnnn"), "Did you mean 'cnn'"),
    "unknown augmentation": (lambda: fit("digits", model="cnn", augment="flipp"), "flip"),
    "unknown preprocessing": (lambda: fit(preprocess="standardise"), "standardize"),
    "unknown shuffle": (lambda: fit(shuffle="exakt"), "exact"),
    "unknown precision": (lambda: fit(precision="float8"), "float8"),
    "unknown device": (lambda: fit(device="gpu"), "there is no device 'gpu': name cpu, cuda"),
    "unknown score": (lambda: fit(score="valid_acuracy"), "valid_accuracy"),
    "unknown target": (lambda: fit("wine", model="table", target="colour"), "colour"),
    "code in a rule": (lambda: fit(until="__import__('os').system('true')"), "cannot be read|not|unknown|stop rule"),
    "batch larger than the data": (lambda: fit(batch=5000), "5,000 is larger than the training data"),
    "batch of zero": (lambda: fit(batch=0), "at least 1"),
    "batch in words": (lambda: fit(batch="many"), "a whole number, 'full'"),
    "fractional batch": (lambda: fit(batch=2.5), "whole number"),
    "negative lr": (lambda: fit(lr=-1.0), "lr"),
    "lr that is not a number": (lambda: fit(lr=float("nan")), "lr"),
    "negative l1": (lambda: fit(l1=-1.0), "l1"),
    "weight of a number": (lambda: fit(weight=3), "weight must be text, not 3"),
    "shuffle of a number": (lambda: fit(shuffle=3), "shuffle must be text, not 3"),
    "precision of a number": (lambda: fit(precision=3), "precision must be text, not 3"),
    "score of a number": (lambda: fit(score=3), "score must be text, not 3"),
    "task of a number": (lambda: fit(task=3), "task must be text, not 3"),
    "callbacks of a number": (lambda: fit(callbacks=3), "callbacks are functions"),
    "steps of a number": (lambda: fit(preprocess=3), "preprocess takes a name"),
    "batches of a number": (lambda: handful.compare("linear", "iris", batches=3.5), "batch must be a whole number"),
    "smoothing of one": (lambda: fit(label_smoothing=1.0), "label_smoothing"),
    "ema of one": (lambda: fit(ema=1.0), "ema"),
    "micro batch of zero": (lambda: fit(micro_batch=0), "micro_batch"),
    "a rule that waits in vain": (lambda: fit(valid=None, until="plateau(3) | epochs(9)"), "no rows are held out"),
    "a rule on an unknown score": (lambda: fit(until="reaches('valid_acuracy', 0.9)"), "valid_accuracy"),
    "a schedule without an end": (lambda: fit(until="loss_below(0.1)", schedule="one_cycle"), "epochs"),
    "lengths differ": (lambda: fit((X, Y[:-1])), "1,?79[67]"),
    "no rows": (lambda: fit((X[:0], Y[:0])), "row"),
    "one row": (lambda: fit((X[:1], Y[:1])), "row"),
    "one class": (lambda: fit((X[:100], np.zeros(100, int))), "class|same"),
    "NaN in the target": (lambda: fit(changed(y=17, value=np.nan)), "17"),
    "infinity in the target": (lambda: fit(changed(y=17, value=np.inf)), "17"),
    "labels as objects": (lambda: fit((X, np.array([object()] * len(X)))), "object|type"),
    "scalar data": (lambda: fit((np.float32(3), np.float32(1))), "dimension|0-d|scalar|shape"),
    "complex data": (lambda: fit((X.astype(complex), Y)), "complex"),
    "share above one": (lambda: fit(valid=1.5), "1.5"),
    "all rows held out": (lambda: fit(valid=len(X)), "held out|training|rows"),
    "too few outputs": (lambda: fit(model=linear(5)), "5 outputs but the target has 10 classes"),
    "one output for ten classes": (lambda: fit(model=linear(1)), "10 classes"),
    "classes counted from one": (
        lambda: fit((X, Y + 1)), "10 outputs but the target has 11 classes, 0 to 10; it needs 11"),
    "an amount in whole numbers": (lambda: fit((X, Y), model=linear(1)), "or task='regression' where they are numbers"),
    "classes as decimals": (lambda: fit((X, Y.astype(float))), "pass loss='cross_entropy' where .* are classes"),
    "yes or no as decimals": (
        lambda: fit((X, (Y > 4).astype(float)), model=linear(2)), "gives 2 numbers per row but the target 'y' is one"),
    "wrong input size": (lambda: fit(model=linear(inputs=3)), r"fails on a batch of two rows \(x: float32 \[2, 64\]\)"),
    "a model that is no module": (lambda: fit(model=42), "nn.Module"),
    "no parameters": (lambda: fit(model=torch.nn.Flatten(0, 0), loss="mse", data=(X[:, :1], X[:, 1:2])), "parameter"),
    "classes of a target of numbers": (
        lambda: fit(data=(X, X[:, 20] + 0.5), loss="cross_entropy"), "'y' is numbers with decimals or many values"),
    "classes of a target of numbers, by torch's loss": (
        lambda: fit(data=(X, X[:, 20] + 0.5), loss=torch.nn.CrossEntropyLoss()), "task='classification'"),
    "a loss of the wrong shape": (lambda: fit(loss=lambda o, t: torch.ones(3)), "3 values for 2 rows"),
    "a loss that returns a float": (lambda: fit(loss=lambda o, t: 1.0), "must return a Tensor"),
    "a picture model for a table": (lambda: fit("wine", model="cnn"), "cnn"),
    "class weights that do not fit": (lambda: fit(class_weight=[1.0, 2.0]), "10 classes"),
    "class weights by another word": (lambda: fit(class_weight="even"), "'balanced', 10 numbers or a dict .*'even'"),
    "compiling as a word": (lambda: fit(compile="yes"), "compile must be True, False, or 'auto', not 'yes'"),
    "balanced pixels": (
        lambda: fit(
            model=torch.nn.Conv2d(1, 3, 1), data=(np.ones((9, 1, 4, 4)), np.ones((9, 4, 4), int) * [0, 1, 2, 0]),
            class_weight="balanced",
        ),
        "counts one class per row",
    ),
    "an optimizer of another model": (
        lambda: fit(optimizer=torch.optim.SGD(linear().parameters(), lr=0.1), lr="auto"), "param"
    ),
    "lbfgs": (lambda: fit(optimizer=torch.optim.LBFGS, l2=0.1), "LBFGS takes no 'weight_decay', so no l2"),
    "validation with other columns": (
        lambda: fit("wine", model="table", valid="iris"), "column"
    ),
    "validation of another width": (lambda: fit(valid=(X[:, :32], Y)), "shape|32"),
    "an unseen class in validation": (lambda: fit((X[Y < 9], Y[Y < 9]), model=linear(9), valid=(X, Y)), "9"),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_call_gets_one_sentence(name):
    call, words = CALLS[name]
    with pytest.raises(HandfulError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value).strip()
    assert len(str(caught.value)) < 600


def csv(text):
    def write(folder):
        (folder / "data.csv").write_text(text)
        return "data.csv"

    return write


def table(rows=40, **columns):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=rows), "b": rng.normal(size=rows), "label": np.arange(rows) % 2})
    return frame.assign(**columns)


def parquet(frame):
    def write(folder):
        frame.to_parquet(folder / "data.parquet")
        return "data.parquet"

    return write


def file(name, data=b""):
    def write(folder):
        (folder / name).write_bytes(data)
        return name

    return write


def pictures(folder):
    for name in ("cat", "dog"):
        (folder / "pets" / name).mkdir(parents=True)
        for k in range(4):
            Image.new("RGB", (16, 16), (60 * k, 20, 10)).save(folder / "pets" / name / f"{k}.png")
    (folder / "pets" / "dog" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n this is no picture")
    return "pets"


def empty_folder(folder):
    (folder / "nothing").mkdir()
    return "nothing"


COMMANDS = {
    "an empty file": (file("data.csv"), [], "empty"),
    "a header without rows": (csv("a,b,label\n"), [], "row"),
    "a row of another length": (csv("a,b,label\n1,2,0\n3,4\n5,6,1\n"), [], "3|line|row"),
    "no target": (csv("a,b\n" + "1,2\n2,3\n" * 20), [], "target"),
    "a target that is not there": (
        csv("a,b,label\n" + "1,2,0\n2,3,1\n" * 20),
        ["--target", "lable"],
        "Did you mean 'label'",
    ),
    "a missing label": (csv("a,b,label\n" + "1,2,0\n2,3,1\n" * 20 + "4,5,\n"), [], "40"),
    "duplicate columns": (csv("a,a,label\n" + "1,2,0\n2,3,1\n" * 20), [], "'?a'?"),
    "not a parquet file": (file("data.parquet", b"PAR1 but not really"), [], "data.parquet"),
    "an unknown kind of file": (file("data.docx", b"hello"), [], "docx"),
    "an empty folder": (empty_folder, [], "nothing"),
    "a broken picture": (pictures, [], "broken.png"),
    "only a target": (parquet(table()[["label"]]), [], "column"),
    "one class only": (parquet(table(label=1)), [], "class|same"),
    "a rule cut short": (parquet(table()), ["--until", "epochs(3"], "cannot be read|until|stop rule"),
    "lr in words": (parquet(table()), ["--lr", "fast"], "lr must be a number above 0, or 'auto', not 'fast'"),
    "weights that are negative": (parquet(table(w=-1.0)), ["--weight", "w"], "w"),
    "a weight column that is not there": (parquet(table(w=1.0)), ["--weight", "v"], "v"),
    "validation without the columns": (parquet(table()), ["--valid", "iris"], "column"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_gets_one_sentence_and_no_traceback(name, tmp_path, monkeypatch, capsys):
    write, options, words = COMMANDS[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["handful", "train", write(tmp_path), "--out", "run", *options])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as stop:
        main()
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("handful: ")]
    assert stop.value.code == 2
    assert len(said) == 1
    assert re.search(words, said[0]), said[0]
    assert not (tmp_path / "run" / "plan.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resume", "nowhere"], "nowhere"),
        (["evaluate", "nowhere", "digits"], "nowhere"),
        (["predict", ".", "digits"], "not a run folder"),
        (["inspect", "nowhere.csv"], "nowhere.csv"),
        (["report", "."], "not a run folder"),
        (["export", ".", "m.pkl"], "not a run folder"),
    ],
)
def test_other_commands(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["handful", *arguments])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_a_plan_that_is_not_ours(tmp_path):
    (tmp_path / "plan.toml").write_text(json.dumps({"x": 1}))
    with pytest.raises(HandfulError, match="not a plan"):
        handful.resume(tmp_path)


def test_an_input_cannot_have_the_name_of_the_row_weights():
    data = {"picture": np.zeros((8, 3, 4), np.float32), "weight": np.arange(8.0), "y": np.arange(8) % 2}
    with pytest.raises(HandfulError, match="'weight' is the name of the row weights there: rename the column"):
        handful.fit(torch.nn.Linear(2, 2), data, target="y", until="steps(1)", quiet=True)


@pytest.mark.parametrize("augment", ["flip", "shift(2)", "mixup", "noise(0.1)"])
def test_an_augmentation_that_the_data_are_not_for_is_refused_before_anything_is_written(augment, tmp_path):
    table = {"size": np.arange(40.0), "kind": ["a", "b"] * 20, "y": np.arange(40.0) % 7}
    with pytest.raises(HandfulError, match=r"is for models that get one tensor x, and this one gets numbers, categ"):
        handful.fit("table", table, target="y", augment=augment, until="steps(5)", quiet=True, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"until": "minutes(1)"}, "there is no 'minutes'"),
        ({"until": "epochs(2) |"}, "cannot be read"),
        ({"schedule": "cosin"}, "Did you mean 'cosine'"),
        ({"augment": "flipp"}, "Did you mean 'flip'"),
        ({"optimizer": "sgd(momentumm=0.9)"}, "Did you mean 'momentum'"),
        ({"loss": "cross_entrpy"}, "Did you mean 'cross_entropy'"),
        ({"metrics": "f1, acuracy"}, "Did you mean 'accuracy'"),
        ({"batch": "grow_batch(evry=10)"}, "Did you mean 'every'"),
        ({"batch_growth": "grow(1)"}, "Did you mean 'growth'"),
        ({"precision": "float17"}, "precision 'float17' is unknown"),
        ({"shuffle": "exactt"}, "Did you mean 'exact'"),
        ({"task": "clasification"}, "Did you mean 'classification'"),
        ({"recipe": "picture"}, "there is no recipe 'picture'"),
        ({"init": "no/such/weights.safetensors"}, "init: there is no"),
        ({"valid": "no/such/valid.csv"}, "'no/such/valid.csv' is not a file"),
    ],
)
def test_a_slip_in_an_option_is_told_before_any_row_is_read(options, words):
    with pytest.raises(handful.HandfulError, match=re.escape(words)):
        handful.fit("auto", "no/such/data.csv", **options)


def test_the_texts_of_options_are_read_without_drawing_a_number():
    before = torch.get_rng_state()
    with pytest.raises(handful.HandfulError, match="is not a file"):
        handful.fit(
            "auto", "no/such/data.csv", optimizer="sgd(momentum=0.9)", schedule="cosine", augment="flip", loss="mse"
        )
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_on_which_a_trained_model_fails_are_named():
    ids = np.random.default_rng(0).integers(0, 9, (64, 3))
    net = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Flatten(), torch.nn.Linear(12, 1))
    run = fit((ids, ids[:, 0] / 9), model=net)
    with pytest.raises(
        HandfulError, match=r"fails on one of rows 0 to 1, counted from 0 \(x: int64 \[2, 3\]\): index out"
    ):
        run.predict([[1, 2, 3], [1, 2, 99]])
    with pytest.raises(HandfulError, match=r"Sequential\) fails on row 0, .*index out of range"):
        run.evaluate((ids[:1] + 99, [0.5]))
