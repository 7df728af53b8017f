#!/usr/bin/env bash
# keras 3.15.1 (on torch 2.13.0): an optimizer with `use_ema=True`, and the callback EarlyStopping(restore_best_weights=True).
#
#   asked for      the average of the weights, which `fit` is said to put in the model's place when training ends, stopped where the score was best
#   one would get  the averaged weights as they were in the best epoch; or an error that the two do not go together
#   comes out      to the last bit, the model of the same call without use_ema
#
# Both act on the end of `fit`. First the optimizer overwrites the model's weights with the average. Then callbacks hear of the end,
# and EarlyStopping sets the weights of the best epoch, which it copied while the model held the plain ones; the average is kept nowhere that one would look.
# The scores by which the best epoch was found were those of plain weights as well. So the average is computed at each step and thrown
# away at the last line, on every way that a run can end: with patience used up or with all epochs done. Without the callback the
# average is there. SwapEMAWeights(swap_on_epoch=True) before EarlyStopping in the list makes it look at, and keep, averaged weights.
#
# Output seen (CPU, x86_64, Python 3.11), distance from the weights that the call without EMA leaves:
#   no callback, EMA: differs; is the average: True
#   EarlyStopping, stopped early in both: True; EMA: same bits; is the average: False
#   EarlyStopping, all epochs done in both: True; EMA: same bits; is the average: False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check keras==3.15.1 2> /dev/null
cat > "$work/best.py" <<'PY'
import os

os.environ["KERAS_BACKEND"] = "torch"
import keras
import numpy as np

draw = np.random.default_rng(0)
x, seen = draw.normal(size=(2, 128, 5)).astype("float32")
goal = np.arange(1, 6, dtype="float32")[:, None]
y, right = x @ goal + draw.normal(size=(128, 1)).astype("float32"), seen @ goal
EPOCHS = 8


def run(ema, stop, backwards=False):
    """What fit leaves, the optimizer's average, and how many epochs there were; backwards: scores on labels that get worse."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1, use_bias=False)])
    optimizer = keras.optimizers.SGD(0.01, **({"use_ema": True, "ema_momentum": 0.9} if ema else {}))
    model.compile(optimizer, "mse")
    callbacks = [keras.callbacks.EarlyStopping(monitor="val_loss", patience=2, restore_best_weights=True)] if stop else []
    held = (seen, -right if backwards else right)
    history = model.fit(x, y, batch_size=16, epochs=EPOCHS, shuffle=False, verbose=0, validation_data=held, callbacks=callbacks)
    average = keras.ops.convert_to_numpy(optimizer._model_variables_moving_average[0]) if ema else None
    return model.get_weights()[0], average, len(history.history["loss"])


def compared(words, stop, backwards=False):
    plain, _, epochs = run(False, stop, backwards)
    left, average, others = run(True, stop, backwards)
    bits = "same bits" if np.array_equal(plain, left) else "differs"
    ended = f", {words} in both: {epochs == others and (epochs < EPOCHS) == backwards}; EMA" if stop else ", EMA"
    name = "EarlyStopping" if stop else "no callback"
    print(f"{name}{ended}: {bits}; is the average: {np.array_equal(left, average)}")


compared("", False)
compared("stopped early", True, backwards=True)
compared("all epochs done", True)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/best.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
no callback, EMA: differs; is the average: True
EarlyStopping, stopped early in both: True; EMA: same bits; is the average: False
EarlyStopping, all epochs done in both: True; EMA: same bits; is the average: False
SEEN
