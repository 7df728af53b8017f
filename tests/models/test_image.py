"""The whitening that a resnet begins with: right beside NumPy, fixed in training, and the same bits after a reload."""

import numpy as np
import pytest
import torch

import handful
from handful import models as model
from handful.base.errors import HandfulError
from handful.models.image import Whitening


def pictures(n: int = 96, channels: int = 3, side: int = 12) -> torch.Tensor:
    """Pictures whose neighbouring pixels and channels go together, as in photographs."""
    g = torch.Generator().manual_seed(0)
    rough = torch.randn(n, 1, side // 4, side // 4, generator=g)
    smooth = torch.nn.functional.interpolate(rough, size=(side, side), mode="bilinear")
    return smooth + 0.3 * torch.randn(n, channels, side, side, generator=g)


@pytest.mark.parametrize(("channels", "stride"), [(3, 1), (1, 1), (3, 2)])
def test_the_stem_has_unit_uncorrelated_outputs(channels, stride):
    """By NumPy: the second moments of the first half of its outputs, over the patches it was fitted on, are 1 and 0."""
    x, stem = pictures(channels=channels), Whitening(channels, stride)
    stem.fit(x)
    half = stem.width // 2
    assert half == min(12, channels * (2 * stride) ** 2)
    out = stem.conv(x).detach().double().numpy()
    flat = out.transpose(0, 2, 3, 1).reshape(-1, 2 * half)
    moments = flat[:, :half].T @ flat[:, :half] / len(flat)
    assert np.allclose(moments, np.diag(np.diag(moments)), atol=1e-3)
    assert (np.diag(moments) <= 1 + 1e-3).all()
    assert np.diag(moments)[-1] > 0.99  # the strongest direction; weak ones are kept below 1, not blown up
    assert np.allclose(flat[:, :half], -flat[:, half:], atol=1e-6)


def test_constant_pictures_do_not_blow_up():
    stem = Whitening(3, 1)
    stem.fit(torch.zeros(4, 3, 8, 8))
    assert torch.isfinite(stem(torch.zeros(2, 3, 8, 8))).all()


def test_pictures_that_are_not_finite_are_left_to_the_first_step_which_names_them():
    x, clean, dirty = pictures(), Whitening(3, 1), Whitening(3, 1)
    clean.fit(x)
    dirty.fit(torch.cat([x, torch.full_like(x[:2], torch.nan)]))
    assert torch.equal(clean.conv.weight, dirty.conv.weight)
    bad, y = np.full((40, 3, 24, 24), np.nan, np.float32), np.arange(40) % 2
    with pytest.raises(HandfulError, match="NaN alone in all training rows"):
        handful.fit("resnet", (bad, y), quiet=True, until="steps(2)")
    some = pictures(40, side=24).numpy()
    some[3, :, :2] = np.nan
    notes = handful.fit(
        "resnet", (some, y), quiet=True, batch=8, until="steps(1)", valid=None, precision="float32"
    ).plan.notes
    assert any(f"{some[3, :, :2].size} missing values become the channel's training mean" in note for note in notes)


def test_a_picture_with_values_missing_is_predicted_as_one_with_the_mean_there():
    """Also where no picture trained on had any."""
    x, y = labelled(48)
    run = handful.fit("cnn", (x, y), quiet=True, batch=16, until="steps(2)", valid=None, precision="float32")
    holes, filled = x[:4].copy(), x[:4].copy()
    holes[1, 2, 3, 5], holes[2] = np.nan, np.nan
    mean = x.mean((0, 2, 3), dtype=np.float64)
    filled[1, 2, 3, 5], filled[2] = mean[2], mean[:, None, None]
    given, put = (run.predict(rows, probabilities=True) for rows in (holes, filled))
    torch.testing.assert_close(given, put, rtol=0, atol=1e-5)


def labelled(n: int = 160) -> tuple[np.ndarray, np.ndarray]:
    x = pictures(n, side=24).numpy().astype(np.float32)
    y = (x.mean((1, 2, 3)) > 0).astype(np.int64)
    return x, y


def test_training_leaves_the_whitening_and_a_run_resumes_and_reloads_to_the_same_bits(tmp_path):
    x, y = labelled()
    options = {"batch": 16, "lr": 1e-3, "quiet": True, "valid": None, "augment": None, "precision": "float32"}
    whole = handful.fit("resnet", (x, y), until="steps(6)", out=tmp_path / "whole", **options)
    start = model.from_config(whole.model.config)
    assert not start.stem.conv.weight.requires_grad
    assert start.stem.conv.bias.requires_grad
    handful.fit("resnet", (x, y), until="steps(3)", out=tmp_path / "cut", **options)
    cut = handful.load(tmp_path / "cut")
    assert torch.equal(cut.model.stem.conv.weight, whole.model.stem.conv.weight)
    again = handful.load(tmp_path / "whole")
    for a, b in zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(
        torch.as_tensor(again.predict(x, probabilities=True)), torch.as_tensor(whole.predict(x, probabilities=True))
    )


def test_the_rows_it_looks_at_follow_the_seed():
    x, y = labelled(400)
    given = {"until": "steps(1)", "batch": 8, "lr": 1e-4, "quiet": True, "valid": None, "precision": "float32"}
    weights = [handful.fit("resnet", (x, y), seed=seed, **given).model.stem.conv.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
