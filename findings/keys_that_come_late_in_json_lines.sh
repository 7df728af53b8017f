#!/usr/bin/env bash
# polars 2.1.0 and duckdb 2.0.1, JSON lines: a key that no line has among the first 100 (polars) or 20,480 (duckdb) is not in the table at all.
#
#     pl.read_ndjson("rows.jsonl")            duckdb.sql("SELECT * FROM 'rows.jsonl'")
#
# Lines name their own keys, and one that is empty in a row is left out of it by many writers. That types are guessed from a sample is known; a value that
# does not fit the guess ends both with an error that names it, so a key that does not fit is expected to be a column with gaps, as in Arrow and pandas,
# or an error too (pl.read_json of the same rows as one array has it).
#
# The key is thrown away, in each line, with its values: no error, no warning, the number of rows is right. A label, a weight or a reason that was added
# to a log later on, or is rare, is gone; so is a field within a message of a chat. A test with some rows, or a head -n of the file, has the column.
# The settings meant for it stop short where rows are in several files: infer_schema_length=None reads all of one file, and of the files only the first;
# sample_size=-1 reads 32 files (maximum_sample_files) and no more. Users have reported polars' half (issue 29330). Way out: all keys and types
# written down (schema=, columns=); in duckdb also union_by_name=true for files, in polars infer_schema_length=None file by file.
#
# Output seen (x86_64, Python 3.11); the columns of 30,000 rows {"id"}, the last 5,000 of which have a label too:
#   polars: read id; scan id; whole file id label; schema= id label, 5000 labels
#   duckdb: id; whole file id label; columns= id label, 5000 labels
#   the first label in row 100: polars id label, duckdb id label; 101: id, id label; 20,480: id, id label; 20,481: id, id
#   a key within a list of messages: polars content role; duckdb content role
#   a word among whole numbers in row 25,001: polars ComputeError; duckdb InvalidInputException
#   one array, pl.read_json: ComputeError; lines, pyarrow: id label
#   40 files, the last five with a label: polars id, all of it id; duckdb id, all of it id, union_by_name id label
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check polars==2.1.0 duckdb==2.0.1 pyarrow==26.0.1 2> /dev/null
cat > "$work/late.py" <<'PY'
import io
import json
import os
import sys

import duckdb
import polars as pl
import pyarrow.json

os.chdir(sys.argv[1])
N, LATE = 30_000, 25_000


def written(row, name="rows.jsonl"):
    with open(name, "w") as file:
        file.writelines(json.dumps(row(i)) + "\n" for i in range(N))


def labelled(first):
    return lambda i: {"id": i} | ({"label": 1} if i >= first else {})


def words(table):
    names = table.column_names if isinstance(table, pyarrow.Table) else table.columns
    return " ".join(names)


def ends(call):
    try:
        return words(call())
    except (pl.exceptions.ComputeError, duckdb.Error) as error:
        return type(error).__name__


def sql(options=""):
    return duckdb.sql(f"FROM read_json('rows.jsonl'{options})")


written(labelled(LATE))
whole = pl.read_ndjson("rows.jsonl", schema={"id": pl.Int64, "label": pl.Int64})
print(f"polars: read {words(pl.read_ndjson('rows.jsonl'))}; scan {words(pl.scan_ndjson('rows.jsonl').collect())};",
      f"whole file {words(pl.read_ndjson('rows.jsonl', infer_schema_length=None))}; schema= {words(whole)}, {whole['label'].count()} labels")
whole = sql(", columns={id: 'BIGINT', label: 'BIGINT'}")
print(f"duckdb: {words(sql())}; whole file {words(sql(', sample_size=-1'))};",
      f"columns= {words(whole)}, {whole.count('label').fetchall()[0][0]} labels")
array = io.StringIO(json.dumps([labelled(LATE)(i) for i in range(N)]))
arrow = words(pyarrow.json.read_json("rows.jsonl"))
found = []
for row in (100, 101, 20_480, 20_481):
    written(labelled(row - 1))
    found.append((words(pl.read_ndjson("rows.jsonl")), words(sql())))
print(f"the first label in row 100: polars {found[0][0]}, duckdb {found[0][1]};",
      "; ".join(f"{row}: {one}, {two}" for row, (one, two) in zip(("101", "20,480", "20,481"), found[1:])))
written(lambda i: {"messages": [{"role": "user", "content": "a"} | ({"weight": 0} if i >= LATE else {})]})
chat = pl.read_ndjson("rows.jsonl")["messages"].dtype.inner.fields
print("a key within a list of messages: polars", *sorted(field.name for field in chat), end="; duckdb ")
print(*sorted(name for name, _ in sql().types[0].children[0][1].children))
written(lambda i: {"id": i if i < LATE else "x"})
print(f"a word among whole numbers in row 25,001: polars {ends(lambda: pl.read_ndjson('rows.jsonl'))}; duckdb {ends(lambda: sql().to_arrow_table())}")
print(f"one array, pl.read_json: {ends(lambda: pl.read_json(array))}; lines, pyarrow: {arrow}")
for k in range(40):
    with open(f"part{k:02}.jsonl", "w") as file:
        file.write(json.dumps(labelled(35)(k)) + "\n")
print(f"40 files, the last five with a label: polars {words(pl.read_ndjson('part*.jsonl'))},",
      f"all of it {words(pl.read_ndjson('part*.jsonl', infer_schema_length=None))};",
      f"duckdb {words(duckdb.sql('FROM read_json($$part*.jsonl$$)'))},",
      f"all of it {words(duckdb.sql('FROM read_json($$part*.jsonl$$, sample_size=-1)'))},",
      f"union_by_name {words(duckdb.sql('FROM read_json($$part*.jsonl$$, union_by_name=true)'))}")
PY
"$work/venv/bin/python" "$work/late.py" "$work" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
polars: read id; scan id; whole file id label; schema= id label, 5000 labels
duckdb: id; whole file id label; columns= id label, 5000 labels
the first label in row 100: polars id label, duckdb id label; 101: id, id label; 20,480: id, id label; 20,481: id, id
a key within a list of messages: polars content role; duckdb content role
a word among whole numbers in row 25,001: polars ComputeError; duckdb InvalidInputException
one array, pl.read_json: ComputeError; lines, pyarrow: id label
40 files, the last five with a label: polars id, all of it id; duckdb id, all of it id, union_by_name id label
SEEN
