#!/usr/bin/env bash
# scikit-learn 1.9.1, MLPClassifier and MLPRegressor with `sample_weight` (new since 1.7): a weight counts within its mini-batch only.
#
# A good guess: a weight multiplies a row's share of the loss, as in SGDClassifier or LogisticRegression; weights of w everywhere
# change at most the scale; a row of weight 0 may as well be absent.
# What happens: loss and gradient of each mini-batch are divided by the sum of the weights in that mini-batch. So
# - with `batch_size=1` weights do nothing at all: 1 and 128 by class give the bits of no weights (powers of two, so that rounding is
#   out of the way). The smaller the batch, the less of a class weight is left: 600 steps in batches of 200 (all rows), 16, 4 and 1
#   predict the rare class in 0.50, 0.42, 0.19 and 0.03 of the rows, without weights in 0.09 to 0.03;
# - `alpha` is divided by that sum too: weights of 10 everywhere are a tenth of the L2 (the same bits as alpha / 10, up to rounding);
# - a mini-batch that the shuffle fills with rows of weight 0 ends the fit in ZeroDivisionError, by the luck of `random_state`.
# None of it is in the documentation of `fit`, and none warns.
#
# Output seen (CPU, x86_64, Python 3.11):
#   batch 200: share of positives 0.09 without, 0.50 with weights; other weights
#   batch 16: share of positives 0.07 without, 0.42 with weights; other weights
#   batch 4: share of positives 0.06 without, 0.19 with weights; other weights
#   batch 1: share of positives 0.03 without, 0.03 with weights; the same bits
#   alpha 1 under weights of 10 is alpha 0.1: True
#   140 rows of weight 1, 60 of weight 0, batch 4: 4 of 20 seeds end in ZeroDivisionError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6 2> /dev/null
cat > "$work/weights.py" <<'PY'
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

warnings.simplefilter("error")
warnings.simplefilter("ignore", ConvergenceWarning)
random = np.random.default_rng(0)
x = random.normal(size=(200, 4))
y = (x[:, 0] + random.normal(size=200) > 1.4).astype(int)  # about one in six
weights = np.where(y == 1, 128.0, 1.0)


def fit(w=None, size=200, alpha=0.0, seed=0, steps=600):
    epochs = max(1, steps * size // 200)
    model = MLPClassifier((8,), batch_size=size, alpha=alpha, random_state=seed, max_iter=epochs, learning_rate_init=0.01,
                          n_iter_no_change=10**6)
    return model.fit(x, y, sample_weight=w)


def share(model):
    return f"{model.predict(x).mean():.2f}"


for size in (200, 16, 4, 1):
    plain, weighted = fit(None, size), fit(weights, size)
    same = all(np.array_equal(a, b) for a, b in zip(plain.coefs_, weighted.coefs_))
    print(f"batch {size}: share of positives {share(plain)} without, {share(weighted)} with weights; {'the same bits' if same else 'other weights'}")
ones = np.ones(200)
tenth, by_ten = fit(None, 50, alpha=0.1, steps=100), fit(10 * ones, 50, alpha=1.0, steps=100)
print("alpha 1 under weights of 10 is alpha 0.1:", all(np.allclose(a, b, rtol=1e-6) for a, b in zip(tenth.coefs_, by_ten.coefs_)))
few = np.where(np.arange(200) < 140, 1.0, 0.0)
ended = 0
for seed in range(20):
    try:
        fit(few, 4, seed=seed, steps=50)
    except ZeroDivisionError:
        ended += 1
print(f"140 rows of weight 1, 60 of weight 0, batch 4: {ended} of 20 seeds end in ZeroDivisionError")
PY
"$work/venv/bin/python" "$work/weights.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
batch 200: share of positives 0.09 without, 0.50 with weights; other weights
batch 16: share of positives 0.07 without, 0.42 with weights; other weights
batch 4: share of positives 0.06 without, 0.19 with weights; other weights
batch 1: share of positives 0.03 without, 0.03 with weights; the same bits
alpha 1 under weights of 10 is alpha 0.1: True
140 rows of weight 1, 60 of weight 0, batch 4: 4 of 20 seeds end in ZeroDivisionError
SEEN
