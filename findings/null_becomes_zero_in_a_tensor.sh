#!/usr/bin/env bash
# duckdb 2.0.1 with torch 2.13.0: `relation.torch()` turns missing values into zeros, on the one way out that cannot tell them.
#
# A query's result leaves duckdb by several doors. NULL goes through each of them as the receiver's sign of a missing value: `df()`
# gives NaN or <NA>, `pl()` null, `to_arrow_table()` null, `fetchnumpy()` a masked array. A tensor has no mask, so of `torch()` one
# would expect NaN for numbers with a point (torch.nan is what everybody tests for), and a refusal for whole numbers and booleans.
#
# What comes is a tensor of the column's own dtype in which each NULL is a number like others: 0, 0.0, False. It is what lies in the
# array that fetchnumpy() has under its mask, and the mask is left behind. No error, no warning. A column that measured temperatures
# now has a peak at 0 degrees; a missing label is class 0; a mean over 25% of missing ages drops by a quarter; and `isnan().any()`, which
# a careful loop asks before step 1, says that nothing is missing. After that no one can tell a zero that was measured from a NULL.
# Where a whole batch is NULL the same holds. Ask for COALESCE(x, 'nan'::DOUBLE), or drop the rows in the query.
#
# Output seen (x86_64, Python 3.11), the rows 20.0, NULL, 22.0, NULL of each type:
#   double   torch [20.0, 0.0, 22.0, 0.0]  nan: 0  numpy's mask [False, True, False, True]  arrow nulls: 2
#   float    torch [20.0, 0.0, 22.0, 0.0]  nan: 0  numpy's mask [False, True, False, True]  arrow nulls: 2
#   bigint   torch [20, 0, 22, 0]  nan: 0  numpy's mask [False, True, False, True]  arrow nulls: 2
#   boolean  torch [True, False, True, False]  nan: 0  numpy's mask [False, True, False, True]  arrow nulls: 2
#   mean of the doubles: SQL 21.0, tensor 10.5; coalesced to nan: 2
#   10,000 rows of a Parquet file, every fourth NULL: zeros in the tensor 2500, warnings 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check duckdb==2.0.1 pyarrow==26.0.1 2> /dev/null
cat > "$work/missing.py" <<'PY'
import sys
import warnings

import duckdb
import torch

warnings.simplefilter("always")
with warnings.catch_warnings(record=True) as caught:
    for kind in ("double", "float", "bigint", "boolean"):
        rows = duckdb.sql(f"SELECT x::{kind} AS x FROM (VALUES (1, 20), (2, NULL), (3, 22), (4, NULL)) t(id, x) ORDER BY id")
        tensor, masked, arrow = rows.torch()["x"], rows.fetchnumpy()["x"], rows.to_arrow_table()["x"]
        nan = int(torch.isnan(tensor).sum())
        print(f"{kind:8} torch {tensor.tolist()}  nan: {nan}  numpy's mask {masked.mask.tolist()}  arrow nulls: {arrow.null_count}")
    duckdb.sql("CREATE TABLE held AS SELECT * FROM (VALUES (20.0::DOUBLE), (NULL), (22.0), (NULL)) t(x)")
    sql = duckdb.sql("SELECT avg(x) FROM held").fetchall()[0][0]
    mean = float(duckdb.sql("SELECT x FROM held").torch()["x"].mean())
    told = int(torch.isnan(duckdb.sql("SELECT coalesce(x, 'nan'::DOUBLE) AS x FROM held").torch()["x"]).sum())
    print(f"mean of the doubles: SQL {sql}, tensor {mean}; coalesced to nan: {told}")
    file = f"{sys.argv[1]}/rows.parquet"
    duckdb.sql(f"COPY (SELECT CASE WHEN i % 4 > 0 THEN i + 0.5::DOUBLE END AS x FROM range(10000) r(i)) TO '{file}'")
    zeros = int((duckdb.sql(f"SELECT x FROM '{file}'").torch()["x"] == 0).sum())
print(f"10,000 rows of a Parquet file, every fourth NULL: zeros in the tensor {zeros}, warnings {len(caught)}")
PY
"$work/venv/bin/python" "$work/missing.py" "$work" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
double   torch [20.0, 0.0, 22.0, 0.0]  nan: 0  numpy's mask [False, True, False, True]  arrow nulls: 2
float    torch [20.0, 0.0, 22.0, 0.0]  nan: 0  numpy's mask [False, True, False, True]  arrow nulls: 2
bigint   torch [20, 0, 22, 0]  nan: 0  numpy's mask [False, True, False, True]  arrow nulls: 2
boolean  torch [True, False, True, False]  nan: 0  numpy's mask [False, True, False, True]  arrow nulls: 2
mean of the doubles: SQL 21.0, tensor 10.5; coalesced to nan: 2
10,000 rows of a Parquet file, every fourth NULL: zeros in the tensor 2500, warnings 0
SEEN
