"""Six workloads for choice.py that nobody looked at while the rules were set: named on 29 November 2026 before any of
them was run there, and scored once, `python benchmarks/choice.py --quick --unseen`. Five have the rows and models that
never_worse.py names as its last ones, which were not run before either."""

import numpy as np
from choice_workloads import Split, Workload, split
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
from sklearn import datasets
from torch import nn


def moved_digits() -> Split:
    """scikit-learn's digits, each thrice at a random place of a 12 x 12 field of noise."""
    g, (pictures, y) = np.random.default_rng(31), datasets.load_digits(return_X_y=True)
    x = g.normal(0, 0.3, (3 * len(y), 1, 12, 12))
    for row, (a, b) in enumerate(g.integers(0, 5, (len(x), 2))):
        x[row, 0, a : a + 8, b : b + 8] += pictures[row % len(y)].reshape(8, 8) / 8
    return split(x.astype(np.float32), np.tile(y, 3), 500)


def normalised() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


UNSEEN = {
    w.name: w
    for w in (
        Workload("speakers", lambda: split(*speakers(), 300), speaker_net, 10, file="spoken-digits.zip"),
        Workload("patches", lambda: split(*patches(), 600), patch_net, 10),
        Workload("arm", lambda: split(*arm(), 800), arm_net, 10),
        Workload("chaos", lambda: split(*chaos(), 400), chaos_net, 10),
        Workload("verses", lambda: split(*verses(), 600), lambda: Attention(2000, 7), 10, file="shakespeare.txt"),
        Workload("moved-digits", moved_digits, normalised, 10),
    )
}
