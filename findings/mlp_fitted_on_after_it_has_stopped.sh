#!/usr/bin/env bash
# scikit-learn 1.9.1, MLPClassifier and MLPRegressor with `warm_start=True`: a second `fit`, on other data, ends after one epoch.
#
# A good guess: warm_start makes `fit` begin at the weights of the call before; it then trains, up to `max_iter` epochs, until the
# loss or the score of the held-out rows of *these* data has not improved for `n_iter_no_change` epochs. SGDClassifier does so.
# What happens: the count of epochs without improvement, and the best loss or score that new ones are held against, are those of
# the call before, and are set back only where weights are made anew. A model that stopped because nothing improved begins the
# second fit with its patience used up: one epoch, unless that one happens to beat the best of the *old* data. `early_stopping` or
# not, classifier or regressor; each further fit adds one epoch. After data of which the labels were turned round, the model is wrong
# on 95 rows in 100, where a fresh one is right on 99. n_iter_ is 1, and nothing warns: the warning is for too many epochs.
# So a warm-started model that is refitted each day on the day's rows takes one epoch a day. `partial_fit` counts nothing and is not
# concerned; a model that had been ended by `max_iter` while it still improved is not, either.
#
# Output seen (CPU, x86_64, Python 3.11; data of 1,000 rows, then others with the opposite sign):
#   MLPClassifier, early_stopping True: refitted 1 epoch, score 0.1 or less; fresh above 0.9; warnings 0
#   MLPClassifier, early_stopping False: refitted 1 epoch, score 0.1 or less; fresh above 0.9; warnings 0
#   MLPRegressor, early_stopping True: refitted 1 epoch, score 0.1 or less; fresh above 0.9; warnings 0
#   MLPRegressor, early_stopping False: refitted 1 epoch, score 0.1 or less; fresh above 0.9; warnings 0
#   SGDClassifier, early_stopping True: refitted more epochs, score above 0.9; fresh above 0.9; warnings 0
#   SGDClassifier, early_stopping False: refitted more epochs, score above 0.9; fresh above 0.9; warnings 0
#   MLPClassifier, counters set back by hand: refitted more epochs, score above 0.9
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6 2> /dev/null
cat > "$work/again.py" <<'PY'
import warnings
from functools import partial

import numpy as np
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor

SMALL = {"hidden_layer_sizes": (16,), "max_iter": 1000, "learning_rate_init": 0.01}


def rows(sign, seed):
    x = np.random.default_rng(seed).normal(size=(1000, 5))
    return x, (sign * x[:, 0] > 0).astype(int)


def coarse(score):
    return "0.1 or less" if score <= 0.1 else "above 0.9" if score > 0.9 else f"{score:.2f}"


def epochs(model):
    return "1 epoch" if model.n_iter_ == 1 else "more epochs"


if __name__ == "__main__":
    before, after = rows(1, 0), rows(-1, 1)
    for make in (partial(MLPClassifier, **SMALL), partial(MLPRegressor, **SMALL), SGDClassifier):
        for early in (True, False):
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                model = make(early_stopping=early, warm_start=True, random_state=0).fit(*before).fit(*after)
                fresh = make(early_stopping=early, random_state=0).fit(*after)
            print(f"{type(model).__name__}, early_stopping {early}: refitted {epochs(model)}, score "
                  f"{coarse(model.score(*after))}; fresh {coarse(fresh.score(*after))}; warnings {len(said)}")
    model = MLPClassifier(**SMALL, warm_start=True, random_state=0).fit(*before)
    model._no_improvement_count, model.best_loss_ = 0, np.inf
    model.fit(*after)
    print(f"MLPClassifier, counters set back by hand: refitted {epochs(model)}, score {coarse(model.score(*after))}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" "$work/again.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
MLPClassifier, early_stopping True: refitted 1 epoch, score 0.1 or less; fresh above 0.9; warnings 0
MLPClassifier, early_stopping False: refitted 1 epoch, score 0.1 or less; fresh above 0.9; warnings 0
MLPRegressor, early_stopping True: refitted 1 epoch, score 0.1 or less; fresh above 0.9; warnings 0
MLPRegressor, early_stopping False: refitted 1 epoch, score 0.1 or less; fresh above 0.9; warnings 0
SGDClassifier, early_stopping True: refitted more epochs, score above 0.9; fresh above 0.9; warnings 0
SGDClassifier, early_stopping False: refitted more epochs, score above 0.9; fresh above 0.9; warnings 0
MLPClassifier, counters set back by hand: refitted more epochs, score above 0.9
SEEN
