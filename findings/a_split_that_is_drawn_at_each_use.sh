#!/usr/bin/env bash
# duckdb 2.0.1, Python: rows in training *and* test, by a split that was written down once.
#
#     split = duckdb.sql("SELECT id, random() < 0.8 AS train FROM rows")
#     train, test = split.filter("train"), split.filter("NOT train")
#
# `split` prints like a table, has columns, a length and filters. A pandas or polars frame of the same lines is split once, and the two
# halves are disjoint and complete. Here it is the query, not its result: whatever asks it for rows runs it, with new random
# numbers. Of 1,000 rows some 160 (0.8 x 0.2) are in both parts and as many in neither. The sizes, 800 and 200 or
# thereabouts, are right, so that a look at them tells nothing; a model is then scored on rows of which four in five are known to it.
# `setseed` before it makes the script repeatable, with the same 160 rows in both. A sample, `USING SAMPLE 200 ROWS`, is another one at
# each look, too. A table (CREATE TABLE ... AS), or a hash of the id in place of
# random(), keeps the parts apart.
#
# Output seen (x86_64, Python 3.11), 1,000 rows:
#   relation: in both 100 to 220, in neither 100 to 220
#   relation, after setseed(0.5): in both 100 to 220, in neither 100 to 220; the same at the next try: True
#   table: in both 0, in neither 0
#   hash(id) % 10 < 8: in both 0, in neither 0
#   sample of 200 rows, looked at twice: 10 to 80 rows in common
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check duckdb==2.0.1 2> /dev/null
cat > "$work/split.py" <<'PY'
import duckdb

duckdb.sql("SET threads = 1")  # or else random numbers reach the rows in the threads' order
duckdb.sql("CREATE TABLE rows AS SELECT i AS id FROM range(1000) r(i)")


def ids(relation):
    return {row[0] for row in relation.fetchall()}


def parts(split):
    train, test = ids(split.filter("train")), ids(split.filter("NOT train"))
    return len(train & test), 1000 - len(train | test)


def words(both, neither):
    return ", in neither ".join("100 to 220" if 100 <= n <= 220 else str(n) for n in (both, neither))


def drawn(seed=None):
    if seed is not None:
        duckdb.sql(f"SELECT setseed({seed})").fetchall()
    return parts(duckdb.sql("SELECT id, random() < 0.8 AS train FROM rows"))


print("relation: in both", words(*drawn()))
first, again = drawn(0.5), drawn(0.5)
print("relation, after setseed(0.5): in both", words(*first) + "; the same at the next try:", first == again)
duckdb.sql("CREATE TABLE kept AS SELECT id, random() < 0.8 AS train FROM rows")
print("table: in both", words(*parts(duckdb.table("kept"))))
print("hash(id) % 10 < 8: in both", words(*parts(duckdb.sql("SELECT id, hash(id) % 10 < 8 AS train FROM rows"))))
sample = duckdb.sql("FROM rows USING SAMPLE 200 ROWS")
common = len(ids(sample) & ids(sample))
print("sample of 200 rows, looked at twice:", "10 to 80" if 10 <= common <= 80 else common, "rows in common")
PY
"$work/venv/bin/python" "$work/split.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
relation: in both 100 to 220, in neither 100 to 220
relation, after setseed(0.5): in both 100 to 220, in neither 100 to 220; the same at the next try: True
table: in both 0, in neither 0
hash(id) % 10 < 8: in both 0, in neither 0
sample of 200 rows, looked at twice: 10 to 80 rows in common
SEEN
