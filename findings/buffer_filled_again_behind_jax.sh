#!/usr/bin/env bash
# jax 0.10.2 on a CPU: jnp.array(rows, copy=True) and device_put(rows, may_alias=False) hold numbers that were written into `rows` after they had returned.
#
#     for k in range(steps):
#         reader.fill(rows)                                # one numpy buffer, filled again for each batch
#         batches.append(jax.device_put(rows))             # or jnp.array(rows), or step(rows) of a jitted function
#
# A jax array does not change, and copy=True says that it is a copy. numpy's and torch's copies are made when the call returns, and what is written into the
# buffer afterwards is the next batch's.
#
# device_put is to give a copy as well. On a CPU, of a buffer that begins at a multiple of 64 bytes, it is the buffer, for good: all batches of the list
#   are the last one. may_alias=False, which asks for a copy, makes no difference. Of a buffer that begins elsewhere it is a copy. Where numpy's memory begins
#   is chance: the same loop is right for one shape of a batch and wrong for another, and right today.
# jnp.array, copy=True, and calls of a jitted function: the reading is done later, in another thread, also where a copy is made. Of a large buffer that does not
#   begin at 64 bytes the copy, or the sum, is of whatever mixture of this batch and the next stands there then. block_until_ready() on what was made, before the
#   buffer is filled again, helps here, and not for device_put.
# Small tests pass: of few numbers the copy is done at once. Way out: a new numpy array for each batch (rows.copy()).
#
# Output seen (CPU, x86_64, Python 3.11), 400,000 bytes a batch, 200 batches
#   holds what was written later
#     device_put, waited for: in all if the buffer begins at 64 bytes, in none if at 16 beyond
#     device_put(may_alias=False), waited for: in all if the buffer begins at 64 bytes, in none if at 16 beyond
#     jnp.array(copy=True): in none if the buffer begins at 64 bytes, in some if at 16 beyond
#     jnp.array(copy=True), waited for: in none if the buffer begins at 64 bytes, in none if at 16 beyond
#     jnp.array(copy=True), 100 numbers: in none if the buffer begins at 64 bytes, in none if at 16 beyond
#     rows.copy() first: in none if the buffer begins at 64 bytes, in none if at 16 beyond
#     a jitted function of the buffer: in some
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 2> /dev/null
cat > "$work/buffer.py" <<'PY'
import jax
import jax.numpy as jnp
import numpy as np


def buffer(number, beyond):
    """float32 that begin so many bytes beyond a multiple of 64."""
    memory = np.zeros(4 * number + 128, dtype="uint8")
    start = -memory.ctypes.data % 64 + beyond
    return memory[start : start + 4 * number].view("float32")


def told(name, make, wait=False, number=100_000):
    words = []
    for beyond in (0, 16):
        rows, changed = buffer(number, beyond), 0
        for _ in range(200):
            rows[:] = 1
            made = make(rows)
            if wait:
                made.block_until_ready()
            rows[:] = 7
            changed += bool((np.asarray(made) == 7).any())
        words.append("in all" if changed == 200 else "in some" if changed else "in none")
    print(f"{name}: {words[0]} if the buffer begins at 64 bytes, {words[1]} if at 16 beyond")


print("holds what was written later")
told("  device_put, waited for", jax.device_put, wait=True)
told("  device_put(may_alias=False), waited for", lambda rows: jax.device_put(rows, may_alias=False), wait=True)
told("  jnp.array(copy=True)", lambda rows: jnp.array(rows, copy=True))
told("  jnp.array(copy=True), waited for", lambda rows: jnp.array(rows, copy=True), wait=True)
told("  jnp.array(copy=True), 100 numbers", lambda rows: jnp.array(rows, copy=True), number=100)
told("  rows.copy() first", lambda rows: jax.device_put(rows.copy()))
step, seen = jax.jit(lambda rows: rows + 0), 0
rows = buffer(1_000_000, 16)
for _ in range(200):
    rows[:] = 1
    made = step(rows)
    rows[:] = 7
    seen += bool((np.asarray(made) == 7).any())
print("  a jitted function of the buffer:", "in some" if seen else "in none")
PY
JAX_PLATFORMS=cpu "$work/venv/bin/python" -W ignore "$work/buffer.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
holds what was written later
  device_put, waited for: in all if the buffer begins at 64 bytes, in none if at 16 beyond
  device_put(may_alias=False), waited for: in all if the buffer begins at 64 bytes, in none if at 16 beyond
  jnp.array(copy=True): in none if the buffer begins at 64 bytes, in some if at 16 beyond
  jnp.array(copy=True), waited for: in none if the buffer begins at 64 bytes, in none if at 16 beyond
  jnp.array(copy=True), 100 numbers: in none if the buffer begins at 64 bytes, in none if at 16 beyond
  rows.copy() first: in none if the buffer begins at 64 bytes, in none if at 16 beyond
  a jitted function of the buffer: in some
SEEN
