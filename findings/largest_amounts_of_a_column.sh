#!/usr/bin/env bash
# scikit-learn 1.9.1, QuantileTransformer() fitted on 500,000 rows: the largest of them are one number, and do not come back, though the transformer has seen them all.
#
#     amounts -> QuantileTransformer(output_distribution="normal") -> model -> inverse_transform, or TransformedTargetRegressor(..., transformer=QuantileTransformer(...))
#
# It is taken for columns with a long tail since it keeps the order and can be undone. Of the rows it was fitted on one expects that different ones stay different, at the ends too, where the last quantile
# is the column's maximum, and that what goes there comes back.
#
# It is fitted on 10,000 rows by lot (subsample=10_000), and the maximum is theirs. So of more rows all above it, about one in 10,000, are put at 5.2, far from the next below, as one number: the rarest
# amounts are no longer told apart, and come back as the maximum of the lot, which the seed decides. A target that was so transformed has a ceiling that is lower than what was
# trained on, and the total of a column that goes there and back is too small. n_quantiles of 10,000 mends the middle, not the end. Up to 10,000 rows all is exact. Way out: subsample=None.
#
# Output seen (CPU, x86_64, Python 3.11), amounts of a Pareto distribution; those that share the largest value, and what comes back
#   500,000 rows    : 6 different amounts are one number; the largest, 3384537, comes back as 1733215; the total as 0.99 of it
#   a seed of 1     : 49 different amounts are one number; the largest, 3384537, comes back as 213611; the total as 0.92 of it
#   a seed of 2     : 69 different amounts are one number; the largest, 3384537, comes back as 160967; the total as 0.90 of it
#   10,000 quantiles: 49 different amounts are one number; the largest, 3384537, comes back as 213611; the total as 0.92 of it
#   subsample=None  : 1 different amounts are one number; the largest, 3384537, comes back as 3384537; the total as 1.00 of it
#   both            : 1 different amounts are one number; the largest, 3384537, comes back as 3384537; the total as 1.00 of it
#   10,000 rows     : 1 different amounts are one number; the largest, 143594, comes back as 143594; the total as 1.00 of it
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6 2> /dev/null
cat > "$work/amounts.py" <<'PY'
import numpy as np
from sklearn.preprocessing import QuantileTransformer

amounts = 100 * (1 + np.random.default_rng(0).pareto(1.2, (500000, 1)))
for title, rows, options in (("500,000 rows", amounts, {}), ("a seed of 1", amounts, {"random_state": 1}), ("a seed of 2", amounts, {"random_state": 2}), ("10,000 quantiles", amounts, {"random_state": 1, "n_quantiles": 10000}), ("subsample=None", amounts, {"subsample": None}),
                             ("both", amounts, {"subsample": None, "n_quantiles": 10000}), ("10,000 rows", amounts[:10000], {"n_quantiles": 10000})):
    model = QuantileTransformer(output_distribution="normal", **{"random_state": 0} | options).fit(rows)
    moved = model.transform(rows)
    back = model.inverse_transform(moved)
    print(f"{title:16}: {len(np.unique(rows[moved == moved.max()]))} different amounts are one number; the largest, {rows.max():.0f}, comes back as {back.max():.0f}; the total as {back.sum() / rows.sum():.2f} of it")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/amounts.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
500,000 rows    : 6 different amounts are one number; the largest, 3384537, comes back as 1733215; the total as 0.99 of it
a seed of 1     : 49 different amounts are one number; the largest, 3384537, comes back as 213611; the total as 0.92 of it
a seed of 2     : 69 different amounts are one number; the largest, 3384537, comes back as 160967; the total as 0.90 of it
10,000 quantiles: 49 different amounts are one number; the largest, 3384537, comes back as 213611; the total as 0.92 of it
subsample=None  : 1 different amounts are one number; the largest, 3384537, comes back as 3384537; the total as 1.00 of it
both            : 1 different amounts are one number; the largest, 3384537, comes back as 3384537; the total as 1.00 of it
10,000 rows     : 1 different amounts are one number; the largest, 143594, comes back as 143594; the total as 1.00 of it
SEEN
