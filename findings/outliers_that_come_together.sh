#!/usr/bin/env bash
# pyod 3.6.7, ECOD and COPOD: the score of a row depends on the rows that are asked about with it; of a thousand attacks in one batch COPOD finds none, and of the same one by one all.
#
#     model = COPOD(contamination=0.05).fit(rows); model.predict(batch)
#
# A fitted detector scores new rows by what it was fitted on; KNN and HBOS of the same package do. One expects the same answer of a row alone, in a batch, and after a shuffle.
#
# These two score by how far out in its column a value lies, and decision_function counts that among the rows of training *and* of the batch together; the sign of the skewness, which
# says which tail counts, is taken anew as well. So a burst of outliers is a common thing, and the more there are the less they are seen; threshold_ is that of the training rows all along. Nor
# is the detector that is tested in batches of 1,000 the one that serves one row at a time. Way out: decision_function of one row at a time.
#
# Output seen (CPU, x86_64, Python 3.11), fitted on 1,000 ordinary rows; share that is called an outlier
#   ECOD : one at a time all, in batches of 100 some, of 500 some, of 1,000 under a tenth; the score of one row, alone and among 1,000: 34.5, 9.8
#   COPOD: one at a time all, in batches of 100 all, of 500 some, of 1,000 none; the score of one row, alone and among 1,000: 34.5, 5.5
#   KNN  : one at a time all, in batches of 100 all, of 500 all, of 1,000 all; the score of one row, alone and among 1,000: 11.1, 11.1
#   HBOS : one at a time all, in batches of 100 all, of 500 all, of 1,000 all; the score of one row, alone and among 1,000: 15.9, 15.9
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check pyod==3.6.7 scikit-learn==1.9.1 numpy==2.4.6 2> /dev/null
cat > "$work/batches.py" <<'PY'
import numpy as np
from pyod.models.copod import COPOD
from pyod.models.ecod import ECOD
from pyod.models.hbos import HBOS
from pyod.models.knn import KNN

draw = np.random.default_rng(0)
ROWS, ATTACKS = draw.normal(size=(1000, 5)), draw.normal(6, 0.1, (1000, 5))


def said(share):
    return "none" if share == 0 else "all" if share == 1 else "under a tenth" if share < 0.1 else "some"


for kind in (ECOD, COPOD, KNN, HBOS):
    model = kind(contamination=0.05).fit(ROWS)
    shares = [said(np.mean([model.predict(part).mean() for part in ATTACKS.reshape(-1, size, 5)])) for size in (1, 100, 500, 1000)]
    alone, together = model.decision_function(ATTACKS[:1])[0], model.decision_function(ATTACKS)[0]
    print(f"{kind.__name__:5}: one at a time {shares[0]}, in batches of 100 {shares[1]}, of 500 {shares[2]}, of 1,000 {shares[3]}; the score of one row, alone and among 1,000: {alone:.1f}, {together:.1f}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/batches.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
ECOD : one at a time all, in batches of 100 some, of 500 some, of 1,000 under a tenth; the score of one row, alone and among 1,000: 34.5, 9.8
COPOD: one at a time all, in batches of 100 all, of 500 some, of 1,000 none; the score of one row, alone and among 1,000: 34.5, 5.5
KNN  : one at a time all, in batches of 100 all, of 500 all, of 1,000 all; the score of one row, alone and among 1,000: 11.1, 11.1
HBOS : one at a time all, in batches of 100 all, of 500 all, of 1,000 all; the score of one row, alone and among 1,000: 15.9, 15.9
SEEN
