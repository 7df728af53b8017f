#!/usr/bin/env bash
# orbax-checkpoint 0.12.8 (jax 0.10.2), CheckpointManager: after a return to step 100, no step is saved before the run is past the one it came back from.
#
#   the run       checkpoints at 100, 200, ... 500; at 520 the loss has run away. Back to the last good one, restore(100), with half the rate.
#   guess         save(200), save(300) replace what is there, or complain that it exists; anyway the next start goes on from the newest weights
#   found         `save` compares the step with the largest that it has. 110, 200, 500: nothing is written, nothing is printed, the call returns False,
#                 which a loop that saves each n steps does not look at (a step that is not due returns False as well).
#   so            all work from 100 to 500 is on no disk. A job that is killed at 490 starts again by latest_step(), the usual way: at 500, from
#                 the weights that had run away. It does not see the second run at all.
#   what says so  force=True writes step 150, and raises StepAlreadyExistsError for 200. Way out: manager.delete(step) for the later ones, or a new folder
#
# Output seen (CPU, x86_64, Python 3.11):
#   first run, steps 100 to 500: [True, True, True, True, True]
#   back to 100, weight 1.0
#   second run, steps 110, 200, 300, 500: [False, False, False, False]
#   a new start: latest step 500, weight 1e+09
#   force=True, step 150: True step 200: StepAlreadyExistsError
#   later steps deleted, step 200: True latest 200, weight 2.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 2> /dev/null
cat > "$work/rollback.py" <<'PY'
import logging
import sys

import jax.numpy as jnp
import orbax.checkpoint as ocp

logging.disable(logging.CRITICAL)


def opened():
    return ocp.CheckpointManager(f"{sys.argv[1]}/run")


def save(manager, step, weight, **options):
    """True or False as save() has it, or the name of its error."""
    try:
        said = manager.save(step, args=ocp.args.StandardSave({"weight": jnp.full(2, weight)}), **options)
    except ValueError as error:
        said = type(error).__name__
    manager.wait_until_finished()
    return said


def weight(manager, step):
    return float(manager.restore(step, args=ocp.args.StandardRestore({"weight": jnp.zeros(2)}))["weight"][0])


manager = opened()
print("first run, steps 100 to 500:", [save(manager, step, 1e9 if step > 100 else 1.0) for step in range(100, 600, 100)])
print(f"back to 100, weight {weight(manager, 100)}")
print("second run, steps 110, 200, 300, 500:", [save(manager, step, 2.0) for step in (110, 200, 300, 500)])
manager.close()
again = opened()
latest = again.latest_step()
print(f"a new start: latest step {latest}, weight {weight(again, latest):g}")
print("force=True, step 150:", save(again, 150, 2.0, force=True), "step 200:", save(again, 200, 2.0, force=True))
for step in [step for step in again.all_steps() if step > 100]:
    again.delete(step)
print("later steps deleted, step 200:", save(again, 200, 2.0), f"latest {again.latest_step()}, weight {weight(again, 200)}")
PY
JAX_PLATFORMS=cpu "$work/venv/bin/python" "$work/rollback.py" "$work" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
first run, steps 100 to 500: [True, True, True, True, True]
back to 100, weight 1.0
second run, steps 110, 200, 300, 500: [False, False, False, False]
a new start: latest step 500, weight 1e+09
force=True, step 150: True step 200: StepAlreadyExistsError
later steps deleted, step 200: True latest 200, weight 2.0
SEEN
