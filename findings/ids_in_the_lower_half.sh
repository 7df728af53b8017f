#!/usr/bin/env bash
# jax 0.10.2, jnp.asarray(ids) of numpy's int64: user 4,294,967,301 is user 5. What does not fit is not refused, as it is of Python's own integers; its upper half is cut off.
#
# jax computes in 32 bits unless it is told otherwise, which is known, and of float64 costs digits. Of integers there are no digits to be lost: an id fits or it does
# not. jnp.asarray(2**40 + 5) raises OverflowError, and so does a list of such; from a column of int64 one expects the same, or a warning that it was narrowed.
#
# asarray, array, device_put, an argument of a jitted function, and every batch that goes through them: the lower 32 bits, as int32, without a word. The one warning there
# is comes when int64 is asked for by name. Hashed names keep being different, nearly, so that nothing is noticed, but half are negative (and a negative index counts
# from the end of an embedding), and id % buckets is another bucket than the one numpy, the store or the other half of the pipeline has. Numbers that carry
# a region or a shard in their upper bits become one. Times in milliseconds wrap every 50 days: differences within a day are right, the hour of the day and the
# order are not. Way out: `ids % buckets` or np.unique(..., return_inverse=True) in numpy, before jax sees them; jax_enable_x64 at the start of the program.
#
# Output seen (CPU, x86_64, Python 3.11):
#   jnp.asarray: int32 [5, 5, 5]
#   device_put: int32 [5, 5, 5]
#   jit: int32 [5, 5, 5]
#   tree.map: int32 [5, 5, 5]
#   milliseconds: [-807049216, -720649216] - from one to the next 86400000
#   rows of user 5 by segment_sum: 3
#   hashes: different ones 200000 - in jax, fewer by 1 to 20: True - negative, about half: True
#   share of rows whose bucket (id % 1000) is the same in numpy and jax: under 1% True
#   warnings: 0
#   a Python number: OverflowError, warnings 0
#   a list: OverflowError, warnings 0
#   numpy.int64, asked for by dtype: 5, warnings 1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check numpy==2.4.6 jax==0.10.2 2> /dev/null
cat > "$work/finding.py" <<'PY'
import warnings

import jax
import jax.numpy as jnp
import numpy as np

draw = np.random.default_rng(0)
users = np.unique(draw.integers(0, 2**63, size=200_000))  # hashes of names: 200,000 of them, all different
spread = np.array([5, 2**32 + 5, 2**40 + 5])  # three users, of three regions, whose number is kept in the upper bits
clock = np.array([1_700_000_000_000, 1_700_000_000_000 + 86_400_000])  # milliseconds since 1970: one day and the next
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    ways = {"jnp.asarray": jnp.asarray(spread), "device_put": jax.device_put(spread), "jit": jax.jit(lambda ids: ids)(spread), "tree.map": jax.tree.map(jnp.array, {"id": spread})["id"]}
    for name, ids in ways.items():
        print(f"{name}: {ids.dtype} {ids.tolist()}")
    print("milliseconds:", jnp.asarray(clock).tolist(), "- from one to the next", int(jnp.diff(jnp.asarray(clock))[0]))
    counts = jax.ops.segment_sum(jnp.ones(3), jnp.asarray(spread), num_segments=10)
    print("rows of user 5 by segment_sum:", int(counts[5]))
    table = jnp.asarray(users)
    print("hashes: different ones", len(users), "- in jax, fewer by 1 to 20:", 1 <= len(users) - len(np.unique(table)) <= 20, "- negative, about half:", 0.45 < float((table < 0).mean()) < 0.55)
    buckets = (users % 1000, np.asarray(table % 1000))
    print("share of rows whose bucket (id % 1000) is the same in numpy and jax: under 1%", (buckets[0] == buckets[1]).mean() < 0.01)
print("warnings:", len(seen))
for name, value in {"a Python number": 2**40 + 5, "a list": [2**40 + 5], "numpy.int64, asked for by dtype": np.int64(2**40 + 5)}.items():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            words = str(jnp.asarray(value, dtype="int64" if "dtype" in name else None))
        except OverflowError:
            words = "OverflowError"
    print(f"{name}: {words}, warnings {len(seen)}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
jnp.asarray: int32 [5, 5, 5]
device_put: int32 [5, 5, 5]
jit: int32 [5, 5, 5]
tree.map: int32 [5, 5, 5]
milliseconds: [-807049216, -720649216] - from one to the next 86400000
rows of user 5 by segment_sum: 3
hashes: different ones 200000 - in jax, fewer by 1 to 20: True - negative, about half: True
share of rows whose bucket (id % 1000) is the same in numpy and jax: under 1% True
warnings: 0
a Python number: OverflowError, warnings 0
a list: OverflowError, warnings 0
numpy.int64, asked for by dtype: 5, warnings 1
SEEN
