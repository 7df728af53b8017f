"""A ready-made model named with its options."""

import json

import numpy as np
import pytest

import handful
from handful import models as model
from handful.base.errors import HandfulError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", ("auto", {})),
        (" mlp ", ("mlp", {})),
        ("mlp()", ("mlp", {})),
        ("mlp(hidden=[64, 32], dropout=0.2)", ("mlp", {"hidden": [64, 32], "dropout": 0.2})),
        ("resnet(views=6, widths=[8, 16], whiten=False)", ("resnet", {"views": 6, "widths": [8, 16], "whiten": False})),
        ("text(encoder='transformer', layers=3)", ("text", {"encoder": "transformer", "layers": 3})),
    ],
)
def test_a_name_and_its_options(text, expected):
    assert model.named(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rensnet", "Did you mean 'resnet'"),
        ("", "model is empty"),
        ("mlp(hiden=[64])", "Did you mean 'hidden'"),
        ("mlp([64])", "wrong arguments"),
        ("mlp(hidden=64)", "hidden must be a list of positive integers"),
        ("mlp(hidden=[])", "hidden must be a list of positive integers"),
        ("mlp(hidden=[64, 0])", "each of hidden must be a positive integer"),
        ("mlp(norm=3)", "norm must be a word in quotes"),
        ("mlp(features=3)", "takes no 'features'"),
        ("audio(ctc=True)", "takes no 'ctc'"),
        ("resnet(whiten=1)", "whiten must be True or False"),
        ("table(width=1.5)", "width must be a positive integer"),
        ("table(width=True)", "width must be a positive integer"),
        ("table(dropout=-0.1)", "dropout must be a number of at least 0"),
        ("mlp | cnn", "joined"),
        ("mlp(hidden=[64]", "cannot be read"),
    ],
)
def test_what_it_cannot_be(text, words):
    with pytest.raises(HandfulError, match=words):
        model.named(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mlp(dropout=1.5)", "mlp cannot be made with these options: dropout"),
        ("cnn(views=3)", "views must be 1, 2 or 6, not 3"),
        ("mlp(norm='x')", "norm 'x'"),
    ],
)
def test_options_that_only_the_model_can_judge(text, words):
    name, options = model.named(text)
    with pytest.raises(HandfulError, match=words):
        model.build(name, kind="image", shape=(1, 8, 8), outputs=2, **options)


def test_fit_takes_the_options_says_them_and_resumes_with_them(tmp_path):
    given = {"batch": 16, "lr": 0.01, "seed": 1, "quiet": True}
    run = handful.fit("mlp(hidden=[24], dropout=0.3)", "iris", until="epochs(2)", out=tmp_path / "run", **given)
    assert run.plan.choices["model"].value == "mlp(hidden=[24], dropout=0.3)"
    assert json.loads((tmp_path / "run" / "model.json").read_text())["hidden"] == [24]
    loaded = handful.load(tmp_path / "run")
    assert loaded.model.config["dropout"] == 0.3
    longer = handful.resume(tmp_path / "run", until="epochs(4)", quiet=True)
    whole = handful.fit("mlp(hidden=[24], dropout=0.3)", "iris", until="epochs(4)", schedule="constant", **given)
    assert longer.model.config == whole.model.config


def test_views_are_said_whoever_asked_for_them():
    x, y = np.random.default_rng(0).integers(0, 255, (40, 12, 12), dtype=np.uint8), np.arange(40) % 2
    given = {"until": "steps(1)", "batch": 8, "lr": 0.01, "quiet": True, "precision": "float32"}
    six = handful.fit("cnn(views=6)", {"x": x, "y": y}, target="y", augment="flip", **given)
    assert any("moved by a pixel" in note for note in six.plan.notes)
    two = handful.fit("cnn", {"x": x, "y": y}, target="y", augment="flip", **given)
    assert any("training flips" in note for note in two.plan.notes)
    assert (six.model.views, two.model.views) == (6, 2)
