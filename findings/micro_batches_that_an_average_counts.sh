#!/usr/bin/env bash
# keras 3.15.1 (on torch 2.13.0): `use_ema=True` together with `gradient_accumulation_steps=8`. The average forgets eight times as fast.
#
# Batches of 32, or batches of 4 of which eight make an update: the same gradients, the same weights after each update. The optimizer's page says
# of EMA that its frequency looks at updates, not at small batches. So `ema_momentum=0.99` means a hundred updates either way, and
# a run that does not fit into memory can be cut into small batches and end with the same averaged model.
#
# The weights do agree. The average takes them in after every small batch, seven times out of eight the same weights once more: its
# momentum per update is 0.99^8 = 0.92, and its memory 12 updates where 100 were asked for. As `fit` ends, the average becomes the model's
# weights, so what is saved and deployed depends on how a batch was cut, and with eight cuts most of the averaging is gone. There is no
# message, and the losses of both runs are the same. `ema_momentum ** (1 / 8)` gives what was meant (at the first update the average
# is the weights themselves, in both).
#
# Output seen (CPU, x86_64, Python 3.11), 100 updates of SGD; distances of weights, as shares of the way that the weights went:
#   without EMA, cut in eight: same as whole
#   with EMA, whole batches: same as an average by hand
#   with EMA, cut in eight: off by 0.1 to 0.9
#   with EMA, cut in eight, momentum 0.99 ** (1 / 8): same as whole to 0.01
#   with EMA, cut in eight: same as an average by hand with momentum 0.99 ** 8
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check keras==3.15.1 2> /dev/null
cat > "$work/cut.py" <<'PY'
import os

os.environ["KERAS_BACKEND"] = "torch"
import keras
import numpy as np

draw = np.random.default_rng(0)
x = draw.normal(size=(3200, 5)).astype("float32")
y = x @ np.arange(1, 6, dtype="float32")[:, None]


def run(cuts, ema, momentum=0.99):
    """The weights that fit leaves after one epoch of 100 updates, and the weights after each update."""
    keras.utils.set_random_seed(0)
    layer = keras.layers.Dense(1, use_bias=False)
    model = keras.Sequential([keras.Input((5,)), layer])
    options = {"use_ema": True, "ema_momentum": momentum} if ema else {}
    optimizer = keras.optimizers.SGD(0.02, gradient_accumulation_steps=cuts if cuts > 1 else None, **options)
    model.compile(optimizer, "mse")
    weights = [layer.get_weights()[0].copy()]

    def note(batch, logs):
        if (batch + 1) % cuts == 0:
            weights.append(layer.get_weights()[0].copy())

    model.fit(x, y, batch_size=32 // cuts, shuffle=False, verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=note)])
    return layer.get_weights()[0], weights


def by_hand(weights, momentum):
    average = weights[1]
    for weight in weights[2:]:
        average = momentum * average + (1 - momentum) * weight
    return average


plain, weights = run(1, False)
way = np.linalg.norm(plain - weights[0])


def off(a, b):
    return float(np.linalg.norm(a - b) / way)


def same(share, bound=1e-4):
    return "same as" if share < bound else f"{share:.3f} off"


whole, cut = run(1, True)[0], run(8, True)[0]
print("without EMA, cut in eight:", same(off(run(8, False)[0], plain)), "whole")
print("with EMA, whole batches:", same(off(whole, by_hand(weights, 0.99))), "an average by hand")
share = off(cut, whole)
print("with EMA, cut in eight: off by", "0.1 to 0.9" if 0.1 < share < 0.9 else share)
print("with EMA, cut in eight, momentum 0.99 ** (1 / 8):", same(off(run(8, True, 0.99 ** (1 / 8))[0], whole), 0.01), "whole to 0.01")
print("with EMA, cut in eight:", same(off(cut, by_hand(weights, 0.99**8)), 0.01), "an average by hand with momentum 0.99 ** 8")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/cut.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
without EMA, cut in eight: same as whole
with EMA, whole batches: same as an average by hand
with EMA, cut in eight: off by 0.1 to 0.9
with EMA, cut in eight, momentum 0.99 ** (1 / 8): same as whole to 0.01
with EMA, cut in eight: same as an average by hand with momentum 0.99 ** 8
SEEN
