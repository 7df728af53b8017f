#!/usr/bin/env bash
# scikit-learn 1.9.1, PCA(svd_solver="auto") of float32: with ten rows a column it is another computation, and one that does not bear an offset.
#
#   expected   PCA takes the mean off first. 300 K or 1,013 hPa in every column change nothing but `mean_`; float32 costs the last digits of
#              the explained variance, and more rows make the estimate better.
#   found      At a level of 10,000 with spreads of 1 to 3 the first variances come out 45, 8 and 4 times too large, four of eight as 0; at 1,000
#              they are off by a tenth, the last is 0; and components point elsewhere. With fewer than ten rows a column all is right to six digits.
#   why        From there on "auto" takes the solver "covariance_eigh" (since 1.5), which multiplies out X'X of the values as they are, in
#              their own dtype, and takes n times the product of the means off afterwards: the difference of numbers of 10^8 that have seven digits.
#              The other solvers centre the rows first.
#   in float64 the same at a level of 10^8 of the spread: seconds since 1970, ids, coordinates in a projection that spans days or metres.
#   unseen     `explained_variance_ratio_` adds up to 1 and looks plausible, transform() gives finite scores, `whiten=True` divides by the wrong spread;
#              negative variances are set to 0. A pilot on few rows and the full run on all of them are different analyses. Nothing warns, and
#              IncrementalPCA of the same float32 rows is right.
#   way out    X - X.mean(0) by hand; or svd_solver="full"; or float64.
#
# Output seen (x86_64, Python 3.11), 8 columns of spread 1 to 3 around a level; largest error of an explained variance, and whether the first component is right
#   float32, auto, 79 rows around 0e+00: under 0.001, True; ratios add up to 1.00
#   float32, auto, 2000 rows around 0e+00: under 0.001, True; ratios add up to 1.00
#   float32, auto, 79 rows around 1e+03: under 0.001, True; ratios add up to 1.00
#   float32, auto, 2000 rows around 1e+03: over 0.5, False; ratios add up to 1.00
#   float32, auto, 79 rows around 1e+04: under 0.001, True; ratios add up to 1.00
#   float32, auto, 2000 rows around 1e+04: over 0.5, False; ratios add up to 1.00
#   float32, full, 2000 rows around 1e+04: under 0.001, True; ratios add up to 1.00
#   float32, IncrementalPCA, 2000 rows around 1e+04: under 0.001, True; ratios add up to 1.00
#   float32, centred by hand, auto, 2000 rows around 1e+04: under 0.001, True; ratios add up to 1.00
#   float64, auto, 79 rows around 1e+09: under 0.001, True; ratios add up to 1.00
#   float64, auto, 2000 rows around 1e+09: over 0.5, False; ratios add up to 1.00
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6 2> /dev/null
cat > "$work/finding.py" <<'PY'
import numpy as np
from sklearn.decomposition import PCA, IncrementalPCA

SPREADS = np.linspace(1, 3, 8)


def word(error):
    return "under 0.001" if error < 0.001 else "over 0.5" if error > 0.5 else f"{error:.3f}"


def check(name, rows, level, dtype, estimator):
    drawn = np.random.default_rng(0).normal(size=(rows, 8)) * SPREADS + level
    x = drawn.astype(dtype)
    exact = x.astype(np.longdouble)
    exact = (exact - exact.mean(0)).astype(np.float64)
    values, vectors = np.linalg.eigh(exact.T @ exact / (rows - 1))
    pca = estimator(x)
    error = np.abs(pca.explained_variance_ / values[::-1] - 1).max()
    same = abs(pca.components_[0] @ vectors[:, -1]) > 0.999
    print(f"{name}, {rows} rows around {level:.0e}: {word(error)}, {same}; ratios add up to {pca.explained_variance_ratio_.sum():.2f}")


def auto(x):
    return PCA().fit(x)


def full(x):
    return PCA(svd_solver="full").fit(x)


for level in (0, 1e3, 1e4):
    check("float32, auto", 79, level, np.float32, auto)
    check("float32, auto", 2000, level, np.float32, auto)
check("float32, full", 2000, 1e4, np.float32, full)
check("float32, IncrementalPCA", 2000, 1e4, np.float32, lambda x: IncrementalPCA().fit(x))
check("float32, centred by hand, auto", 2000, 1e4, np.float32, lambda x: PCA().fit(x - x.mean(0, dtype=np.float64).astype(np.float32)))
check("float64, auto", 79, 1e9, np.float64, auto)
check("float64, auto", 2000, 1e9, np.float64, auto)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
float32, auto, 79 rows around 0e+00: under 0.001, True; ratios add up to 1.00
float32, auto, 2000 rows around 0e+00: under 0.001, True; ratios add up to 1.00
float32, auto, 79 rows around 1e+03: under 0.001, True; ratios add up to 1.00
float32, auto, 2000 rows around 1e+03: over 0.5, False; ratios add up to 1.00
float32, auto, 79 rows around 1e+04: under 0.001, True; ratios add up to 1.00
float32, auto, 2000 rows around 1e+04: over 0.5, False; ratios add up to 1.00
float32, full, 2000 rows around 1e+04: under 0.001, True; ratios add up to 1.00
float32, IncrementalPCA, 2000 rows around 1e+04: under 0.001, True; ratios add up to 1.00
float32, centred by hand, auto, 2000 rows around 1e+04: under 0.001, True; ratios add up to 1.00
float64, auto, 79 rows around 1e+09: under 0.001, True; ratios add up to 1.00
float64, auto, 2000 rows around 1e+09: over 0.5, False; ratios add up to 1.00
SEEN
