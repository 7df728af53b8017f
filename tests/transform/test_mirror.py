"""Whether pictures may be flipped is found on training pictures: letters may not, symmetric things may."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

import handful
from handful.transform.augment.default import mirrored


def letters(text, rows, seed=0):
    """uint8 [rows, 32, 32, 3]: letters of several sizes, places and colours; int64 [rows]."""
    g = np.random.default_rng(seed)
    y = g.integers(0, len(text), rows)
    x = np.empty((rows, 32, 32, 3), np.uint8)
    for i, label in enumerate(y):
        picture = Image.new("RGB", (32, 32), tuple(map(int, g.integers(150, 255, 3))))
        font = ImageFont.load_default(int(g.integers(16, 24)))
        place = tuple(map(int, g.integers((4, 0), (12, 8))))
        ImageDraw.Draw(picture).text(place, text[label], fill=tuple(map(int, g.integers(0, 100, 3))), font=font)
        x[i] = np.asarray(picture)
    return x, y


def looked_at(x, y, classes=None):
    return mirrored(torch.tensor(x).permute(0, 3, 1, 2).float(), torch.as_tensor(y), classes)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("text", "harms"), [("bdpq", True), ("AHIMOTUVWXY", False)])
def test_mirror_images_of_letters_harm_and_those_of_symmetric_ones_help(text, harms, seed):
    found = looked_at(*letters(text, 800, seed), classes=len(text))
    assert found.harms == harms
    assert (found.mirrored < found.straight) == harms


def test_letters_that_are_none_when_mirrored_are_explained_less_well():
    found = looked_at(*letters("FGJLNPQRSZ", 800), classes=10)
    assert found.mirrored < found.straight


def test_a_place_is_not_to_be_mirrored_and_a_distance_from_the_middle_does_not():
    x = np.random.default_rng(0).random((400, 32, 32, 3)).astype(np.float32)
    place = np.arange(400) % 28 + 2
    for picture, column in zip(x, place, strict=True):
        picture[:, column - 2 : column + 2] += 1
    assert looked_at(x, place.astype(np.float32)).harms
    assert not looked_at(x, np.abs(place - 16.0).astype(np.float32)).harms


@pytest.mark.parametrize("y", [np.zeros(300, np.float32), np.random.default_rng(0).normal(size=300)])
def test_what_tells_nothing_changes_nothing(y):
    x = np.random.default_rng(1).random((300, 32, 32, 3)).astype(np.float32)
    assert not looked_at(x, y).harms


def test_too_few_rows_and_other_targets_are_not_judged():
    x = np.zeros((300, 32, 32, 3), np.float32)
    assert looked_at(x[:50], np.zeros(50, np.float32)) is None
    assert looked_at(x, np.zeros((300, 4, 4), np.float32)) is None
    assert looked_at(x, np.full(300, -1), classes=2) is None
    assert looked_at(x, np.arange(300) % 200, classes=200) is None


@pytest.mark.parametrize(("text", "flips"), [("bdpq", False), ("AHIMOTUVWXY", True)])
def test_the_plan_flips_by_what_the_pictures_say(text, flips):
    x, y = letters(text, 800)
    options = {"batch": 16, "lr": 0.01, "until": "steps(1)", "valid": None, "precision": "float32", "quiet": True}
    plan = handful.fit(
        "cnn", {"image": np.moveaxis(x, -1, 1), "letter": [text[i] for i in y]}, target="letter", **options
    ).plan
    chosen = plan.choices["augment"]
    assert ("flip" in chosen.value) == flips
    assert "a small model, taught on half of 800 training pictures" in chosen.reason
    assert any("mirror image" in note for note in plan.notes) == flips
