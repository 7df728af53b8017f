#!/usr/bin/env bash
# keras 3.15.1 (on torch 2.13.0): BackupAndRestore with ModelCheckpoint(save_best_only=True) and EarlyStopping. The restart throws the best model away.
#
#   wanted       a run that may be killed: fit again with the same callbacks, and what was killed in epoch 6 goes on at epoch 6, to the same end
#   guess        weights, optimizer and epoch come back, says the page of BackupAndRestore; what the other callbacks have seen comes back with them, or the
#                file of the best model, which lies on the disk with its score, is at least not replaced by a worse one
#   found        the run does go on at epoch 6, with weights and optimizer. The other callbacks begin at nothing: any score is better than none. The first epoch after
#                the restart replaces the best model on the disk by its own, however bad it is; and EarlyStopping counts its patience from there,
#                and restores, under restore_best_weights, the best of the epochs after the restart.
#   in numbers   the rate goes up at epoch 5 (a schedule, warm restarts, an unlucky epoch), and with it the loss. Uninterrupted: best.keras has the
#                loss of epoch 4, and so has the model that fit leaves. Killed at epoch 6 and fitted again: both have a loss a hundred times
#                larger, and the better file is gone. Nothing is printed. ReduceLROnPlateau forgets in the same way.
#   way out      ModelCheckpoint(..., initial_value_threshold=the best score so far), which one must have kept oneself; or a file name with {epoch}
#
# Output seen (CPU, x86_64, Python 3.11), loss over that of the uninterrupted run's best model:
#   uninterrupted: epochs 0 to 8, best on disk 1.0, model after fit 1.0
#   killed as epoch 6 begins: best on disk 1.0
#   fitted again: epochs 6 to 10, best on disk over 100, model after fit over 100
#   fitted again with initial_value_threshold: best on disk 1.0, model after fit over 100
#   weights as epoch 6 begins, killed and restored: those of the uninterrupted run True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check keras==3.15.1 2> /dev/null
cat > "$work/restart.py" <<'PY'
import os
import sys

os.environ["KERAS_BACKEND"] = "torch"
import keras
import numpy as np

draw = np.random.default_rng(0)
x = draw.normal(size=(64, 3)).astype("float32")
y = (x.sum(1, keepdims=True) + 0.1 * draw.normal(size=(64, 1))).astype("float32")


class Killed(Exception):
    pass


class Watch(keras.callbacks.Callback):
    """Notes the weights as epoch 6 begins, and may end the process's work there."""

    def __init__(self, kill):
        super().__init__()
        self.kill, self.weights = kill, None

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 6:
            self.weights = self.model.get_weights()
            if self.kill:
                raise Killed


def run(folder, kill=False, threshold=None):
    """Epochs that were run, loss of the model on the disk, loss of the model in memory, weights as epoch 6 began."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    watch, best = Watch(kill), f"{folder}/best.keras"
    callbacks = [
        keras.callbacks.BackupAndRestore(f"{folder}/backup"),
        keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 if epoch < 5 else 1.2),
        keras.callbacks.ModelCheckpoint(best, monitor="val_loss", save_best_only=True, initial_value_threshold=threshold),
        keras.callbacks.EarlyStopping(monitor="val_loss", patience=4, restore_best_weights=True),
        watch,
    ]
    epochs = []
    try:
        epochs = model.fit(x, y, validation_data=(x, y), epochs=12, batch_size=16, shuffle=False, verbose=0, callbacks=callbacks).epoch
    except Killed:
        pass
    kept = keras.models.load_model(best).evaluate(x, y, verbose=0)
    return epochs, kept, model.evaluate(x, y, verbose=0), watch.weights


def share(loss):
    return "over 100" if loss > 100 * lowest else f"{loss / lowest:.1f}"


epochs, lowest, last, begun = run(f"{sys.argv[1]}/whole")
print(f"uninterrupted: epochs {epochs[0]} to {epochs[-1]}, best on disk {share(lowest)}, model after fit {share(last)}")
_, kept, _, _ = run(f"{sys.argv[1]}/cut", kill=True)
print(f"killed as epoch 6 begins: best on disk {share(kept)}")
epochs, kept, last, again = run(f"{sys.argv[1]}/cut")
print(f"fitted again: epochs {epochs[0]} to {epochs[-1]}, best on disk {share(kept)}, model after fit {share(last)}")
_, score, _, _ = run(f"{sys.argv[1]}/told", kill=True)
_, kept, last, _ = run(f"{sys.argv[1]}/told", threshold=score)
print(f"fitted again with initial_value_threshold: best on disk {share(kept)}, model after fit {share(last)}")
same = all(np.allclose(a, b) for a, b in zip(begun, again, strict=True))
print("weights as epoch 6 begins, killed and restored: those of the uninterrupted run", same)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/restart.py" "$work" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
uninterrupted: epochs 0 to 8, best on disk 1.0, model after fit 1.0
killed as epoch 6 begins: best on disk 1.0
fitted again: epochs 6 to 10, best on disk over 100, model after fit over 100
fitted again with initial_value_threshold: best on disk 1.0, model after fit over 100
weights as epoch 6 begins, killed and restored: those of the uninterrupted run True
SEEN
