#!/usr/bin/env bash
# hummingbird-ml 0.4.12 (torch 2.13.0), convert(model, "torch"): rows with a gap get other probabilities than from the trees that were converted.
#
# The trees of HistGradientBoosting, RandomForest and LightGBM take NaN as it is: in training each node learns to which side a gap goes, and no imputer
# stands in front. The package turns such a model into tensor operations, for speed or for a GPU, with the same predict_proba. One compares the two on some
# rows, finds differences of 1e-7, and ships it.
#
# The tensors hold features, thresholds, children and leaves, but not the side for gaps. A comparison with NaN is false, so that a gap goes to one and
# the same side in each node of each tree, whatever was learned. Rows without a gap agree to seven digits; those with one are rated as some other row.
# Shallow models (a depth of 3 or so; the choice is the converter's) become products of matrices, in which 0 times NaN is NaN: all rows with a gap, whichever
# of the 30 columns has it, end in the same leaf of each tree and get one probability, as finite as any. Nothing is said in conversion or in prediction.
# Way out: none in the converter. Fill the gaps before training (the last line), or compare on rows that have them before shipping.
#
# Output seen (CPU, x86_64, Python 3.11), 169 test rows of scikit-learn's breast cancer table, where a tenth of the cells was made NaN (161 rows have one):
#   HistGradientBoosting: right before 0.96, after 0.91; of the rows with a gap, off by more than 0.1: 0.2; all answered alike False; rows without a gap agree True
#   HistGradientBoosting, depth 3: right before 0.94, after 0.27; of the rows with a gap, off by more than 0.1: 0.8; all answered alike True; rows without a gap agree True
#   RandomForest: right before 0.97, after 0.91; of the rows with a gap, off by more than 0.1: 0.6; all answered alike False; rows without a gap agree True
#   RandomForest, depth 2: right before 0.95, after 0.27; of the rows with a gap, off by more than 0.1: 0.8; all answered alike True; rows without a gap agree True
#   LightGBM: right before 0.95, after 0.89; of the rows with a gap, off by more than 0.1: 0.2; all answered alike False; rows without a gap agree True
#   LightGBM, depth 3: right before 0.93, after 0.27; of the rows with a gap, off by more than 0.1: 0.8; all answered alike True; rows without a gap agree True
#   HistGradientBoosting, gaps filled first: right before 0.95, after 0.95; of the rows with a gap, off by more than 0.1: 0.0; all answered alike False; rows without a gap agree True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check hummingbird-ml==0.4.12 scikit-learn==1.9.1 lightgbm==4.7.0 2> /dev/null
cat > "$work/finding.py" <<'PY'
import lightgbm
import numpy as np
from hummingbird.ml import convert
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer

X, y = load_breast_cancer(return_X_y=True)
X = X.copy()
X[np.random.default_rng(0).random(X.shape) < 0.1] = np.nan
whole = ~np.isnan(X[400:]).any(1)


def told(name, model, X=X):
    model.fit(X[:400], y[:400])
    before = model.predict_proba(X[400:])[:, 1]
    after = convert(model, "torch").predict_proba(X[400:])[:, 1]
    off = abs(after - before) > 0.1
    right = [((p > 0.5) == y[400:]).mean() for p in (before, after)]
    same = abs(after - before)[whole].max() < 1e-5
    print(f"{name}: right before {right[0]:.2f}, after {right[1]:.2f}; of the rows with a gap, off by more than 0.1: {off[~whole].mean():.1f}; "
          f"all answered alike {len(set(after[~whole].round(6))) == 1}; rows without a gap agree {same}")


told("HistGradientBoosting", HistGradientBoostingClassifier(max_iter=50, random_state=0))
told("HistGradientBoosting, depth 3", HistGradientBoostingClassifier(max_iter=50, max_depth=3, random_state=0))
told("RandomForest", RandomForestClassifier(50, random_state=0))
told("RandomForest, depth 2", RandomForestClassifier(50, max_depth=2, random_state=0))
told("LightGBM", lightgbm.LGBMClassifier(n_estimators=50, verbose=-1, random_state=0))
told("LightGBM, depth 3", lightgbm.LGBMClassifier(n_estimators=50, verbose=-1, max_depth=3, random_state=0))
told("HistGradientBoosting, gaps filled first", HistGradientBoostingClassifier(max_iter=50, random_state=0), SimpleImputer().fit(X[:400]).transform(X))
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" "$work" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
HistGradientBoosting: right before 0.96, after 0.91; of the rows with a gap, off by more than 0.1: 0.2; all answered alike False; rows without a gap agree True
HistGradientBoosting, depth 3: right before 0.94, after 0.27; of the rows with a gap, off by more than 0.1: 0.8; all answered alike True; rows without a gap agree True
RandomForest: right before 0.97, after 0.91; of the rows with a gap, off by more than 0.1: 0.6; all answered alike False; rows without a gap agree True
RandomForest, depth 2: right before 0.95, after 0.27; of the rows with a gap, off by more than 0.1: 0.8; all answered alike True; rows without a gap agree True
LightGBM: right before 0.95, after 0.89; of the rows with a gap, off by more than 0.1: 0.2; all answered alike False; rows without a gap agree True
LightGBM, depth 3: right before 0.93, after 0.27; of the rows with a gap, off by more than 0.1: 0.8; all answered alike True; rows without a gap agree True
HistGradientBoosting, gaps filled first: right before 0.95, after 0.95; of the rows with a gap, off by more than 0.1: 0.0; all answered alike False; rows without a gap agree True
SEEN
