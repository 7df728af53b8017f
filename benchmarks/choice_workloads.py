"""The workloads of choice.py: data, a small model, and how many epochs are run. Made so that a run lasts seconds.

The pictures, the spoken digits and Shakespeare are real data of ../shared/data (a workload whose file is absent is left
out and named); the text is the source code of Python's standard library.
"""

import hashlib
import io
import sysconfig
import wave
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).parent
SHARED = HERE.parent.parent / "shared" / "data"
CACHE = HERE / ".cache" / "choice"
Split = tuple[tuple[Any, Any], tuple[Any, Any]]


@dataclass
class Workload:
    """Data, a fresh model for a seed, and how many epochs are run."""

    name: str
    data: Callable[[], Split]
    model: Callable[[], nn.Module]
    epochs: int
    optimizer: str = "adamw"
    lr: float = 1e-3  # the default that people use; the grid is around it
    loss: str = "auto"
    rates: int = 5  # of the grid, a factor 3 apart from a third of `lr` on
    least: int = 8  # the smallest batch of the grid: every power of two from it on
    file: str = ""  # of ../shared/data that it needs
    near: tuple[tuple[int, ...], tuple[float, ...]] = (
        (),
        (),
    )  # batches and rates that were the oracle's, or next to it

    @property
    def there(self) -> bool:
        return not self.file or (SHARED / self.file).exists()


def split(x: Any, y: Any, held: int, seed: int = 0) -> Split:
    order = np.random.default_rng(seed).permutation(len(x))
    a, b = order[held:], order[:held]
    return (x[a], y[a]), (x[b], y[b])


def table(noise: float = 0.0) -> Split:
    """Ten classes of 32 numbers: which of ten random two-layer functions is largest; `noise`: share of wrong labels."""
    g = np.random.default_rng(1)
    x = g.normal(size=(12_000, 32)).astype(np.float32)
    hidden = np.tanh(x @ g.normal(size=(32, 24)) / 4)
    y = (hidden @ g.normal(size=(24, 10))).argmax(1)
    wrong = g.random(len(y)) < noise
    return split(x, np.where(wrong, g.integers(0, 10, len(y)), y), 2000)


def pictures() -> Split:
    """The first 700 pictures of each class of CIFAR-10, halved to 16 x 16."""
    path = CACHE / "pictures.npz"
    if not path.exists():
        import pyarrow.parquet as pq
        from PIL import Image

        rows = pq.read_table(SHARED / "cifar10-train.parquet")
        labels = rows["label"].to_numpy()
        kept = np.sort(np.concatenate([np.flatnonzero(labels == k)[:700] for k in range(10)]))
        opened = [Image.open(io.BytesIO(r["bytes"])).convert("RGB") for r in rows["image"].take(kept).to_pylist()]
        x = np.stack([np.asarray(p.resize((16, 16), Image.Resampling.BOX)) for p in opened]).transpose(0, 3, 1, 2)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, x=x, y=labels[kept])
    found = np.load(path)
    return split((found["x"].astype(np.float32) / 255 - 0.47) / 0.24, found["y"], 1000)


def speech() -> Split:
    """Spoken digits: 32 bands x 24 frames of a log spectrogram of the first 0.6 s; the usual 300 are held out."""
    path = CACHE / "speech.npz"
    if not path.exists():
        x, y, held = [], [], []
        with zipfile.ZipFile(SHARED / "spoken-digits.zip") as archive:
            for name in sorted(n for n in archive.namelist() if n.endswith(".wav")):
                with wave.open(io.BytesIO(archive.read(name))) as sound:
                    raw = np.frombuffer(sound.readframes(sound.getnframes()), dtype=np.int16)[:4800]
                padded = torch.zeros(4800)
                padded[: len(raw)] = torch.tensor(raw / 32768.0, dtype=torch.float32)
                power = torch.stft(padded, 256, 200, window=torch.hann_window(256), return_complex=True).abs() ** 2
                x.append(torch.log(power[:128, :24].reshape(32, 4, 24).mean(1) + 1e-6).numpy())
                y.append(int(name.split("/")[0]))
                held.append(int(name.rsplit("_", 1)[1][:-4]) < 5)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, x=np.stack(x), y=np.array(y), held=np.array(held))
    found = np.load(path)
    x, y, held = found["x"][:, None], found["y"], found["held"]
    x = ((x - x[~held].mean()) / x[~held].std()).astype(np.float32)
    return (x[~held], y[~held]), (x[held], y[held])


def shakespeare() -> Split:
    """Windows of 25 characters of Shakespeare: the next character of each."""
    ids = np.frombuffer((SHARED / "shakespeare.txt").read_bytes(), dtype=np.uint8).astype(np.int64) % 128
    rows = np.stack([ids[k : k + 25] for k in range(0, 25 * 9000, 25)])
    return split(rows[:, :-1], rows[:, 1:], 1000)


def lines() -> Split:
    """Lines of the standard library, hashed to 24 word ids: from which of eight modules?"""
    folder = Path(sysconfig.get_paths()["stdlib"])
    x, y = [], []
    for label, name in enumerate(("argparse", "ast", "difflib", "inspect", "pydoc", "tarfile", "turtle", "typing")):
        for line in (folder / f"{name}.py").read_text(errors="replace").splitlines():
            words = line.split()
            if len(words) >= 2:
                ids = [1 + int(hashlib.md5(w.encode()).hexdigest(), 16) % 2999 for w in words[:24]]
                x.append(ids + [0] * (24 - len(ids)))
                y.append(label)
    return split(np.array(x), np.array(y), 1500)


class Residual(nn.Module):
    """x + two 3 x 3 convolutions with BatchNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        return torch.relu(x + self.body(x))


class Language(nn.Module):
    """A GRU over characters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gru, self.out = nn.Embedding(128, 32), nn.GRU(32, 64, batch_first=True), nn.Linear(64, 128)

    def forward(self, x: Any) -> Any:
        return self.out(self.gru(self.embed(x))[0])


class Bag(nn.Module):
    """The mean of word vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(3000, 32, mode="mean", padding_idx=0)
        self.out = nn.Sequential(nn.ReLU(), nn.Linear(32, 8))

    def forward(self, x: Any) -> Any:
        return self.out(self.embed(x))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn(channels: int, inputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(inputs, 10),
    )  # fmt: skip


def resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), Residual(16), nn.MaxPool2d(2), Residual(16),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


CIFAR = "cifar10-train.parquet"
LARGER, SMALLER = (32, 64, 128, 256), (16, 32, 64, 128)
WORKLOADS = {
    w.name: w
    for w in (
        Workload("table", table, mlp, 10, near=(LARGER, (0.003, 0.009))),
        Workload("table-momentum", table, mlp, 10, "momentum", 1e-2, near=(LARGER, (0.03, 0.09))),
        Workload("noisy-labels", lambda: table(0.2), mlp, 6, near=(LARGER, (0.003, 0.009))),
        Workload("cnn", pictures, lambda: cnn(3, 384), 6, least=16, file=CIFAR, near=(SMALLER[1:], (0.003, 0.009))),
        Workload(
            "cnn-momentum", pictures, lambda: cnn(3, 384), 6, "momentum", 1e-2, least=16, file=CIFAR,
            near=(SMALLER, (0.01, 0.03)),
        ),
        Workload("resnet", pictures, resnet, 6, least=16, file=CIFAR, near=(SMALLER[1:], (0.003, 0.009))),
        Workload("text", lines, Bag, 10, rates=6, near=((16, 64), (0.027,))),
        Workload("speech", speech, lambda: cnn(1, 1152), 10, least=16, file="spoken-digits.zip",
                 near=(SMALLER[:3], (0.003, 0.009))),
        Workload(
            "characters", shakespeare, Language, 3, loss="token_cross_entropy", rates=6, least=16,
            file="shakespeare.txt", near=(SMALLER, (0.009, 0.027)),
        ),
    )
}  # fmt: skip
