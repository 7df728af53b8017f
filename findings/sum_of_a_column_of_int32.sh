#!/usr/bin/env bash
# polars 2.1.0: the sum of 300,000 amounts of 100.00, kept in cents as Int32, is -1294967296. Their mean is right.
#
# A sum is wider than its terms. numpy, pandas, Arrow and duckdb widen a 32-bit column to 64 bits for it, and so does polars itself an Int8, Int16 or their
# unsigned kin. So one takes it for a rule: the type of a column says what its values may be, and nothing about how many rows one may have.
#
# Int32 and UInt32 are left out of the rule. Their sum has their own type and wraps around without a word: as a method, in an expression, in group_by, in
# SQL, in the streaming engine. Below two thousand million all is well, so that a sample, a test, one month of data are right, and the whole is
# not; sums by group are right for the small groups. A wrapped sum may be positive, too. `mean` computes in float64, so that sum and mean times
# number disagree. dot() and cum_sum() wrap as well. Int32 is what databases, Parquet files of Spark or Java, and `astype(int32)` hand over, and
# UInt32 is what polars' own len(), count and n_unique make: the sum of group sizes wraps above 4.29 thousand million rows. The note of the
# docs names the types that are widened; users have reported it (issues 10740, 12958, 13782, 17340). Way out: cast(pl.Int64) before the sum.
#
# Output seen (x86_64, Python 3.11)
#   right: 3000000000
#   numpy: 3000000000, right
#   pandas: 3000000000, right
#   pandas, pyarrow column: 3000000000, right
#   pyarrow: 3000000000, right
#   duckdb: 3000000000, right
#   polars, int16 column: 3000000000, right
#   polars, int32 column: -1294967296, wrong
#   polars, group_by: -1294967296, wrong
#   polars, lazy, streaming: -1294967296, wrong
#   polars, SQL: -1294967296, wrong
#   polars, mean times number: 3000000000, right
#   polars, cast to int64: 3000000000, right
#   polars, sum of group sizes (UInt32): 1705032704 for 6000000000
#   polars, dot product of int32 counts: -1584901888 for 11300000000
#   polars, cumulated int32, last: -1294967296
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check polars==2.1.0 duckdb==2.0.1 pyarrow==26.0.1 pandas==3.1.1 2> /dev/null
cat > "$work/finding.py" <<'PY'
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

cents = np.full(300_000, 10_000, dtype=np.int32)  # 300,000 rows of 100.00
right = int(cents.astype(np.int64).sum())


def say(name, value):
    print(f"{name}: {int(value)}, {'right' if int(value) == right else 'wrong'}")


series, frame = pl.Series("cents", cents), pl.DataFrame({"cents": cents, "group": np.zeros(len(cents), dtype=np.int8)})
print("right:", right)
say("numpy", cents.sum())
say("pandas", pd.Series(cents).sum())
say("pandas, pyarrow column", pd.Series(cents, dtype="int32[pyarrow]").sum())
say("pyarrow", pc.sum(pa.array(cents)).as_py())
say("duckdb", duckdb.sql("SELECT sum(cents) FROM frame").fetchall()[0][0])
say("polars, int16 column", pl.Series(cents, dtype=pl.Int16).sum())
say("polars, int32 column", series.sum())
say("polars, group_by", frame.group_by("group").agg(pl.col("cents").sum())["cents"][0])
say("polars, lazy, streaming", frame.lazy().select(pl.col("cents").sum()).collect(engine="streaming").item())
say("polars, SQL", frame.sql("SELECT sum(cents) FROM self").item())
say("polars, mean times number", round(series.mean() * len(series)))
say("polars, cast to int64", series.cast(pl.Int64).sum())
counts = pl.DataFrame({"key": np.arange(4), "rows": pl.Series([1_500_000_000] * 4, dtype=pl.get_index_type())})
print(f"polars, sum of group sizes ({pl.get_index_type()}):", counts["rows"].sum(), "for", 4 * 1_500_000_000)
weights = pl.DataFrame({"n": pl.Series([70_000, 80_000], dtype=pl.Int32), "loss": [0.5, 0.25], "other": pl.Series([70_000, 80_000], dtype=pl.Int32)})
print("polars, dot product of int32 counts:", weights["n"].dot(weights["other"]), "for", 70_000**2 + 80_000**2)
print("polars, cumulated int32, last:", series.cum_sum()[-1])
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
right: 3000000000
numpy: 3000000000, right
pandas: 3000000000, right
pandas, pyarrow column: 3000000000, right
pyarrow: 3000000000, right
duckdb: 3000000000, right
polars, int16 column: 3000000000, right
polars, int32 column: -1294967296, wrong
polars, group_by: -1294967296, wrong
polars, lazy, streaming: -1294967296, wrong
polars, SQL: -1294967296, wrong
polars, mean times number: 3000000000, right
polars, cast to int64: 3000000000, right
polars, sum of group sizes (UInt32): 1705032704 for 6000000000
polars, dot product of int32 counts: -1584901888 for 11300000000
polars, cumulated int32, last: -1294967296
SEEN
