#!/usr/bin/env bash
# skl2onnx 1.20.0 (scikit-learn 1.9.1, onnxruntime 1.31.1): two models whose export answers with other numbers, and in the first with the same labels.
#
# to_onnx(model, X[:1]) writes a fitted model as a graph that runs without scikit-learn. What it does not know it refuses. What it writes is checked as the page does
# it: labels of some rows by both, which agree.
#
# LinearDiscriminantAnalysis of two classes: the export takes the distance d from the boundary and makes a softmax of (-d, d) of it, which is the logistic function
#   of 2d. scikit-learn's predict_proba is that of d. The odds are squared: 0.82 becomes 0.95, 0.08 becomes 0.007. Labels are the same in every row, so are
#   the order and the area under the curve; thresholds, costs, a sum of expected events, log loss and calibration are not. Three classes are right, and so is
#   LogisticRegression with two, the estimator that one would put beside it.
# KNeighborsRegressor and KNeighborsClassifier with weights="distance": the export is the plain mean of the neighbours, as with weights="uniform", to the last digit.
#   Nearer ones do not count for more, and a row of the training set does not get its own value. That weights are left out is not said.
# Way out: probabilities, not labels, compared on rows that were not trained on.
#
# Output seen (CPU, x86_64, Python 3.11), 300 new rows
#   discriminant, two classes: labels equal True, probabilities off by at most 0.15
#     the first: 0.82 -> 0.95; the odds are squared: True
#   discriminant, three classes: labels equal True, probabilities off by at most 0.00
#   logistic regression, two classes: labels equal True, probabilities off by at most 0.00
#   neighbours by uniform: off by more than 0.1 False, is the plain mean True
#   neighbours by distance: off by more than 0.1 True, is the plain mean True
#   a vote by distance, rows of the training set: right by scikit-learn 1.00, by the export 0.82
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check numpy==2.4.6 scikit-learn==1.9.1 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check skl2onnx==1.20.0 onnx==1.23.2 onnxruntime==1.31.1 2> /dev/null
cat > "$work/exported.py" <<'PY'
import numpy as np
import onnxruntime
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from skl2onnx import to_onnx

draw = np.random.default_rng(0)
x, new = draw.normal(size=(400, 4)).astype("float32"), draw.normal(size=(300, 4)).astype("float32")
two = (x[:, 0] + x[:, 1] + draw.normal(size=400) > 0).astype(int)
three = two + (x[:, 2] > 1)


def exported(model, rows):
    options = {"zipmap": False} if hasattr(model, "predict_proba") else None
    session = onnxruntime.InferenceSession(to_onnx(model, x[:1], options=options).SerializeToString())
    return session.run(None, {session.get_inputs()[0].name: rows})


def classifier(name, model, y):
    model.fit(x, y)
    label, probability = exported(model, new)
    own, off = model.predict_proba(new), np.abs(probability - model.predict_proba(new)).max()
    print(f"{name}: labels equal {np.array_equal(label, model.predict(new))}, probabilities off by at most {off:.2f}")
    return own[:, 1], probability[:, 1]


own, theirs = classifier("discriminant, two classes", LinearDiscriminantAnalysis(), two)
squared = own**2 / (own**2 + (1 - own) ** 2)
print(f"  the first: {own[0]:.2f} -> {theirs[0]:.2f}; the odds are squared: {np.allclose(squared, theirs, atol=1e-4)}")
classifier("discriminant, three classes", LinearDiscriminantAnalysis(), three)
classifier("logistic regression, two classes", LogisticRegression(), two)
for weights in ("uniform", "distance"):
    model = KNeighborsRegressor(weights=weights).fit(x, x[:, 0])
    plain = KNeighborsRegressor().fit(x, x[:, 0]).predict(new)
    theirs, own = exported(model, new)[0].ravel(), model.predict(new)
    print(f"neighbours by {weights}: off by more than 0.1 {bool(np.abs(theirs - own).max() > 0.1)}, is the plain mean {np.allclose(theirs, plain, atol=1e-5)}")
model = KNeighborsClassifier(weights="distance").fit(x, two)
label, _ = exported(model, x)
print(f"a vote by distance, rows of the training set: right by scikit-learn {model.score(x, two):.2f}, by the export {(label == two).mean():.2f}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/exported.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
discriminant, two classes: labels equal True, probabilities off by at most 0.15
  the first: 0.82 -> 0.95; the odds are squared: True
discriminant, three classes: labels equal True, probabilities off by at most 0.00
logistic regression, two classes: labels equal True, probabilities off by at most 0.00
neighbours by uniform: off by more than 0.1 False, is the plain mean True
neighbours by distance: off by more than 0.1 True, is the plain mean True
a vote by distance, rows of the training set: right by scikit-learn 1.00, by the export 0.82
SEEN
