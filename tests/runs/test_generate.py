"""Text from a language model: a pure function of the seed, drawn as the model believes, in the run and its report."""

import html

import numpy as np
import pytest
import torch

import handful
from handful.base.errors import HandfulError
from handful.losses.asked import as_metrics
from handful.models.base import seeded
from handful.models.text import Language
from handful.runs.generate import _draw

TEXT = "the cat sat on the mat. " * 300


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    (folder / "cats.txt").write_text(TEXT)
    with seeded(0):
        model = Language(vocabulary=13, width=32, layers=2, heads=2)
    return handful.fit(model, folder / "cats.txt", batch=8, lr=1e-2, until="steps(150)", out=folder / "run", quiet=True)


def test_it_goes_on_with_what_it_learned_and_the_seed_decides(run):
    said = run.sample("the cat", length=40, temperature=0)
    assert said == (TEXT * 2)[7:47]
    wild = run.sample("the cat", length=40, temperature=3.0, seed=1)
    assert wild == run.sample("the cat", length=40, temperature=3.0, seed=1)
    assert wild != run.sample("the cat", length=40, temperature=3.0, seed=2)
    assert wild.startswith(run.sample("the cat", length=10, temperature=3.0, seed=1))
    assert run.sample("the cat", 40, 3.0, top=1) == said
    assert len(run.sample("", length=5)) == 5
    assert run.sample("a", length=0) == ""
    assert len(run.sample("☃ unseen", length=300)) == 300  # longer than the window


def test_draws_follow_the_models_probabilities_and_never_padding():
    logits = torch.tensor([9.0, 9.0, 0.0, 1.0, -1.0], dtype=torch.float64)
    drawn = np.bincount([_draw(logits.clone(), 0.7, None, u) for u in (np.arange(4000) + 0.5) / 4000], minlength=5)
    expected = np.exp(np.array([0.0, 1.0, -1.0]) / 0.7)
    assert drawn[:2].tolist() == [0, 0]
    np.testing.assert_allclose(drawn[2:] / 4000, expected / expected.sum(), atol=1e-3)
    assert {_draw(logits.clone(), 1.0, 2, u) for u in np.linspace(0, 0.999, 50)} == {2, 3}


def test_perplexity_is_exp_of_the_loss_and_other_text_is_scored(run, tmp_path):
    (tmp_path / "other.txt").write_text("the mat sat on the cat. " * 20)
    scores = run.evaluate(tmp_path / "other.txt")
    assert scores["perplexity"] == pytest.approx(np.exp(scores["loss"]), rel=1e-5)
    assert run.evaluate(run.path.parent / "cats.txt")["perplexity"] < scores["perplexity"]
    logits, target = torch.randn(3, 4, 6), torch.tensor([[1, 2, -100, 3]] * 3)
    (metric,) = as_metrics("perplexity")
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1).double(), target.flatten())
    assert metric.finish(metric.sums(logits, target, None).numpy()) == pytest.approx(float(nll.exp()), rel=1e-6)


def test_the_report_shows_a_sample_and_predict_says_what_to_use(run):
    assert run.sample() in html.unescape(run.report().read_text())
    with pytest.raises(HandfulError, match="use sample"):
        run.predict("the cat sat")
    other = handful.fit("linear", "iris", batch=8, lr=0.1, until="steps(1)", quiet=True)
    with pytest.raises(HandfulError, match="only a language model continues text; this run's task is classification"):
        other.sample()
    with pytest.raises(HandfulError, match="at least 0"):
        run.sample(temperature=-1)
