#!/usr/bin/env bash
# shap 0.51.0, LinearExplainer(model, rows), TreeExplainer(model, rows) and Explainer(model, rows): of a background of 5,000 rows a hundred are used, and the rest is not looked at.
#
# The values of one row say how far each feature moves the prediction from its mean over the background. For a linear model the value is coefficient * (x - mean of the column), in closed form, and
# LinearExplainer has no need to draw anything; one expects that number, and mean prediction for expected_value.
#
# An array of rows becomes a masker, Independent(rows, max_samples=100): 100 rows by lot, with a fixed seed, so that a second run agrees with the first and gives no sign of it. Means of 100 rows of
# a skewed column (incomes, prices, counts) are far off; the values differ by as much, features that raise a prediction are said to lower it, and the most important
# feature is another one. They add up to the prediction all the same, so check_additivity is content. More rows do not help, and a seed of one's own is not asked for. Way out:
# shap.maskers.Independent(rows, max_samples=len(rows)), and for a linear model (means, covariance) in place of rows.
#
# Output seen (CPU, x86_64, Python 3.11), 5,000 rows of four lognormal columns
#   LinearExplainer(model, rows): mean prediction off by over a third, another most important feature in 41 rows of 100, another sign of the second in 13, adds up True
#   Explainer(model, rows)      : mean prediction off by over a third, another most important feature in 41 rows of 100, another sign of the second in 13, adds up True
#   LinearExplainer, all rows   : mean prediction right, another most important feature in 0 rows of 100, another sign of the second in 0, adds up True
#   TreeExplainer(model, rows)  : rows 100, mean prediction off by over a third
#   TreeExplainer, all rows     : rows 5000, mean prediction right
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check shap==0.51.0 scikit-learn==1.9.1 numpy==2.4.6 2> /dev/null
cat > "$work/values.py" <<'PY'
import numpy as np
import shap
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression

draw = np.random.default_rng(0)
ROWS = draw.lognormal(sigma=1.5, size=(5000, 4))
TARGET = ROWS @ [1, 2, 0, -1] + draw.normal(size=5000)
linear = LinearRegression().fit(ROWS, TARGET)
trees = RandomForestRegressor(20, max_depth=4, random_state=0).fit(ROWS, TARGET)
exact = linear.coef_ * (ROWS - ROWS.mean(0))
every = shap.maskers.Independent(ROWS, max_samples=len(ROWS))


def near(one, other):
    return "right" if np.allclose(one, other, rtol=1e-6, atol=1e-6) else "off by over a third" if abs(one - other) > abs(other) / 3 else "off"


for title, kind, data in (("LinearExplainer(model, rows)", shap.LinearExplainer, ROWS), ("Explainer(model, rows)", shap.Explainer, ROWS), ("LinearExplainer, all rows", shap.LinearExplainer, every)):
    found = kind(linear, data)(ROWS)
    first = (abs(found.values).argmax(1) != abs(exact).argmax(1)).mean()
    sign = (np.sign(found.values[:, 1]) != np.sign(exact[:, 1])).mean()
    adds = np.allclose(found.values.sum(1) + found.base_values, linear.predict(ROWS))
    print(f"{title:28}: mean prediction {near(found.base_values[0], linear.predict(ROWS).mean())}, another most important feature in {100 * first:.0f} rows of 100, another sign of the second in {100 * sign:.0f}, adds up {adds}")
for title, data in (("TreeExplainer(model, rows)", ROWS), ("TreeExplainer, all rows", every)):
    explainer = shap.TreeExplainer(trees, data)
    print(f"{title:28}: rows {len(explainer.data)}, mean prediction {near(float(np.ravel(explainer.expected_value)[0]), trees.predict(ROWS).mean())}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/values.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
LinearExplainer(model, rows): mean prediction off by over a third, another most important feature in 41 rows of 100, another sign of the second in 13, adds up True
Explainer(model, rows)      : mean prediction off by over a third, another most important feature in 41 rows of 100, another sign of the second in 13, adds up True
LinearExplainer, all rows   : mean prediction right, another most important feature in 0 rows of 100, another sign of the second in 0, adds up True
TreeExplainer(model, rows)  : rows 100, mean prediction off by over a third
TreeExplainer, all rows     : rows 5000, mean prediction right
SEEN
