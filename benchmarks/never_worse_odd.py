"""The data sets of never_worse.py that are made to break the rules on (`--sets odd`): few rows, many columns, rare
classes, wrong labels, far targets, and what is learned late."""

from itertools import pairwise
from typing import Any

import numpy as np
from sklearn import datasets
from torch import nn

Rows = tuple[Any, Any]


def labelled(n: int, columns: int, seed: int, **options: Any) -> Rows:
    """Clusters on the corners of a hypercube."""
    x, y = datasets.make_classification(n, columns, random_state=seed, **options)
    return x.astype(np.float32), y.astype(np.int64)


def number(x: Any, y: Any) -> Rows:
    """Rows with a number as target, in units of its spread."""
    return x.astype(np.float32), ((y - y.mean()) / y.std()).astype(np.float32)[:, None]


def wide() -> Rows:
    """Far more columns than rows."""
    return labelled(300, 2000, 11, n_informative=20, n_redundant=100)


def wide_number() -> Rows:
    """Far more columns than rows: ten of 800 tell a number."""
    return number(*datasets.make_regression(250, 800, n_informative=10, noise=20, random_state=21)[:2])


def rare(share: float) -> Rows:
    """A share of the rows is of the second class; so many rows that what tests has some hundred of it."""
    return labelled(150_000, 15, 12, n_informative=8, weights=[1 - share], flip_y=0, class_sep=1.0)


def heavy() -> Rows:
    """A number with Student's noise of 2 degrees of freedom: a few targets lie very far out."""
    g = np.random.default_rng(13)
    x = g.normal(size=(3000, 12))
    return number(x, np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.5 * g.standard_t(2, 3000))


def skewed() -> Rows:
    """Prices: the exponential of what can be told."""
    g = np.random.default_rng(23)
    x = g.normal(size=(2500, 10))
    return number(x, np.exp(x[:, 0] + 0.5 * x[:, 1] * x[:, 2] + 0.5 * g.normal(size=2500)))


def many_categories() -> Rows:
    """Three columns of 400 categories each, drawn by a power law; the class is by their hidden tendencies."""
    g = np.random.default_rng(14)
    x = np.minimum(g.zipf(1.3, (5000, 3)) - 1, 399)
    tendency = g.normal(size=(3, 400, 3))
    logits = sum(tendency[k, x[:, k]] for k in range(3)) + g.gumbel(size=(5000, 3))
    return x + 400 * np.arange(3), logits.argmax(1)


class Categories(nn.Module):
    """Vectors of categories, side by side, and a small network."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(1200, 16)
        self.out = nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 3))

    def forward(self, x: Any) -> Any:
        return self.out(self.embed(x).flatten(1))


def tiny() -> Rows:
    """Sixty wines."""
    x, y = datasets.load_wine(return_X_y=True)
    few = np.random.default_rng(15).permutation(len(y))[:60]
    return x[few].astype(np.float32), y[few].astype(np.int64)


def few_patients() -> Rows:
    """How diabetes went on, of 300 patients."""
    x, y = datasets.load_diabetes(return_X_y=True)
    return number(x[:300], y[:300])


def parity() -> Rows:
    """Whether four of twelve signs have an odd number of minuses: nothing is learned for long, then everything."""
    x = np.random.default_rng(24).choice([-1.0, 1.0], (6000, 12))
    return x.astype(np.float32), (x[:, :4].prod(1) > 0).astype(np.int64)


def adding() -> Rows:
    """Sequences of 20 numbers, two of them marked: their sum (Hochreiter and Schmidhuber 1997)."""
    g = np.random.default_rng(25)
    x = np.stack([g.uniform(-1, 1, (4000, 20)), np.zeros((4000, 20))], 2)
    for row in x:
        row[g.choice(20, 2, replace=False), 1] = 1
    return number(x, (x[..., 0] * x[..., 1]).sum(1))


class Recurrent(nn.Module):
    """A GRU over numbers; a number from its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.out = nn.GRU(2, 32, batch_first=True), nn.Linear(32, 1)

    def forward(self, x: Any) -> Any:
        return self.out(self.gru(x)[0][:, -1])


def few_digits() -> Rows:
    """Four hundred digits."""
    x, y = datasets.load_digits(return_X_y=True)
    return (x[:400].reshape(-1, 1, 8, 8) / 16).astype(np.float32), y[:400].astype(np.int64)


def normalised_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.5), nn.Linear(128, 10),
    )  # fmt: skip


def deep() -> nn.Module:
    """Six layers without help."""
    return net(20, 48, 48, 48, 48, 48, 2)


def net(*sizes: int) -> nn.Module:
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
