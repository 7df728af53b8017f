#!/usr/bin/env bash
# lightgbm 4.7.0, LGBMClassifier and Booster: the columns of a table are taken by place, though the model has their names, and shows them.
#
# A booster of trees beside a network is the usual yardstick for a table. The rows to be judged come from another query, another day's file, a join: the same
# names, another order. scikit-learn's estimators refuse it, and xgboost does, and whoever has a model with feature_name() expects either
# that or the columns by their names, which the frame that is handed over has as well.
#
# lightgbm compares the number of columns. Same number, other order: predict() answers, with weights for ages, and score() gives a number
# that looks like a bad model (0.23 below, where it is 1.00). A renamed column is taken, too. valid_sets are read in the same way, so that
# early stopping against a file in another order ends a good run at once. predict(validate_features=True) compares the names and raises; it is
# off unless asked for, the scikit-learn classes pass it on in predict(), and nothing of the kind exists for valid_sets.
#   scikit-learn's LogisticRegression: accuracy 1.00
#   scikit-learn's LogisticRegression, columns in another order: ValueError
#   scikit-learn's LogisticRegression, a column renamed: ValueError
#   XGBClassifier: accuracy 1.00
#   XGBClassifier, columns in another order: ValueError
#   XGBClassifier, a column renamed: ValueError
#   LGBMClassifier: accuracy 1.00
#   LGBMClassifier, columns in another order: accuracy 0.23
#   LGBMClassifier, a column renamed: accuracy 1.00
#   names that the booster has: age height weight income
#   lightgbm.train: accuracy 1.00
#   lightgbm.train, columns in another order: accuracy 0.23
#   lightgbm.train, a column renamed: accuracy 1.00
#   lightgbm.train, validate_features=True, columns in another order: LightGBMError
#   LGBMClassifier, validate_features=True, columns in another order: LightGBMError
#   validation rows in another order: stopped after 6 rounds of 60, least error 0.77
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check numpy==2.4.6 pandas==3.1.1 scikit-learn==1.9.1 lightgbm==4.7.0 xgboost==3.2.0 2> /dev/null
cat > "$work/finding.py" <<'PY'
import numpy as np
import pandas as pd
import lightgbm
import xgboost
from sklearn.linear_model import LogisticRegression

draw = np.random.default_rng(0)
x = pd.DataFrame(draw.normal(size=(3000, 4)), columns=["age", "height", "weight", "income"])
y = (x["age"] - 2 * x["weight"] > 0).astype(int)
other = x[["weight", "income", "age", "height"]]  # the same rows from a query with another SELECT
renamed = x.rename(columns={"income": "salary"})
quiet = {"verbose": -2, "num_threads": 1}


def score(chances, truth=y):
    return f"{((chances > 0.5) == truth).mean():.2f}"


def say(name, predict):
    for how, table in {"": x, ", columns in another order": other, ", a column renamed": renamed}.items():
        try:
            print(f"{name}{how}: accuracy {score(predict(table))}")
        except ValueError as error:
            print(f"{name}{how}: {type(error).__name__}")


say("scikit-learn's LogisticRegression", lambda table, model=LogisticRegression().fit(x, y): model.predict(table))
say("XGBClassifier", lambda table, model=xgboost.XGBClassifier(n_jobs=1, n_estimators=30).fit(x, y): model.predict(table))
say("LGBMClassifier", lambda table, model=lightgbm.LGBMClassifier(n_estimators=30, verbose=-2, n_jobs=1).fit(x, y): model.predict(table))
booster = lightgbm.train({"objective": "binary", **quiet}, lightgbm.Dataset(x, y), 30)
print("names that the booster has:", *booster.feature_name())
say("lightgbm.train", booster.predict)
model = lightgbm.LGBMClassifier(n_estimators=30, verbose=-2, n_jobs=1).fit(x, y)
for name, asked in {"lightgbm.train": booster, "LGBMClassifier": model}.items():
    try:
        print(f"{name}, validate_features=True: accuracy {score(asked.predict(other, validate_features=True))}")
    except lightgbm.basic.LightGBMError as error:
        print(f"{name}, validate_features=True, columns in another order: {type(error).__name__}")
seen = {}
lightgbm.train(
    {"objective": "binary", "metric": "binary_error", **quiet}, lightgbm.Dataset(x, y), 60,
    valid_sets=[lightgbm.Dataset(other, y)], callbacks=[lightgbm.record_evaluation(seen), lightgbm.early_stopping(5, verbose=False)],
)  # fmt: skip
errors = seen["valid_0"]["binary_error"]
print(f"validation rows in another order: stopped after {len(errors)} rounds of 60, least error {min(errors):.2f}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
scikit-learn's LogisticRegression: accuracy 1.00
scikit-learn's LogisticRegression, columns in another order: ValueError
scikit-learn's LogisticRegression, a column renamed: ValueError
XGBClassifier: accuracy 1.00
XGBClassifier, columns in another order: ValueError
XGBClassifier, a column renamed: ValueError
LGBMClassifier: accuracy 1.00
LGBMClassifier, columns in another order: accuracy 0.23
LGBMClassifier, a column renamed: accuracy 1.00
names that the booster has: age height weight income
lightgbm.train: accuracy 1.00
lightgbm.train, columns in another order: accuracy 0.23
lightgbm.train, a column renamed: accuracy 1.00
lightgbm.train, validate_features=True, columns in another order: LightGBMError
LGBMClassifier, validate_features=True, columns in another order: LightGBMError
validation rows in another order: stopped after 6 rounds of 60, least error 0.77
SEEN
