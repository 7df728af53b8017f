#!/usr/bin/env bash
# scikit-learn 1.9.1. SGDClassifier, SGDRegressor, Perceptron, SGDOneClassSVM: `shuffle=True` is one permutation, applied over and over.
#
# "Whether or not the training data should be shuffled after each epoch", says the documentation, and one takes that for a new order
# each time. What the epochs share is a seed: the rows lie in some order, and before each epoch the *same* exchanges of
# places are made in that order. If p is the permutation they amount to, epoch e runs through the rows by p applied e times.
# A place goes round its cycle of p and no further:
#   - the row that an epoch ends on, which has most to say in the weights at a constant rate, comes back with that cycle's length. Of
#     n rows, one seed in n has the same row last in every epoch; a fair shuffle would do that for 8 epochs once in n^7 seeds;
#   - half of all seeds never let half of the rows stand there, however many epochs;
#   - of two rows, one epoch in two is the order in which the rows were given.
#
# How it is made visible: one feature that is always 1, no intercept, squared loss at eta0=1: each row sets the weight to its
# own target, so that `coef_` after k epochs is the target of the row that came last in epoch k.
#
# Output seen (x86_64, Python 3.11):
#   SGDRegressor, 6 rows: last rows of epochs 1 to 12, seed 2: 3 5 3 5 3 5 3 5 3 5 3 5
#   SGDRegressor, 6 rows: last rows of epochs 1 to 12, seed 5: 5 5 5 5 5 5 5 5 5 5 5 5
#   SGDRegressor, 6 rows: last rows of epochs 1 to 12, seed 4: 3 0 2 4 5 3 0 2 4 5 3 0
#   300 seeds, 6 rows, 24 epochs: all periodic with at most 6; the same row last throughout: one seed in 4 to 9
#   2 rows: rows come as given, or in the other order, by turns
#   numpy's shuffle in place of it, 300 seeds: the same row last throughout: none
# The exchange is of the data set's own index, seen by its private methods as well:
#   orders of 5 rows before epochs 1 to 3, seed 1: the second and third are the first applied again True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6 2> /dev/null
cat > "$work/last.py" <<'PY'
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import SGDRegressor
from sklearn.utils._seq_dataset import ArrayDataset64

warnings.simplefilter("ignore", ConvergenceWarning)


def last_rows(rows, epochs, seed):
    """The row that each epoch ended on, one fit for each number of epochs."""
    x, y = np.ones((rows, 1)), np.arange(rows, dtype=float)
    rule = {"penalty": None, "fit_intercept": False, "learning_rate": "constant", "eta0": 1.0, "tol": None}
    return [round(SGDRegressor(max_iter=k, random_state=seed, **rule).fit(x, y).coef_[0]) for k in range(1, epochs + 1)]


def period(values):
    return next(p for p in range(1, len(values) + 1) if all(a == b for a, b in zip(values, values[p:])))


for seed in (2, 5, 4):
    print(f"SGDRegressor, 6 rows: last rows of epochs 1 to 12, seed {seed}:", *last_rows(6, 12, seed))
periods = [period(last_rows(6, 24, seed)) for seed in range(300)]
share = sum(p == 1 for p in periods) / 300
print("300 seeds, 6 rows, 24 epochs:", "all periodic with at most 6;" if max(periods) <= 6 else max(periods),
      "the same row last throughout:", "one seed in 4 to 9" if 1 / 9 < share < 1 / 4 else share)
pairs = {tuple(last_rows(2, 6, seed)) for seed in range(20)}
print("2 rows:", "rows come as given, or in the other order, by turns" if pairs == {(0, 1) * 3, (1,) * 6} else pairs)
fair = [np.random.default_rng(seed).permuted(np.tile(np.arange(6), (24, 1)), axis=1)[:, -1] for seed in range(300)]
print("numpy's shuffle in place of it, 300 seeds: the same row last throughout:", sum(len(set(f)) == 1 for f in fair) or "none")
y = np.arange(5.0)
rows, orders = ArrayDataset64(np.ones((5, 1)), y, np.ones(5)), []
for _ in range(3):
    rows._shuffle_py(1)
    orders.append(np.array([int(rows._next_py()[1]) for _ in range(5)]))
again = (orders[1] == orders[0][orders[0]]).all() and (orders[2] == orders[1][orders[0]]).all()
print("orders of 5 rows before epochs 1 to 3, seed 1: the second and third are the first applied again", bool(again))
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" "$work/last.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
SGDRegressor, 6 rows: last rows of epochs 1 to 12, seed 2: 3 5 3 5 3 5 3 5 3 5 3 5
SGDRegressor, 6 rows: last rows of epochs 1 to 12, seed 5: 5 5 5 5 5 5 5 5 5 5 5 5
SGDRegressor, 6 rows: last rows of epochs 1 to 12, seed 4: 3 0 2 4 5 3 0 2 4 5 3 0
300 seeds, 6 rows, 24 epochs: all periodic with at most 6; the same row last throughout: one seed in 4 to 9
2 rows: rows come as given, or in the other order, by turns
numpy's shuffle in place of it, 300 seeds: the same row last throughout: none
orders of 5 rows before epochs 1 to 3, seed 1: the second and third are the first applied again True
SEEN
