"""The applications' examples reach their targets on the real data, run as a user runs them."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("movie_reviews", "movie-reviews.csv"),
        ("shakespeare", "shakespeare.txt"),
        ("spoken_digits", "spoken-digits.zip"),
        ("joined_digits", "spoken-digits.zip"),
    ],
)
def test_an_example_reaches_its_target(name, data, tmp_path):
    if not (DATA / data).exists():
        pytest.skip(f"{DATA / data} is not there")
    command = [sys.executable, ROOT / "examples" / f"{name}.py", "--data", DATA / data, "--seeds", "0"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-500:]


def test_lightning_resumes_by_one_integer(tmp_path):
    """The example compares weights itself, to the bit; Lightning is no dependency of ours."""
    if find_spec("lightning") is None:
        pytest.skip("lightning is not installed")
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, ROOT / "examples" / "lightning_loader.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-500:]
    assert "weights equal: True" in done.stdout


@pytest.mark.parametrize(
    ("data", "recipe", "model"),
    [
        ("movie-reviews.csv", "text", "text"),
        ("shakespeare.txt", "language", "language"),
        ("spoken-digits.zip", "audio", "audio"),
    ],
)
def test_the_recipe_of_real_data_is_found(data, recipe, model):
    """Two steps of `handful train DATA` with a given batch and rate: the path a person without code takes."""
    import handful

    if not (DATA / data).exists():
        pytest.skip(f"{DATA / data} is not there")
    run = handful.fit(
        "auto",
        DATA / data,
        batch=8,
        lr=1e-3,
        threads=1,
        until="steps(2)",
        valid=16 if recipe != "language" else 0.01,
        quiet=True,
    )
    assert (run.plan.choices["recipe"].value, run.plan.model) == (recipe, model)
    usual = {"text": "token_dropout(0.1)", "audio": "time_shift(0.1) | time_mask(0.2) | frequency_mask(0.2)"}
    assert run.plan.choices["augment"].value == usual.get(recipe)  # by default, as the command does
