#!/usr/bin/env bash
# deltalake 1.6.6 and pylance 14.0.2 (lance), tables of rows on disk: the first row that is read need not be the first that was written, and each store has a rule of its own.
#
#   wanted      features in a table that grows by appends, and beside it what is kept by row number: labels, the folds, embeddings, a list of the test rows
#   guess       without a sort or a query in between, rows come in the order in which they were written, as from a file or a folder of numbered files
#   found       Delta gives the last append first: of two halves the second comes before the first, of twelve parts the parts come backwards, the rows within
#               each in order. Compacting keeps that for good. Lance gives them in order, until a value is changed: a row that is updated (merged, too) is
#               taken out of its place and put at the end. To correct one cell of row 7 moves all of the 1,192 rows after it up by one
#   the cost    as many rows as labels, nothing to raise: a model that was right on all rows is right by chance, in 0.2 to 0.7 of them. A split by row
#               number, made once and saved, mixes training and test rows from the next append on (Delta) or the next correction (Lance)
#   way out     a key in the table, and the labels joined by it; or the labels as a column. Lance has row ids that stay (enable_stable_row_ids), Delta has none
#
# Output seen (CPU, x86_64, Python 3.11), 1,200 rows, labels in the order of writing
#   deltalake, written at once: 1200 rows, begins with row 0, in their places 1.00; a model of these and the labels is right in 1.0
#   deltalake, written in 2 parts: 1200 rows, begins with row 600, in their places 0.00; a model of these and the labels is right in 0.2
#   deltalake, written in 12 parts: 1200 rows, begins with row 1100, in their places 0.00; a model of these and the labels is right in 0.4
#   deltalake, 12 parts, compacted: 1200 rows, begins with row 1100, in their places 0.00; a model of these and the labels is right in 0.4
#   lance, written in 12 parts: 1200 rows, begins with row 0, in their places 1.00; a model of these and the labels is right in 1.0
#   lance, one value of row 7 updated: 1200 rows, begins with row 0, in their places 0.01; a model of these and the labels is right in 0.2
#   lance, one value of 400 rows updated: 1200 rows, begins with row 1, in their places 0.00; a model of these and the labels is right in 0.7
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check numpy==2.4.6 pyarrow==26.0.1 scikit-learn==1.9.1 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check deltalake==1.6.6 pylance==14.0.2 2> /dev/null
cat > "$work/finding.py" <<'PY'
import sys

import lance
import numpy as np
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from sklearn.linear_model import LogisticRegression

rng = np.random.default_rng(0)
x = rng.normal(size=(1200, 4))
y = (x[:, 0] + x[:, 1] > 0).astype(int)  # the labels, kept beside the table, a number to a row
table = pa.table({"row": np.arange(1200), **{f"x{k}": x[:, k] for k in range(4)}})


def told(name, rows):
    order = np.array(rows["row"])
    features = np.column_stack([rows[f"x{k}"].to_numpy() for k in range(4)])
    model = LogisticRegression().fit(features[:800], y[:800])
    right = model.score(x[800:], y[800:])
    print(f"{name}: {len(order)} rows, begins with row {order[0]}, in their places {(order == np.arange(1200)).mean():.2f}; a model of these and the labels is right in {right:.1f}")


def delta(name, parts, change=None):
    path = f"{sys.argv[1]}/{name}"
    for part in range(parts):
        write_deltalake(path, table.slice(1200 // parts * part, 1200 // parts), mode="append")
    if change:
        change(DeltaTable(path))
    told(f"deltalake, {name}", pa.table(DeltaTable(path).to_pyarrow_table()))


delta("written at once", 1)
delta("written in 2 parts", 2)
delta("written in 12 parts", 12)
delta("12 parts, compacted", 12, lambda t: t.optimize.compact())


def store(name, parts, change=None):
    path = f"{sys.argv[1]}/{name}.lance"
    for part in range(parts):
        lance.write_dataset(table.slice(1200 // parts * part, 1200 // parts), path, mode="append" if part else "create")
    if change:
        change(lance.dataset(path))
    told(f"lance, {name}", lance.dataset(path).to_table())


store("written in 12 parts", 12)
store("one value of row 7 updated", 12, lambda d: d.update({"x3": "0.0"}, where="row = 7"))
store("one value of 400 rows updated", 12, lambda d: d.update({"x3": "0.0"}, where="row % 3 = 0"))
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" "$work" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
deltalake, written at once: 1200 rows, begins with row 0, in their places 1.00; a model of these and the labels is right in 1.0
deltalake, written in 2 parts: 1200 rows, begins with row 600, in their places 0.00; a model of these and the labels is right in 0.2
deltalake, written in 12 parts: 1200 rows, begins with row 1100, in their places 0.00; a model of these and the labels is right in 0.4
deltalake, 12 parts, compacted: 1200 rows, begins with row 1100, in their places 0.00; a model of these and the labels is right in 0.4
lance, written in 12 parts: 1200 rows, begins with row 0, in their places 1.00; a model of these and the labels is right in 1.0
lance, one value of row 7 updated: 1200 rows, begins with row 0, in their places 0.01; a model of these and the labels is right in 0.2
lance, one value of 400 rows updated: 1200 rows, begins with row 1, in their places 0.00; a model of these and the labels is right in 0.7
SEEN
