#!/usr/bin/env bash
# catboost 1.2.10 (onnxruntime 1.31.1), save_model("model.onnx", format="onnx"): of a model of counts the export gives the logarithm; several labels of one row add up to one.
#
#     CatBoostRegressor(loss_function="Poisson").fit(X, y).save_model("model.onnx", format="onnx")
#
# The library's own export, of one's own model, with inputs and outputs named. RMSE and Logloss, the losses that one tests with, agree to seven digits with predict() and predict_proba(), and so do
# rows with gaps. For the other losses one expects the same, or a refusal, as for categories.
#
# What is written behind the trees is nothing for a regressor, a sigmoid for two classes, a softmax for more, whatever the loss. Poisson and Tweedie predict the exponential of the trees' sum; the file ends with the sum, so a shop
# that sells 0.5 a day is told -0.7, and each figure is finite and in order of the right ones (a rank correlation is 1). MultiClassOneVsAll and MultiLogloss have a sigmoid for each class, and the file
# has a softmax over them: a row of three labels, each at 0.99, has three of 0.33, a row of none has one near 1, and any threshold is wrong. A threshold that was set
# (set_probability_threshold) is not in the file either: its labels are those of 0.5. Way out: np.exp in the caller; a comparison of the file with predict() for one's own loss.
#
# Output seen (CPU, x86_64, Python 3.11), 2,000 rows, file against predict() or predict_proba()
#   RMSE                : equal True
#   Logloss             : equal True
#   MultiClass          : equal True
#   Poisson             : equal False, its logarithm True, below 0 in over a third of rows True
#   Tweedie             : equal False, its logarithm True, below 0 in over a third of rows True
#   MultiClassOneVsAll  : equal False, softmax instead of sigmoid True
#   MultiLogloss        : equal False, softmax instead of sigmoid True; rows of three labels: all over 0.9 in predict_proba True, all below 0.6 in the file True
#   threshold of 0.1    : labels equal False, those of 0.5 True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check catboost==1.2.10 onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6 2> /dev/null
cat > "$work/booster.py" <<'PY'
import sys

import numpy as np
import onnxruntime
from catboost import CatBoostClassifier, CatBoostRegressor

FILE = sys.argv[1]
OPTIONS = {"iterations": 200, "depth": 4, "learning_rate": 0.2, "verbose": 0, "thread_count": 1, "allow_writing_files": False, "random_seed": 0}
onnxruntime.set_default_logger_severity(4)
draw = np.random.default_rng(0)
x = draw.normal(size=(2000, 4)).astype("float32")
rates = np.exp(x[:, 0] - 0.3)
labels = (x[:, :3] > 0).astype(int)


def exported(model):
    model.save_model(FILE, format="onnx")
    return onnxruntime.InferenceSession(FILE).run(None, {"features": x})


def probabilities(outputs):
    return np.array([[row[name] for name in sorted(row)] for row in outputs[1]])


def equal(one, two):
    return bool(np.allclose(one, two, atol=1e-4))


def softmax(values):
    values = np.exp(values - values.max(1, keepdims=True))
    return values / values.sum(1, keepdims=True)


model = CatBoostRegressor(**OPTIONS).fit(x, rates)
print("RMSE                : equal", equal(exported(model)[0].ravel(), model.predict(x)))
for name, loss, target in (("Logloss", "Logloss", labels[:, 0]), ("MultiClass", "MultiClass", labels.sum(1))):
    model = CatBoostClassifier(loss_function=loss, **OPTIONS).fit(x, target)
    print(f"{name:20}: equal", equal(probabilities(exported(model)), model.predict_proba(x)))
for name, loss, target in (("Poisson", "Poisson", draw.poisson(rates)), ("Tweedie", "Tweedie:variance_power=1.5", draw.poisson(rates) * draw.gamma(2, 0.5, 2000))):
    model = CatBoostRegressor(loss_function=loss, **OPTIONS).fit(x, target)
    found, right = exported(model)[0].ravel(), model.predict(x)
    print(f"{name:20}: equal {equal(found, right)}, its logarithm {equal(found, np.log(right))}, below 0 in over a third of rows {np.mean(found < 0) > 1 / 3}")
for name, target in (("MultiClassOneVsAll", labels[:, 0] + labels[:, 1]), ("MultiLogloss", labels)):
    model = CatBoostClassifier(loss_function=name, **OPTIONS).fit(x, target)
    found, right = probabilities(exported(model)), model.predict_proba(x)
    raw = model.predict(x, prediction_type="RawFormulaVal")
    said = f"{name:20}: equal {equal(found, right)}, softmax instead of sigmoid {equal(found, softmax(raw))}"
    if name == "MultiLogloss":
        rows = (right > 0.9).all(1)
        said += f"; rows of three labels: all over 0.9 in predict_proba {rows.sum() > 50}, all below 0.6 in the file {np.median(found[rows].max(1)) < 0.6}"
    print(said)
model = CatBoostClassifier(**{**OPTIONS, "iterations": 5}).fit(x, labels[:, 0])
half = model.predict(x)
model.set_probability_threshold(0.1)
found = exported(model)[0].ravel()
print("threshold of 0.1    : labels equal", bool(np.array_equal(found, model.predict(x))), end=", ")
print("those of 0.5", bool(np.array_equal(found, half)))
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/booster.py" "$work/model.onnx" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
RMSE                : equal True
Logloss             : equal True
MultiClass          : equal True
Poisson             : equal False, its logarithm True, below 0 in over a third of rows True
Tweedie             : equal False, its logarithm True, below 0 in over a third of rows True
MultiClassOneVsAll  : equal False, softmax instead of sigmoid True
MultiLogloss        : equal False, softmax instead of sigmoid True; rows of three labels: all over 0.9 in predict_proba True, all below 0.6 in the file True
threshold of 0.1    : labels equal False, those of 0.5 True
SEEN
