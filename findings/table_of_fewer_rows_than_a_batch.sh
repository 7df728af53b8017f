#!/usr/bin/env bash
# pytorch-tabnet 4.1.0 (torch 2.13.0): fit() of a table with fewer than 1,024 rows ends normally, with a loss of 0.0, and has not taken one step.
#
# TabNetClassifier().fit(X, y, max_epochs=100) in scikit-learn's manner, on a table of 1,000 rows, which is what many benchmarks of tables consist of. The page gives
# batch_size=1024 as the default. Of fewer rows than that one expects one batch with all of them, as scikit-learn's MLP has it (`min(200, rows)`), or an error.
#
# The incomplete last batch is dropped (drop_last=True, another default), and of 1,023 rows the first batch is the incomplete last one. An epoch is then nothing.
# The loss of an epoch begins at 0.0 and is divided by the rows seen or one, so the history says 0.0 for each of 100 epochs, which reads like a perfect fit;
# the learning rate and the clock go on. predict() answers with the network's first weights: half of the rows of two classes, to the last bit what a fit of one
# epoch gives. With an evaluation set early stopping sees a score that does not move, ends after its patience, restores "the best" of equal weights, and says
# so. 1,024 rows are one step an epoch, 1,025 to 2,047 too. A comparison of methods finds TabNet to be useless on small tables.
# Regression and pretraining are no different. Way out: a batch_size (and virtual_batch_size) below the number of rows, or drop_last=False.
#
# Output seen (CPU, x86_64, Python 3.11), two classes by the sign of the first column, 30 epochs
#   1000 rows as it comes: losses all 0.0 True, weights of 30 epochs and of one are equal True, right above 90% False, below 60% True
#   1023 rows as it comes: losses all 0.0 True, weights of 30 epochs and of one are equal True, right above 90% False, below 60% True
#   1024 rows as it comes: losses all 0.0 False, weights of 30 epochs and of one are equal False, right above 90% True, below 60% False
#   1000 rows {'drop_last': False}: losses all 0.0 False, weights of 30 epochs and of one are equal False, right above 90% True, below 60% False
#   1000 rows {'batch_size': 128, 'virtual_batch_size': 64}: losses all 0.0 False, weights of 30 epochs and of one are equal False, right above 90% True, below 60% False
#   regression, with an evaluation set: 6 epochs, losses {0.0}, different scores 1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check pytorch-tabnet==4.1.0 scikit-learn==1.9.1 pandas==3.1.1 2> /dev/null
cat > "$work/tabnet.py" <<'PY'
import numpy as np
import torch
from pytorch_tabnet.tab_model import TabNetClassifier, TabNetRegressor


def rows(number):
    x = np.random.default_rng(0).normal(size=(number, 5)).astype("float32")
    return x, (x[:, 0] > 0).astype(int)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.network.parameters()])


def told(number, **options):
    x, y = rows(number)
    model = TabNetClassifier(verbose=0, seed=0)
    model.fit(x, y, max_epochs=30, **options)
    one = TabNetClassifier(verbose=0, seed=0)
    one.fit(x, y, max_epochs=1, **options)
    losses, score = model.history["loss"], (model.predict(x) == y).mean()
    print(f"{number} rows {options or 'as it comes'}: losses all 0.0 {set(losses) == {0.0}}, weights of 30 epochs and of one are equal "
          f"{torch.equal(weights(model), weights(one))}, right above 90% {score > 0.9}, below 60% {score < 0.6}")


told(1000)
told(1023)
told(1024)
told(1000, drop_last=False)
told(1000, batch_size=128, virtual_batch_size=64)
x, y = rows(1000)
model = TabNetRegressor(verbose=0, seed=0)
model.fit(x, x[:, :1], max_epochs=30, eval_set=[(x, x[:, :1])], patience=5)
scores = set(model.history["val_0_mse"])
print(f"regression, with an evaluation set: {len(model.history['loss'])} epochs, losses {set(model.history['loss'])}, different scores {len(scores)}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/tabnet.py" > "$work/all"
grep -v "early stopping\|Early stopping" "$work/all" | grep . | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
1000 rows as it comes: losses all 0.0 True, weights of 30 epochs and of one are equal True, right above 90% False, below 60% True
1023 rows as it comes: losses all 0.0 True, weights of 30 epochs and of one are equal True, right above 90% False, below 60% True
1024 rows as it comes: losses all 0.0 False, weights of 30 epochs and of one are equal False, right above 90% True, below 60% False
1000 rows {'drop_last': False}: losses all 0.0 False, weights of 30 epochs and of one are equal False, right above 90% True, below 60% False
1000 rows {'batch_size': 128, 'virtual_batch_size': 64}: losses all 0.0 False, weights of 30 epochs and of one are equal False, right above 90% True, below 60% False
regression, with an evaluation set: 6 epochs, losses {0.0}, different scores 1
SEEN
