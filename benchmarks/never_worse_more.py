"""More data sets of never_worse.py. `last`: six workloads of other kinds, named on 28 November 2026 before any was
trained, and scored once after the rules were set."""

import io
import re
import wave
import zipfile
from typing import Any

import numpy as np
import torch
from choice_workloads import SHARED
from sklearn import datasets
from torch import nn

Rows = tuple[Any, Any]


def speakers() -> Rows:
    """Spoken digits, 24 bands x 30 frames of a log spectrogram: which of six people speaks?"""
    x, y, people = [], [], list[str]()
    with zipfile.ZipFile(SHARED / "spoken-digits.zip") as archive:
        for name in sorted(n for n in archive.namelist() if n.endswith(".wav")):
            with wave.open(io.BytesIO(archive.read(name))) as sound:
                raw = np.frombuffer(sound.readframes(sound.getnframes()), dtype=np.int16)[:4096]
            padded = torch.zeros(4096)
            padded[: len(raw)] = torch.tensor(raw / 32768.0, dtype=torch.float32)
            power = torch.stft(padded, 256, 136, window=torch.hann_window(256), return_complex=True).abs() ** 2
            x.append(torch.log(power[:120, :30].reshape(24, 5, 30).mean(1) + 1e-6).numpy())
            person = name.rsplit("/", 1)[1].split("_")[1]
            people += [] if person in people else [person]
            y.append(people.index(person))
    found = np.stack(x)
    return ((found - found.mean()) / found.std()).astype(np.float32), np.array(y)


def patches() -> Rows:
    """8 x 8 pieces of scikit-learn's two photographs, with noise: from which quarter of which?"""
    g, x, y = np.random.default_rng(5), [], []
    for k, picture in enumerate(datasets.load_sample_images().images):
        high, wide = (side // 2 for side in picture.shape[:2])
        for quarter in range(4):
            top, left = high * (quarter // 2), wide * (quarter % 2)
            for a, b in zip(g.integers(0, high - 8, 800), g.integers(0, wide - 8, 800), strict=True):
                x.append(picture[top + a : top + a + 8, left + b : left + b + 8].transpose(2, 0, 1))
                y.append(4 * k + quarter)
    found = np.stack(x) / 255 - 0.45 + g.normal(0, 0.1, (len(x), 3, 8, 8))
    return (found / 0.28).astype(np.float32), np.array(y)


def arm() -> Rows:
    """Where the hand of a robot arm of six joints is, in space, from the joints' angles, measured with noise."""
    g = np.random.default_rng(6)
    angles = g.uniform(-1.5, 1.5, (8000, 6))
    pitch, turn = np.cumsum(angles[:, :5], axis=1), angles[:, 5]
    reach, height = (np.cos(pitch) * 0.8 ** np.arange(5)).sum(1), (np.sin(pitch) * 0.8 ** np.arange(5)).sum(1)
    y = np.stack([reach * np.cos(turn), reach * np.sin(turn), height], 1)
    y = (y - y.mean(0)) / y.std(0) + g.normal(0, 0.15, y.shape)
    return angles.astype(np.float32), y.astype(np.float32)


def chaos() -> Rows:
    """Windows of 32 of a Mackey-Glass series, noise added; the value 12 steps on."""
    g, series = np.random.default_rng(7), [1.2] * 18
    for _ in range(9000):
        series.append(series[-1] + 0.2 * series[-18] / (1 + series[-18] ** 10) - 0.1 * series[-1])
    found = np.array(series[1000:])
    found = (found - found.mean()) / found.std() + g.normal(0, 0.2, len(found))
    starts = np.arange(0, len(found) - 44, 2)
    return (
        np.stack([found[k : k + 32] for k in starts]).astype(np.float32)[:, None],
        found[starts + 43].astype(np.float32)[:, None],
    )


def verses() -> Rows:
    """Lines of Shakespeare as the ids of their last 12 words, hashed by their letters: which mark ends the line?"""
    marks, x, y = ("", ",", ".", ":", ";", "?", "!"), [], []
    for line in (SHARED / "shakespeare.txt").read_text().splitlines()[:16_000]:
        words = re.findall(r"[a-z']+", line.lower())[-12:]
        end = line.strip()[-1:]
        if len(words) >= 3 and (end in marks[1:] or end.isalpha()):
            ids = [1 + sum(ord(c) * 31**k for k, c in enumerate(w)) % 1999 for w in words]
            x.append([0] * (12 - len(ids)) + ids)
            y.append(0 if end.isalpha() else marks.index(end))
    few = np.random.default_rng(8).permutation(len(x))[:6000]
    return np.array(x)[few], np.array(y)[few]


class Attention(nn.Module):
    """A small transformer over words; classes from the mean of its states."""

    def __init__(self, words: int, outputs: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(words, 32), nn.Parameter(torch.zeros(12, 32))
        self.body = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True, norm_first=True)
        self.out = nn.Linear(32, outputs)

    def forward(self, x: Any) -> Any:
        return self.out(self.body(self.embed(x) + self.place).mean(1))


def speaker_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(24, 32, 3, padding=1), nn.BatchNorm1d(32), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(32, 32, 3, padding=1), nn.BatchNorm1d(32), nn.ReLU(), nn.AdaptiveAvgPool1d(1),
        nn.Flatten(), nn.Linear(32, 6),
    )  # fmt: skip


def patch_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 24, 3), nn.GELU(), nn.Conv2d(24, 32, 3), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(128, 64), nn.GELU(), nn.Linear(64, 8),
    )  # fmt: skip


def arm_net() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 96), nn.LayerNorm(96), nn.Tanh(), nn.Linear(96, 96), nn.LayerNorm(96), nn.Tanh(), nn.Linear(96, 3)
    )


def chaos_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(1, 16, 5), nn.ReLU(), nn.Conv1d(16, 16, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(192, 1)
    )
