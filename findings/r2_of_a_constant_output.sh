#!/usr/bin/env bash
# scikit-learn 1.9.1, r2_score of a target, or one of several outputs, that is constant: 0.0 or -1e33, by the constant's digits.
#
# A good guess: `force_finite=True` (the default) makes a constant target score 0.0 whatever is predicted imperfectly, so that a mean
# over outputs or folds stays usable.
# What happens: the rule looks for a sum of squared deviations of exactly zero. The mean of equal numbers is not always that number:
# (0.1 + 0.1 + 0.1) / 3 is 0.1 and one unit in the last place. The sum is then 1e-34 and the score about -1e33, finite and without a
# warning. With 0.25, whose sums are exact, the same predictions score 0.0. One such output among good ones ruins the uniform average
# (a sensor that stood still in a test fold), and `multioutput="variance_weighted"` moves without looking wrong: 0.615 beside
# a constant 0.1, 0.99 beside a constant 0.25. StandardScaler of the same release does allow for rounding: it takes the column for
# constant and scales by 1.
#
# Output seen (CPU, x86_64, Python 3.11):
#   r2_score of three times 0.25, each predicted 0.5 too high: 0.0
#   r2_score of three times 0.1, each predicted 0.5 too high: below -1e30
#   first output alone: 0.99
#   beside a constant 0.25: uniform 0.495 variance_weighted 0.99
#   beside a constant 0.1: uniform below -1e29 variance_weighted 0.615
#   StandardScaler's scale for the constant 0.1: 1.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6
cat > "$work/constant.py" <<'PY'
import warnings

import numpy as np
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler


def shown(score, limit):
    return f"below {limit:.0e}".replace("e+", "e") if score < limit else f"{score:.3g}" if score else "0.0"


warnings.simplefilter("error")  # a warning would end this
quarter, tenth = np.full(3, 0.25), np.full(3, 0.1)
print("r2_score of three times 0.25, each predicted 0.5 too high:", shown(r2_score(quarter, quarter + 0.5), -1e30))
print("r2_score of three times 0.1, each predicted 0.5 too high:", shown(r2_score(tenth, tenth + 0.5), -1e30))
first = np.array([1.0, 2.0, 3.0])
close = first + 0.1 * np.sqrt(2 / 3)  # 1 - 3 * 0.01 * (2 / 3) / 2 = 0.99
print("first output alone:", shown(r2_score(first, close), -1e29))
for name, constant in (("0.25", quarter), ("0.1", tenth)):
    both, guess = np.stack([first, constant], axis=1), np.stack([close, constant + 0.5], axis=1)
    uniform, weighted = (r2_score(both, guess, multioutput=how) for how in ("uniform_average", "variance_weighted"))
    print(f"beside a constant {name}: uniform {shown(uniform, -1e29)} variance_weighted {shown(weighted, -1e29)}")
print("StandardScaler's scale for the constant 0.1:", StandardScaler().fit(tenth[:, None]).scale_[0])
PY
"$work/venv/bin/python" "$work/constant.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
r2_score of three times 0.25, each predicted 0.5 too high: 0.0
r2_score of three times 0.1, each predicted 0.5 too high: below -1e30
first output alone: 0.99
beside a constant 0.25: uniform 0.495 variance_weighted 0.99
beside a constant 0.1: uniform below -1e29 variance_weighted 0.615
StandardScaler's scale for the constant 0.1: 1.0
SEEN
