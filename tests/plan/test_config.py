"""Every option stands once: the dataclass, the typed keywords, the signatures, the flags and their help agree."""

import inspect
from dataclasses import fields
from typing import ForwardRef, get_args

import numpy as np
import pytest

import handful
from handful.base.errors import HandfulError
from handful.plan.config import OPTIONS, Config, ConfigOptions, TrainingOptions

NAMES = [f.name for f in fields(Config)]


def shown(hint):
    return hint.__forward_arg__ if isinstance(hint, ForwardRef) else hint


def test_dataclass_and_typed_keywords_agree_in_names_and_types():
    typed = ConfigOptions.__annotations__
    assert set(typed) == set(NAMES) == set(OPTIONS)
    assert {name: shown(hint) for name, hint in typed.items()} == {name: OPTIONS[name].hint for name in typed}
    assert set(TrainingOptions.__annotations__) < set(typed)


def test_each_option_has_help_and_its_default_is_of_its_kind():
    for field in fields(Config):
        _, help, *_ = get_args(field.type)
        assert len(help) > 5
        assert help.endswith("...") or not help.endswith(".")
        assert OPTIONS[field.name].kind.fits(field.default)


def test_signature_and_help_of_fit_show_each_option_with_its_default():
    parameters = inspect.signature(handful.fit).parameters
    assert {name: p.default for name, p in parameters.items() if name in OPTIONS} == vars(Config())
    assert set(parameters) - set(OPTIONS) == {"model", "train", "out", "callbacks"}
    for option in OPTIONS.values():
        assert f"\n{option.name}: {option.help[:20]}" in handful.fit.__doc__


@pytest.mark.parametrize("estimator", [handful.sklearn.MiniBatchClassifier, handful.sklearn.MiniBatchRegressor])
def test_estimators_have_the_same_defaults(estimator):
    parameters = inspect.signature(estimator).parameters
    assert set(TrainingOptions.__annotations__) <= set(parameters)
    assert {n: p.default for n, p in parameters.items() if n in OPTIONS} == {
        n: OPTIONS[n].default for n in parameters if n in OPTIONS
    }
    with pytest.raises(TypeError, match="Did you mean 'batch'"):
        estimator(bach=3)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("valid", "none", None),
        ("valid", "200", 200),
        ("valid", "0.2", 0.2),
        ("valid", "held_out.csv", "held_out.csv"),
        ("batch", "full", "full"),
        ("batch", "32", 32),
        ("lr", "1e-3", 1e-3),
        ("lr", "auto", "auto"),
        ("lr", "fast", "fast"),
        ("ema", "none", None),
        ("augment", "none", "none"),
        ("target", "3", "3"),
        ("until", "5", "5"),
        ("seed", "7", 7),
    ],
)
def test_text_of_the_command_line_is_read_as_the_option_wants_it(name, text, value):
    found = OPTIONS[name].kind.read(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": 1.5}, "seed must be a whole number from 0 to 9e18, not 1.5"),
        ({"seed": True}, "seed must be a whole number from 0 to 9e18, not True"),
        ({"seed": -1}, "seed must be a whole number from 0 to 9e18, not -1"),
        ({"micro_batch": 0}, "micro_batch must be a whole number of at least 1, None, or 'auto', not 0"),
        ({"l1": float("nan")}, "l1 must be a number of at least 0, not nan"),
        ({"clip_norm": "big"}, "clip_norm must be a number of at least 0, or None, not 'big'"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be a number in \[0, 1\), not 1.0"),
        ({"ema": 1}, r"ema must be a number in \(0, 1\), 'auto', or None, not 1"),
        ({"threads": "all"}, "threads must be a whole number of at least 1, or 'auto', not 'all'"),
        ({"save_every": 0}, "save_every must be a whole number of at least 1"),
        ({"evaluate_every": 0}, "evaluate_every must be a number above 0"),
        ({"lr": -1}, "lr must be a number above 0, or 'auto', not -1"),
        ({"bach": 3}, "there is no option 'bach'. Did you mean 'batch'"),
    ],
)
def test_what_is_wrong_without_looking_at_the_data_is_one_sentence(given, message):
    with pytest.raises(HandfulError, match=message):
        Config.of(given)


def test_numbers_of_numpy_are_numbers():
    config = Config.of({"seed": np.int64(3), "lr": np.float32(0.1), "micro_batch": None, "l2": np.float64(0)})
    assert config.seed == 3


def test_auto_augmentation_is_for_ready_made_models_and_the_plan_says_why_others_have_none(tmp_path):
    import torch

    given = {"batch": 64, "lr": 0.01, "until": "steps(1)", "quiet": True, "threads": 1}
    ours = handful.fit("cnn", "digits", **given).plan.choices["augment"]
    assert (ours.value, ours.status) == ("rotate(10)", "found")
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    own = handful.fit(net, "digits", **given, out=tmp_path / "run").plan.choices["augment"]
    assert (own.value, own.reason) == (None, "none for a model of your own, unless augment= names some")
    again = handful.load(tmp_path / "run", model=net).plan
    assert not again.choices["model"].reproducible
    assert again.choices["augment"].reproducible
    assert handful.fit("cnn", "digits", augment=None, **given).plan.augment is None
