#!/usr/bin/env bash
# pyarrow 26.0.1 (mimalloc, its default pool): a process that read a Parquet file and dropped the table keeps more than twice
# the table's size, while the pool says that nothing is allocated.
#
# A good guess: a table of 59 MiB costs about that while it is held, and `pyarrow.total_allocated_bytes()`, which says 0 when it
# was dropped, tells what Arrow costs the process then.
# What happens: reading takes two and a half times the table (pages of the file, decoded pages, columns, from several threads), and
# all of that stays resident after `del`, seconds later as well: the counter counts what is handed out, not what is kept.
# `default_memory_pool().release_unused()` gives it back at once. Where many processes each read a part (workers of a loader,
# the ranks of a run), the sum of what "nothing" is decides how many fit on the machine. The next read takes the kept memory
# again, so a loop does not grow.
#
# Output seen (CPU, x86_64, Linux, Python 3.11):
#   mimalloc: while held over twice the table; dropped: as much, pool says 0 bytes; 3 s later: as much
#   after ten more reads: under six times the table; after release_unused: less than one table
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1 numpy==2.4.6
cat > "$work/write.py" <<'PY'
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

rng = np.random.default_rng(0)
columns = {f"c{k}": rng.normal(size=1_000_000).astype(np.float32) for k in range(15)}
pq.write_table(pa.table(columns), sys.argv[1])
PY
cat > "$work/read.py" <<'PY'
import gc
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq


def resident():
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[1]) * 4096


pool, start = pa.default_memory_pool(), resident()
table = pq.read_table(sys.argv[1])
size, held = table.nbytes, resident() - start
del table
gc.collect()
dropped, counted = resident() - start, pa.total_allocated_bytes()
time.sleep(3)
later = resident() - start


def said(now):
    return "as much" if now > 0.9 * held else f"{now / size:.1f} times the table"


over = "over twice the table" if held > 2 * size else f"{held / size:.1f} times the table"
print(f"{pool.backend_name}: while held {over}; dropped: {said(dropped)}, pool says {counted} bytes; 3 s later: {said(later)}")
for _ in range(10):
    pq.read_table(sys.argv[1])
gc.collect()
again = resident() - start
pool.release_unused()
left = resident() - start
print(
    "after ten more reads:", "under six times the table" if again < 6 * size else f"{again / size:.1f} times the table", end="; "
)
print("after release_unused:", "less than one table" if left < size else f"{left / size:.1f} times the table")
PY
"$work/venv/bin/python" "$work/write.py" "$work/t.parquet"
"$work/venv/bin/python" "$work/read.py" "$work/t.parquet" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
mimalloc: while held over twice the table; dropped: as much, pool says 0 bytes; 3 s later: as much
after ten more reads: under six times the table; after release_unused: less than one table
SEEN
