#!/usr/bin/env bash
# Question: how many rows of a Parquet file hold NaN? duckdb 2.0.1 answers none, pyarrow 26.0.1 two, polars 2.1.0 four. Four is right.
#
# The file is pyarrow's own: 16 rows, 4 of them NaN, in row groups of 4 (as pandas, datasets and pyarrow write them, only larger).
# One would guess that a filter asks each row: writing rows in larger or smaller groups, or holding them in memory, may change its
# speed but not its answer. Looking for NaN before training is what everybody does with it.
#
# What goes wrong: the format has the writer leave NaN out of a group's smallest and largest value, and has readers forget both
# when NaN could match. pyarrow and duckdb take them as bounds of *all* values. Hence
# - duckdb: NaN counts as the greatest number there, so `x > 5` wants it, and finds it in a table of its own; of a file it skips each
#   group whose largest number is 5 or less, with its NaN. `isnan(x)` becomes "no" for a whole file, so a check for NaN before training passes
#   and avg(x) of the same file is NaN. The other way round, what is true of both bounds is not asked of the rows: `x < 100` keeps every
#   NaN, and `count(*)` of `NOT x > 5` is 8 where the rows that it gives are 6. A file that duckdb wrote itself has no bounds for such columns
#   and answers rightly.
# - pyarrow: a group whose numbers are all 1 is taken for 1 throughout: `is_nan(x)` and `x != 1` lose its NaN. `~(x > 5)`, which is
#   true of NaN, loses those in groups of larger numbers. With one group of 16 rows all of these come back.
# - polars skips no group where NaN might match.
# So which rows are trained on depends on row_group_size and on their neighbours in the file; no message. Filter after reading.
#
# Output seen (x86_64, Python 3.11), rows found in memory / in the file by groups of 4 / by one group of 16:
#   is it NaN     duckdb 4/0/0  pyarrow 4/2/4  polars 4/4/4
#   x > 5         duckdb 10/8/10  pyarrow 6/6/6  polars 10/10/10
#   not (x > 5)   duckdb 6/8/6  pyarrow 10/8/10  polars 6/6/6
#   x is not 1    duckdb 12/11/12  pyarrow 12/11/12  polars 12/12/12
#   x < 100       duckdb 12/16/16  pyarrow 12/12/12  polars 12/12/12
#   duckdb: average of the file nan; rows given for NOT x > 5: 6; rows that are NaN in a copy that it wrote: 4
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    duckdb==2.0.1 pyarrow==26.0.1 polars==2.1.0 numpy==2.4.6 2> /dev/null
cat > "$work/filters.py" <<'PY'
import sys

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

nan = float("nan")
table = pa.table({"x": [1.0, 2, nan, 3] + [6.0, 7, nan, 8] + [1.0, 1, nan, 1] + [9.0, 9, 9, nan]})
files = [f"{sys.argv[1]}/groups_of_{size}.parquet" for size in (4, 16)]
for file, size in zip(files, (4, 16)):
    pq.write_table(table, file, row_group_size=size)
frame, x, column = pl.from_arrow(table), pc.field("x"), pl.col("x")


def count(query):
    return duckdb.sql(f"SELECT count(*) FROM {query}").fetchall()[0][0]


duckdb.sql("CREATE TABLE held AS FROM frame")
for name, query, arrow, polars in (
    ("is it NaN", "isnan(x)", pc.is_nan(x), column.is_nan()),
    ("x > 5", "x > 5", x > 5, column > 5),
    ("not (x > 5)", "NOT x > 5", ~(x > 5), ~(column > 5)),
    ("x is not 1", "x != 1", x != 1, column != 1),
    ("x < 100", "x < 100", x < 100, column < 100),
):
    by_duckdb = [count(f"{where} WHERE {query}") for where in ["held", *(f"'{file}'" for file in files)]]
    by_arrow = [ds.dataset(table).count_rows(filter=arrow), *(pq.read_table(file, filters=arrow).num_rows for file in files)]
    by_polars = [frame.filter(polars).height, *(pl.scan_parquet(file).filter(polars).collect().height for file in files)]
    found = {"duckdb": by_duckdb, "pyarrow": by_arrow, "polars": by_polars}
    print(f"{name:13} " + "  ".join(f"{engine} " + "/".join(map(str, counts)) for engine, counts in found.items()))
average = duckdb.sql(f"SELECT avg(x) FROM '{files[0]}'").fetchall()[0][0]
duckdb.sql(f"COPY held TO '{sys.argv[1]}/own.parquet'")
given = len(duckdb.sql(f"SELECT x FROM '{files[0]}' WHERE NOT x > 5").fetchall())
own = count(f"'{sys.argv[1]}/own.parquet' WHERE isnan(x)")
print(f"duckdb: average of the file {average}; rows given for NOT x > 5: {given}; rows that are NaN in a copy that it wrote: {own}")
PY
"$work/venv/bin/python" "$work/filters.py" "$work" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
is it NaN     duckdb 4/0/0  pyarrow 4/2/4  polars 4/4/4
x > 5         duckdb 10/8/10  pyarrow 6/6/6  polars 10/10/10
not (x > 5)   duckdb 6/8/6  pyarrow 10/8/10  polars 6/6/6
x is not 1    duckdb 12/11/12  pyarrow 12/11/12  polars 12/12/12
x < 100       duckdb 12/16/16  pyarrow 12/12/12  polars 12/12/12
duckdb: average of the file nan; rows given for NOT x > 5: 6; rows that are NaN in a copy that it wrote: 4
SEEN
