#!/usr/bin/env bash
# optuna 5.0.0: a study that is opened again takes the new sampler, from its beginning, and not the new direction. Neither is said.
#
#     study = optuna.create_study(study_name="lr", storage="sqlite:///search.db", load_if_exists=True,
#                                 direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
#
# One line makes the study or opens it, so that a script can be killed and started again, or run by several workers on one storage. What it is given a
# guess takes either for checked against what is stored, as a table's columns are, or for the settings of what follows.
#
# direction: somebody forgot it, and the score is an accuracy. "minimize" went into the storage with the first call. With the line mended the study is
# opened without a word and stays at "minimize": the sampler looks for the worst, pruning cuts off the best, and best_params are those of the lowest accuracy. The
# mended script is what one reads. A changed number of objectives is ignored likewise, until a trial fails by it.
# sampler: it is not in the storage. The new one, with the seed of the script, draws what the first one drew: 10 trials, killed, 10 more, and the study has 20
# trials of 10 different points; four workers with one seed compute four times the same. That trials exist is no hindrance; the seeded default (TPE) repeats its
# ten random ones for each worker that starts before ten are done. Way out: study.direction asserted
# after the call; no seed, or one that has the number of trials in it.
#
# Output seen (x86_64, Python 3.11); the score is highest at 1
#   opened again to be maximized: MINIMIZE, warnings 0
#     best_value is the lowest of the scores: True; the last 30 are lower than the first 10 on average: True
#     opened again with two objectives: ['MINIMIZE']
#   random, killed after 10 and started again: 20 trials, 10 points, the same in the same order True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check optuna==5.0.0 2> /dev/null
cat > "$work/study.py" <<'PY'
import sys
import warnings

import optuna

optuna.logging.set_verbosity(optuna.logging.WARNING)


def opened(name, **options):
    return optuna.create_study(study_name=name, storage=f"sqlite:///{sys.argv[1]}/search.db", load_if_exists=True, **options)


def accuracy(trial):
    return 1 - (trial.suggest_float("x", 0, 1) - 1) ** 2


opened("tpe", sampler=optuna.samplers.TPESampler(seed=0)).optimize(accuracy, n_trials=10)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    again = opened("tpe", direction="maximize", sampler=optuna.samplers.TPESampler(seed=1))
again.optimize(accuracy, n_trials=30)
scores = [trial.value for trial in again.trials]
print(f"opened again to be maximized: {again.direction.name}, warnings {len(said)}")
print(f"  best_value is the lowest of the scores: {again.best_value == min(scores)}; "
      f"the last 30 are lower than the first 10 on average: {sum(scores[10:]) / 30 < sum(scores[:10]) / 10}")
again = opened("tpe", directions=["maximize", "minimize"])
print(f"  opened again with two objectives: {[direction.name for direction in again.directions]}")

for part in range(2):
    study = opened("random", direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(accuracy, n_trials=10)
points = [trial.params["x"] for trial in study.trials]
print(f"random, killed after 10 and started again: {len(points)} trials, {len(set(points))} points, the same in the same order {points[:10] == points[10:]}")
PY
"$work/venv/bin/python" "$work/study.py" "$work" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
opened again to be maximized: MINIMIZE, warnings 0
  best_value is the lowest of the scores: True; the last 30 are lower than the first 10 on average: True
  opened again with two objectives: ['MINIMIZE']
random, killed after 10 and started again: 20 trials, 10 points, the same in the same order True
SEEN
