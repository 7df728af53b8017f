#!/usr/bin/env bash
# keras 3.15.1 (on torch 2.13.0): CosineDecay(0.02, decay_steps=100) with gradient_accumulation_steps=8 is at zero after 13 of 100 updates.
#
# A batch of 64, or batches of 8 of which eight make an update: `optimizer.iterations` counts updates in both and says 100 at the end, and clipping and
# weight decay act once in an update. The schedule's page speaks of the optimizer's step. So the schedule that was made for 100 updates of
# whole batches is taken over, and `optimizer.learning_rate`, printed as training ends, is what it should be: 0.
#
# The schedule is asked with another counter than `iterations`: the one of small batches. It runs eight times as fast. Warm-up is over after an eighth of
# its updates, the cosine is at its end after an eighth of the run, and seven eighths of the run are spent at a rate of 0: the loss stands still, which looks
# like convergence. With restarts there are eight times as many of them. A rate that is a number is not concerned, nor is a
# LearningRateScheduler callback, which counts epochs. No message. Way out: decay_steps (warmup_steps, boundaries) times eight.
# (The average of weights counts small batches as well: see micro_batches_that_an_average_counts.sh. That one is lost memory, this one is lost training.)
#
# Output seen (CPU, x86_64, Python 3.11), least squares of 100 updates of 64 rows; loss at the end over that of the first weights
#   whole batches, cosine over 100: under 0.05; iterations 100, learning_rate 0, weights moved last at an update over 90
#   cut in eight, cosine over 100: over 0.2; iterations 100, learning_rate 0, weights moved last at an update under 15
#   cut in eight, cosine over 800: under 0.05; iterations 100, learning_rate 0, weights moved last at an update over 90
#   whole batches, rate 0.02: under 0.05; iterations 100, learning_rate 0.02, weights moved last at an update over 90
#   cut in eight, rate 0.02: under 0.05; iterations 100, learning_rate 0.02, weights moved last at an update over 90
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 keras==3.15.1 numpy==2.4.6 2> /dev/null
cat > "$work/finding.py" <<'PY'
import os

os.environ["KERAS_BACKEND"] = "torch"
import keras
import numpy as np

generator = np.random.default_rng(0)
x = generator.normal(size=(6400, 8)).astype("float32")
y = x @ np.array([1, -2, 3, -4, 5, -6, 7, -8], "float32")[:, None]


def train(cuts, rate):
    """Loss over that of the first weights, updates counted, the rate's last value, and the update at which weights moved last."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(rate, gradient_accumulation_steps=cuts if cuts > 1 else None)
    model.compile(optimizer, "mse")
    first, moved = model.evaluate(x, y, verbose=0), []

    def look(batch, logs):
        moved.append(model.get_weights()[0].copy())

    model.fit(x, y, batch_size=64 // cuts, shuffle=False, verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=look)])
    last = max(i for i in range(1, len(moved)) if not np.array_equal(moved[i], moved[i - 1])) + 1
    return model.evaluate(x, y, verbose=0) / first, int(optimizer.iterations), float(optimizer.learning_rate), last / cuts


def say(name, cuts, rate):
    loss, updates, now, last = train(cuts, rate)
    print(f"{name}: {'under 0.05' if loss < 0.05 else 'over 0.2' if loss > 0.2 else f'{loss:.3f}'};",
          f"iterations {updates}, learning_rate {now:g}, weights moved last at an update", "under 15" if last < 15 else "over 90" if last > 90 else last)


def cosine(steps):
    return keras.optimizers.schedules.CosineDecay(0.02, steps)


say("whole batches, cosine over 100", 1, cosine(100))
say("cut in eight, cosine over 100", 8, cosine(100))
say("cut in eight, cosine over 800", 8, cosine(800))
say("whole batches, rate 0.02", 1, 0.02)
say("cut in eight, rate 0.02", 8, 0.02)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
whole batches, cosine over 100: under 0.05; iterations 100, learning_rate 0, weights moved last at an update over 90
cut in eight, cosine over 100: over 0.2; iterations 100, learning_rate 0, weights moved last at an update under 15
cut in eight, cosine over 800: under 0.05; iterations 100, learning_rate 0, weights moved last at an update over 90
whole batches, rate 0.02: under 0.05; iterations 100, learning_rate 0.02, weights moved last at an update over 90
cut in eight, rate 0.02: under 0.05; iterations 100, learning_rate 0.02, weights moved last at an update over 90
SEEN
