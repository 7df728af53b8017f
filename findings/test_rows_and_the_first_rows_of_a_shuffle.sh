#!/usr/bin/env bash
# datasets 5.2.0 (Hugging Face): two chance choices with the same seed are one choice, and it is the test set.
#
# Somebody splits once, `rows.train_test_split(test_size=0.1, seed=42)`, and elsewhere, for a pilot run, for examples in a prompt, for choosing
# a rate or calibrating 8-bit weights, takes `rows.shuffle(seed=42).select(range(k))` of the whole. Seeds are set to 42 or 0 for the
# sake of repeating a run; that a split and a shuffle of different names, of different sizes, should agree in their rows is not expected:
# of a tenth of the rows, one in ten should happen to be a test row.
#
# All of them are. Both methods draw one permutation from numpy's default generator with that seed; the split gives its first places to the test
# set, in that order, and the rest to training. So the first k rows of the shuffle are test rows until these are used up, and
# what comes behind is the training set, in its order. It holds for any seed and test_size, also of a table that was mapped or renamed
# in between, as long as the number of rows is the same. Another seed for each purpose, or shuffling only what was split off, avoids it; so does
# the split of scikit-learn, which draws from another generator.
#
# Output seen (x86_64, Python 3.11), of 1,000 rows:
#   seed 42: of the first 50 of shuffle 50 are test rows; first 100 in the same order True; the rest is train in order True
#   seed 0: of the first 50 of shuffle 50 are test rows; first 100 in the same order True; the rest is train in order True
#   split and shuffle with different seeds: of the first 50 of shuffle under 15 are test rows
#   shuffle and scikit-learn's split, seed 42: of the first 50 of shuffle under 15 are test rows
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check datasets==5.2.0 numpy==2.4.6 scikit-learn==1.9.1 2> /dev/null
cat > "$work/seeds.py" <<'PY'
from datasets import Dataset
from sklearn.model_selection import train_test_split

rows = Dataset.from_dict({"row": list(range(1000))})


def split(seed):
    parts = rows.train_test_split(test_size=0.1, seed=seed)
    return parts["train"]["row"][:], parts["test"]["row"][:]


def few(shuffled, test):
    common = len(set(shuffled[:50]) & set(test))
    return f"of the first 50 of shuffle {'under 15' if common < 15 else common} are test rows"


for seed in (42, 0):
    (train, test), shuffled = split(seed), rows.map(lambda row: row).shuffle(seed=seed)["row"][:]
    print(f"seed {seed}: {few(shuffled, test)}; first 100 in the same order {shuffled[:100] == test};",
          f"the rest is train in order {shuffled[100:] == train}")
print("split and shuffle with different seeds:", few(rows.shuffle(seed=1)["row"][:], split(42)[1]))
_, test = train_test_split(range(1000), test_size=0.1, random_state=42)
print("shuffle and scikit-learn's split, seed 42:", few(rows.shuffle(seed=42)["row"][:], test))
PY
HF_HUB_OFFLINE=1 HF_HOME="$work/home" "$work/venv/bin/python" "$work/seeds.py" 2> "$work/log" | tee "$work/seen" || { cat "$work/log"; exit 1; }
diff "$work/seen" - <<'SEEN'
seed 42: of the first 50 of shuffle 50 are test rows; first 100 in the same order True; the rest is train in order True
seed 0: of the first 50 of shuffle 50 are test rows; first 100 in the same order True; the rest is train in order True
split and shuffle with different seeds: of the first 50 of shuffle under 15 are test rows
shuffle and scikit-learn's split, seed 42: of the first 50 of shuffle under 15 are test rows
SEEN
