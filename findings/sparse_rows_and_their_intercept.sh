#!/usr/bin/env bash
# scikit-learn 1.9.1. SGDRegressor().fit(X, y) has an R² of 0.99; SGDRegressor().fit(csr_matrix(X), y), the same numbers, has one of 0.4.
#
# A sparse matrix is a way of storing a matrix. LinearRegression, Ridge, Lasso and LogisticRegression find the same model in both, to their tolerance. Of
# SGD, whose rows come in an order drawn by random_state, one would expect the same steps, since zeros have no part in any.
#
# They are other steps. Where X is sparse, and only there, the intercept is moved by a hundredth of what the rate says. There is no argument for
# it. The user guide mentions it, among details of the implementation (an intercept is updated by every row, a sparse weight by few); the pages of the
# classes do not. An intercept that is to go from 0 to 5 therefore takes a hundred times as many steps, under a rate that decays as usual. The fit ends
# by its tolerance, long before, "converged", without a warning, with the level of the target shared out among the weights instead.
# Met where a pipeline has OneHotEncoder or TfidfVectorizer at its head, sparse by default: `sparse_output=False` is then another model, and so is a column
# added that makes ColumnTransformer choose the dense form (sparse_threshold=0.3). partial_fit, SGDClassifier, Perceptron alike.
# Ways out: toarray(); a column of ones and fit_intercept=False; for a regression a centred target.
#
# Output seen (x86_64, Python 3.11), one-hot rows of 5 columns with 2 values each; R² on the rows that were fitted
#   SGDRegressor: dense over 0.95, sparse under 0.7; intercept off by under 0.5 over 2 - warnings 0
#   Ridge: dense over 0.95, sparse over 0.95; intercept off by under 0.5 under 0.5 - warnings 0
#   SGDRegressor, one step on one row: weights the same True, intercept of the dense one over that of the sparse one 100
#   SGDClassifier, one step on one row: weights the same True, intercept of the dense one over that of the sparse one 100
#   a column of ones in place of the intercept, sparse: over 0.95
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1 2> /dev/null
cat > "$work/finding.py" <<'PY'
import warnings

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.linear_model import Ridge, SGDClassifier, SGDRegressor

generator = np.random.default_rng(0)
x = generator.integers(0, 2, (2000, 5)).astype(float)
y = x @ np.array([1.0, -1.0, 0.5, 0.0, 2.0]) + 5 + 0.1 * generator.normal(size=2000)


def word(score):
    return "over 0.95" if score > 0.95 else "under 0.7" if score < 0.7 else f"{score:.2f}"


for name, make in (("SGDRegressor", lambda: SGDRegressor(random_state=0)), ("Ridge", lambda: Ridge(alpha=1e-3))):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        dense, sparse = make().fit(x, y), make().fit(csr_matrix(x), y)
    print(f"{name}: dense {word(dense.score(x, y))}, sparse {word(sparse.score(x, y))}; intercept off by",
          *("under 0.5" if abs(model.intercept_ - 5) < 0.5 else "over 2" for model in (dense, sparse)), f"- warnings {len(said)}")

one = {"random_state": 0, "learning_rate": "constant", "eta0": 0.01, "penalty": None, "alpha": 0.0}
for name, make, target in (("SGDRegressor", lambda: SGDRegressor(**one), y), ("SGDClassifier", lambda: SGDClassifier(loss="log_loss", **one), y > 5.75)):
    dense, sparse = make().partial_fit(x[:1], target[:1], **({"classes": [False, True]} if name == "SGDClassifier" else {})), make()
    sparse.partial_fit(csr_matrix(x[:1]), target[:1], **({"classes": [False, True]} if name == "SGDClassifier" else {}))
    print(f"{name}, one step on one row: weights the same {np.allclose(dense.coef_, sparse.coef_)},",
          f"intercept of the dense one over that of the sparse one {float(dense.intercept_[0] / sparse.intercept_[0]):.0f}")
ones = hstack([csr_matrix(x), np.ones((2000, 1))], format="csr")
print("a column of ones in place of the intercept, sparse:", word(SGDRegressor(random_state=0, fit_intercept=False).fit(ones, y).score(ones, y)))
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
SGDRegressor: dense over 0.95, sparse under 0.7; intercept off by under 0.5 over 2 - warnings 0
Ridge: dense over 0.95, sparse over 0.95; intercept off by under 0.5 under 0.5 - warnings 0
SGDRegressor, one step on one row: weights the same True, intercept of the dense one over that of the sparse one 100
SGDClassifier, one step on one row: weights the same True, intercept of the dense one over that of the sparse one 100
a column of ones in place of the intercept, sparse: over 0.95
SEEN
