#!/usr/bin/env bash
# scikit-learn 1.9.1, GaussianNB.partial_fit: a stream of rows in batches of one learns the digits at 10%, in batches of two at 81%; var_smoothing depends on the batch.
#
# The classic of learning from a stream: mean and variance of each class can be kept up exactly, row by row, and the page has partial_fit for "online learning", and
# advises larger chunks for speed and numerical stability. So the model is expected to be that of fit, up to rounding, whatever the chunks are.
#
# var_smoothing adds to all variances a share of the largest variance of all features: of those in the *chunk*. Each call takes off what it takes to have been added
# before, which it computes from the new chunk, and adds that again. With chunks of one row the largest variance is 0: the first smoothing is never added, a
# pixel that is always white has a variance of 0, the log of which makes all probabilities NaN, and every digit is called a 0. Learning is silent; the score alone (and
# numpy, when it divides, in predict) tells. Larger chunks hide it with var_smoothing at 1e-9; where it was chosen to matter, as a search over it does, 0.1 means
# 0.1 in fit, 0.12 in chunks of 5 or 10 and 0 in chunks of one. Way out: chunks of hundreds of rows.
#
# Output seen (x86_64, Python 3.11); what was added to the variances in units of what is asked for:
#   digits, fit: accuracy 0.80
#   digits, partial_fit of 200: accuracy 0.80, smallest variance above 0, warnings while learning 0
#   digits, partial_fit of 10: accuracy 0.81, smallest variance above 0, warnings while learning 0
#   digits, partial_fit of 2: accuracy 0.81, smallest variance above 0, warnings while learning 0
#   digits, partial_fit of 1: accuracy 0.10, smallest variance 0, warnings while learning 0
#   var_smoothing=0.1: added by fit 1.00, by partial_fit of 1000, 100, 10, 5, 1: 1.00, 1.05, 1.21, 1.22, 0.00
#   var_smoothing=0.5: added by fit 1.00, by partial_fit of 1000, 100, 10, 5, 1: 1.00, 1.05, 1.21, 1.22, 0.00
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check numpy==2.4.6 scikit-learn==1.9.1 2> /dev/null
cat > "$work/finding.py" <<'PY'
import warnings

import numpy as np
from sklearn.datasets import load_digits
from sklearn.naive_bayes import GaussianNB

x, y = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(x))
x, y = x[order], y[order]
train, test = slice(0, 1200), slice(1200, None)


def streamed(x, y, size, **options):
    model = GaussianNB(**options)
    for start in range(0, len(x), size):
        model.partial_fit(x[start : start + size], y[start : start + size], classes=np.unique(y))
    return model


whole = GaussianNB().fit(x[train], y[train])
print(f"digits, fit: accuracy {whole.score(x[test], y[test]):.2f}")
for size in (200, 10, 2, 1):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        model = streamed(x[train], y[train], size)
        learned = len(seen)
        score = model.score(x[test], y[test])
    print(f"digits, partial_fit of {size}: accuracy {score:.2f}, smallest variance {'0' if model.var_.min() == 0 else 'above 0'}, warnings while learning {learned}")

draw = np.random.default_rng(0)
x = np.r_[draw.normal(0, 1, (500, 3)), draw.normal(1, 1, (500, 3))]
y, order = np.repeat([0, 1], 500), draw.permutation(1000)
x, y = x[order], y[order]
plain = np.stack([x[y == label].var(0) for label in (0, 1)])  # of each class by itself, without anything added
for smoothing in (0.1, 0.5):
    wanted = smoothing * x.var(0).max()
    told = [f"{(streamed(x, y, size, var_smoothing=smoothing).var_ - plain).mean() / wanted + 1e-9:.2f}" for size in (1000, 100, 10, 5, 1)]
    print(f"var_smoothing={smoothing}: added by fit {(GaussianNB(var_smoothing=smoothing).fit(x, y).var_ - plain).mean() / wanted:.2f}, by partial_fit of 1000, 100, 10, 5, 1:", ", ".join(told))
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
digits, fit: accuracy 0.80
digits, partial_fit of 200: accuracy 0.80, smallest variance above 0, warnings while learning 0
digits, partial_fit of 10: accuracy 0.81, smallest variance above 0, warnings while learning 0
digits, partial_fit of 2: accuracy 0.81, smallest variance above 0, warnings while learning 0
digits, partial_fit of 1: accuracy 0.10, smallest variance 0, warnings while learning 0
var_smoothing=0.1: added by fit 1.00, by partial_fit of 1000, 100, 10, 5, 1: 1.00, 1.05, 1.21, 1.22, 0.00
var_smoothing=0.5: added by fit 1.00, by partial_fit of 1000, 100, 10, 5, 1: 1.00, 1.05, 1.21, 1.22, 0.00
SEEN
