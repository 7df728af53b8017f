"""Sound to pictures of it: log mel energies, in plain torch."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from handful.base.errors import HandfulError
from handful.data.base import Ragged
from handful.models.base import Inputs
from handful.transform.steps.statistics import Moments
from handful.transform.steps.step import Names, Step


def mel_filters(rate: int, fft: int, mels: int, low: float = 20.0) -> Tensor:
    """Triangular filters, float64 [mels, fft // 2 + 1], evenly spaced in mel from `low` Hz to rate / 2.

    The mel scale is HTK's, mel = 2595 log10(1 + f / 700) (O'Shaughnessy 1987, "Speech Communication"; The HTK
    Book, section 5.4), peak 1, without area normalisation.
    """
    top, bottom = 2595 * math.log10(1 + rate / 1400), 2595 * math.log10(1 + low / 700)
    edges = torch.linspace(bottom, top, mels + 2, dtype=torch.float64)
    hertz = 700 * (10 ** (edges / 2595) - 1)
    bins = torch.linspace(0, rate / 2, fft // 2 + 1, dtype=torch.float64)
    rising = (bins - hertz[:-2, None]) / (hertz[1:-1] - hertz[:-2])[:, None]
    falling = (hertz[2:, None] - bins) / (hertz[2:] - hertz[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0)


@dataclass(frozen=True, eq=False)
class LogMel(Step[Ragged | Tensor]):
    """Samples to log(mel energy + floor), standardised per mel band: float32 [m, mels, frames].

    rate: samples per second (given by the data in a pipeline); window and hop in seconds; a periodic Hann
    window, padded to the next power of two; power spectrum |X|^2; frame t is centred on sample t * hop, with
    zeros outside the recording, so n samples give 1 + n // hop frames. mels: 40 up to 8 kHz, else 64. floor:
    1e-6, about the energy of 16-bit noise. max_length: frames kept of a longer recording; by default nothing
    is cut unless the longest training row is over twice the 99th percentile, to which it is then cut.
    Shorter rows are padded to the longest of the batch with zeros *after* standardising. Every row's result
    is independent of the other rows. Input: a Ragged of samples (or of samples x channels, averaged), or [m,
    samples].

    >>> sound = Ragged(torch.sin(torch.arange(1600.0)), torch.tensor([0, 800, 1600]))
    >>> LogMel(rate=8000).fit([sound])(sound).shape
    torch.Size([2, 40, 11])
    """

    rate: int | None = None
    mels: int | None = None
    window: float = 0.025
    hop: float = 0.010
    floor: float = 1e-6
    max_length: int | None = None
    mean: Tensor | None = None
    std: Tensor | None = None
    longest: int = 0  # frames of the longest training row

    @property
    def bands(self) -> int:
        """Number of mel bands."""
        return self.mels or (40 if self._rate <= 8000 else 64)

    @property
    def _rate(self) -> int:
        if not self.rate:
            raise HandfulError("LogMel needs the samples per second: LogMel(rate=16000)")
        return self.rate

    def learn(self, chunks: Iterator[Ragged | Tensor]) -> Self:
        moments, all_frames = Moments(), [np.zeros(0, dtype=np.int64)]
        for part in (part for chunk in chunks for part in _parts(_ragged(chunk))):
            raw, frames = self.energies(part)
            moments.update(raw.transpose(1, 2)[torch.arange(raw.shape[2]) < frames[:, None]])
            all_frames.append(frames.numpy())
        lengths = np.bincount(np.concatenate(all_frames))
        if not len(lengths):
            raise HandfulError("LogMel cannot be fitted on no rows")
        longest, usual = len(lengths) - 1, int(np.searchsorted(lengths.cumsum(), 0.99 * lengths.sum()))
        cut = self.max_length or (usual if longest > 2 * usual else None)
        return replace(self, mels=self.bands, mean=moments.mean, std=moments.std, max_length=cut, longest=longest)

    def energies(self, sound: Ragged) -> tuple[Tensor, Tensor]:
        """log(mel energy + floor) float32 [m, mels, frames], and the frames of each row, int64 [m]."""
        hop, window = max(1, round(self.hop * self._rate)), max(2, round(self.window * self._rate))
        fft = 1 << (window - 1).bit_length()
        lengths = sound.offsets[1:] - sound.offsets[:-1]
        if self.max_length:  # the samples that max_length frames can see
            lengths = lengths.clamp(max=self.max_length * hop - 1 + fft)
        padded = torch.zeros(len(lengths), max(1, int(lengths.max()) if len(lengths) else 1))
        for i, (start, n) in enumerate(zip(sound.offsets.tolist(), lengths.tolist())):
            piece = sound.values[start : start + n].to(torch.float32)
            padded[i, :n] = piece if piece.dim() == 1 else piece.mean(1)
        hann = torch.hann_window(window)
        spectrum = torch.stft(padded, fft, hop, window, hann, center=True, pad_mode="constant", return_complex=True)
        squares = torch.view_as_real(spectrum).square_()
        power = squares[..., 0] + squares[..., 1]  # a sum over the last two takes five times as long
        mel = mel_filters(self._rate, fft, self.bands).to(torch.float32) @ power
        frames = 1 + lengths // hop
        if self.max_length:
            mel, frames = mel[:, :, : self.max_length], frames.clamp(max=self.max_length)
        return (mel + self.floor).log_(), frames

    def __call__(self, value: Ragged | Tensor) -> Tensor:
        mean, std = self.fitted(self.mean), self.fitted(self.std)
        raw, frames = self.energies(_ragged(value))
        scale = torch.where(std > 0, 1 / std.clamp(min=1e-12), 0.0)
        x: Tensor = (raw - mean.float()[:, None]) * scale.float()[:, None]
        inside: Tensor = torch.arange(x.shape[2]) < frames[:, None]
        return x * inside[:, None, :]

    def inputs(self, shape: tuple[int | None, ...]) -> Inputs:
        length = self.max_length or self.longest
        return Inputs("audio", shape=shape, max_length=length, mels=self.bands, rate=self.rate or 0, channels=1)

    def outside(self) -> tuple[str, tuple[int | None, ...], str]:
        does = f"samples at {self._rate} Hz become standardised log mel energies, as handful.preprocess.LogMel does it"
        return "float32", (self.bands, None), f"{does}; 0 behind the end"

    def notes(self, names: Names = None) -> list[str]:
        found = [
            f"Sound at {self.rate} Hz becomes {self.bands} log mel energies every {1000 * self.hop:g} ms "
            "(HTK mel scale), standardised per band."
        ]
        if self.max_length and self.longest > self.max_length:
            cut, long = self.max_length * self.hop, self.longest * self.hop
            found.append(f"Recordings are cut to {cut:.2f} s; the longest training row has {long:.2f} s.")
        return found


def _ragged(value: Ragged | Tensor) -> Ragged:
    if isinstance(value, Ragged):
        return value
    m, n = value.shape[0], value.shape[1]
    return Ragged(value.flatten(0, 1), torch.arange(m + 1) * n)


def _parts(sound: Ragged, rows: int = 64) -> Iterator[Ragged]:
    """The rows in groups, in order, so that one long row pads few others."""
    for a in range(0, len(sound.offsets) - 1, rows):
        offsets = sound.offsets[a : a + rows + 1]
        yield Ragged(sound.values[int(offsets[0]) : int(offsets[-1])], offsets - offsets[0])
