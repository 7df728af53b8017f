#!/usr/bin/env bash
# keras 3.15.1 (on torch 2.13.0), metrics.AUC() of a model of a rare event: 0.52 for a model whose area under the curve is 0.77.
#
#     model.compile("adam", "binary_crossentropy", metrics=["AUC"])        EarlyStopping("val_AUC", mode="max")
#
# The area under the ROC curve is about order alone: halve all probabilities, and nobody has changed places. It is the score that one takes for clicks,
# fraud and failures *because* such events are rare. The page says that it is approximated at 200 thresholds; one expects the third digit to be off.
#
# The thresholds are 0, 1/199, 2/199, ... 1. A calibrated model of an event that comes once in 2,000 rows puts nearly all rows below 1/199, where all are
# equal. The rarer the event, the nearer the area comes to 0.5, for a model that orders as well as before. A model that is ten times too
# sure and half noise is told to be the better one, so a run stopped, or a model kept, by val_AUC goes for that. More thresholds
# only move the place; from_logits=True helps nothing, for the thresholds are those of probabilities. The binned forms of torchmetrics and
# torcheval have the same grid, but there the exact form is the default. Way out: an exact area of all predictions (scikit-learn, torchmetrics).
#   1 event in 2 rows: ROC 0.74, exact 0.74; PR 0.731, exact 0.731
#   1 event in 40 rows: ROC 0.75, exact 0.76; PR 0.101, exact 0.102
#   1 event in 200 rows: ROC 0.71, exact 0.76; PR 0.018, exact 0.019
#   1 event in 2000 rows: ROC 0.52, exact 0.77; PR 0.001, exact 0.003
#   the rarest, the calibrated model: ROC 0.51, exact 0.74
#   the rarest, ten times too sure, and half noise: ROC 0.66, exact 0.68
#   the calibrated model, {'num_thresholds': 2000}: 0.70
#   the calibrated model, {'from_logits': True}: 0.51
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 keras==3.15.1 scikit-learn==1.9.1 2> /dev/null
cat > "$work/finding.py" <<'PY'
import os

os.environ["KERAS_BACKEND"] = "torch"
import keras
import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

draw = np.random.default_rng(0)
rows = 1_000_000


def areas(logits, events, **options):
    chances = (1 / (1 + np.exp(-logits))).astype("float32")
    found = []
    for curve in ("ROC", "PR"):
        metric = keras.metrics.AUC(curve=curve, **options)
        for start in range(0, rows, 100_000):
            given = logits.astype("float32") if options.get("from_logits") else chances
            metric.update_state(events[start : start + 100_000], given[start : start + 100_000])
        found.append(float(metric.result()))
    return found, (roc_auc_score(events, logits), average_precision_score(events, logits))


signal = draw.normal(size=rows)  # one signal, events of four degrees of rarity, and the calibrated probabilities themselves as the model
for shift in (0, -4, -6, -8):
    logits = signal + shift
    events = (draw.random(rows) < 1 / (1 + np.exp(-logits))).astype("float32")
    (roc, pr), (exact, exact_pr) = areas(logits, events)
    print(f"1 event in {float(f'{1 / events.mean():.1g}'):.0f} rows: ROC {roc:.2f}, exact {exact:.2f}; PR {pr:.3f}, exact {exact_pr:.3f}")

rare = (draw.random(rows) < 1 / (1 + np.exp(-(signal - 8)))).astype("float32")
others = {"the calibrated model": signal - 8, "ten times too sure, and half noise": signal - 5.7 + draw.normal(size=rows)}
for name, logits in others.items():
    (roc, _), (exact, _) = areas(logits, rare)
    print(f"the rarest, {name}: ROC {roc:.2f}, exact {exact:.2f}")
for options in ({"num_thresholds": 2000}, {"from_logits": True}):
    (roc, _), (exact, _) = areas(signal - 8, rare, **options)
    print(f"the calibrated model, {options}: {roc:.2f}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
1 event in 2 rows: ROC 0.74, exact 0.74; PR 0.731, exact 0.731
1 event in 40 rows: ROC 0.75, exact 0.76; PR 0.101, exact 0.102
1 event in 200 rows: ROC 0.71, exact 0.76; PR 0.018, exact 0.019
1 event in 2000 rows: ROC 0.52, exact 0.77; PR 0.001, exact 0.003
the rarest, the calibrated model: ROC 0.51, exact 0.74
the rarest, ten times too sure, and half noise: ROC 0.66, exact 0.68
the calibrated model, {'num_thresholds': 2000}: 0.70
the calibrated model, {'from_logits': True}: 0.51
SEEN
