#!/usr/bin/env bash
# polars 2.1.0: sample(fraction=1.0, seed=0) leaves all rows where they are. One row fewer, and they are shuffled.
#
#     mixed = table.sample(fraction=1.0, seed=0)        train, test = mixed[:800], mixed[800:]
#
# In pandas `sample(frac=1)` is the idiom for a shuffle; R and Spark have their likes. polars has the method, with a seed, and the guess is that a sample of
# everything comes in an order drawn by that seed: any smaller sample does, as one sees when one tries it with ten rows of a thousand, or with n - 1.
#
# At exactly the number of rows nothing is drawn at all. Frame, series and expression, in groups as well, by n= and by fraction=, give the table back as
# it was, whatever the seed. A table that lies sorted, by class, by date, by user, stays so: the last fifth as a test set is one class, mini-batches
# are of one class each, and an average of five seeds is one run five times. Shape, sums and counts are right, nothing is printed. With
# `with_replacement=True` rows are drawn. The argument's page says that for shuffle=None, the default, no order is promised and the fastest way is
# taken; nobody who sees 999 rows mixed thinks of that. Way out: shuffle=True.
#
# Output seen (x86_64, Python 3.11), 1,000 rows, the first 800 of class 0 and the others of class 1
#   polars, sample(n=999, seed=0): rows at their old place under 10: True, of class 1 in the last 200 20 to 60: True
#   polars, sample(n=1000, seed=0): rows at their old place all, of class 1 in the last 200 200
#   polars, sample(fraction=1.0, seed=0): rows at their old place all, of class 1 in the last 200 200
#   polars, sample(n=999, seed=1): rows at their old place under 10: True, of class 1 in the last 200 20 to 60: True
#   polars, sample(n=1000, seed=1): rows at their old place all, of class 1 in the last 200 200
#   polars, sample(fraction=1.0, seed=1): rows at their old place all, of class 1 in the last 200 200
#   polars, select(pl.all().sample(fraction=1.0, seed=0)): rows at their old place all, of class 1 in the last 200 200
#   polars, the same in groups: rows at their old place all, of class 1 in the last 200 200
#   polars, with_replacement=True: rows at their old place under 10: True, of class 1 in the last 200 20 to 60: True
#   polars, shuffle=True: rows at their old place under 10: True, of class 1 in the last 200 20 to 60: True
#   pandas, sample(frac=1, random_state=0): rows at their old place under 10: True, of class 1 in the last 200 20 to 60: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check polars==2.1.0 pandas==3.1.1 pyarrow==25.0.1 numpy==2.4.6 2> /dev/null
cat > "$work/sample.py" <<'PY'
import numpy as np
import polars as pl

table = pl.DataFrame({"row": range(1000), "label": [0] * 800 + [1] * 200})


def told(name, sample):
    row = sample["row"].to_numpy()
    kept, last = (row == np.arange(len(row))).sum(), (row[-200:] >= 800).sum()
    print(f"{name}: rows at their old place {'all' if kept == len(row) else f'under 10: {kept < 10}'}, "
          f"of class 1 in the last 200 {'200' if last == 200 else f'20 to 60: {20 <= last <= 60}'}")


for seed in (0, 1):
    told(f"polars, sample(n=999, seed={seed})", table.sample(n=999, seed=seed))
    told(f"polars, sample(n=1000, seed={seed})", table.sample(n=1000, seed=seed))
    told(f"polars, sample(fraction=1.0, seed={seed})", table.sample(fraction=1.0, seed=seed))
told("polars, select(pl.all().sample(fraction=1.0, seed=0))", table.select(pl.all().sample(fraction=1.0, seed=0)))
groups = table.group_by("label", maintain_order=True).agg(pl.col("row").sample(fraction=1.0, seed=0))
told("polars, the same in groups", groups.explode("row"))
told("polars, with_replacement=True", table.sample(fraction=1.0, with_replacement=True, seed=0))
told("polars, shuffle=True", table.sample(fraction=1.0, shuffle=True, seed=0))
told("pandas, sample(frac=1, random_state=0)", table.to_pandas().sample(frac=1, random_state=0))
PY
"$work/venv/bin/python" -W ignore "$work/sample.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
polars, sample(n=999, seed=0): rows at their old place under 10: True, of class 1 in the last 200 20 to 60: True
polars, sample(n=1000, seed=0): rows at their old place all, of class 1 in the last 200 200
polars, sample(fraction=1.0, seed=0): rows at their old place all, of class 1 in the last 200 200
polars, sample(n=999, seed=1): rows at their old place under 10: True, of class 1 in the last 200 20 to 60: True
polars, sample(n=1000, seed=1): rows at their old place all, of class 1 in the last 200 200
polars, sample(fraction=1.0, seed=1): rows at their old place all, of class 1 in the last 200 200
polars, select(pl.all().sample(fraction=1.0, seed=0)): rows at their old place all, of class 1 in the last 200 200
polars, the same in groups: rows at their old place all, of class 1 in the last 200 200
polars, with_replacement=True: rows at their old place under 10: True, of class 1 in the last 200 20 to 60: True
polars, shuffle=True: rows at their old place under 10: True, of class 1 in the last 200 20 to 60: True
pandas, sample(frac=1, random_state=0): rows at their old place under 10: True, of class 1 in the last 200 20 to 60: True
SEEN
