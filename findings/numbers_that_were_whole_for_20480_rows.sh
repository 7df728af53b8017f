#!/usr/bin/env bash
# duckdb 2.0.1, a table in CSV or JSON lines: numbers that are whole in the first 20,480 rows are made whole in all others.
#
#     duckdb.sql("SELECT * FROM 'rows.csv'")        duckdb.sql("SELECT * FROM 'rows.jsonl'")
#
# The type of a column is found from a sample of rows. A guess of what follows when a later row does not fit: polars, which samples too, ends with an
# error that names the value; Arrow and pandas widen the column to float. A word in a column of numbers does end duckdb's query, so it looks.
#
# A fraction in a column that looked whole is *cast*: 0.5 is read as 1 from a CSV file and as 0 from JSON (which rounds a half to the even side). The
# type says BIGINT, nothing is printed, and rejected rows, asked for with store_rejects, are none. So of a score that is 0 or 1 for old rows and a
# probability for new ones, a price without cents at the head of the file, hours that were whole until someone wrote 7.5, a mask of soft labels, all
# rows behind the sample are rounded. A test of some thousand rows is right, as the sample holds the whole file. Numbers written as 3.0 are floats from
# row 1. Way out: sample_size=-1, or the types written down.
#
# Output seen (x86_64, Python 3.11), 30,000 rows, whole numbers but for the last 5,000:
#   written in the last rows: [0.5, 1.5, 2.75, 0.25]
#   duckdb, csv: BIGINT [1, 2, 3, 0], rows that differ 5000 of 30000, rejected 0
#   duckdb, jsonl: BIGINT [0, 2, 3, 0], rows that differ 5000 of 30000
#   duckdb, csv and jsonl, sample_size=-1: DOUBLE DOUBLE, rows that differ 0 and 0
#   duckdb, csv and jsonl, 20,480 rows before the first fraction: BIGINT BIGINT; 20,000 rows: DOUBLE DOUBLE
#   duckdb, a word in the last row: csv ConversionException, jsonl InvalidInputException
#   polars, csv and jsonl: ComputeError ComputeError
#   arrow, csv and jsonl: double double; pandas: float64 float64; rows that differ 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip="$work/venv/bin/pip install --quiet --no-compile --disable-pip-version-check"
$pip duckdb==2.0.1 numpy==2.4.6 polars==2.1.0 pandas==3.1.1 pyarrow==26.0.1 2> /dev/null
cat > "$work/whole.py" <<'PY'
import sys

import duckdb
import pandas as pd
import polars as pl
import pyarrow.csv
import pyarrow.json

CSV, LINES = f"{sys.argv[1]}/rows.csv", f"{sys.argv[1]}/rows.jsonl"
ROWS, LATE, ENDS = 30_000, 25_000, [0.5, 1.5, 2.75, 0.25]


def write(late, last=None):
    """Both files; whole numbers up to row `late`, fractions from there on; what was written."""
    values = [i % 7 if i < late else ENDS[i % 4] for i in range(ROWS)]
    if last is not None:
        values[-1] = last
    with open(CSV, "w") as table, open(LINES, "w") as lines:
        table.write("i,x\n")
        for i, value in enumerate(values):
            table.write(f"{i},{value}\n")
            lines.write(f'{{"i": {i}, "x": {value}}}\n')
    return values


def read(call):
    rows = duckdb.sql(f"SELECT x FROM {call}")
    return str(rows.types[0]), [x for (x,) in rows.fetchall()]


def wrong(values):
    return sum(a != b for a, b in zip(values, written, strict=True))


def kind_of_error(call):
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "read"


written = write(LATE)
print("written in the last rows:", written[-4:])
kind, values = read(f"read_csv('{CSV}', store_rejects=true)")
rejected = duckdb.sql("SELECT count(*) FROM reject_errors").fetchall()[0][0]
print(f"duckdb, csv: {kind} {values[-4:]}, rows that differ {wrong(values)} of {ROWS}, rejected {rejected}")
kind, values = read(f"'{LINES}'")
print(f"duckdb, jsonl: {kind} {values[-4:]}, rows that differ {wrong(values)} of {ROWS}")
whole = [read(f"read_{way}('{file}', sample_size=-1)") for way, file in (("csv", CSV), ("json", LINES))]
print("duckdb, csv and jsonl, sample_size=-1:", whole[0][0], whole[1][0] + ", rows that differ", wrong(whole[0][1]), "and", wrong(whole[1][1]))
polars = [kind_of_error(lambda: pl.read_csv(CSV)), kind_of_error(lambda: pl.read_ndjson(LINES))]
arrow = [pyarrow.csv.read_csv(CSV)["x"], pyarrow.json.read_json(LINES)["x"]]
pandas = [pd.read_csv(CSV)["x"], pd.read_json(LINES, lines=True)["x"]]
off = sum(wrong(column.to_pylist()) for column in arrow) + sum(wrong(column.tolist()) for column in pandas)
kinds = []
for late in (20_480, 20_000):
    write(late)
    kinds.append(" ".join(read(repr(file))[0] for file in (CSV, LINES)))
print(f"duckdb, csv and jsonl, 20,480 rows before the first fraction: {kinds[0]}; 20,000 rows: {kinds[1]}")
write(ROWS, last='"none"')
print(f"duckdb, a word in the last row: csv {kind_of_error(lambda: read(repr(CSV)))}, jsonl {kind_of_error(lambda: read(repr(LINES)))}")
print("polars, csv and jsonl:", *polars)
print(f"arrow, csv and jsonl: {arrow[0].type} {arrow[1].type}; pandas: {pandas[0].dtype} {pandas[1].dtype}; rows that differ {off}")
PY
"$work/venv/bin/python" "$work/whole.py" "$work" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
written in the last rows: [0.5, 1.5, 2.75, 0.25]
duckdb, csv: BIGINT [1, 2, 3, 0], rows that differ 5000 of 30000, rejected 0
duckdb, jsonl: BIGINT [0, 2, 3, 0], rows that differ 5000 of 30000
duckdb, csv and jsonl, sample_size=-1: DOUBLE DOUBLE, rows that differ 0 and 0
duckdb, csv and jsonl, 20,480 rows before the first fraction: BIGINT BIGINT; 20,000 rows: DOUBLE DOUBLE
duckdb, a word in the last row: csv ConversionException, jsonl InvalidInputException
polars, csv and jsonl: ComputeError ComputeError
arrow, csv and jsonl: double double; pandas: float64 float64; rows that differ 0
SEEN
