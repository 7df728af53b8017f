"""Pictures that are a target: their values stand for classes, so they are never blended; and pictures too large."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

import handful


def png(pixels, mode=None):
    image = Image.fromarray(pixels)
    if mode == "P":
        image = Image.frombytes("P", image.size, pixels.tobytes())
        image.putpalette([n * 7 % 256 for n in range(768)])
    written = io.BytesIO()
    image.save(written, "png")
    return {"bytes": written.getvalue(), "path": None}


def mask(height, width, seed):
    return np.random.default_rng(seed).choice(np.array([0, 7, 20], np.uint8), (height, width))


def table(path, sizes, mode=None):
    """Pictures whose colour tells the class of each pixel, and those classes."""
    masks = [mask(h, w, i) for i, (h, w) in enumerate(sizes)]
    rows = [{"picture": png(np.repeat(m[..., None] * 10, 3, 2)), "mask": png(m, mode)} for m in masks]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return masks


@pytest.mark.parametrize("mode", [None, "P"])
@pytest.mark.parametrize("stored", [False, True])
def test_classes_of_pixels_are_the_nearest_ones_whatever_the_size(tmp_path, mode, stored):
    sizes = [(16, 16)] * 3 + [(32, 32), (16, 16)]
    masks = table(tmp_path / "t.parquet", sizes, mode)
    masks[3] = masks[3][1::2, 1::2]  # the pixel whose centre is next to that of four
    source = handful.open(tmp_path / "t.parquet", target="mask")
    if stored:
        source = handful.prepare(tmp_path / "t.parquet", tmp_path / "store", target="mask")
    assert np.array_equal(source.take(range(5))["mask"][:, 0], masks)
    assert source.take(range(5))["picture"].shape == (5, 3, 16, 16)


def test_a_palette_picture_that_is_an_input_is_seen_in_its_colours(tmp_path):
    table(tmp_path / "t.parquet", [(16, 16)] * 3, "P")
    assert handful.open(tmp_path / "t.parquet", target="picture").take([0])["mask"].shape == (1, 3, 16, 16)


def test_deep_masks_and_truth_values_keep_their_values(tmp_path):
    deep, flags = mask(16, 16, 1).astype(np.uint16) * 100, mask(16, 16, 2) > 7
    for name, values in (("deep", deep), ("flags", flags)):
        rows = [{"x": float(k), "mask": png(np.kron(values, np.ones((k, k), values.dtype)))} for k in (1, 1, 2)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
        read = handful.open(tmp_path / f"{name}.parquet", target="mask").take(range(3))["mask"][:, 0]
        assert np.array_equal(read, np.stack([values.astype(np.int64)] * 3))


def test_pixels_of_files_are_classes_for_a_model_that_scores_them(tmp_path):
    table(tmp_path / "t.parquet", [(16, 16)] * 40)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 1), nn.ReLU(), nn.Conv2d(32, 21, 1))
    run = handful.fit(
        model, tmp_path / "t.parquet", target="mask", loss="cross_entropy", batch=4, lr=0.02, until="steps(150)",
        quiet=True,
    )  # fmt: skip
    source = handful.open(tmp_path / "t.parquet", target="mask")
    truth = source.take(range(40))["mask"][:, 0].numpy()
    predicted = run.predict(tmp_path / "t.parquet")
    assert (predicted.shape, predicted.dtype) == ((40, 16, 16), np.uint8)
    right = (predicted == truth).mean()
    assert right > 0.99
    assert run.evaluate(source)["accuracy"] == pytest.approx(right)


@pytest.mark.parametrize(("size", "becomes"), [((512, 520), (512, 520)), ((513, 684), (224, 299))])
def test_large_pictures_of_one_size_are_made_small_and_it_is_said(tmp_path, size, becomes):
    table(tmp_path / "t.parquet", [size] * 2)
    source = handful.open(tmp_path / "t.parquet", target="mask")
    assert source.take([0])["picture"].shape[2:] == becomes
    assert source.take([0])["mask"].shape[2:] == becomes
    assert set(source.take([0])["mask"].unique().tolist()) == {0, 7, 20}
    said = [note for note in source.notes if "513x684 (height x width): resized to 224x299" in note]
    assert len(said) == 2 * (size != becomes)
    asked = handful.open(tmp_path / "t.parquet", target="mask", image_size=size)
    assert asked.take([0])["picture"].shape[2:] == size
    assert not asked.notes
