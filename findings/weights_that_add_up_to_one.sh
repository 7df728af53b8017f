#!/usr/bin/env bash
# xgboost 3.2.0, fit(X, y, sample_weight=w) with weights that add up to one: 50 trees, none of which has a split, and one probability for every row.
#
# Weights are a matter of proportion: this row counts twice as much as that. Importance weights, survey weights, propensities, attention over the past come
# normalised, with a sum of one, and scikit-learn's estimators, by and large, take them so; a common factor is expected to cancel. A warning, if it does not.
#
# Two of xgboost's defaults are in units of weight: min_child_weight=1, the least that a leaf may weigh (with a factor of at most 1/4 for two classes), and
# reg_lambda=1, which is added to a leaf's weight. A whole table that weighs 1 has no leaf that may be. The fit ends normally, with as many trees as asked,
# each a leaf that is next to nothing; the area under the curve is 0.50 and reads like a task that cannot be learned. Where the sum is some twenty, it has trees, but other
# ones than by weights around 1. The neighbours differ: lightgbm and HistGradientBoosting have thresholds of this kind that are a thousand times smaller, and fail
# in the same way at a thousandth of it (raw densities, products of probabilities); catboost and GradientBoosting do not depend on the sum.
# Way out: weights with a mean of one (w * len(w) / w.sum()), always.
#
# Output seen (x86_64, Python 3.11), area under the curve on other rows, the same 2,000 weights with a sum of 2000, 20, 1 and 0.001:
#   xgboost: 0.78 to 0.88, 0.78 to 0.88, one probability for all rows, one probability for all rows
#   xgboost, min_child_weight=0, reg_lambda=0: 0.78 to 0.88, 0.78 to 0.88, 0.78 to 0.88, 0.78 to 0.88
#   lightgbm: 0.78 to 0.88, 0.78 to 0.88, 0.78 to 0.88, one probability for all rows
#   catboost: 0.78 to 0.88, 0.78 to 0.88, 0.78 to 0.88, 0.78 to 0.88
#   scikit-learn, HistGradientBoosting: 0.78 to 0.88, 0.78 to 0.88, 0.78 to 0.88, one probability for all rows
#   scikit-learn, GradientBoosting: 0.78 to 0.88, 0.78 to 0.88, 0.78 to 0.88, 0.78 to 0.88
#   xgboost, a sum of 1: trees 50 - trees with a split 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check numpy==2.4.6 scikit-learn==1.9.1 xgboost-cpu==3.2.0 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check pandas==3.1.1 lightgbm==4.7.0 catboost==1.2.10 2> /dev/null
cat > "$work/finding.py" <<'PY'
import numpy as np
from catboost import CatBoostClassifier
from lightgbm import LGBMClassifier
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from xgboost import XGBClassifier

draw = np.random.default_rng(0)
x = draw.normal(size=(4000, 10))
y = (x[:, 0] + x[:, 1] * x[:, 2] + draw.normal(size=4000) > 0).astype(int)
weights = draw.uniform(0.5, 1.5, size=2000)
weights /= weights.sum()
models = {
    "xgboost": lambda: XGBClassifier(n_estimators=50),
    "xgboost, min_child_weight=0, reg_lambda=0": lambda: XGBClassifier(n_estimators=50, min_child_weight=0, reg_lambda=0),
    "lightgbm": lambda: LGBMClassifier(n_estimators=50, verbose=-1),
    "catboost": lambda: CatBoostClassifier(n_estimators=50, verbose=False, allow_writing_files=False),
    "scikit-learn, HistGradientBoosting": lambda: HistGradientBoostingClassifier(max_iter=50),
    "scikit-learn, GradientBoosting": lambda: GradientBoostingClassifier(n_estimators=50, random_state=0),
}
for name, make in models.items():
    told = []
    for total in (2000, 20, 1, 0.001):
        model = make().fit(x[:2000], y[:2000], sample_weight=weights * total)
        chances = model.predict_proba(x[2000:])[:, 1]
        area = roc_auc_score(y[2000:], chances)
        told.append("one probability for all rows" if np.ptp(chances) < 1e-6 else "0.78 to 0.88" if 0.78 < area < 0.88 else f"{area:.2f}")
    print(f"{name}: " + ", ".join(told))
trees = XGBClassifier(n_estimators=50).fit(x[:2000], y[:2000], sample_weight=weights).get_booster().get_dump()
print("xgboost, a sum of 1: trees", len(trees), "- trees with a split", sum("yes=" in tree for tree in trees))
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
xgboost: 0.78 to 0.88, 0.78 to 0.88, one probability for all rows, one probability for all rows
xgboost, min_child_weight=0, reg_lambda=0: 0.78 to 0.88, 0.78 to 0.88, 0.78 to 0.88, 0.78 to 0.88
lightgbm: 0.78 to 0.88, 0.78 to 0.88, 0.78 to 0.88, one probability for all rows
catboost: 0.78 to 0.88, 0.78 to 0.88, 0.78 to 0.88, 0.78 to 0.88
scikit-learn, HistGradientBoosting: 0.78 to 0.88, 0.78 to 0.88, 0.78 to 0.88, one probability for all rows
scikit-learn, GradientBoosting: 0.78 to 0.88, 0.78 to 0.88, 0.78 to 0.88, 0.78 to 0.88
xgboost, a sum of 1: trees 50 - trees with a split 0
SEEN
