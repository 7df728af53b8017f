"""LogMel against formulas in NumPy float64 and scipy's filters; and independence of rows."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch

from handful.base.errors import HandfulError
from handful.data.base import Column, Ragged, Source
from handful.transform import LogMel
from handful.transform.pipeline import Pipeline, fit_pipeline
from handful.transform.steps.audio import mel_filters

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def ragged(rows):
    return Ragged(torch.cat([torch.as_tensor(r) for r in rows]), torch.tensor([0, *np.cumsum([len(r) for r in rows])]))


def sounds(lengths, seed=0, rate=8000):
    rng = np.random.default_rng(seed)
    tones = [0.4 * np.sin(2 * np.pi * rng.uniform(200, 3000) * np.arange(n) / rate) for n in lengths]
    return [(tone + 0.1 * rng.normal(size=len(tone))).astype(np.float32) for tone in tones]


def reference(samples, rate, mels, floor=1e-6):
    """log(mel + floor), float64 [mels, frames], frame by frame from the definition."""
    hop, window = round(0.010 * rate), round(0.025 * rate)
    fft = 2 ** int(np.ceil(np.log2(window)))
    hann = np.zeros(fft)
    left = (fft - window) // 2
    hann[left : left + window] = scipy.signal.get_window("hann", window, fftbins=True)
    padded = np.r_[np.zeros(fft // 2), samples.astype(np.float64), np.zeros(fft)]
    frames = [padded[t * hop : t * hop + fft] * hann for t in range(1 + len(samples) // hop)]
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    mel = lambda f: 2595 * np.log10(1 + f / 700)
    edges = 700 * (10 ** (np.linspace(mel(20), mel(rate / 2), mels + 2) / 2595) - 1)
    bins = np.arange(fft // 2 + 1) * rate / fft
    filters = np.array([np.interp(bins, edges[i : i + 3], [0, 1, 0], left=0, right=0) for i in range(mels)])
    return np.log(power @ filters.T + floor).T


class Sounds(Source):
    def __init__(self, rows, labels, rate=8000):
        self.sounds, self.labels, self.name, self.notes, self.target = rows, labels, "sounds", [], "y"
        self.columns = {"wave": Column("audio", "float32", (None,), rate=rate), "y": Column("number", "int64")}

    def __len__(self):
        return len(self.sounds)

    def read(self, rows):
        return {"wave": ragged([self.sounds[i] for i in rows]), "y": torch.tensor([self.labels[i] for i in rows])}


@pytest.mark.parametrize(("rate", "mels"), [(8000, 40), (16000, 64), (22050, 64), (44100, 80)])
def test_energies_are_those_of_the_formula(rate, mels):
    rows = sounds([rate // 3, 1, rate // 50, rate // 2 + 13], rate=rate)
    raw, frames = LogMel(rate=rate, mels=mels).energies(ragged(rows))
    for i, row in enumerate(rows):
        expected = reference(row, rate, mels)
        assert int(frames[i]) == expected.shape[1]
        np.testing.assert_allclose(raw[i, :, : frames[i]].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 32000, 44100, 48000])
def test_no_filter_is_empty_and_neighbours_sum_to_one(rate):
    window = round(0.025 * rate)
    step = LogMel(rate=rate)
    filters = mel_filters(rate, 1 << (window - 1).bit_length(), step.bands)
    assert (filters.amax(1) > 0).all()
    bins = np.arange(filters.shape[1]) * rate / (2 * (filters.shape[1] - 1))
    inside = (bins > bins[int(filters[0].argmax())]) & (bins < bins[int(filters[-1].argmax())])
    np.testing.assert_allclose(filters.sum(0).numpy()[inside], 1, atol=1e-12)


def test_standardised_per_band_streaming_equals_at_once():
    rows = sounds([800, 3000, 1600, 801, 2500] * 20)
    step = LogMel(rate=8000).fit([ragged(rows[:1]), ragged(rows[1:37]), ragged(rows[37:])])
    everything = np.concatenate([reference(row, 8000, 40) for row in rows], axis=1)
    np.testing.assert_allclose(step.mean.numpy(), everything.mean(1), atol=1e-5)
    np.testing.assert_allclose(step.std.numpy(), everything.std(1), rtol=1e-5)
    out = step(ragged(rows))
    assert out.shape == (100, 40, 38)
    assert out.dtype == torch.float32
    expected = (reference(rows[3], 8000, 40) - everything.mean(1)[:, None]) / everything.std(1)[:, None]
    np.testing.assert_allclose(out[3, :, :11].numpy(), expected, atol=2e-4)
    assert (out[3, :, 11:] == 0).all()


def test_a_row_does_not_depend_on_the_rest_of_the_batch():
    rows = sounds([800, 5000, 79, 1600])
    step = LogMel(rate=8000).fit([ragged(rows)])
    together = step(ragged(rows))
    for i, row in enumerate(rows):
        alone = step(ragged([row]))[0]
        torch.testing.assert_close(together[i, :, : alone.shape[1]], alone, atol=1e-5, rtol=0)
        assert (together[i, :, alone.shape[1] :] == 0).all()


def test_only_an_outlier_is_cut():
    rows = sounds([800] * 199 + [80_000])
    step = LogMel(rate=8000).fit([ragged(rows)])
    assert step.max_length == 11
    assert step(ragged(rows[-2:])).shape == (2, 40, 11)
    assert any("cut to 0.11 s" in note for note in step.notes())
    whole, _ = LogMel(rate=8000).energies(ragged(rows[-1:]))
    expected = (whole[0, :, :11] - step.mean.float()[:, None]) / step.std.float()[:, None]
    torch.testing.assert_close(step(ragged(rows[-1:]))[0], expected, atol=1e-4, rtol=0)
    assert LogMel(rate=8000).fit([ragged(sounds([800, 1200]))]).max_length is None


def test_silence_stereo_and_blocks():
    silence = LogMel(rate=8000).fit([ragged([np.zeros(800, np.float32)])])
    assert (silence(ragged([np.zeros(400, np.float32)])) == 0).all()
    (row,) = sounds([1600])
    step = LogMel(rate=8000).fit([ragged([row])])
    stereo = Ragged(torch.tensor(np.c_[row * 0.5, row * 1.5]), torch.tensor([0, 1600]))
    torch.testing.assert_close(step(stereo), step(ragged([row])), atol=1e-4, rtol=0)
    torch.testing.assert_close(step(torch.tensor(row)[None]), step(ragged([row])))


def test_the_rate_must_be_known_and_stay():
    with pytest.raises(HandfulError, match="samples per second"):
        LogMel().fit([ragged(sounds([800]))])
    pipeline = fit_pipeline(Sounds(sounds([800] * 8), [0, 1] * 4), own_model=False)
    with pytest.raises(HandfulError, match=r"16000 Hz, but was at 8000 Hz"):
        pipeline.check(Sounds(sounds([800]), [0], rate=16000))


def test_a_pipeline_sees_training_rows_only_and_is_read_back():
    rows = sounds([800 + 10 * i for i in range(20)])
    loud = rows[:12] + [row * 100 for row in rows[12:]]
    a, b = (fit_pipeline(Sounds(r, [0, 1] * 10).subset(np.arange(12)), own_model=False) for r in (rows, loud))
    assert torch.equal(a.input.steps[0].mean, b.input.steps[0].mean)
    assert (a.inputs.kind, a.inputs.mels, a.inputs.rate, a.shape) == ("audio", 40, 8000, (40, None))
    source = Sounds(rows, [0, 1] * 10)
    again = Pipeline.from_dict(*a.to_dict())
    assert torch.equal(again(source.take(range(20)))["x"], a(source.take(range(20)))["x"])
    own = fit_pipeline(source, steps=[LogMel(mels=20)], own_model=True)
    assert own(source.take([0]))["x"].shape == (1, 20, 11)


def test_spoken_digits():
    path = DATA / "spoken-digits.zip"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    rows, labels = [], []
    with zipfile.ZipFile(path) as archive:
        for name in sorted(n for n in archive.namelist() if n.endswith("_7.wav")):
            samples, rate = soundfile.read(io.BytesIO(archive.read(name)), dtype="float32")
            assert rate == 8000
            rows.append(samples)
            labels.append(int(Path(name).name[0]))
    source = Sounds(rows, labels)
    pipeline = fit_pipeline(source, own_model=False)
    out = pipeline(source.take(range(len(rows))))
    assert out["x"].shape == (60, 40, 1 + max(map(len, rows)) // 80)
    raw, frames = LogMel(rate=8000).energies(ragged(rows))
    for i in range(0, 60, 7):
        np.testing.assert_allclose(raw[i, :, : frames[i]].numpy(), reference(rows[i], 8000, 40), atol=1e-4)
    cached = pipeline.cached(source)
    for ids in ([5, 50, 7], list(range(60))):
        torch.testing.assert_close(cached.take(ids)["x"], pipeline(source.take(ids))["x"], atol=1e-5, rtol=0)
